//! §5: what becomes of templates and values, and the head of §6: how the request is made.

use super::sms_service::{Reply, Request, Sms};
use super::stand::{ALL, Generation, JSON, Person, Plan, Said, Stand, Table, Way, every};
use serde_json::{Value, json};

const BODY: &str = r#"{"x":"{{ x }}","m":"{{ message }}","code":"{{ code }}","twice":"{{ code }}{{ code }}","tight":"{{x}}","wide":"{{  x  }}","open":"{{ x","unknown":"{{ unknown }}"}"#;

/// Single mode with every place where a placeholder may stand.
fn everywhere(sms: &Sms, method: &str) -> Value {
    let headers = json!({"content-type": "application/json", "x-values": "{{ x }}|{{ x }}|{{ code }}|{{ code }}", "authorization": ""});
    let url = sms.url("/sms?x={{ x }}&m={{ message }}&u={{ unknown }}&t={{x}}&x2={{ x }}");
    json!({"sms": {"mode": "single", "endpoints": {"single": {"url": url, "method": method, "body": BODY, "headers": headers}}}})
}

fn activate(stand: &Stand, name: &str, data: &str) -> Said {
    let person = stand.person(name);
    let token = person.log_in();
    person.call("POST", "mfa/activate", &[JSON, ("authorization", &token)], data.as_bytes())
}

/// Brackets and braces may stand in a query as they are, or as what they are written as elsewhere.
fn plain(target: &str) -> String {
    target.replace("%5B", "[").replace("%5D", "]").replace("%7B", "{").replace("%7D", "}")
}

/// A row: the user data, and what `x` and `message` become in the URL and in text. `CODE` stands for the code that was sent.
struct Row {
    row: &'static str,
    data: &'static str,
    url: (&'static str, &'static str),
    text: (&'static str, &'static str),
}

const ROWS: &[Row] = &[
    Row { row: "texts", data: r#"{"x":"abc","message":"hi"}"#, url: ("abc", "hi"), text: ("abc", "hi") },
    Row {
        row: "the code in a value, and again",
        data: r#"{"x":"a","message":"is {{ code }} {{ code }}"}"#,
        url: ("a", "is%20CODE%20CODE"),
        text: ("a", "is CODE CODE"),
    },
    Row {
        row: "another name in a value, which comes later",
        data: r#"{"message":"for {{ x }}","x":"41"}"#,
        url: ("41", "for%2041"),
        text: ("41", "for 41"),
    },
    Row {
        row: "another name in a value, which came before",
        data: r#"{"x":"41","message":"for {{ x }}"}"#,
        url: ("41", "for%20{{%20x%20}}"),
        text: ("41", "for {{ x }}"),
    },
    Row {
        row: "a code of the person's own",
        data: r#"{"x":"a","message":"m {{ code }}","code":"999999"}"#,
        url: ("a", "m%20CODE"),
        text: ("a", "m CODE"),
    },
    Row { row: "numbers", data: r#"{"x":41791231212,"message":1.5}"#, url: ("41791231212", "1.5"), text: ("41791231212", "1.5") },
    Row { row: "null and truth", data: r#"{"x":null,"message":true}"#, url: ("null", "true"), text: ("null", "true") },
    Row {
        row: "lists and objects",
        data: r#"{"x":["a","b",3],"message":{"a":1}}"#,
        url: ("a,b,3", "[object%20Object]"),
        text: ("a,b,3", "[object Object]"),
    },
    Row {
        row: "names that are whole numbers go first",
        data: r#"{"x":"{{ 7 }}","7":"seven","message":"m"}"#,
        url: ("{{%207%20}}", "m"),
        text: ("{{ 7 }}", "m"),
    },
    Row {
        row: "names are any text",
        data: r#"{"x":"a","message":"hello {{ my name.y$ }}","my name.y$":"bob"}"#,
        url: ("a", "hello%20bob"),
        text: ("a", "hello bob"),
    },
    Row { row: "quotes", data: r#"{"x":"say \"hi\"","message":"\""}"#, url: ("say%20%22hi%22", "%22"), text: ("say \"hi\"", "\"") },
    Row {
        row: "what is encoded already",
        data: r#"{"x":"a%20b%C3%A9","message":"Your%20code%3A%20{{ code }}"}"#,
        url: ("a%20b%C3%A9", "Your%20code%3A%20CODE"),
        text: ("a%20b%C3%A9", "Your%20code%3A%20CODE"),
    },
    Row { row: "what is kept", data: r#"{"x":"a+b=c","message":"d&e=f"}"#, url: ("a+b=c", "d&e=f"), text: ("a+b=c", "d&e=f") },
    Row {
        row: "beyond ASCII", data: r#"{"x":"a","message":"é€😀"}"#, url: ("a", "%C3%A9%E2%82%AC%F0%9F%98%80"), text: ("a", "é€😀")
    },
    Row { row: "dollars", data: r#"{"x":"$&$1$$","message":"$0"}"#, url: ("$&$1$$", "$0"), text: ("$&$1$$", "$0") },
    Row { row: "empty texts", data: r#"{"x":"","message":""}"#, url: ("", ""), text: ("", "") },
];

#[test]
fn values_are_filled_in_as_the_table_says() {
    every([Generation::V1, Generation::V2], |generation| {
        for method in ["POST", "GET"] {
            let stand = Plan::with(Way::InFront, generation, |sms| everywhere(sms, method)).start();
            let mut table = Table::new(format!("templates, {method} {generation:?}"));
            for (count, it) in ROWS.iter().enumerate() {
                let before = stand.sms.count();
                let said = activate(&stand, &format!("person{count}"), it.data);
                if said.status != 302 || stand.sms.count() != before + 1 {
                    table.holds(it.row, false, format!("{} requests; {}", stand.sms.count() - before, said.text()));
                    continue;
                }
                let request = stand.sms.last();
                let values = request.header("x-values").unwrap_or_default().to_owned();
                let code = values.rsplit('|').next().unwrap_or_default().to_owned();
                table.holds(it.row, code.len() == 4, &values);
                let with = |text: &str| text.replace("CODE", &code);
                let (x, m) = (with(it.url.0), with(it.url.1));
                let target = format!("/sms?x={x}&m={m}&u={{{{%20unknown%20}}}}&t={{{{x}}}}&x2={x}");
                table.row(&format!("{}: URL", it.row), plain(request.target()), target);
                let (x, m) = (with(it.text.0), with(it.text.1));
                table.row(&format!("{}: header", it.row), values, format!("{x}|{x}|{code}|{code}").trim().to_owned());
                if method == "GET" {
                    table.row(&format!("{}: body", it.row), request.text(), "");
                    continue;
                }
                let body = json!({"x": x, "m": m, "code": code, "twice": format!("{code}{code}"), "tight": "{{x}}", "wide": "{{  x  }}",
                    "open": "{{ x", "unknown": "{{ unknown }}"});
                table.row(&format!("{}: body", it.row), request.json(), body);
                let length = request.body.len().to_string();
                table.row(&format!("{}: length", it.row), request.header("content-length").map(str::to_owned), Some(length));
            }
            let request = stand.sms.last();
            table.row("an empty header is sent", request.header("authorization"), Some(""));
            table.row("method", request.method(), method);
            table.done();
        }
    });
}

#[test]
fn any_other_method_is_get_in_the_first_generation() {
    let settings = |sms: &Sms| {
        let mut settings = everywhere(sms, "PUT");
        settings["sms"]["endpoints"]["single"]["headers"] = json!({"content-type": "application/json"});
        settings
    };
    let stand = Plan::with(Way::InFront, Generation::V1, settings).start();
    let said = activate(&stand, "janet", r#"{"x":"a","message":"b"}"#);
    assert_eq!((said.status, stand.sms.last().method()), (302, "GET"), "{}", said.text());
    assert!(stand.sms.last().body.is_empty(), "{:?}", stand.sms.last());
}

/// Challenge-verify with a variable that only `verify` may fill in.
fn with_extra(sms: &Sms) -> Value {
    let mut settings = super::stand::challenge_verify(sms);
    settings["sms"]["endpoints"]["verify"]["body"] =
        r#"{"number":"{{ number }}","code":"{{ code }}","extra":"{{ extra }}","way":"{{ way }}"}"#.into();
    settings["sms"]["endpoints"]["challenge"]["body"] = r#"{"number":"{{ number }}","code":"{{ code }}"}"#.into();
    settings
}

#[test]
fn verify_takes_variables_from_the_request_and_the_user_data_wins() {
    every([Generation::V1, Generation::V2], |generation| {
        let stand = Plan::with(Way::InFront, generation, with_extra).start();
        let mut table = Table::new(format!("variables of verify, {generation:?}"));
        let found = |name: &str| -> Person {
            let person = stand.person(name);
            stand.core().put(name, "mfa", json!({"content": {"number": person.number, "way": "sms"}, "recoveryCodes": []}));
            person
        };
        for (count, (row, body, wanted)) in [
            ("the code", json!({"code": "12345"}), json!({"code": "12345", "extra": "{{ extra }}", "way": "sms"})),
            ("more", json!({"code": "12345", "extra": "e"}), json!({"code": "12345", "extra": "e", "way": "sms"})),
            ("the user data wins", json!({"code": "12345", "way": "post"}), json!({"code": "12345", "extra": "{{ extra }}", "way": "sms"})),
        ]
        .into_iter()
        .enumerate()
        {
            let person = found(&format!("person{count}"));
            let session = person.challenged(generation);
            table.row("no code is made", stand.sms.last().json()["code"].clone(), "{{ code }}");
            let said = person.post("mfa/verify", &session, &body);
            table.row(row, said.status, 200);
            let mut wanted = wanted;
            wanted["number"] = person.number.clone().into();
            table.row(row, stand.sms.last().json(), wanted);
        }
        let person = found("helen");
        let session = person.challenged(generation);
        let before = stand.sms.count();
        for code in [r#"00000","code":"12345"#, "00000&to=4100000666", "../0000", "00000;a=b", "00 00", "0000?", "%30000"] {
            let said = person.verify(&session, code);
            table.row(&format!("a code that would be more than a code: {code}"), said.status, 400);
        }
        table.row("nobody is asked about it", stand.sms.count(), before);
        table.done();
    });
}

/// Requests since there were so many.
fn since(sms: &Sms, before: usize) -> Vec<Request> {
    sms.seen().split_off(before)
}

#[test]
fn redirects_are_followed_five_times() {
    every([Generation::V1, Generation::V2], |generation| {
        let stand = Stand::of(Way::InFront, generation);
        let mut table = Table::new(format!("redirects, {generation:?}"));
        for hops in [1, 5] {
            let before = stand.sms.count();
            (0..hops).for_each(|it| stand.sms.next(Reply::redirect(&format!("/hop/{it}"))));
            let person = stand.person(&format!("person{hops}"));
            let said = person.activate(&person.log_in(), &person.data());
            table.row(&format!("{hops} hops"), said.status, 302);
            table.row(&format!("{hops} hops: location"), said.header("location"), None::<String>);
            let seen = since(&stand.sms, before);
            table.row(&format!("{hops} hops: requests"), seen.len(), hops + 1);
            table.holds(
                &format!("{hops} hops: POST becomes GET"),
                seen[1..].iter().all(|it| it.method() == "GET" && it.body.is_empty()),
                "",
            );
            table.row(&format!("{hops} hops: first"), seen[0].method(), "POST");
        }
        table.done();
    });
}

#[test]
fn every_status_from_200_to_299_is_a_success() {
    every([Generation::V1, Generation::V2], |generation| {
        let stand = Stand::of(Way::InFront, generation);
        let mut table = Table::new(format!("successes, {generation:?}"));
        for (count, reply) in [
            Reply::status(200, "OK"),
            Reply::status(201, "Created"),
            Reply::status(202, "Accepted"),
            Reply::status(204, "No Content"),
            Reply::status(299, "Whatever"),
            Reply::json(200, "OK", "{\"error\":{\"id\":\"x\"}}"),
            Reply::Says { status: 200, phrase: "OK", headers: vec![("content-type", "text/plain".into())], body: "not json".into() },
        ]
        .into_iter()
        .enumerate()
        {
            let person = stand.person(&format!("person{count}"));
            let token = person.log_in();
            stand.sms.next(reply.clone());
            let said = person.activate(&token, &person.data());
            table.row(&format!("{reply:?}"), said.status, 302);
        }
        table.done();
    });
}

#[test]
fn the_order_of_user_data_outlives_a_log_in() {
    every(ALL, |(way, generation)| {
        let stand = Plan::with(way, generation, |sms| everywhere(sms, "GET")).start();
        let mut table = Table::new(format!("order of user data, {way:?} {generation:?}"));
        for (name, data, wanted) in [
            ("janet", r#"{"x":"41","message":"for {{ x }}"}"#, "for%20{{%20x%20}}"),
            ("helen", r#"{"zz":"{{ x }}","x":"41","message":"for {{ zz }}"}"#, "for%20{{%20zz%20}}"),
            ("jacky", r#"{"message":"for {{ zz }}","zz":"{{ x }}","x":"41"}"#, "for%2041"),
        ] {
            let person = stand.person(name);
            let token = person.log_in();
            let said = person.call("POST", "mfa/activate", &[JSON, ("authorization", &token)], data.as_bytes());
            let sent = || {
                let request = stand.sms.last();
                let code = request.header("x-values").and_then(|it| it.rsplit('|').next()).unwrap_or_default().to_owned();
                let target = plain(request.target());
                (code, target.split('&').find_map(|it| it.strip_prefix("m=")).unwrap_or_default().to_owned())
            };
            table.row(&format!("{name}: activate"), sent().1, wanted);
            table.row(&format!("{name}: confirm"), person.confirm(&said.token("mfaToken"), &sent().0).status, 200);
            person.challenged(generation);
            table.row(&format!("{name}: challenge"), sent().1, wanted);
        }
        table.done();
    });
}
