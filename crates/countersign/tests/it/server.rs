//! The real server as a process of its own, a provider that it can reach, and a client that speaks the CIAM dialect to it.

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
    pub carried: Carried,
    pub taken: Carried,
}

impl Sink {
    pub async fn start() -> Self {
        let (carried, taken) = (Carried::default(), Carried::default());
        let (all, took) = (carried.clone(), taken.clone());
        let door = axum::routing::post(move |axum::Json(body): axum::Json<Value>| async move {
            let text = |name: &str| body[name].as_str().expect("a string").to_owned();
            let (to, code) = (text("to"), text("code"));
            let mut carried = all.lock().unwrap();
            let tries = carried.entry(to.clone()).or_default();
            tries.push(code.clone());
            if to.ends_with('7') && tries.len() == 1 {
                return (axum::http::StatusCode::SERVICE_UNAVAILABLE, "{}");
            }
            took.lock().unwrap().entry(to).or_default().push(code);
            (axum::http::StatusCode::OK, "{}")
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}/sms", listener.local_addr().expect("an address"));
        tokio::spawn(async move { axum::serve(listener, axum::Router::new().route("/sms", door)).await });
        Self { url, carried, taken }
    }

    /// The code that was sent to `number` last.
    pub fn code(&self, number: &str) -> Option<String> {
        self.carried.lock().unwrap().get(number).and_then(|codes| codes.last().cloned())
    }
}

/// The server's place: its folder, port and client stay the same when the process is killed and started again.
pub struct Place {
    pub folder: Folder,
    pub address: SocketAddr,
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
    /// Makes a tenant, a client and a provider with the commands that people use.
    pub fn new(name: &str, sink: &str) -> Self {
        let folder = Folder::new(name);
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("an address");
        let mut place = Self { folder, address: free, client_id: String::new(), client_secret: String::new(), settings: Vec::new() };
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
        let mut command = Command::new(env!("CARGO_BIN_EXE_countersign"));
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
        let file = |name| std::fs::File::options().create(true).append(true).open(self.folder.path().join(name)).expect("a file");
        let child = self.prepare().arg("serve").stdout(file("server.out")).stderr(file("server.log")).spawn();
        let child = child.expect("the server starts");
        let mut running = Running { child };
        let began = Instant::now();
        while TcpStream::connect(self.address).is_err() {
            if let Some(status) = running.child.try_wait().expect("a child") {
                panic!("the server ended with {status}:\n{}", self.log());
            }
            assert!(began.elapsed() < Duration::from_secs(20), "the server does not listen:\n{}", self.log());
            std::thread::yield_now();
        }
        running
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("server.log")).unwrap_or_default()
    }
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

/// A caller with a token.
#[derive(Clone)]
pub struct Caller {
    http: reqwest::Client,
    base: String,
    token: String,
}

impl Caller {
    pub async fn new(place: &Place) -> Self {
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(20)).build().expect("a client");
        let base = format!("http://{}/ciam-mfa/v2", place.address);
        let form = [("grant_type", "client_credentials"), ("client_id", &place.client_id), ("client_secret", &place.client_secret)];
        let said = http.post(format!("{base}/get/token")).form(&form).send().await.expect("the server answers");
        let token: Value = said.json().await.expect("JSON");
        let token = token["access_token"].as_str().unwrap_or_else(|| panic!("no token: {token}")).to_owned();
        Self { http, base, token }
    }

    /// Posts any body to a path of the API.
    pub async fn post(&self, path: &str, body: Value) -> Answer {
        let sent = self.http.post(format!("{}/{path}", self.base)).bearer_auth(&self.token).json(&body).send().await.ok()?;
        let status = sent.status().as_u16();
        Some((status, sent.json().await.ok()?))
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
