//! The core that we are, where people live in our own directory (contract §2).

use super::asked::Asked;
use super::at::{At, Contract, Username};
use super::said::No;
use super::settings::Settings;
use crate::Hall;
use axum::http::header::{ORIGIN, REFERER};
use axum::http::{HeaderMap, StatusCode};
use countersign_core::nouns::user::{Access, User};
use countersign_core::words::secret::Secret;
use serde_json::{Value, json};
use url::Url;

/// The longest name of an application.
const APP_MOST: usize = 256;

/// A log-in that can be judged.
pub(super) struct Credentials {
    pub password: Secret,
    pub app: String,
}

/// The credentials of a body, in the order in which a core looks at them: all there, texts, an application that is trusted, the person
/// of the path.
pub(super) fn credentials(at: &At, asked: &Asked) -> Result<Credentials, No> {
    let (body, names) = (&asked.body, ["username", "password", "appId"]);
    if !body.is_object() || names.iter().any(|name| body.get(*name).is_none()) {
        return Err(No::bad("invalid-operation", "Missing parameters: username, password and appId are required.").by_core());
    }
    let [username, password, app] = names.map(|name| text(body, name));
    let (username, password, app) = (username?, password?, app?);
    check_app(&at.settings, app, &asked.headers)?;
    check_person(at, username)?;
    Ok(Credentials { password: Secret::new(password), app: app.to_owned() })
}

/// The password of somebody who recovers: with an application's name, or without (contract §12).
pub(super) fn recovering(at: &At, asked: &Asked) -> Result<Secret, No> {
    if let Some(Value::String(app)) = asked.body.get("appId") {
        check_app(&at.settings, app, &asked.headers)?;
    }
    if let Some(name) = ["username", "password"].into_iter().find(|name| asked.body.get(*name).is_none()) {
        return Err(match at.speaks {
            Contract::V1 => No::bad("invalid-operation", "Missing parameters: username, password and appId are required.").by_core(),
            Contract::V2 => No::missing(name),
        });
    }
    check_person(at, text(&asked.body, "username")?)?;
    text(&asked.body, "password").map(Secret::new)
}

fn check_person(at: &At, username: &str) -> Result<(), No> {
    let named = at.username.as_ref().map(|it| it.login.canonical());
    if Username::parse(username).map(|it| it.login.canonical()) == named {
        return Ok(());
    }
    Err(No::bad("invalid-operation", "The username in the path does not match that of the credentials.").by_core())
}

/// A text of the body.
pub(super) fn text<'a>(body: &'a Value, name: &str) -> Result<&'a str, No> {
    body[name].as_str().ok_or_else(|| {
        let kind = match &body[name] {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(_) => "number",
            Value::Array(_) => "array",
            Value::Object(_) | Value::String(_) => "object",
        };
        let message = format!("Expected type string but found type {kind}");
        No::parameter("INVALID_TYPE", json!(["string", kind]), message, &format!("#/{name}")).by_core()
    })
}

/// Whether the application may log people in from the page that it says (contract §2, trusted apps).
pub(super) fn check_app(settings: &Settings, app: &str, asked: &HeaderMap) -> Result<(), No> {
    let header = |name| asked.get(name).and_then(|it: &axum::http::HeaderValue| it.to_str().ok());
    let origin = header(ORIGIN).or_else(|| header(REFERER)).unwrap_or_default();
    if app.len() <= APP_MOST && is_trusted(&settings.trusted_apps, app, origin) {
        return Ok(());
    }
    let what = "The app id (\"appId\") is either missing or not trusted.";
    Err(No::new(StatusCode::UNAUTHORIZED, "invalid-credentials", what).by_core())
}

fn is_trusted(trusted: &[String], app: &str, origin: &str) -> bool {
    let pairs = trusted.iter().filter_map(|it| it.split_once('@'));
    pairs.into_iter().any(|(known, pattern)| (known == "*" || known == app) && fits(pattern, origin))
}

/// Whether `text` fits the pattern from end to end; a `*` stands for any run of characters that are no blanks.
fn fits(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(rest) = parts.next().and_then(|first| text.strip_prefix(first)) else { return false };
    if text.contains(char::is_whitespace) {
        return false;
    }
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    let mut rest = rest;
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

/// The access whose token this is.
pub(super) async fn access(hall: &Hall, at: &At, token: &Secret) -> Result<(User, Access), No> {
    let login = &at.person()?.login;
    let found = hall.house.core.access(&at.scope, login, token, at.settings.access_max_age()).await.map_err(|it| at.no(it))?;
    let _ = at.access.set(found.1.id);
    Ok(found)
}

/// Where the person's interface is, with a token in it or without.
pub(super) fn api_endpoint(base: &Url, settings: &Settings, username: &str, token: Option<&Secret>) -> String {
    let endpoint = api(base, settings).replace("{username}", username);
    match token {
        Some(token) => endpoint.replacen("//", &format!("//{}@", token.reveal()), 1),
        None => endpoint,
    }
}

/// The pattern of people's interfaces.
pub(super) fn api(base: &Url, settings: &Settings) -> String {
    if let Some(api) = &settings.api {
        return api.clone();
    }
    match &settings.domain {
        Some(domain) => {
            let port = base.port().map(|port| format!(":{port}")).unwrap_or_default();
            format!("{}://{{username}}.{domain}{port}/", base.scheme())
        }
        None => format!("{}/{{username}}/", base.as_str().trim_end_matches('/')),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_fits_its_pattern_from_end_to_end() {
        for (pattern, origin, right) in [
            ("https://*.pryv.me*", "https://sw.pryv.me", true),
            ("https://*.pryv.me*", "https://sw.pryv.me:4443", true),
            ("https://*.pryv.me*", "http://sw.pryv.me", false),
            ("https://*.pryv.me", "https://sw.pryv.me.evil.example", false),
            ("https://a.example", "https://a.example", true),
            ("https://a.example", "https://aXexample", false),
            ("https://a.example", "https://a.example/", false),
            ("*", "", true),
            ("*", "anything", true),
            ("*", "two words", false),
            ("a*b*b", "ab", false),
            ("a*b*b", "abb", true),
            ("ab*b", "ab", false),
        ] {
            assert_eq!(fits(pattern, origin), right, "{pattern} {origin}");
        }
        let trusted = ["app@https://a.example".to_owned(), "*@https://b.example".to_owned()];
        assert!(is_trusted(&trusted, "app", "https://a.example") && !is_trusted(&trusted, "other", "https://a.example"));
        assert!(is_trusted(&trusted, "other", "https://b.example") && !is_trusted(&trusted, "app", ""));
    }

    #[test]
    fn an_endpoint_has_the_token_before_its_host() {
        let base = Url::parse("http://127.0.0.1:8080/").expect("a URL");
        let token = Secret::new("tok");
        let alone = Settings::default();
        assert_eq!(api_endpoint(&base, &alone, "alice", Some(&token)), "http://tok@127.0.0.1:8080/alice/");
        let domain = Settings { domain: Some("pryv.me".into()), ..Settings::default() };
        assert_eq!(api_endpoint(&base, &domain, "alice", None), "http://alice.pryv.me:8080/");
        let set = Settings { api: Some("https://{username}.x/".into()), ..domain };
        assert_eq!(api_endpoint(&base, &set, "alice", Some(&token)), "https://tok@alice.x/");
    }
}
