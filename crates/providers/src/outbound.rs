//! The way to servers that a dialect stands in front of.
//!
//! Owns the bounds of such a call, and what its failures are called. Who may be called is the business of [`Egress`]; what the answer
//! means, the dialect knows.

use crate::egress::{Egress, EgressError, Outgoing};
use crate::http::header;
use countersign_core::ports::{Call, Heard, Outbound, Pending, SendError};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName};
use reqwest::{Method, Url};
use std::time::Duration;

/// The longest answer. Half of one is no answer to hand on.
const ANSWER_MOST: usize = 1024 * 1024;

/// How long an answer is waited for.
const WITHIN: Duration = Duration::from_secs(10);

/// Calls servers on behalf of a caller. Cloning it is cheap.
#[derive(Debug, Clone)]
pub struct Upstream(Egress);

impl Upstream {
    /// Calls that leave by `egress`.
    #[must_use]
    pub fn new(egress: Egress) -> Self {
        Self(egress)
    }
}

impl Outbound for Upstream {
    fn call(&self, call: Call) -> Pending<'static, Result<Heard, SendError>> {
        let egress = self.0.clone();
        Box::pin(async move {
            let came = egress.send(request(call)?, WITHIN, ANSWER_MOST).await.map_err(|error| match error {
                EgressError::Barred(why) => SendError::Refused(why),
                away => SendError::Unavailable { why: away.to_string(), retry_after: None },
            })?;
            if came.cut {
                return Err(SendError::Refused(format!("status {}: the answer is longer than {ANSWER_MOST} bytes", came.status)));
            }
            let content_type = came.headers.get(CONTENT_TYPE).map(|it| String::from_utf8_lossy(it.as_bytes()).into_owned());
            Ok(Heard { status: came.status, content_type, body: came.body })
        })
    }
}

fn request(call: Call) -> Result<Outgoing, SendError> {
    let refused = |why: &str| SendError::Refused(why.to_owned());
    let method = Method::from_bytes(call.method.as_bytes()).map_err(|_| refused("there is no such method"))?;
    let url = Url::parse(&call.url).map_err(|_| refused("it would be called by what is not a URL"))?;
    let mut headers = HeaderMap::with_capacity(call.headers.len());
    for (name, value) in call.headers {
        let value = header(name, &value).map_err(SendError::Refused)?;
        headers.append(HeaderName::try_from(name).map_err(|_| refused("a header would have a name that none can have"))?, value);
    }
    Ok(Outgoing { method, url, headers, body: call.body })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::egress::EgressSettings;
    use crate::stub::{Stub, loopback};

    fn call(url: &str) -> Call {
        let headers = vec![("content-type", "application/json".to_owned()), ("origin", "https://app.example.com".to_owned())];
        Call { method: "POST", url: url.to_owned(), headers, body: b"{\"username\":\"jdoe\"}".to_vec() }
    }

    fn port(stub: &Stub) -> String {
        format!("http://127.0.0.1:{}/jdoe/auth/login?a=b%20c", stub.port())
    }

    #[tokio::test]
    async fn a_call_goes_out_as_it_is_and_its_answer_comes_back_whole() {
        let stub = Stub::answering("HTTP/1.1 401 No\r\nContent-Type: application/json; x\r\nContent-Length: 2\r\n\r\n{}").await;
        let heard = Upstream::new(loopback()).call(call(&port(&stub))).await.expect("an answer");
        assert_eq!((heard.status, heard.content_type.as_deref(), &*heard.body), (401, Some("application/json; x"), &b"{}"[..]));
        let seen = stub.seen().remove(0);
        assert!(
            seen.starts_with("POST /jdoe/auth/login?a=b%20c HTTP/1.1\r\n") && seen.ends_with("\r\n\r\n{\"username\":\"jdoe\"}"),
            "{seen}"
        );
        assert!(
            seen.contains("\r\norigin: https://app.example.com\r\n") && seen.contains("\r\ncontent-type: application/json\r\n"),
            "{seen}"
        );
    }

    #[tokio::test]
    async fn a_redirect_is_an_answer() {
        let away = Stub::answering("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        let stub = Stub::answering(&format!("HTTP/1.1 302 Away\r\nLocation: {}\r\nContent-Length: 0\r\n\r\n", port(&away))).await;
        let heard = Upstream::new(loopback()).call(call(&port(&stub))).await.expect("an answer");
        assert_eq!((heard.status, heard.content_type, away.connections()), (302, None, 0));
    }

    #[tokio::test]
    async fn an_answer_without_end_is_none() {
        for (bytes, whole) in [(ANSWER_MOST, true), (ANSWER_MOST + 1, false)] {
            let stub = Stub::answering(&format!("HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\n\r\n{}", "x".repeat(bytes))).await;
            let heard = Upstream::new(loopback()).call(call(&port(&stub))).await;
            assert_eq!(heard.is_ok_and(|it| it.body.len() == bytes), whole, "{bytes}");
        }
    }

    #[tokio::test]
    async fn no_error_tells_more_than_the_host() {
        let closed = Egress::new(EgressSettings::default()).expect("the defaults");
        let gone = std::net::TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a port that is free again").port();
        let broken = Stub::closing("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nsecret").await;
        let mut bad_header = call("https://example.com/secret");
        bad_header.headers.push(("x-a", "secret\r\nx-b: 1".into()));
        let (open, refused) = (loopback(), true);
        for (egress, call, is_refused) in [
            (&closed, call("http://127.0.0.1/secret?secret"), refused),
            (&open, call("https:///secret"), !refused),
            (&open, call("secret"), refused),
            (&open, call("ftp://127.0.0.1/secret"), refused),
            (&open, bad_header, refused),
            (&open, call(&format!("http://127.0.0.1:{gone}/secret?secret")), !refused),
            (&open, call(&format!("http://u:secret@127.0.0.1:{}/secret", broken.port())), !refused),
        ] {
            let url = call.url.clone();
            let told = Upstream::new(egress.clone()).call(call).await.expect_err("nothing comes of it");
            assert_eq!(matches!(told, SendError::Refused(_)), is_refused, "{url}: {told}");
            assert!(url == "https:///secret" || !told.to_string().contains("secret"), "{url}: {told}");
        }
    }
}
