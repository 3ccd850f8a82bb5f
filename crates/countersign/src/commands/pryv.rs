//! `countersign pryv`: how a tenant speaks to applications made for Pryv.io.

use super::{Desk, tenant_named};
use crate::cli::{self, OrNone, PryvChange};
use crate::household::Household;
use crate::no::No;
use countersign_core::Core;
use countersign_core::nouns::tenant::Tenant;
use countersign_web::pryv::{DIALECT, Settings};
use serde::Serialize;
use serde_json::Value;

#[derive(Serialize)]
struct Shown {
    tenant: String,
    settings: Settings,
}

#[derive(Serialize)]
struct Off {
    tenant: String,
    /// Whether it did before.
    off: bool,
}

pub async fn run(desk: &Desk, home: &Household, command: cli::Pryv) -> Result<(), No> {
    let (cli::Pryv::Show { tenant } | cli::Pryv::Set { tenant, .. } | cli::Pryv::Off { tenant }) = &command;
    let tenant = tenant_named(&home.core, tenant).await?;
    let before = settings_of(&tenant)?;
    let settings = match command {
        cli::Pryv::Show { .. } => before.ok_or_else(|| {
            No::refused(format!("{} does not speak to applications made for Pryv.io", tenant.name))
                .hint("`countersign import pryv FILE` makes a tenant that does, `countersign pryv set` has this one do it")
        })?,
        cli::Pryv::Off { .. } => {
            home.core.set_dialect(tenant.id, DIALECT, None).await?;
            let off = Off { tenant: tenant.name, off: before.is_some() };
            return Ok(desk.say.result(&off, |it| format!("{} does not speak to applications made for Pryv.io.", it.tenant))?);
        }
        cli::Pryv::Set { change, .. } => {
            let settings = changed(before.unwrap_or_default(), *change);
            put(&home.core, &tenant, &settings).await?;
            settings
        }
    };
    Ok(desk.say.result(&Shown { tenant: tenant.name, settings }, |it| format!("{}\n{}", it.tenant, in_lines(&it.settings)))?)
}

/// What the dialect was told, if the tenant speaks it.
pub fn settings_of(tenant: &Tenant) -> Result<Option<Settings>, No> {
    let read = tenant.dialects.get(DIALECT).map(Settings::read).transpose();
    read.map_err(|why| No::refused(format!("what {} was told of Pryv.io cannot be read: {why}", tenant.name)))
}

/// Refuses settings that are wrong, and hosts that are another tenant's than `name`: they tell tenants apart, so each leads to one.
pub async fn check(core: &Core, name: &str, settings: &Settings) -> Result<(), No> {
    settings.check().map_err(No::refused)?;
    for other in core.tenants().await?.iter().filter(|it| it.name != name) {
        let Some(told) = other.dialects.get(DIALECT) else { continue };
        if told["domain"].as_str() == settings.domain.as_deref() {
            let whose = settings.domain.as_ref().map_or_else(|| "every host without a domain".to_owned(), |it| format!("the domain {it}"));
            return Err(No::refused(format!("{whose} is the tenant {}'s already", other.name)).hint("give one of them another --domain"));
        }
    }
    Ok(())
}

/// Tells the dialect, when it is something new.
pub async fn put(core: &Core, tenant: &Tenant, settings: &Settings) -> Result<(), No> {
    check(core, &tenant.name, settings).await?;
    let value = serde_json::to_value(settings).map_err(|why| No::refused(format!("the settings cannot be kept: {why}")))?;
    if tenant.dialects.get(DIALECT) != Some(&value) {
        core.set_dialect(tenant.id, DIALECT, Some(value)).await?;
    }
    Ok(())
}

/// The settings, one a line, under the names of the file in which they could be kept.
pub fn in_lines(settings: &Settings) -> String {
    let stands = match &settings.core_url {
        Some(core) => format!("  in front of the core {core}, which has the people, and judges by itself which applications it trusts"),
        None => "  alone: people live here (countersign user add), and trusted_apps says which applications log them in".to_owned(),
    };
    let Ok(Value::Object(all)) = serde_json::to_value(settings) else { return stands };
    let width = all.keys().map(String::len).max().unwrap_or(0);
    let shown = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let lines = all.iter().map(|(name, value)| format!("  {name:width$}  {}", shown(value)));
    lines.chain([stands]).collect::<Vec<_>>().join("\n")
}

fn changed(before: Settings, change: PryvChange) -> Settings {
    let mut it = before;
    it.generation = change.generation.unwrap_or(it.generation);
    it.core_url = change.core_url.map_or(it.core_url, OrNone::given);
    it.domain = change.domain.map_or(it.domain, OrNone::given);
    it.session_ttl_ms = change.session_ttl_ms.unwrap_or(it.session_ttl_ms);
    it.access_max_age_ms = change.access_max_age_ms.unwrap_or(it.access_max_age_ms);
    it.api = change.api.map_or(it.api, OrNone::given);
    it.api_version = change.api_version.unwrap_or(it.api_version);
    if !change.trusted_apps.is_empty() {
        it.trusted_apps = if change.trusted_apps == ["none"] { Vec::new() } else { change.trusted_apps };
    }
    it
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn set(before: Settings, options: &[&str]) -> Settings {
        let arguments = [&["countersign", "pryv", "set", "--tenant", "t"][..], options].concat();
        let Command::Pryv(cli::Pryv::Set { change, .. }) = Cli::try_parse_from(arguments).unwrap().command else { panic!("it sets") };
        changed(before, *change)
    }

    #[test]
    fn what_is_not_named_stays_and_none_takes_away() {
        let options = ["--core-url", "http://core:3000", "--domain", "pryv.me", "--session-ttl-s", "0.2", "--api", "https://x/{username}/"];
        let one = set(Settings::default(), &options);
        assert_eq!((one.session_ttl_ms, one.domain.as_deref()), (200, Some("pryv.me")));
        assert_eq!(set(one.clone(), &["--generation", "v1"]), one);
        let two = set(one.clone(), &["--core-url", "none", "--domain", "none", "--api", "none", "--session-ttl-s", "1800"]);
        assert_eq!(two, Settings::default());
    }

    #[test]
    fn trusted_apps_are_replaced_together() {
        let two = set(Settings::default(), &["--trusted-app", "a@https://a.example", "--trusted-app", "b@*"]);
        assert_eq!(two.trusted_apps, ["a@https://a.example", "b@*"]);
        assert!(set(two, &["--trusted-app", "none"]).trusted_apps.is_empty());
    }
}
