//! How much of the API server agents may take: all of them together a fixed share, and the operator has a flow of its own.

use std::time::Duration;

use super::{Outcome, Suite, Test, bearer::Bearer, ensure, privilege::agent, rights::account_token};
use crate::{
    error::Result,
    install::RELEASE,
    report::{Seen, poll_until},
};

pub(super) const TESTS: &[Test] = &[Test {
    name: "all_agents_share_a_flow_that_they_cannot_exceed_and_the_operator_has_its_own",
    run: flows,
}];

/// Which flow served a request, and at which level.
const HEADERS: [(&str, &str); 2] = [
    ("X-Kubernetes-Pf-Flowschema-Uid", "flowschema"),
    ("X-Kubernetes-Pf-Prioritylevel-Uid", "prioritylevelconfiguration"),
];
const NODES: &str = "/apis/tcpclose.dev/v1alpha1/tcpclosenodes";
/// What an agent asks for and does not get is counted with the rest.
const DENIED: &str = "/api/v1/pods";
/// An API server learns of a new share within seconds.
const LEARNT: Duration = Duration::from_secs(30);

fn flows(suite: &Suite) -> Outcome {
    let node = &suite.cluster.nodes()[0];
    let agents = [format!("{RELEASE}-agent"), format!("{RELEASE}-agents")];
    let agent = Bearer::of_process(suite, agent(node)?)?;
    served_by(suite, &agent, NODES, &agents)?;
    served_by(suite, &agent, DENIED, &agents)?;
    let operator = Bearer::new(suite, &account_token(suite, &format!("{RELEASE}-operator"))?)?;
    served_by(suite, &operator, NODES, &[format!("{RELEASE}-operator"), "workload-high".into()])?;
    bounded(suite, &agents[1])
}

fn served_by(suite: &Suite, bearer: &Bearer<'_>, path: &str, expected: &[String; 2]) -> Outcome {
    for ((header, kind), name) in HEADERS.iter().zip(expected) {
        let uid = suite.get(kind, name)?["metadata"]["uid"].clone();
        let seen = bearer.header(path, header)?;
        ensure(uid == *seen, || format!("{path} was served by {kind} {seen}, not by {name} ({uid})"))?;
    }
    Ok(())
}

/// The API server gives that level no more than its share, and its share is a small part.
fn bounded(suite: &Suite, level: &str) -> Outcome {
    let mut seats = 0;
    poll_until("the API server has shared out its seats", LEARNT, || {
        seats = seats_of(suite, "upper_limit_seats", level)?;
        Ok(Seen::when(seats > 0, || "the level is not known yet".into()))
    })?;
    let nominal = seats_of(suite, "nominal_limit_seats", level)?;
    let workload_high = seats_of(suite, "nominal_limit_seats", "workload-high")?;
    println!("    all agents have {seats} seats at most, and workload-high has {workload_high}");
    ensure(seats == nominal && seats < workload_high, || {
        format!("agents have up to {seats} seats, nominally {nominal}; workload-high has {workload_high}")
    })
}

/// A gauge of the API server about one level; 0 where it has none.
fn seats_of(suite: &Suite, gauge: &str, level: &str) -> Result<u32> {
    let name = format!("apiserver_flowcontrol_{gauge}{{priority_level=\"{level}\"}} ");
    let text = suite.cluster.kubectl(&["get", "--raw", "/metrics"])?;
    let value = text.lines().find_map(|line| line.strip_prefix(&name)?.trim().parse().ok());
    Ok(value.unwrap_or_default())
}
