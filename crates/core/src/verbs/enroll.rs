//! Enrolling, listing and removing the devices of a person.
//!
//! A person becomes known by the first device. Every change of a person's devices also replaces the person's own record, so
//! that two changes at once cannot both believe to be the only one.

use super::request::named;
use super::verify::seed_place;
use super::{Core, Judged, Scope};
use crate::nouns::challenge::{Challenge, Proof, Purpose, Stage};
use crate::nouns::event::{Event, What};
use crate::nouns::factor::{Factor, FactorKind, FactorStage};
use crate::nouns::totp;
use crate::nouns::user::User;
use crate::ports::{Change, Key, Record, Seen};
use crate::words::address::{Channel, Login};
use crate::words::id::{ChallengeId, EventId, FactorId, UserId};
use crate::words::refusal::{Error, Fault, Refusal};
use crate::words::secret::Secret;
use crate::words::time::Timestamp;
use std::time::Duration;
use zeroize::Zeroizing;

/// How long a new device waits for its first value: a person has to find and set up an authenticator.
pub const ENROLL_WITHIN: Duration = Duration::from_secs(15 * 60);

/// A new authenticator, waiting for its first right value.
#[derive(Debug, Clone)]
pub struct Enrolling {
    /// The challenge whose right answer makes it active.
    pub challenge: ChallengeId,
    /// The device's name.
    pub name: String,
    /// The seed as people type it (base32).
    pub seed: Secret,
    /// The `otpauth://` address that a picture holds.
    pub uri: Secret,
}

/// A device, as it may be listed. Never with its seed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its id.
    pub id: FactorId,
    /// Its name.
    pub name: String,
    /// Since when.
    pub created_at: Timestamp,
}

impl Core {
    /// Begins to enrol an authenticator (RFC 6238) for the person, who is made known by it if need be. Devices of the person
    /// that never became active in time make room.
    ///
    /// # Errors
    /// Refusals: `DeviceNameBad`, `DeviceNameTaken` (by an active device), `TooManyDevices`.
    pub async fn enroll_totp(&self, scope: &Scope, login: Login, device: &str) -> Result<Enrolling, Error> {
        let name = Factor::check_name(device).ok_or(Refusal::DeviceNameBad)?.to_owned();
        let now = self.now();
        let keys = &scope.tenant.keys;
        let mut seed = Zeroizing::new([0; totp::SEED_BYTES]);
        self.chance().fill(&mut *seed);
        let application = scope.client.as_ref().map_or(&scope.tenant.tenant.name, |it| &it.application);
        let label = format!("{application}${}", login.reveal());
        let enrolling = Enrolling {
            challenge: ChallengeId::new(now, self.chance()),
            name: name.clone(),
            seed: Secret::new(totp::base32(&*seed)),
            uri: Secret::new(totp::uri(&label, &*seed)),
        };
        let id = FactorId::new(now, self.chance());
        let of = named(scope, &login);
        let new_user = User { id: UserId::new(now, self.chance()), realm: scope.realm, login, named: of, account: None, created_at: now };
        let sealed = keys.seal(seed_place(&id), &*seed, self.chance());
        let policy = scope.tenant.tenant.policy.clone();
        let challenge = Challenge {
            id: enrolling.challenge,
            realm: scope.realm,
            channel: Channel::Totp,
            // Typing errors here lock no device in use: a seed that nobody holds yet has the attempts of this challenge and no more.
            failures: Vec::new(),
            purpose: Purpose::Enroll(id),
            stage: Stage::Open { attempts_left: policy.attempts, expires_at: now + ENROLL_WITHIN, proof: Proof::Totp { factor: id } },
        };
        let event = EventId::new(now, self.chance());
        let judge = move |seen: &mut Seen| {
            let (user, mut change, known) = match seen.peek(Key::UserNamed(of)) {
                None => (new_user.id, Change::none().insert(Record::User(new_user.clone())), Vec::new()),
                Some(Record::User(user)) => {
                    let user = user.id;
                    if !seen.has_looked_at(Key::FactorsOf(user)) {
                        return Judged::Look(vec![Key::FactorsOf(user)]);
                    }
                    let Some(held) = seen.user_named(of) else { return Judged::Write(Change::none(), Err(Refusal::UserUnknown)) };
                    (user, Change::none().replace(Record::User(held.noun), held.version), seen.factors_of(user))
                }
                Some(_) => return Judged::Write(Change::none(), Err(Refusal::UserUnknown)),
            };
            let mut devices = 0;
            for held in known {
                let given_up = !held.noun.is_active() && now.since(held.noun.created_at) >= ENROLL_WITHIN;
                let begun_again = !held.noun.is_active() && held.noun.is_called(&name);
                if given_up || begun_again {
                    change = change.remove(Key::Factor(held.noun.id), held.version);
                } else if held.noun.is_called(&name) {
                    return Judged::Write(Change::none(), Err(Refusal::DeviceNameTaken));
                } else {
                    devices += 1;
                }
            }
            if devices >= policy.devices {
                return Judged::Write(Change::none(), Err(Refusal::TooManyDevices { most: policy.devices }));
            }
            let factor = Factor {
                id,
                user,
                name: name.clone(),
                kind: FactorKind::Totp { seed: sealed.clone(), burnt: None },
                stage: FactorStage::Pending { challenge: challenge.id },
                created_at: now,
            };
            let what = What::Enrolling { user, factor: id };
            let change =
                change.insert(Record::Factor(factor)).insert(Record::Challenge(challenge.clone())).tell(Event { id: event, at: now, what });
            Judged::Write(change, Ok(()))
        };
        self.decide(scope.tenant.tenant.id, vec![Key::UserNamed(of)], judge).await?.ok_or(Fault::Contended)??;
        Ok(enrolling)
    }

    /// The active authenticators of the person, oldest first.
    ///
    /// # Errors
    /// Refusals: `UserUnknown`.
    pub async fn devices(&self, scope: &Scope, login: &Login) -> Result<Vec<Device>, Error> {
        let tenant = scope.tenant.tenant.id;
        let Some(Record::User(user)) = self.store().find(tenant, Key::UserNamed(named(scope, login))).await?.map(|it| it.noun) else {
            return Err(Refusal::UserUnknown.into());
        };
        let factors = self.store().factors_of(tenant, user.id).await?.into_iter().map(|it| it.noun).filter(Factor::is_active);
        Ok(factors.map(|it| Device { id: it.id, name: it.name, created_at: it.created_at }).collect())
    }

    /// Removes the person's authenticator of this name, active or not.
    ///
    /// # Errors
    /// Refusals: `UserUnknown`, `DeviceUnknown`.
    pub async fn remove_device(&self, scope: &Scope, login: &Login, device: &str) -> Result<(), Error> {
        let (now, of, device) = (self.now(), named(scope, login), device.to_owned());
        let event = EventId::new(now, self.chance());
        let judge = move |seen: &mut Seen| {
            let Some(Record::User(user)) = seen.peek(Key::UserNamed(of)) else {
                return Judged::Write(Change::none(), Err(Refusal::UserUnknown));
            };
            let user = user.id;
            if !seen.has_looked_at(Key::FactorsOf(user)) {
                return Judged::Look(vec![Key::FactorsOf(user)]);
            }
            let found = seen.factors_of(user).into_iter().find(|it| it.noun.is_called(&device));
            let (Some(found), Some(person)) = (found, seen.user_named(of)) else {
                return Judged::Write(Change::none(), Err(Refusal::DeviceUnknown));
            };
            let what = What::Removed { user, factor: found.noun.id };
            let change = Change::none()
                .replace(Record::User(person.noun), person.version)
                .remove(Key::Factor(found.noun.id), found.version)
                .tell(Event { id: event, at: now, what });
            Judged::Write(change, Ok(()))
        };
        Ok(self.decide(scope.tenant.tenant.id, vec![Key::UserNamed(of)], judge).await?.ok_or(Fault::Contended)??)
    }
}
