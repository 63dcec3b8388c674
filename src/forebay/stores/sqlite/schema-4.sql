-- Version 4: how an event failed is kept with it, and with its dead letter.

ALTER TABLE pending ADD COLUMN error TEXT;        -- of its latest failure, one line; NULL: none
ALTER TABLE pending ADD COLUMN traceback TEXT;    -- of the same, its last lines
ALTER TABLE dead ADD COLUMN traceback TEXT NOT NULL DEFAULT '';

PRAGMA user_version = 4;
