-- Version 6: a lease has a token, which its holder gives back.

ALTER TABLE pending ADD COLUMN lease INTEGER;    -- made anew at each lease; NULL: it waits, or an earlier version leased it

PRAGMA user_version = 6;
