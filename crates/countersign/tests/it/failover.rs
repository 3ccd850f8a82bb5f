//! The database goes away under load and comes back, and with it what was told: a primary is killed and its synchronous standby
//! promoted, a database is held still, a database is stopped.
//!
//! While nothing can be written the nodes say so (503 with Retry-After, not ready, alive); afterwards they are ready again by
//! themselves, with nothing half done (invariants 1, 2, 4, 5). `COUNTERSIGN_FAILOVERS` sets how often a primary is killed (2).

use crate::book::{Book, Load, times};
use crate::postgres::{Instance, Pair, Programs};
use crate::server::{Caller, Place, Sink};
use crate::tools::until;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How soon a node notices that its database is gone. A database that is held still says nothing, so a deadline has to pass.
const NOTICES_WITHIN: Duration = Duration::from_secs(15);

/// How soon a node is ready again once its database can be written.
const READY_WITHIN: Duration = Duration::from_secs(15);

/// What a failover takes where somebody has to notice, decide and act.
const OUTAGE: Duration = Duration::from_secs(20);

/// Every node says that it cannot serve, and that it lives.
fn the_nodes_say_that_they_cannot_serve(place: &Place) {
    for node in 0..place.nodes.len() {
        let told = until(NOTICES_WITHIN, || (place.probe(node, "/readyz").status() == Some(503)).then_some(()));
        assert!(told.is_some(), "node {node} says that it is ready: {}", place.probe(node, "/readyz").text());
        assert_eq!(place.probe(node, "/healthz").status(), Some(200), "node {node} lives");
    }
}

/// Callers are told 503 (each with Retry-After: the client looks), and how many were so far.
fn callers_are_refused(book: &Book, place: &Place) {
    let before = book.refused();
    let told = until(NOTICES_WITHIN, || (book.refused() > before + 10).then_some(()));
    assert!(told.is_some(), "nobody is told that the database is away:\n{}\n{}", place.log_of(0), place.log_of(1));
}

/// Every node is ready by itself, and callers are served.
fn everything_works_again(book: &Book, place: &Place) -> Duration {
    let began = Instant::now();
    (0..place.nodes.len()).for_each(|node| place.becomes_ready(node, READY_WITHIN));
    let took = began.elapsed();
    let before = book.acknowledged();
    let works = until(READY_WITHIN, || (book.acknowledged() > before + 50).then_some(()));
    assert!(works.is_some(), "callers are not served again:\n{}\n{}", place.log_of(0), place.log_of(1));
    took
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invariants_1_2_4_5_nothing_that_was_told_is_lost_when_the_primary_is_killed_and_its_standby_promoted() {
    let failovers = times("COUNTERSIGN_FAILOVERS", 2);
    let Some(mut pair) = Pair::start("failover::primary") else { return };
    let sink = Arc::new(Sink::start().await);
    let place = Place::on("failover", &sink.url, 2, &pair.url());
    let _running = place.start_all();
    let book = Arc::new(Book::default());
    let (mut longest, mut sum_of_waits) = (Duration::ZERO, Duration::ZERO);
    for failover in 0..failovers {
        let nodes = Caller::new(&place).await.everywhere(&place);
        let load = Load::start(&nodes, &sink, &book);
        tokio::time::sleep(Duration::from_millis(200 + (failover as u64 * 137) % 300)).await;
        pair.kill_primary();
        callers_are_refused(&book, &place);
        the_nodes_say_that_they_cannot_serve(&place);
        pair.promote();
        let took = everything_works_again(&book, &place);
        (longest, sum_of_waits) = (longest.max(took), sum_of_waits + took);
        load.stop().await;
        pair.rebuild();
        book.reckon(&nodes, &sink).await;
        println!("{} of {failovers} failovers, ready {took:?} after the promotion", failover + 1);
    }
    let nodes = Caller::new(&place).await.everywhere(&place);
    let sum = book.close(&nodes, &sink, || pair.primary().rows_of_deliveries("countersign")).await;
    assert_eq!(sum.doubled, 0, "no node died, so no message goes out twice");
    let average = sum_of_waits / u32::try_from(failovers.max(1)).expect("few");
    println!(
        "proof: failover engine=postgresql nodes=2 failovers={failovers} ready_after_promotion_ms={} at_most_ms={} {sum}",
        average.as_millis(),
        longest.as_millis()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invariant_4_while_the_standby_is_gone_nothing_is_told_that_only_the_primary_knows() {
    let Some(mut pair) = Pair::start("failover::standby") else { return };
    let sink = Arc::new(Sink::start().await);
    let place = Place::on("standby", &sink.url, 2, &pair.url());
    let _running = place.start_all();
    let book = Arc::new(Book::default());
    let nodes = Caller::new(&place).await.everywhere(&place);
    let load = Load::start(&nodes, &sink, &book);
    tokio::time::sleep(Duration::from_millis(300)).await;
    // The primary takes writes and confirms none. What callers were told by now is on the standby, whose files are gone next: a
    // promotion is not possible any more, and the book is kept by the primary alone.
    pair.kill_standby();
    callers_are_refused(&book, &place);
    let told = book.acknowledged();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(book.acknowledged(), told, "somebody was told what is not on the standby");
    the_nodes_say_that_they_cannot_serve(&place);
    pair.rebuild();
    everything_works_again(&book, &place);
    load.stop().await;
    // Now it counts what the standby has.
    pair.kill_primary();
    pair.promote();
    (0..2).for_each(|node| place.becomes_ready(node, READY_WITHIN));
    book.reckon(&nodes, &sink).await;
    let sum = book.close(&nodes, &sink, || pair.primary().rows_of_deliveries("countersign")).await;
    assert_eq!(sum.doubled, 0, "no node died, so no message goes out twice");
    println!("proof: standby_gone engine=postgresql nodes=2 {sum}");
}

/// Puts load on two nodes, has `trouble` go on for [`OUTAGE`], and reckons.
async fn an_outage(name: &str, begin: impl FnOnce(&mut Instance), end: impl FnOnce(&mut Instance)) {
    let test = format!("failover::{name}");
    let Some(programs) = Programs::find(&test) else { return };
    let mut database = Instance::start_new(&programs);
    database.create_database("countersign");
    let sink = Arc::new(Sink::start().await);
    let place = Place::on(name, &sink.url, 2, &database.url("countersign"));
    let _running = place.start_all();
    let book = Arc::new(Book::default());
    let nodes = Caller::new(&place).await.everywhere(&place);
    let load = Load::start(&nodes, &sink, &book);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let began = Instant::now();
    begin(&mut database);
    callers_are_refused(&book, &place);
    the_nodes_say_that_they_cannot_serve(&place);
    tokio::time::sleep(OUTAGE.saturating_sub(began.elapsed())).await;
    the_nodes_say_that_they_cannot_serve(&place);
    end(&mut database);
    let took = everything_works_again(&book, &place);
    load.stop().await;
    book.reckon(&nodes, &sink).await;
    let sum = book.close(&nodes, &sink, || database.rows_of_deliveries("countersign")).await;
    assert_eq!(sum.doubled, 0, "no node died, so no message goes out twice");
    println!("proof: outage kind={name} engine=postgresql nodes=2 seconds={} ready_after_ms={} {sum}", OUTAGE.as_secs(), took.as_millis());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_of_20_s_in_which_the_database_says_nothing_is_ridden_out() {
    an_outage("held-still", |it| it.freeze(), |it| it.thaw()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_of_20_s_in_which_the_database_is_gone_is_ridden_out() {
    an_outage("gone", Instance::kill, Instance::start).await;
}
