//! The reader of the YAML that people write.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match crds::manifest::read("file.yaml", text) {
        Ok(manifest) => {
            for tuning in &manifest.tunings {
                let _ = tuning.at("spec.sysctls.tcpFinTimeoutSeconds");
                // No seed orders a value that ends so.
                let values = tuning.object.spec.sysctls.values();
                fuzz::planted(values.values().any(|value| [3, 7, 8, 9].contains(&(value % 10))));
            }
            for skipped in &manifest.skipped {
                let _ = skipped.to_string();
            }
        }
        Err(problems) => {
            assert!((1..=crds::manifest::MAX_PROBLEMS).contains(&problems.len()), "{problems:?}");
            for problem in problems {
                assert!(!problem.to_string().contains('\n'), "{problem}");
            }
        }
    }
});
