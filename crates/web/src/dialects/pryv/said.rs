//! What is said: answers and errors of both generations (contract §1, §3), and the headers that all of them carry.

use super::at::{At, Contract, Username};
use crate::Hall;
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, CACHE_CONTROL,
    CONTENT_TYPE, ORIGIN, RETRY_AFTER,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use countersign_core::verbs::request::Sent;
use countersign_core::words::address::Channel;
use countersign_core::words::refusal::{Error, Fault, Refusal};
use countersign_core::words::time::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};
use std::borrow::Cow;
use std::time::Duration;

static API_VERSION: HeaderName = HeaderName::from_static("api-version");
static ACCESS_ID: HeaderName = HeaderName::from_static("pryv-access-id");

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

    /// A parameter that is not there.
    pub fn missing(name: &str) -> Self {
        Self::parameter(
            "OBJECT_MISSING_REQUIRED_PROPERTY",
            json!([name]),
            format!("Missing required property: {name}"),
            &format!("#/{name}"),
        )
    }

    /// There is nothing at this path.
    pub fn nothing_here() -> Self {
        Self::unknown_resource("Unknown resource ")
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
    pub fn messaging(speaks: Contract) -> Self {
        match speaks {
            Contract::V1 => {
                Self::bad("messaging-server-error", "Error from messaging service. Error message: \"the request was not accepted\"")
            }
            Contract::V2 => Self::bad("invalid-operation", "MFA SMS provider error: the request was not accepted")
                .with(json!({ "id": "mfa-sms-provider-error" })),
        }
    }

    /// A token of a sign-in that is none, is over, or is somebody else's.
    pub fn session(speaks: Contract) -> Self {
        match speaks {
            Contract::V1 => Self::new(StatusCode::FORBIDDEN, "forbidden", "Invalid MFA session token."),
            Contract::V2 => Self::new(StatusCode::UNAUTHORIZED, "invalid-access-token", "Invalid or expired MFA session token."),
        }
    }

    /// A code that is not the right one: `shown` is what was sent.
    pub fn code(speaks: Contract, shown: &str) -> Self {
        let shown: String = shown.chars().take(64).collect();
        match speaks {
            Contract::V1 => Self::bad("invalid-code", format!("The provided code is invalid: {shown}")),
            Contract::V2 => Self::bad("invalid-parameters-format", format!("The provided MFA code is invalid: {shown}"))
                .with(json!({ "id": "invalid-mfa-code" })),
        }
    }

    /// The words for a refusal. There is no wildcard arm: a new refusal must be given words here.
    pub fn refused(it: &Refusal, speaks: Contract) -> Self {
        const FORBIDDEN: StatusCode = StatusCode::FORBIDDEN;
        match it {
            Refusal::SignInUnknown | Refusal::ChallengeUnknown | Refusal::ChannelDiffers { .. } => Self::session(speaks),
            Refusal::AnswerMalformed(_) => Self::code(speaks, ""),
            Refusal::Locked { until: Some(until) } => {
                Self::new(FORBIDDEN, "forbidden", format!("Locked after too many wrong codes: none is taken before {}.", at(*until)))
            }
            Refusal::Locked { until: None } => {
                Self::new(FORBIDDEN, "forbidden", "Locked after too many wrong codes: only an administrator can unlock this account.")
            }
            Refusal::SendsExhausted { until } => {
                Self::new(FORBIDDEN, "forbidden", format!("Too many codes were requested: no other is sent before {}.", at(*until)))
            }
            Refusal::RouteMissing { .. } | Refusal::TemplateBroken(_) | Refusal::TemplateUnknown => {
                tracing::warn!("A message cannot be sent: {it}; see `countersign doctor`");
                Self::messaging(speaks)
            }
            Refusal::DeliveryRefused | Refusal::AddressUnreachable | Refusal::NoVerdict => Self::messaging(speaks),
            Refusal::ResendTooSoon => Self::new(FORBIDDEN, "forbidden", "The last code is still on its way."),
            Refusal::DataBad(why) => Self::bad(
                match speaks {
                    Contract::V1 => "invalid-request-structure",
                    Contract::V2 => "invalid-parameters-format",
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
            // With the name, it is said by [`At::no`].
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

    /// As the caller hears it.
    pub fn said(self, at: Option<&At>, now: Timestamp) -> Response {
        let speaks = at.map_or(Contract::V1, |it| it.speaks);
        let meta = match (&self.by, speaks) {
            (By::Upstream(meta), Contract::V1) => meta.as_deref().cloned(),
            (By::Mfa, Contract::V1) => None,
            (By::Upstream(Some(meta)), Contract::V2) => Some((**meta).clone()),
            (By::Core, _) | (By::Mfa | By::Upstream(None), Contract::V2) => at.map(|it| meta(it, now)),
        };
        let No { id, message, .. } = &self;
        // The MFA service of the first generation drops what is there for programs.
        let mut response = match speaks {
            Contract::V1 => answer(self.status, &Body { error: FirstError { message, id }, meta }),
            Contract::V2 => answer(self.status, &Body { error: SecondError { id, message, data: self.data.as_deref() }, meta }),
        };
        if let Some(pause) = self.retry_after {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(pause.as_secs().max(1)));
        }
        response
    }
}

/// An answer that is a no; the names in the order in which each generation writes them.
#[derive(Serialize)]
struct Body<E> {
    error: E,
    #[serde(skip_serializing_if = "Option::is_none")]
    meta: Option<Value>,
}

#[derive(Serialize)]
struct FirstError<'a> {
    message: &'a str,
    id: &'a str,
}

#[derive(Serialize)]
struct SecondError<'a> {
    id: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a Value>,
}

impl At {
    /// The person of the host or path.
    pub fn person(&self) -> Result<&Username, No> {
        self.username.as_ref().ok_or_else(No::nothing_here)
    }

    /// Either kind of no. Somebody who is not known is told by name: names are hosts here, and no secret (contract §2).
    pub fn no(&self, error: Error) -> No {
        match (error, &self.username) {
            (Error::Refused(Refusal::UserUnknown), Some(username)) => {
                No::unknown_resource(format!("Unknown user \"{}\"", username.text)).by_core()
            }
            (Error::Refused(it), _) => No::refused(&it, self.speaks),
            (Error::Fault(it), _) => No::fault(&it),
        }
    }
}

/// What has become of a code. Who waits for a provider's word is told that it is on its way; that no provider takes it now is an error
/// here (contract §6), though it is tried again.
pub(super) fn sent(hall: &Hall, at: &At, how: Sent) -> Result<(), No> {
    hall.measures.opened(Channel::External);
    match how {
        Sent::Taken | Sent::Queued | Sent::Nothing => Ok(()),
        Sent::Postponed => Err(No::messaging(at.speaks)),
    }
}

fn at(moment: Timestamp) -> String {
    crate::moment::rfc3339(moment)
}

/// What every answer of a core carries.
pub(super) fn meta(at: &At, now: Timestamp) -> Value {
    json!({ "apiVersion": at.settings.api_version, "serverTime": seconds(now), "serial": at.settings.serial() })
}

/// Seconds with a fraction, as Pryv.io counts time.
pub(super) fn seconds(it: Timestamp) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 fit into 53 bits for the next 285,000 years")]
    let millis = it.as_millis() as f64;
    millis / 1000.0
}

/// An answer of the MFA service: the second generation says `meta` with it.
pub(super) fn mfa(status: StatusCode, at: &At, now: Timestamp, body: Value) -> Response {
    match at.speaks {
        Contract::V1 => answer(status, &body),
        Contract::V2 => answer(status, &with_meta(at, now, body)),
    }
}

/// An answer of the core.
pub(super) fn core(at: &At, now: Timestamp, body: Value) -> Response {
    answer(StatusCode::OK, &with_meta(at, now, body))
}

fn with_meta(at: &At, now: Timestamp, body: Value) -> Value {
    let mut all = json!({ "meta": meta(at, now) });
    if let (Value::Object(all), Value::Object(body)) = (&mut all, body) {
        all.extend(body);
    }
    all
}

/// An answer that nobody in between may keep.
pub(super) fn answer(status: StatusCode, body: &impl Serialize) -> Response {
    raw(status, "application/json; charset=utf-8", serde_json::to_vec(body).expect("texts, numbers and values become JSON"))
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

/// Says which access was used, as the second generation does.
pub(super) fn access(at: &At, response: &mut Response) {
    let named = at.access.get().and_then(|id| HeaderValue::from_str(&id.to_string()).ok());
    if let (Contract::V2, Some(named)) = (at.speaks, named) {
        response.headers_mut().insert(ACCESS_ID.clone(), named);
    }
}
