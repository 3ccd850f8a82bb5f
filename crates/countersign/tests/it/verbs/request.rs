//! Requesting a code.

use crate::house::{Does, House, away, email, refusal, sms};
use countersign_core::nouns::challenge::Stage;
use countersign_core::nouns::delivery::DeliveryStage;
use countersign_core::nouns::event::What;
use countersign_core::nouns::tenant::Policy;
use countersign_core::ports::{Key, SendError};
use countersign_core::verbs::manage::TenantChange;
use countersign_core::verbs::request::{Ask, Sent};
use countersign_core::words::address::Channel;
use countersign_core::words::refusal::Refusal;
use countersign_core::words::wording::Wording;

#[tokio::test]
async fn a_request_opens_a_challenge_sends_its_code_and_leaves_a_trail() {
    let house = House::new().await;
    let requested = house.ask("jdoe", "+91-8212345212").await.unwrap();
    assert_eq!(requested.sent, Sent::Taken);
    house.settle().await;
    let delivery = house.last_delivery().await;
    assert!(matches!(delivery.stage, DeliveryStage::Sent { .. }), "and the words are gone: {delivery:?}");
    let events: Vec<_> = house.core.events(house.tenant.id, 100).await.unwrap().into_iter().map(|it| it.what).collect();
    assert!(events.iter().any(|it| matches!(it, What::Opened { channel: Channel::Sms, .. })), "{events:?}");
    assert!(events.iter().any(|it| matches!(it, What::Sent { .. })), "{events:?}");
}

#[tokio::test]
async fn the_eleventh_code_in_five_minutes_is_refused_for_the_person_and_for_the_address() {
    let house = House::new().await;
    for _ in 0..10 {
        house.ask("jdoe", "+918212345212").await.unwrap();
    }
    let blocked_until = match refusal(house.ask("JDOE", "+442079460000").await) {
        Refusal::SendsExhausted { until } => until,
        other => panic!("{other}"),
    };
    assert_eq!(blocked_until.since(crate::house::NOON).as_secs(), 1800);
    assert!(matches!(refusal(house.ask("somebody-else", "+91 821 234 5212").await), Refusal::SendsExhausted { .. }));
    assert_eq!(house.carried().len(), 10);
    house.pass(1800);
    house.ask("jdoe", "+918212345212").await.unwrap();
}

#[tokio::test]
async fn a_refused_send_is_noted_once() {
    let house = House::new().await;
    for _ in 0..20 {
        let _ = house.ask("jdoe", "+918212345212").await;
    }
    house.settle().await;
    let events = house.core.events(house.tenant.id, 1000).await.unwrap();
    assert_eq!(events.iter().filter(|it| matches!(it.what, What::RefusedSends { .. })).count(), 1);
}

#[tokio::test]
async fn when_the_first_provider_refuses_the_second_carries_the_same_code_in_the_same_request() {
    let house = House::new().await;
    for error in [SendError::Refused("status 400".into()), SendError::Unavailable { why: "status 503".into(), retry_after: None }] {
        house.provider("first", Does::Fails(error));
        let before = house.carried().len();
        let requested = house.ask("jdoe", "+918212345212").await.unwrap();
        assert_eq!(requested.sent, Sent::Taken);
        let carried = house.carried()[before..].to_vec();
        assert_eq!(carried.iter().map(|it| it.0.as_str()).collect::<Vec<_>>(), ["first", "second"]);
        assert_eq!(carried[0].1, carried[1].1, "the same code");
    }
}

#[tokio::test(start_paused = true)]
async fn when_the_first_provider_hangs_the_second_has_its_share_of_the_time() {
    let house = House::new().await;
    house.provider("first", Does::Hangs);
    let requested = house.ask("jdoe", "+918212345212").await.unwrap();
    assert_eq!(requested.sent, Sent::Taken);
    assert_eq!(house.carried().iter().map(|it| it.0.as_str()).collect::<Vec<_>>(), ["first", "second"]);
}

#[tokio::test(start_paused = true)]
async fn when_all_providers_hang_the_request_is_answered_within_the_tenants_time() {
    let house = House::new().await;
    house.provider("first", Does::Hangs);
    house.provider("second", Does::Hangs);
    let asked = tokio::time::Instant::now();
    assert_eq!(house.ask("jdoe", "+918212345212").await.unwrap().sent, Sent::Queued);
    assert_eq!(asked.elapsed().as_secs(), 10);
}

#[tokio::test]
async fn when_nobody_will_carry_it_the_challenge_is_closed_and_the_caller_told() {
    let house = House::new().await;
    let refused = SendError::Refused("status 400".into());
    house.provider("first", Does::Fails(refused.clone()));
    house.provider("second", Does::Fails(refused));
    assert_eq!(refusal(house.ask("jdoe", "+918212345212").await), Refusal::DeliveryRefused);
    house.settle().await;
    let delivery = house.last_delivery().await;
    assert!(matches!(delivery.stage, DeliveryStage::Failed { .. }));
    assert!(matches!(house.challenge(delivery.challenge).await.stage, Stage::Failed { .. }));
}

#[tokio::test]
async fn an_address_that_does_not_exist_is_not_tried_elsewhere() {
    let house = House::new().await;
    house.provider("first", Does::Fails(SendError::NoSuchAddress("550 5.1.1".into())));
    assert_eq!(refusal(house.core.request(&house.scope, email("jdoe", "jdoe@example.com")).await), Refusal::AddressUnreachable);
    assert_eq!(house.carried().len(), 1);
}

#[tokio::test]
async fn when_all_are_away_the_answer_says_postponed() {
    let house = House::new().await;
    house.provider("first", away());
    house.provider("second", away());
    assert_eq!(house.ask("jdoe", "+918212345212").await.unwrap().sent, Sent::Postponed);
}

#[tokio::test]
async fn invariant_5_nothing_leaves_when_the_change_did_not_happen() {
    let house = House::new().await;
    house.core.change_tenant(house.tenant.id, TenantChange { routes: Some(Vec::new()), ..TenantChange::default() }).await.unwrap();
    let scope = house.core.scope(house.tenant.id, House::caller(&house.scope).id).await.unwrap();
    let said = house.core.request(&scope, sms("jdoe", "+918212345212")).await;
    assert_eq!(refusal(said), Refusal::RouteMissing { channel: Channel::Sms });
    assert!(house.carried().is_empty());
}

#[tokio::test]
async fn countries_that_the_policy_leaves_out_are_refused() {
    let mut house = House::new().await;
    house.policy(Policy { countries: vec!["91".into()], ..Policy::default() }).await;
    house.ask("jdoe", "+918212345212").await.unwrap();
    assert!(matches!(refusal(house.ask("jdoe", "+442079460000").await), Refusal::PhoneNumberBad(_)));
}

#[tokio::test]
async fn words_are_chosen_by_name_and_a_client_has_its_own_before_the_tenants() {
    let house = House::new().await;
    let words = |text: &str| Wording { subject: None, text: text.into(), html: None };
    let own = House::caller(&house.scope).client_id.clone();
    house.core.put_template(house.tenant.id, None, "short", Channel::Sms, words("all: {{ code }}")).await.unwrap();
    house.core.put_template(house.tenant.id, Some(&own), "short", Channel::Sms, words("own: {{ code }}")).await.unwrap();
    let with = |scope: &countersign_core::Scope, name: &str| {
        let Ask::Code { login, channel, to, .. } = sms("jdoe", "+918212345212") else { unreachable!("a code") };
        let (core, scope, template) = (house.core.clone(), scope.clone(), Some(name.to_owned()));
        async move { core.request(&scope, Ask::Code { login, channel, to, template }).await }
    };
    let fresh = house.core.scope(house.tenant.id, House::caller(&house.scope).id).await.unwrap();
    let text = || house.told.texts().pop().unwrap();
    with(&fresh, "SHORT").await.unwrap();
    assert!(text().starts_with("own: "));
    let other = house.client("Other").await;
    with(&other, "short").await.unwrap();
    assert!(text().starts_with("all: "));
    assert_eq!(refusal(with(&fresh, "long").await), Refusal::TemplateUnknown);
}

#[tokio::test]
async fn an_attempt_count_that_was_read_is_not_written_by_asking() {
    let house = House::new().await;
    let (id, _) = house.open("jdoe").await;
    for of in house.challenge(id).await.failures {
        assert!(house.store.find(house.tenant.id, Key::Limit(of)).await.unwrap().is_none());
    }
}
