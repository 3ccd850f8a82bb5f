//! Where it is kept: the engines behind [`countersign_core::ports::Store`], and the contract that each of them keeps.
//!
//! [`Sqlite`] is the embedded engine, [`Postgres`] the one for more than one machine, [`memory`] a model of both for tests. [`contract`] names
//! what every engine promises; it is run on all of them.
//! [`copy`] moves a house from one engine to another.

pub mod contract;
pub mod copy;
mod ledger;
pub mod memory;
pub mod postgres;
mod rows;
mod sqlite;
mod stats;
mod walks;

pub use ledger::{LedgerError, Tally, Unfinished};
pub use postgres::Postgres;
pub use sqlite::{Candidate, CopyError, Going, InstallError, OpenError, Options, Snapshot, Sqlite, install, is_open, snapshot};
pub use stats::Stats;
