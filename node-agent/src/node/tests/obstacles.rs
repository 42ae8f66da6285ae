//! What keeps an agent from writing: its journal, another agent, a person, a wrong place.

use super::*;

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
    let order = order(1, &json!([set(Sysctl::FinTimeout, 30)]));
    let (mut first, mut second) = (machine.node(), machine.node());
    machine.turn(&mut first, &order);
    machine.set(Sysctl::FinTimeout, 45);
    let turn = machine.turn(&mut second, &order);
    assert!(turn.obstacle.as_ref().is_some_and(Obstacle::is_rival));
    assert_eq!((states(&turn), machine.live(Sysctl::FinTimeout)), (vec![State::Failed], Some(45)));
    let said = turn.findings[0].message.as_deref().unwrap();
    assert!(said.contains("another agent on this node holds the journal"), "{said}");
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
fn a_status_from_before_a_restore_brings_no_baseline_back() {
    let machine = Machine::new(&[FIN_TIMEOUT]);
    let mut node = machine.node();
    machine.turn(&mut node, &order(1, &json!([set(Sysctl::FinTimeout, 30)])));
    let reported = node.records().clone();
    machine.turn(&mut node, &order(2, &json!([entry(Sysctl::FinTimeout, "Restore", None)])));
    node.adopt(&life(&machine.procfs).unwrap(), &reported).unwrap();
    let turn = machine.turn(&mut node, &order(3, &json!([set(Sysctl::FinTimeout, 30)])));
    assert_eq!(machine.live(Sysctl::FinTimeout), Some(30));
    assert_eq!(turn.findings[0].drift, None, "an ordered value is no foreign change");
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
fn what_would_be_done_is_foreseen_beside_the_agent_that_holds_the_journal() {
    let machine = Machine::new(&[(Sysctl::FinTimeout, "60\n")]);
    let order = order(1, &json!([entry(Sysctl::FinTimeout, "Set", Some(30))]));
    let mut holder = machine.node();
    machine.turn(&mut holder, &order);
    machine.set(Sysctl::FinTimeout, 45);
    let turn = machine.node().foresee(&order, machine.at(0));
    let [finding] = turn.findings.as_slice() else { panic!("{turn:?}") };
    assert_eq!((finding.state, finding.baseline, finding.written), (State::WouldChange, Some(60), None));
    assert_eq!(finding.message.as_deref(), Some("net.ipv4.tcp_fin_timeout 45 -> 30"));
    assert_eq!((machine.live(Sysctl::FinTimeout), turn.obstacle.is_none()), (Some(45), true));
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
