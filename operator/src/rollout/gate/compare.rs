//! One figure of the changed nodes, beside their past and beside other nodes.
//!
//! Counts scatter even where nothing changes. What is judged, and what it is compared with, is allowed three times the root
//! of its count, which chance exceeds about once in a thousand times.

use std::iter::Sum;

use crds::node::Rates;

use super::Changed;
use super::figure::Figure;

/// Fewer connections than this are nothing to compare with, and no node is judged alone by fewer.
const COMPARABLE: f64 = 100.0;
/// Fewer nodes than this make three groups, of which one may be wrong; more make five, of which two may.
const FEW: usize = 10;
/// No more events than this are chance, in however few connections.
const CHANCE: f64 = 10.0;

/// How often something happened in how many connections.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sample {
    events: f64,
    connections: f64,
}

impl Sample {
    /// At least so many events; `None` where they or the connections are unknown.
    pub(super) fn at_least(figure: &Figure, rates: &Rates) -> Option<Self> {
        let events = at_least((figure.rate)(rates)?, rates.seconds);
        Some(Self { events, connections: connections(rates)? })
    }

    /// At most so many events.
    pub(super) fn at_most(figure: &Figure, rates: &Rates) -> Option<Self> {
        let events = float((figure.rate)(rates)?) * f64::from(rates.seconds) / 60.0;
        Some(Self { events: events.floor(), connections: connections(rates)? })
    }

    fn comparable(self) -> Option<Self> {
        (self.connections >= COMPARABLE).then_some(self)
    }

    /// How often it happened in one connection.
    fn share(self) -> f64 {
        self.events / self.connections
    }

    /// By how much the true share may be higher.
    fn doubt(self) -> f64 {
        scatter(self.events + 1.0) / self.connections
    }
}

impl Figure {
    /// How often it happened in 1,000 connections, by what a node reports; `None` where it has had none.
    pub fn in_thousand(&self, rates: &Rates) -> Option<f64> {
        let sample = Sample::at_least(self, rates)?;
        (sample.connections > 0.0).then(|| sample.share() * 1000.0)
    }
}

impl Sum for Sample {
    fn sum<I: Iterator<Item = Self>>(samples: I) -> Self {
        samples.fold(Self::default(), |sum, sample| Self {
            events: sum.events + sample.events,
            connections: sum.connections + sample.connections,
        })
    }
}

/// How unchanged nodes fare. What one of them reports may be nonsense, or a lie: it must make neither every change look
/// harmless nor what happens to all of them look like the change's doing. So they are summed in a few groups with about as
/// many connections each, and the group in the middle stands for all. One or two nodes have no middle.
pub(super) fn typical(mut samples: Vec<Sample>) -> Sample {
    let many = match samples.len() {
        0..=2 => return samples.into_iter().sum(),
        3..FEW => 3,
        _ => 5,
    };
    samples.sort_by(|one, other| other.connections.total_cmp(&one.connections));
    let mut groups = vec![Sample::default(); many];
    for sample in samples {
        let by_connections =
            |one: &&mut Sample, other: &&mut Sample| one.connections.total_cmp(&other.connections);
        if let Some(least) = groups.iter_mut().min_by(by_connections) {
            *least = [*least, sample].into_iter().sum();
        }
    }
    let connections = middle(groups.iter().map(|group| group.connections)) * float(many as u64);
    let share = middle(groups.iter().map(|group| group.events / group.connections.max(1.0)));
    Sample { events: share * connections, connections }
}

/// The one in the middle of an odd number.
fn middle(figures: impl Iterator<Item = f64>) -> f64 {
    let mut figures: Vec<_> = figures.collect();
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or_default()
}

/// One changed node.
#[derive(Clone, Debug)]
pub(super) struct Trial<'a> {
    pub(super) node: &'a str,
    since: Sample,
    before: Option<Sample>,
}

impl<'a> Trial<'a> {
    /// `None` where the figure is unknown since the change.
    pub(super) fn of(figure: &Figure, changed: &Changed<'a>) -> Option<Self> {
        Some(Self {
            node: changed.node,
            since: Sample::at_least(figure, changed.since?)?,
            before: changed.before.and_then(|before| Sample::at_most(figure, before)),
        })
    }

    /// Whether it can be judged by itself: nodes differ, so that needs its own past.
    pub(super) fn stands_alone(&self) -> bool {
        self.since.comparable().and(self.before).and_then(Sample::comparable).is_some()
    }

    /// How often it happened in one connection since the change.
    pub(super) fn share(&self) -> f64 {
        self.since.events / self.since.connections.max(1.0)
    }
}

/// Changed nodes together, and what they were compared with: each as how often it happens in one connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Comparison {
    /// On these nodes since the change.
    pub(super) since: f64,
    /// On them before it.
    pub(super) before: Option<f64>,
    /// On the others.
    pub(super) unchanged: Option<f64>,
    /// Above it they have become worse.
    pub(super) limit: f64,
}

impl Comparison {
    pub(super) fn is_worse(&self) -> bool {
        self.since > self.limit
    }
}

/// `None` where there is nothing to compare with.
pub(super) fn compare(figure: &Figure, trials: &[&Trial<'_>], unchanged: Sample) -> Option<Comparison> {
    let since: Sample = trials.iter().map(|trial| trial.since).sum();
    let (before, unchanged) = (past(trials, since.connections), unchanged.comparable());
    let past = before.map(|(share, doubt)| share + doubt);
    let others = unchanged.map(|others| others.share() + others.doubt());
    let expected = [past, others].into_iter().flatten().reduce(f64::max)?;
    let tolerated = since.connections * (figure.ratio * expected).max(figure.harmless / 1000.0);
    Some(Comparison {
        since: since.share(),
        before: before.map(|(share, _)| share),
        unchanged: unchanged.map(Sample::share),
        limit: (tolerated + scatter(tolerated)).max(CHANCE) / since.connections,
    })
}

/// What the past of these nodes lets expect of one of the connections that they have now, and how doubtful that is. Each is
/// taken by its own past: traffic that moves to a node that always did worse makes no node worse.
fn past(trials: &[&Trial<'_>], connections: f64) -> Option<(f64, f64)> {
    let all = trials.iter().filter_map(|trial| trial.before).sum::<Sample>().comparable()?;
    let own = |trial: &&Trial<'_>| trial.before.and_then(Sample::comparable).unwrap_or(all);
    let expected: f64 = trials.iter().map(|trial| own(trial).share() * trial.since.connections).sum();
    Some((expected / connections, all.doubt()))
}

/// How many connections were opened and accepted, at least.
pub(super) fn connections(rates: &Rates) -> Option<f64> {
    Some(at_least(rates.connects?, rates.seconds) + at_least(rates.accepts?, rates.seconds))
}

/// A rate is rounded up, so that what happened is never 0: the fewest events that give it.
fn at_least(per_minute: u64, seconds: u32) -> f64 {
    match per_minute.checked_sub(1) {
        Some(below) => (float(below) * f64::from(seconds) / 60.0).floor() + 1.0,
        None => 0.0,
    }
}

/// Three times the standard deviation of what happens independently.
fn scatter(events: f64) -> f64 {
    3.0 * events.sqrt()
}

#[allow(clippy::cast_precision_loss, reason = "sixteen digits of a count are enough")]
fn float(count: u64) -> f64 {
    count as f64
}
