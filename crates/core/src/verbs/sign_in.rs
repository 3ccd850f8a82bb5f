//! Signing in with a second factor, and activating one.
//!
//! Owns what lies between a first factor that was right and the end of the second: the token that callers hold meanwhile, whom it
//! belongs to and what it is good for, and which challenge is the live one. Sending is [`request`](super::request) and
//! [`resend`](super::resend), judging is [`verify`](super::verify); all dialects that know such a token end here.

use super::account::taken;
use super::request::{Opening, begun_of, named};
use super::{Core, Judged, Scope};
use crate::nouns::challenge::Purpose;
use crate::nouns::delivery::Order;
use crate::nouns::event::What;
use crate::nouns::sign_in::{Baggage, Finishes, Passage, SignIn};
use crate::ports::{Change, Key, Record, Seen};
use crate::verbs::request::{Requested, Sent};
use crate::verbs::verify::Answered;
use crate::words::address::{Fingerprint, Login};
use crate::words::id::ChallengeId;
use crate::words::refusal::{Error, Fault, Refusal};
use crate::words::secret::{Offered, Place, Secret};
use std::time::Duration;

/// How many times what the policy says of sends a person may begin to sign in.
const BEGUN: u16 = 10;

/// A sign-in that is to begin.
#[derive(Debug, Clone)]
pub struct NewSignIn {
    /// Who has shown a first factor.
    pub login: Login,
    /// What finishing it is good for.
    pub purpose: Finishes,
    /// What it carries along.
    pub baggage: Baggage,
    /// How long the person has.
    pub lasts: Duration,
}

/// What came of an answer in a sign-in.
#[derive(Debug)]
pub struct Proven {
    /// The verdict.
    pub answered: Answered,
    /// What the sign-in carries along.
    pub baggage: Baggage,
    /// For a log-in to an account of ours that is finished by it.
    pub passage: Option<Passage>,
}

impl Core {
    /// Begins a sign-in for a person who has shown a first factor, without sending anything. Gives its token, which is told once.
    ///
    /// # Errors
    /// Refusals: `TriesExhausted` when the person has begun too many.
    pub async fn begin_sign_in(&self, scope: &Scope, new: NewSignIn) -> Result<Secret, Error> {
        let (token, sign_in) = self.new_sign_in(scope, &new)?;
        // Each is kept until it is over, and costs whoever knows a password nothing.
        let begun = begun_of(&scope.tenant.keys, sign_in.user);
        let (now, policy) = (self.now(), scope.tenant.tenant.policy.clone());
        let event = self.event(now, What::SignInBegun { user: sign_in.user, finishes: sign_in.purpose });
        let judge = move |seen: &mut Seen| {
            let (change, told) = taken(seen, [(begun, BEGUN)], now, &policy);
            match told {
                Ok(()) => Judged::Write(change.insert(Record::SignIn(sign_in.clone())).tell(event.clone()), Ok(())),
                Err(refusal) => Judged::Write(change, Err(refusal)),
            }
        };
        self.decide(scope.tenant.tenant.id, vec![Key::Limit(begun)], judge).await?.ok_or(Fault::Contended)??;
        Ok(token)
    }

    /// Begins a sign-in and sends its first code, as one change. Where no provider takes the code now there is no sign-in, and the code is
    /// not sent later.
    ///
    /// # Errors
    /// Refusals: those of [`Core::request`]; `DeliveryRefused` also where a provider may take it later.
    pub async fn begin_sign_in_with_code(&self, scope: &Scope, new: NewSignIn) -> Result<(Secret, Sent), Error> {
        let (token, sign_in) = self.new_sign_in(scope, &new)?;
        let NewSignIn { login, baggage: Baggage { channel, to, .. }, .. } = new;
        let of = sign_in.of;
        let order = Order { to, login, template: None };
        let requested = self.request_code(scope, channel, order, None, Opening::Begins(sign_in)).await?;
        if requested.sent == Sent::Postponed {
            self.give_up(scope, requested.challenge, Some(of)).await?;
            return Err(Refusal::DeliveryRefused.into());
        }
        Ok((token, requested.sent))
    }

    /// Ends a challenge whose code was not sent, so that it does not come later either; and the sign-in, when it began with it: nobody
    /// gets to know its token.
    async fn give_up(&self, scope: &Scope, id: ChallengeId, begun: Option<Fingerprint>) -> Result<(), Fault> {
        let now = self.now();
        let judge = move |seen: &mut Seen| {
            let open = seen.challenge(id).filter(|held| held.noun.is_open());
            let change =
                open.map_or_else(Change::none, |held| Change::none().replace(Record::Challenge(held.noun.expired(now)), held.version));
            let gone = begun.and_then(|of| seen.sign_in(of));
            let change = match gone {
                Some(held) => change.remove(Key::SignIn(held.noun.of), held.version),
                None => change,
            };
            Judged::Write(change, ())
        };
        let first = [Key::Challenge(id)].into_iter().chain(begun.map(Key::SignIn)).collect();
        self.decide(scope.tenant.tenant.id, first, judge).await?.ok_or(Fault::Contended)
    }

    /// Sends a code for a sign-in: another one for the challenge that is open (invariant 3), or the first of a new challenge. Where no
    /// provider takes it now, it is not sent later: whoever asks again gets another one.
    ///
    /// # Errors
    /// Refusals: `SignInUnknown`, and those of [`Core::request`]; `DeliveryRefused` also where a provider may take it later.
    pub async fn challenge_sign_in(&self, scope: &Scope, login: &Login, token: &Secret) -> Result<Sent, Error> {
        let (sign_in, baggage) = self.sign_in(scope, login, token).await?;
        let (of, is_proven) = (sign_in.of, sign_in.asks_a_proven_address());
        let mut sent = match sign_in.challenge {
            Some(id) => self.resend_for(scope, id, Purpose::SignIn(of), is_proven).await,
            None => Err(Refusal::ChallengeUnknown.into()),
        };
        // There is none, or it is over.
        if matches!(sent, Err(Error::Refused(Refusal::ChallengeUnknown))) {
            let opening = Opening::Within { of, before: sign_in.challenge, is_proven };
            let order = Order { to: baggage.to, login: login.clone(), template: None };
            sent = self.request_code(scope, baggage.channel, order, None, opening).await;
        }
        match sent {
            Ok(Requested { sent: Sent::Postponed, challenge, .. }) => {
                self.give_up(scope, challenge, None).await?;
                Err(Refusal::DeliveryRefused.into())
            }
            Ok(requested) => Ok(requested.sent),
            // The last one is still on its way, or another call of the same person was faster: it will come.
            Err(Error::Refused(Refusal::ResendTooSoon)) => Ok(Sent::Queued),
            Err(no) => Err(no),
        }
    }

    /// Judges what is `offered` in a sign-in for `purpose`. Before a code was sent nothing can be right, and nobody is asked.
    ///
    /// A right answer finishes a log-in. An activation goes on until [`Core::end_sign_in`], so that what it is for can be kept first; it
    /// takes no answer meanwhile. The last wrong answer ends either.
    ///
    /// # Errors
    /// Refusals: `SignInUnknown` (also for another person's, and for the other purpose), `AnswerMalformed`, `Locked`, `NoVerdict`.
    pub async fn prove_sign_in(
        &self,
        scope: &Scope,
        login: &Login,
        token: &Secret,
        purpose: Finishes,
        offered: Offered,
    ) -> Result<Proven, Error> {
        let (sign_in, baggage) = self.sign_in(scope, login, token).await?;
        if sign_in.purpose != purpose {
            return Err(Refusal::SignInUnknown.into());
        }
        let answered = match sign_in.challenge {
            None => Answered::Over,
            Some(challenge) => self.answer_sign_in(scope, challenge, &sign_in, offered).await?,
        };
        let passage = match (answered, purpose, baggage.account) {
            (Answered::Passed, Finishes::Login, Some((account, _))) => Some(Passage { account }),
            _ => None,
        };
        Ok(Proven { answered, baggage, passage })
    }

    /// Ends a sign-in; one that is over is left as it is.
    ///
    /// # Errors
    /// A fault of the store.
    pub async fn end_sign_in(&self, scope: &Scope, token: &Secret) -> Result<(), Error> {
        let of = by_token(scope, token);
        let judge = move |seen: &mut Seen| {
            let gone = seen.sign_in(of).map(|held| Change::none().remove(Key::SignIn(of), held.version));
            Judged::Write(gone.unwrap_or_default(), ())
        };
        self.decide(scope.tenant.tenant.id, vec![Key::SignIn(of)], judge).await?.ok_or(Fault::Contended)?;
        Ok(())
    }

    fn new_sign_in(&self, scope: &Scope, new: &NewSignIn) -> Result<(Secret, SignIn), Fault> {
        let token = Secret::draw_uuid(self.chance());
        let of = by_token(scope, &token);
        let baggage = self.seal(&scope.tenant.keys, baggage_place(&of), &new.baggage)?;
        let (user, over_at) = (named(scope, &new.login), self.now() + new.lasts);
        Ok((token, SignIn { of, user, purpose: new.purpose, challenge: None, baggage, over_at }))
    }

    async fn sign_in(&self, scope: &Scope, login: &Login, token: &Secret) -> Result<(SignIn, Baggage), Error> {
        let of = by_token(scope, token);
        let found = self.store().find(scope.tenant.tenant.id, Key::SignIn(of)).await?;
        let Some(Record::SignIn(it)) = found.map(|held| held.noun) else { return Err(Refusal::SignInUnknown.into()) };
        if !it.is_for(named(scope, login), self.now()) {
            return Err(Refusal::SignInUnknown.into());
        }
        let baggage = self.baggage(scope, &it)?;
        // Who was removed, or has another second factor by now, begins anew.
        if let Some((account, factor)) = baggage.account {
            let still = self.store().find(scope.tenant.tenant.id, Key::Factor(factor)).await?;
            if !matches!(still.map(|it| it.noun), Some(Record::Factor(it)) if it.user == account) {
                return Err(Refusal::SignInUnknown.into());
            }
        }
        Ok((it, baggage))
    }

    fn baggage(&self, scope: &Scope, sign_in: &SignIn) -> Result<Baggage, Fault> {
        Self::open(&scope.tenant.keys, baggage_place(&sign_in.of), &sign_in.baggage, "what a sign-in carries")
    }
}

fn by_token(scope: &Scope, token: &Secret) -> Fingerprint {
    scope.tenant.keys.fingerprint("sign-in", &[scope.realm.as_bytes(), token.reveal().as_bytes()])
}

fn baggage_place(of: &Fingerprint) -> Place<'_> {
    Place { noun: "sign_in", id: of.as_bytes(), field: "baggage" }
}
