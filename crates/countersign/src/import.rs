//! What other systems wrote down, read for a tenant of ours.
//!
//! Owns the reading: a text becomes a plan and a report, or a report of what is wrong, each thing with its line. Nothing here
//! opens a database; what is done with a plan is in [`crate::commands`].

pub mod located;
pub mod pryv;
