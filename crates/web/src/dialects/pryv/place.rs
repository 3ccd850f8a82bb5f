//! Finding where a request stands: which tenant, and which person (contract §1).

use super::at::{At, Contract, Username};
use super::said::No;
use super::settings::{DIALECT, Generation, RESERVED, Settings, is_label};
use crate::Hall;
use axum::http::header::{ACCEPT, HOST};
use axum::http::{HeaderMap, Uri};
use countersign_core::Scope;
use countersign_core::verbs::standing::Speakers;
use countersign_core::words::id::TenantId;
use countersign_core::words::refusal::Fault;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

/// When to come back to a tenant whose settings cannot be read.
const AFTER: Duration = Duration::from_secs(60);

/// The tenants that speak this dialect, with their settings read: once for each time that they change.
#[derive(Debug, Default)]
pub(crate) struct Doors(Mutex<Option<(Speakers, Arc<Vec<Door>>)>>);

/// One tenant that speaks this dialect.
#[derive(Debug)]
struct Door {
    tenant: TenantId,
    /// The domain below which its people are.
    domain: Option<String>,
    /// Nothing when they cannot be read: then nobody comes in, and nobody else gets its hosts.
    settings: Option<Arc<Settings>>,
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
        let read = |(tenant, told): &(TenantId, serde_json::Value)| {
            let settings = Settings::read(told).inspect_err(|why| {
                tracing::error!(tenant.id = %tenant, "The settings of the dialect {DIALECT} of tenant {tenant} cannot be read: {why}");
            });
            Door { tenant: *tenant, domain: told["domain"].as_str().map(str::to_owned), settings: settings.ok().map(Arc::new) }
        };
        let doors = Arc::new(speakers.iter().map(read).collect::<Vec<_>>());
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
        (Some(label), Some(name)) if !label.eq_ignore_ascii_case(name) => return Err(No::nothing_here()),
        (_, Some(name)) => Some(name),
        (label, None) => label,
    };
    let standing = hall.house.core.standing(door.tenant).await.map_err(|it| No::fault(&it))?;
    let Some(standing) = standing else { return Ok(None) };
    let settings = door.settings.clone().ok_or_else(|| No::unavailable(AFTER))?;
    let speaks = match settings.generation {
        Generation::V1 => Contract::V1,
        Generation::V2 => Contract::V2,
        Generation::ByClient => {
            let accepts = headers.get(ACCEPT).and_then(|it| it.to_str().ok()).unwrap_or_default();
            // Clients of the first generation say `json` alone, or whatever their browser says (contract §8).
            let is_second = accepts.split(',').any(|it| it.split(';').next().is_some_and(|it| it.trim() == "application/json"));
            if is_second { Contract::V2 } else { Contract::V1 }
        }
    };
    let username = match name {
        None => None,
        Some(name) => Some(Username::parse(name).ok_or_else(No::nothing_here)?),
    };
    Ok(Some(At { scope: Scope::of_tenant(standing), settings, speaks, username, access: OnceLock::new() }))
}

/// The tenant whose domain is the longest end of the host, and the person's label before it; else the one without a domain.
fn door_at<'a>(doors: &'a [Door], host: &'a str) -> Option<(&'a Door, Option<&'a str>)> {
    let below = |door: &'a Door| {
        let domain = door.domain.as_deref()?;
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
    let open = doors.iter().find(|it| it.domain.is_none())?;
    let mut labels = host.split('.');
    let first = labels.next().filter(|it| labels.clone().count() >= 2 && is_label(it));
    Some((open, first))
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use countersign_core::ports::test::Script;
    use countersign_core::words::time::Timestamp;

    fn door(domain: Option<&str>) -> Door {
        let tenant = TenantId::new(Timestamp::from_millis(0), &Script::default());
        Door { tenant, domain: domain.map(str::to_owned), settings: None }
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
    fn ports_and_addresses_are_no_names() {
        assert_eq!(without_port("a.b:80"), "a.b");
        assert_eq!(without_port("[::1]:80"), "[::1]");
        assert_eq!(without_port("a.b"), "a.b");
    }
}
