//! The command line: what can be said, and how it is explained. What it does is in [`crate::commands`].

use crate::import::pryv::{Mode, whole_ms};
use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use countersign_core::words::address::Channel;
use countersign_web::pryv::Generation;
use std::net::SocketAddr;
use std::path::PathBuf;
use url::Url;

/// What scripts may rely on.
const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  refused, or found wrong: trying again changes nothing
  2  the command line or a setting is wrong
  3  something that is needed is away, such as the database or a port: trying again may help

Secrets are never arguments, for arguments can be seen by everybody on the machine and stay in shell histories.";

/// Second-factor authentication for any application, on a server of your own.
#[derive(Debug, Parser)]
#[command(name = "countersign", version, after_help = EXIT_CODES)]
pub struct Cli {
    /// The settings file; ./countersign.toml when it is there and none is named (also COUNTERSIGN_CONFIG)
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print one JSON document instead of text
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Try it: everything embedded, a demo tenant, and an inbox page instead of real messages
    Dev(Dev),
    /// Run the server
    Serve(Serve),
    /// Tenants: organisations with their own policy, senders and routes
    #[command(subcommand)]
    Tenant(Tenant),
    /// Clients: the applications that call the API
    #[command(subcommand)]
    Client(Client),
    /// Providers: who carries messages
    #[command(subcommand)]
    Provider(Provider),
    /// Templates: a tenant's own words
    #[command(subcommand)]
    Template(Template),
    /// Users: the people
    #[command(subcommand)]
    User(User),
    /// Make a tenant of what another product was told, or change one
    #[command(subcommand)]
    Import(Import),
    /// How a tenant speaks to applications made for Pryv.io
    #[command(subcommand)]
    Pryv(Pryv),
    /// Write everything into one sealed file, while the server serves
    Backup(Backup),
    /// Put a backup in the place of the database, or make one fit that was brought back otherwise; the server must be stopped
    Restore(Restore),
    /// Copy everything into another database, from a file to PostgreSQL or back; the server must be stopped
    Copy(Copy),
    /// The master key, which opens all others
    #[command(subcommand)]
    Key(Key),
    /// Look for what is wrong: settings, files, database, keys, clock, routes and providers
    Doctor(Doctor),
    /// Print completions for a shell, for its own folder of completions
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// `dev`.
#[derive(Debug, Args)]
#[command(after_help = "With --json, one line is printed once it is ready:\n  \
    {\"base_url\",\"tenant\",\"token_url\",\"client_id\",\"client_secret\",\"inbox_url\"}")]
pub struct Dev {
    /// The loopback address to listen on; port 0 takes a free one [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = here)]
    pub listen: Option<SocketAddr>,
    /// The folder that keeps everything between two starts [default: countersign/dev in your data folder]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
}

/// `serve`.
#[derive(Debug, Args)]
pub struct Serve {
    /// Check the settings, and do not run
    #[arg(long)]
    pub check: bool,
    /// Print the reference: all settings with their defaults, as a file to begin with
    #[arg(long, conflicts_with = "check")]
    pub reference: bool,
}

/// `tenant …`.
#[derive(Debug, Subcommand)]
pub enum Tenant {
    /// Make a tenant
    Create {
        /// What commands call it: a-z, 0-9 and -
        tenant: String,
        #[command(flatten)]
        change: TenantChange,
    },
    /// List all tenants
    List,
    /// Show a tenant with its policy, senders and routes
    Show {
        /// Which tenant
        tenant: String,
    },
    /// Change a tenant
    Set {
        /// Which tenant
        tenant: String,
        #[command(flatten)]
        change: TenantChange,
    },
    /// Which providers carry what, and in which order
    #[command(subcommand)]
    Route(Route),
}

/// What `tenant create` and `tenant set` can say about a tenant.
#[derive(Debug, Args)]
pub struct TenantChange {
    /// What people read in messages
    #[arg(long, value_name = "TEXT")]
    pub display_name: Option<String>,
    /// A rule of its policy, such as code_lifetime_s=120 or countries=44,1; `tenant show` lists them
    #[arg(long = "set", value_name = "RULE=VALUE")]
    pub rules: Vec<String>,
    /// Who its letters are from: `Name <address>`
    #[arg(long, value_name = "MAILBOX")]
    pub email_from: Option<String>,
    /// Let the provider say who letters are from
    #[arg(long, conflicts_with = "email_from")]
    pub no_email_from: bool,
    /// Who its texts are from: a number, a short code, or up to 11 letters and digits
    #[arg(long, value_name = "SENDER")]
    pub sms_from: Option<String>,
    /// Let the provider say who texts are from
    #[arg(long, conflicts_with = "sms_from")]
    pub no_sms_from: bool,
}

/// `tenant route …`.
#[derive(Debug, Subcommand)]
pub enum Route {
    /// Make a route, or change the one for the same channel and destination
    Add {
        /// Which tenant
        tenant: String,
        /// sms, voice, email or external
        #[arg(value_parser = routed)]
        channel: Channel,
        /// The providers, first choice first; the next is tried when one refuses or is away
        #[arg(required = true)]
        providers: Vec<String>,
        /// Only for numbers that begin so (+91), or for addresses of this domain (example.com)
        #[arg(long = "for", value_name = "DESTINATION", default_value = "")]
        destination: String,
    },
    /// Remove a route
    Remove {
        /// Which tenant
        tenant: String,
        /// sms, voice, email or external
        #[arg(value_parser = routed)]
        channel: Channel,
        /// The destination that it is for
        #[arg(long = "for", value_name = "DESTINATION", default_value = "")]
        destination: String,
    },
    /// List the routes of a tenant
    List {
        /// Which tenant
        tenant: String,
    },
}

/// `client …`.
#[derive(Debug, Subcommand)]
pub enum Client {
    /// Make a client, and print its id and its secret, which is told only once
    Create {
        /// Which tenant
        tenant: String,
        /// What people call it
        name: String,
        /// Its client_id, when it has one from elsewhere; drawn otherwise
        #[arg(long)]
        client_id: Option<String>,
        /// The registration under which its users are named; drawn otherwise
        #[arg(long)]
        application: Option<String>,
        /// Who its letters are from, instead of the tenant: `Name <address>`
        #[arg(long, value_name = "MAILBOX")]
        email_from: Option<String>,
        /// The secret called `client_secret`, when it has one from elsewhere; drawn otherwise
        #[command(flatten)]
        secrets: Secrets,
    },
    /// List the clients of a tenant
    List {
        /// Which tenant
        tenant: String,
    },
    /// Change a client
    Set {
        /// Which tenant
        tenant: String,
        /// Its client_id
        client_id: String,
        /// What people call it
        #[arg(long)]
        name: Option<String>,
        /// Who its letters are from, instead of the tenant: `Name <address>`
        #[arg(long, value_name = "MAILBOX")]
        email_from: Option<String>,
        /// Let its letters be from the tenant's sender
        #[arg(long, conflicts_with = "email_from")]
        no_email_from: bool,
    },
    /// Draw another secret for a client, and print it, once
    Rotate {
        /// Which tenant
        tenant: String,
        /// Its client_id
        client_id: String,
        /// Let the secret before work as well, until the next rotation
        #[arg(long)]
        keep_old: bool,
    },
    /// Switch a client off: it gets no tokens, and those it has stop working
    Disable {
        /// Which tenant
        tenant: String,
        /// Its client_id
        client_id: String,
    },
    /// Switch a client on again
    Enable {
        /// Which tenant
        tenant: String,
        /// Its client_id
        client_id: String,
    },
    /// Remove a client, and with it the way to its users' devices
    Remove {
        /// Which tenant
        tenant: String,
        /// Its client_id
        client_id: String,
    },
}

/// `provider …`.
#[derive(Debug, Subcommand)]
pub enum Provider {
    /// List the vendors whose interface is known, and what each needs
    Presets,
    /// Make a provider, or change the one of this name; secrets that are not given again stay
    Add {
        /// Which tenant
        tenant: String,
        /// What commands call it: a-z, 0-9 and -
        provider: String,
        /// What it serves: sms, voice, email, external; more than one with commas [default: those of the preset]
        #[arg(long = "channel", value_name = "CHANNEL", value_delimiter = ',', value_parser = routed)]
        channels: Vec<Channel>,
        /// A vendor whose interface is known; `provider presets` lists them
        #[arg(long, value_name = "VENDOR", conflicts_with_all = ["kind", "file"])]
        preset: Option<String>,
        /// http, smtp, inbox or pryv
        #[arg(long, default_value = "http")]
        kind: String,
        /// The settings of its kind, as JSON or TOML
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// An option of the preset, or a setting over those of the file: host=smtp.example.com
        #[arg(long = "set", value_name = "NAME=VALUE")]
        settings: Vec<String>,
        #[command(flatten)]
        secrets: Secrets,
    },
    /// List the providers of a tenant
    List {
        /// Which tenant
        tenant: String,
    },
    /// Show the settings of a provider; secrets by name only
    Show {
        /// Which tenant
        tenant: String,
        /// Which provider
        provider: String,
    },
    /// See whether a provider can be reached, or send a test message by it
    Test {
        /// Which tenant
        tenant: String,
        /// Which provider
        provider: String,
        /// Send a message without a code to this number or address
        #[arg(long, value_name = "TO")]
        send: Option<String>,
        /// The channel of the message, when the provider serves more than one
        #[arg(long, value_parser = carried, requires = "send")]
        channel: Option<Channel>,
    },
    /// Remove a provider that no route names
    Remove {
        /// Which tenant
        tenant: String,
        /// Which provider
        provider: String,
    },
}

/// `template …`.
#[derive(Debug, Subcommand)]
pub enum Template {
    /// Make a template, or change the one of this name
    Put {
        /// Which tenant
        tenant: String,
        /// What requests call it (templateName); `default` for those that name none
        name: String,
        /// sms, voice or email
        #[arg(value_parser = carried)]
        channel: Channel,
        /// The file with the text; - is standard input
        #[arg(long, value_name = "FILE")]
        text: PathBuf,
        /// The file with the same as HTML, for letters
        #[arg(long, value_name = "FILE")]
        html: Option<PathBuf>,
        /// The subject of a letter
        #[arg(long)]
        subject: Option<String>,
        /// Only for the client with this client_id
        #[arg(long, value_name = "CLIENT_ID")]
        client: Option<String>,
    },
    /// List the templates of a tenant
    List {
        /// Which tenant
        tenant: String,
    },
    /// Show the words of a template, or the standard ones of a channel where it has no `default`
    Show {
        /// Which tenant
        tenant: String,
        /// Its name
        name: String,
        /// sms, voice or email
        #[arg(value_parser = carried)]
        channel: Channel,
        /// The one of the client with this client_id
        #[arg(long, value_name = "CLIENT_ID")]
        client: Option<String>,
    },
    /// Remove a template
    Remove {
        /// Which tenant
        tenant: String,
        /// Its name
        name: String,
        /// sms, voice or email
        #[arg(value_parser = carried)]
        channel: Channel,
        /// The one of the client with this client_id
        #[arg(long, value_name = "CLIENT_ID")]
        client: Option<String>,
    },
}

/// `user …`.
#[derive(Debug, Subcommand)]
pub enum User {
    /// Clear a person's wrong codes, so that a locked factor opens
    Unlock {
        /// Which tenant
        tenant: String,
        /// The client_id of the application that knows the person; - for a person of the tenant itself, as with Pryv.io
        client_id: String,
        /// What the application calls the person
        login: String,
        /// sms, voice, email, external or totp; all of them when absent
        #[arg(long, value_parser = any_channel)]
        channel: Option<Channel>,
        /// Clear the wrong codes of this number or address as well, which are counted by themselves
        #[arg(long, value_name = "NUMBER|ADDRESS")]
        address: Option<String>,
    },
    /// Make a person, where the tenant keeps the directory itself
    Add {
        /// What the person logs in with
        name: String,
        /// Which tenant
        #[arg(long, value_name = "NAME")]
        tenant: String,
        /// The file with the password; - is standard input
        #[arg(long, value_name = "PATH")]
        password_file: PathBuf,
        /// The language that the person prefers
        #[arg(long, value_name = "LANGUAGE", default_value = "en")]
        language: String,
    },
    /// Give a person another password; whoever is logged in stays so
    Password {
        /// What the person logs in with
        name: String,
        /// Which tenant
        #[arg(long, value_name = "NAME")]
        tenant: String,
        /// The file with the password; - is standard input
        #[arg(long, value_name = "PATH")]
        password_file: PathBuf,
    },
    /// Remove a person, with everything that is theirs
    Remove {
        /// What the person logs in with
        name: String,
        /// Which tenant
        #[arg(long, value_name = "NAME")]
        tenant: String,
    },
    /// Take a person's second factor away, when the phone and the recovery codes are lost; they log in with the password alone then
    ResetMfa {
        /// What the person logs in with
        name: String,
        /// Which tenant
        #[arg(long, value_name = "NAME")]
        tenant: String,
    },
}

/// `import …`.
#[derive(Debug, Subcommand)]
pub enum Import {
    /// From Pryv.io: its platform settings, the admin panel's JSON, the MFA service's own file, or the endpoints alone
    Pryv(ImportPryv),
}

/// `import pryv`.
#[derive(Debug, Args)]
#[command(after_help = "\
It says by line what it took, what it ignored, what it doubts and what is wrong; credentials are never shown. Running it\n\
again changes the tenant, and a running server sees that within two seconds.\n\n\
With --json: {\"file\",\"tenant\",\"done\",\"found\",\"mode\",\"settings\",\"took\",\"ignored\",\"warnings\",\"wrong\"}, where the last four\n\
hold {\"line\",\"column\",\"what\"}")]
pub struct ImportPryv {
    /// The file, YAML or JSON; - is standard input
    pub file: PathBuf,
    /// Which tenant; it is made when it is not there
    #[arg(long, value_name = "NAME", default_value = "pryv")]
    pub tenant: String,
    /// How codes are made, whatever the file says: single or challenge-verify
    #[arg(long, value_name = "MODE", value_parser = pryv_mode)]
    pub mode: Option<Mode>,
    /// The core that stays behind it, such as http://core:3000, or none [default: that of the file]
    #[arg(long, value_name = "URL", value_parser = url_or_none)]
    pub core_url: Option<OrNone<Url>>,
    /// The domain below which each person has a host, or none for people in the path [default: DOMAIN of the file]
    #[arg(long, value_name = "DOMAIN", value_parser = text_or_none)]
    pub domain: Option<OrNone<String>>,
    /// Which contract is spoken: v1, v2 or by-client [default: that of the file]
    #[arg(long, value_name = "GENERATION", value_parser = generation)]
    pub generation: Option<Generation>,
    /// Say what would be done, and do nothing
    #[arg(long)]
    pub check: bool,
}

/// `pryv …`.
#[derive(Debug, Subcommand)]
pub enum Pryv {
    /// Show the settings
    Show {
        /// Which tenant
        #[arg(long, value_name = "NAME")]
        tenant: String,
    },
    /// Change the settings; a running server sees it within two seconds
    Set {
        /// Which tenant
        #[arg(long, value_name = "NAME")]
        tenant: String,
        #[command(flatten)]
        change: Box<PryvChange>,
    },
    /// Have the tenant speak to them no more; people, providers and routes stay
    Off {
        /// Which tenant
        #[arg(long, value_name = "NAME")]
        tenant: String,
    },
}

/// What `pryv set` can say.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub struct PryvChange {
    /// Which contract is spoken: v1, v2 or by-client
    #[arg(long, value_name = "GENERATION", value_parser = generation)]
    pub generation: Option<Generation>,
    /// The core that stays behind it, such as http://core:3000; none for a directory of its own
    #[arg(long, value_name = "URL", value_parser = url_or_none)]
    pub core_url: Option<OrNone<Url>>,
    /// The domain below which each person has a host; none for people in the path
    #[arg(long, value_name = "DOMAIN", value_parser = text_or_none)]
    pub domain: Option<OrNone<String>>,
    /// How long a person has to finish a log-in or an activation
    #[arg(long = "session-ttl-s", value_name = "SECONDS", value_parser = seconds)]
    pub session_ttl_ms: Option<u64>,
    /// An application that may log people in, instead of all that may now; once for each, or none. A core in front of which we stand asks by itself
    #[arg(long = "trusted-app", value_name = "APP@ORIGIN")]
    pub trusted_apps: Vec<String>,
    /// How long a personal token lives without being used
    #[arg(long = "access-max-age-s", value_name = "SECONDS", value_parser = seconds)]
    pub access_max_age_ms: Option<u64>,
    /// Where people's interfaces are, with {username} in it; none to make it of the domain or the public address
    #[arg(long, value_name = "URL", value_parser = text_or_none)]
    pub api: Option<OrNone<String>>,
    /// What API-Version says
    #[arg(long, value_name = "VERSION")]
    pub api_version: Option<String>,
}

/// What an option gives, or takes away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OrNone<T> {
    None,
    Some(T),
}

impl<T> OrNone<T> {
    /// What is given, if anything is.
    pub fn given(self) -> Option<T> {
        match self {
            Self::None => None,
            Self::Some(it) => Some(it),
        }
    }
}

/// `doctor`.
#[derive(Debug, Args)]
pub struct Doctor {
    /// Only this tenant's routes and providers
    #[arg(long)]
    pub tenant: Option<String>,
    /// Also send a message without a code to this number or address, along the route that a code would take
    #[arg(long, value_name = "TO", requires_all = ["channel", "tenant"])]
    pub send: Option<String>,
    /// The channel of the message
    #[arg(long, value_parser = carried, requires = "send")]
    pub channel: Option<Channel>,
}

/// `backup`.
#[derive(Debug, Args)]
#[command(after_help = "Only the master key opens a backup: keep a copy of it elsewhere.\n\n\
    With --json: {\"file\",\"bytes\",\"database_bytes\",\"tenants\",\"schema\",\"made_at\",\"duration_ms\"}")]
pub struct Backup {
    /// The file to write; - is standard output
    pub file: PathBuf,
    /// Take the place of a file that is there already
    #[arg(long)]
    pub force: bool,
}

/// `restore`.
#[derive(Debug, Args)]
#[command(after_help = "\
What came after the backup is forgotten. For safety every open challenge is ended, waiting messages are dropped, and\n\
values that authenticators have shown by now are not taken any more. docs/backup.md tells what else to think of.\n\n\
With --json: {\"database\",\"restored\",\"made_at\",\"made_by\",\"schema\",\"tenants\",\"challenges_ended\",\n\
\"messages_dropped\",\"authenticators\",\"aside\",\"duration_ms\"}")]
pub struct Restore {
    /// The backup; - is standard input
    #[arg(required_unless_present = "in_place")]
    pub file: Option<PathBuf>,
    /// Move a database that is there already aside; it is not removed
    #[arg(long)]
    pub force: bool,
    /// Look whether the backup is good, and put nothing in place
    #[arg(long, conflicts_with = "force")]
    pub check: bool,
    /// With storage.url: the database server was brought back to an earlier moment by its own means; end what may not come back with it
    #[arg(long, conflicts_with_all = ["file", "force"])]
    pub in_place: bool,
}

/// `key …`.
#[derive(Debug, Subcommand)]
pub enum Key {
    /// Wrap the keys of every tenant with the present master key, while servers go on that have it and the old one
    #[command(after_help = "\
The old one is in the file that secrets.old_master_key_file names. docs/running.md tells the whole way.\n\n\
With --json: {\"rotated\",\"tenants\"}")]
    Rotate,
}

/// `copy`.
#[derive(Debug, Args)]
#[command(after_help = "\
A database is the path of a file, or an address such as postgres://user@host/database?sslmode=require. Addresses with a\n\
password belong into the environment: COUNTERSIGN_COPY_FROM and COUNTERSIGN_COPY_TO.\n\n\
Whatever ends it, the same command goes on where it was. Until it has found both sides to be the same, no server starts\n\
on the target. The source stays as it is.\n\n\
With --json: {\"from\",\"to\",\"finished\",\"resumed\",\"tenants\",\"rows\":{table: rows},\"carried\",\"differences\":\n\
[{\"tenant\",\"table\",\"from_rows\",\"to_rows\",\"from_sha256\",\"to_sha256\"}],\"differ\",\"duration_ms\"}")]
pub struct Copy {
    /// The database to read (also COUNTERSIGN_COPY_FROM) [default: that of the settings]
    #[arg(long, value_name = "DATABASE")]
    pub from: Option<String>,
    /// The database to fill, which is empty or holds a part of this copy (also COUNTERSIGN_COPY_TO)
    #[arg(long, value_name = "DATABASE")]
    pub to: Option<String>,
}

/// Where secrets are read from.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Secrets")]
pub struct Secrets {
    /// Read the secret of this name from standard input
    #[arg(long = "secret-stdin", value_name = "NAME")]
    pub stdin: Option<String>,
    /// Read a secret from a file
    #[arg(long = "secret-file", value_name = "NAME=PATH")]
    pub files: Vec<String>,
    /// Read a secret from a variable of the environment
    #[arg(long = "secret-env", value_name = "NAME=VARIABLE")]
    pub variables: Vec<String>,
}

/// An address with a port; `localhost` is what browsers make of it first.
fn here(text: &str) -> Result<SocketAddr, String> {
    let numeric = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    numeric.as_deref().unwrap_or(text).parse().map_err(|_| "write an address and a port, such as 127.0.0.1:8090 or [::1]:8090".to_owned())
}

fn carried(text: &str) -> Result<Channel, String> {
    Channel::parse(text).filter(|it| Channel::CARRIED.contains(it)).ok_or_else(|| "use sms, voice or email".to_owned())
}

fn generation(text: &str) -> Result<Generation, String> {
    match text {
        "v1" => Ok(Generation::V1),
        "v2" => Ok(Generation::V2),
        "by-client" => Ok(Generation::ByClient),
        _ => Err("use v1, v2 or by-client".to_owned()),
    }
}

fn pryv_mode(text: &str) -> Result<Mode, String> {
    Mode::parse(text).ok_or_else(|| "use single or challenge-verify".to_owned())
}

fn text_or_none(text: &str) -> Result<OrNone<String>, String> {
    match text.trim() {
        "" => Err("write none to take it away".to_owned()),
        "none" => Ok(OrNone::None),
        text => Ok(OrNone::Some(text.to_owned())),
    }
}

fn url_or_none(text: &str) -> Result<OrNone<Url>, String> {
    match text_or_none(text)? {
        OrNone::None => Ok(OrNone::None),
        OrNone::Some(text) => {
            Url::parse(&text).map(OrNone::Some).map_err(|_| "write an address, such as http://core:3000, or none".to_owned())
        }
    }
}

/// Seconds, also in parts, as milliseconds. Whether they are too few or too many, the setting says.
fn seconds(text: &str) -> Result<u64, String> {
    let number = text.parse::<f64>().ok().filter(|it| it.is_finite() && *it > 0.0);
    number.map(|it| whole_ms(it * 1000.0)).ok_or_else(|| "write seconds, such as 1800".to_owned())
}

/// What a provider can serve and a route can lead to: also where only the provider knows how a person is reached.
fn routed(text: &str) -> Result<Channel, String> {
    let routed = Channel::parse(text).filter(|it| Channel::SENT.contains(it));
    routed.ok_or_else(|| "use sms, voice, email or external".to_owned())
}

fn any_channel(text: &str) -> Result<Channel, String> {
    Channel::parse(text).ok_or_else(|| "use sms, voice, email, external or totp".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_fits_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_trial_listens_on_an_address_and_a_port() {
        assert_eq!(here("localhost:8090"), Ok(SocketAddr::from(([127, 0, 0, 1], 8090))));
        assert_eq!(here("[::1]:1").map(|it| it.port()), Ok(1));
        assert!(["8090", "localhost", "example.com:80"].into_iter().all(|it| here(it).is_err_and(|why| why.contains("127.0.0.1:8090"))));
    }

    #[test]
    fn help_is_a_command_as_well() {
        for arguments in [&["countersign", "help"][..], &["countersign", "help", "tenant"], &["countersign", "tenant", "help", "route"]] {
            let help = Cli::try_parse_from(arguments).expect_err("help is no command to run");
            assert_eq!(help.kind(), clap::error::ErrorKind::DisplayHelp, "{arguments:?}");
        }
    }

    #[test]
    fn every_command_and_option_is_explained() {
        fn walk(command: &clap::Command, path: &str) {
            let path = format!("{path} {}", command.get_name());
            assert!(command.get_about().is_some(), "{path}");
            for option in command.get_arguments().filter(|it| !it.is_global_set()) {
                assert!(option.get_help().is_some(), "{path} {}", option.get_id());
            }
            command.get_subcommands().for_each(|it| walk(it, &path));
        }
        walk(&Cli::command(), "");
    }

    #[test]
    fn no_option_takes_a_secret_as_its_value() {
        fn walk(command: &clap::Command) {
            for option in command.get_arguments() {
                let name = option.get_id().as_str();
                assert!(!["secret", "password", "token", "key"].contains(&name), "{name} of {}", command.get_name());
            }
            command.get_subcommands().for_each(walk);
        }
        walk(&Cli::command());
    }
}
