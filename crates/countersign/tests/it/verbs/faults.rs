//! What goes wrong around the verbs: clocks, disks, keys, providers that hang.

use crate::house::{Does, House, NOON, away, refusal, sms};
use countersign_core::nouns::event::Event;
use countersign_core::nouns::factor::Factor;
use countersign_core::ports::test::Still;
use countersign_core::ports::{Health, Held, Judge, Key, Listed, Listing, Outcome, Pending, Record, SendError, Store, Swept, Turn};
use countersign_core::verbs::manage::ClientChange;
use countersign_core::verbs::request::Sent;
use countersign_core::words::id::{DeliveryId, EventId, NodeId, TenantId, UserId};
use countersign_core::words::refusal::{Fault, Refusal};
use countersign_core::words::time::Timestamp;
use countersign_store::memory::Memory;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The model engine on a bad disk.
struct BadDisk {
    keeps: Memory,
    clock: Arc<Still>,
    /// The next commit takes six seconds.
    is_slow: AtomicBool,
    /// Nothing that begins with a look at a delivery is flushed any more.
    forgets_notes: AtomicBool,
    /// Nothing that begins with a look at a delivery is taken.
    is_away: AtomicBool,
}

impl Store for BadDisk {
    fn find(&self, tenant: TenantId, key: Key) -> Pending<'_, Result<Option<Held<Record>>, Fault>> {
        self.keeps.find(tenant, key)
    }
    fn list(&self, listing: Listing) -> Pending<'_, Result<Vec<Listed>, Fault>> {
        self.keeps.list(listing)
    }
    fn stamp(&self) -> Pending<'_, Result<i64, Fault>> {
        self.keeps.stamp()
    }
    fn factors_of(&self, tenant: TenantId, user: UserId) -> Pending<'_, Result<Vec<Held<Factor>>, Fault>> {
        self.keeps.factors_of(tenant, user)
    }
    fn events(&self, tenant: TenantId, before: Option<EventId>, most: u32) -> Pending<'_, Result<Vec<Event>, Fault>> {
        self.keeps.events(tenant, before, most)
    }
    fn decide(&self, tenant: TenantId, first: Vec<Key>, judge: Judge) -> Pending<'static, Result<Outcome, Fault>> {
        if self.forgets_notes.load(Ordering::SeqCst) && matches!(first[..], [Key::Delivery(_), ..]) {
            return Box::pin(std::future::pending());
        }
        if self.is_away.load(Ordering::SeqCst) && matches!(first[..], [Key::Delivery(_), ..]) {
            let fault = Fault::Unavailable { what: "the disk is full".into(), retry_after: Duration::from_secs(1) };
            return Box::pin(std::future::ready(Err(fault)));
        }
        let (clock, is_slow) = (self.clock.clone(), self.is_slow.swap(false, Ordering::SeqCst));
        let done = self.keeps.decide(tenant, first, judge);
        Box::pin(async move {
            if is_slow {
                clock.pass(Duration::from_secs(6));
            }
            done.await
        })
    }
    fn due(&self, now: Timestamp, most: u32) -> Pending<'_, Result<Vec<(TenantId, DeliveryId)>, Fault>> {
        self.keeps.due(now, most)
    }
    fn sweep(&self, tenant: TenantId, before: Timestamp, now: Timestamp) -> Pending<'_, Result<Swept, Fault>> {
        self.keeps.sweep(tenant, before, now)
    }
    fn take_turn(&self, turn: Turn, node: NodeId, now: Timestamp, until: Timestamp) -> Pending<'_, Result<bool, Fault>> {
        self.keeps.take_turn(turn, node, now, until)
    }
    fn health(&self) -> Pending<'_, Result<Health, Fault>> {
        self.keeps.health()
    }
}

async fn on_a_bad_disk() -> (Arc<House>, Arc<BadDisk>) {
    let clock = Arc::new(Still::at(NOON));
    let (is_slow, forgets_notes, is_away) = (AtomicBool::new(false), AtomicBool::new(false), AtomicBool::new(false));
    let disk = Arc::new(BadDisk { keeps: Memory::default(), clock: clock.clone(), is_slow, forgets_notes, is_away });
    (Arc::new(House::with(disk.clone(), clock).await), disk)
}

#[tokio::test]
async fn a_client_that_was_switched_off_stays_out_when_the_clock_is_set_back() {
    let house = House::new().await;
    let (tenant, client) = (house.tenant.id, House::caller(&house.scope));
    house.core.scope(tenant, client.id).await.unwrap();
    house.clock.set(NOON.before(Duration::from_secs(3600)));
    let off = ClientChange { disabled: Some(true), ..ClientChange::default() };
    house.node(false).change_client(tenant, &client.client_id, off).await.unwrap();
    house.pass(3);
    assert_eq!(refusal(house.core.scope(tenant, client.id).await), Refusal::ClientUnknown);
}

#[tokio::test]
async fn a_tenant_that_cannot_be_opened_keeps_nobody_elses_messages_waiting() {
    let house = House::new().await;
    house.provider("first", away());
    house.provider("second", away());
    house.open("jdoe").await;
    house.settle().await;
    // A node with another master key meets that message first, and cannot open its tenant.
    let node = house.node(true);
    let elsewhere = node.create_tenant("elsewhere", "Elsewhere", Default::default()).await.unwrap();
    let scope = House::furnish(&node, &elsewhere).await;
    house.pass(1);
    node.request(&scope, sms("jdoe", "+442079460000")).await.unwrap();
    house.settle().await;
    house.provider("first", Does::Takes);
    house.pass(2);
    assert_eq!(node.deliver_due().await.unwrap(), 1, "its own");
    house.settle().await;
    assert_eq!(house.carried().last().map(|it| it.0.as_str()), Some("first"));
    assert_eq!(node.deliver_due().await.unwrap(), 0, "and the other is set aside");
}

#[tokio::test]
async fn first_attempts_that_hang_keep_no_message_of_the_outbox_waiting() {
    let house = Arc::new(House::new().await);
    house.provider("first", away());
    house.provider("second", away());
    house.open("waits").await;
    house.settle().await;
    house.provider("first", Does::Hangs);
    for count in 0..256 {
        let house = house.clone();
        tokio::spawn(async move { house.ask(&format!("user-{count}"), &format!("+9182123{count:05}")).await });
    }
    while house.carried().len() < 256 {
        tokio::task::yield_now().await;
    }
    house.provider("first", Does::Takes);
    house.pass(2);
    assert_eq!(house.core.deliver_due().await.unwrap(), 1, "the one that waits");
}

#[tokio::test(start_paused = true)]
async fn invariant_5_a_slow_commit_makes_no_attempt_outlive_its_lease() {
    let (house, disk) = on_a_bad_disk().await;
    house.provider("first", Does::Hangs);
    house.provider("second", away());
    disk.is_slow.store(true, Ordering::SeqCst);
    let began = tokio::time::Instant::now();
    assert_eq!(house.ask("jdoe", "+918212345212").await.unwrap().sent, Sent::Postponed);
    // Of the lease of 20 s the commit took 6 and the margin takes 2; the first of two legs has half of the rest.
    assert_eq!(began.elapsed().as_secs_f32().round(), 6.0);
}

#[tokio::test(start_paused = true)]
async fn invariant_5_an_outage_as_long_as_a_lease_sends_no_message_twice() {
    let (house, disk) = on_a_bad_disk().await;
    disk.is_away.store(true, Ordering::SeqCst);
    house.open("jdoe").await;
    house.pass(21);
    let node = house.node(false);
    assert!(node.deliver_due().await.is_err(), "it is due and cannot be claimed");
    disk.is_away.store(false, Ordering::SeqCst);
    assert_eq!(node.deliver_due().await.unwrap(), 0, "the notes of others go first");
    // The pause of the note that could not be made.
    tokio::time::sleep(Duration::from_secs(2)).await;
    house.settle().await;
    house.pass(3);
    assert_eq!(node.deliver_due().await.unwrap(), 0);
    house.settle().await;
    assert_eq!(house.carried().len(), 1);
}

#[tokio::test]
async fn invariant_4_it_could_not_be_sent_is_told_when_that_is_durable() {
    let (house, disk) = on_a_bad_disk().await;
    let refused = || Does::Fails(SendError::Refused("status 400".into()));
    house.provider("first", refused());
    house.provider("second", refused());
    disk.forgets_notes.store(true, Ordering::SeqCst);
    let told = tokio::time::timeout(Duration::from_millis(200), house.ask("jdoe", "+918212345212")).await;
    assert!(told.is_err(), "nothing is told before it is kept: {told:?}");
}

#[tokio::test(start_paused = true)]
async fn invariant_5_what_a_provider_took_while_the_store_was_away_is_noted_later_and_not_sent_again() {
    let (house, disk) = on_a_bad_disk().await;
    house.provider("first", Does::Takes);
    disk.is_away.store(true, Ordering::SeqCst);
    assert_eq!(house.ask("jdoe", "+918212345212").await.unwrap().sent, Sent::Taken);
    // Longer than the lease.
    house.pass(25);
    tokio::time::sleep(Duration::from_secs(25)).await;
    assert_eq!(house.core.deliver_due().await.unwrap(), 0, "who sent it leaves it alone");
    disk.is_away.store(false, Ordering::SeqCst);
    // The longest pause between two tries of a note.
    tokio::time::sleep(Duration::from_secs(2)).await;
    house.settle().await;
    assert_eq!(house.node(false).deliver_due().await.unwrap(), 0, "and so does everybody else, once it is noted");
    house.pass(600);
    assert_eq!(house.core.deliver_due().await.unwrap(), 0);
    assert_eq!(house.carried().len(), 1);
}
