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
        Refusal::AddressUnreachable => (BAD, "100001", "phoneNumber: the carrier says that this number does not exist".into()),
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
        Refusal::NoVerdict => (OURS, "10015", "The OTP could not be checked at present, please try again shortly".into()),
        // What only other dialects can meet.
        Refusal::SignInUnknown | Refusal::AccessUnknown | Refusal::AccessOver => {
            (BAD, "10007", "Invalid authId, please request a new OTP".into())
        }
        Refusal::DataBad(why) => (BAD, "10005", why.to_string().into()),
        Refusal::PasswordWrong | Refusal::TriesExhausted { .. } => {
            (StatusCode::UNAUTHORIZED, "10002", "Name and password do not match".into())
        }
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
        Answered::Declined { attempts_left: Some(left) } => ("10008", format!("The OTP is incorrect, attempts left: {left}").into()),
        Answered::LastWrong | Answered::Declined { attempts_left: None } => {
            ("10026", "QUOTA_EXCEEDED: too many incorrect OTPs, please request a new OTP later".into())
        }
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
        Channel::External => "EXTERNAL",
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

#[cfg(test)]
mod tests {
    use super::*;
    use countersign_core::words::address::{BadEmailAddress, BadLogin, BadPhoneNumber};
    use countersign_core::words::secret::BadAnswer;
    use std::num::NonZeroU8;

    const NOON: Timestamp = Timestamp::from_millis(1_893_499_200_000);

    #[test]
    fn every_refusal_has_the_number_and_the_status_of_the_table() {
        use Asked::{Initiate, Token, Unpair, Validate};
        for (it, asked, status, code) in [
            (Refusal::ClientUnknown, Token, 401, "10002"),
            (Refusal::ChallengeUnknown, Validate, 400, "10007"),
            (Refusal::ChannelDiffers { opened_for: Channel::Sms }, Validate, 400, "10005"),
            (Refusal::AnswerMalformed(BadAnswer { length: 6 }), Validate, 400, "10009"),
            (Refusal::PhoneNumberBad(BadPhoneNumber::Impossible), Initiate, 400, "100001"),
            (Refusal::EmailAddressBad(BadEmailAddress), Initiate, 400, "10005"),
            (Refusal::LoginBad(BadLogin), Initiate, 400, "10005"),
            (Refusal::DeviceNameBad, Asked::Create, 400, "10005"),
            (Refusal::RouteMissing { channel: Channel::Voice }, Initiate, 500, "10015"),
            (Refusal::DeliveryRefused, Initiate, 500, "10015"),
            (Refusal::AddressUnreachable, Initiate, 400, "100001"),
            (Refusal::SendsExhausted { until: NOON }, Initiate, 400, "10026"),
            (Refusal::Locked { until: Some(NOON) }, Validate, 400, "10027"),
            (Refusal::Locked { until: None }, Validate, 400, "10027"),
            (Refusal::ResendTooSoon, Initiate, 400, "10026"),
            (Refusal::TemplateUnknown, Initiate, 404, "10011"),
            (Refusal::TemplateBroken("line 3".into()), Initiate, 500, "10012"),
            (Refusal::UserUnknown, Initiate, 404, "10003"),
            (Refusal::NoUsableDevice, Initiate, 400, "100016"),
            (Refusal::DeviceUnknown, Initiate, 404, "100016"),
            (Refusal::DeviceUnknown, Unpair, 404, "10050"),
            (Refusal::DeviceNameTaken, Asked::Create, 400, "10010"),
            (Refusal::DeviceActive, Asked::Activate, 400, "10006"),
            (Refusal::TooManyDevices { most: 5 }, Asked::Create, 400, "10014"),
        ] {
            let problem = refusal(&it, asked);
            assert_eq!((problem.status.as_u16(), problem.code), (status, code), "{it:?}");
            match code {
                "10026" => assert!(problem.message.starts_with("QUOTA_EXCEEDED")),
                "10027" => assert!(problem.message.starts_with("PASSWORD_LOCKED_OUT")),
                "10012" => assert!(!problem.message.contains("line 3"), "what is wrong with a template is the tenant's business"),
                _ => {}
            }
        }
    }

    #[test]
    fn every_verdict_but_the_right_one_has_a_number() {
        let code = |it| verdict(it).err().map(|it| (it.status.as_u16(), it.code));
        assert_eq!(code(Answered::Passed), None);
        assert_eq!(code(Answered::Wrong { attempts_left: NonZeroU8::MIN }), Some((400, "10008")));
        assert_eq!(code(Answered::LastWrong), Some((400, "10026")));
        assert_eq!(code(Answered::Over), Some((400, "10007")));
        assert!(verdict(Answered::LastWrong).is_err_and(|it| it.message.starts_with("QUOTA_EXCEEDED")));
    }

    #[test]
    fn an_accident_is_told_without_detail() {
        for it in [Fault::Contended, Fault::Corrupt("row 7".into())] {
            let problem = fault(&it);
            assert_eq!((problem.status.as_u16(), problem.code), (500, "10015"));
            assert!(!problem.message.contains("row 7"));
        }
    }
}
