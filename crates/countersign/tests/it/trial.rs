//! `countersign dev` as a process of its own, started as a stranger starts it.

use crate::server::Folder;
use crate::tools;
use serde::Deserialize;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// The line of `dev --json`: these keys, and no other.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ready {
    pub base_url: String,
    pub tenant: String,
    pub token_url: String,
    pub client_id: String,
    pub client_secret: String,
    pub inbox_url: String,
}

/// A running `countersign dev`.
pub struct Trial {
    child: Child,
    lines: Receiver<String>,
    log: PathBuf,
}

/// How a trial ended.
pub struct Ended {
    pub status: ExitStatus,
    pub within: Duration,
    /// What it printed that nobody has read yet.
    pub rest: Vec<String>,
}

/// The command, in a place where nothing of the machine's user is found or changed.
pub fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_countersign"));
    command.env_clear().env("HOME", folder).current_dir(folder).args(arguments).stdin(Stdio::null());
    command
}

impl Trial {
    /// Starts one at a free port, with its data in `folder`.
    pub fn start(folder: &Folder, arguments: &[&str]) -> Self {
        let log = folder.path().join("stderr");
        let mut child = command(folder.path(), &["dev", "--listen", "127.0.0.1:0", "--data", "data"])
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(std::fs::File::options().create(true).append(true).open(&log).expect("a log"))
            .spawn()
            .expect("the server starts");
        let out = BufReader::new(child.stdout.take().expect("a pipe"));
        let (say, lines) = channel();
        std::thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| say.send(line)));
        Self { child, lines, log }
    }

    /// One that talks to a machine, and what it says.
    pub fn ready(folder: &Folder) -> (Self, Ready) {
        let trial = Self::start(folder, &["--json"]);
        let line = trial.line(Duration::from_secs(30)).unwrap_or_else(|| panic!("it said nothing:\n{}", trial.log()));
        let ready = serde_json::from_str(&line).unwrap_or_else(|why| panic!("{why}: {line}"));
        (trial, ready)
    }

    /// The next line of its standard output, if there is one before `within` is over.
    pub fn line(&self, within: Duration) -> Option<String> {
        self.lines.recv_timeout(within).ok()
    }

    /// What it said on standard error.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Asks it to end (SIGTERM), and waits.
    pub fn stop(mut self) -> Ended {
        let began = Instant::now();
        let asked = Command::new("sh").args(["-c", "kill -TERM \"$0\"", &self.child.id().to_string()]).status().expect("a shell");
        assert!(asked.success());
        let status = tools::until(Duration::from_secs(60), || self.child.try_wait().expect("a child"));
        let status = status.unwrap_or_else(|| panic!("it does not end:\n{}", self.log()));
        let within = began.elapsed();
        let rest = std::iter::from_fn(|| self.line(Duration::from_secs(5))).collect();
        Ended { status, within, rest }
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs `command` to its end, which must come before `within` is over. Its status, standard output and standard error.
pub fn ended(mut command: Command, within: Duration) -> (ExitStatus, String, String) {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the command starts");
    let read = |pipe: Box<dyn Read + Send>| {
        let mut pipe = pipe;
        std::thread::spawn(move || {
            let mut text = Vec::new();
            let _ = pipe.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        })
    };
    let out = read(Box::new(child.stdout.take().expect("a pipe")));
    let err = read(Box::new(child.stderr.take().expect("a pipe")));
    let status = tools::until(within, || child.try_wait().expect("a child"));
    let Some(status) = status else {
        let _ = child.kill();
        let _ = child.wait();
        panic!("{:?} does not end", command.get_program());
    };
    (status, out.join().expect("no panic"), err.join().expect("no panic"))
}
