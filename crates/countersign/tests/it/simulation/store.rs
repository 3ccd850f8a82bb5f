//! The simulated store: one database, and what each node sees of it over a wire that delays, loses and breaks.
//!
//! It keeps the promises of the port and not one more. A decision is read, judged and committed at three different moments, and the
//! commit looks only at what the change writes: whoever was faster in between sends the judge back to read again. What is on the wire
//! when a node dies is committed or not as it happens to arrive; an answer that is lost is a fault for the node, whatever became of
//! the change.

use super::executor::{Owner, Sim, Slot, within};
use super::laws::{Laws, Turned};
use super::weather::Weather;
use countersign_core::nouns::event::Event;
use countersign_core::nouns::factor::Factor;
use countersign_core::ports::{
    Change, Health, Held, Judge, Key, Listed, Listing, Outcome, Pending, Record, Seen, Step, Store, Swept, Turn, Write,
};
use countersign_core::words::id::{ChallengeId, DeliveryId, EventId, NodeId, TenantId, UserId};
use countersign_core::words::refusal::Fault;
use countersign_core::words::time::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Poll, Waker};
use std::time::Duration;

/// Where a record lies: by tenant, kind and the bytes of its id.
type Place = (TenantId, u8, [u8; 16]);

fn place(tenant: TenantId, key: Key) -> Place {
    let (kind, bytes) = match key {
        Key::Tenant => (0, *tenant.as_bytes()),
        Key::Client(id) => (1, *id.as_bytes()),
        Key::User(id) => (2, *id.as_bytes()),
        Key::UserNamed(of) => (3, *of.as_bytes()),
        Key::Factor(id) => (4, *id.as_bytes()),
        Key::FactorsOf(id) => (5, *id.as_bytes()),
        Key::Challenge(id) => (6, *id.as_bytes()),
        Key::Delivery(id) => (7, *id.as_bytes()),
        Key::Limit(of) => (8, *of.as_bytes()),
        Key::Provider(id) => (9, *id.as_bytes()),
        Key::Template(id) => (10, *id.as_bytes()),
        Key::SignIn(of) => (11, *of.as_bytes()),
    };
    (tenant, kind, bytes)
}

/// What is durable.
#[derive(Default)]
pub struct Table {
    rows: BTreeMap<Place, Held<Record>>,
    named: BTreeMap<Place, UserId>,
    queued: BTreeSet<(Timestamp, TenantId, DeliveryId)>,
    turns: BTreeMap<&'static str, (NodeId, Timestamp)>,
    stamp: i64,
}

enum Not {
    Stale,
    Taken,
}

impl Table {
    /// The record at `key`.
    pub fn get(&self, tenant: TenantId, key: Key) -> Option<&Record> {
        self.rows.get(&place(tenant, key)).map(|held| &held.noun)
    }

    /// When the next delivery is due.
    pub fn next_due(&self) -> Option<Timestamp> {
        self.queued.first().map(|it| it.0)
    }

    /// All records.
    pub fn all(&self) -> impl Iterator<Item = (TenantId, &Record)> {
        self.rows.iter().map(|((tenant, _, _), held)| (*tenant, &held.noun))
    }

    fn find(&self, tenant: TenantId, key: Key) -> Vec<Held<Record>> {
        match key {
            Key::UserNamed(_) => match self.named.get(&place(tenant, key)) {
                Some(id) => self.find(tenant, Key::User(*id)),
                None => Vec::new(),
            },
            Key::FactorsOf(user) => {
                let factors = self.rows.range((tenant, 4, [0; 16])..(tenant, 5, [0; 16])).map(|(_, held)| held);
                factors.filter(|held| matches!(&held.noun, Record::Factor(it) if it.user == user)).cloned().collect()
            }
            key => self.rows.get(&place(tenant, key)).cloned().into_iter().collect(),
        }
    }

    /// Whether an insert of `record` would meet its name.
    fn has_name(&self, tenant: TenantId, record: &Record) -> bool {
        match record {
            Record::User(it) => self.named.contains_key(&place(tenant, Key::UserNamed(it.named))),
            Record::Tenant(it) => self.all().any(|(_, other)| matches!(other, Record::Tenant(other) if other.name == it.name)),
            Record::Client(it) => self.all().any(|(_, other)| matches!(other, Record::Client(other) if other.client_id == it.client_id)),
            _ => false,
        }
    }

    fn check(&self, tenant: TenantId, change: &Change, seen: &[Key]) -> Result<(), Not> {
        let is_there = |key, version| self.rows.get(&place(tenant, key)).is_some_and(|held| held.version == version);
        for write in &change.writes {
            match write {
                Write::Insert(record) => {
                    if self.rows.contains_key(&place(tenant, record.key())) {
                        return Err(if seen.contains(&record.key()) { Not::Stale } else { Not::Taken });
                    }
                    if self.has_name(tenant, record) {
                        let looked = matches!(record, Record::User(it) if seen.contains(&Key::UserNamed(it.named)));
                        return Err(if looked { Not::Stale } else { Not::Taken });
                    }
                }
                Write::Replace(record, version) if is_there(record.key(), *version) => {}
                Write::Remove(key, version) if is_there(*key, *version) => {}
                Write::Replace(..) | Write::Remove(..) => return Err(Not::Stale),
            }
        }
        Ok(())
    }

    fn put(&mut self, tenant: TenantId, key: Key, held: Option<Held<Record>>) -> Option<Record> {
        if let Some(Held { noun: Record::User(it), .. }) = &held {
            self.named.insert(place(tenant, Key::UserNamed(it.named)), it.id);
        }
        let due = |record: &Record| match record {
            Record::Delivery(it) => it.due_at().map(|due_at| (due_at, tenant, it.id)),
            _ => None,
        };
        let after = held.as_ref().and_then(|held| due(&held.noun));
        let before = match held {
            Some(held) => self.rows.insert(place(tenant, key), held),
            None => self.rows.remove(&place(tenant, key)),
        };
        if let Some(it) = before.as_ref().and_then(|held| due(&held.noun)) {
            self.queued.remove(&it);
        }
        self.queued.extend(after);
        before.map(|held| held.noun)
    }
}

/// The database, which outlives every node.
#[derive(Clone)]
pub struct Base {
    pub sim: Sim,
    pub weather: Arc<Weather>,
    book: Arc<Mutex<Book>>,
}

/// What is kept, and the laws that watch it.
pub struct Book {
    pub table: Table,
    pub laws: Laws,
    out: Outages,
    waiting: Vec<Waker>,
}

/// Until when the database is away: for all, and for each node.
#[derive(Default)]
struct Outages {
    all: Option<Timestamp>,
    nodes: BTreeMap<usize, Timestamp>,
    /// Whether it hangs as long as it is away, or says at once that it is.
    hangs: bool,
}

impl Base {
    pub fn new(sim: Sim, weather: Arc<Weather>) -> Self {
        let laws = Laws::new(sim.clone(), weather.clone());
        let book = Book { table: Table::default(), laws, out: Outages::default(), waiting: Vec::new() };
        Self { sim, weather, book: Arc::new(Mutex::new(book)) }
    }

    pub fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap()
    }

    /// The database is away for a while: for one node, or for all.
    pub fn goes_out(&self, node: Option<usize>, span: Duration, hangs: bool) {
        let until = self.sim.now() + span;
        self.sim.note(format_args!("the store is away for {span:?} (node {node:?}, hangs: {hangs})"));
        let mut book = self.book();
        book.out.hangs = hangs;
        match node {
            Some(node) => _ = book.out.nodes.insert(node, until),
            None => book.out.all = Some(until),
        }
        book.laws.counts.outages += 1;
        drop(book);
        self.ring();
    }

    /// Until when the database is away for `node`.
    fn out_until(&self, node: usize) -> Option<Timestamp> {
        let (now, book) = (self.sim.now(), self.book());
        book.out.all.into_iter().chain(book.out.nodes.get(&node).copied()).max().filter(|until| now < *until)
    }

    /// Whether the database is away for `node`.
    pub fn is_out(&self, node: usize) -> bool {
        self.out_until(node).is_some()
    }

    /// Ready at the next change of the outbox, and when the database goes away.
    pub async fn rung(&self) {
        let mut is_waiting = false;
        poll_fn(|cx| {
            if is_waiting {
                return Poll::Ready(());
            }
            is_waiting = true;
            self.book().waiting.push(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    fn ring(&self) {
        let waiting = std::mem::take(&mut self.book().waiting);
        waiting.into_iter().for_each(Waker::wake);
    }

    fn apply(&self, tenant: TenantId, change: Change, seen: &[Key], origin: u64) -> Result<(), Not> {
        let mut guard = self.book();
        let book = &mut *guard;
        book.table.check(tenant, &change, seen)?;
        book.table.stamp += i64::from(change.configures());
        let turned: Vec<Turned> = change
            .writes
            .into_iter()
            .map(|write| {
                let (key, after, version) = match write {
                    Write::Insert(record) => (record.key(), Some(record), 1),
                    Write::Replace(record, version) => (record.key(), Some(record), version + 1),
                    Write::Remove(key, _) => (key, None, 0),
                };
                let before = book.table.put(tenant, key, after.clone().map(|noun| Held { noun, version }));
                Turned { before, after }
            })
            .collect();
        book.laws.committed(&book.table, tenant, &turned, &change.events, origin);
        drop(guard);
        if turned.iter().any(|it| matches!(it.after, Some(Record::Delivery(_)))) {
            self.ring();
        }
        Ok(())
    }
}

/// The store as one life of a node sees it.
pub struct Wire {
    pub base: Base,
    pub node: usize,
    pub owner: Owner,
    lanes: Arc<Lanes>,
}

/// Decisions of a node that touch the same records happen in the order in which they were asked for.
#[derive(Default)]
struct Lanes(Mutex<Queue>);

#[derive(Default)]
struct Queue {
    next: u64,
    tickets: Vec<(u64, Vec<Key>)>,
    waiting: Vec<Waker>,
}

struct Ticket {
    lanes: Arc<Lanes>,
    number: u64,
}

impl Lanes {
    fn enter(self: &Arc<Self>, keys: &[Key]) -> Ticket {
        let mut queue = self.0.lock().unwrap();
        queue.next += 1;
        let number = queue.next;
        queue.tickets.push((number, keys.to_vec()));
        Ticket { lanes: self.clone(), number }
    }
}

impl Ticket {
    async fn turn(&self) {
        poll_fn(|cx| {
            let mut queue = self.lanes.0.lock().unwrap();
            let mine = queue.tickets.iter().find(|it| it.0 == self.number).map(|it| it.1.as_slice()).unwrap_or_default();
            if queue.tickets.iter().any(|(number, keys)| *number < self.number && keys.iter().any(|key| mine.contains(key))) {
                queue.waiting.push(cx.waker().clone());
                Poll::Pending
            } else {
                Poll::Ready(())
            }
        })
        .await
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut queue = self.lanes.0.lock().unwrap();
        queue.tickets.retain(|it| it.0 != self.number);
        let waiting = std::mem::take(&mut queue.waiting);
        drop(queue);
        waiting.into_iter().for_each(Waker::wake);
    }
}

/// How long a node waits for an answer of the database.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often a judge is asked again.
const TRIES: usize = 8;

fn away(what: &str) -> Fault {
    Fault::Unavailable { what: what.into(), retry_after: Duration::from_secs(1) }
}

impl Wire {
    pub fn new(base: Base, node: usize, owner: Owner) -> Self {
        Self { base, node, owner, lanes: Arc::default() }
    }

    fn hand(&self) -> Hand {
        Hand { base: self.base.clone(), node: self.node }
    }

    fn read<T: Send + 'static>(&self, look: impl FnOnce(&Table) -> T + Send + 'static) -> Pending<'static, Result<T, Fault>> {
        let hand = self.hand();
        Box::pin(async move {
            hand.reach().await?;
            Ok(look(&hand.base.book().table))
        })
    }
}

#[derive(Clone)]
struct Hand {
    base: Base,
    node: usize,
}

impl Hand {
    /// The way to the database and back, if there is one.
    async fn reach(&self) -> Result<(), Fault> {
        let (sim, weather) = (&self.base.sim, &self.base.weather);
        weather.store_delay(sim).await;
        while let Some(until) = self.base.out_until(self.node) {
            let hangs = self.base.book().out.hangs;
            if !hangs {
                sim.sleep(sim.span(0, 300)).await;
                return Err(away("no connection"));
            }
            let left = until.since(sim.now());
            sim.sleep(left.min(PATIENCE) + Duration::from_millis(1)).await;
            if left > PATIENCE {
                return Err(away("no answer"));
            }
        }
        if weather.is_hit(weather.loses_reads) {
            return Err(away("the connection broke"));
        }
        Ok(())
    }

    async fn decide(self, tenant: TenantId, mut keys: Vec<Key>, mut judge: Judge, origin: u64) -> Result<Outcome, Fault> {
        let sim = self.base.sim.clone();
        for _ in 0..TRIES {
            self.reach().await?;
            let mut seen = Seen::default();
            {
                let book = self.base.book();
                keys.iter().for_each(|key| seen.note(*key, book.table.find(tenant, *key)));
            }
            let change = loop {
                match judge(&mut seen) {
                    Step::Write(change) => break change,
                    Step::Look(more) => {
                        self.reach().await?;
                        let book = self.base.book();
                        more.iter().for_each(|key| seen.note(*key, book.table.find(tenant, *key)));
                        drop(book);
                        keys.extend(more);
                    }
                }
            };
            // Engines may ask a judge as often as they like.
            if self.base.weather.is_hit(self.base.weather.asks_again) {
                continue;
            }
            if change.writes.is_empty() && change.events.is_empty() {
                return Ok(Outcome::Done);
            }
            match self.commit(tenant, change, keys.clone(), origin).await? {
                Ok(()) => return Ok(Outcome::Done),
                Err(Not::Taken) => return Ok(Outcome::Taken),
                Err(Not::Stale) => sim.note(format_args!("node {} was too late and reads again", self.node)),
            }
        }
        Err(Fault::Contended)
    }

    /// Puts a change on the wire. From here on it is the world's: a node that dies does not call it back.
    async fn commit(&self, tenant: TenantId, change: Change, seen: Vec<Key>, origin: u64) -> Result<Result<(), Not>, Fault> {
        let (sim, weather) = (&self.base.sim, &self.base.weather);
        if weather.is_hit(weather.loses_commits) {
            self.base.book().laws.counts.lost_commits += 1;
            sim.sleep(sim.span(0, 1000)).await;
            return Err(away("the connection broke before the commit"));
        }
        let loses_answer = weather.is_hit(weather.loses_commit_answers);
        let answer = Slot::default();
        let (hand, told) = (self.clone(), answer.clone());
        sim.spawn(Owner::World, async move {
            let (sim, weather) = (&hand.base.sim, &hand.base.weather);
            weather.store_delay(sim).await;
            if hand.base.is_out(hand.node) {
                hand.base.book().laws.counts.lost_commits += 1;
                sim.note(format_args!("a change of node {} meets the outage", hand.node));
                return told.put(Err(away("the connection broke before the commit")));
            }
            let done = hand.base.apply(tenant, change, &seen, origin);
            weather.store_delay(sim).await;
            if loses_answer || hand.base.is_out(hand.node) {
                hand.base.book().laws.counts.lost_commit_answers += 1;
                return told.put(Err(away("the connection broke after the commit")));
            }
            told.put(Ok(done));
        });
        within(answer, sim.sleep(PATIENCE)).await.unwrap_or_else(|| Err(away("no answer to a commit")))
    }
}

impl Store for Wire {
    fn find(&self, tenant: TenantId, key: Key) -> Pending<'_, Result<Option<Held<Record>>, Fault>> {
        self.read(move |table| table.find(tenant, key).into_iter().next())
    }

    fn list(&self, listing: Listing) -> Pending<'_, Result<Vec<Listed>, Fault>> {
        self.read(move |table| {
            let of = |tenant: TenantId, record: &Record| match (&listing, record) {
                (Listing::Tenants, Record::Tenant(_)) => true,
                (Listing::TenantNamed(name), Record::Tenant(it)) => it.name == *name,
                (Listing::ClientNamed(name), Record::Client(it)) => it.client_id == *name,
                (Listing::Clients(of), Record::Client(_))
                | (Listing::Providers(of), Record::Provider(_))
                | (Listing::Templates(of), Record::Template(_)) => *of == tenant,
                _ => false,
            };
            let found = table.rows.iter().filter(|((tenant, _, _), held)| of(*tenant, &held.noun));
            found.map(|((tenant, _, _), held)| Listed { tenant: *tenant, held: held.clone() }).collect()
        })
    }

    fn stamp(&self) -> Pending<'_, Result<i64, Fault>> {
        self.read(|table| table.stamp)
    }

    fn factors_of(&self, tenant: TenantId, user: UserId) -> Pending<'_, Result<Vec<Held<Factor>>, Fault>> {
        self.read(move |table| {
            let found = table.find(tenant, Key::FactorsOf(user)).into_iter().filter_map(|held| match held.noun {
                Record::Factor(noun) => Some(Held { noun, version: held.version }),
                _ => None,
            });
            found.collect()
        })
    }

    fn events(&self, _: TenantId, _: Option<EventId>, _: u32) -> Pending<'_, Result<Vec<Event>, Fault>> {
        self.read(|_| Vec::new())
    }

    fn decide(&self, tenant: TenantId, first: Vec<Key>, judge: Judge) -> Pending<'static, Result<Outcome, Fault>> {
        let answer = Slot::default();
        let (ticket, hand, told) = (self.lanes.enter(&first), self.hand(), answer.clone());
        let origin = self.base.sim.current();
        // It is on its way whether or not somebody waits; only the death of its node ends it.
        self.base.sim.spawn(self.owner, async move {
            ticket.turn().await;
            let outcome = hand.decide(tenant, first, judge, origin).await;
            drop(ticket);
            told.put(outcome);
        });
        Box::pin(answer)
    }

    fn due(&self, now: Timestamp, most: u32) -> Pending<'_, Result<Vec<(TenantId, DeliveryId)>, Fault>> {
        self.read(move |table| {
            let due = table.queued.iter().take_while(|(due_at, _, _)| *due_at <= now).take(usize::try_from(most).unwrap());
            due.map(|(_, tenant, id)| (*tenant, *id)).collect()
        })
    }

    fn sweep(&self, tenant: TenantId, before: Timestamp, now: Timestamp) -> Pending<'_, Result<Swept, Fault>> {
        let hand = self.hand();
        Box::pin(async move {
            hand.reach().await?;
            let mut book = hand.base.book();
            let over = |record: &Record| match record {
                Record::Challenge(it) => it.id < ChallengeId::floor(before),
                Record::Delivery(it) => it.due_at().is_none() && it.id < DeliveryId::floor(before),
                Record::Limit(it) => it.over_at().is_some_and(|over| over <= now),
                Record::SignIn(it) => it.over_at <= now,
                _ => false,
            };
            let rows = book.table.rows.iter().filter(|((of, _, _), held)| *of == tenant && over(&held.noun));
            let gone: Vec<_> = rows.map(|(_, held)| held.noun.key()).take(500).collect();
            for key in &gone {
                let before = book.table.put(tenant, *key, None);
                book.laws.swept(before.as_ref());
            }
            Ok(Swept { removed: gone.len() as u64, more: gone.len() == 500 })
        })
    }

    fn take_turn(&self, turn: Turn, node: NodeId, now: Timestamp, until: Timestamp) -> Pending<'_, Result<bool, Fault>> {
        let hand = self.hand();
        Box::pin(async move {
            hand.reach().await?;
            let mut book = hand.base.book();
            let is_free = book.table.turns.get(turn.as_str()).is_none_or(|(holder, until)| *holder == node || *until <= now);
            if is_free {
                book.table.turns.insert(turn.as_str(), (node, until));
            }
            Ok(is_free)
        })
    }

    fn health(&self) -> Pending<'_, Result<Health, Fault>> {
        self.read(|table| Health {
            engine: "simulation".into(),
            schema: 1,
            queued: table.queued.len() as u64,
            bytes: table.rows.len() as u64,
        })
    }
}
