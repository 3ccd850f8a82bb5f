//! §6: what a person hears when the messaging service fails. Its own words are never among it (property 7).

use super::sms_service::{Reply, Sms};
use super::stand::{ALL, Generation, Plan, Said, Stand, Table, Way, challenge_verify, every, single};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// What no caller may ever read.
const CANARY: &str = "canary-5xTq";

/// Every way to fail, by name.
fn failures() -> Vec<(&'static str, Reply)> {
    let body = format!("{{\"error\":{{\"id\":\"{CANARY}\",\"message\":\"{CANARY}\"}},\"message\":\"{CANARY}\"}}");
    let json = |status, phrase| Reply::json(status, phrase, &body);
    vec![
        ("400", json(400, "Bad canary-5xTq")),
        ("401", json(401, "Unauthorized")),
        ("403", json(403, "Forbidden")),
        ("404", json(404, "Not Found")),
        ("418", json(418, "I'm a teapot")),
        ("422 as text", Reply::Says { status: 422, phrase: "Nope", headers: Vec::new(), body: CANARY.into() }),
        ("429", json(429, "Too Many Requests")),
        ("500", json(500, "Internal Server Error")),
        ("502", Reply::status(502, "Bad Gateway")),
        ("503", json(503, "Service Unavailable")),
        ("304", Reply::status(304, "Not Modified")),
        ("reset", Reply::Resets),
    ]
}

/// Whether this is what the contract says of a service that failed, and nothing of what the service said.
fn failed(generation: Generation, said: &Said) -> bool {
    let (status, id, message) = said.error();
    let tells = said.text().contains(CANARY);
    let fits = match generation {
        Generation::V1 => (400, "messaging-server-error", "Error from messaging service."),
        Generation::V2 => (400, "invalid-operation", "MFA SMS provider error"),
    };
    let data = &said.body["error"]["data"];
    let data_fits = match generation {
        Generation::V1 => data.is_null(),
        Generation::V2 => *data == json!({"id": "mfa-sms-provider-error"}),
    };
    !tells && data_fits && (status, id.as_str()) == (fits.0, fits.1) && message.starts_with(fits.2)
}

/// The same message for every way to fail, so that nothing can be told apart by it: no status, no phrase.
fn says_no_status(said: &Said) -> bool {
    let (_, _, message) = said.error();
    !message.bytes().any(|it| it.is_ascii_digit())
        && !["Bad Request", "Forbidden", "teapot", "Unavailable"].iter().any(|it| message.contains(it))
}

fn with_method(sms: &Sms, method: &str) -> Value {
    let mut settings = single(sms);
    settings["sms"]["endpoints"]["single"]["method"] = method.into();
    settings["sms"]["endpoints"]["single"]["url"] = sms.url("/sms?to={{ number }}&code={{ code }}").into();
    settings
}

/// How many requests there were about a number.
fn of(sms: &Sms, number: &str) -> usize {
    sms.seen().iter().filter(|it| it.line.contains(number)).count()
}

#[test]
fn a_service_that_fails_is_told_the_same_way_for_post_and_get() {
    let all = [Generation::V1, Generation::V2].into_iter().flat_map(|it| [(it, "POST"), (it, "GET")]);
    every(all, |(generation, method)| {
        let stand = Plan::with(Way::InFront, generation, |sms| with_method(sms, method)).start();
        let mut table = Table::new(format!("a service that fails, {method} {generation:?}"));
        let mut final_words = Vec::new();
        let mut all = failures();
        all.push(("redirects without end", Reply::redirect("/circle")));
        // The second generation does not look at bodies.
        if generation == Generation::V1 {
            all.push(("JSON that is none", Reply::json(200, "OK", &format!("not json {CANARY}"))));
        }
        for (count, (row, reply)) in all.iter().enumerate() {
            let person = stand.person(&format!("person{count}"));
            let token = person.log_in();
            let before = stand.sms.count();
            if *row == "redirects without end" {
                stand.sms.always("/circle", reply.clone());
            }
            stand.sms.next(reply.clone());
            let said = person.activate(&token, &person.data());
            table.holds(&format!("activate, {row}"), failed(generation, &said), said.text());
            table.holds(&format!("activate, {row}: no status"), says_no_status(&said), said.text());
            table.row(&format!("activate, {row}: no session"), said.body.get("mfaToken").cloned(), None::<Value>);
            table.row(&format!("activate, {row}: location"), said.header("location"), None::<String>);
            let requests = stand.sms.count() - before;
            if *row == "redirects without end" {
                table.holds(&format!("{row}: an end"), (2..=21).contains(&requests), requests);
            } else {
                table.row(&format!("activate, {row}: requests"), requests, 1);
            }
            // There is no session in which such a code could be used.
            final_words.push((format!("activate, {row}"), person.number.clone(), of(&stand.sms, &person.number)));

            // With a person whose factor is active: the session lives on.
            let person = stand.found(&format!("found{count}"));
            if generation == Generation::V1 {
                let session = person.half_in();
                stand.sms.next(reply.clone());
                let said = person.challenge(&session);
                table.holds(&format!("challenge, {row}"), failed(generation, &said), said.text());
                let again = person.challenge(&session);
                table.row(&format!("challenge, {row}: again"), again.status, 200);
            } else {
                stand.sms.next(reply.clone());
                let said = person.login();
                table.holds(&format!("login, {row}"), failed(generation, &said), said.text());
                table.row(&format!("login, {row}: no session"), said.body.get("mfaToken").cloned(), None::<Value>);
                final_words.push((format!("login, {row}"), person.number.clone(), of(&stand.sms, &person.number)));
            }
        }
        #[expect(clippy::disallowed_methods, reason = "a test waits for what must not happen")]
        std::thread::sleep(Duration::from_millis(2500));
        for (row, number, asked) in final_words {
            table.row(&format!("{row}: nothing is sent later"), of(&stand.sms, &number), asked);
        }
        table.done();
    });
}

#[test]
fn a_service_where_nobody_listens_has_failed() {
    every([Generation::V1, Generation::V2], |generation| {
        for method in ["POST", "GET"] {
            let settings = |sms: &Sms| {
                let mut settings = with_method(sms, method);
                settings["sms"]["endpoints"]["single"]["url"] = format!("http://127.0.0.1:{}/sms", crate::tools::free_port()).into();
                settings
            };
            let stand = Plan::with(Way::InFront, generation, settings).start();
            let person = stand.person("janet");
            let said = person.activate(&person.log_in(), &person.data());
            assert!(failed(generation, &said), "{method} {generation:?}: {}", said.text());
        }
    });
}

#[test]
fn who_heard_that_nothing_was_sent_gets_nothing_later_and_a_code_when_asking_again() {
    every([Way::InFront, Way::Alone], |way| {
        let stand = Stand::of(way, Generation::V1);
        let person = stand.person("janet");
        let token = person.log_in();
        stand.enroll(&person);
        let session = person.half_in();
        for call in ["challenge", "activate"] {
            stand.sms.next(Reply::status(503, "Service Unavailable"));
            let said = match call {
                "challenge" => person.challenge(&session),
                _ => person.activate(&token, &person.data()),
            };
            assert!(failed(Generation::V1, &said), "{call}: {}", said.text());
        }
        let asked = stand.sms.count();
        let late = crate::tools::until(Duration::from_secs(4), || (stand.sms.count() > asked).then_some(()));
        assert!(late.is_none(), "a message that nobody waits for any more");
        assert_eq!(person.challenge(&session).status, 200);
        let said = person.verify(&session, &stand.code(&person));
        assert_eq!(said.status, 200, "{}", said.text());
    });
}

#[test]
fn a_service_that_never_answers_is_not_waited_for_longer_than_a_caller_waits() {
    let stand = Stand::of(Way::InFront, Generation::V1);
    let person = stand.person("janet");
    let token = person.log_in();
    stand.sms.next(Reply::Never);
    let began = Instant::now();
    let said = person.activate(&token, &person.data());
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    if said.status == 302 {
        // Nobody knows whether the service took the message. Whoever got it may use it.
        let said = person.confirm(&said.token("mfaToken"), &stand.code(&person));
        assert_eq!(said.status, 200, "{}", said.text());
    } else {
        assert!(failed(Generation::V1, &said), "{}", said.text());
    }
}

#[test]
fn a_service_that_fails_to_judge_a_code_leaves_the_session_alive() {
    every(ALL, |(way, generation)| {
        let stand = Plan::with(way, generation, challenge_verify).start();
        let mut table = Table::new(format!("a service that fails to judge, {way:?} {generation:?}"));
        for (count, (row, reply)) in [
            ("503", Reply::json(503, "Service Unavailable", CANARY)),
            ("reset", Reply::Resets),
            ("a wrong code", Reply::json(400, "Bad Request", CANARY)),
            ("redirects to nowhere", Reply::redirect("http://127.0.0.1:9/")),
        ]
        .into_iter()
        .enumerate()
        {
            let person = stand.person(&format!("person{count}"));
            let token = person.log_in();
            let session = person.activates(&token);
            stand.sms.next(reply.clone());
            let said = person.confirm(&session, "12345");
            let of_service =
                |said: &Said| failed(generation, said) || row == "a wrong code" && said.error() == generation.wrong_code("12345");
            table.holds(&format!("confirm, {row}"), of_service(&said), said.text());
            table.holds(&format!("confirm, {row}: its words"), !said.text().contains(CANARY), said.text());
            table.row(&format!("confirm, {row}: nothing is stored"), stand.profile(&person, &token).get("mfa").cloned(), None::<Value>);
            table.row(&format!("confirm, {row}: again"), person.confirm(&session, "12345").status, 200);
            let session = person.challenged(generation);
            stand.sms.next(reply);
            let said = person.verify(&session, "12345");
            table.holds(&format!("verify, {row}"), of_service(&said), said.text());
            table.holds(&format!("verify, {row}: its words"), !said.text().contains(CANARY), said.text());
            table.row(&format!("verify, {row}: again"), person.verify(&session, "12345").status, 200);
        }
        table.done();
    });
}

#[test]
fn a_service_that_refuses_three_codes_ends_the_session() {
    every([Generation::V1, Generation::V2], |generation| {
        let stand = Plan::with(Way::InFront, generation, challenge_verify).start();
        let person = stand.found("janet");
        let session = person.challenged(generation);
        let mut table = Table::new(format!("wrong codes that the service judges, {generation:?}"));
        for row in ["first", "second", "third"] {
            table.row(row, person.verify(&session, "54321").status, 400);
        }
        let before = stand.sms.count();
        table.row("then it is over", person.verify(&session, "12345").error(), generation.unknown_session());
        table.row("the service is not asked again", stand.sms.count(), before);
        table.done();
    });
}
