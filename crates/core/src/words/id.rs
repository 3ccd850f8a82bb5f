//! Ids: what a thing is called, and of what kind it is.
//!
//! Every id is a `UUIDv7` (RFC 9562 §5.7), so that keys are ordered by time: the engines append instead of
//! scattering, and retention removes from one end. An id may be seen by anybody; it proves nothing.

use crate::ports::Chance;
use crate::words::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;
use uuid::Uuid;

/// The text is not an id of the kind that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a valid id")]
pub struct BadId;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// What the id begins with when it is shown.
            pub const PREFIX: &'static str = $prefix;

            /// A new id, ordered by `now`.
            #[must_use]
            pub fn new(now: Timestamp, chance: &dyn Chance) -> Self {
                let mut random = [0u8; 10];
                chance.fill(&mut random);
                Self(uuid::Builder::from_unix_timestamp_millis(now.as_millis().unsigned_abs(), &random).into_uuid())
            }

            /// The smallest id that could have been drawn at `at`: retention removes what is below it.
            #[must_use]
            pub fn floor(at: Timestamp) -> Self {
                Self(uuid::Builder::from_unix_timestamp_millis(at.as_millis().max(0).unsigned_abs(), &[0; 10]).into_uuid())
            }

            /// Reads the form with prefix, as our own interface shows it.
            ///
            /// # Errors
            /// [`BadId`] when the prefix is another one, or what follows is not a UUID.
            pub fn parse(text: &str) -> Result<Self, BadId> {
                let bare = text.strip_prefix(Self::PREFIX).ok_or(BadId)?;
                if bare.len() != 32 { return Err(BadId) }
                Uuid::try_parse(bare).map(Self).map_err(|_| BadId)
            }

            /// Reads the hyphenated UUID that dialects show (CIAM's `authId`).
            ///
            /// # Errors
            /// [`BadId`] for anything but 36 characters of a hyphenated UUID.
            pub fn parse_uuid(text: &str) -> Result<Self, BadId> {
                if text.len() != 36 { return Err(BadId) }
                Uuid::try_parse(text).map(Self).map_err(|_| BadId)
            }

            /// The hyphenated UUID, for dialects whose ids look so.
            #[must_use]
            pub fn uuid(&self) -> Uuid { self.0 }

            /// The sixteen bytes that engines keep.
            #[must_use]
            pub fn as_bytes(&self) -> &[u8; 16] { self.0.as_bytes() }

            /// Back from what an engine kept.
            #[must_use]
            pub fn from_bytes(bytes: [u8; 16]) -> Self { Self(Uuid::from_bytes(bytes)) }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(Self::PREFIX)?;
                fmt::Display::fmt(self.0.as_simple(), f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { fmt::Display::fmt(self, f) }
        }
    };
}

id!(/// An organisation that keeps its own policy, keys, routes and people. Everything belongs to exactly one.
    TenantId, "tnt_");
id!(/// An application that calls the API.
    ClientId, "cli_");
id!(/// A person, as one realm knows them.
    UserId, "usr_");
id!(/// Something that a person has or is, and can prove.
    FactorId, "fac_");
id!(/// A challenge: the `authId` of the CIAM dialect.
    ChallengeId, "chl_");
id!(/// One message on its way. The same id on every try, so that a receiver can tell a repetition.
    DeliveryId, "dlv_");
id!(/// A person who is logged in with one application.
    AccessId, "acc_");
id!(/// One configured carrier of messages.
    ProviderId, "prv_");
id!(/// One set of words for one channel.
    TemplateId, "tpl_");
id!(/// Something that happened.
    EventId, "evt_");
id!(/// One key of a tenant: sealed values say by which key they were sealed.
    KeyId, "key_");
id!(/// One run of the server, among those that share a store.
    NodeId, "nod_");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::test::Script;

    #[test]
    fn ids_are_ordered_by_time_and_survive_their_text() {
        let chance = Script::default();
        let early = ChallengeId::new(Timestamp::from_millis(1_000), &chance);
        let late = ChallengeId::new(Timestamp::from_millis(1_001), &chance);
        assert!(early < late);
        assert_eq!(ChallengeId::parse(&late.to_string()), Ok(late));
        assert_eq!(ChallengeId::parse_uuid(&late.uuid().to_string()), Ok(late));
        assert_eq!(FactorId::parse(&late.to_string()), Err(BadId));
        assert!(ChallengeId::floor(Timestamp::from_millis(1_001)) <= late);
        assert!(ChallengeId::floor(Timestamp::from_millis(1_001)) > early);
    }
}
