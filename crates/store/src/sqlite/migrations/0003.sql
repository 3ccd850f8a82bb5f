-- Counts the changes of tenants, clients, providers and templates, so that one look tells whether copies of them still hold.
CREATE TABLE configuration (
    one     INTEGER PRIMARY KEY CHECK (one = 1),
    changes INTEGER NOT NULL
);
INSERT INTO configuration VALUES (1, 0);
