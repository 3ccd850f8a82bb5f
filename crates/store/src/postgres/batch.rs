//! Lanes: each takes the decisions that wait for it, and lets them happen together.
//!
//! A batch is read, judged on the [`Slate`], and written if everything is still as it was read; otherwise it begins anew with
//! fresh reads. Decisions that begin with the same key share a lane, so those of one caller happen in their order. When
//! others keep being faster, or a statement fails, each decision of the batch is tried alone, so that it holds up nobody else.
//!
//! A commit whose answer was lost may have happened. The batch is then not simply tried again: first it is looked whether the
//! events that it told are there. They are written with the change and drawn for it alone, so they tell.

use super::connect::{Line, Lines};
use super::slate::{Decided, Job, Slate, Want};
use super::sql::{self, NotWritten};
use super::trouble::{Trouble, fault_of};
use crate::rows::{Damaged, unavailable};
use crate::stats::Counters;
use countersign_core::ports::Outcome;
use countersign_core::words::id::{EventId, TenantId};
use countersign_core::words::refusal::Fault;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// Decisions of one transaction.
const BATCH: usize = 256;
/// How often a batch begins anew because others were faster, before its decisions go alone.
const TOGETHER: u32 = 4;
/// How often one decision does, before it is given up.
const ALONE: u32 = 32;

/// The shortest pause before it is looked again what became of a commit.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// The place of a job in its batch, and the events that say whether it has happened.
type Doubt = (usize, TenantId, Vec<EventId>);

/// A decision and whoever waits for it.
pub(super) struct Waiting {
    pub(super) job: Job,
    pub(super) answer: oneshot::Sender<Result<Outcome, Fault>>,
}

/// What the lanes share.
pub(super) struct Desk {
    pub(super) lines: Arc<Lines>,
    pub(super) counters: Counters,
    /// How long the database may take for one step of a batch, and a batch altogether when its fate is unknown.
    pub(super) within: Duration,
    /// The next birth of a row: unlike any other, on any node.
    pub(super) borns: AtomicI64,
}

/// Serves a lane until it is closed and empty.
pub(super) async fn run(desk: Arc<Desk>, mut lane: mpsc::Receiver<Waiting>) {
    let mut waiting = Vec::with_capacity(BATCH);
    while lane.recv_many(&mut waiting, BATCH).await > 0 {
        let batch = std::mem::replace(&mut waiting, Vec::with_capacity(BATCH));
        let desk = desk.clone();
        // On its own: should it panic, those who wait are told by their answers going away, and the lane goes on.
        if tokio::spawn(async move { desk.serve(batch).await }).await.is_err() {
            tracing::error!("A batch of decisions panicked");
        }
    }
}

impl Desk {
    async fn serve(&self, batch: Vec<Waiting>) {
        let began = Instant::now();
        let size = batch.len();
        let (mut jobs, answers): (Vec<Job>, Vec<_>) = batch.into_iter().map(|it| (it.job, it.answer)).unzip();
        let mut told = self.decide(&mut jobs, TOGETHER, began).await;
        if told.is_none() {
            let mut alone = Vec::with_capacity(size);
            for job in &mut jobs {
                let one = self.decide(std::slice::from_mut(job), ALONE, Instant::now()).await;
                alone.extend(one.unwrap_or_else(|| vec![Err(Fault::Contended)]));
            }
            told = Some(alone);
        }
        for (answer, told) in answers.into_iter().zip(told.into_iter().flatten()) {
            // Whoever has stopped waiting has nothing to hear: what was decided has happened all the same.
            drop(answer.send(told));
        }
    }

    /// Decides all of `jobs` in one transaction; nothing when they had better be tried one by one.
    async fn decide(&self, jobs: &mut [Job], tries: u32, began: Instant) -> Option<Vec<Result<Outcome, Fault>>> {
        let mut overtaken = 0;
        let mut is_in_doubt = false;
        // After the first try, nothing is taken to be free without looking.
        let mut careful = false;
        loop {
            let stop = match self.attempt(jobs, careful).await {
                Ok(told) => {
                    self.counters.batch(jobs.len());
                    return Some(told);
                }
                Err(stop) => stop,
            };
            careful = true;
            let fault = match stop {
                Stop::Overtaken => {
                    self.counters.overtaken();
                    overtaken += 1;
                    if overtaken < tries {
                        continue;
                    }
                    return (jobs.len() == 1).then(|| vec![Err(Fault::Contended)]);
                }
                Stop::Failed(fault) => return (jobs.len() == 1).then(|| vec![Err(fault)]),
                Stop::Away(fault) => fault,
                Stop::Unknown(fault) => {
                    self.counters.unheard();
                    // All of them are marked, whether or not one of them can never be told.
                    let untold = jobs.iter_mut().filter_map(|job| (!job.doubts()).then_some(())).count();
                    is_in_doubt = untold == 0;
                    fault
                }
            };
            // What can be found out is worth waiting for, as long as the callers do.
            let next = self.lines.shut_until().unwrap_or_else(Instant::now).max(Instant::now() + LOOK_AGAIN);
            if is_in_doubt && next.saturating_duration_since(began) < self.within {
                tokio::time::sleep_until(next.into()).await;
                continue;
            }
            if jobs.iter().any(|job| job.doubt.is_some()) {
                tracing::error!(jobs = jobs.len(), "Whether {} changes happened is not known: {fault}", jobs.len());
            } else {
                tracing::error!(jobs = jobs.len(), "{} changes did not happen: {fault}", jobs.len());
            }
            return Some(jobs.iter().map(|_| Err(fault.clone())).collect());
        }
    }

    async fn attempt(&self, jobs: &mut [Job], careful: bool) -> Result<Vec<Result<Outcome, Fault>>, Stop> {
        let line = self.lines.get().await.map_err(Stop::Away)?;
        let ended = self.attempt_on(&line, jobs, careful).await;
        match &ended {
            Ok(_) | Err(Stop::Overtaken) => {}
            // What else this line will say can no longer be trusted.
            Err(Stop::Failed(_) | Stop::Away(_) | Stop::Unknown(_)) => line.give_up(),
        }
        ended
    }

    async fn attempt_on(&self, line: &Line, jobs: &mut [Job], careful: bool) -> Result<Vec<Result<Outcome, Fault>>, Stop> {
        let mut slate = Slate::new(careful);
        self.read(line, &mut slate, jobs.iter().flat_map(Job::wants).collect()).await?;
        // After the rows were read: if the change happened in between, its rows are no longer as they were read.
        let doubts = jobs.iter().enumerate().filter_map(|(at, job)| job.doubt.clone().map(|events| (at, job.tenant, events)));
        let doubts = doubts.filter(|(.., events)| !events.is_empty()).collect();
        let settled = self.settled(line, doubts).await?;
        let mut told = Vec::with_capacity(jobs.len());
        while told.len() < jobs.len() {
            let (next, later) = jobs[told.len()..].split_first_mut().expect("one is left");
            if settled.contains(&told.len()) {
                told.push(Ok(Outcome::Done));
                continue;
            }
            match slate.decide(next) {
                Decided::Answer(answer) => told.push(answer),
                Decided::Missing(mut wants) => {
                    // What the others will ask for travels along.
                    wants.extend(later.iter_mut().flat_map(|job| slate.foresee(job)));
                    self.read(line, &mut slate, wants).await?;
                }
            }
        }
        let difference = slate.difference(|| self.borns.fetch_add(1, Ordering::Relaxed)).map_err(|Damaged(what)| {
            // Which of them it was shows when each is tried alone.
            Stop::Failed(Fault::Corrupt(what))
        })?;
        if difference.is_empty() && settled.is_empty() {
            return Ok(told);
        }
        let begun = Instant::now();
        line.forget_warnings();
        // What has happened may not have reached the standby yet. Where nothing else is written, a commit of its own sees to
        // that: commits reach it in their order.
        let written = timeout(self.within, sql::write(line, &difference, self.within.as_millis())).await;
        self.counters.commit(begun.elapsed());
        match written {
            Ok(Ok(())) if line.was_warned() => Err(Stop::Unknown(unavailable(
                "the database committed without waiting for its standby, because it was told to stop waiting",
            ))),
            Ok(Ok(())) => Ok(told),
            Ok(Err(NotWritten::Unsent(error))) => Err(Stop::Away(unavailable(fault_of(&error)))),
            Ok(Err(NotWritten::Unknown(error))) => Err(Stop::Unknown(unavailable(fault_of(&error)))),
            Ok(Err(NotWritten::Refused(error))) => Err(match Trouble::of(&error) {
                Trouble::Overtaken => Stop::Overtaken,
                Trouble::Away(what) => Stop::Away(unavailable(what)),
                Trouble::Damaged(what) => Stop::Failed(Fault::Corrupt(what)),
            }),
            Err(_) => Err(Stop::Unknown(unavailable("the database did not answer in time"))),
        }
    }

    async fn read(&self, line: &Line, slate: &mut Slate, wants: Vec<Want>) -> Result<(), Stop> {
        let wants: Vec<Want> = wants.into_iter().filter(|want| !slate.has(want)).collect::<HashSet<_>>().into_iter().collect();
        if wants.is_empty() {
            return Ok(());
        }
        for (row, of) in self.ask(sql::read(line, &wants)).await? {
            slate.found(row, of);
        }
        wants.into_iter().for_each(|want| slate.looked(want));
        Ok(())
    }

    /// Which of the jobs have happened already, on a try whose answer was lost.
    async fn settled(&self, line: &Line, doubts: Vec<Doubt>) -> Result<HashSet<usize>, Stop> {
        if doubts.is_empty() {
            return Ok(HashSet::new());
        }
        let told: Vec<_> = doubts.iter().flat_map(|(_, tenant, events)| events.iter().map(|id| (*tenant, *id.as_bytes()))).collect();
        let there: HashSet<_> = self.ask(sql::events_there(line, &told)).await?.into_iter().collect();
        let has_happened = |(_, tenant, events): &Doubt| events.iter().all(|id| there.contains(&(*tenant, *id.as_bytes())));
        Ok(doubts.iter().filter(|doubt| has_happened(doubt)).map(|(at, ..)| *at).collect())
    }

    async fn ask<T>(&self, asked: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, Stop> {
        match timeout(self.within, asked).await {
            Ok(Ok(read)) => Ok(read),
            Ok(Err(error)) => Err(match Trouble::of(&error) {
                Trouble::Overtaken | Trouble::Away(_) => Stop::Away(unavailable(fault_of(&error))),
                Trouble::Damaged(what) => Stop::Failed(Fault::Corrupt(what)),
            }),
            Err(_) => Err(Stop::Away(unavailable("the database did not answer in time"))),
        }
    }
}

/// Why a batch did not happen.
enum Stop {
    /// Something is no longer as it was read.
    Overtaken,
    /// The database refused one of the statements, and would refuse it again.
    Failed(Fault),
    /// The database is away. Nothing has happened.
    Away(Fault),
    /// The commit was sent and its answer was not heard.
    Unknown(Fault),
}
