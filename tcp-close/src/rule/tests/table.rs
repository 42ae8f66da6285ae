use super::*;

#[test]
fn ids_are_unique_and_lower_case_words() {
    let ids: BTreeSet<_> = RULES.iter().map(|rule| rule.id).collect();
    assert_eq!(ids.len(), RULES.len());
    for id in ids {
        assert!(
            id.len() <= 64 && id.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'),
            "{id}"
        );
    }
}

#[test]
fn no_rule_is_without_words_or_source() {
    for rule in RULES {
        assert!(!rule.wrong.is_empty() && !rule.source.is_empty(), "{}", rule.id);
        assert!(!rule.wrong.ends_with('.') && !rule.instead.ends_with('.'), "{}", rule.id);
    }
}

#[test]
fn every_rule_that_judges_a_value_has_its_test() {
    let tests = concat!(include_str!("object.rs"), include_str!("on_node.rs"));
    for rule in RULES.iter().filter(|rule| !matches!(rule.sees, Sees::EveryOrder)) {
        assert!(tests.contains(&format!("\"{}\"", rule.id)), "{}", rule.id);
    }
}

#[test]
fn ordinary_values_are_met_with_silence() {
    let ordinary = [
        (Sysctl::FinTimeout, vec![10, 30, 60]),
        (Sysctl::OrphanRetries, vec![4, 5, 8]),
        (Sysctl::MaxOrphans, vec![32_768, 131_072]),
        (Sysctl::MaxTwBuckets, vec![131_072]),
        (Sysctl::TwReuse, vec![0, 1, 2]),
        (Sysctl::TwReuseDelay, vec![1000]),
        (Sysctl::Timestamps, vec![1]),
        (Sysctl::TwRecycle, vec![0]),
    ];
    for (sysctl, values) in ordinary {
        for value in values {
            let Scene { ordered, live, word, facts, acknowledged } = scene(sysctl, value);
            let case = Case {
                sysctl,
                value,
                ordered: &ordered,
                live: &live,
                clients_behind_nat: word,
                facts: &facts,
            };
            assert_eq!(opine(&case, &acknowledged), Opinion::default(), "{sysctl} = {value}");
        }
    }
}

#[test]
fn a_fresh_agent_without_history_can_tune_and_says_what_it_does_not_know() {
    for rule in RULES.iter().filter(|rule| rule.severity != Severity::Refuse) {
        let Some(sysctl) = rule.sysctl else { continue };
        let value = *sysctl.facts().sensible.start();
        let said = node_rule(rule.id, sysctl, value, NodeFacts::unknown());
        assert!(!matches!(said, Said::Refused(_)), "{}: {said:?}", rule.id);
    }
    let said = node_rule("max-tw-buckets-below-default", Sysctl::MaxTwBuckets, 20_000, NodeFacts::unknown());
    assert_eq!(
        said,
        remarked(
            "net.ipv4.tcp_max_tw_buckets = 20000: not judged, because the node's memory or kernel version cannot be read"
        )
    );
}

#[test]
fn cautions_and_nothing_else_can_be_acknowledged() {
    for rule in RULES {
        assert_eq!(cautions().any(|id| id == rule.id), rule.severity == Severity::Caution, "{}", rule.id);
    }
}

fn said_of_every_order_with(reach: Option<Reach>) -> Vec<String> {
    said_of_every_order(reach).map(|remark| remark.message).collect()
}

#[test]
fn one_thing_is_said_of_every_order() {
    let said = "pods have network namespaces of their own, which start with the kernel's defaults and do not inherit these \
                values: they reach host-network pods and the node's own programs";
    assert_eq!(said_of_every_order_with(None), [said]);
    let nothing_closes = Reach { in_nodes: 0, in_pods: 0 };
    assert_eq!(said_of_every_order_with(Some(nothing_closes)), [said], "there is no share of nothing");
}

#[test]
fn what_an_order_reaches_is_said_in_figures_where_pods_are_counted() {
    assert_eq!(
        said_of_every_order_with(Some(Reach { in_nodes: 3600, in_pods: 20_400 })),
        [
            "pods have network namespaces of their own, which start with the kernel's defaults and do not inherit these values \
             (of the 24000 sockets here in TIME_WAIT, or in FIN_WAIT2 after close(), 15 % are in the node's own): they reach \
             host-network pods and the node's own programs"
        ]
    );
}
