//! Killing the server in the middle of its work, again and again, and asking it afterwards about everything that it had said.
//!
//! Invariants 1, 2, 4 and 5. `COUNTERSIGN_KILLS` sets how often (50).

use crate::house::another;
use crate::server::{Answer, Caller, Place, Sink};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Callers at a time.
const CALLERS: usize = 16;

/// What callers know of one challenge.
#[derive(Debug, Default, Clone)]
struct Known {
    number: String,
    /// Right answers that were sent, and those that were told to be accepted.
    right_sent: u32,
    accepted: u32,
    /// Wrong answers that were told to be wrong, and those of which nothing was heard.
    wrong_told: u32,
    wrong_unheard: u32,
}

#[derive(Default)]
struct Book {
    challenges: Mutex<HashMap<String, Known>>,
    /// Numbers whose request was told to be good.
    promised: Mutex<Vec<String>>,
    next: AtomicUsize,
}

impl Book {
    fn note(&self, id: &str, note: impl FnOnce(&mut Known)) {
        note(self.challenges.lock().unwrap().get_mut(id).expect("a known challenge"));
    }
}

fn code_of(answer: &Answer) -> Option<&str> {
    answer.as_ref().and_then(|(_, body)| body["code"].as_str())
}

fn is_accepted(answer: &Answer) -> bool {
    matches!(answer, Some((200, _)))
}

/// One caller: opens challenges and answers some of them, until the server is gone.
async fn call(caller: Caller, sink: Arc<Sink>, book: Arc<Book>, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        let count = book.next.fetch_add(1, Ordering::Relaxed);
        let number = format!("+9182{count:08}");
        let Some((status, body)) = caller.ask(&format!("user-{count}"), &number).await else { return };
        assert_eq!(status, 201, "{body}");
        let id = body["authId"].as_str().expect("an id").to_owned();
        book.challenges.lock().unwrap().insert(id.clone(), Known { number: number.clone(), ..Known::default() });
        book.promised.lock().unwrap().push(number.clone());
        let code = sink.code(&number).expect("it was handed to the provider before the answer");
        if count.is_multiple_of(3) {
            // Noted before it is sent: nobody knows what becomes of it when the server dies.
            book.note(&id, |it| it.wrong_unheard += 1);
            let Some(said) = caller.answer(&id, &another(&code)).await else { return };
            assert_eq!(code_of(&Some(said)), Some("10008"));
            book.note(&id, |it| (it.wrong_unheard, it.wrong_told) = (it.wrong_unheard - 1, it.wrong_told + 1));
        }
        if count.is_multiple_of(2) {
            book.note(&id, |it| it.right_sent += 1);
            let said = caller.answer(&id, &code).await;
            if said.is_none() {
                return;
            }
            assert!(is_accepted(&said), "{said:?}");
            book.note(&id, |it| it.accepted += 1);
        }
    }
}

/// Asks the restarted server about one challenge. Half of the open ones are answered right, half until they are spent.
async fn check(caller: &Caller, sink: &Sink, id: &str, known: &Known) {
    let code = sink.code(&known.number).expect("a code");
    let odd = known.number.ends_with(['1', '3', '5', '7', '9']);
    if known.right_sent == 0 && odd {
        let mut wrong = 0;
        let last = loop {
            let said = caller.answer(id, &another(&code)).await;
            match code_of(&said) {
                Some("10008") => wrong += 1,
                _ => break said,
            }
            assert!(wrong <= 3, "{id} takes more wrong answers than there are: {known:?}");
        };
        assert_eq!(code_of(&last), Some("10026"), "{id} {known:?}: {last:?}");
        let judged = wrong + 1;
        assert!(judged <= 3 - known.wrong_told, "{id}: an attempt that was told is not counted: {known:?}, {judged} more");
        assert!(judged >= 3 - known.wrong_told - known.wrong_unheard, "{id}: more attempts are counted than were made: {known:?}");
        let late = caller.answer(id, &code).await;
        assert_eq!(code_of(&late), Some("10007"), "{id}: {late:?}");
        return;
    }
    let said = caller.answer(id, &code).await;
    if known.accepted > 0 {
        assert_eq!(code_of(&said), Some("10007"), "{id} was accepted twice: {known:?}: {said:?}");
    } else if known.right_sent > 0 {
        // The server died before it could say whether it took the first one; it took it once at most.
        assert!(is_accepted(&said) || code_of(&said) == Some("10007"), "{id} {known:?}: {said:?}");
    } else {
        assert!(is_accepted(&said), "{id} is lost: {known:?}: {said:?}");
    }
    let again = caller.answer(id, &code).await;
    assert_eq!(code_of(&again), Some("10007"), "{id} was accepted twice: {again:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invariants_1_2_4_5_nothing_that_was_told_is_lost_when_the_server_is_killed() {
    let kills: usize = std::env::var("COUNTERSIGN_KILLS").ok().and_then(|it| it.parse().ok()).unwrap_or(50);
    let sink = Arc::new(Sink::start().await);
    let place = Place::new("crash", &sink.url);
    let book = Arc::new(Book::default());
    let (mut checked, mut unheard) = (0, 0);
    let mut server = place.start();
    for kill in 0..kills {
        let caller = Caller::new(&place).await;
        let stop = Arc::new(AtomicBool::new(false));
        let calls: Vec<_> = (0..CALLERS).map(|_| tokio::spawn(call(caller.clone(), sink.clone(), book.clone(), stop.clone()))).collect();
        // Another moment each time, so that every part of the work is hit.
        tokio::time::sleep(Duration::from_millis(80 + (kill as u64 * 37) % 160)).await;
        server.kill();
        stop.store(true, Ordering::Relaxed);
        for call in calls {
            call.await.expect("no caller was told something wrong");
        }
        server = place.start();
        let caller = Caller::new(&place).await;
        let round: Vec<_> = book.challenges.lock().unwrap().drain().collect();
        for (id, known) in &round {
            unheard += usize::from(known.right_sent > known.accepted) + usize::try_from(known.wrong_unheard).expect("few");
            check(&caller, &sink, id, known).await;
        }
        checked += round.len();
    }
    assert!(checked > kills, "only {checked} challenges in {kills} rounds: the server did nothing to be killed in");
    let promised = book.promised.lock().unwrap().clone();
    let began = Instant::now();
    let missing = || promised.iter().filter(|number| !sink.taken.lock().unwrap().contains_key(*number)).cloned().collect::<Vec<_>>();
    // Those that were answered are no longer wanted; of the others each must have been taken. A lease lasts 20 s.
    while !missing().is_empty() && began.elapsed() < Duration::from_secs(30) {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let carried = sink.carried.lock().unwrap();
    for (number, codes) in &*carried {
        assert!(codes.windows(2).all(|pair| pair[0] == pair[1]), "{number} got two codes for one challenge");
    }
    println!("{kills} kills, {checked} challenges checked, {unheard} answers unheard, {} messages", carried.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invariant_5_a_promised_message_is_sent_after_a_crash() {
    let sink = Arc::new(Sink::start().await);
    let place = Place::new("promise", &sink.url);
    let server = place.start();
    let caller = Caller::new(&place).await;
    // The provider is away for numbers that end in 7 when it is first asked, so these wait in the outbox.
    let numbers: Vec<_> = (0..20).map(|count| format!("+91821234{count:03}7")).collect();
    for (count, number) in numbers.iter().enumerate() {
        let said = caller.ask(&format!("user-{count}"), number).await.expect("an answer");
        assert_eq!(said.0, 201, "{said:?}");
    }
    server.kill();
    let sent_before = sink.taken.lock().unwrap().len();
    let _server = place.start();
    let began = Instant::now();
    while numbers.iter().any(|number| !sink.taken.lock().unwrap().contains_key(number)) {
        assert!(began.elapsed() < Duration::from_secs(40), "{} of 20 were sent", sink.taken.lock().unwrap().len());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let carried = sink.carried.lock().unwrap();
    assert!(numbers.iter().all(|number| carried[number].windows(2).all(|pair| pair[0] == pair[1])), "the same words");
    println!("{sent_before} were sent before the crash, {} after it", 20 - sent_before);
}
