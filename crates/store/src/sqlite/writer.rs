//! The writer: the one thread that changes the database, and commits in groups.
//!
//! It takes whatever waits in its queue, runs all of it in one transaction, commits once, and only then answers: one flush
//! serves many callers when the house is busy, and one caller when it is not.
//!
//! Where flushes are slow, callers would fall into two halves, of which one waits while the other is flushed, and every
//! flush would serve half of them. So whoever was just answered gets a moment to come back, a small part of what a flush takes
//! ([`GATHER`]); the moment ends as soon as they have.
//!
//! A batch is tried in up to three manners. *Trusting* writes without undo, because what a judge has just read in the
//! same transaction cannot have changed. When an insert nobody had looked at turns out to be taken after something was
//! written, the batch is rolled back and run again *careful*, each job with a savepoint. When a statement fails, it is
//! rolled back and each job runs *alone*, so that one job's failure is nobody else's.
//!
//! When a flush fails, nothing of its batch is called done, and the connection is given up: a later flush that succeeds
//! proves nothing about pages that the kernel has dropped. What became of such a batch is not known before the database is
//! opened again; [`Fault::Unavailable`] does not say that it did not happen.

use super::checkpointer;
use super::queue::Queue;
use super::rows::{Reads, Shown, Trouble, Writes};
use super::sweep::{self, Removals};
use crate::rows::{Spot, Way, unavailable};
use crate::stats::Counters;
use countersign_core::ports::{Change, Judge, Key, Outcome, Seen, Step, Turn, Write};
use countersign_core::words::id::{NodeId, TenantId};
use countersign_core::words::refusal::Fault;
use rusqlite::{Connection, Statement};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Jobs of one transaction. More would make the first of them wait for longer than a flush takes.
const BATCH: usize = 512;
/// The part of a flush's time for which the next batch may be held back.
const GATHER: u32 = 8;
/// Flushes that are faster than this serve whoever is there.
const SLOW_FLUSH: Duration = Duration::from_micros(500);
/// How often a judge is asked again when its change does not fit what it was shown.
const TRIES: usize = 3;
/// How often a judge may ask to see more.
const LOOKS: usize = 32;

/// One decision on its way.
pub(super) struct Job {
    pub(super) tenant: TenantId,
    pub(super) first: Vec<Key>,
    pub(super) judge: Judge,
    pub(super) answer: oneshot::Sender<Result<Outcome, Fault>>,
}

/// What can wait until nobody else does.
pub(super) enum Chore {
    /// Remove these rows.
    Sweep(Removals, oneshot::Sender<Result<u64, Fault>>),
    /// Take or prolong this node's turn, now and until then.
    TakeTurn(Turn, NodeId, [i64; 2], oneshot::Sender<Result<bool, Fault>>),
    /// Write something, to see whether that works.
    Probe(oneshot::Sender<Result<(), Fault>>),
}

/// What the writer shares with the others.
pub(super) struct Desk {
    pub(super) queue: Queue<Job, Chore>,
    pub(super) counters: Counters,
    /// The checkpointer asks for a moment in which the log can begin again.
    pub(super) log_is_long: AtomicBool,
    /// How long the writer waits for another process.
    pub(super) busy: Duration,
}

/// However the writer ends, nobody waits for it in vain.
struct Leaving<'a>(&'a Desk);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.0.queue.abandon();
    }
}

/// Serves the queue until it is closed. `open` makes another connection when one can no longer be trusted.
pub(super) fn run(desk: &Arc<Desk>, first: Connection, open: &dyn Fn() -> rusqlite::Result<Connection>) {
    let _leaving = Leaving(desk);
    let mut connection = Some(first);
    let mut waiting = VecDeque::with_capacity(BATCH);
    loop {
        let opened = connection.take().map_or_else(open, Ok);
        let ended = opened.and_then(|connection| {
            let ended = Writer::prepare(desk, &connection)?.serve(&mut waiting);
            if matches!(ended, Ended::Closed) {
                checkpointer::finish(&connection, &desk.counters);
            }
            Ok(ended)
        });
        match ended {
            Ok(Ended::Closed) => return,
            Ok(Ended::Suspect) => {
                tracing::error!("The database's disk failed under the writer; it opens the database anew");
            }
            Err(error) => {
                tracing::error!("The database cannot be opened for writing: {error}");
                // Nobody sleeps: whoever asks next is told, and makes the next try.
                if refuse_next(desk, &mut waiting, &error).is_none() {
                    return;
                }
            }
        }
    }
}

fn refuse_next(desk: &Desk, waiting: &mut VecDeque<Job>, error: &rusqlite::Error) -> Option<()> {
    let chore = desk.queue.take(BATCH, waiting)?;
    let fault = Fault::from(&Trouble::Sqlite(rusqlite::Error::SqliteFailure(
        error.sqlite_error().copied().unwrap_or(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CANTOPEN)),
        None,
    )));
    for job in waiting.drain(..) {
        tell(job.answer, Err(fault.clone()));
    }
    match chore {
        Some(Chore::Sweep(_, answer)) => tell(answer, Err(fault)),
        Some(Chore::TakeTurn(.., answer)) => tell(answer, Err(fault)),
        Some(Chore::Probe(answer)) => tell(answer, Err(fault)),
        None => {}
    }
    Some(())
}

/// Answers. Whoever has stopped waiting has nothing to hear: what was decided has happened all the same.
fn tell<T>(answer: oneshot::Sender<T>, what: T) {
    drop(answer.send(what));
}

/// Why the writer stopped.
enum Ended {
    /// The queue is closed and empty.
    Closed,
    /// The disk failed: what this connection believes about the file may be wrong.
    Suspect,
}

/// How a batch is tried.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    Trusting,
    Careful,
}

/// Why a batch stopped in the middle.
enum Stop {
    /// A change that was already half written cannot happen.
    Clash,
    /// A statement failed.
    Failed(Trouble),
}

impl<E: Into<Trouble>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// Why a batch did not happen.
enum Lost {
    /// It did not begin: somebody else holds the file.
    Begin(Trouble),
    /// It stopped in the middle.
    Middle(Stop),
    /// It was not committed.
    Commit(Trouble),
}

/// What became of a change.
enum Applied {
    Done,
    Taken,
    /// It does not fit what is there.
    Stale,
    /// It cannot mean anything.
    Senseless(&'static str),
}

/// Where a write goes.
#[derive(Clone, Copy)]
enum Place {
    /// Where nothing is.
    Free,
    /// Where this is.
    Held(Shown),
}

struct Writer<'c> {
    desk: &'c Desk,
    connection: &'c Connection,
    begin: Statement<'c>,
    commit: Statement<'c>,
    pulse: Statement<'c>,
    sweeper: sweep::Removing<'c>,
    reads: Reads<'c>,
    writes: Writes<'c>,
    /// What the present judge was shown.
    read: Vec<Shown>,
    /// Where the present judge was shown that nothing is.
    absent: Vec<Spot>,
    /// What a flush takes, smoothed.
    flush: Duration,
    /// Callers that were about at the last answer: those who got it, and those who waited.
    around: usize,
}

impl<'c> Writer<'c> {
    fn prepare(desk: &'c Desk, connection: &'c Connection) -> rusqlite::Result<Self> {
        Ok(Self {
            desk,
            connection,
            begin: connection.prepare("BEGIN IMMEDIATE")?,
            commit: connection.prepare("COMMIT")?,
            pulse: connection.prepare("UPDATE pulse SET beats = beats + 1")?,
            sweeper: sweep::Removing::prepare(connection)?,
            reads: Reads::prepare(connection)?,
            writes: Writes::prepare(connection)?,
            read: Vec::with_capacity(16),
            absent: Vec::with_capacity(16),
            flush: Duration::ZERO,
            around: 0,
        })
    }

    fn serve(&mut self, jobs: &mut VecDeque<Job>) -> Ended {
        let desk = self.desk;
        loop {
            if self.flush >= SLOW_FLUSH {
                desk.queue.gather(self.around.min(BATCH), self.flush / GATHER);
            }
            let Some(chore) = desk.queue.take(BATCH, jobs) else { return Ended::Closed };
            let mut trusted = true;
            if !jobs.is_empty() {
                trusted &= self.batch(jobs);
            }
            match chore {
                None => {}
                Some(Chore::Sweep(removals, answer)) => trusted &= self.chore(answer, |it| it.sweeper.remove(&removals)),
                Some(Chore::TakeTurn(turn, node, times, answer)) => {
                    trusted &= self.chore(answer, |it| take_turn(it.connection, turn, node, times));
                }
                Some(Chore::Probe(answer)) => trusted &= self.chore(answer, |it| Ok(it.pulse.execute(()).map(drop)?)),
            }
            if !trusted {
                return Ended::Suspect;
            }
            if desk.log_is_long.swap(false, Ordering::Relaxed) {
                checkpointer::begin_again(self.connection, desk);
            }
        }
    }

    /// Decides up to [`BATCH`] of `jobs` and answers them; says whether the connection can still be trusted.
    fn batch(&mut self, jobs: &mut VecDeque<Job>) -> bool {
        let mut answers = Vec::with_capacity(jobs.len());
        let mut tried = self.attempt(jobs, Manner::Trusting, &mut answers);
        if matches!(tried, Err(Lost::Middle(Stop::Clash))) {
            answers.clear();
            tried = self.attempt(jobs, Manner::Careful, &mut answers);
        }
        match tried {
            Ok(()) => {
                self.desk.counters.batch(jobs.len());
                self.around = jobs.len() + self.desk.queue.len();
                for (job, answer) in jobs.drain(..).zip(answers) {
                    tell(job.answer, answer);
                }
                true
            }
            Err(Lost::Begin(trouble)) => self.refuse(jobs, &trouble),
            // A full disk is said before anything was flushed, so what fits may still be tried.
            Err(Lost::Commit(trouble)) if !trouble.is_full() => {
                self.refuse(jobs, &trouble);
                false
            }
            Err(_) => self.one_by_one(jobs),
        }
    }

    fn refuse(&self, jobs: &mut VecDeque<Job>, trouble: &Trouble) -> bool {
        let fault = Fault::from(trouble);
        tracing::error!(jobs = jobs.len(), "{} changes did not happen: {fault}", jobs.len());
        for job in jobs.drain(..) {
            tell(job.answer, Err(fault.clone()));
        }
        !trouble.is_of_the_disk()
    }

    /// Each job in a transaction of its own.
    fn one_by_one(&mut self, jobs: &mut VecDeque<Job>) -> bool {
        let mut trusted = true;
        let mut alone = VecDeque::with_capacity(1);
        let mut answers = Vec::with_capacity(1);
        while let Some(job) = jobs.pop_front() {
            alone.push_back(job);
            answers.clear();
            let trouble = match self.attempt(&mut alone, Manner::Careful, &mut answers) {
                Ok(()) => {
                    self.desk.counters.batch(1);
                    for (job, answer) in alone.drain(..).zip(answers.drain(..)) {
                        tell(job.answer, answer);
                    }
                    continue;
                }
                // Waiting for the file once was enough; the others would only wait as long each.
                Err(Lost::Begin(trouble)) => {
                    alone.append(jobs);
                    trouble
                }
                Err(Lost::Commit(trouble) | Lost::Middle(Stop::Failed(trouble))) => trouble,
                Err(Lost::Middle(Stop::Clash)) => Trouble::Damaged("a careful change clashed".into()),
            };
            trusted &= self.refuse(&mut alone, &trouble);
            if !trusted {
                // Not even one job may be committed on a connection that has seen the disk fail.
                return self.refuse(jobs, &trouble) && trusted;
            }
        }
        trusted
    }

    /// Runs all `jobs` in one transaction and commits it. Nothing of it has happened when it fails.
    fn attempt(&mut self, jobs: &mut VecDeque<Job>, manner: Manner, answers: &mut Vec<Result<Outcome, Fault>>) -> Result<(), Lost> {
        self.begin.raw_execute().map_err(|error| Lost::Begin(error.into()))?;
        for job in jobs.iter_mut() {
            match self.decide(job, manner) {
                Ok(answer) => answers.push(answer),
                Err(stop) => {
                    self.roll_back();
                    return Err(Lost::Middle(stop));
                }
            }
        }
        if let Err(trouble) = self.writes.flush() {
            self.roll_back();
            return Err(Lost::Middle(Stop::Failed(trouble)));
        }
        self.commit().map_err(Lost::Commit)
    }

    fn commit(&mut self) -> Result<(), Trouble> {
        let begun = Instant::now();
        let committed = self.commit.raw_execute();
        let took = begun.elapsed();
        self.flush = (self.flush * 3 + took) / 4;
        self.desk.counters.commit(took);
        committed.map(drop).map_err(|error| {
            self.roll_back();
            error.into()
        })
    }

    fn roll_back(&mut self) {
        self.writes.forget();
        // SQLite has done it already after some failures.
        if !self.connection.is_autocommit()
            && let Err(error) = self.connection.execute_batch("ROLLBACK")
        {
            tracing::error!("The writer cannot roll back: {error}");
        }
    }

    /// One chore in a transaction of its own.
    fn chore<T>(&mut self, answer: oneshot::Sender<Result<T, Fault>>, work: impl FnOnce(&mut Self) -> Result<T, Trouble>) -> bool {
        let done = self.begin.raw_execute().map_err(Trouble::from).and_then(|_| {
            let done = match work(self) {
                Ok(done) => done,
                Err(trouble) => {
                    self.roll_back();
                    return Err(trouble);
                }
            };
            self.commit()?;
            Ok(done)
        });
        let trusted = !done.as_ref().is_err_and(Trouble::is_of_the_disk);
        tell(answer, done.map_err(|trouble| Fault::from(&trouble)));
        trusted
    }

    fn decide(&mut self, job: &mut Job, manner: Manner) -> Result<Result<Outcome, Fault>, Stop> {
        for _ in 0..TRIES {
            let change = match self.ask(job) {
                Ok(change) => change,
                Err(Trouble::Damaged(what)) => return Ok(Err(Fault::Corrupt(what))),
                Err(trouble) => return Err(trouble.into()),
            };
            match self.apply(job.tenant, &change, manner)? {
                Applied::Done => return Ok(Ok(Outcome::Done)),
                Applied::Taken => return Ok(Ok(Outcome::Taken)),
                Applied::Senseless(why) => return Ok(Err(Fault::Corrupt(why.into()))),
                Applied::Stale => {}
            }
        }
        Ok(Err(Fault::Contended))
    }

    /// Shows the judge what it wants to see, until it says what is to happen.
    fn ask(&mut self, job: &mut Job) -> Result<Change, Trouble> {
        self.read.clear();
        self.absent.clear();
        let mut seen = Seen::default();
        for key in &job.first {
            self.look(job.tenant, *key, &mut seen)?;
        }
        for _ in 0..LOOKS {
            // A judge that panics is a bug of one rule. It must not take the writer, and with it the house, along.
            let step = catch_unwind(AssertUnwindSafe(|| (job.judge)(&mut seen)))
                .map_err(|_| Trouble::Damaged("a rule panicked while it judged".into()))?;
            match step {
                Step::Write(change) => return Ok(change),
                Step::Look(keys) => {
                    for key in keys {
                        if !seen.has_looked_at(key) {
                            self.look(job.tenant, key, &mut seen)?;
                        }
                    }
                }
            }
        }
        Err(Trouble::Damaged("a rule asks to see more and more, and decides nothing".into()))
    }

    fn look(&mut self, tenant: TenantId, key: Key, seen: &mut Seen) -> Result<(), Trouble> {
        let way = Way::of(tenant, key);
        let read = &mut self.read;
        let found = self.reads.find(tenant, way, |shown| read.push(shown))?;
        if let (Way::Spot(spot), true) = (way, found.is_empty()) {
            self.absent.push(spot);
        }
        seen.note(key, found);
        Ok(())
    }

    fn apply(&mut self, tenant: TenantId, change: &Change, manner: Manner) -> Result<Applied, Stop> {
        let mut spots = Vec::with_capacity(change.writes.len());
        for write in &change.writes {
            spots.push(match write {
                Write::Insert(record) | Write::Replace(record, _) => Spot::of(tenant, record),
                Write::Remove(key, _) => match Way::of(tenant, *key) {
                    Way::Spot(spot) => spot,
                    Way::Named(_) | Way::Of(_) => return Ok(Applied::Senseless("a change removes by something else than an id")),
                },
            });
        }
        let twice = spots.iter().enumerate().any(|(at, spot)| spots[..at].contains(spot));
        if manner == Manner::Careful || twice {
            return self.apply_careful(tenant, change, &spots);
        }
        let mut places = Vec::with_capacity(spots.len());
        for (write, spot) in change.writes.iter().zip(&spots) {
            let Some(place) = self.place(tenant, write, *spot)? else { return Ok(Applied::Stale) };
            places.push(place);
        }
        for (done, (write, place)) in change.writes.iter().zip(places).enumerate() {
            if !self.write(tenant, write, place)? {
                // Versions were looked at above, so it is a key or a name that is taken.
                return if done == 0 { Ok(Applied::Taken) } else { Err(Stop::Clash) };
            }
        }
        self.tell(tenant, change)?;
        Ok(Applied::Done)
    }

    /// Writes with an undo, and looks before each write at what those before it have left.
    fn apply_careful(&mut self, tenant: TenantId, change: &Change, spots: &[Spot]) -> Result<Applied, Stop> {
        self.connection.execute_batch("SAVEPOINT change")?;
        for (write, spot) in change.writes.iter().zip(spots) {
            let shown = self.reads.shown(tenant, *spot)?;
            let refused = match (write, shown) {
                (Write::Insert(_), Some(_)) if self.read.iter().any(|it| it.spot == *spot) => Some(Applied::Stale),
                (Write::Insert(_), Some(_)) => Some(Applied::Taken),
                (Write::Insert(_), None) => (!self.write(tenant, write, Place::Free)?).then_some(Applied::Taken),
                (Write::Replace(_, version) | Write::Remove(_, version), Some(shown)) if shown.version == *version => {
                    (!self.write(tenant, write, Place::Held(shown))?).then_some(Applied::Taken)
                }
                (Write::Replace(..) | Write::Remove(..), _) => Some(Applied::Stale),
            };
            if let Some(refused) = refused {
                self.connection.execute_batch("ROLLBACK TO change; RELEASE change")?;
                return Ok(refused);
            }
        }
        self.tell(tenant, change)?;
        self.connection.execute_batch("RELEASE change")?;
        Ok(Applied::Done)
    }

    /// Where `write` goes, if it fits what the judge was shown.
    fn place(&mut self, tenant: TenantId, write: &Write, spot: Spot) -> Result<Option<Place>, Trouble> {
        let shown = self.read.iter().find(|it| it.spot == spot).copied();
        let wanted = match write {
            Write::Insert(_) => return Ok(if shown.is_none() { Some(Place::Free) } else { None }),
            Write::Replace(_, version) | Write::Remove(_, version) => *version,
        };
        let shown = match shown {
            None if !self.absent.contains(&spot) => self.reads.shown(tenant, spot)?,
            shown => shown,
        };
        Ok(shown.filter(|it| it.version == wanted).map(Place::Held))
    }

    /// Says whether the key and the unique names were free.
    fn write(&mut self, tenant: TenantId, write: &Write, place: Place) -> Result<bool, Trouble> {
        match (write, place) {
            (Write::Insert(record), _) => self.writes.insert(tenant, record),
            (Write::Replace(record, _), Place::Held(shown)) => self.writes.replace(shown, record),
            (Write::Remove(..), Place::Held(shown)) => self.writes.remove(shown),
            (Write::Replace(..) | Write::Remove(..), Place::Free) => Ok(false),
        }
    }

    fn tell(&mut self, tenant: TenantId, change: &Change) -> Result<(), Trouble> {
        change.events.iter().try_for_each(|event| self.writes.tell(tenant, event))
    }
}

fn take_turn(connection: &Connection, turn: Turn, node: NodeId, [now, until]: [i64; 2]) -> Result<bool, Trouble> {
    let text = "INSERT INTO turns (at, holder, until) VALUES (?1, ?2, ?4) ON CONFLICT (at) DO UPDATE \
                SET holder = excluded.holder, until = excluded.until WHERE holder = ?2 OR until <= ?3";
    Ok(connection.prepare_cached(text)?.execute((turn.as_str(), node.as_bytes(), now, until))? == 1)
}

/// What is said when the queue does not take a job.
pub(super) fn turned(why: super::queue::Turned) -> Fault {
    match why {
        super::queue::Turned::Full => unavailable("more changes wait than the disk can take"),
        super::queue::Turned::Closed => unavailable("the store is closed"),
    }
}
