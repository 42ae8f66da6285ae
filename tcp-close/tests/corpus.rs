//! What people really run, and what the rules say to it. The data and where they come from: `corpus/README.md`.

#![allow(clippy::expect_used, clippy::panic, reason = "a corpus that cannot be read fails the test")]

use std::collections::BTreeMap;
use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use tcp_close::Sysctl;
use tcp_close::order::ClientsBehindNat;
use tcp_close::rule;

/// One value that is in use.
type Setting = (Sysctl, i64);

/// The settings that a rule of severity refuse forbids, with its id, where nobody has said anything about NAT and every
/// caution is acknowledged.
fn refusals(values: &BTreeMap<Sysctl, i64>) -> Vec<(Setting, &'static str)> {
    let acknowledged = rule::cautions().map(String::from).collect();
    let refusals = rule::opine_on_object(values, ClientsBehindNat::Unknown, &acknowledged);
    refusals.iter().map(|refusal| ((refusal.sysctl, values[&refusal.sysctl]), refusal.rule)).collect()
}

/// The only values that are refused although people run them.
fn is_rightly_refused((sysctl, value): Setting) -> bool {
    match sysctl {
        Sysctl::FinTimeout => value < 1 || (61..=89).contains(&value),
        Sysctl::TwRecycle => value == 1,
        _ => false,
    }
}

/// What is wrong with the refusals of these values: one that people would hate, and one that is missing.
fn complaints(source: &str, settings: &[Setting]) -> Vec<String> {
    let values: BTreeMap<_, _> = settings.iter().copied().collect();
    let refusals = refusals(&values);
    let hated = refusals
        .iter()
        .filter(|(setting, _)| !is_rightly_refused(*setting))
        .map(|((sysctl, value), id)| format!("{source}: {sysctl} = {value} is refused by {id}"));
    let missing = values
        .iter()
        .map(|(&sysctl, &value)| (sysctl, value))
        .filter(|setting| {
            is_rightly_refused(*setting) && refusals.iter().all(|(refused, _)| refused != setting)
        })
        .map(|(sysctl, value)| format!("{source}: {sysctl} = {value} is not refused"));
    hated.chain(missing).collect()
}

/// A file of the corpus.
struct File {
    source: String,
    settings: Vec<Setting>,
}

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn sysctl(name: &str) -> Sysctl {
    Sysctl::from_name(name).unwrap_or_else(|| panic!("{name} is not in the catalogue"))
}

fn number(text: &str) -> i64 {
    text.parse().unwrap_or_else(|error| panic!("{text:?}: {error}"))
}

fn files() -> Vec<File> {
    let entries = fs::read_dir(corpus().join("files")).expect("the corpus has files");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    paths.iter().map(|path| file(&read(path))).collect()
}

fn file(text: &str) -> File {
    let (first, rest) = text.split_once('\n').expect("a first line");
    let source = first.strip_prefix("# source: ").expect("the first line names the source").to_owned();
    let settings = rest
        .lines()
        .map(|line| line.split_once('=').unwrap_or_else(|| panic!("{line:?} sets nothing")))
        .map(|(key, value)| (sysctl(key.trim()), number(value.trim())))
        .collect();
    File { source, settings }
}

/// What one provider accepts for one key.
fn provider_ranges() -> Vec<(String, Sysctl, RangeInclusive<i64>)> {
    let text = read(&corpus().join("providers.txt"));
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| provider_range(&line.split(' ').collect::<Vec<_>>())).collect()
}

fn provider_range(fields: &[&str]) -> (String, Sysctl, RangeInclusive<i64>) {
    match fields {
        [provider, key, min, max, _url] => ((*provider).to_owned(), sysctl(key), number(min)..=number(max)),
        _ => panic!("{fields:?} is not: provider key min max url"),
    }
}

/// The values of a range where an answer could change: the first thousand, the last, and around every bound we know.
fn telling_values(sysctl: Sysctl, range: &RangeInclusive<i64>) -> Vec<i64> {
    let facts = sysctl.facts();
    [facts.orderable, facts.sensible, facts.kernel]
        .iter()
        .flat_map(|bounds| [*bounds.start(), *bounds.end()])
        .flat_map(|bound| [bound - 1, bound, bound + 1])
        .filter(|value| range.contains(value))
        .chain(range.clone().take(1000))
        .chain([*range.end()])
        .collect()
}

fn assert_none(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[test]
fn the_corpus_has_at_least_twenty_sources_and_each_names_its_commit() {
    let files = files();
    assert!(files.len() >= 20, "{} files", files.len());
    for File { source, settings } in files {
        let path = source.strip_prefix("https://github.com/").expect("a public repository");
        let commit = path.split('/').nth(3).expect("OWNER/REPO/blob/COMMIT/PATH");
        assert!(commit.len() == 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit()), "{source}");
        assert!(!settings.is_empty(), "{source} sets nothing");
    }
}

#[test]
fn no_value_that_people_run_is_refused_by_itself() {
    let each = files().into_iter().flat_map(|File { source, settings }| {
        settings.into_iter().flat_map(move |setting| complaints(&source, &[setting]))
    });
    assert_none(&each.collect::<Vec<_>>());
}

#[test]
fn no_file_that_people_run_is_refused_as_a_whole() {
    let each = files().into_iter().flat_map(|File { source, settings }| complaints(&source, &settings));
    assert_none(&each.collect::<Vec<_>>());
}

#[test]
fn no_value_that_a_provider_accepts_is_refused() {
    let each = provider_ranges().into_iter().flat_map(|(provider, sysctl, range)| {
        let values = telling_values(sysctl, &range);
        values.into_iter().flat_map(move |value| complaints(&provider, &[(sysctl, value)]))
    });
    assert_none(&each.collect::<Vec<_>>());
}
