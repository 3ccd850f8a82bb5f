//! Measures Countersign beside the ceilings of what it is built from. See `docs/performance.md`.

#![expect(clippy::disallowed_methods, reason = "real time is what a driver measures, and it waits for processes that cannot wake it")]

mod ceiling;
mod cluster;
mod driver;
mod fill;
mod growth;
mod histogram;
mod message;
mod nodes;
mod process;
mod pryv;
mod report;
mod run;
mod seed;
mod server;
mod sink;
mod slowflush;
mod traffic;

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use uuid::Uuid;

// The server's allocator, so that the ceilings stand on the same ground.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Starts the server, a provider that takes every message, and two ceilings; measures them side by side on this machine.
///
/// Nothing is built: build both programs first with `cargo build --release -p countersign -p countersign-bench`.
#[derive(Parser)]
#[command(name = "countersign-bench", version)]
struct Words {
    #[command(subcommand)]
    part: Option<Part>,
    #[command(flatten)]
    options: Options,
}

#[derive(Args)]
struct Options {
    /// The engine that keeps the data. PostgreSQL is started by the run, with a cluster of its own; its programs must be installed.
    #[arg(long, value_enum, default_value_t = Engine::Sqlite)]
    engine: Engine,
    /// The dialect that is spoken. Pryv is measured on the embedded engine, in front of a stand-in for its core, and alone.
    #[arg(long, value_enum, default_value_t = Dialect::Ciam)]
    dialect: Dialect,
    /// The server's program [default: `countersign` beside this program]; `stand-in` tests the driver without it.
    #[arg(long)]
    server: Option<PathBuf>,
    /// A folder on the disk to be measured; a new folder is made in it and removed [default: beside this program].
    #[arg(long)]
    data: Option<PathBuf>,
    /// Connections.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1024))]
    connections: u16,
    /// Connections in the rows with a flush of 3 ms.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1024))]
    slow_connections: u16,
    /// Seconds of each row in each round, 0.1 to 60.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Rounds.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: u16,
    /// Bytes that the ceiling keeps for each request.
    #[arg(long, default_value_t = 512)]
    row_bytes: u16,
    /// People who are enrolled before the last starts, none leaves those out; with --grown, in the old database.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(0..=10_000_000))]
    users: u32,
    /// Measures growth instead: the same rows on an empty database and on one with this many spent challenges.
    #[arg(long)]
    grown: Option<u64>,
    /// How many of the spent challenges, the youngest, still have their message's record and their events [default: all].
    #[arg(long, requires = "grown")]
    with_events: Option<u64>,
    /// Tenants of the old database; the last rows are spread over all of them.
    #[arg(long, default_value_t = 10_000, requires = "grown", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    tenants: u32,
    /// Leave out the rows with a flush of 3 ms.
    #[arg(long)]
    skip_slow: bool,
    /// Also writes everything to this file, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Also writes the tables to this file, as Markdown.
    #[arg(long)]
    markdown: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Engine {
    /// The embedded one, on one machine.
    Sqlite,
    /// One node and two on a PostgreSQL database.
    Postgres,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Dialect {
    Ciam,
    Pryv,
}

/// The other processes of a run; they are started by it.
#[derive(Subcommand)]
enum Part {
    /// The provider that takes every message.
    #[command(hide = true)]
    Sink,
    /// The core of Pryv.io that logs everybody in.
    #[command(hide = true)]
    PryvCore,
    /// Enrols people in a database that no server has open.
    #[command(hide = true)]
    Seed {
        #[arg(long)]
        database: PathBuf,
        #[arg(long)]
        master_key: PathBuf,
        #[arg(long)]
        tenant: String,
        #[arg(long)]
        people: u32,
    },
    /// A ceiling.
    #[command(hide = true)]
    Ceiling {
        #[command(subcommand)]
        which: Ceiling,
    },
}

#[derive(Subcommand)]
enum Ceiling {
    /// Reads JSON and writes it back.
    Hyper {
        #[arg(long)]
        data: PathBuf,
    },
    /// Keeps a row for each request.
    Commit {
        #[arg(long)]
        data: PathBuf,
        #[arg(long, default_value_t = 512)]
        row_bytes: usize,
        #[arg(long)]
        sink: Option<SocketAddr>,
    },
}

fn main() -> Result<()> {
    let words = Words::parse();
    match words.part {
        None => measure(words.options),
        Some(Part::Sink) => sink::serve(),
        Some(Part::PryvCore) => pryv::upstream::serve(),
        Some(Part::Seed { database, master_key, tenant, people }) => {
            runtime()?.block_on(seed::seed(&database, &master_key, &tenant, people))
        }
        Some(Part::Ceiling { which }) => runtime()?.block_on(async {
            match which {
                Ceiling::Hyper { data: _ } => ceiling::hyper().await,
                Ceiling::Commit { data, row_bytes, sink } => ceiling::commit(&data, row_bytes, sink).await,
            }
        }),
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

fn measure(options: Options) -> Result<()> {
    ensure!((0.1..=60.0).contains(&options.seconds), "--seconds takes 0.1 to 60");
    let beside = std::env::current_exe()?.parent().context("this program is in no folder")?.to_owned();
    let program = options.server.unwrap_or_else(|| beside.join("countersign"));
    let kind = if program.as_os_str() == "stand-in" {
        server::Kind::StandIn
    } else {
        let found = program.canonicalize();
        let build = "build it with `cargo build --release -p countersign`, or name another with --server";
        server::Kind::Countersign(found.with_context(|| format!("no server at {}: {build}", program.display()))?)
    };
    let folder = options.data.unwrap_or(beside).join(format!("bench-{}", std::process::id()));
    if matches!(kind, server::Kind::StandIn) {
        ensure!(options.engine == Engine::Sqlite && options.grown.is_none(), "the stand-in keeps nothing that grows, and no PostgreSQL");
    }
    if options.dialect == Dialect::Pryv {
        let embedded = options.engine == Engine::Sqlite && options.grown.is_none();
        ensure!(embedded && matches!(kind, server::Kind::Countersign(_)), "--dialect pryv needs the server itself, on the embedded engine");
    }
    let told = run::Options {
        kind,
        folder,
        connections: options.connections.into(),
        slow_connections: options.slow_connections.into(),
        span: Duration::from_secs_f64(options.seconds),
        rounds: options.rounds.into(),
        users: options.users,
        skip_slow: options.skip_slow,
        row_bytes: options.row_bytes.into(),
        command: command(),
    };
    let growth = options.grown.map(|challenges| run::Growth {
        challenges,
        with_events: options.with_events.unwrap_or(challenges).min(challenges),
        tenants: options.tenants,
        users: options.users,
    });
    let measured = match (options.engine, growth) {
        (engine, Some(growth)) => growth::run(&told, growth, engine == Engine::Postgres),
        (Engine::Sqlite, None) if options.dialect == Dialect::Pryv => pryv::run(&told),
        (Engine::Sqlite, None) => run::run(&told),
        (Engine::Postgres, None) => nodes::run(&told),
    };
    let report = measured.with_context(|| format!("the run ended early; its data is left in {}", told.folder.display()))?;
    std::fs::remove_dir_all(&told.folder)?;
    print!("{}", report.table());
    if let Some(file) = options.json {
        std::fs::write(&file, serde_json::to_string_pretty(&report)? + "\n").with_context(|| format!("writing {}", file.display()))?;
    }
    if let Some(file) = options.markdown {
        std::fs::write(&file, report.markdown()).with_context(|| format!("writing {}", file.display()))?;
    }
    Ok(())
}

/// How this run was called, in the words in which anybody can call it.
fn command() -> String {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let dashes = if arguments.is_empty() { "" } else { " -- " };
    format!("cargo run --release -p countersign-bench{dashes}{}", arguments.join(" "))
}

/// Ends this process when its standard input is closed: whoever started it is gone.
fn end_with_standard_input() {
    std::thread::spawn(|| {
        // An error means the same as the end.
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        std::process::exit(0);
    });
}

/// A time-ordered id, so that an engine appends.
fn new_id() -> Result<Uuid> {
    let millis = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
    Ok(uuid::Builder::from_unix_timestamp_millis(u64::try_from(millis)?, &chance()?).into_uuid())
}

fn chance<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("no random bytes: {error}"))?;
    Ok(bytes)
}
