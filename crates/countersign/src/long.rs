//! Long work of a command: a terminal sees how far it has come, a pipe does not, and a signal stops it in order.

use crate::commands::one_thread;
use crate::no::No;
use countersign_store::Going;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinError;

/// What long work is lent.
#[derive(Debug, Clone)]
pub struct Long {
    stop: Arc<AtomicBool>,
    /// Whether a person watches.
    is_watched: bool,
}

/// Runs `work` to its end, or until the first SIGINT or SIGTERM: then it is told so at its next [`Going`], and clears away what it has
/// begun.
///
/// # Errors
/// Those of `work`.
pub fn run<T: Send + 'static>(work: impl FnOnce(&Long) -> Result<T, No> + Send + 'static) -> Result<T, No> {
    let long = Long { stop: Arc::default(), is_watched: io::stderr().is_terminal() };
    let stop = long.stop.clone();
    one_thread()?.block_on(async {
        let listen = |kind| signal(kind).map_err(|why| No::unavailable(format!("signals cannot be listened to: {why}")));
        let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
        let mut working = tokio::task::spawn_blocking(move || work(&long));
        tokio::select! {
            done = &mut working => return ended(done),
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.store(true, Ordering::Relaxed);
        ended(working.await)
    })
}

fn ended<T>(done: Result<Result<T, No>, JoinError>) -> Result<T, No> {
    done.unwrap_or_else(|why| Err(No::refused(format!("this is a bug: {why}"))))
}

/// Why long work ended before it was done.
pub fn stopped() -> No {
    No::unavailable("stopped by a signal; nothing is left behind")
}

impl Long {
    /// Who is told how far a part of the work has come. Its line on the terminal goes when this does.
    pub fn going(&self, what: &'static str) -> Going {
        let line = self.is_watched.then(|| Line { what, shown: AtomicU64::new(u64::MAX) });
        let stop = self.stop.clone();
        Arc::new(move |done, of| {
            if let Some(line) = &line {
                line.show(done, of);
            }
            !stop.load(Ordering::Relaxed)
        })
    }
}

/// One line of a terminal, drawn again whenever its number changes.
struct Line {
    what: &'static str,
    shown: AtomicU64,
}

impl Line {
    fn show(&self, done: u64, of: u64) {
        let percent = (done.min(of) * 100).checked_div(of);
        let shown = percent.unwrap_or(101);
        if self.shown.swap(shown, Ordering::Relaxed) == shown {
            return;
        }
        let text = percent.map_or_else(|| format!("{} …", self.what), |it| format!("{} … {it:3} %", self.what));
        // A terminal that has gone away is no reason to end.
        let _ = write!(io::stderr(), "\r\x1b[K{text}");
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let _ = write!(io::stderr(), "\r\x1b[K");
    }
}
