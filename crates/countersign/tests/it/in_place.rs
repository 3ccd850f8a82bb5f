//! A database server that was brought back to an earlier moment, by its own means: what is done so that no code from before is accepted
//! again.
//!
//! Invariants 1, 2, 3 and 5. The same for the embedded engine is in [`crate::backup`].

use crate::backup::{Halfway, accepted, error_of, json_of, now, opened, refused, stop, value_at};
use crate::house::another;
use crate::postgres::Database;
use crate::server::{Caller, Place, Sink};
use crate::tools::until;
use countersign_core::words::secret::Secret;
use countersign_store::postgres::{self, Postgres};
use serde_json::{Value, json};
use std::time::Duration;

/// Keeps the database as it is now under another name, as a dump would.
fn keep(database: &Database, name: &str) {
    database.cluster.sql("postgres", &format!("CREATE DATABASE {name} TEMPLATE {} OWNER countersign", database.name));
}

/// Puts what was kept in its place.
fn bring_back(database: &Database, name: &str) {
    database.cluster.sql("postgres", &format!("DROP DATABASE {}", database.name));
    database.cluster.sql("postgres", &format!("ALTER DATABASE {name} RENAME TO {}", database.name));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_code_value_or_message_from_before_counts_after_a_database_went_back_in_time() {
    let Some(database) = Database::new("in_place::back_in_time") else { return };
    let sink = Sink::start().await;
    let place = Place::on("in-place", &sink.url, 1, &database.url());
    place.command(&["tenant", "create", "empty"]);
    let server = place.start();
    place.becomes_ready(0, Duration::from_secs(20));
    let caller = Caller::new(&place).await;

    let device = json!({"deviceType": "TOTP", "deviceName": "phone"});
    let (status, made) = caller.post("users/jdoe/mfadevices", device).await.expect("an answer");
    assert_eq!(status, 201, "{made}");
    let seed = data_encoding::BASE32_NOPAD.decode(made["secret"].as_str().unwrap().as_bytes()).unwrap();
    let activate = format!("users/jdoe/mfadevices/{}", made["authId"].as_str().unwrap());
    assert!(matches!(caller.post(&activate, json!({"otp": value_at(&seed, 0)})).await, Some((200, _))));
    let begin = async |caller: &Caller| {
        let ask = json!({"userName": "jdoe", "deviceType": "TOTP", "deviceName": "phone"});
        let (status, body) = caller.post("deviceAuthentications", ask).await.expect("an answer");
        assert_eq!(status, 201, "{body}");
        body["authId"].as_str().unwrap().to_owned()
    };
    let (passed, passed_code) = opened(&caller, &sink, "before", "+918212360000").await;
    accepted(&caller, &passed, &passed_code).await;
    let (later, later_code) = opened(&caller, &sink, "later", "+918212360001").await;
    let (guessed, code) = opened(&caller, &sink, "guesser", "+918212360002").await;
    assert_eq!(error_of(&caller.answer(&guessed, &another(&code)).await), Some("10008"));
    let waiting = "+918212360007";
    caller.ask("waiting", waiting).await.expect("an answer");
    server.kill();
    let gone = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'countersign'";
    until(Duration::from_secs(20), || (database.sql(gone) == "0").then_some(())).expect("its connections end");
    let kept = format!("{}_kept", database.name);
    keep(&database, &kept);

    // What the kept database does not know of: a code and a value are accepted, and the message is sent.
    let server = place.start();
    place.becomes_ready(0, Duration::from_secs(20));
    refused(&place, &["restore", "--in-place"], 1, &["at work on it", "stop every server"]);
    assert_eq!(database.sql("SELECT count(*) FROM marks WHERE name <> 'master key made'"), "0", "nodes may start as before");
    let caller = Caller::new(&place).await;
    accepted(&caller, &later, &later_code).await;
    let value = value_at(&seed, 1);
    accepted(&caller, &begin(&caller).await, &value).await;
    let taken = || sink.taken.lock().unwrap().get(waiting).map_or(0, Vec::len);
    until(Duration::from_secs(20), || (taken() == 1).then_some(())).expect("it is sent");
    stop(server);
    bring_back(&database, &kept);

    let before = database.sql("SELECT version, body FROM challenges ORDER BY id");
    let looked = json_of(&place, &["restore", "--in-place", "--check"]);
    assert_eq!(database.sql("SELECT version, body FROM challenges ORDER BY id"), before, "a look changes nothing");
    let restored = json_of(&place, &["restore", "--in-place"]);
    let numbers = |it: &Value| ["tenants", "challenges_ended", "messages_dropped", "authenticators"].map(|name| it[name].as_u64().unwrap());
    assert_eq!(numbers(&restored), [2, 3, 1, 1], "{restored}");
    assert_eq!((numbers(&looked), &looked["restored"], &restored["restored"]), (numbers(&restored), &json!(false), &json!(true)));
    let moment = restored["made_at"].as_str().unwrap();
    assert!(moment > "2026" && moment <= restored_at(&database).as_str(), "{restored}");
    assert_eq!(database.sql("SELECT count(*) FROM events WHERE body LIKE '%\"restored\"%'"), "2", "every tenant's audit trail tells of it");
    assert_eq!(database.sql("SELECT count(*) FROM marks WHERE name <> 'master key made'"), "0");

    let server = place.start();
    place.becomes_ready(0, Duration::from_secs(20));
    let caller = Caller::new(&place).await;
    for (id, code) in [(&passed, &passed_code), (&later, &later_code), (&guessed, &code)] {
        let said = caller.answer(id, code).await;
        assert_eq!(error_of(&said), Some("10007"), "{said:?}");
    }
    assert_eq!(error_of(&caller.answer(&begin(&caller).await, &value).await), Some("10008"), "the value was accepted once");
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(taken(), 1, "the message was sent once");
    // Whoever asks again gets in, and wrong codes from before count.
    let (again, code) = opened(&caller, &sink, "later", "+918212360001").await;
    accepted(&caller, &again, &code).await;
    let (guessed, code) = opened(&caller, &sink, "guesser", "+918212360002").await;
    assert_eq!(error_of(&caller.answer(&guessed, &another(&code)).await), Some("10008"));
    assert_eq!(error_of(&caller.answer(&guessed, &another(&code)).await), Some("10026"), "it is the third in a row");
    stop(server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_sign_in_goes_on_and_nobody_is_logged_in_after_a_database_went_back_in_time() {
    let Some(database) = Database::new("in_place::sign_ins") else { return };
    let place = Place::on("in-place-sign-ins", "http://127.0.0.1:9/", 1, &database.url());
    let open = async || Postgres::open(&postgres::Options::new(Secret::new(database.url()))).await.expect("it opens");
    let store = open().await;
    let halfway = Halfway::put(&store).await;
    store.close().await;
    place.command(&["restore", "--in-place"]);
    place.command(&["restore", "--in-place"]);
    let store = open().await;
    assert_eq!(halfway.left(&store, now()).await, [0, 3], "what is ended is ended once");
    store.close().await;
}

/// When the tenants were told, in whole seconds.
fn restored_at(database: &Database) -> String {
    let millis = "max((body::json ->> 'at')::bigint)";
    database.sql(&format!(
        "SELECT to_char(to_timestamp({millis} / 1000) AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') FROM events WHERE body LIKE '%\"restored\"%'"
    ))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_ends_what_is_open_on_many_pages_and_no_node_starts_before_it_is_done() {
    let Some(database) = Database::new("in_place::pages") else { return };
    let sink = Sink::start().await;
    let place = Place::on("in-place-pages", &sink.url, 1, &database.url());
    let server = place.start();
    place.becomes_ready(0, Duration::from_secs(20));
    opened(&Caller::new(&place).await, &sink, "one", "+918212370000").await;
    stop(server);
    // One that is real, again and again.
    database.sql(
        "INSERT INTO challenges (tenant, id, version, born, body)
         SELECT tenant, fresh, version, n, replace(body, id::text, fresh::text)
         FROM challenges, LATERAL (SELECT n, md5(n::text)::uuid AS fresh FROM generate_series(1, 20000) AS n) AS many",
    );
    let open = || database.sql("SELECT count(*) FROM challenges WHERE body LIKE '%\"open\"%'").parse::<u64>().unwrap();
    assert_eq!(open(), 20_001);

    let mut cut = place.prepare().args(["restore", "--in-place"]).spawn().unwrap();
    until(Duration::from_secs(60), || (open() < 20_001).then_some(())).expect("it begins");
    cut.kill().unwrap();
    cut.wait().unwrap();
    let left = open();
    assert!(left > 0, "it was done before it could be ended");
    for command in [&["serve"][..], &["tenant", "list"]] {
        refused(&place, command, 1, &["ending what may not come back", "finish it with `countersign restore --in-place`"]);
    }
    refused(&place, &["copy", "--to", "new.db"], 1, &["ending what may not come back"]);
    // The connection of the one that was killed may end a little later, and what it was about to write with it.
    let restored = json_of(&place, &["restore", "--in-place"]);
    assert!(restored["challenges_ended"].as_u64().unwrap() <= left, "{restored}");
    assert_eq!(open(), 0);
    place.command(&["tenant", "list"]);
}

#[test]
fn it_is_for_a_database_server_and_takes_no_backup() {
    let place = Place::new("in-place-file", "http://127.0.0.1:9/");
    refused(&place, &["restore", "--in-place"], 1, &["--in-place is for a database server", "countersign restore FILE"]);
    refused(&place, &["restore", "--in-place", "house.backup"], 2, &["cannot be used with"]);
    refused(&place, &["restore"], 2, &["FILE"]);
}
