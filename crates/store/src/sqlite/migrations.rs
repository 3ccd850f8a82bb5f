//! The steps by which a database gets the shape that this program knows.
//!
//! Each step is kept with its SHA-256, so that a database which another program shaped, or a step which was edited after it
//! had been run somewhere, is refused and not guessed at.

use super::OpenError;
use crate::ledger::Unfinished;
use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior};
use sha2::{Digest as _, Sha256};

/// The steps, in order. A step that was released is never edited; the next one is added.
const STEPS: [&str; 4] = [
    include_str!("migrations/0001.sql"),
    include_str!("migrations/0002.sql"),
    include_str!("migrations/0003.sql"),
    include_str!("migrations/0004.sql"),
];

/// `application_id` in the header of the file: how we know our own databases ("Csgn").
const APPLICATION: i32 = i32::from_be_bytes(*b"Csgn");

/// The version of the schema that this program knows.
#[expect(clippy::cast_possible_truncation, reason = "there are never four billion steps")]
pub(super) const KNOWN: u32 = STEPS.len() as u32;

/// Runs what is missing, in one transaction.
pub(super) fn run(connection: &mut Connection) -> Result<(), OpenError> {
    // Nothing to do is the usual case, and takes no lock from a server that is at work on the same file.
    if application(connection)? == APPLICATION && check(connection)? == KNOWN {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if application(&transaction)? != APPLICATION {
        refuse_foreign(&transaction)?;
        transaction.pragma_update(None, "application_id", APPLICATION)?;
        transaction.execute_batch("CREATE TABLE migrations (step INTEGER PRIMARY KEY, sha256 BLOB NOT NULL)")?;
    }
    let done = check(&transaction)?;
    for (number, sql) in (1u32..).zip(STEPS).skip(usize::try_from(done).unwrap_or(usize::MAX)) {
        transaction.execute_batch(sql)?;
        transaction.execute("INSERT INTO migrations VALUES (?1, ?2)", (number, fingerprint(sql)))?;
        tracing::info!(schema.version = number, "The database has the shape of version {number} now");
    }
    transaction.commit()?;
    Ok(())
}

/// The version of the schema of a database; refuses what is not ours, and what this program does not know.
pub(super) fn of(connection: &Connection) -> Result<u32, OpenError> {
    if application(connection)? == APPLICATION { check(connection) } else { Err(OpenError::Foreign) }
}

/// What has to be finished before anybody may use a database that has our shape. A database of a shape before marks has none.
pub(super) fn unfinished(connection: &Connection) -> Result<Option<Unfinished>, OpenError> {
    let has_marks: bool = connection.query_row("SELECT count(*) > 0 FROM sqlite_schema WHERE name = 'marks'", (), |row| row.get(0))?;
    if !has_marks {
        return Ok(None);
    }
    let mut marks = connection.prepare("SELECT name FROM marks")?;
    let names = marks.query_map((), |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>()?;
    Ok(names.iter().find_map(|it| Unfinished::of(it)))
}

/// Refuses a database on which work has to be finished.
pub(super) fn refuse_unfinished(connection: &Connection) -> Result<(), OpenError> {
    unfinished(connection)?.map_or(Ok(()), |work| Err(OpenError::Unfinished(work)))
}

/// Refuses a database that holds something and is not ours.
pub(super) fn refuse_foreign(connection: &Connection) -> Result<(), OpenError> {
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", (), |row| row.get(0))?;
    if tables > 0 && application(connection)? != APPLICATION { Err(OpenError::Foreign) } else { Ok(()) }
}

fn application(connection: &Connection) -> rusqlite::Result<i32> {
    connection.query_row("PRAGMA application_id", (), |row| row.get(0))
}

/// How many steps were run; refuses what this program does not know.
fn check(connection: &Connection) -> Result<u32, OpenError> {
    let newest: u32 = connection.query_row("SELECT coalesce(max(step), 0) FROM migrations", (), |row| row.get(0))?;
    if newest > KNOWN {
        return Err(OpenError::Newer { database: newest, program: KNOWN });
    }
    let mut kept = connection.prepare("SELECT sha256 FROM migrations WHERE step = ?1")?;
    for (step, sql) in (1..=newest).zip(STEPS) {
        let sha256: Option<Vec<u8>> = kept.query_row([step], |row| row.get(0)).optional()?;
        if sha256.as_deref() != Some(&fingerprint(sql)) {
            return Err(OpenError::Changed { step });
        }
    }
    Ok(newest)
}

fn fingerprint(sql: &str) -> [u8; 32] {
    Sha256::digest(sql.as_bytes()).into()
}
