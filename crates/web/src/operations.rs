//! The doors for whoever runs the server: is it alive, does it take work, what has it counted.

use crate::Hall;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::sync::Arc;
use tokio::sync::watch;

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

/// Takes work: the store can be read and written, and the server is not stopping.
pub(crate) async fn readyz(State(hall): State<Arc<Hall>>) -> Response {
    let health = hall.house.core.health().await;
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
