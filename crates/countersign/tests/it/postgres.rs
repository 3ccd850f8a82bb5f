//! PostgreSQL as it is installed: clusters of the tests' own, on loopback, with every flush that it makes for others.
//!
//! Owns how they are made, found, killed and made again. One cluster is shared by all tests, each with a database of its own;
//! tests that harm a cluster make their own ([`Instance`]), or a primary with a synchronous standby ([`Pair`]).

use crate::tools::{self, Folder, until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

/// Who administers a cluster of the tests.
const ADMINISTRATOR: &str = "administrator";
/// Who Countersign is in them: the owner of its database, and nothing else.
const ROLE: &str = "countersign";
/// The password of both.
const PASSWORD: &str = "correct-horse";

/// How long a cluster may take to answer after its start; that includes recovery after a crash.
const STARTS_WITHIN: Duration = Duration::from_secs(60);

/// The programs of the newest PostgreSQL on this machine, and the user as whom they run.
#[derive(Debug, Clone)]
pub struct Programs {
    folder: PathBuf,
    /// PostgreSQL does not run as root; then it runs as its own user.
    user: Option<&'static str>,
}

impl Programs {
    /// Finds them. Without them the test is skipped, aloud; in CI it fails.
    pub fn find(test: &str) -> Option<Self> {
        // Debian keeps each version in a folder of its own, none of which is on the path.
        let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        let version = |folder: &Path| folder.file_name().and_then(|it| it.to_str()).and_then(|it| it.parse::<u32>().ok());
        let mut folders: Vec<_> = versions.map(|it| it.path()).filter(|it| version(it).is_some()).collect();
        folders.sort_by_key(|it| std::cmp::Reverse(version(it)));
        let path = std::env::var_os("PATH").unwrap_or_default();
        let all = folders.into_iter().map(|it| it.join("bin")).chain(std::env::split_paths(&path));
        let Some(folder) = all.into_iter().find(|it| ["postgres", "initdb", "pg_basebackup"].iter().all(|name| it.join(name).is_file()))
        else {
            tools::missing(test, "PostgreSQL is not installed (run ./test)");
            return None;
        };
        tools::find(test, "psql")?;
        tools::find(test, "setpriv")?;
        let user = rustix::process::geteuid().is_root().then_some("postgres");
        Some(Self { folder, user })
    }

    /// A program of PostgreSQL as the user who may run it. Its standard output is silent.
    fn command(&self, name: &str) -> Command {
        as_user(self.user, &self.folder.join(name), None)
    }
}

/// `program` as `user`, or as who we are. With `dies_by` it gets that signal when we die.
fn as_user(user: Option<&str>, program: &Path, dies_by: Option<&str>) -> Command {
    let mut command = Command::new("setpriv");
    if let Some(user) = user {
        command.args([&format!("--reuid={user}"), &format!("--regid={user}"), "--init-groups"]);
    }
    if let Some(signal) = dies_by {
        command.args(["--pdeathsig", signal]);
    }
    command.arg(program).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Starts a program that dies with the test process.
///
/// The signal comes when the thread that started the program ends, and tests are threads that end: so one thread that never ends
/// starts them all.
pub fn keep(command: Command) -> io::Result<Child> {
    type Wish = (Command, Sender<io::Result<Child>>);
    static KEEPER: OnceLock<Mutex<Sender<Wish>>> = OnceLock::new();
    let keeper = KEEPER.get_or_init(|| {
        let (ask, asked) = channel::<Wish>();
        std::thread::spawn(move || {
            for (mut command, tell) in asked {
                let _ = tell.send(command.spawn());
            }
        });
        Mutex::new(ask)
    });
    let (tell, told) = channel();
    keeper.lock().unwrap().send((command, tell)).expect("the keeper never ends");
    told.recv().expect("the keeper answers")
}

/// A program from outside that dies with the test process, as the unprivileged user of PostgreSQL when we are root.
pub fn daemon(program: &Path, prepare: impl FnOnce(&mut Command)) -> Child {
    let user = rustix::process::geteuid().is_root().then_some("postgres");
    let mut command = as_user(user, program, Some("KILL"));
    prepare(&mut command);
    keep(command).expect("the program starts")
}

/// Gives a folder or file to the user as whom PostgreSQL runs.
pub fn give(path: &Path) {
    if rustix::process::geteuid().is_root() {
        tools::run(Command::new("chown").arg("-R").arg("postgres:postgres").arg(path));
    }
}

/// One PostgreSQL server with its data.
pub struct Instance {
    programs: Programs,
    data: PathBuf,
    pub port: u16,
    /// Environment of its processes, such as a library that is loaded first.
    pub environment: Vec<(&'static str, String)>,
    process: Option<Child>,
    // Dropped last: the process is gone before its files.
    _folder: Folder,
}

impl Instance {
    /// Makes a cluster in a folder of its own, and starts it.
    pub fn start_new(programs: &Programs) -> Self {
        let mut new = Self::empty(programs);
        new.make(&[]);
        new.start();
        new.create_role();
        new
    }

    /// A place for a cluster, with nothing in it.
    pub fn empty(programs: &Programs) -> Self {
        let folder = Folder::new("postgres");
        let data = folder.0.join("data");
        Self::at(programs, folder, data)
    }

    /// The same with its data in a folder that is somewhere else, such as on a small disk.
    pub fn at(programs: &Programs, folder: Folder, data: PathBuf) -> Self {
        give(&folder.0);
        Self { programs: programs.clone(), data, port: tools::free_port(), environment: Vec::new(), process: None, _folder: folder }
    }

    /// Makes the files of a new cluster.
    pub fn make(&self, arguments: &[&str]) {
        let password = self._folder.write("password", PASSWORD);
        give(&password);
        let mut command = self.programs.command("initdb");
        // Not flushed one by one: a machine that dies now takes the test with it.
        command.args(["--no-sync", "--encoding=UTF8", "--locale=C", "--auth=scram-sha-256", "--username", ADMINISTRATOR, "--pwfile"]);
        tools::run(command.arg(password).args(arguments).arg("--pgdata").arg(&self.data));
        self.configure(
            "listen_addresses = '127.0.0.1'
             unix_socket_directories = ''
             shared_buffers = 64MB
             max_connections = 200
             fsync = on
             synchronous_commit = on
             wal_level = replica
             max_wal_senders = 4
             wal_keep_size = 64MB
             hot_standby = on
             logging_collector = off
             log_min_messages = warning",
        );
    }

    /// Adds settings, for the next start.
    pub fn configure(&self, settings: &str) {
        let file = self.data.join("postgresql.conf");
        let before = fs::read_to_string(&file).expect("it has settings");
        fs::write(file, format!("{before}\n{settings}\n")).expect("settings are written");
    }

    /// Starts it, and waits until it answers.
    pub fn start(&mut self) {
        self.begin();
        assert!(self.answers(STARTS_WITHIN), "PostgreSQL does not answer:\n{}", self.log());
    }

    /// Starts it.
    pub fn begin(&mut self) {
        let log = self._folder.0.join("log");
        let log = || fs::File::options().create(true).append(true).open(&log).expect("a log");
        // An immediate shutdown takes its children and its shared memory along, which SIGKILL would leave.
        let mut command = as_user(self.programs.user, &self.programs.folder.join("postgres"), Some("QUIT"));
        command.arg("-D").arg(&self.data).args(["-c", &format!("port={}", self.port)]);
        command.envs(self.environment.iter().map(|(name, value)| (name, value))).stdout(log()).stderr(log());
        self.process = Some(keep(command).expect("PostgreSQL starts"));
    }

    /// Whether it answers a question before `within` is over. One that ended does not.
    pub fn answers(&mut self, within: Duration) -> bool {
        let said = until(within, || if self.has_ended() { Some(false) } else { self.try_sql("postgres", "SELECT 1").ok().map(|_| true) });
        said == Some(true)
    }

    /// Whether its process is gone.
    pub fn has_ended(&mut self) -> bool {
        self.process.as_mut().is_none_or(|it| it.try_wait().expect("a child").is_some())
    }

    /// What it logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self._folder.0.join("log")).unwrap_or_default()
    }

    /// Makes the role that Countersign has in it.
    pub fn create_role(&self) {
        self.sql("postgres", &format!("CREATE ROLE {ROLE} LOGIN PASSWORD '{PASSWORD}'"));
    }

    /// Makes a database of Countersign's own.
    pub fn create_database(&self, name: &str) {
        self.sql("postgres", &format!("CREATE DATABASE {name} OWNER {ROLE}"));
    }

    /// The URL by which Countersign reaches a database of this server.
    pub fn url(&self, database: &str) -> String {
        url(&[self.port], database)
    }

    /// Runs SQL as the administrator, and gives what was answered: a row a line, columns between `|`.
    pub fn sql(&self, database: &str, sql: &str) -> String {
        self.try_sql(database, sql).unwrap_or_else(|why| panic!("{sql}: {why}"))
    }

    /// The same, where an error is an answer.
    pub fn try_sql(&self, database: &str, sql: &str) -> Result<String, String> {
        let done = Command::new("psql")
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-U", ADMINISTRATOR])
            .args(["-p", &self.port.to_string(), "-d", database, "-c", sql])
            .env("PGPASSWORD", PASSWORD)
            .env("PGCONNECT_TIMEOUT", "5")
            .stdin(Stdio::null())
            .output()
            .expect("psql runs");
        let text = |it: Vec<u8>| String::from_utf8_lossy(&it).trim_end().to_owned();
        if done.status.success() { Ok(text(done.stdout)) } else { Err(text(done.stderr)) }
    }

    /// How a pooler in front of it knows who may come in.
    pub fn for_pooler(&self) -> String {
        format!("\"{ROLE}\" \"{PASSWORD}\"\n")
    }

    /// The deliveries in a database of Countersign.
    pub fn rows_of_deliveries(&self, database: &str) -> Vec<Value> {
        let rows = self.sql(database, "SELECT body FROM deliveries");
        rows.lines().map(|it| serde_json::from_str(it).expect("JSON")).collect()
    }

    /// The postmaster and all its children.
    fn processes(&self) -> Vec<Pid> {
        let Some(postmaster) = self.process.as_ref().map(Child::id) else { return Vec::new() };
        let all = fs::read_dir("/proc").expect("Linux").flatten().filter_map(|it| it.file_name().to_str()?.parse::<u32>().ok());
        let is_child = |id: &u32| {
            // The name stands in parentheses and may hold anything; after it come the state and the parent.
            let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
            let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse::<u32>().ok());
            parent == Some(postmaster)
        };
        let ids = std::iter::once(postmaster).chain(all.filter(is_child));
        ids.filter_map(|id| Pid::from_raw(i32::try_from(id).ok()?)).collect()
    }

    /// Holds every process still: connections stay open, and nobody answers. The first is the postmaster, so none is born meanwhile.
    pub fn freeze(&self) {
        self.processes().into_iter().take(1).for_each(|it| send(it, Signal::STOP));
        self.processes().into_iter().for_each(|it| send(it, Signal::STOP));
    }

    /// Lets them go on.
    pub fn thaw(&self) {
        self.processes().into_iter().for_each(|it| send(it, Signal::CONT));
    }

    /// Ends every process at once, in the middle of whatever it does, as a machine that loses its power would.
    pub fn kill(&mut self) {
        // Held still first, so that no new process is missed.
        self.freeze();
        self.processes().into_iter().rev().for_each(|it| send(it, Signal::KILL));
        if let Some(mut process) = self.process.take() {
            process.wait().expect("a child");
        }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Sends a signal; one who is gone already does not mind.
fn send(to: Pid, signal: Signal) {
    let _ = kill_process(to, signal);
}

/// The URL by which Countersign reaches a database that is on one of these ports.
pub fn url(ports: &[u16], database: &str) -> String {
    let hosts: Vec<_> = ports.iter().map(|it| format!("127.0.0.1:{it}")).collect();
    let attributes = if ports.len() > 1 { "&target_session_attrs=read-write" } else { "" };
    format!("postgres://{ROLE}:{PASSWORD}@{}/{database}?sslmode=disable{attributes}", hosts.join(","))
}

/// A database of a test's own in the cluster that all tests share.
pub struct Database {
    pub name: String,
    pub cluster: &'static Instance,
}

impl Database {
    /// Makes one. Without PostgreSQL the test is skipped.
    pub fn new(test: &str) -> Option<Self> {
        static SHARED: OnceLock<Option<Instance>> = OnceLock::new();
        static MADE: AtomicU64 = AtomicU64::new(0);
        let programs = Programs::find(test)?;
        let cluster = SHARED.get_or_init(|| {
            // It lives as long as the process, so nobody removes its folder but the next process.
            tools::folders_of_the_dead("postgres").iter().for_each(|it| drop(fs::remove_dir_all(it)));
            Some(Instance::start_new(&programs))
        });
        let name = format!("test_{}", MADE.fetch_add(1, Ordering::Relaxed));
        let cluster = cluster.as_ref()?;
        cluster.create_database(&name);
        Some(Self { name, cluster })
    }

    pub fn url(&self) -> String {
        self.cluster.url(&self.name)
    }

    /// Runs SQL in it as the administrator.
    pub fn sql(&self, sql: &str) -> String {
        self.cluster.sql(&self.name, sql)
    }

    /// The deliveries in it.
    pub fn rows_of_deliveries(&self) -> Vec<Value> {
        self.cluster.rows_of_deliveries(&self.name)
    }
}

/// A primary whose commits wait until a standby has flushed them too, and that standby.
pub struct Pair {
    members: [Instance; 2],
    primary: usize,
    database: &'static str,
}

impl Pair {
    /// Makes both, and a database in them.
    pub fn start(test: &str) -> Option<Self> {
        let programs = Programs::find(test)?;
        let first = Instance::start_new(&programs);
        let mut pair = Self { members: [first, Instance::empty(&programs)], primary: 0, database: "countersign" };
        pair.primary().create_database(pair.database);
        pair.rebuild();
        Some(pair)
    }

    /// The one that takes writes.
    pub fn primary(&self) -> &Instance {
        &self.members[self.primary]
    }

    fn standby(&self) -> &Instance {
        &self.members[1 - self.primary]
    }

    /// A URL that names both, and wants the one that can be written.
    pub fn url(&self) -> String {
        url(&[self.members[0].port, self.members[1].port], self.database)
    }

    /// The URL of the one that can only be read.
    pub fn standby_url(&self) -> String {
        url(&[self.standby().port], self.database)
    }

    /// Runs SQL in the database on the primary.
    pub fn sql(&self, sql: &str) -> String {
        self.primary().sql(self.database, sql)
    }

    /// Kills the primary. Until [`promote`](Self::promote) nobody takes writes.
    pub fn kill_primary(&mut self) {
        self.members[self.primary].kill();
    }

    /// Kills the standby. Until [`rebuild`](Self::rebuild) no commit on the primary is confirmed.
    pub fn kill_standby(&mut self) {
        self.members[1 - self.primary].kill();
    }

    /// Makes the standby the primary. It waits for nobody until [`rebuild`](Self::rebuild) has given it a standby.
    pub fn promote(&mut self) {
        assert_eq!(self.standby().sql("postgres", "SELECT pg_promote(true, 60)"), "t", "{}", self.standby().log());
        self.primary = 1 - self.primary;
    }

    /// Makes the member that is not the primary anew, as a copy of the primary, and has commits wait for it.
    pub fn rebuild(&mut self) {
        let (port, primary) = (self.members[1 - self.primary].port, self.primary().port);
        let standby = &mut self.members[1 - self.primary];
        let _ = fs::remove_dir_all(&standby.data);
        let from = format!("host=127.0.0.1 port={primary} user={ADMINISTRATOR} password={PASSWORD} application_name=standby");
        let mut copy = standby.programs.command("pg_basebackup");
        copy.args(["--no-sync", "--checkpoint=fast", "--wal-method=stream", "--write-recovery-conf", "--dbname", &from, "--pgdata"]);
        tools::run(copy.arg(&standby.data));
        // It is a copy of a primary that waits for its standby, and has none itself once it is promoted.
        let settings = standby.data.join("postgresql.auto.conf");
        let copied = fs::read_to_string(&settings).expect("settings");
        fs::write(settings, format!("{copied}\nsynchronous_standby_names = ''\n")).expect("settings are written");
        standby.port = port;
        standby.start();
        let primary = self.primary();
        primary.sql("postgres", "ALTER SYSTEM SET synchronous_standby_names = 'standby'");
        primary.sql("postgres", "SELECT pg_reload_conf()");
        let look = "SELECT sync_state FROM pg_stat_replication WHERE application_name = 'standby' AND state = 'streaming'";
        let follows = until(Duration::from_secs(60), || (primary.sql("postgres", look) == "sync").then_some(()));
        assert!(follows.is_some(), "the standby does not follow:\n{}\n{}", primary.log(), self.standby().log());
        // The checkpointer is who tells all others that commits have to wait, and it looks at new settings before a checkpoint. The
        // write after it waits for the standby, and takes along what was committed before.
        primary.sql("postgres", "CHECKPOINT");
        primary.sql("postgres", "CREATE TABLE IF NOT EXISTS waits_for_standby (one int); INSERT INTO waits_for_standby VALUES (1)");
    }
}

#[test]
fn what_a_primary_has_committed_its_standby_has_when_it_is_promoted_again_and_again() {
    let Some(mut pair) = Pair::start("postgres::pair") else { return };
    pair.sql("CREATE TABLE kept (one int)");
    for one in 0..3 {
        pair.sql(&format!("INSERT INTO kept VALUES ({one})"));
        pair.kill_primary();
        pair.promote();
        pair.rebuild();
    }
    assert_eq!(pair.sql("SELECT count(*) FROM kept"), "3");
}

#[test]
fn each_test_has_a_database_of_its_own() {
    let (Some(one), Some(other)) = (Database::new("postgres::one"), Database::new("postgres::other")) else { return };
    one.sql("CREATE TABLE here (one int)");
    assert_eq!(other.sql("SELECT count(*) FROM pg_tables WHERE tablename = 'here'"), "0");
    assert_ne!(one.url(), other.url());
}
