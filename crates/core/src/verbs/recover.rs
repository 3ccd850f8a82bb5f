//! Recovering: what takes the place of a second factor that is lost.
//!
//! Owns recovery codes: drawing them, and judging one. Wrong ones are counted where the wrong codes of the factor are counted, so that
//! this door gives nobody more guesses (invariant 2). What a right one is good for is its caller's: the factor goes, with all its codes.

use super::request::{count_failures, failures_of, named, refused_by_lock};
use super::{Core, Judged, Scope};
use crate::nouns::event::{Event, What};
use crate::nouns::factor::FactorKind;
use crate::nouns::limit::{Count, Limit};
use crate::nouns::tenant::Policy;
use crate::ports::{Change, Key, Record, Seen};
use crate::words::address::{Channel, Fingerprint, Login};
use crate::words::id::EventId;
use crate::words::refusal::{Error, Fault, Refusal};
use crate::words::secret::{KeptCode, Mac, Secret};
use crate::words::time::Timestamp;

/// How many there are.
const CODES: usize = 10;

/// The longest that is looked at.
const CODE_MOST: usize = 256;

impl Core {
    /// Draws recovery codes for a person: as they are told, once, and as they are kept. Each is a UUID of version 4 with 122 random bits.
    #[must_use]
    pub fn draw_recovery_codes(&self, scope: &Scope, login: &Login) -> (Vec<Secret>, Vec<KeptCode>) {
        let told: Vec<_> = (0..CODES).map(|_| Secret::draw_uuid(self.chance())).collect();
        let kept = told.iter().map(|code| KeptCode::hashed(&recovery_hash(scope, login, code))).collect();
        (told, kept)
    }

    /// Whether `code` is one of those that are `kept` for the person elsewhere. A wrong one is paid for before this is told, like a wrong
    /// code of the factor. Taking the factor away is the caller's.
    ///
    /// # Errors
    /// Refusals: `Locked`.
    pub async fn try_recovery(&self, scope: &Scope, login: &Login, kept: &[KeptCode], code: &Secret) -> Result<bool, Error> {
        let (tried, kept) = (Tried::new(self, scope, login, code), kept.to_vec());
        let judge = move |seen: &mut Seen| match tried.judge(seen, &kept) {
            Ok((change, is_right)) => Judged::Write(change, Ok(is_right)),
            Err(locked) => Judged::Write(Change::none(), Err(locked)),
        };
        let of = failures_of(&scope.tenant.keys, scope.realm, login, Channel::External);
        Ok(self.decide(scope.tenant.tenant.id, vec![Key::Limit(of)], judge).await?.ok_or(Fault::Contended)??)
    }

    /// Takes away the second factor that the house keeps for a person, with all its codes, if `code` is one of them: of two who come with
    /// the same code, one hears that it is right. A wrong one is paid for before this is told.
    ///
    /// # Errors
    /// Refusals: `UserUnknown`, `NoUsableDevice` (there is no second factor), `Locked`.
    pub async fn recover(&self, scope: &Scope, login: &Login, code: &Secret) -> Result<bool, Error> {
        let tried = Tried::new(self, scope, login, code);
        let (of, person, now) = (tried.of, tried.user, self.now());
        let removed = EventId::new(now, self.chance());
        let judge = move |seen: &mut Seen| {
            let Some(Record::User(user)) = seen.peek(Key::UserNamed(person)) else {
                return Judged::Write(Change::none(), Err(Refusal::UserUnknown));
            };
            let user = user.id;
            if !seen.has_looked_at(Key::FactorsOf(user)) {
                return Judged::Look(vec![Key::FactorsOf(user)]);
            }
            let found = seen.factors_of(user).into_iter().find_map(|held| match held.noun.kind {
                FactorKind::External { recovery, .. } => Some((held.noun.id, recovery, held.version)),
                FactorKind::Totp { .. } => None,
            });
            let (Some((factor, kept, version)), Some(held)) = (found, seen.user_named(person)) else {
                return Judged::Write(Change::none(), Err(Refusal::NoUsableDevice));
            };
            match tried.judge(seen, &kept) {
                Ok((change, true)) => {
                    let gone = Event { id: removed, at: now, what: What::Removed { user, factor } };
                    let change = change.remove(Key::Factor(factor), version).replace(Record::User(held.noun), held.version);
                    Judged::Write(change.tell(gone), Ok(true))
                }
                Ok((change, false)) => Judged::Write(change, Ok(false)),
                Err(locked) => Judged::Write(Change::none(), Err(locked)),
            }
        };
        let first = vec![Key::Limit(of), Key::UserNamed(person)];
        Ok(self.decide(scope.tenant.tenant.id, first, judge).await?.ok_or(Fault::Contended)??)
    }
}

/// A recovery code that somebody typed.
struct Tried {
    code: Secret,
    hash: Mac,
    user: Fingerprint,
    /// Where wrong ones are counted.
    of: Fingerprint,
    now: Timestamp,
    policy: Policy,
    event: EventId,
}

impl Tried {
    fn new(core: &Core, scope: &Scope, login: &Login, code: &Secret) -> Self {
        let now = core.now();
        Self {
            code: code.clone(),
            hash: recovery_hash(scope, login, code),
            user: named(scope, login),
            of: failures_of(&scope.tenant.keys, scope.realm, login, Channel::External),
            now,
            policy: scope.tenant.tenant.policy.clone(),
            event: EventId::new(now, core.chance()),
        }
    }

    /// What is to change, and whether it is right. The count was looked at.
    fn judge(&self, seen: &mut Seen, kept: &[KeptCode]) -> Result<(Change, bool), Refusal> {
        let (count, read) = count_failures(seen.limit(self.of));
        if let Some(locked) = refused_by_lock(&count, self.now) {
            return Err(locked);
        }
        let fits = !self.code.reveal().is_empty() && self.code.reveal().len() <= CODE_MOST;
        // Every one is compared, whichever is right.
        let is_right = fits && kept.iter().fold(false, |right, it| right | it.is(&self.code, &self.hash));
        let (change, what) = if is_right {
            (Change::none().clear(Key::Limit(self.of), read), What::Recovered { user: self.user })
        } else {
            let count = Count::Failures(count.begun_by(self.event, &self.policy).one_more(self.now, &self.policy));
            (Change::none().put(Record::Limit(Limit { of: self.of, count }), read), What::Denied { user: self.user })
        };
        Ok((change.tell(Event { id: self.event, at: self.now, what }), is_right))
    }
}

fn recovery_hash(scope: &Scope, login: &Login, code: &Secret) -> Mac {
    scope.tenant.keys.mac("recovery code", &[named(scope, login).as_bytes(), code.reveal().as_bytes()])
}
