-- One table a noun. Every key begins with the tenant; ids are ordered by time, so new rows are appended. `version` counts
-- the replacements of a row, `body` is the noun as JSON, and what stands between them is what a noun is looked up by.
--
-- The rows lie in the order in which they came, and the key is an index beside them. Tables WITHOUT ROWID were measured as
-- well: a page of their tree holds eight whole rows where a page of the index holds ninety keys, so with millions of rows
-- each look goes through seven or eight pages instead of three, and with thousands of tenants each change dirties a page
-- of its own instead of sharing the newest one.

CREATE TABLE tenants (
    row INTEGER PRIMARY KEY,
    tenant BLOB NOT NULL,
    id BLOB NOT NULL,
    version INTEGER NOT NULL,
    name TEXT NOT NULL UNIQUE,
    body TEXT NOT NULL,
    UNIQUE (tenant, id)
);

-- A `client_id` is unique in the whole house: it arrives before anybody knows the tenant.
CREATE TABLE clients (
    row INTEGER PRIMARY KEY,
    tenant BLOB NOT NULL,
    id BLOB NOT NULL,
    version INTEGER NOT NULL,
    client_id TEXT NOT NULL UNIQUE,
    body TEXT NOT NULL,
    UNIQUE (tenant, id)
);

CREATE TABLE users (
    row INTEGER PRIMARY KEY,
    tenant BLOB NOT NULL,
    id BLOB NOT NULL,
    version INTEGER NOT NULL,
    named BLOB NOT NULL,
    body TEXT NOT NULL,
    UNIQUE (tenant, id),
    UNIQUE (tenant, named)
);

CREATE TABLE factors (
    row INTEGER PRIMARY KEY,
    tenant BLOB NOT NULL,
    id BLOB NOT NULL,
    version INTEGER NOT NULL,
    owner BLOB NOT NULL,
    body TEXT NOT NULL,
    UNIQUE (tenant, id)
);
CREATE INDEX factors_of ON factors (tenant, owner, id);

CREATE TABLE challenges (
    row INTEGER PRIMARY KEY,
    tenant BLOB NOT NULL,
    id BLOB NOT NULL,
    version INTEGER NOT NULL,
    body TEXT NOT NULL,
    UNIQUE (tenant, id)
);

-- The index is the outbox: it holds what waits and nothing else, so it stays small however much was sent.
CREATE TABLE deliveries (
    row INTEGER PRIMARY KEY,
    tenant BLOB NOT NULL,
    id BLOB NOT NULL,
    version INTEGER NOT NULL,
    due_at INTEGER,
    body TEXT NOT NULL,
    UNIQUE (tenant, id)
);
CREATE INDEX outbox ON deliveries (due_at) WHERE due_at IS NOT NULL;

CREATE TABLE limits (
    row INTEGER PRIMARY KEY,
    tenant BLOB NOT NULL,
    id BLOB NOT NULL,
    version INTEGER NOT NULL,
    over_at INTEGER,
    body TEXT NOT NULL,
    UNIQUE (tenant, id)
);

CREATE TABLE providers (
    row INTEGER PRIMARY KEY,
    tenant BLOB NOT NULL,
    id BLOB NOT NULL,
    version INTEGER NOT NULL,
    name TEXT NOT NULL,
    body TEXT NOT NULL,
    UNIQUE (tenant, id),
    UNIQUE (tenant, name)
);

-- `called` is realm, channel and name in one text: requests choose words by these three, without regard to case.
CREATE TABLE templates (
    row INTEGER PRIMARY KEY,
    tenant BLOB NOT NULL,
    id BLOB NOT NULL,
    version INTEGER NOT NULL,
    called TEXT NOT NULL,
    body TEXT NOT NULL,
    UNIQUE (tenant, id),
    UNIQUE (tenant, called)
);

CREATE TABLE events (
    row INTEGER PRIMARY KEY,
    tenant BLOB NOT NULL,
    id BLOB NOT NULL,
    body TEXT NOT NULL,
    UNIQUE (tenant, id)
);

-- What the health check writes: a disk that can be read and not written is not healthy.
CREATE TABLE pulse (
    one   INTEGER PRIMARY KEY CHECK (one = 1),
    beats INTEGER NOT NULL
);
INSERT INTO pulse VALUES (1, 0);
