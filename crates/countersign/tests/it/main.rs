//! All tests that need more than one crate, in one binary: it is linked once.

#![expect(clippy::unwrap_used, reason = "a test stops where it is surprised")]

mod backup;
mod book;
mod canaries;
mod commands;
mod copy;
mod crash;
mod database;
mod disk;
mod doors;
mod doubt;
mod failover;
mod first_minutes;
mod house;
mod import;
mod in_place;
mod nodes;
mod operations;
mod pages;
mod postgres;
mod providers_prism;
mod providers_tls;
mod pryv;
mod pryv_attack;
mod race;
mod raw;
mod rotation;
mod server;
mod simulation;
mod smtp_real;
mod store;
mod tools;
mod transcripts;
mod trial;
mod verbs;
mod walls;
mod wire;
mod words;
mod world;
