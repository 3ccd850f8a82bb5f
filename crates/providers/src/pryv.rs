//! Providers that are endpoints as Pryv.io's platform.yml describes them.
//!
//! Owns the settings of kind `pryv`: how a person's variables become a request, where redirects lead, and what the last answer means
//! (Pryv contract §5, §6 and §9). In mode `single` the provider carries a code of this house, in mode `challenge-verify` it makes and
//! checks its own. The endpoints hold credentials, so all of them are one secret, as JSON. Filling in is `template`; who may be called
//! is the business of [`Egress`].
//!
//! Whoever asks for a code also chooses the values, so they can say what they like and nothing more: no other host, no other header, no
//! other shape of a JSON body.

mod template;

use crate::egress::{Egress, EgressError, Incoming, Outgoing};
use crate::http::{header, is_of_the_client, join, retry_after};
use crate::patience;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use countersign_core::ports::{CheckError, Clock, Pending, Provider, Receipt, SendError, Sends, Verifies};
use countersign_core::words::address::Address;
use countersign_core::words::id::DeliveryId;
use countersign_core::words::secret::{Offered, Secret};
use countersign_core::words::variables::{Variables, shown};
use countersign_core::words::wording::Message;
use reqwest::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, LOCATION};
use reqwest::{Method, Url};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use template::{Stencil, Values};

/// How much of an answer is read. What calls itself JSON is a success only if it is whole.
const ANSWER_MOST: usize = 1024 * 1024;

/// The longest request body.
const BODY_MOST: usize = 256 * 1024;

/// The longest URL or header.
const FIELD_MOST: usize = 32 * 1024;

/// How many redirects are followed (Pryv contract §6).
const REDIRECTS_MOST: usize = 5;

/// Headers that an endpoint has unless it says otherwise (Pryv contract §7.3).
const STANDARD_HEADERS: [(HeaderName, &str); 2] = [(AUTHORIZATION, ""), (CONTENT_TYPE, "application/json")];

/// What the operator writes beside the endpoints.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    /// `single` or `challenge-verify`.
    mode: Option<String>,
    #[serde(default = "ten_seconds")]
    timeout_ms: u64,
    /// Whether methods are meant as they are written. The original knows POST, and takes everything else for GET.
    #[serde(default)]
    any_method: bool,
}

fn ten_seconds() -> u64 {
    10_000
}

/// Makes the provider out of its settings.
///
/// # Errors
/// A sentence for the operator: which setting, what is wrong, what would be right. It holds nothing of the endpoints.
pub fn build(settings: &Value, secrets: &BTreeMap<String, Secret>, egress: Egress, clock: Arc<dyn Clock>) -> Result<Provider, String> {
    let written = Written::deserialize(settings).map_err(|error| error.to_string())?;
    let within = patience(written.timeout_ms, 1_000)?;
    let Some(text) = secrets.get("endpoints") else {
        return Err("the secret endpoints is missing; it holds what MFA_ENDPOINTS of platform.yml holds, as JSON \
                    (--secret-file endpoints=PATH)"
            .into());
    };
    let endpoints: Value = serde_json::from_str(text.reveal())
        .map_err(|error| format!("endpoints is not JSON (line {}, column {})", error.line(), error.column()))?;
    let way = Way { egress, clock, within };
    let endpoint = |name: &str| match endpoints.get(name) {
        Some(it) => Endpoint::read(name, it, written.any_method, &way.egress),
        None => Err(format!("endpoints.{name} is missing; it has url, method, body and headers")),
    };
    match written.mode.as_deref() {
        Some("single") => Ok(Provider::Sends(Box::new(Single(Arc::new((way.clone(), endpoint("single")?)))))),
        Some("challenge-verify") => {
            let (challenge, verify) = (endpoint("challenge")?, endpoint("verify")?);
            Ok(Provider::Verifies(Box::new(ChallengeVerify(Arc::new(Pair { way: way.clone(), challenge, verify })))))
        }
        Some(other) => Err(format!("mode is `{other}`; it takes single or challenge-verify")),
        None => Err("mode is missing; it takes single or challenge-verify".into()),
    }
}

// ------------------------------------------------------------------------------------------------------------------ modes

/// The provider carries a code that was made here.
struct Single(Arc<(Way, Endpoint)>);

impl Sends for Single {
    fn send(&self, _: DeliveryId, message: Arc<Message>) -> Pending<'static, Result<Receipt, SendError>> {
        let it = self.0.clone();
        Box::pin(async move {
            let (way, endpoint) = &*it;
            let data = data(&message.to).map_err(SendError::Refused)?;
            // Our code goes last, so that it is filled in wherever a value names it, and no value of that name can be in its place.
            let values = Values::of(data.iter()).and_last("code", &message.code);
            way.ask(endpoint, &values).await.map(|()| Receipt(None)).map_err(Miss::failure)
        })
    }

    fn probe(&self) -> Pending<'static, Result<String, SendError>> {
        let it = self.0.clone();
        Box::pin(async move { it.0.probe(&it.1).await })
    }
}

/// The provider makes the code, and checks it.
struct ChallengeVerify(Arc<Pair>);

struct Pair {
    way: Way,
    challenge: Endpoint,
    verify: Endpoint,
}

/// Whether `text` means nothing in an address, a form or a document: letters, digits, blanks and a few marks.
fn is_plain(text: &str) -> bool {
    text.chars().all(|c| c.is_alphanumeric() || " -._~@:".contains(c))
}

impl Verifies for ChallengeVerify {
    fn start(&self, _: DeliveryId, to: Address) -> Pending<'static, Result<Receipt, SendError>> {
        let it = self.0.clone();
        Box::pin(async move {
            let data = data(&to).map_err(SendError::Refused)?;
            it.way.ask(&it.challenge, &Values::of(data.iter())).await.map(|()| Receipt(None)).map_err(Miss::failure)
        })
    }

    fn check(&self, _: Receipt, to: Address, offered: Offered) -> Pending<'static, Result<bool, CheckError>> {
        let it = self.0.clone();
        Box::pin(async move {
            let data = data(&to).map_err(CheckError::NotAsked)?;
            if !offered.with.is_empty() && offered.with.check().is_err() {
                return Err(CheckError::NotAsked(format!("what came with the code has more than {} bytes", Variables::MOST)));
            }
            // What could be more than one value, in an address or a form, is as good as not sent.
            let plain = offered.with.iter().filter(|(_, value)| is_plain(&shown(value)));
            let plain = Variables::of(plain.map(|(name, value)| (name.to_owned(), value.clone())));
            // What is known of the person wins, so that nobody has a code checked that was sent elsewhere.
            let all = plain.with(data);
            match it.way.ask(&it.verify, &Values::of(all.iter())).await {
                Ok(()) => Ok(true),
                Err(miss) => miss.verdict(),
            }
        })
    }

    fn probe(&self) -> Pending<'static, Result<String, SendError>> {
        let it = self.0.clone();
        Box::pin(async move {
            let told = it.way.probe(&it.challenge).await?;
            if it.challenge.base.origin() == it.verify.base.origin() {
                return Ok(told);
            }
            Ok(format!("{told}; {}", it.way.probe(&it.verify).await?))
        })
    }
}

fn data(to: &Address) -> Result<&Variables, String> {
    match to {
        Address::Data(it) => Ok(it),
        Address::Phone(_) | Address::Email(_) => Err("a provider of kind pryv reaches people by their own variables only".into()),
    }
}

// --------------------------------------------------------------------------------------------------------------- requests

/// One endpoint.
struct Endpoint {
    name: String,
    method: Method,
    /// Scheme, host and port. Nothing that is filled in changes them.
    base: Url,
    /// Path and query.
    target: Stencil,
    headers: Vec<(HeaderName, Stencil)>,
    body: Option<Stencil>,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({} at {}, …)", self.name, self.base.host_str().unwrap_or_default())
    }
}

impl Endpoint {
    fn read(name: &str, written: &Value, any_method: bool, egress: &Egress) -> Result<Self, String> {
        let at = format!("endpoints.{name}");
        if !written.is_object() {
            return Err(format!("{at} is not an object; it has url, method, body and headers"));
        }
        let text = |key: &str, standard: &str| match written.get(key) {
            None => Ok(standard.to_owned()),
            Some(Value::String(it)) => Ok(it.clone()),
            Some(_) => Err(format!("{at}.{key} is not a text; put it into quotes")),
        };
        let method = method(&text("method", "POST")?, any_method).map_err(|why| format!("{at}.method {why}"))?;
        let (base, target, user) = split(text("url", "")?.trim()).map_err(|why| format!("{at}.url {why}"))?;
        egress.check(&base).map_err(|error| format!("{at}.url: {error}"))?;
        // What is dotted without any value would fail with every value.
        let sample = target.fill(&Values::of([]), FIELD_MOST).map_err(|_| format!("{at}.url is longer than {FIELD_MOST} bytes"))?;
        join(&base, &sample).map_err(|_| format!("{at}.url has a path that leads elsewhere; write it without segments of dots"))?;

        let mut headers = headers(&at, written.get("headers"))?;
        let is_labelled_by_hand = headers.iter().any(|(name, _)| *name == CONTENT_TYPE);
        for (name, value) in STANDARD_HEADERS {
            if !headers.iter().any(|(it, _)| *it == name) {
                headers.push((name, value.to_owned()));
            }
        }
        for (name, value) in &mut headers {
            // As HTTP clients do: credentials in a URL are those of Basic, unless the header says others.
            if let (true, true, Some(user)) = (*name == AUTHORIZATION, value.is_empty(), &user) {
                *value = format!("Basic {}", STANDARD.encode(user));
            }
        }
        let labelled = headers.iter().any(|(name, value)| *name == CONTENT_TYPE && is_json(value));
        let body = match method {
            Method::GET => None,
            _ => Some(Stencil::body(&text("body", "")?, labelled)),
        };
        // What the label says by default is no promise of the operator.
        if is_labelled_by_hand && body.as_ref().is_some_and(Stencil::is_broken_json) {
            return Err(format!(
                "{at}.body is not JSON, although its content-type says so; outside of quotes a placeholder stands for one whole value"
            ));
        }
        let headers = headers.into_iter().map(|(name, value)| (name, Stencil::plain(&value))).collect();
        Ok(Self { name: name.to_owned(), method, base, target, headers, body })
    }

    /// The request with these values, or why there can be none.
    /// The names that stand in it and have no value, each once. They are the operator's own words.
    fn unfilled<'a>(&'a self, values: &Values<'_>) -> BTreeSet<&'a str> {
        let headers = self.headers.iter().map(|(_, stencil)| stencil);
        [&self.target].into_iter().chain(headers).chain(&self.body).flat_map(|it| it.unfilled(values)).collect()
    }

    fn request(&self, values: &Values<'_>) -> Result<Outgoing, String> {
        let long = |_| "a request with these values would be too long".to_owned();
        let url = join(&self.base, &self.target.fill(values, FIELD_MOST).map_err(long)?)?;
        let mut headers = HeaderMap::with_capacity(self.headers.len());
        for (name, stencil) in &self.headers {
            headers.insert(name.clone(), header(name.as_str(), &stencil.fill(values, FIELD_MOST).map_err(long)?)?);
        }
        let body = self.body.as_ref().map(|it| it.fill(values, BODY_MOST)).transpose().map_err(long)?.unwrap_or_default();
        Ok(Outgoing { method: self.method.clone(), url, headers, body: body.into_bytes() })
    }
}

fn headers(at: &str, written: Option<&Value>) -> Result<Vec<(HeaderName, String)>, String> {
    let mut all = Vec::new();
    let them = match written {
        None => return Ok(all),
        Some(Value::Object(them)) => them,
        Some(_) => return Err(format!("{at}.headers is not an object; it has names and texts")),
    };
    for (name, value) in them {
        let field = format!("{at}.headers.{name}");
        let name = HeaderName::try_from(name).map_err(|_| format!("{field} is not the name of a header"))?;
        // Nobody here could read an answer that was packed.
        if is_of_the_client(&name) || name == ACCEPT_ENCODING {
            return Err(format!("{field} is set by the client itself; leave it out"));
        }
        let value = value.as_str().ok_or_else(|| format!("{field} is not a text; put it into quotes"))?;
        header(name.as_str(), value).map_err(|_| format!("{field} holds what no header can, such as a line break"))?;
        if all.iter().any(|(it, _)| *it == name) {
            return Err(format!("{field} is there twice; keep one"));
        }
        all.push((name, value.to_owned()));
    }
    Ok(all)
}

fn method(written: &str, any_method: bool) -> Result<Method, String> {
    match (any_method, written) {
        (_, "POST") => Ok(Method::POST),
        (false, _) | (true, "GET") => Ok(Method::GET),
        (true, "PUT") => Ok(Method::PUT),
        (true, "PATCH") => Ok(Method::PATCH),
        (true, "DELETE") => Ok(Method::DELETE),
        (true, _) => Err("is none of GET, POST, PUT, PATCH and DELETE".into()),
    }
}

/// Whom a URL calls, the rest of it, and `user:password` where it holds them.
fn split(url: &str) -> Result<(Url, Stencil, Option<String>), String> {
    let bad = |why: &str| format!("{why}; write it whole, such as https://api.example.com/send?to={{{{ number }}}}");
    if url.is_empty() {
        return Err(bad("is missing"));
    }
    let (scheme, rest) = url.split_once("://").ok_or_else(|| bad("has no scheme"))?;
    let (authority, target) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    if [scheme, authority].iter().any(|it| it.contains(['{', '}'])) {
        return Err(bad("has a scheme or host that is not fixed; placeholders stand behind the host, after / or ?"));
    }
    // The parser of URLs drops line breaks and tabs, and takes a backslash for the end of the host.
    if authority.contains(|c: char| c.is_control() || c.is_whitespace() || c == '\\') {
        return Err(bad("has a host with a blank or a backslash in it"));
    }
    let mut base = Url::parse(&format!("{scheme}://{authority}/")).map_err(|_| bad("is not a URL"))?;
    if base.host().is_none() {
        return Err(bad("has no host"));
    }
    let user = (!base.username().is_empty() || base.password().is_some())
        .then(|| [percent_decoded(base.username()), percent_decoded(base.password().unwrap_or_default())].join(":"));
    // Cannot fail where there is a host.
    let _ = base.set_username("");
    let _ = base.set_password(None);
    let slash = if target.starts_with('/') { "" } else { "/" };
    Ok((base, Stencil::url(&format!("{slash}{target}")), user))
}

fn percent_decoded(text: &str) -> String {
    // A form without `+`, `&` and `=` is decoded by the same rule.
    let text = text.replace('+', "%2B").replace('&', "%26").replace('=', "%3D");
    url::form_urlencoded::parse(text.as_bytes()).map(|(name, _)| name.into_owned()).collect()
}

/// Whether a content type says JSON.
fn is_json(content_type: &str) -> bool {
    let kind = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    kind.ends_with("/json") || kind.ends_with("+json")
}

// ---------------------------------------------------------------------------------------------------------------- answers

/// How endpoints are asked.
#[derive(Clone)]
struct Way {
    egress: Egress,
    clock: Arc<dyn Clock>,
    within: Duration,
}

/// Why there was no success. The texts hold a status at most, and of the host only what [`EgressError`] says (invariant 7).
enum Miss {
    /// There is no such request with these values. Nobody was asked.
    Unmade(String),
    /// The endpoint could not be asked, or did not answer.
    Away(EgressError),
    /// A redirect of the endpoint led to somebody who did not answer.
    Beyond,
    /// It answered, and that was no success.
    Answered { status: u16, what: &'static str, retry_after: Option<Duration> },
}

/// What a redirect leads to is the provider's own text, so nothing of it is told.
const BEYOND: &str = "it redirects to where nobody answers";

impl Way {
    /// Asks `endpoint`, and follows it until there is a success.
    async fn ask(&self, endpoint: &Endpoint, values: &Values<'_>) -> Result<(), Miss> {
        let unfilled = endpoint.unfilled(values);
        if !unfilled.is_empty() {
            let names = unfilled.into_iter().collect::<Vec<_>>().join(", ");
            tracing::warn!("The endpoint `{}` names what nobody has a value for, and goes out with the braces: {names}", endpoint.name);
        }
        let out = endpoint.request(values).map_err(Miss::Unmade)?;
        // All the steps of one way share the time of one.
        match tokio::time::timeout(self.within, self.follow(out)).await {
            Ok(Ok(came)) => self.judge(&came),
            Ok(Err(miss)) => Err(miss),
            Err(_) => Err(Miss::Away(EgressError::Late { within: self.within })),
        }
    }

    /// The first answer that is no redirect, or a redirect that is not to be followed.
    async fn follow(&self, mut out: Outgoing) -> Result<Incoming, Miss> {
        let mut came = self.egress.send(out.clone(), self.within, ANSWER_MOST).await.map_err(Miss::Away)?;
        let mut passed = Vec::new();
        while matches!(came.status, 301 | 302 | 303 | 307 | 308) {
            let astray = |what| Miss::Answered { status: came.status, what, retry_after: None };
            let next = came.headers.get(LOCATION).and_then(|it| std::str::from_utf8(it.as_bytes()).ok());
            let mut next = next.and_then(|it| out.url.join(it).ok()).ok_or(astray(": it redirects to what is no URL"))?;
            next.set_fragment(None);
            if next.set_username("").is_err() || next.set_password(None).is_err() {
                return Err(astray(": it redirects to what has no host"));
            }
            passed.push((out.method.clone(), out.url.clone()));
            if next.origin() != out.url.origin() {
                // The credentials in them are for one host only, and do not come back.
                out.headers.clear();
            }
            let becomes_get = match came.status {
                303 => out.method != Method::GET,
                301 | 302 => out.method == Method::POST,
                _ => false,
            };
            if becomes_get {
                out.method = Method::GET;
                out.body.clear();
                let of_body: Vec<_> = out.headers.keys().filter(|it| it.as_str().starts_with("content-")).cloned().collect();
                for name in of_body {
                    out.headers.remove(name);
                }
            }
            out.url = next;
            if passed.len() > REDIRECTS_MOST || passed.iter().any(|(method, url)| *method == out.method && *url == out.url) {
                return Err(astray(": it redirects without end"));
            }
            came = match self.egress.send(out.clone(), self.within, ANSWER_MOST).await {
                Ok(came) => came,
                Err(EgressError::Barred(_)) => return Err(astray(": it redirects to what may not be called")),
                Err(_) => return Err(Miss::Beyond),
            };
        }
        Ok(came)
    }

    fn judge(&self, came: &Incoming) -> Result<(), Miss> {
        let retry_after = retry_after(&came.headers, self.clock.now());
        let missed = |what| Err(Miss::Answered { status: came.status, what, retry_after });
        match came.status {
            200..=299 => {}
            401 | 407 => return missed(": the credentials are refused"),
            _ => return missed(""),
        }
        let labelled = came.headers.get(CONTENT_TYPE).and_then(|it| it.to_str().ok()).is_some_and(is_json);
        if !labelled || came.body.is_empty() {
            return Ok(());
        }
        if came.cut {
            return missed(": the answer is too long to tell whether it is JSON");
        }
        match serde_json::from_str::<IgnoredAny>(&String::from_utf8_lossy(&came.body)) {
            Ok(_) => Ok(()),
            Err(_) => missed(": the answer calls itself JSON and is not"),
        }
    }

    /// Whether somebody answers there, without asking anything.
    async fn probe(&self, endpoint: &Endpoint) -> Result<String, SendError> {
        self.egress.probe(&endpoint.base).await.map_err(|away| Miss::Away(away).failure())
    }
}

impl Miss {
    /// What it means for a message that was to be carried.
    fn failure(self) -> SendError {
        match self {
            Self::Unmade(why) | Self::Away(EgressError::Barred(why)) => SendError::Refused(why),
            Self::Away(away) => SendError::Unavailable { why: away.to_string(), retry_after: None },
            Self::Beyond => SendError::Unavailable { why: BEYOND.into(), retry_after: None },
            Self::Answered { status: status @ (408 | 429 | 500..), what, retry_after } => {
                SendError::Unavailable { why: format!("status {status}{what}"), retry_after }
            }
            Self::Answered { status, what, .. } => SendError::Refused(format!("status {status}{what}")),
        }
    }

    /// What it means for a code that was to be checked. Who was never asked has judged nothing; who was asked may have.
    fn verdict(self) -> Result<bool, CheckError> {
        match self {
            Self::Unmade(why) => Err(CheckError::NotAsked(why)),
            Self::Away(away @ (EgressError::Late { .. } | EgressError::Broken(_))) => Err(CheckError::NoVerdict(away.to_string())),
            Self::Away(away) => Err(CheckError::NotAsked(away.to_string())),
            // Which number stands for a wrong code, every service decides for itself. These stand for something else everywhere.
            Self::Answered { status, what, .. } if !(400..=499).contains(&status) || matches!(status, 401 | 407 | 408 | 429) => {
                Err(CheckError::NoVerdict(format!("status {status}{what}")))
            }
            Self::Answered { .. } => Ok(false),
            Self::Beyond => Err(CheckError::NoVerdict(BEYOND.into())),
        }
    }
}

#[cfg(test)]
mod tests;
