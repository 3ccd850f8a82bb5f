//! A house for tests: the real core on the model engine, with a clock that stands still and providers that do as they are told.

use countersign_core::nouns::challenge::Challenge;
use countersign_core::nouns::client::Client;
use countersign_core::nouns::delivery::Delivery;
use countersign_core::nouns::provider::ProviderSettings;
use countersign_core::nouns::route::Route;
use countersign_core::nouns::tenant::{Policy, Tenant};
use countersign_core::ports::test::{Script, Still};
use countersign_core::ports::{Carriers, Key, Pen, Pending, Provider, Receipt, Record, SendError, Sends, Store, Tasks};
use countersign_core::verbs::manage::{NewClient, NewProvider, TenantChange};
use countersign_core::verbs::request::{Ask, Requested};
use countersign_core::verbs::verify::Answered;
use countersign_core::words::address::{Address, Channel, EmailAddress, Login, PhoneNumber};
use countersign_core::words::id::{ChallengeId, DeliveryId};
use countersign_core::words::refusal::{Error, Refusal};
use countersign_core::words::secret::{MasterKey, Secret};
use countersign_core::words::time::Timestamp;
use countersign_core::words::wording::{Message, Values, Wording};
use countersign_core::{Core, Neighbours, Scope};
use countersign_store::memory::Memory;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What a provider does with the next messages.
#[derive(Debug, Clone, Default)]
pub enum Does {
    /// Takes them.
    #[default]
    Takes,
    /// Says no, with this.
    Fails(SendError),
    /// Says nothing, ever.
    Hangs,
}

/// Every message that a provider was asked to carry: by whom, under which id.
pub type Carried = Arc<Mutex<Vec<(String, DeliveryId, Arc<Message>)>>>;

/// Providers that do as they are told.
#[derive(Clone, Default)]
pub struct Told {
    does: Arc<Mutex<BTreeMap<String, Does>>>,
    carried: Carried,
}

impl Told {
    /// What `provider` does from now on.
    pub fn tell(&self, provider: &str, does: Does) {
        self.does.lock().unwrap().insert(provider.into(), does);
    }

    /// The messages that were carried, each with who carried it.
    pub fn messages(&self) -> Vec<(String, Arc<Message>)> {
        self.carried.lock().unwrap().iter().map(|(name, _, message)| (name.clone(), message.clone())).collect()
    }

    /// The texts that were carried.
    pub fn texts(&self) -> Vec<String> {
        self.carried.lock().unwrap().iter().map(|(_, _, message)| message.text.clone()).collect()
    }

    /// The ids under which messages were carried.
    pub fn ids(&self) -> Vec<DeliveryId> {
        self.carried.lock().unwrap().iter().map(|(_, id, _)| *id).collect()
    }
}

struct One {
    name: String,
    told: Told,
}

impl Sends for One {
    fn send(&self, id: DeliveryId, message: Arc<Message>) -> Pending<'static, Result<Receipt, SendError>> {
        self.told.carried.lock().unwrap().push((self.name.clone(), id, message));
        let does = self.told.does.lock().unwrap().get(&self.name).cloned().unwrap_or_default();
        Box::pin(async move {
            match does {
                Does::Takes => Ok(Receipt(Some("r-1".into()))),
                Does::Fails(error) => Err(error),
                Does::Hangs => std::future::pending().await,
            }
        })
    }

    fn probe(&self) -> Pending<'static, Result<String, SendError>> {
        Box::pin(async { Ok("there".into()) })
    }
}

impl Carriers for Told {
    fn build(&self, settings: &ProviderSettings, _: BTreeMap<String, Secret>) -> Result<Provider, String> {
        Ok(Provider::Sends(Box::new(One { name: settings.name.clone(), told: self.clone() })))
    }
}

struct Plain;

impl Pen for Plain {
    fn write(&self, wording: &Wording, values: &Values<'_>) -> Result<Wording, String> {
        let fill = |text: &String| text.replace("{{ code }}", values.code.reveal()).replace("{{ tenant }}", values.tenant);
        Ok(Wording { subject: wording.subject.as_ref().map(fill), text: fill(&wording.text), html: wording.html.as_ref().map(fill) })
    }
}

/// Tasks on tokio.
pub struct Runtime;

impl Tasks for Runtime {
    fn detach(&self, work: Pending<'static, ()>) {
        tokio::spawn(work);
    }

    fn pause(&self, span: Duration) -> Pending<'static, ()> {
        Box::pin(tokio::time::sleep(span))
    }

    fn labour(&self, work: Box<dyn FnOnce() + Send>) -> Pending<'static, ()> {
        Box::pin(async move { work() })
    }
}

/// The house, with one tenant (`demo`), one client and the providers `first` and `second`.
pub struct House {
    pub core: Core,
    pub clock: Arc<Still>,
    pub store: Arc<dyn Store>,
    pub told: Told,
    with: Neighbours,
    pub tenant: Tenant,
    pub scope: Scope,
}

/// Noon, 1 January 2030.
pub const NOON: Timestamp = Timestamp::from_millis(1_893_499_200_000);

impl House {
    pub async fn new() -> Self {
        Self::on(Arc::new(Memory::default())).await
    }

    pub async fn on(store: Arc<dyn Store>) -> Self {
        Self::with(store, Arc::new(Still::at(NOON))).await
    }

    /// On `store`, by `clock`.
    pub async fn with(store: Arc<dyn Store>, clock: Arc<Still>) -> Self {
        let (chance, told) = (Arc::new(Script::default()), Told::default());
        let with = Neighbours {
            store: store.clone(),
            clock: clock.clone(),
            chance: chance.clone(),
            tasks: Arc::new(Runtime),
            carriers: Arc::new(told.clone()),
            pen: Arc::new(Plain),
            master: MasterKey::draw(&*chance),
        };
        let core = Core::new(with.clone());
        let tenant = core.create_tenant("demo", "Demo", Policy::default()).await.expect("a new tenant");
        let scope = Self::furnish(&core, &tenant).await;
        Self { core, clock, store, told, with, tenant, scope }
    }

    /// Gives a tenant providers, and a client, whose scope it returns.
    pub async fn furnish(core: &Core, tenant: &Tenant) -> Scope {
        give_providers(core, tenant).await;
        Self::client_of(core, tenant, "App").await
    }

    /// Another node of the same house; with another master key, one that cannot open what this one sealed.
    pub fn node(&self, own_key: bool) -> Core {
        let master = if own_key { MasterKey::draw(&*self.with.chance) } else { self.with.master.clone() };
        Core::new(Neighbours { master, ..self.with.clone() })
    }

    /// Makes another client of the tenant, and gives its scope.
    pub async fn client(&self, name: &str) -> Scope {
        Self::client_of(&self.core, &self.tenant, name).await
    }

    /// Makes another tenant with a client, and gives its scope.
    pub async fn another_tenant(&self, name: &str) -> Scope {
        let tenant = self.core.create_tenant(name, name, Policy::default()).await.expect("a new tenant");
        Self::client_of(&self.core, &tenant, "App").await
    }

    async fn client_of(core: &Core, tenant: &Tenant, name: &str) -> Scope {
        let new = NewClient { name: name.into(), client_id: None, secret: None, application: None, email_from: None };
        let (client, secret) = core.create_client(tenant.id, new).await.expect("a new client");
        core.authenticate(&client.client_id, &secret).await.expect("its own secret")
    }

    /// The client on whose behalf something is asked.
    pub fn caller(scope: &Scope) -> &Client {
        scope.client.as_deref().expect("every scope of this house has one")
    }

    /// Changes the tenant's rules, and looks at them anew.
    pub async fn policy(&mut self, policy: Policy) {
        self.core
            .change_tenant(self.tenant.id, TenantChange { policy: Some(policy), ..TenantChange::default() })
            .await
            .expect("a valid policy");
        self.scope = self.core.scope(self.tenant.id, Self::caller(&self.scope).id).await.expect("still there");
    }

    pub fn provider(&self, name: &str, does: Does) {
        self.told.tell(name, does);
    }

    pub fn pass(&self, seconds: u64) {
        self.clock.pass(Duration::from_secs(seconds));
    }

    /// What was handed to providers so far: by whom, and with which code.
    pub fn carried(&self) -> Vec<(String, String)> {
        self.told.carried.lock().unwrap().iter().map(|(name, _, message)| (name.clone(), message.code.clone())).collect()
    }

    pub fn last_code(&self) -> String {
        self.carried().pop().expect("something was carried").1
    }

    /// Asks for a code by SMS.
    pub async fn ask(&self, login: &str, number: &str) -> Result<Requested, Error> {
        self.core.request(&self.scope, sms(login, number)).await
    }

    /// Asks for a code by SMS, and gives the challenge and its code.
    pub async fn open(&self, login: &str) -> (ChallengeId, String) {
        let requested = self.ask(login, "+918212345212").await.expect("a code");
        (requested.challenge, self.last_code())
    }

    pub async fn answer(&self, id: ChallengeId, code: &str) -> Result<Answered, Error> {
        self.core.verify(&self.scope, id, None, code).await
    }

    pub async fn challenge(&self, id: ChallengeId) -> Challenge {
        match self.store.find(self.tenant.id, Key::Challenge(id)).await.expect("readable").expect("there").noun {
            Record::Challenge(it) => it,
            other => panic!("{other:?}"),
        }
    }

    /// The delivery under which a message was carried last.
    pub async fn last_delivery(&self) -> Delivery {
        let id = self.told.carried.lock().unwrap().last().expect("something was carried").1;
        match self.store.find(self.tenant.id, Key::Delivery(id)).await.expect("readable").expect("there").noun {
            Record::Delivery(it) => it,
            other => panic!("{other:?}"),
        }
    }

    /// Lets everything that was detached come to rest.
    pub async fn settle(&self) {
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
    }
}

/// Gives a tenant the providers `first` and `second`, and routes over both.
pub async fn give_providers(core: &Core, tenant: &Tenant) {
    let mut legs = Vec::new();
    for name in ["first", "second"] {
        let new = NewProvider {
            name: name.into(),
            channels: Channel::CARRIED.to_vec(),
            kind: "told".into(),
            settings: serde_json::Value::Null,
            secrets: BTreeMap::new(),
        };
        legs.push(core.put_provider(tenant.id, new).await.expect("a new provider").id);
    }
    let routes = Channel::CARRIED.map(|channel| Route { channel, destination: String::new(), legs: legs.clone() }).to_vec();
    core.change_tenant(tenant.id, TenantChange { routes: Some(routes), ..TenantChange::default() }).await.expect("routes");
}

/// A request for a code by SMS.
pub fn sms(login: &str, number: &str) -> Ask {
    let to = Address::Phone(PhoneNumber::parse(number, None).expect("a number"));
    Ask::Code { login: Login::parse(login).expect("a login"), channel: Channel::Sms, to, template: None }
}

/// A request for a code by e-mail.
pub fn email(login: &str, address: &str) -> Ask {
    let to = Address::Email(EmailAddress::parse(address).expect("an address"));
    Ask::Code { login: Login::parse(login).expect("a login"), channel: Channel::Email, to, template: None }
}

/// Six digits that are not `code`.
pub fn another(code: &str) -> String {
    let first = if code.starts_with('0') { '1' } else { '0' };
    format!("{first}{}", &code[1..])
}

/// The refusal that `result` must be.
pub fn refusal<T: std::fmt::Debug>(result: Result<T, Error>) -> Refusal {
    match result {
        Err(Error::Refused(refusal)) => refusal,
        other => panic!("no refusal: {other:?}"),
    }
}

/// A provider that is away.
pub fn away() -> Does {
    Does::Fails(SendError::Unavailable { why: "status 503".into(), retry_after: None })
}
