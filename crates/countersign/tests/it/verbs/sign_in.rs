//! Signing in: what a token is good for, and to whom, whoever makes the codes.

use crate::house::{Does, Far, House, Whose, another, away, data, named, refusal, signing_in};
use countersign_core::Scope;
use countersign_core::nouns::challenge::{Challenge, Stage};
use countersign_core::nouns::event::What;
use countersign_core::nouns::sign_in::{Baggage, Finishes};
use countersign_core::ports::{Key, SendError};
use countersign_core::verbs::request::Sent;
use countersign_core::verbs::sign_in::NewSignIn;
use countersign_core::verbs::sign_in::Proven;
use countersign_core::verbs::verify::Answered;
use countersign_core::words::address::Channel;
use countersign_core::words::refusal::Refusal;
use countersign_core::words::secret::{Offered, Secret};
use std::num::NonZeroU8;
use std::sync::Arc;
use std::time::Duration;

const BOTH: [Whose; 2] = [Whose::Ours, Whose::Theirs];

/// What is said to a wrong code that leaves so many more.
fn wrong(whose: Whose, left: u8) -> Answered {
    match (whose, NonZeroU8::new(left)) {
        (Whose::Ours, Some(attempts_left)) => Answered::Wrong { attempts_left },
        (Whose::Ours, None) => Answered::LastWrong,
        (Whose::Theirs, attempts_left) => Answered::Declined { attempts_left },
    }
}

/// Those that still take answers at the present moment.
async fn open(house: &House) -> Vec<Challenge> {
    let now = house.core.now();
    let all = house.challenges().await.into_iter();
    all.filter(|it| matches!(it.stage, Stage::Open { expires_at, .. } if now < expires_at)).collect()
}

#[tokio::test]
async fn invariant_1_a_right_code_finishes_a_log_in_and_its_token_is_gone() {
    for whose in BOTH {
        let house = House::of(whose).await;
        let token = house.begin("jdoe", Finishes::Login).await;
        let code = house.newest_code();
        let proven = house.core.prove_sign_in(&house.scope, &named("JDoe"), &token, Finishes::Login, Offered::code(&code)).await;
        let Proven { answered, baggage, passage } = proven.unwrap();
        assert!(passage.is_none(), "it is nobody's account of ours");
        assert_eq!((answered, baggage), (Answered::Passed, signing_in("jdoe", Finishes::Login).baggage), "it carries what it was given");
        assert_eq!(refusal(house.prove("jdoe", &token, &code).await), Refusal::SignInUnknown);
        assert_eq!(refusal(house.core.challenge_sign_in(&house.scope, &named("jdoe"), &token).await), Refusal::SignInUnknown);
        let trail = house.trail().await;
        assert!(trail.iter().any(|it| matches!(it, What::Passed { .. })), "{trail:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invariant_1_of_64_right_answers_at_once_on_two_nodes_one_passes() {
    for whose in BOTH {
        let house = Arc::new(House::of(whose).await);
        let token = house.begin("jdoe", Finishes::Login).await;
        let nodes = [house.core.clone(), house.node(false)];
        let answers: Vec<_> = (0..64)
            .map(|at| {
                let (node, scope, token, code) = (nodes[at % 2].clone(), house.scope.clone(), token.clone(), house.newest_code());
                tokio::spawn(async move {
                    node.prove_sign_in(&scope, &named("jdoe"), &token, Finishes::Login, Offered::code(&code)).await.map(|it| it.answered)
                })
            })
            .collect();
        let mut passed = 0;
        for answer in answers {
            match answer.await.unwrap() {
                Ok(Answered::Passed) => passed += 1,
                Ok(Answered::Over) => {}
                other => assert!(matches!(refusal(other), Refusal::SignInUnknown | Refusal::Locked { .. })),
            }
        }
        assert_eq!(passed, 1, "{whose:?}");
        assert_eq!(house.failures().await, 0, "and nothing is left to count");
    }
}

#[tokio::test]
async fn three_wrong_codes_end_the_sign_in_and_lock_the_person() {
    for whose in BOTH {
        let house = House::of(whose).await;
        let token = house.begin("jdoe", Finishes::Login).await;
        let code = house.newest_code();
        for left in [2, 1, 0] {
            assert_eq!(house.prove("jdoe", &token, &another(&code)).await.unwrap(), wrong(whose, left));
        }
        assert_eq!(refusal(house.prove("jdoe", &token, &code).await), Refusal::SignInUnknown, "the right code comes too late");
        let begun = house.core.begin_sign_in_with_code(&house.scope, signing_in("JDOE", Finishes::Login)).await;
        assert!(matches!(refusal(begun), Refusal::Locked { until: Some(_) }));
        house.begin("somebody-else", Finishes::Login).await;
        house.pass(1800);
        let token = house.begin("jdoe", Finishes::Login).await;
        assert_eq!(house.prove("jdoe", &token, &house.newest_code()).await.unwrap(), Answered::Passed);
    }
}

#[tokio::test]
async fn invariant_2_parallel_sign_ins_on_other_nodes_share_one_count() {
    for whose in BOTH {
        let house = House::of(whose).await;
        let mut begun = Vec::new();
        for _ in 0..4 {
            begun.push((house.begin("jdoe", Finishes::Login).await, house.newest_code()));
        }
        for ((token, code), left) in begun[..3].iter().zip([2, 2, 0]) {
            let offered = Offered::code(&another(code));
            let said = house.node(false).prove_sign_in(&house.scope, &named("jdoe"), token, Finishes::Login, offered).await;
            assert_eq!(said.unwrap().answered, wrong(whose, left), "the person's third one is the last");
        }
        let asked = house.told.checks.asked().len();
        let (token, code) = &begun[3];
        assert!(matches!(refusal(house.prove("jdoe", token, code).await), Refusal::Locked { .. }), "even the right one");
        assert_eq!(house.told.checks.asked().len(), asked, "and nobody is asked");
        let challenged = house.core.challenge_sign_in(&house.scope, &named("jdoe"), token).await;
        assert!(matches!(refusal(challenged), Refusal::Locked { .. }));
        house.pass(1800);
        house.core.challenge_sign_in(&house.scope, &named("jdoe"), token).await.unwrap();
        assert_eq!(house.prove("jdoe", token, &house.newest_code()).await.unwrap(), Answered::Passed, "it outlives the lock");
        assert_eq!(house.failures().await, 0, "success clears the count");
    }
}

#[tokio::test]
async fn invariant_2_another_challenge_of_a_sign_in_gives_back_no_attempts() {
    for whose in BOTH {
        let house = House::of(whose).await;
        let token = house.begin("jdoe", Finishes::Login).await;
        house.prove("jdoe", &token, &another(&house.newest_code())).await.unwrap();
        house.core.challenge_sign_in(&house.scope, &named("jdoe"), &token).await.unwrap();
        assert_eq!(house.prove("jdoe", &token, &another(&house.newest_code())).await.unwrap(), wrong(whose, 1), "after a resend");
        house.pass(300);
        house.core.challenge_sign_in(&house.scope, &named("jdoe"), &token).await.unwrap();
        assert_eq!(house.prove("jdoe", &token, &another(&house.newest_code())).await.unwrap(), wrong(whose, 0), "in a new challenge");
    }
}

#[tokio::test]
async fn invariant_6_a_token_of_somebody_else_is_unknown_and_costs_nothing() {
    for whose in BOTH {
        let house = House::of(whose).await;
        let token = house.begin("jdoe", Finishes::Login).await;
        let code = house.newest_code();
        let mut other_tenant = House::of(whose).await;
        other_tenant.scope = house.another_tenant("elsewhere").await;
        let other_client = house.client("Other").await;
        let whole_tenant = Scope::of_tenant(house.scope.tenant.clone());
        for (scope, login, token, purpose) in [
            (&house.scope, "eve", &token, Finishes::Login),
            (&house.scope, "jdoe", &token, Finishes::Activation),
            (&house.scope, "jdoe", &Secret::new("11111111-1111-4111-8111-111111111111"), Finishes::Login),
            (&house.scope, "jdoe", &Secret::new(""), Finishes::Login),
            (&other_tenant.scope, "jdoe", &token, Finishes::Login),
            (&other_client, "jdoe", &token, Finishes::Login),
            (&whole_tenant, "jdoe", &token, Finishes::Login),
        ] {
            let proven = house.core.prove_sign_in(scope, &named(login), token, purpose, Offered::code(&code)).await;
            assert_eq!(refusal(proven), Refusal::SignInUnknown, "{whose:?} {login} {purpose:?}");
            if purpose == Finishes::Login {
                assert_eq!(refusal(house.core.challenge_sign_in(scope, &named(login), token).await), Refusal::SignInUnknown);
            }
            // Nor can it be ended from elsewhere.
            if !std::ptr::eq(scope, &house.scope) {
                house.core.end_sign_in(scope, token).await.unwrap();
            }
        }
        assert!(house.told.checks.asked().is_empty());
        assert_eq!(house.failures().await, 0);
        assert_eq!(house.prove("jdoe", &token, &code).await.unwrap(), Answered::Passed);
    }
}

#[tokio::test]
async fn a_token_that_is_over_or_ended_is_unknown() {
    for whose in BOTH {
        let house = House::of(whose).await;
        let (ended, over) = (house.begin("jdoe", Finishes::Login).await, house.begin("jdoe", Finishes::Login).await);
        house.core.end_sign_in(&house.scope, &ended).await.unwrap();
        house.core.end_sign_in(&house.scope, &ended).await.expect("it is left as it is");
        let code = house.newest_code();
        assert_eq!(refusal(house.prove("jdoe", &ended, &code).await), Refusal::SignInUnknown);
        house.pass(3599);
        house.core.challenge_sign_in(&house.scope, &named("jdoe"), &over).await.unwrap();
        let code = house.newest_code();
        house.pass(1);
        assert_eq!(refusal(house.prove("jdoe", &over, &code).await), Refusal::SignInUnknown, "another code makes it no longer");
        assert_eq!(refusal(house.core.challenge_sign_in(&house.scope, &named("jdoe"), &over).await), Refusal::SignInUnknown);
        assert_eq!(house.core.sweep().await.unwrap() & 1, 1, "retention takes the one that is left");
    }
}

#[tokio::test]
async fn invariant_6_the_challenge_of_a_sign_in_is_answered_by_its_token_and_by_nothing_else() {
    for whose in BOTH {
        let house = House::of(whose).await;
        let token = house.begin("jdoe", Finishes::Login).await;
        let (id, code) = (house.challenges().await[0].id, house.newest_code());
        assert_eq!(refusal(house.answer(id, &code).await), Refusal::ChallengeUnknown);
        assert_eq!(refusal(house.core.resend(&house.scope, id).await), Refusal::ChallengeUnknown);
        assert_eq!(refusal(house.core.activate(&house.scope, &named("jdoe"), id, &code).await), Refusal::ChallengeUnknown);
        assert_eq!(house.prove("jdoe", &token, &code).await.unwrap(), Answered::Passed);
    }
}

#[tokio::test]
async fn invariant_3_another_code_keeps_the_deadline_and_voids_the_old_one() {
    for whose in BOTH {
        let house = House::of(whose).await;
        let token = house.begin("jdoe", Finishes::Login).await;
        let (old, before) = (house.newest_code(), house.challenges().await);
        house.settle().await;
        house.pass(200);
        assert_eq!(house.core.challenge_sign_in(&house.scope, &named("jdoe"), &token).await.unwrap(), Sent::Taken);
        let (new, after) = (house.newest_code(), house.challenges().await);
        let [Stage::Open { expires_at: until_before, .. }, Stage::Open { expires_at: until_after, .. }] =
            [&before[0].stage, &after[0].stage]
        else {
            panic!("open")
        };
        assert_eq!((until_before, after.len()), (until_after, 1));
        assert_ne!(old, new);
        assert_eq!(house.prove("jdoe", &token, &old).await.unwrap(), wrong(whose, 2));
        house.pass(99);
        assert_eq!(house.prove("jdoe", &token, &new).await.unwrap(), Answered::Passed);
    }
}

#[tokio::test]
async fn after_its_end_another_challenge_is_opened_within_the_same_sign_in() {
    for whose in BOTH {
        let house = House::of(whose).await;
        let token = house.begin("jdoe", Finishes::Login).await;
        let old = house.newest_code();
        house.pass(300);
        assert_eq!(house.prove("jdoe", &token, &old).await.unwrap(), Answered::Over);
        assert_eq!(house.core.challenge_sign_in(&house.scope, &named("jdoe"), &token).await.unwrap(), Sent::Taken);
        assert_eq!(house.challenges().await.len(), 2);
        assert_eq!(house.prove("jdoe", &token, &old).await.unwrap(), wrong(whose, 2));
        assert_eq!(house.prove("jdoe", &token, &house.newest_code()).await.unwrap(), Answered::Passed);
    }
}

#[tokio::test]
async fn a_code_that_nobody_carries_ends_its_challenge_and_not_the_sign_in() {
    for whose in BOTH {
        let house = House::of(whose).await;
        let token = house.begin("jdoe", Finishes::Login).await;
        house.settle().await;
        house.provider("one", Does::Fails(SendError::NoSuchAddress("status 404".into())));
        let said = house.core.challenge_sign_in(&house.scope, &named("jdoe"), &token).await;
        assert_eq!(refusal(said), Refusal::AddressUnreachable);
        assert!(open(&house).await.is_empty());
        house.provider("one", Does::Takes);
        house.core.challenge_sign_in(&house.scope, &named("jdoe"), &token).await.unwrap();
        assert_eq!(house.prove("jdoe", &token, &house.newest_code()).await.unwrap(), Answered::Passed);
    }
}

#[tokio::test]
async fn invariant_3_two_calls_at_once_for_a_code_leave_one_that_is_live() {
    for whose in BOTH {
        for had_one in [false, true] {
            let mut house = House::on(Arc::new(Far::default())).await;
            house.reaches(Channel::External, [("one", whose), ("two", whose)]).await;
            let token = if had_one {
                house.begin("jdoe", Finishes::Login).await
            } else {
                house.core.begin_sign_in(&house.scope, signing_in("jdoe", Finishes::Login)).await.unwrap()
            };
            house.settle().await;
            let (who, node) = (named("jdoe"), house.node(false));
            let sent = tokio::join!(
                house.core.challenge_sign_in(&house.scope, &who, &token),
                node.challenge_sign_in(&house.scope, &who, &token),
                house.core.challenge_sign_in(&house.scope, &who, &token),
            );
            let mut sent = [sent.0.unwrap(), sent.1.unwrap(), sent.2.unwrap()];
            sent.sort_by_key(|it| *it != Sent::Taken);
            assert_eq!(sent, [Sent::Taken, Sent::Queued, Sent::Queued], "one sends, and all say that a code comes");
            assert_eq!(open(&house).await.len(), 1);
            assert_eq!(house.challenges().await.len(), 1);
            assert_eq!(house.prove("jdoe", &token, &house.newest_code()).await.unwrap(), Answered::Passed);
        }
    }
}

#[tokio::test]
async fn before_a_code_was_sent_nothing_is_right_and_nobody_is_asked() {
    for whose in BOTH {
        let house = House::of(whose).await;
        let token = house.core.begin_sign_in(&house.scope, signing_in("jdoe", Finishes::Login)).await.unwrap();
        assert_eq!(house.prove("jdoe", &token, "123456").await.unwrap(), Answered::Over);
        assert!(house.told.checks.started().is_empty() && house.carried().is_empty(), "it begins without a word");
        house.provider("one", away());
        house.provider("two", away());
        let asked = house.core.challenge_sign_in(&house.scope, &named("jdoe"), &token).await;
        assert_eq!(refusal(asked), Refusal::DeliveryRefused);
        assert_eq!(house.prove("jdoe", &token, "123456").await.unwrap(), Answered::Over, "nobody has a code");
        assert!(house.told.checks.asked().is_empty());
        assert_eq!(house.failures().await, 0, "and nothing is paid");
        // The sign-in goes on, and whoever asks again gets a code.
        house.provider("one", Does::Takes);
        assert_eq!(house.core.challenge_sign_in(&house.scope, &named("jdoe"), &token).await.unwrap(), Sent::Taken);
        assert_eq!(house.prove("jdoe", &token, &house.newest_code()).await.unwrap(), Answered::Passed);
    }
}

#[tokio::test]
async fn an_activation_goes_on_until_it_is_ended_and_takes_no_second_answer() {
    for whose in BOTH {
        let house = House::of(whose).await;
        let token = house.begin("jdoe", Finishes::Activation).await;
        let code = house.newest_code();
        let prove = |code: String| {
            let (house, token) = (&house, &token);
            async move { house.prove_for("jdoe", token, Finishes::Activation, &code).await }
        };
        assert_eq!(prove(another(&code)).await.unwrap(), wrong(whose, 2));
        assert_eq!(prove(code.clone()).await.unwrap(), Answered::Passed);
        let asked = house.told.checks.asked().len();
        assert_eq!(prove(code.clone()).await.unwrap(), Answered::Over, "there is one such moment (invariant 1)");
        assert_eq!(prove(another(&code)).await.unwrap(), Answered::Over);
        assert_eq!((house.told.checks.asked().len(), house.failures().await), (asked, 0), "nobody is asked and nothing is paid");
        // What it is for could not be kept: another code may be asked for.
        house.core.challenge_sign_in(&house.scope, &named("jdoe"), &token).await.unwrap();
        assert_eq!(prove(house.newest_code()).await.unwrap(), Answered::Passed);
        house.core.end_sign_in(&house.scope, &token).await.unwrap();
        assert_eq!(refusal(prove(code).await), Refusal::SignInUnknown);
    }
}

#[tokio::test]
async fn three_wrong_codes_end_an_activation() {
    for whose in BOTH {
        let house = House::of(whose).await;
        let token = house.begin("jdoe", Finishes::Activation).await;
        for left in [2, 1, 0] {
            let said = house.prove_for("jdoe", &token, Finishes::Activation, &another(&house.newest_code())).await;
            assert_eq!(said.unwrap(), wrong(whose, left));
        }
        let said = house.prove_for("jdoe", &token, Finishes::Activation, &house.newest_code()).await;
        assert_eq!(refusal(said), Refusal::SignInUnknown);
    }
}

#[tokio::test]
async fn sends_are_limited_over_all_sign_ins_of_a_person() {
    for whose in BOTH {
        let house = House::of(whose).await;
        let mut token = house.begin("jdoe", Finishes::Login).await;
        for at in 1..10 {
            house.settle().await;
            if at % 2 == 0 {
                token = house.begin("JDOE", Finishes::Login).await;
            } else {
                house.core.challenge_sign_in(&house.scope, &named("jdoe"), &token).await.unwrap();
            }
        }
        house.settle().await;
        let again = house.core.challenge_sign_in(&house.scope, &named("jdoe"), &token).await;
        assert!(matches!(refusal(again), Refusal::SendsExhausted { .. }));
        let begun = house.core.begin_sign_in_with_code(&house.scope, signing_in("jdoe", Finishes::Activation)).await;
        assert!(matches!(refusal(begun), Refusal::SendsExhausted { .. }));
        // The address is counted as well, whoever is said to live there.
        let begun = house.core.begin_sign_in_with_code(&house.scope, signing_in("somebody-else", Finishes::Login)).await;
        assert!(matches!(refusal(begun), Refusal::SendsExhausted { .. }));
        assert_eq!(house.prove("jdoe", &token, &house.newest_code()).await.unwrap(), Answered::Passed, "the last code is good");
    }
}

#[tokio::test]
async fn where_no_code_could_be_sent_there_is_no_token() {
    for whose in BOTH {
        let house = House::of(whose).await;
        for name in ["one", "two"] {
            house.provider(name, Does::Fails(SendError::Refused("status 400".into())));
        }
        let begun = house.core.begin_sign_in_with_code(&house.scope, signing_in("jdoe", Finishes::Login)).await;
        assert_eq!(refusal(begun), Refusal::DeliveryRefused);
        assert!(open(&house).await.is_empty());
        // A house without a way to the person says so before anything is written.
        let bare = House::new().await;
        let begun = bare.core.begin_sign_in_with_code(&bare.scope, signing_in("jdoe", Finishes::Login)).await;
        assert_eq!(refusal(begun), Refusal::RouteMissing { channel: Channel::External });
        assert!(bare.challenges().await.is_empty());
    }
}

#[tokio::test]
async fn a_sign_in_begins_with_a_trail_and_without_a_trace_of_where_the_person_is() {
    let house = House::of(Whose::Ours).await;
    let baggage =
        Baggage { channel: Channel::External, to: data("41799999999"), account: None, more: serde_json::json!({ "token": "canary" }) };
    let new = NewSignIn { login: named("jdoe"), purpose: Finishes::Login, baggage, lasts: Duration::from_secs(60) };
    let token = house.core.begin_sign_in(&house.scope, new).await.unwrap();
    let trail = house.trail().await;
    assert!(trail.iter().any(|it| matches!(it, What::SignInBegun { finishes: Finishes::Login, .. })), "{trail:?}");
    // Invariant 7, as far as the store can tell: the token is kept as a hash, and the rest is sealed.
    let of = house.scope.tenant.keys.fingerprint("sign-in", &[house.scope.realm.as_bytes(), token.reveal().as_bytes()]);
    let kept = house.store.find(house.tenant.id, Key::SignIn(of)).await.unwrap().expect("it is there");
    let shown = format!("{kept:?} {trail:?}");
    for canary in ["41799999999", "canary", token.reveal()] {
        assert!(!shown.contains(canary), "{canary}");
    }
}

#[tokio::test]
async fn a_wrong_code_of_another_kind_of_factor_does_not_count_here() {
    let house = House::of(Whose::Ours).await;
    let (id, code) = house.open("jdoe").await;
    for _ in 0..3 {
        house.answer(id, &another(&code)).await.unwrap();
    }
    let token = house.begin("jdoe", Finishes::Login).await;
    assert_eq!(house.prove("jdoe", &token, &house.newest_code()).await.unwrap(), Answered::Passed);
}
