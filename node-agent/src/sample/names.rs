//! Which pod a process belongs to: its container's id is in its cgroup, and the kubelet names the log of each container after
//! its pod. No right to read pods is needed.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Hexadecimal digits of a container's id.
const ID_DIGITS: usize = 64;

/// The id of a container.
pub type ContainerId = [u8; ID_DIGITS / 2];

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodName {
    /// Its Kubernetes namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// The names of the pods whose containers have a log.
#[derive(Debug)]
pub struct Names {
    logs: PathBuf,
    pods: HashMap<ContainerId, PodName>,
    /// Whether the folder has been read since it was last asked to be.
    is_fresh: bool,
}

impl Names {
    /// `logs` is the kubelet's `/var/log/containers`.
    pub fn new(logs: PathBuf) -> Self {
        Self { logs, pods: HashMap::new(), is_fresh: false }
    }

    /// From now on an unknown id is looked for in the folder, once.
    pub fn allow_reading(&mut self) {
        self.is_fresh = false;
    }

    /// The pod of the process with this `/proc/PID/cgroup`.
    pub fn of(&mut self, cgroup: &str) -> Option<PodName> {
        let id = container_id(cgroup)?;
        if !self.is_fresh && !self.pods.contains_key(&id) {
            self.is_fresh = true;
            // A host without a kubelet has no such folder: then nothing has a name.
            self.pods = list(&self.logs).unwrap_or_default();
        }
        self.pods.get(&id).cloned()
    }
}

fn list(logs: &Path) -> io::Result<HashMap<ContainerId, PodName>> {
    let names = std::fs::read_dir(logs)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.filter_map(|name| of_log(&name)).collect())
}

/// The last container's id in a `/proc/PID/cgroup`: of containers in a container, the innermost.
///
/// cgroup v2 has one line, v1 one for each controller. The id is a path component of its own, or has the runtime's name around
/// it (`cri-containerd-<id>.scope`). In a cgroup namespace of its own the path begins with `/../`.
pub fn container_id(cgroup: &str) -> Option<ContainerId> {
    cgroup.lines().find_map(|line| {
        let path = line.splitn(3, ':').nth(2)?;
        path.rsplit(|byte: char| !byte.is_ascii_hexdigit()).find_map(id)
    })
}

fn id(digits: &str) -> Option<ContainerId> {
    if digits.len() != ID_DIGITS {
        return None;
    }
    let mut id = ContainerId::default();
    for (byte, pair) in id.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(id)
}

/// `<pod>_<namespace>_<container>-<id>.log`: none of the names has an underscore.
pub fn of_log(file: &str) -> Option<(ContainerId, PodName)> {
    let (names, digits) = file.strip_suffix(".log")?.rsplit_once('-')?;
    let parts: Vec<&str> = names.split('_').collect();
    let [pod, namespace, container] = parts[..] else { return None };
    let pod = PodName { namespace: namespace.into(), name: pod.into() };
    if container.is_empty() || !pod.is_whole() { None } else { Some((id(digits)?, pod)) }
}

impl PodName {
    fn is_whole(&self) -> bool {
        !self.namespace.is_empty() && !self.name.is_empty()
    }
}

impl std::fmt::Display for PodName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A text is not the name of a pod.
#[derive(Debug, thiserror::Error)]
#[error("is no pod's name: write NAMESPACE/NAME, such as shop/web-1")]
pub struct NotAPodName;

impl FromStr for PodName {
    type Err = NotAPodName;

    fn from_str(text: &str) -> Result<Self, NotAPodName> {
        let (namespace, name) = text.split_once('/').ok_or(NotAPodName)?;
        let pod = Self { namespace: namespace.into(), name: name.into() };
        if pod.is_whole() && !name.contains('/') { Ok(pod) } else { Err(NotAPodName) }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const DIGITS: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    const OTHER: &str = "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210";

    #[test]
    fn a_container_is_known_by_its_cgroup_whatever_made_it() {
        let pod = "kubepods-burstable-pod5c6f1b2e_8d1c_4e0a_9b4e_3f6f0e1d2c3b.slice";
        for cgroup in [
            format!("0::/kubepods.slice/{pod}/cri-containerd-{DIGITS}.scope\n"),
            format!("0::/kubepods.slice/{pod}/crio-{DIGITS}.scope\n"),
            format!("0::/system.slice/docker-{DIGITS}.scope\n"),
            format!("0::/kubepods/besteffort/pod5c6f1b2e-8d1c-4e0a-9b4e-3f6f0e1d2c3b/{DIGITS}\n"),
            format!("0::/../{pod}/cri-containerd-{DIGITS}.scope\n"),
            format!("0::/../../k8s.io/{DIGITS}\n"),
            format!(
                "12:cpu,cpuacct:/kubepods/burstable/pod1/{DIGITS}\n1:name=systemd:/kubepods/burstable/pod1/{DIGITS}\n0::/\n"
            ),
            format!("4:memory:/\n3:pids:/docker/{DIGITS}\n"),
            format!("0::/kubepods/pod1/{DIGITS}/init.scope\n"),
            format!("0::/docker/{OTHER}/kubelet/kubepods/pod1/{DIGITS}\n"),
        ] {
            assert_eq!(container_id(&cgroup), id(DIGITS), "{cgroup}");
        }
    }

    #[test]
    fn a_process_outside_containers_has_no_id() {
        for cgroup in [
            "",
            "0::/\n",
            "0::/init.scope\n",
            "0::/user.slice/user-1000.slice\n",
            &format!("0::/a{DIGITS}\n"),
            DIGITS,
        ] {
            assert_eq!(container_id(cgroup), None, "{cgroup}");
        }
    }

    #[test]
    fn the_log_of_a_container_names_its_pod() {
        let pod = PodName { namespace: "shop".into(), name: "web-7d9-x2".into() };
        let id = id(DIGITS).unwrap();
        assert_eq!(of_log(&format!("web-7d9-x2_shop_side-car-{DIGITS}.log")), Some((id, pod)));
        for file in ["", ".log", "a_b_c.log", &format!("a_b-{DIGITS}.log"), &format!("a_b_c_d-{DIGITS}.log")]
        {
            assert_eq!(of_log(file), None, "{file}");
        }
    }

    #[test]
    fn the_folder_is_read_once_for_many_unknown_ids() {
        let logs = tempfile::tempdir().unwrap();
        let [ours, pause] = [DIGITS, OTHER].map(|digits| format!("0::/../{digits}\n"));
        let mut names = Names::new(logs.path().into());
        assert_eq!(names.of(&pause), None, "the pause container has no log");
        fs::write(logs.path().join(format!("web-1_shop_nginx-{DIGITS}.log")), "").unwrap();
        assert_eq!(names.of(&ours), None, "the folder has been read");
        names.allow_reading();
        assert_eq!(names.of(&ours).map(|pod| pod.to_string()), Some("shop/web-1".into()));
    }

    #[test]
    fn a_pod_is_named_with_its_namespace() {
        assert!("shop/web-1".parse::<PodName>().is_ok());
        for text in ["", "web-1", "/web-1", "shop/", "a/b/c"] {
            assert!(text.parse::<PodName>().is_err(), "{text}");
        }
    }
}
