//! What a request brings along: read within a limit, while there is room, and taken apart into named texts.
//!
//! The clients that exist send beans whose unset fields are `null`, add fields of other calls, and spell names in their own
//! case (CIAM contract §3.1). So names match in any case, `null` and unknown names are as good as absent, and everything
//! that could be meant in two ways is refused.

use crate::Hall;
use crate::measures::NO_ROOM;
use crate::problem::{Envelope, Problem};
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use axum::http::header::CONTENT_LENGTH;
use http_body_util::BodyExt;
use serde::Deserializer as _;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The most bytes that are kept of all bodies of clients at a time, and of those of strangers. Strangers have a share of their
/// own, so that they can turn away each other and nobody else.
const CLIENTS_SHARE: usize = 24 * 1024 * 1024;
const STRANGERS_SHARE: usize = 8 * 1024 * 1024;

/// The most that anybody may bring along who has not said yet who they are. A token request is a few hundred.
const STRANGERS_LIMIT: usize = 4096;

/// When to come back if there is no room.
const NO_ROOM_FOR: Duration = Duration::from_secs(1);

/// The room for bodies: every byte has a place, or is not taken.
pub(crate) struct Room {
    clients: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
}

impl Default for Room {
    fn default() -> Self {
        Self { clients: Arc::new(Semaphore::new(CLIENTS_SHARE)), strangers: Arc::new(Semaphore::new(STRANGERS_SHARE)) }
    }
}

/// The whole body of a client, within the limit.
///
/// An extractor behind [`By`](crate::dialects::ciam): whoever has no token is turned away before anything is read.
pub(crate) struct Sheet(Whole);

/// The whole body of somebody who is not known yet.
pub(crate) struct Slip(Whole);

/// Bytes, and their places.
struct Whole {
    bytes: Vec<u8>,
    _places: Option<OwnedSemaphorePermit>,
}

impl Sheet {
    pub fn bytes(&self) -> &[u8] {
        &self.0.bytes
    }
}

impl Slip {
    pub fn bytes(&self) -> &[u8] {
        &self.0.bytes
    }
}

/// The whole body of somebody who is not known yet, in a dialect that allows `most` bytes.
pub(crate) async fn of_stranger(hall: &Hall, request: Request, most: usize) -> Result<Slip, Problem> {
    read(request, most, &hall.room.strangers).await.map(Slip)
}

impl FromRequest<Arc<Hall>> for Sheet {
    type Rejection = Problem;

    async fn from_request(request: Request, hall: &Arc<Hall>) -> Result<Self, Problem> {
        read(request, hall.house.body_limit, &hall.room.clients).await.map(Self)
    }
}

impl FromRequest<Arc<Hall>> for Slip {
    type Rejection = Problem;

    async fn from_request(request: Request, hall: &Arc<Hall>) -> Result<Self, Problem> {
        read(request, hall.house.body_limit.min(STRANGERS_LIMIT), &hall.room.strangers).await.map(Self)
    }
}

/// Takes a place for each byte when it is there, not when it is announced: announcing costs a caller nothing. Copies, because a
/// piece of a body keeps the whole buffer that it came in.
async fn read(request: Request, limit: usize, room: &Arc<Semaphore>) -> Result<Whole, Problem> {
    let envelope = Envelope::of(request.uri().path());
    let problem = |status, message: Cow<'static, str>| Problem::new(status, envelope.code(status), message);
    let too_large = || problem(StatusCode::PAYLOAD_TOO_LARGE, format!("The body is larger than {limit} bytes").into());
    let announced = request.headers().get(CONTENT_LENGTH).and_then(|it| it.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > limit as u64) {
        return Err(too_large());
    }
    let mut body = request.into_body();
    let (mut bytes, mut places) = (Vec::new(), None::<OwnedSemaphorePermit>);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| problem(StatusCode::BAD_REQUEST, "The body did not arrive completely".into()))?;
        let Ok(piece) = frame.into_data() else { continue };
        if piece.len() > limit - bytes.len() {
            return Err(too_large());
        }
        let taken = u32::try_from(piece.len()).ok().and_then(|it| room.clone().try_acquire_many_owned(it).ok());
        let Some(taken) = taken else {
            metrics::counter!(NO_ROOM).increment(1);
            let status = StatusCode::SERVICE_UNAVAILABLE;
            return Err(Problem {
                retry_after: Some(NO_ROOM_FOR),
                ..problem(status, "Too much is being sent here at the moment, please try again shortly".into())
            });
        };
        match &mut places {
            Some(places) => places.merge(taken),
            None => places = Some(taken),
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(Whole { bytes, _places: places })
}

/// What is wrong with a body.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadBody {
    #[error("The body is empty, a JSON object was expected")]
    Empty,
    #[error("The body is not a JSON object: see line {line}, column {column}")]
    NotAnObject { line: usize, column: usize },
    #[error("{0} must be a string")]
    NotText(&'static str),
    #[error("{0} is there more than once")]
    Twice(&'static str),
}

/// Named texts, each at most once.
type Texts<const N: usize> = [Option<String>; N];

/// Takes the texts called `names` out of a JSON object.
pub(crate) fn json<const N: usize>(body: &[u8], names: [&'static str; N]) -> Result<Texts<N>, BadBody> {
    if body.trim_ascii().is_empty() {
        return Err(BadBody::Empty);
    }
    let mut reader = serde_json::Deserializer::from_slice(body);
    let read = reader.deserialize_map(Object(names)).and_then(|found| reader.end().map(|()| found));
    read.map_err(|error| BadBody::NotAnObject { line: error.line(), column: error.column() })?
}

/// Takes the texts called `names` out of an HTML form (`application/x-www-form-urlencoded`).
pub(crate) fn form<const N: usize>(body: &[u8], names: [&'static str; N]) -> Result<Texts<N>, BadBody> {
    let mut found = [const { None }; N];
    for (name, value) in url::form_urlencoded::parse(body) {
        let Some(at) = names.iter().position(|it| it.eq_ignore_ascii_case(&name)) else { continue };
        if found[at].replace(value.into_owned()).is_some() {
            return Err(BadBody::Twice(names[at]));
        }
    }
    Ok(found)
}

struct Object<const N: usize>([&'static str; N]);

impl<'de, const N: usize> Visitor<'de> for Object<N> {
    type Value = Result<Texts<N>, BadBody>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    /// Reads to the end in any case: a body that is no JSON is told as such, whatever else is wrong with it.
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let Self(names) = self;
        let mut found = [const { None }; N];
        let mut bad = None;
        while let Some(name) = map.next_key::<Cow<'de, str>>()? {
            let Some(at) = names.iter().position(|it| it.eq_ignore_ascii_case(&name)) else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let value = map.next_value::<&'de RawValue>()?.get();
            match serde_json::from_str::<String>(value) {
                _ if value == "null" => {}
                Ok(text) => {
                    if found[at].replace(text).is_some() {
                        bad.get_or_insert(BadBody::Twice(names[at]));
                    }
                }
                Err(_) => {
                    bad.get_or_insert(BadBody::NotText(names[at]));
                }
            }
        }
        Ok(bad.map_or(Ok(found), Err))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestHouse;
    use axum::body::{Body, Bytes};
    use tower::ServiceExt;

    const NAMES: [&str; 2] = ["deviceName", "otp"];

    #[tokio::test]
    async fn strangers_take_up_their_own_room_only_and_leave_it_with_their_requests() {
        let house = TestHouse::new().await;
        let token = house.token().await;
        let stuck = |piece: usize| {
            let (say, heard) = tokio::sync::mpsc::channel::<Bytes>(1);
            say.try_send(vec![b'x'; piece].into()).expect("room in it");
            (say, Request::post("/ciam-mfa/v2/get/token").body(Body::new(Slow(heard))).expect("a request"))
        };
        let mut waiting = Vec::new();
        for _ in 0..STRANGERS_SHARE / STRANGERS_LIMIT {
            let (say, request) = stuck(STRANGERS_LIMIT);
            waiting.push((say, tokio::spawn(house.doors.clone().oneshot(request))));
        }
        for _ in &waiting {
            tokio::task::yield_now().await;
        }
        let refused = house.post("/ciam-mfa/v2/get/token", "x").await;
        assert_eq!((refused.status, refused.headers["retry-after"].as_bytes()), (StatusCode::SERVICE_UNAVAILABLE, &b"1"[..]));
        assert_eq!(refused.json()["code"], "10015");
        let client = Request::post("/ciam-mfa/v2/deviceAuthentications").header("authorization", format!("Bearer {token}"));
        let answered = house.ask(client.body(Body::from("{}")).expect("a request")).await;
        assert_eq!(answered.json()["code"], "10005", "clients have room: {}", answered.body);
        for (say, request) in waiting {
            drop(say);
            request.await.expect("no panic").expect("infallible");
        }
        assert_eq!(house.post("/ciam-mfa/v2/get/token", "x").await.json()["code"], "10028");
    }

    #[tokio::test]
    async fn who_is_not_known_yet_may_bring_little() {
        let house = TestHouse::new().await;
        for (length, status) in [(STRANGERS_LIMIT, 400), (STRANGERS_LIMIT + 1, 413)] {
            assert_eq!(house.post("/ciam-mfa/v2/get/token", "x".repeat(length)).await.status, status);
        }
    }

    /// A body that comes as it is said.
    struct Slow(tokio::sync::mpsc::Receiver<Bytes>);

    impl hyper::body::Body for Slow {
        type Data = Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(
            mut self: std::pin::Pin<&mut Self>,
            cx: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Self::Error>>> {
            self.0.poll_recv(cx).map(|said| said.map(|it| Ok(hyper::body::Frame::data(it))))
        }
    }

    fn read(body: &str) -> Result<(Option<String>, Option<String>), BadBody> {
        json(body.as_bytes(), NAMES).map(|[name, otp]| (name, otp))
    }

    #[test]
    fn names_match_in_any_case_and_what_is_null_or_unknown_is_absent() {
        let body = r#" {"devicename":"phone","OTP":null,"policy":null,"rp":{"id":[1,{"otp":"9"}]}} "#;
        assert_eq!(read(body), Ok((Some("phone".into()), None)));
        assert_eq!(read("{}"), Ok((None, None)));
        assert_eq!(read(r#"{"otp":"\u0035","devic\u0065Name":"a\"b"}"#), Ok((Some("a\"b".into()), Some("5".into()))));
    }

    #[test]
    fn a_name_that_is_there_twice_is_refused_unless_all_but_one_are_null() {
        assert_eq!(read(r#"{"otp":"1","OTP":"2"}"#), Err(BadBody::Twice("otp")));
        assert_eq!(read(r#"{"otp":"1","otp":"1"}"#), Err(BadBody::Twice("otp")));
        assert_eq!(read(r#"{"deviceName":null,"devicename":"x"}"#), Ok((Some("x".into()), None)));
    }

    #[test]
    fn what_is_no_text_is_told_by_its_name() {
        for value in ["523471", "true", "[]", "{}", "[\"523471\"]", r#""\ud800""#] {
            assert_eq!(read(&format!(r#"{{"otp":{value}}}"#)), Err(BadBody::NotText("otp")), "{value}");
        }
    }

    #[test]
    fn what_is_no_object_is_told_with_its_place() {
        for body in ["[]", "\"otp\"", "{", r#"{"otp":"1"} x"#, r#"{"otp":"1",}"#, "otp=523471", "\u{feff}{}", r#"{"otp":1"#] {
            assert!(matches!(read(body), Err(BadBody::NotAnObject { .. })), "{body}");
        }
        assert_eq!(json(b"{\"otp\":\"\xff\"}", NAMES).map(|_| ()), Err(BadBody::NotAnObject { line: 1, column: 9 }));
        assert_eq!(read(" \n"), Err(BadBody::Empty));
    }

    #[test]
    fn a_form_is_read_like_an_object() {
        assert_eq!(form(b"OTP=52%203471&x=1&deviceName=a+b", NAMES), Ok([Some("a b".into()), Some("52 3471".into())]));
        assert_eq!(form(b"otp=1&OTP=2", NAMES), Err(BadBody::Twice("otp")));
        assert_eq!(form(b"", NAMES), Ok([None, None]));
    }
}
