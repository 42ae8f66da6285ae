//! Bounded lists: the nodes that need a look most, and the rules that forbid something.

use std::cmp::Reverse;
use std::collections::BTreeMap;

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
    let mut troubled: Vec<_> = findings.iter().filter_map(trouble).collect();
    troubled.sort_by_key(|(rank, worst)| (*rank, worst.name.clone()));
    let mut busy: Vec<_> =
        findings.iter().filter(|finding| trouble(finding).is_none()).filter_map(busy).collect();
    busy.sort_by_key(|(sockets, worst)| (Reverse(*sockets), worst.name.clone()));
    let troubled = troubled.into_iter().map(|(_, worst)| worst);
    troubled.chain(busy.into_iter().map(|(_, worst)| worst)).take(WORST_MAX).collect()
}

fn trouble(finding: &Finding<'_>) -> Option<(u8, WorstNode)> {
    let (rank, reason) = match finding.class {
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
        Class::Updated | Class::Waiting => return overlay(finding),
    };
    Some((rank, worst_node(finding, reason, &finding.message)))
}

/// What needs a look where everything is in force.
fn overlay(finding: &Finding<'_>) -> Option<(u8, WorstNode)> {
    if let Some(row) = finding.at_risk.first() {
        return Some((5, worst_node(finding, AT_RISK, &said(row))));
    }
    let drifted: Vec<_> = finding.drifted.iter().map(|row| row.name.as_str()).collect();
    let message = format!("another program changes {}", drifted.join(", "));
    (!drifted.is_empty()).then(|| (6, worst_node(finding, DRIFTED, &message)))
}

fn worst_node(finding: &Finding<'_>, reason: &str, message: &str) -> WorstNode {
    let message = clip(message, WORST_MESSAGE_MAX);
    WorstNode { name: finding.node.into(), reason: reason.into(), message }
}

fn busy(finding: &Finding<'_>) -> Option<(u64, WorstNode)> {
    let report = finding.report?;
    let total = report.sockets.as_ref().map_or(0, |sockets| closing(&sockets.states));
    let said = report.sockets.iter().flat_map(|sockets| by_state(&sockets.states));
    let said = said.filter(|(count, _)| *count > 0);
    let said = said.map(|(count, state)| format!("{} {}", two_digits(count), state.name()));
    let parts = [said.collect::<Vec<_>>().join(", "), leak::said(report).unwrap_or_default()];
    let message = parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; ");
    (!message.is_empty()).then(|| (total, worst_node(finding, SOCKETS, &message)))
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
