use super::*;
use crate::fixtures::{Cluster, selector, speak, tuning};

/// A cluster, and what its operator remembers.
struct Scene {
    cluster: Cluster,
    limiter: Limiter,
}

impl Scene {
    /// So many nodes that carry out what these tunings order.
    fn settled(nodes: usize, tunings: Vec<crate::snapshot::Tuning>) -> Self {
        let names: Vec<_> = (0..nodes).map(|n| format!("n{n:03}")).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        Self { cluster: Cluster::settled(&names, tunings), limiter: Limiter::default() }
    }

    fn limit(&mut self) -> Limited {
        self.limiter.limit(&self.cluster.snapshot, self.cluster.resolve(), self.cluster.now)
    }

    /// A turn, with a quorum that knows what the caches know; returns how many orders it wrote.
    fn turn(&mut self) -> usize {
        let first = self.limit();
        let fresh = self.cluster.resolve();
        self.limiter.confirm(&self.cluster.snapshot, &fresh, &first.doubtful, self.cluster.now.clock);
        let limited = self.limit();
        let writes = crate::assign::plan(&self.cluster.snapshot, &limited.resolution).len();
        self.cluster.write(&limited.resolution);
        writes
    }

    fn pass(&mut self, seconds: u64) {
        self.cluster.pass(seconds);
    }

    /// The stored order of a node in its spoken form.
    fn stored(&self, node: &str) -> Vec<String> {
        let order = self.cluster.snapshot.orders[node].0.as_ref().unwrap();
        order.spec.sysctls.iter().map(speak).collect()
    }

    /// How many nodes have been ordered to take something back.
    fn taken_back(&self) -> usize {
        let orders = self.cluster.snapshot.orders.values().map(|order| order.0.as_ref().unwrap());
        orders.filter(|order| order.spec.sysctls.iter().any(|entry| !is_order(entry))).count()
    }

    fn label(&mut self, node: &str, key: &str, value: &str) {
        self.cluster.edit_node(node, |node| node.set_label(key, Some(value)));
    }
}

fn web() -> crate::snapshot::Tuning {
    tuning("web", 30).with(|spec| spec.node_selector = selector("role", "web"))
}

// The grace.

#[test]
fn a_deletion_waits_for_the_grace_and_then_goes_to_every_node_of_a_few() {
    let mut scene = Scene::settled(10, vec![tuning("a", 30)]);
    scene.cluster.delete_tuning("a");
    assert_eq!(scene.turn(), 0);
    assert_eq!(scene.limit().wake, Some(GRACE));
    scene.pass(4);
    assert_eq!(scene.turn(), 0);
    scene.pass(1);
    assert_eq!(scene.turn(), 10);
    assert_eq!(scene.stored("n003"), ["tcp_fin_timeout Restore by a"]);
}

#[test]
fn a_label_that_flaps_costs_one_write_and_no_more() {
    let mut scene = Scene::settled(3, vec![web()]);
    scene.label("n001", "role", "web");
    assert_eq!(scene.turn(), 1);
    for _ in 0..100 {
        scene.label("n001", "role", "idle");
        assert_eq!(scene.turn(), 0);
        scene.pass(3);
        scene.label("n001", "role", "web");
        assert_eq!(scene.turn(), 0);
    }
    assert_eq!(scene.stored("n001"), ["tcp_fin_timeout Set 30 by web"]);
}

#[test]
fn a_label_that_flaps_between_two_tunings_stays_with_the_one_of_higher_priority() {
    let mut scene = Scene::settled(1, vec![tuning("base", 20), web().priority(1)]);
    scene.label("n000", "role", "web");
    assert_eq!(scene.turn(), 1);
    for role in ["idle", "web"].into_iter().cycle().take(20) {
        scene.label("n000", "role", role);
        assert_eq!(scene.turn(), 0, "{role}");
    }
    scene.label("n000", "role", "idle");
    scene.turn();
    scene.pass(5);
    assert_eq!(scene.turn(), 1);
    assert_eq!(scene.stored("n000"), ["tcp_fin_timeout Set 20 by base"], "not through the baseline");
}

#[test]
fn an_observer_that_comes_and_goes_costs_one_write_and_no_more() {
    let mut scene = Scene::settled(1, vec![web().observing()]);
    scene.label("n000", "role", "web");
    assert_eq!(scene.turn(), 1);
    for role in ["idle", "web"].into_iter().cycle().take(20) {
        scene.label("n000", "role", role);
        assert_eq!(scene.turn(), 0, "{role}");
    }
}

#[test]
fn what_adds_or_changes_a_value_never_waits() {
    let mut scene = Scene::settled(1, vec![tuning("a", 30)]);
    scene.cluster.edit_tuning("a", |a| a.with(|spec| spec.sysctls.tcp_fin_timeout_seconds = Some(31)));
    assert_eq!(scene.turn(), 1);
    scene.cluster.snapshot.tunings.push(tuning("b", 40).priority(1));
    assert_eq!(scene.turn(), 1, "beaten, not left");
    scene.cluster.edit_tuning("b", |b| b.priority(-1));
    assert_eq!(scene.turn(), 1, "and beaten again");
    assert_eq!(scene.stored("n000"), ["tcp_fin_timeout Set 31 by a"]);
    scene.cluster.edit_tuning("a", crate::snapshot::Tuning::observing);
    scene.cluster.delete_tuning("b");
    scene.turn();
    scene.cluster.snapshot.tunings.push(tuning("c", 50));
    assert_eq!(scene.turn(), 1, "a value that was only held");
    assert_eq!(scene.stored("n000"), ["tcp_fin_timeout Set 50 by c"]);
}

#[test]
fn a_node_that_waits_keeps_its_whole_order() {
    let mut scene =
        Scene::settled(1, vec![tuning("a", 30).with(|spec| spec.sysctls.tcp_orphan_retries = Some(4))]);
    scene.cluster.edit_tuning("a", |a| {
        a.with(|spec| {
            spec.sysctls.tcp_fin_timeout_seconds = None;
            spec.sysctls.tcp_orphan_retries = Some(5);
        })
    });
    assert_eq!(scene.turn(), 0);
    scene.pass(5);
    assert_eq!(scene.turn(), 1);
    assert_eq!(scene.stored("n000"), ["tcp_orphan_retries Set 5 by a", "tcp_fin_timeout Restore by a"]);
}

#[test]
fn a_return_to_the_stable_revision_waits_for_the_grace_and_not_for_the_guard() {
    let mut scene = Scene::settled(100, vec![tuning("a", 30)]);
    let mut wanted = scene.cluster.resolve();
    for order in wanted.orders.values_mut() {
        order.entries[0].rollback = Some(true);
        order.entries[0].value = Some(25);
    }
    let first = scene.limiter.limit(&scene.cluster.snapshot, wanted.clone(), scene.cluster.now);
    assert_eq!((first.resolution, first.wake), (scene.cluster.resolve(), Some(GRACE)));
    scene.pass(5);
    let now = scene.cluster.now;
    let second = scene.limiter.limit(&scene.cluster.snapshot, wanted.clone(), now);
    scene.limiter.confirm(&scene.cluster.snapshot, &wanted, &second.doubtful, now.clock);
    let third = scene.limiter.limit(&scene.cluster.snapshot, wanted, now);
    let returned = third.resolution.orders.values().filter(|order| order.entries[0].rollback == Some(true));
    assert_eq!(returned.count(), 10);
}

// The fresh look.

#[test]
fn what_a_fresh_look_does_not_want_waits_anew() {
    let mut scene = Scene::settled(1, vec![tuning("a", 30)]);
    let before = scene.cluster.resolve();
    scene.cluster.delete_tuning("a");
    scene.turn();
    scene.pass(5);
    let doubtful = scene.limit().doubtful;
    assert_eq!(doubtful, ["n000"]);
    for fresh in [before, Resolution::default()] {
        scene.limiter.confirm(&scene.cluster.snapshot, &fresh, &doubtful, scene.cluster.now.clock);
        assert_eq!(scene.limit().wake, Some(GRACE));
        scene.pass(5);
    }
    assert_eq!(scene.turn(), 1, "until it is wanted there too");
}

// A few at a time.

#[test]
fn a_tenth_of_the_nodes_undoes_at_once_and_the_next_follow_when_they_have_acknowledged() {
    let mut scene = Scene::settled(50, vec![web()]);
    for n in 0..10 {
        scene.label(&format!("n{n:03}"), "role", "web");
    }
    scene.turn();
    scene.cluster.agents_apply();
    scene.cluster.delete_tuning("web");
    scene.turn();
    scene.pass(5);
    assert_eq!(scene.turn(), 5);
    assert_eq!(scene.turn(), 0, "nobody has acknowledged");
    scene.cluster.agents_apply();
    scene.turn();
    assert_eq!(scene.taken_back(), 5, "the first five have lost their entries, the others follow");
    assert_eq!(scene.stored("n000"), [""; 0]);
}

#[test]
fn a_node_that_is_down_takes_no_place_and_a_silent_one_only_for_a_minute() {
    let mut scene = Scene::settled(20, vec![web()]);
    for name in ["n000", "n001", "n002", "n003"] {
        scene.label(name, "role", "web");
    }
    scene.turn();
    scene.cluster.agents_apply();
    scene.cluster.node_is_down("n000");
    scene.cluster.delete_tuning("web");
    scene.turn();
    scene.pass(5);
    assert_eq!(scene.turn(), 3, "two at once, and the one that is down");
    assert_eq!(scene.turn(), 0);
    scene.pass(59);
    assert_eq!(scene.turn(), 0);
    scene.pass(1);
    assert_eq!(scene.turn(), 1);
}

// The guard.

#[test]
fn what_would_take_values_from_many_nodes_waits_for_half_a_minute() {
    let mut scene = Scene::settled(11, vec![tuning("a", 30)]);
    scene.cluster.delete_tuning("a");
    let first = scene.limit();
    let ((name, _), told) = &first.news[0];
    assert_eq!((name.as_str(), told.reason.as_str()), ("a", "MassUndoing"));
    let until = (scene.cluster.now.wall + GUARD).strftime("%H:%M:%S UTC").to_string();
    assert_eq!(
        told.message,
        format!(
            "its values are no longer wanted on 11 nodes (n000, n001, n002 and 8 more), which wait until {until}, because \
             values would be taken from 11 of 11 nodes within 5 minutes: put the tuning or the labels back, and nothing happens"
        )
    );
    assert_eq!(first.wake, Some(GUARD));
    scene.pass(29);
    assert_eq!(scene.turn(), 0);
    assert!(scene.limit().news.is_empty(), "said once");
    scene.pass(1);
    assert_eq!(scene.turn(), 1, "a tenth of them");
    scene.cluster.agents_apply();
    assert_eq!(scene.turn(), 2, "the next one, and the entry of the first; no second guard");
}

#[test]
fn what_is_taken_back_during_the_guard_costs_nothing() {
    let mut scene = Scene::settled(50, vec![tuning("a", 30)]);
    scene.cluster.delete_tuning("a");
    scene.turn();
    scene.pass(20);
    scene.turn();
    scene.cluster.snapshot.tunings.push(tuning("a", 30));
    assert_eq!(scene.turn(), 0);
    scene.cluster.delete_tuning("a");
    assert_eq!(scene.limit().wake, Some(GUARD), "and the next time counts anew");
    assert_eq!(scene.limit().news.len(), 0);
}

#[test]
fn a_rename_goes_over_after_the_grace_however_many_nodes_there_are() {
    let mut scene = Scene::settled(50, vec![tuning("old", 30)]);
    scene.cluster.delete_tuning("old");
    scene.turn();
    scene.cluster.snapshot.tunings.push(tuning("new", 30));
    scene.pass(5);
    assert_eq!(scene.turn(), 50);
    assert_eq!(scene.stored("n049"), ["tcp_fin_timeout Set 30 by new"]);
}

#[test]
fn a_rename_under_a_rollout_restores_nothing() {
    let mut scene = Scene::settled(12, vec![tuning("old", 30)]);
    scene.cluster.delete_tuning("old");
    scene.cluster.snapshot.tunings.push(tuning("new", 30));
    for _ in 0..60 {
        let wanted = scene.cluster.resolve_now();
        let first = scene.limiter.limit(&scene.cluster.snapshot, wanted.clone(), scene.cluster.now);
        let (snapshot, now) = (&scene.cluster.snapshot, scene.cluster.now);
        scene.limiter.confirm(snapshot, &wanted, &first.doubtful, now.clock);
        let limited = scene.limiter.limit(snapshot, wanted, now);
        scene.cluster.write(&limited.resolution);
        scene.cluster.agents_apply();
        scene.cluster.statuses();
        assert_eq!(scene.taken_back(), 0);
        scene.pass(5);
    }
    let handed_over = |n| scene.stored(&format!("n{n:03}")) == ["tcp_fin_timeout Set 30 by new"];
    assert!((0..12).all(handed_over), "after its rollout");
}

#[test]
fn a_fifth_of_a_large_cluster_is_not_many() {
    for (matched, wait) in [(20, GRACE), (21, GUARD)] {
        let mut scene = Scene::settled(100, vec![web()]);
        for n in 0..matched {
            scene.label(&format!("n{n:03}"), "role", "web");
        }
        scene.turn();
        scene.cluster.delete_tuning("web");
        assert_eq!(scene.limit().wake, Some(wait), "{matched} nodes");
    }
}

#[test]
fn what_takes_values_from_many_nodes_a_few_in_each_second_waits_too() {
    // A loop that relabels one node in each second: five are in their grace at any time.
    let (mut scene, mut told) = (Scene::settled(50, vec![web()]), Vec::new());
    for n in 0..30 {
        scene.label(&format!("n{n:03}"), "role", "web");
    }
    scene.turn();
    scene.cluster.agents_apply();
    for n in 0..30 {
        scene.label(&format!("n{n:03}"), "role", "idle");
        told.extend(scene.limit().news);
        scene.turn();
        scene.cluster.agents_apply();
        scene.pass(1);
    }
    let lost = |scene: &Scene| (0..30).filter(|n| scene.stored(&format!("n{n:03}")).is_empty()).count();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(lost(&scene) <= 10, "{} nodes", lost(&scene));
    let held = scene.limit().held;
    assert!(matches!(held.why("n029"), Some(Why::Many { nodes: 30, of: 50, .. })), "{held:?}");
    for _ in 0..60 {
        scene.pass(1);
        scene.turn();
        scene.cluster.agents_apply();
    }
    assert_eq!(lost(&scene), 30, "nobody has taken it back");
}

#[test]
fn what_was_taken_long_ago_or_given_back_since_counts_no_longer() {
    for (since, wait) in [(0, GUARD), (200, GUARD), (300, GRACE)] {
        let mut scene = Scene::settled(50, vec![tuning("a", 30)]);
        scene.cluster.delete_tuning("a");
        for _ in 0..60 {
            scene.turn();
            scene.cluster.agents_apply();
            scene.pass(1);
        }
        scene.pass(since);
        scene.cluster.snapshot.tunings.push(tuning("b", 30).on("n000"));
        scene.turn();
        scene.cluster.agents_apply();
        scene.cluster.delete_tuning("b");
        assert_eq!(scene.limit().wake, Some(wait), "after {since} s");
    }
    let mut scene = Scene::settled(50, vec![web()]);
    for _ in 0..3 {
        for role in ["web", "idle"] {
            for n in 0..10 {
                scene.label(&format!("n{n:03}"), "role", role);
            }
            for _ in 0..10 {
                scene.turn();
                scene.cluster.agents_apply();
                scene.pass(1);
            }
        }
    }
    scene.label("n020", "role", "web");
    scene.turn();
    scene.label("n020", "role", "idle");
    assert_eq!(scene.limit().wake, Some(GUARD), "11 nodes");
    for n in 0..10 {
        scene.label(&format!("n{n:03}"), "role", "web");
    }
    scene.turn();
    assert_eq!(scene.limit().wake, Some(GRACE), "they have them again");
}

// What a person says.

#[test]
fn hold_freezes_every_order_and_lets_new_nodes_have_an_empty_one() {
    let mut scene = Scene::settled(2, vec![tuning("a", 30)]);
    scene.cluster.snapshot.switch = Switch::Hold;
    scene.cluster.edit_tuning("a", |a| a.with(|spec| spec.sysctls.tcp_fin_timeout_seconds = Some(31)));
    assert_eq!(scene.turn(), 0);
    scene.cluster.delete_tuning("a");
    scene.pass(60);
    assert_eq!(scene.turn(), 0);
    let new = crate::fixtures::node("n9");
    scene.cluster.snapshot.nodes.insert("n9".into(), std::sync::Arc::new(new));
    scene.cluster.snapshot.nodes.remove("n000");
    assert_eq!(scene.turn(), 2, "one created, and one deleted whose Node is gone");
    assert_eq!(scene.stored("n9"), [""; 0]);
    assert_eq!(scene.stored("n001"), ["tcp_fin_timeout Set 30 by a"]);
}

#[test]
fn a_word_that_nobody_knows_freezes_too() {
    let mut scene = Scene::settled(2, vec![tuning("a", 30)]);
    scene.cluster.snapshot.switch = Switch::Unknown("hodl".into());
    scene.cluster.edit_tuning("a", |a| a.with(|spec| spec.sysctls.tcp_fin_timeout_seconds = Some(31)));
    assert_eq!(scene.turn(), 0);
    scene.cluster.snapshot.switch = Switch::Run;
    assert_eq!(scene.turn(), 2);
}

#[test]
fn release_takes_every_value_back_at_once_a_few_nodes_at_a_time() {
    let mut scene = Scene::settled(50, vec![tuning("a", 30), tuning("b", 40).keeping().priority(1)]);
    scene.label("n000", crate::snapshot::HOLD_LABEL, "");
    scene.cluster.edit_tuning("b", crate::snapshot::Tuning::undecodable);
    scene.cluster.snapshot.switch = Switch::Release;
    assert_eq!(scene.turn(), 5);
    assert_eq!(scene.stored("n000"), ["tcp_fin_timeout Release by b"], "also on one that is held");
    for _ in 0..20 {
        scene.cluster.agents_apply();
        scene.turn();
    }
    assert!((0..50).all(|n| scene.stored(&format!("n{n:03}")).is_empty()), "and nothing is ordered anew");
}

#[test]
fn a_node_that_is_held_keeps_its_order_until_the_label_goes() {
    let mut scene = Scene::settled(2, vec![tuning("a", 30)]);
    scene.label("n000", crate::snapshot::HOLD_LABEL, "maintenance");
    scene.cluster.edit_tuning("a", |a| a.with(|spec| spec.sysctls.tcp_fin_timeout_seconds = Some(31)));
    assert_eq!(scene.turn(), 1);
    assert_eq!(scene.limit().held.why("n000"), Some(&Why::Label));
    scene.cluster.delete_tuning("a");
    scene.turn();
    scene.pass(5);
    assert_eq!(scene.turn(), 1);
    assert_eq!(scene.stored("n000"), ["tcp_fin_timeout Set 30 by a"]);
    scene.label("n000", crate::snapshot::HOLD_LABEL, "false");
    scene.turn();
    scene.pass(5);
    assert_eq!(scene.turn(), 1);
}

#[test]
fn a_node_made_anew_inherits_no_wait() {
    let mut scene = Scene::settled(1, vec![tuning("a", 30)]);
    scene.cluster.delete_tuning("a");
    scene.turn();
    scene.cluster.edit_node("n000", |node| node.metadata.uid = Some("anew".into()));
    assert_eq!(scene.turn(), 1, "a new and empty order");
    assert_eq!(scene.stored("n000"), [""; 0]);
}
