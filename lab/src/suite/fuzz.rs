//! `cargo lab fuzz`, for seconds. Longer runs are for people.

use super::{Outcome, Suite, Test};
use crate::fuzz::fuzz;

pub(super) const LONG_TESTS: &[Test] = &[
    Test { name: "fuzzing_finds_a_planted_bug_behind_every_parser", run: planted_bugs_are_found },
    Test { name: "seconds_of_fuzzing_find_no_other_bug", run: nothing_else_is_found },
];

const SECONDS: u32 = 3;
/// The planted bugs are found in seconds; a loaded machine may take longer.
const PLANTED_SECONDS_MAX: u32 = 120;

fn planted_bugs_are_found(_: &Suite) -> Outcome {
    Ok(fuzz("", PLANTED_SECONDS_MAX, true)?)
}

fn nothing_else_is_found(_: &Suite) -> Outcome {
    Ok(fuzz("", SECONDS, false)?)
}
