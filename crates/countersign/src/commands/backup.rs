//! `countersign backup`: everything in one sealed file, while the server serves.
//!
//! Owns the way from the database to the file. How a snapshot is taken beside a server is known to `countersign-store`, how it is
//! sealed to [`countersign_core::words::archive`].

use super::Desk;
use crate::cli;
use crate::config::Config;
use crate::draft::Draft;
use crate::engine::unfinished;
use crate::household;
use crate::logs;
use crate::long::{self, Long, stopped};
use crate::master;
use crate::no::No;
use crate::ports::{OsChance, SystemClock};
use crate::say;
use countersign_core::nouns::tenant::Tenant;
use countersign_core::ports::Clock;
use countersign_core::words::archive::{self, Label};
use countersign_core::words::secret::{MasterKey, TenantKeys};
use countersign_store::{CopyError, Going, OpenError, Snapshot, snapshot};
use serde::Serialize;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

#[derive(Serialize)]
struct Made {
    file: String,
    /// Bytes of the file, and of the database in it.
    bytes: u64,
    database_bytes: u64,
    tenants: usize,
    schema: u32,
    made_at: String,
    duration_ms: u128,
}

pub fn run(desk: &Desk, command: cli::Backup) -> Result<(), No> {
    logs::begin_for_commands();
    let config = desk.config()?;
    let database = embedded(&config)?.to_owned();
    if !database.exists() {
        return Err(
            No::refused(format!("there is no database at {}", database.display())).hint("name the settings of your server with --config")
        );
    }
    let to_stdout = command.file == Path::new("-");
    if to_stdout && (desk.say.is_json() || io::stdout().is_terminal()) {
        return Err(No::usage("standard output takes either the backup or what is told of it, and a terminal takes no backup")
            .hint("name a file, or write it into a pipe: countersign backup - | …"));
    }
    let master = master::of_sealed(&config, &database.display().to_string())?;
    let made = long::run(move |long| {
        if to_stdout { write(long, &database, &master, "-", &mut io::stdout().lock()) } else { keep(long, &database, &master, &command) }
    })?;
    let text = |it: &Made| {
        let (file, tenants) = (&it.file, super::count(it.tenants as u64, "tenant"));
        format!("{file}: {} KiB, {tenants}, as of {} (schema {})", it.bytes >> 10, it.made_at, it.schema)
    };
    if to_stdout {
        eprintln!("{}", text(&made));
        return Ok(());
    }
    Ok(desk.say.result(&made, text)?)
}

/// The file of the embedded engine, which is what these commands copy. A house on a database server is backed up by the means of that
/// server, for only it knows what is durable.
pub(super) fn embedded(config: &Config) -> Result<&Path, No> {
    config.storage.file().ok_or_else(|| {
        No::refused("backup and restore are for a database file, and storage.url names a database server")
            .hint("use its own means, such as pg_basebackup and its log of writes, and `countersign restore --in-place` afterwards: see docs/backup.md")
    })
}

/// Whose keys `master` does not open, for a sentence. A backup with such a tenant could not be restored.
pub(super) fn shut(tenants: &[Tenant], master: &MasterKey) -> Option<String> {
    household::shut(tenants, |it| TenantKeys::open(it.id, &it.keys, master).is_ok())
}

/// Writes the backup to a file, whole or not at all.
fn keep(long: &Long, database: &Path, master: &MasterKey, command: &cli::Backup) -> Result<Made, No> {
    let path = &command.file;
    let taken = || No::refused(format!("{} is there already", path.display())).hint("choose another name, or let --force take its place");
    if !command.force && path.symlink_metadata().is_ok() {
        return Err(taken());
    }
    let unwritten = |why: io::Error| No::unavailable(format!("{} cannot be written: {why}", path.display()));
    let draft = Draft::of(path).map_err(unwritten)?;
    let made = write(long, database, master, &path.display().to_string(), draft.file())?;
    match draft.keep(path, command.force) {
        Err(why) if why.kind() == io::ErrorKind::AlreadyExists => Err(taken()),
        kept => kept.map_err(unwritten).map(|()| made),
    }
}

fn write(long: &Long, database: &Path, master: &MasterKey, name: &str, into: impl Write) -> Result<Made, No> {
    let began = Instant::now();
    let made_at = SystemClock.now();
    let Snapshot { file, bytes, schema, tenants } =
        snapshot(database, &long.going("Copying the database")).map_err(|why| not_copied(database, why))?;
    if let Some(shut) = shut(&tenants, master) {
        return Err(No::refused(format!("the master key does not open {shut}; nobody could restore such a backup"))
            .hint("put back the key with which they were made; `countersign doctor` looks at each of them"));
    }
    let label = Label { made_at, made_by: env!("CARGO_PKG_VERSION").to_owned(), schema, bytes };
    let written = archive::seal(&label, master, &OsChance, file, into, each(&long.going("Sealing it"), bytes))
        .map_err(|why| if was_stopped(&why) { stopped() } else { No::unavailable(format!("{name} cannot be written: {why}")) })?;
    let made_at = say::moment(made_at);
    let (file, tenants, duration_ms) = (name.to_owned(), tenants.len(), began.elapsed().as_millis());
    Ok(Made { file, bytes: written, database_bytes: bytes, tenants, schema, made_at, duration_ms })
}

/// Tells `going` of each chunk, and ends the work when it says so.
pub(super) fn each(going: &Going, of: u64) -> impl FnMut(u64) -> io::Result<()> + use<> {
    let going = going.clone();
    move |done| if going(done, of) { Ok(()) } else { Err(io::ErrorKind::Interrupted.into()) }
}

pub(super) fn was_stopped(why: &io::Error) -> bool {
    why.kind() == io::ErrorKind::Interrupted
}

fn not_copied(database: &Path, why: CopyError) -> No {
    let what = format!("{} cannot be copied: {why}", database.display());
    match why {
        CopyError::Stopped => stopped(),
        CopyError::Sqlite(_) => {
            No::unavailable(what).hint("the copy needs as much room beside the database as it takes itself, until it is sealed")
        }
        CopyError::Open(OpenError::File { .. } | OpenError::Sqlite(_) | OpenError::Thread(_)) => No::unavailable(what),
        CopyError::Open(OpenError::Unfinished(work)) => unfinished(what, work),
        CopyError::Open(_) => No::refused(what),
        CopyError::Kept(_) => No::refused(what).hint("`countersign doctor` looks for the reason"),
    }
}

/// A file's own name, for what is beside it.
pub(super) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}
