use kube::Config;
use serde_json::json;
use tcp_close::Sysctl;
use tempfile::TempDir;

use super::*;
use crate::procfs::tests::tree;

const KEY: Sysctl = Sysctl::FinTimeout;

/// An agent on a tree of files, with an API server that nobody reaches.
fn agent() -> (TempDir, Agent) {
    let (dir, procfs) = tree(&[(KEY, "60\n")]);
    let state_dir = dir.path().join("state");
    let settings = Settings {
        turn: TURN,
        node: "node-1".into(),
        procfs: procfs.clone(),
        state_dir: state_dir.clone(),
        node_address: None,
        pods: None,
        textfile_directory: None,
        report_peers: false,
    };
    let client = Client::try_from(Config::new("http://127.0.0.1:1".parse().unwrap())).unwrap();
    let mut agent = Agent::new(settings, client);
    agent.node = Node::new(procfs, state_dir, Sentinel::Trusts);
    (dir, agent)
}

fn object(uid: &str, generation: i64, action: &str, value: Option<i64>) -> Box<TcpCloseNode> {
    let mut entry = json!({
        "name": KEY.name(), "action": action, "removalPolicy": "Restore",
        "tuning": { "name": "web", "uid": "t", "revision": "1" },
    });
    if let Some(value) = value {
        entry["value"] = value.into();
    }
    let object = json!({
        "apiVersion": "tcpclose.dev/v1alpha1",
        "kind": "TcpCloseNode",
        "metadata": { "name": "node-1", "uid": uid, "generation": generation },
        "spec": { "nodeUID": "n", "revision": "r", "reportIntervalSeconds": 20, "sysctls": [entry] },
    });
    Box::new(serde_json::from_value(object).unwrap())
}

/// What the kernel holds after the watch has shown something.
fn shown(agent: &mut Agent, news: News) -> Option<i64> {
    agent.take(news);
    turned(agent)
}

/// What the kernel holds after a quorum has answered.
fn answered(agent: &mut Agent, object: Option<Box<TcpCloseNode>>) -> Option<i64> {
    agent.request = None;
    agent.take_answer(Answer::Read(Box::new(Ok(object.map(|object| *object)))));
    turned(agent)
}

fn turned(agent: &mut Agent) -> Option<i64> {
    agent.turn(Moment::now());
    agent.settings.procfs.read_sysctl(KEY).value()
}

#[tokio::test]
async fn an_older_generation_is_not_applied() {
    let (_dir, mut agent) = agent();
    assert_eq!(shown(&mut agent, News::Object(object("u", 2, "Set", Some(25)))), Some(25));
    assert_eq!(shown(&mut agent, News::Object(object("u", 1, "Set", Some(30)))), Some(25));
    assert_eq!(shown(&mut agent, News::Object(object("u", 1, "Restore", None))), Some(25));
}

#[tokio::test]
async fn nothing_is_restored_on_an_absence() {
    let (_dir, mut agent) = agent();
    shown(&mut agent, News::Object(object("u", 1, "Set", Some(30))));
    assert_eq!(shown(&mut agent, News::Absent), Some(30));
}

#[tokio::test]
async fn another_object_of_the_name_counts_once_a_quorum_shows_it() {
    let (_dir, mut agent) = agent();
    shown(&mut agent, News::Object(object("u", 2, "Set", Some(25))));
    assert_eq!(shown(&mut agent, News::Object(object("older", 7, "Set", Some(30)))), Some(25));
    assert!(agent.request.is_some(), "it is read again");
    assert_eq!(answered(&mut agent, Some(object("u", 2, "Set", Some(25)))), Some(25), "the watch was stale");
    shown(&mut agent, News::Object(object("newer", 1, "Set", Some(20))));
    assert_eq!(answered(&mut agent, Some(object("newer", 1, "Set", Some(20)))), Some(20));
}

#[tokio::test]
async fn another_object_of_the_name_waits_for_a_quorum_after_a_restart_too() {
    let (dir, mut before) = agent();
    shown(&mut before, News::Object(object("u", 2, "Set", Some(25))));
    drop(before);
    let (_other, mut agent) = agent();
    let procfs = Procfs::new(dir.path(), None);
    agent.node = Node::new(procfs.clone(), dir.path().join("state"), Sentinel::Trusts);
    agent.settings.procfs = procfs;
    assert_eq!(shown(&mut agent, News::Object(object("older", 7, "Restore", None))), Some(25));
    assert!(agent.request.is_some() && agent.order.is_none(), "it is read again before it is an order");
    assert_eq!(answered(&mut agent, None), Some(25));
}

#[tokio::test]
async fn a_removal_waits_for_a_quorum_that_says_so_too() {
    let (_dir, mut agent) = agent();
    shown(&mut agent, News::Object(object("u", 1, "Set", Some(30))));
    // What the turn has begun to report is not answered.
    agent.request = None;
    assert_eq!(shown(&mut agent, News::Object(object("u", 2, "Restore", None))), Some(30));
    assert!(agent.request.is_some(), "it is read again");
    assert_eq!(
        answered(&mut agent, Some(object("u", 3, "Set", Some(25)))),
        Some(25),
        "it was taken back meanwhile"
    );
    agent.request = None;
    shown(&mut agent, News::Object(object("u", 4, "Restore", None)));
    assert_eq!(answered(&mut agent, Some(object("u", 4, "Restore", None))), Some(60));
}

#[tokio::test]
async fn an_answer_that_is_older_than_the_order_confirms_nothing_and_is_asked_for_again_after_a_rest() {
    let (_dir, mut agent) = agent();
    shown(&mut agent, News::Object(object("u", 2, "Set", Some(30))));
    agent.request = None;
    shown(&mut agent, News::Object(object("u", 3, "Restore", None)));
    for _ in 0..3 {
        assert!(agent.request.is_some(), "it is read again");
        assert_eq!(answered(&mut agent, Some(object("u", 2, "Set", Some(30)))), Some(30));
        assert!(agent.request.is_none() && agent.not_before > Instant::now(), "not at once");
        agent.not_before = Instant::now();
        turned(&mut agent);
    }
    assert_eq!(answered(&mut agent, Some(object("u", 3, "Restore", None))), Some(60));
}

#[tokio::test]
async fn a_report_that_an_overloaded_api_server_did_not_take_rests_longer_in_a_large_fleet() {
    let (_dir, mut agent) = agent();
    let mut rest = |interval| {
        let mut object = object("u", i64::from(interval), "Set", Some(25));
        object.spec.report_interval_seconds = interval;
        agent.take(News::Object(object));
        agent.rests.reset();
        agent.take_answer(Answer::Written(Err(Error::Timeout), Box::default()));
        agent.not_before.duration_since(Instant::now()).as_secs_f64()
    };
    let (few, many) = (rest(20), rest(300));
    assert!((0.4..1.0).contains(&few), "{few}");
    assert!((2.4..5.0).contains(&many), "{many}");
}
