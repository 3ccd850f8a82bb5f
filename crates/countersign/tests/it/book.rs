//! The book of what callers were told, and the reckoning with what is there afterwards.
//!
//! Owns the load that the proofs put on a server and the check that follows; [`crash`](crate::crash), `failover`
//! and `disk` decide what goes wrong meanwhile. What was answered is a promise (invariants 1, 2, 4, 5). What was not
//! answered, or with 503, may have happened or not, and no third thing.

use crate::house::another;
use crate::server::{Answer, Caller, Place, Sink};
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// Callers at a time, while something goes wrong and in the reckoning.
const CALLERS: usize = 16;

/// Wrong codes that end a challenge, by the policy of a new tenant.
const ATTEMPTS: u32 = 3;

/// How long a code surely lives; by the policy of a new tenant it is 300 s.
const LIVES: Duration = Duration::from_secs(270);

/// What callers know of one challenge.
#[derive(Debug, Clone)]
struct Known {
    login: String,
    number: String,
    told_at: Instant,
    /// Right answers that were sent, and those that were told to be accepted.
    right_sent: u32,
    accepted: u32,
    /// Wrong answers that were told to be wrong, and those of which nothing was heard.
    wrong_told: u32,
    wrong_unheard: u32,
}

/// Everything that callers were told.
#[derive(Default)]
pub struct Book {
    /// Challenges since the last reckoning.
    open: Mutex<HashMap<String, Known>>,
    /// Challenges that nobody answers, so that their messages stay wanted.
    left_alone: Mutex<HashMap<String, Known>>,
    /// Ids of all challenges that were ever told.
    told: Mutex<HashSet<String>>,
    next: AtomicUsize,
    acknowledged: AtomicUsize,
    unheard: AtomicUsize,
    refused: AtomicUsize,
    checked: AtomicUsize,
}

/// What came out, for the report.
pub struct Sum {
    pub acknowledged: usize,
    pub unheard: usize,
    pub refused: usize,
    pub checked: usize,
    pub messages: usize,
    /// Deliveries that a provider took more than once, always with the same words.
    pub doubled: usize,
}

impl std::fmt::Display for Sum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { acknowledged, unheard, refused, checked, messages, doubled } = self;
        write!(f, "acknowledged={acknowledged} unheard={unheard} refused_503={refused} challenges_checked={checked} ")?;
        write!(f, "messages={messages} messages_sent_again={doubled}")
    }
}

impl Book {
    fn note(&self, id: &str, note: impl FnOnce(&mut Known)) {
        note(self.open.lock().unwrap().get_mut(id).expect("a known challenge"));
    }

    /// The answer, if it is one: 503 says that nobody knows, as silence does.
    fn heard(&self, answer: Answer) -> Option<(u16, Value)> {
        match answer {
            Some((503, body)) => {
                assert_eq!(body["code"], "10015", "{body}");
                self.refused.fetch_add(1, Ordering::Relaxed);
                None
            }
            None => {
                self.unheard.fetch_add(1, Ordering::Relaxed);
                None
            }
            said => {
                self.acknowledged.fetch_add(1, Ordering::Relaxed);
                said
            }
        }
    }

    /// Answers that were 503 so far.
    pub fn refused(&self) -> usize {
        self.refused.load(Ordering::Relaxed)
    }

    /// Answers that were promises so far.
    pub fn acknowledged(&self) -> usize {
        self.acknowledged.load(Ordering::Relaxed)
    }
}

fn code_of(body: &Value) -> Option<&str> {
    body["code"].as_str()
}

/// Callers that go on until they are told to stop.
pub struct Load {
    stop: Arc<AtomicBool>,
    calls: Vec<JoinHandle<()>>,
}

impl Load {
    /// Callers that go to all of `nodes` in turn.
    pub fn start(nodes: &[Caller], sink: &Arc<Sink>, book: &Arc<Book>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let calls = (0..CALLERS).map(|me| tokio::spawn(call(nodes.to_vec(), me, sink.clone(), book.clone(), stop.clone()))).collect();
        Self { stop, calls }
    }

    /// Waits until each has its last answer.
    pub async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for call in self.calls {
            call.await.expect("no caller was told something wrong");
        }
    }
}

/// One caller: opens challenges and answers some of them. A request and the answers to its challenge go to different nodes.
async fn call(nodes: Vec<Caller>, me: usize, sink: Arc<Sink>, book: Arc<Book>, stop: Arc<AtomicBool>) {
    let mut turn = me;
    let mut node = || {
        turn += 1;
        &nodes[turn % nodes.len()]
    };
    while !stop.load(Ordering::Relaxed) {
        let count = book.next.fetch_add(1, Ordering::Relaxed);
        let (login, number) = (format!("user-{count}"), format!("+9182{count:08}"));
        let Some((status, body)) = book.heard(node().ask(&login, &number).await) else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        assert_eq!(status, 201, "{body}");
        let id = body["authId"].as_str().expect("an id").to_owned();
        let known =
            Known { login, number: number.clone(), told_at: Instant::now(), right_sent: 0, accepted: 0, wrong_told: 0, wrong_unheard: 0 };
        book.told.lock().unwrap().insert(id.clone());
        if count.is_multiple_of(5) {
            book.left_alone.lock().unwrap().insert(id, known);
            continue;
        }
        book.open.lock().unwrap().insert(id.clone(), known);
        let code = sink.code(&number).expect("it was handed to the provider before the answer");
        if count.is_multiple_of(3) {
            // Noted before it is sent: nobody knows what becomes of it when the server dies.
            book.note(&id, |it| it.wrong_unheard += 1);
            let Some((_, body)) = book.heard(node().answer(&id, &another(&code)).await) else { continue };
            assert_eq!(code_of(&body), Some("10008"), "{id}: {body}");
            book.note(&id, |it| (it.wrong_unheard, it.wrong_told) = (it.wrong_unheard - 1, it.wrong_told + 1));
        }
        if count.is_multiple_of(2) {
            book.note(&id, |it| it.right_sent += 1);
            let Some((status, body)) = book.heard(node().answer(&id, &code).await) else { continue };
            assert_eq!(status, 200, "the first right answer to {id}: {body}");
            book.note(&id, |it| it.accepted += 1);
        }
    }
}

/// What a server that works says.
async fn ask(node: &Caller, id: &str, code: &str) -> (bool, String) {
    let (status, body) = node.answer(id, code).await.expect("a server that works answers");
    (status == 200, code_of(&body).unwrap_or_default().to_owned())
}

/// Asks about one challenge. Half of the open ones are answered right, half until they are spent.
async fn check(nodes: &[Caller], sink: &Sink, id: &str, known: &Known) {
    let code = sink.code(&known.number).expect("a code");
    let (node, other) = (&nodes[0], &nodes[nodes.len() - 1]);
    let odd = known.number.ends_with(['1', '3', '5', '7', '9']);
    if known.right_sent == 0 && odd {
        let mut judged = 0;
        loop {
            judged += 1;
            match ask(node, id, &another(&code)).await.1.as_str() {
                "10008" => assert!(judged < ATTEMPTS, "{id} takes more wrong answers than there are: {known:?}"),
                "10026" => break,
                said => panic!("{id} {known:?}: {said} to wrong answer {judged} more"),
            }
        }
        assert!(judged <= ATTEMPTS - known.wrong_told, "{id}: an attempt that was told is not counted: {known:?}, {judged} more");
        let least = ATTEMPTS - known.wrong_told - known.wrong_unheard;
        assert!(judged >= least, "{id}: more attempts are counted than were made: {known:?}, {judged} more");
        assert_eq!(ask(other, id, &code).await.1, "10007", "{id} takes the right answer after it is spent: {known:?}");
        // The count of the person is the same everywhere.
        let (_, body) = other.ask(&known.login, &known.number).await.expect("a server that works answers");
        assert_eq!(code_of(&body), Some("10027"), "{} is not locked: {body}", known.login);
        return;
    }
    let (accepted, said) = ask(node, id, &code).await;
    if known.accepted > 0 {
        assert_eq!(said, "10007", "{id} was accepted twice: {known:?}");
    } else if known.right_sent > 0 {
        // Nobody heard what became of the first one; it was taken once at most.
        assert!(accepted || said == "10007", "{id} {known:?}: {said}");
    } else {
        assert!(accepted, "{id} is lost: {known:?}: {said}");
    }
    assert_eq!(ask(other, id, &code).await.1, "10007", "{id} was accepted twice: {known:?}");
}

impl Book {
    /// Asks nodes that work about every challenge that was told since the last reckoning.
    pub async fn reckon(self: &Arc<Self>, nodes: &[Caller], sink: &Arc<Sink>) {
        let mut all: Vec<_> = self.open.lock().unwrap().drain().collect();
        self.checked.fetch_add(all.len(), Ordering::Relaxed);
        let share = all.len().div_ceil(CALLERS).max(1);
        let mut checks = Vec::new();
        while !all.is_empty() {
            let some = all.split_off(all.len().saturating_sub(share));
            let (nodes, sink) = (nodes.to_vec(), sink.clone());
            checks.push(tokio::spawn(async move {
                for (id, known) in some {
                    check(&nodes, &sink, &id, &known).await;
                }
            }));
        }
        for check in checks {
            check.await.expect("what was told is what is there");
        }
    }

    /// The last reckoning, in which nothing goes wrong any more: everything that was promised arrives. `rows` gives the rows of
    /// the deliveries as the database has them.
    pub async fn close(self: &Arc<Self>, nodes: &[Caller], sink: &Arc<Sink>, rows: impl Fn() -> Vec<Value>) -> Sum {
        self.reckon(nodes, sink).await;
        let alone: Vec<_> = self.left_alone.lock().unwrap().drain().collect();
        // A node that died keeps its leases for 20 s, and a provider that was away is asked again after a pause.
        let began = Instant::now();
        let missing = || alone.iter().filter(|(_, it)| !sink.taken.lock().unwrap().contains_key(&it.number)).count();
        while missing() > 0 {
            assert!(began.elapsed() < Duration::from_secs(60), "{} of {} promised messages were never sent", missing(), alone.len());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        // The notes of the last ones may still be on their way.
        let began = Instant::now();
        let stage = |row: &Value, name: &str| row["stage"].get(name).is_some();
        let mut kept = rows();
        while kept.iter().any(|row| stage(row, "queued")) {
            assert!(began.elapsed() < Duration::from_secs(60), "something is half done: {kept:?}");
            tokio::time::sleep(Duration::from_millis(200)).await;
            kept = rows();
        }
        let text = |row: &Value, name: &str| bare(row[name].as_str().expect("an id"));
        let challenges: HashSet<_> = kept.iter().map(|row| text(row, "challenge")).collect();
        for id in &*self.told.lock().unwrap() {
            assert!(challenges.contains(&bare(id)), "{id} was told, and its message is unknown");
        }
        let known: HashSet<_> = kept.iter().map(|row| text(row, "id")).collect();
        let taken = sink.deliveries.lock().unwrap().clone();
        let taken: HashMap<_, _> = taken.into_iter().map(|(id, codes)| (bare(&id), codes)).collect();
        for id in taken.keys() {
            assert!(known.contains(&bare(id)), "{id} left the house, and the database has never heard of it");
        }
        for row in kept.iter().filter(|row| stage(row, "sent")) {
            assert!(taken.contains_key(&text(row, "id")), "{row} was noted as sent and was not");
        }
        for (number, codes) in &*sink.carried.lock().unwrap() {
            assert!(codes.windows(2).all(|pair| pair[0] == pair[1]), "{number} got two codes for one challenge");
        }
        // Whoever was left alone can still be answered, unless the code has become too old meanwhile.
        let (young, old): (Vec<_>, Vec<_>) = alone.into_iter().partition(|(_, it)| it.told_at.elapsed() < LIVES);
        println!("{} promised messages arrived; {} of their codes are too old to be tried", young.len() + old.len(), old.len());
        self.open.lock().unwrap().extend(young);
        self.reckon(nodes, sink).await;
        let load = |it: &AtomicUsize| it.load(Ordering::Relaxed);
        Sum {
            acknowledged: load(&self.acknowledged),
            unheard: load(&self.unheard),
            refused: load(&self.refused),
            checked: load(&self.checked),
            messages: sink.carried.lock().unwrap().len(),
            doubled: taken.values().filter(|it| it.len() > 1).count(),
        }
    }
}

/// An id without what people see of its kind, and without the hyphens that it has in rows.
fn bare(id: &str) -> String {
    id.rsplit('_').next().unwrap_or_default().replace('-', "")
}

/// The deliveries in the file of a place.
pub fn rows_of(place: &Place, file: &std::path::Path) -> Vec<Value> {
    let connection = rusqlite::Connection::open(place.folder.path().join(file)).expect("a database");
    connection.busy_timeout(Duration::from_secs(10)).expect("it waits");
    let mut statement = connection.prepare("SELECT CAST(body AS TEXT) FROM deliveries").expect("a table");
    let rows = statement.query_map([], |row| row.get::<_, String>(0)).expect("rows");
    rows.map(|row| serde_json::from_str(&row.expect("a row")).expect("JSON")).collect()
}

/// How often something is done: as the environment says, or `usually`.
pub fn times(variable: &str, usually: usize) -> usize {
    std::env::var(variable).ok().and_then(|it| it.parse().ok()).unwrap_or(usually)
}
