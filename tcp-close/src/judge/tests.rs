use super::*;
use crate::kernel::{KernelVersion, Nat};
use crate::order::{Action, ClientsBehindNat};

fn modern() -> NodeFacts {
    NodeFacts { kernel: Some(KernelVersion::new(6, 18)), first_namespace: true, ..NodeFacts::unknown() }
}

fn old(nat: Nat) -> NodeFacts {
    NodeFacts { kernel: Some(KernelVersion::new(4, 4)), nat, ..modern() }
}

fn set(tuning: &str, value: i64) -> Entry {
    Entry::new(Action::Set(value), tuning)
}

fn with_priority(priority: i32, entry: Entry) -> Entry {
    Entry { priority, ..entry }
}

fn verdicts(entries: &Entries, live: &Readings, facts: &NodeFacts) -> BTreeMap<Sysctl, Verdict> {
    judge(entries, live, facts).into_iter().map(|(sysctl, judgement)| (sysctl, judgement.verdict)).collect()
}

/// The verdict on one key that holds `live` and is ordered by one tuning.
fn verdict(sysctl: Sysctl, entry: Entry, live: Reading, facts: &NodeFacts) -> Verdict {
    verdicts(&Entries::from([(sysctl, entry)]), &Readings::from([(sysctl, live)]), facts)[&sysctl].clone()
}

fn recycle(value: i64, clients_behind_nat: ClientsBehindNat, live: Reading, facts: &NodeFacts) -> Verdict {
    verdict(Sysctl::TwRecycle, Entry { clients_behind_nat, ..set("web", value) }, live, facts)
}

fn rule_of(verdict: &Verdict) -> Option<&str> {
    match verdict {
        Verdict::Refused(refusal) => Some(refusal.rule),
        Verdict::Allowed | Verdict::AtRisk(_) | Verdict::HeldBack(_) | Verdict::Unsupported(_) => None,
    }
}

#[test]
fn tw_recycle_behind_nat_is_refused_whatever_the_user_says() {
    let facts = old(Nat::Seen("conntrack: 10.0.0.1 is rewritten to 10.0.0.2".into()));
    let verdict = recycle(1, ClientsBehindNat::Never, Reading::Value(0), &facts);
    assert_eq!(rule_of(&verdict), Some("tw-recycle-nat-seen"));
}

#[test]
fn tw_recycle_on_an_old_kernel_with_nothing_against_it_needs_an_acknowledgement() {
    let facts = old(Nat::NotSeen);
    let entry = Entry { clients_behind_nat: ClientsBehindNat::Never, ..set("web", 1) };
    let without = verdict(Sysctl::TwRecycle, entry.clone(), Reading::Value(0), &facts);
    assert_eq!(rule_of(&without), Some("tw-recycle-nothing-seen"));
    let acknowledged = BTreeSet::from(["tw-recycle-nothing-seen".to_string()]);
    let with = verdict(Sysctl::TwRecycle, Entry { acknowledged, ..entry }, Reading::Value(0), &facts);
    assert_eq!(with, Verdict::Allowed);
}

#[test]
fn a_return_to_what_was_in_force_is_held_back_by_no_caution_and_no_fact() {
    let back = Entry { rollback: true, ..set("web", 1) };
    let entries = Entries::from([(Sysctl::OrphanRetries, back.clone())]);
    let judged = |live| {
        let live = Readings::from([(Sysctl::OrphanRetries, Reading::Value(live))]);
        judge(&entries, &live, &modern())[&Sysctl::OrphanRetries].clone()
    };
    let (writing, written) = (judged(8), judged(1));
    assert_eq!(writing.verdict, Verdict::Allowed);
    assert!(!writing.remarks.is_empty(), "what is against it is said");
    assert!(matches!(written.verdict, Verdict::AtRisk(_)), "{:?}", written.verdict);
    let recycling = Entry { clients_behind_nat: ClientsBehindNat::Never, ..back };
    let facts = old(Nat::Seen("conntrack".into()));
    assert_eq!(verdict(Sysctl::TwRecycle, recycling, Reading::Value(0), &facts), Verdict::Allowed);
}

#[test]
fn a_return_to_a_value_that_no_kernel_is_meant_to_hold_is_refused() {
    let entry = Entry { rollback: true, ..set("web", 65) };
    let verdict = verdict(Sysctl::FinTimeout, entry, Reading::Value(30), &modern());
    assert_eq!(rule_of(&verdict), Some("fin-timeout-61-to-89"));
}

#[test]
fn a_refusal_is_not_lifted_by_an_acknowledgement() {
    let acknowledged = BTreeSet::from(["fin-timeout-61-to-89".to_string()]);
    let entry = Entry { acknowledged, ..set("web", 65) };
    let verdict = verdict(Sysctl::FinTimeout, entry, Reading::Value(60), &modern());
    assert_eq!(rule_of(&verdict), Some("fin-timeout-61-to-89"));
}

#[test]
fn tw_recycle_0_is_already_true_where_the_kernel_lacks_it() {
    assert_eq!(recycle(0, ClientsBehindNat::Unknown, Reading::Absent, &modern()), Verdict::Allowed);
}

#[test]
fn a_refused_key_holds_back_its_tuning_and_nothing_else() {
    let entries = Entries::from([
        (Sysctl::FinTimeout, set("bad", 65)),
        (Sysctl::OrphanRetries, set("bad", 5)),
        (Sysctl::MaxTwBuckets, set("good", 50_000)),
    ]);
    let live = entries.keys().map(|&sysctl| (sysctl, Reading::Value(8))).collect();
    let verdicts = verdicts(&entries, &live, &modern());
    assert_eq!(rule_of(&verdicts[&Sysctl::FinTimeout]), Some("fin-timeout-61-to-89"));
    assert!(
        matches!(&verdicts[&Sysctl::OrphanRetries], Verdict::HeldBack(r) if r.sysctl == Sysctl::FinTimeout)
    );
    assert_eq!(verdicts[&Sysctl::MaxTwBuckets], Verdict::Allowed);
}

#[test]
fn keys_that_depend_on_each_other_are_held_back_across_tunings() {
    let recycle = Entry { clients_behind_nat: ClientsBehindNat::Never, ..set("a", 1) };
    let entries = Entries::from([
        (Sysctl::TwRecycle, recycle),
        (Sysctl::TwReuse, set("b", 1)),
        (Sysctl::FinTimeout, set("c", 30)),
    ]);
    let live = Readings::from([
        (Sysctl::TwReuse, Reading::Value(2)),
        (Sysctl::FinTimeout, Reading::Value(60)),
        (Sysctl::TwRecycle, Reading::Absent),
    ]);
    let verdicts = verdicts(&entries, &live, &modern());
    assert!(matches!(verdicts[&Sysctl::TwReuse], Verdict::HeldBack(_)));
    assert_eq!(verdicts[&Sysctl::FinTimeout], Verdict::Allowed);
}

/// tcp_tw_reuse 1 of one tuning meets tcp_timestamps 0 of another.
fn reuse_meets_no_timestamps(reuse: i32, timestamps: i32) -> BTreeMap<Sysctl, Verdict> {
    let acknowledged = BTreeSet::from(["timestamps-off".to_string()]);
    let off = Entry { acknowledged, ..set("off", 0) };
    let entries = Entries::from([
        (Sysctl::TwReuse, with_priority(reuse, set("reuse", 1))),
        (Sysctl::Timestamps, with_priority(timestamps, off)),
    ]);
    let live =
        Readings::from([(Sysctl::TwReuse, Reading::Value(2)), (Sysctl::Timestamps, Reading::Value(1))]);
    verdicts(&entries, &live, &modern())
}

#[test]
fn in_a_rule_across_two_tunings_the_lower_priority_is_refused_and_the_higher_goes_on() {
    let verdicts = reuse_meets_no_timestamps(0, 10);
    assert_eq!(rule_of(&verdicts[&Sysctl::TwReuse]), Some("tw-reuse-without-timestamps"));
    assert_eq!(verdicts[&Sysctl::Timestamps], Verdict::Allowed);

    let verdicts = reuse_meets_no_timestamps(10, 0);
    assert_eq!(verdicts[&Sysctl::TwReuse], Verdict::Allowed);
    let Verdict::Refused(refusal) = &verdicts[&Sysctl::Timestamps] else { panic!("{verdicts:?}") };
    assert_eq!(
        refusal.message,
        "net.ipv4.tcp_timestamps = 0: tcpTwReuse 1 has no effect while tcpTimestamps is 0, and a tuning of higher priority \
         orders net.ipv4.tcp_tw_reuse = 1: set tcpTimestamps to 1, or tcpTwReuse to 0. To accept it, add \
         tw-reuse-without-timestamps to safety.acknowledge"
    );
}

#[test]
fn in_a_rule_across_two_tunings_of_the_same_priority_neither_is_written() {
    let verdicts = reuse_meets_no_timestamps(0, 0);
    assert_eq!(rule_of(&verdicts[&Sysctl::TwReuse]), Some("tw-reuse-without-timestamps"));
    assert!(matches!(verdicts[&Sysctl::Timestamps], Verdict::HeldBack(_)));
}

#[test]
fn an_absent_sysctl_is_unsupported_not_refused_and_holds_nothing_back() {
    let entries =
        Entries::from([(Sysctl::MaxOrphans, set("web", 2000)), (Sysctl::FinTimeout, set("web", 30))]);
    let live =
        Readings::from([(Sysctl::MaxOrphans, Reading::Absent), (Sysctl::FinTimeout, Reading::Value(60))]);
    let facts = NodeFacts { first_namespace: false, memory_bytes: Some(24 << 30), ..modern() };
    let verdicts = verdicts(&entries, &live, &facts);
    assert!(
        matches!(&verdicts[&Sysctl::MaxOrphans], Verdict::Unsupported(why) if why.contains("first network"))
    );
    assert_eq!(verdicts[&Sysctl::FinTimeout], Verdict::Allowed);
}

#[test]
fn a_value_that_no_schema_would_let_through_is_refused_by_the_agent_too() {
    let verdict = verdict(Sysctl::FinTimeout, set("web", -1), Reading::Value(60), &modern());
    assert_eq!(rule_of(&verdict), Some("out-of-bounds"));
}

#[test]
fn a_value_in_force_that_a_rule_would_refuse_now_is_at_risk_and_holds_nothing_back() {
    let entries =
        Entries::from([(Sysctl::FinTimeout, set("web", 65)), (Sysctl::OrphanRetries, set("web", 5))]);
    let live = Readings::from([
        (Sysctl::FinTimeout, Reading::Value(65)),
        (Sysctl::OrphanRetries, Reading::Value(0)),
    ]);
    let verdicts = verdicts(&entries, &live, &modern());
    assert!(matches!(&verdicts[&Sysctl::FinTimeout], Verdict::AtRisk(r) if r.rule == "fin-timeout-61-to-89"));
    assert_eq!(verdicts[&Sysctl::OrphanRetries], Verdict::Allowed);
}

#[test]
fn what_is_said_beside_a_refusal_is_kept() {
    let entries = Entries::from([(Sysctl::FinTimeout, set("web", 3))]);
    let live = Readings::from([(Sysctl::FinTimeout, Reading::Value(60))]);
    let judgement = &judge(&entries, &live, &modern())[&Sysctl::FinTimeout];
    assert_eq!(rule_of(&judgement.verdict), Some("fin-timeout-below-5"));
    let said: Vec<_> = judgement.remarks.iter().map(|remark| remark.rule).collect();
    assert_eq!(said, ["fin-timeout-is-not-time-wait"]);
}
