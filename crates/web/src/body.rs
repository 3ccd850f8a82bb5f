//! What a request brings along: read within a limit, and taken apart into named texts.
//!
//! The clients that exist send beans whose unset fields are `null`, add fields of other calls, and spell names in their own
//! case (CIAM contract §3.1). So names match in any case, `null` and unknown names are as good as absent, and everything
//! that could be meant in two ways is refused.

use crate::Hall;
use crate::problem::{Envelope, Problem};
use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use axum::http::header::CONTENT_LENGTH;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::Deserializer as _;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

/// The whole body, within the limit.
pub(crate) struct Sheet(pub Bytes);

impl FromRequest<Arc<Hall>> for Sheet {
    type Rejection = Problem;

    async fn from_request(request: Request, hall: &Arc<Hall>) -> Result<Self, Problem> {
        let limit = hall.house.body_limit;
        let envelope = Envelope::of(request.uri().path());
        let problem = |status, message| Problem::new(status, envelope.code(status), message);
        let too_large = || problem(StatusCode::PAYLOAD_TOO_LARGE, format!("The body is larger than {limit} bytes"));
        let announced = request.headers().get(CONTENT_LENGTH).and_then(|it| it.to_str().ok()?.parse::<u64>().ok());
        if announced.is_some_and(|length| length > limit as u64) {
            return Err(too_large());
        }
        match Limited::new(request.into_body(), limit).collect().await {
            Ok(whole) => Ok(Self(whole.to_bytes())),
            Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
            Err(_) => Err(problem(StatusCode::BAD_REQUEST, "The body did not arrive completely".to_owned())),
        }
    }
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

    const NAMES: [&str; 2] = ["deviceName", "otp"];

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
