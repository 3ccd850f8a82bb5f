//! The methods of multi-factor authentication (contract §3).

use super::Asked;
use super::login::core_of;
use super::own::{self, access, check_app, person};
use super::place::{At, Username, needed_token, token};
use super::said::{self, No};
use super::settings::Generation;
use super::upstream::{Block, Upstream, parsed};
use crate::Hall;
use crate::measures::Verdict;
use axum::http::StatusCode;
use axum::response::Response;
use countersign_core::nouns::sign_in::{Baggage, Finishes};
use countersign_core::verbs::account::SecondFactor;
use countersign_core::verbs::request::Sent;
use countersign_core::verbs::sign_in::NewSignIn;
use countersign_core::verbs::verify::Answered;
use countersign_core::words::address::{Address, Channel};
use countersign_core::words::refusal::{Error, Refusal};
use countersign_core::words::secret::{KeptCode, Offered, Secret};
use countersign_core::words::variables::{Variables, shown};
use serde_json::{Value, json};

/// `POST mfa/activate`: sends the first code. Nothing is kept before it has come back.
pub(super) async fn activate(hall: &Hall, at: &At, asked: &Asked) -> Result<Response, No> {
    let username = person(at)?;
    let token = personal(hall, at, asked).await?;
    let data: Variables = serde_json::from_slice(&asked.raw).unwrap_or_default();
    data.check().map_err(|it| No::refused(&it.into(), at.generation))?;
    let baggage = Baggage { channel: Channel::External, to: Address::Data(data), more: json!({ "token": token.reveal() }) };
    let lasts = at.settings.session_ttl();
    let new = NewSignIn { login: username.login.clone(), purpose: Finishes::Activation, baggage, lasts };
    let begun = hall.house.core.begin_sign_in_with_code(&at.scope, new).await;
    let (token, sent_how) = begun.map_err(|it| No::of(it, at.generation))?;
    sent(hall, at, sent_how)?;
    Ok(said::mfa(StatusCode::FOUND, at, hall.house.core.now(), json!({ "mfaToken": token.reveal() })))
}

/// The personal token of the caller, which is alive.
async fn personal(hall: &Hall, at: &At, asked: &Asked) -> Result<Secret, No> {
    let token = match (token(&asked.headers, &asked.uri), at.generation) {
        (None, Generation::V2) => return Err(super::place::no_token()),
        (None, _) => return Err(needed_token(&asked.headers, &asked.uri, at, true).err().unwrap_or_else(super::place::no_token)),
        (Some(token), _) => token,
    };
    match core_of(hall, at)? {
        Some(upstream) if !upstream.is_personal(&token).await? => Err(No::new(
            StatusCode::FORBIDDEN,
            "forbidden",
            match at.generation {
                Generation::V1 | Generation::ByClient => "You cannot access this resource using the given access token.",
                Generation::V2 => "A personal access token is required for this operation.",
            },
        )),
        Some(_) => Ok(token),
        None => access(hall, at, Some(token.clone())).await.map(|_| token),
    }
}

/// `POST mfa/confirm`: the code has come back, so the second factor becomes active.
pub(super) async fn confirm(hall: &Hall, at: &At, asked: &Asked) -> Result<Response, No> {
    let (core, username) = (&hall.house.core, person(at)?);
    let mfa_token = needed_token(&asked.headers, &asked.uri, at, true)?;
    let baggage = prove(hall, at, asked, &mfa_token, Finishes::Activation).await?;
    let Address::Data(data) = baggage.to else { return Err(No::session(at.generation)) };
    let (told, recovery) = core.draw_recovery_codes(&at.scope, &username.login);
    match core_of(hall, at)? {
        Some(upstream) => {
            let token = Secret::new(baggage.more["token"].as_str().unwrap_or_default());
            upstream.put_block(&token, Some(&Block { content: data, recovery })).await?;
        }
        None => {
            let factor = SecondFactor { data, recovery };
            core.put_second_factor(&at.scope, &username.login, factor).await.map_err(|it| own::no(it, at, username))?;
        }
    }
    core.end_sign_in(&at.scope, &mfa_token).await.map_err(|it| No::of(it, at.generation))?;
    let codes: Vec<&str> = told.iter().map(Secret::reveal).collect();
    Ok(said::mfa(StatusCode::OK, at, core.now(), json!({ "recoveryCodes": codes })))
}

/// `POST mfa/challenge`: sends a code, or another one.
pub(super) async fn challenge(hall: &Hall, at: &At, asked: &Asked) -> Result<Response, No> {
    let username = person(at)?;
    let mfa_token = needed_token(&asked.headers, &asked.uri, at, true)?;
    let how = hall.house.core.challenge_sign_in(&at.scope, &username.login, &mfa_token).await;
    sent(hall, at, how.map_err(|it| No::of(it, at.generation))?)?;
    Ok(said::mfa(StatusCode::OK, at, hall.house.core.now(), json!({ "message": "Please verify the MFA challenge." })))
}

/// What has become of a code. Who waits for a provider's word is told that it is on its way; that no provider takes it now is an error
/// here (contract §6), though it is tried again.
pub(super) fn sent(hall: &Hall, at: &At, how: Sent) -> Result<(), No> {
    hall.measures.opened(Channel::External);
    match how {
        Sent::Taken | Sent::Queued | Sent::Nothing => Ok(()),
        Sent::Postponed => Err(No::messaging(at.generation)),
    }
}

/// `POST mfa/verify`: the log-in is finished.
pub(super) async fn verify(hall: &Hall, at: &At, asked: &Asked) -> Result<Response, No> {
    let (core, username) = (&hall.house.core, person(at)?);
    let mfa_token = needed_token(&asked.headers, &asked.uri, at, true)?;
    let more = prove(hall, at, asked, &mfa_token, Finishes::Login).await?.more;
    let (token, endpoint) = match &at.settings.core_url {
        Some(_) => (more["token"].as_str().unwrap_or_default().to_owned(), more["apiEndpoint"].clone()),
        None => {
            let app = more["app"].as_str().unwrap_or_default();
            let token = core.log_in(&at.scope, &username.login, app, at.settings.access_max_age()).await;
            let token = token.map_err(|it| own::no(it, at, username))?;
            let endpoint = own::api_endpoint(&hall.house.base_url, &at.settings, &username.text, Some(&token));
            (token.reveal().to_owned(), endpoint.into())
        }
    };
    let body = match at.generation {
        Generation::V1 | Generation::ByClient => json!({ "token": token }),
        Generation::V2 => json!({ "token": token, "apiEndpoint": endpoint }),
    };
    Ok(said::mfa(StatusCode::OK, at, core.now(), body))
}

/// Judges the code of a body. Only a text is one (contract §9, property 1).
async fn prove(hall: &Hall, at: &At, asked: &Asked, mfa_token: &Secret, purpose: Finishes) -> Result<Baggage, No> {
    let username = person(at)?;
    let code = match (asked.body.get("code"), at.generation) {
        (Some(Value::String(code)), _) => code.as_str(),
        (None, Generation::V2) => {
            let what = "Missing required property: code";
            return Err(No::parameter("OBJECT_MISSING_REQUIRED_PROPERTY", json!(["code"]), what.into(), "#/code"));
        }
        (Some(_), Generation::V2) => return Err(own::text(&asked.body, "code").err().unwrap_or_else(|| No::code(at.generation, ""))),
        // It is no answer, so it costs nothing; the token is looked at all the same.
        (_, Generation::V1 | Generation::ByClient) => "",
    };
    let with: Variables = serde_json::from_slice(&asked.raw).unwrap_or_default();
    let offered = Offered { code: Secret::new(code), with };
    let judged = hall.house.core.prove_sign_in(&at.scope, &username.login, mfa_token, purpose, offered).await;
    let sent = || asked.body.get("code").map_or_else(|| "undefined".to_owned(), shown);
    let counted = |it| hall.measures.judged(it);
    match judged {
        Ok((Answered::Passed, baggage)) => {
            counted(Verdict::Passed);
            Ok(baggage)
        }
        Ok((Answered::Wrong { .. }, _)) => {
            counted(Verdict::Wrong);
            Err(No::code(at.generation, &sent()))
        }
        Ok((Answered::LastWrong, _)) => {
            counted(Verdict::LastWrong);
            Err(No::code(at.generation, &sent()))
        }
        Ok((Answered::Over, _)) => {
            counted(Verdict::Over);
            Err(No::code(at.generation, &sent()))
        }
        // Who checks its own codes says no in words of its own, and those are not told (contract §3, §6).
        Ok((Answered::Declined { attempts_left }, _)) => {
            counted(if attempts_left.is_some() { Verdict::Wrong } else { Verdict::LastWrong });
            Err(No::messaging(at.generation))
        }
        Err(Error::Refused(Refusal::AnswerMalformed(_))) => {
            counted(Verdict::Refused);
            Err(No::code(at.generation, &sent()))
        }
        Err(Error::Refused(it)) => {
            counted(Verdict::Refused);
            Err(No::refused(&it, at.generation))
        }
        Err(Error::Fault(it)) => Err(No::fault(&it)),
    }
}

/// `POST mfa/deactivate`. It is the same answer when there was nothing to take away.
pub(super) async fn deactivate(hall: &Hall, at: &At, asked: &Asked) -> Result<Response, No> {
    let (core, username) = (&hall.house.core, person(at)?);
    match core_of(hall, at)? {
        Some(upstream) => {
            let token = needed_token(&asked.headers, &asked.uri, at, false)?;
            if at.generation == Generation::V2 {
                personal(hall, at, asked).await?;
            }
            upstream.put_block(&token, None).await?;
        }
        None => {
            personal(hall, at, asked).await?;
            core.remove_second_factor(&at.scope, &username.login).await.map_err(|it| own::no(it, at, username))?;
        }
    }
    Ok(deactivated(hall, at))
}

fn deactivated(hall: &Hall, at: &At) -> Response {
    said::mfa(StatusCode::OK, at, hall.house.core.now(), json!({ "message": "MFA deactivated." }))
}

/// `POST mfa/recover`: password and recovery code take the second factor away, with all its codes.
pub(super) async fn recover(hall: &Hall, at: &At, asked: &Asked) -> Result<Response, No> {
    let username = person(at)?;
    let code = match (asked.body.get("recoveryCode"), at.generation) {
        (None | Some(Value::Null), Generation::V1 | Generation::ByClient) => {
            return Err(No::bad("invalid-request-structure", "Missing parameter: recoveryCode."));
        }
        (None, Generation::V2) => return Err(missing("recoveryCode")),
        (Some(Value::String(code)), _) => Secret::new(code.as_str()),
        // Codes are texts; what is none is one that is not right.
        (Some(_), Generation::V1 | Generation::ByClient) => Secret::new(""),
        (Some(_), Generation::V2) => return Err(own::text(&asked.body, "recoveryCode").err().unwrap_or_else(|| missing("recoveryCode"))),
    };
    match core_of(hall, at)? {
        Some(upstream) => recover_upstream(hall, at, asked, username, &upstream, &code).await,
        None => recover_own(hall, at, asked, username, &code).await,
    }
}

async fn recover_upstream(
    hall: &Hall,
    at: &At,
    asked: &Asked,
    username: &Username,
    upstream: &Upstream<'_>,
    code: &Secret,
) -> Result<Response, No> {
    let mut body = asked.body.clone();
    if let Some(body) = body.as_object_mut() {
        body.remove("recoveryCode");
    }
    let heard = upstream.login(body.to_string().into_bytes(), &asked.headers).await?;
    let token = Secret::new(parsed(&heard.body)["token"].as_str().unwrap_or_default());
    let block = upstream.block(&token).await?;
    spend(hall, at, username, block.map(|it| it.recovery), code).await?;
    upstream.put_block(&token, None).await?;
    Ok(deactivated(hall, at))
}

async fn recover_own(hall: &Hall, at: &At, asked: &Asked, username: &Username, code: &Secret) -> Result<Response, No> {
    let core = &hall.house.core;
    let factor = core.second_factor(&at.scope, &username.login).await.map_err(|it| own::no(it, at, username))?;
    // A client of either generation is understood: with the application's name, and without (contract §12).
    let mut body = asked.body.clone();
    if at.generation == Generation::V2 && body.get("appId").is_none() {
        body["appId"] = Value::from("");
        for name in ["username", "password"] {
            if body.get(name).is_none() {
                return Err(missing(name));
            }
        }
    } else {
        check_app(&at.settings, body["appId"].as_str().unwrap_or_default(), &asked.headers).or_else(|no| match body.get("appId") {
            Some(Value::String(_)) => Err(no),
            _ => Ok(()),
        })?;
    }
    let password = own::recovering(at, &body)?;
    core.check_password(&at.scope, &username.login, &password, &asked.from).await.map_err(|it| own::no(it, at, username))?;
    spend(hall, at, username, factor.map(|it| it.recovery), code).await?;
    core.remove_second_factor(&at.scope, &username.login).await.map_err(|it| own::no(it, at, username))?;
    Ok(deactivated(hall, at))
}

/// Judges a recovery code.
async fn spend(hall: &Hall, at: &At, username: &Username, kept: Option<Vec<KeptCode>>, code: &Secret) -> Result<(), No> {
    let invalid = || No::bad("invalid-parameters-format", "Invalid recovery code.");
    let Some(kept) = kept else {
        return Err(match at.generation {
            Generation::V1 | Generation::ByClient => invalid(),
            Generation::V2 => No::bad("invalid-operation", "MFA is not active for this user."),
        });
    };
    let judged = hall.house.core.try_recovery(&at.scope, &username.login, &kept, code).await;
    if judged.map_err(|it| No::of(it, at.generation))? { Ok(()) } else { Err(invalid()) }
}

fn missing(name: &str) -> No {
    No::parameter("OBJECT_MISSING_REQUIRED_PROPERTY", json!([name]), format!("Missing required property: {name}"), "#/")
}
