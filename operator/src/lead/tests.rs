use futures::FutureExt;

use super::*;

fn leadership(leads: bool, deadline: Option<Instant>) -> Leadership {
    Leadership { leads: watch::channel(leads).1, deadline: Arc::new(Mutex::new(deadline)) }
}

#[test]
fn a_leader_writes_until_its_deadline() {
    assert!(leadership(true, Some(Instant::now() + DURATION)).may_write());
}

#[test]
fn a_leader_whose_lease_has_run_out_unrenewed_writes_nothing() {
    let past = Instant::now().checked_sub(Duration::from_millis(1));
    assert!(!leadership(true, past).may_write());
    assert!(!leadership(true, None).may_write(), "and one that has never renewed it");
}

#[test]
fn a_standby_writes_nothing() {
    assert!(!leadership(false, Some(Instant::now() + DURATION)).may_write());
}

#[test]
fn a_write_that_is_under_way_when_its_leader_may_write_no_longer_goes_no_step_further() {
    let leadership = leadership(true, Some(Instant::now() + DURATION));
    let mut steps = 0;
    let write = poll_fn(|_| {
        steps += 1;
        Poll::<()>::Pending
    });
    let mut fenced = Box::pin(leadership.fence(write));
    assert_eq!(fenced.as_mut().now_or_never(), None);
    *leadership.deadline.lock().unwrap() = Some(Instant::now());
    assert_eq!(fenced.as_mut().now_or_never(), Some(None));
    drop(fenced);
    assert_eq!(steps, 1);
}

#[test]
fn a_renewal_that_came_too_late_renews_the_lease_of_another_and_counts_for_nothing() {
    let lease = |holder: &str| format!(r#"{{"metadata":{{}},"spec":{{"holderIdentity":{holder}}}}}"#);
    assert!(is_held_by("one", lease(r#""one""#).as_bytes()));
    assert!(!is_held_by("one", lease(r#""another""#).as_bytes()));
    assert!(!is_held_by("one", lease("null").as_bytes()), "it was released");
    assert!(!is_held_by("one", b"no lease"));
}
