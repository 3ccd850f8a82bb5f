//! The household: the core and its neighbours, introduced to each other. The only place that knows all of them.

use crate::config::{self, Config, Storage};
use crate::engine::Engine;
use crate::master;
use crate::no::{Kind, No};
use crate::ports::{OsChance, SystemClock, TokioTasks};
use crate::tls;
use countersign_core::nouns::provider::ProviderSettings;
use countersign_core::nouns::tenant::Tenant;
use countersign_core::ports::{Carriers, Clock, Inbox, Listing, Outbound};
use countersign_core::verbs::manage::NewProvider;
use countersign_core::words::id::ProviderId;
use countersign_core::{Core, Neighbours};
use countersign_providers::Fleet;
use countersign_providers::egress::{Egress, EgressSettings};
use countersign_providers::inbox::Tray;
use countersign_providers::outbound::Upstream;
use countersign_providers::pen::Quill;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How long a command waits for what it began, such as a test message.
const COMMAND_ENDS_WITHIN: Duration = Duration::from_secs(30);

/// Everybody, at work.
pub struct Household {
    /// The verbs.
    pub core: Core,
    /// Where everything is kept.
    pub engine: Engine,
    /// Work that goes on when its caller has hung up.
    pub tasks: TokioTasks,
    /// What would have been sent, where the settings allow an inbox.
    pub inbox: Option<Arc<dyn Inbox>>,
    /// The way to servers that a dialect stands in front of.
    pub outbound: Arc<dyn Outbound>,
}

impl Household {
    /// Opens the database and moves everybody in.
    ///
    /// # Errors
    /// What is away or wrong, and what to do.
    pub async fn open(config: &Config) -> Result<Self, No> {
        let (household, away) = Self::open_or_wait(config).await?;
        match away {
            None => Ok(household),
            Some(no) => {
                household.close_after_command().await;
                Err(no)
            }
        }
    }

    /// The same where a database on another machine may be away: everybody is at work then, and says so to whoever asks, until
    /// [`Engine::prepare`] succeeds. Tells why, if it is away.
    ///
    /// # Errors
    /// What is wrong, and what to do.
    pub async fn open_or_wait(config: &Config) -> Result<(Self, Option<No>), No> {
        let (master, engine, away) = match &config.storage {
            // The key first: without it no database is made.
            Storage::File(path) => {
                let sealed = path.exists().then(|| path.display().to_string());
                let master = master::of(config, sealed.as_deref(), &OsChance)?;
                (master, Engine::open(&config.storage)?, None)
            }
            Storage::Postgres(_) => {
                let engine = Engine::open(&config.storage)?;
                let away = match engine.prepare().await {
                    Ok(()) => None,
                    Err(no) if no.kind == Kind::Unavailable => Some(no),
                    Err(no) => return Err(no),
                };
                // Where nobody can look, nobody knows that no other node has sealed anything yet; and of several nodes that find nothing,
                // one makes the key.
                let is_new = away.is_none() && engine.store().list(Listing::Tenants).await?.is_empty();
                let makes = is_new && !config.master_key.is_there() && engine.may_make_the_key().await?;
                let sealed = (!makes).then_some("the database of storage.url");
                (master::of(config, sealed, &OsChance)?, engine, away)
            }
        };
        let egress = egress(&config.egress)?;
        let tray = config.development.allow_inbox.then(|| Tray::new(Arc::new(SystemClock)));
        let tasks = TokioTasks::default();
        let core = Core::new(Neighbours {
            store: engine.store(),
            clock: Arc::new(SystemClock),
            chance: Arc::new(OsChance),
            tasks: Arc::new(tasks.clone()),
            carriers: Arc::new(Fleet::new(egress.clone(), Arc::new(SystemClock), tray.clone())),
            pen: Arc::new(Quill::new()),
            master,
        });
        let outbound = Arc::new(Upstream::new(egress));
        Ok((Self { core, engine, tasks, inbox: tray.map(|it| Arc::new(it) as Arc<dyn Inbox>), outbound }, away))
    }

    /// Whether a provider could be built, before there is a tenant that it could belong to. Nothing is opened, nobody is called.
    ///
    /// # Errors
    /// What is wrong with it, in a sentence.
    pub fn try_out(config: &Config, new: NewProvider) -> Result<(), String> {
        let clock = SystemClock;
        let settings = ProviderSettings {
            id: ProviderId::new(clock.now(), &OsChance),
            name: new.name,
            channels: new.channels,
            kind: new.kind,
            settings: new.settings,
            secrets: BTreeMap::new(),
            created_at: clock.now(),
        };
        let egress = egress(&config.egress).map_err(|no| no.what)?;
        Fleet::new(egress, Arc::new(clock), None).build(&settings, new.secrets).map(drop)
    }

    /// Refuses to go on where no house was begun yet, before anything is made.
    ///
    /// # Errors
    /// What is not there, and what to do.
    pub async fn refuse_where_none_is(config: &Config) -> Result<(), No> {
        let missing = match &config.storage {
            Storage::File(path) if path.exists() => None,
            Storage::File(path) => Some(format!("there is no database at {}", path.display())),
            Storage::Postgres(_) => {
                let engine = Engine::open(&config.storage)?;
                let begun = engine.is_begun().await;
                engine.close().await;
                (!begun?).then(|| "there is nothing of Countersign in the database of storage.url".to_owned())
            }
        };
        missing.map_or(Ok(()), |what| {
            Err(No::refused(what).hint("start with `countersign tenant create NAME`, or name the settings of your server with --config"))
        })
    }

    /// Refuses a master key that does not open what is there: every call would be an error of the server, and a message that waits
    /// would be taken for damaged.
    ///
    /// # Errors
    /// Whose keys it does not open; a fault of the store.
    pub async fn opens_all(&self) -> Result<(), No> {
        let tenants = self.core.tenants().await?;
        let Some(shut) = shut(&tenants, |tenant| self.core.opens(tenant)) else { return Ok(()) };
        Err(No::refused(format!("the master key does not open {shut}"))
            .hint("put back the key with which they were made; `countersign doctor` looks at each of them"))
    }

    /// Waits for what was begun, and closes the database.
    pub async fn close(self, within: Duration) {
        let Self { core, engine, tasks, inbox: _, outbound: _ } = self;
        if tokio::time::timeout(within, tasks.finished()).await.is_err() {
            tracing::warn!("Some deliveries did not finish in time; the next start carries them on");
        }
        drop(core);
        engine.close().await;
    }

    /// The same after a command.
    pub async fn close_after_command(self) {
        self.close(COMMAND_ENDS_WITHIN).await;
    }
}

/// Which tenants cannot be opened, for a sentence; nothing, when all can.
#[must_use]
pub fn shut(tenants: &[Tenant], opens: impl Fn(&Tenant) -> bool) -> Option<String> {
    let shut: Vec<_> = tenants.iter().filter(|it| !opens(it)).map(|it| it.name.as_str()).collect();
    let some = shut.iter().take(5).copied().collect::<Vec<_>>().join(", ");
    (!shut.is_empty()).then(|| format!("{} of {} tenants: {some}", shut.len(), tenants.len()))
}

fn egress(settings: &config::Egress) -> Result<Egress, No> {
    let roots_pem = tls::certificates("egress.roots", &settings.roots)?;
    let settings = EgressSettings {
        allow: settings.allow.clone(),
        allow_hosts: settings.allow_hosts.clone(),
        allow_plain_http: settings.allow_plain_http,
        proxy: settings.proxy.clone(),
        roots_pem,
        ..EgressSettings::default()
    };
    Egress::new(settings).map_err(|why| No::usage(format!("egress: {why}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Environment;
    use countersign_core::nouns::tenant::Policy;
    use std::os::unix::fs::PermissionsExt;

    #[tokio::test]
    async fn what_one_household_made_another_master_key_does_not_open() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config::parse("", Some(folder.path().join("countersign.toml")), &Environment::new()).unwrap();
        let home = Household::open(&config).await.unwrap();
        let tenant = home.core.create_tenant("one", "One", Policy::default()).await.unwrap();
        home.close_after_command().await;
        for name in ["countersign.db", "master.key"] {
            let mode = std::fs::metadata(folder.path().join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }

        let key = folder.path().join("master.key");
        std::fs::remove_file(&key).unwrap();
        assert!(Household::open(&config).await.is_err_and(|no| no.kind == Kind::Refused), "no second key is made");
        std::fs::write(&key, "00".repeat(32)).unwrap();
        let home = Household::open(&config).await.unwrap();
        assert!(home.core.standing(tenant.id).await.is_err());
        home.close_after_command().await;
    }

    #[tokio::test]
    async fn an_inbox_is_there_only_where_the_settings_allow_it() {
        let folder = tempfile::tempdir().unwrap();
        let open = async |text: &str| {
            let config = Config::parse(text, Some(folder.path().join("countersign.toml")), &Environment::new()).unwrap();
            Household::open(&config).await.unwrap()
        };
        let without = open("").await;
        assert!(without.inbox.is_none());
        without.close_after_command().await;
        let with = open("[development]\nallow_inbox = true").await;
        assert!(with.inbox.is_some());
        with.close_after_command().await;
    }
}
