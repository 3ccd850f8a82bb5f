//! The rows of the Pryv dialect, each beside its ceiling, round by round.
//!
//! One server stands in front of a core, which is a stand-in as cheap as the sink, and has the three calls of a log-in with a second
//! factor. Another stands alone: what a log-in costs there is the hash of the password, and so is its ceiling.

mod traffic;
pub mod upstream;

use crate::driver::{self, Load, Window, Work};
use crate::histogram::Histogram;
use crate::nodes::counting;
use crate::process::{self, Running};
use crate::report::{Budget, Report, Row};
use crate::run::{Bench, OPENED_MOST, OPENING, Options, Probe, Rows, load_average, machine, progress, sample};
use crate::server::{self, Doors, Ready, Server};
use crate::traffic::{Answers, Guess, People, Requests};
use anyhow::{Context, Result};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use traffic::{Begun, Challenges, Codes, Logins, PASSWORD, Passwords};

/// Log-ins with a password that are on their way for each core: more would only wait longer for the same cores.
const FOR_EACH_CORE: usize = 4;

/// People in our own directory for each log-in that is on its way.
const PEOPLE: usize = 8;

const CEILING_REQUEST: usize = 0;
const CEILING_ONE: usize = 1;
const LOGIN: usize = 2;
const CHALLENGE: usize = 3;
const VERIFY: usize = 4;
const CEILING_PASSWORD: usize = 5;
const PASSWORDS: usize = 6;

/// Measures everything on the embedded engine.
///
/// # Errors
/// Whatever makes the figures worthless.
pub fn run(options: &Options) -> Result<Report> {
    std::fs::create_dir_all(&options.folder).with_context(|| format!("making {}", options.folder.display()))?;
    let mut machine = machine(&options.folder)?;
    let (flushes, skipped) = counting(options)?;
    let mut bench = Bench::new(options)?;
    let hands = machine.cores;
    let at_once = hands * FOR_EACH_CORE;

    let (_core, ready): (_, Ready) = Running::start_and_hear(Command::new(std::env::current_exe()?).arg("pryv-core"), None)?;
    let front = Server::set_up(options.kind.clone(), options.folder.join("front"), None, bench.sink, flushes.clone())?;
    front.speak_pryv(Some(ready.address()?))?;
    let alone = Server::set_up(options.kind.clone(), options.folder.join("alone"), None, bench.sink, flushes.clone())?;
    alone.speak_pryv(None)?;
    let people = at_once * PEOPLE;
    for person in 0..people {
        progress(&format!("adding people: {person} of {people}"));
        alone.add_user(&Passwords::username(person), PASSWORD)?;
    }

    let (on_front, front, _) = front.start()?;
    let (on_alone, at_alone, _) = alone.start()?;
    let bytes = options.row_bytes.to_string();
    let (commit, commit_at) = server::ceiling("commit", &options.folder.join("commit"), flushes.as_ref(), &["--row-bytes", &bytes])?;
    let ceiling = [Doors { address: commit_at, ..front.clone() }];
    let load = bench.load(front.address, options.connections);
    let seconds = (load.warm_up + load.span).as_secs_f64();
    let mut rows = Rows { rows: rows(options.connections, hands, at_once), load };
    let mut passwords = Passwords::new(at_alone.address, people);
    let mut begun = Vec::new();
    // A first guess at how many log-ins the rows of codes and answers take; afterwards the last round tells.
    let mut wanted = [15_000.0, 20_000.0];

    for round in 1..=options.rounds {
        let say = |what: &str| progress(&format!("round {round} of {}: {what}", options.rounds));
        let [challenges, answers] = wanted.map(|rate: f64| ((rate * seconds * 1.3) as usize).min(OPENED_MOST));

        say("ceiling, login");
        let of = one_row(&mut rows, &commit, &ceiling)?;
        say("login");
        let mut logins = Logins::new(front.address, &mut bench.people, options.connections, usize::MAX);
        rows.measure(LOGIN, &on_front, front.address, &mut logins, Some(of))?;
        begun.append(&mut logins.begun);

        say("more log-ins");
        let more = (challenges + answers).saturating_sub(begun.len());
        begun.append(&mut log_in(front.address, &mut bench.people, more)?);
        say("ceiling, challenge");
        let mut nobody = People::default();
        let mut requests = Requests::new(&ceiling, &mut nobody, options.connections, usize::MAX);
        let of = rows.measure(CEILING_REQUEST, &commit, commit_at, &mut requests, None)?;
        say("challenge");
        let mut sending = Challenges::new(front.address, &mut begun, options.connections, usize::MAX);
        wanted[0] = rows.measure(CHALLENGE, &on_front, front.address, &mut sending, Some(of))?;
        let mut sent = sending.sent;

        say("more codes");
        let more = answers.saturating_sub(sent.len());
        sent.append(&mut challenge(front.address, &mut begun, more)?);
        let numbers: Vec<_> = sent.iter().map(|it| it.to).collect();
        let codes = bench.codes(&numbers)?;
        say("ceiling, verify");
        let of = one_row(&mut rows, &commit, &ceiling)?;
        say("verify");
        let mut codes = Codes::new(front.address, sent.into_iter().zip(codes));
        wanted[1] = rows.measure(VERIFY, &on_front, front.address, &mut codes, Some(of))?;

        say("ceiling, password");
        let window = hash_again_and_again(hands, load)?;
        let hashing = sample(&window, None);
        rows.rows[CEILING_PASSWORD].rounds.push(hashing);
        say("password");
        rows.measure(PASSWORDS, &on_alone, at_alone.address, &mut passwords, Some(hashing.rate))?;
    }
    let memory = on_front.memory()?;
    machine.load_after = load_average();
    on_front.stop()?;
    on_alone.stop()?;
    progress("");
    Ok(Report {
        command: options.command.clone(),
        machine,
        server: alone.name(),
        database: None,
        notes: vec![
            "Driver, provider and core share the cores with the server; CPU is that of the server alone.".into(),
            of_hash(&rows.rows),
        ],
        rows: rows.rows,
        starts: Vec::new(),
        memory_after_load: Some(memory),
        skipped,
    })
}

/// How much of a log-in with a password is the hash, by processor time: neighbours change that less than the rates.
fn of_hash(rows: &[Row]) -> String {
    let spent = |row: usize| rows[row].median(|it| it.cpu_us);
    let part = spent(CEILING_PASSWORD).zip(spent(PASSWORDS)).map_or(f64::NAN, |(hash, all)| hash / all);
    format!(
        "The ceiling of a log-in with a password is its hash, on all cores, in memory that is used again and again: {part:.2} of the \
         CPU of such a log-in."
    )
}

/// The rows in the order of the constants.
fn rows(connections: usize, hands: usize, at_once: usize) -> Vec<Row> {
    let row = |(what, connections): (&str, usize)| Row {
        what: what.into(),
        flush_ms: 0,
        connections,
        budget: Budget::default(),
        rounds: Vec::new(),
    };
    let rows = [
        ("ceiling: axum, JSON of request, one row", connections),
        ("ceiling: axum, JSON of verify, one row", connections),
        ("login, in front of a core", connections),
        ("challenge", connections),
        ("verify, right code", connections),
        ("ceiling: Argon2id, a bare loop", hands),
        ("login with a password, alone", at_once),
    ];
    rows.map(row).into()
}

fn one_row(rows: &mut Rows, commit: &Running, doors: &[Doors]) -> Result<f64> {
    let mut answers = Answers::new(doors, std::iter::repeat_with(Guess::none), 200);
    rows.measure(CEILING_ONE, commit, doors[0].address, &mut answers, None)
}

/// Log-ins that no row measures.
fn log_in(address: SocketAddr, people: &mut People, most: usize) -> Result<Vec<Begun>> {
    let mut logins = Logins::new(address, people, OPENING, most);
    unmeasured(address, &mut logins, most)?;
    Ok(logins.begun)
}

/// Codes for those who have begun, that no row measures.
fn challenge(address: SocketAddr, begun: &mut Vec<Begun>, most: usize) -> Result<Vec<Begun>> {
    let most = most.min(begun.len());
    let mut challenges = Challenges::new(address, begun, OPENING, most);
    unmeasured(address, &mut challenges, most)?;
    Ok(challenges.sent)
}

fn unmeasured(address: SocketAddr, work: &mut impl Work, most: usize) -> Result<()> {
    if most > 0 {
        let load = Load { address, also: None, connections: OPENING, warm_up: Duration::ZERO, span: Duration::from_secs(120) };
        driver::drive(load, work, || Ok(())).context("what feeds the next row")?;
    }
    Ok(())
}

/// Where the bare loop is in its course, after its warm-up.
const MEASURED: u8 = 1;
const OVER: u8 = 2;

/// The least that any server must do to know a password, on `hands` threads: nothing is looked up, counted or kept.
fn hash_again_and_again(hands: usize, load: Load) -> Result<Window<Probe>> {
    let stage = AtomicU8::new(0);
    let probe = || Ok::<_, anyhow::Error>((Probe { nodes: Some(process::own_cpu()?), ..Probe::default() }, Instant::now()));
    thread::scope(|scope| {
        let hands: Vec<_> = (0..hands).map(|_| scope.spawn(|| hash(&stage))).collect();
        thread::sleep(load.warm_up);
        let before = probe();
        stage.store(MEASURED, Ordering::Relaxed);
        thread::sleep(load.span);
        let after = probe();
        stage.store(OVER, Ordering::Relaxed);
        let mut latencies = Histogram::default();
        let mut operations = 0;
        for hand in hands {
            let (counted, of_one) = hand.join().map_err(|_| anyhow::anyhow!("the bare loop panics"))??;
            operations += counted;
            latencies.add(&of_one);
        }
        let ((before, since), (after, until)) = (before?, after?);
        Ok(Window { operations, span: until - since, latencies, before, after })
    })
}

fn hash(stage: &AtomicU8) -> Result<(u64, Histogram)> {
    // As the server has them: 19 MiB, two passes, one lane.
    let wrong = |why: argon2::Error| anyhow::anyhow!("Argon2id: {why}");
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(19 * 1024, 2, 1, None).map_err(wrong)?);
    let mut memory = vec![Block::new(); argon2.params().block_count()];
    let mut latencies = Histogram::default();
    let mut operations = 0;
    loop {
        let began = Instant::now();
        let mut hash = [0; 32];
        argon2.hash_password_into_with_memory(PASSWORD.as_bytes(), &[7; 16], &mut hash, &mut memory).map_err(wrong)?;
        std::hint::black_box(hash);
        match stage.load(Ordering::Relaxed) {
            MEASURED => {
                latencies.count(began.elapsed());
                operations += 1;
            }
            OVER => return Ok((operations, latencies)),
            _ => {}
        }
    }
}
