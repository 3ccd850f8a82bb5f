//! A stand-in for the core of Pryv.io: it logs everybody in, and everybody has a second factor.
//!
//! As the sink, it runs in a process of its own, on one thread. People are called by their numbers, so it has nothing to look up.

use crate::sink;
use anyhow::{Context, Result};
use std::io::Write as _;

/// Serves until standard input is closed; tells the address on standard output.
///
/// # Errors
/// No port, or a poll that fails.
pub fn serve() -> Result<()> {
    sink::serve_with(|head, _, out| answer(head, out))
}

/// A log-in for a `POST`, a private profile for a `GET`.
fn answer(head: &[u8], out: &mut Vec<u8>) -> Result<()> {
    let line = std::str::from_utf8(head)?.lines().next().unwrap_or_default();
    let (method, path) = line.split_once(" /").context("a request without a path")?;
    let (person, _) = path.split_once('/').context("a path without a person")?;
    let number = person.trim_start_matches(|it: char| it.is_ascii_alphabetic());
    let meta = r#""meta":{"apiVersion":"1.9.3","serverTime":1893456000.123,"serial":"2019061301"}"#;
    let body = if method == "POST" {
        format!(r#"{{{meta},"token":"t{number}","apiEndpoint":"https://t{number}@{person}.pryv.example/","preferredLanguage":"en"}}"#)
    } else {
        let content = format!(r#"{{"number":"{number}","message":"Your code is {{{{ code }}}}."}}"#);
        format!(r#"{{{meta},"profile":{{"mfa":{{"content":{content},"recoveryCodes":[]}}}}}}"#)
    };
    write!(out, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message;
    use serde_json::Value;

    fn said(head: &str) -> Value {
        let mut out = Vec::new();
        answer(head.as_bytes(), &mut out).expect("an answer");
        let head = message::head(&out).ok().flatten().expect("a whole head");
        assert_eq!(head.length + head.body, out.len());
        serde_json::from_slice(&out[head.length..]).expect("JSON")
    }

    #[test]
    fn everybody_is_logged_in_and_has_a_number_of_their_own() {
        let login = said("POST /u918000000007/auth/login HTTP/1.1\r\n\r\n");
        assert_eq!(login["token"], "t918000000007");
        let profile = said("GET /u918000000007/profile/private HTTP/1.1\r\n\r\n");
        let content = &profile["profile"]["mfa"]["content"];
        assert_eq!((&content["number"], &content["message"]), (&"918000000007".into(), &"Your code is {{ code }}.".into()));
    }

    #[test]
    fn what_is_no_request_is_an_error() {
        assert!(answer(b"GET /\r\n", &mut Vec::new()).is_err() && answer(b"", &mut Vec::new()).is_err());
    }
}
