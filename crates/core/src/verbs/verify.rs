//! Answering a challenge.
//!
//! Codes, values of an authenticator and the first value of a new one are all judged here, whoever asks. What is right is decided by
//! [`Challenge::answer`]; around it are the locks, the counts and the record of what happened. Attempt, counts and verdict are one
//! change, so that nobody hears a verdict that was not paid for (invariant 2).

use super::request::{count_failures, named, refused_by_lock};
use super::{Core, Judged, Scope};
use crate::nouns::challenge::{Challenge, Evidence, Proof, Purpose, Stage, Verdict};
use crate::nouns::event::{Event, What};
use crate::nouns::factor::{Factor, FactorKind};
use crate::nouns::limit::{Count, Limit, Lock};
use crate::nouns::totp;
use crate::ports::{Change, Held, Key, Record, Seen};
use crate::words::address::{Channel, Fingerprint, Login};
use crate::words::id::{ChallengeId, EventId, FactorId};
use crate::words::refusal::{Error, Fault, Refusal};
use crate::words::secret::{Answer, Place, Secret, TenantKeys};
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
    /// The challenge was over before: passed, spent, failed or expired.
    Over,
}

/// For what an answer is given. A challenge of another purpose is unknown.
#[derive(Debug, Clone)]
enum For {
    Authentication { channel: Option<Channel> },
    Enrolment { of: Fingerprint },
}

impl Core {
    /// Judges `answer`. A malformed answer costs nothing; a wrong one is paid before this returns (invariant 2). `channel` is
    /// what the caller believes it to be, if it says.
    ///
    /// # Errors
    /// Refusals: `ChallengeUnknown` (also for another client's), `ChannelDiffers`, `AnswerMalformed`, `Locked`.
    pub async fn verify(&self, scope: &Scope, id: ChallengeId, channel: Option<Channel>, answer: &str) -> Result<Answered, Error> {
        self.answer(scope, id, For::Authentication { channel }, answer).await.map(|(answered, _)| answered)
    }

    /// Judges the first value of a new authenticator; a right one makes it active. Gives the device's name with the verdict.
    ///
    /// # Errors
    /// Refusals: `UserUnknown`, `ChallengeUnknown`, `DeviceActive`, `AnswerMalformed`, `Locked`.
    pub async fn activate(&self, scope: &Scope, login: &Login, id: ChallengeId, answer: &str) -> Result<(Answered, String), Error> {
        self.answer(scope, id, For::Enrolment { of: named(scope, login) }, answer).await
    }

    async fn answer(&self, scope: &Scope, id: ChallengeId, what_for: For, answer: &str) -> Result<(Answered, String), Error> {
        let now = self.now();
        let tenant = scope.tenant.clone();
        let (realm, answer, event) = (scope.realm, Secret::new(answer), EventId::new(now, self.chance()));
        let mut first = vec![Key::Challenge(id)];
        if let For::Enrolment { of } = &what_for {
            first.push(Key::UserNamed(*of));
        }
        let judge = move |seen: &mut Seen| {
            let refused = |refusal: Refusal| Judged::Write(Change::none(), Err(Error::from(refusal)));
            // First everything that there is to see, then the rules.
            let Some(challenge) = seen.peek_challenge(id).filter(|it| it.realm == realm) else {
                return refused(match &what_for {
                    For::Enrolment { of } if seen.peek(Key::UserNamed(*of)).is_none() => Refusal::UserUnknown,
                    For::Enrolment { .. } | For::Authentication { .. } => Refusal::ChallengeUnknown,
                });
            };
            let counts = challenge.failures.iter().map(|of| Key::Limit(*of));
            let more: Vec<Key> = counts.chain(factor_of(challenge).map(Key::Factor)).filter(|key| !seen.has_looked_at(*key)).collect();
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
                (For::Authentication { .. }, Purpose::Enroll(_)) | (For::Enrolment { .. }, Purpose::Authenticate) => {
                    return refused(Refusal::ChallengeUnknown);
                }
            }
            let policy = &tenant.tenant.policy;
            let length = if challenge.channel == Channel::Totp { totp::DIGITS } else { policy.code_length };
            let guess = match Answer::parse(answer.reveal(), length) {
                Ok(guess) => guess,
                Err(malformed) => return refused(malformed.into()),
            };
            let Some(challenge) = seen.challenge(id) else { return refused(Refusal::ChallengeUnknown) };
            let counts: Vec<_> = challenge.noun.failures.iter().map(|of| (*of, count_failures(seen.limit(*of)))).collect();
            let takes_answers = matches!(challenge.noun.stage, Stage::Open { expires_at, .. } if now < expires_at);
            if takes_answers && let Some(locked) = counts.iter().find_map(|(_, (count, _))| refused_by_lock(count, now)) {
                return refused(locked);
            }
            // A device that was removed meanwhile proves nothing any more.
            let factor = factor_of(&challenge.noun).map(|id| seen.factor(id));
            let (evidence, factor) = match factor {
                None => (Evidence::Code(tenant.keys.code(id, guess.as_str())), None),
                Some(None) => (Evidence::Step(None), None),
                Some(Some(held)) => match open_seed(&tenant.keys, &held.noun) {
                    Ok((seed, burnt)) => {
                        let step = totp::matching(&seed, &guess, now, burnt);
                        (Evidence::Step(step), Some((held, step)))
                    }
                    Err(fault) => return Judged::Write(Change::none(), Err(fault.into())),
                },
            };
            let (next, verdict) = challenge.noun.answer(&evidence, now);
            let tell = |what| Event { id: event, at: now, what };
            let name = factor.as_ref().map_or_else(String::new, |(held, _)| held.noun.name.clone());
            let change = Change::none();
            match verdict {
                Verdict::Ended => Judged::Write(change, Ok((Answered::Over, name))),
                Verdict::Expired => {
                    let change = change.replace(Record::Challenge(next), challenge.version).tell(tell(What::Expired { challenge: id }));
                    Judged::Write(change, Ok((Answered::Over, name)))
                }
                Verdict::Passed => {
                    let what = match next.purpose {
                        Purpose::Authenticate => What::Passed { challenge: id },
                        Purpose::Enroll(factor) => What::Enrolled { factor },
                    };
                    let mut change = change.replace(Record::Challenge(next), challenge.version).tell(tell(what));
                    for (of, (_, read)) in counts {
                        if let Some(version) = read {
                            change = change.remove(Key::Limit(of), version);
                        }
                    }
                    if let Some((Held { noun: factor, version }, Some(step))) = factor {
                        change = change.replace(Record::Factor(factor.proven(step, now)), version);
                    }
                    Judged::Write(change, Ok((Answered::Passed, name)))
                }
                Verdict::Wrong { .. } | Verdict::LastWrong => {
                    let counts: Vec<_> = counts.into_iter().map(|(of, (count, read))| (of, count.one_more(now, policy), read)).collect();
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
                    let change = change.replace(Record::Challenge(next), challenge.version).tell(tell(what));
                    let change = counts.into_iter().fold(change, |change, (of, count, read)| {
                        change.put(Record::Limit(Limit { of, count: Count::Failures(count) }), read)
                    });
                    Judged::Write(change, Ok((answered, name)))
                }
            }
        };
        self.decide(scope.tenant.tenant.id, first, judge).await?.ok_or(Fault::Contended)?
    }
}

/// The factor that an answer is measured by, or that it makes active.
fn factor_of(challenge: &Challenge) -> Option<FactorId> {
    match (challenge.purpose, &challenge.stage) {
        (Purpose::Enroll(factor), _) => Some(factor),
        (Purpose::Authenticate, Stage::Open { proof: Proof::Totp { factor }, .. }) => Some(*factor),
        (Purpose::Authenticate, _) => None,
    }
}

fn open_seed(keys: &TenantKeys, factor: &Factor) -> Result<(Zeroizing<Vec<u8>>, Option<totp::StepNumber>), Fault> {
    let FactorKind::Totp { seed, burnt } = &factor.kind;
    Ok((Zeroizing::new(keys.open_sealed(seed_place(&factor.id), seed)?), *burnt))
}

pub(crate) fn seed_place(id: &FactorId) -> Place<'_> {
    Place { noun: "factor", id: id.as_bytes(), field: "seed" }
}
