//! Resolve: for every node and every sysctl, which tuning orders it, and what becomes of keys that nothing orders any
//! longer. Takes what is known of the cluster, returns what is to be ordered; no client, no clock.
//!
//! What a tuning has for a node is an argument: by the specs alone, the answer is what everybody wants; with what the
//! rollouts leave on each node meanwhile, it is what is to be ordered now.
//!
//! Absence is never an order: a key that was ordered gets a Restore or a Release, and loses its entry only after its node
//! has acknowledged that.

mod content;

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

use crds::TcpCloseNode;
use crds::node::{EntryAction, ObservedTuning, SysctlEntry, TuningReference};
use crds::shared::Shared;
use crds::state::State;
use crds::tuning::{Mode, RemovalPolicy, TcpCloseTuningSpec};
use tcp_close::Sysctl;

use crate::snapshot::{Node, OrderObject, Snapshot, Tuning, in_step};
pub use content::{Content, Contents, orders_of};
use content::{Offer, hold};

/// The schema takes no more. More tunings than this on one node are not looked at by anybody.
pub(crate) const OBSERVE_MAX: usize = 64;

/// What is to be ordered, by node name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resolution {
    /// One for each Linux node, and for each other node that still holds an order.
    pub orders: BTreeMap<String, NodeOrder>,
}

/// What is to be ordered on one node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeOrder {
    /// Sysctl by sysctl, in the order of the catalogue.
    pub entries: Shared<Vec<SysctlEntry>>,
    /// Tunings that only observe it, by name.
    pub observe: Shared<Vec<ObservedTuning>>,
    /// How every tuning that enforces something here fares.
    pub claims: Shared<Vec<Claim>>,
}

/// How a tuning fares with one of its sysctls on one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The sysctl.
    pub sysctl: Sysctl,
    /// The uid of the tuning.
    pub tuning: String,
    /// How it fares.
    pub standing: Standing,
}

/// How a claim fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is the order.
    Wins,
    /// Another tuning of the same priority orders the same value: both have what they want.
    Agrees,
    /// A tuning of higher priority (or one that nobody can read any longer) orders it.
    Overridden {
        /// The uid of the winner.
        by: String,
    },
    /// A tuning of the same priority, but older, orders another value.
    Conflict {
        /// The uid of the winner.
        with: String,
    },
}

/// What is to be ordered on every node, where the tunings have these contents there.
pub fn resolve(snapshot: &Snapshot, contents: &Contents) -> Resolution {
    let tunings = Ranked::new(&snapshot.tunings);
    let mut known = Known::default();
    let orders = snapshot
        .nodes_with_objects()
        .filter(|(_, node, object)| node.is_linux() || object.is_some())
        // What an undecodable order holds is unknown: it stays as it is.
        .filter(|(_, _, object)| object.is_none_or(|object| object.0.is_ok()))
        .map(|(name, node, object)| {
            let prior = object.and_then(|object| node.order_in(object));
            (name.clone(), known.resolve(Case::of(node, prior, &tunings, contents), prior, &tunings))
        })
        .collect();
    Resolution { orders }
}

/// What decides on a node's order, besides what its agent reports of keys that are being put back.
#[derive(PartialEq, Eq, Hash)]
struct Case {
    /// The tunings that enforce something there, by their rank, and which content they have for it.
    enforce: Vec<(usize, Content)>,
    /// Those that only observe it.
    observe: Vec<usize>,
    /// What it has been ordered, by the places in memory: while a snapshot lives, they stand for it.
    prior: Option<[usize; 2]>,
}

impl Case {
    fn of(node: &Node, prior: Option<&TcpCloseNode>, tunings: &Ranked<'_>, contents: &Contents) -> Self {
        let enforce = tunings.enforce.iter().enumerate().filter(|(_, (tuning, _))| tuning.matches(node));
        let observe = tunings.observe.iter().enumerate().filter(|(_, (tuning, _))| tuning.matches(node));
        Self {
            enforce: enforce
                .map(|(rank, (tuning, _))| (rank, contents.of(&tuning.uid, node.name())))
                .collect(),
            observe: observe.map(|(rank, _)| rank).collect(),
            prior: prior.map(|prior| [prior.spec.sysctls.place(), prior.spec.observe.place()]),
        }
    }
}

/// Cases that have been resolved: however many nodes a fleet has, they are few cases.
#[derive(Default)]
struct Known {
    cases: HashMap<Case, NodeOrder>,
    last: NodeOrder,
}

impl Known {
    fn resolve(&mut self, case: Case, prior: Option<&TcpCloseNode>, tunings: &Ranked<'_>) -> NodeOrder {
        let is_like_others = prior.is_none_or(|prior| prior.spec.sysctls.iter().all(is_order));
        if let Some(known) = self.cases.get(&case).filter(|_| is_like_others) {
            return known.clone();
        }
        let mut order = resolve_case(&case, prior, tunings);
        // What is new is the same in many cases.
        keep_one(&mut order.entries, &self.last.entries);
        keep_one(&mut order.observe, &self.last.observe);
        keep_one(&mut order.claims, &self.last.claims);
        self.last.clone_from(&order);
        if is_like_others {
            self.cases.insert(case, order.clone());
        }
        order
    }
}

/// A node that a tuning is for.
#[derive(Clone, Copy)]
pub struct Matched<'a> {
    /// Its name.
    pub name: &'a str,
    /// The Node.
    pub node: &'a Node,
    /// The object of its name.
    pub object: Option<&'a OrderObject>,
    /// What is wanted there.
    pub wanted: Option<&'a NodeOrder>,
}

impl<'a> Matched<'a> {
    /// The order of this very Node, where it can be read.
    pub fn order(&self) -> Option<&'a TcpCloseNode> {
        self.node.order_in(self.object?)
    }
}

/// The nodes that a tuning is for, by name.
pub fn matched<'a>(tuning: &Tuning, snapshot: &'a Snapshot, wants: &'a Resolution) -> Vec<Matched<'a>> {
    let nodes = snapshot.nodes_with_objects().filter(|(_, node, _)| tuning.matches(node));
    let nodes = nodes.map(|(name, node, object)| (name, (node, object)));
    in_step(nodes, &wants.orders)
        .map(|(name, (node, object), wanted)| Matched { name, node, object, wanted })
        .collect()
}

/// Tunings by what they may do, those that enforce in the order of precedence.
struct Ranked<'a> {
    enforce: Vec<(&'a Tuning, &'a TcpCloseTuningSpec)>,
    observe: Vec<(&'a Tuning, &'a TcpCloseTuningSpec)>,
    frozen: Vec<&'a Tuning>,
}

impl<'a> Ranked<'a> {
    fn new(tunings: &'a [Tuning]) -> Self {
        let in_mode = |mode| {
            let of_mode = tunings.iter().filter_map(move |tuning| Some((tuning, tuning.in_mode(mode)?)));
            of_mode.collect::<Vec<_>>()
        };
        let mut enforce = in_mode(Mode::Enforce);
        enforce.sort_by_key(|(tuning, spec)| precedence(tuning, spec));
        let mut observe = in_mode(Mode::Observe);
        observe.sort_by_key(|(tuning, _)| &tuning.name);
        Self { enforce, observe, frozen: tunings.iter().filter(|tuning| tuning.is_frozen()).collect() }
    }

    fn is_frozen(&self, uid: &str) -> bool {
        self.frozen.iter().any(|tuning| tuning.uid == uid)
    }
}

/// Who comes before whom: the higher priority, then the older one.
pub fn precedence<'a>(tuning: &'a Tuning, spec: &TcpCloseTuningSpec) -> impl Ord + use<'a> {
    (Reverse(spec.priority()), tuning.created, &tuning.name)
}

fn resolve_case(case: &Case, prior: Option<&TcpCloseNode>, tunings: &Ranked<'_>) -> NodeOrder {
    let ranked = case.enforce.iter().map(|(rank, content)| (tunings.enforce[*rank], *content));
    let offers: Vec<_> =
        ranked.map(|((tuning, spec), content)| Offer::new(tuning, spec, content, prior)).collect();
    let observers: Vec<_> = case.observe.iter().map(|rank| tunings.observe[*rank]).collect();
    let mut order = NodeOrder::default();
    for sysctl in Sysctl::ALL {
        let last = prior.and_then(|prior| entry_of(prior, sysctl.name()));
        let frozen = last.filter(|last| is_order(last) && tunings.is_frozen(&last.tuning.uid));
        let claims = contest(sysctl, &offers, frozen);
        let winner = claims.iter().find(|claim| claim.standing == Standing::Wins);
        let winner = winner.and_then(|claim| offers.iter().find(|offer| offer.tuning.uid == claim.tuning));
        let entry = match (frozen, winner, last) {
            (Some(frozen), _, _) => Some(frozen.clone()),
            (None, Some(winner), _) => winner.entry(sysctl),
            (None, None, Some(last)) if is_awaited(last, sysctl, &offers) => Some(last.clone()),
            (None, None, Some(last)) => wind_down(last, prior, &offers, &observers),
            (None, None, None) => None,
        };
        order.entries.extend(entry);
        order.claims.extend(claims);
    }
    // A newer operator may have ordered what this one does not know: that is not this one's to take back.
    let unknown = prior.into_iter().flat_map(|prior| &prior.spec.sysctls);
    order.entries.extend(unknown.filter(|entry| Sysctl::from_name(&entry.name).is_none()).cloned());
    order.observe = observe(prior, &observers, tunings).into();
    if let Some(prior) = prior {
        // What stays as it is, as it does on most nodes, is not held twice.
        keep_one(&mut order.entries, &prior.spec.sysctls);
        keep_one(&mut order.observe, &prior.spec.observe);
    }
    order
}

fn keep_one<T: Clone + PartialEq>(fresh: &mut Shared<T>, known: &Shared<T>) {
    if fresh == known {
        fresh.clone_from(known);
    }
}

/// How everybody who orders this sysctl here fares. The first of the highest priority wins, unless a frozen tuning holds it.
fn contest(sysctl: Sysctl, offers: &[Offer<'_>], frozen: Option<&SysctlEntry>) -> Vec<Claim> {
    let mut claimants = offers.iter().filter_map(|offer| Some((offer, offer.value(sysctl)?)));
    let claim = |tuning: &Tuning, standing| Claim { sysctl, tuning: tuning.uid.clone(), standing };
    if let Some(frozen) = frozen {
        let by = &frozen.tuning.uid;
        return claimants
            .map(|(offer, _)| claim(offer.tuning, Standing::Overridden { by: by.clone() }))
            .collect();
    }
    let Some((winner, value)) = claimants.next() else { return Vec::new() };
    let losers = claimants.map(|(offer, other)| {
        let standing = if offer.spec.priority() < winner.spec.priority() {
            Standing::Overridden { by: winner.tuning.uid.clone() }
        } else if other == value {
            Standing::Agrees
        } else {
            Standing::Conflict { with: winner.tuning.uid.clone() }
        };
        claim(offer.tuning, standing)
    });
    std::iter::once(claim(winner.tuning, Standing::Wins)).chain(losers).collect()
}

/// Whether another tuning is to order a key whose tuning has gone, as soon as its rollout comes to this node: until then the
/// value stays. Else a tuning that was renamed would be restored everywhere, and applied again. One that is paused, or whose
/// canary failed, says in its status for whom it keeps the value; one that is back at a stable revision wants no more than that.
fn is_awaited(last: &SysctlEntry, sysctl: Sysctl, offers: &[Offer<'_>]) -> bool {
    let is_back = |tuning: &Tuning| tuning.has_failed() && tuning.stable().is_some();
    let others = offers.iter().filter(|offer| offer.tuning.uid != last.tuning.uid);
    let mut coming = others.filter(|offer| !offer.rollback && !is_back(offer.tuning));
    is_order(last) && coming.any(|offer| offer.spec.sysctls.get(sysctl).is_some())
}

/// What becomes of a key that no tuning orders any longer. A revision that failed is put back, whatever its removal policy:
/// nobody wants to keep it.
fn wind_down(
    last: &SysctlEntry,
    prior: Option<&TcpCloseNode>,
    offers: &[Offer<'_>],
    observers: &[(&Tuning, &TcpCloseTuningSpec)],
) -> Option<SysctlEntry> {
    let observer = observers.iter().find(|(tuning, _)| tuning.uid == last.tuning.uid);
    match (last.action, observer) {
        (EntryAction::Set | EntryAction::Hold, Some((tuning, spec))) => Some(hold(last, tuning, spec)),
        (EntryAction::Set | EntryAction::Hold, None) => {
            let failed = offers.iter().any(|offer| offer.tuning.uid == last.tuning.uid && offer.rollback);
            let action = match last.removal_policy {
                RemovalPolicy::Keep if !failed => EntryAction::Release,
                RemovalPolicy::Keep | RemovalPolicy::Restore => EntryAction::Restore,
            };
            Some(SysctlEntry { action, value: None, ..last.clone() })
        }
        (EntryAction::Restore | EntryAction::Release, _) => {
            let done = prior.is_some_and(|prior| is_removed(prior, &last.name));
            (!done).then(|| last.clone())
        }
    }
}

/// What becomes of a node's entries where nothing is ordered any longer.
pub fn release(order: &TcpCloseNode) -> Vec<SysctlEntry> {
    order.spec.sysctls.iter().filter_map(|last| wind_down(last, Some(order), &[], &[])).collect()
}

fn observe(
    prior: Option<&TcpCloseNode>,
    observers: &[(&Tuning, &TcpCloseTuningSpec)],
    tunings: &Ranked<'_>,
) -> Vec<ObservedTuning> {
    let kept = prior.into_iter().flat_map(|prior| &prior.spec.observe);
    let kept = kept.filter(|observed| tunings.is_frozen(&observed.tuning.uid)).cloned();
    let fresh = observers.iter().map(|(tuning, spec)| ObservedTuning {
        tuning: TuningReference {
            name: tuning.name.clone(),
            uid: tuning.uid.clone(),
            revision: tuning.revision.clone(),
        },
        sysctls: spec.sysctls.clone(),
        safety: spec.safety(),
    });
    let mut all: Vec<_> = kept.chain(fresh).collect();
    all.sort_by(|one, other| one.tuning.name.cmp(&other.tuning.name));
    all.truncate(OBSERVE_MAX);
    all
}

fn entry_of<'a>(order: &'a TcpCloseNode, name: &str) -> Option<&'a SysctlEntry> {
    order.spec.sysctls.iter().find(|entry| entry.name == name)
}

/// Whether an entry keeps a value in force, as opposed to taking it back.
pub fn is_order(entry: &SysctlEntry) -> bool {
    match entry.action {
        EntryAction::Set | EntryAction::Hold => true,
        EntryAction::Restore | EntryAction::Release => false,
    }
}

/// Whether the node's agent has carried out the order as it stands.
pub fn is_acknowledged(order: &TcpCloseNode) -> bool {
    order.status.as_ref().is_some_and(|status| {
        status.observed_generation >= order.metadata.generation.unwrap_or_default()
            && status.observed_revision.as_deref() == Some(order.spec.revision.as_str())
    })
}

/// Whether the node's agent has put this key back (or let go of it), so that its entry can go.
pub fn is_removed(order: &TcpCloseNode, name: &str) -> bool {
    let Some(status) = order.status.as_ref().filter(|_| is_acknowledged(order)) else { return false };
    // An agent says nothing of a key that it has never written and does not know.
    status.sysctls.iter().find(|row| row.name == name).is_none_or(|row| match State::parse(&row.state) {
        Some(state) => state.is_removed() || state == State::Unsupported,
        None => false,
    })
}

#[cfg(test)]
mod tests;
