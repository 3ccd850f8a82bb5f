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
#[cfg(test)]
mod testing;

pub use dialects::pryv;
pub use entrance::Misaddressed;
pub use measures::{DURATION_BUCKETS_S, describe};
pub use operations::Readiness;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::get;
use body::Room;
use caller::Tokens;
use countersign_core::Core;
use countersign_core::ports::{Inbox, Outbound};
use dialects::ciam;
use entrance::Ids;
use ipnet::IpNet;
use measures::Measures;
use operations::Probe;
use std::fmt;
use std::sync::Arc;
use url::Url;

/// The most bytes that a request may bring along, unless the operator says otherwise or the dialect has a bound of its own.
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
    /// The way to servers that a dialect stands in front of.
    pub outbound: Arc<dyn Outbound>,
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
    room: Room,
    probe: Probe,
    /// Tenants that are found by the host that is asked.
    doors: pryv::Doors,
}

/// Every door of the house.
///
/// The server is expected to put the peer's address into each request as axum's `ConnectInfo<SocketAddr>`; without it no proxy
/// is trusted.
pub fn router(house: House) -> Router {
    let hall = Arc::new(Hall {
        tokens: Tokens::new(&house.base_url),
        measures: Measures::new(),
        ids: Ids::default(),
        room: Room::default(),
        probe: Probe::default(),
        doors: pryv::Doors::default(),
        house,
    });
    // The prefix stands twice for clients that were generated from a contract whose paths repeat it (CIAM contract §1.1).
    Router::new()
        .merge(ciam::doors("/ciam-mfa/v2"))
        .merge(ciam::doors("/ciam-mfa/v1"))
        .merge(ciam::early_doors("/ciam-mfa/v1"))
        .merge(ciam::doors("/ciam-mfa/v2/ciam-mfa/v2"))
        .merge(ciam::doors("/ciam-mfa/v1/ciam-mfa/v1"))
        .merge(pryv::doors())
        .merge(inbox::doors("/inbox"))
        .route("/healthz", get(operations::healthz))
        .route("/readyz", get(operations::readyz))
        .route("/metrics", get(operations::metrics))
        .fallback(entrance::no_such_door)
        .method_not_allowed_fallback(entrance::no_such_method)
        .layer(from_fn_with_state(hall.clone(), entrance::entrance))
        .with_state(hall)
}

#[cfg(test)]
mod tests {
    use crate::testing::TestHouse;
    use axum::body::Body;
    use axum::extract::ConnectInfo;
    use axum::http::{Method, Request, StatusCode};
    use std::net::SocketAddr;
    use std::sync::atomic::Ordering;

    #[tokio::test]
    async fn every_answer_carries_its_request_id_and_an_error_repeats_it() {
        let house = TestHouse::new().await;
        for path in ["/healthz", "/readyz", "/metrics", "/nowhere", "/inbox", "/ciam-mfa/v2/nowhere"] {
            let heard = house.get(path).await;
            let id = heard.headers["x-request-id"].to_str().expect("text").to_owned();
            assert!(id.len() == 32 && id.bytes().all(|it| it.is_ascii_hexdigit()), "{path}: {id}");
            if heard.status == StatusCode::NOT_FOUND {
                assert!(heard.body.contains(&id), "{path}: {}", heard.body);
            }
        }
    }

    #[tokio::test]
    async fn a_request_id_is_taken_from_a_trusted_proxy_and_from_nobody_else() {
        let house = TestHouse::new().await;
        for (peer, taken) in [("10.1.2.3:99", true), ("203.0.113.9:99", false)] {
            let request = Request::get("/healthz")
                .header("x-request-id", "0063f27c-787b-4046-8b8e-a75e241b5ea6")
                .extension(ConnectInfo(peer.parse::<SocketAddr>().expect("an address")));
            let heard = house.ask(request.body(Body::empty()).expect("a request")).await;
            assert_eq!(heard.headers["x-request-id"] == "0063f27c787b40468b8ea75e241b5ea6", taken, "{peer}");
        }
    }

    #[tokio::test]
    async fn a_path_that_leads_nowhere_is_told_in_the_words_of_its_dialect() {
        let house = TestHouse::new().await;
        let dialect = house.get("/ciam-mfa/v2/nowhere").await;
        assert_eq!(
            (dialect.status, &dialect.headers["content-type"]),
            (StatusCode::NOT_FOUND, &"application/json".parse().expect("a value"))
        );
        assert_eq!(dialect.json()["code"], "10005");
        assert_eq!(dialect.json()["timestamp"], "2030-01-01-12.00.00");
        let plain = house.get("/nowhere").await;
        assert_eq!((plain.status, plain.json()["status"].as_u64()), (StatusCode::NOT_FOUND, Some(404)));
        assert_eq!(plain.headers["content-type"], "application/problem+json");
    }

    #[tokio::test]
    async fn a_wrong_method_is_told_which_methods_would_be_right() {
        let house = TestHouse::new().await;
        let heard = house
            .ask(Request::builder().method(Method::PUT).uri("/ciam-mfa/v1/users/jdoe/mfadevices").body(Body::empty()).expect("a request"))
            .await;
        assert_eq!(heard.status, StatusCode::METHOD_NOT_ALLOWED);
        let allowed = heard.headers["allow"].to_str().expect("text");
        assert!(allowed.contains("GET") && allowed.contains("POST"), "{allowed}");
        assert_eq!(heard.json()["code"], "10005");
        assert_eq!(house.post("/healthz", "").await.status, StatusCode::METHOD_NOT_ALLOWED);
    }

    #[tokio::test(start_paused = true)]
    async fn the_server_is_alive_without_its_store_and_ready_only_with_it() {
        let house = TestHouse::new().await;
        assert_eq!(house.get("/readyz").await.json()["status"], "ready");
        house.store.away.store(true, Ordering::SeqCst);
        tokio::time::advance(std::time::Duration::from_secs(1)).await;
        let unready = house.get("/readyz").await;
        assert_eq!(unready.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(unready.json()["reasons"][0], "storage is unavailable: unplugged");
        assert_eq!(house.get("/healthz").await.body, "ok");
        house.store.away.store(false, Ordering::SeqCst);
        house.house.readiness.drain();
        assert_eq!(house.get("/readyz").await.json()["reasons"][0], "the server is stopping");
    }

    #[tokio::test]
    async fn a_store_that_is_away_is_told_with_the_time_to_try_again_and_without_detail() {
        let house = TestHouse::new().await;
        house.store.away.store(true, Ordering::SeqCst);
        house.clock.pass(std::time::Duration::from_secs(10));
        let body = format!("grant_type=client_credentials&client_id={}&client_secret=x", house.client_id);
        let heard = house.post("/ciam-mfa/v2/get/token", body).await;
        assert_eq!((heard.status, heard.headers["retry-after"].as_bytes()), (StatusCode::SERVICE_UNAVAILABLE, &b"2"[..]));
        assert_eq!(heard.json()["code"], "10015");
        assert!(!heard.body.contains("unplugged"));
    }

    #[tokio::test]
    async fn a_request_to_another_host_is_refused_in_the_words_of_its_dialect() {
        let house = TestHouse::new().await;
        for path in ["/ciam-mfa/v2/get/token", "/healthz"] {
            let request = Request::get(path).extension(crate::Misaddressed("there is no Host header"));
            let heard = house.ask(request.body(Body::empty()).expect("a request")).await;
            assert_eq!(heard.status, StatusCode::BAD_REQUEST);
            let id = heard.headers["x-request-id"].to_str().expect("text");
            match path {
                "/healthz" => {
                    assert_eq!((&heard.json()["requestId"], &heard.json()["detail"]), (&id.into(), &"there is no Host header".into()))
                }
                _ => assert_eq!((&heard.json()["traceId"], &heard.json()["code"]), (&id.into(), &"10005".into())),
            }
        }
    }

    #[tokio::test]
    async fn what_is_too_large_is_refused_whether_it_is_announced_or_not() {
        let house = TestHouse::with(|house| crate::House { body_limit: 100, ..house }).await;
        let large = "x".repeat(101);
        let announced = Request::post("/ciam-mfa/v2/get/token").header("content-length", "101").body(Body::from(large.clone()));
        for request in [announced, Request::post("/ciam-mfa/v2/get/token").body(Body::new(http_body_util::Full::from(large)))] {
            let heard = house.ask(request.expect("a request")).await;
            assert_eq!((heard.status, heard.json()["code"].as_str()), (StatusCode::PAYLOAD_TOO_LARGE, Some("10005")));
        }
        assert_eq!(house.post("/ciam-mfa/v2/get/token", "x".repeat(100)).await.json()["code"], "10028");
    }

    #[tokio::test]
    async fn what_was_counted_is_handed_out_as_it_is() {
        assert_eq!(TestHouse::new().await.get("/metrics").await.body, "answers 42\n");
    }
}
