//! One right code, many callers at once: exactly one hears that it is right (invariant 1). `COUNTERSIGN_ROUNDS` sets how often.

use crate::server::{Caller, Place, Sink};

/// Callers that send the same right code at once.
const CALLERS: usize = 64;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invariant_1_a_right_code_sent_64_times_at_once_is_accepted_once() {
    let rounds: usize = std::env::var("COUNTERSIGN_ROUNDS").ok().and_then(|it| it.parse().ok()).unwrap_or(1000);
    let sink = Sink::start().await;
    let place = Place::new("race", &sink.url);
    let _server = place.start();
    let caller = Caller::new(&place).await;
    for round in 0..rounds {
        // Numbers of this provider that end in 7 wait for a second attempt; these do not.
        let number = format!("+9182{round:07}0");
        let (status, body) = caller.ask(&format!("user-{round}"), &number).await.expect("an answer");
        assert_eq!(status, 201, "{body}");
        let (id, code) = (body["authId"].as_str().expect("an id").to_owned(), sink.code(&number).expect("a code"));
        let answers: Vec<_> = (0..CALLERS)
            .map(|_| {
                let (caller, id, code) = (caller.clone(), id.clone(), code.clone());
                tokio::spawn(async move { caller.answer(&id, &code).await.expect("an answer") })
            })
            .collect();
        let mut accepted = 0;
        for answer in answers {
            let (status, body) = answer.await.expect("no panic");
            match (status, body["code"].as_str()) {
                (200, None) => accepted += 1,
                (400, Some("10007")) => {}
                other => panic!("round {round}: {other:?} {body}"),
            }
        }
        assert_eq!(accepted, 1, "in round {round}");
    }
    println!("{rounds} rounds of {CALLERS}: one acceptance in each");
}
