//! A house for the tests of this crate: everything in memory, time that stands still, a provider that takes everything.

use crate::{BODY_LIMIT, House, Readiness, router};
use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use countersign_core::nouns::event::Event;
use countersign_core::nouns::factor::Factor;
use countersign_core::nouns::provider::ProviderSettings;
use countersign_core::nouns::tenant::Policy;
use countersign_core::ports::test::{Script, Still};
use countersign_core::ports::{
    Call, Carriers, Health, Held, Inbox, Judge, Key, Listed, Listing, Outbound, Outcome, Pen, Pending, Provider, Record, Seen, SendError,
    Shown, Step, Store, Swept, Tasks, Turn, Write,
};
use countersign_core::verbs::manage::NewClient;
use countersign_core::words::id::{DeliveryId, EventId, NodeId, TenantId, UserId};
use countersign_core::words::refusal::Fault;
use countersign_core::words::secret::{MasterKey, Secret};
use countersign_core::words::time::Timestamp;
use countersign_core::words::wording::{Message, Values, Wording};
use countersign_core::{Core, Neighbours, Scope};
use http_body_util::BodyExt;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tower::ServiceExt;

/// Keeps records in the order in which they came. It has one writer at a time, so every replace is of what was read.
#[derive(Default)]
pub(crate) struct Memory {
    kept: Mutex<Vec<(TenantId, Record)>>,
    stamp: AtomicI64,
    /// Whether it is to say that it is away.
    pub away: AtomicBool,
    /// How often it was asked how it is.
    pub probes: AtomicU32,
}

impl Memory {
    fn found(&self, tenant: TenantId, key: Key) -> Vec<Held<Record>> {
        let kept = self.kept.lock().expect("no panics");
        let is = |record: &Record| match (key, record) {
            (Key::UserNamed(of), Record::User(user)) => user.named == of,
            (Key::FactorsOf(of), Record::Factor(factor)) => factor.user == of,
            _ => record.key() == key,
        };
        kept.iter().filter(|(of, it)| *of == tenant && is(it)).map(|(_, it)| Held { noun: it.clone(), version: 1 }).collect()
    }

    fn present(&self) -> Result<(), Fault> {
        if self.away.load(Ordering::SeqCst) {
            return Err(Fault::Unavailable { what: "unplugged".into(), retry_after: Duration::from_secs(2) });
        }
        Ok(())
    }
}

impl Store for Memory {
    fn find(&self, tenant: TenantId, key: Key) -> Pending<'_, Result<Option<Held<Record>>, Fault>> {
        Box::pin(async move { self.present().map(|()| self.found(tenant, key).into_iter().next()) })
    }

    fn list(&self, listing: Listing) -> Pending<'_, Result<Vec<Listed>, Fault>> {
        let kept = self.kept.lock().expect("no panics").clone();
        let is = move |(tenant, record): &(TenantId, Record)| match (&listing, record) {
            (Listing::Tenants, Record::Tenant(_)) => true,
            (Listing::TenantNamed(name), Record::Tenant(it)) => it.name == *name,
            (Listing::ClientNamed(name), Record::Client(it)) => it.client_id == *name,
            (Listing::Clients(of), Record::Client(_))
            | (Listing::Providers(of), Record::Provider(_))
            | (Listing::Templates(of), Record::Template(_)) => of == tenant,
            _ => false,
        };
        let found = kept.into_iter().filter(is).map(|(tenant, noun)| Listed { tenant, held: Held { noun, version: 1 } }).collect();
        Box::pin(async move { self.present().map(|()| found) })
    }

    fn stamp(&self) -> Pending<'_, Result<i64, Fault>> {
        Box::pin(async { self.present().map(|()| self.stamp.load(Ordering::SeqCst)) })
    }

    fn factors_of(&self, tenant: TenantId, user: UserId) -> Pending<'_, Result<Vec<Held<Factor>>, Fault>> {
        let mut seen = Seen::default();
        seen.note(Key::FactorsOf(user), self.found(tenant, Key::FactorsOf(user)));
        Box::pin(async move { Ok(seen.factors_of(user)) })
    }

    fn events(&self, _: TenantId, _: Option<EventId>, _: u32) -> Pending<'_, Result<Vec<Event>, Fault>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn decide(&self, tenant: TenantId, first: Vec<Key>, mut judge: Judge) -> Pending<'static, Result<Outcome, Fault>> {
        let look = |seen: &mut Seen, keys: Vec<Key>| keys.into_iter().for_each(|key| seen.note(key, self.found(tenant, key)));
        let mut seen = Seen::default();
        look(&mut seen, first);
        let decided = self.present().map(|()| {
            let change = loop {
                match judge(&mut seen) {
                    Step::Look(keys) => look(&mut seen, keys),
                    Step::Write(change) => break change,
                }
            };
            let mut kept = self.kept.lock().expect("no panics");
            self.stamp.fetch_add(i64::from(change.configures()), Ordering::SeqCst);
            for write in change.writes {
                match write {
                    Write::Insert(record) => kept.push((tenant, record)),
                    Write::Remove(key, _) => kept.retain(|(of, it)| *of != tenant || it.key() != key),
                    Write::Replace(record, _) => {
                        let place = kept.iter_mut().find(|(of, it)| *of == tenant && it.key() == record.key());
                        place.expect("what is replaced is there").1 = record;
                    }
                }
            }
            Outcome::Done
        });
        Box::pin(async { decided })
    }

    fn due(&self, _: Timestamp, _: u32) -> Pending<'_, Result<Vec<(TenantId, DeliveryId)>, Fault>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn sweep(&self, _: TenantId, _: Timestamp, _: Timestamp) -> Pending<'_, Result<Swept, Fault>> {
        Box::pin(async { Ok(Swept::default()) })
    }

    fn take_turn(&self, _: Turn, _: NodeId, _: Timestamp, _: Timestamp) -> Pending<'_, Result<bool, Fault>> {
        Box::pin(async { Ok(true) })
    }

    fn health(&self) -> Pending<'_, Result<Health, Fault>> {
        self.probes.fetch_add(1, Ordering::SeqCst);
        Box::pin(async { self.present().map(|()| Health { engine: "memory".into(), schema: 1, queued: 0, bytes: 0 }) })
    }
}

struct Nobody;

impl Carriers for Nobody {
    fn build(&self, _: &ProviderSettings, _: BTreeMap<String, Secret>) -> Result<Provider, String> {
        Err("there are no providers in this house".into())
    }
}

impl Pen for Nobody {
    fn write(&self, wording: &Wording, _: &Values<'_>) -> Result<Wording, String> {
        Ok(wording.clone())
    }
}

impl Outbound for Nobody {
    fn call(&self, _: Call) -> Pending<'static, Result<countersign_core::ports::Heard, SendError>> {
        Box::pin(async { Err(SendError::Refused("nobody is asked in these tests".into())) })
    }
}

impl Tasks for Nobody {
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

/// An inbox into which tests put messages.
#[derive(Default)]
pub(crate) struct Pile {
    shown: Mutex<Vec<Shown>>,
    news: Arc<tokio::sync::Notify>,
}

impl Pile {
    pub fn put(&self, message: Message) {
        let mut shown = self.shown.lock().expect("no panics");
        let id = DeliveryId::new(Timestamp::from_millis(shown.len().try_into().expect("few")), &Script::default());
        shown.insert(0, Shown { id, at: Timestamp::from_millis(1_893_499_200_000), message: Arc::new(message) });
        self.news.notify_waiters();
    }
}

impl Inbox for Pile {
    fn newest(&self) -> Vec<Shown> {
        self.shown.lock().expect("no panics").clone()
    }

    fn next(&self) -> Pending<'static, ()> {
        // Counts from now, not from its first await.
        Box::pin(self.news.clone().notified_owned())
    }
}

/// A house with one tenant and one client, and its doors.
pub(crate) struct TestHouse {
    pub core: Core,
    pub store: Arc<Memory>,
    pub clock: Arc<Still>,
    pub tenant: TenantId,
    pub client_id: String,
    pub secret: Secret,
    pub inbox: Arc<Pile>,
    pub house: House,
    pub doors: Router,
}

/// An answer, read to its end.
pub(crate) struct Heard {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: String,
}

impl Heard {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).expect("the answer is JSON")
    }
}

impl TestHouse {
    pub async fn new() -> Self {
        Self::with(|house| house).await
    }

    pub async fn with(furnish: impl FnOnce(House) -> House) -> Self {
        let (store, clock) = (Arc::new(Memory::default()), Arc::new(Still::at(Timestamp::from_millis(1_893_499_200_000))));
        let chance = Arc::new(Script::default());
        let master = MasterKey::draw(&*chance);
        let nobody = Arc::new(Nobody);
        let core = Core::new(Neighbours {
            store: store.clone(),
            clock: clock.clone(),
            chance,
            tasks: nobody.clone(),
            carriers: nobody.clone(),
            pen: nobody,
            master,
        });
        let tenant = core.create_tenant("acme", "Acme", Policy::default()).await.expect("made").id;
        let (client, secret) = core.create_client(tenant, new_client("jdoe-app")).await.expect("made");
        let inbox = Arc::new(Pile::default());
        let house = furnish(House {
            core: core.clone(),
            base_url: "https://mfa.example.com/".parse().expect("a URL"),
            trusted_proxies: vec!["10.0.0.0/8".parse().expect("a net")],
            body_limit: BODY_LIMIT,
            inbox: Some(inbox.clone()),
            outbound: Arc::new(Nobody),
            metrics: Arc::new(|| "answers 42\n".into()),
            readiness: Readiness::default(),
        });
        let doors = router(house.clone());
        Self { core, store, clock, tenant, client_id: client.client_id, secret, inbox, house, doors }
    }

    pub async fn scope(&self) -> Scope {
        self.core.authenticate(&self.client_id, &self.secret).await.expect("its own secret")
    }

    /// An access token of the client.
    pub async fn token(&self) -> String {
        let (id, secret) = (&self.client_id, self.secret.reveal());
        let body = format!("grant_type=client_credentials&client_id={id}&client_secret={secret}");
        let heard = self.post("/ciam-mfa/v2/get/token", body).await;
        heard.json()["access_token"].as_str().expect("a token").to_owned()
    }

    pub async fn ask(&self, request: Request<Body>) -> Heard {
        let (parts, body) = self.doors.clone().oneshot(request).await.expect("infallible").into_parts();
        let body = body.collect().await.expect("a whole body").to_bytes();
        Heard { status: parts.status, headers: parts.headers, body: String::from_utf8(body.into()).expect("text") }
    }

    pub async fn get(&self, path: &str) -> Heard {
        self.ask(Request::get(path).body(Body::empty()).expect("a request")).await
    }

    pub async fn post(&self, path: &str, body: impl Into<Body>) -> Heard {
        self.ask(Request::post(path).body(body.into()).expect("a request")).await
    }
}

pub(crate) fn new_client(name: &str) -> NewClient {
    NewClient { name: name.into(), client_id: None, secret: None, application: None, email_from: None }
}
