//! The small ports of the core, as the operating system and the runtime fill them: time, chance, and work that goes on.

use countersign_core::ports::{Chance, Clock, Pending, Tasks};
use countersign_core::words::time::Timestamp;
use std::cell::RefCell;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
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

/// Work on the runtime, counted, so that a stop can wait for it.
#[derive(Debug, Clone, Default)]
pub struct TokioTasks(TaskTracker);

impl TokioTasks {
    /// Ready when no detached work is left. New work may still be detached, and is waited for.
    pub async fn finished(&self) {
        self.0.close();
        self.0.wait().await;
    }
}

impl Tasks for TokioTasks {
    fn detach(&self, work: Pending<'static, ()>) {
        self.0.spawn(work);
    }

    fn pause(&self, span: Duration) -> Pending<'static, ()> {
        Box::pin(tokio::time::sleep(span))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

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

    #[test]
    fn chance_differs_and_time_passes_since_2020() {
        let (mut one, mut two) = ([0; 32], [0; 32]);
        OsChance.fill(&mut one);
        OsChance.fill(&mut two);
        assert_ne!(one, two);
        assert!(SystemClock.now() > Timestamp::from_millis(1_577_836_800_000));
    }
}
