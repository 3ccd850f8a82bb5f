//! Another code for the same challenge.

use crate::house::{House, another, away, refusal};
use countersign_core::nouns::event::What;
use countersign_core::verbs::verify::Answered;
use countersign_core::words::refusal::Refusal;

#[tokio::test]
async fn invariant_3_the_new_code_counts_the_old_one_does_not_and_the_deadline_stays() {
    let house = House::new().await;
    let first = house.ask("jdoe", "+918212345212").await.unwrap();
    let old = house.last_code();
    house.settle().await;
    house.pass(200);
    let again = house.core.resend(&house.scope, first.challenge).await.unwrap();
    let new = house.last_code();
    assert_eq!((again.challenge, again.expires_at), (first.challenge, first.expires_at));
    assert_ne!(old, new);
    assert!(matches!(house.answer(first.challenge, &old).await.unwrap(), Answered::Wrong { .. }));
    house.pass(99);
    assert_eq!(house.answer(first.challenge, &new).await.unwrap(), Answered::Passed);
}

#[tokio::test]
async fn invariant_2_a_resend_gives_back_no_attempts() {
    let house = House::new().await;
    let (id, code) = house.open("jdoe").await;
    house.settle().await;
    house.answer(id, &another(&code)).await.unwrap();
    house.answer(id, &another(&code)).await.unwrap();
    house.core.resend(&house.scope, id).await.unwrap();
    assert_eq!(house.answer(id, &another(&house.last_code())).await.unwrap(), Answered::LastWrong);
}

#[tokio::test]
async fn invariant_5_while_a_message_waits_there_is_no_second_code() {
    let house = House::new().await;
    house.provider("first", away());
    house.provider("second", away());
    let (id, _) = house.open("jdoe").await;
    house.settle().await;
    assert_eq!(refusal(house.core.resend(&house.scope, id).await), Refusal::ResendTooSoon);
}

#[tokio::test]
async fn resends_are_counted_with_all_other_sends() {
    let house = House::new().await;
    let (id, _) = house.open("jdoe").await;
    for _ in 0..9 {
        house.settle().await;
        house.core.resend(&house.scope, id).await.unwrap();
    }
    house.settle().await;
    assert!(matches!(refusal(house.core.resend(&house.scope, id).await), Refusal::SendsExhausted { .. }));
    let events = house.core.events(house.tenant.id, 1000).await.unwrap();
    assert_eq!(events.iter().filter(|it| matches!(it.what, What::RefusedSends { .. })).count(), 1, "and the refusal is on record");
}

#[tokio::test]
async fn what_is_over_or_of_somebody_else_is_unknown() {
    let house = House::new().await;
    let (id, code) = house.open("jdoe").await;
    house.settle().await;
    let other = house.client("Other").await;
    assert_eq!(refusal(house.core.resend(&other, id).await), Refusal::ChallengeUnknown);
    house.answer(id, &code).await.unwrap();
    assert_eq!(refusal(house.core.resend(&house.scope, id).await), Refusal::ChallengeUnknown);
}
