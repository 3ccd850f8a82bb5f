//! Where a request stands: the tenant, the contract that is spoken, and the person.

use super::settings::Settings;
use countersign_core::Scope;
use countersign_core::words::address::Login;
use countersign_core::words::id::AccessId;
use std::sync::{Arc, OnceLock};

/// Where a request stands.
#[derive(Debug, Clone)]
pub(super) struct At {
    pub scope: Scope,
    pub settings: Arc<Settings>,
    /// Which contract is spoken with this caller.
    pub speaks: Contract,
    /// The person that the host or the path names.
    pub username: Option<Username>,
    /// The access of ours that was looked up, if one was.
    pub access: OnceLock<AccessId>,
}

/// Which of the two contracts (contract §0).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Contract {
    V1,
    V2,
}

/// What a person is called in a path or host.
#[derive(Debug, Clone)]
pub(super) struct Username {
    /// As it was sent.
    pub text: String,
    pub login: Login,
}

impl Username {
    /// Letters, digits and hyphens: what can be a label of a host, in any case.
    pub fn parse(text: &str) -> Option<Self> {
        let fits = (1..=60).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        fits.then(|| Login::parse(text).ok()).flatten().map(|login| Self { text: text.to_owned(), login })
    }
}
