use std::fs;
use std::path::Path;

use crds::TcpCloseNode;
use serde_json::json;

use super::*;
use crate::procfs::tests::tree;

mod convergence;
mod freshness;
mod obstacles;
mod returns;
mod rules;

struct Machine {
    dir: tempfile::TempDir,
    procfs: Procfs,
    start: Instant,
}

impl Machine {
    fn new(sysctls: &[(Sysctl, &str)]) -> Self {
        let (dir, procfs) = tree(sysctls);
        Self { dir, procfs, start: Instant::now() }
    }

    /// A node as it is after its agent has started.
    fn node(&self) -> Node {
        Node::new(self.procfs.clone(), self.state(), Sentinel::Trusts)
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    fn file(&self, sysctl: Sysctl) -> PathBuf {
        self.dir.path().join("sys/net/ipv4").join(sysctl.file())
    }

    fn live(&self, sysctl: Sysctl) -> Option<i64> {
        self.procfs.read_sysctl(sysctl).value()
    }

    /// What another program would do.
    fn set(&self, sysctl: Sysctl, value: i64) {
        fs::write(self.file(sysctl), format!("{value}\n")).unwrap();
    }

    /// So many seconds after the start.
    fn at(&self, seconds: u64) -> Moment {
        Moment { clock: self.start + Duration::from_secs(seconds), wall: Timestamp::UNIX_EPOCH }
    }

    fn turn(&self, node: &mut Node, order: &Order) -> Turn {
        node.turn(order, true, self.at(0))
    }
}

fn order(generation: i64, sysctls: &serde_json::Value) -> Order {
    observing(generation, sysctls, &json!([]))
}

fn observing(generation: i64, sysctls: &serde_json::Value, observe: &serde_json::Value) -> Order {
    let object: TcpCloseNode = serde_json::from_value(json!({
        "apiVersion": "tcpclose.dev/v1alpha1",
        "kind": "TcpCloseNode",
        "metadata": { "name": "node-1", "uid": "u", "generation": generation },
        "spec": {
            "nodeUID": "n", "revision": format!("r{generation}"), "reportIntervalSeconds": 20,
            "sysctls": sysctls, "observe": observe,
        },
    }))
    .unwrap();
    Order::decode(&object)
}

fn entry(sysctl: Sysctl, action: &str, value: Option<i64>) -> serde_json::Value {
    let mut entry = json!({
        "name": sysctl.name(), "action": action, "removalPolicy": "Restore",
        "tuning": { "name": "web", "uid": "t", "revision": "1" },
    });
    if let Some(value) = value {
        entry["value"] = value.into();
    }
    entry
}

fn set(sysctl: Sysctl, value: i64) -> serde_json::Value {
    entry(sysctl, "Set", Some(value))
}

fn states(turn: &Turn) -> Vec<State> {
    turn.findings.iter().map(|finding| finding.state).collect()
}

fn journal(state: &Path) -> String {
    fs::read_to_string(state.join("journal")).unwrap_or_default()
}

const FIN_TIMEOUT: (Sysctl, &str) = (Sysctl::FinTimeout, "60\n");

#[test]
fn an_order_is_written_and_read_back() {
    let machine = Machine::new(&[FIN_TIMEOUT]);
    let turn = machine.turn(&mut machine.node(), &order(1, &json!([set(Sysctl::FinTimeout, 30)])));
    assert_eq!(machine.live(Sysctl::FinTimeout), Some(30));
    let finding = &turn.findings[0];
    assert_eq!(finding.state, State::Applied);
    assert_eq!((finding.live, finding.desired, finding.baseline), (Some(30), Some(30), Some(60)));
    assert_eq!(finding.written, Some(Cause::Ordered));
}

#[test]
fn a_turn_that_finds_all_in_order_writes_nothing() {
    let machine = Machine::new(&[FIN_TIMEOUT]);
    let order = order(1, &json!([set(Sysctl::FinTimeout, 30)]));
    machine.turn(&mut machine.node(), &order);
    let before = (
        journal(&machine.state()),
        fs::metadata(machine.file(Sysctl::FinTimeout)).unwrap().modified().unwrap(),
    );
    let turn = machine.turn(&mut machine.node(), &order);
    let after = (
        journal(&machine.state()),
        fs::metadata(machine.file(Sysctl::FinTimeout)).unwrap().modified().unwrap(),
    );
    assert_eq!(before, after);
    assert_eq!(turn.findings[0].written, None);
}

#[test]
fn the_baseline_survives_a_restart_of_the_agent() {
    let machine = Machine::new(&[FIN_TIMEOUT]);
    machine.turn(&mut machine.node(), &order(1, &json!([set(Sysctl::FinTimeout, 30)])));
    machine.turn(&mut machine.node(), &order(2, &json!([set(Sysctl::FinTimeout, 20)])));
    let turn =
        machine.turn(&mut machine.node(), &order(3, &json!([entry(Sysctl::FinTimeout, "Restore", None)])));
    assert_eq!(machine.live(Sysctl::FinTimeout), Some(60));
    assert_eq!(states(&turn), [State::Restored]);
}

#[test]
fn a_foreign_change_is_put_right_and_counted() {
    let machine = Machine::new(&[FIN_TIMEOUT]);
    let mut node = machine.node();
    let order = order(1, &json!([set(Sysctl::FinTimeout, 30)]));
    machine.turn(&mut node, &order);
    machine.set(Sysctl::FinTimeout, 45);
    let turn = machine.turn(&mut node, &order);
    assert_eq!(machine.live(Sysctl::FinTimeout), Some(30));
    let corrections = turn.findings[0].drift.as_ref().map(|drift| drift.contention.corrections);
    assert_eq!((corrections, turn.findings[0].baseline), (Some(1), Some(60)));
}

#[test]
fn what_another_program_wrote_is_not_restored() {
    let machine = Machine::new(&[FIN_TIMEOUT]);
    machine.turn(&mut machine.node(), &order(1, &json!([set(Sysctl::FinTimeout, 30)])));
    machine.set(Sysctl::FinTimeout, 45);
    let restore = order(2, &json!([entry(Sysctl::FinTimeout, "Restore", None)]));
    for _ in 0..2 {
        let turn = machine.turn(&mut machine.node(), &restore);
        assert_eq!(states(&turn), [State::RestoreSkipped]);
        let message = turn.findings[0].message.as_deref();
        assert_eq!(message, Some("another program set it to 45, so it was left alone; before us it was 60"));
    }
    assert_eq!(machine.live(Sysctl::FinTimeout), Some(45));
    // The next order finds a new baseline.
    let turn = machine.turn(&mut machine.node(), &order(3, &json!([set(Sysctl::FinTimeout, 30)])));
    assert_eq!(turn.findings[0].baseline, Some(45));
}

#[test]
fn a_restore_waits_until_the_order_has_been_read_again() {
    let machine = Machine::new(&[FIN_TIMEOUT]);
    let mut node = machine.node();
    machine.turn(&mut node, &order(1, &json!([set(Sysctl::FinTimeout, 30)])));
    let turn =
        node.turn(&order(2, &json!([entry(Sysctl::FinTimeout, "Restore", None)])), false, machine.at(0));
    assert_eq!(machine.live(Sysctl::FinTimeout), Some(30));
    assert_eq!(states(&turn), [State::Restoring]);
}

#[test]
fn a_released_value_stays_and_its_baseline_is_forgotten() {
    let machine = Machine::new(&[FIN_TIMEOUT]);
    machine.turn(&mut machine.node(), &order(1, &json!([set(Sysctl::FinTimeout, 30)])));
    let turn =
        machine.turn(&mut machine.node(), &order(2, &json!([entry(Sysctl::FinTimeout, "Release", None)])));
    assert_eq!((states(&turn), machine.live(Sysctl::FinTimeout)), (vec![State::Released], Some(30)));
    let turn =
        machine.turn(&mut machine.node(), &order(3, &json!([entry(Sysctl::FinTimeout, "Restore", None)])));
    assert_eq!((states(&turn), machine.live(Sysctl::FinTimeout)), (vec![State::Restored], Some(30)));
}

#[test]
fn a_held_value_is_not_put_right() {
    let machine = Machine::new(&[FIN_TIMEOUT]);
    machine.turn(&mut machine.node(), &order(1, &json!([set(Sysctl::FinTimeout, 30)])));
    machine.set(Sysctl::FinTimeout, 45);
    let hold = order(2, &json!([entry(Sysctl::FinTimeout, "Hold", Some(30))]));
    let turn = machine.turn(&mut machine.node(), &hold);
    assert_eq!((states(&turn), machine.live(Sysctl::FinTimeout)), (vec![State::Held], Some(45)));
}

#[test]
fn a_key_without_an_entry_is_not_touched() {
    let machine = Machine::new(&[FIN_TIMEOUT]);
    machine.turn(&mut machine.node(), &order(1, &json!([set(Sysctl::FinTimeout, 30)])));
    let turn = machine.turn(&mut machine.node(), &order(2, &json!([])));
    assert_eq!((turn.findings.len(), machine.live(Sysctl::FinTimeout)), (0, Some(30)));
}

#[test]
fn an_older_order_is_not_carried_out() {
    let machine = Machine::new(&[FIN_TIMEOUT]);
    machine.turn(&mut machine.node(), &order(5, &json!([set(Sysctl::FinTimeout, 30)])));
    let turn = machine.turn(&mut machine.node(), &order(4, &json!([set(Sysctl::FinTimeout, 20)])));
    assert_eq!((states(&turn), machine.live(Sysctl::FinTimeout)), (vec![State::Failed], Some(30)));
}

#[test]
fn a_tuning_that_observes_writes_nothing_and_says_what_it_would_do() {
    let machine = Machine::new(&[FIN_TIMEOUT]);
    let observe = json!([{
        "tuning": { "name": "trial", "uid": "t2", "revision": "1" },
        "sysctls": { "tcpFinTimeoutSeconds": 30, "tcpMaxOrphans": 70000 },
    }]);
    let turn = machine.turn(&mut machine.node(), &observing(1, &json!([]), &observe));
    assert_eq!(machine.live(Sysctl::FinTimeout), Some(60));
    let would: Vec<_> = turn.observed[0].1.iter().map(|finding| (finding.state, finding.desired)).collect();
    assert_eq!(would, [(State::Unsupported, Some(70_000)), (State::WouldChange, Some(30))]);
}

#[test]
fn a_fight_is_given_up_after_a_few_rounds_and_said_with_how_often_and_since_when() {
    let machine = Machine::new(&[FIN_TIMEOUT]);
    let mut node = machine.node();
    let order = order(1, &json!([set(Sysctl::FinTimeout, 30)]));
    machine.turn(&mut node, &order);
    let mut corrections = 0;
    for second in 1..=290 {
        machine.set(Sysctl::FinTimeout, 45);
        node.turn(&order, true, machine.at(second));
        corrections += u32::from(machine.live(Sysctl::FinTimeout) == Some(30));
    }
    assert_eq!(corrections, tcp_close::contention::ROUNDS);
    let turn = node.turn(&order, true, machine.at(291));
    let finding = &turn.findings[0];
    assert_eq!((finding.state, finding.live), (State::Contended, Some(45)));
    assert_eq!(
        finding.message.as_deref(),
        Some(
            "another program keeps changing it, 5 times since 1970-01-01T00:00:00Z, last to 45; left alone until 00:00 UTC"
        )
    );
    let after = node.turn(&order, true, machine.at(306));
    assert_eq!(states(&after), [State::Applied], "after the rest it is tried once more");
}

#[test]
fn a_foreign_change_is_left_alone_where_the_tuning_wants_it_reported() {
    let machine = Machine::new(&[FIN_TIMEOUT]);
    let mut node = machine.node();
    let mut entry = set(Sysctl::FinTimeout, 30);
    entry["driftPolicy"] = "Report".into();
    machine.turn(&mut node, &order(1, &json!([entry])));
    machine.set(Sysctl::FinTimeout, 45);
    let turn = machine.turn(&mut node, &order(1, &json!([entry])));
    assert_eq!((states(&turn), machine.live(Sysctl::FinTimeout)), (vec![State::Drifted], Some(45)));
    assert_eq!(
        turn.findings[0].message.as_deref(),
        Some("another program set it to 45; left alone, because driftPolicy is Report")
    );
}

#[test]
fn a_foreign_change_of_a_value_that_was_there_before_us_is_told_from_a_new_order() {
    let machine = Machine::new(&[FIN_TIMEOUT]);
    let order = order(1, &json!([set(Sysctl::FinTimeout, 60)]));
    machine.turn(&mut machine.node(), &order);
    machine.set(Sysctl::FinTimeout, 45);
    let turn = machine.turn(&mut machine.node(), &order);
    assert!(turn.findings[0].drift.is_some());
    assert_eq!((turn.findings[0].live, turn.findings[0].baseline), (Some(60), Some(60)));
}
