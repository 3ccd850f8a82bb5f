//! The queue before a thread: bounded, first come first served, with a second lane for what can wait.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// Batches that may go before the second lane while the first is never empty.
const PATIENCE: u32 = 16;

/// Why something was not queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turned {
    /// As much waits already as may wait.
    Full,
    /// Nobody serves it any more.
    Closed,
}

/// Where callers leave `T`, and `L` that can wait, for one or more threads.
pub(super) struct Queue<T, L = ()> {
    lanes: Mutex<Lanes<T, L>>,
    filled: Condvar,
    most: usize,
}

struct Lanes<T, L> {
    first: VecDeque<T>,
    second: VecDeque<L>,
    passed_over: u32,
    waiting: u32,
    /// How many must be in the first lane before a waiting thread is woken.
    wanted: usize,
    closed: bool,
}

impl<T, L> Queue<T, L> {
    /// A queue in which at most `most` may wait.
    pub(super) fn new(most: usize) -> Self {
        let lanes = Lanes { first: VecDeque::new(), second: VecDeque::new(), passed_over: 0, waiting: 0, wanted: 1, closed: false };
        Self { lanes: Mutex::new(lanes), filled: Condvar::new(), most }
    }

    fn lanes(&self) -> MutexGuard<'_, Lanes<T, L>> {
        // Whoever panicked while holding it had only moved values: the lanes are whole.
        self.lanes.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Leaves `it`; it is in the queue when this returns.
    pub(super) fn push(&self, it: T) -> Result<(), Turned> {
        self.add(|lanes| &mut lanes.first, it)
    }

    /// Leaves `it` for a moment when nothing else waits.
    pub(super) fn push_second(&self, it: L) -> Result<(), Turned> {
        self.add(|lanes| &mut lanes.second, it)
    }

    fn add<V>(&self, lane: impl FnOnce(&mut Lanes<T, L>) -> &mut VecDeque<V>, it: V) -> Result<(), Turned> {
        let mut lanes = self.lanes();
        if lanes.closed {
            return Err(Turned::Closed);
        }
        let into = lane(&mut lanes);
        if into.len() >= self.most {
            return Err(Turned::Full);
        }
        into.push_back(it);
        // A thread that is at work looks again by itself, and waking it costs a call to the kernel.
        let wake = lanes.waiting > 0 && (lanes.first.len() >= lanes.wanted || !lanes.second.is_empty());
        drop(lanes);
        if wake {
            self.filled.notify_one();
        }
        Ok(())
    }

    /// Waits until `wanted` are in the first lane, for `pause` at most. For a queue that one thread serves.
    pub(super) fn gather(&self, wanted: usize, pause: Duration) {
        let mut lanes = self.lanes();
        lanes.wanted = wanted;
        lanes.waiting += 1;
        let (mut lanes, _) = self
            .filled
            .wait_timeout_while(lanes, pause, |lanes| lanes.first.len() < wanted && !lanes.closed)
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        lanes.waiting -= 1;
        lanes.wanted = 1;
    }

    /// Takes up to `most` of the first lane into `into`, and one of the second when its turn has come. Waits until there is
    /// something; `None` once the queue is closed and empty.
    pub(super) fn take(&self, most: usize, into: &mut VecDeque<T>) -> Option<Option<L>> {
        let mut lanes = self.lanes();
        loop {
            let count = lanes.first.len().min(most);
            if count == lanes.first.len() && into.is_empty() {
                std::mem::swap(&mut lanes.first, into);
            } else {
                into.extend(lanes.first.drain(..count));
            }
            let second = if count == 0 || lanes.passed_over >= PATIENCE {
                lanes.passed_over = 0;
                lanes.second.pop_front()
            } else {
                lanes.passed_over += u32::from(!lanes.second.is_empty());
                None
            };
            if count > 0 || second.is_some() {
                return Some(second);
            }
            if lanes.closed {
                return None;
            }
            lanes.waiting += 1;
            lanes = self.filled.wait(lanes).unwrap_or_else(std::sync::PoisonError::into_inner);
            lanes.waiting -= 1;
        }
    }

    /// How many wait in the first lane.
    pub(super) fn len(&self) -> usize {
        self.lanes().first.len()
    }

    /// Takes nothing more in, and lets go of what waits: nobody will serve it.
    pub(super) fn abandon(&self) {
        let mut lanes = self.lanes();
        lanes.closed = true;
        let (first, second) = (std::mem::take(&mut lanes.first), std::mem::take(&mut lanes.second));
        // What is let go of may do anything when it is dropped, so not while the lanes are held.
        drop(lanes);
        drop((first, second));
    }

    /// Takes nothing more in; what waits is still served.
    pub(super) fn close(&self) {
        self.lanes().closed = true;
        self.filled.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_first_is_taken_first_and_no_more_than_asked_for() {
        let queue = Queue::<u32>::new(10);
        for it in 0..5 {
            queue.push(it).expect("room");
        }
        let mut taken = VecDeque::new();
        queue.take(3, &mut taken);
        assert_eq!(taken, [0, 1, 2]);
        queue.push(5).expect("room");
        taken.clear();
        queue.take(9, &mut taken);
        assert_eq!(taken, [3, 4, 5]);
    }

    #[test]
    fn a_full_queue_turns_away_and_a_closed_one_is_emptied_first() {
        let queue = Queue::<u32>::new(1);
        assert_eq!((queue.push(1), queue.push(2)), (Ok(()), Err(Turned::Full)));
        queue.close();
        assert_eq!(queue.push(3), Err(Turned::Closed));
        let mut taken = VecDeque::new();
        assert!(queue.take(9, &mut taken).is_some() && taken == [1]);
        taken.clear();
        assert!(queue.take(9, &mut taken).is_none());
    }

    #[test]
    fn a_gathering_ends_when_all_have_come_or_its_time_is_over() {
        let queue = Queue::<u32>::new(10);
        queue.push(1).expect("room");
        queue.gather(1, Duration::from_secs(60));
        queue.gather(2, Duration::from_millis(1));
        std::thread::scope(|scope| {
            let gathering = scope.spawn(|| queue.gather(3, Duration::from_secs(60)));
            queue.push(2).expect("room");
            queue.push(3).expect("room");
            gathering.join().expect("ends");
        });
        queue.close();
        queue.gather(9, Duration::from_secs(60));
        assert_eq!(queue.len(), 3);
    }

    #[test]
    fn the_second_lane_waits_and_is_not_forgotten() {
        let queue = Queue::<u32, &str>::new(100);
        queue.push_second("sweep").expect("room");
        let mut batches = 0;
        loop {
            queue.push(0).expect("room");
            if queue.take(9, &mut VecDeque::new()).flatten().is_some() {
                break;
            }
            batches += 1;
        }
        assert_eq!(batches, PATIENCE);
    }
}
