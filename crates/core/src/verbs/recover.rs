//! Recovering: what takes the place of a second factor that is lost.
//!
//! Owns recovery codes: drawing them, and judging one. Wrong ones are counted where the wrong codes of the factor are counted, so that
//! this door gives nobody more guesses (invariant 2). What a right one is good for is its caller's: the factor goes, with all its codes.

use super::request::{count_failures, failures_of, named, refused_by_lock};
use super::{Core, Judged, Scope};
use crate::nouns::event::What;
use crate::nouns::limit::{Count, Limit};
use crate::ports::{Change, Key, Record, Seen};
use crate::words::address::{Channel, Login};
use crate::words::refusal::{Error, Fault};
use crate::words::secret::{KeptCode, Mac, Secret};

/// How many there are.
const CODES: usize = 10;

/// The longest that is looked at.
const CODE_MOST: usize = 256;

impl Core {
    /// Draws recovery codes for a person: as they are told, once, and as they are kept. Each is a UUID of version 4 with 122 random bits.
    #[must_use]
    pub fn draw_recovery_codes(&self, scope: &Scope, login: &Login) -> (Vec<Secret>, Vec<KeptCode>) {
        let draw = |_| {
            let mut random = [0; 16];
            self.chance().fill(&mut random);
            Secret::new(uuid::Builder::from_random_bytes(random).into_uuid().to_string())
        };
        let told: Vec<_> = (0..CODES).map(draw).collect();
        let kept = told.iter().map(|code| KeptCode::hashed(&recovery_hash(scope, login, code))).collect();
        (told, kept)
    }

    /// Whether `code` is one of those that are `kept` for the person. A wrong one is paid for before this is told, like a wrong code of
    /// the factor.
    ///
    /// # Errors
    /// Refusals: `Locked`.
    pub async fn try_recovery(&self, scope: &Scope, login: &Login, kept: &[KeptCode], code: &Secret) -> Result<bool, Error> {
        let hash = recovery_hash(scope, login, code);
        let fits = !code.reveal().is_empty() && code.reveal().len() <= CODE_MOST;
        // Every one is compared, whichever is right.
        let is_right = fits && kept.iter().fold(false, |right, it| right | it.is(code, &hash));
        let (now, policy) = (self.now(), scope.tenant.tenant.policy.clone());
        let of = failures_of(&scope.tenant.keys, scope.realm, login, Channel::External);
        let user = named(scope, login);
        let event = self.event(now, if is_right { What::Recovered { user } } else { What::Denied { user } });
        let judge = move |seen: &mut Seen| {
            let (count, read) = count_failures(seen.limit(of));
            if let Some(locked) = refused_by_lock(&count, now) {
                return Judged::Write(Change::none(), Err(locked));
            }
            let change = match (is_right, read) {
                (true, Some(version)) => Change::none().remove(Key::Limit(of), version),
                (true, None) => Change::none(),
                (false, read) => {
                    let count = Count::Failures(count.one_more(now, &policy));
                    Change::none().put(Record::Limit(Limit { of, count }), read)
                }
            };
            Judged::Write(change.tell(event.clone()), Ok(is_right))
        };
        Ok(self.decide(scope.tenant.tenant.id, vec![Key::Limit(of)], judge).await?.ok_or(Fault::Contended)??)
    }
}

fn recovery_hash(scope: &Scope, login: &Login, code: &Secret) -> Mac {
    scope.tenant.keys.mac("recovery code", &[named(scope, login).as_bytes(), code.reveal().as_bytes()])
}
