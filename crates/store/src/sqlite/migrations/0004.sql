-- People who have shown a first factor and have not finished with the second. A sign-in is found by the keyed hash of its token, and has
-- no order of age; but unlike a limit it has an end from the beginning, so retention finds by the index what is over.
CREATE TABLE sign_ins (
    row INTEGER PRIMARY KEY,
    tenant BLOB NOT NULL,
    id BLOB NOT NULL,
    version INTEGER NOT NULL,
    over_at INTEGER NOT NULL,
    body TEXT NOT NULL,
    UNIQUE (tenant, id)
);
CREATE INDEX sign_ins_over ON sign_ins (tenant, over_at);
