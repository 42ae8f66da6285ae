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
