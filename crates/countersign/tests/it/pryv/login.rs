//! §2: `auth/login`, `auth/logout` and `access-info`.

use super::stand::{ALL, APP, Generation, JSON, ORIGIN, PASSWORD, Plan, Stand, Table, Way, call, every, is_uuid, told};
use serde_json::{Value, json};

const MISSING: &str = "Missing parameters: username, password and appId are required.";
const UNTRUSTED: &str = "The app id (\"appId\") is either missing or not trusted.";

#[test]
fn a_log_in_is_refused_for_the_first_thing_that_is_wrong() {
    every(ALL, |(way, generation)| {
        let v1 = generation == Generation::V1;
        let trusted = format!("{APP}@https://*.pryv.test");
        let stand = Stand::of(way, generation);
        match &stand.core {
            Some(core) => core.inside().trusted_apps = vec![trusted.clone()],
            None => stand.set(&["--trusted-app", &trusted]),
        }
        let person = stand.person("janet");
        crate::tools::until(std::time::Duration::from_secs(3), || {
            (person.login_with(&person.credentials(), &[("origin", "https://evil.test")]).status == 401).then_some(())
        });
        let body = |name: &str, password: &str, app: &str| json!({"username": name, "password": password, "appId": app});
        let mut table = Table::new(format!("auth/login, {way:?} {generation:?}"));

        let nobody = call(stand.place.address, "POST", "/nobody/auth/login", &[JSON], body("janet", "bad", "other").to_string().as_bytes());
        table.row("unknown user", nobody.error(), told(404, "unknown-resource", "Unknown user \"nobody\""));
        let without = |key: &str| {
            let mut it = body("janet", PASSWORD, APP);
            it.as_object_mut().unwrap().remove(key);
            it
        };
        for (row, body) in [
            ("an array", json!([])),
            ("empty", json!({})),
            ("no username", without("username")),
            ("no password", without("password")),
            ("no appId", without("appId")),
        ] {
            table.row(row, person.login_with(&body, &[("origin", ORIGIN)]).error(), told(400, "invalid-operation", MISSING));
        }
        for (row, path, body) in [
            ("password is a number", "#/password", json!({"username": "janet", "password": 7, "appId": "other"})),
            ("username is null", "#/username", json!({"username": null, "password": "x", "appId": "other"})),
            ("appId is a list", "#/appId", json!({"username": "janet", "password": "x", "appId": []})),
        ] {
            let said = person.login_with(&body, &[("origin", ORIGIN)]);
            table.row(row, (said.error().0, said.error().1), (400, "invalid-parameters-format".to_owned()));
            // The first generation drops what the core says in `data`.
            if v1 {
                table.row(row, said.body["error"]["data"].clone(), Value::Null);
            } else {
                let data = &said.body["error"]["data"][0];
                table.row(row, (data["code"].clone(), data["path"].clone()), ("INVALID_TYPE".into(), path.into()));
            }
        }
        for (row, app, headers) in [
            ("another app", "other", &[("origin", ORIGIN)][..]),
            ("another origin", APP, &[("origin", "https://app.pryv.evil")]),
            ("more behind the origin", APP, &[("origin", "https://app.pryv.test.evil")]),
            ("the dot is a dot", APP, &[("origin", "https://app.pryvxtest")]),
            ("another page", APP, &[("referer", "https://app.pryv.evil/x")]),
            ("the origin counts, not the page", APP, &[("origin", "https://evil.test"), ("referer", "https://app.pryv.test")]),
            ("neither origin nor page", APP, &[]),
        ] {
            // Name and password are wrong too: this is asked first.
            let said = person.login_with(&body("other", "bad", app), headers);
            table.row(row, said.error(), told(401, "invalid-credentials", UNTRUSTED));
        }
        let other = told(400, "invalid-operation", "The username in the path does not match that of the credentials.");
        table.row("another name", person.login_with(&body("other", "bad", APP), &[("origin", ORIGIN)]).error(), other);
        let bad = told(401, "invalid-credentials", "The given username/password pair is invalid.");
        table.row("bad password", person.login_with(&body("janet", "bad", APP), &[("origin", ORIGIN)]).error(), bad.clone());
        table.row("empty password", person.login_with(&body("janet", "", APP), &[("origin", ORIGIN)]).error(), bad);
        table.row("right, name in capitals", person.login_with(&body("JANET", PASSWORD, APP), &[("origin", ORIGIN)]).status, 200);
        table.row("right, by page", person.login_with(&body("janet", PASSWORD, APP), &[("referer", ORIGIN)]).status, 200);
        if let Some(core) = &stand.core {
            let said = person.login_with(&body("janet", "bad", APP), &[("origin", ORIGIN)]);
            table.row("the core's meta comes along", said.body["meta"]["serial"].clone(), "2019061301");
            stand.person("oldie");
            core.inside().users.get_mut("oldie").unwrap().expired_at = Some(1_893_499_200.0);
            let credentials = body("oldie", PASSWORD, APP).to_string();
            let said = call(stand.place.address, "POST", "/oldie/auth/login", &[JSON, ("origin", ORIGIN)], credentials.as_bytes());
            let expired = told(401, "invalid-credentials", "Password expired since 2030-01-01T12:00:00.000Z");
            table.row("password expired", said.error(), expired);
            let data = if v1 { Value::Null } else { json!({"expiredTime": 1_893_499_200.0}) };
            table.row("password expired: data", said.body["error"]["data"].clone(), data);
        }
        table.done();
    });
}

#[test]
fn trusted_apps_are_pairs_of_app_and_pattern() {
    let stand = Stand::of(Way::Alone, Generation::V1);
    let person = stand.person("janet");
    stand.set(&[
        "--trusted-app",
        "exact@https://app.test",
        "--trusted-app",
        "many@https://*.app.test*",
        "--trusted-app",
        "all@*",
        "--trusted-app",
        "*@https://any.test",
        "--trusted-app",
        "star.in.app@https://a*z.test",
    ]);
    let log_in = |app: &str, origin: &str| {
        let body = json!({"username": "janet", "password": PASSWORD, "appId": app});
        person.login_with(&body, &[("origin", origin)]).status
    };
    crate::tools::until(std::time::Duration::from_secs(3), || (log_in("other", "https://x.test") == 401).then_some(()));
    let mut table = Table::new("trusted apps");
    for (app, origin, status) in [
        ("exact", "https://app.test", 200),
        ("exact", "https://app.test/", 401),
        ("exact", "http://app.test", 401),
        ("Exact", "https://app.test", 401),
        ("many", "https://one.app.test", 200),
        ("many", "https://one.two.app.test:8443/page", 200),
        ("many", "https://app.test", 401),
        ("many", "https://a b.app.test", 401),
        ("all", "anything", 200),
        ("any-app", "https://any.test", 200),
        ("any-app", "https://anyxtest", 401),
        ("star.in.app", "https://abcz.test", 200),
        ("starxinxapp", "https://abcz.test", 401),
        ("star.in.app", "https://abc.test", 401),
    ] {
        table.row(&format!("{app} at {origin}"), log_in(app, origin), status);
    }
    let nowhere = person.login_with(&json!({"username": "janet", "password": PASSWORD, "appId": "all"}), &[]);
    table.row("all at nowhere: the empty text is tested", nowhere.status, 200);
    table.done();
}

#[test]
fn a_log_in_without_a_second_factor_gives_a_token_of_the_app() {
    every(ALL, |(way, generation)| {
        let stand = Stand::of(way, generation);
        let person = stand.person("janet");
        let said = person.login();
        let mut table = Table::new(format!("a log-in, {way:?} {generation:?}"));
        table.row("status", said.status, 200);
        table.row("names", said.keys(), ["apiEndpoint", "meta", "preferredLanguage", "token"]);
        let token = said.token("token");
        let info = person.get("service/info", &[]);
        let api = info.body["api"].as_str().unwrap_or_default().replace("{username}", "janet");
        table.row("endpoint", said.body["apiEndpoint"].clone(), api.replacen("//", &format!("//{token}@"), 1));
        let sent_on = said.header("set-cookie");
        if generation == Generation::V1 {
            table.row("no cookie", sent_on, None::<String>);
        }
        table.row("the same app again", person.log_in(), token.clone());
        let other = person.login_with(&json!({"username": "janet", "password": PASSWORD, "appId": "other"}), &[("origin", ORIGIN)]);
        table.holds("another app", other.status == 200 && other.token("token") != token, other.text());
        table.row("the service's own path", person.post("login", "", &person.credentials()).status, 200);
        stand.enroll(&person);
        let info = person.get("access-info", &[("authorization", &token)]);
        table.row("the token lives on when the second factor is active", info.status, 200);
        table.done();
    });
}

#[test]
fn a_core_is_asked_with_what_the_client_sent_and_its_answer_is_passed_on() {
    let stand = Stand::of(Way::InFront, Generation::V1);
    let person = stand.person("janet");
    let core = stand.core();
    core.inside().more =
        serde_json::from_value(json!({"passwordExpires": 1_900_000_000.5, "passwordCanBeChanged": 1_800_000_000, "new": {"a": [1]}}))
            .unwrap();
    core.forget();
    let mut body = person.credentials();
    body["deviceName"] = "a phone".into();
    body["extra"] = json!({"deep": [1, null]});
    let headers = [("origin", ORIGIN), ("referer", "https://app.pryv.test/page"), ("cookie", "a=b"), ("x-secret", "1"), ("accept", "json")];
    let said = person.login_with(&body, &headers);
    let asked = core.asked();
    let mut table = Table::new("what the core is asked at a log-in");
    table.row("calls", asked.iter().map(|it| it.what()).collect::<Vec<_>>(), ["POST /janet/auth/login", "GET /janet/profile/private"]);
    table.row("body", asked[0].json(), body);
    table.row("origin", asked[0].header("origin"), Some(ORIGIN));
    table.row("referer", asked[0].header("referer"), Some("https://app.pryv.test/page"));
    table.row("host", asked[0].header("host").map(str::to_owned), Some(person.address.to_string()));
    table.row("nothing else", (asked[0].header("cookie"), asked[0].header("x-secret")), (None, None));
    table.row(
        "the profile is asked for with the new token",
        asked[1].header("authorization").map(str::to_owned),
        Some(said.token("token")),
    );
    table.row("status", said.status, 200);
    table.row("the core's body", said.body["new"].clone(), json!({"a": [1]}));
    let wanted = ["apiEndpoint", "meta", "new", "passwordCanBeChanged", "passwordExpires", "preferredLanguage", "token"];
    table.row("all of it", said.keys(), wanted);
    let meta = json!({"apiVersion": "1.9.3", "serverTime": 1_893_499_200.123, "serial": "2019061301"});
    table.row("its meta", said.body["meta"].clone(), meta.clone());
    table.row("no cookie", said.header("set-cookie"), None::<String>);

    for (beginning, row) in [("POST /janet/auth/login", "a log-in that fails"), ("GET /janet/profile", "a profile that fails")] {
        let error = json!({"id": "api-unavailable", "message": "The core rests", "data": {"a": 1}});
        core.fail_next(beginning, 503, json!({"error": error, "meta": meta}));
        let said = person.login();
        table.row(row, said.error(), told(503, "api-unavailable", "The core rests"));
        table.row(row, said.body["meta"].clone(), meta.clone());
        table.row(&format!("{row}: data is dropped"), said.body["error"]["data"].clone(), Value::Null);
    }
    for (row, mfa) in [("empty content", json!({"content": {}})), ("no content", json!({"recoveryCodes": ["x"]})), ("null", Value::Null)] {
        core.put("janet", "mfa", mfa);
        table.row(row, person.login().status, 200);
    }
    table.done();
}

#[test]
fn a_log_in_with_a_second_factor_gives_a_token_for_the_second_step() {
    every(ALL, |(way, generation)| {
        let stand = Stand::of(way, generation);
        let (person, _) = stand.enrolled("janet");
        let before = stand.sms.count();
        let said = person.login();
        let mut table = Table::new(format!("a log-in with a second factor, {way:?} {generation:?}"));
        table.holds("mfaToken", said.body["mfaToken"].as_str().is_some_and(is_uuid), said.text());
        table.row("location", said.header("location"), None::<String>);
        if generation == Generation::V1 {
            table.row("status", said.status, 302);
            table.row("names", said.keys(), ["mfaToken"]);
            table.row("nothing is sent", stand.sms.count(), before);
        } else {
            table.row("status", said.status, 200);
            table.row("names", said.keys(), ["meta", "mfaToken"]);
            table.row("the code is sent", stand.sms.count(), before + 1);
        }
        table.done();
    });
}

#[test]
fn by_client_answers_each_family_of_clients_as_it_understands() {
    for way in [Way::Alone, Way::InFront] {
        let stand = Plan::new(way, "by-client").start();
        let person = stand.person("janet");
        let json = ("accept", "application/json");
        let token = person.log_in();
        let said = person.activate(&token, &person.data());
        let confirmed = person.confirm(&said.token("mfaToken"), &stand.code(&person));
        let mut table = Table::new(format!("by client, {way:?}"));
        table.row("confirm", confirmed.status, 200);
        for (row, headers, status, sent) in [
            ("superagent", &[("origin", ORIGIN), ("accept", "json")][..], 302, 0),
            ("nothing said", &[("origin", ORIGIN)], 302, 0),
            ("anything", &[("origin", ORIGIN), ("accept", "*/*")], 302, 0),
            ("fetch", &[("origin", ORIGIN), json], 200, 1),
        ] {
            let before = stand.sms.count();
            let said = person.login_with(&person.credentials(), headers);
            table.row(row, said.status, status);
            table.holds(row, said.body["mfaToken"].is_string(), said.text());
            table.row(&format!("{row}: sent"), stand.sms.count() - before, sent);
        }
        let unknown = |headers: &[(&str, &str)]| person.call("POST", "mfa/verify", headers, b"{\"code\":\"1\"}").error();
        table.row(
            "an error for superagent",
            unknown(&[JSON, ("authorization", "x"), ("accept", "json")]),
            Generation::V1.unknown_session(),
        );
        table.row("an error for fetch", unknown(&[JSON, ("authorization", "x"), json]), Generation::V2.unknown_session());
        table.done();
    }
}

#[test]
fn a_log_out_ends_the_access() {
    every(ALL, |(way, generation)| {
        let stand = Stand::of(way, generation);
        let person = stand.person("janet");
        let token = person.log_in();
        let other = stand.person("helen").log_in();
        let mut table = Table::new(format!("auth/logout, {way:?} {generation:?}"));
        let none = person.post("auth/logout", "", &json!({}));
        table.row("no token", (none.error().0, none.error().1), (401, "invalid-access-token".to_owned()));
        let unknown = told(403, "invalid-access-token", "Cannot find access from token.");
        table.row("unknown token", person.post("auth/logout", "nonsense", &json!({})).error(), unknown.clone());
        table.row("somebody else's token", person.post("auth/logout", &other, &json!({})).error(), unknown);
        let said = person.post("auth/logout", &token, &json!({}));
        table.row("status", said.status, 200);
        table.row("names", said.keys(), ["meta"]);
        let over = told(403, "invalid-access-token", "Access session has expired.");
        table.row("afterwards", person.get("access-info", &[("authorization", &token)]).error(), over.clone());
        table.row("afterwards, activate", person.activate(&token, &person.data()).error(), over);
        table.holds("a log-in gives another", person.log_in() != token, "");
        table.done();
    });
}

#[test]
fn access_info_tells_what_a_token_is() {
    every(ALL, |(way, generation)| {
        let stand = Stand::of(way, generation);
        let person = stand.person("janet");
        let token = person.log_in();
        let mut table = Table::new(format!("access-info, {way:?} {generation:?}"));
        let said = person.get("access-info", &[("authorization", &token)]);
        table.row("status", said.status, 200);
        for (name, wanted) in [("type", "personal"), ("name", APP), ("token", &token)] {
            table.row(name, said.body[name].clone(), wanted);
        }
        table.row("username", said.body["user"]["username"].clone(), "janet");
        for name in ["id", "createdBy", "modifiedBy"] {
            table.holds(name, said.body[name].is_string(), said.text());
        }
        for name in ["created", "modified"] {
            table.holds(name, said.body[name].is_number(), said.text());
        }
        table.holds("meta", said.body["meta"]["apiVersion"].is_string(), said.text());
        let none = person.get("access-info", &[]);
        table.row("no token", (none.error().0, none.error().1), (401, "invalid-access-token".to_owned()));
        let unknown = told(403, "invalid-access-token", "Cannot find access from token.");
        table.row("unknown token", person.get("access-info", &[("authorization", "nonsense")]).error(), unknown);
        if let Some(core) = &stand.core {
            let app = core.token("janet", "app");
            table.row("of an app", person.get("access-info", &[("authorization", &app)]).body["type"].clone(), "app");
        }
        table.done();
    });
}

#[test]
fn a_personal_token_dies_when_nobody_uses_it() {
    let stand = Stand::of(Way::Alone, Generation::V1);
    let person = stand.person("janet");
    stand.set(&["--access-max-age-s", "3"]);
    #[expect(clippy::disallowed_methods, reason = "a test lets time pass")]
    let sleep = |ms| std::thread::sleep(std::time::Duration::from_millis(ms));
    sleep(2300);
    let token = person.log_in();
    let used = |token: &str| person.get("access-info", &[("authorization", token)]).error();
    for _ in 0..2 {
        sleep(2000);
        assert_eq!(used(&token).0, 200, "each use renews it");
    }
    sleep(3400);
    assert_eq!(used(&token), told(403, "invalid-access-token", "Access session has expired."));
    assert_ne!(person.log_in(), token, "a log-in gives another");
}
