//! What the rules let an agent write.

use super::*;

#[test]
fn a_refused_key_is_not_written_and_its_rule_is_named() {
    let machine = Machine::new(&[FIN_TIMEOUT]);
    let orders = json!([set(Sysctl::TwRecycle, 1), set(Sysctl::FinTimeout, 30)]);
    let turn = machine.turn(&mut machine.node(), &order(1, &orders));
    assert_eq!(machine.live(Sysctl::FinTimeout), Some(60));
    let rules: Vec<_> = turn.findings.iter().map(|finding| (finding.state, finding.rule)).collect();
    // What is held back with it breaks no rule of its own.
    assert_eq!(rules, [(State::Refused, None), (State::Refused, Some("tw-recycle-removed"))]);
}

#[test]
fn on_an_old_kernel_tw_recycle_is_refused_behind_nat_and_written_only_where_nothing_speaks_against_it() {
    // What the connection tracker of a 4.4 node shows: first a plain connection, then one that is masqueraded.
    let plain = "tcp 6 src=10.0.0.1 dst=10.0.0.2 sport=4 dport=80 src=10.0.0.2 dst=10.0.0.1 sport=80 dport=4";
    let masqueraded =
        "tcp 6 src=10.9.9.9 dst=10.0.0.2 sport=4 dport=80 src=10.0.0.2 dst=10.0.0.1 sport=80 dport=4";
    let mut entry = set(Sysctl::TwRecycle, 1);
    entry["clientsBehindNat"] = "Never".into();
    entry["acknowledge"] = json!(["tw-recycle-nothing-seen"]);
    let order = order(1, &json!([entry]));
    for (conntrack, rule, live) in [
        (Some(masqueraded), Some("tw-recycle-nat-seen"), 0),
        (None, Some("tw-recycle-nat-unknown"), 0),
        (Some(plain), None, 1),
    ] {
        let machine = Machine::new(&[(Sysctl::TwRecycle, "0\n")]);
        fs::write(machine.dir.path().join("sys/kernel/osrelease"), "4.4.0-31-generic\n").unwrap();
        if let Some(lines) = conntrack {
            fs::write(machine.dir.path().join("self/net/nf_conntrack"), lines).unwrap();
        }
        let turn = machine.turn(&mut machine.node(), &order);
        assert_eq!(
            (turn.findings[0].rule, machine.live(Sysctl::TwRecycle)),
            (rule, Some(live)),
            "{conntrack:?}"
        );
    }
}

#[test]
fn a_value_in_force_that_a_rule_would_refuse_now_is_at_risk_and_stays() {
    let machine = Machine::new(&[(Sysctl::FinTimeout, "65\n")]);
    let order = order(1, &json!([set(Sysctl::FinTimeout, 65)]));
    let turn = machine.turn(&mut machine.node(), &order);
    let finding = &turn.findings[0];
    assert_eq!((finding.state, finding.rule), (State::AtRisk, Some("fin-timeout-61-to-89")));
    assert_eq!(machine.live(Sysctl::FinTimeout), Some(65));
}

#[test]
fn a_caution_is_refused_until_it_is_acknowledged_and_said_afterwards() {
    let machine = Machine::new(&[(Sysctl::OrphanRetries, "0\n")]);
    let mut node = machine.node();
    let mut entry = set(Sysctl::OrphanRetries, 2);
    assert_eq!(states(&machine.turn(&mut node, &order(1, &json!([entry])))), [State::Refused]);
    entry["acknowledge"] = json!(["orphan-retries-2"]);
    let turn = machine.turn(&mut node, &order(2, &json!([entry])));
    assert_eq!((states(&turn), machine.live(Sysctl::OrphanRetries)), (vec![State::Applied], Some(2)));
    assert_eq!(turn.findings[0].remarks[0].rule, "orphan-retries-2");
}

#[test]
fn a_value_that_is_below_the_peak_is_refused_with_the_peak() {
    let machine = Machine::new(&[(Sysctl::MaxTwBuckets, "131072\n")]);
    let sockstat = "TCP: inuse 1 orphan 0 tw 60000 alloc 1 mem 1\n";
    fs::write(machine.dir.path().join("self/net/sockstat"), sockstat).unwrap();
    let mut node = machine.node();
    let order = order(1, &json!([set(Sysctl::MaxTwBuckets, 70_000)]));
    node.turn(&Order { entries: Entries::new(), ..order.clone() }, true, machine.at(0));
    let turn = node.turn(&order, true, machine.at(61));
    let finding = &turn.findings[0];
    assert_eq!((finding.state, finding.rule), (State::Refused, Some("max-tw-buckets-below-peak")));
    assert!(finding.message.as_ref().unwrap().contains("1.25 x 60000 (in 6"), "{:?}", finding.message);
}
