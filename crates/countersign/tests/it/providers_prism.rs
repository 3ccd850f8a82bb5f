//! Our requests, judged by the vendors' own published interfaces: Prism is a mock made from them, and refuses what the
//! vendor would refuse.

use crate::server::{Caller, Place, Sink};
use crate::tools::{self, Running};
use countersign_core::ports::test::{Script, Still};
use countersign_core::ports::{Receipt, SendError, Sends};
use countersign_core::words::address::{Address, Channel, PhoneNumber};
use countersign_core::words::id::DeliveryId;
use countersign_core::words::secret::Secret;
use countersign_core::words::time::Timestamp;
use countersign_core::words::wording::Message;
use countersign_providers::egress::{Egress, EgressSettings};
use countersign_providers::http::Http;
use countersign_providers::presets;
use serde_json::Value;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

/// A Prism that serves one interface.
struct Prism {
    port: u16,
    _running: Running,
}

impl Prism {
    fn start(test: &str, spec: &str) -> Option<Self> {
        let (program, spec) = (tools::find(test, "prism")?, tools::spec(test, spec)?);
        let port = tools::free_port();
        let running = Running::start(Command::new(program).args(["mock", "-h", "127.0.0.1", "-p", &port.to_string()]).arg(spec));
        assert!(tools::listens(port, Duration::from_secs(60)), "Prism does not listen");
        Some(Self { port, _running: running })
    }

    /// The preset's settings, with the mock in the place of the vendor.
    fn settings(&self, preset: &str, path: &str, options: &[(&str, &str)]) -> Value {
        let mut options: std::collections::BTreeMap<_, _> =
            options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        options.insert("url".into(), format!("http://127.0.0.1:{}{path}", self.port));
        presets::settings(preset, &options).expect("good options")
    }
}

async fn sent(settings: &Value, secrets: &[(&str, &str)], text: &str) -> Result<Receipt, SendError> {
    let egress = EgressSettings { allow: vec!["127.0.0.0/8".parse().expect("a network")], ..EgressSettings::default() };
    let egress = Egress::new(egress).expect("good settings");
    let secrets = secrets.iter().map(|(name, it)| ((*name).to_owned(), Secret::new(*it))).collect();
    let now = Timestamp::from_millis(1_893_499_200_000);
    let provider = Http::build(settings, &secrets, egress, Arc::new(Still::at(now))).expect("good settings");
    let to = Address::Phone(PhoneNumber::parse("+44 7700 900000", None).expect("a number that could exist"));
    let code = "523471".into();
    let message = Message { channel: Channel::Sms, to, from: None, subject: None, text: text.into(), html: None, code };
    provider.send(DeliveryId::new(now, &Script::default()), Arc::new(message)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn vonages_published_interface_takes_our_request_and_no_broken_one() {
    let Some(prism) = Prism::start("vonages_published_interface_takes_our_request_and_no_broken_one", "vonage_sms.yml") else { return };
    let secrets = [("api_key", "abcd1234"), ("api_secret", "abcdef0123456789")];
    let good = prism.settings("vonage", "/json", &[("from", "AcmeInc")]);
    for text in ["523471 is your Acme code", "код 523471 & <больше>"] {
        assert_eq!(sent(&good, &secrets, text).await, Ok(Receipt(Some("0A0000000123ABCD1".into()))));
    }
    // What the interface asks for, one thing after the other.
    for (field, wrong) in
        [("to", Value::Null), ("to", "{{ code }}".into()), ("from", Value::Null), ("api_key", "short".into()), ("type", "smoke".into())]
    {
        let mut broken = good.clone();
        match wrong {
            Value::Null => drop(broken["form"].as_object_mut().expect("a form").remove(field)),
            other => broken["form"][field] = other,
        }
        assert_eq!(sent(&broken, &secrets, "523471").await, Err(SendError::Refused("status 422".into())), "{field}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn twilios_published_interface_takes_our_requests_and_no_broken_one() {
    let test = "twilios_published_interface_takes_our_requests_and_no_broken_one";
    let Some(prism) = Prism::start(test, "twilio_api_v2010.yaml") else { return };
    let account = "AC00000000000000000000000000000000";
    let at = |what: &str| format!("/2010-04-01/Accounts/{account}/{what}.json");
    let options = [("account_sid", account), ("from", "+15005550006")];
    let secrets = [("auth_token", "abcdef0123456789")];
    for (preset, what) in [("twilio", "Messages"), ("twilio-voice", "Calls")] {
        let good = prism.settings(preset, &at(what), &options);
        let told = sent(&good, &secrets, "523471 is your code & more").await;
        assert!(told.is_ok(), "{preset}: {told:?}");
        let mut broken = good.clone();
        broken["form"].as_object_mut().expect("a form").remove("To");
        assert_eq!(sent(&broken, &secrets, "523471").await, Err(SendError::Refused("status 422".into())), "{preset}");
        let mut stranger = good;
        stranger.as_object_mut().expect("settings").remove("auth");
        let told = sent(&stranger, &secrets, "523471").await;
        assert_eq!(told, Err(SendError::Refused("credentials refused (status 401)".into())), "{preset}");
    }
}

/// The whole way: asked for through the API, and taken by the vendor's published interface.
#[tokio::test(flavor = "multi_thread")]
async fn a_code_that_is_asked_for_goes_out_as_the_vendor_publishes() {
    let Some(prism) = Prism::start("a_code_that_is_asked_for_goes_out_as_the_vendor_publishes", "vonage_sms.yml") else { return };
    let sink = Sink::start().await;
    let mut place = Place::new("vendor", &sink.url);
    place.settings.extend([("VONAGE_KEY", "abcd1234".to_owned()), ("VONAGE_SECRET", "abcdef0123456789".to_owned())]);
    let url = format!("url=http://127.0.0.1:{}/json", prism.port);
    let secrets = ["--secret-env", "api_key=VONAGE_KEY", "--secret-env", "api_secret=VONAGE_SECRET"];
    let preset = ["provider", "add", "demo", "texts", "--preset", "vonage", "--set", "from=Acme", "--set", &url];
    place.command(&[&preset[..], &secrets].concat());
    place.command(&["tenant", "route", "add", "demo", "sms", "texts"]);
    let _server = place.start();
    let caller = Caller::new(&place).await;
    let (status, body) = caller.ask("jdoe", "+44 7700 900000").await.expect("an answer");
    assert_eq!((status, body["message"].as_str()), (201, Some("OTP has been sent to the device ")), "{body}; {}", place.log());
    assert!(sink.carried.lock().unwrap().is_empty(), "the vendor took it, not the provider of the other tests");
}
