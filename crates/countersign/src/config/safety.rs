//! What `serve` refuses to run with: settings that are right as such, and would hand out codes, keys or people.
//!
//! Owns the list of dangers. Each is told with its setting and with what would be safe.

use super::{Config, MasterKeySource, Origin, Problem, Storage, is_loopback_host};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

impl Config {
    /// Every setting with which a server must not be run.
    #[must_use]
    pub fn dangers(&self) -> Vec<Problem> {
        let mut found = Vec::new();
        let mut danger = |setting: &str, why: String| {
            let origin = self.origins.get(setting).cloned().unwrap_or(Origin::Nobody);
            found.push(Problem { origin, setting: setting.to_owned(), why });
        };
        let server = &self.server;
        let on_loopback = server.listen.ip().is_loopback();
        let behind_proxy = !server.trusted_proxies.is_empty();

        match &server.public_url {
            None if !on_loopback => {
                danger("server.public_url", "it is missing; write where callers reach this server, such as https://mfa.example.com".into());
            }
            Some(url) if url.scheme() == "http" && !is_loopback_host(url) && !behind_proxy => {
                danger("server.public_url", "http:// lets everybody on the way read codes and secrets; write https://".into());
            }
            _ => {}
        }
        if !on_loopback && server.tls.is_none() && !behind_proxy {
            let why = "it listens without TLS; name server.tls.certificate and server.tls.key, or the proxy that speaks TLS \
                       in server.trusted_proxies, or listen on 127.0.0.1";
            danger("server.listen", why.into());
        }
        for net in server.trusted_proxies.iter().filter(|it| it.prefix_len() == 0) {
            danger("server.trusted_proxies", format!("{net} is everybody, so anybody could say where a call came from; name the proxies"));
        }
        for net in self.egress.allow.iter().filter(|it| it.prefix_len() == 0) {
            danger("egress.allow", format!("{net} takes down the guard against calls into your own network; name the networks"));
        }
        if self.development.allow_inbox && self.is_reachable_from_elsewhere() && !self.development.allow_inbox_beyond_loopback {
            let why = "whoever can reach this server could read every code; set it to false, listen on 127.0.0.1, or set \
                       development.allow_inbox_beyond_loopback where nobody's account depends on it";
            danger("development.allow_inbox", why.into());
        }
        let present = match &self.master_key {
            MasterKeySource::File(path) => Some(("secrets.master_key_file", path)),
            MasterKeySource::Given(_) | MasterKeySource::Command(_) => None,
        };
        let old = self.old_master_key.as_ref().map(|path| ("secrets.old_master_key_file", path));
        for (setting, path) in [present, old].into_iter().flatten() {
            if let Some(mode) = mode(path).filter(|mode| mode & 0o077 != 0) {
                danger(setting, open_to_others(path, mode, "600"));
            }
        }
        // A group of its own (ssl-cert) is how several servers share a key.
        if let Some(tls) = &server.tls
            && let Some(mode) = mode(&tls.key)
            && mode & 0o007 != 0
        {
            danger("server.tls.key", open_to_others(&tls.key, mode, "640"));
        }
        match &self.storage {
            Storage::File(path) => {
                if let Some(mode) = mode(path).filter(|mode| mode & 0o007 != 0) {
                    danger("storage.path", open_to_others(path, mode, "600"));
                }
            }
            Storage::Postgres(database) => {
                if !database.allow_plaintext && database.options.is_open_beyond_this_machine() == Ok(true) {
                    let why = "names and digests of codes would travel to another machine in clear where the database does not \
                               insist on TLS; add sslmode=require to the address, or set storage.postgres.allow_plaintext where \
                               the network itself is encrypted";
                    danger("storage.url", why.into());
                }
            }
        }
        found
    }

    /// Whether anybody but this machine may be able to call.
    #[must_use]
    pub fn is_reachable_from_elsewhere(&self) -> bool {
        let server = &self.server;
        !server.listen.ip().is_loopback()
            || !server.trusted_proxies.is_empty()
            || server.public_url.as_ref().is_some_and(|url| !is_loopback_host(url))
    }
}

/// The permission bits of a file that is there.
fn mode(path: &Path) -> Option<u32> {
    std::fs::metadata(path).ok().map(|it| it.permissions().mode() & 0o777)
}

fn open_to_others(path: &Path, mode: u32, right: &str) -> String {
    format!("{path} has mode {mode:03o}, so others can read it; run: chmod {right} {path}", path = path.display())
}

#[cfg(test)]
mod tests {
    use super::super::Environment;
    use super::*;

    fn dangers(text: &str) -> Vec<String> {
        let folder = std::env::temp_dir().join("countersign-nothing-here");
        let config = Config::parse(text, Some(folder.join("c.toml")), &Environment::new()).expect("right as such");
        config.dangers().iter().map(|it| it.setting.clone()).collect()
    }

    #[test]
    fn a_database_on_another_machine_is_reached_by_tls() {
        let dangers_of = |url: &str, more: &str| dangers(&format!("[storage]\nurl = \"{url}\"\n{more}"));
        assert_eq!(dangers_of("postgres://db.example.com/mfa", ""), ["storage.url"]);
        assert_eq!(dangers_of("postgres://127.0.0.1,db.example.com/mfa?sslmode=prefer", ""), ["storage.url"]);
        let safe = ["postgres://db.example.com/mfa?sslmode=require", "postgres://[::1]/mfa", "postgres://localhost/mfa?sslmode=disable"];
        for url in safe {
            assert_eq!(dangers_of(url, ""), [""; 0], "{url}");
        }
        assert_eq!(dangers_of("postgres://db/mfa", "[storage.postgres]\nallow_plaintext = true"), [""; 0]);
    }

    #[test]
    fn the_defaults_are_safe() {
        assert_eq!(dangers(""), [""; 0]);
    }

    #[test]
    fn a_server_for_others_needs_a_name_and_tls_or_a_proxy() {
        assert_eq!(dangers("[server]\nlisten = \"0.0.0.0:80\""), ["server.public_url", "server.listen"]);
        assert_eq!(
            dangers("[server]\nlisten = \"0.0.0.0:80\"\npublic_url = \"http://mfa.example.com\""),
            ["server.public_url", "server.listen"]
        );
        assert_eq!(
            dangers("[server]\nlisten = \"0.0.0.0:80\"\npublic_url = \"https://mfa.example.com\"\ntrusted_proxies = [\"10.0.0.1\"]"),
            [""; 0]
        );
        let tls =
            "[server]\nlisten = \"0.0.0.0:443\"\npublic_url = \"https://mfa.example.com\"\ntls = { certificate = \"a\", key = \"b\" }";
        assert_eq!(dangers(tls), [""; 0]);
    }

    #[test]
    fn an_inbox_is_for_this_machine_unless_it_is_said_twice() {
        let inbox = "[development]\nallow_inbox = true\n";
        assert_eq!(dangers(inbox), [""; 0]);
        let proxied = "[server]\ntrusted_proxies = [\"127.0.0.1\"]\n";
        assert_eq!(dangers(&format!("{inbox}{proxied}")), ["development.allow_inbox"]);
        assert_eq!(dangers(&format!("{inbox}[server]\npublic_url = \"https://mfa.example.com\"")), ["development.allow_inbox"]);
        assert_eq!(dangers(&format!("{inbox}allow_inbox_beyond_loopback = true\n{proxied}")), [""; 0]);
    }

    #[test]
    fn the_whole_internet_is_neither_a_proxy_nor_a_private_network() {
        assert_eq!(
            dangers("[server]\ntrusted_proxies = [\"0.0.0.0/0\"]\n[egress]\nallow = [\"::/0\"]"),
            ["server.trusted_proxies", "egress.allow"]
        );
    }

    #[test]
    fn keys_that_others_can_read_are_refused_with_the_command_that_helps() {
        let folder = tempfile::tempdir().expect("a folder");
        let config = || {
            let text = "[server.tls]\ncertificate = \"cert.pem\"\nkey = \"key.pem\"\n[secrets]\nold_master_key_file = \"old.key\"";
            Config::parse(text, Some(folder.path().join("c.toml")), &Environment::new()).expect("right as such")
        };
        for (name, bad, good, setting) in [
            ("master.key", 0o640, 0o600, "secrets.master_key_file"),
            ("old.key", 0o604, 0o600, "secrets.old_master_key_file"),
            ("key.pem", 0o644, 0o640, "server.tls.key"),
            ("countersign.db", 0o644, 0o600, "storage.path"),
        ] {
            let path = folder.path().join(name);
            std::fs::write(&path, "x").expect("written");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(bad)).expect("changed");
            let told = config().dangers();
            assert_eq!(told.iter().map(|it| it.setting.as_str()).collect::<Vec<_>>(), [setting]);
            assert!(told[0].why.contains("run: chmod "), "{}", told[0]);
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(good)).expect("changed");
            assert_eq!(config().dangers(), []);
        }
    }
}
