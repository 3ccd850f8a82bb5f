//! A database that was brought back to an earlier moment by the means of its server: what may not come back with it is ended here.
//!
//! Owns how the rule of a restore ([`countersign_core::verbs::restore`]) comes to every row, some of them at a time, and that no node
//! starts before it has come to all. Whatever ends it, it can be run again: what it has ended then stays so, and is not counted twice.

use super::ledger::PostgresLedger;
use super::slate::{Difference, Row, ShelfWrites};
use super::sql::{self, NotWritten, row_at, uuid};
use super::{OpenError, Options, migrations};
use crate::copy::tenants;
use crate::ledger::{Ledger, LedgerError, PAGE, Unfinished};
use crate::rows::{Damaged, Shelf};
use crate::sqlite::Going;
use countersign_core::nouns::event::Event;
use countersign_core::nouns::tenant::Tenant;
use countersign_core::ports::{Chance, Held};
use countersign_core::verbs::restore::{Ended, restored};
use countersign_core::words::id::TenantId;
use countersign_core::words::time::Timestamp;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio_postgres::types::Type;

/// How long the database may take for one statement.
const WITHIN: Duration = Duration::from_secs(60);

/// A database on a server that was brought back to an earlier moment. To be used beside a runtime that runs on another thread.
pub struct Revival(PostgresLedger);

/// What was found, and ended.
#[derive(Debug, Clone, Copy)]
pub struct Revived {
    /// How many there are.
    pub tenants: u64,
    /// The moment to which it was brought back, as far as the newest event tells.
    pub made_at: Timestamp,
    /// What was ended, or would be.
    pub ended: Ended,
    /// The version of the schema.
    pub schema: u32,
}

impl Revival {
    /// Opens the database, on which no node may be at work, and looks at its shape. Changes nothing.
    ///
    /// # Errors
    /// [`LedgerError`] says why it cannot be used, or not now.
    pub fn open(options: &Options) -> Result<Self, LedgerError> {
        let it = PostgresLedger::new(options)?;
        it.ask(async |line| {
            let database = migrations::of(line).await?;
            if database < migrations::KNOWN {
                return Err(LedgerError::Older { database, program: migrations::KNOWN });
            }
            match migrations::unfinished(line).await? {
                Some(work @ Unfinished::Copy) => Err(OpenError::Unfinished(work).into()),
                Some(Unfinished::Restore) | None => Ok(()),
            }
        })?;
        it.refuse_nodes()?;
        Ok(Self(it))
    }

    /// Where it is, without a password.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.name()
    }

    /// Shows every tenant to `each`.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn tenants(&mut self, each: impl FnMut(Tenant)) -> Result<(), LedgerError> {
        tenants(&mut self.0, each)
    }

    /// Tells what [`end`](Self::end) would end, and changes nothing. Nothing when `going` said so.
    ///
    /// # Errors
    /// When something cannot be read.
    pub fn look(&mut self, now: Timestamp, going: &Going) -> Result<Option<Revived>, LedgerError> {
        self.walk(now, None, going)
    }

    /// Ends what may not come back at `now`, and notes it in the audit trail of every tenant. From its first step to its last no node
    /// starts. Nothing when `going` said so; it has to be run again then.
    ///
    /// # Errors
    /// What is damaged or away. It has to be run again then.
    pub fn end(&mut self, now: Timestamp, chance: &dyn Chance, going: &Going) -> Result<Option<Revived>, LedgerError> {
        let name = Unfinished::Restore.mark();
        let text = "INSERT INTO marks (name, body) VALUES ($1, '{}') ON CONFLICT DO NOTHING";
        self.0.ask(async |line| Ok(line.execute_typed(text, &[(&name, Type::TEXT)]).await?))?;
        // A node that has looked before the mark was set is connected by now, and one that looks after it goes away.
        let revived = match self.0.refuse_nodes() {
            Ok(()) => self.walk(now, Some(chance), going)?,
            Err(why) => {
                self.unmark()?;
                return Err(why);
            }
        };
        if revived.is_some() {
            self.unmark()?;
        }
        Ok(revived)
    }

    fn unmark(&self) -> Result<(), LedgerError> {
        let name = Unfinished::Restore.mark();
        self.0.ask(async |line| Ok(line.execute_typed("DELETE FROM marks WHERE name = $1", &[(&name, Type::TEXT)]).await?)).map(drop)
    }

    /// Shows every record that may be ended, or a part of it, to the rule. Writes what it says with `chance`, and nothing without.
    fn walk(&mut self, now: Timestamp, chance: Option<&dyn Chance>, going: &Going) -> Result<Option<Revived>, LedgerError> {
        let roughly = self.0.roughly()?;
        let mut seen = 0;
        let mut all = Revived { tenants: 0, made_at: Timestamp::from_millis(0), ended: Ended::default(), schema: migrations::KNOWN };
        let mut after = TenantId::from_bytes([0; 16]);
        while let Some(tenant) = self.0.tenant_after(after)? {
            let made_at = self.newest_event(tenant)?;
            // A clock that stands before the newest event is wrong; values that were shown by then are gone at least.
            let now = made_at.map_or(now, |it| now.max(it));
            let mut ended = Ended::default();
            for shelf in [Shelf::Users, Shelf::Factors, Shelf::Challenges, Shelf::Deliveries, Shelf::SignIns] {
                let mut last = Some([0; 16]);
                while let Some(id) = last {
                    let page;
                    (page, last) = self.page(tenant, shelf, id, now, &mut ended, chance.is_some())?;
                    seen += page;
                    if !going(seen, roughly.max(seen)) {
                        return Ok(None);
                    }
                }
            }
            if let Some(chance) = chance {
                self.tell(tenant, &ended.event(made_at.unwrap_or(now), now, chance))?;
            }
            all.tenants += 1;
            all.made_at = all.made_at.max(made_at.unwrap_or(all.made_at));
            all.ended.challenges += ended.challenges;
            all.ended.deliveries += ended.deliveries;
            all.ended.authenticators += ended.authenticators;
            all.ended.sign_ins += ended.sign_ins;
            after = tenant;
        }
        Ok(Some(all))
    }

    /// Shows one page to the rule, and writes what it says. Gives how many rows it had, and after which one the next begins.
    fn page(
        &mut self,
        tenant: TenantId,
        shelf: Shelf,
        after: [u8; 16],
        now: Timestamp,
        ended: &mut Ended,
        writes: bool,
    ) -> Result<(u64, Option<[u8; 16]>), LedgerError> {
        let text =
            format!("SELECT tenant, id, version, born, body FROM {} WHERE tenant = $1 AND id > $2 ORDER BY id LIMIT {PAGE}", shelf.table());
        let given = (uuid(tenant.as_bytes()), uuid(&after));
        let rows = self.0.ask(async |line| Ok(line.query_typed(&text, &[(&given.0, Type::UUID), (&given.1, Type::UUID)]).await?))?;
        let mut changed = Vec::new();
        let mut last = None;
        for row in &rows {
            let read = row_at(row, shelf)?;
            last = Some(read.place.spot.id);
            let Held { noun, version } = read.held?;
            if let Some(noun) = restored(noun, now, ended) {
                let row = Row::new(read.place, &Held { noun, version: version + 1 }, self.0.draw_born())?;
                changed.push((row, read.kept));
            }
        }
        if writes && !changed.is_empty() {
            let shelves = BTreeMap::from([(shelf, ShelfWrites { changed, ..ShelfWrites::default() })]);
            self.write(&Difference { shelves, lists: BTreeMap::new(), events: Vec::new() })?;
        }
        Ok((rows.len() as u64, last.filter(|_| rows.len() == PAGE)))
    }

    fn tell(&self, tenant: TenantId, event: &Event) -> Result<(), LedgerError> {
        let body = serde_json::to_string(event).map_err(|_| LedgerError::Damaged("an event cannot be written as JSON".into()))?;
        self.write(&Difference { shelves: BTreeMap::new(), lists: BTreeMap::new(), events: vec![(tenant, event.id, body)] })
    }

    fn write(&self, difference: &Difference) -> Result<(), LedgerError> {
        self.0.ask(async |line| {
            sql::write(line, difference, WITHIN.as_millis()).await.map_err(|why| match why {
                NotWritten::Unsent(error) | NotWritten::Refused(error) | NotWritten::Unknown(error) => error.into(),
            })
        })
    }

    /// When the newest event of a tenant happened.
    fn newest_event(&self, tenant: TenantId) -> Result<Option<Timestamp>, LedgerError> {
        let text = "SELECT body FROM events WHERE tenant = $1 ORDER BY id DESC LIMIT 1";
        let tenant = uuid(tenant.as_bytes());
        let row = self.0.ask(async |line| Ok(line.query_typed(text, &[(&tenant, Type::UUID)]).await?.into_iter().next()))?;
        let Some(row) = row else { return Ok(None) };
        let event: Event = serde_json::from_str(row.try_get(0)?).map_err(|error| Damaged::unreadable("events", &error))?;
        Ok(Some(event.at))
    }
}
