//! Report: what a turn found, as a status; and when a status is worth a write.

pub(crate) mod census;
mod due;

use std::collections::BTreeMap;

use crds::condition::{Condition, ConditionStatus, kind};
use crds::node::{NodeFacts, ObservedStatus, Remark, SysctlStatus};
use crds::state::State;
use crds::{TcpCloseNode, TcpCloseNodeStatus};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use tcp_close::Sysctl;
use tcp_close::order::Record;
use tcp_close::reach::Reach;
use tcp_close::rule;

use crate::node::{Finding, Obstacle, Turn};
use crate::order::Order;
use crate::sample::Census;
pub use due::{Pace, Past, Urgency, urgency};

/// The longest message that fits the schema.
const MESSAGE_CHARS: usize = 512;
/// The most remarks that fit the schema.
const REMARKS_MAX: usize = 8;

/// What is known of the node besides the sysctls.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// `uname -r`.
    pub kernel_release: String,
    /// Whether its network namespace is the first of its machine.
    pub first_namespace: bool,
    /// Names this run of the machine.
    pub boot_id: Option<String>,
    /// Everything that is known of closing sockets.
    pub census: Census,
    /// Whether addresses of peers may be reported.
    pub report_peers: bool,
}

/// Makes the status from what was found. What only history knows (when a key was last written, when a condition last
/// changed) is taken over from the previous status.
pub fn status(
    order: &Order,
    turn: &Turn,
    surroundings: &Surroundings,
    previous: Option<&TcpCloseNodeStatus>,
    now: Timestamp,
) -> TcpCloseNodeStatus {
    // What was read in another network namespace says nothing of this node.
    let here = !turn.obstacle.as_ref().is_some_and(Obstacle::is_elsewhere);
    let nothing = Census::default();
    let census = if here { &surroundings.census } else { &nothing };
    let row = |finding: &Finding| {
        let row = sysctl(finding, census, previous, now);
        SysctlStatus { live: row.live.filter(|_| here), ..row }
    };
    let sysctls: Vec<SysctlStatus> = turn.findings.iter().map(row).collect();
    let observe = turn.observed.iter().map(|(tuning, findings)| ObservedStatus {
        tuning: tuning.clone(),
        sysctls: findings.iter().map(|finding| sysctl(finding, census, None, now)).collect(),
    });
    TcpCloseNodeStatus {
        observed_generation: order.mark.generation,
        observed_revision: Some(order.revision.clone()),
        node_uid: Some(order.node_uid.clone()),
        boot_id: surroundings.boot_id.clone(),
        life: turn.life.clone().filter(|_| here),
        reported_at: Some(Time(now)),
        agent_version: Some(env!("CARGO_PKG_VERSION").into()),
        summary: Some(summary(&turn.findings)),
        conditions: vec![in_force(order, &turn.findings, census::reach(census), previous, now)],
        node: Some(NodeFacts {
            kernel_release: surroundings.kernel_release.clone(),
            first_network_namespace: surroundings.first_namespace,
        }),
        observe: observe.collect(),
        sysctls,
        sockets: census::sockets(census),
        sockstat: census::sockstat(census),
        rates: census::rates(census),
        rates_before: census::rates_before(census),
        rates_since: census::rates_since(census),
        conntrack: census::conntrack(census),
        ports: census::ports(census, surroundings.report_peers),
        pods: census::pods(census),
    }
}

/// One row of a status.
pub(crate) fn sysctl(
    finding: &Finding,
    census: &Census,
    previous: Option<&TcpCloseNodeStatus>,
    now: Timestamp,
) -> SysctlStatus {
    let before = previous.and_then(|status| status.sysctls.iter().find(|sysctl| sysctl.name == finding.name));
    let restored = matches!(finding.state, State::Restored | State::Restoring);
    let (changed_at, changed_by) = if finding.written.is_some() {
        let who = if restored { "restore".into() } else { finding.tuning.clone() };
        (Some(Time(now)), Some(who))
    } else {
        before.map_or((None, None), |before| (before.changed_at.clone(), before.changed_by.clone()))
    };
    let rates_before = if finding.is_changed() {
        census::rates_before(census).map(Box::new)
    } else {
        before
            .filter(|before| !is_of_another_change(finding, before))
            .and_then(|before| before.rates_before.clone())
    };
    SysctlStatus {
        name: finding.name.clone(),
        state: finding.state.as_str().into(),
        live: finding.live,
        desired: finding.desired,
        baseline: finding.baseline,
        tuning: Some(finding.tuning.clone()).filter(|tuning| !tuning.is_empty()),
        changed_at,
        changed_by,
        rates_before,
        drifts: finding.drift.as_ref().map(|drift| drift.contention.corrections),
        drifts_since: finding.drift.as_ref().map(|drift| Time(drift.since)),
        rule: finding.rule.map(Into::into),
        message: finding.message.as_deref().map(clip),
        remarks: finding.remarks.iter().take(REMARKS_MAX).map(remark).collect(),
    }
}

/// Whether another value is ordered than the row tells of, and this process has not written it: an agent that was ended
/// after the write and before the report has, and what it knew of the time before is lost.
fn is_of_another_change(finding: &Finding, before: &SysctlStatus) -> bool {
    finding.desired.is_some() && finding.desired != before.desired
}

fn remark(remark: &rule::Remark) -> Remark {
    Remark { rule: remark.rule.into(), message: clip(&remark.message) }
}

fn clip(message: &str) -> String {
    message.chars().take(MESSAGE_CHARS).collect()
}

/// `3 Applied, 1 Unsupported`
fn summary(findings: &[Finding]) -> String {
    let mut states: BTreeMap<State, usize> = BTreeMap::new();
    for finding in findings {
        *states.entry(finding.state).or_default() += 1;
    }
    let parts: Vec<String> = states.iter().map(|(state, count)| format!("{count} {state}")).collect();
    if parts.is_empty() { "nothing ordered".into() } else { parts.join(", ") }
}

/// Whether what is ordered is in force. Of several reasons the gravest is given.
fn in_force(
    order: &Order,
    findings: &[Finding],
    reach: Option<Reach>,
    previous: Option<&TcpCloseNodeStatus>,
    now: Timestamp,
) -> Condition {
    let gravest = NOT_IN_FORCE.into_iter().find_map(|state| gravest_of(state, findings));
    let (status, reason, message) = match gravest {
        Some(finding) => {
            let why = finding.message.as_deref().unwrap_or("not done yet");
            (ConditionStatus::False, finding.state.as_str(), format!("{}: {why}", finding.name))
        }
        None if findings.is_empty() => {
            (ConditionStatus::True, "NothingOrdered", "no tuning orders anything here".into())
        }
        None => match gravest_of(State::AtRisk, findings) {
            Some(finding) => {
                let why = finding.message.as_deref().unwrap_or_default();
                (ConditionStatus::True, State::AtRisk.as_str(), format!("{}: {why}", finding.name))
            }
            None => (ConditionStatus::True, "InForce", all_in_force(reach)),
        },
    };
    let before =
        previous.and_then(|status| status.conditions.iter().find(|known| known.type_ == kind::IN_FORCE));
    Condition {
        type_: kind::IN_FORCE.into(),
        status,
        reason: reason.into(),
        message: clip(&message),
        last_transition_time: before
            .filter(|before| before.status == status)
            .map_or(Time(now), |before| before.last_transition_time.clone()),
        observed_generation: order.mark.generation,
    }
}

/// Where pods are counted, a person is told how much of what closes here the order reaches.
fn all_in_force(reach: Option<Reach>) -> String {
    let remarks = reach.filter(|reach| reach.in_pods > 0).into_iter().flat_map(|reach| {
        rule::said_of_every_order(Some(reach)).map(|remark| format!(". Note: {}", remark.message))
    });
    ["everything that is ordered is in force".to_string()].into_iter().chain(remarks).collect()
}

/// States in which an order is not in force, the gravest first.
const NOT_IN_FORCE: [State; 6] =
    [State::Failed, State::Refused, State::Contended, State::Drifted, State::Pending, State::Restoring];

/// The first finding in a state; one that a rule names before one that is only held back with it.
fn gravest_of(state: State, findings: &[Finding]) -> Option<&Finding> {
    let of_state = findings.iter().filter(|finding| finding.state == state);
    of_state.min_by_key(|finding| finding.rule.is_none())
}

/// Baselines that a status of the same life remembers, for an agent whose journal was lost.
pub fn baselines(status: &TcpCloseNodeStatus) -> BTreeMap<Sysctl, Record> {
    let record = |known: &SysctlStatus| {
        let sysctl = Sysctl::from_name(&known.name)?;
        let applied = State::parse(&known.state) == Some(State::Applied);
        let confirmed = known.desired.filter(|_| applied);
        Some((sysctl, Record { baseline: known.baseline?, confirmed, intended: known.desired }))
    };
    status.sysctls.iter().filter_map(record).collect()
}

/// The order of an object, and the status that is stored with it.
pub fn decode(object: &TcpCloseNode) -> (Order, Option<TcpCloseNodeStatus>) {
    // A status that nobody has written holds the schema's default only.
    let status = object.status.clone().filter(|status| status.observed_generation >= 0);
    (Order::decode(object), status)
}

#[cfg(test)]
mod tests {
    use tcp_close::counters::Rates;
    use tcp_close::plan::Cause;

    use super::census::tests::full;
    use super::*;

    fn finding(state: State) -> Finding {
        Finding {
            name: Sysctl::FinTimeout.name().into(),
            state,
            live: Some(30),
            desired: Some(30),
            baseline: Some(60),
            tuning: "web".into(),
            rule: None,
            message: None,
            remarks: Vec::new(),
            drift: None,
            written: None,
        }
    }

    fn order() -> Order {
        Order {
            mark: crate::journal::OrderMark { uid: "u".into(), generation: 2 },
            node_uid: "n".into(),
            revision: "r2".into(),
            report_interval_seconds: 20,
            counts_interval_seconds: 5,
            entries: tcp_close::order::Entries::new(),
            set_aside: Vec::new(),
            observe: Vec::new(),
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn report(
        findings: Vec<Finding>,
        previous: Option<&TcpCloseNodeStatus>,
        second: i64,
    ) -> TcpCloseNodeStatus {
        let turn = Turn { findings, ..Turn::default() };
        status(&order(), &turn, &Surroundings::default(), previous, at(second))
    }

    #[test]
    fn sockets_that_are_not_known_are_absent_not_zero() {
        assert_eq!(report(vec![], None, 1).sockets, None);
    }

    #[test]
    fn the_gravest_state_is_the_reason() {
        let report =
            report(vec![finding(State::Applied), finding(State::Refused), finding(State::Failed)], None, 1);
        assert_eq!(report.conditions[0].reason, "Failed");
        assert_eq!(report.conditions[0].status, ConditionStatus::False);
        assert_eq!(report.summary.as_deref(), Some("1 Applied, 1 Refused, 1 Failed"));
    }

    #[test]
    fn a_condition_keeps_its_time_until_its_status_changes() {
        let first = report(vec![finding(State::Refused)], None, 1);
        let second = report(vec![finding(State::Failed)], Some(&first), 2);
        assert_eq!(second.conditions[0].last_transition_time, Time(at(1)));
        let third = report(vec![finding(State::Applied)], Some(&second), 3);
        assert_eq!(third.conditions[0].last_transition_time, Time(at(3)));
    }

    #[test]
    fn when_and_by_whom_a_key_was_written_outlives_the_turn() {
        let written = Finding { written: Some(Cause::Ordered), ..finding(State::Applied) };
        let first = report(vec![written], None, 1);
        let second = report(vec![finding(State::Applied)], Some(&first), 2);
        assert_eq!(second.sysctls[0].changed_at, Some(Time(at(1))));
        assert_eq!(second.sysctls[0].changed_by.as_deref(), Some("web"));
    }

    /// A report of a turn that wrote for this reason, where so many connections had overflowed before.
    fn after_write(
        written: Option<Cause>,
        overflows: Option<u64>,
        previous: Option<&TcpCloseNodeStatus>,
    ) -> TcpCloseNodeStatus {
        let rates = |overflows| Rates { seconds: 60, overflows: Some(overflows), ..Rates::default() };
        let turn = Turn { findings: vec![Finding { written, ..finding(State::Applied) }], ..Turn::default() };
        let census = Census { rates_before: overflows.map(rates), ..Census::default() };
        let surroundings = Surroundings { census, ..Surroundings::default() };
        status(&order(), &turn, &surroundings, previous, at(1))
    }

    fn overflows_before(status: &TcpCloseNodeStatus) -> Option<u64> {
        status.sysctls[0].rates_before.as_ref()?.overflows
    }

    #[test]
    fn the_rates_before_a_change_are_kept_until_the_next_change() {
        let changed = after_write(Some(Cause::Ordered), Some(700), None);
        assert_eq!(overflows_before(&changed), Some(700));
        let later = after_write(None, Some(5), Some(&changed));
        assert_eq!(overflows_before(&later), Some(700));
        let corrected = after_write(Some(Cause::Drifted), Some(5), Some(&later));
        assert_eq!(overflows_before(&corrected), Some(700), "what was put right is no change");
        let restored = after_write(Some(Cause::Restored), Some(5), Some(&corrected));
        assert_eq!(overflows_before(&restored), Some(5));
    }

    #[test]
    fn rates_before_a_change_that_nobody_measured_are_absent() {
        let first = after_write(Some(Cause::Ordered), Some(700), None);
        let changed = after_write(Some(Cause::Ordered), None, Some(&first));
        assert_eq!(overflows_before(&changed), None);
    }

    #[test]
    fn an_agent_that_was_ended_between_write_and_report_does_not_take_an_earlier_past_for_that_of_the_change()
    {
        let mut stored = after_write(Some(Cause::Ordered), Some(700), None);
        stored.sysctls[0].desired = Some(60);
        let restarted = after_write(None, Some(5), Some(&stored));
        assert_eq!((restarted.sysctls[0].desired, overflows_before(&restarted)), (Some(30), None));
    }

    #[test]
    fn where_pods_are_counted_a_person_is_told_how_much_of_what_closes_is_in_reach() {
        let message = |census: Census| {
            let turn = Turn { findings: vec![finding(State::Applied)], ..Turn::default() };
            let surroundings = Surroundings { census, ..Surroundings::default() };
            status(&order(), &turn, &surroundings, None, at(1)).conditions[0].message.clone()
        };
        assert_eq!(message(Census::default()), "everything that is ordered is in force");
        assert_eq!(
            message(full(at(1))),
            "everything that is ordered is in force. Note: pods have network namespaces of their own, which start with the \
             kernel's defaults and do not inherit these values (of the 24000 sockets here in TIME_WAIT, or in FIN_WAIT2 after \
             close(), 15 % are in the node's own): they reach host-network pods and the node's own programs"
        );
    }

    #[test]
    fn what_was_read_in_another_namespace_is_not_reported_as_the_nodes() {
        let elsewhere = Obstacle::Doubt(crate::sentinel::Doubt::OtherNamespace([192, 0, 2, 7].into()));
        let surroundings = Surroundings { census: full(at(1)), ..Surroundings::default() };
        let findings = vec![finding(State::Failed)];
        let turn = |obstacle| Turn { findings: findings.clone(), obstacle, ..Turn::default() };
        let here = status(&order(), &turn(None), &surroundings, None, at(1));
        assert_eq!(
            (here.sysctls[0].live, here.sockets.is_some(), here.pods.is_some()),
            (Some(30), true, true)
        );
        let there = status(&order(), &turn(Some(elsewhere)), &surroundings, None, at(1));
        assert_eq!(there.sysctls[0].live, None);
        assert_eq!((there.sockets, there.sockstat), (None, None));
        assert_eq!((there.rates, there.rates_before, there.rates_since), (None, None, None));
        assert_eq!((there.conntrack, there.ports, there.pods), (None, None, None));
    }

    #[test]
    fn a_lost_journal_finds_its_baselines_in_the_status() {
        let records = baselines(&report(vec![finding(State::Applied)], None, 1));
        let record = Record { baseline: 60, confirmed: Some(30), intended: Some(30) };
        assert_eq!(records, BTreeMap::from([(Sysctl::FinTimeout, record)]));
    }
}
