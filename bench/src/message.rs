//! As much of HTTP/1.1 as the driver and the sink need: one message at a time, with a `Content-Length`.
//!
//! Written by hand because the driver shares its two cores with what it measures.

use anyhow::{Context, Result, bail, ensure};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long a call outside the measured rows may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// What was learnt from a whole head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Its bytes, with the empty line.
    pub length: usize,
    /// The bytes of the body that follows it.
    pub body: usize,
}

/// Reads the head at the beginning of `bytes`; nothing while it has not all come.
///
/// # Errors
/// A `Content-Length` that is no number, or a body whose length is not told beforehand.
pub fn head(bytes: &[u8]) -> Result<Option<Head>> {
    let mut body = 0;
    let mut at = 0;
    while let Some(end) = bytes[at..].iter().position(|byte| *byte == b'\n') {
        let line = bytes[at..at + end].trim_ascii_end();
        at += end + 1;
        if line.is_empty() {
            return Ok(Some(Head { length: at, body }));
        }
        if let Some(value) = field(line, b"content-length:") {
            body = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).context("a Content-Length that is no number")?;
        } else {
            ensure!(field(line, b"transfer-encoding:").is_none(), "a body without Content-Length");
        }
    }
    Ok(None)
}

/// The value of the header `name` (in lower case, with its colon), if `line` is that header.
fn field<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (start, value) = line.split_at_checked(name.len())?;
    start.eq_ignore_ascii_case(name).then(|| value.trim_ascii())
}

/// The status of a whole answer.
///
/// # Errors
/// Bytes that are no HTTP/1.1 answer.
pub fn status(bytes: &[u8]) -> Result<u16> {
    let line = bytes.get(..12).filter(|it| it.starts_with(b"HTTP/1.")).context("an answer that is not HTTP/1.1")?;
    Ok(std::str::from_utf8(&line[9..])?.parse()?)
}

/// The bytes of `POST path` up to its body, for a body of `length` bytes.
#[must_use]
pub fn post(address: SocketAddr, path: &str, media_type: &str, bearer: Option<&str>, length: usize) -> String {
    let bearer = authorization(bearer);
    format!(
        "POST {path} HTTP/1.1\r\nHost: {address}\r\n{bearer}Content-Type: {media_type}\r\nAccept: application/json\r\nContent-Length: {length}\r\n\r\n"
    )
}

/// The bytes of `GET path`.
#[must_use]
pub fn get(address: SocketAddr, path: &str, bearer: Option<&str>) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n{}Accept: application/json\r\n\r\n", authorization(bearer))
}

fn authorization(bearer: Option<&str>) -> String {
    bearer.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default()
}

/// Sends one whole request on a connection of its own and waits for the answer: status and body.
///
/// # Errors
/// No connection, no answer within 20 s, or one that cannot be read.
pub fn call(address: SocketAddr, request: &[u8]) -> Result<(u16, Vec<u8>)> {
    let mut socket = TcpStream::connect_timeout(&address, PATIENCE)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_nodelay(true)?;
    socket.write_all(request)?;
    let mut bytes = Vec::new();
    let mut part = vec![0; 64 * 1024];
    loop {
        if let Some(head) = head(&bytes)?
            && bytes.len() >= head.length + head.body
        {
            return Ok((status(&bytes)?, bytes[head.length..head.length + head.body].to_vec()));
        }
        match socket.read(&mut part)? {
            0 => bail!("{address} hung up in the middle of an answer"),
            read => bytes.extend_from_slice(&part[..read]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_only_once_it_has_all_come() {
        let whole = b"HTTP/1.1 201 Created\r\nCONTENT-length: 3\r\n\r\n{}\n";
        for part in 0..43 {
            assert_eq!(head(&whole[..part]).ok().flatten(), None, "after {part} bytes");
        }
        assert_eq!(head(whole).ok().flatten(), Some(Head { length: 43, body: 3 }));
        assert_eq!(status(whole).ok(), Some(201));
    }

    #[test]
    fn a_body_of_unknown_length_is_an_error_and_not_a_wrong_figure() {
        assert!(head(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").is_err());
        assert!(head(b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n").is_err());
    }
}
