//! What operators of Pryv.io have, read for a tenant that speaks that dialect.
//!
//! Owns the forms in which the settings of its second factor are found, in files and in the admin panel, and what each of them
//! means here. A text becomes a [`Reading`]: what was taken, ignored, doubted and wrong, each with its place, and a [`Plan`] when
//! nothing is wrong. Endpoints hold credentials, so no value of theirs is ever repeated but the host that is called.

use super::located::{At, Form, Node};
use axum::http::{HeaderName, HeaderValue};
use countersign_core::words::secret::Secret;
use countersign_core::words::variables;
use countersign_web::pryv::{Generation, Settings};
use serde::Serialize;
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::fmt;
use url::Url;

/// What stands in a template of the product where the operator has to write something.
const TO_BE_REPLACED: &str = "REPLACE_ME";

/// Names in names in names, and the longest text that they make.
const DEEPEST: u8 = 16;
const LONGEST: usize = 64 << 10;

/// What the file does not say.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// How codes are made and checked, whatever the file says.
    pub mode: Option<Mode>,
    /// What `DOMAIN` means where the file does not say it.
    pub domain: Option<String>,
}

/// Who makes and checks the codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// We do; the service carries a message.
    Single,
    /// The service does both.
    ChallengeVerify,
}

/// In which form the settings were found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Found {
    /// The settings of a whole platform, as its leader keeps them.
    Platform,
    /// The same, as the admin panel gives them.
    Panel,
    /// The file that the leader makes for the MFA service.
    Service,
    /// The settings of a core of the second generation.
    Core,
    /// The endpoints alone.
    Endpoints,
}

/// What becomes of a tenant.
#[derive(Debug)]
pub struct Plan {
    /// Who makes and checks the codes.
    pub mode: Mode,
    /// The endpoints of this mode, as JSON.
    pub endpoints: Secret,
    /// Which contract the file was written for.
    pub generation: Generation,
    /// How long a person has to finish.
    pub session_ttl_ms: Option<u64>,
    /// The domain of the platform.
    pub domain: Option<String>,
    /// The core behind the service.
    pub core_url: Option<Url>,
    /// Which applications may log people in.
    pub trusted_apps: Option<Vec<String>>,
    /// How long a personal token lives without being used.
    pub access_max_age_ms: Option<u64>,
    /// Service information.
    pub service: Map<String, Value>,
}

/// One thing about the file, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Told {
    #[serde(flatten)]
    pub at: At,
    pub what: String,
}

/// What came of reading.
#[derive(Debug, Default, Serialize)]
pub struct Reading {
    /// In which form the settings were found.
    pub found: Option<Found>,
    /// What it took.
    pub took: Vec<Told>,
    /// What it does not need, or has no use for.
    pub ignored: Vec<Told>,
    /// What will most likely not do what was meant.
    pub warnings: Vec<Told>,
    /// What is wrong. Nothing is done then.
    pub wrong: Vec<Told>,
    /// What becomes of the tenant, when nothing is wrong.
    #[serde(skip)]
    pub plan: Option<Plan>,
}

/// Reads a text.
#[must_use]
pub fn read(text: &str, asked: &Asked) -> Reading {
    let mut desk = Desk::default();
    match Node::read(text) {
        Err(unreadable) => desk.wrong(unreadable.at, unreadable.why),
        Ok(root) => {
            let found = find(&root, &mut desk);
            desk.read.found = found.as_ref().map(|it| it.found);
            if let Some(found) = found {
                desk.learn_names(&found, asked);
                let plan = desk.plan(&found, asked);
                desk.read.plan = plan.filter(|_| desk.read.wrong.is_empty());
            }
        }
    }
    let Reading { took, ignored, warnings, wrong, .. } = &mut desk.read;
    for all in [took, ignored, warnings, wrong] {
        all.sort_by_key(|it| it.at);
    }
    desk.read
}

impl Mode {
    /// What the product calls it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::ChallengeVerify => "challenge-verify",
        }
    }

    /// The mode of this name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Single, Self::ChallengeVerify].into_iter().find(|it| it.as_str() == text)
    }

    /// The endpoints that it calls.
    #[must_use]
    pub fn needs(self) -> &'static [&'static str] {
        match self {
            Self::Single => &["single"],
            Self::ChallengeVerify => &["challenge", "verify"],
        }
    }
}

impl Found {
    /// What it is called in a sentence.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Platform => "the settings of a platform",
            Self::Panel => "settings of the admin panel",
            Self::Service => "the settings of the MFA service",
            Self::Core => "the settings of a core 2.x",
            Self::Endpoints => "endpoints",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// ---------------------------------------------------------------------------------------------------------- where it stands

/// A value by the name under which the operator knows it.
#[derive(Clone)]
struct Named<'n> {
    name: Cow<'static, str>,
    at: At,
    node: &'n Node,
}

/// What was found, and in which form; not looked at yet.
struct Draft<'n> {
    found: Found,
    mode: Option<Named<'n>>,
    endpoints: Option<Named<'n>>,
    /// What the service of 1.0 sent as `Authorization` to both of its addresses.
    auth: Option<Named<'n>>,
    ttl_s: Option<Named<'n>>,
    domain: Option<Named<'n>>,
    core_url: Option<Named<'n>>,
    trusted_apps: Option<Named<'n>>,
    max_age_ms: Option<Named<'n>>,
    /// Service information: under which name it is told.
    service: Vec<(&'static str, Named<'n>)>,
    /// The settings of a platform, whose names are replaced wherever they stand.
    names: Vec<(&'n str, &'n Node)>,
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
fn named<'n>(from: &'n Node, shown: impl Into<Cow<'static, str>>, path: &[&str]) -> Option<Named<'n>> {
    let (last, tables) = path.split_last()?;
    let table = tables.iter().try_fold(from, |node, name| node.child(name))?;
    let (key, node) = table.entry(last)?;
    Some(Named { name: shown.into(), at: key.at, node: value_of(node) })
}

/// A setting may be wrapped: `{value, description}`. In 1.6.0 each leaf was.
fn value_of(node: &Node) -> &Node {
    let wrapped =
        node.table().is_some_and(|all| all.iter().all(|(key, _)| ["value", "description", "name", "optional"].contains(&&*key.name)));
    node.child("value").filter(|_| wrapped).unwrap_or(node)
}

/// Finds out which form it is.
fn find<'n>(root: &'n Node, desk: &mut Desk) -> Option<Draft<'n>> {
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

/// A name of the file, for a sentence: it may be anything, when lines slipped.
fn named_so(name: &str) -> String {
    let short: String = name.chars().map(|c| if c.is_control() { ' ' } else { c }).take(60).collect();
    if short.chars().count() < name.chars().count() { format!("{short}…") } else { short }
}

// ---------------------------------------------------------------------------------------------------------- what it means

/// What is known while reading.
#[derive(Default)]
struct Desk {
    read: Reading,
    /// Names that are replaced wherever they stand, and by what.
    names: Vec<(String, String)>,
}

/// Why a text has no meaning.
enum NoText {
    Endless,
    ToBeReplaced,
}

impl Desk {
    fn took(&mut self, at: At, what: impl Into<String>) {
        self.read.took.push(Told { at, what: what.into() });
    }

    fn ignored(&mut self, at: At, what: impl Into<String>) {
        self.read.ignored.push(Told { at, what: what.into() });
    }

    fn warn(&mut self, at: At, what: impl Into<String>) {
        self.read.warnings.push(Told { at, what: what.into() });
    }

    fn wrong(&mut self, at: At, what: impl Into<String>) {
        self.read.wrong.push(Told { at, what: what.into() });
    }

    fn ignore_others(&mut self, table: &Node, known: &[&str], within: &str) {
        let others = table.table().unwrap_or_default().iter().filter(|(key, _)| !known.contains(&&*key.name));
        for (key, _) in others.collect::<Vec<_>>() {
            self.ignored(key.at, format!("{within}{}: of no use here", named_so(&key.name)));
        }
    }

    /// Whether the settings of the dialect take a value; says what they say otherwise.
    fn fits(&mut self, it: &Named<'_>, change: impl FnOnce(&mut Settings)) -> bool {
        let mut settings = Settings::default();
        change(&mut settings);
        match settings.check() {
            Ok(()) => true,
            Err(why) => {
                self.wrong(it.node.at, format!("{}: {why}", it.name));
                false
            }
        }
    }

    /// The names that are replaced: those of the file, in its order, and the domain that was named beside it.
    fn learn_names(&mut self, draft: &Draft<'_>, asked: &Asked) {
        let text = |node: &Node| node.text().map_or_else(|| node.json().to_string(), str::to_owned);
        let known = draft.names.iter().filter(|(name, _)| !name.is_empty());
        self.names = known.map(|(name, node)| ((*name).to_owned(), text(node))).collect();
        if let Some(domain) = &asked.domain
            && !self.names.iter().any(|(name, value)| name == "DOMAIN" && !value.trim().is_empty() && value != TO_BE_REPLACED)
        {
            self.names.retain(|(name, _)| name != "DOMAIN");
            self.names.push(("DOMAIN".to_owned(), domain.clone()));
        }
    }

    /// A text with the names of settings replaced by their values, and those in them as well (contract §7.2).
    fn expand(&self, text: &str) -> Result<String, NoText> {
        let mut out = String::with_capacity(text.len());
        self.expand_into(text, 0, &mut out)?;
        if out.contains(TO_BE_REPLACED) { Err(NoText::ToBeReplaced) } else { Ok(out) }
    }

    fn expand_into(&self, text: &str, depth: u8, out: &mut String) -> Result<(), NoText> {
        if depth > DEEPEST {
            return Err(NoText::Endless);
        }
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            if let Some((name, value)) = self.names.iter().find(|(name, _)| rest.starts_with(name.as_str())) {
                self.expand_into(value, depth + 1, out)?;
                rest = &rest[name.len()..];
            } else {
                out.push(first);
                rest = &rest[first.len_utf8()..];
            }
            if out.len() > LONGEST {
                return Err(NoText::Endless);
            }
        }
        Ok(())
    }

    /// A text that has to be one, expanded.
    fn text(&mut self, it: &Named<'_>) -> Option<String> {
        match it.node.text() {
            Some(text) => self.expanded(it, text),
            None => {
                let hint = if it.node.table().is_some() { "; in quotes, if it begins with {" } else { "" };
                self.wrong(it.node.at, format!("{} is {}; it takes a text{hint}", it.name, it.node.is_a()));
                None
            }
        }
    }

    fn expanded(&mut self, it: &Named<'_>, text: &str) -> Option<String> {
        match self.expand(text) {
            Ok(text) => Some(text),
            Err(NoText::Endless) => {
                self.wrong(it.node.at, format!("{}: the names of settings in it name each other without an end", it.name));
                None
            }
            Err(NoText::ToBeReplaced) => {
                self.wrong(it.node.at, format!("{}: {TO_BE_REPLACED} still stands in it", it.name));
                None
            }
        }
    }

    /// The same for what can be done without: what is still to be replaced is ignored.
    fn text_if_any(&mut self, it: &Named<'_>) -> Option<String> {
        if it.node.text().is_some_and(|text| matches!(self.expand(text), Err(NoText::ToBeReplaced))) {
            self.ignored(it.at, format!("{}: {TO_BE_REPLACED} still stands in it", it.name));
            return None;
        }
        if it.node.is_empty() {
            self.ignored(it.at, format!("{}: nothing stands there", it.name));
            return None;
        }
        self.text(it)
    }

    /// A number above nothing; the product takes one in quotes as well.
    fn number(&mut self, it: &Named<'_>, takes: &str) -> Option<f64> {
        let number = match &it.node.form {
            Form::Number(number) => number.as_f64(),
            Form::Text(text) => text.trim().parse().ok(),
            _ => None,
        };
        let number = number.filter(|it: &f64| it.is_finite() && *it > 0.0);
        if number.is_none() {
            let is = match &it.node.form {
                Form::Number(number) => format!("{number}"),
                _ => it.node.is_a().to_owned(),
            };
            self.wrong(it.node.at, format!("{} is {is}; it takes {takes}", it.name));
        }
        number
    }

    fn plan(&mut self, draft: &Draft<'_>, asked: &Asked) -> Option<Plan> {
        let generation = if draft.found == Found::Core { Generation::V2 } else { Generation::V1 };
        let session_ttl_ms = draft.ttl_s.as_ref().and_then(|it| self.session_ttl_ms(it));
        let domain = draft.domain.as_ref().and_then(|it| self.domain(it));
        let core_url = draft.core_url.as_ref().and_then(|it| self.core_url(it));
        let trusted_apps = draft.trusted_apps.as_ref().and_then(|it| self.trusted_apps(it));
        let access_max_age_ms = draft.max_age_ms.as_ref().and_then(|it| self.access_max_age_ms(it));
        let mut service = Map::new();
        for (told, it) in &draft.service {
            service.extend(self.service(it).map(|value| ((*told).to_owned(), value)));
        }
        let (mode, endpoints) = self.endpoints(draft, asked)?;
        let endpoints = Secret::new(Value::Object(endpoints).to_string());
        Some(Plan { mode, endpoints, generation, session_ttl_ms, domain, core_url, trusted_apps, access_max_age_ms, service })
    }

    fn session_ttl_ms(&mut self, it: &Named<'_>) -> Option<u64> {
        let seconds = self.number(it, "seconds, such as 1800")?;
        let ms = whole_ms(seconds * 1000.0);
        self.fits(it, |settings| settings.session_ttl_ms = ms).then(|| {
            self.took(it.at, format!("{}: {seconds} s", it.name));
            ms
        })
    }

    fn access_max_age_ms(&mut self, it: &Named<'_>) -> Option<u64> {
        let ms = whole_ms(self.number(it, "milliseconds, such as 1209600000")?);
        self.fits(it, |settings| settings.access_max_age_ms = ms).then(|| {
            self.took(it.at, format!("{}: {ms} ms", it.name));
            ms
        })
    }

    fn domain(&mut self, it: &Named<'_>) -> Option<String> {
        let domain = self.text_if_any(it)?.trim().to_lowercase();
        self.fits(it, |settings| settings.domain = Some(domain.clone())).then(|| {
            self.took(it.at, format!("{}: {domain}", it.name));
            domain
        })
    }

    fn core_url(&mut self, it: &Named<'_>) -> Option<Url> {
        let text = self.text_if_any(it)?;
        let Ok(url) = Url::parse(text.trim()) else {
            self.wrong(it.node.at, format!("{} is no address; it looks like http://core:3000", it.name));
            return None;
        };
        self.fits(it, |settings| settings.core_url = Some(url.clone())).then(|| {
            self.took(it.at, format!("{}: {}", it.name, place(&url)));
            url
        })
    }

    fn trusted_apps(&mut self, it: &Named<'_>) -> Option<Vec<String>> {
        let text = if it.node.is_empty() { String::new() } else { self.text(it)? };
        let mut apps = Vec::new();
        for pair in text.split(',').map(str::trim).filter(|it| !it.is_empty()) {
            // The product goes on without such a pair as well, and says so in its log only.
            if pair.split_once('@').is_some_and(|(app, origin)| !app.is_empty() && !origin.is_empty()) {
                apps.push(pair.to_owned());
            } else {
                self.warn(it.node.at, format!("{}: `{}` is left out, for it is no appId@origin", it.name, named_so(pair)));
            }
        }
        if apps.is_empty() {
            self.warn(it.node.at, format!("{}: no application may log people in", it.name));
        }
        self.took(it.at, format!("{}: {}", it.name, if apps.is_empty() { "none".to_owned() } else { apps.join(", ") }));
        Some(apps)
    }

    fn service(&mut self, it: &Named<'_>) -> Option<Value> {
        let value = match &it.node.form {
            Form::Table(all) if !all.is_empty() => {
                let mut out = Map::new();
                for (key, node) in all {
                    let inner = Named { name: format!("{}.{}", it.name, named_so(&key.name)).into(), at: key.at, node };
                    out.extend(self.text_if_any(&inner).map(|text| (key.name.clone(), Value::String(text))));
                }
                Value::Object(out)
            }
            _ => Value::String(self.text_if_any(it)?),
        };
        let shown = value.as_str().map_or_else(|| "a table".to_owned(), named_so);
        self.took(it.at, format!("{}: {shown}", it.name));
        Some(value)
    }

    // ------------------------------------------------------------------------------------------------------ the endpoints

    /// The mode, and what is called in it.
    fn endpoints(&mut self, draft: &Draft<'_>, asked: &Asked) -> Option<(Mode, Map<String, Value>)> {
        let Some(given) = &draft.endpoints else {
            let at = draft.mode.as_ref().map_or(At { line: 1, column: 1 }, |it| it.at);
            self.wrong(at, "there are no endpoints, so nobody could be called");
            return None;
        };
        // The admin panel keeps what it cannot read as a text, and so do people who quote too much.
        let unquoted = match &given.node.form {
            Form::Text(text) if !text.trim().is_empty() => Some(self.unquoted(given, text)?),
            _ => None,
        };
        let node = unquoted.as_ref().unwrap_or(given.node);
        let Some(all) = node.table() else {
            self.wrong(
                node.at,
                format!("{} is {}; it takes a table with `single`, or `challenge` and `verify`", shown(&given.name), node.is_a()),
            );
            return None;
        };
        let mode = self.mode(draft, asked, given, node);
        for (key, _) in all {
            let known = ["single", "challenge", "verify"].contains(&&*key.name);
            let path = join(&given.name, &key.name);
            match mode {
                _ if !known => self.ignored(key.at, format!("{path}: there is no such endpoint")),
                Some(mode) if !mode.needs().contains(&&*key.name) => {
                    self.ignored(key.at, format!("{path}: it is not called in mode {mode}"));
                }
                _ => {}
            }
        }
        let mode = mode?;
        let mut endpoints = Map::new();
        for which in mode.needs() {
            let Some(it) = named(node, join(&given.name, which), &[which]) else {
                let at = draft.mode.as_ref().map_or(given.at, |it| it.at);
                self.wrong(at, format!("there is no endpoint `{which}`, which mode {mode} calls"));
                continue;
            };
            let endpoint = match it.node.text() {
                Some(_) if which != &"single" => self.endpoint_of_1_0(&it, draft.auth.as_ref(), which),
                _ => self.endpoint(&it, mode, which, draft.found),
            };
            endpoints.extend(endpoint.map(|it| ((*which).to_owned(), Value::Object(it))));
        }
        if mode == Mode::Single && endpoints.values().all(|it| !names_code(it)) && !endpoints.is_empty() {
            self.warn(
                given.at,
                "{{ code }} stands nowhere in `single`: it can only arrive where the data of each person holds it, such as a message",
            );
        }
        Some((mode, endpoints))
    }

    /// A text that holds the endpoints.
    fn unquoted(&mut self, given: &Named<'_>, text: &str) -> Option<Node> {
        if text.trim() == "MFA_ENDPOINTS" {
            self.wrong(
                given.node.at,
                format!("{} is still a name: this is the template of the file; take the platform's settings", given.name),
            );
            return None;
        }
        match Node::read(text) {
            Ok(node) => Some(node.all_at(given.node.at)),
            Err(unreadable) => {
                let line = unreadable.at.line;
                self.wrong(given.node.at, format!("{} is a text, in line {line} of which {}", shown(&given.name), unreadable.why));
                None
            }
        }
    }

    fn mode(&mut self, draft: &Draft<'_>, asked: &Asked, given: &Named<'_>, endpoints: &Node) -> Option<Mode> {
        // What is there but empty stands in every template of the product.
        let is_there = |which: &str| {
            let it = endpoints.child(which).map(value_of);
            it.is_some_and(|it| !it.is_empty() && it.child("url").is_none_or(|url| !value_of(url).is_empty()))
        };
        let can = |mode: Mode| mode.needs().iter().copied().all(is_there);
        let is_1_0 = endpoints.child("challenge").is_some_and(|it| value_of(it).text().is_some());
        let said = match draft.mode.as_ref().filter(|it| !it.node.is_empty()) {
            None => None,
            Some(it) => {
                let text = self.text(it)?;
                match Mode::parse(text.trim()) {
                    Some(mode) => Some(mode),
                    None if asked.mode.is_some() => None,
                    None => {
                        let told = match text.trim() {
                            "MFA_MODE" => "is still a name: this is the template of the file; take the platform's settings".to_owned(),
                            "disabled" => "is disabled, so there is nothing to take over; --mode takes it over all the same".to_owned(),
                            other => format!("is `{}`; it takes single or challenge-verify", named_so(other)),
                        };
                        self.wrong(it.node.at, format!("{} {told}", it.name));
                        return None;
                    }
                }
            }
        };
        let mode = match (asked.mode, said) {
            (Some(mode), _) => {
                self.took(given.at, format!("mode: {mode}, as was asked"));
                return Some(mode);
            }
            (None, Some(mode)) => mode,
            (None, None) => {
                let (single, both) = (can(Mode::Single), can(Mode::ChallengeVerify));
                let mode = match draft.found {
                    _ if single && !both => Mode::Single,
                    _ if both && !single => Mode::ChallengeVerify,
                    // Its own default.
                    Found::Service if both => Mode::ChallengeVerify,
                    _ if is_1_0 => Mode::ChallengeVerify,
                    _ if both => {
                        self.wrong(given.at, "there are endpoints for both modes; say which with --mode single or --mode challenge-verify");
                        return None;
                    }
                    _ => {
                        let half = [("challenge", "verify"), ("verify", "challenge")];
                        let half = half.into_iter().find(|(one, _)| is_there(one));
                        self.wrong(
                            given.at,
                            match half {
                                Some((one, other)) => {
                                    format!("there is an endpoint `{one}`, but none `{other}`; mode challenge-verify calls both")
                                }
                                None => "none of its endpoints has a url; it takes `single`, or `challenge` and `verify`".to_owned(),
                            },
                        );
                        return None;
                    }
                };
                self.took(given.at, format!("mode: {mode}, as its endpoints are"));
                return Some(mode);
            }
        };
        let it = draft.mode.as_ref()?;
        self.took(it.at, format!("{}: {mode}", it.name));
        let other = if mode == Mode::Single { Mode::ChallengeVerify } else { Mode::Single };
        if !can(mode) && can(other) {
            self.wrong(it.node.at, format!("{} is {mode}, but the endpoints are those of mode {other}", it.name));
            return None;
        }
        Some(mode)
    }

    /// An address alone: the service of 1.0 sent all data of a person there. Which names that were, only the operator knows; what
    /// the product itself made of it, when it came to have templates, is made of it here.
    fn endpoint_of_1_0(&mut self, it: &Named<'_>, auth: Option<&Named<'_>>, which: &str) -> Option<Map<String, Value>> {
        let url = self.text(it)?;
        let url = self.url(it, url)?;
        let mut headers = Map::new();
        let auth = auth.filter(|it| it.node.table().is_none() && !it.node.is_empty());
        if let Some(auth) = auth {
            let value = self.text(auth)?;
            if !self.header_value(auth, &value) {
                return None;
            }
            headers.insert("authorization".into(), value.into());
        }
        headers.insert("content-type".into(), "application/json".into());
        let body = match which {
            "challenge" => r#"{"phone_number":"{{ phone_number }}"}"#,
            _ => r#"{"phone_number":"{{ phone_number }}","code":"{{ code }}"}"#,
        };
        let fields = if which == "challenge" { "phone_number" } else { "phone_number and code" };
        self.took(it.at, format!("{}: POST to {}", it.name, host_of(&url)));
        self.warn(
            it.at,
            format!(
                "{}: the service of 1.0 sent all data of a person and the caller's query, a template sends what it names. This one sends \
                 {fields}; where the data has other names, or the service needs more, write the endpoint with a body of its own",
                it.name
            ),
        );
        Some(Map::from_iter([
            ("url".into(), url.into()),
            ("method".into(), "POST".into()),
            ("body".into(), body.into()),
            ("headers".into(), Value::Object(headers)),
        ]))
    }

    fn endpoint(&mut self, it: &Named<'_>, mode: Mode, which: &str, found: Found) -> Option<Map<String, Value>> {
        let Some(all) = it.node.table() else {
            self.wrong(it.node.at, format!("{} is {}; it takes a table with url, method, body and headers", it.name, it.node.is_a()));
            return None;
        };
        for (key, _) in all.iter().filter(|(key, _)| !["url", "method", "body", "headers"].contains(&&*key.name)) {
            self.warn(key.at, format!("{}: an endpoint has url, method, body and headers; this is not used", join(&it.name, &key.name)));
        }
        let before = self.read.wrong.len();
        let field = |name: &'static str| named(it.node, join(&it.name, name), &[name]).filter(|it| !matches!(it.node.form, Form::Null));
        let url = match field("url") {
            Some(url) => self.text(&url).and_then(|text| self.url(&url, text)),
            None => {
                self.wrong(it.at, format!("{} has no url", it.name));
                None
            }
        };
        let method = match field("method").filter(|it| !it.node.is_empty()) {
            Some(method) => self.method(&method, found)?,
            None => "POST".to_owned(),
        };
        let body = field("body").map(|body| (self.text(&body), body));
        let mut headers = match field("headers") {
            Some(headers) => self.headers(&headers),
            None => Map::new(),
        };
        if self.read.wrong.len() > before {
            return None;
        }
        let url = url?;
        let mut added = "";
        if method == "POST" && found != Found::Core && !headers.keys().any(|it| it.eq_ignore_ascii_case("content-type")) {
            // Its own settings hold it, and those of the operator are laid over them (contract §7.3).
            headers.insert("content-type".into(), "application/json".into());
            added = ", with the content-type application/json, as nothing else is said";
        }
        self.took(it.at, format!("{}: {method} to {}{added}", it.name, host_of(&url)));
        let mut endpoint = Map::from_iter([("url".to_owned(), url.into()), ("method".to_owned(), method.clone().into())]);
        match body {
            Some((_, body)) if method == "GET" && body.node.is_empty() => {}
            Some((_, body)) if method == "GET" => self.ignored(body.at, format!("{}: GET sends none", body.name)),
            Some((text, body)) => {
                let text = text?;
                self.check_json(&body, &text, &headers);
                endpoint.insert("body".into(), text.into());
            }
            None if method == "POST" => self.warn(it.at, format!("{}: POST without a body sends an empty one", it.name)),
            None => {}
        }
        endpoint.insert("headers".into(), Value::Object(headers));
        self.check_placeholders(it, &endpoint, mode, which);
        Some(endpoint)
    }

    fn method(&mut self, it: &Named<'_>, found: Found) -> Option<String> {
        let text = self.text(it)?;
        let method = text.trim();
        match method {
            "GET" | "POST" => Some(method.to_owned()),
            _ if found == Found::Core => match method.to_ascii_uppercase().as_str() {
                upper @ ("GET" | "POST") => Some(upper.to_owned()),
                _ => {
                    self.wrong(it.node.at, format!("{} is `{}`; it takes GET or POST", it.name, named_so(method)));
                    None
                }
            },
            _ => {
                self.warn(
                    it.node.at,
                    format!("{} is `{}`, and what is not POST is sent as GET, as the product does", it.name, named_so(method)),
                );
                Some("GET".to_owned())
            }
        }
    }

    /// An address with placeholders. Scheme and host are fixed: who could write them would have the server call anybody.
    fn url(&mut self, it: &Named<'_>, text: String) -> Option<String> {
        let url = text.trim();
        let mut no = |why: &str| {
            self.wrong(it.node.at, format!("{} {why}", it.name));
            None
        };
        if url.is_empty() {
            return no("is empty");
        }
        let Some((scheme, rest)) = url.split_once("://") else { return no("is no address; it begins with https://") };
        if !["http", "https"].contains(&scheme.to_ascii_lowercase().as_str()) {
            return no("is no address of a web service; it begins with https://");
        }
        let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
        if host.contains("{{") || host.contains("}}") {
            return no("has a placeholder in its host; the host has to be fixed");
        }
        if host.contains("DOMAIN") {
            return no("has DOMAIN in its host, and nothing says what it is; say it with --domain");
        }
        // What stands for values is whatever may stand there.
        if Url::parse(&without_placeholders(url)).ok().is_none_or(|it| it.host().is_none()) {
            return no("is no address");
        }
        if rest.contains("DOMAIN") {
            self.warn(it.node.at, format!("{}: DOMAIN stands in it, and nothing says what it is; --domain does", it.name));
        }
        Some(url.to_owned())
    }

    fn headers(&mut self, it: &Named<'_>) -> Map<String, Value> {
        let mut headers = Map::new();
        if it.node.is_empty() {
            return headers;
        }
        let Some(all) = it.node.table() else {
            self.wrong(it.node.at, format!("{} is {}; it takes a table of names and texts", it.name, it.node.is_a()));
            return headers;
        };
        for (key, node) in all {
            let header = Named { name: join(&it.name, &key.name).into(), at: key.at, node: value_of(node) };
            if HeaderName::from_bytes(key.name.as_bytes()).is_err() {
                self.wrong(key.at, format!("{} is no name of a header", header.name));
                continue;
            }
            let text = match &header.node.form {
                Form::Number(_) | Form::Bool(_) => Some(variables::shown(&header.node.json())),
                Form::Null => Some(String::new()),
                _ => self.text(&header),
            };
            if let Some(text) = text
                && self.header_value(&header, &text)
            {
                headers.insert(key.name.clone(), text.into());
            }
        }
        headers
    }

    fn header_value(&mut self, it: &Named<'_>, text: &str) -> bool {
        let fits = HeaderValue::from_bytes(text.as_bytes()).is_ok();
        if !fits {
            self.wrong(it.node.at, format!("{} holds what no header can, such as the end of a line", it.name));
        }
        fits
    }

    /// A body that says to be JSON, and is none whatever the values are.
    fn check_json(&mut self, it: &Named<'_>, text: &str, headers: &Map<String, Value>) {
        let says_json = headers.iter().any(|(name, value)| {
            name.eq_ignore_ascii_case("content-type") && value.as_str().is_some_and(|it| it.to_ascii_lowercase().contains("json"))
        });
        if says_json && !text.trim().is_empty() && serde_json::from_str::<Value>(&without_placeholders(text)).is_err() {
            self.warn(it.node.at, format!("{}: the content-type says JSON, and this is none", it.name));
        }
    }

    /// Placeholders that nobody will fill.
    fn check_placeholders(&mut self, it: &Named<'_>, endpoint: &Map<String, Value>, mode: Mode, which: &str) {
        let mut fields: Vec<(String, &str)> = Vec::new();
        for name in ["url", "body"] {
            fields.extend(endpoint.get(name).and_then(Value::as_str).map(|text| (name.to_owned(), text)));
        }
        for (name, text) in endpoint.get("headers").and_then(Value::as_object).into_iter().flatten() {
            fields.extend(text.as_str().map(|text| (format!("headers.{name}"), text)));
        }
        let mut has_code = false;
        for (field, text) in fields {
            let path: Vec<&str> = field.splitn(2, '.').collect();
            let at = named(it.node, "", &path).map_or(it.at, |it| it.node.at);
            for found in placeholders(text) {
                match found {
                    Placeholder::Exact("code") if which == "challenge" => self.warn(
                        at,
                        format!(
                            "{}: {{{{ code }}}} has no value here: in mode {mode} the service makes the code, so this is left as it stands",
                            join(&it.name, &field)
                        ),
                    ),
                    Placeholder::Exact(name) => has_code |= name == "code",
                    Placeholder::Other(name) => self.warn(
                        at,
                        format!(
                            "{0}: `{{{{{1}}}}}` is left as it stands, for a placeholder has one blank on either side: `{{{{ {2} }}}}`",
                            join(&it.name, &field),
                            named_so(name),
                            named_so(name.trim())
                        ),
                    ),
                    Placeholder::Open => {
                        self.warn(at, format!("{}: a placeholder begins with {{{{ and does not end", join(&it.name, &field)));
                    }
                }
            }
        }
        if which == "verify" && !has_code {
            self.warn(it.at, format!("{}: {{{{ code }}}} stands nowhere in it, so the service is not told what to check", it.name));
        }
    }
}

/// Milliseconds, at least one. A fraction of a second is one: the product's own tests use 0.2.
#[must_use]
pub fn whole_ms(ms: f64) -> u64 {
    // What is too large becomes the largest, and is refused as such.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is above nothing, and `as` stops at the ends")]
    let whole = ms.round() as u64;
    whole.max(1)
}

fn join(within: &str, name: &str) -> String {
    if within.is_empty() { named_so(name) } else { format!("{within}.{}", named_so(name)) }
}

fn shown(name: &str) -> &str {
    if name.is_empty() { "this" } else { name }
}

/// Who is called, without what may be secret in an address.
fn host_of(url: &str) -> String {
    Url::parse(&without_placeholders(url)).map_or_else(|_| "an address".to_owned(), |it| place(&it))
}

fn place(url: &Url) -> String {
    let port = url.port().map(|it| format!(":{it}")).unwrap_or_default();
    format!("{}://{}{port}", url.scheme(), url.host_str().unwrap_or_default())
}

/// Something between two braces and two braces.
#[derive(Debug, PartialEq, Eq)]
enum Placeholder<'t> {
    /// As the product fills it in: one blank on either side.
    Exact(&'t str),
    /// Meant so, most likely, and left as it stands.
    Other(&'t str),
    /// It does not end.
    Open,
}

fn placeholders(text: &str) -> Vec<Placeholder<'_>> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("{{") {
        rest = &rest[at + 2..];
        let Some(end) = rest.find("}}") else {
            found.push(Placeholder::Open);
            break;
        };
        let inner = &rest[..end];
        let name = inner.strip_prefix(' ').and_then(|it| it.strip_suffix(' ')).filter(|it| !it.is_empty() && it.trim() == *it);
        // `{"a":{"b":1}}` of JSON has two at its end as well, but nothing that could be a name between them.
        let could_be = inner.trim().len() <= 100 && !inner.contains(['{', '"', ':']) && !inner.trim().is_empty();
        match name {
            Some(name) => found.push(Placeholder::Exact(name)),
            None if could_be => found.push(Placeholder::Other(inner)),
            None => {}
        }
        rest = &rest[end + 2..];
    }
    found
}

/// The text as it is when each value is `0`, which may stand in an address, in a text of JSON and beside one.
fn without_placeholders(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{ ") {
        out.push_str(before);
        let Some((_, after)) = after.split_once(" }}") else {
            out.push_str("{{ ");
            rest = after;
            continue;
        };
        out.push('0');
        rest = after;
    }
    out.push_str(rest);
    out
}

fn names_code(endpoint: &Value) -> bool {
    match endpoint {
        Value::String(text) => placeholders(text).contains(&Placeholder::Exact("code")),
        Value::Object(all) => all.values().any(names_code),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
