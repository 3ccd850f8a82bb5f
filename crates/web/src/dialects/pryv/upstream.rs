//! The core that we stand in front of: what is asked of it, and what its answers mean (contract §3, "What v1 asks of its core").

use super::said::{By, No};
use crate::Hall;
use axum::http::{HeaderMap, StatusCode};
use countersign_core::ports::{Call, Heard};
use countersign_core::words::secret::{KeptCode, Secret};
use countersign_core::words::variables::Variables;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
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

/// A person's second factor, as the core's private profile holds it.
#[derive(Debug, Clone)]
pub(super) struct Block {
    pub content: Variables,
    pub recovery: Vec<KeptCode>,
}

/// What is read of an answer.
#[derive(Deserialize)]
struct Answered<'a> {
    #[serde(borrow)]
    profile: Option<Kept<'a>>,
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
    pub async fn block(&self, token: &Secret) -> Result<Option<Block>, No> {
        let heard = self.ask("GET", "profile/private", Some(token), Vec::new(), Vec::new()).await.and_then(good)?;
        Ok(block_of(&heard.body))
    }

    /// Writes the person's second factor into the profile, or takes it out.
    pub async fn put_block(&self, token: &Secret, block: Option<&Block>) -> Result<(), No> {
        let mfa = block.map_or(Value::Null, |it| {
            let codes: Vec<_> = it.recovery.iter().map(KeptCode::reveal).collect();
            json!({ "recoveryCodes": codes })
        });
        // The content is written as it is kept: what a template fills in first stands first.
        let body = match block {
            Some(it) => {
                let content = serde_json::to_string(&it.content).unwrap_or_default();
                format!("{{\"mfa\":{{\"content\":{content},\"recoveryCodes\":{}}}}}", mfa["recoveryCodes"])
            }
            None => json!({ "mfa": mfa }).to_string(),
        };
        self.ask("PUT", "profile/private", Some(token), Vec::new(), body.into_bytes()).await.and_then(good).map(drop)
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
        data: None,
        by: By::Upstream(said.get("meta").cloned().map(Box::new)),
        retry_after: None,
    })
}

pub(super) fn parsed(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap_or(Value::Null)
}

fn block_of(body: &[u8]) -> Option<Block> {
    let mfa = serde_json::from_slice::<Answered<'_>>(body).ok()?.profile?.mfa?;
    let mfa: Mfa<'_> = serde_json::from_str(mfa.get()).ok()?;
    let content: Variables = serde_json::from_str(mfa.content?.get()).ok()?;
    let codes: Vec<Value> = mfa.recovery_codes.and_then(|it| serde_json::from_str(it.get()).ok()).unwrap_or_default();
    let recovery = codes.into_iter().filter_map(|it| it.as_str().map(KeptCode::found)).collect();
    (!content.is_empty()).then_some(Block { content, recovery })
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

    #[test]
    fn a_block_is_active_when_its_content_is_an_object_that_is_not_empty() {
        let read = |mfa: &str| block_of(format!(r#"{{"meta":{{}},"profile":{{"a":1,"mfa":{mfa}}}}}"#).as_bytes());
        for none in ["null", "{}", r#"{"content":{}}"#, r#"{"content":null}"#, r#"{"content":"x"}"#, r#"{"content":[1]}"#, "7"] {
            assert!(read(none).is_none(), "{none}");
        }
        let block = read(r#"{"content":{"number":"41","message":"m","a":1},"recoveryCodes":["one",2,"two"]}"#).expect("active");
        assert_eq!(serde_json::to_string(&block.content).expect("JSON"), r#"{"number":"41","message":"m","a":1}"#);
        assert_eq!(block.recovery, [KeptCode::found("one"), KeptCode::found("two")]);
        assert!(block_of(b"not json").is_none() && block_of(b"{}").is_none());
    }

    #[test]
    fn recovery_codes_are_counted_and_not_shown() {
        let mut profile = json!({ "mfa": { "content": { "n": "41" }, "recoveryCodes": ["a", "b"] }, "other": 1 });
        without_codes(&mut profile);
        assert_eq!(profile, json!({ "mfa": { "content": { "n": "41" }, "recoveryCodesLeft": 2 }, "other": 1 }));
    }
}
