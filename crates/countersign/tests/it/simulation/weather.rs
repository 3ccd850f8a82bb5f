//! What goes wrong in a world, and how often: drawn once from the seed, and calm at the beginning and at the end.

use super::executor::Sim;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The weather of one world. Numbers are times in a thousand, where the name does not say otherwise.
pub struct Weather {
    sim: Sim,
    calm: AtomicBool,
    pub nodes: usize,
    pub skew_ms: u64,
    /// How slow the database is at the most, most of the time and now and then.
    pub store_ms: u64,
    pub store_slow: u64,
    pub store_slow_ms: u64,
    pub loses_reads: u64,
    pub loses_commits: u64,
    pub loses_commit_answers: u64,
    pub asks_again: u64,
    /// For each thing that somebody does: whether a node dies, or the database goes away, soon after it.
    pub crashes: u64,
    pub outages: u64,
    /// Whether only one node loses the database sometimes, and whether it hangs.
    pub partial_outages: u64,
    pub hanging_outages: u64,
    /// The network between callers and nodes.
    pub drops: u64,
    pub repeats: u64,
    /// What providers do other than taking a message and saying so.
    pub refuses: u64,
    pub unreachable: u64,
    pub unavailable: u64,
    pub hangs: u64,
    pub takes_silently: u64,
    pub provider_ms: u64,
    pub provider_slow: u64,
    pub idle_pause_ms: u64,
    /// No message may be carried twice in this world.
    pub once: bool,
}

impl Weather {
    /// Anything may go wrong; in most worlds one thing more than the others, because some accidents need each other.
    pub fn drawn(sim: &Sim) -> Self {
        let mixed = Self::mixed(sim);
        match sim.below(5) {
            // Attempts that come to the end of their leases: commits take seconds, providers say nothing, clocks differ.
            0 => Self { skew_ms: 900, store_slow: 250, store_slow_ms: 9_000, hangs: 350, provider_slow: 200, ..mixed },
            // One node is cut off, and comes back when others have gone on.
            1 => Self { nodes: 3, outages: 300, partial_outages: 1000, provider_ms: 2_000, provider_slow: 300, ..mixed },
            // Nodes die like flies.
            2 => Self { crashes: 400, provider_ms: 2_000, ..mixed },
            _ => mixed,
        }
    }

    fn mixed(sim: &Sim) -> Self {
        let up_to = |most: u64| if sim.below(3) == 0 { 0 } else { sim.below(most + 1) };
        Self {
            sim: sim.clone(),
            calm: AtomicBool::new(true),
            nodes: 1 + usize::try_from(sim.below(3)).unwrap(),
            skew_ms: sim.one_of(&[0, 200, 900]),
            store_ms: sim.one_of(&[1, 5, 40]),
            store_slow: up_to(30),
            store_slow_ms: sim.one_of(&[200, 1500, 8000]),
            loses_reads: up_to(10),
            loses_commits: up_to(20),
            loses_commit_answers: up_to(20),
            asks_again: up_to(50),
            crashes: up_to(60),
            outages: sim.one_of(&[0, 10, 40, 200]),
            partial_outages: sim.one_of(&[0, 500, 1000]),
            hanging_outages: 300,
            drops: up_to(50),
            repeats: up_to(150),
            refuses: up_to(60),
            unreachable: up_to(30),
            unavailable: up_to(250),
            hangs: up_to(60),
            takes_silently: up_to(80),
            provider_ms: sim.one_of(&[50, 400, 2000]),
            provider_slow: up_to(60),
            idle_pause_ms: sim.one_of(&[250, 1000]),
            once: false,
        }
    }

    /// The database goes away for 20 s again and again; everything else works, and is quick.
    pub fn outages_only(sim: &Sim) -> Self {
        Self {
            nodes: 2 + usize::try_from(sim.below(2)).unwrap(),
            store_ms: 5,
            store_slow: 0,
            loses_reads: 0,
            loses_commits: 0,
            loses_commit_answers: 0,
            crashes: 0,
            outages: 120,
            partial_outages: 0,
            hanging_outages: 0,
            hangs: 0,
            takes_silently: 0,
            provider_ms: 400,
            provider_slow: 0,
            idle_pause_ms: 250,
            once: true,
            ..Self::mixed(sim)
        }
    }

    /// Nothing goes wrong while it is calm.
    pub fn set_calm(&self, is_calm: bool) {
        self.calm.store(is_calm, Ordering::Relaxed);
    }

    pub fn is_calm(&self) -> bool {
        self.calm.load(Ordering::Relaxed)
    }

    /// Whether something that goes wrong `per_mille` times in a thousand goes wrong now.
    pub fn is_hit(&self, per_mille: u64) -> bool {
        !self.is_calm() && self.sim.hits(per_mille)
    }

    /// One way to the database.
    pub async fn store_delay(&self, sim: &Sim) {
        let most = if self.is_hit(self.store_slow) { self.store_slow_ms } else { self.store_ms };
        let span = sim.span(0, most);
        if span > Duration::ZERO {
            sim.sleep(span).await;
        }
    }
}
