//! What goes and comes back at once: nothing is put back, and nothing is written anew.

use std::collections::BTreeSet;

use rustix::process::Signal;

use super::{
    Outcome, Suite, Test, ensure,
    faults::{agent_of, fin_timeout, operator, tuned},
    helm::held_during,
    misplaced::{DEFINITION, define},
    orders::wait_until_all_hold,
    toll::{Toll, ends_as_without_fault},
    tuning,
};
use crate::{
    error::Error,
    process,
    report::{Seen, poll_until},
};

pub(super) const LONG_TESTS: &[Test] = &[
    Test {
        name: "objects_made_anew_while_nobody_listened_and_history_was_lost_cost_no_write",
        run: gone_410,
    },
    Test { name: "kubectl_replace_force_of_a_tuning_restores_nothing", run: replaced },
    Test { name: "a_tuning_renamed_in_git_restores_nothing", run: renamed },
    Test { name: "a_tunings_crd_that_goes_and_comes_back_restores_nothing", run: definition_made_anew },
];

/// What an API server says to one who asks for what it has forgotten.
const GONE: &str = "too old resource version";
/// Orders and statuses that are written anew, and reports that the nodes owe.
const MOST: usize = 30;

/// Fails where a kernel held something else meanwhile, or was written, or where the tuning of this name is not in force at the
/// end as it would be without that.
fn nothing_is_written(suite: &Suite, name: &str, act: impl FnOnce() -> Outcome) -> Outcome {
    tuned(suite)?;
    let toll = Toll::begin(suite)?;
    let held = held_during(suite, act)?;
    ensure(held == BTreeSet::from(["30".to_owned()]), || format!("meanwhile the kernels held {held:?}"))?;
    toll.is(suite, |_| 0, MOST)?;
    ends_as_without_fault(suite, name, &fin_timeout(30))
}

/// Everybody stands still while the tuning and a node's object are made anew, and the API server loses what came between.
fn gone_410(suite: &Suite) -> Outcome {
    nothing_is_written(suite, "web", || {
        let node = &suite.cluster.nodes()[0];
        let mut frozen = vec![operator(suite)?.1];
        for node in suite.cluster.nodes() {
            frozen.push(agent_of(node)?);
        }
        let signal_all = |signal| frozen.iter().try_for_each(|each| each.signal(signal));
        signal_all(Signal::STOP)?;
        let replaced = suite
            .cluster
            .kubectl(&["delete", "tcpclosenode", &node.name])
            .and_then(|_| replace(suite))
            .and_then(|()| suite.cluster.restart_api_server());
        signal_all(Signal::CONT)?;
        println!("    the API server was back after {:.1} s", replaced?.as_secs_f64());
        poll_until("the node has an object again", super::faults::BACK, || {
            let names = suite.cluster.kubectl(&["get", "tcpclosenodes", "--output", "name"])?;
            Ok(Seen::when(names.contains(&node.name), || names))
        })?;
        suite.wait_for_condition("web", "Ready", ("True", "Applied"), super::faults::BACK)?;
        let log = super::partition::agent_log(&suite.cluster.nodes()[1])?;
        ensure(log.contains(GONE), || format!("no agent was told {GONE:?}"))
    })
}

fn replace(suite: &Suite) -> Result<(), Error> {
    let mut kubectl = suite.cluster.client("kubectl");
    kubectl.args(["replace", "--force", "--filename", "-"]);
    process::run_with_input(&mut kubectl, tuning("web", &fin_timeout(30)).as_bytes()).map(drop)
}

fn replaced(suite: &Suite) -> Outcome {
    nothing_is_written(suite, "web", || {
        replace(suite)?;
        suite.wait_until_applied("web").map(drop)
    })
}

/// The tool prunes first, and creates a moment later.
fn renamed(suite: &Suite) -> Outcome {
    nothing_is_written(suite, "site", || {
        suite.cluster.kubectl(&["delete", "tcpclosetuning", "web"])?;
        suite.tune("site", &fin_timeout(30))?;
        suite.wait_until_applied("site").map(drop)
    })?;
    suite.clear()?;
    wait_until_all_hold(suite, super::FIN_TIMEOUT, "60").map(drop)
}

/// With its definition, every tuning goes; both come back from Git.
fn definition_made_anew(suite: &Suite) -> Outcome {
    let definition = suite.get("customresourcedefinition", DEFINITION)?;
    nothing_is_written(suite, "web", || {
        suite.cluster.kubectl(&["delete", "customresourcedefinition", DEFINITION])?;
        define(suite, &definition)?;
        poll_until("the tuning is back", super::SOON, || {
            let taken = suite.tune("web", &fin_timeout(30)).map_err(|super::Failure(why)| why);
            Ok(taken.map_or_else(Seen::NotYet, |()| Seen::Yes))
        })?;
        suite.wait_until_applied("web").map(drop)
    })
}
