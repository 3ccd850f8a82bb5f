//! Settings, at two heights: what was written ([`Written`]) and what it means ([`Config`]).
//!
//! Owns the meaning of every setting. Where values come from is [`layers`]; whether a server may be run with them is
//! [`safety`]. Below this file nobody parses a setting.

mod layers;
mod safety;

pub use layers::{CONFIG, Environment, Origin};

use countersign_core::words::secret::Secret;
use countersign_store::postgres;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use url::Url;

/// The settings file that is read when none is named and it is there.
pub const FILE: &str = "countersign.toml";

/// The reference: every setting, its meaning, and the value that holds when nothing is said.
pub const REFERENCE: &str = include_str!("countersign.toml");

/// The variable that holds the master key itself.
pub const MASTER_KEY: &str = "COUNTERSIGN_MASTER_KEY";

/// The variables that name both sides of a copy.
pub const COPY_FROM: &str = "COUNTERSIGN_COPY_FROM";
pub const COPY_TO: &str = "COUNTERSIGN_COPY_TO";

/// The variable that goes before `log.level`.
pub const LOG: &str = "COUNTERSIGN_LOG";

/// What the operator wrote. The names are those of the settings; their meaning is told in [`REFERENCE`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    server: WrittenServer,
    limits: WrittenLimits,
    storage: WrittenStorage,
    secrets: WrittenSecrets,
    egress: WrittenEgress,
    delivery: WrittenDelivery,
    log: WrittenLog,
    development: WrittenDevelopment,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenServer {
    listen: String,
    public_url: Option<String>,
    trusted_proxies: Vec<String>,
    stop_within_s: u64,
    #[serde(default)]
    tls: WrittenTls,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenTls {
    certificate: Option<String>,
    key: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenLimits {
    body_bytes: u64,
    header_bytes: u64,
    header_timeout_ms: u64,
    body_timeout_ms: u64,
    connections: u64,
    idle_timeout_ms: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenStorage {
    path: String,
    url: Option<String>,
    sweep_every_s: u64,
    postgres: WrittenPostgres,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenPostgres {
    connections: u64,
    lanes: u64,
    answer_within_ms: u64,
    roots: Vec<String>,
    allow_plaintext: bool,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenSecrets {
    master_key_file: String,
    master_key_command: Option<Vec<String>>,
    old_master_key_file: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenEgress {
    allow: Vec<String>,
    allow_hosts: Vec<String>,
    allow_plain_http: bool,
    proxy: Option<String>,
    roots: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenDelivery {
    idle_pause_ms: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenLog {
    format: String,
    level: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenDevelopment {
    allow_inbox: bool,
    allow_inbox_beyond_loopback: bool,
}

/// What the settings mean.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file that was read, if one was.
    pub file: Option<PathBuf>,
    /// Where and as whom the server listens.
    pub server: Server,
    /// What a caller may take of it.
    pub limits: Limits,
    /// Where everything is kept.
    pub storage: Storage,
    /// How any PostgreSQL database is used, this one or that of a copy.
    pub databases: Databases,
    /// How often retention runs.
    pub sweep_every: Duration,
    /// Where the master key comes from.
    pub master_key: MasterKeySource,
    /// The file with the master key before it, while that one is being replaced.
    pub old_master_key: Option<PathBuf>,
    /// What providers may call.
    pub egress: Egress,
    /// How long the delivery loop rests when nothing waits.
    pub delivery_pause: Duration,
    /// What is written down, and how.
    pub log: Log,
    /// What only a developer wants.
    pub development: Development,
    /// Settings that nobody knows, found in the environment: worth a warning, for a cluster's own variables look alike.
    pub strangers: Vec<String>,
    origins: BTreeMap<String, Origin>,
}

/// Where everything is kept.
#[derive(Debug, Clone)]
pub enum Storage {
    /// In a file of this machine.
    File(PathBuf),
    /// In a PostgreSQL database.
    Postgres(Postgres),
}

impl Storage {
    /// What it is, for people; never a password.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::File(path) => format!("the file {}", path.display()),
            Self::Postgres(database) => format!("PostgreSQL at {}", database.options.place().unwrap_or_default()),
        }
    }

    /// The file, where it is one.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Postgres(_) => None,
        }
    }
}

/// How PostgreSQL databases are used.
#[derive(Debug, Clone)]
pub struct Databases {
    connections: usize,
    lanes: usize,
    within: Duration,
    roots: Vec<PathBuf>,
    allow_plaintext: bool,
}

impl Databases {
    fn options(&self, url: Secret) -> postgres::Options {
        let Self { connections, lanes, within, .. } = *self;
        postgres::Options { connections, lanes, within, ..postgres::Options::new(url) }
    }

    /// The storage that a command was told: an address that begins as those of PostgreSQL do, or the path of a file.
    ///
    /// # Errors
    /// What is wrong with the address, and what would be right. It is never repeated, for there may be a password in it.
    pub fn storage(&self, text: &str) -> Result<Storage, String> {
        if !["postgres://", "postgresql://"].iter().any(|it| text.starts_with(it)) {
            return if text.is_empty() { Err("it is empty".to_owned()) } else { Ok(Storage::File(PathBuf::from(text))) };
        }
        let options = self.options(Secret::new(text));
        let is_open = options.is_open_beyond_this_machine();
        if is_open.map_err(|why| format!("{why}; write one such as postgres://user@host/database?sslmode=require"))?
            && !self.allow_plaintext
        {
            let why = "everything would travel to another machine in clear; add sslmode=require to the address, or set \
                       storage.postgres.allow_plaintext where the network itself is encrypted";
            return Err(why.to_owned());
        }
        Ok(Storage::Postgres(Postgres { options, roots: self.roots.clone(), allow_plaintext: self.allow_plaintext }))
    }
}

/// A PostgreSQL database, and how it is used.
#[derive(Debug, Clone)]
pub struct Postgres {
    /// Its address, and how much is asked of it at a time.
    pub options: postgres::Options,
    /// The files whose certificates may vouch for it.
    pub roots: Vec<PathBuf>,
    /// Whether it may be reached in clear on another machine.
    pub allow_plaintext: bool,
}

/// Where and as whom the server listens.
#[derive(Debug, Clone)]
pub struct Server {
    /// The address and port.
    pub listen: SocketAddr,
    /// How callers reach it; absent only on loopback, where it is made of `listen`.
    pub public_url: Option<Url>,
    /// Whose X-Forwarded-For is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// How long a stop may take.
    pub stop_within: Duration,
    /// The certificate and its key, if TLS is spoken here.
    pub tls: Option<TlsFiles>,
}

/// The files that TLS needs.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The chain, PEM.
    pub certificate: PathBuf,
    /// The private key, PEM.
    pub key: PathBuf,
}

/// What a caller may take of the server.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of a body.
    pub body_bytes: usize,
    /// Bytes of a head.
    pub header_bytes: usize,
    /// Time for a head, or for a TLS handshake.
    pub header_timeout: Duration,
    /// Time for a body.
    pub body_timeout: Duration,
    /// Connections at a time.
    pub connections: usize,
    /// Time without a request.
    pub idle_timeout: Duration,
}

/// Where the master key comes from.
#[derive(Debug, Clone)]
pub enum MasterKeySource {
    /// The environment held it.
    Given(Secret),
    /// A program and its arguments print it.
    Command(Vec<String>),
    /// A file holds it, or will after the first start.
    File(PathBuf),
}

impl MasterKeySource {
    /// Whether there is a key, or whoever gives one when asked.
    #[must_use]
    pub fn is_there(&self) -> bool {
        match self {
            Self::Given(_) | Self::Command(_) => true,
            Self::File(path) => path.exists(),
        }
    }
}

/// What providers may call beyond the public internet.
#[derive(Debug, Clone)]
pub struct Egress {
    /// Private networks.
    pub allow: Vec<IpNet>,
    /// Names that may resolve to private addresses.
    pub allow_hosts: Vec<String>,
    /// Whether plain HTTP will do.
    pub allow_plain_http: bool,
    /// A proxy for HTTP.
    pub proxy: Option<Url>,
    /// Files of certificates that are trusted beside the system's.
    pub roots: Vec<PathBuf>,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One object a line.
    Json,
    /// For people.
    Text,
}

/// What is written down, and how.
#[derive(Debug, Clone)]
pub struct Log {
    /// How.
    pub format: LogFormat,
    /// What: a level, or directives by part.
    pub level: String,
}

/// What only a developer wants.
#[derive(Debug, Clone, Copy)]
pub struct Development {
    /// Whether providers of the kind `inbox` work.
    pub allow_inbox: bool,
    /// Whether they also work where other machines can reach the server.
    pub allow_inbox_beyond_loopback: bool,
}

/// A setting that cannot be, or must not be. Its text says where it was written and what would be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where it was written.
    pub origin: Origin,
    /// Its name; empty when the file as a whole is wrong.
    pub setting: String,
    /// What is wrong, and what would be right.
    pub why: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.origin, self.setting.as_str()) {
            (Origin::Nobody, "") => f.write_str(&self.why),
            (Origin::Nobody, setting) => write!(f, "{setting}: {}", self.why),
            (origin, "") => write!(f, "{origin}: {}", self.why),
            (origin, setting) => write!(f, "{origin}: {setting}: {}", self.why),
        }
    }
}

/// Everything that is wrong with the settings, so that nobody must start five times to learn of five mistakes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(Problem::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for Problems {}

impl Config {
    /// Reads `file` (or [`FILE`] when it is there and none is named) and `environment`, in this order over the defaults.
    ///
    /// # Errors
    /// All that is wrong, each with its place.
    pub fn read(file: Option<&Path>, environment: &Environment) -> Result<Self, Problems> {
        let file = match file {
            Some(file) => Some(file.to_owned()),
            None => Some(PathBuf::from(FILE)).filter(|it| it.exists()),
        };
        let text = match &file {
            None => String::new(),
            Some(path) => std::fs::read_to_string(path).map_err(|why| {
                Problems(vec![Problem {
                    origin: Origin::Nobody,
                    setting: String::new(),
                    why: format!("{} cannot be read: {why}", path.display()),
                }])
            })?,
        };
        Self::parse(&text, file, environment)
    }

    /// Reads settings from the text of a file.
    ///
    /// # Errors
    /// All that is wrong, each with its place.
    pub fn parse(text: &str, file: Option<PathBuf>, environment: &Environment) -> Result<Self, Problems> {
        let layers = layers::read(text, file.as_deref(), environment)?;
        let mut reader = Reader { origins: layers.origins, problems: Vec::new() };
        let config = reader.config(layers.written, file, environment);
        let problems = reader.problems;
        match config {
            Some(mut config) if problems.is_empty() => {
                config.origins = reader.origins;
                config.strangers = layers.strangers;
                Ok(config)
            }
            _ => Err(Problems(problems)),
        }
    }

    /// The address by which callers reach a server that listens at `bound`.
    #[must_use]
    pub fn base_url(&self, bound: SocketAddr) -> String {
        match &self.server.public_url {
            Some(url) => url.as_str().trim_end_matches('/').to_owned(),
            None => format!("{}://{bound}", if self.server.tls.is_some() { "https" } else { "http" }),
        }
    }
}

/// Whether a URL's host can be this machine only.
fn is_loopback_host(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name.eq_ignore_ascii_case("localhost") || name.to_ascii_lowercase().ends_with(".localhost"),
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

/// Whether `text` says what is to be logged. The filter itself takes any word for the name of a part, and would be silent.
fn is_level(text: &str) -> bool {
    let levels = ["error", "warn", "info", "debug", "trace", "off"];
    let fits = |part: &str| {
        let level = part.rsplit_once('=').map_or(part, |(_, level)| level).trim();
        levels.iter().any(|it| it.eq_ignore_ascii_case(level))
    };
    text.split(',').all(fits) && tracing_subscriber::EnvFilter::builder().parse(text).is_ok()
}

/// From what was written to what it means. It notes what is wrong and goes on, to find all of it.
struct Reader {
    origins: BTreeMap<String, Origin>,
    problems: Vec<Problem>,
}

impl Reader {
    fn config(&mut self, it: Written, file: Option<PathBuf>, environment: &Environment) -> Option<Config> {
        let folder = file.as_deref().and_then(Path::parent).map(Path::to_owned).unwrap_or_default();
        let server = self.server(it.server, &folder);
        let limits = self.limits(&it.limits);
        let log = self.log(it.log, environment);
        let egress = self.egress(it.egress, &folder);
        let sweep_every = Duration::from_secs(self.range("storage.sweep_every_s", it.storage.sweep_every_s, 1, 86_400));
        let delivery_pause = Duration::from_millis(self.range("delivery.idle_pause_ms", it.delivery.idle_pause_ms, 10, 5_000));
        let databases = self.databases(it.storage.postgres, &folder);
        let storage = self.storage(it.storage.path, it.storage.url, &databases, &folder);
        let old_master_key = it.secrets.old_master_key_file.filter(|it| !it.is_empty()).map(|it| folder.join(it));
        let master_key = match (environment.get(MASTER_KEY), it.secrets.master_key_command) {
            (Some(key), _) => MasterKeySource::Given(Secret::new(key.clone())),
            (None, Some(command)) if command.is_empty() => {
                self.wrong("secrets.master_key_command", "it is empty; write the program and its arguments");
                return None;
            }
            (None, Some(command)) => MasterKeySource::Command(command),
            (None, None) => MasterKeySource::File(folder.join(it.secrets.master_key_file)),
        };
        Some(Config {
            server: server?,
            limits: limits?,
            storage: storage?,
            databases,
            sweep_every,
            master_key,
            old_master_key,
            egress,
            delivery_pause,
            log: log?,
            development: Development {
                allow_inbox: it.development.allow_inbox,
                allow_inbox_beyond_loopback: it.development.allow_inbox_beyond_loopback,
            },
            strangers: Vec::new(),
            origins: BTreeMap::new(),
            file,
        })
    }

    fn storage(&mut self, path: String, url: Option<String>, how: &Databases, folder: &Path) -> Option<Storage> {
        if url.as_deref().is_some_and(|it| it.trim().is_empty()) {
            // Whoever says it and says nothing means a database that was forgotten, and not a new file.
            self.wrong(
                "storage.url",
                "it is empty; write the address of the database, or take the setting out to keep everything in a file",
            );
            return None;
        }
        let Some(url) = url else {
            if path.trim().is_empty() {
                self.wrong("storage.path", "it is empty; write a path such as /var/lib/countersign/countersign.db");
                return None;
            }
            return Some(Storage::File(folder.join(path)));
        };
        let options = how.options(Secret::new(url));
        if let Err(why) = options.is_open_beyond_this_machine() {
            self.wrong("storage.url", format!("{why}; write one such as postgres://user:password@host/database?sslmode=require"));
        }
        Some(Storage::Postgres(Postgres { options, roots: how.roots.clone(), allow_plaintext: how.allow_plaintext }))
    }

    fn databases(&mut self, how: WrittenPostgres, folder: &Path) -> Databases {
        let connections = self.range("storage.postgres.connections", how.connections, 2, 1_000);
        let lanes = self.range("storage.postgres.lanes", how.lanes, 1, 64);
        let within_ms = self.range("storage.postgres.answer_within_ms", how.answer_within_ms, 100, 60_000);
        if lanes >= connections {
            self.wrong("storage.postgres.connections", format!("it is {connections}; it takes more than the {lanes} lanes"));
        }
        Databases {
            connections: usize::try_from(connections).unwrap_or(usize::MAX),
            lanes: usize::try_from(lanes).unwrap_or(usize::MAX),
            within: Duration::from_millis(within_ms),
            roots: how.roots.into_iter().map(|it| folder.join(it)).collect(),
            allow_plaintext: how.allow_plaintext,
        }
    }

    fn server(&mut self, it: WrittenServer, folder: &Path) -> Option<Server> {
        let listen = it.listen.parse::<SocketAddr>().ok();
        if listen.is_none() {
            self.wrong(
                "server.listen",
                format!("`{}` is no address with a port; write one such as 127.0.0.1:8080 or [::]:8443", it.listen),
            );
        }
        let public_url = it.public_url.as_deref().and_then(|text| self.public_url(text));
        let trusted_proxies = self.networks("server.trusted_proxies", &it.trusted_proxies);
        let stop_within = Duration::from_secs(self.range("server.stop_within_s", it.stop_within_s, 1, 600));
        let tls = match (it.tls.certificate, it.tls.key) {
            (Some(certificate), Some(key)) => Some(TlsFiles { certificate: folder.join(certificate), key: folder.join(key) }),
            (None, None) => None,
            (Some(_), None) => {
                self.wrong("server.tls.key", "it is missing beside server.tls.certificate; name the file of the private key");
                None
            }
            (None, Some(_)) => {
                self.wrong("server.tls.certificate", "it is missing beside server.tls.key; name the file of the certificate chain");
                None
            }
        };
        Some(Server { listen: listen?, public_url, trusted_proxies, stop_within, tls })
    }

    fn egress(&mut self, it: WrittenEgress, folder: &Path) -> Egress {
        let allow = self.networks("egress.allow", &it.allow);
        for host in it.allow_hosts.iter().filter(|it| url::Host::parse(it).is_err()) {
            self.wrong("egress.allow_hosts", format!("`{host}` is no name of a host; write one such as smtp.internal"));
        }
        let proxy = it.proxy.as_deref().and_then(|text| {
            let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
            if url.is_none() {
                self.wrong("egress.proxy", "it is no web address; write one such as http://proxy.internal:3128");
            }
            url
        });
        let roots = it.roots.into_iter().map(|it| folder.join(it)).collect();
        Egress { allow, allow_hosts: it.allow_hosts, allow_plain_http: it.allow_plain_http, proxy, roots }
    }

    fn public_url(&mut self, text: &str) -> Option<Url> {
        let right = "write where callers reach this server, such as https://mfa.example.com";
        match Url::parse(text) {
            Ok(url) if !matches!(url.scheme(), "https" | "http") || !url.has_host() => {
                self.wrong("server.public_url", format!("`{text}` is no web address; {right}"));
                None
            }
            Ok(url) if url.query().is_some() || url.fragment().is_some() || !url.username().is_empty() || url.password().is_some() => {
                self.wrong("server.public_url", format!("it has more than a host and a path; {right}"));
                None
            }
            Ok(url) => Some(url),
            Err(why) => {
                self.wrong("server.public_url", format!("`{text}` is no web address ({why}); {right}"));
                None
            }
        }
    }

    fn limits(&mut self, it: &WrittenLimits) -> Option<Limits> {
        let ms = Duration::from_millis;
        Some(Limits {
            body_bytes: usize::try_from(self.range("limits.body_bytes", it.body_bytes, 1024, 64 << 20)).ok()?,
            // Less than 8192 is less than the HTTP/1 reader's own buffer.
            header_bytes: usize::try_from(self.range("limits.header_bytes", it.header_bytes, 8192, 1 << 20)).ok()?,
            header_timeout: ms(self.range("limits.header_timeout_ms", it.header_timeout_ms, 100, 300_000)),
            body_timeout: ms(self.range("limits.body_timeout_ms", it.body_timeout_ms, 100, 300_000)),
            connections: usize::try_from(self.range("limits.connections", it.connections, 1, 1_000_000)).ok()?,
            idle_timeout: ms(self.range("limits.idle_timeout_ms", it.idle_timeout_ms, 100, 3_600_000)),
        })
    }

    fn log(&mut self, it: WrittenLog, environment: &Environment) -> Option<Log> {
        let format = match it.format.as_str() {
            "json" => Some(LogFormat::Json),
            "text" => Some(LogFormat::Text),
            other => {
                self.wrong("log.format", format!("`{other}` is none; write json or text"));
                None
            }
        };
        let above = environment.get(LOG).filter(|it| !it.trim().is_empty());
        if above.is_some() {
            self.origins.insert("log.level".to_owned(), Origin::Variable(LOG.to_owned()));
        }
        let level = above.cloned().unwrap_or(it.level);
        if !is_level(&level) {
            let right = "write error, warn, info, debug, trace or off, also by part: info,countersign_store=debug";
            self.wrong("log.level", format!("`{level}` is none; {right}"));
        }
        Some(Log { format: format?, level })
    }

    fn networks(&mut self, setting: &str, texts: &[String]) -> Vec<IpNet> {
        let mut nets = Vec::new();
        for text in texts {
            match text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)) {
                Ok(net) => nets.push(net.trunc()),
                Err(_) => self.wrong(setting, format!("`{text}` is no network; write one such as 10.1.0.0/16 or an address such as ::1")),
            }
        }
        nets
    }

    fn range(&mut self, setting: &str, value: u64, low: u64, high: u64) -> u64 {
        if !(low..=high).contains(&value) {
            self.wrong(setting, format!("it is {value}; it takes {low} to {high}"));
        }
        value
    }

    fn wrong(&mut self, setting: &str, why: impl Into<String>) {
        let origin = self.origins.get(setting).cloned().unwrap_or(Origin::Nobody);
        self.problems.push(Problem { origin, setting: setting.to_owned(), why: why.into() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Config, String> {
        Config::parse(text, Some("/etc/countersign/countersign.toml".into()), &Environment::new()).map_err(|it| it.to_string())
    }

    #[test]
    fn the_reference_names_exactly_the_settings_that_the_type_has() {
        let (reference, _) = layers::reference();
        let written: Written = reference.clone().try_into().expect("every line of the reference is a setting of the type");
        let back = serde_json::to_value(written).expect("settings are plain data");
        // A setting of the type that the reference lacks comes back as null.
        let sorted = |value| {
            let mut keys = keys("", value);
            keys.sort();
            keys
        };
        assert_eq!(sorted(&back), sorted(&serde_json::to_value(reference).expect("plain data")));
    }

    fn keys(path: &str, value: &serde_json::Value) -> Vec<String> {
        match value {
            serde_json::Value::Object(map) => map.iter().flat_map(|(name, value)| keys(&format!("{path}.{name}"), value)).collect(),
            serde_json::Value::Null => vec![format!("{path} is not in the reference")],
            _ => vec![path.to_owned()],
        }
    }

    #[test]
    fn nothing_said_is_a_server_on_loopback() {
        let config = parsed("").expect("the defaults are right");
        assert_eq!(config.server.listen, "127.0.0.1:8080".parse().expect("an address"));
        assert_eq!(config.storage.file(), Some(Path::new("/etc/countersign/countersign.db")));
        assert!(!config.development.allow_inbox && !config.egress.allow_plain_http && config.egress.allow.is_empty());
        assert_eq!(config.base_url("127.0.0.1:4711".parse().expect("an address")), "http://127.0.0.1:4711");
    }

    #[test]
    fn a_mistake_is_told_with_its_line_and_what_would_be_right() {
        let told = parsed("[server]\n\nlisten = \"8080\"\n").expect_err("no address");
        assert_eq!(
            told,
            "/etc/countersign/countersign.toml, line 3: server.listen: `8080` is no address with a port; write one such as 127.0.0.1:8080 or [::]:8443"
        );
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let told = parsed("[server]\nlisten = \"x\"\ntrusted_proxies = [\"10.0.0.0/99\"]\n[limits]\nheader_bytes = 1\n")
            .expect_err("three mistakes");
        assert_eq!(told.lines().count(), 3, "{told}");
    }

    #[test]
    fn an_address_of_a_database_goes_before_a_file_and_is_never_shown() {
        let text = "[storage]\nurl = \"postgres://me:hunter2@db.example.com/mfa?sslmode=verify-full\"";
        let config = parsed(text).expect("an address");
        let Storage::Postgres(database) = &config.storage else { panic!("{:?}", config.storage) };
        assert_eq!((database.options.connections, database.options.within), (12, Duration::from_secs(5)));
        assert!(!format!("{config:?}").contains("hunter2"));
        for (wrong, part) in [
            ("mysql://db/mfa", "storage.url"),
            ("postgres://db.example.com", "it names no database"),
            ("postgres:///mfa", "it names no host"),
            ("postgres://me:hunter2@db/mfa?sslmode=maybe", "storage.url"),
        ] {
            let told = parsed(&format!("[storage]\nurl = \"{wrong}\"")).expect_err(wrong);
            assert!(told.contains(part) && told.contains("line 2") && !told.contains("hunter2"), "{wrong}: {told}");
        }
    }

    #[test]
    fn a_public_url_is_a_web_address_and_no_more() {
        for bad in ["mfa.example.com", "ftp://mfa.example.com", "https://mfa.example.com/?a=b", "https://u:p@mfa.example.com"] {
            assert!(parsed(&format!("[server]\npublic_url = \"{bad}\"")).is_err(), "{bad}");
        }
        let config = parsed("[server]\npublic_url = \"https://mfa.example.com/\"").expect("a web address");
        assert_eq!(config.base_url(config.server.listen), "https://mfa.example.com");
    }

    #[test]
    fn a_certificate_without_a_key_is_a_mistake() {
        let told = parsed("[server.tls]\ncertificate = \"a.pem\"").expect_err("half a pair");
        assert!(told.contains("server.tls.key"), "{told}");
    }

    #[test]
    fn a_level_that_is_none_is_refused_where_it_was_written() {
        let told = |text: &str, environment: &[(&str, &str)]| {
            let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            Config::parse(text, Some("c.toml".into()), &environment).map(|it| it.log.level).map_err(|it| it.to_string())
        };
        for right in ["warn", "DEBUG", "info,countersign_store=debug", "off"] {
            assert_eq!(told("", &[(LOG, right)]).as_deref(), Ok(right));
        }
        for wrong in ["loud", "info,loud", "countersign=loud", "3"] {
            let why = told("", &[(LOG, wrong)]).expect_err(wrong);
            assert!(why.starts_with(&format!("COUNTERSIGN_LOG: log.level: `{wrong}` is none; write error, warn")), "{why}");
        }
        assert!(told("", &[("COUNTERSIGN_LOG_LEVEL", "loud")]).is_err_and(|it| it.starts_with("COUNTERSIGN_LOG_LEVEL: ")));
        assert!(told("[log]\nlevel = \"loud\"", &[]).is_err_and(|it| it.starts_with("c.toml, line 2: ")));
        assert_eq!(told("", &[(LOG, "")]).as_deref(), Ok("info"), "an empty variable says nothing");
    }

    #[test]
    fn the_environment_holds_the_master_key_and_never_shows_it() {
        let key = "ab".repeat(32);
        let environment = Environment::from([(MASTER_KEY.to_owned(), key.clone())]);
        let config = Config::parse("", None, &environment).expect("right");
        assert!(matches!(&config.master_key, MasterKeySource::Given(it) if it.reveal() == key));
        assert!(!format!("{config:?}").contains(&key));
        assert_eq!(config.strangers, [""; 0]);
    }
}
