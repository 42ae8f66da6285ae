//! Files that are broken, cut off, or written to do harm.

use super::*;

#[test]
fn a_broken_document_does_not_hide_what_is_wrong_with_the_next() {
    let text = format!("a: [1\n---\n{}", with("mode: Enforce", "mode: On"));
    let problems = problems(&text);
    assert_eq!(problems.len(), 2, "{problems:#?}");
    assert!(problems[0].contains(": not YAML: "), "{}", problems[0]);
    assert_eq!(
        problems[1],
        "web.yaml:11:3: spec.mode: must be one of Enforce, Observe; kubectl would read On as the boolean true"
    );
}

#[test]
fn aliases_are_followed_and_bombs_are_not() {
    let aliased =
        with("    tcpFinTimeoutSeconds: 30\n", "    tcpFinTimeoutSeconds: &n 30\n    tcpMaxTwBuckets: *n\n");
    let manifest = read("web.yaml", &aliased).unwrap();
    assert_eq!(manifest.tunings[0].object.spec.sysctls.tcp_max_tw_buckets, Some(30));
    let laugh = |n| format!("a{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); 10].join(","));
    let laughs: Vec<_> = std::iter::once("a0: &a0 [lol]\n".into()).chain((1..12).map(laugh)).collect();
    assert_eq!(
        problems(&laughs.concat()),
        ["web.yaml:7:10: the aliases up to here stand for more than 1048576 bytes"]
    );
    assert_eq!(problems("a: &a [*a]"), ["web.yaml:1:8: an alias cannot stand inside of what it stands for"]);
    let [unknown] = &problems("a: *b")[..] else { panic!() };
    assert!(unknown.starts_with("web.yaml:1:4: not YAML: "), "{unknown}");
}

#[test]
fn size_and_depth_are_bounded() {
    assert_eq!(
        problems(&"#".repeat(MAX_BYTES + 1)),
        ["web.yaml:1:1: has 1048577 bytes; allowed is at most 1048576"]
    );
    assert!(read("web.yaml", &"#".repeat(MAX_BYTES)).is_ok());
    for open in ["[", "{a: ", "- ", "[{a: "] {
        assert_eq!(problems(&open.repeat(100_000)).len(), 1, "{open}");
    }
    let unknown: Vec<_> = (0..1000).map(|n| format!("    x{n}: 1\n")).collect();
    assert_eq!(problems(&with_sysctls(&unknown.concat())).len(), MAX_PROBLEMS);
}

#[test]
fn what_a_message_repeats_is_short_and_cannot_drive_a_terminal() {
    let text = with("mode: Enforce", &format!("mode: \"\\e[2J{}\"", "x".repeat(1000)));
    let shown = format!("\\u{{1b}}[2J{}…", "x".repeat(60));
    assert_eq!(
        problems(&text),
        [format!("web.yaml:9:3: spec.mode: must be one of Enforce, Observe; \"{shown}\" is not")]
    );
}

#[test]
fn a_file_that_is_cut_off_or_mangled_at_any_byte_gets_an_answer() {
    for (_, text) in examples() {
        for end in 0..text.len() {
            let _ = read("cut", &String::from_utf8_lossy(&text.as_bytes()[..end]));
        }
        // Comments are most of an example, and alike.
        let text: String =
            text.lines().filter(|line| !line.contains('#')).map(|line| line.to_owned() + "\n").collect();
        for at in 0..text.len() {
            for byte in *b"\0\n\"&*!:-[}%\x80" {
                let mut mangled = text.clone().into_bytes();
                mangled[at] = byte;
                let _ = read("mangled", &String::from_utf8_lossy(&mangled));
            }
        }
    }
}
