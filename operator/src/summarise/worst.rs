//! Bounded lists: the nodes that need a look most, and the rules that forbid something.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crds::TcpCloseNodeStatus;
use crds::node::{States, SysctlStatus};
use crds::tuning::{RefusalSummary, WorstNode};
use tcp_close::sockets::{State, two_digits};

use super::class::{Class, Finding, said};
use super::{NAMES_MAX, clip, count, leak};

const WORST_MAX: usize = 10;
const RULES_MAX: usize = 10;
/// Ten of them, with names, mostly fit in a status. The whole message is in the node's own status.
const WORST_MESSAGE_MAX: usize = 256;
const REFUSAL_MESSAGE_MAX: usize = 512;
/// All refusals' messages together.
const REFUSAL_MESSAGES_MAX: usize = 2560;

/// The reason of a node where all is well, and which is listed for its closing sockets.
pub const SOCKETS: &str = "Sockets";
/// The reason of a node where everything is in force, and a rule would refuse something of it now.
pub const AT_RISK: &str = "AtRisk";
/// The reason of a node that was reachable when it was ordered a change, and is not since.
pub const LOST: &str = "Lost";
const DRIFTED: &str = "Drifted";

/// The nodes that need a look most: where something is wrong, then where most sockets close.
pub(super) fn worst(findings: &[Finding<'_>]) -> Vec<WorstNode> {
    // By name among equals, as they come.
    let (mut troubled, mut others) = (Vec::new(), Vec::new());
    for finding in findings {
        match trouble(finding) {
            Some((rank, reason)) => troubled.push((rank, reason, finding)),
            None => others.extend(busy(finding).map(|sockets| (sockets, finding))),
        }
    }
    troubled.sort_by_key(|(rank, ..)| *rank);
    others.sort_by_key(|(sockets, _)| Reverse(*sockets));
    let troubled = troubled.into_iter().map(|(_, reason, finding)| (finding, reason));
    let listed = troubled.chain(others.into_iter().map(|(_, finding)| (finding, SOCKETS)));
    listed.take(WORST_MAX).map(|(finding, reason)| worst_node(finding, reason)).collect()
}

/// What is wrong on a node, and how much that needs a look: the lower, the more.
fn trouble(finding: &Finding<'_>) -> Option<(u8, &'static str)> {
    Some(match finding.class {
        // The next operator reads here who is lost.
        Class::Lost => (0, LOST),
        Class::WriteFailed | Class::AgentMissing => (1, "Failed"),
        Class::Contended => (1, "Contended"),
        Class::Drifted => (1, DRIFTED),
        Class::RolledBack => (2, "RolledBack"),
        Class::Refused => (2, "Refused"),
        Class::Stale => (3, "Stale"),
        Class::Held => (3, "Held"),
        Class::Pending => (4, "Pending"),
        // What needs a look where everything is in force.
        Class::Updated | Class::Waiting if !finding.at_risk.is_empty() => (5, AT_RISK),
        Class::Updated | Class::Waiting if !finding.drifted.is_empty() => (6, DRIFTED),
        Class::Updated | Class::Waiting => return None,
    })
}

/// How many sockets close on a node, if there is anything to say of them.
fn busy(finding: &Finding<'_>) -> Option<u64> {
    let report = finding.report?;
    let total = report.sockets.as_ref().map_or(0, |sockets| closing(&sockets.states));
    (total > 0 || leak::worst(report).is_some()).then_some(total)
}

fn worst_node(finding: &Finding<'_>, reason: &str) -> WorstNode {
    let message = clip(&message(finding, reason), WORST_MESSAGE_MAX);
    WorstNode { name: finding.node.into(), reason: reason.into(), message }
}

fn message(finding: &Finding<'_>, reason: &str) -> String {
    let in_force = matches!(finding.class, Class::Updated | Class::Waiting);
    match (reason, finding.at_risk.first()) {
        (SOCKETS, _) => finding.report.map(sockets).unwrap_or_default(),
        (AT_RISK, Some(row)) => said(row),
        (DRIFTED, _) if in_force => {
            let drifted: Vec<_> = finding.drifted.iter().map(|row| row.name.as_str()).collect();
            format!("another program changes {}", drifted.join(", "))
        }
        _ => finding.message.clone(),
    }
}

fn sockets(report: &TcpCloseNodeStatus) -> String {
    let counts = report.sockets.iter().flat_map(|sockets| by_state(&sockets.states));
    let counts = counts.filter(|(count, _)| *count > 0);
    let counts = counts.map(|(count, state)| format!("{} {}", two_digits(count), state.name()));
    let parts = [counts.collect::<Vec<_>>().join(", "), leak::said(report).unwrap_or_default()];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; ")
}

fn by_state(states: &States) -> [(u64, State); 6] {
    let States { time_wait, fin_wait1, fin_wait2, closing, close_wait, last_ack, .. } = *states;
    [
        (time_wait, State::TimeWait),
        (fin_wait1, State::FinWait1),
        (fin_wait2, State::FinWait2),
        (closing, State::Closing),
        (close_wait, State::CloseWait),
        (last_ack, State::LastAck),
    ]
}

/// All that close, rounded: nodes must not change places with every report.
fn closing(states: &States) -> u64 {
    two_digits(by_state(states).iter().fold(0, |sum, (count, _)| count.saturating_add(sum)))
}

/// The rules that forbid something, with the words of the first node. Those of the most nodes come first: what one node
/// makes up pushes none of them out.
pub(super) fn refusals(findings: &[Finding<'_>]) -> Vec<RefusalSummary> {
    let mut rules = BTreeMap::<&str, (&SysctlStatus, Vec<&str>)>::new();
    for finding in findings {
        for row in &finding.refused {
            let Some(rule) = row.rule.as_deref() else { continue };
            let (_, nodes) = rules.entry(rule).or_insert_with(|| (row, Vec::new()));
            // One node may break a rule with several keys.
            if nodes.last() != Some(&finding.node) {
                nodes.push(finding.node);
            }
        }
    }
    let mut rules: Vec<_> = rules.into_iter().collect();
    rules.sort_by_key(|(_, (_, nodes))| Reverse(nodes.len()));
    rules.truncate(RULES_MAX);
    let message_max = REFUSAL_MESSAGE_MAX.min(REFUSAL_MESSAGES_MAX / rules.len().max(1));
    let summaries = rules.into_iter().map(|(rule, (row, nodes))| RefusalSummary {
        rule: rule.into(),
        message: clip(row.message.as_deref().unwrap_or(&row.state), message_max),
        nodes: count(nodes.len()),
        names: nodes.iter().take(NAMES_MAX).map(ToString::to_string).collect(),
    });
    summaries.collect()
}
