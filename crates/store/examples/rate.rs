//! How many decisions per second the embedded engine makes, and what each of them costs.
//!
//! `cargo run --release -p countersign-store --example rate -- [tasks=64] [ops=300000] [tenants=1] [before=0] [random=0] [path=FILE]`
//!
//! Opens `ops` challenges as a request does (two counts of sends, a look at the failures, challenge, delivery, event; then the
//! delivery is over, with another event), and verifies each of them once. `before` spent challenges are there already.

use countersign_core::nouns::challenge::{Challenge, Evidence, Proof, Purpose, Stage};
use countersign_core::nouns::delivery::{Delivery, DeliveryStage, Order};
use countersign_core::nouns::event::{Event, What};
use countersign_core::nouns::limit::{Count, Limit, Sends};
use countersign_core::nouns::tenant::Policy;
use countersign_core::nouns::user::Realm;
use countersign_core::ports::test::Script;
use countersign_core::ports::{Change, Key, Outcome, Record, Step, Store};
use countersign_core::words::address::{Address, Channel, Fingerprint, Login, PhoneNumber};
use countersign_core::words::id::{ChallengeId, ClientId, DeliveryId, EventId, KeyId, ProviderId, TenantId};
use countersign_core::words::secret::{Mac, MasterKey, Place, Sealed, TenantKeys, WrappedKey};
use countersign_core::words::time::Timestamp;
use countersign_store::{Options, Sqlite};
use std::num::NonZeroU8;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

type Bad = Box<dyn std::error::Error + Send + Sync>;

/// The moment of the `index`th operation, at 20,000 a second.
fn at(index: u64) -> Timestamp {
    Timestamp::from_millis(1_893_499_200_000 + i64::try_from(index / 20).expect("a small number"))
}

struct World {
    store: Sqlite,
    chance: Script,
    tenants: Vec<TenantId>,
    client: ClientId,
    provider: ProviderId,
    order: Sealed,
    message: Sealed,
    mac: Mac,
    policy: Policy,
}

/// What is drawn for one request.
#[derive(Clone, Copy)]
struct Asked {
    tenant: TenantId,
    challenge: ChallengeId,
    delivery: DeliveryId,
    failures: Fingerprint,
}

impl World {
    fn new(store: Sqlite, tenants: u64) -> Result<Self, Bad> {
        let chance = Script::default();
        let tenant = TenantId::new(at(0), &chance);
        let master = MasterKey::draw(&chance);
        let key = WrappedKey::draw(tenant, KeyId::new(at(0), &chance), &master, &chance);
        let keys = TenantKeys::open(tenant, &[key], &master)?;
        let place = Place { noun: "delivery", id: tenant.as_bytes(), field: "order" };
        let order = Order {
            to: Address::Phone(PhoneNumber::parse("+918212345212", None)?),
            login: Login::parse("j.doe@example.com")?,
            template: None,
        };
        Ok(Self {
            order: keys.seal(place, &serde_json::to_vec(&order)?, &chance),
            message: keys.seal(place, &[b'x'; 250], &chance),
            mac: keys.code(ChallengeId::new(at(0), &chance), "523471"),
            tenants: (0..tenants).map(|_| TenantId::new(at(0), &chance)).collect(),
            client: ClientId::new(at(0), &chance),
            provider: ProviderId::new(at(0), &chance),
            policy: Policy::default(),
            store,
            chance,
        })
    }

    fn draw(&self, index: u64) -> Asked {
        let mut of = [0; 16];
        countersign_core::ports::Chance::fill(&self.chance, &mut of);
        Asked {
            tenant: self.tenants[usize::from(u16::from_be_bytes([of[0], of[1]])) % self.tenants.len()],
            challenge: ChallengeId::new(at(index), &self.chance),
            delivery: DeliveryId::new(at(index), &self.chance),
            failures: Fingerprint::from_bytes(of),
        }
    }

    fn event(&self, index: u64, what: What) -> Event {
        Event { id: EventId::new(at(index), &self.chance), at: at(index), what }
    }

    fn challenge(&self, asked: Asked, index: u64) -> Challenge {
        Challenge {
            id: asked.challenge,
            realm: Realm::Client(self.client),
            channel: Channel::Sms,
            failures: vec![asked.failures],
            purpose: Purpose::Authenticate,
            stage: Stage::Open {
                attempts_left: NonZeroU8::new(3).expect("three"),
                expires_at: at(index) + Duration::from_secs(300),
                proof: Proof::Code { mac: self.mac, delivery: asked.delivery },
            },
        }
    }

    async fn request(&self, asked: Asked, index: u64) -> Result<(), Bad> {
        let challenge = self.challenge(asked, index);
        let stage = DeliveryStage::Queued { due_at: at(index) + Duration::from_secs(30), attempt: 1, message: self.message.clone() };
        let delivery = Delivery { id: asked.delivery, challenge: asked.challenge, channel: Channel::Sms, order: self.order.clone(), stage };
        let opened = self.event(index, What::Opened { challenge: asked.challenge, channel: Channel::Sms });
        let (policy, now) = (self.policy.clone(), at(index));
        let mut of = *asked.failures.as_bytes();
        of[15] ^= 1;
        let person = Fingerprint::from_bytes(of);
        of[15] ^= 2;
        let address = Fingerprint::from_bytes(of);
        let judge = Box::new(move |seen: &mut countersign_core::ports::Seen| {
            let mut change = Change::none();
            for of in [person, address] {
                let (version, before) = match seen.limit(of) {
                    Some(held) => (Some(held.version), Some(held.noun.count)),
                    None => (None, None),
                };
                let before = before.and_then(|it| if let Count::Sends(it) = it { Some(it) } else { None });
                let (sends, _) = Sends::take(before, now, &policy);
                change = change.put(Record::Limit(Limit { of, count: Count::Sends(sends) }), version);
            }
            let change = change.insert(Record::Challenge(challenge.clone())).insert(Record::Delivery(delivery.clone()));
            Step::Write(change.tell(opened.clone()))
        });
        let first = vec![Key::Limit(person), Key::Limit(address), Key::Limit(asked.failures)];
        done(self.store.decide(asked.tenant, first, judge).await?)
    }

    async fn sent(&self, asked: Asked, index: u64) -> Result<(), Bad> {
        let (provider, now) = (self.provider, at(index));
        let sent = self.event(index, What::Sent { delivery: asked.delivery, provider });
        let judge = Box::new(move |seen: &mut countersign_core::ports::Seen| {
            let held = seen.delivery(asked.delivery).expect("was queued");
            let over = held.noun.over(DeliveryStage::Sent { at: now, provider, receipt: Some("0C000000B5C1E1A2".into()) });
            Step::Write(Change::none().replace(Record::Delivery(over), held.version).tell(sent.clone()))
        });
        done(self.store.decide(asked.tenant, vec![Key::Delivery(asked.delivery)], judge).await?)
    }

    async fn verify(&self, asked: Asked, index: u64) -> Result<(), Bad> {
        let (evidence, now) = (Evidence::Code(self.mac), at(index));
        let passed = self.event(index, What::Passed { challenge: asked.challenge });
        let judge = Box::new(move |seen: &mut countersign_core::ports::Seen| {
            let held = seen.challenge(asked.challenge).expect("was opened");
            assert!(seen.limit(asked.failures).is_none());
            let (next, _) = held.noun.answer(&evidence, now);
            Step::Write(Change::none().replace(Record::Challenge(next), held.version).tell(passed.clone()))
        });
        done(self.store.decide(asked.tenant, vec![Key::Challenge(asked.challenge), Key::Limit(asked.failures)], judge).await?)
    }

    async fn spent(&self, asked: Asked, index: u64) -> Result<(), Bad> {
        let challenge = self.challenge(asked, index).spent(at(index));
        let judge =
            Box::new(move |_: &mut countersign_core::ports::Seen| Step::Write(Change::none().insert(Record::Challenge(challenge.clone()))));
        done(self.store.decide(asked.tenant, vec![], judge).await?)
    }
}

fn done(outcome: Outcome) -> Result<(), Bad> {
    if outcome == Outcome::Done { Ok(()) } else { Err("nothing happened".into()) }
}

/// CPU time of each thread of this process by name, in seconds.
fn cpu() -> Vec<(String, f64)> {
    let mut all: Vec<(String, f64)> = Vec::new();
    for task in std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let text = |name: &str| std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
        let ns: f64 = text("schedstat").split(' ').next().and_then(|it| it.parse().ok()).unwrap_or_default();
        let name = text("comm").trim().to_owned();
        match all.iter_mut().find(|(it, _)| *it == name) {
            Some((_, sum)) => *sum += ns / 1e9,
            None => all.push((name, ns / 1e9)),
        }
    }
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

/// Runs `one` for every index, from `tasks` callers, each of whom waits for its answer before it asks again.
async fn run<F>(
    world: &Arc<World>,
    name: &str,
    tasks: u64,
    ops: u64,
    one: impl Fn(Arc<World>, u64) -> F + Clone + Send + Sync + 'static,
) -> Result<(), Bad>
where
    F: Future<Output = Result<(), Bad>> + Send + 'static,
{
    if ops == 0 {
        return Ok(());
    }
    let next = Arc::new(AtomicU64::new(0));
    let (before, stats, begun) = (cpu(), world.store.stats(), Instant::now());
    let callers: Vec<_> = (0..tasks)
        .map(|_| {
            let (world, next, one) = (world.clone(), next.clone(), one.clone());
            tokio::spawn(async move {
                let mut waits = Vec::new();
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= ops {
                        return Ok::<_, Bad>(waits);
                    }
                    let asked = Instant::now();
                    one(world.clone(), index).await?;
                    waits.push(asked.elapsed());
                }
            })
        })
        .collect();
    let mut waits = Vec::new();
    for caller in callers {
        waits.extend(caller.await??);
    }
    let took = begun.elapsed().as_secs_f64();
    let after = world.store.stats();
    waits.sort_unstable();
    let share = |of: f64| waits[((waits.len() - 1) as f64 * of) as usize].as_micros();
    let each: Vec<String> = cpu()
        .into_iter()
        .map(|(name, sum)| (sum - before.iter().find(|(it, _)| *it == name).map_or(0.0, |(_, sum)| *sum), name))
        .filter(|(sum, _)| *sum > 0.0)
        .map(|(sum, name)| format!("{name} {:.1}", sum * 1e6 / ops as f64))
        .collect();
    let commits = after.commits - stats.commits;
    println!(
        "{name:8} {:>7.0}/s  p50 {:>5} us  p99 {:>6} us  max {:>6} us  batch {:>5.1}  commit {:>4.0} us  log {:>3} MiB  CPU us each: {}",
        ops as f64 / took,
        share(0.5),
        share(0.99),
        share(1.0),
        (after.jobs - stats.jobs) as f64 / commits as f64,
        (after.commit_time - stats.commit_time).as_micros() as f64 / commits as f64,
        after.wal_bytes >> 20,
        each.join(", ")
    );
    Ok(())
}

fn main() -> Result<(), Bad> {
    let given: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| given.iter().find_map(|it| it.strip_prefix(name)?.strip_prefix('='));
    let number = |name: &str, or: u64| value(name).map_or(Ok(or), str::parse);
    let (tasks, ops) = (number("tasks", 64)?, number("ops", 300_000)?);
    let (tenants, before, random) = (number("tenants", 1)?, number("before", 0)?, number("random", 0)? > 0);
    let own = std::env::temp_dir().join(format!("countersign-rate-{}", std::process::id()));
    let path = match value("path") {
        Some(path) => PathBuf::from(path),
        None => {
            std::fs::create_dir_all(&own)?;
            own.join("rate.db")
        }
    };
    let world = Arc::new(World::new(Sqlite::open(&path, Options::default())?, tenants)?);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        run(&world, "spent", 512, before, |world, index| async move {
            let asked = world.draw(index);
            world.spent(asked, index).await
        })
        .await?;
        let asked: Arc<Vec<Asked>> = Arc::new((before..before + ops).map(|index| world.draw(index)).collect());
        let all = asked.clone();
        run(&world, "request", tasks, ops, move |world, index| {
            let asked = all[index as usize];
            async move {
                world.request(asked, before + index).await?;
                world.sent(asked, before + index).await
            }
        })
        .await?;
        run(&world, "verify", tasks, ops, move |world, index| {
            // A large odd number visits every place once, in no order that a cache could use.
            let place = if random { index.wrapping_mul(2_654_435_761) % ops } else { index };
            let asked = asked[place as usize];
            async move { world.verify(asked, before + ops + index).await }
        })
        .await
    })?;
    println!("{:?}", world.store.stats());
    world.store.close();
    println!("file {} MiB", path.metadata()?.len() >> 20);
    if own.exists() {
        std::fs::remove_dir_all(own)?;
    }
    Ok(())
}
