//! The model engine: the promises of the store port in the fewest words, in memory, for one process.
//!
//! It is what the other engines are compared with, and what tests and simulations of the rules stand on. Nothing in it survives
//! the process.

use countersign_core::nouns::event::Event;
use countersign_core::nouns::factor::Factor;
use countersign_core::ports::{
    Change, Health, Held, Judge, Key, Listed, Listing, Outcome, Pending, Record, Seen, Step, Store, Swept, Turn, Version, Write,
};
use countersign_core::words::id::{ChallengeId, DeliveryId, EventId, NodeId, TenantId, UserId};
use countersign_core::words::refusal::Fault;
use countersign_core::words::time::Timestamp;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard};

/// Everything, in memory.
#[derive(Debug, Default)]
pub struct Memory {
    tenants: Mutex<Tenants>,
    /// Counted while the tenants are held.
    stamp: AtomicI64,
    turns: Mutex<BTreeMap<&'static str, (NodeId, Timestamp)>>,
}

type Tenants = BTreeMap<TenantId, Rows>;

#[derive(Debug, Clone, Default)]
struct Rows {
    records: Vec<Held<Record>>,
    events: Vec<Event>,
}

impl Rows {
    fn find(&self, key: Key) -> Vec<Held<Record>> {
        let fits = |record: &Record| match (key, record) {
            (Key::UserNamed(named), Record::User(user)) => user.named == named,
            (Key::FactorsOf(user), Record::Factor(factor)) => factor.user == user,
            (key, record) => record.key() == key,
        };
        let mut found: Vec<_> = self.records.iter().filter(|held| fits(&held.noun)).cloned().collect();
        found.sort_by_key(|held| age(&held.noun));
        found
    }

    fn at(&self, key: Key, version: Version) -> Option<usize> {
        self.records.iter().position(|held| held.noun.key() == key && held.version == version)
    }
}

/// Ids are ordered by time, so this is the order of age.
fn age(record: &Record) -> String {
    format!("{:?}", record.key())
}

/// Two records that may not both be there.
fn collide(one: &Record, two: &Record) -> bool {
    match (one, two) {
        (Record::User(one), Record::User(two)) => one.named == two.named || one.id == two.id,
        (Record::Provider(one), Record::Provider(two)) => one.name == two.name || one.id == two.id,
        (Record::Template(one), Record::Template(two)) => {
            one.id == two.id
                || (one.realm, one.channel, one.name.to_ascii_lowercase()) == (two.realm, two.channel, two.name.to_ascii_lowercase())
        }
        (one, two) => one.key() == two.key(),
    }
}

/// Names that are unique in the whole house.
fn house_name(record: &Record) -> Option<(u8, &str)> {
    match record {
        Record::Tenant(it) => Some((0, &it.name)),
        Record::Client(it) => Some((1, &it.client_id)),
        _ => None,
    }
}

/// Why a change did not happen.
enum Not {
    Taken,
    Stale,
}

impl Memory {
    fn tenants(&self) -> MutexGuard<'_, Tenants> {
        self.tenants.lock().expect("nobody panics while holding it")
    }
}

fn apply(tenants: &mut Tenants, tenant: TenantId, change: Change, seen: &[Key]) -> Result<(), Not> {
    let mut rows = tenants.get(&tenant).cloned().unwrap_or_default();
    // Whether `record` would meet something that is not itself, here or under its name in the whole house.
    let is_met = |rows: &Rows, record: &Record, itself: Option<usize>| {
        let here = rows.records.iter().enumerate().any(|(at, it)| Some(at) != itself && collide(&it.noun, record));
        let elsewhere = |named| {
            let others = tenants.iter().filter(|(other, _)| **other != tenant).flat_map(|(_, rows)| &rows.records);
            let mine = rows.records.iter().enumerate().filter(|(at, _)| Some(*at) != itself).map(|(_, it)| it);
            others.chain(mine).any(|it| house_name(&it.noun) == Some(named))
        };
        here || house_name(record).is_some_and(elsewhere)
    };
    for write in change.writes {
        match write {
            Write::Insert(record) => {
                if is_met(&rows, &record, None) {
                    // What the judge saw to be absent came in between; what it never looked at is taken.
                    return Err(if seen.contains(&record.key()) { Not::Stale } else { Not::Taken });
                }
                rows.records.push(Held { noun: record, version: 1 });
            }
            Write::Replace(record, version) => {
                let at = rows.at(record.key(), version).ok_or(Not::Stale)?;
                if is_met(&rows, &record, Some(at)) {
                    return Err(Not::Taken);
                }
                rows.records[at] = Held { noun: record, version: version + 1 };
            }
            Write::Remove(key, version) => {
                let at = rows.at(key, version).ok_or(Not::Stale)?;
                rows.records.remove(at);
            }
        }
    }
    rows.events.extend(change.events);
    tenants.insert(tenant, rows);
    Ok(())
}

/// How often a judge is asked again before the store gives up.
const TRIES: usize = 8;

fn decide(tenants: &mut Tenants, stamp: &AtomicI64, tenant: TenantId, mut keys: Vec<Key>, judge: &mut Judge) -> Result<Outcome, Fault> {
    for _ in 0..TRIES {
        let look = |key: Key| tenants.get(&tenant).map(|rows| rows.find(key)).unwrap_or_default();
        let mut seen = Seen::default();
        keys.iter().for_each(|key| seen.note(*key, look(*key)));
        let change = loop {
            match judge(&mut seen) {
                Step::Write(change) => break change,
                Step::Look(more) => {
                    more.iter().for_each(|key| seen.note(*key, look(*key)));
                    keys.extend(more);
                }
            }
        };
        let counts = i64::from(change.configures());
        match apply(tenants, tenant, change, &keys) {
            Ok(()) => {
                stamp.fetch_add(counts, Ordering::SeqCst);
                return Ok(Outcome::Done);
            }
            Err(Not::Taken) => return Ok(Outcome::Taken),
            Err(Not::Stale) => {}
        }
    }
    Err(Fault::Contended)
}

/// What one step of retention removes at the most.
const SWEPT: u64 = 500;

fn ready<'a, T: Send + 'a>(value: T) -> Pending<'a, T> {
    Box::pin(std::future::ready(value))
}

impl Store for Memory {
    fn find(&self, tenant: TenantId, key: Key) -> Pending<'_, Result<Option<Held<Record>>, Fault>> {
        ready(Ok(self.tenants().get(&tenant).and_then(|rows| rows.find(key).into_iter().next())))
    }

    fn list(&self, listing: Listing) -> Pending<'_, Result<Vec<Listed>, Fault>> {
        let of = |tenant: &TenantId, record: &Record| match (&listing, record) {
            (Listing::Tenants, Record::Tenant(_)) => true,
            (Listing::TenantNamed(name), Record::Tenant(it)) => it.name == *name,
            (Listing::ClientNamed(name), Record::Client(it)) => it.client_id == *name,
            (Listing::Clients(of), Record::Client(_))
            | (Listing::Providers(of), Record::Provider(_))
            | (Listing::Templates(of), Record::Template(_)) => of == tenant,
            _ => false,
        };
        let tenants = self.tenants();
        let all = tenants.iter().flat_map(|(tenant, rows)| rows.records.iter().map(move |held| (tenant, held)));
        let mut found: Vec<Listed> = all
            .filter(|(tenant, held)| of(tenant, &held.noun))
            .map(|(tenant, held)| Listed { tenant: *tenant, held: held.clone() })
            .collect();
        found.sort_by_key(|it| age(&it.held.noun));
        if listing == Listing::Tenants {
            found.sort_by(|one, two| house_name(&one.held.noun).cmp(&house_name(&two.held.noun)));
        }
        ready(Ok(found))
    }

    fn stamp(&self) -> Pending<'_, Result<i64, Fault>> {
        let _tenants = self.tenants();
        ready(Ok(self.stamp.load(Ordering::SeqCst)))
    }

    fn factors_of(&self, tenant: TenantId, user: UserId) -> Pending<'_, Result<Vec<Held<Factor>>, Fault>> {
        let found = self.tenants().get(&tenant).map(|rows| rows.find(Key::FactorsOf(user))).unwrap_or_default();
        let factors = found.into_iter().filter_map(|held| match held.noun {
            Record::Factor(noun) => Some(Held { noun, version: held.version }),
            _ => None,
        });
        ready(Ok(factors.collect()))
    }

    fn events(&self, tenant: TenantId, before: Option<EventId>, most: u32) -> Pending<'_, Result<Vec<Event>, Fault>> {
        let mut events = self.tenants().get(&tenant).map(|rows| rows.events.clone()).unwrap_or_default();
        events.sort_by_key(|event| std::cmp::Reverse(event.id));
        events.retain(|event| before.is_none_or(|before| event.id < before));
        events.truncate(usize::try_from(most).unwrap_or(usize::MAX));
        ready(Ok(events))
    }

    fn decide(&self, tenant: TenantId, first: Vec<Key>, mut judge: Judge) -> Pending<'static, Result<Outcome, Fault>> {
        ready(decide(&mut self.tenants(), &self.stamp, tenant, first, &mut judge))
    }

    fn due(&self, now: Timestamp, most: u32) -> Pending<'_, Result<Vec<(TenantId, DeliveryId)>, Fault>> {
        let tenants = self.tenants();
        let all = tenants.iter().flat_map(|(tenant, rows)| rows.records.iter().map(move |held| (tenant, &held.noun)));
        let mut due: Vec<_> = all
            .filter_map(|(tenant, record)| match record {
                Record::Delivery(it) => it.due_at().filter(|due_at| *due_at <= now).map(|due_at| (due_at, *tenant, it.id)),
                _ => None,
            })
            .collect();
        due.sort();
        ready(Ok(due.into_iter().take(usize::try_from(most).unwrap_or(usize::MAX)).map(|(_, tenant, id)| (tenant, id)).collect()))
    }

    fn sweep(&self, tenant: TenantId, before: Timestamp, now: Timestamp) -> Pending<'_, Result<Swept, Fault>> {
        let mut tenants = self.tenants();
        let Some(rows) = tenants.get_mut(&tenant) else { return ready(Ok(Swept::default())) };
        let mut removed = 0;
        let mut goes = |is_over: bool| {
            let goes = is_over && removed < SWEPT;
            removed += u64::from(goes);
            !goes
        };
        rows.records.retain(|held| {
            goes(match &held.noun {
                Record::Challenge(it) => it.id < ChallengeId::floor(before),
                Record::Delivery(it) => it.due_at().is_none() && it.id < DeliveryId::floor(before),
                Record::Limit(it) => it.over_at().is_some_and(|over| over <= now),
                Record::SignIn(it) => it.over_at <= now,
                _ => false,
            })
        });
        rows.events.retain(|event| goes(event.id < EventId::floor(before)));
        ready(Ok(Swept { removed, more: removed == SWEPT }))
    }

    fn take_turn(&self, turn: Turn, node: NodeId, now: Timestamp, until: Timestamp) -> Pending<'_, Result<bool, Fault>> {
        let mut turns = self.turns.lock().expect("nobody panics while holding it");
        let is_free = turns.get(turn.as_str()).is_none_or(|(holder, until)| *holder == node || *until <= now);
        if is_free {
            turns.insert(turn.as_str(), (node, until));
        }
        ready(Ok(is_free))
    }

    fn health(&self) -> Pending<'_, Result<Health, Fault>> {
        let tenants = self.tenants();
        let records: Vec<_> = tenants.values().flat_map(|it| &it.records).collect();
        let queued = records.iter().filter(|it| matches!(&it.noun, Record::Delivery(it) if it.due_at().is_some())).count();
        let bytes = records.len() * std::mem::size_of::<Held<Record>>();
        ready(Ok(Health { engine: "memory".into(), schema: 1, queued: queued as u64, bytes: bytes as u64 }))
    }
}
