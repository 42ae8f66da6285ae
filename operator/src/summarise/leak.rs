//! Which pod leaks: a program in it does not close what its peers have closed. No sysctl helps.

use crds::TcpCloseNodeStatus;
use crds::node::PodCounts;
use tcp_close::sockets::{State, two_digits};

/// A pod with fewer sockets in CLOSE_WAIT is not said to leak.
const LEAK_MIN: u64 = 100;

/// How many sockets in CLOSE_WAIT a pod leaks; `None` where that is not worth saying. Those that nobody has accepted yet wait
/// for the program, and are not its leak.
pub fn leaked(pod: &PodCounts) -> Option<u64> {
    let states = pod.states.as_ref()?;
    let leaked = states.close_wait.saturating_sub(states.unaccepted.unwrap_or_default());
    (leaked >= LEAK_MIN).then_some(leaked)
}

/// The pod of a node that leaks most: how many sockets, its namespace and its name.
pub(super) fn worst(report: &TcpCloseNodeStatus) -> Option<(u64, &str, &str)> {
    let named = report.pods.iter().flat_map(|pods| &pods.most);
    let named = named.filter_map(|pod| Some((leaked(pod)?, pod.namespace.as_deref()?, pod.name.as_deref()?)));
    named.max()
}

/// Names that pod.
pub(super) fn said(report: &TcpCloseNodeStatus) -> Option<String> {
    let (leaked, namespace, name) = worst(report)?;
    let (leaked, state) = (two_digits(leaked), State::CloseWait.name());
    Some(format!("pod {namespace}/{name} leaks {leaked} {state}: no sysctl helps"))
}
