//! §8: the service information, and where a person's server is: what clients ask before they log in.

use super::stand::{ALL, Generation, JSON, Plan, Stand, Table, Way, call, every};
use serde_json::Value;

#[test]
fn the_service_information_stands_wherever_clients_look_for_it() {
    every(ALL, |(way, generation)| {
        let stand = Stand::of(way, generation);
        stand.person("janet");
        let root = format!("http://{}/", stand.place.address);
        let mut table = Table::new(format!("service information, {way:?} {generation:?}"));
        for path in ["/service/info", "/reg/service/info", "/janet/service/info", "/service/infos", "/janet/service/infos"] {
            let host = stand.place.address.to_string();
            let said = call(stand.place.address, "GET", path, &[("host", &host)], b"");
            table.row(path, said.status, 200);
            for name in ["name", "register", "access", "api", "home", "support", "terms", "eventTypes"] {
                table.holds(&format!("{path}: {name}"), said.body[name].as_str().is_some(), said.text());
            }
            table.row(&format!("{path}: api"), said.body["api"].clone(), format!("{root}{{username}}/"));
            table.row(&format!("{path}: register"), said.body["register"].clone(), format!("{root}reg/"));
            table.row(&format!("{path}: access"), said.body["access"].clone(), format!("{root}reg/access/"));
        }
        table.done();
    });
    every(ALL, |(way, generation)| {
        let stand = Plan { domain: Some("pryv.test"), ..Plan::new(way, generation.name()) }.start();
        stand.person("janet");
        let mut table = Table::new(format!("service information with a domain, {way:?} {generation:?}"));
        for host in ["reg.pryv.test", "janet.pryv.test", "access.pryv.test"] {
            let said = call(stand.place.address, "GET", "/service/info", &[("host", host)], b"");
            table.row(host, said.status, 200);
            if way == Way::Alone {
                let api = said.body["api"].as_str().unwrap_or_default();
                table.holds(&format!("{host}: api"), api.contains("{username}.pryv.test") && api.ends_with('/'), said.text());
                let register = said.body["register"].as_str().unwrap_or_default();
                table.holds(&format!("{host}: register"), register.contains("pryv.test") && register.ends_with('/'), said.text());
            }
        }
        table.done();
    });
}

#[test]
fn a_person_is_found_at_a_server() {
    every([Generation::V1, Generation::V2], |generation| {
        let stand = Stand::of(Way::Alone, generation);
        stand.person("janet");
        let ask = |name: &str| call(stand.place.address, "POST", &format!("/reg/{name}/server"), &[JSON], b"{}");
        let mut table = Table::new(format!("server of a person, {generation:?}"));
        let said = ask("janet");
        table.row("known", said.status, 200);
        table.holds("known: server and alias", said.body["server"].is_string() && said.body["alias"].is_string(), said.text());
        let said = ask("nobody");
        table.row("unknown", said.status, 404);
        if generation == Generation::V1 {
            table.row("unknown: id", said.body["id"].clone(), "UNKNOWN_USER_NAME");
            table.holds("unknown: message", said.body["message"].is_string(), said.text());
            table.row("unknown: not wrapped", said.body.get("error").cloned(), None::<Value>);
        } else {
            table.row("unknown: id", said.body["error"]["id"].clone(), "unknown-user");
        }
        table.done();
    });
    let stand = Plan { domain: Some("pryv.test"), ..Plan::new(Way::Alone, "v1") }.start();
    stand.person("janet");
    let said = call(stand.place.address, "POST", "/janet/server", &[("host", "reg.pryv.test"), JSON], b"{}");
    assert_eq!(said.status, 200, "{}", said.text());
}

/// What the client asks the register: §8's table.
#[test]
fn the_register_tells_hostings_and_names_and_knows_no_mailboxes() {
    every([Generation::V1, Generation::V2], |generation| {
        let stand = Stand::of(Way::Alone, generation);
        stand.person("janet");
        let get = |path: &str| call(stand.place.address, "GET", path, &[], b"");
        let mut table = Table::new(format!("register, {generation:?}"));
        let said = get("/reg/hostings");
        let hosting = said.body.pointer("/regions/here/zones/here/hostings/here").cloned().unwrap_or_default();
        table.row("hostings", said.status, 200);
        table.holds("hostings: one, here", hosting["available"] == true && hosting["availableCore"].is_string(), said.text());
        for (name, reserved) in [("janet", true), ("nobody", false), ("reg", true), ("abc", true)] {
            let said = get(&format!("/reg/{name}/check_username"));
            table.row(&format!("check_username: {name}"), (said.status, said.body["reserved"].as_bool()), (200, Some(reserved)));
        }
        for path in ["/reg/jane@example.com/uid", "/reg/jane%40example.com/username"] {
            let said = get(path);
            let id = if generation == Generation::V1 { said.body["id"].clone() } else { said.body["error"]["id"].clone() };
            let wanted = if generation == Generation::V1 { "UNKNOWN_EMAIL" } else { "unknown-email" };
            table.row(path, (said.status, id.as_str()), (404, Some(wanted)));
        }
        table.done();
    });
    // In front of a core they are the platform's own.
    let stand = Stand::of(Way::InFront, Generation::V1);
    assert_eq!(call(stand.place.address, "GET", "/reg/hostings", &[], b"").status, 404);
}
