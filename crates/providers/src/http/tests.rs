use super::*;
use crate::egress::EgressSettings;
use crate::stub::{Stub, email, loopback, phone, text};
use countersign_core::ports::test::{Script, Still};
use proptest::prelude::*;
use serde_json::{Value as Json, json};
use std::sync::LazyLock;

fn clock() -> Arc<Still> {
    // 6 November 1994, 08:49:37 UTC: the example of RFC 9110.
    Arc::new(Still::at(Timestamp::from_millis(784_111_777_000)))
}

fn secrets() -> BTreeMap<String, Secret> {
    [("api_key", "abcd1234"), ("password", "s3cr:t/ü")].map(|(name, it)| (name.to_owned(), Secret::new(it))).into()
}

fn build(settings: Json) -> Result<Http, String> {
    Http::build(&settings, &secrets(), loopback(), clock())
}

fn told(settings: Json) -> String {
    match build(settings) {
        Ok(it) => panic!("{it:?} was built"),
        Err(why) => why,
    }
}

fn id() -> DeliveryId {
    DeliveryId::new(Timestamp::from_millis(0), &Script::default())
}

/// The request alone. One door does for all: nothing goes through it.
fn request(settings: Json, message: Message) -> Result<Outgoing, SendError> {
    static DOOR: LazyLock<Egress> = LazyLock::new(loopback);
    let provider = Http::build(&settings, &secrets(), DOOR.clone(), clock()).expect("good settings");
    provider.0.request(id(), &Arc::new(message))
}

async fn answer(raw: &str, rules: Json) -> Result<Receipt, SendError> {
    let stub = Stub::answering(raw).await;
    sent(&stub, rules).await
}

async fn sent(stub: &Stub, rules: Json) -> Result<Receipt, SendError> {
    let mut settings = json!({"url": format!("http://127.0.0.1:{}/sms", stub.port()), "form": {"to": "{{ to }}", "text": "{{ text }}"}});
    settings.as_object_mut().expect("an object").extend(rules.as_object().expect("an object").clone());
    build(settings).expect("good settings").send(id(), Arc::new(text("Your code is 523471"))).await
}

fn raw(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn away(why: &str) -> SendError {
    SendError::Unavailable { why: why.into(), retry_after: None }
}

fn vonage() -> Json {
    json!({
        "success": {"json": {"pointer": "/messages/0/status", "equals": ["0"]}},
        "unavailable": [{"json": {"pointer": "/messages/0/status", "equals": [1, "5"]}}],
        "no_such_address": [{"json": {"pointer": "/messages/0/status", "equals": ["33"]}}],
        "credentials_refused": [{"json": {"pointer": "/messages/0/status", "equals": ["4"]}}],
        "error": "/messages/0/status",
        "receipt": "/messages/0/message-id"
    })
}

// ------------------------------------------------------------------------------------------------------------------ requests

#[test]
fn every_value_lands_where_it_belongs() {
    let out = request(
        json!({
            "url": "https://api.example.com/v1/{{ to }}/send?x={{ text }}",
            "query": {"c d": "{{ code }}&"},
            "headers": {"X-Key": "k {{ secret.api_key }}", "Idempotency-Key": "{{ delivery_id }}"},
            "auth": {"basic": {"user": "u", "password": "{{ secret.password }}"}},
            "json": {"to": ["{{ to_digits }}", 1, true, null], "say \"hi\"": "<{{ text }}>", "fixed": "a\"b", "nested": {"from": "{{ from }}"}},
            "from": "Acme"
        }),
        text("a/b?c#d&é \"q\"\n"),
    )
    .expect("a request");
    assert_eq!(out.url.as_str(), "https://api.example.com/v1/%2B15555550100/send?x=a%2Fb%3Fc%23d%26%C3%A9%20%22q%22%0A&c%20d=523471%26");
    assert_eq!(out.headers["x-key"], "k abcd1234");
    assert_eq!(out.headers["idempotency-key"], id().to_string().as_str());
    assert_eq!(out.headers["authorization"], format!("Basic {}", STANDARD.encode("u:s3cr:t/ü")).as_str());
    assert_eq!(out.headers["content-type"], "application/json");
    let body: Json = serde_json::from_slice(&out.body).expect("JSON");
    let expected = json!({
        "to": ["15555550100", 1, true, null], "say \"hi\"": "<a/b?c#d&é \"q\"\n>", "fixed": "a\"b", "nested": {"from": "Acme"}
    });
    assert_eq!(body, expected);
}

#[test]
fn a_body_of_text_is_escaped_as_its_content_type_says() {
    let body = |kind: &str, body: &str| {
        let settings = json!({"url": "https://api.example.com/", "headers": {"Content-Type": kind}, "body": body});
        String::from_utf8(request(settings, text("<a> & \"b\"")).expect("a request").body).expect("UTF-8")
    };
    assert_eq!(body("application/json; charset=utf-8", r#"{"t": "{{ text }}"}"#), r#"{"t": "<a> & \"b\""}"#);
    assert_eq!(body("text/xml", "<t>{{ text }}</t>"), "<t>&lt;a&gt; &amp; &#34;b&#34;</t>");
    assert_eq!(body("application/x-www-form-urlencoded", "t={{ text }}&x=1"), "t=%3Ca%3E+%26+%22b%22&x=1");
    assert_eq!(body("text/plain", "{{ text }}"), "<a> & \"b\"");
}

#[test]
fn a_message_without_a_value_is_refused_in_words_without_any() {
    let settings = json!({"url": "https://api.example.com/", "form": {"from": "{{ from }}", "to": "{{ to }}"}});
    assert_eq!(
        request(settings.clone(), text("x")).map(|_| ()),
        Err(SendError::Refused("form: a name in it has no value (line 1)".into()))
    );
    let mut message = text("x");
    message.from = Some("Tenant".into());
    assert_eq!(request(settings, message).expect("a request").body, b"from=Tenant&to=%2B15555550100");
    let settings = json!({"url": "https://api.example.com/{{ to_digits }}", "method": "GET"});
    assert!(request(settings, email("x")).is_err(), "a mailbox has no digits");
}

#[test]
fn a_value_cannot_lead_to_another_path_host_or_header() {
    let path = json!({"url": "https://api.example.com/a/{{ text }}/b"});
    for dots in [".", ".."] {
        assert!(matches!(request(path.clone(), text(dots)), Err(SendError::Refused(why)) if why.contains("dots")), "{dots}");
    }
    let out = request(path, text("../../x\\y")).expect("a request");
    assert_eq!(out.url.path(), "/a/..%2F..%2Fx%5Cy/b");
    let headers = json!({"url": "https://api.example.com/", "headers": {"X-Text": "{{ text }}"}});
    for bad in ["a\r\nX-Evil: 1", "a\nb", "a\rb", "a\0b", "a\u{7f}b", "a\u{85}b"] {
        assert!(matches!(request(headers.clone(), text(bad)), Err(SendError::Refused(why)) if !why.contains("Evil")), "{bad:?}");
    }
    let bearer = json!({"url": "https://api.example.com/", "auth": {"bearer": "{{ secret.password }}{{ text }}"}});
    assert!(request(bearer, text("a\r\nX-Evil: 1")).is_err());
    let basic = json!({"url": "https://api.example.com/", "auth": {"basic": {"user": "{{ text }}", "password": "{{ secret.password }}"}}});
    assert!(request(basic, text("a:b")).is_err());
}

#[test]
fn a_credential_stands_in_the_settings_by_its_name_only() {
    for settings in [
        json!({"url": "https://api.example.com/", "auth": {"bearer": "k-123"}}),
        json!({"url": "https://api.example.com/", "auth": {"basic": {"user": "u", "password": "p"}}}),
        json!({"url": "https://api.example.com/", "headers": {"Authorization": "App k-123"}}),
    ] {
        let Err(wrong) = build(settings) else { panic!("it must be refused") };
        assert!(wrong.contains("{{ secret.NAME }}") && !wrong.contains("k-123"), "{wrong}");
    }
}

proptest! {
    #[test]
    fn no_value_changes_the_shape_of_a_request(v in any::<String>(), w in "[\\PC\"\\\\{}%&=?#/.@:\\r\\n]{0,20}") {
        let mut message = text(&v);
        message.from = Some(w.clone());
        let settings = json!({
            "url": "https://api.example.com:8443/p/x{{ text }}/{{ from }}-/q?a={{ text }}&b={{ from }}",
            "query": {"c": "{{ from }}"},
            "json": {"a": "{{ text }}", "b": ["-{{ from }}-{{ text }}"], "c": 1}
        });
        let out = request(settings, message.clone()).expect("no header, no refusal");
        prop_assert_eq!(out.url.origin().ascii_serialization(), "https://api.example.com:8443");
        prop_assert_eq!(out.url.path_segments().map(Iterator::count), Some(4));
        let query: Vec<_> = out.url.query_pairs().into_owned().collect();
        prop_assert_eq!(query, vec![("a".into(), v.clone()), ("b".into(), w.clone()), ("c".into(), w.clone())]);
        let body: Json = serde_json::from_slice(&out.body).expect("JSON");
        prop_assert_eq!(body, json!({"a": v.clone(), "b": [format!("-{w}-{v}")], "c": 1}));

        let form = json!({"url": "https://api.example.com/", "form": {"a": "{{ text }}", "b&=": "{{ from }}"}});
        let out = request(form, message.clone()).expect("a request");
        let pairs: Vec<_> = url::form_urlencoded::parse(&out.body).into_owned().collect();
        prop_assert_eq!(pairs, vec![("a".to_owned(), v.clone()), ("b&=".to_owned(), w.clone())]);

        let raw = json!({"url": "https://api.example.com/", "headers": {"content-type": "application/json"},
            "body": "{\"a\": \"{{ text }}\", \"b\": [\"{{ from }}\"]}"});
        let out = request(raw, message.clone()).expect("a request");
        let body: Json = serde_json::from_slice(&out.body).expect("JSON");
        prop_assert_eq!(body, json!({"a": v.clone(), "b": [w]}));

        let header = json!({"url": "https://api.example.com/", "headers": {"x-text": "{{ text }}"}});
        match request(header, message) {
            Ok(out) => {
                prop_assert_eq!(out.headers.len(), 2);
                prop_assert!(!out.headers["x-text"].as_bytes().iter().any(|b| b.is_ascii_control()));
            }
            Err(_) => prop_assert!(v.chars().any(char::is_control)),
        }
    }
}

// ------------------------------------------------------------------------------------------------------------------ settings

#[test]
fn a_wrong_setting_is_named_with_what_would_be_right() {
    let url = "https://api.example.com/";
    for (settings, expected) in [
        (json!({}), "missing field `url`"),
        (json!({"url": url, "urll": 1}), "unknown field `urll`"),
        (json!({"url": url, "auth": {"basic": {"user": "u", "pass": "p"}}}), "unknown field `pass`"),
        (json!({"url": url, "method": "DELETE"}), "method is `DELETE`; it takes GET, POST, PUT or PATCH"),
        (json!({"url": "api.example.com"}), "url has no scheme"),
        (json!({"url": "https://{{ text }}.example.com/"}), "url has a host that is not fixed"),
        (json!({"url": "https://{{text}}"}), "url has a host that is not fixed"),
        (json!({"url": "https://u:p@example.com/"}), "url holds credentials"),
        (json!({"url": "https://example.com/#x"}), "fragment"),
        (json!({"url": "ftp://example.com/"}), "use https"),
        (json!({"url": "https://10.0.0.1/"}), "is private, which the operator has not allowed"),
        (json!({"url": "http://8.8.8.8/"}), "without TLS"),
        (json!({"url": "https://example.com/../x"}), "segment of dots"),
        (json!({"url": url, "method": "GET", "json": {}}), "a GET has its values in query"),
        (json!({"url": url, "json": {}, "form": {}}), "one of body, json and form"),
        (json!({"url": url, "body": "x"}), "headers.content-type"),
        (json!({"url": url, "body": "x", "headers": {"content-type": "image/png"}}), "no escaping is known"),
        (json!({"url": url, "body": "{\"a\": {{ text }}}", "headers": {"content-type": "application/json"}}), "outside of quotes"),
        (json!({"url": url, "headers": {"Host": "x"}}), "headers.Host is set by the client itself"),
        (json!({"url": url, "headers": {"a b": "x"}}), "is not the name of a header"),
        (json!({"url": url, "headers": {"x-a": "b\r\nc: d"}}), "the header x-a would hold a control character"),
        (
            json!({"url": url, "headers": {"Authorization": "{{ secret.password }}"}, "auth": {"bearer": "{{ secret.password }}"}}),
            "keep one",
        ),
        (json!({"url": url, "form": {"to": "{{ too }}"}}), "form.to uses `too`, which is none of to, to_digits, code"),
        (
            json!({"url": url, "json": {"a": [{"b": "{{ secret.apikey }}"}]}}),
            "json.a[0].b uses secret.apikey, and no such secret is stored",
        ),
        (json!({"url": url, "form": {"to": "{{ secret }}"}}), "form.to uses `secret`"),
        (json!({"url": url, "form": {"to": "{{ to"}}), "form.to: line 1: "),
        (json!({"url": url, "timeout_ms": 50}), "timeout_ms is 50; it takes 100 to 10000, for all providers"),
        (json!({"url": url, "timeout_ms": 10_001}), "timeout_ms is 10001; it takes 100 to 10000, for all providers"),
        (json!({"url": url, "success": {"status": ["2xx"]}}), "success.status holds \"2xx\"; it takes codes and ranges"),
        (json!({"url": url, "success": {"status": ["204-200"]}}), "it takes codes and ranges"),
        (json!({"url": url, "success": {"status": []}}), "no answer would do"),
        (json!({"url": url, "success": {"json": {"pointer": "status", "equals": [0]}}}), "a JSON pointer begins with /"),
        (json!({"url": url, "success": {"json": {"pointer": "/status", "equals": [[]]}}}), "success.json.equals takes"),
        (json!({"url": url, "refused": [{}]}), "refused[0] says neither status nor json"),
        (json!({"url": url, "receipt": "id"}), "receipt is `id`; a JSON pointer begins with /"),
    ] {
        let why = told(settings.clone());
        assert!(why.contains(expected), "{settings} told: {why}");
    }
}

// ------------------------------------------------------------------------------------------------------------------- answers

#[tokio::test]
async fn an_accepted_message_gives_its_receipt() {
    let body = r#"{"message-count":"1","messages":[{"to":"15555550100","message-id":"0A0000000123ABCD1","status":"0"}]}"#;
    assert_eq!(answer(&raw("200 OK", body), vonage()).await, Ok(Receipt(Some("0A0000000123ABCD1".into()))));
    assert_eq!(answer(&raw("202 Accepted", "whatever"), json!({})).await, Ok(Receipt(None)));
    assert_eq!(answer("HTTP/1.1 204 No Content\r\n\r\n", json!({})).await, Ok(Receipt(None)));
}

#[tokio::test]
async fn an_error_inside_of_200_means_what_the_rules_say() {
    let body = |status: &str| raw("200 OK", &format!(r#"{{"messages":[{{"status":{status},"error-text":"canary 523471"}}]}}"#));
    for (status, expected) in [
        ("\"1\"", away("status 200, error 1")),
        ("5", away("status 200, error 5")),
        ("\"33\"", SendError::NoSuchAddress("status 200, error 33".into())),
        ("\"4\"", SendError::Refused("credentials refused (status 200, error 4)".into())),
        ("\"6\"", SendError::Refused("status 200, error 6".into())),
        ("null", SendError::Refused("status 200, error null".into())),
        ("[]", SendError::Refused("status 200".into())),
    ] {
        assert_eq!(answer(&body(status), vonage()).await, Err(expected), "{status}");
    }
    let not = json!({"success": {"not_json": {"pointer": "/ok", "equals": [false]}}});
    assert_eq!(answer(&raw("200 OK", r#"{"ok":false}"#), not.clone()).await, Err(SendError::Refused("status 200".into())));
    assert_eq!(answer(&raw("200 OK", r#"{"ok":true}"#), not).await, Ok(Receipt(None)));
}

#[tokio::test]
async fn a_status_means_what_http_says_unless_a_rule_says_more() {
    for (status, expected) in [
        ("400 Bad", SendError::Refused("status 400".into())),
        ("401 No", SendError::Refused("credentials refused (status 401)".into())),
        ("403 No", SendError::Refused("credentials refused (status 403)".into())),
        ("404 Gone", SendError::Refused("status 404: there is no such address to call; check url and method".into())),
        ("408 Slow", away("status 408")),
        ("422 Bad", SendError::Refused("status 422".into())),
        ("429 Slow", away("status 429")),
        ("500 Oh", away("status 500")),
        ("503 Oh", away("status 503")),
    ] {
        assert_eq!(answer(&raw(status, "x"), json!({})).await, Err(expected), "{status}");
    }
    let rules = json!({"success": {"status": ["200-201"]}, "no_such_address": [{"status": [400], "json": {"pointer": "/code", "equals": [21211]}}], "error": "/code"});
    assert_eq!(
        answer(&raw("400 Bad", r#"{"code":21211}"#), rules.clone()).await,
        Err(SendError::NoSuchAddress("status 400, error 21211".into()))
    );
    assert_eq!(
        answer(&raw("400 Bad", r#"{"code":21610}"#), rules.clone()).await,
        Err(SendError::Refused("status 400, error 21610".into()))
    );
    assert_eq!(answer(&raw("202 Ok", "{}"), rules).await, Err(SendError::Refused("status 202".into())));
}

#[tokio::test]
async fn garbage_where_json_was_promised_is_no_success() {
    assert_eq!(answer(&raw("200 OK", "<html>"), vonage()).await, Err(away("status 200: the answer is not JSON")));
    assert_eq!(answer(&raw("200 OK", ""), vonage()).await, Err(away("status 200: the answer is not JSON")));
    let huge = format!(r#"{{"messages":[{{"status":"0","x":"{}"}}]}}"#, "x".repeat(ANSWER_MOST));
    assert_eq!(answer(&raw("200 OK", &huge), vonage()).await, Err(away("status 200: the answer is longer than 65536 bytes")));
    assert_eq!(answer(&raw("200 OK", &huge), json!({})).await, Ok(Receipt(None)), "nobody asked for JSON");
}

#[tokio::test]
async fn a_redirect_is_refused_even_where_the_rules_would_take_it() {
    let inside = Stub::answering(&raw("200 OK", "ok")).await;
    for location in [format!("http://127.0.0.1:{}/", inside.port()), "/sms".into()] {
        let away = format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n");
        let stub = Stub::answering(&away).await;
        let told = sent(&stub, json!({"success": {"status": ["200-399"]}})).await;
        assert!(matches!(&told, Err(SendError::Refused(why)) if why.contains("redirect")), "{told:?}");
        assert_eq!((stub.seen().len(), inside.seen().len()), (1, 0));
    }
}

#[tokio::test]
async fn who_hangs_or_hangs_up_is_unavailable_because_the_message_may_have_arrived() {
    let stub = Stub::hanging("HTTP/1.1 200 OK\r\n").await;
    assert_eq!(sent(&stub, json!({"timeout_ms": 150})).await, Err(away("no answer within 150ms")));
    let stub = Stub::closing("").await;
    assert!(matches!(sent(&stub, json!({})).await, Err(SendError::Unavailable { .. })));
    let stub = Stub::closing("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{").await;
    assert!(matches!(sent(&stub, json!({})).await, Err(SendError::Unavailable { .. })));
}

#[tokio::test]
async fn the_wish_to_be_asked_later_is_handed_on_within_reason() {
    for (wish, expected) in [
        ("7", Some(7)),
        (" 7 ", Some(7)),
        ("0", Some(0)),
        ("86400", Some(600)),
        ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
        ("Sunday, 06-Nov-94 08:50:37 GMT", Some(60)),
        ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
        ("Tue, 06 Nov 2094 08:00:00 GMT", None),
        ("Sat, 06 Nov 2094 08:00:00 GMT", Some(600)),
        ("-1", None),
        ("soon", None),
    ] {
        let raw = format!("HTTP/1.1 429 Slow\r\nRetry-After: {wish}\r\nContent-Length: 0\r\n\r\n");
        let expected = SendError::Unavailable { why: "status 429".into(), retry_after: expected.map(Duration::from_secs) };
        assert_eq!(answer(&raw, json!({})).await, Err(expected), "{wish}");
    }
}

#[tokio::test]
async fn no_report_holds_the_address_the_code_a_secret_or_the_vendors_words() {
    let rules = json!({"success": {"json": {"pointer": "/ok", "equals": [true]}}, "error": "/e", "receipt": "/e"});
    for canary in
        ["523471", "52347", "x15555550100", "+15555550100", "55550", "5550100", "abcd1234", "key-abcd1234-x", "no such number", "a\nb", "é"]
    {
        for ok in [true, false] {
            let body = json!({"ok": ok, "e": canary}).to_string();
            let told = answer(&raw("200 OK", &body), rules.clone()).await;
            let expected = if ok { Ok(Receipt(None)) } else { Err(SendError::Refused("status 200".into())) };
            // A receipt may share a little with the number: accidents are common in twenty digits.
            if !(ok && ["52347", "55550", "5550100"].contains(&canary)) {
                assert_eq!(told, expected, "{canary}");
            }
        }
    }
    let provider = build(json!({"url": "https://api.example.com/{{ to }}?k={{ secret.api_key }}"})).expect("good");
    let shown = format!("{provider:?} {:?}", provider.0.request(id(), &Arc::new(text("canary"))));
    assert!(!shown.contains("1555") && !shown.contains("abcd1234") && !shown.contains("canary"), "{shown}");
}

#[tokio::test]
async fn every_try_carries_the_same_id() {
    let stub = Stub::answering(&raw("500 Oh", "")).await;
    for _ in 0..2 {
        let _ = sent(&stub, json!({"form": {"id": "{{ delivery_id }}"}})).await;
    }
    let seen = stub.seen();
    assert!(seen[0].ends_with(&format!("\r\n\r\nid={}", id())), "{}", seen[0]);
    assert_eq!(seen[0], seen[1]);
}

#[tokio::test]
async fn a_probe_tells_whether_somebody_answers_and_sends_nothing() {
    let stub = Stub::answering("").await;
    let at = |port: u16| build(json!({"url": format!("http://127.0.0.1:{port}/")})).expect("good").probe();
    assert_eq!(at(stub.port()).await, Ok(format!("127.0.0.1:{} answers", stub.port())));
    assert_eq!(stub.seen().len(), 0);
    let gone = std::net::TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a port that is free again").port();
    assert_eq!(at(gone).await, Err(away("no connection: connection refused")));
}

#[test]
fn a_private_target_is_refused_when_the_provider_is_built() {
    let careful = Egress::new(EgressSettings::default()).expect("the defaults");
    let settings = json!({"url": "https://169.254.169.254/latest"});
    assert!(Http::build(&settings, &secrets(), careful, clock()).is_err());
    assert_eq!(phone().reveal(), "+15555550100");
}

#[test]
fn nothing_makes_a_value_stand_outside_of_quotes_in_json() {
    let body =
        |body: &str| build(json!({"url": "https://api.example.com/", "headers": {"content-type": "application/json"}, "body": body}));
    for (bad, expected) in [
        ("{# \" #}{\"a\": {{ text }}}", "comments"),
        ("{\"a\": \"{# #}{{ text }}\"}", "comments"),
        ("{\"a\": {{ text }}, \"b\": \"{{ text }}\"}", "outside of quotes"),
        ("{\"a\": \"\\{{ text }}\"}", "no escape of JSON"),
        ("{\"a\": \"\\\\\\{{ text }}\"}", "no escape of JSON"),
        ("{\"a\": \"\\u00{{ text }}\"}", "no escape of JSON"),
        ("{\"a\": \"\\{% if text is defined %}{{ text }}{% endif %}\"}", "no escape of JSON"),
        ("{\"a\": {{ \"}}\" }}\"{{ text }}\"}", "outside of quotes"),
        ("{\"a\": \"{{ '}}' }}\", \"b\": {{ text }}}", "outside of quotes"),
        ("{\"a\": \"{{ '}}\"' }}\", \"b\": {{ text }}}", "outside of quotes"),
        ("{\"a\": \"{% if html is defined %}\"{% else %}\"{% endif %}{{ text }}\"}", "one quote of a pair"),
        ("{\"a\": {% if html is defined %}\"{% endif %}{{ text }}\"}", "one quote of a pair"),
    ] {
        let told = body(bad).map(|_| ()).expect_err(bad);
        assert!(told.starts_with("body: line 1: ") && told.contains(expected), "{bad} told: {told}");
    }
    for good in [
        "{\"a\": \"{{ '}}\"' }}\\\\{{ text }}\\u00e9\"}",
        "{\"a\": \"{{ text }}\"{% if html is defined %}, \"b\": \"{{ html }}\"{% else %}, \"c\": 1{% endif %}}",
    ] {
        assert!(body(good).is_ok(), "{good}");
        let settings = json!({"url": "https://api.example.com/", "headers": {"content-type": "application/json"}, "body": good});
        let out = request(settings, text("\",\"x\":\"\\")).expect("a request");
        let json: Json = serde_json::from_slice(&out.body).expect("JSON");
        assert!(json["a"].as_str().is_some_and(|it| it.contains("\",\"x\":\"\\")) && json.get("x").is_none(), "{json}");
    }
}
