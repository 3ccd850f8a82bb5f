//! The walls of the house, in words. Cargo holds them; this says what they are for. See ARCHITECTURE.md, Walls.

use std::path::Path;

fn dependencies(krate: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(krate).join("Cargo.toml");
    let manifest = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let table: toml::Table = manifest.parse().expect("a manifest");
    table["dependencies"].as_table().expect("dependencies").keys().cloned().collect()
}

#[test]
fn the_core_knows_no_network_no_database_no_templates_and_no_runtime() {
    let allowed = [
        "argon2",
        "aws-lc-rs",
        "base64",
        "data-encoding",
        "email_address",
        "futures-channel",
        "hmac",
        "quick_cache",
        "rlibphonenumber",
        "serde",
        "serde_json",
        "sha1",
        "sha2",
        "subtle",
        "thiserror",
        "tracing",
        "unicode-normalization",
        "uuid",
        "zeroize",
    ];
    for dependency in dependencies("core") {
        assert!(
            allowed.contains(&dependency.as_str()),
            "core must not simply come to know {dependency}: a new dependency of core is a decision, see ARCHITECTURE.md and docs/decisions/"
        );
    }
}

#[test]
fn neighbours_do_not_know_each_other() {
    let neighbours = ["web", "providers", "store"];
    for one in neighbours {
        for other in neighbours.into_iter().filter(|other| *other != one) {
            let name = format!("countersign-{other}");
            assert!(!dependencies(one).contains(&name), "{one} must not know {other}: what they share is a port of core");
        }
    }
}
