//! A PostgreSQL cluster of the run's own: made, started, watched and ended here.
//!
//! It runs with the settings that it comes with, `fsync` and `synchronous_commit` among them; only its memory and the room for its
//! log are those of a machine of this size. It listens on loopback, and its data lies in a folder of its own, which the run removes.

use crate::process::{Running, Usage};
use crate::server::Flushes;
use anyhow::{Context, Result, bail, ensure};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio_postgres::{Client, NoTls};

/// How long the cluster may take to take connections, and to end.
const PATIENCE: Duration = Duration::from_secs(120);

/// The account as which it runs when this program runs as root, which PostgreSQL refuses.
const ACCOUNT: &str = "postgres";

/// Its settings that differ from what it comes with.
const SETTINGS: &[&str] = &["shared_buffers=512MB", "max_wal_size=4GB", "max_connections=200", "listen_addresses=127.0.0.1"];

/// A running cluster; it is ended when this is dropped.
pub struct Cluster {
    // In this order: what asks it goes before it does.
    watch: Watch,
    postmaster: Running,
    runtime: Runtime,
    programs: PathBuf,
    port: u16,
    version: String,
}

/// A client, and the runtime that carries it.
pub struct Control<'a> {
    client: Client,
    runtime: &'a Runtime,
}

/// Ends the cluster when it is dropped, and also when this process is killed: its standard input is then closed.
struct Watch {
    child: Child,
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // It ends by itself; there is nothing to do about it if it does not.
        let _ = self.child.wait();
    }
}

impl Cluster {
    /// Makes one in `folder` and starts it. With `flushes` they are counted, and made slower.
    ///
    /// # Errors
    /// No PostgreSQL on this machine, or one that does not start.
    pub fn start(folder: &Path, flushes: Option<&Flushes>) -> Result<Self> {
        let programs = programs()?;
        std::fs::create_dir_all(folder)?;
        let folder = folder.canonicalize()?;
        let account = account()?;
        let run = |program: &str| {
            let mut command = Command::new(programs.join(program));
            command.current_dir(&folder).env("LC_ALL", "C");
            if let Some((user, group)) = account {
                command.uid(user).gid(group);
            }
            command
        };
        if let Some((user, group)) = account {
            chown(&folder, Some(user), Some(group))?;
            let enters = Command::new("test").args(["-x", "."]).current_dir(&folder).uid(user).gid(group).status();
            let advice = "choose another folder with --data";
            ensure!(enters.is_ok_and(|it| it.success()), "user {ACCOUNT} cannot enter {}: {advice}", folder.display());
        }
        let data = folder.join("data");
        let mut initdb = run("initdb");
        initdb.args(["--username=bench", "--auth=trust", "--encoding=UTF8", "--no-locale", "--pgdata"]).arg(&data);
        let made = initdb.output().context("starting initdb")?;
        ensure!(made.status.success(), "initdb fails: {}", String::from_utf8_lossy(&made.stderr).trim_end());

        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut command = run("postgres");
        command.arg("-D").arg(&data).arg("-k").arg(&folder).args(["-p", &port.to_string()]);
        command.args(SETTINGS.iter().flat_map(|it| ["-c", it]));
        let log = std::fs::File::create(folder.join("postgres.log"))?;
        command.stdout(log.try_clone()?).stderr(log);
        let counter = match flushes {
            None => None,
            Some(flushes) => Some(counted(flushes, &mut command, &folder, account)?),
        };
        let mut postmaster = Running::start(&mut command, counter)?;
        let watch = Watch::over(&postmaster)?;

        let runtime = Runtime::new()?;
        let since = Instant::now();
        let version = loop {
            match runtime.block_on(connect(&address(port, "postgres"))) {
                Ok(client) => break runtime.block_on(client.query_one("SHOW server_version", &[]))?.try_get::<_, String>(0)?,
                Err(error) if since.elapsed() > PATIENCE => return Err(error).context("PostgreSQL takes no connection"),
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
            if postmaster.has_ended()? {
                bail!("PostgreSQL ended instead of serving: see {}", folder.join("postgres.log").display());
            }
        };
        let version = version.split_whitespace().next().unwrap_or_default().to_owned();
        Ok(Self { watch, postmaster, runtime, programs, port, version })
    }

    /// Makes a database, and says how it is reached.
    ///
    /// # Errors
    /// The name is taken.
    pub fn create(&self, database: &str) -> Result<String> {
        self.control("postgres")?.run(&format!("CREATE DATABASE {database}"))?;
        Ok(address(self.port, database))
    }

    /// How a database is reached.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        address(self.port, database)
    }

    /// A client of a database.
    ///
    /// # Errors
    /// It is not there.
    pub fn control(&self, database: &str) -> Result<Control<'_>> {
        Ok(Control { client: self.runtime.block_on(connect(&self.url(database)))?, runtime: &self.runtime })
    }

    /// The runtime on which its clients run.
    #[must_use]
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// What all its processes have used so far, those that have ended included.
    ///
    /// # Errors
    /// It is gone.
    pub fn usage(&self) -> Result<Usage> {
        self.postmaster.usage_of_family()
    }

    /// What it is, for the report.
    #[must_use]
    pub fn name(&self) -> String {
        format!("PostgreSQL {}, {}", self.version, SETTINGS[..2].join(", "))
    }

    /// Its program of this name.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// Ends it, and waits until it has ended.
    ///
    /// # Errors
    /// It does not end.
    pub fn stop(self) -> Result<()> {
        let Self { watch, mut postmaster, runtime, .. } = self;
        runtime.shutdown_timeout(Duration::from_secs(1));
        drop(watch);
        let since = Instant::now();
        while !postmaster.has_ended()? {
            ensure!(since.elapsed() < PATIENCE, "PostgreSQL has not ended {PATIENCE:?} after it was asked to");
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Control<'_> {
    /// Runs statements.
    ///
    /// # Errors
    /// The database refuses one.
    pub fn run(&self, text: &str) -> Result<()> {
        self.runtime.block_on(self.client.batch_execute(text)).with_context(|| format!("at `{text}`"))
    }

    /// The one text that a statement tells; the first, if there are several.
    ///
    /// # Errors
    /// The database refuses it, or it tells nothing.
    pub fn ask(&self, text: &str) -> Result<String> {
        let said = self.runtime.block_on(self.client.simple_query(text)).with_context(|| format!("at `{text}`"))?;
        let row = said.iter().find_map(|it| if let tokio_postgres::SimpleQueryMessage::Row(row) = it { row.get(0) } else { None });
        Ok(row.with_context(|| format!("nothing is told by `{text}`"))?.to_owned())
    }

    /// How many bytes its log has had so far.
    ///
    /// # Errors
    /// The database is gone.
    pub fn wal_bytes(&self) -> Result<u64> {
        Ok(self.ask("SELECT pg_current_wal_insert_lsn() - '0/0'")?.parse()?)
    }
}

impl Watch {
    fn over(postmaster: &Running) -> Result<Self> {
        // SIGINT: it ends at once, and in order, whoever is connected.
        let mut command = Command::new("sh");
        command.args(["-c", "trap '' INT TERM HUP; read gone; kill -INT \"$0\"", &postmaster.id().to_string()]);
        Ok(Self { child: command.stdin(Stdio::piped()).spawn().context("starting a shell")? })
    }
}

/// Opens a connection to `url`.
///
/// # Errors
/// Nobody is there.
pub async fn connect(url: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    // Whoever waits for an answer hears that the connection is gone.
    tokio::spawn(async move { drop(connection.await) });
    Ok(client)
}

fn address(port: u16, database: &str) -> String {
    format!("postgres://bench@127.0.0.1:{port}/{database}")
}

/// Where PostgreSQL's programs are: in the newest of the folders where systems put them, or where the path leads.
fn programs() -> Result<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    for place in ["/usr/lib/postgresql", "/usr/local/lib/postgresql", "/opt/postgresql"] {
        for entry in std::fs::read_dir(place).into_iter().flatten().flatten() {
            let version = entry.file_name().to_string_lossy().parse().unwrap_or(0);
            found.push((version, entry.path().join("bin")));
        }
    }
    found.sort();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut all = found.into_iter().rev().map(|(_, it)| it).chain(std::env::split_paths(&path));
    all.find(|it| ["postgres", "initdb", "psql"].iter().all(|name| it.join(name).is_file()))
        .context("no PostgreSQL was found on this machine: install its server")
}

/// User and group as which PostgreSQL runs; nothing when that is simply ours.
fn account() -> Result<Option<(u32, u32)>> {
    if std::fs::metadata("/proc/self")?.uid() != 0 {
        return Ok(None);
    }
    let accounts = std::fs::read_to_string("/etc/passwd")?;
    let ids = |line: &str| {
        let mut fields = line.strip_prefix(ACCOUNT)?.strip_prefix(':')?.split(':').skip(1);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    let found = accounts.lines().find_map(ids);
    Ok(Some(found.with_context(|| format!("PostgreSQL does not run as root, and there is no user {ACCOUNT}"))?))
}

/// Lets the cluster count its flushes, with a preload and a counter that its account can open.
fn counted(flushes: &Flushes, command: &mut Command, folder: &Path, account: Option<(u32, u32)>) -> Result<PathBuf> {
    let counter = folder.join("flushes");
    let preload = flushes.preload.copied_to(&folder.join("slowflush.so"))?;
    std::fs::write(&counter, [0; 8])?;
    if let Some((user, group)) = account {
        chown(&counter, Some(user), Some(group))?;
    }
    preload.preload(command, &counter, flushes.delay);
    Ok(counter)
}
