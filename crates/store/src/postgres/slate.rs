//! The slate: what one batch knows of the database, and what it wants to be there.
//!
//! Decisions that travel together are judged one after the other on the slate, so that each sees what those before it did. In
//! the end the slate tells the difference between what was read and what shall be: one write for each row, whoever touched it how
//! often. Nothing here talks to the database.

use crate::rows::{Column, Damaged, Shelf, Spot, Way, column, unavailable, write_body};
use countersign_core::nouns::event::Event;
use countersign_core::ports::{Change, Held, Judge, Key, Outcome, Record, Seen, Step, Version, Write};
use countersign_core::words::id::{EventId, TenantId};
use countersign_core::words::refusal::Fault;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// How often a judge may ask to see more.
const LOOKS: u32 = 32;

/// Where a row is, in the whole house.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Place {
    pub(super) tenant: TenantId,
    pub(super) spot: Spot,
}

/// A name that only one row may have.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Name {
    pub(super) shelf: Shelf,
    /// Within which tenant; none where it is unique in the whole house.
    pub(super) tenant: Option<TenantId>,
    pub(super) text: NameText,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum NameText {
    Text(String),
    Id([u8; 16]),
}

/// Something that has to be read.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Want {
    /// The row there.
    Row(Place),
    /// The row with this name.
    Named(Name),
    /// The factors of a person.
    Factors(TenantId, [u8; 16]),
}

/// The version of a row, as it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) version: Version,
    pub(super) born: i64,
}

/// A row as it was read.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) place: Place,
    pub(super) kept: Kept,
    pub(super) held: Result<Held<Record>, Damaged>,
}

/// Why a row was found.
#[derive(Debug)]
pub(super) enum By {
    /// It was asked for.
    Place,
    /// It is a factor of this person.
    Owner([u8; 16]),
    /// It has this name.
    Name(Name),
}

/// One decision on its way.
pub(super) struct Job {
    pub(super) tenant: TenantId,
    /// What its judge has asked for so far, in order.
    keys: Vec<Key>,
    judge: Judge,
    looks: u32,
    pub(super) fate: Fate,
    /// The events of what its judge said last, which is also what its caller would be told.
    last: Vec<Event>,
    /// Whether the present try changes anything.
    changes: bool,
}

/// What is known of a decision from the tries before.
#[derive(Debug, Clone)]
pub(super) enum Fate {
    /// It has not happened.
    Open,
    /// It was committed and no answer came. If it has happened, these events are there: they were drawn for it alone.
    Doubt(Vec<EventId>),
    /// The same, and it told no events: nobody will ever know.
    Lost,
}

impl Job {
    pub(super) fn new(tenant: TenantId, first: Vec<Key>, judge: Judge) -> Self {
        Self { tenant, keys: first, judge, looks: 0, fate: Fate::Open, last: Vec::new(), changes: false }
    }

    /// What must be read before its judge is asked.
    pub(super) fn wants(&self) -> impl Iterator<Item = Want> + '_ {
        self.keys.iter().map(|key| want(self.tenant, *key))
    }

    /// The commit of the present try was sent, and nobody knows what became of it.
    pub(super) fn doubts(&mut self) {
        if self.changes {
            let told: Vec<_> = self.last.iter().map(|event| event.id).collect();
            self.fate = if told.is_empty() { Fate::Lost } else { Fate::Doubt(told) };
        }
    }

    /// What its caller hears now that it has happened, with these events: what the judge said last may be something else, and what
    /// it said before is gone.
    pub(super) fn settled(&self, there: &[Event]) -> Result<Outcome, Fault> {
        let is_what_was_said = there.len() == self.last.len() && self.last.iter().all(|event| there.contains(event));
        if is_what_was_said {
            Ok(Outcome::Done)
        } else {
            Err(unavailable("what was decided is durable, and what it was is not known here"))
        }
    }
}

fn want(tenant: TenantId, key: Key) -> Want {
    match Way::of(tenant, key) {
        Way::Spot(spot) => Want::Row(Place { tenant, spot }),
        Way::Named(named) => Want::Named(Name { shelf: Shelf::Users, tenant: Some(tenant), text: NameText::Id(named) }),
        Way::Of(user) => Want::Factors(tenant, user),
    }
}

/// The unique name of a record, where its table has one.
fn name_of(tenant: TenantId, record: &Record) -> Option<Name> {
    let (shelf, within) = match record {
        Record::Tenant(_) => (Shelf::Tenants, None),
        Record::Client(_) => (Shelf::Clients, None),
        Record::User(_) => (Shelf::Users, Some(tenant)),
        Record::Provider(_) => (Shelf::Providers, Some(tenant)),
        Record::Template(_) => (Shelf::Templates, Some(tenant)),
        Record::Factor(_) | Record::Challenge(_) | Record::Delivery(_) | Record::Limit(_) | Record::SignIn(_) => return None,
    };
    let text = match column(record) {
        Column::Text(text) => NameText::Text(text.into_owned()),
        Column::Id(id) => NameText::Id(*id),
        Column::None | Column::Millis(_) => return None,
    };
    Some(Name { shelf, tenant: within, text })
}

/// What is known of one row.
#[derive(Debug, Default)]
struct Entry {
    /// How it was read; nothing, where nothing was there.
    kept: Option<Kept>,
    /// What shall be there.
    now: Option<Held<Record>>,
    /// Whether anybody wrote to it.
    written: bool,
    /// Whether what was written stands on its having stayed as it was read.
    leaned_on: bool,
    /// Nobody looked whether anything was there before it was put in.
    assumed_free: bool,
    /// It cannot be read.
    damaged: Option<Damaged>,
}

/// What a decision has come to.
pub(super) enum Decided {
    /// This is what its caller hears, once the batch is durable.
    Answer(Result<Outcome, Fault>),
    /// This must be read first.
    Missing(Vec<Want>),
}

/// What a change did not fit.
enum Unfit {
    Missing(Want),
    Taken,
    Stale,
    Senseless(&'static str),
}

/// How to take back what a change did before it turned out not to fit.
enum Undo {
    Row(Place, Option<Box<Entry>>),
    Named(Name, Option<Option<Place>>),
    Factors(TenantId, [u8; 16], BTreeSet<[u8; 16]>),
}

/// What a batch knows and wants.
pub(super) struct Slate {
    rows: HashMap<Place, Entry>,
    /// Who has a name, as far as it was looked for.
    names: HashMap<Name, Option<Place>>,
    /// The factors of persons, as far as they were looked for.
    factors: HashMap<(TenantId, [u8; 16]), BTreeSet<[u8; 16]>>,
    /// The same, as they were read.
    factors_read: HashMap<(TenantId, [u8; 16]), BTreeSet<[u8; 16]>>,
    /// Lists of factors on which something that was written stands, as they were read.
    lists: BTreeMap<(TenantId, [u8; 16]), BTreeSet<[u8; 16]>>,
    events: Vec<(TenantId, EventId, String)>,
    /// Whether to look before an insert whether its place is free. Ids are drawn, so it is, unless a write has just failed.
    careful: bool,
}

impl Slate {
    pub(super) fn new(careful: bool) -> Self {
        Self {
            rows: HashMap::new(),
            names: HashMap::new(),
            factors: HashMap::new(),
            factors_read: HashMap::new(),
            lists: BTreeMap::new(),
            events: Vec::new(),
            careful,
        }
    }

    /// Whether `want` was read.
    pub(super) fn has(&self, want: &Want) -> bool {
        match want {
            Want::Row(place) => self.rows.contains_key(place),
            Want::Named(name) => self.names.contains_key(name),
            Want::Factors(tenant, user) => self.factors.contains_key(&(*tenant, *user)),
        }
    }

    /// Notes that `want` was looked for, after what was found was noted with [`Slate::found`].
    pub(super) fn looked(&mut self, want: Want) {
        match want {
            Want::Row(place) => drop(self.rows.entry(place).or_default()),
            Want::Named(name) => drop(self.names.entry(name).or_default()),
            Want::Factors(tenant, user) => {
                let ids = self.factors.entry((tenant, user)).or_default();
                // Those before in this batch may have written without looking at the list.
                for (place, entry) in self.rows.iter().filter(|(place, entry)| place.tenant == tenant && entry.written) {
                    match &entry.now {
                        Some(Held { noun: Record::Factor(it), .. }) if it.user.as_bytes() == &user => ids.insert(place.spot.id),
                        _ => ids.remove(&place.spot.id),
                    };
                }
            }
        }
    }

    /// Notes a row that was found. What was known of it before stands: it may have been written to since.
    pub(super) fn found(&mut self, row: Read, by: By) {
        let Read { place, kept, held } = row;
        let tenant = place.tenant;
        match by {
            By::Place => {}
            By::Owner(owner) => {
                self.factors.entry((tenant, owner)).or_default().insert(place.spot.id);
                self.factors_read.entry((tenant, owner)).or_default().insert(place.spot.id);
            }
            // Also where the row cannot be read: it has the name all the same. What a decision before has renamed stays so.
            By::Name(name) => drop(self.names.entry(name).or_insert(Some(place))),
        }
        if let Ok(Held { noun, .. }) = &held
            && let Some(name) = name_of(tenant, noun)
        {
            self.names.entry(name).or_insert(Some(place));
        }
        let entry = self.rows.entry(place).or_default();
        if entry.kept.is_none() && !entry.written {
            entry.kept = Some(kept);
            match held {
                Ok(held) => entry.now = Some(held),
                Err(damaged) => entry.damaged = Some(damaged),
            }
        }
    }

    /// Asks the judge of `job`, and lets its change happen on the slate.
    pub(super) fn decide(&mut self, job: &mut Job) -> Decided {
        let change = match self.ask(job) {
            Ok(change) => change,
            Err(decided) => return decided,
        };
        // The commit of an earlier try may still come through. What tells the same events cannot happen beside it; anything else
        // could, and its caller would have heard only half.
        if let Fate::Doubt(events) = &job.fate
            && !events.iter().all(|id| change.events.iter().any(|event| event.id == *id))
        {
            return Decided::Answer(Err(unavailable("the database gave no answer, and what became of the change is not known")));
        }
        let missing = self.missing(job.tenant, &change);
        if !missing.is_empty() {
            return Decided::Missing(missing);
        }
        job.changes = !change.writes.is_empty() || !change.events.is_empty();
        let mut undo = Vec::with_capacity(change.writes.len() * 2);
        let applied = self.apply(job, change, &mut undo);
        let Err(unfit) = applied else { return Decided::Answer(Ok(Outcome::Done)) };
        for step in undo.into_iter().rev() {
            self.take_back(step);
        }
        job.changes = false;
        match unfit {
            Unfit::Missing(want) => Decided::Missing(vec![want]),
            Unfit::Taken => Decided::Answer(Ok(Outcome::Taken)),
            // The judge has just been shown what it does not fit, and would say the same again.
            Unfit::Stale => Decided::Answer(Err(Fault::Contended)),
            Unfit::Senseless(why) => Decided::Answer(Err(Fault::Corrupt(why.into()))),
        }
    }

    /// What the judge of `job` will want to see, as far as it can be told before its turn has come.
    pub(super) fn foresee(&self, job: &mut Job) -> Vec<Want> {
        match self.ask(job) {
            Ok(change) => self.missing(job.tenant, &change),
            Err(Decided::Missing(wants)) => wants,
            Err(Decided::Answer(_)) => Vec::new(),
        }
    }

    /// What must be read before `change` can happen here.
    fn missing(&self, tenant: TenantId, change: &Change) -> Vec<Want> {
        let mut wants = Vec::new();
        for write in &change.writes {
            let (place, name) = match write {
                Write::Insert(record) => {
                    let place = Place { tenant, spot: Spot::of(tenant, record) };
                    (self.careful.then_some(place), name_of(tenant, record))
                }
                Write::Replace(record, _) => (Some(Place { tenant, spot: Spot::of(tenant, record) }), None),
                Write::Remove(key, _) => match Way::of(tenant, *key) {
                    Way::Spot(spot) => (Some(Place { tenant, spot }), None),
                    Way::Named(_) | Way::Of(_) => (None, None),
                },
            };
            wants.extend(place.map(Want::Row).into_iter().chain(name.map(Want::Named)).filter(|want| !self.has(want)));
        }
        wants
    }

    fn ask(&self, job: &mut Job) -> Result<Change, Decided> {
        let mut seen = Seen::default();
        let mut missing: Vec<Want> = job.wants().filter(|want| !self.has(want)).collect();
        if missing.is_empty() {
            for key in &job.keys {
                self.show(job.tenant, *key, &mut seen).map_err(|Damaged(what)| Decided::Answer(Err(Fault::Corrupt(what))))?;
            }
        }
        while missing.is_empty() {
            // A judge that panics is a bug of one rule, and no reason to leave its neighbours without an answer.
            let step = catch_unwind(AssertUnwindSafe(|| (job.judge)(&mut seen)));
            match step {
                Ok(Step::Write(change)) => {
                    job.last.clone_from(&change.events);
                    return Ok(change);
                }
                Ok(Step::Look(_)) if job.looks >= LOOKS => {
                    let why = "a rule asks to see more and more, and decides nothing";
                    return Err(Decided::Answer(Err(Fault::Corrupt(why.into()))));
                }
                Ok(Step::Look(keys)) => {
                    job.looks += 1;
                    for key in keys {
                        if seen.has_looked_at(key) {
                            continue;
                        }
                        job.keys.push(key);
                        let want = want(job.tenant, key);
                        if self.has(&want) {
                            self.show(job.tenant, key, &mut seen).map_err(|Damaged(what)| Decided::Answer(Err(Fault::Corrupt(what))))?;
                        } else {
                            missing.push(want);
                        }
                    }
                }
                Err(_) => return Err(Decided::Answer(Err(Fault::Corrupt("a rule panicked while it judged".into())))),
            }
        }
        Err(Decided::Missing(missing))
    }

    fn show(&self, tenant: TenantId, key: Key, seen: &mut Seen) -> Result<(), Damaged> {
        let mut found = Vec::new();
        for place in self.places(&want(tenant, key)) {
            let Some(entry) = self.rows.get(&place) else { continue };
            if let Some(damaged) = &entry.damaged {
                return Err(damaged.clone());
            }
            found.extend(entry.now.clone());
        }
        seen.note(key, found);
        Ok(())
    }

    /// The rows to which `want` leads, in order.
    fn places(&self, want: &Want) -> Vec<Place> {
        match want {
            Want::Row(place) => vec![*place],
            Want::Named(name) => self.names.get(name).copied().flatten().into_iter().collect(),
            Want::Factors(tenant, user) => {
                let ids = self.factors.get(&(*tenant, *user)).into_iter().flatten();
                ids.map(|id| Place { tenant: *tenant, spot: Spot { shelf: Shelf::Factors, id: *id } }).collect()
            }
        }
    }

    fn apply(&mut self, job: &Job, change: Change, undo: &mut Vec<Undo>) -> Result<(), Unfit> {
        let Change { writes, events } = change;
        if writes.is_empty() && events.is_empty() {
            return Ok(());
        }
        let mut bodies = Vec::with_capacity(events.len());
        for event in &events {
            bodies.push((job.tenant, event.id, body_of(event)?));
        }
        let touches_factors = writes.iter().any(|write| shelf_of(job.tenant, write) == Some(Shelf::Factors));
        for write in writes {
            self.write(job, write, undo)?;
        }
        // From here on the change happens. What its judge saw and did not write must still be so when it is committed.
        for want in job.wants() {
            if let Want::Factors(tenant, user) = want
                && touches_factors
            {
                let as_read = self.factors_read.get(&(tenant, user)).cloned().unwrap_or_default();
                self.lists.insert((tenant, user), as_read);
            }
            for place in self.places(&want) {
                if let Some(entry) = self.rows.get_mut(&place) {
                    entry.leaned_on = true;
                }
            }
        }
        self.events.extend(bodies);
        Ok(())
    }

    fn write(&mut self, job: &Job, write: Write, undo: &mut Vec<Undo>) -> Result<(), Unfit> {
        let tenant = job.tenant;
        match write {
            Write::Insert(record) => {
                let place = Place { tenant, spot: Spot::of(tenant, &record) };
                match self.rows.get(&place) {
                    Some(Entry { now: None, damaged: None, .. }) => {}
                    Some(_) if job.wants().any(|it| self.places(&it).contains(&place)) => return Err(Unfit::Stale),
                    Some(_) => return Err(Unfit::Taken),
                    None if self.careful => return Err(Unfit::Missing(Want::Row(place))),
                    None => {}
                }
                self.name(place, None, &record, undo)?;
                self.put(place, Some(Held { noun: record, version: 1 }), undo);
            }
            Write::Replace(record, version) => {
                let place = Place { tenant, spot: Spot::of(tenant, &record) };
                let before = self.at(place, version)?.clone();
                self.name(place, Some(&before), &record, undo)?;
                self.put(place, Some(Held { noun: record, version: version + 1 }), undo);
            }
            Write::Remove(key, version) => {
                let Way::Spot(spot) = Way::of(tenant, key) else {
                    return Err(Unfit::Senseless("a change removes by something else than an id"));
                };
                let place = Place { tenant, spot };
                let before = self.at(place, version)?.clone();
                if let Some(name) = name_of(tenant, &before) {
                    let was = self.names.insert(name.clone(), None);
                    undo.push(Undo::Named(name, was));
                }
                self.put(place, None, undo);
            }
        }
        Ok(())
    }

    /// What is at `place`, if it has this version.
    fn at(&self, place: Place, version: Version) -> Result<&Record, Unfit> {
        match self.rows.get(&place) {
            None => Err(Unfit::Missing(Want::Row(place))),
            Some(Entry { now: Some(held), .. }) if held.version == version => Ok(&held.noun),
            Some(_) => Err(Unfit::Stale),
        }
    }

    /// Gives `place` the name of its new record, which must be free.
    fn name(&mut self, place: Place, before: Option<&Record>, record: &Record, undo: &mut Vec<Undo>) -> Result<(), Unfit> {
        let old = before.and_then(|it| name_of(place.tenant, it));
        let new = name_of(place.tenant, record);
        if old == new {
            return Ok(());
        }
        if let Some(name) = new {
            match self.names.get(&name) {
                None => return Err(Unfit::Missing(Want::Named(name))),
                Some(Some(holder)) if *holder != place => return Err(Unfit::Taken),
                Some(_) => {}
            }
            let was = self.names.insert(name.clone(), Some(place));
            undo.push(Undo::Named(name, was));
        }
        if let Some(name) = old {
            let was = self.names.insert(name.clone(), None);
            undo.push(Undo::Named(name, was));
        }
        Ok(())
    }

    fn put(&mut self, place: Place, now: Option<Held<Record>>, undo: &mut Vec<Undo>) {
        let before = self.rows.remove(&place);
        let owner = |held: &Option<Held<Record>>| match held {
            Some(Held { noun: Record::Factor(it), .. }) => Some(*it.user.as_bytes()),
            _ => None,
        };
        let was = before.as_ref().and_then(|it| owner(&it.now));
        let is = owner(&now);
        if was != is {
            for (user, joins) in [(was, false), (is, true)] {
                let Some(user) = user else { continue };
                if let Some(ids) = self.factors.get_mut(&(place.tenant, user)) {
                    undo.push(Undo::Factors(place.tenant, user, ids.clone()));
                    if joins {
                        ids.insert(place.spot.id)
                    } else {
                        ids.remove(&place.spot.id)
                    };
                }
            }
        }
        let (kept, leaned_on) = before.as_ref().map_or((None, false), |it| (it.kept, it.leaned_on));
        let assumed_free = before.as_ref().is_none_or(|it| it.assumed_free);
        self.rows.insert(place, Entry { kept, now, written: true, leaned_on, assumed_free, damaged: None });
        undo.push(Undo::Row(place, before.map(Box::new)));
    }

    fn take_back(&mut self, step: Undo) {
        match step {
            Undo::Row(place, Some(before)) => drop(self.rows.insert(place, *before)),
            Undo::Row(place, None) => drop(self.rows.remove(&place)),
            Undo::Named(name, Some(before)) => drop(self.names.insert(name, before)),
            Undo::Named(name, None) => drop(self.names.remove(&name)),
            Undo::Factors(tenant, user, ids) => drop(self.factors.insert((tenant, user), ids)),
        }
    }

    /// What is to be written: for each table in its order, and in each table in the order of the keys, so that two batches never
    /// wait for each other in a circle.
    ///
    /// # Errors
    /// [`NoDifference`].
    pub(super) fn difference(self, borns: impl Fn() -> i64) -> Result<Difference, NoDifference> {
        let mut difference = Difference { shelves: BTreeMap::new(), lists: self.lists, events: self.events };
        let mut rows: Vec<_> = self.rows.into_iter().filter(|(_, entry)| entry.written || entry.leaned_on).collect();
        rows.sort_unstable_by_key(|(place, _)| (place.spot.shelf, place.tenant, place.spot.id));
        for (place, entry) in rows {
            let shelf = difference.shelves.entry(place.spot.shelf).or_default();
            match (entry.kept, entry.now) {
                (Some(kept), _) if !entry.written => shelf.kept.push((place, kept)),
                (Some(kept), None) => shelf.gone.push((place, kept)),
                (Some(kept), Some(held)) => {
                    // A row that was removed and put in again begins a new life.
                    let reborn = held.version <= kept.version;
                    let born = if reborn { borns() } else { kept.born };
                    shelf.changed.push((Row::new(place, &held, born)?, kept));
                }
                (None, Some(held)) => shelf.new.push(Row::new(place, &held, borns())?),
                // What was put in and taken out again would not meet what may be there.
                (None, None) if entry.assumed_free => return Err(NoDifference::Assumed),
                (None, None) => {}
            }
        }
        difference.shelves.retain(|_, shelf| !shelf.is_empty());
        difference.events.sort_unstable_by_key(|(tenant, id, _)| (*tenant, *id));
        Ok(difference)
    }
}

/// Why there is nothing to be written.
#[derive(Debug)]
pub(super) enum NoDifference {
    /// A record cannot be written.
    Damaged(Damaged),
    /// It stands on a place being free where nobody has looked.
    Assumed,
}

impl From<Damaged> for NoDifference {
    fn from(it: Damaged) -> Self {
        Self::Damaged(it)
    }
}

fn shelf_of(tenant: TenantId, write: &Write) -> Option<Shelf> {
    match write {
        Write::Insert(record) | Write::Replace(record, _) => Some(Spot::of(tenant, record).shelf),
        Write::Remove(key, _) => match Way::of(tenant, *key) {
            Way::Spot(spot) => Some(spot.shelf),
            Way::Named(_) | Way::Of(_) => None,
        },
    }
}

fn body_of(event: &Event) -> Result<String, Unfit> {
    serde_json::to_string(event).map_err(|_| Unfit::Senseless("an event cannot be written as JSON"))
}

/// A row as it shall be.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) place: Place,
    pub(super) version: Version,
    pub(super) born: i64,
    pub(super) column: Column<'static>,
    /// The sixteen bytes of [`Column::Id`], which is borrowed elsewhere.
    pub(super) id: [u8; 16],
    pub(super) body: String,
}

impl Row {
    pub(super) fn new(place: Place, held: &Held<Record>, born: i64) -> Result<Self, Damaged> {
        let mut body = Vec::with_capacity(512);
        write_body(&held.noun, &mut body)?;
        let body = String::from_utf8(body).map_err(|_| Damaged("a record is no UTF-8 as JSON".into()))?;
        let (column, id) = match column(&held.noun) {
            Column::None => (Column::None, [0; 16]),
            Column::Text(text) => (Column::Text(text.into_owned().into()), [0; 16]),
            Column::Id(id) => (Column::None, *id),
            Column::Millis(millis) => (Column::Millis(millis), [0; 16]),
        };
        Ok(Self { place, version: held.version, born, column, id, body })
    }
}

/// What one table has to do.
#[derive(Debug, Default)]
pub(super) struct ShelfWrites {
    /// These must be as they were read.
    pub(super) kept: Vec<(Place, Kept)>,
    /// These go.
    pub(super) gone: Vec<(Place, Kept)>,
    /// These take the place of what was read.
    pub(super) changed: Vec<(Row, Kept)>,
    /// These come in.
    pub(super) new: Vec<Row>,
}

impl ShelfWrites {
    fn is_empty(&self) -> bool {
        self.kept.is_empty() && !self.writes()
    }

    fn writes(&self) -> bool {
        !(self.gone.is_empty() && self.changed.is_empty() && self.new.is_empty())
    }
}

/// What a batch wants to write.
#[derive(Debug)]
pub(super) struct Difference {
    pub(super) shelves: BTreeMap<Shelf, ShelfWrites>,
    pub(super) lists: BTreeMap<(TenantId, [u8; 16]), BTreeSet<[u8; 16]>>,
    pub(super) events: Vec<(TenantId, EventId, String)>,
}

impl Difference {
    /// Whether nothing is written: what was read need then not be looked at again.
    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty() && !self.shelves.values().any(ShelfWrites::writes)
    }

    /// Whether the stamp has to grow with it.
    pub(super) fn configures(&self) -> bool {
        self.shelves.iter().any(|(shelf, writes)| shelf.is_configuration() && writes.writes())
    }
}
