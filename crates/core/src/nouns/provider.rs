//! Providers as they are configured. What they can do is [`Provider`](crate::ports::Provider).

use crate::words::address::Channel;
use crate::words::id::ProviderId;
use crate::words::secret::Sealed;
use crate::words::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One configured carrier of messages. What its settings mean, only its kind knows.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProviderSettings {
    /// Its id.
    pub id: ProviderId,
    /// What commands call it; unique in the tenant.
    pub name: String,
    /// The channels that it serves.
    pub channels: Vec<Channel>,
    /// `http`, `smtp`, `inbox`.
    pub kind: String,
    /// The settings of its kind, without secrets.
    pub settings: serde_json::Value,
    /// Its secrets by name, sealed.
    #[serde(default)]
    pub secrets: BTreeMap<String, Sealed>,
    /// Since when.
    pub created_at: Timestamp,
}
