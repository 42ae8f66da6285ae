//! What was measured, as one table, and beside the aims.

use std::{fmt, time::Duration};

use super::{
    scene::{Figure, Scene},
    subject::Subject,
};
use crate::bench::{
    aim::{Aim, at_least, at_most},
    cost::Cost,
};

/// The agent's sample of its own namespace takes at most this much CPU time.
const SAMPLE_MAX: Duration = Duration::from_micros(10);
/// And no more than so many times as much in one scene as in another.
const FLAT: f64 = 1.2;
/// `ss -s` and `ss ... time-wait | wc -l` take so many times as much.
const SUMMARY_RATIO: f64 = 200.0;
const DUMP_RATIO: f64 = 5000.0;
/// The state split, against the same dump in C, and `ss` against it.
const RAW_RATIO: f64 = 1.3;
const SPLIT_RATIO: f64 = 10.0;
/// Counting so many namespaces, and a dump in each against it.
const NAMESPACES: u32 = 110;
const NAMESPACES_MAX: Duration = Duration::from_micros(500);
const EACH_RATIO: f64 = 250.0;

/// What was measured.
#[derive(Clone, Debug)]
pub struct Count {
    played: Vec<(Scene, Vec<Figure>)>,
    rounds: u32,
    possible_cpus: u32,
    machine: String,
}

/// The fastest and the middle one.
struct Spread {
    min: Duration,
    median: Duration,
}

impl Spread {
    fn of(mut times: Vec<Duration>) -> Option<Self> {
        times.sort_unstable();
        Some(Self { min: *times.first()?, median: *times.get(times.len() / 2)? })
    }
}

impl Figure {
    fn cpu(&self) -> Option<Spread> {
        Spread::of(self.costs.iter().filter_map(|cost| cost.cpu).collect())
    }

    fn wall(&self) -> Option<Spread> {
        Spread::of(self.costs.iter().map(|Cost { wall, .. }| *wall).collect())
    }
}

impl Count {
    pub(super) fn new(
        played: Vec<(Scene, Vec<Figure>)>,
        rounds: u32,
        possible_cpus: u32,
        machine: String,
    ) -> Self {
        Self { played, rounds, possible_cpus, machine }
    }

    /// What was not measured in every round of every scene.
    pub fn missing(&self) -> Vec<String> {
        let rounds = usize::try_from(self.rounds).unwrap_or(usize::MAX);
        let figures = self.played.iter().flat_map(|(scene, figures)| figures.iter().map(move |f| (scene, f)));
        let incomplete = figures.filter(|(_, figure)| {
            figure.costs.len() != rounds || figure.costs.iter().any(|cost| cost.wall.is_zero())
        });
        incomplete.map(|(scene, figure)| format!("{} with {scene}", figure.subject.name())).collect()
    }

    /// The least CPU time of a subject in a scene.
    fn cpu(&self, subject: Subject, scene: &Scene) -> Option<f64> {
        let (_, figures) = self.played.iter().find(|(other, _)| other == scene)?;
        let figure = figures.iter().find(|figure| figure.subject == subject)?;
        Some(figure.cpu()?.min.as_secs_f64())
    }

    /// How many times as much one takes as the other in a scene.
    fn ratio(&self, of: Subject, to: Subject, scene: &Scene) -> Option<f64> {
        Some(self.cpu(of, scene)? / self.cpu(to, scene)?)
    }

    /// Scenes over the machine's table with so many other namespaces, from the fewest sockets to the most.
    fn shared(&self, namespaces: u32) -> Vec<&Scene> {
        let scenes = self.played.iter().map(|(scene, _)| scene);
        scenes.filter(|scene| scene.namespaces == namespaces && scene.buckets.is_none()).collect()
    }

    /// Every aim that this run says something about.
    fn aims(&self) -> Vec<Aim> {
        let alone = self.shared(0);
        let mut aims = self.aims_of_samples(&alone);
        aims.extend(alone.last().into_iter().flat_map(|full| self.aims_of_dumps(full)));
        aims.extend(self.aims_of_namespaces());
        aims
    }

    fn aims_of_samples(&self, alone: &[&Scene]) -> Vec<Aim> {
        let samples: Vec<f64> = alone.iter().filter_map(|scene| self.cpu(Subject::Sample, scene)).collect();
        let summary: Vec<f64> =
            alone.iter().filter_map(|scene| self.ratio(Subject::SsSummary, Subject::Sample, scene)).collect();
        let (Some(most), Some(least), Some(worst)) =
            (largest(&samples), smallest(&samples), smallest(&summary))
        else {
            return Vec::new();
        };
        let limit = SAMPLE_MAX.as_secs_f64() * 1e6;
        vec![
            at_most("a sample of the own namespace, in µs", most * 1e6, limit),
            at_most("the dearest sample against the cheapest: flat", most / least, FLAT),
            at_least("ss -s against a sample", worst, SUMMARY_RATIO),
        ]
    }

    /// In the scene with the most sockets.
    fn aims_of_dumps(&self, full: &Scene) -> Vec<Aim> {
        let ratio = |of, to| self.ratio(of, to, full);
        let dump = ratio(Subject::SsDump, Subject::Sample).map(|measured| {
            at_least(format!("ss ... time-wait | wc -l against a sample, {full}"), measured, DUMP_RATIO)
        });
        let raw = ratio(Subject::States, Subject::RawStates).map(|measured| {
            at_most(format!("the state split against the same dump in C, {full}"), measured, RAW_RATIO)
        });
        let split = ratio(Subject::SsDump, Subject::States).map(|measured| {
            let what = format!("ss ... time-wait | wc -l against the state split, {full}");
            at_least(what, measured, SPLIT_RATIO)
        });
        [dump, raw, split].into_iter().flatten().collect()
    }

    fn aims_of_namespaces(&self) -> Vec<Aim> {
        let limit = NAMESPACES_MAX.as_secs_f64() * 1e3;
        let of_scene = |scene: &Scene| {
            let pods = self.cpu(Subject::Pods, scene)?;
            let each = self.ratio(Subject::RawInEach, Subject::Pods, scene)?;
            Some([
                at_most(format!("all namespaces counted, in ms, {scene}"), pods * 1e3, limit),
                at_least(format!("a dump in each against that, {scene}"), each, EACH_RATIO),
            ])
        };
        self.shared(NAMESPACES).into_iter().filter_map(of_scene).flatten().collect()
    }

    /// The kernel adds a counter up over all CPUs that may ever be there, so a reading costs a + b * CPUs: b is at most the
    /// reading divided by them.
    fn per_cpu(&self) -> Option<String> {
        let most = |subject, namespaces| {
            let scenes = self.shared(namespaces);
            largest(&scenes.iter().filter_map(|scene| self.cpu(subject, scene)).collect::<Vec<_>>())
        };
        let (sample, pods) = (most(Subject::Sample, 0)?, most(Subject::Pods, NAMESPACES)?);
        let cpus = f64::from(self.possible_cpus);
        Some(format!(
            "each further possible CPU adds at most {:.1} µs to a sample and {:.0} µs to {NAMESPACES} namespaces (here {} are possible)",
            sample * 1e6 / cpus,
            pods * 1e6 / cpus,
            self.possible_cpus
        ))
    }
}

fn largest(numbers: &[f64]) -> Option<f64> {
    numbers.iter().copied().reduce(f64::max)
}

fn smallest(numbers: &[f64]) -> Option<f64> {
    numbers.iter().copied().reduce(f64::min)
}

impl fmt::Display for Scene {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} TIME_WAIT", self.time_waits)?;
        if self.namespaces > 0 {
            write!(f, ", {} other namespaces", self.namespaces)?;
        }
        match self.buckets {
            Some(buckets) => write!(f, ", {buckets} buckets of its own"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "counting, {} rounds, turn by turn; {}", self.rounds, self.machine)?;
        for (scene, figures) in &self.played {
            writeln!(
                f,
                "{:<42}{:>11}{:>11}{:>11}{:>11}",
                scene.to_string(),
                "CPU µs min",
                "median",
                "wall min",
                "median"
            )?;
            for figure in figures {
                write!(f, "  {:<40}", figure.subject.name())?;
                for spread in [figure.cpu(), figure.wall()] {
                    match spread {
                        Some(Spread { min, median }) => {
                            write!(f, "{:>11}{:>11}", micros(min), micros(median))?;
                        }
                        None => write!(f, "{:>11}{:>11}", "-", "-")?,
                    }
                }
                writeln!(f)?;
            }
        }
        self.aims().iter().try_for_each(|aim| writeln!(f, "{aim}"))?;
        self.per_cpu().map_or(Ok(()), |line| writeln!(f, "{line}"))
    }
}

/// With a decimal where that says something.
fn micros(time: Duration) -> String {
    let micros = time.as_secs_f64() * 1e6;
    if micros < 100.0 { format!("{micros:.1}") } else { format!("{micros:.0}") }
}
