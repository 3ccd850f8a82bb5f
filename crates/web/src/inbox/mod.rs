//! The inbox: a page that shows messages instead of sending them. Development only.
//!
//! Owns the page, its list as JSON, and the stream that tells the page when something came. Everything on it is a secret, so it
//! exists only where the operator has set up an inbox; elsewhere its paths lead nowhere.

mod page;

use crate::Hall;
use crate::entrance::nothing_here;
use crate::moment;
use crate::problem::Problem;
use askama::Template as _;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequestParts, Path, State};
use axum::http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use countersign_core::ports::{Inbox, Shown};
use countersign_core::words::id::DeliveryId;
use hyper::body::Frame;
use page::InboxPage;
use serde::Serialize;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::mpsc;
use url::{Host, Url};

/// How often the stream says something, so that nobody in between takes it for dead.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Scripts and styles are files of ours; letters are shown in frames that can do nothing.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; frame-src 'self'; \
    img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// A letter is somebody else's HTML: no scripts, no forms, nothing from elsewhere, not even when it is opened by itself.
const LETTER_POLICY: &str = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; \
    form-action 'none'; frame-ancestors 'self'";

/// The doors under `at`.
pub(crate) fn doors(at: &str) -> Router<Arc<Hall>> {
    let door = |path: &str| format!("{at}{path}");
    Router::new()
        .route(at, get(show))
        .route(&door("/events"), get(follow))
        .route(&door("/inbox.js"), get(script))
        .route(&door("/inbox.css"), get(style))
        .route(&door("/icon.svg"), get(icon))
        .route(&door("/{id}/html"), get(letter))
}

/// One message, as machines read it.
#[derive(Serialize)]
struct Item<'a> {
    id: String,
    at: String,
    channel: &'static str,
    to: std::borrow::Cow<'a, str>,
    subject: Option<&'a str>,
    text: &'a str,
    html: Option<&'a str>,
}

impl<'a> Item<'a> {
    fn of(shown: &'a Shown) -> Self {
        let Shown { id, at, message } = shown;
        Self {
            id: id.to_string(),
            at: moment::rfc3339(*at),
            channel: message.channel.as_str(),
            to: message.to.reveal(),
            subject: message.subject.as_deref(),
            text: &message.text,
            html: message.html.as_deref(),
        }
    }
}

/// The inbox, where there is one, for those who call it by a name of this server.
struct Open(Arc<dyn Inbox>);

impl FromRequestParts<Arc<Hall>> for Open {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, hall: &Arc<Hall>) -> Result<Self, Problem> {
        let Some(inbox) = &hall.house.inbox else { return Err(nothing_here(&parts.uri)) };
        if !is_ours(parts, &hall.house.base_url) {
            let why = "The inbox is shown under localhost and under server.public_url, not under other names";
            return Err(Problem::new(StatusCode::MISDIRECTED_REQUEST, "", why));
        }
        Ok(Self(inbox.clone()))
    }
}

/// Whether the host that is asked for is this machine to itself, or the one of the base URL. A page of somebody else whose name
/// is made to lead here (DNS rebinding) asks for its own. Who names no host (HTTP/1.0) is no browser.
fn is_ours(parts: &Parts, base_url: &Url) -> bool {
    let by_header = parts.headers.get(HOST).map(|it| it.to_str().ok().and_then(|it| it.parse::<Authority>().ok()));
    let asked = match (parts.uri.authority(), by_header) {
        (Some(target), _) => target.clone(),
        (None, Some(Some(host))) => host,
        (None, Some(None)) => return false,
        (None, None) => return true,
    };
    match Host::parse(asked.host()) {
        Ok(Host::Ipv4(ip)) if ip.is_loopback() => true,
        Ok(Host::Ipv6(ip)) if ip.is_loopback() => true,
        Ok(Host::Domain(name)) if name == "localhost" || name.ends_with(".localhost") => true,
        Ok(host) => base_url.host().is_some_and(|it| it.to_owned() == host),
        Err(_) => false,
    }
}

/// The page, or the list for those who ask for JSON.
async fn show(Open(inbox): Open, headers: HeaderMap) -> Response {
    let newest = inbox.newest();
    let wants_json = headers.get_all(ACCEPT).iter().any(|it| it.to_str().is_ok_and(|it| it.contains("application/json")));
    if wants_json {
        let items: Vec<Item<'_>> = newest.iter().map(Item::of).collect();
        return ([(CACHE_CONTROL, "no-store"), (VARY, "accept")], axum::Json(items)).into_response();
    }
    match InboxPage::of(&newest).render() {
        Ok(html) => file("text/html; charset=utf-8", PAGE_POLICY, html),
        Err(error) => {
            tracing::error!("The inbox page cannot be written: {error}");
            Problem::broken("").into_response()
        }
    }
}

/// Tells the page that something came. What came is on the page itself, so the stream holds no secrets.
async fn follow(Open(inbox): Open, State(hall): State<Arc<Hall>>) -> Response {
    let (say, heard) = mpsc::channel(4);
    let readiness = hall.house.readiness.clone();
    tokio::spawn(async move {
        // Said at once as well: something may have come between the page and this stream.
        let mut said = Bytes::from_static(b"retry: 1000\nevent: came\ndata: {}\n\n");
        loop {
            // Asked for before it is said, so that nothing that comes meanwhile is missed.
            let next = inbox.next();
            if say.send(said).await.is_err() {
                return;
            }
            said = tokio::select! {
                () = next => Bytes::from_static(b"event: came\ndata: {}\n\n"),
                () = tokio::time::sleep(HEARTBEAT) => Bytes::from_static(b": still here\n\n"),
                () = readiness.drained() => return,
                () = say.closed() => return,
            };
        }
    });
    let headers = [(CONTENT_TYPE, "text/event-stream"), (CACHE_CONTROL, "no-store"), (X_CONTENT_TYPE_OPTIONS, "nosniff")];
    (headers, Body::new(Feed(heard))).into_response()
}

/// A body that goes on for as long as somebody speaks.
struct Feed(mpsc::Receiver<Bytes>);

impl hyper::body::Body for Feed {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|said| said.map(|it| Ok(Frame::data(it))))
    }
}

/// One letter as its reader would see it, for a frame.
async fn letter(Open(inbox): Open, id: Result<Path<String>, PathRejection>, uri: Uri) -> Response {
    let id = id.ok().and_then(|Path(text)| DeliveryId::parse(&text).ok());
    let found = inbox.newest().into_iter().find(|it| Some(it.id) == id);
    match found.and_then(|it| it.message.html.clone()) {
        Some(html) => file("text/html; charset=utf-8", LETTER_POLICY, html),
        None => nothing_here(&uri).into_response(),
    }
}

async fn script(_: Open) -> Response {
    file("text/javascript; charset=utf-8", PAGE_POLICY, include_str!("inbox.js").to_owned())
}

async fn style(_: Open) -> Response {
    file("text/css; charset=utf-8", PAGE_POLICY, include_str!("inbox.css").to_owned())
}

async fn icon(_: Open) -> Response {
    file("image/svg+xml", PAGE_POLICY, include_str!("icon.svg").to_owned())
}

fn file(kind: &'static str, policy: &'static str, body: String) -> Response {
    let headers = [
        (CONTENT_TYPE, kind),
        (CONTENT_SECURITY_POLICY, policy),
        (CACHE_CONTROL, "no-store"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
    ];
    (headers, body).into_response()
}

#[cfg(test)]
mod tests {
    use crate::House;
    use crate::testing::TestHouse;
    use axum::body::Body;
    use axum::http::{Request, StatusCode};
    use countersign_core::words::address::{Address, Channel, EmailAddress};
    use countersign_core::words::wording::Message;
    use http_body_util::BodyExt;
    use std::time::Duration;
    use tower::ServiceExt;

    fn letter(code: &str) -> Message {
        Message {
            channel: Channel::Email,
            to: Address::Email(EmailAddress::parse("jdoe@example.com").expect("valid")),
            from: None,
            subject: Some("Your code".into()),
            text: format!("The code is {code}"),
            html: Some(format!("<p>The code is <b>{code}</b></p>")),
            code: code.into(),
        }
    }

    #[tokio::test]
    async fn the_list_is_newest_first_and_whole() {
        let house = TestHouse::new().await;
        house.inbox.put(letter("523471"));
        house.inbox.put(letter("190204"));
        let request = Request::get("/inbox").header("accept", "application/json").body(Body::empty()).expect("a request");
        let list = house.ask(request).await.json();
        assert_eq!(list.as_array().map(Vec::len), Some(2));
        assert_eq!(list[0]["text"], "The code is 190204");
        assert_eq!((&list[0]["at"], &list[0]["channel"]), (&"2030-01-01T12:00:00.000Z".into(), &"email".into()));
        assert_eq!((&list[1]["to"], &list[1]["subject"]), (&"jdoe@example.com".into(), &"Your code".into()));
        assert_eq!(list[1]["html"], "<p>The code is <b>523471</b></p>");
        let id = list[1]["id"].as_str().expect("an id");
        let page = house.get("/inbox").await;
        assert!(page.body.contains("<span>523</span><span>471</span>") && page.body.contains(id));
        let policy = page.headers["content-security-policy"].to_str().expect("text");
        assert!(policy.contains("script-src 'self'") && !policy.contains("unsafe"), "{policy}");
        let html = house.get(&format!("/inbox/{id}/html")).await;
        assert_eq!(html.body, "<p>The code is <b>523471</b></p>");
        assert!(html.headers["content-security-policy"].to_str().is_ok_and(|it| it.starts_with("sandbox; default-src 'none'")));
    }

    #[tokio::test]
    async fn a_page_of_somebody_else_whose_name_leads_here_reads_nothing() {
        let house = TestHouse::new().await;
        house.inbox.put(letter("523471"));
        for (host, status) in [
            ("localhost:8080", 200),
            ("LOCALHOST", 200),
            ("trial.localhost", 200),
            ("127.0.0.1:8080", 200),
            ("[::1]:8080", 200),
            ("MFA.example.com", 200),
            ("rebound.example.net:8080", 421),
            ("localhost.example.net", 421),
            ("127.0.0.1.example.net", 421),
            ("example.com", 421),
            ("203.0.113.9", 421),
        ] {
            for path in ["/inbox", "/inbox/events", "/inbox/inbox.js", "/inbox/dlv_1/html"] {
                let by_header = Request::get(path).header("host", host).body(Body::empty()).expect("a request");
                let by_target = Request::get(format!("http://{host}{path}")).body(Body::empty()).expect("a request");
                for request in [by_header, by_target] {
                    let answered = house.doors.clone().oneshot(request).await.expect("infallible").status().as_u16();
                    assert!(answered == status || (status, answered, path) == (200, 404, "/inbox/dlv_1/html"), "{host}{path}: {answered}");
                }
            }
        }
    }

    #[tokio::test]
    async fn without_an_inbox_its_paths_lead_nowhere() {
        let house = TestHouse::with(|house| House { inbox: None, ..house }).await;
        for path in ["/inbox", "/inbox/events", "/inbox/inbox.js", "/inbox/inbox.css", "/inbox/icon.svg", "/inbox/dlv_1/html"] {
            assert_eq!(house.get(path).await.status, StatusCode::NOT_FOUND, "{path}");
        }
        let house = TestHouse::new().await;
        assert_eq!(house.get("/inbox/dlv_1/html").await.status, StatusCode::NOT_FOUND, "no such letter");
    }

    #[tokio::test]
    async fn the_stream_tells_of_every_message_and_ends_when_the_server_stops() {
        let house = TestHouse::new().await;
        let request = Request::get("/inbox/events").body(Body::empty()).expect("a request");
        let answer = house.doors.clone().oneshot(request).await.expect("infallible");
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        let mut body = answer.into_body();
        let said = async |body: &mut Body| {
            let frame = tokio::time::timeout(Duration::from_secs(5), body.frame()).await.expect("it is said soon");
            frame.map(|it| String::from_utf8(it.expect("no error").into_data().expect("data").into()).expect("text"))
        };
        assert!(said(&mut body).await.is_some_and(|it| it.contains("event: came")), "once at the beginning");
        house.inbox.put(letter("523471"));
        let news = said(&mut body).await.expect("news");
        assert!(news.contains("event: came") && !news.contains("523471"));
        house.house.readiness.drain();
        assert_eq!(said(&mut body).await, None);
    }
}
