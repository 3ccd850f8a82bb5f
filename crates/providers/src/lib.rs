//! Who carries it: the one door out, and the carriers of messages.
//!
//! [`Fleet`] makes providers out of their settings, one kind a file: [`http`] (a request made from templates; [`presets`]
//! has ready settings for some vendors), [`smtp`], [`pryv`] (endpoints as platform.yml describes them), and [`inbox`] for development. All of
//! them leave by [`egress`]. [`pen`] fills in the words before anything is carried; [`outbound`] calls servers that a dialect stands in
//! front of.

pub mod egress;
pub mod http;
pub mod inbox;
pub mod outbound;
pub mod pen;
pub mod presets;
pub mod pryv;
pub mod smtp;
#[cfg(test)]
mod stub;
mod template;

use countersign_core::nouns::provider::ProviderSettings;
use countersign_core::ports::{Carriers, Clock, Provider};
use countersign_core::words::address::Channel;
use countersign_core::words::secret::Secret;
use egress::Egress;
use inbox::Tray;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// The longest that one provider may take for a message. All providers of a route share fifteen seconds, and one that says
/// nothing must leave something to the next.
const PATIENCE_MOST: u64 = 10_000;

/// The time-out that a provider's settings ask for.
fn patience(timeout_ms: u64, least: u64) -> Result<Duration, String> {
    if (least..=PATIENCE_MOST).contains(&timeout_ms) {
        return Ok(Duration::from_millis(timeout_ms));
    }
    Err(format!("timeout_ms is {timeout_ms}; it takes {least} to {PATIENCE_MOST}, for all providers of a route share 15 seconds"))
}

/// Makes providers of the kinds `http`, `smtp`, `pryv` and `inbox`.
#[derive(Clone)]
pub struct Fleet {
    egress: Egress,
    clock: Arc<dyn Clock>,
    tray: Option<Tray>,
}

impl fmt::Debug for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fleet(…)")
    }
}

impl Fleet {
    /// A fleet that leaves by `egress`. Without a tray it refuses providers of kind `inbox`, as production does.
    #[must_use]
    pub fn new(egress: Egress, clock: Arc<dyn Clock>, tray: Option<Tray>) -> Self {
        Self { egress, clock, tray }
    }
}

impl Carriers for Fleet {
    fn build(&self, settings: &ProviderSettings, secrets: BTreeMap<String, Secret>) -> Result<Provider, String> {
        let carries = |kind: &str, known: &[Channel]| match settings.channels.iter().find(|it| !known.contains(it)) {
            Some(channel) => Err(format!("a provider of kind {kind} cannot serve the channel {channel}")),
            None => Ok(()),
        };
        match settings.kind.as_str() {
            "http" => {
                carries("http", &Channel::CARRIED)?;
                let it = http::Http::build(&settings.settings, &secrets, self.egress.clone(), self.clock.clone())?;
                Ok(Provider::Sends(Box::new(it)))
            }
            "smtp" => {
                carries("smtp", &[Channel::Email])?;
                let it = smtp::Smtp::build(&settings.settings, &secrets, self.egress.clone())?;
                Ok(Provider::Sends(Box::new(it)))
            }
            "pryv" => {
                carries("pryv", &[Channel::External])?;
                pryv::build(&settings.settings, &secrets, self.egress.clone(), self.clock.clone())
            }
            "inbox" => {
                carries("inbox", &Channel::SENT)?;
                let tray = self
                    .tray
                    .clone()
                    .ok_or("providers of kind inbox show messages instead of sending them, and this server does not allow them")?;
                Ok(Provider::Sends(Box::new(tray)))
            }
            other => Err(format!("the kind is `{other}`; it takes http, smtp, pryv or inbox")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use countersign_core::ports::test::{Script, Still};
    use countersign_core::words::id::ProviderId;
    use countersign_core::words::time::Timestamp;
    use serde_json::json;

    fn build(fleet: &Fleet, kind: &str, channels: &[Channel], settings: serde_json::Value) -> Result<Provider, String> {
        let now = Timestamp::from_millis(0);
        let settings = ProviderSettings {
            id: ProviderId::new(now, &Script::default()),
            name: "one".into(),
            channels: channels.to_vec(),
            kind: kind.into(),
            settings,
            secrets: BTreeMap::new(),
            created_at: now,
        };
        fleet.build(&settings, BTreeMap::new())
    }

    #[test]
    fn an_inbox_is_built_only_where_the_operator_allows_it() {
        let clock = Arc::new(Still::at(Timestamp::from_millis(0)));
        let production = Fleet::new(stub::loopback(), clock.clone(), None);
        let development = Fleet::new(stub::loopback(), clock.clone(), Some(Tray::new(clock)));
        assert!(build(&production, "inbox", &[Channel::Sms], json!({})).expect_err("it is refused").contains("does not allow"));
        assert!(build(&development, "inbox", &Channel::CARRIED, json!({})).is_ok());
    }

    #[test]
    fn who_says_nothing_leaves_time_to_the_next() {
        let fleet = Fleet::new(stub::loopback(), Arc::new(Still::at(Timestamp::from_millis(0))), None);
        let http = |ms: u64| build(&fleet, "http", &[Channel::Sms], json!({"url": "https://example.com/", "timeout_ms": ms}));
        let smtp = |ms: u64| build(&fleet, "smtp", &[Channel::Email], json!({"host": "mail.example.com", "timeout_ms": ms}));
        for ms in [0, 10_001, 15_000, 20_000, 25_000, u64::MAX] {
            for told in [http(ms), smtp(ms)] {
                let why = told.map(|_| ()).expect_err("it is refused");
                assert!(why.ends_with(" to 10000, for all providers of a route share 15 seconds"), "{why}");
            }
        }
        for ms in [1_000, 10_000] {
            assert!(http(ms).is_ok() && smtp(ms).is_ok(), "{ms}");
        }
    }

    #[test]
    fn a_kind_serves_the_channels_that_it_can() {
        let fleet = Fleet::new(stub::loopback(), Arc::new(Still::at(Timestamp::from_millis(0))), None);
        let smtp = || json!({"host": "mail.example.com", "from": "a@example.com"});
        assert!(build(&fleet, "smtp", &[Channel::Email], smtp()).is_ok());
        assert_eq!(
            build(&fleet, "smtp", &[Channel::Email, Channel::Sms], smtp()).expect_err("it is refused"),
            "a provider of kind smtp cannot serve the channel sms"
        );
        assert!(build(&fleet, "http", &[Channel::Sms, Channel::Voice, Channel::Email], json!({"url": "https://example.com/"})).is_ok());
        assert_eq!(
            build(&fleet, "pryv", &[Channel::External, Channel::Sms], json!({})).expect_err("it is refused"),
            "a provider of kind pryv cannot serve the channel sms"
        );
        assert!(build(&fleet, "pryv", &[Channel::External], json!({})).expect_err("it has no secret").contains("endpoints is missing"));
        assert!(build(&fleet, "http", &[Channel::Totp], json!({"url": "https://example.com/"})).is_err());
        assert_eq!(
            build(&fleet, "htpp", &[], json!({})).expect_err("it is refused"),
            "the kind is `htpp`; it takes http, smtp, pryv or inbox"
        );
    }
}
