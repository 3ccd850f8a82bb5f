//! Delivering: carrying what was promised.
//!
//! Owns the way of a message from the outbox to a provider, and what is noted afterwards. Two callers: a request, at once
//! after its commit, and the delivery loop, for everything that the first attempt did not settle: a provider that is away,
//! a node that died. A delivery is claimed by putting its next attempt ahead ([`LEASE`](crate::nouns::delivery::LEASE)), so one
//! node at a time carries it; the words never change from try to try (invariant 5).

use super::request::message_place;
use super::standing::Standing;
use super::{Core, Judged};
use crate::nouns::delivery::{Delivery, DeliveryStage, LEASE, Load};
use crate::nouns::event::{Event, What};
use crate::nouns::route;
use crate::ports::{Change, Key, Pending, Provider, Receipt, Record, Seen, SendError};
use crate::words::id::{ChallengeId, DeliveryId, ProviderId, TenantId};
use crate::words::refusal::Fault;
use crate::words::time::Timestamp;
use futures_channel::oneshot;
use std::collections::{BTreeMap, BTreeSet};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

/// How long all legs of one attempt may take together.
const ATTEMPT: Duration = Duration::from_secs(15);
/// What is left of a lease for the note that follows an attempt, and for clocks that differ.
const MARGIN: Duration = Duration::from_secs(2);
const _: () = assert!(ATTEMPT.as_secs() + MARGIN.as_secs() < LEASE.as_secs());

/// The pauses before a note that met a fault is decided again; the last one repeats.
const NOTE_PAUSES_MS: [u64; 4] = [250, 500, 1_000, 2_000];
/// How long a decision takes at the most to be durable, or to fail, while the store comes back.
const DECISION_MS: u64 = 500;
/// How long the loop claims nothing once the store takes changes again.
///
/// An outage of 20 s is as long as a lease: attempts end in it, their leases run out in it, and at its end the loop of every node could
/// claim, and send again, what a provider took long ago. So notes go first. The worst of them was decided in the last moment of the
/// outage, fails 0.5 s later, pauses for 2 s and is durable after 0.5 s: 3 s. Each node counts them by its own clock, from a change of
/// its own that held, so it does not matter that clocks differ.
///
/// What does matter is that all nodes lose the store together, and look for work in the meantime. A node that loses it alone for longer
/// than the rest of its lease looks like one that died: the same words are sent once more (invariant 5, at least once). Only a lease as
/// long as an attempt, an outage and a grace together, about 40 s, could tell the two, and all that a dead node leaves would wait so long.
const GRACE: Duration = Duration::from_secs(3);
const _: () = assert!(DECISION_MS + NOTE_PAUSES_MS[NOTE_PAUSES_MS.len() - 1] + DECISION_MS <= GRACE.as_millis() as u64);

/// How long a delivery that cannot be read is left alone before it is looked at again.
const ASIDE: Duration = Duration::from_secs(300);

/// Deliveries that the loop carries at a time on one node.
const AT_A_TIME: usize = 256;

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Carried {
    /// A provider took it.
    Taken { provider: ProviderId, receipt: Receipt },
    /// Nobody took it now; somebody may later.
    Later { asked: Option<Duration> },
    /// Nobody will take it.
    Refused { why: String },
    /// There is no such address.
    NoSuchAddress { why: String },
}

impl Core {
    /// One round of the delivery loop: claims what is due and sets out to carry it. Gives how many it claimed: none for [`GRACE`]
    /// after the store was away.
    ///
    /// # Errors
    /// A fault of the store.
    pub async fn deliver_due(&self) -> Result<usize, Fault> {
        let done = self.one_round().await;
        if let Err(fault) = &done {
            self.notices(fault);
        }
        done
    }

    async fn one_round(&self) -> Result<usize, Fault> {
        let free = AT_A_TIME.saturating_sub(self.0.carrying.load(Ordering::Relaxed));
        if free == 0 {
            return Ok(0);
        }
        let now = self.now();
        let aside = self.0.set_aside.lock().expect("nobody panics while holding it").still(now);
        let most = u32::try_from(free + aside.len()).unwrap_or(u32::MAX);
        let mut due = self.store().due(now, most).await?;
        due.retain(|(_, id)| !aside.contains(id));
        if !self.is_steady(&due).await? {
            return Ok(0);
        }
        let mut claimed = 0;
        for (tenant, id) in due {
            match self.carry_due(tenant, id).await {
                Ok(true) => claimed += 1,
                Ok(false) => {}
                // One that cannot be read, or whose tenant cannot, keeps nobody else's waiting.
                Err(Fault::Corrupt(why)) => {
                    tracing::error!(tenant.id = %tenant, delivery.id = %id, "Delivery {id} is set aside for {ASIDE:?}: {why}");
                    self.0.set_aside.lock().expect("nobody panics while holding it").put(id, now + ASIDE);
                }
                Err(fault @ (Fault::Unavailable { .. } | Fault::Contended)) => return Err(fault),
            }
        }
        Ok(claimed)
    }

    /// A fault says how the store is.
    fn notices(&self, fault: &Fault) {
        if let Fault::Unavailable { .. } = fault {
            *self.0.store_is.lock().expect("nobody panics while holding it") = StoreIs::Away;
        }
    }

    /// Whether the notes of attempts that ended while the store was away have had the time to come first.
    async fn is_steady(&self, due: &[(TenantId, DeliveryId)]) -> Result<bool, Fault> {
        let (known, now) = (*self.0.store_is.lock().expect("nobody panics while holding it"), self.now());
        let next = match known {
            StoreIs::Steady => return Ok(true),
            // A clock that was set back keeps nobody waiting.
            StoreIs::Back { since } if since <= now && now.since(since) < GRACE => return Ok(false),
            StoreIs::Back { .. } => StoreIs::Steady,
            StoreIs::Away if self.takes_changes(due).await? => StoreIs::Back { since: self.now() },
            StoreIs::Away => return Ok(false),
        };
        *self.0.store_is.lock().expect("nobody panics while holding it") = next;
        Ok(matches!(next, StoreIs::Steady))
    }

    /// Whether a change holds: one of the deliveries that are due is put in its own place. What can be read cannot always be written: a
    /// full disk, a standby that is not promoted yet.
    async fn takes_changes(&self, due: &[(TenantId, DeliveryId)]) -> Result<bool, Fault> {
        for (tenant, id) in due.iter().copied() {
            let judge = move |seen: &mut Seen| match seen.delivery(id) {
                Some(held) if held.noun.due_at().is_some() => {
                    Judged::Write(Change::none().replace(Record::Delivery(held.noun), held.version), true)
                }
                _ => Judged::Write(Change::none(), false),
            };
            match self.decide(tenant, vec![Key::Delivery(id)], judge).await {
                Ok(Some(true)) => return Ok(true),
                // One that is over, or cannot be read, says nothing of the store.
                Ok(Some(false) | None) | Err(Fault::Corrupt(_)) => {}
                Err(fault @ (Fault::Unavailable { .. } | Fault::Contended)) => return Err(fault),
            }
        }
        Ok(false)
    }

    /// Claims one delivery and sets out to carry it; says whether it did.
    async fn carry_due(&self, tenant: TenantId, id: DeliveryId) -> Result<bool, Fault> {
        let Some(standing) = self.standing(tenant).await? else { return Ok(false) };
        let Some(delivery) = self.claim(tenant, id).await? else { return Ok(false) };
        let DeliveryStage::Queued { message, .. } = &delivery.stage else { return Ok(false) };
        let load: Load = Self::open(&standing.keys, message_place(&id), message, "what it asks")?;
        drop(self.start_carrying(standing, delivery, load, Some(Carrying::begin(self))));
        Ok(true)
    }

    /// Takes the lease of a delivery that is due and still wanted.
    async fn claim(&self, tenant: TenantId, id: DeliveryId) -> Result<Option<Delivery>, Fault> {
        let now = self.now();
        let unwanted = self.event(now, What::Undelivered { delivery: id, why: UNWANTED.into() });
        let judge = move |seen: &mut Seen| {
            let Some(Record::Delivery(delivery)) = seen.peek(Key::Delivery(id)) else { return Judged::Write(Change::none(), None) };
            let challenge = Key::Challenge(delivery.challenge);
            if !seen.has_looked_at(challenge) {
                return Judged::Look(vec![challenge]);
            }
            let wanted = matches!(seen.peek(challenge), Some(Record::Challenge(it)) if it.awaits(id, now));
            let Some(held) = seen.delivery(id) else { return Judged::Write(Change::none(), None) };
            let Some(leased) = held.noun.clone().leased(now) else { return Judged::Write(Change::none(), None) };
            if wanted {
                Judged::Write(Change::none().replace(Record::Delivery(leased.clone()), held.version), Some(leased))
            } else {
                // Its code is used, void or over: whoever got it now would be confused.
                let over = held.noun.over(DeliveryStage::Failed { at: now, why: UNWANTED.into() });
                Judged::Write(Change::none().replace(Record::Delivery(over), held.version).tell(unwanted.clone()), None)
            }
        };
        Ok(self.decide(tenant, vec![Key::Delivery(id)], judge).await?.flatten())
    }

    /// Carries a leased delivery to its end, whoever waits, and tells how the attempt ended. The note of it is on its way to
    /// the store by then: a crash before it is durable sends the same words once more (invariant 5, at least once).
    pub(crate) fn start_carrying(
        &self,
        standing: Arc<Standing>,
        delivery: Delivery,
        load: Load,
        counted: Option<Carrying>,
    ) -> oneshot::Receiver<Carried> {
        let (tell, told) = oneshot::channel();
        let core = self.clone();
        self.0.with.tasks.detach(Box::pin(async move {
            let _counted = counted;
            // The lease began before the change that made it was durable, so what is left of it is what counts.
            let until = delivery.due_at().map_or(core.now(), |due_at| due_at.before(MARGIN));
            let carried = core.carry(&standing, delivery.id, &load, until).await;
            let noting = core.note(&standing, delivery, carried.clone());
            // "It was not sent" must stay true after a crash (invariant 4), so it is told when it is kept, and not at all when it is not.
            // Whoever waited may be gone; the note is made all the same. Who checks its own codes is asked by the note: no answer can be
            // judged before it is kept.
            let is_needed = matches!((&carried, &load), (Carried::Taken { .. }, Load::Start { .. }));
            if is_needed || matches!(carried, Carried::Refused { .. } | Carried::NoSuchAddress { .. }) {
                if noting.await {
                    let _ = tell.send(carried);
                }
            } else {
                let _ = tell.send(carried);
                noting.await;
            }
        }));
        told
    }

    /// One attempt: each leg of the route in turn, until one takes it or the lease is nearly over. Each leg has its share of the
    /// time that is left, so that one that hangs leaves enough for the next.
    async fn carry(&self, standing: &Standing, id: DeliveryId, load: &Load, until: Timestamp) -> Carried {
        let until = until.min(self.now() + ATTEMPT);
        let mut later: Option<Option<Duration>> = None;
        let mut why = "no provider is left on its route".to_owned();
        let channel = load.channel();
        let legs = route::legs(&standing.tenant.routes, channel, load.to());
        for (at, leg) in legs.iter().enumerate() {
            let Some(built) = standing.carrier(*leg, channel) else { continue };
            let left = until.since(self.now());
            if left.is_zero() {
                return Carried::Later { asked: None };
            }
            let legs_left = u32::try_from(legs.len() - at).unwrap_or(u32::MAX);
            let taking = match (built.provider(), load) {
                (Ok(Provider::Sends(it)), Load::Words(message)) => it.send(id, message.clone()),
                (Ok(Provider::Verifies(it)), Load::Start { to, .. }) => it.start(id, to.clone()),
                (Ok(Provider::Verifies(_) | Provider::Rings(_)), Load::Words(_)) => refused("it carries no codes of ours"),
                (Ok(Provider::Sends(_) | Provider::Rings(_)), Load::Start { .. }) => refused("it makes no codes of its own"),
                (Err(_), _) => refused("its settings are wrong"),
            };
            let late = || Err(SendError::Unavailable { why: "it took too long".into(), retry_after: None });
            let error = match first_of(taking, self.0.with.tasks.pause(left / legs_left)).await.unwrap_or_else(late) {
                Ok(receipt) => return Carried::Taken { provider: *leg, receipt },
                Err(error) => error,
            };
            tracing::warn!(
                tenant.id = %standing.tenant.id, delivery.id = %id, provider.id = %leg, provider.name = built.name, channel = %channel,
                "Delivery {id} was not taken by {}: {error}", built.name,
            );
            why = error.to_string();
            match error {
                SendError::NoSuchAddress(_) => return Carried::NoSuchAddress { why },
                SendError::Refused(_) => {}
                SendError::Unavailable { retry_after, .. } => later = Some(later.flatten().max(retry_after)),
            }
        }
        match later {
            Some(asked) => Carried::Later { asked },
            None => Carried::Refused { why },
        }
    }

    /// Notes how an attempt ended. The note is on its way when this returns; the future says, when it is durable, whether that is how
    /// the delivery ended. A store that is away is asked again until the note no longer matters.
    fn note(&self, standing: &Standing, delivery: Delivery, carried: Carried) -> Pending<'static, bool> {
        let (tenant, id, now) = (standing.tenant.id, delivery.id, self.now());
        let matters_until = match (&carried, delivery.due_at()) {
            // When the lease is over, the loop comes back to it without a note.
            (Carried::Later { .. }, Some(lease_ends_at)) => lease_ends_at,
            // By then its code is over, whenever that was first sent.
            _ => now + standing.tenant.policy.code_lifetime(),
        };
        let note = Arc::new(self.write_note(&delivery, carried, now));
        let mut deciding: Pending<'static, _> = Box::pin(self.decide_note(tenant, note.clone()));
        let core = self.clone();
        Box::pin(async move {
            let aside = || core.0.set_aside.lock().expect("nobody panics while holding it");
            let mut tries = 0;
            loop {
                let fault = match deciding.await {
                    Ok(kept) => {
                        if tries > 0 {
                            aside().take_back(id);
                        }
                        return kept.unwrap_or(false);
                    }
                    Err(fault) => fault,
                };
                core.notices(&fault);
                // Its lease may end meanwhile, and this node must not send again what it has just sent.
                aside().put(id, core.now() + ASIDE);
                let Some(pause) = again(&fault, tries).filter(|pause| core.now() + *pause < matters_until) else {
                    tracing::error!(
                        tenant.id = %tenant, delivery.id = %id,
                        "How delivery {id} ended could not be noted, so it may be sent once more: {fault}"
                    );
                    aside().take_back(id);
                    return false;
                };
                tries += 1;
                core.0.with.tasks.pause(pause).await;
                deciding = Box::pin(core.decide_note(tenant, note.clone()));
            }
        })
    }

    fn write_note(&self, delivery: &Delivery, carried: Carried, now: Timestamp) -> Note {
        let id = delivery.id;
        let (attempt, lease_ends_at) = match &delivery.stage {
            DeliveryStage::Queued { attempt, due_at, .. } => (*attempt, *due_at),
            DeliveryStage::Sent { .. } | DeliveryStage::Failed { .. } => (0, now),
        };
        let what = match &carried {
            Carried::Taken { provider, .. } => What::Sent { delivery: id, provider: *provider },
            Carried::Later { .. } => What::Postponed { delivery: id, attempt },
            Carried::Refused { why } | Carried::NoSuchAddress { why } => What::Undelivered { delivery: id, why: why.clone() },
        };
        Note { now, id, challenge: delivery.challenge, attempt, lease_ends_at, carried, event: self.event(now, what) }
    }

    fn decide_note(&self, tenant: TenantId, note: Arc<Note>) -> impl Future<Output = Result<Option<bool>, Fault>> + Send + use<> {
        let first = match note.carried {
            Carried::Taken { .. } | Carried::Later { .. } => vec![Key::Delivery(note.id)],
            Carried::Refused { .. } | Carried::NoSuchAddress { .. } => {
                vec![Key::Delivery(note.id), Key::Challenge(note.challenge)]
            }
        };
        self.decide(tenant, first, move |seen| {
            let (change, kept) = note.judge(seen);
            Judged::Write(change, kept)
        })
    }
}

fn refused(why: &str) -> Pending<'static, Result<Receipt, SendError>> {
    Box::pin(std::future::ready(Err(SendError::Refused(why.to_owned()))))
}

/// When a note that met `fault` is decided again, after `tries` times (invariant 10).
fn again(fault: &Fault, tries: usize) -> Option<Duration> {
    match fault {
        Fault::Unavailable { .. } | Fault::Contended => Some(Duration::from_millis(NOTE_PAUSES_MS[tries.min(NOTE_PAUSES_MS.len() - 1)])),
        Fault::Corrupt(_) => None,
    }
}

/// How an attempt ended, to be kept.
struct Note {
    now: Timestamp,
    id: DeliveryId,
    challenge: ChallengeId,
    attempt: u16,
    lease_ends_at: Timestamp,
    carried: Carried,
    event: Event,
}

impl Note {
    /// The change that keeps it, and whether the delivery then ended so. It may have been kept before, when only the answer was lost.
    fn judge(&self, seen: &mut Seen) -> (Change, bool) {
        let change = Change::none();
        let Some(held) = seen.delivery(self.id) else { return (change, false) };
        let (begun, due_at) = match &held.noun.stage {
            DeliveryStage::Queued { attempt, due_at, .. } => (*attempt, *due_at),
            DeliveryStage::Sent { .. } => return (change, matches!(self.carried, Carried::Taken { .. })),
            DeliveryStage::Failed { .. } => {
                return (change, matches!(self.carried, Carried::Refused { .. } | Carried::NoSuchAddress { .. }));
            }
        };
        // Somebody else has begun another attempt since: what becomes of the delivery is theirs to say. Not even that it was taken is
        // noted: once it is over a resend may begin, and there would be two codes on their way (invariant 5). Where only the lease is
        // gone, this note was kept before.
        if (begun, due_at) != (self.attempt, self.lease_ends_at) {
            return (change, false);
        }
        let change = match &self.carried {
            Carried::Taken { provider, receipt } => {
                let sent = DeliveryStage::Sent { at: self.now, provider: *provider, receipt: receipt.0.clone() };
                change.replace(Record::Delivery(held.noun.over(sent)), held.version)
            }
            Carried::Later { asked } => {
                let later = held.noun.clone().postponed(self.now, *asked);
                // A pause that ends with the lease leaves it as it is, and nothing would show that it was noted.
                if later == held.noun {
                    return (change, true);
                }
                change.replace(Record::Delivery(later), held.version)
            }
            Carried::Refused { why } | Carried::NoSuchAddress { why } => {
                let failed = DeliveryStage::Failed { at: self.now, why: why.clone() };
                let change = change.replace(Record::Delivery(held.noun.over(failed)), held.version);
                match seen.challenge(self.challenge) {
                    Some(it) if it.noun.awaits(self.id, self.now) => {
                        change.replace(Record::Challenge(it.noun.undelivered(self.id, self.now)), it.version)
                    }
                    _ => change,
                }
            }
        };
        (change.tell(self.event.clone()), true)
    }
}

/// What the loop of a node knows of the store.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) enum StoreIs {
    /// It takes changes.
    #[default]
    Steady,
    /// It was away when it was asked last.
    Away,
    /// It takes changes again.
    Back {
        /// Since when, by the clock of this node.
        since: Timestamp,
    },
}

/// Why a delivery that is due is not sent after all.
const UNWANTED: &str = "the code was used, replaced or over before it could be sent";

/// Deliveries that cannot be read, or whose end is not noted yet, and until when they are left alone.
#[derive(Default)]
pub(crate) struct SetAside(BTreeMap<DeliveryId, Timestamp>);

impl SetAside {
    /// As many as are remembered; beyond that the oldest are looked at again.
    const MOST: usize = 10_000;

    fn put(&mut self, id: DeliveryId, until: Timestamp) {
        if self.0.len() >= Self::MOST {
            self.0.pop_first();
        }
        self.0.insert(id, until);
    }

    fn take_back(&mut self, id: DeliveryId) {
        self.0.remove(&id);
    }

    fn still(&mut self, now: Timestamp) -> BTreeSet<DeliveryId> {
        self.0.retain(|_, until| now < *until);
        self.0.keys().copied().collect()
    }
}

/// Counts what the loop of this node carries at the moment.
pub(crate) struct Carrying(Core);

impl Carrying {
    fn begin(core: &Core) -> Self {
        core.0.carrying.fetch_add(1, Ordering::Relaxed);
        Self(core.clone())
    }
}

impl Drop for Carrying {
    fn drop(&mut self) {
        self.0.0.carrying.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What `work` gives, unless `limit` is over first.
pub(crate) async fn first_of<T>(work: impl Future<Output = T>, limit: impl Future<Output = ()>) -> Option<T> {
    let (mut work, mut limit) = (pin!(work), pin!(limit));
    poll_fn(|cx| match work.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending => limit.as_mut().poll(cx).map(|()| None),
    })
    .await
}
