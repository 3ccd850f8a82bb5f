//! Every form in which the settings are found, and everything that can be wrong with them, with its place.

use super::*;
use serde_json::json;

const SINGLE: &str = "\
single:
  url: 'https://api.smsmode.com/http/1.6/sendSMS.do?accessToken=your-api-key&message={{ message }}&emetteur=Pryv%20Lab&numero={{ number }}'
  method: 'GET'
";

const BOTH: &str = r#"challenge:
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

const PLATFORM: &str = r#"vars:
  MACHINES_AND_PLATFORM_SETTINGS:
    name: "Machines and platform settings"
    settings:
      DOMAIN:
        value: example.com
        description: "Domain and name of the platform"
      REGISTER_ADMIN_KEY:
        value: canary-of-the-register
  API_SETTINGS:
    settings:
      TRUSTED_APPS:
        value: '*@https://*.DOMAIN*, *@https://pryv.github.io*, nonsense'
      EVENT_TYPES_URL: { value: https://api.pryv.com/event-types/flat.json }
  SERVICE_INFORMATION_SETTINGS:
    optional: true
    settings:
      PLATFORM_NAME: { value: Pryv Lab }
      SUPPORT_URL: { value: REPLACE_ME }
      SERVICE_INFO_ASSETS: { value: { definitions: "https://assets.DOMAIN/index.json" } }
  DNS_SETTINGS:
    settings:
      DNS_ROOT_TXT_ARRAY: { value: [] }
  MFA_SETTINGS:
    optional: true
    name: "MFA settings"
    settings:
      MFA_SESSIONS_TTL_SECONDS:
        value: 1800
        description: "Duration in seconds after which MFA sessions are destroyed"
      MFA_MODE:
        value: 'challenge-verify'
      MFA_ENDPOINTS:
        description: "an external API"
        value:
          challenge:
            url: 'https://sms.DOMAIN/challenge'
            method: 'POST'
            body: '{"phone_number":"{{ phone_number }}"}'
            headers: { authorization: 'canary-of-the-endpoint', 'content-type': 'application/json' }
          verify:
            url: 'https://sms.DOMAIN/verify'
            method: 'POST'
            body: '{"phone_number":"{{ phone_number }}","code":"{{ code }}"}'
            headers: { authorization: 'canary-of-the-endpoint', 'content-type': 'application/json' }
          single:
            url: ''
            method: 'POST'
            body: '{"phone_number":"{{ phone_number }}"}'
  ADVANCED_API_SETTINGS:
    settings:
      SESSION_MAX_AGE: { value: 3600000, description: "Validity of a personal access token" }
"#;

fn ask(text: &str) -> Reading {
    read(text, &Asked::default())
}

#[track_caller]
fn plan_of(text: &str) -> (Plan, Reading) {
    let mut reading = ask(text);
    let plan = reading.plan.take().unwrap_or_else(|| panic!("{reading:#?}"));
    assert!(reading.wrong.is_empty(), "{reading:#?}");
    (plan, reading)
}

fn endpoints(plan: &Plan) -> Value {
    serde_json::from_str(plan.endpoints.reveal()).unwrap()
}

/// Places and beginnings of what was told.
fn told(all: &[Told]) -> Vec<String> {
    all.iter().map(|it| format!("{} {}", it.at, it.what)).collect()
}

#[track_caller]
fn tells(all: &[Told], line: u64, column: u64, what: &str) {
    assert!(all.iter().any(|it| it.at == At { line, column } && it.what.contains(what)), "{line}:{column} {what}: {:#?}", told(all));
}

#[track_caller]
fn is_wrong(text: &str, line: u64, column: u64, what: &str) {
    let reading = ask(text);
    assert!(reading.plan.is_none(), "there is a plan");
    tells(&reading.wrong, line, column, what);
}

#[track_caller]
fn is_warned(text: &str, line: u64, column: u64, what: &str) {
    let (_, reading) = plan_of(text);
    tells(&reading.warnings, line, column, what);
}

/// The one endpoint of mode single with other lines than the usual ones.
fn single(lines: &str) -> String {
    format!("single:\n  {}\n", lines.replace('\n', "\n  "))
}

// ------------------------------------------------------------------------------------------------------------- the forms

#[test]
fn the_documents_snippet_of_single_is_mode_single() {
    let (plan, reading) = plan_of(SINGLE);
    assert_eq!((reading.found, plan.mode, plan.generation), (Some(Found::Endpoints), Mode::Single, Generation::V1));
    let url = "https://api.smsmode.com/http/1.6/sendSMS.do?accessToken=your-api-key&message={{ message }}&emetteur=Pryv%20Lab&numero={{ number }}";
    assert_eq!(endpoints(&plan), json!({"single": {"url": url, "method": "GET", "headers": {}}}));
    tells(&reading.took, 1, 1, "single: GET to https://api.smsmode.com");
    // The code stands in the message of each person, as the document has it: mild, and no more.
    assert_eq!(reading.warnings.len(), 1);
    tells(&reading.warnings, 1, 1, "{{ code }} stands nowhere");
}

#[test]
fn the_documents_snippet_of_two_endpoints_is_mode_challenge_verify() {
    let (plan, reading) = plan_of(BOTH);
    assert_eq!((reading.found, plan.mode), (Some(Found::Endpoints), Mode::ChallengeVerify));
    assert!(reading.warnings.is_empty(), "{reading:#?}");
    let endpoints = endpoints(&plan);
    assert_eq!(endpoints["challenge"]["body"], r#"{"phone_number":"{{ number }}"}"#);
    assert_eq!(endpoints["verify"]["body"], r#"{"phone_number":"{{ number }}","code":"{{ code }}"}"#);
    assert_eq!(endpoints["verify"]["headers"], json!({"authorization": "Bearer: your-api-key", "content-type": "application/json"}));
    tells(&reading.took, 8, 1, "verify: POST to https://api.smsapi.com");
}

#[test]
fn the_admin_panels_json_is_the_same_as_the_yaml() {
    for yaml in [SINGLE, BOTH] {
        let pretty = serde_json::to_string_pretty(&Node::read(yaml).ok().unwrap().json()).unwrap();
        assert_eq!(endpoints(&plan_of(&pretty).0), endpoints(&plan_of(yaml).0));
        assert_eq!(plan_of(&pretty).1.found, Some(Found::Endpoints));
    }
}

#[test]
fn a_whole_platform_is_read_with_its_names_replaced() {
    let (plan, reading) = plan_of(PLATFORM);
    assert_eq!((reading.found, plan.mode, plan.generation), (Some(Found::Platform), Mode::ChallengeVerify, Generation::V1));
    assert_eq!((plan.session_ttl_ms, plan.access_max_age_ms), (Some(1_800_000), Some(3_600_000)));
    assert_eq!((plan.domain.as_deref(), plan.core_url.as_ref()), (Some("example.com"), None));
    assert_eq!(plan.trusted_apps.as_deref().unwrap(), ["*@https://*.example.com*", "*@https://pryv.github.io*"]);
    assert_eq!(
        Value::Object(plan.service.clone()),
        json!({
            "name": "Pryv Lab",
            "eventTypes": "https://api.pryv.com/event-types/flat.json",
            "assets": {"definitions": "https://assets.example.com/index.json"},
        })
    );
    let endpoints = endpoints(&plan);
    assert_eq!(endpoints["challenge"]["url"], "https://sms.example.com/challenge");
    assert_eq!(endpoints["verify"]["headers"]["authorization"], "canary-of-the-endpoint");
    assert!(endpoints.get("single").is_none());
    tells(&reading.took, 5, 7, "DOMAIN: example.com");
    tells(&reading.took, 31, 7, "MFA_MODE: challenge-verify");
    tells(&reading.took, 36, 11, "MFA_ENDPOINTS.challenge: POST to https://sms.example.com");
    tells(&reading.ignored, 8, 7, "REGISTER_ADMIN_KEY");
    tells(&reading.ignored, 19, 7, "SUPPORT_URL: REPLACE_ME still stands in it");
    tells(&reading.ignored, 21, 3, "DNS_SETTINGS: a setting that is of no use here");
    tells(&reading.ignored, 46, 11, "MFA_ENDPOINTS.single: it is not called in mode challenge-verify");
    tells(&reading.warnings, 13, 16, "`nonsense` is left out");
    assert_eq!(reading.warnings.len(), 1, "{reading:#?}");
}

#[test]
fn what_the_admin_panel_gives_is_the_same_platform() {
    let platform = Node::read(PLATFORM).ok().unwrap().json();
    let (expected, _) = plan_of(PLATFORM);
    let groups = &platform["vars"];
    for text in [json!({"settings": groups}).to_string(), groups.to_string()] {
        let (plan, reading) = plan_of(&text);
        assert_eq!(reading.found, Some(Found::Panel));
        assert_eq!((plan.mode, plan.session_ttl_ms, plan.domain.as_deref()), (expected.mode, expected.session_ttl_ms, Some("example.com")));
        assert_eq!(endpoints(&plan), endpoints(&expected));
    }
    // One group alone, with its name or without: nothing says then what DOMAIN is, so it is said beside it.
    let asked = Asked { domain: Some("example.com".into()), mode: None };
    let group = &groups["MFA_SETTINGS"];
    for text in [json!({"MFA_SETTINGS": group}).to_string(), group.to_string(), group["settings"].to_string()] {
        let reading = read(&text, &asked);
        let plan = reading.plan.as_ref().unwrap_or_else(|| panic!("{reading:#?}"));
        assert_eq!((plan.mode, plan.session_ttl_ms), (Mode::ChallengeVerify, Some(1_800_000)));
        assert_eq!(endpoints(plan), endpoints(&expected));
        let without = ask(&text);
        assert!(without.plan.is_none() && without.wrong.iter().all(|it| it.what.contains("--domain")), "{without:#?}");
    }
}

#[test]
fn endpoints_that_were_kept_as_a_text_are_read_all_the_same() {
    let inner = serde_json::to_string(&Node::read(BOTH).ok().unwrap().json()).unwrap();
    let (plan, reading) = plan_of(&format!("MFA_MODE: challenge-verify\nMFA_ENDPOINTS: '{inner}'\n"));
    assert_eq!(endpoints(&plan), endpoints(&plan_of(BOTH).0));
    tells(&reading.took, 2, 16, "MFA_ENDPOINTS.verify: POST");
    is_wrong("MFA_MODE: single\nMFA_ENDPOINTS: '{\"single\": '\n", 2, 16, "MFA_ENDPOINTS is a text, in line 1 of which this is no JSON");
}

/// Until 1.6.19 there were two addresses and one credential.
#[test]
fn the_settings_of_older_platforms_become_endpoints_in_both_shapes() {
    let later = "vars:
  MFA_SETTINGS:
    settings:
      MFA_SESSIONS_TTL_SECONDS: { value: 600 }
      MFA_SMS_API_SETTINGS:
        value:
          endpoints: { challenge: 'https://sms.example.com/c', verify: 'https://sms.example.com/v' }
          auth: 'Bearer canary'
";
    let first = "vars:
  MFA_SETTINGS:
    settings:
      MFA_SESSIONS_TTL_SECONDS: { value: 600 }
      MFA_SMS_API_SETTINGS:
        endpoints:
          challenge: { value: 'https://sms.example.com/c', description: 'first' }
          verify: { value: 'https://sms.example.com/v', description: 'then' }
        auth: { value: 'Bearer canary', description: 'a key' }
";
    let headers = json!({"authorization": "Bearer canary"});
    let expected = json!({
        "challenge": {"url": "https://sms.example.com/c", "method": "POST", "headers": headers,
            "body": r#"{"phone_number":"{{ phone_number }}"}"#},
        "verify": {"url": "https://sms.example.com/v", "method": "POST", "headers": headers,
            "body": r#"{"phone_number":"{{ phone_number }}","code":"{{ code }}"}"#},
    });
    for (text, line, column) in [(later, 7, 24), (first, 7, 11)] {
        let (plan, reading) = plan_of(text);
        assert_eq!((plan.mode, plan.session_ttl_ms), (Mode::ChallengeVerify, Some(600_000)));
        assert_eq!(endpoints(&plan), expected);
        tells(&reading.took, line, column, "MFA_SMS_API_SETTINGS.endpoints.challenge: POST to https://sms.example.com");
        tells(&reading.warnings, line, column, "sent all data of a person");
    }
    let both = format!(
        "{later}      MFA_MODE: {{ value: single }}\n      MFA_ENDPOINTS: {{ value: {{ single: {{ url: 'https://new.example/{{{{ code }}}}', method: GET }} }} }}\n"
    );
    let (plan, reading) = plan_of(&both);
    assert_eq!((plan.mode, endpoints(&plan)["single"]["url"].as_str()), (Mode::Single, Some("https://new.example/{{ code }}")));
    tells(&reading.ignored, 7, 11, "there is MFA_ENDPOINTS");
}

#[test]
fn the_file_of_the_service_is_read_with_its_core() {
    let indented = BOTH.replace('\n', "\n    ");
    let text = format!(
        "http: {{ port: 7000, ip: 0.0.0.0 }}\ncore:\n  url: http://core:3000\nsms:\n  mode: challenge-verify\n  endpoints:\n    {indented}\nsessions: {{ ttlSeconds: 0.2 }}\nlogs: {{}}\n"
    );
    let (plan, reading) = plan_of(&text);
    assert_eq!((reading.found, plan.mode, plan.session_ttl_ms), (Some(Found::Service), Mode::ChallengeVerify, Some(200)));
    assert_eq!(plan.core_url.as_ref().map(Url::as_str), Some("http://core:3000/"));
    assert_eq!(endpoints(&plan), endpoints(&plan_of(BOTH).0));
    tells(&reading.took, 3, 3, "core.url: http://core:3000");
    tells(&reading.ignored, 1, 1, "http: of no use here");
    // The same without a word about the mode, which is its default, and in JSON.
    let json = Node::read(&text.replace("  mode: challenge-verify\n", "")).ok().unwrap().json();
    assert_eq!(plan_of(&json.to_string()).0.mode, Mode::ChallengeVerify);
}

#[test]
fn the_file_of_the_first_service_has_addresses_alone() {
    let text = r#"{"http": {"port": 7000}, "core": {"url": "http://core_router:1337"},
        "sms": {"endpoints": {"challenge": "https://sms.example.com/c", "verify": "https://sms.example.com/v"}, "auth": ""},
        "sessions": {"ttlSeconds": 1800}}"#;
    let (plan, _) = plan_of(text);
    assert_eq!(plan.mode, Mode::ChallengeVerify);
    assert_eq!(endpoints(&plan)["verify"]["headers"], json!({}));
    assert_eq!(plan.core_url.as_ref().map(Url::as_str), Some("http://core_router:1337/"));
}

#[test]
fn a_core_of_the_second_generation_is_read_as_such() {
    let text = "dnsLess: { isActive: false }
dns: { domain: Example.COM }
auth: { trustedApps: '*@https://*.example.com*', sessionMaxAge: 1209600000, adminAccessKey: canary }
service: { name: Lab, support: 'https://help.example.com' }
services:
  mfa:
    mode: single
    sms:
      endpoints:
        challenge: { url: '', method: POST, body: '', headers: {} }
        single: { url: 'https://sms.example.com/{{ code }}', method: get, body: '', headers: {} }
    sessions: { ttlSeconds: 900 }
storages: { base: { engine: sqlite } }
";
    let (plan, reading) = plan_of(text);
    assert_eq!((reading.found, plan.mode, plan.generation), (Some(Found::Core), Mode::Single, Generation::V2));
    assert_eq!((plan.session_ttl_ms, plan.domain.as_deref()), (Some(900_000), Some("example.com")));
    assert_eq!(plan.trusted_apps.as_deref().map(<[_]>::len), Some(1));
    assert_eq!(endpoints(&plan), json!({"single": {"url": "https://sms.example.com/{{ code }}", "method": "GET", "headers": {}}}));
    tells(&reading.ignored, 13, 1, "storages");
    let in_path = text.replace("isActive: false", "isActive: true");
    assert_eq!(plan_of(&in_path).0.domain, None);
}

#[test]
fn methods_of_a_later_core_count_where_the_mode_says_nothing() {
    let text = "services:
  mfa:
    mode: disabled
    methods:
      sms: { active: true, mode: single, endpoints: { single: { url: 'https://sms.example.com/{{ code }}', method: GET } } }
";
    assert_eq!(plan_of(text).0.mode, Mode::Single);
    is_wrong(&text.replace("active: true", "active: false"), 3, 5, "");
}

#[test]
fn the_mode_is_asked_for_where_nothing_says_it() {
    let all = format!("{BOTH}{SINGLE}");
    is_wrong(&all, 1, 1, "say which with --mode");
    for mode in [Mode::Single, Mode::ChallengeVerify] {
        let reading = read(&all, &Asked { mode: Some(mode), domain: None });
        assert_eq!(reading.plan.map(|it| it.mode), Some(mode));
    }
    // What is there but empty, as in the product's own template, says nothing.
    assert_eq!(plan_of(&format!("{SINGLE}challenge: {{ url: '' }}\nverify: {{ url: '' }}\n")).0.mode, Mode::Single);
}

// ------------------------------------------------------------------------------------------------------- what is meant

#[test]
fn names_of_settings_are_replaced_in_each_other_and_the_first_one_wins() {
    let with = |names: &str, host: &str| {
        format!(
            "vars:\n  A:\n    settings:\n      {names}\n  M:\n    settings:\n      MFA_MODE: {{ value: single }}\n      MFA_ENDPOINTS: {{ value: {{ single: {{ url: 'https://{host}/{{{{ code }}}}', method: GET }} }} }}\n"
        )
    };
    let url = |text: &str| endpoints(&plan_of(text).0)["single"]["url"].as_str().unwrap().to_owned();
    let names =
        "DOMAIN: { value: example.com }\n      SMS_HOST: { value: sms.DOMAIN }\n      PORT: { value: 8443 }\n      LIST: { value: [1, 2] }";
    assert_eq!(url(&with(names, "SMS_HOST:PORT")), "https://sms.example.com:8443/{{ code }}");
    assert_eq!(url(&with(names, "api.DOMAIN/LIST")), "https://api.example.com/[1,2]/{{ code }}");
    assert_eq!(url(&with("HOST: { value: a.example }\n      HOSTS: { value: b.example }", "HOSTS")), "https://a.exampleS/{{ code }}");
    is_wrong(&with("ONE: { value: TWO }\n      TWO: { value: ONE }", "ONE"), 9, 48, "without an end");
    is_wrong(&with("HOST: { value: REPLACE_ME }", "HOST"), 8, 48, "REPLACE_ME still stands in it");
}

#[test]
fn a_time_to_live_may_be_a_fraction_and_stand_in_quotes() {
    let ttl = |ttl: &str| {
        format!(
            "MFA_SESSIONS_TTL_SECONDS: {ttl}\nMFA_ENDPOINTS: {{ single: {{ url: 'https://a.example/{{{{ code }}}}', method: GET }} }}\n"
        )
    };
    for (text, ms) in [("1800", 1_800_000), ("0.2", 200), ("'1800'", 1_800_000), ("1.5e1", 15_000), ("0.0001", 1)] {
        assert_eq!(plan_of(&ttl(text)).0.session_ttl_ms, Some(ms), "{text}");
    }
    for (text, told) in [
        ("0", "is 0; it takes seconds"),
        ("-1", "is -1; it takes seconds"),
        ("soon", "is a text"),
        ("true", "is true or false"),
        ("[1]", "is a list"),
        ("", "is nothing"),
        ("86401", "it takes 1 to 86400000 (a day)"),
    ] {
        is_wrong(&ttl(text), 1, if text.is_empty() { 25 } else { 27 }, told);
    }
}

#[test]
fn headers_are_texts_and_those_of_the_client_are_left_out() {
    let (plan, reading) = plan_of(&single(
        "url: 'https://a.example'\nbody: '{\"c\":\"{{ code }}\"}'\nheaders: { x-id: 12, X-On: true, empty: , Content-Length: 3, Accept-Encoding: gzip }",
    ));
    let it = &endpoints(&plan)["single"];
    assert_eq!((it["method"].as_str(), &it["headers"]), (Some("POST"), &json!({"x-id": "12", "X-On": "true", "empty": ""})));
    assert_eq!(reading.ignored.len(), 2, "{reading:#?}");
    is_wrong(&single("url: 'https://a.example'\nheaders: { a: x, A: y }"), 3, 20, "single.headers.A is there already");
}

#[test]
fn whatever_is_not_post_is_get_as_in_the_product() {
    let text = single("url: 'https://a.example/{{ code }}'\nmethod: 'post'\nbody: x");
    let (plan, reading) = plan_of(&text);
    assert_eq!(endpoints(&plan)["single"], json!({"url": "https://a.example/{{ code }}", "method": "GET", "headers": {}}));
    tells(&reading.warnings, 3, 11, "what is not POST is sent as GET");
    tells(&reading.ignored, 4, 3, "GET sends none");
}

// ------------------------------------------------------------------------------------------------------- what is wrong

#[test]
fn a_syntax_error_has_its_line_and_column() {
    is_wrong("single:\n  url: 'https://a.example'\n method: GET\n", 3, 2, "this is no YAML");
    is_wrong("single:\n\turl: x\n", 2, 2, "tabs");
    is_wrong(
        "{\n  \"single\": {\n    \"url\": \"https://a.example\"\n    \"method\": \"GET\"\n  }\n}",
        4,
        5,
        "this is no JSON: expected `,` or `}`",
    );
    is_wrong("single:\n  url: {{ url }}\n", 2, 9, "stands in quotes");
}

#[test]
fn a_file_without_anything_of_use_is_told_as_that() {
    is_wrong("", 1, 1, "there is nothing in it");
    is_wrong("hello", 1, 1, "it is a text");
    is_wrong("[1]", 1, 1, "it is a list");
    is_wrong("a: 1\n", 1, 1, "there is nothing of MFA in it");
    is_wrong("vars:\n  A: { settings: { DOMAIN: { value: a.example } } }\n", 2, 3, "none of its groups has MFA_ENDPOINTS");
    is_wrong("vars: 1\n", 1, 7, "it is a number, where groups");
    is_wrong("sms:\n  mode: single\n", 2, 3, "there are no endpoints");
    is_wrong("core: { url: 'http://core' }\nsessions: {}\n", 1, 1, "there are no endpoints");
    is_wrong("settings: { A: { value: 1 } }\n", 1, 1, "there is nothing of MFA in these settings");
}

#[test]
fn a_mode_that_is_none_is_told_where_it_stands() {
    let with =
        |mode: &str| format!("MFA_MODE: {mode}\nMFA_ENDPOINTS: {{ single: {{ url: 'https://a.example/{{{{ code }}}}', method: GET }} }}\n");
    is_wrong(&with("double"), 1, 11, "MFA_MODE is `double`; it takes single or challenge-verify");
    is_wrong(&with("disabled"), 1, 11, "is disabled");
    is_wrong(&with("MFA_MODE"), 1, 11, "");
    is_wrong(&with("2"), 1, 11, "MFA_MODE is a number; it takes a text");
    is_wrong(&with("challenge-verify"), 1, 11, "is challenge-verify, but the endpoints are those of mode single");
    is_wrong("sms: { mode: MFA_MODE, endpoints: { single: { url: 'https://a.example' } } }\n", 1, 14, "is still a name");
    is_wrong("sms: { mode: single, endpoints: MFA_ENDPOINTS }\n", 1, 33, "is still a name");
    assert_eq!(read(&with("disabled"), &Asked { mode: Some(Mode::Single), domain: None }).wrong, []);
}

#[test]
fn endpoints_that_do_not_fit_the_mode_are_wrong() {
    let one = "MFA_MODE: challenge-verify\nMFA_ENDPOINTS:\n  challenge: { url: 'https://a.example', method: GET }\n";
    is_wrong(one, 1, 1, "there is no endpoint `verify`, which mode challenge-verify calls");
    is_wrong(&format!("{one}  verify: {{ url: '', method: GET }}\n"), 4, 18, "MFA_ENDPOINTS.verify.url is empty");
    is_wrong("challenge: { url: 'https://a.example' }\n", 1, 1, "there is an endpoint `challenge`, but none `verify`");
    is_wrong("verify: { url: 'https://a.example' }\n", 1, 1, "there is an endpoint `verify`, but none `challenge`");
    is_wrong("single: { url: '' }\n", 1, 1, "none of its endpoints has a url");
    is_wrong(&BOTH.replace("challenge:", "challenges:"), 1, 1, "none `challenge`");
    is_wrong("MFA_MODE: single\nMFA_ENDPOINTS: [1]\n", 2, 16, "MFA_ENDPOINTS is a list; it takes a table");
}

#[test]
fn wrong_types_are_told_where_they_stand() {
    is_wrong("single: 12\n", 1, 9, "single is a number; it takes a table");
    is_wrong(&single("uri: 'https://a.example'"), 1, 1, "single has no url");
    is_wrong(&single("url: 12"), 2, 8, "single.url is a number; it takes a text");
    is_wrong(&single("url: 'https://a.example'\nmethod: [POST]"), 3, 11, "single.method is a list");
    is_wrong(&single("url: 'https://a.example'\nbody: { code: '{{ code }}' }"), 3, 9, "single.body is a table; it takes a text; in quotes");
    is_wrong(&single("url: 'https://a.example'\nheaders: none"), 3, 12, "single.headers is a text; it takes a table");
    is_wrong(&single("url: 'https://a.example'\nheaders: { 'a b': x }"), 3, 14, "is no name of a header");
    is_wrong(&single("url: 'https://a.example'\nheaders: { a: [1] }"), 3, 17, "single.headers.a is a list");
    is_wrong(&single("url: 'https://a.example'\nheaders: { a: \"x\\r\\ny: z\" }"), 3, 17, "the end of a line");
    let v2 = "services: { mfa: { mode: single, sms: { endpoints: { single: { url: 'https://a.example', method: HEAD } } } } }\n";
    is_wrong(v2, 1, 98, "is `HEAD`; it takes GET, POST, PUT, PATCH or DELETE");
    let core = |url: &str| {
        format!("core: {{ url: {url} }}\nsms: {{ endpoints: {{ single: {{ url: 'https://a.example/{{{{ code }}}}', method: GET }} }} }}\n")
    };
    is_wrong(&core("core"), 1, 14, "core.url is no address");
    is_wrong(&core("'ftp://core'"), 1, 14, "core_url is no address of a server");
    is_wrong(&core("1"), 1, 14, "core.url is a number");
    is_wrong(&PLATFORM.replace("value: example.com", "value: exam ple"), 6, 16, "DOMAIN: domain is `exam ple`");
    is_wrong(&PLATFORM.replace("3600000", "10"), 52, 33, "access_max_age_ms is 10");
}

#[test]
fn an_address_is_one_and_its_host_is_fixed() {
    for (url, told) in [
        ("https://{{ host }}/x", "placeholder in its host"),
        ("https://a.{{ domain }}", "placeholder in its host"),
        ("https://a.example:{{ port }}/x", "placeholder in its host"),
        ("https://{{ user }}@a.example/", "placeholder in its host"),
        ("{{ url }}", "is no address"),
        ("{{ scheme }}://a.example", "no address of a web service"),
        ("a.example/x", "is no address"),
        ("ftp://a.example/x", "no address of a web service"),
        ("https:///x y", "is no address"),
        ("https://sms.DOMAIN/x", "DOMAIN in its host"),
        ("https://REPLACE_ME/x", "REPLACE_ME"),
        ("   ", "none of its endpoints"),
    ] {
        let reading = ask(&single(&format!("url: '{url}'\nmethod: GET")));
        assert!(reading.plan.is_none() && reading.wrong.iter().any(|it| it.what.contains(told)), "{url}: {reading:#?}");
    }
    for url in [
        "https://a.example?x={{ code }}",
        "http://10.0.0.1:8080/{{ code }}#{{ x }}",
        "https://a.example/é {{ code }}",
        "HTTPS://a.example/{{ a b }}{{ code }}",
    ] {
        assert!(ask(&single(&format!("url: '{url}'\nmethod: GET"))).plan.is_some(), "{url}");
    }
    let domain = Asked { domain: Some("example.com".into()), mode: None };
    let reading = read(&single("url: 'https://sms.DOMAIN/{{ code }}'\nmethod: GET"), &domain);
    tells(&reading.took, 1, 1, "GET to https://sms.example.com");
}

#[test]
fn everything_that_is_wrong_is_told_at_once_and_in_order() {
    let text = "MFA_SESSIONS_TTL_SECONDS: soon\nMFA_MODE: challenge-verify\nMFA_ENDPOINTS:\n  challenge: { url: 'https://{{ x }}' }\n  verify: { url: 12 }\n";
    let lines: Vec<_> = ask(text).wrong.iter().map(|it| it.at.line).collect();
    assert_eq!(lines, [1, 4, 5]);
}

// ---------------------------------------------------------------------------------------------------- what is doubted

#[test]
fn placeholders_that_nobody_fills_are_told() {
    is_warned(&BOTH.replacen("{{ number }}", "{{ number }}{{ code }}", 1), 4, 9, "has no value here");
    is_warned(
        &BOTH.replacen("{{ number }}", "{{number}}", 1),
        4,
        9,
        "challenge.body: `{{number}}` is left as it stands, for a placeholder has one blank on either side: `{{ number }}`",
    );
    is_warned(&BOTH.replacen("{{ number }}", "{{  number }}", 1), 4, 9, "left as it stands");
    is_warned(&BOTH.replacen("Bearer: your-api-key", "{{ key}}", 1), 6, 20, "challenge.headers.authorization: `{{ key}}`");
    is_warned(&BOTH.replacen("mfa/codes'", "mfa/codes/{{ number'", 1), 2, 8, "does not end");
    is_warned(&BOTH.replace("{{ code }}", "{{code}}"), 8, 1, "the service is not told what to check");
    is_warned(&single("url: 'https://a.example/{{ number }}'\nmethod: GET"), 1, 1, "stands nowhere in `single`");
    for right in
        [SINGLE.replace("{{ number }}", "{{ number }}{{ code }}"), BOTH.to_owned(), BOTH.replace("{{ number }}", "{{ mobile number }}")]
    {
        assert_eq!(told(&plan_of(&right).1.warnings), Vec::<String>::new());
    }
    // Braces of JSON that end together are no placeholder.
    let nested = single("url: 'https://a.example'\nbody: '{\"a\":{\"b\":{\"c\":\"{{ code }}\"}}}'");
    assert_eq!(told(&plan_of(&nested).1.warnings), Vec::<String>::new());
}

#[test]
fn what_will_not_do_what_was_meant_is_told() {
    is_warned(&single("url: 'https://a.example'\nbodyTemplate: '{{ code }}'\nbody: '\"{{ code }}\"'"), 3, 3, "this is not used");
    let labelled = "url: 'https://a.example'\nheaders: { content-type: application/json }";
    is_wrong(&single(&format!("{labelled}\nbody: '{{\"code\":\"{{{{ code }}}}\"'")), 4, 9, "says JSON, and this is none");
    is_wrong(&single(&format!("{labelled}\nbody: '{{\"code\": 1{{{{ code }}}}}}'")), 4, 9, "one whole value");
    is_warned(&single(&format!("{labelled}\nbody: 'code={{{{ code }}}}'")), 4, 9, "says JSON, and this is none");
    is_warned(&single("url: 'https://a.example/{{ code }}'"), 1, 1, "POST without a body");
    is_warned(&single("url: 'https://a.example/DOMAIN/{{ code }}'\nmethod: GET"), 2, 8, "DOMAIN stands in it");
    let (_, reading) =
        plan_of(&single("url: 'https://a.example'\nheaders: { content-type: application/json }\nbody: '{\"code\":{{ code }}}'"));
    assert_eq!(told(&reading.warnings), Vec::<String>::new());
}

// -------------------------------------------------------------------------------------------------------- what is kept

#[test]
fn credentials_are_never_told() {
    let canary = "canary-5f1c";
    let spoilt = [
        PLATFORM.replace("canary-of-the-endpoint", canary).replace("canary-of-the-register", canary),
        SINGLE.replace("your-api-key", canary),
        SINGLE.replace("your-api-key", canary).replace("'https://api", "'api"),
        SINGLE.replace("your-api-key", canary).replace("https://", &format!("https://user:{canary}@")),
        BOTH.replace("your-api-key", canary),
        BOTH.replace("'Bearer: your-api-key'", &format!("[{canary}]")),
        BOTH.replace("'Bearer: your-api-key'", &format!("\"{canary}\\n\"")),
        BOTH.replace("'Bearer: your-api-key'", &format!("'{canary}")),
        BOTH.replace("'Bearer: your-api-key'", &format!("@{canary}")),
        format!("sms: {{ endpoints: {{ challenge: 'https://a.example/{canary}', verify: '{canary}' }}, auth: '{canary}' }}"),
        format!("MFA_MODE: single\nMFA_ENDPOINTS: '{{\"single\": \"{canary}'\n"),
        format!("{{\"single\": {{\"url\": \"https://a.example/{canary}\" \"method\": 1}}}}"),
    ];
    for text in spoilt {
        let reading = ask(&text);
        assert!(!format!("{reading:?}").contains(canary), "{reading:#?}");
        assert!(!serde_json::to_string(&reading).unwrap().contains(canary), "{reading:#?}");
    }
}

#[test]
fn no_text_breaks_the_reader() {
    let whole = PLATFORM.as_bytes();
    for end in 0..whole.len() {
        let _ = ask(&String::from_utf8_lossy(&whole[..end]));
        let mut other = whole.to_vec();
        other[end] = b"{}:'\n \x00-"[end % 8];
        let _ = ask(&String::from_utf8_lossy(&other));
    }
}
