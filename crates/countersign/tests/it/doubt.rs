//! What the engine on PostgreSQL says when it cannot know: answers of commits that are lost, late or falsified, rows that cannot be
//! read, statements that hang, several nodes that begin at the same moment.
//!
//! Its decisions are those of the verbs in short: each judge notes what it would have its caller told.

use crate::nodes::pgbouncer_at;
use crate::postgres::{Database, Instance};
use crate::server::Place;
use crate::tools::until;
use crate::trial::ended;
use crate::wire::{Accident, Wire};
use countersign_core::nouns::challenge::{Challenge, Proof, Purpose, Stage};
use countersign_core::nouns::event::{Event, What};
use countersign_core::nouns::factor::{Factor, FactorKind, FactorStage};
use countersign_core::nouns::limit::{Count, Failures, Limit};
use countersign_core::nouns::user::{Realm, User};
use countersign_core::ports::test::Script;
use countersign_core::ports::{Change, Judge, Key, Listing, Outcome, Pending, Record, Seen, Step, Store, Version};
use countersign_core::words::address::{Channel, Fingerprint, Login};
use countersign_core::words::id::{ChallengeId, EventId, FactorId, TenantId, UserId};
use countersign_core::words::refusal::Fault;
use countersign_core::words::secret::Secret;
use countersign_core::words::time::Timestamp;
use countersign_store::memory::Memory;
use countersign_store::{Postgres, postgres};
use std::collections::HashMap;
use std::num::NonZeroU8;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio::task::block_in_place;

type Answer = Result<Outcome, Fault>;
type Left = Pending<'static, Answer>;

async fn open(url: &str) -> Postgres {
    Postgres::open(&postgres::Options::new(Secret::new(url.to_owned()))).await.expect("it opens")
}

fn now() -> Timestamp {
    Timestamp::from_millis(1_893_499_200_000)
}

fn fingerprint(of: u8) -> Fingerprint {
    Fingerprint::from_bytes([of; 16])
}

fn challenge(chance: &Script, failures: Fingerprint) -> Challenge {
    let proof = Proof::Totp { factor: FactorId::new(now(), chance) };
    Challenge {
        id: ChallengeId::new(now(), chance),
        realm: Realm::Tenant,
        channel: Channel::Totp,
        failures: vec![failures],
        purpose: Purpose::Authenticate,
        stage: Stage::Open { attempts_left: NonZeroU8::new(3).expect("three"), expires_at: now(), proof },
    }
}

fn person(chance: &Script, named: Fingerprint) -> User {
    let login = Login::parse("jdoe").expect("a name");
    User { id: UserId::new(now(), chance), realm: Realm::Tenant, login, named, account: None, created_at: now() }
}

fn factor(id: FactorId, user: UserId) -> Factor {
    // Nobody opens it here.
    let seed = serde_json::from_str(&format!("{:?}", "A".repeat(64))).expect("a sealed value");
    let kind = FactorKind::Totp { seed, burnt: None };
    Factor { id, user, name: "phone".into(), kind, stage: FactorStage::Active { since: now() }, created_at: now() }
}

fn lock_on(of: Fingerprint) -> Record {
    Record::Limit(Limit { of, count: Count::Failures(Failures::default()) })
}

fn event(chance: &Script, challenge: ChallengeId) -> Event {
    Event { id: EventId::new(now(), chance), at: now(), what: What::Passed { challenge } }
}

async fn write(store: &dyn Store, tenant: TenantId, change: Change) -> Answer {
    store.decide(tenant, vec![], Box::new(move |_| Step::Write(change.clone()))).await
}

/// Writes a challenge anew, as it is.
fn touch(store: &dyn Store, tenant: TenantId, id: ChallengeId) -> Left {
    let judge = move |seen: &mut Seen| {
        let held = seen.challenge(id).expect("it is there");
        Step::Write(Change::none().replace(Record::Challenge(held.noun), held.version))
    };
    store.decide(tenant, vec![Key::Challenge(id)], Box::new(judge))
}

async fn is_there(store: &dyn Store, tenant: TenantId, id: ChallengeId) -> bool {
    store.find(tenant, Key::Challenge(id)).await.expect("it is read").is_some()
}

/// What a judge has said so far.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<Vec<&'static str>>>);

impl Said {
    fn note(&self, what: &'static str) {
        self.0.lock().unwrap().push(what);
    }

    /// What its caller is told.
    fn last(&self) -> &'static str {
        self.0.lock().unwrap().last().copied().unwrap_or("nothing")
    }
}

/// As a right answer is judged: it passes, unless the challenge is over or the person is locked.
fn verify(store: &dyn Store, tenant: TenantId, challenge: &Challenge, event: Event) -> (Said, Left) {
    let (said, id, of) = (Said::default(), challenge.id, challenge.failures[0]);
    let says = said.clone();
    let judge = move |seen: &mut Seen| {
        if !seen.has_looked_at(Key::Limit(of)) {
            return Step::Look(vec![Key::Limit(of)]);
        }
        let is_open = seen.peek_challenge(id).is_some_and(|it| matches!(it.stage, Stage::Open { .. }));
        let refusal = if !is_open { Some("over") } else { seen.peek(Key::Limit(of)).map(|_| "locked") };
        if let Some(why) = refusal {
            says.note(why);
            return Step::Write(Change::none());
        }
        says.note("passed");
        let held = seen.challenge(id).expect("it is open");
        Step::Write(Change::none().replace(Record::Challenge(held.noun.spent(now())), held.version).tell(event.clone()))
    };
    (said, store.decide(tenant, vec![Key::Challenge(id)], Box::new(judge)))
}

/// As a challenge is asked for: it is opened, unless the person is locked.
fn request(store: &dyn Store, tenant: TenantId, challenge: &Challenge, event: Event) -> (Said, Left) {
    let (said, challenge) = (Said::default(), challenge.clone());
    let (says, of) = (said.clone(), challenge.failures[0]);
    let judge = move |seen: &mut Seen| {
        if seen.peek(Key::Limit(of)).is_some() {
            says.note("locked");
            return Step::Write(Change::none());
        }
        says.note("opened");
        Step::Write(Change::none().insert(Record::Challenge(challenge.clone())).tell(event.clone()))
    };
    (said, store.decide(tenant, vec![Key::Limit(of)], Box::new(judge)))
}

/// Holds a lane up, so that what is left at it meanwhile travels together.
struct Gate {
    hold: Sender<()>,
    decided: Left,
}

impl Gate {
    async fn shut(store: &dyn Store, tenant: TenantId) -> Self {
        let (hold, held): (_, Receiver<()>) = channel();
        let begun = Arc::new(Notify::new());
        let begins = begun.clone();
        let judge = move |_: &mut Seen| {
            begins.notify_one();
            // Tasks that this thread was about to run are left to others.
            let _ = block_in_place(|| held.recv());
            Step::Write(Change::none())
        };
        let decided = store.decide(tenant, vec![], Box::new(judge));
        begun.notified().await;
        Self { hold, decided }
    }

    async fn open(self) {
        drop(self.hold);
        self.decided.await.expect("it decides nothing");
    }
}

/// A table that somebody else has locked, until this is dropped.
struct Locked {
    database: String,
    cluster: &'static Instance,
    pid: String,
    holder: Option<JoinHandle<()>>,
}

impl Locked {
    fn table(database: &Database, table: &'static str) -> Self {
        let (name, cluster) = (database.name.clone(), database.cluster);
        let holder = std::thread::spawn(move || {
            // It ends with an error, when it is ended.
            let _ = cluster.try_sql(&name, &format!("BEGIN; LOCK TABLE {table}; SELECT pg_sleep(120)"));
        });
        let look = format!("SELECT pid FROM pg_locks WHERE relation = '{table}'::regclass AND mode = 'AccessExclusiveLock' AND granted");
        let pid = until(Duration::from_secs(10), || Some(database.sql(&look)).filter(|it| !it.is_empty())).expect("it is locked");
        Self { database: database.name.clone(), cluster, pid, holder: Some(holder) }
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        self.cluster.sql(&self.database, &format!("SELECT pg_terminate_backend({})", self.pid));
        drop(self.holder.take().map(JoinHandle::join));
    }
}

/// How many events and challenges there are, as somebody else sees them.
fn counts(database: &Database) -> String {
    database.sql("SELECT (SELECT count(*) FROM events), (SELECT count(*) FROM challenges)")
}

fn assert_unavailable(answer: &Answer) {
    assert!(matches!(answer, Err(Fault::Unavailable { .. })), "{answer:?}");
}

// ------------------------------------------------------------------------------------------- commits whose answer was lost

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_was_decided_by_a_commit_that_nobody_heard_is_told_as_it_was_decided_invariants_1_and_4() {
    let Some(database) = Database::new("doubt::unheard") else { return };
    let wire = Wire::to(&database).await;
    let (store, other) = (open(&wire.url).await, open(&database.url()).await);
    let chance = Script::default();
    let tenant = TenantId::new(now(), &chance);
    let (free, locked) = (fingerprint(8), fingerprint(9));
    let (mine, new) = (challenge(&chance, free), challenge(&chance, locked));
    write(&other, tenant, Change::none().insert(Record::Challenge(mine.clone())).insert(lock_on(locked))).await.unwrap();

    let gate = Gate::shut(&store, tenant).await;
    let (asker_heard, asked) = request(&store, tenant, &new, event(&chance, new.id));
    let (heard, answered) = verify(&store, tenant, &mine, event(&chance, mine.id));
    wire.next(Accident::Unheard);
    gate.open().await;
    wire.caught().await;
    // Meanwhile an administrator unlocks the other person, so that the batch looks further than before.
    write(&other, tenant, Change::none().remove(Key::Limit(locked), 1)).await.unwrap();
    wire.cut();

    assert_eq!((answered.await.unwrap(), heard.last()), (Outcome::Done, "passed"));
    assert_eq!((asked.await.unwrap(), asker_heard.last()), (Outcome::Done, "opened"));
    assert_eq!((counts(&database), store.stats().unheard), ("2|2".to_owned(), 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_judge_whose_decision_stands_is_not_asked_on_behalf_of_those_before_it_invariant_4() {
    let Some(database) = Database::new("doubt::asked_again") else { return };
    let wire = Wire::to(&database).await;
    let store = open(&wire.url).await;
    let chance = Script::default();
    let (tenant, user) = (TenantId::new(now(), &chance), person(&chance, fingerprint(5)));
    let (named, told) = (user.named, event(&chance, ChallengeId::new(now(), &chance)));

    let gate = Gate::shut(&store, tenant).await;
    // Somebody unknown is refused; once the person is known, the factors are looked at as well.
    let look = move |seen: &mut Seen| match seen.peek(Key::UserNamed(named)) {
        Some(Record::User(it)) if !seen.has_looked_at(Key::FactorsOf(it.id)) => Step::Look(vec![Key::FactorsOf(it.id)]),
        _ => Step::Write(Change::none()),
    };
    let before = store.decide(tenant, vec![Key::UserNamed(named)], Box::new(look));
    let said = Said::default();
    let says = said.clone();
    let enroll = move |seen: &mut Seen| {
        if seen.peek(Key::UserNamed(named)).is_some() {
            says.note("taken");
            return Step::Write(Change::none());
        }
        says.note("enrolled");
        Step::Write(Change::none().insert(Record::User(user.clone())).tell(told.clone()))
    };
    let enrolled = store.decide(tenant, vec![Key::UserNamed(named)], Box::new(enroll));
    wire.next_at_once(Accident::Unheard);
    gate.open().await;

    assert_eq!((enrolled.await.unwrap(), said.last()), (Outcome::Done, "enrolled"));
    assert_eq!(before.await.unwrap(), Outcome::Done);
    assert_eq!(database.sql("SELECT count(*) FROM users"), "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whoever_would_be_refused_while_the_commit_may_still_come_hears_neither_invariants_1_and_4() {
    let Some(database) = Database::new("doubt::late") else { return };
    let wire = Wire::to(&database).await;
    let (store, other) = (open(&wire.url).await, open(&database.url()).await);
    let chance = Script::default();
    let (tenant, of) = (TenantId::new(now(), &chance), fingerprint(9));
    let (mine, new) = (challenge(&chance, of), challenge(&chance, of));
    write(&other, tenant, Change::none().insert(Record::Challenge(mine.clone()))).await.unwrap();

    let gate = Gate::shut(&store, tenant).await;
    let (_, answered) = verify(&store, tenant, &mine, event(&chance, mine.id));
    let (_, asked) = request(&store, tenant, &new, event(&chance, new.id));
    wire.next(Accident::Late);
    gate.open().await;
    wire.caught().await;
    // Wrong codes on another node lock the person.
    write(&other, tenant, Change::none().insert(lock_on(of))).await.unwrap();
    wire.cut();

    assert_unavailable(&answered.await);
    assert_unavailable(&asked.await);
    assert_eq!(counts(&database), "0|1", "nothing has happened yet");
    wire.deliver().await;
    let after = counts(&database);
    assert!(["0|1", "2|2"].contains(&after.as_str()), "all that was decided then, or nothing: {after}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_late_commit_and_the_one_that_took_its_place_happen_once_invariant_1() {
    let Some(database) = Database::new("doubt::twice") else { return };
    let wire = Wire::to(&database).await;
    let store = open(&wire.url).await;
    let chance = Script::default();
    let (tenant, of) = (TenantId::new(now(), &chance), fingerprint(9));
    let (mine, new) = (challenge(&chance, of), challenge(&chance, of));
    write(&store, tenant, Change::none().insert(Record::Challenge(mine.clone()))).await.unwrap();

    let gate = Gate::shut(&store, tenant).await;
    let (heard, answered) = verify(&store, tenant, &mine, event(&chance, mine.id));
    let (asker_heard, asked) = request(&store, tenant, &new, event(&chance, new.id));
    wire.next_at_once(Accident::Late);
    gate.open().await;

    assert_eq!((answered.await.unwrap(), heard.last()), (Outcome::Done, "passed"));
    assert_eq!((asked.await.unwrap(), asker_heard.last()), (Outcome::Done, "opened"));
    let before = database.sql("SELECT version, body FROM challenges ORDER BY id");
    wire.deliver().await;
    assert_eq!(counts(&database), "2|2");
    assert_eq!(database.sql("SELECT version, body FROM challenges ORDER BY id"), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_says_that_the_database_crashed_is_not_believed_about_a_commit_invariant_4() {
    let Some(database) = Database::new("doubt::falsified") else { return };
    let wire = Wire::to(&database).await;
    let store = open(&wire.url).await;
    let chance = Script::default();
    let tenant = TenantId::new(now(), &chance);
    for (unheard, accident) in [(1, Accident::Unheard), (2, Accident::SaidToHaveCrashed)] {
        let one = challenge(&chance, fingerprint(9));
        wire.next_at_once(accident);
        let change = Change::none().insert(Record::Challenge(one.clone())).tell(event(&chance, one.id));
        assert_eq!(write(&store, tenant, change).await.unwrap(), Outcome::Done, "{accident:?}");
        assert!(is_there(&store, tenant, one.id).await, "{accident:?}");
        assert_eq!(store.stats().unheard, unheard, "{accident:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_pooler_that_loses_the_database_after_a_commit_loses_no_change_invariant_4() {
    let test = "doubt::pgbouncer";
    let Some(database) = Database::new(test) else { return };
    let wire = Wire::to(&database).await;
    let Some((_pooler, url)) = pgbouncer_at(test, &database, wire.port) else { return };
    let store = open(&url).await;
    let chance = Script::default();
    let tenant = TenantId::new(now(), &chance);
    for unheard in 0..3 {
        let one = challenge(&chance, fingerprint(9));
        if unheard > 0 {
            wire.next_at_once(Accident::Unheard);
        }
        let change = Change::none().insert(Record::Challenge(one.clone())).tell(event(&chance, one.id));
        assert_eq!(write(&store, tenant, change).await.unwrap(), Outcome::Done);
        assert!(is_there(&store, tenant, one.id).await);
        assert_eq!(store.stats().unheard, unheard);
    }
    assert_eq!(counts(&database), "3|3");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_change_that_told_nothing_does_not_put_those_beside_it_in_doubt_invariant_4() {
    let Some(database) = Database::new("doubt::lost") else { return };
    let wire = Wire::to(&database).await;
    let store = open(&wire.url).await;
    let chance = Script::default();
    let (tenant, lease) = (TenantId::new(now(), &chance), challenge(&chance, fingerprint(9)));
    write(&store, tenant, Change::none().insert(Record::Challenge(lease.clone()))).await.unwrap();

    let gate = Gate::shut(&store, tenant).await;
    let one = challenge(&chance, fingerprint(9));
    let (heard, asked) = request(&store, tenant, &one, event(&chance, one.id));
    let claimed = touch(&store, tenant, lease.id);
    wire.next_at_once(Accident::Unheard);
    gate.open().await;

    assert_eq!((asked.await.unwrap(), heard.last()), (Outcome::Done, "opened"));
    assert!(is_there(&store, tenant, one.id).await);
    // Of this one nobody will ever know, so nobody pretends to.
    assert_unavailable(&claimed.await);
    assert_eq!(database.sql("SELECT max(version) FROM challenges"), "2", "it is not done a second time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_commit_that_warns_is_in_doubt_however_few_messages_the_settings_ask_for_invariant_4() {
    let Some(database) = Database::new("doubt::warnings") else { return };
    let chance = Script::default();
    let tenant = TenantId::new(now(), &chance);
    drop(open(&database.url()).await);
    database.sql(
        "CREATE FUNCTION warn() RETURNS trigger LANGUAGE plpgsql
         AS $$ BEGIN RAISE WARNING 'canceling wait for synchronous replication'; RETURN NEW; END $$;
         CREATE TRIGGER warn BEFORE INSERT ON challenges FOR EACH ROW EXECUTE FUNCTION warn()",
    );
    for level in ["error", "warning"] {
        let store = open(&format!("{}&options=-c%20client_min_messages%3D{level}", database.url())).await;
        let one = challenge(&chance, fingerprint(9));
        let change = Change::none().insert(Record::Challenge(one.clone())).tell(event(&chance, one.id));
        // It has happened, and a commit of its own, without a warning, has seen to it that the standby has it too.
        assert_eq!(write(&store, tenant, change).await.unwrap(), Outcome::Done, "{level}");
        assert_eq!(store.stats().unheard, 1, "{level}");
    }
}

// ------------------------------------------------------------------------------------------------------ rows and names

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_person_who_cannot_be_read_is_not_nobody_invariants_1_and_2() {
    let Some(database) = Database::new("doubt::damaged") else { return };
    let store = open(&database.url()).await;
    let chance = Script::default();
    let (tenant, user) = (TenantId::new(now(), &chance), person(&chance, fingerprint(5)));
    let named = user.named;
    write(&store, tenant, Change::none().insert(Record::User(user.clone()))).await.unwrap();
    database.sql("UPDATE users SET body = '{}'");

    let found = store.find(tenant, Key::UserNamed(named)).await;
    assert!(matches!(found, Err(Fault::Corrupt(_))), "{found:?}");
    let said = Said::default();
    let says = said.clone();
    let judge = move |seen: &mut Seen| {
        says.note(if seen.peek(Key::UserNamed(named)).is_some() { "somebody" } else { "nobody" });
        Step::Write(Change::none())
    };
    let decided = store.decide(tenant, vec![Key::UserNamed(named)], Box::new(judge)).await;
    assert!(matches!(decided, Err(Fault::Corrupt(_))), "{decided:?}");
    assert_eq!(said.last(), "nothing", "no rule is shown a house without the person");
    let again = User { id: UserId::new(now(), &chance), ..user };
    assert_eq!(write(&store, tenant, Change::none().insert(Record::User(again))).await.unwrap(), Outcome::Taken);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_name_with_a_nul_in_it_is_nobodys_and_costs_no_line_invariant_6() {
    let Some(database) = Database::new("doubt::nul") else { return };
    let store = open(&database.url()).await;
    let lines = || {
        database.sql("SELECT string_agg(pid::text, ',') FROM pg_stat_activity WHERE application_name = 'countersign' AND datname = current_database()")
    };
    let before = lines();
    for listing in [Listing::ClientNamed("a\0b".into()), Listing::TenantNamed("a\0b".into())] {
        assert_eq!(store.list(listing).await.unwrap().len(), 0);
    }
    store.health().await.unwrap();
    assert_eq!(lines(), before);
}

// ------------------------------------------------------------------------------------------------------ load and locks

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn statements_that_hang_take_no_more_backends_than_the_settings_allow_and_leave_none_behind() {
    let Some(database) = Database::new("doubt::hanging") else { return };
    let mut options = postgres::Options::new(Secret::new(database.url()));
    (options.within, options.connections) = (Duration::from_millis(300), 4);
    let store = Postgres::open(&options).await.unwrap();
    let backends = || {
        let count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'countersign' AND datname = current_database()";
        database.sql(count).parse::<usize>().unwrap()
    };
    let locked = Locked::table(&database, "pulse");
    let mut most = 0;
    for _ in 0..10 {
        assert_unavailable(&store.health().await.map(|_| Outcome::Done));
        most = most.max(backends());
    }
    assert!((1..=4).contains(&most), "{most} backends for 4 connections");
    drop(locked);
    let began = Instant::now();
    while let Err(why) = store.health().await {
        assert!(began.elapsed() < Duration::from_secs(10), "it does not get well again: {why}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let hanging =
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'countersign' AND datname = current_database() AND state <> 'idle'";
    assert!(until(Duration::from_secs(10), || (database.sql(hanging) == "0").then_some(())).is_some(), "statements still hang");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_batch_that_was_overtaken_asks_each_judge_a_bounded_number_of_times() {
    const OTHERS: usize = 255;
    let Some(database) = Database::new("doubt::overtaken") else { return };
    let (store, other) = (open(&database.url()).await, open(&database.url()).await);
    let chance = Script::default();
    let (tenant, hot) = (TenantId::new(now(), &chance), challenge(&chance, fingerprint(1)));
    let id = hot.id;
    write(&other, tenant, Change::none().insert(Record::Challenge(hot))).await.unwrap();

    let gate = Gate::shut(&store, tenant).await;
    // Stands still, on its first try, until somebody else was faster.
    let (faster, was_faster): (Sender<()>, Receiver<()>) = channel();
    let begun = Arc::new(Notify::new());
    let begins = begun.clone();
    let judge = move |seen: &mut Seen| {
        begins.notify_one();
        let _ = block_in_place(|| was_faster.recv());
        let held = seen.challenge(id).expect("it is there");
        Step::Write(Change::none().replace(Record::Challenge(held.noun), held.version))
    };
    let overtaken = store.decide(tenant, vec![Key::Challenge(id)], Box::new(judge));
    let asked = Arc::new(AtomicUsize::new(0));
    let all: Vec<Left> = (0..OTHERS)
        .map(|_| {
            let asked = asked.clone();
            let change = Change::none().insert(Record::Challenge(challenge(&chance, fingerprint(2))));
            let change = change.insert(Record::Challenge(challenge(&chance, fingerprint(2))));
            let judge = move |_: &mut Seen| {
                asked.fetch_add(1, Ordering::Relaxed);
                Step::Write(change.clone())
            };
            store.decide(tenant, vec![], Box::new(judge))
        })
        .collect();
    gate.open().await;
    begun.notified().await;
    assert_eq!(touch(&other, tenant, id).await.unwrap(), Outcome::Done);
    drop(faster);
    assert_eq!(overtaken.await.unwrap(), Outcome::Done);
    for one in all {
        assert_eq!(one.await.unwrap(), Outcome::Done);
    }
    let asked = asked.load(Ordering::Relaxed);
    assert_eq!(store.stats().overtaken, 1);
    assert!(asked <= 4 * OTHERS, "{OTHERS} judges were asked {asked} times");
    println!("proof: overtaken judges={OTHERS} asked={asked}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn batches_that_lock_the_same_persons_for_different_reasons_never_wait_in_a_circle() {
    const ROUNDS: usize = 150;
    let Some(database) = Database::new("doubt::circles") else { return };
    let deadlocks = || database.sql("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()");
    let before = deadlocks();
    let nodes = [Arc::new(open(&database.url()).await), Arc::new(open(&database.url()).await)];
    let chance = Arc::new(Script::default());
    let tenant = TenantId::new(now(), &*chance);
    let users = [person(&chance, fingerprint(1)).id, person(&chance, fingerprint(2)).id];
    for (id, named) in users.into_iter().zip(1..) {
        let user = User { id, ..person(&chance, fingerprint(named)) };
        write(&*nodes[0], tenant, Change::none().insert(Record::User(user))).await.unwrap();
    }
    // Each node changes the factors of one person, and in the same batch leans on the other one.
    let work = nodes.iter().zip([(users[1], users[0]), (users[0], users[1])]).map(|(node, (listed, leant_on))| {
        let (node, chance) = (node.clone(), chance.clone());
        tokio::spawn(async move {
            for _ in 0..ROUNDS {
                let opened = challenge(&chance, fingerprint(3));
                let new = factor(FactorId::new(now(), &*chance), listed);
                let lean = move |_: &mut Seen| Step::Write(Change::none().insert(Record::Challenge(opened.clone())));
                let list = move |seen: &mut Seen| {
                    let change = Change::none().insert(Record::Factor(new.clone()));
                    let gone = seen.factors_of(listed).into_iter();
                    Step::Write(gone.fold(change, |change, held| change.remove(Key::Factor(held.noun.id), held.version)))
                };
                let gate = Gate::shut(&*node, tenant).await;
                let leans = node.decide(tenant, vec![Key::User(leant_on)], Box::new(lean));
                let lists = node.decide(tenant, vec![Key::User(listed), Key::FactorsOf(listed)], Box::new(list));
                gate.open().await;
                assert_eq!((leans.await.unwrap(), lists.await.unwrap()), (Outcome::Done, Outcome::Done));
            }
        })
    });
    for one in work.collect::<Vec<_>>() {
        one.await.expect("no node is surprised");
    }
    for node in nodes {
        node.close().await;
        assert_eq!(node.stats().overtaken, 0, "a deadlock is told as being overtaken, and nobody was");
    }
    // A backend tells what it has counted at its end.
    let ended = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'countersign' AND datname = current_database()";
    assert!(until(Duration::from_secs(10), || (database.sql(ended) == "0").then_some(())).is_some());
    assert_eq!(deadlocks(), before);
}

// ------------------------------------------------------------------------------------------------------ the model engine

/// Throws that are the same again for the same seed.
#[derive(Clone)]
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        let mut dice = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        (0..5).for_each(|_| _ = dice.below(2));
        dice
    }

    fn below(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from((self.0 >> 11) % sides as u64).expect("it is below the sides")
    }

    fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

/// The few records of a small house, so that decisions meet.
struct Small {
    users: Vec<UserId>,
    factors: Vec<FactorId>,
    names: Vec<Fingerprint>,
    limits: Vec<Fingerprint>,
    challenges: Vec<Challenge>,
}

impl Small {
    fn new(chance: &Script) -> Self {
        Self {
            users: (0..4).map(|_| UserId::new(now(), chance)).collect(),
            factors: (0..5).map(|_| FactorId::new(now(), chance)).collect(),
            names: (1..5).map(fingerprint).collect(),
            limits: (100..103).map(fingerprint).collect(),
            challenges: (0..3).map(|_| challenge(chance, fingerprint(100))).collect(),
        }
    }

    fn keys(&self) -> Vec<Key> {
        let persons = self.users.iter().flat_map(|id| [Key::User(*id), Key::FactorsOf(*id)]);
        let rest = self.factors.iter().map(|id| Key::Factor(*id)).chain(self.names.iter().map(|it| Key::UserNamed(*it)));
        persons
            .chain(rest)
            .chain(self.limits.iter().map(|it| Key::Limit(*it)))
            .chain(self.challenges.iter().map(|it| Key::Challenge(it.id)))
            .collect()
    }

    fn record(&self, dice: &mut Dice) -> Record {
        let named = *dice.of(&self.names);
        match dice.below(8) {
            0..3 => {
                let login = Login::parse("jdoe").expect("a name");
                Record::User(User { id: *dice.of(&self.users), realm: Realm::Tenant, login, named, account: None, created_at: now() })
            }
            3..5 => {
                let which = dice.below(self.factors.len());
                Record::Factor(factor(self.factors[which], self.users[which % self.users.len()]))
            }
            5 => Record::Challenge(dice.of(&self.challenges).clone()),
            _ => lock_on(*dice.of(&self.limits)),
        }
    }
}

/// What a judge has seen, for the last time that it was asked.
type Saw = Arc<Mutex<String>>;

/// A decision by dice: looks at some records at once and at others later, and then puts in, replaces and removes, not always what it
/// has seen.
fn by_dice(seed: u64, house: &Arc<Small>, event: Event, saw: &Saw) -> (Vec<Key>, Judge) {
    let (mut dice, all, house, saw) = (Dice::new(seed), house.keys(), house.clone(), saw.clone());
    let mut keys: Vec<Key> = Vec::new();
    for _ in 0..dice.below(4) {
        let key = *dice.of(&all);
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    let later = keys.split_off(keys.len().div_ceil(2));
    let first = keys.clone();
    let judge = move |seen: &mut Seen| {
        let mut dice = dice.clone();
        let unseen: Vec<Key> = later.iter().copied().filter(|key| !seen.has_looked_at(*key)).collect();
        if !unseen.is_empty() {
            return Step::Look(unseen);
        }
        let (mut versions, mut text) = (HashMap::<Key, Version>::new(), String::new());
        for key in keys.iter().chain(&later) {
            while let Some(held) = seen.record(*key) {
                text.push_str(&format!("{key:?}: {:?} version {}; ", held.noun.key(), held.version));
                versions.insert(held.noun.key(), held.version);
            }
        }
        *saw.lock().unwrap() = text;
        let mut change = Change::none();
        for _ in 0..dice.below(4) {
            let record = house.record(&mut dice);
            let (key, guess) = (record.key(), i64::try_from(1 + dice.below(3)).expect("it is small"));
            let version = versions.get(&key).copied();
            change = match dice.below(4) {
                0 => change.insert(record),
                1 => change.remove(key, version.unwrap_or(guess)),
                2 => change.put(record, version),
                _ => change.replace(record, version.unwrap_or(guess)),
            };
        }
        Step::Write(if dice.below(2) == 0 { change.tell(event.clone()) } else { change })
    };
    (first, Box::new(judge))
}

/// What an answer means. Where a change does not fit, the engines may say so in one of two ways.
fn meant(answer: Answer) -> &'static str {
    match answer {
        Ok(Outcome::Done) => "done",
        Ok(Outcome::Taken) | Err(Fault::Contended) => "refused",
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn batches_of_decisions_by_dice_come_out_as_in_the_model_engine_invariants_1_and_2() {
    const SEEDS: std::ops::Range<u64> = 1..61;
    const TOGETHER: u64 = 60;
    let Some(database) = Database::new("doubt::model") else { return };
    let store = open(&database.url()).await;
    let chance = Script::default();
    let (began, mut done, mut refused) = (Instant::now(), 0, 0);
    for seed in SEEDS {
        let (model, tenant, house) = (Memory::default(), TenantId::new(now(), &chance), Arc::new(Small::new(&chance)));
        for batch in 0..2 {
            let gate = Gate::shut(&store, tenant).await;
            let mut both = Vec::new();
            for count in 0..TOGETHER {
                let (seed, told) = (seed * 1_000 + batch * TOGETHER + count, event(&chance, house.challenges[0].id));
                let (saw, model_saw) = (Saw::default(), Saw::default());
                let (keys, judge) = by_dice(seed, &house, told.clone(), &saw);
                let here = store.decide(tenant, keys, judge);
                let (keys, judge) = by_dice(seed, &house, told, &model_saw);
                let there = model.decide(tenant, keys, judge).await;
                both.push((seed, here, saw, meant(there), model_saw));
            }
            gate.open().await;
            for (seed, here, saw, there, model_saw) in both {
                let here = meant(here.await);
                assert_eq!((here, &*saw.lock().unwrap()), (there, &*model_saw.lock().unwrap()), "seed {seed}");
                *(if here == "done" { &mut done } else { &mut refused }) += 1;
            }
        }
        for key in house.keys() {
            let text = |held: Option<countersign_core::ports::Held<Record>>| format!("{held:?}");
            let (here, there) = (store.find(tenant, key).await.unwrap(), model.find(tenant, key).await.unwrap());
            assert_eq!(text(here), text(there), "seed {seed}: {key:?}");
        }
        let events = store.events(tenant, None, 1_000).await.unwrap();
        assert_eq!(events, model.events(tenant, None, 1_000).await.unwrap(), "seed {seed}");
    }
    assert!(done > 1_000 && refused > 1_000, "{done} done, {refused} refused");
    println!("proof: model done={done} refused={refused} seconds={:.1}", began.elapsed().as_secs_f64());
}

// ------------------------------------------------------------------------------------------------------ beginnings

#[test]
fn of_two_nodes_that_find_a_new_database_one_makes_the_master_key() {
    let Some(database) = Database::new("doubt::two_begin") else { return };
    let place = |name: &str| Place::empty(name, 1, vec![("COUNTERSIGN_STORAGE_URL", database.url())]);
    let places = [place("begins-one"), place("begins-other")];
    let key = |place: &Place| place.folder.path().join("master.key");
    let create = |place: &Place, name: &str| {
        let mut command = place.prepare();
        command.args(["tenant", "create", name]);
        ended(command, Duration::from_secs(60))
    };
    let created: Vec<_> = std::thread::scope(|scope| {
        let both: Vec<_> = places.iter().zip(["one", "other"]).map(|(place, name)| scope.spawn(move || create(place, name))).collect();
        both.into_iter().map(|it| it.join().expect("no panic")).collect()
    });
    assert_eq!(places.iter().filter(|it| key(it).exists()).count(), 1, "{created:?}");
    let (winner, loser) = if key(&places[0]).exists() { (0, 1) } else { (1, 0) };
    assert!(created[winner].0.success() && !created[loser].0.success(), "{created:?}");
    assert!(created[loser].2.contains("put your copy of the file back"), "{}", created[loser].2);
    let tenants = || database.sql("SELECT count(*) FROM tenants");
    assert_eq!(tenants(), "1");

    // A key of its own does not help: it would be a second house in the same rooms.
    std::fs::write(key(&places[loser]), "00".repeat(32)).unwrap();
    let (status, _, said) = create(&places[loser], "third");
    assert!(!status.success() && said.contains("does not open 1 of 1 tenants") && said.contains("put back the key"), "{said}");
    assert_eq!(tenants(), "1");

    std::fs::copy(key(&places[winner]), key(&places[loser])).unwrap();
    let (status, _, said) = create(&places[loser], "third");
    assert!(status.success(), "{said}");
    assert_eq!(tenants(), "2");
}

#[test]
fn a_start_on_a_database_that_does_not_answer_lives_and_can_be_stopped() {
    let Some(database) = Database::new("doubt::locked") else { return };
    let mut place = Place::on("locked", "http://127.0.0.1:9/", 1, &database.url());
    let _locked = Locked::table(&database, "migrations");
    let within = |ms: &str| ("COUNTERSIGN_STORAGE_POSTGRES_ANSWER_WITHIN_MS", ms.to_owned());
    // In the middle of its first look, which would take a minute.
    place.settings.push(within("60000"));
    let running = place.start_node(0);
    running.signal("TERM");
    assert!(running.ended(Duration::from_secs(5)).success());
    place.settings.push(within("1000"));
    let running = place.start_node(0);
    assert_eq!(place.probe(0, "/healthz").status(), Some(200));
    assert_eq!(place.probe(0, "/readyz").status(), Some(503));
    running.signal("TERM");
    assert!(running.ended(Duration::from_secs(10)).success());
}
