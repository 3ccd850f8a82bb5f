//! Putting a copy in the place of a database.
//!
//! Owns what is looked at before, how the rule of a restore ([`countersign_core::verbs::restore`]) comes to every row, and the moment
//! in which one file takes the place of another.

use super::rows::{Shown, Trouble, Writes, read_row, tenant_at};
use super::snapshot::{CopyError, Going, tenants};
use super::{OpenError, Options, beside, connect, migrations};
use crate::rows::{Shelf, Spot};
use countersign_core::nouns::tenant::Tenant;
use countersign_core::ports::{Chance, Record};
use countersign_core::verbs::restore::{Ended, restored};
use countersign_core::words::id::TenantId;
use countersign_core::words::time::Timestamp;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// How many steps of SQLite's machine lie between two tellings.
const STEPS: i32 = 100_000;
/// Rows that are read before any of them is written: a walk must not meet what it has just written.
const PAGE: usize = 1_000;
/// What of a database may lie in files of their own, by the ends of their names.
const COMPANIONS: [&str; 3] = ["-wal", "-shm", "-journal"];

/// A file that is to become the database. Nobody knows it yet, so it is written without a journal: when anything fails, it is thrown
/// away.
#[derive(Debug)]
pub struct Candidate {
    connection: Connection,
    path: PathBuf,
}

impl Candidate {
    /// Opens the file at `path`, and refuses what is no database of ours or has a newer schema.
    ///
    /// # Errors
    /// [`OpenError`] says what it is instead.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE, &Options::default())?;
        migrations::of(&connection)?;
        migrations::refuse_unfinished(&connection)?;
        Ok(Self { connection, path: path.to_owned() })
    }

    /// Looks through all of it for damage, and gives what it found. Blocks for as long as it takes to read the file.
    ///
    /// # Errors
    /// What kept it from looking.
    pub fn inspect(&mut self, going: &Going) -> Result<Vec<String>, CopyError> {
        let told = going.clone();
        self.connection.progress_handler(STEPS, Some(move || !told(0, 0)))?;
        let found = self.connection.prepare("PRAGMA integrity_check(10)").and_then(|mut look| {
            let found = look.query_map((), |row| row.get::<_, String>(0))?;
            found.collect::<rusqlite::Result<Vec<_>>>()
        });
        self.connection.progress_handler(0, None::<fn() -> bool>)?;
        Ok(found?.into_iter().filter(|it| it != "ok").collect())
    }

    /// Brings it into the shape that this program knows, and ends what a backup made at `made_at` may not bring back at `now`; notes it
    /// in the audit trail of every tenant. Gives the tenants, and what was ended. Blocks for as long as it takes to read five tables.
    ///
    /// # Errors
    /// What is damaged or full. The file is of no use then.
    pub fn revive(
        &mut self,
        made_at: Timestamp,
        now: Timestamp,
        chance: &dyn Chance,
        going: &Going,
    ) -> Result<(Vec<Tenant>, Ended), CopyError> {
        self.connection.pragma_update_and_check(None, "journal_mode", "OFF", |_| Ok(()))?;
        self.connection.pragma_update(None, "synchronous", "OFF")?;
        migrations::run(&mut self.connection)?;
        self.connection.execute_batch("BEGIN EXCLUSIVE")?;
        let mut writes = Writes::prepare(&self.connection)?;
        let tenants = tenants(&self.connection)?;
        let mut ended: BTreeMap<TenantId, Ended> = tenants.iter().map(|it| (it.id, Ended::default())).collect();
        // Every noun that the rule may end, or a part of it.
        for shelf in [Shelf::Users, Shelf::Factors, Shelf::Challenges, Shelf::Deliveries, Shelf::SignIns] {
            walk(&self.connection, shelf, going, |tenant, shown, record| {
                let Some(record) = restored(record, now, ended.entry(tenant).or_default()) else { return Ok(()) };
                if writes.replace(shown, &record)? { Ok(()) } else { Err(Trouble::Damaged(format!("a row of {}", shelf.table()))) }
            })?;
        }
        let mut all = Ended::default();
        for (tenant, ended) in &ended {
            writes.tell(*tenant, &ended.event(made_at, now, chance))?;
            all.challenges += ended.challenges;
            all.deliveries += ended.deliveries;
            all.authenticators += ended.authenticators;
            all.sign_ins += ended.sign_ins;
        }
        writes.flush()?;
        drop(writes);
        self.connection.execute_batch("COMMIT")?;
        Ok((tenants, all))
    }

    /// Closes it, and makes it durable.
    ///
    /// # Errors
    /// What the disk said.
    pub fn close(self) -> Result<(), CopyError> {
        let Self { connection, path } = self;
        connection.close().map_err(|(_, error)| error)?;
        Ok(File::open(&path).and_then(|it| it.sync_all()).map_err(|error| OpenError::File { path, error })?)
    }
}

/// Shows each row of a table once, in the order in which they came.
fn walk(
    connection: &Connection,
    shelf: Shelf,
    going: &Going,
    mut each: impl FnMut(TenantId, Shown, Record) -> Result<(), Trouble>,
) -> Result<(), CopyError> {
    let table = shelf.table();
    let last: i64 = connection.query_row(&format!("SELECT coalesce(max(row), 0) FROM {table}"), (), |row| row.get(0))?;
    let mut page =
        connection.prepare(&format!("SELECT row, version, body, id, tenant FROM {table} WHERE row > ?1 ORDER BY row LIMIT ?2"))?;
    let mut after = i64::MIN;
    let mut found = Vec::with_capacity(PAGE);
    loop {
        let mut rows = page.query((after, PAGE as i64))?;
        while let Some(row) = rows.next()? {
            let shown = Shown { spot: Spot { shelf, id: row.get(3)? }, row: row.get(0)?, version: row.get(1)? };
            found.push((tenant_at(row, 4)?, shown, read_row(shelf, row, 1)?.noun));
        }
        drop(rows);
        let Some((_, newest, _)) = found.last() else { return Ok(()) };
        after = newest.row;
        for (tenant, shown, record) in found.drain(..) {
            each(tenant, shown, record)?;
        }
        if !going(after.max(0).unsigned_abs(), last.max(0).unsigned_abs()) {
            return Err(CopyError::Stopped);
        }
    }
}

/// Why a file was not put in its place.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// There is a database, or a part of one, and nobody said where it should go.
    #[error("{} is there already", .0.display())]
    There(PathBuf),
    /// Another process has the database open.
    #[error("another process has {} open", .0.display())]
    Open(PathBuf),
    /// The folder or the disk said no.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Whether another process has the database at `path` open. A file that is not there is open to nobody.
///
/// # Errors
/// When the file cannot be looked at.
pub fn is_open(path: &Path) -> io::Result<bool> {
    match hold(path) {
        Ok(_) => Ok(false),
        Err(InstallError::Io(error)) => Err(error),
        Err(InstallError::Open(_) | InstallError::There(_)) => Ok(true),
    }
}

/// Makes `file` the database at `path`; both are in the same folder. What is there already is moved to `aside`, with its log, and
/// stays what it was; without `aside` it is not touched, and neither is the file. At every moment one of the two databases is at
/// `path`, whole.
///
/// # Errors
/// [`InstallError`]; the old database is in its place then.
pub fn install(file: &Path, path: &Path, aside: Option<&Path>) -> Result<(), InstallError> {
    let there = [""].into_iter().chain(COMPANIONS).map(|ending| beside(path, ending)).find(|it| it.symlink_metadata().is_ok());
    match (there, aside) {
        (Some(there), None) => return Err(InstallError::There(there)),
        (Some(_), Some(aside)) => {
            fold(path)?;
            // Held until the end: whoever starts a server now waits for this, and not for nothing.
            let _held = hold(path)?;
            // First everything has its second name, then the first ones are taken away.
            for ending in ["", "-wal", "-journal"] {
                link_if_there(&beside(path, ending), &beside(aside, ending))?;
            }
            for ending in COMPANIONS {
                remove_if_there(&beside(path, ending))?;
            }
            fs::rename(file, path)?;
        }
        // A link, not a renaming: it does not take the place of a file that has come meanwhile.
        (None, _) => match fs::hard_link(file, path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(InstallError::There(path.to_owned())),
            linked => linked.and_then(|()| fs::remove_file(file))?,
        },
    }
    let folder = path.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok(File::open(folder)?.sync_all()?)
}

/// Takes the lock that nobody gets while another process has the database open: SQLite holds a part of it shared for as long as a
/// connection with a write-ahead log lives. It is asked of the system and not of SQLite, so that it can be asked of a damaged file
/// too. The lock goes with the file, and with any other file of this process that has the database open.
fn hold(path: &Path) -> Result<Option<File>, InstallError> {
    let file = match File::options().read(true).write(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    match fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(Errno::AGAIN | Errno::ACCESS) => Err(InstallError::Open(path.to_owned())),
        Err(errno) => Err(InstallError::Io(errno.into())),
    }
}

/// Carries the log of a server that was killed into its database, as the next start would have done, so that it is one file. A database
/// that is too damaged for that stays as it is.
fn fold(path: &Path) -> Result<(), InstallError> {
    drop(hold(path)?);
    let bytes = |ending| beside(path, ending).metadata().map_or(0, |it| it.len());
    if bytes("") == 0 || bytes("-wal") == 0 {
        return Ok(());
    }
    let folded = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE, &Options::default()).and_then(|connection| {
        // Otherwise closing would remove a log from which nothing could be read, and nobody could look into it any more.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(()))
    });
    if let Err(error) = folded {
        tracing::warn!("The old database keeps its log, for it cannot be opened: {error}");
    }
    Ok(())
}

/// Gives a file that has something in it a second name.
fn link_if_there(from: &Path, to: &Path) -> io::Result<()> {
    match from.metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(it) if it.len() == 0 => Ok(()),
        _ => fs::hard_link(from, to),
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}
