//! Delivering: carrying what was promised.
//!
//! Owns the way of a message from the outbox to a provider, and what is noted afterwards. Two callers: a request, at once
//! after its commit, and the delivery loop, for everything that the first attempt did not settle: a provider that is away,
//! a node that died. A delivery is claimed by putting its next attempt ahead ([`LEASE`](crate::nouns::delivery::LEASE)), so one
//! node at a time carries it; the words never change from try to try (invariant 5).

use super::request::message_place;
use super::standing::Standing;
use super::{Core, Judged};
use crate::nouns::delivery::{Delivery, DeliveryStage, LEASE};
use crate::nouns::event::What;
use crate::nouns::route;
use crate::ports::{Change, Key, Pending, Provider, Receipt, Record, Seen, SendError, Sends, Step};
use crate::words::id::{DeliveryId, ProviderId, TenantId};
use crate::words::refusal::Fault;
use crate::words::time::Timestamp;
use crate::words::wording::Message;
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

/// How long a delivery that cannot be read is left alone before it is looked at again.
const ASIDE: Duration = Duration::from_secs(300);

/// How long a note rests that a store which is away could not keep, and how often it is tried again: for ten minutes. Only the
/// node that carried a message knows how it ended, so the message would be sent once more.
const NOTE_RESTS: Duration = Duration::from_millis(200);
const NOTE_TRIES: usize = 3_000;

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
    /// One round of the delivery loop: claims what is due and sets out to carry it. Gives how many it claimed.
    ///
    /// # Errors
    /// A fault of the store.
    pub async fn deliver_due(&self) -> Result<usize, Fault> {
        let free = AT_A_TIME.saturating_sub(self.0.carrying.load(Ordering::Relaxed));
        if free == 0 {
            return Ok(0);
        }
        let now = self.now();
        let aside = self.0.set_aside.lock().expect("nobody panics while holding it").still(now);
        let most = u32::try_from(free + aside.len()).unwrap_or(u32::MAX);
        let mut claimed = 0;
        for (tenant, id) in self.store().due(now, most).await?.into_iter().filter(|(_, id)| !aside.contains(id)) {
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

    /// Claims one delivery and sets out to carry it; says whether it did.
    async fn carry_due(&self, tenant: TenantId, id: DeliveryId) -> Result<bool, Fault> {
        let Some(standing) = self.standing(tenant).await? else { return Ok(false) };
        let Some(delivery) = self.claim(tenant, id).await? else { return Ok(false) };
        let DeliveryStage::Queued { message, .. } = &delivery.stage else { return Ok(false) };
        let plain = standing.keys.open_sealed(message_place(&id), message)?;
        let words = serde_json::from_slice::<Message>(&plain).map_err(|_| Fault::Corrupt("its words cannot be read".into()))?;
        drop(self.start_carrying(standing, delivery, Arc::new(words), Some(Carrying::begin(self))));
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
        message: Arc<Message>,
        counted: Option<Carrying>,
    ) -> oneshot::Receiver<Carried> {
        let (tell, told) = oneshot::channel();
        let core = self.clone();
        self.0.with.tasks.detach(Box::pin(async move {
            let _counted = counted;
            // The lease began before the change that made it was durable, so what is left of it is what counts.
            let until = delivery.due_at().map_or(core.now(), |due_at| due_at.before(MARGIN));
            let carried = core.carry(&standing, delivery.id, message, until).await;
            let noting = core.note(standing.tenant.id, delivery, carried.clone());
            // "It was not sent" must stay true after a crash (invariant 4). Whoever waited may be gone; the note is made all the same.
            if matches!(carried, Carried::Refused { .. } | Carried::NoSuchAddress { .. }) {
                noting.await;
                let _ = tell.send(carried);
            } else {
                let _ = tell.send(carried);
                noting.await;
            }
        }));
        told
    }

    /// One attempt: each leg of the route in turn, until one takes it or the lease is nearly over. Each leg has its share of the
    /// time that is left, so that one that hangs leaves enough for the next.
    async fn carry(&self, standing: &Standing, id: DeliveryId, message: Arc<Message>, until: Timestamp) -> Carried {
        let until = until.min(self.now() + ATTEMPT);
        let mut later: Option<Option<Duration>> = None;
        let mut why = "no provider is left on its route".to_owned();
        let legs = route::legs(&standing.tenant.routes, message.channel, &message.to);
        for (at, leg) in legs.iter().enumerate() {
            let Some(built) = standing.carrier(*leg, message.channel) else { continue };
            let left = until.since(self.now());
            if left.is_zero() {
                return Carried::Later { asked: None };
            }
            let legs_left = u32::try_from(legs.len() - at).unwrap_or(u32::MAX);
            let error = match built.provider() {
                Ok(Provider::Sends(sends)) => match self.send(&**sends, id, message.clone(), left / legs_left).await {
                    Ok(receipt) => return Carried::Taken { provider: *leg, receipt },
                    Err(error) => error,
                },
                Ok(Provider::Verifies(_) | Provider::Rings(_)) => SendError::Refused("it carries no codes of ours".into()),
                Err(_) => SendError::Refused("its settings are wrong".into()),
            };
            tracing::warn!(
                tenant.id = %standing.tenant.id, delivery.id = %id, provider.id = %leg, provider.name = built.name, channel = %message.channel,
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

    async fn send(&self, sends: &dyn Sends, id: DeliveryId, message: Arc<Message>, within: Duration) -> Result<Receipt, SendError> {
        let sending = sends.send(id, message);
        let late = || SendError::Unavailable { why: "it took too long".into(), retry_after: None };
        first_of(sending, self.0.with.tasks.pause(within)).await.unwrap_or_else(|| Err(late()))
    }

    /// Notes how an attempt ended. The note is on its way when this returns; the future says when it is durable.
    fn note(&self, tenant: TenantId, delivery: Delivery, carried: Carried) -> Pending<'static, ()> {
        let now = self.now();
        let id = delivery.id;
        let attempt = match &delivery.stage {
            DeliveryStage::Queued { attempt, .. } => *attempt,
            DeliveryStage::Sent { .. } | DeliveryStage::Failed { .. } => 0,
        };
        let challenge = delivery.challenge;
        let what = match &carried {
            Carried::Taken { provider, .. } => What::Sent { delivery: id, provider: *provider },
            Carried::Later { .. } => What::Postponed { delivery: id, attempt },
            Carried::Refused { why } | Carried::NoSuchAddress { why } => What::Undelivered { delivery: id, why: why.clone() },
        };
        let event = self.event(now, what);
        let first = match carried {
            Carried::Taken { .. } => vec![Key::Delivery(id)],
            Carried::Later { .. } | Carried::Refused { .. } | Carried::NoSuchAddress { .. } => {
                vec![Key::Delivery(id), Key::Challenge(challenge)]
            }
        };
        // Judging twice does no harm: what is sent or failed already stays as it is.
        let judge = move |seen: &mut Seen| {
            let Some(held) = seen.delivery(id) else { return Change::none() };
            let DeliveryStage::Queued { attempt: begun, .. } = &held.noun.stage else { return Change::none() };
            let begun = *begun;
            let change = Change::none();
            let change = match &carried {
                Carried::Taken { provider, receipt } => {
                    let sent = DeliveryStage::Sent { at: now, provider: *provider, receipt: receipt.0.clone() };
                    change.replace(Record::Delivery(held.noun.over(sent)), held.version)
                }
                // Somebody else has begun another attempt since: what becomes of it is theirs to say.
                _ if begun != attempt => return Change::none(),
                Carried::Later { asked } => change.replace(Record::Delivery(held.noun.postponed(now, *asked)), held.version),
                Carried::Refused { why } | Carried::NoSuchAddress { why } => {
                    let failed = DeliveryStage::Failed { at: now, why: why.clone() };
                    let change = change.replace(Record::Delivery(held.noun.over(failed)), held.version);
                    match seen.challenge(challenge) {
                        Some(it) if it.noun.awaits(id, now) => change.replace(Record::Challenge(it.noun.undelivered(id, now)), it.version),
                        _ => change,
                    }
                }
            };
            change.tell(event.clone())
        };
        let core = self.clone();
        let decide = move || {
            let judge = judge.clone();
            core.store().decide(tenant, first.clone(), Box::new(move |seen| Step::Write(judge(seen))))
        };
        let first = decide();
        let core = self.clone();
        Box::pin(async move {
            let aside = || core.0.set_aside.lock().expect("nobody panics while holding it");
            let mut noted = first.await;
            for _ in 0..NOTE_TRIES {
                if !matches!(noted, Err(Fault::Unavailable { .. } | Fault::Contended)) {
                    break;
                }
                // Its lease may end meanwhile, and this node must not send what it has sent.
                aside().put(id, core.now() + ASIDE);
                core.0.with.tasks.pause(NOTE_RESTS).await;
                noted = decide().await;
            }
            aside().take_back(id);
            if let Err(fault) = noted {
                tracing::error!(
                    tenant.id = %tenant, delivery.id = %id,
                    "How delivery {id} ended could not be noted, so it may be sent once more: {fault}"
                );
            }
        })
    }
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
