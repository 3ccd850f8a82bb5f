//! What the house knows of its tenants and clients without asking again: policy, keys, routes, providers, words.
//!
//! Everything here is a copy. The store has one stamp for all of it, which grows with every change ([`Store::stamp`](crate::ports::Store::stamp)); a copy bears
//! the stamp that was known before it was read, and is good while the stamp is the same. The stamp is looked at when the last look
//! is [`FRESH`] old, so that a change made on any node, or by a command, holds everywhere within seconds; and however many tenants
//! are at work, what nobody changed is not read again.

use super::{Core, Scope};
use crate::nouns::client::Client;
use crate::nouns::provider::ProviderSettings;
use crate::nouns::route;
use crate::nouns::template::{DEFAULT, Template};
use crate::nouns::tenant::Tenant;
use crate::nouns::user::Realm;
use crate::ports::{Key, Listing, Provider, Record, Version};
use crate::words::address::{Address, Channel};
use crate::words::id::{ClientId, ProviderId, TenantId};
use crate::words::refusal::{Error, Fault, Refusal};
use crate::words::secret::{DoesNotOpen, Mac, Place, Secret, TenantKeys};
use crate::words::time::Timestamp;
use crate::words::wording::Wording;
use quick_cache::{UnitWeighter, sync::Cache};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// How old the last look at the stamp may be, and so how long a change may take until it holds on another node.
pub const FRESH: Duration = Duration::from_secs(2);

/// From when on one caller looks at the stamp anew, while the others go on with the last look: under load one waits for it, and
/// it is asked for once and not by everybody at the same moment.
const AHEAD: Duration = Duration::from_secs(1);

/// How old a copy may be, whatever the stamp says. An older program that still runs beside this one changes tenants without counting;
/// and a database that was set back, or that lost its last changes with its primary, counts up to the same number again.
const LONGEST: Duration = Duration::from_secs(30);

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

    /// Whether the providers of a route make and check codes by themselves. The first one that can be used says it for all: the others
    /// cannot take its place unless they do likewise.
    pub(crate) fn makes_own_codes(&self, channel: Channel, to: &Address) -> bool {
        let legs = route::legs(&self.tenant.routes, channel, to).iter();
        let mut usable = legs.filter_map(|leg| self.carrier(*leg, channel)?.provider().ok());
        matches!(usable.next(), Some(Provider::Verifies(_)))
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

/// What was found at a look.
#[derive(Debug, Clone, Copy)]
struct Look {
    /// When it began.
    at: Timestamp,
    stamp: i64,
}

impl Look {
    /// A look from the future is none: the clock was set back, and nobody knows how old it is.
    fn is_younger_than(&self, span: Duration, now: Timestamp) -> bool {
        self.at <= now && now.since(self.at) < span
    }
}

/// What was read, and the stamp that was known before; nothing, when there was nothing.
#[derive(Debug, Clone)]
struct Copied<T> {
    read: Look,
    what: Option<T>,
}

impl<T> Copied<T> {
    /// `present` is a look at the stamp that still holds.
    fn is_good(&self, present: &Look) -> bool {
        self.read.stamp == present.stamp && self.read.is_younger_than(LONGEST, present.at)
    }
}

/// The looks at the stamp.
#[derive(Debug, Default)]
struct Looks {
    last: Option<Look>,
    /// Whether somebody looks already, while the last look still holds.
    is_anew: bool,
    /// How often everything was forgotten. A look that began before that tells nothing about after it.
    forgotten: u64,
}

/// The copies.
pub(crate) struct Knows {
    looks: Mutex<Looks>,
    tenants: Cache<TenantId, Copied<Arc<Standing>>>,
    clients: Cache<(TenantId, ClientId), Copied<Arc<Client>>>,
    named: Cache<String, Copied<(TenantId, ClientId)>>,
    speaking: Cache<&'static str, Copied<Speakers>>,
}

/// The tenants that have told a dialect something, by name, and what they have told it. The same copy is the same allocation.
pub type Speakers = Arc<Vec<(TenantId, serde_json::Value)>>;

impl Default for Knows {
    fn default() -> Self {
        // Room is made as it is needed: most houses have one tenant.
        Self {
            looks: Mutex::default(),
            tenants: Cache::with_weighter(16, TENANTS, UnitWeighter),
            clients: Cache::with_weighter(16, CLIENTS, UnitWeighter),
            named: Cache::with_weighter(16, CLIENTS, UnitWeighter),
            speaking: Cache::new(16),
        }
    }
}

impl Knows {
    /// Forgets everything: the next look is at the store. For the node on which an administrator made the change.
    pub(crate) fn forget(&self) {
        let mut looks = self.looks();
        *looks = Looks { forgotten: looks.forgotten + 1, ..Looks::default() };
        drop(looks);
        self.tenants.clear();
        self.clients.clear();
        self.named.clear();
        self.speaking.clear();
    }

    fn looks(&self) -> MutexGuard<'_, Looks> {
        self.looks.lock().expect("nobody panics while holding it")
    }
}

impl Core {
    /// The tenant, with every change that is older than [`FRESH`].
    ///
    /// # Errors
    /// A fault of the store, or keys that the master key does not open.
    pub async fn standing(&self, id: TenantId) -> Result<Option<Arc<Standing>>, Fault> {
        let present = self.present().await?;
        let before = self.0.knows.tenants.get(&id);
        if let Some(copied) = &before
            && copied.is_good(&present)
        {
            return Ok(copied.what.clone());
        }
        let what = match self.store().find(id, Key::Tenant).await?.map(|held| held.noun) {
            Some(Record::Tenant(tenant)) => Some(Arc::new(self.build(tenant, before.and_then(|it| it.what)).await?)),
            _ => None,
        };
        self.0.knows.tenants.insert(id, Copied { read: present, what: what.clone() });
        Ok(what)
    }

    /// The client, with every change that is older than [`FRESH`].
    ///
    /// # Errors
    /// A fault of the store.
    pub async fn client(&self, tenant: TenantId, id: ClientId) -> Result<Option<Arc<Client>>, Fault> {
        let present = self.present().await?;
        if let Some(copied) = self.0.knows.clients.get(&(tenant, id))
            && copied.is_good(&present)
        {
            return Ok(copied.what);
        }
        let what = match self.store().find(tenant, Key::Client(id)).await?.map(|held| held.noun) {
            Some(Record::Client(client)) => Some(Arc::new(client)),
            _ => None,
        };
        self.0.knows.clients.insert((tenant, id), Copied { read: present, what: what.clone() });
        Ok(what)
    }

    /// The client that calls itself `client_id`, if `secret` is one of its secrets. Whether it is the id or the secret that is
    /// wrong is not told.
    ///
    /// # Errors
    /// [`Refusal::ClientUnknown`] when there is none, it is switched off, or the secret is another; a fault of the store.
    pub async fn authenticate(&self, client_id: &str, secret: &Secret) -> Result<Scope, Error> {
        let Some((tenant, id)) = self.client_named(client_id).await? else { return Err(Refusal::ClientUnknown.into()) };
        let scope = self.scope(tenant, id).await?;
        let client = scope.client.as_ref().ok_or(Refusal::ClientUnknown)?;
        let given = secret_hash(&scope.tenant.keys, id, secret);
        // Every secret is compared, and each comparison takes the same time whichever digit differs.
        let right = client.secrets.iter().fold(false, |right, kept| right | (*kept == given));
        if right { Ok(scope) } else { Err(Refusal::ClientUnknown.into()) }
    }

    async fn client_named(&self, client_id: &str) -> Result<Option<(TenantId, ClientId)>, Fault> {
        if client_id.len() > 128 {
            return Ok(None);
        }
        let present = self.present().await?;
        if let Some(copied) = self.0.knows.named.get(client_id)
            && copied.is_good(&present)
        {
            return Ok(copied.what);
        }
        let what = self.store().list(Listing::ClientNamed(client_id.to_owned())).await?.pop().and_then(|it| match it.held.noun {
            Record::Client(client) => Some((it.tenant, client.id)),
            _ => None,
        });
        self.0.knows.named.insert(client_id.to_owned(), Copied { read: present, what });
        Ok(what)
    }

    /// The tenants that speak a dialect: those which have told it something, by name. For dialects in which the tenant is found by the
    /// host that is asked.
    ///
    /// # Errors
    /// A fault of the store.
    pub async fn speaking(&self, dialect: &'static str) -> Result<Speakers, Fault> {
        let present = self.present().await?;
        if let Some(copied) = self.0.knows.speaking.get(dialect)
            && copied.is_good(&present)
        {
            return Ok(copied.what.unwrap_or_default());
        }
        let tenants = self.store().list(Listing::Tenants).await?.into_iter().filter_map(|it| match it.held.noun {
            Record::Tenant(tenant) => tenant.dialects.get(dialect).map(|told| (tenant.id, told.clone())),
            _ => None,
        });
        let what = Arc::new(tenants.collect::<Vec<_>>());
        self.0.knows.speaking.insert(dialect, Copied { read: present, what: Some(what.clone()) });
        Ok(what)
    }

    /// A look at the stamp that is younger than [`FRESH`].
    async fn present(&self) -> Result<Look, Fault> {
        let now = self.now();
        let (last, forgotten) = {
            let mut looks = self.0.knows.looks();
            let last = looks.last.filter(|it| it.is_younger_than(FRESH, now));
            if let Some(last) = last
                && (looks.is_anew || last.is_younger_than(AHEAD, now))
            {
                return Ok(last);
            }
            looks.is_anew = true;
            (last, looks.forgotten)
        };
        let look = match (self.store().stamp().await, last) {
            (Ok(stamp), _) => Look { at: now, stamp },
            (Err(_), Some(last)) if last.is_younger_than(FRESH, self.now()) => return Ok(last),
            (Err(fault), _) => return Err(fault),
        };
        let mut looks = self.0.knows.looks();
        // Of two that looked at the same time, the one that began later has seen more; unless it was later by a clock that has
        // been set back since.
        let is_seen = looks.last.is_some_and(|it| look.at < it.at && it.at <= self.now());
        if looks.forgotten == forgotten && !is_seen {
            looks.last = Some(look);
            looks.is_anew = false;
        }
        Ok(look)
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
