//! Administration.

use crate::house::{House, refusal};
use countersign_core::nouns::route::Route;
use countersign_core::nouns::tenant::Policy;
use countersign_core::verbs::manage::{ClientChange, NewClient, TenantChange};
use countersign_core::words::address::Channel;
use countersign_core::words::refusal::Refusal;
use countersign_core::words::secret::Secret;
use countersign_core::words::wording::Wording;
use serde_json::json;

fn client(name: &str) -> NewClient {
    NewClient { name: name.into(), client_id: None, secret: None, application: None, email_from: None }
}

#[tokio::test]
async fn a_secret_is_told_once_and_kept_as_a_hash() {
    let house = House::new().await;
    let (made, secret) = house.core.create_client(house.tenant.id, client("App")).await.unwrap();
    assert_eq!((made.client_id.len(), secret.reveal().len()), (9, 32));
    assert!(!serde_json::to_string(&made).unwrap().contains(secret.reveal()));
    house.core.authenticate(&made.client_id, &secret).await.unwrap();
    for wrong in ["", "x", &secret.reveal().to_lowercase()] {
        assert_eq!(refusal(house.core.authenticate(&made.client_id, &Secret::new(wrong)).await), Refusal::ClientUnknown);
    }
    assert_eq!(refusal(house.core.authenticate("nobody", &secret).await), Refusal::ClientUnknown);
}

#[tokio::test]
async fn a_rotated_secret_may_live_beside_the_new_one_until_the_next_time() {
    let house = House::new().await;
    let (made, first) = house.core.create_client(house.tenant.id, client("App")).await.unwrap();
    let second = house.core.rotate_client_secret(house.tenant.id, &made.client_id, true).await.unwrap();
    house.core.authenticate(&made.client_id, &first).await.unwrap();
    house.core.authenticate(&made.client_id, &second).await.unwrap();
    let third = house.core.rotate_client_secret(house.tenant.id, &made.client_id, false).await.unwrap();
    house.core.authenticate(&made.client_id, &third).await.unwrap();
    for gone in [first, second] {
        assert_eq!(refusal(house.core.authenticate(&made.client_id, &gone).await), Refusal::ClientUnknown);
    }
}

#[tokio::test]
async fn a_client_that_is_switched_off_or_removed_is_unknown() {
    let house = House::new().await;
    let (made, secret) = house.core.create_client(house.tenant.id, client("App")).await.unwrap();
    let off = ClientChange { disabled: Some(true), ..ClientChange::default() };
    house.core.change_client(house.tenant.id, &made.client_id, off).await.unwrap();
    assert_eq!(refusal(house.core.authenticate(&made.client_id, &secret).await), Refusal::ClientUnknown);
    assert_eq!(refusal(house.core.scope(house.tenant.id, made.id).await), Refusal::ClientUnknown);
    house.core.remove_client(house.tenant.id, &made.client_id).await.unwrap();
    assert_eq!(refusal(house.core.remove_client(house.tenant.id, &made.client_id).await), Refusal::Unknown("client"));
}

#[tokio::test]
async fn names_are_unique_where_they_must_be() {
    let house = House::new().await;
    assert_eq!(refusal(house.core.create_tenant("demo", "Other", Policy::default()).await), Refusal::NameTaken);
    let elsewhere = house.core.create_tenant("elsewhere", "Elsewhere", Policy::default()).await.unwrap();
    let taken = NewClient { client_id: Some(House::caller(&house.scope).client_id.clone()), ..client("Other") };
    assert_eq!(refusal(house.core.create_client(elsewhere.id, taken).await), Refusal::NameTaken, "in the whole house");
}

#[tokio::test]
async fn settings_out_of_range_are_refused_with_their_range() {
    let house = House::new().await;
    let change =
        |policy: Policy| house.core.change_tenant(house.tenant.id, TenantChange { policy: Some(policy), ..TenantChange::default() });
    for (policy, names) in [
        (Policy { code_length: 3, ..Policy::default() }, "code_length"),
        (Policy { code_lifetime_s: 601, ..Policy::default() }, "code_lifetime_s"),
        (Policy { attempts_in_a_row: 101, ..Policy::default() }, "attempts_in_a_row"),
        (Policy { region: Some("us".into()), ..Policy::default() }, "region"),
        (Policy { countries: vec!["+44".into()], ..Policy::default() }, "countries"),
    ] {
        match refusal(change(policy).await) {
            Refusal::SettingBad(sentence) => assert!(sentence.contains(names), "{sentence}"),
            other => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn a_route_names_providers_that_serve_its_channel_and_holds_them() {
    let house = House::new().await;
    let providers = house.core.providers(house.tenant.id).await.unwrap();
    let set =
        |routes: Vec<Route>| house.core.change_tenant(house.tenant.id, TenantChange { routes: Some(routes), ..TenantChange::default() });
    let route = |legs| Route { channel: Channel::Sms, destination: String::new(), legs };
    assert!(matches!(refusal(set(vec![route(Vec::new())]).await), Refusal::SettingBad(_)));
    let twice = vec![route(vec![providers[0].id]), route(vec![providers[1].id])];
    assert!(matches!(refusal(set(twice).await), Refusal::SettingBad(_)));
    assert!(matches!(refusal(house.core.remove_provider(house.tenant.id, "first").await), Refusal::SettingBad(_)), "still in a route");
    set(vec![route(vec![providers[1].id])]).await.unwrap();
    house.core.remove_provider(house.tenant.id, "first").await.unwrap();
}

#[tokio::test]
async fn what_a_dialect_is_told_stands_beside_the_rest_until_it_is_taken_away() {
    let house = House::new().await;
    let set = |dialect: &'static str, settings| house.core.set_dialect(house.tenant.id, dialect, settings);
    let before = house.core.tenant_named("demo").await.unwrap();
    set("one", Some(json!({"a": 1}))).await.unwrap();
    let both = set("two", Some(json!({"b": 2}))).await.unwrap();
    assert_eq!(both.dialects.iter().map(|(name, it)| format!("{name} {it}")).collect::<Vec<_>>(), [r#"one {"a":1}"#, r#"two {"b":2}"#]);
    assert_eq!((both.policy, both.routes, both.display_name), (before.policy, before.routes, before.display_name));
    assert_eq!(set("one", None).await.unwrap().dialects.len(), 1);
    assert_eq!(set("none", None).await.unwrap().dialects.len(), 1);
    let told = house.core.standing(house.tenant.id).await.unwrap().unwrap();
    assert_eq!(told.tenant.dialects["two"], json!({"b": 2}), "this node sees it at once");
    for (dialect, settings) in [("two", json!([1])), ("two", json!("x")), ("No Name", json!({}))] {
        assert!(matches!(refusal(set(dialect, Some(settings)).await), Refusal::SettingBad(_)));
    }
    let nowhere = countersign_core::words::id::TenantId::new(house.core.now(), &countersign_core::ports::test::Script::default());
    assert_eq!(refusal(house.core.set_dialect(nowhere, "two", None).await), Refusal::Unknown("tenant"));
}

#[tokio::test]
async fn words_that_do_not_say_the_code_are_refused() {
    let house = House::new().await;
    let put = |channel, subject: Option<&str>, text: &str| {
        let wording = Wording { subject: subject.map(str::to_owned), text: text.into(), html: None };
        house.core.put_template(house.tenant.id, None, "own", channel, wording)
    };
    for said in [
        put(Channel::Sms, None, "hello").await,
        put(Channel::Email, None, "{{ code }}").await,
        put(Channel::Sms, Some("s"), "{{ code }}").await,
    ] {
        assert!(matches!(refusal(said), Refusal::SettingBad(_)));
    }
    put(Channel::Email, Some("Code"), "{{ code }}").await.unwrap();
}

#[tokio::test]
async fn retention_removes_what_is_over_and_keeps_the_count_of_wrong_codes() {
    let house = House::new().await;
    let (id, code) = house.open("jdoe").await;
    house.settle().await;
    house.answer(id, &crate::house::another(&code)).await.unwrap();
    house.pass(31 * 86_400);
    assert!(house.core.sweep().await.unwrap() >= 4, "challenge, delivery, limits, events");
    assert_eq!(house.core.sweep().await.unwrap(), 0);
    let (id, code) = house.open("jdoe").await;
    house.answer(id, &crate::house::another(&code)).await.unwrap();
    let last = house.answer(id, &crate::house::another(&code)).await.unwrap();
    assert_eq!(last, countersign_core::verbs::verify::Answered::LastWrong, "the one from a month ago still counts (invariant 2)");
}
