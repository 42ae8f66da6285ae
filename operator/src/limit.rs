//! Limit: what would undo something waits. A label that flaps, a selector with a typing error and a pipeline that prunes too
//! much are all taken back more often than they are meant.
//!
//! What undoes ([`undone`]) waits for five seconds, is then looked up again at a quorum of the API server, and goes to a few
//! nodes at a time. Where it would take values from many nodes, it waits for half a minute. An order that only adds or
//! changes values never waits here.
//!
//! A node that waits keeps its whole order as it is stored. To keep back only the entries that undo would be quicker for
//! other tunings by these seconds, and could leave half of an edit on a node: a tuning that drops one sysctl and changes
//! another, or sysctls of two tunings that a rule looks at together.
//!
//! The clock and what is known are arguments. Since when something has been waiting is this step's own memory: a new
//! operator waits anew.

pub mod confirm;
mod held;
mod undone;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

pub use held::{HeldBack, Why};
use undone::{Undone, Weight, undone};

use crate::event::Transition;
use crate::pace::Spent;
use crate::resolve::{Resolution, is_acknowledged, is_order, orders_of, release};
use crate::snapshot::{Snapshot, in_step};
use crate::summarise::{self, Now};
use crate::switch::Switch;

/// What is taken back within this time costs nothing, not one write.
const GRACE: Duration = Duration::from_secs(5);
/// What would take values from many nodes waits for this long.
const GUARD: Duration = Duration::from_secs(30);
/// Nodes from which values were taken so short a while ago count as if they were taken now.
const RECENT: Duration = Duration::from_secs(300);
/// A node that has not acknowledged for this long keeps no others waiting: nothing waits for the dead.
const SLOT_FOR: Duration = Duration::from_secs(60);
/// So many nodes are few in a cluster of any size.
const FEW: usize = 10;

/// What has been waiting, and since when.
#[derive(Debug, Default)]
pub struct Limiter {
    /// By node, then by what is undone there.
    waiting: BTreeMap<String, HashMap<String, Waiting>>,
    /// Nodes that undo something: by which revision, and since when.
    in_flight: HashMap<String, (String, Instant)>,
    /// By node: a value that was taken from it, and when.
    taken: BTreeMap<String, (Undone, Instant)>,
    /// Tunings that have been told to wait with many nodes.
    told: BTreeSet<Tuning>,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    since: Instant,
    /// Whether a quorum of the API server wants it too, or a person.
    confirmed: bool,
}

/// What may be ordered now.
#[derive(Debug, Default)]
pub struct Limited {
    /// What is to be ordered, less what waits.
    pub resolution: Resolution,
    /// Which nodes wait, and why.
    pub held: HeldBack,
    /// Nodes that have waited long enough, if a fresh look says the same.
    pub doubtful: Vec<String>,
    /// How long the next of the others still has to wait.
    pub wake: Option<Duration>,
    /// What the fresh look took: waiting is no computing.
    pub looked: Spent,
    /// Tunings that have just begun to wait with many nodes, and what to tell people of them.
    pub news: Vec<(Tuning, Transition)>,
}

/// A tuning by name and uid; the object may be gone.
pub type Tuning = (String, String);

/// A pass that would take values from many nodes.
struct Guard {
    /// From which, by the tuning that loses them.
    nodes: BTreeMap<Tuning, BTreeSet<String>>,
    why: Why,
}

impl Limiter {
    /// What may be ordered now of what is wanted.
    pub fn limit(&mut self, snapshot: &Snapshot, wanted: Resolution, now: Now) -> Limited {
        let mut limited = Limited { resolution: wanted, ..Limited::default() };
        limited.obey(snapshot);
        let undoing = undoing(snapshot, &limited.resolution);
        self.note_waiting(&undoing, snapshot.switch == Switch::Release, now.clock);
        self.note_in_flight(snapshot, now.clock);
        self.forget_taken(snapshot, now.clock);
        let all = limited.resolution.orders.len();
        let guard = self.guard(&undoing, all, now);
        limited.news = self.news(guard.as_ref());
        let mut free = at_once(all).saturating_sub(self.slots_taken(now.clock));
        for (name, undone) in &undoing {
            if let Some(why) = self.why_wait(name, undone, guard.as_ref(), now.clock, &mut limited) {
                limited.keep(name, snapshot, why);
                continue;
            }
            let ready = snapshot.nodes.get(name).is_some_and(|node| node.is_ready());
            if undone.iter().any(|undone| undone.weight != Weight::Moves) && ready {
                let Some(rest) = free.checked_sub(1) else {
                    limited.keep(name, snapshot, Why::Others(at_once(all)));
                    continue;
                };
                free = rest;
            }
            if let Some(undone) = undone.iter().find(|undone| undone.weight == Weight::Takes) {
                self.taken.insert(name.clone(), (undone.clone(), now.clock));
            }
        }
        limited
    }

    /// Notes what a fresh look at the API server makes of nodes that have waited long enough. What it does not want waits
    /// anew: the watch has yet to bring what took it back.
    pub fn confirm(&mut self, snapshot: &Snapshot, fresh: &Resolution, nodes: &[String], now: Instant) {
        for name in nodes {
            let Some(waiting) = self.waiting.get_mut(name) else { continue };
            let still = undone_on(name, snapshot, fresh);
            for (what, waiting) in waiting {
                waiting.confirmed = still.iter().any(|undone| undone.what == *what);
                if !waiting.confirmed {
                    waiting.since = now;
                }
            }
        }
    }

    fn note_waiting(&mut self, undoing: &BTreeMap<String, Vec<Undone>>, explicit: bool, now: Instant) {
        let mut before = std::mem::take(&mut self.waiting);
        for (name, undone) in undoing {
            let known = before.remove(name).unwrap_or_default();
            let of_one = undone.iter().map(|undone| {
                let new = Waiting { since: now, confirmed: false };
                let mut waiting = known.get(&undone.what).copied().unwrap_or(new);
                waiting.confirmed |= explicit;
                (undone.what.clone(), waiting)
            });
            self.waiting.insert(name.clone(), of_one.collect());
        }
    }

    fn note_in_flight(&mut self, snapshot: &Snapshot, now: Instant) {
        let before = std::mem::take(&mut self.in_flight);
        for (name, _, order) in snapshot.nodes_with_orders().filter(|(_, node, _)| node.is_ready()) {
            let Some(order) = order else { continue };
            let undoes = |entry| !is_order(entry) || undone::is_rollback(entry);
            if !is_acknowledged(order) && order.spec.sysctls.iter().any(undoes) {
                let revision = &order.spec.revision;
                let known = before.get(name).filter(|(of, _)| of == revision).map(|(_, since)| *since);
                self.in_flight.insert(name.clone(), (revision.clone(), known.unwrap_or(now)));
            }
        }
    }

    /// Forgets what was taken long ago, and what the node has again.
    fn forget_taken(&mut self, snapshot: &Snapshot, now: Instant) {
        self.taken.retain(|name, (undone, at)| {
            let order = snapshot.nodes.get(name).and_then(|node| snapshot.order_of(node));
            let has = |order| orders_of(order, &undone.tuning.1).any(|entry| entry.name == undone.what);
            now.saturating_duration_since(*at) < RECENT && order.is_some_and(|order| !has(order))
        });
    }

    fn slots_taken(&self, now: Instant) -> usize {
        let lasts = |since: &Instant| now.saturating_duration_since(*since) < SLOT_FOR;
        self.in_flight.values().filter(|(_, since)| lasts(since)).count()
    }

    /// What has not been confirmed where values would be taken from many nodes, or have been a short while ago.
    fn guard(&self, undoing: &BTreeMap<String, Vec<Undone>>, all: usize, now: Now) -> Option<Guard> {
        let mut nodes = BTreeMap::<Tuning, BTreeSet<String>>::new();
        let mut many: BTreeSet<_> = self.taken.keys().collect();
        let mut last: Option<Instant> = None;
        for (name, undone) in undoing {
            for undone in undone.iter().filter(|undone| undone.weight == Weight::Takes) {
                many.insert(name);
                if let Some(waiting) = self.of(name, &undone.what).filter(|waiting| !waiting.confirmed) {
                    nodes.entry(undone.tuning.clone()).or_default().insert(name.clone());
                    last = last.max(Some(waiting.since));
                }
            }
        }
        let many = many.len();
        let rest = (last? + GUARD).saturating_duration_since(now.clock);
        let until = now.wall.saturating_add(rest).unwrap_or(now.wall);
        let why = Why::Many { nodes: many, of: all, until };
        (many > FEW.max(all / 5)).then_some(Guard { nodes, why })
    }

    /// Why a node has to wait still; what is to be done about that is noted.
    fn why_wait(
        &self,
        name: &str,
        undone: &[Undone],
        guard: Option<&Guard>,
        now: Instant,
        limited: &mut Limited,
    ) -> Option<Why> {
        let guarded = guard.filter(|guard| guard.nodes.values().any(|nodes| nodes.contains(name)));
        let (wait, why) = guarded.map_or((GRACE, Why::Grace(GRACE)), |guard| (GUARD, guard.why.clone()));
        let unconfirmed = undone.iter().filter_map(|undone| self.of(name, &undone.what));
        let since = unconfirmed.filter(|waiting| !waiting.confirmed).map(|waiting| waiting.since).max()?;
        let rest = (since + wait).saturating_duration_since(now);
        if rest.is_zero() {
            limited.doubtful.push(name.into());
        } else {
            limited.wake = Some(limited.wake.map_or(rest, |wake| wake.min(rest)));
        }
        Some(why)
    }

    /// One for each tuning that begins to wait with many nodes.
    fn news(&mut self, guard: Option<&Guard>) -> Vec<(Tuning, Transition)> {
        let before = std::mem::take(&mut self.told);
        let Some(guard) = guard else { return Vec::new() };
        self.told = guard.nodes.keys().cloned().collect();
        let begun = guard.nodes.iter().filter(|(tuning, _)| !before.contains(tuning));
        begun.map(|(tuning, nodes)| (tuning.clone(), guard.tell(nodes))).collect()
    }

    fn of(&self, name: &str, what: &str) -> Option<&Waiting> {
        self.waiting.get(name)?.get(what)
    }
}

impl Guard {
    fn tell(&self, nodes: &BTreeSet<String>) -> Transition {
        let message = format!(
            "its values are no longer wanted on {} ({}), which wait {}: put the tuning or the labels back, and nothing \
             happens",
            summarise::nodes(nodes.len()),
            summarise::some(nodes.iter().map(String::as_str)),
            self.why,
        );
        Transition { warning: true, reason: "MassUndoing".into(), message }
    }
}

impl Limited {
    /// Carries out what a person says of the whole cluster, or of a node.
    fn obey(&mut self, snapshot: &Snapshot) {
        if snapshot.switch == Switch::Release {
            return self.release(snapshot);
        }
        let all = snapshot.switch.freezes();
        let kept = snapshot.nodes.iter().filter(|(_, node)| all || node.is_held());
        let names: Vec<_> = kept.map(|(name, _)| name.clone()).collect();
        for name in names {
            self.keep(&name, snapshot, if all { Why::Switch } else { Why::Label });
        }
    }

    /// Takes every value back, also on nodes that are held, and orders nothing.
    fn release(&mut self, snapshot: &Snapshot) {
        for (name, order) in &mut self.resolution.orders {
            let stored = snapshot.nodes.get(name).and_then(|node| snapshot.order_of(node));
            order.entries = stored.map(release).unwrap_or_default().into();
        }
    }

    /// Leaves a node's order as it is stored: empty where there is none yet.
    fn keep(&mut self, name: &str, snapshot: &Snapshot, why: Why) {
        let Some(order) = self.resolution.orders.get_mut(name) else { return };
        let stored = snapshot.nodes.get(name).and_then(|node| snapshot.order_of(node));
        let stored = stored.map(|stored| &stored.spec);
        let (entries, observe) =
            stored.map_or_else(Default::default, |stored| (stored.sysctls.clone(), stored.observe.clone()));
        if (&order.entries, &order.observe) != (&entries, &observe) {
            (order.entries, order.observe) = (entries, observe);
            self.held.note(name, why);
        }
    }
}

/// How many nodes undo something at once.
fn at_once(nodes: usize) -> usize {
    if nodes <= FEW { FEW } else { (nodes / 10).max(1) }
}

/// What the orders would undo, by node; nodes where they undo nothing are left out.
fn undoing(snapshot: &Snapshot, wanted: &Resolution) -> BTreeMap<String, Vec<Undone>> {
    let stored = snapshot.nodes_with_orders().filter_map(|(name, _, order)| Some((name, &order?.spec)));
    let both =
        in_step(stored, &wanted.orders).filter_map(|(name, stored, order)| Some((name, stored, order?)));
    let each = both.map(|(name, stored, order)| (name, undone(stored, order)));
    each.filter(|(_, undone)| !undone.is_empty()).map(|(name, undone)| (name.clone(), undone)).collect()
}

fn undone_on(name: &str, snapshot: &Snapshot, wanted: &Resolution) -> Vec<Undone> {
    let stored = snapshot.nodes.get(name).and_then(|node| snapshot.order_of(node));
    stored.zip(wanted.orders.get(name)).map(|(stored, order)| undone(&stored.spec, order)).unwrap_or_default()
}

#[cfg(test)]
mod tests;
