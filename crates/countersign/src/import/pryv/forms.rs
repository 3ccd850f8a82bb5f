//! In which form the settings are found, and under which names.
//!
//! Owns the shapes of the files and of the panel's JSON, of every age. What a value means is asked elsewhere: here it is only found, with
//! the name under which the operator knows it.

use super::{Desk, Found, named_so};
use crate::import::located::{At, Form, Node};
use std::borrow::Cow;

/// A value by the name under which the operator knows it.
#[derive(Clone)]
pub(super) struct Named<'n> {
    pub(super) name: Cow<'static, str>,
    pub(super) at: At,
    pub(super) node: &'n Node,
}

/// What was found, and in which form; not looked at yet.
pub(super) struct Draft<'n> {
    pub(super) found: Found,
    pub(super) mode: Option<Named<'n>>,
    pub(super) endpoints: Option<Named<'n>>,
    /// What the service of 1.0 sent as `Authorization` to both of its addresses.
    pub(super) auth: Option<Named<'n>>,
    pub(super) ttl_s: Option<Named<'n>>,
    pub(super) domain: Option<Named<'n>>,
    pub(super) core_url: Option<Named<'n>>,
    pub(super) trusted_apps: Option<Named<'n>>,
    pub(super) max_age_ms: Option<Named<'n>>,
    /// Service information: under which name it is told.
    pub(super) service: Vec<(&'static str, Named<'n>)>,
    /// The settings of a platform, whose names are replaced wherever they stand.
    pub(super) names: Vec<(&'n str, &'n Node)>,
}

impl<'n> Draft<'n> {
    fn of(found: Found) -> Self {
        Self {
            found,
            mode: None,
            endpoints: None,
            auth: None,
            ttl_s: None,
            domain: None,
            core_url: None,
            trusted_apps: None,
            max_age_ms: None,
            service: Vec::new(),
            names: Vec::new(),
        }
    }
}

/// The value at a path of names.
pub(super) fn named<'n>(from: &'n Node, shown: impl Into<Cow<'static, str>>, path: &[&str]) -> Option<Named<'n>> {
    let (last, tables) = path.split_last()?;
    let table = tables.iter().try_fold(from, |node, name| node.child(name))?;
    let (key, node) = table.entry(last)?;
    Some(Named { name: shown.into(), at: key.at, node: value_of(node) })
}

/// A setting may be wrapped: `{value, description}`. In 1.6.0 each leaf was.
pub(super) fn value_of(node: &Node) -> &Node {
    let wrapped =
        node.table().is_some_and(|all| all.iter().all(|(key, _)| ["value", "description", "name", "optional"].contains(&&*key.name)));
    node.child("value").filter(|_| wrapped).unwrap_or(node)
}

/// Finds out which form it is.
pub(super) fn find<'n>(root: &'n Node, desk: &mut Desk) -> Option<Draft<'n>> {
    let Some(all) = root.table() else {
        let is = if root.is_empty() { "there is nothing in it".to_owned() } else { format!("it is {}", root.is_a()) };
        desk.wrong(root.at, format!("{is}, where a table of settings is expected"));
        return None;
    };
    let has = |name: &str| root.child(name).is_some();
    let is_group = |node: &Node| node.child("settings").is_some_and(|it| it.table().is_some());
    if let Some((_, groups)) = root.entry("vars") {
        desk.ignore_others(root, &["vars"], "");
        return of_groups(Found::Platform, groups, desk);
    }
    if let Some(mfa) = root.child("services").and_then(|it| it.child("mfa")) {
        return Some(of_core(root, mfa, desk));
    }
    if has("sms") && has("mode") || has("methods") {
        return Some(of_core_mfa(root, root, desk, "mfa"));
    }
    if has("sms") || has("core") && has("sessions") {
        return Some(of_service(root, desk));
    }
    if all.iter().any(|(key, _)| key.name.starts_with("MFA_")) && !all.iter().any(|(_, node)| is_group(node)) {
        let mut draft = Draft::of(Found::Panel);
        of_settings(root, &mut draft, desk);
        return Some(draft);
    }
    if ["single", "challenge", "verify"].into_iter().any(has) {
        let mut draft = Draft::of(Found::Endpoints);
        draft.endpoints = Some(Named { name: "".into(), at: root.at, node: root });
        return Some(draft);
    }
    if has("endpoints") {
        let mut draft = Draft::of(Found::Service);
        of_sms(root, "", &mut draft, desk);
        return Some(draft);
    }
    if let Some((key, inner)) = root.entry("settings") {
        let panel = if inner.table().is_some_and(|all| all.iter().any(|(_, node)| is_group(node))) { inner } else { root };
        if std::ptr::eq(panel, inner) {
            return of_groups(Found::Panel, panel, desk);
        }
        if inner.table().is_some() {
            let mut draft = Draft::of(Found::Panel);
            of_settings(inner, &mut draft, desk);
            if draft.endpoints.is_none() {
                desk.wrong(key.at, "there is nothing of MFA in these settings");
                return None;
            }
            return Some(draft);
        }
    }
    if all.iter().any(|(_, node)| is_group(node)) {
        return of_groups(Found::Panel, root, desk);
    }
    desk.wrong(
        root.at,
        "there is nothing of MFA in it: neither `vars` with MFA_SETTINGS, nor settings of the admin panel, nor `sms` of the MFA \
         service, nor `services.mfa`, nor the endpoints `single`, or `challenge` and `verify`",
    );
    None
}

/// Groups of settings: a platform file, or what the admin panel gives.
fn of_groups<'n>(found: Found, groups: &'n Node, desk: &mut Desk) -> Option<Draft<'n>> {
    let mut draft = Draft::of(found);
    let Some(all) = groups.table() else {
        desk.wrong(groups.at, format!("it is {}, where groups of settings are expected", groups.is_a()));
        return None;
    };
    for (key, group) in all {
        match group.child("settings") {
            Some(settings) if settings.table().is_some() => {
                let taken = of_settings(settings, &mut draft, desk);
                if taken == 0 {
                    desk.ignored(key.at, format!("{}: {}", named_so(&key.name), settings_in(settings)));
                }
            }
            _ => desk.ignored(key.at, format!("{}: no group of settings", named_so(&key.name))),
        }
    }
    if draft.endpoints.is_none() {
        desk.wrong(groups.at, "none of its groups has MFA_ENDPOINTS, or MFA_SMS_API_SETTINGS of older platforms");
        return None;
    }
    Some(draft)
}

fn settings_in(settings: &Node) -> String {
    match settings.table().map_or(0, <[_]>::len) {
        1 => "a setting that is of no use here".to_owned(),
        many => format!("{many} settings that are of no use here"),
    }
}

/// The settings of one group. Gives how many of them are of use. In a group that is about MFA, the others are told one by one.
fn of_settings<'n>(settings: &'n Node, draft: &mut Draft<'n>, desk: &mut Desk) -> usize {
    let mut taken = 0;
    let mut others = Vec::new();
    for (key, node) in settings.table().unwrap_or_default() {
        let node = value_of(node);
        draft.names.push((&key.name, node));
        let it = || Named { name: named_so(&key.name).into(), at: key.at, node };
        let place = match key.name.as_str() {
            "MFA_MODE" => &mut draft.mode,
            "MFA_ENDPOINTS" => {
                if let Some(older) = draft.auth.take().and(draft.endpoints.take()) {
                    desk.ignored(older.at, "MFA_SMS_API_SETTINGS: there is MFA_ENDPOINTS, which came after it");
                }
                &mut draft.endpoints
            }
            "MFA_SMS_API_SETTINGS" if draft.endpoints.is_some() => {
                desk.ignored(key.at, "MFA_SMS_API_SETTINGS: there is MFA_ENDPOINTS, which came after it");
                continue;
            }
            "MFA_SMS_API_SETTINGS" => {
                draft.auth = Some(named(node, "MFA_SMS_API_SETTINGS.auth", &["auth"]).unwrap_or_else(it));
                draft.endpoints = Some(named(node, "MFA_SMS_API_SETTINGS.endpoints", &["endpoints"]).unwrap_or_else(it));
                taken += 1;
                continue;
            }
            "MFA_SESSIONS_TTL_SECONDS" => &mut draft.ttl_s,
            "DOMAIN" => &mut draft.domain,
            "TRUSTED_APPS" => &mut draft.trusted_apps,
            "SESSION_MAX_AGE" => &mut draft.max_age_ms,
            other => {
                let told = [
                    ("PLATFORM_NAME", "name"),
                    ("SUPPORT_URL", "support"),
                    ("TERMS_OF_USE_URL", "terms"),
                    ("EVENT_TYPES_URL", "eventTypes"),
                    ("SERVICE_INFO_ASSETS", "assets"),
                ];
                match told.into_iter().find(|(name, _)| *name == other) {
                    Some((_, told)) => {
                        draft.service.push((told, it()));
                        taken += 1;
                    }
                    None => others.push(key),
                }
                continue;
            }
        };
        *place = Some(it());
        taken += 1;
    }
    let about_mfa = settings.table().unwrap_or_default().iter().any(|(key, _)| key.name.starts_with("MFA_"));
    match &others[..] {
        [] => {}
        _ if about_mfa => {
            for key in others {
                desk.ignored(key.at, format!("{}: no setting of this name is known", named_so(&key.name)));
            }
        }
        _ if taken == 0 => {}
        [first, ..] => {
            let names = others.iter().take(3).map(|it| named_so(&it.name)).collect::<Vec<_>>().join(", ");
            let more = if others.len() > 3 { ", …" } else { "" };
            desk.ignored(first.at, format!("{names}{more}: of no use here"));
        }
    }
    taken
}

/// The file of the MFA service.
fn of_service<'n>(root: &'n Node, desk: &mut Desk) -> Draft<'n> {
    let mut draft = Draft::of(Found::Service);
    draft.core_url = named(root, "core.url", &["core", "url"]);
    draft.ttl_s = named(root, "sessions.ttlSeconds", &["sessions", "ttlSeconds"]);
    if let Some(sms) = root.child("sms") {
        of_sms(sms, "sms.", &mut draft, desk);
    }
    desk.ignore_others(root, &["core", "sessions", "sms"], "");
    draft
}

fn of_sms<'n>(sms: &'n Node, within: &str, draft: &mut Draft<'n>, desk: &mut Desk) {
    draft.mode = named(sms, format!("{within}mode"), &["mode"]);
    draft.endpoints = named(sms, format!("{within}endpoints"), &["endpoints"]);
    draft.auth = named(sms, format!("{within}auth"), &["auth"]);
    desk.ignore_others(sms, &["mode", "endpoints", "auth"], within);
}

/// The settings of a core of the second generation.
fn of_core<'n>(root: &'n Node, mfa: &'n Node, desk: &mut Desk) -> Draft<'n> {
    let mut draft = of_core_mfa(root, mfa, desk, "services.mfa");
    draft.trusted_apps = named(root, "auth.trustedApps", &["auth", "trustedApps"]);
    draft.max_age_ms = named(root, "auth.sessionMaxAge", &["auth", "sessionMaxAge"]);
    // Its default is to have people in the path, and then its domain names no hosts.
    let in_path = root.child("dnsLess").and_then(|it| it.child("isActive")).is_none_or(|it| !matches!(it.form, Form::Bool(false)));
    match named(root, "dns.domain", &["dns", "domain"]) {
        Some(domain) if in_path => desk.ignored(domain.at, "dns.domain: dnsLess is active, so people stand in the path"),
        domain => draft.domain = domain,
    }
    for told in ["name", "home", "support", "terms", "eventTypes", "assets"] {
        draft.service.extend(named(root, format!("service.{told}"), &["service", told]).map(|it| (told, it)));
    }
    desk.ignore_others(root, &["services", "auth", "dnsLess", "dns", "service"], "");
    draft
}

fn of_core_mfa<'n>(root: &'n Node, mfa: &'n Node, desk: &mut Desk, within: &'static str) -> Draft<'n> {
    let mut draft = Draft::of(Found::Core);
    let at = |path: &[&str]| named(mfa, format!("{within}.{}", path.join(".")), path);
    draft.mode = at(&["mode"]);
    draft.endpoints = at(&["sms", "endpoints"]);
    draft.ttl_s = at(&["sessions", "ttlSeconds"]);
    // What came after `mode`: methods, of which only this one calls a service. `mode` goes before them when it says more than no.
    let says_no = draft.mode.as_ref().is_none_or(|it| it.node.text() == Some("disabled"));
    let active = mfa.child("methods").and_then(|it| it.child("sms")).and_then(|it| it.child("active"));
    if says_no && active.is_some_and(|it| matches!(it.form, Form::Bool(true))) {
        draft.mode = at(&["methods", "sms", "mode"]);
        draft.endpoints = at(&["methods", "sms", "endpoints"]).filter(|it| !it.node.is_empty()).or(draft.endpoints);
    }
    let known: &[&str] =
        if std::ptr::eq(root, mfa) { &["mode", "sms", "sessions", "methods", "services"] } else { &["mode", "sms", "sessions", "methods"] };
    desk.ignore_others(mfa, known, &format!("{within}."));
    draft
}
