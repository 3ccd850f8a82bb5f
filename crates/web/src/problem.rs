//! Saying no over HTTP.
//!
//! Owns [`Problem`], the one error type of all doors, and the envelopes in which it leaves. A handler says what is wrong; the
//! request id and the moment belong to the request, so [`entrance`](crate::entrance) puts the problem into its envelope on the
//! way out.

use crate::dialects::{ciam, pryv};
use crate::entrance::RequestId;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use countersign_core::words::refusal::Fault;
use countersign_core::words::time::Timestamp;
use serde::Serialize;
use std::borrow::Cow;
use std::time::Duration;

/// A no, on its way to the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    pub status: StatusCode,
    /// The number that a dialect gives it; those without numbers leave it out.
    pub code: &'static str,
    /// What is wrong, for the developer who reads the answer. Never a secret, a code or an address.
    pub message: Cow<'static, str>,
    /// When trying again may help.
    pub retry_after: Option<Duration>,
}

impl Problem {
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self { status, code, message: message.into(), retry_after: None }
    }

    /// An accident: logged here, once, and told without detail (invariant 12). The request id is in the span.
    pub fn fault(fault: &Fault, code: &'static str) -> Self {
        tracing::error!("The request failed: {fault}");
        match fault {
            Fault::Unavailable { retry_after, .. } => Self {
                retry_after: Some(*retry_after),
                ..Self::new(StatusCode::SERVICE_UNAVAILABLE, code, "The service is unavailable for the moment, please try again shortly")
            },
            Fault::Contended | Fault::Corrupt(_) => Self::broken(code),
        }
    }

    /// Something went wrong here, and the caller cannot help it.
    pub fn broken(code: &'static str) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, code, "Something went wrong here, please tell the administrator the traceId")
    }
}

impl IntoResponse for Problem {
    /// Leaves the problem in an empty answer, for the entrance to put into words.
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// In which form a problem leaves: by the door at which the request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Envelope {
    /// The CIAM contract's (§5).
    Ciam,
    /// The Pryv contract's (§1).
    Pryv,
    /// Problem details (RFC 9457), for the doors that belong to no dialect.
    Plain,
}

#[derive(Serialize)]
struct Details<'a> {
    title: &'a str,
    status: u16,
    detail: &'a str,
    #[serde(rename = "requestId")]
    request_id: &'a str,
}

impl Envelope {
    pub fn of(path: &str) -> Self {
        match path {
            _ if path.starts_with("/ciam-mfa") => Self::Ciam,
            _ if pryv::is_door(path) => Self::Pryv,
            _ => Self::Plain,
        }
    }

    /// The number for what no handler of the dialect has said.
    pub fn code(self, status: StatusCode) -> &'static str {
        match self {
            Self::Ciam => ciam::transport_code(status),
            Self::Pryv | Self::Plain => "",
        }
    }

    /// Puts `problem` into the answer that it left; headers that are there already (`Allow`) stay.
    pub fn enclose(self, problem: &Problem, id: &RequestId, now: Timestamp, response: &mut Response) {
        let (kind, body) = match self {
            Self::Ciam => ("application/json", ciam::envelope(problem, id, now)),
            Self::Pryv => ("application/json", pryv::envelope(problem)),
            Self::Plain => {
                let title = problem.status.canonical_reason().unwrap_or("Error");
                let details = Details { title, status: problem.status.as_u16(), detail: &problem.message, request_id: id.as_str() };
                ("application/problem+json", serde_json::to_vec(&details))
            }
        };
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(pause) = problem.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(pause.as_secs().max(1)));
        }
        *response.body_mut() = body.expect("structs of strings become JSON").into();
    }
}
