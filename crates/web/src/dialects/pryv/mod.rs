//! The dialect of Pryv.io's multi-factor authentication (`docs/pryv.md`).

mod settings;

pub use settings::{DIALECT, Generation, Settings};
