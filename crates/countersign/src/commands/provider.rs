//! `countersign provider`: who carries messages.

use super::{Desk, about, barred, pair, tenant_named, test_message};
use crate::cli;
use crate::household::Household;
use crate::no::No;
use crate::say::{moment, table};
use countersign_core::Core;
use countersign_core::nouns::provider::ProviderSettings;
use countersign_core::nouns::tenant::Tenant;
use countersign_core::verbs::manage::NewProvider;
use countersign_core::words::address::Channel;
use countersign_providers::presets;
use serde::Serialize;
use serde_json::{Map, Value};
use std::io;
use std::path::Path;

/// A provider, as it may be shown: its secrets by name only.
#[derive(Serialize)]
struct Shown {
    name: String,
    kind: String,
    channels: Vec<Channel>,
    settings: Value,
    secrets: Vec<String>,
    created_at: String,
}

#[derive(Serialize)]
struct Tried {
    provider: String,
    ok: bool,
    said: String,
}

/// A vendor whose interface is known.
#[derive(Serialize)]
struct ShownPreset {
    preset: &'static str,
    about: &'static str,
    needs: Vec<ShownOption>,
    takes: Vec<ShownOption>,
    secrets: &'static [&'static str],
}

#[derive(Serialize)]
struct ShownOption {
    option: &'static str,
    about: &'static str,
}

#[derive(Serialize)]
struct Done {
    provider: String,
    done: &'static str,
}

impl Shown {
    fn of(it: ProviderSettings) -> Self {
        Self {
            name: it.name,
            kind: it.kind,
            channels: it.channels,
            settings: it.settings,
            secrets: it.secrets.into_keys().collect(),
            created_at: moment(it.created_at),
        }
    }

    fn channels(&self) -> String {
        self.channels.iter().map(|it| it.as_str()).collect::<Vec<_>>().join(", ")
    }
}

/// `countersign provider presets`. It asks no database.
pub fn show_presets(desk: &Desk) -> Result<(), No> {
    let options = |all: &[presets::Opt], needed| {
        let some = all.iter().filter(|it| it.needed == needed);
        some.map(|it| ShownOption { option: it.name, about: it.about }).collect()
    };
    let all: Vec<_> = presets::ALL
        .iter()
        .map(|it| ShownPreset {
            preset: it.name,
            about: it.about,
            needs: options(it.options, true),
            takes: options(it.options, false),
            secrets: it.secrets,
        })
        .collect();
    Ok(desk.say.result(&all, |all| {
        let mut lines = Vec::new();
        for it in all {
            lines.push(format!("{}: {}", it.preset, it.about));
            lines.extend(it.needs.iter().map(|it| format!("  --set {}=…  {}", it.option, it.about)));
            lines.extend(it.takes.iter().map(|it| format!("  [--set {}=…]  {}", it.option, it.about)));
            lines.extend(it.secrets.iter().map(|it| format!("  --secret-file {it}=…")));
        }
        lines.join("\n")
    })?)
}

pub async fn run(desk: &Desk, home: &Household, command: cli::Provider) -> Result<(), No> {
    let core = &home.core;
    let (cli::Provider::Add { tenant, .. }
    | cli::Provider::List { tenant }
    | cli::Provider::Show { tenant, .. }
    | cli::Provider::Test { tenant, .. }
    | cli::Provider::Remove { tenant, .. }) = &command
    else {
        return show_presets(desk);
    };
    let tenant = tenant_named(core, tenant).await?;
    match command {
        cli::Provider::Presets => show_presets(desk),
        cli::Provider::Add { provider, channels, preset, kind, file, settings, secrets, .. } => {
            let new = match preset {
                Some(preset) => from_preset(&preset, channels, &settings)?,
                None => from_file(kind, channels, file.as_deref(), &settings)?,
            };
            secrets.prompt();
            let secrets = secrets.read(&desk.environment, io::stdin())?;
            if new.kind == "http" && !carries_message(&new.settings) {
                eprintln!(
                    "countersign: warning: the request of {provider} names neither {{{{ text }}}} nor {{{{ code }}}}, so nobody would read a code in it"
                );
            }
            let settings = new.settings.clone();
            let put = core.put_provider(tenant.id, NewProvider { name: provider, secrets, ..new }).await;
            let shown = Shown::of(put.map_err(|why| not_built(&settings, why.into()))?);
            Ok(desk.say.result(&shown, |it| {
                let channel = it.channels.first().map_or("sms", |it| it.as_str());
                format!(
                    "The provider {name} is there, for {}. Next: see whether it can be reached, and let messages go by it\n  \
                     countersign provider test {tenant} {name}\n  countersign tenant route add {tenant} {channel} {name}",
                    it.channels(),
                    name = it.name,
                    tenant = tenant.name,
                )
            })?)
        }
        cli::Provider::List { .. } => {
            let all: Vec<_> = core.providers(tenant.id).await?.into_iter().map(Shown::of).collect();
            Ok(desk.say.result(&all, |all| {
                if all.is_empty() {
                    return format!("There is no provider yet. Make one:\n  countersign provider add {} NAME --preset VENDOR", tenant.name);
                }
                let rows: Vec<_> = all
                    .iter()
                    .map(|it| [it.name.clone(), it.kind.clone(), it.channels(), it.secrets.join(", "), it.created_at.clone()])
                    .collect();
                table(["provider", "kind", "channels", "secrets", "since"], &rows)
            })?)
        }
        cli::Provider::Show { provider, .. } => {
            let shown = Shown::of(find(core, &tenant, &provider).await?);
            Ok(desk.say.result(&shown, |it| {
                let settings = serde_json::to_string_pretty(&it.settings).unwrap_or_default();
                let secrets = if it.secrets.is_empty() { "none".to_owned() } else { it.secrets.join(", ") };
                format!("{} ({}, for {})\nsecrets: {secrets}\nsettings: {settings}", it.name, it.kind, it.channels())
            })?)
        }
        cli::Provider::Test { provider, send, channel, .. } => {
            let said = match send {
                None => core.probe_provider(tenant.id, &provider).await.map_err(|why| about("provider", &provider, why))?,
                Some(to) => {
                    let channel = only_channel(&find(core, &tenant, &provider).await?, channel)?;
                    core.send_test(tenant.id, &provider, test_message(&tenant, channel, &to)?).await?
                }
            };
            let tried = Tried { provider, ok: said.is_ok(), said: said.unwrap_or_else(|why| why) };
            desk.say.result(&tried, |it| format!("{}: {}", it.provider, it.said))?;
            if tried.ok {
                return Ok(());
            }
            let no = No::refused(format!("{} did not pass the test", tried.provider));
            Err(No { hint: barred(&tried.said), ..no })
        }
        cli::Provider::Remove { provider, .. } => {
            core.remove_provider(tenant.id, &provider).await.map_err(|why| about("provider", &provider, why))?;
            Ok(desk.say.result(&Done { provider, done: "removed" }, |it| format!("The provider {} is removed.", it.provider))?)
        }
    }
}

async fn find(core: &Core, tenant: &Tenant, name: &str) -> Result<ProviderSettings, No> {
    let found = core.providers(tenant.id).await?.into_iter().find(|it| it.name == name);
    found.ok_or_else(|| {
        No::refused(format!("{} has no provider {name}", tenant.name))
            .hint(format!("`countersign provider list {}` shows those that there are", tenant.name))
    })
}

fn only_channel(provider: &ProviderSettings, asked: Option<Channel>) -> Result<Channel, No> {
    match (asked, &provider.channels[..]) {
        (Some(channel), all) if all.contains(&channel) => Ok(channel),
        (Some(channel), _) => Err(No::usage(format!("{} does not serve {channel}", provider.name))),
        (None, [channel]) => Ok(*channel),
        (None, _) => Err(No::usage(format!("{} serves more than one channel; say which with --channel", provider.name))),
    }
}

/// A provider of a vendor whose interface is known. Name and secrets come later.
fn from_preset(preset: &str, channels: Vec<Channel>, options: &[String]) -> Result<NewProvider, No> {
    let options = options.iter().map(|it| pair(it, "--set").map(|(name, value)| (name.to_owned(), value.to_owned())));
    let settings = presets::settings(preset, &options.collect::<Result<_, _>>()?).map_err(|why| {
        No::usage(why).hint("`countersign provider presets` shows what each needs: options by --set, secrets by --secret-file and the like")
    })?;
    // Presets are for texts, unless their name says otherwise.
    let own = if preset.ends_with("-voice") { Channel::Voice } else { Channel::Sms };
    let channels = if channels.is_empty() { vec![own] } else { channels };
    new_provider("http", channels, settings, &[])
}

fn from_file(kind: String, channels: Vec<Channel>, file: Option<&Path>, changes: &[String]) -> Result<NewProvider, No> {
    let settings = match file {
        None => Value::Object(Map::new()),
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|why| No::usage(format!("{} cannot be read: {why}", path.display())))?;
            read_settings(&text).map_err(|why| No::usage(format!("{}: {why}", path.display())))?
        }
    };
    let channels = match (channels.is_empty(), kind.as_str()) {
        (false, _) => channels,
        (true, "smtp") => vec![Channel::Email],
        (true, "inbox") => Channel::SENT.to_vec(),
        (true, "pryv") => vec![Channel::External],
        (true, _) => return Err(No::usage("say which channels it serves, such as --channel sms")),
    };
    new_provider(&kind, channels, settings, changes)
}

fn new_provider(kind: &str, channels: Vec<Channel>, mut settings: Value, changes: &[String]) -> Result<NewProvider, No> {
    let Value::Object(map) = &mut settings else { return Err(No::usage("the settings of a provider are a table of names and values")) };
    for change in changes {
        let (name, text) = pair(change, "--set")?;
        let (path, last) = name.rsplit_once('.').map_or((None, name), |(path, last)| (Some(path), last));
        let mut inner = &mut *map;
        for part in path.iter().flat_map(|it| it.split('.')) {
            let next = inner.entry(part).or_insert_with(|| Value::Object(Map::new()));
            inner = next.as_object_mut().ok_or_else(|| No::usage(format!("--set {change}: {part} is no table")))?;
        }
        inner.insert(last.to_owned(), value_of(text));
    }
    Ok(NewProvider { name: String::new(), channels, kind: kind.to_owned(), settings, secrets: Default::default() })
}

/// Says which setting it was where only its value is told, and how a barred host is allowed.
fn not_built(settings: &Value, no: No) -> No {
    let hint = barred(&no.what).or(no.hint);
    No { what: in_plain_words(settings, &no.what).unwrap_or(no.what), hint, ..no }
}

/// The reader of settings says `invalid type: string "abc", expected u16`, and not of which setting.
fn in_plain_words(settings: &Value, why: &str) -> Option<String> {
    let (_, told) = why.split_once("invalid type: ").or_else(|| why.split_once("invalid value: "))?;
    let (found, expected) = told.split_once(", expected ")?;
    let is_it = |value: &Value| match value {
        Value::String(text) => found == format!("string {text:?}"),
        Value::Number(number) => [format!("integer `{number}`"), format!("floating point `{number}`")].iter().any(|it| it == found),
        Value::Bool(it) => found == format!("boolean `{it}`"),
        Value::Array(_) => found == "sequence",
        Value::Object(_) => found == "map",
        Value::Null => found == "null",
    };
    let mut settings: Vec<&str> = settings.as_object()?.iter().filter(|(_, value)| is_it(value)).map(|(name, _)| name.as_str()).collect();
    let (Some(setting), true) = (settings.pop(), settings.is_empty()) else { return None };
    let takes = match expected.split([' ', ',']).next()? {
        "u8" | "u16" | "u32" | "u64" | "usize" | "nonzero" => "a whole number within its range",
        _ if expected.starts_with("a string") => "a text",
        _ if expected.starts_with("a boolean") => "true or false",
        _ if expected.starts_with("a sequence") => "a list",
        _ if expected.starts_with("a map") || expected.starts_with("struct") => "a table of names and values",
        _ => expected,
    };
    Some(format!("the setting {setting} takes {takes}"))
}

/// Whether the request says anything of the message.
fn carries_message(settings: &Value) -> bool {
    fn names_it(text: &str) -> bool {
        let said = text.split("{{").chain(text.split("{%")).skip(1).filter_map(|it| it.split_once('}')).map(|(inside, _)| inside);
        let mut words = said.flat_map(|it| it.split(|c: char| !c.is_alphanumeric() && c != '_' && c != '.'));
        words.any(|it| ["text", "code", "html"].contains(&it))
    }
    fn walk(value: &Value) -> bool {
        match value {
            Value::String(text) => names_it(text),
            Value::Array(all) => all.iter().any(walk),
            Value::Object(all) => all.iter().any(|(name, value)| names_it(name) || walk(value)),
            Value::Null | Value::Bool(_) | Value::Number(_) => false,
        }
    }
    ["url", "query", "headers", "json", "form", "body"].into_iter().filter_map(|it| settings.get(it)).any(walk)
}

/// What a person means by `587`, `true` or `smtp.example.com`. A number that is text is written in quotes: `"0049"`.
fn value_of(text: &str) -> Value {
    match serde_json::from_str(text) {
        Ok(value @ (Value::Number(_) | Value::Bool(_) | Value::String(_) | Value::Array(_) | Value::Object(_))) => value,
        _ => Value::from(text),
    }
}

/// JSON where it begins so, TOML otherwise.
fn read_settings(text: &str) -> Result<Value, String> {
    if text.trim_start().starts_with('{') {
        return serde_json::from_str(text).map_err(|why| why.to_string());
    }
    let table: toml::Table = text.parse().map_err(|why: toml::de::Error| why.to_string())?;
    serde_json::to_value(table).map_err(|why| why.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn settings_are_read_from_json_and_from_toml() {
        let toml = "url = \"https://sms.example.com\"\n[headers]\nx = \"{{ code }}\"";
        let json = r#" {"url":"https://sms.example.com","headers":{"x":"{{ code }}"}} "#;
        assert_eq!(read_settings(toml), read_settings(json));
        assert!(read_settings("url = ").unwrap_err().contains("line 1"));
    }

    #[test]
    fn a_value_of_another_type_is_told_by_the_name_of_its_setting() {
        let settings = json!({"host": "abc", "port": "xyz", "pool": 700, "tls": true});
        let told = |why: &str| in_plain_words(&settings, why);
        assert_eq!(
            told("invalid type: string \"xyz\", expected u16").as_deref(),
            Some("the setting port takes a whole number within its range")
        );
        assert_eq!(
            told("invalid value: integer `700`, expected u8").as_deref(),
            Some("the setting pool takes a whole number within its range")
        );
        assert_eq!(told("the name cannot be resolved"), None);
    }

    #[test]
    fn a_request_without_the_message_is_noticed() {
        assert!(carries_message(&json!({"url": "https://a.example/?t={{ text | upper }}"})));
        assert!(carries_message(&json!({"json": {"a": [{"b": "{% if code %}x{% endif %}"}]}})));
        assert!(!carries_message(&json!({"url": "https://a.example/text", "json": {"text": "hello", "key": "{{ secret.code }}"}})));
    }

    #[test]
    fn single_settings_go_over_those_of_the_file() {
        let settings = json!({"host": "a", "tls": {"mode": "x"}});
        let changes = ["host=smtp.example.com", "port=587", "tls.name=b", "from=\"0049\""].map(str::to_owned);
        let new = new_provider("smtp", vec![Channel::Email], settings, &changes).unwrap();
        assert_eq!(new.settings, json!({"host": "smtp.example.com", "port": 587, "tls": {"mode": "x", "name": "b"}, "from": "0049"}));
    }
}
