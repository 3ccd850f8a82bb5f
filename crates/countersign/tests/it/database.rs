//! What an operator can get wrong about the database, and what the server says: away, of another person, read-only, too new.

use crate::postgres::{Database, Instance, Pair, Programs};
use crate::server::{Caller, Place, Sink};
use crate::tools::until;
use crate::trial::ended;
use std::time::Duration;

/// How long a start may take to be refused.
const REFUSES_WITHIN: Duration = Duration::from_secs(60);

/// How `serve` ends with this database, and what it says.
fn refusal(place: &Place, url: &str) -> String {
    let mut command = place.prepare();
    command.env("COUNTERSIGN_STORAGE_URL", url).arg("serve");
    let (status, out, said) = ended(command, REFUSES_WITHIN);
    assert!(!status.success(), "{said}");
    assert_eq!(out, "");
    assert!(!said.contains("correct-horse"), "the password is told: {said}");
    said
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_whose_database_is_away_says_so_keeps_trying_and_is_ready_when_it_comes() {
    let Some(programs) = Programs::find("database::away") else { return };
    let mut database = Instance::start_new(&programs);
    database.create_database("countersign");
    let sink = Sink::start().await;
    let place = Place::on("away", &sink.url, 1, &database.url("countersign"));
    database.kill();
    let running = place.start_node(0);
    let not_ready = until(Duration::from_secs(10), || (place.probe(0, "/readyz").status() == Some(503)).then_some(()));
    assert!(not_ready.is_some(), "{}", place.probe(0, "/readyz").text());
    assert_eq!(place.probe(0, "/healthz").status(), Some(200), "it lives, and a supervisor need not restart it");
    let said = until(Duration::from_secs(10), || Some(place.log()).filter(|it| it.contains("storage.url: the database is away")));
    let said = said.unwrap_or_else(|| panic!("it does not say what it waits for: {}", place.log()));
    assert!(!said.contains("correct-horse"), "the password is told: {said}");
    database.start();
    place.becomes_ready(0, Duration::from_secs(15));
    let caller = Caller::new(&place).await;
    assert_eq!(caller.ask("jdoe", "+918212345210").await.expect("an answer").0, 201);
    drop(running);
}

#[test]
fn a_replica_that_can_only_be_read_is_refused_at_the_start() {
    let Some(pair) = Pair::start("database::replica") else { return };
    let place = Place::on("replica", "http://127.0.0.1:9/", 1, &pair.url());
    let said = refusal(&place, &pair.standby_url());
    assert!(said.contains("read-only") || said.contains("read only"), "{said}");
}

#[test]
fn a_schema_that_is_newer_than_the_program_is_refused_and_both_versions_are_named() {
    let Some(database) = Database::new("database::newer") else { return };
    let place = Place::on("newer", "http://127.0.0.1:9/", 1, &database.url());
    let known = database.sql("SELECT max(step) FROM migrations");
    database.sql("INSERT INTO migrations SELECT 99, sha256 FROM migrations LIMIT 1");
    let said = refusal(&place, &database.url());
    assert!(said.contains("99") && said.contains(&known), "{known}: {said}");
}

#[test]
fn a_wrong_password_and_a_database_that_is_not_there_are_told_clearly() {
    let Some(database) = Database::new("database::password") else { return };
    let place = Place::on("password", "http://127.0.0.1:9/", 1, &database.url());
    let said = refusal(&place, &database.url().replace("correct-horse", "battery-staple"));
    assert!(said.contains("password") && !said.contains("battery-staple"), "{said}");
    let said = refusal(&place, &database.cluster.url("nowhere"));
    assert!(said.contains("nowhere"), "{said}");
    let said = refusal(&place, "postgres://127.0.0.1:port/database");
    assert!(said.contains("storage.url"), "{said}");
}
