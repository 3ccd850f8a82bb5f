//! Verbs: what can be done, one file each. All dialects end here; none of them knows another rule than these.

pub mod account;
pub mod deliver;
pub mod enroll;
pub mod manage;
pub mod recover;
pub mod request;
pub mod resend;
pub mod restore;
pub mod rotate;
pub mod sign_in;
pub mod standing;
pub mod verify;

use crate::nouns::event::{Event, What};
use crate::ports::{Carriers, Chance, Clock, Judge, Key, Outcome, Pen, Seen, Step, Store, Tasks};
use crate::words::id::{ClientId, EventId, NodeId, TenantId};
use crate::words::refusal::{Error, Fault, Refusal};
use crate::words::secret::MasterKey;
use crate::words::time::Timestamp;
use deliver::{SetAside, StoreIs};
use standing::{Knows, Standing};
use std::fmt;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, OnceLock};

/// What the core is lent by its neighbours.
#[derive(Clone)]
pub struct Neighbours {
    /// Where everything is kept.
    pub store: Arc<dyn Store>,
    /// Where time comes from.
    pub clock: Arc<dyn Clock>,
    /// Where chance comes from.
    pub chance: Arc<dyn Chance>,
    /// Who goes on working when a caller has hung up.
    pub tasks: Arc<dyn Tasks>,
    /// Who makes providers out of their settings.
    pub carriers: Arc<dyn Carriers>,
    /// Who fills in words.
    pub pen: Arc<dyn Pen>,
    /// The operator's key.
    pub master: MasterKey,
}

/// The house: every verb is a method of it. Cloning it is cheap, and gives the same house.
#[derive(Clone)]
pub struct Core(Arc<Inner>);

struct Inner {
    with: Neighbours,
    knows: Knows,
    /// Who this is among the nodes that share the store; drawn when somebody first asks.
    node: OnceLock<NodeId>,
    /// Deliveries that the loop of this node carries at the moment.
    carrying: AtomicUsize,
    /// Deliveries that cannot be read, or whose end is not noted yet.
    set_aside: Mutex<SetAside>,
    /// What the loop of this node knows of the store.
    store_is: Mutex<StoreIs>,
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Core(…)")
    }
}

/// What a typed judge says.
pub(crate) enum Judged<T> {
    /// It must see these as well.
    Look(Vec<Key>),
    /// This is to happen, and this is to be told once it has.
    Write(crate::ports::Change, T),
}

impl Core {
    /// Moves in.
    #[must_use]
    pub fn new(with: Neighbours) -> Self {
        Self(Arc::new(Inner {
            with,
            knows: Knows::default(),
            node: OnceLock::new(),
            carrying: AtomicUsize::new(0),
            set_aside: Mutex::default(),
            store_is: Mutex::default(),
        }))
    }

    /// The present moment.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.0.with.clock.now()
    }

    /// Where chance comes from, for those who draw identifiers of their own (request ids).
    #[must_use]
    pub fn chance(&self) -> &dyn Chance {
        &*self.0.with.chance
    }

    /// How the store is.
    ///
    /// # Errors
    /// The fault that keeps it from being read or written.
    pub async fn health(&self) -> Result<crate::ports::Health, Fault> {
        self.0.with.store.health().await
    }

    fn store(&self) -> &dyn Store {
        &*self.0.with.store
    }

    fn node(&self) -> NodeId {
        *self.0.node.get_or_init(|| NodeId::new(self.now(), self.chance()))
    }

    fn event(&self, now: Timestamp, what: What) -> Event {
        Event { id: EventId::new(now, self.chance()), at: now, what }
    }

    /// Read, judge, replace if unchanged; what the judge told, once it is durable (invariant 4). The decision is on its way to the
    /// store when this returns, and happens even if nobody awaits what it told.
    fn decide<T: Send + 'static, J: FnMut(&mut Seen) -> Judged<T> + Send + 'static>(
        &self,
        tenant: TenantId,
        first: Vec<Key>,
        mut judge: J,
    ) -> impl Future<Output = Result<Option<T>, Fault>> + Send + use<T, J> {
        let told = Arc::new(Mutex::new(None));
        let keep = told.clone();
        let judge: Judge = Box::new(move |seen| match judge(seen) {
            Judged::Look(keys) => Step::Look(keys),
            Judged::Write(change, tell) => {
                *keep.lock().expect("nobody panics while holding it") = Some(tell);
                Step::Write(change)
            }
        });
        let deciding = self.store().decide(tenant, first, judge);
        async move {
            match deciding.await? {
                Outcome::Taken => Ok(None),
                Outcome::Done => {
                    let told = told.lock().expect("nobody panics while holding it").take();
                    told.map(Some).ok_or_else(|| Fault::Corrupt("the store decided without asking the judge".into()))
                }
            }
        }
    }
}

/// On whose behalf something is asked: a tenant, one of its clients where the dialect knows clients, and the realm of people that is seen.
#[derive(Debug, Clone)]
pub struct Scope {
    /// The tenant, with everything that it has decided.
    pub tenant: Arc<Standing>,
    /// The client; none where people ask for themselves.
    pub client: Option<Arc<crate::nouns::client::Client>>,
    /// Whose people it sees.
    pub realm: crate::nouns::user::Realm,
}

impl Scope {
    /// The scope of a tenant whose people ask for themselves.
    #[must_use]
    pub fn of_tenant(tenant: Arc<Standing>) -> Self {
        Self { tenant, client: None, realm: crate::nouns::user::Realm::Tenant }
    }
}

impl Core {
    /// The scope of `client` of `tenant`, where the dialect separates its clients (invariant 6).
    ///
    /// # Errors
    /// [`Refusal::ClientUnknown`] when either is gone or switched off.
    pub async fn scope(&self, tenant: TenantId, client: ClientId) -> Result<Scope, Error> {
        let standing = self.standing(tenant).await?.ok_or(Refusal::ClientUnknown)?;
        let client = self.client(tenant, client).await?.ok_or(Refusal::ClientUnknown)?;
        if client.disabled {
            return Err(Refusal::ClientUnknown.into());
        }
        Ok(Scope { tenant: standing, realm: crate::nouns::user::Realm::Client(client.id), client: Some(client) })
    }
}
