//! The sink: an SMS provider that takes every message at once, and tells the codes that it saw.
//!
//! It runs in a process of its own, on one thread, and is as cheap as the driver, since it shares the cores with the
//! server that it serves. What a message looks like is the business of the server's configuration: the sink takes the
//! one run of six digits for the code, and the one run of 10 to 13 for the number.

use crate::message;
use anyhow::{Context, Result, bail, ensure};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;

/// Where the codes are asked for; asking takes them away.
const CODES: &str = "/codes";

const LISTENER: Token = Token(0);

/// The largest message that a server sends to its provider.
const MESSAGE_BYTES: usize = 32 * 1024;

/// The answer of a provider that took the message.
const TAKEN: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 18\r\n\r\n{\"messageId\":\"m1\"}";

/// Telephone numbers, as bare digits, and the codes that went to them.
pub type Codes = HashMap<u64, u32>;

/// Takes the codes that the sink at `address` has seen since it was last asked.
///
/// # Errors
/// The sink does not answer.
pub fn codes(address: SocketAddr) -> Result<Codes> {
    let (status, body) = message::call(address, message::get(address, CODES, None).as_bytes())?;
    ensure!(status == 200, "the sink answered {status}");
    let pair = |line: &str| line.split_once(' ').and_then(|(to, code)| Some((to.parse().ok()?, code.parse().ok()?)));
    std::str::from_utf8(&body)?.lines().map(|line| pair(line).context("the sink told nonsense")).collect()
}

/// The sink, until standard input is closed.
///
/// # Errors
/// No port, or a poll that fails.
pub fn serve() -> Result<()> {
    let mut seen: Vec<(u64, u32)> = Vec::new();
    serve_with(|head, body, out| {
        if !head.starts_with(b"GET ") {
            seen.extend(read(body));
            out.extend_from_slice(TAKEN);
            return Ok(());
        }
        let mut told = String::with_capacity(seen.len() * 20);
        for (to, code) in seen.drain(..) {
            writeln!(told, "{to} {code:06}")?;
        }
        write!(out, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{told}", told.len())?;
        Ok(())
    })
}

/// Serves on a free port of loopback until standard input is closed; tells the address on standard output. `answer` takes head and
/// body of a whole message, and writes the whole answer.
///
/// # Errors
/// No port, or a poll that fails.
pub fn serve_with(mut answer: impl FnMut(&[u8], &[u8], &mut Vec<u8>) -> Result<()>) -> Result<()> {
    let mut listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    println!("{}", serde_json::json!({ "base_url": format!("http://{}", listener.local_addr()?) }));
    crate::end_with_standard_input();

    let mut events = Events::with_capacity(1024);
    let mut peers: HashMap<Token, Peer> = HashMap::new();
    let mut out = Vec::with_capacity(4096);
    let mut next = 1;
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            polled => polled?,
        }
        for event in &events {
            if event.token() != LISTENER {
                let Some(peer) = peers.get_mut(&event.token()) else { continue };
                if let Err(error) = peer.hear(&mut answer, &mut out) {
                    if !error.is::<Gone>() {
                        eprintln!("A connection is dropped: {error:#}");
                    }
                    peers.remove(&event.token());
                }
                continue;
            }
            while let Some(socket) = accept(&listener)? {
                let mut peer = Peer { socket, bytes: Vec::with_capacity(4096) };
                peer.socket.set_nodelay(true)?;
                poll.registry().register(&mut peer.socket, Token(next), Interest::READABLE)?;
                peers.insert(Token(next), peer);
                next += 1;
            }
        }
    }
}

fn accept(listener: &TcpListener) -> Result<Option<TcpStream>> {
    match listener.accept() {
        Ok((socket, _)) => Ok(Some(socket)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error).context("accepting a connection"),
    }
}

struct Peer {
    socket: TcpStream,
    bytes: Vec<u8>,
}

/// The other side hung up, as it may.
#[derive(Debug)]
struct Gone;

impl std::fmt::Display for Gone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("gone")
    }
}
impl std::error::Error for Gone {}

impl Peer {
    fn hear(&mut self, answer: &mut impl FnMut(&[u8], &[u8], &mut Vec<u8>) -> Result<()>, out: &mut Vec<u8>) -> Result<()> {
        let mut part = [0; 8 * 1024];
        loop {
            match self.socket.read(&mut part) {
                Ok(0) => bail!(Gone),
                Ok(read) => self.bytes.extend_from_slice(&part[..read]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => bail!(Gone),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error).context("reading a message"),
            }
            while let Some(head) = message::head(&self.bytes)?
                && let end = head.length + head.body
                && end <= self.bytes.len()
            {
                out.clear();
                answer(&self.bytes[..head.length], &self.bytes[head.length..end], out)?;
                write_whole(&mut self.socket, out)?;
                self.bytes.drain(..end);
            }
            ensure!(self.bytes.len() <= MESSAGE_BYTES, "a message of more than {MESSAGE_BYTES} bytes");
        }
    }
}

/// The list of codes may be longer than a socket's buffer; whoever asks for it is reading.
fn write_whole(socket: &mut TcpStream, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        match socket.write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(std::time::Duration::from_micros(200)),
            Err(error) => return Err(error).context("answering"),
        }
    }
    Ok(())
}

/// The number and the code in a message. Digits that are part of a word, such as an id, are neither.
fn read(body: &[u8]) -> Option<(u64, u32)> {
    let (mut to, mut code) = (None, None);
    let mut at = 0;
    while at < body.len() {
        let length = body[at..].iter().take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'-').count();
        let word = &body[at..at + length];
        // A number may come URL-encoded, with `%2B` before it.
        let word = if at > 0 && body[at - 1] == b'%' { word.strip_prefix(b"2B").unwrap_or(word) } else { word };
        let digits = || word.iter().try_fold(0u64, |sum, byte| byte.is_ascii_digit().then(|| sum * 10 + u64::from(byte - b'0')));
        match word.len() {
            6 if code.is_none() => code = digits().and_then(|it| u32::try_from(it).ok()),
            10..=13 if to.is_none() => to = digits(),
            _ => {}
        }
        at += length.max(1);
    }
    Some((to?, code?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_and_code_are_found_in_any_shape_of_message() {
        let expected = Some((918_212_345_212, 23_471));
        assert_eq!(read(br#"{"to":"+918212345212","text":"Your code is 023471. It is valid for 5 minutes."}"#), expected);
        assert_eq!(read(br#"{"text":"023471","id":"0191-123456-123456789012","to":"918212345212"}"#), expected);
        assert_eq!(read(b"To=%2B918212345212&Body=023471+is+your+code"), expected);
        assert_eq!(read(br#"{"to":"+918212345212","text":"no code"}"#), None);
        assert_eq!(read(b""), None);
    }
}
