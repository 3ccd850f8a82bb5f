//! Nouns as rows, and rows as nouns.
//!
//! Owns the names of tables and columns, and all SQL that reads or writes one row. Everything here is prepared once per
//! connection: looking a statement up by its text would cost as much as running it.

use countersign_core::nouns::event::Event;
use countersign_core::nouns::user::Realm;
use countersign_core::ports::{Held, Key, Record, Version};
use countersign_core::words::id::{EventId, TenantId};
use countersign_core::words::refusal::Fault;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, ErrorCode, Row, Statement, ToSql};
use std::time::Duration;

/// When trying again may help, after the database or its disk said no.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// The tables of nouns that have a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shelf {
    Tenants,
    Clients,
    Users,
    Factors,
    Challenges,
    Deliveries,
    Limits,
    Providers,
    Templates,
}

impl Shelf {
    pub(super) const ALL: [Self; 9] = [
        Self::Tenants,
        Self::Clients,
        Self::Users,
        Self::Factors,
        Self::Challenges,
        Self::Deliveries,
        Self::Limits,
        Self::Providers,
        Self::Templates,
    ];

    pub(super) const fn table(self) -> &'static str {
        match self {
            Self::Tenants => "tenants",
            Self::Clients => "clients",
            Self::Users => "users",
            Self::Factors => "factors",
            Self::Challenges => "challenges",
            Self::Deliveries => "deliveries",
            Self::Limits => "limits",
            Self::Providers => "providers",
            Self::Templates => "templates",
        }
    }

    /// The column between `version` and `body`, and whether a replacement may change it.
    const fn column(self) -> Option<(&'static str, bool)> {
        match self {
            Self::Tenants | Self::Providers => Some(("name", true)),
            Self::Clients => Some(("client_id", true)),
            Self::Users => Some(("named", true)),
            // A factor never changes hands, and writing the column would touch its index.
            Self::Factors => Some(("owner", false)),
            Self::Challenges => None,
            Self::Deliveries => Some(("due_at", true)),
            Self::Limits => Some(("over_at", true)),
            Self::Templates => Some(("called", true)),
        }
    }

    fn read(self, version: Version, body: &[u8]) -> Result<Held<Record>, Trouble> {
        let noun = match self {
            Self::Tenants => serde_json::from_slice(body).map(Record::Tenant),
            Self::Clients => serde_json::from_slice(body).map(Record::Client),
            Self::Users => serde_json::from_slice(body).map(Record::User),
            Self::Factors => serde_json::from_slice(body).map(Record::Factor),
            Self::Challenges => serde_json::from_slice(body).map(Record::Challenge),
            Self::Deliveries => serde_json::from_slice(body).map(Record::Delivery),
            Self::Limits => serde_json::from_slice(body).map(Record::Limit),
            Self::Providers => serde_json::from_slice(body).map(Record::Provider),
            Self::Templates => serde_json::from_slice(body).map(Record::Template),
        };
        Ok(Held { noun: noun.map_err(|error| Trouble::unreadable(self.table(), &error))?, version })
    }

    /// The noun of a row in which `version, body` begin at `first`.
    pub(super) fn read_row(self, row: &Row<'_>, first: usize) -> Result<Held<Record>, Trouble> {
        let body = row.get_ref(first + 1)?.as_bytes().map_err(|_| Trouble::Damaged(format!("a row of {} has no body", self.table())))?;
        self.read(row.get(first)?, body)
    }
}

/// Where a row is, within its tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spot {
    pub(super) shelf: Shelf,
    pub(super) id: [u8; 16],
}

/// A row as a judge was shown it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shown {
    pub(super) spot: Spot,
    /// Its number in the table, by which it is replaced without looking for its key again.
    pub(super) row: i64,
    pub(super) version: Version,
}

/// How a key finds its rows.
#[derive(Debug, Clone, Copy)]
pub(super) enum Way {
    /// By the primary key.
    Spot(Spot),
    /// A person by name.
    Named([u8; 16]),
    /// The factors of a person.
    Of([u8; 16]),
}

impl Way {
    pub(super) fn of(tenant: TenantId, key: Key) -> Self {
        let spot = |shelf, id: &[u8; 16]| Self::Spot(Spot { shelf, id: *id });
        match key {
            Key::Tenant => spot(Shelf::Tenants, tenant.as_bytes()),
            Key::Client(id) => spot(Shelf::Clients, id.as_bytes()),
            Key::User(id) => spot(Shelf::Users, id.as_bytes()),
            Key::UserNamed(named) => Self::Named(*named.as_bytes()),
            Key::Factor(id) => spot(Shelf::Factors, id.as_bytes()),
            Key::FactorsOf(user) => Self::Of(*user.as_bytes()),
            Key::Challenge(id) => spot(Shelf::Challenges, id.as_bytes()),
            Key::Delivery(id) => spot(Shelf::Deliveries, id.as_bytes()),
            Key::Limit(of) => spot(Shelf::Limits, of.as_bytes()),
            Key::Provider(id) => spot(Shelf::Providers, id.as_bytes()),
            Key::Template(id) => spot(Shelf::Templates, id.as_bytes()),
        }
    }
}

/// Where a record is kept.
pub(super) fn spot(tenant: TenantId, record: &Record) -> Spot {
    let (shelf, id) = match record {
        Record::Tenant(_) => (Shelf::Tenants, *tenant.as_bytes()),
        Record::Client(it) => (Shelf::Clients, *it.id.as_bytes()),
        Record::User(it) => (Shelf::Users, *it.id.as_bytes()),
        Record::Factor(it) => (Shelf::Factors, *it.id.as_bytes()),
        Record::Challenge(it) => (Shelf::Challenges, *it.id.as_bytes()),
        Record::Delivery(it) => (Shelf::Deliveries, *it.id.as_bytes()),
        Record::Limit(it) => (Shelf::Limits, *it.of.as_bytes()),
        Record::Provider(it) => (Shelf::Providers, *it.id.as_bytes()),
        Record::Template(it) => (Shelf::Templates, *it.id.as_bytes()),
    };
    Spot { shelf, id }
}

/// Binds the column by which a record is looked up, where its table has one.
fn bind_column(statement: &mut Statement<'_>, index: usize, record: &Record) -> rusqlite::Result<()> {
    match record {
        Record::Tenant(it) => statement.raw_bind_parameter(index, it.name.as_str()),
        Record::Client(it) => statement.raw_bind_parameter(index, it.client_id.as_str()),
        Record::User(it) => statement.raw_bind_parameter(index, it.named.as_bytes()),
        Record::Factor(it) => statement.raw_bind_parameter(index, it.user.as_bytes()),
        Record::Challenge(_) => Ok(()),
        Record::Delivery(it) => statement.raw_bind_parameter(index, it.due_at().map(|at| at.as_millis())),
        Record::Limit(it) => statement.raw_bind_parameter(index, it.over_at().map(|at| at.as_millis())),
        Record::Provider(it) => statement.raw_bind_parameter(index, it.name.as_str()),
        Record::Template(it) => {
            let realm = match it.realm {
                Realm::Tenant => String::new(),
                Realm::Client(id) => id.to_string(),
            };
            statement.raw_bind_parameter(index, format!("{realm}/{}/{}", it.channel, it.name.to_ascii_lowercase()))
        }
    }
}

fn write_body(record: &Record, into: &mut Vec<u8>) -> Result<(), Trouble> {
    into.clear();
    match record {
        Record::Tenant(it) => serde_json::to_writer(into, it),
        Record::Client(it) => serde_json::to_writer(into, it),
        Record::User(it) => serde_json::to_writer(into, it),
        Record::Factor(it) => serde_json::to_writer(into, it),
        Record::Challenge(it) => serde_json::to_writer(into, it),
        Record::Delivery(it) => serde_json::to_writer(into, it),
        Record::Limit(it) => serde_json::to_writer(into, it),
        Record::Provider(it) => serde_json::to_writer(into, it),
        Record::Template(it) => serde_json::to_writer(into, it),
    }
    .map_err(|_| Trouble::Damaged("a record cannot be written as JSON".into()))
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
    by_key: [Statement<'c>; 9],
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
            let held = shelf.read_row(row, 1)?;
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
    insert: [Statement<'c>; 9],
    replace: [Statement<'c>; 9],
    remove: [Statement<'c>; 9],
    event: Statement<'c>,
    events: Statement<'c>,
    body: Vec<u8>,
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
            body: Vec::with_capacity(1024),
            told: Vec::with_capacity(512),
            told_bodies: Vec::with_capacity(64 << 10),
        })
    }

    /// Puts `record` in; says whether its key and unique names were free.
    pub(super) fn insert(&mut self, tenant: TenantId, record: &Record) -> Result<bool, Trouble> {
        write_body(record, &mut self.body)?;
        let Spot { shelf, id } = spot(tenant, record);
        let statement = &mut self.insert[shelf as usize];
        statement.raw_bind_parameter(1, tenant.as_bytes())?;
        statement.raw_bind_parameter(2, id)?;
        statement.raw_bind_parameter(3, Json(&self.body))?;
        bind_column(statement, 4, record)?;
        Ok(statement.raw_execute()? == 1)
    }

    /// Puts `record` in the place of the version that was shown; says whether its new unique names were free.
    pub(super) fn replace(&mut self, shown: Shown, record: &Record) -> Result<bool, Trouble> {
        write_body(record, &mut self.body)?;
        let statement = &mut self.replace[shown.spot.shelf as usize];
        statement.raw_bind_parameter(1, shown.row)?;
        statement.raw_bind_parameter(2, shown.version)?;
        statement.raw_bind_parameter(3, Json(&self.body))?;
        if matches!(shown.spot.shelf.column(), Some((_, true))) {
            bind_column(statement, 4, record)?;
        }
        Ok(statement.raw_execute()? == 1)
    }

    /// Takes out the version that was shown.
    pub(super) fn remove(&mut self, shown: Shown) -> Result<bool, Trouble> {
        let statement = &mut self.remove[shown.spot.shelf as usize];
        statement.raw_bind_parameter(1, shown.row)?;
        statement.raw_bind_parameter(2, shown.version)?;
        Ok(statement.raw_execute()? == 1)
    }

    /// Adds an event to those that [`Writes::flush`] writes.
    pub(super) fn tell(&mut self, tenant: TenantId, event: &Event) -> Result<(), Trouble> {
        serde_json::to_writer(&mut self.told_bodies, event).map_err(|_| Trouble::Damaged("an event cannot be written as JSON".into()))?;
        self.told.push((tenant, event.id, self.told_bodies.len()));
        Ok(())
    }

    /// Writes the events that were told in this transaction, many with one statement: they all go to the same page.
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
        self.forget();
        Ok(())
    }

    /// Forgets the events of a transaction that does not happen.
    pub(super) fn forget(&mut self) {
        self.told.clear();
        self.told_bodies.clear();
    }
}

fn each<T>(mut make: impl FnMut(Shelf) -> rusqlite::Result<T>) -> rusqlite::Result<[T; 9]> {
    let all = Shelf::ALL.into_iter().map(&mut make).collect::<rusqlite::Result<Vec<T>>>()?;
    Ok(all.try_into().unwrap_or_else(|_| unreachable!("one for each of nine")))
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
    pub(super) fn unreadable(table: &str, error: &serde_json::Error) -> Self {
        // The error's own text quotes what it stumbled over, which may be anything that is kept (invariant 7).
        Self::Damaged(format!("a row of {table} ({:?} error at column {})", error.classify(), error.column()))
    }

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

/// The database or its disk is away.
pub(super) fn unavailable(what: impl Into<String>) -> Fault {
    Fault::Unavailable { what: what.into(), retry_after: AFTER_FAILURE }
}

/// A tenant's id as a row has it.
pub(super) fn tenant_at(row: &Row<'_>, index: usize) -> rusqlite::Result<TenantId> {
    row.get(index).map(TenantId::from_bytes)
}
