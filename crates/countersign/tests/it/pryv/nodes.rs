//! Two nodes on one PostgreSQL: each request of a flow goes to another node, so nothing of it can be in the memory of one.

use super::stand::{Generation, Plan, Stand, Table, Way, strings};
use crate::postgres::Database;
use std::sync::Barrier;

fn two_nodes(test: &str, way: Way, generation: Generation) -> Option<Stand> {
    let database = Database::new(test)?;
    let more = vec![("COUNTERSIGN_STORAGE_URL", database.url())];
    Some(Plan { nodes: 2, more, ..Plan::new(way, generation.name()) }.start())
}

#[test]
fn a_flow_goes_on_at_the_other_node_with_every_request() {
    for way in [Way::Alone, Way::InFront] {
        for generation in [Generation::V1, Generation::V2] {
            let Some(stand) = two_nodes("pryv::nodes::flow", way, generation) else { return };
            let person = stand.person("janet");
            let [here, there] = [0, 1].map(|node| person.at(stand.place.nodes[node]));
            let mut table = Table::new(format!("a flow on two nodes, {way:?} {generation:?}"));
            let token = here.log_in();
            let session = there.activates(&token);
            let said = here.confirm(&session, &stand.code(&person));
            table.row("confirm", said.status, 200);
            let codes = strings(&said.body["recoveryCodes"]);
            let session = there.half_in();
            table.row("challenge", here.challenge(&session).status, 200);
            let said = there.verify(&session, &stand.code(&person));
            table.row("verify", said.status, 200);
            let token = said.token("token");
            let info = here.get("access-info", &[("authorization", &token)]);
            table.row("access-info", (info.status, info.body["user"]["username"].clone()), (200, "janet".into()));
            table.row("recover", there.recover(&codes[7]).status, 200);
            table.row("recover at the other", here.recover(&codes[7]).status, 400);
            table.row("login", here.login().body["token"].is_string(), true);
            table.done();
        }
    }
}

#[test]
fn property_11_log_in_here_verify_there_and_one_code_is_taken_once() {
    for generation in [Generation::V1, Generation::V2] {
        let Some(stand) = two_nodes("pryv::nodes::property_11", Way::Alone, generation) else { return };
        let (person, _) = stand.enrolled("janet");
        let nodes = stand.place.nodes.clone();
        for round in 0..4 {
            let session = person.at(nodes[round % 2]).challenged(generation);
            let code = stand.code(&person);
            let together = Barrier::new(16);
            let statuses: Vec<_> = std::thread::scope(|scope| {
                let all: Vec<_> = (0..16)
                    .map(|it| {
                        let (person, together) = (person.at(nodes[it % 2]), &together);
                        let (session, code) = (&session, &code);
                        scope.spawn(move || {
                            together.wait();
                            person.verify(session, code).status
                        })
                    })
                    .collect();
                all.into_iter().map(|it| it.join().expect("no panic")).collect()
            });
            let taken = statuses.iter().filter(|it| **it == 200).count();
            assert_eq!(taken, 1, "round {round}, {generation:?}: {statuses:?}");
        }
        // Wrong codes are counted together, wherever they are tried.
        let session = person.challenged(generation);
        let right = stand.code(&person);
        let wrong = crate::house::another(&right);
        for attempt in 0..3 {
            let said = person.at(nodes[attempt % 2]).verify(&session, &wrong);
            assert_eq!(said.error(), generation.wrong_code(&wrong), "attempt {attempt}");
        }
        for node in nodes {
            assert_eq!(person.at(node).verify(&session, &right).error(), generation.unknown_session());
        }
    }
}
