-- Version 5: the last writers, by which an older state of the file is recognised; and entries trimmed unread.

-- Each transaction of forebay gives its writer the next number: a state that lacks a number is an older one.
CREATE TABLE writers (
    id     INTEGER PRIMARY KEY,    -- made at random, by each process
    number INTEGER NOT NULL
);
INSERT INTO writers (id, number) VALUES (random(), 1);

-- Entries that any program removed before the group had read them, counted until `trimmed_unread` returns the number.
ALTER TABLE groups ADD COLUMN missed INTEGER NOT NULL DEFAULT 0;
CREATE TRIGGER entries_missed AFTER DELETE ON entries
WHEN EXISTS (SELECT 1 FROM groups WHERE stream_id = OLD.stream_id AND cursor < OLD.seq)
BEGIN
    UPDATE groups SET missed = missed + 1
    WHERE stream_id = OLD.stream_id AND cursor < OLD.seq AND (OLD.only_group IS NULL OR OLD.only_group = name);
END;

-- `unixepoch('subsec')` is NULL in an SQLite before 3.42, such as Debian 12's, whose programs may insert, too.
PRAGMA writable_schema = ON;
UPDATE sqlite_schema SET sql = replace(sql, 'unixepoch(''subsec'')', '(julianday(''now'') - 2440587.5) * 86400')
WHERE type = 'table' AND name = 'entries';
PRAGMA writable_schema = RESET;

PRAGMA user_version = 5;
