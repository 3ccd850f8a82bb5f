//! A house for tests: the real core on the model engine, with a clock that stands still and providers that do as they are told.

use countersign_core::nouns::challenge::Challenge;
use countersign_core::nouns::client::Client;
use countersign_core::nouns::delivery::Delivery;
use countersign_core::nouns::event::{Event, What};
use countersign_core::nouns::factor::Factor;
use countersign_core::nouns::limit::{Count, Limit};
use countersign_core::nouns::provider::ProviderSettings;
use countersign_core::nouns::route::Route;
use countersign_core::nouns::sign_in::{Baggage, Finishes};
use countersign_core::nouns::tenant::{Policy, Tenant};
use countersign_core::ports::test::{Script, Still};
use countersign_core::ports::{
    Carriers, CheckError, Health, Held, Judge, Key, Listed, Listing, Outcome, Pen, Pending, Provider, Receipt, Record, SendError, Sends,
    Store, Swept, Tasks, Turn, Verifies,
};
use countersign_core::verbs::manage::{NewClient, NewProvider, TenantChange};
use countersign_core::verbs::request::{Ask, Requested};
use countersign_core::verbs::sign_in::NewSignIn;
use countersign_core::verbs::verify::Answered;
use countersign_core::words::address::{Address, Channel, EmailAddress, Login, PhoneNumber};
use countersign_core::words::id::{ChallengeId, DeliveryId, EventId, NodeId, TenantId, UserId};
use countersign_core::words::refusal::{Error, Fault, Refusal};
use countersign_core::words::secret::{MasterKey, Offered, Secret};
use countersign_core::words::time::Timestamp;
use countersign_core::words::variables::Variables;
use countersign_core::words::wording::{Message, Values, Wording};
use countersign_core::{Core, Neighbours, Scope};
use countersign_store::memory::Memory;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::oneshot;

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
    pub checks: Checks,
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

/// What a provider that checks its own codes says to an answer.
pub type Said = Result<bool, CheckError>;

/// One question to a provider that checks its own codes.
#[derive(Debug, Clone)]
pub struct Question {
    pub receipt: Option<String>,
    pub to: Address,
    pub offered: Offered,
}

/// What goes on at providers that make codes and check them. They tell right from wrong by themselves, unless they are told what to say.
#[derive(Clone, Default)]
pub struct Checks(Arc<Mutex<Desk>>);

#[derive(Default)]
struct Desk {
    /// Who was asked to send a code: by which provider, under which id, to where.
    started: Vec<(String, DeliveryId, Address)>,
    asked: Vec<Question>,
    says: Option<Said>,
    is_held: bool,
    /// Those who wait for a verdict, in the order in which they asked.
    held: Vec<Option<oneshot::Sender<Said>>>,
}

impl Checks {
    /// From now on it says this, whatever is asked; by itself again with nothing.
    pub fn say(&self, what: impl Into<Option<Said>>) {
        self.0.lock().unwrap().says = what.into();
    }

    /// From now on it says nothing before it is told to: [`Checks::tell`].
    pub fn hold(&self) {
        self.0.lock().unwrap().is_held = true;
    }

    /// Says this to the one who asked as number `at` since it is held.
    pub fn tell(&self, at: usize, what: Said) {
        let waiting = self.0.lock().unwrap().held[at].take().expect("told once");
        // Whoever asked may be gone.
        let _ = waiting.send(what);
    }

    /// How many were asked while it is held.
    pub fn held(&self) -> usize {
        self.0.lock().unwrap().held.len()
    }

    /// What it was asked.
    pub fn asked(&self) -> Vec<Question> {
        self.0.lock().unwrap().asked.clone()
    }

    /// Who was asked to send a code.
    pub fn started(&self) -> Vec<(String, DeliveryId, Address)> {
        self.0.lock().unwrap().started.clone()
    }

    /// The code of the last start.
    pub fn last_code(&self) -> String {
        code_of(&name_of(self.0.lock().unwrap().started.len()))
    }
}

/// What it calls its start number `count`.
fn name_of(count: usize) -> String {
    format!("v-{count}")
}

/// The code that belongs to the name of a start: not of a length that we would make.
fn code_of(name: &str) -> String {
    format!("code-of-{name}")
}

impl Verifies for One {
    fn start(&self, id: DeliveryId, to: Address) -> Pending<'static, Result<Receipt, SendError>> {
        let mut desk = self.told.checks.0.lock().unwrap();
        desk.started.push((self.name.clone(), id, to));
        let receipt = Receipt(Some(name_of(desk.started.len())));
        let does = self.told.does.lock().unwrap().get(&self.name).cloned().unwrap_or_default();
        Box::pin(async move {
            match does {
                Does::Takes => Ok(receipt),
                Does::Fails(error) => Err(error),
                Does::Hangs => std::future::pending().await,
            }
        })
    }

    fn check(&self, receipt: Receipt, to: Address, offered: Offered) -> Pending<'static, Said> {
        let mut desk = self.told.checks.0.lock().unwrap();
        let is_right = receipt.0.as_deref().is_some_and(|name| code_of(name) == offered.code.reveal());
        desk.asked.push(Question { receipt: receipt.0, to, offered });
        if !desk.is_held {
            return Box::pin(std::future::ready(desk.says.clone().unwrap_or(Ok(is_right))));
        }
        let (tell, told) = oneshot::channel();
        desk.held.push(Some(tell));
        Box::pin(async move { told.await.expect("the house stands as long as its tests") })
    }

    fn probe(&self) -> Pending<'static, Result<String, SendError>> {
        Box::pin(async { Ok("there".into()) })
    }
}

/// The kind of a provider that makes codes and checks them.
const CHECKS: &str = "checks";

impl Carriers for Told {
    fn build(&self, settings: &ProviderSettings, _: BTreeMap<String, Secret>) -> Result<Provider, String> {
        let one = Box::new(One { name: settings.name.clone(), told: self.clone() });
        Ok(if settings.kind == CHECKS { Provider::Verifies(one) } else { Provider::Sends(one) })
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

    /// One whose people are also reached by [`Channel::External`], over the providers `one` and `two` of this kind.
    pub async fn of(whose: Whose) -> Self {
        Self::of_two(whose, whose).await
    }

    pub async fn of_two(one: Whose, two: Whose) -> Self {
        let mut house = Self::new().await;
        house.reaches(Channel::External, [("one", one), ("two", two)]).await;
        house
    }

    /// A provider of [`House::of_two`] that was something else before.
    pub async fn becomes(&self, name: &str, whose: Whose) {
        let new = new_provider(name, vec![Channel::External], if whose == Whose::Theirs { CHECKS } else { "told" });
        self.core.put_provider(self.tenant.id, new).await.expect("another kind");
    }

    /// From now on `channel` is served by these providers, which are new.
    pub async fn reaches(&mut self, channel: Channel, providers: [(&str, Whose); 2]) {
        let mut legs = Vec::new();
        for (name, whose) in providers {
            let new = new_provider(name, vec![channel], if whose == Whose::Theirs { CHECKS } else { "told" });
            legs.push(self.core.put_provider(self.tenant.id, new).await.expect("a new provider").id);
        }
        let mut routes = self.scope.tenant.tenant.routes.clone();
        routes.retain(|it| it.channel != channel);
        routes.push(Route { channel, destination: String::new(), legs });
        self.core.change_tenant(self.tenant.id, TenantChange { routes: Some(routes), ..TenantChange::default() }).await.expect("routes");
        self.looks_again().await;
    }

    pub async fn looks_again(&mut self) {
        self.scope = self.core.scope(self.tenant.id, Self::caller(&self.scope).id).await.expect("still there");
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
        self.looks_again().await;
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
        self.delivery(id).await
    }

    pub async fn delivery(&self, id: DeliveryId) -> Delivery {
        match self.store.find(self.tenant.id, Key::Delivery(id)).await.expect("readable").expect("there").noun {
            Record::Delivery(it) => it,
            other => panic!("{other:?}"),
        }
    }

    /// Begins a sign-in with a code that reaches the person, and gives its token.
    pub async fn begin(&self, login: &str, finishes: Finishes) -> Secret {
        self.core.begin_sign_in_with_code(&self.scope, signing_in(login, finishes)).await.expect("a code").0
    }

    /// Offers a code in a log-in.
    pub async fn prove(&self, login: &str, token: &Secret, code: &str) -> Result<Answered, Error> {
        self.prove_for(login, token, Finishes::Login, code).await
    }

    pub async fn prove_for(&self, login: &str, token: &Secret, purpose: Finishes, code: &str) -> Result<Answered, Error> {
        self.core.prove_sign_in(&self.scope, &named(login), token, purpose, Offered::code(code)).await.map(|it| it.answered)
    }

    /// The code that reached somebody last, whoever made it.
    pub fn newest_code(&self) -> String {
        if self.told.checks.started().is_empty() { self.last_code() } else { self.told.checks.last_code() }
    }

    /// Every challenge that there is.
    pub async fn challenges(&self) -> Vec<Challenge> {
        let mut all = Vec::new();
        for what in self.trail().await {
            if let What::Opened { challenge, .. } = what {
                all.push(self.challenge(challenge).await);
            }
        }
        all
    }

    /// The challenge whose code a provider saw last.
    pub async fn newest_challenge(&self) -> Challenge {
        let started = self.told.checks.started().last().map(|it| it.1);
        let delivery = self.delivery(started.or(self.told.ids().last().copied()).expect("something was sent")).await;
        self.challenge(delivery.challenge).await
    }

    /// The wrong codes that count against the challenge whose code a provider saw last.
    pub async fn failures(&self) -> u16 {
        let of = self.newest_challenge().await.failures[0];
        match self.store.find(self.tenant.id, Key::Limit(of)).await.expect("readable").map(|it| it.noun) {
            Some(Record::Limit(Limit { count: Count::Failures(it), .. })) => it.in_a_row(),
            _ => 0,
        }
    }

    /// What has happened; by the millisecond, oldest first.
    pub async fn trail(&self) -> Vec<What> {
        self.core.events(self.tenant.id, 10_000).await.expect("readable").into_iter().rev().map(|it| it.what).collect()
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
        let new = new_provider(name, Channel::CARRIED.to_vec(), "told");
        legs.push(core.put_provider(tenant.id, new).await.expect("a new provider").id);
    }
    let routes = Channel::CARRIED.map(|channel| Route { channel, destination: String::new(), legs: legs.clone() }).to_vec();
    core.change_tenant(tenant.id, TenantChange { routes: Some(routes), ..TenantChange::default() }).await.expect("routes");
}

fn new_provider(name: &str, channels: Vec<Channel>, kind: &str) -> NewProvider {
    NewProvider { name: name.into(), channels, kind: kind.into(), settings: serde_json::Value::Null, secrets: BTreeMap::new() }
}

/// Who makes the codes, and checks them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// This house does.
    Ours,
    /// The provider does.
    Theirs,
}

/// What the application calls somebody.
pub fn named(login: &str) -> Login {
    Login::parse(login).expect("a login")
}

/// Where somebody is reached that only the provider understands.
pub fn data(number: &str) -> Address {
    Address::Data(Variables::of([("number".to_owned(), number.into())]))
}

/// A sign-in of an hour.
pub fn signing_in(login: &str, purpose: Finishes) -> NewSignIn {
    let baggage =
        Baggage { channel: Channel::External, to: data("41791231212"), account: None, more: serde_json::json!({ "app": "demo-app" }) };
    NewSignIn { login: named(login), purpose, baggage, lasts: Duration::from_secs(3600) }
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

/// The model engine with a network before it: others come in between what was read and what is decided, and between the decision and its
/// answer.
#[derive(Default)]
pub struct Far(Memory);

impl Store for Far {
    fn find(&self, tenant: TenantId, key: Key) -> Pending<'_, Result<Option<Held<Record>>, Fault>> {
        let found = self.0.find(tenant, key);
        Box::pin(async move {
            let found = found.await;
            tokio::task::yield_now().await;
            found
        })
    }
    fn list(&self, listing: Listing) -> Pending<'_, Result<Vec<Listed>, Fault>> {
        self.0.list(listing)
    }
    fn stamp(&self) -> Pending<'_, Result<i64, Fault>> {
        self.0.stamp()
    }
    fn factors_of(&self, tenant: TenantId, user: UserId) -> Pending<'_, Result<Vec<Held<Factor>>, Fault>> {
        self.0.factors_of(tenant, user)
    }
    fn events(&self, tenant: TenantId, before: Option<EventId>, most: u32) -> Pending<'_, Result<Vec<Event>, Fault>> {
        self.0.events(tenant, before, most)
    }
    fn decide(&self, tenant: TenantId, first: Vec<Key>, judge: Judge) -> Pending<'static, Result<Outcome, Fault>> {
        let done = self.0.decide(tenant, first, judge);
        Box::pin(async move {
            tokio::task::yield_now().await;
            done.await
        })
    }
    fn due(&self, now: Timestamp, most: u32) -> Pending<'_, Result<Vec<(TenantId, DeliveryId)>, Fault>> {
        self.0.due(now, most)
    }
    fn sweep(&self, tenant: TenantId, before: Timestamp, now: Timestamp) -> Pending<'_, Result<Swept, Fault>> {
        self.0.sweep(tenant, before, now)
    }
    fn take_turn(&self, turn: Turn, node: NodeId, now: Timestamp, until: Timestamp) -> Pending<'_, Result<bool, Fault>> {
        self.0.take_turn(turn, node, now, until)
    }
    fn health(&self) -> Pending<'_, Result<Health, Fault>> {
        self.0.health()
    }
}
