//! Limits: how often something may happen. They live in the store, beside what they limit, and change in the same
//! write; a limit that forgets on restart is none.

use crate::nouns::tenant::Policy;
use crate::words::address::Fingerprint;
use crate::words::id::EventId;
use crate::words::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A count, and what it is a count of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// The keyed hash of what is counted, and for what purpose.
    pub of: Fingerprint,
    /// The count.
    pub count: Count,
}

/// The two things that are counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Count {
    /// Messages to one person or one address, or tries of passwords.
    Sends(Sends),
    /// Wrong codes in a row, of one person with one kind of factor.
    Failures(Failures),
}

impl Limit {
    /// When nobody would miss it any more; never, for failures: only success or an administrator clears them (invariant 2).
    #[must_use]
    pub fn over_at(&self) -> Option<Timestamp> {
        match &self.count {
            Count::Sends(it) => Some(it.over_at),
            Count::Failures(_) => None,
        }
    }
}

/// Messages to one person or one address, or tries from one place, in a window that begins with the first of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sends {
    taken: u16,
    over_at: Timestamp,
    blocked: bool,
}

impl Sends {
    /// One fewer was taken.
    #[must_use]
    pub fn one_less(self) -> Self {
        Self { taken: self.taken.saturating_sub(1), ..self }
    }

    /// Takes one send out of what is left. Gives the new count and, where the send is refused, until when.
    pub fn take(before: Option<Self>, now: Timestamp, policy: &Policy) -> (Self, Result<(), Timestamp>) {
        let window = Duration::from_secs(policy.sends_window_s.into());
        let Some(it) = before.filter(|it| now < it.over_at) else {
            return (Self { taken: 1, over_at: now + window, blocked: false }, Ok(()));
        };
        if it.blocked {
            let until = it.over_at;
            return (it, Err(until));
        }
        if it.taken >= policy.sends {
            let until = now + Duration::from_secs(policy.sends_pause_s.into());
            return (Self { over_at: until, blocked: true, ..it }, Err(until));
        }
        (Self { taken: it.taken + 1, ..it }, Ok(()))
    }
}

/// Wrong codes in a row. Time alone never makes it smaller (invariant 2): a lock ends, the count stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failures {
    in_a_row: u16,
    locked_until: Option<Timestamp>,
    disabled: bool,
    /// The answer with which the present round of attempts began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    round: Option<EventId>,
}

/// Whether a factor takes answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lock {
    /// It does.
    Open,
    /// Not before then.
    Until(Timestamp),
    /// Not before an administrator opens it.
    Disabled,
}

impl Failures {
    /// Whether the factor takes answers at `now`.
    #[must_use]
    pub fn lock(&self, now: Timestamp) -> Lock {
        match self.locked_until {
            _ if self.disabled => Lock::Disabled,
            Some(until) if now < until => Lock::Until(until),
            _ => Lock::Open,
        }
    }

    /// One more wrong code. Each full round of `policy.attempts` locks; `policy.attempts_in_a_row` disables.
    #[must_use]
    pub fn one_more(self, now: Timestamp, policy: &Policy) -> Self {
        let in_a_row = self.in_a_row.saturating_add(1);
        let round_over = in_a_row.is_multiple_of(policy.attempts.get().into());
        Self {
            in_a_row,
            locked_until: if round_over { Some(now + policy.lock()) } else { self.locked_until },
            disabled: self.disabled || in_a_row >= policy.attempts_in_a_row,
            round: self.round,
        }
    }

    /// The count before `answer` is paid: where that begins a round, the round is called after it.
    #[must_use]
    pub fn begun_by(self, answer: EventId, policy: &Policy) -> Self {
        let begins = self.in_a_row.is_multiple_of(policy.attempts.get().into());
        Self { round: if begins { Some(answer) } else { self.round }, ..self }
    }

    /// The round in which the last answer was paid.
    #[must_use]
    pub fn round(&self) -> Option<EventId> {
        self.round
    }

    /// The count after an answer that was paid in `round` turned out to be none: nobody was asked. A lock that it closed is open again. When
    /// that round is over, or was cleared meanwhile, nothing changes: what is counted now was paid by others (invariant 2).
    #[must_use]
    pub fn one_less(self, round: Option<EventId>, policy: &Policy) -> Self {
        if round.is_none() || self.round != round || self.in_a_row == 0 {
            return self;
        }
        let closed_by_it = self.in_a_row.is_multiple_of(policy.attempts.get().into());
        let in_a_row = self.in_a_row - 1;
        let locked_until = if closed_by_it { None } else { self.locked_until };
        Self { in_a_row, locked_until, disabled: in_a_row >= policy.attempts_in_a_row, round }
    }

    /// Wrong codes since the last right one.
    #[must_use]
    pub fn in_a_row(&self) -> u16 {
        self.in_a_row
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::test::Script;
    use proptest::prelude::*;
    use std::num::NonZeroU8;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    #[test]
    fn ten_sends_in_five_minutes_then_a_pause_of_thirty() {
        let policy = Policy::default();
        let mut sends = None;
        for _ in 0..10 {
            let (next, taken) = Sends::take(sends, at(0), &policy);
            assert_eq!(taken, Ok(()));
            sends = Some(next);
        }
        let (blocked, refused) = Sends::take(sends, at(100), &policy);
        assert_eq!(refused, Err(at(1900)));
        let (blocked, refused) = Sends::take(Some(blocked), at(1000), &policy);
        assert_eq!(refused, Err(at(1900)), "asking again makes the pause no longer");
        assert_eq!(Sends::take(Some(blocked), at(1900), &policy).1, Ok(()));
    }

    #[test]
    fn a_window_that_is_over_is_forgotten() {
        let policy = Policy::default();
        let mut sends = None;
        for second in 0..100 {
            let (next, taken) = Sends::take(sends, at(second * 31), &policy);
            assert_eq!(taken, Ok(()), "ten in 310 s never fill a window of 300 s");
            sends = Some(next);
        }
    }

    #[test]
    fn every_third_failure_locks_and_the_end_of_a_lock_uncounts_nothing() {
        let policy = Policy::default();
        let mut failures = Failures::default();
        for round in 0..3 {
            let now = at(round * 10_000);
            failures = failures.one_more(now, &policy).one_more(now, &policy);
            assert_eq!(failures.lock(now), Lock::Open);
            failures = failures.one_more(now, &policy);
            assert_eq!(failures.lock(now), Lock::Until(now + policy.lock()));
            assert_eq!(failures.lock(now + policy.lock()), Lock::Open);
        }
        assert_eq!(failures.in_a_row(), 9);
    }

    #[test]
    fn a_hundred_failures_in_a_row_leave_it_to_an_administrator() {
        let policy = Policy::default();
        let mut failures = Failures::default();
        for failure in 0..100 {
            failures = failures.one_more(at(failure * 2000), &policy)
        }
        assert_eq!(failures.lock(at(10_000_000)), Lock::Disabled);
    }

    fn answer(chance: &Script) -> EventId {
        EventId::new(at(0), chance)
    }

    #[test]
    fn what_is_given_back_opens_the_lock_that_it_closed() {
        let (policy, chance) = (Policy::default(), Script::default());
        let paid = |count: Failures| count.begun_by(answer(&chance), &policy).one_more(at(0), &policy);
        let two = paid(paid(Failures::default()));
        let three = paid(two.clone());
        assert_eq!(three.lock(at(0)), Lock::Until(at(1800)));
        let round = three.round();
        assert_eq!(three.one_less(round, &policy), two);
    }

    #[test]
    fn nothing_is_given_back_out_of_another_round_or_out_of_a_count_that_was_cleared() {
        let (policy, chance) = (Policy::default(), Script::default());
        let paid = |count: Failures| count.begun_by(answer(&chance), &policy).one_more(at(0), &policy);
        let first = paid(Failures::default());
        let round = first.round();
        let anew = paid(Failures::default());
        assert_eq!(anew.clone().one_less(round, &policy), anew, "it was cleared");
        let fourth = paid(paid(paid(first)));
        assert_eq!(fourth.clone().one_less(round, &policy), fourth, "that round is over");
        assert_eq!(anew.clone().one_less(None, &policy), anew);
        assert_eq!(Failures::default().one_less(None, &policy), Failures::default(), "and none is less than none");
    }

    #[test]
    fn a_count_of_before_rounds_had_names_is_read() {
        let old: Failures = serde_json::from_str(r#"{"in_a_row":2,"locked_until":null,"disabled":false}"#).expect("reads");
        assert_eq!((old.in_a_row(), old.round()), (2, None));
    }

    /// One of the things that happen to answers which somebody else judges.
    #[derive(Debug, Clone)]
    enum Turn {
        Pays,
        IsWrong(prop::sample::Index),
        IsGivenBack(prop::sample::Index),
        IsRight(prop::sample::Index),
        LockEnds,
    }

    fn turns() -> impl Strategy<Value = Vec<Turn>> {
        let which = any::<prop::sample::Index>;
        let turn = prop_oneof![
            4 => Just(Turn::Pays),
            3 => which().prop_map(Turn::IsWrong),
            3 => which().prop_map(Turn::IsGivenBack),
            1 => which().prop_map(Turn::IsRight),
            1 => Just(Turn::LockEnds),
        ];
        prop::collection::vec(turn, 0..80)
    }

    proptest! {
        /// Invariant 2, where an answer is paid, judged by somebody else, and given back if it reached nobody: in whatever order that
        /// happens, the count holds every answer that was judged wrong, and between two locks no more are judged than the policy allows.
        #[test]
        fn invariant_2_holds_for_every_order_of_paying_judging_and_giving_back(attempts in 1u8..=5, turns in turns()) {
            let policy = Policy { attempts: NonZeroU8::new(attempts).expect("at least one"), ..Policy::default() };
            let (chance, mut now, mut count) = (Script::default(), at(0), Failures::default());
            // Since the last right answer, and since the last lock that ended.
            let (mut cleared, mut locks) = (0, 0);
            let mut in_flight: Vec<(Option<EventId>, u32, u32)> = Vec::new();
            let (mut wrong, mut judged): (u16, u8) = (0, 0);
            for turn in turns {
                let mut take = |index: prop::sample::Index| if in_flight.is_empty() { None } else { Some(in_flight.remove(index.index(in_flight.len()))) };
                match turn {
                    Turn::Pays if count.lock(now) == Lock::Open => {
                        count = count.begun_by(answer(&chance), &policy).one_more(now, &policy);
                        in_flight.push((count.round(), cleared, locks));
                    }
                    Turn::Pays => {}
                    Turn::IsWrong(which) => if let Some((_, when, lock)) = take(which) {
                        wrong += u16::from(when == cleared);
                        judged += u8::from((when, lock) == (cleared, locks));
                    },
                    Turn::IsGivenBack(which) => if let Some((round, ..)) = take(which) {
                        let before = count.clone();
                        count = count.one_less(round, &policy);
                        prop_assert!(before.in_a_row() - count.in_a_row() <= 1);
                    },
                    Turn::IsRight(which) => if take(which).is_some() {
                        (count, cleared, wrong, judged) = (Failures::default(), cleared + 1, 0, 0);
                    },
                    Turn::LockEnds => if let Lock::Until(until) = count.lock(now) {
                        (now, locks, judged) = (until, locks + 1, 0);
                    },
                }
                prop_assert!(count.in_a_row() >= wrong, "{count:?}, and {wrong} were judged wrong");
                prop_assert!(judged <= attempts, "{judged} were judged without a lock in between");
                prop_assert!(judged < attempts || count.lock(now) != Lock::Open, "the last one closes the lock");
            }
        }
    }
}
