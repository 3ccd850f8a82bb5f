//! Providers that are an HTTP request.
//!
//! Owns the settings of kind `http`: how a message becomes a request, and what the vendor's answer means. The settings are
//! templates with named values, escaped for where they land, and rules over status and JSON; nothing in them can reach
//! beyond its place. Who may be called is the business of [`Egress`].
//!
//! Values: `to` (E.164, or a mailbox), `to_digits` (without `+`), `code`, `text`, `html`, `subject`, `from`, `channel`,
//! `delivery_id` (the same on every try, so that a vendor can drop a repetition), and `secret.NAME`. One that the message
//! does not have (`subject` of a text message) has no value: templates say `{{ from | default("Acme") }}` or
//! `{% if subject is defined %}`.

use crate::egress::{Egress, EgressError, Incoming, Outgoing};
use crate::patience;
use crate::template::{Landing, Part, Sheet, parts, push_percent};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use countersign_core::ports::{Clock, Pending, Receipt, SendError, Sends};
use countersign_core::words::address::{Address, Channel};
use countersign_core::words::id::DeliveryId;
use countersign_core::words::secret::Secret;
use countersign_core::words::time::Timestamp;
use countersign_core::words::wording::Message;
use minijinja::Value;
use minijinja::value::Object;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Method, Url};
use serde::Deserialize;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

/// How much of an answer is read.
const ANSWER_MOST: usize = 64 * 1024;

/// The longest request body.
const BODY_MOST: usize = 256 * 1024;

/// The longest URL, header or field that a template may make.
const FIELD_MOST: usize = 16 * 1024;

/// The longest pause that a vendor can ask for. No code lives longer.
const RETRY_AFTER_MOST: Duration = Duration::from_secs(600);

/// What the operator writes. Strings are templates unless it says otherwise.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default = "post")]
    method: String,
    /// Scheme and host are fixed; path and query may name values.
    url: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    /// Appended to the query of the URL.
    #[serde(default)]
    query: BTreeMap<String, String>,
    /// The body as text. Escaping follows the header `content-type`.
    body: Option<String>,
    /// The body as JSON whose strings are templates.
    json: Option<serde_json::Value>,
    /// The body as form.
    form: Option<BTreeMap<String, String>>,
    auth: Option<WrittenAuth>,
    /// `from`, where the message names none. Not a template.
    from: Option<String>,
    #[serde(default = "four_seconds")]
    timeout_ms: u64,
    #[serde(default)]
    success: WrittenSuccess,
    /// Answers that mean: not this message, not ever.
    #[serde(default)]
    refused: Vec<WrittenRule>,
    /// Answers that mean: our account is not accepted.
    #[serde(default)]
    credentials_refused: Vec<WrittenRule>,
    /// Answers that mean: nobody has this address.
    #[serde(default)]
    no_such_address: Vec<WrittenRule>,
    /// Answers that mean: later.
    #[serde(default)]
    unavailable: Vec<WrittenRule>,
    /// Where in the JSON the vendor's error number is (RFC 6901). Not a template.
    error: Option<String>,
    /// Where in the JSON the vendor's name for the message is (RFC 6901). Not a template.
    receipt: Option<String>,
}

/// Settings are kept and shown as they are written, so a credential stands there by its name only (invariant 7).
fn named_secret<'a>(setting: &str, text: &'a str) -> Result<&'a str, String> {
    if text.contains("secret.") {
        return Ok(text);
    }
    Err(format!(
        "{setting} holds the credential itself; write {{{{ secret.NAME }}}} there, and give the secret with --secret-file NAME=PATH"
    ))
}

fn post() -> String {
    "POST".into()
}

fn four_seconds() -> u64 {
    4_000
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
enum WrittenAuth {
    Basic(WrittenBasic),
    Bearer(String),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenBasic {
    user: String,
    password: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenSuccess {
    /// Codes and ranges; 200 to 299 when absent.
    status: Option<Vec<serde_json::Value>>,
    json: Option<WrittenMatch>,
    not_json: Option<WrittenMatch>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenRule {
    status: Option<Vec<serde_json::Value>>,
    json: Option<WrittenMatch>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenMatch {
    pointer: String,
    equals: Vec<serde_json::Value>,
}

/// A provider that is an HTTP request. Cloning it is cheap.
#[derive(Clone)]
pub struct Http(Arc<Shape>);

struct Shape {
    egress: Egress,
    clock: Arc<dyn Clock>,
    method: Method,
    base: Url,
    /// The whole URL, where nothing in it is filled in.
    whole: Option<Url>,
    /// Path and query.
    target: Sheet,
    query: Vec<(String, Sheet)>,
    /// Those in which nothing is filled in.
    headers: HeaderMap,
    filled_headers: Vec<(HeaderName, Sheet)>,
    auth: Option<Auth>,
    body: Body,
    from: Option<String>,
    within: Duration,
    secrets: Value,
    /// The secrets' texts, which no report may hold.
    private: Vec<Secret>,
    reading: Reading,
}

enum Auth {
    Basic(Sheet, Sheet),
    Bearer(Sheet),
}

enum Body {
    None,
    Text(Sheet),
    Form(Vec<(String, Sheet)>),
    Json(Vec<Piece>),
}

/// JSON, ready but for its strings that are templates.
enum Piece {
    Fixed(String),
    /// Filled in, then written as one JSON string.
    Filled(Sheet),
}

/// What answers mean.
struct Reading {
    success: Vec<(u16, u16)>,
    success_json: Option<Match>,
    success_not_json: Option<Match>,
    rules: Vec<(Meaning, Rule)>,
    error: Option<String>,
    receipt: Option<String>,
}

#[derive(Clone, Copy)]
enum Meaning {
    Refused,
    CredentialsRefused,
    NoSuchAddress,
    Unavailable,
}

struct Rule {
    status: Option<Vec<(u16, u16)>>,
    json: Option<Match>,
}

struct Match {
    pointer: String,
    equals: Vec<String>,
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Http({} {}, …)", self.0.method, self.0.base.host_str().unwrap_or_default())
    }
}

impl Http {
    /// Makes the provider out of its settings.
    ///
    /// # Errors
    /// A sentence for the operator: which setting, what is wrong, what would be right.
    pub fn build(
        settings: &serde_json::Value,
        secrets: &BTreeMap<String, Secret>,
        egress: Egress,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, String> {
        let written = Written::deserialize(settings).map_err(|error| error.to_string())?;
        let known = Known { secrets };
        let method = match written.method.as_str() {
            "GET" => Method::GET,
            "POST" => Method::POST,
            "PUT" => Method::PUT,
            "PATCH" => Method::PATCH,
            other => return Err(format!("method is `{other}`; it takes GET, POST, PUT or PATCH")),
        };
        let within = patience(written.timeout_ms, 100)?;
        let (base, target) = split_url(&written.url)?;
        egress.check(&base).map_err(|error| format!("url: {error}"))?;
        let target = known.compile("url", &target, Landing::Url, FIELD_MOST)?;
        let query = known.compile_all("query", written.query)?;
        let (mut headers, mut content_type) = (Vec::new(), None);
        for (name, value) in written.headers {
            let field = format!("headers.{name}");
            let name = HeaderName::try_from(&name).map_err(|_| format!("{field} is not the name of a header"))?;
            if is_of_the_client(&name) {
                return Err(format!("{field} is set by the client itself; leave it out"));
            }
            if name == CONTENT_TYPE {
                content_type = Some(value.to_ascii_lowercase());
            }
            if name == AUTHORIZATION {
                named_secret(&field, &value)?;
            }
            headers.push((name, known.compile(&field, &value, Landing::Plain, FIELD_MOST)?));
        }
        let body = match (written.body, written.json, written.form) {
            (None, None, None) => Body::None,
            _ if method == Method::GET => {
                return Err("body, json and form go with POST, PUT or PATCH; a GET has its values in query".into());
            }
            (Some(text), None, None) => {
                let landing = landing(content_type.as_deref())?;
                if landing == Landing::Json {
                    quoted_everywhere(&text)?;
                }
                Body::Text(known.compile("body", &text, landing, BODY_MOST)?)
            }
            (None, Some(json), None) => {
                let mut pieces = vec![Piece::Fixed(String::new())];
                known.pieces("json", &json, &mut pieces)?;
                Body::Json(pieces)
            }
            (None, None, Some(form)) => Body::Form(known.compile_all("form", form)?),
            _ => return Err("a request has one of body, json and form, not more".into()),
        };
        let standard = match &body {
            Body::Json(_) => Some("application/json"),
            Body::Form(_) => Some("application/x-www-form-urlencoded"),
            Body::None | Body::Text(_) => None,
        };
        let mut preset = vec![(ACCEPT, "application/json")];
        preset.extend(standard.map(|it| (CONTENT_TYPE, it)));
        for (name, value) in preset {
            if !headers.iter().any(|(it, _)| *it == name) {
                headers.push((name, known.compile("headers", value, Landing::Plain, FIELD_MOST)?));
            }
        }
        let auth = match written.auth {
            None => None,
            Some(_) if headers.iter().any(|(name, _)| name == AUTHORIZATION) => {
                return Err("auth and headers.authorization are two words for the same; keep one".into());
            }
            Some(WrittenAuth::Basic(it)) => Some(Auth::Basic(
                known.compile("auth.basic.user", &it.user, Landing::Plain, FIELD_MOST)?,
                known.compile("auth.basic.password", named_secret("auth.basic.password", &it.password)?, Landing::Plain, FIELD_MOST)?,
            )),
            Some(WrittenAuth::Bearer(it)) => {
                Some(Auth::Bearer(known.compile("auth.bearer", named_secret("auth.bearer", &it)?, Landing::Plain, FIELD_MOST)?))
            }
        };
        let (mut fixed_headers, mut filled_headers) = (HeaderMap::with_capacity(headers.len() + 1), Vec::new());
        for (name, sheet) in headers {
            match sheet.fixed() {
                Some(text) => {
                    let value = header(name.as_str(), text)?;
                    fixed_headers.insert(name, value);
                }
                None => filled_headers.push((name, sheet)),
            }
        }
        let mut rules = Vec::new();
        for (field, meaning, list) in [
            ("no_such_address", Meaning::NoSuchAddress, written.no_such_address),
            ("credentials_refused", Meaning::CredentialsRefused, written.credentials_refused),
            ("unavailable", Meaning::Unavailable, written.unavailable),
            ("refused", Meaning::Refused, written.refused),
        ] {
            for (at, rule) in list.into_iter().enumerate() {
                let field = format!("{field}[{at}]");
                if rule.status.is_none() && rule.json.is_none() {
                    return Err(format!("{field} says neither status nor json, so it would mean every answer"));
                }
                let status = rule.status.map(|it| ranges(&format!("{field}.status"), &it)).transpose()?;
                let json = rule.json.map(|it| Match::read(&format!("{field}.json"), it)).transpose()?;
                rules.push((meaning, Rule { status, json }));
            }
        }
        let reading = Reading {
            success: written.success.status.map_or_else(|| Ok(vec![(200, 299)]), |it| ranges("success.status", &it))?,
            success_json: written.success.json.map(|it| Match::read("success.json", it)).transpose()?,
            success_not_json: written.success.not_json.map(|it| Match::read("success.not_json", it)).transpose()?,
            rules,
            error: written.error.map(|it| pointer("error", it)).transpose()?,
            receipt: written.receipt.map(|it| pointer("receipt", it)).transpose()?,
        };
        let whole = match (target.fixed(), query.is_empty()) {
            (Some(fixed), true) => Some(join(&base, fixed)?),
            (Some(fixed), false) => join(&base, fixed).map(|_| None)?,
            (None, _) => None,
        };
        Ok(Self(Arc::new(Shape {
            egress,
            clock,
            method,
            base,
            whole,
            target,
            query,
            headers: fixed_headers,
            filled_headers,
            auth,
            body,
            from: written.from,
            within,
            secrets: Value::from_object(Secrets(secrets.clone())),
            private: secrets.values().cloned().collect(),
            reading,
        })))
    }
}

impl Sends for Http {
    fn send(&self, id: DeliveryId, message: Arc<Message>) -> Pending<'static, Result<Receipt, SendError>> {
        let shape = self.0.clone();
        Box::pin(async move {
            let out = shape.request(id, &message)?;
            match shape.egress.send(out, shape.within, ANSWER_MOST).await {
                Ok(came) => shape.reading.judge(&came, shape.clock.now(), &Private { message: &message, secrets: &shape.private }),
                Err(EgressError::Barred(why)) => Err(SendError::Refused(why)),
                // What was written may have arrived. The next try carries the same delivery id.
                Err(away) => Err(SendError::Unavailable { why: away.to_string(), retry_after: None }),
            }
        })
    }

    fn probe(&self) -> Pending<'static, Result<String, SendError>> {
        let shape = self.0.clone();
        Box::pin(async move {
            shape.egress.probe(&shape.base).await.map_err(|error| match error {
                EgressError::Barred(why) => SendError::Refused(why),
                away => SendError::Unavailable { why: away.to_string(), retry_after: None },
            })
        })
    }
}

impl Shape {
    /// The request for a message.
    fn request(&self, id: DeliveryId, message: &Arc<Message>) -> Result<Outgoing, SendError> {
        let values = Value::from_object(Slip { id, message: message.clone(), from: self.from.clone(), secrets: self.secrets.clone() });
        let url = match &self.whole {
            Some(url) => url.clone(),
            None => self.url(&values)?,
        };
        let mut headers = self.headers.clone();
        for (name, sheet) in &self.filled_headers {
            let value = header(name.as_str(), &filled(name.as_str(), sheet, &values)?).map_err(SendError::Refused)?;
            headers.insert(name.clone(), value);
        }
        match &self.auth {
            None => {}
            Some(Auth::Basic(user, password)) => {
                let user = filled("auth.basic.user", user, &values)?;
                if user.contains(':') {
                    return Err(SendError::Refused("auth.basic.user holds a colon, which RFC 7617 has no place for".into()));
                }
                let pair = format!("{user}:{}", filled("auth.basic.password", password, &values)?);
                let value = header("authorization", &format!("Basic {}", STANDARD.encode(pair))).map_err(SendError::Refused)?;
                headers.insert(AUTHORIZATION, value);
            }
            Some(Auth::Bearer(token)) => {
                let token = filled("auth.bearer", token, &values)?;
                headers.insert(AUTHORIZATION, header("authorization", &format!("Bearer {token}")).map_err(SendError::Refused)?);
            }
        }
        let body = match &self.body {
            Body::None => Vec::new(),
            Body::Text(sheet) => filled("body", sheet, &values)?.into_owned().into_bytes(),
            Body::Form(fields) => {
                let mut out = String::with_capacity(256);
                pairs(&mut out, "form", fields, &values, true)?;
                out.into_bytes()
            }
            Body::Json(pieces) => {
                let mut out = Vec::with_capacity(256);
                for piece in pieces {
                    match piece {
                        Piece::Fixed(text) => out.extend_from_slice(text.as_bytes()),
                        Piece::Filled(sheet) => serde_json::to_writer(&mut out, &*filled("json", sheet, &values)?)
                            .map_err(|_| SendError::Refused("json cannot hold the message".into()))?,
                    }
                }
                out
            }
        };
        Ok(Outgoing { method: self.method.clone(), url, headers, body })
    }

    fn url(&self, values: &Value) -> Result<Url, SendError> {
        let mut target = filled("url", &self.target, values)?.into_owned();
        if !self.query.is_empty() {
            target.push(if target.contains('?') { '&' } else { '?' });
            pairs(&mut target, "query", &self.query, values, false)?;
        }
        join(&self.base, &target).map_err(SendError::Refused)
    }
}

fn pairs(out: &mut String, field: &str, fields: &[(String, Sheet)], values: &Value, form: bool) -> Result<(), SendError> {
    for (at, (name, sheet)) in fields.iter().enumerate() {
        if at > 0 {
            out.push('&');
        }
        push_percent(out, name, form);
        out.push('=');
        push_percent(out, &filled(field, sheet, values)?, form);
    }
    Ok(())
}

fn filled<'a>(field: &str, sheet: &'a Sheet, values: &Value) -> Result<Cow<'a, str>, SendError> {
    sheet.fill(values).map_err(|blot| SendError::Refused(format!("{field}: {blot}")))
}

/// Whether a header says how the request is carried, and so is nobody's to choose.
pub(crate) fn is_of_the_client(name: &HeaderName) -> bool {
    ["host", "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer"].contains(&name.as_str())
}

pub(crate) fn header(name: &str, text: &str) -> Result<HeaderValue, String> {
    // Line breaks would begin another header; the other control characters are no better off there (RFC 9110 §5.5).
    if text.chars().any(char::is_control) {
        return Err(format!("the header {name} would hold a control character"));
    }
    HeaderValue::from_str(text)
        .or_else(|_| HeaderValue::from_bytes(text.as_bytes()))
        .map_err(|_| format!("the header {name} would hold what no header can"))
}

// --------------------------------------------------------------------------------------------------------------- settings

/// What templates may name.
struct Known<'a> {
    secrets: &'a BTreeMap<String, Secret>,
}

const NAMES: [&str; 9] = ["to", "to_digits", "code", "text", "html", "subject", "from", "channel", "delivery_id"];

impl Known<'_> {
    fn compile(&self, field: &str, source: &str, landing: Landing, most: usize) -> Result<Sheet, String> {
        let sheet = Sheet::compile(source, landing, most).map_err(|why| format!("{field}: {why}"))?;
        for name in sheet.names() {
            match name.strip_prefix("secret.") {
                Some(secret) if self.secrets.contains_key(secret) => {}
                Some(secret) => {
                    return Err(format!("{field} uses secret.{secret}, and no such secret is stored; store it with the provider"));
                }
                None if NAMES.contains(&name.as_str()) => {}
                None => return Err(format!("{field} uses `{name}`, which is none of {}, secret.NAME", NAMES.join(", "))),
            }
        }
        Ok(sheet)
    }

    fn compile_all(&self, field: &str, written: BTreeMap<String, String>) -> Result<Vec<(String, Sheet)>, String> {
        written
            .into_iter()
            .map(|(name, source)| {
                let sheet = self.compile(&format!("{field}.{name}"), &source, Landing::Plain, FIELD_MOST)?;
                Ok((name, sheet))
            })
            .collect()
    }

    /// Writes JSON down, leaving out the strings that are templates.
    fn pieces(&self, field: &str, json: &serde_json::Value, out: &mut Vec<Piece>) -> Result<(), String> {
        match json {
            serde_json::Value::String(source) => {
                let sheet = self.compile(field, source, Landing::Plain, BODY_MOST)?;
                match sheet.fixed() {
                    Some(text) => fix(out, &serde_json::Value::from(text).to_string()),
                    None => out.push(Piece::Filled(sheet)),
                }
            }
            serde_json::Value::Array(items) => {
                fix(out, "[");
                for (at, item) in items.iter().enumerate() {
                    fix(out, if at > 0 { "," } else { "" });
                    self.pieces(&format!("{field}[{at}]"), item, out)?;
                }
                fix(out, "]");
            }
            serde_json::Value::Object(members) => {
                fix(out, "{");
                for (at, (name, value)) in members.iter().enumerate() {
                    fix(out, if at > 0 { "," } else { "" });
                    fix(out, &format!("{}:", serde_json::Value::from(name.as_str())));
                    self.pieces(&format!("{field}.{name}"), value, out)?;
                }
                fix(out, "}");
            }
            plain => fix(out, &plain.to_string()),
        }
        Ok(())
    }
}

fn fix(out: &mut Vec<Piece>, text: &str) {
    match out.last_mut() {
        Some(Piece::Fixed(before)) => before.push_str(text),
        _ => out.push(Piece::Fixed(text.into())),
    }
}

/// The part of a URL that decides who is called, and the rest, which may name values.
fn split_url(url: &str) -> Result<(Url, String), String> {
    let bad = |why: &str| format!("url {why}, such as https://api.example.com/sms/{{{{ to_digits }}}}");
    let (scheme, rest) = url.split_once("://").ok_or_else(|| bad("has no scheme; write it whole"))?;
    let end = rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len());
    let (authority, target) = rest.split_at(end);
    if authority.contains(['{', '}', '%']) {
        return Err(bad("has a host that is not fixed; values may stand in path and query only"));
    }
    if authority.contains('@') {
        return Err("url holds credentials; put them into auth, and the password into a secret".into());
    }
    let base = Url::parse(&format!("{scheme}://{authority}/")).map_err(|_| bad("is not a URL; write it whole"))?;
    if target.contains('#') && !target.contains("{#") {
        return Err("url has a fragment (#), which is never sent; leave it out".into());
    }
    let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
    Ok((base, target))
}

/// The whole URL. Whatever was filled in, it leads to the host, and to the path, that the settings name.
pub(crate) fn join(base: &Url, target: &str) -> Result<Url, String> {
    let path = target.split('?').next().unwrap_or_default();
    let dots = |segment: &str| matches!(segment.to_ascii_lowercase().replace("%2e", ".").as_str(), "." | "..");
    if path.split(['/', '\\']).any(dots) {
        return Err("url would have a segment of dots, which leads to another path".into());
    }
    let text = format!("{}{target}", &base.as_str()[..base.as_str().len() - 1]);
    match Url::parse(&text) {
        Ok(url) if url.origin() == base.origin() && url.username().is_empty() && url.password().is_none() => Ok(url),
        _ => Err("url would not be one with these values".into()),
    }
}

fn landing(content_type: Option<&str>) -> Result<Landing, String> {
    let Some(whole) = content_type else {
        return Err("body goes with headers.content-type, by which its values are escaped; or use json or form".into());
    };
    match whole.split(';').next().unwrap_or_default().trim() {
        "application/json" => Ok(Landing::Json),
        "application/x-www-form-urlencoded" => Ok(Landing::Form),
        "application/xml" | "text/xml" | "text/html" => Ok(Landing::Markup),
        "text/plain" => Ok(Landing::Plain),
        kind if kind.ends_with("+json") => Ok(Landing::Json),
        kind if kind.ends_with("+xml") => Ok(Landing::Markup),
        kind => Err(format!(
            "headers.content-type is `{kind}`, for which no escaping is known; body takes JSON, form, XML, HTML and plain text"
        )),
    }
}

/// Refuses JSON in which a value could stand outside of quotes, where escaping cannot hold it. Whether it does must not hang
/// on a condition, and an escape of JSON must be whole, for the first character of a value would become part of it.
fn quoted_everywhere(body: &str) -> Result<(), String> {
    let (mut quoted, mut conditions) = (false, Vec::new());
    let told = parts(body, |part| {
        match part {
            Part::Text(text) => quoted = quoted_after(text, quoted)?,
            Part::Value if quoted => {}
            Part::Value => return Err("a value stands outside of quotes; write \"{{ name }}\", or use json".into()),
            Part::Comment => return Err("comments ({# #}) are not known in JSON; leave it out".into()),
            Part::Statement("if") => conditions.push(quoted),
            Part::Statement(word) => {
                let before = if word == "endif" { conditions.pop() } else { conditions.last().copied() };
                if before.is_some_and(|it| it != quoted) {
                    return Err("a condition holds one quote of a pair; put both into it, or none".into());
                }
            }
        }
        Ok(())
    });
    told.map_err(|why| format!("body: {why}"))
}

/// Whether a string of JSON is open behind `text`.
fn quoted_after(text: &str, mut quoted: bool) -> Result<bool, String> {
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'"' => quoted = !quoted,
            b'\\' => {
                let whole = match rest.next() {
                    Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => true,
                    Some(b'u') => (0..4).all(|_| rest.next().is_some_and(|it| it.is_ascii_hexdigit())),
                    _ => false,
                };
                if !whole {
                    return Err("a backslash begins no escape of JSON; write \\\\ for the character itself".into());
                }
            }
            _ => {}
        }
    }
    Ok(quoted)
}

/// Codes and ranges: `200`, `"201-204"`.
fn ranges(field: &str, written: &[serde_json::Value]) -> Result<Vec<(u16, u16)>, String> {
    let bad = |it: &serde_json::Value| format!("{field} holds {it}; it takes codes and ranges, such as 200 and \"201-204\"");
    if written.is_empty() {
        return Err(format!("{field} is empty, so no answer would do"));
    }
    let code = |text: &str| text.trim().parse::<u16>().ok().filter(|it| (100..=599).contains(it));
    written
        .iter()
        .map(|it| {
            let text = it.as_str().map_or_else(|| it.to_string(), str::to_owned);
            let (low, high) = text.split_once('-').unwrap_or((&text, &text));
            match (code(low), code(high)) {
                (Some(low), Some(high)) if low <= high => Ok((low, high)),
                _ => Err(bad(it)),
            }
        })
        .collect()
}

fn pointer(field: &str, written: String) -> Result<String, String> {
    if written.starts_with('/') {
        Ok(written)
    } else {
        Err(format!("{field} is `{written}`; a JSON pointer begins with /, such as /messages/0/status"))
    }
}

impl Match {
    fn read(field: &str, written: WrittenMatch) -> Result<Self, String> {
        let pointer = pointer(&format!("{field}.pointer"), written.pointer)?;
        let equals: Vec<String> = written.equals.iter().filter_map(scalar).collect();
        if equals.is_empty() || equals.len() != written.equals.len() {
            return Err(format!("{field}.equals takes one or more texts, numbers, true, false or null"));
        }
        Ok(Self { pointer, equals })
    }

    /// Numbers and texts are compared by their text: vendors change their minds about `0` and `"0"`.
    fn holds(&self, json: &serde_json::Value) -> bool {
        json.pointer(&self.pointer).and_then(scalar).is_some_and(|it| self.equals.contains(&it))
    }
}

fn scalar(json: &serde_json::Value) -> Option<String> {
    match json {
        serde_json::Value::String(text) => Some(text.clone()),
        serde_json::Value::Array(_) | serde_json::Value::Object(_) => None,
        plain => Some(plain.to_string()),
    }
}

// ---------------------------------------------------------------------------------------------------------------- answers

/// What no report may hold (invariant 7).
struct Private<'a> {
    message: &'a Message,
    secrets: &'a [Secret],
}

impl Private<'_> {
    /// Whether a vendor's error number may be told: short, plain, and no telling part of the address, the code or a secret.
    fn allows_number(&self, text: &str) -> bool {
        // Five digits of a telephone number are hardly an accident, and a hint shows nearly as much.
        plain(text, 40) && !self.holds(text, 4, 5)
    }

    /// Whether a vendor's name for a message may be kept. Longer, so that more of it is an accident.
    fn allows_receipt(&self, text: &str) -> bool {
        plain(text, 128) && !self.holds(text, self.message.code.len(), 8)
    }

    fn holds(&self, text: &str, of_code: usize, of_address: usize) -> bool {
        shares(text, &self.message.code, of_code)
            || shares(text, &self.message.to.reveal(), of_address)
            || self
                .secrets
                .iter()
                .map(Secret::reveal)
                .any(|it| !it.is_empty() && (text.contains(it) || (text.len() >= 5 && it.contains(text))))
    }
}

fn plain(text: &str, most: usize) -> bool {
    (1..=most).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

/// Whether both have `length` characters in a row in common; of what is shorter, all of it.
fn shares(text: &str, private: &str, length: usize) -> bool {
    let length = length.min(private.len());
    length > 0 && private.as_bytes().windows(length).any(|part| text.as_bytes().windows(length).any(|it| it.eq_ignore_ascii_case(part)))
}

impl Reading {
    /// What an answer means. The operator's rules go first, then success, then what HTTP says.
    fn judge(&self, came: &Incoming, now: Timestamp, private: &Private<'_>) -> Result<Receipt, SendError> {
        let status = came.status;
        let retry_after = retry_after(&came.headers, now);
        if (300..400).contains(&status) {
            return Err(SendError::Refused(format!("status {status}: it answers with a redirect, which is never followed; change url")));
        }
        let json: Option<serde_json::Value> = if self.reads_json() && !came.cut { serde_json::from_slice(&came.body).ok() } else { None };
        let number = self
            .error
            .as_ref()
            .and_then(|at| scalar(json.as_ref()?.pointer(at)?))
            .filter(|it| private.allows_number(it))
            .map(|it| format!(", error {it}"))
            .unwrap_or_default();
        let told = format!("status {status}{number}");
        if let Some((meaning, _)) = self.rules.iter().find(|(_, rule)| rule.holds(status, json.as_ref())) {
            return Err(match meaning {
                Meaning::Refused => SendError::Refused(told),
                Meaning::CredentialsRefused => SendError::Refused(format!("credentials refused ({told})")),
                Meaning::NoSuchAddress => SendError::NoSuchAddress(told),
                Meaning::Unavailable => SendError::Unavailable { why: told, retry_after },
            });
        }
        if within(&self.success, status) {
            return self.judge_success(came, json.as_ref(), told, private);
        }
        Err(match status {
            // Trying again with the same credentials does not help, another provider may.
            401 | 403 => SendError::Refused(format!("credentials refused ({told})")),
            404 | 405 | 410 => SendError::Refused(format!("{told}: there is no such address to call; check url and method")),
            408 | 425 | 429 | 500.. => SendError::Unavailable { why: told, retry_after },
            _ => SendError::Refused(told),
        })
    }

    fn judge_success(
        &self,
        came: &Incoming,
        json: Option<&serde_json::Value>,
        told: String,
        private: &Private<'_>,
    ) -> Result<Receipt, SendError> {
        let Some(json) = json else {
            if self.success_json.is_none() && self.success_not_json.is_none() {
                return Ok(Receipt(None));
            }
            let why = if came.cut {
                format!("{told}: the answer is longer than {ANSWER_MOST} bytes")
            } else {
                format!("{told}: the answer is not JSON")
            };
            return Err(SendError::Unavailable { why, retry_after: None });
        };
        let yes = self.success_json.as_ref().is_none_or(|it| it.holds(json));
        let no = self.success_not_json.as_ref().is_some_and(|it| it.holds(json));
        if !yes || no {
            return Err(SendError::Refused(told));
        }
        let receipt = self.receipt.as_ref().and_then(|at| scalar(json.pointer(at)?)).filter(|it| private.allows_receipt(it));
        Ok(Receipt(receipt))
    }

    fn reads_json(&self) -> bool {
        self.error.is_some()
            || self.receipt.is_some()
            || self.success_json.is_some()
            || self.success_not_json.is_some()
            || self.rules.iter().any(|(_, rule)| rule.json.is_some())
    }
}

impl Rule {
    fn holds(&self, status: u16, json: Option<&serde_json::Value>) -> bool {
        self.status.as_ref().is_none_or(|it| within(it, status))
            && self.json.as_ref().is_none_or(|it| json.is_some_and(|json| it.holds(json)))
    }
}

fn within(ranges: &[(u16, u16)], status: u16) -> bool {
    ranges.iter().any(|(low, high)| (*low..=*high).contains(&status))
}

/// Seconds or a date (RFC 9110 §10.2.3), at most ten minutes.
pub(crate) fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let asked = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let at = httpdate::parse_http_date(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
            Timestamp::from_millis(i64::try_from(at.as_millis()).ok()?).since(now)
        }
    };
    Some(asked.min(RETRY_AFTER_MOST))
}

// ----------------------------------------------------------------------------------------------------------------- values

/// The values of one message, made when they are asked for.
struct Slip {
    id: DeliveryId,
    message: Arc<Message>,
    from: Option<String>,
    secrets: Value,
}

impl fmt::Debug for Slip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Slip(…)")
    }
}

impl Object for Slip {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let message = &self.message;
        Some(match key.as_str()? {
            "to" => Value::from(message.to.reveal()),
            "to_digits" => match &message.to {
                Address::Phone(number) => Value::from(number.reveal().trim_start_matches('+')),
                Address::Email(_) | Address::Data(_) => return None,
            },
            "code" => Value::from(message.code.as_str()),
            "text" => Value::from(message.text.as_str()),
            "html" => Value::from(message.html.as_deref()?),
            "subject" => Value::from(message.subject.as_deref()?),
            "from" => Value::from(message.from.as_deref().or(self.from.as_deref())?),
            "channel" => Value::from(Channel::as_str(message.channel)),
            "delivery_id" => Value::from(self.id.to_string()),
            "secret" => self.secrets.clone(),
            _ => return None,
        })
    }
}

/// The secrets by name.
struct Secrets(BTreeMap<String, Secret>);

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrets(…)")
    }
}

impl Object for Secrets {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.0.get(key.as_str()?).map(|it| Value::from(it.reveal()))
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("secrets")
    }
}

#[cfg(test)]
mod tests;
