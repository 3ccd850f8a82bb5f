//! Logging in and out, and what belongs to a person who is logged in (contract §2, §3 "Stored form").

use super::own::{self, access, credentials, person};
use super::place::{At, needed_token, no_token, token};
use super::said::{self, No};
use super::settings::Generation;
use super::upstream::{self, Upstream, parsed};
use super::{Asked, mfa};
use crate::Hall;
use axum::http::StatusCode;
use axum::response::Response;
use countersign_core::nouns::sign_in::{Baggage, Finishes};
use countersign_core::ports::Heard;
use countersign_core::verbs::sign_in::NewSignIn;
use countersign_core::words::address::{Address, Channel};
use countersign_core::words::secret::Secret;
use countersign_core::words::variables::Variables;
use serde_json::{Map, Value, json};

/// The core in front of which the tenant stands, asked for the person of the path; nothing where it stands alone.
pub(super) fn core_of<'a>(hall: &'a Hall, at: &'a At) -> Result<Option<Upstream<'a>>, No> {
    let Some(url) = &at.settings.core_url else { return Ok(None) };
    Ok(Some(Upstream { hall, url, username: &person(at)?.text }))
}

/// `POST auth/login`.
pub(super) async fn login(hall: &Hall, at: &At, asked: &Asked) -> Result<Response, No> {
    let core = &hall.house.core;
    let username = person(at)?;
    if let Some(upstream) = core_of(hall, at)? {
        let heard = upstream.login(asked.raw.clone(), &asked.headers).await?;
        let said = parsed(&heard.body);
        let token = said["token"].as_str().map(Secret::new).ok_or_else(|| {
            tracing::error!("The core logged a person in without a token");
            No::new(StatusCode::INTERNAL_SERVER_ERROR, "unexpected-error", "Something went wrong here.")
        })?;
        return match upstream.block(&token).await? {
            None => Ok(as_heard(heard)),
            Some(block) => {
                let more = json!({ "token": token.reveal(), "apiEndpoint": said["apiEndpoint"] });
                needs_second(hall, at, block.content, more).await
            }
        };
    }
    core.second_factor(&at.scope, &username.login).await.map_err(|it| own::no(it, at, username))?;
    let given = credentials(at, &asked.body, &asked.headers)?;
    let person = core.check_password(&at.scope, &username.login, &given.password, &asked.from).await;
    let person = person.map_err(|it| own::no(it, at, username))?;
    // Read after the password: who has none may become somebody who has one in between, and not the other way round.
    let factor = core.second_factor(&at.scope, &username.login).await.map_err(|it| own::no(it, at, username))?;
    match factor {
        Some(factor) => needs_second(hall, at, factor.data, json!({ "app": given.app })).await,
        None => {
            let lasts = at.settings.access_max_age();
            let token = core.log_in(&at.scope, &username.login, &given.app, lasts).await.map_err(|it| own::no(it, at, username))?;
            let endpoint = own::api_endpoint(&hall.house.base_url, &at.settings, &username.text, Some(&token));
            let language = person.account.map_or_else(|| "en".to_owned(), |it| it.language);
            let body = json!({ "token": token.reveal(), "apiEndpoint": endpoint, "preferredLanguage": language });
            Ok(said::core(at, core.now(), body))
        }
    }
}

/// A person whose password is right, and who has a second factor. The second generation sends the code at once.
async fn needs_second(hall: &Hall, at: &At, data: Variables, more: Value) -> Result<Response, No> {
    let core = &hall.house.core;
    let baggage = Baggage { channel: Channel::External, to: Address::Data(data), more };
    let (login, lasts) = (person(at)?.login.clone(), at.settings.session_ttl());
    let new = NewSignIn { login, purpose: Finishes::Login, baggage, lasts };
    let (status, token) = match at.generation {
        Generation::V1 | Generation::ByClient => {
            let begun = core.begin_sign_in(&at.scope, new).await;
            (StatusCode::FOUND, begun.map_err(|it| No::of(it, at.generation))?)
        }
        Generation::V2 => {
            let begun = core.begin_sign_in_with_code(&at.scope, new).await;
            let (token, sent) = begun.map_err(|it| No::of(it, at.generation))?;
            mfa::sent(hall, at, sent)?;
            (StatusCode::OK, token)
        }
    };
    // Never with a Location: clients read the body (contract §8).
    Ok(said::mfa(status, at, core.now(), json!({ "mfaToken": token.reveal() })))
}

/// `POST auth/logout`.
pub(super) async fn logout(hall: &Hall, at: &At, asked: &Asked) -> Result<Response, No> {
    let token = token(&asked.headers, &asked.uri).ok_or_else(no_token)?;
    if let Some(upstream) = core_of(hall, at)? {
        return Ok(as_heard(upstream.ask("POST", "auth/logout", Some(&token), Vec::new(), asked.raw.clone()).await?));
    }
    access(hall, at, Some(token.clone())).await?;
    let username = person(at)?;
    hall.house.core.log_out(&at.scope, &username.login, &token).await.map_err(|it| own::no(it, at, username))?;
    Ok(said::core(at, hall.house.core.now(), json!({})))
}

/// `GET access-info`.
pub(super) async fn access_info(hall: &Hall, at: &At, asked: &Asked) -> Result<Response, No> {
    let token = token(&asked.headers, &asked.uri).ok_or_else(no_token)?;
    if let Some(upstream) = core_of(hall, at)? {
        return Ok(as_heard(upstream.ask("GET", "access-info", Some(&token), Vec::new(), Vec::new()).await?));
    }
    let (user, access) = access(hall, at, Some(token.clone())).await?;
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
    let token = token(&asked.headers, &asked.uri).ok_or_else(no_token)?;
    if let Some(upstream) = core_of(hall, at)? {
        return Ok(shown(upstream.ask("GET", "profile/private", Some(&token), Vec::new(), Vec::new()).await?));
    }
    access(hall, at, Some(token)).await?;
    own_profile(hall, at, None).await
}

/// `PUT profile/private`. A second factor is proven before it is kept, so none can be written here; one can be taken out, as by
/// `mfa/deactivate`.
pub(super) async fn put_profile(hall: &Hall, at: &At, asked: &Asked) -> Result<Response, No> {
    let token = needed_token(&asked.headers, &asked.uri, at, false)?;
    let Value::Object(mut new) = asked.body.clone() else {
        return Err(No::bad("invalid-parameters-format", "A profile is a JSON object.").by_core());
    };
    if new.get("mfa").is_some_and(|it| !it.is_null()) {
        return Err(No::bad("invalid-operation", "A second factor is set by mfa.activate and mfa.confirm.").by_core());
    }
    if let Some(upstream) = core_of(hall, at)? {
        return Ok(shown(upstream.ask("PUT", "profile/private", Some(&token), Vec::new(), asked.raw.clone()).await?));
    }
    access(hall, at, Some(token)).await?;
    if new.remove("mfa").is_some() {
        let username = person(at)?;
        hall.house.core.remove_second_factor(&at.scope, &username.login).await.map_err(|it| own::no(it, at, username))?;
    }
    own_profile(hall, at, Some(new)).await
}

/// The profile that we keep, after `new` was put into it, with what may be seen of the second factor.
async fn own_profile(hall: &Hall, at: &At, new: Option<Map<String, Value>>) -> Result<Response, No> {
    let (core, username) = (&hall.house.core, person(at)?);
    let kept = match new {
        Some(new) => core.merge_profile(&at.scope, &username.login, new).await,
        None => core.profile(&at.scope, &username.login).await,
    };
    let mut profile = kept.map_err(|it| own::no(it, at, username))?;
    let factor = core.second_factor(&at.scope, &username.login).await.map_err(|it| own::no(it, at, username))?;
    if let Some(it) = factor {
        let data = serde_json::to_value(&it.data).unwrap_or_default();
        profile.insert("mfa".into(), json!({ "content": data, "recoveryCodesLeft": it.recovery.len() }));
    }
    Ok(said::core(at, core.now(), json!({ "profile": profile })))
}

/// What the core said, as it said it.
pub(super) fn as_heard(heard: Heard) -> Response {
    let status = StatusCode::from_u16(heard.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    said::raw(status, heard.content_type.as_deref().unwrap_or("application/json"), heard.body)
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
