//! What a tenant tells this dialect: `dialects.pryv` of the tenant. Written by `countersign import pryv` and `countersign pryv set`.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::time::Duration;
use url::Url;

/// Under which name the settings stand with the tenant.
pub const DIALECT: &str = "pryv";

/// First labels of hosts that are no people (contract §1).
pub(super) const RESERVED: [&str; 3] = ["reg", "access", "mfa"];

/// `^[a-z0-9][a-z0-9-]{3,58}[a-z0-9]$`, compared in small letters: what a host may hold as the name of a person (contract §1).
pub(super) fn is_label(text: &str) -> bool {
    let edges = [text.bytes().next(), text.bytes().next_back()];
    (5..=60).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && edges.iter().all(|it| it.is_some_and(|b| b.is_ascii_alphanumeric()))
}

/// Which of the two contracts is spoken (contract §0).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Generation {
    /// The MFA service in front of a core of 1.x.
    #[default]
    V1,
    /// The core of 2.x, which has it inside.
    V2,
    /// The second for clients that say `Accept: application/json`, the first for all others (contract §8).
    ByClient,
}

/// The settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Which contract is spoken.
    pub generation: Generation,
    /// The domain below which each person has a host: `pryv.me` for `jane.pryv.me`. The names of hosts tell tenants apart; without a
    /// domain the tenant answers at every host that is no other tenant's, and people stand in the path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// The core that we stand in front of; without it people live in our own directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub core_url: Option<Url>,
    /// How long a person has to finish a log-in or an activation.
    pub session_ttl_ms: u64,
    /// Which applications may log people in: `appId@origin` (contract §2). Not asked in front of a core, which asks by itself.
    pub trusted_apps: Vec<String>,
    /// How long a personal token lives without being used.
    pub access_max_age_ms: u64,
    /// Where people's interfaces are, with `{username}` in it; made of the base URL or the domain when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api: Option<String>,
    /// What `API-Version` and `meta.apiVersion` say.
    pub api_version: String,
    /// More of the service information: `name`, `home`, `support`, `terms`, `eventTypes`, `assets` ….
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub service: Map<String, Value>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            generation: Generation::V1,
            domain: None,
            core_url: None,
            session_ttl_ms: 1_800_000,
            trusted_apps: vec!["*@*".to_owned()],
            access_max_age_ms: 1_209_600_000,
            api: None,
            api_version: "1.9.3".to_owned(),
            service: Map::new(),
        }
    }
}

impl Settings {
    /// Reads what stands with a tenant.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn read(value: &Value) -> Result<Self, String> {
        let it: Self = serde_json::from_value(value.clone()).map_err(|error| error.to_string())?;
        it.check().map(|()| it)
    }

    /// Whether every setting is in its range.
    ///
    /// # Errors
    /// A sentence for the operator: which setting, what is wrong, what would be right.
    pub fn check(&self) -> Result<(), String> {
        if !(1..=86_400_000).contains(&self.session_ttl_ms) {
            return Err(format!("session_ttl_ms is {}; it takes 1 to 86400000 (a day)", self.session_ttl_ms));
        }
        if !(1_000..=31_536_000_000).contains(&self.access_max_age_ms) {
            return Err(format!("access_max_age_ms is {}; it takes 1000 to 31536000000 (a year)", self.access_max_age_ms));
        }
        if let Some(domain) = &self.domain {
            let is_label = |it: &str| !it.is_empty() && it.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
            if domain.len() > 253 || !domain.split('.').all(is_label) {
                return Err(format!("domain is `{domain}`; it takes a host name in small letters, such as pryv.me"));
            }
        }
        if let Some(core) = &self.core_url
            && (!["http", "https"].contains(&core.scheme()) || core.host().is_none() || core.query().is_some() || core.fragment().is_some())
        {
            return Err("core_url is no address of a server; it looks like http://core:3000".to_owned());
        }
        if let Some(bad) =
            self.trusted_apps.iter().find(|it| it.split_once('@').is_none_or(|(app, origin)| app.is_empty() || origin.is_empty()))
        {
            return Err(format!("trusted_apps holds `{bad}`; it takes appId@origin, such as *@https://*.pryv.me"));
        }
        // It is kept and shown as it is written.
        if self.core_url.as_ref().is_some_and(|it| !it.username().is_empty() || it.password().is_some()) {
            return Err("core_url holds credentials, which could not be kept secret there".to_owned());
        }
        if self.api.as_ref().is_some_and(|it| !it.contains("{username}")) {
            return Err("api has no {username} in it".to_owned());
        }
        Ok(())
    }

    /// Whether somebody can be called so: the name is the first label of a host, or the first part of a path.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn check_name(&self, name: &str) -> Result<(), String> {
        if !is_label(name) || RESERVED.contains(&name.to_ascii_lowercase().as_str()) {
            return Err(format!(
                "nobody could log in as `{name}`: a name has 5 to 60 letters, digits and hyphens, with no hyphen at its ends"
            ));
        }
        Ok(())
    }

    /// Which state of the platform's own settings clients see (`serial` of the service information).
    #[must_use]
    pub fn serial(&self) -> &str {
        self.service.get("serial").and_then(Value::as_str).unwrap_or("2019061301")
    }

    /// How long a person has to finish a log-in or an activation.
    #[must_use]
    pub fn session_ttl(&self) -> Duration {
        Duration::from_millis(self.session_ttl_ms)
    }

    /// How long a personal token lives without being used.
    #[must_use]
    pub fn access_max_age(&self) -> Duration {
        Duration::from_millis(self.access_max_age_ms)
    }
}
