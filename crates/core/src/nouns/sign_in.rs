//! Sign-ins: a person who has shown a first factor, and has not finished with the second.

use crate::words::address::{Address, Channel, Fingerprint};
use crate::words::id::{ChallengeId, FactorId, UserId};
use crate::words::secret::Sealed;
use crate::words::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A sign-in on its way. Callers hold a token for it (`mfaToken`); what is kept is the token's keyed hash. It outlives challenges: when
/// the code of one is over, another may be asked for. Finishing it removes the record, so it is finished once (invariant 1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignIn {
    /// By which it is found: the keyed hash of its token.
    pub of: Fingerprint,
    /// Whose it is: to everybody else the token is unknown.
    pub user: Fingerprint,
    /// What finishing it is good for. A token of one kind is unknown where the other is asked for.
    pub purpose: Finishes,
    /// The challenge that was sent last, if one was.
    pub challenge: Option<ChallengeId>,
    /// [`Baggage`], sealed.
    pub baggage: Sealed,
    /// The first moment at which it is over. Nothing makes it longer.
    pub over_at: Timestamp,
}

/// What a sign-in is good for when it is finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Finishes {
    /// The person is logged in.
    Login,
    /// The person's second factor becomes active.
    Activation,
}

/// What a sign-in carries along. Kept sealed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Baggage {
    /// By which way the person is asked.
    pub channel: Channel,
    /// Where the person is reached.
    pub to: Address,
    /// Whose account it is, in a directory of our own, and which second factor is asked for: somebody who gets the same name later is
    /// another person, and a factor that was replaced finishes nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<(UserId, FactorId)>,
    /// What the dialect needs at the end of it, and nobody else understands.
    pub more: serde_json::Value,
}

impl SignIn {
    /// Whether the person has proven before to be reached there: at a log-in, and not while a second factor is being activated.
    #[must_use]
    pub fn asks_a_proven_address(&self) -> bool {
        self.purpose == Finishes::Login
    }

    /// Whether `user` may go on with it at `now`.
    #[must_use]
    pub fn is_for(&self, user: Fingerprint, now: Timestamp) -> bool {
        self.user == user && now < self.over_at
    }
}

/// Proof that a person has shown every factor that is asked for. A right password of somebody who has no second factor makes one, and the
/// end of a log-in with a second factor; nothing else.
#[derive(Debug)]
pub struct Passage {
    pub(crate) account: UserId,
}

impl fmt::Debug for Baggage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Baggage({}, …)", self.channel)
    }
}
