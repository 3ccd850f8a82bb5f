//! What operators of Pryv.io have, read for a tenant that speaks that dialect.
//!
//! Owns the forms in which the settings of its second factor are found, in files and in the admin panel, and what each of them
//! means here. A text becomes a [`Reading`]: what was taken, ignored, doubted and wrong, each with its place, and a [`Plan`] when
//! nothing is wrong. Endpoints hold credentials, so no value of theirs is ever repeated but the host that is called.

mod endpoints;
mod forms;

use super::located::{At, Form, Node};
use countersign_core::words::secret::Secret;
use countersign_web::pryv::{Generation, Settings};
use endpoints::Called;
use forms::{Draft, Named};
use serde::Serialize;
use serde_json::{Map, Value};
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
    /// Where each of them stands, for whoever finds something wrong with one later.
    pub places: Vec<(&'static str, At)>,
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
            let found = forms::find(&root, &mut desk);
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
        let Called { mode, endpoints, places } = self.endpoints(draft, asked)?;
        let endpoints = Secret::new(Value::Object(endpoints).to_string());
        Some(Plan { mode, endpoints, places, generation, session_ttl_ms, domain, core_url, trusted_apps, access_max_age_ms, service })
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
}

/// Milliseconds, at least one. A fraction of a second is one: the product's own tests use 0.2.
#[must_use]
pub fn whole_ms(ms: f64) -> u64 {
    // What is too large becomes the largest, and is refused as such.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is above nothing, and `as` stops at the ends")]
    let whole = ms.round() as u64;
    whole.max(1)
}

/// A name of the file, for a sentence: it may be anything, when lines slipped.
fn named_so(name: &str) -> String {
    let short: String = name.chars().map(|c| if c.is_control() { ' ' } else { c }).take(60).collect();
    if short.chars().count() < name.chars().count() { format!("{short}…") } else { short }
}

fn join(within: &str, name: &str) -> String {
    if within.is_empty() { named_so(name) } else { format!("{within}.{}", named_so(name)) }
}

fn place(url: &Url) -> String {
    let port = url.port().map(|it| format!(":{it}")).unwrap_or_default();
    format!("{}://{}{port}", url.scheme(), url.host_str().unwrap_or_default())
}

#[cfg(test)]
mod tests;
