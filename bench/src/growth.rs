//! The rows of growth: the same work on an empty database and on an old one.
//!
//! Both servers run on the same engine and the same disk, and are loaded in turns. The old one is loaded twice: by one tenant, which
//! shows what the many rows cost, and with everything spread over all tenants, which is what the budget is about.

use crate::cluster::{Cluster, Control};
use crate::driver::{self, Load, Work};
use crate::fill::{self, Books};
use crate::nodes::{self, counting};
use crate::process::{self, Running};
use crate::report::{Budget, Report, Row, whole};
use crate::run::{self, Bench, Growth, Options, Probe, load_average, machine, progress};
use crate::server::{self, Doors, Flushes, Server, TENANT};
use crate::traffic::{Answers, Requests, Tokens};
use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::time::{Duration, Instant};

/// Whose turn it is, in the order of the rows.
const TURNS: usize = 3;

/// Connections over which tokens are asked for.
const ASKING: usize = 64;

/// Measures an empty database and an old one, on PostgreSQL or on the embedded engine.
///
/// # Errors
/// Whatever makes the figures worthless, and a disk that is too small.
pub fn run(options: &Options, growth: Growth, on_postgres: bool) -> Result<Report> {
    std::fs::create_dir_all(&options.folder).with_context(|| format!("making {}", options.folder.display()))?;
    let mut machine = machine(&options.folder)?;
    has_room(&options.folder, &growth)?;
    let (flushes, skipped) = counting(options)?;
    let cluster = match on_postgres {
        true => Some(Cluster::start(&options.folder.join("postgres"), flushes.as_ref())?),
        false => None,
    };
    let mut bench = Bench::new(options)?;
    let set_up = |name: &str, sink| {
        let database = cluster.as_ref().map(|it| it.create(name)).transpose()?;
        let flushes: Option<Flushes> = if database.is_some() { None } else { flushes.clone() };
        Server::set_up(options.kind.clone(), options.folder.join(name), database, sink, flushes)
    };
    let empty = set_up("empty", bench.sink)?;
    let old = set_up("old", bench.sink)?;

    let (running, door, _) = old.start()?;
    bench.open_and_answer(&door).context("one challenge from its beginning to its end")?;
    running.stop()?;
    let began = Instant::now();
    let mut books = match old.database() {
        Some(url) => Books::postgres(url, cluster.as_ref().context("a cluster")?)?,
        None => Books::sqlite(&old.file())?,
    };
    let all = fill::fill(&mut books, &old, bench.sink, &growth)?;
    drop(books);
    let filled = began.elapsed();
    let size = match cluster.as_ref() {
        Some(cluster) => cluster.control("old")?.ask("SELECT pg_database_size(current_database())")?.parse()?,
        None => std::fs::metadata(old.file())?.len(),
    };

    let (on_empty, door_of_empty, _) = empty.start()?;
    let (on_old, door_of_old, _) = old.start()?;
    let mut spread: Vec<_> = all.into_iter().map(|it| Doors { address: door_of_old.address, ..it }).collect();
    progress(&format!("tokens for {} tenants", spread.len()));
    let load = Load { warm_up: Duration::ZERO, span: Duration::from_secs(120), ..bench.load(door_of_old.address, ASKING) };
    driver::drive(load, &mut Tokens::new(&mut spread, ASKING), || Ok(()))?;

    // Each tenant's provider is built when it is first needed, which is not what the rows are about.
    progress(&format!("the first requests of {} tenants", spread.len()));
    bench.warm(&spread, spread.len() * 2)?;

    let control = cluster.as_ref().map(|it| it.control("old")).transpose()?;
    let mut phase = Phase { rows: rows(options.connections, &growth), options, cluster: cluster.as_ref().zip(control.as_ref()) };
    let turns = [(&on_empty, vec![door_of_empty]), (&on_old, vec![door_of_old]), (&on_old, spread)];
    let mut wanted = [[15_000.0; 2]; TURNS];
    for round in 1..=options.rounds {
        let say = |what: &str| progress(&format!("round {round} of {}: {what}", options.rounds));
        let mut opened = Vec::new();
        let mut of = None;
        for (turn, (running, doors)) in turns.iter().enumerate() {
            say(&format!("request, {turn}"));
            let mut requests = Requests::new(doors, &mut bench.people, options.connections, usize::MAX);
            let rate = phase.measure(turn, running, doors, &mut requests, of)?;
            of.get_or_insert(rate);
            opened.push(requests.opened);
        }
        let load = bench.load(turns[0].1[0].address, 1);
        let seconds = (load.warm_up + load.span).as_secs_f64();
        let mut guesses = Vec::new();
        for (turn, opened) in opened.into_iter().enumerate() {
            let codes = wanted[turn].map(|rate: f64| (rate * seconds * 1.3) as usize);
            guesses.push(bench.guesses(&turns[turn].1, opened, codes, &say)?);
        }
        let (right, wrong): (Vec<_>, Vec<_>) = guesses.into_iter().unzip();
        for (kind, guesses, status) in [(1, right, 200), (2, wrong, 400)] {
            let mut of = None;
            for (turn, guesses) in guesses.into_iter().enumerate() {
                let (running, doors) = &turns[turn];
                say(&format!("{}, {turn}", if kind == 1 { "verify" } else { "wrong code" }));
                let mut answers = Answers::new(doors, guesses.into_iter(), status);
                let rate = phase.measure(kind * TURNS + turn, running, doors, &mut answers, of)?;
                of.get_or_insert(rate);
                wanted[turn][kind - 1] = rate;
            }
        }
    }
    let memory = on_old.memory()?;
    machine.load_after = load_average();
    let notes = vec![
        format!(
            "The old database: {} spent challenges, for {} of them their message's record and their events, {} people with a device, \
             {} tenants; {:.1} GB, filled in {:.0} s.",
            whole(growth.challenges as f64),
            whole(growth.with_events as f64),
            whole(growth.users.into()),
            whole(growth.tenants.into()),
            size as f64 / 1e9,
            filled.as_secs_f64(),
        ),
        "The ceiling of a row on the old database is the same row on the empty one, which ran in the same round.".into(),
    ];
    let report = Report {
        command: options.command.clone(),
        machine,
        server: old.name(),
        database: cluster.as_ref().map(Cluster::name),
        rows: phase.rows,
        starts: Vec::new(),
        notes,
        memory_after_load: Some(memory),
        skipped,
    };
    on_empty.stop()?;
    on_old.stop()?;
    drop(control);
    if let Some(cluster) = cluster {
        cluster.stop()?;
    }
    progress("");
    Ok(report)
}

/// Sees to it that the disk is large enough, with room for the log and for what the rows add.
fn has_room(folder: &Path, growth: &Growth) -> Result<()> {
    let Growth { challenges, with_events, tenants, users } = *growth;
    let needed = challenges * 700 + with_events * 1_600 + u64::from(users) * 1_500 + u64::from(tenants) * 10_000 + (6 << 30);
    let disk = rustix::fs::statvfs(folder)?;
    let free = disk.f_bavail * disk.f_frsize;
    let gigabytes = |bytes: u64| bytes as f64 / 1e9;
    ensure!(
        free >= needed,
        "{:.0} GB are free in {}, and {:.0} GB may be needed: take another folder with --data, or less with --grown and --with-events",
        gigabytes(free),
        folder.display(),
        gigabytes(needed)
    );
    Ok(())
}

/// The rows by kind, and for each kind by turn.
fn rows(connections: usize, growth: &Growth) -> Vec<Row> {
    let budget = Budget { of_empty: Some(0.9), ..Budget::default() };
    let mut all = Vec::new();
    for kind in ["request", "verify, right code", "verify, wrong code"] {
        let old = format!("{kind}: old");
        let row = |what: String, budget| Row { what, flush_ms: 0, connections, budget, rounds: Vec::new() };
        all.push(row(format!("{kind}: empty"), Budget::default()));
        all.push(row(format!("{old}, tenant {TENANT} alone"), Budget::default()));
        all.push(row(format!("{old}, {} tenants", whole(growth.tenants.into())), budget));
    }
    all
}

struct Phase<'a> {
    rows: Vec<Row>,
    options: &'a Options,
    cluster: Option<(&'a Cluster, &'a Control<'a>)>,
}

impl Phase<'_> {
    /// Runs one row once, and gives its rate.
    fn measure(&mut self, row: usize, running: &Running, doors: &[Doors], work: &mut impl Work, of: Option<f64>) -> Result<f64> {
        let address = doors[0].address;
        let span = self.options.span;
        let warm_up = (span / 5).min(Duration::from_millis(500));
        let load = Load { address, also: None, connections: self.options.connections, warm_up, span };
        let before = server::counts(&[address])?;
        let cluster = self.cluster;
        let window = driver::drive(load, work, || match cluster {
            Some((cluster, control)) => nodes::probe(std::slice::from_ref(running), cluster, control),
            None => {
                let usage = running.usage()?;
                Ok(Probe { nodes: Some(usage.cpu), own: process::own_cpu()?, flushes: usage.flushes, ..Probe::default() })
            }
        });
        let window = window.with_context(|| self.rows[row].what.clone())?;
        let sample = run::counted(run::sample(&window, of), before, server::counts(&[address])?);
        self.rows[row].rounds.push(sample);
        Ok(sample.rate)
    }
}
