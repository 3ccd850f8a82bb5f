//! §3, "Stored form": what stands in the private profile, who sees it, and what one can do to it there.

use super::stand::{ALL, Generation, JSON, Person, Said, Stand, Table, Way, every, told};
use serde_json::{Value, json};

fn put(person: &Person, token: &str, body: &Value) -> Said {
    person.call("PUT", "profile/private", &[JSON, ("authorization", token)], body.to_string().as_bytes())
}

#[test]
fn what_was_activated_is_stored_as_it_was_sent() {
    every(ALL, |(way, generation)| {
        let stand = Stand::of(way, generation);
        let person = stand.person("janet");
        let token = person.log_in();
        let mut table = Table::new(format!("stored form, {way:?} {generation:?}"));
        let empty = person.get("profile/private", &[("authorization", &token)]);
        table.row("before", (empty.status, empty.body["profile"].clone()), (200, json!({})));
        table.holds("before: meta", empty.body["meta"]["apiVersion"].is_string(), empty.text());

        let content =
            format!("{{\"zeta\":\"Your code: {{{{ code }}}}\",\"number\":\"{}\",\"alpha\":[1,null,{{\"b\":true}}]}}", person.number);
        let said = person.call("POST", "mfa/activate", &[JSON, ("authorization", &token)], content.as_bytes());
        let said = person.confirm(&said.token("mfaToken"), &stand.code(&person));
        table.row("confirm", said.status, 200);
        let codes = super::stand::strings(&said.body["recoveryCodes"]);
        let shown = person.get("profile/private", &[("authorization", &token)]);
        let mfa = shown.body["profile"]["mfa"].clone();
        table.row("content", mfa["content"].clone(), serde_json::from_str::<Value>(&content).unwrap());
        table.row("codes are a count", mfa["recoveryCodesLeft"].clone(), 10);
        table.row("and no list", mfa.get("recoveryCodes").cloned(), None::<Value>);
        table.holds("none is shown", !codes.iter().any(|it| shown.text().contains(it)), shown.text());
        match &stand.core {
            None => table.holds("in the order in which it was sent", shown.heard.body().contains(&content), shown.heard.body()),
            Some(core) => {
                let put = core.asked().into_iter().rev().find(|it| it.method == "PUT").expect("it was put");
                table.holds("in the order in which it was sent", put.body.contains(&content), &put.body);
            }
        }
        let session = person.challenged(generation);
        person.verify(&session, &stand.code(&person));
        let after = stand.profile(&person, &token);
        table.row("the code is not frozen into it", after["mfa"]["content"]["zeta"].clone(), "Your code: {{ code }}");
        table.done();
    });
}

#[test]
fn the_private_profile_is_for_personal_tokens() {
    every(ALL, |(way, generation)| {
        let stand = Stand::of(way, generation);
        let (person, _) = stand.enrolled("janet");
        let other = stand.person("helen").log_in();
        let mut table = Table::new(format!("who sees the profile, {way:?} {generation:?}"));
        let none = person.get("profile/private", &[]);
        table.row("no token", (none.error().0, none.error().1), (401, "invalid-access-token".to_owned()));
        let unknown = told(403, "invalid-access-token", "Cannot find access from token.");
        table.row("unknown token", person.get("profile/private", &[("authorization", "nonsense")]).error(), unknown.clone());
        table.row("somebody else's", person.get("profile/private", &[("authorization", &other)]).error(), unknown.clone());
        table.row("put by nobody", put(&person, "nonsense", &json!({"mfa": null})).error(), unknown);
        if let Some(core) = &stand.core {
            let app = core.token("janet", "app");
            table.row("by an app", person.get("profile/private", &[("authorization", &app)]).status, 403);
            table.row("put by an app", put(&person, &app, &json!({"mfa": null})).status, 403);
        }
        table.holds("it is active still", person.login().body["mfaToken"].is_string(), "");
        table.done();
    });
}

#[test]
fn a_profile_is_merged_by_its_top_level_names() {
    every(ALL, |(way, generation)| {
        let stand = Stand::of(way, generation);
        let person = stand.person("janet");
        let token = person.log_in();
        let mut table = Table::new(format!("put, {way:?} {generation:?}"));
        let said = put(&person, &token, &json!({"theme": {"dark": true, "size": 2}, "tags": ["a"]}));
        table.row("put", (said.status, said.body["profile"]["tags"].clone()), (200, json!(["a"])));
        stand.enroll(&person);
        let said = put(&person, &token, &json!({"theme": {"dark": false}, "more": 1.5}));
        table.row("put again", said.status, 200);
        table.row("the answer shows no codes", said.body["profile"]["mfa"].get("recoveryCodes").cloned(), None::<Value>);
        table.row("but their count", said.body["profile"]["mfa"]["recoveryCodesLeft"].clone(), 10);
        let profile = stand.profile(&person, &token);
        table.row("a name is replaced whole", profile["theme"].clone(), json!({"dark": false}));
        table.row("others survive", (profile["tags"].clone(), profile["more"].clone()), (json!(["a"]), json!(1.5)));
        table.row("so does the second factor", profile["mfa"]["content"].clone(), person.data());
        table.row("null removes", put(&person, &token, &json!({"tags": null})).status, 200);
        table.row("null removed", stand.profile(&person, &token).get("tags").cloned(), None::<Value>);
        for (row, value) in [
            ("content of one's own", json!({"content": {"number": "41790000000"}, "recoveryCodes": ["a"]})),
            ("no content", json!({})),
            ("text", json!("off")),
            ("false", json!(false)),
        ] {
            if way == Way::InFront {
                continue;
            }
            let said = put(&person, &token, &json!({"mfa": value, "sneaked": row}));
            table.holds(row, [400, 403].contains(&said.status) && !said.error().1.is_empty(), said.text());
        }
        let profile = stand.profile(&person, &token);
        table.row(
            "a refused put changes nothing",
            (profile.get("sneaked").cloned(), profile["mfa"]["content"].clone()),
            (None::<Value>, person.data()),
        );
        table.row("mfa: null deactivates", put(&person, &token, &json!({"mfa": null})).status, 200);
        table.row("afterwards a log-in needs no code", person.login().body["token"].is_string(), true);
        let profile = stand.profile(&person, &token);
        table.row("others survive that too", (profile["more"].clone(), profile.get("mfa").cloned()), (json!(1.5), None::<Value>));
        table.done();
    });
}

#[test]
fn a_core_keeps_no_recovery_code_in_clear_and_one_that_stands_there_works_once() {
    every([Generation::V1, Generation::V2], |generation| {
        let stand = Stand::of(Way::InFront, generation);
        let core = stand.core();
        let (person, codes) = stand.enrolled("janet");
        let mut table = Table::new(format!("recovery codes at a core, {generation:?}"));
        let kept = super::stand::strings(&core.profile("janet")["mfa"]["recoveryCodes"]);
        table.row("ten", kept.len(), 10);
        table.holds("hashed", kept.iter().all(|it| it.starts_with("countersign:")), format!("{kept:?}"));
        let seen = core.asked().iter().map(|it| it.body.clone()).collect::<String>();
        table.holds("none was ever sent there", !codes.iter().any(|it| seen.contains(it)), &seen);
        table.row("a hash is no code", person.recover(&kept[0]).status, 400);
        table.row("a code is one", person.recover(&codes[9]).status, 200);
        table.row("the block is gone", core.profile("janet").get("mfa").cloned(), None::<Value>);

        let helen = stand.found("helen");
        let plain = super::stand::strings(&core.profile("helen")["mfa"]["recoveryCodes"]);
        let session = helen.challenged(generation);
        let said = helen.verify(&session, &stand.code(&helen));
        table.row("a factor that was there works", said.status, 200);
        let token = said.token("token");
        let shown = helen.get("profile/private", &[("authorization", &token)]);
        table.row("plain codes are a count", shown.body["profile"]["mfa"]["recoveryCodesLeft"].clone(), 10);
        table.holds("plain codes are not shown", !plain.iter().any(|it| shown.text().contains(it)), shown.text());
        table.row("a plain code that is none", helen.recover("0b9c1f6e-53d7-4a0c-9c1e-6d2f0a5b7c99").status, 400);
        table.row("a plain code works", helen.recover(&plain[3]).status, 200);
        table.row("the block is gone", core.profile("helen").get("mfa").cloned(), None::<Value>);
        table.row("once", helen.recover(&plain[3]).status, 400);
        table.done();
    });
}
