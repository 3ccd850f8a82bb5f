//! The methods of multi-factor authentication (contract §3).

use super::asked::Asked;
use super::at::{At, Contract};
use super::own::{self, access};
use super::said::{self, No, sent};
use super::upstream::{Upstream, core_of, parsed};
use crate::Hall;
use crate::measures::Verdict;
use axum::http::StatusCode;
use axum::response::Response;
use countersign_core::nouns::sign_in::{Baggage, Finishes};
use countersign_core::verbs::account::SecondFactor;
use countersign_core::verbs::sign_in::{NewSignIn, Proven};
use countersign_core::verbs::verify::Answered;
use countersign_core::words::address::{Address, Channel};
use countersign_core::words::refusal::{Error, Refusal};
use countersign_core::words::secret::{Offered, Secret};
use countersign_core::words::variables::{Variables, shown};
use serde_json::{Value, json};

/// `POST mfa/activate`: sends the first code. Nothing is kept before it has come back.
pub(super) async fn activate(hall: &Hall, at: &At, asked: &Asked) -> Result<Response, No> {
    let token = personal(hall, at, asked).await?;
    let data: Variables = serde_json::from_slice(&asked.raw).unwrap_or_default();
    data.check().map_err(|it| No::refused(&it.into(), at.speaks))?;
    let baggage = Baggage { channel: Channel::External, to: Address::Data(data), account: None, more: json!({ "token": token.reveal() }) };
    let (login, lasts) = (at.person()?.login.clone(), at.settings.session_ttl());
    let new = NewSignIn { login, purpose: Finishes::Activation, baggage, lasts };
    let (token, how) = hall.house.core.begin_sign_in_with_code(&at.scope, new).await.map_err(|it| at.no(it))?;
    sent(hall, at, how)?;
    Ok(said::mfa(StatusCode::FOUND, at, hall.house.core.now(), json!({ "mfaToken": token.reveal() })))
}

/// The personal token of the caller, which is alive.
async fn personal(hall: &Hall, at: &At, asked: &Asked) -> Result<Secret, No> {
    let token = asked.needed_for_mfa(at, false)?;
    match core_of(hall, at)? {
        Some(upstream) if !upstream.is_personal(&token).await? => {
            let what = match at.speaks {
                Contract::V1 => "You cannot access this resource using the given access token.",
                Contract::V2 => "A personal access token is required for this operation.",
            };
            Err(No::new(StatusCode::FORBIDDEN, "forbidden", what))
        }
        Some(_) => Ok(token),
        None => access(hall, at, &token).await.map(|_| token),
    }
}

/// `POST mfa/confirm`: the code has come back, so the second factor becomes active.
pub(super) async fn confirm(hall: &Hall, at: &At, asked: &Asked) -> Result<Response, No> {
    let (core, login) = (&hall.house.core, &at.person()?.login);
    let mfa_token = asked.needed_for_mfa(at, true)?;
    let baggage = prove(hall, at, asked, &mfa_token, Finishes::Activation).await?.baggage;
    let Address::Data(data) = baggage.to else { return Err(No::session(at.speaks)) };
    // With the token that began it: who has logged out since, or was logged out, confirms nothing.
    let token = Secret::new(baggage.more["token"].as_str().unwrap_or_default());
    let (told, recovery) = core.draw_recovery_codes(&at.scope, login);
    let factor = SecondFactor { id: None, data, recovery };
    match core_of(hall, at)? {
        Some(upstream) => {
            upstream.put_second_factor(&token, Some(&factor)).await?;
        }
        None => {
            access(hall, at, &token).await?;
            core.put_second_factor(&at.scope, login, factor).await.map_err(|it| at.no(it))?;
        }
    }
    core.end_sign_in(&at.scope, &mfa_token).await.map_err(|it| at.no(it))?;
    let codes: Vec<&str> = told.iter().map(Secret::reveal).collect();
    Ok(said::mfa(StatusCode::OK, at, core.now(), json!({ "recoveryCodes": codes })))
}

/// `POST mfa/challenge`: sends a code, or another one.
pub(super) async fn challenge(hall: &Hall, at: &At, asked: &Asked) -> Result<Response, No> {
    let mfa_token = asked.needed_for_mfa(at, true)?;
    let how = hall.house.core.challenge_sign_in(&at.scope, &at.person()?.login, &mfa_token).await;
    sent(hall, at, how.map_err(|it| at.no(it))?)?;
    Ok(said::mfa(StatusCode::OK, at, hall.house.core.now(), json!({ "message": "Please verify the MFA challenge." })))
}

/// `POST mfa/verify`: the log-in is finished.
pub(super) async fn verify(hall: &Hall, at: &At, asked: &Asked) -> Result<Response, No> {
    let (core, username) = (&hall.house.core, at.person()?);
    let mfa_token = asked.needed_for_mfa(at, true)?;
    let Proven { baggage: Baggage { more, .. }, passage, .. } = prove(hall, at, asked, &mfa_token, Finishes::Login).await?;
    let (token, endpoint) = match &at.settings.core_url {
        // One that began while the tenant stood otherwise has no token of this side.
        Some(_) => (more["token"].as_str().ok_or_else(|| No::session(at.speaks))?.to_owned(), more["apiEndpoint"].clone()),
        None => {
            let (app, lasts) = (more["app"].as_str().unwrap_or_default(), at.settings.access_max_age());
            let passage = passage.ok_or_else(|| No::session(at.speaks))?;
            let token = core.log_in(&at.scope, &username.login, passage, app, lasts).await.map_err(|it| at.no(it))?.token;
            let endpoint = own::api_endpoint(&hall.house.base_url, &at.settings, &username.text, Some(&token));
            (token.reveal().to_owned(), endpoint.into())
        }
    };
    let body = match at.speaks {
        Contract::V1 => json!({ "token": token }),
        Contract::V2 => json!({ "token": token, "apiEndpoint": endpoint }),
    };
    Ok(said::mfa(StatusCode::OK, at, core.now(), body))
}

/// Judges the code of a body. Only a text is one (contract §9, property 1).
async fn prove(hall: &Hall, at: &At, asked: &Asked, mfa_token: &Secret, purpose: Finishes) -> Result<Proven, No> {
    let code = match (asked.body.get("code"), at.speaks) {
        (Some(Value::String(code)), _) => code.as_str(),
        (None, Contract::V2) => return Err(No::missing("code")),
        (Some(_), Contract::V2) => own::text(&asked.body, "code")?,
        // It is no answer, so it costs nothing; the token is looked at all the same.
        (_, Contract::V1) => "",
    };
    let with: Variables = serde_json::from_slice(&asked.raw).unwrap_or_default();
    let offered = Offered { code: Secret::new(code), with };
    let judged = hall.house.core.prove_sign_in(&at.scope, &at.person()?.login, mfa_token, purpose, offered).await;
    let sent = || asked.body.get("code").map_or_else(|| "undefined".to_owned(), shown);
    let (verdict, no) = match judged {
        Ok(proven) => match proven.answered {
            Answered::Passed => {
                hall.measures.judged(Verdict::Passed);
                return Ok(proven);
            }
            Answered::Wrong { .. } => (Verdict::Wrong, No::code(at.speaks, &sent())),
            Answered::LastWrong => (Verdict::LastWrong, No::code(at.speaks, &sent())),
            Answered::Over => (Verdict::Over, No::code(at.speaks, &sent())),
            // Who checks its own codes says no in words of its own, and those are not told (contract §3, §6).
            Answered::Declined { attempts_left: Some(_) } => (Verdict::Wrong, No::messaging(at.speaks)),
            Answered::Declined { attempts_left: None } => (Verdict::LastWrong, No::messaging(at.speaks)),
        },
        Err(Error::Refused(Refusal::AnswerMalformed(_))) => (Verdict::Refused, No::code(at.speaks, &sent())),
        Err(it @ Error::Refused(_)) => (Verdict::Refused, at.no(it)),
        Err(it @ Error::Fault(_)) => return Err(at.no(it)),
    };
    hall.measures.judged(verdict);
    Err(no)
}

/// `POST mfa/deactivate`. It is the same answer when there was nothing to take away.
pub(super) async fn deactivate(hall: &Hall, at: &At, asked: &Asked) -> Result<Response, No> {
    match (core_of(hall, at)?, at.speaks) {
        // In the first generation the core itself says whose token may do that.
        (Some(upstream), Contract::V1) => upstream.put_second_factor(&asked.needed_for_mfa(at, false)?, None).await?,
        (Some(upstream), Contract::V2) => upstream.put_second_factor(&personal(hall, at, asked).await?, None).await?,
        (None, _) => {
            personal(hall, at, asked).await?;
            hall.house.core.remove_second_factor(&at.scope, &at.person()?.login).await.map_err(|it| at.no(it))?;
        }
    }
    Ok(deactivated(hall, at))
}

fn deactivated(hall: &Hall, at: &At) -> Response {
    said::mfa(StatusCode::OK, at, hall.house.core.now(), json!({ "message": "MFA deactivated." }))
}

/// `POST mfa/recover`: password and recovery code take the second factor away, with all its codes.
pub(super) async fn recover(hall: &Hall, at: &At, asked: &Asked) -> Result<Response, No> {
    let code = match (asked.body.get("recoveryCode"), at.speaks) {
        (Some(Value::String(code)), _) => Secret::new(code.as_str()),
        (None | Some(Value::Null), Contract::V1) => {
            return Err(No::bad("invalid-request-structure", "Missing parameter: recoveryCode."));
        }
        (None, Contract::V2) => return Err(No::missing("recoveryCode")),
        // Codes are texts; what is none is one that is not right.
        (Some(_), Contract::V1) => Secret::new(""),
        (Some(_), Contract::V2) => own::text(&asked.body, "recoveryCode").map(Secret::new)?,
    };
    match core_of(hall, at)? {
        Some(upstream) => recover_upstream(hall, at, asked, &upstream, &code).await?,
        None => {
            let (core, login) = (&hall.house.core, &at.person()?.login);
            // Who is not there is told first, whatever else is wrong (contract §2).
            core.knows(&at.scope, login).await.map_err(|it| at.no(it))?;
            let password = own::recovering(at, asked)?;
            core.check_password(&at.scope, login, &password, &asked.from).await.map_err(|it| at.no(it))?;
            spent(at, core.recover(&at.scope, login, &code).await)?;
        }
    }
    Ok(deactivated(hall, at))
}

async fn recover_upstream(hall: &Hall, at: &At, asked: &Asked, upstream: &Upstream<'_>, code: &Secret) -> Result<(), No> {
    let mut body = asked.body.clone();
    if let Some(body) = body.as_object_mut() {
        body.remove("recoveryCode");
    }
    let heard = upstream.login(body.to_string().into_bytes(), &asked.headers).await?;
    let token = Secret::new(parsed(&heard.body)["token"].as_str().unwrap_or_default());
    let judged = match upstream.second_factor(&token).await? {
        Some(it) => hall.house.core.try_recovery(&at.scope, &at.person()?.login, &it.recovery, code).await,
        None => Err(Refusal::NoUsableDevice.into()),
    };
    spent(at, judged)?;
    upstream.put_second_factor(&token, None).await
}

/// What is said of a recovery code.
fn spent(at: &At, judged: Result<bool, Error>) -> Result<(), No> {
    let invalid = || No::bad("invalid-parameters-format", "Invalid recovery code.");
    match judged {
        Ok(true) => Ok(()),
        Ok(false) => Err(invalid()),
        Err(Error::Refused(Refusal::NoUsableDevice)) => Err(match at.speaks {
            Contract::V1 => invalid(),
            Contract::V2 => No::bad("invalid-operation", "MFA is not active for this user."),
        }),
        Err(other) => Err(at.no(other)),
    }
}
