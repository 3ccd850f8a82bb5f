//! Templates: a tenant's or client's own words, chosen by name.

use crate::nouns::user::Realm;
use crate::words::address::Channel;
use crate::words::id::TemplateId;
use crate::words::time::Timestamp;
use crate::words::wording::Wording;
use serde::{Deserialize, Serialize};

/// The name of the words that are used when a request names none.
pub const DEFAULT: &str = "default";

/// One set of words for one channel.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Template {
    /// Its id.
    pub id: TemplateId,
    /// Who may use it: all clients, or one of them, whose own goes before.
    pub realm: Realm,
    /// What requests call it (`templateName`); [`DEFAULT`] for those that name none.
    pub name: String,
    /// The channel that it is for.
    pub channel: Channel,
    /// The words.
    pub wording: Wording,
    /// Since when.
    pub created_at: Timestamp,
}
