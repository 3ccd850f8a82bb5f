//! Sign-ins: a person who has shown a first factor, and has not finished with the second.

use crate::words::address::{Address, Channel, Fingerprint};
use crate::words::id::ChallengeId;
use crate::words::secret::Sealed;
use crate::words::time::Timestamp;
use serde::{Deserialize, Serialize};

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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Baggage {
    /// By which way the person is asked.
    pub channel: Channel,
    /// Where the person is reached.
    pub to: Address,
    /// What the dialect needs at the end of it, and nobody else understands.
    pub more: serde_json::Value,
}

impl SignIn {
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
    pub(crate) of: Fingerprint,
}
