//! Canaries: secrets, codes and addresses that must not be found in anything that the server emits (invariant 7).
//!
//! The real server runs at its most talkative, with providers that repeat whatever they are told. Every way of use and misuse is
//! walked, and then every byte of it is searched: answers, logs, measures, what commands print, and the database with its log.

use crate::raw::{Heard, connect, exchange, request};
use crate::server::Place;
use countersign_core::nouns::totp;
use countersign_core::words::time::Timestamp;
use data_encoding::{BASE32_NOPAD, BASE64_NOPAD, BASE64URL_NOPAD, HEXLOWER};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const API: &str = "/ciam-mfa/v2";

// ---------------------------------------------------------------------------------------------------------------- the search

/// Where something was emitted. Some of it is there on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Where {
    Log,
    Answer,
    TokenAnswer,
    EnrolAnswer,
    Command,
    Database,
}

/// Something that must not get out.
struct Canary {
    what: String,
    value: Vec<u8>,
    /// The only places that may hold it.
    allowed: &'static [Where],
    /// Short ones are found by accident in long numbers: they count where nothing alphanumeric is beside them.
    bounded: bool,
}

impl Canary {
    fn new(what: impl Into<String>, value: impl Into<Vec<u8>>, allowed: &'static [Where]) -> Self {
        Self { what: what.into(), value: value.into(), allowed, bounded: false }
    }

    /// How it would look in disguise: in what no letter case matters, and in base64.
    fn forms(&self) -> (Vec<String>, Vec<String>) {
        let plain = latin(&self.value).to_lowercase();
        if self.bounded {
            return (vec![plain], Vec::new());
        }
        let mut encoded = Vec::new();
        // In the middle of something longer, base64 has three alignments; the characters at the ends depend on what is beside.
        for (shift, first) in [(0, 0), (1, 2), (2, 3)] {
            let bytes = [&vec![0; shift][..], &self.value].concat();
            let last = bytes.len() * 8 / 6;
            encoded.extend([&BASE64_NOPAD, &BASE64URL_NOPAD].map(|it| it.encode(&bytes)[first..last].to_owned()));
        }
        encoded.dedup();
        (vec![plain, HEXLOWER.encode(&self.value)], encoded)
    }
}

/// Bytes as text of which each character is one byte, so that binary files can be searched as well.
fn latin(bytes: &[u8]) -> String {
    bytes.iter().map(|it| char::from(*it)).collect()
}

/// What `%41` and the like stand for.
fn percent_decoded(text: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let byte = rest.get(at + 1..at + 3).and_then(|it| u8::from_str_radix(it, 16).ok());
        out.push(byte.map_or('%', char::from));
        rest = &rest[at + if byte.is_some() { 3 } else { 1 }..];
    }
    out + rest
}

/// Everything that was emitted, each with a name and where it came from.
#[derive(Default)]
struct Emitted(Vec<(String, Where, Vec<u8>)>);

impl Emitted {
    fn note(&mut self, name: impl Into<String>, place: Where, bytes: impl Into<Vec<u8>>) {
        self.0.push((name.into(), place, bytes.into()));
    }

    /// What was found of `canaries`, and around what.
    fn search(&self, canaries: &[Canary]) -> Vec<String> {
        let mut found = Vec::new();
        for (name, place, bytes) in &self.0 {
            let raw = latin(bytes);
            let lower = raw.to_lowercase();
            let decoded = percent_decoded(&lower);
            // Telephone numbers are written in many ways.
            let squeezed: String = lower.chars().filter(|it| !" -.()/".contains(*it)).collect();
            for canary in canaries.iter().filter(|it| !it.allowed.contains(place)) {
                if canary.bounded && *place == Where::Database {
                    continue;
                }
                let (forms, encoded) = canary.forms();
                let views = [&lower, &decoded, &squeezed];
                let hit = forms
                    .iter()
                    .flat_map(|form| views.map(|view| (view, form)))
                    .chain(encoded.iter().map(|form| (&raw, form)))
                    .find_map(|(view, form)| position(view, form, canary.bounded).map(|at| (view, at, form.len())));
                if let Some((view, at, length)) = hit {
                    let (from, to) = (at.saturating_sub(160), (at + length + 80).min(view.len()));
                    let around: String = (from..=to).find_map(|from| view.get(from..)).unwrap_or_default().chars().take(400).collect();
                    found.push(format!("{} in {name}: …{}…", canary.what, around.escape_debug()));
                }
            }
        }
        found
    }
}

fn position(text: &str, form: &str, bounded: bool) -> Option<usize> {
    let free = |it: Option<char>| it.is_none_or(|it| !it.is_ascii_alphanumeric());
    text.match_indices(form)
        .map(|(at, _)| at)
        .find(|at| !bounded || (free(text[..*at].chars().next_back()) && free(text[at + form.len()..].chars().next())))
}

#[test]
fn a_canary_is_found_in_every_disguise_and_where_it_may_be_it_is_left_alone() {
    let canary = |value: &str| Canary::new("number", value, &[Where::TokenAnswer]);
    let hides = |text: &[u8], place: Where| {
        let mut emitted = Emitted::default();
        emitted.note("there", place, text);
        emitted.search(&[canary("918212345212")]).len()
    };
    let long = |it: &str| BASE64_NOPAD.encode(it.as_bytes());
    for text in [
        "to=918212345212".to_owned(),
        "+91 (82123) 45-212".to_owned(),
        "%2B9%318212345212".to_owned(),
        long("918212345212"),
        long("x918212345212yz"),
        long("{\"to\":\"918212345212\"}"),
        BASE64URL_NOPAD.encode(b"??918212345212"),
        HEXLOWER.encode(b"918212345212"),
        HEXLOWER.encode(b"918212345212").to_uppercase(),
    ] {
        assert_eq!(hides(text.as_bytes(), Where::Log), 1, "{text}");
        assert_eq!(hides(text.as_bytes(), Where::TokenAnswer), 0, "{text}");
    }
    assert_eq!(hides(b"\xff\x00\xc3918212345212\xff", Where::Database), 1);
    assert_eq!(hides(b"91821234521", Where::Log) + hides(long("91821234521").as_bytes(), Where::Log), 0);
    let mut emitted = Emitted::default();
    emitted.note("log", Where::Log, &b"took 1123456 us, 123456"[..]);
    let short = |value: &str| Canary { bounded: true, ..Canary::new("value", value, &[]) };
    assert_eq!(emitted.search(&[short("123456")]).len(), 1);
    assert_eq!(emitted.search(&[short("112345")]).len(), 0);
}

// ------------------------------------------------------------------------------------------------------------- the providers

/// What a provider says, with everything in it that it was told.
#[derive(Debug, Clone, Copy)]
enum Says {
    Status(u16),
    /// A status, and that there is more to come, which is never the case.
    Garbage,
    HangsUp,
}

/// A provider over HTTP that repeats what it is told: in the status line, in headers and in the body.
struct Parrot {
    url: String,
    says: Arc<Mutex<Says>>,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Parrot {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/sms", listener.local_addr().unwrap());
        let (says, heard) = (Arc::new(Mutex::new(Says::Status(200))), Arc::new(Mutex::new(Vec::new())));
        let (rule, ears) = (says.clone(), heard.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (rule, ears) = (rule.clone(), ears.clone());
                std::thread::spawn(move || answer_as_told(stream.unwrap(), &rule, &ears));
            }
        });
        Self { url, says, heard }
    }

    fn says(&self, says: Says) {
        *self.says.lock().unwrap() = says;
    }

    /// All codes that were handed over, in order.
    fn codes(&self) -> Vec<String> {
        let heard = self.heard.lock().unwrap();
        heard.iter().filter_map(|it| Some(serde_json::from_str::<Value>(it).ok()?["code"].as_str()?.to_owned())).collect()
    }
}

fn answer_as_told(stream: TcpStream, rule: &Mutex<Says>, ears: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(stream);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        if let Some(it) = line.to_lowercase().strip_prefix("content-length:") {
            length = it.trim().parse().unwrap();
        }
        if line == "\r\n" {
            break;
        }
        head.push_str(line.trim_end());
        head.push(' ');
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let body = String::from_utf8(body).unwrap();
    ears.lock().unwrap().push(body.clone());
    let told: Value = serde_json::from_str(&body).unwrap();
    let code = told["code"].as_str().unwrap_or_default();
    let stream = reader.get_mut();
    let said = match *rule.lock().unwrap() {
        Says::HangsUp => return,
        Says::Garbage => format!("{head}{body}\r\n\r\n"),
        Says::Status(status) => {
            let text = json!({"id": code, "error": code, "echo": told, "head": head}).to_string();
            format!(
                "HTTP/1.1 {status} {head}{body}\r\nx-echo: {head}{body}\r\nlocation: /{code}\r\nretry-after: {code}\r\n\
                 set-cookie: it={code}\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{text}",
                text.len()
            )
        }
    };
    let _ = stream.write_all(said.as_bytes());
}

/// A mail server that repeats what it is told in every reply, and refuses at the command that it is told to.
struct Postman {
    port: u16,
    refuses_at: Arc<Mutex<Option<(&'static str, &'static str)>>>,
    codes: Arc<Mutex<Vec<String>>>,
}

impl Postman {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (refuses_at, codes) = (Arc::new(Mutex::new(None)), Arc::new(Mutex::new(Vec::new())));
        let (rule, seen) = (refuses_at.clone(), codes.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (rule, seen) = (rule.clone(), seen.clone());
                std::thread::spawn(move || post(stream.unwrap(), &rule, &seen));
            }
        });
        Self { port, refuses_at, codes }
    }

    fn refuses_at(&self, what: Option<(&'static str, &'static str)>) {
        *self.refuses_at.lock().unwrap() = what;
    }
}

fn post(stream: TcpStream, rule: &Mutex<Option<(&'static str, &'static str)>>, codes: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(stream);
    let mut all = String::new();
    let say = |reader: &mut BufReader<TcpStream>, text: String| reader.get_mut().write_all(format!("{text}\r\n").as_bytes()).is_ok();
    say(&mut reader, "220 here".into());
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let line = line.trim_end().to_owned();
        all.push_str(&line);
        all.push(' ');
        let verb = line.split([' ', ':']).next().unwrap_or_default().to_uppercase();
        if let Some((at, reply)) = *rule.lock().unwrap()
            && at == verb
        {
            say(&mut reader, format!("{reply} {all}"));
            continue;
        }
        match verb.as_str() {
            "EHLO" => say(&mut reader, "250-here\r\n250 AUTH PLAIN LOGIN".into()),
            "AUTH" => say(&mut reader, format!("235 2.7.0 {all}")),
            "DATA" => {
                say(&mut reader, "354 go on".into());
                let mut letter = String::new();
                while !letter.ends_with("\r\n.\r\n") {
                    if reader.read_line(&mut letter).unwrap_or(0) == 0 {
                        return;
                    }
                }
                let code = codes_in(&letter).pop().unwrap_or_default();
                codes.lock().unwrap().push(code.clone());
                match *rule.lock().unwrap() {
                    Some(("LETTER", reply)) => say(&mut reader, format!("{reply} {code} {all}")),
                    _ => say(&mut reader, format!("250 2.0.0 Ok: queued as {code}")),
                }
            }
            _ => say(&mut reader, format!("250 2.0.0 {all}")),
        };
    }
}

/// Ten digits that stand alone.
fn codes_in(text: &str) -> Vec<String> {
    let words = text.split(|it: char| !it.is_ascii_alphanumeric());
    words.filter(|it| it.len() == 10 && it.bytes().all(|b| b.is_ascii_digit())).map(str::to_owned).collect()
}

// ------------------------------------------------------------------------------------------------------------------ the walk

const PROVIDER_SECRET: &str = "zqProviderSecretKnUw82";
const MAIL_PASSWORD: &str = "zqMailPasswordRtYp41";
const WRONG_SECRET: &str = "zqNobodysSecretHhGe63";
const LOGIN: &str = "zq.login.visitor";
const ENROLLED: &str = "zq.login.enrolled";
const NUMBER: &str = "+91-8212345212";
const DIGITS: &str = "8212345212";
const MAILBOX: &str = "zq.mailbox@canary.example";
const WORDS: &str = "zqlanternwords";

struct Walk {
    place: Place,
    emitted: Emitted,
    tokens: Vec<String>,
    /// Where in `emitted` the next file begins.
    count: usize,
}

impl Walk {
    fn hear(&mut self, bytes: &[u8]) -> Heard {
        let heard = exchange(self.place.address, bytes);
        self.count += 1;
        let line: String = String::from_utf8_lossy(bytes).chars().take(50).collect();
        self.emitted.note(format!("answer {} to {line:?}", self.count), Where::Answer, heard.0.clone());
        heard
    }

    fn last_is(&mut self, place: Where) {
        self.emitted.0.last_mut().expect("something was heard").1 = place;
    }

    fn token(&mut self) -> String {
        let form = format!("grant_type=client_credentials&client_id={}&client_secret={}", self.place.client_id, self.place.client_secret);
        let heard = self.hear(&request("POST", &format!("{API}/get/token"), &[], form.as_bytes()));
        self.last_is(Where::TokenAnswer);
        let token = heard.json()["access_token"].as_str().unwrap_or_else(|| panic!("{}", heard.text())).to_owned();
        self.tokens.push(token.clone());
        token
    }

    fn call(&mut self, method: &str, path: &str, token: &str, body: &Value) -> Heard {
        let bearer = format!("Bearer {token}");
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let path = if path.starts_with('/') { path.to_owned() } else { format!("{API}/{path}") };
        self.hear(&request(method, &path, &[("authorization", &bearer), ("content-type", "application/json")], body.as_bytes()))
    }

    /// Asks for a code by SMS, for a person of this turn.
    fn ask(&mut self, token: &str, turn: usize) -> Heard {
        let ask = json!({"userName": format!("{LOGIN}.{turn}"), "phoneNumber": NUMBER, "deviceType": "sms"});
        self.call("POST", "deviceAuthentications", token, &ask)
    }

    fn command(&mut self, arguments: &[&str]) -> String {
        let done = self.place.prepare().args(arguments).output().unwrap();
        self.emitted.note(format!("{arguments:?}, standard output"), Where::Command, done.stdout.clone());
        self.emitted.note(format!("{arguments:?}, standard error"), Where::Command, done.stderr);
        String::from_utf8(done.stdout).unwrap()
    }
}

fn totp_now(seed: &[u8]) -> String {
    #[expect(clippy::disallowed_methods, reason = "the server's clock is the machine's")]
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    totp::hotp(seed, totp::step_at(Timestamp::from_millis(now.as_millis().try_into().unwrap())))
}

fn prepare(parrot: &Parrot, postman: &Postman) -> Place {
    let mut place = Place::new("canaries", &parrot.url);
    place.settings.extend([
        ("COUNTERSIGN_LOG", "trace".into()),
        ("COUNTERSIGN_SERVER_TRUSTED_PROXIES", "127.0.0.1".into()),
        ("COUNTERSIGN_LIMITS_BODY_TIMEOUT_MS", "1000".into()),
        ("RUST_BACKTRACE", "full".into()),
        ("PARROT_TOKEN", PROVIDER_SECRET.into()),
        ("MAIL_PASSWORD", MAIL_PASSWORD.into()),
    ]);
    let settings = json!({
        "url": format!("{}/{{{{ to }}}}?code={{{{ code }}}}", parrot.url),
        "headers": {"x-code": "{{ code }}", "x-key": "{{ secret.token }}"},
        "auth": {"basic": {"user": "us", "password": "{{ secret.token }}"}},
        "json": {"to": "{{ to }}", "code": "{{ code }}", "text": "{{ text }}", "key": "{{ secret.token }}"},
        "error": "/error",
        "receipt": "/id",
    });
    let write = |name: &str, text: &str| std::fs::write(place.folder.path().join(name), text).unwrap();
    write("parrot.json", &settings.to_string());
    write("words", &format!("{WORDS} {{{{ code }}}} for {{{{ tenant }}}}"));
    let port = format!("port={}", postman.port);
    place.command(&["tenant", "set", "demo", "--set", "code_length=10", "--set", "sends=1000"]);
    place.command(&[
        "provider",
        "add",
        "demo",
        "parrot",
        "--channel",
        "sms",
        "--file",
        "parrot.json",
        "--secret-env",
        "token=PARROT_TOKEN",
    ]);
    let mail = ["--set", "host=127.0.0.1", "--set", &port, "--set", "tls=none", "--set", "username=us", "--set", "from=us@example.com"];
    let add = ["provider", "add", "demo", "post", "--kind", "smtp", "--secret-env", "password=MAIL_PASSWORD"];
    place.command(&[&add[..], &mail[..]].concat());
    place.command(&["tenant", "route", "add", "demo", "sms", "parrot"]);
    place.command(&["tenant", "route", "add", "demo", "email", "post"]);
    place.command(&["template", "put", "demo", "default", "sms", "--text", "words"]);
    place.command(&["template", "put", "demo", "default", "email", "--text", "words", "--subject", "Your code"]);
    place
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invariant_7_no_canary_is_found_in_anything_that_the_server_emits() {
    let (parrot, postman) = (Parrot::start(), Postman::start());
    let place = prepare(&parrot, &postman);
    let server = place.start();
    let mut walk = Walk { place, emitted: Emitted::default(), tokens: Vec::new(), count: 0 };
    let mut turn = 0;
    let mut seeds = Vec::new();
    let mut totps = Vec::new();

    let token = tokens(&mut walk);
    codes_by_sms(&mut walk, &token, &parrot, &mut turn);
    codes_by_mail(&mut walk, &token, &postman);
    authenticators(&mut walk, &token, &mut seeds, &mut totps);
    nonsense(&mut walk, &token);
    by_http_2(&mut walk, &token).await;
    commands(&mut walk, &parrot, &postman);
    for path in ["/metrics", "/healthz", "/readyz", "/inbox"] {
        walk.hear(&request("GET", path, &[], b""));
    }

    // The database as a thief would find it: what is live, what was deleted, and the log.
    for name in ["countersign.db", "countersign.db-wal", "countersign.db-shm"] {
        walk.emitted.note(name, Where::Database, std::fs::read(walk.place.folder.path().join(name)).unwrap());
    }
    faults(&mut walk, &token);
    server.signal("TERM");
    let _ = server.ended(Duration::from_secs(30));
    for name in ["server.log", "server.out"] {
        walk.emitted.note(name, Where::Log, std::fs::read(walk.place.folder.path().join(name)).unwrap());
    }
    let log = walk.place.log();
    assert!(log.contains("\"level\":\"TRACE\"") || log.contains("\"level\":\"DEBUG\""), "it was not talkative: {log}");

    let mut canaries = vec![
        Canary::new("client secret", walk.place.client_secret.clone(), &[]),
        Canary::new("wrong client secret", WRONG_SECRET, &[]),
        Canary::new("provider secret", PROVIDER_SECRET, &[]),
        Canary::new("mail password", MAIL_PASSWORD, &[]),
        Canary::new("number", DIGITS, &[]),
        Canary::new("mailbox", MAILBOX, &[]),
        Canary::new("login of a visitor", LOGIN, &[]),
        // The authenticator's picture holds it, and an administrator must find people.
        Canary::new("login of somebody enrolled", ENROLLED, &[Where::EnrolAnswer, Where::Database]),
        // A template is the tenant's own text and no secret; what is made of it is.
        Canary::new("words", WORDS, &[Where::Database, Where::Command]),
    ];
    // Test messages hold no code.
    let carried = parrot.codes().into_iter().chain(postman.codes.lock().unwrap().clone());
    let codes: BTreeSet<_> = carried.filter(|it| it.len() == 10).collect();
    assert!(codes.len() > 15, "{codes:?}");
    for code in codes {
        canaries.push(Canary::new("written message", format!("{WORDS} {code}"), &[]));
        canaries.push(Canary::new("code", code, &[]));
    }
    for token in &walk.tokens {
        canaries.push(Canary::new("access token", token.as_bytes(), &[Where::TokenAnswer]));
        let signature = token.rsplit('.').next().unwrap();
        canaries.push(Canary::new("signature of an access token", signature, &[Where::TokenAnswer]));
    }
    for seed in seeds {
        canaries.push(Canary::new("seed", BASE32_NOPAD.decode(seed.as_bytes()).unwrap(), &[]));
        canaries.push(Canary::new("seed as text", seed, &[Where::EnrolAnswer]));
    }
    canaries.extend(totps.into_iter().map(|it: String| Canary { bounded: true, ..Canary::new("value of an authenticator", it, &[]) }));
    let found = walk.emitted.search(&canaries);
    let bytes: usize = walk.emitted.0.iter().map(|(_, _, it)| it.len()).sum();
    println!("{} canaries in {} answers, files and outputs, {bytes} bytes", canaries.len(), walk.emitted.0.len());
    assert!(found.is_empty(), "{} found:\n{}", found.len(), found.join("\n"));
}

fn tokens(walk: &mut Walk) -> String {
    let path = format!("{API}/get/token");
    let (id, secret) = (walk.place.client_id.clone(), walk.place.client_secret.clone());
    for (id, secret) in [(id.as_str(), WRONG_SECRET), ("nobody", secret.as_str()), (secret.as_str(), id.as_str())] {
        let form = format!("grant_type=client_credentials&client_id={id}&client_secret={secret}");
        assert!(walk.hear(&request("POST", &path, &[], form.as_bytes())).status() >= Some(400));
    }
    for body in [
        json!({"grant_type": secret, "client_id": id, "client_secret": secret}).to_string(),
        json!({"grant_type": "client_credentials", "client_id": [secret], "client_secret": {"a": secret}}).to_string(),
        json!({"client_secret": secret}).to_string(),
        format!("{{\"client_secret\": \"{secret}\", \"client_secret\": \"{secret}\"}}"),
        format!("{{\"client_secret\": \"{secret}"),
        format!("client_secret={secret}&client_secret={secret}&x=%zz{secret}"),
        secret.clone(),
    ] {
        assert!(walk.hear(&request("POST", &path, &[], body.as_bytes())).status() >= Some(400), "{body}");
    }
    let basic = format!("Basic {}", data_encoding::BASE64.encode(format!("{id}:{secret}").as_bytes()));
    walk.hear(&request("POST", &path, &[("authorization", &basic)], b"grant_type=client_credentials"));
    walk.hear(&request("POST", &format!("{path}?client_secret={secret}"), &[], b""));
    let json = json!({"grant_type": "client_credential", "client_id": id, "client_secret": secret}).to_string();
    let heard = walk.hear(&request("POST", &path, &[("content-type", "application/json")], json.as_bytes()));
    walk.last_is(Where::TokenAnswer);
    walk.tokens.push(heard.json()["access_token"].as_str().unwrap().to_owned());
    walk.token()
}

fn codes_by_sms(walk: &mut Walk, token: &str, parrot: &Parrot, turn: &mut usize) {
    use Says::{Garbage, HangsUp, Status};
    for says in [200, 202, 302, 400, 401, 404, 422, 429, 500, 503].map(Status).into_iter().chain([Garbage, HangsUp, Status(200)]) {
        parrot.says(says);
        *turn += 1;
        let before = parrot.codes().len();
        let heard = walk.ask(token, *turn);
        assert!(parrot.codes().len() > before, "{says:?}: {}", heard.text());
        let code = parrot.codes().pop().unwrap();
        let Some(id) = heard.json()["authId"].as_str().map(str::to_owned) else { continue };
        let path = format!("deviceAuthentications/{id}");
        // Too long, a number instead of a text, of the wrong kind, in the path, wrong, right, and once more.
        for otp in [json!({"otp": format!("{code}{code}")}), json!({"otp": code.parse::<u64>().unwrap()})] {
            walk.call("POST", &path, token, &otp);
        }
        walk.call("POST", &path, token, &json!({"otp": code, "deviceType": code}));
        walk.call("POST", &format!("deviceAuthentications/{code}"), token, &json!({"otp": code}));
        walk.call("POST", &path, WRONG_SECRET, &json!({"otp": code}));
        let wrong: String = code.chars().rev().map(|it| if it == '0' { '1' } else { '0' }).collect();
        walk.call("POST", &path, token, &json!({"otp": wrong}));
        if matches!(says, Status(200)) {
            assert_eq!(walk.call("POST", &path, token, &json!({"otp": code})).status(), Some(200));
        }
        walk.call("POST", &path, token, &json!({"otp": code}));
    }
    parrot.says(Status(200));
    // Until it is spent and the person is locked, and then as a locked person.
    *turn += 1;
    let id = walk.ask(token, *turn).json()["authId"].as_str().unwrap().to_owned();
    for _ in 0..4 {
        walk.call("POST", &format!("deviceAuthentications/{id}"), token, &json!({"otp": "0000000000"}));
    }
    walk.ask(token, *turn);
    for (field, value) in
        [("templateName", NUMBER), ("templateName", LOGIN), ("deviceType", NUMBER), ("phoneNumber", MAILBOX), ("userName", "")]
    {
        let mut ask = json!({"userName": LOGIN, "phoneNumber": NUMBER, "deviceType": "sms"});
        ask[field] = value.into();
        assert!(walk.call("POST", "deviceAuthentications", token, &ask).status() >= Some(400), "{field}");
    }
}

fn codes_by_mail(walk: &mut Walk, token: &str, postman: &Postman) {
    let refusals = [
        None,
        Some(("RCPT", "550 5.1.1")),
        Some(("RCPT", "450")),
        Some(("MAIL", "553 5.1.7")),
        Some(("LETTER", "554 5.7.1")),
        Some(("LETTER", "451")),
        Some(("AUTH", "535 5.7.8")),
        Some(("EHLO", "garbage")),
        None,
    ];
    for (turn, refusal) in refusals.into_iter().enumerate() {
        postman.refuses_at(refusal);
        let ask = json!({"userName": format!("{LOGIN}.mail.{turn}"), "email": MAILBOX, "deviceType": "email"});
        let heard = walk.call("POST", "deviceAuthentications", token, &ask);
        if refusal.is_none() {
            let code = postman.codes.lock().unwrap().last().cloned().unwrap_or_else(|| panic!("{}", heard.text()));
            let path = format!("deviceAuthentications/{}", heard.json()["authId"].as_str().unwrap());
            assert_eq!(walk.call("POST", &path, token, &json!({"otp": code})).status(), Some(200));
        }
    }
    for mailbox in [format!("{MAILBOX} "), format!("<{MAILBOX}>"), format!("{MAILBOX}@{MAILBOX}"), format!("{MAILBOX}\r\nBcc: {MAILBOX}")] {
        let ask = json!({"userName": LOGIN, "email": mailbox, "deviceType": "email"});
        walk.call("POST", "deviceAuthentications", token, &ask);
    }
}

fn authenticators(walk: &mut Walk, token: &str, seeds: &mut Vec<String>, totps: &mut Vec<String>) {
    let devices = format!("users/{ENROLLED}/mfadevices");
    let created = walk.call("POST", &devices, token, &json!({"deviceType": "TOTP", "deviceName": "phone"}));
    walk.last_is(Where::EnrolAnswer);
    let created = created.json();
    let (seed, id) = (created["secret"].as_str().unwrap().to_owned(), created["authId"].as_str().unwrap().to_owned());
    let bytes = BASE32_NOPAD.decode(seed.as_bytes()).unwrap();
    let value = totp_now(&bytes);
    walk.call("POST", &format!("{devices}/{id}"), token, &json!({"otp": "000000", "deviceType": "TOTP"}));
    walk.call("POST", &format!("{devices}/{id}"), token, &json!({"otp": seed}));
    assert_eq!(walk.call("POST", &format!("{devices}/{id}"), token, &json!({"otp": value})).status(), Some(200));
    // Its message is the name of the device; here nothing else may be in it.
    walk.call("GET", &devices, token, &Value::Null);
    walk.call("GET", &format!("{devices}?type={seed}"), token, &Value::Null);
    walk.call("POST", &devices, token, &json!({"deviceType": "TOTP", "deviceName": "phone"}));
    let ask = json!({"userName": ENROLLED, "deviceType": "TOTP", "deviceName": "phone"});
    let asked = walk.call("POST", "deviceAuthentications", token, &ask).json();
    let path = format!("deviceAuthentications/{}", asked["authId"].as_str().unwrap());
    // Its step is burnt, so it is wrong by now.
    walk.call("POST", &path, token, &json!({"otp": value}));
    walk.call("DELETE", &format!("{devices}/TOTP/{seed}"), token, &Value::Null);
    walk.call("DELETE", &format!("{devices}/{seed}/phone"), token, &Value::Null);
    assert_eq!(walk.call("DELETE", &format!("{devices}/TOTP/phone"), token, &Value::Null).status(), Some(204));
    seeds.push(seed);
    totps.push(value);
}

/// What no client should send, with everything in it that must not get out.
fn nonsense(walk: &mut Walk, token: &str) {
    let secret = walk.place.client_secret.clone();
    let all = format!("{NUMBER} {MAILBOX} {LOGIN} {secret} {token}");
    let inner = all.replace(' ', "/");
    let bearer = format!("Bearer {token}");
    let authorized = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let doors = [
        format!("{API}/get/token"),
        format!("{API}/deviceAuthentications"),
        format!("{API}/deviceAuthentications/{LOGIN}"),
        format!("{API}/users/{LOGIN}/mfadevices"),
        format!("{API}/users/{LOGIN}/mfadevices/{DIGITS}"),
    ];
    for door in &doors {
        for body in [
            format!("{{\"{all}\": "),
            format!("[\"{all}\"]"),
            format!("\"{all}\""),
            all.clone(),
            json!({"userName": [all], "otp": {"a": all}, "phoneNumber": 8_212_345_212_u64, "deviceType": all}).to_string(),
            json!({"userName": all, "otp": all, "phoneNumber": all, "deviceType": "sms", "deviceName": all, "email": all}).to_string(),
            json!({"userName": all, "otp": all, "email": all, "deviceType": "email", "templateName": all}).to_string(),
            json!({"userName": all, "deviceType": "TOTP", "deviceName": all}).to_string(),
            json!({all.clone(): all}).to_string(),
            format!("{{\"userName\": \"{LOGIN}\\uD800\", \"phoneNumber\": \"{NUMBER}\"}}"),
        ] {
            let heard = walk.hear(&request("POST", door, &authorized, body.as_bytes()));
            // Who gives an authenticator a name finds it in the answer.
            if heard.status() == Some(201) {
                panic!("{door} took {body}");
            }
        }
        let huge = all.repeat(2_000);
        assert_eq!(walk.hear(&request("POST", door, &authorized, huge.as_bytes())).status(), Some(413), "{door}");
        walk.hear(&request("PUT", door, &authorized, all.as_bytes()));
        walk.hear(&request("POST", door, &[("authorization", &format!("Bearer {all}"))], b"{}"));
        walk.hear(&request("POST", door, &[("authorization", &format!("Basic {all}"))], b"{}"));
        // A body that does not come.
        let slow = request("POST", door, &authorized, all.as_bytes());
        let mut stream = connect(walk.place.address);
        stream.write_all(&slow[..slow.len() - 5]).unwrap();
        walk.emitted.note(format!("answer to a slow {door}"), Where::Answer, Heard::rest_of(&mut stream).0);
    }
    let path = format!("{NUMBER}/{MAILBOX}/{LOGIN}/{secret}/{token}");
    for target in [
        format!("/{path}"),
        format!("{API}/{path}"),
        format!("{API}/users/{path}"),
        format!("{API}/users/%FF{LOGIN}/mfadevices"),
        format!("{API}/get/token?{path}"),
        format!("/metrics?{path}"),
        format!("/readyz/{path}"),
        format!("/inbox/{path}"),
        format!("http://localhost/{path}"),
        format!("http://{LOGIN}:{secret}@localhost/healthz"),
        format!("//{path}"),
        path.clone(),
        format!("/{all}"),
    ] {
        for method in ["GET", "POST", "DELETE", LOGIN, &secret] {
            walk.hear(&request(method, &target, &authorized, b""));
        }
    }
    for header in [
        ("host", all.as_str()),
        ("x-request-id", all.as_str()),
        ("x-request-id", "8212345212"),
        ("x-forwarded-for", all.as_str()),
        ("forwarded", all.as_str()),
        ("content-encoding", all.as_str()),
        ("content-length", DIGITS),
        ("transfer-encoding", all.as_str()),
        ("expect", all.as_str()),
        ("upgrade", all.as_str()),
        (secret.as_str(), all.as_str()),
        ("x large", &all),
    ] {
        walk.hear(&request("GET", "/healthz", &[header], b""));
        walk.hear(&request("GET", &format!("/{LOGIN}"), &[header, authorized[0]], b""));
    }
    let large = inner.repeat(100);
    assert_eq!(walk.hear(&request("GET", "/healthz", &[("x-large", &large)], b"")).status(), Some(431));
    for raw in
        [format!("{all}\r\n\r\n"), format!("GET /{path} HTTP/9.9\r\n\r\n"), format!("\r\n\r\n{all}\r\n"), format!("\u{16}\u{3}\u{1}{all}")]
    {
        let mut stream = connect(walk.place.address);
        stream.write_all(raw.as_bytes()).unwrap();
        let _ = stream.shutdown(std::net::Shutdown::Write);
        walk.emitted.note(format!("answer to {raw:?}"), Where::Answer, Heard::rest_of(&mut stream).0);
    }
}

/// The same over HTTP/2, whose library is fond of telling what it hears.
async fn by_http_2(walk: &mut Walk, token: &str) {
    let base = format!("http://{}", walk.place.address);
    let client = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
    let secret = walk.place.client_secret.clone();
    let form = [("grant_type", "client_credentials"), ("client_id", &walk.place.client_id), ("client_secret", &secret)];
    let answer = client.post(format!("{base}{API}/get/token")).form(&form).send().await.unwrap();
    let body: Value = answer.json().await.unwrap();
    walk.tokens.push(body["access_token"].as_str().unwrap().to_owned());
    let ask = json!({"userName": format!("{LOGIN}.h2"), "phoneNumber": NUMBER, "deviceType": "sms"});
    for (path, body) in [
        ("deviceAuthentications".to_owned(), ask),
        (format!("deviceAuthentications/{DIGITS}"), json!({"otp": DIGITS})),
        (format!("users/{LOGIN}/mfadevices"), json!({"deviceType": NUMBER})),
        (format!("nowhere/{secret}?{MAILBOX}"), json!(token)),
    ] {
        let sent = client.post(format!("{base}{API}/{path}")).bearer_auth(token).header("x-mail", MAILBOX).json(&body).send().await;
        let sent = sent.unwrap();
        let (head, body) = (format!("{:?} {:?}", sent.status(), sent.headers()), sent.bytes().await.unwrap());
        walk.emitted.note(format!("HTTP/2 answer of {path}"), Where::Answer, [head.as_bytes(), &body].concat());
    }
    // Streams that end in the middle.
    for _ in 0..3 {
        let sending =
            client.post(format!("{base}{API}/deviceAuthentications")).bearer_auth(token).header("x-mail", MAILBOX).body("{").send();
        let _ = tokio::time::timeout(Duration::from_micros(300), sending).await;
    }
}

/// What administrators see, with providers that repeat what they are told.
fn commands(walk: &mut Walk, parrot: &Parrot, postman: &Postman) {
    let id = walk.place.client_id.clone();
    for says in [Says::Status(200), Says::Status(400), Says::Garbage, Says::Status(200)] {
        parrot.says(says);
        walk.command(&["provider", "test", "demo", "parrot"]);
        walk.command(&["provider", "test", "demo", "parrot", "--send", NUMBER]);
        walk.command(&["doctor", "--tenant", "demo", "--channel", "sms", "--send", NUMBER]);
    }
    postman.refuses_at(Some(("AUTH", "535 5.7.8")));
    walk.command(&["provider", "test", "demo", "post"]);
    postman.refuses_at(Some(("RCPT", "550 5.1.1")));
    walk.command(&["provider", "test", "demo", "post", "--send", MAILBOX, "--json"]);
    postman.refuses_at(None);
    assert!(walk.command(&["provider", "test", "demo", "post", "--json"]).contains("\"ok\""));
    for arguments in [
        &["tenant", "show", "demo"][..],
        &["tenant", "list", "--json"],
        &["client", "list", "demo", "--json"],
        &["provider", "list", "demo"],
        &["provider", "show", "demo", "parrot", "--json"],
        &["provider", "show", "demo", "post"],
        &["template", "list", "demo"],
        &["user", "unlock", "demo", &id, LOGIN, "--json"],
        &["serve", "--check"],
    ] {
        assert!(!walk.command(arguments).is_empty(), "{arguments:?}");
    }
    // Not what they should say: a provider without its secret, settings that hold what they should not.
    walk.command(&["provider", "add", "demo", "post", "--kind", "smtp", "--set", &format!("password={MAIL_PASSWORD}")]);
}

/// A database that breaks under the server: what it then tells must be no more.
fn faults(walk: &mut Walk, token: &str) {
    for name in ["countersign.db", "countersign.db-wal"] {
        let path = walk.place.folder.path().join(name);
        let length = std::fs::metadata(&path).unwrap().len();
        let mut file = std::fs::File::options().write(true).open(&path).unwrap();
        file.write_all(&vec![0xa5; usize::try_from(length).unwrap()]).unwrap();
    }
    let mut broken = 0;
    for turn in 0..20 {
        let heard = walk.ask(token, 1_000 + turn);
        broken += usize::from(heard.status() >= Some(500));
        walk.call("GET", &format!("users/{ENROLLED}.{turn}/mfadevices"), token, &Value::Null);
        walk.call("POST", &format!("users/{LOGIN}.{turn}/mfadevices"), token, &json!({"deviceType": "TOTP", "deviceName": "x"}));
        walk.last_is(Where::EnrolAnswer);
    }
    assert!(broken > 0, "nothing broke");
    walk.hear(&request("GET", "/readyz", &[], b""));
}
