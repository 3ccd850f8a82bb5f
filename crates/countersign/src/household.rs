//! The household: the core and its neighbours, introduced to each other. The only place that knows all of them.

use crate::config::{self, Config};
use crate::master;
use crate::no::No;
use crate::ports::{OsChance, SystemClock, TokioTasks};
use countersign_core::ports::Inbox;
use countersign_core::{Core, Neighbours};
use countersign_providers::Fleet;
use countersign_providers::egress::{Egress, EgressSettings};
use countersign_providers::inbox::Tray;
use countersign_providers::pen::Quill;
use countersign_store::{OpenError, Options, Sqlite};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How long a command waits for what it began, such as a test message.
const COMMAND_ENDS_WITHIN: Duration = Duration::from_secs(30);

/// Everybody, at work.
pub struct Household {
    /// The verbs.
    pub core: Core,
    /// The engine, for its figures.
    pub store: Arc<Sqlite>,
    /// Work that goes on when its caller has hung up.
    pub tasks: TokioTasks,
    /// What would have been sent, where the settings allow an inbox.
    pub inbox: Option<Arc<dyn Inbox>>,
}

impl Household {
    /// Opens the database and moves everybody in. Blocks while it does.
    ///
    /// # Errors
    /// What is away or wrong, and what to do.
    pub fn open(config: &Config) -> Result<Self, No> {
        let master = master::read(&config.master_key, &config.database, &OsChance)?;
        let store = open_store(&config.database)?;
        let egress = egress(&config.egress)?;
        let tray = config.development.allow_inbox.then(|| Tray::new(Arc::new(SystemClock)));
        let tasks = TokioTasks::default();
        let core = Core::new(Neighbours {
            store: store.clone(),
            clock: Arc::new(SystemClock),
            chance: Arc::new(OsChance),
            tasks: Arc::new(tasks.clone()),
            carriers: Arc::new(Fleet::new(egress, Arc::new(SystemClock), tray.clone())),
            pen: Arc::new(Quill::new()),
            master,
        });
        Ok(Self { core, store, tasks, inbox: tray.map(|it| Arc::new(it) as Arc<dyn Inbox>) })
    }

    /// Waits for what was begun, and closes the database.
    pub async fn close(self, within: Duration) {
        let Self { core, store, tasks, inbox: _ } = self;
        if tokio::time::timeout(within, tasks.finished()).await.is_err() {
            tracing::warn!("Some deliveries did not finish in time; the next start carries them on");
        }
        drop(core);
        // Closing waits for threads, and the runtime must not.
        let closed = tokio::task::spawn_blocking(move || store.close()).await;
        if closed.is_err() {
            tracing::error!("The database was not closed in order; the next start repairs it");
        }
    }

    /// The same after a command.
    pub async fn close_after_command(self) {
        self.close(COMMAND_ENDS_WITHIN).await;
    }
}

/// Opens the database file, and says what helps where it cannot be.
///
/// # Errors
/// What is away or wrong, and what to do.
pub fn open_store(path: &Path) -> Result<Arc<Sqlite>, No> {
    if let Some(folder) = path.parent().filter(|it| !it.as_os_str().is_empty()) {
        master::make_folder(folder).map_err(|why| No::unavailable(format!("{} cannot be made: {why}", folder.display())))?;
    }
    Sqlite::open(path, Options::default()).map(Arc::new).map_err(|why| {
        let what = format!("storage.path: {}: {why}", path.display());
        match why {
            OpenError::Foreign | OpenError::Newer { .. } | OpenError::Changed { .. } | OpenError::OldSqlite(_) => No::refused(what),
            OpenError::File { .. } | OpenError::Sqlite(_) | OpenError::Thread(_) => No::unavailable(what),
        }
    })
}

fn egress(settings: &config::Egress) -> Result<Egress, No> {
    let mut roots_pem = Vec::new();
    for path in &settings.roots {
        roots_pem.push(
            std::fs::read_to_string(path).map_err(|why| No::usage(format!("egress.roots: {} cannot be read: {why}", path.display())))?,
        );
    }
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
    use crate::no::Kind;
    use countersign_core::nouns::tenant::Policy;
    use std::os::unix::fs::PermissionsExt;

    #[tokio::test]
    async fn what_one_household_made_another_master_key_does_not_open() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config::parse("", Some(folder.path().join("countersign.toml")), &Environment::new()).unwrap();
        let home = Household::open(&config).unwrap();
        let tenant = home.core.create_tenant("one", "One", Policy::default()).await.unwrap();
        home.close_after_command().await;
        for name in ["countersign.db", "master.key"] {
            let mode = std::fs::metadata(folder.path().join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }

        let key = folder.path().join("master.key");
        std::fs::remove_file(&key).unwrap();
        assert!(Household::open(&config).is_err_and(|no| no.kind == Kind::Refused), "no second key is made");
        std::fs::write(&key, "00".repeat(32)).unwrap();
        let home = Household::open(&config).unwrap();
        assert!(home.core.standing(tenant.id).await.is_err());
        home.close_after_command().await;
    }

    #[tokio::test]
    async fn an_inbox_is_there_only_where_the_settings_allow_it() {
        let folder = tempfile::tempdir().unwrap();
        let open = |text: &str| {
            let config = Config::parse(text, Some(folder.path().join("countersign.toml")), &Environment::new()).unwrap();
            Household::open(&config).unwrap()
        };
        let without = open("");
        assert!(without.inbox.is_none());
        without.close_after_command().await;
        let with = open("[development]\nallow_inbox = true");
        assert!(with.inbox.is_some());
        with.close_after_command().await;
    }
}
