//! Several nodes on one PostgreSQL: behind a real load balancer, behind a real pooler, and when one of them goes.
//!
//! A request and the answer to it meet different nodes here, so nothing of it can be in the memory of one.

use crate::house::another;
use crate::postgres::{Database, daemon, give};
use crate::server::{Caller, Place, Sink};
use crate::tools::{Folder, find, free_port, listens};

use countersign_core::words::secret::Secret;
use countersign_store::{contract, postgres};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A change made by a command is seen by every node within this.
const SEEN_WITHIN: Duration = Duration::from_secs(3);

/// A program between callers and nodes, or between nodes and the database.
pub struct Between {
    address: SocketAddr,
    child: Child,
    _folder: Folder,
}

impl Between {
    fn start(program: &std::path::Path, folder: Folder, port: u16, arguments: &[&str]) -> Self {
        give(&folder.0);
        let child = daemon(program, |it| {
            it.current_dir(&folder.0).args(arguments);
        });
        let between = Self { address: SocketAddr::from(([127, 0, 0, 1], port)), child, _folder: folder };
        assert!(listens(port, Duration::from_secs(10)), "{} does not listen", program.display());
        between
    }
}

impl Drop for Between {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// HAProxy, which sends each request to the next node that says it is ready, and names the node in the answer.
fn haproxy(test: &str, place: &Place) -> Option<Between> {
    let (program, port, folder) = (find(test, "haproxy")?, free_port(), Folder::new("haproxy"));
    let nodes: String = place.nodes.iter().enumerate().map(|(count, address)| format!("  server node-{count} {address}\n")).collect();
    let settings = format!(
        "global
  maxconn 500
defaults
  mode http
  timeout connect 1s
  timeout client 30s
  timeout server 30s
  timeout check 2s
  retries 3
  option redispatch 1
frontend callers
  bind 127.0.0.1:{port}
  default_backend nodes
backend nodes
  balance roundrobin
  option httpchk
  http-check send meth GET uri /readyz ver HTTP/1.1 hdr host localhost
  http-check expect status 200
  default-server check inter 200ms fall 1 rise 1
  http-response set-header x-node %s
{nodes}"
    );
    folder.write("haproxy.cfg", &settings);
    Some(Between::start(&program, folder, port, &["-db", "-f", "haproxy.cfg"]))
}

/// nginx, which takes the next node when one cannot be reached.
fn nginx(test: &str, place: &Place) -> Option<Between> {
    let (program, port, folder) = (find(test, "nginx")?, free_port(), Folder::new("nginx"));
    let nodes: String = place.nodes.iter().map(|it| format!("server {it} fail_timeout=1s;\n")).collect();
    let settings = format!(
        "daemon off; pid nginx.pid; error_log error.log; events {{}}
http {{
  access_log off;
  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
  upstream nodes {{ {nodes} keepalive 8; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://nodes;
      proxy_http_version 1.1;
      proxy_set_header Connection '';
      add_header x-node $upstream_addr always;
    }}
  }}
}}"
    );
    let prefix = folder.0.display().to_string();
    folder.write("nginx.conf", &settings);
    Some(Between::start(&program, folder, port, &["-p", &prefix, "-e", "error.log", "-c", "nginx.conf"]))
}

/// An application that calls the API at one address, and notes which node answered.
struct Application {
    http: reqwest::Client,
    base: String,
    token: String,
    met: Mutex<Vec<String>>,
}

impl Application {
    fn new(address: SocketAddr) -> Self {
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(20)).build().unwrap();
        Self { http, base: format!("http://{address}/ciam-mfa/v2"), token: String::new(), met: Mutex::default() }
    }

    async fn log_in(&mut self, place: &Place) {
        let form = [("grant_type", "client_credentials"), ("client_id", &place.client_id), ("client_secret", &place.client_secret)];
        let said = self.http.post(format!("{}/get/token", self.base)).form(&form).send().await.unwrap();
        let token: Value = said.json().await.unwrap();
        self.token = token["access_token"].as_str().unwrap_or_else(|| panic!("no token: {token}")).to_owned();
    }

    async fn call(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let request = self.http.request(method.parse().unwrap(), format!("{}/{path}", self.base)).bearer_auth(&self.token);
        let request = if body.is_null() { request } else { request.json(&body) };
        let said = request.send().await.unwrap_or_else(|why| panic!("{method} {path}: {why}"));
        if let Some(node) = said.headers().get("x-node") {
            self.met.lock().unwrap().push(node.to_str().unwrap().to_owned());
        }
        let (status, text) = (said.status().as_u16(), said.text().await.unwrap());
        (status, serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    /// Calls, and wants this status.
    async fn wants(&self, wanted: u16, method: &str, path: &str, body: Value) -> Value {
        let (status, said) = self.call(method, path, body).await;
        assert_eq!(status, wanted, "{method} {path}: {said}");
        said
    }
}

/// What an authenticator shows `later` seconds from now, by a program that nobody here wrote.
fn authenticator_shows(oathtool: &std::path::Path, seed: &str, later: u32) -> String {
    let shown = Command::new(oathtool).args(["--totp", "--base32", "--now", &format!("now + {later} seconds"), seed]).output().unwrap();
    assert!(shown.status.success(), "{}", String::from_utf8_lossy(&shown.stderr));
    String::from_utf8(shown.stdout).unwrap().trim().to_owned()
}

/// A place whose tenant sends e-mail as well.
fn place_with_mail(name: &str, sink: &Sink, nodes: usize, url: &str) -> Place {
    let place = Place::on(name, &sink.url, nodes, url);
    place.command(&["provider", "add", "demo", "mail", "--channel", "email", "--file", "sink.json"]);
    place.command(&["tenant", "route", "add", "demo", "email", "mail"]);
    place
}

/// The examples of the CIAM page, each call on its own.
async fn ciam_examples(app: &Application, sink: &Sink, oathtool: &std::path::Path, person: &str, digits: usize) {
    let (number, mailbox) = (format!("+91821234{digits:04}"), format!("{person}@example.com"));
    let by_sms = json!({"userName": person, "phoneNumber": number, "deviceType": "sms"});
    let by_mail = json!({"userName": person, "email": mailbox, "deviceType": "email"});
    for (ask, to) in [(by_sms, &number), (by_mail, &mailbox)] {
        let opened = app.wants(201, "POST", "deviceAuthentications", ask).await;
        let path = format!("deviceAuthentications/{}", opened["authId"].as_str().unwrap());
        let code = sink.code(to).unwrap_or_else(|| panic!("nothing was sent to {to}"));
        let wrong = app.wants(400, "POST", &path, json!({"otp": another(&code)})).await;
        assert_eq!(wrong["code"], "10008", "{wrong}");
        app.wants(200, "POST", &path, json!({"otp": code})).await;
        let again = app.wants(400, "POST", &path, json!({"otp": code})).await;
        assert_eq!(again["code"], "10007", "{again}");
    }
    let devices = format!("users/{person}/mfadevices");
    let added = app.wants(201, "POST", &devices, json!({"deviceType": "TOTP", "deviceName": "phone"})).await;
    let (seed, id) = (added["secret"].as_str().unwrap().to_owned(), added["authId"].as_str().unwrap());
    let shown = authenticator_shows(oathtool, &seed, 0);
    app.wants(200, "POST", &format!("{devices}/{id}"), json!({"otp": shown, "deviceType": "TOTP"})).await;
    let listed = app.wants(200, "GET", &devices, Value::Null).await;
    assert_eq!((listed.as_array().map(Vec::len), &listed[0]["deviceName"]), (Some(1), &json!("phone")), "{listed}");
    let ask = json!({"userName": person, "deviceType": "TOTP", "deviceName": "phone"});
    let opened = app.wants(201, "POST", "deviceAuthentications", ask.clone()).await;
    let path = format!("deviceAuthentications/{}", opened["authId"].as_str().unwrap());
    // The value that made it active is burnt, at every node; the next one is early and good.
    let burnt = app.wants(400, "POST", &path, json!({"otp": shown})).await;
    assert_eq!(burnt["code"], "10008", "{burnt}");
    app.wants(200, "POST", &path, json!({"otp": authenticator_shows(oathtool, &seed, 30)})).await;
    app.wants(204, "DELETE", &format!("{devices}/TOTP/phone"), Value::Null).await;
    let gone = app.wants(400, "POST", "deviceAuthentications", ask).await;
    assert_eq!(gone["code"], "100016", "{gone}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_behind_haproxy_serve_the_ciam_examples_each_call_at_another_node() {
    let test = "nodes::haproxy";
    let (Some(database), Some(oathtool)) = (Database::new(test), find(test, "oathtool")) else { return };
    let sink = Sink::start().await;
    let place = place_with_mail("haproxy", &sink, 2, &database.url());
    let _nodes = place.start_all();
    let Some(balancer) = haproxy(test, &place) else { return };
    until_both_are_used(balancer.address, &place).await;
    let mut app = Application::new(balancer.address);
    app.log_in(&place).await;
    for person in 0..3 {
        ciam_examples(&app, &sink, &oathtool, &format!("jdoe-{person}"), person * 10).await;
    }
    let met = app.met.lock().unwrap();
    let alternating = met.windows(2).filter(|pair| pair[0] != pair[1]).count();
    assert_eq!(alternating, met.len() - 1, "each call meets the other node: {met:?}");
    println!("proof: balancer program=haproxy nodes=2 calls={}", met.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_behind_nginx_serve_the_ciam_examples() {
    let test = "nodes::nginx";
    let (Some(database), Some(oathtool)) = (Database::new(test), find(test, "oathtool")) else { return };
    let sink = Sink::start().await;
    let place = place_with_mail("nginx", &sink, 2, &database.url());
    let _nodes = place.start_all();
    let Some(balancer) = nginx(test, &place) else { return };
    let mut app = Application::new(balancer.address);
    app.log_in(&place).await;
    ciam_examples(&app, &sink, &oathtool, "jdoe", 0).await;
    let met = app.met.lock().unwrap();
    assert_eq!(met.iter().collect::<BTreeSet<_>>().len(), 2, "both nodes answered: {met:?}");
    println!("proof: balancer program=nginx nodes=2 calls={}", met.len());
}

/// Waits until a balancer sends callers to both nodes.
async fn until_both_are_used(balancer: SocketAddr, place: &Place) {
    let app = Application::new(balancer);
    let began = Instant::now();
    loop {
        // Nobody has a token here: 401 is an answer of a node.
        let _ = app.call("GET", "users/nobody/mfadevices", Value::Null).await;
        if app.met.lock().unwrap().iter().collect::<BTreeSet<_>>().len() == place.nodes.len() {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", app.met.lock().unwrap());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_a_node_is_killed_no_call_fails_but_those_that_it_was_answering() {
    let test = "nodes::one_is_killed";
    let Some(database) = Database::new(test) else { return };
    let sink = Arc::new(Sink::start().await);
    let place = Arc::new(Place::on("one-is-killed", &sink.url, 2, &database.url()));
    let mut nodes: Vec<_> = place.start_all().into_iter().map(Some).collect();
    let Some(balancer) = haproxy(test, &place) else { return };
    until_both_are_used(balancer.address, &place).await;
    let caller = Caller::at(&place, balancer.address).await;
    let calls: Arc<Mutex<Vec<Call>>> = Arc::default();
    let over = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let callers: Vec<_> = (0..8)
        .map(|me| {
            let (caller, sink, calls, over) = (caller.clone(), sink.clone(), calls.clone(), over.clone());
            tokio::spawn(async move {
                let mut count = 0;
                while !over.load(std::sync::atomic::Ordering::Relaxed) {
                    let (login, number) = (format!("user-{me}-{count}"), format!("+9182{me}{count:06}0"));
                    count += 1;
                    let began = Instant::now();
                    let said = asks_and_answers(&caller, &sink, &login, &number).await;
                    calls.lock().unwrap().push((began, Instant::now(), said));
                }
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(700)).await;
    let killed_at = Instant::now();
    nodes[0].take().unwrap().kill();
    let gone_at = Instant::now();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    nodes[0] = Some(place.start_node(0));
    place.becomes_ready(0, Duration::from_secs(20));
    tokio::time::sleep(Duration::from_millis(500)).await;
    over.store(true, std::sync::atomic::Ordering::Relaxed);
    for caller in callers {
        caller.await.expect("no caller panics");
    }
    let calls = calls.lock().unwrap();
    let failed: Vec<_> = calls.iter().filter(|(_, _, said)| said.is_err()).collect();
    for (began, ended, said) in &failed {
        assert!(*began <= gone_at && killed_at <= *ended, "it was not in flight when the node went: {said:?}");
    }
    assert!(failed.len() <= 8, "{failed:?}");
    assert!(calls.len() > 100, "only {} pairs of calls", calls.len());
    println!("proof: node_killed program=haproxy pairs_of_calls={} failed_in_flight={} failed_otherwise=0", calls.len(), failed.len());
}

/// When a pair of calls began and ended, and what went wrong, if anything did.
type Call = (Instant, Instant, Result<(), String>);

/// A code is asked for and answered; what went wrong, if anything did.
async fn asks_and_answers(caller: &Caller, sink: &Sink, login: &str, number: &str) -> Result<(), String> {
    let said = caller.ask(login, number).await;
    let Some((201, body)) = said else { return Err(format!("{said:?} to a request")) };
    let code = sink.code(number).ok_or("no message")?;
    let said = caller.answer(body["authId"].as_str().ok_or("no id")?, &code).await;
    let Some((200, _)) = said else { return Err(format!("{said:?} to an answer")) };
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_by_command_reaches_every_node_within_seconds() {
    let Some(database) = Database::new("nodes::changes") else { return };
    let sink = Sink::start().await;
    let place = Place::on("node-changes", &sink.url, 2, &database.url());
    let _nodes = place.start_all();
    let nodes = Caller::new(&place).await.everywhere(&place);
    let asked = std::cell::Cell::new(0);
    let status_at_each = async || {
        let mut all = Vec::new();
        for node in &nodes {
            asked.set(asked.get() + 1);
            let number = format!("+9182{:07}0", asked.get());
            all.push(node.ask(&number, &number).await.expect("an answer").0);
        }
        all
    };
    assert_eq!(status_at_each().await, [201, 201]);
    for (arguments, wanted) in [
        (["tenant", "set", "demo", "--set", "countries=44"], 400),
        (["tenant", "set", "demo", "--set", "countries="], 201),
        (["client", "disable", "demo", &place.client_id, "--json"], 401),
        (["client", "enable", "demo", &place.client_id, "--json"], 201),
    ] {
        place.command(&arguments);
        let began = Instant::now();
        while status_at_each().await != [wanted, wanted] {
            assert!(began.elapsed() < SEEN_WITHIN, "{arguments:?} is not seen everywhere: {:?}", status_at_each().await);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// PgBouncer in transaction mode: two statements of one connection need not meet the same session of the database.
fn pgbouncer(test: &str, database: &Database) -> Option<(Between, String)> {
    pgbouncer_at(test, database, database.cluster.port)
}

/// The same where the way to the database begins at another port.
pub fn pgbouncer_at(test: &str, database: &Database, at: u16) -> Option<(Between, String)> {
    let (program, port, folder) = (find(test, "pgbouncer")?, free_port(), Folder::new("pgbouncer"));
    folder.write("users.txt", &database.cluster.for_pooler());
    let settings = format!(
        "[databases]
* = host=127.0.0.1 port={at}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = users.txt
pool_mode = transaction
max_client_conn = 200
default_pool_size = 5
server_reset_query_always = 0
"
    );
    folder.write("pgbouncer.ini", &settings);
    Some((Between::start(&program, folder, port, &["pgbouncer.ini"]), crate::postgres::url(&[port], &database.name)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_behind_a_pooler_in_transaction_mode_serve_the_ciam_examples() {
    let test = "nodes::pgbouncer";
    let (Some(database), Some(oathtool)) = (Database::new(test), find(test, "oathtool")) else { return };
    let Some((_pooler, url)) = pgbouncer(test, &database) else { return };
    let sink = Sink::start().await;
    let place = place_with_mail("pgbouncer", &sink, 2, &url);
    let _nodes = place.start_all();
    for (count, node) in place.nodes.iter().enumerate() {
        let mut app = Application::new(*node);
        app.log_in(&place).await;
        ciam_examples(&app, &sink, &oathtool, &format!("jdoe-{count}"), count).await;
    }
    // Many at once: statements of different nodes share the few sessions of the database.
    let nodes = Caller::new(&place).await.everywhere(&place);
    let calls: Vec<_> = (0..200)
        .map(|count| {
            let (node, number) = (nodes[count % 2].clone(), format!("+9183{count:07}0"));
            tokio::spawn(async move { node.ask(&number, &number).await.expect("an answer").0 })
        })
        .collect();
    for call in calls {
        assert_eq!(call.await.expect("no panic"), 201);
    }
    println!("proof: pooler program=pgbouncer mode=transaction nodes=2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_contract_holds_on_postgresql_and_through_a_pooler_in_transaction_mode() {
    let test = "nodes::contract";
    let (Some(direct), Some(pooled)) = (Database::new(test), Database::new(test)) else { return };
    let Some((_pooler, through)) = pgbouncer(test, &pooled) else { return };
    for url in [direct.url(), through] {
        let store = Arc::new(postgres::Postgres::open(&postgres::Options::new(Secret::new(url))).await.expect("it opens"));
        contract::holds(store.clone()).await;
        store.close().await;
    }
}
