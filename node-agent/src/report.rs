//! Report: what a turn found, as a status; and when a status is worth a write.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use crds::condition::{Condition, ConditionStatus, kind};
use crds::node::{NodeFacts, ObservedStatus, Remark, Sockets, SysctlStatus};
use crds::state::State;
use crds::{TcpCloseNode, TcpCloseNodeStatus};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use tcp_close::Sysctl;
use tcp_close::order::Record;

use crate::node::{Finding, Obstacle, Turn};
use crate::order::Order;
use crate::sample::Census;
use crate::sock_diag::Sample;

/// Statuses are written no more often than this, but for the first answer to an order.
const PAUSE: Duration = Duration::from_secs(5);
/// A count is material when it has moved by a tenth, or by so many sockets, whichever is more.
const MATERIAL_SOCKETS: u64 = 100;
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
    /// What is known of closing sockets.
    pub census: Census,
}

impl Surroundings {
    fn sockets(&self) -> Option<Sockets> {
        let (states, sockstat) = (self.census.states?, self.census.sockstat?);
        let sample = Sample { counts: states.value, machine_orphans: sockstat.value.machine_orphans };
        Some(sockets(&sample, states.at))
    }
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
    let row = |finding: &Finding| {
        let row = sysctl(finding, previous, now);
        SysctlStatus { live: row.live.filter(|_| here), ..row }
    };
    let sysctls: Vec<SysctlStatus> = turn.findings.iter().map(row).collect();
    let observe = turn.observed.iter().map(|(tuning, findings)| ObservedStatus {
        tuning: tuning.clone(),
        sysctls: findings.iter().map(|finding| sysctl(finding, None, now)).collect(),
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
        conditions: vec![in_force(order, &turn.findings, previous, now)],
        node: Some(NodeFacts {
            kernel_release: surroundings.kernel_release.clone(),
            first_network_namespace: surroundings.first_namespace,
        }),
        observe: observe.collect(),
        sysctls,
        sockets: surroundings.sockets().filter(|_| here),
    }
}

/// One row of a status.
pub(crate) fn sysctl(
    finding: &Finding,
    previous: Option<&TcpCloseNodeStatus>,
    now: Timestamp,
) -> SysctlStatus {
    let before = previous.and_then(|status| status.sysctls.iter().find(|sysctl| sysctl.name == finding.name));
    let restored = matches!(finding.state, State::Restored | State::Restoring);
    let (changed_at, changed_by) = if finding.written {
        (Some(Time(now)), Some(if restored { "restore".into() } else { finding.tuning.clone() }))
    } else {
        before.map_or((None, None), |before| (before.changed_at.clone(), before.changed_by.clone()))
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
        drifts: finding.drift.as_ref().map(|drift| drift.contention.corrections),
        drifts_since: finding.drift.as_ref().map(|drift| Time(drift.since)),
        rule: finding.rule.map(Into::into),
        message: finding.message.as_deref().map(clip),
        remarks: finding.remarks.iter().take(REMARKS_MAX).map(remark).collect(),
    }
}

fn remark(remark: &tcp_close::rule::Remark) -> Remark {
    Remark { rule: remark.rule.into(), message: clip(&remark.message) }
}

fn clip(message: &str) -> String {
    message.chars().take(MESSAGE_CHARS).collect()
}

/// The counts, as a status names them.
pub(crate) fn sockets(sample: &Sample, at: Timestamp) -> Sockets {
    let counts = sample.counts;
    Sockets {
        time_wait: counts.time_wait,
        orphans: counts.orphans,
        fin_wait1: counts.fin_wait1,
        fin_wait2: counts.fin_wait2,
        closing: counts.closing,
        close_wait: counts.close_wait,
        last_ack: counts.last_ack,
        machine_orphans: sample.machine_orphans,
        measured_at: Some(Time(at)),
    }
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
            None => (ConditionStatus::True, "InForce", "everything that is ordered is in force".into()),
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

/// How the present differs from what was last written, from nothing to what cannot wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// Written when the interval is over.
    Heartbeat,
    /// Written when the last write is [`PAUSE`] ago.
    Soon,
    /// The answer to an order: written at once.
    Now,
}

/// How urgent it is to write a status.
pub fn urgency(written: Option<&TcpCloseNodeStatus>, status: &TcpCloseNodeStatus) -> Urgency {
    let Some(written) = written else { return Urgency::Now };
    if written.observed_generation != status.observed_generation
        || written.observed_revision != status.observed_revision
    {
        return Urgency::Now;
    }
    let same = without_words(written) == without_words(status) && written.life == status.life;
    if !same || material(written.sockets.as_ref(), status.sockets.as_ref()) {
        Urgency::Soon
    } else {
        Urgency::Heartbeat
    }
}

/// What a status says of sysctls and conditions, less the words: numbers in them move all the time, and a write for each
/// would be a storm.
fn without_words(
    status: &TcpCloseNodeStatus,
) -> (Vec<SysctlStatus>, Vec<SysctlStatus>, Vec<(String, String)>) {
    let plain = |row: &SysctlStatus| SysctlStatus {
        message: None,
        remarks: row
            .remarks
            .iter()
            .map(|remark| Remark { message: String::new(), ..remark.clone() })
            .collect(),
        ..row.clone()
    };
    let observed = status.observe.iter().flat_map(|observed| observed.sysctls.iter().map(plain));
    let conditions = status.conditions.iter();
    (
        status.sysctls.iter().map(plain).collect(),
        observed.collect(),
        conditions.map(|condition| (condition.type_.clone(), condition.reason.clone())).collect(),
    )
}

/// Whether so much time has passed since the last write that a status of this urgency goes out.
///
/// Heartbeats of a fleet spread over the last tenth of the interval, each node at its own place.
pub fn is_due(urgency: Urgency, since_written: Duration, interval: Duration, node: &str) -> bool {
    match urgency {
        Urgency::Now => true,
        Urgency::Soon => since_written >= PAUSE,
        Urgency::Heartbeat => {
            let mut hasher = DefaultHasher::new();
            node.hash(&mut hasher);
            let early = interval / 10 * u32::try_from(hasher.finish() % 100).unwrap_or_default() / 100;
            since_written >= interval.saturating_sub(early)
        }
    }
}

fn material(written: Option<&Sockets>, sockets: Option<&Sockets>) -> bool {
    let (Some(written), Some(sockets)) = (written, sockets) else {
        return written.is_some() != sockets.is_some();
    };
    let counts = |of: &Sockets| {
        [
            of.time_wait,
            of.orphans,
            of.fin_wait1,
            of.fin_wait2,
            of.closing,
            of.close_wait,
            of.last_ack,
            of.machine_orphans,
        ]
    };
    counts(written)
        .into_iter()
        .zip(counts(sockets))
        .any(|(old, new)| old.abs_diff(new) > (old / 10).max(MATERIAL_SOCKETS))
}

/// The order of an object, and the status that is stored with it.
pub fn decode(object: &TcpCloseNode) -> (Order, Option<TcpCloseNodeStatus>) {
    // A status that nobody has written holds the schema's default only.
    let status = object.status.clone().filter(|status| status.observed_generation >= 0);
    (Order::decode(object), status)
}

#[cfg(test)]
mod tests {
    use tcp_close::sockets::{SocketCounts, Sockstat};

    use super::*;
    use crate::sample::Dated;

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
            written: false,
        }
    }

    fn order() -> Order {
        Order {
            mark: crate::journal::OrderMark { uid: "u".into(), generation: 2 },
            node_uid: "n".into(),
            revision: "r2".into(),
            report_interval_seconds: 20,
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

    fn with_time_wait(time_wait: u64) -> TcpCloseNodeStatus {
        let sockets = Some(Sockets { time_wait, ..Sockets::default() });
        TcpCloseNodeStatus { sockets, ..report(vec![finding(State::Applied)], None, 1) }
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
        let written = Finding { written: true, ..finding(State::Applied) };
        let first = report(vec![written], None, 1);
        let second = report(vec![finding(State::Applied)], Some(&first), 2);
        assert_eq!(second.sysctls[0].changed_at, Some(Time(at(1))));
        assert_eq!(second.sysctls[0].changed_by.as_deref(), Some("web"));
    }

    #[test]
    fn an_answer_to_an_order_goes_out_at_once() {
        let old = TcpCloseNodeStatus { observed_generation: 1, ..with_time_wait(0) };
        assert_eq!(urgency(Some(&old), &with_time_wait(0)), Urgency::Now);
        assert_eq!(urgency(None, &with_time_wait(0)), Urgency::Now);
    }

    #[test]
    fn a_count_is_material_beyond_a_tenth_and_a_hundred() {
        for (old, new, expected) in [
            (0, 100, Urgency::Heartbeat),
            (0, 101, Urgency::Soon),
            (10_000, 11_000, Urgency::Heartbeat),
            (10_000, 8_999, Urgency::Soon),
        ] {
            assert_eq!(urgency(Some(&with_time_wait(old)), &with_time_wait(new)), expected, "{old} -> {new}");
        }
    }

    #[test]
    fn a_changed_state_is_reported_soon_but_not_in_a_storm() {
        let changed = report(vec![finding(State::Failed)], None, 1);
        assert_eq!(urgency(Some(&with_time_wait(0)), &changed), Urgency::Soon);
        let interval = Duration::from_secs(20);
        assert!(!is_due(Urgency::Soon, Duration::from_secs(4), interval, "node-1"));
        assert!(is_due(Urgency::Soon, Duration::from_secs(5), interval, "node-1"));
    }

    #[test]
    fn a_number_that_moves_in_a_message_is_no_reason_to_write() {
        let saying = |message: &str| {
            let remark = tcp_close::rule::Remark { rule: "a-rule", message: message.into() };
            let message = Some(message.into());
            Finding { message, remarks: vec![remark], ..finding(State::Refused) }
        };
        let written = report(vec![saying("the machine has 40001 orphans now")], None, 1);
        let same = report(vec![saying("the machine has 40002 orphans now")], Some(&written), 2);
        assert_eq!(urgency(Some(&written), &same), Urgency::Heartbeat);
        let other = report(vec![finding(State::Refused)], Some(&written), 2);
        assert_eq!(urgency(Some(&written), &other), Urgency::Soon, "the remark is gone");
    }

    #[test]
    fn what_was_read_in_another_namespace_is_not_reported_as_the_nodes() {
        let (states, sockstat) = (SocketCounts::default(), Sockstat { tw: 0, machine_orphans: 0 });
        let census = Census {
            states: Some(Dated { value: states, at: at(1) }),
            sockstat: Some(Dated { value: sockstat, at: at(1) }),
            ..Census::default()
        };
        let elsewhere = Obstacle::Doubt(crate::sentinel::Doubt::OtherNamespace([192, 0, 2, 7].into()));
        let surroundings = Surroundings { census, ..Surroundings::default() };
        let findings = vec![finding(State::Failed)];
        let turn = |obstacle| Turn { findings: findings.clone(), obstacle, ..Turn::default() };
        let here = status(&order(), &turn(None), &surroundings, None, at(1));
        assert_eq!((here.sysctls[0].live, here.sockets.is_some()), (Some(30), true));
        let there = status(&order(), &turn(Some(elsewhere)), &surroundings, None, at(1));
        assert_eq!((there.sysctls[0].live, there.sockets), (None, None));
    }

    #[test]
    fn heartbeats_of_a_fleet_are_spread_over_the_last_tenth_of_the_interval() {
        let interval = Duration::from_secs(300);
        let due = |seconds| {
            let since = Duration::from_secs(seconds);
            (0..100)
                .filter(|node| is_due(Urgency::Heartbeat, since, interval, &format!("node-{node}")))
                .count()
        };
        assert_eq!((due(269), due(300)), (0, 100));
        assert!((20..80).contains(&due(285)), "{}", due(285));
    }

    #[test]
    fn a_lost_journal_finds_its_baselines_in_the_status() {
        let records = baselines(&report(vec![finding(State::Applied)], None, 1));
        let record = Record { baseline: 60, confirmed: Some(30), intended: Some(30) };
        assert_eq!(records, BTreeMap::from([(Sysctl::FinTimeout, record)]));
    }
}
