//! Answering a challenge.

use crate::house::{House, another, refusal, sms};
use countersign_core::verbs::request::Ask;
use countersign_core::verbs::verify::Answered;
use countersign_core::words::address::{Channel, Login};
use countersign_core::words::refusal::Refusal;
use std::num::NonZeroU8;

fn wrong(left: u8) -> Answered {
    Answered::Wrong { attempts_left: NonZeroU8::new(left).expect("more than none") }
}

#[tokio::test]
async fn invariant_1_the_right_code_passes_once() {
    let house = House::new().await;
    let (id, code) = house.open("jdoe").await;
    assert_eq!(house.answer(id, &code).await.unwrap(), Answered::Passed);
    assert_eq!(house.answer(id, &code).await.unwrap(), Answered::Over);
}

#[tokio::test]
async fn three_wrong_codes_end_the_challenge_and_lock_the_factor() {
    let house = House::new().await;
    let (id, code) = house.open("jdoe").await;
    let no = another(&code);
    assert_eq!(house.answer(id, &no).await.unwrap(), wrong(2));
    assert_eq!(house.answer(id, &no).await.unwrap(), wrong(1));
    assert_eq!(house.answer(id, &no).await.unwrap(), Answered::LastWrong);
    assert_eq!(house.answer(id, &code).await.unwrap(), Answered::Over, "the right code comes too late");
    assert!(matches!(refusal(house.ask("jdoe", "+918212345212").await), Refusal::Locked { until: Some(_) }));
    house.pass(1800);
    let (id, code) = house.open("jdoe").await;
    assert_eq!(house.answer(id, &code).await.unwrap(), Answered::Passed);
}

#[tokio::test]
async fn invariant_2_a_new_challenge_gives_back_no_attempts() {
    let house = House::new().await;
    let (first, code) = house.open("jdoe").await;
    house.answer(first, &another(&code)).await.unwrap();
    house.answer(first, &another(&code)).await.unwrap();
    let (second, code) = house.open("jdoe").await;
    assert_eq!(house.answer(second, &another(&code)).await.unwrap(), Answered::LastWrong);
    assert!(matches!(refusal(house.ask("jdoe", "+918212345212").await), Refusal::Locked { .. }));
}

#[tokio::test]
async fn invariant_2_another_spelling_or_number_gives_back_no_attempts() {
    let house = House::new().await;
    for (login, number) in [("jdoe", "+918212345212"), ("JDoe", "+91 821 234 5212"), (" JDOE ", "+442079460000")] {
        let id = house.ask(login, number).await.unwrap().challenge;
        house.answer(id, &another(&house.last_code())).await.unwrap();
    }
    assert!(matches!(refusal(house.ask("jdoe", "+918212345212").await), Refusal::Locked { .. }));
}

#[tokio::test]
async fn invariant_2_one_number_under_changing_names_gives_back_no_attempts() {
    let house = House::new().await;
    for login in ["a", "b", "c"] {
        let (id, code) = house.open(login).await;
        house.answer(id, &another(&code)).await.unwrap();
    }
    assert!(matches!(refusal(house.ask("d", "+91 821 234 5212").await), Refusal::Locked { .. }));
    house.ask("d", "+442079460000").await.expect("another number");
}

#[tokio::test]
async fn invariant_2_challenges_that_were_open_together_share_one_count() {
    let house = House::new().await;
    let (one, code_one) = house.open("jdoe").await;
    let (two, code_two) = house.open("jdoe").await;
    house.answer(one, &another(&code_one)).await.unwrap();
    assert_eq!(house.answer(two, &another(&code_two)).await.unwrap(), wrong(2), "its own attempts");
    assert_eq!(house.answer(two, &another(&code_two)).await.unwrap(), Answered::LastWrong, "the account's third");
    assert!(matches!(refusal(house.answer(one, &code_one).await), Refusal::Locked { .. }));
}

#[tokio::test]
async fn success_clears_the_count_and_only_of_its_own_kind() {
    let house = House::new().await;
    let (id, code) = house.open("jdoe").await;
    house.answer(id, &another(&code)).await.unwrap();
    house.answer(id, &another(&code)).await.unwrap();
    assert_eq!(house.answer(id, &code).await.unwrap(), Answered::Passed);
    let (id, code) = house.open("jdoe").await;
    assert_eq!(house.answer(id, &another(&code)).await.unwrap(), wrong(2));
}

#[tokio::test]
async fn an_administrator_opens_a_lock() {
    let house = House::new().await;
    let (id, code) = house.open("jdoe").await;
    for _ in 0..3 {
        house.answer(id, &another(&code)).await.unwrap();
    }
    let login = Login::parse("JDOE").unwrap();
    let Ask::Code { to, .. } = sms("jdoe", "+918212345212") else { unreachable!("a code") };
    let client = &House::caller(&house.scope).client_id;
    let unlock = async |to| house.core.unlock(house.tenant.id, Some(client), &login, Channel::Sms, to).await;
    assert_eq!(unlock(None).await.unwrap(), (1, 1));
    assert!(matches!(refusal(house.ask("jdoe", "+918212345212").await), Refusal::Locked { .. }), "the number is locked as well");
    assert_eq!(unlock(Some(&to)).await.unwrap(), (1, 1));
    assert_eq!(unlock(Some(&to)).await.unwrap(), (0, 0), "nothing is left");
    let (id, code) = house.open("jdoe").await;
    assert_eq!(house.answer(id, &another(&code)).await.unwrap(), wrong(2));
}

#[tokio::test]
async fn what_cannot_be_a_code_costs_no_attempt() {
    let house = House::new().await;
    let (id, code) = house.open("jdoe").await;
    for text in ["", "52347", "5234711", "52 471", " 523471", "５２３４７１", "52347a"] {
        assert!(matches!(refusal(house.answer(id, text).await), Refusal::AnswerMalformed(_)), "{text:?}");
    }
    assert_eq!(house.answer(id, &another(&code)).await.unwrap(), wrong(2));
}

#[tokio::test]
async fn a_code_is_over_after_five_minutes() {
    let house = House::new().await;
    let (id, code) = house.open("jdoe").await;
    house.pass(299);
    let (other, other_code) = house.open("else").await;
    house.pass(1);
    assert_eq!(house.answer(id, &code).await.unwrap(), Answered::Over);
    assert_eq!(house.answer(other, &other_code).await.unwrap(), Answered::Passed);
}

#[tokio::test]
async fn invariant_6_a_challenge_of_another_client_or_tenant_is_unknown() {
    let house = House::new().await;
    let (id, code) = house.open("jdoe").await;
    let other = house.client("Other").await;
    assert_eq!(refusal(house.core.verify(&other, id, None, &code).await), Refusal::ChallengeUnknown);
    let elsewhere = house.another_tenant("elsewhere").await;
    assert_eq!(refusal(house.core.verify(&elsewhere, id, None, &code).await), Refusal::ChallengeUnknown);
    assert_eq!(house.answer(id, &code).await.unwrap(), Answered::Passed, "and it cost nothing");
}

#[tokio::test]
async fn a_challenge_is_answered_for_the_channel_it_was_opened_for() {
    let house = House::new().await;
    let (id, code) = house.open("jdoe").await;
    let said = house.core.verify(&house.scope, id, Some(Channel::Email), &code).await;
    assert_eq!(refusal(said), Refusal::ChannelDiffers { opened_for: Channel::Sms });
    assert_eq!(house.core.verify(&house.scope, id, Some(Channel::Sms), &code).await.unwrap(), Answered::Passed);
}

#[tokio::test]
async fn invariant_2_two_hundred_wrong_codes_at_once_are_judged_three_times() {
    let house = std::sync::Arc::new(House::new().await);
    house.core.request(&house.scope, sms("jdoe", "+918212345212")).await.unwrap();
    let (id, code) = house.open("jdoe").await;
    let no = another(&code);
    let guesses = (0..200).map(|_| {
        let (house, no) = (house.clone(), no.clone());
        tokio::spawn(async move { house.answer(id, &no).await.unwrap() })
    });
    let mut judged = 0;
    for guess in guesses.collect::<Vec<_>>() {
        if guess.await.unwrap() != Answered::Over {
            judged += 1;
        }
    }
    assert_eq!(judged, 3);
}
