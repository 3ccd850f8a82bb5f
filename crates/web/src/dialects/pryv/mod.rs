//! The dialect of Pryv.io's multi-factor authentication (`docs/pryv.md`), in both of its generations and in two ways to stand: in front of
//! a core, of which log-ins and profiles are asked, or alone with people in our own directory.
//!
//! [`place`] finds tenant and person, [`asked`] reads what was brought along, [`mfa`] and [`login`] have the methods, [`upstream`] and
//! [`own`] the two ways to stand, and [`said`] the words of the answers.

mod asked;
mod at;
mod login;
mod mfa;
mod own;
mod place;
mod said;
mod service;
mod settings;
mod upstream;

pub(crate) use place::Doors;
pub use settings::{DIALECT, Generation, Settings};

use crate::Hall;
use crate::problem::Problem;
use asked::Asked;
use at::At;
use axum::Router;
use axum::extract::{RawPathParams, Request, State};
use axum::http::Method;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, any};
use said::No;
use std::sync::Arc;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Login,
    Logout,
    Activate,
    Confirm,
    Challenge,
    Verify,
    Deactivate,
    Recover,
    Profile,
    AccessInfo,
    ServiceInfo,
    Server,
    Hostings,
    CheckUsername,
    Uid,
    Nothing,
}

/// What is asked where: each path stands twice, with the person in the path and with the person in the host.
const METHODS: [(&str, What); 15] = [
    ("/auth/login", What::Login),
    // The path at which the service itself listens behind its proxy.
    ("/login", What::Login),
    ("/auth/logout", What::Logout),
    ("/mfa/activate", What::Activate),
    ("/mfa/confirm", What::Confirm),
    ("/mfa/challenge", What::Challenge),
    ("/mfa/verify", What::Verify),
    ("/mfa/deactivate", What::Deactivate),
    ("/mfa/recover", What::Recover),
    ("/profile/private", What::Profile),
    ("/access-info", What::AccessInfo),
    ("/service/info", What::ServiceInfo),
    ("/service/infos", What::ServiceInfo),
    ("/auth/{*rest}", What::Nothing),
    ("/mfa/{*rest}", What::Nothing),
];

/// What else a path of this dialect begins with, or has behind a person.
const HEADS: [&str; 5] = ["server", "hostings", "check_username", "uid", "username"];

/// All doors. Each stands twice: with the person in the path, and with the person in the host.
pub(crate) fn doors() -> Router<Arc<Hall>> {
    let both = METHODS
        .into_iter()
        .fold(Router::new(), |router, (path, what)| router.route(path, door(what)).route(&format!("/{{username}}{path}"), door(what)));
    both.route("/reg/service/info", door(What::ServiceInfo))
        .route("/reg/{username}/server", door(What::Server))
        .route("/{username}/server", door(What::Server))
        .route("/reg/hostings", door(What::Hostings))
        .route("/hostings", door(What::Hostings))
        .route("/reg/{username}/check_username", door(What::CheckUsername))
        .route("/{username}/check_username", door(What::CheckUsername))
        .route("/reg/{username}/uid", door(What::Uid))
        .route("/{username}/uid", door(What::Uid))
        .route("/reg/{username}/username", door(What::Uid))
        .route("/{username}/username", door(What::Uid))
}

fn door(what: What) -> MethodRouter<Arc<Hall>> {
    any(async move |State(hall): State<Arc<Hall>>, params: RawPathParams, request: Request| {
        let username = params.iter().find(|(name, _)| *name == "username").map(|(_, value)| value.to_owned());
        // What stands there may be a mailbox.
        let username = username.filter(|_| what != What::Uid);
        serve(&hall, what, username.as_deref(), request).await
    })
}

/// Whether a path is one of this dialect's, for what goes wrong before a door is found.
pub(crate) fn is_door(path: &str) -> bool {
    let mut segments = path.trim_start_matches('/').splitn(3, '/');
    let first = segments.next().unwrap_or_default();
    let is_head = |it: &str| METHODS.iter().any(|(path, _)| path[1..].split('/').next() == Some(it)) || HEADS.contains(&it);
    is_head(first) || first == "reg" || segments.next().is_some_and(is_head)
}

/// The answer where no door is; nothing when no tenant speaks this dialect at the host that was asked.
pub(crate) async fn no_such_door(hall: &Hall, request: Request) -> Option<Response> {
    let at = place::find(hall, request.uri(), request.headers(), None).await.ok().flatten()?;
    let mut response = match *request.method() {
        Method::OPTIONS => "OK".into_response(),
        _ => No::nothing_here().said(Some(&at), hall.house.core.now()),
    };
    said::cors(request.headers(), Some(&at.settings.api_version), &mut response);
    Some(response)
}

/// An error of the transport, in the words of this dialect.
pub(crate) fn envelope(problem: &Problem) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(&serde_json::json!({ "error": { "id": "unexpected-error", "message": problem.message } }))
}

async fn serve(hall: &Hall, what: What, username: Option<&str>, request: Request) -> Response {
    let headers = request.headers().clone();
    let found = place::find(hall, request.uri(), &headers, username).await;
    let (at, answered) = match found {
        Ok(Some(at)) if request.method() == Method::OPTIONS => (Some(at), Ok("OK".into_response())),
        Ok(Some(at)) => {
            let answered = answer(hall, &at, what, request).await;
            (Some(at), answered)
        }
        Ok(None) => return crate::entrance::nothing_here(request.uri()).into_response(),
        Err(no) => (None, Err(no)),
    };
    let mut response = answered.unwrap_or_else(|no| no.said(at.as_ref(), hall.house.core.now()));
    said::cors(&headers, at.as_ref().map(|it| it.settings.api_version.as_str()), &mut response);
    if let Some(at) = &at {
        said::access(at, &mut response);
    }
    response
}

async fn answer(hall: &Hall, at: &At, what: What, request: Request) -> Result<Response, No> {
    let asked = Asked::read(hall, at, request).await?;
    match (what, asked.method.as_str()) {
        (What::Login, "POST") => login::login(hall, at, &asked).await,
        (What::Logout, "POST") => login::logout(hall, at, &asked).await,
        (What::AccessInfo, "GET") => login::access_info(hall, at, &asked).await,
        (What::Profile, "GET") => login::profile(hall, at, &asked).await,
        (What::Profile, "PUT") => login::put_profile(hall, at, &asked).await,
        (What::Activate, "POST") => mfa::activate(hall, at, &asked).await,
        (What::Confirm, "POST") => mfa::confirm(hall, at, &asked).await,
        (What::Challenge, "POST") => mfa::challenge(hall, at, &asked).await,
        (What::Verify, "POST") => mfa::verify(hall, at, &asked).await,
        (What::Deactivate, "POST") => mfa::deactivate(hall, at, &asked).await,
        (What::Recover, "POST") => mfa::recover(hall, at, &asked).await,
        (What::ServiceInfo, "GET") => service::info(hall, at, &asked).await,
        (What::Server, "POST" | "GET") => service::server(hall, at).await,
        (What::Hostings, "GET") => service::hostings(hall, at),
        (What::CheckUsername, "GET") => service::check_username(hall, at).await,
        (What::Uid, "GET") => service::uid(at),
        _ => Err(No::nothing_here()),
    }
}
