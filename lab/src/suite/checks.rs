//! What needs no cluster, and is told in the same words: the tests of the fast layer, and the state of the code.

use std::process::Command;

use super::Tally;
use crate::{
    checkout::Checkout,
    error::{Error, Result},
    report::during,
    tools::cargo_deny,
};

/// Runs `cargo test` and adds up its result lines.
pub(super) fn fast_layer(checkout: &Checkout) -> Result<Tally> {
    let output = during("cargo test --workspace", || {
        Command::new("cargo")
            .args(["test", "--workspace", "--quiet", "--no-fail-fast"])
            .current_dir(checkout.root())
            .output()
            .map_err(|source| Error::Start { program: "cargo".into(), source })
    })?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut tally = results(&text);
    if !output.status.success() {
        print!("{text}{}", String::from_utf8_lossy(&output.stderr));
        // A build that fails prints no result.
        tally.failed = tally.failed.max(1);
    }
    println!("cargo test: {} passed, {} failed", tally.passed, tally.failed);
    Ok(tally)
}

/// Adds up the lines `test result: ok. 41 passed; 0 failed; 0 ignored; ...`. A test that is skipped has failed.
fn results(text: &str) -> Tally {
    let mut tally = Tally::default();
    for line in text.lines().filter_map(|line| line.strip_prefix("test result: ")) {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let count = |name: &str| {
            let position = words.iter().position(|word| *word == name)?;
            words.get(position.checked_sub(1)?)?.parse().ok()
        };
        let failed = count("failed;").unwrap_or(0) + count("ignored;").unwrap_or(0);
        tally.add(Tally { passed: count("passed;").unwrap_or(0), failed });
    }
    tally
}

/// Formatting, lints, licences, bans and sources.
pub(super) fn code(checkout: &Checkout) -> Result<Tally> {
    let deny = cargo_deny()?.display().to_string();
    let mut tally = Tally::default();
    for (name, program, arguments) in [
        ("the_code_is_formatted", "cargo", &["fmt", "--all", "--check"][..]),
        (
            "the_code_has_no_warnings",
            "cargo",
            &["clippy", "--workspace", "--all-targets", "--quiet", "--", "--deny", "warnings"],
        ),
        (
            "licences_bans_and_sources_of_dependencies_are_allowed",
            &deny,
            &["--log-level", "error", "check", "licenses", "bans", "sources"],
        ),
    ] {
        let output = during(name, || {
            Command::new(program)
                .args(arguments)
                .current_dir(checkout.root())
                .output()
                .map_err(|source| Error::Start { program: program.into(), source })
        })?;
        let passed = output.status.success();
        tally.add(Tally { passed: usize::from(passed), failed: usize::from(!passed) });
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        if !passed {
            print!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        }
    }
    Ok(tally)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_all_binaries_are_added_up_and_a_skipped_test_has_failed() {
        let text = "running 2 tests\ntest result: ok. 2 passed; 0 failed; 0 ignored; 0 measured\n\n\
                    test result: FAILED. 40 passed; 1 failed; 1 ignored; 0 measured\n";
        assert_eq!(results(text), Tally { passed: 42, failed: 2 });
    }
}
