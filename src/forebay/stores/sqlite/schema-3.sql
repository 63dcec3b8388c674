-- Version 3: a checksum of each record, so that damage by a disk is found.

-- CRC-32 of the fields; NULL where other programs, or earlier versions, wrote the row.
ALTER TABLE entries ADD COLUMN checksum INTEGER;
ALTER TABLE scheduled ADD COLUMN checksum INTEGER;
ALTER TABLE dead ADD COLUMN checksum INTEGER;

PRAGMA user_version = 3;
