//! A node that meets an API server that shows the past.

use std::time::Instant;

use super::{
    FIN_TIMEOUT, Outcome, SOON, Suite, Test,
    faults::{delete, fin_timeout, plain_node, stays, tuned, wait_for_order, wait_for_successor},
    partition::{Frozen, agent_log},
    privilege::agent,
    toll::{Toll, ends_as_without_fault},
};
use crate::{
    node::Node,
    programs::AGENT,
    report::{Seen, poll_until},
    stale::StaleApiServer,
};

pub(super) const LONG_TESTS: &[Test] = &[Test {
    name: "a_stale_api_server_makes_no_agent_apply_an_older_order_or_restore_on_an_absence",
    run: stale,
}];

const SAYS_OLD: &str = "this order is older than one that was carried out already";
/// What the server that shows the past is asked is not counted.
const MOST: usize = 40;
const SAYS_ABSENT: &str = "has no TcpCloseNode; what is in force stays";

/// The past that it shows is the worst there is: an order to put everything back.
fn stale(suite: &Suite) -> Outcome {
    tuned(suite)?;
    let node = plain_node(suite)?;
    let frozen = Frozen::new(agent(node)?)?;
    delete(suite)?;
    wait_for_order(suite, node, "Restore", None)?;
    let server = StaleApiServer::start(&suite.cluster)?;
    drop(frozen);
    suite.clear()?;
    suite.tune("web", &fin_timeout(25))?;
    suite.wait_until_applied("web")?;

    let toll = Toll::begin(suite)?;
    let known = agent_log(node)?;
    let captured = server.capture(node)?;
    stays(suite, "25")?;
    let old = agent(node)?;
    old.kill()?;
    wait_for_successor(node, AGENT, old)?;
    says(node, SAYS_OLD, &known)?;
    stays(suite, "25")?;
    let known = agent_log(node)?;
    server.kubectl(&["delete", "tcpclosenode", &node.name])?;
    says(node, SAYS_ABSENT, &known)?;
    stays(suite, "25")?;

    drop(captured);
    let freed = Instant::now();
    suite.tune("web", &fin_timeout(20))?;
    suite.wait_for_value(&node.name, FIN_TIMEOUT, "20")?;
    suite.wait_until_applied("web")?;
    println!("    freed: follows again after {:.1} s", freed.elapsed().as_secs_f64());
    toll.is(suite, |_| 1, MOST)?;
    ends_as_without_fault(suite, "web", &fin_timeout(20))
}

/// Waits until an agent has said something once more than in the log that is known.
fn says(node: &Node, words: &str, known: &str) -> Outcome {
    let before = known.matches(words).count();
    poll_until(&format!("the agent on {} says {words:?}", node.name), SOON, || {
        let log = agent_log(node)?;
        Ok(Seen::when(log.matches(words).count() > before, || crate::files::last_lines(&log, 3)))
    })?;
    Ok(())
}
