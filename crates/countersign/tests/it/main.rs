//! All tests that need more than one crate, in one binary: it is linked once.

mod house;
mod verbs;
mod walls;
