//! The steps by which a database gets the shape that this program knows. Several nodes may start at once: one runs the steps, the
//! others wait for it.

use super::OpenError;
use super::connect::{Line, refused};
use crate::ledger::Unfinished;
use sha2::{Digest as _, Sha256};
use tokio_postgres::types::Type;

/// The steps, in order. A step that was released is never edited; the next one is added. An older program must be able to go
/// on with the new shape, because nodes are renewed one after the other.
const STEPS: [&str; 3] = [include_str!("migrations/0001.sql"), include_str!("migrations/0002.sql"), include_str!("migrations/0003.sql")];

/// The version of the schema that this program knows.
#[expect(clippy::cast_possible_truncation, reason = "there are never four billion steps")]
pub(super) const KNOWN: u32 = STEPS.len() as u32;

/// By which nodes that start at once know each other ("Csgn"). Held until the end of the transaction, so a pooler may be between.
const LOCK: i64 = 0x4373_676e;

/// Runs what is missing, in one transaction.
pub(super) async fn run(line: &Line) -> Result<(), OpenError> {
    if is_ours(line).await? && check(line).await? == KNOWN {
        return Ok(());
    }
    run_in_transaction(line).await
}

async fn run_in_transaction(line: &Line) -> Result<(), OpenError> {
    let failed = |error: tokio_postgres::Error| refused(&error);
    line.batch_execute(&format!("BEGIN; SELECT pg_advisory_xact_lock({LOCK})")).await.map_err(failed)?;
    if !is_ours(line).await? {
        // What an extension brought along is nobody's house.
        let text = "SELECT count(*) FROM pg_class c WHERE c.relkind IN ('r', 'p') AND c.relnamespace = current_schema()::regnamespace \
                    AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')";
        let tables: i64 = line.query_typed_one(text, &[]).await.and_then(|row| row.try_get(0)).map_err(failed)?;
        if tables > 0 {
            return Err(OpenError::Foreign);
        }
        line.batch_execute("CREATE TABLE migrations (step integer PRIMARY KEY, sha256 bytea NOT NULL)").await.map_err(failed)?;
    }
    let done = check(line).await?;
    for (number, sql) in (1u32..).zip(STEPS).skip(usize::try_from(done).unwrap_or(usize::MAX)) {
        line.batch_execute(sql).await.map_err(failed)?;
        let note = "INSERT INTO migrations VALUES ($1, $2)";
        let step = i32::try_from(number).unwrap_or(i32::MAX);
        line.execute_typed(note, &[(&step, Type::INT4), (&fingerprint(sql), Type::BYTEA)]).await.map_err(failed)?;
        tracing::info!(schema.version = number, "The database has the shape of version {number} now");
    }
    line.batch_execute("COMMIT").await.map_err(failed)
}

/// The version of the schema of a database; refuses what is not ours, and what this program does not know.
pub(super) async fn of(line: &Line) -> Result<u32, OpenError> {
    if is_ours(line).await? { check(line).await } else { Err(OpenError::Foreign) }
}

/// What has to be finished before anybody may use a database that has our shape.
pub(super) async fn unfinished(line: &Line) -> Result<Option<Unfinished>, OpenError> {
    let rows = line.query_typed("SELECT name FROM marks", &[]).await.map_err(|error| refused(&error))?;
    let names = rows.iter().map(|row| row.try_get::<_, &str>(0)).collect::<Result<Vec<_>, _>>().map_err(|error| refused(&error))?;
    Ok(names.into_iter().find_map(Unfinished::of))
}

/// Refuses a database on which work has to be finished.
pub(super) async fn refuse_unfinished(line: &Line) -> Result<(), OpenError> {
    unfinished(line).await?.map_or(Ok(()), |work| Err(OpenError::Unfinished(work)))
}

/// Whether there is a list of steps that could be ours.
pub(super) async fn is_ours(line: &Line) -> Result<bool, OpenError> {
    let text = "SELECT count(*) FROM information_schema.columns \
                WHERE table_schema = current_schema() AND table_name = 'migrations' AND column_name IN ('step', 'sha256')";
    let columns: i64 = line.query_typed_one(text, &[]).await.and_then(|row| row.try_get(0)).map_err(|error| refused(&error))?;
    Ok(columns == 2)
}

/// How many steps were run; refuses what this program does not know.
async fn check(line: &Line) -> Result<u32, OpenError> {
    let rows = line.query_typed("SELECT step, sha256 FROM migrations ORDER BY step", &[]).await.map_err(|error| refused(&error))?;
    let mut done = 0;
    for row in rows {
        let step: i32 = row.try_get(0).map_err(|error| refused(&error))?;
        let sha256: Vec<u8> = row.try_get(1).map_err(|error| refused(&error))?;
        let step = step.unsigned_abs();
        if let Some(sql) = usize::try_from(step).ok().and_then(|it| STEPS.get(it.wrapping_sub(1)))
            && sha256 != fingerprint(sql)
        {
            return Err(OpenError::Changed { step });
        }
        done = step;
    }
    if done > KNOWN {
        return Err(OpenError::Newer { database: done, program: KNOWN });
    }
    Ok(done)
}

fn fingerprint(sql: &str) -> Vec<u8> {
    Sha256::digest(sql.as_bytes()).to_vec()
}
