//! `countersign import`: a tenant made of what another product was told.

use super::{Desk, barred, count, pryv as settings, tenant_named};
use crate::cli::{self, ImportPryv, OrNone};
use crate::household::Household;
use crate::import::located::At;
use crate::import::pryv::{self, Asked, Plan, Reading, Told};
use crate::no::No;
use crate::say::table;
use countersign_core::Core;
use countersign_core::nouns::route::Route;
use countersign_core::nouns::tenant::{Policy, Tenant};
use countersign_core::verbs::manage::{NewProvider, TenantChange};
use countersign_core::words::address::Channel;
use countersign_core::words::refusal::{Error, Refusal};
use countersign_web::pryv::{Generation, Settings};
use serde::Serialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

/// The longest file, generously: one of a platform with letters in three languages has 20 KiB.
const LONGEST_BYTES: u64 = 1 << 20;

/// What commands call the provider that is made, and its kind.
const PROVIDER: &str = "pryv";

/// Clients of the product were made for codes of four digits.
const CODE_LENGTH: u8 = 4;

/// What came of it.
#[derive(Serialize)]
struct Shown {
    file: String,
    tenant: String,
    done: Done,
    mode: Option<pryv::Mode>,
    settings: Option<Settings>,
    #[serde(flatten)]
    reading: Reading,
}

#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
enum Done {
    /// It was only looked at.
    Checked,
    /// The tenant was made.
    Made,
    /// The tenant was there.
    Changed,
    /// Something is wrong, so nothing was done.
    Refused,
}

pub fn run(desk: &Desk, command: cli::Import) -> Result<(), No> {
    let cli::Import::Pryv(it) = command;
    Tenant::check_name(&it.tenant).map_err(|why| No::usage(why.to_string()))?;
    let text = text_of(&it.file)?;
    let asked = Asked { mode: it.mode, domain: it.domain.clone().and_then(OrNone::given) };
    let mut reading = pryv::read(&text, &asked);
    let shown = |done, settings, plan: Option<&Plan>, reading| Shown {
        file: it.file.display().to_string(),
        tenant: it.tenant.clone(),
        done,
        mode: plan.map(|it| it.mode),
        settings,
        reading,
    };
    // Before anything is made: what cannot be called, and what may not, is found as well.
    let config = desk.config()?;
    let mut hint = None;
    let plan = reading.plan.take().filter(|plan| match Household::try_out(&config, provider_of(plan)) {
        Ok(()) => true,
        Err(why) => {
            hint = barred(&why);
            let place = plan.places.iter().find(|(which, _)| why.contains(&format!("endpoints.{which}")));
            reading.wrong.push(Told { at: place.or(plan.places.first()).map_or(At { line: 1, column: 1 }, |(_, at)| *at), what: why });
            false
        }
    });
    let Some(plan) = plan else {
        let wrong = count(reading.wrong.len() as u64, "thing");
        let verb = if reading.wrong.len() == 1 { "is" } else { "are" };
        desk.say.result(&shown(Done::Refused, None, None, reading), Shown::text)?;
        let no = No::refused(format!("{wrong} {verb} wrong in {}, so nothing was done", it.file.display()));
        return Err(No { hint, ..no });
    };
    // Options can be wrong as well.
    merged(None, &plan, &it).check().map_err(No::usage)?;
    if it.check {
        let settings = Some(merged(None, &plan, &it));
        return Ok(desk.say.result(&shown(Done::Checked, settings, Some(&plan), reading), Shown::text)?);
    }
    desk.with_new_household(async |home, desk| {
        let (done, settings) = put(home, &plan, &it).await?;
        Ok(desk.say.result(&shown(done, Some(settings), Some(&plan), reading), Shown::text)?)
    })
}

fn text_of(path: &Path) -> Result<String, No> {
    let mut text = String::new();
    let read = match path == Path::new("-") {
        true => std::io::stdin().take(LONGEST_BYTES + 1).read_to_string(&mut text),
        false => std::fs::File::open(path).and_then(|it| it.take(LONGEST_BYTES + 1).read_to_string(&mut text)),
    };
    read.map_err(|why| No::usage(format!("{} cannot be read: {why}", path.display())))?;
    if text.len() as u64 > LONGEST_BYTES {
        return Err(No::usage(format!("{} is longer than {LONGEST_BYTES} bytes, so it is no file of settings", path.display())));
    }
    Ok(text)
}

fn provider_of(plan: &Plan) -> NewProvider {
    NewProvider {
        name: PROVIDER.to_owned(),
        channels: vec![Channel::External],
        kind: PROVIDER.to_owned(),
        settings: match plan.generation {
            // A core of 2.x sends whatever method stands there, the service before it POST or else GET.
            Generation::V2 => json!({ "mode": plan.mode.as_str(), "any_method": true }),
            Generation::V1 | Generation::ByClient => json!({ "mode": plan.mode.as_str() }),
        },
        secrets: BTreeMap::from([("endpoints".to_owned(), plan.endpoints.clone())]),
    }
}

/// Makes or changes the tenant. What is there already is the same after doing it twice.
async fn put(home: &Household, plan: &Plan, asked: &ImportPryv) -> Result<(Done, Settings), No> {
    let core = &home.core;
    let there = match core.tenant_named(&asked.tenant).await {
        Ok(tenant) => settings::settings_of(&tenant)?,
        Err(Error::Refused(Refusal::Unknown(_))) => None,
        Err(why) => return Err(why.into()),
    };
    // Before anything is made.
    settings::check(core, &asked.tenant, &merged(there, plan, asked)).await?;
    let (tenant, done) = match core.tenant_named(&asked.tenant).await {
        Ok(tenant) => (tenant, Done::Changed),
        Err(Error::Refused(Refusal::Unknown(_))) => (make(core, plan, asked).await?, Done::Made),
        Err(why) => return Err(why.into()),
    };
    let settings = merged(settings::settings_of(&tenant)?, plan, asked);
    let others = core.providers(tenant.id).await?;
    if let Some(other) = others.iter().find(|it| it.name == PROVIDER && it.kind != PROVIDER) {
        return Err(No::refused(format!("{} has a provider {PROVIDER} already, of the kind {}", tenant.name, other.kind))
            .hint("remove it, or name another tenant with --tenant"));
    }
    // Who makes codes by itself cannot take the place of who carries ours, so all of a route do the one or the other.
    let on_route = tenant.routes.iter().filter(|it| it.channel == Channel::External).flat_map(|it| &it.legs);
    let on_route = on_route.filter_map(|leg| others.iter().find(|it| it.id == *leg && it.name != PROVIDER));
    let makes_codes = |settings: &serde_json::Value| settings["mode"] == pryv::Mode::ChallengeVerify.as_str();
    if let Some(other) = on_route.into_iter().find(|it| makes_codes(&it.settings) != (plan.mode == pryv::Mode::ChallengeVerify)) {
        let what = format!(
            "the route external of {} also leads to {}, which works in another mode than {}",
            tenant.name,
            other.name,
            plan.mode.as_str()
        );
        return Err(No::refused(what).hint("take it off the route first: countersign tenant route add TENANT external pryv"));
    }
    let provider = core.put_provider(tenant.id, provider_of(plan)).await?.id;
    // It may have changed since.
    let tenant = tenant_named(core, &tenant.name).await?;
    let mut routes = tenant.routes.clone();
    match routes.iter_mut().find(|it| it.channel == Channel::External && it.destination.is_empty()) {
        Some(route) if route.legs.contains(&provider) => {}
        Some(route) => route.legs.insert(0, provider),
        None => routes.push(Route { channel: Channel::External, destination: String::new(), legs: vec![provider] }),
    }
    if routes != tenant.routes {
        core.change_tenant(tenant.id, TenantChange { routes: Some(routes), ..TenantChange::default() }).await?;
    }
    settings::put(core, &tenant, &settings).await?;
    Ok((done, settings))
}

async fn make(core: &Core, plan: &Plan, asked: &ImportPryv) -> Result<Tenant, No> {
    let name = plan.service.get("name").and_then(|it| it.as_str()).filter(|it| it.chars().count() <= 100);
    let policy = Policy { code_length: CODE_LENGTH, ..Policy::default() };
    Ok(core.create_tenant(&asked.tenant, name.unwrap_or(&asked.tenant), policy).await?)
}

/// What the dialect is told: the options, else the file, else what it was told before.
fn merged(before: Option<Settings>, plan: &Plan, asked: &ImportPryv) -> Settings {
    let generation = asked.generation.unwrap_or(before.as_ref().map_or(plan.generation, |it| it.generation));
    let mut it = before.unwrap_or_default();
    it.generation = generation;
    it.domain = match asked.domain.clone() {
        Some(given) => given.given(),
        None => plan.domain.clone().or(it.domain),
    };
    it.core_url = match asked.core_url.clone() {
        Some(given) => given.given(),
        None => plan.core_url.clone().or(it.core_url),
    };
    it.session_ttl_ms = plan.session_ttl_ms.unwrap_or(it.session_ttl_ms);
    it.access_max_age_ms = plan.access_max_age_ms.unwrap_or(it.access_max_age_ms);
    it.trusted_apps = plan.trusted_apps.clone().unwrap_or(it.trusted_apps);
    it.service.extend(plan.service.clone());
    it
}

impl Shown {
    fn text(&self) -> String {
        let Reading { found, took, ignored, warnings, wrong, .. } = &self.reading;
        let all = [("took", took), ("ignored", ignored), ("warning", warnings), ("wrong", wrong)];
        let mut rows: Vec<_> = all
            .iter()
            .flat_map(|(kind, told)| told.iter().map(|it| (it.at, [it.at.to_string(), (*kind).to_owned(), it.what.clone()])))
            .collect();
        rows.sort_by_key(|(at, _)| *at);
        let rows: Vec<_> = rows.into_iter().map(|(_, row)| row).collect();
        let mut lines = Vec::new();
        if let Some(found) = found {
            lines.push(format!("{}: {}", self.file, found.as_str()));
        }
        lines.push(table(["line", "", "what"], &rows));
        let tenant = &self.tenant;
        if let Some(settings) = &self.settings {
            let is_new = if matches!(self.done, Done::Checked) { ", if it is new" } else { "" };
            lines.push(format!("settings of the tenant {tenant}{is_new}\n{}", settings::in_lines(settings)));
        }
        lines.extend(match self.done {
            Done::Refused => None,
            Done::Checked => Some("Nothing is wrong, and nothing was done.".to_owned()),
            Done::Made => Some(format!("The tenant {tenant} is there. Next: see whether its service can be reached\n  countersign provider test {tenant} {PROVIDER}")),
            Done::Changed => Some(format!("The tenant {tenant} is changed.")),
        });
        lines.join("\n")
    }
}
