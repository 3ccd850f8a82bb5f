//! The core that we stand in front of: what is asked of it, and what its answers mean (contract §3, "What v1 asks of its core").

use super::at::At;
use super::said::{self, By, No};
use crate::Hall;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use countersign_core::ports::{Call, Heard};
use countersign_core::verbs::account::SecondFactor;
use countersign_core::words::refusal::Fault;
use countersign_core::words::secret::{KeptCode, Secret};
use countersign_core::words::variables::Variables;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::HashMap;
use std::time::Duration;
use url::Url;

/// Headers of the caller that a log-in hands on: who asks, and from which page.
const HANDED_ON: [&str; 3] = ["origin", "referer", "host"];

/// When to try again, where the core cannot be reached.
const AFTER: Duration = Duration::from_secs(1);

/// The core, asked for one person.
pub(super) struct Upstream<'a> {
    pub hall: &'a Hall,
    pub url: &'a Url,
    pub username: &'a str,
}

/// A person's second factor, as it is written into the core's private profile. What a template fills in first stands first.
#[derive(Serialize)]
struct Written<'a> {
    content: &'a Variables,
    #[serde(rename = "recoveryCodes")]
    recovery: &'a [KeptCode],
}

/// What is read of an answer.
#[derive(Deserialize)]
struct Answered<'a> {
    #[serde(borrow)]
    profile: Kept<'a>,
}

#[derive(Deserialize)]
struct Kept<'a> {
    #[serde(borrow)]
    mfa: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Mfa<'a> {
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    #[serde(rename = "recoveryCodes", borrow)]
    recovery_codes: Option<&'a RawValue>,
}

impl Upstream<'_> {
    /// Logs the person in: the whole body as it came, and where it came from.
    pub async fn login(&self, body: Vec<u8>, asked: &HeaderMap) -> Result<Heard, No> {
        let handed = HANDED_ON.iter().filter_map(|name| Some((*name, asked.get(*name)?.to_str().ok()?.to_owned())));
        self.ask("POST", "auth/login", None, handed.collect(), body).await.and_then(good)
    }

    /// The person's second factor; nothing when there is none.
    pub async fn second_factor(&self, token: &Secret) -> Result<Option<SecondFactor>, No> {
        let heard = self.ask("GET", "profile/private", Some(token), Vec::new(), Vec::new()).await.and_then(good)?;
        // What cannot be read may hold one: it is not taken for none.
        second_factor_of(&heard.body).map_err(|_| No::fault(&Fault::Corrupt("a profile of the core is not what it should be".into())))
    }

    /// Writes the person's second factor into the profile, or takes it out.
    pub async fn put_second_factor(&self, token: &Secret, it: Option<&SecondFactor>) -> Result<(), No> {
        let mfa = it.map(|it| Written { content: &it.data, recovery: &it.recovery });
        let body = serde_json::to_vec(&HashMap::from([("mfa", mfa)])).unwrap_or_default();
        self.ask("PUT", "profile/private", Some(token), Vec::new(), body).await.and_then(good).map(drop)
    }

    /// Whether the token is a personal one; an error of the core when it is none at all.
    pub async fn is_personal(&self, token: &Secret) -> Result<bool, No> {
        let heard = self.ask("GET", "access-info", Some(token), Vec::new(), Vec::new()).await.and_then(good)?;
        Ok(parsed(&heard.body)["type"] == "personal")
    }

    /// Asks something, and hands back whatever comes.
    pub async fn ask(
        &self,
        method: &'static str,
        path: &str,
        token: Option<&Secret>,
        mut headers: Vec<(&'static str, String)>,
        body: Vec<u8>,
    ) -> Result<Heard, No> {
        if let Some(token) = token {
            headers.push(("authorization", token.reveal().to_owned()));
        }
        if !body.is_empty() {
            headers.push(("content-type", "application/json".to_owned()));
        }
        let url = format!("{}/{}/{path}", self.url.as_str().trim_end_matches('/'), self.username);
        let heard = self.hall.house.outbound.call(Call { method, url, headers, body }).await;
        heard.map_err(|error| {
            tracing::error!("The core could not be asked: {error}");
            No::unavailable(AFTER)
        })
    }
}

/// What the core said, when it said yes; else its own words, as the MFA service hands them on: same status, id, message and meta.
pub(super) fn good(heard: Heard) -> Result<Heard, No> {
    if (200..300).contains(&heard.status) {
        return Ok(heard);
    }
    let said = parsed(&heard.body);
    let text = |name: &str| said["error"][name].as_str().map(str::to_owned);
    Err(No {
        status: StatusCode::from_u16(heard.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        id: text("id").unwrap_or_else(|| "unexpected-error".to_owned()).into(),
        message: text("message").unwrap_or_else(|| "The core answered with an error.".to_owned()).into(),
        data: said["error"].get("data").cloned().map(Box::new),
        by: By::Upstream(said.get("meta").cloned().map(Box::new)),
        retry_after: None,
    })
}

pub(super) fn parsed(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap_or(Value::Null)
}

/// The second factor in a profile: active when its content is an object that is not empty (contract §3).
fn second_factor_of(body: &[u8]) -> serde_json::Result<Option<SecondFactor>> {
    let Some(mfa) = serde_json::from_slice::<Answered<'_>>(body)?.profile.mfa else { return Ok(None) };
    let Some(Mfa { content: Some(content), recovery_codes }) = serde_json::from_str::<Option<Mfa<'_>>>(mfa.get())? else { return Ok(None) };
    let Some(data) = serde_json::from_str::<Option<Variables>>(content.get())? else { return Ok(None) };
    let codes = recovery_codes.map(|it| serde_json::from_str::<Option<Vec<Value>>>(it.get())).transpose()?.flatten().unwrap_or_default();
    let recovery = codes.into_iter().filter_map(|it| it.as_str().map(KeptCode::found)).collect();
    Ok((!data.is_empty()).then_some(SecondFactor { id: None, data, recovery }))
}

/// The core in front of which the tenant stands, asked for the person of the path; nothing where it stands alone.
pub(super) fn core_of<'a>(hall: &'a Hall, at: &'a At) -> Result<Option<Upstream<'a>>, No> {
    let Some(url) = &at.settings.core_url else { return Ok(None) };
    Ok(Some(Upstream { hall, url, username: &at.person()?.text }))
}

/// What the core said, as it said it.
pub(super) fn as_heard(heard: Heard) -> Response {
    let status = StatusCode::from_u16(heard.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    said::raw(status, heard.content_type.as_deref().unwrap_or("application/json"), heard.body)
}

/// The profile without its recovery codes: how many there are is all that can be read (contract §9, property 12).
pub(super) fn without_codes(profile: &mut Value) {
    if let Some(mfa) = profile.get_mut("mfa").and_then(Value::as_object_mut)
        && let Some(codes) = mfa.remove("recoveryCodes")
    {
        mfa.insert("recoveryCodesLeft".into(), codes.as_array().map_or(0, Vec::len).into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_second_factor_is_active_when_its_content_is_an_object_that_is_not_empty() {
        let read = |mfa: &str| second_factor_of(format!(r#"{{"meta":{{}},"profile":{{"a":1,"mfa":{mfa}}}}}"#).as_bytes());
        for none in ["null", "{}", r#"{"content":{}}"#, r#"{"content":null}"#] {
            assert!(read(none).expect("it is understood").is_none(), "{none}");
        }
        let it = read(r#"{"content":{"number":"41","message":"m","a":1},"recoveryCodes":["one",2,"two"]}"#);
        let it = it.expect("it is understood").expect("active");
        assert_eq!(serde_json::to_string(&it.data).expect("JSON"), r#"{"number":"41","message":"m","a":1}"#);
        assert_eq!(it.recovery, [KeptCode::found("one"), KeptCode::found("two")]);
        assert!(second_factor_of(br#"{"profile":{}}"#).expect("it is understood").is_none());
    }

    #[test]
    fn what_is_not_understood_is_not_taken_for_no_second_factor() {
        for body in ["not json", "", "{}", "[]", r#"{"profile":null}"#, r#"{"profile":7}"#, r#"{"profile":{"mfa":7}}"#] {
            assert!(second_factor_of(body.as_bytes()).is_err(), "{body}");
        }
        for content in [r#""x""#, "[1]", "7"] {
            assert!(second_factor_of(format!(r#"{{"profile":{{"mfa":{{"content":{content}}}}}}}"#).as_bytes()).is_err(), "{content}");
        }
    }

    #[test]
    fn recovery_codes_are_counted_and_not_shown() {
        let mut profile = json!({ "mfa": { "content": { "n": "41" }, "recoveryCodes": ["a", "b"] }, "other": 1 });
        without_codes(&mut profile);
        assert_eq!(profile, json!({ "mfa": { "content": { "n": "41" }, "recoveryCodesLeft": 2 }, "other": 1 }));
    }
}
