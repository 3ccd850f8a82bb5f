//! A world for tests that go through the doors: the real router on a fresh SQLite database, a clock that stands at noon, chance that
//! is scripted, and providers that do as they are told.
//!
//! Everything in it is real but time, chance and the providers. [`house`](crate::house) is the smaller one, for the verbs alone.

use crate::house::{Does, NOON, Runtime, Told, give_providers};
use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use countersign_core::nouns::tenant::{Policy, Tenant};
use countersign_core::ports::test::{Script, Still};
use countersign_core::ports::{Chance, Clock, Pending, Tasks};
use countersign_core::verbs::manage::{NewClient, TenantChange};
use countersign_core::words::address::Channel;
use countersign_core::words::secret::{MasterKey, Secret};
use countersign_core::words::time::Timestamp;
use countersign_core::words::wording::Wording;
use countersign_core::{Core, Neighbours};
use countersign_providers::egress::{Egress, EgressSettings};
use countersign_providers::outbound::Upstream;
use countersign_providers::pen::Quill;
use countersign_store::{Options, Sqlite};
use countersign_web::{BODY_LIMIT, House, Readiness, router};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tower::ServiceExt;

/// Chance that repeats from run to run, and of which the next codes can be told.
#[derive(Default)]
pub struct Scripted {
    script: Script,
    codes: Mutex<VecDeque<String>>,
}

impl Scripted {
    /// The next code that is drawn, after those told before, is this one.
    pub fn next_code(&self, digits: &str) {
        self.codes.lock().unwrap().push_back(digits.to_owned());
    }
}

impl Chance for Scripted {
    /// Codes are drawn from sixteen bytes at a time, one digit a byte, and nothing else is (`Code::draw`); should that change, the
    /// tests that told a code find another one and say so.
    fn fill(&self, bytes: &mut [u8]) {
        self.script.fill(bytes);
        if bytes.len() == 16
            && let Some(code) = self.codes.lock().unwrap().pop_front()
        {
            for (byte, digit) in bytes.iter_mut().zip(code.bytes()) {
                *byte = digit - b'0';
            }
        }
    }
}

/// Pauses are a hundredth as long, and keep their order.
struct Hasty;

impl Tasks for Hasty {
    fn detach(&self, work: Pending<'static, ()>) {
        Runtime.detach(work);
    }

    fn pause(&self, span: Duration) -> Pending<'static, ()> {
        Runtime.pause(span / 100)
    }

    fn labour(&self, work: Box<dyn FnOnce() + Send>) -> Pending<'static, ()> {
        Runtime.labour(work)
    }
}

/// A folder that goes with the test.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Self {
        static MADE: AtomicU64 = AtomicU64::new(0);
        let name = format!("world-{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&path).expect("a new folder");
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left over in the target folder harms nobody.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// An application, as its developer knows it.
#[derive(Debug, Clone)]
pub struct Application {
    pub tenant: Tenant,
    pub client_id: String,
    pub secret: Secret,
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

/// The world: tenant `demo` with the application of the contract's examples, and the providers `first` and `second` behind every
/// channel.
pub struct World {
    pub core: Core,
    pub clock: Arc<Still>,
    pub chance: Arc<Scripted>,
    pub told: Told,
    pub demo: Application,
    pub house: House,
    doors: Router,
    // Dropped last: the engine is closed before its files go.
    _folder: Folder,
}

impl World {
    /// A world at noon, 1 January 2030 (UTC).
    pub async fn new() -> Self {
        Self::with(|house| house).await
    }

    /// The same, with doors furnished otherwise.
    pub async fn with(furnish: impl FnOnce(House) -> House) -> Self {
        let folder = Folder::new();
        let store = Sqlite::open(&folder.path().join("countersign.db"), Options::default()).expect("a new database");
        let (clock, chance, told) = (Arc::new(Still::at(NOON)), Arc::new(Scripted::default()), Told::default());
        let core = Core::new(Neighbours {
            store: Arc::new(store),
            clock: clock.clone(),
            chance: chance.clone(),
            tasks: Arc::new(Hasty),
            carriers: Arc::new(told.clone()),
            pen: Arc::new(Quill::new()),
            master: MasterKey::draw(&*chance),
        });
        let demo = settle(&core, "demo", "a1B2c3D4e", "APM0000003").await;
        let house = furnish(House {
            core: core.clone(),
            base_url: "https://mfa.example.com".parse().expect("a URL"),
            trusted_proxies: Vec::new(),
            body_limit: BODY_LIMIT,
            inbox: None,
            metrics: Arc::new(String::new),
            readiness: Readiness::default(),
            outbound: Arc::new(Upstream::new(Egress::new(EgressSettings::default()).expect("good settings"))),
        });
        Self { core, clock, chance, told, demo, doors: router(house.clone()), house, _folder: folder }
    }

    /// Another application of the tenant of `of`.
    pub async fn application(&self, of: &Tenant, client_id: &str) -> Application {
        application(&self.core, of.clone(), client_id, "APM0000004").await
    }

    /// Another tenant, with an application and the same providers.
    pub async fn tenant(&self, name: &str, client_id: &str) -> Application {
        settle(&self.core, name, client_id, "APM0000005").await
    }

    /// Changes the rules of the demo tenant.
    pub async fn policy(&self, change: impl FnOnce(&mut Policy)) {
        let mut policy = self.core.tenant_named("demo").await.expect("there").policy;
        change(&mut policy);
        self.change(TenantChange { policy: Some(policy), ..TenantChange::default() }).await;
    }

    /// Changes the demo tenant.
    pub async fn change(&self, change: TenantChange) {
        self.core.change_tenant(self.demo.tenant.id, change).await.expect("a valid change");
    }

    /// Makes a template of the demo tenant.
    pub async fn template(&self, name: &str, channel: Channel, text: &str) {
        let subject = (channel == Channel::Email).then(|| "Your code".to_owned());
        let wording = Wording { subject, text: text.to_owned(), html: None };
        self.core.put_template(self.demo.tenant.id, None, name, channel, wording).await.expect("a valid template");
    }

    pub fn provider(&self, name: &str, does: Does) {
        self.told.tell(name, does);
    }

    pub fn pass(&self, span: Duration) {
        self.clock.pass(span);
    }

    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Asks at the doors.
    pub async fn ask(&self, request: Request<Body>) -> Answer {
        let (parts, body) = self.doors.clone().oneshot(request).await.expect("infallible").into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.expect("a whole body");
        Answer { status: parts.status, headers: parts.headers, body: String::from_utf8(body.into()).expect("text") }
    }

    /// Asks with the access token of `by`.
    pub async fn post(&self, by: &str, path: &str, body: &serde_json::Value) -> Answer {
        let request = Request::post(path).header("authorization", format!("Bearer {by}")).header("content-type", "application/json");
        self.ask(request.body(Body::from(body.to_string())).expect("a request")).await
    }

    /// An access token for `application`, from the door where applications get theirs.
    pub async fn token(&self, application: &Application) -> String {
        let body = serde_json::json!({
            "grant_type": "client_credentials",
            "client_id": application.client_id,
            "client_secret": application.secret.reveal(),
        });
        let request = Request::post("/ciam-mfa/v2/get/token").body(Body::from(body.to_string())).expect("a request");
        self.ask(request).await.json()["access_token"].as_str().expect("a token").to_owned()
    }
}

async fn settle(core: &Core, name: &str, client_id: &str, registration: &str) -> Application {
    let tenant = core.create_tenant(name, "Example", Policy::default()).await.expect("a new tenant");
    give_providers(core, &tenant).await;
    application(core, tenant, client_id, registration).await
}

async fn application(core: &Core, tenant: Tenant, client_id: &str, registration: &str) -> Application {
    let new = NewClient {
        name: "Example App".into(),
        client_id: Some(client_id.into()),
        secret: None,
        application: Some(registration.into()),
        email_from: None,
    };
    let (client, secret) = core.create_client(tenant.id, new).await.expect("a new client");
    Application { tenant, client_id: client.client_id, secret }
}
