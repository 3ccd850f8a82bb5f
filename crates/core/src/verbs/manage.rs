//! Managing: what administrators do. Commands and the console end here.

use super::request::{failures_of, failures_of_address, sends_of_person, sends_to};
use super::standing::{open_secrets, secret_hash, secret_place, signing_place};
use super::{Core, Judged};
use crate::nouns::client::Client;
use crate::nouns::event::{Event, What};
use crate::nouns::provider::ProviderSettings;
use crate::nouns::route::Route;
use crate::nouns::template::Template;
use crate::nouns::tenant::{Policy, Tenant};
use crate::nouns::user::Realm;
use crate::ports::{Chance, Change, Key, Listing, Provider, Record, Seen, Turn};
use crate::words::address::{Address, Channel, EmailAddress, Fingerprint, Login, PhoneNumber};
use crate::words::id::{ClientId, DeliveryId, KeyId, ProviderId, TemplateId, TenantId};
use crate::words::refusal::{Error, Fault, Refusal};
use crate::words::secret::{Code, Secret, TenantKeys, WrappedKey};
use crate::words::wording::{Message, Values, Wording};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use zeroize::Zeroizing;

/// How long a node keeps its turn at retention without prolonging it: as long as another waits when it dies.
const SWEEP_TURN: Duration = Duration::from_secs(60);

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
    /// `http`, `smtp`, `inbox`, `pryv`.
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
        Tenant::check_name(name)?;
        check_display_name(display_name)?;
        policy.check()?;
        let (now, chance) = (self.now(), self.chance());
        let id = TenantId::new(now, chance);
        let keys = vec![WrappedKey::draw(id, KeyId::new(now, chance), &self.0.with.master, chance)];
        let opened = TenantKeys::open(id, &keys, &self.0.with.master)?;
        let tenant = Tenant {
            id,
            name: name.to_owned(),
            display_name: display_name.trim().to_owned(),
            policy,
            signing_key: opened.seal(signing_place(&id), &signing_key()?, chance),
            keys,
            routes: Vec::new(),
            email_from: None,
            sms_from: None,
            dialects: BTreeMap::new(),
            created_at: now,
        };
        self.save(id, Record::Tenant(tenant.clone()), What::TenantSaved { tenant: id }).await?;
        Ok(tenant)
    }

    /// Changes a tenant.
    ///
    /// # Errors
    /// Refusals: `SettingBad`, `Unknown`.
    pub async fn change_tenant(&self, tenant: TenantId, change: TenantChange) -> Result<Tenant, Error> {
        if let Some(policy) = &change.policy {
            policy.check()?;
        }
        if let Some(name) = &change.display_name {
            check_display_name(name)?;
        }
        if let Some(Some(from)) = &change.email_from {
            check_mailbox(from)?;
        }
        if let Some(Some(from)) = &change.sms_from {
            check_sender_id(from)?;
        }
        if let Some(routes) = &change.routes {
            check_routes(routes, &self.providers(tenant).await?)?;
            self.check_abilities(tenant, routes).await?;
        }
        let event = self.event(self.now(), What::TenantSaved { tenant });
        let judge = move |seen: &mut Seen| {
            let Some(held) = seen.tenant() else { return Judged::Write(Change::none(), Err(Refusal::Unknown("tenant"))) };
            let mut it = held.noun;
            let TenantChange { display_name, policy, routes, email_from, sms_from } = change.clone();
            it.display_name = display_name.map_or(it.display_name, |name| name.trim().to_owned());
            it.policy = policy.unwrap_or(it.policy);
            it.routes = routes.unwrap_or(it.routes);
            it.email_from = email_from.unwrap_or(it.email_from);
            it.sms_from = sms_from.unwrap_or(it.sms_from);
            Judged::Write(Change::none().replace(Record::Tenant(it.clone()), held.version).tell(event.clone()), Ok(it))
        };
        self.managed(tenant, vec![Key::Tenant], judge).await
    }

    /// Tells a dialect something else about a tenant, or nothing any more. Only the dialect knows what it means, so only its own
    /// neighbours write it.
    ///
    /// # Errors
    /// Refusals: `SettingBad`, `Unknown`.
    pub async fn set_dialect(&self, tenant: TenantId, dialect: &str, settings: Option<serde_json::Value>) -> Result<Tenant, Error> {
        Tenant::check_name(dialect)?;
        if settings.as_ref().is_some_and(|it| !it.is_object()) {
            return Err(Refusal::SettingBad("the settings of a dialect are a table of names and values".into()).into());
        }
        let (dialect, event) = (dialect.to_owned(), self.event(self.now(), What::TenantSaved { tenant }));
        let judge = move |seen: &mut Seen| {
            let Some(held) = seen.tenant() else { return Judged::Write(Change::none(), Err(Refusal::Unknown("tenant"))) };
            let mut it = held.noun;
            match settings.clone() {
                Some(settings) => it.dialects.insert(dialect.clone(), settings),
                None => it.dialects.remove(&dialect),
            };
            Judged::Write(Change::none().replace(Record::Tenant(it.clone()), held.version).tell(event.clone()), Ok(it))
        };
        self.managed(tenant, vec![Key::Tenant], judge).await
    }

    /// Whether the providers of each route are of one ability: who makes codes by itself cannot take the place of who carries ours.
    async fn check_abilities(&self, tenant: TenantId, routes: &[Route]) -> Result<(), Error> {
        let mut make_codes = BTreeMap::new();
        for settings in self.providers(tenant).await? {
            if let Ok(provider) = self.built(tenant, &settings.name).await? {
                make_codes.insert(settings.id, matches!(provider, Provider::Verifies(_)));
            }
        }
        for route in routes {
            let mut abilities = route.legs.iter().filter_map(|leg| make_codes.get(leg));
            let first = abilities.next();
            if abilities.any(|it| Some(it) != first) {
                let what =
                    format!("the route for {} holds providers that make codes by themselves and such that carry ours", route.channel);
                return Err(Refusal::SettingBad(what).into());
            }
        }
        Ok(())
    }

    /// All tenants, by name.
    ///
    /// # Errors
    /// A fault of the store.
    pub async fn tenants(&self) -> Result<Vec<Tenant>, Error> {
        self.listed(Listing::Tenants, |it| if let Record::Tenant(it) = it { Some(it) } else { None }).await
    }

    /// The tenant of this name.
    ///
    /// # Errors
    /// Refusals: `Unknown`.
    pub async fn tenant_named(&self, name: &str) -> Result<Tenant, Error> {
        let found = self.listed(Listing::TenantNamed(name.to_owned()), |it| if let Record::Tenant(it) = it { Some(it) } else { None });
        found.await?.pop().ok_or_else(|| Refusal::Unknown("tenant").into())
    }

    /// Whether the master key opens the keys of a tenant.
    #[must_use]
    pub fn opens(&self, tenant: &Tenant) -> bool {
        TenantKeys::open(tenant.id, &tenant.keys, &self.0.with.master).is_ok()
    }

    /// Makes a client. The secret is told once, here.
    ///
    /// # Errors
    /// Refusals: `SettingBad`, `NameTaken`, `Unknown`.
    pub async fn create_client(&self, tenant: TenantId, new: NewClient) -> Result<(Client, Secret), Error> {
        let standing = self.standing(tenant).await?.ok_or(Refusal::Unknown("tenant"))?;
        let (now, chance) = (self.now(), self.chance());
        check_display_name(&new.name)?;
        if let Some(from) = &new.email_from {
            check_mailbox(from)?;
        }
        let client_id = match new.client_id {
            Some(given) => checked_client_id(given)?,
            None => draw_text(9, CLIENT_ID, chance),
        };
        let application = match new.application {
            Some(given) => checked_client_id(given)?,
            None => format!("APM{}", draw_text(7, DIGITS, chance)),
        };
        let secret = match new.secret {
            Some(given) if given.reveal().len() < SECRET_LEAST => {
                return Err(Refusal::SettingBad(format!("the secret is too short; it takes at least {SECRET_LEAST} characters")).into());
            }
            Some(given) => given,
            None => draw_secret(chance),
        };
        let id = ClientId::new(now, chance);
        let client = Client {
            id,
            client_id,
            name: new.name.trim().to_owned(),
            application,
            secrets: vec![secret_hash(&standing.keys, id, &secret)],
            email_from: new.email_from,
            disabled: false,
            created_at: now,
        };
        self.save(tenant, Record::Client(client.clone()), What::ClientSaved { client: id }).await?;
        Ok((client, secret))
    }

    /// Changes a client, named by its `client_id`.
    ///
    /// # Errors
    /// Refusals: `SettingBad`, `Unknown`.
    pub async fn change_client(&self, tenant: TenantId, client_id: &str, change: ClientChange) -> Result<Client, Error> {
        if let Some(name) = &change.name {
            check_display_name(name)?;
        }
        if let Some(Some(from)) = &change.email_from {
            check_mailbox(from)?;
        }
        self.edit_client(tenant, client_id, move |it| {
            let ClientChange { name, email_from, disabled } = change.clone();
            it.name = name.unwrap_or_else(|| it.name.clone());
            it.email_from = email_from.unwrap_or_else(|| it.email_from.clone());
            it.disabled = disabled.unwrap_or(it.disabled);
        })
        .await
    }

    /// Draws another secret for a client. The one before stays valid beside it when `keep` says so, until the next time.
    ///
    /// # Errors
    /// Refusals: `Unknown`.
    pub async fn rotate_client_secret(&self, tenant: TenantId, client_id: &str, keep: bool) -> Result<Secret, Error> {
        let standing = self.standing(tenant).await?.ok_or(Refusal::Unknown("tenant"))?;
        let secret = draw_secret(self.chance());
        let told = secret.clone();
        self.edit_client(tenant, client_id, move |it| {
            let newest = secret_hash(&standing.keys, it.id, &secret);
            let before = it.secrets.last().copied().filter(|_| keep);
            it.secrets = before.into_iter().chain([newest]).collect();
        })
        .await?;
        Ok(told)
    }

    /// Removes a client.
    ///
    /// # Errors
    /// Refusals: `Unknown`.
    pub async fn remove_client(&self, tenant: TenantId, client_id: &str) -> Result<(), Error> {
        let id = self.client_of(tenant, client_id).await?.id;
        self.remove(tenant, Key::Client(id), "client", What::ClientRemoved { client: id }).await
    }

    /// All clients of a tenant, oldest first.
    ///
    /// # Errors
    /// A fault of the store.
    pub async fn clients(&self, tenant: TenantId) -> Result<Vec<Client>, Error> {
        self.listed(Listing::Clients(tenant), |it| if let Record::Client(it) = it { Some(it) } else { None }).await
    }

    /// Makes a provider, or changes the one of this name. It is built once, to see whether its settings are right.
    ///
    /// # Errors
    /// Refusals: `SettingBad`, `Unknown`.
    pub async fn put_provider(&self, tenant: TenantId, new: NewProvider) -> Result<ProviderSettings, Error> {
        Tenant::check_name(&new.name)?;
        if new.channels.is_empty() || new.channels.contains(&Channel::Totp) {
            return Err(Refusal::SettingBad("a provider serves one or more of sms, voice, email and external".into()).into());
        }
        let standing = self.standing(tenant).await?.ok_or(Refusal::Unknown("tenant"))?;
        let before = self.provider_of(tenant, &new.name).await?;
        let id = before.as_ref().map_or_else(|| ProviderId::new(self.now(), self.chance()), |it| it.id);
        let mut secrets = before.as_ref().map(|it| it.secrets.clone()).unwrap_or_default();
        for (name, secret) in &new.secrets {
            secrets.insert(name.clone(), standing.keys.seal(secret_place(&id, name), secret.reveal().as_bytes(), self.chance()));
        }
        let settings = ProviderSettings {
            id,
            name: new.name,
            channels: new.channels,
            kind: new.kind,
            settings: new.settings,
            secrets,
            created_at: before.map_or_else(|| self.now(), |it| it.created_at),
        };
        self.0.with.carriers.build(&settings, open_secrets(&standing.keys, &settings)?).map_err(Refusal::SettingBad)?;
        self.put(tenant, Record::Provider(settings.clone()), What::ProviderSaved { provider: id }).await?;
        Ok(settings)
    }

    /// Removes a provider that no route names.
    ///
    /// # Errors
    /// Refusals: `Unknown`, `SettingBad` when a route still names it.
    pub async fn remove_provider(&self, tenant: TenantId, name: &str) -> Result<(), Error> {
        let id = self.provider_of(tenant, name).await?.ok_or(Refusal::Unknown("provider"))?.id;
        let standing = self.standing(tenant).await?.ok_or(Refusal::Unknown("tenant"))?;
        if standing.tenant.routes.iter().any(|route| route.legs.contains(&id)) {
            return Err(Refusal::SettingBad(format!("a route still names {name}; change the route first")).into());
        }
        self.remove(tenant, Key::Provider(id), "provider", What::ProviderRemoved { provider: id }).await
    }

    /// All providers of a tenant, oldest first.
    ///
    /// # Errors
    /// A fault of the store.
    pub async fn providers(&self, tenant: TenantId) -> Result<Vec<ProviderSettings>, Error> {
        self.listed(Listing::Providers(tenant), |it| if let Record::Provider(it) = it { Some(it) } else { None }).await
    }

    /// Asks a provider whether it can be reached, without sending anything. A sentence in either case.
    ///
    /// # Errors
    /// Refusals: `Unknown`.
    pub async fn probe_provider(&self, tenant: TenantId, name: &str) -> Result<Result<String, String>, Error> {
        match self.built(tenant, name).await? {
            Ok(Provider::Sends(it)) => Ok(it.probe().await.map_err(|error| error.to_string())),
            Ok(Provider::Verifies(it)) => Ok(it.probe().await.map_err(|error| error.to_string())),
            Ok(Provider::Rings(_)) => Ok(Ok("nothing to ask before it is used".into())),
            Err(why) => Ok(Err(why)),
        }
    }

    /// Sends a message by one provider, as a test. The provider's receipt, or what it said, in a sentence.
    ///
    /// # Errors
    /// Refusals: `Unknown`.
    pub async fn send_test(&self, tenant: TenantId, provider: &str, message: Message) -> Result<Result<String, String>, Error> {
        let id = DeliveryId::new(self.now(), self.chance());
        match self.built(tenant, provider).await? {
            Ok(Provider::Sends(it)) => match it.send(id, Arc::new(message)).await {
                Ok(receipt) => Ok(Ok(receipt.0.map_or_else(|| "taken".into(), |receipt| format!("taken, as {receipt}")))),
                Err(error) => Ok(Err(error.to_string())),
            },
            Ok(Provider::Verifies(_) | Provider::Rings(_)) => Ok(Err("it carries no messages of ours".into())),
            Err(why) => Ok(Err(why)),
        }
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
        if name.is_empty() || name.chars().count() > 100 || name.chars().any(char::is_control) {
            return Err(Refusal::SettingBad("a template name has 1 to 100 visible characters".into()).into());
        }
        match channel {
            Channel::Totp | Channel::External => {
                return Err(Refusal::SettingBad(format!("no words of ours are sent for {channel}")).into());
            }
            Channel::Email if wording.subject.as_deref().is_none_or(|it| it.trim().is_empty()) => {
                return Err(Refusal::SettingBad("the words of a letter need a subject".into()).into());
            }
            Channel::Sms | Channel::Voice if wording.subject.is_some() || wording.html.is_some() => {
                return Err(Refusal::SettingBad(format!("the words of {channel} have a text only")).into());
            }
            Channel::Email | Channel::Sms | Channel::Voice => {}
        }
        let sample = Code::draw(6, self.chance());
        let values = Values { code: &sample, minutes: 5, tenant: "Example", application: "Example", user: "user" };
        let filled = self.0.with.pen.write(&wording, &values).map_err(Refusal::TemplateBroken)?;
        let spoken: String = sample.reveal().chars().flat_map(|digit| [digit, ' ']).collect();
        if !filled.text.contains(sample.reveal()) && !filled.text.contains(spoken.trim()) {
            return Err(Refusal::SettingBad("the text does not say the code: write {{ code }} in it".into()).into());
        }
        let realm = self.realm_of(tenant, client_id).await?;
        let before = self.template_of(tenant, realm, name, channel).await?;
        let id = before.as_ref().map_or_else(|| TemplateId::new(self.now(), self.chance()), |it| it.id);
        let created_at = before.map_or_else(|| self.now(), |it| it.created_at);
        let template = Template { id, realm, name: name.to_owned(), channel, wording, created_at };
        self.put(tenant, Record::Template(template.clone()), What::TemplateSaved { template: id }).await?;
        Ok(template)
    }

    /// Removes a template.
    ///
    /// # Errors
    /// Refusals: `Unknown`.
    pub async fn remove_template(&self, tenant: TenantId, client_id: Option<&str>, name: &str, channel: Channel) -> Result<(), Error> {
        let realm = self.realm_of(tenant, client_id).await?;
        let id = self.template_of(tenant, realm, name, channel).await?.ok_or(Refusal::Unknown("template"))?.id;
        self.remove(tenant, Key::Template(id), "template", What::TemplateRemoved { template: id }).await
    }

    /// All templates of a tenant, oldest first.
    ///
    /// # Errors
    /// A fault of the store.
    pub async fn templates(&self, tenant: TenantId) -> Result<Vec<Template>, Error> {
        self.listed(Listing::Templates(tenant), |it| if let Record::Template(it) = it { Some(it) } else { None }).await
    }

    /// Clears a person's wrong codes for one kind of factor, and those of an address where one is given (invariant 2). The person is one
    /// of a client, or of the tenant itself where none is named. What the person was sent is forgotten as well, so that a pause ends. Gives how
    /// many counts of wrong codes there were, and of sends.
    ///
    /// # Errors
    /// Refusals: `Unknown` (the client).
    pub async fn unlock(
        &self,
        tenant: TenantId,
        client_id: Option<&str>,
        login: &Login,
        channel: Channel,
        address: Option<&Address>,
    ) -> Result<(usize, usize), Error> {
        let realm = self.realm_of(tenant, client_id).await?;
        let standing = self.standing(tenant).await?.ok_or(Refusal::Unknown("tenant"))?;
        let of_person = failures_of(&standing.keys, realm, login, channel);
        let of_address = address.map(|to| failures_of_address(&standing.keys, realm, to));
        let counts: Vec<_> = of_address.into_iter().chain([of_person]).collect();
        let name = login.canonical();
        let pauses = sends_of_person(&standing.keys, realm, &name).into_iter().chain(address.map(|to| sends_to(&standing.keys, to)));
        let pauses: Vec<_> = pauses.collect();
        let first = counts.iter().chain(&pauses).copied().map(Key::Limit).collect();
        let event = self.event(self.now(), What::Unlocked { channel });
        let judge = move |seen: &mut Seen| {
            let mut found = |all: &[Fingerprint]| all.iter().filter_map(|of| seen.limit(*of)).collect::<Vec<_>>();
            let (wrong, sends) = (found(&counts), found(&pauses));
            let all = wrong.iter().chain(&sends);
            let change = all.fold(Change::none(), |change, held| change.remove(Key::Limit(held.noun.of), held.version));
            let told = (wrong.len(), sends.len());
            Judged::Write(if told == (0, 0) { change } else { change.tell(event.clone()) }, Ok(told))
        };
        self.managed(tenant, first, judge).await
    }

    /// The newest events of a tenant, newest first.
    ///
    /// # Errors
    /// A fault of the store.
    pub async fn events(&self, tenant: TenantId, most: u32) -> Result<Vec<Event>, Error> {
        Ok(self.store().events(tenant, None, most).await?)
    }

    /// One round of retention over all tenants, in bounded steps, unless another node is at it. Gives the rows removed.
    ///
    /// # Errors
    /// A fault of the store.
    pub async fn sweep(&self) -> Result<u64, Error> {
        let mut removed = 0;
        let mut prolong_at = None;
        for tenant in self.tenants().await? {
            loop {
                let now = self.now();
                if prolong_at.is_none_or(|it| it <= now) {
                    if !self.store().take_turn(Turn::Sweep, self.node(), now, now + SWEEP_TURN).await? {
                        return Ok(removed);
                    }
                    prolong_at = Some(now + SWEEP_TURN / 2);
                }
                let swept = self.store().sweep(tenant.id, now.before(tenant.policy.keep()), now).await?;
                removed += swept.removed;
                if !swept.more {
                    break;
                }
            }
        }
        Ok(removed)
    }

    // ------------------------------------------------------------------------------------------------- what they share

    async fn listed<T>(&self, listing: Listing, of: fn(Record) -> Option<T>) -> Result<Vec<T>, Error> {
        Ok(self.store().list(listing).await?.into_iter().filter_map(|it| of(it.held.noun)).collect())
    }

    /// Decides on behalf of an administrator, and lets this node see it at once.
    pub(super) async fn managed<T: Send + 'static>(
        &self,
        tenant: TenantId,
        first: Vec<Key>,
        judge: impl FnMut(&mut Seen) -> Judged<Result<T, Refusal>> + Send + 'static,
    ) -> Result<T, Error> {
        let told = self.decide(tenant, first, judge).await?;
        self.0.knows.forget();
        Ok(told.ok_or(Refusal::NameTaken)??)
    }

    /// Puts in what must not be there yet.
    async fn save(&self, tenant: TenantId, record: Record, what: What) -> Result<(), Error> {
        let event = self.event(self.now(), what);
        let judge = move |_: &mut Seen| Judged::Write(Change::none().insert(record.clone()).tell(event.clone()), Ok(()));
        self.managed(tenant, Vec::new(), judge).await
    }

    /// Puts in, or in the place of what is there.
    async fn put(&self, tenant: TenantId, record: Record, what: What) -> Result<(), Error> {
        let (key, event) = (record.key(), self.event(self.now(), what));
        let judge = move |seen: &mut Seen| {
            let read = seen.record(key).map(|it| it.version);
            Judged::Write(Change::none().put(record.clone(), read).tell(event.clone()), Ok(()))
        };
        self.managed(tenant, vec![key], judge).await
    }

    async fn remove(&self, tenant: TenantId, key: Key, noun: &'static str, what: What) -> Result<(), Error> {
        let event = self.event(self.now(), what);
        let judge = move |seen: &mut Seen| match seen.record(key) {
            None => Judged::Write(Change::none(), Err(Refusal::Unknown(noun))),
            Some(held) => Judged::Write(Change::none().remove(key, held.version).tell(event.clone()), Ok(())),
        };
        self.managed(tenant, vec![key], judge).await
    }

    async fn client_of(&self, tenant: TenantId, client_id: &str) -> Result<Client, Error> {
        let found = self.store().list(Listing::ClientNamed(client_id.to_owned())).await?;
        let mine = found.into_iter().filter(|it| it.tenant == tenant).find_map(|it| match it.held.noun {
            Record::Client(client) => Some(client),
            _ => None,
        });
        mine.ok_or_else(|| Refusal::Unknown("client").into())
    }

    async fn edit_client(
        &self,
        tenant: TenantId,
        client_id: &str,
        mut edit: impl FnMut(&mut Client) + Send + 'static,
    ) -> Result<Client, Error> {
        let id = self.client_of(tenant, client_id).await?.id;
        let event = self.event(self.now(), What::ClientSaved { client: id });
        let judge = move |seen: &mut Seen| {
            let Some(mut held) = seen.client(id) else { return Judged::Write(Change::none(), Err(Refusal::Unknown("client"))) };
            edit(&mut held.noun);
            Judged::Write(Change::none().replace(Record::Client(held.noun.clone()), held.version).tell(event.clone()), Ok(held.noun))
        };
        self.managed(tenant, vec![Key::Client(id)], judge).await
    }

    async fn realm_of(&self, tenant: TenantId, client_id: Option<&str>) -> Result<Realm, Error> {
        Ok(match client_id {
            None => Realm::Tenant,
            Some(client_id) => Realm::Client(self.client_of(tenant, client_id).await?.id),
        })
    }

    async fn template_of(&self, tenant: TenantId, realm: Realm, name: &str, channel: Channel) -> Result<Option<Template>, Error> {
        let all = self.templates(tenant).await?;
        Ok(all.into_iter().find(|it| it.realm == realm && it.channel == channel && it.name.eq_ignore_ascii_case(name)))
    }

    async fn provider_of(&self, tenant: TenantId, name: &str) -> Result<Option<ProviderSettings>, Error> {
        Ok(self.providers(tenant).await?.into_iter().find(|it| it.name == name))
    }

    async fn built(&self, tenant: TenantId, name: &str) -> Result<Result<Provider, String>, Error> {
        let standing = self.standing(tenant).await?.ok_or(Refusal::Unknown("tenant"))?;
        let settings = self.provider_of(tenant, name).await?.ok_or(Refusal::Unknown("provider"))?;
        let secrets = open_secrets(&standing.keys, &settings)?;
        Ok(self.0.with.carriers.build(&settings, secrets))
    }
}

const DIGITS: &[u8] = b"0123456789";
const CLIENT_ID: &[u8] = b"abcdefghijkmnpqrstuvwxyz23456789";
const SECRET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// The shortest secret that may be brought along: the ones of CIAM contract §2 have ten characters.
const SECRET_LEAST: usize = 10;

/// A secret of 32 characters out of 64: 192 bits.
fn draw_secret(chance: &dyn Chance) -> Secret {
    Secret::new(draw_text(32, SECRET, chance))
}

/// Draws without bias: bytes beyond the last whole multiple of the alphabet are thrown away.
pub(super) fn draw_text(length: usize, alphabet: &[u8], chance: &dyn Chance) -> String {
    let fair = 256 - 256 % alphabet.len();
    let mut text = String::with_capacity(length);
    while text.len() < length {
        let mut byte = [0];
        chance.fill(&mut byte);
        let drawn = usize::from(byte[0]);
        if drawn < fair {
            text.push(char::from(alphabet[drawn % alphabet.len()]));
        }
    }
    text
}

/// A new ES256 key, as PKCS#8. Its randomness comes from the library, which takes it from the operating system.
fn signing_key() -> Result<Zeroizing<Vec<u8>>, Fault> {
    let made = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).and_then(|pair| pair.to_pkcs8v1());
    made.map(|key| Zeroizing::new(key.as_ref().to_vec())).map_err(|_| Fault::Corrupt("a signing key could not be made".into()))
}

fn check_display_name(name: &str) -> Result<(), Refusal> {
    let name = name.trim();
    if name.is_empty() || name.chars().count() > 100 || name.chars().any(char::is_control) {
        return Err(Refusal::SettingBad("a display name has 1 to 100 visible characters".into()));
    }
    Ok(())
}

fn checked_client_id(text: String) -> Result<String, Refusal> {
    let fits = (1..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.@".contains(&b));
    if fits { Ok(text) } else { Err(Refusal::SettingBad(format!("`{text}` is no client id: use 1 to 128 of A-Z, a-z, 0-9 and -_.@"))) }
}

/// Whether `text` is a mailbox: an address, or a name and an address in angle brackets.
fn check_mailbox(text: &str) -> Result<(), Refusal> {
    let address = match text.trim().strip_suffix('>').map(|it| it.rsplit_once('<')) {
        Some(Some((_, address))) => address,
        Some(None) => "",
        None => text.trim(),
    };
    if text.chars().any(char::is_control) || EmailAddress::parse(address).is_err() {
        return Err(Refusal::SettingBad(format!("`{text}` is no sender: write address or Name <address>")));
    }
    Ok(())
}

/// Whether `text` can send texts: a number, or up to eleven letters and digits (3GPP TS 23.038 alphanumeric originator).
fn check_sender_id(text: &str) -> Result<(), Refusal> {
    let is_number = PhoneNumber::parse(text, None).is_ok() || (3..=8).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    let is_name = (1..=11).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b' ');
    if is_number || is_name {
        return Ok(());
    }
    Err(Refusal::SettingBad(format!("`{text}` is no sender of texts: use a number with +, a short code, or up to 11 letters and digits")))
}

fn check_routes(routes: &[Route], providers: &[ProviderSettings]) -> Result<(), Refusal> {
    for (at, route) in routes.iter().enumerate() {
        let name = || format!("{} {}", route.channel, if route.destination.is_empty() { "everywhere" } else { &route.destination });
        Route::check_destination(route.channel, &route.destination)?;
        if route.legs.is_empty() || route.legs.len() > 5 {
            return Err(Refusal::SettingBad(format!("the route for {} takes 1 to 5 providers", name())));
        }
        if routes[..at].iter().any(|it| it.channel == route.channel && it.destination == route.destination) {
            return Err(Refusal::SettingBad(format!("there are two routes for {}", name())));
        }
        for (place, leg) in route.legs.iter().enumerate() {
            if route.legs[..place].contains(leg) {
                return Err(Refusal::SettingBad(format!("the route for {} names a provider twice", name())));
            }
            if !providers.iter().any(|it| it.id == *leg && it.channels.contains(&route.channel)) {
                return Err(Refusal::SettingBad(format!(
                    "the route for {} names a provider that does not serve {}",
                    name(),
                    route.channel
                )));
            }
        }
    }
    Ok(())
}
