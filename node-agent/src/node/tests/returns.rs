//! Returns to what an order calls in force before. Retries of 2 are a caution, so that only a return is let through.

use super::*;

const KEY: Sysctl = Sysctl::OrphanRetries;
const FEW: i64 = 2;

fn machine() -> Machine {
    Machine::new(&[(KEY, "8\n")])
}

fn acknowledged() -> serde_json::Value {
    let mut entry = set(KEY, FEW);
    entry["acknowledge"] = json!(["orphan-retries-2"]);
    entry
}

fn back_to(value: i64) -> serde_json::Value {
    let mut entry = set(KEY, value);
    entry["rollback"] = true.into();
    entry
}

/// The orders, one after the other, each by an agent that has just started; what the last one came to.
fn restarted(machine: &Machine, orders: &[serde_json::Value]) -> (Vec<State>, Option<i64>) {
    let states = (1..).zip(orders).map(|(generation, entry)| {
        let entries = if entry.is_array() { entry.clone() } else { json!([entry]) };
        states(&machine.turn(&mut machine.node(), &order(generation, &entries)))
    });
    (states.last().unwrap_or_default(), machine.live(KEY))
}

#[test]
fn a_return_to_a_value_that_was_refused_here_is_refused() {
    let machine = machine();
    assert_eq!(restarted(&machine, &[set(KEY, FEW)]), (vec![State::Refused], Some(8)));
    let orders = [set(KEY, FEW), set(KEY, 5), back_to(FEW)];
    assert_eq!(restarted(&machine, &orders), (vec![State::Refused], Some(5)));
}

#[test]
fn a_return_of_a_node_that_joined_after_the_value_was_in_force_elsewhere_is_judged() {
    assert_eq!(restarted(&machine(), &[set(KEY, 5), back_to(FEW)]), (vec![State::Refused], Some(5)));
    assert_eq!(restarted(&machine(), &[back_to(FEW)]), (vec![State::Refused], Some(8)));
}

#[test]
fn a_return_to_tw_recycle_that_was_refused_behind_nat_is_refused() {
    let machine = Machine::new(&[(Sysctl::TwRecycle, "0\n"), FIN_TIMEOUT]);
    fs::write(machine.dir.path().join("sys/kernel/osrelease"), "4.4.0-31-generic\n").unwrap();
    let masqueraded =
        "tcp 6 src=10.9.9.9 dst=10.0.0.2 sport=4 dport=80 src=10.0.0.2 dst=10.0.0.1 sport=80 dport=4";
    fs::write(machine.dir.path().join("self/net/nf_conntrack"), masqueraded).unwrap();
    let mut recycle = set(Sysctl::TwRecycle, 1);
    recycle["clientsBehindNat"] = "Never".into();
    recycle["acknowledge"] = json!(["tw-recycle-nothing-seen"]);
    let mut node = machine.node();
    for (generation, rollback) in [(1, false), (3, true)] {
        machine.turn(&mut node, &order(generation, &json!([set(Sysctl::FinTimeout, 20)])));
        recycle["rollback"] = rollback.into();
        let turn = machine.turn(&mut node, &order(generation + 1, &json!([recycle])));
        assert_eq!(turn.findings[0].rule, Some("tw-recycle-nat-seen"));
        assert_eq!(machine.live(Sysctl::TwRecycle), Some(0));
    }
}

#[test]
fn a_return_to_a_value_that_was_in_force_needs_no_acknowledgement_also_after_a_restart() {
    let applied = (vec![State::AtRisk], Some(FEW));
    let settle = |orders: &[serde_json::Value]| {
        let machine = machine();
        restarted(&machine, orders);
        // The turn that writes says Applied, the next one that a rule is against it.
        let last = json!([orders[orders.len() - 1]]);
        (states(&machine.turn(&mut machine.node(), &order(99, &last))), machine.live(KEY))
    };
    assert_eq!(settle(&[acknowledged(), set(KEY, 5), back_to(FEW)]), applied);
    let several = [acknowledged(), set(KEY, 5), set(KEY, 6), set(KEY, 7), back_to(FEW)];
    assert_eq!(settle(&several), applied, "after several edits");
    let restored = [acknowledged(), entry(KEY, "Restore", None), json!([]), back_to(FEW)];
    assert_eq!(settle(&restored), applied, "after an edit that ordered it no longer");
    let released = [acknowledged(), entry(KEY, "Release", None), set(KEY, 5), back_to(FEW)];
    assert_eq!(settle(&released), applied, "after it was let go");
}

#[test]
fn a_value_that_a_killed_agent_wrote_and_never_confirmed_was_in_force() {
    let machine = machine();
    restarted(&machine, &[acknowledged()]);
    let saved = journal(&machine.state());
    restarted(&machine, &[acknowledged(), set(KEY, 5)]);
    // The kernel has the value of the second order, the journal only that it was about to be written.
    let body = saved.split_once('\n').unwrap().1;
    let intended = body.replace("\"confirmed\": 2", "\"confirmed\": 2,\n      \"intended\": 5");
    assert_ne!(body, intended);
    fs::write(machine.state().join("journal"), journal::sealed(&intended)).unwrap();
    fs::remove_file(machine.state().join("earlier")).unwrap();
    machine.turn(&mut machine.node(), &order(3, &json!([set(KEY, 6)])));
    let journal =
        machine.node().journal().map(|journal| [FEW, 5, 6, 7].map(|it| journal.was_in_force(KEY, it)));
    assert_eq!(journal.unwrap(), [true, true, true, false]);
}

#[test]
fn a_value_that_was_in_force_in_another_life_is_judged_like_any_other() {
    let machine = machine();
    restarted(&machine, &[acknowledged(), set(KEY, 5)]);
    fs::write(machine.dir.path().join("sys/kernel/random/boot_id"), "another\n").unwrap();
    machine.set(KEY, 8);
    let turn = machine.turn(&mut machine.node(), &order(3, &json!([back_to(FEW)])));
    assert_eq!((states(&turn), machine.live(KEY)), (vec![State::Refused], Some(8)));
}
