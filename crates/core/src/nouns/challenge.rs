//! Challenges: one request for proof each, from opening to its end.

use crate::nouns::totp::StepNumber;
use crate::nouns::user::Realm;
use crate::words::address::{Channel, Fingerprint};
use crate::words::id::{ChallengeId, DeliveryId, FactorId};
use crate::words::secret::Mac;
use crate::words::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::num::NonZeroU8;

/// A person was asked for proof; this is how far that has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Challenge {
    /// Its id.
    pub id: ChallengeId,
    /// Who may ask about it; to everybody else it is unknown (invariant 6).
    pub realm: Realm,
    /// By which way the person is asked.
    pub channel: Channel,
    /// Where wrong codes are counted (invariant 2): by person, and by address where we send the code. None for an enrolment, whose
    /// own attempts are all that there is.
    pub failures: Vec<Fingerprint>,
    /// What a right answer is good for.
    pub purpose: Purpose,
    /// How far it has come.
    pub stage: Stage,
}

/// What a right answer is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Purpose {
    /// The person proves to be present.
    Authenticate,
    /// The person proves to hold a new factor, which becomes active.
    Enroll(FactorId),
    /// The person goes on with a sign-in. Answers come by its token and by nothing else.
    SignIn(Fingerprint),
}

/// How far a challenge has come. Only an open one still holds what proves it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// It takes answers.
    Open {
        /// Wrong answers that it still takes, the last included.
        attempts_left: NonZeroU8,
        /// The first moment at which it takes none. A resend keeps it (invariant 3).
        expires_at: Timestamp,
        /// What proves it.
        proof: Proof,
    },
    /// A right answer came. There is one such moment (invariant 1).
    Passed {
        /// When.
        at: Timestamp,
    },
    /// Too many wrong answers came.
    Spent {
        /// When.
        at: Timestamp,
    },
    /// Its time was over before a right answer came.
    Expired {
        /// When that was noticed.
        at: Timestamp,
    },
    /// Nobody carried its message.
    Failed {
        /// When.
        at: Timestamp,
    },
}

/// What proves an open challenge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Proof {
    /// A code that we made: its keyed hash, and the message that carries it. One live code (invariant 3).
    Code {
        /// The keyed hash, bound to the challenge.
        mac: Mac,
        /// The delivery that holds, or held, the words.
        delivery: DeliveryId,
    },
    /// A value of the person's authenticator.
    Totp {
        /// Which of the person's factors.
        factor: FactorId,
    },
    /// A code that the provider made and checks.
    External {
        /// The delivery that asked the provider for it, and knows which provider that was.
        delivery: DeliveryId,
    },
}

/// What an answer turned out to be, worked out from the proof by whoever holds the keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// The code whose keyed hash this is.
    Code(Mac),
    /// The step of time whose value it is, if it is one that is not burnt.
    Step(Option<StepNumber>),
    /// Only the provider that made the code can tell. It counts as wrong until the provider has said otherwise: [`Challenge::proven`].
    Elsewhere,
}

/// What came of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Right. It can be said once per challenge.
    Passed,
    /// Wrong, and paid for.
    Wrong {
        /// How many more wrong answers it takes.
        attempts_left: NonZeroU8,
    },
    /// Wrong, and the last one: the challenge has just ended.
    LastWrong,
    /// The challenge has ended before: passed, spent or failed.
    Ended,
    /// The challenge's time was over.
    Expired,
}

impl Challenge {
    /// Judges an answer. The verdict comes together with the challenge as it is afterwards: whoever tells the one has the other to
    /// keep (invariant 2).
    #[must_use]
    pub fn answer(self, evidence: &Evidence, now: Timestamp) -> (Self, Verdict) {
        let Stage::Open { attempts_left, expires_at, proof } = &self.stage else { return (self, Verdict::Ended) };
        if now >= *expires_at {
            return (self.expired(now), Verdict::Expired);
        }
        let right = match (proof, evidence) {
            (Proof::Code { mac, .. }, Evidence::Code(given)) => mac == given,
            (Proof::Totp { .. }, Evidence::Step(step)) => step.is_some(),
            (Proof::Code { .. } | Proof::External { .. }, Evidence::Step(_)) => false,
            (Proof::Totp { .. } | Proof::External { .. }, Evidence::Code(_)) => false,
            (_, Evidence::Elsewhere) => false,
        };
        if right {
            return (Self { stage: Stage::Passed { at: now }, ..self }, Verdict::Passed);
        }
        match NonZeroU8::new(attempts_left.get() - 1) {
            Some(attempts_left) => {
                let stage = Stage::Open { attempts_left, expires_at: *expires_at, proof: proof.clone() };
                (Self { stage, ..self }, Verdict::Wrong { attempts_left })
            }
            None => (self.spent(now), Verdict::LastWrong),
        }
    }

    /// Whether answers to it are judged, be they in time or not.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Open { .. })
    }

    /// The challenge, over before a right answer came; one that has ended stays as it is.
    #[must_use]
    pub fn expired(self, now: Timestamp) -> Self {
        if self.is_open() { Self { stage: Stage::Expired { at: now }, ..self } } else { self }
    }

    /// The challenge after too many wrong answers.
    #[must_use]
    pub fn spent(self, now: Timestamp) -> Self {
        Self { stage: Stage::Spent { at: now }, ..self }
    }

    /// The challenge after the provider has said that an answer, which was paid for while it was open, was right; nothing when it has
    /// passed before, or came to another end (invariant 1). The answer may have been the last one that it took.
    #[must_use]
    pub fn proven(self, now: Timestamp) -> Option<Self> {
        match self.stage {
            Stage::Open { .. } | Stage::Spent { .. } => Some(Self { stage: Stage::Passed { at: now }, ..self }),
            Stage::Passed { .. } | Stage::Expired { .. } | Stage::Failed { .. } => None,
        }
    }

    /// The challenge after it turned out that an answer which was paid for reached nobody. One that is over stays so, also when that
    /// answer was its last: another challenge may be opened.
    #[must_use]
    pub fn given_back(self) -> Self {
        match self.stage {
            Stage::Open { attempts_left, expires_at, proof } => {
                Self { stage: Stage::Open { attempts_left: attempts_left.saturating_add(1), expires_at, proof }, ..self }
            }
            stage => Self { stage, ..self },
        }
    }

    /// The challenge with another code, of the same maker; the old one is void, the deadline and the attempts stay (invariants 2 and 3).
    #[must_use]
    pub fn recoded(self, proof: Proof) -> Self {
        match self.stage {
            Stage::Open { attempts_left, expires_at, proof: Proof::Code { .. } | Proof::External { .. } } => {
                Self { stage: Stage::Open { attempts_left, expires_at, proof }, ..self }
            }
            stage => Self { stage, ..self },
        }
    }

    /// The challenge after nobody carried the message of its live code; any other stays as it is.
    #[must_use]
    pub fn undelivered(self, which: DeliveryId, now: Timestamp) -> Self {
        if self.delivery() == Some(which) { Self { stage: Stage::Failed { at: now }, ..self } } else { self }
    }

    /// The delivery of its live code; none when it is not open, or nothing was sent for it.
    #[must_use]
    pub fn delivery(&self) -> Option<DeliveryId> {
        match &self.stage {
            Stage::Open { proof: Proof::Code { delivery, .. } | Proof::External { delivery }, .. } => Some(*delivery),
            _ => None,
        }
    }

    /// Whether `which` still carries the live code at `now`: nothing else is worth sending (invariants 3 and 5).
    #[must_use]
    pub fn awaits(&self, which: DeliveryId, now: Timestamp) -> bool {
        self.delivery() == Some(which) && matches!(&self.stage, Stage::Open { expires_at, .. } if now < *expires_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::test::Script;
    use crate::words::id::{ClientId, KeyId, TenantId};
    use crate::words::secret::{MasterKey, TenantKeys, WrappedKey};
    use proptest::prelude::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    fn open(attempts: u8) -> (Challenge, Evidence, Evidence) {
        let chance = Script::default();
        let master = MasterKey::draw(&chance);
        let tenant = TenantId::new(at(0), &chance);
        let keys =
            TenantKeys::open(tenant, &[WrappedKey::draw(tenant, KeyId::new(at(0), &chance), &master, &chance)], &master).expect("opens");
        let id = ChallengeId::new(at(0), &chance);
        let mac = keys.code(id, "523471");
        let stage = Stage::Open {
            attempts_left: NonZeroU8::new(attempts).expect("at least one"),
            expires_at: at(300),
            proof: Proof::Code { mac, delivery: DeliveryId::new(at(0), &chance) },
        };
        let challenge = Challenge {
            id,
            realm: Realm::Client(ClientId::new(at(0), &chance)),
            channel: Channel::Sms,
            failures: vec![keys.fingerprint("failures", &[b"jdoe"])],
            purpose: Purpose::Authenticate,
            stage,
        };
        (challenge, Evidence::Code(mac), Evidence::Code(keys.code(id, "000000")))
    }

    #[test]
    fn invariant_1_a_right_code_passes_once() {
        let (challenge, right, _) = open(3);
        let (challenge, verdict) = challenge.answer(&right, at(1));
        assert_eq!(verdict, Verdict::Passed);
        let (challenge, verdict) = challenge.answer(&right, at(2));
        assert_eq!((verdict, challenge.stage), (Verdict::Ended, Stage::Passed { at: at(1) }));
    }

    #[test]
    fn a_code_is_over_at_its_deadline_not_after_it() {
        let (challenge, right, _) = open(3);
        assert_eq!(challenge.clone().answer(&right, Timestamp::from_millis(299_999)).1, Verdict::Passed);
        assert_eq!(challenge.answer(&right, at(300)).1, Verdict::Expired);
    }

    #[test]
    fn invariant_3_a_resend_keeps_deadline_and_attempts_and_voids_the_old_code() {
        let (challenge, right, wrong) = open(3);
        let (challenge, _) = challenge.answer(&wrong, at(1));
        let Evidence::Code(new) = wrong else { unreachable!("a code") };
        let second = DeliveryId::new(at(2), &Script::default());
        let challenge = challenge.recoded(Proof::Code { mac: new, delivery: second });
        let Stage::Open { attempts_left, expires_at, .. } = &challenge.stage else { panic!("open") };
        assert_eq!((attempts_left.get(), *expires_at), (2, at(300)));
        assert!(matches!(challenge.clone().answer(&right, at(3)).1, Verdict::Wrong { .. }));
        assert_eq!(challenge.answer(&wrong, at(3)).1, Verdict::Passed);
    }

    #[test]
    fn invariant_1_an_expired_challenge_takes_no_right_code_and_a_passed_one_stays_passed() {
        let (challenge, right, _) = open(3);
        let (passed, _) = challenge.clone().answer(&right, at(1));
        assert_eq!(challenge.expired(at(2)).answer(&right, at(2)).1, Verdict::Ended);
        assert_eq!(passed.expired(at(2)).stage, Stage::Passed { at: at(1) });
    }

    /// A challenge whose code somebody else made and checks.
    fn of_theirs(attempts: u8) -> Challenge {
        let (mut challenge, ..) = open(attempts);
        if let Stage::Open { proof, .. } = &mut challenge.stage {
            *proof = Proof::External { delivery: DeliveryId::new(at(0), &Script::default()) };
        }
        challenge
    }

    #[test]
    fn what_somebody_else_judges_counts_as_wrong_until_they_have_said_otherwise() {
        let (challenge, verdict) = of_theirs(2).answer(&Evidence::Elsewhere, at(1));
        assert_eq!(verdict, Verdict::Wrong { attempts_left: NonZeroU8::new(1).expect("one") });
        let (challenge, verdict) = challenge.answer(&Evidence::Elsewhere, at(2));
        assert_eq!((verdict, &challenge.stage), (Verdict::LastWrong, &Stage::Spent { at: at(2) }));
        let passed = challenge.proven(at(3)).expect("the last one was right");
        assert_eq!(passed.stage, Stage::Passed { at: at(3) });
        assert_eq!(passed.proven(at(4)), None, "there is one such moment (invariant 1)");
    }

    #[test]
    fn a_code_of_ours_is_no_evidence_for_a_code_of_theirs_nor_the_other_way_round() {
        let (ours, right, _) = open(3);
        assert!(matches!(of_theirs(3).answer(&right, at(1)).1, Verdict::Wrong { .. }));
        assert!(matches!(of_theirs(3).answer(&Evidence::Step(None), at(1)).1, Verdict::Wrong { .. }));
        assert!(matches!(ours.answer(&Evidence::Elsewhere, at(1)).1, Verdict::Wrong { .. }));
    }

    #[test]
    fn what_came_to_another_end_is_not_proven_any_more() {
        let (paid, _) = of_theirs(3).answer(&Evidence::Elsewhere, at(1));
        let delivery = paid.delivery().expect("it is open");
        assert_eq!(paid.clone().expired(at(2)).proven(at(3)), None);
        assert_eq!(paid.undelivered(delivery, at(2)).proven(at(3)), None);
    }

    #[test]
    fn what_reached_nobody_is_given_back_while_it_is_open_and_only_then() {
        let (paid, _) = of_theirs(3).answer(&Evidence::Elsewhere, at(1));
        assert_eq!(paid.clone().given_back(), of_theirs(3));
        for over in [paid.clone().spent(at(2)), paid.clone().expired(at(2)), paid.proven(at(2)).expect("it was open")] {
            assert_eq!(over.clone().given_back(), over);
        }
    }

    #[test]
    fn invariant_3_another_code_of_theirs_keeps_deadline_and_attempts() {
        let (paid, _) = of_theirs(3).answer(&Evidence::Elsewhere, at(1));
        let (before, second) = (paid.delivery(), DeliveryId::new(at(2), &Script::default()));
        let again = paid.recoded(Proof::External { delivery: second });
        assert!(
            matches!(&again.stage, Stage::Open { attempts_left, expires_at, .. } if (attempts_left.get(), *expires_at) == (2, at(300)))
        );
        assert!(before != Some(second) && again.delivery() == Some(second));
        let over = again.spent(at(3));
        assert_eq!(over.clone().recoded(Proof::External { delivery: second }), over, "what is over gets none");
    }

    /// One of the things that happen to a challenge of theirs.
    #[derive(Debug, Clone, Copy)]
    enum Turn {
        Pays,
        IsRight,
        IsWrong,
        IsGivenBack,
        IsRecoded,
        Expires,
    }

    proptest! {
        /// Invariants 1 and 2 where somebody else judges: in whatever order answers are paid, judged and given back, one passes at the
        /// most, what is given back is one that was paid, and no more are judged than there are attempts.
        #[test]
        fn invariants_1_and_2_hold_for_every_order_of_paying_judging_and_giving_back(
            attempts in 1u8..=10,
            turns in prop::collection::vec(prop_oneof![
                6 => Just(Turn::Pays),
                1 => Just(Turn::IsRight),
                4 => Just(Turn::IsWrong),
                3 => Just(Turn::IsGivenBack),
                1 => Just(Turn::IsRecoded),
                1 => Just(Turn::Expires),
            ], 0..60),
        ) {
            let (mut challenge, mut in_flight, mut judged, mut passed) = (of_theirs(attempts), 0u8, 0u8, 0);
            for turn in turns {
                match turn {
                    Turn::Pays => {
                        let (next, verdict) = challenge.answer(&Evidence::Elsewhere, at(1));
                        challenge = next;
                        in_flight += u8::from(matches!(verdict, Verdict::Wrong { .. } | Verdict::LastWrong));
                        prop_assert!(verdict != Verdict::Passed, "only they can tell");
                    }
                    Turn::IsRight if in_flight > 0 => {
                        (in_flight, judged) = (in_flight - 1, judged + 1);
                        if let Some(next) = challenge.clone().proven(at(2)) {
                            (challenge, passed) = (next, passed + 1);
                        }
                    }
                    Turn::IsWrong if in_flight > 0 => (in_flight, judged) = (in_flight - 1, judged + 1),
                    Turn::IsGivenBack if in_flight > 0 => (in_flight, challenge) = (in_flight - 1, challenge.given_back()),
                    Turn::IsRecoded => challenge = challenge.recoded(Proof::External { delivery: DeliveryId::new(at(9), &Script::default()) }),
                    Turn::Expires => challenge = challenge.expired(at(3)),
                    Turn::IsRight | Turn::IsWrong | Turn::IsGivenBack => {}
                }
                prop_assert!(passed <= 1 && judged + in_flight <= attempts);
                if let Stage::Open { attempts_left, .. } = &challenge.stage {
                    prop_assert_eq!(attempts_left.get() + in_flight + judged, attempts, "nothing is lost and nothing is won");
                }
            }
        }
    }

    proptest! {
        /// Invariants 1 and 2: whatever comes in whatever order, it passes at most once, and no more wrong answers are
        /// judged than there are attempts.
        #[test]
        fn invariants_1_and_2_hold_for_every_order_of_answers(attempts in 1u8..=10, answers in prop::collection::vec((any::<bool>(), 0i64..400), 0..40)) {
            let (mut challenge, right, wrong) = open(attempts);
            let (mut passed, mut judged_wrong, mut now) = (0, 0, 0);
            for (is_right, later) in answers {
                now = now.max(later);
                let (next, verdict) = challenge.answer(if is_right { &right } else { &wrong }, at(now));
                challenge = next;
                match verdict {
                    Verdict::Passed => { passed += 1; prop_assert!(is_right && now < 300) }
                    Verdict::Wrong { .. } | Verdict::LastWrong => { judged_wrong += 1; prop_assert!(!is_right) }
                    Verdict::Ended | Verdict::Expired => {}
                }
            }
            prop_assert!(passed <= 1);
            prop_assert!(judged_wrong <= attempts);
        }
    }
}
