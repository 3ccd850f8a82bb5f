//! Retention's rounds through what has no order of age.

use countersign_core::words::id::TenantId;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Where each tenant's round through its limits has come to. Limits have no order of age, so they are walked by key.
#[derive(Debug, Default)]
pub(crate) struct Walks(Mutex<HashMap<TenantId, [u8; 16]>>);

impl Walks {
    pub(crate) fn at(&self, tenant: TenantId) -> Option<[u8; 16]> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&tenant).copied()
    }

    pub(crate) fn go_on(&self, tenant: TenantId, after: Option<[u8; 16]>) {
        let mut walks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match after {
            Some(id) => walks.insert(tenant, id),
            None => walks.remove(&tenant),
        };
    }
}
