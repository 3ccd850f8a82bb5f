//! Recovery codes.

use crate::house::{House, Whose, named, refusal, signing_in};
use countersign_core::nouns::event::What;
use countersign_core::nouns::sign_in::Finishes;
use countersign_core::verbs::verify::Answered;
use countersign_core::words::refusal::{Error, Refusal};
use countersign_core::words::secret::{KeptCode, Secret};
use std::collections::BTreeSet;

async fn recovers(house: &House, kept: &[KeptCode], code: &str) -> Result<bool, Error> {
    house.core.try_recovery(&house.scope, &named("jdoe"), kept, &Secret::new(code)).await
}

#[tokio::test]
async fn ten_codes_are_drawn_told_once_and_kept_as_hashes_that_fit_one_person() {
    let house = House::of(Whose::Ours).await;
    let (told, kept) = house.core.draw_recovery_codes(&house.scope, &named("jdoe"));
    let different: BTreeSet<&str> = told.iter().map(Secret::reveal).collect();
    assert_eq!((different.len(), kept.len()), (10, 10));
    for code in &told {
        let looks_right = code.reveal().len() == 36 && code.reveal().as_bytes()[14] == b'4';
        assert!(looks_right, "a UUID of version 4");
        assert!(kept.iter().all(|it| !it.reveal().contains(code.reveal())));
        assert!(recovers(&house, &kept, code.reveal()).await.unwrap());
    }
    let of_another = house.core.try_recovery(&house.scope, &named("eve"), &kept, &told[0]).await.unwrap();
    assert!(!of_another, "the hash is bound to the person");
    let spelled = house.core.try_recovery(&house.scope, &named("JDoe"), &kept, &told[0]).await.unwrap();
    assert!(spelled, "in whatever spelling");
    let trail = house.trail().await;
    assert_eq!(trail.iter().filter(|it| matches!(it, What::Recovered { .. })).count(), 11);
    assert_eq!(trail.iter().filter(|it| matches!(it, What::Denied { .. })).count(), 1);
}

#[tokio::test]
async fn codes_that_another_product_has_left_are_right_as_they_are_and_hashes_are_not() {
    let house = House::of(Whose::Ours).await;
    let plain = "1c1e19f5-a9ea-41f1-9a6d-a3e0c0e2c1a1";
    let (told, mut kept) = house.core.draw_recovery_codes(&house.scope, &named("jdoe"));
    kept.truncate(1);
    let hash = kept[0].reveal().to_owned();
    kept.extend([KeptCode::found(plain), KeptCode::found(""), KeptCode::found("countersign:nonsense")]);
    assert!(recovers(&house, &kept, plain).await.unwrap());
    assert!(recovers(&house, &kept, told[0].reveal()).await.unwrap());
    for wrong in [&hash, "", "countersign:nonsense", &plain[..35]] {
        // Who reads what is kept has not read a code.
        assert!(!recovers(&house, &kept, wrong).await.unwrap(), "{wrong:?}");
        assert!(recovers(&house, &kept, plain).await.unwrap(), "a right one clears the count");
    }
    let long = "x".repeat(257);
    assert!(!recovers(&house, &[KeptCode::found(long.as_str())], &long).await.unwrap(), "nobody compares a book");
}

#[tokio::test]
async fn invariant_2_wrong_ones_are_counted_with_the_wrong_codes_of_the_factor_and_locked_refuses() {
    for whose in [Whose::Ours, Whose::Theirs] {
        let house = House::of(whose).await;
        let (told, kept) = house.core.draw_recovery_codes(&house.scope, &named("jdoe"));
        let token = house.begin("jdoe", Finishes::Login).await;
        house.prove("jdoe", &token, "000000").await.unwrap();
        assert!(!recovers(&house, &kept, "no").await.unwrap());
        assert!(!recovers(&house, &kept, "no").await.unwrap());
        assert_eq!(house.failures().await, 3);
        let locked = refusal(recovers(&house, &kept, told[0].reveal()).await);
        assert!(matches!(locked, Refusal::Locked { until: Some(_) }), "even the right one");
        assert!(matches!(refusal(house.prove("jdoe", &token, &house.newest_code()).await), Refusal::Locked { .. }));
        house.pass(1800);
        assert!(recovers(&house, &kept, told[0].reveal()).await.unwrap());
        assert_eq!(house.failures().await, 0, "success clears the count");
        house.core.begin_sign_in_with_code(&house.scope, signing_in("jdoe", Finishes::Login)).await.expect("and the lock");
    }
}

#[tokio::test]
async fn invariant_2_two_hundred_wrong_ones_at_once_are_judged_three_times() {
    let house = std::sync::Arc::new(House::of(Whose::Ours).await);
    let (_, kept) = house.core.draw_recovery_codes(&house.scope, &named("jdoe"));
    let guesses: Vec<_> = (0..200)
        .map(|at| {
            let (house, kept) = (house.clone(), kept.clone());
            tokio::spawn(async move { recovers(&house, &kept, &format!("guess {at}")).await })
        })
        .collect();
    let mut judged = 0;
    for guess in guesses {
        match guess.await.unwrap() {
            Ok(is_right) => {
                assert!(!is_right);
                judged += 1;
            }
            other => assert!(matches!(refusal(other), Refusal::Locked { .. })),
        }
    }
    assert_eq!(judged, 3);
}

#[tokio::test]
async fn who_has_no_codes_recovers_nothing_and_pays() {
    let house = House::of(Whose::Ours).await;
    let token = house.begin("jdoe", Finishes::Login).await;
    assert!(!recovers(&house, &[], "no").await.unwrap());
    assert_eq!(house.failures().await, 1);
    assert_eq!(house.prove("jdoe", &token, &house.newest_code()).await.unwrap(), Answered::Passed);
}
