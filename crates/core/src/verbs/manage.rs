//! Managing: what administrators do. Commands and the console end here.

use super::Core;
use crate::nouns::client::Client;
use crate::nouns::event::Event;
use crate::nouns::provider::ProviderSettings;
use crate::nouns::route::Route;
use crate::nouns::template::Template;
use crate::nouns::tenant::{Policy, Tenant};
use crate::words::address::{Channel, Login};
use crate::words::id::TenantId;
use crate::words::refusal::Error;
use crate::words::secret::Secret;
use crate::words::wording::{Message, Wording};
use std::collections::BTreeMap;

/// What a change to a tenant may touch; what is absent stays.
#[derive(Debug, Clone, Default)]
pub struct TenantChange {
    /// What people read in messages.
    pub display_name: Option<String>,
    /// The rules, all of them.
    pub policy: Option<Policy>,
    /// The routes, all of them.
    pub routes: Option<Vec<Route>>,
    /// Who letters are from; `Some(None)` takes it away.
    pub email_from: Option<Option<String>>,
    /// Who texts are from; `Some(None)` takes it away.
    pub sms_from: Option<Option<String>>,
}

/// What a change to a client may touch; what is absent stays.
#[derive(Debug, Clone, Default)]
pub struct ClientChange {
    /// What people call it.
    pub name: Option<String>,
    /// Who its letters are from; `Some(None)` takes it away.
    pub email_from: Option<Option<String>>,
    /// Whether it is switched off.
    pub disabled: Option<bool>,
}

/// A client to be made.
#[derive(Debug, Clone)]
pub struct NewClient {
    /// What people call it.
    pub name: String,
    /// Its `client_id`; nine letters and digits are drawn when absent (CIAM contract §2).
    pub client_id: Option<String>,
    /// Its secret, when one is brought along from elsewhere; drawn when absent.
    pub secret: Option<Secret>,
    /// The registration under which its users are named; `APM` and seven digits are drawn when absent.
    pub application: Option<String>,
    /// Who its letters are from.
    pub email_from: Option<String>,
}

/// A provider to be made or changed.
#[derive(Debug, Clone)]
pub struct NewProvider {
    /// What commands call it.
    pub name: String,
    /// The channels that it serves.
    pub channels: Vec<Channel>,
    /// `http`, `smtp`, `inbox`.
    pub kind: String,
    /// The settings of its kind.
    pub settings: serde_json::Value,
    /// Its secrets by name. When it is changed, those that are absent stay.
    pub secrets: BTreeMap<String, Secret>,
}

impl Core {
    /// Makes a tenant, with keys of its own.
    ///
    /// # Errors
    /// Refusals: `SettingBad`, `NameTaken`.
    pub async fn create_tenant(&self, name: &str, display_name: &str, policy: Policy) -> Result<Tenant, Error> {
        let _ = (name, display_name, policy);
        todo!()
    }

    /// Changes a tenant.
    ///
    /// # Errors
    /// Refusals: `SettingBad`, `Unknown`.
    pub async fn change_tenant(&self, tenant: TenantId, change: TenantChange) -> Result<Tenant, Error> {
        let _ = (tenant, change);
        todo!()
    }

    /// All tenants, by name.
    ///
    /// # Errors
    /// A fault of the store.
    pub async fn tenants(&self) -> Result<Vec<Tenant>, Error> {
        todo!()
    }

    /// The tenant of this name.
    ///
    /// # Errors
    /// Refusals: `Unknown`.
    pub async fn tenant_named(&self, name: &str) -> Result<Tenant, Error> {
        let _ = name;
        todo!()
    }

    /// Makes a client. The secret is told once, here.
    ///
    /// # Errors
    /// Refusals: `SettingBad`, `NameTaken`, `Unknown`.
    pub async fn create_client(&self, tenant: TenantId, new: NewClient) -> Result<(Client, Secret), Error> {
        let _ = (tenant, new);
        todo!()
    }

    /// Changes a client, named by its `client_id`.
    ///
    /// # Errors
    /// Refusals: `Unknown`.
    pub async fn change_client(&self, tenant: TenantId, client_id: &str, change: ClientChange) -> Result<Client, Error> {
        let _ = (tenant, client_id, change);
        todo!()
    }

    /// Draws another secret for a client. The one before stays valid beside it when `keep` says so, until the next time.
    ///
    /// # Errors
    /// Refusals: `Unknown`.
    pub async fn rotate_client_secret(&self, tenant: TenantId, client_id: &str, keep: bool) -> Result<Secret, Error> {
        let _ = (tenant, client_id, keep);
        todo!()
    }

    /// Removes a client.
    ///
    /// # Errors
    /// Refusals: `Unknown`.
    pub async fn remove_client(&self, tenant: TenantId, client_id: &str) -> Result<(), Error> {
        let _ = (tenant, client_id);
        todo!()
    }

    /// All clients of a tenant, oldest first.
    ///
    /// # Errors
    /// A fault of the store.
    pub async fn clients(&self, tenant: TenantId) -> Result<Vec<Client>, Error> {
        let _ = tenant;
        todo!()
    }

    /// Makes a provider, or changes the one of this name. It is built once, to see whether its settings are right.
    ///
    /// # Errors
    /// Refusals: `SettingBad`, `Unknown`.
    pub async fn put_provider(&self, tenant: TenantId, new: NewProvider) -> Result<ProviderSettings, Error> {
        let _ = (tenant, new);
        todo!()
    }

    /// Removes a provider that no route names.
    ///
    /// # Errors
    /// Refusals: `Unknown`, `SettingBad` when a route still names it.
    pub async fn remove_provider(&self, tenant: TenantId, name: &str) -> Result<(), Error> {
        let _ = (tenant, name);
        todo!()
    }

    /// All providers of a tenant, oldest first.
    ///
    /// # Errors
    /// A fault of the store.
    pub async fn providers(&self, tenant: TenantId) -> Result<Vec<ProviderSettings>, Error> {
        let _ = tenant;
        todo!()
    }

    /// Asks a provider whether it can be reached, without sending anything. A sentence in either case.
    ///
    /// # Errors
    /// Refusals: `Unknown`.
    pub async fn probe_provider(&self, tenant: TenantId, name: &str) -> Result<Result<String, String>, Error> {
        let _ = (tenant, name);
        todo!()
    }

    /// Sends a message by one provider, as a test. The provider's receipt, or what it said, in a sentence.
    ///
    /// # Errors
    /// Refusals: `Unknown`.
    pub async fn send_test(&self, tenant: TenantId, provider: &str, message: Message) -> Result<Result<String, String>, Error> {
        let _ = (tenant, provider, message);
        todo!()
    }

    /// Makes a template, or changes the one of this name, channel and client. It is filled in once, to see whether it can be.
    ///
    /// # Errors
    /// Refusals: `SettingBad`, `TemplateBroken`, `Unknown` (the client).
    pub async fn put_template(
        &self,
        tenant: TenantId,
        client_id: Option<&str>,
        name: &str,
        channel: Channel,
        wording: Wording,
    ) -> Result<Template, Error> {
        let _ = (tenant, client_id, name, channel, wording);
        todo!()
    }

    /// Removes a template.
    ///
    /// # Errors
    /// Refusals: `Unknown`.
    pub async fn remove_template(&self, tenant: TenantId, client_id: Option<&str>, name: &str, channel: Channel) -> Result<(), Error> {
        let _ = (tenant, client_id, name, channel);
        todo!()
    }

    /// All templates of a tenant, oldest first.
    ///
    /// # Errors
    /// A fault of the store.
    pub async fn templates(&self, tenant: TenantId) -> Result<Vec<Template>, Error> {
        let _ = tenant;
        todo!()
    }

    /// Clears a person's wrong codes for one kind of factor (invariant 2).
    ///
    /// # Errors
    /// Refusals: `Unknown` (the client).
    pub async fn unlock(&self, tenant: TenantId, client_id: &str, login: &Login, channel: Channel) -> Result<(), Error> {
        let _ = (tenant, client_id, login, channel);
        todo!()
    }

    /// The newest events of a tenant, newest first.
    ///
    /// # Errors
    /// A fault of the store.
    pub async fn events(&self, tenant: TenantId, most: u32) -> Result<Vec<Event>, Error> {
        let _ = (tenant, most);
        todo!()
    }

    /// One round of retention over all tenants, in bounded steps. Gives the rows removed.
    ///
    /// # Errors
    /// A fault of the store.
    pub async fn sweep(&self) -> Result<u64, Error> {
        todo!()
    }
}
