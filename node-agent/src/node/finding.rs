//! What a turn found out about each sysctl, in words for a status.

use crds::state::State;
use tcp_close::Sysctl;
use tcp_close::contention::Contention;
use tcp_close::order::{Action, Entries, Entry, Reading};
use tcp_close::plan::{Cause, Outcome, Plan, Write};
use tcp_close::rule::{Refusal, Remark};

use super::{Drift, Moment, Node};

/// What was found out about one sysctl.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Its name.
    pub name: String,
    /// How far its order is.
    pub state: State,
    /// What the kernel held when it was last read.
    pub live: Option<i64>,
    /// What was ordered.
    pub desired: Option<i64>,
    /// What the kernel held before the first write.
    pub baseline: Option<i64>,
    /// The tuning that ordered it.
    pub tuning: String,
    /// The rule that forbids it, or would now.
    pub rule: Option<&'static str>,
    /// What a person should know.
    pub message: Option<String>,
    /// What rules say without forbidding it.
    pub remarks: Vec<Remark>,
    /// What another program did to it since the agent started.
    pub drift: Option<Drift>,
    /// Why this turn wrote it, if it did.
    pub written: Option<Cause>,
}

impl Finding {
    pub(super) fn new(state: State, tuning: &str) -> Self {
        Self {
            name: String::new(),
            state,
            live: None,
            desired: None,
            baseline: None,
            tuning: tuning.into(),
            rule: None,
            message: None,
            remarks: Vec::new(),
            drift: None,
            written: None,
        }
    }

    /// Whether this turn gave it another value, as opposed to putting right what another program did a moment ago.
    pub fn is_changed(&self) -> bool {
        match self.written {
            Some(Cause::Ordered | Cause::Restored | Cause::PutBack) => true,
            Some(Cause::Drifted) | None => false,
        }
    }
}

impl Node {
    /// What became of every key of a plan, from what the kernel holds now.
    pub(super) fn findings(&self, plan: &Plan, entries: &Entries, now: Moment) -> Vec<Finding> {
        let found = plan.outcomes.iter().map(|(&sysctl, outcome)| {
            let finding = self.found(sysctl, outcome, entries, now);
            let remarks = plan.remarks.get(&sysctl).cloned().unwrap_or_default();
            let desired = finding.desired.or_else(|| entries.get(&sysctl).and_then(desired));
            Finding { desired, remarks, ..finding }
        });
        found.collect()
    }

    fn found(&self, sysctl: Sysctl, outcome: &Outcome, entries: &Entries, now: Moment) -> Finding {
        let tuning = entries.get(&sysctl).map_or("", |entry| entry.tuning.as_str());
        let (state, message, rule) = match outcome {
            Outcome::Write(write) => return self.found_written(write, tuning),
            Outcome::InForce => (State::Applied, self.in_force_message(sysctl), None),
            Outcome::AtRisk(refusal) => (State::AtRisk, Some(refusal.message.clone()), Some(refusal.rule)),
            Outcome::Refused(refusal) => (State::Refused, Some(refusal.message.clone()), Some(refusal.rule)),
            Outcome::HeldBack(refusal) => (State::Refused, Some(held_back(sysctl, refusal)), None),
            Outcome::Unsupported(why) => (State::Unsupported, Some(why.clone()), None),
            Outcome::Unreadable(why) => (State::Failed, Some(why.clone()), None),
            Outcome::Drifted { live } => (State::Drifted, Some(drifted(*live)), None),
            Outcome::Contended { .. } => (State::Contended, self.contended_message(sysctl, now), None),
            Outcome::Held => (State::Held, Some("stays as it is: its tuning only observes now".into()), None),
            Outcome::Restored => (State::Restored, None, None),
            Outcome::RestoreSkipped { live, baseline } => {
                (State::RestoreSkipped, Some(restore_skipped(*live, *baseline)), None)
            }
            Outcome::Released => (State::Released, None, None),
        };
        Finding { rule, ..self.finding(sysctl, state, tuning, message) }
    }

    /// A key that was in the plan to be written: the kernel says whether it was.
    fn found_written(&self, write: &Write, tuning: &str) -> Finding {
        let (applied, waiting) = match write.cause {
            Cause::Restored => (State::Restored, State::Restoring),
            Cause::Ordered | Cause::Drifted | Cause::PutBack => (State::Applied, State::Pending),
        };
        let (desired, written) = (Some(write.to), Some(write.cause));
        if let Some(retry) = self.failures.get(&write.sysctl) {
            let message = if retry.failure.sysctl == write.sysctl {
                retry.failure.message.clone()
            } else {
                let (sysctl, why) = (retry.failure.sysctl, &retry.failure.message);
                format!("put back, because {sysctl} could not be written: {why}")
            };
            return Finding { desired, ..self.finding(write.sysctl, State::Failed, tuning, Some(message)) };
        }
        let finding = self.finding(write.sysctl, applied, tuning, None);
        if finding.live == desired {
            let message = self.drift_message(write.sysctl);
            return Finding { desired, message, written, ..finding };
        }
        // Another program was faster than the read-back; the next turn sees it.
        Finding { desired, state: waiting, written, ..finding }
    }

    pub(super) fn finding(
        &self,
        sysctl: Sysctl,
        state: State,
        tuning: &str,
        message: Option<String>,
    ) -> Finding {
        Finding {
            name: sysctl.name().into(),
            live: self.live.get(&sysctl).and_then(Reading::value),
            baseline: self.records().get(&sysctl).map(|record| record.baseline),
            message,
            drift: self.drifts.get(&sysctl).cloned(),
            ..Finding::new(state, tuning)
        }
    }

    fn in_force_message(&self, sysctl: Sysctl) -> Option<String> {
        if self.live.get(&sysctl) == Some(&Reading::Absent) {
            let why = sysctl.why_absent(self.facts.kernel, self.facts.first_namespace);
            return Some(format!("{why}: 0 is what it does"));
        }
        self.drift_message(sysctl)
    }

    fn drift_message(&self, sysctl: Sysctl) -> Option<String> {
        let Contention { corrections, last_value, .. } = &self.drifts.get(&sysctl)?.contention;
        Some(format!(
            "another program changed it {corrections} times since the agent started, last to {last_value}; put right"
        ))
    }

    fn contended_message(&self, sysctl: Sysctl, now: Moment) -> Option<String> {
        let Drift { contention, since } = self.drifts.get(&sysctl)?;
        let rest = contention.rests_until(self.elapsed(now))?.saturating_sub(self.elapsed(now));
        // To the minute, so that a status says the same until it is over.
        let until = (now.wall + rest).strftime("%H:%M");
        Some(format!(
            "another program keeps changing it, {} times since {}, last to {}; left alone until {until} UTC",
            contention.corrections,
            since.strftime("%FT%TZ"),
            contention.last_value
        ))
    }
}

fn desired(entry: &Entry) -> Option<i64> {
    match entry.action {
        Action::Set(value) | Action::Hold(value) => Some(value),
        Action::Restore | Action::Release => None,
    }
}

fn held_back(sysctl: Sysctl, refusal: &Refusal) -> String {
    format!("{sysctl} is held back with {}, which is refused: {}", refusal.sysctl, refusal.message)
}

fn drifted(live: i64) -> String {
    format!("another program set it to {live}; left alone, because driftPolicy is Report")
}

fn restore_skipped(live: i64, baseline: i64) -> String {
    format!("another program set it to {live}, so it was left alone; before us it was {baseline}")
}
