//! What counting costs: the agent's readings beside everything else that counts sockets, in the same scenes, turn by turn.
//! Needs no cluster.

mod life;
mod scene;
mod stage;
mod subject;
mod table;

use std::{path::Path, process::Command};

use super::Machine;
use crate::{
    checkout::Checkout,
    debian,
    error::{Error, Result},
    process::{on_path, run},
    programs,
    report::during,
};

pub use life::Life;
pub use scene::Scene;
pub use table::Count;

use scene::{Act, Outcome, Play, Programs};

/// Rounds whose fastest and middle are told; fewer say little.
pub(super) const ROUNDS: u32 = 7;
/// Sockets in TIME_WAIT that are measured.
const TIME_WAITS: [u32; 3] = [0, 20_000, 60_000];
/// Other namespaces that are measured: without sockets in the own one, and with many.
const NAMESPACES: [u32; 3] = [1, 110, 250];
/// Sizes of a table of the own namespace.
const BUCKETS: [u32; 2] = [16_384, 65_536];

/// Every scene of the bench.
pub(super) fn scenes() -> Vec<Scene> {
    let alone = |time_waits, buckets| Scene { time_waits, namespaces: 0, buckets };
    let with_others =
        |time_waits| NAMESPACES.map(move |namespaces| Scene { time_waits, namespaces, buckets: None });
    let mut scenes: Vec<_> = TIME_WAITS.map(|count| alone(count, None)).into();
    scenes.extend(TIME_WAITS.map(with_others).into_iter().flatten());
    scenes.extend(BUCKETS.map(|buckets| alone(0, Some(buckets))));
    scenes
}

/// Measures this checkout's agent and its peers.
pub(super) fn bench(rounds: u32) -> Result<Count> {
    let checkout = Checkout::current()?;
    let folder = checkout.root().join("target/bench");
    let agent = programs::build(&checkout, &folder)?.agent;
    measure(&checkout, &agent, &folder, &scenes(), rounds)
}

/// Measures an agent and its peers in some scenes. What is compiled for it goes into a folder.
pub fn measure(
    checkout: &Checkout,
    agent: &Path,
    folder: &Path,
    scenes: &[Scene],
    rounds: u32,
) -> Result<Count> {
    let programs = Programs {
        agent: agent.to_owned(),
        reading: compile(checkout, folder)?,
        peers: debian::peers(&crate::checkout::Cache::of_user()?)?,
    };
    let machine = Machine::look()?;
    let mut played = Vec::new();
    for scene in scenes {
        let act = Act::Measure { programs: programs.clone(), rounds };
        let play = Play { scene: scene.clone(), act };
        match during(&format!("measures {scene}"), || play.stage())? {
            Outcome::Figures(figures) => played.push((scene.clone(), figures)),
            Outcome::Life(_) => return Err(other_outcome()),
        }
    }
    Ok(Count::new(played, rounds, possible_cpus()?, machine.told()?))
}

/// The agent's sampler in a scene, for so many seconds of its own clock.
pub(super) fn live(scene: Scene, seconds: u32) -> Result<Life> {
    let what = format!("samples for {seconds} s of the sampler's clock, {scene}");
    match during(&what, || Play { scene, act: Act::Sample { seconds } }.stage())? {
        Outcome::Life(life) => Ok(life),
        Outcome::Figures(_) => Err(other_outcome()),
    }
}

fn other_outcome() -> Error {
    Error::Unclear { what: "what came out of a scene".into(), why: "it belongs to another one".into() }
}

/// Plays the scene that [`measure`] has written down, in a process of its own.
pub(crate) fn play(scene: &str) -> Result<()> {
    Play::perform(scene)
}

/// Compiles the instrument in C.
fn compile(checkout: &Checkout, folder: &Path) -> Result<std::path::PathBuf> {
    let compiler = on_path("cc").ok_or_else(|| Error::Missing {
        what: "no C compiler `cc` on the PATH, and the dump that the agent is measured against is in C"
            .into(),
        remedy: "install gcc".into(),
    })?;
    crate::files::make_folder(folder)?;
    let program = folder.join("reading");
    let mut cc = Command::new(compiler);
    cc.arg("-O2").arg("-o").arg(&program).arg(checkout.root().join("lab/src/bench/count/reading.c"));
    run(&mut cc).map(|_| program)
}

/// How many CPUs the kernel keeps counters for: those that may ever be there.
fn possible_cpus() -> Result<u32> {
    let path = Path::new("/sys/devices/system/cpu/possible");
    let text = crate::files::read(path)?;
    let what = || Error::Unclear { what: path.display().to_string(), why: text.trim().to_owned() };
    count_cpus(&text).ok_or_else(what)
}

/// Of `0-3,8-11`.
fn count_cpus(ranges: &str) -> Option<u32> {
    let range = |text: &str| {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        (last.parse::<u32>().ok()? + 1).checked_sub(first.parse().ok()?)
    };
    ranges.trim().split(',').map(range).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn possible_cpus_are_ranges() {
        assert_eq!(count_cpus("0-1\n"), Some(2));
        assert_eq!(count_cpus("0\n"), Some(1));
        assert_eq!(count_cpus("0-3,8-11\n"), Some(8));
        assert_eq!(count_cpus("many\n"), None);
    }

    #[test]
    fn every_number_of_sockets_is_measured_alone_and_beside_every_number_of_namespaces() {
        let scenes = scenes();
        for time_waits in TIME_WAITS {
            for namespaces in [0].into_iter().chain(NAMESPACES) {
                assert!(scenes.contains(&Scene { time_waits, namespaces, buckets: None }));
            }
        }
    }
}
