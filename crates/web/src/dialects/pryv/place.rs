//! Where a request stands: which tenant, which person, and what was brought along (contract §1).

use super::said::No;
use super::settings::{DIALECT, Generation, Settings};
use crate::Hall;
use axum::http::header::{ACCEPT, AUTHORIZATION, HOST};
use axum::http::{HeaderMap, StatusCode, Uri};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use countersign_core::Scope;
use countersign_core::verbs::standing::Speakers;
use countersign_core::words::address::Login;
use countersign_core::words::id::TenantId;
use countersign_core::words::refusal::Fault;
use countersign_core::words::secret::Secret;
use std::sync::{Arc, Mutex};

/// First labels of hosts that are no people (contract §1).
const RESERVED: [&str; 3] = ["reg", "access", "mfa"];

/// Where a request stands.
#[derive(Debug, Clone)]
pub(super) struct At {
    pub scope: Scope,
    pub settings: Arc<Settings>,
    /// Which contract is spoken with this caller: never [`Generation::ByClient`].
    pub generation: Generation,
    /// The person that the host or the path names.
    pub username: Option<Username>,
}

/// What a person is called in a path or host.
#[derive(Debug, Clone)]
pub(super) struct Username {
    /// As it was sent.
    pub text: String,
    pub login: Login,
}

impl Username {
    /// Letters, digits and hyphens: what can be a label of a host, in any case.
    pub fn parse(text: &str) -> Option<Self> {
        let fits = (1..=60).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        fits.then(|| Login::parse(text).ok()).flatten().map(|login| Self { text: text.to_owned(), login })
    }
}

/// The tenants that speak this dialect, with their settings read: once for each time that they change.
#[derive(Debug, Default)]
pub(crate) struct Doors(Mutex<Option<(Speakers, Arc<Vec<Door>>)>>);

/// One tenant that speaks this dialect.
#[derive(Debug)]
struct Door {
    tenant: TenantId,
    settings: Arc<Settings>,
}

impl Doors {
    async fn all(&self, hall: &Hall) -> Result<Arc<Vec<Door>>, Fault> {
        let speakers = hall.house.core.speaking(DIALECT).await?;
        let mut kept = self.0.lock().expect("nobody panics while holding it");
        if let Some((of, doors)) = &*kept
            && Arc::ptr_eq(of, &speakers)
        {
            return Ok(doors.clone());
        }
        let read = |(tenant, told): &(TenantId, serde_json::Value)| match Settings::read(told) {
            Ok(settings) => Some(Door { tenant: *tenant, settings: Arc::new(settings) }),
            Err(why) => {
                tracing::error!(tenant.id = %tenant, "The settings of the dialect {DIALECT} of tenant {tenant} cannot be read: {why}");
                None
            }
        };
        let doors = Arc::new(speakers.iter().filter_map(read).collect::<Vec<_>>());
        *kept = Some((speakers, doors.clone()));
        Ok(doors)
    }
}

/// Where the request stands; nothing when no tenant speaks this dialect at the host that was asked.
pub(super) async fn find(hall: &Hall, uri: &Uri, headers: &HeaderMap, in_path: Option<&str>) -> Result<Option<At>, No> {
    let doors = hall.doors.all(hall).await.map_err(|it| No::fault(&it))?;
    let host = headers.get(HOST).and_then(|it| it.to_str().ok()).or_else(|| uri.authority().map(|it| it.as_str())).unwrap_or_default();
    let bare = without_port(host).trim_end_matches('.');
    let Some((door, label)) = door_at(&doors, bare) else { return Ok(None) };
    let label = label.filter(|it| !RESERVED.contains(&it.to_ascii_lowercase().as_str()));
    let name = match (label, in_path) {
        // A person's host has no other people below it.
        (Some(label), Some(name)) if !label.eq_ignore_ascii_case(name) => return Err(No::unknown_resource("Unknown resource ")),
        (_, Some(name)) => Some(name),
        (label, None) => label,
    };
    let standing = hall.house.core.standing(door.tenant).await.map_err(|it| No::fault(&it))?;
    let Some(standing) = standing else { return Ok(None) };
    let generation = match door.settings.generation {
        Generation::ByClient => {
            let accepts = headers.get(ACCEPT).and_then(|it| it.to_str().ok()).unwrap_or_default();
            // Clients of the first generation say `json` alone, or whatever their browser says (contract §8).
            let is_second = accepts.split(',').any(|it| it.split(';').next().is_some_and(|it| it.trim() == "application/json"));
            if is_second { Generation::V2 } else { Generation::V1 }
        }
        known => known,
    };
    let username = match name {
        None => None,
        Some(name) => Some(Username::parse(name).ok_or_else(|| No::unknown_resource("Unknown resource "))?),
    };
    Ok(Some(At { scope: Scope::of_tenant(standing), settings: door.settings.clone(), generation, username }))
}

/// The tenant whose domain is the longest end of the host, and the person's label before it; else the one without a domain.
fn door_at<'a>(doors: &'a [Door], host: &'a str) -> Option<(&'a Door, Option<&'a str>)> {
    let below = |door: &'a Door| {
        let domain = door.settings.domain.as_deref()?;
        let before = host.len().checked_sub(domain.len())?;
        if !host.is_char_boundary(before) || !host[before..].eq_ignore_ascii_case(domain) {
            return None;
        }
        match &host[..before] {
            "" => Some((door, None, domain.len())),
            label => label.strip_suffix('.').filter(|it| !it.contains('.')).map(|it| (door, Some(it), domain.len())),
        }
    };
    let named = doors.iter().filter_map(below).max_by_key(|(_, _, length)| *length);
    if let Some((door, label, _)) = named {
        return Some((door, label.filter(|it| is_label(it) || RESERVED.contains(it))));
    }
    let open = doors.iter().find(|it| it.settings.domain.is_none())?;
    let mut labels = host.split('.');
    let first = labels.next().filter(|it| labels.clone().count() >= 2 && is_label(it));
    Some((open, first))
}

/// `^[a-z0-9][a-z0-9-]{3,58}[a-z0-9]$`, compared in small letters: what a host may hold as the name of a person (contract §1).
fn is_label(text: &str) -> bool {
    let edges = [text.bytes().next(), text.bytes().next_back()];
    (5..=60).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && edges.iter().all(|it| it.is_some_and(|b| b.is_ascii_alphanumeric()))
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    }
}

/// The token that a request carries: raw, `Basic`, `Bearer`, or `?auth=` (contract §1).
pub(super) fn token(headers: &HeaderMap, uri: &Uri) -> Option<Secret> {
    let header = headers.get(AUTHORIZATION).and_then(|it| it.to_str().ok()).map(str::trim).filter(|it| !it.is_empty());
    if let Some(text) = header {
        let after = |scheme: &str| {
            let (before, rest) = text.split_at_checked(scheme.len())?;
            before.eq_ignore_ascii_case(scheme).then(|| rest.trim())
        };
        let token = if let Some(encoded) = after("basic ") {
            let plain = String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?;
            plain.split(':').next().unwrap_or_default().to_owned()
        } else if let Some(token) = after("bearer ") {
            token.to_owned()
        } else {
            // What stands behind a blank names the author of a change, and is no part of the token.
            text.split(' ').next().unwrap_or_default().to_owned()
        };
        return Some(token).filter(|it| !it.is_empty()).map(Secret::new);
    }
    let query = uri.query().unwrap_or_default();
    let found = url::form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "auth");
    found.map(|(_, token)| token.into_owned()).filter(|it| !it.is_empty()).map(Secret::new)
}

/// The same, or what is said when there is none.
pub(super) fn needed_token(headers: &HeaderMap, uri: &Uri, at: &At, is_mfa: bool) -> Result<Secret, No> {
    token(headers, uri).ok_or_else(|| match (at.generation, is_mfa) {
        (Generation::V1 | Generation::ByClient, _) => {
            No::new(StatusCode::FORBIDDEN, "forbidden", "Missing 'Authorization' header or 'auth' query parameter.")
        }
        (Generation::V2, true) => No::parameter(
            "OBJECT_MISSING_REQUIRED_PROPERTY",
            serde_json::json!(["mfaToken"]),
            "Missing required property: mfaToken".into(),
            "#/mfaToken",
        ),
        (Generation::V2, false) => no_token(),
    })
}

/// What a core says when it is asked without a token.
pub(super) fn no_token() -> No {
    let what = "The access token is missing: expected an \"Authorization\" header or an \"auth\" query string parameter.";
    No::new(StatusCode::UNAUTHORIZED, "invalid-access-token", what).by_core()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;
    use countersign_core::ports::test::Script;
    use countersign_core::words::time::Timestamp;

    fn door(domain: Option<&str>) -> Door {
        let settings = Settings { domain: domain.map(str::to_owned), ..Settings::default() };
        Door { tenant: TenantId::new(Timestamp::from_millis(0), &Script::default()), settings: Arc::new(settings) }
    }

    #[test]
    fn a_host_leads_to_the_tenant_with_the_longest_domain_and_to_a_person() {
        let doors = [door(Some("pryv.me")), door(Some("eu.pryv.me")), door(None)];
        let at = |host: &'static str| {
            door_at(&doors, host).map(|(door, label)| (doors.iter().position(|it| std::ptr::eq(it, door)).expect("one of them"), label))
        };
        for (host, tenant, label) in [
            ("pryv.me", 0, None),
            ("alice.pryv.me", 0, Some("alice")),
            ("Alice.PRYV.me", 0, Some("Alice")),
            ("alice.eu.pryv.me", 1, Some("alice")),
            ("eu.pryv.me", 1, None),
            ("jane.pryv.me", 0, None),
            ("reg.pryv.me", 0, Some("reg")),
            ("xpryv.me", 2, None),
            ("a.b.pryv.me", 2, None),
            ("alice.example.org", 2, Some("alice")),
            ("alice.org", 2, None),
            ("127.0.0.1", 2, None),
            ("-lice.example.org", 2, None),
        ] {
            assert_eq!(at(host), Some((tenant, label)), "{host}");
        }
        assert!(door_at(&doors[..1], "example.org").is_none());
    }

    #[test]
    fn a_token_comes_by_every_road() {
        let by = |header: Option<&str>, uri: &'static str| {
            let mut headers = HeaderMap::new();
            if let Some(text) = header {
                headers.insert(AUTHORIZATION, HeaderValue::from_str(text).expect("text"));
            }
            token(&headers, &Uri::from_static(uri)).map(|it| it.reveal().to_owned())
        };
        let basic = format!("Basic {}", STANDARD.encode("tok:rest:"));
        for (header, uri, found) in [
            (Some("tok"), "/", Some("tok")),
            (Some("tok author"), "/", Some("tok")),
            (Some(basic.as_str()), "/", Some("tok")),
            (Some("bEaReR tok"), "/", Some("tok")),
            (None, "/?auth=tok&x=1", Some("tok")),
            (Some("one"), "/?auth=two", Some("one")),
            (Some(""), "/?auth=two", Some("two")),
            (Some("Basic !!"), "/", None),
            (Some("Basic Og=="), "/", None),
            (None, "/", None),
        ] {
            assert_eq!(by(header, uri).as_deref(), found, "{header:?} {uri}");
        }
    }

    #[test]
    fn ports_and_addresses_are_no_names() {
        assert_eq!(without_port("a.b:80"), "a.b");
        assert_eq!(without_port("[::1]:80"), "[::1]");
        assert_eq!(without_port("a.b"), "a.b");
    }
}
