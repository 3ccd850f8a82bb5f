//! What operators of Pryv.io bring along, and the people of a directory of our own: the commands, as they are used.

use crate::server::Place;
use serde_json::{Value, json};
use std::io::Write;
use std::process::{Output, Stdio};

const CANARY: &str = "canary-of-the-service-7Yp";

/// Of a platform, whose service is at the port of `discard`, where nobody listens.
const PLATFORM: &str = r#"vars:
  MACHINES_AND_PLATFORM_SETTINGS:
    settings:
      DOMAIN: { value: pryv.example }
  SERVICE_INFORMATION_SETTINGS:
    settings:
      PLATFORM_NAME: { value: Pryv Lab }
  API_SETTINGS:
    settings:
      TRUSTED_APPS: { value: '*@https://*.DOMAIN*' }
  MFA_SETTINGS:
    settings:
      MFA_SESSIONS_TTL_SECONDS: { value: 1800 }
      MFA_MODE: { value: single }
      MFA_ENDPOINTS:
        value:
          single:
            url: 'http://127.0.0.1:9/send?token=canary-of-the-service-7Yp&to={{ number }}'
            method: POST
            body: '{"message":"{{ code }}"}'
            headers: { authorization: 'Bearer canary-of-the-service-7Yp', content-type: application/json }
"#;

fn place(name: &str) -> Place {
    let place = Place::empty(name, 1, Vec::new());
    write(&place, "platform.yml", PLATFORM);
    place
}

fn write(place: &Place, name: &str, text: &str) {
    std::fs::write(place.folder.path().join(name), text).unwrap();
}

fn run(place: &Place, arguments: &[&str]) -> Output {
    place.prepare().args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn all(done: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr))
}

fn json_of(place: &Place, arguments: &[&str]) -> Value {
    let said = place.command(&[arguments, &["--json"]].concat());
    assert!(!said.contains(CANARY), "{said}");
    serde_json::from_str(&said).unwrap_or_else(|why| panic!("{arguments:?}: {why}: {said}"))
}

#[track_caller]
fn refused(place: &Place, arguments: &[&str], code: i32, why: &str) {
    let done = run(place, arguments);
    assert_eq!(done.status.code(), Some(code), "{arguments:?}: {}", all(&done));
    assert!(all(&done).contains(why) && !all(&done).contains(CANARY), "{arguments:?}: {}", all(&done));
}

#[test]
fn a_platform_becomes_a_tenant_and_no_credential_is_shown() {
    let place = place("import");
    let said = place.command(&["import", "pryv", "platform.yml", "--core-url", "http://core:3000"]);
    assert!(said.contains("17:11") && said.contains("MFA_ENDPOINTS.single: POST to http://127.0.0.1:9"), "{said}");
    assert!(said.contains("countersign provider test pryv pryv") && !said.contains(CANARY), "{said}");

    let tenant = json_of(&place, &["tenant", "show", "pryv"]);
    assert_eq!((tenant["display_name"].as_str(), tenant["policy"]["code_length"].as_u64()), (Some("Pryv Lab"), Some(4)));
    assert_eq!(tenant["routes"], json!([{"channel": "external", "destination": "", "providers": ["pryv"]}]));
    let provider = json_of(&place, &["provider", "show", "pryv", "pryv"]);
    assert_eq!((provider["kind"].as_str(), &provider["settings"]), (Some("pryv"), &json!({"mode": "single"})));
    assert_eq!(provider["secrets"], json!(["endpoints"]));
    let settings = &json_of(&place, &["pryv", "show", "--tenant", "pryv"])["settings"];
    assert_eq!(settings["generation"], "v1");
    assert_eq!((settings["domain"].as_str(), settings["core_url"].as_str()), (Some("pryv.example"), Some("http://core:3000/")));
    assert_eq!(settings["trusted_apps"], json!(["*@https://*.pryv.example*"]));
    assert_eq!(settings["service"], json!({"name": "Pryv Lab"}));
}

#[test]
fn the_answer_has_the_shape_that_scripts_rely_on() {
    let place = place("import-shape");
    let it = json_of(&place, &["import", "pryv", "platform.yml", "--tenant", "lab", "--generation", "by-client"]);
    let mut keys: Vec<_> = it.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["done", "file", "found", "ignored", "mode", "settings", "tenant", "took", "warnings", "wrong"]);
    assert_eq!((&it["done"], &it["found"], &it["mode"]), (&json!("made"), &json!("platform"), &json!("single")));
    assert_eq!((&it["tenant"], &it["settings"]["generation"], &it["wrong"]), (&json!("lab"), &json!("by_client"), &json!([])));
    assert!(it["took"].as_array().unwrap().contains(&json!({"line": 14, "column": 7, "what": "MFA_MODE: single"})), "{it}");
}

#[test]
fn a_second_import_changes_what_the_file_says_and_leaves_the_rest() {
    let place = place("import-again");
    place.command(&["import", "pryv", "platform.yml"]);
    place.command(&["tenant", "set", "pryv", "--set", "code_length=6", "--display-name", "Ours"]);
    place.command(&["pryv", "set", "--tenant", "pryv", "--generation", "v2", "--access-max-age-s", "3600"]);
    // Another provider on the route, and another route, were put there by somebody who had a reason.
    write(&place, "own.json", r#"{"url": "http://127.0.0.1:9/", "json": {"text": "{{ text }}"}}"#);
    place.command(&["provider", "add", "pryv", "texts", "--channel", "sms", "--file", "own.json"]);
    place.command(&["tenant", "route", "add", "pryv", "sms", "texts"]);
    write(&place, "endpoints.json", r#"{"challenge": {"url": "http://127.0.0.1:9/"}, "verify": {"url": "http://127.0.0.1:9/{{ code }}"}}"#);
    let other = [
        "provider",
        "add",
        "pryv",
        "other",
        "--kind",
        "pryv",
        "--set",
        "mode=challenge-verify",
        "--secret-file",
        "endpoints=endpoints.json",
    ];
    place.command(&other);
    place.command(&["tenant", "route", "add", "pryv", "external", "other"]);

    let both = PLATFORM.replace("single:\n", "challenge:\n").replace("value: single", "value: challenge-verify").replace("1800", "0.5")
        + "          verify: { url: 'http://127.0.0.1:9/verify', body: '{{ code }}', headers: { content-type: text/plain } }\n";
    let mut child = place.prepare().args(["import", "pryv", "-", "--json"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(both.as_bytes()).unwrap();
    let done = child.wait_with_output().unwrap();
    let it: Value = serde_json::from_slice(&done.stdout).unwrap_or_else(|why| panic!("{why}: {}", all(&done)));
    assert_eq!((&it["done"], &it["mode"]), (&json!("changed"), &json!("challenge-verify")), "{it}");

    assert_eq!(json_of(&place, &["provider", "show", "pryv", "pryv"])["settings"], json!({"mode": "challenge-verify"}));
    let tenant = json_of(&place, &["tenant", "show", "pryv"]);
    assert_eq!((tenant["display_name"].as_str(), tenant["policy"]["code_length"].as_u64()), (Some("Ours"), Some(6)));
    let routes: Vec<_> = tenant["routes"].as_array().unwrap().iter().map(|it| (it["channel"].clone(), it["providers"].clone())).collect();
    assert_eq!(routes, [(json!("external"), json!(["pryv", "other"])), (json!("sms"), json!(["texts"]))]);
    let settings = &json_of(&place, &["pryv", "show", "--tenant", "pryv"])["settings"];
    assert_eq!((settings["generation"].as_str(), settings["access_max_age_ms"].as_u64()), (Some("v2"), Some(3_600_000)));
    assert_eq!(settings["session_ttl_ms"], 500);
    // Once more the same, and nothing is there twice.
    write(&place, "both.yml", &both);
    place.command(&["import", "pryv", "both.yml", "--domain", "none"]);
    // The other mode does not go together with the other provider, and changes nothing.
    let refused = place.prepare().args(["import", "pryv", "platform.yml"]).output().unwrap();
    assert!(refused.status.code() == Some(1) && all(&refused).contains("also leads to other"), "{}", all(&refused));
    assert_eq!(json_of(&place, &["provider", "show", "pryv", "pryv"])["settings"], json!({"mode": "challenge-verify"}));
    assert_eq!(json_of(&place, &["tenant", "show", "pryv"])["routes"][0]["providers"], json!(["pryv", "other"]));
    assert_eq!(json_of(&place, &["pryv", "show", "--tenant", "pryv"])["settings"].get("domain"), None);
}

#[test]
fn a_look_at_a_file_and_a_file_that_is_wrong_change_nothing() {
    let place = place("import-check");
    let it = json_of(&place, &["import", "pryv", "platform.yml", "--check"]);
    assert_eq!((&it["done"], &it["settings"]["domain"]), (&json!("checked"), &json!("pryv.example")), "{it}");
    write(&place, "broken.yml", &PLATFORM.replace("{ value: single }", "value: single"));
    write(&place, "broken.json", "{\"single\": {\"url\": \"http://127.0.0.1:9/\"\n \"method\": \"GET\"}}");
    write(&place, "mode.yml", &PLATFORM.replace("value: single", "value: double").replace("1800", "soon"));
    // What may be called is the server's business, and is told with its place as well.
    write(&place, "barred.yml", &PLATFORM.replace("127.0.0.1", "10.1.2.3"));
    for (file, code, why) in [
        ("broken.yml", 1, "14:22  wrong  this is no YAML: mapping values are not allowed"),
        ("broken.json", 1, "2:2   wrong  this is no JSON: expected `,` or `}`"),
        ("mode.yml", 1, "14:26  wrong  MFA_MODE is `double`; it takes single or challenge-verify"),
        ("mode.yml", 1, "2 things are wrong in mode.yml, so nothing was done"),
        ("barred.yml", 1, "egress.allow"),
        ("no-such-file.yml", 2, "cannot be read"),
    ] {
        refused(&place, &["import", "pryv", file], code, why);
    }
    let done = run(&place, &["import", "pryv", "mode.yml", "--json"]);
    let it: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!((done.status.code(), &it["done"], it["wrong"].as_array().map(Vec::len)), (Some(1), &json!("refused"), Some(2)), "{it}");
    for options in [
        ["--generation", "v3"],
        ["--core-url", "core"],
        ["--core-url", "ftp://core"],
        ["--domain", "Not A Domain"],
        ["--tenant", "No Name"],
        ["--mode", "both"],
    ] {
        refused(&place, &[&["import", "pryv", "platform.yml"][..], &options].concat(), 2, "");
    }
    let left: Vec<_> = std::fs::read_dir(place.folder.path()).unwrap().map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
    assert!(left.iter().all(|it| it.ends_with(".yml") || it.ends_with(".json")), "no database and no key was made: {left:?}");
}

/// The examples of the product's own documentation.
#[test]
fn the_documents_examples_become_tenants() {
    let place = place("import-examples");
    let single = "single:
  url: 'https://api.smsmode.com/http/1.6/sendSMS.do?accessToken=canary-of-the-service-7Yp&message={{ message }}&emetteur=Pryv%20Lab&numero={{ number }}'
  method: 'GET'
";
    let panel = json!({
        "challenge": {
            "url": "https://api.smsapi.com/mfa/codes", "method": "POST", "body": "{\"phone_number\":\"{{ number }}\"}",
            "headers": {"authorization": format!("Bearer: {CANARY}"), "content-type": "application/json"},
        },
        "verify": {
            "url": "https://api.smsapi.com/mfa/codes/verifications", "method": "POST",
            "body": "{\"phone_number\":\"{{ number }}\",\"code\":\"{{ code }}\"}",
            "headers": {"authorization": format!("Bearer: {CANARY}"), "content-type": "application/json"},
        },
    });
    write(&place, "single.yml", single);
    write(&place, "both.json", &panel.to_string());
    for (file, tenant, mode) in [("single.yml", "one", "single"), ("both.json", "two", "challenge-verify")] {
        let domain = format!("{tenant}.example.com");
        let it = json_of(&place, &["import", "pryv", file, "--tenant", tenant, "--domain", &domain]);
        assert_eq!((&it["done"], &it["mode"], &it["wrong"]), (&json!("made"), &json!(mode), &json!([])), "{it}");
        assert_eq!(json_of(&place, &["tenant", "show", tenant])["display_name"], tenant);
    }
}

#[test]
fn a_provider_of_another_kind_is_not_overwritten() {
    let place = place("import-other");
    place.command(&["tenant", "create", "pryv"]);
    write(&place, "own.json", r#"{"url": "http://127.0.0.1:9/", "json": {"text": "{{ text }}"}}"#);
    place.command(&["provider", "add", "pryv", "pryv", "--channel", "sms", "--file", "own.json"]);
    refused(&place, &["import", "pryv", "platform.yml"], 1, "has a provider pryv already, of the kind http");
    assert_eq!(json_of(&place, &["provider", "show", "pryv", "pryv"])["kind"], "http");
}

#[test]
fn what_a_tenant_is_told_is_shown_and_changed() {
    let place = place("pryv-set");
    place.command(&["tenant", "create", "demo"]);
    refused(&place, &["pryv", "show", "--tenant", "demo"], 1, "does not speak to applications made for Pryv.io");
    refused(&place, &["pryv", "show", "--tenant", "nobody"], 1, "there is no tenant nobody");
    let set = |options: &[&str]| json_of(&place, &[&["pryv", "set", "--tenant", "demo"][..], options].concat());
    let it = set(&["--generation", "v2", "--domain", "pryv.example", "--session-ttl-s", "0.2", "--trusted-app", "a@https://a.example"]);
    assert_eq!((&it["tenant"], &it["settings"]["session_ttl_ms"]), (&json!("demo"), &json!(200)));
    let it = set(&["--domain", "none", "--api", "https://api.example/{username}/", "--api-version", "2.0.0"]);
    assert_eq!((it["settings"].get("domain"), &it["settings"]["generation"]), (None, &json!("v2")));
    assert_eq!(json_of(&place, &["pryv", "show", "--tenant", "demo"]), it);
    let text = place.command(&["pryv", "show", "--tenant", "demo"]);
    assert!(text.starts_with("demo\n") && text.contains("api                https://api.example/{username}/"), "{text}");
    for (option, value, code, why) in [
        ("--domain", "Pryv.Example", 1, "it takes a host name in small letters"),
        ("--session-ttl-s", "100000", 1, "session_ttl_ms is 100000000; it takes 1 to 86400000 (a day)"),
        ("--session-ttl-s", "soon", 2, "write seconds"),
        ("--api", "https://api.example/", 1, "api has no {username} in it"),
        ("--trusted-app", "anybody", 1, "it takes appId@origin"),
        ("--core-url", "http://core?x=1", 1, "core_url is no address of a server"),
        ("--generation", "v3", 2, "use v1, v2 or by-client"),
    ] {
        refused(&place, &["pryv", "set", "--tenant", "demo", option, value], code, why);
    }
    assert_eq!(json_of(&place, &["pryv", "show", "--tenant", "demo"]), it, "what was refused left nothing");
}

#[test]
fn people_of_our_own_directory_are_added_changed_and_removed() {
    let place = place("people");
    place.command(&["tenant", "create", "demo"]);
    write(&place, "first", "correct horse battery\n");
    write(&place, "second", "another horse battery");
    write(&place, "short", "1");
    let user = |command: &str, rest: &[&str]| {
        let arguments = [&["user", command, "Jane", "--tenant", "demo"][..], rest].concat();
        json_of(&place, &arguments)
    };
    let first = ["--password-file", "first"];
    assert_eq!(user("add", &first), json!({"user": "Jane", "tenant": "demo", "done": "added"}));
    let add = ["user", "add", "jane", "--tenant", "demo", "--password-file", "first"];
    refused(&place, &add, 1, "demo has a user jane already");
    assert_eq!(user("password", &["--password-file", "second"])["done"], "changed");
    refused(&place, &["user", "password", "Jane", "--tenant", "demo", "--password-file", "short"], 1, "a password has");
    refused(&place, &["user", "password", "Jane", "--tenant", "demo", "--password-file", "nowhere"], 2, "cannot be read");
    refused(&place, &["user", "add", "Joe", "--tenant", "nobody", "--password-file", "first"], 1, "there is no tenant nobody");
    assert_eq!(user("reset-mfa", &[]), json!({"user": "Jane", "tenant": "demo", "reset": false}));
    assert_eq!(user("remove", &[])["done"], "removed");
    for command in ["remove", "reset-mfa"] {
        refused(&place, &["user", command, "Jane", "--tenant", "demo"], 1, "demo has no user Jane");
    }
    let done = run(&place, &["user", "add", "Jane", "--tenant", "demo", "--password", "hunter2-hunter2"]);
    assert!(done.status.code() == Some(2) && !all(&done).contains("hunter2"), "{}", all(&done));
}
