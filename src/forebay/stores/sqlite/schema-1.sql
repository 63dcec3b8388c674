-- forebay's file format, version 1 (`PRAGMA user_version`; `PRAGMA application_id` says "fore").
-- Each later `schema-N.sql` upgrades a file of version N - 1 to version N.
--
-- The place of a row is its state: an entry of a group is unread (after the group's cursor), pending
-- (a row in `pending` with a consumer), waiting (one without), dead (a copy in `dead`), or done (no row).
--
-- Times are seconds. `appended`, `at`, `expires` and `failed_at` are Unix time, the file's own: the time since the start
-- of the machine plus the `epoch` in `meta`. The first process after that start sets the epoch, so that the wall clocks
-- of others do not change the time. `leased_at` and `due` count from the start of the machine, whose boot id is in
-- `meta`. The `due` of a record that is scheduled for a moment is 1e12 + `at`, and is compared with the wall clock.

CREATE TABLE meta (
    name  TEXT PRIMARY KEY,
    value TEXT
) WITHOUT ROWID;

CREATE TABLE streams (
    id        INTEGER PRIMARY KEY,
    namespace TEXT NOT NULL,
    name      TEXT NOT NULL,
    UNIQUE (namespace, name)
);

-- `seq` is the position. Any program may insert here; columns that it leaves out are NULL.
CREATE TABLE entries (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    stream_id  INTEGER NOT NULL REFERENCES streams,
    appended   REAL NOT NULL DEFAULT (unixepoch('subsec')),
    type       TEXT,
    source     TEXT,
    data       TEXT,    -- JSON
    timestamp  TEXT,    -- RFC 3339
    id         TEXT,
    key        TEXT,
    headers    TEXT,    -- JSON
    only_group TEXT     -- the one group that is to see it, or NULL: all
);
CREATE INDEX entries_by_stream ON entries (stream_id);    -- every index ends with the rowid, here `seq`
CREATE INDEX entries_for_one ON entries (stream_id) WHERE only_group IS NOT NULL;

CREATE TABLE scheduled (
    number     INTEGER PRIMARY KEY,
    stream_id  INTEGER NOT NULL REFERENCES streams,
    due        REAL NOT NULL,
    at         REAL NOT NULL,
    type       TEXT,
    source     TEXT,
    data       TEXT,
    timestamp  TEXT,
    id         TEXT,
    key        TEXT,
    headers    TEXT,
    only_group TEXT
);
CREATE INDEX scheduled_by_due ON scheduled (stream_id, due);

-- Ids of idempotent events. `seq` is NULL while the event is only scheduled.
CREATE TABLE seen (
    stream_id INTEGER NOT NULL REFERENCES streams,
    id        TEXT NOT NULL,
    seq       INTEGER,
    expires   REAL NOT NULL,
    PRIMARY KEY (stream_id, id)
) WITHOUT ROWID;
CREATE INDEX seen_by_expiry ON seen (expires);

CREATE TABLE groups (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    stream_id INTEGER NOT NULL REFERENCES streams,
    name      TEXT NOT NULL,
    cursor    INTEGER NOT NULL,    -- the last position handed out or passed over
    UNIQUE (stream_id, name)
);

CREATE TABLE pending (
    group_id  INTEGER NOT NULL REFERENCES groups,
    seq       INTEGER NOT NULL,    -- its entry may be gone, after a forced trim
    consumer  TEXT,                -- NULL while it waits
    attempt   INTEGER NOT NULL,
    failures  INTEGER NOT NULL,
    leased_at REAL,                -- last renewed; 0: before the machine was started
    due       REAL,                -- when the next attempt may begin, while it waits
    PRIMARY KEY (group_id, seq)
) WITHOUT ROWID;
CREATE INDEX pending_by_due ON pending (group_id, due) WHERE consumer IS NULL;

-- Ids of events that a group has acked with `remember`.
CREATE TABLE handled (
    group_id INTEGER NOT NULL REFERENCES groups,
    id       TEXT NOT NULL,
    expires  REAL NOT NULL,
    PRIMARY KEY (group_id, id)
) WITHOUT ROWID;
CREATE INDEX handled_by_expiry ON handled (expires);

CREATE TABLE dead (
    number     INTEGER PRIMARY KEY AUTOINCREMENT,
    stream_id  INTEGER NOT NULL REFERENCES streams,
    group_name TEXT NOT NULL,
    seq        INTEGER NOT NULL,
    attempts   INTEGER NOT NULL,
    error      TEXT NOT NULL,
    failed_at  REAL NOT NULL,
    type       TEXT,
    source     TEXT,
    data       TEXT,
    timestamp  TEXT,
    id         TEXT,
    key        TEXT,
    headers    TEXT,
    only_group TEXT
);
CREATE INDEX dead_by_stream ON dead (stream_id, group_name);

PRAGMA application_id = 0x666F7265;
PRAGMA user_version = 1;
