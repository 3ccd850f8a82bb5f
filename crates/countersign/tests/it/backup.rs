//! Backups beside the real server while it is at work, and what a restore brings back and what it may not.
//!
//! Invariants 1 to 5. The format of the file has its tests in `countersign_core::words::archive`.

use crate::house::another;
use crate::server::{Answer, Caller, Folder, Place, Running, Sink};
use crate::tools::until;
use countersign_core::nouns::event::What;
use countersign_core::nouns::sign_in::{Finishes, SignIn};
use countersign_core::nouns::totp;
use countersign_core::nouns::user::{Access, AccessStage, Account, Realm, User};
use countersign_core::ports::test::Script;
use countersign_core::ports::{Change, Key, Listing, Outcome, Record, Step, Store};
use countersign_core::words::address::{Fingerprint, Login};
use countersign_core::words::archive::{self, Opening};
use countersign_core::words::id::{AccessId, TenantId, UserId};
use countersign_core::words::secret::{MasterKey, Sealed};
use countersign_core::words::time::Timestamp;
use countersign_store::{Options, Sqlite};
use rusqlite::Connection;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

/// Nobody listens here: the port of `discard`.
const NOBODY: &str = "http://127.0.0.1:9/";

pub fn run(place: &Place, arguments: &[&str]) -> Output {
    place.prepare().args(arguments).stdin(Stdio::null()).output().unwrap()
}

pub fn told(done: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr))
}

pub fn json_of(place: &Place, arguments: &[&str]) -> Value {
    let said = place.command(&[arguments, &["--json"]].concat());
    serde_json::from_str(&said).unwrap_or_else(|why| panic!("{arguments:?}: {why}: {said}"))
}

/// Refused with this exit code and these words.
pub fn refused(place: &Place, arguments: &[&str], code: i32, words: &[&str]) {
    let done = run(place, arguments);
    let said = told(&done);
    assert_eq!(done.status.code(), Some(code), "{arguments:?}: {said}");
    assert!(words.iter().all(|it| said.contains(it)), "{arguments:?}: {words:?} in {said}");
}

fn names(folder: &Path) -> Vec<String> {
    sorted(fs::read_dir(folder).unwrap().map(|it| it.unwrap().file_name().into_string().unwrap()).collect())
}

fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort();
    names
}

pub fn stop(server: Running) {
    server.signal("TERM");
    assert!(server.ended(Duration::from_secs(30)).success());
}

/// Puts a backup in the place of the database that is there, as people do: stop, restore, start.
fn restart_from(place: &Place, server: Running, backup: &str) -> (Running, Value) {
    stop(server);
    let restored = json_of(place, &["restore", backup, "--force"]);
    (place.start(), restored)
}

/// Another machine, on which there is a copy of the master key and nothing else.
fn elsewhere(place: &Place, name: &str) -> Folder {
    let folder = Folder::new(name);
    fs::copy(place.folder.path().join("master.key"), folder.path().join("master.key")).unwrap();
    folder
}

/// A command in a folder of its own, which calls the same providers.
fn at(folder: &Folder, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_countersign"));
    let allowed = [("COUNTERSIGN_EGRESS_ALLOW", "127.0.0.0/8"), ("COUNTERSIGN_EGRESS_ALLOW_PLAIN_HTTP", "true")];
    command.current_dir(folder.path()).envs(allowed).args(arguments).stdin(Stdio::null()).output().unwrap()
}

pub fn error_of(answer: &Answer) -> Option<&str> {
    answer.as_ref().and_then(|(_, body)| body["code"].as_str())
}

pub async fn opened(caller: &Caller, sink: &Sink, login: &str, number: &str) -> (String, String) {
    let (status, body) = caller.ask(login, number).await.expect("an answer");
    assert_eq!(status, 201, "{body}");
    (body["authId"].as_str().expect("an id").to_owned(), sink.code(number).expect("a code"))
}

pub async fn accepted(caller: &Caller, id: &str, code: &str) {
    let said = caller.answer(id, code).await;
    assert!(matches!(said, Some((200, _))), "{said:?}");
}

// -------------------------------------------------------------------------------------------------------- what comes back

/// Opens challenges and answers half of them until it is told to stop. Notes what it was told, and only that.
async fn call(caller: Caller, sink: Arc<Sink>, next: Arc<AtomicUsize>, told: Arc<Mutex<Vec<(String, bool)>>>, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        let count = next.fetch_add(1, Ordering::Relaxed);
        // Numbers of this provider that end in 7 wait for a second attempt; these do not.
        let (id, code) = opened(&caller, &sink, &format!("user-{count}"), &format!("+9182{count:07}0")).await;
        if count.is_multiple_of(2) {
            accepted(&caller, &id, &code).await;
        }
        told.lock().unwrap().push((id, count.is_multiple_of(2)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invariant_4_what_was_told_before_a_backup_began_is_in_it_while_the_server_goes_on() {
    let sink = Arc::new(Sink::start().await);
    let place = Place::new("backup-load", &sink.url);
    let server = place.start();
    let caller = Caller::new(&place).await;
    let (next, all, ends) = (Arc::default(), Arc::<Mutex<Vec<(String, bool)>>>::default(), Arc::<AtomicBool>::default());
    let calls: Vec<_> =
        (0..8).map(|_| tokio::spawn(call(caller.clone(), sink.clone(), Arc::clone(&next), all.clone(), ends.clone()))).collect();
    let mut backups = Vec::new();
    for round in 0..4 {
        tokio::time::sleep(Duration::from_millis(250)).await;
        let before = all.lock().unwrap().clone();
        let name = format!("{round}.backup");
        let arguments = ["backup".to_owned(), name.clone(), "--json".to_owned()];
        let mut command = place.prepare();
        let done = tokio::task::spawn_blocking(move || command.args(arguments).output().unwrap()).await.unwrap();
        assert!(done.status.success(), "{}", told(&done));
        backups.push((name, before));
    }
    ends.store(true, Ordering::Relaxed);
    for call in calls {
        call.await.expect("no call failed while a backup was made");
    }
    stop(server);
    let counts: Vec<_> = backups.iter().map(|(_, before)| before.len()).collect();
    assert!(counts.windows(2).all(|it| it[0] < it[1]), "the server answers while it is copied: {counts:?}");

    for (name, before) in backups {
        let there = elsewhere(&place, &format!("backup-load-{name}"));
        let file = place.folder.path().join(&name);
        let done = at(&there, &["restore", file.to_str().unwrap(), "--json"]);
        assert!(done.status.success(), "{}", told(&done));
        let database = Connection::open(there.path().join("countersign.db")).unwrap();
        let stage = |id: &str| -> String {
            let hex = id.replace('-', "");
            let asked = database.query_row("SELECT body FROM challenges WHERE hex(id) = upper(?1)", [hex], |row| row.get(0));
            asked.unwrap_or_else(|why| panic!("{id} was told before {name} began, and is not in it: {why}"))
        };
        for (id, passed) in &before {
            let body: Value = serde_json::from_str(&stage(id)).unwrap();
            let end = if *passed { "passed" } else { "expired" };
            assert!(body["stage"].get(end).is_some(), "{id} in {name} is {body}");
        }
        // It is one moment: whatever was written in one change is there together.
        let count = |sql: &str| database.query_row(sql, (), |row| row.get::<_, i64>(0)).unwrap();
        let all = count("SELECT count(*) FROM challenges");
        assert_eq!(all, count("SELECT count(*) FROM deliveries"));
        assert_eq!(all, count("SELECT count(*) FROM events WHERE body ->> '$.what' = 'opened'"));
        assert_eq!(1, count("SELECT count(*) FROM events WHERE body ->> '$.what' = 'restored'"), "the audit trail tells of it");
        assert_eq!(0, count("SELECT count(*) FROM challenges WHERE body LIKE '%\"open\"%'"));
        let doctor = at(&there, &["doctor", "--json"]);
        assert!(doctor.status.success(), "{}", told(&doctor));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invariants_1_and_3_no_code_from_before_a_restore_is_accepted_after_it() {
    let sink = Sink::start().await;
    let place = Place::new("backup-codes", &sink.url);
    let server = place.start();
    let caller = Caller::new(&place).await;
    let (passed, passed_code) = opened(&caller, &sink, "before", "+918212340000").await;
    accepted(&caller, &passed, &passed_code).await;
    let (later, later_code) = opened(&caller, &sink, "later", "+918212340001").await;
    let (resent, first_code) = opened(&caller, &sink, "resent", "+918212340002").await;
    let (never, never_code) = opened(&caller, &sink, "never", "+918212340003").await;
    place.command(&["backup", "house.backup"]);
    // Each of these is open in the backup, and means something else by now.
    accepted(&caller, &later, &later_code).await;
    let (after, after_code) = opened(&caller, &sink, "after", "+918212340004").await;

    let (server, restored) = restart_from(&place, server, "house.backup");
    assert_eq!((&restored["challenges_ended"], &restored["tenants"]), (&json!(3), &json!(1)), "{restored}");
    let caller = Caller::new(&place).await;
    for (id, code) in [(&passed, &passed_code), (&later, &later_code), (&resent, &first_code), (&never, &never_code), (&after, &after_code)]
    {
        let said = caller.answer(id, code).await;
        assert_eq!(error_of(&said), Some("10007"), "{said:?}");
        assert_eq!(error_of(&caller.answer(id, &another(code)).await), Some("10007"), "it takes no guesses either");
    }
    // Whoever asks again gets in, and is the only one who does.
    let (again, code) = opened(&caller, &sink, "later", "+918212340001").await;
    accepted(&caller, &again, &code).await;
    assert_eq!(error_of(&caller.answer(&again, &code).await), Some("10007"));
    drop(server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invariant_2_wrong_codes_from_before_a_backup_count_after_its_restore() {
    let sink = Sink::start().await;
    let place = Place::new("backup-counts", &sink.url);
    let server = place.start();
    let caller = Caller::new(&place).await;
    let (id, code) = opened(&caller, &sink, "guesser", "+918212340010").await;
    for _ in 0..2 {
        assert_eq!(error_of(&caller.answer(&id, &another(&code)).await), Some("10008"));
    }
    place.command(&["backup", "house.backup"]);
    let (server, _) = restart_from(&place, server, "house.backup");
    let caller = Caller::new(&place).await;
    let (id, code) = opened(&caller, &sink, "guesser", "+918212340010").await;
    assert_eq!(error_of(&caller.answer(&id, &another(&code)).await), Some("10026"), "it is the third in a row");
    drop(server);
}

pub fn value_at(seed: &[u8], steps_from_now: u64) -> String {
    totp::hotp(seed, totp::step_at(now()) + steps_from_now)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invariant_1_a_value_of_an_authenticator_that_was_taken_since_is_not_taken_again() {
    let place = Place::new("backup-totp", NOBODY);
    let server = place.start();
    let caller = Caller::new(&place).await;
    let device = json!({"deviceType": "TOTP", "deviceName": "phone"});
    let (status, made) = caller.post("users/jdoe/mfadevices", device).await.expect("an answer");
    assert_eq!(status, 201, "{made}");
    let seed = data_encoding::BASE32_NOPAD.decode(made["secret"].as_str().unwrap().as_bytes()).unwrap();
    let activate = format!("users/jdoe/mfadevices/{}", made["authId"].as_str().unwrap());
    let said = caller.post(&activate, json!({"otp": value_at(&seed, 0)})).await;
    assert!(matches!(said, Some((200, _))), "{said:?}");
    place.command(&["backup", "house.backup"]);

    let ask = json!({"userName": "jdoe", "deviceType": "TOTP", "deviceName": "phone"});
    let begin = async |caller: &Caller| {
        let (status, body) = caller.post("deviceAuthentications", ask.clone()).await.expect("an answer");
        assert_eq!(status, 201, "{body}");
        body["authId"].as_str().unwrap().to_owned()
    };
    // The backup knows nothing of this one: a value that a clock half a minute ahead shows.
    let value = value_at(&seed, 1);
    accepted(&caller, &begin(&caller).await, &value).await;
    let (server, restored) = restart_from(&place, server, "house.backup");
    assert_eq!(restored["authenticators"], 1);
    let caller = Caller::new(&place).await;
    let said = caller.answer(&begin(&caller).await, &value).await;
    assert_eq!(error_of(&said), Some("10008"), "{said:?}");
    drop(server);
}

/// In 2100, when no test runs any more.
const LATER: Timestamp = Timestamp::from_millis(4_102_444_800_000);

/// Somebody who is logged in with two applications, and two sign-ins: one on its way, and one that is over.
pub struct Halfway {
    tenant: TenantId,
    member: UserId,
    on_its_way: Fingerprint,
    over: Fingerprint,
}

impl Halfway {
    /// Puts them into the tenant of `store`.
    pub async fn put(store: &dyn Store) -> Self {
        let tenant = store.list(Listing::TenantNamed("demo".into())).await.unwrap()[0].tenant;
        let chance = Script::default();
        let sealed: Sealed = kept_as(&"A".repeat(64));
        let [on_its_way, over, named] = [1, 2, 3].map(|it| Fingerprint::from_bytes([it; 16]));
        let sign_in = |of, over_at| {
            let baggage = sealed.clone();
            Record::SignIn(SignIn { of, user: named, purpose: Finishes::Login, challenge: None, baggage, over_at })
        };
        let access = |app: &str| Access {
            id: AccessId::new(LATER, &chance),
            app: app.into(),
            mac: kept_as(&"0".repeat(64)),
            created_at: LATER,
            stage: AccessStage::Live { token: sealed.clone(), used_at: LATER },
        };
        let accesses = vec![access("notes"), access("diary")];
        let account = Account { password: "$argon2id$".into(), language: "en".into(), profile: None, accesses };
        let (id, login) = (UserId::new(LATER, &chance), Login::parse("member").unwrap());
        let member = User { id, realm: Realm::Tenant, login, named, account: Some(account), created_at: LATER };
        let change = Change::none().insert(Record::User(member)).insert(sign_in(on_its_way, LATER));
        let change = change.insert(sign_in(over, Timestamp::from_millis(1)));
        let put = store.decide(tenant, vec![], Box::new(move |_| Step::Write(change.clone()))).await;
        assert_eq!(put.unwrap(), Outcome::Done);
        Self { tenant, member: id, on_its_way, over }
    }

    /// Looks at what a restore has left of them. Gives how many each restore has put an end to, the last one first.
    pub async fn left(&self, store: &dyn Store, by: Timestamp) -> Vec<u64> {
        let at = async |key| store.find(self.tenant, key).await.unwrap().unwrap();
        let Record::User(User { account: Some(account), .. }) = at(Key::User(self.member)).await.noun else { panic!("it has one") };
        assert!(account.accesses.is_empty(), "nobody is logged in");
        assert_eq!((account.password.as_str(), account.language.as_str()), ("$argon2id$", "en"), "all else is as it was");
        let held = at(Key::SignIn(self.on_its_way)).await;
        assert!(matches!(held.noun, Record::SignIn(it) if it.over_at <= by), "it is over");
        let held = at(Key::SignIn(self.over)).await;
        assert!(matches!(held.noun, Record::SignIn(it) if it.over_at == Timestamp::from_millis(1)) && held.version == 1, "it was");
        // Retention finds it by the column, which is as new as the noun.
        assert_eq!(store.sweep(self.tenant, Timestamp::from_millis(0), by).await.unwrap().removed, 2);
        let restored = store.events(self.tenant, None, 100).await.unwrap().into_iter().filter_map(|it| match it.what {
            What::Restored { sign_ins, .. } => Some(sign_ins),
            _ => None,
        });
        restored.collect()
    }
}

/// A value of which only the form matters here.
fn kept_as<T: DeserializeOwned>(text: &str) -> T {
    serde_json::from_value(json!(text)).unwrap()
}

pub fn now() -> Timestamp {
    Timestamp::from_millis(SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis().try_into().unwrap())
}

#[tokio::test]
async fn invariant_1_no_sign_in_goes_on_and_nobody_is_logged_in_after_a_restore() {
    let place = Place::new("backup-sign-ins", NOBODY);
    let open = || Sqlite::open(&place.folder.path().join("countersign.db"), Options::default()).unwrap();
    let halfway = Halfway::put(&open()).await;
    place.command(&["backup", "house.backup"]);
    place.command(&["restore", "house.backup", "--force"]);
    assert_eq!(halfway.left(&open(), now()).await, [3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invariant_5_a_message_that_waited_in_a_backup_is_not_sent_again() {
    let sink = Sink::start().await;
    let place = Place::new("backup-outbox", &sink.url);
    let server = place.start();
    let caller = Caller::new(&place).await;
    // The provider is away for this number when it is first asked, so the message waits for a second.
    let number = "+918212340007";
    let (_, body) = caller.ask("waiting", number).await.expect("an answer");
    place.command(&["backup", "house.backup"]);
    let taken = || sink.taken.lock().unwrap().get(number).map_or(0, Vec::len);
    until(Duration::from_secs(20), || (taken() == 1).then_some(())).expect("the server sends it in its own time");
    let (server, restored) = restart_from(&place, server, "house.backup");
    assert_eq!((&restored["messages_dropped"], &restored["challenges_ended"]), (&json!(1), &json!(1)), "{body}");
    // Longer than the loop rests, and than any pause that was planned for it.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(taken(), 1);
    drop(server);
}

// ------------------------------------------------------------------------------------------------------------- the commands

#[test]
fn a_backup_is_for_its_owner_only_and_takes_no_place_unless_it_is_told_to() {
    let place = Place::new("backup-file", NOBODY);
    let before = names(place.folder.path());
    let told = json_of(&place, &["backup", "house.backup"]);
    let file = place.folder.path().join("house.backup");
    let written = fs::read(&file).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!((&told["bytes"], &told["tenants"], &told["schema"]), (&json!(written.len()), &json!(1), &json!(4)), "{told}");
    assert_eq!(names(place.folder.path()), sorted([&before[..], &["house.backup".to_owned()]].concat()), "nothing else is left");
    let text = String::from_utf8_lossy(&written);
    assert!(text.starts_with("countersign-backup 1\n{") && !text.contains("SQLite") && !text.contains("Demo"));

    refused(&place, &["backup", "house.backup"], 1, &["is there already", "--force"]);
    assert_eq!(fs::read(&file).unwrap(), written);
    place.command(&["backup", "house.backup", "--force"]);
    assert_ne!(fs::read(&file).unwrap(), written, "another salt");
    refused(&place, &["backup", "nowhere/house.backup"], 3, &["cannot be written"]);
    refused(&place, &["backup", "-", "--json"], 2, &["standard output"]);
    assert_eq!(names(place.folder.path()).len(), before.len() + 1);

    let piped = run(&place, &["backup", "-"]);
    assert!(piped.status.success() && piped.stdout.starts_with(b"countersign-backup 1\n"), "{}", String::from_utf8_lossy(&piped.stderr));
    let there = elsewhere(&place, "backup-piped");
    let mut restore = Command::new(env!("CARGO_BIN_EXE_countersign"));
    let mut restore = restore.current_dir(there.path()).args(["restore", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    std::io::Write::write_all(&mut restore.stdin.take().unwrap(), &piped.stdout).unwrap();
    assert!(restore.wait().unwrap().success());
    assert_eq!(names(there.path()), ["countersign.db", "master.key"]);
}

#[test]
fn a_backup_that_nobody_could_restore_is_not_made() {
    let place = Place::new("backup-key", NOBODY);
    let key = place.folder.path().join("master.key");
    fs::write(&key, "00".repeat(32)).unwrap();
    refused(&place, &["backup", "house.backup"], 1, &["does not open 1 of 1 tenants: demo", "put back the key"]);
    fs::remove_file(&key).unwrap();
    refused(&place, &["backup", "house.backup"], 1, &["is missing", "put your copy"]);
    assert!(!place.folder.path().join("house.backup").exists() && !key.exists());
}

#[test]
fn what_is_wrong_with_a_backup_is_told_and_nothing_is_put_in_place() {
    let place = Place::new("backup-bad", NOBODY);
    place.command(&["backup", "house.backup"]);
    let good = fs::read(place.folder.path().join("house.backup")).unwrap();
    let there = elsewhere(&place, "backup-bad-there");
    let file = there.path().join("bad");
    let is_refused = |code: i32, words: &[&str]| {
        let done = at(&there, &["restore", "bad"]);
        let said = told(&done);
        assert_eq!(done.status.code(), Some(code), "{said}");
        assert!(words.iter().all(|it| said.contains(it)), "{words:?} in {said}");
        assert_eq!(names(there.path()), ["bad", "master.key"], "nothing is left: {said}");
    };
    let mut damaged = good.clone();
    damaged[good.len() / 2] ^= 1;
    fs::write(&file, &damaged).unwrap();
    is_refused(1, &["it is damaged", "an earlier backup"]);
    let chunk = (64 << 10) + 16;
    let head = good.len() % chunk;
    assert!(good.len() > chunk, "it has more than one chunk");
    fs::write(&file, &good[..head]).unwrap();
    is_refused(1, &["hint: "]);
    for length in [10, good.len() - 1] {
        fs::write(&file, &good[..length]).unwrap();
        is_refused(1, &["hint: "]);
    }
    fs::write(&file, "-- a dump of something else\n").unwrap();
    is_refused(1, &["no backup of Countersign"]);
    fs::write(&file, "countersign-backup 2\n{}\n").unwrap();
    is_refused(1, &["newer than this program", "with the version that made it"]);

    fs::write(&file, &good).unwrap();
    let key = fs::read(there.path().join("master.key")).unwrap();
    fs::write(there.path().join("master.key"), "00".repeat(32)).unwrap();
    is_refused(1, &["sealed with another master key", "secrets.master_key_file"]);
    fs::write(there.path().join("master.key"), key).unwrap();
    let done = at(&there, &["restore", "bad", "--check"]);
    assert!(done.status.success() && told(&done).contains("it is good"), "{}", told(&done));
    assert_eq!(names(there.path()), ["bad", "master.key"], "a look changes nothing");
}

/// Seals a database that was changed by hand, as somebody who has the master key could.
fn sealed_again(place: &Place, folder: &Folder, change: &str) {
    let master = MasterKey::parse(&fs::read_to_string(place.folder.path().join("master.key")).unwrap()).unwrap();
    let backup = fs::File::open(place.folder.path().join("house.backup")).unwrap();
    let opening = Opening::begin(backup, &master).unwrap();
    let (mut label, plain) = (opening.label().clone(), folder.path().join("plain"));
    opening.pour(fs::File::create(&plain).unwrap(), |_| Ok(())).unwrap();
    let database = Connection::open(&plain).unwrap();
    database.execute_batch(change).unwrap();
    drop(database);
    let bytes = fs::read(&plain).unwrap();
    fs::remove_file(&plain).unwrap();
    label.bytes = bytes.len() as u64;
    let file = fs::File::create(folder.path().join("changed")).unwrap();
    archive::seal(&label, &master, &Script::default(), &*bytes, file, |_| Ok(())).unwrap();
}

#[test]
fn a_newer_schema_another_database_and_other_keys_are_refused_by_restore() {
    let place = Place::new("backup-newer", NOBODY);
    place.command(&["backup", "house.backup"]);
    let there = elsewhere(&place, "backup-newer-there");
    for (change, words) in [
        ("INSERT INTO migrations VALUES (99, x'00')", &["schema version 99", "versions up to 4", "made by version 0."][..]),
        ("PRAGMA application_id = 7", &["no database of Countersign"]),
        ("UPDATE tenants SET body = json_set(body, '$.keys', json('[]'))", &["does not open 1 of 1 tenants: demo"]),
        (
            "UPDATE challenges SET body = '{}'; INSERT INTO challenges (tenant, id, version, body) VALUES (zeroblob(16), zeroblob(16), 1, '{}')",
            &["challenges"],
        ),
    ] {
        sealed_again(&place, &there, change);
        let done = at(&there, &["restore", "changed"]);
        let said = told(&done);
        assert!(done.status.code() == Some(1) && words.iter().all(|it| said.contains(it)), "{change}: {said}");
        assert_eq!(names(there.path()), ["changed", "master.key"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_there_is_only_moved_aside_and_never_under_a_running_server() {
    let sink = Sink::start().await;
    let place = Place::new("backup-aside", &sink.url);
    place.command(&["backup", "house.backup"]);
    place.command(&["tenant", "create", "later"]);
    refused(&place, &["restore", "house.backup"], 1, &["is there already", "--force"]);
    let server = place.start();
    for arguments in [&["restore", "house.backup"][..], &["restore", "house.backup", "--force"]] {
        refused(&place, arguments, 1, &["hint: "]);
    }
    refused(&place, &["restore", "house.backup", "--force"], 1, &["another process has", "stop the server"]);
    assert_eq!(json_of(&place, &["tenant", "list"]).as_array().unwrap().len(), 2, "the server's database is untouched");
    // A server that is killed leaves a log, without which the database would not be whole.
    opened(&Caller::new(&place).await, &sink, "last", "+918212340020").await;
    server.kill();
    assert!(fs::metadata(place.folder.path().join("countersign.db-wal")).unwrap().len() > 0);

    let restored = json_of(&place, &["restore", "house.backup", "--force"]);
    assert_eq!(json_of(&place, &["tenant", "list"]).as_array().unwrap().len(), 1);
    let aside = restored["aside"].as_str().expect("a name");
    assert!(!place.folder.path().join(format!("{aside}-wal")).exists(), "its log was carried into it before the change");
    let old = Connection::open(place.folder.path().join(aside)).unwrap();
    let count = |table: &str| old.query_row(&format!("SELECT count(*) FROM {table}"), (), |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!((count("tenants"), count("challenges")), (2, 1), "it is whole");
    assert_eq!(fs::metadata(place.folder.path().join("countersign.db")).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_damaged_database_and_a_log_that_was_left_alone_make_way() {
    let place = Place::new("backup-damaged", NOBODY);
    place.command(&["backup", "house.backup"]);
    let database = place.folder.path().join("countersign.db");
    fs::write(&database, "this is no database any more").unwrap();
    fs::write(place.folder.path().join("countersign.db-wal"), "nor is this a log").unwrap();
    json_of(&place, &["restore", "house.backup", "--force"]);
    assert_eq!(json_of(&place, &["tenant", "list"]).as_array().unwrap().len(), 1);
    let kept: Vec<_> = names(place.folder.path()).into_iter().filter(|it| it.contains(".before-")).collect();
    assert_eq!(kept.len(), 2, "{kept:?}");

    fs::remove_file(&database).unwrap();
    fs::write(place.folder.path().join("countersign.db-wal"), "a log without its database").unwrap();
    refused(&place, &["restore", "house.backup"], 1, &["countersign.db-wal is there already"]);
    for aside in kept {
        fs::remove_file(place.folder.path().join(aside)).unwrap();
    }
    json_of(&place, &["restore", "house.backup", "--force"]);
    assert_eq!(json_of(&place, &["tenant", "list"]).as_array().unwrap().len(), 1, "that log was not taken for its own");
}

// ------------------------------------------------------------------------------------------------------------------- ends

/// Makes the database so large that copying it takes a while.
fn fatten(place: &Place) {
    let database = Connection::open(place.folder.path().join("countersign.db")).unwrap();
    let sql = "CREATE TABLE ballast (row INTEGER PRIMARY KEY, body BLOB NOT NULL);
         WITH RECURSIVE count(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM count WHERE n < 60000)
         INSERT INTO ballast SELECT n, randomblob(3000) FROM count";
    database.execute_batch(sql).unwrap();
}

fn begin(place: &Place, arguments: &[&str]) -> Child {
    place.prepare().args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits for a file of the folder whose name has `part` in it and that is not empty.
fn appears(place: &Place, part: &str) {
    let seen = || {
        let found = names(place.folder.path()).into_iter().find(|it| it.contains(part))?;
        fs::metadata(place.folder.path().join(found)).ok().filter(|it| it.len() > 0).map(drop)
    };
    until(Duration::from_secs(20), seen).unwrap_or_else(|| panic!("no {part} appears"));
}

fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([format!("-{name}"), child.id().to_string()]).status().unwrap().success());
}

#[test]
fn whoever_is_stopped_leaves_nothing_behind_and_no_plain_copy_even_when_killed() {
    let place = Place::new("backup-stopped", NOBODY);
    fatten(&place);
    let before = names(place.folder.path());
    for name in ["INT", "TERM"] {
        let child = begin(&place, &["backup", "house.backup"]);
        appears(&place, ".part");
        signal(&child, name);
        let done = child.wait_with_output().unwrap();
        assert_eq!(done.status.code(), Some(3), "{}", told(&done));
        assert!(told(&done).contains("nothing is left behind"), "{}", told(&done));
        assert_eq!(names(place.folder.path()), before, "{name}");
    }
    // Killed while it copies: the copy has no name by then. SQLite's journal is there for as long as it copies.
    let copies_without_a_name = |child: &mut Child| {
        while child.try_wait().unwrap().is_none() {
            let of_copy: Vec<_> = names(place.folder.path()).into_iter().filter(|it| it.contains(".snapshot-")).collect();
            if !of_copy.is_empty() && of_copy.iter().all(|it| it.ends_with("-journal")) {
                child.kill().unwrap();
                child.wait().unwrap();
                return true;
            }
        }
        false
    };
    let was_seen = (0..5).any(|_| copies_without_a_name(&mut begin(&place, &["backup", "house.backup", "--force"])));
    assert!(was_seen, "the name goes while it copies");
    let _ = fs::remove_file(place.folder.path().join("house.backup"));
    for left in names(place.folder.path()).into_iter().filter(|it| !before.contains(it)) {
        let path = place.folder.path().join(&left);
        let harmless = [".part", "-wal", "-shm"].iter().any(|it| left.ends_with(it));
        assert!(harmless || (left.ends_with("-journal") && fs::metadata(&path).unwrap().len() <= 1024), "{left}");
        fs::remove_file(path).unwrap();
    }

    place.command(&["backup", "house.backup"]);
    let before = names(place.folder.path());
    let child = begin(&place, &["restore", "house.backup", "--force"]);
    appears(&place, "countersign.db.");
    signal(&child, "INT");
    let done = child.wait_with_output().unwrap();
    assert_eq!(done.status.code(), Some(3), "{}", told(&done));
    assert_eq!(names(place.folder.path()), before);
}
