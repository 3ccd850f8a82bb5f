//! Enrols people for the rows that need many of them, without a server and its HTTP.
//!
//! Each goes the whole way of the core (a device is enrolled, and activated by its first value), so what is then in the
//! database is what a server would have put there: people, devices, spent challenges and events.

use crate::run::progress;
use anyhow::{Context, Result, anyhow};
use countersign_core::nouns::provider::ProviderSettings;
use countersign_core::nouns::totp;
use countersign_core::ports::{Carriers, Chance, Clock, Pen, Pending, Provider, Receipt, SendError, Sends, Store, Tasks};
use countersign_core::verbs::verify::Answered;
use countersign_core::words::address::Login;
use countersign_core::words::id::DeliveryId;
use countersign_core::words::secret::{MasterKey, Secret};
use countersign_core::words::time::Timestamp;
use countersign_core::words::wording::{Message, Values, Wording};
use countersign_core::{Core, Neighbours, Scope};
use countersign_store::Sqlite;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::task::JoinSet;

/// People who are enrolled at the same time, so that the engine commits them in groups.
const AT_ONCE: u32 = 256;

/// The device of everybody.
pub const DEVICE: &str = "phone";

/// What the person with this number is called.
#[must_use]
pub fn login(person: u32) -> String {
    format!("enrolled{person:09}")
}

/// Enrols `people` with the only client of `tenant`, in a database that no server has open.
///
/// # Errors
/// A database or key that does not open, a tenant without a client, a person who cannot be enrolled.
pub async fn seed(database: &Path, master_key: &Path, tenant: &str, people: u32) -> Result<()> {
    let key = std::fs::read_to_string(master_key).with_context(|| format!("reading {}", master_key.display()))?;
    let core = house(database, MasterKey::parse(&key).context("the key file holds no master key")?)?;
    let tenant = core.tenant_named(tenant).await?.id;
    let client = core.clients(tenant).await?.pop().context("the tenant has no client")?.id;

    let next = Arc::new(AtomicU32::new(0));
    let mut workers = JoinSet::new();
    for _ in 0..AT_ONCE {
        let (core, next) = (core.clone(), next.clone());
        workers.spawn(async move {
            loop {
                let person = next.fetch_add(1, Ordering::Relaxed);
                if person >= people {
                    return Ok(());
                }
                if person.is_multiple_of(10_000) {
                    progress(&format!("enrolling people: {person} of {people}"));
                }
                enrol(&core, &core.scope(tenant, client).await?, person).await?;
            }
        });
    }
    while let Some(ended) = workers.join_next().await {
        ended.map_err(anyhow::Error::from).flatten()?;
    }
    Ok(())
}

fn house(database: &Path, master: MasterKey) -> Result<Core> {
    Ok(house_on(Arc::new(Sqlite::open(database, countersign_store::Options::default())?), master))
}

/// The core on a store that no server has open.
#[must_use]
pub fn house_on(store: Arc<dyn Store>, master: MasterKey) -> Core {
    let here = Arc::new(Here);
    let (clock, chance, tasks, carriers, pen) = (here.clone(), here.clone(), here.clone(), here.clone(), here);
    Core::new(Neighbours { store, clock, chance, tasks, carriers, pen, master })
}

/// Enrols the person with this number, with an active device.
///
/// # Errors
/// Somebody is called so already.
pub async fn enrol(core: &Core, scope: &Scope, person: u32) -> Result<()> {
    let name = Login::parse(&login(person))?;
    let enrolling = core.enroll_totp(scope, name.clone(), DEVICE).await?;
    let seed = data_encoding::BASE32_NOPAD.decode(enrolling.seed.reveal().as_bytes())?;
    let value = totp::hotp(&seed, totp::step_at(core.now()));
    match core.activate(scope, &name, enrolling.challenge, &value).await? {
        (Answered::Passed, _) => Ok(()),
        (other, _) => Err(anyhow!("the first value of {} was answered with {other:?}", login(person))),
    }
}

/// The machine's clock and chance, and neighbours whom enrolling never asks.
struct Here;

impl Clock for Here {
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }
}

impl Chance for Here {
    fn fill(&self, bytes: &mut [u8]) {
        getrandom::fill(bytes).expect("the system gives random bytes once it has started");
    }
}

impl Tasks for Here {
    fn detach(&self, work: Pending<'static, ()>) {
        tokio::spawn(work);
    }

    fn pause(&self, span: Duration) -> Pending<'static, ()> {
        Box::pin(tokio::time::sleep(span))
    }

    fn labour(&self, work: Box<dyn FnOnce() + Send>) -> Pending<'static, ()> {
        Box::pin(async move { work() })
    }
}

impl Carriers for Here {
    fn build(&self, _: &ProviderSettings, _: BTreeMap<String, Secret>) -> Result<Provider, String> {
        Ok(Provider::Sends(Box::new(Nowhere)))
    }
}

/// A provider that is set up here, and used only by a server.
struct Nowhere;

impl Sends for Nowhere {
    fn send(&self, _: DeliveryId, _: Arc<Message>) -> Pending<'static, Result<Receipt, SendError>> {
        self.refuse()
    }

    fn probe(&self) -> Pending<'static, Result<String, SendError>> {
        self.refuse()
    }
}

impl Nowhere {
    fn refuse<T: 'static>(&self) -> Pending<'static, Result<T, SendError>> {
        Box::pin(async { Err(SendError::Refused("nothing is sent without a server".into())) })
    }
}

impl Pen for Here {
    fn write(&self, _: &Wording, _: &Values<'_>) -> Result<Wording, String> {
        Err("nothing is written while people are enrolled".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use countersign_core::nouns::tenant::Policy;
    use countersign_core::verbs::manage::NewClient;

    #[tokio::test(flavor = "multi_thread")]
    async fn everybody_is_enrolled_with_an_active_device() {
        const PEOPLE: u32 = 300;
        let folder = std::env::temp_dir().join(format!("countersign-bench-seed-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let (database, key_file) = (folder.join("countersign.db"), folder.join("master.key"));
        let master = MasterKey::draw(&Here);
        std::fs::write(&key_file, master.reveal().reveal()).expect("a file");

        let core = house(&database, master.clone()).expect("opens");
        let tenant = core.create_tenant("bench", "Bench", Policy::default()).await.expect("a tenant").id;
        let new = NewClient { name: "bench".into(), client_id: None, secret: None, application: None, email_from: None };
        let client = core.create_client(tenant, new).await.expect("a client").0.id;
        drop(core);

        let began = std::time::Instant::now();
        seed(&database, &key_file, "bench", PEOPLE).await.expect("enrolled");
        eprintln!("{PEOPLE} people in {:?}, {} bytes", began.elapsed(), std::fs::metadata(&database).expect("there").len());

        let core = house(&database, master).expect("opens");
        let scope = core.scope(tenant, client).await.expect("a scope");
        for person in [0, 1, PEOPLE - 1] {
            let devices = core.devices(&scope, &Login::parse(&login(person)).expect("a name")).await.expect("known");
            assert_eq!(devices.iter().map(|it| it.name.as_str()).collect::<Vec<_>>(), [DEVICE]);
        }
        let nobody = core.devices(&scope, &Login::parse(&login(PEOPLE)).expect("a name")).await;
        assert!(nobody.is_err(), "no more than were asked for");
        drop(core);
        std::fs::remove_dir_all(folder).expect("removed");
    }
}
