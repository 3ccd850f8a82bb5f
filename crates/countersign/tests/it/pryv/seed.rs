//! The documented examples, byte for byte but for host and port, and every form of settings that is found in the field.

use super::sms_service::{CODE, Sms};
use super::stand::{ALL, Generation, JSON, Plan, Said, Stand, TENANT, Table, Way, every};
use serde_json::{Value, json};

/// "Single template", as in `platform.yml` and as in the admin panel.
const SINGLE_YAML: &str = "single:
  url: 'https://api.smsmode.com/http/1.6/sendSMS.do?accessToken=your-api-key&message={{ message }}&emetteur=Pryv%20Lab&numero={{ number }}'
  method: 'GET'
";
const SINGLE_JSON: &str = r#"{
  "single": {
    "url": "https://api.smsmode.com/http/1.6/sendSMS.do?accessToken=your-api-key&message={{ message }}&emetteur=Pryv%20Lab&numero={{ number }}",
    "method": "GET"
  }
}"#;
/// "Single user data".
const SINGLE_DATA: &str = r#"{
  "number":"41791231212",
  "message":"Your Pryv Lab MFA code is: {{ code }}"
}"#;

/// "Challenge-Verify template", twice as well.
const BOTH_YAML: &str = r#"challenge:
  url: 'https://api.smsapi.com/mfa/codes'
  method: 'POST'
  body: '{"phone_number":"{{ number }}"}'
  headers:
    authorization: 'Bearer: your-api-key'
    'content-type': 'application/json'
verify:
  url: 'https://api.smsapi.com/mfa/codes/verifications'
  method: 'POST'
  body: '{"phone_number":"{{ number }}","code":"{{ code }}"}'
  headers:
    authorization: 'Bearer: your-api-key'
    'content-type': 'application/json'
"#;
const BOTH_JSON: &str = r#"{
  "challenge": {
    "url": "https://api.smsapi.com/mfa/codes",
    "method": "POST",
    "body": "{\"phone_number\":\"{{ number }}\"}",
    "headers": {
      "authorization": "Bearer: your-api-key",
      "content-type": "application/json"
    }
  },
  "verify": {
    "url": "https://api.smsapi.com/mfa/codes/verifications",
    "method": "POST",
    "body": "{\"phone_number\":\"{{ number }}\",\"code\":\"{{ code }}\"}",
    "headers": {
      "authorization": "Bearer: your-api-key",
      "content-type": "application/json"
    }
  }
}"#;
/// "Challenge-Verify user data", and the body of `confirm` and `verify` in both modes.
const BOTH_DATA: &str = r#"{
  "number":"41791231212"
}"#;
const CODE_BODY: &str = r#"{
  "code": "12345"
}"#;

/// "Template", the configuration of one endpoint, and "User data".
const ENDPOINT_YAML: &str = r#"url: 'https://api.smsapi.com/mfa/codes?language={{ language }}'
method: 'POST'
body: '{"phone":"{{ phone }}"}'
headers:
  authorization: 'Bearer: YOUR-COMMUNICATION-SERVER-API-KEY'
  'content-type': 'application/json'
"#;
const ENDPOINT_DATA: &str = r#"{
  "language": "en",
  "phone": "41791231212"
}"#;

/// The same with the messaging service of the test in the place of the vendor.
fn here(snippet: &str, sms: &Sms) -> String {
    let host = format!("http://{}", sms.address);
    snippet.replace("https://api.smsmode.com", &host).replace("https://api.smsapi.com", &host)
}

fn indented(text: &str, by: usize) -> String {
    text.lines().map(|it| format!("{}{it}\n", " ".repeat(by))).collect()
}

/// A `platform.yml` with this for endpoints.
fn platform(mode: &str, endpoints: &str) -> String {
    format!(
        "vars:
  MFA_SETTINGS:
    optional: true
    name: \"MFA settings\"
    settings:
      MFA_SESSIONS_TTL_SECONDS:
        description: \"How long an MFA session lives\"
        value: 1800
      MFA_MODE:
        description: \"single or challenge-verify\"
        value: '{mode}'
      MFA_ENDPOINTS:
        description: \"How the communication service is called\"
        value:
{}",
        indented(endpoints, 10)
    )
}

/// A service file in JSON with this for endpoints, as the admin panel shows them.
fn service(mode: &str, endpoints: &str) -> String {
    format!("{{\"sms\": {{\"mode\": \"{mode}\", \"endpoints\": {endpoints}}}, \"sessions\": {{\"ttlSeconds\": 1800}}}}")
}

fn stand(way: Way, generation: Generation, settings: impl Fn(&Sms) -> String) -> Stand {
    Plan { settings: Box::new(settings), ..Plan::new(way, generation.name()) }.start()
}

fn posts(person: &super::stand::Person, path: &str, token: &str, body: &str) -> Said {
    person.call("POST", path, &[JSON, ("authorization", token)], body.as_bytes())
}

#[test]
fn the_example_of_single_mode_works_as_it_is_written() {
    every(ALL, |(way, generation)| {
        for (form, text) in [("platform.yml", platform("single", SINGLE_YAML)), ("admin panel", service("single", SINGLE_JSON))] {
            let stand = stand(way, generation, |sms| here(&text, sms));
            let person = stand.person("janet");
            let mut table = Table::new(format!("single mode, {form}, {way:?} {generation:?}"));
            let sent = |count: usize| {
                let all = stand.sms.seen();
                assert_eq!(all.len(), count, "{all:?}");
                let last = all[count - 1].clone();
                let begins = "GET /http/1.6/sendSMS.do?accessToken=your-api-key&message=Your%20Pryv%20Lab%20MFA%20code%20is:%20";
                let code = last.line.strip_prefix(begins).map(|it| it[..4].to_owned()).unwrap_or_default();
                (last, code, begins)
            };
            let said = posts(&person, "mfa/activate", &person.log_in(), SINGLE_DATA);
            table.row("activate", said.status, 302);
            let (request, code, begins) = sent(1);
            let line = format!("{begins}{code}&emetteur=Pryv%20Lab&numero=41791231212 HTTP/1.1");
            table.row("the request", request.line.clone(), line);
            table.holds("four digits", code.len() == 4 && code.bytes().all(|it| it.is_ascii_digit()), &code);
            table.row("it has no body", request.text().as_str(), "");
            let session = said.token("mfaToken");
            if code != CODE[..4] {
                let said = posts(&person, "mfa/confirm", &session, CODE_BODY);
                table.row("confirm with the example's code", said.error(), generation.wrong_code(CODE));
            }
            let said = person.confirm(&session, &code);
            table.row("confirm", said.status, 200);
            let token = person.half_in();
            if generation == Generation::V1 {
                table.row("challenge", person.challenge(&token).status, 200);
            }
            let (request, code, begins) = sent(2);
            table.row("the next request", request.line, format!("{begins}{code}&emetteur=Pryv%20Lab&numero=41791231212 HTTP/1.1"));
            let said = person.verify(&token, &code);
            table.row("verify", said.status, 200);
            let profile = stand.profile(&person, &said.token("token"));
            let stored = serde_json::from_str::<Value>(SINGLE_DATA).unwrap();
            table.row("the data is stored as it was sent", profile["mfa"]["content"].clone(), stored);
            table.done();
        }
    });
}

#[test]
fn the_example_of_challenge_verify_works_as_it_is_written() {
    every(ALL, |(way, generation)| {
        let forms = [("platform.yml", platform("challenge-verify", BOTH_YAML)), ("admin panel", service("challenge-verify", BOTH_JSON))];
        for (form, text) in forms {
            let stand = stand(way, generation, |sms| here(&text, sms));
            let person = stand.person("janet");
            let mut table = Table::new(format!("challenge-verify, {form}, {way:?} {generation:?}"));
            let mut count = 0;
            let mut sent = |table: &mut Table, row: &str, line: &str, body: &str| {
                count += 1;
                let all = stand.sms.seen();
                table.row(row, all.len(), count);
                let Some(last) = all.last() else { return };
                table.row(&format!("{row}: request"), last.line.clone(), line.to_owned());
                table.row(&format!("{row}: body"), last.text(), body.to_owned());
                table.row(&format!("{row}: authorization"), last.header("authorization"), Some("Bearer: your-api-key"));
                table.row(&format!("{row}: type"), last.header("content-type"), Some("application/json"));
                table.row(&format!("{row}: length"), last.header("content-length").map(str::to_owned), Some(body.len().to_string()));
            };
            let (challenge, verify) = ("POST /mfa/codes HTTP/1.1", "POST /mfa/codes/verifications HTTP/1.1");
            let (asks, tells) = (r#"{"phone_number":"41791231212"}"#, r#"{"phone_number":"41791231212","code":"12345"}"#);

            let said = posts(&person, "mfa/activate", &person.log_in(), BOTH_DATA);
            table.row("activate", said.status, 302);
            sent(&mut table, "activate", challenge, asks);
            let said = posts(&person, "mfa/confirm", &said.token("mfaToken"), CODE_BODY);
            table.row("confirm", said.status, 200);
            sent(&mut table, "confirm", verify, tells);
            let session = person.half_in();
            if generation == Generation::V1 {
                table.row("challenge", person.challenge(&session).status, 200);
            }
            sent(&mut table, "challenge", challenge, asks);
            let said = posts(&person, "mfa/verify", &session, CODE_BODY);
            table.row("verify", said.status, 200);
            sent(&mut table, "verify", verify, tells);
            table.done();
        }
    });
}

#[test]
fn the_example_of_an_endpoint_takes_the_example_of_user_data() {
    let endpoints = format!("challenge:\n{}verify:\n{}", indented(ENDPOINT_YAML, 2), indented(ENDPOINT_YAML, 2));
    every([Generation::V1, Generation::V2], |generation| {
        let stand = stand(Way::Alone, generation, |sms| here(&platform("challenge-verify", &endpoints), sms));
        let person = stand.person("janet");
        let said = posts(&person, "mfa/activate", &person.log_in(), ENDPOINT_DATA);
        assert_eq!(said.status, 302, "{}", said.text());
        let request = stand.sms.last();
        assert_eq!(
            (request.line.as_str(), request.text().as_str()),
            ("POST /mfa/codes?language=en HTTP/1.1", r#"{"phone":"41791231212"}"#)
        );
        assert_eq!(request.header("authorization"), Some("Bearer: YOUR-COMMUNICATION-SERVER-API-KEY"));
    });
}

#[test]
fn every_form_of_settings_is_imported() {
    let challenge_verify = |sms: &Sms| super::stand::challenge_verify(sms)["sms"]["endpoints"].clone();
    let old = |sms: &Sms| json!({"endpoints": {"challenge": sms.url("/mfa/codes"), "verify": sms.url("/mfa/codes/verifications")}, "auth": "Bearer: key"});
    type Form<'a> = (&'a str, Box<dyn Fn(&Sms) -> String + 'a>);
    let group = |key: &str, value: Value| json!({"vars": {"MFA_SETTINGS": {"name": "MFA", "settings": {key: {"value": value}}}}});
    let forms: [Form<'_>; 7] = [
        (
            "service file in YAML",
            Box::new(|sms| {
                let endpoints = indented(&here(BOTH_YAML, sms), 4);
                format!(
                    "http: {{ port: 7000 }}\ncore: {{ url: 'http://core:3000' }}\nsms:\n  mode: challenge-verify\n  endpoints:\n{endpoints}sessions: {{ ttlSeconds: 600 }}\nlogs: {{}}\n"
                )
            }),
        ),
        ("service file in JSON", Box::new(|sms| super::stand::challenge_verify(sms).to_string())),
        ("platform.yml", Box::new(|sms| here(&platform("challenge-verify", BOTH_YAML), sms))),
        (
            "admin panel",
            Box::new(|sms| {
                let settings = json!({"MFA_MODE": {"value": "challenge-verify"}, "MFA_ENDPOINTS": {"value": challenge_verify(sms)}});
                json!({"settings": {"MFA_SETTINGS": {"name": "MFA", "settings": settings}}}).to_string()
            }),
        ),
        (
            "second generation",
            Box::new(|sms| {
                json!({"services": {"mfa": {"mode": "challenge-verify", "sms": {"endpoints": challenge_verify(sms)}, "sessions": {"ttlSeconds": 1800}}}}).to_string()
            }),
        ),
        ("1.6.4 to 1.6.19", Box::new(move |sms| group("MFA_SMS_API_SETTINGS", old(sms)).to_string())),
        (
            "1.6.0",
            Box::new(move |sms| {
                let leaf = |it: String| json!({"value": it, "description": "x"});
                let endpoints = json!({"challenge": leaf(sms.url("/mfa/codes")), "verify": leaf(sms.url("/mfa/codes/verifications"))});
                group("MFA_SMS_API_SETTINGS", json!({"endpoints": endpoints, "auth": leaf("Bearer: key".into())})).to_string()
            }),
        ),
    ];
    let mut table = Table::new("forms of settings");
    for (form, settings) in forms {
        let mut stand = Plan::new(Way::InFront, "v1").prepare();
        std::fs::write(stand.place.folder.path().join("other"), settings(&stand.sms)).unwrap();
        let core = stand.core().url();
        let import = ["import", "pryv", "other", "--tenant", TENANT, "--core-url", &core, "--generation", "v1"];
        let done = stand.place.prepare().args(import).output().unwrap();
        table.holds(form, done.status.success(), String::from_utf8_lossy(&done.stderr));
        if !done.status.success() {
            continue;
        }
        stand.start();
        let person = stand.person("janet");
        // The oldest forms name no body; what they are migrated to is the body of the template, which asks for `phone_number`.
        let said = person.activate(&person.log_in(), &json!({"number": person.number, "phone_number": person.number}));
        table.row(form, (said.status, stand.sms.last().line.as_str()), (302, "POST /mfa/codes HTTP/1.1"));
        if said.status == 302 {
            table.row(form, person.confirm(&said.token("mfaToken"), CODE).status, 200);
        }
        if form.starts_with("1.6") {
            table.row(form, stand.sms.last().header("authorization"), Some("Bearer: key"));
            table.row(form, stand.sms.last().json(), json!({"phone_number": person.number, "code": CODE}));
        }
    }
    table.done();
}

#[test]
fn settings_that_the_original_refuses_are_refused() {
    let stand = Plan::new(Way::Alone, "v1").prepare();
    let endpoint = json!({"url": stand.sms.url("/sms"), "method": "GET"});
    let mut table = Table::new("settings that are refused");
    for (row, settings) in [
        ("no sms block", json!({"http": {"port": 7000}})),
        ("another mode", json!({"sms": {"mode": "pigeon", "endpoints": {"single": endpoint}}})),
        ("no endpoints", json!({"sms": {"mode": "single", "endpoints": {}}})),
        ("challenge without verify", json!({"sms": {"mode": "challenge-verify", "endpoints": {"challenge": endpoint}}})),
    ] {
        std::fs::write(stand.place.folder.path().join("bad"), settings.to_string()).unwrap();
        let done = stand.place.prepare().args(["import", "pryv", "bad", "--tenant", "other"]).output().unwrap();
        table.holds(row, done.status.code() == Some(1) || done.status.code() == Some(2), done.status);
        let shown = stand.place.prepare().args(["tenant", "show", "other"]).output().unwrap();
        table.holds(&format!("{row}: nothing is made"), !shown.status.success(), String::from_utf8_lossy(&shown.stdout));
    }
    table.done();
}
