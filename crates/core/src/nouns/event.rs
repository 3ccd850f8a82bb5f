//! Events: the audit trail. They name things by their ids, so there is nothing in them to hide (invariant 7).

use crate::nouns::sign_in::Finishes;
use crate::words::address::{Channel, Fingerprint};
use crate::words::id::{ChallengeId, ClientId, DeliveryId, EventId, FactorId, ProviderId, TemplateId, TenantId, UserId};
use crate::words::time::Timestamp;
use serde::{Deserialize, Serialize};

/// Something that happened, written in the same change as what it tells of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its id, ordered by time.
    pub id: EventId,
    /// When.
    pub at: Timestamp,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// The things that happen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
#[expect(missing_docs, reason = "the fields are ids of what the variant names, or counts of it")]
pub enum What {
    /// A challenge was opened.
    Opened { challenge: ChallengeId, channel: Channel },
    /// It has another code now.
    Resent { challenge: ChallengeId, delivery: DeliveryId },
    /// A right answer came.
    Passed { challenge: ChallengeId },
    /// A wrong answer came.
    Wrong { challenge: ChallengeId, attempts_left: u8 },
    /// The last wrong answer came, or the account was locked by it.
    Spent { challenge: ChallengeId },
    /// An answer came too late.
    Expired { challenge: ChallengeId },
    /// Requests are refused from now on, because there were too many.
    RefusedSends { channel: Channel },
    /// A provider took a message.
    Sent { delivery: DeliveryId, provider: ProviderId },
    /// A message will be tried again.
    Postponed { delivery: DeliveryId, attempt: u16 },
    /// Nobody took a message.
    Undelivered { delivery: DeliveryId, why: String },
    /// A person began to enrol a factor.
    Enrolling { user: UserId, factor: FactorId },
    /// A factor was proven and is in use.
    Enrolled { factor: FactorId },
    /// A factor was removed.
    Removed { user: UserId, factor: FactorId },
    /// A person who has shown a first factor began to sign in.
    SignInBegun { user: Fingerprint, finishes: Finishes },
    /// The service that checks its own codes gave no verdict; the attempt is paid unless nothing reached it.
    Unjudged { challenge: ChallengeId, is_paid: bool },
    /// A wrong recovery code, or a wrong password, came.
    Denied { user: Fingerprint },
    /// A person used a recovery code, and has no second factor any more.
    Recovered { user: Fingerprint },
    /// A person is logged in with an application.
    LoggedIn { user: Fingerprint },
    /// A person has logged out.
    LoggedOut { user: Fingerprint },
    /// A person was made, or their password or profile was changed.
    AccountSaved { user: UserId },
    /// An administrator removed a person.
    AccountRemoved { user: UserId },
    /// An administrator cleared a person's wrong codes.
    Unlocked { channel: Channel },
    /// A backup was restored, and what was open in it was ended.
    Restored {
        made_at: Timestamp,
        challenges: u64,
        deliveries: u64,
        authenticators: u64,
        #[serde(default)]
        sign_ins: u64,
    },
    /// An administrator made or changed a tenant.
    TenantSaved { tenant: TenantId },
    /// An administrator made, changed or switched a client.
    ClientSaved { client: ClientId },
    /// An administrator removed a client.
    ClientRemoved { client: ClientId },
    /// An administrator made or changed a provider.
    ProviderSaved { provider: ProviderId },
    /// An administrator removed a provider.
    ProviderRemoved { provider: ProviderId },
    /// An administrator made or changed a template.
    TemplateSaved { template: TemplateId },
    /// An administrator removed a template.
    TemplateRemoved { template: TemplateId },
}
