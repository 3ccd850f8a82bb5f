//! The endpoints: in which mode they are called, and what is wrong with them.
//!
//! Owns what can be said of a template before anybody's data is there. Filling it in is the provider's.

use super::forms::{Draft, Named, named, value_of};
use super::{Asked, Desk, Found, Mode, join, named_so, place};
use crate::import::located::{At, Form, Node};
use axum::http::{HeaderName, HeaderValue};
use countersign_core::words::variables;
use serde_json::{Map, Value};
use url::Url;

/// Headers that are the client's own: how a request is carried, and how an answer is packed.
const CARRIED_BY_US: [&str; 8] =
    ["host", "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer", "accept-encoding"];

/// What is called: the mode, the endpoints as JSON, and where each of them stands.
pub(super) struct Called {
    pub(super) mode: Mode,
    pub(super) endpoints: Map<String, Value>,
    pub(super) places: Vec<(&'static str, At)>,
}

impl Desk {
    /// The mode, and what is called in it.
    pub(super) fn endpoints(&mut self, draft: &Draft<'_>, asked: &Asked) -> Option<Called> {
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
        let (mut endpoints, mut places) = (Map::new(), Vec::new());
        for which in mode.needs() {
            let Some(it) = named(node, join(&given.name, which), &[which]) else {
                let at = draft.mode.as_ref().map_or(given.at, |it| it.at);
                self.wrong(at, format!("there is no endpoint `{which}`, which mode {mode} calls"));
                continue;
            };
            places.push((*which, it.at));
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
        Some(Called { mode, endpoints, places })
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
        let headers = match field("headers") {
            Some(headers) => self.headers(&headers),
            None => Map::new(),
        };
        if self.read.wrong.len() > before {
            return None;
        }
        let url = url?;
        self.took(it.at, format!("{}: {method} to {}", it.name, host_of(&url)));
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
                upper @ ("GET" | "POST" | "PUT" | "PATCH" | "DELETE") => Some(upper.to_owned()),
                _ => {
                    self.wrong(it.node.at, format!("{} is `{}`; it takes GET, POST, PUT, PATCH or DELETE", it.name, named_so(method)));
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
            if CARRIED_BY_US.iter().any(|it| key.name.eq_ignore_ascii_case(it)) {
                self.ignored(key.at, format!("{}: it says how a request is carried, which is not the file's business", header.name));
                continue;
            }
            if headers.keys().any(|it| it.eq_ignore_ascii_case(&key.name)) {
                self.wrong(key.at, format!("{} is there already, for headers have no capitals", header.name));
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
        let is_json = |sample| serde_json::from_str::<Value>(&filled(text, sample)).is_ok();
        if !says_json || text.trim().is_empty() || is_json("0") && is_json("\"\"") {
            return;
        }
        let is_meant = text.trim_start().starts_with(['{', '[']);
        match is_meant {
            true => self.wrong(
                it.node.at,
                format!(
                    "{}: the content-type says JSON, and this is none; outside of quotes a placeholder stands for one whole value",
                    it.name
                ),
            ),
            false => self.warn(it.node.at, format!("{}: the content-type says JSON, and this is none", it.name)),
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

fn shown(name: &str) -> &str {
    if name.is_empty() { "this" } else { name }
}

/// Who is called, without what may be secret in an address.
fn host_of(url: &str) -> String {
    Url::parse(&without_placeholders(url)).map_or_else(|_| "an address".to_owned(), |it| place(&it))
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

/// The text with `sample` for each placeholder outside of quotes, and a letter for each inside.
fn filled(text: &str, sample: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    let (mut quoted, mut escaped) = (false, false);
    while let Some(c) = rest.chars().next() {
        let place = rest.strip_prefix("{{ ").and_then(|it| it.split_once(" }}"));
        if let Some((_, after)) = place {
            out.push_str(if quoted { "x" } else { sample });
            rest = after;
            continue;
        }
        (quoted, escaped) = match (c, escaped) {
            (_, true) => (quoted, false),
            ('\\', false) => (quoted, true),
            ('"', false) => (!quoted, false),
            (_, false) => (quoted, false),
        };
        out.push(c);
        rest = &rest[c.len_utf8()..];
    }
    out
}

fn names_code(endpoint: &Value) -> bool {
    match endpoint {
        Value::String(text) => placeholders(text).contains(&Placeholder::Exact("code")),
        Value::Object(all) => all.values().any(names_code),
        _ => false,
    }
}
