//! Access tokens by client credentials (contract §2; RFC 6749 §4.4).

use super::said::{self, Asked};
use super::{answer, bad_body};
use crate::Hall;
use crate::body::{self, Slip};
use crate::caller::LIFETIME_S;
use crate::problem::Problem;
use axum::extract::State;
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use countersign_core::words::secret::Secret;
use serde::Serialize;
use std::sync::Arc;

const NAMES: [&str; 3] = ["grant_type", "client_id", "client_secret"];

#[derive(Serialize)]
struct Issued<'a> {
    access_token: &'a str,
    token_type: &'static str,
    expires_in: i64,
}

/// Issues an access token. Clients ask before every call, so this is as cheap as a signature, and never throttled.
pub(super) async fn issue(State(hall): State<Arc<Hall>>, headers: HeaderMap, slip: Slip) -> Result<Response, Problem> {
    let refused = |code, message| Err(Problem::new(StatusCode::BAD_REQUEST, code, message));
    let by_header = |it: &axum::http::HeaderValue| it.as_bytes().get(..6).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"basic "));
    if headers.get_all(AUTHORIZATION).iter().any(by_header) {
        return refused("10029", "Client credentials are not taken from the Authorization header, send them in the body");
    }
    // The guide shows JSON, the error table asks for a form (contract §2), and many clients label one as the other.
    let [grant, id, secret] = match slip.bytes().trim_ascii_start().first() {
        Some(b'{') => body::json(slip.bytes(), NAMES),
        _ => body::form(slip.bytes(), NAMES),
    }
    .map_err(bad_body)?;
    let said_something = |it: &String| !it.is_empty();
    let Some(grant) = grant.filter(said_something) else {
        return refused("10028", "The body needs grant_type, client_id and client_secret");
    };
    let Some(id) = id.filter(said_something) else { return refused("10030", "The body lacks client_id") };
    let Some(secret) = secret.filter(said_something).map(Secret::new) else {
        return refused("10031", "The body lacks client_secret");
    };
    if !["client_credentials", "client_credential"].contains(&grant.as_str()) {
        return Err(said::bad("grant_type must be client_credentials"));
    }
    let core = &hall.house.core;
    let scope = core.authenticate(&id, &secret).await.map_err(|it| said::no(it, Asked::Token))?;
    let token = hall.tokens.issue(core, &scope).map_err(|it| said::fault(&it))?;
    hall.measures.tokens.increment(1);
    Ok(answer(StatusCode::OK, &Issued { access_token: token.reveal(), token_type: "Bearer", expires_in: LIFETIME_S }))
}
