//! A messaging service on loopback that keeps every byte it is sent, and answers as it is told.
//!
//! Owns what a communication service can do to us (contract §6). It is written on bare sockets: a library would tidy the request line
//! and the headers, and these are what templates are judged by.

use serde_json::Value;
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How it answers one request.
#[derive(Debug, Clone)]
pub enum Reply {
    /// An answer with these headers.
    Says { status: u16, phrase: &'static str, headers: Vec<(&'static str, String)>, body: String },
    /// 200 to the code that it made, 400 to any other: the `verify` of challenge-verify.
    Judges { code: &'static str },
    /// The connection is reset after the request was there. For [`Sms::next`] only.
    Resets,
    /// No answer for as long as the service is there.
    Never,
}

impl Reply {
    /// An answer without more than a status.
    pub fn status(status: u16, phrase: &'static str) -> Self {
        Self::Says { status, phrase, headers: Vec::new(), body: String::new() }
    }

    /// An answer with a body that calls itself JSON.
    pub fn json(status: u16, phrase: &'static str, body: &str) -> Self {
        Self::Says { status, phrase, headers: vec![("content-type", "application/json".into())], body: body.into() }
    }

    /// Elsewhere.
    pub fn redirect(to: &str) -> Self {
        Self::Says { status: 302, phrase: "Found", headers: vec![("location", to.into())], body: String::new() }
    }
}

/// One request as it came.
#[derive(Debug, Clone)]
pub struct Request {
    /// Such as `GET /sms?to=41 HTTP/1.1`.
    pub line: String,
    /// Names and values as they were sent, in order.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn method(&self) -> &str {
        self.line.split(' ').next().unwrap_or_default()
    }

    /// Path and query.
    pub fn target(&self) -> &str {
        self.line.split_once(' ').and_then(|(_, rest)| rest.rsplit_once(' ')).map_or("", |(target, _)| target)
    }

    /// The value of a header; nothing when it was not sent.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON, or null.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// The service.
pub struct Sms {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    seen: Mutex<Vec<Request>>,
    /// Answers to the next requests, each given once.
    next: Mutex<VecDeque<Reply>>,
    /// Answers to all other requests, by the beginning of the path; the longest beginning counts.
    always: Mutex<Vec<(String, Reply)>>,
    /// Connections that are never answered; they end with the service.
    silent: Mutex<Vec<TcpStream>>,
}

/// The code that its own challenges have (the one of the documentation's examples).
pub const CODE: &str = "12345";

impl Sms {
    /// One that takes everything, and at `…/verifications` the code [`CODE`] only.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared::default());
        let all = shared.clone();
        // It ends with the test process: a listener cannot be told to stop listening.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = all.clone();
                std::thread::spawn(move || shared.serve(stream));
            }
        });
        let sms = Self { address, shared };
        sms.always("/", Reply::status(200, "OK"));
        sms.always("/mfa/codes/verifications", Reply::Judges { code: CODE });
        sms
    }

    /// An address of it.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// How the next request is answered that has no answer waiting yet.
    pub fn next(&self, reply: Reply) {
        self.shared.next.lock().unwrap().push_back(reply);
    }

    /// How requests are answered whose path begins so.
    pub fn always(&self, path: &str, reply: Reply) {
        let mut always = self.shared.always.lock().unwrap();
        always.retain(|(known, _)| known != path);
        always.push((path.to_owned(), reply));
        always.sort_by_key(|(path, _)| std::cmp::Reverse(path.len()));
    }

    /// Every request so far.
    pub fn seen(&self) -> Vec<Request> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// How many there were.
    pub fn count(&self) -> usize {
        self.shared.seen.lock().unwrap().len()
    }

    /// The newest one.
    pub fn last(&self) -> Request {
        self.seen().pop().expect("the service was asked for something")
    }

    /// The code that was last sent to a number, by the body of the default templates.
    pub fn code(&self, number: &str) -> Option<String> {
        self.shared.code(number)
    }
}

impl Shared {
    fn serve(&self, mut stream: TcpStream) {
        let _ = stream.set_read_timeout(Some(Duration::from_secs(20)));
        if matches!(self.next.lock().unwrap().front(), Some(Reply::Resets)) {
            self.next.lock().unwrap().pop_front();
            let request = look(&stream);
            self.seen.lock().unwrap().extend(request);
            return;
        }
        let Some(request) = read(&mut stream) else { return };
        // Scripts ask here for what the test process can look up by itself.
        if let Some(number) = request.target().strip_prefix("/-/code/") {
            let code = self.code(number);
            let _ = write(&mut stream, 200, "OK", &[("content-type", "application/json".into())], &serde_json::json!(code).to_string());
            return;
        }
        let reply = self.next.lock().unwrap().pop_front().unwrap_or_else(|| self.reply(request.target()));
        let right = request.json()["code"].as_str().map(str::to_owned);
        self.seen.lock().unwrap().push(request);
        match reply {
            Reply::Says { status, phrase, headers, body } => drop(write(&mut stream, status, phrase, &headers, &body)),
            Reply::Judges { code } if right.as_deref() == Some(code) => drop(write(&mut stream, 200, "OK", &[], "")),
            Reply::Judges { .. } => drop(write(&mut stream, 400, "Bad Request", &[], "no such code")),
            // It was asked for after this request had been taken.
            Reply::Resets => {}
            Reply::Never => self.silent.lock().unwrap().push(stream),
        }
    }

    fn code(&self, number: &str) -> Option<String> {
        let seen = self.seen.lock().unwrap();
        let is_it = |it: &&Request| it.target().starts_with("/sms") && it.json()["number"].as_str() == Some(number);
        seen.iter().rev().find(is_it).and_then(|it| it.json()["code"].as_str().map(str::to_owned))
    }

    fn reply(&self, target: &str) -> Reply {
        let always = self.always.lock().unwrap();
        always.iter().find(|(path, _)| target.starts_with(path)).map_or_else(|| Reply::status(404, "Not Found"), |(_, it)| it.clone())
    }
}

/// Reads one request; nothing when the connection ended before it did.
fn read(stream: &mut TcpStream) -> Option<Request> {
    let (mut all, mut some) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut some) {
            Ok(count) if count > 0 => all.extend_from_slice(&some[..count]),
            _ => return None,
        }
        if let Some(request) = whole(&all) {
            return Some(request);
        }
    }
}

/// Looks at one request without taking it. A connection that ends with something in it that nobody took is reset.
fn look(stream: &TcpStream) -> Option<Request> {
    let mut some = vec![0; 64 << 10];
    loop {
        let count = stream.peek(&mut some).ok().filter(|it| *it > 0)?;
        if let Some(request) = whole(&some[..count]) {
            return Some(request);
        }
        std::thread::yield_now();
    }
}

/// The request that these bytes are; nothing while some are missing.
fn whole(bytes: &[u8]) -> Option<Request> {
    let end = bytes.windows(4).position(|it| it == b"\r\n\r\n")?;
    let head: String = bytes[..end].iter().map(|it| char::from(*it)).collect();
    let mut lines = head.split("\r\n").map(str::to_owned);
    let line = lines.next()?;
    let header = |it: String| it.split_once(':').map(|(name, value)| (name.to_owned(), value.trim().to_owned()));
    let request = Request { line, headers: lines.filter_map(header).collect(), body: bytes[end + 4..].to_vec() };
    let length = request.header("content-length").and_then(|it| it.parse().ok()).unwrap_or(0);
    (request.body.len() >= length).then_some(request)
}

fn write(stream: &mut TcpStream, status: u16, phrase: &str, headers: &[(&str, String)], body: &str) -> std::io::Result<()> {
    let mut head = format!("HTTP/1.1 {status} {phrase}\r\nconnection: close\r\n");
    // A 304 has no body, and says nothing of its length.
    if status != 304 {
        head.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{head}\r\n{body}").as_bytes())
}
