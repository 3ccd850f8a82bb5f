//! Raw rows, for whoever moves or looks through all of them, whatever they mean.
//!
//! Owns what such work asks of an engine ([`Ledger`]), the order in which it goes ([`Cursor`]), and how it finds out that two engines
//! hold the same ([`Tally`]). It knows no SQL, and neither does [`crate::copy`], which is built on it.

use crate::postgres;
use crate::rows::{Damaged, Shelf};
use crate::sqlite;
use countersign_core::ports::Version;
use countersign_core::words::id::TenantId;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::fmt;

/// Rows that are read at a time.
pub(crate) const PAGE: usize = 1_000;

/// A table that belongs to tenants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Table {
    /// Of nouns that have a version.
    Of(Shelf),
    /// The audit trail.
    Events,
}

impl Table {
    /// All of them, in the order in which they are walked. It is kept in marks by number, so the next one is added at the end.
    pub(crate) const ALL: [Self; 11] = [
        Self::Of(Shelf::Tenants),
        Self::Of(Shelf::Clients),
        Self::Of(Shelf::Users),
        Self::Of(Shelf::Factors),
        Self::Of(Shelf::Challenges),
        Self::Of(Shelf::Deliveries),
        Self::Of(Shelf::Limits),
        Self::Of(Shelf::Providers),
        Self::Of(Shelf::Templates),
        Self::Events,
        Self::Of(Shelf::SignIns),
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Of(shelf) => shelf.table(),
            Self::Events => "events",
        }
    }

    /// The column beside id, version and body.
    pub(crate) fn column(self) -> Option<&'static str> {
        match self {
            Self::Of(shelf) => shelf.column().map(|(name, _)| name),
            Self::Events => None,
        }
    }
}

/// What stands in the column of a row that was read raw. [`crate::rows::Column`] borrows from a noun; here there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Cell {
    /// The table has no such column.
    None,
    /// A name.
    Text(String),
    /// An id, or a fingerprint.
    Id([u8; 16]),
    /// Milliseconds since 1970; none when it will not come.
    Millis(Option<i64>),
}

/// One row, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Raw {
    pub(crate) id: [u8; 16],
    /// Events have none; it is 0 then.
    pub(crate) version: Version,
    pub(crate) cell: Cell,
    pub(crate) body: String,
}

/// Rows of one tenant and table, in the order of their ids.
#[derive(Debug)]
pub(crate) struct Sheet {
    pub(crate) tenant: TenantId,
    pub(crate) table: Table,
    pub(crate) rows: Vec<Raw>,
}

/// Work on a house as a whole that has to be finished before anybody serves it. While it lasts, a note of this name is in `marks`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfinished {
    /// Another house is being copied into it.
    Copy,
    /// What may not come back is being ended.
    Restore,
}

impl Unfinished {
    const ALL: [Self; 2] = [Self::Copy, Self::Restore];

    pub(crate) const fn mark(self) -> &'static str {
        match self {
            Self::Copy => "copy",
            Self::Restore => "restore",
        }
    }

    /// The work that a mark of this name stands for, if any.
    pub(crate) fn of(mark: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.mark() == mark)
    }
}

impl fmt::Display for Unfinished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Copy => "a copy into it is not finished",
            Self::Restore => "ending what may not come back after a restore is not finished",
        })
    }
}

/// Why work on a whole database did not begin, or did not go on. What had been written before is whole.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The file cannot be used.
    #[error(transparent)]
    File(#[from] sqlite::OpenError),
    /// The database server cannot be used.
    #[error(transparent)]
    Server(#[from] postgres::OpenError),
    /// An older program shaped it, and nobody may write to it now.
    #[error("the database has schema version {database}, and this program copies version {program}")]
    Older {
        /// The version of the database.
        database: u32,
        /// The version that this program knows.
        program: u32,
    },
    /// A server or a command is at work on it.
    #[error("a server or another command is at work on it")]
    InUse,
    /// It does not answer, or has no room. Trying again may help.
    #[error("{0}")]
    Away(String),
    /// What is kept cannot be read.
    #[error("what is kept is damaged: {0}")]
    Damaged(String),
    /// It is not as it was a moment ago.
    #[error("somebody else has changed it meanwhile")]
    Overtaken,
}

impl From<Damaged> for LedgerError {
    fn from(Damaged(what): Damaged) -> Self {
        Self::Damaged(what)
    }
}

/// An engine as whoever moves everything sees it. All of it blocks.
pub(crate) trait Ledger: Send {
    /// Where it is, without a password: always the same for the same database.
    fn name(&self) -> &str;

    /// Roughly how many rows there are. For a bar on a terminal, so it need not be right.
    fn roughly(&mut self) -> Result<u64, LedgerError>;

    /// The tenant with the lowest id above `after` that has a row in any table.
    fn tenant_after(&mut self, after: TenantId) -> Result<Option<TenantId>, LedgerError>;

    /// The first [`PAGE`] rows with an id above `after`; fewer only where there are no more.
    fn page(&mut self, tenant: TenantId, table: Table, after: [u8; 16]) -> Result<Vec<Raw>, LedgerError>;

    /// What the mark says.
    fn mark(&mut self, work: Unfinished) -> Result<Option<String>, LedgerError>;

    /// Puts rows in, and replaces the mark of a copy that was `was` by one that is `is`: all of it in one durable transaction, or nothing.
    /// [`LedgerError::Overtaken`] when the mark is not `was`, or one of the rows is there.
    fn put(&mut self, sheets: &[Sheet], was: Option<&str>, is: Option<&str>) -> Result<(), LedgerError>;

    /// Gets ready to be read after much was put in.
    fn settle(&mut self) -> Result<(), LedgerError> {
        Ok(())
    }
}

/// How far a walk through all rows has come: all up to here have been seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cursor {
    tenant: TenantId,
    /// Its place in [`Table::ALL`]; past the end, the tenant is done.
    table: usize,
    after: [u8; 16],
}

impl Cursor {
    /// Before all rows: no id is nil, for ids begin with a time.
    pub(crate) fn start() -> Self {
        Self { tenant: TenantId::from_bytes([0; 16]), table: Table::ALL.len(), after: [0; 16] }
    }

    /// The next rows; nothing at the end.
    pub(crate) fn next(&mut self, ledger: &mut dyn Ledger) -> Result<Option<Sheet>, LedgerError> {
        loop {
            let Some(&table) = Table::ALL.get(self.table) else {
                let Some(tenant) = ledger.tenant_after(self.tenant)? else { return Ok(None) };
                *self = Self { tenant, table: 0, after: [0; 16] };
                continue;
            };
            let tenant = self.tenant;
            let rows = ledger.page(tenant, table, self.after)?;
            match rows.last() {
                Some(last) if rows.len() == PAGE => self.after = last.id,
                _ => *self = Self { tenant, table: self.table + 1, after: [0; 16] },
            }
            if !rows.is_empty() {
                return Ok(Some(Sheet { tenant, table, rows }));
            }
        }
    }
}

/// What tells whether two engines hold the same rows of a tenant and table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many there are.
    pub rows: u64,
    /// SHA-256 over id, version, column and body of each, in the order of ids.
    pub sha256: [u8; 32],
}

/// Reads all rows of a tenant and table, and counts them. `seen` hears of each page, and ends the work when it says so.
pub(crate) fn tally(
    ledger: &mut dyn Ledger,
    tenant: TenantId,
    table: Table,
    mut seen: impl FnMut(u64) -> bool,
) -> Result<Option<Tally>, LedgerError> {
    let (mut rows, mut hash, mut after) = (0, Sha256::new(), [0; 16]);
    loop {
        let page = ledger.page(tenant, table, after)?;
        page.iter().for_each(|row| add(&mut hash, row));
        rows += page.len() as u64;
        if !seen(page.len() as u64) {
            return Ok(None);
        }
        match page.last() {
            Some(last) if page.len() == PAGE => after = last.id,
            _ => return Ok(Some(Tally { rows, sha256: hash.finalize().into() })),
        }
    }
}

/// Lengths are part of it, so that nothing can shift from one row into the next.
fn add(hash: &mut Sha256, row: &Raw) {
    hash.update(row.id);
    hash.update(row.version.to_be_bytes());
    let cell: (u8, &[u8]) = match &row.cell {
        Cell::None => (0, &[]),
        Cell::Text(text) => (1, text.as_bytes()),
        Cell::Id(id) => (2, id),
        Cell::Millis(None) => (3, &[]),
        Cell::Millis(Some(millis)) => (4, &millis.to_be_bytes()),
    };
    for (kind, part) in [cell, (5, row.body.as_bytes())] {
        hash.update([kind]);
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
}
