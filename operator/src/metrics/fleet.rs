//! The fleet as metrics: what the statuses say, at the moment when they were computed.

use std::fmt::Debug;
use std::sync::atomic::AtomicU64;

use crds::TcpCloseTuningStatus;
use crds::condition::ConditionStatus;
use crds::tuning::{Coverage, NodeCounts, Phase, RateSums, RolloutStatus, SocketMaxima, SocketSums};
use prometheus_client::encoding::EncodeGaugeValue;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{Atomic, Gauge};
use prometheus_client::registry::Registry;
use tcp_close::metric;
use tcp_close::sockets::State;

use super::PREFIX;
use crate::snapshot::Tuning;
use crate::summarise::fleet::Fleet;

/// Tunings that have metrics of their own, the first by name. Each has some 60 series.
pub const TUNINGS_MAX: usize = 200;

/// A tuning, and its status as it was computed last.
pub type Summary<'a> = (&'a Tuning, TcpCloseTuningStatus);
/// Labels and a value.
type Sample<N = u64> = (Vec<(&'static str, String)>, N);

/// The metrics of a fleet with these tunings, sorted by name.
pub fn registry(fleet: &Fleet, tunings: &[Summary<'_>]) -> Registry {
    let mut page = Page(Registry::with_prefix(PREFIX));
    let shown = &tunings[..tunings.len().min(TUNINGS_MAX)];
    nodes(&mut page, fleet);
    fleet_sockets(&mut page, fleet.sockets.as_ref());
    page.one("tunings", "TcpCloseTunings that are not being deleted", Some(tunings.len() as u64));
    let left_out = (tunings.len() - shown.len()) as u64;
    let help = "TcpCloseTunings without metrics of their own: only the first 200 by name have them";
    page.one("tunings_left_out", help, Some(left_out));
    progress(&mut page, shown);
    tuning_sockets(&mut page, shown);
    reach(&mut page, shown);
    page.0
}

fn nodes(page: &mut Page, fleet: &Fleet) {
    page.one("nodes", "Linux nodes", Some(u64::from(fleet.nodes)));
    page.one(
        "nodes_matched",
        "Linux nodes that at least one TcpCloseTuning is for",
        Some(u64::from(fleet.matched)),
    );
    page.one(
        "nodes_silent",
        "Linux nodes whose agent is not heard: it has not reported yet or has missed three reports, or the node is not \
         Ready",
        Some(u64::from(fleet.silent)),
    );
    page.one(
        "oldest_report_age_seconds",
        "How long ago the Linux node was heard that has been silent longest",
        Some(fleet.oldest_report.as_secs()),
    );
}

fn fleet_sockets(page: &mut Page, sums: Option<&SocketSums>) {
    page.each(
        "fleet_sockets",
        "Closing TCP sockets in the network namespaces of all Linux nodes, pods' not among them, to two significant digits",
        sums.into_iter().flat_map(|sums| by_state(states(sums))),
    );
    page.one(
        "fleet_orphans",
        "Closing sockets without a program in the network namespaces of all Linux nodes, to two significant digits",
        sums.map(|sums| sums.orphans),
    );
    page.one(
        "fleet_counted_nodes",
        "Linux nodes whose sockets are in the sums",
        sums.map(|sums| u64::from(sums.nodes)),
    );
    page.each(
        "fleet_events_per_minute",
        "How often connections end in which way, in the network namespaces of all Linux nodes, pods' not among them",
        sums.and_then(|sums| sums.rates.as_ref()).into_iter().flat_map(events),
    );
    let coverage = sums.and_then(|sums| sums.coverage.as_ref());
    page.one(
        "fleet_nodes_mini_sockets",
        "TIME_WAIT and FIN_WAIT2 after close() in the network namespaces of Linux nodes that count their pods too",
        coverage.map(|coverage| coverage.in_nodes),
    );
    page.one(
        "fleet_pods_mini_sockets",
        "TIME_WAIT and FIN_WAIT2 after close() in the network namespaces of pods, which sysctls of nodes do not reach",
        coverage.map(|coverage| coverage.in_pods),
    );
    page.one(
        "fleet_coverage_ratio",
        "The part of TIME_WAIT and FIN_WAIT2 after close() that is in the nodes' own network namespaces",
        coverage.map(ratio),
    );
}

/// How far the tunings are.
fn progress(page: &mut Page, tunings: &[Summary<'_>]) {
    page.per_tuning(
        "tuning_nodes",
        "Nodes that the tuning matches, by how far they are; each is in one state",
        tunings,
        |status| status.nodes.iter().flat_map(nodes_by_state).collect(),
    );
    for (name, help, field) in [
        (
            "tuning_unsupported_nodes",
            "Nodes that lack a sysctl of the tuning",
            (|nodes| nodes.unsupported) as fn(&NodeCounts) -> u32,
        ),
        ("tuning_overridden_nodes", "Nodes where another tuning orders a sysctl of the tuning", |nodes| {
            nodes.overridden
        }),
        (
            "tuning_drifted_nodes",
            "Nodes where another program changed a sysctl of the tuning, now or in the last report",
            |nodes| nodes.drifted,
        ),
        (
            "tuning_restoring_nodes",
            "Nodes that the tuning no longer matches and that are being put back",
            |nodes| nodes.restoring,
        ),
    ] {
        page.per_tuning(name, help, tunings, |status| {
            status.nodes.iter().map(|nodes| plain(field(nodes).into())).collect()
        });
    }
    page.per_tuning(
        "tuning_condition",
        "The conditions of the tuning: 1 for the status that it has, 0 for the others",
        tunings,
        conditions,
    );
    page.per_tuning(
        "tuning_rollout_phase",
        "Where the rollout of the tuning is: 1 for the phase that it is in, 0 for the others",
        tunings,
        |status| status.rollout.iter().flat_map(phases).collect(),
    );
    page.per_tuning(
        "tuning_refused_nodes",
        "Nodes where the rule forbids something that the tuning orders",
        tunings,
        |status| {
            let refusals = status.refusals.iter();
            refusals.map(|refusal| (vec![("rule", refusal.rule.clone())], u64::from(refusal.nodes))).collect()
        },
    );
}

fn nodes_by_state(nodes: &NodeCounts) -> [Sample; 5] {
    let NodeCounts { updated, pending, refused, failed, stale, .. } = *nodes;
    [("updated", updated), ("pending", pending), ("refused", refused), ("failed", failed), ("stale", stale)]
        .map(|(state, nodes)| (vec![("state", state.into())], nodes.into()))
}

fn phases(rollout: &RolloutStatus) -> [Sample; 6] {
    Phase::ALL
        .map(|phase| (vec![("phase", phase.as_str().into())], u64::from(rollout.phase == phase.as_str())))
}

/// As kube-state-metrics shows conditions.
fn conditions(status: &TcpCloseTuningStatus) -> Vec<Sample> {
    let words = [
        (ConditionStatus::True, "true"),
        (ConditionStatus::False, "false"),
        (ConditionStatus::Unknown, "unknown"),
    ];
    let each = status.conditions.iter().flat_map(|condition| {
        words.map(|(status, word)| {
            let labels = vec![("type", condition.type_.clone()), ("status", word.into())];
            (labels, u64::from(condition.status == status))
        })
    });
    each.collect()
}

/// How connections close on the nodes that the tunings match.
fn tuning_sockets(page: &mut Page, tunings: &[Summary<'_>]) {
    fn sums(status: &TcpCloseTuningStatus) -> impl Iterator<Item = &SocketSums> {
        status.sockets.iter()
    }
    page.per_tuning(
        "tuning_sockets",
        "Closing TCP sockets in the network namespaces of the nodes that the tuning matches, pods' not among them, to two \
         significant digits; each is in one state",
        tunings,
        |status| sums(status).flat_map(|sums| by_state(states(sums))).collect(),
    );
    page.per_tuning(
        "tuning_orphans",
        "Closing sockets without a program in the network namespaces of the nodes that the tuning matches, to two \
         significant digits",
        tunings,
        |status| sums(status).map(|sums| plain(sums.orphans)).collect(),
    );
    page.per_tuning(
        "tuning_counted_nodes",
        "Nodes whose sockets are in the sums of the tuning",
        tunings,
        |status| sums(status).map(|sums| plain(sums.nodes.into())).collect(),
    );
    page.per_tuning(
        "tuning_highest_sockets",
        "The most closing TCP sockets of a single node that the tuning matches, pods' not among them",
        tunings,
        |status| sums(status).flat_map(|sums| by_state(highest(&sums.highest))).collect(),
    );
    page.per_tuning(
        "tuning_highest_orphans",
        "The most closing sockets without a program of a single node that the tuning matches",
        tunings,
        |status| sums(status).map(|sums| plain(sums.highest.orphans)).collect(),
    );
}

/// How much of what closes the tunings reach, and how it ends.
fn reach(page: &mut Page, tunings: &[Summary<'_>]) {
    fn coverage(status: &TcpCloseTuningStatus) -> impl Iterator<Item = &Coverage> {
        status.sockets.iter().filter_map(|sums| sums.coverage.as_ref())
    }
    page.per_tuning(
        "tuning_events_per_minute",
        "How often connections end in which way, in the network namespaces of the nodes that the tuning matches",
        tunings,
        |status| status.sockets.as_ref().and_then(|sums| sums.rates.as_ref()).map(events).unwrap_or_default(),
    );
    page.per_tuning(
        "tuning_nodes_mini_sockets",
        "TIME_WAIT and FIN_WAIT2 after close() in the network namespaces of the tuning's nodes that count their pods too",
        tunings,
        |status| coverage(status).map(|coverage| plain(coverage.in_nodes)).collect(),
    );
    page.per_tuning(
        "tuning_pods_mini_sockets",
        "TIME_WAIT and FIN_WAIT2 after close() in the network namespaces of pods, which the tuning does not reach",
        tunings,
        |status| coverage(status).map(|coverage| plain(coverage.in_pods)).collect(),
    );
    page.per_tuning(
        "tuning_coverage_ratio",
        "The part of TIME_WAIT and FIN_WAIT2 after close() that is where the tuning reaches",
        tunings,
        |status| coverage(status).map(|coverage| (Vec::new(), ratio(coverage))).collect(),
    );
}

fn states(sums: &SocketSums) -> impl Fn(State) -> u64 {
    |state| match state {
        State::FinWait1 => sums.fin_wait1,
        State::FinWait2 => sums.fin_wait2,
        State::TimeWait => sums.time_wait,
        State::CloseWait => sums.close_wait,
        State::LastAck => sums.last_ack,
        State::Closing => sums.closing,
    }
}

fn highest(maxima: &SocketMaxima) -> impl Fn(State) -> u64 {
    |state| match state {
        State::FinWait1 => maxima.fin_wait1,
        State::FinWait2 => maxima.fin_wait2,
        State::TimeWait => maxima.time_wait,
        State::CloseWait => maxima.close_wait,
        State::LastAck => maxima.last_ack,
        State::Closing => maxima.closing,
    }
}

fn by_state(sockets: impl Fn(State) -> u64) -> [Sample; 6] {
    State::ALL.map(|state| (vec![("state", metric::state(state).into())], sockets(state)))
}

fn plain(value: u64) -> Sample {
    (Vec::new(), value)
}

/// Events that statuses add up; `abort` is every kind of them.
fn events(rates: &RateSums) -> Vec<Sample> {
    let RateSums { overflows, aborts, resets_sent, reused, nodes: _ } = *rates;
    let rates = [
        (metric::OVERFLOW, overflows),
        ("abort", aborts),
        (metric::RESET_SENT, resets_sent),
        (metric::REUSED, reused),
    ];
    rates.into_iter().filter_map(|(event, rate)| Some((vec![("event", event.into())], rate?))).collect()
}

fn ratio(coverage: &Coverage) -> f64 {
    f64::from(coverage.percent) / 100.0
}

/// A registry that takes gauges with their values.
struct Page(Registry);

impl Page {
    /// A metric without labels; left out where it is unknown.
    fn one<N>(&mut self, name: &str, help: &str, value: Option<N>)
    where
        N: EncodeGaugeValue + Debug + Send + Sync + 'static,
        AtomicU64: Atomic<N>,
    {
        if let Some(value) = value {
            let gauge = Gauge::<N, AtomicU64>::default();
            gauge.set(value);
            self.0.register(name, help, gauge);
        }
    }

    /// A metric without a sample is left out.
    fn each<N>(&mut self, name: &str, help: &str, samples: impl IntoIterator<Item = Sample<N>>)
    where
        N: EncodeGaugeValue + Debug + Send + Sync + 'static,
        AtomicU64: Atomic<N>,
    {
        let family = Family::<Vec<(&'static str, String)>, Gauge<N, AtomicU64>>::default();
        for (labels, value) in samples {
            family.get_or_create(&labels).set(value);
        }
        self.0.register(name, help, family);
    }

    fn per_tuning<N>(
        &mut self,
        name: &str,
        help: &str,
        tunings: &[Summary<'_>],
        samples: impl Fn(&TcpCloseTuningStatus) -> Vec<Sample<N>>,
    ) where
        N: EncodeGaugeValue + Debug + Send + Sync + 'static,
        AtomicU64: Atomic<N>,
    {
        let all = tunings.iter().flat_map(|(tuning, status)| {
            let named = ("tuning", tuning.name.clone());
            let of_one = samples(status).into_iter();
            of_one
                .map(move |(labels, value)| ([vec![named.clone()], labels].concat(), value))
                .collect::<Vec<_>>()
        });
        self.each(name, help, all);
    }
}
