//! Routes: who carries what. A pure function from channel and destination to an order of providers.

use crate::words::address::{Address, Channel};
use crate::words::id::ProviderId;
use crate::words::refusal::Refusal;
use serde::{Deserialize, Serialize};

/// For a channel, and numbers or domains that begin or end so, these providers in this order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The channel that it is for.
    pub channel: Channel,
    /// What destinations it is for: a calling prefix such as `+91`, or a mail domain such as `example.com`; empty for all.
    #[serde(default)]
    pub destination: String,
    /// The providers, first choice first. When one refuses or is away, the next is tried in the same attempt.
    pub legs: Vec<ProviderId>,
}

impl Route {
    /// Whether `destination` can be one for `channel`: the beginning of a number, a mail domain, or nothing for all. What
    /// covers no address would be a route that is never taken, without a word.
    ///
    /// # Errors
    /// [`Refusal::SettingBad`] with what would be right.
    pub fn check_destination(channel: Channel, destination: &str) -> Result<(), Refusal> {
        let (fits, right) = match channel {
            _ if destination.is_empty() => return Ok(()),
            Channel::Sms | Channel::Voice => (is_prefix(destination), "a number begins with + and 1 to 15 digits, such as +91"),
            Channel::Email => (is_domain(destination), "a mail domain is written without @, such as example.com"),
            Channel::External => (false, "only its provider knows where a person is, so the route is for all"),
            Channel::Totp => (false, "an authenticator needs no route"),
        };
        if fits { Ok(()) } else { Err(Refusal::SettingBad(format!("`{destination}` is no destination for {channel}: {right}"))) }
    }

    fn covers(&self, channel: Channel, to: &Address) -> bool {
        self.channel == channel
            && match to {
                _ if self.destination.is_empty() => true,
                Address::Phone(number) => number.reveal().starts_with(&self.destination),
                Address::Data(_) => false,
                Address::Email(mail) => {
                    mail.reveal().rsplit('@').next().is_some_and(|domain| domain.eq_ignore_ascii_case(&self.destination))
                }
            }
    }
}

fn is_prefix(text: &str) -> bool {
    let digits = text.strip_prefix('+').unwrap_or_default();
    (1..=15).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit()) && !digits.starts_with('0')
}

/// RFC 1035 §2.3.4, and letters beyond ASCII as they stand in an address.
fn is_domain(text: &str) -> bool {
    let is_label = |it: &str| {
        (1..=63).contains(&it.len()) && !it.starts_with('-') && !it.ends_with('-') && it.chars().all(|c| c.is_alphanumeric() || c == '-')
    };
    text.len() <= 253 && text.split('.').all(is_label)
}

/// The providers for a message: those of the route with the longest destination that covers it.
#[must_use]
pub fn legs<'a>(routes: &'a [Route], channel: Channel, to: &Address) -> &'a [ProviderId] {
    routes.iter().filter(|it| it.covers(channel, to)).max_by_key(|it| it.destination.len()).map_or(&[], |it| &it.legs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::test::Script;
    use crate::words::address::{EmailAddress, PhoneNumber};
    use crate::words::time::Timestamp;

    #[test]
    fn a_destination_that_covers_nothing_is_refused() {
        for (channel, right) in [
            (Channel::Sms, ""),
            (Channel::Sms, "+1"),
            (Channel::Voice, "+918212345212"),
            (Channel::Email, "example.com"),
            (Channel::Email, "localhost"),
            (Channel::Email, "bücher.example"),
        ] {
            assert_eq!(Route::check_destination(channel, right), Ok(()), "{channel} {right}");
        }
        for (channel, wrong) in [
            (Channel::Sms, "91"),
            (Channel::Sms, "+"),
            (Channel::Sms, "+0"),
            (Channel::Sms, "+1 202"),
            (Channel::Sms, "+1234567890123456"),
            (Channel::Sms, "example.com"),
            (Channel::Voice, "IN"),
            (Channel::Email, "+91"),
            (Channel::Email, "@example.com"),
            (Channel::Email, "j@example.com"),
            (Channel::Email, "example.com."),
            (Channel::Email, "-a.example"),
            (Channel::Totp, "+91"),
        ] {
            assert!(Route::check_destination(channel, wrong).is_err(), "{channel} {wrong}");
        }
    }

    #[test]
    fn the_longest_destination_wins_and_channels_do_not_mix() {
        let id = || ProviderId::new(Timestamp::from_millis(0), &Script::default());
        let (everywhere, india, mail) = (id(), id(), id());
        let route = |channel, destination: &str, leg| Route { channel, destination: destination.into(), legs: vec![leg] };
        let routes = [route(Channel::Sms, "", everywhere), route(Channel::Sms, "+91", india), route(Channel::Email, "example.com", mail)];
        let phone = |text| Address::Phone(PhoneNumber::parse(text, None).expect("valid"));
        let address = |text| Address::Email(EmailAddress::parse(text).expect("valid"));
        assert_eq!(legs(&routes, Channel::Sms, &phone("+918212345212")), [india]);
        assert_eq!(legs(&routes, Channel::Sms, &phone("+442079460000")), [everywhere]);
        assert_eq!(legs(&routes, Channel::Voice, &phone("+918212345212")), []);
        assert_eq!(legs(&routes, Channel::Email, &address("j@Example.com")), [mail]);
        assert_eq!(legs(&routes, Channel::Email, &address("j@example.org")), []);
    }
}
