//! The gate: do the changed nodes do worse than they did, and worse than the others do? Only computes.
//!
//! Every figure is so many events in so many connections: more traffic is not worse. A figure has become worse where it is
//! beyond its limit both by what the same nodes had before and by what nodes without the change have now: what happens to
//! all of them is not the change's doing.

mod compare;
mod evidence;
mod figure;

use std::fmt;

use crds::node::Rates;

use crate::summarise::{nodes, some};
use compare::{Comparison, Sample, Trial, compare, connections, typical};

pub use evidence::evidence;
pub use figure::{FIGURES, Figure};

/// What is known of the nodes of one rollout.
#[derive(Clone, Debug, Default)]
pub struct Evidence<'a> {
    /// The nodes that hold the new revision.
    pub changed: Vec<Changed<'a>>,
    /// How connections fare on nodes that do not hold it yet.
    pub unchanged: Vec<&'a Rates>,
}

/// A node that holds the new revision.
#[derive(Clone, Debug)]
pub struct Changed<'a> {
    /// Its name.
    pub node: &'a str,
    /// How connections fared there before the change.
    pub before: Option<&'a Rates>,
    /// How they fare since, where that has been measured after the change.
    pub since: Option<&'a Rates>,
}

/// What the gate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No figure has become worse.
    Passed(String),
    /// The figures say nothing: why.
    Inconclusive(String),
    /// A figure has become worse: which, from what to what, and on which nodes.
    Failed(String),
}

/// Whether a rollout may go on, by what its nodes report. `min_connections` is how many connections the changed nodes must
/// have had since the change, all together.
pub fn judge(evidence: &Evidence<'_>, min_connections: u32) -> Verdict {
    let seen: f64 = evidence.changed.iter().filter_map(|changed| connections(changed.since?)).sum();
    if let Some(why) = nothing_to_judge(evidence, seen, min_connections) {
        return Verdict::Inconclusive(why);
    }
    let judged: Vec<Judged<'_>> = FIGURES.iter().map(|figure| judge_figure(figure, evidence)).collect();
    let mut worse: Vec<&Worse<'_>> = judged.iter().filter_map(Judged::worse).collect();
    worse.sort_by(|one, other| other.excess().total_cmp(&one.excess()));
    if let Some((worst, rest)) = worse.split_first() {
        let rest: Vec<_> = rest.iter().map(|worse| worse.figure.name).collect();
        let also = if rest.is_empty() { String::new() } else { format!("; also {}", rest.join(", ")) };
        return Verdict::Failed(format!("{worst}{also}"));
    }
    if let Some(why) = without_figures(evidence).or_else(|| judged.into_iter().find_map(Judged::unclear)) {
        return Verdict::Inconclusive(why);
    }
    Verdict::Passed(format!(
        "no figure has become worse since the change, on {}",
        nodes(evidence.changed.len())
    ))
}

/// Why nobody can say anything yet.
fn nothing_to_judge(evidence: &Evidence<'_>, seen: f64, min_connections: u32) -> Option<String> {
    if evidence.changed.is_empty() {
        return Some("the change is in force on no node".into());
    }
    if evidence.changed.iter().all(|changed| changed.since.and_then(connections).is_none()) {
        return without_figures(evidence);
    }
    // A share moves less often than a count: every move of a message is a write.
    let share = seen / f64::from(min_connections);
    (share < 1.0).then(|| {
        format!("too few connections since the change: {:.0} % of {min_connections}", (share * 100.0).floor())
    })
}

/// Nodes whose connections since the change are unknown.
fn without_figures(evidence: &Evidence<'_>) -> Option<String> {
    let unknown = evidence.changed.iter().filter(|changed| changed.since.and_then(connections).is_none());
    let unknown: Vec<&str> = unknown.map(|changed| changed.node).collect();
    (!unknown.is_empty()).then(|| format!("no figures since the change from {}", some(unknown)))
}

/// What is found of one figure.
enum Judged<'a> {
    Within,
    Unclear(String),
    Worse(Worse<'a>),
}

impl<'a> Judged<'a> {
    fn worse(&self) -> Option<&Worse<'a>> {
        if let Self::Worse(worse) = self { Some(worse) } else { None }
    }

    fn unclear(self) -> Option<String> {
        if let Self::Unclear(why) = self { Some(why) } else { None }
    }
}

fn judge_figure<'a>(figure: &'static Figure, evidence: &Evidence<'a>) -> Judged<'a> {
    let (mut trials, mut early, mut unknown) = (Vec::new(), Vec::new(), Vec::new());
    for changed in &evidence.changed {
        let is_early = changed.since.is_some_and(|since| since.seconds < figure.settles_after);
        match Trial::of(figure, changed) {
            _ if is_early => early.push(changed.node),
            Some(trial) => trials.push(trial),
            None => unknown.push(changed.node),
        }
    }
    let unchanged = evidence.unchanged.iter().filter_map(|rates| Sample::at_most(figure, rates));
    let unchanged = typical(unchanged.collect());
    if let Some(worse) = Worse::find(figure, &trials, unchanged) {
        return Judged::Worse(worse);
    }
    let Figure { name, settles_after, .. } = figure;
    if !unknown.is_empty() {
        Judged::Unclear(format!("{name}: not counted on {}", some(unknown)))
    } else if !early.is_empty() {
        Judged::Unclear(format!(
            "{name}: not judged until {settles_after} s after the change on {}",
            some(early)
        ))
    } else if compare(figure, &trials.iter().collect::<Vec<_>>(), unchanged).is_none() {
        Judged::Unclear(format!(
            "{name}: too few connections before the change and on unchanged nodes to compare with"
        ))
    } else {
        Judged::Within
    }
}

/// A figure that has become worse, and where.
struct Worse<'a> {
    figure: &'static Figure,
    comparison: Comparison,
    /// The worst first.
    nodes: Vec<&'a str>,
}

impl<'a> Worse<'a> {
    /// Looks at each node alone, so that nine good ones do not hide a bad one; then at all together.
    fn find(figure: &'static Figure, trials: &[Trial<'a>], unchanged: Sample) -> Option<Self> {
        let is_worse =
            |trials: &[&Trial<'a>]| compare(figure, trials, unchanged).is_some_and(|found| found.is_worse());
        let all: Vec<&Trial<'a>> = trials.iter().collect();
        let alone = all.iter().copied().filter(|trial| trial.stands_alone() && is_worse(&[trial]));
        let mut blamed: Vec<_> = alone.collect();
        if blamed.is_empty() && is_worse(&all) {
            blamed = all;
        }
        blamed.sort_by(|one, other| other.share().total_cmp(&one.share()));
        let comparison = compare(figure, &blamed, unchanged).filter(|_| !blamed.is_empty())?;
        Some(Self { figure, comparison, nodes: blamed.iter().map(|trial| trial.node).collect() })
    }

    /// How far beyond its limit it is.
    fn excess(&self) -> f64 {
        self.comparison.since / self.comparison.limit
    }
}

impl fmt::Display for Worse<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { figure, comparison: Comparison { since, before, unchanged, limit }, nodes } = self;
        let (name, since, limit) = (figure.name, per_thousand(*since), per_thousand(*limit));
        let before = before.map_or("unknown".into(), per_thousand);
        let unchanged = unchanged.map_or("unknown".into(), per_thousand);
        let on = some(nodes.iter().copied());
        write!(
            f,
            "{name} went from {before} to {since} in 1,000 connections (limit {limit}; unchanged nodes {unchanged}) on {on}"
        )
    }
}

/// A share of connections as so many in a thousand; what has happened is not 0.
fn per_thousand(share: f64) -> String {
    let least = if share > 0.0 { 0.1 } else { 0.0 };
    let thousandth = (share * 1000.0).max(least);
    if thousandth < 10.0 && (thousandth - thousandth.round()).abs() >= 0.05 {
        format!("{thousandth:.1}")
    } else {
        format!("{thousandth:.0}")
    }
}

#[cfg(test)]
mod tests;
