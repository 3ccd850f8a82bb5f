//! One run: every row beside its ceiling, round by round, in one go.
//!
//! Within a round each row comes right after its ceiling, so that a busy neighbour slows both, and the ratio stays true.

use crate::driver::{self, Load, Window, Work};
use crate::process::{self, Running};
use crate::report::{Budget, Machine, Report, Row, Sample, Start, whole};
use crate::server::{self, Counts, Doors, Flushes, Kind, Ready, Server};
use crate::sink::{self, Codes};
use crate::slowflush::SlowFlush;
use crate::traffic::{Answers, Guess, Opened, People, Requests, Same};
use anyhow::{Context, Result, bail, ensure};
use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// What a production disk takes for a flush.
const SLOW_FLUSH: Duration = Duration::from_millis(3);

/// Starts of which the median is taken.
const STARTS: usize = 5;

/// How long the sink may lag behind the answers.
const SINK_PATIENCE: Duration = Duration::from_secs(15);

/// Connections over which challenges are opened that no row measures.
pub const OPENING: usize = 128;

/// Challenges that one round opens at most.
pub const OPENED_MOST: usize = 600_000;

/// What a run is told.
#[derive(Debug)]
pub struct Options {
    /// The server.
    pub kind: Kind,
    /// Where the data of this run is kept; made, and removed.
    pub folder: PathBuf,
    /// Connections of the ordinary rows.
    pub connections: usize,
    /// Connections of the rows with slow flushes.
    pub slow_connections: usize,
    /// The measured part of a row.
    pub span: Duration,
    /// Rounds.
    pub rounds: usize,
    /// People who are enrolled before the last starts.
    pub users: u32,
    /// Whether to leave out the rows with slow flushes.
    pub skip_slow: bool,
    /// Bytes of a row in the ceiling.
    pub row_bytes: usize,
    /// How the run was called.
    pub command: String,
}

/// How much an old database holds.
#[derive(Debug, Clone, Copy)]
pub struct Growth {
    /// Spent challenges.
    pub challenges: u64,
    /// How many of them, the youngest, still have their message's record and their events.
    pub with_events: u64,
    /// Tenants, among whom all is spread.
    pub tenants: u32,
    /// People with a device.
    pub users: u32,
}

/// Measures everything on the embedded engine.
///
/// # Errors
/// Whatever makes the figures worthless; what merely cannot be measured here is told in the report.
pub fn run(options: &Options) -> Result<Report> {
    std::fs::create_dir_all(&options.folder).with_context(|| format!("making {}", options.folder.display()))?;
    let mut machine = machine(&options.folder)?;
    let mut skipped = Vec::new();
    let preload = match SlowFlush::compile(&options.folder) {
        Ok(preload) => Some(preload),
        Err(why) => {
            // In CI nothing is left out silently.
            ensure!(std::env::var_os("CI").is_none(), "flushes cannot be counted: {why:#}");
            skipped.push(format!("flushes, and the rows with a flush of 3 ms: {why:#}"));
            None
        }
    };
    let mut bench = Bench::new(options)?;

    let counted = preload.clone().map(|preload| Flushes { preload, delay: Duration::ZERO });
    let server = Server::set_up(options.kind.clone(), options.folder.join("disk"), None, bench.sink, counted.clone())?;
    let mut starts = vec![start_often(&server, "with an empty database".into(), None, 22.0)?];
    let (running, doors, _) = server.start()?;
    bench.phase(&running, &doors, counted.as_ref(), Duration::ZERO)?;
    let memory_after_load = running.memory()?;
    running.stop()?;

    let slow = preload.filter(|_| !options.skip_slow).map(|preload| Flushes { preload, delay: SLOW_FLUSH });
    if let Some(flushes) = slow {
        let server = Server::set_up(options.kind.clone(), options.folder.join("slow"), None, bench.sink, Some(flushes.clone()))?;
        let (running, doors, _) = server.start()?;
        bench.phase(&running, &doors, Some(&flushes), SLOW_FLUSH)?;
        running.stop()?;
    } else if options.skip_slow {
        skipped.push("the rows with a flush of 3 ms, as was asked for".into());
    }
    if options.users == 0 {
        skipped.push("starts with many users, as was asked for".into());
    } else if !server.can_be_seeded() {
        skipped.push("starts with many users: the stand-in has none".into());
    } else {
        // Flushes are as the disk makes them: neither a start nor memory is about them.
        let server = Server::set_up(options.kind.clone(), options.folder.join("users"), None, bench.sink, None)?;
        server.seed(options.users)?;
        let what = format!("with {} users enrolled", whole(options.users.into()));
        starts.push(start_often(&server, what, Some(150.0), 64.0)?);
    }
    machine.load_after = load_average();
    progress("");
    Ok(Report {
        command: options.command.clone(),
        machine,
        server: server.name(),
        database: None,
        rows: bench.rows,
        starts,
        notes: Vec::new(),
        memory_after_load: Some(memory_after_load),
        skipped,
    })
}

/// Starts the server several times, and looks at its memory after the last.
fn start_often(server: &Server, what: String, budget_ms: Option<f64>, budget_megabytes: f64) -> Result<Start> {
    let mut first_answer_ms = Vec::new();
    loop {
        progress(&format!("start {} of {STARTS}, {what}", first_answer_ms.len() + 1));
        let (running, _, taken) = server.start()?;
        first_answer_ms.push(taken.as_secs_f64() * 1e3);
        if first_answer_ms.len() == STARTS {
            std::thread::sleep(Duration::from_secs(1));
            let memory = running.memory()?;
            running.stop()?;
            return Ok(Start { what, first_answer_ms, memory, budget_ms, budget_megabytes: Some(budget_megabytes) });
        }
        running.stop()?;
    }
}

/// What all rows of a run share.
pub struct Bench<'a> {
    /// What the run was told.
    pub options: &'a Options,
    /// Where the sink listens.
    pub sink: SocketAddr,
    /// Those who have not been asked for yet.
    pub people: People,
    rows: Vec<Row>,
    /// Codes that were heard of and not asked for yet.
    heard: Codes,
    _sink: Running,
}

impl<'a> Bench<'a> {
    /// Starts the sink.
    ///
    /// # Errors
    /// It does not start.
    pub fn new(options: &'a Options) -> Result<Self> {
        let (running, ready): (_, Ready) = Running::start_and_hear(Command::new(std::env::current_exe()?).arg("sink"), None)?;
        Ok(Self { options, sink: ready.address()?, people: People::default(), rows: Vec::new(), heard: Codes::new(), _sink: running })
    }

    /// All rounds on one kind of disk.
    fn phase(&mut self, running: &Running, doors: &Doors, flushes: Option<&Flushes>, delay: Duration) -> Result<()> {
        let slow = !delay.is_zero();
        let name = |name: &str| self.options.folder.join(if slow { format!("{name}-slow") } else { name.to_owned() });
        let bytes = self.options.row_bytes.to_string();
        let (hyper, hyper_at) = server::ceiling("hyper", &name("hyper"), None, &[])?;
        let (commit, commit_at) = server::ceiling("commit", &name("commit"), flushes, &["--row-bytes", &bytes])?;
        let commit_doors = [Doors { address: commit_at, token: doors.token.clone(), ..doors.clone() }];
        let all = std::slice::from_ref(doors);
        let connections = if slow { self.options.slow_connections } else { self.options.connections };
        let mut rows = Rows { rows: budgets(slow, connections), load: self.load(doors.address, connections) };
        // A first guess at how many codes a round takes; afterwards the last round tells.
        let mut wanted = if slow { [15_000.0, 15_000.0] } else { [60_000.0, 60_000.0] };

        for round in 1..=self.options.rounds {
            let say = |what: &str| {
                progress(&format!("round {round} of {}{}: {what}", self.options.rounds, if slow { ", slow disk" } else { "" }))
            };
            if !slow {
                say("ceiling, hyper");
                let of = rows.measure(HYPER, &hyper, hyper_at, &mut Same::echo(hyper_at), None)?;
                say("token");
                rows.measure(TOKEN, running, doors.address, &mut Same::token(doors), Some(of))?;
            }

            say("ceiling, request");
            let mut nobody = People::default();
            let mut requests = Requests::new(&commit_doors, &mut nobody, connections, usize::MAX);
            let of = rows.measure(CEILING_REQUEST, &commit, commit_at, &mut requests, None)?;
            say("request");
            let mut requests = Requests::new(all, &mut self.people, connections, usize::MAX);
            rows.measure(REQUEST, running, doors.address, &mut requests, Some(of))?;
            let opened = requests.opened;
            let seconds = (rows.load.warm_up + rows.load.span).as_secs_f64();
            let (for_right, for_wrong) = self.guesses(all, opened, wanted.map(|rate| (rate * seconds * 1.3) as usize), &say)?;

            say("ceiling, verify");
            let of = self.ceiling_verify(&mut rows, &commit, &commit_doors)?;
            say("verify");
            let mut answers = Answers::new(all, for_right.into_iter(), 200);
            wanted[0] = rows.measure(VERIFY, running, doors.address, &mut answers, Some(of))?;

            say("ceiling, verify");
            let of = self.ceiling_verify(&mut rows, &commit, &commit_doors)?;
            say("wrong code");
            let mut answers = Answers::new(all, for_wrong.into_iter(), 400);
            wanted[1] = rows.measure(WRONG, running, doors.address, &mut answers, Some(of))?;
        }
        self.rows.extend(
            rows.rows.into_iter().filter(|row| !row.rounds.is_empty()).map(|row| Row { flush_ms: delay.as_millis() as u64, ..row }),
        );
        Ok(())
    }

    /// The load of a row.
    #[must_use]
    pub fn load(&self, address: SocketAddr, connections: usize) -> Load {
        let span = self.options.span;
        Load { address, also: None, connections, warm_up: (span / 5).min(Duration::from_millis(500)), span }
    }

    fn ceiling_verify(&self, rows: &mut Rows, commit: &Running, doors: &[Doors]) -> Result<f64> {
        let mut answers = Answers::new(doors, std::iter::repeat_with(Guess::none), 200);
        rows.measure(CEILING_VERIFY, commit, doors[0].address, &mut answers, None)
    }

    /// Right codes and wrong ones, about as many as are `wanted`, for `opened` and for challenges that are opened here.
    ///
    /// # Errors
    /// A challenge that is not opened, or whose code does not reach the sink.
    pub fn guesses(
        &mut self,
        doors: &[Doors],
        mut opened: Vec<Opened>,
        wanted: [usize; 2],
        say: &impl Fn(&str),
    ) -> Result<(Vec<Guess>, Vec<Guess>)> {
        let [right, wrong] = wanted;
        let total = (right + wrong / 2).min(OPENED_MOST);
        say(&format!("opening {total} challenges"));
        self.open(doors, total.saturating_sub(opened.len()), &mut opened)?;
        let mut guesses = self.right(&opened)?;
        let for_wrong = guesses.split_off(guesses.len() * right / (right + wrong / 2));
        Ok((guesses, Guess::wrong(&for_wrong)))
    }

    /// Opens one challenge, and answers it with the right code.
    ///
    /// # Errors
    /// A server that does not do as it should.
    pub fn open_and_answer(&mut self, door: &Doors) -> Result<()> {
        let doors = std::slice::from_ref(door);
        let load = Load { warm_up: Duration::ZERO, ..self.load(door.address, 1) };
        let mut requests = Requests::new(doors, &mut self.people, 1, 1);
        driver::drive(load, &mut requests, || Ok(()))?;
        let opened = requests.opened;
        let guesses = self.right(&opened)?;
        driver::drive(load, &mut Answers::new(doors, guesses.into_iter(), 200), || Ok(()))?;
        Ok(())
    }

    /// Opens challenges that no row measures, and that nobody answers.
    ///
    /// # Errors
    /// As [`Bench::guesses`].
    pub fn warm(&mut self, doors: &[Doors], most: usize) -> Result<()> {
        self.open(doors, most, &mut Vec::new())
    }

    /// Opens challenges that no row measures.
    fn open(&mut self, doors: &[Doors], most: usize, opened: &mut Vec<Opened>) -> Result<()> {
        if most < OPENING {
            return Ok(());
        }
        let mut requests = Requests::new(doors, &mut self.people, OPENING, most);
        let load =
            Load { address: doors[0].address, also: None, connections: OPENING, warm_up: Duration::ZERO, span: Duration::from_secs(120) };
        driver::drive(load, &mut requests, || Ok(())).context("opening challenges")?;
        opened.append(&mut requests.opened);
        Ok(())
    }

    /// The right codes of all these challenges.
    fn right(&mut self, opened: &[Opened]) -> Result<Vec<Guess>> {
        let numbers: Vec<_> = opened.iter().map(|it| it.to).collect();
        Ok(Guess::right(opened, &self.codes(&numbers)?))
    }

    /// The codes that went to these numbers, in their order. They may reach the sink a little after the answers reached us.
    ///
    /// # Errors
    /// A code that does not reach the sink.
    pub fn codes(&mut self, numbers: &[u64]) -> Result<Vec<u32>> {
        let since = Instant::now();
        loop {
            self.heard.extend(sink::codes(self.sink)?);
            if let Some(codes) = numbers.iter().map(|it| self.heard.get(it).copied()).collect() {
                for number in numbers {
                    self.heard.remove(number);
                }
                return Ok(codes);
            }
            if since.elapsed() > SINK_PATIENCE {
                bail!("the sink saw {} messages, and {} challenges were opened", self.heard.len(), numbers.len());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

const HYPER: usize = 0;
const CEILING_REQUEST: usize = 1;
const CEILING_VERIFY: usize = 2;
const TOKEN: usize = 3;
const REQUEST: usize = 4;
const VERIFY: usize = 5;
const WRONG: usize = 6;

/// The rows in the order of the constants, with their budgets.
fn budgets(slow: bool, connections: usize) -> Vec<Row> {
    let none = Budget::default();
    let (request, verify) = if slow {
        (Budget { rate: Some(5_400.0), ..none }, Budget { rate: Some(9_000.0), p99_ms: Some(20.0), ..none })
    } else {
        (
            Budget { rate: Some(20_000.0), cpu_us: Some(70.0), ..none },
            Budget { rate: Some(50_000.0), of_ceiling: Some(0.5), cpu_us: Some(25.0), ..none },
        )
    };
    let token = Budget { cpu_us: Some(60.0), ..none };
    let rows = [
        ("ceiling: hyper, JSON echo", none),
        ("ceiling: axum, JSON of request, one row", none),
        ("ceiling: axum, JSON of verify, one row", none),
        ("token", token),
        ("request", request),
        ("verify, right code", verify),
        ("verify, wrong code", none),
    ];
    let row = |(what, budget): (&str, _)| Row { what: what.into(), flush_ms: 0, connections, budget, rounds: Vec::new() };
    rows.map(row).into()
}

/// Rows that are measured in turns.
pub struct Rows {
    /// The rows.
    pub rows: Vec<Row>,
    /// The load of a row, but for where it goes and over how many connections.
    pub load: Load,
}

impl Rows {
    /// Runs one row once, and gives its rate.
    ///
    /// # Errors
    /// Whatever makes its figures worthless.
    pub fn measure(
        &mut self,
        row: usize,
        running: &Running,
        address: SocketAddr,
        work: &mut impl Work,
        ceiling: Option<f64>,
    ) -> Result<f64> {
        let probe = || {
            let usage = running.usage()?;
            Ok(Probe { nodes: Some(usage.cpu), own: process::own_cpu()?, flushes: usage.flushes, ..Probe::default() })
        };
        let row = &mut self.rows[row];
        let window =
            driver::drive(Load { address, connections: row.connections, ..self.load }, work, probe).with_context(|| row.what.clone())?;
        let sample = sample(&window, ceiling);
        row.rounds.push(sample);
        Ok(sample.rate)
    }
}

/// What is read at both ends of a window.
#[derive(Debug, Clone, Copy, Default)]
pub struct Probe {
    /// Processor time of the server, or of all its nodes.
    pub nodes: Option<Duration>,
    /// The same of the database, where it is a server of its own.
    pub database: Option<Duration>,
    /// The same of this process.
    pub own: Duration,
    /// Flushes of whoever keeps the data.
    pub flushes: Option<u64>,
    /// Bytes of the database's log.
    pub wal_bytes: Option<u64>,
}

/// What a window says of its row.
#[must_use]
pub fn sample(window: &Window<Probe>, ceiling: Option<f64>) -> Sample {
    let operations = window.operations.max(1) as f64;
    let ms = |it: Duration| it.as_secs_f64() * 1e3;
    let (before, after) = (window.before, window.after);
    let cpu_us = |after: Option<Duration>, before: Option<Duration>| {
        after.zip(before).map(|(after, before)| after.saturating_sub(before).as_secs_f64() * 1e6 / operations)
    };
    let count =
        |after: Option<u64>, before: Option<u64>| after.zip(before).map(|(after, before)| after.saturating_sub(before) as f64 / operations);
    let rate = window.operations as f64 / window.span.as_secs_f64();
    Sample {
        rate,
        p50_ms: ms(window.latencies.quantile(0.5)),
        p99_ms: ms(window.latencies.quantile(0.99)),
        max_ms: ms(window.latencies.max()),
        cpu_us: cpu_us(after.nodes, before.nodes),
        database_cpu_us: cpu_us(after.database, before.database),
        driver_cpu_us: (after.own - before.own).as_secs_f64() * 1e6 / operations,
        flushes: count(after.flushes, before.flushes),
        wal_bytes: count(after.wal_bytes, before.wal_bytes),
        batch: None,
        overtaken: None,
        of_ceiling: ceiling.map(|ceiling| rate / ceiling),
    }
}

/// The same, with what the nodes said of their stores before and after it.
#[must_use]
pub fn counted(sample: Sample, before: Counts, after: Counts) -> Sample {
    let batches = after.batches - before.batches;
    let overtaken = after.overtaken - before.overtaken;
    let part = |it: f64, of: f64| (of > 0.0).then(|| it / of);
    Sample { batch: part(after.decisions - before.decisions, batches), overtaken: part(overtaken, batches + overtaken), ..sample }
}

/// On what it is measured.
///
/// # Errors
/// The folder is in memory.
pub fn machine(folder: &Path) -> Result<Machine> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let processor =
        read("/proc/cpuinfo").lines().find_map(|line| Some(line.strip_prefix("model name")?.split_once(':')?.1.trim().to_owned()));
    let folder = folder.canonicalize()?;
    // The longest mount point that the folder is under; fields are device, mount point, type.
    let mounts = read("/proc/self/mounts");
    let mounts = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        Some((fields.next()?, fields.next()?))
    });
    let file_system =
        mounts.filter(|(at, _)| folder.starts_with(at)).max_by_key(|(at, _)| at.len()).map_or("?", |(_, kind)| kind).to_owned();
    ensure!(file_system != "tmpfs", "{} is in memory, where nothing is durable: choose another folder with --data", folder.display());
    Ok(Machine {
        cores: std::thread::available_parallelism()?.get(),
        processor: processor.unwrap_or_else(|| "an unnamed processor".into()),
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        file_system,
        load_before: load_average(),
        load_after: f64::NAN,
    })
}

/// Processes that wanted to run, on average over the last minute.
#[must_use]
pub fn load_average() -> f64 {
    let said = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    said.split(' ').next().and_then(|it| it.parse().ok()).unwrap_or(f64::NAN)
}

/// One line on a terminal that is overwritten; nothing in a pipe.
pub fn progress(what: &str) {
    let mut terminal = std::io::stderr();
    if terminal.is_terminal() {
        // A terminal that is gone need not be told.
        let _ = write!(terminal, "\r\x1b[2K{what}");
        let _ = terminal.flush();
    }
}
