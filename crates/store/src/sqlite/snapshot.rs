//! Copying a database beside whoever is at work on it.
//!
//! `VACUUM INTO` reads everything in one transaction: the copy is the database of one moment, nobody waits for it, and whatever
//! was answered before it began is in it. The other way, SQLite's backup interface, copies some pages at a time and begins again
//! whenever another process has written meanwhile: tried with 400 MiB and 300 writes a second, it had begun 140 to 180 times after five
//! seconds and was nowhere near its end, where this takes less than one. What it costs instead: while it lasts, the log cannot begin
//! anew and grows by what is written.

use super::rows::{Trouble, read_row};
use super::{OpenError, Options, beside, connect, migrations};
use crate::rows::Shelf;
use countersign_core::nouns::tenant::Tenant;
use countersign_core::ports::Record;
use countersign_core::words::refusal::Fault;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Who is told how far long work has come, as so many of so many, and says whether it goes on. Both are 0 where nobody can tell.
pub type Going = Arc<dyn Fn(u64, u64) -> bool + Send + Sync>;

/// How many steps of SQLite's machine lie between two tellings: a few milliseconds.
const STEPS: i32 = 20_000;

/// Why a database was not copied, or a copy of it was not made fit.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// It is none that can be copied.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Whoever was told of the progress said so.
    #[error("it was stopped")]
    Stopped,
    /// SQLite said no: a full disk, most likely.
    #[error("{0}")]
    Sqlite(rusqlite::Error),
    /// What is kept cannot be read.
    #[error(transparent)]
    Kept(Fault),
}

impl From<rusqlite::Error> for CopyError {
    fn from(error: rusqlite::Error) -> Self {
        if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) { Self::Stopped } else { Self::Sqlite(error) }
    }
}

impl From<Trouble> for CopyError {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Sqlite(error) => error.into(),
            trouble @ Trouble::Damaged(_) => Self::Kept(Fault::from(&trouble)),
        }
    }
}

/// A copy of a database as it was at one moment. The file has no name: it is gone when it is closed, however this process ends.
#[derive(Debug)]
pub struct Snapshot {
    /// The copy, to be read from its beginning. Nobody else can open it.
    pub file: File,
    /// Its length.
    pub bytes: u64,
    /// The version of its schema.
    pub schema: u32,
    /// The tenants that there were when it began.
    pub tenants: Vec<Tenant>,
}

/// Copies the database at `path`, whoever is at work on it. The copy lies in the same folder, so that what is secret leaves the
/// disk of the database only when it is sealed, and takes as much room there as the database. Blocks until it is made.
///
/// # Errors
/// [`CopyError`]; nothing is left behind.
pub fn snapshot(path: &Path, going: &Going) -> Result<Snapshot, CopyError> {
    // It only reads; but a connection that may not write could not clear the log away where it is the last to go.
    let mut connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE, &Options::default()).map_err(OpenError::Sqlite)?;
    let schema = migrations::of(&connection)?;
    migrations::refuse_unfinished(&connection)?;
    let tenants = tenants(&connection)?;
    let expected = size(&connection)?;
    let named = Named::make(path).map_err(|error| OpenError::File { path: beside(path, ".snapshot"), error })?;
    let into = named.path.to_str().ok_or_else(|| no_text(&named.path))?.to_owned();
    let (file, watched) = (named.file.try_clone(), named.file.try_clone());
    let [file, watched] = [file, watched].map(|it| it.map_err(|error| OpenError::File { path: named.path.clone(), error }));
    let (file, watched, going) = (file?, watched?, going.clone());
    // Once SQLite has written to the file it has it open, and the name serves nobody any more: a process that is killed leaves no copy
    // behind then, only a journal that says that the copy had been empty. Before that, taking the name away would make SQLite create a
    // file of its own, for everybody to read.
    let mut named = Some(named);
    let handler = move || {
        let done = watched.metadata().map_or(0, |it| it.len());
        if done > 0 {
            drop(named.take());
        }
        !going(done.min(expected), expected)
    };
    connection.progress_handler(STEPS, Some(handler))?;
    let copied = connection.execute("VACUUM INTO ?1", [into]);
    // A small database is copied before anybody is told; the name goes with the handler then.
    connection.progress_handler(0, None::<fn() -> bool>)?;
    copied?;
    let bytes = file.metadata().map_err(|error| OpenError::File { path: path.to_owned(), error })?.len();
    Ok(Snapshot { file, bytes, schema, tenants })
}

/// All tenants, by name.
pub(super) fn tenants(connection: &Connection) -> Result<Vec<Tenant>, Trouble> {
    let mut all = connection.prepare("SELECT version, body FROM tenants ORDER BY name")?;
    let mut rows = all.query(())?;
    let mut tenants = Vec::new();
    while let Some(row) = rows.next()? {
        if let Record::Tenant(it) = read_row(Shelf::Tenants, row, 0)?.noun {
            tenants.push(it);
        }
    }
    Ok(tenants)
}

/// A new file that only its owner can read, whose name is gone when this is.
struct Named {
    path: PathBuf,
    file: File,
}

impl Named {
    fn make(database: &Path) -> io::Result<Self> {
        // An absolute path is never taken for a URI.
        let path = std::path::absolute(beside(database, &format!(".snapshot-{}", std::process::id())))?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(&path)?;
        Ok(Self { path, file })
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::error!("{} cannot be removed: {error}", self.path.display());
        }
    }
}

fn size(connection: &Connection) -> rusqlite::Result<u64> {
    let number = |name: &str| connection.query_row(&format!("PRAGMA {name}"), (), |row| row.get::<_, i64>(0));
    Ok((number("page_count")? * number("page_size")?).max(0).unsigned_abs())
}

fn no_text(path: &Path) -> OpenError {
    OpenError::File { path: path.to_owned(), error: io::Error::new(io::ErrorKind::InvalidInput, "the path is no UTF-8") }
}
