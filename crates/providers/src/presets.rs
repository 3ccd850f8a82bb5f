//! Ready settings of kind `http` for some vendors.
//!
//! Owns what is known about each vendor's interface: where to call, which fields, and what its answers mean. A preset is a
//! function from a few options to settings that an operator can read and change; nothing else knows a vendor.

use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// A vendor that is known.
#[derive(Debug)]
pub struct Preset {
    /// What commands call it.
    pub name: &'static str,
    /// What it is, in a line.
    pub about: &'static str,
    /// What it needs to be told.
    pub options: &'static [Opt],
    /// The secrets that its settings use.
    pub secrets: &'static [&'static str],
    settings: fn(&Options<'_>) -> Value,
}

/// One thing that a preset needs, or takes, to be told.
#[derive(Debug, Clone, Copy)]
pub struct Opt {
    /// Its name.
    pub name: &'static str,
    /// What it is, with an example.
    pub about: &'static str,
    /// Whether it must be there.
    pub needed: bool,
}

const FROM: Opt = Opt { name: "from", about: "who texts are from where the tenant does not say: a number or a sender id", needed: true };
const FROM_MAY: Opt = Opt { needed: false, ..FROM };
const URL: Opt = Opt { name: "url", about: "another address to call than the vendor's own, for a stand-in", needed: false };

/// All presets, by name.
pub const ALL: &[Preset] = &[
    Preset {
        name: "infobip",
        about: "Infobip SMS, interface v3",
        options: &[Opt { name: "host", about: "the account's own host: abc123.api.infobip.com", needed: true }, FROM_MAY, URL],
        secrets: &["api_key"],
        settings: infobip,
    },
    Preset {
        name: "infobip-v2",
        about: "Infobip SMS, interface v2 (sms/2/text/advanced)",
        options: &[Opt { name: "host", about: "the account's own host: abc123.api.infobip.com", needed: true }, FROM_MAY, URL],
        secrets: &["api_key"],
        settings: infobip_v2,
    },
    Preset {
        name: "twilio",
        about: "Twilio Programmable Messaging",
        options: &[
            Opt { name: "account_sid", about: "the account: AC and 32 digits", needed: true },
            FROM_MAY,
            Opt {
                name: "messaging_service_sid",
                about: "the messaging service that sends, instead of from: MG and 32 digits",
                needed: false,
            },
            URL,
        ],
        secrets: &["auth_token"],
        settings: twilio,
    },
    Preset {
        name: "twilio-voice",
        about: "Twilio Programmable Voice: the text is spoken",
        options: &[Opt { name: "account_sid", about: "the account: AC and 32 digits", needed: true }, FROM, URL],
        secrets: &["auth_token"],
        settings: twilio_voice,
    },
    Preset { name: "vonage", about: "Vonage (Nexmo) SMS", options: &[FROM, URL], secrets: &["api_key", "api_secret"], settings: vonage },
];

/// The settings of kind `http` that the preset `name` means.
///
/// # Errors
/// A sentence for the operator: no such preset, an option that it does not know, or one that it lacks.
pub fn settings(name: &str, options: &BTreeMap<String, String>) -> Result<Value, String> {
    let Some(preset) = ALL.iter().find(|it| it.name == name) else {
        let names: Vec<_> = ALL.iter().map(|it| it.name).collect();
        return Err(format!("there is no preset `{name}`; there are {}", names.join(", ")));
    };
    if let Some(unknown) = options.keys().find(|it| preset.options.iter().all(|known| known.name != it.as_str())) {
        let names: Vec<_> = preset.options.iter().map(|it| it.name).collect();
        return Err(format!("the preset {name} knows no option `{unknown}`; it takes {}", names.join(", ")));
    }
    if let Some(missing) = preset.options.iter().find(|it| it.needed && !options.contains_key(it.name)) {
        return Err(format!("the preset {name} needs the option `{}`: {}", missing.name, missing.about));
    }
    // What is given is text, never a template; braces in it would be read as one.
    if let Some((option, _)) = options.iter().find(|(_, value)| value.contains(['{', '}']) || value.chars().any(char::is_control)) {
        return Err(format!("the option `{option}` holds a brace or a control character"));
    }
    let mut made = (preset.settings)(&Options(options));
    for name in ["url", "from"] {
        if let Some(value) = options.get(name) {
            made[name] = value.as_str().into();
        }
    }
    Ok(made)
}

struct Options<'a>(&'a BTreeMap<String, String>);

impl Options<'_> {
    fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }
}

/// `text` where the GSM alphabet will do, since everything else costs twice the parts.
const VONAGE_TYPE: &str = "{{ 'text' if text is gsm7 else 'unicode' }}";

/// The verdict is `status` in the first entry of `messages`; each part of a long text has one.
fn vonage(_: &Options<'_>) -> Value {
    let status = |codes: &[&str]| json!([{"json": {"pointer": "/messages/0/status", "equals": codes}}]);
    json!({
        "url": "https://rest.nexmo.com/sms/json",
        "form": {
            "api_key": "{{ secret.api_key }}",
            "api_secret": "{{ secret.api_secret }}",
            "from": "{{ from }}",
            "to": "{{ to_digits }}",
            "text": "{{ text }}",
            "type": VONAGE_TYPE,
            "client-ref": "{{ delivery_id }}"
        },
        "success": {"json": {"pointer": "/messages/0/status", "equals": ["0"]}},
        // Throttled; their own trouble; too many binds.
        "unavailable": status(&["1", "5", "10"]),
        // Credentials, account barred, not enabled for HTTP, signature.
        "credentials_refused": status(&["4", "8", "11", "14", "32"]),
        // The number was given up.
        "no_such_address": status(&["33"]),
        "error": "/messages/0/status",
        "receipt": "/messages/0/message-id"
    })
}

fn twilio_rules() -> Value {
    json!({
        "auth": {"basic": {"user": "", "password": "{{ secret.auth_token }}"}},
        // Not a number; not a mobile; cannot be reached.
        "no_such_address": [{"status": ["400-499"], "json": {"pointer": "/code", "equals": [21211, 21214, 21217, 21614]}}],
        "error": "/code",
        "receipt": "/sid"
    })
}

fn twilio(options: &Options<'_>) -> Value {
    let mut it = twilio_rules();
    let account = options.text("account_sid");
    let mut form = Map::from_iter([("To".to_owned(), json!("{{ to }}")), ("Body".to_owned(), json!("{{ text }}"))]);
    if options.has("messaging_service_sid") {
        form.insert("MessagingServiceSid".into(), options.text("messaging_service_sid").into());
    } else {
        form.insert("From".into(), "{{ from }}".into());
    }
    it["url"] = format!("https://api.twilio.com/2010-04-01/Accounts/{account}/Messages.json").into();
    it["auth"]["basic"]["user"] = account.into();
    it["form"] = form.into();
    it
}

fn twilio_voice(options: &Options<'_>) -> Value {
    let mut it = twilio_rules();
    let account = options.text("account_sid");
    it["url"] = format!("https://api.twilio.com/2010-04-01/Accounts/{account}/Calls.json").into();
    it["auth"]["basic"]["user"] = account.into();
    it["form"] = json!({"To": "{{ to }}", "From": "{{ from }}", "Twiml": "<Response><Say>{{ text | xml }}</Say></Response>"});
    it
}

/// Groups: 0 accepted, 1 pending, 2 undeliverable, 3 delivered, 4 expired, 5 rejected.
fn infobip_rules(host: &str, path: &str) -> Value {
    json!({
        "url": format!("https://{host}{path}"),
        "headers": {"Authorization": "App {{ secret.api_key }}"},
        "success": {"json": {"pointer": "/messages/0/status/groupId", "equals": [0, 1, 3]}},
        "error": "/messages/0/status/name",
        "receipt": "/messages/0/messageId"
    })
}

fn infobip(options: &Options<'_>) -> Value {
    let mut it = infobip_rules(options.text("host"), "/sms/3/messages");
    let destinations = json!([{"to": "{{ to_digits }}", "messageId": "{{ delivery_id }}"}]);
    let mut message = json!({"destinations": destinations, "content": {"text": "{{ text }}"}});
    if options.has("from") {
        message["sender"] = "{{ from }}".into();
    }
    it["json"] = json!({"messages": [message]});
    it
}

fn infobip_v2(options: &Options<'_>) -> Value {
    let mut it = infobip_rules(options.text("host"), "/sms/2/text/advanced");
    let mut message = json!({"destinations": [{"to": "{{ to_digits }}", "messageId": "{{ delivery_id }}"}], "text": "{{ text }}"});
    if options.has("from") {
        message["from"] = "{{ from }}".into();
    }
    it["json"] = json!({"messages": [message]});
    it
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Http;
    use crate::stub::{Stub, loopback, text};
    use countersign_core::ports::test::{Script, Still};
    use countersign_core::ports::{Receipt, SendError, Sends};
    use countersign_core::words::id::DeliveryId;
    use countersign_core::words::secret::Secret;
    use countersign_core::words::time::Timestamp;
    use std::sync::Arc;

    fn options(them: &[(&str, &str)]) -> BTreeMap<String, String> {
        them.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn build(name: &str, settings: &Value) -> Result<Http, String> {
        let preset = ALL.iter().find(|it| it.name == name).expect("a preset");
        let secrets = preset.secrets.iter().map(|it| ((*it).to_owned(), Secret::new("s3cret"))).collect();
        Http::build(settings, &secrets, loopback(), Arc::new(Still::at(Timestamp::from_millis(0))))
    }

    /// What the preset puts on the wire, and what it makes of the answer.
    async fn carried(name: &str, given: &[(&str, &str)], status: &str, body: &Value) -> (String, Result<Receipt, SendError>) {
        let body = body.to_string();
        let stub = Stub::answering(&format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len())).await;
        let mut given = options(given);
        given.insert("url".into(), format!("http://127.0.0.1:{}/stand-in", stub.port()));
        let provider = build(name, &settings(name, &given).expect("good options")).expect("good settings");
        let id = DeliveryId::new(Timestamp::from_millis(0), &Script::default());
        let told = provider.send(id, Arc::new(text("Your code is 523471 & more"))).await;
        (stub.seen().concat(), told)
    }

    #[test]
    fn every_preset_makes_settings_that_can_be_built_with_its_secrets() {
        for preset in ALL {
            let given: BTreeMap<_, _> = preset
                .options
                .iter()
                .filter(|it| it.name != "url")
                .map(|it| (it.name.to_owned(), if it.name == "host" { "x.example.com" } else { "AB12" }.to_owned()))
                .collect();
            build(preset.name, &settings(preset.name, &given).expect("all options")).unwrap_or_else(|why| panic!("{}: {why}", preset.name));
        }
    }

    #[test]
    fn an_option_that_is_missing_or_unknown_is_named() {
        let told = |name: &str, given: &[(&str, &str)]| settings(name, &options(given)).expect_err("it is refused");
        assert!(told("vonag", &[]).contains("there are infobip, infobip-v2, twilio, twilio-voice, vonage"));
        assert!(told("vonage", &[]).contains("needs the option `from`"));
        assert!(told("vonage", &[("form", "x")]).contains("knows no option `form`; it takes from, url"));
        assert!(told("vonage", &[("from", "{{ code }}")]).contains("holds a brace"));
    }

    #[tokio::test]
    async fn vonage_counts_as_sent_only_with_status_0_inside() {
        let ok = json!({"message-count": "1", "messages": [{"to": "15555550100", "message-id": "0A0000000123ABCD1", "status": "0"}]});
        let (seen, told) = carried("vonage", &[("from", "Acme Inc")], "200 OK", &ok).await;
        assert_eq!(told, Ok(Receipt(Some("0A0000000123ABCD1".into()))));
        assert!(seen.contains("content-type: application/x-www-form-urlencoded\r\n"), "{seen}");
        assert!(seen.contains("api_key=s3cret&api_secret=s3cret&client-ref=dlv_"), "{seen}");
        assert!(seen.ends_with("&from=Acme+Inc&text=Your+code+is+523471+%26+more&to=15555550100&type=text"), "{seen}");
        let no = |status: &str| json!({"messages": [{"status": status, "error-text": "Missing to param"}]});
        let from = [("from", "Acme")];
        assert!(matches!(carried("vonage", &from, "200 OK", &no("1")).await.1, Err(SendError::Unavailable { .. })));
        assert_eq!(carried("vonage", &from, "200 OK", &no("2")).await.1, Err(SendError::Refused("status 200, error 2".into())));
        assert_eq!(
            carried("vonage", &from, "200 OK", &no("4")).await.1,
            Err(SendError::Refused("credentials refused (status 200, error 4)".into()))
        );
    }

    #[tokio::test]
    async fn twilio_is_asked_by_form_and_answers_with_codes() {
        let given = [("account_sid", "AC00000000000000000000000000000000"), ("from", "+15555550199")];
        let (seen, told) = carried("twilio", &given, "201 Created", &json!({"sid": "SM1f", "status": "queued", "error_code": null})).await;
        assert_eq!(told, Ok(Receipt(Some("SM1f".into()))));
        assert!(seen.contains("authorization: Basic QUMwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDpzM2NyZXQ="), "{seen}");
        assert!(seen.ends_with("Body=Your+code+is+523471+%26+more&From=%2B15555550199&To=%2B15555550100"), "{seen}");
        let (_, told) = carried("twilio", &given, "400 Bad", &json!({"code": 21211, "message": "Invalid 'To' +15555550100"})).await;
        assert_eq!(told, Err(SendError::NoSuchAddress("status 400, error 21211".into())));
        let (seen, _) = carried("twilio", &[("account_sid", "AC1"), ("messaging_service_sid", "MG1")], "201 Created", &json!({})).await;
        assert!(seen.contains("MessagingServiceSid=MG1") && !seen.contains("From="), "{seen}");
        let (seen, _) = carried("twilio-voice", &given, "201 Created", &json!({})).await;
        assert!(seen.contains("Twiml=%3CResponse%3E%3CSay%3EYour+code+is+523471+%26amp%3B+more%3C%2FSay%3E"), "{seen}");
    }

    #[tokio::test]
    async fn the_verdict_of_infobip_is_read_from_the_answer_in_both_generations() {
        for name in ["infobip", "infobip-v2"] {
            let given = [("host", "x.example.com"), ("from", "Acme")];
            let answer = |group: u32, name: &str| json!({"messages": [{"messageId": "m-1", "status": {"groupId": group, "name": name}}]});
            let (seen, told) = carried(name, &given, "200 OK", &answer(1, "PENDING_ACCEPTED")).await;
            assert_eq!(told, Ok(Receipt(Some("m-1".into()))));
            assert!(seen.contains("authorization: App s3cret\r\n") && seen.contains(r#""to":"15555550100""#), "{seen}");
            let (_, told) = carried(name, &given, "200 OK", &answer(5, "REJECTED_NETWORK")).await;
            assert_eq!(told, Err(SendError::Refused("status 200, error REJECTED_NETWORK".into())));
            let (_, told) = carried(name, &given, "401 No", &json!({"requestError": {}})).await;
            assert_eq!(told, Err(SendError::Refused("credentials refused (status 401)".into())));
        }
    }
}
