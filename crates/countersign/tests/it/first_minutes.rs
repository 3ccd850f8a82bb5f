//! The first five minutes of a stranger: `countersign dev`, the lines that it prints for pasting, and what a script gets of it.

use crate::server::Folder;
use crate::tools;
use crate::trial::{Trial, command, ended};
use serde_json::Value;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::Duration;

/// How soon a stop is a quick one, on a machine that has much to do.
const QUICK: Duration = Duration::from_secs(5);

/// The lines that a person is told to paste: all that follow the sentence that says so.
fn lines_to_paste(trial: &Trial) -> Vec<String> {
    let told = || trial.line(Duration::from_secs(30)).unwrap_or_else(|| panic!("it says no more:\n{}", trial.log()));
    while !told().starts_with("Paste these lines into a shell") {}
    while !told().is_empty() {}
    // They were written at once, so that a pause is their end.
    let mut lines = vec![told()];
    lines.extend(std::iter::from_fn(|| trial.line(Duration::from_millis(500))).filter(|line| !line.is_empty()));
    lines
}

/// Types `lines` into a new shell, one after the other; what the shell printed meanwhile.
fn typed(shell: &str, arguments: &[&str], folder: &Folder, lines: &[String]) -> (String, String) {
    let mut command = Command::new(shell);
    let path = std::env::var_os("PATH").unwrap_or_default();
    command.args(arguments).env_clear().env("PATH", path).env("HOME", folder.path()).current_dir(folder.path());
    let script = folder.path().join("typed");
    std::fs::write(&script, lines.join("\n") + "\n").expect("a file");
    command.stdin(std::fs::File::open(&script).expect("the file"));
    let (status, out, err) = ended(command, Duration::from_secs(60));
    assert!(status.success(), "{shell}: {status}\n{out}\n{err}");
    (out, err)
}

#[test]
fn the_lines_for_pasting_work_as_pasted() {
    let test = "the_lines_for_pasting_work_as_pasted";
    if ["bash", "curl"].iter().any(|tool| tools::find(test, tool).is_none()) {
        return;
    }
    let folder = Folder::new("first-minutes-paste");
    let trial = Trial::start(&folder, &[]);
    let lines = lines_to_paste(&trial);
    // As a person's shell takes them (with history expansion), as a script, and as any other shell.
    for (shell, arguments) in [("bash", &["--norc", "--noprofile", "-i"][..]), ("bash", &["--norc", "--noprofile"]), ("sh", &[])] {
        let (out, err) = typed(shell, arguments, &folder, &lines);
        // A line says an answer or nothing.
        let read = |line| serde_json::from_str(line).unwrap_or_else(|why| panic!("{shell}: {why}: {out}\n{err}"));
        let answers: Vec<Value> = out.lines().map(read).collect();
        let last = answers.last().unwrap_or_else(|| panic!("{shell}: no answer\n{err}"));
        assert_eq!(last["status"], "SUCCESS", "{shell}: {out}\n{err}");
    }
    let ended = trial.stop();
    assert_eq!((ended.status.code(), ended.rest), (Some(0), vec![]));
}

/// The lines of `docs/pryv.md`, under "Try it".
#[test]
fn the_lines_of_the_page_about_pryv_work_as_pasted() {
    let test = "the_lines_of_the_page_about_pryv_work_as_pasted";
    if ["bash", "curl"].iter().any(|tool| tools::find(test, tool).is_none()) {
        return;
    }
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/pryv.md")).expect("the page");
    let (_, from) = page.split_once("## Try it").expect("the part");
    let (_, block) = from.split_once("```sh\n").expect("its lines");
    let (block, _) = block.split_once("```").expect("their end");
    let folder = Folder::new("first-minutes-pryv");
    let (trial, ready) = Trial::ready(&folder);
    let base = |line: &str| if line.starts_with("BASE=") { format!("BASE={}", ready.base_url) } else { line.to_owned() };
    let lines: Vec<_> = block.lines().map(base).collect();
    for (shell, arguments) in [("bash", &["--norc", "--noprofile", "-i"][..]), ("sh", &[])] {
        let (out, err) = typed(shell, arguments, &folder, &lines);
        let answers: Vec<Value> = out.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let has = |at: usize, name: &str| answers.get(at).is_some_and(|it| !it[name].is_null());
        let told = ["token", "mfaToken", "recoveryCodes", "mfaToken", "message", "token", "message"];
        for (at, name) in told.iter().enumerate() {
            assert!(has(at, name), "{shell}: no {name} in answer {at}\n{out}\n{err}");
        }
        assert_eq!(answers.len(), told.len(), "{shell}: {out}\n{err}");
    }
    let ended = trial.stop();
    assert_eq!((ended.status.code(), ended.rest), (Some(0), vec![]));
}

#[test]
fn a_machine_gets_one_line_and_the_messages_as_promised() {
    let folder = Folder::new("first-minutes-json");
    let (trial, ready) = Trial::ready(&folder);
    assert_eq!(ready.tenant, "demo");
    assert!(ready.base_url.starts_with("http://127.0.0.1:"), "{ready:?}");
    assert_eq!(ready.inbox_url, format!("{}/inbox", ready.base_url));

    let asked = tokio::runtime::Runtime::new().expect("a runtime").block_on(async {
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(20)).build().expect("a client");
        let form = [("grant_type", "client_credentials"), ("client_id", &ready.client_id), ("client_secret", &ready.client_secret)];
        let token: Value = http.post(&ready.token_url).form(&form).send().await.expect("an answer").json().await.expect("JSON");
        let token = token["access_token"].as_str().expect("a token").to_owned();
        let call = format!("{}/ciam-mfa/v2/deviceAuthentications", ready.base_url);
        for ask in [
            serde_json::json!({"userName": "jdoe", "deviceType": "sms", "phoneNumber": "+1 202 555 0123"}),
            serde_json::json!({"userName": "jdoe", "deviceType": "email", "email": "jdoe@example.com"}),
        ] {
            let said = http.post(&call).bearer_auth(&token).json(&ask).send().await.expect("an answer");
            assert_eq!(said.status(), 201);
        }
        let list = http.get(&ready.inbox_url).header("accept", "application/json").send().await.expect("an answer");
        list.json::<Vec<serde_json::Map<String, Value>>>().await.expect("a list")
    });

    for item in &asked {
        let mut keys: Vec<&str> = item.keys().map(String::as_str).collect();
        keys.sort_unstable();
        assert_eq!(keys, ["at", "channel", "html", "id", "subject", "text", "to"]);
    }
    let [mail, text] = &asked[..] else { panic!("two messages, not {}", asked.len()) };
    assert_eq!((&mail["channel"], &mail["to"]), (&"email".into(), &"jdoe@example.com".into()), "newest first");
    assert_eq!((&text["channel"], &text["to"]), (&"sms".into(), &"+12025550123".into()));
    assert!(mail["subject"].is_string() && mail["html"].is_string() && mail["text"].is_string());
    assert!(text["subject"].is_null() && text["html"].is_null() && text["text"].is_string());
    assert!(mail["at"].as_str() >= text["at"].as_str() && mail["id"] != text["id"]);

    let ended = trial.stop();
    assert_eq!((ended.status.code(), ended.rest), (Some(0), vec![]), "one line, and no other");
}

#[test]
fn a_second_start_goes_on_with_the_same_client() {
    let folder = Folder::new("first-minutes-again");
    let (trial, first) = Trial::ready(&folder);
    trial.stop();
    let (_trial, second) = Trial::ready(&folder);
    assert_eq!((first.client_id, first.client_secret), (second.client_id, second.client_secret));
}

#[test]
fn a_busy_port_is_named_and_is_exit_code_3() {
    let folder = Folder::new("first-minutes-busy");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let at = taken.local_addr().expect("an address");
    for more in [&[][..], &["--json"]] {
        let mut dev = command(folder.path(), &["dev", "--data", "data", "--listen", &at.to_string()]);
        dev.args(more);
        let (status, out, err) = ended(dev, Duration::from_secs(30));
        assert_eq!((status.code(), out.as_str()), (Some(3), ""), "{err}");
        assert!(err.contains(&format!("port {} of 127.0.0.1 is in use", at.port())) && err.contains("hint: "), "{err}");
    }
}

#[test]
fn a_trial_ends_quickly_when_it_is_told_to_even_while_somebody_looks_at_its_inbox() {
    let folder = Folder::new("first-minutes-stop");
    let (trial, ready) = Trial::ready(&folder);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let http = reqwest::Client::builder().no_proxy().build().expect("a client");
    // The stream of an open page, and a connection that is kept for later.
    let mut stream = runtime.block_on(http.get(format!("{}/events", ready.inbox_url)).send()).expect("an answer");
    assert!(runtime.block_on(stream.chunk()).expect("no error").is_some());
    let page = runtime.block_on(async { http.get(&ready.inbox_url).send().await?.text().await }).expect("a page");
    assert!(page.contains("<title>Inbox"));

    let ended = trial.stop();
    assert_eq!(ended.status.code(), Some(0));
    assert!(ended.within < QUICK, "it took {:?}", ended.within);
}

#[test]
fn the_command_on_the_screen_works_beside_the_server() {
    let folder = Folder::new("first-minutes-command");
    let trial = Trial::start(&folder, &[]);
    let mut told = std::iter::from_fn(|| trial.line(Duration::from_secs(30)));
    let line = told.find_map(|line| line.trim().strip_prefix("Commands").map(str::trim).map(str::to_owned));
    let line = line.unwrap_or_else(|| panic!("no command is shown:\n{}", trial.log()));
    let mut shell = Command::new("sh");
    shell.args(["-c", &line]).env_clear().stdin(Stdio::null());
    let (status, out, err) = ended(shell, Duration::from_secs(30));
    assert!(status.success() && out.starts_with("demo "), "{status}\n{out}\n{err}");
}
