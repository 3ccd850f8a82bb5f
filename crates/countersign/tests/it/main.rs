//! All tests that need more than one crate, in one binary: it is linked once.

mod doors;
mod house;
mod transcripts;
mod verbs;
mod walls;
mod world;
