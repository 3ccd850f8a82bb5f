//! The outbox.

use crate::house::{Does, House, away};
use countersign_core::nouns::delivery::DeliveryStage;
use countersign_core::ports::SendError;
use countersign_core::verbs::verify::Answered;
use std::time::Duration;

#[tokio::test]
async fn invariant_5_what_waits_is_sent_later_with_the_same_words_and_the_same_id() {
    let house = House::new().await;
    house.provider("first", away());
    house.provider("second", away());
    let (id, code) = house.open("jdoe").await;
    house.settle().await;
    assert_eq!(house.core.deliver_due().await.unwrap(), 0, "not before its pause is over");
    house.provider("first", Does::Takes);
    house.pass(1);
    assert_eq!(house.core.deliver_due().await.unwrap(), 1);
    house.settle().await;
    assert_eq!(house.carried().iter().map(|it| it.1.as_str()).collect::<Vec<_>>(), [code.as_str(); 3]);
    assert!(house.told.ids().windows(2).all(|pair| pair[0] == pair[1]), "one delivery");
    assert!(matches!(house.last_delivery().await.stage, DeliveryStage::Sent { .. }));
    assert_eq!(house.answer(id, &code).await.unwrap(), Answered::Passed);
}

#[tokio::test]
async fn pauses_grow_and_a_provider_may_ask_for_a_longer_one() {
    let house = House::new().await;
    house.provider("first", away());
    house.provider("second", Does::Fails(SendError::Unavailable { why: "status 429".into(), retry_after: Some(Duration::from_secs(7)) }));
    house.open("jdoe").await;
    house.settle().await;
    house.pass(6);
    assert_eq!(house.core.deliver_due().await.unwrap(), 0);
    house.pass(1);
    assert_eq!(house.core.deliver_due().await.unwrap(), 1);
}

#[tokio::test]
async fn invariant_5_a_delivery_is_claimed_by_one_of_many_loops() {
    let house = std::sync::Arc::new(House::new().await);
    house.provider("first", away());
    house.provider("second", away());
    house.open("jdoe").await;
    house.settle().await;
    house.pass(1);
    house.provider("first", Does::Hangs);
    let rounds = (0..16).map(|_| {
        let house = house.clone();
        tokio::spawn(async move { house.core.deliver_due().await.unwrap() })
    });
    let mut claimed = 0;
    for round in rounds.collect::<Vec<_>>() {
        claimed += round.await.unwrap();
    }
    assert_eq!(claimed, 1);
}

#[tokio::test]
async fn a_node_that_died_loses_its_lease_and_another_carries_on() {
    let house = House::new().await;
    house.provider("first", Does::Hangs);
    let asking = tokio::time::timeout(Duration::from_millis(50), house.ask("jdoe", "+918212345212")).await;
    assert!(asking.is_err(), "the caller hung up, and the provider says nothing");
    let code = house.last_code();
    house.provider("first", Does::Takes);
    house.pass(19);
    assert_eq!(house.core.deliver_due().await.unwrap(), 0, "leased");
    house.pass(1);
    assert_eq!(house.core.deliver_due().await.unwrap(), 1);
    house.settle().await;
    assert_eq!(house.last_code(), code);
}

#[tokio::test]
async fn what_is_no_longer_wanted_is_not_sent() {
    let house = House::new().await;
    house.provider("first", away());
    house.provider("second", away());
    let (id, code) = house.open("jdoe").await;
    house.settle().await;
    let carried = house.carried().len();
    house.answer(id, &code).await.unwrap();
    house.provider("first", Does::Takes);
    house.pass(20);
    assert_eq!(house.core.deliver_due().await.unwrap(), 0);
    assert_eq!(house.carried().len(), carried);
    assert!(matches!(house.last_delivery().await.stage, DeliveryStage::Failed { .. }));
}

#[tokio::test]
async fn a_message_whose_code_is_over_is_given_up() {
    let house = House::new().await;
    house.provider("first", away());
    house.provider("second", away());
    house.open("jdoe").await;
    house.settle().await;
    house.pass(300);
    assert_eq!(house.core.deliver_due().await.unwrap(), 0);
    assert!(matches!(house.last_delivery().await.stage, DeliveryStage::Failed { .. }));
}
