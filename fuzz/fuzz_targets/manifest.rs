//! The reader of the YAML that people write.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match crds::manifest::read("file.yaml", text) {
        Ok(manifest) => {
            for tuning in &manifest.tunings {
                let _ = tuning.at("spec.sysctls.tcpFinTimeoutSeconds");
                fuzz::planted(serde_json::to_string(&tuning.object).is_ok_and(|text| fuzz::is_magic(&text)));
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
