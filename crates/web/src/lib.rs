//! Who asks: every door of the house on one page, and who may come in.
//!
//! Owns HTTP. [`entrance`] lets requests in and answers out; [`caller`] finds out on whose behalf something is asked; the
//! dialects translate their words into one verb each and back. What is true is decided by `countersign-core`; where it is
//! kept and who carries it, this crate cannot know.

mod body;
mod caller;
mod dialects;
mod entrance;
mod inbox;
mod measures;
mod moment;
mod operations;
mod problem;

pub use measures::{DURATION_BUCKETS_S, describe};
pub use operations::Readiness;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::get;
use caller::Tokens;
use countersign_core::Core;
use countersign_core::ports::Inbox;
use dialects::ciam;
use entrance::Ids;
use ipnet::IpNet;
use measures::Measures;
use std::fmt;
use std::sync::Arc;
use url::Url;

/// The most bytes that a request may bring along, unless the operator says otherwise. The largest of any dialect is under 4 KiB.
pub const BODY_LIMIT: usize = 64 * 1024;

/// What the doors are lent.
#[derive(Clone)]
pub struct House {
    /// The verbs.
    pub core: Core,
    /// What callers outside call this server by. Access tokens name it as their issuer.
    pub base_url: Url,
    /// The proxies whose word about the caller's address and the request id is taken.
    pub trusted_proxies: Vec<IpNet>,
    /// The most bytes that a request may bring along; [`BODY_LIMIT`] is a good choice.
    pub body_limit: usize,
    /// The messages that were shown instead of sent. Development only: there is no inbox page without it.
    pub inbox: Option<Arc<dyn Inbox>>,
    /// Writes down all measures as Prometheus text.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// Whether the server still takes work.
    pub readiness: Readiness,
}

impl fmt::Debug for House {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("House").field("base_url", &self.base_url.as_str()).finish_non_exhaustive()
    }
}

/// What all doors share.
pub(crate) struct Hall {
    house: House,
    tokens: Tokens,
    measures: Measures,
    ids: Ids,
}

/// Every door of the house.
///
/// The server is expected to put the peer's address into each request as axum's `ConnectInfo<SocketAddr>`; without it no proxy
/// is trusted.
pub fn router(house: House) -> Router {
    let hall = Arc::new(Hall { tokens: Tokens::new(&house.base_url), measures: Measures::new(), ids: Ids::default(), house });
    // The prefix stands twice for clients that were generated from a contract whose paths repeat it (CIAM contract §1.1).
    Router::new()
        .merge(ciam::doors("/ciam-mfa/v2"))
        .merge(ciam::doors("/ciam-mfa/v1"))
        .merge(ciam::early_doors("/ciam-mfa/v1"))
        .merge(ciam::doors("/ciam-mfa/v2/ciam-mfa/v2"))
        .merge(ciam::doors("/ciam-mfa/v1/ciam-mfa/v1"))
        .merge(inbox::doors("/inbox"))
        .route("/healthz", get(operations::healthz))
        .route("/readyz", get(operations::readyz))
        .route("/metrics", get(operations::metrics))
        .fallback(entrance::no_such_door)
        .method_not_allowed_fallback(entrance::no_such_method)
        .layer(from_fn_with_state(hall.clone(), entrance::entrance))
        .with_state(hall)
}
