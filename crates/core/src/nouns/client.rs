//! Clients: the applications that call the API.

use crate::words::id::ClientId;
use crate::words::secret::Mac;
use crate::words::time::Timestamp;
use serde::{Deserialize, Serialize};

/// An application with credentials of its own, which are kept as keyed hashes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Client {
    /// Its id within the house.
    pub id: ClientId,
    /// What it calls itself at the token endpoint: `client_id`. Unique in the whole house.
    pub client_id: String,
    /// What people call it.
    pub name: String,
    /// The registration under which its users are named (CIAM contract §4.1: `APM0000003$jdoe`).
    pub application: String,
    /// The keyed hashes of its secrets: two while one is being replaced by another.
    pub secrets: Vec<Mac>,
    /// Who its letters are from, instead of the tenant's sender.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email_from: Option<String>,
    /// Switched off: it gets no tokens, and those it has stop working.
    #[serde(default)]
    pub disabled: bool,
    /// Since when.
    pub created_at: Timestamp,
}
