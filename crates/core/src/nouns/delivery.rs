//! Deliveries: one message each, from the commit that promised it to the provider that took it.

use crate::words::address::{Address, Channel, Login};
use crate::words::id::{ChallengeId, DeliveryId, ProviderId, TemplateId};
use crate::words::secret::Sealed;
use crate::words::time::Timestamp;
use crate::words::wording::Message;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// One message. While it waits it is the only holder of the words, sealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// Its id: the same on every try.
    pub id: DeliveryId,
    /// The challenge whose live code it carries.
    pub challenge: ChallengeId,
    /// By which way.
    pub channel: Channel,
    /// What was ordered, sealed: a resend needs it, and nobody else.
    pub order: Sealed,
    /// How far it has come.
    pub stage: DeliveryStage,
}

/// What a resend needs to know of the first sending. Kept sealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// To whom.
    pub to: Address,
    /// What the application calls the person.
    pub login: Login,
    /// Which words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<TemplateId>,
}

/// What a delivery asks of a provider. Kept sealed, and only until it is taken; words stand there as they always did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Load {
    /// To make a code, and to send it by itself.
    Start {
        /// By which way.
        #[serde(rename = "start")]
        channel: Channel,
        /// To whom.
        to: Address,
    },
    /// To carry these words: the code is ours.
    Words(Arc<Message>),
}

impl Load {
    /// By which way.
    #[must_use]
    pub fn channel(&self) -> Channel {
        match self {
            Self::Words(it) => it.channel,
            Self::Start { channel, .. } => *channel,
        }
    }

    /// To whom.
    #[must_use]
    pub fn to(&self) -> &Address {
        match self {
            Self::Words(it) => &it.to,
            Self::Start { to, .. } => to,
        }
    }
}

/// How far a delivery has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeliveryStage {
    /// Waiting for its next attempt, or leased to a node that makes it. The only stage that holds the words.
    Queued {
        /// When the next attempt may begin. A node that makes one puts it ahead by the length of its lease (invariant 5).
        due_at: Timestamp,
        /// Attempts that were begun.
        attempt: u16,
        /// What it asks ([`Load`]).
        message: Sealed,
    },
    /// A provider took it.
    Sent {
        /// When.
        at: Timestamp,
        /// Which one.
        provider: ProviderId,
        /// What the provider calls it, if it said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        receipt: Option<String>,
    },
    /// Nobody took it, or it was no longer wanted.
    Failed {
        /// When.
        at: Timestamp,
        /// Why, without the address and the words.
        why: String,
    },
}

/// How long a node may take for one attempt before another makes the next. Longer than all legs of a route may take.
pub const LEASE: Duration = Duration::from_secs(20);

/// The pauses between attempts; the last one repeats until the code is over.
const PAUSES_MS: [u64; 5] = [1_000, 2_000, 5_000, 10_000, 20_000];

impl Delivery {
    /// When it may be tried next; nothing once it is over.
    #[must_use]
    pub fn due_at(&self) -> Option<Timestamp> {
        match &self.stage {
            DeliveryStage::Queued { due_at, .. } => Some(*due_at),
            DeliveryStage::Sent { .. } | DeliveryStage::Failed { .. } => None,
        }
    }

    /// The delivery, leased for [`LEASE`] from now; nothing while somebody else holds it, and when it is over.
    #[must_use]
    pub fn leased(self, now: Timestamp) -> Option<Self> {
        match self.stage {
            DeliveryStage::Queued { due_at, attempt, message } if due_at <= now => {
                let stage = DeliveryStage::Queued { due_at: now + LEASE, attempt: attempt.saturating_add(1), message };
                Some(Self { stage, ..self })
            }
            DeliveryStage::Queued { .. } | DeliveryStage::Sent { .. } | DeliveryStage::Failed { .. } => None,
        }
    }

    /// The delivery after an attempt that may succeed later: `asked` is what the provider wished, if it did.
    #[must_use]
    pub fn postponed(self, now: Timestamp, asked: Option<Duration>) -> Self {
        let DeliveryStage::Queued { attempt, message, .. } = self.stage else { return self };
        let planned = Duration::from_millis(PAUSES_MS[usize::from(attempt.saturating_sub(1)).min(PAUSES_MS.len() - 1)]);
        let pause = asked.map_or(planned, |asked| asked.max(planned));
        Self { stage: DeliveryStage::Queued { due_at: now + pause, attempt, message }, ..self }
    }

    /// The delivery at its end. The words are gone.
    #[must_use]
    pub fn over(self, stage: DeliveryStage) -> Self {
        Self { stage, ..self }
    }
}
