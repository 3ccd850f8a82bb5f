//! What is said when the answer is no: the error table of the contract (§5), and its envelope.
//!
//! Contract errors keep to the four statuses that existing clients know: 400, 401, 404 and 500.

use crate::entrance::RequestId;
use crate::moment;
use crate::problem::Problem;
use axum::http::StatusCode;
use countersign_core::verbs::verify::Answered;
use countersign_core::words::address::Channel;
use countersign_core::words::refusal::{Error, Fault, Refusal};
use countersign_core::words::time::Timestamp;
use serde::Serialize;
use std::borrow::Cow;

/// The request that met a refusal, where the contract has more than one word for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    Token,
    Initiate,
    Validate,
    Create,
    Activate,
    List,
    Unpair,
}

/// Something in the request breaks a rule.
pub(super) fn bad(message: impl Into<Cow<'static, str>>) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "10005", message)
}

pub(super) fn unauthorized(code: &'static str, message: &'static str) -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, code, message)
}

pub(super) fn fault(fault: &Fault) -> Problem {
    Problem::fault(fault, "10015")
}

/// Either kind of no.
pub(super) fn no(error: Error, asked: Asked) -> Problem {
    match error {
        Error::Refused(it) => refusal(&it, asked),
        Error::Fault(it) => fault(&it),
    }
}

/// The words for a refusal. There is no wildcard arm: a new refusal must be given words here.
pub(super) fn refusal(it: &Refusal, asked: Asked) -> Problem {
    const BAD: StatusCode = StatusCode::BAD_REQUEST;
    const MISSING: StatusCode = StatusCode::NOT_FOUND;
    const OURS: StatusCode = StatusCode::INTERNAL_SERVER_ERROR;
    let (status, code, message): (_, _, Cow<'static, str>) = match it {
        Refusal::ClientUnknown => (StatusCode::UNAUTHORIZED, "10002", "The client is not registered, or its secret is another one".into()),
        Refusal::ChallengeUnknown => (BAD, "10007", "Invalid authId, please request a new OTP".into()),
        Refusal::ChannelDiffers { opened_for } => {
            (BAD, "10005", format!("deviceType does not fit: this authId was opened for {}", device_type(*opened_for)).into())
        }
        Refusal::AnswerMalformed(why) => (BAD, "10009", format!("otp must have exactly {} digits, 0 to 9", why.length).into()),
        Refusal::PhoneNumberBad(why) => (BAD, "100001", format!("phoneNumber is not valid: {why}").into()),
        Refusal::EmailAddressBad(why) => (BAD, "10005", format!("email is not valid: {why}").into()),
        Refusal::LoginBad(why) => (BAD, "10005", format!("userName: {why}").into()),
        Refusal::DeviceNameBad => (BAD, "10005", "deviceName: it has 1 to 100 visible characters".into()),
        Refusal::RouteMissing { .. } => {
            tracing::warn!("A message cannot be sent: {it}; add a provider for this channel, and a route to it");
            (OURS, "10015", "This kind of device cannot be reached at present, please ask the administrator".into())
        }
        Refusal::DeliveryRefused => (OURS, "10015", "The OTP could not be sent, please ask the administrator".into()),
        Refusal::AddressUnreachable => (BAD, "100001", "The carrier says that this number or address does not exist".into()),
        Refusal::SendsExhausted { .. } => (BAD, "10026", "QUOTA_EXCEEDED: too many OTPs were requested, please try again later".into()),
        Refusal::Locked { until: Some(_) } => {
            (BAD, "10027", "PASSWORD_LOCKED_OUT: locked after too many incorrect OTPs, please try again later".into())
        }
        Refusal::Locked { until: None } => {
            (BAD, "10027", "PASSWORD_LOCKED_OUT: locked after too many incorrect OTPs, only an administrator can unlock it".into())
        }
        Refusal::ResendTooSoon => (BAD, "10026", "QUOTA_EXCEEDED: the last OTP is still on its way".into()),
        Refusal::TemplateUnknown => (MISSING, "10011", "templateName: there is no template of this name".into()),
        Refusal::TemplateBroken(why) => {
            tracing::warn!("A template cannot be filled in: {why}");
            (OURS, "10012", "The template could not be processed, please ask the administrator".into())
        }
        Refusal::UserUnknown => (MISSING, "10003", "User not found, please check the username".into()),
        Refusal::NoUsableDevice => (BAD, "100016", "NO_USABLE_DEVICES: the user has no active TOTP device".into()),
        Refusal::DeviceUnknown => match asked {
            Asked::Unpair => (MISSING, "10050", "There is no device of this name".into()),
            Asked::Token | Asked::Initiate | Asked::Validate | Asked::Create | Asked::Activate | Asked::List => {
                (MISSING, "100016", "The user has no TOTP device of this name".into())
            }
        },
        Refusal::DeviceNameTaken => (BAD, "10010", "The user has a device of this name already".into()),
        Refusal::DeviceActive => (BAD, "10006", "The device is active already".into()),
        Refusal::TooManyDevices { most } => (BAD, "10014", format!("A user can have no more than {most} devices").into()),
        // What only administration can meet. None of it is said here, and it has words all the same.
        Refusal::NameTaken => (BAD, "10010", "The name is taken".into()),
        Refusal::Unknown(_) => (MISSING, "10005", "There is no such thing".into()),
        Refusal::SettingBad(_) => (OURS, "10015", "A setting is wrong, please ask the administrator".into()),
    };
    Problem::new(status, code, message)
}

/// The words for a verdict that is not [`Answered::Passed`].
pub(super) fn verdict(it: Answered) -> Result<(), Problem> {
    let (code, message): (_, Cow<'static, str>) = match it {
        Answered::Passed => return Ok(()),
        Answered::Wrong { attempts_left } => ("10008", format!("The OTP is incorrect, attempts left: {attempts_left}").into()),
        Answered::LastWrong => ("10026", "QUOTA_EXCEEDED: too many incorrect OTPs, please request a new OTP later".into()),
        Answered::Over => ("10007", "The OTP has expired or was used already, please request a new OTP".into()),
    };
    Err(Problem::new(StatusCode::BAD_REQUEST, code, message))
}

/// The number for what went wrong before a handler was asked.
pub(crate) fn transport_code(status: StatusCode) -> &'static str {
    if status.is_server_error() { "10015" } else { "10005" }
}

/// How this dialect writes a channel.
pub(super) fn device_type(channel: Channel) -> &'static str {
    match channel {
        Channel::Sms => "SMS",
        Channel::Voice => "VOICE",
        Channel::Email => "EMAIL",
        Channel::Totp => "TOTP",
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Envelope<'a> {
    code: &'a str,
    message: &'a str,
    trace_id: &'a str,
    timestamp: String,
}

/// The body of every error (contract §5): the trace id is the request id.
pub(crate) fn envelope(problem: &Problem, id: &RequestId, now: Timestamp) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(&Envelope { code: problem.code, message: &problem.message, trace_id: id.as_str(), timestamp: moment::ciam(now) })
}
