//! Moving a house from one engine to the other: nothing is lost or changed on the way, whatever ends it can be gone on with, and nobody
//! serves half a house.

use crate::backup::{Halfway, accepted, error_of, json_of, opened, refused, run, stop, told, value_at};
use crate::house::another;
use crate::postgres::Database;
use crate::server::{Caller, Place, Running, Sink};
use crate::tools::until;
use countersign_store::{Options, Sqlite};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, Row};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Nobody listens here: the port of `discard`.
const NOBODY: &str = "http://127.0.0.1:9/";

/// Tables and their columns, in words of the test's own: what is copied must not be looked at through what copies.
const TABLES: [(&str, &str); 11] = [
    ("tenants", "version, name"),
    ("clients", "version, client_id"),
    ("users", "version, named"),
    ("factors", "version, owner"),
    ("challenges", "version"),
    ("deliveries", "version, due_at"),
    ("limits", "version, over_at"),
    ("sign_ins", "version, over_at"),
    ("providers", "version, name"),
    ("templates", "version, called"),
    ("events", ""),
];

/// All rows of a house as text, by table.
type Rows = BTreeMap<&'static str, Vec<String>>;

fn in_file(path: &Path) -> Rows {
    let database = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let text = |row: &Row<'_>| {
        let cell = |at| match row.get_ref(at).unwrap() {
            ValueRef::Null => String::new(),
            ValueRef::Integer(number) => number.to_string(),
            ValueRef::Blob(bytes) => data_encoding::HEXLOWER.encode(bytes),
            ValueRef::Text(text) => String::from_utf8(text.to_vec()).unwrap(),
            ValueRef::Real(_) => panic!("no number here is broken"),
        };
        Ok((0..row.as_ref().column_count()).map(cell).collect::<Vec<_>>().join("|"))
    };
    let all = TABLES.map(|(table, more)| {
        let more = if more.is_empty() { String::new() } else { format!(", {more}") };
        let mut rows = database.prepare(&format!("SELECT tenant, id{more}, body FROM {table} ORDER BY 1, 2")).unwrap();
        (table, rows.query_map((), text).unwrap().map(Result::unwrap).collect())
    });
    all.into_iter().collect()
}

fn in_database(database: &Database) -> Rows {
    let all = TABLES.map(|(table, more)| {
        let more: String = more.split(", ").filter(|it| !it.is_empty()).map(|it| format!(", replace({it}::text, '-', '')")).collect();
        // Names may have hyphens, and only ids may lose them.
        let more = more.replace("replace(name::text, '-', '')", "name").replace("replace(called::text, '-', '')", "called");
        let more = more.replace("replace(client_id::text, '-', '')", "client_id");
        let ids = "replace(tenant::text, '-', ''), replace(id::text, '-', '')";
        let rows = database.sql(&format!("SELECT {ids}{more}, body FROM {table} ORDER BY tenant, id"));
        (table, rows.lines().map(str::to_owned).collect())
    });
    all.into_iter().collect()
}

fn count(rows: &Rows) -> u64 {
    rows.values().map(|it| it.len() as u64).sum()
}

/// The copy that a test is about.
fn arguments<'a>(from: &'a str, to: &'a str) -> [&'a str; 5] {
    ["copy", "--from", from, "--to", to]
}

/// The same place, whose servers and commands use another database.
fn moved(mut place: Place, to: &str) -> Place {
    place.settings.retain(|(name, _)| !name.starts_with("COUNTERSIGN_STORAGE_"));
    let setting = if to.starts_with("postgres:") { "COUNTERSIGN_STORAGE_URL" } else { "COUNTERSIGN_STORAGE_PATH" };
    place.settings.push((setting, to.to_owned()));
    place
}

/// Fills a file with so many challenges and events more. What is in them is for nobody, so they need not be good ones.
fn fill(file: &Path, rows: u32) {
    let database = Connection::open(file).unwrap();
    database
        .execute_batch(&format!(
            "BEGIN;
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {half})
             INSERT INTO challenges (tenant, id, version, body)
             SELECT tenant, unhex(printf('7%031x', i)), 1 + i % 7, json_object('i', i, 'text', hex(zeroblob(100))) FROM n, tenants WHERE name = 'demo';
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {half})
             INSERT INTO events (tenant, id, body)
             SELECT tenant, unhex(printf('7%031x', i)), json_object('i', i) FROM n, tenants WHERE name = 'demo';
             COMMIT;",
            half = rows / 2
        ))
        .unwrap();
}

/// What the mark of an unfinished copy says, and how many rows it stands for.
fn carried(mark: &str) -> Option<u64> {
    serde_json::from_str::<Value>(mark).ok()?["rows"].as_u64()
}

fn mark_in_database(database: &Database) -> Option<u64> {
    let there = database.sql("SELECT count(*) FROM pg_tables WHERE tablename = 'marks'");
    if there == "1" { carried(&database.sql("SELECT body FROM marks WHERE name = 'copy'")) } else { None }
}

// --------------------------------------------------------------------------------------------- a house that has been lived in

/// Tenants, clients and templates whose names are not easy.
fn furnish(place: &Place) {
    std::fs::write(place.folder.path().join("words"), "Ihr Code: {{ code }} – „gültig“ für 5' & 'nie' mehr\\n \u{1F511}\n").unwrap();
    place.command(&["template", "put", "demo", "Grüße \"1\"", "sms", "--text", "words"]);
    for (tenant, shown) in [("zweiter", "Zwéiter; DROP TABLE tenants; -- 'x' \"y\" \\ \u{65E5}\u{672C}"), ("third", "\u{1F511}")] {
        place.command(&["tenant", "create", tenant, "--display-name", shown]);
        place.command(&["client", "create", tenant, "Ünser \"Portal\" | 'eins'", "--client-id", &format!("portal-{tenant}@_.")]);
    }
}

/// A person with an authenticator that is in use; gives its seed.
async fn enrolled(caller: &Caller, login: &str) -> Vec<u8> {
    let device = json!({"deviceType": "TOTP", "deviceName": "phone"});
    let (status, made) = caller.post(&format!("users/{login}/mfadevices"), device).await.expect("an answer");
    assert_eq!(status, 201, "{made}");
    let seed = data_encoding::BASE32_NOPAD.decode(made["secret"].as_str().unwrap().as_bytes()).unwrap();
    let activate = format!("users/{login}/mfadevices/{}", made["authId"].as_str().unwrap());
    let said = caller.post(&activate, json!({"otp": value_at(&seed, 0)})).await;
    assert!(matches!(said, Some((200, _))), "{said:?}");
    seed
}

async fn by_totp(caller: &Caller, login: &str) -> String {
    let ask = json!({"userName": login, "deviceType": "TOTP", "deviceName": "phone"});
    let (status, body) = caller.post("deviceAuthentications", ask).await.expect("an answer");
    assert_eq!(status, 201, "{body}");
    body["authId"].as_str().unwrap().to_owned()
}

async fn lock(caller: &Caller, sink: &Sink, login: &str, number: &str) {
    let (id, code) = opened(caller, sink, login, number).await;
    for error in ["10008", "10008", "10026"] {
        assert_eq!(error_of(&caller.answer(&id, &another(&code)).await), Some(error));
    }
}

fn started(place: &Place) -> Running {
    let server = place.start();
    place.becomes_ready(0, Duration::from_secs(20));
    server
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_house_goes_on_in_the_other_engine_where_it_was_left_and_back_again() {
    let Some(database) = Database::new("copy::there_and_back") else { return };
    let sink = Sink::start().await;
    let place = Place::new("copy-there-and-back", &sink.url);
    furnish(&place);
    let server = place.start();
    let caller = Caller::new(&place).await;
    let seed = enrolled(&caller, "jörg o'neill").await;
    let (passed, passed_code) = opened(&caller, &sink, "pässed \"1\"", "+918212350000").await;
    accepted(&caller, &passed, &passed_code).await;
    let (open, code) = opened(&caller, &sink, "open", "+918212350001").await;
    assert_eq!(error_of(&caller.answer(&open, &another(&code)).await), Some("10008"));
    let (later, later_code) = opened(&caller, &sink, "later", "+918212350002").await;
    lock(&caller, &sink, "locked", "+918212350003").await;
    // The provider is away for this number when it is first asked, so the message waits while the house is moved.
    let waiting = "+918212350007";
    caller.ask("waiting", waiting).await.expect("an answer");
    server.kill();
    let taken = |number: &str| sink.taken.lock().unwrap().get(number).map_or(0, Vec::len);
    assert_eq!(taken(waiting), 0, "it was sent before the house was moved");

    let file = place.folder.path().join("countersign.db");
    Halfway::put(&Sqlite::open(&file, Options::default()).unwrap()).await;
    let before = in_file(&file);
    assert!(before.iter().all(|(_, rows)| !rows.is_empty()), "the house has something of everything: {before:#?}");
    let url = database.url();
    let report = json_of(&place, &["copy", "--to", &url]);
    assert_eq!((&report["finished"], &report["tenants"], &report["resumed"]), (&json!(true), &json!(3), &json!(false)), "{report}");
    assert_eq!(report["carried"], count(&before), "{report}");
    assert_eq!(in_database(&database), before);
    assert_eq!(in_file(&file), before, "the source is as it was");
    let borns = database.sql("SELECT count(DISTINCT born) = count(*) AND min(version) >= 1 FROM challenges");
    assert_eq!(borns, "t", "each row has a birth of its own");

    let place = moved(place, &url);
    let server = started(&place);
    let there = Caller::new(&place).await;
    // Two wrong codes before the move and after it: the third would have ended it.
    assert_eq!(error_of(&there.answer(&open, &another(&code)).await), Some("10008"));
    accepted(&there, &open, &code).await;
    assert_eq!(error_of(&there.answer(&open, &code).await), Some("10007"), "once");
    assert_eq!(error_of(&there.answer(&passed, &passed_code).await), Some("10007"));
    let locked = there.ask("locked", "+918212350003").await;
    assert_eq!(error_of(&locked), Some("10027"), "the lock holds: {locked:?}");
    until(Duration::from_secs(20), || (taken(waiting) == 1).then_some(())).expect("the message that waited is sent");
    let id = by_totp(&there, "jörg o'neill").await;
    let next = value_at(&seed, 1);
    accepted(&there, &id, &next).await;
    stop(server);

    let before = in_database(&database);
    let file = place.folder.path().join("back").join("countersign.db");
    let report = json_of(&place, &["copy", "--to", file.to_str().unwrap()]);
    assert_eq!((&report["finished"], &report["carried"]), (&json!(true), &json!(count(&before))), "{report}");
    assert_eq!(in_file(&file), before);
    let place = moved(place, file.to_str().unwrap());
    let server = started(&place);
    let back = Caller::new(&place).await;
    accepted(&back, &later, &later_code).await;
    assert_eq!(error_of(&back.answer(&open, &code).await), Some("10007"), "once, wherever");
    assert_eq!(error_of(&back.answer(&by_totp(&back, "jörg o'neill").await, &next).await), Some("10008"), "a value counts once");
    assert_eq!(taken(waiting), 1);
    stop(server);
    assert!(run(&place, &["doctor"]).status.success(), "{}", told(&run(&place, &["doctor"])));
}

// ------------------------------------------------------------------------------------------------------ what ends it at any moment

/// Gives a target its tables, and lets each step of a copy into it take a while, so that there is a middle in which it can be ended.
fn slow_down(place: &Place, database: &Database) {
    // Whoever may begin a house makes its tables, also when the name then turns out to be none.
    let made = place.prepare().env("COUNTERSIGN_STORAGE_URL", database.url()).args(["tenant", "create", "no name"]).output().unwrap();
    assert!(told(&made).contains("name"), "{}", told(&made));
    database.sql(
        "CREATE FUNCTION rest() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.5); RETURN NEW; END';
         CREATE TRIGGER rest BEFORE UPDATE ON marks FOR EACH ROW EXECUTE FUNCTION rest()",
    );
}

fn speed_up(database: &Database) {
    database.sql("DROP TRIGGER rest ON marks");
}

/// Starts a copy and ends it with `signal` once it has carried more than `rows`.
fn cut(place: &Place, arguments: &[&str], signal: &str, rows: u64, mark: impl Fn() -> Option<u64>) {
    let mut child = place.prepare().args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut has_ended = false;
    while mark().is_none_or(|it| it <= rows) && !has_ended {
        has_ended = child.try_wait().unwrap().is_some();
    }
    assert!(!has_ended, "it was done before it could be ended");
    let sent = Command::new("kill").args([format!("-{signal}"), child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    assert!(!child.wait().unwrap().success());
}

#[test]
fn a_copy_that_is_killed_again_and_again_goes_on_where_it_was() {
    let Some(database) = Database::new("copy::killed") else { return };
    let place = Place::new("copy-killed", NOBODY);
    let file = place.folder.path().join("countersign.db");
    fill(&file, 60_000);
    let (before, url) = (in_file(&file), database.url());
    let copy = arguments("countersign.db", &url);
    slow_down(&place, &database);
    let mut carried = 0;
    for signal in ["KILL", "KILL", "INT", "KILL"] {
        cut(&place, &copy, signal, carried, || mark_in_database(&database));
        carried = mark_in_database(&database).expect("a mark");
        let there: u64 =
            TABLES.iter().map(|(table, _)| database.sql(&format!("SELECT count(*) FROM {table}")).parse::<u64>().unwrap()).sum();
        assert_eq!(there, carried, "rows and mark are written together");
    }
    speed_up(&database);
    // Nobody opens half a house, whatever they want with it.
    let half = moved(place, &url);
    for command in [&["serve"][..], &["tenant", "list"], &["tenant", "create", "more"], &["doctor"]] {
        refused(&half, command, 1, &["a copy into it is not finished", "finish it with `countersign copy`"]);
    }
    refused(&half, &["restore", "--in-place"], 1, &["a copy into it is not finished"]);
    refused(&half, &arguments(&url, "other.db"), 1, &["a copy into it is not finished"]);
    let report = json_of(&half, &copy);
    assert_eq!((&report["finished"], &report["resumed"]), (&json!(true), &json!(true)), "{report}");
    assert_eq!(report["carried"], count(&before) - carried, "nothing was carried twice");
    assert_eq!(in_database(&database), before);
    assert_eq!(json_of(&half, &["tenant", "list"]).as_array().map(Vec::len), Some(1), "the house is open again");

    // And back into a file, which is ended in the middle as well.
    let back = half.folder.path().join("back.db");
    // The file is locked by the copy, so only the size of its log tells how far it is.
    let log = half.folder.path().join("back.db-wal");
    let mark = || log.metadata().ok().filter(|it| it.len() > 4 << 20).map(|_| 1);
    let copy = arguments(&url, "back.db");
    cut(&half, &copy, "KILL", 0, mark);
    let half = moved(half, "back.db");
    refused(&half, &["serve"], 1, &["storage.path: ", "a copy into it is not finished"]);
    refused(&half, &["backup", "half.backup"], 1, &["a copy into it is not finished"]);
    let report = json_of(&half, &copy);
    assert_eq!((&report["finished"], &report["resumed"]), (&json!(true), &json!(true)), "{report}");
    assert!(report["carried"].as_u64().unwrap() < count(&before), "{report}");
    assert_eq!(in_file(&back), before);
}

#[test]
fn what_is_not_the_same_on_both_sides_is_found_and_nobody_serves_it() {
    let Some(database) = Database::new("copy::damaged") else { return };
    let place = Place::new("copy-damaged", NOBODY);
    let file = place.folder.path().join("countersign.db");
    fill(&file, 60_000);
    let url = database.url();
    let copy = arguments("countersign.db", &url);
    slow_down(&place, &database);
    cut(&place, &copy, "KILL", 0, || mark_in_database(&database));
    speed_up(&database);
    let first = "id = (SELECT id FROM challenges ORDER BY id LIMIT 1)";
    let again = |change: &str, table: &str, back: &str| {
        database.sql(change);
        let done = run(&place, &[&copy[..], &["--json"]].concat());
        let (out, said) = (String::from_utf8_lossy(&done.stdout), told(&done));
        assert_eq!(done.status.code(), Some(1), "{change}: {said}");
        assert!(said.contains("differ in 1 place") && said.contains("not finished"), "{change}: {said}");
        let report: Value = serde_json::from_str(&out).unwrap();
        assert_eq!((&report["finished"], &report["differ"]), (&json!(false), &json!(1)), "{change}: {report}");
        assert_eq!(report["differences"][0]["table"], table, "{change}: {report}");
        assert!(report["differences"][0]["tenant"].as_str().unwrap().starts_with("tnt_"), "{report}");
        database.sql(back);
        report["differences"][0].clone()
    };
    let body = "body = replace(body, '\"i\":1,', '\"i\":2,')";
    let back = "body = replace(body, '\"i\":2,', '\"i\":1,')";
    let told =
        again(&format!("UPDATE challenges SET {body} WHERE {first}"), "challenges", &format!("UPDATE challenges SET {back} WHERE {first}"));
    assert_eq!(told["from_rows"], told["to_rows"]);
    assert_ne!(told["from_sha256"], told["to_sha256"]);
    again(
        &format!("UPDATE challenges SET version = version + 1 WHERE {first}"),
        "challenges",
        &format!("UPDATE challenges SET version = version - 1 WHERE {first}"),
    );
    again("UPDATE providers SET name = 'other'", "providers", "UPDATE providers SET name = 'sink'");
    let told = again(
        "CREATE TABLE kept AS SELECT * FROM events ORDER BY id LIMIT 1; DELETE FROM events WHERE id IN (SELECT id FROM kept)",
        "events",
        "INSERT INTO events SELECT * FROM kept; DROP TABLE kept",
    );
    assert_eq!(told["from_rows"].as_u64().unwrap(), told["to_rows"].as_u64().unwrap() + 1);
    // One who is known on one side only.
    let nobody = "'00000000-0000-7000-8000-000000000001'";
    again(
        &format!("INSERT INTO limits VALUES ({nobody}, {nobody}, 1, 1, NULL, '{{}}')"),
        "limits",
        &format!("DELETE FROM limits WHERE tenant = {nobody}"),
    );

    let text = {
        database.sql(&format!("UPDATE challenges SET {body} WHERE {first}"));
        told_of(&place, &copy)
    };
    assert!(text.contains("challenges") && text.contains("something else is in them"), "{text}");
    let half = moved(place, &url);
    refused(&half, &["serve"], 1, &["a copy into it is not finished"]);
    database.sql(&format!("UPDATE challenges SET {back} WHERE {first}"));
    assert_eq!(json_of(&half, &copy)["finished"], true);
    assert_eq!(in_database(&database), in_file(&file));
}

fn told_of(place: &Place, arguments: &[&str]) -> String {
    told(&run(place, arguments))
}

// ------------------------------------------------------------------------------------------------------------ what is refused

#[test]
fn a_target_that_is_in_use_is_not_touched() {
    let Some(database) = Database::new("copy::targets") else { return };
    let place = Place::new("copy-targets", NOBODY);
    let url = database.url();
    let copy = arguments("countersign.db", &url);
    database.sql("CREATE TABLE accounts (one int); ALTER TABLE accounts OWNER TO countersign");
    refused(&place, &copy, 1, &["tables of another program"]);
    database.sql("DROP TABLE accounts");
    json_of(&place, &copy);
    refused(&place, &copy, 1, &["is not empty"]);
    refused(&place, &arguments(&url, "countersign.db"), 1, &["is not empty"]);
    refused(&place, &arguments(&url, &url), 2, &["cannot be copied to itself"]);
    refused(&place, &arguments("countersign.db", "./countersign.db"), 2, &["cannot be copied to itself"]);
    refused(&place, &["copy"], 2, &["there is no target", "COUNTERSIGN_COPY_TO"]);
    refused(&place, &arguments("nowhere.db", &url), 1, &["there is no database at nowhere.db"]);
    refused(
        &place,
        &arguments("countersign.db", "postgres://db.example.com/mfa"),
        2,
        &["--to: everything would travel", "sslmode=require"],
    );
    std::fs::write(place.folder.path().join("foreign.db"), "no database at all, but more than a hundred bytes long. ".repeat(4)).unwrap();
    refused(&place, &arguments("countersign.db", "foreign.db"), 1, &["foreign.db"]);
    refused(&place, &arguments("foreign.db", "new.db"), 1, &["foreign.db"]);

    // The mark of another copy: it was begun from a file that has been moved since.
    let other = Database::new("copy::other").expect("PostgreSQL is here");
    fill(&place.folder.path().join("countersign.db"), 60_000);
    slow_down(&place, &other);
    cut(&place, &arguments("countersign.db", &other.url()), "KILL", 0, || mark_in_database(&other));
    speed_up(&other);
    refused(&place, &arguments(&url, &other.url()), 1, &["holds an unfinished copy of", "countersign.db"]);
    let mut command = place.prepare();
    command.env("COUNTERSIGN_COPY_FROM", "countersign.db").env("COUNTERSIGN_COPY_TO", other.url());
    let done = command.arg("copy").output().unwrap();
    assert!(done.status.success(), "{}", told(&done));
    assert!(!told(&done).contains("correct-horse"));
    let said = told_of(&place, &copy);
    assert!(said.contains("can read the password in --to") && !said.contains("correct-horse"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_served_is_not_copied_and_not_filled() {
    let Some(database) = Database::new("copy::served") else { return };
    let place = Place::new("copy-served", NOBODY);
    let url = database.url();
    let server = place.start();
    refused(&place, &arguments("countersign.db", &url), 1, &["the source, countersign.db", "at work on it", "stop every server"]);
    assert_eq!(database.sql("SELECT count(*) FROM pg_tables WHERE tablename = 'marks'"), "0");
    stop(server);
    json_of(&place, &arguments("countersign.db", &url));

    let place = moved(place, &url);
    let server = started(&place);
    refused(&place, &arguments(&url, "new.db"), 1, &["the source: ", "at work on it"]);
    assert!(!place.folder.path().join("new.db").exists(), "nothing was begun");
    refused(&place, &arguments("countersign.db", &url), 1, &["the target: ", "at work on it"]);
    stop(server);
    json_of(&place, &arguments(&url, "new.db"));
}

#[test]
fn a_copy_is_made_with_the_key_that_opens_it_and_by_a_program_that_knows_its_shape() {
    let place = Place::new("copy-key", NOBODY);
    let key = place.folder.path().join("master.key");
    let right = std::fs::read(&key).unwrap();
    std::fs::write(&key, "00".repeat(32)).unwrap();
    refused(&place, &arguments("countersign.db", "new.db"), 1, &["does not open 1 of 1 tenants", "demo"]);
    std::fs::remove_file(&key).unwrap();
    refused(&place, &arguments("countersign.db", "new.db"), 1, &["is missing"]);
    assert!(!key.exists() && !place.folder.path().join("new.db").exists());
    std::fs::write(&key, right).unwrap();
    let database = Connection::open(place.folder.path().join("countersign.db")).unwrap();
    let since = ["turns", "marks", "configuration", "sign_ins"].map(|it| format!("DROP TABLE {it};")).concat();
    database.execute_batch(&format!("{since} DELETE FROM migrations WHERE step > 1")).unwrap();
    drop(database);
    refused(&place, &arguments("countersign.db", "new.db"), 1, &["schema version 1", "countersign tenant list"]);
    place.command(&["tenant", "list"]);
    json_of(&place, &arguments("countersign.db", "new.db"));
}
