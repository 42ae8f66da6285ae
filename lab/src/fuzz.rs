//! `cargo lab fuzz`: every parser of what the kernel, the journal or a person has written, put to libFuzzer for a bounded
//! time, starting from real captures.

use std::{
    fmt, fs,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use crate::{
    checkout::Checkout,
    error::{Error, Result},
    files,
    process::{output, run, shown},
    report::during,
    shared_build::SharedBuild,
    tools::cargo_fuzz,
};

/// For how long an input may keep a parser busy.
const INPUT_SECONDS_MAX: u32 = 5;
/// A search that has not found what is there in seconds has got stuck; the next begins elsewhere.
const SEARCHES: u32 = 4;
/// What the planted bugs say when they are found; see `fuzz/src/lib.rs`.
const PLANTED: &str = "the planted bug is found";

/// Runs the targets whose names contain `filter`, each for so many seconds. With `planted` each has a bug, which must be found
/// in that time.
pub(crate) fn fuzz(filter: &str, seconds: u32, planted: bool) -> Result<()> {
    let targets = build(filter, planted)?;
    for target in targets {
        let outcome = if planted { target.search(seconds)? } else { target.run(seconds)? };
        println!("{:<12} {outcome}", target.name);
        match (outcome.finding, planted) {
            (None, false) => {}
            (None, true) => return Err(Error::PlantedNotFound { target: target.name, seconds }),
            (Some(finding), true) if finding.said.contains(PLANTED) => {}
            (Some(Finding { said, input }), _) => {
                let program = target.program;
                return Err(Error::Finding { target: target.name, said, input, program });
            }
        }
    }
    Ok(())
}

/// Something to fuzz.
struct Target {
    name: String,
    program: PathBuf,
    seeds: PathBuf,
    /// Holds the corpus and the findings of a run.
    folder: PathBuf,
}

/// What came out of a run.
struct Outcome {
    took: Duration,
    executions: u64,
    coverage: u64,
    finding: Option<Finding>,
}

/// An input on which a target fails, and what it said.
struct Finding {
    said: String,
    input: PathBuf,
}

/// Builds the targets, and returns those whose names contain `filter`.
fn build(filter: &str, planted: bool) -> Result<Vec<Target>> {
    let checkout = Checkout::current()?;
    let source = checkout.root().join("fuzz");
    let names = files::list(&source.join("fuzz_targets"))?;
    let names: Vec<&str> = names
        .iter()
        .filter_map(|file| file.strip_suffix(".rs"))
        .filter(|name| name.contains(filter))
        .collect();
    if names.is_empty() {
        return Err(Error::Missing {
            what: format!("no target has `{filter}` in its name"),
            remedy: "take one of fuzz/fuzz_targets".into(),
        });
    }
    let (build, platform) = (checkout.root().join("target/fuzz"), platform());
    let mut cargo = Command::new(cargo_fuzz()?);
    // Without a sanitizer it needs no nightly compiler: there is no unsafe code in a parser.
    cargo.args(["build", "--sanitizer", "none", "--target", &platform, "--target-dir"]).arg(&build);
    cargo.args(planted.then_some("--features=planted")).current_dir(checkout.root());
    let shared = SharedBuild::take(&checkout)?;
    shared.lend_to(&mut cargo);
    during("builds the fuzz targets", || run(&mut cargo))?;
    let target = |name: &str| Target {
        name: name.into(),
        program: build.join(&platform).join("release").join(name),
        seeds: source.join("seeds").join(name),
        folder: build.join("runs").join(name),
    };
    Ok(names.into_iter().map(target).collect())
}

fn platform() -> String {
    format!("{}-unknown-linux-gnu", std::env::consts::ARCH)
}

impl Target {
    /// Fuzzes from the beginning a few times, for so many seconds in all, until something is found.
    fn search(&self, seconds: u32) -> Result<Outcome> {
        // To libFuzzer 0 s is no limit.
        let part = (seconds / SEARCHES).max(1);
        let mut outcome = self.run(part)?;
        for _ in 1..SEARCHES {
            if outcome.finding.is_none() {
                outcome = self.run(part)?;
            }
        }
        Ok(outcome)
    }

    /// Fuzzes for so many seconds, or until something is found.
    fn run(&self, seconds: u32) -> Result<Outcome> {
        let (corpus, findings) = (self.folder.join("corpus"), self.folder.join("findings/"));
        match fs::remove_dir_all(&corpus) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::file("remove", corpus)(error));
            }
            _ => files::make_folder(&corpus)?,
        }
        files::make_folder(&findings)?;
        let mut fuzzer = Command::new(&self.program);
        fuzzer
            // New inputs go to the first folder; the others are only read.
            .args([&corpus, &self.seeds])
            .arg(format!("-artifact_prefix={}", findings.display()))
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-timeout={INPUT_SECONDS_MAX}"))
            .arg("-print_final_stats=1");
        let start = Instant::now();
        let output = output(&mut fuzzer)?;
        let said = String::from_utf8_lossy(&output.stderr);
        let unclear = |why: &str| {
            let why = format!("{why}:\n{}", files::last_lines(&said, 10));
            Error::Unclear { what: format!("the output of `{}`", shown(&fuzzer)), why }
        };
        let finding = finding(&said);
        if finding.is_none() && !output.status.success() {
            return Err(unclear("it failed without a finding"));
        }
        Ok(Outcome {
            took: start.elapsed(),
            executions: last_number(&said, "stat::number_of_executed_units:")
                .ok_or_else(|| unclear("it does not say how many inputs it tried"))?,
            coverage: last_number(&said, " cov:")
                .ok_or_else(|| unclear("it does not say what it covered"))?,
            finding,
        })
    }
}

/// What libFuzzer says of the input that ended it.
fn finding(said: &str) -> Option<Finding> {
    let input = said.lines().find_map(|line| line.split_once("Test unit written to "))?.1.trim().into();
    let mut lines =
        said.lines().skip_while(|line| !line.contains("panicked at") && !line.contains("ERROR: "));
    let said = lines.by_ref().take(2).collect::<Vec<_>>().join("\n");
    Some(Finding { said, input })
}

/// The number behind the last occurrence of a word.
fn last_number(said: &str, word: &str) -> Option<u64> {
    said.rsplit_once(word)?.1.split_ascii_whitespace().next()?.parse().ok()
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { took, executions, coverage, finding } = self;
        let found = finding.as_ref().map_or("nothing found", |_| "FOUND something");
        let seconds = took.as_secs_f64();
        write!(f, "{executions} inputs in {seconds:.1} s, {coverage} branches covered: {found}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The end of a real run, shortened.
    const FOUND: &str = "#18\tNEW    cov: 84 ft: 85 corp: 4/1424b\n#2048\tpulse  cov: 86 ft: 90 corp: 7/2k\n\
        \nthread '<unnamed>' (7) panicked at src/sock_diag.rs:138:33:\nattempt to negate with overflow\n\
        note: run with `RUST_BACKTRACE=1`\n==7== ERROR: libFuzzer: deadly signal\n\
        artifact_prefix='/f/'; Test unit written to /f/crash-0a\nstat::number_of_executed_units: 2531\n";

    #[test]
    fn what_was_found_is_told_in_the_words_of_the_panic() {
        let Finding { said, input } = finding(FOUND).unwrap();
        assert!(said.ends_with("sock_diag.rs:138:33:\nattempt to negate with overflow"), "{said}");
        assert_eq!(input, PathBuf::from("/f/crash-0a"));
    }

    #[test]
    fn the_last_figures_are_those_of_the_run() {
        assert_eq!(last_number(FOUND, " cov:"), Some(86));
        assert_eq!(last_number(FOUND, "stat::number_of_executed_units:"), Some(2531));
        assert!(finding("#2 DONE cov: 1\n").is_none());
    }
}
