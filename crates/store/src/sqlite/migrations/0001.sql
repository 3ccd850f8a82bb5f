-- One table a noun. Every key begins with the tenant; ids are ordered by time, so new rows are appended. `version` counts
-- the replacements of a row, `body` is the noun as JSON, and what stands between them is what a noun is looked up by.

CREATE TABLE tenants (
    tenant  BLOB    NOT NULL,
    id      BLOB    NOT NULL,
    version INTEGER NOT NULL,
    name    TEXT    NOT NULL UNIQUE,
    body    TEXT    NOT NULL,
    PRIMARY KEY (tenant, id)
) WITHOUT ROWID;

-- A `client_id` is unique in the whole house: it arrives before anybody knows the tenant.
CREATE TABLE clients (
    tenant    BLOB    NOT NULL,
    id        BLOB    NOT NULL,
    version   INTEGER NOT NULL,
    client_id TEXT    NOT NULL UNIQUE,
    body      TEXT    NOT NULL,
    PRIMARY KEY (tenant, id)
) WITHOUT ROWID;

CREATE TABLE users (
    tenant  BLOB    NOT NULL,
    id      BLOB    NOT NULL,
    version INTEGER NOT NULL,
    named   BLOB    NOT NULL,
    body    TEXT    NOT NULL,
    PRIMARY KEY (tenant, id),
    UNIQUE (tenant, named)
) WITHOUT ROWID;

CREATE TABLE factors (
    tenant  BLOB    NOT NULL,
    id      BLOB    NOT NULL,
    version INTEGER NOT NULL,
    owner   BLOB    NOT NULL,
    body    TEXT    NOT NULL,
    PRIMARY KEY (tenant, id)
) WITHOUT ROWID;
CREATE INDEX factors_of ON factors (tenant, owner, id);

CREATE TABLE challenges (
    tenant  BLOB    NOT NULL,
    id      BLOB    NOT NULL,
    version INTEGER NOT NULL,
    body    TEXT    NOT NULL,
    PRIMARY KEY (tenant, id)
) WITHOUT ROWID;

-- The index is the outbox: it holds what waits and nothing else, so it stays small however much was sent.
CREATE TABLE deliveries (
    tenant  BLOB    NOT NULL,
    id      BLOB    NOT NULL,
    version INTEGER NOT NULL,
    due_at  INTEGER,
    body    TEXT    NOT NULL,
    PRIMARY KEY (tenant, id)
) WITHOUT ROWID;
CREATE INDEX outbox ON deliveries (due_at) WHERE due_at IS NOT NULL;

CREATE TABLE limits (
    tenant  BLOB    NOT NULL,
    id      BLOB    NOT NULL,
    version INTEGER NOT NULL,
    over_at INTEGER,
    body    TEXT    NOT NULL,
    PRIMARY KEY (tenant, id)
) WITHOUT ROWID;

CREATE TABLE providers (
    tenant  BLOB    NOT NULL,
    id      BLOB    NOT NULL,
    version INTEGER NOT NULL,
    name    TEXT    NOT NULL,
    body    TEXT    NOT NULL,
    PRIMARY KEY (tenant, id),
    UNIQUE (tenant, name)
) WITHOUT ROWID;

-- `called` is realm, channel and name in one text: requests choose words by these three, without regard to case.
CREATE TABLE templates (
    tenant  BLOB    NOT NULL,
    id      BLOB    NOT NULL,
    version INTEGER NOT NULL,
    called  TEXT    NOT NULL,
    body    TEXT    NOT NULL,
    PRIMARY KEY (tenant, id),
    UNIQUE (tenant, called)
) WITHOUT ROWID;

CREATE TABLE events (
    tenant BLOB NOT NULL,
    id     BLOB NOT NULL,
    body   TEXT NOT NULL,
    PRIMARY KEY (tenant, id)
) WITHOUT ROWID;

-- What the health check writes: a disk that can be read and not written is not healthy.
CREATE TABLE pulse (
    one   INTEGER PRIMARY KEY CHECK (one = 1),
    beats INTEGER NOT NULL
);
INSERT INTO pulse VALUES (1, 0);
