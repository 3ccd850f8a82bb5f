//! Routes: who carries what. A pure function from channel and destination to an order of providers.

use crate::words::address::{Address, Channel};
use crate::words::id::ProviderId;
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
    fn covers(&self, channel: Channel, to: &Address) -> bool {
        self.channel == channel
            && match to {
                _ if self.destination.is_empty() => true,
                Address::Phone(number) => number.reveal().starts_with(&self.destination),
                Address::Email(mail) => {
                    mail.reveal().rsplit('@').next().is_some_and(|domain| domain.eq_ignore_ascii_case(&self.destination))
                }
            }
    }
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
