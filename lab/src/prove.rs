//! `cargo lab prove`: what this project says about the kernel, shown on the running one.
//!
//! Every experiment runs twice at the same time, each in a network namespace of its own: with the setting that its claim is
//! about, and as a control that must come out the other way. Packets are dropped at their receiver: dropped at the
//! sender, the kernel would know, and retransmit on another schedule.

mod closing;
mod document;
pub(crate) mod experiment;
mod fin_wait2;
mod lookup;
mod model;
mod orphans;
mod ports;
pub(crate) mod space;
mod time_wait;
mod zero_window;

use std::{fmt, path::Path, thread};

use crate::{
    checkout::Checkout,
    error::{Error, Result},
    files,
    namespace::NetNamespace,
    report::during,
};
use document::ROWS;
use experiment::{Experiment, Figures, Outcome, Verdict};

/// Runs the experiments whose ids contain `filter`, and prints claim, measurements and verdict of each.
pub(crate) fn prove(filter: &str, write_docs: bool) -> Result<()> {
    let proof = Proof::run(filter)?;
    print!("{proof}");
    let unproven = proof.experiments.len() - proof.count(Verdict::Holds);
    if unproven > 0 {
        return Err(Error::NotProven { unproven });
    }
    if write_docs {
        let text = document::write(&proof.experiments, &kernel()?);
        let path = Checkout::current()?.root().join(document::PATH);
        std::fs::write(&path, text).map_err(Error::file("write", path))?;
    }
    Ok(())
}

/// Experiments, and what came out of them.
pub(crate) struct Proof {
    experiments: Vec<(Experiment, Outcome)>,
}

impl Proof {
    /// Runs all experiments whose ids contain `filter`, side by side.
    pub(crate) fn run(filter: &str) -> Result<Self> {
        let mut chosen = experiments();
        let all = chosen.len();
        chosen.retain(|experiment| experiment.id.contains(filter));
        if chosen.is_empty() {
            return Err(Error::Missing {
                what: format!("no experiment has `{filter}` in its id"),
                remedy: format!("take a row, such as S6, or an id from {}", document::PATH),
            });
        }
        // Says at once, and not once for each, that namespaces cannot be made.
        NetNamespace::run_in_new(|| ())?;
        let what = format!("{} of {all} experiments, each beside its control", chosen.len());
        let outcomes = during(&what, || Ok(side_by_side(&chosen)))?;
        Ok(Self { experiments: chosen.into_iter().zip(outcomes).collect() })
    }

    /// How many came out like this.
    pub(crate) fn count(&self, verdict: Verdict) -> usize {
        self.experiments.iter().filter(|(_, outcome)| outcome.verdict == verdict).count()
    }

    /// Whether every claim holds.
    pub(crate) fn holds(&self) -> bool {
        self.count(Verdict::Holds) == self.experiments.len()
    }
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (experiment, outcome) in &self.experiments {
            let Experiment { id, claim, trial, control, .. } = experiment;
            let Outcome { measured, control: control_measured, verdict } = outcome;
            writeln!(f, "{verdict:<10}  {id}: {claim}")?;
            writeln!(f, "{:<10}  measured  {measured}  ({})", "", trial.setting())?;
            writeln!(f, "{:<10}  control   {control_measured}  ({})", "", control.setting())?;
        }
        let counts = [Verdict::Holds, Verdict::Fails, Verdict::CannotRun]
            .map(|verdict| format!("{verdict}: {}", self.count(verdict)));
        writeln!(f, "{}", counts.join(", "))
    }
}

/// Every experiment, in the order of the rows.
fn experiments() -> Vec<Experiment> {
    let mut all = [
        closing::experiments(),
        orphans::experiments(),
        zero_window::experiments(),
        fin_wait2::experiments(),
        time_wait::experiments(),
        ports::experiments(),
    ]
    .into_iter()
    .flatten()
    .collect::<Vec<_>>();
    all.sort_by_key(|experiment| ROWS.iter().position(|row| row.id == experiment.row()));
    all
}

fn side_by_side(experiments: &[Experiment]) -> Vec<Outcome> {
    thread::scope(|scope| {
        let running: Vec<_> = experiments
            .iter()
            .map(|experiment| {
                [&experiment.trial, &experiment.control].map(|trial| scope.spawn(|| trial.run()))
            })
            .collect();
        let end = |experiment: &Experiment, [trial, control]: [_; 2]| {
            Outcome::of(&experiment.expected, join(trial), join(control))
        };
        experiments.iter().zip(running).map(|(experiment, runs)| end(experiment, runs)).collect()
    })
}

fn join(run: thread::ScopedJoinHandle<'_, Result<Figures>>) -> Result<Figures> {
    let broken = || Error::Unclear { what: "an experiment".into(), why: "it panicked".into() };
    run.join().unwrap_or_else(|_| Err(broken()))
}

/// The running kernel's version, without what its builder calls it.
fn kernel() -> Result<String> {
    let release = files::read(Path::new("/proc/sys/kernel/osrelease"))?;
    Ok(release.trim().split('-').next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_experiment_has_an_id_of_its_own_and_belongs_to_a_row() {
        let all = experiments();
        let ids: HashSet<_> = all.iter().map(|experiment| &experiment.id).collect();
        assert_eq!(ids.len(), all.len());
        for experiment in &all {
            assert!(ROWS.iter().any(|row| row.id == experiment.row()), "{}", experiment.id);
        }
    }

    #[test]
    fn trial_and_control_differ() {
        for experiment in experiments() {
            assert_ne!(experiment.trial.setting(), experiment.control.setting(), "{}", experiment.id);
        }
    }

    #[test]
    fn a_filter_that_matches_nothing_is_an_error() {
        assert!(matches!(Proof::run("S99"), Err(Error::Missing { .. })));
    }
}
