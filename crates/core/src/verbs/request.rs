//! Requesting: opening a challenge, and sending its code.
//!
//! Everything that a request means is one change: limits, challenge, message, event. Only when that is durable does
//! anything leave the house (invariants 4 and 5); [`deliver`](super::deliver) takes over from there.

use super::deliver::Carried;
use super::{Core, Judged, Scope};
use crate::nouns::challenge::{Challenge, Proof, Purpose, Stage};
use crate::nouns::delivery::{Delivery, DeliveryStage, LEASE, Load, Order};
use crate::nouns::event::{Event, What};
use crate::nouns::factor::FactorKind;
use crate::nouns::limit::{Count, Failures, Limit, Lock, Sends};
use crate::nouns::route;
use crate::nouns::sign_in::SignIn;
use crate::nouns::template::Template;
use crate::nouns::tenant::Policy;
use crate::nouns::user::Realm;
use crate::ports::{Change, Held, Key, Record, Seen, Version};
use crate::verbs::standing::Standing;
use crate::words::address::{Address, BadPhoneNumber, Channel, Fingerprint, Login};
use crate::words::id::{ChallengeId, DeliveryId};
use crate::words::refusal::{Error, Fault, Refusal};
use crate::words::secret::{Code, Place, Sealed, TenantKeys};
use crate::words::time::Timestamp;
use crate::words::wording::{Message, Values};
use std::num::NonZeroU8;
use std::sync::Arc;
use zeroize::Zeroizing;

/// What is asked for.
#[derive(Debug, Clone)]
pub enum Ask {
    /// A code that we send to an address which the caller names.
    Code {
        /// What the application calls the person. Nobody of that name need exist.
        login: Login,
        /// By which way: not [`Channel::Totp`].
        channel: Channel,
        /// To whom.
        to: Address,
        /// Which words; those called `default`, or the standard ones, when absent.
        template: Option<String>,
    },
    /// A value of the person's own authenticator.
    Totp {
        /// What the application calls the person.
        login: Login,
        /// Which of the person's devices.
        device: String,
    },
}

/// An open challenge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Requested {
    /// Its id.
    pub challenge: ChallengeId,
    /// When it ends.
    pub expires_at: Timestamp,
    /// What has become of the message.
    pub sent: Sent,
}

/// What has become of a message by the time of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// A provider took it.
    Taken,
    /// It waits for a provider's word, which did not come in time.
    Queued,
    /// No provider takes it now; it is tried again until its code is over.
    Postponed,
    /// There is none: the person has the code already.
    Nothing,
}

impl Core {
    /// Opens a challenge for `ask`. The challenge, its message and the event are one change; only then does anything leave
    /// the house (invariant 5).
    ///
    /// # Errors
    /// Refusals: `SendsExhausted`, `Locked`, `RouteMissing`, `TemplateUnknown`, `TemplateBroken`, `PhoneNumberBad` (a country
    /// that the policy excludes), `DeliveryRefused` and `AddressUnreachable` (the challenge is closed again), `UserUnknown`,
    /// `NoUsableDevice`, `DeviceUnknown`.
    pub async fn request(&self, scope: &Scope, ask: Ask) -> Result<Requested, Error> {
        match ask {
            Ask::Code { login, channel, to, template } => {
                let template = scope.tenant.template(scope.realm, channel, template.as_deref())?;
                self.request_code(scope, channel, Order { to, login, template: template.map(|it| it.id) }, template, Opening::Bare).await
            }
            Ask::Totp { login, device } => self.request_totp(scope, &login, device).await,
        }
    }

    pub(crate) async fn request_code(
        &self,
        scope: &Scope,
        channel: Channel,
        order: Order,
        template: Option<&Template>,
        opening: Opening,
    ) -> Result<Requested, Error> {
        check_destination(&scope.tenant, channel, &order.to)?;
        let now = self.now();
        let policy = scope.tenant.tenant.policy.clone();
        let id = ChallengeId::new(now, self.chance());
        let Prepared { load, delivery, proof } = self.prepare(scope, id, channel, &order, template, now)?;
        let expires_at = now + policy.code_lifetime();
        let failures = failures_of_order(scope, channel, &order);
        let sends = sends_of(scope, &order, opening.is_proven());
        let challenge = Challenge {
            id,
            realm: scope.realm,
            channel,
            failures: failures.clone(),
            purpose: opening.purpose(),
            stage: Stage::Open { attempts_left: policy.attempts, expires_at, proof },
        };
        let first = failures.iter().copied().chain(sends).map(Key::Limit).chain(opening.key()).collect();
        let opened = self.event(now, What::Opened { challenge: id, channel });
        let refused = self.event(now, What::RefusedSends { channel });
        let waiting = delivery.clone();
        let judge = move |seen: &mut Seen| {
            let counts: Vec<_> = failures.iter().map(|of| count_failures(seen.limit(*of)).0).collect();
            if let Some(refusal) = counts.iter().find_map(|count| refused_by_lock(count, now)) {
                return Judged::Write(Change::none(), Err(refusal));
            }
            let change = match take_sends(seen, sends, now, &policy, &refused) {
                Ok(change) => change,
                Err((note, refusal)) => return Judged::Write(note, Err(refusal)),
            };
            let change = match opening.write(seen, id, change) {
                Ok(change) => change,
                Err(refusal) => return Judged::Write(Change::none(), Err(refusal)),
            };
            let mut challenge = challenge.clone();
            if let Stage::Open { attempts_left, .. } = &mut challenge.stage {
                *attempts_left = left_of_round(&counts, &policy);
            }
            let change = change.insert(Record::Challenge(challenge)).insert(Record::Delivery(waiting.clone())).tell(opened.clone());
            Judged::Write(change, Ok(()))
        };
        self.decide(scope.tenant.tenant.id, first, judge).await?.ok_or(Fault::Contended)??;
        let sent = self.deliver_now(scope, delivery, load).await?;
        Ok(Requested { challenge: id, expires_at, sent })
    }

    async fn request_totp(&self, scope: &Scope, login: &Login, device: String) -> Result<Requested, Error> {
        let now = self.now();
        let policy = scope.tenant.tenant.policy.clone();
        let id = ChallengeId::new(now, self.chance());
        let named = named(scope, login);
        let failures = failures_of(&scope.tenant.keys, scope.realm, login, Channel::Totp);
        let expires_at = now + policy.code_lifetime();
        let opened = self.event(now, What::Opened { challenge: id, channel: Channel::Totp });
        let realm = scope.realm;
        let judge = move |seen: &mut Seen| {
            let Some(Record::User(user)) = seen.peek(Key::UserNamed(named)) else {
                return Judged::Write(Change::none(), Err(Refusal::UserUnknown));
            };
            let user = user.id;
            if !seen.has_looked_at(Key::FactorsOf(user)) {
                return Judged::Look(vec![Key::FactorsOf(user)]);
            }
            let count = count_failures(seen.limit(failures)).0;
            if let Some(refusal) = refused_by_lock(&count, now) {
                return Judged::Write(Change::none(), Err(refusal));
            }
            let mut usable = seen.factors_of(user).into_iter().map(|it| it.noun).filter(|it| it.is_active()).peekable();
            if usable.peek().is_none() {
                return Judged::Write(Change::none(), Err(Refusal::NoUsableDevice));
            }
            let Some(factor) = usable.find(|it| it.is_called(&device) && matches!(it.kind, FactorKind::Totp { .. })) else {
                return Judged::Write(Change::none(), Err(Refusal::DeviceUnknown));
            };
            let stage =
                Stage::Open { attempts_left: left_of_round(&[count], &policy), expires_at, proof: Proof::Totp { factor: factor.id } };
            let failures = vec![failures];
            let challenge = Challenge { id, realm, channel: Channel::Totp, failures, purpose: Purpose::Authenticate, stage };
            Judged::Write(Change::none().insert(Record::Challenge(challenge)).tell(opened.clone()), Ok(()))
        };
        let first = vec![Key::UserNamed(named), Key::Limit(failures)];
        self.decide(scope.tenant.tenant.id, first, judge).await?.ok_or(Fault::Contended)??;
        Ok(Requested { challenge: id, expires_at, sent: Sent::Nothing })
    }

    /// Draws a code for `challenge`, and writes and seals the message that carries it.
    pub(crate) fn prepare(
        &self,
        scope: &Scope,
        challenge: ChallengeId,
        channel: Channel,
        order: &Order,
        template: Option<&Template>,
        now: Timestamp,
    ) -> Result<Prepared, Error> {
        let Standing { tenant, keys, .. } = &*scope.tenant;
        let id = DeliveryId::new(now, self.chance());
        if scope.tenant.makes_own_codes(channel, &order.to) {
            let load = Load::Start { channel, to: order.to.clone() };
            return self.promise(keys, id, challenge, order, load, Proof::External { delivery: id }, now);
        }
        let code = Code::draw(tenant.policy.code_length, self.chance());
        let wording = Standing::wording(template, channel);
        let values = Values {
            code: &code,
            minutes: u64::from(tenant.policy.code_lifetime_s / 60).max(1),
            tenant: &tenant.display_name,
            application: scope.client.as_ref().map_or(&tenant.display_name, |it| &it.name),
            user: order.login.reveal(),
        };
        let words = self.0.with.pen.write(&wording, &values).map_err(Refusal::TemplateBroken)?;
        let sender = match channel {
            Channel::Email => scope.client.as_ref().and_then(|it| it.email_from.as_deref()).or(tenant.sender(channel)),
            Channel::Sms | Channel::Voice | Channel::External | Channel::Totp => tenant.sender(channel),
        };
        let message = Arc::new(Message {
            channel,
            to: order.to.clone(),
            from: sender.map(str::to_owned),
            subject: words.subject,
            text: words.text,
            html: words.html,
            code: code.reveal().to_owned(),
        });
        let proof = Proof::Code { mac: keys.code(challenge, code.reveal()), delivery: id };
        self.promise(keys, id, challenge, order, Load::Words(message), proof, now)
    }

    #[expect(clippy::too_many_arguments, reason = "what a delivery is made of")]
    fn promise(
        &self,
        keys: &TenantKeys,
        id: DeliveryId,
        challenge: ChallengeId,
        order: &Order,
        load: Load,
        proof: Proof,
        now: Timestamp,
    ) -> Result<Prepared, Error> {
        let delivery = Delivery {
            id,
            challenge,
            channel: load.channel(),
            order: self.seal(keys, order_place(&id), order)?,
            // This node makes the first attempt: to all others the delivery is leased.
            stage: DeliveryStage::Queued { due_at: now + LEASE, attempt: 1, message: self.seal(keys, message_place(&id), &load)? },
        };
        Ok(Prepared { load, delivery, proof })
    }

    /// Carries a message whose promise is durable, and waits for the provider's word as long as the tenant allows.
    pub(crate) async fn deliver_now(&self, scope: &Scope, delivery: Delivery, load: Load) -> Result<Sent, Refusal> {
        let within = scope.tenant.tenant.policy.answer_within();
        let told = self.start_carrying(scope.tenant.clone(), delivery, load, None);
        match super::deliver::first_of(told, self.0.with.tasks.pause(within)).await {
            Some(Ok(Carried::Taken { .. })) => Ok(Sent::Taken),
            Some(Ok(Carried::Refused { .. })) => Err(Refusal::DeliveryRefused),
            Some(Ok(Carried::NoSuchAddress { .. })) => Err(Refusal::AddressUnreachable),
            Some(Ok(Carried::Later { .. })) => Ok(Sent::Postponed),
            Some(Err(_)) | None => Ok(Sent::Queued),
        }
    }

    /// Opens what [`Core::seal`] has sealed; `what` names it when it cannot be read.
    pub(crate) fn open<T: serde::de::DeserializeOwned>(keys: &TenantKeys, place: Place<'_>, it: &Sealed, what: &str) -> Result<T, Fault> {
        let plain = Zeroizing::new(keys.open_sealed(place, it)?);
        serde_json::from_slice(&plain).map_err(|_| Fault::Corrupt(format!("{what} cannot be read")))
    }

    pub(crate) fn seal(&self, keys: &TenantKeys, place: Place<'_>, what: &impl serde::Serialize) -> Result<Sealed, Fault> {
        let plain = serde_json::to_vec(what).map_err(|_| Fault::Corrupt("what is to be sealed cannot be written as JSON".into()))?;
        Ok(keys.seal(place, &plain, self.chance()))
    }
}

/// A message that is ready to be promised.
pub(crate) struct Prepared {
    pub(crate) load: Load,
    pub(crate) delivery: Delivery,
    pub(crate) proof: Proof,
}

/// For what a challenge is opened.
#[derive(Clone)]
pub(crate) enum Opening {
    /// For whoever knows its id.
    Bare,
    /// A sign-in begins with it.
    Begins(SignIn),
    /// A sign-in goes on with it.
    Within {
        /// Which.
        of: Fingerprint,
        /// The challenge that it had before.
        before: Option<ChallengeId>,
        /// Whether the address is one that the person has proven.
        is_proven: bool,
    },
}

impl Opening {
    fn purpose(&self) -> Purpose {
        match self {
            Self::Bare => Purpose::Authenticate,
            Self::Begins(it) => Purpose::SignIn(it.of),
            Self::Within { of, .. } => Purpose::SignIn(*of),
        }
    }

    fn is_proven(&self) -> bool {
        match self {
            Self::Bare => false,
            Self::Begins(it) => it.asks_a_proven_address(),
            Self::Within { is_proven, .. } => *is_proven,
        }
    }

    fn key(&self) -> Option<Key> {
        match self {
            Self::Bare | Self::Begins(_) => None,
            Self::Within { of, .. } => Some(Key::SignIn(*of)),
        }
    }

    /// Writes down which challenge the sign-in has now.
    fn write(&self, seen: &mut Seen, challenge: ChallengeId, change: Change) -> Result<Change, Refusal> {
        match self {
            Self::Bare => Ok(change),
            Self::Begins(it) => Ok(change.insert(Record::SignIn(SignIn { challenge: Some(challenge), ..it.clone() }))),
            Self::Within { of, before, .. } => match seen.sign_in(*of) {
                Some(held) if held.noun.challenge == *before => {
                    Ok(change.replace(Record::SignIn(SignIn { challenge: Some(challenge), ..held.noun }), held.version))
                }
                // Somebody else was faster to ask for one.
                Some(_) => Err(Refusal::ResendTooSoon),
                None => Err(Refusal::SignInUnknown),
            },
        }
    }
}

pub(crate) fn message_place(id: &DeliveryId) -> Place<'_> {
    Place { noun: "delivery", id: id.as_bytes(), field: "message" }
}

pub(crate) fn order_place(id: &DeliveryId) -> Place<'_> {
    Place { noun: "delivery", id: id.as_bytes(), field: "order" }
}

/// By which a person is found.
pub(crate) fn named(scope: &Scope, login: &Login) -> Fingerprint {
    scope.tenant.keys.fingerprint("user", &[scope.realm.as_bytes(), login.canonical().as_bytes()])
}

/// Under which the wrong codes of a person with one kind of factor are counted: one count for every door, every challenge and
/// every spelling (invariant 2).
pub(crate) fn failures_of(keys: &TenantKeys, realm: Realm, login: &Login, channel: Channel) -> Fingerprint {
    keys.fingerprint("failures", &[realm.as_bytes(), login.canonical().as_bytes(), channel.as_str().as_bytes()])
}

/// Under which the wrong codes for what was ordered are counted. Who is asked by [`Channel::External`] has shown a first factor, so nobody
/// can change the name of the person to get more guesses, and the data are no address that two people could share by chance.
fn failures_of_order(scope: &Scope, channel: Channel, order: &Order) -> Vec<Fingerprint> {
    let of_person = failures_of(&scope.tenant.keys, scope.realm, &order.login, channel);
    match &order.to {
        Address::Data(_) => vec![of_person],
        Address::Phone(_) | Address::Email(_) => vec![of_person, failures_of_address(&scope.tenant.keys, scope.realm, &order.to)],
    }
}

/// Under which the wrong codes for one address are counted, whoever is said to live there, and whether the code is written or
/// spoken: a caller who keeps changing the name of the person gets no more guesses.
pub(crate) fn failures_of_address(keys: &TenantKeys, realm: Realm, to: &Address) -> Fingerprint {
    keys.fingerprint("failures of an address", &[realm.as_bytes(), to.canonical().as_bytes()])
}

/// Under which sends are counted: by person, and by address.
///
/// Sends to an address that the person has proven to be theirs are counted apart: nobody else can use them up (invariant 11).
pub(crate) fn sends_of(scope: &Scope, order: &Order, is_proven: bool) -> [Fingerprint; 2] {
    let keys = &scope.tenant.keys;
    // What holds no number was refused before anything was counted.
    let to = scope.tenant.tenant.policy.judged(&order.to).unwrap_or(std::borrow::Cow::Borrowed(&order.to));
    let of_address =
        if is_proven { keys.fingerprint("sends to a proven address", &[to.canonical().as_bytes()]) } else { sends_to(keys, &to) };
    [keys.fingerprint("sends to a person", &[scope.realm.as_bytes(), order.login.canonical().as_bytes()]), of_address]
}

/// Under which everything is counted that one person can be sent or begin.
pub(crate) fn sends_of_person(keys: &TenantKeys, realm: Realm, canonical: &str) -> [Fingerprint; 2] {
    let user = keys.fingerprint("user", &[realm.as_bytes(), canonical.as_bytes()]);
    [keys.fingerprint("sends to a person", &[realm.as_bytes(), canonical.as_bytes()]), begun_of(keys, user)]
}

/// Under which the sign-ins are counted that a person begins.
pub(crate) fn begun_of(keys: &TenantKeys, user: Fingerprint) -> Fingerprint {
    keys.fingerprint("sign-ins of a person", &[user.as_bytes()])
}

/// Under which sends to an address are counted that nobody has proven to be theirs.
pub(crate) fn sends_to(keys: &TenantKeys, to: &Address) -> Fingerprint {
    keys.fingerprint("sends to an address", &[to.canonical().as_bytes()])
}

/// Takes one send out of both limits. Where one refuses, the change only notes the refusal, if that is new.
pub(crate) fn take_sends(
    seen: &mut Seen,
    limits: [Fingerprint; 2],
    now: Timestamp,
    policy: &Policy,
    refused: &Event,
) -> Result<Change, (Change, Refusal)> {
    let mut change = Change::none();
    for of in limits {
        let (before, read) = match seen.limit(of) {
            Some(Held { noun: Limit { count: Count::Sends(sends), .. }, version }) => (Some(sends), Some(version)),
            _ => (None, None),
        };
        let (after, taken) = Sends::take(before.clone(), now, policy);
        let news = before.as_ref() != Some(&after);
        let record = Record::Limit(Limit { of, count: Count::Sends(after) });
        if let Err(until) = taken {
            let note = if news { Change::none().put(record, read).tell(refused.clone()) } else { Change::none() };
            return Err((note, Refusal::SendsExhausted { until }));
        }
        change = change.put(record, read);
    }
    Ok(change)
}

/// The wrong codes that were read, none if there was no such record, and the version to replace.
pub(crate) fn count_failures(read: Option<Held<Limit>>) -> (Failures, Option<Version>) {
    match read {
        Some(Held { noun: Limit { count: Count::Failures(noun), .. }, version }) => (noun, Some(version)),
        _ => (Failures::default(), None),
    }
}

pub(crate) fn refused_by_lock(failures: &Failures, now: Timestamp) -> Option<Refusal> {
    match failures.lock(now) {
        Lock::Open => None,
        Lock::Until(until) => Some(Refusal::Locked { until: Some(until) }),
        Lock::Disabled => Some(Refusal::Locked { until: None }),
    }
}

/// What is left of a round of attempts: a new challenge gives back none that an old one paid (invariant 2).
fn left_of_round(counts: &[Failures], policy: &Policy) -> NonZeroU8 {
    let paid = counts.iter().map(|it| it.in_a_row() % u16::from(policy.attempts.get())).max().unwrap_or(0);
    NonZeroU8::new(policy.attempts.get() - u8::try_from(paid).expect("less than the attempts")).expect("a remainder is smaller")
}

fn check_destination(standing: &Standing, channel: Channel, to: &Address) -> Result<(), Refusal> {
    if let Address::Phone(number) = &*standing.tenant.policy.judged(to)? {
        let countries = &standing.tenant.policy.countries;
        let served = countries.is_empty() || countries.iter().any(|code| number.reveal()[1..].starts_with(code.as_str()));
        if !served {
            return Err(BadPhoneNumber::Kind.into());
        }
    }
    if route::legs(&standing.tenant.routes, channel, to).is_empty() { Err(Refusal::RouteMissing { channel }) } else { Ok(()) }
}
