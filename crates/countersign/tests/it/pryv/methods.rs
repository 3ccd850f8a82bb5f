//! §3: the six methods, what each says when it cannot, and what they ask of a core.

use super::stand::{
    ALL, APP, Generation, JSON, NO_TOKEN, ORIGIN, PASSWORD, Person, Plan, Said, Stand, Table, Way, challenge_verify, every, is_uuid,
    strings, told,
};
use serde_json::{Value, json};
use std::time::Duration;

/// The names of a success: the second generation adds `meta`.
fn names(generation: Generation, first: &[&'static str]) -> Vec<&'static str> {
    let mut all = first.to_vec();
    if generation == Generation::V2 {
        all.push("meta");
    }
    all.sort_unstable();
    all
}

fn id_of(said: &Said) -> (u16, String) {
    (said.error().0, said.error().1)
}

#[test]
fn each_method_succeeds_as_the_table_says() {
    every(ALL, |(way, generation)| {
        for verifies in [false, true] {
            let mode = if verifies { "challenge-verify" } else { "single" };
            let stand = if verifies { Plan::with(way, generation, challenge_verify).start() } else { Stand::of(way, generation) };
            let person = stand.person("janet");
            let token = person.log_in();
            let mut table = Table::new(format!("methods, {way:?} {generation:?} {mode}"));
            let inactive = person.post("mfa/deactivate", &token, &json!({}));
            table.row("deactivate before", (inactive.status, inactive.body["message"].clone()), (200, "MFA deactivated.".into()));

            let said = person.activate(&token, &person.data());
            table.row("activate", said.status, 302);
            table.row("activate: names", said.keys(), names(generation, &["mfaToken"]));
            table.holds("activate: token", said.body["mfaToken"].as_str().is_some_and(is_uuid), said.text());
            table.row("activate: location", said.header("location"), None::<String>);
            table.row("activate sends before it answers", stand.sms.count(), 1);
            table.row("activate stores nothing", stand.profile(&person, &token).get("mfa").cloned(), None::<Value>);
            table.row("activate: a log-in is as before", person.login().status, 200);
            let session = said.token("mfaToken");

            let said = person.post("mfa/confirm", &session, &json!({"code": stand.code(&person), "more": "is fine"}));
            table.row("confirm", said.status, 200);
            table.row("confirm: names", said.keys(), names(generation, &["recoveryCodes"]));
            let codes = strings(&said.body["recoveryCodes"]);
            let distinct: std::collections::HashSet<_> = codes.iter().collect();
            table.row("confirm: ten codes", (codes.len(), distinct.len()), (10, 10));
            table.holds("confirm: UUIDs", codes.iter().all(|it| is_uuid(it)), said.text());
            let again = person.confirm(&session, &stand.code(&person));
            table.row("confirm ends the session", again.error(), generation.unknown_session());

            let session = person.half_in();
            for row in ["challenge", "challenge again"] {
                let before = stand.sms.count();
                let said = person.challenge(&session);
                table.row(row, said.status, 200);
                table.row(row, said.keys(), names(generation, &["message"]));
                table.row(row, said.body["message"].clone(), "Please verify the MFA challenge.");
                table.row(row, stand.sms.count(), before + 1);
            }
            let said = person.call("POST", "mfa/challenge", &[("authorization", &session)], b"");
            table.row("challenge without a body", said.status, 200);
            let said = person.post("mfa/verify", &session, &json!({"code": stand.code(&person), "more": "is fine"}));
            table.row("verify", said.status, 200);
            let allowed: &[&str] = if generation == Generation::V1 { &["apiEndpoint", "token"] } else { &["apiEndpoint", "meta", "token"] };
            table.holds("verify: names", said.keys().iter().all(|it| allowed.contains(it)), said.text());
            let token = said.token("token");
            if generation == Generation::V2 {
                let endpoint = said.body["apiEndpoint"].as_str().unwrap_or_default();
                table.holds("verify: endpoint", endpoint.contains(&format!("//{token}@")), said.text());
            }
            let info = person.get("access-info", &[("authorization", &token)]);
            table.row("verify: the token is a personal one", info.body["type"].clone(), "personal");
            let again = person.verify(&session, &stand.code(&person));
            table.row("verify ends the session", again.error(), generation.unknown_session());

            for row in ["deactivate", "deactivate again"] {
                let said = person.post("mfa/deactivate", &token, &json!({}));
                table.row(row, said.status, 200);
                table.row(row, said.keys(), names(generation, &["message"]));
                table.row(row, said.body["message"].clone(), "MFA deactivated.");
            }
            table.row("afterwards a log-in needs no code", person.login().keys().contains(&"token"), true);
            table.row("afterwards nothing is stored", stand.profile(&person, &token).get("mfa").cloned(), None::<Value>);

            let codes = stand.enroll(&person);
            let said = person.recover(&codes[4]);
            table.row("recover", said.status, 200);
            table.row("recover: names", said.keys(), names(generation, &["message"]));
            table.row("recover: message", said.body["message"].clone(), "MFA deactivated.");
            table.row("afterwards a log-in needs no code", person.login().keys().contains(&"token"), true);
            let again = person.recover(&codes[5]);
            table.row("all codes are spent", again.status, 400);
            table.done();
        }
    });
}

#[test]
fn activate_is_refused_as_the_table_says() {
    every(ALL, |(way, generation)| {
        let v1 = generation == Generation::V1;
        let stand = Stand::of(way, generation);
        let person = stand.person("janet");
        let other = stand.person("helen").log_in();
        let mut table = Table::new(format!("activate refused, {way:?} {generation:?}"));
        let none = person.activate("", &person.data());
        if v1 {
            table.row("no token", none.error(), told(403, "forbidden", NO_TOKEN));
        } else {
            table.row("no token", id_of(&none), (401, "invalid-access-token".to_owned()));
        }
        let unknown = told(403, "invalid-access-token", "Cannot find access from token.");
        let said = person.activate("nonsense", &person.data());
        table.row("unknown token", said.error(), unknown.clone());
        if way == Way::InFront {
            table.row("unknown token: meta of the core", said.body["meta"]["apiVersion"].clone(), "1.9.3");
        }
        table.row("somebody else's token", person.activate(&other, &person.data()).error(), unknown);
        if let Some(core) = &stand.core {
            for kind in ["app", "shared"] {
                let said = person.activate(&core.token("janet", kind), &person.data());
                let why = if v1 {
                    "You cannot access this resource using the given access token."
                } else {
                    "A personal access token is required for this operation."
                };
                table.row(&format!("token of kind {kind}"), said.error(), told(403, "forbidden", why));
            }
        }
        let nobody = Person { name: "nobody".into(), ..person.clone() };
        table.holds("nobody", [403, 404].contains(&nobody.activate("nonsense", &person.data()).status), "");
        table.row("nothing was sent", stand.sms.count(), 0);
        table.done();
    });
}

#[test]
fn the_second_step_is_refused_as_the_table_says() {
    every(ALL, |(way, generation)| {
        let v1 = generation == Generation::V1;
        let stand = Stand::of(way, generation);
        let mut table = Table::new(format!("confirm, challenge, verify refused, {way:?} {generation:?}"));
        let person = stand.person("janet");
        for method in ["confirm", "challenge", "verify"] {
            let path = format!("mfa/{method}");
            let none = person.post(&path, "", &json!({"code": "1234"}));
            if v1 {
                table.row(&format!("{method}: no token"), none.error(), told(403, "forbidden", NO_TOKEN));
            } else {
                table.row(&format!("{method}: no token"), id_of(&none), (400, "invalid-parameters-format".to_owned()));
            }
            for unknown in ["nonsense", "7c7d35b8-52a7-4bd2-a0cf-2a2a0b3f4a10"] {
                let said = person.post(&path, unknown, &json!({"code": "1234"}));
                table.row(&format!("{method}: token {unknown}"), said.error(), generation.unknown_session());
            }
        }
        let (helen, _) = stand.enrolled("helen");
        let session = person.activates(&person.log_in());
        let login = helen.challenged(generation);
        for (method, person, session) in [("confirm", &person, &session), ("verify", &helen, &login)] {
            let path = format!("mfa/{method}");
            let right = stand.code(person);
            let wrong = crate::house::another(&right);
            let said = person.post(&path, session, &json!({"code": wrong}));
            table.row(&format!("{method}: wrong code"), said.error(), generation.wrong_code(&wrong));
            let data = if v1 { Value::Null } else { json!({"id": "invalid-mfa-code"}) };
            table.row(&format!("{method}: wrong code, data"), said.body["error"]["data"].clone(), data);
            let number: u32 = right.parse().expect("digits");
            let said = person.post(&path, session, &json!({"code": number}));
            if v1 {
                table.row(&format!("{method}: a number"), id_of(&said), (400, "invalid-code".to_owned()));
            } else {
                table.row(&format!("{method}: a number"), id_of(&said), (400, "invalid-parameters-format".to_owned()));
                table.row(&format!("{method}: a number, path"), said.body["error"]["data"][0]["path"].clone(), "#/code");
            }
            let said = person.post(&path, session, &json!({"code": right}));
            table.row(&format!("{method}: right in the end"), said.status, 200);
        }
        table.done();
    });
}

#[test]
fn a_second_step_that_came_too_late_is_unknown() {
    every(ALL, |(way, generation)| {
        let stand = Stand::of(way, generation);
        let (janet, _) = stand.enrolled("janet");
        let helen = stand.person("helen");
        let token = helen.log_in();
        stand.set(&["--session-ttl-s", "1"]);
        #[expect(clippy::disallowed_methods, reason = "a test waits until settings are seen and a session is over")]
        let sleep = |seconds: u64| std::thread::sleep(Duration::from_millis(seconds * 1000 + 300));
        sleep(2);
        let (login, activation) = (janet.challenged(generation), helen.activates(&token));
        sleep(1);
        let mut table = Table::new(format!("too late, {way:?} {generation:?}"));
        table.row("challenge", janet.challenge(&login).error(), generation.unknown_session());
        table.row("verify", janet.verify(&login, &stand.code(&janet)).error(), generation.unknown_session());
        table.row("confirm", helen.confirm(&activation, &stand.code(&helen)).error(), generation.unknown_session());
        table.done();
    });
}

#[test]
fn deactivate_is_refused_as_the_table_says() {
    every(ALL, |(way, generation)| {
        let stand = Stand::of(way, generation);
        let (person, _) = stand.enrolled("janet");
        let other = stand.person("helen").log_in();
        let deactivate = |token: &str| person.post("mfa/deactivate", token, &json!({}));
        let mut table = Table::new(format!("deactivate refused, {way:?} {generation:?}"));
        let unknown = told(403, "invalid-access-token", "Cannot find access from token.");
        table.row("unknown token", deactivate("nonsense").error(), unknown.clone());
        table.row("somebody else's token", deactivate(&other).error(), unknown);
        if generation == Generation::V1 {
            table.holds("no token", [401, 403].contains(&deactivate("").status), deactivate("").text());
        } else {
            table.row("no token", id_of(&deactivate("")), (401, "invalid-access-token".to_owned()));
        }
        let half = person.half_in();
        table.row("the token of a second step", deactivate(&half).status, 403);
        if let Some(core) = &stand.core {
            let said = deactivate(&core.token("janet", "app"));
            table.row("token of an app", id_of(&said), (403, "forbidden".to_owned()));
        }
        table.holds("it is active still", person.login().body["mfaToken"].is_string(), "");
        table.done();
    });
}

#[test]
fn recover_is_refused_as_the_table_says_and_takes_a_log_in() {
    every(ALL, |(way, generation)| {
        let v1 = generation == Generation::V1;
        let stand = Stand::of(way, generation);
        let (person, codes) = stand.enrolled("janet");
        let inactive = stand.person("helen");
        let recover = |person: &Person, body: &Value, origin: &str| {
            person.call("POST", "mfa/recover", &[JSON, ("origin", origin)], body.to_string().as_bytes())
        };
        let body = |person: &Person, password: &str, code: &Value| {
            let mut it = json!({"username": person.name, "password": password, "appId": APP});
            if !code.is_null() {
                it["recoveryCode"] = code.clone();
            }
            it
        };
        let mut table = Table::new(format!("recover refused, {way:?} {generation:?}"));
        let none = recover(&person, &body(&person, "bad", &Value::Null), ORIGIN);
        if v1 {
            let missing = told(400, "invalid-request-structure", "Missing parameter: recoveryCode.");
            table.row("no code, before the password is looked at", none.error(), missing);
        } else {
            table.row("no code", id_of(&none), (400, "invalid-parameters-format".to_owned()));
            let code = none.body["error"]["data"][0]["code"].clone();
            table.row("no code: data", code, "OBJECT_MISSING_REQUIRED_PROPERTY");
        }
        let bad = told(400, "invalid-parameters-format", "Invalid recovery code.");
        // Wrong ones are counted with the wrong codes of the factor, so each row has a person of its own.
        for (count, (row, code)) in [
            ("another code", json!("7c7d35b8-52a7-4bd2-a0cf-2a2a0b3f4a10")),
            ("no UUID", json!("nonsense")),
            ("somebody else's code", json!(codes[0])),
            ("an empty code", json!("")),
            ("a number", json!(1)),
            ("a list", json!([codes[0]])),
            ("true", json!(true)),
        ]
        .into_iter()
        .enumerate()
        {
            let (somebody, own) = stand.enrolled(&format!("person{count}"));
            let said = recover(&somebody, &body(&somebody, PASSWORD, &code), ORIGIN);
            if code.as_str().is_some_and(|it| !it.is_empty()) {
                table.row(row, said.error(), bad.clone());
            } else {
                table.holds(row, said.status == 400 && !said.error().1.is_empty(), said.text());
            }
            table.row(
                &format!("{row}, then a right one"),
                recover(&somebody, &body(&somebody, PASSWORD, &json!(own[0])), ORIGIN).status,
                200,
            );
        }
        let off = recover(&inactive, &body(&inactive, PASSWORD, &json!(codes[0])), ORIGIN);
        let not_active = told(400, "invalid-operation", "MFA is not active for this user.");
        table.row("not active", off.error(), if v1 { bad.clone() } else { not_active });
        let wrong = recover(&person, &body(&person, "bad", &json!(codes[0])), ORIGIN);
        let refused = told(401, "invalid-credentials", "The given username/password pair is invalid.");
        table.row("bad password", wrong.error(), refused);
        if way == Way::InFront {
            table.row("bad password: meta of the core", wrong.body["meta"]["apiVersion"].clone(), "1.9.3");
        }
        let elsewhere = body(&inactive, PASSWORD, &json!(codes[0]));
        let said = recover(&person, &elsewhere, ORIGIN);
        table.row("another name", id_of(&said), (400, "invalid-operation".to_owned()));
        if v1 && let Some(core) = &stand.core {
            core.inside().trusted_apps = vec![format!("{APP}@{ORIGIN}")];
            let said = recover(&person, &body(&person, PASSWORD, &json!(codes[0])), "https://evil.test");
            table.row("an origin that is not trusted", id_of(&said), (401, "invalid-credentials".to_owned()));
        }
        table.holds("none of it changed anything", person.login().body["mfaToken"].is_string(), "");
        if way == Way::Alone && !v1 {
            let mut without = body(&person, PASSWORD, &json!(codes[0]));
            without.as_object_mut().unwrap().remove("appId");
            table.row("without appId", recover(&person, &without, ORIGIN).status, 200);
        } else {
            table.row("with appId", recover(&person, &body(&person, PASSWORD, &json!(codes[0])), ORIGIN).status, 200);
        }
        table.done();
    });
}

#[test]
fn a_core_is_asked_for_no_more_than_the_contract_says() {
    every([Generation::V1, Generation::V2], |generation| {
        let stand = Stand::of(Way::InFront, generation);
        let core = stand.core();
        let person = stand.person("janet");
        let token = person.log_in();
        let mut table = Table::new(format!("what a core is asked, {generation:?}"));
        let calls = || core.asked().iter().map(|it| it.what()).collect::<Vec<_>>();
        let puts = || core.asked().into_iter().filter(|it| it.method == "PUT").collect::<Vec<_>>();
        let by = |it: &super::core_stand_in::Asked| it.header("authorization").map(str::to_owned);

        core.forget();
        let session = person.activates(&token);
        table.row("activate", calls(), ["GET /janet/access-info"]);
        core.forget();
        let said = person.confirm(&session, &stand.code(&person));
        table.row("confirm", said.status, 200);
        let put = puts();
        table.row("confirm puts once", put.len(), 1);
        table.row("with the token of the one who activated", by(&put[0]), Some(token.clone()));
        let mfa = put[0].json()["mfa"].clone();
        table.row("content", mfa["content"].clone(), person.data());
        table.row("no more than that", put[0].json().as_object().map(|it| it.len()), Some(1));
        core.forget();
        let session = person.challenged(generation);
        let token = person.verify(&session, &stand.code(&person)).token("token");
        table.holds("a log-in changes nothing", puts().is_empty(), format!("{:?}", calls()));
        core.forget();
        person.post("mfa/deactivate", &token, &json!({}));
        let put = puts();
        table.row("deactivate", put.iter().map(|it| it.json()).collect::<Vec<_>>(), [json!({"mfa": null})]);
        table.row("by its token", by(&put[0]), Some(token));
        let codes = stand.enroll(&person);
        core.forget();
        table.row("recover", person.recover(&codes[0]).status, 200);
        table.row("recover puts", puts().iter().map(|it| it.json()).collect::<Vec<_>>(), [json!({"mfa": null})]);
        let fresh = core.asked().iter().find(|it| it.what() == "POST /janet/auth/login").cloned().expect("it logs in");
        table.row("recover logs in from where the client is", fresh.header("origin"), Some(ORIGIN));
        table.row("with what the client sent", fresh.json()["password"].clone(), PASSWORD);
        table.done();
    });
}

#[test]
fn a_core_that_fails_is_passed_on_and_nothing_is_half_done() {
    let stand = Stand::of(Way::InFront, Generation::V1);
    let core = stand.core();
    let mut table = Table::new("a core that fails");
    let error = || json!({"error": {"id": "api-unavailable", "message": "The core rests"}, "meta": {"serial": "1"}});
    let wanted = told(503, "api-unavailable", "The core rests");

    let person = stand.person("janet");
    let token = person.log_in();
    core.fail_next("GET /janet/access-info", 503, error());
    let said = person.activate(&token, &person.data());
    table.row("activate", said.error(), wanted.clone());
    table.row("activate: meta", said.body["meta"]["serial"].clone(), "1");
    table.row("activate: nothing is sent", stand.sms.count(), 0);

    let session = person.activates(&token);
    core.fail_next("PUT /janet/profile", 503, error());
    let said = person.confirm(&session, &stand.code(&person));
    table.row("confirm", said.error(), wanted.clone());
    table.row("confirm: nothing is stored", core.profile("janet"), json!({}));
    // The session lives on: another code may be asked for and confirmed.
    table.row("confirm: its session lives", person.challenge(&session).status, 200);
    let said = person.confirm(&session, &stand.code(&person));
    table.row("confirm again", said.status, 200);
    table.row("confirm again ends it", person.confirm(&session, &stand.code(&person)).error(), Generation::V1.unknown_session());
    let codes = strings(&said.body["recoveryCodes"]);
    table.row("now it is stored", (codes.len(), core.profile("janet")["mfa"]["content"].clone()), (10, person.data()));

    core.fail_next("PUT /janet/profile", 503, error());
    table.row("deactivate", person.post("mfa/deactivate", &token, &json!({})).error(), wanted.clone());
    core.fail_next("PUT /janet/profile", 503, error());
    table.row("recover", person.recover(&codes[0]).error(), wanted);
    table.holds("it is active still", person.login().body["mfaToken"].is_string(), "");
    table.row("the code is not spent", person.recover(&codes[0]).status, 200);
    table.done();
}
