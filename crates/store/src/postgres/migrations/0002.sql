-- Counts the changes of tenants, clients, providers and templates, so that one look tells whether copies of them still hold. A
-- program that does not know of it changes them without counting; the others read their copies again now and then because of it.
CREATE TABLE configuration (
    one     integer PRIMARY KEY CHECK (one = 1),
    changes bigint NOT NULL
);
INSERT INTO configuration VALUES (1, 0);
