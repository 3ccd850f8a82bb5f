//! Statements.
//!
//! Owns all SQL on the way of a request. Every statement carries many rows as arrays, and none is prepared by name: a pooler
//! between us and the database may hand each transaction to another of its connections.

use super::slate::{By, Difference, Kept, Name, NameText, Place, Read, Row, ShelfWrites, Want};
use crate::rows::{Column, Shelf, Spot};
use countersign_core::words::id::{EventId, TenantId};
use std::collections::{BTreeSet, HashMap};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::Poll;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error, Row as Found};
use uuid::Uuid;

/// A statement on its way.
type Asked<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

pub(super) fn uuid(bytes: &[u8; 16]) -> Uuid {
    Uuid::from_bytes(*bytes)
}

fn uuids<'a>(bytes: impl Iterator<Item = &'a [u8; 16]>) -> Vec<Uuid> {
    bytes.map(uuid).collect()
}

/// Statements of one table.
struct Texts {
    read: String,
    lock: String,
    remove: String,
    replace: String,
    insert: String,
}

static TEXTS: LazyLock<Vec<Texts>> = LazyLock::new(|| Shelf::ALL.into_iter().map(texts).collect());

/// The SQL type of the column between `born` and `body`.
fn column_type(shelf: Shelf) -> Option<Type> {
    match shelf {
        Shelf::Tenants | Shelf::Clients | Shelf::Providers | Shelf::Templates => Some(Type::TEXT_ARRAY),
        Shelf::Users | Shelf::Factors => Some(Type::UUID_ARRAY),
        Shelf::Deliveries | Shelf::Limits | Shelf::SignIns => Some(Type::INT8_ARRAY),
        Shelf::Challenges => None,
    }
}

/// Gives `rows` back only when it has as many rows as were meant: otherwise somebody was faster, and the whole transaction must
/// not happen. A division by zero is the plainest error that a statement can raise without a function of our own.
fn all_or_nothing(rows: &str, meant: u32) -> String {
    format!("WITH done AS ({rows}) SELECT 1 / (CASE WHEN count(*) = ${meant} THEN 1 ELSE 0 END) FROM done")
}

fn texts(shelf: Shelf) -> Texts {
    let table = shelf.table();
    let read = format!(
        "SELECT t.tenant, t.id, t.version, t.born, t.body FROM unnest($1, $2) AS u(tenant, id) JOIN {table} t ON t.tenant = u.tenant AND t.id = u.id"
    );
    let as_read = "t.tenant = u.tenant AND t.id = u.id AND t.version = u.version AND t.born = u.born";
    let spots = "unnest($1, $2, $3, $4) AS u(tenant, id, version, born)";
    let lock = all_or_nothing(&format!("SELECT 1 FROM {spots} JOIN {table} t ON {as_read} ORDER BY t.tenant, t.id FOR UPDATE OF t"), 5);
    let remove = all_or_nothing(&format!("DELETE FROM {table} t USING {spots} WHERE {as_read} RETURNING 1"), 5);
    let (names, sets) = match shelf.column() {
        Some((name, true)) => (format!(", {name}"), format!(", {name} = u.{name}")),
        Some((_, false)) | None => (String::new(), String::new()),
    };
    // With the column there is one parameter more.
    let (given, next, meant) = if names.is_empty() { ("", 5, 8) } else { (", $5", 6, 9) };
    let (next_born, body) = (next + 1, next + 2);
    let replace = all_or_nothing(
        &format!(
            "UPDATE {table} t SET version = u.next, born = u.next_born, body = u.body{sets} \
             FROM unnest($1, $2, $3, $4{given}, ${next}, ${next_born}, ${body}) AS u(tenant, id, version, born{names}, next, next_born, body) \
             WHERE {as_read} RETURNING 1"
        ),
        meant,
    );
    let (names, given, meant) = match shelf.column() {
        Some((name, _)) => (format!(", {name}"), ", $6", 7),
        None => (String::new(), "", 6),
    };
    let insert = all_or_nothing(
        &format!(
            "INSERT INTO {table} (tenant, id, version, born, body{names}) SELECT * FROM unnest($1, $2, $3, $4, $5{given}) \
             ON CONFLICT DO NOTHING RETURNING 1"
        ),
        meant,
    );
    Texts { read, lock, remove, replace, insert }
}

fn of(shelf: Shelf) -> &'static Texts {
    &TEXTS[shelf as usize]
}

// ------------------------------------------------------------------------------------------------------------------ reads

/// A row that was found, and why.
pub(super) type FoundRow = (Read, By);

/// Reads all of `wants`, with one statement for each table and way, all of them on their way at once.
pub(super) async fn read(client: &Client, wants: &[Want]) -> Result<Vec<FoundRow>, Error> {
    let mut spots: HashMap<Shelf, Vec<&Place>> = HashMap::new();
    let mut names: HashMap<Shelf, Vec<&Name>> = HashMap::new();
    let mut persons = Vec::new();
    for want in wants {
        match want {
            Want::Row(place) => spots.entry(place.spot.shelf).or_default().push(place),
            Want::Named(name) => names.entry(name.shelf).or_default().push(name),
            Want::Factors(tenant, user) => persons.push((*tenant, *user)),
        }
    }
    let mut asked: Vec<Asked<'_, Vec<FoundRow>>> = Vec::new();
    for (shelf, places) in spots {
        asked.push(Box::pin(read_rows(client, shelf, places)));
    }
    for (shelf, names) in names {
        asked.push(Box::pin(read_named(client, shelf, names)));
    }
    if !persons.is_empty() {
        asked.push(Box::pin(read_factors(client, persons)));
    }
    Ok(all(asked).await.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
}

async fn read_rows(client: &Client, shelf: Shelf, places: Vec<&Place>) -> Result<Vec<FoundRow>, Error> {
    let tenants = uuids(places.iter().map(|it| it.tenant.as_bytes()));
    let ids = uuids(places.iter().map(|it| &it.spot.id));
    let rows = client.query_typed(&of(shelf).read, &[(&tenants, Type::UUID_ARRAY), (&ids, Type::UUID_ARRAY)]).await?;
    rows.iter().map(|row| Ok((row_at(row, shelf)?, By::Place))).collect()
}

async fn read_named(client: &Client, shelf: Shelf, names: Vec<&Name>) -> Result<Vec<FoundRow>, Error> {
    let (table, name) = (shelf.table(), shelf.column().map_or("id", |(name, _)| name));
    let texts: Vec<&str> = names
        .iter()
        .filter_map(|it| match &it.text {
            NameText::Text(text) => Some(text.as_str()),
            NameText::Id(_) => None,
        })
        .collect();
    let ids = uuids(names.iter().filter_map(|it| match &it.text {
        NameText::Id(id) => Some(id),
        NameText::Text(_) => None,
    }));
    let called: (&(dyn ToSql + Sync), Type) = if ids.is_empty() { (&texts, Type::TEXT_ARRAY) } else { (&ids, Type::UUID_ARRAY) };
    let select = format!("SELECT t.tenant, t.id, t.version, t.born, t.body, t.{name} FROM {table} t");
    let within: Option<Vec<Uuid>> = names.iter().map(|it| it.tenant.map(|tenant| uuid(tenant.as_bytes()))).collect();
    let rows = match &within {
        Some(tenants) => {
            let text = format!("{select} JOIN unnest($1, $2) AS u(tenant, name) ON t.tenant = u.tenant AND t.{name} = u.name");
            client.query_typed(&text, &[(tenants, Type::UUID_ARRAY), called]).await?
        }
        None => client.query_typed(&format!("{select} WHERE t.{name} = ANY($1)"), &[called]).await?,
    };
    let read = |row: &Found| {
        let read = row_at(row, shelf)?;
        let tenant = within.is_some().then_some(read.place.tenant);
        let text = if ids.is_empty() { NameText::Text(row.try_get(5)?) } else { NameText::Id(row.try_get::<_, Uuid>(5)?.into_bytes()) };
        Ok((read, By::Name(Name { shelf, tenant, text })))
    };
    rows.iter().map(read).collect()
}

async fn read_factors(client: &Client, persons: Vec<(TenantId, [u8; 16])>) -> Result<Vec<FoundRow>, Error> {
    let tenants = uuids(persons.iter().map(|(tenant, _)| tenant.as_bytes()));
    let owners = uuids(persons.iter().map(|(_, user)| user));
    let text = "SELECT t.tenant, t.id, t.version, t.born, t.body, t.owner FROM unnest($1, $2) AS u(tenant, owner) \
                JOIN factors t ON t.tenant = u.tenant AND t.owner = u.owner";
    let rows = client.query_typed(text, &[(&tenants, Type::UUID_ARRAY), (&owners, Type::UUID_ARRAY)]).await?;
    rows.iter().map(|row| Ok((row_at(row, Shelf::Factors)?, By::Owner(row.try_get::<_, Uuid>(5)?.into_bytes())))).collect()
}

/// A row that begins with `tenant, id, version, born, body`.
pub(super) fn row_at(row: &Found, shelf: Shelf) -> Result<Read, Error> {
    let spot = Spot { shelf, id: row.try_get::<_, Uuid>(1)?.into_bytes() };
    let place = Place { tenant: TenantId::from_bytes(row.try_get::<_, Uuid>(0)?.into_bytes()), spot };
    let kept = Kept { version: row.try_get(2)?, born: row.try_get(3)? };
    Ok(Read { place, kept, held: shelf.read(kept.version, row.try_get::<_, &str>(4)?.as_bytes()) })
}

/// Those of these events that are there, as they were written.
pub(super) async fn events_there(client: &Client, events: &[(TenantId, EventId)]) -> Result<Vec<(TenantId, String)>, Error> {
    let tenants = uuids(events.iter().map(|(tenant, _)| tenant.as_bytes()));
    let ids = uuids(events.iter().map(|(_, id)| id.as_bytes()));
    let text = "SELECT t.tenant, t.body FROM unnest($1, $2) AS u(tenant, id) JOIN events t ON t.tenant = u.tenant AND t.id = u.id";
    let rows = client.query_typed(text, &[(&tenants, Type::UUID_ARRAY), (&ids, Type::UUID_ARRAY)]).await?;
    let read = |row: &Found| {
        let tenant = TenantId::from_bytes(row.try_get::<_, Uuid>(0)?.into_bytes());
        Ok((tenant, row.try_get(1)?))
    };
    rows.iter().map(read).collect()
}

// ----------------------------------------------------------------------------------------------------------------- writes

/// Why a batch was not committed.
#[derive(Debug)]
pub(super) enum NotWritten {
    /// The commit was not sent. The line holds a transaction that never ends, and must be given up.
    Unsent(Error),
    /// The database refused a statement before the commit: nothing has happened.
    Refused(Error),
    /// Nobody knows whether the commit happened.
    Unknown(Error),
}

/// Writes all of `difference` in one transaction. Everything is sent at once, the commit included, so no lock is held while a
/// message travels: a statement that does not find what was read raises an error, and the commit then undoes.
pub(super) async fn write(client: &Client, difference: &Difference, statement_timeout_ms: u128) -> Result<(), NotWritten> {
    // Only for this transaction, because a pooler may give the connection to somebody else after it. With nested loops rows are
    // locked in the order in which they are sent.
    let begin = format!(
        "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL statement_timeout = {statement_timeout_ms}; \
         SET LOCAL client_min_messages = warning; SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off; SET LOCAL enable_seqscan = off"
    );
    let mut asked: Vec<Asked<'_, ()>> = vec![Box::pin(async move { client.batch_execute(&begin).await })];
    let mut lists = Some(&difference.lists);
    for shelf in Shelf::ALL {
        // Whoever changes the factors of a person locks the person first, with all others whom this batch locks.
        if shelf == Shelf::Users && !difference.lists.is_empty() {
            asked.push(Box::pin(lock_persons(client, difference)));
        }
        if shelf == Shelf::Factors {
            for ((tenant, user), ids) in lists.take().into_iter().flatten() {
                asked.push(Box::pin(check_factors(client, *tenant, *user, uuids(ids.iter()))));
            }
        }
        if let Some(writes) = difference.shelves.get(&shelf) {
            write_shelf(client, shelf, writes, &mut asked);
        }
    }
    if !difference.events.is_empty() {
        asked.push(Box::pin(insert_events(client, difference)));
    }
    if difference.is_empty() {
        asked.push(Box::pin(client.batch_execute("UPDATE pulse SET beats = beats + 1")));
    }
    if difference.configures() {
        // All changes of configuration wait for each other here, so it comes last: this lock is held shortest, and whoever waits for
        // it holds nothing that its holder still needs.
        asked.push(Box::pin(client.batch_execute("UPDATE configuration SET changes = changes + 1")));
    }
    // A commit that waits for a standby must not be cut short: the database would call it done without the standby. Two messages,
    // because after an error the rest of a message is not read, and the commit is what ends the transaction.
    asked.push(Box::pin(client.batch_execute("SET LOCAL statement_timeout = 0")));
    asked.push(Box::pin(client.batch_execute("COMMIT")));
    let mut ended = all_sent(asked).await.map_err(NotWritten::Unsent)?;
    let committed = ended.pop().unwrap_or(Ok(()));
    match (ended.into_iter().find_map(Result::err), committed) {
        (None, Ok(())) => Ok(()),
        // What was refused, the commit that followed has undone, and has said so.
        (Some(error), Ok(())) => Err(NotWritten::Refused(error)),
        // The line broke, or a pooler says that its own did: the commit may have been heard all the same.
        (Some(error), Err(_)) | (None, Err(error)) => Err(NotWritten::Unknown(error)),
    }
}

fn write_shelf<'a>(client: &'a Client, shelf: Shelf, writes: &'a ShelfWrites, asked: &mut Vec<Asked<'a, ()>>) {
    let kinds = [writes.kept.is_empty(), writes.gone.is_empty(), writes.changed.is_empty()].iter().filter(|it| !**it).count();
    if !writes.kept.is_empty() || kinds > 1 {
        // More than one statement will touch rows that are there, so all of them are locked first, in order.
        let all = writes.kept.iter().chain(&writes.gone).map(|(place, kept)| (*place, *kept));
        let mut all: Vec<_> = all.chain(writes.changed.iter().map(|(row, kept)| (row.place, *kept))).collect();
        all.sort_unstable_by_key(|(place, _)| *place);
        asked.push(Box::pin(on_spots(client, &of(shelf).lock, all)));
    }
    if !writes.gone.is_empty() {
        asked.push(Box::pin(on_spots(client, &of(shelf).remove, writes.gone.clone())));
    }
    if !writes.changed.is_empty() {
        asked.push(Box::pin(replace(client, shelf, &writes.changed)));
    }
    if !writes.new.is_empty() {
        asked.push(Box::pin(insert(client, shelf, &writes.new)));
    }
}

async fn on_spots(client: &Client, text: &str, spots: Vec<(Place, Kept)>) -> Result<(), Error> {
    let tenants = uuids(spots.iter().map(|(place, _)| place.tenant.as_bytes()));
    let ids = uuids(spots.iter().map(|(place, _)| &place.spot.id));
    let versions: Vec<i64> = spots.iter().map(|(_, kept)| kept.version).collect();
    let borns: Vec<i64> = spots.iter().map(|(_, kept)| kept.born).collect();
    let meant = spots.len() as i64;
    let given: [(&(dyn ToSql + Sync), Type); 5] = [
        (&tenants, Type::UUID_ARRAY),
        (&ids, Type::UUID_ARRAY),
        (&versions, Type::INT8_ARRAY),
        (&borns, Type::INT8_ARRAY),
        (&meant, Type::INT8),
    ];
    client.execute_typed(text, &given).await.map(drop)
}

async fn replace(client: &Client, shelf: Shelf, rows: &[(Row, Kept)]) -> Result<(), Error> {
    let tenants = uuids(rows.iter().map(|(row, _)| row.place.tenant.as_bytes()));
    let ids = uuids(rows.iter().map(|(row, _)| &row.place.spot.id));
    let versions: Vec<i64> = rows.iter().map(|(_, kept)| kept.version).collect();
    let borns: Vec<i64> = rows.iter().map(|(_, kept)| kept.born).collect();
    let next: Vec<i64> = rows.iter().map(|(row, _)| row.version).collect();
    let next_borns: Vec<i64> = rows.iter().map(|(row, _)| row.born).collect();
    let bodies: Vec<&str> = rows.iter().map(|(row, _)| row.body.as_str()).collect();
    let columns = Columns::of(shelf, rows.iter().map(|(row, _)| row));
    let meant = rows.len() as i64;
    let mut given: Vec<(&(dyn ToSql + Sync), Type)> =
        vec![(&tenants, Type::UUID_ARRAY), (&ids, Type::UUID_ARRAY), (&versions, Type::INT8_ARRAY), (&borns, Type::INT8_ARRAY)];
    if matches!(shelf.column(), Some((_, true))) {
        given.extend(columns.given());
    }
    given.extend([
        (&next as &(dyn ToSql + Sync), Type::INT8_ARRAY),
        (&next_borns, Type::INT8_ARRAY),
        (&bodies, Type::TEXT_ARRAY),
        (&meant, Type::INT8),
    ]);
    client.execute_typed(&of(shelf).replace, &given).await.map(drop)
}

async fn insert(client: &Client, shelf: Shelf, rows: &[Row]) -> Result<(), Error> {
    let tenants = uuids(rows.iter().map(|row| row.place.tenant.as_bytes()));
    let ids = uuids(rows.iter().map(|row| &row.place.spot.id));
    let versions: Vec<i64> = rows.iter().map(|row| row.version).collect();
    let borns: Vec<i64> = rows.iter().map(|row| row.born).collect();
    let bodies: Vec<&str> = rows.iter().map(|row| row.body.as_str()).collect();
    let columns = Columns::of(shelf, rows.iter());
    let meant = rows.len() as i64;
    let mut given: Vec<(&(dyn ToSql + Sync), Type)> = vec![
        (&tenants, Type::UUID_ARRAY),
        (&ids, Type::UUID_ARRAY),
        (&versions, Type::INT8_ARRAY),
        (&borns, Type::INT8_ARRAY),
        (&bodies, Type::TEXT_ARRAY),
    ];
    given.extend(columns.given());
    given.push((&meant, Type::INT8));
    client.execute_typed(&of(shelf).insert, &given).await.map(drop)
}

async fn insert_events(client: &Client, difference: &Difference) -> Result<(), Error> {
    let tenants = uuids(difference.events.iter().map(|(tenant, ..)| tenant.as_bytes()));
    let ids = uuids(difference.events.iter().map(|(_, id, _)| id.as_bytes()));
    let bodies: Vec<&str> = difference.events.iter().map(|(.., body)| body.as_str()).collect();
    let meant = difference.events.len() as i64;
    // An event that is there already was told by this very change, on a try whose end was not heard.
    let rows = "INSERT INTO events (tenant, id, body) SELECT * FROM unnest($1, $2, $3) ON CONFLICT DO NOTHING RETURNING 1";
    let given: [(&(dyn ToSql + Sync), Type); 4] =
        [(&tenants, Type::UUID_ARRAY), (&ids, Type::UUID_ARRAY), (&bodies, Type::TEXT_ARRAY), (&meant, Type::INT8)];
    client.execute_typed(&all_or_nothing(rows, 4), &given).await.map(drop)
}

/// Locks the persons whose factors were listed, together with all others whom this batch touches, in the order of their keys.
async fn lock_persons(client: &Client, difference: &Difference) -> Result<(), Error> {
    let listed = difference.lists.keys().map(|(tenant, user)| (*tenant, *user));
    let touched = difference.shelves.get(&Shelf::Users).into_iter().flat_map(|writes| {
        let spots = writes.kept.iter().chain(&writes.gone).map(|(place, _)| place);
        spots.chain(writes.changed.iter().map(|(row, _)| &row.place)).map(|place| (place.tenant, place.spot.id))
    });
    let all: BTreeSet<_> = listed.chain(touched).collect();
    let tenants = uuids(all.iter().map(|(tenant, _)| tenant.as_bytes()));
    let ids = uuids(all.iter().map(|(_, id)| id));
    let text = "SELECT 1 FROM unnest($1, $2) AS u(tenant, id) JOIN users t ON t.tenant = u.tenant AND t.id = u.id \
                ORDER BY t.tenant, t.id FOR UPDATE OF t";
    client.execute_typed(text, &[(&tenants, Type::UUID_ARRAY), (&ids, Type::UUID_ARRAY)]).await.map(drop)
}

/// Sees to it that the factors of a person are those that were read. They stay so until the commit, because the person is locked.
async fn check_factors(client: &Client, tenant: TenantId, user: [u8; 16], ids: Vec<Uuid>) -> Result<(), Error> {
    let (tenant, user) = (uuid(tenant.as_bytes()), uuid(&user));
    let check = "SELECT 1 / (CASE WHEN count(*) = $4 AND count(*) FILTER (WHERE id = ANY($3)) = $4 THEN 1 ELSE 0 END) \
                 FROM factors WHERE tenant = $1 AND owner = $2";
    let meant = ids.len() as i64;
    let given: [(&(dyn ToSql + Sync), Type); 4] =
        [(&tenant, Type::UUID), (&user, Type::UUID), (&ids, Type::UUID_ARRAY), (&meant, Type::INT8)];
    client.execute_typed(check, &given).await.map(drop)
}

/// The values of the column between `born` and `body`, for many rows.
enum Columns<'a> {
    None,
    Texts(Vec<&'a str>),
    Ids(Vec<Uuid>),
    Millis(Vec<Option<i64>>),
}

impl<'a> Columns<'a> {
    fn of(shelf: Shelf, rows: impl Iterator<Item = &'a Row>) -> Self {
        match column_type(shelf) {
            None => Self::None,
            Some(Type::UUID_ARRAY) => Self::Ids(rows.map(|row| uuid(&row.id)).collect()),
            Some(Type::INT8_ARRAY) => Self::Millis(
                rows.map(|row| match row.column {
                    Column::Millis(millis) => millis,
                    Column::None | Column::Text(_) | Column::Id(_) => None,
                })
                .collect(),
            ),
            Some(_) => Self::Texts(
                rows.map(|row| match &row.column {
                    Column::Text(text) => text.as_ref(),
                    Column::None | Column::Id(_) | Column::Millis(_) => "",
                })
                .collect(),
            ),
        }
    }

    fn given(&self) -> Option<(&(dyn ToSql + Sync), Type)> {
        match self {
            Self::None => None,
            Self::Texts(texts) => Some((texts, Type::TEXT_ARRAY)),
            Self::Ids(ids) => Some((ids, Type::UUID_ARRAY)),
            Self::Millis(millis) => Some((millis, Type::INT8_ARRAY)),
        }
    }
}

/// Waits for all of them, after they were sent in their order: the first poll is what sends.
async fn all<T>(asked: Vec<Asked<'_, T>>) -> Vec<Result<T, Error>> {
    all_sent(asked).await.unwrap_or_else(|unsent| vec![Err(unsent)])
}

/// The same, unless one cannot even be sent: then those after it are not sent either.
async fn all_sent<T>(mut asked: Vec<Asked<'_, T>>) -> Result<Vec<Result<T, Error>>, Error> {
    let mut ended: Vec<Option<Result<T, Error>>> = asked.iter().map(|_| None).collect();
    let mut sent = false;
    poll_fn(move |cx| {
        for (one, end) in asked.iter_mut().zip(&mut ended).filter(|(_, end)| end.is_none()) {
            if let Poll::Ready(done) = one.as_mut().poll(cx) {
                match done {
                    // An answer that came while the others were still being sent is an answer.
                    Err(unsent) if !sent && unsent.as_db_error().is_none() => return Poll::Ready(Err(unsent)),
                    done => *end = Some(done),
                }
            }
        }
        sent = true;
        if ended.iter().any(Option::is_none) { Poll::Pending } else { Poll::Ready(Ok(ended.drain(..).flatten().collect())) }
    })
    .await
}
