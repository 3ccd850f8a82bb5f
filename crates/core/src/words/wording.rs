//! Wording: what a message says. The words of a tenant, or ours when it has none.

use crate::words::address::{Address, Channel};
use crate::words::secret::Code;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The words for one channel, with `{{ code }}` and its companions still in them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wording {
    /// The subject of a letter; nothing for the other channels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The text, for every channel.
    pub text: String,
    /// The same as HTML, for letters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub html: Option<String>,
}

impl Wording {
    /// What is said when a tenant has not chosen its own words.
    #[must_use]
    pub fn standard(channel: Channel) -> Self {
        match channel {
            Channel::Email => Self {
                subject: Some("{{ code }} is your {{ tenant }} verification code".into()),
                text: concat!(
                    "Your verification code is {{ code }}\n\n",
                    "It is valid for {{ minutes }} minutes and can be used once. {{ tenant }} never asks you to tell it to anybody.\n",
                    "If you did not ask for a code, ignore this message.\n"
                )
                .into(),
                html: Some(include_str!("standard_email.html").into()),
            },
            Channel::Voice => Self {
                subject: None,
                text: "Your {{ tenant }} verification code is {{ spoken_code }}. Again: {{ spoken_code }}.".into(),
                html: None,
            },
            // The provider has words of its own.
            Channel::External => Self { subject: None, text: "{{ code }}".into(), html: None },
            Channel::Sms | Channel::Totp => Self {
                subject: None,
                text: "{{ code }} is your {{ tenant }} verification code. It is valid for {{ minutes }} minutes. Do not share it.".into(),
                html: None,
            },
        }
    }
}

/// The values that words may name. This list is the reference for whoever writes a template.
#[derive(Debug, Clone)]
pub struct Values<'a> {
    /// `{{ code }}`; with blanks between the digits as `{{ spoken_code }}`.
    pub code: &'a Code,
    /// `{{ minutes }}`: how long the code is valid, rounded down, at least 1.
    pub minutes: u64,
    /// `{{ tenant }}`: the display name of the tenant.
    pub tenant: &'a str,
    /// `{{ application }}`: the name of the application that asks.
    pub application: &'a str,
    /// `{{ user }}`: what the application calls the person.
    pub user: &'a str,
}

/// A message as it leaves the house. Kept only sealed, and only until it is sent.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// By which way.
    pub channel: Channel,
    /// To whom.
    pub to: Address,
    /// Who it is from: a mailbox for letters (`Name <address>`), a sender id for texts. The provider's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The subject of a letter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The text.
    pub text: String,
    /// The same as HTML.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub html: Option<String>,
    /// The code alone, for providers that have words of their own.
    pub code: String,
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Message({}, {}, …)", self.channel, self.to.hint())
    }
}
