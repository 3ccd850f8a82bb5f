//! HTTP by hand: every byte of an answer, also of answers to what no client would send.

use serde_json::Value;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long an answer may take. Longer than any provider is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection to `address`.
pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("somebody listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    stream
}

/// One request with a body, the connection closed after it. It is for `localhost` unless the headers say for whom it is.
pub fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        head.push_str("host: localhost\r\n");
    }
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    [head.as_bytes(), b"\r\n", body].concat()
}

/// Sends these bytes and gives all that comes back until the connection ends. A connection that is reset counts as ended: a server
/// need not read a request that it has refused.
pub fn exchange(address: SocketAddr, bytes: &[u8]) -> Heard {
    let mut stream = connect(address);
    let _ = stream.write_all(bytes);
    Heard::rest_of(&mut stream)
}

/// Everything that came back.
pub struct Heard(pub Vec<u8>);

impl Heard {
    /// Reads until the other side is done.
    pub fn rest_of(stream: &mut impl Read) -> Self {
        let (mut all, mut some) = (Vec::new(), [0; 16 << 10]);
        loop {
            match stream.read(&mut some) {
                Ok(0) => return Self(all),
                Ok(count) => all.extend_from_slice(&some[..count]),
                Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
                Err(why) if matches!(why.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    panic!("nothing within {PATIENCE:?} after {:?}", String::from_utf8_lossy(&all))
                }
                Err(_) => return Self(all),
            }
        }
    }

    /// All of it as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0).into_owned()
    }

    /// The status of the first answer; nothing when there was none.
    pub fn status(&self) -> Option<u16> {
        self.text().strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()
    }

    /// A header of the first answer.
    pub fn header(&self, name: &str) -> Option<String> {
        let text = self.text();
        let head = text.split("\r\n\r\n").next()?;
        head.lines()
            .skip(1)
            .filter_map(|it| it.split_once(':'))
            .find(|(it, _)| it.eq_ignore_ascii_case(name))
            .map(|(_, it)| it.trim().into())
    }

    /// The body of the only answer.
    pub fn body(&self) -> String {
        self.text().split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()
    }

    /// The same as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body()).unwrap_or_else(|why| panic!("{why}: {}", self.text()))
    }
}
