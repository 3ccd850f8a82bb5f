//! The CIAM MFA API: codes by text message, letter and call, and authenticators (contract: CIAM §1–5).
//!
//! Owns the paths of this dialect and who may use them. [`token`] issues access tokens, [`authentications`] opens and answers
//! challenges, [`devices`] keeps authenticators, [`said`] has words for every refusal.

mod authentications;
mod devices;
mod said;
mod token;

pub(crate) use said::{envelope, transport_code};

use crate::Hall;
use crate::body::{self, BadBody, Sheet};
use crate::caller::NotAdmitted;
use crate::problem::Problem;
use axum::Router;
use axum::extract::{FromRequestParts, Path, State};
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, post};
use countersign_core::Scope;
use countersign_core::words::address::{Channel, Login};
use said::bad;
use serde::Serialize;
use std::sync::Arc;

/// The doors under one prefix. Both versions have the same: where they differ, the newer one takes what the older one sends.
pub(crate) fn doors(at: &str) -> Router<Arc<Hall>> {
    let door = |path: &str| format!("{at}{path}");
    Router::new()
        .route(&door("/get/token"), post(token::issue))
        .route(&door("/deviceAuthentications"), post(authentications::initiate))
        .route(&door("/deviceAuthentications/{authId}"), post(authentications::validate))
        .route(&door("/users/{userName}/mfadevices"), post(devices::create).get(devices::list))
        .route(&door("/users/{userName}/mfadevices/{authId}"), post(devices::activate))
        .route(&door("/users/{userName}/mfadevices/{deviceType}/{deviceName}"), delete(devices::unpair))
        // Aliases (contract §1): some guides put `users` before it, and one path of a specification ends in a blank.
        .route(&door("/users/deviceAuthentications"), post(authentications::initiate))
        .route(&door("/users/deviceAuthentications/{authId}"), post(authentications::validate))
        .route(&door("/users/{userName}/mfadevices%20"), post(devices::create).get(devices::list))
        // One alias would take these for an authId, and they are the devices of somebody who is called like it.
        .route(&door("/users/deviceAuthentications/mfadevices"), devices_of_namesake())
        .route(&door("/users/deviceAuthentications/mfadevices%20"), devices_of_namesake())
}

/// What the first version had before it was released (contract §1).
pub(crate) fn early_doors(at: &str) -> Router<Arc<Hall>> {
    let door = |path: &str| format!("{at}{path}");
    Router::new()
        .route(&door("/users/{userName}/devices"), post(devices::create).get(devices::list))
        .route(&door("/users/{userName}/devices/{authId}"), post(devices::activate))
        .route(&door("/users/deviceAuthentications/devices"), devices_of_namesake())
}

/// The devices of the person whose name is the word of an alias.
fn devices_of_namesake() -> MethodRouter<Arc<Hall>> {
    let name = || Ok(Path("deviceAuthentications".to_owned()));
    post(move |hall: State<Arc<Hall>>, by: By, sheet: Sheet| devices::create(hall, by, name(), sheet))
        .get(move |hall: State<Arc<Hall>>, by: By, query: devices::InQuery| devices::list(hall, by, name(), query))
}

/// The client that asks, by its access token.
pub(crate) struct By(pub Scope);

impl FromRequestParts<Arc<Hall>> for By {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, hall: &Arc<Hall>) -> Result<Self, Problem> {
        let Some(token) = bearer(&parts.headers) else {
            return Err(said::unauthorized("10002", "An access token is needed: Authorization: Bearer <token>"));
        };
        match hall.tokens.admit(&hall.house.core, token).await {
            Ok(scope) => Ok(Self(scope)),
            Err(NotAdmitted::Expired) => Err(said::unauthorized("10001", "The access token has expired, get a new one")),
            Err(NotAdmitted::Invalid) => Err(said::unauthorized("10002", "The access token is not valid, or its client is not registered")),
            Err(NotAdmitted::Fault(fault)) => Err(said::fault(&fault)),
        }
    }
}

/// The token of the one `Authorization: Bearer` header (RFC 6750 §2.1); two headers are none.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut all = headers.get_all(AUTHORIZATION).iter();
    let (one, None) = (all.next()?, all.next()) else { return None };
    let (scheme, token) = one.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("Bearer").then(|| token.trim())
}

/// The texts of a JSON body.
fn texts<const N: usize>(sheet: &Sheet, names: [&'static str; N]) -> Result<[Option<String>; N], Problem> {
    body::json(sheet.bytes(), names).map_err(bad_body)
}

fn bad_body(error: BadBody) -> Problem {
    bad(error.to_string())
}

/// The text, if it says anything.
fn needed(text: Option<String>, name: &'static str) -> Result<String, Problem> {
    text.filter(|it| !it.trim().is_empty()).ok_or_else(|| bad(format!("{name} is missing")))
}

fn login(text: &str) -> Result<Login, Problem> {
    Login::parse(text).map_err(|error| bad(format!("userName: {error}")))
}

fn unserved() -> Problem {
    bad("deviceType: this type is not served here, use sms, email, voice or TOTP")
}

/// Which device type a caller means: one that is served, or a sentence about why not.
fn channel(text: &str) -> Result<Channel, Problem> {
    const ELSEWHERE: [&str; 5] = ["FIDO2", "FIDO", "SECURITY_KEY", "PLATFORM", "MOBILE"];
    let text = text.trim();
    match Channel::parse(text) {
        Some(channel @ (Channel::Sms | Channel::Voice | Channel::Email | Channel::Totp)) => Ok(channel),
        None if ELSEWHERE.iter().any(|it| it.eq_ignore_ascii_case(text)) => Err(unserved()),
        // This contract has no word for what only a provider knows.
        Some(Channel::External) | None => Err(bad("deviceType is unknown, use sms, email, voice or TOTP")),
    }
}

/// The device type of an answer; the authId knows it, so it may be left out (contract §1).
fn optional_channel(text: Option<String>) -> Result<Option<Channel>, Problem> {
    text.filter(|it| !it.trim().is_empty()).map(|it| channel(&it)).transpose()
}

/// An answer that nobody in between may keep: it holds ids, tokens or seeds.
fn answer(status: StatusCode, said: &impl Serialize) -> Response {
    let body = serde_json::to_vec(said).expect("structs of strings become JSON");
    let headers = [(CONTENT_TYPE, HeaderValue::from_static("application/json")), (CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    (status, headers, body).into_response()
}

/// What most answers of this dialect look like.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Told<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    auth_id: Option<String>,
    status: &'static str,
    message: &'a str,
}
