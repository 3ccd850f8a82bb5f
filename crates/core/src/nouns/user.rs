//! Users: the people, as one realm knows them.

use crate::words::address::{Fingerprint, Login};
use crate::words::id::{ClientId, UserId};
use crate::words::time::Timestamp;
use serde::{Deserialize, Serialize};

/// Who shares a directory of people. Where a dialect separates its clients, each has a realm of its own (invariant 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Realm {
    /// The whole tenant.
    Tenant,
    /// One client of it.
    Client(ClientId),
}

impl Realm {
    /// The bytes by which it takes part in a keyed hash.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Tenant => b"",
            Self::Client(id) => id.as_bytes(),
        }
    }
}

/// A person, as one realm knows them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct User {
    /// Their id.
    pub id: UserId,
    /// Who knows them.
    pub realm: Realm,
    /// What they are called, as it was first written.
    pub login: Login,
    /// By which they are found: the keyed hash of realm and canonical login. Unique in the tenant.
    pub named: Fingerprint,
    /// Since when.
    pub created_at: Timestamp,
}
