//! Accounts: people in a directory of our own.

use crate::house::{Far, House, NOON, data, named, refusal, signing_in};
use countersign_core::Scope;
use countersign_core::nouns::event::What;
use countersign_core::nouns::sign_in::Finishes;
use countersign_core::nouns::sign_in::Passage;
use countersign_core::nouns::user::User;
use countersign_core::ports::Key;
use countersign_core::ports::Record;
use countersign_core::verbs::account::Next;
use countersign_core::verbs::account::SecondFactor;
use countersign_core::words::address::Address;
use countersign_core::words::refusal::{Error, Refusal};
use countersign_core::words::secret::{Offered, Secret};
use countersign_core::words::variables::Variables;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::Duration;

const PASSWORD: &str = "correct horse";
const WEEK: Duration = Duration::from_secs(7 * 86_400);

/// A house with `jdoe` in its directory, and the scope in which people ask for themselves.
async fn house() -> (Arc<House>, Scope) {
    furnished(House::new().await).await
}

async fn furnished(house: House) -> (Arc<House>, Scope) {
    let scope = Scope::of_tenant(house.scope.tenant.clone());
    house.core.create_account(house.tenant.id, named("jdoe"), Secret::new(PASSWORD), "en").await.expect("a new person");
    (Arc::new(house), scope)
}

async fn check(house: &House, scope: &Scope, login: &str, password: &str, from: &str) -> Result<(), Error> {
    house.core.check_password(scope, &named(login), &Secret::new(password), from).await.map(drop)
}

async fn log_in(house: &House, scope: &Scope, app: &str) -> Secret {
    house.core.log_in(scope, &named("jdoe"), passage(house, scope).await, app, WEEK).await.expect("a token").token
}

/// What the right password gives to a person without a second factor.
async fn passage(house: &House, scope: &Scope) -> Passage {
    match house.core.check_password(scope, &named("jdoe"), &Secret::new(PASSWORD), "home").await.expect("it is right") {
        Next::Done(passage) => passage,
        Next::Second { .. } => panic!("there is no second factor"),
    }
}

async fn access(house: &House, scope: &Scope, token: &Secret) -> Result<String, Error> {
    house.core.access(scope, &named("jdoe"), token, WEEK).await.map(|(_, access)| access.app)
}

fn object(value: Value) -> Map<String, Value> {
    value.as_object().expect("an object").clone()
}

fn factor(number: &str) -> SecondFactor {
    let Address::Data(data) = data(number) else { unreachable!("data") };
    SecondFactor { id: None, data, recovery: Vec::new() }
}

#[tokio::test]
async fn a_person_is_made_once_in_whatever_spelling_and_the_password_is_not_to_be_read() {
    let (house, scope) = house().await;
    let again = house.core.create_account(house.tenant.id, named("JDoe"), Secret::new(PASSWORD), "fr").await;
    assert_eq!(refusal(again), Refusal::NameTaken);
    for bad in ["", "seven 7", &"x".repeat(257)] {
        let made = house.core.create_account(house.tenant.id, named("eve"), Secret::new(bad), "en").await;
        assert!(matches!(refusal(made), Refusal::SettingBad(_)), "{bad:?}");
        let changed = house.core.change_password(house.tenant.id, &named("jdoe"), Secret::new(bad)).await;
        assert!(matches!(refusal(changed), Refusal::SettingBad(_)), "{bad:?}");
    }
    let of = scope.tenant.keys.fingerprint("user", &[b"", b"jdoe"]);
    let kept = house.store.find(house.tenant.id, Key::UserNamed(of)).await.unwrap().expect("there");
    let shown = format!("{kept:?}");
    assert!(!shown.contains("argon2id") && !shown.contains(PASSWORD), "{shown}");
    let Record::User(User { account: Some(account), .. }) = kept.noun else { panic!("a person with an account") };
    assert!(account.password.starts_with("$argon2id$v=19$m=19456,t=2,p=1$") && !account.password.contains(PASSWORD));
}

#[tokio::test]
async fn two_people_of_one_name_at_once_become_one() {
    let (house, _) = furnished(House::on(Arc::new(Far::default())).await).await;
    let make = |core: countersign_core::Core| {
        let tenant = house.tenant.id;
        tokio::spawn(async move { core.create_account(tenant, named("eve"), Secret::new(PASSWORD), "en").await })
    };
    let (one, two) = (make(house.core.clone()), make(house.node(false)));
    let made = [one.await.unwrap(), two.await.unwrap()];
    assert_eq!(made.iter().filter(|it| it.is_ok()).count(), 1);
    assert_eq!(refusal(made.into_iter().find(Result::is_err).unwrap()), Refusal::NameTaken);
}

#[tokio::test]
async fn a_password_is_right_wrong_or_of_nobody() {
    let (house, scope) = house().await;
    check(&house, &scope, "JDOE", PASSWORD, "home").await.unwrap();
    for wrong in ["", "correct hors", "Correct horse", &"x".repeat(100_000)] {
        assert_eq!(refusal(check(&house, &scope, "jdoe", wrong, "home").await), Refusal::PasswordWrong);
    }
    assert_eq!(refusal(check(&house, &scope, "eve", PASSWORD, "home").await), Refusal::UserUnknown);
    // Invariant 6: people of a client's realm, and of another tenant, are others.
    assert_eq!(refusal(check(&house, &house.scope, "jdoe", PASSWORD, "home").await), Refusal::UserUnknown);
    let elsewhere = Scope::of_tenant(house.another_tenant("elsewhere").await.tenant);
    assert_eq!(refusal(check(&house, &elsewhere, "jdoe", PASSWORD, "home").await), Refusal::UserUnknown);
    let denied = house.trail().await.into_iter().filter(|it| matches!(it, What::Denied { .. })).count();
    assert_eq!(denied, 4);
}

#[tokio::test]
async fn invariant_11_a_guesser_is_held_up_and_holds_up_nobody_else() {
    let (house, scope) = house().await;
    house.core.create_account(house.tenant.id, named("eve"), Secret::new(PASSWORD), "en").await.unwrap();
    for _ in 0..10 {
        assert_eq!(refusal(check(&house, &scope, "jdoe", "wrong password", "203.0.113.7").await), Refusal::PasswordWrong);
    }
    for spelling in ["jdoe", "JDoe", " JDOE "] {
        let said = refusal(check(&house, &scope, spelling, PASSWORD, "203.0.113.7").await);
        assert_eq!(said, Refusal::TriesExhausted { until: NOON + Duration::from_secs(1800) }, "not even the right one");
    }
    check(&house, &scope, "jdoe", PASSWORD, "198.51.100.1").await.expect("the person comes from elsewhere");
    check(&house, &scope, "eve", PASSWORD, "203.0.113.7").await.expect("another person behind the same door");
    let said = check(&house, &scope, "jdoe", PASSWORD, "203.0.113.7").await;
    assert!(matches!(refusal(said), Refusal::TriesExhausted { .. }), "that the person was there helps the guesser nothing");
    // The codes of the person are as they were: passwords lock no factor.
    house.ask("jdoe", "+918212345212").await.unwrap();
    house.pass(1800);
    check(&house, &scope, "jdoe", PASSWORD, "203.0.113.7").await.unwrap();
}

#[tokio::test]
async fn a_right_password_clears_the_tries_of_its_place() {
    let (house, scope) = house().await;
    for _ in 0..3 {
        for _ in 0..9 {
            assert_eq!(refusal(check(&house, &scope, "jdoe", "wrong password", "home").await), Refusal::PasswordWrong);
        }
        check(&house, &scope, "jdoe", PASSWORD, "home").await.unwrap();
    }
}

#[tokio::test]
async fn invariant_2_a_hundred_guesses_at_once_are_judged_ten_times() {
    let (house, scope) = house().await;
    let guesses: Vec<_> = (0..100)
        .map(|_| {
            let (house, scope) = (house.clone(), scope.clone());
            tokio::spawn(async move { check(&house, &scope, "jdoe", "wrong password", "home").await })
        })
        .collect();
    let mut judged = 0;
    for guess in guesses {
        judged += u32::from(refusal(guess.await.unwrap()) == Refusal::PasswordWrong);
    }
    assert_eq!(judged, 10);
}

#[tokio::test]
async fn another_password_replaces_the_first_and_leaves_who_is_logged_in() {
    let (house, scope) = house().await;
    let token = log_in(&house, &scope, "app").await;
    house.core.change_password(house.tenant.id, &named("JDoe"), Secret::new("battery staple")).await.unwrap();
    assert_eq!(refusal(check(&house, &scope, "jdoe", PASSWORD, "home").await), Refusal::PasswordWrong);
    check(&house, &scope, "jdoe", "battery staple", "home").await.unwrap();
    assert_eq!(access(&house, &scope, &token).await.unwrap(), "app");
    let nobody = house.core.change_password(house.tenant.id, &named("eve"), Secret::new("battery staple")).await;
    assert_eq!(refusal(nobody), Refusal::UserUnknown);
}

#[tokio::test]
async fn the_same_application_gets_the_same_token_and_another_one_another() {
    let (house, scope) = house().await;
    let token = log_in(&house, &scope, "app").await;
    assert!(token.reveal().len() == 25 && token.reveal().bytes().all(|it| it.is_ascii_lowercase() || it.is_ascii_digit()));
    assert_eq!(log_in(&house, &scope, "app").await, token);
    let other = log_in(&house, &scope, "other").await;
    assert_ne!(other, token);
    assert_eq!(
        (access(&house, &scope, &token).await.unwrap(), access(&house, &scope, &other).await.unwrap()),
        ("app".into(), "other".into())
    );
    // Two nodes at once.
    let (node, who) = (house.node(false), named("jdoe"));
    let both = (passage(&house, &scope).await, passage(&house, &scope).await);
    let (one, two) = tokio::join!(house.core.log_in(&scope, &who, both.0, "third", WEEK), node.log_in(&scope, &who, both.1, "third", WEEK));
    assert_eq!(one.unwrap().token, two.unwrap().token);
    let of_another = passage(&house, &scope).await;
    house.core.create_account(house.tenant.id, named("eve"), Secret::new(PASSWORD), "en").await.unwrap();
    assert_eq!(refusal(house.core.log_in(&scope, &named("eve"), of_another, "app", WEEK).await), Refusal::UserUnknown);
}

#[tokio::test]
async fn an_access_lives_on_with_every_use_and_ends_when_it_was_not_used_for_too_long() {
    let (house, scope) = house().await;
    let token = log_in(&house, &scope, "app").await;
    for _ in 0..30 {
        house.pass(86_400);
        access(&house, &scope, &token).await.unwrap();
    }
    house.pass(WEEK.as_secs() - 1);
    access(&house, &scope, &token).await.unwrap();
    house.pass(WEEK.as_secs());
    assert_eq!(refusal(access(&house, &scope, &token).await), Refusal::AccessOver);
    let new = log_in(&house, &scope, "app").await;
    assert_ne!(new, token, "what is over stays over");
    access(&house, &scope, &new).await.unwrap();
    assert!(access(&house, &scope, &token).await.is_err());
    assert_eq!(refusal(access(&house, &scope, &Secret::new("never was")).await), Refusal::AccessUnknown);
    assert_eq!(refusal(house.core.access(&scope, &named("eve"), &new, WEEK).await.map(drop)), Refusal::UserUnknown);
}

#[tokio::test]
async fn a_use_is_written_down_now_and_then_and_not_every_time() {
    let (house, scope) = house().await;
    let token = log_in(&house, &scope, "app").await;
    let of = scope.tenant.keys.fingerprint("user", &[b"", b"jdoe"]);
    let version = async || house.store.find(house.tenant.id, Key::UserNamed(of)).await.unwrap().expect("there").version;
    let before = version().await;
    for _ in 0..100 {
        access(&house, &scope, &token).await.unwrap();
    }
    assert_eq!(version().await, before);
    house.pass(WEEK.as_secs() / 14);
    access(&house, &scope, &token).await.unwrap();
    assert_eq!(version().await, before + 1);
}

#[tokio::test]
async fn who_has_logged_out_is_out_and_a_token_that_ended_is_told_from_one_that_never_was() {
    let (house, scope) = house().await;
    let (token, other) = (log_in(&house, &scope, "app").await, log_in(&house, &scope, "other").await);
    house.core.log_out(&scope, &named("jdoe"), &token).await.unwrap();
    assert_eq!(refusal(access(&house, &scope, &token).await), Refusal::AccessOver);
    access(&house, &scope, &other).await.unwrap();
    assert_eq!(refusal(house.core.log_out(&scope, &named("jdoe"), &Secret::new("never was")).await), Refusal::AccessUnknown);
    assert_ne!(log_in(&house, &scope, "app").await, token);
    assert!(access(&house, &scope, &token).await.is_err(), "a new log-in brings no old one back");
}

#[tokio::test]
async fn beyond_64_applications_the_longest_unused_is_logged_out() {
    let (house, scope) = house().await;
    let mut tokens = Vec::new();
    for at in 0..64 {
        tokens.push(log_in(&house, &scope, &format!("app {at}")).await);
        house.pass(1);
    }
    house.pass(WEEK.as_secs() / 2);
    access(&house, &scope, &tokens[0]).await.expect("the first one is in use");
    let one_more = log_in(&house, &scope, "one more").await;
    access(&house, &scope, &one_more).await.unwrap();
    access(&house, &scope, &tokens[0]).await.unwrap();
    assert_eq!(refusal(access(&house, &scope, &tokens[1]).await), Refusal::AccessUnknown);
    access(&house, &scope, &tokens[2]).await.unwrap();
}

#[tokio::test]
async fn who_has_logged_out_takes_the_place_of_nobody_who_is_in() {
    let (house, scope) = house().await;
    let in_use = log_in(&house, &scope, "in use").await;
    for at in 0..200 {
        house.pass(1);
        let token = log_in(&house, &scope, &format!("app {at}")).await;
        house.core.log_out(&scope, &named("jdoe"), &token).await.unwrap();
    }
    access(&house, &scope, &in_use).await.expect("it is the only one that is logged in");
}

#[tokio::test]
async fn a_profile_is_merged_by_name_and_kept_sealed() {
    let (house, scope) = house().await;
    let who = named("jdoe");
    let merge = |new: Value| house.core.merge_profile(&scope, &who, object(new));
    assert_eq!(house.core.profile(&scope, &who).await.unwrap(), Map::new());
    merge(json!({ "name": "Jane", "colour": { "hair": "red" }, "gone": 1 })).await.unwrap();
    let merged = merge(json!({ "colour": { "eyes": "green" }, "gone": null, "never": null })).await.unwrap();
    assert_eq!(merged, object(json!({ "name": "Jane", "colour": { "eyes": "green" } })));
    assert_eq!(house.core.profile(&scope, &who).await.unwrap(), merged);
    let large = merge(json!({ "x": "x".repeat(64 * 1024) })).await;
    assert!(matches!(refusal(large), Refusal::SettingBad(_)));
    assert_eq!(house.core.profile(&scope, &who).await.unwrap(), merged, "and nothing of it is kept");
    let of = scope.tenant.keys.fingerprint("user", &[b"", b"jdoe"]);
    let kept = house.store.find(house.tenant.id, Key::UserNamed(of)).await.unwrap().expect("there");
    assert!(!format!("{kept:?}").contains("Jane"));
    assert_eq!(refusal(house.core.profile(&scope, &named("eve")).await), Refusal::UserUnknown);
}

#[tokio::test]
async fn what_many_put_into_a_profile_at_once_is_all_there() {
    let (house, scope) = furnished(House::on(Arc::new(Far::default())).await).await;
    let writers: Vec<_> = (0..8)
        .map(|at| {
            let (core, scope) = (if at % 2 == 0 { house.core.clone() } else { house.node(false) }, scope.clone());
            tokio::spawn(async move {
                for turn in 0..4 {
                    core.merge_profile(&scope, &named("jdoe"), object(json!({ format!("{at}-{turn}"): turn }))).await.unwrap();
                }
            })
        })
        .collect();
    // Log-ins change the same record all the while.
    for at in 0..16 {
        log_in(&house, &scope, &format!("app {at}")).await;
    }
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(house.core.profile(&scope, &named("jdoe")).await.unwrap().len(), 32);
    assert_eq!(log_in(&house, &scope, "app 0").await, log_in(&house, &scope, "app 0").await);
}

#[tokio::test]
async fn a_person_has_one_second_factor_and_the_new_one_takes_the_place_of_the_old() {
    let (house, scope) = house().await;
    let who = named("jdoe");
    assert!(house.core.second_factor(&scope, &who).await.unwrap().is_none());
    assert!(!house.core.remove_second_factor(&scope, &who).await.unwrap());
    let (told, recovery) = house.core.draw_recovery_codes(&scope, &who);
    house.core.put_second_factor(&scope, &who, SecondFactor { recovery, ..factor("1") }).await.unwrap();
    house.core.put_second_factor(&scope, &who, factor("2")).await.unwrap();
    let kept = house.core.second_factor(&scope, &who).await.unwrap().expect("there is one");
    assert!(kept.data == factor("2").data && kept.recovery.is_empty(), "and the old codes are gone");
    assert!(!house.core.try_recovery(&scope, &who, &kept.recovery, &told[0]).await.unwrap());
    // Two at once leave one.
    let (one, two) =
        tokio::join!(house.core.put_second_factor(&scope, &who, factor("3")), house.core.put_second_factor(&scope, &who, factor("4")));
    one.unwrap();
    two.unwrap();
    assert!(house.core.remove_second_factor(&scope, &who).await.unwrap());
    assert!(house.core.second_factor(&scope, &who).await.unwrap().is_none());
    assert!(!house.core.remove_second_factor(&scope, &who).await.unwrap(), "nothing was behind it");
    let trail = house.trail().await;
    let (enrolled, removed) = trail.iter().fold((0, 0), |(enrolled, removed), it| match it {
        What::Enrolled { .. } => (enrolled + 1, removed),
        What::Removed { .. } => (enrolled, removed + 1),
        _ => (enrolled, removed),
    });
    assert_eq!((enrolled, removed), (4, 4));
    assert_eq!(refusal(house.core.put_second_factor(&scope, &named("eve"), factor("1")).await), Refusal::UserUnknown);
}

#[tokio::test]
async fn a_second_factor_and_an_authenticator_do_not_stand_in_each_others_way() {
    let (house, scope) = house().await;
    let who = named("jdoe");
    let enrolling = house.core.enroll_totp(&scope, who.clone(), "phone").await.unwrap();
    house.core.put_second_factor(&scope, &who, factor("1")).await.unwrap();
    assert!(house.core.remove_second_factor(&scope, &who).await.unwrap());
    assert!(!house.core.remove_second_factor(&scope, &who).await.unwrap());
    let said = house.core.activate(&scope, &who, enrolling.challenge, "000000").await;
    assert!(said.is_ok(), "the device is still there: {said:?}");
}

#[tokio::test]
async fn a_person_who_is_removed_is_gone_with_everything() {
    let (house, scope) = house().await;
    let who = named("jdoe");
    let (token, before) = (log_in(&house, &scope, "app").await, passage(&house, &scope).await);
    house.core.put_second_factor(&scope, &who, factor("1")).await.unwrap();
    house.core.merge_profile(&scope, &who, object(json!({ "name": "Jane" }))).await.unwrap();
    assert_eq!(refusal(house.core.remove_account(house.tenant.id, &named("eve")).await), Refusal::UserUnknown);
    house.core.remove_account(house.tenant.id, &named("JDOE")).await.unwrap();
    assert_eq!(refusal(house.core.remove_account(house.tenant.id, &who).await), Refusal::UserUnknown);
    assert_eq!(refusal(check(&house, &scope, "jdoe", PASSWORD, "home").await), Refusal::UserUnknown);
    assert_eq!(refusal(access(&house, &scope, &token).await), Refusal::UserUnknown);
    assert_eq!(refusal(house.core.log_in(&scope, &who, before, "app", WEEK).await), Refusal::UserUnknown);
    // Who is made anew under the name is somebody else.
    house.core.create_account(house.tenant.id, who.clone(), Secret::new("battery staple"), "en").await.unwrap();
    assert!(house.core.second_factor(&scope, &who).await.unwrap().is_none());
    assert_eq!(house.core.profile(&scope, &who).await.unwrap(), Map::new());
    assert_eq!(refusal(access(&house, &scope, &token).await), Refusal::AccessUnknown);
    assert_eq!(refusal(check(&house, &scope, "jdoe", PASSWORD, "home").await), Refusal::PasswordWrong);
}

#[tokio::test]
async fn the_data_of_a_second_factor_are_not_to_be_read() {
    let (house, scope) = house().await;
    let who = named("jdoe");
    let data = Variables::of([("number".to_owned(), "41799999999".into())]);
    house.core.put_second_factor(&scope, &who, SecondFactor { id: None, data, recovery: Vec::new() }).await.unwrap();
    let of = scope.tenant.keys.fingerprint("user", &[b"", b"jdoe"]);
    let Some(countersign_core::ports::Record::User(user)) =
        house.store.find(house.tenant.id, Key::UserNamed(of)).await.unwrap().map(|it| it.noun)
    else {
        panic!("there")
    };
    let factors = house.store.factors_of(house.tenant.id, user.id).await.unwrap();
    assert!(factors.len() == 1 && !format!("{factors:?}").contains("41799999999"));
}

#[tokio::test]
async fn invariant_11_without_the_password_nobody_begins_to_lock_a_person() {
    // A sign-in is begun by whoever has shown the first factor: the core takes a dialect's word for it, and counts nothing before.
    let (house, scope) = house().await;
    let (who, guess) = (named("jdoe"), Secret::new("guess"));
    for _ in 0..50 {
        let said = house.core.prove_sign_in(&scope, &who, &guess, Finishes::Login, Offered::code("000000")).await;
        assert_eq!(refusal(said), Refusal::SignInUnknown);
    }
    assert!(!house.trail().await.iter().any(|it| matches!(it, What::Wrong { .. } | What::Spent { .. } | What::Denied { .. })));
    house.core.begin_sign_in(&scope, signing_in("jdoe", Finishes::Login)).await.unwrap();
}
