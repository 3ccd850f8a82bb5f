//! Lines to the database: opening them, looking whether what is at the other end may be trusted, and having some at hand.
//!
//! When the database is away, not every caller tries it: one does, and until the next try is due all others are told what that one
//! found. The pauses grow to [`LONGEST_PAUSE`].

use super::trouble::fault_of;
use super::{OpenError, Options};
use crate::rows::unavailable;
use countersign_core::words::refusal::Fault;
use deadpool::managed::{self, Metrics, Object, Pool, PoolError, RecycleError, RecycleResult, TimeoutType};
use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::future::poll_fn;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};
use tokio_postgres::error::SqlState;
use tokio_postgres::{AsyncMessage, Client, Config};
use tokio_postgres_rustls::MakeRustlsConnect;

/// The pause after the first connection that failed; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause: how late at the most it is seen that the database is back.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How long one attempt to connect may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
/// How long what was sent may stay without an acknowledgement before the line counts as broken.
const UNHEARD: Duration = Duration::from_secs(10);

/// Reads the address of the database.
pub(super) fn config(options: &Options) -> Result<Config, OpenError> {
    // Whoever asks for more than TLS gets it: with TLS the certificate and its name are always checked.
    let url = options.url.reveal().replace("sslmode=verify-full", "sslmode=require").replace("sslmode=verify-ca", "sslmode=require");
    // What is wrong is not repeated: it may be a part of a password.
    let mut config: Config = url.parse().map_err(|_| OpenError::Address("it cannot be read as libpq would read it".into()))?;
    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        return Err(OpenError::Address("it names no host".into()));
    }
    if config.get_dbname().is_none() {
        return Err(OpenError::Address("it names no database".into()));
    }
    if config.get_hosts().len().max(config.get_hostaddrs().len()) > 1 && config.get_target_session_attrs() == TargetSessionAttrs::Any {
        // Whoever names several means the one that can be written.
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
    }
    if config.get_application_name().is_none() {
        config.application_name("countersign");
    }
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(CONNECT_WITHIN);
    }
    config.tcp_user_timeout(UNHEARD).keepalives_idle(UNHEARD).keepalives_interval(UNHEARD / 3).keepalives_retries(3);
    Ok(config)
}

/// Where a database is, for people: hosts, ports and its name, and never a password.
pub(super) fn place(config: &Config) -> String {
    let hosts = config.get_hosts().iter().map(|host| match host {
        Host::Tcp(name) => name.clone(),
        Host::Unix(path) => path.display().to_string(),
    });
    // A name may have its address beside it; one port may stand for all.
    let hosts: Vec<_> =
        if config.get_hosts().is_empty() { config.get_hostaddrs().iter().map(ToString::to_string).collect() } else { hosts.collect() };
    let ports = config.get_ports();
    let port = |at: usize| ports.get(at).or(ports.first()).copied().unwrap_or(5432);
    let hosts: Vec<_> = hosts.iter().enumerate().map(|(at, host)| format!("{host}:{}", port(at))).collect();
    format!("{}/{}", hosts.join(","), config.get_dbname().unwrap_or_default())
}

/// Whether codes' digests and people's names would travel to another machine in clear.
pub(super) fn is_open_beyond_this_machine(config: &Config) -> bool {
    let is_near = |host: &Host| match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => {
            name == "localhost" || name.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        }
    };
    let all_near = config.get_hosts().iter().all(is_near) && config.get_hostaddrs().iter().all(std::net::IpAddr::is_loopback);
    config.get_ssl_mode() != SslMode::Require && !all_near
}

fn tls(options: &Options) -> Result<MakeRustlsConnect, OpenError> {
    let wrong = |why: &str| OpenError::Roots(why.to_owned());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|_| wrong("TLS 1.2 and 1.3 are not there"))?;
    let mut given = Vec::new();
    for pem in &options.roots_pem {
        let some = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>().map_err(|_| wrong("is no PEM"))?;
        given.extend(some);
    }
    let config = if given.is_empty() {
        let system = rustls_platform_verifier::Verifier::new(provider).map_err(|error| OpenError::Roots(error.to_string()))?;
        builder.dangerous().with_custom_certificate_verifier(Arc::new(system)).with_no_client_auth()
    } else {
        // Whoever names the authority of a database does not want any other to vouch for it.
        let mut roots = rustls::RootCertStore::empty();
        for root in given {
            roots.add(root).map_err(|_| wrong("holds a certificate that cannot be a root"))?;
        }
        builder.with_root_certificates(roots).with_no_client_auth()
    };
    Ok(MakeRustlsConnect::new(config))
}

/// An open line, and who listens at it.
pub(super) struct Opened {
    client: Client,
    listening: JoinHandle<()>,
    /// The database warned of something since this was last asked.
    warned: Arc<AtomicBool>,
    broken: AtomicBool,
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

struct Opener {
    config: Config,
    tls: MakeRustlsConnect,
    gate: Mutex<Gate>,
    /// The version of the database, as the line that was opened last was told.
    version: Mutex<String>,
}

/// Whether to try to connect.
#[derive(Default)]
struct Gate {
    failures: u32,
    /// What the last try found, and when the next one is due.
    shut: Option<(Instant, OpenError)>,
}

fn lock<T>(it: &Mutex<T>) -> MutexGuard<'_, T> {
    it.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Opener {
    async fn open(&self) -> Result<Opened, OpenError> {
        let (client, mut connection) = self.config.connect(self.tls.clone()).await.map_err(|error| match refused(&error) {
            // Where one of several takes over from another, there is a while in which none can be written.
            OpenError::ReadOnly if self.config.get_hosts().len().max(self.config.get_hostaddrs().len()) > 1 => {
                OpenError::Away("none of its hosts can be written at the moment".into())
            }
            why => why,
        })?;
        let warned = Arc::new(AtomicBool::new(false));
        let heard = warned.clone();
        let listening = tokio::spawn(async move {
            let next = poll_fn(move |cx| {
                loop {
                    match connection.poll_message(cx) {
                        Poll::Ready(Some(Ok(AsyncMessage::Notice(notice)))) => {
                            // A commit that stops waiting for its standby says so with a warning, and is called done all the same.
                            if notice.code() == &SqlState::WARNING {
                                heard.store(true, Ordering::SeqCst);
                            }
                        }
                        Poll::Ready(Some(Ok(_))) => {}
                        // Whoever waits for an answer on this line hears that it is closed.
                        Poll::Ready(None | Some(Err(_))) => return Poll::Ready(()),
                        Poll::Pending => return Poll::Pending,
                    }
                }
            });
            next.await;
        });
        let opened = Opened { client, listening, warned, broken: AtomicBool::new(false) };
        *lock(&self.version) = look(&opened.client).await?;
        Ok(opened)
    }
}

/// Looks whether the database may be trusted with what must not be lost, and gives its version.
async fn look(client: &Client) -> Result<String, OpenError> {
    let text = "SELECT pg_is_in_recovery(), current_setting('transaction_read_only'), current_setting('server_version'), \
                current_setting('fsync'), current_setting('full_page_writes'), current_setting('synchronous_commit'), \
                current_setting('synchronous_standby_names')";
    let row = client.query_typed_one(text, &[]).await.map_err(|error| refused(&error))?;
    let setting = |index: usize| row.try_get::<_, String>(index).map_err(|error| refused(&error));
    if row.try_get(0).map_err(|error| refused(&error))? || setting(1)? == "on" {
        return Err(OpenError::ReadOnly);
    }
    for (index, name) in [(3, "fsync"), (4, "full_page_writes"), (5, "synchronous_commit")] {
        if setting(index)? == "off" {
            return Err(OpenError::Forgetful(name, "off"));
        }
    }
    // With a standby that commits are to wait for, waiting for this machine alone is forgetful as well.
    if setting(5)? == "local" && !setting(6)?.is_empty() {
        return Err(OpenError::Forgetful("synchronous_commit", "local"));
    }
    let version = setting(2)?;
    Ok(version.split_whitespace().next().unwrap_or_default().to_owned())
}

/// What a connection that failed means for whoever opens the house.
pub(super) fn refused(error: &tokio_postgres::Error) -> OpenError {
    let what = fault_of(error);
    // What is wrong with the address or a certificate stays wrong.
    let lasting = ["invalid configuration", "error performing TLS handshake", "server does not support TLS"];
    if error.as_db_error().is_none() && lasting.iter().any(|it| what.contains(it)) {
        return OpenError::Denied(what);
    }
    match error.code() {
        // What `target_session_attrs=read-write` says of a standby. It is no error of the database's own.
        _ if what.contains("does not allow writes") => OpenError::ReadOnly,
        // A password that is wrong, a database or a schema that is not there, a right that is missing, a statement that this database
        // does not know: waiting helps nobody.
        Some(code) if ["3D", "3F", "42", "0A", "28"].contains(&&code.code()[..2]) => OpenError::Denied(what),
        _ => OpenError::Away(what),
    }
}

impl managed::Manager for Opener {
    type Type = Opened;
    type Error = OpenError;

    async fn create(&self) -> Result<Opened, OpenError> {
        if let Some((until, why)) = &lock(&self.gate).shut
            && Instant::now() < *until
        {
            return Err(why.clone());
        }
        let opened = self.open().await;
        let mut gate = lock(&self.gate);
        match &opened {
            Ok(_) => *gate = Gate::default(),
            Err(why) => {
                let pause = (FIRST_PAUSE * 2u32.saturating_pow(gate.failures.min(10))).min(LONGEST_PAUSE);
                gate.failures += 1;
                gate.shut = Some((Instant::now() + pause, why.clone()));
            }
        }
        opened
    }

    async fn recycle(&self, opened: &mut Opened, _: &Metrics) -> RecycleResult<OpenError> {
        if opened.client.is_closed() || opened.broken.load(Ordering::Relaxed) {
            return Err(RecycleError::message("closed"));
        }
        Ok(())
    }
}

/// A line that is lent to somebody.
pub(super) struct Line(Object<Opener>);

impl Deref for Line {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.0.client
    }
}

impl Line {
    /// Nobody else gets this line. Where the database is still at work on what was asked, it keeps its place among the lines that may be
    /// open until that has ended: closing it would leave the work behind, and each further try would add to it.
    pub(super) fn give_up(self) {
        self.0.broken.store(true, Ordering::Relaxed);
        if !self.0.client.is_closed() {
            tokio::spawn(async move {
                // Answered, or broken off, after everything that was asked before.
                let _ = self.0.client.batch_execute("ROLLBACK").await;
            });
        }
    }

    pub(super) fn forget_warnings(&self) {
        self.0.warned.store(false, Ordering::SeqCst);
    }

    /// Whether the database warned of something since.
    pub(super) fn was_warned(&self) -> bool {
        self.0.warned.load(Ordering::SeqCst)
    }
}

/// The lines at hand.
pub(super) struct Lines {
    pool: Pool<Opener>,
    /// Whether the schema was seen to be the one that this program knows. Before that nobody may ask anything.
    prepared: AtomicBool,
}

impl Lines {
    pub(super) fn new(config: Config, options: &Options) -> Result<Self, OpenError> {
        let opener = Opener { config, tls: tls(options)?, gate: Mutex::default(), version: Mutex::default() };
        let pool = Pool::builder(opener)
            .max_size(options.connections)
            .wait_timeout(Some(options.within))
            .create_timeout(Some(options.within))
            .runtime(deadpool::Runtime::Tokio1)
            .build()
            .map_err(|error| OpenError::Address(error.to_string()))?;
        Ok(Self { pool, prepared: AtomicBool::new(false) })
    }

    /// A line for the way of a request.
    pub(super) async fn get(&self) -> Result<Line, Fault> {
        if !self.prepared.load(Ordering::Acquire) {
            return Err(unavailable("the database was not reached since the start"));
        }
        self.open().await.map_err(|error| unavailable(error.to_string()))
    }

    /// A line for whoever prepares the database.
    pub(super) async fn open(&self) -> Result<Line, OpenError> {
        self.pool.get().await.map(Line).map_err(|error| match error {
            PoolError::Backend(why) => why,
            PoolError::Timeout(TimeoutType::Wait) => OpenError::Away("all connections are in use".into()),
            PoolError::Timeout(_) => OpenError::Away("it does not answer".into()),
            PoolError::Closed | PoolError::NoRuntimeSpecified | PoolError::PostCreateHook(_) => {
                OpenError::Away("the store is closed".into())
            }
        })
    }

    /// From now on it may be asked.
    pub(super) fn is_prepared(&self) {
        self.prepared.store(true, Ordering::Release);
    }

    /// When the next connection may be tried; nothing, when nothing is in the way.
    pub(super) fn shut_until(&self) -> Option<Instant> {
        lock(&self.pool.manager().gate).shut.as_ref().map(|(until, _)| *until)
    }

    /// The version of the database.
    pub(super) fn version(&self) -> String {
        lock(&self.pool.manager().version).clone()
    }

    pub(super) fn close(&self) {
        self.pool.close();
    }
}
