//! The laws: invariants 1 to 6, held against every commit, every word to a caller and every message that leaves.
//!
//! Owns the ledger of what the world has seen from outside. It knows nothing of how the core works: only what was durable, what was
//! told and what was carried, in the order in which that happened. Each of these is checked as it happens, so the step that breaks a law
//! is the last one of the trace.

use super::executor::Sim;
use super::store::Table;
use super::weather::Weather;
use countersign_core::nouns::challenge::{Challenge, Proof, Purpose, Stage};
use countersign_core::nouns::delivery::{Delivery, DeliveryStage};
use countersign_core::nouns::event::{Event, What};
use countersign_core::nouns::factor::{Factor, FactorKind};
use countersign_core::nouns::limit::{Count, Failures, Limit, Lock};
use countersign_core::nouns::sign_in::Finishes;
use countersign_core::nouns::tenant::Policy;
use countersign_core::ports::{Key, Record};
use countersign_core::verbs::request::{Requested, Sent};
use countersign_core::verbs::verify::Answered;
use countersign_core::words::address::Fingerprint;
use countersign_core::words::id::{ChallengeId, DeliveryId, EventId, TenantId};
use countersign_core::words::refusal::{Error, Fault, Refusal};
use countersign_core::words::secret::Secret;
use countersign_core::words::time::Timestamp;
use countersign_core::words::wording::Message;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// How far a node's clock may be from the truth.
pub const SKEW: Duration = Duration::from_millis(1000);

/// One record before and after a commit.
pub struct Turned {
    pub before: Option<Record>,
    pub after: Option<Record>,
}

/// What a world has done, for the report.
#[derive(Debug, Default, Clone)]
pub struct Counts {
    pub operations: BTreeMap<&'static str, u64>,
    pub commits: u64,
    pub crashes: u64,
    pub outages: u64,
    pub lost_commits: u64,
    pub lost_commit_answers: u64,
    pub lost_replies: u64,
    pub lost_receipts: u64,
    pub sends: u64,
    pub carried: u64,
    pub carried_again: u64,
    pub passed: u64,
    pub wrong: u64,
}

/// What is known of one challenge.
#[derive(Debug, Default)]
struct Known {
    tenant: Option<TenantId>,
    expires_at: Option<Timestamp>,
    failures: Vec<Fingerprint>,
    is_authentication: bool,
    paid: u32,
    told_wrong: u32,
    accepted: u32,
    passed_by: Option<Option<DeliveryId>>,
    ended: bool,
    /// The sign-in that it belongs to.
    sign_in: Option<Counted>,
    /// What the provider that makes its codes was asked, what of that it never heard, and what it said of the rest.
    asked: u32,
    not_asked: u32,
    given_back: u32,
    judged_right: u32,
    judged_wrong: u32,
}

/// What is known of one sign-in.
#[derive(Debug)]
struct Entry {
    finishes: Option<Finishes>,
    challenges: Vec<ChallengeId>,
    passed: u32,
    accepted: u32,
    told_wrong: u32,
}

/// What is known of one delivery.
#[derive(Debug)]
struct Parcel {
    tenant: TenantId,
    challenge: ChallengeId,
    words: Option<Arc<Message>>,
    /// Nodes that are sending it at this moment.
    sending: Vec<usize>,
    taken: u32,
    given_up: bool,
    /// The code of theirs that reached the person last.
    theirs: Option<String>,
}

/// The bytes of a fingerprint, which have an order.
type Counted = [u8; 16];

/// What is known of one count of wrong codes.
#[derive(Debug, Default)]
struct Account {
    since_cleared: u16,
}

/// The ledger.
pub struct Laws {
    sim: Sim,
    weather: Arc<Weather>,
    policies: BTreeMap<TenantId, Policy>,
    challenges: BTreeMap<ChallengeId, Known>,
    parcels: BTreeMap<DeliveryId, Parcel>,
    accounts: BTreeMap<(TenantId, Counted), Account>,
    /// By which count an account of the world is known, in whatever spelling.
    persons: BTreeMap<String, Fingerprint>,
    /// The challenge that a handler opened last.
    opened: BTreeMap<u64, ChallengeId>,
    /// Values of authenticators that were accepted.
    steps: BTreeSet<(String, u64)>,
    sign_ins: BTreeMap<Counted, Entry>,
    /// By which count a sign-in is found, and the codes that providers have made, by the name that they gave them.
    tokens: BTreeMap<String, Counted>,
    made: BTreeMap<String, (DeliveryId, String)>,
    /// The events that are on record: each is there once, as it is in an engine whose rows have keys.
    events: BTreeSet<EventId>,
    pub counts: Counts,
}

/// What was asked, as far as the laws care.
pub enum Asked {
    /// A code or a value; the account as the world names it.
    Challenge { account: String, tenant: TenantId },
    /// An answer to a challenge, and the seed when an authenticator showed it.
    Answer { id: ChallengeId, answer: String, seed: Option<(String, Vec<u8>)> },
    /// Another code.
    Resend { id: ChallengeId },
    /// Anything about somebody else's challenge.
    Foreign,
    /// An answer by the token of somebody else.
    ForeignToken,
    /// A sign-in; the account as the world names it.
    Begin { account: String, token: Secret, of: Fingerprint, finishes: Finishes },
    /// An answer in a sign-in.
    Prove { of: Fingerprint, token: Secret, answer: String },
}

/// What was told.
#[derive(Debug)]
pub enum Told {
    Challenge(Result<Requested, Error>),
    Begun,
    Answer(Result<Answered, Error>),
}

impl Laws {
    pub fn new(sim: Sim, weather: Arc<Weather>) -> Self {
        Self {
            sim,
            weather,
            policies: BTreeMap::new(),
            challenges: BTreeMap::new(),
            parcels: BTreeMap::new(),
            accounts: BTreeMap::new(),
            persons: BTreeMap::new(),
            opened: BTreeMap::new(),
            steps: BTreeSet::new(),
            sign_ins: BTreeMap::new(),
            tokens: BTreeMap::new(),
            made: BTreeMap::new(),
            events: BTreeSet::new(),
            counts: Counts::default(),
        }
    }

    fn breaks(&self, law: &str, how: String) {
        self.sim.breaks(law, &how);
    }

    fn holds(&self, law: &str, is_so: bool, how: impl FnOnce() -> String) {
        if !is_so {
            self.breaks(law, how());
        }
    }

    // ----------------------------------------------------------------------------------------------------------- commits

    /// A change became durable.
    pub fn committed(&mut self, table: &Table, tenant: TenantId, turned: &[Turned], events: &[Event], origin: u64) {
        self.counts.commits += 1;
        for event in events {
            let is_new = self.events.insert(event.id);
            self.holds("4", is_new, || format!("{:?} is told twice", event.what));
        }
        let mut paid: Vec<ChallengeId> = Vec::new();
        let mut passed: Vec<ChallengeId> = Vec::new();
        for it in turned {
            match (&it.before, &it.after) {
                (None, Some(Record::Challenge(after))) => self.opens(table, tenant, after, origin),
                (Some(Record::Challenge(before)), Some(Record::Challenge(after))) => {
                    self.turns(table, tenant, before, after, events, &mut paid, &mut passed);
                }
                (Some(Record::SignIn(before)), Some(Record::SignIn(after))) => {
                    let fixed = (before.user, before.purpose, before.over_at) == (after.user, after.purpose, after.over_at);
                    self.holds("6", fixed, || "a sign-in is good for something else now".into());
                }
                (None, Some(Record::Delivery(after))) => self.promises(table, tenant, after),
                (Some(Record::Delivery(before)), Some(Record::Delivery(after))) => self.moves(table, tenant, before, after),
                (Some(Record::Factor(before)), Some(Record::Factor(after))) => self.burns(before, after),
                (_, Some(Record::Tenant(after))) => _ = self.policies.insert(after.id, after.policy.clone()),
                (Some(Record::Challenge(_) | Record::Delivery(_)), None) => self.breaks("2", "only retention removes these".into()),
                _ => {}
            }
        }
        self.counts_of(tenant, turned, events, &paid, &passed);
        for id in passed {
            self.finishes(turned, id);
        }
    }

    /// A log-in is finished by the change in which its challenge passes, and an activation goes on.
    fn finishes(&mut self, turned: &[Turned], id: ChallengeId) {
        let Some(of) = self.challenges[&id].sign_in else { return };
        let turned = turned.iter().find_map(|it| match (&it.before, &it.after) {
            (Some(Record::SignIn(it)), after) if *it.of.as_bytes() == of => Some((it.purpose, after.is_some())),
            _ => None,
        });
        let entry = self.sign_ins.get_mut(&of).expect("it has a challenge");
        entry.passed += 1;
        let passed = entry.passed;
        self.holds("1", matches!(turned, Some((Finishes::Login, false) | (Finishes::Activation, true))), || {
            format!("{id} passed and its sign-in is {turned:?}")
        });
        let is_once = passed == 1 || matches!(turned, Some((Finishes::Activation, _)));
        self.holds("1", is_once, || format!("a log-in is finished {passed} times"));
    }

    fn opens(&mut self, table: &Table, tenant: TenantId, it: &Challenge, origin: u64) {
        self.sim.note(format_args!("commit: {} is open", it.id));
        let Stage::Open { attempts_left, expires_at, .. } = &it.stage else {
            return self.breaks("1", format!("{} begins as {:?}", it.id, it.stage));
        };
        let most = self.policies[&tenant].attempts;
        self.holds("2", *attempts_left <= most, || format!("{} begins with {attempts_left} attempts", it.id));
        let sign_in = match it.purpose {
            Purpose::SignIn(of) => Some(*of.as_bytes()),
            Purpose::Authenticate | Purpose::Enroll(_) => None,
        };
        if let Some(of) = sign_in {
            let new = Entry { finishes: None, challenges: Vec::new(), passed: 0, accepted: 0, told_wrong: 0 };
            let others = &mut self.sign_ins.entry(of).or_insert(new).challenges;
            others.push(it.id);
            let open = others.iter().filter(|other| {
                matches!(table.get(tenant, Key::Challenge(**other)), Some(Record::Challenge(it)) if it.delivery().is_some_and(|of| it.awaits(of, self.sim.now() + SKEW + SKEW)))
            });
            let open = open.count();
            self.holds("3", open <= 1, || format!("a sign-in has {open} live codes"));
        }
        if it.purpose == Purpose::Authenticate || sign_in.is_some() {
            self.holds("2", !it.failures.is_empty(), || format!("wrong codes for {} are counted nowhere", it.id));
        }
        if let Some(delivery) = it.delivery() {
            let is_there = table.get(tenant, Key::Delivery(delivery)).is_some();
            self.holds("5", is_there, || format!("{} and its message are not one change", it.id));
        }
        let known = Known {
            tenant: Some(tenant),
            expires_at: Some(*expires_at),
            failures: it.failures.clone(),
            is_authentication: it.purpose == Purpose::Authenticate,
            sign_in,
            ..Known::default()
        };
        self.opened.insert(origin, it.id);
        self.challenges.insert(it.id, known);
    }

    #[expect(clippy::too_many_arguments, reason = "what there is to see of a commit")]
    fn turns(
        &mut self,
        table: &Table,
        tenant: TenantId,
        before: &Challenge,
        after: &Challenge,
        events: &[Event],
        paid: &mut Vec<ChallengeId>,
        passed: &mut Vec<ChallengeId>,
    ) {
        let id = after.id;
        let given_back = gives_back(events, id);
        let Stage::Open { attempts_left: left_before, expires_at: until_before, proof: proof_before } = &before.stage else {
            // The last attempt was in flight, and the provider says that it was right.
            if let (Stage::Spent { .. }, Stage::Passed { .. }) = (&before.stage, &after.stage) {
                passed.push(id);
                let known = self.challenges.entry(id).or_default();
                let (again, right) = (known.passed_by.replace(None).is_some(), known.judged_right);
                self.holds("1", !again && right > 0, || format!("{id} was spent and passed, and {right} answers were right"));
                return;
            }
            return self.holds("1", before == after, || format!("{id} was over as {:?} and becomes {:?}", before.stage, after.stage));
        };
        let fixed = (before.realm, &before.failures, before.purpose) == (after.realm, &after.failures, after.purpose);
        self.holds("2", fixed, || format!("{id} is counted elsewhere now"));
        match &after.stage {
            Stage::Open { attempts_left, expires_at, proof } => {
                self.holds("3", expires_at == until_before, || format!("{id} has another deadline"));
                let most = left_before.get() + u8::from(given_back);
                self.holds("2", attempts_left.get() <= most, || format!("{id} got attempts back"));
                let spent = left_before.get() - attempts_left.get().min(left_before.get());
                self.holds("2", spent <= 1, || format!("{id} paid {spent} attempts at once"));
                if spent == 1 {
                    paid.push(id);
                }
                if proof != proof_before {
                    self.sim.note(format_args!("commit: {id} has another code"));
                    self.is_recoded(table, tenant, id, proof_before, proof);
                }
            }
            Stage::Passed { .. } => {
                self.sim.note(format_args!("commit: {id} passed"));
                passed.push(id);
                let known = self.challenges.entry(id).or_default();
                let again = known.passed_by.replace(before.delivery()).is_some();
                let right = known.judged_right > 0 || !matches!(proof_before, Proof::External { .. });
                self.holds("1", !again, || format!("{id} passed twice"));
                self.holds("1", right, || format!("{id} passed, and nobody said that an answer was right"));
            }
            Stage::Spent { .. } => paid.push(id),
            Stage::Expired { .. } | Stage::Failed { .. } => self.sim.note(format_args!("commit: {id} is {:?}", after.stage)),
        }
        if !matches!(after.stage, Stage::Open { .. }) {
            self.challenges.entry(id).or_default().ended = true;
        }
    }

    fn is_recoded(&self, table: &Table, tenant: TenantId, id: ChallengeId, before: &Proof, after: &Proof) {
        let ((Proof::Code { delivery: old, .. }, Proof::Code { delivery: new, .. })
        | (Proof::External { delivery: old }, Proof::External { delivery: new })) = (before, after)
        else {
            return self.breaks("3", format!("{id} is proven in another way now"));
        };
        self.holds("3", old != new, || format!("{id} has another code with the same message"));
        let waits = matches!(table.get(tenant, Key::Delivery(*old)), Some(Record::Delivery(it)) if it.due_at().is_some());
        self.holds("5", !waits, || format!("{id} has another code while {old} is still on its way"));
        let sending = self.parcels.get(old).map_or(0, |it| it.sending.len());
        self.holds("5", sending == 0, || format!("{id} has another code while {old} is being sent"));
    }

    fn promises(&mut self, table: &Table, tenant: TenantId, it: &Delivery) {
        self.sim.note(format_args!("commit: {} is promised for {}", it.id, it.challenge));
        let is_live = matches!(
            table.get(tenant, Key::Challenge(it.challenge)),
            Some(Record::Challenge(challenge)) if challenge.delivery() == Some(it.id)
        );
        self.holds("5", is_live, || format!("{} does not carry the live code of {}", it.id, it.challenge));
        let parcel = Parcel { tenant, challenge: it.challenge, words: None, sending: Vec::new(), taken: 0, given_up: false, theirs: None };
        self.parcels.insert(it.id, parcel);
    }

    fn moves(&mut self, table: &Table, tenant: TenantId, before: &Delivery, after: &Delivery) {
        let id = after.id;
        let DeliveryStage::Queued { message, .. } = &before.stage else {
            return self.holds("5", before == after, || format!("{id} was over and moves on"));
        };
        self.sim.note(format_args!("commit: {id} is {}", said(after)));
        match &after.stage {
            DeliveryStage::Queued { message: again, .. } => {
                self.holds("5", message == again, || format!("the words of {id} change"));
            }
            DeliveryStage::Sent { .. } => {
                let taken = self.parcels.get(&id).map_or(0, |it| it.taken);
                self.holds("4", taken > 0, || format!("{id} is noted as sent and nobody took it"));
            }
            DeliveryStage::Failed { .. } => {
                let live = matches!(
                    table.get(tenant, Key::Challenge(after.challenge)),
                    Some(Record::Challenge(it)) if it.awaits(id, self.sim.now() + SKEW)
                );
                self.holds("5", !live, || format!("{id} was given up and its code is still live"));
                if let Some(parcel) = self.parcels.get_mut(&id) {
                    parcel.given_up = true;
                }
            }
        }
    }

    fn burns(&self, before: &Factor, after: &Factor) {
        if let (FactorKind::Totp { burnt: before, .. }, FactorKind::Totp { burnt: after, .. }) = (&before.kind, &after.kind) {
            self.holds("1", before <= after, || "a burnt step of an authenticator may be used again".into());
        }
    }

    /// Every wrong verdict is counted in the change that makes it durable, and nothing else moves a count (invariant 2).
    fn counts_of(&mut self, tenant: TenantId, turned: &[Turned], events: &[Event], paid: &[ChallengeId], passed: &[ChallengeId]) {
        let now = self.sim.now();
        let mut due: BTreeSet<Counted> = BTreeSet::new();
        for id in paid {
            let known = self.challenges.entry(*id).or_default();
            known.paid += 1;
            due.extend(known.failures.iter().map(|of| *of.as_bytes()));
            self.sim.note(format_args!("commit: {id} paid a wrong answer"));
        }
        let unlocked = events.iter().any(|it| matches!(it.what, What::Unlocked { .. }));
        for it in turned {
            let (before, after) = (failures(it.before.as_ref()), failures(it.after.as_ref()));
            let Some(of) = before.as_ref().or(after.as_ref()).map(|it| it.0) else { continue };
            let account = self.accounts.entry((tenant, of)).or_default();
            match after {
                Some((_, after)) => {
                    let was = account.since_cleared;
                    account.since_cleared = after.in_a_row();
                    let is_due = due.remove(&of);
                    let back = events.iter().find_map(|it| match it.what {
                        What::Unjudged { challenge, is_paid: false } => Some(challenge),
                        _ => None,
                    });
                    if let Some(id) = back {
                        let less = was.saturating_sub(after.in_a_row());
                        let known = self.challenges.entry(id).or_default();
                        known.given_back += u32::from(less);
                        let (back, not_asked) = (known.given_back, known.not_asked);
                        self.holds("2", after.in_a_row() <= was && less <= 1, || {
                            format!("a count goes from {was} to {}", after.in_a_row())
                        });
                        self.holds("2", back <= not_asked, || format!("{id} got {back} back, and {not_asked} reached nobody"));
                        continue;
                    }
                    self.holds("2", is_due && after.in_a_row() == was + 1, || {
                        format!(
                            "a count goes from {was} to {}, and a wrong answer was {}",
                            after.in_a_row(),
                            if is_due { "paid" } else { "not paid" }
                        )
                    });
                    // Whoever judged may have been a little early or late, and is believed when it says that the lock is over.
                    let locked = before.as_ref().is_some_and(|(_, before)| before.lock(now + SKEW) != Lock::Open);
                    self.holds("2", !locked, || "a wrong answer was judged while its account was locked".into());
                }
                None => {
                    account.since_cleared = 0;
                    let cleared = passed.iter().any(|id| self.challenges[id].failures.iter().any(|it| *it.as_bytes() == of));
                    self.holds("2", cleared || unlocked, || "a count of wrong codes is gone".into());
                }
            }
        }
        self.holds("2", due.is_empty(), || format!("{paid:?} paid and its account counts nothing"));
    }

    /// Retention took something out.
    pub fn swept(&self, record: Option<&Record>) {
        let is_count = failures(record).is_some();
        self.holds("2", !is_count, || "retention removed a count of wrong codes".into());
    }

    // ------------------------------------------------------------------------------------------------------------- words

    /// A node told a caller something.
    pub fn told(&mut self, table: &Table, asked: &Asked, told: &Told, handler: u64) {
        if let Told::Challenge(Err(Error::Fault(Fault::Corrupt(why)))) | Told::Answer(Err(Error::Fault(Fault::Corrupt(why)))) = told {
            self.breaks("4", format!("what was kept cannot be read: {why}"));
        }
        match (asked, told) {
            (Asked::Challenge { account, tenant }, Told::Challenge(Ok(it))) => {
                self.is_open(it, "");
                let known = &self.challenges[&it.challenge];
                self.holds("6", known.tenant == Some(*tenant), || format!("{} is another tenant's", it.challenge));
                if let Some(of) = known.failures.first().copied() {
                    let first = *self.persons.entry(account.clone()).or_insert(of);
                    self.holds("2", first == of, || format!("{account} has two counts"));
                }
            }
            (Asked::Challenge { .. }, Told::Challenge(Err(Error::Refused(Refusal::DeliveryRefused | Refusal::AddressUnreachable)))) => {
                if let Some(id) = self.opened.get(&handler) {
                    self.is_closed(table, *id, "its request was told that nobody carries it");
                }
            }
            (Asked::Resend { id }, Told::Challenge(Err(Error::Refused(Refusal::DeliveryRefused | Refusal::AddressUnreachable)))) => {
                self.is_closed(table, *id, "its resend was told that nobody carries it");
            }
            (Asked::Resend { id }, Told::Challenge(Ok(it))) => {
                self.holds("3", *id == it.challenge, || format!("a resend of {id} told of {}", it.challenge));
                self.is_open(it, "resent: ");
            }
            (Asked::Answer { id, answer, seed }, Told::Answer(Ok(answered))) => self.answered(table, *id, answer, seed.as_ref(), *answered),
            (Asked::Foreign, Told::Challenge(Ok(_)) | Told::Answer(Ok(_))) => {
                self.breaks("6", "somebody else's challenge was not unknown".into());
            }
            (Asked::Foreign, Told::Challenge(Err(Error::Refused(refusal))) | Told::Answer(Err(Error::Refused(refusal)))) => {
                self.holds("6", *refusal == Refusal::ChallengeUnknown, || format!("somebody else's challenge is {refusal}"));
            }
            (Asked::ForeignToken, Told::Answer(Ok(it))) => self.breaks("6", format!("somebody else's token was good for {it:?}")),
            (Asked::ForeignToken, Told::Answer(Err(Error::Refused(refusal)))) => {
                self.holds("6", *refusal == Refusal::SignInUnknown, || format!("somebody else's token is {refusal}"));
            }
            (Asked::Begin { account, token, of, finishes }, Told::Begun) => {
                let of = *of.as_bytes();
                self.tokens.insert(token.reveal().to_owned(), of);
                let Some(entry) = self.sign_ins.get_mut(&of) else {
                    return self.breaks("4", "a sign-in was told and is not durable".into());
                };
                entry.finishes = Some(*finishes);
                let count = self.challenges[&entry.challenges[0]].failures.first().copied().expect("it is counted");
                let first = *self.persons.entry(account.clone()).or_insert(count);
                self.holds("2", first == count, || format!("{account} has two counts"));
            }
            (Asked::Prove { of, token, answer }, Told::Answer(Ok(answered))) => self.proven(of, token, answer, *answered),
            _ => {}
        }
        self.opened.remove(&handler);
    }

    fn proven(&mut self, of: &Fingerprint, token: &Secret, answer: &str, answered: Answered) {
        let of = *of.as_bytes();
        let is_mine = self.tokens.get(token.reveal()) == Some(&of);
        let Some(entry) = self.sign_ins.get_mut(&of).filter(|_| is_mine) else {
            return self.breaks("6", format!("somebody else's token was not unknown: {answered:?}"));
        };
        let paid: u32 = entry.challenges.iter().map(|id| self.challenges[id].paid).sum();
        match answered {
            Answered::Passed => {
                self.counts.passed += 1;
                entry.accepted += 1;
                let (accepted, passed) = (entry.accepted, entry.passed);
                let codes: Vec<_> = entry.challenges.iter().filter(|id| self.challenges[*id].passed_by.is_some()).copied().collect();
                let codes: Vec<_> = self.parcels.values().filter(|it| codes.contains(&it.challenge)).collect();
                let fits = codes.iter().any(|it| it.words.as_ref().is_none_or(|words| words.code == answer));
                self.holds("1", accepted <= passed, || format!("a sign-in was accepted {accepted} times and passed {passed} times"));
                self.holds("3", fits, || "a sign-in accepted a code that was never sent for it".into());
            }
            Answered::Wrong { .. } | Answered::LastWrong | Answered::Declined { .. } => {
                self.counts.wrong += 1;
                entry.told_wrong += 1;
                let told = entry.told_wrong;
                self.holds("2", told <= paid, || format!("a sign-in told {told} wrong answers and paid {paid}"));
            }
            Answered::Over => {}
        }
    }

    fn is_open(&self, it: &Requested, how: &str) {
        let id = it.challenge;
        let Some(known) = self.challenges.get(&id) else {
            return self.breaks("4", format!("{how}{id} was told and is not durable"));
        };
        self.holds("3", known.expires_at == Some(it.expires_at), || format!("{how}{id} was told with another deadline"));
        if it.sent == Sent::Taken {
            let taken = self.parcels.values().any(|parcel| parcel.challenge == id && parcel.taken > 0);
            self.holds("4", taken, || format!("{how}{id} was told to be sent, and nobody took it"));
        }
    }

    fn is_closed(&self, table: &Table, id: ChallengeId, how: &str) {
        let tenant = self.challenges.get(&id).and_then(|it| it.tenant);
        let waits = tenant.and_then(|tenant| match table.get(tenant, Key::Challenge(id)) {
            Some(Record::Challenge(it)) => match table.get(tenant, Key::Delivery(it.delivery()?)) {
                Some(Record::Delivery(it)) if it.due_at().is_some() => Some(it.id),
                _ => None,
            },
            _ => None,
        });
        self.holds("4", waits.is_none(), || format!("{id}: {how}, and {waits:?} still waits to be sent"));
    }

    fn answered(&mut self, table: &Table, id: ChallengeId, answer: &str, seed: Option<&(String, Vec<u8>)>, answered: Answered) {
        let Some(known) = self.challenges.get_mut(&id) else {
            return self.breaks("4", format!("{id} was answered and is not durable"));
        };
        let tenant = known.tenant.expect("an open challenge has one");
        match answered {
            Answered::Passed => {
                self.counts.passed += 1;
                known.accepted += 1;
                let (accepted, passed_by) = (known.accepted, known.passed_by);
                self.holds("1", accepted == 1, || format!("{id} was accepted {accepted} times"));
                let Some(by) = passed_by else { return self.breaks("4", format!("{id} was accepted and that is not durable")) };
                let code = by.and_then(|by| self.parcels.get(&by)).and_then(|it| it.words.as_ref()).map(|it| it.code.clone());
                self.holds("3", code.is_none_or(|code| code == answer), || format!("{id} accepted a code that is not the live one"));
                if let Some((device, seed)) = seed {
                    self.burnt(id, device, seed, answer);
                }
            }
            Answered::Wrong { attempts_left } | Answered::Declined { attempts_left: Some(attempts_left) } => {
                self.wrong_told(id);
                if let Some(Record::Challenge(Challenge { stage: Stage::Open { attempts_left: left, .. }, .. })) =
                    table.get(tenant, Key::Challenge(id))
                {
                    self.holds("2", left <= &attempts_left, || format!("{id} was told {attempts_left} left and has {left}"));
                }
            }
            Answered::LastWrong | Answered::Declined { attempts_left: None } => {
                self.wrong_told(id);
                self.holds("2", self.challenges[&id].ended, || format!("{id} was told to be spent and is not"));
            }
            Answered::Over => {
                let is_open =
                    matches!(table.get(tenant, Key::Challenge(id)), Some(Record::Challenge(Challenge { stage: Stage::Open { .. }, .. })));
                self.holds("4", !is_open, || format!("{id} was told to be over and is open"));
            }
        }
    }

    fn wrong_told(&mut self, id: ChallengeId) {
        self.counts.wrong += 1;
        let known = self.challenges.entry(id).or_default();
        known.told_wrong += 1;
        let (told, paid, of) = (known.told_wrong, known.paid, known.tenant);
        self.holds("2", told <= paid, || format!("{id} was told {told} times to be wrong and paid {paid} times"));
        let most = of.map_or(1, |of| u32::from(self.policies[&of].attempts.get()));
        self.holds("2", told <= most, || format!("{id} was told {told} times to be wrong"));
    }

    /// A value of an authenticator is of a step nearby, and good once.
    fn burnt(&mut self, id: ChallengeId, device: &str, seed: &[u8], answer: &str) {
        let present = countersign_core::nouns::totp::step_at(self.sim.now());
        let found = (present.saturating_sub(6)..=present + 2).find(|step| countersign_core::nouns::totp::hotp(seed, *step) == answer);
        let Some(step) = found else { return self.breaks("1", format!("{id} accepted a value that the authenticator did not show")) };
        let is_first = self.steps.insert((device.to_owned(), step));
        self.holds("1", is_first, || format!("{id} accepted the value of step {step} again"));
    }

    // ---------------------------------------------------------------------------------------------------------- messages

    /// A node begins to hand a message to a provider.
    pub fn sends(&mut self, table: &Table, node: usize, id: DeliveryId, message: Option<&Arc<Message>>) {
        self.counts.sends += 1;
        let Some(parcel) = self.parcels.get_mut(&id) else {
            return self.breaks("5", format!("{id} leaves the house before its commit"));
        };
        let others = parcel.sending.clone();
        parcel.sending.push(node);
        let same = match (&parcel.words, message) {
            (None, _) => {
                parcel.words = message.cloned();
                true
            }
            (Some(first), Some(message)) => **first == **message,
            (Some(_), None) => false,
        };
        let (tenant, challenge) = (parcel.tenant, parcel.challenge);
        self.holds("5", same, || format!("{id} has other words now"));
        self.holds("5", others.is_empty(), || format!("{id} is sent by node {node} while node {others:?} sends it"));
        let rival = self.parcels.iter().find(|(other, it)| **other != id && it.challenge == challenge && !it.sending.is_empty());
        self.holds("5", rival.is_none(), || format!("{id} and {:?} carry two codes of {challenge} at once", rival.map(|it| it.0)));
        if let Some(Record::Challenge(it)) = table.get(tenant, Key::Challenge(challenge))
            && let Some(delivery) = it.delivery()
        {
            self.holds("5", delivery == id, || format!("{id} is sent, and the live code of {challenge} is that of {delivery}"));
        }
    }

    /// It has stopped to wait for the provider.
    pub fn stops_sending(&mut self, node: usize, id: DeliveryId) {
        if let Some(parcel) = self.parcels.get_mut(&id)
            && let Some(at) = parcel.sending.iter().position(|it| *it == node)
        {
            parcel.sending.remove(at);
        }
    }

    /// A provider took a message.
    pub fn carried(&mut self, id: DeliveryId) {
        let Some(parcel) = self.parcels.get_mut(&id) else { return };
        parcel.taken += 1;
        self.counts.carried += 1;
        let taken = parcel.taken;
        self.counts.carried_again += u64::from(taken > 1);
        if self.weather.once {
            self.holds("5", taken == 1, || format!("{id} was carried {taken} times, and only the store was away"));
        }
    }

    /// A provider makes a code of its own, and tells the person; gives the name by which it is to be asked.
    pub fn made(&mut self, id: DeliveryId, code: String) -> String {
        let name = format!("v-{}", self.made.len());
        if let Some(parcel) = self.parcels.get_mut(&id) {
            parcel.theirs = Some(code.clone());
        }
        self.made.insert(name.clone(), (id, code));
        name
    }

    fn about(&mut self, name: &str) -> Option<&mut Known> {
        let challenge = self.parcels.get(&self.made.get(name)?.0)?.challenge;
        self.challenges.get_mut(&challenge)
    }

    /// A node begins to ask a provider about an answer: it was paid for, and that is durable (invariant 2).
    pub fn asks(&mut self, table: &Table, name: &str) {
        let Some(known) = self.about(name) else { return self.breaks("5", format!("{name} was never told")) };
        known.asked += 1;
        let (asked, paid, tenant) = (known.asked, known.paid, known.tenant);
        self.holds("2", asked <= paid, || format!("{name} is asked about {asked} answers, and {paid} were paid"));
        let delivery = self.made[name].0;
        let noted = tenant.and_then(|tenant| table.get(tenant, Key::Delivery(delivery)));
        let is_noted = matches!(noted, Some(Record::Delivery(Delivery { stage: DeliveryStage::Sent { receipt, .. }, .. })) if receipt.as_deref() == Some(name));
        self.holds("4", is_noted, || format!("{name} is asked, and is not noted"));
    }

    /// It never heard the question.
    pub fn was_not_asked(&mut self, name: &str) {
        if let Some(known) = self.about(name) {
            // Each of its counts gets one back.
            known.not_asked += u32::try_from(known.failures.len()).expect("two at the most");
        }
    }

    /// It judges an answer.
    pub fn judges(&mut self, name: &str, code: &str) -> bool {
        let is_right = self.made.get(name).is_some_and(|(_, right)| right == code);
        let Some(known) = self.about(name) else { return false };
        if is_right {
            known.judged_right += 1;
        } else {
            known.judged_wrong += 1;
        }
        let (judged, most) =
            (known.judged_right + known.judged_wrong, known.tenant.map_or(0, |of| u32::from(self.policies[&of].attempts.get())));
        self.holds("2", judged <= most, || format!("{name}: {judged} answers were judged"));
        is_right
    }

    /// The code that reached somebody last in a sign-in.
    pub fn code_of_sign_in(&self, token: &Secret) -> Option<String> {
        let challenges = &self.sign_ins.get(self.tokens.get(token.reveal())?)?.challenges;
        let mine = self.parcels.iter().rev().filter(|(_, it)| challenges.contains(&it.challenge) && it.taken > 0);
        mine.filter_map(|(_, it)| it.theirs.clone().or(it.words.as_ref().map(|it| it.code.clone()))).next()
    }

    /// The code of a challenge that its owner read last.
    pub fn code_of(&self, challenge: ChallengeId) -> Option<String> {
        let mine = self.parcels.iter().rev().filter(|(_, it)| it.challenge == challenge && it.taken > 0);
        mine.filter_map(|(_, it)| it.words.as_ref()).map(|it| it.code.clone()).next()
    }

    /// A code of a challenge that may be void.
    pub fn first_code_of(&self, challenge: ChallengeId) -> Option<String> {
        let mine = self.parcels.iter().filter(|(_, it)| it.challenge == challenge && it.taken > 0);
        mine.filter_map(|(_, it)| it.words.as_ref()).map(|it| it.code.clone()).next()
    }

    // --------------------------------------------------------------------------------------------------------------- end

    /// After some quiet time nothing is left undone (invariants 4 and 5).
    pub fn at_the_end(&mut self, table: &Table) {
        for (_, record) in table.all() {
            if let Record::Delivery(it) = record {
                self.holds("5", it.due_at().is_none(), || format!("{} still waits, long after its code was over", it.id));
            }
        }
        for (id, parcel) in &self.parcels {
            self.holds("5", parcel.taken > 0 || parcel.given_up, || format!("{id} was promised, and neither carried nor given up"));
        }
        for (id, known) in &self.challenges {
            let Some(tenant) = known.tenant else { continue };
            if known.accepted > 0
                && let Some(Record::Challenge(it)) = table.get(tenant, Key::Challenge(*id))
            {
                self.holds("4", matches!(it.stage, Stage::Passed { .. }), || format!("{id} was accepted and is {:?}", it.stage));
            }
            self.holds("2", known.told_wrong <= known.paid || !known.is_authentication, || format!("{id} told more than was paid"));
        }
        for ((tenant, of), account) in &self.accounts {
            let kept = match table.get(*tenant, Key::Limit(Fingerprint::from_bytes(*of))) {
                Some(Record::Limit(Limit { count: Count::Failures(it), .. })) => it.in_a_row(),
                _ => 0,
            };
            self.holds("2", kept == account.since_cleared, || "a count of wrong codes is not what was counted".into());
        }
    }
}

/// Whether an answer to `id` that reached nobody is given back.
fn gives_back(events: &[Event], id: ChallengeId) -> bool {
    events.iter().any(|it| it.what == What::Unjudged { challenge: id, is_paid: false })
}

fn failures(record: Option<&Record>) -> Option<(Counted, Failures)> {
    match record? {
        Record::Limit(Limit { of, count: Count::Failures(it) }) => Some((*of.as_bytes(), it.clone())),
        _ => None,
    }
}

fn said(it: &Delivery) -> String {
    match &it.stage {
        DeliveryStage::Queued { due_at, attempt, .. } => format!("queued for {due_at:?}, attempt {attempt}"),
        DeliveryStage::Sent { .. } => "sent".into(),
        DeliveryStage::Failed { why, .. } => format!("failed: {why}"),
    }
}
