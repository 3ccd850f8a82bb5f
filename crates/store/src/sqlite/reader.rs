//! The readers: a few threads, each with a read-only connection of its own. None of them ever waits for the writer.

use super::queue::Queue;
use super::rows::{Reads, Trouble, read_row, tenant_at};
use crate::rows::{Damaged, Shelf};
use countersign_core::nouns::event::Event;
use countersign_core::ports::{Listed, Listing};
use countersign_core::words::id::{DeliveryId, EventId, TenantId};
use countersign_core::words::refusal::Fault;
use countersign_core::words::time::Timestamp;
use rusqlite::{Connection, Params, Row};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// One question.
pub(super) type Question = Box<dyn for<'a, 'c> FnOnce(Result<&'a mut Reader<'c>, &'a Fault>) + Send>;

/// A reader at work.
pub(super) struct Reader<'c> {
    pub(super) connection: &'c Connection,
    pub(super) reads: Reads<'c>,
}

/// Answers questions until the queue is closed.
pub(super) fn run(queue: &Queue<Question>, connection: &Connection) {
    let mut reader =
        Reads::prepare(connection).map(|reads| Reader { connection, reads }).map_err(|error| Fault::from(&Trouble::Sqlite(error)));
    let mut waiting = VecDeque::with_capacity(1);
    while queue.take(1, &mut waiting).is_some() {
        for question in waiting.drain(..) {
            // Whoever asked learns of a panic because the answer never comes; the next question has nothing to do with it.
            if catch_unwind(AssertUnwindSafe(|| question(reader.as_mut().map_err(|fault| &*fault)))).is_err() {
                tracing::error!("A question to the store panicked");
            }
        }
    }
}

impl Reader<'_> {
    pub(super) fn list(&mut self, listing: &Listing) -> Result<Vec<Listed>, Trouble> {
        let all = "SELECT tenant, version, body FROM";
        match listing {
            Listing::Tenants => self.listed(Shelf::Tenants, &format!("{all} tenants ORDER BY name"), ()),
            Listing::TenantNamed(name) => self.listed(Shelf::Tenants, &format!("{all} tenants WHERE name = ?1"), [name]),
            Listing::ClientNamed(id) => self.listed(Shelf::Clients, &format!("{all} clients WHERE client_id = ?1"), [id]),
            Listing::Clients(tenant) => {
                self.listed(Shelf::Clients, &format!("{all} clients WHERE tenant = ?1 ORDER BY id"), [tenant.as_bytes()])
            }
            Listing::Providers(tenant) => {
                self.listed(Shelf::Providers, &format!("{all} providers WHERE tenant = ?1 ORDER BY id"), [tenant.as_bytes()])
            }
            Listing::Templates(tenant) => {
                self.listed(Shelf::Templates, &format!("{all} templates WHERE tenant = ?1 ORDER BY id"), [tenant.as_bytes()])
            }
        }
    }

    fn listed(&mut self, shelf: Shelf, sql: &str, given: impl Params) -> Result<Vec<Listed>, Trouble> {
        self.each(sql, given, |row| Ok(Listed { tenant: tenant_at(row, 0)?, held: read_row(shelf, row, 1)? }))
    }

    pub(super) fn events(&mut self, tenant: TenantId, before: Option<EventId>, most: u32) -> Result<Vec<Event>, Trouble> {
        // Ids are ordered by time, and none is larger than sixteen times 0xff.
        let before = before.map_or([0xff; 16], |id| *id.as_bytes());
        let sql = "SELECT body FROM events WHERE tenant = ?1 AND id < ?2 ORDER BY id DESC LIMIT ?3";
        self.each(sql, (tenant.as_bytes(), before, most), |row| {
            let body = row.get_ref(0)?.as_bytes().map_err(|_| Trouble::Damaged("an event has no body".into()))?;
            serde_json::from_slice(body).map_err(|error| Damaged::unreadable("events", &error).into())
        })
    }

    pub(super) fn due(&mut self, now: Timestamp, most: u32) -> Result<Vec<(TenantId, DeliveryId)>, Trouble> {
        let sql = "SELECT tenant, id FROM deliveries WHERE due_at IS NOT NULL AND due_at <= ?1 ORDER BY due_at LIMIT ?2";
        self.each(sql, (now.as_millis(), most), |row| Ok((tenant_at(row, 0)?, DeliveryId::from_bytes(row.get(1)?))))
    }

    pub(super) fn stamp(&mut self) -> Result<i64, Trouble> {
        Ok(self.connection.prepare_cached("SELECT changes FROM configuration")?.query_row((), |row| row.get(0))?)
    }

    pub(super) fn queued(&mut self) -> Result<u64, Trouble> {
        let count: i64 =
            self.connection.prepare_cached("SELECT count(*) FROM deliveries WHERE due_at IS NOT NULL")?.query_row((), |row| row.get(0))?;
        Ok(count.unsigned_abs())
    }

    fn each<T>(&mut self, sql: &str, given: impl Params, mut read: impl FnMut(&Row<'_>) -> Result<T, Trouble>) -> Result<Vec<T>, Trouble> {
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query(given)?;
        let mut all = Vec::new();
        while let Some(row) = rows.next()? {
            all.push(read(row)?);
        }
        Ok(all)
    }
}
