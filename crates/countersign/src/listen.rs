//! The accept loop: connections in, requests to the router, and nobody may hold a place for ever.
//!
//! Owns what a caller may take before a request is one: a connection, a handshake, a head, a body's time; and the Host
//! header, without which nothing behind it may trust a URL. What a request means is the router's affair. A loop of our own,
//! because a bare one has no cap, keeps half a head for ever, and cannot speak TLS.

mod pulse;

use crate::config::Limits;
use crate::tls::Tls;
use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::ConnectInfo;
use axum::http::header::HOST;
use axum::http::uri::Authority;
use axum::http::{Request, Response, Version};
use countersign_web::Misaddressed;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use pulse::{Busy, Pulse, Watched};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Sleep, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service;

/// Streams of one HTTP/2 connection at a time.
const STREAMS: u32 = 32;

/// What an HTTP/2 caller may send before anybody has read it, on one stream and on all of a connection. The library keeps it in
/// memory; no body that is read may be larger than a few of these.
const STREAM_WINDOW: u32 = 65_535;
const CONNECTION_WINDOW: u32 = 4 * STREAM_WINDOW;

/// How often a quiet HTTP/2 peer is asked whether it is still there, and how long it may take to say so.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_WITHIN: Duration = Duration::from_secs(20);

/// Callers that are turned away with words at a time; beyond, they are turned away without.
const BOUNCED: usize = 64;

/// How long a connection may take to close once it was asked to.
const GOODBYE: Duration = Duration::from_secs(1);

/// How long a connection that has asked nothing yet may still do so when the server stops: its request may be on the way.
const FIRST_WORDS: Duration = Duration::from_millis(100);

/// Connections that are still let in when the server stops: those that the system had taken for us and nobody had greeted.
const LAST_IN: usize = 1024;

/// What every connection needs.
struct Doorway {
    router: Router,
    limits: Limits,
    tls: Option<Tls>,
    /// Finish what runs, begin nothing.
    stop: CancellationToken,
    /// Out, whatever runs.
    cut: CancellationToken,
}

/// Serves `router` at `tcp` until `stop`; then finishes what runs, for as long as `stop_within`.
///
/// Every request carries `ConnectInfo<SocketAddr>`, and exactly one Host (HTTP/1.0: at most one) that agrees with its target, or
/// [`Misaddressed`]: the router refuses those.
pub async fn serve(tcp: TcpListener, tls: Option<Tls>, router: Router, limits: Limits, stop: CancellationToken, stop_within: Duration) {
    let places = Arc::new(Semaphore::new(limits.connections));
    let doorway = Arc::new(Doorway { router, limits, tls, stop: stop.clone(), cut: CancellationToken::new() });
    let admission = Admission { doorway, places, bounced: Arc::new(Semaphore::new(BOUNCED)), connections: TaskTracker::new() };
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = tcp.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(why) => {
                accept_failed(&why).await;
                continue;
            }
        };
        admission.admit(stream, peer);
    }
    admission.let_in_the_last(tcp);
    let Admission { doorway, connections, .. } = admission;
    connections.close();
    if timeout(stop_within, connections.wait()).await.is_err() {
        tracing::warn!("{} connections were cut off: they did not finish within {stop_within:?}", connections.len());
        doorway.cut.cancel();
        connections.wait().await;
    }
}

/// Who is let in, and who is turned away.
struct Admission {
    doorway: Arc<Doorway>,
    places: Arc<Semaphore>,
    bounced: Arc<Semaphore>,
    connections: TaskTracker,
}

impl Admission {
    fn admit(&self, stream: TcpStream, peer: SocketAddr) {
        // An answer is one small write; Nagle's algorithm would hold it back for the peer's acknowledgement.
        let _ = stream.set_nodelay(true);
        if let Ok(place) = self.places.clone().try_acquire_owned() {
            let doorway = self.doorway.clone();
            self.connections.spawn(async move {
                let open = metrics::gauge!("countersign_connections");
                open.increment(1.0);
                doorway.welcome(stream, peer).await;
                open.decrement(1.0);
                drop(place);
            });
        } else {
            metrics::counter!("countersign_connections_refused_total").increment(1);
            if self.doorway.tls.is_none()
                && let Ok(place) = self.bounced.clone().try_acquire_owned()
            {
                self.connections.spawn(async move {
                    let _ = timeout(GOODBYE, turn_away(stream)).await;
                    drop(place);
                });
            }
        }
    }

    /// Lets in who the system had taken for us and nobody had greeted, and listens no more. To their callers these connections
    /// stand already: closing the door on them would reset them, with the request on its way.
    fn let_in_the_last(&self, tcp: TcpListener) {
        // The runtime may not have heard of them yet, so the system is asked directly.
        let Ok(tcp) = tcp.into_std() else { return };
        for _ in 0..LAST_IN {
            let Ok((stream, peer)) = tcp.accept() else { return };
            if stream.set_nonblocking(true).is_ok()
                && let Ok(stream) = TcpStream::from_std(stream)
            {
                self.admit(stream, peer);
            }
        }
    }
}

async fn accept_failed(why: &io::Error) {
    // The caller hung up first: no trouble of ours.
    if matches!(why.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused) {
        return;
    }
    // Out of file descriptors, most likely. Accepting again at once would only burn the processor.
    tracing::error!("Connections cannot be accepted: {why}. Raise the limit of open files (ulimit -n) or lower limits.connections");
    sleep(Duration::from_millis(200)).await;
}

async fn turn_away(mut stream: TcpStream) -> io::Result<()> {
    stream.write_all(b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await?;
    stream.shutdown().await?;
    // What the caller has sent must be read, or the closing resets the connection and the answer with it.
    let mut rest = [0; 4096];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}

impl Doorway {
    async fn welcome(self: Arc<Self>, stream: TcpStream, peer: SocketAddr) {
        let Some(tls) = &self.tls else { return self.carry(stream, peer).await };
        let shaken = tokio::select! {
            () = self.stop.cancelled() => return,
            shaken = timeout(self.limits.header_timeout, tls.accept(stream)) => shaken,
        };
        match shaken {
            Ok(Ok(stream)) => self.carry(stream, peer).await,
            Ok(Err(why)) => tracing::debug!("A TLS handshake failed: {why}"),
            Err(_) => tracing::debug!("A TLS handshake took too long"),
        }
    }

    async fn carry<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(self: Arc<Self>, stream: S, peer: SocketAddr) {
        let pulse = Arc::new(Pulse::begin(&self.limits));
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().max_buf_size(self.limits.header_bytes);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_header_list_size(u32::try_from(self.limits.header_bytes).unwrap_or(u32::MAX))
            .max_concurrent_streams(STREAMS)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_WITHIN);
        let service = service_fn(|request| self.clone().answer(request, peer, pulse.busy()));
        let io = TokioIo::new(Watched::new(stream, pulse.clone()));
        let mut connection = pin!(builder.serve_connection(io, service));
        let mut watch = pin!(sleep_until(pulse.deadline()));
        let mut stop = pin!(async {
            self.stop.cancelled().await;
            if pulse.is_fresh() {
                sleep(FIRST_WORDS).await;
            }
        });
        let mut leaving = false;
        loop {
            tokio::select! {
                biased;
                ended = connection.as_mut() => {
                    if let Err(why) = ended {
                        tracing::debug!("A connection ended early: {why}");
                    }
                    return;
                }
                () = stop.as_mut(), if !leaving => {
                    leaving = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = self.cut.cancelled() => return,
                () = watch.as_mut() => {
                    let now = tokio::time::Instant::now();
                    match pulse.deadline() {
                        later if later > now => watch.as_mut().reset(later),
                        _ if pulse.is_resting() && !leaving => {
                            leaving = true;
                            connection.as_mut().graceful_shutdown();
                            watch.as_mut().reset(now + GOODBYE);
                        }
                        _ => return,
                    }
                }
            }
        }
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>, peer: SocketAddr, busy: Busy) -> Result<Response<Answer>, Infallible> {
        let misaddressed = check_host(&request).err().map(Misaddressed);
        let (mut head, body) = request.into_parts();
        head.extensions.insert(ConnectInfo(peer));
        // Only the router knows in which words to refuse it.
        if let Some(misaddressed) = misaddressed {
            head.extensions.insert(misaddressed);
        }
        let body = Body::new(Asked { body, within: self.limits.body_timeout, patience: None });
        let Ok(response) = self.router.clone().call(Request::from_parts(head, body)).await;
        Ok(Answer::wrap(response, busy))
    }
}

/// One Host that is one, and agrees with the target (RFC 9112 §3.2, RFC 9113 §8.3.1). Two different readers of one request
/// that see two hosts is how caches and proxies are fooled.
fn check_host<B>(request: &Request<B>) -> Result<(), &'static str> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let (host, second) = (hosts.next(), hosts.next());
    if second.is_some() {
        return Err("there is more than one Host header");
    }
    let host = match host {
        None => None,
        Some(host) => {
            let host = host.to_str().ok().and_then(|it| it.parse::<Authority>().ok());
            Some(host.filter(|it| !it.as_str().contains('@')).ok_or("the Host header is no host")?)
        }
    };
    match (host, request.uri().authority()) {
        (None, None) if request.version() == Version::HTTP_10 => Ok(()),
        (None, None) => Err("there is no Host header"),
        (None, Some(_)) if request.version() == Version::HTTP_11 => Err("there is no Host header"),
        (Some(host), Some(target)) if host != *target => Err("the Host header is not the host of the request"),
        _ => Ok(()),
    }
}

/// The body of a request, with an end to our patience. It starts when we first have to wait.
struct Asked {
    body: Incoming,
    within: Duration,
    patience: Option<Pin<Box<Sleep>>>,
}

impl HttpBody for Asked {
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) {
            return Poll::Ready(frame.map(|it| it.map_err(Into::into)));
        }
        let within = this.within;
        ready!(this.patience.get_or_insert_with(|| Box::pin(sleep(within))).as_mut().poll(cx));
        Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::TimedOut, "the body took too long").into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of an answer. Until it is gone, its request keeps the connection busy.
struct Answer {
    body: Body,
    _busy: Busy,
}

impl Answer {
    fn wrap(response: Response<Body>, busy: Busy) -> Response<Self> {
        response.map(|body| Self { body, _busy: busy })
    }
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests;
