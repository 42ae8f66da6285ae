//! Advance: what comes next in a rollout, from how far its nodes are. The answer is stored before anybody acts on it: that a
//! revision failed is known before the first node is taken back.

use std::collections::BTreeSet;
use std::time::Duration;

use crds::tuning::{Gate, Phase, RolloutStatus, WhenInconclusive};
use crds::{TcpCloseTuningSpec, TcpCloseTuningStatus};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::canary::canaries;
use super::gate::{self, Verdict};
use super::place::{failed, fails_too_often};
use super::{Member, Stray, begin};
use crate::snapshot::Tuning;
use crate::summarise::{clip, count, nodes, some};

/// The canaries are watched for so long where nobody says otherwise.
const SOAK_SECONDS: u32 = 60;
/// A rollout without progress for so long needs a person, where nobody says otherwise.
const PROGRESS_DEADLINE_SECONDS: u32 = 600;
/// So many connections make figures, where nobody says otherwise.
const MIN_CONNECTIONS: u32 = 1000;
/// A canary, and a soak of 0 s, take two steps at once.
const STEPS_MAX: usize = 6;
/// Conditions repeat it, and a status has room for 8 KB.
const REASON_MAX: usize = 512;
const CANARIES_MAX: usize = 10;

/// How far a rollout is, and what a person should know of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress {
    /// What is stored of it.
    pub status: RolloutStatus,
    /// Its phase.
    pub phase: Phase,
    /// How many nodes the tuning has something to do on.
    pub concerned: usize,
    /// How many nodes keep a slot.
    pub in_flight: usize,
    /// How many may.
    pub max_concurrent: usize,
    /// Why no further node is ordered the revision; `None`: the next ones are, in their turn.
    pub halt: Option<Halt>,
    /// When the soak ends, in phase Soaking.
    pub soaks_until: Option<Timestamp>,
    /// Whether nothing has moved for longer than its author allows.
    pub overdue: bool,
    /// Whose values stay on nodes until this tuning comes to them, for people; `None`: nobody's.
    pub inherits: Option<String>,
}

/// Why a rollout goes no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Halt {
    /// Its author has paused it.
    Paused,
    /// More nodes have failed than may.
    Failures,
    /// The soak is over, and the figures do not say whether to go on.
    Inconclusive,
}

/// What a step looks at.
struct Scene<'m, 'a> {
    tuning: &'m Tuning,
    spec: &'m TcpCloseTuningSpec,
    members: &'m [Member<'a>],
    strays: &'m [Stray<'a>],
    now: Timestamp,
}

/// How far the rollout of a tuning is now, given how far it was when it was stored last.
pub fn advance(
    tuning: &Tuning,
    spec: &TcpCloseTuningSpec,
    stored: Option<&TcpCloseTuningStatus>,
    members: &[Member<'_>],
    strays: &[Stray<'_>],
    now: Timestamp,
) -> Progress {
    let scene = Scene { tuning, spec, members, strays, now };
    let mut rollout = scene.look(begin::current(tuning, spec, stored, members));
    for _ in 0..STEPS_MAX {
        match scene.step(&rollout) {
            Some(next) => rollout = scene.look(next),
            None => break,
        }
    }
    scene.progress(rollout)
}

impl<'a> Scene<'_, 'a> {
    /// The next phase, if it is time for it.
    fn step(&self, rollout: &RolloutStatus) -> Option<RolloutStatus> {
        match begin::phase(rollout) {
            Phase::Canary => self.failing(rollout).or_else(|| {
                let canaries = self.canaries(rollout);
                let settled =
                    !canaries.is_empty() && canaries.iter().all(|member| member.is_done(&rollout.revision));
                settled.then(|| to(Phase::Soaking, rollout))
            }),
            Phase::Soaking => self.failing(rollout).or_else(|| {
                let over = self.soaks_until(rollout).is_none_or(|until| self.now >= until);
                let goes_on = over && !self.fails_too_often(rollout) && self.may_pass(rollout);
                goes_on.then(|| to(Phase::RollingOut, rollout))
            }),
            Phase::RollingOut => self.failing(rollout).or_else(|| {
                let complete = self.is_complete(rollout) && !self.fails_too_often(rollout);
                complete.then(|| self.completed(rollout))
            }),
            Phase::Completed => {
                let given_up = !rollout.attempted.is_empty() || rollout.failed_revision.is_some();
                let held = self.members.iter().any(|member| member.has_abandoned(rollout));
                (given_up && !held).then(|| RolloutStatus {
                    attempted: Vec::new(),
                    failed_revision: None,
                    failed_reason: None,
                    ..rollout.clone()
                })
            }
            Phase::RollingBack => {
                let changed = |member: &&Member<'_>| {
                    let has =
                        member.holds == Some(rollout.revision.as_str()) || member.has_abandoned(rollout);
                    member.reachable
                        && !member.node.is_held()
                        && (has || (member.is_returning() && !member.settled))
                };
                let back = !self.members.iter().any(|member| changed(&member));
                back.then(|| to(Phase::RolledBack, rollout))
            }
            Phase::RolledBack => None,
        }
    }

    /// The way back, where a gate was asked for and nodes fail or do worse.
    fn failing(&self, rollout: &RolloutStatus) -> Option<RolloutStatus> {
        let gate = self.gate()?;
        let reason = if self.fails_too_often(rollout) {
            Some(self.failures(rollout))
        } else if begin::phase(rollout) == Phase::Canary {
            None
        } else {
            match self.judge(gate, rollout) {
                Verdict::Failed(reason) => Some(reason),
                Verdict::Passed(_) | Verdict::Inconclusive(_) => None,
            }
        };
        reason.map(|reason| RolloutStatus {
            failed_revision: Some(rollout.revision.clone()),
            failed_reason: Some(clip(&reason, REASON_MAX)),
            // What a person said before it failed is no wish to try again what failed.
            retry_at: self.tuning.retry_at.clone(),
            ..to(Phase::RollingBack, rollout)
        })
    }

    fn gate(&self) -> Option<&Gate> {
        self.spec.rollout.as_ref()?.gate.as_ref()
    }

    /// Whether the gate lets the others follow.
    fn may_pass(&self, rollout: &RolloutStatus) -> bool {
        let Some(gate) = self.gate() else { return true };
        match self.judge(gate, rollout) {
            Verdict::Passed(_) => true,
            Verdict::Inconclusive(_) => {
                gate.when_inconclusive.unwrap_or_default() == WhenInconclusive::Proceed
            }
            Verdict::Failed(_) => false,
        }
    }

    fn judge(&self, gate: &Gate, rollout: &RolloutStatus) -> Verdict {
        let heard = self.members.iter().filter(|member| member.reachable && member.is_concerned());
        let orders = heard.filter_map(|member| member.order);
        let evidence = gate::evidence(orders, &self.tuning.uid, rollout);
        gate::judge(&evidence, gate.min_connections.unwrap_or(MIN_CONNECTIONS))
    }

    fn fails_too_often(&self, rollout: &RolloutStatus) -> bool {
        fails_too_often(self.spec, rollout, self.members)
    }

    /// Who has failed, and why.
    fn failures(&self, rollout: &RolloutStatus) -> String {
        let failed: Vec<_> = failed(rollout, self.members).collect();
        let why = failed.first().and_then(|member| member.failure).unwrap_or(LOST);
        format!(
            "{} that took it failed ({}), and maxFailedNodes allows {}: {why}",
            nodes(failed.len()),
            some(failed.iter().map(|member| member.name)),
            self.spec.max_failed_nodes(self.members.len()),
        )
    }

    fn canaries<'m>(&'m self, rollout: &'m RolloutStatus) -> Vec<&'m Member<'a>> {
        let has = |member: &&Member<'_>| member.has(&rollout.revision);
        let able = self.members.iter().filter(|member| member.is_able(&rollout.revision));
        canaries(self.spec, self.members.iter().filter(has).collect(), able)
    }

    /// Whether every node that can take it has, and one at least: what other tunings keep from every node has run nowhere.
    fn is_complete(&self, rollout: &RolloutStatus) -> bool {
        let mut able = self
            .members
            .iter()
            .filter(|member| member.is_concerned() && member.reachable)
            .filter(|member| !member.node.is_held() || member.has(&rollout.revision))
            .peekable();
        able.peek().is_some() && able.all(|member| member.is_done(&rollout.revision))
    }

    fn completed(&self, rollout: &RolloutStatus) -> RolloutStatus {
        let stable = begin::stable(self.tuning, self.spec);
        // Nodes that hold what was given up before are none that this one takes back.
        RolloutStatus {
            stable: Some(stable),
            attempted: Vec::new(),
            failed_revision: None,
            failed_reason: None,
            ..to(Phase::Completed, rollout)
        }
    }

    fn soaks_until(&self, rollout: &RolloutStatus) -> Option<Timestamp> {
        let seconds =
            self.spec.rollout.as_ref().and_then(|rollout| rollout.soak_seconds).unwrap_or(SOAK_SECONDS);
        let since = rollout.phase_since.as_ref()?.0;
        Some(since.saturating_add(Duration::from_secs(seconds.into())).unwrap_or(since))
    }

    /// Notes when a phase began, and how far the nodes are while they move.
    fn look(&self, rollout: RolloutStatus) -> RolloutStatus {
        let phase_since = rollout.phase_since.clone().or(Some(Time(self.now)));
        let phase = begin::phase(&rollout);
        if begin::is_over(&rollout) {
            return RolloutStatus { phase_since, ..rollout };
        }
        let ordered: Vec<_> = self.members.iter().filter(|member| member.has(&rollout.revision)).collect();
        let settled = count(ordered.iter().filter(|member| member.is_done(&rollout.revision)).count());
        let moved = settled > rollout.settled
            || count(ordered.len()) > rollout.ordered
            || rollout.progressed_at.is_none();
        let canaries = match phase {
            Phase::Canary => names(&self.canaries(&rollout)),
            _ => rollout.canaries.clone(),
        };
        let gate = match phase {
            Phase::Soaking | Phase::RollingOut => self.gate().map(|gate| said(self.judge(gate, &rollout))),
            _ => rollout.gate.clone(),
        };
        RolloutStatus {
            phase_since,
            progressed_at: if moved { Some(Time(self.now)) } else { rollout.progressed_at.clone() },
            ordered: count(ordered.len()),
            settled,
            canaries,
            gate,
            ..rollout
        }
    }

    fn in_flight(&self, rollout: &RolloutStatus) -> usize {
        let members = self.members.iter().filter(|member| member.is_in_flight(rollout)).count();
        members + self.strays.iter().filter(|stray| stray.is_in_flight(rollout)).count()
    }

    /// Whose values wait for this tuning, and where.
    fn inherits(&self) -> Option<String> {
        let heirs = self.members.iter().filter_map(|member| Some((member.name, member.heir_to?)));
        let (on, from): (Vec<_>, BTreeSet<_>) = heirs.unzip();
        (!on.is_empty()).then(|| {
            let (on, names, from) = (nodes(on.len()), some(on), some(from));
            format!("what {from} ordered last stays on {on} ({names}) until this one comes to them")
        })
    }

    fn progress(&self, status: RolloutStatus) -> Progress {
        let phase = begin::phase(&status);
        let rollout = self.spec.rollout.as_ref();
        let soaks_until = self.soaks_until(&status).filter(|_| phase == Phase::Soaking);
        let is_paused = rollout.and_then(|rollout| rollout.paused).unwrap_or_default();
        let halt = match phase {
            Phase::Completed | Phase::RollingBack | Phase::RolledBack => None,
            _ if is_paused => Some(Halt::Paused),
            _ if self.fails_too_often(&status) => Some(Halt::Failures),
            _ => soaks_until.filter(|until| self.now >= *until).map(|_| Halt::Inconclusive),
        };
        let deadline = rollout.and_then(|rollout| rollout.progress_deadline_seconds);
        let deadline = Duration::from_secs(deadline.unwrap_or(PROGRESS_DEADLINE_SECONDS).into());
        let since = [&status.phase_since, &status.progressed_at].map(|at| at.as_ref().map(|at| at.0));
        let since = since.into_iter().flatten().chain(soaks_until).max();
        let waited = since.and_then(|since| Duration::try_from(self.now.duration_since(since)).ok());
        Progress {
            phase,
            concerned: self.members.iter().filter(|member| member.is_concerned()).count(),
            in_flight: self.in_flight(&status),
            max_concurrent: begin::max_concurrent(self.spec, &status, self.members),
            halt,
            soaks_until,
            overdue: waited.is_some_and(|waited| waited >= deadline),
            inherits: self.inherits(),
            status,
        }
    }
}

/// Why a node that cannot be reached counts as failed.
pub const LOST: &str = "it was reachable when it was ordered the change, and is not Ready or silent since";

fn to(phase: Phase, rollout: &RolloutStatus) -> RolloutStatus {
    RolloutStatus { phase: phase.as_str().into(), phase_since: None, ..rollout.clone() }
}

fn names(members: &[&Member<'_>]) -> Vec<String> {
    members.iter().map(|member| member.name.to_string()).take(CANARIES_MAX).collect()
}

/// What the gate says, whatever it means.
fn said(verdict: Verdict) -> String {
    let (Verdict::Passed(text) | Verdict::Inconclusive(text) | Verdict::Failed(text)) = verdict;
    clip(&text, REASON_MAX)
}
