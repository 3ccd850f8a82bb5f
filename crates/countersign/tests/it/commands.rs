//! The commands, as people and scripts use them: secrets, JSON, exit codes, and what `doctor` finds.

use crate::raw::{exchange, request};
use crate::server::{Caller, Folder, Place, Sink};
use serde_json::{Value, json};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};

/// Nobody listens here: the port of `discard`.
const NOBODY: &str = "http://127.0.0.1:9/";

fn run(place: &Place, arguments: &[&str]) -> Output {
    place.prepare().args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn all(done: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr))
}

fn json_of(place: &Place, arguments: &[&str]) -> Value {
    let said = place.command(&[arguments, &["--json"]].concat());
    serde_json::from_str(&said).unwrap_or_else(|why| panic!("{arguments:?}: {why}: {said}"))
}

fn keys(it: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = it.as_object().unwrap_or_else(|| panic!("no object: {it}")).keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

/// A place without a server: what commands need, and no more.
fn desk(name: &str) -> Place {
    Place::new(name, NOBODY)
}

// ------------------------------------------------------------------------------------------------------------------ secrets

#[test]
fn a_secret_comes_from_standard_input_a_file_or_the_environment_and_then_works() {
    let place = desk("secrets");
    let _server = place.start();
    std::fs::write(place.folder.path().join("secret"), "from-a-file-5xTq\n").unwrap();
    let ways: [(&str, &[&str]); 3] = [
        ("from-stdin-5xTq", &["--secret-stdin", "client_secret"]),
        ("from-a-file-5xTq", &["--secret-file", "client_secret=secret"]),
        ("from-variable-5xTq", &["--secret-env", "client_secret=THE_SECRET"]),
    ];
    for (secret, way) in ways {
        let arguments = [&["client", "create", "demo", "App", "--client-id", secret, "--json"][..], way].concat();
        let mut child = place
            .prepare()
            .args(&arguments)
            .env("THE_SECRET", "from-variable-5xTq")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // Who does not read it may be gone already.
        let _ = child.stdin.take().unwrap().write_all(b"from-stdin-5xTq\n");
        let done = child.wait_with_output().unwrap();
        assert!(done.status.success(), "{way:?}: {}", all(&done));
        let told: Value = serde_json::from_slice(&done.stdout).unwrap();
        assert_eq!(keys(&told), ["application", "client_id", "client_secret", "name"]);
        assert_eq!(told["client_secret"], secret);
        let form = format!("grant_type=client_credentials&client_id={secret}&client_secret={secret}");
        let heard = exchange(place.address, &request("POST", "/ciam-mfa/v2/get/token", &[], form.as_bytes()));
        assert_eq!(heard.status(), Some(200), "{way:?}: {}", heard.text());
    }
}

#[test]
fn a_secret_as_an_argument_is_refused_and_not_repeated() {
    let place = desk("arguments");
    let secret = "hunter2-hunter2";
    let pair = format!("--client-secret={secret}");
    let setting = format!("password={secret}");
    let create = ["client", "create", "demo", "App"];
    let add = ["provider", "add", "demo", "post", "--kind", "smtp", "--set", "host=smtp.example.com", "--set", "username=us"];
    for arguments in [
        [&create[..], &[&pair]].concat(),
        [&create[..], &["--secret-file", secret]].concat(),
        [&create[..], &["--secret-env", secret]].concat(),
        [&create[..], &["--secret-file", &format!("client_secret={secret}=")]].concat(),
        [&add[..], &["--set", &setting]].concat(),
    ] {
        let done = run(&place, &arguments);
        assert!(matches!(done.status.code(), Some(1 | 2)), "{arguments:?}: {}", all(&done));
        assert!(!all(&done).contains(secret), "{}", all(&done));
    }
    assert_eq!(json_of(&place, &["client", "list", "demo"]).as_array().unwrap().len(), 1);
    assert_eq!(json_of(&place, &["provider", "list", "demo"]).as_array().unwrap().len(), 1, "nothing is kept");
}

#[test]
fn a_master_key_that_others_can_read_is_told_of_by_every_command() {
    let place = desk("readable");
    let list = || all(&run(&place, &["client", "list", "demo"]));
    assert!(!list().contains("chmod"));
    let key = place.folder.path().join("master.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let said = list();
    assert!(said.contains("has mode 644") && said.contains("chmod 600"), "{said}");
}

#[test]
fn a_secret_that_is_stored_is_shown_by_name_only_and_stays_until_another_is_given() {
    let mut place = desk("shown");
    place.settings.push(("TOKEN", "tok-canary-9Lq".into()));
    let settings = json!({"url": NOBODY, "auth": {"bearer": "{{ secret.token }}"}, "form": {"to": "{{ to }}"}});
    std::fs::write(place.folder.path().join("with.json"), settings.to_string()).unwrap();
    let add = ["provider", "add", "demo", "with", "--channel", "sms", "--file", "with.json"];
    assert_eq!(run(&place, &add).status.code(), Some(1), "it needs the secret that its settings use");
    place.command(&[&add[..], &["--secret-env", "token=TOKEN"]].concat());
    // Changed without the secret: the one that is there stays.
    place.command(&add);
    for arguments in
        [&["provider", "show", "demo", "with"][..], &["provider", "list", "demo"], &["provider", "show", "demo", "with", "--json"]]
    {
        let said = place.command(arguments);
        assert!(said.contains("token") && !said.contains("tok-canary-9Lq"), "{said}");
    }
}

// --------------------------------------------------------------------------------------------------------- shapes and codes

#[test]
fn json_has_the_shape_that_scripts_rely_on() {
    let place = desk("shapes");
    std::fs::write(place.folder.path().join("words"), "Hello {{ code }}").unwrap();
    let id = place.client_id.clone();
    let client = ["application", "client_id", "created_at", "disabled", "email_from", "name", "secrets"];
    assert_eq!(keys(&json_of(&place, &["client", "list", "demo"])[0]), client);
    assert_eq!(keys(&json_of(&place, &["client", "disable", "demo", &id])), client);
    assert_eq!(keys(&json_of(&place, &["client", "enable", "demo", &id])), client);
    let rotated = json_of(&place, &["client", "rotate", "demo", &id, "--keep-old"]);
    assert_eq!(keys(&rotated), ["application", "client_id", "client_secret", "name"]);
    let template = json_of(&place, &["template", "put", "demo", "hello", "sms", "--text", "words"]);
    assert_eq!((template["name"].as_str(), template["text"].as_str()), (Some("hello"), Some("Hello {{ code }}")), "{template}");
    assert_eq!(json_of(&place, &["template", "list", "demo"]).as_array().map(Vec::len), Some(1));
    assert_eq!(json_of(&place, &["template", "remove", "demo", "hello", "sms"])["done"], "removed");
    let shown = json_of(&place, &["provider", "show", "demo", "sink"]);
    assert_eq!((shown["kind"].as_str(), shown["channels"][0].as_str()), (Some("http"), Some("sms")), "{shown}");
    let tenant = json_of(&place, &["tenant", "show", "demo"]);
    assert_eq!((tenant["name"].as_str(), tenant["policy"]["code_length"].as_u64()), (Some("demo"), Some(6)), "{tenant}");
    assert_eq!(json_of(&place, &["tenant", "route", "list", "demo"]).as_array().map(Vec::len), Some(1));
    let presets = json_of(&place, &["provider", "presets"]);
    assert!(presets.as_array().unwrap().iter().any(|it| it["preset"] == "vonage"), "{presets}");
    assert_eq!(
        json_of(&place, &["user", "unlock", "demo", &id, "jdoe", "--channel", "totp"]),
        json!({"channels": ["totp"], "cleared": 0, "pauses": 0})
    );
    assert!(place.command(&["user", "unlock", "demo", &id, "jdoe"]).contains("Nothing was counted"));
    assert_eq!(json_of(&place, &["serve", "--check"])["settings"], "ok");
}

#[test]
fn exit_codes_tell_scripts_whether_trying_again_helps() {
    let mut place = desk("codes");
    for (arguments, code) in [
        (&["tenant", "list"][..], 0),
        (&["tenant", "show", "nobody"], 1),
        (&["tenant", "create", "demo"], 1),
        (&["client", "disable", "demo", "nobody"], 1),
        (&["provider", "remove", "demo", "sink"], 1),
        (&["provider", "test", "demo", "sink"], 1),
        (&["tenant", "set", "demo", "--set", "code_length=3"], 1),
        (&["tenant", "set", "demo", "--set", "no_such_rule=3"], 2),
        (&["tenant", "route", "add", "demo", "pigeon", "sink"], 2),
        (&["tenant", "route", "add", "demo", "sms", "sink", "--for", "91"], 2),
        (&["tenant", "route", "add", "demo", "sms", "sink", "sink"], 2),
        (&["no-such-command"], 2),
        (&[], 2),
        (&["template", "put", "demo", "x", "sms", "--text", "no-such-file"], 2),
    ] {
        let done = run(&place, arguments);
        assert_eq!(done.status.code(), Some(code), "{arguments:?}: {}", all(&done));
        assert_eq!(done.stderr.is_empty(), code == 0, "{arguments:?}: {}", all(&done));
    }
    place.settings.push(("COUNTERSIGN_STORAGE_PATH", ".".into()));
    let done = run(&place, &["tenant", "list"]);
    assert_eq!(done.status.code(), Some(3), "the database is away: {}", all(&done));
}

#[test]
fn what_only_looks_makes_no_database_and_no_key() {
    let folder = Folder::new("looks");
    for arguments in
        [&["tenant", "list"][..], &["tenant", "show", "demo"], &["client", "create", "demo", "App"], &["serve", "--check"], &["doctor"]]
    {
        let done = Command::new(env!("CARGO_BIN_EXE_countersign")).args(arguments).current_dir(folder.path()).output().unwrap();
        let is_a_look = ["serve", "doctor"].contains(&arguments[0]);
        assert_eq!(done.status.code(), Some(i32::from(!is_a_look)), "{arguments:?}: {}", all(&done));
        assert_eq!(all(&done).contains("there is no database at countersign.db"), !is_a_look, "{arguments:?}: {}", all(&done));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "{arguments:?}");
    }
}

#[test]
fn a_tenant_that_cannot_have_its_senders_is_not_made() {
    let place = desk("senders");
    for wrong in [["--email-from", "Bad"], ["--sms-from", "far too long a name"], ["--set", "attempts=99"], ["--set", "region=usa"]] {
        let done = run(&place, &[&["tenant", "create", "acme"][..], &wrong].concat());
        assert!(matches!(done.status.code(), Some(1 | 2)), "{wrong:?}: {}", all(&done));
        let done = run(&place, &["tenant", "show", "acme"]);
        assert!(all(&done).contains("there is no tenant acme"), "{wrong:?}: {}", all(&done));
    }
    let made = json_of(&place, &["tenant", "create", "acme", "--email-from", "Acme <mfa@example.com>", "--sms-from", "Acme"]);
    assert_eq!((made["email_from"].as_str(), made["sms_from"].as_str()), (Some("Acme <mfa@example.com>"), Some("Acme")), "{made}");
    assert!(all(&run(&place, &["tenant", "create", "acme"])).contains("there is a tenant acme already"));
}

#[test]
fn a_server_that_could_not_work_does_not_start() {
    let mut place = desk("start");
    let folder = place.folder.path().to_owned();
    let started = |place: &Place, code: i32, why: &str| {
        let done = run(place, &["serve"]);
        assert_eq!(done.status.code(), Some(code), "{}", all(&done));
        assert!(all(&done).contains(why), "{}", all(&done));
    };
    let key = folder.join("master.key");
    let right = std::fs::read(&key).unwrap();
    std::fs::write(&key, "00".repeat(32)).unwrap();
    started(&place, 1, "the master key does not open 1 of 1 tenants: demo");
    std::fs::write(&key, right).unwrap();

    let check = |place: &Place| run(place, &["serve", "--check"]);
    let said = all(&check(&place));
    assert!(said.contains("master.key") && said.contains("The database was not opened"), "{said}");
    std::fs::write(folder.join("roots.pem"), "no root").unwrap();
    place.settings.push(("COUNTERSIGN_EGRESS_ROOTS", "roots.pem".into()));
    assert_eq!(check(&place).status.code(), Some(2));
    assert!(all(&check(&place)).contains("egress.roots: roots.pem holds no certificate"), "{}", all(&check(&place)));
    place.settings.pop();
    for (name, text) in [("COUNTERSIGN_SERVER_TLS_CERTIFICATE", "c.pem"), ("COUNTERSIGN_SERVER_TLS_KEY", "k.pem")] {
        place.settings.push((name, text.into()));
    }
    assert!(all(&check(&place)).contains("server.tls.certificate: c.pem cannot be read"), "{}", all(&check(&place)));
    place.settings.push(("COUNTERSIGN_LOG", "loud".into()));
    started(&place, 2, "COUNTERSIGN_LOG: log.level: `loud` is none");
}

#[test]
fn completions_are_a_script_that_bash_reads() {
    let folder = Folder::new("completions");
    let done = Command::new(env!("CARGO_BIN_EXE_countersign")).args(["completions", "bash"]).current_dir(folder.path()).output().unwrap();
    assert!(done.status.success(), "{}", all(&done));
    let script = String::from_utf8(done.stdout).unwrap();
    for word in ["doctor", "provider", "--secret-stdin", "unlock"] {
        assert!(script.contains(word), "{word}");
    }
    let file = folder.path().join("countersign.bash");
    std::fs::write(&file, script).unwrap();
    let read = Command::new("bash").arg("-n").arg(&file).output().unwrap();
    assert!(read.status.success() && read.stderr.is_empty(), "{}", all(&read));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "it makes no database");
}

// ----------------------------------------------------------------------------------------------------------------- the work

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_administrator_opens_a_locked_factor_under_a_running_server() {
    let sink = Sink::start().await;
    let place = Place::new("unlock", &sink.url);
    let _server = place.start();
    let caller = Caller::new(&place).await;
    let number = "+918212345210";
    let (_, body) = caller.ask("jdoe", number).await.unwrap();
    let id = body["authId"].as_str().unwrap().to_owned();
    for _ in 0..3 {
        assert_ne!(caller.answer(&id, "x00000").await.unwrap().0, 200);
    }
    for _ in 0..3 {
        let wrong = crate::house::another(&sink.code(number).unwrap());
        assert_ne!(caller.answer(&id, &wrong).await.unwrap().0, 200);
    }
    let (status, body) = caller.ask("jdoe", number).await.unwrap();
    assert_ne!(status, 201, "it is locked: {body}");
    place.command(&["user", "unlock", "demo", &place.client_id, "JDoe", "--channel", "sms", "--address", number]);
    let (status, body) = caller.ask("jdoe", number).await.unwrap();
    assert_eq!(status, 201, "{body}");
    let code = sink.code(number).unwrap();
    assert_eq!(caller.answer(body["authId"].as_str().unwrap(), &code).await.unwrap().0, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_is_tested_before_people_need_it() {
    let sink = Sink::start().await;
    let place = Place::new("tested", &sink.url);
    let reached = json_of(&place, &["provider", "test", "demo", "sink"]);
    assert_eq!((keys(&reached), reached["ok"].as_bool()), (vec!["ok", "provider", "said"], Some(true)), "{reached}");
    assert!(sink.carried.lock().unwrap().is_empty(), "a look sends nothing");
    place.command(&["provider", "test", "demo", "sink", "--send", "+91 8212345210"]);
    assert_eq!(sink.code("+918212345210").as_deref(), Some("000000"), "a test message holds no code");
    let done = run(&place, &["provider", "test", "demo", "sink", "--send", "12"]);
    assert_eq!(done.status.code(), Some(2), "{}", all(&done));
}

// ------------------------------------------------------------------------------------------------------------------- doctor

/// What `doctor` says: its exit code, and for each check its state and what it found.
fn doctor(place: &Place) -> (Option<i32>, Vec<(String, String, String)>) {
    let done = run(place, &["doctor", "--json"]);
    let report: Value = serde_json::from_slice(&done.stdout).unwrap_or_else(|why| panic!("{why}: {}", all(&done)));
    assert_eq!(report["ok"].as_bool(), Some(done.status.success()));
    let text = |it: &Value| it.as_str().unwrap_or_default().to_owned();
    let checks = report["checks"].as_array().unwrap();
    let checks = checks.iter().map(|it| (text(&it["check"]), text(&it["state"]), text(&it["found"]) + " -> " + &text(&it["hint"])));
    (done.status.code(), checks.collect())
}

fn finds(place: &Place, check: &str, state: &str, found: &str) {
    let (code, checks) = doctor(place);
    let is_it = |it: &&(String, String, String)| it.0 == check && it.1 == state && it.2.contains(found);
    assert!(checks.iter().any(|it| is_it(&it)), "{check} {state} {found}: {checks:#?}");
    assert_eq!(code, Some(i32::from(checks.iter().any(|it| it.1 == "fail"))), "{checks:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn doctor_is_content_with_what_works_and_finds_what_does_not() {
    let sink = Sink::start().await;
    let place = Place::new("doctor", &sink.url);
    let folder = place.folder.path().to_owned();
    let (code, checks) = doctor(&place);
    assert_eq!(code, Some(0), "{checks:#?}");
    assert!(sink.carried.lock().unwrap().is_empty(), "it sends nothing unless it is asked");

    place.command(&["tenant", "create", "empty"]);
    finds(&place, "empty: routes", "warn", "countersign tenant route add empty");
    let away = json!({"url": NOBODY, "json": {"to": "{{ to }}"}});
    std::fs::write(folder.join("away.json"), away.to_string()).unwrap();
    place.command(&["provider", "add", "demo", "away", "--channel", "sms", "--file", "away.json"]);
    finds(&place, "demo: provider away", "fail", "no connection");
    place.command(&["tenant", "route", "add", "demo", "sms", "away", "sink"]);
    finds(&place, "demo: route sms everywhere", "warn", "works by sink, and not by away");
    place.command(&["tenant", "route", "add", "demo", "sms", "away"]);
    finds(&place, "demo: route sms everywhere", "fail", "none of its providers works");
    place.command(&["tenant", "route", "add", "demo", "sms", "sink"]);
    place.command(&["provider", "remove", "demo", "away"]);
    assert_eq!(doctor(&place).0, Some(0));

    let key = folder.join("master.key");
    let mode = |mode| std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).unwrap();
    mode(0o644);
    finds(&place, "settings", "fail", "chmod 600");
    mode(0o600);
    let right = std::fs::read(&key).unwrap();
    std::fs::write(&key, "00".repeat(32)).unwrap();
    finds(&place, "demo: keys", "fail", "put back the master key");
    std::fs::remove_file(&key).unwrap();
    finds(&place, "master key", "fail", "");
    assert!(!key.exists(), "it makes none");
    std::fs::write(&key, right).unwrap();
    mode(0o600);
    assert_eq!(doctor(&place).0, Some(0));

    // The last page of the database is overwritten; its log is gone since the last command closed it.
    let database = folder.join("countersign.db");
    let whole = std::fs::read(&database).unwrap();
    let mut damaged = whole.clone();
    let end = damaged.len();
    damaged[end - 4096..].fill(0xa5);
    std::fs::write(&database, damaged).unwrap();
    let (code, checks) = doctor(&place);
    assert_eq!(code, Some(1), "{checks:#?}");
    assert!(checks.iter().any(|it| it.1 == "fail" && ["integrity", "database"].contains(&it.0.as_str())), "{checks:#?}");
    std::fs::write(&database, "no database").unwrap();
    finds(&place, "database", "fail", "countersign.db");
    std::fs::write(&database, whole).unwrap();
    assert_eq!(doctor(&place).0, Some(0));
}
