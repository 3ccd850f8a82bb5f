//! The pages in a browser: what is on them, what the browser complains about, and whether everybody can use them. It also makes
//! the pictures of the documentation: `COUNTERSIGN_PICTURES=1 cargo test -p countersign --test it -- pages`.

use crate::server::Folder;
use crate::tools;
use crate::trial::{Trial, ended};
use serde_json::json;
use std::process::{Command, Stdio};
use std::time::Duration;

#[test]
fn the_inbox_follows_what_comes_without_a_complaint_of_browser_or_axe() {
    let test = "the_inbox_follows_what_comes_without_a_complaint_of_browser_or_axe";
    let (Some(node), Some(browser)) = (tools::find(test, "node"), tools::find(test, "chromium")) else { return };
    let Some(modules) = tools::node_modules(test, &["playwright-core", "axe-core"]) else { return };

    let folder = Folder::new("pages-inbox");
    let (trial, ready) = Trial::ready(&folder);
    let script = tools::root().join("crates/countersign/tests/browser/inbox.mjs");
    let wanted = std::env::var_os("COUNTERSIGN_PICTURES").is_some_and(|it| it == "1");
    let settings = json!({
        "modules": modules,
        "browser": browser,
        "pictures": wanted.then(|| tools::root().join("docs/pictures")),
        "ready": {"base_url": ready.base_url, "token_url": ready.token_url, "inbox_url": ready.inbox_url,
            "client_id": ready.client_id, "client_secret": ready.client_secret},
    });
    let mut look = Command::new(node);
    // Whatever a browser leaves at home goes with the folder.
    look.arg(script).arg(settings.to_string()).env("HOME", folder.path()).env("TMPDIR", folder.path()).stdin(Stdio::null());
    let (status, out, err) = ended(look, Duration::from_secs(240));
    assert!(status.success(), "{out}\n{err}\n{}", trial.log());
    assert_eq!(trial.stop().status.code(), Some(0));
}
