//! The core with its real rules, on a simulated store, clock, network and providers, driven by a seed.
//!
//! Invariants 1 to 6 are held against every commit, every word to a caller and every message as it happens (`laws.rs`); invariant 10 is
//! what makes that possible: the same seed gives the same trace. A seed that fails is printed with the end of its trace; once mended it
//! is kept in [`KEPT`].
//!
//! `COUNTERSIGN_SEEDS` sets how many seeds, `COUNTERSIGN_SEED` the first one. To replay a single one:
//! `COUNTERSIGN_SEED=17 COUNTERSIGN_SEEDS=1 cargo test -p countersign --test it simulation::seeds -- --nocapture`

mod executor;
mod laws;
mod people;
mod store;
mod weather;
mod world;

use countersign_core::words::time::Timestamp;
use executor::{Owner, START_MS, Sim};
use laws::Counts;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use weather::Weather;
use world::World;

/// Seeds that found something once, and what. A seed stands for one way through this very world: when the weather or the people change,
/// it goes another way, and the mistake has to be made once more to find the seed that meets it now.
const KEPT: [(u64, &str); 4] = [
    (5, "that nobody carries a message was told though it could not be noted, and the message went out later"),
    (6, "that a message waits was noted twice when the answer to the first note was lost"),
    (50_590, "the same, where the pause ended with the lease to the millisecond"),
    (301, "a node that was cut off noted at last that its message was taken, while another sent it again: a resend could begin"),
];

/// Scenes of each person in one world.
const SCENES: u64 = 12;

/// What became of a world.
struct Run {
    steps: u64,
    hash: u64,
    simulated: Duration,
    counts: Counts,
    broken: Option<String>,
    trace: String,
}

/// Lives through the world of `seed`.
fn run(seed: u64, weather: fn(&Sim) -> Weather) -> Run {
    let world = World::new(seed, weather);
    let sim = world.sim.clone();
    let is_over = Arc::new(AtomicBool::new(false));
    sim.spawn(Owner::World, {
        let (world, sim, is_over) = (world.clone(), sim.clone(), is_over.clone());
        async move {
            let core = world.life(0).expect("nobody has died yet").core;
            let doors = people::furnish(&core, &sim).await;
            world.weather.set_calm(false);
            for done in people::move_in(&world, &doors, SCENES) {
                done.await;
            }
            // Everybody is at home: what was promised has time to arrive.
            world.weather.set_calm(true);
            sim.sleep(Duration::from_secs(90)).await;
            (0..world.weather.nodes).filter(|node| world.life(*node).is_none()).for_each(|node| world.starts(node));
            sim.sleep(Duration::from_secs(1800)).await;
            let mut book = world.base.book();
            let book = &mut *book;
            book.laws.at_the_end(&book.table);
            is_over.store(true, Ordering::Relaxed);
        }
    });
    while sim.broken().is_none() && !is_over.load(Ordering::Relaxed) {
        if !sim.step() {
            sim.breaks("10", "everybody waits, and nothing will ever happen");
        }
    }
    let run = Run {
        steps: sim.steps(),
        hash: sim.hash(),
        simulated: sim.now().since(Timestamp::from_millis(START_MS)),
        counts: world.base.book().laws.counts.clone(),
        broken: sim.broken(),
        trace: sim.last_lines(),
    };
    sim.end();
    run
}

/// What many worlds have done together.
#[derive(Default)]
struct Report {
    seeds: u64,
    steps: u64,
    simulated: Duration,
    sums: BTreeMap<&'static str, u64>,
    operations: BTreeMap<&'static str, u64>,
}

impl Report {
    fn add(&mut self, run: &Run) {
        self.seeds += 1;
        self.steps += run.steps;
        self.simulated += run.simulated;
        let it = &run.counts;
        let sums = [
            ("commits", it.commits),
            ("crashes", it.crashes),
            ("outages", it.outages),
            ("lost commits", it.lost_commits),
            ("lost commit answers", it.lost_commit_answers),
            ("lost replies", it.lost_replies),
            ("lost receipts", it.lost_receipts),
            ("sends", it.sends),
            ("carried", it.carried),
            ("carried again", it.carried_again),
            ("passed", it.passed),
            ("wrong", it.wrong),
        ];
        for (name, count) in sums {
            *self.sums.entry(name).or_default() += count;
        }
        for (name, count) in &it.operations {
            *self.operations.entry(name).or_default() += count;
        }
    }

    fn line(&self, took: Duration) -> String {
        let all: u64 = self.operations.values().sum();
        format!(
            "simulation: {} seeds, {} steps ({:.0} per second), {:.2} simulated years, {all} operations {:?}, {:?}",
            self.seeds,
            self.steps,
            self.steps as f64 / took.as_secs_f64(),
            self.simulated.as_secs_f64() / 31_557_600.0,
            self.operations,
            self.sums,
        )
    }
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|it| it.parse().ok())
}

fn fails(test: &str, seed: u64, run: &Run) -> ! {
    let broken = run.broken.as_deref().unwrap_or("nothing");
    panic!(
        "seed {seed} breaks {broken}\n\nthe end of its trace (ms since the beginning):\n{}\nreplay: COUNTERSIGN_SEED={seed} COUNTERSIGN_SEEDS=1 \
         cargo test -p countersign --test it simulation::{test} -- --nocapture",
        run.trace
    );
}

fn many(test: &str, seeds: u64, weather: fn(&Sim) -> Weather) {
    let (first, seeds) = (setting("COUNTERSIGN_SEED").unwrap_or(1), setting("COUNTERSIGN_SEEDS").unwrap_or(seeds));
    let began = Instant::now();
    let mut report = Report::default();
    for seed in first..first + seeds {
        let run = run(seed, weather);
        if run.broken.is_some() {
            fails(test, seed, &run);
        }
        report.add(&run);
    }
    println!("{}", report.line(began.elapsed()));
}

#[test]
fn seeds_keep_invariants_1_to_6_whatever_goes_wrong() {
    many("seeds", 150, Weather::drawn);
}

#[test]
fn outages_of_20_s_let_no_message_be_sent_twice() {
    many("outages", 50, Weather::outages_only);
}

#[test]
fn kept_seeds_find_nothing_any_more() {
    for (seed, why) in KEPT {
        let run = run(seed, Weather::drawn);
        assert_eq!(run.broken, None, "seed {seed}, kept because: {why}\n{}", run.trace);
    }
}

#[test]
fn invariant_10_the_same_seed_gives_the_same_trace() {
    for seed in 1..=5 {
        let (one, two) = (run(seed, Weather::drawn), run(seed, Weather::drawn));
        assert_eq!((one.hash, one.steps, one.simulated), (two.hash, two.steps, two.simulated), "seed {seed}");
    }
}
