//! The contract that every engine keeps: what the core believes about its store, as tests.
//!
//! [`holds`] runs all of it. It wants an empty store of its own, and leaves it full.

use countersign_core::nouns::challenge::{Challenge, Evidence, Proof, Purpose, Stage, Verdict};
use countersign_core::nouns::client::Client;
use countersign_core::nouns::delivery::{Delivery, DeliveryStage};
use countersign_core::nouns::event::{Event, What};
use countersign_core::nouns::factor::{Factor, FactorKind, FactorStage};
use countersign_core::nouns::limit::{Count, Failures, Limit, Sends};
use countersign_core::nouns::provider::ProviderSettings;
use countersign_core::nouns::sign_in::{Finishes, SignIn};
use countersign_core::nouns::template::Template;
use countersign_core::nouns::tenant::{Policy, Tenant};
use countersign_core::nouns::user::{Access, AccessStage, Account, Realm, User};
use countersign_core::ports::test::Script;
use countersign_core::ports::{Chance, Change, Key, Listing, Outcome, Record, Seen, Step, Store, Swept, Turn, Version};
use countersign_core::words::address::{Channel, Fingerprint, Login};
use countersign_core::words::id::{
    AccessId, ChallengeId, ClientId, DeliveryId, EventId, FactorId, KeyId, NodeId, ProviderId, TemplateId, TenantId, UserId,
};
use countersign_core::words::refusal::Fault;
use countersign_core::words::secret::{KeptCode, Mac, MasterKey, Place, Sealed, TenantKeys, WrappedKey};
use countersign_core::words::time::Timestamp;
use countersign_core::words::wording::Wording;
use std::num::NonZeroU8;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Runs the whole contract.
///
/// # Panics
/// When the store breaks a promise, at the line that says which.
pub async fn holds(store: Arc<dyn Store>) {
    let world = Arc::new(World::new(store));
    what_was_written_is_read_as_it_was(&world).await;
    a_stale_replace_changes_nothing(&world).await;
    an_insert_on_a_taken_key_is_told_and_changes_nothing(&world).await;
    an_insert_on_a_taken_name_is_told_and_changes_nothing(&world).await;
    a_name_is_free_again_once_its_holder_is_gone_or_renamed(&world).await;
    a_change_happens_whole_or_not_at_all(&world).await;
    a_change_that_fails_takes_no_neighbour_along(&world).await;
    the_writes_of_a_change_happen_in_their_order(&world).await;
    a_change_of_nothing_is_done(&world).await;
    a_judge_that_looks_further_gets_what_it_asked_for(&world).await;
    two_right_answers_at_once_pass_once(&world).await;
    wrong_answers_at_once_are_all_paid_for(&world).await;
    decisions_of_one_caller_happen_in_order(&world).await;
    a_decision_that_nobody_awaits_happens(&world).await;
    what_was_answered_is_seen_by_the_next_who_looks(&world).await;
    one_tenant_never_sees_another(&world).await;
    lists_are_whole_and_in_their_order(&world).await;
    the_factors_of_a_person_come_oldest_first(&world).await;
    events_come_newest_first(&world).await;
    what_is_due_is_listed_longest_waiting_first_and_only_when_due(&world).await;
    a_leased_delivery_is_claimed_once(&world).await;
    retention_removes_what_is_over_and_keeps_what_waits(&world).await;
    retention_is_bounded_and_comes_to_an_end(&world).await;
    failures_are_kept_by_retention(&world).await;
    a_sign_in_is_found_by_its_own_fingerprint_and_in_its_own_tenant(&world).await;
    a_sign_in_that_many_finish_at_once_is_finished_once_and_with_its_challenge(&world).await;
    a_sign_in_stays_until_it_is_over(&world).await;
    retention_keeps_what_begins_anew_while_it_looks(&world).await;
    a_turn_is_one_nodes_until_it_is_over(&world).await;
    the_stamp_grows_with_every_change_of_configuration_and_with_nothing_else(&world).await;
    factors_that_were_counted_are_still_so_when_one_is_added(&world).await;
    the_store_says_how_it_is(&world).await;
}

/// Noon, 1 January 2030, and so many seconds later.
fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(1_893_499_200_000 + seconds * 1000)
}

/// The store, and everything of which nouns are made.
struct World {
    store: Arc<dyn Store>,
    chance: Script,
    key: WrappedKey,
    keys: TenantKeys,
    sealed: Sealed,
}

impl World {
    fn new(store: Arc<dyn Store>) -> Self {
        let chance = Script::default();
        let (tenant, master) = (TenantId::new(at(0), &chance), MasterKey::draw(&chance));
        let key = WrappedKey::draw(tenant, KeyId::new(at(0), &chance), &master, &chance);
        let keys = TenantKeys::open(tenant, std::slice::from_ref(&key), &master).expect("its own key");
        let sealed = keys.seal(Place { noun: "contract", id: &[], field: "any" }, b"words", &chance);
        Self { store, chance, key, keys, sealed }
    }

    fn tenant_id(&self) -> TenantId {
        TenantId::new(at(0), &self.chance)
    }

    fn fingerprint(&self) -> Fingerprint {
        let mut bytes = [0; 16];
        self.chance.fill(&mut bytes);
        Fingerprint::from_bytes(bytes)
    }

    fn mac(&self, digits: &str) -> Mac {
        self.keys.mac("contract", &[digits.as_bytes()])
    }

    fn tenant(&self, id: TenantId, name: &str) -> Tenant {
        Tenant {
            id,
            name: name.into(),
            display_name: "Example GmbH & Söhne \"🔑\"".into(),
            policy: Policy { countries: vec!["44".into()], ..Policy::default() },
            keys: vec![self.key.clone()],
            signing_key: self.sealed.clone(),
            routes: vec![],
            email_from: None,
            sms_from: Some("Example".into()),
            dialects: [("pryv".to_owned(), serde_json::json!({ "mode": "challenge-verify" }))].into(),
            created_at: at(0),
        }
    }

    fn client(&self, client_id: &str) -> Client {
        Client {
            id: ClientId::new(at(0), &self.chance),
            client_id: client_id.into(),
            name: "Portal".into(),
            application: "APM0000003".into(),
            secrets: vec![self.mac("one"), self.mac("two")],
            email_from: None,
            disabled: false,
            created_at: at(0),
        }
    }

    fn user(&self, named: Fingerprint) -> User {
        let login = Login::parse("j.doe").expect("a name");
        User { id: UserId::new(at(0), &self.chance), realm: Realm::Tenant, login, named, account: None, created_at: at(0) }
    }

    /// A person whose directory is kept here, logged in with one application.
    fn member(&self) -> User {
        let access = Access {
            id: AccessId::new(at(0), &self.chance),
            app: "notes".into(),
            mac: self.mac("a token"),
            stage: AccessStage::Live { token: self.sealed.clone(), used_at: at(0) },
            created_at: at(0),
        };
        let account = Account {
            password: "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$aGFzaA".into(),
            language: "de-AT".into(),
            profile: Some(self.sealed.clone()),
            accesses: vec![access],
        };
        User { account: Some(account), ..self.user(self.fingerprint()) }
    }

    /// A way to a person that only the provider knows.
    fn external(&self, user: UserId) -> Factor {
        let recovery = vec![KeptCode::hashed(&self.mac("a code")), KeptCode::found("2f6b2d6e-1c5b-4c53-9c43-0f2a8d3f6f10")];
        Factor { kind: FactorKind::External { data: self.sealed.clone(), recovery }, ..self.factor(user, "", 0) }
    }

    fn factor(&self, user: UserId, name: &str, seconds: i64) -> Factor {
        Factor {
            id: FactorId::new(at(seconds), &self.chance),
            user,
            name: name.into(),
            kind: FactorKind::Totp { seed: self.sealed.clone(), burnt: Some(63_116_640) },
            stage: FactorStage::Active { since: at(seconds) },
            created_at: at(seconds),
        }
    }

    fn challenge(&self, seconds: i64) -> Challenge {
        Challenge {
            id: ChallengeId::new(at(seconds), &self.chance),
            realm: Realm::Client(ClientId::new(at(0), &self.chance)),
            channel: Channel::Sms,
            failures: vec![self.fingerprint()],
            purpose: Purpose::Authenticate,
            stage: Stage::Open {
                attempts_left: NonZeroU8::new(3).expect("three"),
                expires_at: at(seconds + 300),
                proof: Proof::Code { mac: self.mac("523471"), delivery: DeliveryId::new(at(seconds), &self.chance) },
            },
        }
    }

    /// A challenge of `sign_in`, whose code the provider made.
    fn asked_elsewhere(&self, sign_in: &SignIn) -> Challenge {
        let proof = Proof::External { delivery: DeliveryId::new(at(0), &self.chance) };
        let stage = Stage::Open { attempts_left: NonZeroU8::new(3).expect("three"), expires_at: at(300), proof };
        Challenge { channel: Channel::External, purpose: Purpose::SignIn(sign_in.of), stage, ..self.challenge(0) }
    }

    /// A sign-in that is over five minutes after `seconds`.
    fn sign_in(&self, seconds: i64) -> SignIn {
        SignIn {
            of: self.fingerprint(),
            user: self.fingerprint(),
            purpose: Finishes::Login,
            challenge: None,
            baggage: self.sealed.clone(),
            over_at: at(seconds + 300),
        }
    }

    fn delivery(&self, seconds: i64, due: i64) -> Delivery {
        Delivery {
            id: DeliveryId::new(at(seconds), &self.chance),
            challenge: ChallengeId::new(at(seconds), &self.chance),
            channel: Channel::Sms,
            order: self.sealed.clone(),
            stage: DeliveryStage::Queued { due_at: at(due), attempt: 0, message: self.sealed.clone() },
        }
    }

    fn sent(&self, delivery: Delivery, seconds: i64) -> Delivery {
        let provider = ProviderId::new(at(0), &self.chance);
        delivery.over(DeliveryStage::Sent { at: at(seconds), provider, receipt: None })
    }

    /// A count of sends that is over five minutes after `seconds`.
    fn sends(&self, seconds: i64) -> Limit {
        let (sends, _) = Sends::take(None, at(seconds), &Policy::default());
        Limit { of: self.fingerprint(), count: Count::Sends(sends) }
    }

    fn failures(&self) -> Limit {
        let failures = Failures::default().one_more(at(0), &Policy::default());
        Limit { of: self.fingerprint(), count: Count::Failures(failures) }
    }

    fn provider(&self, name: &str) -> ProviderSettings {
        ProviderSettings {
            id: ProviderId::new(at(0), &self.chance),
            name: name.into(),
            channels: vec![Channel::Sms, Channel::Voice],
            kind: "http".into(),
            settings: serde_json::json!({ "url": "https://sms.example.com/send", "headers": { "x": "1" } }),
            secrets: [("token".to_owned(), self.sealed.clone())].into(),
            created_at: at(0),
        }
    }

    fn template(&self, realm: Realm, name: &str) -> Template {
        let id = TemplateId::new(at(0), &self.chance);
        Template { id, realm, name: name.into(), channel: Channel::Email, wording: Wording::standard(Channel::Email), created_at: at(0) }
    }

    fn event(&self, seconds: i64) -> Event {
        let id = EventId::new(at(seconds), &self.chance);
        Event { id, at: at(seconds), what: What::Passed { challenge: ChallengeId::new(at(seconds), &self.chance) } }
    }

    /// Lets `change` happen, whatever is there.
    async fn write(&self, tenant: TenantId, change: Change) -> Result<Outcome, Fault> {
        self.store.decide(tenant, vec![], Box::new(move |_| Step::Write(change.clone()))).await
    }

    async fn put(&self, tenant: TenantId, records: impl IntoIterator<Item = Record>) {
        let change = records.into_iter().fold(Change::none(), Change::insert);
        assert_eq!(self.write(tenant, change).await.expect("the store works"), Outcome::Done);
    }

    /// The noun as JSON and its version.
    async fn found(&self, tenant: TenantId, key: Key) -> Option<(serde_json::Value, Version)> {
        self.store.find(tenant, key).await.expect("the store works").map(|held| (json(&held.noun), held.version))
    }

    async fn is_there(&self, tenant: TenantId, key: Key) -> bool {
        self.found(tenant, key).await.is_some()
    }

    async fn count_events(&self, tenant: TenantId) -> usize {
        self.store.events(tenant, None, 10_000).await.expect("the store works").len()
    }

    /// Sweeps until nothing more is to be done. Gives the rows removed.
    async fn sweep(&self, tenant: TenantId, before: Timestamp, now: Timestamp) -> u64 {
        let mut removed = 0;
        for _ in 0..1_000 {
            let Swept { removed: these, more } = self.store.sweep(tenant, before, now).await.expect("the store works");
            removed += these;
            if !more {
                return removed;
            }
        }
        panic!("retention never ends");
    }
}

fn json(record: &Record) -> serde_json::Value {
    match record {
        Record::Tenant(it) => serde_json::to_value(it),
        Record::Client(it) => serde_json::to_value(it),
        Record::User(it) => serde_json::to_value(it),
        Record::Factor(it) => serde_json::to_value(it),
        Record::Challenge(it) => serde_json::to_value(it),
        Record::Delivery(it) => serde_json::to_value(it),
        Record::Limit(it) => serde_json::to_value(it),
        Record::SignIn(it) => serde_json::to_value(it),
        Record::Provider(it) => serde_json::to_value(it),
        Record::Template(it) => serde_json::to_value(it),
    }
    .expect("nouns are JSON")
}

/// Runs `one` in 64 tasks at once, and waits for all of them.
async fn at_once<F: Future<Output = ()> + Send + 'static>(one: impl Fn() -> F) {
    let tasks: Vec<_> = (0..64).map(|_| tokio::spawn(one())).collect();
    for task in tasks {
        task.await.expect("no task panics");
    }
}

async fn what_was_written_is_read_as_it_was(world: &World) {
    let id = world.tenant_id();
    let user = world.user(world.fingerprint());
    let named = user.named;
    let (member, sign_in) = (world.member(), world.sign_in(0));
    let records = [
        Record::Tenant(world.tenant(id, "as-it-was")),
        Record::Client(world.client("as-it-was")),
        Record::Factor(world.factor(user.id, "phone", 0)),
        Record::User(user.clone()),
        Record::Challenge(world.challenge(0)),
        Record::Delivery(world.delivery(0, 0)),
        Record::Limit(world.sends(0)),
        Record::Limit(world.failures()),
        Record::Provider(world.provider("as-it-was")),
        Record::Template(world.template(Realm::Tenant, "as-it-was")),
        Record::Factor(world.external(member.id)),
        Record::User(member),
        Record::Challenge(world.asked_elsewhere(&sign_in)),
        Record::SignIn(sign_in),
    ];
    world.put(id, records.clone()).await;
    for record in &records {
        assert_eq!(world.found(id, record.key()).await, Some((json(record), 1)), "{:?}", record.key());
    }
    assert_eq!(world.found(id, Key::UserNamed(named)).await, Some((json(&Record::User(user.clone())), 1)));
    assert_eq!(world.found(id, Key::FactorsOf(user.id)).await, Some((json(&records[2]), 1)));
    let change = records.iter().fold(Change::none(), |change, record| change.remove(record.key(), 1));
    assert_eq!(world.write(id, change).await.expect("the store works"), Outcome::Done);
    for record in &records {
        assert!(!world.is_there(id, record.key()).await, "{:?} was removed", record.key());
    }
}

async fn a_stale_replace_changes_nothing(world: &World) {
    let tenant = world.tenant_id();
    let first = world.challenge(0);
    let key = Key::Challenge(first.id);
    world.put(tenant, [Record::Challenge(first.clone())]).await;
    let second = first.clone().spent(at(1));
    let replaced = world.write(tenant, Change::none().replace(Record::Challenge(second.clone()), 1)).await;
    assert_eq!(replaced.expect("the store works"), Outcome::Done);
    assert_eq!(world.found(tenant, key).await, Some((json(&Record::Challenge(second.clone())), 2)));

    // These judges never read, so asking them again does not help.
    let other = world.delivery(0, 0);
    let stale = [
        Change::none().replace(Record::Challenge(first.clone()), 1),
        Change::none().remove(key, 1),
        Change::none().insert(Record::Delivery(other.clone())).replace(Record::Challenge(first.clone()), 1),
        Change::none().replace(Record::Challenge(world.challenge(0)), 1),
        Change::none().remove(Key::Challenge(world.challenge(0).id), 1),
    ];
    for change in stale {
        let answered = world.write(tenant, change.tell(world.event(0))).await;
        assert!(matches!(answered, Err(Fault::Contended)), "{answered:?}");
    }
    assert_eq!(world.found(tenant, key).await, Some((json(&Record::Challenge(second)), 2)));
    assert!(!world.is_there(tenant, Key::Delivery(other.id)).await);
    assert_eq!(world.count_events(tenant).await, 0);
}

async fn an_insert_on_a_taken_key_is_told_and_changes_nothing(world: &World) {
    let tenant = world.tenant_id();
    let there = world.challenge(0);
    world.put(tenant, [Record::Challenge(there.clone())]).await;
    let other = there.clone().spent(at(1));
    let change = Change::none().insert(Record::Challenge(other)).tell(world.event(0));
    assert_eq!(world.write(tenant, change).await.expect("the store works"), Outcome::Taken);
    assert_eq!(world.found(tenant, Key::Challenge(there.id)).await, Some((json(&Record::Challenge(there)), 1)));
    assert_eq!(world.count_events(tenant).await, 0);
}

async fn an_insert_on_a_taken_name_is_told_and_changes_nothing(world: &World) {
    let (tenant, other) = (world.tenant_id(), world.tenant_id());
    let named = world.fingerprint();
    let client = Realm::Client(ClientId::new(at(0), &world.chance));
    let there = [
        Record::Tenant(world.tenant(tenant, "taken")),
        Record::Client(world.client("taken")),
        Record::User(world.user(named)),
        Record::Provider(world.provider("taken")),
        Record::Template(world.template(Realm::Tenant, "taken")),
    ];
    world.put(tenant, there.clone()).await;
    let event = world.event(0);
    let taken = [
        (other, Record::Tenant(world.tenant(other, "taken"))),
        (tenant, Record::Client(world.client("taken"))),
        (other, Record::Client(world.client("taken"))),
        (tenant, Record::User(world.user(named))),
        (tenant, Record::Provider(world.provider("taken"))),
        (tenant, Record::Template(world.template(Realm::Tenant, "Taken"))),
    ];
    for (of, record) in taken {
        let key = record.key();
        let told = world.write(of, Change::none().insert(record).tell(event.clone())).await.expect("the store works");
        assert_eq!(told, Outcome::Taken, "{key:?}");
        assert!(!world.is_there(of, key).await, "{key:?}");
    }
    assert_eq!((world.count_events(tenant).await, world.count_events(other).await), (0, 0));
    for record in there {
        assert_eq!(world.found(tenant, record.key()).await, Some((json(&record), 1)));
    }
    // What is unique in one tenant is free in the next.
    let free = [
        Record::User(world.user(named)),
        Record::Provider(world.provider("taken")),
        Record::Template(world.template(Realm::Tenant, "taken")),
        Record::Template(world.template(client, "taken")),
    ];
    world.put(other, free).await;
}

async fn a_name_is_free_again_once_its_holder_is_gone_or_renamed(world: &World) {
    let tenant = world.tenant_id();
    let (first, second) = (world.provider("first"), world.provider("second"));
    world.put(tenant, [Record::Provider(first.clone()), Record::Provider(second.clone())]).await;
    let renamed = ProviderSettings { name: "second".into(), ..first.clone() };
    let change = Change::none().replace(Record::Provider(renamed), 1).tell(world.event(0));
    assert_eq!(world.write(tenant, change).await.expect("the store works"), Outcome::Taken, "the other still has the name");
    assert_eq!(world.found(tenant, Key::Provider(first.id)).await, Some((json(&Record::Provider(first.clone())), 1)));
    assert_eq!(world.count_events(tenant).await, 0);

    let renamed = ProviderSettings { name: "third".into(), ..first.clone() };
    let change = Change::none().replace(Record::Provider(renamed), 1).remove(Key::Provider(second.id), 1);
    assert_eq!(world.write(tenant, change).await.expect("the store works"), Outcome::Done);
    world.put(tenant, [Record::Provider(world.provider("first")), Record::Provider(world.provider("second"))]).await;
}

async fn a_change_happens_whole_or_not_at_all(world: &World) {
    let tenant = world.tenant_id();
    let (there, limit, provider) = (world.challenge(0), world.failures(), world.provider("whole"));
    world.put(tenant, [Record::Challenge(there.clone()), Record::Limit(limit.clone()), Record::Provider(provider.clone())]).await;
    let (delivery, counted) = (world.delivery(0, 0), Limit { of: limit.of, ..world.failures() });
    let before = Change::none().insert(Record::Delivery(delivery.clone())).replace(Record::Limit(counted), 1);
    let impossible = [
        before.clone().insert(Record::Challenge(there.clone())),
        before.clone().insert(Record::Provider(world.provider("whole"))),
        before.clone().remove(Key::Provider(provider.id), 1).insert(Record::Challenge(there.clone())),
    ];
    for change in impossible {
        assert_eq!(world.write(tenant, change.tell(world.event(0))).await.expect("the store works"), Outcome::Taken);
        assert!(!world.is_there(tenant, Key::Delivery(delivery.id)).await);
        assert_eq!(world.found(tenant, Key::Limit(limit.of)).await, Some((json(&Record::Limit(limit.clone())), 1)));
        assert!(world.is_there(tenant, Key::Provider(provider.id)).await);
        assert_eq!(world.count_events(tenant).await, 0);
    }
    let possible = before.insert(Record::Challenge(world.challenge(0))).tell(world.event(0)).tell(world.event(1));
    assert_eq!(world.write(tenant, possible).await.expect("the store works"), Outcome::Done);
    assert_eq!(world.count_events(tenant).await, 2);
    assert_eq!(world.found(tenant, Key::Limit(limit.of)).await.map(|(_, version)| version), Some(2));
}

async fn a_change_that_fails_takes_no_neighbour_along(world: &World) {
    let tenant = world.tenant_id();
    let there = world.challenge(0);
    world.put(tenant, [Record::Challenge(there.clone())]).await;
    let mut answers = Vec::new();
    for place in 0..200 {
        let new = world.delivery(0, 0);
        let mut change = Change::none().insert(Record::Delivery(new.clone())).tell(world.event(0));
        if place % 10 == 7 {
            change = change.insert(Record::Challenge(there.clone()));
        } else if place % 10 == 3 {
            change = change.remove(Key::Challenge(there.id), 99);
        }
        answers.push((place, new.id, world.store.decide(tenant, vec![], Box::new(move |_| Step::Write(change.clone())))));
    }
    for (place, id, answer) in answers {
        let (answered, there) = (answer.await, world.is_there(tenant, Key::Delivery(id)).await);
        match place % 10 {
            7 => assert!(matches!(answered, Ok(Outcome::Taken)) && !there, "{place}: {answered:?}"),
            3 => assert!(matches!(answered, Err(Fault::Contended)) && !there, "{place}: {answered:?}"),
            _ => assert!(matches!(answered, Ok(Outcome::Done)) && there, "{place}: {answered:?}"),
        }
    }
    assert_eq!(world.count_events(tenant).await, 160);
}

async fn the_writes_of_a_change_happen_in_their_order(world: &World) {
    let tenant = world.tenant_id();
    let (old, new) = (world.provider("same"), world.provider("same"));
    world.put(tenant, [Record::Provider(old.clone())]).await;
    let change = Change::none().remove(Key::Provider(old.id), 1).insert(Record::Provider(new.clone()));
    assert_eq!(world.write(tenant, change).await.expect("the store works"), Outcome::Done);
    assert!(!world.is_there(tenant, Key::Provider(old.id)).await && world.is_there(tenant, Key::Provider(new.id)).await);

    let first = world.challenge(0);
    let last = first.clone().spent(at(1));
    let change = Change::none().insert(Record::Challenge(first.clone())).replace(Record::Challenge(last.clone()), 1);
    assert_eq!(world.write(tenant, change).await.expect("the store works"), Outcome::Done);
    assert_eq!(world.found(tenant, Key::Challenge(first.id)).await, Some((json(&Record::Challenge(last)), 2)));
}

async fn a_change_of_nothing_is_done(world: &World) {
    let answered = world.store.decide(world.tenant_id(), vec![Key::Tenant], Box::new(|_| Step::Write(Change::none()))).await;
    assert_eq!(answered.expect("the store works"), Outcome::Done);
}

async fn a_judge_that_looks_further_gets_what_it_asked_for(world: &World) {
    let tenant = world.tenant_id();
    let user = world.user(world.fingerprint());
    let factors = [world.factor(user.id, "old", 0), world.factor(user.id, "new", 10)];
    let limit = world.failures();
    let mut records = vec![Record::User(user.clone()), Record::Limit(limit.clone())];
    records.extend(factors.iter().rev().cloned().map(Record::Factor));
    world.put(tenant, records).await;
    let (named, of, missing) = (user.named, limit.of, world.challenge(0).id);
    let (asked, names) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
    let (count, keep) = (asked.clone(), names.clone());
    let judge = move |seen: &mut Seen| {
        count.fetch_add(1, Ordering::SeqCst);
        let Some(Record::User(user)) = seen.peek(Key::UserNamed(named)) else { return Step::Write(Change::none()) };
        let user = user.id;
        if !seen.has_looked_at(Key::FactorsOf(user)) {
            return Step::Look(vec![Key::FactorsOf(user), Key::Challenge(missing)]);
        }
        if !seen.has_looked_at(Key::Limit(of)) {
            return Step::Look(vec![Key::Limit(of), Key::Challenge(missing)]);
        }
        assert!(seen.has_looked_at(Key::Challenge(missing)) && seen.peek_challenge(missing).is_none());
        keep.lock().expect("nobody else").extend(seen.factors_of(user).into_iter().map(|held| held.noun.name));
        let held = seen.limit(of).expect("is there");
        Step::Write(Change::none().remove(Key::Limit(of), held.version))
    };
    let answered = world.store.decide(tenant, vec![Key::UserNamed(named)], Box::new(judge)).await;
    assert_eq!(answered.expect("the store works"), Outcome::Done);
    assert_eq!(asked.load(Ordering::SeqCst), 3);
    assert_eq!(*names.lock().expect("nobody else"), ["old", "new"]);
    assert!(!world.is_there(tenant, Key::Limit(of)).await);
}

/// Answers a challenge by the real rule, and keeps the verdict.
async fn answer(world: Arc<World>, tenant: TenantId, id: ChallengeId, evidence: Evidence, verdicts: Arc<Mutex<Vec<Verdict>>>) {
    let said = Arc::new(Mutex::new(None));
    let (tell, event) = (said.clone(), world.event(1));
    let judge = move |seen: &mut Seen| {
        let held = seen.challenge(id).expect("is there");
        let (next, verdict) = held.noun.answer(&evidence, at(1));
        *tell.lock().expect("nobody else") = Some(verdict);
        Step::Write(Change::none().replace(Record::Challenge(next), held.version).tell(event.clone()))
    };
    let answered = world.store.decide(tenant, vec![Key::Challenge(id)], Box::new(judge)).await;
    assert_eq!(answered.expect("the store works"), Outcome::Done);
    let verdict = said.lock().expect("nobody else").take().expect("the judge was asked");
    verdicts.lock().expect("nobody else").push(verdict);
}

async fn answered_at_once(world: &Arc<World>, digits: &str) -> (Vec<Verdict>, serde_json::Value) {
    let tenant = world.tenant_id();
    let challenge = world.challenge(0);
    world.put(tenant, [Record::Challenge(challenge.clone())]).await;
    let verdicts = Arc::new(Mutex::new(Vec::new()));
    let evidence = Evidence::Code(world.mac(digits));
    at_once(|| answer(world.clone(), tenant, challenge.id, evidence, verdicts.clone())).await;
    assert_eq!(world.count_events(tenant).await, 64);
    let (kept, _) = world.found(tenant, Key::Challenge(challenge.id)).await.expect("is there");
    let verdicts = verdicts.lock().expect("nobody else").clone();
    (verdicts, kept)
}

/// Invariant 1.
async fn two_right_answers_at_once_pass_once(world: &Arc<World>) {
    for _ in 0..10 {
        let (verdicts, kept) = answered_at_once(world, "523471").await;
        let count = |wanted: Verdict| verdicts.iter().filter(|it| **it == wanted).count();
        assert_eq!((count(Verdict::Passed), count(Verdict::Ended)), (1, 63));
        assert!(kept["stage"]["passed"].is_object(), "{kept}");
    }
}

/// Invariant 2.
async fn wrong_answers_at_once_are_all_paid_for(world: &Arc<World>) {
    let (verdicts, kept) = answered_at_once(world, "000000").await;
    let count = |wanted: Verdict| verdicts.iter().filter(|it| **it == wanted).count();
    let wrong = |left: u8| count(Verdict::Wrong { attempts_left: NonZeroU8::new(left).expect("not zero") });
    assert_eq!((wrong(2), wrong(1), count(Verdict::LastWrong), count(Verdict::Ended)), (1, 1, 1, 61));
    assert!(kept["stage"]["spent"].is_object(), "{kept}");
}

async fn decisions_of_one_caller_happen_in_order(world: &World) {
    let tenant = world.tenant_id();
    let delivery = world.delivery(0, 0);
    let id = delivery.id;
    world.put(tenant, [Record::Delivery(delivery)]).await;
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut answers = Vec::new();
    for number in 0..1_000i64 {
        let order = order.clone();
        let judge = move |seen: &mut Seen| {
            let held = seen.delivery(id).expect("is there");
            // An engine may ask again, but the last time that it asks is the one that counts.
            let mut order = order.lock().expect("nobody else");
            order.retain(|it| *it != number);
            order.push(number);
            assert_eq!(held.version, number + 1);
            Step::Write(Change::none().replace(Record::Delivery(held.noun.postponed(at(number), None)), held.version))
        };
        answers.push(world.store.decide(tenant, vec![Key::Delivery(id)], Box::new(judge)));
    }
    // The last is awaited first: being polled is not what puts a decision on its way.
    for answer in answers.into_iter().rev() {
        assert_eq!(answer.await.expect("the store works"), Outcome::Done);
    }
    assert!(order.lock().expect("nobody else").iter().copied().eq(0..1_000));
    assert_eq!(world.found(tenant, Key::Delivery(id)).await.map(|(_, version)| version), Some(1_001));
}

async fn a_decision_that_nobody_awaits_happens(world: &World) {
    let tenant = world.tenant_id();
    let (first, last) = (world.challenge(0), world.challenge(0));
    for challenge in [&first, &last] {
        let change = Change::none().insert(Record::Challenge(challenge.clone()));
        drop(world.store.decide(tenant, vec![], Box::new(move |_| Step::Write(change.clone()))));
    }
    // This one was made after them, so they have happened when it has.
    assert_eq!(world.write(tenant, Change::none()).await.expect("the store works"), Outcome::Done);
    assert!(world.is_there(tenant, Key::Challenge(first.id)).await && world.is_there(tenant, Key::Challenge(last.id)).await);
}

async fn what_was_answered_is_seen_by_the_next_who_looks(world: &Arc<World>) {
    let tenant = world.tenant_id();
    at_once(|| {
        let world = world.clone();
        async move {
            for _ in 0..5 {
                let challenge = world.challenge(0);
                let (key, event) = (Key::Challenge(challenge.id), world.event(0));
                let change = Change::none().insert(Record::Challenge(challenge)).tell(event.clone());
                assert_eq!(world.write(tenant, change).await.expect("the store works"), Outcome::Done);
                assert!(world.is_there(tenant, key).await);
                let events = world.store.events(tenant, None, 1_000).await.expect("the store works");
                assert!(events.contains(&event));
            }
        }
    })
    .await;
}

/// Invariant 6.
async fn one_tenant_never_sees_another(world: &World) {
    let (one, other) = (world.tenant_id(), world.tenant_id());
    let user = world.user(world.fingerprint());
    let records = [
        Record::Tenant(world.tenant(one, "never-sees")),
        Record::Client(world.client("never-sees")),
        Record::User(user.clone()),
        Record::Factor(world.factor(user.id, "phone", 0)),
        Record::Challenge(world.challenge(0)),
        Record::Delivery(world.delivery(0, 0)),
        Record::Limit(world.sends(0)),
        Record::SignIn(world.sign_in(0)),
        Record::Provider(world.provider("never-sees")),
        Record::Template(world.template(Realm::Tenant, "never-sees")),
    ];
    let change = records.iter().cloned().fold(Change::none(), Change::insert).tell(world.event(0));
    assert_eq!(world.write(one, change).await.expect("the store works"), Outcome::Done);
    let mut keys: Vec<Key> = records.iter().map(Record::key).collect();
    keys.extend([Key::UserNamed(user.named), Key::FactorsOf(user.id)]);
    let shown = Arc::new(AtomicUsize::new(0));
    let (count, all) = (shown.clone(), keys.clone());
    let judge = move |seen: &mut Seen| {
        count.store(all.iter().filter(|key| seen.peek(**key).is_some()).count(), Ordering::SeqCst);
        Step::Write(Change::none())
    };
    world.store.decide(other, keys.clone(), Box::new(judge)).await.expect("the store works");
    assert_eq!(shown.load(Ordering::SeqCst), 0);
    for key in &keys {
        assert!(!world.is_there(other, *key).await, "{key:?}");
    }
    assert!(world.store.factors_of(other, user.id).await.expect("the store works").is_empty());
    assert_eq!(world.count_events(other).await, 0);
    for listing in [Listing::Clients(other), Listing::Providers(other), Listing::Templates(other)] {
        assert!(world.store.list(listing.clone()).await.expect("the store works").is_empty(), "{listing:?}");
    }
    for record in &records[1..] {
        let stolen = [Change::none().remove(record.key(), 1), Change::none().replace(record.clone(), 1)];
        for change in stolen {
            assert!(matches!(world.write(other, change).await, Err(Fault::Contended)), "{:?}", record.key());
        }
    }
    world.sweep(other, at(1_000_000), at(1_000_000)).await;
    for record in &records {
        assert_eq!(world.found(one, record.key()).await, Some((json(record), 1)));
    }
    assert_eq!(world.count_events(one).await, 1);
}

async fn lists_are_whole_and_in_their_order(world: &World) {
    let (one, other) = (world.tenant_id(), world.tenant_id());
    world.put(other, [Record::Tenant(world.tenant(other, "list-a"))]).await;
    let records = [
        Record::Tenant(world.tenant(one, "list-b")),
        Record::Client(Client { id: ClientId::new(at(20), &world.chance), ..world.client("list-new") }),
        Record::Client(Client { id: ClientId::new(at(10), &world.chance), ..world.client("list-old") }),
        Record::Provider(ProviderSettings { id: ProviderId::new(at(20), &world.chance), ..world.provider("list-new") }),
        Record::Provider(ProviderSettings { id: ProviderId::new(at(10), &world.chance), ..world.provider("list-old") }),
        Record::Template(Template { id: TemplateId::new(at(20), &world.chance), ..world.template(Realm::Tenant, "list-new") }),
        Record::Template(Template { id: TemplateId::new(at(10), &world.chance), ..world.template(Realm::Tenant, "list-old") }),
    ];
    world.put(one, records).await;
    let names = async |listing| {
        let listed = world.store.list(listing).await.expect("the store works");
        let name = |record: &Record| match record {
            Record::Tenant(it) => it.name.clone(),
            Record::Client(it) => it.client_id.clone(),
            Record::Provider(it) => it.name.clone(),
            Record::Template(it) => it.name.clone(),
            other => panic!("{:?} is on no list", other.key()),
        };
        listed.iter().map(|it| (it.tenant, name(&it.held.noun))).filter(|(_, it)| it.starts_with("list-")).collect::<Vec<_>>()
    };
    assert_eq!(names(Listing::Tenants).await, [(other, "list-a".to_owned()), (one, "list-b".to_owned())]);
    assert_eq!(names(Listing::TenantNamed("list-b".into())).await, [(one, "list-b".to_owned())]);
    assert_eq!(names(Listing::TenantNamed("list-c".into())).await, []);
    assert_eq!(names(Listing::ClientNamed("list-old".into())).await, [(one, "list-old".to_owned())]);
    assert_eq!(names(Listing::ClientNamed("list-c".into())).await, []);
    for listing in [Listing::Clients(one), Listing::Providers(one), Listing::Templates(one)] {
        assert_eq!(names(listing).await, [(one, "list-old".to_owned()), (one, "list-new".to_owned())]);
    }
}

async fn the_factors_of_a_person_come_oldest_first(world: &World) {
    let tenant = world.tenant_id();
    let (user, neighbour) = (world.user(world.fingerprint()), world.user(world.fingerprint()));
    let (new, old) = (world.factor(user.id, "new", 20), world.factor(user.id, "old", 10));
    let theirs = world.factor(neighbour.id, "theirs", 15);
    world.put(tenant, [&new, &theirs, &old].map(|it| Record::Factor(it.clone()))).await;
    let names = async || {
        let factors = world.store.factors_of(tenant, user.id).await.expect("the store works");
        factors.into_iter().map(|held| (held.noun.name, held.version)).collect::<Vec<_>>()
    };
    assert_eq!(names().await, [("old".to_owned(), 1), ("new".to_owned(), 1)]);
    let oldest = world.found(tenant, Key::FactorsOf(user.id)).await;
    assert_eq!(oldest, Some((json(&Record::Factor(old.clone())), 1)));
    let proven = Change::none().replace(Record::Factor(new.clone().proven(63_116_641, at(30))), 1).remove(Key::Factor(old.id), 1);
    assert_eq!(world.write(tenant, proven).await.expect("the store works"), Outcome::Done);
    assert_eq!(names().await, [("new".to_owned(), 2)]);
}

async fn events_come_newest_first(world: &World) {
    let tenant = world.tenant_id();
    let events: Vec<Event> = (0..50).map(|second| world.event(second)).collect();
    for pair in events.chunks(2) {
        // Written in no order of their own.
        let change = pair.iter().rev().cloned().fold(Change::none(), Change::tell);
        assert_eq!(world.write(tenant, change).await.expect("the store works"), Outcome::Done);
    }
    let newest = world.store.events(tenant, None, 3).await.expect("the store works");
    assert!(newest.iter().eq(events.iter().rev().take(3)));
    let older = world.store.events(tenant, Some(newest[2].id), 100).await.expect("the store works");
    assert!(older.iter().eq(events.iter().rev().skip(3)));
    assert_eq!(world.store.events(tenant, Some(events[0].id), 100).await.expect("the store works"), []);
}

async fn what_is_due_is_listed_longest_waiting_first_and_only_when_due(world: &World) {
    let (one, other) = (world.tenant_id(), world.tenant_id());
    let [late, early, middle, never] = [(40, 400), (10, 100), (20, 200), (5, 50)].map(|(made, due)| world.delivery(made, due));
    let sent = world.sent(never.clone(), 60);
    world.put(one, [&late, &early, &never].map(|it| Record::Delivery(it.clone()))).await;
    world.put(other, [Record::Delivery(middle.clone())]).await;
    let change = Change::none().replace(Record::Delivery(sent), 1);
    assert_eq!(world.write(one, change).await.expect("the store works"), Outcome::Done);
    let due = async |now| {
        let due = world.store.due(at(now), 10_000).await.expect("the store works");
        due.into_iter().filter(|(tenant, _)| [one, other].contains(tenant)).collect::<Vec<_>>()
    };
    assert_eq!(due(99).await, []);
    assert_eq!(due(100).await, [(one, early.id)]);
    assert_eq!(due(1_000).await, [(one, early.id), (other, middle.id), (one, late.id)]);
    assert_eq!(world.store.due(at(1_000), 1).await.expect("the store works").len(), 1);
    let leased = early.clone().leased(at(1_000)).expect("is due");
    let change = Change::none().replace(Record::Delivery(leased), 1);
    assert_eq!(world.write(one, change).await.expect("the store works"), Outcome::Done);
    assert_eq!(due(1_000).await, [(other, middle.id), (one, late.id)]);
    assert_eq!(due(1_030).await, [(other, middle.id), (one, late.id), (one, early.id)]);
}

/// Invariant 5.
async fn a_leased_delivery_is_claimed_once(world: &Arc<World>) {
    let tenant = world.tenant_id();
    let delivery = world.delivery(0, 0);
    let id = delivery.id;
    world.put(tenant, [Record::Delivery(delivery)]).await;
    let claims = Arc::new(AtomicUsize::new(0));
    at_once(|| {
        let (world, claims) = (world.clone(), claims.clone());
        async move {
            let mine = Arc::new(Mutex::new(false));
            let tell = mine.clone();
            let judge = move |seen: &mut Seen| {
                let held = seen.delivery(id).expect("is there");
                let leased = held.noun.leased(at(0));
                *tell.lock().expect("nobody else") = leased.is_some();
                Step::Write(leased.map_or(Change::none(), |it| Change::none().replace(Record::Delivery(it), held.version)))
            };
            let answered = world.store.decide(tenant, vec![Key::Delivery(id)], Box::new(judge)).await;
            assert_eq!(answered.expect("the store works"), Outcome::Done);
            claims.fetch_add(usize::from(*mine.lock().expect("nobody else")), Ordering::SeqCst);
        }
    })
    .await;
    assert_eq!(claims.load(Ordering::SeqCst), 1);
}

async fn retention_removes_what_is_over_and_keeps_what_waits(world: &World) {
    let tenant = world.tenant_id();
    let day = 86_400;
    let [open, spent, young] = [world.challenge(0), world.challenge(10).spent(at(20)), world.challenge(day)];
    let [queued, sent, just_sent] = [world.delivery(0, 0), world.sent(world.delivery(0, 0), 1), world.sent(world.delivery(day, day), day)];
    let [over, counting] = [world.sends(0), world.sends(2 * day)];
    let (provider, user) = (world.provider("kept"), world.user(world.fingerprint()));
    let factor = world.factor(user.id, "kept", 0);
    let goes = [open, spent].map(Record::Challenge).into_iter().chain([
        Record::Delivery(sent),
        Record::Limit(over),
        Record::SignIn(world.sign_in(0)),
    ]);
    let goes: Vec<Record> = goes.collect();
    let stays = [
        Record::Challenge(young),
        Record::Delivery(queued),
        Record::Delivery(just_sent),
        Record::Limit(counting),
        Record::SignIn(world.sign_in(2 * day)),
        Record::Tenant(world.tenant(tenant, "kept")),
        Record::Client(world.client("kept")),
        Record::Provider(provider),
        Record::Template(world.template(Realm::Tenant, "kept")),
        Record::User(user),
        Record::Factor(factor),
    ];
    let change = goes.iter().chain(&stays).cloned().fold(Change::none(), Change::insert);
    let change = change.tell(world.event(0)).tell(world.event(day));
    assert_eq!(world.write(tenant, change).await.expect("the store works"), Outcome::Done);
    assert_eq!(world.sweep(tenant, at(day), at(2 * day)).await, 6);
    for record in goes {
        assert!(!world.is_there(tenant, record.key()).await, "{:?} is over", record.key());
    }
    for record in stays {
        assert_eq!(world.found(tenant, record.key()).await, Some((json(&record), 1)), "{:?} is kept", record.key());
    }
    assert_eq!(world.count_events(tenant).await, 1);
    assert_eq!(world.sweep(tenant, at(day), at(2 * day)).await, 0);
}

async fn retention_is_bounded_and_comes_to_an_end(world: &World) {
    let tenant = world.tenant_id();
    for _ in 0..20 {
        let mut change = Change::none();
        for _ in 0..100 {
            let [challenge, limit] = [Record::Challenge(world.challenge(0)), Record::Limit(world.sends(0))];
            change = change.insert(challenge).insert(limit).insert(Record::SignIn(world.sign_in(0))).tell(world.event(0));
        }
        assert_eq!(world.write(tenant, change).await.expect("the store works"), Outcome::Done);
    }
    let step = world.store.sweep(tenant, at(1), at(1_000)).await.expect("the store works");
    assert!(step.more && step.removed > 0 && step.removed <= 1_000, "{step:?}");
    assert_eq!(step.removed + world.sweep(tenant, at(1), at(1_000)).await, 8_000);
}

/// Invariant 2: only success or an administrator clears them.
async fn failures_are_kept_by_retention(world: &World) {
    let tenant = world.tenant_id();
    let failures = world.failures();
    world.put(tenant, [Record::Limit(failures.clone())]).await;
    assert_eq!(world.sweep(tenant, at(1_000_000_000), at(1_000_000_000)).await, 0);
    assert_eq!(world.found(tenant, Key::Limit(failures.of)).await, Some((json(&Record::Limit(failures)), 1)));
}

async fn a_sign_in_is_found_by_its_own_fingerprint_and_in_its_own_tenant(world: &World) {
    let (tenant, other) = (world.tenant_id(), world.tenant_id());
    let mine = world.sign_in(0);
    let key = Key::SignIn(mine.of);
    let theirs = SignIn { of: mine.of, ..world.sign_in(0) };
    world.put(tenant, [Record::SignIn(mine.clone()), Record::SignIn(world.sign_in(0))]).await;
    assert!(!world.is_there(tenant, Key::SignIn(mine.user)).await, "not by its person");
    assert!(!world.is_there(tenant, Key::Limit(mine.of)).await, "nor as anything else");
    assert!(!world.is_there(other, key).await);
    world.put(other, [Record::SignIn(theirs.clone())]).await;
    let taken = world.write(tenant, Change::none().insert(Record::SignIn(theirs.clone()))).await;
    assert_eq!(taken.expect("the store works"), Outcome::Taken);

    let asked = SignIn { challenge: Some(ChallengeId::new(at(0), &world.chance)), ..mine };
    let change = Change::none().replace(Record::SignIn(asked.clone()), 1);
    assert_eq!(world.write(tenant, change.clone()).await.expect("the store works"), Outcome::Done);
    assert!(matches!(world.write(tenant, change).await, Err(Fault::Contended)), "it is another version now");
    assert!(matches!(world.write(tenant, Change::none().remove(key, 1)).await, Err(Fault::Contended)));
    assert_eq!(world.found(tenant, key).await, Some((json(&Record::SignIn(asked)), 2)));
    assert_eq!(world.found(other, key).await, Some((json(&Record::SignIn(theirs)), 1)));
}

/// Invariant 1.
async fn a_sign_in_that_many_finish_at_once_is_finished_once_and_with_its_challenge(world: &Arc<World>) {
    let tenant = world.tenant_id();
    let sign_in = world.sign_in(0);
    let challenge = world.asked_elsewhere(&sign_in);
    let (of, id) = (sign_in.of, challenge.id);
    world.put(tenant, [Record::SignIn(sign_in), Record::Challenge(challenge.clone())]).await;
    // Neither half happens when the other cannot.
    let proven = Record::Challenge(challenge.clone().proven(at(1)).expect("it is open"));
    let halves = [
        Change::none().replace(proven.clone(), 1).remove(Key::SignIn(of), 2),
        Change::none().remove(Key::SignIn(of), 1).replace(proven, 2),
    ];
    for half in halves {
        assert!(matches!(world.write(tenant, half.tell(world.event(1))).await, Err(Fault::Contended)));
        assert!(world.is_there(tenant, Key::SignIn(of)).await);
        assert_eq!(world.found(tenant, Key::Challenge(id)).await, Some((json(&Record::Challenge(challenge.clone())), 1)));
    }

    let finished = Arc::new(AtomicUsize::new(0));
    at_once(|| {
        let (world, finished) = (world.clone(), finished.clone());
        async move {
            let mine = Arc::new(Mutex::new(false));
            let (tell, event) = (mine.clone(), world.event(1));
            let judge = move |seen: &mut Seen| {
                let (sign_in, challenge) = (seen.sign_in(of), seen.challenge(id).expect("is there"));
                *tell.lock().expect("nobody else") = sign_in.is_some();
                let Some(sign_in) = sign_in else { return Step::Write(Change::none()) };
                let passed = challenge.noun.proven(at(1)).expect("it passes with its sign-in");
                let change = Change::none().replace(Record::Challenge(passed), challenge.version);
                Step::Write(change.remove(Key::SignIn(of), sign_in.version).tell(event.clone()))
            };
            let decided = world.store.decide(tenant, vec![Key::SignIn(of), Key::Challenge(id)], Box::new(judge)).await;
            assert_eq!(decided.expect("the store works"), Outcome::Done);
            finished.fetch_add(usize::from(*mine.lock().expect("nobody else")), Ordering::SeqCst);
        }
    })
    .await;
    assert_eq!((finished.load(Ordering::SeqCst), world.count_events(tenant).await), (1, 1));
    assert!(!world.is_there(tenant, Key::SignIn(of)).await);
    let (kept, version) = world.found(tenant, Key::Challenge(id)).await.expect("is there");
    assert!(kept["stage"]["passed"].is_object() && version == 2, "{kept}");
}

async fn a_sign_in_stays_until_it_is_over(world: &World) {
    let tenant = world.tenant_id();
    let [first, last] = [world.sign_in(0), world.sign_in(1)];
    world.put(tenant, [&first, &last].map(|it| Record::SignIn(it.clone()))).await;
    // However old it is: the age of records is nothing to it.
    assert_eq!(world.sweep(tenant, at(1_000_000), at(299)).await, 0);
    assert_eq!(world.found(tenant, Key::SignIn(first.of)).await, Some((json(&Record::SignIn(first.clone())), 1)));
    assert_eq!(world.sweep(tenant, at(0), at(300)).await, 1, "from its end on");
    assert!(!world.is_there(tenant, Key::SignIn(first.of)).await && world.is_there(tenant, Key::SignIn(last.of)).await);
    // An end that was brought forward is the one that counts.
    let ended = SignIn { over_at: at(200), ..last.clone() };
    let change = Change::none().replace(Record::SignIn(ended), 1);
    assert_eq!(world.write(tenant, change).await.expect("the store works"), Outcome::Done);
    assert_eq!(world.sweep(tenant, at(0), at(200)).await, 1);
    assert!(!world.is_there(tenant, Key::SignIn(last.of)).await);
}

/// Between the look and the removal somebody else may have written.
async fn retention_keeps_what_begins_anew_while_it_looks(world: &Arc<World>) {
    let tenant = world.tenant_id();
    let (shared, ends) = (world.clone(), Arc::new(AtomicBool::new(false)));
    let told = ends.clone();
    let sweeping = tokio::spawn(async move {
        while !told.load(Ordering::SeqCst) {
            shared.sweep(tenant, at(0), at(1_000)).await;
            // On one thread the two take turns.
            tokio::task::yield_now().await;
        }
    });
    for _ in 0..40 {
        let sign_ins: Vec<SignIn> = (0..20).map(|_| world.sign_in(0)).collect();
        let limits: Vec<Limit> = (0..20).map(|_| world.sends(0)).collect();
        let over = sign_ins.iter().cloned().map(Record::SignIn).chain(limits.iter().cloned().map(Record::Limit));
        world.put(tenant, over).await;
        let anew = sign_ins.into_iter().map(|it| Record::SignIn(SignIn { over_at: at(2_000), ..it }));
        let anew = anew.chain(limits.into_iter().map(|it| Record::Limit(Limit { of: it.of, ..world.sends(2_000) })));
        let anew: Vec<Record> = anew.collect();
        let begin = |record: &Record| {
            let record = record.clone();
            let key = record.key();
            let judge = move |seen: &mut Seen| {
                let read = seen.record(key).map(|held| held.version);
                Step::Write(Change::none().put(record.clone(), read))
            };
            world.store.decide(tenant, vec![key], Box::new(judge))
        };
        for begun in anew.iter().map(begin).collect::<Vec<_>>() {
            assert_eq!(begun.await.expect("the store works"), Outcome::Done);
        }
        for record in anew {
            assert_eq!(world.found(tenant, record.key()).await.map(|it| it.0), Some(json(&record)), "{:?}", record.key());
        }
    }
    ends.store(true, Ordering::SeqCst);
    sweeping.await.expect("no task panics");
}

async fn a_turn_is_one_nodes_until_it_is_over(world: &World) {
    let (one, other) = (NodeId::new(at(0), &world.chance), NodeId::new(at(0), &world.chance));
    let take = |node, now, until| world.store.take_turn(Turn::Sweep, node, at(now), at(until));
    assert!(take(one, 0, 60).await.expect("the store works"));
    assert!(!take(other, 59, 119).await.expect("the store works"), "it is the first one's");
    assert!(take(one, 30, 90).await.expect("the store works"), "who has it prolongs it");
    assert!(!take(other, 60, 120).await.expect("the store works"), "it was prolonged");
    assert!(take(other, 90, 150).await.expect("the store works"), "it was over");
    assert!(!take(one, 91, 151).await.expect("the store works"));
}

async fn the_stamp_grows_with_every_change_of_configuration_and_with_nothing_else(world: &Arc<World>) {
    let stamp = async || world.store.stamp().await.expect("the store works");
    let tenant = world.tenant_id();
    let (client, provider) = (world.client("stamped"), world.provider("stamped"));
    let configuration = [
        Record::Tenant(world.tenant(tenant, "stamped")),
        Record::Client(client.clone()),
        Record::Provider(provider.clone()),
        Record::Template(world.template(Realm::Tenant, "stamped")),
    ];
    let mut last = stamp().await;
    for record in configuration {
        let key = record.key();
        let steps = [
            ("put in", Change::none().insert(record.clone())),
            ("replaced", Change::none().replace(record.clone(), 1).tell(world.event(0))),
            ("taken out", Change::none().remove(key, 2)),
            ("put in again", Change::none().insert(Record::Limit(world.failures())).insert(record)),
        ];
        for (what, change) in steps {
            assert_eq!(world.write(tenant, change).await.expect("the store works"), Outcome::Done);
            let now = stamp().await;
            assert!(now > last, "{key:?} was {what}: {last}, then {now}");
            last = now;
        }
    }

    let user = world.user(world.fingerprint());
    let others = [
        Record::Factor(world.factor(user.id, "phone", 0)),
        Record::User(user),
        Record::Challenge(world.challenge(0)),
        Record::Delivery(world.delivery(0, 0)),
        Record::Limit(world.sends(0)),
        Record::SignIn(world.sign_in(0)),
    ];
    for record in others {
        let key = record.key();
        world.put(tenant, [record.clone()]).await;
        // A judge that has looked at configuration writes none.
        let change = Change::none().replace(record, 1).tell(world.event(0));
        let judge = Box::new(move |_: &mut Seen| Step::Write(change.clone()));
        let decided = world.store.decide(tenant, vec![Key::Tenant, Key::Client(client.id)], judge).await;
        assert_eq!(decided.expect("the store works"), Outcome::Done);
        assert_eq!(world.write(tenant, Change::none().remove(key, 2)).await.expect("the store works"), Outcome::Done);
    }
    let none = world.write(tenant, Change::none()).await.expect("the store works");
    let taken = world.write(tenant, Change::none().insert(Record::Provider(world.provider("stamped")))).await.expect("the store works");
    let stale = world.write(tenant, Change::none().replace(Record::Provider(provider), 7)).await;
    assert!(matches!((none, taken, stale), (Outcome::Done, Outcome::Taken, Err(Fault::Contended))));
    world.sweep(tenant, at(0), at(0)).await;
    world.store.health().await.expect("the store works");
    assert_eq!(stamp().await, last, "nothing of that was configuration");

    // Whoever finds the same stamp before and after has read everything that had been answered by then.
    let answered = Arc::new(AtomicUsize::new(1));
    let (shared, counted, id) = (world.clone(), answered.clone(), client.id);
    let changing = tokio::spawn(async move {
        for version in 1..=100 {
            let change = Change::none().replace(Record::Client(client.clone()), version);
            assert_eq!(shared.write(tenant, change).await.expect("the store works"), Outcome::Done);
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    while !changing.is_finished() {
        let before = stamp().await;
        let (_, read) = world.found(tenant, Key::Client(id)).await.expect("it is there");
        let answered = answered.load(Ordering::SeqCst);
        if stamp().await == before {
            assert!(read >= answered.try_into().expect("few"), "read {read} under a stamp that had seen {answered}");
        }
        // On one thread the two take turns.
        tokio::task::yield_now().await;
    }
    changing.await.expect("no task panics");
}

/// Many add a factor for one person at once, each only when it sees fewer than three.
async fn factors_that_were_counted_are_still_so_when_one_is_added(world: &Arc<World>) {
    let tenant = world.tenant_id();
    let user = world.user(world.fingerprint());
    world.put(tenant, [Record::User(user.clone())]).await;
    let of = user.id;
    let (shared, added) = (world.clone(), Arc::new(AtomicUsize::new(0)));
    let counted = added.clone();
    at_once(move || {
        let (world, added) = (shared.clone(), added.clone());
        async move {
            let factor = world.factor(of, "phone", 0);
            let adds = Arc::new(Mutex::new(false));
            let told = adds.clone();
            let judge = move |seen: &mut Seen| {
                let is_room = seen.factors_of(of).len() < 3;
                *told.lock().expect("nobody else") = is_room;
                Step::Write(if is_room { Change::none().insert(Record::Factor(factor.clone())) } else { Change::none() })
            };
            let decided = world.store.decide(tenant, vec![Key::User(of), Key::FactorsOf(of)], Box::new(judge)).await;
            assert_eq!(decided.expect("the store works"), Outcome::Done);
            added.fetch_add(usize::from(*adds.lock().expect("nobody else")), Ordering::SeqCst);
        }
    })
    .await;
    assert_eq!(world.store.factors_of(tenant, of).await.expect("the store works").len(), 3);
    assert_eq!(counted.load(Ordering::SeqCst), 3, "as many were told that theirs was added");
}

async fn the_store_says_how_it_is(world: &World) {
    let tenant = world.tenant_id();
    let before = world.store.health().await.expect("the store works");
    world.put(tenant, [Record::Delivery(world.delivery(0, 0)), Record::Delivery(world.sent(world.delivery(0, 0), 1))]).await;
    let after = world.store.health().await.expect("the store works");
    assert_eq!(after.queued, before.queued + 1);
    assert!(after.bytes > 0 && after.schema > 0 && !after.engine.is_empty(), "{after:?}");
    // Nothing of the contract waits for long; a store that forgets to answer fails here and not by a timeout elsewhere.
    let answered = tokio::time::timeout(Duration::from_secs(30), world.write(tenant, Change::none())).await;
    assert!(matches!(answered, Ok(Ok(Outcome::Done))));
}
