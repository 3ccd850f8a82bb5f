//! The official client at our door: the library `pryv` of npm, which nobody here wrote.

use super::stand::{APP, ORIGIN, PASSWORD, Plan, Way};
use crate::tools;
use crate::trial::ended;
use serde_json::json;
use std::process::{Command, Stdio};
use std::time::Duration;

#[test]
fn the_official_client_logs_in_activates_verifies_and_recovers() {
    let test = "pryv::client";
    let Some(node) = tools::find(test, "node") else { return };
    let Some(modules) = tools::node_modules(test, &["pryv"]) else { return };
    let script = tools::root().join("crates/countersign/tests/it/pryv/client.mjs");
    for way in [Way::Alone, Way::InFront] {
        for generation in ["v1", "v2", "by-client"] {
            let stand = Plan::new(way, generation).start();
            let person = stand.person("janet");
            let base = format!("http://{}", person.address);
            let settings = json!({
                "modules": modules,
                "serviceInfo": format!("{base}/service/info"),
                "base": format!("{base}/{}/", person.name),
                "username": person.name,
                "password": PASSWORD,
                "app": APP,
                "origin": ORIGIN,
                "data": person.data(),
                "code": stand.sms.url(&format!("/-/code/{}", person.number)),
                "generation": generation,
                "alone": way == Way::Alone,
            });
            let mut client = Command::new(&node);
            client.arg(&script).arg(settings.to_string()).stdin(Stdio::null());
            let (status, out, err) = ended(client, Duration::from_secs(60));
            assert!(status.success(), "{way:?} {generation}: {out}\n{err}\n{}", stand.place.log());
        }
    }
}
