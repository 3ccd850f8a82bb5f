//! The stand-ins themselves: a test is worth no more than what it is held against.

use super::core_stand_in::Core;
use super::sms_service::{Reply, Sms};
use super::stand::{APP, JSON, ORIGIN, PASSWORD, Said, Table, call, told};
use serde_json::{Value, json};

fn log_in(core: &Core, name: &str, body: &str, headers: &[(&str, &str)]) -> Said {
    call(core.address, "POST", &format!("/{name}/auth/login"), &[&[JSON], headers].concat(), body.as_bytes())
}

fn body(name: &str, password: &str, app: &str) -> String {
    json!({"username": name, "password": password, "appId": app}).to_string()
}

#[test]
fn the_core_answers_log_ins_in_the_order_of_the_contract() {
    let core = Core::start();
    core.add("janet", PASSWORD);
    core.add("oldie", PASSWORD);
    core.inside().users.get_mut("oldie").unwrap().expired_at = Some(1_893_499_200.0);
    core.inside().trusted_apps = vec![format!("{APP}@https://*.pryv.test*"), "*@https://pryv.github.io*".into()];
    let missing = told(400, "invalid-operation", "Missing parameters: username, password and appId are required.");
    let untrusted = told(401, "invalid-credentials", "The app id (\"appId\") is either missing or not trusted.");
    let mut table = Table::new("auth/login of the core");
    for (row, name, body, origin, wanted) in [
        ("unknown user", "nobody", "{".to_owned(), ORIGIN, told(404, "unknown-resource", "Unknown user \"nobody\"")),
        ("an array", "janet", "[]".to_owned(), ORIGIN, missing.clone()),
        ("no password", "janet", json!({"username": "janet", "appId": APP}).to_string(), ORIGIN, missing),
        ("untrusted app", "janet", body("other", "bad", "other"), ORIGIN, untrusted.clone()),
        ("untrusted origin", "janet", body("janet", PASSWORD, APP), "https://app.pryv.evil", untrusted.clone()),
        ("no origin", "janet", body("janet", PASSWORD, APP), "", untrusted),
        (
            "another name",
            "janet",
            body("other", "bad", APP),
            ORIGIN,
            told(400, "invalid-operation", "The username in the path does not match that of the credentials."),
        ),
        (
            "bad password",
            "janet",
            body("janet", "bad", APP),
            ORIGIN,
            told(401, "invalid-credentials", "The given username/password pair is invalid."),
        ),
        (
            "expired",
            "oldie",
            body("oldie", PASSWORD, APP),
            ORIGIN,
            told(401, "invalid-credentials", "Password expired since 2030-01-01T12:00:00.000Z"),
        ),
    ] {
        let headers = [("origin", origin)];
        let said = log_in(&core, name, &body, if origin.is_empty() { &[] } else { &headers });
        table.row(row, said.error(), wanted);
        table.holds(row, said.body["meta"]["apiVersion"] == "1.9.3", said.text());
    }
    let said = log_in(&core, "janet", "{", &[]);
    table.row("malformed", (said.error().0, said.error().1), (400, "invalid-request-structure".to_owned()));
    let said = log_in(&core, "janet", &json!({"username": "janet", "password": 7, "appId": APP}).to_string(), &[]);
    table.row("wrong type", said.body["error"]["data"][0]["path"].clone(), "#/password");
    let said = log_in(&core, "janet", &body("JANET", PASSWORD, "any"), &[("referer", "https://pryv.github.io/x")]);
    table.row("a page is as good as an origin", said.status, 200);
    table.holds("the cookie of the core", said.header("set-cookie").is_some(), said.text());
    table.done();
}

#[test]
fn the_core_keeps_accesses_and_profiles_as_the_contract_says() {
    let core = Core::start();
    core.add("janet", PASSWORD);
    core.add("helen", PASSWORD);
    let first = log_in(&core, "janet", &body("janet", PASSWORD, APP), &[]).token("token");
    let ask = |method: &str, path: &str, token: &str, body: &str| {
        call(core.address, method, path, &[JSON, ("authorization", token)], body.as_bytes())
    };
    let mut table = Table::new("accesses and profiles of the core");
    table.row("same app", log_in(&core, "janet", &body("janet", PASSWORD, APP), &[]).token("token"), first.clone());
    table.holds("other app", log_in(&core, "janet", &body("janet", PASSWORD, "other"), &[]).token("token") != first, &first);
    for (row, authorization) in [
        ("raw", first.clone()),
        ("basic", format!("Basic {}", data_encoding::BASE64.encode(format!("{first}:").as_bytes()))),
        ("with a caller", format!("{first} me")),
    ] {
        table.row(row, ask("GET", "/janet/access-info", &authorization, "").body["type"].clone(), "personal");
    }
    let by_query = call(core.address, "GET", &format!("/janet/access-info?auth={first}"), &[], b"");
    table.row("query", by_query.body["user"]["username"].clone(), "janet");
    let missing = call(core.address, "GET", "/janet/access-info", &[], b"");
    table.row("no token", (missing.status, missing.error().1), (401, "invalid-access-token".into()));
    let unknown = told(403, "invalid-access-token", "Cannot find access from token.");
    table.row("unknown token", ask("GET", "/janet/access-info", "nonsense", "").error(), unknown.clone());
    table.row("somebody else's token", ask("GET", "/helen/access-info", &first, "").error(), unknown);

    let app = core.token("janet", "app");
    table.row("type of an app's token", ask("GET", "/janet/access-info", &app, "").body["type"].clone(), "app");
    table.row("profile by an app", ask("GET", "/janet/profile/private", &app, "").status, 403);
    table.row("profile", ask("GET", "/janet/profile/private", &first, "").body["profile"].clone(), json!({}));
    let put = |body: Value| ask("PUT", "/janet/profile/private", &first, &body.to_string()).body["profile"].clone();
    table.row("put", put(json!({"a": 1, "mfa": {"content": {}}})), json!({"a": 1, "mfa": {"content": {}}}));
    table.row("put null", put(json!({"mfa": null, "b": 2})), json!({"a": 1, "b": 2}));
    core.fail_next("PUT /janet", 503, json!({"error": {"id": "api-unavailable", "message": "later"}}));
    table.row("a failing put", ask("PUT", "/janet/profile/private", &first, "{\"c\":3}").status, 503);
    table.row("changes nothing", core.profile("janet"), json!({"a": 1, "b": 2}));

    table.row("logout", ask("POST", "/janet/auth/logout", &first, "").status, 200);
    let over = told(403, "invalid-access-token", "Access session has expired.");
    table.row("after logout", ask("GET", "/janet/access-info", &first, "").error(), over);
    table.row("the record", core.asked().last().map(|it| it.what()), Some("GET /janet/access-info".to_owned()));
    table.done();
}

#[test]
fn the_messaging_service_keeps_bytes_and_answers_as_told() {
    let sms = Sms::start();
    let ask = |path: &str, body: &str| call(sms.address, "POST", path, &[JSON, ("X-As-Sent", "a {{ b }}  c")], body.as_bytes());
    let mut table = Table::new("messaging service");
    table.row("takes everything", ask("/sms?to=%20{x}", "{\"number\":\"41\",\"code\":\"0042\"}").status, 200);
    let seen = sms.last();
    table.row("request line", seen.line.as_str(), "POST /sms?to=%20{x} HTTP/1.1");
    table.row("header", seen.headers.iter().find(|it| it.0 == "X-As-Sent").map(|it| it.1.as_str()), Some("a {{ b }}  c"));
    table.row("code", sms.code("41"), Some("0042".to_owned()));
    table.row("right code", ask("/mfa/codes/verifications", "{\"code\":\"12345\"}").status, 200);
    table.row("wrong code", ask("/mfa/codes/verifications", "{\"code\":\"12346\"}").status, 400);
    sms.next(Reply::Resets);
    table.row("reset", ask("/sms", "{}").status, 0);
    table.row("its request", sms.count(), 4);
    sms.next(Reply::status(304, "Not Modified"));
    table.row("304", ask("/sms", "{}").status, 304);
    sms.next(Reply::redirect("/sms"));
    table.row("redirect", ask("/sms", "{}").header("location"), Some("/sms".to_owned()));
    sms.always("/sms", Reply::json(200, "OK", "not json"));
    table.row("garbage", ask("/sms", "{}").heard.body(), "not json");
    table.row("for scripts", call(sms.address, "GET", "/-/code/41", &[], b"").body, json!("0042"));
    table.row("scripts are not recorded", sms.count(), 7);
    table.done();
}
