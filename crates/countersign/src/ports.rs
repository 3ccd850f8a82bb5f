//! The small ports of the core, as the operating system and the runtime fill them: time, chance, and work that goes on.

use countersign_core::ports::{Chance, Clock, Pending, Tasks};
use countersign_core::words::time::Timestamp;
use std::cell::RefCell;
use std::num::NonZeroUsize;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

/// The machine's clock. The only place in the house that asks it (invariant 10).
#[derive(Debug, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the Clock that everybody else asks")]
    fn now(&self) -> Timestamp {
        // A clock before 1970 is one that nobody has set; `doctor` says so.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }
}

/// Chance from the operating system. Each thread fetches some of it ahead: one call to the kernel serves a whole request, which
/// draws ids, nonces and a code. What was handed out is wiped.
#[derive(Debug, Clone, Copy)]
pub struct OsChance;

/// Bytes that a thread fetches at a time.
const AHEAD: usize = 512;

thread_local! {
    static STOCK: RefCell<(usize, [u8; AHEAD])> = const { RefCell::new((AHEAD, [0; AHEAD])) };
}

impl Chance for OsChance {
    fn fill(&self, bytes: &mut [u8]) {
        if bytes.len() > AHEAD {
            return from_the_system(bytes);
        }
        STOCK.with_borrow_mut(|(used, stock)| {
            if AHEAD - *used < bytes.len() {
                from_the_system(stock);
                *used = 0;
            }
            let taken = &mut stock[*used..*used + bytes.len()];
            bytes.copy_from_slice(taken);
            taken.fill(0);
            *used += bytes.len();
        });
    }
}

fn from_the_system(bytes: &mut [u8]) {
    getrandom::fill(bytes).expect("no code may be drawn where the operating system has no randomness");
}

/// How much labour there may be for each processor, on hand or waiting. A password takes some 15 ms, so the last one waits for about a
/// second.
const QUEUE: usize = 64;

/// Work on the runtime. What was detached is counted, so that a stop can wait for it.
#[derive(Debug, Clone)]
pub struct TokioTasks {
    detached: TaskTracker,
    /// One for each processor: more labour at once would end no sooner, and would leave nothing to anybody else.
    hands: Arc<Semaphore>,
    /// Places for work that waits for a hand, or has one.
    queue: Arc<Semaphore>,
}

impl Default for TokioTasks {
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self {
            detached: TaskTracker::new(),
            hands: Arc::new(Semaphore::new(processors)),
            queue: Arc::new(Semaphore::new(processors * QUEUE)),
        }
    }
}

impl TokioTasks {
    /// Ready when no detached work is left. New work may still be detached, and is waited for.
    pub async fn finished(&self) {
        self.detached.close();
        self.detached.wait().await;
    }
}

impl Tasks for TokioTasks {
    fn detach(&self, work: Pending<'static, ()>) {
        self.detached.spawn(work);
    }

    fn pause(&self, span: Duration) -> Pending<'static, ()> {
        Box::pin(tokio::time::sleep(span))
    }

    fn labour(&self, work: Box<dyn FnOnce() + Send>) -> Pending<'static, ()> {
        let hands = self.hands.clone();
        let queue = self.queue.clone();
        Box::pin(async move {
            let Ok(_waiting) = queue.try_acquire_owned() else { return };
            let hand = hands.acquire_owned().await.expect("nobody closes it");
            // The hand is kept until the work is done, also when nobody waits for it any more.
            let done = tokio::task::spawn_blocking(move || {
                work();
                drop(hand);
            });
            if let Err(why) = done.await
                && why.is_panic()
            {
                resume_unwind(why.into_panic());
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    #[tokio::test]
    async fn a_stop_waits_for_work_that_was_detached() {
        let tasks = TokioTasks::default();
        let done = Arc::new(AtomicBool::new(false));
        let (work, pause) = (done.clone(), tasks.pause(Duration::from_millis(20)));
        tasks.detach(Box::pin(async move {
            pause.await;
            work.store(true, Ordering::SeqCst);
        }));
        tasks.finished().await;
        assert!(done.load(Ordering::SeqCst));
    }

    #[tokio::test]
    async fn no_more_labour_is_done_at_once_than_there_are_processors() {
        let tasks = TokioTasks::default();
        let (most, busy) = (tasks.hands.available_permits(), Arc::new(AtomicUsize::new(0)));
        let labours: Vec<_> = (0..most * 8)
            .map(|_| {
                let busy = busy.clone();
                tokio::spawn(tasks.labour(Box::new(move || {
                    assert!(busy.fetch_add(1, Ordering::SeqCst) < most, "there is a hand for each");
                    (0..1000).for_each(|_| std::thread::yield_now());
                    busy.fetch_sub(1, Ordering::SeqCst);
                })))
            })
            .collect();
        for labour in labours {
            labour.await.expect("it does not panic");
        }
        assert_eq!((busy.load(Ordering::SeqCst), tasks.hands.available_permits()), (0, most));
    }

    #[test]
    fn chance_differs_and_time_passes_since_2020() {
        let (mut one, mut two) = ([0; 32], [0; 32]);
        OsChance.fill(&mut one);
        OsChance.fill(&mut two);
        assert_ne!(one, two);
        assert!(SystemClock.now() > Timestamp::from_millis(1_577_836_800_000));
    }
}
