//! The pulse of one connection: what it is doing, since when, and until when it may.
//!
//! Owns the difference between a caller who sends a head slowly, one who rests between two requests, and one whose answer
//! is being made: three patiences, one timer.

use crate::config::Limits;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// How long a connection with a request under way may stand still. More than any answer waits for a provider.
const STANDSTILL: Duration = Duration::from_secs(180);

/// How HTTP/2 begins (RFC 9113 §3.4). Its heads are framed and bounded by the library, so only resting is timed. Until all of
/// it is there, it is a head like any other, with a head's patience: otherwise a lone `P` would buy the longer one.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// In place of a count: what came is no preface.
const NO_PREFACE: usize = usize::MAX;

/// What a connection is doing. Times are milliseconds since it began.
pub(super) struct Pulse {
    began: Instant,
    header_timeout: Duration,
    idle_timeout: Duration,
    /// Requests that have no whole answer yet.
    busy: AtomicU32,
    /// When the last answer was over.
    resting_since: AtomicU64,
    /// Whether part of a head has come; true from the beginning, for a caller connects to say something.
    in_head: AtomicBool,
    /// When that was.
    head_since: AtomicU64,
    /// When bytes last moved.
    moved_at: AtomicU64,
    /// How many bytes of the preface have come.
    preface: AtomicUsize,
}

impl Pulse {
    pub(super) fn begin(limits: &Limits) -> Self {
        Self {
            began: Instant::now(),
            header_timeout: limits.header_timeout,
            idle_timeout: limits.idle_timeout,
            busy: AtomicU32::new(0),
            resting_since: AtomicU64::new(0),
            in_head: AtomicBool::new(true),
            head_since: AtomicU64::new(0),
            moved_at: AtomicU64::new(0),
            preface: AtomicUsize::new(0),
        }
    }

    /// Until when it may go on as it does.
    pub(super) fn deadline(&self) -> Instant {
        let (since, patience) = if self.busy.load(Ordering::Relaxed) > 0 {
            (&self.moved_at, STANDSTILL)
        } else if self.is_resting() {
            (&self.resting_since, self.idle_timeout)
        } else {
            (&self.head_since, self.header_timeout)
        };
        self.began + Duration::from_millis(since.load(Ordering::Relaxed)) + patience
    }

    /// Whether it waits for nothing but the caller's next request.
    pub(super) fn is_resting(&self) -> bool {
        self.busy.load(Ordering::Relaxed) == 0 && (self.speaks_h2() || !self.in_head.load(Ordering::Relaxed))
    }

    /// Whether no request has come yet.
    pub(super) fn is_fresh(&self) -> bool {
        self.busy.load(Ordering::Relaxed) == 0 && self.resting_since.load(Ordering::Relaxed) == 0
    }

    /// A request has come. It is under way until the proof is dropped.
    pub(super) fn busy(self: &Arc<Self>) -> Busy {
        self.busy.fetch_add(1, Ordering::Relaxed);
        self.in_head.store(false, Ordering::Relaxed);
        Busy(self.clone())
    }

    fn speaks_h2(&self) -> bool {
        self.preface.load(Ordering::Relaxed) == PREFACE.len()
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn came(&self, bytes: &[u8]) {
        let now = self.now();
        self.moved_at.store(now, Ordering::Relaxed);
        if let Some(wanted) = PREFACE.get(self.preface.load(Ordering::Relaxed)..).filter(|it| !it.is_empty()) {
            let length = bytes.len().min(wanted.len());
            let fits = wanted[..length] == bytes[..length];
            self.preface.store(if fits { PREFACE.len() - wanted.len() + length } else { NO_PREFACE }, Ordering::Relaxed);
        }
        if self.busy.load(Ordering::Relaxed) == 0 && !self.in_head.swap(true, Ordering::Relaxed) {
            self.head_since.store(now, Ordering::Relaxed);
        }
    }

    fn went(&self) {
        self.moved_at.store(self.now(), Ordering::Relaxed);
    }
}

/// A request under way.
pub(super) struct Busy(Arc<Pulse>);

impl Drop for Busy {
    fn drop(&mut self) {
        let pulse = &self.0;
        if pulse.busy.fetch_sub(1, Ordering::Relaxed) == 1 {
            pulse.in_head.store(false, Ordering::Relaxed);
            pulse.resting_since.store(pulse.now(), Ordering::Relaxed);
        }
    }
}

/// A stream that tells the pulse of every byte.
pub(super) struct Watched<S> {
    stream: S,
    pulse: Arc<Pulse>,
}

impl<S> Watched<S> {
    pub(super) fn new(stream: S, pulse: Arc<Pulse>) -> Self {
        Self { stream, pulse }
    }

    fn told(&self, wrote: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(1..)) = wrote {
            self.pulse.went();
        }
        wrote
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.pulse.came(&buf.filled()[before..]);
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.told(wrote)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.told(wrote)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
