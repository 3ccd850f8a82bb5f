//! `countersign serve`: the server, unless a setting is unsafe.

use super::{Desk, all_cores};
use crate::cli;
use crate::config::{Config, LogFormat, MasterKeySource, Problems, REFERENCE, Storage};
use crate::logs;
use crate::master;
use crate::no::No;
use crate::ports::OsChance;
use crate::say;
use crate::serve;
use crate::tls::{Tls, certificates};
use serde::Serialize;
use std::path::Path;

#[derive(Serialize)]
struct Checked {
    settings: &'static str,
    /// Where everything is kept.
    storage: String,
    file: Option<String>,
    /// The files that were read as well.
    read: Vec<String>,
    /// The files that are not there yet, and will be made.
    absent: Vec<String>,
}

pub fn run(desk: &Desk, command: &cli::Serve) -> Result<(), No> {
    if command.reference {
        return Ok(say::print(REFERENCE.trim_end())?);
    }
    let config = desk.config()?;
    refuse_dangers(&config)?;
    if command.check {
        let checked = check(&config)?;
        return Ok(desk.say.result(&checked, |it| {
            let mut text = format!("{}: the settings are right, and safe to serve with.", it.file.as_deref().unwrap_or("Defaults"));
            text.push_str(&format!("\nEverything is kept in {}.", it.storage));
            for (what, files) in [("Read as well", &it.read), ("Not there yet; the first start makes it", &it.absent)] {
                if !files.is_empty() {
                    text.push_str(&format!("\n{what}: {}", files.join(", ")));
                }
            }
            text.push_str("\nThe database was not opened; `countersign doctor` looks into it.");
            text
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
    let storage = config.storage.name();
    let cores = all_cores()?;
    cores.block_on(serve::run(config, async |_, base_url| {
        tracing::info!(server.address = %listen.ip(), server.port = listen.port(), url.full = base_url, storage = storage.as_str(), "Countersign {} listens, and keeps everything in {storage}", env!("CARGO_PKG_VERSION"));
        if text {
            eprintln!("Countersign is at {base_url}");
        }
        Ok(())
    }))
}

/// Reads the files that the settings name, as a start would, and makes none.
fn check(config: &Config) -> Result<Checked, No> {
    let mut checked = Checked {
        settings: "ok",
        storage: config.storage.name(),
        file: config.file.as_deref().map(shown),
        read: Vec::new(),
        absent: Vec::new(),
    };
    if let Some(files) = &config.server.tls {
        Tls::read(files.clone()).map_err(No::usage)?;
        checked.read.extend([shown(&files.certificate), shown(&files.key)]);
    }
    certificates("egress.roots", &config.egress.roots)?;
    checked.read.extend(config.egress.roots.iter().map(|it| shown(it)));
    let sealed = match &config.storage {
        Storage::File(path) => path.exists().then(|| shown(path)),
        Storage::Postgres(database) => {
            certificates("storage.postgres.roots", &database.roots)?;
            checked.read.extend(database.roots.iter().map(|it| shown(it)));
            None
        }
    };
    match &config.master_key {
        MasterKeySource::File(path) if !path.exists() && sealed.is_none() => checked.absent.push(shown(path)),
        source => {
            master::of(config, sealed.as_deref(), &OsChance)?;
            if let MasterKeySource::File(path) = source {
                checked.read.push(shown(path));
            }
        }
    }
    checked.read.extend(config.old_master_key.as_deref().map(shown));
    Ok(checked)
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// Refuses settings that are right as such, and dangerous.
pub fn refuse_dangers(config: &Config) -> Result<(), No> {
    let dangers = config.dangers();
    if dangers.is_empty() {
        return Ok(());
    }
    Err(No::usage(format!("It is not safe to serve so:\n{}", Problems(dangers))))
}
