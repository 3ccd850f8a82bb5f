//! `countersign doctor`: looks for what is wrong, and says what to do.
//!
//! Owns the list of checks. It makes nothing, and sends nothing unless it is asked to. A database of an older version it brings up to date,
//! as every command does.

use super::{Desk, barred, one_thread, tenant_named, test_message};
use crate::cli;
use crate::config::{Config, MasterKeySource};
use crate::engine::Engine;
use crate::household::Household;
use crate::logs;
use crate::master;
use crate::no::No;
use crate::ports::{OsChance, SystemClock};
use crate::tls::Tls;
use countersign_core::Core;
use countersign_core::nouns::provider::ProviderSettings;
use countersign_core::nouns::route::{Route, legs};
use countersign_core::nouns::tenant::Tenant;
use countersign_core::ports::Call;
use countersign_core::ports::Clock;
use countersign_core::verbs::rotate::OpenedBy;
use countersign_core::words::address::Channel;
use countersign_core::words::time::Timestamp;
use countersign_store::{Postgres, Sqlite};
use countersign_web::pryv;
use serde::Serialize;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// How long a provider may take to be reached.
const PROBE_WITHIN: Duration = Duration::from_secs(10);

/// Providers that are asked at a time.
const AT_A_TIME: usize = 8;

/// Less than this, and a busy server is out of disk before anybody looks again.
const LITTLE_DISK_BYTES: u64 = 1 << 30;
const NO_DISK_BYTES: u64 = 100 << 20;

/// The clock is watched for so long, and may differ by so much.
const CLOCK_WATCH: Duration = Duration::from_millis(300);
const CLOCK_DRIFT: Duration = Duration::from_millis(50);

/// No server of this version ran before 2026, and none will after 2100.
const EARLIEST: Timestamp = Timestamp::from_millis(1_767_225_600_000);
const LATEST: Timestamp = Timestamp::from_millis(4_102_444_800_000);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    Warn,
    Fail,
}

/// One thing that was looked at.
#[derive(Serialize)]
struct Check {
    check: String,
    state: State,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

/// All that was looked at.
#[derive(Default, Serialize)]
struct Report {
    ok: bool,
    checks: Vec<Check>,
}

impl Report {
    fn ok(&mut self, check: impl Into<String>, found: impl Into<String>) {
        self.checks.push(Check { check: check.into(), state: State::Ok, found: found.into(), hint: None });
    }

    fn warn(&mut self, check: impl Into<String>, found: impl Into<String>, hint: impl Into<String>) {
        self.checks.push(Check { check: check.into(), state: State::Warn, found: found.into(), hint: Some(hint.into()) });
    }

    fn fail(&mut self, check: impl Into<String>, found: impl Into<String>, hint: impl Into<String>) {
        self.checks.push(Check { check: check.into(), state: State::Fail, found: found.into(), hint: Some(hint.into()) });
    }

    fn no(&mut self, check: &str, no: No) {
        self.checks.push(Check {
            check: check.to_owned(),
            state: State::Fail,
            found: no.what,
            hint: no.hint.filter(|it| !it.contains("countersign doctor")),
        });
    }

    fn count(&self, state: State) -> usize {
        self.checks.iter().filter(|it| it.state == state).count()
    }

    fn text(&self) -> String {
        let width = self.checks.iter().map(|it| it.check.chars().count()).max().unwrap_or(0);
        let mut lines = Vec::new();
        for Check { check, state, found, hint } in &self.checks {
            let state = match state {
                State::Ok => "ok  ",
                State::Warn => "warn",
                State::Fail => "FAIL",
            };
            lines.push(format!("{state}  {check:width$}  {found}"));
            lines.extend(hint.iter().map(|hint| format!("      {:width$}  -> {hint}", "")));
        }
        let (warnings, failures) = (self.count(State::Warn), self.count(State::Fail));
        lines.push(match (failures, warnings) {
            (0, 0) => "All is well.".to_owned(),
            (0, warnings) => format!("It works; {warnings} to look at."),
            (failures, warnings) => format!("{failures} of {} checks failed, {warnings} to look at.", self.checks.len()),
        });
        lines.join("\n")
    }
}

pub fn run(desk: &Desk, command: &cli::Doctor) -> Result<(), No> {
    logs::begin_for_commands();
    let mut report = Report::default();
    match Config::read(desk.file.as_deref(), &desk.environment) {
        Ok(config) => {
            look_at_settings(&config, &mut report);
            one_thread()?.block_on(look_at_house(&config, command, &mut report));
        }
        Err(problems) => {
            for problem in problems.0 {
                report.fail("settings", problem.to_string(), "`countersign serve --reference` prints all settings and what they mean");
            }
        }
    }
    report.ok = report.count(State::Fail) == 0;
    desk.say.result(&report, Report::text)?;
    if report.ok { Ok(()) } else { Err(No::refused(format!("{} of {} checks failed", report.count(State::Fail), report.checks.len()))) }
}

fn look_at_settings(config: &Config, report: &mut Report) {
    let file = config.file.as_ref().map_or_else(|| "defaults and environment".to_owned(), |it| it.display().to_string());
    let dangers = config.dangers();
    if dangers.is_empty() {
        report.ok("settings", format!("{file}: right, and safe to serve with"));
    }
    for danger in dangers {
        report.fail("settings", danger.to_string(), "`countersign serve` does not start so");
    }
    for name in &config.strangers {
        report.warn("settings", format!("{name} is no setting, and changes nothing"), "take it out, unless your cluster sets it");
    }
    if let Some(files) = &config.server.tls {
        match Tls::read(files.clone()) {
            Ok(_) => report.ok("certificate", format!("{} and its key fit", files.certificate.display())),
            Err(why) => report.fail("certificate", why, "renew it; a server that runs goes on with the one it has"),
        }
    }
}

async fn look_at_house(config: &Config, command: &cli::Doctor, report: &mut Report) {
    look_at_clock(report).await;
    let mut sealed = "the database of storage.url".to_owned();
    if let Some(path) = config.storage.file() {
        look_at_disk(path, report);
        sealed = path.display().to_string();
        if !path.exists() {
            report.warn("database", format!("{sealed} is not there yet"), "the first start makes it, and the master key with it");
            return;
        }
    } else if let Err(no) = Household::refuse_where_none_is(config).await {
        return report.no("database", no);
    }
    let source = match &config.master_key {
        MasterKeySource::Given(_) => "the environment".to_owned(),
        MasterKeySource::Command(command) => format!("the command {}", command.first().map_or("", String::as_str)),
        MasterKeySource::File(path) => path.display().to_string(),
    };
    // The database is there, so this reads a key and makes none.
    match master::of(config, Some(&sealed), &OsChance) {
        Ok(_) => report.ok("master key", format!("read from {source}")),
        Err(no) => return report.no("master key", no),
    }
    let home = match Household::open(config).await {
        Ok(home) => home,
        Err(no) => return report.no("database", no),
    };
    look_at_database(&home, report).await;
    match tenants(&home.core, command.tenant.as_deref()).await {
        Ok(all) => {
            look_at_tenants(&home.core, &all, report).await;
            look_at_cores(&home, &all, report).await;
            if let (Some(to), Some(channel), [tenant]) = (&command.send, command.channel, &all[..]) {
                send(&home.core, tenant, channel, to, report).await;
            }
        }
        Err(no) => report.no("tenants", no),
    }
    home.close_after_command().await;
}

async fn tenants(core: &Core, only: Option<&str>) -> Result<Vec<Tenant>, No> {
    Ok(match only {
        Some(name) => vec![tenant_named(core, name).await?],
        None => core.tenants().await?,
    })
}

async fn look_at_clock(report: &mut Report) {
    let (now, steady) = (SystemClock.now(), Instant::now());
    if !(EARLIEST..LATEST).contains(&now) {
        return report.fail(
            "clock",
            format!("it says {}", crate::say::moment(now)),
            "set it, and let NTP keep it: codes and tokens live by it",
        );
    }
    tokio::time::sleep(CLOCK_WATCH).await;
    let (by_clock, by_machine) = (SystemClock.now().since(now), steady.elapsed());
    if by_clock.abs_diff(by_machine) > CLOCK_DRIFT {
        return report.warn(
            "clock",
            format!("it went {by_clock:?} while {by_machine:?} passed"),
            "see who sets it in steps (chronyc tracking)",
        );
    }
    report.ok("clock", format!("{}, and steady", crate::say::moment(now)));
}

fn look_at_disk(database: &Path, report: &mut Report) {
    let folder = database.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match rustix::fs::statvfs(folder) {
        Ok(disk) => {
            let free = disk.f_bavail.saturating_mul(disk.f_frsize);
            let found = format!("{} MiB free for {}", free >> 20, folder.display());
            if free < NO_DISK_BYTES {
                report.fail("disk", found, "make room: a database without room refuses every code");
            } else if free < LITTLE_DISK_BYTES {
                report.warn("disk", found, "make room before it is needed");
            } else {
                report.ok("disk", found);
            }
        }
        Err(rustix::io::Errno::NOENT) => report.warn("disk", format!("{} is not there yet", folder.display()), "the first start makes it"),
        Err(why) => report.fail("disk", format!("{}: {why}", folder.display()), "see whether it is there and may be entered"),
    }
}

async fn look_at_database(home: &Household, report: &mut Report) {
    match home.core.health().await {
        Ok(it) => {
            let wait = if it.queued == 1 { "1 message waits".to_owned() } else { format!("{} messages wait", it.queued) };
            let found = format!("{}, schema {}, {} KiB, {wait}", it.engine, it.schema, it.bytes >> 10);
            match it.queued {
                0..1000 => report.ok("database", found),
                _ => report.warn("database", found, "see below which provider is away"),
            }
        }
        Err(why) => {
            let hint = match &home.engine {
                Engine::File(_) => "see whether another program holds the file, and whether the disk is full",
                Engine::Postgres(_) => {
                    "see whether it runs, whether its disk is full, and whether the standbys that commits wait for are there"
                }
            };
            report.fail("database", why.to_string(), hint);
        }
    }
    match &home.engine {
        Engine::File(file) => look_for_damage(file, report).await,
        Engine::Postgres(database) => look_at_standby(database, report).await,
    }
}

/// Whether what was confirmed outlives the loss of the database's machine.
async fn look_at_standby(database: &Postgres, report: &mut Report) {
    match database.synchronous_standbys().await {
        Ok(names) if names.is_empty() => report.warn(
            "standby",
            "commits wait for no standby (synchronous_standby_names is empty)",
            "with a synchronous standby nothing that was confirmed is lost with the primary's machine",
        ),
        Ok(names) => report.ok("standby", format!("commits wait for {names}")),
        Err(why) => report.fail("standby", why.to_string(), "see whether the database can be reached"),
    }
}

async fn look_for_damage(file: &Sqlite, report: &mut Report) {
    match file.inspect().await {
        Ok(damage) if damage.is_empty() => report.ok("integrity", "no damage found"),
        Ok(damage) => report.fail("integrity", damage.join("; "), "stop the server, keep the file as it is, and put a backup in its place"),
        Err(why) => report.fail("integrity", why.to_string(), "see whether the disk can be read"),
    }
}

async fn look_at_tenants(core: &Core, tenants: &[Tenant], report: &mut Report) {
    if tenants.is_empty() {
        return report.warn("tenants", "there is none", "countersign tenant create NAME");
    }
    let mut opened = 0;
    for tenant in tenants {
        match core.standing(tenant.id).await {
            Ok(_) => opened += 1,
            Err(why) => report.fail(format!("{}: keys", tenant.name), why.to_string(), "put back the master key with which it was made"),
        }
        look_at_events(core, tenant, report).await;
    }
    report.ok("tenants", format!("the master key opens {opened} of {}", tenants.len()));
    let by_old = tenants.iter().filter(|it| core.opened_by(it) == OpenedBy::Old).count();
    if by_old > 0 {
        let found = format!("{by_old} of {} tenants are opened by the old one only", tenants.len());
        report.warn("rotation of the master key", found, "countersign key rotate, once every node has both keys");
    }
    for tenant in tenants {
        let providers = match core.providers(tenant.id).await {
            Ok(providers) => providers,
            Err(why) => return report.no("providers", why.into()),
        };
        let reached = probe(core, tenant, &providers, report).await;
        look_at_routes(tenant, &providers, &reached, report);
    }
}

/// What stands behind a dialect: settings that can be read, and a core that answers.
async fn look_at_cores(home: &Household, tenants: &[Tenant], report: &mut Report) {
    for tenant in tenants {
        let Some(told) = tenant.dialects.get(pryv::DIALECT) else { continue };
        let check = format!("{}: dialect {}", tenant.name, pryv::DIALECT);
        let core_url = match pryv::Settings::read(told) {
            Ok(pryv::Settings { core_url: Some(url), .. }) => url,
            Ok(_) => {
                report.ok(check, "people live here");
                continue;
            }
            Err(why) => {
                report.fail(check, why, format!("countersign pryv set --tenant {}", tenant.name));
                continue;
            }
        };
        let url = format!("{}/reg/service/info", core_url.as_str().trim_end_matches('/'));
        let asked = home.outbound.call(Call { method: "GET", url, headers: Vec::new(), body: Vec::new() });
        match timeout(PROBE_WITHIN, asked).await {
            // Whatever it says to this, it is there.
            Ok(Ok(heard)) => report.ok(check, format!("the core {core_url} answers ({})", heard.status)),
            Ok(Err(why)) => {
                let why = why.to_string();
                let hint = barred(&why).unwrap_or_else(|| format!("countersign pryv set --tenant {} --core-url URL", tenant.name));
                report.fail(check, format!("the core {core_url}: {why}"), hint);
            }
            Err(_) => report.fail(check, format!("the core {core_url} said nothing for {PROBE_WITHIN:?}"), "see whether it is up"),
        }
    }
}

/// Something that happened later than now tells of a clock that was set back.
async fn look_at_events(core: &Core, tenant: &Tenant, report: &mut Report) {
    if let Ok(newest) = core.events(tenant.id, 1).await
        && let Some(event) = newest.first()
        && event.at > core.now() + CLOCK_DRIFT
    {
        let found = format!("it is {}, and the newest event is of {}", crate::say::moment(core.now()), crate::say::moment(event.at));
        report.fail(format!("{}: clock", tenant.name), found, "the clock was set back; set it, and let NTP keep it");
    }
}

/// Asks every provider whether it can be reached. Gives the names of those that can.
async fn probe(core: &Core, tenant: &Tenant, providers: &[ProviderSettings], report: &mut Report) -> Vec<String> {
    let mut reached = Vec::new();
    for some in providers.chunks(AT_A_TIME) {
        let mut asked = JoinSet::new();
        for (at, provider) in some.iter().enumerate() {
            let (core, id, name) = (core.clone(), tenant.id, provider.name.clone());
            asked.spawn(async move { (at, timeout(PROBE_WITHIN, core.probe_provider(id, &name)).await) });
        }
        let mut said = asked.join_all().await;
        said.sort_by_key(|(at, _)| *at);
        for (at, said) in said {
            let name = &some[at].name;
            let check = format!("{}: provider {name}", tenant.name);
            let hint = |why: &str| barred(why).unwrap_or_else(|| format!("see `countersign provider show {} {name}`", tenant.name));
            match said {
                Ok(Ok(Ok(said))) => {
                    reached.push(name.clone());
                    report.ok(check, said);
                }
                Ok(Ok(Err(why))) => {
                    let hint = hint(&why);
                    report.fail(check, why, hint);
                }
                Ok(Err(why)) => report.no(&check, why.into()),
                Err(_) => report.fail(check, format!("it said nothing for {PROBE_WITHIN:?}"), hint("")),
            }
        }
    }
    reached
}

fn look_at_routes(tenant: &Tenant, providers: &[ProviderSettings], reached: &[String], report: &mut Report) {
    if tenant.routes.is_empty() {
        let hint = format!("countersign tenant route add {} sms PROVIDER", tenant.name);
        return report.warn(format!("{}: routes", tenant.name), "there is none, so only authenticators work", hint);
    }
    for route in &tenant.routes {
        let check = format!("{}: route {}", tenant.name, name_of(route));
        let names = route.legs.iter().map(|leg| providers.iter().find(|it| it.id == *leg).map_or("(removed)", |it| it.name.as_str()));
        let (well, ill): (Vec<&str>, Vec<&str>) = names.partition(|name| reached.iter().any(|it| it == name));
        match (well.is_empty(), ill.is_empty()) {
            (false, true) => report.ok(check, format!("by {}", well.join(", then "))),
            (false, false) => {
                report.warn(
                    check,
                    format!("works by {}, and not by {}", well.join(", "), ill.join(", ")),
                    "mend the others before they are needed",
                );
            }
            (true, _) => {
                report.fail(check, format!("none of its providers works: {}", ill.join(", ")), "mend one, or add another to the route")
            }
        }
    }
}

fn name_of(route: &Route) -> String {
    let to = if route.destination.is_empty() { "everywhere" } else { &route.destination };
    format!("{} {to}", route.channel)
}

/// Sends a test message along the route that a code would take.
async fn send(core: &Core, tenant: &Tenant, channel: Channel, to: &str, report: &mut Report) {
    let check = format!("{}: test message", tenant.name);
    let message = match test_message(tenant, channel, to) {
        Ok(message) => message,
        Err(no) => return report.no(&check, no),
    };
    let providers = core.providers(tenant.id).await.unwrap_or_default();
    let mut said = Vec::new();
    for leg in legs(&tenant.routes, channel, &message.to) {
        let Some(provider) = providers.iter().find(|it| it.id == *leg) else { continue };
        match core.send_test(tenant.id, &provider.name, message.clone()).await {
            Ok(Ok(receipt)) => return report.ok(check, format!("{} by {}: {receipt}", message.to.hint(), provider.name)),
            Ok(Err(why)) => said.push(format!("{}: {why}", provider.name)),
            Err(why) => said.push(format!("{}: {why}", provider.name)),
        }
    }
    let found = if said.is_empty() { format!("no route for {channel} leads there") } else { said.join("; ") };
    report.fail(check, found, "mend the provider, or the route");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_tells_what_to_do_below_what_is_wrong() {
        let mut report = Report::default();
        report.ok("clock", "steady");
        report.fail("demo: provider one", "401", "see its secrets");
        let text = report.text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "ok    clock               steady");
        assert_eq!(lines[1], "FAIL  demo: provider one  401");
        assert!(lines[2].ends_with("-> see its secrets"));
        assert_eq!(lines[3], "1 of 2 checks failed, 0 to look at.");
    }
}
