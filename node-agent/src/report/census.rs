//! A census as a status says it. What the census does not know is absent.

use crds::node::{Conntrack, PairUse, Pods, PortCount, Ports, Rates, Side, Sockets, Sockstat, States};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use tcp_close::counters;
use tcp_close::reach::Reach;
use tcp_close::sockets::SocketCounts;

use super::clip;
use crate::sample::{self, Census, Dated, Pair, PodCensus, PodCounts, PortUse};

/// The most ports, pairs and pods that fit the schema.
const PORTS_MAX: usize = 10;
const PAIRS_MAX: usize = 5;
const PODS_MAX: usize = 30;
/// Twice the longest time that a change is watched for before other nodes follow.
const SINCE_SECONDS_MAX: u32 = 2 * 86_400;

/// The states of the own namespace, with the machine's orphans beside them.
pub(crate) fn sockets(census: &Census) -> Option<Sockets> {
    Some(Sockets {
        states: states(census.states?),
        machine_orphans: census.sockstat?.value.machine_orphans,
        unattributed_orphans: census.unattributed_orphans,
    })
}

/// What the kernel counts itself.
pub(crate) fn sockstat(census: &Census) -> Option<Sockstat> {
    let Dated { value, at } = census.sockstat?;
    Some(Sockstat { time_wait_and_fin_wait2: value.tw, measured_at: Some(Time(at)) })
}

/// How connections ended before a sysctl was changed, while anybody may compare that with how they end since.
pub(crate) fn rates_before(census: &Census) -> Option<Rates> {
    census.rates_before.filter(|_| census.rates_since.is_none_or(is_recent)).map(Rates::from)
}

/// How they end since then.
pub(crate) fn rates_since(census: &Census) -> Option<Rates> {
    census.rates_since.filter(|rates| is_recent(*rates)).map(Rates::from)
}

fn is_recent(since: counters::Rates) -> bool {
    since.seconds <= SINCE_SECONDS_MAX
}

/// How connections end.
pub(crate) fn rates(census: &Census) -> Option<Rates> {
    census.rates.map(Rates::from)
}

/// The connection tracker's table.
pub(crate) fn conntrack(census: &Census) -> Option<Conntrack> {
    let table = census.conntrack?;
    Some(Conntrack { entries: table.entries, max: table.max })
}

/// Ports in use; addresses only where peers are to be reported.
pub(crate) fn ports(census: &Census, report_peers: bool) -> Option<Ports> {
    let Dated { value: PortUse { behind, pairs, available }, at } = census.ports.as_ref()?;
    let most = behind.iter().take(PORTS_MAX).copied().map(port_count);
    let pair = |pair: &Pair| PairUse {
        source: report_peers.then(|| pair.source.to_string()),
        destination: report_peers.then(|| pair.destination.0.to_string()),
        destination_port: pair.destination.1,
        used: pair.used,
        available: *available,
    };
    Some(Ports {
        most: most.collect(),
        pairs: pairs.iter().take(PAIRS_MAX).map(pair).collect(),
        measured_at: Some(Time(*at)),
    })
}

/// The sockets behind one port.
pub(crate) fn port_count(behind: sample::PortCount) -> PortCount {
    PortCount {
        state: behind.state.name().into(),
        side: if behind.local { Side::Local } else { Side::Remote },
        port: behind.port,
        sockets: behind.sockets,
    }
}

/// The pods' namespaces, or why nothing is known of them.
pub(crate) fn pods(census: &Census) -> Option<Pods> {
    Some(match census.pods.as_ref()? {
        Ok(known) => known_pods(known),
        Err(why) => Pods { unknown: Some(clip(why)), ..Pods::default() },
    })
}

fn known_pods(PodCensus { at, namespaces, unread, minis, most }: &PodCensus) -> Pods {
    Pods {
        unknown: None,
        namespaces: Some(*namespaces),
        unread: Some(*unread),
        time_wait_and_fin_wait2: Some(*minis),
        measured_at: Some(Time(*at)),
        most: most.iter().take(PODS_MAX).map(pod).collect(),
    }
}

fn pod(PodCounts { pod, minis, overflows_per_minute, states: counted }: &PodCounts) -> crds::node::PodCounts {
    crds::node::PodCounts {
        namespace: pod.as_ref().map(|pod| pod.namespace.clone()),
        name: pod.as_ref().map(|pod| pod.name.clone()),
        time_wait_and_fin_wait2: *minis,
        overflows_per_minute: *overflows_per_minute,
        states: counted.map(states),
    }
}

/// The states of one namespace.
pub(crate) fn states(Dated { value: counts, at }: Dated<SocketCounts>) -> States {
    States {
        time_wait: counts.time_wait,
        orphans: counts.orphans,
        zero_window_orphans: Some(counts.zero_window_orphans),
        fin_wait1: counts.fin_wait1,
        fin_wait2: counts.fin_wait2,
        fin_wait2_held: Some(counts.fin_wait2_held),
        closing: counts.closing,
        close_wait: counts.close_wait,
        unaccepted: Some(counts.unaccepted),
        last_ack: counts.last_ack,
        measured_at: Some(Time(at)),
    }
}

/// How much of what closes on this node its sysctls reach; `None` where its pods are not known.
pub(crate) fn reach(census: &Census) -> Option<Reach> {
    let pods = census.pods.as_ref()?.as_ref().ok()?;
    Some(Reach { in_nodes: census.sockstat?.value.tw, in_pods: pods.minis })
}

#[cfg(test)]
pub(super) mod tests {
    use std::net::Ipv4Addr;

    use jiff::Timestamp;
    use tcp_close::sockets::State;

    use super::*;
    use crate::sample::{self, PodName};

    fn dated<T>(value: T, at: Timestamp) -> Dated<T> {
        Dated { value, at }
    }

    /// A census that knows something of everything, of a node with 3,600 mini-sockets and pods with 20,400.
    pub(in crate::report) fn full(at: Timestamp) -> Census {
        let leak = PodCounts {
            pod: Some(PodName { namespace: "shop".into(), name: "web-1".into() }),
            minis: 20_000,
            overflows_per_minute: Some(0),
            states: Some(dated(SocketCounts { close_wait: 812, ..SocketCounts::default() }, at)),
        };
        let source = Ipv4Addr::new(192, 0, 2, 1).into();
        let pair = Pair { source, destination: (Ipv4Addr::new(198, 51, 100, 7).into(), 5432), used: 28_000 };
        let behind = sample::PortCount { state: State::TimeWait, local: true, port: 443, sockets: 3500 };
        Census {
            sockstat: Some(dated(tcp_close::sockets::Sockstat { tw: 3600, machine_orphans: 7 }, at)),
            states: Some(dated(SocketCounts { time_wait: 3500, ..SocketCounts::default() }, at)),
            rates: Some(counters::Rates { seconds: 60, overflows: Some(0), ..counters::Rates::default() }),
            rates_since: Some(counters::Rates { seconds: 600, ..counters::Rates::default() }),
            rates_before: None,
            conntrack: Some(sample::Conntrack { entries: 5, max: 262_144 }),
            ports: Some(dated(PortUse { behind: vec![behind], pairs: vec![pair], available: 28_232 }, at)),
            pods: Some(Ok(PodCensus { at, namespaces: 12, unread: 1, minis: 20_400, most: vec![leak] })),
            unattributed_orphans: Some(4),
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn what_a_census_does_not_know_is_absent_not_zero() {
        let empty = Census::default();
        assert_eq!((sockets(&empty), sockstat(&empty), rates(&empty)), (None, None, None));
        assert_eq!((conntrack(&empty), ports(&empty, true), pods(&empty)), (None, None, None));
        assert_eq!((rates_before(&empty), rates_since(&empty), reach(&empty)), (None, None, None));
    }

    #[test]
    fn how_connections_ended_before_a_change_and_end_since_is_told_for_two_days() {
        let after = |seconds| {
            let over = |seconds| Some(counters::Rates { seconds, ..counters::Rates::default() });
            let census = Census { rates_before: over(60), rates_since: over(seconds), ..Census::default() };
            [rates_before(&census), rates_since(&census)].map(|rates| rates.map(|rates| rates.seconds))
        };
        assert_eq!((after(86_400), after(172_801)), ([Some(60), Some(86_400)], [None, None]));
    }

    #[test]
    fn the_kernels_own_figures_are_known_where_the_states_are_not() {
        let census = Census { states: None, ..full(at(1)) };
        assert_eq!(sockets(&census), None);
        assert_eq!(sockstat(&census).map(|sockstat| sockstat.time_wait_and_fin_wait2), Some(3600));
    }

    #[test]
    fn every_count_has_its_own_age() {
        let (older, newer) = (full(at(1)), full(at(2)));
        let census = Census { states: older.states, pods: older.pods, ..newer };
        assert_eq!(sockets(&census).unwrap().states.measured_at, Some(Time(at(1))));
        assert_eq!(sockstat(&census).unwrap().measured_at, Some(Time(at(2))));
        assert_eq!(ports(&census, false).unwrap().measured_at, Some(Time(at(2))));
        let pods = pods(&census).unwrap();
        assert_eq!(pods.measured_at, Some(Time(at(1))));
        assert_eq!(pods.most[0].states.as_ref().unwrap().measured_at, Some(Time(at(1))));
    }

    #[test]
    fn addresses_of_peers_are_reported_only_where_the_agent_is_told_to() {
        let pair = |report_peers| ports(&full(at(1)), report_peers).unwrap().pairs.remove(0);
        assert_eq!((pair(false).source, pair(false).destination), (None, None));
        assert_eq!(
            (pair(false).destination_port, pair(false).used, pair(false).available),
            (5432, 28_000, 28_232)
        );
        let told = pair(true);
        assert_eq!(
            (told.source.as_deref(), told.destination.as_deref()),
            (Some("192.0.2.1"), Some("198.51.100.7"))
        );
    }

    #[test]
    fn pods_that_cannot_be_counted_are_unknown_with_a_reason_and_without_numbers() {
        let census = Census { pods: Some(Err("/proc shows no other process".into())), ..full(at(1)) };
        let expected = Pods { unknown: Some("/proc shows no other process".into()), ..Pods::default() };
        assert_eq!((pods(&census), reach(&census)), (Some(expected), None));
    }

    #[test]
    fn a_pod_that_nobody_can_name_is_counted_all_the_same() {
        let mut census = full(at(1));
        if let Some(Ok(pods)) = &mut census.pods {
            pods.most[0].pod = None;
        }
        let pods = pods(&census).unwrap();
        let unnamed = &pods.most[0];
        assert_eq!(
            (&unnamed.namespace, &unnamed.name, unnamed.time_wait_and_fin_wait2),
            (&None, &None, 20_000)
        );
    }

    #[test]
    fn lists_are_as_long_as_the_schema_lets_them_be() {
        let mut census = full(at(1));
        let ports_found = &mut census.ports.as_mut().unwrap().value;
        ports_found.behind = vec![ports_found.behind[0]; 99];
        ports_found.pairs = vec![ports_found.pairs[0]; 99];
        if let Some(Ok(pods)) = &mut census.pods {
            pods.most = vec![pods.most[0].clone(); 99];
        }
        let ports = ports(&census, true).unwrap();
        assert_eq!((ports.most.len(), ports.pairs.len(), pods(&census).unwrap().most.len()), (10, 5, 30));
    }
}
