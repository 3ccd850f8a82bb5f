//! The engine for more than one machine: PostgreSQL, the same nouns and the same promises.
//!
//! Owns opening, closing and the [`Store`] port; [`batch`] decides, [`slate`] is what a batch knows, [`sql`] talks to the
//! database, [`connect`] opens lines to it, [`questions`] answers what is not on the way of a request.
//!
//! Nodes hold nothing that another one needs. What two of them want to change at once is settled by versions: one is faster, the
//! other one reads again. Nothing is kept in a session, so a pooler may stand in between.

mod batch;
mod connect;
mod ledger;
mod migrations;
mod questions;
mod revive;
mod slate;
mod sql;
mod trouble;

pub(crate) use ledger::PostgresLedger;
pub use revive::{Revival, Revived};

use crate::ledger::Unfinished;
use crate::rows::unavailable;
use crate::stats::{Counters, Stats};
use crate::walks::Walks;
use batch::{Desk, Waiting};
use connect::Lines;
use countersign_core::nouns::event::Event;
use countersign_core::nouns::factor::Factor;
use countersign_core::ports::{Health, Held, Judge, Key, Listed, Listing, Outcome, Pending, Record, Store, Swept, Turn};
use countersign_core::words::id::{DeliveryId, EventId, NodeId, TenantId, UserId};
use countersign_core::words::refusal::Fault;
use countersign_core::words::secret::Secret;
use countersign_core::words::time::Timestamp;
use slate::Job;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::AtomicI64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// How the engine is run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the database is, as libpq writes it (`postgres://user:password@host:5432/name?sslmode=require`), with several hosts
    /// where one takes over from another.
    pub url: Secret,
    /// Connections at the most.
    pub connections: usize,
    /// Batches of decisions on their way at a time. With more than one, only decisions that begin with the same record keep the order
    /// in which a caller made them. Most of what a batch costs the database does not depend on its size, so one full
    /// batch is cheaper than two halves; and while it is on its way, the next one gathers.
    pub lanes: usize,
    /// Decisions that may wait for each lane; more are turned away with [`Fault::Unavailable`].
    pub queue: usize,
    /// How long the database may take for one step.
    pub within: Duration,
    /// Certificates (PEM) that may vouch for the database; those of the system when there are none.
    pub roots_pem: Vec<String>,
}

impl Options {
    /// What holds when only the address is said.
    #[must_use]
    pub fn new(url: Secret) -> Self {
        Self { url, connections: 12, lanes: 1, queue: 32_768, within: Duration::from_secs(5), roots_pem: Vec::new() }
    }

    /// Where the database is, for people: hosts, ports and its name, and never a password.
    ///
    /// # Errors
    /// [`OpenError::Address`].
    pub fn place(&self) -> Result<String, OpenError> {
        connect::config(self).map(|config| connect::place(&config))
    }

    /// Whether the address leads to another machine without insisting on TLS.
    ///
    /// # Errors
    /// [`OpenError::Address`].
    pub fn is_open_beyond_this_machine(&self) -> Result<bool, OpenError> {
        connect::config(self).map(|config| connect::is_open_beyond_this_machine(&config))
    }
}

/// Why a database was not opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The address cannot be read.
    #[error("the address of the database is wrong: {0}")]
    Address(String),
    /// The certificates cannot be used.
    #[error("the certificates for the database cannot be used: {0}")]
    Roots(String),
    /// Nobody answers, or not now. Trying again may help.
    #[error("the database is away: {0}")]
    Away(String),
    /// User, password or database are unknown there.
    #[error("the database does not let us in: {0}")]
    Denied(String),
    /// It can only be read.
    #[error("the database is a read-only replica, or set to read-only; the primary is needed")]
    ReadOnly,
    /// It is set to forget on a crash what it has confirmed (invariant 4).
    #[error("the database runs with {0} = {1}, so it may lose what it has confirmed; set it to on")]
    Forgetful(&'static str, &'static str),
    /// Some other program's tables are there.
    #[error("the database holds tables of another program; give Countersign a database or a schema of its own")]
    Foreign,
    /// A newer program has been at work.
    #[error("the database has schema version {database}, this program knows versions up to {program}: use a newer program")]
    Newer {
        /// The version of the database.
        database: u32,
        /// The newest version that this program knows.
        program: u32,
    },
    /// The database was shaped by a step that this program knows otherwise.
    #[error("step {step} of the schema is not the one that shaped this database: use the program that made it")]
    Changed {
        /// Which step.
        step: u32,
    },
    /// It is not whole: work on it has to be finished first.
    #[error("{0}")]
    Unfinished(Unfinished),
}

/// The engine for more than one machine.
pub struct Postgres {
    desk: Arc<Desk>,
    lanes: Mutex<Lanes>,
    walks: Walks,
}

#[derive(Default)]
struct Lanes {
    doors: Vec<mpsc::Sender<Waiting>>,
    running: Vec<JoinHandle<()>>,
}

impl Postgres {
    /// Gets ready, without asking the database anything: until [`prepare`](Self::prepare) has succeeded, every question is
    /// answered with [`Fault::Unavailable`]. Needs a runtime.
    ///
    /// # Errors
    /// [`OpenError::Address`] and [`OpenError::Roots`].
    pub fn new(options: &Options) -> Result<Self, OpenError> {
        let lines = Arc::new(Lines::new(connect::config(options)?, options)?);
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|error| OpenError::Address(format!("there is no chance to draw from: {error}")))?;
        let borns = AtomicI64::new(i64::from_le_bytes(random) >> 1);
        let desk = Arc::new(Desk { lines, counters: Counters::default(), within: options.within, borns });
        let mut lanes = Lanes::default();
        for _ in 0..options.lanes.max(1) {
            let (door, lane) = mpsc::channel(options.queue);
            lanes.doors.push(door);
            lanes.running.push(tokio::spawn(batch::run(desk.clone(), lane)));
        }
        Ok(Self { desk, lanes: Mutex::new(lanes), walks: Walks::default() })
    }

    /// Looks at the database, and gives it the shape that this program knows. May be called until it succeeds.
    ///
    /// # Errors
    /// [`OpenError`] says what is wrong; after [`OpenError::Away`] another try may succeed.
    pub async fn prepare(&self) -> Result<(), OpenError> {
        let line = self.desk.lines.open().await?;
        let ran = timeout(self.desk.within, migrations::run(&line)).await;
        let ran =
            ran.unwrap_or_else(|_| Err(OpenError::Away("it does not answer in time; another node may be giving it its shape".into())));
        if let Err(why) = ran {
            // It may be in the middle of a transaction.
            line.give_up();
            return Err(why);
        }
        migrations::refuse_unfinished(&line).await?;
        self.desk.lines.is_prepared();
        Ok(())
    }

    /// Whether the database has tables of ours. Changes nothing.
    ///
    /// # Errors
    /// As [`prepare`](Self::prepare).
    pub async fn is_begun(&self) -> Result<bool, OpenError> {
        let line = self.desk.lines.open().await?;
        let looked = timeout(self.desk.within, migrations::is_ours(&line)).await;
        looked.unwrap_or_else(|_| Err(OpenError::Away("it does not answer in time".into())))
    }

    /// The same as [`Postgres::new`] and [`Postgres::prepare`].
    ///
    /// # Errors
    /// As those.
    pub async fn open(options: &Options) -> Result<Self, OpenError> {
        let it = Self::new(options)?;
        it.prepare().await?;
        Ok(it)
    }

    /// Finishes what is queued, and closes its connections. What is asked afterwards is answered with [`Fault::Unavailable`].
    pub async fn close(&self) {
        let Lanes { doors, running } = std::mem::take(&mut *self.lanes.lock().unwrap_or_else(PoisonError::into_inner));
        drop(doors);
        for lane in running {
            if lane.await.is_err() {
                tracing::error!("A lane of the store had panicked before the store was closed");
            }
        }
        self.desk.lines.close();
    }

    /// What it has done since it was opened.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = lanes.doors.iter().map(|door| door.max_capacity() - door.capacity()).sum();
        self.desk.counters.stats(waiting)
    }

    /// Notes something about the house that only one node may do, once. Says whether this call was the first.
    ///
    /// # Errors
    /// The fault that kept it from being noted.
    pub async fn mark_once(&self, name: &str) -> Result<bool, Fault> {
        self.desk.mark_once(name).await
    }

    /// For which standbys commits wait, as the database is set; empty when for none.
    ///
    /// # Errors
    /// The fault that kept it from being asked.
    pub async fn synchronous_standbys(&self) -> Result<String, Fault> {
        self.desk.setting("synchronous_standby_names").await
    }

    fn leave(&self, tenant: TenantId, first: Vec<Key>, judge: Judge) -> Result<oneshot::Receiver<Result<Outcome, Fault>>, Fault> {
        let mut order = DefaultHasher::new();
        (tenant, first.first()).hash(&mut order);
        let (answer, answered) = oneshot::channel();
        let lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let count = lanes.doors.len().max(1) as u64;
        let lane = usize::try_from(order.finish() % count).unwrap_or_default();
        let door = lanes.doors.get(lane).ok_or_else(|| unavailable("the store is closed"))?;
        door.try_send(Waiting { job: Job::new(tenant, first, judge), answer }).map_err(|error| match error {
            TrySendError::Full(_) => unavailable("more changes wait than the database can take"),
            TrySendError::Closed(_) => unavailable("the store is closed"),
        })?;
        Ok(answered)
    }
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Postgres(…)")
    }
}

impl Store for Postgres {
    fn find(&self, tenant: TenantId, key: Key) -> Pending<'_, Result<Option<Held<Record>>, Fault>> {
        Box::pin(async move { Ok(self.desk.find(tenant, key).await?.into_iter().next()) })
    }

    fn list(&self, listing: Listing) -> Pending<'_, Result<Vec<Listed>, Fault>> {
        Box::pin(async move { self.desk.list(&listing).await })
    }

    fn stamp(&self) -> Pending<'_, Result<i64, Fault>> {
        Box::pin(self.desk.stamp())
    }

    fn factors_of(&self, tenant: TenantId, user: UserId) -> Pending<'_, Result<Vec<Held<Factor>>, Fault>> {
        Box::pin(async move {
            let found = self.desk.find(tenant, Key::FactorsOf(user)).await?;
            let factors = found.into_iter().filter_map(|held| match held.noun {
                Record::Factor(noun) => Some(Held { noun, version: held.version }),
                _ => None,
            });
            Ok(factors.collect())
        })
    }

    fn events(&self, tenant: TenantId, before: Option<EventId>, most: u32) -> Pending<'_, Result<Vec<Event>, Fault>> {
        Box::pin(self.desk.events(tenant, before, most))
    }

    fn decide(&self, tenant: TenantId, first: Vec<Key>, judge: Judge) -> Pending<'static, Result<Outcome, Fault>> {
        let left = self.leave(tenant, first, judge);
        Box::pin(async move { left?.await.unwrap_or_else(|_| Err(unavailable("the store was closed before it answered"))) })
    }

    fn due(&self, now: Timestamp, most: u32) -> Pending<'_, Result<Vec<(TenantId, DeliveryId)>, Fault>> {
        Box::pin(self.desk.due(now, most))
    }

    fn sweep(&self, tenant: TenantId, before: Timestamp, now: Timestamp) -> Pending<'_, Result<Swept, Fault>> {
        Box::pin(async move {
            let (swept, limits_after) = self.desk.sweep(tenant, before, now, self.walks.at(tenant)).await?;
            self.walks.go_on(tenant, limits_after);
            Ok(swept)
        })
    }

    fn take_turn(&self, turn: Turn, node: NodeId, now: Timestamp, until: Timestamp) -> Pending<'_, Result<bool, Fault>> {
        Box::pin(self.desk.take_turn(turn, node, now, until))
    }

    fn health(&self) -> Pending<'_, Result<Health, Fault>> {
        Box::pin(self.desk.health())
    }
}
