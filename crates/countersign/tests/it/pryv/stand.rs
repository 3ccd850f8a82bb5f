//! A server that speaks the Pryv dialect with all that it needs around it, and callers who see every byte of its answers.
//!
//! Owns how a stand is made, with the commands that people use; what the answers must be is said by the tests.

use super::core_stand_in::Core;
use super::sms_service::{CODE, Sms};
use crate::raw::{self, Heard};
use crate::server::{Place, Running};
use serde_json::{Value, json};
use std::fmt::Debug;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

pub const TENANT: &str = "pryv";
pub const PASSWORD: &str = "correct-horse-battery";
pub const APP: &str = "pryv-test-app";
pub const ORIGIN: &str = "https://app.pryv.test";

/// What is said when a token is missing.
pub const NO_TOKEN: &str = "Missing 'Authorization' header or 'auth' query parameter.";

/// How the server stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// With a directory of its own.
    Alone,
    /// In front of a core.
    InFront,
}

/// Which contract is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generation {
    V1,
    V2,
}

impl Generation {
    pub fn name(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        }
    }

    /// What is said to a token of a log-in or an activation that is none, or over, or somebody else's.
    pub fn unknown_session(self) -> (u16, String, String) {
        match self {
            Self::V1 => told(403, "forbidden", "Invalid MFA session token."),
            Self::V2 => told(401, "invalid-access-token", "Invalid or expired MFA session token."),
        }
    }

    /// What is said to a wrong code.
    pub fn wrong_code(self, code: &str) -> (u16, String, String) {
        match self {
            Self::V1 => told(400, "invalid-code", &format!("The provided code is invalid: {code}")),
            Self::V2 => told(400, "invalid-parameters-format", &format!("The provided MFA code is invalid: {code}")),
        }
    }
}

/// Each way with each generation.
pub const ALL: [(Way, Generation); 4] =
    [(Way::Alone, Generation::V1), (Way::Alone, Generation::V2), (Way::InFront, Generation::V1), (Way::InFront, Generation::V2)];

/// Runs a test in each of these ways, to the end: one that fails does not hide what the others would say.
///
/// # Panics
/// When it failed in one of them.
pub fn every<T: Debug + Copy>(ways: impl IntoIterator<Item = T>, test: impl Fn(T)) {
    let fails = |it: &T| std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(*it))).is_err();
    let failed: Vec<_> = ways.into_iter().filter(fails).collect();
    assert!(failed.is_empty(), "it failed in {failed:?}, see above");
}

/// Whether this says that a person's factor is locked.
pub fn is_locked(said: &Said) -> bool {
    let (status, id, message) = said.error();
    let message = message.to_lowercase();
    (status, id.as_str()) == (403, "forbidden") && (message.contains("lock") || message.contains("too many wrong codes"))
}

/// Status, id and message of an error.
pub fn told(status: u16, id: &str, message: &str) -> (u16, String, String) {
    (status, id.to_owned(), message.to_owned())
}

/// Settings of the service file (contract §7.3) for single mode: one request with number and code.
pub fn single(sms: &Sms) -> Value {
    json!({"sms": {"mode": "single", "endpoints": {"single": {
        "url": sms.url("/sms?to={{ number }}"), "method": "POST",
        "body": "{\"number\":\"{{ number }}\",\"code\":\"{{ code }}\"}",
        "headers": {"authorization": "Bearer: key-of-the-service", "content-type": "application/json"},
    }}}, "sessions": {"ttlSeconds": 1800}})
}

/// The same for challenge-verify.
pub fn challenge_verify(sms: &Sms) -> Value {
    let endpoint = |path: &str, body: &str| json!({"url": sms.url(path), "method": "POST", "body": body, "headers": {"authorization": "", "content-type": "application/json"}});
    json!({"sms": {"mode": "challenge-verify", "endpoints": {
        "challenge": endpoint("/mfa/codes", "{\"number\":\"{{ number }}\"}"),
        "verify": endpoint("/mfa/codes/verifications", "{\"number\":\"{{ number }}\",\"code\":\"{{ code }}\"}"),
    }}})
}

/// What a stand is to be.
pub struct Plan<'a> {
    pub way: Way,
    pub generation: &'a str,
    pub domain: Option<&'a str>,
    /// The text of the file that is imported.
    pub settings: Box<dyn Fn(&Sms) -> String + 'a>,
    pub nodes: usize,
    pub more: Vec<(&'static str, String)>,
}

impl<'a> Plan<'a> {
    pub fn new(way: Way, generation: &'a str) -> Self {
        let settings = |sms: &Sms| single(sms).to_string();
        Self { way, generation, domain: None, settings: Box::new(settings), nodes: 1, more: Vec::new() }
    }

    pub fn with(way: Way, generation: Generation, settings: impl Fn(&Sms) -> Value + 'a) -> Self {
        let settings = move |sms: &Sms| settings(sms).to_string();
        Self { settings: Box::new(settings), ..Self::new(way, generation.name()) }
    }

    /// Makes it, and starts it unless somebody wants to change something before.
    pub fn prepare(self) -> Stand {
        static MADE: AtomicU64 = AtomicU64::new(0);
        let name = format!("pryv-{}", MADE.fetch_add(1, Ordering::Relaxed));
        let place = Place::empty(&name, self.nodes, self.more);
        let sms = Sms::start();
        let core = (self.way == Way::InFront).then(Core::start);
        if let Some(core) = &core {
            core.inside().public_url = format!("http://{}/", place.address);
        }
        std::fs::write(place.folder.path().join("settings"), (self.settings)(&sms)).expect("a file");
        std::fs::write(place.folder.path().join("password"), PASSWORD).expect("a file");
        let mut import = vec!["import", "pryv", "settings", "--tenant", TENANT, "--generation", self.generation];
        let core_url = core.as_ref().map(Core::url);
        if let Some(url) = &core_url {
            import.extend(["--core-url", url]);
        }
        if let Some(domain) = self.domain {
            import.extend(["--domain", domain]);
        }
        place.command(&import);
        Stand { running: Vec::new(), place, sms, core, domain: self.domain.map(str::to_owned) }
    }

    pub fn start(self) -> Stand {
        let mut stand = self.prepare();
        stand.start();
        stand
    }
}

/// A server with a messaging service, and with a core when it stands in front of one.
pub struct Stand {
    // Dropped first: no server outlives what it talks to.
    running: Vec<Running>,
    pub place: Place,
    pub sms: Sms,
    pub core: Option<Core>,
    domain: Option<String>,
}

impl Stand {
    /// One node in single mode, where people stand in the path.
    pub fn of(way: Way, generation: Generation) -> Self {
        Plan::new(way, generation.name()).start()
    }

    pub fn start(&mut self) {
        self.running = if self.place.nodes.len() == 1 { vec![self.place.start()] } else { self.place.start_all() };
    }

    /// Stops all nodes.
    pub fn stop(&mut self) {
        self.running.clear();
    }

    /// The core that it stands in front of.
    pub fn core(&self) -> &Core {
        self.core.as_ref().expect("it stands in front of a core")
    }

    /// Changes settings of the dialect.
    pub fn set(&self, arguments: &[&str]) {
        self.place.command(&[&["pryv", "set", "--tenant", TENANT][..], arguments].concat());
    }

    /// A new person, without a second factor.
    pub fn person(&self, name: &str) -> Person {
        static NUMBERS: AtomicU64 = AtomicU64::new(791_000_000);
        match &self.core {
            Some(core) => core.add(name, PASSWORD),
            None => drop(self.place.command(&["user", "add", name, "--tenant", TENANT, "--password-file", "password"])),
        }
        let number = format!("41{}", NUMBERS.fetch_add(1, Ordering::Relaxed));
        let host = self.domain.as_ref().map(|domain| format!("{name}.{domain}"));
        Person { name: name.to_owned(), number, address: self.place.address, host }
    }

    /// A new person whose second factor is active, and the recovery codes.
    pub fn enrolled(&self, name: &str) -> (Person, Vec<String>) {
        let person = self.person(name);
        let codes = self.enroll(&person);
        (person, codes)
    }

    /// Makes a person's second factor active.
    pub fn enroll(&self, person: &Person) -> Vec<String> {
        let token = person.log_in();
        let session = person.activates(&token);
        let said = person.confirm(&session, &self.code(person));
        assert_eq!(said.status, 200, "confirm: {}", said.text());
        strings(&said.body["recoveryCodes"])
    }

    /// A new person whose second factor stands in the core's profile already, as the product before us wrote it.
    pub fn found(&self, name: &str) -> Person {
        let person = self.person(name);
        let codes: Vec<_> = (0..10).map(|it| format!("0b9c1f6e-53d7-4a0c-9c1e-6d2f0a5b7c{it:02}")).collect();
        self.core().put(name, "mfa", json!({"content": {"number": person.number}, "recoveryCodes": codes}));
        person
    }

    /// The code that is right for a person now.
    pub fn code(&self, person: &Person) -> String {
        self.sms.code(&person.number).unwrap_or_else(|| CODE.to_owned())
    }

    /// The private profile as an application sees it.
    pub fn profile(&self, person: &Person, token: &str) -> Value {
        let said = person.get("profile/private", &[("authorization", token)]);
        assert_eq!(said.status, 200, "profile: {}", said.text());
        said.body["profile"].clone()
    }
}

pub fn strings(list: &Value) -> Vec<String> {
    let list = list.as_array().unwrap_or_else(|| panic!("no list: {list}"));
    list.iter().map(|it| it.as_str().expect("a string").to_owned()).collect()
}

/// Somebody at the server.
#[derive(Debug, Clone)]
pub struct Person {
    pub name: String,
    pub number: String,
    pub address: SocketAddr,
    /// The person's own host, where there is a domain.
    pub host: Option<String>,
}

/// A request with JSON in it.
pub const JSON: (&str, &str) = ("content-type", "application/json");

impl Person {
    /// The same person at another node.
    pub fn at(&self, address: SocketAddr) -> Self {
        Self { address, ..self.clone() }
    }

    /// The path of one of the person's resources.
    pub fn path(&self, path: &str) -> String {
        if self.host.is_some() { format!("/{path}") } else { format!("/{}/{path}", self.name) }
    }

    pub fn call(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Said {
        let host = self.host.clone().unwrap_or_else(|| self.address.to_string());
        let headers = [&[("host", host.as_str())][..], headers].concat();
        call(self.address, method, &self.path(path), &headers, body)
    }

    pub fn get(&self, path: &str, headers: &[(&str, &str)]) -> Said {
        self.call("GET", path, headers, b"")
    }

    /// Posts JSON, with a token when there is one.
    pub fn post(&self, path: &str, token: &str, body: &Value) -> Said {
        let headers = [JSON, ("authorization", token)];
        let headers = if token.is_empty() { &headers[..1] } else { &headers };
        self.call("POST", path, headers, body.to_string().as_bytes())
    }

    /// What the person logs in with.
    pub fn credentials(&self) -> Value {
        json!({"username": self.name, "password": PASSWORD, "appId": APP})
    }

    pub fn login(&self) -> Said {
        self.login_with(&self.credentials(), &[("origin", ORIGIN)])
    }

    pub fn login_with(&self, body: &Value, headers: &[(&str, &str)]) -> Said {
        self.call("POST", "auth/login", &[&[JSON], headers].concat(), body.to_string().as_bytes())
    }

    /// The personal token of a log-in without a second factor.
    pub fn log_in(&self) -> String {
        let said = self.login();
        assert_eq!(said.status, 200, "login of {}: {}", self.name, said.text());
        said.token("token")
    }

    /// The token of a log-in that is not finished.
    pub fn half_in(&self) -> String {
        let said = self.login();
        assert!([200, 302].contains(&said.status), "login of {}: {}", self.name, said.text());
        said.token("mfaToken")
    }

    /// What says how the person is reached.
    pub fn data(&self) -> Value {
        json!({"number": self.number})
    }

    pub fn activate(&self, token: &str, data: &Value) -> Said {
        self.post("mfa/activate", token, data)
    }

    /// The token of an activation.
    pub fn activates(&self, token: &str) -> String {
        let said = self.activate(token, &self.data());
        assert_eq!(said.status, 302, "activate: {}", said.text());
        said.token("mfaToken")
    }

    pub fn confirm(&self, session: &str, code: &str) -> Said {
        self.post("mfa/confirm", session, &json!({"code": code}))
    }

    pub fn challenge(&self, session: &str) -> Said {
        self.post("mfa/challenge", session, &json!({}))
    }

    pub fn verify(&self, session: &str, code: &str) -> Said {
        self.post("mfa/verify", session, &json!({"code": code}))
    }

    pub fn recover(&self, code: &str) -> Said {
        let mut body = self.credentials();
        body["recoveryCode"] = code.into();
        self.call("POST", "mfa/recover", &[JSON, ("origin", ORIGIN)], body.to_string().as_bytes())
    }

    /// Logs in, and has a code sent if logging in did not: the token of a log-in that waits for its code.
    pub fn challenged(&self, generation: Generation) -> String {
        let session = self.half_in();
        if generation == Generation::V1 {
            let said = self.challenge(&session);
            assert_eq!(said.status, 200, "challenge: {}", said.text());
        }
        session
    }
}

/// One request by hand.
pub fn call(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Said {
    Said::of(raw::exchange(address, &raw::request(method, path, headers, body)))
}

/// What the server answered.
pub struct Said {
    pub status: u16,
    /// The body as JSON; null when it is none.
    pub body: Value,
    pub heard: Heard,
}

impl Said {
    fn of(heard: Heard) -> Self {
        Self { status: heard.status().unwrap_or(0), body: serde_json::from_str(&heard.body()).unwrap_or_default(), heard }
    }

    pub fn text(&self) -> String {
        self.heard.text()
    }

    pub fn header(&self, name: &str) -> Option<String> {
        self.heard.header(name)
    }

    /// Status, id and message of an error; of what is none, the body for a message.
    pub fn error(&self) -> (u16, String, String) {
        let text = |it: &str| self.body["error"][it].as_str().map(str::to_owned);
        match (text("id"), text("message")) {
            (Some(id), Some(message)) => (self.status, id, message),
            _ => (self.status, String::new(), self.heard.body()),
        }
    }

    /// A token in the body.
    pub fn token(&self, name: &str) -> String {
        self.body[name].as_str().unwrap_or_else(|| panic!("no {name}: {}", self.text())).to_owned()
    }

    /// The names in the body.
    pub fn keys(&self) -> Vec<&str> {
        let mut keys: Vec<&str> = self.body.as_object().map(|it| it.keys().map(String::as_str).collect()).unwrap_or_default();
        keys.sort_unstable();
        keys
    }
}

/// Whether this is a UUID of version 4.
pub fn is_uuid(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() == 36
        && bytes[14] == b'4'
        && b"89ab".contains(&bytes[19])
        && bytes.iter().enumerate().all(|(at, it)| if [8, 13, 18, 23].contains(&at) { *it == b'-' } else { it.is_ascii_hexdigit() })
}

/// The rows of one table. Those that come out otherwise are collected, so that one run tells of all of them.
pub struct Table {
    name: String,
    wrong: Vec<String>,
}

impl Table {
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), wrong: Vec::new() }
    }

    /// One row: what was got is what was wanted.
    pub fn row<T: PartialEq<U> + Debug, U: Debug>(&mut self, row: &str, got: T, wanted: U) {
        if got != wanted {
            self.wrong.push(format!("{row}:\n    wanted {wanted:?}\n    got    {got:?}"));
        }
    }

    /// One row: this holds.
    pub fn holds(&mut self, row: &str, it: bool, got: impl std::fmt::Display) {
        if !it {
            self.wrong.push(format!("{row}:\n    got    {got}"));
        }
    }

    /// Who reads a table to its end sees all of it.
    pub fn done(self) {
        assert!(self.wrong.is_empty(), "{}: {} rows differ\n  {}", self.name, self.wrong.len(), self.wrong.join("\n  "));
    }
}
