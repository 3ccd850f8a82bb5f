//! The one door out (invariant 9).
//!
//! Owns every connection that leaves the house: HTTP requests, and the TCP and TLS streams of SMTP. Who may be called is
//! decided here, by name and by address, at every new connection; a tenant chooses targets, only the operator opens private
//! ones. What a vendor's answer means is not decided here: redirects are handed back as they are, and never followed.

use countersign_core::ports::Pending;
use ipnet::IpNet;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::HeaderMap;
use reqwest::{Client, Method, Url};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use url::Host;

/// What the operator, and nobody else, decides about the way out.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EgressSettings {
    /// Networks that may be called although they are private: `10.20.0.0/16`, `127.0.0.0/8`.
    pub allow: Vec<IpNet>,
    /// Names that may be called wherever they lead: `smtp.internal.example`. Behind a proxy they need lead nowhere from here.
    pub allow_hosts: Vec<String>,
    /// Whether public hosts may be called without TLS. Whoever sits in between then reads codes.
    pub allow_plain_http: bool,
    /// A proxy for HTTP (`http://proxy.internal:3128`). It is the operator's own, so it may be private. The environment is
    /// not asked.
    pub proxy: Option<Url>,
    /// Certificates (PEM) that are trusted beside the system's, for HTTP and SMTP.
    pub roots_pem: Vec<String>,
    /// How long a connection may take to be made, TLS included.
    pub connect_timeout_ms: u64,
}

impl Default for EgressSettings {
    fn default() -> Self {
        Self {
            allow: Vec::new(),
            allow_hosts: Vec::new(),
            allow_plain_http: false,
            proxy: None,
            roots_pem: Vec::new(),
            connect_timeout_ms: 3_000,
        }
    }
}

/// Why nothing, or nothing useful, came back. It names the host at most, never a path, a query or a body (invariant 7).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EgressError {
    /// It may not be called. Trying again does not help; another setting does.
    #[error("{0}")]
    Barred(String),
    /// The name leads nowhere, or nobody answered which address it has.
    #[error("the name {0} could not be resolved")]
    NameUnknown(String),
    /// No connection could be made.
    #[error("no connection: {0}")]
    Unreachable(String),
    /// TLS could not be agreed on, or the certificate is not to be trusted.
    #[error("no TLS: {0}")]
    Tls(String),
    /// It took too long. What was written may have arrived.
    #[error("no answer within {within:?}")]
    Late {
        /// How long it was waited for.
        within: Duration,
    },
    /// The connection broke, or what came was not HTTP. What was written may have arrived.
    #[error("the connection broke: {0}")]
    Broken(String),
}

/// Where a name leads. The system's resolver, and another one in tests.
pub trait Lookup: Send + Sync {
    /// All addresses of `host`.
    fn lookup(&self, host: String) -> Pending<'static, io::Result<Vec<IpAddr>>>;
}

/// The system's resolver.
#[derive(Debug, Clone, Copy)]
pub struct System;

impl Lookup for System {
    fn lookup(&self, host: String) -> Pending<'static, io::Result<Vec<IpAddr>>> {
        Box::pin(async move { Ok(tokio::net::lookup_host((host, 0)).await?.map(|it| it.ip()).collect()) })
    }
}

/// What may be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Everything public, and what the operator allows.
    Public,
    /// Only what the operator allows by name or network: for talk without TLS.
    AllowedOnly,
}

/// A request on its way out.
#[derive(Clone)]
pub struct Outgoing {
    /// Such as `POST`.
    pub method: Method,
    /// Where to.
    pub url: Url,
    /// All headers but those of the connection.
    pub headers: HeaderMap,
    /// The body, or nothing.
    pub body: Vec<u8>,
}

impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Outgoing({} {}, …)", self.method, self.url.host_str().unwrap_or_default())
    }
}

/// What came back.
#[derive(Clone)]
pub struct Incoming {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, or its beginning.
    pub body: Vec<u8>,
    /// Whether there was more of it than was asked for.
    pub cut: bool,
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Incoming({}, {} bytes)", self.status, self.body.len())
    }
}

/// The only HTTP client in the house, and the only maker of connections. Cloning it is cheap, and gives the same door.
#[derive(Clone)]
pub struct Egress(Arc<Door>);

struct Door {
    guard: Guard,
    /// For `https`, and for `http` where the operator allows it everywhere.
    open: Client,
    /// For `http` elsewhere: its resolver knows allowed targets only.
    narrow: Client,
    proxied: bool,
    plain_everywhere: bool,
    tls: Arc<rustls::ClientConfig>,
    connect_within: Duration,
}

impl fmt::Debug for Egress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Egress(…)")
    }
}

impl Egress {
    /// The door, with the system's resolver.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn new(settings: EgressSettings) -> Result<Self, String> {
        Self::with_lookup(settings, Arc::new(System))
    }

    /// The door, with another resolver.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn with_lookup(settings: EgressSettings, lookup: Arc<dyn Lookup>) -> Result<Self, String> {
        let allow_hosts = settings
            .allow_hosts
            .iter()
            .map(|host| match Host::parse(host) {
                Ok(Host::Domain(name)) => Ok(bare(&name).to_owned()),
                Ok(Host::Ipv4(_) | Host::Ipv6(_)) => {
                    Err(format!("allow_hosts holds the address `{host}`; write it into allow, as a network"))
                }
                Err(_) => Err(format!("allow_hosts holds `{host}`, which is not the name of a host")),
            })
            .collect::<Result<_, _>>()?;
        let guard = Guard(Arc::new(Rules { allow: settings.allow, allow_hosts, lookup: lookup.clone() }));
        let tls = Arc::new(trust(&settings.roots_pem)?);
        let connect_within = Duration::from_millis(settings.connect_timeout_ms);
        let client = |reach| {
            let it = Client::builder()
                .tls_backend_preconfigured(rustls::ClientConfig::clone(&tls))
                .http1_only()
                .redirect(reqwest::redirect::Policy::none())
                .retry(reqwest::retry::never())
                .referer(false)
                .no_proxy()
                .connect_timeout(connect_within)
                .pool_idle_timeout(Duration::from_secs(30))
                // Requests come in bursts, one after each commit: connections that were made for one are kept for the next.
                .pool_max_idle_per_host(256)
                .user_agent(concat!("countersign/", env!("CARGO_PKG_VERSION")));
            match &settings.proxy {
                // The client itself then resolves the proxy alone; targets are judged before each request.
                Some(proxy) => {
                    let proxy = reqwest::Proxy::all(proxy.clone()).map_err(|_| "proxy is not the URL of a proxy".to_owned())?;
                    it.proxy(proxy).dns_resolver(Unguarded(lookup.clone())).build()
                }
                None => it.dns_resolver(Guarded { guard: guard.clone(), reach }).build(),
            }
            .map_err(|error| format!("the HTTP client cannot be made: {error}"))
        };
        Ok(Self(Arc::new(Door {
            open: client(Reach::Public)?,
            narrow: client(Reach::AllowedOnly)?,
            guard,
            proxied: settings.proxy.is_some(),
            plain_everywhere: settings.allow_plain_http,
            tls,
            connect_within,
        })))
    }

    /// Whether `url` may be called, as far as that can be told without asking anybody: its scheme, and its host where that
    /// is an address. Names are judged when they are resolved.
    ///
    /// # Errors
    /// [`EgressError::Barred`].
    pub fn check(&self, url: &Url) -> Result<(), EgressError> {
        let reach = self.reach(url)?;
        match url.host() {
            Some(Host::Ipv4(ip)) => self.0.guard.judge("the address", ip.into(), reach),
            Some(Host::Ipv6(ip)) => self.0.guard.judge("the address", ip.into(), reach),
            Some(Host::Domain(_)) => Ok(()),
            None => Err(EgressError::Barred("a URL without a host cannot be called".into())),
        }
    }

    /// Whether `host` may be called, as far as that can be told without asking anybody: where it is an address.
    ///
    /// # Errors
    /// [`EgressError::Barred`].
    pub fn check_host(&self, host: &str, reach: Reach) -> Result<(), EgressError> {
        literal(host)?.map_or(Ok(()), |ip| self.0.guard.judge("the address", ip, reach))
    }

    fn reach(&self, url: &Url) -> Result<Reach, EgressError> {
        match url.scheme() {
            "https" => Ok(Reach::Public),
            "http" if self.0.plain_everywhere => Ok(Reach::Public),
            "http" => Ok(Reach::AllowedOnly),
            other => Err(EgressError::Barred(format!("`{other}` cannot be called; use https"))),
        }
    }

    /// Sends one request and gives what came back, of its body at most `most` bytes. Redirects are not followed.
    ///
    /// # Errors
    /// [`EgressError`]; after [`EgressError::Late`] and [`EgressError::Broken`] the request may have arrived.
    pub async fn send(&self, out: Outgoing, within: Duration, most: usize) -> Result<Incoming, EgressError> {
        self.check(&out.url)?;
        match timeout(within, self.exchange(out, most)).await {
            Ok(came) => came,
            Err(_) => Err(EgressError::Late { within }),
        }
    }

    async fn exchange(&self, out: Outgoing, most: usize) -> Result<Incoming, EgressError> {
        let reach = self.reach(&out.url)?;
        if self.0.proxied {
            self.judge_for_proxy(&out.url, reach).await?;
        }
        let host = out.url.host_str().unwrap_or_default().to_owned();
        let mut request = reqwest::Request::new(out.method, out.url);
        *request.headers_mut() = out.headers;
        if !out.body.is_empty() {
            *request.body_mut() = Some(out.body.into());
        }
        let client = if reach == Reach::Public { &self.0.open } else { &self.0.narrow };
        let mut response = client.execute(request).await.map_err(|error| told(&error, &host))?;
        let mut came =
            Incoming { status: response.status().as_u16(), headers: std::mem::take(response.headers_mut()), body: Vec::new(), cut: false };
        while let Some(more) = response.chunk().await.map_err(|error| told(&error, &host))? {
            let room = most - came.body.len();
            came.body.extend_from_slice(&more[..room.min(more.len())]);
            if more.len() > room {
                came.cut = true;
                break;
            }
        }
        Ok(came)
    }

    /// A proxy looks names up itself, and may reach what nobody outside does. So a name is judged by where it leads from
    /// here, and one of which that cannot be told is called only if the operator has named it.
    async fn judge_for_proxy(&self, url: &Url, reach: Reach) -> Result<(), EgressError> {
        let host = url.host_str().unwrap_or_default();
        if self.0.guard.names(host) {
            return Ok(());
        }
        match self.resolve(host, url.port_or_known_default().unwrap_or_default(), reach).await {
            Ok(_) => Ok(()),
            // Whoever asks next may get an answer, so this is no bar.
            Err(EgressError::NameUnknown(name)) => Err(EgressError::Unreachable(format!(
                "the name {name} could not be resolved here; the proxy is asked for such a name only if the operator lists it \
                 (egress.allow_hosts)"
            ))),
            Err(error) => Err(error),
        }
    }

    /// The addresses of `host`, each of which may be called. One that may not bars all of them.
    ///
    /// # Errors
    /// [`EgressError::Barred`], [`EgressError::NameUnknown`].
    pub async fn resolve(&self, host: &str, port: u16, reach: Reach) -> Result<Vec<SocketAddr>, EgressError> {
        // Asking for a name belongs to making the connection, and ends with it.
        timeout(self.0.connect_within, self.0.guard.resolve(host, port, reach))
            .await
            .unwrap_or_else(|_| Err(EgressError::NameUnknown(host.to_owned())))
    }

    /// A TCP connection to `host`, by the same rules.
    ///
    /// # Errors
    /// [`EgressError`].
    pub async fn connect(&self, host: &str, port: u16, reach: Reach) -> Result<TcpStream, EgressError> {
        let within = self.0.connect_within;
        let mut last = EgressError::NameUnknown(host.to_owned());
        for address in self.resolve(host, port, reach).await? {
            match timeout(within, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    // Small writes that wait for each other cost 40 ms with a peer that delays its acknowledgements.
                    stream.set_nodelay(true).map_err(|error| EgressError::Unreachable(error.kind().to_string()))?;
                    return Ok(stream);
                }
                Ok(Err(error)) => last = EgressError::Unreachable(error.kind().to_string()),
                Err(_) => last = EgressError::Unreachable(format!("not within {within:?}")),
            }
        }
        Err(last)
    }

    /// TLS over a connection to `host`, whose certificate must be good for that name.
    ///
    /// # Errors
    /// [`EgressError::Tls`].
    pub async fn secure(&self, host: &str, stream: TcpStream) -> Result<TlsStream<TcpStream>, EgressError> {
        let name = match literal(host)? {
            Some(ip) => Some(ServerName::from(ip)),
            None => ServerName::try_from(bare(host).to_owned()).ok(),
        };
        let name = name.ok_or_else(|| EgressError::Tls("the host has no name that a certificate could hold".into()))?;
        match timeout(self.0.connect_within, TlsConnector::from(self.0.tls.clone()).connect(name, stream)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(EgressError::Tls(tls_told(&error).unwrap_or_else(|| error.kind().to_string()))),
            Err(_) => Err(EgressError::Tls(format!("not within {:?}", self.0.connect_within))),
        }
    }

    /// Whether somebody answers at `url`, without asking anything: a connection, and TLS where the scheme says so.
    ///
    /// # Errors
    /// [`EgressError`].
    pub async fn probe(&self, url: &Url) -> Result<String, EgressError> {
        self.check(url)?;
        let (host, port) = (url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or_default());
        if self.0.proxied {
            self.judge_for_proxy(url, self.reach(url)?).await?;
            return Ok(format!("{host}:{port} is called by the proxy, and was not tried"));
        }
        let stream = self.connect(host, port, self.reach(url)?).await?;
        if url.scheme() == "https" {
            self.secure(host, stream).await?;
            return Ok(format!("{host}:{port} answers, and its certificate is good"));
        }
        Ok(format!("{host}:{port} answers"))
    }
}

// --------------------------------------------------------------------------------------------------------- who is private

/// Decides who may be called.
#[derive(Clone)]
struct Guard(Arc<Rules>);

struct Rules {
    allow: Vec<IpNet>,
    allow_hosts: BTreeSet<String>,
    lookup: Arc<dyn Lookup>,
}

impl Guard {
    async fn resolve(&self, host: &str, port: u16, reach: Reach) -> Result<Vec<SocketAddr>, EgressError> {
        if let Some(ip) = literal(host)? {
            self.judge("the address", ip, reach)?;
            return Ok(vec![(ip, port).into()]);
        }
        let found = self.0.lookup.lookup(host.to_owned()).await.map_err(|_| EgressError::NameUnknown(host.to_owned()))?;
        if found.is_empty() {
            return Err(EgressError::NameUnknown(host.to_owned()));
        }
        if !self.names(host) {
            // One private address among public ones is how a name is made to lead inside, so it spoils the others.
            for ip in &found {
                self.judge(&format!("{} leads to an address that", bare(host).to_ascii_lowercase()), *ip, reach)?;
            }
        }
        Ok(found.into_iter().map(|ip| (ip, port).into()).collect())
    }

    /// Whether the operator has named `host`, wherever it leads.
    fn names(&self, host: &str) -> bool {
        self.0.allow_hosts.contains(&bare(host).to_ascii_lowercase())
    }

    /// The text never holds the address: whoever configures a name must not learn where it leads inside.
    fn judge(&self, who: &str, ip: IpAddr, reach: Reach) -> Result<(), EgressError> {
        let ip = ip.to_canonical();
        if self.0.allow.iter().any(|net| net.contains(&ip)) {
            return Ok(());
        }
        if let Some(kind) = reserved(ip) {
            return Err(EgressError::Barred(format!("{who} is {kind}, which the operator has not allowed (egress.allow)")));
        }
        match reach {
            Reach::Public => Ok(()),
            Reach::AllowedOnly => Err(EgressError::Barred(format!(
                "{who} is public, and would be called without TLS, which the operator has not allowed (egress.allow_plain_http)"
            ))),
        }
    }
}

/// The address that a host is, unless it is a name. All spellings that a URL knows count: `0x7f000001` is loopback.
fn literal(host: &str) -> Result<Option<IpAddr>, EgressError> {
    match Host::parse(host) {
        Ok(Host::Ipv4(ip)) => Ok(Some(ip.into())),
        Ok(Host::Ipv6(ip)) => Ok(Some(ip.into())),
        Ok(Host::Domain(_)) => Ok(None),
        // An IPv6 address without brackets is no host of a URL, but is one in the settings of SMTP.
        Err(_) => host.parse().map(Some).map_err(|_| EgressError::Barred("the host is neither a name nor an address".into())),
    }
}

/// What kind of address it is, unless it is one that everybody can reach (IANA special-purpose address registries; RFC 6890).
fn reserved(ip: IpAddr) -> Option<&'static str> {
    match ip {
        IpAddr::V4(ip) => reserved_v4(ip),
        IpAddr::V6(ip) => reserved_v6(ip),
    }
}

fn reserved_v4(ip: Ipv4Addr) -> Option<&'static str> {
    let [a, b, c, _] = ip.octets();
    Some(match (a, b, c) {
        (0, ..) => "unspecified",
        (10, ..) | (172, 16..=31, _) | (192, 168, _) => "private",
        (100, 64..=127, _) => "shared by a carrier (RFC 6598)",
        (127, ..) => "loopback",
        (169, 254, _) => "link-local",
        (192, 0, 0) => "reserved for protocols",
        (192, 0, 2) | (198, 51, 100) | (203, 0, 113) => "for documentation",
        (192, 88, 99) => "a 6to4 relay",
        (198, 18..=19, _) => "for benchmarks",
        (224..=239, ..) => "multicast",
        (240..=255, ..) => "reserved",
        _ => return None,
    })
}

fn reserved_v6(ip: Ipv6Addr) -> Option<&'static str> {
    let embedded = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match ip.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => Some("unspecified"),
        [0, 0, 0, 0, 0, 0, 0, 1] => Some("loopback"),
        [0, 0, 0, 0, 0, 0xffff, high, low] => reserved_v4(embedded(high, low)),
        // NAT64 (RFC 6052): how a network without IPv4 reaches it. What is private stays private.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => reserved_v4(embedded(high, low)),
        // 6to4 (RFC 3056) and Teredo (RFC 4380) hide an IPv4 address, and are out of use (RFC 7526).
        [0x2002, ..] => Some("a 6to4 tunnel"),
        [0x2001, 0, ..] => Some("a Teredo tunnel"),
        [0x2001, 0x0db8, ..] | [0x3fff, 0..=0x0fff, ..] => Some("for documentation"),
        [0x2001, 0..=0x01ff, ..] => Some("reserved for protocols"),
        [0xfc00..=0xfdff, ..] => Some("private"),
        [0xfe80..=0xfebf, ..] => Some("link-local"),
        [0xfec0..=0xfeff, ..] => Some("site-local"),
        [0xff00..=0xffff, ..] => Some("multicast"),
        [0x2000..=0x3fff, ..] => None,
        _ => Some("reserved"),
    }
}

/// A name without the dot at its end.
fn bare(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

/// The resolver of the client: every address that it gives was judged.
struct Guarded {
    guard: Guard,
    reach: Reach,
}

impl Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        let (guard, reach) = (self.guard.clone(), self.reach);
        Box::pin(async move {
            let found = guard.resolve(name.as_str(), 0, reach).await?;
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// The resolver of a client that only ever resolves the operator's proxy.
struct Unguarded(Arc<dyn Lookup>);

impl Resolve for Unguarded {
    fn resolve(&self, name: Name) -> Resolving {
        let found = self.0.lookup(name.as_str().to_owned());
        Box::pin(async move { Ok(Box::new(found.await?.into_iter().map(|ip| SocketAddr::from((ip, 0)))) as Addrs) })
    }
}

// ------------------------------------------------------------------------------------------------------------------- TLS

/// The system's trusted certificates and the operator's own; the built-in ones where the system has none (bare images).
fn trust(roots_pem: &[String]) -> Result<rustls::ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut extra = Vec::new();
    for pem in roots_pem {
        let before = extra.len();
        for root in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            extra.push(root.map_err(|_| "roots_pem holds something that is not a certificate in PEM".to_owned())?);
        }
        if extra.len() == before {
            return Err("roots_pem holds a text without a certificate in PEM".into());
        }
    }
    let builder = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS cannot be set up: {error}"))?;
    let system = rustls_platform_verifier::Verifier::new_with_extra_roots(extra.iter().cloned(), provider);
    Ok(match system {
        Ok(verifier) => builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth(),
        Err(_) => {
            let mut roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
            for root in extra {
                roots.add(root).map_err(|_| "roots_pem holds a certificate that cannot be a root".to_owned())?;
            }
            tracing::warn!("The system has no trusted certificates; the built-in ones are used");
            builder.with_root_certificates(roots).with_no_client_auth()
        }
    })
}

/// What a failed request is called here. The client's own text holds the URL, and that may hold a number, so it is not used.
fn told(error: &reqwest::Error, host: &str) -> EgressError {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    let (mut kind, is_connect) = (None, error.is_connect());
    while let Some(it) = cause {
        if let Some(barred) = it.downcast_ref::<EgressError>() {
            return barred.clone();
        }
        if let Some(error) = it.downcast_ref::<io::Error>() {
            if let Some(what) = tls_told(error) {
                // Once there was a connection, the request may have gone over it, whatever TLS says afterwards.
                return if is_connect { EgressError::Tls(what) } else { EgressError::Broken(what) };
            }
            kind = Some(error.kind());
        }
        cause = it.source();
    }
    let what = kind.map_or_else(|| format!("{host} did not speak HTTP"), |it| it.to_string());
    match is_connect {
        true if error.is_timeout() => EgressError::Unreachable("not in time".into()),
        true => EgressError::Unreachable(what),
        false => EgressError::Broken(what),
    }
}

/// TLS fails as an error of input and output, sometimes as one within another.
fn tls_told(error: &io::Error) -> Option<String> {
    let inner = error.get_ref()?;
    if let Some(inner) = inner.downcast_ref::<io::Error>() {
        return tls_told(inner);
    }
    match inner.downcast_ref::<rustls::Error>()? {
        rustls::Error::InvalidCertificate(why) => Some(format!("the certificate is not good: {}", certificate_told(why))),
        rustls::Error::AlertReceived(alert) => Some(format!("the other side said {alert:?}")),
        _ => Some("the other side does not speak TLS as we do".into()),
    }
}

fn certificate_told(why: &rustls::CertificateError) -> &'static str {
    use rustls::CertificateError as Why;
    match why {
        Why::Expired | Why::ExpiredContext { .. } => "it has expired",
        Why::NotValidYet | Why::NotValidYetContext { .. } => "it is not valid yet",
        Why::Revoked => "it was revoked",
        Why::UnknownIssuer => "nobody whom we trust has issued it",
        Why::NotValidForName | Why::NotValidForNameContext { .. } => "it is for another name",
        _ => "it cannot be verified",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stub::{Stub, names};

    const SHORT: Duration = Duration::from_secs(5);

    fn to(url: &str) -> Outgoing {
        Outgoing { method: Method::POST, url: Url::parse(url).expect("a URL"), headers: HeaderMap::new(), body: b"x".to_vec() }
    }

    fn loopback() -> EgressSettings {
        EgressSettings { allow: vec!["127.0.0.0/8".parse().expect("a network")], ..EgressSettings::default() }
    }

    /// Addresses that nobody outside must be able to make us call, in every spelling that a URL knows.
    const INSIDE: &[&str] = &[
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "127.255.255.254",
        "0.0.0.0",
        "0",
        "10.0.0.1",
        "10.255.255.255",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "100.127.255.255",
        "192.0.0.1",
        "192.0.2.1",
        "198.51.100.7",
        "203.0.113.7",
        "198.18.0.1",
        "198.19.255.255",
        "192.88.99.1",
        "224.0.0.1",
        "239.255.255.255",
        "240.0.0.1",
        "255.255.255.255",
        "[::]",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:a00:1]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[64:ff9b::a9fe:a9fe]",
        "[64:ff9b:1::808:808]",
        "[2002:7f00:1::1]",
        "[2002:808:808::1]",
        "[2001::1]",
        "[2001:db8::1]",
        "[3fff::1]",
        "[2001:10::1]",
        "[100::1]",
        "[fc00::1]",
        "[fd12:3456::1]",
        "[fe80::1]",
        "[febf::1]",
        "[fec0::1]",
        "[ff02::1]",
        "[5f00::1]",
    ];

    const OUTSIDE: &[&str] = &[
        "1.1.1.1",
        "8.8.8.8",
        "172.15.255.255",
        "172.32.0.1",
        "100.63.255.255",
        "100.128.0.1",
        "192.167.255.255",
        "223.255.255.255",
        "[2606:4700::1111]",
        "[2a00:1450::1]",
        "[64:ff9b::808:808]",
        "[::ffff:8.8.8.8]",
    ];

    #[tokio::test]
    async fn no_private_address_is_called_in_any_spelling() {
        let egress = Egress::new(EgressSettings::default()).expect("the defaults");
        for host in INSIDE {
            for scheme in ["https", "http"] {
                let told = egress.send(to(&format!("{scheme}://{host}/x")), SHORT, 100).await;
                assert!(matches!(&told, Err(EgressError::Barred(why)) if !why.contains("127.0.0.1")), "{scheme}://{host} gave {told:?}");
            }
            let bare = host.trim_matches(['[', ']']);
            assert!(matches!(egress.connect(bare, 25, Reach::Public).await, Err(EgressError::Barred(_))), "{bare}");
        }
    }

    #[test]
    fn public_addresses_are_called_with_tls_and_without_only_where_it_is_allowed() {
        let careful = Egress::new(EgressSettings::default()).expect("the defaults");
        let open = Egress::new(EgressSettings { allow_plain_http: true, ..EgressSettings::default() }).expect("good settings");
        for host in OUTSIDE {
            let url = |scheme: &str| Url::parse(&format!("{scheme}://{host}/")).expect("a URL");
            assert_eq!(careful.check(&url("https")), Ok(()), "{host}");
            assert!(matches!(careful.check(&url("http")), Err(EgressError::Barred(why)) if why.contains("without TLS")), "{host}");
            assert_eq!(open.check(&url("http")), Ok(()), "{host}");
        }
        for url in ["ftp://8.8.8.8/", "file:///etc/passwd", "gopher://8.8.8.8/", "data:text/plain,x"] {
            assert!(matches!(open.check(&Url::parse(url).expect("a URL")), Err(EgressError::Barred(_))), "{url}");
        }
    }

    #[tokio::test]
    async fn a_name_that_leads_inside_is_not_called_even_if_it_leads_outside_too() {
        let lookup =
            names(&[("inside.example", &["10.0.0.1"]), ("both.example", &["8.8.8.8", "127.0.0.1"]), ("v6.example", &["::ffff:10.1.1.1"])]);
        let egress = Egress::with_lookup(EgressSettings { allow_plain_http: true, ..EgressSettings::default() }, lookup).expect("good");
        for host in ["inside.example", "both.example", "v6.example", "INSIDE.example", "inside.example."] {
            let told = egress.send(to(&format!("http://{host}/x")), SHORT, 100).await;
            let Err(EgressError::Barred(why)) = told else { panic!("{host} gave {told:?}") };
            assert!(why.contains("leads to an address that is") && !why.contains("10."), "{why}");
            assert!(matches!(egress.connect(host, 25, Reach::Public).await, Err(EgressError::Barred(_))));
        }
        assert_eq!(
            egress.send(to("http://nowhere.example/"), SHORT, 100).await.map(|_| ()),
            Err(EgressError::NameUnknown("nowhere.example".into()))
        );
    }

    #[tokio::test]
    async fn the_operator_opens_a_private_target_by_network_or_by_name() {
        let stub = Stub::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        let lookup = names(&[("mine.example", &["127.0.0.1"]), ("other.example", &["127.0.0.1"])]);
        let by_name = EgressSettings { allow_hosts: vec!["Mine.Example".into()], ..EgressSettings::default() };
        let by_name = Egress::with_lookup(by_name, lookup.clone()).expect("good");
        let by_net = Egress::with_lookup(loopback(), lookup).expect("good");
        let at = |host: &str| to(&format!("http://{host}:{}/x", stub.port()));
        assert_eq!(by_name.send(at("mine.example"), SHORT, 100).await.map(|it| it.status), Ok(200));
        assert!(matches!(by_name.send(at("other.example"), SHORT, 100).await, Err(EgressError::Barred(_))));
        assert!(matches!(by_name.send(at("127.0.0.1"), SHORT, 100).await, Err(EgressError::Barred(_))));
        assert_eq!(by_net.send(at("other.example"), SHORT, 100).await.map(|it| it.body), Ok(b"ok".to_vec()));
        assert_eq!(by_net.send(at("127.0.0.1"), SHORT, 100).await.map(|it| it.body), Ok(b"ok".to_vec()));
        assert!(Egress::new(EgressSettings { allow_hosts: vec!["10.0.0.1".into()], ..EgressSettings::default() }).is_err());
    }

    #[tokio::test]
    async fn a_redirect_is_handed_back_and_nobody_is_called_again() {
        let inside = Stub::answering("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret").await;
        for location in [format!("http://127.0.0.1:{}/", inside.port()), "http://169.254.169.254/".into(), "/again".into()] {
            let stub = Stub::answering(&format!("HTTP/1.1 307 Away\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n")).await;
            let egress = Egress::new(loopback()).expect("good");
            let came = egress.send(to(&format!("http://127.0.0.1:{}/", stub.port())), SHORT, 100).await.expect("an answer");
            assert_eq!((came.status, stub.seen().len(), inside.seen().len()), (307, 1, 0));
        }
    }

    #[tokio::test]
    async fn a_body_is_read_to_its_bound_and_no_further() {
        let endless = format!("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n{}", "x".repeat(200_000));
        let chunked = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n30d40\r\n{}\r\n", "x".repeat(200_000));
        for answer in [endless, chunked] {
            let stub = Stub::answering(&answer).await;
            let egress = Egress::new(loopback()).expect("good");
            let came = egress.send(to(&format!("http://127.0.0.1:{}/", stub.port())), SHORT, 1000).await.expect("a beginning");
            assert_eq!((came.body.len(), came.cut), (1000, true));
        }
    }

    #[tokio::test]
    async fn who_hangs_or_hangs_up_or_talks_nonsense_is_told_apart() {
        let egress = Egress::new(loopback()).expect("good");
        let soon = Duration::from_millis(150);
        for hanging in ["", "HTTP/1.1 200 OK\r\nContent-Le", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"] {
            let stub = Stub::hanging(hanging).await;
            let told = egress.send(to(&format!("http://127.0.0.1:{}/", stub.port())), soon, 100).await;
            assert_eq!(told.map(|_| ()), Err(EgressError::Late { within: soon }), "{hanging}");
        }
        for broken in ["", "220 mail.example ESMTP\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"] {
            let stub = Stub::closing(broken).await;
            let told = egress.send(to(&format!("http://127.0.0.1:{}/?to=%2B15555550100", stub.port())), SHORT, 100).await;
            assert!(matches!(&told, Err(EgressError::Broken(why)) if !why.contains("5555550100")), "{broken} gave {told:?}");
        }
        let gone = std::net::TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a port that is free again").port();
        let told = egress.send(to(&format!("http://127.0.0.1:{gone}/?to=%2B15555550100")), SHORT, 100).await;
        assert_eq!(told.map(|_| ()), Err(EgressError::Unreachable("connection refused".into())));
        let plain = Stub::greeting("220 mail.example ESMTP\r\n").await;
        let told = egress.send(to(&format!("https://127.0.0.1:{}/", plain.port())), SHORT, 100).await;
        assert!(matches!(&told, Err(EgressError::Tls(_))), "{told:?}");
    }

    #[tokio::test]
    async fn one_connection_serves_many_requests() {
        let stub = Stub::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        let egress = Egress::new(loopback()).expect("good");
        for _ in 0..5 {
            egress.send(to(&format!("http://127.0.0.1:{}/", stub.port())), SHORT, 100).await.expect("an answer");
        }
        assert_eq!((stub.seen().len(), stub.connections()), (5, 1));
    }

    #[tokio::test]
    async fn a_proxy_is_called_instead_and_the_target_is_still_judged() {
        let proxy = Stub::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        let lookup = names(&[("inside.example", &["10.0.0.1"]), ("outside.example", &["8.8.8.8"]), ("proxy.example", &["127.0.0.1"])]);
        let settings = EgressSettings {
            allow_plain_http: true,
            proxy: Some(Url::parse(&format!("http://proxy.example:{}", proxy.port())).expect("a URL")),
            ..EgressSettings::default()
        };
        let egress = Egress::with_lookup(settings, lookup).expect("good");
        for barred in ["http://inside.example/", "http://10.0.0.1/", "http://127.0.0.1:1/"] {
            assert!(matches!(egress.send(to(barred), SHORT, 100).await, Err(EgressError::Barred(_))), "{barred}");
        }
        assert_eq!(proxy.seen().len(), 0);
        assert_eq!(egress.send(to("http://outside.example/a"), SHORT, 100).await.map(|it| it.status), Ok(200));
        assert!(proxy.seen()[0].starts_with("POST http://outside.example/a HTTP/1.1\r\n"));
    }

    #[tokio::test]
    async fn a_proxy_gets_no_name_of_which_nobody_here_knows_where_it_leads() {
        struct Halting;
        impl Lookup for Halting {
            fn lookup(&self, host: String) -> Pending<'static, io::Result<Vec<IpAddr>>> {
                Box::pin(async move {
                    match host.as_str() {
                        "proxy.example" => Ok(vec![Ipv4Addr::LOCALHOST.into()]),
                        "empty.example" => Ok(Vec::new()),
                        it if it.starts_with("slow") => std::future::pending().await,
                        _ => Err(io::ErrorKind::NotFound.into()),
                    }
                })
            }
        }
        let proxy = Stub::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        let settings = EgressSettings {
            allow_plain_http: true,
            allow_hosts: vec!["slow.mine.example".into(), "unknown.mine.example".into()],
            proxy: Some(Url::parse(&format!("http://proxy.example:{}", proxy.port())).expect("a URL")),
            connect_timeout_ms: 200,
            ..EgressSettings::default()
        };
        let egress = Egress::with_lookup(settings, Arc::new(Halting)).expect("good");
        for host in ["slow.example", "unknown.example", "empty.example"] {
            for scheme in ["http", "https"] {
                let url = format!("{scheme}://{host}/x");
                let told = egress.send(to(&url), SHORT, 100).await;
                assert!(matches!(&told, Err(EgressError::Unreachable(why)) if why.contains("egress.allow_hosts")), "{url} gave {told:?}");
                assert!(egress.probe(&Url::parse(&url).expect("a URL")).await.is_err(), "{url}");
            }
        }
        assert_eq!((proxy.seen().len(), proxy.connections()), (0, 0));
        for open in ["http://slow.mine.example/a", "http://Unknown.Mine.example./b"] {
            assert_eq!(egress.send(to(open), SHORT, 100).await.map(|it| it.status), Ok(200), "{open}");
        }
    }
}
