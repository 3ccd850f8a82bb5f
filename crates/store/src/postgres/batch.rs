//! Lanes: each takes the decisions that wait for it, and lets them happen together.
//!
//! A batch is read, judged on the [`Slate`], and written if everything is still as it was read; otherwise it begins anew with
//! fresh reads. Decisions that begin with the same key share a lane, so those of one caller happen in their order. When
//! others keep being faster, or a statement fails, each decision of the batch is tried alone, so that it holds up nobody else.
//!
//! A commit whose answer was lost may have happened. The batch is then not simply tried again: first it is looked whether the
//! events that it told are there. They are written with the change and drawn for it alone, so they tell.

use super::connect::{Line, Lines};
use super::slate::{Decided, Fate, Job, NoDifference, Slate, Want};
use super::sql::{self, NotWritten};
use super::trouble::{Trouble, fault_of};
use crate::rows::{Damaged, unavailable};
use crate::stats::Counters;
use countersign_core::nouns::event::Event;
use countersign_core::ports::Outcome;
use countersign_core::words::id::{EventId, TenantId};
use countersign_core::words::refusal::Fault;
use std::collections::{HashMap, HashSet};
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
                    jobs.iter_mut().for_each(Job::doubts);
                    is_in_doubt = jobs.iter().any(|job| matches!(job.fate, Fate::Doubt(_)));
                    fault
                }
            };
            // What can be found out is worth waiting for, as long as the callers do.
            let next = self.lines.shut_until().unwrap_or_else(Instant::now).max(Instant::now() + LOOK_AGAIN);
            if is_in_doubt && next.saturating_duration_since(began) < self.within {
                tokio::time::sleep_until(next.into()).await;
                continue;
            }
            if jobs.iter().any(|job| !matches!(job.fate, Fate::Open)) {
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
            Ok(_) | Err(Stop::Overtaken | Stop::Failed(_)) => {}
            // What else this line will say can no longer be trusted.
            Err(Stop::Away(_) | Stop::Unknown(_)) => line.give_up(),
        }
        ended
    }

    async fn attempt_on(&self, line: &Line, jobs: &mut [Job], careful: bool) -> Result<Vec<Result<Outcome, Fault>>, Stop> {
        let mut slate = Slate::new(careful);
        self.read(line, &mut slate, jobs.iter().flat_map(Job::wants).collect()).await?;
        // After the rows were read: if the change happened in between, its rows are no longer as they were read.
        let doubts = jobs.iter().enumerate().filter_map(|(at, job)| match &job.fate {
            Fate::Doubt(events) => Some((at, job.tenant, events.clone())),
            Fate::Open | Fate::Lost => None,
        });
        let happened = self.happened(line, doubts.collect()).await?;
        let mut settled: HashMap<usize, _> = happened.iter().map(|(at, events)| (*at, jobs[*at].settled(events))).collect();
        let lost = || Err(unavailable("the database gave no answer, and what became of the change is not known"));
        settled.extend(jobs.iter().enumerate().filter(|(_, job)| matches!(job.fate, Fate::Lost)).map(|(at, _)| (at, lost())));
        let mut told = Vec::with_capacity(jobs.len());
        while told.len() < jobs.len() {
            let at = told.len();
            let (next, later) = jobs[at..].split_first_mut().expect("one is left");
            if let Some(answer) = settled.get(&at) {
                told.push(answer.clone());
                continue;
            }
            match slate.decide(next) {
                Decided::Answer(answer) => told.push(answer),
                Decided::Missing(mut wants) => {
                    // What the others will ask for travels along. A judge whose decision stands is never asked again: what it said is
                    // what its caller is told.
                    let open = later.iter_mut().enumerate().filter(|(after, _)| !settled.contains_key(&(at + 1 + after)));
                    wants.extend(open.flat_map(|(_, job)| slate.foresee(job)));
                    self.read(line, &mut slate, wants).await?;
                }
            }
        }
        let difference = slate.difference(|| self.borns.fetch_add(1, Ordering::Relaxed)).map_err(|why| match why {
            NoDifference::Assumed => Stop::Overtaken,
            // Which of them it was shows when each is tried alone.
            NoDifference::Damaged(Damaged(what)) => Stop::Failed(Fault::Corrupt(what)),
        })?;
        if difference.is_empty() && happened.is_empty() {
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
            Ok(Err(NotWritten::Refused(error))) => Err(Stop::of(&error)),
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

    /// Which of the jobs have happened already, on a try whose answer was lost, and the events that they told.
    async fn happened(&self, line: &Line, doubts: Vec<Doubt>) -> Result<Vec<(usize, Vec<Event>)>, Stop> {
        if doubts.is_empty() {
            return Ok(Vec::new());
        }
        let told: Vec<_> = doubts.iter().flat_map(|(_, tenant, events)| events.iter().map(|id| (*tenant, *id))).collect();
        let mut there: HashMap<(TenantId, EventId), Event> = HashMap::new();
        for (tenant, body) in self.ask(sql::events_there(line, &told)).await? {
            let event: Event =
                serde_json::from_str(&body).map_err(|error| Stop::Failed(Fault::Corrupt(Damaged::unreadable("events", &error).0)))?;
            there.insert((tenant, event.id), event);
        }
        let of = |(at, tenant, events): Doubt| {
            let found: Option<Vec<_>> = events.iter().map(|id| there.get(&(tenant, *id)).cloned()).collect();
            found.map(|events| (at, events))
        };
        Ok(doubts.into_iter().filter_map(of).collect())
    }

    async fn ask<T>(&self, asked: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, Stop> {
        match timeout(self.within, asked).await {
            Ok(Ok(read)) => Ok(read),
            Ok(Err(error)) => Err(match Stop::of(&error) {
                // Who only reads is overtaken by nobody.
                Stop::Overtaken => Stop::Away(unavailable(fault_of(&error))),
                stop => stop,
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

impl Stop {
    /// What a refusal of the database means for a batch.
    fn of(error: &tokio_postgres::Error) -> Self {
        match Trouble::of(error) {
            Trouble::Overtaken => Self::Overtaken,
            Trouble::Away(what) => Self::Away(unavailable(what)),
            Trouble::Damaged(what) => Self::Failed(Fault::Corrupt(what)),
        }
    }
}
