//! The engine of this house: a file, or a PostgreSQL database. Everybody else sees only the store's port; what the two do
//! differently for those who run them is here.

use crate::config::{Postgres as Database, Storage};
use crate::master;
use crate::no::No;
use crate::tls;
use countersign_core::ports::Store;
use countersign_store::{OpenError, Options, Postgres, Sqlite, Stats, Unfinished, postgres};
use std::path::Path;
use std::sync::Arc;

/// Where everything is kept, and what it is.
#[derive(Clone)]
pub enum Engine {
    /// A file of this machine.
    File(Arc<Sqlite>),
    /// A database that other nodes use as well.
    Postgres(Arc<Postgres>),
}

impl Engine {
    /// Opens a file; gets ready for a database, which [`prepare`](Self::prepare) looks at. Needs a runtime.
    ///
    /// # Errors
    /// What is wrong, and what to do.
    pub fn open(storage: &Storage) -> Result<Self, No> {
        match storage {
            Storage::File(path) => open_file(path).map(Self::File),
            Storage::Postgres(database) => {
                let options = with_roots(database)?;
                Postgres::new(&options).map(|it| Self::Postgres(Arc::new(it))).map_err(not_opened)
            }
        }
    }

    /// Looks whether everything is as it must be, and brings the schema up to date. [`crate::no::Kind::Unavailable`] means that trying
    /// again may help.
    ///
    /// # Errors
    /// What is away or wrong, and what to do.
    pub async fn prepare(&self) -> Result<(), No> {
        match self {
            // It was looked at when it was opened.
            Self::File(_) => Ok(()),
            Self::Postgres(it) => it.prepare().await.map_err(not_opened),
        }
    }

    /// Whether a house was begun here. Changes nothing.
    ///
    /// # Errors
    /// What is away or wrong, and what to do.
    pub async fn is_begun(&self) -> Result<bool, No> {
        match self {
            Self::File(_) => Ok(true),
            Self::Postgres(it) => it.is_begun().await.map_err(not_opened),
        }
    }

    /// Whether this node is the one that makes the master key of a new house: on a database that others use as well, the first
    /// who asks.
    ///
    /// # Errors
    /// A fault of the store.
    pub async fn may_make_the_key(&self) -> Result<bool, No> {
        match self {
            Self::File(_) => Ok(true),
            Self::Postgres(it) => Ok(it.mark_once("master key made").await.map_err(countersign_core::words::refusal::Error::from)?),
        }
    }

    /// What the core sees of it.
    #[must_use]
    pub fn store(&self) -> Arc<dyn Store> {
        match self {
            Self::File(it) => it.clone(),
            Self::Postgres(it) => it.clone(),
        }
    }

    /// What it has done since it was opened.
    #[must_use]
    pub fn stats(&self) -> Stats {
        match self {
            Self::File(it) => it.stats(),
            Self::Postgres(it) => it.stats(),
        }
    }

    /// Finishes what is queued, and closes it.
    pub async fn close(self) {
        match self {
            // Closing waits for threads, and the runtime must not.
            Self::File(it) => {
                if tokio::task::spawn_blocking(move || it.close()).await.is_err() {
                    tracing::error!("The database was not closed in order; the next start repairs it");
                }
            }
            Self::Postgres(it) => it.close().await,
        }
    }
}

/// The options of a database, with the certificates that may vouch for it.
///
/// # Errors
/// Which file cannot be read.
pub fn with_roots(database: &Database) -> Result<postgres::Options, No> {
    Ok(postgres::Options { roots_pem: tls::certificates("storage.postgres.roots", &database.roots)?, ..database.options.clone() })
}

fn not_opened(why: postgres::OpenError) -> No {
    let what = format!("storage.url: {why}");
    match why {
        postgres::OpenError::Address(_) => No::usage(what),
        postgres::OpenError::Roots(_) => No::usage(format!("storage.postgres.roots: {why}")),
        postgres::OpenError::Away(_) => No::unavailable(what).hint("see whether it runs and can be reached from here"),
        postgres::OpenError::Denied(_) if what.contains("TLS") => No::refused(what).hint(
            "TLS checks certificate and name: name the authority in storage.postgres.roots, and give the server a certificate of its own that is no authority; sslmode=disable is for loopback only",
        ),
        postgres::OpenError::Denied(_) => No::refused(what).hint("see the user, the password and the name of the database in the address"),
        postgres::OpenError::ReadOnly => {
            No::refused(what).hint("name all hosts and add target_session_attrs=read-write, so that the primary is found")
        }
        postgres::OpenError::Unfinished(work) => unfinished(what, work),
        postgres::OpenError::Forgetful(..)
        | postgres::OpenError::Foreign
        | postgres::OpenError::Newer { .. }
        | postgres::OpenError::Changed { .. } => No::refused(what),
    }
}

/// What to do about a database on which work was begun and not finished.
pub fn unfinished(what: String, work: Unfinished) -> No {
    No::refused(what).hint(match work {
        Unfinished::Copy => "finish it with `countersign copy` and the same source, or empty the database and begin anew",
        Unfinished::Restore => "finish it with `countersign restore --in-place`",
    })
}

/// Opens the database file, and says what helps where it cannot be.
fn open_file(path: &Path) -> Result<Arc<Sqlite>, No> {
    if let Some(folder) = path.parent().filter(|it| !it.as_os_str().is_empty()) {
        master::make_folder(folder).map_err(|why| No::unavailable(format!("{} cannot be made: {why}", folder.display())))?;
    }
    Sqlite::open(path, Options::default()).map(Arc::new).map_err(|why| {
        let what = format!("storage.path: {}: {why}", path.display());
        match why {
            OpenError::Unfinished(work) => unfinished(what, work),
            OpenError::Foreign | OpenError::Newer { .. } | OpenError::Changed { .. } | OpenError::OldSqlite(_) => No::refused(what),
            OpenError::File { .. } | OpenError::Sqlite(_) | OpenError::Thread(_) => No::unavailable(what),
        }
    })
}
