//! Users: the people, as one realm knows them.

use crate::words::address::{Fingerprint, Login};
use crate::words::id::{AccessId, ClientId, UserId};
use crate::words::secret::{Mac, Sealed};
use crate::words::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

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
    /// What they have where the house keeps the directory itself; nothing where an application or another server does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<Account>,
    /// Since when.
    pub created_at: Timestamp,
}

/// A person in a directory of our own.
#[derive(Clone, Serialize, Deserialize)]
pub struct Account {
    /// Argon2id of the password (RFC 9106), in the PHC string format.
    pub password: String,
    /// The language that the person prefers (BCP 47).
    pub language: String,
    /// What applications keep for the person and nobody else: a JSON object, sealed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<Sealed>,
    /// Who is logged in.
    #[serde(default)]
    pub accesses: Vec<Access>,
}

/// A person who is logged in with one application.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Access {
    /// Its id, as applications see it.
    pub id: AccessId,
    /// Which application: its own name for itself.
    pub app: String,
    /// The keyed hash of its token.
    pub mac: Mac,
    /// Since when.
    pub created_at: Timestamp,
    /// Whether it is still of use.
    pub stage: AccessStage,
}

/// Whether an access is still of use.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AccessStage {
    /// It is, unless it was not used for as long as the dialect allows.
    Live {
        /// The token, sealed: a second login with the same application gives the same one (Pryv contract §2).
        token: Sealed,
        /// The last use that was written down.
        used_at: Timestamp,
    },
    /// The person has logged out; a token that ended is told from one that never was.
    Ended,
}

impl Access {
    /// Whether it is of use at `now`, when it lives for `lasts` without being used.
    #[must_use]
    pub fn is_live(&self, now: Timestamp, lasts: Duration) -> bool {
        matches!(&self.stage, AccessStage::Live { used_at, .. } if now < *used_at + lasts)
    }

    /// The last use that was written down; of an access that has ended, its beginning: those make room first.
    #[must_use]
    pub fn used_at(&self) -> Timestamp {
        match &self.stage {
            AccessStage::Live { used_at, .. } => *used_at,
            AccessStage::Ended => self.created_at,
        }
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Account(…)")
    }
}
