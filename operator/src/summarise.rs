//! Summarise: what a tuning's author wants to know, from the nodes' reports. Takes values, returns a status; the clock is
//! one of the values.

pub mod class;
pub mod condition;
mod fit;
pub mod fleet;
mod leak;
mod overdue;
mod rolling;
mod sums;
mod verdict;
mod worst;

use std::time::{Duration, Instant};

use crds::tuning::{Mode, NodeCounts};
use crds::{TcpCloseNode, TcpCloseTuningSpec, TcpCloseTuningStatus};
use jiff::Timestamp;

use crate::history::History;
use crate::limit::Why;
use crate::resolve::{Resolution, is_order, matched, orders_of};
use crate::rollout;
use crate::snapshot::{Node, Snapshot, Tuning};
use class::{Class, Finding};
use condition::{Reason, Stored};
pub use fit::fit;
pub use leak::leaked;
use verdict::{Restoring, Scene};
pub use worst::{AT_RISK, LOST, SOCKETS};

/// A tuning that was ready once stays ready while few nodes are pending, or for less than this.
const PENDING_LONG: Duration = Duration::from_secs(300);

/// What time it is.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// For people, and for what has to survive a restart.
    pub wall: Timestamp,
    /// For spans of time.
    pub clock: Instant,
}

/// The status of a tuning, with the stored one as the past. The resolution is what the specs want: what its rollout has not
/// reached yet counts as waiting.
pub fn summarise(
    tuning: &Tuning,
    stored: Option<&TcpCloseTuningStatus>,
    snapshot: &Snapshot,
    resolution: &Resolution,
    history: &mut History,
    now: Now,
) -> TcpCloseTuningStatus {
    let past = Stored { status: stored, generation: tuning.generation };
    match &tuning.spec {
        Ok(spec) => summarise_decoded(tuning, spec, past, snapshot, resolution, history, now),
        Err(error) => TcpCloseTuningStatus {
            observed_generation: tuning.generation,
            conditions: condition::conditions(&verdict::undecodable(error), past, now.wall),
            ..TcpCloseTuningStatus::default()
        },
    }
}

/// The status of a tuning while a watch fails: what is known of the cluster is old, and no count of it is repeated. How far a
/// rollout is stays: the orders follow it.
pub fn blind(
    tuning: &Tuning,
    stored: Option<&TcpCloseTuningStatus>,
    watch: &str,
    now: Timestamp,
) -> TcpCloseTuningStatus {
    let past = Stored { status: stored, generation: tuning.generation };
    let rollout = stored.filter(|_| tuning.spec.is_ok()).and_then(|stored| stored.rollout.clone());
    TcpCloseTuningStatus {
        observed_generation: tuning.generation,
        conditions: condition::conditions(&verdict::blind(watch), past, now),
        rollout,
        ..TcpCloseTuningStatus::default()
    }
}

fn summarise_decoded(
    tuning: &Tuning,
    spec: &TcpCloseTuningSpec,
    past: Stored<'_>,
    snapshot: &Snapshot,
    resolution: &Resolution,
    history: &mut History,
    now: Now,
) -> TcpCloseTuningStatus {
    let was_ready = past.was_in_force();
    let matched = matched(tuning, snapshot, resolution);
    let mut findings = class::find(tuning, spec, &matched, history, was_ready, now.clock);
    let is_reachable =
        |node: &Node, order: Option<&TcpCloseNode>| class::is_heard(node, order, history, now.clock);
    let members = rollout::members(tuning, &matched, &is_reachable);
    let progress = match spec.mode {
        Mode::Enforce => {
            let strays = rollout::strays(tuning, snapshot, &is_reachable);
            let mut progress = rollout::advance(tuning, spec, past.status, &members, &strays, now.wall);
            let first = !history.knows(&tuning.uid);
            let scene = overdue::Scene { tuning, spec, members: &members, snapshot, past, first };
            scene.excuse(&mut progress, now.wall);
            Some(progress)
        }
        Mode::Observe => None,
    };
    for (finding, member) in findings.iter_mut().zip(&members) {
        if let Some(progress) = &progress {
            finding.note_turn(member, progress);
        }
    }
    let pending =
        findings.iter().filter(|finding| finding.class == Class::Pending).map(|finding| finding.node);
    let long_pending = history.note_pending(&tuning.uid, pending, now.clock, PENDING_LONG);
    let scene = Scene {
        spec,
        snapshot,
        restoring: restoring(tuning, snapshot, resolution, history, now.clock),
        contested: verdict::contested(tuning, resolution),
        was_ready,
        has_completed: match spec.mode {
            Mode::Enforce => rollout::begin::is_everywhere(tuning),
            Mode::Observe => past.is_ready_for([Reason::Observed]),
        },
        waited_for_peace: past.has_waited_for_peace(now.wall),
        long_pending,
        findings,
        progress,
    };
    let kept = || past.status.and_then(|status| status.rollout.clone());
    fit(TcpCloseTuningStatus {
        observed_generation: tuning.generation,
        conditions: condition::conditions(&verdict::conclude(&scene), past, now.wall),
        nodes: Some(counts(&scene)),
        sockets: sums::sums(scene.findings.iter().filter_map(|finding| finding.report)),
        worst: worst::worst(&scene.findings),
        refusals: worst::refusals(&scene.findings),
        // While it only observes, what its nodes had completed is not forgotten.
        rollout: scene.progress.map(|progress| progress.status).or_else(kept),
    })
}

/// Nodes that no longer match and have not been put back.
fn restoring<'a>(
    tuning: &Tuning,
    snapshot: &'a Snapshot,
    resolution: &'a Resolution,
    history: &'a History,
    now: Instant,
) -> Vec<Restoring<'a>> {
    // Nothing has been decided yet, or it waits in case it is taken back.
    let may_match_again = |order: Option<&TcpCloseNode>, why: Option<&Why>| {
        let is_told = order.is_none_or(|order| orders_of(order, &tuning.uid).next().is_none());
        !is_told && matches!(why, None | Some(Why::Grace(_)))
    };
    let of_tuning = resolution.orders.iter().filter(|(_, order)| {
        order.entries.iter().any(|entry| entry.tuning.uid == tuning.uid && !is_order(entry))
    });
    of_tuning
        .filter_map(|(name, _)| {
            let node = snapshot.nodes.get(name).filter(|node| !tuning.matches(node))?;
            let why = history.held_back(name);
            // A person who holds a node does not wait for it.
            let order = snapshot.order_of(node);
            let reachable = class::is_heard(node, order, history, now) && why != Some(&Why::Label);
            Some(Restoring { node: name, reachable, why, in_grace: may_match_again(order, why) })
        })
        .collect()
}

fn counts(scene: &Scene<'_>) -> NodeCounts {
    let findings = &scene.findings;
    let of = |class: Class| count(findings.iter().filter(|finding| finding.class == class).count());
    let (matched, updated) = (count(findings.len()), of(Class::Updated));
    let with = |overlay: fn(&Finding<'_>) -> bool| count(findings.iter().filter(|f| overlay(f)).count());
    NodeCounts {
        summary: format!("{updated}/{matched}"),
        matched,
        updated,
        pending: of(Class::Pending) + of(Class::Waiting),
        refused: of(Class::Refused),
        failed: count(findings.iter().filter(|finding| finding.class.is_failed()).count()),
        stale: of(Class::Stale) + of(Class::Held),
        unsupported: with(|finding| !finding.unsupported.is_empty()),
        overridden: with(|finding| !finding.lost.is_empty()),
        drifted: with(|finding| !finding.drifted.is_empty()),
        restoring: count(scene.restoring.len()),
        held: with(|finding| finding.held),
    }
}

/// So many, as a status holds it.
pub fn count(many: usize) -> u32 {
    u32::try_from(many).unwrap_or(u32::MAX)
}

/// The first names and how many more: `node-1, node-2, node-3 and 4 more`.
pub(crate) fn some<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<_> = names.into_iter().collect();
    let first = names.iter().take(NAMES_MAX).copied().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMES_MAX) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

/// A sentence names no more nodes than this.
const NAMES_MAX: usize = 3;

/// `1 node`, `5 nodes`.
pub(crate) fn nodes(many: usize) -> String {
    if many == 1 { "1 node".into() } else { format!("{many} nodes") }
}

/// At most this many characters; what was cut off is shown as `…`.
pub(crate) fn clip(text: &str, max: usize) -> String {
    if text.chars().count() <= max {
        return text.into();
    }
    text.chars().take(max.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests;
