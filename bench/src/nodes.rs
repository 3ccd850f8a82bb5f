//! The rows on PostgreSQL: one node and two, beside what the database does by itself for the same rows.
//!
//! The database's own rates are those of clients that only write: no HTTP, no token, nothing is read or judged, and what they write
//! lies ready. They share the cores with the database, as the nodes, the driver and the sink do, which all need their part of them:
//! so a ratio says what a whole server costs, not how well it uses an idle database.

use crate::cluster::{Cluster, Control, connect};
use crate::driver::{self, Window, Work};
use crate::histogram::Histogram;
use crate::process::{self, Running};
use crate::report::{Budget, Report, Row};
use crate::run::{self, Bench, Options, Probe, load_average, machine, progress};
use crate::server::{self, Flushes, Server};
use crate::slowflush::SlowFlush;
use crate::traffic::{Answers, Requests};
use anyhow::{Context, Result, ensure};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio_postgres::Client;
use uuid::Uuid;

/// Connections that update single rows: about as many as serve this database best on two cores.
const SINGLE: usize = 16;

/// Connections that write batches: as many as two nodes have lanes. One writes while the other gets ready.
const LANES: usize = 2;

/// Rows among which the ceilings choose, for each connection.
const ROWS: usize = 20_000;

const CEILING_ONE: usize = 0;
const CEILING_REQUEST: usize = 1;
const CEILING_ANSWER: usize = 2;
/// The rows of one node; those of two nodes come right after them.
const REQUEST: usize = 3;
const RIGHT: usize = 4;
const WRONG: usize = 5;
const KINDS: usize = 3;

/// Measures one node and two on a cluster of their own.
///
/// # Errors
/// Whatever makes the figures worthless.
pub fn run(options: &Options) -> Result<Report> {
    std::fs::create_dir_all(&options.folder).with_context(|| format!("making {}", options.folder.display()))?;
    let mut machine = machine(&options.folder)?;
    let (flushes, skipped) = counting(options)?;
    let cluster = Cluster::start(&options.folder.join("postgres"), flushes.as_ref())?;
    let mut bench = Bench::new(options)?;
    let url = cluster.create("nodes")?;
    let server = Server::set_up(options.kind.clone(), options.folder.join("nodes"), Some(url), bench.sink, None)?;
    let (one, first, _) = server.start_node(0)?;
    let (two, second, _) = server.start_node(1)?;
    bench.open_and_answer(&first).context("one challenge from its beginning to its end")?;
    let control = cluster.control("nodes")?;
    let bodies = Bodies::of(&control)?;
    let batch = (options.connections / LANES).clamp(1, 256);
    let ceilings = Ceilings { cluster: &cluster, bodies, batch, load: (bench.load(first.address, 1).warm_up, options.span) };
    ceilings.prepare()?;

    let nodes = [one, two];
    let mut phase = Phase { rows: rows(options.connections, batch), cluster: &cluster, control: &control };
    // A first guess at how many codes a round takes; afterwards the last round tells.
    let mut wanted = [[15_000.0; 2]; 2];
    for round in 1..=options.rounds {
        for count in [1, 2] {
            let say = |what: &str| {
                let node = if count == 1 { "one node" } else { "two nodes" };
                progress(&format!("round {round} of {}, {node}: {what}", options.rounds));
            };
            let target =
                Target { nodes: &nodes[..count], address: first.address, also: (count == 2).then_some(second.address), bench: options };
            let row = |kind: usize| kind + (count - 1) * KINDS;
            let doors = std::slice::from_ref(&first);
            if count == 1 {
                say("ceiling, one row");
                phase.keep(CEILING_ONE, &ceilings.one_row()?, None);
            }
            say("ceiling, request");
            let of = phase.keep(CEILING_REQUEST, &ceilings.request()?, None);
            say("request");
            let mut requests = Requests::new(doors, &mut bench.people, options.connections, usize::MAX);
            phase.measure(row(REQUEST), &target, &mut requests, of)?;
            let opened = requests.opened;
            let load = bench.load(first.address, 1);
            let seconds = (load.warm_up + load.span).as_secs_f64();
            let codes = wanted[count - 1].map(|rate: f64| (rate * seconds * 1.3) as usize);
            let (for_right, for_wrong) = bench.guesses(doors, opened, codes, &say)?;

            say("ceiling, answer");
            let of = phase.keep(CEILING_ANSWER, &ceilings.answer()?, None);
            say("verify");
            let mut answers = Answers::new(doors, for_right.into_iter(), 200);
            wanted[count - 1][0] = phase.measure(row(RIGHT), &target, &mut answers, of)?;
            say("ceiling, answer");
            let of = phase.keep(CEILING_ANSWER, &ceilings.answer()?, None);
            say("wrong code");
            let mut answers = Answers::new(doors, for_wrong.into_iter(), 400);
            wanted[count - 1][1] = phase.measure(row(WRONG), &target, &mut answers, of)?;
        }
    }
    let memory = nodes[0].memory()?;
    machine.load_after = load_average();
    let report = Report {
        command: options.command.clone(),
        machine,
        server: server.name(),
        database: Some(cluster.name()),
        notes: vec![database_alone(&phase.rows)],
        rows: phase.rows,
        starts: Vec::new(),
        memory_after_load: Some(memory),
        skipped,
    };
    for node in nodes {
        node.stop()?;
    }
    drop(control);
    cluster.stop()?;
    progress("");
    Ok(report)
}

/// What the ratios would be if the database had its cores for itself and were always busy: what it spends on an operation by itself,
/// as a part of what it spends on it for the nodes.
fn database_alone(rows: &[Row]) -> String {
    let parts = [(REQUEST, CEILING_REQUEST), (RIGHT, CEILING_ANSWER), (WRONG, CEILING_ANSWER)].into_iter().flat_map(|(kind, ceiling)| {
        [kind, kind + KINDS].map(|row| {
            let spent = |row: usize| rows[row].median(|it| it.database_cpu_us);
            let part = spent(ceiling).zip(spent(row)).map_or(f64::NAN, |(alone, here)| alone / here);
            format!("{} {part:.2}", rows[row].what)
        })
    });
    format!(
        "CPU of the database for an operation of its ceiling, as a part of what it spends on one of the row: {}.",
        parts.collect::<Vec<_>>().join("; ")
    )
}

/// How flushes are counted, or why they are not.
///
/// # Errors
/// They cannot be counted in CI, where nothing is left out silently.
pub fn counting(options: &Options) -> Result<(Option<Flushes>, Vec<String>)> {
    match SlowFlush::compile(&options.folder) {
        Ok(preload) => Ok((Some(Flushes { preload, delay: Duration::ZERO }), Vec::new())),
        Err(why) => {
            ensure!(std::env::var_os("CI").is_none(), "flushes cannot be counted: {why:#}");
            Ok((None, vec![format!("flushes: {why:#}")]))
        }
    }
}

/// The rows in the order of the constants, with their budgets.
fn rows(connections: usize, batch: usize) -> Vec<Row> {
    let none = Budget::default();
    let two = Budget { of_ceiling: Some(0.8), ..none };
    let row = |what: String, connections, budget| Row { what, flush_ms: 0, connections, budget, rounds: Vec::new() };
    let mut all = vec![
        row("ceiling: PostgreSQL, one row replaced by a statement".into(), SINGLE, none),
        row(format!("ceiling: PostgreSQL, the rows of {batch} requests at once"), LANES, none),
        row(format!("ceiling: PostgreSQL, the rows of {batch} answers at once"), LANES, none),
    ];
    for (nodes, budget) in [("one node", none), ("two nodes", two)] {
        all.push(row(format!("request, {nodes}"), connections, none));
        all.push(row(format!("verify, right code, {nodes}"), connections, budget));
        all.push(row(format!("verify, wrong code, {nodes}"), connections, none));
    }
    all
}

/// The nodes that a row loads.
struct Target<'a> {
    nodes: &'a [Running],
    address: SocketAddr,
    also: Option<SocketAddr>,
    bench: &'a Options,
}

struct Phase<'a> {
    rows: Vec<Row>,
    cluster: &'a Cluster,
    control: &'a Control<'a>,
}

impl Phase<'_> {
    fn keep(&mut self, row: usize, window: &Window<Probe>, ceiling: Option<f64>) -> Option<f64> {
        let sample = run::sample(window, ceiling);
        self.rows[row].rounds.push(sample);
        Some(sample.rate)
    }

    /// Runs one row once, and gives its rate.
    fn measure(&mut self, row: usize, target: &Target<'_>, work: &mut impl Work, ceiling: Option<f64>) -> Result<f64> {
        let addresses: Vec<_> = std::iter::once(target.address).chain(target.also).collect();
        let span = target.bench.span;
        let load = driver::Load {
            address: target.address,
            also: target.also,
            connections: target.bench.connections,
            warm_up: (span / 5).min(Duration::from_millis(500)),
            span,
        };
        let before = server::counts(&addresses)?;
        let window = driver::drive(load, work, || probe(target.nodes, self.cluster, self.control));
        let window = window.with_context(|| self.rows[row].what.clone())?;
        let sample = run::counted(run::sample(&window, ceiling), before, server::counts(&addresses)?);
        self.rows[row].rounds.push(sample);
        Ok(sample.rate)
    }
}

/// Looks at nodes and database.
///
/// # Errors
/// One is gone.
pub fn probe(nodes: &[Running], cluster: &Cluster, control: &Control<'_>) -> Result<Probe> {
    let mut cpu = Duration::ZERO;
    for node in nodes {
        cpu += node.usage()?.cpu;
    }
    let database = cluster.usage()?;
    Ok(Probe {
        nodes: (!nodes.is_empty()).then_some(cpu),
        database: Some(database.cpu),
        own: process::own_cpu()?,
        flushes: database.flushes,
        wal_bytes: Some(control.wal_bytes()?),
    })
}

/// What stands in the rows of a challenge that was opened and answered, as a node has written it.
#[derive(Debug, Clone)]
struct Bodies {
    challenge: String,
    delivery: String,
    limit: String,
    /// Opened, sent, passed.
    events: [String; 3],
}

impl Bodies {
    fn of(control: &Control<'_>) -> Result<Self> {
        let event = |what: &str| control.ask(&format!("SELECT body FROM events WHERE body LIKE '%\"what\":\"{what}\"%' LIMIT 1"));
        Ok(Self {
            challenge: control.ask("SELECT body FROM challenges LIMIT 1")?,
            delivery: control.ask("SELECT body FROM deliveries LIMIT 1")?,
            limit: control.ask("SELECT body FROM limits LIMIT 1")?,
            events: [event("opened")?, event("sent")?, event("passed")?],
        })
    }
}

/// What the database does by itself.
struct Ceilings<'a> {
    cluster: &'a Cluster,
    bodies: Bodies,
    batch: usize,
    load: (Duration, Duration),
}

/// Where a ceiling is in its course, after its warm-up.
const MEASURED: u8 = 1;
const OVER: u8 = 2;

/// What the clients of a ceiling share.
#[derive(Default)]
struct Course {
    stage: AtomicU8,
    operations: AtomicU64,
}

impl Ceilings<'_> {
    /// Makes the tables, of the same shape and with the same settings as those of the nodes, and the rows that are replaced.
    fn prepare(&self) -> Result<()> {
        self.cluster.create("ceiling")?;
        let control = self.cluster.control("ceiling")?;
        let key = "tenant uuid NOT NULL, id uuid NOT NULL";
        let noun = "version bigint NOT NULL, born bigint NOT NULL";
        let end = "body text NOT NULL, PRIMARY KEY (tenant, id)";
        let replaced = "fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02";
        control.run(&format!(
            "CREATE TABLE challenges ({key}, {noun}, {end}) WITH ({replaced});
             CREATE TABLE deliveries ({key}, {noun}, due_at bigint, {end}) WITH (autovacuum_vacuum_scale_factor = 0.02);
             CREATE INDEX outbox ON deliveries (due_at) WHERE due_at IS NOT NULL;
             CREATE TABLE limits ({key}, {noun}, over_at bigint, {end}) WITH ({replaced});
             CREATE TABLE events ({key}, {end});
             INSERT INTO challenges SELECT '{TENANT}', lpad(to_hex(at), 32, '0')::uuid, 1, at, '{}'
                 FROM generate_series(0, {}) AS t(at);
             ANALYZE challenges",
            self.bodies.challenge.replace('\'', "''"),
            ROWS * SINGLE - 1,
        ))
    }

    /// One row replaced, durable, by one prepared statement; another row each time.
    fn one_row(&self) -> Result<Window<Probe>> {
        let body = self.bodies.challenge.clone();
        self.drive(SINGLE, move |client, at, course| {
            let body = body.clone();
            async move {
                let text = "UPDATE challenges SET version = version + 1, born = $3, body = $4 WHERE tenant = $1 AND id = $2";
                let update = client.prepare(text).await?;
                let mut latencies = Histogram::default();
                let mut turn = 0u128;
                while course.goes_on() {
                    turn += 1;
                    let id = row(at, turn);
                    let began = Instant::now();
                    let changed = client.execute(&update, &[&TENANT, &id, &(turn as i64), &body]).await?;
                    ensure!(changed == 1, "a row of the ceiling is missing");
                    course.count(1, began, &mut latencies);
                }
                Ok(latencies)
            }
        })
    }

    /// What an answer writes, for a batch of them: each has a challenge replaced, and tells an event.
    fn answer(&self) -> Result<Window<Probe>> {
        let (bodies, batch) = (self.bodies.clone(), self.batch);
        self.drive(LANES, move |client, at, course| {
            let bodies = bodies.clone();
            async move {
                let text = "WITH replaced AS (UPDATE challenges t SET version = t.version + 1, born = u.born, body = u.body \
                            FROM unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::text[]) AS u(tenant, id, born, body) \
                            WHERE t.tenant = u.tenant AND t.id = u.id RETURNING 1), \
                            told AS (INSERT INTO events (tenant, id, body) SELECT * FROM unnest($1::uuid[], $5::uuid[], $6::text[])) \
                            SELECT count(*) FROM replaced";
                let write = client.prepare(text).await?;
                let mut latencies = Histogram::default();
                let tenants = vec![TENANT; batch];
                let (challenges, events) = (vec![bodies.challenge; batch], vec![bodies.events[2].clone(); batch]);
                let mut turn = 0u128;
                while course.goes_on() {
                    let turns: Vec<u128> = (0..batch as u128).map(|it| turn + it).collect();
                    turn += batch as u128;
                    let ids: Vec<_> = turns.iter().map(|turn| row(at, *turn)).collect();
                    let borns: Vec<_> = turns.iter().map(|turn| *turn as i64).collect();
                    let new = new_ids(batch)?;
                    let began = Instant::now();
                    let changed: i64 = client.query_one(&write, &[&tenants, &ids, &borns, &challenges, &new, &events]).await?.try_get(0)?;
                    ensure!(usize::try_from(changed) == Ok(batch), "rows of the ceiling are missing");
                    course.count(batch, began, &mut latencies);
                }
                Ok(latencies)
            }
        })
    }

    /// What a request writes, for a batch of them, in the two transactions that it has: challenge, message, two limits and an
    /// event; then the message's end, and an event.
    fn request(&self) -> Result<Window<Probe>> {
        let (bodies, batch) = (self.bodies.clone(), self.batch);
        self.drive(LANES, move |client, _, course| {
            let bodies = bodies.clone();
            async move {
                let open = "WITH opened AS (INSERT INTO challenges (tenant, id, version, born, body) \
                              SELECT tenant, id, 1, 1, body FROM unnest($1::uuid[], $2::uuid[], $3::text[]) AS u(tenant, id, body)), \
                            queued AS (INSERT INTO deliveries (tenant, id, version, born, due_at, body) \
                              SELECT tenant, id, 1, 1, 1, body FROM unnest($1::uuid[], $4::uuid[], $5::text[]) AS u(tenant, id, body)), \
                            counted AS (INSERT INTO limits (tenant, id, version, born, over_at, body) \
                              SELECT $6, id, 1, 1, 1, $7 FROM unnest($8::uuid[]) AS u(id)) \
                            INSERT INTO events (tenant, id, body) SELECT * FROM unnest($1::uuid[], $9::uuid[], $10::text[])";
                let sent = "WITH sent AS (UPDATE deliveries t SET version = 2, born = 2, due_at = NULL, body = u.body \
                              FROM unnest($1::uuid[], $2::uuid[], $3::text[]) AS u(tenant, id, body) \
                              WHERE t.tenant = u.tenant AND t.id = u.id) \
                            INSERT INTO events (tenant, id, body) SELECT * FROM unnest($1::uuid[], $4::uuid[], $5::text[])";
                let (open, sent) = (client.prepare(open).await?, client.prepare(sent).await?);
                let mut latencies = Histogram::default();
                let tenants = vec![TENANT; batch];
                let (challenges, deliveries) = (vec![bodies.challenge; batch], vec![bodies.delivery; batch]);
                let [opened, carried, _] = bodies.events.map(|it| vec![it; batch]);
                while course.goes_on() {
                    let (ids, messages, told, last) = (new_ids(batch)?, new_ids(batch)?, new_ids(batch)?, new_ids(batch)?);
                    let mut limits = vec![Uuid::nil(); batch * 2];
                    for id in &mut limits {
                        *id = Uuid::from_bytes(crate::chance()?);
                    }
                    let began = Instant::now();
                    let given: [&(dyn tokio_postgres::types::ToSql + Sync); 10] =
                        [&tenants, &ids, &challenges, &messages, &deliveries, &TENANT, &bodies.limit, &limits, &told, &opened];
                    client.execute(&open, &given).await?;
                    client.execute(&sent, &[&tenants, &messages, &deliveries, &last, &carried]).await?;
                    course.count(batch, began, &mut latencies);
                }
                Ok(latencies)
            }
        })
    }

    /// Runs `client` on each of `connections` connections until the course is over.
    fn drive<F>(&self, connections: usize, client: impl Fn(Client, usize, Arc<Course>) -> F) -> Result<Window<Probe>>
    where
        F: Future<Output = Result<Histogram>> + Send + 'static,
    {
        let (warm_up, span) = self.load;
        let control = self.cluster.control("ceiling")?;
        let course = Arc::new(Course::default());
        let url = self.cluster.url("ceiling");
        let runtime = self.cluster.runtime();
        let mut clients = JoinSet::new();
        for at in 0..connections {
            let opened = runtime.block_on(connect(&url))?;
            // Rows are found by their keys, however few there are.
            runtime.block_on(opened.batch_execute("SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_seqscan = off"))?;
            clients.spawn_on(client(opened, at, course.clone()), runtime.handle());
        }
        std::thread::sleep(warm_up);
        let look = || probe(&[], self.cluster, &control);
        let before = look()?;
        course.stage.store(MEASURED, Ordering::SeqCst);
        let (since, count) = (Instant::now(), course.operations.load(Ordering::SeqCst));
        std::thread::sleep(span);
        let (span, operations) = (since.elapsed(), course.operations.load(Ordering::SeqCst) - count);
        let after = look()?;
        course.stage.store(OVER, Ordering::SeqCst);
        let mut latencies = Histogram::default();
        while let Some(ended) = runtime.block_on(clients.join_next()) {
            latencies.add(&ended.map_err(anyhow::Error::from).flatten()?);
        }
        Ok(Window { operations, span, latencies, before, after })
    }
}

impl Course {
    fn goes_on(&self) -> bool {
        self.stage.load(Ordering::Relaxed) != OVER
    }

    fn count(&self, operations: usize, began: Instant, latencies: &mut Histogram) {
        self.operations.fetch_add(operations as u64, Ordering::SeqCst);
        if self.stage.load(Ordering::Relaxed) == MEASURED {
            latencies.count(began.elapsed());
        }
    }
}

/// Whose rows those of the ceilings are.
const TENANT: Uuid = Uuid::from_u128(0x0001_8900_0000_7000_8000_0000_0000_0000);

/// The row that the connection `at` takes at this turn: its own ones in a circle.
fn row(at: usize, turn: u128) -> Uuid {
    Uuid::from_u128(at as u128 * ROWS as u128 + turn % ROWS as u128)
}

/// Ids that are ordered by time, as those of the server are.
fn new_ids(count: usize) -> Result<Vec<Uuid>> {
    (0..count).map(|_| crate::new_id()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_connections_of_a_ceiling_replace_the_same_row() {
        let rows = |at: usize| (0..ROWS as u128).map(move |turn| row(at, turn));
        let mut all: Vec<_> = (0..SINGLE).flat_map(rows).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), ROWS * SINGLE);
        assert_eq!(row(3, 5), row(3, 5 + ROWS as u128), "each goes round among its own");
    }
}
