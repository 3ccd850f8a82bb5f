//! What clients ask before they log in (contract §8).

use super::asked::Asked;
use super::at::{At, Contract};
use super::own;
use super::said::{self, No};
use super::upstream::{Upstream, as_heard};
use crate::Hall;
use axum::http::StatusCode;
use axum::http::header::HOST;
use axum::response::Response;
use countersign_core::words::refusal::{Error, Refusal};
use serde_json::{Value, json};

/// `GET service/info`: where everything is. In front of a core it is the core's word, unless the tenant has its own.
pub(super) async fn info(hall: &Hall, at: &At, asked: &Asked) -> Result<Response, No> {
    if let Some(url) = &at.settings.core_url
        && !at.settings.service.contains_key("name")
    {
        let username = at.username.as_ref().map_or("reg", |it| it.text.as_str());
        let upstream = Upstream { hall, url, username };
        let host = asked.headers.get(HOST).and_then(|it| it.to_str().ok());
        let handed = host.map(|host| ("host", host.to_owned())).into_iter().collect();
        return Ok(as_heard(upstream.ask("GET", "service/info", None, handed, Vec::new()).await?));
    }
    let base = hall.house.base_url.as_str().trim_end_matches('/');
    let (register, access) = match &at.settings.domain {
        Some(domain) => {
            let port = hall.house.base_url.port().map(|port| format!(":{port}")).unwrap_or_default();
            let scheme = hall.house.base_url.scheme();
            (format!("{scheme}://reg.{domain}{port}/"), format!("{scheme}://access.{domain}{port}/access/"))
        }
        None => (format!("{base}/reg/"), format!("{base}/reg/access/")),
    };
    let mut info = json!({
        "name": at.scope.tenant.tenant.display_name,
        "register": register,
        "access": access,
        "api": own::api(&hall.house.base_url, &at.settings),
        "home": base,
        "support": base,
        "terms": base,
        "eventTypes": "https://api.pryv.com/event-types/flat.json",
        "serial": at.settings.serial(),
        "version": at.settings.api_version,
    });
    for (name, value) in &at.settings.service {
        info[name] = value.clone();
    }
    info["meta"] = said::meta(at, hall.house.core.now());
    Ok(said::answer(StatusCode::OK, &info))
}

/// `POST {register}{username}/server`: whether there is such a person, and on which host.
pub(super) async fn server(hall: &Hall, at: &At) -> Result<Response, No> {
    let username = at.person()?;
    let api = own::api_endpoint(&hall.house.base_url, &at.settings, &username.text, None);
    let host = api.split("//").nth(1).and_then(|it| it.split('/').next()).unwrap_or_default();
    let found = match &at.settings.core_url {
        // Whom the core knows, it says itself when it is asked.
        Some(_) => Ok(()),
        None => hall.house.core.knows(&at.scope, &username.login).await,
    };
    match found {
        Ok(()) => Ok(said::answer(StatusCode::OK, &json!({ "server": host, "alias": api }))),
        Err(Error::Refused(Refusal::UserUnknown)) => Ok(said::answer(StatusCode::NOT_FOUND, &unknown(at))),
        Err(other) => Err(at.no(other)),
    }
}

fn unknown(at: &At) -> Value {
    match at.speaks {
        Contract::V1 => {
            json!({ "id": "UNKNOWN_USER_NAME", "message": "Unknown username", "detail": "", "errors": [] })
        }
        Contract::V2 => json!({ "error": { "id": "unknown-user", "message": "Unknown username" } }),
    }
}

/// `GET {register}hostings`: there is one, here.
pub(super) fn hostings(hall: &Hall, at: &At) -> Result<Response, No> {
    alone(at)?;
    let name = &at.scope.tenant.tenant.display_name;
    let hosting = json!({ "name": name, "available": true, "availableCore": hall.house.base_url.as_str() });
    let zones = json!({ "here": { "name": name, "hostings": { "here": hosting } } });
    Ok(said::answer(StatusCode::OK, &json!({ "regions": { "here": { "name": name, "zones": zones } } })))
}

/// `GET {register}{username}/check_username`: whether nobody else can have the name.
pub(super) async fn check_username(hall: &Hall, at: &At) -> Result<Response, No> {
    alone(at)?;
    let username = at.person()?;
    let reserved = match hall.house.core.knows(&at.scope, &username.login).await {
        Ok(()) => true,
        Err(Error::Refused(Refusal::UserUnknown)) => at.settings.check_name(&username.text).is_err(),
        Err(other) => return Err(at.no(other)),
    };
    Ok(said::answer(StatusCode::OK, &json!({ "reserved": reserved })))
}

/// `GET {register}{email}/uid` and `…/username`: no mailbox of anybody is kept here.
pub(super) fn uid(at: &At) -> Result<Response, No> {
    alone(at)?;
    let body = match at.speaks {
        Contract::V1 => json!({ "id": "UNKNOWN_EMAIL", "message": "Unknown e-mail", "detail": "", "errors": [] }),
        Contract::V2 => json!({ "error": { "id": "unknown-email", "message": "Unknown e-mail" } }),
    };
    Ok(said::answer(StatusCode::NOT_FOUND, &body))
}

/// In front of a core these belong to the platform's own register.
fn alone(at: &At) -> Result<(), No> {
    if at.settings.core_url.is_some() { Err(No::nothing_here()) } else { Ok(()) }
}
