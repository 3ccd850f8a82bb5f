//! Replacing the master key while people come and go: codes that were open are accepted, and at the end only the new key is needed.

use crate::backup::{accepted, error_of, json_of, opened, refused, stop};
use crate::postgres::Database;
use crate::server::{Caller, Place, Running, Sink};
use serde_json::json;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

const NEW: (&str, &str) = ("COUNTERSIGN_SECRETS_MASTER_KEY_FILE", "new.key");
const OLD: (&str, &str) = ("COUNTERSIGN_SECRETS_OLD_MASTER_KEY_FILE", "master.key");

/// A second key beside the one with which the place was made.
fn draw_key(place: &Place) {
    let path = place.folder.path().join("new.key");
    std::fs::write(&path, "5c".repeat(32)).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// From now on commands and nodes of the place have these keys.
fn have(place: &mut Place, keys: &[(&'static str, &str)]) {
    place.settings.retain(|(name, _)| !name.starts_with("COUNTERSIGN_SECRETS_"));
    place.settings.extend(keys.iter().map(|(name, file)| (*name, (*file).to_owned())));
}

fn started(place: &Place, node: usize) -> Running {
    let running = place.start_node(node);
    place.becomes_ready(node, Duration::from_secs(20));
    running
}

/// What `doctor` says of the master keys, if anything.
fn doctor(place: &Place) -> Option<String> {
    let report = json_of(place, &["doctor"]);
    let checks = report["checks"].as_array().unwrap();
    let warning = checks.iter().find(|it| it["check"] == "rotation of the master key")?;
    assert_eq!(warning["state"], "warn", "{report}");
    Some(warning["found"].as_str().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_master_key_is_replaced_under_two_nodes_and_every_open_code_is_accepted() {
    let Some(database) = Database::new("rotation::nodes") else { return };
    let sink = Sink::start().await;
    let mut place = Place::on("rotation", &sink.url, 2, &database.url());
    place.command(&["tenant", "create", "second"]);
    draw_key(&place);
    let mut nodes = vec![started(&place, 0), started(&place, 1)];
    let caller = Caller::new(&place).await;
    let at = |node: usize| caller.to(place.nodes[node]);
    let (first, second) = (at(0), at(1));
    let mut number = 0;
    let mut next = || {
        number += 1;
        (format!("user-{number}"), format!("+9182123800{number:02}0"))
    };
    let mut open = Vec::new();
    let (login, to) = next();
    open.push(opened(&first, &sink, &login, &to).await);

    // One node after the other gets both keys. What one of them opens, the other accepts.
    have(&mut place, &[NEW, OLD]);
    for node in 0..2 {
        stop(nodes.remove(0));
        nodes.push(started(&place, node));
        let (login, to) = next();
        open.push(opened(if node == 0 { &first } else { &second }, &sink, &login, &to).await);
    }
    assert_eq!(doctor(&place).as_deref(), Some("2 of 2 tenants are opened by the old one only"));
    let rotated = json_of(&place, &["key", "rotate"]);
    assert_eq!(rotated, json!({"rotated": 2, "tenants": 2}));
    assert_eq!(json_of(&place, &["key", "rotate"]), json!({"rotated": 0, "tenants": 2}), "once is enough");
    assert_eq!(doctor(&place), None);
    // Longer than what a node knows of its tenants is taken for true.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let (id, code) = open.remove(0);
    accepted(&second, &id, &code).await;
    let (login, to) = next();
    open.push(opened(&first, &sink, &login, &to).await);

    // One node after the other forgets the old key, which is gone then.
    have(&mut place, &[NEW]);
    for node in 0..2 {
        stop(nodes.remove(0));
        nodes.push(started(&place, node));
    }
    for (id, code) in &open {
        accepted(&first, id, code).await;
        assert_eq!(error_of(&second.answer(id, code).await), Some("10007"), "once");
    }
    let (login, to) = next();
    let (id, code) = opened(&second, &sink, &login, &to).await;
    accepted(&first, &id, &code).await;
    nodes.into_iter().for_each(stop);

    have(&mut place, &[]);
    refused(&place, &["serve"], 1, &["does not open 2 of 2 tenants"]);
    refused(&place, &["key", "rotate"], 1, &["neither master key opens 2 of 2 tenants", "secrets.old_master_key_file"]);
    have(&mut place, &[NEW, (OLD.0, "nowhere.key")]);
    refused(&place, &["key", "rotate"], 2, &["secrets.old_master_key_file", "nowhere.key cannot be read", "take the setting out"]);
}

#[test]
fn a_new_key_without_the_old_one_opens_nothing_and_changes_nothing() {
    let mut place = Place::new("rotation-file", "http://127.0.0.1:9/");
    draw_key(&place);
    have(&mut place, &[NEW]);
    refused(&place, &["key", "rotate"], 1, &["neither master key opens 1 of 1 tenants: demo"]);
    have(&mut place, &[]);
    assert_eq!(json_of(&place, &["key", "rotate"]), json!({"rotated": 0, "tenants": 1}), "there is nothing to do");
    // A backup that was made with both keys opens with both, and after the rotation with the new one alone.
    have(&mut place, &[NEW, OLD]);
    place.command(&["backup", "before.backup"]);
    assert_eq!(json_of(&place, &["key", "rotate"]), json!({"rotated": 1, "tenants": 1}));
    place.command(&["backup", "after.backup"]);
    have(&mut place, &[NEW]);
    place.command(&["restore", "after.backup", "--check"]);
    refused(&place, &["restore", "before.backup", "--check"], 1, &["does not open 1 of 1 tenants"]);
    have(&mut place, &[NEW, OLD]);
    place.command(&["restore", "before.backup", "--check"]);
}
