//! Saying no (invariant 12). The caller can do something about a [`Refusal`], and hears it in the words of the dialect. A [`Fault`] is
//! for the operator: it goes to the log, once, and the caller hears only that something went wrong.

use crate::words::address::{BadEmailAddress, BadLogin, BadPhoneNumber, Channel};
use crate::words::secret::{BadAnswer, DoesNotOpen};
use crate::words::time::Timestamp;
use crate::words::variables::BadVariables;
use std::time::Duration;

/// The house says no, and the caller can do something about it. Dialects map it without a wildcard arm.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No such client, it is switched off, or its secret is another one. Which of them is not told.
    #[error("client id and secret do not match")]
    ClientUnknown,
    /// No such challenge for this caller: never was, of somebody else, or removed by retention.
    #[error("no such challenge")]
    ChallengeUnknown,
    /// The challenge is for another channel than the caller says.
    #[error("the challenge was opened for {opened_for}")]
    ChannelDiffers {
        /// The channel for which it was opened.
        opened_for: Channel,
    },
    /// The answer cannot be a code. It cost nothing.
    #[error(transparent)]
    AnswerMalformed(#[from] BadAnswer),
    /// The number breaks a rule.
    #[error(transparent)]
    PhoneNumberBad(#[from] BadPhoneNumber),
    /// The e-mail address breaks a rule.
    #[error(transparent)]
    EmailAddressBad(#[from] BadEmailAddress),
    /// The name of the person breaks a rule.
    #[error(transparent)]
    LoginBad(#[from] BadLogin),
    /// The name of a device breaks a rule.
    #[error("a device name has 1 to 100 visible characters")]
    DeviceNameBad,
    /// No provider of this tenant can reach the channel. Hint: add a provider, and a route to it.
    #[error("no provider of this tenant can reach a {channel} address of this kind")]
    RouteMissing {
        /// Where the message should have gone.
        channel: Channel,
    },
    /// Every provider said that it will not carry this message.
    #[error("no provider takes a message for this address")]
    DeliveryRefused,
    /// The provider says that the address does not exist.
    #[error("the provider knows no such address")]
    AddressUnreachable,
    /// Too many codes were asked for, for this person or this address.
    #[error("too many codes were requested")]
    SendsExhausted {
        /// When it may be tried again.
        until: Timestamp,
    },
    /// The factor is locked after too many wrong codes.
    #[error("locked after too many wrong codes")]
    Locked {
        /// When it opens by itself; never, when only an administrator can open it.
        until: Option<Timestamp>,
    },
    /// The message of this challenge is still on its way.
    #[error("the last message is still on its way")]
    ResendTooSoon,
    /// The tenant has no template of this name for the channel.
    #[error("no template of this name")]
    TemplateUnknown,
    /// The template cannot be filled in.
    #[error("the template cannot be filled in: {0}")]
    TemplateBroken(String),
    /// No such person for this caller.
    #[error("no such user")]
    UserUnknown,
    /// The person has no device of this kind that could be used.
    #[error("no usable device")]
    NoUsableDevice,
    /// The person has devices, and none of this name.
    #[error("no device of this name")]
    DeviceUnknown,
    /// The person has a device of this name already.
    #[error("the device name is taken")]
    DeviceNameTaken,
    /// The device is in use already.
    #[error("the device is active already")]
    DeviceActive,
    /// The person has as many devices as the tenant allows.
    #[error("no more than {most} devices")]
    TooManyDevices {
        /// The most that the tenant allows.
        most: u16,
    },
    /// No such sign-in for this person and purpose: never was, is over, or was finished.
    #[error("no such sign-in")]
    SignInUnknown,
    /// The service that checks its own codes gave no verdict.
    #[error("the service that checks the code gave no verdict")]
    NoVerdict,
    /// The data by which a person is reached are none, or too many.
    #[error(transparent)]
    DataBad(#[from] BadVariables),
    /// Name and password do not match.
    #[error("name and password do not match")]
    PasswordWrong,
    /// Too many passwords were tried from one place.
    #[error("too many passwords were tried")]
    TriesExhausted {
        /// When it may be tried again.
        until: Timestamp,
    },
    /// This person has no such access, and never had.
    #[error("no such access")]
    AccessUnknown,
    /// The access was not used for too long, or the person has logged out.
    #[error("the access is over")]
    AccessOver,
    /// Something of this name is there already (administration).
    #[error("the name is taken")]
    NameTaken,
    /// No such thing (administration).
    #[error("no such {0}")]
    Unknown(&'static str),
    /// A setting is out of its range or does not fit the others (administration).
    #[error("{0}")]
    SettingBad(String),
}

/// An accident. It says what to do to the operator, and nothing to the caller.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Fault {
    /// The database or what it stands on is away. Trying again may help.
    #[error("storage is unavailable: {what}")]
    Unavailable {
        /// What happened, without secrets.
        what: String,
        /// When trying again may help.
        retry_after: Duration,
    },
    /// Others were faster, again and again.
    #[error("too many changes at once to the same record")]
    Contended,
    /// What is kept cannot be read: damage, or a master key that is not the one that sealed it.
    #[error("what is kept cannot be read: {0}")]
    Corrupt(String),
}

impl From<DoesNotOpen> for Fault {
    fn from(it: DoesNotOpen) -> Self {
        Self::Corrupt(it.to_string())
    }
}

/// Either kind of no.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// An answer.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// An accident.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl From<DoesNotOpen> for Error {
    fn from(it: DoesNotOpen) -> Self {
        Self::Fault(it.into())
    }
}
