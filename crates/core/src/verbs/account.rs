//! Accounts: people in a directory of our own, for dialects that bring one along.
//!
//! Owns passwords, who is logged in with which application, what applications keep for a person, and the person's second factor. Where
//! another server keeps the directory, nothing of this is used.

use super::request::named;
use super::{Core, Judged, Scope};
use crate::nouns::event::What;
use crate::nouns::factor::{Factor, FactorKind, FactorStage};
use crate::nouns::limit::{Count, Limit, Sends};
use crate::nouns::sign_in::Passage;
use crate::nouns::tenant::Policy;
use crate::nouns::user::{Access, AccessStage, Account, User};
use crate::ports::{Change, Held, Key, Record, Seen};
use crate::words::address::{Fingerprint, Login};
use crate::words::id::{AccessId, FactorId, TenantId, UserId};
use crate::words::refusal::{Error, Fault, Refusal};
use crate::words::secret::{KeptCode, Mac, Place, Secret};
use crate::words::time::Timestamp;
use crate::words::variables::Variables;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use serde_json::{Map, Value};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The shortest and the longest password (NIST SP 800-63B §3.1.1.2 asks for at least eight characters beside a second factor).
const PASSWORD: std::ops::RangeInclusive<usize> = 8..=256;

/// How many times the tries of one person may come from one place, which may be an office.
const NEIGHBOURS: u16 = 10;

/// Applications with which one person is logged in at a time; beyond them the longest unused are logged out.
const ACCESSES: usize = 64;

/// How much applications may keep for one person, as JSON.
const PROFILE_MOST: usize = 64 * 1024;

/// By what part of its life an access is used before that is written down: not every use is a write.
const NOTED_USES: u32 = 14;

/// How often a profile is merged again because somebody else was faster. Every time somebody else's merge is kept, so this many may write
/// to one profile at once.
const TRIES: usize = 32;

/// The one factor that a directory of our own keeps beside the password.
const SECOND_FACTOR: &str = "second factor";

/// A person's second factor, opened.
#[derive(Debug, Clone)]
pub struct SecondFactor {
    /// Which one; none before it is kept, and where another server keeps it.
    pub id: Option<FactorId>,
    /// Where the person is reached.
    pub data: Variables,
    /// The recovery codes, as they are kept.
    pub recovery: Vec<KeptCode>,
}

/// What comes after a right password.
#[derive(Debug)]
pub enum Next {
    /// Nothing more is asked for.
    Done(Passage),
    /// The person has a second factor. Whose it is, and which, goes into the baggage of the sign-in.
    Second {
        /// Whose it is, and which.
        account: Option<(UserId, FactorId)>,
        /// The second factor.
        factor: SecondFactor,
    },
}

/// A person who is logged in.
#[derive(Debug)]
pub struct LoggedIn {
    /// The token of the application.
    pub token: Secret,
    /// The language that the person prefers.
    pub language: String,
}

impl Core {
    /// Whether there is such a person.
    ///
    /// # Errors
    /// Refusals: `UserUnknown`.
    pub async fn knows(&self, scope: &Scope, login: &Login) -> Result<(), Error> {
        self.account(scope, login).await.map(drop)
    }

    /// Makes a person.
    ///
    /// # Errors
    /// Refusals: `NameTaken`, `SettingBad` (a password that is too short or too long), `Unknown` (the tenant).
    pub async fn create_account(&self, tenant: TenantId, login: Login, password: Secret, language: &str) -> Result<User, Error> {
        let scope = self.scope_of(tenant).await?;
        let password = self.hashed(password).await?;
        let now = self.now();
        let account = Account { password, language: language.to_owned(), profile: None, accesses: Vec::new() };
        let (id, of) = (UserId::new(now, self.chance()), named(&scope, &login));
        let user = User { id, realm: scope.realm, login, named: of, account: Some(account), created_at: now };
        let event = self.event(now, What::AccountSaved { user: id });
        let judge = move |seen: &mut Seen| {
            if seen.peek(Key::UserNamed(of)).is_some() {
                return Judged::Write(Change::none(), Err(Refusal::NameTaken));
            }
            Judged::Write(Change::none().insert(Record::User(user.clone())).tell(event.clone()), Ok(user.clone()))
        };
        Ok(self.decide(tenant, vec![Key::UserNamed(of)], judge).await?.ok_or(Refusal::NameTaken)??)
    }

    /// Gives a person another password. Whoever is logged in stays so.
    ///
    /// # Errors
    /// Refusals: `SettingBad`, `Unknown`, `UserUnknown`.
    pub async fn change_password(&self, tenant: TenantId, login: &Login, password: Secret) -> Result<(), Error> {
        let scope = self.scope_of(tenant).await?;
        let hash = self.hashed(password).await?;
        self.edit_account(
            &scope,
            login,
            |user| What::AccountSaved { user },
            move |_, account| {
                account.password.clone_from(&hash);
                Ok(())
            },
        )
        .await
    }

    /// Removes a person, with everything that is theirs.
    ///
    /// # Errors
    /// Refusals: `Unknown`, `UserUnknown`.
    pub async fn remove_account(&self, tenant: TenantId, login: &Login) -> Result<(), Error> {
        let scope = self.scope_of(tenant).await?;
        let of = named(&scope, login);
        let event = self.event(self.now(), What::AccountRemoved { user: self.account(&scope, login).await?.id });
        let judge = move |seen: &mut Seen| {
            let Some(Record::User(user)) = seen.peek(Key::UserNamed(of)) else {
                return Judged::Write(Change::none(), Err(Refusal::UserUnknown));
            };
            let user = user.id;
            if !seen.has_looked_at(Key::FactorsOf(user)) {
                return Judged::Look(vec![Key::FactorsOf(user)]);
            }
            let factors = seen.factors_of(user);
            let Some(held) = seen.user_named(of) else { return Judged::Write(Change::none(), Err(Refusal::UserUnknown)) };
            let change = Change::none().remove(Key::User(user), held.version).tell(event.clone());
            let change = factors.into_iter().fold(change, |change, it| change.remove(Key::Factor(it.noun.id), it.version));
            Judged::Write(change, Ok(()))
        };
        Ok(self.decide(tenant, vec![Key::UserNamed(of)], judge).await?.ok_or(Fault::Contended)??)
    }

    /// What comes after the person's password, if `password` is it. Tries are counted by person and by where they come `from`, and paid before they are judged: so a
    /// guesser is held up, and cannot hold up the person, who comes from elsewhere (invariant 11).
    ///
    /// # Errors
    /// Refusals: `UserUnknown`, `PasswordWrong`, `TriesExhausted`.
    pub async fn check_password(&self, scope: &Scope, login: &Login, password: &Secret, from: &str) -> Result<Next, Error> {
        let user = self.account(scope, login).await?;
        let Some(account) = user.account else { return Err(Refusal::UserUnknown.into()) };
        let keys = &scope.tenant.keys;
        let tries = keys.fingerprint("password tries", &[user.named.as_bytes(), from.as_bytes()]);
        let from_there = keys.fingerprint("password tries from one place", &[from.as_bytes()]);
        self.take_try(scope, [(tries, 1), (from_there, NEIGHBOURS)]).await?;
        let given = password.clone();
        let is_right = password.reveal().len() <= *PASSWORD.end()
            && self.labour(move || is_password(&given, &account.password)).await.ok_or_else(busy)??;
        let event = self.event(self.now(), What::Denied { user: user.named });
        let judge = move |seen: &mut Seen| {
            let change = match (is_right, seen.limit(tries)) {
                (true, Some(held)) => Change::none().remove(Key::Limit(tries), held.version),
                (true, None) => Change::none(),
                (false, _) => Change::none().tell(event.clone()),
            };
            // Who is right was no try at somebody's password, and neighbours behind one address are many.
            let change = match (is_right, seen.limit(from_there)) {
                (true, Some(Held { noun: Limit { count: Count::Sends(count), .. }, version })) => {
                    change.replace(Record::Limit(Limit { of: from_there, count: Count::Sends(count.one_less()) }), version)
                }
                _ => change,
            };
            Judged::Write(change, ())
        };
        self.decide(scope.tenant.tenant.id, vec![Key::Limit(tries), Key::Limit(from_there)], judge).await?.ok_or(Fault::Contended)?;
        if !is_right {
            return Err(Refusal::PasswordWrong.into());
        }
        // Read after the password was judged: who has none may get one in between, and not the other way round.
        let factor = self.second_factor_of(scope, user.id).await?;
        Ok(match factor {
            None => Next::Done(Passage { account: user.id }),
            Some(factor) => Next::Second { account: factor.id.map(|id| (user.id, id)), factor },
        })
    }

    async fn take_try<const N: usize>(&self, scope: &Scope, limits: [(Fingerprint, u16); N]) -> Result<(), Error> {
        let (now, policy) = (self.now(), scope.tenant.tenant.policy.clone());
        let judge = move |seen: &mut Seen| {
            let (change, told) = taken(seen, limits, now, &policy);
            Judged::Write(change, told)
        };
        let first = limits.iter().map(|(of, _)| Key::Limit(*of)).collect();
        Ok(self.decide(scope.tenant.tenant.id, first, judge).await?.ok_or(Fault::Contended)??)
    }

    /// Logs a person in with an application, who has shown every factor that is asked for. The same application gets the token that it
    /// has already, while that is alive: it was unused for less than `lasts`.
    ///
    /// # Errors
    /// Refusals: `UserUnknown`.
    pub async fn log_in(&self, scope: &Scope, login: &Login, passage: Passage, app: &str, lasts: Duration) -> Result<LoggedIn, Error> {
        let now = self.now();
        let id = AccessId::new(now, self.chance());
        // 36^25 possibilities: 129 bits.
        let token = Secret::new(super::manage::draw_text(25, b"abcdefghijklmnopqrstuvwxyz0123456789", self.chance()));
        let keys = &scope.tenant.keys;
        let new = Access {
            id,
            app: app.to_owned(),
            mac: access_hash(scope, &token),
            created_at: now,
            stage: AccessStage::Live { token: keys.seal(token_place(&id), token.reveal().as_bytes(), self.chance()), used_at: now },
        };
        let tenant = scope.tenant.clone();
        let of = named(scope, login);
        let told = move |user: UserId, account: &mut Account| {
            if user != passage.account {
                return Err(Refusal::UserUnknown.into());
            }
            let language = account.language.clone();
            let known = account.accesses.iter_mut().find(|it| it.app == new.app && it.is_live(now, lasts));
            if let Some(access) = known
                && let AccessStage::Live { token, used_at } = &mut access.stage
            {
                let plain = tenant.keys.open_sealed(token_place(&access.id), token).map_err(Fault::from)?;
                *used_at = now;
                let token = Secret::new(String::from_utf8(plain).map_err(|_| Fault::Corrupt("a token is no text".into()))?);
                return Ok(LoggedIn { token, language });
            }
            account.accesses.retain(|it| it.app != new.app);
            if account.accesses.len() >= ACCESSES {
                // Whoever is out already makes room first.
                account.accesses.sort_by_key(|it| (it.is_live(now, lasts), it.used_at()));
                account.accesses.remove(0);
            }
            account.accesses.push(new.clone());
            Ok(LoggedIn { token: token.clone(), language })
        };
        self.edit_account(scope, login, move |_| What::LoggedIn { user: of }, told).await
    }

    /// The access whose token this is. A use makes it live on.
    ///
    /// # Errors
    /// Refusals: `UserUnknown`, `AccessUnknown`, `AccessOver`.
    pub async fn access(&self, scope: &Scope, login: &Login, token: &Secret, lasts: Duration) -> Result<(User, Access), Error> {
        let user = self.account(scope, login).await?;
        let given = access_hash(scope, token);
        let accesses = user.account.as_ref().map(|it| it.accesses.as_slice()).unwrap_or_default();
        let access = accesses.iter().find(|it| it.mac == given).cloned().ok_or(Refusal::AccessUnknown)?;
        let now = self.now();
        if !access.is_live(now, lasts) {
            return Err(Refusal::AccessOver.into());
        }
        if now.since(access.used_at()) >= lasts / NOTED_USES {
            let of = user.named;
            let judge = move |seen: &mut Seen| {
                let Some(mut held) = seen.user_named(of) else { return Judged::Write(Change::none(), ()) };
                let accesses = held.noun.account.as_mut().map(|it| &mut it.accesses);
                match accesses.and_then(|it| it.iter_mut().find(|it| it.mac == given)) {
                    Some(Access { stage: AccessStage::Live { used_at, .. }, .. }) => *used_at = now,
                    _ => return Judged::Write(Change::none(), ()),
                }
                Judged::Write(Change::none().replace(Record::User(held.noun), held.version), ())
            };
            self.decide(scope.tenant.tenant.id, vec![Key::UserNamed(of)], judge).await?;
        }
        Ok((user, access))
    }

    /// Logs a person out of the application whose token this is.
    ///
    /// # Errors
    /// Refusals: `UserUnknown`, `AccessUnknown`.
    pub async fn log_out(&self, scope: &Scope, login: &Login, token: &Secret) -> Result<(), Error> {
        let (given, of) = (access_hash(scope, token), named(scope, login));
        self.edit_account(
            scope,
            login,
            move |_| What::LoggedOut { user: of },
            move |_, account| {
                let access = account.accesses.iter_mut().find(|it| it.mac == given).ok_or(Refusal::AccessUnknown)?;
                access.stage = AccessStage::Ended;
                Ok(())
            },
        )
        .await
    }

    /// What applications keep for the person.
    ///
    /// # Errors
    /// Refusals: `UserUnknown`.
    pub async fn profile(&self, scope: &Scope, login: &Login) -> Result<Map<String, Value>, Error> {
        let user = self.account(scope, login).await?;
        Ok(open_profile(scope, user.named, user.account.and_then(|it| it.profile).as_ref())?)
    }

    /// Puts `new` into what applications keep for the person, name by name; a null takes a name away.
    ///
    /// # Errors
    /// Refusals: `UserUnknown`, `SettingBad` when it is too much.
    pub async fn merge_profile(&self, scope: &Scope, login: &Login, new: Map<String, Value>) -> Result<Map<String, Value>, Error> {
        let of = named(scope, login);
        for _ in 0..TRIES {
            let before = self.account(scope, login).await?.account.and_then(|it| it.profile);
            let mut profile = open_profile(scope, of, before.as_ref())?;
            for (name, value) in &new {
                match value {
                    Value::Null => drop(profile.remove(name)),
                    value => drop(profile.insert(name.clone(), value.clone())),
                }
            }
            let plain = serde_json::to_vec(&profile).map_err(|_| Fault::Corrupt("a profile cannot be written as JSON".into()))?;
            if plain.len() > PROFILE_MOST {
                return Err(Refusal::SettingBad(format!("a profile has no more than {PROFILE_MOST} bytes")).into());
            }
            let sealed = scope.tenant.keys.seal(profile_place(&of), &plain, self.chance());
            let put = move |_: UserId, account: &mut Account| {
                let is_unchanged = account.profile == before;
                if is_unchanged {
                    account.profile = Some(sealed.clone());
                }
                Ok(is_unchanged)
            };
            if self.edit_account(scope, login, |user| What::AccountSaved { user }, put).await? {
                return Ok(profile);
            }
        }
        Err(Fault::Contended.into())
    }

    /// The person's second factor; nothing when there is none.
    ///
    /// # Errors
    /// Refusals: `UserUnknown`.
    pub async fn second_factor(&self, scope: &Scope, login: &Login) -> Result<Option<SecondFactor>, Error> {
        let user = self.account(scope, login).await?;
        self.second_factor_of(scope, user.id).await
    }

    async fn second_factor_of(&self, scope: &Scope, user: UserId) -> Result<Option<SecondFactor>, Error> {
        let factors = self.store().factors_of(scope.tenant.tenant.id, user).await?;
        for factor in factors.into_iter().map(|it| it.noun) {
            if let FactorKind::External { data, recovery } = factor.kind {
                let data = Self::open(&scope.tenant.keys, data_place(&factor.id), &data, "the data of a factor")?;
                return Ok(Some(SecondFactor { id: Some(factor.id), data, recovery }));
            }
        }
        Ok(None)
    }

    /// Gives the person a second factor that was proven; one that was there goes.
    ///
    /// # Errors
    /// Refusals: `UserUnknown`.
    pub async fn put_second_factor(&self, scope: &Scope, login: &Login, it: SecondFactor) -> Result<(), Error> {
        let now = self.now();
        let id = FactorId::new(now, self.chance());
        let data = self.seal(&scope.tenant.keys, data_place(&id), &it.data)?;
        let kind = FactorKind::External { data, recovery: it.recovery };
        let event = self.event(now, What::Enrolled { factor: id });
        let change = move |user: UserId| {
            let stage = FactorStage::Active { since: now };
            let factor = Factor { id, user, name: SECOND_FACTOR.into(), kind: kind.clone(), stage, created_at: now };
            Change::none().insert(Record::Factor(factor)).tell(event.clone())
        };
        self.replace_second_factor(scope, login, change).await.map(drop)
    }

    /// Takes the person's second factor away; says whether there was one.
    ///
    /// # Errors
    /// Refusals: `UserUnknown`.
    pub async fn remove_second_factor(&self, scope: &Scope, login: &Login) -> Result<bool, Error> {
        self.replace_second_factor(scope, login, |_| Change::none()).await
    }

    /// Adds what `change` says to the removal of what is there; says whether something was.
    async fn replace_second_factor(
        &self,
        scope: &Scope,
        login: &Login,
        change: impl Fn(UserId) -> Change + Send + 'static,
    ) -> Result<bool, Error> {
        let (of, now) = (named(scope, login), self.now());
        let id = crate::words::id::EventId::new(now, self.chance());
        let judge = move |seen: &mut Seen| {
            let Some(Record::User(user)) = seen.peek(Key::UserNamed(of)) else {
                return Judged::Write(Change::none(), Err(Refusal::UserUnknown));
            };
            let user = user.id;
            if !seen.has_looked_at(Key::FactorsOf(user)) {
                return Judged::Look(vec![Key::FactorsOf(user)]);
            }
            let there: Vec<_> =
                seen.factors_of(user).into_iter().filter(|it| matches!(it.noun.kind, FactorKind::External { .. })).collect();
            let Some(person) = seen.user_named(of) else { return Judged::Write(Change::none(), Err(Refusal::UserUnknown)) };
            let mut all = change(user);
            for held in &there {
                let what = What::Removed { user, factor: held.noun.id };
                all = all.remove(Key::Factor(held.noun.id), held.version).tell(crate::nouns::event::Event { id, at: now, what });
            }
            if !all.writes.is_empty() {
                all = all.replace(Record::User(person.noun), person.version);
            }
            Judged::Write(all, Ok(!there.is_empty()))
        };
        Ok(self.decide(scope.tenant.tenant.id, vec![Key::UserNamed(of)], judge).await?.ok_or(Fault::Contended)??)
    }

    /// The person, who has an account.
    async fn account(&self, scope: &Scope, login: &Login) -> Result<User, Error> {
        match self.store().find(scope.tenant.tenant.id, Key::UserNamed(named(scope, login))).await?.map(|it| it.noun) {
            Some(Record::User(user)) if user.account.is_some() => Ok(user),
            _ => Err(Refusal::UserUnknown.into()),
        }
    }

    async fn edit_account<T: Send + 'static>(
        &self,
        scope: &Scope,
        login: &Login,
        what: impl Fn(UserId) -> What + Send + 'static,
        mut edit: impl FnMut(UserId, &mut Account) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (of, now) = (named(scope, login), self.now());
        let id = crate::words::id::EventId::new(now, self.chance());
        let judge = move |seen: &mut Seen| {
            let Some(Held { noun: mut user, version }) = seen.user_named(of) else {
                return Judged::Write(Change::none(), Err(Error::from(Refusal::UserUnknown)));
            };
            let Some(account) = &mut user.account else { return Judged::Write(Change::none(), Err(Refusal::UserUnknown.into())) };
            match edit(user.id, account) {
                Err(no) => Judged::Write(Change::none(), Err(no)),
                Ok(told) => {
                    let event = crate::nouns::event::Event { id, at: now, what: what(user.id) };
                    Judged::Write(Change::none().replace(Record::User(user), version).tell(event), Ok(told))
                }
            }
        };
        self.decide(scope.tenant.tenant.id, vec![Key::UserNamed(of)], judge).await?.ok_or(Fault::Contended)?
    }

    async fn scope_of(&self, tenant: TenantId) -> Result<Scope, Error> {
        Ok(Scope::of_tenant(self.standing(tenant).await?.ok_or(Refusal::Unknown("tenant"))?))
    }

    async fn hashed(&self, password: Secret) -> Result<String, Error> {
        if !PASSWORD.contains(&password.reveal().len()) {
            let (least, most) = (PASSWORD.start(), PASSWORD.end());
            return Err(Refusal::SettingBad(format!("a password has {least} to {most} bytes")).into());
        }
        let mut salt = [0; 16];
        self.chance().fill(&mut salt);
        let hashed = self.labour(move || hash(&password, salt)).await;
        Ok(hashed.ok_or_else(busy)??)
    }

    /// What `work` gives, done beside everything else; nothing when too much of it waits already.
    async fn labour<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let done = Arc::new(Mutex::new(None));
        let put = done.clone();
        let all = Box::new(move || *put.lock().expect("nobody panics while holding it") = Some(work()));
        self.0.with.tasks.labour(all).await;
        done.lock().expect("nobody panics while holding it").take()
    }
}

/// Takes one try out of each limit, which were looked at: each allows as many times what the policy says of sends.
pub(super) fn taken<const N: usize>(
    seen: &mut Seen,
    limits: [(Fingerprint, u16); N],
    now: Timestamp,
    policy: &Policy,
) -> (Change, Result<(), Refusal>) {
    let (mut change, mut told) = (Change::none(), Ok(()));
    for (of, times) in limits {
        let (before, read) = match seen.limit(of) {
            Some(Held { noun: Limit { count: Count::Sends(tries), .. }, version }) => (Some(tries), Some(version)),
            _ => (None, None),
        };
        let (after, taken) = Sends::take(before, now, &Policy { sends: policy.sends.saturating_mul(times), ..policy.clone() });
        change = change.put(Record::Limit(Limit { of, count: Count::Sends(after) }), read);
        told = told.and(taken.map_err(|until| Refusal::TriesExhausted { until }));
    }
    (change, told)
}

/// Argon2id with 19 MiB, two passes and one lane (RFC 9106 §4, second recommendation, scaled as OWASP does).
fn argon2() -> Argon2<'static> {
    let params = Params::new(19 * 1024, 2, 1, None).expect("within the limits of RFC 9106 §3.1");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

fn hash(password: &Secret, salt: [u8; 16]) -> Result<String, Fault> {
    let hash: PasswordHash = argon2().hash_password_with_salt(password.reveal().as_bytes(), &salt).map_err(|_| hashing("failed"))?;
    Ok(hash.to_string())
}

fn is_password(password: &Secret, kept: &str) -> Result<bool, Fault> {
    let kept = PasswordHash::new(kept).map_err(|_| Fault::Corrupt("a password's hash cannot be read".into()))?;
    Ok(argon2().verify_password(password.reveal().as_bytes(), &kept).is_ok())
}

/// Too many passwords wait to be judged.
fn busy() -> Fault {
    Fault::Unavailable { what: "too many passwords wait to be judged".into(), retry_after: Duration::from_secs(2) }
}

fn hashing(what: &str) -> Fault {
    Fault::Corrupt(format!("hashing a password {what}"))
}

fn access_hash(scope: &Scope, token: &Secret) -> Mac {
    scope.tenant.keys.mac("access token", &[token.reveal().as_bytes()])
}

fn open_profile(scope: &Scope, of: Fingerprint, sealed: Option<&crate::words::secret::Sealed>) -> Result<Map<String, Value>, Fault> {
    let Some(sealed) = sealed else { return Ok(Map::new()) };
    Core::open(&scope.tenant.keys, profile_place(&of), sealed, "a profile")
}

fn profile_place(of: &Fingerprint) -> Place<'_> {
    Place { noun: "user", id: of.as_bytes(), field: "profile" }
}

fn token_place(id: &AccessId) -> Place<'_> {
    Place { noun: "access", id: id.as_bytes(), field: "token" }
}

fn data_place(id: &FactorId) -> Place<'_> {
    Place { noun: "factor", id: id.as_bytes(), field: "data" }
}
