//! What is said: answers and errors of both generations (contract §1, §3), and the headers that all of them carry.

use super::place::At;
use super::settings::Generation;
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, CACHE_CONTROL,
    CONTENT_TYPE, ORIGIN, RETRY_AFTER,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use countersign_core::words::refusal::{Error, Fault, Refusal};
use countersign_core::words::time::Timestamp;
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::time::Duration;

static API_VERSION: HeaderName = HeaderName::from_static("api-version");

/// A no, on its way to the caller.
#[derive(Debug, Clone)]
pub(super) struct No {
    pub status: StatusCode,
    pub id: Cow<'static, str>,
    pub message: Cow<'static, str>,
    /// More, for programs. The first generation's MFA service never sends it.
    pub data: Option<Box<Value>>,
    /// Whose word it is.
    pub by: By,
    pub retry_after: Option<Duration>,
}

/// Whose word an answer is. The first generation is two programs, and only one of them says `meta`.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum By {
    /// The MFA service.
    Mfa,
    /// The core, which we are.
    Core,
    /// The core that we stand in front of, with the `meta` that it said.
    Upstream(Option<Box<Value>>),
}

impl No {
    pub fn new(status: StatusCode, id: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self { status, id: id.into(), message: message.into(), data: None, by: By::Mfa, retry_after: None }
    }

    pub fn bad(id: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, id, message)
    }

    /// As the core says it.
    pub fn by_core(self) -> Self {
        Self { by: By::Core, ..self }
    }

    pub fn with(self, data: Value) -> Self {
        Self { data: Some(Box::new(data)), ..self }
    }

    /// A parameter of the body that is not what it should be, as the core tells it.
    pub fn parameter(code: &'static str, params: Value, message: String, path: &str) -> Self {
        let data = json!([{ "code": code, "params": params, "message": message, "path": path }]);
        Self::bad("invalid-parameters-format", "The parameters' format is invalid.").with(data)
    }

    /// There is nothing of this name.
    pub fn unknown_resource(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "unknown-resource", message)
    }

    /// An accident: logged here, once, and told without detail (invariant 12).
    pub fn fault(fault: &Fault) -> Self {
        tracing::error!("The request failed: {fault}");
        match fault {
            Fault::Unavailable { retry_after, .. } => Self::unavailable(*retry_after),
            Fault::Contended | Fault::Corrupt(_) => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "unexpected-error", "Something went wrong here.")
            }
        }
    }

    pub fn unavailable(retry_after: Duration) -> Self {
        let what = "The service is unavailable for the moment, please try again shortly.";
        Self { retry_after: Some(retry_after), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "api-unavailable", what) }
    }

    /// The messaging service did not do what it should. Nothing of what it said is told (contract §9, property 7).
    pub fn messaging(generation: Generation) -> Self {
        match generation {
            Generation::V1 | Generation::ByClient => {
                Self::bad("messaging-server-error", "Error from messaging service. Error message: \"the request was not accepted\"")
            }
            Generation::V2 => Self::bad("invalid-operation", "MFA SMS provider error: the request was not accepted")
                .with(json!({ "id": "mfa-sms-provider-error" })),
        }
    }

    /// A token of a sign-in that is none, is over, or is somebody else's.
    pub fn session(generation: Generation) -> Self {
        match generation {
            Generation::V1 | Generation::ByClient => Self::new(StatusCode::FORBIDDEN, "forbidden", "Invalid MFA session token."),
            Generation::V2 => Self::new(StatusCode::UNAUTHORIZED, "invalid-access-token", "Invalid or expired MFA session token."),
        }
    }

    /// A code that is not the right one: `shown` is what was sent.
    pub fn code(generation: Generation, shown: &str) -> Self {
        let shown: String = shown.chars().take(64).collect();
        match generation {
            Generation::V1 | Generation::ByClient => Self::bad("invalid-code", format!("The provided code is invalid: {shown}")),
            Generation::V2 => Self::bad("invalid-parameters-format", format!("The provided MFA code is invalid: {shown}"))
                .with(json!({ "id": "invalid-mfa-code" })),
        }
    }

    /// The words for a refusal. There is no wildcard arm: a new refusal must be given words here.
    pub fn refused(it: &Refusal, generation: Generation) -> Self {
        const FORBIDDEN: StatusCode = StatusCode::FORBIDDEN;
        match it {
            Refusal::SignInUnknown | Refusal::ChallengeUnknown | Refusal::ChannelDiffers { .. } => Self::session(generation),
            Refusal::AnswerMalformed(_) => Self::code(generation, ""),
            Refusal::Locked { until: Some(until) } => {
                Self::new(FORBIDDEN, "forbidden", format!("Too many wrong codes: none is taken before {}.", at(*until)))
            }
            Refusal::Locked { until: None } => {
                Self::new(FORBIDDEN, "forbidden", "Too many wrong codes: only an administrator can unlock this account.")
            }
            Refusal::SendsExhausted { until } => {
                Self::new(FORBIDDEN, "forbidden", format!("Too many codes were requested: no other is sent before {}.", at(*until)))
            }
            Refusal::RouteMissing { .. } | Refusal::TemplateBroken(_) | Refusal::TemplateUnknown => {
                tracing::warn!("A message cannot be sent: {it}; see `countersign doctor`");
                Self::messaging(generation)
            }
            Refusal::DeliveryRefused | Refusal::AddressUnreachable | Refusal::NoVerdict => Self::messaging(generation),
            Refusal::ResendTooSoon => Self::new(FORBIDDEN, "forbidden", "The last code is still on its way."),
            Refusal::DataBad(why) => Self::bad(
                match generation {
                    Generation::V1 | Generation::ByClient => "invalid-request-structure",
                    Generation::V2 => "invalid-parameters-format",
                },
                why.to_string(),
            ),
            Refusal::PasswordWrong => {
                let what = "The given username/password pair is invalid.";
                Self::new(StatusCode::UNAUTHORIZED, "invalid-credentials", what).by_core()
            }
            Refusal::TriesExhausted { until } => {
                let what = format!("Too many wrong passwords came from here: none is taken before {}.", at(*until));
                Self::new(StatusCode::UNAUTHORIZED, "invalid-credentials", what).by_core()
            }
            Refusal::AccessUnknown => Self::new(FORBIDDEN, "invalid-access-token", "Cannot find access from token.").by_core(),
            Refusal::AccessOver => Self::new(FORBIDDEN, "invalid-access-token", "Access session has expired.").by_core(),
            Refusal::UserUnknown => Self::unknown_resource("Unknown user").by_core(),
            Refusal::SettingBad(why) => Self::bad("invalid-parameters-format", why.clone()).by_core(),
            Refusal::PhoneNumberBad(why) => {
                Self::bad("invalid-parameters-format", format!("The telephone number in the MFA data is not valid: {why}"))
            }
            // What only other dialects and administration can meet. None of it is said here, and it has words all the same.
            Refusal::ClientUnknown
            | Refusal::EmailAddressBad(_)
            | Refusal::LoginBad(_)
            | Refusal::DeviceNameBad
            | Refusal::NoUsableDevice
            | Refusal::DeviceUnknown
            | Refusal::DeviceNameTaken
            | Refusal::DeviceActive
            | Refusal::TooManyDevices { .. }
            | Refusal::NameTaken
            | Refusal::Unknown(_) => Self::bad("invalid-operation", it.to_string()),
        }
    }

    /// Either kind of no.
    pub fn of(error: Error, generation: Generation) -> Self {
        match error {
            Error::Refused(it) => Self::refused(&it, generation),
            Error::Fault(it) => Self::fault(&it),
        }
    }

    /// As the caller hears it.
    pub fn said(self, at: Option<&At>, now: Timestamp) -> Response {
        let generation = at.map_or(Generation::V1, |it| it.generation);
        let meta = match (self.by, generation) {
            (By::Upstream(meta), Generation::V1 | Generation::ByClient) => meta.map(|it| *it),
            (By::Mfa, Generation::V1 | Generation::ByClient) => None,
            (By::Upstream(Some(meta)), Generation::V2) => Some(*meta),
            (By::Core, _) | (By::Mfa | By::Upstream(None), Generation::V2) => at.map(|it| meta(it, now)),
        };
        let mut error = Map::new();
        error.insert("id".into(), self.id.into());
        error.insert("message".into(), self.message.into());
        if let Some(data) = self.data {
            error.insert("data".into(), *data);
        }
        let mut body = json!({ "error": error });
        if let Some(meta) = meta {
            body["meta"] = meta;
        }
        let mut response = answer(self.status, &body);
        if let Some(pause) = self.retry_after {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(pause.as_secs().max(1)));
        }
        response
    }
}

fn at(moment: Timestamp) -> String {
    crate::moment::rfc3339(moment)
}

/// What every answer of a core carries.
pub(super) fn meta(at: &At, now: Timestamp) -> Value {
    let serial = at.settings.service.get("serial").and_then(Value::as_str).unwrap_or("2019061301");
    json!({ "apiVersion": at.settings.api_version, "serverTime": seconds(now), "serial": serial })
}

/// Seconds with a fraction, as Pryv.io counts time.
pub(super) fn seconds(it: Timestamp) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 fit into 53 bits for the next 285,000 years")]
    let millis = it.as_millis() as f64;
    millis / 1000.0
}

/// An answer of the MFA service: the second generation says `meta` with it.
pub(super) fn mfa(status: StatusCode, at: &At, now: Timestamp, mut body: Value) -> Response {
    if at.generation == Generation::V2 {
        body["meta"] = meta(at, now);
    }
    answer(status, &body)
}

/// An answer of the core.
pub(super) fn core(at: &At, now: Timestamp, mut body: Value) -> Response {
    body["meta"] = meta(at, now);
    answer(StatusCode::OK, &body)
}

/// An answer that nobody in between may keep.
pub(super) fn answer(status: StatusCode, body: &Value) -> Response {
    raw(status, "application/json; charset=utf-8", body.to_string().into_bytes())
}

pub(super) fn raw(status: StatusCode, content_type: &str, body: Vec<u8>) -> Response {
    let kind = HeaderValue::from_str(content_type).unwrap_or(HeaderValue::from_static("application/json"));
    (status, [(CONTENT_TYPE, kind), (CACHE_CONTROL, HeaderValue::from_static("no-store"))], body).into_response()
}

/// Lets pages of any origin read the answer (contract §1): tokens travel in headers that only a script can set, and never in a cookie.
pub(super) fn cors(asked: &HeaderMap, version: Option<&str>, response: &mut Response) {
    let or = |name: &HeaderName, other: &'static str| asked.get(name).cloned().unwrap_or(HeaderValue::from_static(other));
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, or(&ORIGIN, "*"));
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, or(&ACCESS_CONTROL_REQUEST_METHOD, "POST, GET, PUT, DELETE, OPTIONS"));
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, or(&ACCESS_CONTROL_REQUEST_HEADERS, "Authorization, Content-Type"));
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("API-Version"));
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("31536000"));
    headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    if let Some(version) = version.and_then(|it| HeaderValue::from_str(it).ok()) {
        headers.insert(API_VERSION.clone(), version);
    }
}
