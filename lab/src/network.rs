//! The addresses of a lab, the same in every lab: each lives in network namespaces of its own.

/// The record of the process that holds the control plane's network namespace.
pub(crate) const HOLDER: &str = "network";
/// The bridge that joins the nodes, seen from them the router to everything else.
pub(crate) const GATEWAY: &str = "10.90.0.1";
/// A bridge without a MAC address of its own takes one of its ports', and changes it when a node comes or goes: the others
/// would send to the old one until their ARP entries age, most of a minute.
const BRIDGE_MAC: &str = "02:00:0a:5a:00:01";
/// The addresses of Services.
pub(crate) const SERVICES: &str = "10.96.0.0/16";
/// The address of the `kubernetes` Service, the first of [`SERVICES`].
pub(crate) const API_ADDRESS: &str = "10.96.0.1";
/// The port of the `kubernetes` Service.
pub(crate) const API_PORT: u16 = 443;
/// Addresses end in one byte, of which the first ten are left to the lab.
pub(crate) const NODES_MAX: u8 = 200;

/// The address of a node, counted from 1.
pub(crate) fn node_address(index: u8) -> String {
    format!("10.90.0.{}", u16::from(index) + 10)
}

/// Where clients inside the lab find the API server.
pub(crate) fn api_url() -> String {
    format!("https://{API_ADDRESS}:{API_PORT}")
}

/// The addresses of the pods of a node.
pub(crate) fn pod_subnet(index: u8) -> String {
    format!("10.244.{index}.0/24")
}

/// `ip` commands that make the bridge.
pub(crate) fn bridge_batch() -> String {
    format!(
        "link set lo up\n\
         link add lab0 address {BRIDGE_MAC} type bridge\n\
         addr add {GATEWAY}/24 dev lab0\n\
         addr add {API_ADDRESS}/32 dev lab0\n\
         link set lab0 up\n"
    )
}

/// `ip` commands for the lab's side of a node whose first process has this pid.
pub(crate) fn join_batch(name: &str, index: u8, pid: u32) -> String {
    format!(
        "link add {name} type veth peer name eth0 netns {pid}\n\
         link set {name} master lab0 up\n\
         route replace {} via {}\n",
        pod_subnet(index),
        node_address(index)
    )
}

/// `ip` commands for the node's side.
pub(crate) fn node_batch(index: u8) -> String {
    format!(
        "link set lo up\n\
         addr add {}/24 dev eth0\n\
         link set eth0 up\n\
         route add default via {GATEWAY}\n",
        node_address(index)
    )
}
