//! Countersign: second-factor authentication for any application, on a server of your own.
//!
//! This is the binary: settings, the command line, the accept loop, and the introduction of the neighbours to each other
//! ([`household`]). What is true is decided in `countersign-core`.

mod background;
mod cli;
mod commands;
mod config;
mod descriptors;
mod draft;
mod engine;
mod household;
mod import;
mod listen;
mod logs;
mod long;
mod master;
mod no;
mod numbers;
mod ports;
mod say;
mod secrets;
mod serve;
mod tls;

use clap::Parser;
use std::process::ExitCode;

/// Small things are allocated on every request, and this allocator is quicker at it than the system's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    // What is no text cannot be a setting.
    let environment = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    match commands::run(cli, environment.collect()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(no) => {
            eprintln!("countersign: {no}");
            no.code()
        }
    }
}
