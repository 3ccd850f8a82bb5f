//! Transcripts: what the contracts show, said to the real doors word for word.
//!
//! Each file under `transcripts/` is a conversation in a world of its own. Blocks are separated by empty lines:
//!
//! ```http
//! # A comment. The world begins at noon, 1 January 2030.
//! @code 523471
//!
//! POST /ciam-mfa/v2/deviceAuthentications
//! Authorization: Bearer {token}
//! {"userName": "jdoe", "phoneNumber": "+91-8212345212", "deviceType": "sms"}
//!
//! 201
//! Content-Type: application/json
//! {"authId": "{authId:uuid}", "status": "SUCCESS", "message": "OTP has been sent to the device "}
//! ```
//!
//! A request is a line, headers and a body; the answer after it is a status, headers and a body, and every one of them must be so.
//! JSON is compared by value, and has neither more nor fewer properties. `{name:kind}` takes what is there, if it is of that kind
//! (`uuid hex base32 jwt text`), and gives it a name; `{:kind}` only looks; `{name}` stands for what was named before.
//! Known from the beginning: `{token} {client_id} {client_secret}`, and for each answer `{request_id}` and `{now}` (as error
//! envelopes write it). In a request `{x:70000}` is a text of so many bytes.
//!
//! Directives change the world:
//!
//! | directive | what happens |
//! |---|---|
//! | `@code 523471` | the next code is this one |
//! | `@pass 301s` | time passes |
//! | `@provider first takes` | so does this provider from now on: `takes`, `away`, `refuses`, `unknown` (address), `hangs` |
//! | `@carried first sms +91… text` | this provider was asked to carry this text since the last such line, by this channel, to this address |
//! | `@carried nothing` | nobody was asked to carry anything since the last such line |
//! | `@policy attempts 5` | the tenant changes a rule: `attempts`, `devices`, `sends` |
//! | `@region US` | the tenant takes numbers without a country code as of this country |
//! | `@template name channel text` | the tenant has these words |
//! | `@unrouted` | the tenant has no routes any more |
//! | `@totp name seed +30s` | `{name}` is what an authenticator with `{seed}` shows now, or so much earlier or later |
//! | `@as app`, `@as tenant`, `@as demo` | another application of the tenant asks, or one of another tenant, or the first again |
//! | `@disabled` | the application that asks is switched off |

use crate::house::Does;
use crate::world::{Application, World};
use axum::body::Body;
use axum::http::Request;
use countersign_core::nouns::totp;
use countersign_core::ports::SendError;
use countersign_core::verbs::manage::{ClientChange, TenantChange};
use countersign_core::words::address::Channel;
use countersign_core::words::time::Timestamp;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[tokio::test]
async fn every_documented_example_is_answered_as_documented() {
    let mut files = Vec::new();
    collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/transcripts"), &mut files);
    assert!(files.len() >= 10, "the transcripts are where they are looked for");
    let mut wrong = Vec::new();
    for file in &files {
        let text = std::fs::read_to_string(file).expect("readable");
        if let Err(Wrong { line, what }) = play(&text).await {
            wrong.push(format!("{}:{line}: {what}", file.display()));
        }
    }
    assert!(wrong.is_empty(), "{} of {} transcripts do not hold:\n\n{}", wrong.len(), files.len(), wrong.join("\n\n"));
}

#[tokio::test]
async fn a_transcript_that_does_not_hold_is_found_out() {
    let ask = "POST /ciam-mfa/v2/deviceAuthentications/x\nAuthorization: Bearer {token}\n{\"otp\": \"523471\"}\n\n";
    let envelope = |code: &str, more: &str| {
        format!(r#"{{"code": "{code}", "message": "{{:text}}", "traceId": "{{request_id}}", "timestamp": "{{now}}"{more}}}"#)
    };
    let right = format!("{ask}400\nContent-Type: application/json\n{}\n", envelope("10007", ""));
    assert!(play(&right).await.is_ok(), "the right one holds");
    for wrong in [
        format!("{ask}404\n{}\n", envelope("10007", "")),
        format!("{ask}400\n{}\n", envelope("10008", "")),
        format!("{ask}400\n{}\n", envelope("10007", r#", "more": 1"#)),
        format!("{ask}400\nContent-Type: text/plain\n{}\n", envelope("10007", "")),
        format!("{ask}400\n{{\"code\": \"10007\"}}\n"),
        format!("{ask}400\n"),
        ask.to_owned(),
        format!("@carried first sms +918212345212 hello\n\n{right}"),
        right.replace("{request_id}", "{:uuid}"),
        right.replace("{token}", "{tokn}"),
    ] {
        assert!(play(&wrong).await.is_err(), "{wrong}");
    }
}

/// What does not hold, and where.
struct Wrong {
    line: usize,
    what: String,
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder).expect("a folder").map(|it| it.expect("an entry").path()).collect();
    found.sort();
    for path in found {
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|it| it == "http") {
            files.push(path);
        }
    }
}

/// Plays one conversation from its beginning to its end, or to the first thing that is wrong.
async fn play(text: &str) -> Result<(), Wrong> {
    let mut stage = Stage::set().await;
    let lines: Vec<&str> = text.lines().collect();
    let mut asked: Option<(usize, Spoken)> = None;
    for block in lines.split(|line| line.trim().is_empty()) {
        let mut rest = block;
        while let Some((first, more)) = rest.split_first() {
            let line = line_of(&lines, first);
            let at = |what: String| Wrong { line, what };
            if let Some(directive) = first.strip_prefix('@') {
                stage.change(directive).await.map_err(at)?;
            } else if !first.starts_with('#') {
                break;
            }
            rest = more;
        }
        let Some(first) = rest.first() else { continue };
        let line = line_of(&lines, first);
        let spoken = Spoken::read(rest);
        match asked.take() {
            None => asked = Some((line, spoken)),
            Some((_, request)) => stage.exchange(&request, &spoken).await.map_err(|what| Wrong { line, what })?,
        }
    }
    match asked {
        Some((line, _)) => Err(Wrong { line, what: "the answer is missing".into() }),
        None => Ok(()),
    }
}

/// Where a line stands, found by its address: blocks are slices of the lines.
fn line_of(lines: &[&str], line: &&str) -> usize {
    lines.iter().position(|it| std::ptr::eq(it.as_ptr(), line.as_ptr())).map_or(0, |at| at + 1)
}

/// A request or an answer, as it is written.
struct Spoken {
    first: String,
    headers: Vec<(String, String)>,
    body: String,
}

impl Spoken {
    fn read(block: &[&str]) -> Self {
        let header = |line: &&str| {
            let (name, value) = line.split_once(": ")?;
            name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-').then(|| (name.to_owned(), value.to_owned()))
        };
        let headers: Vec<_> = block[1..].iter().map_while(header).collect();
        let body = block[1 + headers.len()..].join("\n");
        Self { first: block[0].to_owned(), headers, body }
    }
}

struct Stage {
    world: World,
    names: BTreeMap<String, String>,
    asking: Application,
    carried: usize,
}

impl Stage {
    async fn set() -> Self {
        let world = World::new().await;
        let asking = world.demo.clone();
        let mut stage = Self { world, names: BTreeMap::new(), asking, carried: 0 };
        stage.speak_as(stage.asking.clone()).await;
        stage
    }

    async fn speak_as(&mut self, application: Application) {
        let token = self.world.token(&application).await;
        self.names.insert("token".into(), token);
        self.names.insert("client_id".into(), application.client_id.clone());
        self.names.insert("client_secret".into(), application.secret.reveal().to_owned());
        self.asking = application;
    }

    async fn change(&mut self, directive: &str) -> Result<(), String> {
        let words: Vec<&str> = directive.split_whitespace().collect();
        let unknown = || format!("no such directive: @{directive}");
        match words[..] {
            ["code", digits] => self.world.chance.next_code(digits),
            ["pass", span] => self.world.pass(seconds(span).ok_or_else(unknown)?),
            ["provider", name, does] => self.world.provider(name, does_of(does).ok_or_else(unknown)?),
            ["carried", ..] => return self.carried(&words[1..], directive),
            ["policy", rule, value] => {
                let value: u16 = value.parse().map_err(|_| unknown())?;
                let small = u8::try_from(value).ok().and_then(std::num::NonZeroU8::new);
                let mut known = true;
                self.world
                    .policy(|it| match (rule, small) {
                        ("attempts", Some(small)) => it.attempts = small,
                        ("devices", _) => it.devices = value,
                        ("sends", _) => it.sends = value,
                        _ => known = false,
                    })
                    .await;
                return if known { Ok(()) } else { Err(unknown()) };
            }
            ["region", code] => self.world.policy(|it| it.region = Some(code.to_owned())).await,
            ["template", name, channel, ..] => {
                let channel = Channel::parse(channel).ok_or_else(unknown)?;
                let text = directive.splitn(4, ' ').nth(3).ok_or_else(unknown)?;
                self.world.template(name, channel, text).await;
            }
            ["unrouted"] => self.world.change(TenantChange { routes: Some(Vec::new()), ..TenantChange::default() }).await,
            ["totp", name, seed, ref shift @ ..] => {
                let shift = shift.first().map_or(Some(0), |it| shifted(it)).ok_or_else(unknown)?;
                let seed = base32(self.names.get(seed).ok_or_else(|| format!("{{{seed}}} has no name yet"))?);
                let at = Timestamp::from_millis(self.world.now().as_millis() + shift);
                self.names.insert(name.to_owned(), totp::hotp(&seed, totp::step_at(at)));
            }
            ["as", "demo"] => self.speak_as(self.world.demo.clone()).await,
            ["as", "app"] => {
                let other = self.world.application(&self.world.demo.tenant, "x9Y8z7W6v").await;
                self.speak_as(other).await;
            }
            ["as", "tenant"] => {
                let other = self.world.tenant("other", "m1N2o3P4q").await;
                self.speak_as(other).await;
            }
            ["disabled"] => {
                let off = ClientChange { disabled: Some(true), ..ClientChange::default() };
                let changed = self.world.core.change_client(self.asking.tenant.id, &self.asking.client_id, off).await;
                changed.map_err(|it| it.to_string())?;
            }
            _ => return Err(unknown()),
        }
        Ok(())
    }

    fn carried(&mut self, words: &[&str], directive: &str) -> Result<(), String> {
        let all = self.world.told.messages();
        let new = &all[self.carried..];
        self.carried = all.len();
        let shown: Vec<String> =
            new.iter().map(|(by, it)| format!("{by} {} {} {}", it.channel, it.to.reveal(), it.text.trim_end())).collect();
        match words {
            ["nothing"] if new.is_empty() => Ok(()),
            ["nothing"] => Err(format!("something was carried: {shown:?}")),
            _ => {
                let wanted = directive.trim_start_matches("carried").trim();
                let found = shown.iter().any(|it| it == wanted);
                if found { Ok(()) } else { Err(format!("carried was {shown:?}, and not {wanted:?}")) }
            }
        }
    }

    async fn exchange(&mut self, request: &Spoken, expected: &Spoken) -> Result<(), String> {
        let (method, path) = request.first.split_once(' ').ok_or_else(|| format!("no request line: {}", request.first))?;
        let mut asking = Request::builder().method(method).uri(self.filled(path)?);
        for (name, value) in &request.headers {
            asking = asking.header(name, self.filled(value)?);
        }
        let asking = asking.body(Body::from(self.filled(&request.body)?)).map_err(|error| error.to_string())?;
        let answer = self.world.ask(asking).await;
        let told = format!("{} {:?}\n{}", answer.status, answer.headers, answer.body);

        let id = answer.headers.get("x-request-id").and_then(|it| it.to_str().ok()).unwrap_or_default().to_owned();
        if !is_kind("hex", &id) || id.len() != 32 {
            return Err(format!("the answer has no request id: {told}"));
        }
        self.names.insert("request_id".into(), id);
        self.names.insert("now".into(), envelope_time(self.world.now()));

        if answer.status.as_str() != expected.first.trim() {
            return Err(format!("the status is not {}: {told}", expected.first));
        }
        for (name, pattern) in &expected.headers {
            let value = answer.headers.get(name).and_then(|it| it.to_str().ok()).unwrap_or_default();
            self.matches(pattern, value).map_err(|what| format!("{name}: {what}: {told}"))?;
        }
        if expected.body.is_empty() {
            return if answer.body.is_empty() { Ok(()) } else { Err(format!("the body is not empty: {told}")) };
        }
        let pattern: Value = serde_json::from_str(&expected.body).map_err(|error| format!("the expected body is no JSON: {error}"))?;
        let value: Value = serde_json::from_str(&answer.body).map_err(|error| format!("the body is no JSON: {error}: {told}"))?;
        self.equals(&pattern, &value, "").map_err(|what| format!("{what}: {told}"))
    }

    fn equals(&mut self, pattern: &Value, value: &Value, at: &str) -> Result<(), String> {
        match (pattern, value) {
            (Value::Object(wanted), Value::Object(found)) => {
                if let Some(name) = found.keys().find(|name| !wanted.contains_key(*name)) {
                    return Err(format!("{at}.{name} is not expected"));
                }
                // What gives names goes first: properties have no order, and one may stand for another.
                let names = |pattern: &Value| pattern.as_str().is_some_and(|it| Parts(it).any(|part| matches!(part, Part::Taken { .. })));
                let (givers, others): (Vec<_>, Vec<_>) = wanted.iter().partition(|(_, pattern)| names(pattern));
                for (name, pattern) in givers.into_iter().chain(others) {
                    let at = format!("{at}.{name}");
                    let value = found.get(name).ok_or_else(|| format!("{at} is missing"))?;
                    self.equals(pattern, value, &at)?;
                }
                Ok(())
            }
            (Value::Array(wanted), Value::Array(found)) if wanted.len() == found.len() => wanted
                .iter()
                .zip(found)
                .enumerate()
                .try_for_each(|(i, (pattern, value))| self.equals(pattern, value, &format!("{at}[{i}]"))),
            (Value::String(pattern), Value::String(text)) => self.matches(pattern, text).map_err(|what| format!("{at}: {what}")),
            _ if pattern == value => Ok(()),
            _ => Err(format!("{at} is {value}, and not {pattern}")),
        }
    }

    /// Whether `text` is as `pattern` says; names what it is told to name.
    fn matches(&mut self, pattern: &str, text: &str) -> Result<(), String> {
        let mut left = text;
        let mut parts = Parts(pattern).peekable();
        while let Some(part) = parts.next() {
            match part {
                Part::Plain(plain) => {
                    left = left.strip_prefix(plain).ok_or_else(|| format!("{text:?} is not {pattern:?}"))?;
                }
                Part::Name(name) => {
                    let known = self.names.get(name).ok_or_else(|| format!("{{{name}}} has no name yet"))?;
                    left = left
                        .strip_prefix(known.as_str())
                        .ok_or_else(|| format!("{text:?} is not {pattern:?}, where {name} is {known:?}"))?;
                }
                Part::Taken { name, kind } => {
                    let end = match parts.peek() {
                        Some(Part::Plain(next)) => left.find(next).ok_or_else(|| format!("{text:?} is not {pattern:?}"))?,
                        _ => left.len(),
                    };
                    let (taken, after) = left.split_at(end);
                    if !is_kind(kind, taken) {
                        return Err(format!("{taken:?} is no {kind}"));
                    }
                    if !name.is_empty() {
                        self.names.insert(name.to_owned(), taken.to_owned());
                    }
                    left = after;
                }
            }
        }
        if left.is_empty() { Ok(()) } else { Err(format!("{text:?} is not {pattern:?}")) }
    }

    /// `text` with every name in it replaced by what it stands for.
    fn filled(&self, text: &str) -> Result<String, String> {
        let mut filled = String::new();
        for part in Parts(text) {
            match part {
                Part::Plain(plain) => filled.push_str(plain),
                Part::Name(name) => filled.push_str(self.names.get(name).ok_or_else(|| format!("{{{name}}} has no name yet"))?),
                Part::Taken { kind, .. } => {
                    let length = kind.parse().map_err(|_| format!("a request cannot take a {kind}"))?;
                    filled.extend(std::iter::repeat_n('x', length));
                }
            }
        }
        Ok(filled)
    }
}

/// A piece of a text with names in it.
enum Part<'a> {
    Plain(&'a str),
    Name(&'a str),
    Taken { name: &'a str, kind: &'a str },
}

struct Parts<'a>(&'a str);

impl<'a> Iterator for Parts<'a> {
    type Item = Part<'a>;

    fn next(&mut self) -> Option<Part<'a>> {
        let text = self.0;
        if text.is_empty() {
            return None;
        }
        let placeholder = |at: usize| {
            let inside = &text[at + 1..at + text[at..].find('}')?];
            let fits = !inside.is_empty() && inside.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b':'));
            fits.then_some((at, inside))
        };
        let (part, used) = match text.match_indices('{').find_map(|(at, _)| placeholder(at)) {
            Some((0, inside)) => {
                let part = match inside.split_once(':') {
                    Some((name, kind)) => Part::Taken { name, kind },
                    None => Part::Name(inside),
                };
                (part, inside.len() + 2)
            }
            Some((at, _)) => (Part::Plain(&text[..at]), at),
            None => (Part::Plain(text), text.len()),
        };
        self.0 = &text[used..];
        Some(part)
    }
}

fn is_kind(kind: &str, text: &str) -> bool {
    let hex = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    match kind {
        "uuid" => text.len() == 36 && text.split('-').map(str::len).eq([8, 4, 4, 4, 12]) && text.split('-').all(hex),
        "hex" => hex(text),
        "base32" => text.len() == 32 && text.bytes().all(|b| b.is_ascii_uppercase() || (b'2'..=b'7').contains(&b)),
        "jwt" => text.split('.').count() == 3 && text.split('.').all(|part| !part.is_empty()),
        "text" => !text.is_empty(),
        _ => false,
    }
}

fn does_of(word: &str) -> Option<Does> {
    Some(match word {
        "takes" => Does::Takes,
        "hangs" => Does::Hangs,
        "away" => Does::Fails(SendError::Unavailable { why: "status 503".into(), retry_after: None }),
        "refuses" => Does::Fails(SendError::Refused("status 400".into())),
        "unknown" => Does::Fails(SendError::NoSuchAddress("status 404".into())),
        _ => return None,
    })
}

fn seconds(span: &str) -> Option<Duration> {
    Some(Duration::from_secs(span.strip_suffix('s')?.parse().ok()?))
}

/// `+30s` or `-30s`, in milliseconds.
fn shifted(text: &str) -> Option<i64> {
    Some(text.strip_suffix('s')?.parse::<i64>().ok()? * 1000)
}

fn base32(text: &str) -> Vec<u8> {
    data_encoding::BASE32_NOPAD.decode(text.as_bytes()).expect("it was told to be base32")
}

/// The moment as the error envelope writes it, worked out apart from the code that is tested: transcripts stay within January 2030.
fn envelope_time(now: Timestamp) -> String {
    let seconds = now.as_secs() - 1_893_456_000;
    let (day, second) = (seconds / 86_400 + 1, seconds % 86_400);
    format!("2030-01-{day:02}-{:02}.{:02}.{:02}", second / 3600, second / 60 % 60, second % 60)
}
