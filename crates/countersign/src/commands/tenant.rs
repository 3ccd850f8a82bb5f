//! `countersign tenant`: organisations, their policy, their senders, their routes.

use super::{Desk, about, pair, tenant_named};
use crate::cli;
use crate::household::Household;
use crate::no::No;
use crate::ports::OsChance;
use crate::say::{moment, table};
use countersign_core::Core;
use countersign_core::nouns::route::Route;
use countersign_core::nouns::tenant::{Policy, Tenant};
use countersign_core::verbs::manage::TenantChange;
use countersign_core::words::address::Channel;
use countersign_core::words::id::TenantId;
use countersign_core::words::refusal::{Error, Refusal};
use serde::Serialize;
use serde_json::Value;

/// A tenant, as it may be shown: without its keys.
#[derive(Serialize)]
struct Shown {
    id: String,
    name: String,
    display_name: String,
    email_from: Option<String>,
    sms_from: Option<String>,
    policy: Policy,
    routes: Vec<ShownRoute>,
    created_at: String,
}

#[derive(Serialize)]
struct ShownRoute {
    channel: Channel,
    destination: String,
    providers: Vec<String>,
}

impl Shown {
    async fn of(core: &Core, tenant: Tenant) -> Result<Self, No> {
        let routes = shown_routes(core, &tenant).await?;
        Ok(Self {
            id: tenant.id.to_string(),
            name: tenant.name,
            display_name: tenant.display_name,
            email_from: tenant.email_from,
            sms_from: tenant.sms_from,
            policy: tenant.policy,
            routes,
            created_at: moment(tenant.created_at),
        })
    }

    fn text(&self) -> String {
        let none = "(the provider's)";
        let mut lines = vec![
            format!("{} ({})", self.name, self.id),
            format!("  shown as    {}", self.display_name),
            format!("  email from  {}", self.email_from.as_deref().unwrap_or(none)),
            format!("  sms from    {}", self.sms_from.as_deref().unwrap_or(none)),
            format!("  since       {}", self.created_at),
            "policy (change a rule with `countersign tenant set TENANT --set RULE=VALUE`)".to_owned(),
        ];
        if let Ok(Value::Object(rules)) = serde_json::to_value(&self.policy) {
            let width = rules.keys().map(String::len).max().unwrap_or(0);
            lines.extend(rules.iter().map(|(rule, value)| format!("  {rule:width$}  {value}")));
        }
        lines.push("routes".to_owned());
        lines.push(routes_text(&self.routes, &self.name).lines().map(|it| format!("  {it}")).collect::<Vec<_>>().join("\n"));
        lines.join("\n")
    }
}

pub async fn run(desk: &Desk, home: &Household, command: cli::Tenant) -> Result<(), No> {
    let core = &home.core;
    match command {
        cli::Tenant::Create { tenant: name, change } => {
            let shown_as = change.display_name.clone().unwrap_or_else(|| name.clone());
            let policy = with_rules(Policy::default(), &change.rules)?;
            let senders =
                TenantChange { email_from: change.email_from.map(Some), sms_from: change.sms_from.map(Some), ..TenantChange::default() };
            check_senders(core, &senders).await?;
            let mut made = core.create_tenant(&name, &shown_as, policy).await.map_err(|why| about("tenant", &name, why))?;
            if senders.email_from.is_some() || senders.sms_from.is_some() {
                made = core.change_tenant(made.id, senders).await?;
            }
            let shown = Shown::of(core, made).await?;
            Ok(desk.say.result(&shown, |it| {
                format!(
                    "The tenant {0} is there. Next: an application that may call\n  countersign client create {0} \"My application\"",
                    it.name
                )
            })?)
        }
        cli::Tenant::List => {
            let mut all = Vec::new();
            for tenant in core.tenants().await? {
                all.push(Shown::of(core, tenant).await?);
            }
            Ok(desk.say.result(&all, |all| {
                if all.is_empty() {
                    return "There is no tenant yet. Make one:\n  countersign tenant create NAME".to_owned();
                }
                let rows: Vec<_> = all
                    .iter()
                    .map(|it| [it.name.clone(), it.display_name.clone(), it.routes.len().to_string(), it.created_at.clone()])
                    .collect();
                table(["tenant", "shown as", "routes", "since"], &rows)
            })?)
        }
        cli::Tenant::Show { tenant } => {
            let shown = Shown::of(core, tenant_named(core, &tenant).await?).await?;
            Ok(desk.say.result(&shown, Shown::text)?)
        }
        cli::Tenant::Set { tenant, change } => {
            let before = tenant_named(core, &tenant).await?;
            let change = TenantChange {
                display_name: change.display_name,
                policy: if change.rules.is_empty() { None } else { Some(with_rules(before.policy, &change.rules)?) },
                routes: None,
                email_from: given_or_taken(change.email_from, change.no_email_from),
                sms_from: given_or_taken(change.sms_from, change.no_sms_from),
            };
            let shown = Shown::of(core, core.change_tenant(before.id, change).await?).await?;
            Ok(desk.say.result(&shown, Shown::text)?)
        }
        cli::Tenant::Route(it) => route(desk, core, it).await,
    }
}

/// Whether a tenant could have these senders, before there is one. A tenant that is nowhere is asked to take them: what is
/// wrong with them is said, and nothing is written whatever is said.
async fn check_senders(core: &Core, senders: &TenantChange) -> Result<(), No> {
    let nowhere = TenantId::new(core.now(), &OsChance);
    match core.change_tenant(nowhere, senders.clone()).await {
        Ok(_) | Err(Error::Refused(Refusal::Unknown(_))) => Ok(()),
        Err(why) => Err(why.into()),
    }
}

async fn route(desk: &Desk, core: &Core, command: cli::Route) -> Result<(), No> {
    let (cli::Route::Add { tenant, .. } | cli::Route::Remove { tenant, .. } | cli::Route::List { tenant }) = &command;
    let mut tenant = tenant_named(core, tenant).await?;
    let is_for =
        |route: &Route, channel, destination: &str| route.channel == channel && route.destination.eq_ignore_ascii_case(destination);
    match command {
        cli::Route::List { .. } => {}
        cli::Route::Add { channel, providers, destination, .. } => {
            Route::check_destination(channel, &destination).map_err(|why| No::usage(why.to_string()))?;
            let known = core.providers(tenant.id).await?;
            let mut legs = Vec::new();
            for name in &providers {
                let found = known.iter().find(|it| it.name == *name);
                let found = found.ok_or_else(|| {
                    No::refused(format!("{} has no provider {name}", tenant.name))
                        .hint(format!("`countersign provider list {}` shows those that there are", tenant.name))
                })?;
                if legs.contains(&found.id) {
                    return Err(No::usage(format!("{name} is named twice; each provider is tried once")));
                }
                legs.push(found.id);
            }
            let new = Route { channel, destination, legs };
            match tenant.routes.iter_mut().find(|it| is_for(it, channel, &new.destination)) {
                Some(before) => *before = new,
                None => tenant.routes.push(new),
            }
            tenant = set_routes(core, tenant).await?;
        }
        cli::Route::Remove { channel, destination, .. } => {
            let before = tenant.routes.len();
            tenant.routes.retain(|it| !is_for(it, channel, &destination));
            if tenant.routes.len() == before {
                return Err(No::refused("there is no such route")
                    .hint(format!("`countersign tenant route list {}` shows those that there are", tenant.name)));
            }
            tenant = set_routes(core, tenant).await?;
        }
    }
    let routes = shown_routes(core, &tenant).await?;
    Ok(desk.say.result(&routes, |routes| routes_text(routes, &tenant.name))?)
}

async fn set_routes(core: &Core, tenant: Tenant) -> Result<Tenant, No> {
    Ok(core.change_tenant(tenant.id, TenantChange { routes: Some(tenant.routes), ..TenantChange::default() }).await?)
}

async fn shown_routes(core: &Core, tenant: &Tenant) -> Result<Vec<ShownRoute>, No> {
    let known = if tenant.routes.is_empty() { Vec::new() } else { core.providers(tenant.id).await? };
    let name = |id| known.iter().find(|it| it.id == id).map_or_else(|| format!("{id}"), |it| it.name.clone());
    let shown = |it: &Route| ShownRoute {
        channel: it.channel,
        destination: it.destination.clone(),
        providers: it.legs.iter().copied().map(name).collect(),
    };
    Ok(tenant.routes.iter().map(shown).collect())
}

fn routes_text(routes: &[ShownRoute], tenant: &str) -> String {
    if routes.is_empty() {
        return format!("There is no route, so no code can be sent. Make one:\n  countersign tenant route add {tenant} sms PROVIDER");
    }
    let rows: Vec<_> = routes
        .iter()
        .map(|it| {
            let destination = if it.destination.is_empty() { "everywhere" } else { &it.destination };
            [it.channel.to_string(), destination.to_owned(), it.providers.join(", then ")]
        })
        .collect();
    table(["channel", "for", "providers"], &rows)
}

/// What an option gives, or its opposite takes away.
pub fn given_or_taken(given: Option<String>, taken: bool) -> Option<Option<String>> {
    if taken { Some(None) } else { given.map(Some) }
}

/// The policy with some rules changed. Their types are those of the policy itself.
fn with_rules(policy: Policy, changes: &[String]) -> Result<Policy, No> {
    let broken = |why: serde_json::Error| No::usage(format!("the policy cannot be so: {why}"));
    let Value::Object(mut rules) = serde_json::to_value(policy).map_err(broken)? else {
        return Err(No::usage("a policy is a list of rules"));
    };
    for change in changes {
        let (rule, text) = pair(change, "--set")?;
        let Some(before) = rules.get(rule) else {
            let known: Vec<&str> = rules.keys().map(String::as_str).collect();
            return Err(No::usage(format!("there is no rule {rule}; a policy has {}", known.join(", "))));
        };
        let value = match before {
            Value::Number(_) => {
                text.parse::<u64>().map(Value::from).map_err(|_| No::usage(format!("{rule} takes a whole number, not {text}")))?
            }
            Value::Array(_) => text.split(',').map(str::trim).filter(|it| !it.is_empty()).map(Value::from).collect(),
            _ if text.is_empty() => Value::Null,
            _ => Value::from(text),
        };
        rules.insert(rule.to_owned(), value);
    }
    serde_json::from_value(Value::Object(rules)).map_err(broken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_changed_by_name_and_the_others_stay() {
        let policy = with_rules(Policy::default(), &["code_lifetime_s=120".into(), "countries=44, 1".into(), "region=GB".into()]).unwrap();
        let expected =
            Policy { code_lifetime_s: 120, countries: vec!["44".into(), "1".into()], region: Some("GB".into()), ..Policy::default() };
        assert_eq!(policy, expected);
        let back = with_rules(policy, &["countries=".into(), "region=".into(), "code_lifetime_s=300".into()]).unwrap();
        assert_eq!(back, Policy::default());
    }

    #[test]
    fn a_rule_that_is_none_or_has_no_such_value_is_refused() {
        for (change, told) in [
            ("code_lifetime=1", "a policy has "),
            ("attempts=many", "whole number"),
            ("attempts=0", "cannot be so"),
            ("attempts", "NAME=VALUE"),
        ] {
            let no = with_rules(Policy::default(), &[change.into()]).unwrap_err();
            assert!(no.to_string().contains(told), "{change}: {no}");
        }
    }
}
