//! All tests that need more than one crate, in one binary: it is linked once.

#![expect(clippy::unwrap_used, reason = "a test stops where it is surprised")]

mod canaries;
mod commands;
mod crash;
mod doors;
mod house;
mod operations;
mod race;
mod raw;
mod server;
mod transcripts;
mod verbs;
mod walls;
mod world;
