"""The moves of dead letters: list, redrive, discard. Each runs inside a transaction."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime

from forebay.store import DeadLetter
from forebay.stores.sqlite.rows import FOREIGN, select
from forebay.stores.sqlite.transaction import LAST, Transaction, parse

_CHOSEN = "FROM dead WHERE stream_id = ? AND number IN (SELECT value FROM json_each(?))"
_WITH_A_GROUP = f"{_CHOSEN} AND group_name <> ''"


# A row without a position belongs to another event with this id, which is only scheduled.
_FORGET_SEEN = f"DELETE FROM seen WHERE stream_id = ? AND seq IS NOT NULL AND id IN (SELECT id {_CHOSEN})"  # noqa: S608  # constants
_FORGET_HANDLED = f"""
    DELETE FROM handled WHERE (group_id, id) IN (
        SELECT g.id, d.id FROM (SELECT id, group_name {_CHOSEN}) d
        JOIN groups g ON g.stream_id = ? AND g.name = d.group_name)"""  # noqa: S608  # constants


def dead_letters(tx: Transaction, stream: str, *, group: str | None, after: str, limit: int) -> list[DeadLetter]:
    """Dead letters after `after`, oldest first."""
    rows = select(
        tx.connection,
        [
            "e.number",
            "CAST(e.group_name AS BLOB)",
            "CAST(e.seq AS INTEGER)",
            "CAST(e.error AS BLOB)",
            # A time outside of the calendar becomes the nearest one in it.
            f"max(0, min(CAST(e.failed_at AS REAL), {_FAR}))",
            "CAST(e.attempts AS INTEGER)",
            "CAST(e.traceback AS BLOB)",
        ],
        "FROM dead e WHERE e.stream_id = ? AND e.number > ?"
        " AND (? IS NULL OR e.group_name = ?) ORDER BY e.number LIMIT ?",
        (tx.stream(stream), parse(after or "0"), group, group, limit),
    )
    return [
        DeadLetter(
            f"{number:012}",
            stream,
            _readable(of),
            str(seq),
            record,
            _readable(error),
            datetime.fromtimestamp(at, UTC),
            attempts,
            _readable(traceback),
        )
        for number, of, seq, error, at, attempts, traceback, record in rows
    ]


_FAR = datetime(9999, 1, 1, tzinfo=UTC).timestamp()


def _readable(text: bytes | None) -> str:
    return (text or b"").decode(errors="replace")


def redrive(tx: Transaction, stream: str, ids: Sequence[str]) -> int:
    """Append dead letters again, each for its group only, and remove them; return how many."""
    stream_id = tx.stream(stream)
    if stream_id is None:
        return 0
    chosen = (stream_id, _numbers(ids))
    count = tx.run(
        f"INSERT INTO entries (appended, stream_id, only_group, checksum, {', '.join(FOREIGN)})"
        f" SELECT ?, stream_id, group_name, checksum, {', '.join(FOREIGN)} {_WITH_A_GROUP} ORDER BY number",
        (tx.time, *chosen),
    )
    if count:
        tx.changed[stream] = tx.connection.last_insert_rowid()
        tx.run(f"DELETE {_WITH_A_GROUP}", chosen)
    return count


def discard(tx: Transaction, stream: str, ids: Sequence[str]) -> int:
    """Remove dead letters, and forget the ids of their events; return how many there were."""
    stream_id = tx.stream(stream)
    if stream_id is None:
        return 0
    chosen = (stream_id, _numbers(ids))
    tx.run(_FORGET_SEEN, (stream_id, *chosen))
    tx.run(_FORGET_HANDLED, (*chosen, stream_id))
    return tx.run(f"DELETE {_CHOSEN}", chosen)


def _numbers(ids: Sequence[str]) -> str:
    known = (id for id in ids if id.isascii() and id.isdecimal())
    return json.dumps([number for id in known if (number := int(id)) <= LAST])
