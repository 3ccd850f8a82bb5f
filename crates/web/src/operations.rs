//! The doors for whoever runs the server: is it alive, does it take work, what has it counted.

use crate::Hall;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use countersign_core::Core;
use countersign_core::ports::Health;
use countersign_core::words::refusal::Fault;
use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

/// Whether the server still takes work. A copy is the same one.
#[derive(Debug, Clone)]
pub struct Readiness(watch::Sender<bool>);

impl Default for Readiness {
    fn default() -> Self {
        Self(watch::Sender::new(false))
    }
}

impl Readiness {
    /// From now on `/readyz` says no, so that load balancers turn elsewhere, and answers without an end come to theirs.
    pub fn drain(&self) {
        self.0.send_replace(true);
    }

    /// Whether [`drain`](Self::drain) was called.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        *self.0.borrow()
    }

    /// Ready as soon as [`drain`](Self::drain) was called.
    pub async fn drained(&self) {
        // The sender lives as long as this, so waiting cannot fail.
        let _ = self.0.subscribe().wait_for(|it| *it).await;
    }
}

/// Alive: the process answers. Says nothing of the database, so that nobody restarts a server because of one.
pub(crate) async fn healthz() -> &'static str {
    "ok"
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase", tag = "status")]
enum Ready {
    Ready { engine: String, schema: u32, queued: u64, bytes: u64 },
    Unready { reasons: Vec<String> },
}

/// How long the word that the store is well is taken.
const GOOD_FOR: Duration = Duration::from_secs(1);

/// What the last probe of the store found. Anybody may ask `/readyz`, and a probe is a durable commit: so there is one at a
/// time, all who wait for it share what it finds, and a good word is kept for a moment.
#[derive(Default)]
pub(crate) struct Probe {
    last: Arc<Mutex<Option<Found>>>,
    /// How many have ended.
    rounds: Arc<AtomicU64>,
}

struct Found {
    at: Instant,
    health: Result<Health, Fault>,
}

impl Probe {
    async fn health(&self, core: &Core) -> Result<Health, Fault> {
        let before = self.rounds.load(Ordering::Acquire);
        let mut last = self.last.clone().lock_owned().await;
        if let Some(Found { at, health }) = &*last {
            let is_ours = self.rounds.load(Ordering::Acquire) != before;
            if is_ours || (health.is_ok() && at.elapsed() < GOOD_FOR) {
                return health.clone();
            }
        }
        // On its own, for the caller may hang up: the next one would begin another while this one is under way.
        let (core, rounds) = (core.clone(), self.rounds.clone());
        let probing = tokio::spawn(async move {
            let health = core.health().await;
            *last = Some(Found { at: Instant::now(), health: health.clone() });
            rounds.fetch_add(1, Ordering::Release);
            health
        });
        probing.await.unwrap_or_else(|_| Err(Fault::Corrupt("the probe of the store did not end".into())))
    }
}

/// Takes work: the store can be read and written, and the server is not stopping.
pub(crate) async fn readyz(State(hall): State<Arc<Hall>>) -> Response {
    let health = hall.probe.health(&hall.house.core).await;
    let mut reasons = Vec::new();
    if hall.house.readiness.is_draining() {
        reasons.push("the server is stopping".to_owned());
    }
    let (status, ready) = match health {
        Ok(it) if reasons.is_empty() => {
            (StatusCode::OK, Ready::Ready { engine: it.engine, schema: it.schema, queued: it.queued, bytes: it.bytes })
        }
        Ok(_) => (StatusCode::SERVICE_UNAVAILABLE, Ready::Unready { reasons }),
        Err(fault) => {
            reasons.push(fault.to_string());
            (StatusCode::SERVICE_UNAVAILABLE, Ready::Unready { reasons })
        }
    };
    (status, [(CACHE_CONTROL, "no-store")], axum::Json(ready)).into_response()
}

/// What it has counted, as Prometheus text.
pub(crate) async fn metrics(State(hall): State<Arc<Hall>>) -> Response {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8"), (CACHE_CONTROL, "no-store")], (hall.house.metrics)()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestHouse;

    #[tokio::test(start_paused = true)]
    async fn all_who_ask_at_once_share_one_probe_and_a_good_word_is_kept_for_a_moment() {
        let house = Arc::new(TestHouse::new().await);
        let probes = || house.store.probes.load(std::sync::atomic::Ordering::SeqCst);
        let at_once = async || {
            let asking: Vec<_> = (0..50)
                .map(|_| {
                    let house = house.clone();
                    tokio::spawn(async move { house.get("/readyz").await.status })
                })
                .collect();
            for it in asking {
                it.await.expect("no panic");
            }
        };
        at_once().await;
        assert_eq!(probes(), 1);
        tokio::time::advance(GOOD_FOR / 2).await;
        at_once().await;
        assert_eq!(probes(), 1);
        tokio::time::advance(GOOD_FOR / 2).await;
        at_once().await;
        assert_eq!(probes(), 2);
        // A bad word is shared and not kept: whoever asks later may hear that all is well again.
        house.store.away.store(true, std::sync::atomic::Ordering::SeqCst);
        tokio::time::advance(GOOD_FOR).await;
        at_once().await;
        assert_eq!(probes(), 3);
        house.store.away.store(false, std::sync::atomic::Ordering::SeqCst);
        assert_eq!(house.get("/readyz").await.status, StatusCode::OK);
        assert_eq!(probes(), 4);
    }
}
