//! Where it is kept: the engines behind [`countersign_core::ports::Store`], and the contract that each of them keeps.
//!
//! [`Sqlite`] is the embedded engine. [`contract`] names what every engine promises; it is run on each of them.

pub mod contract;
pub mod memory;
mod sqlite;

pub use sqlite::{OpenError, Options, Sqlite, Stats};
