//! Attacks on the dialect of Pryv.io: what somebody who means harm tries at its doors.
//!
//! Everything is real but time, chance and the machines around: a messaging service and a core that say what a test wants them to.

use crate::house::Runtime;
use crate::server::Place;
use crate::world::{Answer, Folder, Scripted};
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, StatusCode};
use axum::response::{IntoResponse, Response};
use countersign_core::nouns::event::Event;
use countersign_core::nouns::factor::Factor;
use countersign_core::nouns::route::Route;
use countersign_core::nouns::sign_in::Baggage;
use countersign_core::nouns::tenant::{Policy, Tenant};
use countersign_core::ports::test::Still;
use countersign_core::ports::{Health, Held, Judge, Key, Listed, Listing, Outcome, Pending, Record, Store, Swept, Turn};
use countersign_core::verbs::manage::{NewProvider, TenantChange};
use countersign_core::words::address::{Address, Channel, Login};
use countersign_core::words::id::{DeliveryId, EventId, NodeId, TenantId, UserId};
use countersign_core::words::refusal::Fault;
use countersign_core::words::secret::{MasterKey, Secret};
use countersign_core::words::time::Timestamp;
use countersign_core::words::variables::Variables;
use countersign_core::{Core, Neighbours};
use countersign_providers::Fleet;
use countersign_providers::egress::{Egress, EgressSettings};
use countersign_providers::outbound::Upstream;
use countersign_providers::pen::Quill;
use countersign_store::{Options, Sqlite};
use countersign_web::{BODY_LIMIT, House, Readiness, router};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tower::ServiceExt;

// -------------------------------------------------------------------------------------------------------- machines around

/// What a machine was asked.
#[derive(Debug, Clone)]
struct Seen {
    method: String,
    /// Path and query.
    target: String,
    body: String,
}

type Says = Arc<dyn Fn(&Seen) -> (u16, &'static str, String) + Send + Sync>;

/// A machine on the loopback that writes down what it is asked, and answers as it is told.
#[derive(Clone)]
struct Machine {
    url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    says: Arc<Mutex<Says>>,
    slow: Arc<Mutex<Duration>>,
}

impl Machine {
    async fn start(says: impl Fn(&Seen) -> (u16, &'static str, String) + Send + Sync + 'static) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let says: Says = Arc::new(says);
        let it = Self { url, seen: Arc::default(), says: Arc::new(Mutex::new(says)), slow: Arc::default() };
        let doors = Router::new().fallback(Self::answer).with_state(it.clone());
        tokio::spawn(async move { axum::serve(listener, doors).await });
        it
    }

    async fn answer(State(it): State<Self>, request: Request<Body>) -> Response {
        let (head, body) = request.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.expect("a whole body");
        let target = head.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
        let seen = Seen { method: head.method.to_string(), target, body: String::from_utf8_lossy(&body).into_owned() };
        it.seen.lock().unwrap().push(seen.clone());
        let slow = *it.slow.lock().unwrap();
        tokio::time::sleep(slow).await;
        let says = it.says.lock().unwrap().clone();
        let (status, kind, text) = says(&seen);
        (StatusCode::from_u16(status).expect("a status"), [("content-type", kind)], text).into_response()
    }

    /// What it says from now on.
    fn say(&self, says: impl Fn(&Seen) -> (u16, &'static str, String) + Send + Sync + 'static) {
        *self.says.lock().unwrap() = Arc::new(says);
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

const JSON: &str = "application/json";

fn fine(_: &Seen) -> (u16, &'static str, String) {
    (200, JSON, "{}".into())
}

/// A core at which every password is right, and whose private profile is `profile`, word for word.
fn core_with(profile: &str) -> impl Fn(&Seen) -> (u16, &'static str, String) + Send + Sync + 'static {
    let profile = profile.to_owned();
    move |seen| match seen.target.rsplit_once('/') {
        Some((_, "login")) => (
            200,
            JSON,
            json!({"meta": {}, "token": "personal", "apiEndpoint": "https://personal@x/", "preferredLanguage": "en"}).to_string(),
        ),
        Some((_, "private")) => (200, JSON, profile.clone()),
        Some((_, "access-info")) => (200, JSON, json!({"type": "personal", "user": {"username": "alice"}}).to_string()),
        _ => (404, JSON, json!({"error": {"id": "unknown-resource", "message": "?"}}).to_string()),
    }
}

/// A store that fails once, at the call that a test says.
struct Faulty {
    store: Sqlite,
    /// Calls until it fails, that one included; none when it does not.
    until: AtomicI64,
}

impl Faulty {
    fn fails(&self) -> Option<Fault> {
        let is_now = self.until.fetch_sub(1, Ordering::SeqCst) == 1;
        is_now.then(|| Fault::Unavailable { what: "unplugged".into(), retry_after: Duration::from_secs(2) })
    }

    fn or<'a, T: Send + 'a>(&self, go_on: impl FnOnce() -> Pending<'a, Result<T, Fault>>) -> Pending<'a, Result<T, Fault>> {
        match self.fails() {
            Some(fault) => Box::pin(std::future::ready(Err(fault))),
            None => go_on(),
        }
    }
}

impl Store for Faulty {
    fn find(&self, tenant: TenantId, key: Key) -> Pending<'_, Result<Option<Held<Record>>, Fault>> {
        self.or(|| self.store.find(tenant, key))
    }

    fn list(&self, listing: Listing) -> Pending<'_, Result<Vec<Listed>, Fault>> {
        self.or(|| self.store.list(listing))
    }

    fn stamp(&self) -> Pending<'_, Result<i64, Fault>> {
        self.or(|| self.store.stamp())
    }

    fn factors_of(&self, tenant: TenantId, user: UserId) -> Pending<'_, Result<Vec<Held<Factor>>, Fault>> {
        self.or(|| self.store.factors_of(tenant, user))
    }

    fn events(&self, tenant: TenantId, before: Option<EventId>, most: u32) -> Pending<'_, Result<Vec<Event>, Fault>> {
        self.store.events(tenant, before, most)
    }

    fn decide(&self, tenant: TenantId, first: Vec<Key>, judge: Judge) -> Pending<'static, Result<Outcome, Fault>> {
        self.or(|| self.store.decide(tenant, first, judge))
    }

    fn due(&self, now: Timestamp, most: u32) -> Pending<'_, Result<Vec<(TenantId, DeliveryId)>, Fault>> {
        self.store.due(now, most)
    }

    fn sweep(&self, tenant: TenantId, before: Timestamp, now: Timestamp) -> Pending<'_, Result<Swept, Fault>> {
        self.store.sweep(tenant, before, now)
    }

    fn take_turn(&self, turn: Turn, node: NodeId, now: Timestamp, until: Timestamp) -> Pending<'_, Result<bool, Fault>> {
        self.store.take_turn(turn, node, now, until)
    }

    fn health(&self) -> Pending<'_, Result<Health, Fault>> {
        self.store.health()
    }
}

// --------------------------------------------------------------------------------------------------------------- the house

/// A house that speaks the dialect, with one tenant.
struct Lab {
    core: Core,
    clock: Arc<Still>,
    store: Arc<Faulty>,
    tenant: Tenant,
    service: Machine,
    doors: Router,
    _folder: Folder,
}

const PASSWORD: &str = "correct horse battery";

impl Lab {
    /// `endpoints` gets the URL of the messaging service.
    async fn new(mode: &str, endpoints: impl Fn(&str) -> Value, settings: Value) -> Self {
        let folder = Folder::new();
        let store = Sqlite::open(&folder.path().join("countersign.db"), Options::default()).expect("a new database");
        let store = Arc::new(Faulty { store, until: AtomicI64::new(0) });
        let (clock, chance) = (Arc::new(Still::at(crate::house::NOON)), Arc::new(Scripted::default()));
        let egress =
            EgressSettings { allow: vec!["127.0.0.0/8".parse().expect("a network")], allow_plain_http: true, ..EgressSettings::default() };
        let egress = Egress::new(egress).expect("good settings");
        let core = Core::new(Neighbours {
            store: store.clone(),
            clock: clock.clone(),
            chance: chance.clone(),
            tasks: Arc::new(Runtime),
            carriers: Arc::new(Fleet::new(egress.clone(), clock.clone(), None)),
            pen: Arc::new(Quill::new()),
            master: MasterKey::draw(&*chance),
        });
        let service = Machine::start(fine).await;
        let tenant = core.create_tenant("pryv", "Pryv Lab", Policy { code_length: 4, ..Policy::default() }).await.expect("a new tenant");
        put_provider(&core, &tenant, mode, &endpoints(&service.url)).await;
        core.set_dialect(tenant.id, "pryv", Some(settings)).await.expect("settings");
        let doors = router(House {
            core: core.clone(),
            base_url: "https://mfa.example.com".parse().expect("a URL"),
            trusted_proxies: Vec::new(),
            body_limit: BODY_LIMIT,
            inbox: None,
            metrics: Arc::new(String::new),
            readiness: Readiness::default(),
            outbound: Arc::new(Upstream::new(egress)),
        });
        Self { core, clock, store, tenant, service, doors, _folder: folder }
    }

    /// In mode `single`, alone, with these people.
    async fn alone(people: &[&str]) -> Self {
        let lab = Self::new("single", single, json!({"generation": "v1"})).await;
        for name in people {
            lab.person(name).await;
        }
        lab
    }

    async fn person(&self, name: &str) {
        let login = Login::parse(name).expect("a name");
        self.core.create_account(self.tenant.id, login, Secret::new(PASSWORD), "en").await.expect("a new person");
    }

    async fn told(&self, settings: Value) {
        self.core.set_dialect(self.tenant.id, "pryv", Some(settings)).await.expect("settings");
    }

    async fn ask(&self, method: &str, host: &str, path: &str, token: &str, body: &str) -> Answer {
        let request = Request::builder().method(method).uri(path).header("host", host).header("content-type", JSON);
        let request = if token.is_empty() { request } else { request.header("authorization", token) };
        let request = request.body(Body::from(body.to_owned())).expect("a request");
        let (parts, body) = self.doors.clone().oneshot(request).await.expect("infallible").into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.expect("a whole body");
        Answer { status: parts.status, headers: parts.headers, body: String::from_utf8(body.into()).expect("text") }
    }

    async fn post(&self, path: &str, token: &str, body: Value) -> Answer {
        self.ask("POST", "localhost", path, token, &body.to_string()).await
    }

    async fn login(&self, name: &str) -> Answer {
        self.post(&format!("/{name}/auth/login"), "", json!({"username": name, "password": PASSWORD, "appId": "app"})).await
    }

    /// A personal token of somebody who has no second factor.
    async fn token(&self, name: &str) -> String {
        let said = self.login(name).await;
        said.json()["token"].as_str().unwrap_or_else(|| panic!("no token: {}", said.body)).to_owned()
    }

    /// The token of a log-in that has begun.
    async fn mfa_token(&self, name: &str) -> String {
        mfa_token(&self.login(name).await)
    }

    /// Gives a person the second factor `data`, by the doors.
    async fn activate(&self, name: &str, token: &str, data: Value) {
        let mfa = mfa_token(&self.post(&format!("/{name}/mfa/activate"), token, data).await);
        let said = self.post(&format!("/{name}/mfa/confirm"), &mfa, json!({"code": self.last_code()})).await;
        assert_eq!(said.status, 200, "{}", said.body);
    }

    /// The code that the messaging service was given last, in mode `single`.
    fn last_code(&self) -> String {
        let seen = self.service.seen();
        let body: Value = serde_json::from_str(&seen.last().expect("something was sent").body).expect("JSON");
        body["code"].as_str().expect("a code").to_owned()
    }
}

async fn put_provider(core: &Core, tenant: &Tenant, mode: &str, endpoints: &Value) {
    let new = NewProvider {
        name: "pryv".into(),
        channels: vec![Channel::External],
        kind: "pryv".into(),
        settings: json!({"mode": mode}),
        secrets: BTreeMap::from([("endpoints".to_owned(), Secret::new(endpoints.to_string()))]),
    };
    let id = core.put_provider(tenant.id, new).await.expect("a provider").id;
    let routes = vec![Route { channel: Channel::External, destination: String::new(), legs: vec![id] }];
    core.change_tenant(tenant.id, TenantChange { routes: Some(routes), ..TenantChange::default() }).await.expect("routes");
}

fn mfa_token(said: &Answer) -> String {
    said.json()["mfaToken"].as_str().unwrap_or_else(|| panic!("no mfaToken: {} {}", said.status, said.body)).to_owned()
}

fn single(service: &str) -> Value {
    json!({"single": {"url": format!("{service}/send"), "method": "POST", "body": r#"{"to":"{{ number }}","code":"{{ code }}"}"#}})
}

// ------------------------------------------------------------------------------------- getting by without the second factor

/// A 200 that is no profile (a proxy's page, half of an answer, a core that is starting) is not the word that somebody has no second
/// factor. Neither is a factor that cannot be read here and that the product's own service reads.
#[tokio::test]
async fn a_profile_that_cannot_be_read_lets_nobody_in_by_the_password_alone() {
    let core = Machine::start(fine).await;
    let lab = Lab::new("single", single, json!({"core_url": core.url})).await;
    core.say(core_with(r#"{"profile":{"mfa":{"content":{"number":"41791231212"}}}}"#));
    assert_eq!(lab.login("alice").await.status, 302, "she has a second factor");
    let mut in_by_password = Vec::new();
    for profile in [
        "",
        "<html>Bad Gateway</html>",
        "{}",
        r#"{"meta":{}}"#,
        r#"{"profile":null}"#,
        r#"{"profile":{"mfa":{"content":{"number":"4179"#,
        // Half of an emoji, as JavaScript cuts and writes it (JSON.stringify escapes a lone surrogate).
        r#"{"profile":{"mfa":{"content":{"message":"code \ud83d","number":"41791231212"}}}}"#,
        // JSON.parse reads this as Infinity.
        r#"{"profile":{"mfa":{"content":{"number":"41791231212","id":1e999}}}}"#,
        r#"{"profile":{"mfa":{"content":{"number":"41791231212"},"content":{"number":"41791231212"}}}}"#,
    ] {
        core.say(core_with(profile));
        let said = lab.login("alice").await;
        if said.body.contains("personal") {
            in_by_password.push(profile);
        }
    }
    assert_eq!(in_by_password, Vec::<&str>::new(), "these profiles let her in without a code");
}

/// Somebody who has the password of another person, and an account and telephone of their own at the same messaging service.
#[tokio::test]
async fn a_code_names_nobody_else_whose_code_is_checked() {
    // Services take the last of two values (PHP, Rack), the first, or both; here it is the last.
    let check = |target: &str| {
        let query = target.split_once('?').map_or(target, |(_, it)| it).to_owned();
        let pairs: BTreeMap<String, String> =
            query.split('&').filter_map(|it| it.split_once('=')).map(|(n, v)| (n.into(), v.into())).collect();
        let is = |name: &str, value: &str| pairs.get(name).is_some_and(|it| it == value);
        is("to", "4100000666") && is("code", "6666")
    };
    let by_query = |service: &str| {
        json!({
            "challenge": {"url": format!("{service}/start?to={{{{ number }}}}"), "method": "GET"},
            "verify": {"url": format!("{service}/check?to={{{{ number }}}}&code={{{{ code }}}}"), "method": "GET"},
        })
    };
    let by_form = |service: &str| {
        let headers = json!({"content-type": "application/x-www-form-urlencoded"});
        json!({
            "challenge": {"url": format!("{service}/start"), "method": "POST", "body": "to={{ number }}", "headers": headers},
            "verify": {"url": format!("{service}/check"), "method": "POST", "body": "to={{ number }}&code={{ code }}", "headers": headers},
        })
    };
    let mut bypassed = Vec::new();
    for (name, endpoints) in [("query", &by_query as &dyn Fn(&str) -> Value), ("form", &by_form)] {
        let lab = Lab::new("challenge-verify", endpoints, json!({})).await;
        lab.person("alice").await;
        let token = lab.token("alice").await;
        let mfa = mfa_token(&lab.post("/alice/mfa/activate", &token, json!({"number": "41791231212"})).await);
        assert_eq!(lab.post("/alice/mfa/confirm", &mfa, json!({"code": "1234"})).await.status, 200);
        lab.service.say(move |seen| match (seen.target.starts_with("/check"), check(&seen.target) || check(&format!("?{}", seen.body))) {
            (true, false) => (403, JSON, "{}".into()),
            _ => fine(seen),
        });
        // From here on the attacker: alice's password, and a code that the service sent to 4100000666.
        let mfa = lab.mfa_token("alice").await;
        assert_eq!(lab.post("/alice/mfa/challenge", &mfa, json!({})).await.status, 200);
        let said = lab.post("/alice/mfa/verify", &mfa, json!({"code": "6666&to=4100000666"})).await;
        if said.status == 200 {
            bypassed.push((name, lab.service.seen().pop().expect("asked")));
        }
    }
    assert!(bypassed.is_empty(), "logged in as alice with the code of another telephone: {bypassed:#?}");
}

/// The same where the code stands in a path: it is one segment, and no other call of the service than the one that is meant.
#[tokio::test]
async fn a_code_is_one_segment_of_a_path() {
    let endpoints = |service: &str| {
        json!({
            "challenge": {"url": format!("{service}/codes/{{{{ number }}}}"), "method": "POST"},
            "verify": {"url": format!("{service}/codes/{{{{ number }}}}/{{{{ code }}}}"), "method": "GET"},
        })
    };
    let lab = Lab::new("challenge-verify", endpoints, json!({})).await;
    lab.person("alice").await;
    let token = lab.token("alice").await;
    let mfa = mfa_token(&lab.post("/alice/mfa/activate", &token, json!({"number": "41791231212"})).await);
    assert_eq!(lab.post("/alice/mfa/confirm", &mfa, json!({"code": "1234"})).await.status, 200);
    // The list of her codes, somebody else's right code, and a page of the service itself: all of them answer 200.
    let mut asked = Vec::new();
    for code in ["?", "..%2f4100000666%2f6666", ";a=b", "1/../../../health"] {
        let mfa = lab.mfa_token("alice").await;
        assert_eq!(lab.post("/alice/mfa/challenge", &mfa, json!({})).await.status, 200);
        let before = lab.service.seen().len();
        let said = lab.post("/alice/mfa/verify", &mfa, json!({"code": code})).await;
        asked.extend(lab.service.seen().into_iter().skip(before).map(|it| (it.target, said.status.as_u16())));
    }
    let is_one = |it: &String| it.matches('/').count() == 3 && !it.contains(['?', ';']) && !it.contains("%2f");
    let strayed: Vec<_> = asked.iter().filter(|(target, _)| !is_one(target)).collect();
    assert!(strayed.is_empty(), "{strayed:?}");
}

/// The telephone was stolen together with the password. Its owner recovers and takes another telephone; a log-in that was begun before
/// ends with a code that goes to the stolen one.
#[tokio::test]
async fn a_factor_that_was_replaced_finishes_no_log_in() {
    let lab = Lab::alone(&["alice"]).await;
    let token = lab.token("alice").await;
    lab.activate("alice", &token, json!({"number": "4100000001"})).await;
    let thief = lab.mfa_token("alice").await;
    lab.activate("alice", &token, json!({"number": "4100000002"})).await;
    let challenged = lab.post("/alice/mfa/challenge", &thief, json!({})).await;
    if challenged.status == 200 {
        let sent = lab.service.seen().pop().expect("sent").body;
        let said = lab.post("/alice/mfa/verify", &thief, json!({"code": lab.last_code()})).await;
        assert_ne!(said.status, 200, "a code was sent to the telephone that is not hers any more ({sent}), and it logs in: {}", said.body);
    }
}

/// A name that is free again is somebody else's.
#[tokio::test]
async fn a_log_in_of_somebody_who_was_removed_is_not_one_of_the_next_of_that_name() {
    let lab = Lab::alone(&["alice"]).await;
    let token = lab.token("alice").await;
    lab.activate("alice", &token, json!({"number": "4100000001"})).await;
    let before = lab.mfa_token("alice").await;
    lab.core.remove_account(lab.tenant.id, &Login::parse("alice").expect("a name")).await.expect("removed");
    lab.person("alice").await;
    assert_eq!(lab.post("/alice/mfa/challenge", &before, json!({})).await.status, 403, "the first alice goes on as the second");
}

#[tokio::test]
async fn a_log_in_of_somebody_who_was_removed_gives_no_token_of_the_next_of_that_name() {
    let lab = Lab::alone(&["alice"]).await;
    let token = lab.token("alice").await;
    lab.activate("alice", &token, json!({"number": "4100000001"})).await;
    let before = lab.mfa_token("alice").await;
    assert_eq!(lab.post("/alice/mfa/challenge", &before, json!({})).await.status, 200);
    let code = lab.last_code();
    lab.core.remove_account(lab.tenant.id, &Login::parse("alice").expect("a name")).await.expect("removed");
    lab.person("alice").await;
    let said = lab.post("/alice/mfa/verify", &before, json!({"code": code})).await;
    assert_ne!(said.status, 200, "the first alice has a token of the second: {}", said.body);
}

/// Whoever had a personal token for a moment begins an activation with a telephone of their own; its owner logs out everywhere.
#[tokio::test]
async fn an_activation_ends_with_the_token_that_began_it() {
    let lab = Lab::alone(&["alice"]).await;
    let token = lab.token("alice").await;
    let thief = mfa_token(&lab.post("/alice/mfa/activate", &token, json!({"number": "4100000666"})).await);
    let code = lab.last_code();
    assert_eq!(lab.post("/alice/auth/logout", &token, json!({})).await.status, 200);
    assert_eq!(lab.post("/alice/mfa/activate", &token, json!({"number": "41"})).await.status, 403, "the token is over");
    let said = lab.post("/alice/mfa/confirm", &thief, json!({"code": code})).await;
    assert_ne!(said.status, 200, "a telephone became hers by a token that is over");
}

/// The page says: a second factor cannot be written into a profile through this server. A core that stores a profile by the paths of its
/// names (`data.mfa.content`) takes this for one.
#[tokio::test]
async fn no_second_factor_is_written_by_the_path_of_its_name() {
    let core = Machine::start(core_with(r#"{"profile":{}}"#)).await;
    let lab = Lab::new("single", single, json!({"core_url": core.url})).await;
    let refused = lab.ask("PUT", "localhost", "/alice/profile/private", "personal", r#"{"mfa":{"content":{"number":"41"}}}"#).await;
    assert_eq!(refused.status, 400, "{}", refused.body);
    let put = r#"{"mfa.content":{"number":"4100000666"},"mfa.recoveryCodes":["known"]}"#;
    lab.ask("PUT", "localhost", "/alice/profile/private", "personal", put).await;
    let puts: Vec<_> = core.seen().into_iter().filter(|it| it.method == "PUT").collect();
    assert!(puts.is_empty(), "{puts:?}");
}

// -------------------------------------------------------------------------------------------------------- locking others out

/// Mallory has an account, and knows alice's number. Alice's first factor she has not (invariant 11).
#[tokio::test]
async fn invariant_11_nobody_uses_up_the_codes_of_another_person() {
    let mut locked_out = Vec::new();
    for number_in in [None, Some("number".to_owned())] {
        let lab = Lab::alone(&["alice", "mallory"]).await;
        let policy = Policy { code_length: 4, number_in: number_in.clone(), ..Policy::default() };
        lab.core.change_tenant(lab.tenant.id, TenantChange { policy: Some(policy), ..TenantChange::default() }).await.expect("a policy");
        let (alice, mallory) = (lab.token("alice").await, lab.token("mallory").await);
        lab.activate("alice", &alice, json!({"number": "41791231212"})).await;
        lab.clock.pass(Duration::from_secs(600));
        for _ in 0..10 {
            lab.post("/mallory/mfa/activate", &mallory, json!({"number": "41791231212"})).await;
        }
        let mfa = lab.mfa_token("alice").await;
        let said = lab.post("/alice/mfa/challenge", &mfa, json!({})).await;
        if said.status != 200 {
            locked_out.push((number_in, said.body));
        }
    }
    assert!(locked_out.is_empty(), "alice gets no code: {locked_out:?}");
}

// ---------------------------------------------------------------------------------------------------------------- who pays

/// Where the policy judges the number, no other value of the data may be one: `&` in a value of a query is another parameter.
#[tokio::test]
async fn no_value_adds_a_destination_that_was_not_judged() {
    let endpoints =
        |service: &str| json!({"single": {"url": format!("{service}/send?to={{{{ number }}}}&text={{{{ message }}}}"), "method": "GET"}});
    let lab = Lab::new("single", endpoints, json!({})).await;
    lab.person("mallory").await;
    let policy = Policy { code_length: 4, number_in: Some("number".into()), countries: vec!["41".into()], ..Policy::default() };
    lab.core.change_tenant(lab.tenant.id, TenantChange { policy: Some(policy), ..TenantChange::default() }).await.expect("a policy");
    let token = lab.token("mallory").await;
    let refused = lab.post("/mallory/mfa/activate", &token, json!({"number": "19002345678", "message": "{{ code }}"})).await;
    assert_eq!(refused.status, 400, "a premium number: {}", refused.body);
    lab.post("/mallory/mfa/activate", &token, json!({"number": "41791231212", "message": "{{ code }}&to=19002345678"})).await;
    let sent: Vec<_> = lab.service.seen().into_iter().filter(|it| it.target.contains("&to=")).collect();
    assert!(sent.is_empty(), "{sent:?}");
}

// ---------------------------------------------------------------------------------------------------------- what is told

/// Invariant 7.
#[test]
fn invariant_7_what_a_sign_in_carries_is_in_no_debug_output() {
    let more = json!({"token": "canary-personal-token", "apiEndpoint": "https://canary-personal-token@x/"});
    let baggage = Baggage { channel: Channel::External, to: Address::Data(Variables::default()), account: None, more };
    let shown = format!("{baggage:?}");
    assert!(!shown.contains("canary"), "{shown}");
}

/// The core may ask for credentials of its own. They are shown, and kept as they are in every backup.
#[test]
fn credentials_in_the_address_of_the_core_are_refused_or_not_shown() {
    let place = Place::empty("pryv-core-credentials", 1, Vec::new());
    place.command(&["tenant", "create", "demo"]);
    let set = place.prepare().args(["pryv", "set", "--tenant", "demo", "--core-url", "http://u:canary-core@127.0.0.1:9"]).output();
    let shown = place.prepare().args(["pryv", "show", "--tenant", "demo"]).output().expect("it runs");
    let all = [set.expect("it runs").stdout, shown.stdout].concat();
    let all = String::from_utf8_lossy(&all);
    assert!(!all.contains("canary-core"), "{all}");
}

// ------------------------------------------------------------------------------------------------------- tenants and settings

/// Two tenants without a domain answer at the same hosts, so the second must not be made in silence: whichever name comes first in the
/// alphabet gets all log-ins, of both.
#[test]
fn a_second_tenant_without_a_domain_takes_no_hosts_away() {
    let place = Place::empty("pryv-two-open", 1, Vec::new());
    for name in ["zulu", "alpha"] {
        place.command(&["tenant", "create", name]);
    }
    place.command(&["pryv", "set", "--tenant", "zulu", "--generation", "v1"]);
    let second = place.prepare().args(["pryv", "set", "--tenant", "alpha", "--generation", "v1"]).output().expect("it runs");
    assert!(!second.status.success(), "alpha now answers at every host that was zulu's: {}", String::from_utf8_lossy(&second.stdout));
}

#[test]
fn a_domain_belongs_to_one_tenant() {
    let place = Place::empty("pryv-one-domain", 1, Vec::new());
    for name in ["alpha", "zulu"] {
        place.command(&["tenant", "create", name]);
    }
    place.command(&["pryv", "set", "--tenant", "alpha", "--domain", "pryv.example"]);
    let second = place.prepare().args(["pryv", "set", "--tenant", "zulu", "--domain", "pryv.example"]).output().expect("it runs");
    assert!(!second.status.success(), "both have the domain: {}", String::from_utf8_lossy(&second.stdout));
}

/// Settings that cannot be read (of a newer program, by an older node of the same house) make the tenant silent. Its hosts are not the
/// next one's: the passwords of its people would go to another tenant's core.
#[tokio::test]
async fn a_tenant_whose_settings_cannot_be_read_keeps_its_hosts() {
    let core = Machine::start(core_with(r#"{"profile":{}}"#)).await;
    let lab = Lab::new("single", single, json!({"domain": "pryv.example"})).await;
    lab.person("alice").await;
    let other = lab.core.create_tenant("other", "Other", Policy::default()).await.expect("a new tenant");
    lab.core.set_dialect(other.id, "pryv", Some(json!({"core_url": core.url}))).await.expect("settings");
    let body = json!({"username": "alice", "password": PASSWORD, "appId": "app"}).to_string();
    let said = lab.ask("POST", "alice.pryv.example", "/auth/login", "", &body).await;
    assert_eq!((said.status, core.seen().len()), (StatusCode::OK, 0), "her own tenant answers: {}", said.body);
    lab.told(json!({"domain": "pryv.example", "of_a_newer_program": true})).await;
    lab.ask("POST", "alice.pryv.example", "/auth/login", "", &body).await;
    let leaked = core.seen();
    assert!(leaked.is_empty(), "her password went to the core of another tenant: {leaked:?}");
}

/// A log-in that was begun with people of our own, and ends after the tenant was put in front of a core.
#[tokio::test]
async fn a_log_in_that_changes_sides_is_over_and_gives_no_empty_token() {
    let core = Machine::start(core_with(r#"{"profile":{}}"#)).await;
    let lab = Lab::alone(&["alice"]).await;
    let token = lab.token("alice").await;
    lab.activate("alice", &token, json!({"number": "41791231212"})).await;
    let mfa = lab.mfa_token("alice").await;
    assert_eq!(lab.post("/alice/mfa/challenge", &mfa, json!({})).await.status, 200);
    let code = lab.last_code();
    lab.told(json!({"core_url": core.url})).await;
    let said = lab.post("/alice/mfa/verify", &mfa, json!({"code": code})).await;
    assert_ne!(said.json(), json!({"token": ""}), "{}", said.status);
}

/// A log-in at a core, which ends after its people were taken in here: whoever has that name here is another person.
#[tokio::test]
async fn a_log_in_at_a_core_gives_no_token_of_a_person_of_our_own() {
    let core = Machine::start(core_with(r#"{"profile":{"mfa":{"content":{"number":"4100000666"}}}}"#)).await;
    let lab = Lab::new("single", single, json!({"core_url": core.url})).await;
    let mfa = lab.mfa_token("alice").await;
    assert_eq!(lab.post("/alice/mfa/challenge", &mfa, json!({})).await.status, 200);
    let code = lab.last_code();
    lab.told(json!({})).await;
    lab.person("alice").await;
    let said = lab.post("/alice/mfa/verify", &mfa, json!({"code": code})).await;
    assert_ne!(said.status, 200, "{}", said.body);
}

// ------------------------------------------------------------------------------------------------------------------- floods

/// Strangers may keep eight megabytes of bodies here. While a core is slow, a body is kept and its place is given back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_strangers_send_has_a_place_as_long_as_it_is_kept() {
    let core = Machine::start(core_with(r#"{"profile":{}}"#)).await;
    *core.slow.lock().unwrap() = Duration::from_secs(3);
    let lab = Lab::new("single", single, json!({"core_url": core.url})).await;
    let body = Value::from(vec![Value::Array(Vec::new()); 33_000]).to_string();
    assert!(body.len() < 100 * 1024);
    let many = (0..120).map(|_| {
        let (doors, body) = (lab.doors.clone(), body.clone());
        tokio::spawn(async move {
            let request = Request::post("/alice/auth/login").header("host", "localhost").header("content-type", JSON);
            doors.oneshot(request.body(Body::from(body)).expect("a request")).await.expect("infallible").status()
        })
    });
    let many: Vec<_> = many.collect();
    let mut turned_away = 0;
    for one in many {
        turned_away += usize::from(one.await.expect("it ends") == StatusCode::SERVICE_UNAVAILABLE);
    }
    assert!(turned_away > 0, "120 bodies of 99 kB were kept at once, as text and as values, in a room of 8 MiB");
}

// --------------------------------------------------------------------------------------------------------- what has held

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_code_of_many_parallel_log_ins_is_accepted_once_and_guesses_are_counted_together() {
    let lab = Lab::alone(&["alice", "bob"]).await;
    let (alice, bob) = (lab.token("alice").await, lab.token("bob").await);
    lab.activate("alice", &alice, json!({"number": "4100000001"})).await;
    lab.activate("bob", &bob, json!({"number": "4100000002"})).await;
    // A token is good for one person and one purpose.
    let mfa = lab.mfa_token("alice").await;
    let other = mfa_token(&lab.post("/alice/mfa/activate", &alice, json!({"number": "4100000003"})).await);
    let activation_code = lab.last_code();
    assert_eq!(lab.post("/alice/mfa/challenge", &mfa, json!({})).await.status, 200);
    let code = lab.last_code();
    for (path, token, code) in [
        ("/bob/mfa/verify", &mfa, &code),
        ("/alice/mfa/confirm", &mfa, &code),
        ("/alice/mfa/verify", &other, &activation_code),
        ("/alice/mfa/verify", &alice, &code),
    ] {
        assert_eq!(lab.post(path, token, json!({"code": code})).await.status, 403, "{path}");
    }
    for body in ["{}", "[]", r#"{"code":null}"#, r#"{"code":""}"#, r#"{"code":[]}"#, r#"{"code":{"$ne":1}}"#, r#"{"code":["1"]}"#] {
        assert_eq!(lab.ask("POST", "localhost", "/alice/mfa/verify", &mfa, body).await.status, 400, "{body}");
    }
    // Once, of many at a time.
    let many: Vec<_> = (0..16)
        .map(|_| {
            let (doors, mfa, body) = (lab.doors.clone(), mfa.clone(), json!({"code": code}).to_string());
            tokio::spawn(async move {
                let request = Request::post("/alice/mfa/verify").header("host", "localhost").header("content-type", JSON);
                let request = request.header("authorization", mfa).body(Body::from(body)).expect("a request");
                doors.oneshot(request).await.expect("infallible").status()
            })
        })
        .collect();
    let mut passed = 0;
    for one in many {
        passed += usize::from(one.await.expect("it ends") == 200);
    }
    assert_eq!(passed, 1);
    // Three guesses, over log-ins, resends, activations and recovery together.
    let mut judged = 0;
    for round in 0..6 {
        let mfa = lab.mfa_token("alice").await;
        // Where no code was sent there is nothing to guess.
        let is_open = lab.post("/alice/mfa/challenge", &mfa, json!({})).await.status == 200;
        let wrong = if lab.last_code().starts_with('0') { "1111" } else { "0000" };
        let said = match round % 2 {
            0 => lab.post("/alice/mfa/verify", &mfa, json!({"code": wrong})).await,
            _ => {
                let body = json!({"username": "alice", "password": PASSWORD, "appId": "app", "recoveryCode": "no such code"});
                lab.post("/alice/mfa/recover", "", body).await
            }
        };
        judged += usize::from(said.status == 400 && (is_open || round % 2 == 1));
    }
    assert_eq!(judged, 3);
}

/// Whichever call of the store fails, nobody is let in, no guess is free, and an accident is told as one.
#[tokio::test]
async fn a_store_that_fails_at_any_call_opens_nothing() {
    let lab = Lab::alone(&["alice"]).await;
    let token = lab.token("alice").await;
    lab.activate("alice", &token, json!({"number": "4100000001"})).await;
    let mfa = lab.mfa_token("alice").await;
    assert_eq!(lab.post("/alice/mfa/challenge", &mfa, json!({})).await.status, 200);
    let wrong = if lab.last_code().starts_with('0') { "1111" } else { "0000" };
    let mut accidents = 0;
    let mut judged = 0;
    for at in 1..=7 {
        // So that what is known is looked up anew.
        lab.clock.pass(Duration::from_secs(3));
        lab.store.until.store(at, Ordering::SeqCst);
        let said = lab.login("alice").await;
        lab.store.until.store(0, Ordering::SeqCst);
        assert!(said.status == 302 || said.status == 503, "{at}: {} {}", said.status, said.body);
        accidents += usize::from(said.status == 503);
        lab.store.until.store(at, Ordering::SeqCst);
        let said = lab.post("/alice/mfa/verify", &mfa, json!({"code": wrong})).await;
        lab.store.until.store(0, Ordering::SeqCst);
        assert!([400, 403, 503].contains(&said.status.as_u16()), "{at}: {} {}", said.status, said.body);
        judged += usize::from(said.status == 400);
        lab.store.until.store(at, Ordering::SeqCst);
        let said = lab.post("/alice/mfa/deactivate", &mfa, json!({})).await;
        lab.store.until.store(0, Ordering::SeqCst);
        assert!([403, 503].contains(&said.status.as_u16()), "{at}: {}", said.body);
    }
    assert!(accidents >= 4 && judged <= 3, "{accidents} {judged}");
}

/// Who makes the codes may change while somebody logs in.
#[tokio::test]
async fn a_log_in_that_is_open_when_the_mode_changes_takes_only_codes_that_were_sent() {
    let both = |service: &str| {
        let body = r#"{"to":"{{ number }}","code":"{{ code }}"}"#;
        let at = |path: &str| json!({"url": format!("{service}/{path}"), "method": "POST", "body": body});
        json!({"single": at("send"), "challenge": at("start"), "verify": at("check")})
    };
    let lab = Lab::new("single", both, json!({})).await;
    lab.person("alice").await;
    let token = lab.token("alice").await;
    lab.activate("alice", &token, json!({"number": "4100000001"})).await;
    let mfa = lab.mfa_token("alice").await;
    assert_eq!(lab.post("/alice/mfa/challenge", &mfa, json!({})).await.status, 200);
    let wrong = if lab.last_code().starts_with('0') { "1111" } else { "0000" };
    // Ours is judged here, though the service would take anything.
    put_provider(&lab.core, &lab.tenant, "challenge-verify", &both(&lab.service.url)).await;
    assert_eq!(lab.post("/alice/mfa/verify", &mfa, json!({"code": wrong})).await.status, 400);
    // Another one is theirs, and after that ours again: what is theirs is no code of ours, and nobody is asked.
    assert_eq!(lab.post("/alice/mfa/challenge", &mfa, json!({})).await.status, 200);
    put_provider(&lab.core, &lab.tenant, "single", &both(&lab.service.url)).await;
    let asked = lab.service.seen().len();
    for code in ["0000", "1111", "", "{{ code }}"] {
        assert_eq!(lab.post("/alice/mfa/verify", &mfa, json!({"code": code})).await.status, 400, "{code}");
    }
    assert_eq!(lab.service.seen().len(), asked);
    assert_eq!(lab.post("/alice/mfa/challenge", &mfa, json!({})).await.status, 200);
    assert_eq!(lab.post("/alice/mfa/verify", &mfa, json!({"code": lab.last_code()})).await.status, 200);
}

/// A service without a verdict leaves an attempt paid, and no number of sign-ins gives more of them.
#[tokio::test]
async fn a_service_that_gives_no_verdict_gives_no_more_guesses() {
    let endpoints = |service: &str| {
        let at = |path: &str| json!({"url": format!("{service}/{path}"), "method": "POST", "body": r#"{"code":"{{ code }}"}"#});
        json!({"challenge": at("start"), "verify": at("check")})
    };
    let lab = Lab::new("challenge-verify", endpoints, json!({})).await;
    lab.person("alice").await;
    let token = lab.token("alice").await;
    let mfa = mfa_token(&lab.post("/alice/mfa/activate", &token, json!({"number": "41791231212"})).await);
    assert_eq!(lab.post("/alice/mfa/confirm", &mfa, json!({"code": "1234"})).await.status, 200);
    lab.service.say(|seen| if seen.target == "/check" { (500, JSON, "{}".into()) } else { fine(seen) });
    let before = lab.service.seen().iter().filter(|it| it.target == "/check").count();
    for _ in 0..4 {
        let mfa = lab.mfa_token("alice").await;
        lab.post("/alice/mfa/challenge", &mfa, json!({})).await;
        for _ in 0..2 {
            // What cannot be made into a request is given back, and must not open what others have closed.
            lab.post("/alice/mfa/verify", &mfa, json!({"code": "1111", "x": "y".repeat(17 * 1024)})).await;
            lab.post("/alice/mfa/verify", &mfa, json!({"code": "1111"})).await;
        }
    }
    let guesses = lab.service.seen().iter().filter(|it| it.target == "/check").count() - before;
    assert!((1..=3).contains(&guesses), "{guesses}");
}

/// An attempt that reached nobody is given back. Where it was the last one of a challenge, that one is over, and nothing is locked: who
/// mistypes nothing asks for another code, and is not sent away.
#[tokio::test]
async fn the_last_attempt_that_reached_nobody_locks_nobody() {
    let endpoints = |service: &str| {
        let at = |path: &str| json!({"url": format!("{service}/{path}"), "method": "POST", "body": r#"{"code":"{{ code }}"}"#});
        json!({"challenge": at("start"), "verify": at("check")})
    };
    let lab = Lab::new("challenge-verify", endpoints, json!({})).await;
    lab.person("alice").await;
    let token = lab.token("alice").await;
    let mfa = mfa_token(&lab.post("/alice/mfa/activate", &token, json!({"number": "41791231212"})).await);
    assert_eq!(lab.post("/alice/mfa/confirm", &mfa, json!({"code": "1234"})).await.status, 200);
    let mfa = lab.mfa_token("alice").await;
    assert_eq!(lab.post("/alice/mfa/challenge", &mfa, json!({})).await.status, 200);
    lab.service.say(|seen| if seen.target == "/start" || seen.body.contains("1234") { fine(seen) } else { (403, JSON, "{}".into()) });
    for _ in 0..2 {
        assert_eq!(lab.post("/alice/mfa/verify", &mfa, json!({"code": "0000"})).await.status, 400);
    }
    lab.post("/alice/mfa/verify", &mfa, json!({"code": "1234", "x": "y".repeat(17 * 1024)})).await;
    assert_eq!(lab.post("/alice/mfa/challenge", &mfa, json!({})).await.status, 200);
    let said = lab.post("/alice/mfa/verify", &mfa, json!({"code": "1234"})).await;
    assert_eq!(said.status, 200, "{}", said.body);
}

/// Applications read the data back (the order is the order in which a template is filled in), and so does whoever goes back to the
/// product: what is shown is what is kept.
#[tokio::test]
async fn data_are_shown_in_the_order_in_which_they_are_kept() {
    let lab = Lab::alone(&["alice"]).await;
    let token = lab.token("alice").await;
    lab.activate("alice", &token, json!({"number": "1"})).await;
    let kept = r#"{"number":"4100000001","message":"to {{ number }}"}"#;
    let mfa = mfa_token(&lab.ask("POST", "localhost", "/alice/mfa/activate", &token, kept).await);
    assert_eq!(lab.post("/alice/mfa/confirm", &mfa, json!({"code": lab.last_code()})).await.status, 200);
    let shown = lab.ask("GET", "localhost", "/alice/profile/private", &token, "").await.body;
    assert!(shown.contains(kept), "{shown}");
}
