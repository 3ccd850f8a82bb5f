-- Whose turn it is at what one node at a time does.
CREATE TABLE turns (
    at     TEXT PRIMARY KEY,
    holder BLOB NOT NULL,
    until  INTEGER NOT NULL
);

-- Notes about the house as a whole, such as a copy that is not complete.
CREATE TABLE marks (
    name TEXT PRIMARY KEY,
    body TEXT NOT NULL
);
