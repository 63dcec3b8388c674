-- Version 6: a lease has a token.

ALTER TABLE pending ADD COLUMN lease INTEGER;    -- the token; NULL: it waits, or an earlier version leased it

PRAGMA user_version = 6;
