//! A small Pryv core: the calls that a server in front of it makes, answered as the contract says (§2, §3).
//!
//! Owns people, their private profiles and their accesses, all in memory, and a record of every request. It is for tests: passwords stand
//! in clear, and nothing ends by itself.

use axum::body::Bytes;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

/// One request as it came.
#[derive(Debug, Clone)]
pub struct Asked {
    pub method: String,
    pub path: String,
    pub query: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Asked {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// `GET /janet/profile/private`.
    pub fn what(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }
}

/// A person.
#[derive(Debug, Clone, Default)]
pub struct User {
    pub password: String,
    /// The private profile. Values are kept as they were written: a core keeps the order of their names.
    pub profile: BTreeMap<String, Box<RawValue>>,
    /// Since when the password is expired, in seconds.
    pub expired_at: Option<f64>,
}

/// What a token is for.
#[derive(Debug, Clone)]
struct Access {
    user: String,
    kind: &'static str,
    name: String,
    over: bool,
}

/// Everything that it knows and that tests turn.
#[derive(Default)]
pub struct Inside {
    pub users: HashMap<String, User>,
    accesses: HashMap<String, Access>,
    made: u64,
    /// `appId@origin`; `*` stands for any run of characters that are no space.
    pub trusted_apps: Vec<String>,
    /// More fields of an answer to `auth/login`.
    pub more: Map<String, Value>,
    /// The next request whose method and path begin so gets this answer, and changes nothing.
    pub fails: Option<(String, u16, Value)>,
    /// What its service information names as the address of the platform, with `/` at the end.
    pub public_url: String,
    pub asked: Vec<Asked>,
}

/// The core.
pub struct Core {
    pub address: SocketAddr,
    inside: Arc<Mutex<Inside>>,
    runtime: Option<tokio::runtime::Runtime>,
}

/// What it says of itself.
pub const API_VERSION: &str = "1.9.3";

impl Core {
    pub fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a free port");
        let address = listener.local_addr().expect("an address");
        let public_url = format!("http://{address}/");
        let inside = Arc::new(Mutex::new(Inside { trusted_apps: vec!["*@*".into()], public_url, ..Inside::default() }));
        let all = inside.clone();
        let door = move |method: Method, uri: Uri, headers: HeaderMap, body: Bytes| async move {
            all.lock().unwrap().answer(&method, &uri, &headers, &body)
        };
        runtime.spawn(async move { axum::serve(listener, axum::Router::new().fallback(door)).await });
        Self { address, inside, runtime: Some(runtime) }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Its inside, to look at and to turn.
    pub fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap()
    }

    pub fn add(&self, name: &str, password: &str) {
        self.inside().users.insert(name.to_owned(), User { password: password.to_owned(), ..User::default() });
    }

    /// Puts something into a private profile.
    pub fn put(&self, name: &str, key: &str, value: Value) {
        self.inside().users.get_mut(name).expect("a person").profile.insert(key.to_owned(), raw(&value));
    }

    /// The private profile.
    pub fn profile(&self, name: &str) -> Value {
        json!(self.inside().users[name].profile)
    }

    /// A token of this kind: `personal`, `app` or `shared`.
    pub fn token(&self, name: &str, kind: &'static str) -> String {
        self.inside().grant(name, kind, &format!("{kind}-{name}"))
    }

    /// The next request that begins so, such as `PUT /janet/profile`, gets this answer.
    pub fn fail_next(&self, beginning: &str, status: u16, body: Value) {
        self.inside().fails = Some((beginning.to_owned(), status, body));
    }

    /// Every request so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.inside().asked.clone()
    }

    /// Forgets the requests so far.
    pub fn forget(&self) {
        self.inside().asked.clear();
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.runtime.take().into_iter().for_each(tokio::runtime::Runtime::shutdown_background);
    }
}

/// A status, an id, a sentence, and data.
struct No(u16, &'static str, String, Option<Value>);

fn no<T>(status: u16, id: &'static str, message: impl Into<String>) -> Result<T, No> {
    Err(No(status, id, message.into(), None))
}

/// What goes into every answer. Its clock stands still.
fn meta() -> Value {
    json!({"apiVersion": API_VERSION, "serverTime": 1_893_499_200.123, "serial": "2019061301"})
}

impl Inside {
    fn answer(&mut self, method: &Method, uri: &Uri, headers: &HeaderMap, body: &Bytes) -> Response {
        let text = |it: &header::HeaderValue| String::from_utf8_lossy(it.as_bytes()).into_owned();
        let asked = Asked {
            method: method.to_string(),
            path: uri.path().to_owned(),
            query: uri.query().unwrap_or_default().to_owned(),
            headers: headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect(),
            body: String::from_utf8_lossy(body).into_owned(),
        };
        self.asked.push(asked.clone());
        if self.fails.as_ref().is_some_and(|(beginning, ..)| asked.what().starts_with(beginning))
            && let Some((_, status, body)) = self.fails.take()
        {
            return said(status, &body);
        }
        match self.judge(&asked) {
            Ok(mut body) => {
                body.insert("meta".into(), raw(&meta()));
                let mut response = said(200, &body);
                if asked.path.ends_with("/auth/login") {
                    response.headers_mut().insert(header::SET_COOKIE, "sso=s%3Athe-core; Path=/".parse().expect("a header"));
                }
                response
            }
            Err(No(status, id, message, data)) => {
                let mut error = json!({"id": id, "message": message});
                if let Some(data) = data {
                    error["data"] = data;
                }
                said(status, &json!({"error": error, "meta": meta()}))
            }
        }
    }

    fn judge(&mut self, asked: &Asked) -> Result<Answer, No> {
        let parts: Vec<_> = asked.path.trim_matches('/').split('/').collect();
        match (asked.method.as_str(), parts.as_slice()) {
            ("GET", ["service", "info" | "infos"] | ["reg", "service", "info"]) => return Ok(answer(&self.service_info())),
            (_, ["", ..]) => return no(404, "unknown-resource", "Unknown resource"),
            _ => {}
        }
        let user = parts[0].to_lowercase();
        if !self.users.contains_key(&user) {
            return no(404, "unknown-resource", format!("Unknown user \"{}\"", parts[0]));
        }
        match (asked.method.as_str(), &parts[1..]) {
            ("POST", ["auth", "login"]) => self.log_in(&user, asked),
            ("POST", ["auth", "logout"]) => {
                let token = self.access(&user, asked)?;
                self.accesses.get_mut(&token).expect("it was found").over = true;
                Ok(Answer::new())
            }
            ("GET", ["access-info"]) => {
                let token = self.access(&user, asked)?;
                let access = &self.accesses[&token];
                Ok(answer(&json!({"type": access.kind, "name": access.name, "id": "cjaccess", "token": token, "created": 1,
                    "createdBy": "system", "modified": 1, "modifiedBy": "system", "user": {"username": user}})))
            }
            ("GET", ["service", "info" | "infos"]) => Ok(answer(&self.service_info())),
            ("GET", ["profile", "private"]) => {
                self.personal(&user, asked, "profile.get")?;
                Ok(profile(&self.users[&user]))
            }
            ("PUT", ["profile", "private"]) => {
                self.personal(&user, asked, "profile.update")?;
                let Ok(update) = serde_json::from_str::<BTreeMap<String, Box<RawValue>>>(&asked.body) else {
                    return no(400, "invalid-parameters-format", "The parameters' format is invalid.");
                };
                let user = self.users.get_mut(&user).expect("it was found");
                for (key, value) in update {
                    match value.get() {
                        "null" => drop(user.profile.remove(&key)),
                        _ => drop(user.profile.insert(key, value)),
                    }
                }
                Ok(profile(user))
            }
            _ => no(404, "unknown-resource", "Unknown resource"),
        }
    }

    /// The rows of §2 in their order.
    fn log_in(&mut self, user: &str, asked: &Asked) -> Result<Answer, No> {
        let is_json = asked.header("content-type").is_some_and(|it| it.starts_with("application/json"));
        let body: Value = match serde_json::from_str(&asked.body) {
            Ok(body) if is_json => body,
            Err(why) if is_json => return no(400, "invalid-request-structure", why.to_string()),
            _ => json!({}),
        };
        let keys = ["username", "password", "appId"];
        if !body.is_object() || keys.iter().any(|it| body.get(it).is_none()) {
            return no(400, "invalid-operation", "Missing parameters: username, password and appId are required.");
        }
        if let Some(key) = keys.iter().find(|it| !body[**it].is_string()) {
            let wrong =
                json!([{"code": "INVALID_TYPE", "params": ["string"], "message": "Expected type string", "path": format!("#/{key}")}]);
            return Err(No(400, "invalid-parameters-format", "The parameters' format is invalid.".into(), Some(wrong)));
        }
        let [name, password, app] = keys.map(|it| body[it].as_str().unwrap_or_default());
        let origin = asked.header("origin").or_else(|| asked.header("referer")).unwrap_or_default();
        if !self.trusted_apps.iter().any(|it| trusts(it, app, origin)) {
            return no(401, "invalid-credentials", "The app id (\"appId\") is either missing or not trusted.");
        }
        if name.to_lowercase() != user {
            return no(400, "invalid-operation", "The username in the path does not match that of the credentials.");
        }
        if self.users[user].password != password {
            return no(401, "invalid-credentials", "The given username/password pair is invalid.");
        }
        if let Some(at) = self.users[user].expired_at {
            let data = json!({"expiredTime": at});
            return Err(No(401, "invalid-credentials", "Password expired since 2030-01-01T12:00:00.000Z".into(), Some(data)));
        }
        let app = app.to_owned();
        let known = self.accesses.iter().find(|(_, it)| it.user == user && it.kind == "personal" && it.name == app && !it.over);
        let token = known.map(|(token, _)| token.clone()).unwrap_or_else(|| self.grant(user, "personal", &app));
        let endpoint = format!("{}{user}/", self.public_url).replacen("//", &format!("//{token}@"), 1);
        let mut said = json!({"token": token, "apiEndpoint": endpoint, "preferredLanguage": "fr"});
        for (key, value) in &self.more {
            said[key] = value.clone();
        }
        Ok(answer(&said))
    }

    fn grant(&mut self, user: &str, kind: &'static str, name: &str) -> String {
        self.made += 1;
        let token = format!("cjtoken{:018}", self.made);
        self.accesses.insert(token.clone(), Access { user: user.into(), kind, name: name.into(), over: false });
        token
    }

    /// The token of a request.
    fn access(&self, user: &str, asked: &Asked) -> Result<String, No> {
        let by_header = asked.header("authorization").filter(|it| !it.is_empty()).map(token_in);
        let by_query = || asked.query.split('&').find_map(|it| it.strip_prefix("auth=")).map(str::to_owned);
        let Some(token) = by_header.or_else(by_query) else {
            let why = "The access token is missing: expected an \"Authorization\" header or an \"auth\" query string parameter.";
            return no(401, "invalid-access-token", why);
        };
        match self.accesses.get(&token) {
            Some(access) if access.user == user && access.over => no(403, "invalid-access-token", "Access session has expired."),
            Some(access) if access.user == user => Ok(token),
            _ => no(403, "invalid-access-token", "Cannot find access from token."),
        }
    }

    fn personal(&self, user: &str, asked: &Asked, method: &str) -> Result<(), No> {
        let token = self.access(user, asked)?;
        if self.accesses[&token].kind == "personal" {
            return Ok(());
        }
        no(403, "forbidden", format!("You cannot access {method} resource using the given access"))
    }

    fn service_info(&self) -> Value {
        let url = &self.public_url;
        json!({"name": "Pryv stand-in", "register": format!("{url}reg/"), "access": format!("{url}reg/access/"),
            "api": format!("{url}{{username}}/"), "home": url, "support": url, "terms": url, "eventTypes": url, "serial": "2019061301",
            "version": API_VERSION})
    }
}

/// The names and values of an answer, the values as they are written.
type Answer = BTreeMap<String, Box<RawValue>>;

fn raw(value: &Value) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).expect("JSON")
}

fn answer(value: &Value) -> Answer {
    value.as_object().expect("an object").iter().map(|(name, value)| (name.clone(), raw(value))).collect()
}

fn profile(user: &User) -> Answer {
    Answer::from([("profile".to_owned(), serde_json::value::to_raw_value(&user.profile).expect("JSON"))])
}

fn said(status: u16, body: &impl serde::Serialize) -> Response {
    let status = StatusCode::from_u16(status).expect("a status");
    let body = serde_json::to_string(body).expect("JSON");
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// `token`, `Basic …` or `Bearer token`, as a core understands it.
fn token_in(authorization: &str) -> String {
    if let Some(basic) = authorization.strip_prefix("Basic ") {
        let pair = data_encoding::BASE64.decode(basic.as_bytes()).unwrap_or_default();
        return String::from_utf8_lossy(&pair).split(':').next().unwrap_or_default().to_owned();
    }
    authorization.split(' ').next().unwrap_or_default().to_owned()
}

/// Whether an entry of the trusted apps is about this app at this origin.
fn trusts(entry: &str, app: &str, origin: &str) -> bool {
    entry.split_once('@').is_some_and(|(id, pattern)| (id == "*" || id == app) && fits(pattern.as_bytes(), origin.as_bytes()))
}

fn fits(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) if fits(rest, text) => true,
        (Some((b'*', _)), Some((first, others))) => !first.is_ascii_whitespace() && fits(pattern, others),
        (Some((one, rest)), Some((first, others))) => one == first && fits(rest, others),
        _ => false,
    }
}
