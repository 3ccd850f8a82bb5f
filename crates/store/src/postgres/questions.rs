//! Questions that are not on the way of a request: single records, lists, the outbox, retention, health.

use super::batch::Desk;
use super::connect::Line;
use super::migrations;
use super::slate::Read;
use super::sql::{row_at, uuid};
use super::trouble::{Trouble, fault_of};
use crate::rows::{Damaged, Shelf, Spot, Way, unavailable};
use countersign_core::nouns::event::Event;
use countersign_core::ports::{Health, Held, Key, Listed, Listing, Record, Swept, Turn};
use countersign_core::words::id::{ChallengeId, DeliveryId, EventId, NodeId, TenantId};
use countersign_core::words::refusal::Fault;
use countersign_core::words::time::Timestamp;
use tokio::time::error::Elapsed;
use tokio::time::timeout;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Error, Row};
use uuid::Uuid;

/// Rows that one step of retention removes.
const STEP: i64 = 500;
/// Limits that one step looks at.
const LOOK: i64 = 5_000;

type Given<'a> = (&'a (dyn ToSql + Sync), Type);

impl Desk {
    pub(super) async fn find(&self, tenant: TenantId, key: Key) -> Result<Vec<Held<Record>>, Fault> {
        let (shelf, column, id) = match Way::of(tenant, key) {
            Way::Spot(Spot { shelf, id }) => (shelf, "id", id),
            Way::Named(named) => (Shelf::Users, "named", named),
            Way::Of(user) => (Shelf::Factors, "owner", user),
        };
        let table = shelf.table();
        let text = format!("SELECT tenant, id, version, born, body FROM {table} WHERE tenant = $1 AND {column} = $2 ORDER BY id");
        let (tenant, id) = (uuid(tenant.as_bytes()), uuid(&id));
        let rows = self.query(&text, &[(&tenant, Type::UUID), (&id, Type::UUID)]).await?;
        rows.iter().map(|row| held(row, shelf).map(|it| it.held)).collect()
    }

    pub(super) async fn list(&self, listing: &Listing) -> Result<Vec<Listed>, Fault> {
        let all = "SELECT tenant, id, version, born, body FROM";
        let (shelf, text, given): (_, _, Option<Given<'_>>) = match listing {
            // In the order of bytes, as the embedded engine has it, whatever the database's collation.
            Listing::Tenants => (Shelf::Tenants, format!("{all} tenants ORDER BY name COLLATE \"C\""), None),
            Listing::TenantNamed(name) => (Shelf::Tenants, format!("{all} tenants WHERE name = $1"), Some((name, Type::TEXT))),
            Listing::ClientNamed(id) => (Shelf::Clients, format!("{all} clients WHERE client_id = $1"), Some((id, Type::TEXT))),
            Listing::Clients(tenant) => return self.of_tenant(Shelf::Clients, *tenant).await,
            Listing::Providers(tenant) => return self.of_tenant(Shelf::Providers, *tenant).await,
            Listing::Templates(tenant) => return self.of_tenant(Shelf::Templates, *tenant).await,
        };
        // PostgreSQL keeps no text with a NUL in it, so nothing is called so, and asking would be an error.
        if let Listing::TenantNamed(name) | Listing::ClientNamed(name) = listing
            && name.contains('\0')
        {
            return Ok(Vec::new());
        }
        let rows = self.query(&text, given.as_slice()).await?;
        rows.iter().map(|row| held(row, shelf)).collect()
    }

    pub(super) async fn stamp(&self) -> Result<i64, Fault> {
        let rows = self.query("SELECT changes FROM configuration", &[]).await?;
        let row = rows.first().ok_or_else(|| Fault::Corrupt("the stamp of the configuration is gone".into()))?;
        row.try_get(0).map_err(|error| refused(&error))
    }

    async fn of_tenant(&self, shelf: Shelf, tenant: TenantId) -> Result<Vec<Listed>, Fault> {
        let text = format!("SELECT tenant, id, version, born, body FROM {} WHERE tenant = $1 ORDER BY id", shelf.table());
        let rows = self.query(&text, &[(&uuid(tenant.as_bytes()), Type::UUID)]).await?;
        rows.iter().map(|row| held(row, shelf)).collect()
    }

    pub(super) async fn events(&self, tenant: TenantId, before: Option<EventId>, most: u32) -> Result<Vec<Event>, Fault> {
        // Ids are ordered by time, and none is larger than sixteen times 0xff.
        let before = uuid(&before.map_or([0xff; 16], |id| *id.as_bytes()));
        let text = "SELECT body FROM events WHERE tenant = $1 AND id < $2 ORDER BY id DESC LIMIT $3";
        let given: [Given<'_>; 3] = [(&uuid(tenant.as_bytes()), Type::UUID), (&before, Type::UUID), (&i64::from(most), Type::INT8)];
        let rows = self.query(text, &given).await?;
        let read = |row: &Row| {
            let body: &str = row.try_get(0).map_err(|error| refused(&error))?;
            serde_json::from_str(body).map_err(|error| Fault::Corrupt(Damaged::unreadable("events", &error).0))
        };
        rows.iter().map(read).collect()
    }

    pub(super) async fn due(&self, now: Timestamp, most: u32) -> Result<Vec<(TenantId, DeliveryId)>, Fault> {
        let text = "SELECT tenant, id FROM deliveries WHERE due_at IS NOT NULL AND due_at <= $1 ORDER BY due_at LIMIT $2";
        let rows = self.query(text, &[(&now.as_millis(), Type::INT8), (&i64::from(most), Type::INT8)]).await?;
        rows.iter().map(|row| Ok((TenantId::from_bytes(id_at(row, 0)?), DeliveryId::from_bytes(id_at(row, 1)?)))).collect()
    }

    /// One step of retention, and where the next one goes on among the limits.
    pub(super) async fn sweep(
        &self,
        tenant: TenantId,
        before: Timestamp,
        now: Timestamp,
        after: Option<[u8; 16]>,
    ) -> Result<(Swept, Option<[u8; 16]>), Fault> {
        let tenant = uuid(tenant.as_bytes());
        let mut removed = 0;
        let olds = [
            ("challenges", "true", *ChallengeId::floor(before).as_bytes()),
            ("deliveries", "due_at IS NULL", *DeliveryId::floor(before).as_bytes()),
            ("events", "true", *EventId::floor(before).as_bytes()),
        ];
        for (table, may_go, floor) in olds {
            // What is locked is being decided upon; it is looked at again next time.
            let text = format!(
                "DELETE FROM {table} WHERE tenant = $1 AND id IN (SELECT id FROM {table} WHERE tenant = $1 AND id < $2 AND {may_go} \
                 ORDER BY id LIMIT $3 FOR UPDATE SKIP LOCKED)"
            );
            let room = STEP - removed;
            let given: [Given<'_>; 3] = [(&tenant, Type::UUID), (&uuid(&floor), Type::UUID), (&room, Type::INT8)];
            removed += self.execute(&text, &given).await?.cast_signed();
        }
        let text = "DELETE FROM sign_ins WHERE tenant = $1 AND over_at <= $2 AND id IN (SELECT id FROM sign_ins \
                    WHERE tenant = $1 AND over_at <= $2 ORDER BY over_at LIMIT $3 FOR UPDATE SKIP LOCKED)";
        let given: [Given<'_>; 3] = [(&tenant, Type::UUID), (&now.as_millis(), Type::INT8), (&(STEP - removed), Type::INT8)];
        removed += self.execute(text, &given).await?.cast_signed();
        let room = STEP - removed;
        if room <= 0 {
            return Ok((Swept { removed: removed.unsigned_abs(), more: true }, after));
        }
        // Limits have no order of age, so they are walked by key. Since it was looked at, one may have begun anew.
        let text = "WITH page AS MATERIALIZED (SELECT id, over_at FROM limits WHERE tenant = $1 AND id > $2 ORDER BY id LIMIT $3), \
                    over AS MATERIALIZED (SELECT id FROM page WHERE over_at <= $4 ORDER BY id LIMIT $5), \
                    gone AS (DELETE FROM limits l USING over o WHERE l.tenant = $1 AND l.id = o.id AND l.over_at <= $4 RETURNING 1) \
                    SELECT (SELECT count(*) FROM page), (SELECT id FROM page ORDER BY id DESC LIMIT 1), \
                    (SELECT count(*) FROM over), (SELECT id FROM over ORDER BY id DESC LIMIT 1), (SELECT count(*) FROM gone)";
        let given: [Given<'_>; 5] = [
            (&tenant, Type::UUID),
            (&uuid(&after.unwrap_or_default()), Type::UUID),
            (&LOOK, Type::INT8),
            (&now.as_millis(), Type::INT8),
            (&room, Type::INT8),
        ];
        let rows = self.query(text, &given).await?;
        let row = rows.first().ok_or_else(|| unavailable("the database says nothing of its limits"))?;
        let count = |index: usize| row.try_get::<_, i64>(index).map_err(|error| refused(&error));
        let last = |index: usize| row.try_get::<_, Option<Uuid>>(index).map_err(|error| refused(&error));
        let limits_after = if count(2)? == room {
            last(3)?
        } else if count(0)? == LOOK {
            last(1)?
        } else {
            None
        };
        removed += count(4)?;
        let swept = Swept { removed: removed.unsigned_abs(), more: limits_after.is_some() };
        Ok((swept, limits_after.map(Uuid::into_bytes)))
    }

    pub(super) async fn take_turn(&self, turn: Turn, node: NodeId, now: Timestamp, until: Timestamp) -> Result<bool, Fault> {
        let text = "INSERT INTO turns (at, holder, until) VALUES ($1, $2, $4) ON CONFLICT (at) DO UPDATE \
                    SET holder = excluded.holder, until = excluded.until WHERE turns.holder = $2 OR turns.until <= $3";
        let given: [Given<'_>; 4] = [
            (&turn.as_str(), Type::TEXT),
            (&uuid(node.as_bytes()), Type::UUID),
            (&now.as_millis(), Type::INT8),
            (&until.as_millis(), Type::INT8),
        ];
        Ok(self.execute(text, &given).await? == 1)
    }

    pub(super) async fn health(&self) -> Result<Health, Fault> {
        // Written first: a database that can be read and not written is not healthy, and one that waits for its standby neither.
        self.execute("UPDATE pulse SET beats = beats + 1", &[]).await?;
        let tables: Vec<&str> = Shelf::ALL.into_iter().map(Shelf::table).chain(["events"]).collect();
        let text = "SELECT (SELECT count(*) FROM deliveries WHERE due_at IS NOT NULL), \
                    (SELECT sum(pg_total_relation_size(name::regclass))::bigint FROM unnest($1) AS t(name))";
        let rows = self.query(text, &[(&tables, Type::TEXT_ARRAY)]).await?;
        let row = rows.first().ok_or_else(|| unavailable("the database says nothing of itself"))?;
        let read = |index: usize| row.try_get::<_, i64>(index).map(i64::unsigned_abs).map_err(|error| refused(&error));
        let engine = format!("PostgreSQL {}", self.lines.version());
        Ok(Health { engine, schema: migrations::KNOWN, queued: read(0)?, bytes: read(1)? })
    }

    pub(super) async fn mark_once(&self, name: &str) -> Result<bool, Fault> {
        let text = "INSERT INTO marks (name, body) VALUES ($1, '') ON CONFLICT DO NOTHING";
        Ok(self.execute(text, &[(&name, Type::TEXT)]).await? == 1)
    }

    /// A setting of the database.
    pub(super) async fn setting(&self, name: &str) -> Result<String, Fault> {
        let rows = self.query("SELECT current_setting($1)", &[(&name, Type::TEXT)]).await?;
        let row = rows.first().ok_or_else(|| unavailable("the database says nothing of its settings"))?;
        row.try_get(0).map_err(|error| refused(&error))
    }

    async fn query(&self, text: &str, given: &[Given<'_>]) -> Result<Vec<Row>, Fault> {
        let line = self.lines.get().await?;
        let answered = timeout(self.within, line.query_typed(text, given)).await;
        answer(line, answered)
    }

    async fn execute(&self, text: &str, given: &[Given<'_>]) -> Result<u64, Fault> {
        let line = self.lines.get().await?;
        let answered = timeout(self.within, line.execute_typed(text, given)).await;
        answer(line, answered)
    }
}

fn answer<T>(line: Line, answered: Result<Result<T, Error>, Elapsed>) -> Result<T, Fault> {
    match answered {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => {
            let fault = refused(&error);
            // A line on which something was merely wrong is as good as before.
            if !matches!(fault, Fault::Corrupt(_)) {
                line.give_up();
            }
            Err(fault)
        }
        Err(_) => {
            line.give_up();
            Err(unavailable("the database did not answer in time"))
        }
    }
}

fn refused(error: &Error) -> Fault {
    match Trouble::of(error) {
        Trouble::Overtaken | Trouble::Away(_) => unavailable(fault_of(error)),
        Trouble::Damaged(what) => Fault::Corrupt(what),
    }
}

fn held(row: &Row, shelf: Shelf) -> Result<Listed, Fault> {
    let Read { place, held, .. } = row_at(row, shelf).map_err(|error| refused(&error))?;
    Ok(Listed { tenant: place.tenant, held: held.map_err(|Damaged(what)| Fault::Corrupt(what))? })
}

fn id_at(row: &Row, index: usize) -> Result<[u8; 16], Fault> {
    row.try_get::<_, Uuid>(index).map(Uuid::into_bytes).map_err(|error| refused(&error))
}
