//! What is true: the nouns, verbs and ports of Countersign.
//!
//! Nothing here knows a network, a database, a template language or a runtime. [`ports`] says what is asked of the
//! neighbours; [`Core`] is lent them, and the verbs are its methods, one file each.

pub mod nouns;
pub mod ports;
pub mod verbs;
pub mod words;

pub use verbs::{Core, Neighbours, Scope};
