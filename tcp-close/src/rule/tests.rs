//! For every rule: values where it fires, values where it does not, and its message in full.

use super::*;
use crate::kernel::{Connections, KernelVersion, Nat, Peak, Watched};
use crate::order::Readings;

const GIB: u64 = 1 << 30;

/// 24 GiB, Linux 6.18, nothing unusual.
fn node() -> NodeFacts {
    NodeFacts {
        kernel: Some(KernelVersion::new(6, 18)),
        first_namespace: true,
        memory_bytes: Some(24 * GIB),
        rto_max_ms: Some(120_000),
        tcp_mem_bytes: Some(8 * GIB + GIB / 2),
        local_ports: Some((32_768, 60_999)),
        orphans: Watched { now: Some(0), peak: None },
        connections: Some(Connections { opened: 100, accepted: 100 }),
        ..NodeFacts::unknown()
    }
}

/// What a rule says of a value.
#[derive(Debug, PartialEq)]
enum Said {
    Nothing,
    Refused(String),
    Remarked(String),
}

struct Scene {
    ordered: BTreeMap<Sysctl, i64>,
    live: Readings,
    word: ClientsBehindNat,
    acknowledged: BTreeSet<String>,
    facts: NodeFacts,
}

fn scene(sysctl: Sysctl, value: i64) -> Scene {
    Scene {
        ordered: BTreeMap::from([(sysctl, value)]),
        live: Sysctl::ALL.into_iter().map(|sysctl| (sysctl, Reading::Value(1))).collect(),
        word: ClientsBehindNat::Unknown,
        acknowledged: BTreeSet::new(),
        facts: node(),
    }
}

impl Scene {
    fn says(&self, rule: &str, sysctl: Sysctl) -> Said {
        let value = self.ordered[&sysctl];
        let Self { ordered, live, word, facts, acknowledged } = self;
        let case = Case { sysctl, value, ordered, live, clients_behind_nat: *word, facts };
        let opinion = opine(&case, acknowledged);
        let refused = opinion.refusals.into_iter().find(|refusal| refusal.rule == rule);
        let remarked = opinion.remarks.into_iter().find(|remark| remark.rule == rule);
        match (refused, remarked) {
            (Some(refusal), _) => Said::Refused(refusal.message),
            (None, Some(remark)) => Said::Remarked(remark.message),
            (None, None) => Said::Nothing,
        }
    }
}

/// A rule that sees one key in the object: where it fires, where it does not, and what it says of the first.
fn object_rule(rule: &str, sysctl: Sysctl, fires: &[i64], silent: &[i64], said: &Said) {
    for value in fires {
        assert_ne!(scene(sysctl, *value).says(rule, sysctl), Said::Nothing, "{rule}: {value}");
    }
    for value in silent {
        assert_eq!(scene(sysctl, *value).says(rule, sysctl), Said::Nothing, "{rule}: {value}");
    }
    assert_eq!(&scene(sysctl, fires[0]).says(rule, sysctl), said, "{rule}");
}

/// A rule that looks at the node.
fn node_rule(rule: &str, sysctl: Sysctl, value: i64, facts: NodeFacts) -> Said {
    Scene { facts, ..scene(sysctl, value) }.says(rule, sysctl)
}

fn refused(message: &str) -> Said {
    Said::Refused(message.into())
}

fn remarked(message: &str) -> Said {
    Said::Remarked(message.into())
}

fn peak(count: u64) -> Watched {
    Watched { now: Some(0), peak: Some(Peak { count, seconds: 3 * 3600 }) }
}

mod object;
mod on_node;
mod table;
