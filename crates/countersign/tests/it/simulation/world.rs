//! A world: one database, some nodes with their background work, and the providers, all of them in one simulated machine room.
//!
//! Owns how a node lives and dies, and what a provider does with a message. Who calls the nodes is in [`people`](super::people).

use super::executor::{Hands, Owner, START_MS, Sim, Skewed, Slot, within};
use super::store::{Base, Wire};
use super::weather::Weather;
use countersign_core::nouns::provider::ProviderSettings;
use countersign_core::ports::{Carriers, CheckError, Pen, Pending, Provider, Receipt, SendError, Sends, Verifies};
use countersign_core::words::address::Address;
use countersign_core::words::id::DeliveryId;
use countersign_core::words::secret::{MasterKey, Offered, Secret};
use countersign_core::words::time::Timestamp;
use countersign_core::words::wording::{Message, Values, Wording};
use countersign_core::{Core, Neighbours};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The longest rest of a delivery loop whose store is away, as in the binary.
const LONGEST_REST: Duration = Duration::from_secs(10);

#[derive(Clone)]
pub struct World {
    pub sim: Sim,
    pub weather: Arc<Weather>,
    pub base: Base,
    master: MasterKey,
    nodes: Arc<Mutex<Vec<Option<Life>>>>,
    lives: Arc<Mutex<u64>>,
}

/// One life of a node.
#[derive(Clone)]
pub struct Life {
    pub owner: Owner,
    pub core: Core,
}

impl World {
    pub fn new(seed: u64, weather: fn(&Sim) -> Weather) -> Self {
        let sim = Sim::new(seed, Timestamp::from_millis(START_MS));
        let weather = Arc::new(weather(&sim));
        let base = Base::new(sim.clone(), weather.clone());
        let master = MasterKey::draw(&sim);
        let nodes = Arc::new(Mutex::new(vec![None; weather.nodes]));
        let world = Self { sim, weather, base, master, nodes, lives: Arc::default() };
        (0..world.weather.nodes).for_each(|node| world.starts(node));
        world
    }

    /// A node that is up, if the chosen one is.
    pub fn life(&self, node: usize) -> Option<Life> {
        self.nodes.lock().unwrap()[node].clone()
    }

    pub fn any_node(&self) -> usize {
        usize::try_from(self.sim.below(self.weather.nodes as u64)).unwrap()
    }

    /// A node begins to live, with a clock that is a little wrong in its own way.
    pub fn starts(&self, node: usize) {
        let life = {
            let mut lives = self.lives.lock().unwrap();
            *lives += 1;
            *lives
        };
        let owner = Owner::Life(life);
        let skew = i64::try_from(self.sim.below(2 * self.weather.skew_ms + 1)).unwrap() - i64::try_from(self.weather.skew_ms).unwrap();
        self.sim.note(format_args!("node {node} starts (life {life}), its clock is {skew} ms off"));
        let core = Core::new(Neighbours {
            store: Arc::new(Wire::new(self.base.clone(), node, owner)),
            clock: Arc::new(Skewed { sim: self.sim.clone(), by_ms: skew }),
            chance: Arc::new(self.sim.clone()),
            tasks: Arc::new(Hands { sim: self.sim.clone(), owner }),
            carriers: Arc::new(Companies { world: self.clone(), node }),
            pen: Arc::new(Plain),
            master: self.master.clone(),
        });
        self.nodes.lock().unwrap()[node] = Some(Life { owner, core: core.clone() });
        self.sim.spawn(owner, deliver(self.clone(), node, core.clone(), skew));
        self.sim.spawn(owner, sweep(self.clone(), core));
    }

    /// A node dies, and everything that was in its memory with it.
    pub fn dies(&self, node: usize) {
        let Some(life) = self.nodes.lock().unwrap()[node].take() else { return };
        self.sim.note(format_args!("node {node} dies"));
        self.base.book().laws.counts.crashes += 1;
        self.sim.kill(life.owner);
    }

    /// Somebody does something, which is when things like to go wrong.
    pub fn stirs(&self) {
        let node = self.any_node();
        if self.weather.is_hit(self.weather.crashes) {
            let (world, sim) = (self.clone(), self.sim.clone());
            let (soon, down) = (sim.span(0, sim.one_of(&[300, 3_000, 25_000])), sim.span(10, 60_000));
            sim.clone().spawn(Owner::World, async move {
                sim.sleep(soon).await;
                if world.life(node).is_none() {
                    return;
                }
                world.dies(node);
                sim.sleep(down).await;
                if world.life(node).is_none() {
                    world.starts(node);
                }
            });
        }
        if self.weather.is_hit(self.weather.outages) {
            let which = self.weather.is_hit(self.weather.partial_outages).then_some(node);
            let hangs = self.weather.is_hit(self.weather.hanging_outages);
            let (world, sim) = (self.clone(), self.sim.clone());
            let soon = sim.span(0, sim.one_of(&[300, 3_000, 25_000]));
            sim.clone().spawn(Owner::World, async move {
                sim.sleep(soon).await;
                world.base.goes_out(which, Duration::from_secs(20), hangs);
            });
        }
    }
}

/// The delivery loop, as the binary runs it. It skips the rounds that would find nothing, which nobody can tell from outside.
async fn deliver(world: World, node: usize, core: Core, skew_ms: i64) {
    let (sim, pause) = (world.sim.clone(), Duration::from_millis(world.weather.idle_pause_ms));
    let mut troubles = 0;
    loop {
        match core.deliver_due().await {
            Ok(0) => {
                troubles = 0;
                let due = world.base.book().table.next_due();
                // Seen from the truth: a clock that is ahead finds it due earlier.
                let due = due.map(|due| Timestamp::from_millis(due.as_millis() - skew_ms));
                let rest = due.map_or(Duration::from_secs(86_400), |due| due.since(sim.now()));
                if world.base.is_out(node) || rest <= pause {
                    sim.sleep(pause).await;
                } else {
                    within(world.base.rung(), sim.sleep(rest)).await;
                }
            }
            Ok(_) => troubles = 0,
            Err(why) => {
                sim.note(format_args!("the loop of node {node} rests: {why}"));
                troubles += 1;
                sim.sleep((pause * 2u32.pow(troubles.min(16))).min(LONGEST_REST)).await;
            }
        }
    }
}

async fn sweep(world: World, core: Core) {
    loop {
        world.sim.sleep(world.sim.span(3_600_000, 7_200_000)).await;
        let _ = core.sweep().await;
    }
}

struct Plain;

impl Pen for Plain {
    fn write(&self, wording: &Wording, values: &Values<'_>) -> Result<Wording, String> {
        let fill = |text: &String| text.replace("{{ code }}", values.code.reveal());
        Ok(Wording { subject: wording.subject.as_ref().map(fill), text: fill(&wording.text), html: None })
    }
}

// ------------------------------------------------------------------------------------------------------------ providers

/// The kind of a provider that makes codes and checks them.
pub const CHECKS: &str = "checks";

/// The providers, as one node reaches them.
struct Companies {
    world: World,
    node: usize,
}

impl Carriers for Companies {
    fn build(&self, settings: &ProviderSettings, _: BTreeMap<String, Secret>) -> Result<Provider, String> {
        let company = Box::new(Company { world: self.world.clone(), node: self.node, name: settings.name.clone() });
        Ok(if settings.kind == CHECKS { Provider::Verifies(company) } else { Provider::Sends(company) })
    }
}

struct Company {
    world: World,
    node: usize,
    name: String,
}

/// As long as it lives, its node is sending.
struct Sending {
    world: World,
    node: usize,
    id: DeliveryId,
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.world.base.book().laws.stops_sending(self.node, self.id);
    }
}

#[derive(Debug, Clone, Copy)]
enum Fate {
    Takes,
    TakesSilently,
    Refuses,
    Unreachable,
    Unavailable,
    Hangs,
}

impl Company {
    fn fate(&self) -> Fate {
        let weather = &self.world.weather;
        let fates = [
            (weather.refuses, Fate::Refuses),
            (weather.unreachable, Fate::Unreachable),
            (weather.unavailable, Fate::Unavailable),
            (weather.hangs, Fate::Hangs),
            (weather.takes_silently, Fate::TakesSilently),
        ];
        fates.into_iter().find(|(often, _)| weather.is_hit(*often)).map_or(Fate::Takes, |(_, fate)| fate)
    }
}

impl Company {
    /// Hands something over: words of ours, or the wish for a code of theirs.
    fn takes(&self, id: DeliveryId, words: Option<Arc<Message>>) -> Pending<'static, Result<Receipt, SendError>> {
        let (world, sim, node) = (self.world.clone(), self.world.sim.clone(), self.node);
        let weather = world.weather.clone();
        {
            let mut book = world.base.book();
            let book = &mut *book;
            book.laws.sends(&book.table, node, id, words.as_ref());
        }
        let fate = self.fate();
        sim.note(format_args!("node {node} sends {id} by {}: {fate:?}", self.name));
        let sending = Sending { world: world.clone(), node, id };
        let most = if weather.is_hit(weather.provider_slow) { 30_000 } else { weather.provider_ms };
        let (there, back) = (sim.span(0, most / 2), sim.span(0, most / 2));
        let answer = Slot::default();
        let told = answer.clone();
        let code = format!("{:04}", sim.below(10_000));
        // On its way it is the network's: that the node has stopped to wait does not call it back.
        sim.spawn(Owner::World, async move {
            let sim = &world.sim;
            sim.sleep(there).await;
            let mut receipt = "r-1".to_owned();
            if matches!(fate, Fate::Takes | Fate::TakesSilently) {
                sim.note(format_args!("{id} is carried"));
                let laws = &mut world.base.book().laws;
                laws.carried(id);
                if words.is_none() {
                    receipt = laws.made(id, code);
                }
            }
            sim.sleep(back).await;
            told.put(match fate {
                Fate::Takes => Ok(Receipt(Some(receipt))),
                Fate::Refuses => Err(SendError::Refused("status 400".into())),
                Fate::Unreachable => Err(SendError::NoSuchAddress("status 404".into())),
                Fate::Unavailable => {
                    let retry_after = sim.one_of(&[None, None, Some(Duration::from_secs(3)), Some(Duration::from_secs(40))]);
                    Err(SendError::Unavailable { why: "status 503".into(), retry_after })
                }
                Fate::TakesSilently => {
                    world.base.book().laws.counts.lost_receipts += 1;
                    Err(SendError::Unavailable { why: "the connection broke".into(), retry_after: None })
                }
                Fate::Hangs => return,
            });
        });
        Box::pin(async move {
            let _sending = sending;
            answer.await
        })
    }
}

impl Sends for Company {
    fn send(&self, id: DeliveryId, message: Arc<Message>) -> Pending<'static, Result<Receipt, SendError>> {
        self.takes(id, Some(message))
    }

    fn probe(&self) -> Pending<'static, Result<String, SendError>> {
        Box::pin(async { Ok("there".into()) })
    }
}

impl Verifies for Company {
    fn start(&self, id: DeliveryId, _: Address) -> Pending<'static, Result<Receipt, SendError>> {
        self.takes(id, None)
    }

    fn check(&self, receipt: Receipt, _: Address, offered: Offered) -> Pending<'static, Result<bool, CheckError>> {
        let (world, sim, node) = (self.world.clone(), self.world.sim.clone(), self.node);
        let weather = world.weather.clone();
        let (receipt, code) = (receipt.0.expect("it says one"), offered.code.reveal().to_owned());
        {
            let mut book = world.base.book();
            let book = &mut *book;
            book.laws.asks(&book.table, &receipt);
        }
        let fate = self.fate();
        sim.note(format_args!("node {node} asks about {receipt}: {fate:?}"));
        let most = if weather.is_hit(weather.provider_slow) { 30_000 } else { weather.provider_ms };
        let (there, back) = (sim.span(0, most / 2), sim.span(0, most / 2));
        let answer = Slot::default();
        let told = answer.clone();
        // It judges whether or not somebody still waits for it.
        sim.spawn(Owner::World, async move {
            let sim = &world.sim;
            sim.sleep(there).await;
            if let Fate::Unavailable = fate {
                world.base.book().laws.was_not_asked(&receipt);
                return told.put(Err(CheckError::NotAsked("no connection".into())));
            }
            let is_right = world.base.book().laws.judges(&receipt, &code);
            sim.note(format_args!("{receipt} is judged: {is_right}"));
            sim.sleep(back).await;
            told.put(match fate {
                Fate::Takes => Ok(is_right),
                Fate::Refuses | Fate::Unreachable | Fate::TakesSilently => Err(CheckError::NoVerdict("the connection broke".into())),
                Fate::Unavailable | Fate::Hangs => return,
            });
        });
        Box::pin(answer)
    }

    fn probe(&self) -> Pending<'static, Result<String, SendError>> {
        Box::pin(async { Ok("there".into()) })
    }
}
