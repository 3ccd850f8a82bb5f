//! Logging in and out, and what belongs to a person who is logged in (contract §2, §3 "Stored form").

use super::asked::Asked;
use super::at::{At, Contract};
use super::own::{self, access, credentials};
use super::said::{self, No};
use super::upstream::{self, as_heard, core_of, parsed};
use crate::Hall;
use axum::http::StatusCode;
use axum::response::Response;
use countersign_core::nouns::sign_in::{Baggage, Finishes};
use countersign_core::ports::Heard;
use countersign_core::verbs::account::{LoggedIn, Next};
use countersign_core::verbs::sign_in::NewSignIn;
use countersign_core::words::address::{Address, Channel};
use countersign_core::words::id::{FactorId, UserId};
use countersign_core::words::refusal::Fault;
use countersign_core::words::secret::Secret;
use countersign_core::words::variables::Variables;
use serde_json::{Map, Value, json};

/// `POST auth/login`.
pub(super) async fn login(hall: &Hall, at: &At, asked: &Asked) -> Result<Response, No> {
    let (core, username) = (&hall.house.core, at.person()?);
    if let Some(upstream) = core_of(hall, at)? {
        let heard = upstream.login(asked.raw.clone(), &asked.headers).await?;
        let said = parsed(&heard.body);
        let token = said["token"].as_str().map(Secret::new);
        let token = token.ok_or_else(|| No::fault(&Fault::Corrupt("the core logged a person in without a token".into())))?;
        return match upstream.second_factor(&token).await? {
            None => Ok(as_heard(heard)),
            Some(factor) => {
                let more = json!({ "token": token.reveal(), "apiEndpoint": said["apiEndpoint"] });
                needs_second(hall, at, factor.data, None, more).await
            }
        };
    }
    // Who is not there is told first, whatever else is wrong (contract §2).
    core.knows(&at.scope, &username.login).await.map_err(|it| at.no(it))?;
    let given = credentials(at, asked)?;
    match core.check_password(&at.scope, &username.login, &given.password, &asked.from).await.map_err(|it| at.no(it))? {
        Next::Second { account, factor } => needs_second(hall, at, factor.data, account, json!({ "app": given.app })).await,
        Next::Done(passage) => {
            let lasts = at.settings.access_max_age();
            let LoggedIn { token, language } =
                core.log_in(&at.scope, &username.login, passage, &given.app, lasts).await.map_err(|it| at.no(it))?;
            let endpoint = own::api_endpoint(&hall.house.base_url, &at.settings, &username.text, Some(&token));
            let body = json!({ "token": token.reveal(), "apiEndpoint": endpoint, "preferredLanguage": language });
            Ok(said::core(at, core.now(), body))
        }
    }
}

/// A person whose password is right, and who has a second factor. The second generation sends the code at once.
async fn needs_second(hall: &Hall, at: &At, data: Variables, account: Option<(UserId, FactorId)>, more: Value) -> Result<Response, No> {
    let core = &hall.house.core;
    let baggage = Baggage { channel: Channel::External, to: Address::Data(data), account, more };
    let (login, lasts) = (at.person()?.login.clone(), at.settings.session_ttl());
    let new = NewSignIn { login, purpose: Finishes::Login, baggage, lasts };
    let (status, token) = match at.speaks {
        Contract::V1 => (StatusCode::FOUND, core.begin_sign_in(&at.scope, new).await.map_err(|it| at.no(it))?),
        Contract::V2 => {
            let (token, sent) = core.begin_sign_in_with_code(&at.scope, new).await.map_err(|it| at.no(it))?;
            said::sent(hall, at, sent)?;
            (StatusCode::OK, token)
        }
    };
    // Never with a Location: clients read the body (contract §8).
    Ok(said::mfa(status, at, core.now(), json!({ "mfaToken": token.reveal() })))
}

/// `POST auth/logout`.
pub(super) async fn logout(hall: &Hall, at: &At, asked: &Asked) -> Result<Response, No> {
    let token = asked.needed_token()?;
    if let Some(upstream) = core_of(hall, at)? {
        return Ok(as_heard(upstream.ask("POST", "auth/logout", Some(&token), Vec::new(), asked.raw.clone()).await?));
    }
    access(hall, at, &token).await?;
    hall.house.core.log_out(&at.scope, &at.person()?.login, &token).await.map_err(|it| at.no(it))?;
    Ok(said::core(at, hall.house.core.now(), json!({})))
}

/// `GET access-info`.
pub(super) async fn access_info(hall: &Hall, at: &At, asked: &Asked) -> Result<Response, No> {
    let token = asked.needed_token()?;
    if let Some(upstream) = core_of(hall, at)? {
        return Ok(as_heard(upstream.ask("GET", "access-info", Some(&token), Vec::new(), Vec::new()).await?));
    }
    let (user, access) = access(hall, at, &token).await?;
    let created = said::seconds(access.created_at);
    let body = json!({
        "type": "personal",
        "id": access.id.to_string(),
        "name": access.app,
        "token": token.reveal(),
        "created": created,
        "createdBy": "system",
        "modified": created,
        "modifiedBy": "system",
        "user": { "username": user.login.reveal() },
    });
    Ok(said::core(at, hall.house.core.now(), body))
}

/// `GET profile/private`.
pub(super) async fn profile(hall: &Hall, at: &At, asked: &Asked) -> Result<Response, No> {
    let token = asked.needed_token()?;
    if let Some(upstream) = core_of(hall, at)? {
        return Ok(shown(upstream.ask("GET", "profile/private", Some(&token), Vec::new(), Vec::new()).await?));
    }
    access(hall, at, &token).await?;
    own_profile(hall, at, None).await
}

/// `PUT profile/private`. A second factor is proven before it is kept, so none can be written here; one can be taken out, as by
/// `mfa/deactivate`.
pub(super) async fn put_profile(hall: &Hall, at: &At, asked: &Asked) -> Result<Response, No> {
    let token = asked.needed_token()?;
    let Value::Object(mut new) = asked.body.clone() else {
        return Err(No::bad("invalid-parameters-format", "A profile is a JSON object.").by_core());
    };
    // A core may take `mfa.content` for the content of `mfa`.
    if new.iter().any(|(name, value)| name == "mfa" && !value.is_null() || name.starts_with("mfa.")) {
        return Err(No::bad("invalid-operation", "A second factor is set by mfa.activate and mfa.confirm.").by_core());
    }
    if let Some(upstream) = core_of(hall, at)? {
        return Ok(shown(upstream.ask("PUT", "profile/private", Some(&token), Vec::new(), asked.raw.clone()).await?));
    }
    access(hall, at, &token).await?;
    if new.remove("mfa").is_some() {
        hall.house.core.remove_second_factor(&at.scope, &at.person()?.login).await.map_err(|it| at.no(it))?;
    }
    own_profile(hall, at, Some(new)).await
}

/// The profile that we keep, after `new` was put into it, with what may be seen of the second factor.
async fn own_profile(hall: &Hall, at: &At, new: Option<Map<String, Value>>) -> Result<Response, No> {
    let (core, login) = (&hall.house.core, &at.person()?.login);
    let kept = match new {
        Some(new) => core.merge_profile(&at.scope, login, new).await,
        None => core.profile(&at.scope, login).await,
    };
    let mut profile = kept.map_err(|it| at.no(it))?;
    if let Some(it) = core.second_factor(&at.scope, login).await.map_err(|it| at.no(it))? {
        profile.insert("mfa".into(), json!({ "content": it.data, "recoveryCodesLeft": it.recovery.len() }));
    }
    Ok(said::core(at, core.now(), json!({ "profile": profile })))
}

/// A profile as the core said it, without the recovery codes.
fn shown(heard: Heard) -> Response {
    let mut said = parsed(&heard.body);
    match said.get_mut("profile") {
        Some(profile) => {
            upstream::without_codes(profile);
            as_heard(Heard { body: said.to_string().into_bytes(), ..heard })
        }
        None => as_heard(heard),
    }
}
