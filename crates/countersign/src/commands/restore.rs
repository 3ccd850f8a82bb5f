//! `countersign restore`: a backup in the place of the database, or a database server that was brought back by its own means.
//!
//! Everything is looked at before anything changes: the file is opened beside the database, under another name, and only
//! takes its place when nothing is wrong with it. What may not come back is decided by [`countersign_core::verbs::restore`].

use super::backup::{beside, each, embedded, shut, was_stopped};
use super::copy::not_used;
use super::{Desk, count};
use crate::cli;
use crate::config::{Config, Storage};
use crate::draft::Draft;
use crate::engine::with_roots;
use crate::logs;
use crate::long::{self, Long, stopped};
use crate::master;
use crate::no::No;
use crate::ports::{OsChance, SystemClock};
use crate::say;
use countersign_core::ports::Clock;
use countersign_core::verbs::restore::Ended;
use countersign_core::words::archive::{Label, Opening, Unopened};
use countersign_core::words::secret::MasterKey;
use countersign_store::postgres::{self, Revival, Revived};
use countersign_store::{Candidate, CopyError, InstallError, OpenError, install, is_open};
use serde::Serialize;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::time::Instant;

#[derive(Serialize)]
struct Restored {
    database: String,
    /// Whether it is in its place now; not with `--check`.
    restored: bool,
    made_at: String,
    /// By which version; nobody knows of a database that was brought back by other means.
    made_by: Option<String>,
    schema: u32,
    tenants: usize,
    challenges_ended: u64,
    messages_dropped: u64,
    authenticators: u64,
    /// Where the database before it is now.
    aside: Option<String>,
    duration_ms: u128,
}

pub fn run(desk: &Desk, command: cli::Restore) -> Result<(), No> {
    logs::begin_for_commands();
    let config = desk.config()?;
    let Some(file) = &command.file else { return in_place(desk, &config, command.check) };
    let database = embedded(&config)?.to_owned();
    let name = if file == Path::new("-") { "the backup".to_owned() } else { file.display().to_string() };
    if !command.check {
        refuse_what_is_there(&database, command.force)?;
    }
    let from: Box<dyn Read + Send> = if file == Path::new("-") {
        if io::stdin().is_terminal() {
            return Err(No::usage("a backup cannot be typed").hint("name a file, or read it from a pipe: … | countersign restore -"));
        }
        Box::new(io::stdin())
    } else {
        Box::new(File::open(file).map_err(|why| No::refused(format!("{name} cannot be read: {why}")))?)
    };
    let master = master::of_sealed(&config, &name)?;
    let restored = long::run(move |long| restore(long, from, &name, &master, &database, &command))?;
    Ok(desk.say.result(&restored, text)?)
}

fn text(it: &Restored) -> String {
    let tenants = count(it.tenants as u64, "tenant");
    let ended = format!(
        "{} ended, {} dropped, {} without the values up to now",
        count(it.challenges_ended, "open challenge"),
        count(it.messages_dropped, "waiting message"),
        count(it.authenticators, "authenticator"),
    );
    let what = match &it.made_by {
        Some(version) => format!("{tenants} in the backup of {}, made by version {version}", it.made_at),
        None => format!("{tenants} in {}, whose newest event is of {}", it.database, it.made_at),
    };
    if !it.restored {
        return format!("{what}: it is good, and nothing was changed.\nA restore would leave: {ended}.");
    }
    let mut text = match &it.made_by {
        Some(version) => format!("{tenants} in {} from the backup of {}, made by version {version}.", it.database, it.made_at),
        None => format!("{what}."),
    };
    text.push_str(&format!(
        "\nFor safety: {ended}.\nForgotten is what came after it, such as wrong codes, locks, removed devices and disabled clients: see \
         docs/backup.md."
    ));
    if let Some(aside) = &it.aside {
        text.push_str(&format!("\nThe database before it is {aside} now."));
    }
    text
}

/// Ends in a database on a server what a restore would have ended in a file.
fn in_place(desk: &Desk, config: &Config, check: bool) -> Result<(), No> {
    let Storage::Postgres(database) = &config.storage else {
        return Err(No::refused("--in-place is for a database server, and storage.path names a file")
            .hint("`countersign restore FILE` puts a backup in its place, and ends the same"));
    };
    let options = with_roots(database)?;
    let master = master::of_sealed(config, "the database of storage.url")?;
    let restored = long::run(move |long| revive(long, &options, &master, check))?;
    Ok(desk.say.result(&restored, text)?)
}

fn revive(long: &Long, options: &postgres::Options, master: &MasterKey, check: bool) -> Result<Restored, No> {
    let began = Instant::now();
    let mut revival = Revival::open(options).map_err(|why| not_used("storage.url", why))?;
    let name = revival.name().to_owned();
    let not_used = |why| not_used(&name, why);
    let mut tenants = Vec::new();
    revival.tenants(|it| tenants.push(it)).map_err(not_used)?;
    if let Some(shut) = shut(&tenants, master) {
        return Err(No::refused(format!("the master key does not open {shut}")).hint("put back the key with which they were made"));
    }
    let (now, going) = (SystemClock.now(), long.going("Ending what was open"));
    let revived = if check { revival.look(now, &going) } else { revival.end(now, &OsChance, &going) };
    let Some(Revived { tenants, made_at, ended, schema }) = revived.map_err(not_used)? else {
        return Err(No::unavailable("stopped by a signal").hint("run the same command again before any server is started"));
    };
    Ok(Restored {
        database: name,
        restored: !check,
        made_at: say::moment(made_at),
        made_by: None,
        schema,
        tenants: usize::try_from(tenants).unwrap_or(usize::MAX),
        challenges_ended: ended.challenges,
        messages_dropped: ended.deliveries,
        authenticators: ended.authenticators,
        aside: None,
        duration_ms: began.elapsed().as_millis(),
    })
}

fn refuse_what_is_there(database: &Path, force: bool) -> Result<(), No> {
    if let (Some(there), false) = (there(database), force) {
        return Err(taken(&there));
    }
    match is_open(database) {
        Ok(false) => Ok(()),
        Ok(true) => Err(in_use(database)),
        Err(why) => Err(No::unavailable(format!("{}: {why}", database.display()))),
    }
}

/// The database, or what is left of one: a log without its database would be taken for that of the next.
fn there(database: &Path) -> Option<PathBuf> {
    ["", "-wal", "-shm", "-journal"].iter().map(|ending| beside(database, ending)).find(|it| it.symlink_metadata().is_ok())
}

fn taken(there: &Path) -> No {
    No::refused(format!("{} is there already", there.display()))
        .hint("--force moves it aside and removes nothing; to restore elsewhere, name another place with storage.path")
}

fn in_use(database: &Path) -> No {
    No::refused(format!("another process has {} open", database.display())).hint("stop the server first, and start it afterwards")
}

fn restore(
    long: &Long,
    from: Box<dyn Read + Send>,
    name: &str,
    master: &MasterKey,
    database: &Path,
    command: &cli::Restore,
) -> Result<Restored, No> {
    let began = Instant::now();
    let opening = Opening::begin(BufReader::with_capacity(1 << 17, from), master).map_err(|why| not_opened(name, why))?;
    let label = opening.label().clone();
    if let Some(folder) = database.parent().filter(|it| !it.as_os_str().is_empty()) {
        master::make_folder(folder).map_err(|why| No::unavailable(format!("{} cannot be made: {why}", folder.display())))?;
    }
    let unwritten = |why: io::Error| No::unavailable(format!("{} cannot be written: {why}", database.display()));
    let draft = Draft::of(database).map_err(unwritten)?;
    opening
        .pour(BufWriter::new(draft.file()), each(&long.going("Opening the backup"), label.bytes))
        .map_err(|why| not_opened(name, why))?;
    let (tenants, ended) = make_fit(long, draft.path(), name, &label, master)?;
    let made_at = say::moment(label.made_at);
    let aside = (command.force && !command.check).then(|| there(database)).flatten().map(|_| aside(database));
    if !command.check {
        install(draft.path(), database, aside.as_deref()).map_err(|why| match why {
            InstallError::There(there) => taken(&there),
            InstallError::Open(_) => in_use(database),
            InstallError::Io(why) => unwritten(why),
        })?;
    }
    Ok(Restored {
        database: database.display().to_string(),
        restored: !command.check,
        made_at,
        made_by: Some(label.made_by),
        schema: label.schema,
        tenants,
        challenges_ended: ended.challenges,
        messages_dropped: ended.deliveries,
        authenticators: ended.authenticators,
        aside: aside.map(|it| it.display().to_string()),
        duration_ms: began.elapsed().as_millis(),
    })
}

/// Looks at everything, and ends what may not come back. Says how many tenants there are.
fn make_fit(long: &Long, draft: &Path, name: &str, label: &Label, master: &MasterKey) -> Result<(usize, Ended), No> {
    let not_fit = |why: CopyError| match why {
        CopyError::Stopped => stopped(),
        CopyError::Open(OpenError::Newer { database, program }) => No::refused(format!(
            "{name} has schema version {database}, and this program knows versions up to {program}; it was made by version {}",
            label.made_by
        ))
        .hint("restore it with that version or a later one"),
        CopyError::Open(OpenError::Foreign) => No::refused(format!("what is in {name} is no database of Countersign")),
        CopyError::Sqlite(why) => No::unavailable(format!("what is in {name} cannot be used: {why}")),
        why @ (CopyError::Open(_) | CopyError::Kept(_)) => No::refused(format!("what is in {name} cannot be used: {why}")),
    };
    let mut candidate = Candidate::open(draft).map_err(|why| not_fit(why.into()))?;
    let damage = candidate.inspect(&long.going("Looking for damage")).map_err(not_fit)?;
    if !damage.is_empty() {
        return Err(No::refused(format!("the database was damaged already when {name} was made: {}", damage.join("; ")))
            .hint("take an earlier backup"));
    }
    // A clock that stands before the backup is wrong; values that were shown by then are gone at least.
    let now = SystemClock.now().max(label.made_at);
    let (tenants, ended) = candidate.revive(label.made_at, now, &OsChance, &long.going("Ending what was open")).map_err(not_fit)?;
    candidate.close().map_err(not_fit)?;
    match shut(&tenants, master) {
        None => Ok((tenants.len(), ended)),
        Some(shut) => Err(No::refused(format!("the master key does not open {shut}")).hint("put back the key with which they were made")),
    }
}

/// A name for the database before, that tells when it was moved.
fn aside(database: &Path) -> PathBuf {
    beside(database, &format!(".before-{}", say::moment(SystemClock.now()).replace(':', "")))
}

fn not_opened(name: &str, why: Unopened) -> No {
    let what = format!("{name}: {why}");
    match why {
        Unopened::Foreign => No::refused(what).hint("restore takes what `countersign backup` has written"),
        Unopened::NewerFormat => No::refused(what).hint("restore it with the version that made it, or a later one"),
        Unopened::OtherKey => {
            No::refused(what).hint("put the key with which the server ran in its place: secrets.master_key_file, or COUNTERSIGN_MASTER_KEY")
        }
        Unopened::Damaged => No::refused(what).hint("nothing in it can be trusted; take another copy of it, or an earlier backup"),
        Unopened::CutOff => No::refused(what).hint("it was not copied to its end; copy it again, or take an earlier backup"),
        Unopened::Unwritten(why) if was_stopped(&why) => stopped(),
        Unopened::Unreadable(_) => No::unavailable(what),
        Unopened::Unwritten(_) => {
            No::unavailable(what).hint("it needs as much room in the folder of the database as the database in it takes")
        }
    }
}
