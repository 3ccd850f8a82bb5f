//! Answering a challenge.
//!
//! Codes, values of an authenticator and the first value of a new one are all judged here, whoever asks. What is right is decided by
//! [`Challenge::answer`]; around it are the locks, the counts and the record of what happened. Attempt, counts and verdict are one
//! change, so that nobody hears a verdict that was not paid for (invariant 2). Where the provider made the code, attempt and counts are
//! one change, then the provider is asked, and its verdict is another, before anybody hears it.

use super::deliver::first_of;
use super::request::{count_failures, named, order_place, refused_by_lock};
use super::standing::Standing;
use super::{Core, Judged, Scope};
use crate::nouns::challenge::{Challenge, Evidence, Proof, Purpose, Stage, Verdict};
use crate::nouns::delivery::{Delivery, DeliveryStage, Order};
use crate::nouns::event::{Event, What};
use crate::nouns::factor::{Factor, FactorKind};
use crate::nouns::limit::{Count, Failures, Limit, Lock};
use crate::nouns::sign_in::{Finishes, SignIn};
use crate::nouns::totp;
use crate::ports::{Change, CheckError, Held, Key, Provider, Receipt, Record, Seen};
use crate::words::address::{Address, Channel, Fingerprint, Login};
use crate::words::id::{ChallengeId, DeliveryId, EventId, FactorId, ProviderId};
use crate::words::refusal::{Error, Fault, Refusal};
use crate::words::secret::{Answer, BadAnswer, Offered, Place, Secret, TenantKeys};
use futures_channel::oneshot;
use std::num::NonZeroU8;
use zeroize::Zeroizing;

/// What came of an answer, for the dialect to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answered {
    /// Right.
    Passed,
    /// Wrong, and paid for.
    Wrong {
        /// How many more wrong answers the challenge takes.
        attempts_left: NonZeroU8,
    },
    /// Wrong, and the last one: the challenge is over and the factor locked.
    LastWrong,
    /// Wrong, says the provider that made the code and checks it; paid for, like any other.
    Declined {
        /// How many more wrong answers the challenge takes; none when it is over and the factor locked.
        attempts_left: Option<NonZeroU8>,
    },
    /// The challenge was over before: passed, spent, failed or expired.
    Over,
}

/// For what an answer is given. A challenge of another purpose is unknown.
#[derive(Debug, Clone)]
enum For {
    Authentication { channel: Option<Channel> },
    Enrolment { of: Fingerprint },
    SignIn { of: Fingerprint, user: Fingerprint },
}

/// What a judge says of an answer.
enum Judgement {
    /// It is done.
    Told(Answered, String),
    /// It is paid for, and somebody else knows whether it was right.
    Ask(Asking),
}

/// An answer that is paid for and not judged yet.
struct Asking {
    provider: ProviderId,
    receipt: Receipt,
    to: Address,
    channel: Channel,
    /// Where it is paid, and in which round of each count.
    paid: Vec<(Fingerprint, Option<EventId>)>,
}

impl Core {
    /// Judges `answer`. A malformed answer costs nothing; a wrong one is paid before this returns (invariant 2). `channel` is
    /// what the caller believes it to be, if it says.
    ///
    /// # Errors
    /// Refusals: `ChallengeUnknown` (also for another client's), `ChannelDiffers`, `AnswerMalformed`, `Locked`.
    pub async fn verify(&self, scope: &Scope, id: ChallengeId, channel: Option<Channel>, answer: &str) -> Result<Answered, Error> {
        self.answer(scope, id, For::Authentication { channel }, Offered::code(answer)).await.map(|(answered, _)| answered)
    }

    /// Judges the first value of a new authenticator; a right one makes it active. Gives the device's name with the verdict.
    ///
    /// # Errors
    /// Refusals: `UserUnknown`, `ChallengeUnknown`, `DeviceActive`, `AnswerMalformed`, `Locked`.
    pub async fn activate(&self, scope: &Scope, login: &Login, id: ChallengeId, answer: &str) -> Result<(Answered, String), Error> {
        self.answer(scope, id, For::Enrolment { of: named(scope, login) }, Offered::code(answer)).await
    }

    /// Judges what is `offered` for a challenge of a sign-in. A right answer finishes a log-in: its record goes with the same change. An
    /// activation stays until it is ended. The last wrong answer ends either.
    pub(crate) async fn answer_sign_in(
        &self,
        scope: &Scope,
        id: ChallengeId,
        sign_in: &SignIn,
        offered: Offered,
    ) -> Result<Answered, Error> {
        let what_for = For::SignIn { of: sign_in.of, user: sign_in.user };
        self.answer(scope, id, what_for, offered).await.map(|(answered, _)| answered)
    }

    async fn answer(&self, scope: &Scope, id: ChallengeId, what_for: For, offered: Offered) -> Result<(Answered, String), Error> {
        let judged = self.judge(scope, id, what_for.clone(), offered.code.clone()).await?;
        match judged {
            Judgement::Told(answered, name) => Ok((answered, name)),
            Judgement::Ask(asking) => {
                // Who has hung up has paid; a right answer counts all the same.
                let (tell, told) = oneshot::channel();
                let (core, scope) = (self.clone(), scope.clone());
                self.0.with.tasks.detach(Box::pin(async move {
                    let _ = tell.send(core.ask_provider(&scope, id, &what_for, asking, offered).await);
                }));
                let answered = told.await.map_err(|_| Fault::Corrupt("asking a provider came to no end".into()))??;
                Ok((answered, String::new()))
            }
        }
    }

    async fn judge(&self, scope: &Scope, id: ChallengeId, what_for: For, answer: Secret) -> Result<Judgement, Error> {
        let now = self.now();
        let tenant = scope.tenant.clone();
        let (realm, event) = (scope.realm, EventId::new(now, self.chance()));
        let mut first = vec![Key::Challenge(id)];
        match &what_for {
            For::Enrolment { of } => first.push(Key::UserNamed(*of)),
            For::SignIn { of, .. } => first.push(Key::SignIn(*of)),
            For::Authentication { .. } => {}
        }
        let judge = move |seen: &mut Seen| {
            let refused = |refusal: Refusal| Judged::Write(Change::none(), Err(Error::from(refusal)));
            // First everything that there is to see, then the rules.
            let Some(challenge) = seen.peek_challenge(id).filter(|it| it.realm == realm) else {
                return refused(match &what_for {
                    For::Enrolment { of } if seen.peek(Key::UserNamed(*of)).is_none() => Refusal::UserUnknown,
                    For::SignIn { .. } => Refusal::SignInUnknown,
                    For::Enrolment { .. } | For::Authentication { .. } => Refusal::ChallengeUnknown,
                });
            };
            let counts = challenge.failures.iter().map(|of| Key::Limit(*of));
            let measured_by = factor_of(challenge).map(Key::Factor).into_iter().chain(asked_by(challenge).map(Key::Delivery));
            let more: Vec<Key> = counts.chain(measured_by).filter(|key| !seen.has_looked_at(*key)).collect();
            if !more.is_empty() {
                return Judged::Look(more);
            }
            match (&what_for, challenge.purpose) {
                (For::Authentication { channel }, Purpose::Authenticate) => {
                    if channel.is_some_and(|said| said != challenge.channel) {
                        return refused(Refusal::ChannelDiffers { opened_for: challenge.channel });
                    }
                }
                (For::Enrolment { of }, Purpose::Enroll(factor)) => {
                    let Some(Record::User(user)) = seen.peek(Key::UserNamed(*of)) else { return refused(Refusal::UserUnknown) };
                    match seen.peek(Key::Factor(factor)) {
                        Some(Record::Factor(it)) if it.user == user.id && it.is_active() => return refused(Refusal::DeviceActive),
                        Some(Record::Factor(it)) if it.user == user.id => {}
                        _ => return refused(Refusal::ChallengeUnknown),
                    }
                }
                (For::SignIn { of, user }, Purpose::SignIn(opened_for)) => match seen.peek(Key::SignIn(*of)) {
                    Some(Record::SignIn(it)) if opened_for == *of && it.challenge == Some(id) && it.is_for(*user, now) => {}
                    _ => return refused(Refusal::SignInUnknown),
                },
                (For::Authentication { .. }, Purpose::Enroll(_) | Purpose::SignIn(_))
                | (For::Enrolment { .. }, Purpose::Authenticate | Purpose::SignIn(_))
                | (For::SignIn { .. }, Purpose::Authenticate | Purpose::Enroll(_)) => return refused(Refusal::ChallengeUnknown),
            }
            let policy = &tenant.tenant.policy;
            let length = if challenge.channel == Channel::Totp { totp::DIGITS } else { policy.code_length };
            let asked_by = asked_by(challenge);
            // How long a code of theirs is, only they know. What is none at all, or could be more than one, is no guess: it would stand in
            // their address or form beside what the tenant has written there.
            let parsed = match asked_by {
                Some(_) if !is_one_word(answer.reveal()) => Err(BadAnswer { length }),
                Some(_) => Ok(None),
                // Of what is over nobody knows any more whose code it was.
                None if !challenge.is_open() => Ok(Answer::parse(answer.reveal(), length).ok()),
                None => Answer::parse(answer.reveal(), length).map(Some),
            };
            let guess = match parsed {
                Ok(guess) => guess,
                Err(malformed) => return refused(malformed.into()),
            };
            let Some(challenge) = seen.challenge(id) else { return refused(Refusal::ChallengeUnknown) };
            let counts: Vec<_> = challenge.noun.failures.iter().map(|of| (*of, count_failures(seen.limit(*of)))).collect();
            let takes_answers = matches!(challenge.noun.stage, Stage::Open { expires_at, .. } if now < expires_at);
            if takes_answers && let Some(locked) = counts.iter().find_map(|(_, (count, _))| refused_by_lock(count, now)) {
                return refused(locked);
            }
            let asking = match asked_by.map(|id| asking(&tenant, &challenge.noun, seen.delivery(id))) {
                None => None,
                Some(Ok(Some(asking))) => Some(asking),
                // Nothing was sent yet, so there is no code that could be right, and nobody is asked.
                Some(Ok(None)) => return refused(BadAnswer { length }.into()),
                Some(Err(fault)) => return Judged::Write(Change::none(), Err(fault.into())),
            };
            // A device that was removed meanwhile proves nothing any more.
            let factor = factor_of(&challenge.noun).map(|id| seen.factor(id));
            let (evidence, factor) = match (guess, factor) {
                (None, _) => (Evidence::Elsewhere, None),
                (Some(guess), None) => (Evidence::Code(tenant.keys.code(id, guess.as_str())), None),
                (Some(_), Some(None)) => (Evidence::Step(None), None),
                (Some(guess), Some(Some(held))) => match open_seed(&tenant.keys, &held.noun) {
                    Ok(Some((seed, burnt))) => {
                        let step = totp::matching(&seed, &guess, now, burnt);
                        (Evidence::Step(step), Some((held, step)))
                    }
                    Ok(None) => (Evidence::Step(None), None),
                    Err(fault) => return Judged::Write(Change::none(), Err(fault.into())),
                },
            };
            let sign_in = match &what_for {
                For::SignIn { of, .. } => seen.sign_in(*of),
                For::Authentication { .. } | For::Enrolment { .. } => None,
            };
            let (next, verdict) = challenge.noun.answer(&evidence, now);
            let tell = |what| Event { id: event, at: now, what };
            let name = factor.as_ref().map_or_else(String::new, |(held, _)| held.noun.name.clone());
            let change = Change::none();
            match verdict {
                Verdict::Ended => Judged::Write(change, Ok(Judgement::Told(Answered::Over, name))),
                Verdict::Expired => {
                    let change = change.replace(Record::Challenge(next), challenge.version).tell(tell(What::Expired { challenge: id }));
                    Judged::Write(change, Ok(Judgement::Told(Answered::Over, name)))
                }
                Verdict::Passed => {
                    let what = match next.purpose {
                        Purpose::Authenticate | Purpose::SignIn(_) => What::Passed { challenge: id },
                        Purpose::Enroll(factor) => What::Enrolled { factor },
                    };
                    let mut change = change.replace(Record::Challenge(next), challenge.version).tell(tell(what));
                    for (of, (_, read)) in counts {
                        change = change.clear(Key::Limit(of), read);
                    }
                    if let Some((Held { noun: factor, version }, Some(step))) = factor {
                        change = change.replace(Record::Factor(factor.proven(step, now)), version);
                    }
                    Judged::Write(finish(change, sign_in), Ok(Judgement::Told(Answered::Passed, name)))
                }
                Verdict::Wrong { .. } | Verdict::LastWrong => {
                    let one_more = |count: Failures| count.begun_by(event, policy).one_more(now, policy);
                    let counts: Vec<_> = counts.into_iter().map(|(of, (count, read))| (of, one_more(count), read)).collect();
                    // Other challenges of the person or the address may have paid the rest of the round.
                    let locked = counts.iter().any(|(_, count, _)| count.lock(now) != Lock::Open);
                    let next = if locked { next.spent(now) } else { next };
                    let (answered, what) = match &next.stage {
                        Stage::Open { attempts_left, .. } => (
                            Answered::Wrong { attempts_left: *attempts_left },
                            What::Wrong { challenge: id, attempts_left: attempts_left.get() },
                        ),
                        Stage::Passed { .. } | Stage::Spent { .. } | Stage::Expired { .. } | Stage::Failed { .. } => {
                            (Answered::LastWrong, What::Spent { challenge: id })
                        }
                    };
                    let paid = counts.iter().map(|(of, count, _)| (*of, count.round())).collect();
                    let change = change.replace(Record::Challenge(next), challenge.version);
                    let change = counts.into_iter().fold(change, |change, (of, count, read)| {
                        change.put(Record::Limit(Limit { of, count: Count::Failures(count) }), read)
                    });
                    if let Some(asking) = asking {
                        return Judged::Write(change, Ok(Judgement::Ask(Asking { paid, ..asking })));
                    }
                    let change = match (&answered, sign_in) {
                        (Answered::LastWrong, Some(held)) => change.remove(Key::SignIn(held.noun.of), held.version),
                        _ => change,
                    };
                    Judged::Write(change.tell(tell(what)), Ok(Judgement::Told(answered, name)))
                }
            }
        };
        self.decide(scope.tenant.tenant.id, first, judge).await?.ok_or(Fault::Contended)?
    }

    /// Asks the provider that made the code whether an answer, which is paid for, is right; and writes down what it says before anybody
    /// hears it.
    async fn ask_provider(
        &self,
        scope: &Scope,
        id: ChallengeId,
        what_for: &For,
        asking: Asking,
        offered: Offered,
    ) -> Result<Answered, Error> {
        let Asking { provider, receipt, to, channel, paid } = asking;
        let heard = match scope.tenant.carrier(provider, channel).map(|it| it.provider()) {
            Some(Ok(Provider::Verifies(them))) => {
                let within = self.0.with.tasks.pause(scope.tenant.tenant.policy.answer_within());
                let late = || Err(CheckError::NoVerdict("it took too long".into()));
                first_of(them.check(receipt, to, offered), within).await.unwrap_or_else(late)
            }
            Some(_) | None => Err(CheckError::NotAsked("the provider that made the code is not there any more".into())),
        };
        if let Err(error) = &heard {
            tracing::warn!(
                tenant.id = %scope.tenant.tenant.id, challenge.id = %id, provider.id = %provider,
                "The answer to challenge {id} could not be checked: {error}"
            );
        }
        let (now, policy) = (self.now(), scope.tenant.tenant.policy.clone());
        let event = EventId::new(now, self.chance());
        let sign_in_of = match what_for {
            For::SignIn { of, .. } => Some(*of),
            For::Authentication { .. } | For::Enrolment { .. } => None,
        };
        let first = [Key::Challenge(id)].into_iter().chain(paid.iter().map(|(of, _)| Key::Limit(*of)));
        let first = first.chain(sign_in_of.map(Key::SignIn)).collect();
        let judge = move |seen: &mut Seen| {
            let tell = |what| Event { id: event, at: now, what };
            let Some(challenge) = seen.challenge(id) else {
                return Judged::Write(Change::none(), Err(Error::from(Refusal::ChallengeUnknown)));
            };
            let counts: Vec<_> = paid.iter().map(|(of, round)| (*of, *round, count_failures(seen.limit(*of)))).collect();
            // One that has gone on to another challenge has nothing to do with this one any more.
            let sign_in = sign_in_of.map(|of| seen.sign_in(of).filter(|it| it.noun.challenge == Some(id)));
            let change = Change::none();
            match &heard {
                Ok(true) => {
                    // Whose sign-in was finished or ended meanwhile, or has gone on, has nothing to finish any more.
                    let (Some(next), false) = (challenge.noun.proven(now), matches!(sign_in, Some(None))) else {
                        return Judged::Write(change, Ok(Answered::Over));
                    };
                    let change = change.replace(Record::Challenge(next), challenge.version).tell(tell(What::Passed { challenge: id }));
                    let change = counts.into_iter().fold(change, |change, (of, _, (_, read))| change.clear(Key::Limit(of), read));
                    Judged::Write(finish(change, sign_in.flatten()), Ok(Answered::Passed))
                }
                Ok(false) => {
                    let locked = counts.iter().any(|(_, _, (count, _))| count.lock(now) != Lock::Open);
                    match &challenge.noun.stage {
                        Stage::Open { attempts_left, .. } if !locked => {
                            let what = What::Wrong { challenge: id, attempts_left: attempts_left.get() };
                            Judged::Write(change.tell(tell(what)), Ok(Answered::Declined { attempts_left: Some(*attempts_left) }))
                        }
                        Stage::Open { .. } | Stage::Spent { .. } => {
                            let change = match sign_in.flatten() {
                                Some(held) => change.remove(Key::SignIn(held.noun.of), held.version),
                                None => change,
                            };
                            let what = What::Spent { challenge: id };
                            Judged::Write(change.tell(tell(what)), Ok(Answered::Declined { attempts_left: None }))
                        }
                        // It has come to another end meanwhile. This was not its last answer, and ends nothing else with it.
                        Stage::Passed { .. } | Stage::Expired { .. } | Stage::Failed { .. } => {
                            Judged::Write(change.tell(tell(What::Wrong { challenge: id, attempts_left: 0 })), Ok(Answered::Over))
                        }
                    }
                }
                Err(CheckError::NoVerdict(_)) => {
                    Judged::Write(change.tell(tell(What::Unjudged { challenge: id, is_paid: true })), Err(Refusal::NoVerdict.into()))
                }
                Err(CheckError::NotAsked(_)) => {
                    let change = change.replace(Record::Challenge(challenge.noun.given_back()), challenge.version);
                    let change = counts.into_iter().fold(change, |change, (of, round, (count, read))| match read {
                        Some(version) => {
                            change.replace(Record::Limit(Limit { of, count: Count::Failures(count.one_less(round, &policy)) }), version)
                        }
                        None => change,
                    });
                    Judged::Write(change.tell(tell(What::Unjudged { challenge: id, is_paid: false })), Err(Refusal::NoVerdict.into()))
                }
            }
        };
        self.decide(scope.tenant.tenant.id, first, judge).await?.ok_or(Fault::Contended)?
    }
}

/// A right answer finishes a log-in; an activation goes on until what it is for is kept, and takes no answer before another challenge.
fn finish(change: Change, sign_in: Option<Held<SignIn>>) -> Change {
    let Some(Held { noun, version }) = sign_in else { return change };
    match noun.purpose {
        Finishes::Login => change.remove(Key::SignIn(noun.of), version),
        Finishes::Activation => change.replace(Record::SignIn(SignIn { challenge: None, ..noun }), version),
    }
}

/// Whether `text` can be a code that somebody else made: letters, digits and hyphens.
fn is_one_word(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// The delivery that asked a provider for a code of its own.
fn asked_by(challenge: &Challenge) -> Option<DeliveryId> {
    match &challenge.stage {
        Stage::Open { proof: Proof::External { delivery }, .. } => Some(*delivery),
        _ => None,
    }
}

/// Whom to ask about a code that is not ours; nobody, when no provider has taken the delivery yet.
fn asking(tenant: &Standing, challenge: &Challenge, delivery: Option<Held<Delivery>>) -> Result<Option<Asking>, Fault> {
    let Some(Held { noun: delivery, .. }) = delivery else { return Ok(None) };
    let DeliveryStage::Sent { provider, receipt, .. } = &delivery.stage else { return Ok(None) };
    let order: Order = Core::open(&tenant.keys, order_place(&delivery.id), &delivery.order, "an order")?;
    let (provider, receipt) = (*provider, Receipt(receipt.clone()));
    Ok(Some(Asking { provider, receipt, to: order.to, channel: challenge.channel, paid: Vec::new() }))
}

/// The factor that an answer is measured by, or that it makes active.
fn factor_of(challenge: &Challenge) -> Option<FactorId> {
    match (challenge.purpose, &challenge.stage) {
        (Purpose::Enroll(factor), _) => Some(factor),
        (Purpose::Authenticate | Purpose::SignIn(_), Stage::Open { proof: Proof::Totp { factor }, .. }) => Some(*factor),
        (Purpose::Authenticate | Purpose::SignIn(_), _) => None,
    }
}

type Seed = (Zeroizing<Vec<u8>>, Option<totp::StepNumber>);

/// The seed of an authenticator, and its last step that was accepted; nothing when the factor is none.
fn open_seed(keys: &TenantKeys, factor: &Factor) -> Result<Option<Seed>, Fault> {
    match &factor.kind {
        FactorKind::Totp { seed, burnt } => Ok(Some((Zeroizing::new(keys.open_sealed(seed_place(&factor.id), seed)?), *burnt))),
        FactorKind::External { .. } => Ok(None),
    }
}

pub(crate) fn seed_place(id: &FactorId) -> Place<'_> {
    Place { noun: "factor", id: id.as_bytes(), field: "seed" }
}
