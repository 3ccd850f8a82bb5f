//! The engines keep the contract, and the embedded one the promises that only a file can break.

use countersign_core::nouns::challenge::{Challenge, Proof, Purpose, Stage};
use countersign_core::nouns::user::Realm;
use countersign_core::ports::test::Script;
use countersign_core::ports::{Change, Key, Outcome, Record, Seen, Step, Store};
use countersign_core::words::address::{Channel, Fingerprint};
use countersign_core::words::id::{ChallengeId, ClientId, FactorId, TenantId};
use countersign_core::words::refusal::Fault;
use countersign_core::words::time::Timestamp;
use countersign_store::memory::Memory;
use countersign_store::{OpenError, Options, Sqlite, contract};
use std::num::NonZeroU8;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// A folder of its own for each test, gone afterwards.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("store.db")
    }
}

fn open(path: &Path) -> Sqlite {
    Sqlite::open(path, Options::default()).expect("opens")
}

fn now() -> Timestamp {
    Timestamp::from_millis(1_893_499_200_000)
}

fn challenge(chance: &Script) -> Challenge {
    Challenge {
        id: ChallengeId::new(now(), chance),
        realm: Realm::Client(ClientId::new(now(), chance)),
        channel: Channel::Totp,
        failures: vec![Fingerprint::from_bytes([7; 16])],
        purpose: Purpose::Authenticate,
        stage: Stage::Open {
            attempts_left: NonZeroU8::new(3).expect("three"),
            expires_at: now(),
            proof: Proof::Totp { factor: FactorId::new(now(), chance) },
        },
    }
}

async fn insert(store: &dyn Store, tenant: TenantId, challenge: Challenge) -> Result<Outcome, Fault> {
    let change = Change::none().insert(Record::Challenge(challenge));
    store.decide(tenant, vec![], Box::new(move |_| Step::Write(change.clone()))).await
}

async fn is_there(store: &dyn Store, tenant: TenantId, id: ChallengeId) -> bool {
    store.find(tenant, Key::Challenge(id)).await.expect("is read").is_some()
}

/// Adds one wrong answer's worth of version to a challenge.
async fn touch(store: &dyn Store, tenant: TenantId, id: ChallengeId) -> Result<Outcome, Fault> {
    let judge = move |seen: &mut Seen| {
        let held = seen.challenge(id).expect("is there");
        Step::Write(Change::none().replace(Record::Challenge(held.noun), held.version))
    };
    store.decide(tenant, vec![Key::Challenge(id)], Box::new(judge)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_holds_for_the_embedded_engine() {
    let folder = Folder::new();
    contract::holds(Arc::new(open(&folder.file()))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_holds_for_the_model_engine() {
    contract::holds(Arc::new(Memory::default())).await;
}

#[tokio::test]
async fn a_reopened_database_has_everything() {
    let folder = Folder::new();
    let chance = Script::default();
    let (tenant, kept) = (TenantId::new(now(), &chance), challenge(&chance));
    let store = open(&folder.file());
    assert_eq!(insert(&store, tenant, kept.clone()).await.expect("works"), Outcome::Done);
    store.close();
    assert!(!folder.0.path().join("store.db-wal").exists(), "a closed database is one file");
    assert!(matches!(insert(&store, tenant, challenge(&chance)).await, Err(Fault::Unavailable { .. })), "closed is closed");
    let store = open(&folder.file());
    assert!(is_there(&store, tenant, kept.id).await);
}

#[tokio::test]
async fn what_is_queued_at_the_end_still_happens() {
    let folder = Folder::new();
    let chance = Script::default();
    let tenant = TenantId::new(now(), &chance);
    let store = open(&folder.file());
    let all: Vec<Challenge> = (0..2_000).map(|_| challenge(&chance)).collect();
    for one in &all {
        drop(insert_soon(&store, tenant, one.clone()));
    }
    drop(store);
    let store = open(&folder.file());
    for one in &all {
        assert!(is_there(&store, tenant, one.id).await);
    }
}

fn insert_soon(store: &dyn Store, tenant: TenantId, challenge: Challenge) -> impl Future<Output = Result<Outcome, Fault>> + use<> {
    let change = Change::none().insert(Record::Challenge(challenge));
    store.decide(tenant, vec![], Box::new(move |_| Step::Write(change.clone())))
}

#[cfg(unix)]
#[tokio::test]
async fn only_its_owner_can_read_the_database_and_its_log() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = Folder::new();
    let chance = Script::default();
    let store = open(&folder.file());
    insert(&store, TenantId::new(now(), &chance), challenge(&chance)).await.expect("works");
    for file in std::fs::read_dir(&folder.0).expect("is read") {
        let file = file.expect("is read");
        assert_eq!(file.metadata().expect("is read").permissions().mode() & 0o777, 0o600, "{:?}", file.file_name());
    }
}

fn sql(path: &Path, text: &str) {
    rusqlite::Connection::open(path).and_then(|connection| connection.execute_batch(text)).expect("is valid");
}

#[test]
fn a_newer_schema_is_refused_and_both_versions_are_named() {
    let folder = Folder::new();
    open(&folder.file()).close();
    sql(&folder.file(), "INSERT INTO migrations VALUES (99, x'00')");
    let error = Sqlite::open(&folder.file(), Options::default()).expect_err("is newer");
    assert!(matches!(error, OpenError::Newer { database: 99, .. }), "{error}");
    assert!(error.to_string().contains("99") && error.to_string().contains("up to 4"), "{error}");
}

#[test]
fn a_schema_that_another_step_made_is_refused() {
    let folder = Folder::new();
    open(&folder.file()).close();
    sql(&folder.file(), "UPDATE migrations SET sha256 = x'00'");
    assert!(matches!(Sqlite::open(&folder.file(), Options::default()), Err(OpenError::Changed { step: 1 })));
}

#[test]
fn a_database_of_another_program_is_refused_and_left_alone() {
    let folder = Folder::new();
    sql(&folder.file(), "CREATE TABLE recipes (name TEXT)");
    assert!(matches!(Sqlite::open(&folder.file(), Options::default()), Err(OpenError::Foreign)));
    assert!(!folder.0.path().join("store.db-wal").exists());
    sql(&folder.file(), "INSERT INTO recipes VALUES ('soup')");
    std::fs::write(folder.0.path().join("notes.txt"), "this is no database, and longer than the header of one would have to be".repeat(9))
        .expect("is written");
    assert!(matches!(Sqlite::open(&folder.0.path().join("notes.txt"), Options::default()), Err(OpenError::Sqlite(_))));
    assert!(matches!(Sqlite::open(&folder.0.path().join("none/store.db"), Options::default()), Err(OpenError::File { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_houses_on_one_file_lose_nothing_of_each_other() {
    let folder = Folder::new();
    let chance = Script::default();
    let (tenant, shared) = (TenantId::new(now(), &chance), challenge(&chance));
    let stores = [Arc::new(open(&folder.file())), Arc::new(open(&folder.file()))];
    insert(&*stores[0], tenant, shared.clone()).await.expect("works");
    let mut tasks = Vec::new();
    for store in &stores {
        for _ in 0..8 {
            let (store, id) = (store.clone(), shared.id);
            tasks.push(tokio::spawn(async move {
                for _ in 0..20 {
                    assert_eq!(touch(&*store, tenant, id).await.expect("works"), Outcome::Done);
                }
            }));
        }
    }
    for task in tasks {
        task.await.expect("no task panics");
    }
    let held = stores[0].find(tenant, Key::Challenge(shared.id)).await.expect("is read").expect("is there");
    assert_eq!(held.version, 1 + 2 * 8 * 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_and_loses_nothing() {
    let folder = Folder::new();
    let chance = Script::default();
    let tenant = TenantId::new(now(), &chance);
    let store = Sqlite::open(&folder.file(), Options { most_bytes: Some(400 << 10), ..Options::default() }).expect("opens");
    let all: Vec<Challenge> = (0..3_000).map(|_| challenge(&chance)).collect();
    let answers: Vec<_> = all.iter().map(|one| insert_soon(&store, tenant, one.clone())).collect();
    let mut done = Vec::new();
    for (one, answer) in all.iter().zip(answers) {
        match answer.await {
            Ok(Outcome::Done) => done.push(one.id),
            Err(Fault::Unavailable { what, .. }) => assert!(what.contains("full"), "{what}"),
            other => panic!("{other:?}"),
        }
    }
    assert!(!done.is_empty() && done.len() < all.len(), "{} of {} fit", done.len(), all.len());
    for one in &all {
        assert_eq!(is_there(&store, tenant, one.id).await, done.contains(&one.id), "what was told is what is there");
    }
    // What takes no more room still works, and so does everything once there is room again.
    assert_eq!(touch(&store, tenant, done[0]).await.expect("works"), Outcome::Done);
    drop(store);
    let store = open(&folder.file());
    assert_eq!(insert(&store, tenant, challenge(&chance)).await.expect("works"), Outcome::Done);
    for id in done {
        assert!(is_there(&store, tenant, id).await);
    }
}

#[tokio::test]
async fn a_file_that_somebody_else_holds_is_told_and_tried_again() {
    let folder = Folder::new();
    let chance = Script::default();
    let tenant = TenantId::new(now(), &chance);
    let store = Sqlite::open(&folder.file(), Options { busy: Duration::from_millis(50), ..Options::default() }).expect("opens");
    let other = rusqlite::Connection::open(folder.file()).expect("opens");
    other.execute_batch("BEGIN IMMEDIATE").expect("is free");
    assert!(matches!(insert(&store, tenant, challenge(&chance)).await, Err(Fault::Unavailable { .. })));
    assert!(matches!(store.health().await, Err(Fault::Unavailable { .. })), "what cannot be written is not healthy");
    other.execute_batch("COMMIT").expect("ends");
    assert_eq!(insert(&store, tenant, challenge(&chance)).await.expect("works"), Outcome::Done);
    store.health().await.expect("is healthy");
}

#[tokio::test]
async fn a_rule_that_panics_harms_nobody_else() {
    let folder = Folder::new();
    let chance = Script::default();
    let (tenant, before, after) = (TenantId::new(now(), &chance), challenge(&chance), challenge(&chance));
    let store = open(&folder.file());
    let first = insert_soon(&store, tenant, before.clone());
    let bug = store.decide(tenant, vec![], Box::new(|_| panic!("as this test wants")));
    let last = insert_soon(&store, tenant, after.clone());
    assert_eq!(first.await.expect("works"), Outcome::Done);
    assert!(matches!(bug.await, Err(Fault::Corrupt(_))));
    assert_eq!(last.await.expect("works"), Outcome::Done);
    assert!(is_there(&store, tenant, before.id).await && is_there(&store, tenant, after.id).await);
}

/// A judge's luggage that explodes when it is put down.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("as this test wants");
    }
}

#[tokio::test]
async fn a_writer_that_died_leaves_nobody_waiting() {
    let folder = Folder::new();
    let chance = Script::default();
    let tenant = TenantId::new(now(), &chance);
    let store = open(&folder.file());
    let bomb = Bomb;
    let decided = store.decide(
        tenant,
        vec![],
        Box::new(move |_| {
            let _ = &bomb;
            Step::Write(Change::none())
        }),
    );
    let behind = insert_soon(&store, tenant, challenge(&chance));
    assert_eq!(decided.await.expect("was told before the judge was put down"), Outcome::Done);
    drop(behind.await);
    let late = tokio::time::timeout(Duration::from_secs(5), insert_soon(&store, tenant, challenge(&chance))).await;
    assert!(matches!(late, Ok(Err(Fault::Unavailable { .. }))), "{late:?}");
    assert!(matches!(store.health().await, Err(Fault::Unavailable { .. })));
    store.close();
}

#[tokio::test]
async fn a_row_that_cannot_be_read_is_told_without_what_it_holds() {
    let folder = Folder::new();
    let chance = Script::default();
    let (tenant, one) = (TenantId::new(now(), &chance), challenge(&chance));
    let store = open(&folder.file());
    insert(&store, tenant, one.clone()).await.expect("works");
    sql(&folder.file(), r#"UPDATE challenges SET body = '{"id":"canary-4711"}'"#);
    let found = store.find(tenant, Key::Challenge(one.id)).await.expect_err("is damaged");
    let touched = touch(&store, tenant, one.id).await.expect_err("is damaged");
    for fault in [found, touched] {
        assert!(matches!(fault, Fault::Corrupt(_)) && !fault.to_string().contains("canary"), "{fault}");
    }
}

#[tokio::test]
async fn a_full_queue_turns_away_at_once() {
    let folder = Folder::new();
    let chance = Script::default();
    let tenant = TenantId::new(now(), &chance);
    let store = Sqlite::open(&folder.file(), Options { queue: 4, ..Options::default() }).expect("opens");
    let (held, hold) = std::sync::mpsc::channel::<()>();
    let first = store.decide(
        tenant,
        vec![],
        Box::new(move |_| {
            // Until the test says so, the writer stands still here.
            assert!(hold.recv().is_err());
            Step::Write(Change::none())
        }),
    );
    let answers: Vec<_> = (0..20).map(|_| insert_soon(&store, tenant, challenge(&chance))).collect();
    drop(held);
    first.await.expect("works");
    let (mut done, mut turned) = (0, 0);
    for answer in answers {
        match answer.await {
            Ok(Outcome::Done) => done += 1,
            Err(Fault::Unavailable { .. }) => turned += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!((3..=8).contains(&done) && done + turned == 20, "{done} done, {turned} turned away");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_carried_over_beside_the_writer() {
    let folder = Folder::new();
    let chance = Script::default();
    let tenant = TenantId::new(now(), &chance);
    let store = open(&folder.file());
    for _ in 0..100 {
        insert(&store, tenant, challenge(&chance)).await.expect("works");
    }
    let mut stats = store.stats();
    for _ in 0..100 {
        if stats.checkpoints > 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        stats = store.stats();
    }
    assert!(stats.checkpoints > 0 && stats.last_checkpoint.is_some(), "{stats:?}");
    assert_eq!((stats.jobs, stats.batches.iter().sum::<u64>(), stats.waiting), (100, 100, 0), "each waited for its answer");
}
