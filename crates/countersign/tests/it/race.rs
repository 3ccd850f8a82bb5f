//! One right code, many callers at once: exactly one hears that it is right (invariant 1). Many wrong codes at once: as many are
//! judged as the policy allows, and not one more (invariant 2).
//!
//! `COUNTERSIGN_ROUNDS` sets how often: 1000 times on a file and 300 on two nodes over PostgreSQL; `COUNTERSIGN_GUESSES` the rounds
//! of wrong codes, 10 on each.

use crate::book::times;
use crate::house::another;
use crate::postgres::Database;
use crate::server::{Caller, Place, Sink};
use std::collections::BTreeMap;

/// Callers that send the same right code at once.
const CALLERS: usize = 64;

/// Wrong codes that are sent at once.
const GUESSES: usize = 200;

/// Sends `codes` to the challenge at once, each to the next node, and counts what was said: status and code of the dialect.
async fn at_once(nodes: &[Caller], id: &str, codes: impl Iterator<Item = String>) -> BTreeMap<(u16, String), usize> {
    let answers: Vec<_> = codes
        .enumerate()
        .map(|(count, code)| {
            let (node, id) = (nodes[count % nodes.len()].clone(), id.to_owned());
            tokio::spawn(async move { node.answer(&id, &code).await.expect("an answer") })
        })
        .collect();
    let mut said = BTreeMap::new();
    for answer in answers {
        let (status, body) = answer.await.expect("no panic");
        *said.entry((status, body["code"].as_str().unwrap_or_default().to_owned())).or_default() += 1;
    }
    said
}

/// Opens a challenge at one of the nodes. Numbers of this provider that end in 7 wait for a second attempt; these do not.
async fn open(nodes: &[Caller], sink: &Sink, round: usize) -> (String, String) {
    let number = format!("+9182{round:07}0");
    let (status, body) = nodes[round % nodes.len()].ask(&format!("user-{round}"), &number).await.expect("an answer");
    assert_eq!(status, 201, "{body}");
    (body["authId"].as_str().expect("an id").to_owned(), sink.code(&number).expect("a code"))
}

fn said(pairs: &[(u16, &str, usize)]) -> BTreeMap<(u16, String), usize> {
    pairs.iter().map(|(status, code, count)| ((*status, (*code).to_owned()), *count)).collect()
}

async fn right_codes(place: &Place, sink: &Sink, rounds: usize) {
    let nodes = Caller::new(place).await.everywhere(place);
    for round in 0..rounds {
        let (id, code) = open(&nodes, sink, round).await;
        let answers = at_once(&nodes, &id, std::iter::repeat_n(code, CALLERS)).await;
        assert_eq!(answers, said(&[(200, "", 1), (400, "10007", CALLERS - 1)]), "in round {round}");
        if (round + 1) % 1000 == 0 {
            println!("{} of {rounds} rounds", round + 1);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invariant_1_a_right_code_sent_64_times_at_once_is_accepted_once() {
    let rounds = times("COUNTERSIGN_ROUNDS", 1000);
    let sink = Sink::start().await;
    let place = Place::new("race", &sink.url);
    let _server = place.start();
    right_codes(&place, &sink, rounds).await;
    println!("proof: race engine=sqlite nodes=1 rounds={rounds} callers={CALLERS} accepted_in_each_round=1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invariant_1_a_right_code_sent_to_two_nodes_at_once_is_accepted_once() {
    let rounds = times("COUNTERSIGN_ROUNDS", 300);
    let Some(database) = Database::new("race::two_nodes") else { return };
    let sink = Sink::start().await;
    let place = Place::on("race-postgresql", &sink.url, 2, &database.url());
    let _nodes = place.start_all();
    right_codes(&place, &sink, rounds).await;
    println!("proof: race engine=postgresql nodes=2 rounds={rounds} callers={CALLERS} accepted_in_each_round=1");
}

/// What wrong codes at once come to, and that it is still so after all nodes were killed.
async fn wrong_codes(place: &Place, sink: &Sink, rounds: usize) {
    let running = place.start_all();
    let nodes = Caller::new(place).await.everywhere(place);
    let mut spent = Vec::new();
    for round in 0..rounds {
        let (id, code) = open(&nodes, sink, round).await;
        // All differ, and none is right.
        let (right, wrong): (usize, _) = (code.parse().expect("digits"), 1_000_000);
        let guesses = (1..=GUESSES).map(|away| format!("{:06}", (right + away * 4_999) % wrong));
        let mut answers = at_once(&nodes, &id, guesses).await;
        // Two are wrong, the third ends it, and whoever comes later learns nothing: that the challenge is over, or that the person is
        // locked, where another node wrote both between two looks of this one.
        let locked = answers.remove(&(400, "10027".to_owned())).unwrap_or(0);
        let late = said(&[(400, "10007", GUESSES - 3 - locked), (400, "10008", 2), (400, "10026", 1)]);
        assert_eq!(answers, late, "in round {round}, and {locked} locked");
        spent.push((round, id, code));
    }
    running.into_iter().for_each(crate::server::Running::kill);
    let _running = place.start_all();
    for (round, id, code) in &spent {
        for node in &nodes {
            for code in [code, &another(code)] {
                let (_, body) = node.answer(id, code).await.expect("an answer");
                assert_eq!(body["code"], "10007", "round {round}: it is spent, whatever comes: {body}");
            }
            let (_, body) = node.ask(&format!("user-{round}"), &format!("+9182{round:07}0")).await.expect("an answer");
            assert_eq!(body["code"], "10027", "round {round}: the person is locked, at each node: {body}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invariant_2_of_200_wrong_codes_at_once_three_are_judged() {
    let rounds = times("COUNTERSIGN_GUESSES", 10);
    let sink = Sink::start().await;
    let place = Place::new("guesses", &sink.url);
    wrong_codes(&place, &sink, rounds).await;
    println!("proof: guesses engine=sqlite nodes=1 rounds={rounds} wrong_at_once={GUESSES} judged_in_each_round=3");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invariant_2_of_200_wrong_codes_at_once_at_two_nodes_three_are_judged() {
    let rounds = times("COUNTERSIGN_GUESSES", 10);
    let Some(database) = Database::new("guesses::two_nodes") else { return };
    let sink = Sink::start().await;
    let place = Place::on("guesses-postgresql", &sink.url, 2, &database.url());
    wrong_codes(&place, &sink, rounds).await;
    println!("proof: guesses engine=postgresql nodes=2 rounds={rounds} wrong_at_once={GUESSES} judged_in_each_round=3");
}
