//! A database server, row by row: for copies, and for what has to be done to all rows after a restore.
//!
//! Everything is asked on one line, one thing after the other, and whoever asks blocks. What is written together is one transaction; a
//! line on which something failed is given up, and the transaction with it.

use super::connect::{self, Line, Lines};
use super::sql::uuid;
use super::trouble::{Trouble, fault_of};
use super::{OpenError, Options, migrations};
use crate::ledger::{Cell, Ledger, LedgerError, PAGE, Raw, Sheet, Table, Unfinished};
use crate::rows::Shelf;
use countersign_core::words::id::TenantId;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::timeout;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Error, Row};
use uuid::Uuid;

/// How long the database may take for one page. It is not on the way of a request, and a commit may wait for a standby.
const WITHIN: Duration = Duration::from_secs(60);

/// What the nodes of a house call themselves at the database, and what whoever works on all of it does.
const NODE: &str = "countersign";
const MOVER: &str = "countersign, moving";

/// A database whose rows are moved.
pub(crate) struct PostgresLedger {
    lines: Lines,
    runtime: Handle,
    name: String,
    /// What other nodes of this house may call themselves.
    nodes: Vec<String>,
    next_born: i64,
}

type Given<'a> = (&'a (dyn ToSql + Sync), Type);

impl PostgresLedger {
    /// Opens a database to read. Nothing in it is written.
    pub(crate) fn to_read(options: &Options) -> Result<Self, LedgerError> {
        let it = Self::new(options)?;
        it.ask(async |line| {
            let database = migrations::of(line).await?;
            if database < migrations::KNOWN {
                return Err(LedgerError::Older { database, program: migrations::KNOWN });
            }
            Ok(migrations::refuse_unfinished(line).await?)
        })?;
        it.refuse_nodes()?;
        Ok(it)
    }

    /// Opens a database to fill, and gives it its tables where it has none.
    pub(crate) fn to_fill(options: &Options) -> Result<Self, LedgerError> {
        let it = Self::new(options)?;
        it.refuse_nodes()?;
        it.ask(async |line| {
            migrations::run(line).await?;
            match migrations::unfinished(line).await? {
                Some(work @ Unfinished::Restore) => Err(OpenError::Unfinished(work).into()),
                Some(Unfinished::Copy) | None => Ok(()),
            }
        })?;
        Ok(it)
    }

    /// Connects, and looks whether the database may be trusted.
    pub(super) fn new(options: &Options) -> Result<Self, LedgerError> {
        let mut config = connect::config(options)?;
        let mut nodes = vec![NODE.to_owned()];
        nodes.extend(config.get_application_name().map(str::to_owned));
        config.application_name(MOVER);
        let place = connect::place(&config);
        let options = Options { connections: 1, within: WITHIN, ..options.clone() };
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|error| LedgerError::Away(format!("there is no chance to draw from: {error}")))?;
        let mut it = Self {
            lines: Lines::new(config, &options)?,
            runtime: Handle::current(),
            name: String::new(),
            nodes,
            next_born: i64::from_le_bytes(random) >> 1,
        };
        // Tables of several houses may lie in one database, each in a schema of its own.
        let schema: Option<String> = it.ask(async |line| Ok(line.query_typed_one("SELECT current_schema()", &[]).await?.try_get(0)?))?;
        it.name = format!("postgres://{place}, schema {}", schema.unwrap_or_default());
        Ok(it)
    }

    /// Refuses a database on which a node or a command is at work.
    pub(super) fn refuse_nodes(&self) -> Result<(), LedgerError> {
        let text = "SELECT count(*) FROM pg_stat_activity \
                    WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name = ANY($1)";
        let nodes: i64 = self.ask(async |line| Ok(line.query_typed_one(text, &[(&self.nodes, Type::TEXT_ARRAY)]).await?.try_get(0)?))?;
        if nodes > 0 { Err(LedgerError::InUse) } else { Ok(()) }
    }

    /// A birth for one more row.
    pub(super) fn draw_born(&mut self) -> i64 {
        self.next_born = self.next_born.wrapping_add(1);
        self.next_born
    }

    /// Lends the line to `ask`, and gives it up when it did not end well.
    pub(super) fn ask<T>(&self, ask: impl AsyncFnOnce(&Line) -> Result<T, LedgerError>) -> Result<T, LedgerError> {
        self.runtime.block_on(async {
            let line = self.lines.open().await?;
            let asked = timeout(WITHIN, ask(&line)).await.unwrap_or_else(|_| Err(LedgerError::Away("it does not answer in time".into())));
            if asked.is_err() {
                line.give_up();
            }
            asked
        })
    }
}

impl From<Error> for LedgerError {
    fn from(error: Error) -> Self {
        match Trouble::of(&error) {
            Trouble::Overtaken => Self::Overtaken,
            Trouble::Away(what) => Self::Away(what),
            Trouble::Damaged(_) => Self::Damaged(fault_of(&error)),
        }
    }
}

impl Ledger for PostgresLedger {
    fn name(&self) -> &str {
        &self.name
    }

    fn roughly(&mut self) -> Result<u64, LedgerError> {
        let tables: Vec<&str> = Table::ALL.into_iter().map(Table::name).collect();
        // What nobody has counted yet is -1.
        let text =
            "SELECT sum(greatest(reltuples, 0))::bigint FROM pg_class WHERE oid = ANY(SELECT name::regclass FROM unnest($1) AS t(name))";
        let rows: i64 = self.ask(async |line| Ok(line.query_typed_one(text, &[(&tables, Type::TEXT_ARRAY)]).await?.try_get(0)?))?;
        Ok(rows.unsigned_abs())
    }

    fn tenant_after(&mut self, after: TenantId) -> Result<Option<TenantId>, LedgerError> {
        let nexts = Table::ALL.map(|it| format!("(SELECT tenant FROM {} WHERE tenant > $1 ORDER BY tenant LIMIT 1)", it.name()));
        let text = format!("SELECT tenant FROM ({}) AS t ORDER BY tenant LIMIT 1", nexts.join(" UNION ALL "));
        let row = self.ask(async |line| Ok(line.query_typed(&text, &[(&uuid(after.as_bytes()), Type::UUID)]).await?.into_iter().next()))?;
        row.map(|row| Ok(TenantId::from_bytes(row.try_get::<_, Uuid>(0)?.into_bytes()))).transpose()
    }

    fn page(&mut self, tenant: TenantId, table: Table, after: [u8; 16]) -> Result<Vec<Raw>, LedgerError> {
        let version = if matches!(table, Table::Events) { "0::bigint" } else { "version" };
        let (name, column) = (table.name(), table.column().unwrap_or("NULL"));
        let text = format!("SELECT id, body, {version}, {column} FROM {name} WHERE tenant = $1 AND id > $2 ORDER BY id LIMIT {PAGE}");
        let given: [Given<'_>; 2] = [(&uuid(tenant.as_bytes()), Type::UUID), (&uuid(&after), Type::UUID)];
        let rows = self.ask(async |line| Ok(line.query_typed(&text, &given).await?))?;
        rows.iter().map(|row| Ok(raw_at(row, table)?)).collect()
    }

    fn mark(&mut self, work: Unfinished) -> Result<Option<String>, LedgerError> {
        let text = "SELECT body FROM marks WHERE name = $1";
        let row = self.ask(async |line| Ok(line.query_typed(text, &[(&work.mark(), Type::TEXT)]).await?.into_iter().next()))?;
        Ok(row.map(|row| row.try_get(0)).transpose()?)
    }

    fn put(&mut self, sheets: &[Sheet], was: Option<&str>, is: Option<&str>) -> Result<(), LedgerError> {
        let borns: Vec<Vec<i64>> = sheets.iter().map(|it| it.rows.iter().map(|_| self.draw_born()).collect()).collect();
        self.ask(async |line| {
            line.batch_execute("BEGIN ISOLATION LEVEL READ COMMITTED").await?;
            swap_mark(line, Unfinished::Copy, was, is).await?;
            for (sheet, borns) in sheets.iter().zip(borns) {
                insert(line, sheet, &borns).await?;
            }
            Ok(line.batch_execute("COMMIT").await?)
        })
    }

    fn settle(&mut self) -> Result<(), LedgerError> {
        // Nobody has counted the rows yet, and without that the database may choose to sort a whole table for each page of it.
        let tables = Table::ALL.map(Table::name).join(", ");
        self.ask(async |line| Ok(line.batch_execute(&format!("ANALYZE {tables}")).await?))
    }
}

/// Replaces a mark, in the transaction that is under way.
async fn swap_mark(line: &Line, work: Unfinished, was: Option<&str>, is: Option<&str>) -> Result<(), LedgerError> {
    let name = work.mark();
    let mut given: Vec<Given<'_>> = vec![(&name, Type::TEXT)];
    given.extend([&was, &is].into_iter().filter(|it| it.is_some()).map(|it| (it as &(dyn ToSql + Sync), Type::TEXT)));
    let text = match (was, is) {
        (None, None) => return Ok(()),
        (None, Some(_)) => "INSERT INTO marks (name, body) VALUES ($1, $2) ON CONFLICT DO NOTHING",
        (Some(_), None) => "DELETE FROM marks WHERE name = $1 AND body = $2",
        (Some(_), Some(_)) => "UPDATE marks SET body = $3 WHERE name = $1 AND body = $2",
    };
    if line.execute_typed(text, &given).await? == 1 { Ok(()) } else { Err(LedgerError::Overtaken) }
}

/// Puts rows in, each with a birth of its own.
async fn insert(line: &Line, sheet: &Sheet, borns: &[i64]) -> Result<(), LedgerError> {
    let rows = &sheet.rows;
    let tenant = uuid(sheet.tenant.as_bytes());
    let ids: Vec<Uuid> = rows.iter().map(|row| uuid(&row.id)).collect();
    let bodies: Vec<&str> = rows.iter().map(|row| row.body.as_str()).collect();
    let versions: Vec<i64> = rows.iter().map(|row| row.version).collect();
    let cells = Cells::of(rows);
    let (mut columns, mut arrays) = (vec!["tenant", "id", "body"], vec!["$2", "$3"]);
    let mut given: Vec<Given<'_>> = vec![(&tenant, Type::UUID), (&ids, Type::UUID_ARRAY), (&bodies, Type::TEXT_ARRAY)];
    if !matches!(sheet.table, Table::Events) {
        columns.extend(["version", "born"]);
        arrays.extend(["$4", "$5"]);
        given.extend([(&versions as &(dyn ToSql + Sync), Type::INT8_ARRAY), (&borns as &(dyn ToSql + Sync), Type::INT8_ARRAY)]);
    }
    if let (Some(column), Some(cells)) = (sheet.table.column(), cells.given()) {
        columns.push(column);
        arrays.push("$6");
        given.push(cells);
    }
    let (table, columns, arrays) = (sheet.table.name(), columns.join(", "), arrays.join(", "));
    line.execute_typed(&format!("INSERT INTO {table} ({columns}) SELECT $1, * FROM unnest({arrays})"), &given).await?;
    Ok(())
}

/// The cells of many rows of one table.
enum Cells<'a> {
    None,
    Texts(Vec<&'a str>),
    Ids(Vec<Uuid>),
    Millis(Vec<Option<i64>>),
}

impl<'a> Cells<'a> {
    fn of(rows: &'a [Raw]) -> Self {
        let (mut texts, mut ids, mut millis) = (Vec::new(), Vec::new(), Vec::new());
        for row in rows {
            match &row.cell {
                Cell::None => {}
                Cell::Text(text) => texts.push(text.as_str()),
                Cell::Id(id) => ids.push(uuid(id)),
                Cell::Millis(at) => millis.push(*at),
            }
        }
        match (texts.is_empty(), ids.is_empty(), millis.is_empty()) {
            (true, true, true) => Self::None,
            (false, ..) => Self::Texts(texts),
            (_, false, _) => Self::Ids(ids),
            (.., false) => Self::Millis(millis),
        }
    }

    fn given(&self) -> Option<Given<'_>> {
        match self {
            Self::None => None,
            Self::Texts(texts) => Some((texts, Type::TEXT_ARRAY)),
            Self::Ids(ids) => Some((ids, Type::UUID_ARRAY)),
            Self::Millis(millis) => Some((millis, Type::INT8_ARRAY)),
        }
    }
}

/// A row that is `id, body, version` and the column of its table.
fn raw_at(row: &Row, table: Table) -> Result<Raw, Error> {
    let cell = match table {
        Table::Events | Table::Of(Shelf::Challenges) => Cell::None,
        Table::Of(Shelf::Tenants | Shelf::Clients | Shelf::Providers | Shelf::Templates) => Cell::Text(row.try_get(3)?),
        Table::Of(Shelf::Users | Shelf::Factors) => Cell::Id(row.try_get::<_, Uuid>(3)?.into_bytes()),
        Table::Of(Shelf::Deliveries | Shelf::Limits | Shelf::SignIns) => Cell::Millis(row.try_get(3)?),
    };
    Ok(Raw { id: row.try_get::<_, Uuid>(0)?.into_bytes(), body: row.try_get(1)?, version: row.try_get(2)?, cell })
}
