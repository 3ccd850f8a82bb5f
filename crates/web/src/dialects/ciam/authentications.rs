//! The MFA transaction: a challenge is opened, and answered (contract §3).

use super::said::{self, Asked, bad};
use super::{By, Told, answer, channel, login, needed, optional_channel, texts, unserved};
use crate::Hall;
use crate::body::Sheet;
use crate::measures::Verdict;
use crate::problem::Problem;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use countersign_core::verbs::request::{Ask, Sent};
use countersign_core::verbs::verify::Answered;
use countersign_core::words::address::{Address, Channel, EmailAddress, PhoneNumber};
use countersign_core::words::id::ChallengeId;
use countersign_core::words::refusal::{Error, Refusal};
use std::sync::Arc;

/// `POST deviceAuthentications`: opens a challenge, and sends its code where there is one to send.
pub(super) async fn initiate(State(hall): State<Arc<Hall>>, By(scope): By, sheet: Sheet) -> Result<Response, Problem> {
    let names = ["userName", "deviceType", "phoneNumber", "email", "deviceName", "templateName"];
    let [user, kind, phone, email, device, template] = texts(&sheet, names)?;
    let channel = channel(&needed(kind, "deviceType")?)?;
    let login = login(&needed(user, "userName")?)?;
    let template = template.filter(|it| !it.trim().is_empty());
    let refused = |it: Refusal| said::refusal(&it, Asked::Initiate);
    let ask = match channel {
        Channel::Sms | Channel::Voice => {
            let region = scope.tenant.tenant.policy.region.as_deref();
            let number = PhoneNumber::parse(&needed(phone, "phoneNumber")?, region).map_err(|it| refused(it.into()))?;
            Ask::Code { login, channel, to: Address::Phone(number), template }
        }
        Channel::Email => {
            let mailbox = EmailAddress::parse(&needed(email, "email")?).map_err(|it| refused(it.into()))?;
            Ask::Code { login, channel, to: Address::Email(mailbox), template }
        }
        Channel::External => return Err(unserved()),
        Channel::Totp => Ask::Totp { login, device: needed(device, "deviceName")? },
    };
    let opened = hall.house.core.request(&scope, ask).await.map_err(|it| match it {
        // 100001 is about a number, and nobody gave one.
        Error::Refused(Refusal::AddressUnreachable) if channel == Channel::Email => {
            bad("email: the carrier says that this mailbox does not exist")
        }
        it => said::no(it, Asked::Initiate),
    })?;
    hall.measures.opened(channel);
    let message = match opened.sent {
        // The blank at the end is the contract's.
        Sent::Taken => "OTP has been sent to the device ",
        Sent::Queued | Sent::Postponed => "OTP will be sent to the device shortly",
        Sent::Nothing => "Please get the OTP from registered device to authenticate",
    };
    let auth_id = Some(opened.challenge.uuid().to_string());
    Ok(answer(StatusCode::CREATED, &Told { auth_id, status: "SUCCESS", message }))
}

/// `POST deviceAuthentications/{authId}`: judges an answer.
pub(super) async fn validate(
    State(hall): State<Arc<Hall>>,
    By(scope): By,
    path: Result<Path<String>, PathRejection>,
    sheet: Sheet,
) -> Result<Response, Problem> {
    let [kind, otp] = texts(&sheet, ["deviceType", "otp"])?;
    let kind = optional_channel(kind)?;
    let otp = otp.ok_or_else(|| bad("otp is missing"))?;
    let judged = match auth_id(path) {
        Ok(id) => hall.house.core.verify(&scope, id, kind, &otp).await,
        Err(no) => Err(no),
    };
    count(&hall, judged.as_ref().copied());
    said::verdict(judged.map_err(|it| said::no(it, Asked::Validate))?)?;
    Ok(answer(StatusCode::OK, &Told { auth_id: None, status: "SUCCESS", message: "OTP has been validated successfully" }))
}

/// Counts what came of an answer; accidents count as failed requests only.
pub(super) fn count(hall: &Hall, judged: Result<Answered, &Error>) {
    let verdict = match judged {
        Ok(Answered::Passed) => Verdict::Passed,
        Ok(Answered::Wrong { .. } | Answered::Declined { attempts_left: Some(_) }) => Verdict::Wrong,
        Ok(Answered::LastWrong | Answered::Declined { attempts_left: None }) => Verdict::LastWrong,
        Ok(Answered::Over) => Verdict::Over,
        Err(Error::Refused(_)) => Verdict::Refused,
        Err(Error::Fault(_)) => return,
    };
    hall.measures.judged(verdict);
}

/// What is no id of ours is unknown like any other (invariant 6).
pub(super) fn auth_id(path: Result<Path<String>, PathRejection>) -> Result<ChallengeId, Error> {
    let id = path.ok().and_then(|Path(text)| ChallengeId::parse_uuid(&text).ok());
    id.ok_or_else(|| Refusal::ChallengeUnknown.into())
}
