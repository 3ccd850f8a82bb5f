//! The entrance: what every request passes on its way in, and every answer on its way out.
//!
//! Owns the request id, the caller's address, the span, the catching of panics, and the duration. One function and no stack of
//! layers: this is on the way of every verification.

use crate::Hall;
use crate::dialects::pryv;
use crate::measures::method_name;
use crate::problem::{Envelope, Problem};
use axum::extract::{ConnectInfo, MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use countersign_core::ports::Chance;
use ipnet::IpNet;
use std::future::{Future, poll_fn};
use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Instant;
use tracing::Instrument;

static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
static FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// What one request is called in logs and answers: 32 lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RequestId([u8; 32]);

impl RequestId {
    fn from_random(random: [u8; 16]) -> Self {
        let digit = |nibble: u8| b"0123456789abcdef"[usize::from(nibble)];
        let mut text = [0; 32];
        for (pair, byte) in text.chunks_exact_mut(2).zip(random) {
            pair.copy_from_slice(&[digit(byte >> 4), digit(byte & 15)]);
        }
        Self(text)
    }

    /// Takes 32 hexadecimal digits, with or without the hyphens of a UUID.
    fn parse(text: &[u8]) -> Option<Self> {
        let hyphens_fit = match text.len() {
            32 => !text.contains(&b'-'),
            36 => [8, 13, 18, 23].iter().all(|&at| text[at] == b'-'),
            _ => false,
        };
        let mut digits = text.iter().filter(|&&it| it != b'-').map(u8::to_ascii_lowercase);
        let mut id = [0; 32];
        for place in &mut id {
            *place = digits.next().filter(u8::is_ascii_hexdigit)?;
        }
        (hyphens_fit && digits.next().is_none()).then_some(Self(id))
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("hexadecimal digits are ASCII")
    }
}

/// Request ids in stock: they only must differ, so chance is asked once for 256 of them.
#[derive(Default)]
pub(crate) struct Ids(Mutex<Vec<[u8; 16]>>);

impl Ids {
    const STOCK: usize = 256;

    fn draw(&self, chance: &dyn Chance) -> RequestId {
        let mut stock = self.0.lock().expect("nobody panics while holding it");
        if stock.is_empty() {
            let mut random = [0; 16 * Self::STOCK];
            chance.fill(&mut random);
            stock.extend(random.as_chunks().0);
        }
        RequestId::from_random(stock.pop().expect("it was just filled"))
    }
}

/// Put into a request by the server where its Host header is missing, is none, or is not the host of the request; it says why.
/// Such a request is refused before any door sees it, in the words of its dialect and with its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Misaddressed(pub &'static str);

/// Where the caller is, as far as trusted proxies tell. In each request that came over a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Caller(pub IpAddr);

/// Lets a request in and its answer out.
pub(crate) async fn entrance(State(hall): State<Arc<Hall>>, mut request: Request, next: Next) -> Response {
    let began = Instant::now();
    let trusted = &hall.house.trusted_proxies;
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|it| it.0.ip().to_canonical());
    let by_proxy = peer.is_some_and(|it| trusts(trusted, it));
    let caller = if by_proxy { peer.map(|it| address(it, request.headers(), trusted)) } else { peer };
    if let Some(caller) = caller {
        request.extensions_mut().insert(Caller(caller));
    }
    let given = by_proxy.then(|| request.headers().get(&REQUEST_ID)).flatten();
    let id = given.and_then(|it| RequestId::parse(it.as_bytes())).unwrap_or_else(|| hall.ids.draw(hall.house.core.chance()));
    let envelope = Envelope::of(request.uri().path());
    let method = request.method().clone();
    // The pattern and never the path: a path holds what applications call their people (invariant 7).
    let pattern = request.extensions().get::<MatchedPath>().cloned();
    let route = pattern.as_ref().map_or("unmatched", MatchedPath::as_str);
    let span = tracing::info_span!(
        "request",
        request.id = id.as_str(),
        http.request.method = method_name(&method),
        http.route = route,
        client.address = caller.map(tracing::field::display),
    );
    let answer = match request.extensions().get::<Misaddressed>() {
        Some(Misaddressed(why)) => {
            let status = StatusCode::BAD_REQUEST;
            Ok(Problem::new(status, envelope.code(status), *why).into_response())
        }
        None => unwound(next.run(request)).instrument(span.clone()).await,
    };
    let _in_span = span.enter();
    let mut response = answer.unwrap_or_else(|what| {
        tracing::error!("The handler panicked: {what}");
        Problem::broken(envelope.code(StatusCode::INTERNAL_SERVER_ERROR)).into_response()
    });
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        envelope.enclose(&problem, &id, hall.house.core.now(), &mut response);
    }
    let text = HeaderValue::from_bytes(&id.0).expect("hexadecimal digits fit into a header");
    response.headers_mut().insert(REQUEST_ID.clone(), text);
    let (status, took) = (response.status(), began.elapsed());
    hall.measures.answered(&method, route, status, took);
    tracing::debug!(http.response.status_code = status.as_u16(), duration_us = took.as_micros() as u64, "Answered");
    response
}

/// No door has this path. Where a tenant speaks a dialect at this host, its words are used.
pub(crate) async fn no_such_door(State(hall): State<Arc<Hall>>, request: Request) -> Response {
    let uri = request.uri().clone();
    match Envelope::of(uri.path()) {
        Envelope::Ciam => nothing_here(&uri).into_response(),
        Envelope::Pryv | Envelope::Plain => match pryv::no_such_door(&hall, request).await {
            Some(response) => response,
            None => nothing_here(&uri).into_response(),
        },
    }
}

/// There is nothing at this path.
pub(crate) fn nothing_here(uri: &Uri) -> Problem {
    let status = StatusCode::NOT_FOUND;
    Problem::new(status, Envelope::of(uri.path()).code(status), "There is nothing at this path")
}

/// The door takes other methods; the router adds which (`Allow`, RFC 9110 §15.5.6).
pub(crate) async fn no_such_method(uri: Uri) -> Problem {
    let status = StatusCode::METHOD_NOT_ALLOWED;
    Problem::new(status, Envelope::of(uri.path()).code(status), "This path takes other methods, see the Allow header")
}

/// The answer of `work`, or the kind of panic that it died of. What a panic says may hold anything, so it is not passed on; the
/// panic hook has seen it.
async fn unwound<T>(work: impl Future<Output = T>) -> Result<T, &'static str> {
    let mut work = pin!(work);
    poll_fn(move |cx| match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx))) {
        Ok(poll) => poll.map(Ok),
        Err(_) => Poll::Ready(Err("see the panic's own line")),
    })
    .await
}

fn trusts(proxies: &[IpNet], address: IpAddr) -> bool {
    proxies.iter().any(|net| net.contains(&address))
}

/// Who really asks, when the peer is a trusted proxy: the rightmost hop that is none. What stands left of it, anybody may have
/// written. Where `X-Forwarded-For` and `Forwarded` (RFC 7239) disagree, a caller has written one of them, and neither is taken.
fn address(peer: IpAddr, headers: &HeaderMap, proxies: &[IpNet]) -> IpAddr {
    let elements = |name: &HeaderName| {
        let lines: Vec<&str> = headers.get_all(name).iter().map(|it| it.to_str().unwrap_or("?")).collect();
        lines.into_iter().flat_map(|line| line.split(',')).map(str::trim).collect::<Vec<_>>()
    };
    let walk = |hops: &mut dyn Iterator<Item = Option<IpAddr>>| {
        let mut nearest = peer;
        for hop in hops {
            let Some(hop) = hop else { break };
            nearest = hop;
            if !trusts(proxies, hop) {
                break;
            }
        }
        nearest
    };
    let listed = elements(&FORWARDED_FOR);
    let forwarded = elements(&axum::http::header::FORWARDED);
    let by_list = (!listed.is_empty()).then(|| walk(&mut listed.iter().rev().map(|it| hop(it))));
    let by_standard = (!forwarded.is_empty()).then(|| walk(&mut forwarded.iter().rev().map(|it| forwarded_for(it))));
    match (by_list, by_standard) {
        (Some(one), Some(other)) if one != other => peer,
        (Some(found), _) | (None, Some(found)) => found,
        (None, None) => peer,
    }
}

/// One hop: an address, with or without a port.
fn hop(text: &str) -> Option<IpAddr> {
    let bare = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    let with_port = || text.parse::<SocketAddr>().ok().map(|it| it.ip());
    text.parse().ok().or_else(with_port).or_else(bare).map(|it: IpAddr| it.to_canonical())
}

/// The `for` of one element of `Forwarded`; nothing when it is hidden or absent (RFC 7239 §6).
fn forwarded_for(element: &str) -> Option<IpAddr> {
    let pairs = element.split(';').filter_map(|pair| pair.trim().split_once('='));
    pairs.into_iter().find(|(name, _)| name.eq_ignore_ascii_case("for")).and_then(|(_, value)| hop(value.trim_matches('"')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(peer: &str, headers: &[(&'static str, &'static str)]) -> String {
        let proxies = ["10.0.0.0/8".parse().expect("net"), "fd00::/8".parse().expect("net")];
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_static(value));
        }
        address(peer.parse().expect("address"), &map, &proxies).to_string()
    }

    #[test]
    fn the_caller_is_the_rightmost_hop_that_is_no_trusted_proxy() {
        assert_eq!(caller("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(caller("10.0.0.1", &[("x-forwarded-for", "203.0.113.9")]), "203.0.113.9");
        assert_eq!(caller("10.0.0.1", &[("x-forwarded-for", "6.6.6.6, 203.0.113.9, 10.0.0.2")]), "203.0.113.9");
        assert_eq!(caller("10.0.0.1", &[("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "203.0.113.9:4711")]), "203.0.113.9");
        assert_eq!(caller("10.0.0.1", &[("x-forwarded-for", "10.0.0.3, 10.0.0.2")]), "10.0.0.3");
        assert_eq!(caller("10.0.0.1", &[("x-forwarded-for", "203.0.113.9, nonsense, 10.0.0.2")]), "10.0.0.2");
        assert_eq!(caller("10.0.0.1", &[("x-forwarded-for", "[2001:db8::7]:99")]), "2001:db8::7");
        assert_eq!(caller("10.0.0.1", &[("x-forwarded-for", "::ffff:203.0.113.9")]), "203.0.113.9");
    }

    #[test]
    fn the_standard_header_is_read_and_a_contradiction_is_believed_by_nobody() {
        assert_eq!(caller("fd00::1", &[("forwarded", "for=6.6.6.6, for=\"[2001:db8::7]:99\";proto=https")]), "2001:db8::7");
        assert_eq!(caller("fd00::1", &[("forwarded", "for=_hidden, for=10.1.1.1;by=10.0.0.1")]), "10.1.1.1");
        assert_eq!(caller("fd00::1", &[("forwarded", "for=203.0.113.9"), ("x-forwarded-for", "203.0.113.9")]), "203.0.113.9");
        assert_eq!(caller("fd00::1", &[("forwarded", "for=6.6.6.6"), ("x-forwarded-for", "203.0.113.9")]), "fd00::1");
    }

    #[test]
    fn a_request_id_is_taken_as_32_digits_or_as_a_uuid_and_as_nothing_else() {
        let id = |text: &str| RequestId::parse(text.as_bytes()).map(|it| it.as_str().to_owned());
        let digits = Some("0063f27c787b40468b8ea75e241b5ea6".to_owned());
        assert_eq!(id("0063f27c787b40468b8ea75e241b5ea6"), digits);
        assert_eq!(id("0063F27C-787B-4046-8B8E-A75E241B5EA6"), digits);
        for text in [
            "",
            "0063f27c",
            "0063f27c787b40468b8ea75e241b5ea6a",
            "0063f27c787b40468b8ea75e241b5eag",
            "----f27c-787b-4046-8b8e-a75e241b5ea6",
            "0063-f27c787b40468b8ea75e241b5ea",
        ] {
            assert_eq!(id(text), None, "{text}");
        }
    }

    #[test]
    fn ids_differ_and_are_made_of_chance() {
        let (ids, chance) = (Ids::default(), countersign_core::ports::test::Script::default());
        let drawn: std::collections::BTreeSet<_> = (0..600).map(|_| ids.draw(&chance).as_str().to_owned()).collect();
        assert_eq!(drawn.len(), 600);
    }

    #[tokio::test]
    async fn a_panic_is_caught_and_an_answer_passes() {
        assert_eq!(unwound(async { 7 }).await, Ok(7));
        assert!(unwound(async { assert!(std::hint::black_box(false), "on purpose") }).await.is_err());
    }
}
