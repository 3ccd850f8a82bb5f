//! Words: the small values of which everything else is made. Each is parsed once, where it comes in.

pub mod address;
pub mod archive;
pub mod id;
pub mod refusal;
pub mod secret;
pub mod time;
pub mod variables;
pub mod wording;
