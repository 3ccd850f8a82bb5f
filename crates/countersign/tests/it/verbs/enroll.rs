//! Enrolling authenticators, and answering with them.

use crate::house::{House, NOON, refusal};
use countersign_core::Scope;
use countersign_core::nouns::totp;
use countersign_core::verbs::enroll::Enrolling;
use countersign_core::verbs::request::Ask;
use countersign_core::verbs::verify::Answered;
use countersign_core::words::address::Login;
use countersign_core::words::id::ChallengeId;
use countersign_core::words::refusal::{Error, Refusal};

fn login(text: &str) -> Login {
    Login::parse(text).unwrap()
}

/// The value that an authenticator with this seed shows at the house's time.
fn shown(house: &House, enrolling: &Enrolling) -> String {
    let seed = data_encoding::BASE32_NOPAD.decode(enrolling.seed.reveal().as_bytes()).unwrap();
    totp::hotp(&seed, totp::step_at(house.core.now()))
}

async fn enrolled(house: &House, name: &str) -> Enrolling {
    let enrolling = house.core.enroll_totp(&house.scope, login("jdoe"), name).await.unwrap();
    let (answered, called) =
        house.core.activate(&house.scope, &login("JDOE"), enrolling.challenge, &shown(house, &enrolling)).await.unwrap();
    assert_eq!((answered, called.as_str()), (Answered::Passed, name));
    enrolling
}

async fn ask(house: &House, scope: &Scope, device: &str) -> Result<ChallengeId, Error> {
    let ask = Ask::Totp { login: login("jdoe"), device: device.into() };
    house.core.request(scope, ask).await.map(|it| it.challenge)
}

#[tokio::test]
async fn an_authenticator_is_enrolled_and_answers_a_challenge() {
    let house = House::new().await;
    let phone = enrolled(&house, "phone").await;
    house.pass(30);
    let id = ask(&house, &house.scope, "Phone").await.unwrap();
    assert_eq!(house.answer(id, &shown(&house, &phone)).await.unwrap(), Answered::Passed);
    let devices = house.core.devices(&house.scope, &login("jdoe")).await.unwrap();
    assert_eq!(devices.iter().map(|it| (it.name.as_str(), it.created_at)).collect::<Vec<_>>(), [("phone", NOON)]);
}

#[tokio::test]
async fn a_step_is_burnt_once_used_for_every_challenge() {
    let house = House::new().await;
    let phone = enrolled(&house, "phone").await;
    let id = ask(&house, &house.scope, "phone").await.unwrap();
    assert!(matches!(house.answer(id, &shown(&house, &phone)).await.unwrap(), Answered::Wrong { .. }), "it was used to activate");
    house.pass(30);
    let (one, two) = (ask(&house, &house.scope, "phone").await.unwrap(), ask(&house, &house.scope, "phone").await.unwrap());
    assert_eq!(house.answer(one, &shown(&house, &phone)).await.unwrap(), Answered::Passed);
    assert!(matches!(house.answer(two, &shown(&house, &phone)).await.unwrap(), Answered::Wrong { .. }));
}

#[tokio::test]
async fn wrong_values_lock_all_authenticators_of_the_person_and_nobody_elses() {
    let house = House::new().await;
    let phone = enrolled(&house, "phone").await;
    house.pass(30);
    let id = ask(&house, &house.scope, "phone").await.unwrap();
    for _ in 0..3 {
        house.answer(id, &crate::house::another(&shown(&house, &phone))).await.unwrap();
    }
    assert!(matches!(refusal(ask(&house, &house.scope, "phone").await), Refusal::Locked { .. }));
    house.ask("jdoe", "+918212345212").await.expect("codes by SMS have a count of their own");
}

#[tokio::test]
async fn typing_errors_at_enrolment_lock_no_device_in_use() {
    let house = House::new().await;
    enrolled(&house, "phone").await;
    let tablet = house.core.enroll_totp(&house.scope, login("jdoe"), "tablet").await.unwrap();
    let wrong = crate::house::another(&shown(&house, &tablet));
    for _ in 0..3 {
        house.core.activate(&house.scope, &login("jdoe"), tablet.challenge, &wrong).await.unwrap();
    }
    let late = house.core.activate(&house.scope, &login("jdoe"), tablet.challenge, &shown(&house, &tablet)).await.unwrap();
    assert_eq!(late.0, Answered::Over);
    ask(&house, &house.scope, "phone").await.expect("not locked");
}

#[tokio::test]
async fn names_are_unique_and_places_are_limited() {
    let house = House::new().await;
    enrolled(&house, "phone").await;
    let begin = |name: &'static str| house.core.enroll_totp(&house.scope, login("jdoe"), name);
    assert_eq!(refusal(begin("PHONE").await), Refusal::DeviceNameTaken);
    assert_eq!(refusal(begin(" ").await), Refusal::DeviceNameBad);
    for name in ["b", "c", "d", "e"] {
        begin(name).await.unwrap();
    }
    assert_eq!(refusal(begin("f").await), Refusal::TooManyDevices { most: 5 });
    begin("e").await.expect("what was not activated may be begun again");
    house.pass(900);
    begin("f").await.expect("what was not activated in time makes room");
}

#[tokio::test]
async fn an_activated_device_is_not_activated_twice() {
    let house = House::new().await;
    let phone = enrolled(&house, "phone").await;
    house.pass(30);
    let again = house.core.activate(&house.scope, &login("jdoe"), phone.challenge, &shown(&house, &phone)).await;
    assert_eq!(refusal(again), Refusal::DeviceActive);
}

#[tokio::test]
async fn a_device_that_was_removed_proves_nothing_any_more() {
    let house = House::new().await;
    let phone = enrolled(&house, "phone").await;
    house.pass(30);
    let id = ask(&house, &house.scope, "phone").await.unwrap();
    house.core.remove_device(&house.scope, &login("jdoe"), "phone").await.unwrap();
    assert!(matches!(house.answer(id, &shown(&house, &phone)).await.unwrap(), Answered::Wrong { .. }));
    assert_eq!(refusal(ask(&house, &house.scope, "phone").await), Refusal::NoUsableDevice);
    assert_eq!(refusal(house.core.remove_device(&house.scope, &login("jdoe"), "phone").await), Refusal::DeviceUnknown);
}

#[tokio::test]
async fn invariant_6_people_and_devices_of_another_client_are_unknown() {
    let house = House::new().await;
    let phone = enrolled(&house, "phone").await;
    let other = house.client("Other").await;
    assert_eq!(refusal(house.core.devices(&other, &login("jdoe")).await), Refusal::UserUnknown);
    assert_eq!(refusal(ask(&house, &other, "phone").await), Refusal::UserUnknown);
    assert_eq!(refusal(house.core.remove_device(&other, &login("jdoe"), "phone").await), Refusal::UserUnknown);
    let stolen = house.core.activate(&other, &login("jdoe"), phone.challenge, &shown(&house, &phone)).await;
    assert_eq!(refusal(stolen), Refusal::UserUnknown);
}

#[tokio::test]
async fn an_enrolment_is_no_authentication_and_of_one_person() {
    let house = House::new().await;
    let phone = house.core.enroll_totp(&house.scope, login("jdoe"), "phone").await.unwrap();
    house.core.enroll_totp(&house.scope, login("other"), "phone").await.unwrap();
    let value = shown(&house, &phone);
    assert_eq!(refusal(house.answer(phone.challenge, &value).await), Refusal::ChallengeUnknown);
    let foreign = house.core.activate(&house.scope, &login("other"), phone.challenge, &value).await;
    assert_eq!(refusal(foreign), Refusal::ChallengeUnknown);
    let (id, code) = house.open("jdoe").await;
    assert_eq!(refusal(house.core.activate(&house.scope, &login("jdoe"), id, &code).await), Refusal::ChallengeUnknown);
}

#[tokio::test]
async fn the_label_names_the_registration_and_the_person() {
    let house = House::new().await;
    let phone = house.core.enroll_totp(&house.scope, login("jdoe"), "phone").await.unwrap();
    let application = &House::caller(&house.scope).application;
    assert_eq!(phone.uri.reveal(), format!("otpauth://totp/{application}$jdoe?secret={}", phone.seed.reveal()));
    assert_eq!(phone.seed.reveal().len(), 32);
}
