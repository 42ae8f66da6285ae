//! A node whose agent goes back to 0.1.0: what becomes of the journal that this version has written.
//!
//! The reader below is that of 0.1.0, kept as it was in commit 2d6804a but for taking a text in place of a file: what a
//! first line must be, which fields there must and may be, and which keys it knows. It shows that the form is read; it is
//! not the program of 0.1.0.

use super::*;

const MAGIC: &str = "tcp-close-tuning journal";
const VERSION: u32 = 1;
const KEYS: [&str; 8] = [
    "net.ipv4.tcp_orphan_retries",
    "net.ipv4.tcp_max_orphans",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_max_tw_buckets",
    "net.ipv4.tcp_tw_reuse",
    "net.ipv4.tcp_tw_reuse_delay",
    "net.ipv4.tcp_timestamps",
    "net.ipv4.tcp_tw_recycle",
];

#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Order {
    uid: String,
    generation: i64,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Contents {
    life: String,
    #[serde(default)]
    order: Option<Order>,
    sysctls: BTreeMap<String, Saved>,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Saved {
    baseline: i64,
    #[serde(default)]
    confirmed: Option<i64>,
    #[serde(default)]
    intended: Option<i64>,
}

/// What 0.1.0 reads, or its words where it refuses.
fn read_by_v0_1_0(text: &str) -> Result<Contents, String> {
    let (header, body) = text.split_once('\n').ok_or("its first line is incomplete")?;
    let rest = header.strip_prefix(MAGIC).ok_or("its first line is not a journal's")?;
    let (version, sum) = rest.trim_start().split_once(" sha256:").unwrap_or((rest.trim(), ""));
    if version != VERSION.to_string() {
        return Err(format!("the journal has version {version}"));
    }
    let hash = Sha256::digest(body.as_bytes());
    let hex = hash.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    if !hex.filter_map(|digit| char::from_digit(digit.into(), 16)).eq(sum.chars()) {
        return Err("its checksum is wrong".into());
    }
    let contents: Contents = serde_json::from_str(body).map_err(|error| error.to_string())?;
    match contents.sysctls.keys().find(|name| !KEYS.contains(&name.as_str())) {
        Some(name) => Err(format!("it names {name:?}, which this agent does not know")),
        None => Ok(contents),
    }
}

/// What this version has on disk after it has saved this.
fn saved_now(order: Option<&OrderMark>, records: &Records) -> String {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(dir.path(), "b007/cookie-941").unwrap();
    if let Some(order) = order {
        journal.note_order(order);
    }
    journal.update(|saved| saved.clone_from(records)).unwrap();
    fs::read_to_string(dir.path().join(FILE)).unwrap()
}

fn order() -> OrderMark {
    OrderMark { uid: "u".into(), generation: 4 }
}

#[test]
fn every_journal_that_this_version_writes_is_read_by_v0_1_0() {
    let values = [None, Some(30)];
    for (order, confirmed) in
        [None, Some(order())].iter().flat_map(|order| values.map(|value| (order, value)))
    {
        for intended in values {
            let record = Record { baseline: 60, confirmed, intended };
            let records = Sysctl::ALL.into_iter().map(|sysctl| (sysctl, record)).collect();
            let read = read_by_v0_1_0(&saved_now(order.as_ref(), &records)).unwrap();
            let saved = |sysctl: Sysctl| (sysctl.name().into(), Saved { baseline: 60, confirmed, intended });
            let expected = Contents {
                life: "b007/cookie-941".into(),
                order: order
                    .as_ref()
                    .map(|mark| Order { uid: mark.uid.clone(), generation: mark.generation }),
                sysctls: Sysctl::ALL.into_iter().map(saved).collect(),
            };
            assert_eq!(read, expected);
        }
    }
}

#[test]
fn v0_1_0_refuses_what_it_does_not_know_and_takes_it_for_no_journal_of_its_own() {
    let text = saved_now(Some(&order()), &Records::from([(Sysctl::FinTimeout, Record::abandoned(60))]));
    let body = text.split_once('\n').unwrap().1;
    for (changed, why) in [
        (text.replace("journal 1 ", "journal 2 "), "the journal has version 2"),
        (text.replace("60", "61"), "its checksum is wrong"),
        (sealed(&body.replace("baseline", "before")), "unknown field `before`"),
        (sealed(&body.replace("tcp_fin_timeout", "tcp_new")), "it names \"net.ipv4.tcp_new\""),
    ] {
        let refused = read_by_v0_1_0(&changed).unwrap_err();
        assert!(refused.starts_with(why), "{refused}");
    }
}
