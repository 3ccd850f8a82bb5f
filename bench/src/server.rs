//! The server under load: how it is set up, started and asked for a token. The only file that knows its commands.
//!
//! [`Kind::StandIn`] is the ceiling that hands out ids and judges codes: with it the driver is tested without the server.

use crate::message;
use crate::process::Running;
use crate::seed;
use crate::slowflush::SlowFlush;
use crate::traffic;
use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::{Value, json};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long a server may take to its first answer before the run is given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Which server.
#[derive(Debug, Clone)]
pub enum Kind {
    /// Countersign, by its program.
    Countersign(PathBuf),
    /// The stand-in.
    StandIn,
}

/// Where the server is reached, and as whom.
#[derive(Debug, Clone)]
pub struct Doors {
    /// Its address.
    pub address: SocketAddr,
    /// The client.
    pub client_id: String,
    /// The client's secret.
    pub client_secret: String,
    /// An access token.
    pub token: String,
}

/// How flushes are treated.
#[derive(Debug, Clone)]
pub struct Flushes {
    /// The preload.
    pub preload: SlowFlush,
    /// What it adds to each flush.
    pub delay: Duration,
}

/// A server that was set up in a folder of its own, with one tenant, one client, and the sink as its provider.
#[derive(Debug)]
pub struct Server {
    kind: Kind,
    folder: PathBuf,
    database: Option<String>,
    sink: SocketAddr,
    flushes: Option<Flushes>,
    client_id: String,
    client_secret: String,
}

/// What a child process says when it is ready.
#[derive(Debug, Deserialize)]
pub struct Ready {
    /// Where it listens.
    pub base_url: String,
}

impl Ready {
    /// The address in the URL.
    ///
    /// # Errors
    /// A URL of another shape.
    pub fn address(&self) -> Result<SocketAddr> {
        let host = self.base_url.strip_prefix("http://").context("a base URL without http://")?;
        host.trim_end_matches('/').parse().with_context(|| format!("no address in {}", self.base_url))
    }
}

impl Server {
    /// Sets one up in `folder`, which is made. It keeps its data there, or in the PostgreSQL database `database`.
    ///
    /// # Errors
    /// A command of the server that fails.
    pub fn set_up(kind: Kind, folder: PathBuf, database: Option<String>, sink: SocketAddr, flushes: Option<Flushes>) -> Result<Self> {
        std::fs::create_dir_all(&folder)?;
        let mut server = Self { kind, folder, database, sink, flushes, client_id: "bench".into(), client_secret: "bench".into() };
        if let Kind::Countersign(program) = &server.kind {
            let config = server.folder.join(CONFIG);
            std::fs::write(&config, server.settings(TcpListener::bind("127.0.0.1:0")?.local_addr()?)?)?;
            (server.client_id, server.client_secret) = configure(program, &config, sink)?;
        }
        Ok(server)
    }

    /// Has its tenant speak the Pryv dialect as well: in front of `core`, or alone. Codes go to the sink.
    ///
    /// # Errors
    /// A command of the server that fails; the stand-in has no such dialect.
    pub fn speak_pryv(&self, core: Option<SocketAddr>) -> Result<()> {
        let endpoint = json!({
            "url": format!("http://{}/messages", self.sink),
            "method": "POST",
            "body": r#"{"to":"{{ number }}","text":"{{ message }}"}"#,
            "headers": { "content-type": "application/json" },
        });
        let file = self.folder.join("pryv.json");
        std::fs::write(&file, json!({ "single": endpoint }).to_string())?;
        let file = file.to_str().context("a folder whose name is not UTF-8")?;
        let core = core.map_or_else(|| "none".to_owned(), |it| format!("http://{it}"));
        self.run(&["import", "pryv", file, "--tenant", TENANT, "--generation", "v1", "--core-url", &core])?;
        // The sink knows codes by their six digits. Tries of a password are counted as sends are.
        self.run(&["tenant", "set", TENANT, "--set", "code_length=6", "--set", "sends=1000"])?;
        Ok(())
    }

    /// Puts somebody into the directory of its tenant.
    ///
    /// # Errors
    /// A command of the server that fails.
    pub fn add_user(&self, name: &str, password: &str) -> Result<()> {
        let file = self.folder.join("password");
        std::fs::write(&file, password)?;
        let file = file.to_str().context("a folder whose name is not UTF-8")?;
        self.run(&["user", "add", name, "--tenant", TENANT, "--password-file", file]).map(drop)
    }

    fn run(&self, arguments: &[&str]) -> Result<Value> {
        let Kind::Countersign(program) = &self.kind else { bail!("the stand-in has no commands") };
        run(program, &self.folder.join(CONFIG), arguments)
    }

    /// What is under load, for the report.
    #[must_use]
    pub fn name(&self) -> String {
        match &self.kind {
            Kind::StandIn => "the stand-in, not Countersign".into(),
            Kind::Countersign(program) => {
                let said = Command::new(program).arg("--version").output().map(|it| String::from_utf8_lossy(&it.stdout).trim().to_owned());
                said.ok().filter(|it| !it.is_empty()).unwrap_or_else(|| "countersign".into())
            }
        }
    }

    /// Whether people can be enrolled in it beforehand.
    #[must_use]
    pub fn can_be_seeded(&self) -> bool {
        matches!(self.kind, Kind::Countersign(_))
    }

    /// Enrols `people` while the server is not running, and makes sure that the server then knows the last of them.
    ///
    /// # Errors
    /// The database takes them not, or the server does not know them.
    pub fn seed(&self, people: u32) -> Result<()> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["seed", "--tenant", TENANT, "--people", &people.to_string()]);
        command.arg("--database").arg(self.file()).arg("--master-key").arg(self.master_key());
        ensure!(command.status()?.success(), "the people were not enrolled");
        let (running, doors, _) = self.start()?;
        let path = format!("/ciam-mfa/v2/users/{}/mfadevices", seed::login(people - 1));
        let (status, body) = message::call(doors.address, message::get(doors.address, &path, Some(&doors.token)).as_bytes())?;
        let body = String::from_utf8_lossy(&body);
        ensure!(status == 200 && body.contains(seed::DEVICE), "the server does not know who was enrolled: {status} {body}");
        running.stop()
    }

    /// Starts it, and asks for a token until it gives one: also says how long that took.
    ///
    /// # Errors
    /// It ends, refuses the token, or has not answered after a minute.
    pub fn start(&self) -> Result<(Running, Doors, Duration)> {
        self.start_node(0)
    }

    /// The same with one of several nodes, which share a database and a master key.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn start_node(&self, node: usize) -> Result<(Running, Doors, Duration)> {
        let began = Instant::now();
        let (mut running, address) = match &self.kind {
            Kind::Countersign(program) => {
                // Another port on each start: nothing can be in the way of it.
                let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
                let config = self.folder.join(if node == 0 { CONFIG.to_owned() } else { format!("node-{node}.toml") });
                std::fs::write(&config, self.settings(address)?)?;
                let log = std::fs::File::options().create(true).append(true).open(self.folder.join("server.log"))?;
                let mut command = Command::new(program);
                command.arg("serve").arg("--config").arg(&config).stdout(log.try_clone()?).stderr(log);
                let counter = preload(&mut command, self.flushes.as_ref(), &self.folder);
                (Running::start(&mut command, counter)?, address)
            }
            Kind::StandIn => {
                let (running, ready) = ceiling("commit", &self.folder, self.flushes.as_ref(), &["--sink", &self.sink.to_string()])?;
                (running, ready)
            }
        };
        let (client_id, client_secret) = (self.client_id.clone(), self.client_secret.clone());
        let mut doors = Doors { address, client_id, client_secret, token: String::new() };
        while TcpStream::connect(address).is_err() {
            if running.has_ended()? {
                bail!("the server ended instead of serving: see {}", self.folder.join("server.log").display());
            }
            ensure!(began.elapsed() < PATIENCE, "the server does not listen after {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
        let (status, body) = message::call(address, traffic::token(&doors).as_bytes())?;
        let taken = began.elapsed();
        ensure!(status == 200, "no access token: {status} {}", String::from_utf8_lossy(&body));
        let answer: Value = serde_json::from_slice(&body)?;
        doors.token = answer["access_token"].as_str().context("no access_token in the answer")?.to_owned();
        Ok((running, doors, taken))
    }

    /// Its database file, where it keeps its data in one.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.folder.join(DATABASE)
    }

    /// Its PostgreSQL database, where it keeps its data in one.
    #[must_use]
    pub fn database(&self) -> Option<&str> {
        self.database.as_deref()
    }

    /// Its master key's file.
    #[must_use]
    pub fn master_key(&self) -> PathBuf {
        self.folder.join(MASTER_KEY)
    }

    /// The settings file: everything as it is by default, except that loopback and plain HTTP are allowed for the sink.
    fn settings(&self, listen: SocketAddr) -> Result<String> {
        let path = |file: PathBuf| -> Result<Value> { Ok(json!(std::path::absolute(file)?)) };
        let storage = match &self.database {
            None => format!("path = {}", path(self.file())?),
            Some(url) => format!("url = {}", json!(url)),
        };
        Ok(format!(
            "[server]\nlisten = \"{listen}\"\npublic_url = \"{PUBLIC}\"\n[storage]\n{storage}\n[secrets]\nmaster_key_file = {}\n[egress]\nallow = [\"127.0.0.0/8\"]\nallow_plain_http = true\n[log]\nlevel = \"warn\"\n",
            path(self.master_key())?,
        ))
    }
}

/// Starts a ceiling (`hyper` or `commit`) with its data in `folder`, and says where it listens.
///
/// # Errors
/// It does not start.
pub fn ceiling(name: &str, folder: &Path, flushes: Option<&Flushes>, options: &[&str]) -> Result<(Running, SocketAddr)> {
    std::fs::create_dir_all(folder)?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["ceiling", name, "--data"]).arg(folder).args(options);
    let counter = preload(&mut command, flushes, folder);
    let (running, ready): (_, Ready) = Running::start_and_hear(&mut command, counter)?;
    Ok((running, ready.address()?))
}

fn preload(command: &mut Command, flushes: Option<&Flushes>, folder: &Path) -> Option<PathBuf> {
    let flushes = flushes?;
    let counter = folder.join("flushes");
    flushes.preload.preload(command, &counter, flushes.delay);
    Some(counter)
}

const CONFIG: &str = "countersign.toml";
/// The tenant with which it is set up.
pub const TENANT: &str = "bench";
/// The address that stands in tokens: nodes take each other's tokens where it is the same.
const PUBLIC: &str = "http://127.0.0.1:8080";
const DATABASE: &str = "countersign.db";
const MASTER_KEY: &str = "master.key";

/// The settings of the provider that is the sink.
#[must_use]
pub fn provider(sink: SocketAddr) -> Value {
    json!({
        "url": format!("http://{sink}/messages"),
        "json": { "to": "{{ to }}", "text": "{{ text }}" },
        "receipt": "/messageId",
    })
}

/// What a node says of its store.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    /// Decisions.
    pub decisions: f64,
    /// Transactions that held them.
    pub batches: f64,
    /// Transactions that began anew because another was faster.
    pub overtaken: f64,
}

/// What the nodes at these addresses say of their stores, together.
///
/// # Errors
/// One does not answer.
pub fn counts(nodes: &[SocketAddr]) -> Result<Counts> {
    let mut all = Counts::default();
    for node in nodes {
        let (status, body) = message::call(*node, message::get(*node, "/metrics", None).as_bytes())?;
        ensure!(status == 200, "no metrics: {status}");
        for line in std::str::from_utf8(&body)?.lines() {
            let Some((name, value)) = line.rsplit_once(' ') else { continue };
            let sum = match name.split('{').next().unwrap_or(name) {
                "countersign_store_decisions_total" => &mut all.decisions,
                "countersign_store_batches_total" => &mut all.batches,
                "countersign_store_overtaken_total" => &mut all.overtaken,
                _ => continue,
            };
            *sum += value.parse::<f64>().with_context(|| format!("no figure: {line}"))?;
        }
    }
    Ok(all)
}

/// Makes the tenant, its client, and the provider with its route; gives the client's id and secret.
fn configure(program: &Path, config: &Path, sink: SocketAddr) -> Result<(String, String)> {
    let provider = provider(sink);
    let file = config.with_file_name("sink.json");
    std::fs::write(&file, provider.to_string())?;
    let file = file.to_str().context("a folder whose name is not UTF-8")?;

    run(program, config, &["tenant", "create", TENANT])?;
    run(program, config, &["provider", "add", TENANT, "sink", "--kind", "http", "--channel", "sms", "--file", file])?;
    run(program, config, &["tenant", "route", "add", TENANT, "sms", "sink"])?;
    let client = run(program, config, &["client", "create", TENANT, "bench"])?;
    let text = |name: &str| client[name].as_str().map(str::to_owned).with_context(|| format!("`client create` told no {name}"));
    Ok((text("client_id")?, text("client_secret")?))
}

/// Runs one command of the server with `--json`, and reads what it says.
fn run(program: &Path, config: &Path, arguments: &[&str]) -> Result<Value> {
    let mut command = Command::new(program);
    command.args(arguments).arg("--config").arg(config).arg("--json").stdin(Stdio::null());
    let done = command.output().with_context(|| format!("starting {}", program.display()))?;
    if !done.status.success() {
        let said = [done.stdout, done.stderr].concat();
        bail!("`countersign {}` fails: {}", arguments.join(" "), String::from_utf8_lossy(&said).trim_end());
    }
    serde_json::from_slice(&done.stdout).with_context(|| format!("`countersign {} --json` told no JSON", arguments.join(" ")))
}
