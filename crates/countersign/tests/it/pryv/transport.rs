//! §1: where the username and the token stand, what is in the head of every answer, bodies, and what is not there.

use super::stand::{ALL, APP, Generation, JSON, NO_TOKEN, ORIGIN, PASSWORD, Plan, Said, Stand, Table, Way, call, every, told};
use serde_json::json;

fn credentials(name: &str) -> Vec<u8> {
    json!({"username": name, "password": PASSWORD, "appId": APP}).to_string().into_bytes()
}

#[test]
fn the_username_is_the_first_label_of_the_host_or_the_first_step_of_the_path() {
    let long = |count: usize| format!("j{}t", "a".repeat(count - 2));
    let (sixty, sixty_one) = (long(60), long(61));
    every(ALL, |(way, generation)| {
        let stand = Plan { domain: Some("pryv.test"), ..Plan::new(way, generation.name()) }.start();
        stand.person("janet");
        if way == Way::InFront {
            // The directory of our own need not take names that no client could use.
            ["jack", &sixty, &sixty_one].iter().for_each(|it| drop(stand.person(it)));
        }
        let log_in = |host: &str, path: &str, name: &str| {
            call(stand.place.address, "POST", path, &[("host", host), JSON, ("origin", ORIGIN)], &credentials(name)).status
        };
        let mut table = Table::new(format!("names of hosts, {way:?} {generation:?}"));
        table.row("public path", log_in("janet.pryv.test", "/auth/login", "janet"), 200);
        table.row("the service's own path", log_in("janet.pryv.test", "/login", "janet"), 200);
        table.row("with a port", log_in("janet.pryv.test:8443", "/auth/login", "janet"), 200);
        table.row("in capitals", log_in("JANET.pryv.test", "/auth/login", "janet"), 200);
        table.row("the path begins with the label", log_in("janet.pryv.test", "/janet/auth/login", "janet"), 200);
        table.row("nobody's host", log_in("nobody.pryv.test", "/auth/login", "nobody"), 404);
        table.row("of another domain", log_in("janet.pryv.other", "/auth/login", "janet"), 404);
        table.row("a hyphen at the end", log_in("janet-.pryv.test", "/auth/login", "janet-"), 404);
        if generation == Generation::V1 {
            table.row("two labels: it stands in the path", log_in("pryv.test", "/janet/login", "janet"), 200);
            table.row("four characters", log_in("jack.pryv.test", "/auth/login", "jack"), 404);
            table.row("61 characters", log_in(&format!("{sixty_one}.pryv.test"), "/auth/login", &sixty_one), 404);
        }
        if way == Way::InFront {
            table.row("60 characters", log_in(&format!("{sixty}.pryv.test"), "/auth/login", &sixty), 200);
        }
        let info = call(stand.place.address, "GET", "/service/info", &[("host", "reg.pryv.test")], b"");
        table.holds("`reg` is nobody", info.status == 200 && info.body["api"].is_string(), info.text());
        table.done();

        let stand = Stand::of(way, generation);
        stand.person("janet");
        let log_in = |host: &str, path: &str| {
            call(stand.place.address, "POST", path, &[("host", host), JSON, ("origin", ORIGIN)], &credentials("janet")).status
        };
        let mut table = Table::new(format!("names in paths, {way:?} {generation:?}"));
        table.row("public path", log_in("127.0.0.1", "/janet/auth/login"), 200);
        table.row("the service's own path", log_in("127.0.0.1", "/janet/login"), 200);
        table.row("any host", log_in("mfa.example.com", "/janet/login"), 200);
        table.row("nobody's path", log_in("127.0.0.1", "/nobody/auth/login"), 404);
        table.row("nobody at all", log_in("127.0.0.1", "/auth/login"), 404);
        table.done();
    });
}

#[test]
fn a_token_is_taken_from_every_carrier_that_clients_use() {
    every(ALL, |(way, generation)| {
        let stand = Stand::of(way, generation);
        let person = stand.person("janet");
        let token = person.log_in();
        let basic = |it: &str| format!("Basic {}", data_encoding::BASE64.encode(it.as_bytes()));
        let ask = |query: &str, authorization: Option<&str>| {
            let headers: Vec<_> = authorization.iter().map(|it| ("authorization", *it)).collect();
            person.call("POST", &format!("mfa/deactivate{query}"), &headers, b"").status
        };
        let mut table = Table::new(format!("carriers of a personal token, {way:?} {generation:?}"));
        let query = format!("?auth={token}");
        table.row("raw", ask("", Some(&token)), 200);
        table.row("basic", ask("", Some(&basic(&format!("{token}:")))), 200);
        table.row("basic with a password", ask("", Some(&basic(&format!("{token}:x:y")))), 200);
        table.row("query", ask(&query, None), 200);
        table.row("bearer", ask("", Some(&format!("Bearer {token}"))), 200);
        table.row("bearer in small letters", ask("", Some(&format!("bearer {token}"))), 200);
        table.row("the header comes before the query", ask(&query, Some("nonsense")), 403);
        table.holds("an empty header", (400..500).contains(&ask("", Some(""))), ask("", Some("")));
        if generation == Generation::V2 {
            table.row("with a caller", ask("", Some(&format!("{token} somebody"))), 200);
        }
        table.done();

        let enrolled = stand.person("helen");
        stand.enroll(&enrolled);
        let mut table = Table::new(format!("carriers of an mfaToken, {way:?} {generation:?}"));
        let session = enrolled.half_in();
        let ask = |query: &str, authorization: Option<&str>| {
            let headers: Vec<_> = authorization.iter().map(|it| ("authorization", *it)).collect();
            enrolled.call("POST", &format!("mfa/challenge{query}"), &headers, b"")
        };
        table.row("raw", ask("", Some(&session)).status, 200);
        table.row("basic", ask("", Some(&basic(&format!("{session}:")))).status, 200);
        table.row("bearer", ask("", Some(&format!("Bearer {session}"))).status, 200);
        if generation == Generation::V1 {
            table.row("query", ask(&format!("?auth={session}"), None).status, 200);
            table.row("none", ask("", None).error(), told(403, "forbidden", NO_TOKEN));
            table.row("an empty header", ask("", Some("")).error(), told(403, "forbidden", NO_TOKEN));
        } else {
            table.row("none", (ask("", None).status, ask("", None).error().1), (400, "invalid-parameters-format".to_owned()));
        }
        table.done();
    });
}

/// The headers of every answer, to a request from nowhere.
fn common(table: &mut Table, row: &str, said: &Said, origin: &str) {
    for (name, wanted) in [
        ("access-control-allow-origin", origin),
        ("access-control-allow-methods", "POST, GET, PUT, DELETE, OPTIONS"),
        ("access-control-allow-headers", "Authorization, Content-Type"),
        ("access-control-expose-headers", "API-Version"),
        ("access-control-max-age", "31536000"),
        ("access-control-allow-credentials", "true"),
    ] {
        table.row(&format!("{row}: {name}"), said.header(name), Some(wanted.to_owned()));
    }
    table.holds(&format!("{row}: api-version"), said.header("api-version").is_some_and(|it| !it.is_empty()), said.text());
    table.row(&format!("{row}: x-powered-by"), said.header("x-powered-by"), None::<String>);
}

#[test]
fn every_answer_may_be_read_by_pages_of_every_origin() {
    every(ALL, |(way, generation)| {
        let stand = Stand::of(way, generation);
        let person = stand.person("janet");
        let token = person.log_in();
        let mut table = Table::new(format!("heads of answers, {way:?} {generation:?}"));
        let good = person.login();
        table.row("a success", good.status, 200);
        common(&mut table, "a success", &good, ORIGIN);
        let info = person.get("access-info", &[("authorization", &token)]);
        table.row("access-info", info.status, 200);
        common(&mut table, "access-info", &info, "*");
        if generation == Generation::V2 && way == Way::Alone {
            table.holds("access-info: the access", info.header("pryv-access-id").is_some(), info.text());
        }
        let activated = person.activate(&token, &person.data());
        table.row("a 302", activated.status, 302);
        table.row("a 302 leads nowhere", activated.header("location"), None::<String>);
        common(&mut table, "a 302", &activated, "*");
        let large = vec![b' '; 200 << 10];
        for (row, said, status) in [
            ("a refusal", person.login_with(&json!({}), &[]), 400),
            ("no token", person.post("mfa/confirm", "", &json!({})), if generation == Generation::V1 { 403 } else { 400 }),
            ("unknown token", person.get("access-info", &[("authorization", "nonsense")]), 403),
            ("too large", person.call("POST", "mfa/activate", &[JSON, ("authorization", &token)], &large), 413),
            ("malformed", person.call("POST", "mfa/activate", &[JSON, ("authorization", &token)], b"{"), 400),
            ("nobody", call(stand.place.address, "POST", "/nobody/auth/login", &[JSON], &credentials("nobody")), 404),
            ("no such path", person.get("no/such/path", &[]), 404),
        ] {
            table.row(row, said.status, status);
            common(&mut table, row, &said, "*");
        }
        for path in ["auth/login", "mfa/verify", "no/such/path"] {
            let said = person.call("OPTIONS", path, &[], b"");
            table.row(&format!("OPTIONS {path}"), (said.status, said.heard.body()), (200, "OK".to_owned()));
            common(&mut table, &format!("OPTIONS {path}"), &said, "*");
        }
        let wish = [
            ("origin", "https://page.test"),
            ("access-control-request-method", "PATCH"),
            ("access-control-request-headers", "authorization, x-mine"),
        ];
        let said = person.call("OPTIONS", "mfa/verify", &wish, b"");
        for (name, wanted) in [
            ("access-control-allow-origin", "https://page.test"),
            ("access-control-allow-methods", "PATCH"),
            ("access-control-allow-headers", "authorization, x-mine"),
        ] {
            table.row(&format!("what was asked for: {name}"), said.header(name), Some(wanted.to_owned()));
        }
        table.done();
    });
}

#[test]
fn a_body_is_json_when_it_says_so_and_empty_otherwise() {
    every(ALL, |(way, generation)| {
        let v1 = generation == Generation::V1;
        let stand = Stand::of(way, generation);
        let person = stand.person("janet");
        let token = person.log_in();
        let at = |path: &str, content_type: Option<&str>, token: &str, body: &[u8]| {
            let mut headers = vec![("authorization", token)];
            headers.extend(content_type.map(|it| ("content-type", it)));
            person.call("POST", path, &headers, body)
        };
        let data = person.data().to_string();
        let mut table = Table::new(format!("bodies, {way:?} {generation:?}"));

        let said = person.call("POST", "auth/login", &[("origin", ORIGIN)], &credentials("janet"));
        let missing = told(400, "invalid-operation", "Missing parameters: username, password and appId are required.");
        table.row("login without a type", said.error(), missing.clone());
        let said = person.call("POST", "auth/login", &[("origin", ORIGIN), ("content-type", "text/plain")], &credentials("janet"));
        table.row("login as text", said.error(), missing);
        let typed = [("origin", ORIGIN), ("content-type", "application/json; charset=utf-8")];
        table.row("login with a character set", person.call("POST", "auth/login", &typed, &credentials("janet")).status, 200);

        let before = stand.sms.count();
        let said = at("mfa/activate", None, &token, data.as_bytes());
        table.holds("activate without a type has no data", said.status == 400 && !said.error().1.is_empty(), said.text());
        let said = at("mfa/activate", Some("text/plain"), &token, data.as_bytes());
        table.holds("activate as text has no data", said.status == 400 && !said.error().1.is_empty(), said.text());
        table.row("nothing was sent", stand.sms.count(), before);

        let malformed = if v1 { "unexpected-error" } else { "invalid-request-structure" };
        for path in ["auth/login", "login", "mfa/activate", "mfa/confirm", "mfa/verify", "mfa/recover"] {
            let said = at(path, Some("application/json"), &token, b"{\"code\": ");
            table.row(&format!("malformed {path}"), (said.error().0, said.error().1), (400, malformed.to_owned()));
        }
        // The limit of 100 kB is one of 102400 bytes; white space counts.
        let body = |size: usize| [data.as_bytes(), &vec![b' '; size - data.len()]].concat();
        let said = at("mfa/activate", Some("application/json"), &token, &body(102_400));
        table.row("100 kB", said.status, 302);
        for path in ["auth/login", "mfa/activate", "mfa/verify"] {
            let said = at(path, Some("application/json"), &token, &body(102_401));
            if v1 {
                let large = told(413, "unexpected-error", "request entity too large");
                table.row(&format!("one byte more {path}"), said.error(), large);
            } else {
                table.holds(&format!("one byte more {path}"), said.status == 413 && !said.error().1.is_empty(), said.text());
            }
        }
        table.done();
    });
}

#[test]
fn what_is_not_there_is_said_in_json() {
    every(ALL, |(way, generation)| {
        let stand = Stand::of(way, generation);
        let person = stand.person("janet");
        let mut table = Table::new(format!("not found, {way:?} {generation:?}"));
        for (method, path) in
            [("GET", "no/such/path"), ("POST", "mfa"), ("GET", "mfa/activate"), ("PUT", "mfa/verify"), ("POST", "mfa/no-such-method")]
        {
            let said = person.call(method, path, &[], b"");
            let row = format!("{method} {path}");
            table.row(&row, said.status, 404);
            let json = said.header("content-type").is_some_and(|it| it.starts_with("application/json"));
            table.holds(&row, json && !said.error().1.is_empty(), said.text());
            if generation == Generation::V2 {
                table.row(&row, said.error(), told(404, "unknown-resource", "Unknown resource "));
            }
        }
        table.done();
    });
}

#[test]
fn errors_have_the_shape_of_their_generation() {
    every(ALL, |(way, generation)| {
        let stand = Stand::of(way, generation);
        let (person, _) = stand.enrolled("janet");
        let session = person.challenged(generation);
        let mut table = Table::new(format!("shape of errors, {way:?} {generation:?}"));
        for (row, said) in [("unknown session", person.verify("nonsense", "1234")), ("wrong code", person.verify(&session, "none"))] {
            let body = said.heard.body();
            let at = |it: &str| body.find(&format!("\"{it}\":"));
            let names: Vec<_> = said.body["error"].as_object().map(|it| it.keys().cloned().collect()).unwrap_or_default();
            if generation == Generation::V1 {
                table.row(row, said.keys(), ["error"]);
                table.row(row, names, ["message", "id"]);
                table.holds(&format!("{row}: message before id"), at("message") < at("id"), &body);
            } else {
                table.row(row, said.keys(), ["error", "meta"]);
                table.holds(&format!("{row}: names"), names.iter().all(|it| ["data", "id", "message"].contains(&it.as_str())), &body);
                table.holds(&format!("{row}: id before message before data"), at("id") < at("message"), &body);
                table.holds(row, at("data").is_none_or(|it| Some(it) > at("message")), &body);
                let meta = &said.body["meta"];
                table.holds(&format!("{row}: meta"), meta["apiVersion"].is_string() && meta["serial"].is_string(), &body);
                let time = meta["serverTime"].as_f64().unwrap_or_default();
                table.holds(&format!("{row}: seconds"), time > 1.5e9 && time < 1e10, &body);
            }
        }
        table.done();
    });
}
