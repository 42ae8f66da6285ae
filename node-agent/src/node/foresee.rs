//! Foresee: what would be done, by a plan that nobody carries out.

use std::collections::{BTreeMap, BTreeSet};

use crds::node::TuningReference;
use crds::state::State;
use tcp_close::Sysctl;
use tcp_close::order::{Entries, Records};
use tcp_close::plan::Write;

use super::{Finding, Moment, Node, Obstacle, Turn};
use crate::journal;
use crate::order::{Order, hypothetical};

impl Node {
    /// What a turn would do now. Nothing is written, neither to the kernel nor to the journal, and no lock is taken. The
    /// obstacle is what shows without trying.
    pub fn foresee(&mut self, order: &Order, now: Moment) -> Turn {
        let life = self.life().ok();
        self.observe(order, now);
        let saved = life.as_deref().map_or(Ok(Records::new()), |life| journal::saved(&self.state_dir, life));
        let unreadable = saved.map(|records| self.reported = records).err();
        let obstacle = self.held().err().or(unreadable.map(Obstacle::Journal));
        let findings = self.foreseen(&order.entries, &self.reported, now);
        Turn { findings, observed: self.would(order, now), life, obstacle }
    }

    /// What the tunings that only observe would do if they enforced.
    pub(super) fn would(&self, order: &Order, now: Moment) -> Vec<(TuningReference, Vec<Finding>)> {
        let of_none = |finding| Finding { baseline: None, drift: None, tuning: String::new(), ..finding };
        let findings = |entries: &Entries| {
            self.foreseen(entries, &Records::new(), now).into_iter().map(of_none).collect()
        };
        let observed = order.observe.iter();
        observed.map(|observed| (observed.tuning.clone(), findings(&hypothetical(observed)))).collect()
    }

    /// The findings of a plan that nobody carries out.
    fn foreseen(&self, entries: &Entries, records: &Records, now: Moment) -> Vec<Finding> {
        let plan = self.plan(entries, records, &BTreeSet::new());
        let writes: BTreeMap<_, _> = plan.writes().iter().map(|write| (write.sysctl, *write)).collect();
        let findings = self.findings(&plan, entries, now).into_iter();
        findings.map(|finding| hypothetically(finding, &writes)).collect()
    }
}

/// What a finding is where the plan is not carried out.
fn hypothetically(finding: Finding, writes: &BTreeMap<Sysctl, Write>) -> Finding {
    if let Some(write) = Sysctl::from_name(&finding.name).and_then(|sysctl| writes.get(&sysctl)) {
        let (live, desired, message) = (Some(write.from), Some(write.to), Some(write.to_string()));
        return Finding { state: State::WouldChange, live, desired, message, written: None, ..finding };
    }
    let state = if finding.state == State::Refused { State::WouldRefuse } else { finding.state };
    Finding { state, ..finding }
}
