//! A leader that is frozen past its lease while its writes are under way, and wakes when another leads.

use std::{
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::http::StatusCode;
use rustix::process::Signal;

use super::{
    FIN_TIMEOUT, Failure, Outcome, SOON, Suite, Test, ensure,
    faults::{fin_timeout, stays, tuned},
    orders::wait_until_all_hold_within,
    own_operator::{OwnOperator, without_operators},
    toll::{Toll, ends_as_without_fault},
};
use crate::{
    proxy::{Moment, Proxy, Write},
    report::{Seen, poll_until},
};

pub(super) const LONG_TESTS: &[Test] = &[Test {
    name: "of_a_leader_that_was_frozen_past_its_lease_no_write_is_taken",
    run: frozen_past_its_lease,
}];

/// The lease lasts 15 s.
const TAKEN_OVER: Duration = Duration::from_secs(40);
/// Those of the frozen leader, those of its successor to mend them, and reports.
const MOST: usize = 30;

/// Keeps every write to an object of the product back until it is opened.
#[derive(Default)]
struct Gate {
    lock: RwLock<()>,
    held: AtomicUsize,
}

fn frozen_past_its_lease(suite: &Suite) -> Outcome {
    without_operators(suite, || {
        let (old, old_proxy) = OwnOperator::behind_proxy(suite, "frozen-operator")?;
        let (new, new_proxy) = OwnOperator::behind_proxy(suite, "successor")?;
        old.start()?;
        tuned(suite)?;
        new.start()?;
        let gate = Arc::<Gate>::default();
        let closed = gate.lock.write().unwrap_or_else(PoisonError::into_inner);
        hold_back(&old_proxy, &gate);
        suite.tune("web", &fin_timeout(25))?;
        // An order for each node, and the tuning's status.
        let wanted = suite.cluster.nodes().len() + 1;
        poll_until("its writes are under way", SOON, || {
            let held = gate.held.load(Ordering::Relaxed);
            Ok(Seen::when(held == wanted, || format!("{held} of {wanted}")))
        })?;
        let frozen = old.process().ok_or_else(|| Failure("no operator was started".into()))?;
        frozen.signal(Signal::STOP)?;
        let took = wait_until_all_hold_within(suite, FIN_TIMEOUT, "25", TAKEN_OVER)?;
        println!("    a successor carries on after {:.1} s", took.as_secs_f64());
        suite.tune("web", &fin_timeout(20))?;
        suite.wait_until_applied("web")?;
        let (before, toll) = (new_proxy.answers().len(), Toll::begin(suite)?);

        drop(closed);
        let answered =
            || old_proxy.answers().into_iter().filter(|(write, _)| is_ours(write)).collect::<Vec<_>>();
        poll_until("what was under way is answered", SOON, || {
            Ok(Seen::when(answered().len() == wanted, || format!("{:?}", answered())))
        })?;
        frozen.signal(Signal::CONT)?;
        old.wait_until_it_says("stands by")?;
        stays(suite, "20")?;
        let answers = answered();
        ensure(
            answers.len() == wanted && answers.iter().all(|(_, code)| *code == StatusCode::CONFLICT),
            || format!("{wanted} writes were under way: {answers:?}"),
        )?;
        let more = new_proxy.answers()[before..].iter().filter(|(write, _)| is_ours(write)).count();
        println!(
            "    awake: {wanted} of {wanted} writes answered 409, no other sent; {more} of the successor's to mend them"
        );
        suite.wait_until_applied("web")?;
        toll.is(suite, |_| 0, MOST)?;
        ends_as_without_fault(suite, "web", &fin_timeout(20))
    })
}

fn hold_back(proxy: &Proxy, gate: &Arc<Gate>) {
    let gate = gate.clone();
    proxy.act(Box::new(move |write, moment| {
        if moment == Moment::Before && is_ours(write) {
            gate.held.fetch_add(1, Ordering::Relaxed);
            drop(gate.lock.read().unwrap_or_else(PoisonError::into_inner));
        }
        true
    }));
}

/// Not to a lease or an event.
fn is_ours(write: &Write) -> bool {
    write.what.contains("/apis/tcpclose.dev/")
}
