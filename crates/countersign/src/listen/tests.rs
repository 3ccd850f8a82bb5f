//! Callers who take more than their share, on a loopback socket.

use super::*;
use crate::tls::tests::{files, write_pair};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use rustls::ClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use std::time::Instant;
use tokio::task::JoinHandle;

struct World {
    at: SocketAddr,
    stop: CancellationToken,
    ended: JoinHandle<()>,
}

const LIMITS: Limits = Limits {
    body_bytes: 65_536,
    header_bytes: 8192,
    header_timeout: Duration::from_millis(300),
    body_timeout: Duration::from_millis(300),
    connections: 100,
    idle_timeout: Duration::from_millis(900),
};

async fn world(limits: Limits, tls: Option<Tls>) -> World {
    let router = Router::new()
        .route("/", get(|ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { peer.ip().to_string() }))
        .route("/slow", get(|| async { sleep(Duration::from_millis(600)).await }))
        .route(
            "/echo",
            post(|body: Result<Bytes, axum::extract::rejection::BytesRejection>| async { body.map_err(|_| StatusCode::REQUEST_TIMEOUT) }),
        );
    let router =
        router.layer(axum::middleware::from_fn(async |request: axum::extract::Request, next: axum::middleware::Next| {
            match request.extensions().get::<Misaddressed>() {
                Some(_) => StatusCode::BAD_REQUEST.into_response(),
                None => next.run(request).await,
            }
        }));
    let tcp = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let at = tcp.local_addr().expect("bound");
    let stop = CancellationToken::new();
    let ended = tokio::spawn(serve(tcp, tls, router, limits, stop.clone(), Duration::from_secs(2)));
    World { at, stop, ended }
}

impl World {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.at).await.expect("connected")
    }

    /// Says `words`, and gives all that comes back until the server closes, or nothing more for two seconds.
    async fn says(&self, words: &str) -> String {
        let mut stream = self.connect().await;
        stream.write_all(words.as_bytes()).await.expect("sent");
        all(&mut stream).await
    }
}

async fn all(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut heard = Vec::new();
    let _ = timeout(Duration::from_secs(3), stream.read_to_end(&mut heard)).await.expect("the server closes");
    String::from_utf8_lossy(&heard).into_owned()
}

async fn one(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut heard = [0; 4096];
    let n = timeout(Duration::from_secs(3), stream.read(&mut heard)).await.expect("an answer").expect("read");
    String::from_utf8_lossy(&heard[..n]).into_owned()
}

const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";

#[tokio::test]
async fn a_request_is_answered_and_tells_who_asks() {
    let world = world(LIMITS, None).await;
    let heard = world.says("GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
    assert!(heard.starts_with("HTTP/1.1 200 OK") && heard.ends_with("127.0.0.1"), "{heard}");
}

#[tokio::test]
async fn half_a_head_is_not_kept() {
    let world = world(LIMITS, None).await;
    let began = Instant::now();
    // The last three might become HTTP/2, and have not.
    for words in ["", "G", "GET / HTTP/1.1\r\nhost: a\r\n", "P", "PRI * HTTP/2.0\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r"] {
        assert_eq!(world.says(words).await, "", "{words:?}");
    }
    assert!(began.elapsed() < LIMITS.header_timeout * 6 + LIMITS.idle_timeout, "six times the header time-out, never the idle one");
}

#[tokio::test]
async fn bytes_one_by_one_do_not_buy_time() {
    let world = world(LIMITS, None).await;
    let mut stream = world.connect().await;
    let began = Instant::now();
    while stream.write_all(b"a").await.is_ok() && began.elapsed() < Duration::from_secs(3) {
        sleep(Duration::from_millis(20)).await;
    }
    assert!(began.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn a_connection_rests_longer_than_a_head_may_take_but_not_for_ever() {
    let world = world(LIMITS, None).await;
    let mut stream = world.connect().await;
    for _ in 0..2 {
        stream.write_all(GET.as_bytes()).await.expect("sent");
        assert!(one(&mut stream).await.contains("200 OK"));
        sleep(LIMITS.header_timeout * 2).await;
    }
    let began = Instant::now();
    assert_eq!(all(&mut stream).await, "");
    assert!(began.elapsed() < LIMITS.idle_timeout * 2);
}

#[tokio::test]
async fn an_answer_may_take_longer_than_a_head() {
    let world = world(LIMITS, None).await;
    assert!(world.says("GET /slow HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_body_that_does_not_come_ends_the_patience() {
    let world = world(LIMITS, None).await;
    let heard = world.says("POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nab").await;
    assert!(heard.starts_with("HTTP/1.1 408"), "{heard}");
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let world = world(LIMITS, None).await;
    let heard = world.says(&format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "x".repeat(9000))).await;
    assert!(heard.starts_with("HTTP/1.1 431"), "{heard}");
}

#[tokio::test]
async fn who_comes_beyond_the_cap_is_told_to_come_back() {
    let world = world(Limits { connections: 1, ..LIMITS }, None).await;
    let mut first = world.connect().await;
    first.write_all(GET.as_bytes()).await.expect("sent");
    assert!(one(&mut first).await.contains("200 OK"));
    let heard = world.says(GET).await;
    assert!(heard.starts_with("HTTP/1.1 503") && heard.contains("retry-after: 1"), "{heard}");
    drop(first);
    for _ in 0..100 {
        if world.says("GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.contains("200 OK") {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("the place of a caller who left is free again");
}

#[tokio::test]
async fn a_request_has_one_host_and_it_is_the_one_of_its_target() {
    let world = world(LIMITS, None).await;
    for (words, status) in [
        ("GET / HTTP/1.1\r\nconnection: close\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: a\r\nhost: a\r\nconnection: close\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: a\r\nHost: b\r\nconnection: close\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: a, b\r\nconnection: close\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: u@a\r\nconnection: close\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost:\r\nconnection: close\r\n\r\n", 400),
        ("GET http://b/ HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n", 400),
        ("GET http://b/ HTTP/1.1\r\nconnection: close\r\n\r\n", 400),
        ("GET http://A:80/ HTTP/1.1\r\nhost: a:80\r\nconnection: close\r\n\r\n", 200),
        ("GET / HTTP/1.1\r\nhost: [::1]:8080\r\nconnection: close\r\n\r\n", 200),
        ("GET / HTTP/1.0\r\n\r\n", 200),
    ] {
        let heard = world.says(words).await;
        assert!(heard.split(' ').nth(1) == Some(&status.to_string()), "{words:?} is answered {heard:?}");
    }
}

#[tokio::test]
async fn a_stop_finishes_what_runs_and_takes_nothing_new() {
    let world = world(LIMITS, None).await;
    let mut resting = world.connect().await;
    resting.write_all(GET.as_bytes()).await.expect("sent");
    one(&mut resting).await;
    let mut running = world.connect().await;
    running.write_all(b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("sent");
    sleep(Duration::from_millis(100)).await;
    world.stop.cancel();
    assert_eq!(all(&mut resting).await, "", "a resting connection is closed");
    assert!(all(&mut running).await.starts_with("HTTP/1.1 200"), "a running request is answered");
    timeout(Duration::from_secs(1), world.ended).await.expect("ended").expect("well");
    assert!(TcpStream::connect(world.at).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn a_stop_answers_those_whose_request_was_on_its_way() {
    let world = world(LIMITS, None).await;
    let mut silent = world.connect().await;
    sleep(Duration::from_millis(50)).await;
    // On this one thread nobody accepts these before the stop.
    let waiting: Vec<_> = (0..8)
        .map(|_| {
            let mut it = std::net::TcpStream::connect(world.at).expect("connected");
            std::io::Write::write_all(&mut it, GET.as_bytes()).expect("sent");
            it
        })
        .collect();
    world.stop.cancel();
    silent.write_all(GET.as_bytes()).await.expect("sent");
    assert!(all(&mut silent).await.starts_with("HTTP/1.1 200"), "its first request was on its way");
    for it in waiting {
        it.set_nonblocking(true).expect("a socket");
        let mut it = TcpStream::from_std(it).expect("a socket");
        assert!(all(&mut it).await.starts_with("HTTP/1.1 200"));
    }
    timeout(Duration::from_secs(1), world.ended).await.expect("ended").expect("well");
}

#[tokio::test]
async fn http_2_is_spoken_over_tls_and_a_renewed_certificate_is_shown() {
    let folder = tempfile::tempdir().expect("a folder");
    let files = files(folder.path());
    let first = write_pair(&files);
    let tls = Tls::read(files.clone()).expect("a pair");
    let world = world(LIMITS, Some(tls.clone())).await;

    assert_eq!(shown(&world, b"http/1.1").await, first);
    let second = write_pair(&files);
    tls.reload().expect("a pair");
    assert_eq!(shown(&world, b"http/1.1").await, second);

    let (mut send, _) = h2(&world).await;
    let request = Request::get("https://localhost/").body(Body::empty()).expect("a request");
    assert_eq!(send.send_request(request).await.expect("answered").status(), StatusCode::OK);
    // Mismatched, and no longer than the cap.
    let request = Request::get("https://localhost/").header(HOST, "other").body(Body::empty()).expect("a request");
    assert_eq!(send.send_request(request).await.expect("answered").status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_handshake_that_does_not_end_is_not_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let files = files(folder.path());
    write_pair(&files);
    let world = world(LIMITS, Some(Tls::read(files).expect("a pair"))).await;
    assert_eq!(world.says("\x16\x03\x01").await, "");
}

#[tokio::test]
async fn a_quiet_http_2_connection_is_told_goodbye_after_its_rest() {
    let folder = tempfile::tempdir().expect("a folder");
    let files = files(folder.path());
    write_pair(&files);
    let world = world(LIMITS, Some(Tls::read(files).expect("a pair"))).await;
    let (mut send, ended) = h2(&world).await;
    sleep(LIMITS.header_timeout * 2).await;
    let request = Request::get("https://localhost/").body(Body::empty()).expect("a request");
    assert_eq!(send.send_request(request).await.expect("still open").status(), StatusCode::OK);
    timeout(LIMITS.idle_timeout * 3, ended).await.expect("closed").expect("well");
}

async fn h2(world: &World) -> (hyper::client::conn::http2::SendRequest<Body>, JoinHandle<()>) {
    let stream = handshake(world, b"h2").await;
    let (send, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP/2");
    let ended = tokio::spawn(async move { drop(connection.await) });
    (send, ended)
}

async fn shown(world: &World, alpn: &[u8]) -> Vec<u8> {
    let stream = handshake(world, alpn).await;
    stream.get_ref().1.peer_certificates().expect("shown")[0].to_vec()
}

async fn handshake(world: &World, alpn: &[u8]) -> tokio_rustls::client::TlsStream<TcpStream> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("known versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    let name = ServerName::try_from("localhost").expect("a name");
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, world.connect().await).await.expect("shaken")
}

/// Believes every certificate: the test looks at it itself.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
