//! An old database: spent challenges, their messages' records and events, people and tenants, put in without a server.
//!
//! Tenants and clients go the way of the core, because their keys are real. The many rows are copies of what a server has written
//! for one challenge and one person, with ids, fingerprints and names of their own, so every body is as long as a real one. Ids are
//! those of the days before, in their order; tenants take turns by chance, as they would have.

use crate::cluster::{Cluster, Control};
use crate::run::{Growth, progress};
use crate::seed;
use crate::server::{self, Doors, Server, TENANT};
use anyhow::{Context, Result, ensure};
use countersign_core::Core;
use countersign_core::nouns::route::Route;
use countersign_core::nouns::tenant::Policy;
use countersign_core::ports::Store;
use countersign_core::verbs::manage::{NewClient, NewProvider, TenantChange};
use countersign_core::words::address::Channel;
use countersign_core::words::id::{ClientId, TenantId};
use countersign_core::words::secret::{MasterKey, Secret};
use countersign_store::{Postgres, Sqlite, postgres};
use rusqlite::Connection;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{BufWriter, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::task::JoinSet;
use uuid::Uuid;

/// For how long spent challenges are kept; less than the `keep_days` of a new tenant, so that none is swept away meanwhile.
const DAYS: u64 = 29;

/// Tenants that are made at the same time.
const AT_ONCE: u32 = 64;

/// Rows of one transaction, and after how many it is told how far it is.
const STEP: u64 = 100_000;

/// A database that no server has open.
pub enum Books<'a> {
    /// The embedded engine's.
    Sqlite(Connection),
    /// PostgreSQL's.
    Postgres {
        /// A client of it.
        control: Control<'a>,
        /// The program that takes rows by the million.
        psql: PathBuf,
        /// Its address.
        url: String,
    },
}

/// A table that is filled.
struct Table {
    name: &'static str,
    is_versioned: bool,
    /// A column between, which holds an id.
    column: Option<&'static str>,
}

const CHALLENGES: Table = Table { name: "challenges", is_versioned: true, column: None };
const DELIVERIES: Table = Table { name: "deliveries", is_versioned: true, column: None };
const EVENTS: Table = Table { name: "events", is_versioned: false, column: None };
const USERS: Table = Table { name: "users", is_versioned: true, column: Some("named") };
const FACTORS: Table = Table { name: "factors", is_versioned: true, column: Some("owner") };

/// A row of any of them.
struct Line {
    tenant: Uuid,
    id: Uuid,
    column: Uuid,
    body: String,
}

impl<'a> Books<'a> {
    /// The database of the embedded engine in `file`. It need not survive a power cut while it is filled.
    ///
    /// # Errors
    /// It does not open.
    pub fn sqlite(file: &Path) -> Result<Self> {
        let connection = Connection::open(file)?;
        connection.execute_batch("PRAGMA synchronous = OFF; PRAGMA cache_size = -524288; PRAGMA wal_autocheckpoint = 20000")?;
        Ok(Self::Sqlite(connection))
    }

    /// The database at `url`.
    ///
    /// # Errors
    /// It does not open.
    pub fn postgres(url: &str, cluster: &'a Cluster) -> Result<Self> {
        let name = url.rsplit('/').next().context("a URL with a database")?;
        Ok(Self::Postgres { control: cluster.control(name)?, psql: cluster.program("psql"), url: url.to_owned() })
    }

    fn ask(&self, text: &str) -> Result<String> {
        match self {
            Self::Sqlite(connection) => Ok(connection.query_row(text, [], |row| row.get(0))?),
            Self::Postgres { control, .. } => control.ask(text),
        }
    }

    /// Puts `count` rows in.
    fn insert(&mut self, table: &Table, count: u64, what: &str, mut line: impl FnMut(u64) -> Line) -> Result<()> {
        let Table { name, is_versioned, column } = *table;
        let mut columns = vec!["tenant", "id"];
        columns.extend(is_versioned.then_some("version"));
        columns.extend(column);
        columns.push("body");
        let tell = |at: u64| {
            if at.is_multiple_of(STEP) {
                progress(&format!("{what}: {at} of {count}"));
            }
        };
        match self {
            Self::Sqlite(connection) => {
                let places: Vec<_> = (1..=columns.len()).map(|it| format!("?{it}")).collect();
                let text = format!("INSERT INTO {name} ({}) VALUES ({})", columns.join(", "), places.join(", "));
                let mut at = 0;
                while at < count {
                    let transaction = connection.transaction()?;
                    {
                        let mut insert = transaction.prepare_cached(&text)?;
                        for _ in 0..STEP.min(count - at) {
                            tell(at);
                            let Line { tenant, id, column: between, body } = line(at);
                            let (tenant, id, between, version) = (tenant.into_bytes(), id.into_bytes(), between.into_bytes(), 2);
                            let mut given: Vec<&dyn rusqlite::ToSql> = vec![&tenant, &id];
                            if is_versioned {
                                given.push(&version);
                            }
                            if column.is_some() {
                                given.push(&between);
                            }
                            given.push(&body);
                            insert.execute(given.as_slice())?;
                            at += 1;
                        }
                    }
                    transaction.commit()?;
                }
            }
            Self::Postgres { psql, url, .. } => {
                columns.extend(is_versioned.then_some("born"));
                let mut command = Command::new(psql);
                command.args(["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--dbname", url, "--command"]);
                command.arg(format!("COPY {name} ({}) FROM STDIN", columns.join(", ")));
                let mut child = command.stdin(Stdio::piped()).spawn().context("starting psql")?;
                let mut rows = BufWriter::with_capacity(1 << 20, child.stdin.take().context("a pipe was asked for")?);
                for at in 0..count {
                    tell(at);
                    let Line { tenant, id, column: between, body } = line(at);
                    write!(rows, "{tenant}\t{id}")?;
                    if is_versioned {
                        rows.write_all(b"\t2")?;
                    }
                    if column.is_some() {
                        write!(rows, "\t{between}")?;
                    }
                    write!(rows, "\t{}", body.replace('\\', "\\\\"))?;
                    if is_versioned {
                        write!(rows, "\t{at}")?;
                    }
                    rows.write_all(b"\n")?;
                }
                drop(rows);
                ensure!(child.wait()?.success(), "psql does not take the rows of {name}");
            }
        }
        Ok(())
    }

    /// Leaves it as a database is that has been at work for long: known to its planner, and swept.
    fn settle(&self) -> Result<()> {
        progress("looking through the old database");
        match self {
            Self::Sqlite(connection) => {
                connection.execute_batch("PRAGMA analysis_limit = 1000; ANALYZE")?;
                // It answers with a row.
                connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
            }
            Self::Postgres { control, .. } => {
                control.run("VACUUM ANALYZE")?;
                control.run("CHECKPOINT")?;
            }
        }
        Ok(())
    }
}

/// Fills the database of `server`, in which one challenge was answered; gives the doors of all its tenants, still without tokens.
///
/// # Errors
/// A database that does not take what it should.
pub fn fill(books: &mut Books<'_>, server: &Server, sink: SocketAddr, growth: &Growth) -> Result<Vec<Doors>> {
    let tenants = crate::runtime()?.block_on(tenants(server, sink, growth.tenants))?;
    let samples = Samples::of(books)?;
    let now = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?;
    let (first, pace) = (now - DAYS * 86_400_000, DAYS * 86_400_000);
    let time = |at: u64, of: u64| first + (u128::from(at) * u128::from(pace) / u128::from(of.max(1))) as u64;
    let whose = |at: u64| &tenants[(mixed(at, 0) % tenants.len() as u64) as usize];

    let Growth { challenges, with_events, users, .. } = *growth;
    let challenge_id = |at: u64| id(time(at, challenges), at, 1);
    let delivery_id = |at: u64| id(time(at, challenges), at, 2);
    books.insert(&CHALLENGES, challenges, "spent challenges", |at| {
        let (house, id) = (whose(at), challenge_id(at));
        let fingerprints = [mixed_id(at, 3), mixed_id(at, 4)].map(|it| it.simple().to_string());
        let body = samples.challenge.fill(&[&id.to_string(), &house.client.to_string(), &fingerprints[0], &fingerprints[1]]);
        Line { tenant: house.tenant, id, column: Uuid::nil(), body }
    })?;
    // The youngest, since they are removed by age.
    let first = challenges.saturating_sub(with_events);
    let count = challenges - first;
    books.insert(&DELIVERIES, count, "records of messages", |at| {
        let at = at + first;
        let (house, id) = (whose(at), delivery_id(at));
        Line {
            tenant: house.tenant,
            id,
            column: Uuid::nil(),
            body: samples.delivery.fill(&[&id.to_string(), &challenge_id(at).to_string()]),
        }
    })?;
    books.insert(&EVENTS, count * 3, "events", |at| {
        let (kind, at) = (at % 3, at / 3 + first);
        let (house, id) = (whose(at), id(time(at, challenges), at, 5 + kind));
        let of = if kind == 1 { delivery_id(at) } else { challenge_id(at) };
        let body = samples.events[kind as usize].fill(&[&id.to_string(), &of.to_string()]);
        Line { tenant: house.tenant, id, column: Uuid::nil(), body }
    })?;
    let user_id = |at: u64| id(time(at, users.into()), at, 8);
    books.insert(&USERS, users.into(), "people", |at| {
        let (house, id) = (whose(at), user_id(at));
        let body = samples.user.fill(&[&id.to_string(), &seed::login(u32::try_from(at + 1).unwrap_or(u32::MAX))]);
        Line { tenant: house.tenant, id, column: mixed_id(at, 9), body }
    })?;
    books.insert(&FACTORS, users.into(), "their devices", |at| {
        let (house, id, user) = (whose(at), id(time(at, users.into()), at, 10), user_id(at));
        Line { tenant: house.tenant, id, column: user, body: samples.factor.fill(&[&id.to_string(), &user.to_string()]) }
    })?;
    books.settle()?;
    Ok(tenants.into_iter().map(|it| it.door).collect())
}

/// A tenant with its client.
struct House {
    tenant: Uuid,
    client: Uuid,
    door: Doors,
}

/// Makes tenants with a client, the sink and a route each, and enrols one person for a sample.
async fn tenants(server: &Server, sink: SocketAddr, count: u32) -> Result<Vec<House>> {
    let key = std::fs::read_to_string(server.master_key()).context("reading the master key")?;
    let master = MasterKey::parse(&key).context("the key file holds no master key")?;
    let mut engine = None;
    let store: Arc<dyn Store> = match server.database() {
        Some(url) => {
            let opened = Arc::new(Postgres::open(&postgres::Options::new(Secret::new(url))).await?);
            engine = Some(opened.clone());
            opened
        }
        None => Arc::new(Sqlite::open(&server.file(), countersign_store::Options::default())?),
    };
    let core = seed::house_on(store, master);
    let first = core.tenant_named(TENANT).await?.id;
    let client = core.clients(first).await?.pop().context("the tenant has no client")?.id;
    seed::enrol(&core, &core.scope(first, client).await?, 0).await?;

    let next = Arc::new(AtomicU32::new(0));
    let mut workers = JoinSet::new();
    for _ in 0..AT_ONCE {
        let (core, next) = (core.clone(), next.clone());
        workers.spawn(async move {
            let mut made = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return Ok::<_, anyhow::Error>(made);
                }
                if number.is_multiple_of(100) {
                    progress(&format!("tenants: {number} of {count}"));
                }
                made.push(tenant(&core, sink, number).await?);
            }
        });
    }
    let mut all = Vec::new();
    while let Some(ended) = workers.join_next().await {
        all.extend(ended.map_err(anyhow::Error::from).flatten()?);
    }
    drop(core);
    if let Some(engine) = engine {
        engine.close().await;
    }
    Ok(all)
}

async fn tenant(core: &Core, sink: SocketAddr, number: u32) -> Result<House> {
    let tenant: TenantId = core.create_tenant(&format!("old-{number}"), "Old", Policy::default()).await?.id;
    let provider = NewProvider {
        name: "sink".into(),
        channels: vec![Channel::Sms],
        kind: "http".into(),
        settings: server::provider(sink),
        secrets: BTreeMap::new(),
    };
    let legs = vec![core.put_provider(tenant, provider).await?.id];
    let routes = Some(vec![Route { channel: Channel::Sms, destination: String::new(), legs }]);
    core.change_tenant(tenant, TenantChange { routes, ..TenantChange::default() }).await?;
    let new = NewClient { name: "bench".into(), client_id: None, secret: None, application: None, email_from: None };
    let (client, secret) = core.create_client(tenant, new).await?;
    let id: ClientId = client.id;
    Ok(House {
        tenant: Uuid::from_bytes(*tenant.as_bytes()),
        client: Uuid::from_bytes(*id.as_bytes()),
        door: Doors { address: sink, client_id: client.client_id, client_secret: secret.reveal().to_owned(), token: String::new() },
    })
}

/// What a server has written, with the places of what differs from row to row.
struct Samples {
    challenge: Template,
    delivery: Template,
    /// Opened, sent, passed.
    events: [Template; 3],
    user: Template,
    factor: Template,
}

impl Samples {
    fn of(books: &Books<'_>) -> Result<Self> {
        let body = |table: &str| books.ask(&format!("SELECT body FROM {table} LIMIT 1"));
        let event = |what: &str, of: &str| {
            let body = books.ask(&format!("SELECT body FROM events WHERE body LIKE '%\"what\":\"{what}\"%\"{of}\":%' LIMIT 1"))?;
            Template::of(body, &["/id", &format!("/{of}")])
        };
        let spent = books.ask("SELECT body FROM challenges WHERE body LIKE '%\"channel\":\"sms\"%\"passed\"%' LIMIT 1")?;
        let mut user = Template::of(body("users")?, &["/id"])?;
        user.mark(&seed::login(0))?;
        Ok(Self {
            challenge: Template::of(spent, &["/id", "/realm/client", "/failures/0", "/failures/1"])?,
            delivery: Template::of(body("deliveries")?, &["/id", "/challenge"])?,
            events: [event("opened", "challenge")?, event("sent", "delivery")?, event("passed", "challenge")?],
            user,
            factor: Template::of(body("factors")?, &["/id", "/user"])?,
        })
    }
}

/// A body, and where in it what differs stands.
struct Template {
    body: String,
    marks: Vec<(usize, usize)>,
}

impl Template {
    /// The texts at these places of the JSON `body` differ from row to row.
    fn of(body: String, pointers: &[&str]) -> Result<Self> {
        let value: Value = serde_json::from_str(&body)?;
        let mut template = Self { body, marks: Vec::new() };
        for pointer in pointers {
            let text = value.pointer(pointer).and_then(Value::as_str).with_context(|| format!("no {pointer} in {}", template.body))?;
            template.mark(text)?;
        }
        Ok(template)
    }

    fn mark(&mut self, text: &str) -> Result<()> {
        let at = self.body.find(text).with_context(|| format!("no {text} in {}", self.body))?;
        self.marks.push((at, text.len()));
        Ok(())
    }

    /// The body with `texts`, each of which is as long as what it stands for.
    fn fill(&self, texts: &[&str]) -> String {
        let mut body = self.body.clone();
        for ((at, length), text) in self.marks.iter().zip(texts) {
            assert_eq!(*length, text.len(), "{text} is not as long as what it stands for in {}", self.body);
            body.replace_range(*at..at + length, text);
        }
        body
    }
}

/// A number that looks like chance, and is the same on every call.
fn mixed(at: u64, salt: u64) -> u64 {
    let mut it = at.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(salt.wrapping_mul(0xd1b5_4a32_d192_ed03)).wrapping_add(0x2545_f491);
    it = (it ^ (it >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    it = (it ^ (it >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    it ^ (it >> 31)
}

fn mixed_id(at: u64, salt: u64) -> Uuid {
    Uuid::from_u64_pair(mixed(at, salt), mixed(at, salt + 100))
}

/// An id of that moment.
fn id(millis: u64, at: u64, salt: u64) -> Uuid {
    let mut bytes = [0; 10];
    bytes[..8].copy_from_slice(&mixed(at, salt).to_le_bytes());
    bytes[8..].copy_from_slice(&mixed(at, salt + 100).to_le_bytes()[..2]);
    uuid::Builder::from_unix_timestamp_millis(millis, &bytes).into_uuid()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_changes_what_is_marked_and_nothing_else() {
        let template = Template::of(r#"{"id":"aaaa","of":["bb","cc"]}"#.into(), &["/of/1", "/id"]).expect("both are there");
        assert_eq!(template.fill(&["xx", "yyyy"]), r#"{"id":"yyyy","of":["bb","xx"]}"#);
        assert!(Template::of(r#"{"id":"aaaa"}"#.into(), &["/of"]).is_err());
    }

    #[test]
    fn ids_are_ordered_by_time_and_are_all_different() {
        let ids: Vec<_> = (0..1000).map(|at| id(1_700_000_000_000 + at / 3, at, 1)).collect();
        let mut sorted = ids.clone();
        sorted.sort();
        sorted.dedup();
        assert_eq!(sorted.len(), ids.len());
        assert!(ids.windows(4).all(|it| it[0] < it[3]), "three share a millisecond, the fourth does not");
        assert_ne!(id(1, 1, 1), id(1, 1, 2));
    }
}
