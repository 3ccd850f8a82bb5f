//! Rows in SQLite.
//!
//! Owns all SQL that reads or writes one row; tables, columns and bodies are those of [`crate::rows`]. Everything here is prepared once per
//! connection: looking a statement up by its text would cost as much as running it.

use crate::rows::{Column, Damaged, Shelf, Spot, Way, column, unavailable, write_body};
use countersign_core::nouns::event::Event;
use countersign_core::ports::{Held, Record, Version};
use countersign_core::words::id::{EventId, TenantId};
use countersign_core::words::refusal::Fault;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, ErrorCode, Row, Statement, ToSql};

/// The noun of a row in which `version, body` begin at `first`.
pub(super) fn read_row(shelf: Shelf, row: &Row<'_>, first: usize) -> Result<Held<Record>, Trouble> {
    let body = row.get_ref(first + 1)?.as_bytes().map_err(|_| Trouble::Damaged(format!("a row of {} has no body", shelf.table())))?;
    Ok(shelf.read(row.get(first)?, body)?)
}

/// A row as a judge was shown it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shown {
    pub(super) spot: Spot,
    /// Its number in the table, by which it is replaced without looking for its key again.
    pub(super) row: i64,
    pub(super) version: Version,
}

/// Binds the column by which a record is looked up, where its table has one.
fn bind_column(statement: &mut Statement<'_>, index: usize, record: &Record) -> rusqlite::Result<()> {
    match column(record) {
        Column::None => Ok(()),
        Column::Text(text) => statement.raw_bind_parameter(index, text),
        Column::Id(id) => statement.raw_bind_parameter(index, id),
        Column::Millis(millis) => statement.raw_bind_parameter(index, millis),
    }
}

/// Text that is known to be UTF-8, bound without looking at it again.
pub(super) struct Json<'a>(pub(super) &'a [u8]);

impl ToSql for Json<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(ValueRef::Text(self.0)))
    }
}

/// Statements that read by a key.
pub(super) struct Reads<'c> {
    by_key: [Statement<'c>; Shelf::ALL.len()],
    user_named: Statement<'c>,
    factors_of: Statement<'c>,
}

impl<'c> Reads<'c> {
    pub(super) fn prepare(connection: &'c Connection) -> rusqlite::Result<Self> {
        Ok(Self {
            by_key: each(|shelf| {
                connection.prepare(&format!("SELECT row, version, body FROM {} WHERE tenant = ?1 AND id = ?2", shelf.table()))
            })?,
            user_named: connection.prepare("SELECT row, version, body, id FROM users WHERE tenant = ?1 AND named = ?2")?,
            factors_of: connection.prepare("SELECT row, version, body, id FROM factors WHERE tenant = ?1 AND owner = ?2 ORDER BY id")?,
        })
    }

    /// Reads what `way` leads to, and tells `found` where each of it is.
    pub(super) fn find(&mut self, tenant: TenantId, way: Way, mut found: impl FnMut(Shown)) -> Result<Vec<Held<Record>>, Trouble> {
        let (statement, id, shelf) = match &way {
            Way::Spot(spot) => (&mut self.by_key[spot.shelf as usize], &spot.id, spot.shelf),
            Way::Named(named) => (&mut self.user_named, named, Shelf::Users),
            Way::Of(user) => (&mut self.factors_of, user, Shelf::Factors),
        };
        statement.raw_bind_parameter(1, tenant.as_bytes())?;
        statement.raw_bind_parameter(2, id)?;
        let mut rows = statement.raw_query();
        let mut all = Vec::new();
        while let Some(row) = rows.next()? {
            let spot = match way {
                Way::Spot(spot) => spot,
                Way::Named(_) | Way::Of(_) => Spot { shelf, id: row.get(3)? },
            };
            let held = read_row(shelf, row, 1)?;
            found(Shown { spot, row: row.get(0)?, version: held.version });
            all.push(held);
        }
        Ok(all)
    }

    /// The row at `spot`, without the noun.
    pub(super) fn shown(&mut self, tenant: TenantId, spot: Spot) -> Result<Option<Shown>, Trouble> {
        let statement = &mut self.by_key[spot.shelf as usize];
        statement.raw_bind_parameter(1, tenant.as_bytes())?;
        statement.raw_bind_parameter(2, spot.id)?;
        let mut rows = statement.raw_query();
        let Some(row) = rows.next()? else { return Ok(None) };
        Ok(Some(Shown { spot, row: row.get(0)?, version: row.get(1)? }))
    }
}

/// Statements that write one row.
pub(super) struct Writes<'c> {
    insert: [Statement<'c>; Shelf::ALL.len()],
    replace: [Statement<'c>; Shelf::ALL.len()],
    remove: [Statement<'c>; Shelf::ALL.len()],
    event: Statement<'c>,
    events: Statement<'c>,
    stamp: Statement<'c>,
    body: Vec<u8>,
    /// Whether this transaction wrote configuration, and the stamp has to grow.
    configures: bool,
    /// Events of this transaction that are not written yet, and their bodies one after the other.
    told: Vec<(TenantId, EventId, usize)>,
    told_bodies: Vec<u8>,
}

/// Events that are written by one statement.
const TOGETHER: usize = 16;

impl<'c> Writes<'c> {
    pub(super) fn prepare(connection: &'c Connection) -> rusqlite::Result<Self> {
        let insert = |shelf: Shelf| {
            let (column, value) = match shelf.column() {
                Some((name, _)) => (format!(", {name}"), ", ?4"),
                None => (String::new(), ""),
            };
            let table = shelf.table();
            connection.prepare(&format!(
                "INSERT INTO {table} (tenant, id, version, body{column}) VALUES (?1, ?2, 1, ?3{value}) ON CONFLICT DO NOTHING"
            ))
        };
        let replace = |shelf: Shelf| {
            let column = match shelf.column() {
                Some((name, true)) => format!(", {name} = ?4"),
                Some((_, false)) | None => String::new(),
            };
            let table = shelf.table();
            connection
                .prepare(&format!("UPDATE OR IGNORE {table} SET version = version + 1, body = ?3{column} WHERE row = ?1 AND version = ?2"))
        };
        let remove = |shelf: Shelf| connection.prepare(&format!("DELETE FROM {} WHERE row = ?1 AND version = ?2", shelf.table()));
        Ok(Self {
            insert: each(insert)?,
            replace: each(replace)?,
            remove: each(remove)?,
            event: connection.prepare("INSERT INTO events (tenant, id, body) VALUES (?, ?, ?)")?,
            events: connection
                .prepare(&format!("INSERT INTO events (tenant, id, body) VALUES (?, ?, ?){}", ", (?, ?, ?)".repeat(TOGETHER - 1)))?,
            stamp: connection.prepare("UPDATE configuration SET changes = changes + 1")?,
            body: Vec::with_capacity(1024),
            configures: false,
            told: Vec::with_capacity(512),
            told_bodies: Vec::with_capacity(64 << 10),
        })
    }

    /// Puts `record` in; says whether its key and unique names were free.
    pub(super) fn insert(&mut self, tenant: TenantId, record: &Record) -> Result<bool, Trouble> {
        self.body.clear();
        write_body(record, &mut self.body)?;
        let Spot { shelf, id } = Spot::of(tenant, record);
        let statement = &mut self.insert[shelf as usize];
        statement.raw_bind_parameter(1, tenant.as_bytes())?;
        statement.raw_bind_parameter(2, id)?;
        statement.raw_bind_parameter(3, Json(&self.body))?;
        bind_column(statement, 4, record)?;
        let done = statement.raw_execute()? == 1;
        Ok(self.written(shelf, done))
    }

    /// Puts `record` in the place of the version that was shown; says whether its new unique names were free.
    pub(super) fn replace(&mut self, shown: Shown, record: &Record) -> Result<bool, Trouble> {
        self.body.clear();
        write_body(record, &mut self.body)?;
        let statement = &mut self.replace[shown.spot.shelf as usize];
        statement.raw_bind_parameter(1, shown.row)?;
        statement.raw_bind_parameter(2, shown.version)?;
        statement.raw_bind_parameter(3, Json(&self.body))?;
        if matches!(shown.spot.shelf.column(), Some((_, true))) {
            bind_column(statement, 4, record)?;
        }
        let done = statement.raw_execute()? == 1;
        Ok(self.written(shown.spot.shelf, done))
    }

    /// Takes out the version that was shown.
    pub(super) fn remove(&mut self, shown: Shown) -> Result<bool, Trouble> {
        let statement = &mut self.remove[shown.spot.shelf as usize];
        statement.raw_bind_parameter(1, shown.row)?;
        statement.raw_bind_parameter(2, shown.version)?;
        let done = statement.raw_execute()? == 1;
        Ok(self.written(shown.spot.shelf, done))
    }

    fn written(&mut self, shelf: Shelf, done: bool) -> bool {
        self.configures |= done && shelf.is_configuration();
        done
    }

    /// Adds an event to those that [`Writes::flush`] writes.
    pub(super) fn tell(&mut self, tenant: TenantId, event: &Event) -> Result<(), Trouble> {
        serde_json::to_writer(&mut self.told_bodies, event).map_err(|_| Trouble::Damaged("an event cannot be written as JSON".into()))?;
        self.told.push((tenant, event.id, self.told_bodies.len()));
        Ok(())
    }

    /// Writes what the whole transaction has in common: the events that were told in it, many with one statement, because they all go
    /// to the same page, and the stamp, which grows once for all of them.
    pub(super) fn flush(&mut self) -> Result<(), Trouble> {
        let mut begin = 0;
        for group in self.told.chunks(TOGETHER) {
            let together = group.len() == TOGETHER;
            let statement = if together { &mut self.events } else { &mut self.event };
            let mut index = 0;
            for (tenant, id, end) in group {
                statement.raw_bind_parameter(index + 1, tenant.as_bytes())?;
                statement.raw_bind_parameter(index + 2, id.as_bytes())?;
                statement.raw_bind_parameter(index + 3, Json(&self.told_bodies[begin..*end]))?;
                begin = *end;
                if together {
                    index += 3;
                } else {
                    statement.raw_execute()?;
                }
            }
            if together {
                statement.raw_execute()?;
            }
        }
        if self.configures {
            self.stamp.raw_execute()?;
        }
        self.forget();
        Ok(())
    }

    /// Forgets what is to be written for a transaction that does not happen.
    pub(super) fn forget(&mut self) {
        self.configures = false;
        self.told.clear();
        self.told_bodies.clear();
    }
}

fn each<T>(mut make: impl FnMut(Shelf) -> rusqlite::Result<T>) -> rusqlite::Result<[T; Shelf::ALL.len()]> {
    let all = Shelf::ALL.into_iter().map(&mut make).collect::<rusqlite::Result<Vec<T>>>()?;
    Ok(all.try_into().unwrap_or_else(|_| unreachable!("one for each of them")))
}

/// Why the engine could not do something.
#[derive(Debug)]
pub(super) enum Trouble {
    /// SQLite said no.
    Sqlite(rusqlite::Error),
    /// What is kept cannot be read.
    Damaged(String),
}

impl Trouble {
    /// Whether the disk or the file failed, so that the connection may no longer be trusted.
    pub(super) fn is_of_the_disk(&self) -> bool {
        let Self::Sqlite(error) = self else { return false };
        matches!(
            error.sqlite_error_code(),
            Some(ErrorCode::SystemIoFailure | ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::CannotOpen)
        )
    }

    pub(super) fn is_full(&self) -> bool {
        matches!(self, Self::Sqlite(error) if error.sqlite_error_code() == Some(ErrorCode::DiskFull))
    }
}

impl From<rusqlite::Error> for Trouble {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<Damaged> for Trouble {
    fn from(Damaged(what): Damaged) -> Self {
        Self::Damaged(what)
    }
}

impl From<&Trouble> for Fault {
    fn from(trouble: &Trouble) -> Self {
        match trouble {
            Trouble::Damaged(what) => Self::Corrupt(what.clone()),
            Trouble::Sqlite(error) => match error.sqlite_error_code() {
                Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch) => {
                    Self::Corrupt(error.to_string())
                }
                _ => unavailable(error.to_string()),
            },
        }
    }
}

/// A tenant's id as a row has it.
pub(super) fn tenant_at(row: &Row<'_>, index: usize) -> rusqlite::Result<TenantId> {
    row.get(index).map(TenantId::from_bytes)
}
