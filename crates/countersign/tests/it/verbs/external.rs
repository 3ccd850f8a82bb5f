//! Codes that a provider makes and checks: paid for, asked, settled.

use crate::house::{Does, House, Said, Whose, another, away, data, named, refusal, signing_in, sms};
use countersign_core::nouns::challenge::Stage;
use countersign_core::nouns::delivery::DeliveryStage;
use countersign_core::nouns::event::What;
use countersign_core::nouns::sign_in::Finishes;
use countersign_core::nouns::tenant::Policy;
use countersign_core::ports::{CheckError, SendError};
use countersign_core::verbs::request::Sent;
use countersign_core::verbs::verify::Answered;
use countersign_core::words::address::Channel;
use countersign_core::words::refusal::{Error, Refusal};
use countersign_core::words::secret::{Offered, Secret};
use countersign_core::words::variables::Variables;
use std::num::NonZeroU8;
use std::sync::Arc;
use tokio::task::JoinHandle;

fn declined(left: u8) -> Answered {
    Answered::Declined { attempts_left: NonZeroU8::new(left) }
}

fn not_asked() -> Said {
    Err(CheckError::NotAsked("no connection".into()))
}

fn no_verdict() -> Said {
    Err(CheckError::NoVerdict("status 502".into()))
}

async fn house() -> Arc<House> {
    Arc::new(House::of(Whose::Theirs).await)
}

/// An answer that is on its way to the provider, which says nothing before it is told to.
async fn in_flight(house: &Arc<House>, login: &'static str, token: &Secret, purpose: Finishes) -> JoinHandle<Result<Answered, Error>> {
    house.told.checks.hold();
    let before = house.told.checks.held();
    let (at_work, token, code) = (house.clone(), token.clone(), house.newest_code());
    let answer = tokio::spawn(async move { at_work.prove_for(login, &token, purpose, &code).await });
    while house.told.checks.held() == before {
        assert!(!answer.is_finished(), "{:?}", answer.await);
        tokio::task::yield_now().await;
    }
    answer
}

async fn attempts_left(house: &House) -> Option<u8> {
    match house.newest_challenge().await.stage {
        Stage::Open { attempts_left, .. } => Some(attempts_left.get()),
        _ => None,
    }
}

#[tokio::test]
async fn the_provider_is_asked_by_its_own_name_for_it_and_with_all_that_was_offered() {
    let house = house().await;
    let token = house.begin("jdoe", Finishes::Login).await;
    let with = Variables::of([("code".to_owned(), "1234".into()), ("device".to_owned(), "red".into())]);
    let offered = Offered { code: Secret::new("1234"), with: with.clone() };
    house.core.prove_sign_in(&house.scope, &named("jdoe"), &token, Finishes::Login, offered).await.unwrap();
    let (asked, started) = (house.told.checks.asked(), house.told.checks.started());
    assert_eq!((asked.len(), started.len()), (1, 1));
    assert_eq!((asked[0].receipt.as_deref(), &asked[0].to), (Some("v-1"), &data("41791231212")));
    assert_eq!((&started[0].0[..], &started[0].2), ("one", &data("41791231212")));
    assert!(asked[0].offered.with == with && asked[0].offered.code == Secret::new("1234"));
    assert!(house.carried().is_empty(), "there is no code of ours");
}

#[tokio::test]
async fn no_answer_at_all_is_no_guess() {
    let house = house().await;
    let token = house.begin("jdoe", Finishes::Login).await;
    assert!(matches!(refusal(house.prove("jdoe", &token, "").await), Refusal::AnswerMalformed(_)));
    assert_eq!((house.told.checks.asked().len(), house.failures().await), (0, 0));
}

#[tokio::test]
async fn invariant_2_an_answer_is_paid_before_the_provider_is_asked_and_a_crash_leaves_it_paid() {
    let house = house().await;
    let token = house.begin("jdoe", Finishes::Login).await;
    let answer = in_flight(&house, "jdoe", &token, Finishes::Login).await;
    assert_eq!((attempts_left(&house).await, house.failures().await), (Some(2), 1));
    answer.abort();
    assert!(answer.await.is_err());
    house.settle().await;
    assert_eq!((attempts_left(&house).await, house.failures().await), (Some(2), 1), "nobody has heard a verdict");
    let answer = in_flight(&house, "jdoe", &token, Finishes::Login).await;
    house.told.checks.tell(1, Ok(false));
    assert_eq!(answer.await.unwrap().unwrap(), declined(1));
    // Who has hung up has paid, and a right answer counts all the same.
    house.told.checks.tell(0, Ok(true));
    house.settle().await;
    assert_eq!((attempts_left(&house).await, house.failures().await), (None, 0));
    assert_eq!(refusal(house.prove("jdoe", &token, &house.newest_code()).await), Refusal::SignInUnknown);
}

#[tokio::test]
async fn invariant_1_of_many_right_answers_in_flight_one_passes() {
    let mut house = House::of(Whose::Theirs).await;
    house.policy(Policy { attempts: NonZeroU8::new(10).unwrap(), ..Policy::default() }).await;
    let house = Arc::new(house);
    for purpose in [Finishes::Login, Finishes::Activation] {
        let (token, first) = (house.begin("jdoe", purpose).await, house.told.checks.held());
        let mut answers = Vec::new();
        for _ in 0..10 {
            answers.push(in_flight(&house, "jdoe", &token, purpose).await);
        }
        // The other 54 are not asked about: the attempts are in flight.
        for _ in 0..54 {
            assert_eq!(house.prove_for("jdoe", &token, purpose, &house.newest_code()).await.unwrap(), Answered::Over);
        }
        (0..10).rev().for_each(|at| house.told.checks.tell(first + at, Ok(true)));
        let mut passed = 0;
        for answer in answers {
            match answer.await.unwrap() {
                Ok(Answered::Passed) => passed += 1,
                other => assert_eq!(other.unwrap(), Answered::Over),
            }
        }
        assert_eq!((passed, house.failures().await), (1, 0), "{purpose:?}");
        assert_eq!(house.trail().await.iter().filter(|it| matches!(it, What::Passed { .. })).count(), 1 + usize::from(first > 0));
    }
}

#[tokio::test]
async fn invariant_2_no_more_answers_are_asked_about_than_there_are_attempts() {
    let house = house().await;
    let tokens = [house.begin("jdoe", Finishes::Login).await, house.begin("jdoe", Finishes::Login).await];
    let mut answers = Vec::new();
    for token in [&tokens[0], &tokens[1], &tokens[0]] {
        answers.push(in_flight(&house, "jdoe", token, Finishes::Login).await);
    }
    for token in &tokens {
        let said = house.prove("jdoe", token, &house.newest_code()).await;
        assert!(matches!(said, Ok(Answered::Over) | Err(Error::Refused(Refusal::Locked { .. }))), "{said:?}");
    }
    (0..3).for_each(|at| house.told.checks.tell(at, Ok(false)));
    for answer in answers {
        assert_eq!(answer.await.unwrap().unwrap(), declined(0));
    }
    assert_eq!((house.told.checks.asked().len(), house.failures().await), (3, 3));
    for token in &tokens {
        assert_eq!(refusal(house.prove("jdoe", token, &house.newest_code()).await), Refusal::SignInUnknown, "all of them are over");
    }
}

#[tokio::test]
async fn an_answer_that_reached_nobody_is_given_back() {
    let house = house().await;
    let token = house.begin("jdoe", Finishes::Login).await;
    house.told.checks.say(not_asked());
    for _ in 0..7 {
        assert_eq!(refusal(house.prove("jdoe", &token, &house.newest_code()).await), Refusal::NoVerdict);
        assert_eq!((attempts_left(&house).await, house.failures().await), (Some(3), 0));
    }
    house.told.checks.say(None);
    assert_eq!(house.prove("jdoe", &token, &house.newest_code()).await.unwrap(), Answered::Passed);
    let unjudged = house.trail().await.into_iter().filter(|it| matches!(it, What::Unjudged { is_paid: false, .. })).count();
    assert_eq!(unjudged, 7);
}

#[tokio::test]
async fn the_last_answer_that_reached_nobody_leaves_no_lock_and_another_challenge_may_begin() {
    let house = house().await;
    let token = house.begin("jdoe", Finishes::Login).await;
    for left in [2, 1] {
        assert_eq!(house.prove("jdoe", &token, "no").await.unwrap(), declined(left));
    }
    house.told.checks.say(not_asked());
    assert_eq!(refusal(house.prove("jdoe", &token, "no").await), Refusal::NoVerdict);
    assert_eq!(house.failures().await, 2);
    house.told.checks.say(None);
    house.core.challenge_sign_in(&house.scope, &named("jdoe"), &token).await.expect("it is not locked");
    assert_eq!(attempts_left(&house).await, Some(1), "and what was judged stays paid");
    assert_eq!(house.prove("jdoe", &token, &house.newest_code()).await.unwrap(), Answered::Passed);
}

#[tokio::test]
async fn invariant_2_an_answer_without_verdict_is_not_given_back() {
    let house = house().await;
    let token = house.begin("jdoe", Finishes::Login).await;
    house.told.checks.say(no_verdict());
    for left in [Some(2), Some(1), None] {
        assert_eq!(refusal(house.prove("jdoe", &token, &house.newest_code()).await), Refusal::NoVerdict);
        assert_eq!(attempts_left(&house).await, left);
    }
    let begun = house.core.begin_sign_in_with_code(&house.scope, signing_in("jdoe", Finishes::Login)).await;
    assert!(matches!(refusal(begun), Refusal::Locked { .. }), "it may have judged three times");
    let unjudged = house.trail().await.into_iter().filter(|it| matches!(it, What::Unjudged { is_paid: true, .. })).count();
    assert_eq!(unjudged, 3);
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_says_nothing_is_waited_for_as_long_as_the_tenant_allows() {
    let house = house().await;
    let token = house.begin("jdoe", Finishes::Login).await;
    let asked = tokio::time::Instant::now();
    let answer = in_flight(&house, "jdoe", &token, Finishes::Login).await;
    assert_eq!(refusal(answer.await.unwrap()), Refusal::NoVerdict);
    assert_eq!(asked.elapsed().as_secs(), 10);
    assert_eq!(attempts_left(&house).await, Some(2), "it may have judged");
}

#[tokio::test]
async fn the_last_attempt_that_is_right_passes_and_clears_the_counts() {
    let house = house().await;
    let token = house.begin("jdoe", Finishes::Login).await;
    for left in [2, 1] {
        assert_eq!(house.prove("jdoe", &token, "no").await.unwrap(), declined(left));
    }
    let answer = in_flight(&house, "jdoe", &token, Finishes::Login).await;
    assert_eq!((attempts_left(&house).await, house.failures().await), (None, 3));
    // While it is in flight the person is locked, wherever else they come from.
    let begun = house.core.begin_sign_in_with_code(&house.scope, signing_in("jdoe", Finishes::Login)).await;
    assert!(matches!(refusal(begun), Refusal::Locked { .. }));
    house.told.checks.tell(0, Ok(true));
    assert_eq!(answer.await.unwrap().unwrap(), Answered::Passed);
    assert_eq!(house.failures().await, 0);
    house.begin("jdoe", Finishes::Login).await;
    assert_eq!(attempts_left(&house).await, Some(3));
}

#[tokio::test]
async fn what_was_right_after_the_sign_in_was_ended_finishes_nothing() {
    let house = house().await;
    let token = house.begin("jdoe", Finishes::Login).await;
    let answer = in_flight(&house, "jdoe", &token, Finishes::Login).await;
    house.core.end_sign_in(&house.scope, &token).await.unwrap();
    house.told.checks.tell(0, Ok(true));
    assert_eq!(answer.await.unwrap().unwrap(), Answered::Over);
    assert!(!house.trail().await.iter().any(|it| matches!(it, What::Passed { .. })));
}

#[tokio::test]
async fn a_wrong_answer_that_is_judged_after_a_right_one_ends_no_activation() {
    let house = house().await;
    let token = house.begin("jdoe", Finishes::Activation).await;
    let wrong = in_flight(&house, "jdoe", &token, Finishes::Activation).await;
    let right = in_flight(&house, "jdoe", &token, Finishes::Activation).await;
    house.told.checks.tell(1, Ok(true));
    assert_eq!(right.await.unwrap().unwrap(), Answered::Passed);
    house.told.checks.tell(0, Ok(false));
    assert_eq!(wrong.await.unwrap().unwrap(), Answered::Over, "it was not the last one, and the factor is not locked");
    assert!(!house.trail().await.iter().any(|it| matches!(it, What::Spent { .. })));
    house.core.challenge_sign_in(&house.scope, &named("jdoe"), &token).await.expect("it goes on until it is ended");
}

#[tokio::test]
async fn a_wrong_answer_that_is_judged_after_the_time_was_over_ends_no_sign_in() {
    let house = house().await;
    let token = house.begin("jdoe", Finishes::Login).await;
    house.pass(299);
    let wrong = in_flight(&house, "jdoe", &token, Finishes::Login).await;
    house.pass(2);
    assert_eq!(house.prove("jdoe", &token, &house.newest_code()).await.unwrap(), Answered::Over);
    house.told.checks.tell(0, Ok(false));
    assert_eq!(wrong.await.unwrap().unwrap(), Answered::Over);
    assert_eq!(house.failures().await, 1, "it stays paid");
    house.core.challenge_sign_in(&house.scope, &named("jdoe"), &token).await.expect("another code may be asked for");
    assert_eq!(attempts_left(&house).await, Some(2));
}

#[tokio::test]
async fn invariant_2_giving_back_what_success_has_cleared_takes_nothing_from_others() {
    let house = house().await;
    let (one, two) = (house.begin("jdoe", Finishes::Login).await, house.begin("jdoe", Finishes::Login).await);
    let lost = in_flight(&house, "jdoe", &one, Finishes::Login).await;
    let right = in_flight(&house, "jdoe", &two, Finishes::Login).await;
    house.told.checks.tell(1, Ok(true));
    assert_eq!(right.await.unwrap().unwrap(), Answered::Passed);
    // What was paid is cleared; now another wrong one is paid and judged.
    let three = house.begin("jdoe", Finishes::Login).await;
    let wrong = in_flight(&house, "jdoe", &three, Finishes::Login).await;
    house.told.checks.tell(2, Ok(false));
    assert_eq!(wrong.await.unwrap().unwrap(), declined(2));
    house.told.checks.tell(0, not_asked());
    assert_eq!(refusal(lost.await.unwrap()), Refusal::NoVerdict);
    assert_eq!(house.failures().await, 1, "one was judged wrong since the last right one");
}

#[tokio::test]
async fn invariant_2_giving_back_after_a_lock_has_ended_opens_no_other_lock() {
    let mut house = House::of(Whose::Theirs).await;
    house.policy(Policy { lock_s: 60, answer_within_s: 60, ..Policy::default() }).await;
    let house = Arc::new(house);
    let (one, two) = (house.begin("jdoe", Finishes::Login).await, house.begin("jdoe", Finishes::Login).await);
    let lost = in_flight(&house, "jdoe", &one, Finishes::Login).await;
    for at in 1..=2 {
        let wrong = in_flight(&house, "jdoe", &two, Finishes::Login).await;
        house.told.checks.tell(at, Ok(false));
        wrong.await.unwrap().unwrap();
    }
    house.pass(60);
    let three = house.begin("jdoe", Finishes::Login).await;
    for at in 3..=5 {
        let wrong = in_flight(&house, "jdoe", &three, Finishes::Login).await;
        house.told.checks.tell(at, Ok(false));
        wrong.await.unwrap().unwrap();
    }
    house.told.checks.tell(0, not_asked());
    assert_eq!(refusal(lost.await.unwrap()), Refusal::NoVerdict);
    let begun = house.core.begin_sign_in_with_code(&house.scope, signing_in("jdoe", Finishes::Login)).await;
    assert!(matches!(refusal(begun), Refusal::Locked { .. }), "three were judged wrong in this round");
}

#[tokio::test]
async fn a_provider_that_is_gone_can_judge_nothing_and_costs_nothing() {
    let mut house = House::of(Whose::Theirs).await;
    let token = house.begin("jdoe", Finishes::Login).await;
    let change = countersign_core::verbs::manage::TenantChange { routes: Some(Vec::new()), ..Default::default() };
    house.core.change_tenant(house.tenant.id, change).await.unwrap();
    house.core.remove_provider(house.tenant.id, "one").await.unwrap();
    house.policy(Policy::default()).await;
    assert_eq!(refusal(house.prove("jdoe", &token, &house.newest_code()).await), Refusal::NoVerdict);
    assert_eq!((attempts_left(&house).await, house.failures().await), (Some(3), 0));
}

#[tokio::test]
async fn who_took_it_is_asked_about_it() {
    let house = house().await;
    house.provider("one", away());
    let token = house.begin("jdoe", Finishes::Login).await;
    let started = house.told.checks.started();
    assert_eq!(started.iter().map(|it| it.0.as_str()).collect::<Vec<_>>(), ["one", "two"]);
    assert_eq!(started[0].1, started[1].1, "the same delivery");
    assert_eq!(house.prove("jdoe", &token, "code-of-v-1").await.unwrap(), declined(2));
    assert_eq!(house.prove("jdoe", &token, "code-of-v-2").await.unwrap(), Answered::Passed);
}

#[tokio::test]
async fn invariant_5_a_start_that_failed_is_tried_again_under_the_same_id() {
    let mut house = House::new().await;
    house.reaches(Channel::Sms, [("one", Whose::Theirs), ("two", Whose::Theirs)]).await;
    house.provider("one", away());
    house.provider("two", away());
    let asked = house.ask("jdoe", "+918212345212").await.unwrap();
    assert_eq!(asked.sent, Sent::Postponed);
    house.settle().await;
    assert_eq!(house.core.deliver_due().await.unwrap(), 0, "not before its pause is over");
    house.provider("two", Does::Takes);
    house.pass(1);
    assert_eq!(house.node(false).deliver_due().await.unwrap(), 1, "whichever node comes first");
    house.settle().await;
    let started = house.told.checks.started();
    assert_eq!(started.iter().map(|it| it.0.as_str()).collect::<Vec<_>>(), ["one", "two", "one", "two"]);
    assert!(started.iter().all(|it| (it.1, &it.2) == (started[0].1, &started[0].2)), "one delivery to one place");
    assert_eq!(house.answer(asked.challenge, &house.newest_code()).await.unwrap(), Answered::Passed);
}

#[tokio::test]
async fn a_start_that_nobody_wants_any_more_is_not_made() {
    let house = house().await;
    house.provider("one", away());
    house.provider("two", away());
    let token = house.core.begin_sign_in(&house.scope, signing_in("jdoe", Finishes::Login)).await.unwrap();
    let begun = house.core.begin_sign_in_with_code(&house.scope, signing_in("jdoe", Finishes::Activation)).await;
    let asked = house.core.challenge_sign_in(&house.scope, &named("jdoe"), &token).await;
    // The caller has heard that nothing was sent, so nothing is sent later.
    assert_eq!((refusal(begun), refusal(asked)), (Refusal::DeliveryRefused, Refusal::DeliveryRefused));
    house.settle().await;
    house.provider("one", Does::Takes);
    let before = house.told.checks.started().len();
    for _ in 0..60 {
        house.pass(1);
        assert_eq!(house.core.deliver_due().await.unwrap(), 0);
    }
    assert_eq!(house.told.checks.started().len(), before);
    house.core.challenge_sign_in(&house.scope, &named("jdoe"), &token).await.unwrap();
    assert_eq!(house.prove("jdoe", &token, &house.newest_code()).await.unwrap(), Answered::Passed);
}

#[tokio::test]
async fn who_only_carries_codes_takes_no_start_and_who_makes_codes_takes_none_of_ours() {
    for (first, second) in [(Whose::Theirs, Whose::Ours), (Whose::Ours, Whose::Theirs)] {
        let mut house = House::of_two(first, first).await;
        house.becomes("two", second).await;
        house.looks_again().await;
        house.provider("one", Does::Fails(SendError::Refused("status 400".into())));
        let begun = house.core.begin_sign_in_with_code(&house.scope, signing_in("jdoe", Finishes::Login)).await;
        assert_eq!(refusal(begun), Refusal::DeliveryRefused);
        assert_eq!(house.carried().len() + house.told.checks.started().len(), 1, "only the first was called");
    }
}

#[tokio::test]
async fn invariant_7_what_a_delivery_of_theirs_keeps_shows_no_address() {
    let house = house().await;
    house.begin("jdoe", Finishes::Login).await;
    let id = house.told.checks.started()[0].1;
    let kept = house.delivery(id).await;
    assert!(matches!(kept.stage, DeliveryStage::Sent { .. }));
    assert!(!format!("{kept:?}").contains("41791231212"));
}

#[tokio::test]
async fn a_bare_challenge_over_a_provider_that_checks_is_paid_asked_and_settled_alike() {
    let mut house = House::new().await;
    house.reaches(Channel::Sms, [("one", Whose::Theirs), ("two", Whose::Theirs)]).await;
    let id = house.ask("jdoe", "+918212345212").await.unwrap().challenge;
    let code = house.newest_code();
    assert_eq!(house.core.verify(&house.scope, id, Some(Channel::Sms), &another(&code)).await.unwrap(), declined(2));
    house.settle().await;
    house.core.resend(&house.scope, id).await.unwrap();
    assert_eq!(house.answer(id, &code).await.unwrap(), declined(1), "the old one is void (invariant 3)");
    assert_eq!(house.answer(id, &house.newest_code()).await.unwrap(), Answered::Passed);
    assert_eq!(house.failures().await, 0);
    let id = house.ask("jdoe", "+918212345212").await.unwrap().challenge;
    for left in [2, 1, 0] {
        assert_eq!(house.answer(id, "no").await.unwrap(), declined(left));
    }
    assert!(matches!(refusal(house.core.request(&house.scope, sms("somebody-else", "+918212345212")).await), Refusal::Locked { .. }));
}
