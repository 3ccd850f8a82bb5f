//! Requesting: opening a challenge, and sending its code.

use super::{Core, Scope};
use crate::words::address::{Address, Channel, Login};
use crate::words::id::ChallengeId;
use crate::words::refusal::Error;
use crate::words::time::Timestamp;

/// What is asked for.
#[derive(Debug, Clone)]
pub enum Ask {
    /// A code that we send to an address which the caller names.
    Code {
        /// What the application calls the person. Nobody of that name need exist.
        login: Login,
        /// By which way: not [`Channel::Totp`].
        channel: Channel,
        /// To whom.
        to: Address,
        /// Which words; those called `default`, or the standard ones, when absent.
        template: Option<String>,
    },
    /// A value of the person's own authenticator.
    Totp {
        /// What the application calls the person.
        login: Login,
        /// Which of the person's devices.
        device: String,
    },
}

/// An open challenge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Requested {
    /// Its id.
    pub challenge: ChallengeId,
    /// When it ends.
    pub expires_at: Timestamp,
    /// What has become of the message.
    pub sent: Sent,
}

/// What has become of a message by the time of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// A provider took it.
    Taken,
    /// It waits for a provider, and will be sent as soon as one takes it.
    Queued,
    /// There is none: the person has the code already.
    Nothing,
}

impl Core {
    /// Opens a challenge for `ask`. The challenge, its message and the event are one change; only then does anything leave the
    /// house (invariant 5).
    ///
    /// # Errors
    /// Refusals: `SendsExhausted`, `Locked`, `RouteMissing`, `TemplateUnknown`, `TemplateBroken`, `PhoneNumberBad` (a country that
    /// the policy excludes), `DeliveryRefused` and `AddressUnreachable` (the challenge is closed again), `UserUnknown`,
    /// `NoUsableDevice`, `DeviceUnknown`.
    pub async fn request(&self, scope: &Scope, ask: Ask) -> Result<Requested, Error> {
        let _ = (scope, ask);
        todo!()
    }
}
