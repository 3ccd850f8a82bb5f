//! The load driver: a closed loop over kept-alive connections, on one thread.
//!
//! It shares the cores with what it measures, so an operation costs it one write, one read and its part of one poll.
//! What is asked and what answer is right, the [`Work`] knows.

use crate::histogram::Histogram;
use crate::message;
use anyhow::{Context, Result, bail, ensure};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// The largest answer that a row expects.
const ANSWER_BYTES: usize = 16 * 1024;

/// How long all connections may stay silent. Longer than a server may wait for its provider.
const PATIENCE: Duration = Duration::from_secs(15);

/// What is asked, and which answers are right.
pub trait Work {
    /// Writes the next request of `connection` to the end of `out`; `false` when there is nothing left to ask.
    fn ask(&mut self, connection: usize, out: &mut Vec<u8>) -> bool;

    /// Takes the answer to the last request of `connection`.
    ///
    /// # Errors
    /// An answer that makes the row worthless, such as a refusal where there should be none.
    fn told(&mut self, connection: usize, status: u16, body: &[u8]) -> Result<()>;
}

/// How hard, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Where to. Loopback only.
    pub address: SocketAddr,
    /// Where every second connection goes instead. Loopback only.
    pub also: Option<SocketAddr>,
    /// Connections, each with one request on its way at any time.
    pub connections: usize,
    /// How long to run before anything is measured.
    pub warm_up: Duration,
    /// How long to measure at most; less when there is nothing left to ask.
    pub span: Duration,
}

/// What was measured between two probes.
#[derive(Debug)]
pub struct Window<P> {
    /// Answers that came in it.
    pub operations: u64,
    /// Its length.
    pub span: Duration,
    /// From the first byte sent to the last byte read.
    pub latencies: Histogram,
    /// The probe at its beginning.
    pub before: P,
    /// The probe at its end.
    pub after: P,
}

struct Connection {
    socket: TcpStream,
    bytes: Box<[u8]>,
    filled: usize,
    sent_at: Option<Instant>,
}

/// Runs `work` under `load`, and calls `probe` at both ends of the measured window.
///
/// # Errors
/// Whatever makes the figures worthless: a lost connection, silence, an answer that `work` does not accept.
pub fn drive<P>(load: Load, work: &mut impl Work, mut probe: impl FnMut() -> Result<P>) -> Result<Window<P>> {
    let all = [Some(load.address), load.also];
    ensure!(all.iter().flatten().all(|it| it.ip().is_loopback()), "the driver loads this machine only, not {}", load.address);
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(load.connections.max(1));
    let mut connections = connect(load, &poll)?;
    let mut out = Vec::with_capacity(4096);
    let begin = Instant::now();
    let mut flying = 0;
    for (at, connection) in connections.iter_mut().enumerate() {
        flying += usize::from(send(work, at, connection, &mut out, begin)?);
    }
    ensure!(flying > 0, "nothing to ask");

    let mut latencies = Histogram::default();
    let mut operations = 0;
    let mut before = None;
    let mut after = None;
    while flying > 0 {
        match poll.poll(&mut events, Some(PATIENCE)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            polled => polled?,
        }
        ensure!(!events.is_empty(), "{flying} requests have no answer after {PATIENCE:?}");
        if before.is_none() && begin.elapsed() >= load.warm_up {
            before = Some((probe()?, Instant::now()));
        }
        for event in &events {
            let Token(at) = event.token();
            let connection = &mut connections[at];
            let Some(answer) = receive(connection)? else { continue };
            let now = Instant::now();
            let sent_at = connection.sent_at.take().context("an answer to nothing")?;
            flying -= 1;
            work.told(at, answer.status, &connection.bytes[answer.body])?;
            connection.filled = 0;
            if after.is_some() {
                continue;
            }
            if before.is_some() {
                latencies.count(now - sent_at);
                operations += 1;
            }
            let over = before.as_ref().is_some_and(|(_, since)| now - *since >= load.span);
            if !over && send(work, at, connection, &mut out, now)? {
                flying += 1;
            } else {
                // The rest of the answers is awaited, since the work may need them, and not counted.
                let end = match before {
                    Some(_) => Instant::now(),
                    None => bail!("there was nothing left to ask before the warm-up was over"),
                };
                after = Some((probe()?, end));
            }
        }
    }
    let (before, since) = before.context("all answers came before the warm-up was over")?;
    let (after, until) = after.context("the work ended by itself")?;
    Ok(Window { operations, span: until - since, latencies, before, after })
}

fn connect(load: Load, poll: &Poll) -> Result<Vec<Connection>> {
    let mut connections = Vec::with_capacity(load.connections);
    for at in 0..load.connections {
        let address = load.also.filter(|_| at % 2 == 1).unwrap_or(load.address);
        let socket = std::net::TcpStream::connect_timeout(&address, PATIENCE).with_context(|| format!("connecting to {address}"))?;
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        let mut socket = TcpStream::from_std(socket);
        poll.registry().register(&mut socket, Token(at), Interest::READABLE)?;
        connections.push(Connection { socket, bytes: vec![0; ANSWER_BYTES].into_boxed_slice(), filled: 0, sent_at: None });
    }
    Ok(connections)
}

fn send(work: &mut impl Work, at: usize, connection: &mut Connection, out: &mut Vec<u8>, now: Instant) -> Result<bool> {
    out.clear();
    if !work.ask(at, out) {
        return Ok(false);
    }
    // One small request at a time cannot fill a socket's buffer, so a short write means that something is broken.
    connection.socket.write_all(out).context("sending a request")?;
    connection.sent_at = Some(now);
    Ok(true)
}

struct Answer {
    status: u16,
    body: std::ops::Range<usize>,
}

/// Reads what has come. Nothing more can come after a whole answer, so the edge-triggered poll needs no last, empty read.
fn receive(connection: &mut Connection) -> Result<Option<Answer>> {
    loop {
        match connection.socket.read(&mut connection.bytes[connection.filled..]) {
            Ok(0) => bail!("the server hung up after {} bytes of an answer", connection.filled),
            Ok(read) => connection.filled += read,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error).context("reading an answer"),
        }
        let bytes = &connection.bytes[..connection.filled];
        if let Some(head) = message::head(bytes)? {
            let end = head.length + head.body;
            ensure!(end <= ANSWER_BYTES, "an answer of {end} bytes");
            ensure!(bytes.len() <= end, "more than one answer to one request");
            if bytes.len() == end {
                return Ok(Some(Answer { status: message::status(bytes)?, body: head.length..end }));
            }
        }
        ensure!(connection.filled < ANSWER_BYTES, "a head of more than {ANSWER_BYTES} bytes");
    }
}
