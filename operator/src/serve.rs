//! Serve: is the process alive, does it know the cluster, and its metrics. Nothing else listens.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::lead::Leadership;
use crate::metrics::{self, Metrics};

/// A loop that has not turned for this long hangs.
const HANGS: Duration = Duration::from_secs(60);

/// What the probes ask.
#[derive(Clone)]
pub struct Health {
    last_turn: Arc<Mutex<Instant>>,
    listed: Arc<AtomicBool>,
}

impl Default for Health {
    fn default() -> Self {
        Self { last_turn: Arc::new(Mutex::new(Instant::now())), listed: Arc::default() }
    }
}

impl Health {
    /// The loop has turned, or got one step further within a turn.
    pub fn beat(&self) {
        *self.last_turn.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Everything has been listed once.
    pub fn note_listed(&self) {
        self.listed.store(true, Ordering::Relaxed);
    }

    /// Whether the loop turns.
    pub fn is_alive(&self, now: Instant) -> bool {
        let last_turn = *self.last_turn.lock().unwrap_or_else(PoisonError::into_inner);
        now.saturating_duration_since(last_turn) < HANGS
    }

    /// Whether everything has been listed once. Leader or not: a standby is ready to take over.
    pub fn is_ready(&self) -> bool {
        self.listed.load(Ordering::Relaxed)
    }
}

/// Answers probes and scrapes until told to stop.
pub async fn serve(
    listener: TcpListener,
    health: Health,
    metrics: Metrics,
    leadership: Leadership,
    mut stop: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let probes =
        Router::new().route("/healthz", get(healthz)).route("/readyz", get(readyz)).with_state(health);
    let scrapes = Router::new().route("/metrics", get(scrape)).with_state((metrics, leadership));
    let app = probes.merge(scrapes);
    axum::serve(listener, app)
        .with_graceful_shutdown(async move {
            let _ = stop.wait_for(|stop| *stop).await;
        })
        .await
}

async fn healthz(State(health): State<Health>) -> (StatusCode, &'static str) {
    answer(health.is_alive(Instant::now()), "the loop has not turned for 60 s\n")
}

async fn readyz(State(health): State<Health>) -> (StatusCode, &'static str) {
    answer(health.is_ready(), "nodes, tunings and orders have not all been listed yet\n")
}

async fn scrape(State((metrics, leadership)): State<(Metrics, Leadership)>) -> impl IntoResponse {
    // Writing to a String does not fail.
    let text = metrics.text(leadership.may_write()).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR);
    text.map(|text| ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text))
}

fn answer(good: bool, otherwise: &'static str) -> (StatusCode, &'static str) {
    if good { (StatusCode::OK, "ok\n") } else { (StatusCode::SERVICE_UNAVAILABLE, otherwise) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_that_hangs_for_a_minute_is_not_alive() {
        let health = Health::default();
        health.beat();
        assert!(health.is_alive(Instant::now()));
        assert!(!health.is_alive(Instant::now() + HANGS));
    }

    #[test]
    fn a_process_that_has_not_listed_everything_is_not_ready() {
        let health = Health::default();
        assert!(!health.is_ready());
        health.note_listed();
        assert!(health.is_ready());
    }
}
