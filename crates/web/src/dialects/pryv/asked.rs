//! A request of this dialect, read: its body, and the token that it carries (contract §1).

use super::at::{At, Contract};
use super::said::No;
use crate::Hall;
use crate::body::{self, Slip};
use crate::entrance::Caller;
use axum::extract::Request;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use countersign_core::words::secret::Secret;
use serde_json::Value;
use std::net::{IpAddr, Ipv6Addr};

/// The most bytes that a request may bring along.
const BODY_MOST: usize = 100 * 1024;

/// A request, read.
pub(super) struct Asked {
    pub method: Method,
    pub uri: Uri,
    pub headers: HeaderMap,
    /// Where the caller is, for counting tries.
    pub from: String,
    /// The body, when it is labelled JSON; an empty object else.
    pub raw: Vec<u8>,
    /// The same, read: an object or an array.
    pub body: Value,
    /// The place that the body takes up, as long as it is kept.
    _place: Slip,
}

impl Asked {
    /// Reads the body. What is not labelled JSON counts as an empty object.
    pub async fn read(hall: &Hall, at: &At, request: Request) -> Result<Self, No> {
        let (method, uri, headers) = (request.method().clone(), request.uri().clone(), request.headers().clone());
        let from = request.extensions().get::<Caller>().map(|it| neighbourhood(it.0)).unwrap_or_default();
        let kind = headers.get(CONTENT_TYPE).and_then(|it| it.to_str().ok()).unwrap_or_default();
        let is_json = kind.split(';').next().is_some_and(|it| it.trim().eq_ignore_ascii_case("application/json"));
        let brought = body::of_stranger(hall, request, BODY_MOST).await.map_err(|problem| match problem.status {
            StatusCode::PAYLOAD_TOO_LARGE => No::new(problem.status, "unexpected-error", "request entity too large"),
            StatusCode::SERVICE_UNAVAILABLE => No::unavailable(problem.retry_after.unwrap_or_default()),
            status => No::new(status, "unexpected-error", problem.message),
        })?;
        let mut raw = brought.bytes().trim_ascii().to_vec();
        if !is_json || raw.is_empty() {
            raw = b"{}".to_vec();
        }
        let body = serde_json::from_slice(&raw).ok().filter(|it: &Value| it.is_object() || it.is_array());
        let body = body.ok_or_else(|| {
            let id = match at.speaks {
                Contract::V1 => "unexpected-error",
                Contract::V2 => "invalid-request-structure",
            };
            No::bad(id, "The body is not valid JSON.")
        })?;
        Ok(Self { method, uri, headers, from, raw, body, _place: brought })
    }

    /// The token that the request carries: raw, `Basic`, `Bearer`, or `?auth=`.
    pub fn token(&self) -> Option<Secret> {
        token(&self.headers, &self.uri)
    }

    /// The same, or what a core says when it is asked without one.
    pub fn needed_token(&self) -> Result<Secret, No> {
        let what = "The access token is missing: expected an \"Authorization\" header or an \"auth\" query string parameter.";
        self.token().ok_or_else(|| No::new(StatusCode::UNAUTHORIZED, "invalid-access-token", what).by_core())
    }

    /// The same, or what the MFA methods say: `is_mfa` where the token is one of a sign-in.
    pub fn needed_for_mfa(&self, at: &At, is_mfa: bool) -> Result<Secret, No> {
        match (self.token(), at.speaks) {
            (Some(token), _) => Ok(token),
            (None, Contract::V1) => {
                Err(No::new(StatusCode::FORBIDDEN, "forbidden", "Missing 'Authorization' header or 'auth' query parameter."))
            }
            (None, Contract::V2) if is_mfa => Err(No::missing("mfaToken")),
            (None, Contract::V2) => self.needed_token(),
        }
    }
}

/// Where a caller is, as far as one caller cannot choose it: an address, or the network that every IPv6 subscriber has (RFC 6177).
fn neighbourhood(address: IpAddr) -> String {
    match address {
        IpAddr::V4(it) => it.to_string(),
        IpAddr::V6(it) => format!("{}/64", Ipv6Addr::from_bits(it.to_bits() & !u128::from(u64::MAX))),
    }
}

fn token(headers: &HeaderMap, uri: &Uri) -> Option<Secret> {
    let header = headers.get(AUTHORIZATION).and_then(|it| it.to_str().ok()).map(str::trim).filter(|it| !it.is_empty());
    if let Some(text) = header {
        let after = |scheme: &str| {
            let (before, rest) = text.split_at_checked(scheme.len())?;
            before.eq_ignore_ascii_case(scheme).then(|| rest.trim())
        };
        let token = if let Some(encoded) = after("basic ") {
            let plain = String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?;
            plain.split(':').next().unwrap_or_default().to_owned()
        } else if let Some(token) = after("bearer ") {
            token.to_owned()
        } else {
            // What stands behind a blank names the author of a change, and is no part of the token.
            text.split(' ').next().unwrap_or_default().to_owned()
        };
        return Some(token).filter(|it| !it.is_empty()).map(Secret::new);
    }
    let query = uri.query().unwrap_or_default();
    let found = url::form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "auth");
    found.map(|(_, token)| token.into_owned()).filter(|it| !it.is_empty()).map(Secret::new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn a_token_comes_by_every_road() {
        let by = |header: Option<&str>, uri: &'static str| {
            let mut headers = HeaderMap::new();
            if let Some(text) = header {
                headers.insert(AUTHORIZATION, HeaderValue::from_str(text).expect("text"));
            }
            token(&headers, &Uri::from_static(uri)).map(|it| it.reveal().to_owned())
        };
        let basic = format!("Basic {}", STANDARD.encode("tok:rest:"));
        for (header, uri, found) in [
            (Some("tok"), "/", Some("tok")),
            (Some("tok author"), "/", Some("tok")),
            (Some(basic.as_str()), "/", Some("tok")),
            (Some("bEaReR tok"), "/", Some("tok")),
            (None, "/?auth=tok&x=1", Some("tok")),
            (Some("one"), "/?auth=two", Some("one")),
            (Some(""), "/?auth=two", Some("two")),
            (Some("Basic !!"), "/", None),
            (Some("Basic Og=="), "/", None),
            (None, "/", None),
        ] {
            assert_eq!(by(header, uri).as_deref(), found, "{header:?} {uri}");
        }
    }

    #[test]
    fn a_caller_is_counted_by_what_they_cannot_choose() {
        let of = |text: &str| neighbourhood(text.parse().expect("an address"));
        assert_eq!(of("203.0.113.9"), "203.0.113.9");
        assert_eq!((of("2001:db8:1:2::7").as_str(), of("2001:db8:1:2:ffff::1").as_str()), ("2001:db8:1:2::/64", "2001:db8:1:2::/64"));
    }
}
