mod hostile;

use std::fs;
use std::path::{Path, PathBuf};

use tcp_close::Sysctl;

use super::*;
use crate::tuning::PERCENTAGE;

const TUNING: &str = "\
apiVersion: tcpclose.dev/v1alpha1
kind: TcpCloseTuning
metadata:
  name: web
spec:
  nodeSelector:
    matchLabels:
      kubernetes.io/os: linux
  mode: Enforce
  sysctls:
    tcpFinTimeoutSeconds: 30
";

/// The tuning with one of its lines replaced.
fn with(line: &str, replacement: &str) -> String {
    assert!(TUNING.contains(line), "{line}");
    TUNING.replace(line, replacement)
}

fn with_sysctls(lines: &str) -> String {
    with("    tcpFinTimeoutSeconds: 30\n", lines)
}

fn problems(text: &str) -> Vec<String> {
    let problems = read("web.yaml", text).map_or_else(|problems| problems, |_| Vec::new());
    problems.iter().map(ToString::to_string).collect()
}

fn examples() -> Vec<(PathBuf, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let entries = [folder.join("refused"), folder].map(|folder| fs::read_dir(folder).unwrap());
    let paths = entries.into_iter().flatten().map(|entry| entry.unwrap().path());
    paths
        .filter(|path| path.is_file())
        .map(|path| (path.clone(), fs::read_to_string(path).unwrap()))
        .collect()
}

#[test]
fn every_example_is_read_and_each_sysctl_is_found_in_its_line() {
    let examples = examples();
    assert!(examples.len() >= 4);
    for (path, text) in examples {
        let manifest =
            read("example", &text).unwrap_or_else(|problems| panic!("{}: {problems:#?}", path.display()));
        let [tuning] = &manifest.tunings[..] else { panic!("{}: one tuning expected", path.display()) };
        for (sysctl, value) in tuning.object.spec.sysctls.values() {
            let written = format!("    {}: {value}", sysctl.field());
            let line = text.lines().position(|line| line == written).unwrap() + 1;
            let at = tuning.at(&format!("spec.sysctls.{}", sysctl.field()));
            assert_eq!(at, Position { line, column: 5 }, "{}: {sysctl}", path.display());
        }
    }
}

#[test]
fn what_is_not_written_is_placed_where_it_should_be() {
    let manifest = read("web.yaml", TUNING).unwrap();
    let tuning = &manifest.tunings[0];
    for (field, line, column) in [
        ("", 1, 1),
        ("metadata.name", 4, 3),
        ("spec.nodeSelector.matchLabels[kubernetes.io/os]", 8, 7),
        ("spec.nodeSelector.matchLabels[example.org/pool]", 7, 5),
        ("spec.safety.clientsBehindNat", 5, 1),
    ] {
        assert_eq!(tuning.at(field), Position { line, column }, "{field}");
    }
    assert_eq!(
        tuning.problem("spec.sysctls.tcpTwRecycle", "needs a word on NAT".into()).to_string(),
        "web.yaml:10:3: spec.sysctls.tcpTwRecycle: needs a word on NAT"
    );
}

#[test]
fn a_rollout_is_read_and_what_is_wrong_in_it_is_told_in_its_line() {
    let rollout = |lines: &str| format!("{TUNING}  maxFailedNodes: 5%\n  rollout:\n{lines}");
    let good = "    canary:\n      nodes: 2\n      nodeSelector:\n        matchLabels:\n          pool: canary\n    \
                maxConcurrent: 10%\n    soakSeconds: 300\n    gate:\n      whenInconclusive: Proceed\n";
    let manifest = read("web.yaml", &rollout(good)).unwrap();
    let spec = &manifest.tunings[0].object.spec;
    assert_eq!(spec.max_failed_nodes(40), 2);
    assert_eq!(spec.rollout.as_ref().unwrap().soak_seconds, Some(300));
    let number = "must be an integer (1 to 1000000) or a percentage such as 10%";
    for (line, column, lines, problem) in [
        (14, 5, "    maxConcurrent: 0\n", format!("maxConcurrent: {number}; 0 is not")),
        (14, 5, "    maxConcurrent: 101%\n", format!("maxConcurrent: {number}; \"101%\" is text")),
        (14, 5, "    maxConcurrent: 10 %\n", format!("maxConcurrent: {number}; \"10 %\" is text")),
        (
            14,
            5,
            "    maxConcurrent: 010\n",
            format!(
                "maxConcurrent: {number}; 010 is not plain decimal, and kubectl would read it as the number 8"
            ),
        ),
        (14, 5, "    soakseconds: 5\n", "soakseconds: is no field: did you mean soakSeconds?".into()),
        (
            15,
            7,
            "    canary:\n      nodeSelector: {}\n",
            format!("canary.nodeSelector: {}", NodeSelector::EMPTY),
        ),
        (
            15,
            7,
            "    canary:\n      nodes: 11\n",
            "canary.nodes: must be an integer (1 to 10); 11 is not".into(),
        ),
    ] {
        let told = format!("web.yaml:{line}:{column}: spec.rollout.{problem}");
        assert_eq!(problems(&rollout(lines)), [told], "{lines}");
    }
}

#[test]
fn integers_that_kubectl_would_change_are_refused_with_what_it_would_send() {
    let found = [
        ("0x1F", "0x1F is not plain decimal, and kubectl would read it as the number 31"),
        ("010", "010 is not plain decimal, and kubectl would read it as the number 8"),
        ("0o17", "0o17 is not plain decimal, and kubectl would read it as the number 15"),
        ("0b1", "0b1 is not plain decimal, and kubectl would read it as the number 1"),
        ("1e2", "1e2 is not plain decimal, and kubectl would read it as the number 100"),
        ("1_000", "1_000 is not plain decimal, and kubectl would read it as the number 1000"),
        ("+5", "+5 is not plain decimal, and kubectl would read it as the number 5"),
        ("60.0", "60.0 is not plain decimal, and kubectl would read it as the number 60"),
        (".inf", ".inf is not plain decimal, and kubectl would read it as what JSON cannot hold"),
        ("1:30", "\"1:30\" is text"),
        ("\"60\"", "\"60\" is text: remove the quotes"),
        ("'60'", "\"60\" is text: remove the quotes"),
        ("sixty", "\"sixty\" is text"),
        ("yes", "kubectl would read yes as the boolean true"),
        ("~", "null is no value"),
        ("", "null is no value"),
        ("null", "null is no value"),
        ("[60]", "this is a list"),
        ("{seconds: 60}", "this is an object with fields"),
        ("0", "0 is not"),
        ("-1", "-1 is not"),
        ("2147484", "2147484 is not"),
        ("99999999999999999999", "99999999999999999999 is not"),
        (&"9".repeat(400), &format!("{}… is not", "9".repeat(64))),
    ];
    for (value, found) in found {
        let text = with_sysctls(&format!("    tcpFinTimeoutSeconds: {value}\n"));
        let problem = format!(
            "web.yaml:11:5: spec.sysctls.tcpFinTimeoutSeconds: must be an integer (1 to 2147483); {found}"
        );
        assert_eq!(problems(&text), [problem], "{value}");
    }
}

#[test]
fn bounds_are_the_catalogues() {
    for sysctl in Sysctl::ALL {
        let (field, bounds) = (sysctl.field(), sysctl.facts().orderable);
        let (start, end) = (bounds.start(), bounds.end());
        for value in [start - 1, end + 1] {
            assert_eq!(
                problems(&with_sysctls(&format!("    {field}: {value}\n"))),
                [format!(
                    "web.yaml:11:5: spec.sysctls.{field}: must be an integer ({start} to {end}); {value} is not"
                )]
            );
        }
        for value in [start, end] {
            assert!(
                read("web.yaml", &with_sysctls(&format!("    {field}: {value}\n"))).is_ok(),
                "{field} {value}"
            );
        }
    }
}

#[test]
fn names_of_the_kernel_lead_to_the_field() {
    for sysctl in Sysctl::ALL {
        for name in [sysctl.name(), sysctl.file()] {
            let [problem] = &problems(&with_sysctls(&format!("    {name}: 1\n")))[..] else {
                panic!("{name}")
            };
            let end = format!(": is no field: did you mean {}?", sysctl.field());
            assert!(problem.ends_with(&end), "{problem}");
        }
    }
}

#[test]
fn misspelt_fields_are_refused_with_the_nearest_one() {
    for (line, replacement, expected) in [
        (
            "    tcpFinTimeoutSeconds: 30",
            "    tcpFinTimeout: 30",
            "11:5: spec.sysctls.tcpFinTimeout: is no field: did you mean tcpFinTimeoutSeconds?",
        ),
        (
            "    tcpFinTimeoutSeconds: 30",
            "    net.ipv4.tcp_fin_timeout: 30",
            "11:5: spec.sysctls[net.ipv4.tcp_fin_timeout]: is no field: did you mean tcpFinTimeoutSeconds?",
        ),
        (
            "  mode: Enforce",
            "  mode: Enforce\n  prioritiy: 5",
            "10:3: spec.prioritiy: is no field: did you mean priority?",
        ),
        ("  name: web", "  name: web\nstatsu: {}", "5:1: statsu: is no field: did you mean status?"),
        (
            "    matchLabels:",
            "    <<: {a: b}\n    matchLabels:",
            "7:5: spec.nodeSelector[<<]: merge keys are not read: write the fields out",
        ),
    ] {
        assert_eq!(problems(&with(line, replacement)), [format!("web.yaml:{expected}")]);
    }
    assert_eq!(
        problems(&with("    matchLabels:\n", "    colour: red\n    matchLabels:\n")),
        ["web.yaml:7:5: spec.nodeSelector.colour: is no field; allowed here: matchExpressions, matchLabels"]
    );
}

#[test]
fn everything_that_is_wrong_is_told_at_once_and_in_the_order_of_the_file() {
    let text = "\
apiVersion: tcpclose.dev/v1alpha1
kind: TcpCloseTuning
metadata:
  name: Web_1
spec:
  mode: enforce
  priority: 1001
  sysctls:
    tcpTimestamps: 0x1
    tcpTimestamps: 1
    tcpTwRecycl: 1
";
    assert_eq!(
        problems(text),
        [
            "web.yaml:4:3: metadata.name: must be a DNS name: lower case letters, digits, '-' and '.', and a letter or \
             digit at both ends of each part",
            "web.yaml:5:1: spec.nodeSelector: is missing and required. The nodes it is for, by their labels; it must not \
             be empty. Only Linux nodes are ever matched. For all of them: `matchLabels: {kubernetes.io/os: linux}`.",
            "web.yaml:6:3: spec.mode: must be one of Enforce, Observe; \"enforce\" is not",
            "web.yaml:7:3: spec.priority: must be an integer (-1000 to 1000); 1001 is not",
            "web.yaml:9:5: spec.sysctls.tcpTimestamps: must be an integer (0 to 2); 0x1 is not plain decimal, and \
             kubectl would read it as the number 1",
            "web.yaml:10:5: spec.sysctls.tcpTimestamps: is there twice: it is also in line 9",
            "web.yaml:11:5: spec.sysctls.tcpTwRecycl: is no field: did you mean tcpTwRecycle?",
        ]
    );
}

#[test]
fn required_fields_are_told_with_what_they_are_for() {
    let text =
        "apiVersion: tcpclose.dev/v1alpha1\nkind: TcpCloseTuning\nmetadata: {}\nspec:\n  sysctls: {}\n";
    let starts = [
        "web.yaml:3:1: metadata.name: is missing and required. The name of the tuning.",
        "web.yaml:4:1: spec.mode: is missing and required. Enforce writes the sysctls. Observe reports",
        "web.yaml:4:1: spec.nodeSelector: is missing and required. The nodes it is for, by their labels;",
        "web.yaml:5:3: spec.sysctls: has 0 fields; allowed is at least 1 of tcpFinTimeoutSeconds, tcpMaxOrphans, ",
    ];
    let problems = problems(text);
    assert_eq!(problems.len(), starts.len(), "{problems:#?}");
    for (problem, start) in problems.iter().zip(starts) {
        assert!(problem.starts_with(start), "{problem}");
    }
    assert_eq!(
        self::problems("apiVersion: tcpclose.dev/v1alpha1\nkind: TcpCloseTuning\nmetadata: {name: web}\n"),
        [
            "web.yaml:1:1: spec: is missing and required. Says how a set of nodes shall close TCP connections: which \
             nodes, and which sysctls. What is absent is not touched."
        ]
    );
}

#[test]
fn a_selector_that_is_empty_or_a_pods_is_refused_in_the_definitions_words() {
    let labels = "    matchLabels:\n      kubernetes.io/os: linux\n";
    let empty = format!("web.yaml:6:3: spec.nodeSelector: {}", NodeSelector::EMPTY);
    assert_eq!(problems(&with(&format!("nodeSelector:\n{labels}"), "nodeSelector: {}\n")), [empty.as_str()]);
    assert_eq!(problems(&with(labels, "    matchLabels: {}\n")), [empty.as_str()]);
    assert_eq!(
        problems(&with(labels, "    kubernetes.io/os: linux\n")),
        [
            empty.as_str(),
            "web.yaml:7:5: spec.nodeSelector[kubernetes.io/os]: is no field; allowed here: matchExpressions, matchLabels"
        ]
    );
}

#[test]
fn operators_and_values_must_suit_each_other() {
    let labels = "    matchLabels:\n      kubernetes.io/os: linux\n";
    let expression = |rest: &str| with(labels, &format!("    matchExpressions:\n    - key: pool\n{rest}"));
    for rest in ["      operator: In\n", "      operator: Exists\n      values: [web]\n"] {
        let [problem] = &problems(&expression(rest))[..] else { panic!("{rest}") };
        let end =
            format!("spec.nodeSelector.matchExpressions[0].values: {}", NodeSelectorRequirement::VALUES);
        assert!(problem.ends_with(&end), "{problem}");
    }
    for rest in ["      operator: NotIn\n      values: [web]\n", "      operator: DoesNotExist\n"] {
        assert_eq!(problems(&expression(rest)), [""; 0]);
    }
    assert_eq!(
        problems(&expression("      operator: Is\n")),
        ["web.yaml:9:7: spec.nodeSelector.matchExpressions[0].operator: must be one of In, NotIn, Exists, \
             DoesNotExist; \"Is\" is not"]
    );
}

#[test]
fn labels_are_text_and_bounded() {
    let label = |label: &str| with("      kubernetes.io/os: linux", &format!("      {label}"));
    for (text, expected) in [
        (
            "pool: yes",
            "matchLabels.pool: must be text; kubectl would read yes as the boolean true: put it in quotes",
        ),
        (
            "pool: 010",
            "matchLabels.pool: must be text; kubectl would read 010 as the number 8: put it in quotes",
        ),
        ("pool:", "matchLabels.pool: must be text; null is no value"),
        ("on: x", "matchLabels.on: kubectl would read this name as the boolean true: put it in quotes"),
        ("pool: !!str 1", "matchLabels.pool: tags are not read: remove !!str"),
    ] {
        assert_eq!(problems(&label(text)), [format!("web.yaml:8:7: spec.nodeSelector.{expected}")]);
    }
    assert_eq!(
        problems(&label(&format!("pool: {}", "a".repeat(64)))),
        ["web.yaml:8:7: spec.nodeSelector.matchLabels.pool: has 64 characters; allowed is at most 63"]
    );
    let many: Vec<_> = (0..33).map(|n| format!("      pool{n}: web\n")).collect();
    assert_eq!(
        problems(&with("      kubernetes.io/os: linux\n", &many.concat())),
        ["web.yaml:7:5: spec.nodeSelector.matchLabels: has 33 fields; allowed is at most 32"]
    );
}

#[test]
fn a_file_may_hold_several_documents_lists_and_objects_of_others() {
    let text = format!(
        "# A comment only.\n---\n{TUNING}---\n---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: shop}}\n\
         ---\napiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: ConfigMap\n- {}\n",
        TUNING.replace("name: web", "name: second").trim_end().replace('\n', "\n  ")
    );
    let manifest = read("all.yaml", &text).unwrap();
    let names: Vec<_> =
        manifest.tunings.iter().map(|tuning| tuning.object.metadata.name.as_deref()).collect();
    assert_eq!(names, [Some("web"), Some("second")]);
    assert_eq!(manifest.tunings[1].at("spec.mode"), Position { line: 33, column: 5 });
    let skipped: Vec<_> = manifest.skipped.iter().map(ToString::to_string).collect();
    assert_eq!(skipped, ["apps/v1 Deployment shop", "v1 ConfigMap"]);
}

#[test]
fn json_is_read_as_well() {
    let text = r#"{
	"apiVersion": "tcpclose.dev/v1alpha1", "kind": "TcpCloseTuning", "metadata": {"name": "web", "labels": {"a": "b"}},
	"spec": {"nodeSelector": {"matchLabels": {"kubernetes.io\/os": "linux"}}, "mode": "Observe",
		"sysctls": {"tcpFinTimeoutSeconds": 30}}
}"#;
    let manifest = read("web.json", text).unwrap();
    let tuning = &manifest.tunings[0];
    assert_eq!(tuning.object.spec.sysctls.tcp_fin_timeout_seconds, Some(30));
    assert!(tuning.object.spec.node_selector.match_labels.contains_key("kubernetes.io/os"));
    assert_eq!(tuning.at("spec.sysctls.tcpFinTimeoutSeconds"), Position { line: 4, column: 15 });
}

#[test]
fn line_ends_of_windows_and_a_byte_order_mark_change_nothing() {
    let text = format!("\u{feff}{}", TUNING.replace('\n', "\r\n"));
    let manifest = read("web.yaml", &text).unwrap();
    assert_eq!(manifest.tunings[0].object.metadata.name.as_deref(), Some("web"));
    assert_eq!(manifest.tunings[0].at("spec.mode"), Position { line: 9, column: 3 });
}

#[test]
fn objects_that_a_cluster_has_stored_are_read_without_their_status() {
    let stored = "  name: web\n  uid: 6f6c\n  creationTimestamp: 2026-01-01T00:00:00Z\n  generation: 1\n";
    let text = format!("{}status:\n  observedGeneration: 1\n", with("  name: web\n", stored));
    let manifest = read("web.yaml", &text).unwrap();
    assert_eq!(manifest.tunings[0].object.status, None);
}

#[test]
fn objects_that_are_nearly_ours_are_not_skipped() {
    let hint = "For a tuning: apiVersion: tcpclose.dev/v1alpha1, kind: TcpCloseTuning";
    for (line, replacement, expected) in [
        (
            "tcpclose.dev/v1alpha1",
            "tcpclose.dev/v1",
            format!("1:1: apiVersion: \"tcpclose.dev/v1\" is not known. {hint}"),
        ),
        (
            "tcpclose.dev/v1alpha1",
            "tcpclose.io/v1alpha1",
            format!("1:1: apiVersion: \"tcpclose.io/v1alpha1\" is not known. {hint}"),
        ),
        (
            "kind: TcpCloseTuning",
            "kind: TcpCloseTunning",
            format!("2:1: kind: \"TcpCloseTunning\" is not known. {hint}"),
        ),
        (
            "kind: TcpCloseTuning",
            "kind: TcpCloseNode",
            "2:1: kind: TcpCloseNode is written by the operator and the agents, never by people".into(),
        ),
        (
            "kind: TcpCloseTuning\n",
            "",
            format!("1:1: is no object of Kubernetes: apiVersion or kind is missing. {hint}"),
        ),
    ] {
        assert_eq!(problems(&with(line, replacement)), [format!("web.yaml:{expected}")]);
    }
}

#[test]
fn fields_of_every_shape_are_held_against_their_schema() {
    let schema = json!({ "type": "object", "properties": {
        "paused": { "type": "boolean" },
        "share": { "x-kubernetes-int-or-string": true },
        "names": { "type": "array", "minItems": 1, "items": { "type": "string" }, "x-kubernetes-list-type": "set" },
    }});
    for (text, expected) in [
        ("{paused: true, share: 10%, names: [a, b]}", ""),
        ("{share: 10}", ""),
        ("{paused: yes}", "paused: must be true or false; kubectl would read yes as the boolean true"),
        ("{paused: 'true'}", "paused: must be true or false; \"true\" is text"),
        (
            "{share: 010}",
            "share: must be an integer or a percentage such as 10%; 010 is not plain decimal, and kubectl would read it as the number 8",
        ),
        ("{names: []}", "names: has 0 items; allowed is at least 1"),
        ("{names: [a, b, a]}", "names[2]: is in the list twice"),
        ("{names: a}", "names: must be a list; \"a\" is text"),
    ] {
        let node = tree::documents(text).remove(0).unwrap();
        let mut check = Check::new(node.at);
        check.value("", &node, &schema);
        let told: Vec<_> =
            check.faults.iter().map(|fault| format!("{}: {}", fault.field, fault.message)).collect();
        assert_eq!(told.join("\n"), expected, "{text}");
    }
}

#[test]
fn every_keyword_of_the_schema_is_one_that_the_reader_knows() {
    /// Checked, or (from `description`) of no meaning for what people write. Cross-field rules are the caller's.
    const KNOWN: [&str; 23] = [
        "additionalProperties",
        "anyOf",
        "enum",
        "items",
        "maxItems",
        "maxLength",
        "maxProperties",
        "maximum",
        "minItems",
        "minLength",
        "minProperties",
        "minimum",
        "pattern",
        "properties",
        "required",
        "type",
        "x-kubernetes-int-or-string",
        "x-kubernetes-list-type",
        "x-kubernetes-preserve-unknown-fields",
        "description",
        "format",
        "title",
        "x-kubernetes-validations",
    ];
    fn walk(schema: &Value, unknown: &mut Vec<String>) {
        let Some(keywords) = schema.as_object() else { return };
        assert!(schema["pattern"].is_null() || schema["pattern"] == PERCENTAGE, "{schema}");
        unknown.extend(keywords.keys().filter(|keyword| !KNOWN.contains(&keyword.as_str())).cloned());
        let properties = schema["properties"].as_object().into_iter().flatten().map(|(_, schema)| schema);
        properties
            .chain([&schema["items"], &schema["additionalProperties"]])
            .for_each(|schema| walk(schema, unknown));
    }
    let mut unknown = Vec::new();
    walk(&schema().unwrap(), &mut unknown);
    assert_eq!(unknown, [""; 0]);
}
