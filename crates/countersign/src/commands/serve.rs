//! `countersign serve`: the server, unless a setting is unsafe.

use super::{Desk, all_cores};
use crate::cli;
use crate::config::{Config, LogFormat, Problems, REFERENCE};
use crate::logs;
use crate::no::No;
use crate::say;
use crate::serve;
use serde::Serialize;

#[derive(Serialize)]
struct Checked {
    settings: &'static str,
    file: Option<String>,
}

pub fn run(desk: &Desk, command: &cli::Serve) -> Result<(), No> {
    if command.reference {
        return Ok(say::print(REFERENCE.trim_end())?);
    }
    let config = desk.config()?;
    refuse_dangers(&config)?;
    if command.check {
        let checked = Checked { settings: "ok", file: config.file.as_ref().map(|it| it.display().to_string()) };
        return Ok(desk.say.result(&checked, |it| {
            format!("{}: the settings are right, and safe to serve with.", it.file.as_deref().unwrap_or("Defaults"))
        })?);
    }
    logs::begin(&config.log);
    for name in &config.strangers {
        tracing::warn!(
            "{name} is no setting, and changes nothing. A cluster may have set it; if you did, look at `countersign serve --reference`"
        );
    }
    let text = config.log.format == LogFormat::Text;
    let listen = config.server.listen;
    all_cores()?.block_on(serve::run(config, async |_, base_url| {
        tracing::info!(server.address = %listen.ip(), server.port = listen.port(), url.full = base_url, "Countersign {} listens", env!("CARGO_PKG_VERSION"));
        if text {
            eprintln!("Countersign is at {base_url}");
        }
        Ok(())
    }))
}

/// Refuses settings that are right as such, and dangerous.
pub fn refuse_dangers(config: &Config) -> Result<(), No> {
    let dangers = config.dangers();
    if dangers.is_empty() {
        return Ok(());
    }
    Err(No::usage(format!("It is not safe to serve so:\n{}", Problems(dangers))))
}
