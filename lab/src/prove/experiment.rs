//! An experiment as a value, and the verdict on it.

use std::{fmt, ops::RangeInclusive, time::Duration};

use super::space::Space;
use crate::error::{Error, Result};

/// A claim about the kernel, and how to find out whether it is true.
pub(crate) struct Experiment {
    /// The row of `docs/kernel.md` and what tells the experiment from its neighbours: `S6-fin-timeout-61`.
    pub(crate) id: String,
    /// One sentence.
    pub(crate) claim: String,
    /// What the claim expects of the figures of the trial, and not of those of the control.
    pub(crate) expected: Vec<Expected>,
    /// With the setting that the claim is about.
    pub(crate) trial: Trial,
    /// The same with the kernel's default, or with the one difference that must turn the result around.
    pub(crate) control: Trial,
}

/// One run in a network namespace of its own.
pub(crate) struct Trial {
    /// In words, where sysctls alone do not say it.
    name: &'static str,
    sysctls: Vec<Setting>,
    run: Box<Run>,
}

/// What is done in the namespace.
type Run = dyn Fn(&Space) -> Result<Figures> + Send + Sync;

/// What one run measured.
pub(crate) type Figures = Vec<Figure>;

/// A file below `/proc/sys/net/ipv4`, and its value.
pub(crate) type Setting = (&'static str, String);

/// A sysctl set to a value.
#[expect(clippy::needless_pass_by_value, reason = "a number reads better without a reference to it")]
pub(crate) fn set(file: &'static str, value: impl ToString) -> Setting {
    (file, value.to_string())
}

impl Trial {
    /// With these sysctls, and all others as the kernel starts a namespace.
    pub(crate) fn with(
        sysctls: &[Setting],
        run: impl Fn(&Space) -> Result<Figures> + Send + Sync + 'static,
    ) -> Self {
        Self { name: "", sysctls: sysctls.to_vec(), run: Box::new(run) }
    }

    /// With all sysctls as the kernel starts a namespace.
    pub(crate) fn at_default(run: impl Fn(&Space) -> Result<Figures> + Send + Sync + 'static) -> Self {
        Self::with(&[], run)
    }

    /// Says in words what is done.
    pub(crate) fn named(self, name: &'static str) -> Self {
        Self { name, ..self }
    }

    /// What differs from the kernel's defaults, in words.
    pub(crate) fn setting(&self) -> String {
        let sysctls = self.sysctls.iter().map(|(file, value)| format!("{file}={value}"));
        let name = Some(self.name.to_owned()).filter(|name| !name.is_empty());
        let words: Vec<String> = name.into_iter().chain(sysctls).collect();
        if words.is_empty() { "default".into() } else { words.join(", ") }
    }

    /// Runs it to its end.
    pub(crate) fn run(&self) -> Result<Figures> {
        Space::run_in_new(&self.sysctls, &self.run)
    }
}

/// Something that was measured.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Figure {
    pub(crate) what: &'static str,
    pub(crate) value: Value,
}

/// What was measured of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    /// So many.
    Count(u64),
    /// It ended after this time.
    Ended(Duration),
    /// It was still there when the watch ended, after this time.
    StillThere(Duration),
    /// It could not be measured here, and why.
    Unknown(String),
}

impl Figure {
    pub(crate) fn count(what: &'static str, count: u64) -> Self {
        Self { what, value: Value::Count(count) }
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, value } = self;
        match value {
            Value::Count(count) => write!(f, "{what}: {count}"),
            Value::Ended(after) => write!(f, "{what}: {:.1} s", after.as_secs_f64()),
            Value::StillThere(after) => write!(f, "{what}: more than {:.1} s", after.as_secs_f64()),
            Value::Unknown(why) => write!(f, "{what}: unknown, {why}"),
        }
    }
}

/// What a claim expects of the figure of the same name.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Expected {
    what: &'static str,
    bound: Bound,
}

#[derive(Clone, Debug, PartialEq)]
enum Bound {
    Exactly(u64),
    AtLeast(u64),
    Lives(RangeInclusive<Duration>),
    Outlives(Duration),
}

impl Expected {
    pub(crate) fn exactly(what: &'static str, count: u64) -> Self {
        Self { what, bound: Bound::Exactly(count) }
    }

    pub(crate) fn at_least(what: &'static str, count: u64) -> Self {
        Self { what, bound: Bound::AtLeast(count) }
    }

    pub(crate) fn lives(what: &'static str, window: RangeInclusive<Duration>) -> Self {
        Self { what, bound: Bound::Lives(window) }
    }

    pub(crate) fn outlives(what: &'static str, least: Duration) -> Self {
        Self { what, bound: Bound::Outlives(least) }
    }

    /// What could not be measured speaks neither for the claim nor against it; what is missing speaks against it.
    fn is_met(&self, figures: &[Figure]) -> bool {
        let value = figures.iter().find(|figure| figure.what == self.what).map(|figure| &figure.value);
        match (&self.bound, value) {
            (Bound::Exactly(expected), Some(Value::Count(count))) => count == expected,
            (Bound::AtLeast(expected), Some(Value::Count(count))) => count >= expected,
            (Bound::Lives(window), Some(Value::Ended(after))) => window.contains(after),
            (Bound::Outlives(least), Some(Value::Ended(after) | Value::StillThere(after))) => after >= least,
            (_, Some(Value::Unknown(_))) => true,
            _ => false,
        }
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = self.what;
        match &self.bound {
            Bound::Exactly(count) => write!(f, "{what}: {count}"),
            Bound::AtLeast(count) => write!(f, "{what}: {count} or more"),
            Bound::Lives(window) => {
                let [start, end] = [window.start(), window.end()].map(Duration::as_secs_f64);
                write!(f, "{what}: {start:.1} to {end:.1} s")
            }
            Bound::Outlives(least) => write!(f, "{what}: {:.1} s or more", least.as_secs_f64()),
        }
    }
}

/// What came out of an experiment.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// What the trial measured, in words.
    pub(crate) measured: String,
    /// What the control measured, in words.
    pub(crate) control: String,
    pub(crate) verdict: Verdict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The trial is as claimed, and the control is not.
    Holds,
    /// The trial is not as claimed, or the control is so as well, or one of them broke.
    Fails,
    /// This machine or its kernel lacks something that the experiment needs.
    CannotRun,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Holds => "holds",
            Self::Fails => "FAILS",
            Self::CannotRun => "cannot run",
        })
    }
}

impl Outcome {
    /// Judges what both runs measured.
    pub(crate) fn of(expected: &[Expected], trial: Result<Figures>, control: Result<Figures>) -> Self {
        let verdict = match (&trial, &control) {
            (Ok(trial), Ok(control)) if all_met(expected, trial) && !all_met(expected, control) => {
                Verdict::Holds
            }
            (Err(Error::Missing { .. }), _) | (_, Err(Error::Missing { .. })) => Verdict::CannotRun,
            _ => Verdict::Fails,
        };
        Self { measured: told(trial), control: told(control), verdict }
    }
}

fn all_met(expected: &[Expected], figures: &[Figure]) -> bool {
    expected.iter().all(|expected| expected.is_met(figures))
}

fn told(figures: Result<Figures>) -> String {
    figures.map_or_else(|error| error.chain(), |figures| listed(&figures))
}

/// Items in one line.
pub(crate) fn listed(items: &[impl fmt::Display]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn ended(after: Duration) -> Figures {
        vec![Figure { what: "FIN_WAIT2", value: Value::Ended(after) }]
    }

    fn still_there(after: Duration) -> Figures {
        vec![Figure { what: "FIN_WAIT2", value: Value::StillThere(after) }]
    }

    fn verdict(expected: Expected, trial: Figures, control: Figures) -> Verdict {
        Outcome::of(&[expected], Ok(trial), Ok(control)).verdict
    }

    #[test]
    fn a_claim_holds_where_the_trial_is_as_expected_and_the_control_is_not() {
        let expected = || Expected::lives("FIN_WAIT2", SECOND..=2 * SECOND);
        assert_eq!(verdict(expected(), ended(SECOND), still_there(2 * SECOND)), Verdict::Holds);
        assert_eq!(verdict(expected(), ended(3 * SECOND), still_there(2 * SECOND)), Verdict::Fails);
        assert_eq!(verdict(expected(), still_there(2 * SECOND), ended(SECOND)), Verdict::Fails);
    }

    #[test]
    fn a_claim_fails_where_the_control_gives_the_same() {
        let expected = Expected::lives("FIN_WAIT2", SECOND..=2 * SECOND);
        assert_eq!(verdict(expected, ended(SECOND), ended(SECOND)), Verdict::Fails);
    }

    #[test]
    fn what_was_still_there_has_lived_as_long_as_it_was_watched() {
        let expected = || Expected::outlives("FIN_WAIT2", 2 * SECOND);
        assert_eq!(verdict(expected(), still_there(2 * SECOND), ended(SECOND)), Verdict::Holds);
        assert_eq!(verdict(expected(), still_there(SECOND), ended(SECOND)), Verdict::Fails);
    }

    #[test]
    fn a_figure_that_is_missing_speaks_against_the_claim_and_an_unknown_one_does_not() {
        let control = || vec![Figure::count("log lines", 1)];
        let unknown = Figure { what: "log lines", value: Value::Unknown("no /dev/kmsg".into()) };
        let expected = || Expected::exactly("log lines", 0);
        assert_eq!(verdict(expected(), vec![unknown], control()), Verdict::Holds);
        assert_eq!(verdict(expected(), Vec::new(), control()), Verdict::Fails);
    }

    #[test]
    fn a_broken_control_proves_nothing() {
        let expected = [Expected::outlives("FIN_WAIT2", SECOND)];
        let with_control = |error| Outcome::of(&expected, Ok(ended(SECOND)), Err(error)).verdict;
        assert_eq!(with_control(Error::NotUp), Verdict::Fails);
        let missing = Error::Missing { what: "this kernel has no x".into(), remedy: String::new() };
        assert_eq!(with_control(missing), Verdict::CannotRun);
    }
}
