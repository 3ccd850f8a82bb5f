//! Retention: what is over and old is removed, a few hundred rows at a time.
//!
//! A reader looks for the rows, which also brings their pages into memory; the writer only removes what was found, when
//! nothing else waits, and looks again whether it may.

use super::rows::Trouble;
use countersign_core::words::id::{ChallengeId, DeliveryId, EventId, TenantId};
use countersign_core::words::time::Timestamp;
use rusqlite::{Connection, Statement, ToSql};

/// Rows that one step removes: about a millisecond of the writer.
pub(super) const STEP: usize = 500;
/// Limits that one step looks at.
const LOOK: usize = 5_000;

/// Rows to be removed.
#[derive(Debug, Default)]
pub(super) struct Removals {
    tenant: Option<TenantId>,
    now: i64,
    challenges: Vec<[u8; 16]>,
    deliveries: Vec<[u8; 16]>,
    events: Vec<[u8; 16]>,
    limits: Vec<[u8; 16]>,
    sign_ins: Vec<[u8; 16]>,
}

impl Removals {
    pub(super) fn len(&self) -> usize {
        self.challenges.len() + self.deliveries.len() + self.events.len() + self.limits.len() + self.sign_ins.len()
    }
}

/// What one step found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) removals: Removals,
    /// Whether there may be more.
    pub(super) more: bool,
    /// Where the next step goes on among the limits; nowhere when all were looked at.
    pub(super) limits_after: Option<[u8; 16]>,
}

/// Looks for at most [`STEP`] rows of `tenant` that may go.
pub(super) fn look(
    connection: &Connection,
    tenant: TenantId,
    before: Timestamp,
    now: Timestamp,
    after: Option<[u8; 16]>,
) -> Result<Found, Trouble> {
    let mut removals = Removals { tenant: Some(tenant), now: now.as_millis(), ..Removals::default() };
    let first = |sql: &str, bound: &dyn ToSql, room: usize| -> Result<Vec<[u8; 16]>, Trouble> {
        let mut statement = connection.prepare_cached(sql)?;
        let ids = statement.query_map((tenant.as_bytes(), bound, room as i64), |row| row.get(0))?;
        Ok(ids.collect::<rusqlite::Result<_>>()?)
    };
    let sql = "SELECT id FROM challenges WHERE tenant = ?1 AND id < ?2 ORDER BY id LIMIT ?3";
    removals.challenges = first(sql, ChallengeId::floor(before).as_bytes(), STEP)?;
    let sql = "SELECT id FROM deliveries WHERE tenant = ?1 AND id < ?2 AND due_at IS NULL ORDER BY id LIMIT ?3";
    removals.deliveries = first(sql, DeliveryId::floor(before).as_bytes(), STEP - removals.len())?;
    let sql = "SELECT id FROM events WHERE tenant = ?1 AND id < ?2 ORDER BY id LIMIT ?3";
    removals.events = first(sql, EventId::floor(before).as_bytes(), STEP - removals.len())?;
    let sql = "SELECT id FROM sign_ins WHERE tenant = ?1 AND over_at <= ?2 ORDER BY over_at LIMIT ?3";
    removals.sign_ins = first(sql, &removals.now, STEP - removals.len())?;
    let room = STEP - removals.len();
    if room == 0 {
        return Ok(Found { removals, more: true, limits_after: after });
    }
    let mut looked = 0;
    let mut last = None;
    let mut statement = connection.prepare_cached("SELECT id, over_at FROM limits WHERE tenant = ?1 AND id > ?2 ORDER BY id LIMIT ?3")?;
    let mut rows = statement.query((tenant.as_bytes(), after.as_ref().map_or(&[][..], |id| id), LOOK as i64))?;
    while let Some(row) = rows.next()? {
        let id: [u8; 16] = row.get(0)?;
        looked += 1;
        last = Some(id);
        if row.get::<_, Option<i64>>(1)?.is_some_and(|over_at| over_at <= now.as_millis()) {
            removals.limits.push(id);
            if removals.limits.len() == room {
                break;
            }
        }
    }
    let more = looked == LOOK || removals.limits.len() == room;
    Ok(Found { removals, more, limits_after: if more { last } else { None } })
}

/// The writer's half.
pub(super) struct Removing<'c> {
    challenges: Statement<'c>,
    deliveries: Statement<'c>,
    events: Statement<'c>,
    limits: Statement<'c>,
    sign_ins: Statement<'c>,
}

impl<'c> Removing<'c> {
    pub(super) fn prepare(connection: &'c Connection) -> rusqlite::Result<Self> {
        Ok(Self {
            challenges: connection.prepare("DELETE FROM challenges WHERE tenant = ?1 AND id = ?2")?,
            deliveries: connection.prepare("DELETE FROM deliveries WHERE tenant = ?1 AND id = ?2 AND due_at IS NULL")?,
            events: connection.prepare("DELETE FROM events WHERE tenant = ?1 AND id = ?2")?,
            // Since they were found, both may have begun anew.
            limits: connection.prepare("DELETE FROM limits WHERE tenant = ?1 AND id = ?2 AND over_at <= ?3")?,
            sign_ins: connection.prepare("DELETE FROM sign_ins WHERE tenant = ?1 AND id = ?2 AND over_at <= ?3")?,
        })
    }

    /// Removes what was found and may still go; says how many rows that was.
    pub(super) fn remove(&mut self, removals: &Removals) -> Result<u64, Trouble> {
        let Some(tenant) = removals.tenant else { return Ok(0) };
        let mut removed = 0;
        let lists = [
            (&mut self.challenges, &removals.challenges),
            (&mut self.deliveries, &removals.deliveries),
            (&mut self.events, &removals.events),
        ];
        for (statement, ids) in lists {
            for id in ids {
                removed += statement.execute((tenant.as_bytes(), id))?;
            }
        }
        for (statement, ids) in [(&mut self.limits, &removals.limits), (&mut self.sign_ins, &removals.sign_ins)] {
            for id in ids {
                removed += statement.execute((tenant.as_bytes(), id, removals.now))?;
            }
        }
        Ok(removed as u64)
    }
}
