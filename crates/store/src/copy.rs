//! Moving a house from one database to another, whatever their engines.
//!
//! Owns the order of things: nothing is written unless the target is empty or holds a part of this very copy; rows and the mark that
//! tells how far it has come are written together, so whoever ends it at any moment can go on with it; and the mark goes only when both
//! sides were read again and hold the same. Until then no server starts on the target.

use crate::ledger::{Cursor, Ledger, LedgerError, Table, Tally, Unfinished, tally};
use crate::postgres::{self, PostgresLedger};
use crate::rows::Shelf;
use crate::sqlite::{Going, SqliteLedger};
use countersign_core::nouns::tenant::Tenant;
use countersign_core::ports::Record;
use countersign_core::words::id::TenantId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// Rows after which a transaction is closed; the page that it ends with may have some more.
const PARCEL: u64 = 5_000;
/// Differences that are told one by one.
const TOLD: usize = 100;

/// One side of a copy. A file is held for as long as this lives: no server and no command opens it meanwhile.
pub struct Side(Box<dyn Ledger>);

impl Side {
    /// A file to read. Nothing in it changes.
    ///
    /// # Errors
    /// [`LedgerError`] says why it cannot be read, or not now.
    pub fn file_to_read(path: &Path) -> Result<Self, LedgerError> {
        Ok(Self(Box::new(SqliteLedger::to_read(path)?)))
    }

    /// A file to fill. It is made when there is none, readable by its owner only.
    ///
    /// # Errors
    /// [`LedgerError`] says why it cannot be filled, or not now.
    pub fn file_to_fill(path: &Path) -> Result<Self, LedgerError> {
        Ok(Self(Box::new(SqliteLedger::to_fill(path)?)))
    }

    /// A database on a server, to read. Nothing in it changes. To be called, and used, beside a runtime that runs on another thread.
    ///
    /// # Errors
    /// [`LedgerError`] says why it cannot be read, or not now.
    pub fn database_to_read(options: &postgres::Options) -> Result<Self, LedgerError> {
        Ok(Self(Box::new(PostgresLedger::to_read(options)?)))
    }

    /// A database on a server, to fill; it gets its tables where it has none. To be called, and used, as the other.
    ///
    /// # Errors
    /// [`LedgerError`] says why it cannot be filled, or not now.
    pub fn database_to_fill(options: &postgres::Options) -> Result<Self, LedgerError> {
        Ok(Self(Box::new(PostgresLedger::to_fill(options)?)))
    }

    /// Where it is, without a password.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.name()
    }

    /// Shows every tenant to `each`.
    ///
    /// # Errors
    /// [`CopyFault::Ledger`] when one cannot be read.
    pub fn tenants(&mut self, each: impl FnMut(Tenant)) -> Result<(), CopyFault> {
        tenants(&mut *self.0, each).at(self.name())
    }
}

/// Shows every tenant to `each`, in the order of their ids.
pub(crate) fn tenants(ledger: &mut dyn Ledger, mut each: impl FnMut(Tenant)) -> Result<(), LedgerError> {
    let mut after = TenantId::from_bytes([0; 16]);
    while let Some(tenant) = ledger.tenant_after(after)? {
        for row in ledger.page(tenant, Table::Of(Shelf::Tenants), [0; 16])? {
            if let Record::Tenant(it) = Shelf::Tenants.read(row.version, row.body.as_bytes())?.noun {
                each(it);
            }
        }
        after = tenant;
    }
    Ok(())
}

/// Why a copy did not come to its end. Running it again goes on with it.
#[derive(Debug, thiserror::Error)]
pub enum CopyFault {
    /// One of the two did not do its part.
    #[error("{at}: {why}")]
    Ledger {
        /// Which of them.
        at: String,
        /// Why not.
        why: LedgerError,
    },
    /// There is something in the target that no copy has put there.
    #[error("{0} is not empty")]
    NotEmpty(String),
    /// The target holds a part of another copy.
    #[error("{to} holds an unfinished copy of {other}")]
    OtherCopy {
        /// The target.
        to: String,
        /// The source of that copy.
        other: String,
    },
    /// Both are the same.
    #[error("{0} cannot be copied to itself")]
    Itself(String),
    /// Whoever was told of the progress said so.
    #[error("it was stopped")]
    Stopped,
}

/// Says at which of the two something failed.
trait At<T> {
    fn at(self, name: &str) -> Result<T, CopyFault>;
}

impl<T> At<T> for Result<T, LedgerError> {
    fn at(self, name: &str) -> Result<T, CopyFault> {
        self.map_err(|why| CopyFault::Ledger { at: name.to_owned(), why })
    }
}

/// What the mark of an unfinished copy says. As it was written last it is the key to go on: two copies cannot both.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Mark {
    /// The name of the source.
    from: String,
    /// Everything up to here is there.
    cursor: Cursor,
    /// Rows that are there.
    rows: u64,
}

impl Mark {
    fn text(&self) -> Result<String, LedgerError> {
        serde_json::to_string(self).map_err(|_| LedgerError::Damaged("a mark cannot be written as JSON".into()))
    }
}

/// What a copy has done.
#[derive(Debug, Default)]
pub struct Copied {
    /// Whether it went on with one that had been begun before.
    pub resumed: bool,
    /// Rows that it carried over.
    pub carried: u64,
    /// Tenants of the source, or of the target where that has more.
    pub tenants: u64,
    /// Rows of the source, by table.
    pub rows: BTreeMap<&'static str, u64>,
    /// Where the two differ; when nowhere, the copy is finished. Of many only the first are here.
    pub differences: Vec<Difference>,
    /// In how many places they differ.
    pub differ: u64,
}

/// A tenant's rows of one table that are not the same on both sides.
#[derive(Debug)]
pub struct Difference {
    /// Whose.
    pub tenant: TenantId,
    /// Of which table.
    pub table: &'static str,
    /// What the source has.
    pub from: Tally,
    /// What the target has.
    pub to: Tally,
}

/// Copies everything, or goes on with it, and looks whether both sides hold the same then. Blocks until that is done.
///
/// # Errors
/// [`CopyFault`]; what was copied until then stays, and so does the mark.
pub fn copy(from: &mut Side, to: &mut Side, copying: &Going, comparing: &Going) -> Result<Copied, CopyFault> {
    let (from, to) = (&mut *from.0, &mut *to.0);
    if from.name() == to.name() {
        return Err(CopyFault::Itself(from.name().to_owned()));
    }
    let (mut mark, resumed) = begin(from, to)?;
    let carried = carry(from, to, &mut mark, copying)?;
    to.settle().at(to.name())?;
    let copied = compare(from, to, comparing)?;
    if copied.differ == 0 {
        let was = mark.text().at(to.name())?;
        to.put(&[], Some(&was), None).at(to.name())?;
    }
    Ok(Copied { resumed, carried, ..copied })
}

/// Sets the mark in an empty target, or reads the one that is there. Says whether it goes on with a copy.
fn begin(from: &dyn Ledger, to: &mut dyn Ledger) -> Result<(Mark, bool), CopyFault> {
    if let Some(text) = to.mark(Unfinished::Copy).at(to.name())? {
        let mark = serde_json::from_str(&text).map_err(|_| LedgerError::Damaged("the mark of a copy is not as it was written".into()));
        let mark: Mark = mark.at(to.name())?;
        if mark.from != from.name() {
            return Err(CopyFault::OtherCopy { to: to.name().to_owned(), other: mark.from });
        }
        return Ok((mark, true));
    }
    if to.tenant_after(TenantId::from_bytes([0; 16])).at(to.name())?.is_some() {
        return Err(CopyFault::NotEmpty(to.name().to_owned()));
    }
    let mark = Mark { from: from.name().to_owned(), cursor: Cursor::start(), rows: 0 };
    let text = mark.text().at(to.name())?;
    to.put(&[], None, Some(&text)).at(to.name())?;
    Ok((mark, false))
}

/// Carries over what is after the mark. Says how many rows that were.
fn carry(from: &mut dyn Ledger, to: &mut dyn Ledger, mark: &mut Mark, going: &Going) -> Result<u64, CopyFault> {
    let before = mark.rows;
    let roughly = from.roughly().at(from.name())?;
    loop {
        // Tenants may be many and small, so a transaction may hold the rows of several of them.
        let (mut next, mut parcel) = (mark.clone(), Vec::new());
        let mut is_end = false;
        while next.rows - mark.rows < PARCEL && !is_end {
            match next.cursor.next(from).at(from.name())? {
                Some(sheet) => {
                    next.rows += sheet.rows.len() as u64;
                    parcel.push(sheet);
                }
                None => is_end = true,
            }
        }
        if !parcel.is_empty() {
            let (was, is) = (mark.text().at(to.name())?, next.text().at(to.name())?);
            to.put(&parcel, Some(&was), Some(&is)).at(to.name())?;
            *mark = next;
        }
        if !going(mark.rows, roughly.max(mark.rows)) {
            return Err(CopyFault::Stopped);
        }
        if is_end {
            return Ok(mark.rows - before);
        }
    }
}

/// Reads everything on both sides, and tells where they differ.
fn compare(from: &mut dyn Ledger, to: &mut dyn Ledger, going: &Going) -> Result<Copied, CopyFault> {
    let of = from.roughly().at(from.name())?.saturating_mul(2);
    let mut done = 0;
    let mut seen = |rows| {
        done += rows;
        going(done, of.max(done))
    };
    let mut found = Copied::default();
    let mut after = TenantId::from_bytes([0; 16]);
    loop {
        let next = [from.tenant_after(after).at(from.name())?, to.tenant_after(after).at(to.name())?];
        let Some(tenant) = next.into_iter().flatten().min() else { return Ok(found) };
        for table in Table::ALL {
            let a = tally(from, tenant, table, &mut seen).at(from.name())?.ok_or(CopyFault::Stopped)?;
            let b = tally(to, tenant, table, &mut seen).at(to.name())?.ok_or(CopyFault::Stopped)?;
            *found.rows.entry(table.name()).or_default() += a.rows;
            if a != b {
                found.differ += 1;
                if found.differences.len() < TOLD {
                    found.differences.push(Difference { tenant, table: table.name(), from: a, to: b });
                }
            }
        }
        found.tenants += 1;
        after = tenant;
    }
}
