//! Tenants and what they have decided for themselves.

use crate::nouns::route::Route;
use crate::words::address::{Address, Channel, PhoneNumber};
use crate::words::id::TenantId;
use crate::words::refusal::Refusal;
use crate::words::secret::{Sealed, WrappedKey};
use crate::words::time::Timestamp;
use crate::words::variables::{BadVariables, shown};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::num::NonZeroU8;
use std::time::Duration;

/// An organisation that keeps its own policy, keys, routes and people.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Tenant {
    /// Its id, the beginning of every key.
    pub id: TenantId,
    /// What commands call it: lower-case letters, digits and hyphens; unique.
    pub name: String,
    /// What people read in messages.
    pub display_name: String,
    /// Its rules.
    #[serde(default)]
    pub policy: Policy,
    /// Its data keys, oldest first, wrapped by the master key.
    pub keys: Vec<WrappedKey>,
    /// The key that signs its access tokens (PKCS#8 of an ES256 key), sealed.
    pub signing_key: Sealed,
    /// Which providers carry what.
    #[serde(default)]
    pub routes: Vec<Route>,
    /// Who its letters are from: `Name <address>` in a domain of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email_from: Option<String>,
    /// Who its texts are from: a number or a sender id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sms_from: Option<String>,
    /// What its dialects are told, by the name of the dialect, which alone understands it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub dialects: BTreeMap<String, serde_json::Value>,
    /// Since when.
    pub created_at: Timestamp,
}

impl Tenant {
    /// Whether `name` may be the name of a tenant or provider: 1 to 63 of `a-z 0-9 -`, no hyphen at the ends.
    ///
    /// # Errors
    /// [`Refusal::SettingBad`] with the rule.
    pub fn check_name(name: &str) -> Result<(), Refusal> {
        let fits = (1..=63).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !name.starts_with('-')
            && !name.ends_with('-');
        if fits {
            Ok(())
        } else {
            Err(Refusal::SettingBad(format!("`{name}` is no name: use 1 to 63 of a-z, 0-9 and -, not - at the ends")))
        }
    }

    /// Who a message is from, unless the client or the provider says otherwise.
    #[must_use]
    pub fn sender(&self, channel: Channel) -> Option<&str> {
        match channel {
            Channel::Email => self.email_from.as_deref(),
            Channel::Sms | Channel::Voice => self.sms_from.as_deref(),
            Channel::External | Channel::Totp => None,
        }
    }
}

/// The rules of a tenant. `docs/policy.md` is their reference; [`Policy::check`] holds the ranges.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// Digits of a code, 4 to 10. The CIAM dialect promises six; clients of Pryv.io were made for four.
    pub code_length: u8,
    /// How long a code lives from its first sending, 30 to 600 s. Shorter is safer (NIST SP 800-63B §3.1.3.2 allows 10 min).
    pub code_lifetime_s: u32,
    /// Wrong codes that end a challenge and lock the factor, 1 to 10.
    pub attempts: NonZeroU8,
    /// How long a factor stays locked, 60 to 86,400 s.
    pub lock_s: u32,
    /// Wrong codes in a row after which only an administrator opens the factor (NIST SP 800-63B §3.2.2: at most 100).
    pub attempts_in_a_row: u16,
    /// Sends to one person or one address within `sends_window_s`, 1 to 1,000.
    pub sends: u16,
    /// The window in which sends are counted, 60 to 86,400 s.
    pub sends_window_s: u32,
    /// How long sends are refused once they were too many, 60 to 86,400 s.
    pub sends_pause_s: u32,
    /// How long an answer waits for the provider's word, 1 to 60 s.
    pub answer_within_s: u32,
    /// Devices of one person, 1 to 15.
    pub devices: u16,
    /// The country (ISO 3166-1, two letters) of numbers written without a country code; none are taken without it.
    pub region: Option<String>,
    /// The calling codes that messages may go to, without `+` (such as `44`); empty means everywhere.
    pub countries: Vec<String>,
    /// The name under which data for [`Channel::External`] hold a telephone number. It is judged like any other number then: it must be
    /// one that could exist, costs nobody extra, and goes to one of `countries`; sends to it are counted. No number is looked for without.
    pub number_in: Option<String>,
    /// How long ended challenges, sent deliveries and events are kept, 1 to 3,650 days.
    pub keep_days: u16,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            code_length: 6,
            code_lifetime_s: 300,
            attempts: NonZeroU8::new(3).expect("three is not zero"),
            lock_s: 1800,
            attempts_in_a_row: 100,
            sends: 10,
            sends_window_s: 300,
            sends_pause_s: 1800,
            answer_within_s: 10,
            devices: 5,
            region: None,
            countries: Vec::new(),
            number_in: None,
            keep_days: 30,
        }
    }
}

impl Policy {
    /// Whether every rule is in its range.
    ///
    /// # Errors
    /// [`Refusal::SettingBad`] names the first that is not, and its range.
    pub fn check(&self) -> Result<(), Refusal> {
        let range = |name: &str, value: u32, low: u32, high: u32| {
            if (low..=high).contains(&value) {
                Ok(())
            } else {
                Err(Refusal::SettingBad(format!("{name} is {value}; it takes {low} to {high}")))
            }
        };
        range("code_length", self.code_length.into(), 4, 10)?;
        range("code_lifetime_s", self.code_lifetime_s, 30, 600)?;
        range("attempts", self.attempts.get().into(), 1, 10)?;
        range("lock_s", self.lock_s, 60, 86_400)?;
        range("attempts_in_a_row", self.attempts_in_a_row.into(), self.attempts.get().into(), 100)?;
        range("sends", self.sends.into(), 1, 1000)?;
        range("sends_window_s", self.sends_window_s, 60, 86_400)?;
        range("sends_pause_s", self.sends_pause_s, 60, 86_400)?;
        range("answer_within_s", self.answer_within_s, 1, 60)?;
        range("devices", self.devices.into(), 1, 15)?;
        range("keep_days", self.keep_days.into(), 1, 3650)?;
        if let Some(region) = &self.region
            && !(region.len() == 2 && region.bytes().all(|b| b.is_ascii_uppercase()))
        {
            return Err(Refusal::SettingBad(format!("region is `{region}`; it takes two capital letters, such as US")));
        }
        if let Some(bad) = self.countries.iter().find(|it| it.is_empty() || it.len() > 6 || !it.bytes().all(|b| b.is_ascii_digit())) {
            return Err(Refusal::SettingBad(format!("countries holds `{bad}`; it takes calling codes, such as 44")));
        }
        Ok(())
    }

    /// The address by which sends are limited and destinations are judged: the number in data, where the policy says under which name it
    /// stands; else the address itself.
    ///
    /// # Errors
    /// Refusals: `PhoneNumberBad` when there is none, or one that cannot be; `DataBad` when another value could name a second receiver.
    pub fn judged<'a>(&self, to: &'a Address) -> Result<Cow<'a, Address>, Refusal> {
        match (to, &self.number_in) {
            (Address::Data(data), Some(name)) => {
                if data.iter().any(|(_, value)| shown(value).contains(['&', ';'])) {
                    return Err(BadVariables::Separator.into());
                }
                let text = data.get(name).map(shown).ok_or(BadVariables::NoNumber)?;
                let text = text.trim();
                // Messaging services write numbers without the plus.
                let whole = if text.starts_with('+') || self.region.is_some() { text.to_owned() } else { format!("+{text}") };
                Ok(Cow::Owned(Address::Phone(PhoneNumber::parse(&whole, self.region.as_deref())?)))
            }
            _ => Ok(Cow::Borrowed(to)),
        }
    }

    /// How long a code lives.
    #[must_use]
    pub fn code_lifetime(&self) -> Duration {
        Duration::from_secs(self.code_lifetime_s.into())
    }
    /// How long a factor stays locked.
    #[must_use]
    pub fn lock(&self) -> Duration {
        Duration::from_secs(self.lock_s.into())
    }
    /// How long an answer waits for the provider's word.
    #[must_use]
    pub fn answer_within(&self) -> Duration {
        Duration::from_secs(self.answer_within_s.into())
    }
    /// How long what is over is kept.
    #[must_use]
    pub fn keep(&self) -> Duration {
        Duration::from_secs(u64::from(self.keep_days) * 86_400)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::address::BadPhoneNumber;
    use crate::words::variables::Variables;

    #[test]
    fn a_number_in_data_is_judged_where_the_policy_says_where_it_stands() {
        let data = |value: serde_json::Value| Address::Data(Variables::of([("number".to_owned(), value)]));
        let named = Policy { number_in: Some("number".into()), ..Policy::default() };
        let number = |it: &Policy, to: &Address| it.judged(to).map(|it| it.reveal().into_owned());
        for value in ["41791231212".into(), "+41 79 123 12 12".into(), 41_791_231_212_u64.into()] {
            assert_eq!(number(&named, &data(value)), Ok("+41791231212".to_owned()));
        }
        let swiss = Policy { region: Some("CH".into()), ..named.clone() };
        assert_eq!(number(&swiss, &data("079 123 12 12".into())), Ok("+41791231212".to_owned()));
        assert_eq!(number(&named, &data("19002345678".into())), Err(BadPhoneNumber::Kind.into()), "premium");
        assert!(number(&named, &data("no number".into())).is_err());
        let two = Variables::of([("number".to_owned(), "41791231212".into()), ("message".to_owned(), "x&to=19002345678".into())]);
        assert_eq!(number(&named, &Address::Data(two)), Err(BadVariables::Separator.into()));
        assert!(
            number(&Policy { number_in: Some("phone".into()), ..Policy::default() }, &data("41791231212".into())).is_err(),
            "none there"
        );
        assert_eq!(number(&Policy::default(), &data("x".into())), Ok(r#"{"number":"x"}"#.to_owned()), "nobody looks for one");
    }
}
