//! The embedded engine: SQLite with a write-ahead log, one writer that commits in groups, and readers beside it.
//!
//! Owns opening, closing and the [`Store`] port; [`writer`] decides, [`reader`] answers questions, [`checkpointer`] keeps the
//! log short, [`sweep`] is retention, [`rows`] knows tables and columns.

mod checkpointer;
mod ledger;
mod migrations;
mod queue;
mod reader;
mod restore;
mod rows;
mod snapshot;
mod sweep;
mod writer;

pub(crate) use ledger::SqliteLedger;
pub use restore::{Candidate, InstallError, install, is_open};
pub use snapshot::{CopyError, Going, Snapshot, snapshot};

use crate::ledger::Unfinished;
use crate::rows::{Way, unavailable};
use crate::stats::{Counters, Stats};
use crate::walks::Walks;
use checkpointer::Bell;
use countersign_core::nouns::event::Event;
use countersign_core::nouns::factor::Factor;
use countersign_core::ports::{Health, Held, Judge, Key, Listed, Listing, Outcome, Pending, Record, Store, Swept, Turn};
use countersign_core::words::id::{DeliveryId, EventId, NodeId, TenantId, UserId};
use countersign_core::words::refusal::Fault;
use countersign_core::words::time::Timestamp;
use queue::Queue;
use reader::{Question, Reader};
use rows::Trouble;
use rusqlite::{Connection, OpenFlags};
use std::fmt;
use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tokio::sync::oneshot;
use writer::{Chore, Desk, Job};

/// The version from which a second connection may make checkpoints beside the writer, as ours does.
const OLDEST_SQLITE: i32 = 3_051_003;
/// The size of a page. Rows have a few hundred bytes; larger pages write more bytes to the log for each of them.
const PAGE_BYTES: u32 = 4096;
/// Memory for pages that the writer keeps, and each reader.
const WRITER_CACHE_KIB: i64 = 16 << 10;
const READER_CACHE_KIB: i64 = 2 << 10;

/// How the engine is run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Threads that read.
    pub readers: usize,
    /// Changes that may wait for the writer; more are turned away with [`Fault::Unavailable`].
    pub queue: usize,
    /// The size at which the database refuses to grow, in bytes; the write-ahead log (at most about 64 MiB) is not counted.
    pub most_bytes: Option<u64>,
    /// How long a change waits while another process, such as a command, writes to the same file.
    pub busy: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { readers: 2, queue: 65_536, most_bytes: None, busy: Duration::from_secs(5) }
    }
}

/// Why a database was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The linked SQLite is too old for a checkpointer beside the writer.
    #[error("SQLite {0} is linked; version 3.51.3 or later is needed")]
    OldSqlite(&'static str),
    /// The file cannot be made or reached.
    #[error("{}: {error}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// The file is a database of some other program.
    #[error("the file is a database of another program")]
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
    /// SQLite said no.
    #[error("the database cannot be opened: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// A thread was refused.
    #[error("no thread for the database: {0}")]
    Thread(io::Error),
}

/// The embedded engine. Dropping it does what [`Sqlite::close`] does.
pub struct Sqlite {
    desk: Arc<Desk>,
    questions: Arc<Queue<Question>>,
    walks: Walks,
    path: PathBuf,
    threads: Mutex<Option<Threads>>,
}

struct Threads {
    bell: Arc<Bell>,
    readers: Vec<JoinHandle<()>>,
    checkpointer: JoinHandle<()>,
    writer: JoinHandle<()>,
}

impl Sqlite {
    /// Opens the database at `path`, and makes it when there is none: readable by its owner only. Blocks while it does.
    ///
    /// # Errors
    /// [`OpenError`] says what is wrong, and what to do.
    pub fn open(path: &Path, options: Options) -> Result<Self, OpenError> {
        if rusqlite::version_number() < OLDEST_SQLITE {
            return Err(OpenError::OldSqlite(rusqlite::version()));
        }
        make_private(path).map_err(|error| OpenError::File { path: path.to_owned(), error })?;
        migrations::refuse_foreign(&connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE, &options)?)?;
        let mut first = writing(path, &options)?;
        migrations::run(&mut first)?;
        migrations::refuse_unfinished(&first)?;
        let page_bytes: u32 = first.query_row("PRAGMA page_size", (), |row| row.get(0))?;
        let desk = Arc::new(Desk {
            queue: Queue::new(options.queue),
            counters: Counters::new(page_bytes.into()),
            log_is_long: AtomicBool::new(false),
            busy: options.busy,
        });
        let questions = Arc::new(Queue::new(options.queue));
        let bell = Arc::new(Bell::default());
        let mut readers = Vec::new();
        for _ in 0..options.readers.max(1) {
            let (questions, connection) = (questions.clone(), reading(path, &options)?);
            readers.push(spawn("store-reader", move || reader::run(&questions, &connection))?);
        }
        let checkpointer = {
            let (desk, bell, connection) = (desk.clone(), bell.clone(), writing(path, &options)?);
            spawn("store-carrier", move || checkpointer::run(&desk, &connection, &bell))?
        };
        let writer = {
            let (desk, path) = (desk.clone(), path.to_owned());
            spawn("store-writer", move || writer::run(&desk, first, &|| writing(&path, &options)))?
        };
        let threads = Mutex::new(Some(Threads { bell, readers, checkpointer, writer }));
        Ok(Self { desk, questions, walks: Walks::default(), path: path.to_owned(), threads })
    }

    /// Finishes what is queued, carries the log into the file, and closes it. Blocks until that is done; what is asked
    /// afterwards is answered with [`Fault::Unavailable`].
    pub fn close(&self) {
        let Some(threads) = self.threads.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        // The writer's connection must be the last one: only then is the log emptied and removed.
        self.questions.close();
        threads.bell.ring();
        let others = threads.readers.into_iter().chain([threads.checkpointer]);
        let ended: Vec<_> = others.map(JoinHandle::join).collect();
        self.desk.queue.close();
        if ended.into_iter().chain([threads.writer.join()]).any(|it| it.is_err()) {
            tracing::error!("A thread of the store had panicked before the store was closed");
        }
    }

    /// What it has done since it was opened.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.desk.counters.stats(self.desk.queue.len())
    }

    /// Looks through the whole database for damage, and gives what it found. One reader is busy with it for as long as it
    /// takes to read the file.
    ///
    /// # Errors
    /// The fault that kept it from looking.
    pub fn inspect(&self) -> Pending<'static, Result<Vec<String>, Fault>> {
        self.read(|reader| {
            let mut look = reader.connection.prepare("PRAGMA quick_check(10)")?;
            let found = look.query_map((), |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>()?;
            Ok(found.into_iter().filter(|it| it != "ok").collect())
        })
    }

    /// Asks a reader. The question is on its way when this returns.
    fn read<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&mut Reader<'_>) -> Result<T, Trouble> + Send + 'static,
    ) -> Pending<'static, Result<T, Fault>> {
        let (answer, answered) = oneshot::channel();
        let question: Question = Box::new(move |reader| {
            let said = match reader {
                Ok(reader) => ask(reader).map_err(|trouble| Fault::from(&trouble)),
                Err(fault) => Err(fault.clone()),
            };
            // Who asked may have gone away.
            drop(answer.send(said));
        });
        let left = self.questions.push(question);
        Box::pin(async move {
            left.map_err(writer::turned)?;
            answered.await.unwrap_or_else(|_| Err(gone()))
        })
    }
}

impl Drop for Sqlite {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for Sqlite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sqlite").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Store for Sqlite {
    fn find(&self, tenant: TenantId, key: Key) -> Pending<'_, Result<Option<Held<Record>>, Fault>> {
        self.read(move |reader| {
            let found = reader.reads.find(tenant, Way::of(tenant, key), |_| {})?;
            Ok(found.into_iter().next())
        })
    }

    fn list(&self, listing: Listing) -> Pending<'_, Result<Vec<Listed>, Fault>> {
        self.read(move |reader| reader.list(&listing))
    }

    fn stamp(&self) -> Pending<'_, Result<i64, Fault>> {
        self.read(|reader| reader.stamp())
    }

    fn factors_of(&self, tenant: TenantId, user: UserId) -> Pending<'_, Result<Vec<Held<Factor>>, Fault>> {
        self.read(move |reader| {
            let found = reader.reads.find(tenant, Way::Of(*user.as_bytes()), |_| {})?;
            let factors = found.into_iter().filter_map(|held| match held.noun {
                Record::Factor(noun) => Some(Held { noun, version: held.version }),
                _ => None,
            });
            Ok(factors.collect())
        })
    }

    fn events(&self, tenant: TenantId, before: Option<EventId>, most: u32) -> Pending<'_, Result<Vec<Event>, Fault>> {
        self.read(move |reader| reader.events(tenant, before, most))
    }

    fn decide(&self, tenant: TenantId, first: Vec<Key>, judge: Judge) -> Pending<'static, Result<Outcome, Fault>> {
        let (answer, answered) = oneshot::channel();
        let left = self.desk.queue.push(Job { tenant, first, judge, answer });
        Box::pin(async move {
            left.map_err(writer::turned)?;
            answered.await.unwrap_or_else(|_| Err(gone()))
        })
    }

    fn due(&self, now: Timestamp, most: u32) -> Pending<'_, Result<Vec<(TenantId, DeliveryId)>, Fault>> {
        self.read(move |reader| reader.due(now, most))
    }

    fn sweep(&self, tenant: TenantId, before: Timestamp, now: Timestamp) -> Pending<'_, Result<Swept, Fault>> {
        let after = self.walks.at(tenant);
        let looking = self.read(move |reader| sweep::look(reader.connection, tenant, before, now, after));
        Box::pin(async move {
            let found = looking.await?;
            self.walks.go_on(tenant, found.limits_after);
            if found.removals.len() == 0 {
                return Ok(Swept { removed: 0, more: found.more });
            }
            let (answer, answered) = oneshot::channel();
            self.desk.queue.push_second(Chore::Sweep(found.removals, answer)).map_err(writer::turned)?;
            let removed = answered.await.unwrap_or_else(|_| Err(gone()))?;
            Ok(Swept { removed, more: found.more })
        })
    }

    fn take_turn(&self, turn: Turn, node: NodeId, now: Timestamp, until: Timestamp) -> Pending<'_, Result<bool, Fault>> {
        let (answer, answered) = oneshot::channel();
        let left = self.desk.queue.push_second(Chore::TakeTurn(turn, node, [now.as_millis(), until.as_millis()], answer));
        Box::pin(async move {
            left.map_err(writer::turned)?;
            answered.await.unwrap_or_else(|_| Err(gone()))
        })
    }

    fn health(&self) -> Pending<'_, Result<Health, Fault>> {
        let (answer, answered) = oneshot::channel();
        let left = self.desk.queue.push_second(Chore::Probe(answer));
        let queued = self.read(|reader| reader.queued());
        Box::pin(async move {
            left.map_err(writer::turned)?;
            answered.await.unwrap_or_else(|_| Err(gone()))?;
            let bytes = [&self.path, &beside(&self.path, "-wal")].into_iter().filter_map(|it| it.metadata().ok()).map(|it| it.len()).sum();
            Ok(Health { engine: format!("SQLite {}", rusqlite::version()), schema: migrations::KNOWN, queued: queued.await?, bytes })
        })
    }
}

/// The thread that should have answered is no more.
fn gone() -> Fault {
    unavailable("the store was closed before it answered")
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, OpenError> {
    thread::Builder::new().name(name.into()).spawn(work).map_err(OpenError::Thread)
}

/// Makes the file before SQLite would, so that nobody else can read it for even a moment. The log takes over its mode.
fn make_private(path: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

fn connect(path: &Path, access: OpenFlags, options: &Options) -> rusqlite::Result<Connection> {
    // Each connection stays on one thread, so SQLite need not guard it.
    let connection = Connection::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_EXRESCODE)?;
    connection.busy_timeout(options.busy)?;
    connection.set_prepared_statement_cache_capacity(64);
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    Ok(connection)
}

fn writing(path: &Path, options: &Options) -> rusqlite::Result<Connection> {
    let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE, options)?;
    connection.pragma_update(None, "page_size", PAGE_BYTES)?;
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    connection.pragma_update(None, "cache_size", -WRITER_CACHE_KIB)?;
    if let Some(most) = options.most_bytes {
        let page_bytes: u32 = connection.query_row("PRAGMA page_size", (), |row| row.get(0))?;
        connection.pragma_update_and_check(
            None,
            "max_page_count",
            i64::try_from(most / u64::from(page_bytes)).unwrap_or(i64::MAX),
            |_| Ok(()),
        )?;
    }
    Ok(connection)
}

fn reading(path: &Path, options: &Options) -> rusqlite::Result<Connection> {
    let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY, options)?;
    connection.pragma_update(None, "cache_size", -READER_CACHE_KIB)?;
    Ok(connection)
}
