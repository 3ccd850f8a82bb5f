//! Nouns as rows, for every engine.
//!
//! Owns the names of tables, the columns by which a noun is looked up, and the JSON that holds the rest. How these are written
//! and read is each engine's own.

use countersign_core::nouns::user::Realm;
use countersign_core::ports::{Held, Key, Record, Version};
use countersign_core::words::id::TenantId;
use countersign_core::words::refusal::Fault;
use std::borrow::Cow;
use std::time::Duration;

/// When trying again may help, after the database or its disk said no.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// The tables of nouns that have a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Shelf {
    Tenants,
    Clients,
    Users,
    Factors,
    Challenges,
    Deliveries,
    Limits,
    SignIns,
    Providers,
    Templates,
}

impl Shelf {
    pub(crate) const ALL: [Self; 10] = [
        Self::Tenants,
        Self::Clients,
        Self::Users,
        Self::Factors,
        Self::Challenges,
        Self::Deliveries,
        Self::Limits,
        Self::SignIns,
        Self::Providers,
        Self::Templates,
    ];

    pub(crate) const fn table(self) -> &'static str {
        match self {
            Self::Tenants => "tenants",
            Self::Clients => "clients",
            Self::Users => "users",
            Self::Factors => "factors",
            Self::Challenges => "challenges",
            Self::Deliveries => "deliveries",
            Self::Limits => "limits",
            Self::SignIns => "sign_ins",
            Self::Providers => "providers",
            Self::Templates => "templates",
        }
    }

    /// The column by which a noun is looked up beside its id, and whether a replacement may change it.
    pub(crate) const fn column(self) -> Option<(&'static str, bool)> {
        match self {
            Self::Tenants | Self::Providers => Some(("name", true)),
            Self::Clients => Some(("client_id", true)),
            Self::Users => Some(("named", true)),
            // A factor never changes hands, and writing the column would touch its index.
            Self::Factors => Some(("owner", false)),
            Self::Challenges => None,
            Self::Deliveries => Some(("due_at", true)),
            Self::Limits | Self::SignIns => Some(("over_at", true)),
            Self::Templates => Some(("called", true)),
        }
    }

    /// Whether a change of this table is one that the stamp counts, as `Key::is_configuration` says it of keys.
    pub(crate) const fn is_configuration(self) -> bool {
        match self {
            Self::Tenants | Self::Clients | Self::Providers | Self::Templates => true,
            Self::Users | Self::Factors | Self::Challenges | Self::Deliveries | Self::Limits | Self::SignIns => false,
        }
    }

    /// The noun that a row of this table holds.
    pub(crate) fn read(self, version: Version, body: &[u8]) -> Result<Held<Record>, Damaged> {
        let noun = match self {
            Self::Tenants => serde_json::from_slice(body).map(Record::Tenant),
            Self::Clients => serde_json::from_slice(body).map(Record::Client),
            Self::Users => serde_json::from_slice(body).map(Record::User),
            Self::Factors => serde_json::from_slice(body).map(Record::Factor),
            Self::Challenges => serde_json::from_slice(body).map(Record::Challenge),
            Self::Deliveries => serde_json::from_slice(body).map(Record::Delivery),
            Self::Limits => serde_json::from_slice(body).map(Record::Limit),
            Self::SignIns => serde_json::from_slice(body).map(Record::SignIn),
            Self::Providers => serde_json::from_slice(body).map(Record::Provider),
            Self::Templates => serde_json::from_slice(body).map(Record::Template),
        };
        Ok(Held { noun: noun.map_err(|error| Damaged::unreadable(self.table(), &error))?, version })
    }
}

/// Where a row is, within its tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Spot {
    pub(crate) shelf: Shelf,
    pub(crate) id: [u8; 16],
}

impl Spot {
    /// Where a record is kept.
    pub(crate) fn of(tenant: TenantId, record: &Record) -> Self {
        let (shelf, id) = match record {
            Record::Tenant(_) => (Shelf::Tenants, *tenant.as_bytes()),
            Record::Client(it) => (Shelf::Clients, *it.id.as_bytes()),
            Record::User(it) => (Shelf::Users, *it.id.as_bytes()),
            Record::Factor(it) => (Shelf::Factors, *it.id.as_bytes()),
            Record::Challenge(it) => (Shelf::Challenges, *it.id.as_bytes()),
            Record::Delivery(it) => (Shelf::Deliveries, *it.id.as_bytes()),
            Record::Limit(it) => (Shelf::Limits, *it.of.as_bytes()),
            Record::SignIn(it) => (Shelf::SignIns, *it.of.as_bytes()),
            Record::Provider(it) => (Shelf::Providers, *it.id.as_bytes()),
            Record::Template(it) => (Shelf::Templates, *it.id.as_bytes()),
        };
        Self { shelf, id }
    }
}

/// How a key finds its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Way {
    /// By the primary key.
    Spot(Spot),
    /// A person by name.
    Named([u8; 16]),
    /// The factors of a person.
    Of([u8; 16]),
}

impl Way {
    pub(crate) fn of(tenant: TenantId, key: Key) -> Self {
        let spot = |shelf, id: &[u8; 16]| Self::Spot(Spot { shelf, id: *id });
        match key {
            Key::Tenant => spot(Shelf::Tenants, tenant.as_bytes()),
            Key::Client(id) => spot(Shelf::Clients, id.as_bytes()),
            Key::User(id) => spot(Shelf::Users, id.as_bytes()),
            Key::UserNamed(named) => Self::Named(*named.as_bytes()),
            Key::Factor(id) => spot(Shelf::Factors, id.as_bytes()),
            Key::FactorsOf(user) => Self::Of(*user.as_bytes()),
            Key::Challenge(id) => spot(Shelf::Challenges, id.as_bytes()),
            Key::Delivery(id) => spot(Shelf::Deliveries, id.as_bytes()),
            Key::Limit(of) => spot(Shelf::Limits, of.as_bytes()),
            Key::SignIn(of) => spot(Shelf::SignIns, of.as_bytes()),
            Key::Provider(id) => spot(Shelf::Providers, id.as_bytes()),
            Key::Template(id) => spot(Shelf::Templates, id.as_bytes()),
        }
    }
}

/// What stands in the column of [`Shelf::column`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Column<'a> {
    /// The table has none.
    None,
    /// A name.
    Text(Cow<'a, str>),
    /// An id, or a fingerprint.
    Id(&'a [u8; 16]),
    /// A moment, in milliseconds since 1970; none when it will not come.
    Millis(Option<i64>),
}

/// What `record` has in its column.
pub(crate) fn column(record: &Record) -> Column<'_> {
    match record {
        Record::Tenant(it) => Column::Text(it.name.as_str().into()),
        Record::Client(it) => Column::Text(it.client_id.as_str().into()),
        Record::User(it) => Column::Id(it.named.as_bytes()),
        Record::Factor(it) => Column::Id(it.user.as_bytes()),
        Record::Challenge(_) => Column::None,
        Record::Delivery(it) => Column::Millis(it.due_at().map(|at| at.as_millis())),
        Record::Limit(it) => Column::Millis(it.over_at().map(|at| at.as_millis())),
        Record::SignIn(it) => Column::Millis(Some(it.over_at.as_millis())),
        Record::Provider(it) => Column::Text(it.name.as_str().into()),
        Record::Template(it) => {
            let realm = match it.realm {
                Realm::Tenant => String::new(),
                Realm::Client(id) => id.to_string(),
            };
            Column::Text(format!("{realm}/{}/{}", it.channel, it.name.to_ascii_lowercase()).into())
        }
    }
}

/// Writes the noun as JSON at the end of `into`.
pub(crate) fn write_body(record: &Record, into: &mut Vec<u8>) -> Result<(), Damaged> {
    match record {
        Record::Tenant(it) => serde_json::to_writer(into, it),
        Record::Client(it) => serde_json::to_writer(into, it),
        Record::User(it) => serde_json::to_writer(into, it),
        Record::Factor(it) => serde_json::to_writer(into, it),
        Record::Challenge(it) => serde_json::to_writer(into, it),
        Record::Delivery(it) => serde_json::to_writer(into, it),
        Record::Limit(it) => serde_json::to_writer(into, it),
        Record::SignIn(it) => serde_json::to_writer(into, it),
        Record::Provider(it) => serde_json::to_writer(into, it),
        Record::Template(it) => serde_json::to_writer(into, it),
    }
    .map_err(|_| Damaged("a record cannot be written as JSON".into()))
}

/// What is kept cannot be read, or what is to be kept cannot be written. The words name a table, never what is in it.
#[derive(Debug, Clone)]
pub(crate) struct Damaged(pub(crate) String);

impl Damaged {
    pub(crate) fn unreadable(table: &str, error: &serde_json::Error) -> Self {
        // The error's own text quotes what it stumbled over, which may be anything that is kept (invariant 7).
        Self(format!("a row of {table} ({:?} error at column {})", error.classify(), error.column()))
    }
}

/// The database or its disk is away.
pub(crate) fn unavailable(what: impl Into<String>) -> Fault {
    Fault::Unavailable { what: what.into(), retry_after: AFTER_FAILURE }
}
