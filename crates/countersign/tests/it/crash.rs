//! Killing the server in the middle of its work, again and again, and asking it afterwards about everything that it had said.
//!
//! Invariants 1, 2, 4 and 5. `COUNTERSIGN_KILLS` sets how often: 50 times on a file and 25 on PostgreSQL, where two nodes share the
//! work and one, the other or both are killed.

use crate::book::{Book, Load, Sum, rows_of, times};
use crate::postgres::Database;
use crate::server::{Caller, Place, Running, Sink};
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Kills nodes of `place` under load so often, and asks about everything after each time.
async fn kill_again_and_again(place: &Place, sink: &Arc<Sink>, kills: usize, rows: impl Fn() -> Vec<Value>) -> Sum {
    let book = Arc::new(Book::default());
    let mut running: Vec<Option<Running>> = place.start_all().into_iter().map(Some).collect();
    for kill in 0..kills {
        let nodes = Caller::new(place).await.everywhere(place);
        let load = Load::start(&nodes, sink, &book);
        // Another moment each time, so that every part of the work is hit.
        tokio::time::sleep(Duration::from_millis(80 + (kill as u64 * 37) % 160)).await;
        // One, the other, both.
        let victims: Vec<_> =
            (0..running.len()).filter(|node| kill % (running.len() + 1) == *node || kill % (running.len() + 1) == running.len()).collect();
        for node in &victims {
            running[*node].take().expect("it runs").kill();
        }
        if victims.len() < running.len() {
            // The others go on meanwhile.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        load.stop().await;
        for node in victims {
            running[node] = Some(place.start_node(node));
            place.becomes_ready(node, Duration::from_secs(20));
        }
        book.reckon(&nodes, sink).await;
        if (kill + 1) % 25 == 0 {
            println!("{} of {kills} kills", kill + 1);
        }
    }
    let nodes = Caller::new(place).await.everywhere(place);
    let sum = book.close(&nodes, sink, rows).await;
    assert!(sum.checked > kills, "only {} challenges in {kills} rounds: the server did nothing to be killed in", sum.checked);
    sum
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invariants_1_2_4_5_nothing_that_was_told_is_lost_when_the_server_is_killed() {
    let kills = times("COUNTERSIGN_KILLS", 50);
    let sink = Arc::new(Sink::start().await);
    let place = Place::new("crash", &sink.url);
    let sum = kill_again_and_again(&place, &sink, kills, || rows_of(&place, Path::new("countersign.db"))).await;
    println!("proof: crash engine=sqlite nodes=1 kills={kills} {sum}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invariants_1_2_4_5_nothing_that_was_told_is_lost_when_nodes_on_postgresql_are_killed() {
    let kills = times("COUNTERSIGN_KILLS", 25);
    let Some(database) = Database::new("crash::postgresql") else { return };
    let sink = Arc::new(Sink::start().await);
    let place = Place::on("crash-postgresql", &sink.url, 2, &database.url());
    let sum = kill_again_and_again(&place, &sink, kills, || database.rows_of_deliveries()).await;
    println!("proof: crash engine=postgresql nodes=2 kills={kills} {sum}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invariant_5_a_promised_message_is_sent_after_a_crash() {
    let sink = Arc::new(Sink::start().await);
    let place = Place::new("promise", &sink.url);
    let server = place.start();
    let caller = Caller::new(&place).await;
    // The provider is away for numbers that end in 7 when it is first asked, so these wait in the outbox.
    let numbers: Vec<_> = (0..20).map(|count| format!("+91821234{count:03}7")).collect();
    for (count, number) in numbers.iter().enumerate() {
        let said = caller.ask(&format!("user-{count}"), number).await.expect("an answer");
        assert_eq!(said.0, 201, "{said:?}");
    }
    server.kill();
    let sent_before = sink.taken.lock().unwrap().len();
    let _server = place.start();
    let began = Instant::now();
    while numbers.iter().any(|number| !sink.taken.lock().unwrap().contains_key(number)) {
        assert!(began.elapsed() < Duration::from_secs(40), "{} of 20 were sent", sink.taken.lock().unwrap().len());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let carried = sink.carried.lock().unwrap();
    assert!(numbers.iter().all(|number| carried[number].windows(2).all(|pair| pair[0] == pair[1])), "the same words");
    println!("{sent_before} were sent before the crash, {} after it", 20 - sent_before);
}
