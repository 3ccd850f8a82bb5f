//! The commands: each opens the same database as the server, says one thing to the core, and tells what came of it.
//!
//! Owns what they share. A running server sees their changes within two seconds ([`countersign_core::verbs::standing::FRESH`]).

mod backup;
mod client;
mod completions;
mod copy;
mod dev;
mod doctor;
mod import;
mod key;
mod provider;
mod pryv;
mod restore;
mod serve;
mod template;
mod tenant;
mod user;

use crate::cli::{Cli, Command};
use crate::config::{CONFIG, Config, Environment};
use crate::household::Household;
use crate::logs;
use crate::no::No;
use crate::say::Say;
use countersign_core::Core;
use countersign_core::nouns::tenant::Tenant;
use countersign_core::words::address::{Address, Channel, EmailAddress, PhoneNumber};
use countersign_core::words::refusal::{Error, Refusal};
use countersign_core::words::wording::Message;
use std::io;
use std::path::PathBuf;
use tokio::runtime::{Builder, Runtime};

/// What every command is lent.
pub struct Desk {
    /// The settings file that was named.
    file: Option<PathBuf>,
    /// The environment.
    environment: Environment,
    /// To whom results are told.
    say: Say,
}

/// Does what the command line says.
///
/// # Errors
/// Why it was not done, for standard error and the exit code.
pub fn run(cli: Cli, environment: Environment) -> Result<(), No> {
    if cli.config.is_some() && matches!(cli.command, Command::Dev(_)) {
        return Err(No::usage("a trial has settings of its own, so --config means nothing to it")
            .hint("name its folder with --data; the settings are countersign.toml in there"));
    }
    let file = cli.config.or_else(|| environment.get(CONFIG).map(PathBuf::from));
    let desk = Desk { file, environment, say: if cli.json { Say::Json } else { Say::Text } };
    match cli.command {
        Command::Dev(it) => dev::run(&desk, it),
        Command::Serve(it) => serve::run(&desk, &it),
        Command::Tenant(it @ crate::cli::Tenant::Create { .. }) => {
            desk.with_new_household(async |home, desk| tenant::run(desk, home, it).await)
        }
        Command::Tenant(it) => desk.with_household(async |home, desk| tenant::run(desk, home, it).await),
        Command::Client(it) => desk.with_household(async |home, desk| client::run(desk, home, it).await),
        Command::Provider(crate::cli::Provider::Presets) => provider::show_presets(&desk),
        Command::Provider(it) => desk.with_household(async |home, desk| provider::run(desk, home, it).await),
        Command::Template(it) => desk.with_household(async |home, desk| template::run(desk, home, it).await),
        Command::User(it) => desk.with_household(async |home, desk| user::run(desk, home, it).await),
        Command::Import(it) => import::run(&desk, it),
        Command::Pryv(it) => desk.with_household(async |home, desk| pryv::run(desk, home, it).await),
        Command::Backup(it) => backup::run(&desk, it),
        Command::Restore(it) => restore::run(&desk, it),
        Command::Copy(it) => copy::run(&desk, &it),
        Command::Key(it) => desk.with_household(async |home, desk| key::run(desk, home, it).await),
        Command::Doctor(it) => doctor::run(&desk, &it),
        Command::Completions { shell } => completions::run(shell),
    }
}

impl Desk {
    /// The settings.
    fn config(&self) -> Result<Config, No> {
        Ok(Config::read(self.file.as_deref(), &self.environment)?)
    }

    /// Opens the household for one command, and closes it in order whatever came of it. Where there is no database, none is
    /// made: whoever lists tenants in another folder than the server's wants to know that, and no second key.
    fn with_household(&self, work: impl AsyncFnOnce(&Household, &Self) -> Result<(), No>) -> Result<(), No> {
        let config = self.config()?;
        self.at_work(
            async {
                Household::refuse_where_none_is(&config).await?;
                Household::open(&config).await
            },
            work,
        )
    }

    /// The same for the one command that begins a database, or adds a tenant to one: whoever has the key of another house must not.
    fn with_new_household(&self, work: impl AsyncFnOnce(&Household, &Self) -> Result<(), No>) -> Result<(), No> {
        let config = self.config()?;
        self.at_work(Household::open(&config), async |household, desk| {
            household.opens_all().await?;
            work(household, desk).await
        })
    }

    fn at_work(
        &self,
        opening: impl Future<Output = Result<Household, No>>,
        work: impl AsyncFnOnce(&Household, &Self) -> Result<(), No>,
    ) -> Result<(), No> {
        logs::begin_for_commands();
        one_thread()?.block_on(async {
            let household = opening.await?;
            let done = work(&household, self).await;
            household.close_after_command().await;
            done
        })
    }
}

/// A runtime for one thing after the other.
///
/// # Errors
/// When the system refuses it.
pub fn one_thread() -> Result<Runtime, No> {
    Builder::new_current_thread().enable_all().build().map_err(no_runtime)
}

/// A runtime for a server: a thread for each core.
fn all_cores() -> Result<Runtime, No> {
    Builder::new_multi_thread().enable_all().build().map_err(no_runtime)
}

fn no_runtime(why: io::Error) -> No {
    No::unavailable(format!("threads cannot be started: {why}"))
}

impl From<io::Error> for No {
    /// Only printing ends so: a full disk, most likely.
    fn from(why: io::Error) -> Self {
        Self::unavailable(format!("the result cannot be printed: {why}"))
    }
}

/// What a person wrote: a mailbox where there is an @, a number otherwise.
fn address_of(tenant: &Tenant, text: &str) -> Result<Address, No> {
    if text.contains('@') {
        return EmailAddress::parse(text).map(Address::Email).map_err(|why| No::usage(why.to_string()));
    }
    PhoneNumber::parse(text, tenant.policy.region.as_deref()).map(Address::Phone).map_err(|why| No::usage(why.to_string()))
}

/// What a test message says. It holds no code, so that nobody takes it for one.
fn test_message(tenant: &Tenant, channel: Channel, to: &str) -> Result<Message, No> {
    let to = match channel {
        Channel::Email => Address::Email(EmailAddress::parse(to).map_err(|why| No::usage(why.to_string()))?),
        Channel::External => return Err(No::usage("where an external message goes, only an application knows: ask for a code there")),
        Channel::Sms | Channel::Voice | Channel::Totp => {
            Address::Phone(PhoneNumber::parse(to, tenant.policy.region.as_deref()).map_err(|why| No::usage(why.to_string()))?)
        }
    };
    Ok(Message {
        channel,
        to,
        from: tenant.sender(channel).map(str::to_owned),
        subject: (channel == Channel::Email).then(|| "A test message".to_owned()),
        text: format!("This is a test message of {}. There is nothing to do.", tenant.display_name),
        html: None,
        code: "000000".to_owned(),
    })
}

/// The tenant of this name.
async fn tenant_named(core: &Core, name: &str) -> Result<Tenant, No> {
    core.tenant_named(name).await.map_err(|why| about("tenant", name, why))
}

/// Says which `kind` of thing is not there, or is there already. The core does not repeat what it was asked; a command can.
fn about(kind: &'static str, name: &str, why: Error) -> No {
    let what = match &why {
        Error::Refused(Refusal::Unknown(it)) if *it == kind => format!("there is no {kind} {name}"),
        Error::Refused(Refusal::NameTaken) => format!("there is a {kind} {name} already"),
        _ => return why.into(),
    };
    No { what, ..No::from(why) }
}

/// What to write where a provider was not called because the settings do not allow it.
fn barred(why: &str) -> Option<String> {
    if why.contains("(egress.allow)") {
        return Some("to allow it, write its network or its name into the settings file:  [egress] allow = [\"10.1.2.0/24\"], or allow_hosts = [\"sms.internal\"]".to_owned());
    }
    why.contains("(egress.allow_plain_http)")
        .then(|| "use https://, or write into the settings file:  [egress] allow_plain_http = true".to_owned())
}

/// So many of them, in words.
fn count(many: u64, what: &str) -> String {
    format!("{many} {what}{}", if many == 1 { "" } else { "s" })
}

/// `NAME=VALUE` of an option.
fn pair<'a>(given: &'a str, option: &str) -> Result<(&'a str, &'a str), No> {
    given.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or_else(|| No::usage(format!("{option} {given}: write NAME=VALUE")))
}
