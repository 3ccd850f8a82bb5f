//! Replacing the master key, while everybody goes on.
//!
//! Owns how a tenant's data keys come from the old key to the present one. They stay the same keys: what they have sealed and hashed stays
//! as it is, so a code that was open before is accepted after. Nodes have both keys meanwhile, and notice nothing.

use super::{Core, Judged};
use crate::nouns::event::What;
use crate::nouns::tenant::Tenant;
use crate::ports::{Change, Key, Record, Seen};
use crate::words::refusal::{Error, Refusal};
use std::collections::BTreeMap;

/// What opens a tenant's keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenedBy {
    /// The present master key.
    Present,
    /// The old one, for some of them at least. Without it the tenant could not be served.
    Old,
    /// Neither.
    Nobody,
}

impl Core {
    /// Which master key opens the keys of a tenant.
    #[must_use]
    pub fn opened_by(&self, tenant: &Tenant) -> OpenedBy {
        if !self.opens(tenant) {
            return OpenedBy::Nobody;
        }
        let by_present = tenant.keys.iter().all(|it| it.is_of_present(tenant.id, &self.0.with.master));
        if by_present { OpenedBy::Present } else { OpenedBy::Old }
    }

    /// Wraps the keys of a tenant with the present master key. Says whether there was any that was not.
    ///
    /// # Errors
    /// Refusals: `Unknown`. A fault when one of its keys opens with neither master key.
    pub async fn rotate(&self, tenant: &Tenant) -> Result<bool, Error> {
        let id = tenant.id;
        let mut anew = BTreeMap::new();
        for key in &tenant.keys {
            if let Some(wrapped) = key.wrapped_anew(id, &self.0.with.master, self.chance())? {
                anew.insert(key.id, wrapped);
            }
        }
        if anew.is_empty() {
            return Ok(false);
        }
        let event = self.event(self.now(), What::TenantSaved { tenant: id });
        let judge = move |seen: &mut Seen| {
            let Some(held) = seen.tenant() else { return Judged::Write(Change::none(), Err(Refusal::Unknown("tenant"))) };
            let mut it = held.noun;
            // A key that has come meanwhile stays as it is: it was wrapped by a present key.
            for key in &mut it.keys {
                if let Some(wrapped) = anew.get(&key.id) {
                    *key = wrapped.clone();
                }
            }
            Judged::Write(Change::none().replace(Record::Tenant(it), held.version).tell(event.clone()), Ok(()))
        };
        self.managed(id, vec![Key::Tenant], judge).await?;
        Ok(true)
    }
}
