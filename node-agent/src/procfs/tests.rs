use super::*;

/// A tree of files that looks like a procfs to the agent. What a kernel would do on a write, it does not.
pub(crate) fn tree(sysctls: &[(Sysctl, &str)]) -> (tempfile::TempDir, Procfs) {
    let dir = tempfile::tempdir().unwrap();
    for folder in ["sys/net/ipv4", "sys/kernel/random", "self/net", "1"] {
        fs::create_dir_all(dir.path().join(folder)).unwrap();
    }
    fs::write(dir.path().join("sys/kernel/osrelease"), "6.18.44\n").unwrap();
    fs::write(dir.path().join("sys/kernel/random/boot_id"), "b007\n").unwrap();
    for (sysctl, text) in sysctls {
        fs::write(dir.path().join("sys/net/ipv4").join(sysctl.file()), text).unwrap();
    }
    let procfs = Procfs::new(dir.path(), None);
    (dir, procfs)
}

#[test]
fn an_absent_file_is_told_from_one_that_holds_no_number() {
    let (_dir, procfs) = tree(&[(Sysctl::FinTimeout, "60\n"), (Sysctl::TwReuse, "two\n")]);
    assert_eq!(procfs.read_sysctl(Sysctl::FinTimeout), Reading::Value(60));
    assert_eq!(procfs.read_sysctl(Sysctl::TwRecycle), Reading::Absent);
    let Reading::Unreadable(why) = procfs.read_sysctl(Sysctl::TwReuse) else { panic!() };
    assert!(why.ends_with("tcp_tw_reuse: holds \"two\\n\", which is not a decimal number"), "{why}");
}

#[test]
fn opening_what_is_not_there_fails_before_anything_changes() {
    let (_dir, procfs) = tree(&[]);
    let error = procfs.open_for_writing(Sysctl::FinTimeout).unwrap_err();
    assert!(error.is_absent());
    assert!(error.to_string().contains("tcp_fin_timeout: cannot be opened for writing"), "{error}");
}

#[test]
fn a_file_that_stays_open_says_what_is_so_now() {
    let (dir, procfs) = tree(&[]);
    let mut held = procfs.hold_sockstat();
    assert!(held.read().unwrap_err().is_absent());
    let path = dir.path().join("self/net/sockstat");
    for text in ["TCP: tw 70000\n".repeat(700), "TCP: tw 3\n".into(), String::new()] {
        fs::write(&path, &text).unwrap();
        assert_eq!(held.read().unwrap(), text);
    }
}

#[test]
fn a_file_that_is_longer_than_any_of_its_kind_is_an_error() {
    let (dir, procfs) = tree(&[]);
    fs::write(dir.path().join("self/net/sockstat"), vec![b'x'; 70_000]).unwrap();
    assert!(procfs.hold_sockstat().read().is_err());
}

#[test]
fn the_namespace_is_the_first_where_a_machine_wide_sysctl_shows() {
    assert!(!tree(&[]).1.in_first_namespace());
    assert!(tree(&[(Sysctl::MaxOrphans, "131072\n")]).1.in_first_namespace());
}

#[test]
fn a_process_whose_name_holds_blanks_and_parentheses_does_not_mislead() {
    let (dir, procfs) = tree(&[]);
    let fields: Vec<String> = (3..=52).map(|n| format!("f{n}")).collect();
    fs::write(dir.path().join("1/stat"), format!("1 (a) b (c) {}\n", fields.join(" "))).unwrap();
    fs::write(dir.path().join("self/net/sockstat"), "").unwrap();
    let name = procfs.namespace_without_cookie().unwrap();
    assert!(name.starts_with("f22-"), "{name}");
}
