//! Limits: how often something may happen. They live in the store, beside what they limit, and change in the same
//! write; a limit that forgets on restart is none.

use crate::nouns::tenant::Policy;
use crate::words::address::Fingerprint;
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
    /// Messages to one person or one address.
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

/// Messages to one person or one address, in a window that begins with the first of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sends {
    taken: u16,
    over_at: Timestamp,
    blocked: bool,
}

impl Sends {
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
        }
    }

    /// The count after one that was paid for turned out to be none: nobody was asked. A lock that it closed is open again.
    #[must_use]
    pub fn one_less(self, policy: &Policy) -> Self {
        let closed_by_it = self.in_a_row > 0 && self.in_a_row.is_multiple_of(policy.attempts.get().into());
        let in_a_row = self.in_a_row.saturating_sub(1);
        Self { in_a_row, locked_until: if closed_by_it { None } else { self.locked_until }, disabled: in_a_row >= policy.attempts_in_a_row }
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
}
