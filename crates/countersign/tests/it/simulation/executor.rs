//! Time, chance and tasks of a simulated world.
//!
//! Owns what runs next. One thread; among the tasks that are ready the seed chooses; when none is, time jumps to the next timer. Whatever
//! happens leaves a line in the trace, so that two runs of one seed can be compared (invariant 10) and a failing one can be read.

use countersign_core::ports::{Chance, Clock, Pending, Tasks};
use countersign_core::words::time::Timestamp;
use std::collections::{BTreeMap, VecDeque};
use std::fmt::{self, Write as _};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

/// Who a task belongs to: when a node dies, its tasks vanish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// Callers, networks, providers and the database: they outlive every node.
    World,
    /// One life of a node.
    Life(u64),
}

/// Lines of the trace that a failing seed shows.
const LINES: usize = 60;

/// The simulated machine room.
#[derive(Clone)]
pub struct Sim(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    ready: Arc<Mutex<Vec<u64>>>,
}

struct State {
    now_ms: i64,
    random: u64,
    timers: BTreeMap<(i64, u64), Waker>,
    tasks: BTreeMap<u64, Task>,
    /// The task that is being polled.
    current: u64,
    next: u64,
    steps: u64,
    trace: VecDeque<String>,
    line: String,
    hash: u64,
    broken: Option<String>,
}

struct Task {
    owner: Owner,
    /// Absent while it is being polled.
    work: Option<Pending<'static, ()>>,
    waker: Waker,
}

struct Bell {
    id: u64,
    ready: Arc<Mutex<Vec<u64>>>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        let mut ready = self.ready.lock().unwrap();
        if !ready.contains(&self.id) {
            ready.push(self.id);
        }
    }
}

impl Sim {
    /// A world that begins at `start` and is driven by `seed`.
    pub fn new(seed: u64, start: Timestamp) -> Self {
        let state = State {
            now_ms: start.as_millis(),
            random: seed.wrapping_mul(0xd134_2543_de82_ef95) ^ 0x5851_f42d_4c95_7f2d,
            timers: BTreeMap::new(),
            tasks: BTreeMap::new(),
            current: 0,
            next: 1,
            steps: 0,
            trace: VecDeque::with_capacity(LINES),
            line: String::new(),
            hash: 0xcbf2_9ce4_8422_2325,
            broken: None,
        };
        Self(Arc::new(Inner { state: Mutex::new(state), ready: Arc::default() }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap()
    }

    /// The true time, which no node knows exactly.
    pub fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.state().now_ms)
    }

    /// Steps so far.
    pub fn steps(&self) -> u64 {
        self.state().steps
    }

    /// What stands for the whole trace.
    pub fn hash(&self) -> u64 {
        self.state().hash
    }

    /// The task that is being polled.
    pub fn current(&self) -> u64 {
        self.state().current
    }

    // ------------------------------------------------------------------------------------------------------------ chance

    /// A number below `end`.
    pub fn below(&self, end: u64) -> u64 {
        self.state().draw() % end.max(1)
    }

    /// Whether something that happens `per_mille` times in a thousand happens now.
    pub fn hits(&self, per_mille: u64) -> bool {
        per_mille > 0 && self.below(1000) < per_mille
    }

    /// A span of at least `least_ms` and at most `most_ms`.
    pub fn span(&self, least_ms: u64, most_ms: u64) -> Duration {
        Duration::from_millis(least_ms + self.below(most_ms - least_ms + 1))
    }

    /// One of several.
    pub fn one_of<T: Clone>(&self, many: &[T]) -> T {
        many[usize::try_from(self.below(many.len() as u64)).unwrap()].clone()
    }

    // ------------------------------------------------------------------------------------------------------------- tasks

    /// Starts `work`, and gives its number.
    pub fn spawn(&self, owner: Owner, work: impl Future<Output = ()> + Send + 'static) -> u64 {
        self.spawn_boxed(owner, Box::pin(work))
    }

    fn spawn_boxed(&self, owner: Owner, work: Pending<'static, ()>) -> u64 {
        let mut state = self.state();
        let id = state.next;
        state.next += 1;
        let waker = Waker::from(Arc::new(Bell { id, ready: self.0.ready.clone() }));
        waker.wake_by_ref();
        state.tasks.insert(id, Task { owner, work: Some(work), waker });
        id
    }

    /// Drops a task, as a server does with the work for a caller who has hung up.
    pub fn cancel(&self, id: u64) {
        let gone = self.state().tasks.remove(&id);
        drop(gone);
    }

    /// A node dies: all that it was doing is gone.
    pub fn kill(&self, owner: Owner) {
        let mut state = self.state();
        let ids: Vec<_> = state.tasks.iter().filter(|(_, task)| task.owner == owner).map(|(id, _)| *id).collect();
        let gone: Vec<_> = ids.iter().filter_map(|id| state.tasks.remove(id)).collect();
        drop(state);
        // What is dropped may wake others, so nothing may be held here.
        drop(gone);
    }

    /// Ends the world: what is left is dropped.
    pub fn end(&self) {
        let gone = std::mem::take(&mut self.state().tasks);
        drop(gone);
        self.state().timers.clear();
    }

    /// Ready when `span` has passed.
    pub fn sleep(&self, span: Duration) -> Sleep {
        let mut state = self.state();
        let at = state.now_ms + i64::try_from(span.as_millis()).unwrap();
        let key = (at, state.next);
        state.next += 1;
        Sleep { sim: self.clone(), key, is_set: false }
    }

    /// Polls one task, or jumps to the next timer. Nothing is left to do when it says no.
    pub fn step(&self) -> bool {
        let mut ready = self.0.ready.lock().unwrap();
        if ready.is_empty() {
            drop(ready);
            let mut state = self.state();
            let Some(((at, _), waker)) = state.timers.pop_first() else { return false };
            state.now_ms = state.now_ms.max(at);
            drop(state);
            waker.wake();
            return true;
        }
        let mut state = self.state();
        let chosen = usize::try_from(state.draw() % ready.len() as u64).unwrap();
        let id = ready.swap_remove(chosen);
        drop(ready);
        let Some((work, waker)) = state.tasks.get_mut(&id).map(|task| (task.work.take(), task.waker.clone())) else { return true };
        state.steps += 1;
        state.current = id;
        let mixed = state.now_ms.unsigned_abs() ^ id.rotate_left(32);
        state.mix(&mixed.to_le_bytes());
        drop(state);
        let Some(mut work) = work else { return true };
        let done = work.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
        let mut state = self.state();
        if done {
            state.tasks.remove(&id);
        } else if let Some(task) = state.tasks.get_mut(&id) {
            task.work = Some(work);
            return true;
        }
        drop(state);
        true
    }

    // ------------------------------------------------------------------------------------------------------------- trace

    /// Writes down that something happened.
    pub fn note(&self, what: fmt::Arguments<'_>) {
        let mut state = self.state();
        let mut line = std::mem::take(&mut state.line);
        line.clear();
        let _ = write!(line, "{:>13} {what}", state.now_ms - START_MS);
        state.mix(line.as_bytes());
        let spare = if state.trace.len() == LINES { state.trace.pop_front() } else { None };
        state.trace.push_back(line);
        state.line = spare.unwrap_or_default();
    }

    /// A law is broken. The first one counts.
    pub fn breaks(&self, law: &str, how: &str) {
        self.note(format_args!("LAW {law} IS BROKEN: {how}"));
        self.state().broken.get_or_insert_with(|| format!("invariant {law}: {how}"));
    }

    /// What is broken, if something is.
    pub fn broken(&self) -> Option<String> {
        self.state().broken.clone()
    }

    /// The last lines of the trace.
    pub fn last_lines(&self) -> String {
        self.state().trace.iter().fold(String::new(), |text, line| text + line + "\n")
    }
}

/// When every world begins: noon, 1 January 2030.
pub const START_MS: i64 = 1_893_499_200_000;

impl State {
    /// SplitMix64.
    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// FNV-1a, by words where there are any.
    fn mix(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            self.hash = (self.hash ^ u64::from_le_bytes(word)).wrapping_mul(0x0100_0000_01b3).rotate_left(23);
        }
    }
}

/// See [`Sim::sleep`].
pub struct Sleep {
    sim: Sim,
    key: (i64, u64),
    is_set: bool,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.sim.state();
        // Even the shortest sleep lets others go first.
        if self.is_set && state.now_ms >= self.key.0 {
            return Poll::Ready(());
        }
        state.timers.insert(self.key, cx.waker().clone());
        drop(state);
        self.is_set = true;
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        let gone = self.sim.state().timers.remove(&self.key);
        drop(gone);
    }
}

/// A place for one value that somebody waits for.
pub struct Slot<T>(Arc<Mutex<(Option<T>, Option<Waker>)>>);

impl<T> Clone for Slot<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new((None, None))))
    }
}

impl<T> Slot<T> {
    /// Puts the value there; the first one stays.
    pub fn put(&self, value: T) {
        let mut slot = self.0.lock().unwrap();
        slot.0.get_or_insert(value);
        let waker = slot.1.take();
        drop(slot);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Future for Slot<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let mut slot = self.0.lock().unwrap();
        match slot.0.take() {
            Some(value) => Poll::Ready(value),
            None => {
                slot.1 = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// What `work` gives, unless `limit` is over first.
pub async fn within<T>(work: impl Future<Output = T> + Send, limit: Sleep) -> Option<T> {
    let (mut work, mut limit) = (Box::pin(work), limit);
    std::future::poll_fn(move |cx| match work.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending => Pin::new(&mut limit).poll(cx).map(|()| None),
    })
    .await
}

/// The clock of one life of a node: right, but for a few hundred milliseconds.
pub struct Skewed {
    pub sim: Sim,
    pub by_ms: i64,
}

impl Clock for Skewed {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.sim.state().now_ms + self.by_ms)
    }
}

impl Chance for Sim {
    fn fill(&self, bytes: &mut [u8]) {
        let mut state = self.state();
        for part in bytes.chunks_mut(8) {
            let word = state.draw().to_le_bytes();
            part.copy_from_slice(&word[..part.len()]);
        }
    }
}

/// The tasks of one life of a node.
pub struct Hands {
    pub sim: Sim,
    pub owner: Owner,
}

impl Tasks for Hands {
    fn detach(&self, work: Pending<'static, ()>) {
        self.sim.spawn_boxed(self.owner, work);
    }

    fn pause(&self, span: Duration) -> Pending<'static, ()> {
        Box::pin(self.sim.sleep(span))
    }

    fn labour(&self, work: Box<dyn FnOnce() + Send>) -> Pending<'static, ()> {
        Box::pin(async move { work() })
    }
}
