//! The embedded engine, row by row: for copies.
//!
//! A file is held alone: its connection locks it exclusively before it reads, so nobody else has it open now, and nobody opens it until
//! this is closed or its process is gone.

use super::rows::{Json, Trouble, tenant_at};
use super::{OpenError, Options, PAGE_BYTES, connect, make_private, migrations};
use crate::ledger::{Cell, Ledger, LedgerError, PAGE, Raw, Sheet, Table, Unfinished};
use crate::rows::Shelf;
use countersign_core::words::id::TenantId;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension as _, Row, TransactionBehavior};
use std::io;
use std::path::Path;
use std::time::Duration;

/// How long to wait for somebody who has the file open. Servers have it open until they stop.
const BUSY: Duration = Duration::from_millis(250);
/// Pages of the log after which it is carried into the file.
const CHECKPOINT_PAGES: u32 = 8_192;

/// A file whose rows are moved.
pub(crate) struct SqliteLedger {
    connection: Connection,
    name: String,
}

impl SqliteLedger {
    /// Opens a file to read. Nothing in it is written but what SQLite writes for whoever opens a database, such as the end of a log.
    pub(crate) fn to_read(path: &Path) -> Result<Self, LedgerError> {
        let connection = alone(path)?;
        connection.pragma_update(None, "query_only", true)?;
        let database = migrations::of(&connection)?;
        if database < migrations::KNOWN {
            return Err(LedgerError::Older { database, program: migrations::KNOWN });
        }
        migrations::refuse_unfinished(&connection)?;
        Self::new(connection, path)
    }

    /// Opens a file to fill, and makes it when there is none.
    pub(crate) fn to_fill(path: &Path) -> Result<Self, LedgerError> {
        make_private(path).map_err(|error| OpenError::File { path: path.to_owned(), error })?;
        let mut connection = alone(path)?;
        migrations::refuse_foreign(&connection)?;
        connection.pragma_update(None, "page_size", PAGE_BYTES)?;
        connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
        migrations::run(&mut connection)?;
        if migrations::unfinished(&connection)? == Some(Unfinished::Restore) {
            return Err(OpenError::Unfinished(Unfinished::Restore).into());
        }
        Self::new(connection, path)
    }

    fn new(connection: Connection, path: &Path) -> Result<Self, LedgerError> {
        let absolute = path.canonicalize().map_err(|error| OpenError::File { path: path.to_owned(), error })?;
        Ok(Self { connection, name: absolute.display().to_string() })
    }
}

/// Opens a file that nobody else has open, and keeps it so.
fn alone(path: &Path) -> Result<Connection, LedgerError> {
    let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE, &Options { busy: BUSY, ..Options::default() });
    let connection = connection.map_err(|error| match error.sqlite_error_code() {
        Some(ErrorCode::CannotOpen) if !path.exists() => {
            LedgerError::File(OpenError::File { path: path.to_owned(), error: io::ErrorKind::NotFound.into() })
        }
        _ => error.into(),
    })?;
    connection.pragma_update_and_check(None, "locking_mode", "EXCLUSIVE", |_| Ok(()))?;
    // The lock comes with the first look into the file.
    connection.query_row("SELECT count(*) FROM sqlite_schema", (), |_| Ok(()))?;
    Ok(connection)
}

impl From<rusqlite::Error> for LedgerError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::InUse,
            Some(ErrorCode::ConstraintViolation) => Self::Overtaken,
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::TypeMismatch) => Self::Damaged(error.to_string()),
            Some(_) => Self::Away(error.to_string()),
            // Not SQLite's own: a value is not of its column's kind. The text does not quote it.
            None => Self::Damaged(error.to_string()),
        }
    }
}

impl From<Trouble> for LedgerError {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Sqlite(error) => error.into(),
            Trouble::Damaged(what) => Self::Damaged(what),
        }
    }
}

impl Ledger for SqliteLedger {
    fn name(&self) -> &str {
        &self.name
    }

    fn roughly(&mut self) -> Result<u64, LedgerError> {
        let newest = Table::ALL.map(|it| format!("(SELECT coalesce(max(row), 0) FROM {})", it.name())).join(" + ");
        let rows: i64 = self.connection.query_row(&format!("SELECT {newest}"), (), |row| row.get(0))?;
        Ok(rows.max(0).unsigned_abs())
    }

    fn tenant_after(&mut self, after: TenantId) -> Result<Option<TenantId>, LedgerError> {
        let nexts = Table::ALL.map(|it| format!("SELECT min(tenant) AS tenant FROM {} WHERE tenant > ?1", it.name())).join(" UNION ALL ");
        let mut statement =
            self.connection.prepare_cached(&format!("SELECT tenant FROM ({nexts}) WHERE tenant IS NOT NULL ORDER BY 1 LIMIT 1"))?;
        Ok(statement.query_row([after.as_bytes()], |row| tenant_at(row, 0)).optional()?)
    }

    fn page(&mut self, tenant: TenantId, table: Table, after: [u8; 16]) -> Result<Vec<Raw>, LedgerError> {
        let version = if matches!(table, Table::Events) { "0" } else { "version" };
        let (name, column) = (table.name(), table.column().unwrap_or("NULL"));
        let mut statement = self.connection.prepare_cached(&format!(
            "SELECT id, body, {version}, {column} FROM {name} WHERE tenant = ?1 AND id > ?2 ORDER BY id LIMIT {PAGE}"
        ))?;
        let rows = statement.query_map((tenant.as_bytes(), after), |row| raw_at(row, table))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    fn mark(&mut self, work: Unfinished) -> Result<Option<String>, LedgerError> {
        Ok(self.connection.query_row("SELECT body FROM marks WHERE name = ?1", [work.mark()], |row| row.get(0)).optional()?)
    }

    fn put(&mut self, sheets: &[Sheet], was: Option<&str>, is: Option<&str>) -> Result<(), LedgerError> {
        let name = Unfinished::Copy.mark();
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let changed = match (was, is) {
            (None, None) => 1,
            (None, Some(is)) => transaction.execute("INSERT INTO marks VALUES (?1, ?2) ON CONFLICT DO NOTHING", [name, is])?,
            (Some(was), None) => transaction.execute("DELETE FROM marks WHERE name = ?1 AND body = ?2", [name, was])?,
            (Some(was), Some(is)) => transaction.execute("UPDATE marks SET body = ?3 WHERE name = ?1 AND body = ?2", [name, was, is])?,
        };
        if changed != 1 {
            return Err(LedgerError::Overtaken);
        }
        sheets.iter().try_for_each(|sheet| insert(&transaction, sheet))?;
        Ok(transaction.commit()?)
    }
}

fn insert(connection: &Connection, sheet: &Sheet) -> rusqlite::Result<()> {
    let versioned = !matches!(sheet.table, Table::Events);
    let columns = [Some("tenant"), Some("id"), Some("body"), versioned.then_some("version"), sheet.table.column()];
    let columns: Vec<_> = columns.into_iter().flatten().collect();
    let places = vec!["?"; columns.len()].join(", ");
    let table = sheet.table.name();
    let mut statement = connection.prepare_cached(&format!("INSERT INTO {table} ({}) VALUES ({places})", columns.join(", ")))?;
    for row in &sheet.rows {
        statement.raw_bind_parameter(1, sheet.tenant.as_bytes())?;
        statement.raw_bind_parameter(2, row.id)?;
        statement.raw_bind_parameter(3, Json(row.body.as_bytes()))?;
        if versioned {
            statement.raw_bind_parameter(4, row.version)?;
        }
        match &row.cell {
            Cell::None => {}
            Cell::Text(text) => statement.raw_bind_parameter(5, text)?,
            Cell::Id(id) => statement.raw_bind_parameter(5, id)?,
            Cell::Millis(millis) => statement.raw_bind_parameter(5, millis)?,
        }
        statement.raw_execute()?;
    }
    Ok(())
}

/// A row that is `id, body, version` and the column of its table.
fn raw_at(row: &Row<'_>, table: Table) -> rusqlite::Result<Raw> {
    let cell = match table {
        Table::Events | Table::Of(Shelf::Challenges) => Cell::None,
        Table::Of(Shelf::Tenants | Shelf::Clients | Shelf::Providers | Shelf::Templates) => Cell::Text(row.get(3)?),
        Table::Of(Shelf::Users | Shelf::Factors) => Cell::Id(row.get(3)?),
        Table::Of(Shelf::Deliveries | Shelf::Limits | Shelf::SignIns) => Cell::Millis(row.get(3)?),
    };
    Ok(Raw { id: row.get(0)?, body: row.get(1)?, version: row.get(2)?, cell })
}
