//! Events: what somebody who runs `kubectl describe` should see happen. On transitions only; a state that lasts is a
//! condition's business.

use std::time::Duration;

use crds::condition::{Condition, ConditionStatus, kind};
use crds::node::EntryAction;
use crds::state::State;
use crds::tuning::{Phase, WorstNode};
use crds::{TcpCloseNode, TcpCloseTuning, TcpCloseTuningStatus};
use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicy;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource};
use tokio::sync::mpsc;

use crate::assign::{Removed, Write};
use crate::lead::Leadership;
use crate::limit;
use crate::snapshot::Tuning;
use crate::summarise::AT_RISK;
use crate::summarise::condition::Reason;
use crds::OPERATOR_MANAGER;

/// The API server refuses more.
const NOTE_MAX: usize = 1024;
/// Events on node objects in one turn: deleting a tuning of a large fleet must not drown everybody else's events.
const NODES_MAX: usize = 10;
/// Events in one turn on tunings that are undone.
const TUNINGS_MAX: usize = 10;
/// Events that may wait to be told.
const WAITING_MAX: usize = 64;
const TIMEOUT: Duration = Duration::from_secs(5);

/// Something that has changed, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// Whether somebody should look.
    pub warning: bool,
    /// In one word.
    pub reason: String,
    /// In a sentence.
    pub message: String,
}

/// What has changed from one status to the next.
pub fn transitions(before: Option<&TcpCloseTuningStatus>, after: &TcpCloseTuningStatus) -> Vec<Transition> {
    let find = |status: Option<&TcpCloseTuningStatus>, kind: &str| {
        status.and_then(|status| status.conditions.iter().find(|condition| condition.type_ == kind).cloned())
    };
    let pair = |kind: &str| Some((find(before, kind), find(Some(after), kind)?));
    let ready = pair(kind::READY).and_then(|(before, after)| of_ready(before.as_ref(), &after));
    let drifted = pair(kind::DRIFTED).and_then(|(before, after)| of_drifted(before.as_ref(), &after));
    // Drift that nobody puts right is Ready's news already.
    let told = |drifted: &Transition| ready.as_ref().is_some_and(|ready| ready.reason == drifted.reason);
    let drifted = drifted.filter(|drifted| !told(drifted));
    let rollout = of_rollout(before, after);
    ready.into_iter().chain(drifted).chain(of_risk(before, after)).chain(rollout).collect()
}

fn of_ready(before: Option<&Condition>, after: &Condition) -> Option<Transition> {
    let is = |reason: Reason| after.reason == reason.as_str();
    let same_generation =
        before.is_some_and(|before| before.observed_generation == after.observed_generation);
    let warning = [
        Reason::Refused,
        Reason::WriteFailed,
        Reason::Contended,
        Reason::Drifted,
        Reason::AgentMissing,
        Reason::NodesLost,
        Reason::GateInconclusive,
        Reason::RollingBack,
        Reason::RolledBack,
        Reason::Conflict,
        Reason::NoMatchingNodes,
        Reason::Unsupported,
        Reason::Suspended,
        Reason::OperatorError,
    ];
    let warning = warning.into_iter().any(is);
    let normal = [
        Reason::Applied,
        Reason::AppliedExceptStale,
        Reason::AppliedWithExceptions,
        Reason::Observed,
        Reason::Overridden,
    ];
    let normal = normal.into_iter().any(is);
    let step = [Reason::Canary, Reason::Soaking, Reason::RollingOut, Reason::Paused].into_iter().any(is);
    // A warning for each new reason, and a word for each step of a rollout; good news when it was not good before. Nodes that
    // come and go are neither.
    let news = match before {
        Some(before) if same_generation && (warning || step) => before.reason != after.reason,
        Some(before) if same_generation => before.status != ConditionStatus::True,
        Some(_) | None => true,
    };
    ((warning || normal || step) && news).then(|| Transition {
        warning,
        reason: after.reason.clone(),
        message: after.message.clone(),
    })
}

fn of_drifted(before: Option<&Condition>, after: &Condition) -> Option<Transition> {
    let was = before.is_some_and(|before| before.status == ConditionStatus::True);
    (!was && after.status == ConditionStatus::True).then(|| Transition {
        warning: true,
        reason: after.reason.clone(),
        message: after.message.clone(),
    })
}

/// One for the first node whose values a rule would refuse now, however many follow.
fn of_risk(before: Option<&TcpCloseTuningStatus>, after: &TcpCloseTuningStatus) -> Option<Transition> {
    fn at_risk(status: &TcpCloseTuningStatus) -> Option<&WorstNode> {
        status.worst.iter().find(|worst| worst.reason == AT_RISK)
    }
    let first = at_risk(after)?;
    before.and_then(at_risk).is_none().then(|| Transition {
        warning: true,
        reason: AT_RISK.into(),
        message: format!("at risk on {}: {}", first.name, first.message),
    })
}

/// The end of a rollout that people could follow. One that took all nodes at once is an order like any other.
fn of_rollout(before: Option<&TcpCloseTuningStatus>, after: &TcpCloseTuningStatus) -> Option<Transition> {
    let followed = before?.conditions.iter().any(|condition| {
        let steps = [Reason::Soaking, Reason::RollingOut];
        condition.type_ == kind::READY && steps.iter().any(|step| step.as_str() == condition.reason)
    });
    let rollout = after.rollout.as_ref()?;
    (followed && rollout.phase == Phase::Completed.as_str()).then(|| Transition {
        warning: false,
        reason: "RolloutCompleted".into(),
        message: format!("revision {} has reached every node that can be reached", rollout.revision),
    })
}

/// What a write that was taken means for the people who look at a node.
pub fn of_write(write: &Write) -> Option<Transition> {
    match write {
        Write::Create { .. } => None,
        Write::Patch { done, .. } => {
            done.first()?;
            let message = done.iter().map(removed).collect::<Vec<_>>().join("; ");
            let skipped = done.iter().any(|removed| removed.skipped.is_some());
            let reason = if skipped { State::RestoreSkipped.as_str() } else { State::Restored.as_str() };
            Some(Transition { warning: skipped, reason: reason.into(), message })
        }
        Write::Delete { not_restored, .. } if not_restored.is_empty() => None,
        Write::Delete { name, not_restored, asked, .. } => {
            let keys = not_restored.join(", ");
            let message = format!(
                "Node {name} is gone and never said that it had put back {keys}: if the machine lives on, it keeps \
                 our values until it boots"
            );
            // Where nobody had asked it to, as with each node that an autoscaler takes away, it is no fault.
            Some(Transition { warning: *asked, reason: "NotRestored".into(), message })
        }
    }
}

fn removed(Removed { entry, skipped }: &Removed) -> String {
    let done = match (skipped, entry.action) {
        (Some(why), _) => format!("is not put back ({why})"),
        (None, EntryAction::Release) => "is left as it is".into(),
        (None, EntryAction::Set | EntryAction::Hold | EntryAction::Restore) => "is put back".into(),
    };
    format!("{} {done}: tuning {} orders it no longer", entry.name, entry.tuning.name)
}

/// News for people, on its way. Telling it holds nobody up: orders are more urgent.
#[derive(Clone)]
pub struct Events(mpsc::Sender<News>);

struct News {
    about: ObjectReference,
    transition: Transition,
}

impl Events {
    /// Events by this replica, as long as it leads. The future tells them; it has to be polled.
    pub fn start(
        client: Client,
        identity: &str,
        leadership: Leadership,
    ) -> (Self, impl Future<Output = ()> + use<>) {
        let (sender, mut receiver) = mpsc::channel(WAITING_MAX);
        let reporter = Reporter { controller: OPERATOR_MANAGER.into(), instance: Some(identity.into()) };
        let telling = async move {
            while let Some(news) = receiver.recv().await {
                // What nobody hears of any longer is the successor's to tell.
                let _ = leadership.fence(tell(&client, &reporter, news)).await;
            }
        };
        (Self(sender), telling)
    }

    /// Tells of a tuning.
    pub fn tell_of_tuning(&self, tuning: &Tuning, transition: Transition) {
        self.tell(reference::<TcpCloseTuning>(&tuning.name, Some(&tuning.uid)), transition);
    }

    /// Tells of tunings that are undone on many nodes; they may be gone. The first few.
    pub fn tell_of_undoing(&self, news: Vec<(limit::Tuning, Transition)>) {
        for ((name, uid), transition) in news.into_iter().take(TUNINGS_MAX) {
            self.tell(reference::<TcpCloseTuning>(&name, Some(&uid)), transition);
        }
    }

    /// Tells what writes that were taken mean for their nodes, of the first few.
    pub fn tell_of_writes(&self, writes: &[Write]) {
        let news: Vec<_> = writes.iter().filter_map(|write| Some((write, of_write(write)?))).collect();
        if let Some(more) = news.len().checked_sub(NODES_MAX).filter(|more| *more > 0) {
            tracing::info!("{more} more nodes have news than get an event");
        }
        for (write, transition) in news.into_iter().take(NODES_MAX) {
            self.tell(reference::<TcpCloseNode>(write.node(), write.uid()), transition);
        }
    }

    /// Tells of a policy, by name alone where it does not exist.
    pub fn tell_of_policy(&self, name: &str, uid: Option<&str>, transition: Transition) {
        self.tell(reference::<ValidatingAdmissionPolicy>(name, uid), transition);
    }

    fn tell(&self, about: ObjectReference, transition: Transition) {
        tracing::info!(about = about.name, reason = transition.reason, "{}", transition.message);
        if self.0.try_send(News { about, transition }).is_err() {
            tracing::warn!("event not recorded: too many are waiting");
        }
    }
}

fn reference<K: Resource<DynamicType = ()>>(name: &str, uid: Option<&str>) -> ObjectReference {
    ObjectReference {
        api_version: Some(K::api_version(&()).into_owned()),
        kind: Some(K::kind(&()).into_owned()),
        name: Some(name.into()),
        uid: uid.map(Into::into),
        ..ObjectReference::default()
    }
}

/// An event that is lost is no reason to fail.
async fn tell(client: &Client, reporter: &Reporter, News { about, transition }: News) {
    let event = Event {
        type_: if transition.warning { EventType::Warning } else { EventType::Normal },
        reason: transition.reason,
        note: Some(transition.message.chars().take(NOTE_MAX).collect()),
        action: "Reconcile".into(),
        secondary: None,
    };
    // A recorder that lives longer would count events of one reason as one, under the words of the first. These are
    // transitions: each has its own words.
    let recorder = Recorder::new(client.clone(), reporter.clone());
    match tokio::time::timeout(TIMEOUT, recorder.publish(&event, &about)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!("event not recorded: {}", crate::chain(&error)),
        Err(_) => tracing::warn!("event not recorded: no answer within {} s", TIMEOUT.as_secs()),
    }
}

#[cfg(test)]
mod tests;
