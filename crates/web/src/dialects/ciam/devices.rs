//! Authenticators of a person: created, activated, listed and unpaired (contract §4).

use super::authentications::count;
use super::said::{self, Asked, bad, device_type};
use super::{By, Told, answer, channel, login, needed, optional_channel, texts};
use crate::Hall;
use crate::body::Sheet;
use crate::moment;
use crate::problem::Problem;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use countersign_core::words::address::{Channel, Login};
use countersign_core::words::id::ChallengeId;
use countersign_core::words::refusal::Refusal;
use serde::Serialize;
use std::sync::Arc;

type InPath<T> = Result<Path<T>, PathRejection>;
pub(super) type InQuery = Result<Query<Vec<(String, String)>>, QueryRejection>;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Created<'a> {
    auth_id: String,
    device_type: &'static str,
    status: &'static str,
    message: &'static str,
    device_name: &'a str,
    secret: &'a str,
    registration_uri: &'a str,
}

/// `POST users/{userName}/mfadevices`: begins to enrol an authenticator. The only answer that ever holds its seed.
pub(super) async fn create(State(hall): State<Arc<Hall>>, By(scope): By, path: InPath<String>, sheet: Sheet) -> Result<Response, Problem> {
    let [kind, name] = texts(&sheet, ["deviceType", "deviceName"])?;
    only_totp(channel(&needed(kind, "deviceType")?)?)?;
    let name = needed(name, "deviceName")?;
    let login = user(path)?;
    let new = hall.house.core.enroll_totp(&scope, login, &name).await.map_err(|it| said::no(it, Asked::Create))?;
    let created = Created {
        auth_id: new.challenge.uuid().to_string(),
        device_type: device_type(Channel::Totp),
        status: "ACTIVATION_REQUIRED",
        message: "Device registration has been initiated, please activate the device to use",
        device_name: &new.name,
        secret: new.seed.reveal(),
        registration_uri: new.uri.reveal(),
    };
    Ok(answer(StatusCode::CREATED, &created))
}

/// `POST users/{userName}/mfadevices/{authId}`: its first right value makes it active. The message is the device's name
/// (contract §4.2).
pub(super) async fn activate(
    State(hall): State<Arc<Hall>>,
    By(scope): By,
    path: InPath<(String, String)>,
    sheet: Sheet,
) -> Result<Response, Problem> {
    let [kind, otp] = texts(&sheet, ["deviceType", "otp"])?;
    if let Some(kind) = optional_channel(kind)? {
        only_totp(kind)?;
    }
    let otp = otp.ok_or_else(|| bad("otp is missing"))?;
    let Path((name, id)) = path.map_err(|_| unreadable())?;
    let login = login(&name)?;
    let judged = match ChallengeId::parse_uuid(&id) {
        Ok(id) => hall.house.core.activate(&scope, &login, id, &otp).await,
        Err(_) => Err(Refusal::ChallengeUnknown.into()),
    };
    count(&hall, judged.as_ref().map(|(verdict, _)| *verdict));
    let (verdict, device) = judged.map_err(|it| said::no(it, Asked::Activate))?;
    said::verdict(verdict)?;
    Ok(answer(StatusCode::OK, &Told { auth_id: None, status: "ACTIVE", message: &device }))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Listed<'a> {
    device_type: &'static str,
    device_name: &'a str,
    status: &'static str,
    created_at: String,
}

/// `GET users/{userName}/mfadevices[?type=…]`: the active authenticators. FIDO2 devices are asked for and there are none.
pub(super) async fn list(State(hall): State<Arc<Hall>>, By(scope): By, path: InPath<String>, query: InQuery) -> Result<Response, Problem> {
    let Query(query) = query.map_err(|_| bad("The query cannot be read"))?;
    let wanted = query.iter().find(|(name, _)| name.eq_ignore_ascii_case("type")).map(|(_, value)| value.trim());
    let with_totp = match wanted {
        None | Some("") => true,
        Some(it) if it.eq_ignore_ascii_case("TOTP") => true,
        Some(it) if it.eq_ignore_ascii_case("FIDO") || it.eq_ignore_ascii_case("FIDO2") => false,
        Some(_) => return Err(bad("type must be TOTP, FIDO or FIDO2")),
    };
    let found = hall.house.core.devices(&scope, &user(path)?).await.map_err(|it| said::no(it, Asked::List))?;
    let listed: Vec<Listed<'_>> = found
        .iter()
        .filter(|_| with_totp)
        .map(|it| Listed {
            device_type: device_type(Channel::Totp),
            device_name: &it.name,
            status: "ACTIVE",
            created_at: moment::rfc3339(it.created_at),
        })
        .collect();
    Ok(answer(StatusCode::OK, &listed))
}

/// `DELETE users/{userName}/mfadevices/{deviceType}/{deviceName}`: removes an authenticator.
pub(super) async fn unpair(
    State(hall): State<Arc<Hall>>,
    By(scope): By,
    path: InPath<(String, String, String)>,
) -> Result<Response, Problem> {
    let Path((name, kind, device)) = path.map_err(|_| unreadable())?;
    only_totp(channel(&kind)?)?;
    hall.house.core.remove_device(&scope, &login(&name)?, &device).await.map_err(|it| said::no(it, Asked::Unpair))?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn user(path: InPath<String>) -> Result<Login, Problem> {
    login(&path.map_err(|_| unreadable())?.0)
}

fn unreadable() -> Problem {
    bad("The path is not text in percent-encoded UTF-8")
}

/// Codes that we send need no enrolment (contract §3.1), so nothing else can be a device.
fn only_totp(kind: Channel) -> Result<(), Problem> {
    match kind {
        Channel::Totp => Ok(()),
        Channel::Sms | Channel::Voice | Channel::Email | Channel::External => {
            Err(bad("deviceType: only TOTP devices are registered; for sms, email and voice the address comes with the request"))
        }
    }
}
