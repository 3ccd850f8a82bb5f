//! §4, and what was decided beyond it: how long sessions and codes live, how often a code may be wrong, and how often one is sent.

use super::stand::{ALL, Generation, Stand, Table, Way, every, is_locked};
use std::time::{Duration, Instant};

#[test]
fn a_challenge_makes_no_session_longer() {
    let stand = Stand::of(Way::Alone, Generation::V1);
    let (person, _) = stand.enrolled("janet");
    stand.set(&["--session-ttl-s", "3"]);
    // A change of settings is seen within two seconds; a session that is older keeps what it was given.
    #[expect(clippy::disallowed_methods, reason = "a test waits until settings are seen")]
    std::thread::sleep(Duration::from_millis(2300));
    let session = person.half_in();
    let began = Instant::now();
    let mut last = 200;
    while began.elapsed() < Duration::from_millis(3300) {
        #[expect(clippy::disallowed_methods, reason = "a test lets time pass")]
        std::thread::sleep(Duration::from_millis(700));
        last = person.challenge(&session).status;
        assert!(last == 200 || began.elapsed() > Duration::from_millis(2900), "it ended after {:?}", began.elapsed());
    }
    assert_eq!(last, 403, "it lives after {:?}", began.elapsed());
}

#[test]
fn sessions_of_a_person_do_not_disturb_each_other() {
    every(ALL, |(way, generation)| {
        let stand = Stand::of(way, generation);
        let (person, _) = stand.enrolled("janet");
        let mut table = Table::new(format!("two sessions, {way:?} {generation:?}"));
        let first = person.challenged(generation);
        let second = person.challenged(generation);
        let code = stand.code(&person);
        table.row("the newer with the newer code", person.verify(&second, &code).status, 200);
        let again = person.challenge(&first);
        table.row("the older may be asked again", again.status, 200);
        table.row("and be finished", person.verify(&first, &stand.code(&person)).status, 200);
        table.done();
    });
}

#[test]
fn codes_are_four_digits_and_each_challenge_has_its_own() {
    let stand = Stand::of(Way::Alone, Generation::V1);
    let (person, _) = stand.enrolled("janet");
    let session = person.half_in();
    let mut codes = Vec::new();
    for _ in 0..5 {
        assert_eq!(person.challenge(&session).status, 200);
        codes.push(stand.code(&person));
    }
    assert!(codes.iter().all(|it| it.len() == 4 && it.bytes().all(|b| b.is_ascii_digit())), "{codes:?}");
    let distinct: std::collections::HashSet<_> = codes.iter().collect();
    assert!(distinct.len() > 1, "{codes:?}");
}

#[test]
fn the_third_wrong_code_ends_the_session_and_locks_the_factor() {
    every(ALL, |(way, generation)| {
        let stand = Stand::of(way, generation);
        let (person, codes) = stand.enrolled("janet");
        let (other, _) = stand.enrolled("helen");
        let session = person.challenged(generation);
        let right = stand.code(&person);
        let wrong = crate::house::another(&right);
        let mut table = Table::new(format!("wrong codes, {way:?} {generation:?}"));
        for row in ["first", "second", "third"] {
            table.row(row, person.verify(&session, &wrong).error(), generation.wrong_code(&wrong));
        }
        table.row("then it is over", person.verify(&session, &right).error(), generation.unknown_session());
        table.row("also for challenge", person.challenge(&session).error(), generation.unknown_session());
        let before = stand.sms.count();
        let again = person.login();
        if again.body["mfaToken"].is_string() {
            let session = again.token("mfaToken");
            let said = person.challenge(&session);
            table.holds("challenge of a new session", is_locked(&said), said.text());
            let said = person.verify(&session, &right);
            table.holds("verify of a new session", is_locked(&said) || generation == Generation::V1 && said.status == 400, said.text());
        } else {
            // The second generation sends the code while it logs in.
            table.holds("a new log-in", generation == Generation::V2 && is_locked(&again), again.text());
        }
        table.row("nothing is sent", stand.sms.count(), before);
        let session = other.challenged(generation);
        table.row("others are not locked", other.verify(&session, &stand.code(&other)).status, 200);
        let recovered = person.recover(&codes[0]);
        table.holds("recovery codes count to the same lock", is_locked(&recovered), recovered.text());
        table.done();
    });
}

#[test]
fn ten_messages_in_five_minutes_are_enough() {
    for (way, generation) in [(Way::Alone, Generation::V1), (Way::InFront, Generation::V2)] {
        let stand = Stand::of(way, generation);
        let (person, _) = stand.enrolled("janet");
        let session = person.half_in();
        let mut table = Table::new(format!("messages, {way:?} {generation:?}"));
        while stand.sms.count() < 10 {
            let before = stand.sms.count();
            let said = person.challenge(&session);
            table.row(&format!("message {}", before + 1), (said.status, stand.sms.count()), (200, before + 1));
            if stand.sms.count() == before {
                break;
            }
        }
        let code = stand.code(&person);
        let said = person.challenge(&session);
        table.holds("message 11", (400..500).contains(&said.status) && !said.error().1.is_empty(), said.text());
        let session_again = person.login();
        table.row("message 11 is not sent", stand.sms.count(), 10);
        table.holds(
            "nor with a new log-in",
            [200, 302].contains(&session_again.status) || session_again.status >= 400,
            session_again.text(),
        );
        table.row("the code that came last is still good", person.verify(&session, &code).status, 200);
        table.done();
    }
}

#[test]
fn a_restart_loses_nothing_that_is_on_its_way() {
    every(ALL, |(way, generation)| {
        let mut stand = Stand::of(way, generation);
        let restart = |stand: &mut Stand| {
            stand.stop();
            stand.start();
        };
        let person = stand.person("janet");
        let token = person.log_in();
        let session = person.activates(&token);
        restart(&mut stand);
        let said = person.confirm(&session, &stand.code(&person));
        assert_eq!(said.status, 200, "{}", said.text());
        let session = person.challenged(generation);
        restart(&mut stand);
        let said = person.verify(&session, &stand.code(&person));
        assert_eq!(said.status, 200, "{}", said.text());
        restart(&mut stand);
        let info = person.get("access-info", &[("authorization", &said.token("token"))]);
        assert_eq!(info.status, 200, "{}", info.text());
    });
}

#[test]
fn an_administrator_opens_a_factor_that_is_locked() {
    every(ALL, |(way, generation)| {
        let stand = Stand::of(way, generation);
        let (person, codes) = stand.enrolled("janet");
        let session = person.challenged(generation);
        let wrong = crate::house::another(&stand.code(&person));
        (0..3).for_each(|_| drop(person.verify(&session, &wrong)));
        assert!(is_locked(&person.recover(&codes[0])));
        stand.place.command(&["user", "unlock", super::stand::TENANT, "-", "janet"]);
        let session = person.challenged(generation);
        let said = person.verify(&session, &stand.code(&person));
        assert_eq!(said.status, 200, "{}", said.text());
    });
}
