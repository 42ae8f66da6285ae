{{/*
The name of everything in this chart. It does not follow the release's name: the CRDs and policies exist once in a
cluster, and a second release shall fail by name instead of fighting the first.
*/}}
{{- define "tcp-close-tuning.name" -}}
tcp-close-tuning
{{- end }}

{{/* Labels of every object. Takes a dict of root and, for a part of the whole, component. */}}
{{- define "tcp-close-tuning.labels" -}}
{{ include "tcp-close-tuning.selectorLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: {{ include "tcp-close-tuning.name" . }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{/* The labels that selectors use; they can never change. */}}
{{- define "tcp-close-tuning.selectorLabels" -}}
app.kubernetes.io/name: {{ include "tcp-close-tuning.name" . }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end }}

{{/* The reference of an image. Takes a dict of root and image. */}}
{{- define "tcp-close-tuning.image" -}}
{{- with .root.Values.imageRegistry }}{{ . }}/{{ end -}}
{{ .image.repository }}
{{- if .image.digest }}@{{ .image.digest }}{{ else }}:{{ .image.tag | default .root.Chart.AppVersion }}{{ end }}
{{- end }}

{{/* A ServiceAccount as the API server calls it. Takes a dict of root and component. */}}
{{- define "tcp-close-tuning.username" -}}
system:serviceaccount:{{ .root.Release.Namespace }}:{{ include "tcp-close-tuning.name" . }}-{{ .component }}
{{- end }}

{{/* With the container's, all that Pod Security `restricted` asks for. */}}
{{- define "tcp-close-tuning.restrictedPod" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}
{{- define "tcp-close-tuning.restrictedContainer" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* Where the operator's image runs. Takes the root. */}}
{{- define "tcp-close-tuning.operatorPlacement" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.operator.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.operator.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.operator.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.operator.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Annotations of what is there while an uninstall begins, and at no other time. */}}
{{- define "tcp-close-tuning.uninstallHook" -}}
helm.sh/hook: pre-delete
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded,hook-failed
{{- end }}
