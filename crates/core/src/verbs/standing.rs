//! What the house knows of its tenants and clients without asking again: policy, keys, routes, providers, words.
//!
//! Everything here is a copy that is at most [`FRESH`] old, so that a change made on any node, or by a command, holds
//! everywhere within seconds, and no request pays for reading it.

use super::{Core, Scope};
use crate::nouns::client::Client;
use crate::nouns::provider::ProviderSettings;
use crate::nouns::template::{DEFAULT, Template};
use crate::nouns::tenant::Tenant;
use crate::nouns::user::Realm;
use crate::ports::{Key, Listing, Provider, Record, Version};
use crate::words::address::Channel;
use crate::words::id::{ClientId, ProviderId, TenantId};
use crate::words::refusal::{Error, Fault, Refusal};
use crate::words::secret::{DoesNotOpen, Mac, Place, Secret, TenantKeys};
use crate::words::time::Timestamp;
use crate::words::wording::Wording;
use quick_cache::{UnitWeighter, sync::Cache};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How old a copy may be.
pub const FRESH: Duration = Duration::from_secs(2);

/// Tenants and clients that are remembered at a time; the least used are forgotten first.
const TENANTS: u64 = 20_000;
const CLIENTS: u64 = 50_000;

/// A tenant, with everything that it has decided, ready for use.
#[derive(Debug)]
pub struct Standing {
    /// The tenant.
    pub tenant: Tenant,
    /// Its keys, opened.
    pub keys: TenantKeys,
    /// Its words.
    pub templates: Vec<Template>,
    providers: Vec<Arc<Built>>,
}

/// A provider made out of its settings.
#[derive(Debug)]
pub struct Built {
    /// Which provider.
    pub id: ProviderId,
    /// What commands call it.
    pub name: String,
    version: Version,
    channels: Vec<Channel>,
    provider: Result<Provider, String>,
}

impl Standing {
    /// The words for `channel` that `realm` knows by `name`: its own before the tenant's. The standard words where a
    /// request names none and none are called [`DEFAULT`].
    ///
    /// # Errors
    /// [`Refusal::TemplateUnknown`] when a name was given and nothing has it.
    pub fn template(&self, realm: Realm, channel: Channel, name: Option<&str>) -> Result<Option<&Template>, Refusal> {
        let called = |wanted: &str| {
            let of = |realm: Realm| {
                self.templates.iter().find(move |it| it.realm == realm && it.channel == channel && it.name.eq_ignore_ascii_case(wanted))
            };
            of(realm).or_else(|| of(Realm::Tenant))
        };
        match name {
            Some(name) => called(name).map(Some).ok_or(Refusal::TemplateUnknown),
            None => Ok(called(DEFAULT)),
        }
    }

    /// The words of a template, or the standard ones.
    #[must_use]
    pub fn wording<'a>(template: Option<&'a Template>, channel: Channel) -> Cow<'a, Wording> {
        template.map_or_else(|| Cow::Owned(Wording::standard(channel)), |it| Cow::Borrowed(&it.wording))
    }

    pub(crate) fn carrier(&self, id: ProviderId, channel: Channel) -> Option<&Arc<Built>> {
        self.providers.iter().find(|it| it.id == id && it.channels.contains(&channel))
    }
}

impl Built {
    /// The provider.
    ///
    /// # Errors
    /// What is wrong with its settings.
    pub fn provider(&self) -> Result<&Provider, &str> {
        self.provider.as_ref().map_err(String::as_str)
    }
}

/// What was read, and when; nothing, when there was nothing.
type Copy<T> = (Timestamp, Option<T>);

/// A copy from the future is none: the clock was set back, and nobody knows how old it is.
fn is_fresh(read_at: Timestamp, now: Timestamp) -> bool {
    read_at <= now && now.since(read_at) < FRESH
}

/// The copies.
pub(crate) struct Knows {
    tenants: Cache<TenantId, Copy<Arc<Standing>>>,
    clients: Cache<(TenantId, ClientId), Copy<Arc<Client>>>,
    named: Cache<String, Copy<(TenantId, ClientId)>>,
}

impl Default for Knows {
    fn default() -> Self {
        // Room is made as it is needed: most houses have one tenant.
        Self {
            tenants: Cache::with_weighter(16, TENANTS, UnitWeighter),
            clients: Cache::with_weighter(16, CLIENTS, UnitWeighter),
            named: Cache::with_weighter(16, CLIENTS, UnitWeighter),
        }
    }
}

impl Knows {
    /// Forgets everything: the next look is at the store. For the node on which an administrator made the change.
    pub(crate) fn forget(&self) {
        self.tenants.clear();
        self.clients.clear();
        self.named.clear();
    }
}

impl Core {
    /// The tenant, as of at most [`FRESH`] ago.
    ///
    /// # Errors
    /// A fault of the store, or keys that the master key does not open.
    pub async fn standing(&self, id: TenantId) -> Result<Option<Arc<Standing>>, Fault> {
        let now = self.now();
        let before = self.0.knows.tenants.get(&id);
        if let Some((read_at, known)) = &before
            && is_fresh(*read_at, now)
        {
            return Ok(known.clone());
        }
        let known = match self.store().find(id, Key::Tenant).await?.map(|held| held.noun) {
            Some(Record::Tenant(tenant)) => Some(Arc::new(self.build(tenant, before.and_then(|(_, known)| known)).await?)),
            _ => None,
        };
        self.0.knows.tenants.insert(id, (now, known.clone()));
        Ok(known)
    }

    /// The client, as of at most [`FRESH`] ago.
    ///
    /// # Errors
    /// A fault of the store.
    pub async fn client(&self, tenant: TenantId, id: ClientId) -> Result<Option<Arc<Client>>, Fault> {
        let now = self.now();
        if let Some((read_at, known)) = self.0.knows.clients.get(&(tenant, id))
            && is_fresh(read_at, now)
        {
            return Ok(known);
        }
        let known = match self.store().find(tenant, Key::Client(id)).await?.map(|held| held.noun) {
            Some(Record::Client(client)) => Some(Arc::new(client)),
            _ => None,
        };
        self.0.knows.clients.insert((tenant, id), (now, known.clone()));
        Ok(known)
    }

    /// The client that calls itself `client_id`, if `secret` is one of its secrets. Whether it is the id or the secret that is
    /// wrong is not told.
    ///
    /// # Errors
    /// [`Refusal::ClientUnknown`] when there is none, it is switched off, or the secret is another; a fault of the store.
    pub async fn authenticate(&self, client_id: &str, secret: &Secret) -> Result<Scope, Error> {
        let Some((tenant, id)) = self.client_named(client_id).await? else { return Err(Refusal::ClientUnknown.into()) };
        let scope = self.scope(tenant, id).await?;
        let given = secret_hash(&scope.tenant.keys, id, secret);
        // Every secret is compared, and each comparison takes the same time whichever digit differs.
        let right = scope.client.secrets.iter().fold(false, |right, kept| right | (*kept == given));
        if right { Ok(scope) } else { Err(Refusal::ClientUnknown.into()) }
    }

    async fn client_named(&self, client_id: &str) -> Result<Option<(TenantId, ClientId)>, Fault> {
        let now = self.now();
        if let Some((read_at, known)) = self.0.knows.named.get(client_id)
            && is_fresh(read_at, now)
        {
            return Ok(known);
        }
        if client_id.len() > 128 {
            return Ok(None);
        }
        let known = self.store().list(Listing::ClientNamed(client_id.to_owned())).await?.pop().and_then(|it| match it.held.noun {
            Record::Client(client) => Some((it.tenant, client.id)),
            _ => None,
        });
        self.0.knows.named.insert(client_id.to_owned(), (now, known));
        Ok(known)
    }

    /// The key that signs the tenant's access tokens (PKCS#8, ES256).
    ///
    /// # Errors
    /// A key that does not open.
    pub fn signing_key(&self, standing: &Standing) -> Result<Vec<u8>, Fault> {
        Ok(standing.keys.open_sealed(signing_place(&standing.tenant.id), &standing.tenant.signing_key)?)
    }

    async fn build(&self, tenant: Tenant, before: Option<Arc<Standing>>) -> Result<Standing, Fault> {
        let keys = TenantKeys::open(tenant.id, &tenant.keys, &self.0.with.master)?;
        let providers = self.store().list(Listing::Providers(tenant.id)).await?;
        let templates = self.store().list(Listing::Templates(tenant.id)).await?;
        let providers = providers.into_iter().filter_map(|it| match it.held.noun {
            Record::Provider(settings) => Some((settings, it.held.version)),
            _ => None,
        });
        let known = |id: ProviderId, version: Version| {
            before.as_ref().and_then(|before| before.providers.iter().find(|it| it.id == id && it.version == version).cloned())
        };
        let providers = providers
            .map(|(settings, version)| {
                known(settings.id, version).unwrap_or_else(|| Arc::new(self.build_provider(&keys, &settings, version)))
            })
            .collect();
        let templates = templates.into_iter().filter_map(|it| match it.held.noun {
            Record::Template(template) => Some(template),
            _ => None,
        });
        Ok(Standing { tenant, templates: templates.collect(), providers, keys })
    }

    fn build_provider(&self, keys: &TenantKeys, settings: &ProviderSettings, version: Version) -> Built {
        let provider = open_secrets(keys, settings)
            .map_err(|_| "its secrets do not open with this master key: set them again".to_owned())
            .and_then(|secrets| self.0.with.carriers.build(settings, secrets));
        if let Err(why) = &provider {
            tracing::error!(provider.id = %settings.id, "Provider {} cannot be used: {why}", settings.name);
        }
        Built { id: settings.id, name: settings.name.clone(), version, channels: settings.channels.clone(), provider }
    }
}

/// The keyed hash under which a client's secret is kept.
pub(crate) fn secret_hash(keys: &TenantKeys, client: ClientId, secret: &Secret) -> Mac {
    keys.mac("client secret", &[client.as_bytes(), secret.reveal().as_bytes()])
}

pub(crate) fn signing_place(tenant: &TenantId) -> Place<'_> {
    Place { noun: "tenant", id: tenant.as_bytes(), field: "signing_key" }
}

pub(crate) fn secret_place<'a>(provider: &'a ProviderId, name: &'a str) -> Place<'a> {
    Place { noun: "provider", id: provider.as_bytes(), field: name }
}

pub(crate) fn open_secrets(keys: &TenantKeys, settings: &ProviderSettings) -> Result<BTreeMap<String, Secret>, DoesNotOpen> {
    let open = |(name, sealed): (&String, _)| {
        let plain = keys.open_sealed(secret_place(&settings.id, name), sealed)?;
        Ok((name.clone(), Secret::new(String::from_utf8(plain).map_err(|_| DoesNotOpen)?)))
    };
    settings.secrets.iter().map(open).collect()
}
