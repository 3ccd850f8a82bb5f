//! Nouns: what there is, and the rules of each. A rule takes a noun and gives the noun as it is afterwards; it reads nothing else.

pub mod challenge;
pub mod client;
pub mod delivery;
pub mod event;
pub mod factor;
pub mod limit;
pub mod provider;
pub mod route;
pub mod sign_in;
pub mod template;
pub mod tenant;
pub mod totp;
pub mod user;
