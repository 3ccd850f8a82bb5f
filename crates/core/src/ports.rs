//! Ports: what the core asks of its neighbours.
//!
//! Everything is written in one manner: a [`Judge`] is shown what is there and says what is to change, and the [`Change`] happens if
//! that is still there. Where and how often an engine asks the judge is its own business.

use crate::nouns::challenge::Challenge;
use crate::nouns::client::Client;
use crate::nouns::delivery::Delivery;
use crate::nouns::event::Event;
use crate::nouns::factor::Factor;
use crate::nouns::limit::Limit;
use crate::nouns::provider::ProviderSettings;
use crate::nouns::sign_in::SignIn;
use crate::nouns::template::Template;
use crate::nouns::tenant::Tenant;
use crate::nouns::user::User;
use crate::words::address::{Address, Fingerprint};
use crate::words::id::{ChallengeId, ClientId, DeliveryId, EventId, FactorId, NodeId, ProviderId, TemplateId, TenantId, UserId};
use crate::words::refusal::Fault;
use crate::words::secret::{Offered, Secret};
use crate::words::time::Timestamp;
use crate::words::wording::{Message, Values, Wording};
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// An answer that comes later.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Where time comes from (invariant 10).
pub trait Clock: Send + Sync {
    /// The present moment.
    fn now(&self) -> Timestamp;
}

/// Where chance comes from (invariant 10): in production the operating system.
pub trait Chance: Send + Sync {
    /// Fills `bytes` with random ones.
    fn fill(&self, bytes: &mut [u8]);
}

/// Who goes on working when a caller has hung up.
pub trait Tasks: Send + Sync {
    /// Runs `work` to its end, whoever waits for it.
    fn detach(&self, work: Pending<'static, ()>);

    /// Ready when `span` has passed.
    fn pause(&self, span: Duration) -> Pending<'static, ()>;

    /// Does what keeps a processor busy for long (hashing a password) beside everything else, and a few at a time, so that a storm of it
    /// holds up nobody's codes. Ready when it is done; or at once and undone, when too much of it waits already.
    fn labour(&self, work: Box<dyn FnOnce() + Send>) -> Pending<'static, ()>;
}

// ---------------------------------------------------------------------------------------------------------------- store

/// Where one record of a tenant is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Key {
    /// The tenant itself.
    Tenant,
    /// A client.
    Client(ClientId),
    /// A person by id.
    User(UserId),
    /// A person by [`User::named`].
    UserNamed(Fingerprint),
    /// A factor.
    Factor(FactorId),
    /// All factors of a person, oldest first.
    FactorsOf(UserId),
    /// A challenge.
    Challenge(ChallengeId),
    /// A delivery.
    Delivery(DeliveryId),
    /// A limit.
    Limit(Fingerprint),
    /// A sign-in.
    SignIn(Fingerprint),
    /// A provider.
    Provider(ProviderId),
    /// A template.
    Template(TemplateId),
}

impl Key {
    /// Whether what is there is configuration: what nodes keep copies of, and [`Store::stamp`] counts the changes of.
    #[must_use]
    pub fn is_configuration(self) -> bool {
        match self {
            Self::Tenant | Self::Client(_) | Self::Provider(_) | Self::Template(_) => true,
            Self::User(_) | Self::UserNamed(_) | Self::Factor(_) | Self::FactorsOf(_) => false,
            Self::Challenge(_) | Self::Delivery(_) | Self::Limit(_) | Self::SignIn(_) => false,
        }
    }
}

/// One noun, whichever it is.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "each variant is named after its noun")]
pub enum Record {
    Tenant(Tenant),
    Client(Client),
    User(User),
    Factor(Factor),
    Challenge(Challenge),
    Delivery(Delivery),
    Limit(Limit),
    SignIn(SignIn),
    Provider(ProviderSettings),
    Template(Template),
}

impl Record {
    /// Where it is found.
    #[must_use]
    pub fn key(&self) -> Key {
        match self {
            Self::Tenant(_) => Key::Tenant,
            Self::Client(it) => Key::Client(it.id),
            Self::User(it) => Key::User(it.id),
            Self::Factor(it) => Key::Factor(it.id),
            Self::Challenge(it) => Key::Challenge(it.id),
            Self::Delivery(it) => Key::Delivery(it.id),
            Self::Limit(it) => Key::Limit(it.of),
            Self::SignIn(it) => Key::SignIn(it.of),
            Self::Provider(it) => Key::Provider(it.id),
            Self::Template(it) => Key::Template(it.id),
        }
    }
}

/// Counts the replacements of a record. A replace names the version that was read.
pub type Version = i64;

/// A noun and the version at which it was read.
#[derive(Debug, Clone)]
pub struct Held<T> {
    /// The noun.
    pub noun: T,
    /// Its version then.
    pub version: Version,
}

/// What was read for a judge, in the order in which it was asked for. A judge takes out what it needs.
#[derive(Debug, Default)]
pub struct Seen(Vec<(Key, Vec<Held<Record>>)>);

macro_rules! take {
    ($($(#[$doc:meta])* $name:ident($key:ident: $id:ty) -> $noun:ident;)*) => {
        $($(#[$doc])*
        pub fn $name(&mut self, id: $id) -> Option<Held<$noun>> {
            match self.take(Key::$key(id))? { Held { noun: Record::$noun(noun), version } => Some(Held { noun, version }), _ => None }
        })*
    };
}

impl Seen {
    /// Notes what was found under `key`; nothing found is an empty list.
    pub fn note(&mut self, key: Key, found: Vec<Held<Record>>) {
        self.0.push((key, found))
    }

    /// Whether `key` was looked at.
    #[must_use]
    pub fn has_looked_at(&self, key: Key) -> bool {
        self.0.iter().any(|(it, _)| *it == key)
    }

    fn take(&mut self, key: Key) -> Option<Held<Record>> {
        self.0.iter_mut().find(|(it, _)| *it == key).and_then(|(_, found)| found.pop())
    }

    /// Looks at a record without taking it.
    #[must_use]
    pub fn peek(&self, key: Key) -> Option<&Record> {
        self.0.iter().find(|(it, _)| *it == key).and_then(|(_, found)| found.first()).map(|held| &held.noun)
    }

    /// Looks at a challenge without taking it.
    #[must_use]
    pub fn peek_challenge(&self, id: ChallengeId) -> Option<&Challenge> {
        match self.peek(Key::Challenge(id))? {
            Record::Challenge(it) => Some(it),
            _ => None,
        }
    }

    take! {
        /// The challenge, once.
        challenge(Challenge: ChallengeId) -> Challenge;
        /// The delivery, once.
        delivery(Delivery: DeliveryId) -> Delivery;
        /// The limit, once.
        limit(Limit: Fingerprint) -> Limit;
        /// The sign-in, once.
        sign_in(SignIn: Fingerprint) -> SignIn;
        /// The factor, once.
        factor(Factor: FactorId) -> Factor;
        /// The person, once.
        user_named(UserNamed: Fingerprint) -> User;
        /// The client, once.
        client(Client: ClientId) -> Client;
    }

    /// The tenant, once.
    pub fn tenant(&mut self) -> Option<Held<Tenant>> {
        match self.take(Key::Tenant)? {
            Held { noun: Record::Tenant(noun), version } => Some(Held { noun, version }),
            _ => None,
        }
    }

    /// Any record by its key, once.
    pub fn record(&mut self, key: Key) -> Option<Held<Record>> {
        self.take(key)
    }

    /// The factors of a person, oldest first, once.
    pub fn factors_of(&mut self, user: UserId) -> Vec<Held<Factor>> {
        let found =
            self.0.iter_mut().find(|(it, _)| *it == Key::FactorsOf(user)).map(|(_, found)| std::mem::take(found)).unwrap_or_default();
        found
            .into_iter()
            .filter_map(|it| match it.noun {
                Record::Factor(noun) => Some(Held { noun, version: it.version }),
                _ => None,
            })
            .collect()
    }
}

/// One write.
#[derive(Debug, Clone)]
pub enum Write {
    /// Puts in what is not there. Its key and unique names must be free.
    Insert(Record),
    /// Puts the record in the place of the version that was read.
    Replace(Record, Version),
    /// Takes out the version that was read.
    Remove(Key, Version),
}

/// What a judge wants to happen: writes and events of one tenant, all of them or none.
#[derive(Debug, Clone, Default)]
pub struct Change {
    /// The writes, in order.
    pub writes: Vec<Write>,
    /// What they mean.
    pub events: Vec<Event>,
}

impl Change {
    /// A change that changes nothing.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Adds an insert.
    #[must_use]
    pub fn insert(mut self, record: Record) -> Self {
        self.writes.push(Write::Insert(record));
        self
    }

    /// Adds a replace.
    #[must_use]
    pub fn replace(mut self, record: Record, read: Version) -> Self {
        self.writes.push(Write::Replace(record, read));
        self
    }

    /// Adds a removal.
    #[must_use]
    pub fn remove(mut self, key: Key, read: Version) -> Self {
        self.writes.push(Write::Remove(key, read));
        self
    }

    /// Adds an insert where nothing was read, else a replace.
    #[must_use]
    pub fn put(self, record: Record, read: Option<Version>) -> Self {
        match read {
            Some(version) => self.replace(record, version),
            None => self.insert(record),
        }
    }

    /// Adds a removal where something was read.
    #[must_use]
    pub fn clear(self, key: Key, read: Option<Version>) -> Self {
        match read {
            Some(version) => self.remove(key, version),
            None => self,
        }
    }

    /// Whether it writes configuration ([`Key::is_configuration`]).
    #[must_use]
    pub fn configures(&self) -> bool {
        self.writes.iter().any(|write| match write {
            Write::Insert(record) | Write::Replace(record, _) => record.key().is_configuration(),
            Write::Remove(key, _) => key.is_configuration(),
        })
    }

    /// Adds what it means.
    #[must_use]
    pub fn tell(mut self, event: Event) -> Self {
        self.events.push(event);
        self
    }
}

/// What a judge says.
#[derive(Debug)]
pub enum Step {
    /// It must see these as well, and is asked again.
    Look(Vec<Key>),
    /// This is to happen.
    Write(Change),
}

/// A pure function from what was read to a change.
///
/// When it says [`Step::Look`] it is asked again with the same [`Seen`], to which the new reads were added: until it has
/// seen enough it peeks, and takes nothing. When somebody else was faster it is asked again from the beginning, with fresh
/// reads of everything that it asked for.
pub type Judge = Box<dyn FnMut(&mut Seen) -> Step + Send>;

/// What came of a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It happened, and is durable.
    Done,
    /// Nothing happened: an insert met something with the same key or unique name, which the judge had not looked at.
    Taken,
}

/// Lists that administration, caches and retention ask for. None is on the way of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listing {
    /// All tenants, by name.
    Tenants,
    /// The tenant with this name.
    TenantNamed(String),
    /// The client with this `client_id`, whichever tenant's it is.
    ClientNamed(String),
    /// All clients of a tenant, oldest first.
    Clients(TenantId),
    /// All providers of a tenant, oldest first.
    Providers(TenantId),
    /// All templates of a tenant, oldest first.
    Templates(TenantId),
}

/// One answer of a [`Listing`].
#[derive(Debug, Clone)]
pub struct Listed {
    /// Whose it is.
    pub tenant: TenantId,
    /// What it is.
    pub held: Held<Record>,
}

/// How the store is.
#[derive(Debug, Clone)]
pub struct Health {
    /// The engine and its version, such as `SQLite 3.54.1`.
    pub engine: String,
    /// The version of the schema.
    pub schema: u32,
    /// Deliveries that wait.
    pub queued: u64,
    /// Bytes that it takes.
    pub bytes: u64,
}

/// What one step of retention did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Rows removed.
    pub removed: u64,
    /// Whether there is more to do.
    pub more: bool,
}

/// What one node at a time does, of all that share a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Turn {
    /// Retention.
    Sweep,
}

impl Turn {
    /// Under which name it is kept.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sweep => "sweep",
        }
    }
}

/// Where everything is kept.
pub trait Store: Send + Sync {
    /// Reads one record by its key ([`Key::FactorsOf`] finds the oldest).
    fn find(&self, tenant: TenantId, key: Key) -> Pending<'_, Result<Option<Held<Record>>, Fault>>;

    /// Reads a list.
    fn list(&self, listing: Listing) -> Pending<'_, Result<Vec<Listed>, Fault>>;

    /// The stamp of the configuration, one for the whole house: a number that grows in the transaction of every change that writes a
    /// tenant, a client, a provider or a template, whichever node makes it, and with nothing else. What is read after the stamp is
    /// at least as new as the stamp, so a copy that was read after it is good for as long as the stamp is the same.
    fn stamp(&self) -> Pending<'_, Result<i64, Fault>>;

    /// The factors of a person, oldest first.
    fn factors_of(&self, tenant: TenantId, user: UserId) -> Pending<'_, Result<Vec<Held<Factor>>, Fault>>;

    /// The newest events of a tenant that are older than `before`, newest first.
    fn events(&self, tenant: TenantId, before: Option<EventId>, most: u32) -> Pending<'_, Result<Vec<Event>, Fault>>;

    /// Reads `first`, asks `judge`, and lets its change happen, whole or not at all.
    ///
    /// The decision is on its way when this function returns, and happens even if nobody awaits the answer; decisions
    /// that one caller makes one after the other happen in that order on one node. The answer comes when the change is
    /// durable (invariant 4).
    fn decide(&self, tenant: TenantId, first: Vec<Key>, judge: Judge) -> Pending<'static, Result<Outcome, Fault>>;

    /// Queued deliveries that are due at `now`, the longest waiting first. Reading is not claiming.
    fn due(&self, now: Timestamp, most: u32) -> Pending<'_, Result<Vec<(TenantId, DeliveryId)>, Fault>>;

    /// One bounded step of retention: challenges, deliveries that are over and events of `tenant` from before `before`, and
    /// limits and sign-ins that were over at `now`. Never holds the writer for longer than a few milliseconds.
    fn sweep(&self, tenant: TenantId, before: Timestamp, now: Timestamp) -> Pending<'_, Result<Swept, Fault>>;

    /// Takes the turn of `node` until `until`, or prolongs it; says whether it has it. It does not while another node's
    /// lasts. A node that dies loses its turn when the time is over.
    fn take_turn(&self, turn: Turn, node: NodeId, now: Timestamp, until: Timestamp) -> Pending<'_, Result<bool, Fault>>;

    /// Whether it can be read and written, and how large it is.
    fn health(&self) -> Pending<'_, Result<Health, Fault>>;
}

// ------------------------------------------------------------------------------------------------------------ providers

/// Why a provider did not carry a message. Whether to try again is data (invariant 10). The texts never hold an address, a
/// code or a secret (invariant 7): a status, a vendor's error number, the kind of failure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// It will not carry this message, ever. Another provider might.
    #[error("refused: {0}")]
    Refused(String),
    /// It says that there is no such address. Another provider would say the same.
    #[error("no such address: {0}")]
    NoSuchAddress(String),
    /// It is away, slow, full or out of order. Trying later may help.
    #[error("unavailable: {why}")]
    Unavailable {
        /// What happened.
        why: String,
        /// When it wishes to be asked again.
        retry_after: Option<Duration>,
    },
}

/// What a provider calls a message that it took, where it says so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Receipt(pub Option<String>);

/// A carrier of messages: codes are made and checked in this house.
pub trait Sends: Send + Sync {
    /// Carries one message. `id` is the same on every try of the same message.
    fn send(&self, id: DeliveryId, message: Arc<Message>) -> Pending<'static, Result<Receipt, SendError>>;

    /// Whether the provider can be reached, without sending anything.
    fn probe(&self) -> Pending<'static, Result<String, SendError>>;
}

/// Why a service that verifies by itself gave no verdict. The texts never hold an address, a code or a secret (invariant 7).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    /// Nothing reached it, so nobody can have learnt anything.
    #[error("it could not be asked: {0}")]
    NotAsked(String),
    /// It may have judged, and what it said is not known.
    #[error("it gave no verdict: {0}")]
    NoVerdict(String),
}

/// A service that verifies by itself: its codes are never seen before somebody types one.
pub trait Verifies: Send + Sync {
    /// Starts a verification of `to`: the service makes a code and sends it. `id` is the same on every try. The receipt is the name by
    /// which it is checked, where the service has one.
    fn start(&self, id: DeliveryId, to: Address) -> Pending<'static, Result<Receipt, SendError>>;

    /// Whether what is `offered` is the code that they sent to `to`, under the name of `receipt`.
    fn check(&self, receipt: Receipt, to: Address, offered: Offered) -> Pending<'static, Result<bool, CheckError>>;

    /// Whether the service can be reached, without starting anything.
    fn probe(&self) -> Pending<'static, Result<String, SendError>>;
}

/// How a call stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallStatus {
    /// It rings, or the person has not decided.
    Pending,
    /// The person said yes.
    Success,
    /// The person said no, or was not reached.
    Failed,
}

/// A service that calls people and asks them; there is no code.
pub trait Rings: Send + Sync {
    /// Starts a call to `to`.
    fn ring(&self, id: ChallengeId, to: Address) -> Pending<'static, Result<CallStatus, SendError>>;

    /// How the call stands.
    fn status(&self, id: ChallengeId) -> Pending<'static, Result<CallStatus, SendError>>;
}

/// What a provider can do. Nobody ever asks whether it is really one of those.
pub enum Provider {
    /// It carries messages.
    Sends(Box<dyn Sends>),
    /// It verifies by itself.
    Verifies(Box<dyn Verifies>),
    /// It calls people.
    Rings(Box<dyn Rings>),
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sends(_) => "Sends(…)",
            Self::Verifies(_) => "Verifies(…)",
            Self::Rings(_) => "Rings(…)",
        })
    }
}

/// Who makes providers out of their settings.
pub trait Carriers: Send + Sync {
    /// Makes the provider, or says what is wrong with its settings. Nothing is sent, nobody is called.
    ///
    /// # Errors
    /// A sentence for the operator: which setting, what is wrong, what would be right.
    fn build(&self, settings: &ProviderSettings, secrets: BTreeMap<String, Secret>) -> Result<Provider, String>;
}

/// Who fills in words.
pub trait Pen: Send + Sync {
    /// The words with the values in them. HTML is escaped in `html`, and nowhere else; line breaks in a subject become blanks.
    ///
    /// # Errors
    /// A sentence for whoever wrote the template: where, and what is wrong. A name that has no value is wrong.
    fn write(&self, wording: &Wording, values: &Values<'_>) -> Result<Wording, String>;
}

/// A request to a server that somebody else runs, on behalf of a caller. Its parts may hold secrets.
#[derive(Clone)]
pub struct Call {
    /// Such as `POST`.
    pub method: &'static str,
    /// Where to.
    pub url: String,
    /// Names and values.
    pub headers: Vec<(&'static str, String)>,
    /// The body; empty for none.
    pub body: Vec<u8>,
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Call({} …)", self.method)
    }
}

/// What that server answered.
#[derive(Clone)]
pub struct Heard {
    /// The status.
    pub status: u16,
    /// The content type, as it was sent.
    pub content_type: Option<String>,
    /// The whole body.
    pub body: Vec<u8>,
}

impl fmt::Debug for Heard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Heard({}, {} bytes)", self.status, self.body.len())
    }
}

/// The way to servers that somebody else runs and a dialect stands in front of. It leaves by the one door out (invariant 9).
pub trait Outbound: Send + Sync {
    /// Asks, and waits for the whole answer within the bounds of the house (size, time; redirects are not followed).
    fn call(&self, call: Call) -> Pending<'static, Result<Heard, SendError>>;
}

/// A message that the inbox shows. Development only.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Shown {
    /// The delivery.
    pub id: DeliveryId,
    /// When it came.
    pub at: Timestamp,
    /// What would have been sent.
    pub message: Arc<Message>,
}

/// The messages that were not sent but shown. Development only.
pub trait Inbox: Send + Sync {
    /// What came, newest first.
    fn newest(&self) -> Vec<Shown>;

    /// Ready as soon as something comes after this was called.
    fn next(&self) -> Pending<'static, ()>;
}

/// Ports for tests: chance that repeats, time that stands still.
pub mod test {
    use super::{Chance, Clock, Timestamp};
    use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

    /// Bytes that look random and are the same on every run (SplitMix64).
    #[derive(Debug, Default)]
    pub struct Script(AtomicU64);

    impl Chance for Script {
        fn fill(&self, bytes: &mut [u8]) {
            for part in bytes.chunks_mut(8) {
                let mut z = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed).wrapping_add(0x9e37_79b9_7f4a_7c15);
                z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                part.copy_from_slice(&(z ^ (z >> 31)).to_le_bytes()[..part.len()]);
            }
        }
    }

    /// A clock that moves when it is told to.
    #[derive(Debug)]
    pub struct Still(AtomicI64);

    impl Still {
        /// Stands at `at`.
        #[must_use]
        pub fn at(at: Timestamp) -> Self {
            Self(AtomicI64::new(at.as_millis()))
        }

        /// Is set to `at`, which may be in its past.
        pub fn set(&self, at: Timestamp) {
            self.0.store(at.as_millis(), Ordering::SeqCst);
        }

        /// Moves on by `span`.
        pub fn pass(&self, span: std::time::Duration) {
            self.0.fetch_add(i64::try_from(span.as_millis()).expect("a test's span"), Ordering::SeqCst);
        }
    }

    impl Clock for Still {
        fn now(&self) -> Timestamp {
            Timestamp::from_millis(self.0.load(Ordering::SeqCst))
        }
    }
}
