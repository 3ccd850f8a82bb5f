//! Signing in with a second factor, and activating one.
//!
//! Owns what lies between a first factor that was right and the end of the second: the token that callers hold meanwhile, whom it
//! belongs to and what it is good for, and which challenge is the live one. Sending is [`request`](super::request) and
//! [`resend`](super::resend), judging is [`verify`](super::verify); all dialects that know such a token end here.

use super::request::{Opening, named};
use super::{Core, Judged, Scope};
use crate::nouns::challenge::Purpose;
use crate::nouns::delivery::Order;
use crate::nouns::event::What;
use crate::nouns::sign_in::{Baggage, Finishes, SignIn};
use crate::ports::{Change, Key, Record, Seen};
use crate::verbs::request::Sent;
use crate::verbs::verify::Answered;
use crate::words::address::{Fingerprint, Login};
use crate::words::refusal::{Error, Fault, Refusal};
use crate::words::secret::{Offered, Place, Secret};
use std::time::Duration;

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

impl Core {
    /// Begins a sign-in for a person who has shown a first factor, without sending anything. Gives its token, which is told once.
    ///
    /// # Errors
    /// A fault of the store.
    pub async fn begin_sign_in(&self, scope: &Scope, new: NewSignIn) -> Result<Secret, Error> {
        let (token, sign_in) = self.new_sign_in(scope, &new)?;
        let event = self.event(self.now(), What::SignInBegun { user: sign_in.user, finishes: sign_in.purpose });
        let judge = move |_: &mut Seen| Judged::Write(Change::none().insert(Record::SignIn(sign_in.clone())).tell(event.clone()), ());
        self.decide(scope.tenant.tenant.id, Vec::new(), judge).await?.ok_or(Fault::Contended)?;
        Ok(token)
    }

    /// Begins a sign-in and sends its first code, as one change. Where the code could not be sent there is no token to be told, and so no
    /// sign-in that anybody could go on with.
    ///
    /// # Errors
    /// Refusals: those of [`Core::request`].
    pub async fn begin_sign_in_with_code(&self, scope: &Scope, new: NewSignIn) -> Result<(Secret, Sent), Error> {
        let (token, sign_in) = self.new_sign_in(scope, &new)?;
        let NewSignIn { login, baggage: Baggage { channel, to, .. }, .. } = new;
        let opening = Opening::Begins(sign_in);
        let requested = self.request_code(scope, channel, Order { to, login, template: None }, None, opening).await?;
        Ok((token, requested.sent))
    }

    /// Sends a code for a sign-in: another one for the challenge that is open (invariant 3), or the first of a new challenge.
    ///
    /// # Errors
    /// Refusals: `SignInUnknown`, and those of [`Core::request`].
    pub async fn challenge_sign_in(&self, scope: &Scope, login: &Login, token: &Secret) -> Result<Sent, Error> {
        let (of, sign_in) = self.sign_in(scope, login, token).await?;
        if let Some(id) = sign_in.challenge {
            match self.resend_for(scope, id, Purpose::SignIn(of)).await {
                Ok(requested) => return Ok(requested.sent),
                // The last one is still on its way, and will come.
                Err(Error::Refused(Refusal::ResendTooSoon)) => return Ok(Sent::Queued),
                // It is over.
                Err(Error::Refused(Refusal::ChallengeUnknown)) => {}
                Err(no) => return Err(no),
            }
        }
        let Baggage { channel, to, .. } = self.baggage(scope, &sign_in)?;
        let opening = Opening::Within { of, before: sign_in.challenge };
        let order = Order { to, login: login.clone(), template: None };
        match self.request_code(scope, channel, order, None, opening).await {
            Ok(requested) => Ok(requested.sent),
            // Another call of the same person was faster to send one.
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
    ) -> Result<(Answered, Baggage), Error> {
        let (_, sign_in) = self.sign_in(scope, login, token).await?;
        if sign_in.purpose != purpose {
            return Err(Refusal::SignInUnknown.into());
        }
        let baggage = self.baggage(scope, &sign_in)?;
        let Some(challenge) = sign_in.challenge else { return Ok((Answered::Over, baggage)) };
        Ok((self.answer_sign_in(scope, challenge, &sign_in, offered).await?, baggage))
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
        let mut random = [0; 16];
        self.chance().fill(&mut random);
        // A UUID of version 4 (RFC 9562 §5.4), because that is what callers know such tokens to look like: 122 random bits.
        let token = Secret::new(uuid::Builder::from_random_bytes(random).into_uuid().to_string());
        let of = by_token(scope, &token);
        let baggage = self.seal(&scope.tenant.keys, baggage_place(&of), &new.baggage)?;
        let (user, over_at) = (named(scope, &new.login), self.now() + new.lasts);
        Ok((token, SignIn { of, user, purpose: new.purpose, challenge: None, baggage, over_at }))
    }

    async fn sign_in(&self, scope: &Scope, login: &Login, token: &Secret) -> Result<(Fingerprint, SignIn), Error> {
        let of = by_token(scope, token);
        let found = self.store().find(scope.tenant.tenant.id, Key::SignIn(of)).await?;
        match found.map(|held| held.noun) {
            Some(Record::SignIn(it)) if it.is_for(named(scope, login), it.purpose, self.now()) => Ok((of, it)),
            _ => Err(Refusal::SignInUnknown.into()),
        }
    }

    fn baggage(&self, scope: &Scope, sign_in: &SignIn) -> Result<Baggage, Fault> {
        let plain = scope.tenant.keys.open_sealed(baggage_place(&sign_in.of), &sign_in.baggage)?;
        serde_json::from_slice(&plain).map_err(|_| Fault::Corrupt("what a sign-in carries cannot be read".into()))
    }
}

fn by_token(scope: &Scope, token: &Secret) -> Fingerprint {
    scope.tenant.keys.fingerprint("sign-in", &[scope.realm.as_bytes(), token.reveal().as_bytes()])
}

fn baggage_place(of: &Fingerprint) -> Place<'_> {
    Place { noun: "sign_in", id: of.as_bytes(), field: "baggage" }
}
