//! `countersign copy`: everything into another database, whichever engine keeps it.
//!
//! Owns which two databases are meant, and what is told of it. How rows move, and that both sides hold the same at the end, is known to
//! [`countersign_store::copy`].

use super::{Desk, count};
use crate::cli;
use crate::config::{COPY_FROM, COPY_TO, Config, Storage};
use crate::engine::{unfinished, with_roots};
use crate::logs;
use crate::long::{self, Long};
use crate::master;
use crate::no::No;
use crate::say;
use countersign_core::words::secret::{MasterKey, TenantKeys};
use countersign_store::copy::{Copied, CopyFault, Difference, Side, copy};
use countersign_store::{LedgerError, OpenError, Tally, postgres};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

#[derive(Serialize)]
struct Report {
    from: String,
    to: String,
    /// Whether both sides hold the same, and servers may start on the target.
    finished: bool,
    resumed: bool,
    tenants: u64,
    /// Rows of the source, by table.
    rows: BTreeMap<&'static str, u64>,
    /// Rows that this run has carried over.
    carried: u64,
    differences: Vec<Differs>,
    /// How many there are, where not all are listed.
    differ: u64,
    duration_ms: u128,
}

#[derive(Serialize)]
struct Differs {
    tenant: String,
    table: &'static str,
    from_rows: u64,
    to_rows: u64,
    from_sha256: String,
    to_sha256: String,
}

pub fn run(desk: &Desk, command: &cli::Copy) -> Result<(), No> {
    logs::begin_for_commands();
    let config = desk.config()?;
    let from = match told(desk, command.from.as_deref(), "--from", COPY_FROM) {
        Some((text, origin)) => storage(&config, &text, origin)?,
        None => config.storage.clone(),
    };
    let Some((to, origin)) = told(desk, command.to.as_deref(), "--to", COPY_TO) else {
        return Err(No::usage("there is no target").hint(format!("name an empty database with --to, or with {COPY_TO}")));
    };
    let to = storage(&config, &to, origin)?;
    let master = master::of_sealed(&config, "what is to be copied")?;
    let report = long::run(move |long| work(long, &from, &to, &master))?;
    desk.say.result(&report, text)?;
    if report.finished {
        return Ok(());
    }
    let places = count(report.differ, "place");
    Err(No::refused(format!("{} and {} differ in {places}, so the copy is not finished", report.from, report.to))
        .hint("whoever wrote to one of them meanwhile must be stopped; then empty the target, and copy again. The source is as it was"))
}

/// What was said of a side, and where. A password on the command line is taken and frowned upon.
fn told<'a>(desk: &Desk, argument: Option<&str>, option: &'a str, variable: &'a str) -> Option<(String, &'a str)> {
    if let Some(text) = argument {
        if url::Url::parse(text).is_ok_and(|it| it.password().is_some()) {
            tracing::warn!("Everybody on this machine can read the password in {option}; put the address into {variable} instead");
        }
        return Some((text.to_owned(), option));
    }
    desk.environment.get(variable).filter(|it| !it.is_empty()).map(|text| (text.clone(), variable))
}

fn storage(config: &Config, text: &str, origin: &str) -> Result<Storage, No> {
    config.databases.storage(text).map_err(|why| No::usage(format!("{origin}: {why}")))
}

fn work(long: &Long, from: &Storage, to: &Storage, master: &MasterKey) -> Result<Report, No> {
    let began = Instant::now();
    if let (Some(from), Some(to)) = (from.file().and_then(|it| it.canonicalize().ok()), to.file().and_then(|it| it.canonicalize().ok()))
        && from == to
    {
        return Err(not_copied(CopyFault::Itself(from.display().to_string())));
    }
    let mut source = to_read(from)?;
    refuse_another_key(&mut source, master)?;
    let mut target = to_fill(to)?;
    let copied = copy(&mut source, &mut target, &long.going("Copying"), &long.going("Comparing both sides")).map_err(not_copied)?;
    let (from, to) = (source.name().to_owned(), target.name().to_owned());
    let Copied { resumed, carried, tenants, rows, differences, differ } = copied;
    let differences = differences.into_iter().map(differs).collect();
    let duration_ms = began.elapsed().as_millis();
    Ok(Report { from, to, finished: differ == 0, resumed, tenants, rows, carried, differences, differ, duration_ms })
}

fn differs(it: Difference) -> Differs {
    let Difference { tenant, table, from, to } = it;
    let sha256 = |it: Tally| it.sha256.iter().map(|byte| format!("{byte:02x}")).collect();
    Differs { tenant: tenant.to_string(), table, from_rows: from.rows, to_rows: to.rows, from_sha256: sha256(from), to_sha256: sha256(to) }
}

fn text(it: &Report) -> String {
    if it.finished {
        let all = count(it.rows.values().sum(), "row");
        let how = if it.resumed { format!(", {} of them now", it.carried) } else { String::new() };
        let tenants = count(it.tenants, "tenant");
        return format!("{tenants}, {all} copied from {} to {}{how}. Both sides were read again and hold the same.", it.from, it.to);
    }
    let rows: Vec<_> = it
        .differences
        .iter()
        .map(|it| {
            let why = if it.from_rows == it.to_rows { "something else is in them" } else { "" };
            [it.tenant.clone(), it.table.to_owned(), it.from_rows.to_string(), it.to_rows.to_string(), why.to_owned()]
        })
        .collect();
    say::table(["tenant", "table", "rows here", "rows there", ""], &rows)
}

/// Opens the source; a file that is not there is not made.
fn to_read(storage: &Storage) -> Result<Side, No> {
    let opened = match storage {
        Storage::File(path) if !path.exists() => {
            return Err(No::refused(format!("there is no database at {}", path.display()))
                .hint("name the source with --from, or the settings of your server with --config"));
        }
        Storage::File(path) => Side::file_to_read(path),
        Storage::Postgres(database) => Side::database_to_read(&with_roots(database)?),
    };
    opened.map_err(|why| not_used(&name(storage, "the source"), why))
}

fn to_fill(storage: &Storage) -> Result<Side, No> {
    let opened = match storage {
        Storage::File(path) => {
            let folder = path.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."));
            master::make_folder(folder).map_err(|why| No::unavailable(format!("{} cannot be made: {why}", folder.display())))?;
            Side::file_to_fill(path)
        }
        Storage::Postgres(database) => Side::database_to_fill(&with_roots(database)?),
    };
    opened.map_err(|why| not_used(&name(storage, "the target"), why))
}

/// What a side is called before it is open.
fn name(storage: &Storage, side: &str) -> String {
    match storage {
        Storage::File(path) => format!("{side}, {}", path.display()),
        Storage::Postgres(_) => side.to_owned(),
    }
}

/// With another key, servers could not read a thing on the target, and the key of the source may be thought to be of no use any more.
fn refuse_another_key(source: &mut Side, master: &MasterKey) -> Result<(), No> {
    let (mut all, mut shut) = (0, Vec::new());
    let looked = source.tenants(|it| {
        all += 1;
        if TenantKeys::open(it.id, &it.keys, master).is_err() {
            shut.push(it.name);
        }
    });
    looked.map_err(not_copied)?;
    if shut.is_empty() {
        return Ok(());
    }
    let some = shut.iter().take(5).map(String::as_str).collect::<Vec<_>>().join(", ");
    let what = format!("the master key does not open {} of {all} tenants of {}: {some}", shut.len(), source.name());
    Err(No::refused(what).hint("name the key of the source; the target is served with the same one"))
}

fn not_copied(why: CopyFault) -> No {
    let what = why.to_string();
    match why {
        CopyFault::Ledger { at, why } => not_used(&at, why),
        CopyFault::NotEmpty(_) => No::refused(what)
            .hint("name an empty database, or a file that is not there yet; a copy that has come to its end is not made again"),
        CopyFault::OtherCopy { .. } => No::refused(what).hint("finish that one, or empty the target"),
        CopyFault::Itself(_) => No::usage(what),
        CopyFault::Stopped => No::unavailable("stopped by a signal").hint("the same command goes on where it was"),
    }
}

/// Why one of the two databases could not be used, or not any more.
pub(super) fn not_used(name: &str, why: LedgerError) -> No {
    let what = format!("{name}: {why}");
    match why {
        LedgerError::File(OpenError::Unfinished(work)) | LedgerError::Server(postgres::OpenError::Unfinished(work)) => {
            unfinished(what, work)
        }
        LedgerError::InUse => No::refused(what)
            .hint("stop every server, and every other command. Where a pooler keeps connections open for them, close those too"),
        LedgerError::Older { .. } => No::refused(what).hint("let this program open it once, as `countersign tenant list` does"),
        LedgerError::File(OpenError::File { .. } | OpenError::Sqlite(_) | OpenError::Thread(_))
        | LedgerError::Server(postgres::OpenError::Away(_)) => No::unavailable(what),
        LedgerError::Away(_) => No::unavailable(what).hint("the same command goes on where it was"),
        LedgerError::Damaged(_) => No::refused(what).hint("`countersign doctor` looks for the reason"),
        LedgerError::Overtaken => No::refused(what).hint("see who else works on it, such as another copy; then begin again"),
        LedgerError::File(_) | LedgerError::Server(_) => No::refused(what),
    }
}
