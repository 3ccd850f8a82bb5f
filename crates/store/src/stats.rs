//! What the engine counts about itself, for metrics.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Batches are counted by size: 1, 2, up to 4, 8, 16, 32, 64, 128, 256, 512.
const SIZES: usize = 10;

/// What the engine has done since it was opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Transactions that were committed, those that wrote nothing included.
    pub commits: u64,
    /// Decisions that were made.
    pub jobs: u64,
    /// Batches that began anew because somebody else was faster (several nodes).
    pub overtaken: u64,
    /// Commits whose answer was not heard (several nodes).
    pub unheard: u64,
    /// Batches by size: those of at most 1, 2, 4 … 512 decisions.
    pub batches: [u64; SIZES],
    /// How long all commits took together, flushes included.
    pub commit_time: Duration,
    /// Decisions that wait now.
    pub waiting: u64,
    /// The length of the write-ahead log at the last checkpoint.
    pub wal_bytes: u64,
    /// Checkpoints that were made.
    pub checkpoints: u64,
    /// How long ago the last one was.
    pub last_checkpoint: Option<Duration>,
}

#[derive(Default)]
pub(crate) struct Counters {
    commits: AtomicU64,
    jobs: AtomicU64,
    overtaken: AtomicU64,
    unheard: AtomicU64,
    batches: [AtomicU64; SIZES],
    commit_ns: AtomicU64,
    wal_bytes: AtomicU64,
    checkpoints: AtomicU64,
    last_checkpoint: Mutex<Option<Instant>>,
    page_bytes: AtomicU64,
}

impl Counters {
    pub(crate) fn new(page_bytes: u64) -> Self {
        Self { page_bytes: AtomicU64::new(page_bytes), ..Self::default() }
    }

    pub(crate) fn page_bytes(&self) -> u64 {
        self.page_bytes.load(Relaxed)
    }

    /// Grows whenever there may be something to carry over.
    pub(crate) fn written(&self) -> u64 {
        self.commits.load(Relaxed)
    }

    pub(crate) fn commit(&self, took: Duration) {
        self.commits.fetch_add(1, Relaxed);
        self.commit_ns.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    pub(crate) fn batch(&self, jobs: usize) {
        self.jobs.fetch_add(jobs as u64, Relaxed);
        let size = usize::try_from(jobs.next_power_of_two().ilog2()).unwrap_or(SIZES);
        self.batches[size.min(SIZES - 1)].fetch_add(1, Relaxed);
    }

    pub(crate) fn overtaken(&self) {
        self.overtaken.fetch_add(1, Relaxed);
    }

    pub(crate) fn unheard(&self) {
        self.unheard.fetch_add(1, Relaxed);
    }

    pub(crate) fn checkpoint(&self, wal_bytes: u64) {
        self.wal_bytes.store(wal_bytes, Relaxed);
        self.checkpoints.fetch_add(1, Relaxed);
        *self.last_checkpoint.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    pub(crate) fn stats(&self, waiting: usize) -> Stats {
        Stats {
            commits: self.commits.load(Relaxed),
            jobs: self.jobs.load(Relaxed),
            overtaken: self.overtaken.load(Relaxed),
            unheard: self.unheard.load(Relaxed),
            batches: std::array::from_fn(|size| self.batches[size].load(Relaxed)),
            commit_time: Duration::from_nanos(self.commit_ns.load(Relaxed)),
            waiting: waiting as u64,
            wal_bytes: self.wal_bytes.load(Relaxed),
            checkpoints: self.checkpoints.load(Relaxed),
            last_checkpoint: self.last_checkpoint.lock().unwrap_or_else(PoisonError::into_inner).map(|at| at.elapsed()),
        }
    }
}
