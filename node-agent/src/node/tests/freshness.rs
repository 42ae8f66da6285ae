//! How old what a turn goes by may be.

use super::*;

#[test]
fn a_write_is_judged_by_what_is_so_now_and_not_a_moment_ago() {
    let machine = Machine::new(&[FIN_TIMEOUT, (Sysctl::OrphanRetries, "8\n")]);
    let mut node = machine.node();
    let ordered = order(1, &json!([set(Sysctl::FinTimeout, 60)]));
    node.turn(&ordered, true, machine.at(0));
    fs::write(machine.dir.path().join("sys/net/ipv4/tcp_rto_max_ms"), "1000\n").unwrap();
    let turn = node.turn(&order(2, &json!([set(Sysctl::OrphanRetries, 0)])), true, machine.at(1));
    let finding = &turn.findings[0];
    assert_eq!((finding.state, finding.rule), (State::Refused, Some("orphan-retries-0-with-low-rto-max")));
    assert_eq!(machine.live(Sysctl::OrphanRetries), Some(8));
}

#[test]
fn what_is_in_force_is_at_risk_within_five_seconds_of_a_fact_that_moves() {
    let machine = Machine::new(&[(Sysctl::OrphanRetries, "0\n")]);
    let mut node = machine.node();
    let order = order(1, &json!([set(Sysctl::OrphanRetries, 0)]));
    let mut state = |second| node.turn(&order, true, machine.at(second)).findings[0].state;
    assert_eq!(state(0), State::Applied);
    fs::write(machine.dir.path().join("sys/net/ipv4/tcp_rto_max_ms"), "1000\n").unwrap();
    assert_eq!(state(6), State::AtRisk);
}

#[test]
fn a_turn_that_finds_the_same_as_the_last_one_is_told_from_one_with_news() {
    let machine = Machine::new(&[FIN_TIMEOUT]);
    let mut node = machine.node();
    let order = order(1, &json!([set(Sysctl::FinTimeout, 30)]));
    let written = machine.turn(&mut node, &order);
    let quiet = machine.turn(&mut node, &order);
    assert!(!quiet.found_the_same_as(&written), "something was written");
    assert!(machine.turn(&mut node, &order).found_the_same_as(&quiet));
    machine.set(Sysctl::FinTimeout, 45);
    assert!(!machine.turn(&mut node, &order).found_the_same_as(&quiet), "something was put right");
    fs::write(machine.state().join(HOLD_FILE), "").unwrap();
    assert!(!machine.turn(&mut node, &order).found_the_same_as(&quiet), "nothing may be written any longer");
}
