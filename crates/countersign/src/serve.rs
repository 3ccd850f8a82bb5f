//! Running: from settings to a server that answers, and from a signal to one that has left nothing undone.
//!
//! Owns the order of things. Coming: settings, port, certificate, database, doors, loops. Going: not ready any more, no new
//! connections, running requests, running deliveries, database.

use crate::background;
use crate::config::Config;
use crate::descriptors;
use crate::household::Household;
use crate::listen;
use crate::no::{Kind, No};
use crate::numbers;
use crate::ports::SystemClock;
use crate::tls::Tls;
use countersign_web::{House, Readiness, router};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use url::Url;

/// Runs the server until it is told to stop. `ready` is asked once it listens, and may still refuse.
///
/// # Errors
/// What kept it from running, and what to do.
pub async fn run(config: Config, ready: impl AsyncFnOnce(&Household, &str) -> Result<(), No>) -> Result<(), No> {
    // Before anything else: a signal during the start is a stop as well.
    let stop = CancellationToken::new();
    let readiness = Readiness::default();
    listen_to_signals(stop.clone(), readiness.clone())?;

    let limits = descriptors::provide(config.limits);
    let tcp = TcpListener::bind(config.server.listen).await.map_err(|why| not_bound(config.server.listen, &why))?;
    let bound = tcp.local_addr().map_err(|why| No::unavailable(why.to_string()))?;
    let tls = config.server.tls.clone().map(Tls::read).transpose().map_err(No::usage)?;
    let opened = tokio::select! {
        opened = open(&config) => opened?,
        () = stop.cancelled() => return Ok(()),
    };
    let (household, away) = opened;
    let numbers = numbers::begin(&SystemClock, household.engine.clone()).map_err(No::refused)?;
    let base_url = config.base_url(bound);

    let house = House {
        core: household.core.clone(),
        base_url: Url::parse(&base_url).map_err(|why| No::usage(format!("server.public_url: {base_url}: {why}")))?,
        trusted_proxies: config.server.trusted_proxies.clone(),
        body_limit: config.limits.body_bytes,
        inbox: household.inbox.clone(),
        metrics: Arc::new({
            let numbers = numbers.clone();
            move || numbers.render()
        }),
        readiness,
        outbound: household.outbound.clone(),
    };
    let stop_within = config.server.stop_within;
    let renewed = tls.clone();
    let doors = tokio::spawn(listen::serve(tcp, tls, router(house), limits, stop.clone(), stop_within));
    let loops = TaskTracker::new();
    let agreed = tokio::select! {
        agreed = async {
            wait_for(&household, away).await?;
            ready(&household, &base_url).await
        } => agreed,
        () = stop.cancelled() => Ok(()),
    };
    if agreed.is_ok() && !stop.is_cancelled() {
        let core = &household.core;
        loops.spawn(background::deliver(core.clone(), config.delivery_pause, stop.clone()));
        loops.spawn(background::sweep(core.clone(), config.sweep_every, stop.clone()));
        loops.spawn(background::renew(renewed, stop.clone()));
        loops.spawn(background::count(core.clone(), numbers, stop.clone()));
    }
    loops.close();
    if agreed.is_err() {
        stop.cancel();
    }
    let ended = doors.await;
    let stopping = Instant::now();
    stop.cancel();
    if tokio::time::timeout(stop_within, loops.wait()).await.is_err() {
        tracing::warn!("A loop in the background did not end in time");
    }
    household.close(stop_within.saturating_sub(stopping.elapsed())).await;
    tracing::info!("Stopped");
    ended.map_err(|why| No::refused(format!("the accept loop ended: {why}")))?;
    agreed
}

/// How long to rest between two looks at a database that is away.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Moves everybody in. Whose keys fit is known before anybody may call, wherever the database can be asked by then; otherwise tells why
/// it cannot.
async fn open(config: &Config) -> Result<(Household, Option<No>), No> {
    let (household, away) = Household::open_or_wait(config).await?;
    let away = match away {
        Some(no) => Some(no),
        None => may_come(household.opens_all().await)?,
    };
    Ok((household, away))
}

/// What was away may come; what is wrong stays wrong.
fn may_come(looked: Result<(), No>) -> Result<Option<No>, No> {
    match looked {
        Ok(()) => Ok(None),
        Err(no) if no.kind == Kind::Unavailable => Ok(Some(no)),
        Err(no) => Err(no),
    }
}

/// Looks again and again at a database that is away, and tells once why. Callers hear meanwhile that they should come later.
async fn wait_for(household: &Household, mut away: Option<No>) -> Result<(), No> {
    let Some(why) = &away else { return Ok(()) };
    tracing::error!("{}. It is tried again until it is there; meanwhile every call is answered with 503", why.what);
    while away.is_some() {
        tokio::time::sleep(LOOK_AGAIN).await;
        away = match may_come(household.engine.prepare().await)? {
            None => may_come(household.opens_all().await)?,
            away => away,
        };
    }
    tracing::info!("The database is there");
    Ok(())
}

/// The first signal stops in order, a second one at once.
fn listen_to_signals(stop: CancellationToken, readiness: Readiness) -> Result<(), No> {
    let listen = |kind| signal(kind).map_err(|why| No::unavailable(format!("signals cannot be listened to: {why}")));
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("Stopping: what runs is finished first; a second signal does not wait");
        readiness.drain();
        stop.cancel();
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::warn!("Stopped at once");
        std::process::exit(1);
    });
    Ok(())
}

fn not_bound(at: SocketAddr, why: &io::Error) -> No {
    match why.kind() {
        io::ErrorKind::AddrInUse => No::unavailable(format!("port {} of {} is in use by another program", at.port(), at.ip()))
            .hint("stop that program, or choose another port with server.listen (`dev`: --listen); 0 takes a free one"),
        io::ErrorKind::PermissionDenied => No::refused(format!("port {} may not be listened on by this user", at.port()))
            .hint("choose a port from 1024 up, or grant CAP_NET_BIND_SERVICE"),
        io::ErrorKind::AddrNotAvailable => No::refused(format!("{} is no address of this machine", at.ip())),
        _ => No::unavailable(format!("{at} cannot be listened on: {why}")),
    }
}
