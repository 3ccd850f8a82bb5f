-- One table a noun, as in the embedded engine. Every key begins with the tenant, so that the tables can be spread by tenant; ids
-- are ordered by time, so new rows are appended to their tenant's. `version` counts the replacements of a row, `body` is the noun
-- as JSON, and what stands between them is what a noun is looked up by.
--
-- `born` is drawn when a row is put in. Whoever replaces a row names version and birth: a row that was removed and put in again
-- in the meantime counts its versions from one, and must not be taken for the one that was read.
--
-- Rows that are replaced leave room on their page (fillfactor), so that the new version lies beside the old one and no index
-- needs to know of it.

CREATE TABLE tenants (
    tenant uuid NOT NULL,
    id uuid NOT NULL,
    version bigint NOT NULL,
    born bigint NOT NULL,
    name text NOT NULL UNIQUE,
    body text NOT NULL,
    PRIMARY KEY (tenant, id)
);

-- A `client_id` is unique in the whole house: it arrives before anybody knows the tenant.
CREATE TABLE clients (
    tenant uuid NOT NULL,
    id uuid NOT NULL,
    version bigint NOT NULL,
    born bigint NOT NULL,
    client_id text NOT NULL UNIQUE,
    body text NOT NULL,
    PRIMARY KEY (tenant, id)
);

CREATE TABLE users (
    tenant uuid NOT NULL,
    id uuid NOT NULL,
    version bigint NOT NULL,
    born bigint NOT NULL,
    named uuid NOT NULL,
    body text NOT NULL,
    PRIMARY KEY (tenant, id),
    UNIQUE (tenant, named)
);

CREATE TABLE factors (
    tenant uuid NOT NULL,
    id uuid NOT NULL,
    version bigint NOT NULL,
    born bigint NOT NULL,
    owner uuid NOT NULL,
    body text NOT NULL,
    PRIMARY KEY (tenant, id)
);
CREATE INDEX factors_of ON factors (tenant, owner, id);

CREATE TABLE challenges (
    tenant uuid NOT NULL,
    id uuid NOT NULL,
    version bigint NOT NULL,
    born bigint NOT NULL,
    body text NOT NULL,
    PRIMARY KEY (tenant, id)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02);

-- The index is the outbox: it holds what waits and nothing else, so it stays small however much was sent.
CREATE TABLE deliveries (
    tenant uuid NOT NULL,
    id uuid NOT NULL,
    version bigint NOT NULL,
    born bigint NOT NULL,
    due_at bigint,
    body text NOT NULL,
    PRIMARY KEY (tenant, id)
) WITH (autovacuum_vacuum_scale_factor = 0.02);
CREATE INDEX outbox ON deliveries (due_at) WHERE due_at IS NOT NULL;

CREATE TABLE limits (
    tenant uuid NOT NULL,
    id uuid NOT NULL,
    version bigint NOT NULL,
    born bigint NOT NULL,
    over_at bigint,
    body text NOT NULL,
    PRIMARY KEY (tenant, id)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02);

CREATE TABLE providers (
    tenant uuid NOT NULL,
    id uuid NOT NULL,
    version bigint NOT NULL,
    born bigint NOT NULL,
    name text NOT NULL,
    body text NOT NULL,
    PRIMARY KEY (tenant, id),
    UNIQUE (tenant, name)
);

-- `called` is realm, channel and name in one text: requests choose words by these three, without regard to case.
CREATE TABLE templates (
    tenant uuid NOT NULL,
    id uuid NOT NULL,
    version bigint NOT NULL,
    born bigint NOT NULL,
    called text NOT NULL,
    body text NOT NULL,
    PRIMARY KEY (tenant, id),
    UNIQUE (tenant, called)
);

CREATE TABLE events (
    tenant uuid NOT NULL,
    id uuid NOT NULL,
    body text NOT NULL,
    PRIMARY KEY (tenant, id)
);

-- What the health check writes: a database that can be read and not written is not healthy.
CREATE TABLE pulse (
    one   integer PRIMARY KEY CHECK (one = 1),
    beats bigint NOT NULL
);
INSERT INTO pulse VALUES (1, 0);

-- Whose turn it is at what one node at a time does.
CREATE TABLE turns (
    at     text PRIMARY KEY,
    holder uuid NOT NULL,
    until  bigint NOT NULL
);

-- Notes about the house as a whole, such as a copy that is not complete.
CREATE TABLE marks (
    name text PRIMARY KEY,
    body text NOT NULL
);
