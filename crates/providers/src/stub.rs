//! Servers for tests: they answer as they are told, on loopback, and remember what they were asked.

use crate::egress::{Egress, EgressSettings, Lookup};
use countersign_core::ports::Pending;
use countersign_core::words::address::{Address, Channel, EmailAddress, PhoneNumber};
use countersign_core::words::wording::Message;
use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// An HTTP server that gives every request the same answer, or each its own.
pub(crate) struct Stub {
    port: u16,
    seen: Arc<Mutex<Vec<String>>>,
    connections: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Clone, Copy, PartialEq)]
enum Then {
    Greet,
    Next,
    Hang,
    Close,
}

impl Stub {
    pub(crate) async fn answering(answer: &str) -> Self {
        Self::start(&[answer], Then::Next).await
    }

    /// Gives each request the next of `answers`, and the last one to all that follow. `{port}` in them is its own.
    pub(crate) async fn in_turn(answers: &[&str]) -> Self {
        Self::start(answers, Then::Next).await
    }

    /// Says `answer` and then nothing, for a minute.
    pub(crate) async fn hanging(answer: &str) -> Self {
        Self::start(&[answer], Then::Hang).await
    }

    /// Says `answer` and hangs up.
    pub(crate) async fn closing(answer: &str) -> Self {
        Self::start(&[answer], Then::Close).await
    }

    /// Says `answer` before it is asked, and hangs up when it is.
    pub(crate) async fn greeting(answer: &str) -> Self {
        Self::start(&[answer], Then::Greet).await
    }

    async fn start(answers: &[&str], then: Then) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (seen, connections) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)));
        let (note, count) = (seen.clone(), connections.clone());
        let answers = Arc::new(answers.iter().map(|it| it.replace("{port}", &port.to_string())).collect::<Vec<_>>());
        let task = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                open.spawn(serve(stream, answers.clone(), then, note.clone()));
            }
        });
        Self { port, seen, connections, task }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn seen(&self) -> Vec<String> {
        self.seen.lock().expect("no panic while held").clone()
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: TcpStream, answers: Arc<Vec<String>>, then: Then, note: Arc<Mutex<Vec<String>>>) {
    let mut bytes = Vec::new();
    if then == Then::Greet {
        let _ = stream.write_all(answers[0].as_bytes()).await;
        let _ = stream.read_buf(&mut bytes).await;
        return;
    }
    loop {
        let Some(end) = request_end(&bytes) else {
            match stream.read_buf(&mut bytes).await {
                Ok(more) if more > 0 => continue,
                _ => return,
            }
        };
        let request = bytes.drain(..end).collect::<Vec<_>>();
        let at = {
            let mut seen = note.lock().expect("no panic while held");
            seen.push(String::from_utf8_lossy(&request).into_owned());
            seen.len().min(answers.len()) - 1
        };
        if stream.write_all(answers[at].as_bytes()).await.is_err() {
            return;
        }
        match then {
            Then::Next | Then::Greet => {}
            Then::Hang => tokio::time::sleep(Duration::from_secs(60)).await,
            Then::Close => return,
        }
    }
}

fn request_end(bytes: &[u8]) -> Option<usize> {
    let head = bytes.windows(4).position(|it| it == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
    let length = text.split("content-length:").nth(1).and_then(|it| it.split("\r\n").next()?.trim().parse().ok()).unwrap_or(0);
    (bytes.len() >= head + length).then_some(head + length)
}

/// A resolver that knows these names only.
pub(crate) fn names(known: &[(&str, &[&str])]) -> Arc<dyn Lookup> {
    let addresses = |them: &[&str]| them.iter().map(|it| it.parse().expect("an address")).collect::<Vec<IpAddr>>();
    Arc::new(Names(known.iter().map(|(name, them)| ((*name).to_owned(), addresses(them))).collect()))
}

struct Names(BTreeMap<String, Vec<IpAddr>>);

impl Lookup for Names {
    fn lookup(&self, host: String) -> Pending<'static, io::Result<Vec<IpAddr>>> {
        let key = host.trim_end_matches('.').to_ascii_lowercase();
        let found = self.0.get(&key).cloned().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound));
        Box::pin(async move { found })
    }
}

/// A door that lets out to loopback.
pub(crate) fn loopback() -> Egress {
    let settings = EgressSettings { allow: vec!["127.0.0.0/8".parse().expect("a network")], ..EgressSettings::default() };
    Egress::new(settings).expect("good settings")
}

pub(crate) fn phone() -> Address {
    Address::Phone(PhoneNumber::parse("+1 555 555 0100", None).expect("a number that could exist"))
}

/// A text message.
pub(crate) fn text(text: &str) -> Message {
    let code = "523471".into();
    Message { channel: Channel::Sms, to: phone(), from: None, subject: None, text: text.into(), html: None, code }
}

/// A letter.
pub(crate) fn email(text: &str) -> Message {
    let to = Address::Email(EmailAddress::parse("jdoe@example.com").expect("an address"));
    let code = "523471".into();
    Message { channel: Channel::Email, to, from: None, subject: Some("Your code".into()), text: text.into(), html: None, code }
}
