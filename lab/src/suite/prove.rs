//! `cargo lab prove`, on experiments that take seconds; all of them take two minutes.

use super::{Outcome, Suite, Test, ensure};
use crate::prove::Proof;

pub(super) const TESTS: &[Test] = &[Test {
    name: "prove_smoke_the_kernel_does_what_is_claimed_and_its_default_does_not",
    run: prove_smoke,
}];

/// Each stands for a way to measure: a time, a count, a counter.
const FAST: [&str; 3] = ["S3-fin-wait2", "S1-active-closer", "S8-lowered"];

fn prove_smoke(_: &Suite) -> Outcome {
    for id in FAST {
        let proof = Proof::run(id)?;
        ensure(proof.holds(), || proof.to_string())?;
    }
    Ok(())
}
