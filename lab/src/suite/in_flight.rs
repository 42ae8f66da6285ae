//! How many nodes are on their way at once, seen from beside while something else goes wrong.

use crds::{TcpCloseNode, node::EntryAction};
use kube::{Api, api::ListParams};

use super::{Failure, Outcome, Suite, ensure};
use crate::{
    bench::client::{Inside, api},
    meanwhile::{Work, meanwhile},
};

/// So many looks at least.
const LOOKS: usize = 1000;

/// What was seen of nodes in flight.
#[derive(Default)]
struct Seen {
    looks: usize,
    with_one: usize,
    most: usize,
}

/// Looks at all nodes while something is done, and fails where more than one was in flight at a time, or none ever was.
pub(super) fn with_one_in_flight_at_most(suite: &Suite, work: impl FnOnce() -> Outcome) -> Outcome {
    let (seen, outcome) = meanwhile(|work| look(suite, work), work);
    outcome?;
    let Seen { looks, with_one, most } = seen?;
    println!("    {looks} looks, {with_one} of them while a node was in flight, at most {most} at once");
    ensure(looks >= LOOKS, || format!("only {looks} looks; {LOOKS} are few enough"))?;
    ensure(most == 1, || format!("{most} nodes were in flight; allowed is 1"))
}

fn look(suite: &Suite, work: &Work) -> Result<Seen, Failure> {
    let Inside { runtime, client } = Inside::enter(&suite.cluster)?;
    let nodes = Api::<TcpCloseNode>::all(client);
    let mut seen = Seen::default();
    while work.goes_on() {
        let listed =
            runtime.block_on(nodes.list(&ListParams::default())).map_err(api("list TcpCloseNodes"))?;
        let in_flight = listed.items.iter().filter(|node| is_in_flight(node)).count();
        seen.most = seen.most.max(in_flight);
        seen.with_one += usize::from(in_flight > 0);
        seen.looks += 1;
    }
    Ok(seen)
}

/// Ordered to set something, and not yet acknowledged with every sysctl read back. What is put back has a limit of its own.
fn is_in_flight(node: &TcpCloseNode) -> bool {
    let acknowledged = node.status.as_ref().map(|status| status.observed_generation);
    acknowledged < node.metadata.generation
        && node.spec.sysctls.iter().any(|entry| entry.action == EntryAction::Set)
}
