//! Whatever is ordered, whatever other programs write, wherever the agent is killed: after a restart each key holds what
//! is ordered or what it held before us.
//!
//! What a kill leaves is what is on disk at that moment. The agent logs each write when the kernel has taken it, so a
//! subscriber that copies the disk with every line sees all of it; a restart then finds such a copy.

use std::sync::{Arc, Mutex, Once};

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use super::*;

/// Values of one length, because a file of a tree is not cut when it is written to; and none that a rule speaks against.
const KEYS: [(Sysctl, &[i64]); 4] = [
    (Sysctl::FinTimeout, &[60, 30, 20, 45]),
    (Sysctl::OrphanRetries, &[8, 7, 5, 4]),
    // These two depend on each other.
    (Sysctl::TwReuse, &[0, 1]),
    (Sysctl::Timestamps, &[1, 2]),
];

/// What is on disk at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Image {
    kernel: BTreeMap<Sysctl, i64>,
    journal: String,
}

impl Image {
    fn take(procfs: &Procfs, state: &Path) -> Self {
        let live = |(sysctl, _)| (sysctl, procfs.read_value(sysctl).unwrap());
        Self { kernel: KEYS.into_iter().map(live).collect(), journal: journal(state) }
    }
}

/// Takes an image with every line of the log.
struct Camera {
    procfs: Procfs,
    state: PathBuf,
    images: Arc<Mutex<Vec<Image>>>,
}

impl<S: tracing::Subscriber> Layer<S> for Camera {
    fn on_event(&self, _: &tracing::Event<'_>, _: Context<'_, S>) {
        self.images.lock().unwrap().push(Image::take(&self.procfs, &self.state));
    }
}

impl Machine {
    fn with_all_keys() -> Self {
        let texts = KEYS.map(|(sysctl, values)| (sysctl, format!("{}\n", values[0])));
        Self::new(&texts.each_ref().map(|(sysctl, text)| (*sysctl, text.as_str())))
    }

    fn image(&self) -> Image {
        Image::take(&self.procfs, &self.state())
    }

    /// One turn of an agent that has just started, and an image with every line that it logs.
    fn restart(&self, order: &Order) -> (Vec<Image>, Records) {
        // Whether anybody listens to a line is remembered for all threads; without this, another test's thread, which has
        // no subscriber, could settle it for this one.
        static LISTENED_TO: Once = Once::new();
        LISTENED_TO
            .call_once(|| drop(tracing::subscriber::set_global_default(tracing_subscriber::registry())));
        let images = Arc::default();
        let camera = Camera { procfs: self.procfs.clone(), state: self.state(), images: Arc::clone(&images) };
        let mut node = self.node();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(camera), || {
            self.turn(&mut node, order);
        });
        let images = images.lock().unwrap().clone();
        (images, node.journal().unwrap().records().clone())
    }

    /// What a kill in the first turn after a start may leave, from its beginning to its end.
    fn kills(&self, order: &Order) -> Vec<Image> {
        let mut images = vec![self.image()];
        for image in self.restart(order).0.into_iter().chain([self.image()]) {
            // The journal is saved before the write that it announces: there was a moment between the two.
            let kernel = images[images.len() - 1].kernel.clone();
            images.push(Image { kernel, ..image.clone() });
            images.push(image);
        }
        images.dedup();
        images
    }

    /// What a kill has left, and half of what was being saved.
    fn was_killed(&self, Image { kernel, journal }: &Image) {
        for (&sysctl, &value) in kernel {
            self.set(sysctl, value);
        }
        let file = self.state().join("journal");
        if journal.is_empty() {
            let _ = fs::remove_file(file);
        } else {
            fs::write(file, journal).unwrap();
        }
        fs::write(self.state().join("journal.new"), "half a jour").unwrap();
    }
}

/// An order for one key.
#[derive(Clone, Copy, Debug)]
enum Ordered {
    Set(i64),
    /// To the first; to the second while the agent is dead.
    Flip(i64, i64),
    Restore,
    Release,
}

impl Ordered {
    fn entry(self, sysctl: Sysctl, tuning: &str, was_killed: bool) -> serde_json::Value {
        let mut entry = match self {
            Self::Set(value) => set(sysctl, value),
            Self::Flip(first, second) => set(sysctl, if was_killed { second } else { first }),
            Self::Restore => entry(sysctl, "Restore", None),
            Self::Release => entry(sysctl, "Release", None),
        };
        entry["tuning"]["name"] = tuning.into();
        entry
    }
}

/// What befalls one key: another program, then an order, by one of two tunings.
type Fate = (Option<i64>, Option<Ordered>, &'static str);

/// What befalls the node: a fate for each key, and where the agent is killed.
type Step = (Vec<Fate>, Vec<Index>);

fn fate(values: &'static [i64]) -> impl Strategy<Value = Fate> {
    let value = || select(values);
    let ordered = prop_oneof![
        3 => value().prop_map(Ordered::Set),
        2 => (value(), value()).prop_map(|(first, second)| Ordered::Flip(first, second)),
        2 => Just(Ordered::Restore),
        1 => Just(Ordered::Release),
    ];
    (option::weighted(0.2, value()), option::weighted(0.8, ordered), select(&["web", "batch"][..]))
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let fates = KEYS.map(|(_, values)| fate(values).boxed()).to_vec();
    vec((fates, vec(any::<Index>(), 0..3)), 1..5)
}

/// What must become of a key, told without a journal.
#[derive(Clone, Copy, Debug)]
struct Expected {
    live: i64,
    /// What it held before us, and what we have set it to.
    ours: Option<(i64, i64)>,
}

impl Expected {
    fn after(self, foreign: Option<i64>, ordered: Option<Ordered>) -> Self {
        let Self { ours, .. } = self;
        let live = foreign.unwrap_or(self.live);
        match ordered {
            None => Self { live, ours },
            Some(Ordered::Set(value) | Ordered::Flip(_, value)) => {
                let baseline = ours.map_or(live, |(baseline, _)| baseline);
                Self { live: value, ours: Some((baseline, value)) }
            }
            Some(Ordered::Restore) => {
                let baseline = ours.filter(|(_, value)| *value == live).map(|(baseline, _)| baseline);
                Self { live: baseline.unwrap_or(live), ours: None }
            }
            Some(Ordered::Release) => Self { live, ours: None },
        }
    }
}

fn carry_out(machine: &Machine, generation: i64, (fates, kills): &Step) -> Records {
    let order = |generation, was_killed| {
        let entries = KEYS.iter().zip(fates).filter_map(|((sysctl, _), (_, ordered, tuning))| {
            ordered.map(|ordered| ordered.entry(*sysctl, tuning, was_killed))
        });
        order(generation, &entries.collect())
    };
    for ((sysctl, _), (foreign, ..)) in KEYS.iter().zip(fates) {
        if let Some(value) = foreign {
            machine.set(*sysctl, *value);
        }
    }
    for kill in kills {
        let images = machine.kills(&order(generation, false));
        machine.was_killed(kill.get(&images));
    }
    let last = order(generation + 1, true);
    let (_, records) = machine.restart(&last);
    let before = machine.image();
    let (writes, _) = machine.restart(&last);
    assert_eq!((writes.as_slice(), machine.image()), (&[][..], before), "a restart that finds all in order");
    records
}

fn converges(steps: &[Step]) {
    let machine = Machine::with_all_keys();
    let mut expected = KEYS.map(|(_, values)| Expected { live: values[0], ours: None });
    for (step, generation) in steps.iter().zip((1..).step_by(2)) {
        let records = carry_out(&machine, generation, step);
        for (((sysctl, _), expected), (foreign, ordered, _)) in KEYS.iter().zip(&mut expected).zip(&step.0) {
            *expected = expected.after(*foreign, *ordered);
            assert_eq!(machine.live(*sysctl), Some(expected.live), "{sysctl} after {step:?}");
            let record = records.get(sysctl).filter(|record| !record.is_abandoned());
            let baseline = expected.ours.map(|(baseline, _)| baseline);
            assert_eq!(record.map(|record| record.baseline), baseline, "{sysctl} after {step:?}");
        }
    }
}

/// The same for all keys, without other programs.
fn all(ordered: impl Fn(&[i64]) -> Ordered, kills: &[Index]) -> Step {
    (KEYS.iter().map(|(_, values)| (None, Some(ordered(values)), "web")).collect(), kills.to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn after_any_kill_and_a_restart_each_key_is_as_ordered_or_at_its_baseline(mut steps in steps()) {
        steps.push(all(|_| Ordered::Restore, &[]));
        converges(&steps);
    }
}

#[test]
fn a_kill_before_or_after_any_write_of_a_turn_costs_nothing() {
    let machine = Machine::with_all_keys();
    let sets: Vec<_> = KEYS.iter().map(|(sysctl, values)| set(*sysctl, values[1])).collect();
    let images = machine.kills(&order(1, &sets.into()));
    // Before; after the journal's first save; after each of four writes; after its last save.
    assert_eq!(images.len(), 7);
    for image in &images {
        let kill = |order: &Order| {
            machine.was_killed(image);
            machine.restart(order);
        };
        let order_all = |action, value: fn(&[i64]) -> Option<i64>| {
            let entries = KEYS.iter().map(|(sysctl, values)| entry(*sysctl, action, value(values)));
            order(2, &entries.collect())
        };
        for (action, value) in [("Set", 1), ("Restore", 0)] {
            kill(&order_all(action, |values| Some(values[1])));
            for (sysctl, values) in KEYS {
                assert_eq!(machine.live(sysctl), Some(values[value]), "{sysctl} after {action} on {image:?}");
            }
        }
    }
}
