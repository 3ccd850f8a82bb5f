//! Restoring: what a backup may not bring back.
//!
//! Owns the rule, one record at a time. A backup is older than the house that it came from: a code that is open in it may have been
//! accepted since, a message that waits in it may have been sent, a value of an authenticator may have been taken. None of
//! that can be known, so none of it counts any more (invariants 1, 3 and 5). The engine carries the rule to every record before
//! anybody can ask about one.
//!
//! What cannot be made good is told to the operator (`docs/backup.md`): wrong codes that were counted since are forgotten.

use crate::nouns::delivery::DeliveryStage;
use crate::nouns::event::{Event, What};
use crate::nouns::factor::FactorKind;
use crate::nouns::sign_in::SignIn;
use crate::nouns::totp;
use crate::nouns::user::{Account, User};
use crate::ports::{Chance, Record};
use crate::words::id::EventId;
use crate::words::time::Timestamp;

/// What a restore has put an end to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ended {
    /// Challenges that were open.
    pub challenges: u64,
    /// Messages that waited.
    pub deliveries: u64,
    /// Authenticators of which no value up to now is taken any more.
    pub authenticators: u64,
    /// Sign-ins that were not finished, and people who were logged in.
    pub sign_ins: u64,
}

impl Ended {
    /// What is written into the audit trail of each tenant whose backup, made at `made_at`, was restored.
    #[must_use]
    pub fn event(self, made_at: Timestamp, now: Timestamp, chance: &dyn Chance) -> Event {
        let Self { challenges, deliveries, authenticators, sign_ins } = self;
        Event { id: EventId::new(now, chance), at: now, what: What::Restored { made_at, challenges, deliveries, authenticators, sign_ins } }
    }
}

/// The record as it may come back at `now`; nothing when it may come back as it is. Counts in `ended` what it puts an end to.
#[must_use]
pub fn restored(record: Record, now: Timestamp, ended: &mut Ended) -> Option<Record> {
    match record {
        Record::Challenge(it) if it.is_open() => {
            ended.challenges += 1;
            Some(Record::Challenge(it.expired(now)))
        }
        Record::Delivery(it) if it.due_at().is_some() => {
            ended.deliveries += 1;
            let why = "it waited in a backup that was restored".to_owned();
            Some(Record::Delivery(it.over(DeliveryStage::Failed { at: now, why })))
        }
        Record::Factor(it) => {
            ended.authenticators += u64::from(matches!(it.kind, FactorKind::Totp { .. }));
            let burnt = it.clone().burnt_up_to(totp::newest_at(now));
            (burnt.kind != it.kind).then_some(Record::Factor(burnt))
        }
        Record::SignIn(it) if now < it.over_at => {
            ended.sign_ins += 1;
            Some(Record::SignIn(SignIn { over_at: now, ..it }))
        }
        // Somebody may have logged out since.
        Record::User(User { account: Some(account), id, realm, login, named, created_at }) if !account.accesses.is_empty() => {
            ended.sign_ins += account.accesses.len() as u64;
            let account = Some(Account { accesses: Vec::new(), ..account });
            Some(Record::User(User { account, id, realm, login, named, created_at }))
        }
        // Everything else is what it was: people, their wrong codes, and what administrators have decided.
        Record::Challenge(_)
        | Record::Delivery(_)
        | Record::Tenant(_)
        | Record::Client(_)
        | Record::User(_)
        | Record::Limit(_)
        | Record::SignIn(_)
        | Record::Provider(_)
        | Record::Template(_) => None,
    }
}
