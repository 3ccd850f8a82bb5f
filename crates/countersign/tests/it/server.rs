//! The real server as a process of its own, a provider that it can reach, and a client that speaks the CIAM dialect to it.
//!
//! A place has one node unless a test asks for more; its nodes share a folder, a master key and a database.

use crate::raw;
use crate::tools::until;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A folder that is gone when the test is.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("a folder for the test");
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

/// What the provider was asked to carry: for each number the codes, in order.
pub type Carried = Arc<Mutex<HashMap<String, Vec<String>>>>;

/// A provider over HTTP. Of every ten numbers it is away for one when it is first asked.
pub struct Sink {
    pub url: String,
    /// What it was asked to carry, and what of it it took, each by address.
    pub carried: Carried,
    pub taken: Carried,
    /// What it took, by the id of the delivery.
    pub deliveries: Carried,
}

impl Sink {
    pub async fn start() -> Self {
        let (carried, taken, deliveries) = (Carried::default(), Carried::default(), Carried::default());
        let (all, took, by_id) = (carried.clone(), taken.clone(), deliveries.clone());
        let door = axum::routing::post(move |axum::Json(body): axum::Json<Value>| async move {
            let text = |name: &str| body[name].as_str().expect("a string").to_owned();
            let (to, code) = (text("to"), text("code"));
            let mut carried = all.lock().unwrap();
            let tries = carried.entry(to.clone()).or_default();
            tries.push(code.clone());
            if to.ends_with('7') && tries.len() == 1 {
                return (axum::http::StatusCode::SERVICE_UNAVAILABLE, "{}");
            }
            if let Some(id) = body["id"].as_str() {
                by_id.lock().unwrap().entry(id.to_owned()).or_default().push(code.clone());
            }
            took.lock().unwrap().entry(to).or_default().push(code);
            (axum::http::StatusCode::OK, "{}")
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}/sms", listener.local_addr().expect("an address"));
        tokio::spawn(async move { axum::serve(listener, axum::Router::new().route("/sms", door)).await });
        Self { url, carried, taken, deliveries }
    }

    /// The code that was sent to `number` last.
    pub fn code(&self, number: &str) -> Option<String> {
        self.carried.lock().unwrap().get(number).and_then(|codes| codes.last().cloned())
    }
}

/// The server's place: its folder, ports and client stay the same when the process is killed and started again.
pub struct Place {
    pub folder: Folder,
    /// Where the first node listens, which is the only one in most tests.
    pub address: SocketAddr,
    /// Where each node listens.
    pub nodes: Vec<SocketAddr>,
    pub client_id: String,
    pub client_secret: String,
    /// Settings that go before those of every place.
    pub settings: Vec<(&'static str, String)>,
}

/// A running server.
pub struct Running {
    child: Child,
}

impl Place {
    /// One node on a file in its folder.
    pub fn new(name: &str, sink: &str) -> Self {
        Self::with(name, sink, 1, Vec::new())
    }

    /// So many nodes on one PostgreSQL database.
    pub fn on(name: &str, sink: &str, nodes: usize, url: &str) -> Self {
        Self::with(name, sink, nodes, vec![("COUNTERSIGN_STORAGE_URL", url.to_owned())])
    }

    /// So many nodes with these settings, where nothing was made yet.
    pub fn empty(name: &str, nodes: usize, settings: Vec<(&'static str, String)>) -> Self {
        let folder = Folder::new(name);
        // All are held at once, so that they differ.
        let held: Vec<_> = (0..nodes).map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
        let nodes: Vec<_> = held.iter().map(|it| it.local_addr().expect("an address")).collect();
        let mut settings = settings;
        if nodes.len() > 1 {
            // Tokens name it, so it has to be the same everywhere; alone, a node takes the address at which it listens.
            settings.push(("COUNTERSIGN_SERVER_PUBLIC_URL", "https://mfa.example.com".into()));
        }
        Self { folder, address: nodes[0], nodes, client_id: String::new(), client_secret: String::new(), settings }
    }

    /// Makes a tenant, a client and a provider with the commands that people use.
    pub fn with(name: &str, sink: &str, nodes: usize, settings: Vec<(&'static str, String)>) -> Self {
        let mut place = Self::empty(name, nodes, settings);
        let settings = json!({
            "method": "POST",
            "url": sink,
            "json": {"to": "{{ to }}", "code": "{{ code }}", "id": "{{ delivery_id }}"},
        });
        std::fs::write(place.folder.path().join("sink.json"), settings.to_string()).expect("a file");
        place.command(&["tenant", "create", "demo", "--display-name", "Demo"]);
        place.command(&["provider", "add", "demo", "sink", "--channel", "sms", "--file", "sink.json"]);
        place.command(&["tenant", "route", "add", "demo", "sms", "sink"]);
        let client: Value = serde_json::from_str(&place.command(&["client", "create", "demo", "App", "--json"])).expect("JSON");
        place.client_id = client["client_id"].as_str().expect("a client id").to_owned();
        place.client_secret = client["client_secret"].as_str().expect("a client secret").to_owned();
        place
    }

    /// The command line of this place, without its arguments.
    pub fn prepare(&self) -> Command {
        // The proofs try the program as it is released; tests try the one that was built with them.
        let mut command = Command::new(std::env::var_os("COUNTERSIGN_PROGRAM").unwrap_or_else(|| env!("CARGO_BIN_EXE_countersign").into()));
        // How much is tested is said in the same way as a setting, and is none.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("COUNTERSIGN_")) {
            command.env_remove(name);
        }
        command
            .current_dir(self.folder.path())
            .env("COUNTERSIGN_SERVER_LISTEN", self.address.to_string())
            .env("COUNTERSIGN_STORAGE_PATH", "countersign.db")
            .env("COUNTERSIGN_EGRESS_ALLOW", "127.0.0.0/8")
            .env("COUNTERSIGN_EGRESS_ALLOW_PLAIN_HTTP", "true")
            .env("COUNTERSIGN_LOG", "warn")
            .envs(self.settings.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs one command to its end, and gives what it printed.
    pub fn command(&self, arguments: &[&str]) -> String {
        let done = self.prepare().args(arguments).output().expect("the command starts");
        let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert!(done.status.success(), "{arguments:?}: {}\n{out}\n{err}", done.status);
        out.into_owned()
    }

    /// Starts the server, and waits until it answers.
    pub fn start(&self) -> Running {
        self.start_node(0)
    }

    /// Starts all nodes, and waits until each is ready.
    pub fn start_all(&self) -> Vec<Running> {
        let running = (0..self.nodes.len()).map(|node| self.start_node(node)).collect();
        (0..self.nodes.len()).for_each(|node| self.becomes_ready(node, Duration::from_secs(20)));
        running
    }

    /// Starts one node, and waits until it listens.
    pub fn start_node(&self, node: usize) -> Running {
        let file = |name: &str| std::fs::File::options().create(true).append(true).open(self.folder.path().join(name)).expect("a file");
        let mut command = self.prepare();
        command.env("COUNTERSIGN_SERVER_LISTEN", self.nodes[node].to_string());
        let child = command.arg("serve").stdout(file("server.out")).stderr(file(&log_of(node))).spawn();
        let child = child.expect("the server starts");
        let mut running = Running { child };
        let began = Instant::now();
        while TcpStream::connect(self.nodes[node]).is_err() {
            if let Some(status) = running.child.try_wait().expect("a child") {
                panic!("the server ended with {status}:\n{}", self.log_of(node));
            }
            assert!(began.elapsed() < Duration::from_secs(20), "the server does not listen:\n{}", self.log_of(node));
            std::thread::yield_now();
        }
        running
    }

    /// What a probe of one node says.
    pub fn probe(&self, node: usize, path: &str) -> raw::Heard {
        raw::exchange(self.nodes[node], &raw::request("GET", path, &[], b""))
    }

    /// Waits until a node may be sent callers.
    pub fn becomes_ready(&self, node: usize, within: Duration) {
        let began = Instant::now();
        let ready = until(within, || (self.probe(node, "/readyz").status() == Some(200)).then_some(()));
        let why = || {
            format!("node {node} is not ready after {:?}: {}\n{}", began.elapsed(), self.probe(node, "/readyz").text(), self.log_of(node))
        };
        assert!(ready.is_some(), "{}", why());
    }

    /// What the first node logged.
    pub fn log(&self) -> String {
        self.log_of(0)
    }

    /// What one node logged.
    pub fn log_of(&self, node: usize) -> String {
        std::fs::read_to_string(self.folder.path().join(log_of(node))).unwrap_or_default()
    }
}

/// The name of a node's log.
fn log_of(node: usize) -> String {
    if node == 0 { "server.log".into() } else { format!("server-{node}.log") }
}

impl Running {
    /// Ends the process at once, in the middle of whatever it does (SIGKILL).
    pub fn kill(mut self) {
        self.child.kill().expect("a child");
        self.child.wait().expect("a child");
    }

    /// Sends it a signal, such as `TERM`.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([format!("-{name}"), self.child.id().to_string()]).status().expect("kill runs");
        assert!(sent.success(), "no such process");
    }

    /// How it ended, which must be before `within` is over.
    pub fn ended(mut self, within: Duration) -> ExitStatus {
        until(within, || self.child.try_wait().expect("a child")).unwrap_or_else(|| panic!("the server still runs after {within:?}"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the server answered; nothing, when it was gone.
pub type Answer = Option<(u16, Value)>;

/// How long a caller waits for an answer.
const PATIENCE: Duration = Duration::from_secs(20);

fn base(address: SocketAddr) -> String {
    format!("http://{address}/ciam-mfa/v2")
}

/// A caller with a token.
#[derive(Clone)]
pub struct Caller {
    http: reqwest::Client,
    base: String,
    token: String,
}

impl Caller {
    pub async fn new(place: &Place) -> Self {
        Self::at(place, place.address).await
    }

    /// One that reaches the place by another address, such as a load balancer's.
    pub async fn at(place: &Place, address: SocketAddr) -> Self {
        let http = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().expect("a client");
        let base = base(address);
        let form = [("grant_type", "client_credentials"), ("client_id", &place.client_id), ("client_secret", &place.client_secret)];
        let said = http.post(format!("{base}/get/token")).form(&form).send().await.expect("the server answers");
        let token: Value = said.json().await.expect("JSON");
        let token = token["access_token"].as_str().unwrap_or_else(|| panic!("no token: {token}")).to_owned();
        Self { http, base, token }
    }

    /// The same caller with the same token at another node.
    pub fn to(&self, node: SocketAddr) -> Self {
        Self { base: base(node), ..self.clone() }
    }

    /// The same caller at each node of a place.
    pub fn everywhere(&self, place: &Place) -> Vec<Self> {
        place.nodes.iter().map(|node| self.to(*node)).collect()
    }

    /// Posts any body to a path of the API.
    pub async fn post(&self, path: &str, body: Value) -> Answer {
        let sent = self.http.post(format!("{}/{path}", self.base)).bearer_auth(&self.token).json(&body).send().await;
        let sent = match sent {
            Ok(sent) => sent,
            Err(why) => {
                // A server that is gone says nothing. One that is there has to say something.
                assert!(!why.is_timeout(), "no answer within {PATIENCE:?}: {path}");
                return None;
            }
        };
        let (status, says_when) = (sent.status().as_u16(), sent.headers().contains_key("retry-after"));
        // What is no JSON was not said by the server, but by something before it.
        let body = sent.json().await.ok()?;
        assert!(status != 503 || says_when, "a 503 that does not say when to come back: {body}");
        Some((status, body))
    }

    /// Asks for a code by SMS.
    pub async fn ask(&self, login: &str, number: &str) -> Answer {
        self.post("deviceAuthentications", json!({"userName": login, "phoneNumber": number, "deviceType": "sms"})).await
    }

    /// Answers a challenge.
    pub async fn answer(&self, id: &str, code: &str) -> Answer {
        self.post(&format!("deviceAuthentications/{id}"), json!({"otp": code})).await
    }
}
