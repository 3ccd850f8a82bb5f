//! Resending: another code for the same challenge.
//!
//! The deadline and the attempts stay, the code is another one, and the old one is void (invariant 3). While the last message
//! is still on its way there is no other, so that two codes of one challenge are never in flight together (invariant 5).

use super::request::{Requested, count_failures, order_place, refused_by_lock, sends_of, take_sends};
use super::{Core, Judged, Scope};
use crate::nouns::challenge::{Challenge, Purpose, Stage};
use crate::nouns::delivery::Order;
use crate::nouns::event::What;
use crate::ports::{Change, Key, Record, Seen};
use crate::words::id::{ChallengeId, DeliveryId};
use crate::words::refusal::{Error, Fault, Refusal};
use crate::words::time::Timestamp;

impl Core {
    /// Sends another code for an open challenge, to the same address and with the same words.
    ///
    /// # Errors
    /// Refusals: `ChallengeUnknown` (also when it is over, or nothing is sent for it), `ResendTooSoon`, `SendsExhausted`, `Locked`,
    /// `TemplateBroken`, `DeliveryRefused`, `AddressUnreachable`.
    pub async fn resend(&self, scope: &Scope, id: ChallengeId) -> Result<Requested, Error> {
        self.resend_for(scope, id, Purpose::Authenticate, false).await
    }

    /// The same for a challenge of this purpose; one of another is unknown.
    pub(crate) async fn resend_for(&self, scope: &Scope, id: ChallengeId, purpose: Purpose, is_proven: bool) -> Result<Requested, Error> {
        let now = self.now();
        let tenant = scope.tenant.tenant.id;
        let Some(Record::Challenge(challenge)) = self.store().find(tenant, Key::Challenge(id)).await?.map(|it| it.noun) else {
            return Err(Refusal::ChallengeUnknown.into());
        };
        let (last, expires_at) = resendable(scope, &challenge, purpose, now).ok_or(Refusal::ChallengeUnknown)?;
        let Some(Record::Delivery(before)) = self.store().find(tenant, Key::Delivery(last)).await?.map(|it| it.noun) else {
            return Err(Refusal::ChallengeUnknown.into());
        };
        let order: Order = Self::open(&scope.tenant.keys, order_place(&last), &before.order, "an order")?;
        // A template that was removed meanwhile leaves the standard words.
        let template = order.template.and_then(|id| scope.tenant.templates.iter().find(|it| it.id == id));
        let prepared = self.prepare(scope, id, challenge.channel, &order, template, now)?;
        let (delivery, proof, failures) = (prepared.delivery.clone(), prepared.proof, challenge.failures.clone());
        let (sends, policy) = (sends_of(scope, &order, is_proven), scope.tenant.tenant.policy.clone());
        let resent = self.event(now, What::Resent { challenge: id, delivery: delivery.id });
        let refused_sends = self.event(now, What::RefusedSends { channel: challenge.channel });
        let judge = move |seen: &mut Seen| {
            let refused = |refusal| Judged::Write(Change::none(), Err(refusal));
            let Some(challenge) = seen.challenge(id) else { return refused(Refusal::ChallengeUnknown) };
            let still_open = matches!(&challenge.noun.stage, Stage::Open { expires_at, .. } if now < *expires_at);
            if !still_open {
                return refused(Refusal::ChallengeUnknown);
            }
            if !challenge.noun.awaits(last, now) || seen.delivery(last).is_some_and(|it| it.noun.due_at().is_some()) {
                return refused(Refusal::ResendTooSoon);
            }
            let locks = failures.iter().filter_map(|of| refused_by_lock(&count_failures(seen.limit(*of)).0, now));
            if let Some(locked) = locks.collect::<Vec<_>>().pop() {
                return refused(locked);
            }
            match take_sends(seen, sends, now, &policy, &refused_sends) {
                Err((note, refusal)) => Judged::Write(note, Err(refusal)),
                Ok(change) => {
                    let change = change
                        .replace(Record::Challenge(challenge.noun.recoded(proof.clone())), challenge.version)
                        .insert(Record::Delivery(delivery.clone()))
                        .tell(resent.clone());
                    Judged::Write(change, Ok(()))
                }
            }
        };
        let limits = challenge.failures.iter().copied().chain(sends).map(Key::Limit);
        let first = [Key::Challenge(id), Key::Delivery(last)].into_iter().chain(limits).collect();
        self.decide(tenant, first, judge).await?.ok_or(Fault::Contended)??;
        let sent = self.deliver_now(scope, prepared.delivery, prepared.load).await?;
        Ok(Requested { challenge: id, expires_at, sent })
    }
}

/// The delivery that carries the live code, and the deadline: only an open challenge for which something was sent has them.
fn resendable(scope: &Scope, challenge: &Challenge, purpose: Purpose, now: Timestamp) -> Option<(DeliveryId, Timestamp)> {
    match &challenge.stage {
        Stage::Open { expires_at, .. } if challenge.realm == scope.realm && challenge.purpose == purpose && now < *expires_at => {
            challenge.delivery().map(|delivery| (delivery, *expires_at))
        }
        _ => None,
    }
}
