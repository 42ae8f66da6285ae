use std::fs;
use std::path::Path;

use crds::TcpCloseNode;
use serde_json::json;

use super::*;
use crate::procfs::tests::tree;

mod convergence;
mod freshness;

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
    assert!(finding.written);
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
    assert!(!turn.findings[0].written);
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
fn nothing_is_written_while_the_journal_is_damaged() {
    let machine = Machine::new(&[FIN_TIMEOUT]);
    fs::create_dir(machine.state()).unwrap();
    fs::write(machine.state().join("journal"), "garbage").unwrap();
    let turn = machine.turn(&mut machine.node(), &order(1, &json!([set(Sysctl::FinTimeout, 30)])));
    assert_eq!(machine.live(Sysctl::FinTimeout), Some(60));
    assert_eq!(states(&turn), [State::Failed]);
    assert!(turn.findings[0].message.as_deref().unwrap().contains("the journal is damaged"));
}

#[test]
fn a_second_agent_only_observes_and_says_so() {
    let machine = Machine::new(&[FIN_TIMEOUT]);
    let mut first = machine.node();
    let order = order(1, &json!([set(Sysctl::FinTimeout, 30)]));
    machine.turn(&mut first, &order);
    machine.set(Sysctl::FinTimeout, 45);
    let turn = machine.turn(&mut machine.node(), &order);
    assert_eq!(machine.live(Sysctl::FinTimeout), Some(45));
    assert!(
        turn.findings[0].message.as_deref().unwrap().contains("another agent on this node holds the journal")
    );
}

#[test]
fn an_older_order_is_not_carried_out() {
    let machine = Machine::new(&[FIN_TIMEOUT]);
    machine.turn(&mut machine.node(), &order(5, &json!([set(Sysctl::FinTimeout, 30)])));
    let turn = machine.turn(&mut machine.node(), &order(4, &json!([set(Sysctl::FinTimeout, 20)])));
    assert_eq!((states(&turn), machine.live(Sysctl::FinTimeout)), (vec![State::Failed], Some(30)));
}

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
fn a_transaction_that_failed_is_tried_again_after_a_while_not_at_once() {
    let machine = Machine::new(&[FIN_TIMEOUT]);
    let mut node = machine.node();
    let order = order(1, &json!([set(Sysctl::FinTimeout, 30)]));
    node.journal().unwrap().note_order(&order.mark);
    let in_the_way = machine.state().join("journal.new");
    fs::create_dir(&in_the_way).unwrap();
    assert_eq!(states(&machine.turn(&mut node, &order)), [State::Failed]);
    fs::remove_dir(&in_the_way).unwrap();
    assert_eq!(states(&machine.turn(&mut node, &order)), [State::Failed], "too early");
    assert_eq!(states(&node.turn(&order, true, machine.at(RETRY_FIRST.as_secs()))), [State::Applied]);
}

#[test]
fn baselines_of_a_lost_journal_are_taken_from_a_status_of_the_same_life() {
    let machine = Machine::new(&[(Sysctl::FinTimeout, "30\n")]);
    let record = Record { baseline: 60, confirmed: Some(30), intended: Some(30) };
    let mut node = machine.node();
    node.adopt("another life", &BTreeMap::from([(Sysctl::FinTimeout, record)])).unwrap();
    assert!(node.journal().unwrap().records().is_empty());
    let life = life(&machine.procfs).unwrap();
    node.adopt(&life, &BTreeMap::from([(Sysctl::FinTimeout, record)])).unwrap();
    let turn = machine.turn(&mut node, &order(1, &json!([entry(Sysctl::FinTimeout, "Restore", None)])));
    assert_eq!((states(&turn), machine.live(Sysctl::FinTimeout)), (vec![State::Restored], Some(60)));
}

#[test]
fn baselines_outlive_a_damaged_journal_in_the_status_and_count_again_when_it_is_moved_away() {
    let machine = Machine::new(&[(Sysctl::FinTimeout, "30\n")]);
    let journal = machine.state().join("journal");
    fs::create_dir_all(machine.state()).unwrap();
    fs::write(&journal, "half a jour").unwrap();
    let record = Record { baseline: 60, confirmed: Some(30), intended: Some(30) };
    let mut node = machine.node();
    let why = node
        .adopt(&life(&machine.procfs).unwrap(), &BTreeMap::from([(Sysctl::FinTimeout, record)]))
        .unwrap_err()
        .to_string();
    assert!(why.contains("the journal is damaged"), "{why}");
    let turn = machine.turn(&mut node, &order(1, &json!([set(Sysctl::FinTimeout, 30)])));
    assert_eq!((states(&turn), turn.findings[0].baseline), (vec![State::Applied], Some(60)));
    assert_eq!(turn.findings[0].message.as_deref(), Some(why.as_str()), "nobody looks after it");
    fs::remove_file(&journal).unwrap();
    let turn = machine.turn(&mut node, &order(2, &json!([entry(Sysctl::FinTimeout, "Restore", None)])));
    assert_eq!((states(&turn), machine.live(Sysctl::FinTimeout)), (vec![State::Restored], Some(60)));
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

#[test]
fn a_hold_file_means_observe_only_until_it_is_removed() {
    let machine = Machine::new(&[FIN_TIMEOUT]);
    let mut node = machine.node();
    fs::create_dir_all(machine.state()).unwrap();
    let hold = machine.state().join(HOLD_FILE);
    fs::write(&hold, "").unwrap();
    let order = order(1, &json!([set(Sysctl::FinTimeout, 30)]));
    let turn = machine.turn(&mut node, &order);
    assert_eq!((states(&turn), machine.live(Sysctl::FinTimeout)), (vec![State::Failed], Some(60)));
    let said = turn.findings[0].message.as_deref().unwrap();
    assert!(
        said.ends_with("hold is there, so the agent only observes: remove the file to let it write"),
        "{said}"
    );
    assert!(!machine.state().join("journal").exists());
    fs::remove_file(&hold).unwrap();
    assert_eq!(states(&machine.turn(&mut node, &order)), [State::Applied]);
}

#[test]
fn nothing_is_written_where_the_files_are_no_procfs() {
    let machine = Machine::new(&[FIN_TIMEOUT]);
    let mut node =
        Node::new(machine.procfs.clone(), machine.state(), Sentinel::Proves { node_address: None });
    let turn = machine.turn(&mut node, &order(1, &json!([set(Sysctl::FinTimeout, 30)])));
    assert_eq!((states(&turn), machine.live(Sysctl::FinTimeout)), (vec![State::Failed], Some(60)));
    assert!(matches!(turn.obstacle, Some(Obstacle::Doubt(Doubt::NotProcfs(_)))));
}

#[test]
fn a_second_agent_observes_and_says_so() {
    let machine = Machine::new(&[FIN_TIMEOUT]);
    let order = order(1, &json!([set(Sysctl::FinTimeout, 30)]));
    let (mut first, mut second) = (machine.node(), machine.node());
    machine.turn(&mut first, &order);
    machine.set(Sysctl::FinTimeout, 45);
    let turn = machine.turn(&mut second, &order);
    assert!(turn.obstacle.as_ref().is_some_and(Obstacle::is_rival));
    assert_eq!((states(&turn), machine.live(Sysctl::FinTimeout)), (vec![State::Failed], Some(45)));
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

#[test]
fn what_would_be_done_is_foreseen_beside_the_agent_that_holds_the_journal() {
    let machine = Machine::new(&[(Sysctl::FinTimeout, "60\n")]);
    let order = order(1, &json!([entry(Sysctl::FinTimeout, "Set", Some(30))]));
    let mut holder = machine.node();
    machine.turn(&mut holder, &order);
    machine.set(Sysctl::FinTimeout, 45);
    let turn = machine.node().foresee(&order, machine.at(0));
    let [finding] = turn.findings.as_slice() else { panic!("{turn:?}") };
    assert_eq!((finding.state, finding.baseline, finding.written), (State::WouldChange, Some(60), false));
    assert_eq!(finding.message.as_deref(), Some("net.ipv4.tcp_fin_timeout 45 -> 30"));
    assert_eq!((machine.live(Sysctl::FinTimeout), turn.obstacle.is_none()), (Some(45), true));
}

#[test]
fn a_hold_file_and_a_damaged_journal_are_foreseen() {
    let machine = Machine::new(&[(Sysctl::FinTimeout, "60\n")]);
    let order = order(1, &json!([entry(Sysctl::FinTimeout, "Set", Some(30))]));
    fs::create_dir(machine.state()).unwrap();
    fs::write(machine.state().join("journal"), "garbage").unwrap();
    let foreseen = || machine.node().foresee(&order, machine.at(0)).obstacle;
    assert!(matches!(foreseen(), Some(Obstacle::Journal(_))));
    fs::write(machine.state().join(HOLD_FILE), "").unwrap();
    assert!(matches!(foreseen(), Some(Obstacle::Hold(_))));
}

#[test]
fn an_agent_that_is_held_lets_go_of_the_journal_so_that_a_person_can_restore() {
    let machine = Machine::new(&[(Sysctl::FinTimeout, "60\n")]);
    let set = order(1, &json!([entry(Sysctl::FinTimeout, "Set", Some(30))]));
    let mut agent = machine.node();
    machine.turn(&mut agent, &set);
    fs::write(machine.state().join(HOLD_FILE), "").unwrap();
    let held = machine.turn(&mut agent, &set);
    assert!(matches!(held.obstacle, Some(Obstacle::Hold(_))));
    assert_eq!(held.findings[0].baseline, Some(60), "a status keeps it");

    let restore = order(2, &json!([entry(Sysctl::FinTimeout, "Restore", None)]));
    let restored = machine.turn(&mut machine.node().for_person(), &restore);
    assert!(restored.obstacle.is_none(), "{restored:?}");
    machine.turn(&mut agent, &set);
    assert_eq!(machine.live(Sysctl::FinTimeout), Some(60), "the agent is held");
}
