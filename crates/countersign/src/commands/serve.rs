//! `countersign serve`: the server, unless a setting is unsafe.

use super::{Desk, all_cores};
use crate::cli;
use crate::config::{Config, LogFormat, MasterKeySource, Problems, REFERENCE, Storage};
use crate::engine::Engine;
use crate::household::Household;
use crate::logs;
use crate::master;
use crate::no::{Kind, No};
use crate::ports::OsChance;
use crate::say;
use crate::serve;
use crate::tls::Tls;
use countersign_core::Core;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::Serialize;
use std::path::Path;

#[derive(Serialize)]
struct Checked {
    settings: &'static str,
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
    let cores = all_cores()?;
    cores.block_on(open_tenants(&config))?;
    cores.block_on(serve::run(config, async |home, base_url| {
        if let Engine::Postgres(_) = &home.engine {
            // It was there a moment ago, and will be again: that is no reason to end.
            while let Err(no) = opens_all(&home.core).await {
                if no.kind != Kind::Unavailable {
                    return Err(no);
                }
                tokio::time::sleep(serve::LOOK_AGAIN).await;
            }
        }
        tracing::info!(server.address = %listen.ip(), server.port = listen.port(), url.full = base_url, "Countersign {} listens", env!("CARGO_PKG_VERSION"));
        if text {
            eprintln!("Countersign is at {base_url}");
        }
        Ok(())
    }))
}

/// Reads the files that the settings name, as a start would, and makes none.
fn check(config: &Config) -> Result<Checked, No> {
    let mut checked = Checked { settings: "ok", file: config.file.as_deref().map(shown), read: Vec::new(), absent: Vec::new() };
    if let Some(files) = &config.server.tls {
        Tls::read(files.clone()).map_err(No::usage)?;
        checked.read.extend([shown(&files.certificate), shown(&files.key)]);
    }
    for path in &config.egress.roots {
        let wrong = |why: String| No::usage(format!("egress.roots: {} {why}", path.display()));
        let pem = std::fs::read(path).map_err(|why| wrong(format!("cannot be read: {why}")))?;
        let roots =
            CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>().map_err(|why| wrong(format!("is no PEM: {why}")))?;
        if roots.is_empty() {
            return Err(wrong("holds no certificate; it takes PEM".to_owned()));
        }
        checked.read.push(shown(path));
    }
    let sealed = match &config.storage {
        Storage::File(path) => path.exists().then(|| shown(path)),
        Storage::Postgres(database) => {
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

/// Refuses to serve with a master key that does not open what is there: every call would be an error of the server, and a
/// message that waits would be taken for damaged. A database that is not there yet is opened by every key; one on another machine
/// is looked at when it is there.
async fn open_tenants(config: &Config) -> Result<(), No> {
    if config.storage.file().is_none_or(|it| !it.exists()) {
        return Ok(());
    }
    let home = Household::open(config).await?;
    let opened = opens_all(&home.core).await;
    home.close_after_command().await;
    opened
}

async fn opens_all(core: &Core) -> Result<(), No> {
    let tenants = core.tenants().await?;
    let shut: Vec<_> = tenants.iter().filter(|tenant| !core.opens(tenant)).map(|tenant| tenant.name.as_str()).collect();
    if shut.is_empty() {
        return Ok(());
    }
    let some = shut.iter().take(5).copied().collect::<Vec<_>>().join(", ");
    let what = format!("the master key does not open {} of {} tenants: {some}", shut.len(), tenants.len());
    Err(No::refused(what).hint("put back the key with which they were made; `countersign doctor` looks at each of them"))
}

/// Refuses settings that are right as such, and dangerous.
pub fn refuse_dangers(config: &Config) -> Result<(), No> {
    let dangers = config.dangers();
    if dangers.is_empty() {
        return Ok(());
    }
    Err(No::usage(format!("It is not safe to serve so:\n{}", Problems(dangers))))
}
