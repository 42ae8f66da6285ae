use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use http::{Method, Request, Response};
use kube::client::Body;

use super::*;
use crate::fixtures::{Cluster, selector, tuning};
use crate::snapshot::Tuning;

fn planned(cluster: &Cluster) -> Vec<Write> {
    plan(&cluster.snapshot, &cluster.resolve())
}

fn only_patch(cluster: &Cluster) -> (Value, Vec<Removed>) {
    let mut writes = planned(cluster);
    match (writes.pop(), writes.pop()) {
        (Some(Write::Patch { version, untrack, spec, done, .. }), None) => {
            (merge_patch(version.as_deref(), untrack, &spec), done)
        }
        other => panic!("{other:?}"),
    }
}

/// What node n1 has left.
fn orphan(node_uid: Option<&str>) -> Orphan {
    Orphan { uid: "n1-object".into(), node_uid: node_uid.map(Into::into) }
}

/// What an API server is asked for a write, where its Node n1 has this uid, and is not there where the uid is empty. `Err`: it
/// does not say.
async fn asked(write: Write, node: Result<&'static str, u16>) -> (Result<bool, Error>, Vec<Method>) {
    let asked = Arc::<Mutex<Vec<Method>>>::default();
    let seen = asked.clone();
    let created = if let Write::Create { object, .. } = &write { json!(object) } else { Value::Null };
    let service = tower::service_fn(move |request: Request<Body>| {
        seen.lock().unwrap().push(request.method().clone());
        let failure = |code: u16| {
            let reason = if code == 404 { "NotFound" } else { "InternalError" };
            (
                code,
                json!({ "kind": "Status", "status": "Failure", "message": "no", "reason": reason, "code": code }),
            )
        };
        let (code, answer) = match (request.method(), node) {
            (&Method::GET, Ok("")) => failure(404),
            (&Method::GET, Ok(uid)) => (200, json!({ "metadata": { "name": "n1", "uid": uid } })),
            (&Method::GET, Err(code)) => failure(code),
            (&Method::POST, _) => (201, created.clone()),
            _ => (200, json!({ "kind": "Status", "status": "Success" })),
        };
        let answer = Response::builder().status(code).body(Body::from(answer.to_string().into_bytes()));
        async move { Ok::<_, Infallible>(answer.unwrap()) }
    });
    let sent = send(&Client::new(service, "default"), &write).await;
    let asked = asked.lock().unwrap().clone();
    (sent.map(|taken| matches!(taken, Taken::Yes)), asked)
}

fn deletion(node_uid: Option<&str>) -> Write {
    Write::Delete { name: "n1".into(), orphan: orphan(node_uid), not_restored: Vec::new(), asked: false }
}

#[tokio::test]
async fn an_object_is_deleted_once_the_api_server_has_said_that_its_node_is_gone() {
    for (known, now) in [(Some("n1-uid"), ""), (Some("n1-uid"), "anew"), (None, "")] {
        let (taken, asked) = asked(deletion(known), Ok(now)).await;
        assert_eq!((taken.unwrap(), asked), (true, vec![Method::GET, Method::DELETE]), "{known:?} {now}");
    }
}

#[tokio::test]
async fn a_node_that_the_cache_does_not_know_yet_keeps_its_object() {
    for known in [Some("n1-uid"), None] {
        let (taken, asked) = asked(deletion(known), Ok("n1-uid")).await;
        assert_eq!((taken.unwrap(), asked), (false, vec![Method::GET]), "{known:?}");
    }
}

#[tokio::test]
async fn a_node_of_which_the_cache_knows_an_earlier_one_keeps_its_object() {
    let mut cluster = Cluster::settled(&["n1"], vec![tuning("web", 30)]);
    cluster.edit_node("n1", |node| node.metadata.uid = Some("earlier".into()));
    let write = planned(&cluster).remove(0);
    let (taken, asked) = asked(write.clone(), Ok("n1-uid")).await;
    assert_eq!((taken.unwrap(), asked), (false, vec![Method::GET]));
    let (taken, asked) = self::asked(write, Ok("earlier")).await;
    assert_eq!((taken.unwrap(), asked), (true, vec![Method::GET, Method::DELETE, Method::POST]));
}

#[tokio::test]
async fn nothing_is_deleted_while_nobody_says_whether_its_node_is_gone() {
    let (taken, asked) = asked(deletion(Some("n1-uid")), Err(500)).await;
    assert!(taken.unwrap_err().to_string().contains("look whether Node n1 is gone"));
    assert_eq!(asked, [Method::GET]);
}

#[test]
fn every_linux_node_gets_an_object_tuned_or_not() {
    let writes = planned(&Cluster::new(&["n1", "n2"], vec![tuning("web", 30).on("n1")]));
    let objects: Vec<_> = writes
        .iter()
        .map(|write| match write {
            Write::Create { object, instead_of: None } => (object.name_any(), object.spec.sysctls.len()),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(objects, [("n1".to_string(), 1), ("n2".to_string(), 0)]);
}

#[test]
fn an_object_is_its_nodes_garbage_and_keeps_it_from_nothing() {
    let writes = planned(&Cluster::new(&["n1"], vec![]));
    let Write::Create { object, .. } = &writes[0] else { panic!("{writes:?}") };
    let owner = &object.metadata.owner_references.as_ref().unwrap()[0];
    assert_eq!((owner.api_version.as_str(), owner.kind.as_str()), ("v1", "Node"));
    assert_eq!((owner.name.as_str(), owner.uid.as_str()), ("n1", "n1-uid"));
    assert_eq!((owner.controller, owner.block_owner_deletion), (None, None));
    assert_eq!(object.spec.node_uid, "n1-uid");
}

#[test]
fn an_unchanged_order_is_not_written() {
    assert_eq!(planned(&Cluster::settled(&["n1"], vec![tuning("web", 30)])), []);
}

#[test]
fn a_changed_order_is_patched_at_the_version_that_it_was_planned_from() {
    let mut cluster = Cluster::settled(&["n1"], vec![tuning("web", 30)]);
    cluster.edit_tuning("web", |tuning| tuning.with(|spec| spec.sysctls.tcp_fin_timeout_seconds = Some(31)));
    let (patch, done) = only_patch(&cluster);
    let stored = cluster.snapshot.orders["n1"].meta().resource_version.clone();
    assert_eq!(patch["metadata"]["resourceVersion"].as_str(), stored.as_deref());
    assert_eq!(patch["spec"]["sysctls"][0]["value"], 31);
    assert_eq!(patch["spec"]["revision"], revision::of_entries(&cluster.order("n1").entries, &[]));
    assert_eq!(done, []);
}

#[test]
fn an_emptied_list_is_removed_by_name() {
    let mut cluster = Cluster::settled(&["n1"], vec![tuning("web", 30), tuning("eye", 20).observing()]);
    cluster.delete_tuning("web");
    cluster.delete_tuning("eye");
    cluster.assign();
    cluster.agents_apply();
    let (patch, done) = only_patch(&cluster);
    // A merge patch that leaves the list out would leave the entries in.
    assert_eq!(patch["spec"].get("sysctls"), Some(&Value::Null));
    assert_eq!(patch["spec"].get("observe"), Some(&Value::Null));
    assert_eq!(
        done.iter().map(|removed| removed.entry.name.as_str()).collect::<Vec<_>>(),
        ["net.ipv4.tcp_fin_timeout"]
    );
}

#[test]
fn a_node_made_anew_under_an_old_name_gets_a_new_object() {
    let mut cluster = Cluster::settled(&["n1"], vec![tuning("web", 30)]);
    cluster.edit_node("n1", |node| node.metadata.uid = Some("anew".into()));
    let writes = planned(&cluster);
    let [Write::Create { object, instead_of: Some(old) }] = &writes[..] else { panic!("{writes:?}") };
    assert_eq!((object.spec.node_uid.as_str(), old), ("anew", &orphan(Some("n1-uid"))));
}

#[test]
fn the_object_of_a_node_that_is_gone_is_deleted() {
    let mut cluster = Cluster::settled(&["n1"], vec![tuning("web", 30)]);
    cluster.snapshot.nodes.clear();
    let gone = |node_uid, not_restored: &[&str]| Write::Delete {
        name: "n1".into(),
        orphan: orphan(node_uid),
        not_restored: not_restored.iter().map(ToString::to_string).collect(),
        asked: false,
    };
    assert_eq!(planned(&cluster), [gone(Some("n1-uid"), &["net.ipv4.tcp_fin_timeout"])]);
    cluster.undecodable_order("n1");
    assert_eq!(planned(&cluster), [gone(None, &[])]);
}

#[test]
fn a_restore_that_a_gone_node_never_acknowledged_is_told() {
    let mut cluster = Cluster::settled(&["n1"], vec![tuning("web", 30)]);
    cluster.delete_tuning("web");
    cluster.assign();
    cluster.snapshot.nodes.clear();
    let Write::Delete { not_restored, asked: true, .. } = &planned(&cluster)[0] else { panic!() };
    assert_eq!(not_restored, &["net.ipv4.tcp_fin_timeout"]);
    cluster.agents_apply();
    let Write::Delete { not_restored, asked: false, .. } = &planned(&cluster)[0] else { panic!() };
    assert!(not_restored.is_empty());
}

#[test]
fn of_a_gone_node_only_what_differs_from_before_and_was_to_be_put_back_is_told() {
    let left = |change: fn(&mut Cluster)| {
        let mut cluster = Cluster::settled(&["n1"], vec![tuning("web", 30)]);
        change(&mut cluster);
        cluster.snapshot.nodes.clear();
        let Write::Delete { not_restored, .. } = planned(&cluster).remove(0) else { panic!() };
        not_restored.len()
    };
    assert_eq!(left(|_| {}), 1);
    assert_eq!(
        left(|cluster| cluster.agent_reports("n1", |status| status.sysctls[0].baseline = Some(30))),
        0
    );
    assert_eq!(left(|cluster| cluster.agent_reports("n1", |status| status.sysctls[0].baseline = None)), 0);
    let keeping = |cluster: &mut Cluster| {
        cluster.edit_tuning("web", Tuning::keeping);
        cluster.assign();
        cluster.agents_apply();
    };
    assert_eq!(left(keeping), 0);
}

#[test]
fn the_object_of_a_node_that_no_longer_runs_linux_is_wound_down() {
    let by_name = tuning("web", 30).with(|spec| spec.node_selector = selector("name", "n1"));
    let mut cluster = Cluster::settled(&["n1"], vec![by_name]);
    cluster.edit_node("n1", |node| node.set_label("kubernetes.io/os", None));
    let (patch, _) = only_patch(&cluster);
    assert_eq!(patch["spec"]["sysctls"][0]["action"], "Restore");
}

#[test]
fn an_order_that_cannot_be_decoded_is_not_written_to() {
    let mut cluster = Cluster::settled(&["n1"], vec![tuning("web", 30)]);
    cluster.undecodable_order("n1");
    cluster.edit_tuning("web", Tuning::keeping);
    assert_eq!(planned(&cluster), []);
}

#[test]
fn an_order_has_the_api_server_forget_who_manages_fields_where_nobody_else_does() {
    for (noted, sent) in [(Some(Vec::new()), json!([{}])), (None, Value::Null)] {
        let mut cluster = Cluster::settled(&["n1"], vec![tuning("web", 30)]);
        let mut object = (*cluster.snapshot.orders["n1"]).clone();
        object.meta_mut().managed_fields = noted;
        cluster.snapshot.orders.insert("n1".into(), Arc::new(object));
        cluster.snapshot.tunings = vec![tuning("web", 31)];
        assert_eq!(only_patch(&cluster).0["metadata"]["managedFields"], sent);
    }
}

#[test]
fn heartbeats_stay_within_fifty_writes_a_second() {
    for (nodes, interval, counts) in [
        (1, 20, 5),
        (250, 20, 5),
        (251, 20, 20),
        (1_000, 20, 20),
        (1_001, 60, 60),
        (3_000, 60, 60),
        (3_001, 120, 120),
        (6_000, 120, 120),
        (6_001, 300, 300),
        (15_000, 300, 300),
    ] {
        let names: Vec<_> = (0..nodes).map(|node| format!("n{node}")).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let Write::Create { object, .. } = &planned(&Cluster::new(&names, vec![]))[0] else { panic!() };
        let spec = &object.spec;
        assert_eq!(
            (spec.report_interval_seconds, spec.counts_interval_seconds()),
            (interval, counts),
            "{nodes}"
        );
        assert!(nodes <= 50 * counts as usize, "{nodes} nodes");
    }
}

#[test]
fn what_a_smaller_fleet_need_not_say_of_counts_is_taken_out_once_and_the_revision_stays() {
    let mut cluster = Cluster::settled(&["n1", "n2"], vec![tuning("web", 30)]);
    cluster.edit_order("n1", |object| object.spec.counts_interval_seconds = Some(20));
    let (patch, _) = only_patch(&cluster);
    assert_eq!(patch["spec"].get("countsIntervalSeconds"), Some(&Value::Null), "what is absent would stay");
    let other = cluster.snapshot.orders["n2"].0.as_ref().unwrap();
    assert_eq!(patch["spec"]["revision"], other.spec.revision, "the same entries");
    cluster.assign();
    assert_eq!(planned(&cluster), []);
}

#[test]
fn what_was_just_sent_is_not_sent_again() {
    let cluster = Cluster::new(&["n1", "n2"], vec![]);
    let now = Instant::now();
    let mut sent = Sent::default();
    let writes = planned(&cluster);
    sent.note(writes[0].clone(), now);
    assert_eq!(sent.without_sent(writes.clone(), now), writes[1..]);
    assert_eq!(sent.without_sent(writes.clone(), now + SENT_FOR), writes, "it was lost");
}

#[test]
fn another_order_for_the_same_node_is_sent() {
    let mut cluster = Cluster::settled(&["n1"], vec![tuning("web", 30)]);
    let mut sent = Sent::default();
    for value in [31, 32] {
        cluster.edit_tuning("web", |tuning| {
            tuning.with(|spec| spec.sysctls.tcp_fin_timeout_seconds = Some(value))
        });
        let writes = sent.without_sent(planned(&cluster), Instant::now());
        assert_eq!(writes.len(), 1);
        sent.note(writes[0].clone(), Instant::now());
    }
}

#[test]
fn an_order_that_was_taken_is_unseen_until_a_dead_watch_is_noticed_and_one_that_was_not_for_a_moment() {
    let mut cluster = Cluster::settled(&["n1", "n2"], vec![tuning("web", 30)]);
    cluster.edit_tuning("web", |tuning| tuning.with(|spec| spec.sysctls.tcp_fin_timeout_seconds = Some(31)));
    let (writes, now) = (planned(&cluster), Instant::now());
    let mut sent = Sent::default();
    sent.note_tried(&writes, now);
    sent.note(writes[0].clone(), now);
    let taken = writes[0].node().to_string();
    assert_eq!(sent.unseen(&cluster.snapshot, now).len(), 2);
    for seconds in [10, 60, 89] {
        let unseen = sent.unseen(&cluster.snapshot, now + Duration::from_secs(seconds));
        assert_eq!(unseen, BTreeSet::from([taken.clone()]), "{seconds} s");
    }
    // Another try changes nothing about that.
    sent.note_tried(&writes, now);
    assert!(sent.unseen(&cluster.snapshot, now + Duration::from_secs(60)).contains(&taken));
    cluster.write(&cluster.resolve());
    assert_eq!(sent.unseen(&cluster.snapshot, now), BTreeSet::new(), "the cache shows them");
}
