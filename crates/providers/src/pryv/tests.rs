use super::*;
use crate::egress::EgressSettings;
use crate::stub::{Stub, loopback, names, phone};
use countersign_core::ports::test::{Script, Still};
use countersign_core::words::address::Channel;
use countersign_core::words::time::Timestamp;
use proptest::prelude::*;
use serde_json::{Value as Json, json};
use std::collections::BTreeSet;
use std::sync::LazyLock;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const WRONG: &str = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
const SECRET: &str = "s3cr3t";

fn clock() -> Arc<Still> {
    // 6 November 1994, 08:49:37 UTC: the example of RFC 9110.
    Arc::new(Still::at(Timestamp::from_millis(784_111_777_000)))
}

fn built(mode: &str, endpoints: &Json, egress: Egress) -> Result<Provider, String> {
    let secrets = [("endpoints".to_owned(), Secret::new(endpoints.to_string()))].into();
    build(&json!({"mode": mode, "timeout_ms": 1000}), &secrets, egress, clock())
}

fn single(endpoint: &Json) -> Box<dyn Sends> {
    match built("single", &json!({"single": endpoint}), loopback()) {
        Ok(Provider::Sends(it)) => it,
        other => panic!("{other:?}"),
    }
}

fn verifies(endpoints: &Json) -> Box<dyn Verifies> {
    match built("challenge-verify", endpoints, loopback()) {
        Ok(Provider::Verifies(it)) => it,
        other => panic!("{other:?}"),
    }
}

fn told(settings: &Json, endpoints: &str) -> String {
    let secrets = [("endpoints".to_owned(), Secret::new(endpoints))].into();
    build(settings, &secrets, loopback(), clock()).map(|_| ()).expect_err("it is refused")
}

fn id() -> DeliveryId {
    DeliveryId::new(Timestamp::from_millis(0), &Script::default())
}

fn variables(json: &str) -> Variables {
    serde_json::from_str(json).expect("an object")
}

fn person(json: &str) -> Address {
    Address::Data(variables(json))
}

fn message(to: Address, code: &str) -> Arc<Message> {
    let (channel, code) = (Channel::External, code.to_owned());
    Arc::new(Message { channel, to, from: None, subject: None, text: code.clone(), html: None, code })
}

fn at(stub: &Stub, path: &str) -> String {
    format!("http://127.0.0.1:{}{path}", stub.port())
}

fn raw(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())
}

fn lands(status: u16, location: &str) -> String {
    raw(&format!("{status} Away"), &format!("Location: {location}\r\n"), "")
}

/// The first line of a request, its headers but those of the client itself, and its body.
fn parts(request: &str) -> (String, BTreeSet<String>, String) {
    let (head, body) = request.split_once("\r\n\r\n").expect("a whole request");
    let (line, headers) = head.split_once("\r\n").expect("headers");
    let own = ["host: ", "accept: */*", "user-agent: countersign/", "content-length: "];
    let headers = headers.split("\r\n").filter(|it| !own.iter().any(|own| it.starts_with(own))).map(str::to_owned).collect();
    (line.to_owned(), headers, body.to_owned())
}

fn set(headers: &[&str]) -> BTreeSet<String> {
    headers.iter().map(|it| (*it).to_owned()).collect()
}

async fn sent(provider: &dyn Sends, data: &str) -> Result<Receipt, SendError> {
    provider.send(id(), message(person(data), "5234")).await
}

/// The request line that comes of a URL behind the host.
async fn line(path: &str, data: &str) -> String {
    let stub = Stub::answering(OK).await;
    sent(&*single(&json!({"url": at(&stub, path), "method": "GET"})), data).await.expect("it is taken");
    parts(&stub.seen()[0]).0
}

// -------------------------------------------------------------------------------------------------- documented examples

#[tokio::test]
async fn the_example_of_mode_single_arrives_as_documented() {
    let stub = Stub::answering(OK).await;
    let endpoints: Json = serde_json::from_str(
        &r#"{
          "single": {
            "url": "https://api.smsmode.com/http/1.6/sendSMS.do?accessToken=your-api-key&message={{ message }}&emetteur=Pryv%20Lab&numero={{ number }}",
            "method": "GET"
          }
        }"#
        .replace("https://api.smsmode.com", &at(&stub, "")),
    )
    .expect("JSON");
    let provider = single(&endpoints["single"]);
    for (message, arrives) in [
        ("Your Pryv Lab MFA code is: {{ code }}", "Your%20Pryv%20Lab%20MFA%20code%20is:%205234"),
        ("Your%20code%3A%20{{ code }}", "Your%20code%3A%205234"),
    ] {
        let data = json!({"number": "41791231212", "message": message}).to_string();
        assert_eq!(sent(&*provider, &data).await, Ok(Receipt(None)));
        let (line, headers, body) = parts(stub.seen().last().expect("a request"));
        assert_eq!(
            line,
            format!("GET /http/1.6/sendSMS.do?accessToken=your-api-key&message={arrives}&emetteur=Pryv%20Lab&numero=41791231212 HTTP/1.1")
        );
        assert_eq!((headers, body.as_str()), (set(&["authorization: ", "content-type: application/json"]), ""));
    }
}

#[tokio::test]
async fn the_example_of_mode_challenge_verify_arrives_as_documented() {
    let stub = Stub::in_turn(&[OK, WRONG, OK]).await;
    let endpoints: Json = serde_json::from_str(
        &r#"{
          "challenge": {
            "url": "https://api.smsapi.com/mfa/codes",
            "method": "POST",
            "body": "{\"phone_number\":\"{{ number }}\"}",
            "headers": {"authorization": "Bearer: your-api-key", "content-type": "application/json"}
          },
          "verify": {
            "url": "https://api.smsapi.com/mfa/codes/verifications",
            "method": "POST",
            "body": "{\"phone_number\":\"{{ number }}\",\"code\":\"{{ code }}\"}",
            "headers": {"authorization": "Bearer: your-api-key", "content-type": "application/json"}
          }
        }"#
        .replace("https://api.smsapi.com", &at(&stub, "")),
    )
    .expect("JSON");
    let (provider, to) = (verifies(&endpoints), person(r#"{"number":"41791231212"}"#));
    assert_eq!(provider.start(id(), to.clone()).await, Ok(Receipt(None)));
    assert_eq!(provider.check(Receipt(None), to.clone(), Offered::code("54321")).await, Ok(false));
    assert_eq!(provider.check(Receipt(None), to, Offered::code("12345")).await, Ok(true));
    let headers = set(&["authorization: Bearer: your-api-key", "content-type: application/json"]);
    let expected = [
        ("/mfa/codes", r#"{"phone_number":"41791231212"}"#),
        ("/mfa/codes/verifications", r#"{"phone_number":"41791231212","code":"54321"}"#),
        ("/mfa/codes/verifications", r#"{"phone_number":"41791231212","code":"12345"}"#),
    ]
    .map(|(path, body)| (format!("POST {path} HTTP/1.1"), headers.clone(), body.to_owned()));
    assert_eq!(stub.seen().iter().map(|it| parts(it)).collect::<Vec<_>>(), expected);
    assert!(stub.seen()[0].contains("\r\ncontent-length: 30\r\n"));
}

#[tokio::test]
async fn the_general_example_fills_in_url_and_body() {
    let stub = Stub::answering(OK).await;
    let provider = single(&json!({
        "url": at(&stub, "/mfa/codes?language={{ language }}"),
        "method": "POST",
        "body": "{\"phone\":\"{{ phone }}\"}",
        "headers": {"authorization": "Bearer: YOUR-COMMUNICATION-SERVER-API-KEY", "content-type": "application/json"}
    }));
    sent(&*provider, r#"{"language":"en","phone":"41791231212"}"#).await.expect("it is taken");
    let (line, headers, body) = parts(&stub.seen()[0]);
    assert_eq!((line.as_str(), body.as_str()), ("POST /mfa/codes?language=en HTTP/1.1", r#"{"phone":"41791231212"}"#));
    assert_eq!(headers, set(&["authorization: Bearer: YOUR-COMMUNICATION-SERVER-API-KEY", "content-type: application/json"]));
}

// ----------------------------------------------------------------------------------------------------------- properties

#[tokio::test]
async fn every_request_fills_in_everything_afresh() {
    let stub = Stub::answering(OK).await;
    let provider = single(&json!({
        "url": at(&stub, "/{{ code }}/{{ code }}?a={{ who }}&b={{ who }}"),
        "body": "{{ code }} {{ who }} {{ code }} {{ who }}",
        "headers": {"x-a": "{{ who }} {{ code }} {{ who }} {{ code }}", "content-type": "text/plain"}
    }));
    for (code, who) in [("1111", "$&"), ("2222", "$1$$"), ("3333", "$`$'")] {
        let data = json!({"who": who}).to_string();
        provider.send(id(), message(person(&data), code)).await.expect("it is taken");
        let (line, headers, body) = parts(stub.seen().last().expect("a request"));
        let encoded = who.replace('`', "%60").replace('\'', "%27");
        assert_eq!(line, format!("POST /{code}/{code}?a={encoded}&b={encoded} HTTP/1.1"));
        assert_eq!(body, format!("{code} {who} {code} {who}"));
        assert_eq!(headers, set(&[&format!("x-a: {who} {code} {who} {code}"), "content-type: text/plain", "authorization: "]));
    }
}

#[tokio::test]
async fn values_are_escaped_in_json_and_in_urls_and_nowhere_else() {
    let stub = Stub::answering(OK).await;
    let nasty = "a\"b\\c\n{}<> é€#&+=%41";
    for (kind, body, arrives) in [
        ("application/json", r#"{"a":"{{ x }}","n":{{ n }}}"#, r#"{"a":"a\"b\\c\n{}<> é€#&+=%41","n":41791231212}"#.to_owned()),
        ("text/plain", r#"{"a":"{{ x }}"}"#, r#"{"a":"a\"b\\c\n{}<> é€#&+=%41"}"#.to_owned()),
        ("application/vnd.x+json; charset=utf-8", "[\"{{ x }}\"]", r#"["a\"b\\c\n{}<> é€#&+=%41"]"#.to_owned()),
        ("application/x-www-form-urlencoded", "a={{ x }}&n={{ n }}", format!("a={nasty}&n=41791231212")),
    ] {
        let provider = single(&json!({"url": at(&stub, "/p/{{ x }}?q={{ x }}&z=1"), "body": body, "headers": {"content-type": kind}}));
        sent(&*provider, &json!({"x": nasty, "n": 41_791_231_212_u64}).to_string()).await.expect("it is taken");
        let (line, _, body) = parts(stub.seen().last().expect("a request"));
        let encoded = "a%22b%5Cc%0A%7B%7D%3C%3E%20%C3%A9%E2%82%AC%23&+=%41";
        assert_eq!(line, format!("POST /p/{encoded}?q={encoded}&z=1 HTTP/1.1"));
        assert_eq!(body, arrives, "{kind}");
    }
}

#[tokio::test]
async fn no_error_tells_what_the_provider_said() {
    let told = format!(r#"{{"error":{{"id":"{SECRET}","message":"{SECRET} 41791231212"}}}}"#);
    let headers = format!("Content-Type: application/json\r\nX-Why: {SECRET}\r\nSet-Cookie: {SECRET}\r\n");
    for status in ["400", "401", "403", "404", "422", "429", "500", "503", "304", "302"] {
        let stub = Stub::answering(&raw(&format!("{status} {SECRET}"), &headers, &told)).await;
        let url = at(&stub, &format!("/{SECRET}/{{{{ number }}}}"));
        let endpoint = json!({"url": url, "method": "POST", "body": SECRET, "headers": {"authorization": SECRET}});
        for method in ["POST", "GET"] {
            let mut endpoint = endpoint.clone();
            endpoint["method"] = method.into();
            let why = sent(&*single(&endpoint), r#"{"number":"41791231212"}"#).await.expect_err("it failed").to_string();
            assert!(why.contains(status) && !why.contains(SECRET) && !why.contains("4179"), "{why}");
            let both = json!({"challenge": endpoint, "verify": endpoint});
            let checked = verifies(&both).check(Receipt(None), person(r#"{"number":"41791231212"}"#), Offered::code("5234")).await;
            match checked {
                Ok(passed) => assert!(!passed, "{status}"),
                Err(why) => assert!(!why.to_string().contains(SECRET) && !why.to_string().contains("4179"), "{why}"),
            }
        }
    }
}

#[tokio::test]
async fn nothing_but_a_check_asks_for_a_verdict() {
    let (challenge, verify) = (Stub::answering(WRONG).await, Stub::answering(OK).await);
    let provider = verifies(&json!({"challenge": {"url": at(&challenge, "/c")}, "verify": {"url": at(&verify, "/v")}}));
    assert!(provider.probe().await.is_ok());
    assert!(provider.start(id(), person(r#"{"n":"41"}"#)).await.is_err());
    assert!(provider.start(id(), phone()).await.is_err());
    assert_eq!((challenge.seen().len(), verify.seen().len()), (1, 0));
    assert_eq!(provider.check(Receipt(None), person(r#"{"n":"41"}"#), Offered::code("1")).await, Ok(true));
    assert_eq!((challenge.seen().len(), verify.seen().len()), (1, 1));
}

// -------------------------------------------------------------------------------------------------------------- templates

#[tokio::test]
async fn our_code_is_last_and_stands_for_any_other_of_that_name() {
    assert_eq!(
        line("/?m={{ m }}&c={{ code }}", r#"{"code":"mine {{ m }}","m":"a {{ code }}{{ code }}"}"#).await,
        "GET /?m=a%2052345234&c=5234 HTTP/1.1"
    );
    assert_eq!(line("/?m={{ m }}", r#"{"m":"{{ o }}","o":"-{{ code }}-"}"#).await, "GET /?m=-5234- HTTP/1.1");
    assert_eq!(line("/?m={{ m }}", r#"{"o":"x","m":"{{ o }}"}"#).await, "GET /?m=%7B%7B%20o%20%7D%7D HTTP/1.1");
    assert_eq!(line("?m={{m}}&u={{ u }}", r#"{"m":"x"}"#).await, "GET /?m=%7B%7Bm%7D%7D&u=%7B%7B%20u%20%7D%7D HTTP/1.1");
    assert_eq!(line("/?v={{ a }}{{ b }}{{ c }}", r#"{"a":null,"b":[1,[2]],"c":{}}"#).await, "GET /?v=null1,2[object%20Object] HTTP/1.1");
}

#[tokio::test]
async fn what_is_known_of_a_person_wins_over_what_comes_with_a_code() {
    let stub = Stub::answering(OK).await;
    let endpoint = json!({"url": at(&stub, "/v?a={{ a }}"), "body": r#"{"n":"{{ n }}","c":"{{ code }}","x":"{{ x }}"}"#});
    let provider = verifies(&json!({"challenge": endpoint, "verify": endpoint}));
    let offered = |with: &str| Offered { code: Secret::new("5234"), with: variables(with) };
    for (with, data, arrives) in [
        (r#"{"code":"5234","n":"thief"}"#, r#"{"n":"41"}"#, ("/v?a=%7B%7B%20a%20%7D%7D", r#"{"n":"41","c":"5234","x":"{{ x }}"}"#)),
        (r#"{"code":"5234","x":"Jane's"}"#, r#"{"n":"41","a":"b"}"#, ("/v?a=b", r#"{"n":"41","c":"5234","x":"{{ x }}"}"#)),
        (r#"{"code":"5234","x":"{{ a }}&n=1"}"#, r#"{"n":"41","a":"b"}"#, ("/v?a=b", r#"{"n":"41","c":"5234","x":"{{ x }}"}"#)),
        (r#"{"code":"5234","x":"Zoë-7 a.b"}"#, r#"{"n":"41","a":"b"}"#, ("/v?a=b", r#"{"n":"41","c":"5234","x":"Zoë-7 a.b"}"#)),
        (r#"{"x":"y"}"#, r#"{"n":"{{ x }}"}"#, ("/v?a=%7B%7B%20a%20%7D%7D", r#"{"n":"{{ x }}","c":"{{ code }}","x":"y"}"#)),
        (
            r#"{"code":"5234\",\"n\":\"thief"}"#,
            r#"{"n":"41"}"#,
            ("/v?a=%7B%7B%20a%20%7D%7D", r#"{"n":"41","c":"{{ code }}","x":"{{ x }}"}"#),
        ),
    ] {
        assert_eq!(provider.check(Receipt(None), person(data), offered(with)).await, Ok(true));
        let (line, _, body) = parts(stub.seen().last().expect("a request"));
        assert_eq!((line.as_str(), body.as_str()), (&*format!("POST {} HTTP/1.1", arrives.0), arrives.1), "{with}");
    }
    let before = stub.seen().len();
    let large = offered(&json!({"x": "y".repeat(Variables::MOST)}).to_string());
    assert!(matches!(provider.check(Receipt(None), person(r#"{"n":"41"}"#), large).await, Err(CheckError::NotAsked(_))));
    assert_eq!(stub.seen().len(), before);
}

#[tokio::test]
async fn a_fragment_is_not_sent_and_a_hash_in_a_value_is() {
    assert_eq!(line("/a?x={{ x }}&y=1#frag{{ x }}", r##"{"x":"1#2"}"##).await, "GET /a?x=1%232&y=1 HTTP/1.1");
    assert_eq!(line("#frag", "{\"x\":1}").await, "GET / HTTP/1.1");
    assert_eq!(line("/a/{{ x }}", r#"{"x":"b/c?d=%2F%%zz"}"#).await, "GET /a/b/c?d=%2F%%zz HTTP/1.1");
}

#[tokio::test]
async fn every_character_of_a_url_survives_the_client() {
    let all = (' '..='~').collect::<String>();
    let path = "%20!%22%23$%25&%27()*+,-./0123456789:;%3C=%3E?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[%5C]%5E_%60abcdefghijklmnopqrstuvwxyz%7B%7C%7D~";
    let expected = path.replace("%25", "%");
    let data = json!({"x": all}).to_string();
    assert_eq!(line("/{{ x }}", &data).await, format!("GET /{expected} HTTP/1.1"));
    assert_eq!(line("/?{{ x }}", &data).await, format!("GET /?{expected} HTTP/1.1"));
    assert_eq!(line(&format!("/?{}", all.replace('#', "")), "{\"x\":1}").await, format!("GET /?{} HTTP/1.1", expected.replace("%23", "")));
}

#[test]
fn a_host_is_fixed() {
    for url in [
        "https://{{ host }}/",
        "https://api.{{ x }}.example.com/",
        "https://api.example.com{{ x }}",
        "https://api.example.com{{ a/b }}",
        "https://api.example.com:{{ port }}/",
        "{{ scheme }}://api.example.com/",
        "https://{{ user }}@api.example.com/",
        "https://u:{{ p }}@api.example.com/",
        "https://u:{{ a?b }}@api.example.com/",
        "https://{{host}}/",
    ] {
        let endpoints = json!({"single": {"url": url}}).to_string();
        let why = told(&json!({"mode": "single"}), &endpoints);
        assert!(why.starts_with("endpoints.single.url has a scheme or host that is not fixed"), "{url}: {why}");
    }
}

#[tokio::test]
async fn a_value_leads_to_no_other_path() {
    let stub = Stub::answering(OK).await;
    let provider = single(&json!({"url": at(&stub, "/a/{{ x }}/b{{ y }}?q={{ x }}"), "method": "GET"}));
    for data in [r#"{"x":".."}"#, r#"{"x":"c/../../d"}"#, r#"{"x":"%2E%2e"}"#, r#"{"x":".","y":""}"#, r#"{"x":"c","y":"/.."}"#] {
        assert!(matches!(sent(&*provider, data).await, Err(SendError::Refused(_))), "{data}");
    }
    assert_eq!(stub.seen().len(), 0);
    sent(&*provider, r#"{"x":"c?/../.","y":""}"#).await.expect("dots in a query lead nowhere");
}

#[tokio::test]
async fn credentials_of_the_url_become_a_header() {
    let stub = Stub::answering(OK).await;
    let url = at(&stub, "/a").replace("//", "//us%3Aer:p%40+ss@");
    sent(&*single(&json!({"url": url})), "{\"x\":1}").await.expect("it is taken");
    let (line, headers, _) = parts(&stub.seen()[0]);
    let basic = format!("authorization: Basic {}", STANDARD.encode("us:er:p@+ss"));
    assert_eq!((line.as_str(), headers), ("POST /a HTTP/1.1", set(&[&basic, "content-type: application/json"])));
    sent(&*single(&json!({"url": url, "headers": {"Authorization": "Bearer x"}})), "{\"x\":1}").await.expect("it is taken");
    assert!(parts(&stub.seen()[1]).1.contains("authorization: Bearer x"));
}

#[tokio::test]
async fn a_method_is_post_or_get_unless_all_are_wanted() {
    let stub = Stub::answering(OK).await;
    let secrets = |method: &str| {
        let endpoints = json!({"single": {"url": at(&stub, "/"), "method": method, "body": "{\"a\":1}"}});
        [("endpoints".to_owned(), Secret::new(endpoints.to_string()))].into()
    };
    for (method, any, arrives) in [
        ("POST", false, Some("POST")),
        ("post", false, Some("GET")),
        ("PUT", false, Some("GET")),
        ("", false, Some("GET")),
        ("GET", true, Some("GET")),
        ("PUT", true, Some("PUT")),
        ("PATCH", true, Some("PATCH")),
        ("DELETE", true, Some("DELETE")),
        ("TRACE", true, None),
        ("post", true, None),
    ] {
        let it = build(&json!({"mode": "single", "any_method": any}), &secrets(method), loopback(), clock());
        match (it, arrives) {
            (Ok(Provider::Sends(it)), Some(arrives)) => {
                sent(&*it, "{\"x\":1}").await.expect("it is taken");
                let (line, _, body) = parts(stub.seen().last().expect("a request"));
                assert_eq!((line, body.as_str()), (format!("{arrives} / HTTP/1.1"), if arrives == "GET" { "" } else { "{\"a\":1}" }));
            }
            (Err(why), None) => assert!(why.starts_with("endpoints.single.method is none of GET, POST"), "{why}"),
            (it, _) => panic!("{method}: {it:?}"),
        }
    }
}

#[tokio::test]
async fn headers_that_an_endpoint_does_not_name_are_there_all_the_same() {
    let stub = Stub::answering(OK).await;
    for (headers, arrive) in [
        (json!({}), set(&["authorization: ", "content-type: application/json"])),
        (json!({"X-Key": "k"}), set(&["authorization: ", "content-type: application/json", "x-key: k"])),
        (json!({"Content-Type": "text/plain", "X-Empty": ""}), set(&["authorization: ", "content-type: text/plain", "x-empty: "])),
        (json!({"AUTHORIZATION": "{{ key }} é"}), set(&["authorization: k é", "content-type: application/json"])),
    ] {
        sent(&*single(&json!({"url": at(&stub, "/"), "headers": headers, "unknown": {"x": 1}})), r#"{"key":"k"}"#)
            .await
            .expect("it is taken");
        assert_eq!(parts(stub.seen().last().expect("a request")).1, arrive);
    }
}

#[tokio::test]
async fn a_value_that_would_begin_another_header_is_refused() {
    let stub = Stub::answering(OK).await;
    let endpoint = json!({"url": at(&stub, "/"), "headers": {"x-a": "-{{ x }}-"}});
    for value in ["a\r\nx-b: 1", "a\nb", "a\rb", "\0", "\u{7f}", "\t"] {
        let data = json!({"x": value}).to_string();
        let why = sent(&*single(&endpoint), &data).await.expect_err("it is refused");
        assert_eq!(why, SendError::Refused("the header x-a would hold a control character".into()), "{value:?}");
        let checked =
            verifies(&json!({"challenge": endpoint, "verify": endpoint})).check(Receipt(None), person(&data), Offered::code("1")).await;
        assert!(matches!(checked, Err(CheckError::NotAsked(_))), "{checked:?}");
    }
    assert_eq!(stub.connections(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_value_and_no_name_changes_host_headers_or_shape(
        v in any::<String>(),
        w in "[{} a-c\"\\\\:,/?#@.%&=\\r\\n\\[\\]0-9$é]{0,24}",
        name in "[{} a-c\"\\\\:,/]{0,12}",
    ) {
        static DOOR: LazyLock<Egress> = LazyLock::new(loopback);
        let written = json!({
            "url": "https://u:p@api.example.com:8443/p/{{ a }}/{{ b }}?a={{ a }}&b={{ b }}#{{ a }}",
            "headers": {"x-a": "k {{ a }}", "x-b": "{{ b }}{{ a }}", "content-type": "application/json"},
            "body": r#"{"a":"{{ a }}","b":["-{{ b }}-{{ a }}\\"],"n":{{ a }},"m":[{{ b }},1]}"#
        });
        let endpoint = Endpoint::read("single", &written, false, &DOOR).expect("good settings");
        let data = Variables::of([(name, v.clone().into()), ("a".to_owned(), w.into()), ("b".to_owned(), v.into())]);
        let values = Values::of(data.iter()).and_last("code", "5234");
        let body = endpoint.body.as_ref().expect("a body").fill(&values, BODY_MOST).expect("it is short");
        let body: Json = serde_json::from_str(&body).expect("JSON, whatever is filled in");
        prop_assert_eq!(body.as_object().map(|it| it.keys().cloned().collect::<Vec<_>>().join("")), Some("abnm".into()));
        prop_assert_eq!(body["b"].as_array().map(Vec::len), Some(1));
        prop_assert_eq!((body["m"].as_array().map(Vec::len), &body["m"][1]), (Some(2), &json!(1)));
        let target = endpoint.target.fill(&values, FIELD_MOST).expect("it is short");
        prop_assert!(target.starts_with("/p/") && !target.contains('#') && target.bytes().all(|it| it.is_ascii_graphic()));
        if let Ok(url) = join(&endpoint.base, &target) {
            prop_assert_eq!(url.as_str(), format!("https://api.example.com:8443{target}"), "the client changes nothing");
        }
        if let Ok(out) = endpoint.request(&values) {
            prop_assert_eq!(out.url.origin().ascii_serialization(), "https://api.example.com:8443");
            prop_assert!(out.url.username().is_empty() && out.url.password().is_none() && out.url.fragment().is_none());
            let mut names: Vec<_> = out.headers.keys().map(HeaderName::as_str).collect();
            names.sort_unstable();
            prop_assert_eq!(names, ["authorization", "content-type", "x-a", "x-b"]);
            prop_assert!(out.headers.values().all(|it| it.as_bytes().iter().all(|it| !it.is_ascii_control())));
        }
    }

    #[test]
    fn whatever_an_endpoint_is_it_is_built_or_refused_in_words_that_hold_none_of_it(url in "(https?://)?[a-z{}@:/?#.% \\\\]{0,20}", other in any::<String>()) {
        static DOOR: LazyLock<Egress> = LazyLock::new(loopback);
        let written = json!({"url": url, "body": other, "method": other, "headers": {"authorization": other, "x-zzz": format!("zzzzzz{other}")}});
        if let Err(why) = Endpoint::read("single", &written, true, &DOOR) {
            prop_assert!(why.starts_with("endpoints.single.") && !why.contains("zzzzzz"), "{}", why);
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------- redirects

#[tokio::test]
async fn a_redirect_is_followed_and_becomes_a_get_where_it_should() {
    for (status, method, line, keeps_body) in [
        (301, "POST", "GET /b HTTP/1.1", false),
        (302, "POST", "GET /b HTTP/1.1", false),
        (303, "POST", "GET /b HTTP/1.1", false),
        (307, "POST", "POST /b HTTP/1.1", true),
        (308, "POST", "POST /b HTTP/1.1", true),
        (302, "GET", "GET /b HTTP/1.1", false),
        (307, "GET", "GET /b HTTP/1.1", false),
    ] {
        let stub = Stub::in_turn(&[&lands(status, "/b#part"), OK]).await;
        let headers = json!({"authorization": "Bearer x", "x-a": "{{ x }}", "content-type": "text/plain"});
        let provider = single(&json!({"url": at(&stub, "/a?k=1"), "method": method, "body": "{{ code }}", "headers": headers}));
        assert_eq!(sent(&*provider, "{\"x\":1}").await, Ok(Receipt(None)));
        let (arrived, headers, body) = parts(&stub.seen()[1]);
        assert_eq!(arrived, line, "{status}");
        assert_eq!(body, if keeps_body { "5234" } else { "" });
        let labelled = keeps_body || method == "GET";
        let expected = if labelled {
            set(&["authorization: Bearer x", "x-a: 1", "content-type: text/plain"])
        } else {
            set(&["authorization: Bearer x", "x-a: 1"])
        };
        assert_eq!(headers, expected, "{status} {method}");
    }
}

#[tokio::test]
async fn credentials_stay_with_the_host_that_they_are_for() {
    for status in [301, 302, 303, 307, 308] {
        // There and back again: what was taken off stays off.
        let away = "http://u:p@away.example:{port}/x";
        let stub = Stub::in_turn(&[&lands(status, away), &lands(status, "http://home.example:{port}/back"), OK]).await;
        let hosts = ["home.example", "away.example"];
        let settings = EgressSettings { allow_hosts: hosts.map(str::to_owned).into(), ..EgressSettings::default() };
        let egress = Egress::with_lookup(settings, names(&hosts.map(|it| (it, &["127.0.0.1"][..])))).expect("good");
        let url = at(&stub, "/a").replace("127.0.0.1", &format!("u:{SECRET}@home.example"));
        let named = json!({"authorization": format!("Bearer {SECRET}"), "x-key": SECRET});
        let endpoint = json!({"single": {"url": url, "headers": named}});
        let Ok(Provider::Sends(provider)) = built("single", &endpoint, egress) else { panic!("good settings") };
        assert_eq!(sent(&*provider, "{\"x\":1}").await, Ok(Receipt(None)));
        let seen = stub.seen();
        assert_eq!(seen.iter().map(|it| it.contains("host: home.example:")).collect::<Vec<_>>(), [true, false, true]);
        assert!(parts(&seen[0]).1.contains(&format!("x-key: {SECRET}")) && seen[0].contains(&format!("Bearer {SECRET}")));
        assert_eq!((parts(&seen[1]).1, parts(&seen[2]).1), (set(&[]), set(&[])), "{status}");
    }
}

#[tokio::test]
async fn five_redirects_are_followed_and_no_sixth_and_no_circle() {
    let steps: Vec<_> = (1..=6).map(|it| lands(302, &format!("/{it}"))).collect();
    let chain = |count: usize| steps[..count].iter().map(String::as_str).chain([OK]).collect::<Vec<_>>();
    let endless = || SendError::Refused("status 302: it redirects without end".into());
    for (count, expected, asked) in [(5, Ok(Receipt(None)), 6), (6, Err(endless()), 6)] {
        let stub = Stub::in_turn(&chain(count)).await;
        assert_eq!(sent(&*single(&json!({"url": at(&stub, "/0"), "method": "GET"})), "{\"x\":1}").await, expected);
        assert_eq!(stub.seen().len(), asked);
    }
    let circle = Stub::in_turn(&[&lands(302, "/b"), &lands(302, "/a")]).await;
    assert_eq!(sent(&*single(&json!({"url": at(&circle, "/a"), "method": "GET"})), "{\"x\":1}").await, Err(endless()));
    assert_eq!(circle.seen().len(), 2);
    let again = Stub::in_turn(&[&lands(303, "/a"), OK]).await;
    assert_eq!(sent(&*single(&json!({"url": at(&again, "/a")})), "{\"x\":1}").await, Ok(Receipt(None)), "a GET after a POST is no circle");
}

#[tokio::test]
async fn a_redirect_is_judged_as_any_other_call() {
    let lookup = names(&[("home.example", &["127.0.0.1"]), ("inside.example", &["10.0.0.1"])]);
    let settings = EgressSettings { allow_hosts: vec!["home.example".into()], allow_plain_http: true, ..EgressSettings::default() };
    let egress = Egress::with_lookup(settings, lookup).expect("good");
    for (location, why) in [
        ("http://127.0.0.1:1/5234", "status 307: it redirects to what may not be called"),
        ("http://169.254.169.254/5234", "status 307: it redirects to what may not be called"),
        ("http://inside.example/5234", "status 307: it redirects to what may not be called"),
        ("//inside.example/5234", "status 307: it redirects to what may not be called"),
        ("file:///etc/5234", "status 307: it redirects to what has no host"),
        ("data:text/plain,5234", "status 307: it redirects to what has no host"),
        ("ftp://home.example/5234", "status 307: it redirects to what may not be called"),
        ("http://[5234", "status 307: it redirects to what is no URL"),
    ] {
        let stub = Stub::answering(&lands(307, location)).await;
        let endpoints = json!({"single": {"url": at(&stub, "/").replace("127.0.0.1", "home.example")}});
        let Ok(Provider::Sends(provider)) = built("single", &endpoints, egress.clone()) else { panic!("good settings") };
        assert_eq!(sent(&*provider, "{\"x\":1}").await, Err(SendError::Refused(why.into())), "{location}");
        assert_eq!(stub.seen().len(), 1);
    }
    let stub = Stub::answering(&lands(302, "http://nowhere5234.example/")).await;
    let endpoints = json!({"single": {"url": at(&stub, "/").replace("127.0.0.1", "home.example")}});
    let Ok(Provider::Sends(provider)) = built("single", &endpoints, egress) else { panic!("good settings") };
    assert_eq!(sent(&*provider, "{\"x\":1}").await, Err(SendError::Unavailable { why: BEYOND.into(), retry_after: None }));
}

// ------------------------------------------------------------------------------------------------------------------ answers

#[tokio::test]
async fn every_answer_has_its_meaning() {
    let json = "Content-Type: application/json\r\n";
    let later = |why: &str, retry_after: Option<u64>| {
        Err(SendError::Unavailable { why: why.into(), retry_after: retry_after.map(Duration::from_secs) })
    };
    let refused = |why: &str| Err(SendError::Refused(why.into()));
    let unsaid = |why: &str| Err(CheckError::NoVerdict(why.into()));
    let (taken, right, wrong) = (Ok(Receipt(None)), Ok(true), Ok(false));
    let garbage = "status 200: the answer calls itself JSON and is not";
    let no_url = "status 302: it redirects to what is no URL";
    for (answer, sends, checks) in [
        (raw("200 OK", "", "whatever"), taken.clone(), right.clone()),
        (raw("200 OK", json, "{\"ok\":true}"), taken.clone(), right.clone()),
        (raw("204 No Content", json, ""), taken.clone(), right.clone()),
        (raw("299 x", json, ""), taken.clone(), right.clone()),
        (raw("200 OK", json, "not json"), refused(garbage), unsaid(garbage)),
        (raw("200 OK", "Content-Type: application/vnd.x+JSON; charset=utf-8\r\n", "{"), refused(garbage), unsaid(garbage)),
        (raw("200 OK", "Content-Type: text/html\r\n", "{"), taken.clone(), right.clone()),
        (raw("200 OK", "Content-Type: application/jsonp\r\n", "{"), taken, right),
        (raw("300 x", "Location: /b\r\n", ""), refused("status 300"), unsaid("status 300")),
        (raw("302 x", "", ""), refused(no_url), unsaid(no_url)),
        (raw("304 x", "", ""), refused("status 304"), unsaid("status 304")),
        (raw("400 x", json, "{\"error\":1}"), refused("status 400"), wrong.clone()),
        (raw("401 x", "", ""), refused("status 401: the credentials are refused"), unsaid("status 401: the credentials are refused")),
        (raw("403 x", "", ""), refused("status 403"), wrong.clone()),
        (raw("404 x", "", ""), refused("status 404"), wrong.clone()),
        (raw("405 x", "", ""), refused("status 405"), wrong.clone()),
        (raw("407 x", "", ""), refused("status 407: the credentials are refused"), unsaid("status 407: the credentials are refused")),
        (raw("408 x", "Retry-After: 7\r\n", ""), later("status 408", Some(7)), unsaid("status 408")),
        (raw("422 x", "", ""), refused("status 422"), wrong),
        (raw("429 x", "Retry-After: Sun, 06 Nov 1994 08:49:57 GMT\r\n", ""), later("status 429", Some(20)), unsaid("status 429")),
        (raw("500 x", "", ""), later("status 500", None), unsaid("status 500")),
        (raw("503 x", "Retry-After: 99999\r\n", ""), later("status 503", Some(600)), unsaid("status 503")),
    ] {
        let stub = Stub::answering(&answer).await;
        for method in ["POST", "GET"] {
            let endpoint = json!({"url": at(&stub, "/"), "method": method});
            assert_eq!(sent(&*single(&endpoint), "{\"x\":1}").await, sends, "{method} {answer}");
            let provider = verifies(&json!({"challenge": endpoint, "verify": endpoint}));
            assert_eq!(provider.start(id(), person("{\"x\":1}")).await, sends, "{method} {answer}");
            assert_eq!(provider.check(Receipt(None), person("{\"x\":1}"), Offered::code("1")).await, checks, "{method} {answer}");
        }
    }
}

#[tokio::test]
async fn who_was_never_asked_is_told_from_who_did_not_answer() {
    let gone = std::net::TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a port that is free again").port();
    let silent = Stub::hanging("").await;
    let broken = Stub::closing("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc").await;
    let plain = Stub::greeting("220 mail.example ESMTP\r\n").await;
    let after = Stub::answering(&lands(302, &format!("http://127.0.0.1:{gone}/"))).await;
    let lookup = names(&[("inside.example", &["10.0.0.1"])]);
    let settings = EgressSettings { allow: vec!["127.0.0.0/8".parse().expect("a network")], ..EgressSettings::default() };
    let egress = Egress::with_lookup(settings, lookup).expect("good");
    for (url, is_asked, is_refused) in [
        (format!("http://127.0.0.1:{gone}/"), false, false),
        ("https://nowhere.example/".into(), false, false),
        ("https://inside.example/".into(), false, true),
        (at(&plain, "/").replace("http:", "https:"), false, false),
        (at(&silent, "/"), true, false),
        (at(&broken, "/"), true, false),
        (at(&after, "/"), true, false),
    ] {
        let endpoints = json!({"challenge": {"url": url}, "verify": {"url": url}});
        let Ok(Provider::Verifies(provider)) = built("challenge-verify", &endpoints, egress.clone()) else { panic!("good settings") };
        let checked = provider.check(Receipt(None), person("{\"x\":1}"), Offered::code("1")).await;
        match (is_asked, &checked) {
            (false, Err(CheckError::NotAsked(_))) | (true, Err(CheckError::NoVerdict(_))) => {}
            _ => panic!("{url}: {checked:?}"),
        }
        let started = provider.start(id(), person("{\"x\":1}")).await.expect_err("nothing comes of it");
        assert_eq!(matches!(started, SendError::Refused(_)), is_refused, "{url}: {started}");
    }
}

#[tokio::test]
async fn all_redirects_share_the_time_of_one_request() {
    let silent = Stub::hanging("").await;
    let first = Stub::answering(&lands(302, &at(&silent, "/"))).await;
    let started = tokio::time::Instant::now();
    let failed = sent(&*single(&json!({"url": at(&first, "/")})), "{\"x\":1}").await.expect_err("it is late");
    assert!(matches!(failed, SendError::Unavailable { .. }), "{failed}");
    assert!(started.elapsed() < Duration::from_millis(1_900), "{:?}", started.elapsed());
}

// ----------------------------------------------------------------------------------------------------------------- settings

#[test]
fn whoever_writes_endpoints_is_told_what_would_be_right() {
    let good = json!({"single": {"url": "https://api.example.com/"}}).to_string();
    for (settings, endpoints, why) in [
        (json!({}), good.as_str(), "mode is missing; it takes single or challenge-verify"),
        (json!({"mode": "both"}), &good, "mode is `both`; it takes single or challenge-verify"),
        (json!({"mode": "single", "url": "x"}), &good, "unknown field `url`, expected one of `mode`, `timeout_ms`, `any_method`"),
        (
            json!({"mode": "single", "timeout_ms": 999}),
            &good,
            "timeout_ms is 999; it takes 1000 to 10000, for all providers of a route share 15 seconds",
        ),
        (json!({"mode": "challenge-verify"}), &good, "endpoints.challenge is missing; it has url, method, body and headers"),
        (json!({"mode": "single"}), r#"{"single": s3cr3t}"#, "endpoints is not JSON (line 1, column 12)"),
        (json!({"mode": "single"}), r#"{"challenge": {}}"#, "endpoints.single is missing; it has url, method, body and headers"),
        (json!({"mode": "single"}), r#"["s3cr3t"]"#, "endpoints.single is missing; it has url, method, body and headers"),
        (json!({"mode": "single"}), r#"{"single": "s3cr3t"}"#, "endpoints.single is not an object; it has url, method, body and headers"),
    ] {
        assert_eq!(told(&settings, endpoints), why);
    }
    assert!(
        build(&json!({"mode": "single"}), &BTreeMap::new(), loopback(), clock())
            .map(|_| ())
            .expect_err("no secret")
            .contains("--secret-file endpoints=PATH")
    );
    let whole = "; write it whole, such as https://api.example.com/send?to={{ number }}";
    for (endpoint, why) in [
        (json!({}), format!("url is missing{whole}")),
        (json!({"url": ""}), format!("url is missing{whole}")),
        (json!({"url": "s3cr3t.example.com/"}), format!("url has no scheme{whole}")),
        (json!({"url": "https://s3c r3t/"}), format!("url has a host with a blank or a backslash in it{whole}")),
        (json!({"url": "https://s3cr3t\\@x/"}), format!("url has a host with a blank or a backslash in it{whole}")),
        (json!({"url": "https://s3cr3t:x/"}), format!("url is not a URL{whole}")),
        (json!({"url": "https:///s3cr3t"}), format!("url is not a URL{whole}")),
        (json!({"url": 5}), "url is not a text; put it into quotes".into()),
        (json!({"url": "ftp://u:s3cr3t@x/"}), "url: `ftp` cannot be called; use https".into()),
        (
            json!({"url": "https://u:s3cr3t@10.0.0.1/"}),
            "url: the address is private, which the operator has not allowed (egress.allow)".into(),
        ),
        (json!({"url": "https://x/s3cr3t/../a"}), "url has a path that leads elsewhere; write it without segments of dots".into()),
        (json!({"url": "https://x/", "method": 5}), "method is not a text; put it into quotes".into()),
        (json!({"url": "https://x/", "body": {"k": "s3cr3t"}}), "body is not a text; put it into quotes".into()),
        (json!({"url": "https://x/", "headers": ["s3cr3t"]}), "headers is not an object; it has names and texts".into()),
        (json!({"url": "https://x/", "headers": {"a b": "s3cr3t"}}), "headers.a b is not the name of a header".into()),
        (json!({"url": "https://x/", "headers": {"Host": "s3cr3t"}}), "headers.Host is set by the client itself; leave it out".into()),
        (
            json!({"url": "https://x/", "headers": {"accept-encoding": "gzip"}}),
            "headers.accept-encoding is set by the client itself; leave it out".into(),
        ),
        (json!({"url": "https://x/", "headers": {"X-A": 5}}), "headers.X-A is not a text; put it into quotes".into()),
        (json!({"url": "https://x/", "headers": {"X-A": "s3cr3t\n"}}), "headers.X-A holds what no header can, such as a line break".into()),
        (json!({"url": "https://x/", "headers": {"X-A": "s3cr3t", "x-a": "b"}}), "headers.x-a is there twice; keep one".into()),
        (
            json!({"url": "https://x/", "body": "{\"k\":s3cr3t {{ x }}}", "headers": {"content-type": "application/json"}}),
            "body is not JSON, although its content-type says so; outside of quotes a placeholder stands for one whole value".into(),
        ),
    ] {
        assert_eq!(told(&json!({"mode": "single"}), &json!({"single": endpoint}).to_string()), format!("endpoints.single.{why}"));
    }
}

#[tokio::test]
async fn a_probe_asks_nothing() {
    let stub = Stub::answering(OK).await;
    let gone = std::net::TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a port that is free again").port();
    let (here, there) = (json!({"url": at(&stub, "/s3cr3t")}), json!({"url": format!("http://127.0.0.1:{gone}/s3cr3t")}));
    let answers = format!("127.0.0.1:{} answers", stub.port());
    assert_eq!(single(&here).probe().await.as_ref(), Ok(&answers));
    assert_eq!(verifies(&json!({"challenge": here, "verify": here})).probe().await, Ok(answers));
    let failed = verifies(&json!({"challenge": here, "verify": there})).probe().await.expect_err("nobody is there");
    assert_eq!(failed, SendError::Unavailable { why: "no connection: connection refused".into(), retry_after: None });
    assert_eq!(stub.seen().len(), 0);
}
