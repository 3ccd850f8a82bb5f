//! What a node knows of tenants and clients, and when it looks again.

use crate::house::{House, give_providers, refusal};
use countersign_core::Core;
use countersign_core::nouns::event::Event;
use countersign_core::nouns::factor::Factor;
use countersign_core::nouns::tenant::Policy;
use countersign_core::ports::{Health, Held, Judge, Key, Listed, Listing, Outcome, Pending, Record, Store, Swept, Turn};
use countersign_core::verbs::manage::{ClientChange, NewClient, TenantChange};
use countersign_core::words::address::Channel;
use countersign_core::words::id::{DeliveryId, EventId, NodeId, TenantId, UserId};
use countersign_core::words::refusal::{Error, Fault, Refusal};
use countersign_core::words::secret::Secret;
use countersign_core::words::time::Timestamp;
use countersign_core::words::wording::Wording;
use countersign_store::memory::Memory;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;

/// The model engine, which counts what is asked.
#[derive(Default)]
struct Counting {
    keeps: Memory,
    /// Reads of tenants, clients, providers and templates.
    reads: AtomicUsize,
    /// Looks at the stamp.
    looks: AtomicUsize,
    /// Whether changes are made by a program that does not count them.
    is_old: AtomicBool,
    is_away: AtomicBool,
    /// The next look at the stamp waits for this.
    holds: Mutex<Option<Arc<Notify>>>,
    /// Happens between the next read of a tenant and its answer.
    meanwhile: Mutex<Option<Pending<'static, ()>>>,
}

impl Counting {
    fn present(&self) -> Result<(), Fault> {
        if self.is_away.load(Ordering::SeqCst) {
            return Err(Fault::Unavailable { what: "unplugged".into(), retry_after: Duration::from_secs(1) });
        }
        Ok(())
    }

    /// What was asked since the last time: reads, and looks at the stamp.
    fn asked(&self) -> (usize, usize) {
        (self.reads.swap(0, Ordering::SeqCst), self.looks.swap(0, Ordering::SeqCst))
    }
}

impl Store for Counting {
    fn find(&self, tenant: TenantId, key: Key) -> Pending<'_, Result<Option<Held<Record>>, Fault>> {
        Box::pin(async move {
            self.present()?;
            self.reads.fetch_add(usize::from(key.is_configuration()), Ordering::SeqCst);
            let found = self.keeps.find(tenant, key).await;
            let meanwhile = (key == Key::Tenant).then(|| self.meanwhile.lock().unwrap().take()).flatten();
            if let Some(work) = meanwhile {
                work.await;
            }
            found
        })
    }
    fn list(&self, listing: Listing) -> Pending<'_, Result<Vec<Listed>, Fault>> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.keeps.list(listing)
    }
    fn stamp(&self) -> Pending<'_, Result<i64, Fault>> {
        Box::pin(async {
            self.looks.fetch_add(1, Ordering::SeqCst);
            let holds = self.holds.lock().unwrap().take();
            if let Some(until) = holds {
                until.notified().await;
            }
            self.present()?;
            if self.is_old.load(Ordering::SeqCst) { Ok(0) } else { self.keeps.stamp().await }
        })
    }
    fn factors_of(&self, tenant: TenantId, user: UserId) -> Pending<'_, Result<Vec<Held<Factor>>, Fault>> {
        self.keeps.factors_of(tenant, user)
    }
    fn events(&self, tenant: TenantId, before: Option<EventId>, most: u32) -> Pending<'_, Result<Vec<Event>, Fault>> {
        self.keeps.events(tenant, before, most)
    }
    fn decide(&self, tenant: TenantId, first: Vec<Key>, judge: Judge) -> Pending<'static, Result<Outcome, Fault>> {
        self.keeps.decide(tenant, first, judge)
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

async fn counted() -> (House, Arc<Counting>) {
    let store = Arc::new(Counting::default());
    (House::on(store.clone()).await, store)
}

fn called(client_id: &str) -> NewClient {
    NewClient { name: "App".into(), client_id: Some(client_id.into()), secret: None, application: None, email_from: None }
}

fn off() -> ClientChange {
    ClientChange { disabled: Some(true), ..ClientChange::default() }
}

fn shown_as(name: &str) -> TenantChange {
    TenantChange { display_name: Some(name.into()), ..TenantChange::default() }
}

async fn display_name(core: &Core, tenant: TenantId) -> String {
    core.standing(tenant).await.unwrap().unwrap().tenant.display_name.clone()
}

#[tokio::test]
async fn what_another_node_changed_holds_within_two_seconds() {
    let house = House::new().await;
    let (node, tenant, client) = (house.node(false), house.tenant.id, House::caller(&house.scope));
    let later = Secret::new("a-secret-of-its-own");
    assert_eq!(refusal(house.core.authenticate("later", &later).await), Refusal::ClientUnknown);
    house.core.scope(tenant, client.id).await.unwrap();
    house.pass(1);

    let wording = Wording { subject: None, text: "{{ code }}, says another node".into(), html: None };
    node.put_template(tenant, None, "default", Channel::Sms, wording).await.unwrap();
    node.create_client(tenant, NewClient { secret: Some(later.clone()), ..called("later") }).await.unwrap();
    node.change_tenant(tenant, shown_as("Another")).await.unwrap();
    house.pass(2);
    house.core.authenticate("later", &later).await.unwrap();
    house.open("jdoe").await;
    let scope = house.core.scope(tenant, client.id).await.unwrap();
    assert_eq!(scope.tenant.tenant.display_name, "Another");
    assert_eq!(scope.tenant.templates.len(), 1);

    node.change_client(tenant, &client.client_id, off()).await.unwrap();
    house.pass(2);
    assert_eq!(refusal(house.core.scope(tenant, client.id).await), Refusal::ClientUnknown);
    node.remove_client(tenant, "later").await.unwrap();
    house.pass(2);
    assert_eq!(refusal(house.core.authenticate("later", &later).await), Refusal::ClientUnknown);
}

#[tokio::test]
async fn what_this_node_changed_holds_at_once() {
    let house = House::new().await;
    let (tenant, client) = (house.tenant.id, House::caller(&house.scope));
    house.core.scope(tenant, client.id).await.unwrap();
    house.core.change_tenant(tenant, shown_as("Another")).await.unwrap();
    assert_eq!(display_name(&house.core, tenant).await, "Another");
    house.core.change_client(tenant, &client.client_id, off()).await.unwrap();
    assert_eq!(refusal(house.core.scope(tenant, client.id).await), Refusal::ClientUnknown);
}

#[tokio::test]
async fn however_many_tenants_are_at_work_what_nobody_changed_is_not_read_again() {
    let (house, store) = counted().await;
    let mut callers = Vec::new();
    for count in 0..250 {
        let tenant = house.core.create_tenant(&format!("tenant-{count}"), "Tenant", Policy::default()).await.unwrap();
        give_providers(&house.core, &tenant).await;
        let (client, secret) = house.core.create_client(tenant.id, called(&format!("client-{count}"))).await.unwrap();
        callers.push((tenant.id, client, secret));
    }
    let round = async || {
        for (tenant, client, secret) in &callers {
            house.core.authenticate(&client.client_id, secret).await.unwrap();
            house.core.scope(*tenant, client.id).await.unwrap();
        }
        store.asked()
    };
    store.asked();
    // The client by its name, the tenant, its providers, its templates, the client.
    assert_eq!(round().await, (250 * 5, 1));
    for _ in 0..12 {
        house.pass(2);
        assert_eq!(round().await, (0, 1), "500 requests, one look at the stamp");
    }
    house.node(false).change_client(callers[7].0, "client-7", ClientChange { name: Some("Other".into()), ..off() }).await.unwrap();
    let (tenant, client, secret) = callers.remove(7);
    house.pass(2);
    assert_eq!(refusal(house.core.authenticate(&client.client_id, &secret).await), Refusal::ClientUnknown);
    assert_eq!(refusal(house.core.scope(tenant, client.id).await), Refusal::ClientUnknown);
    store.asked();
}

#[tokio::test]
async fn a_change_has_everything_read_once_more_and_then_no_more() {
    let (house, store) = counted().await;
    let tenants = [house.another_tenant("one").await, house.another_tenant("two").await];
    let round = async || {
        for scope in &tenants {
            house.core.scope(scope.tenant.tenant.id, House::caller(scope).id).await.unwrap();
        }
        store.asked()
    };
    store.asked();
    assert_eq!(round().await.0, 4, "what was not read since the last change: the first of them");
    assert_eq!(round().await.0, 0);
    house.node(false).change_tenant(house.tenant.id, shown_as("Another")).await.unwrap();
    store.asked();
    house.pass(2);
    assert_eq!(round().await, (8, 1), "tenant, providers, templates and client of both");
    house.pass(2);
    assert_eq!(round().await, (0, 1));
}

#[tokio::test]
async fn a_change_during_a_read_is_not_taken_for_read() {
    let (house, store) = counted().await;
    let tenant = house.tenant.id;
    let change = |node: Core, name: &'static str| {
        *store.meanwhile.lock().unwrap() = Some(Box::pin(async move { drop(node.change_tenant(tenant, shown_as(name)).await.unwrap()) }));
    };
    house.node(false).change_tenant(tenant, shown_as("First")).await.unwrap();
    house.pass(2);
    change(house.node(false), "Second");
    assert_eq!(display_name(&house.core, tenant).await, "First", "it was read before");
    house.pass(2);
    assert_eq!(display_name(&house.core, tenant).await, "Second", "made by another node: within two seconds");
    house.pass(31);
    change(house.core.clone(), "Third");
    assert_eq!(display_name(&house.core, tenant).await, "Second");
    assert_eq!(display_name(&house.core, tenant).await, "Third", "made by this node: at once");
}

#[tokio::test]
async fn a_change_that_an_older_program_did_not_count_holds_within_half_a_minute() {
    let (house, store) = counted().await;
    let tenant = house.tenant.id;
    store.is_old.store(true, Ordering::SeqCst);
    house.pass(2);
    display_name(&house.core, tenant).await;
    house.node(false).change_tenant(tenant, shown_as("Another")).await.unwrap();
    house.pass(29);
    assert_eq!(display_name(&house.core, tenant).await, "Demo", "nothing says that it changed");
    house.pass(1);
    display_name(&house.core, tenant).await;
    house.pass(1);
    assert_eq!(display_name(&house.core, tenant).await, "Another");
}

#[tokio::test]
async fn while_one_caller_looks_anew_the_others_go_on() {
    let (house, store) = counted().await;
    let tenant = house.tenant.id;
    display_name(&house.core, tenant).await;
    store.asked();
    house.pass(1);
    let goes_on = Arc::new(Notify::new());
    *store.holds.lock().unwrap() = Some(goes_on.clone());
    let core = house.core.clone();
    let first = tokio::spawn(async move { display_name(&core, tenant).await });
    house.settle().await;
    for _ in 0..1000 {
        display_name(&house.core, tenant).await;
    }
    assert_eq!(store.asked(), (0, 1), "the others did not wait for the first, and did not ask");
    house.pass(1);
    display_name(&house.core, tenant).await;
    assert_eq!(store.asked().1, 1, "what is two seconds old is not gone on with");
    goes_on.notify_one();
    first.await.unwrap();
    // The look of the first began before the one that was made since, and does not take its place.
    display_name(&house.core, tenant).await;
    assert_eq!(store.asked(), (0, 0));
}

#[tokio::test]
async fn a_copy_that_cannot_be_checked_is_not_used() {
    let (house, store) = counted().await;
    let (tenant, client) = (house.tenant.id, House::caller(&house.scope).id);
    house.core.scope(tenant, client).await.unwrap();
    store.is_away.store(true, Ordering::SeqCst);
    for _ in 0..2 {
        house.core.scope(tenant, client).await.unwrap();
        house.pass(1);
    }
    let said = house.core.scope(tenant, client).await;
    assert!(matches!(said, Err(Error::Fault(Fault::Unavailable { .. }))), "{said:?}");
    store.is_away.store(false, Ordering::SeqCst);
    store.asked();
    house.core.scope(tenant, client).await.unwrap();
    assert_eq!(store.asked(), (0, 1), "nobody changed it in the meantime");
}
