//! The checkpointer: the thread that carries committed pages from the log into the database file.
//!
//! It works beside the writer, so that no commit waits for it. SQLite begins the log anew when everything in it was
//! carried over; on a house that never rests that moment does not come by itself, so past [`LOG_BYTES`] the writer is asked
//! for one. (Two connections, one writing and one checkpointing, is what corrupted files before SQLite 3.51.3: opening
//! refuses older ones.)

use super::writer::Desk;
use crate::stats::Counters;
use rusqlite::{Connection, Statement};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// How often it looks whether there is something to carry.
const PAUSE: Duration = Duration::from_millis(50);
/// The length of the log at which the writer lends a moment to begin it anew.
const LOG_BYTES: u64 = 64 << 20;
/// How long that moment may be while a reader holds on to the log.
const MOMENT: Duration = Duration::from_millis(20);
/// Looks at a log that stays long before the writer is asked again. A reader may hold on to it for minutes, as a backup does, and
/// asking at each look would take nearly half of the writer's time.
const PATIENCE: u32 = 20;

/// Tells the checkpointer to stop.
#[derive(Default)]
pub(super) struct Bell {
    rung: Mutex<bool>,
    heard: Condvar,
}

impl Bell {
    pub(super) fn ring(&self) {
        *self.rung.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.heard.notify_all();
    }

    /// Waits for `pause`; says whether it was rung.
    fn wait(&self, pause: Duration) -> bool {
        let rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        *self.heard.wait_timeout_while(rung, pause, |rung| !*rung).unwrap_or_else(PoisonError::into_inner).0
    }
}

/// Carries until the bell rings.
pub(super) fn run(desk: &Arc<Desk>, connection: &Connection, bell: &Bell) {
    let mut passive = match connection.prepare("PRAGMA wal_checkpoint(PASSIVE)") {
        Ok(statement) => statement,
        Err(error) => return tracing::error!("No checkpoints are made: {error}"),
    };
    let mut carried = 0;
    let mut failing = false;
    let mut patience = 0;
    while !bell.wait(PAUSE) {
        let commits = desk.counters.written();
        if commits == carried {
            continue;
        }
        match checkpoint(&mut passive, &desk.counters) {
            Ok(log) => {
                failing = false;
                if log.carried == log.frames {
                    carried = commits;
                }
                // The writer has gone on meanwhile, or the log would have begun anew by itself.
                patience = match (log.bytes(desk.counters.page_bytes()) > LOG_BYTES, patience) {
                    (false, _) => 0,
                    (true, 0) => {
                        desk.log_is_long.store(true, Ordering::Relaxed);
                        PATIENCE
                    }
                    (true, looks) => looks - 1,
                };
            }
            // The log keeps everything until it works again, so nothing is lost but room.
            Err(error) if !failing => {
                failing = true;
                tracing::error!("A checkpoint failed, the log grows until one succeeds: {error}");
            }
            Err(_) => {}
        }
    }
}

/// Lets the log begin anew, on the writer's own connection and between two batches.
pub(super) fn begin_again(connection: &Connection, desk: &Desk) {
    let tried = connection.busy_timeout(MOMENT).and_then(|()| {
        let log = connection.prepare("PRAGMA wal_checkpoint(RESTART)").and_then(|mut restart| checkpoint(&mut restart, &desk.counters));
        connection.busy_timeout(desk.busy).and(log)
    });
    if let Err(error) = tried {
        tracing::warn!("The log could not begin anew, it is tried again later: {error}");
    }
}

/// Carries everything and empties the log, at the end.
pub(super) fn finish(connection: &Connection, counters: &Counters) {
    let tried = connection.prepare("PRAGMA wal_checkpoint(TRUNCATE)").and_then(|mut statement| checkpoint(&mut statement, counters));
    if let Err(error) = tried {
        tracing::warn!("The last checkpoint failed; opening the database does it again: {error}");
    }
}

/// How long the log is, and how much of it was carried over.
struct Log {
    frames: u64,
    carried: u64,
}

impl Log {
    fn bytes(&self, page_bytes: u64) -> u64 {
        // A frame is a page and 24 bytes that say which (SQLite, "WAL File Format").
        self.frames * (page_bytes + 24)
    }
}

fn checkpoint(statement: &mut Statement<'_>, counters: &Counters) -> rusqlite::Result<Log> {
    let log = statement.query_row((), |row| {
        let count = |index| row.get::<_, i64>(index).map(|count| count.max(0).unsigned_abs());
        Ok(Log { frames: count(1)?, carried: count(2)? })
    })?;
    counters.checkpoint(log.bytes(counters.page_bytes()));
    Ok(log)
}
