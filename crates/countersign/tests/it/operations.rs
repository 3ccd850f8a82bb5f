//! Running it: what operators and load balancers see of the real server, and how it comes, changes and goes.
//!
//! What one connection may do is told in `src/listen/tests.rs`, which settings are dangerous in `src/config/safety.rs`.

use crate::raw::{Heard, connect, exchange, request};
use crate::server::{Caller, Place, Running, Sink};
use crate::tools::until;
use axum::http::{StatusCode, Version};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const API: &str = "/ciam-mfa/v2";

/// A change made by a command is seen by a running server within this.
const SEEN_WITHIN: Duration = Duration::from_secs(3);

/// Asks again until it is so, or `within` is over.
async fn becomes(within: Duration, mut ask: impl AsyncFnMut() -> bool) -> bool {
    let began = Instant::now();
    loop {
        if ask().await {
            return true;
        }
        if began.elapsed() > within {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn get(place: &Place, path: &str) -> Heard {
    exchange(place.address, &request("GET", path, &[], b""))
}

fn status_of(answer: Option<(u16, Value)>) -> u16 {
    answer.expect("an answer").0
}

// ------------------------------------------------------------------------------------------------------------------ numbers

/// Reads Prometheus' text format (version 0.0.4), strictly: the kind of each family, and the value of each sample by its name
/// with its labels.
fn read_numbers(text: &str) -> (BTreeMap<String, String>, BTreeMap<String, f64>) {
    let (mut kinds, mut samples) = (BTreeMap::new(), BTreeMap::new());
    let is_name = |it: &str| !it.is_empty() && it.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b':');
    assert!(text.ends_with('\n'));
    for line in text.lines().filter(|it| !it.is_empty()) {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (word, name, rest) = (words.next().unwrap(), words.next().expect(line), words.next().expect(line));
            assert!(["HELP", "TYPE"].contains(&word) && is_name(name), "{line}");
            if word == "TYPE" {
                assert!(["counter", "gauge", "histogram", "summary"].contains(&rest), "{line}");
                assert!(kinds.insert(name.to_owned(), rest.to_owned()).is_none(), "twice: {line}");
            }
            continue;
        }
        let (series, value) = line.rsplit_once(' ').expect(line);
        let (name, labels) = series.split_once('{').map_or((series, None), |(name, labels)| (name, labels.strip_suffix('}')));
        assert!(is_name(name) && (series.contains('{') == labels.is_some()), "{line}");
        for label in labels.into_iter().flat_map(|it| it.split("\",")) {
            let (label, value) = label.split_once("=\"").expect(line);
            assert!(is_name(label) && !value.trim_end_matches('"').contains(['"', '\n']), "{line}");
        }
        let of_histogram = ["_bucket", "_sum", "_count"].iter().find_map(|it| name.strip_suffix(it)).filter(|it| kinds.contains_key(*it));
        assert!(kinds.contains_key(of_histogram.unwrap_or(name)), "a sample without its kind: {line}");
        assert!(samples.insert(series.to_owned(), value.parse::<f64>().expect(line)).is_none(), "twice: {line}");
    }
    (kinds, samples)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_counted_is_prometheus_text_and_goes_up() {
    let sink = Sink::start().await;
    let place = Place::new("numbers", &sink.url);
    let _server = place.start();
    let caller = Caller::new(&place).await;
    let numbers = || {
        let heard = get(&place, "/metrics");
        assert_eq!(heard.header("content-type").as_deref(), Some("text/plain; version=0.0.4; charset=utf-8"));
        read_numbers(&heard.body())
    };
    let (kinds, before) = numbers();
    for (count, right) in [true, false, true].into_iter().enumerate() {
        let number = format!("+91821234500{count}");
        let (status, body) = caller.ask(&format!("user-{count}"), &number).await.unwrap();
        assert_eq!(status, 201, "{body}");
        let code = if right { sink.code(&number).unwrap() } else { "x".into() };
        caller.answer(body["authId"].as_str().unwrap(), &code).await;
    }
    let (_, after) = numbers();
    let grew = |name: &str| after.get(name).copied().unwrap_or_default() - before.get(name).copied().unwrap_or_default();
    let route = r#"http_route="/ciam-mfa/v2/deviceAuthentications""#;
    let answered = after.keys().find(|it| it.starts_with("http_server_request_duration_seconds_count") && it.contains(route)).unwrap();
    for (name, by) in [
        (r#"countersign_challenges_opened_total{channel="sms"}"#, 3.0),
        (r#"countersign_answers_total{verdict="passed"}"#, 2.0),
        (r#"countersign_answers_total{verdict="refused"}"#, 1.0),
        ("countersign_tokens_issued_total", 0.0),
        (answered.as_str(), 3.0),
    ] {
        assert_eq!(grew(name), by, "{name}");
    }
    assert!(grew("countersign_store_commits_total") > 0.0 && grew("countersign_store_decisions_total") >= 6.0);
    assert!(after["process_resident_memory_bytes"] > 1e6 && after["process_start_time_seconds"] > 1.7e9);
    for (name, kind) in &kinds {
        if kind == "counter" {
            assert!(name.ends_with("_total"), "{name}");
        }
    }
    // Buckets are counted up, and the last one holds all.
    let family: Vec<_> =
        after.iter().filter(|(it, _)| it.starts_with("http_server_request_duration_seconds_bucket") && it.contains(route)).collect();
    let infinite = family.iter().find(|(it, _)| it.contains("le=\"+Inf\"")).unwrap().1;
    assert!(family.iter().all(|(_, count)| *count <= infinite) && *infinite == after[answered]);
}

// ------------------------------------------------------------------------------------------------------------- request ids

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_id_is_in_the_answer_in_its_envelope_and_in_the_log() {
    let mut place = Place::new("ids", "http://127.0.0.1:9/");
    place.settings.extend([("COUNTERSIGN_LOG", "debug".into()), ("COUNTERSIGN_SERVER_TRUSTED_PROXIES", "127.0.0.1".into())]);
    let server = place.start();
    let path = format!("{API}/deviceAuthentications");
    let own = exchange(place.address, &request("POST", &path, &[], b"{}"));
    let id = own.header("x-request-id").unwrap();
    assert_eq!((own.status(), own.json()["traceId"].as_str()), (Some(401), Some(id.as_str())), "{}", own.text());

    // A trusted proxy says who called, and which id it has given.
    let (given, from) = ("0063f27c787b40468b8ea75e241b5ea6", "203.0.113.77");
    let proxied = exchange(place.address, &request("POST", &path, &[("x-request-id", given), ("x-forwarded-for", from)], b"{}"));
    assert_eq!(proxied.json()["traceId"], given, "{}", proxied.text());
    let problem = get(&place, "/nowhere");
    let plain = problem.json()["requestId"].as_str().unwrap().to_owned();
    assert_eq!(problem.header("x-request-id").as_deref(), Some(plain.as_str()));

    server.signal("TERM");
    assert!(server.ended(Duration::from_secs(10)).success());
    let log = place.log();
    let lines: Vec<Value> = log.lines().map(|it| serde_json::from_str(it).unwrap_or_else(|why| panic!("{why}: {it}"))).collect();
    for (id, address) in [(id.as_str(), "127.0.0.1"), (given, from), (plain.as_str(), "127.0.0.1")] {
        let line = lines.iter().find(|it| it["span"]["request.id"] == id).unwrap_or_else(|| panic!("{id} is not in {log}"));
        assert_eq!(line["span"]["client.address"], address);
        assert!(line["timestamp"].is_string() && line["level"].is_string() && line["message"].is_string(), "{line}");
    }
}

#[test]
fn who_is_no_trusted_proxy_says_nothing_about_the_caller() {
    let mut place = Place::new("strangers", "http://127.0.0.1:9/");
    place.settings.extend([("COUNTERSIGN_LOG", "debug".into()), ("COUNTERSIGN_SERVER_TRUSTED_PROXIES", "10.0.0.0/8".into())]);
    let server = place.start();
    let given = "0063f27c787b40468b8ea75e241b5ea6";
    let heard = exchange(place.address, &request("GET", "/healthz", &[("x-request-id", given), ("x-forwarded-for", "203.0.113.77")], b""));
    assert_ne!(heard.header("x-request-id").as_deref(), Some(given));
    server.signal("TERM");
    assert!(server.ended(Duration::from_secs(10)).success());
    assert!(!place.log().contains("203.0.113.77") && place.log().contains("127.0.0.1"));
}

// ----------------------------------------------------------------------------------------------------------------- the wire

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunks_requests_in_a_row_and_http_2_without_tls_are_understood() {
    let mut place = Place::new("wire", "http://127.0.0.1:9/");
    place.settings.push(("COUNTERSIGN_LIMITS_BODY_BYTES", "2000".into()));
    let _server = place.start();
    let path = format!("{API}/get/token");
    let form = format!("grant_type=client_credentials&client_id={}&client_secret={}", place.client_id, place.client_secret);
    let chunked = |chunks: &[&str]| {
        let mut bytes = format!("POST {path} HTTP/1.1\r\nhost: it\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n");
        chunks.iter().for_each(|it| bytes.push_str(&format!("{:x}\r\n{it}\r\n", it.len())));
        exchange(place.address, (bytes + "0\r\n\r\n").as_bytes())
    };
    let (one, other) = form.split_at(17);
    let heard = chunked(&[one, other]);
    assert_eq!(heard.status(), Some(200), "{}", heard.text());

    // Too large, announced or not: in the words of the dialect, also while the caller still writes.
    let large = "x".repeat(400_000);
    for heard in [exchange(place.address, &request("POST", &path, &[], large.as_bytes())), chunked(&[one, &large])] {
        assert_eq!((heard.status(), heard.json()["code"].as_str()), (Some(413), Some("10005")), "{}", heard.text());
        assert_eq!(heard.json()["traceId"].as_str().map(str::to_owned), heard.header("x-request-id"));
    }

    // A request that names two hosts, or none: the same words.
    for hosts in ["", "host: a\r\nhost: b\r\n"] {
        let heard = exchange(place.address, format!("POST {path} HTTP/1.1\r\n{hosts}connection: close\r\n\r\n").as_bytes());
        assert_eq!((heard.status(), heard.json()["code"].as_str()), (Some(400), Some("10005")), "{}", heard.text());
        assert_eq!(heard.json()["traceId"].as_str().map(str::to_owned), heard.header("x-request-id"));
    }

    // Three requests before the first answer: the answers come in their order.
    let mut stream = connect(place.address);
    let begin = |path: &str, last: bool| {
        let close = if last { "connection: close\r\n" } else { "" };
        format!("GET {path} HTTP/1.1\r\nhost: it\r\n{close}\r\n")
    };
    let row = begin("/healthz", false) + &begin("/nowhere", false) + &begin("/readyz", true);
    stream.write_all(row.as_bytes()).unwrap();
    let said = Heard::rest_of(&mut stream).text();
    let order: Vec<_> = said.match_indices("HTTP/1.1 ").map(|(at, _)| &said[at + 9..at + 12]).collect();
    assert_eq!(order, ["200", "404", "200"], "{said}");
    assert!(said.contains("\"status\":\"ready\""), "{said}");

    let client = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
    let calls: Vec<_> =
        (0..50).map(|_| tokio::spawn(client.post(format!("http://{}{path}", place.address)).body(form.clone()).send())).collect();
    for call in calls {
        let answer = call.await.unwrap().unwrap();
        assert_eq!((answer.version(), answer.status()), (Version::HTTP_2, StatusCode::OK));
    }
}

#[test]
fn the_cap_on_connections_is_the_one_of_the_settings() {
    let mut place = Place::new("cap", "http://127.0.0.1:9/");
    place.settings.push(("COUNTERSIGN_LIMITS_CONNECTIONS", "3".into()));
    let _server = place.start();
    // The look by which `start` found that it listens may still have its place, and whoever hangs up leaves it a moment later.
    let full = until(Duration::from_secs(5), || {
        let _held: Vec<TcpStream> = (0..3).map(|_| connect(place.address)).collect();
        Some(get(&place, "/healthz")).filter(|it| it.status() == Some(503))
    });
    assert_eq!(full.expect("there is a cap").header("retry-after").as_deref(), Some("1"));
    let room = until(Duration::from_secs(5), || (get(&place, "/healthz").status() == Some(200)).then_some(()));
    assert!(room.is_some(), "who left makes room");
}

// ---------------------------------------------------------------------------------------------------------------- the going

/// A provider that takes its time.
async fn slow_sink(pause: Duration) -> (String, Arc<AtomicUsize>) {
    let begun = Arc::new(AtomicUsize::new(0));
    let count = begun.clone();
    let door = axum::routing::post(move || async move {
        count.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(pause).await;
        "{}"
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/sms", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, axum::Router::new().route("/sms", door)).await });
    (url, begun)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_waits_for_the_provider_that_somebody_waits_for() {
    let (url, begun) = slow_sink(Duration::from_millis(1_500)).await;
    let place = Place::new("slow-stop", &url);
    let server = place.start();
    let caller = Caller::new(&place).await;
    let asked = tokio::spawn(async move { caller.ask("jdoe", "+918212345212").await });
    assert!(becomes(Duration::from_secs(5), async || begun.load(Ordering::SeqCst) > 0).await);
    server.signal("TERM");
    assert!(becomes(Duration::from_secs(2), async || TcpStream::connect(place.address).is_err()).await, "nobody new is let in");
    let (status, body) = asked.await.unwrap().expect("it is not cut off");
    assert_eq!((status, body["message"].as_str()), (201, Some("OTP has been sent to the device ")), "{body}");
    assert!(server.ended(Duration::from_secs(5)).success());
    assert_eq!(place.log(), "", "a stop in order is no warning");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_under_load_cuts_no_answer_and_begins_nothing_that_it_does_not_end() {
    let sink = Arc::new(Sink::start().await);
    let place = Arc::new(Place::new("stop", &sink.url));
    let server = place.start();
    let token = token(&place);
    let next = Arc::new(AtomicUsize::new(0));
    let told: Arc<Mutex<Vec<(String, Ending)>>> = Arc::default();
    let callers: Vec<_> = (0..12)
        .map(|_| {
            let (place, token, next, told) = (place.clone(), token.clone(), next.clone(), told.clone());
            std::thread::spawn(move || {
                loop {
                    // Numbers of this provider that end in 7 need a second try; these do not.
                    let number = format!("+9182{:07}0", next.fetch_add(1, Ordering::SeqCst));
                    let ending = one_call(&place, &token, &number);
                    told.lock().unwrap().push((number, ending));
                    if ending != Ending::Answered {
                        return;
                    }
                }
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(700)).await;
    server.signal("TERM");
    for caller in callers {
        caller.join().expect("no caller was told something wrong");
    }
    assert!(server.ended(Duration::from_secs(10)).success());
    let told = told.lock().unwrap();
    let count = |ending| told.iter().filter(|(_, it)| *it == ending).count();
    println!(
        "{} answered, {} turned away at the door, {} never begun",
        count(Ending::Answered),
        count(Ending::Refused),
        count(Ending::Unheard)
    );
    assert!(count(Ending::Answered) > 20, "there was no load");
    let carried = sink.carried.lock().unwrap();
    for (number, ending) in &*told {
        assert_eq!(carried.contains_key(number), *ending == Ending::Answered, "{number}: {ending:?}");
    }
    assert_eq!(place.log(), "");
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Answered,
    /// No connection.
    Refused,
    /// A connection that ended without a byte: the system took it in the moment between our last look and the closing.
    Unheard,
}

fn token(place: &Place) -> String {
    let form = format!("grant_type=client_credentials&client_id={}&client_secret={}", place.client_id, place.client_secret);
    let heard = exchange(place.address, &request("POST", &format!("{API}/get/token"), &[], form.as_bytes()));
    heard.json()["access_token"].as_str().expect("a token").to_owned()
}

/// One request on a connection of its own. An answer that is cut is a panic.
fn one_call(place: &Place, token: &str, number: &str) -> Ending {
    let Ok(mut stream) = TcpStream::connect(place.address) else { return Ending::Refused };
    let ask = json!({"userName": number, "phoneNumber": number, "deviceType": "sms"}).to_string();
    let bearer = format!("Bearer {token}");
    let sent = stream.write_all(&request("POST", &format!("{API}/deviceAuthentications"), &[("authorization", &bearer)], ask.as_bytes()));
    let mut all = Vec::new();
    let read = stream.read_to_end(&mut all);
    if all.is_empty() {
        return Ending::Unheard;
    }
    let heard = Heard(all);
    assert!(sent.is_ok() && read.is_ok(), "cut: {}", heard.text());
    assert_eq!(heard.status(), Some(201), "{}", heard.text());
    assert_eq!(heard.header("content-length"), Some(heard.body().len().to_string()), "cut: {}", heard.text());
    Ending::Answered
}

// ---------------------------------------------------------------------------------------------------------------------- TLS

/// Writes a new certificate for localhost and its key, and gives the certificate.
fn write_certificate(folder: &Path) -> reqwest::Certificate {
    let pair = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    let key = folder.join("key.pem");
    std::fs::write(&key, pair.signing_key.serialize_pem()).unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(folder.join("certificate.pem"), pair.cert.pem()).unwrap();
    reqwest::Certificate::from_pem(pair.cert.pem().as_bytes()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_renewed_by_its_file_while_the_server_runs() {
    let mut place = Place::new("tls", "http://127.0.0.1:9/");
    let first = write_certificate(place.folder.path());
    place.settings.extend([
        ("COUNTERSIGN_SERVER_TLS_CERTIFICATE", "certificate.pem".into()),
        ("COUNTERSIGN_SERVER_TLS_KEY", "key.pem".into()),
        ("COUNTERSIGN_LOG", "info".into()),
    ]);
    let _server = place.start();
    let url = format!("https://{}/healthz", place.address);
    let who_trusts = |it: &reqwest::Certificate| {
        let client = reqwest::Client::builder().no_proxy().tls_certs_only([it.clone()]).timeout(Duration::from_secs(5));
        client.build().unwrap().get(&url).send()
    };
    let answer = who_trusts(&first).await.expect("it is trusted");
    assert_eq!((answer.status(), answer.version()), (StatusCode::OK, Version::HTTP_2));
    let plain = exchange(place.address, &request("GET", "/healthz", &[], b""));
    assert!(plain.status().is_none(), "nothing is said in clear: {}", plain.text());

    // A broken renewal keeps the one in use.
    std::fs::write(place.folder.path().join("certificate.pem"), "no certificate").unwrap();
    assert!(becomes(Duration::from_secs(8), async || place.log().contains("The certificate in use stays")).await, "{}", place.log());
    assert!(who_trusts(&first).await.is_ok());

    let second = write_certificate(place.folder.path());
    assert!(becomes(Duration::from_secs(8), async || who_trusts(&second).await.is_ok()).await, "{}", place.log());
    assert!(who_trusts(&first).await.is_err(), "the old one is shown no more");
    assert!(!place.log().contains("PRIVATE"));
}

// -------------------------------------------------------------------------------------------------------------- the settings

#[test]
fn serve_refuses_what_is_unsafe_or_wrong_and_names_it() {
    let place = Place::new("unsafe", "http://127.0.0.1:9/");
    write_certificate(place.folder.path());
    let folder = place.folder.path();
    let mode = |name: &str, mode| std::fs::set_permissions(folder.join(name), std::fs::Permissions::from_mode(mode)).unwrap();
    let refused = |settings: &[(&str, &str)], named: &str| {
        for arguments in [&["serve"][..], &["serve", "--check"]] {
            let done = place.prepare().envs(settings.iter().copied()).args(arguments).output().unwrap();
            let said = String::from_utf8(done.stderr).unwrap();
            assert_eq!(done.status.code(), Some(2), "{settings:?}: {said}");
            assert!(said.contains(named), "{named}: {said}");
            assert_eq!(String::from_utf8(done.stdout).unwrap(), "");
        }
    };
    let anywhere = ("COUNTERSIGN_SERVER_LISTEN", "0.0.0.0:0");
    let named = ("COUNTERSIGN_SERVER_PUBLIC_URL", "https://mfa.example.com");
    refused(&[anywhere], "server.public_url");
    refused(&[anywhere, named], "server.listen");
    refused(&[("COUNTERSIGN_SERVER_PUBLIC_URL", "http://mfa.example.com")], "server.public_url");
    refused(&[("COUNTERSIGN_SERVER_TRUSTED_PROXIES", "0.0.0.0/0")], "server.trusted_proxies");
    refused(&[("COUNTERSIGN_EGRESS_ALLOW", "::/0")], "egress.allow");
    refused(&[("COUNTERSIGN_DEVELOPMENT_ALLOW_INBOX", "true"), named], "development.allow_inbox");
    refused(&[("COUNTERSIGN_LIMITS_BODY_BYTES", "lots")], "limits.body_bytes");
    refused(&[("COUNTERSIGN_SERVER_TLS_CERTIFICATE", "certificate.pem")], "server.tls");
    refused(&[("COUNTERSIGN_CONFIG", "nowhere.toml")], "nowhere.toml");
    std::fs::write(folder.join("wrong.toml"), "[server]\nlisten = \"127.0.0.1:0\"\ntrust = 1\n").unwrap();
    refused(&[("COUNTERSIGN_CONFIG", "wrong.toml")], "wrong.toml, line 3: server.trust");
    for (file, bad, good, setting) in
        [("master.key", 0o644, 0o600, "secrets.master_key_file"), ("countersign.db", 0o604, 0o600, "storage.path")]
    {
        mode(file, bad);
        refused(&[], setting);
        mode(file, good);
    }
    mode("key.pem", 0o644);
    let tls = [("COUNTERSIGN_SERVER_TLS_CERTIFICATE", "certificate.pem"), ("COUNTERSIGN_SERVER_TLS_KEY", "key.pem")];
    refused(&tls, "server.tls.key");
    mode("key.pem", 0o640);
    assert!(place.prepare().envs(tls).args(["serve", "--check"]).output().unwrap().status.success());
}

#[test]
fn a_port_in_use_is_told_and_worth_another_try() {
    let place = Place::new("port", "http://127.0.0.1:9/");
    let _server = place.start();
    let done = place.prepare().arg("serve").output().unwrap();
    let said = String::from_utf8(done.stderr).unwrap();
    assert_eq!(done.status.code(), Some(3), "{said}");
    assert!(said.contains("in use by another program"), "{said}");
    assert_eq!(get(&place, "/readyz").status(), Some(200), "the one that runs is not disturbed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_commands_change_a_running_server_follows() {
    let (first, second) = (Sink::start().await, Sink::start().await);
    let place = Place::new("changes", &first.url);
    let _server: Running = place.start();
    let caller = Caller::new(&place).await;
    let numbers = AtomicUsize::new(0);
    let number = || format!("+9182{:07}0", numbers.fetch_add(1, Ordering::SeqCst));
    let base = format!("http://{}{API}/deviceAuthentications", place.address);
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let token = token(&place);
    let with_template = async |name: &str| {
        let number = number();
        let ask = json!({"userName": number, "phoneNumber": number, "deviceType": "sms", "templateName": name});
        http.post(&base).bearer_auth(&token).json(&ask).send().await.unwrap().status() == StatusCode::CREATED
    };
    assert!(!with_template("greeting").await);
    std::fs::write(place.folder.path().join("words"), "Hello {{ code }}").unwrap();
    place.command(&["template", "put", "demo", "greeting", "sms", "--text", "words"]);
    assert!(becomes(SEEN_WITHIN, async || with_template("greeting").await).await, "a new template");

    let settings = json!({"url": second.url, "json": {"to": "{{ to }}", "code": "{{ code }}"}});
    std::fs::write(place.folder.path().join("second.json"), settings.to_string()).unwrap();
    place.command(&["provider", "add", "demo", "second", "--channel", "sms", "--file", "second.json"]);
    place.command(&["tenant", "route", "add", "demo", "sms", "second"]);
    let goes_by_second = async || {
        let number = number();
        status_of(caller.ask(&number, &number).await) == 201 && second.code(&number).is_some()
    };
    assert!(becomes(SEEN_WITHIN, goes_by_second).await, "another route");

    place.command(&["tenant", "set", "demo", "--set", "countries=44"]);
    let foreign = async || {
        let number = number();
        status_of(caller.ask(&number, &number).await) >= 400
    };
    assert!(becomes(SEEN_WITHIN, foreign).await, "another policy");
    place.command(&["tenant", "set", "demo", "--set", "countries="]);

    place.command(&["client", "disable", "demo", &place.client_id]);
    let refused = async || {
        let number = number();
        status_of(caller.ask(&number, &number).await) == 401
    };
    assert!(becomes(SEEN_WITHIN, refused).await, "a client that is switched off");
    let seen: BTreeSet<_> = second.carried.lock().unwrap().keys().cloned().collect();
    let late = number();
    assert_eq!(status_of(caller.ask(&late, &late).await), 401);
    assert_eq!(second.carried.lock().unwrap().keys().cloned().collect::<BTreeSet<_>>(), seen, "it sends nothing");
    place.command(&["client", "enable", "demo", &place.client_id]);
    assert!(becomes(SEEN_WITHIN, goes_by_second).await, "and on again");

    let told: Value = serde_json::from_str(&place.command(&["client", "rotate", "demo", &place.client_id, "--json"])).unwrap();
    let new = told["client_secret"].as_str().unwrap();
    let issues = |secret: &str| {
        let form = format!("grant_type=client_credentials&client_id={}&client_secret={secret}", place.client_id);
        exchange(place.address, &request("POST", &format!("{API}/get/token"), &[], form.as_bytes())).status() == Some(200)
    };
    assert!(becomes(SEEN_WITHIN, async || issues(new)).await, "a new secret");
    assert!(!issues(&place.client_secret), "and the old one is over");
}
