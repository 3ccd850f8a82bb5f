//! Providers that are an SMTP server.
//!
//! Owns the settings of kind `smtp`, what a letter looks like, and the connections to the server. A letter is the same on
//! every try (its `Message-ID`, date and boundary come from the delivery's id), so that receivers can drop a repetition.
//!
//! Headers that are there on purpose: `Auto-Submitted: auto-generated` (RFC 3834 §5), so that nobody's holiday notice
//! answers. Headers that are not: `List-*` (RFC 2369, RFC 2919) mark mailing lists, which a code for one person is not;
//! there is nothing to unsubscribe from (RFC 8058 is for bulk), and `Precedence` is no standard.
//!
//! The dialogue is lettre's; the connections are our own, because they must leave by [`Egress`], must not wait for delayed
//! acknowledgements, and are bounded in number.

use crate::egress::{Egress, EgressError, Reach};
use crate::patience;
use countersign_core::ports::{Pending, Receipt, SendError, Sends};
use countersign_core::words::address::Address as To;
use countersign_core::words::id::DeliveryId;
use countersign_core::words::secret::Secret;
use countersign_core::words::wording::Message;
use lettre::address::Address;
use lettre::message::header::{HeaderName, HeaderValue};
use lettre::message::{Mailbox, MultiPart, SinglePart};
use lettre::transport::smtp::Error as SmtpError;
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{AsyncSmtpConnection, AsyncTokioStream};
use lettre::transport::smtp::commands::{Data, Mail, Noop, Rcpt, Rset};
use lettre::transport::smtp::extension::ClientId;
use serde::Deserialize;
use std::collections::{BTreeMap, VecDeque};
use std::error::Error as _;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, UNIX_EPOCH};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, ReadBuf};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

/// How long a connection waits for the next letter. Servers hang up after one to five minutes (RFC 5321 §4.5.3.2.7).
const IDLE: Duration = Duration::from_secs(25);

/// What the operator writes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    host: String,
    /// 587, 465 or 25, as `tls` says.
    port: Option<u16>,
    #[serde(default)]
    tls: Tls,
    /// Its password is the secret `password`.
    username: Option<String>,
    /// `Name <address>`, for messages that name no sender.
    from: Option<String>,
    reply_to: Option<String>,
    #[serde(default = "five_seconds")]
    timeout_ms: u64,
    /// Connections at once.
    #[serde(default = "four")]
    pool: usize,
    /// What we call ourselves; our address when absent (RFC 5321 §4.1.4).
    helo: Option<String>,
}

fn five_seconds() -> u64 {
    5_000
}

fn four() -> usize {
    4
}

/// When TLS begins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Tls {
    /// After a greeting in clear (RFC 3207). It is never gone without.
    #[default]
    Starttls,
    /// At once (RFC 8314 §3.3).
    Implicit,
    /// Never. Only towards hosts that the operator's egress settings allow.
    None,
}

/// A provider that is an SMTP server. Cloning it is cheap, and gives the same connections.
#[derive(Clone)]
pub struct Smtp(Arc<Office>);

struct Office {
    egress: Egress,
    host: String,
    port: u16,
    tls: Tls,
    login: Option<(String, Secret)>,
    from: Option<Mailbox>,
    reply_to: Option<Mailbox>,
    within: Duration,
    helo: Option<ClientId>,
    slots: Semaphore,
    idle: Mutex<Idle>,
}

/// Connections that wait for the next letter.
#[derive(Default)]
struct Idle {
    /// Since when, the longest waiting first.
    lines: VecDeque<(Instant, AsyncSmtpConnection)>,
    /// Whether somebody hangs up on those that wait too long.
    watched: bool,
}

impl fmt::Debug for Smtp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Smtp({}:{}, …)", self.0.host, self.0.port)
    }
}

impl Smtp {
    /// Makes the provider out of its settings. Nobody is called.
    ///
    /// # Errors
    /// A sentence for the operator: which setting, what is wrong, what would be right.
    pub fn build(settings: &serde_json::Value, secrets: &BTreeMap<String, Secret>, egress: Egress) -> Result<Self, String> {
        let written = Written::deserialize(settings).map_err(|error| error.to_string())?;
        let reach = reach(written.tls);
        egress.check_host(&written.host, reach).map_err(|error| match written.tls {
            Tls::None => format!("tls is none, which is for hosts that the operator allows: {error}"),
            Tls::Starttls | Tls::Implicit => format!("host: {error}"),
        })?;
        let within = patience(written.timeout_ms, 1_000)?;
        if !(1..=64).contains(&written.pool) {
            return Err(format!("pool is {}; it takes 1 to 64 connections", written.pool));
        }
        let login = match (written.username, secrets.get("password")) {
            (Some(username), Some(password)) => Some((username, password.clone())),
            (None, None) => None,
            (Some(_), None) => return Err("username needs its password; store it as the secret `password`".into()),
            (None, Some(_)) => return Err("the secret `password` is of no use without username; set it".into()),
        };
        let helo = match written.helo.as_deref() {
            None => None,
            Some(name) if is_name(name) => Some(ClientId::Domain(name.to_owned())),
            Some(name) => return Err(format!("helo is `{name}`; it takes the name of this host, such as mfa.example.com")),
        };
        let port = written.port.unwrap_or(match written.tls {
            Tls::Starttls => 587,
            Tls::Implicit => 465,
            Tls::None => 25,
        });
        let mailbox = |field: &str, text: Option<String>| {
            text.map(|it| mailbox(&it).ok_or_else(|| format!("{field} is no mailbox; write `Name <name@example.com>`"))).transpose()
        };
        Ok(Self(Arc::new(Office {
            egress,
            host: written.host,
            port,
            tls: written.tls,
            login,
            from: mailbox("from", written.from)?,
            reply_to: mailbox("reply_to", written.reply_to)?,
            within,
            helo,
            slots: Semaphore::new(written.pool),
            idle: Mutex::default(),
        })))
    }
}

impl Sends for Smtp {
    fn send(&self, id: DeliveryId, message: Arc<Message>) -> Pending<'static, Result<Receipt, SendError>> {
        let office = self.0.clone();
        Box::pin(async move {
            let letter = office.letter(id, &message)?;
            match timeout(office.within, office.carry(&letter)).await {
                Ok(done) => done.map(|Receipt(id)| Receipt(id.filter(|it| !tells(it, &message)))),
                // The letter may have been taken; the next try carries the same Message-ID.
                Err(_) => Err(away(format!("no answer within {:?}", office.within))),
            }
        })
    }

    fn probe(&self) -> Pending<'static, Result<String, SendError>> {
        let office = self.0.clone();
        Box::pin(async move {
            let asked = async {
                let mut line = office.open().await?;
                line.command(Noop).await.map_err(|error| said("NOOP", &error))?;
                let _ = line.quit().await;
                Ok(())
            };
            timeout(office.within, asked).await.map_err(|_| away(format!("no answer within {:?}", office.within)))??;
            let tls = if office.tls == Tls::None { "" } else { ", its certificate is good" };
            let login = if office.login.is_some() { ", it takes the credentials" } else { "" };
            Ok(format!("{}:{} greets{tls}{login}", office.host, office.port))
        })
    }
}

/// A letter, ready for the envelope.
struct Letter {
    from: Address,
    to: Address,
    bytes: Vec<u8>,
}

impl Office {
    fn letter(&self, id: DeliveryId, message: &Message) -> Result<Letter, SendError> {
        let refused = |why: &str| SendError::Refused(why.to_owned());
        let To::Email(to) = &message.to else { return Err(refused("letters go to mailboxes, not to telephones")) };
        let from = match &message.from {
            Some(text) => mailbox(text).ok_or_else(|| refused("the sender of the message is no mailbox"))?,
            None => self
                .from
                .clone()
                .ok_or_else(|| refused("nobody is named as sender; set `from` of the provider, or the sender of e-mail of the tenant"))?,
        };
        let to: Address = to.reveal().parse().map_err(|_| refused("the recipient is no mailbox"))?;
        // The moment at which it was written, which the id holds (UUIDv7): the same on every try.
        let (seconds, nanos) = id.uuid().get_timestamp().map_or((0, 0), |at| at.to_unix());
        let mut builder = lettre::Message::builder()
            .from(from.clone())
            .to(Mailbox::new(None, to.clone()))
            .subject(one_line(message.subject.as_deref().unwrap_or("Your code")))
            .date(UNIX_EPOCH + Duration::new(seconds, nanos))
            .message_id(Some(format!("<{id}@{}>", from.email.domain())))
            .raw_header(HeaderValue::new(HeaderName::new_from_ascii_str("Auto-Submitted"), "auto-generated".into()));
        if let Some(reply_to) = &self.reply_to {
            builder = builder.reply_to(reply_to.clone());
        }
        let text = SinglePart::plain(message.text.clone());
        let built = match &message.html {
            None => builder.singlepart(text),
            Some(html) => {
                let parts = MultiPart::alternative().boundary(format!("={id}=")).singlepart(text);
                builder.multipart(parts.singlepart(SinglePart::html(html.clone())))
            }
        };
        let bytes = built.map_err(|_| refused("the message cannot be written as a letter"))?.formatted();
        Ok(Letter { from: from.email, to, bytes })
    }

    async fn carry(self: &Arc<Self>, letter: &Letter) -> Result<Receipt, SendError> {
        let _slot = self.slots.acquire().await.map_err(|_| away("the provider was taken down".into()))?;
        if let Some(mut line) = self.waiting() {
            match speak(&mut line, letter).await {
                // The server hung up while the connection waited. Nothing was said yet, so it can be said again.
                Err(Trouble { stale: true, .. }) => {}
                done => return self.settle(line, done).await,
            }
        }
        let mut line = self.open().await?;
        let done = speak(&mut line, letter).await;
        self.settle(line, done).await
    }

    /// Keeps the connection where it can serve again, and tells what came of the letter.
    async fn settle(self: &Arc<Self>, mut line: AsyncSmtpConnection, done: Result<Receipt, Trouble>) -> Result<Receipt, SendError> {
        let told = match done {
            Ok(receipt) => Ok(receipt),
            Err(trouble) if trouble.usable && line.command(Rset).await.is_ok() => Err(trouble.told),
            Err(trouble) => return Err(trouble.told),
        };
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.lines.push_back((Instant::now(), line));
        if !std::mem::replace(&mut idle.watched, true) {
            tokio::spawn(hang_up_when_idle(Arc::downgrade(self)));
        }
        told
    }

    /// The connection that served last, unless it has waited too long.
    fn waiting(&self) -> Option<AsyncSmtpConnection> {
        let (since, line) = self.idle.lock().unwrap_or_else(PoisonError::into_inner).lines.pop_back()?;
        (since.elapsed() < IDLE).then_some(line)
    }

    /// A connection, greeted, secured and logged in.
    async fn open(&self) -> Result<AsyncSmtpConnection, SendError> {
        let door = |error: EgressError| match error {
            EgressError::Barred(why) => SendError::Refused(why),
            other => away(other.to_string()),
        };
        let stream = self.egress.connect(&self.host, self.port, reach(self.tls)).await.map_err(door)?;
        let (ours, peer) = (stream.local_addr(), stream.peer_addr());
        let (Ok(ours), Ok(peer)) = (ours, peer) else { return Err(away("the connection broke".into())) };
        let helo = self.helo.clone().unwrap_or(match ours.ip().to_canonical() {
            IpAddr::V4(ip) => ClientId::Ipv4(ip),
            IpAddr::V6(ip) => ClientId::Ipv6(ip),
        });
        let wire: Box<dyn AsyncTokioStream> = match self.tls {
            Tls::None => Box::new(Wire { ahead: b"", stream, peer }),
            Tls::Implicit => Box::new(Wire { ahead: b"", stream: self.egress.secure(&self.host, stream).await.map_err(door)?, peer }),
            Tls::Starttls => {
                let stream = ask_for_tls(stream, &helo).await?;
                let stream = self.egress.secure(&self.host, stream).await.map_err(door)?;
                // After TLS the dialogue begins anew, but without another greeting (RFC 3207 §4.2), for which lettre waits.
                Box::new(Wire { ahead: b"220 \r\n", stream, peer })
            }
        };
        let mut line = AsyncSmtpConnection::connect_with_transport(wire, &helo).await.map_err(|error| said("EHLO", &error))?;
        if let Some((username, password)) = &self.login {
            let mechanisms = [Mechanism::Plain, Mechanism::Login];
            if line.server_info().get_auth_mechanism(&mechanisms).is_none() {
                return Err(SendError::Refused("credentials refused: the server offers neither AUTH PLAIN nor AUTH LOGIN".into()));
            }
            let credentials = Credentials::new(username.clone(), password.reveal().to_owned());
            line.auth(&mechanisms, &credentials).await.map_err(|error| match error.status() {
                Some(code) if error.is_permanent() => SendError::Refused(format!("credentials refused (reply {code} to AUTH)")),
                _ => said("AUTH", &error),
            })?;
        }
        Ok(line)
    }
}

/// Talk without TLS stays where the operator allows it.
fn reach(tls: Tls) -> Reach {
    match tls {
        Tls::Starttls | Tls::Implicit => Reach::Public,
        Tls::None => Reach::AllowedOnly,
    }
}

/// Hangs up on connections that nobody needed for a while, until none is left.
async fn hang_up_when_idle(office: Weak<Office>) {
    loop {
        tokio::time::sleep(IDLE).await;
        let Some(office) = office.upgrade() else { return };
        let (old, done) = {
            let mut idle = office.idle.lock().unwrap_or_else(PoisonError::into_inner);
            let young = idle.lines.iter().position(|(since, _)| since.elapsed() < IDLE).unwrap_or(idle.lines.len());
            let old: Vec<_> = idle.lines.drain(..young).collect();
            idle.watched = !idle.lines.is_empty();
            (old, !idle.watched)
        };
        for (_, mut line) in old {
            let _ = timeout(Duration::from_secs(1), line.quit()).await;
        }
        if done {
            return;
        }
    }
}

// --------------------------------------------------------------------------------------------------------------- dialogue

/// What went wrong with a letter.
struct Trouble {
    told: SendError,
    /// The connection had ended before anything was said.
    stale: bool,
    /// The server answered in good order, so that the connection can carry the next letter.
    usable: bool,
}

/// Hands over one letter.
async fn speak(line: &mut AsyncSmtpConnection, letter: &Letter) -> Result<Receipt, Trouble> {
    let trouble = |stage: Stage, error: &SmtpError| Trouble {
        told: stage.said(error),
        stale: matches!(stage, Stage::From) && error.status().is_none_or(|code| u16::from(code) == 421),
        usable: error.status().is_some_and(|code| u16::from(code) != 421),
    };
    line.command(Mail::new(Some(letter.from.clone()), Vec::new())).await.map_err(|it| trouble(Stage::From, &it))?;
    line.command(Rcpt::new(letter.to.clone(), Vec::new())).await.map_err(|it| trouble(Stage::To, &it))?;
    line.command(Data).await.map_err(|it| trouble(Stage::Data, &it))?;
    // From here on a broken connection leaves open whether the letter was taken (RFC 5321 §4.5.4.1).
    let reply = line.message(&letter.bytes).await.map_err(|it| trouble(Stage::Letter, &it))?;
    Ok(Receipt(reply.message().find_map(queue_id)))
}

/// How far the dialogue has come.
#[derive(Clone, Copy)]
enum Stage {
    From,
    To,
    Data,
    Letter,
}

impl Stage {
    /// What a reply means here (RFC 5321 §4.2, RFC 3463).
    fn said(self, error: &SmtpError) -> SendError {
        let word = match self {
            Self::From => "MAIL",
            Self::To => "RCPT",
            Self::Data => "DATA",
            Self::Letter => "the letter",
        };
        if !error.is_permanent() {
            return said(word, error);
        }
        let basic = error.status().map_or(0, u16::from);
        let enhanced = enhanced(error);
        let about_recipient = !matches!(self, Self::From);
        let told = reply(word, error);
        match enhanced.as_deref() {
            // 5.1.7 and 5.1.8 speak of the sender.
            Some("5.1.7" | "5.1.8") => SendError::Refused(told),
            Some(code) if about_recipient && code.starts_with("5.1.") => SendError::NoSuchAddress(told),
            // 550 5.7.1 is a policy, 552 5.2.2 a full mailbox: another way may do.
            Some(_) => SendError::Refused(told),
            None if about_recipient && matches!(basic, 550 | 551 | 553) => SendError::NoSuchAddress(told),
            None => SendError::Refused(told),
        }
    }
}

/// What a failure means, wherever it happened: only a permanent reply is a no.
fn said(word: &str, error: &SmtpError) -> SendError {
    if error.is_permanent() {
        return SendError::Refused(reply(word, error));
    }
    if error.is_transient() {
        return away(reply(word, error));
    }
    if error.is_response() {
        return away(format!("the reply to {word} is no SMTP"));
    }
    away(format!("the connection broke at {word}"))
}

fn reply(word: &str, error: &SmtpError) -> String {
    let code = error.status().map_or_else(String::new, |it| it.to_string());
    match enhanced(error) {
        Some(enhanced) => format!("reply {code} {enhanced} to {word}"),
        None => format!("reply {code} to {word}"),
    }
}

/// The enhanced status code (RFC 3463) at the beginning of a reply's text. The rest of the text is never told: servers
/// repeat the address in it.
fn enhanced(error: &SmtpError) -> Option<String> {
    let text = error.source()?.to_string();
    let code = text.split_whitespace().next()?;
    let mut parts = code.split('.');
    let digits =
        |part: Option<&str>, most: usize| part.is_some_and(|it| (1..=most).contains(&it.len()) && it.bytes().all(|b| b.is_ascii_digit()));
    let fits =
        matches!(parts.next(), Some("2" | "4" | "5")) && digits(parts.next(), 3) && digits(parts.next(), 3) && parts.next().is_none();
    fits.then(|| code.to_owned())
}

/// What the server calls the letter, in the words of Postfix and Exim.
fn queue_id(text: &str) -> Option<String> {
    let after = text.split_once("queued as ").or_else(|| text.split_once("id="))?.1;
    let id: String = after.chars().take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_')).collect();
    (1..=64).contains(&id.len()).then_some(id)
}

/// Whether a server's name for a letter holds the code or the name of the mailbox: a receipt is kept in clear.
fn tells(id: &str, message: &Message) -> bool {
    let to = message.to.reveal();
    let name = to.split('@').next().unwrap_or_default();
    [message.code.as_str(), name].iter().any(|it| it.len() > 3 && id.to_ascii_lowercase().contains(&it.to_ascii_lowercase()))
}

fn away(why: String) -> SendError {
    SendError::Unavailable { why, retry_after: None }
}

/// Greets in clear and asks for TLS (RFC 3207). What the server says beyond its yes would be read as if it came by TLS, so
/// such a connection is given up.
async fn ask_for_tls(stream: tokio::net::TcpStream, helo: &ClientId) -> Result<tokio::net::TcpStream, SendError> {
    let mut line = BufReader::new(stream);
    expect(&mut line, 220, "the greeting").await?;
    tell(&mut line, &format!("EHLO {helo}\r\n")).await?;
    let offers = expect(&mut line, 250, "EHLO").await?;
    if !offers.iter().any(|it| it.eq_ignore_ascii_case("STARTTLS")) {
        return Err(SendError::Refused("the server offers no STARTTLS; set tls to implicit, with its port".into()));
    }
    tell(&mut line, "STARTTLS\r\n").await?;
    expect(&mut line, 220, "STARTTLS").await?;
    if !line.buffer().is_empty() {
        return Err(away("somebody spoke before TLS began".into()));
    }
    Ok(line.into_inner())
}

async fn tell(line: &mut BufReader<tokio::net::TcpStream>, text: &str) -> Result<(), SendError> {
    line.write_all(text.as_bytes()).await.map_err(|_| away("the connection broke at STARTTLS".into()))
}

/// The texts of a reply with this code.
async fn expect(line: &mut BufReader<tokio::net::TcpStream>, code: u16, word: &str) -> Result<Vec<String>, SendError> {
    let mut texts = Vec::new();
    // More than any server has to say.
    for _ in 0..100 {
        let mut raw = Vec::new();
        let read = (&mut *line).take(1_024).read_until(b'\n', &mut raw).await;
        if !matches!(read, Ok(1..)) || !raw.ends_with(b"\n") {
            return Err(away(format!("the connection broke at {word}")));
        }
        let text = String::from_utf8_lossy(&raw);
        let (number, rest) = text.trim_end().split_at_checked(3).unwrap_or_default();
        match number.parse::<u16>() {
            Ok(it) if it == code => texts.push(rest.get(1..).unwrap_or_default().trim().to_owned()),
            Ok(it @ 500..=599) => return Err(SendError::Refused(format!("reply {it} to {word}"))),
            Ok(it) => return Err(away(format!("reply {it} to {word}"))),
            Err(_) => return Err(away(format!("the reply to {word} is no SMTP"))),
        }
        if !rest.starts_with('-') {
            return Ok(texts);
        }
    }
    Err(away(format!("the reply to {word} does not end")))
}

// ----------------------------------------------------------------------------------------------------------------- details

/// `Name <address>` or an address, in one line, of ASCII where SMTP needs it.
fn mailbox(text: &str) -> Option<Mailbox> {
    if text.chars().any(char::is_control) {
        return None;
    }
    let it: Mailbox = text.trim().parse().ok()?;
    let address: &str = it.email.as_ref();
    address.is_ascii().then_some(it)
}

/// Line breaks would end the header.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn is_name(text: &str) -> bool {
    (1..=253).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-'))
}

/// A stream on which something is read before what comes.
struct Wire<S> {
    ahead: &'static [u8],
    stream: S,
    peer: SocketAddr,
}

impl<S> fmt::Debug for Wire<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Wire({})", self.peer)
    }
}

impl<S: AsyncRead + AsyncWrite + Send + Sync + Unpin> AsyncTokioStream for Wire<S> {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.peer)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Wire<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() {
            let (now, later) = self.ahead.split_at(self.ahead.len().min(buf.remaining()));
            buf.put_slice(now);
            self.ahead = later;
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
