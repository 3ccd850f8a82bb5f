//! `countersign completions`: what a shell needs to know to finish our words.

use crate::cli::Cli;
use crate::no::No;
use crate::say;
use clap::CommandFactory;
use clap_complete::{Shell, generate};

pub fn run(shell: Shell) -> Result<(), No> {
    let mut script = Vec::new();
    generate(shell, &mut Cli::command(), "countersign", &mut script);
    Ok(say::print(String::from_utf8_lossy(&script).trim_end())?)
}
