//! The Pryv dialect, black box: a server process, a messaging service and, where it stands in front of one, a core.
//!
//! Each file is one section of the wire contract, each test one of its tables, each row of which has a name. `properties` and `nodes`
//! are the promises that go beyond what the original kept, and `client` is the official library at our door.

mod client;
mod core_stand_in;
mod failures;
mod lifetimes;
mod login;
mod methods;
mod nodes;
mod profile;
mod properties;
mod seed;
mod service;
mod sms_service;
mod stand;
mod stand_ins;
mod templates;
mod transport;
