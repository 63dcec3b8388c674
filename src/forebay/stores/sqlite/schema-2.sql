-- Version 2: small values kept beside a stream, under names.

CREATE TABLE notes (
    namespace TEXT NOT NULL,
    stream    TEXT NOT NULL,    -- its name: notes alone make no stream
    name      TEXT NOT NULL,
    value     BLOB NOT NULL,
    PRIMARY KEY (namespace, stream, name)
) WITHOUT ROWID;

PRAGMA user_version = 2;
