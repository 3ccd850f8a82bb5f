//! Dialects: the words in which callers ask. Each translates theirs into one verb, and what came of it back.

pub mod ciam;
pub mod pryv;
