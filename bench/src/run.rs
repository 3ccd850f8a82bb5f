//! One run: every row beside its ceiling, round by round, in one go.
//!
//! Within a round each row comes right after its ceiling, so that a busy neighbour slows both, and the ratio stays true.

use crate::driver::{self, Load, Window, Work};
use crate::process::{self, Running, Usage};
use crate::report::{Budget, Machine, Report, Row, Sample, Start, whole};
use crate::server::{self, Doors, Flushes, Kind, Ready, Server};
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
const OPENING: usize = 128;

/// Challenges that one round opens at most.
const OPENED_MOST: usize = 600_000;

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

/// Measures everything.
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
    let (_sink, ready): (_, Ready) = Running::start_and_hear(Command::new(std::env::current_exe()?).arg("sink"), None)?;
    let mut bench = Bench { options, sink: ready.address()?, people: People::default(), rows: Vec::new() };

    let counted = preload.clone().map(|preload| Flushes { preload, delay: Duration::ZERO });
    let server = Server::set_up(options.kind.clone(), options.folder.join("disk"), bench.sink, counted.clone())?;
    let mut starts = vec![start_often(&server, "with an empty database".into(), None, 22.0)?];
    let (running, doors, _) = server.start()?;
    bench.phase(&running, &doors, counted.as_ref(), Duration::ZERO)?;
    let memory_after_load = running.memory()?;
    running.stop()?;

    let slow = preload.filter(|_| !options.skip_slow).map(|preload| Flushes { preload, delay: SLOW_FLUSH });
    if let Some(flushes) = slow {
        let server = Server::set_up(options.kind.clone(), options.folder.join("slow"), bench.sink, Some(flushes.clone()))?;
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
        let server = Server::set_up(options.kind.clone(), options.folder.join("users"), bench.sink, None)?;
        server.seed(options.users)?;
        let what = format!("with {} users enrolled", whole(options.users.into()));
        starts.push(start_often(&server, what, Some(150.0), 64.0)?);
    }
    machine.load_after = load_average();
    progress("");
    Ok(Report { command: options.command.clone(), machine, server: server.name(), rows: bench.rows, starts, memory_after_load, skipped })
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

struct Bench<'a> {
    options: &'a Options,
    sink: SocketAddr,
    people: People,
    rows: Vec<Row>,
}

impl Bench<'_> {
    /// All rounds on one kind of disk.
    fn phase(&mut self, running: &Running, doors: &Doors, flushes: Option<&Flushes>, delay: Duration) -> Result<()> {
        let slow = !delay.is_zero();
        let name = |name: &str| self.options.folder.join(if slow { format!("{name}-slow") } else { name.to_owned() });
        let bytes = self.options.row_bytes.to_string();
        let (hyper, hyper_at) = server::ceiling("hyper", &name("hyper"), None, &[])?;
        let (commit, commit_at) = server::ceiling("commit", &name("commit"), flushes, &["--row-bytes", &bytes])?;
        let commit_doors = Doors { address: commit_at, token: doors.token.clone(), ..doors.clone() };
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
            let mut requests = Requests::new(doors, &mut self.people, connections, usize::MAX);
            rows.measure(REQUEST, running, doors.address, &mut requests, Some(of))?;
            let mut opened = requests.opened;

            let seconds = (rows.load.warm_up + rows.load.span).as_secs_f64();
            let [right, wrong] = wanted.map(|rate| (rate * seconds * 1.3) as usize);
            let total = (right + wrong / 2).min(OPENED_MOST);
            say(&format!("opening {total} challenges"));
            self.open(doors, total.saturating_sub(opened.len()), &mut opened)?;
            let mut codes = self.codes(&opened)?;
            let guesses = Guess::right(&opened, &codes)?;
            codes.clear();
            let share = guesses.len() * right / (right + wrong / 2);
            let (for_right, for_wrong) = guesses.split_at(share);

            say("ceiling, verify");
            let of = self.ceiling_verify(&mut rows, &commit, &commit_doors)?;
            say("verify");
            let mut answers = Answers::new(doors, for_right.iter().copied(), 200);
            wanted[0] = rows.measure(VERIFY, running, doors.address, &mut answers, Some(of))?;

            say("ceiling, verify");
            let of = self.ceiling_verify(&mut rows, &commit, &commit_doors)?;
            say("wrong code");
            let mut answers = Answers::new(doors, Guess::wrong(for_wrong).into_iter(), 400);
            wanted[1] = rows.measure(WRONG, running, doors.address, &mut answers, Some(of))?;
        }
        self.rows.extend(
            rows.rows.into_iter().filter(|row| !row.rounds.is_empty()).map(|row| Row { flush_ms: delay.as_millis() as u64, ..row }),
        );
        Ok(())
    }

    fn load(&self, address: SocketAddr, connections: usize) -> Load {
        let span = self.options.span;
        Load { address, connections, warm_up: (span / 5).min(Duration::from_millis(500)), span }
    }

    fn ceiling_verify(&self, rows: &mut Rows, commit: &Running, doors: &Doors) -> Result<f64> {
        let mut answers = Answers::new(doors, std::iter::repeat_with(Guess::none), 200);
        rows.measure(CEILING_VERIFY, commit, doors.address, &mut answers, None)
    }

    /// Opens challenges that no row measures.
    fn open(&mut self, doors: &Doors, most: usize, opened: &mut Vec<Opened>) -> Result<()> {
        if most < OPENING {
            return Ok(());
        }
        let mut requests = Requests::new(doors, &mut self.people, OPENING, most);
        let load = Load { address: doors.address, connections: OPENING, warm_up: Duration::ZERO, span: Duration::from_secs(120) };
        driver::drive(load, &mut requests, || Ok(())).context("opening challenges")?;
        opened.append(&mut requests.opened);
        Ok(())
    }

    /// The codes of all these challenges, which may reach the sink a little after the answers reached us.
    fn codes(&self, opened: &[Opened]) -> Result<Codes> {
        let since = Instant::now();
        let mut codes = Codes::new();
        loop {
            codes.extend(sink::codes(self.sink)?);
            if Guess::right(opened, &codes).is_ok() {
                return Ok(codes);
            }
            if since.elapsed() > SINK_PATIENCE {
                bail!("the sink saw {} messages, and {} challenges were opened", codes.len(), opened.len());
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

struct Rows {
    rows: Vec<Row>,
    load: Load,
}

impl Rows {
    /// Runs one row once, and gives its rate.
    fn measure(&mut self, row: usize, running: &Running, address: SocketAddr, work: &mut impl Work, ceiling: Option<f64>) -> Result<f64> {
        let probe = || Ok((running.usage()?, process::own_cpu()?));
        let row = &mut self.rows[row];
        let window = driver::drive(Load { address, ..self.load }, work, probe).with_context(|| row.what.clone())?;
        let sample = sample(&window, ceiling);
        row.rounds.push(sample);
        Ok(sample.rate)
    }
}

fn sample(window: &Window<(Usage, Duration)>, ceiling: Option<f64>) -> Sample {
    let operations = window.operations.max(1) as f64;
    let ms = |it: Duration| it.as_secs_f64() * 1e3;
    let ((before, own_before), (after, own_after)) = (window.before, window.after);
    let rate = window.operations as f64 / window.span.as_secs_f64();
    Sample {
        rate,
        p50_ms: ms(window.latencies.quantile(0.5)),
        p99_ms: ms(window.latencies.quantile(0.99)),
        max_ms: ms(window.latencies.max()),
        cpu_us: (after.cpu - before.cpu).as_secs_f64() * 1e6 / operations,
        driver_cpu_us: (own_after - own_before).as_secs_f64() * 1e6 / operations,
        flushes: after.flushes.zip(before.flushes).map(|(after, before)| (after - before) as f64 / operations),
        of_ceiling: ceiling.map(|ceiling| rate / ceiling),
    }
}

fn machine(folder: &Path) -> Result<Machine> {
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
fn load_average() -> f64 {
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
