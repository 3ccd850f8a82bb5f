//! Nouns: what there is, and the rules of each as pure functions. A change consumes the old and returns the new.

pub mod challenge;
pub mod client;
pub mod delivery;
pub mod event;
pub mod factor;
pub mod limit;
pub mod provider;
pub mod route;
pub mod template;
pub mod tenant;
pub mod totp;
pub mod user;
