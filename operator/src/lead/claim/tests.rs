use std::time::Duration;

use jiff::SignedDuration;
use proptest::prelude::*;

use super::*;
use crate::lead::MARGIN;

const HOUR: SignedDuration = SignedDuration::from_hours(1);

fn wall() -> Timestamp {
    "2026-01-02T03:04:05Z".parse().unwrap()
}

/// Held by somebody, renewed then, as it was stored at this version.
fn lease(holder: Option<&str>, renewed: Timestamp, version: &str) -> Lease {
    let spec = LeaseSpec {
        holder_identity: holder.map(Into::into),
        lease_duration_seconds: Some(15),
        acquire_time: Some(MicroTime(wall() - HOUR)),
        renew_time: Some(MicroTime(renewed)),
        lease_transitions: Some(3),
        ..LeaseSpec::default()
    };
    let version = Some(version.into());
    Lease { metadata: ObjectMeta { resource_version: version, ..ObjectMeta::default() }, spec: Some(spec) }
}

/// Whether it claims this lease at each of these seconds.
fn claims(claimant: &mut Claimant, lease: Option<&Lease>, start: Instant, seconds: &[u64]) -> Vec<bool> {
    let at = |seconds: &u64| start + Duration::from_secs(*seconds);
    seconds.iter().map(|seconds| claimant.claim(lease, at(seconds), wall()).is_some()).collect()
}

fn claimed(read: Option<&Lease>) -> Lease {
    Claimant::new("one").claim(read, Instant::now(), wall()).unwrap()
}

#[test]
fn a_lease_that_nobody_holds_is_taken_at_once() {
    let without_spec = Lease { spec: None, ..Lease::default() };
    for free in [lease(None, wall(), "7"), lease(Some(""), wall(), "7"), without_spec] {
        assert_eq!(claimed(Some(&free)).spec.unwrap().holder_identity.as_deref(), Some("one"));
    }
    assert_eq!(claimed(None).metadata.name.as_deref(), Some(LEASE));
}

#[test]
fn a_lease_from_the_future_is_taken_after_it_stood_still() {
    let future = lease(Some("another"), wall() + HOUR, "7");
    let claims = claims(&mut Claimant::new("one"), Some(&future), Instant::now(), &[0, 2, 14, 15]);
    assert_eq!(claims, [false, false, false, true]);
}

#[test]
fn a_standby_with_a_skewed_clock_takes_nothing() {
    let (start, mut claimant) = (Instant::now(), Claimant::new("one"));
    for second in 0..60 {
        // Its holder renews it every 5 s, by a clock that is an hour behind.
        let renewals = second / 5;
        let renewed = wall() - HOUR + SignedDuration::from_secs(5 * renewals);
        let held = lease(Some("another"), renewed, &renewals.to_string());
        let now = start + Duration::from_secs(second.unsigned_abs());
        assert_eq!(claimant.claim(Some(&held), now, wall()), None, "after {second} s");
    }
}

#[test]
fn any_write_to_a_lease_is_a_sign_of_life() {
    let (start, mut claimant) = (Instant::now(), Claimant::new("one"));
    let held = |version| lease(Some("another"), wall(), version);
    assert_eq!(claims(&mut claimant, Some(&held("7")), start, &[0, 14]), [false, false]);
    assert_eq!(claims(&mut claimant, Some(&held("8")), start, &[16, 30]), [false, false]);
    assert_eq!(claims(&mut claimant, Some(&held("8")), start, &[31]), [true]);
}

#[test]
fn a_lease_that_is_deleted_is_its_holders_for_as_long_as_one_lasts() {
    let (start, mut claimant) = (Instant::now(), Claimant::new("one"));
    let held = lease(Some("another"), wall(), "7");
    assert_eq!(claims(&mut claimant, Some(&held), start, &[0]), [false]);
    assert_eq!(claims(&mut claimant, None, start, &[4, 18, 19]), [false, false, true]);
}

#[test]
fn one_that_it_held_in_an_earlier_life_is_taken_at_once_and_has_not_changed_hands() {
    let own = lease(Some("one"), wall() - HOUR, "7");
    let spec = claimed(Some(&own)).spec.unwrap();
    assert_eq!(spec.acquire_time, own.spec.unwrap().acquire_time);
    assert_eq!((spec.renew_time, spec.lease_transitions), (Some(MicroTime(wall())), Some(3)));
}

#[test]
fn one_that_changes_hands_says_since_when_and_how_often_it_has() {
    let free = lease(None, wall() - HOUR, "7");
    let claim = claimed(Some(&free));
    let spec = claim.spec.unwrap();
    assert_eq!(claim.metadata.resource_version.as_deref(), Some("7"), "it is written over what was read");
    assert_eq!((spec.acquire_time, spec.renew_time), (Some(MicroTime(wall())), Some(MicroTime(wall()))));
    assert_eq!((spec.lease_duration_seconds, spec.lease_transitions), (Some(15), Some(4)));
    assert_eq!(claimed(None).spec.unwrap().lease_transitions, Some(0));
    let mut worn = free;
    worn.spec.as_mut().unwrap().lease_transitions = Some(i32::MAX);
    assert_eq!(claimed(Some(&worn)).spec.unwrap().lease_transitions, Some(i32::MAX));
}

#[test]
fn what_is_released_has_no_holder_and_what_is_anothers_is_not_released() {
    let released = Claimant::new("one").released(&lease(Some("one"), wall(), "7")).unwrap();
    assert_eq!(released.metadata.resource_version.as_deref(), Some("7"));
    let spec = LeaseSpec { lease_transitions: Some(3), ..LeaseSpec::default() };
    assert_eq!(released.spec, Some(spec));
    assert_eq!(Claimant::new("one").released(&lease(Some("another"), wall(), "7")), None);
    assert_eq!(Claimant::new("one").released(&released), None);
}

/// What a candidate may do, in any order: it may be frozen, and a request late, between any two.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// The next four, at once.
    Turn,
    Read,
    /// What was read is decided upon, and sent.
    Send,
    Arrive,
    Answer,
    /// The answer is lost.
    Lose,
    /// It ends, and starts anew under its old name.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Turn),
        2 => Just(Step::Read),
        2 => Just(Step::Send),
        2 => Just(Step::Arrive),
        2 => Just(Step::Answer),
        1 => Just(Step::Lose),
        1 => Just(Step::Restart),
    ]
}

/// An API server that takes a write over the version that it holds only.
#[derive(Clone, Default)]
struct Server {
    lease: Option<Lease>,
    version: u64,
}

impl Server {
    fn take(&mut self, mut lease: Lease) -> bool {
        let held = self.lease.as_ref().and_then(|held| held.metadata.resource_version.as_deref());
        if held != lease.metadata.resource_version.as_deref() {
            return false;
        }
        self.version += 1;
        lease.metadata.resource_version = Some(self.version.to_string());
        self.lease = Some(lease);
        true
    }
}

/// A candidate, its wall clock, and what is under way.
struct Player {
    claimant: Claimant,
    skew: SignedDuration,
    /// The server as it was read.
    read: Option<Server>,
    /// What was sent, and when: nobody hears the answer where that is not known any longer.
    sent: Option<(Lease, Option<Instant>)>,
    /// When that was sent which was taken.
    answer: Option<Instant>,
    deadline: Option<Instant>,
}

impl Player {
    fn new(name: &str, skew: i64) -> Self {
        let (claimant, skew) = (Claimant::new(name), SignedDuration::from_secs(skew));
        Self { claimant, skew, read: None, sent: None, answer: None, deadline: None }
    }

    fn play(&mut self, step: Step, server: &mut Server, now: Instant) {
        match step {
            Step::Turn => {
                for step in [Step::Read, Step::Send, Step::Arrive, Step::Answer] {
                    self.play(step, server, now);
                }
            }
            Step::Read => self.read = Some(server.clone()),
            Step::Send => {
                let Some(read) = self.read.take() else { return };
                let claim = self.claimant.claim(read.lease.as_ref(), now, wall() + self.skew);
                self.sent = claim.map(|claim| (claim, Some(now)));
            }
            Step::Arrive => {
                let Some((lease, asked)) = self.sent.take() else { return };
                let taken = server.take(lease);
                self.answer = asked.filter(|_| taken);
            }
            Step::Answer => {
                let until = |asked: Instant| asked + DURATION.saturating_sub(MARGIN);
                self.deadline = self.answer.take().map(until).or(self.deadline);
            }
            Step::Lose => self.answer = None,
            Step::Restart => {
                (self.deadline, self.read, self.answer) = (None, None, None);
                self.sent = self.sent.take().map(|(lease, _)| (lease, None));
                let released = server.lease.as_ref().and_then(|lease| self.claimant.released(lease));
                released.map(|lease| server.take(lease));
                self.claimant = Claimant::new(&self.claimant.identity);
            }
        }
    }

    fn holds(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| now < deadline)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn two_candidates_never_both_hold(
        steps in prop::collection::vec((0..2_000_u64, 0..3_usize, step()), 1..200)
    ) {
        let (mut now, mut server) = (Instant::now(), Server::default());
        let mut players = [Player::new("one", 0), Player::new("two", -10), Player::new("three", 3_600)];
        for (passed, who, step) in steps {
            now += Duration::from_millis(passed);
            players[who].play(step, &mut server, now);
            prop_assert!(players.iter().filter(|player| player.holds(now)).count() <= 1);
        }
    }
}
