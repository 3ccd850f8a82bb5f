//! Who lives in a world: people who ask for codes and type them, right and wrong, those who try what is not theirs, and an
//! administrator.
//!
//! Owns the scenes. Callers know nothing but what they were told; whether that was lawful is judged in [`laws`](super::laws) when it is told.

use super::executor::{Owner, Sim, Slot, within};
use super::laws::{Asked, Told};
use super::world::{CHECKS, World};
use crate::house::{another, data, email, sms};
use countersign_core::nouns::route::Route;
use countersign_core::nouns::sign_in::{Baggage, Finishes};
use countersign_core::nouns::tenant::Policy;
use countersign_core::nouns::totp;
use countersign_core::verbs::manage::{NewClient, NewProvider, TenantChange};
use countersign_core::verbs::request::{Ask, Requested};
use countersign_core::verbs::sign_in::NewSignIn;
use countersign_core::verbs::verify::Answered;
use countersign_core::words::address::{Address, Channel, Fingerprint, Login, PhoneNumber};
use countersign_core::words::id::{ChallengeId, ClientId, TenantId};
use countersign_core::words::refusal::Error;
use countersign_core::words::secret::{Offered, Secret};
use countersign_core::{Core, Scope};
use std::collections::BTreeMap;
use std::num::NonZeroU8;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// An application that calls: its tenant and itself.
#[derive(Debug, Clone)]
pub struct Door {
    tenant: TenantId,
    client: ClientId,
    client_id: String,
}

/// A person, as one application knows them.
#[derive(Clone)]
struct Person {
    door: Door,
    name: String,
    number: String,
    letter: String,
    /// The seeds of the person's authenticators, by name of the device.
    seeds: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    /// The challenges that the person was told of, newest last.
    open: Arc<Mutex<Vec<ChallengeId>>>,
}

/// What a caller asks of a node.
#[derive(Debug, Clone)]
enum Op {
    Code { login: String, by: Channel, to: String },
    Totp { login: String, device: String },
    Answer { id: ChallengeId, answer: String, device: Option<String> },
    Resend { id: ChallengeId },
    Activate { login: String, id: ChallengeId, answer: String, device: String },
    Enroll { login: String, device: String },
    Remove { login: String, device: String },
    Unlock { login: String, channel: Channel, number: String },
    ForeignAnswer { id: ChallengeId, answer: String },
    ForeignResend { id: ChallengeId },
    Begin { login: String, finishes: Finishes },
    Challenge { login: String, token: Secret },
    Prove { login: String, token: Secret, finishes: Finishes, answer: String },
    ForeignProve { token: Secret, finishes: Finishes, answer: String },
    End { token: Secret },
}

impl Op {
    fn name(&self) -> &'static str {
        match self {
            Self::Code { .. } => "requests",
            Self::Totp { .. } => "totp requests",
            Self::Answer { .. } => "answers",
            Self::Resend { .. } => "resends",
            Self::Activate { .. } => "activations",
            Self::Enroll { .. } => "enrolments",
            Self::Remove { .. } => "removals",
            Self::Unlock { .. } => "unlocks",
            Self::ForeignAnswer { .. } | Self::ForeignResend { .. } | Self::ForeignProve { .. } => "foreign",
            Self::Begin { .. } => "sign-ins",
            Self::Challenge { .. } => "sign-in codes",
            Self::Prove { .. } => "sign-in answers",
            Self::End { .. } => "sign-in ends",
        }
    }
}

/// What comes back, if anything does.
#[derive(Debug, Clone)]
enum Reply {
    Challenge(ChallengeId),
    Enrolling(ChallengeId, Vec<u8>),
    Begun(Secret),
    Answered,
    No,
}

/// Furnishes the house: two tenants, three applications.
pub async fn furnish(core: &Core, sim: &Sim) -> Vec<Door> {
    let mut doors = Vec::new();
    for (name, clients) in [("north", 2), ("south", 1)] {
        let policy = Policy {
            attempts: NonZeroU8::new(sim.one_of(&[1, 3, 5])).unwrap(),
            code_lifetime_s: sim.one_of(&[60, 300, 600]),
            lock_s: sim.one_of(&[60, 1800]),
            attempts_in_a_row: sim.one_of(&[9, 100]),
            answer_within_s: sim.one_of(&[2, 10, 30]),
            sends: sim.one_of(&[5, 10, 100]),
            keep_days: 1,
            ..Policy::default()
        };
        let tenant = core.create_tenant(name, name, policy).await.unwrap();
        let mut legs = Vec::new();
        for name in ["first", "second"] {
            let new = NewProvider {
                name: name.into(),
                channels: Channel::CARRIED.to_vec(),
                kind: "simulated".into(),
                settings: serde_json::Value::Null,
                secrets: BTreeMap::new(),
            };
            legs.push(core.put_provider(tenant.id, new).await.unwrap().id);
        }
        let mut routes = Channel::CARRIED.map(|channel| Route { channel, destination: String::new(), legs: legs.clone() }).to_vec();
        // In the north the providers make the codes and check them, in the south we do.
        let mut legs = Vec::new();
        for leg in ["third", "fourth"] {
            let new = NewProvider {
                name: leg.into(),
                channels: vec![Channel::External],
                kind: if name == "north" { CHECKS } else { "simulated" }.into(),
                settings: serde_json::Value::Null,
                secrets: BTreeMap::new(),
            };
            legs.push(core.put_provider(tenant.id, new).await.unwrap().id);
        }
        routes.push(Route { channel: Channel::External, destination: String::new(), legs });
        core.change_tenant(tenant.id, TenantChange { routes: Some(routes), ..TenantChange::default() }).await.unwrap();
        for at in 0..clients {
            let new = NewClient { name: format!("App {at}"), client_id: None, secret: None, application: None, email_from: None };
            let (client, _) = core.create_client(tenant.id, new).await.unwrap();
            doors.push(Door { tenant: tenant.id, client: client.id, client_id: client.client_id });
        }
    }
    doors
}

/// The people of `doors`, at work until each has had `scenes` scenes.
pub fn move_in(world: &World, doors: &[Door], scenes: u64) -> Vec<Slot<()>> {
    let names = ["jdoe", "Ärwin@Example.com", "eve"];
    let mut done = Vec::new();
    let mut all = Vec::new();
    for (at, door) in doors.iter().enumerate() {
        for (who, name) in names.iter().enumerate() {
            all.push(Person {
                door: door.clone(),
                name: (*name).into(),
                // The last two of them share a telephone.
                number: format!("+4420794600{}{}", at, who.min(1)),
                letter: format!("{who}-{at}@example.com"),
                seeds: Arc::default(),
                open: Arc::default(),
            });
        }
    }
    let everyone = Arc::new(all.clone());
    for person in all {
        let (slot, everyone, world) = (Slot::default(), everyone.clone(), world.clone());
        done.push(slot.clone());
        let sim = world.sim.clone();
        sim.spawn(Owner::World, async move {
            for _ in 0..scenes {
                let gap = world.sim.one_of(&[1_000, 30_000, 600_000, 7_200_000, 86_400_000, 259_200_000]);
                world.sim.sleep(world.sim.span(1, gap)).await;
                scene(&world, &person, &everyone).await;
            }
            slot.put(());
        });
    }
    done
}

/// One thing that a person does, from beginning to end.
async fn scene(world: &World, me: &Person, everyone: &[Person]) {
    let sim = &world.sim;
    match sim.below(28) {
        20.. => signs_in(world, me, everyone).await,
        0..=11 => by_code(world, me, everyone).await,
        12..=14 => by_authenticator(world, me).await,
        15 => enrols(world, me).await,
        16 => {
            let channel = sim.one_of(&[Channel::Sms, Channel::Email, Channel::Totp, Channel::External]);
            call(world, me, Op::Unlock { login: spelled(sim, &me.name), channel, number: me.number.clone() }).await;
        }
        17 => {
            if let Some(device) = a_device(sim, me) {
                call(world, me, Op::Remove { login: spelled(sim, &me.name), device }).await;
            }
        }
        _ => old_challenges(world, me).await,
    }
}

async fn by_code(world: &World, me: &Person, everyone: &[Person]) {
    let sim = &world.sim;
    let (by, to) = if sim.below(2) == 0 { (Channel::Sms, me.number.clone()) } else { (Channel::Email, me.letter.clone()) };
    let request = Op::Code { login: spelled(sim, &me.name), by, to };
    let Some(Reply::Challenge(id)) = call(world, me, request).await else { return };
    me.open.lock().unwrap().push(id);
    for _ in 0..1 + sim.below(5) {
        sim.sleep(sim.span(0, sim.one_of(&[50, 3_000, 40_000, 200_000]))).await;
        let code = world.base.book().laws.code_of(id);
        let right = code.clone().unwrap_or_else(|| guess(sim));
        let wrong = code.map_or_else(|| guess(sim), |code| another(&code));
        match sim.below(12) {
            0..=2 => answer(world, me, id, right).await,
            3..=5 => answer(world, me, id, wrong).await,
            6 => {
                // Several at once, on whichever nodes: at most one is accepted.
                let answers = [right.clone(), wrong, right.clone(), right];
                let calls: Vec<_> = answers.into_iter().map(|it| ring(world, me, with_code(id, it))).collect();
                for call in calls {
                    call.await;
                }
            }
            7 => {
                // A resend while the answer is on its way.
                let resend = ring(world, me, Op::Resend { id });
                answer(world, me, id, right).await;
                resend.await;
            }
            8..=9 => _ = call(world, me, Op::Resend { id }).await,
            10 => {
                let old = world.base.book().laws.first_code_of(id).unwrap_or(right);
                answer(world, me, id, old).await;
            }
            _ => {
                let strangers: Vec<_> = everyone.iter().filter(|it| it.door.client != me.door.client).cloned().collect();
                let stranger = sim.one_of(&strangers);
                let op = if sim.below(2) == 0 { Op::ForeignAnswer { id, answer: right } } else { Op::ForeignResend { id } };
                call(world, &stranger, op).await;
            }
        }
    }
}

/// A person who has shown a first factor goes on with the second, or activates one.
async fn signs_in(world: &World, me: &Person, everyone: &[Person]) {
    let sim = &world.sim;
    let finishes = sim.one_of(&[Finishes::Login, Finishes::Login, Finishes::Activation]);
    let begin = Op::Begin { login: spelled(sim, &me.name), finishes };
    let Some(Reply::Begun(token)) = call(world, me, begin.clone()).await else { return };
    // Now and then from two places at once.
    let second = match sim.below(3) {
        0 => call(world, me, begin).await,
        _ => None,
    };
    let mut tokens = vec![token];
    if let Some(Reply::Begun(token)) = second {
        tokens.push(token);
    }
    for _ in 0..1 + sim.below(6) {
        sim.sleep(sim.span(0, sim.one_of(&[50, 3_000, 40_000, 200_000]))).await;
        let token = sim.one_of(&tokens);
        let code = world.base.book().laws.code_of_sign_in(&token);
        let right = code.clone().unwrap_or_else(|| guess(sim));
        let wrong = code.map_or_else(|| guess(sim), |code| another(&code));
        let prove = |answer: &String| Op::Prove { login: me.name.clone(), token: token.clone(), finishes, answer: answer.clone() };
        let challenge = Op::Challenge { login: spelled(sim, &me.name), token: token.clone() };
        match sim.below(12) {
            0..=2 => _ = call(world, me, prove(&right)).await,
            3..=5 => _ = call(world, me, prove(&wrong)).await,
            6..=7 => {
                // Several at once, on whichever nodes and in whichever sign-in: at most one of each is accepted.
                let mut calls: Vec<_> = [&right, &wrong, &right, &wrong].map(|it| ring(world, me, prove(it))).into();
                for other in &tokens {
                    let op = Op::Prove { login: me.name.clone(), token: other.clone(), finishes, answer: wrong.clone() };
                    calls.push(ring(world, me, op));
                }
                for call in calls {
                    call.await;
                }
            }
            8 => {
                // Another code while the answer is on its way, and another one still.
                let calls = [ring(world, me, challenge.clone()), ring(world, me, prove(&right)), ring(world, me, challenge)];
                for call in calls {
                    call.await;
                }
            }
            9 => _ = call(world, me, challenge).await,
            10 if sim.below(3) == 0 => _ = call(world, me, Op::End { token }).await,
            _ => {
                let strangers: Vec<_> =
                    everyone.iter().filter(|it| it.door.client != me.door.client || it.name != me.name).cloned().collect();
                let stranger = sim.one_of(&strangers);
                let op = Op::ForeignProve { token, finishes, answer: right };
                call(world, &stranger, op).await;
            }
        }
    }
}

async fn enrols(world: &World, me: &Person) {
    let sim = &world.sim;
    let device = sim.one_of(&["phone", "key"]).to_owned();
    let enroll = Op::Enroll { login: spelled(sim, &me.name), device: device.clone() };
    let Some(Reply::Enrolling(id, seed)) = call(world, me, enroll).await else { return };
    me.seeds.lock().unwrap().insert(device.clone(), seed.clone());
    for _ in 0..1 + sim.below(3) {
        sim.sleep(sim.span(0, sim.one_of(&[2_000, 60_000]))).await;
        let right = totp::hotp(&seed, totp::step_at(sim.now()));
        let answer = if sim.below(3) == 0 { another(&right) } else { right };
        let op = Op::Activate { login: spelled(sim, &me.name), id, answer, device: device.clone() };
        let calls: Vec<_> = (0..1 + sim.below(2)).map(|_| ring(world, me, op.clone())).collect();
        for call in calls {
            call.await;
        }
    }
}

async fn by_authenticator(world: &World, me: &Person) {
    let sim = &world.sim;
    let Some(device) = a_device(sim, me) else { return enrols(world, me).await };
    let request = Op::Totp { login: spelled(sim, &me.name), device: device.clone() };
    let Some(Reply::Challenge(id)) = call(world, me, request.clone()).await else { return };
    // Two log-ins at once, with the same value.
    let second = if sim.below(3) == 0 { call(world, me, request).await } else { None };
    for _ in 0..1 + sim.below(3) {
        sim.sleep(sim.span(0, sim.one_of(&[100, 20_000, 60_000]))).await;
        let Some(seed) = me.seeds.lock().unwrap().get(&device).cloned() else { return };
        let right = totp::hotp(&seed, totp::step_at(sim.now()));
        let value = if sim.below(3) == 0 { another(&right) } else { right };
        let with = |id| Op::Answer { id, answer: value.clone(), device: Some(device.clone()) };
        let mut calls = vec![ring(world, me, with(id))];
        if let Some(Reply::Challenge(second)) = second {
            calls.push(ring(world, me, with(second)));
        }
        for call in calls {
            call.await;
        }
    }
}

/// What was over long ago is asked again.
async fn old_challenges(world: &World, me: &Person) {
    let known = me.open.lock().unwrap().clone();
    if known.is_empty() {
        return;
    }
    let id = world.sim.one_of(&known);
    let code = world.base.book().laws.code_of(id).unwrap_or_else(|| guess(&world.sim));
    answer(world, me, id, code).await;
    call(world, me, Op::Resend { id }).await;
}

async fn answer(world: &World, me: &Person, id: ChallengeId, code: String) {
    call(world, me, with_code(id, code)).await;
}

fn with_code(id: ChallengeId, answer: String) -> Op {
    Op::Answer { id, answer, device: None }
}

fn a_device(sim: &Sim, me: &Person) -> Option<String> {
    let devices: Vec<_> = me.seeds.lock().unwrap().keys().cloned().collect();
    if devices.is_empty() { None } else { Some(sim.one_of(&devices)) }
}

fn guess(sim: &Sim) -> String {
    format!("{:06}", sim.below(1_000_000))
}

/// The same name in one of the spellings that people use.
fn spelled(sim: &Sim, name: &str) -> String {
    match sim.below(3) {
        0 => name.to_uppercase(),
        1 => name.to_lowercase(),
        _ => name.to_owned(),
    }
}

// -------------------------------------------------------------------------------------------------------------- network

/// How long a caller waits for a reply.
const PATIENCE: Duration = Duration::from_secs(40);

async fn call(world: &World, me: &Person, op: Op) -> Option<Reply> {
    ring(world, me, op).await
}

/// Sends a call on its way over a network that loses, repeats and delays. What comes back may be awaited later.
fn ring(world: &World, me: &Person, op: Op) -> impl Future<Output = Option<Reply>> + Send + use<> {
    let (sim, weather) = (world.sim.clone(), world.weather.clone());
    *world.base.book().laws.counts.operations.entry(op.name()).or_default() += 1;
    world.stirs();
    let reply = Slot::default();
    let copies = 1 + u64::from(weather.is_hit(weather.repeats));
    let mut on_the_way = Vec::new();
    for _ in 0..copies {
        if weather.is_hit(weather.drops) {
            continue;
        }
        on_the_way.push(arrives(world, me, op.clone(), reply.clone()));
    }
    let hangs_up = sim.hits(300);
    async move {
        let heard = within(reply, sim.sleep(PATIENCE)).await;
        if heard.is_none() && hangs_up {
            on_the_way.iter().filter_map(Handler::number).for_each(|id| sim.cancel(id));
        }
        heard
    }
}

/// The task of a handler, once there is one.
#[derive(Clone, Default)]
struct Handler(Arc<Mutex<Option<u64>>>);

impl Handler {
    fn number(&self) -> Option<u64> {
        *self.0.lock().unwrap()
    }
}

fn arrives(world: &World, me: &Person, op: Op, reply: Slot<Reply>) -> Handler {
    let handler = Handler::default();
    let (noted, world, me) = (handler.clone(), world.clone(), me.clone());
    let sim = world.sim.clone();
    let delay = sim.span(0, sim.one_of(&[2, 20, 1_000]));
    sim.clone().spawn(Owner::World, async move {
        sim.sleep(delay).await;
        let Some(life) = world.life(world.any_node()) else { return };
        let drops_reply = world.weather.is_hit(world.weather.drops);
        let id = sim.spawn(life.owner, {
            let (sim, world) = (sim.clone(), world.clone());
            async move {
                let heard = handle(&world, &life.core, &me, &op).await;
                if drops_reply {
                    world.base.book().laws.counts.lost_replies += 1;
                    return;
                }
                sim.sleep(sim.span(0, 20)).await;
                reply.put(heard);
            }
        });
        *noted.0.lock().unwrap() = Some(id);
    });
    handler
}

/// What a door of a node does: translates, asks the core, tells. What is told is held against the laws before it leaves.
async fn handle(world: &World, core: &Core, me: &Person, op: &Op) -> Reply {
    let Ok(scope) = core.scope(me.door.tenant, me.door.client).await else { return Reply::No };
    let named = |text: &str| Login::parse(text).expect("a login");
    world.sim.note(format_args!("{op:?} of {}", me.door.client));
    let judged = |asked: Asked, told: &Told| {
        let mut book = world.base.book();
        let book = &mut *book;
        world.sim.note(format_args!("{} is told {told:?}", me.name));
        book.laws.told(&book.table, &asked, told, world.sim.current());
    };
    let seed_of = |device: &String| {
        let seed = me.seeds.lock().unwrap().get(device).cloned();
        seed.map(|seed| (data_encoding::BASE32_NOPAD.encode(&seed), seed))
    };
    match op {
        Op::Code { login, by, to } => {
            let ask = if *by == Channel::Sms { sms(login, to) } else { email(login, to) };
            let said = core.request(&scope, ask).await;
            let account = format!("{}/{}/{by}", me.door.client, me.name);
            challenged(said, |told| judged(Asked::Challenge { account, tenant: me.door.tenant }, told))
        }
        Op::Totp { login, device } => {
            let said = core.request(&scope, Ask::Totp { login: named(login), device: device.clone() }).await;
            let account = format!("{}/{}/totp", me.door.client, me.name);
            challenged(said, |told| judged(Asked::Challenge { account, tenant: me.door.tenant }, told))
        }
        Op::Answer { id, answer, device } => {
            let seed = device.as_ref().and_then(seed_of);
            let said = core.verify(&scope, *id, None, answer).await;
            heard(said, |told| judged(Asked::Answer { id: *id, answer: answer.clone(), seed }, told))
        }
        Op::Activate { login, id, answer, device } => {
            let seed = seed_of(device);
            let said = core.activate(&scope, &named(login), *id, answer).await.map(|it| it.0);
            heard(said, |told| judged(Asked::Answer { id: *id, answer: answer.clone(), seed }, told))
        }
        Op::Resend { id } => {
            let said = core.resend(&scope, *id).await;
            challenged(said, |told| judged(Asked::Resend { id: *id }, told))
        }
        Op::ForeignAnswer { id, answer } => {
            let said = core.verify(&scope, *id, None, answer).await;
            heard(said, |told| judged(Asked::Foreign, told))
        }
        Op::ForeignResend { id } => {
            let said = core.resend(&scope, *id).await;
            challenged(said, |told| judged(Asked::Foreign, told))
        }
        Op::Begin { login, finishes } => {
            let baggage = Baggage { channel: Channel::External, to: data(&me.number), account: None, more: serde_json::Value::Null };
            let new = NewSignIn { login: named(login), purpose: *finishes, baggage, lasts: Duration::from_secs(1800) };
            let said = core.begin_sign_in_with_code(&scope, new).await;
            let Ok((token, _)) = said else { return Reply::No };
            let account = format!("{}/{}/external", me.door.client, me.name);
            judged(Asked::Begin { account, token: token.clone(), of: by_token(&scope, &token), finishes: *finishes }, &Told::Begun);
            Reply::Begun(token)
        }
        Op::Challenge { login, token } => {
            let said = core.challenge_sign_in(&scope, &named(login), token).await;
            world.sim.note(format_args!("{} is told {said:?}", me.name));
            Reply::No
        }
        Op::Prove { login, token, finishes, answer } => {
            let said = core.prove_sign_in(&scope, &named(login), token, *finishes, Offered::code(answer)).await.map(|it| it.answered);
            let asked = Asked::Prove { of: by_token(&scope, token), token: token.clone(), answer: answer.clone() };
            heard(said, |told| judged(asked, told))
        }
        Op::ForeignProve { token, finishes, answer } => {
            let said = core.prove_sign_in(&scope, &named(&me.name), token, *finishes, Offered::code(answer)).await.map(|it| it.answered);
            heard(said, |told| judged(Asked::ForeignToken, told))
        }
        Op::End { token } => {
            let _ = core.end_sign_in(&scope, token).await;
            Reply::No
        }
        Op::Enroll { login, device } => match core.enroll_totp(&scope, named(login), device).await {
            Ok(it) => {
                let seed = data_encoding::BASE32_NOPAD.decode(it.seed.reveal().as_bytes()).expect("base32");
                Reply::Enrolling(it.challenge, seed)
            }
            Err(_) => Reply::No,
        },
        Op::Remove { login, device } => {
            let _ = core.remove_device(&scope, &named(login), device).await;
            Reply::No
        }
        Op::Unlock { login, channel, number } => {
            let to = Address::Phone(PhoneNumber::parse(number, None).expect("a number"));
            let to = (*channel == Channel::Sms).then_some(&to);
            let _ = core.unlock(me.door.tenant, Some(&me.door.client_id), &named(login), *channel, to).await;
            Reply::No
        }
    }
}

/// By which a sign-in is found.
fn by_token(scope: &Scope, token: &Secret) -> Fingerprint {
    scope.tenant.keys.fingerprint("sign-in", &[scope.realm.as_bytes(), token.reveal().as_bytes()])
}

fn challenged(said: Result<Requested, Error>, judged: impl FnOnce(&Told)) -> Reply {
    let told = Told::Challenge(said);
    judged(&told);
    match told {
        Told::Challenge(Ok(it)) => Reply::Challenge(it.challenge),
        _ => Reply::No,
    }
}

fn heard(said: Result<Answered, Error>, judged: impl FnOnce(&Told)) -> Reply {
    let told = Told::Answer(said);
    judged(&told);
    match told {
        Told::Answer(Ok(_)) => Reply::Answered,
        _ => Reply::No,
    }
}
