"""Records as rows, and rows of any origin as records.

Rows cross between SQLite and Python many at a time, in statements of many rows and as one JSON text, not
one by one: apsw lets go of the interpreter lock at every step of a statement, and beside a busy event loop
it waits up to 5 ms to get it back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import cache
from itertools import chain
from typing import Any, Final
from zlib import crc32

import apsw
import msgspec

from forebay.event import Foreign, Record

FIELDS = ("type", "source", "data", "timestamp", "id", "key", "headers", "only_group", "checksum")
"""The columns of a record, in the order in which they go on every wire, and what vouches for them."""
ID: Final = 4
"""The place of `id` among them: a number that the type checker can follow."""
FOREIGN = FIELDS[:-2]
"""What other programs may write: `only_group` and `checksum` are forebay's own marks on an entry."""

COLUMNS = ", ".join(FIELDS)
PLACEHOLDERS = ", ".join("?" for _ in FIELDS)


# Nothing but constants goes into the texts of statements.
# ruff: noqa: S608
_AT_ONCE = 256
"""Rows in one statement: the longer it is, the fewer steps; SQLite takes 32,766 values."""


@cache
def _insert_statement(rows: int) -> str:
    row = f"(?1, ?, {PLACEHOLDERS})"
    return f"INSERT INTO entries (appended, stream_id, {COLUMNS}) VALUES {', '.join([row] * rows)}"


Row = tuple[str, str, str | bytes, str, str, str | None, str | bytes | None, str | None, int]
"""The values of FIELDS. `data` and `headers` are `bytes` where they are not UTF-8."""


def to_row(record: Record) -> Row:
    """The values of FIELDS for a record."""
    headers = record.headers
    return (
        record.type,
        record.source,
        _to_text(record.data),
        record.timestamp,
        record.id,
        record.key,
        None if headers is None else _to_text(headers),
        record.only_group,
        checksum(record),
    )


def checksum(record: Record) -> int:
    """CRC-32 of all that was published: who is to see it may change."""
    names = f"{record.type}\0{record.source}\0{record.timestamp}\0{record.id}\0{record.key or ''}\0"
    check = crc32(record.data, crc32(names.encode()))
    return crc32(record.headers, check) if record.headers else check


def to_fields(record: Record | Foreign | None) -> tuple[str | bytes | int | None, ...]:
    """The values of FIELDS for a record of any origin."""
    if isinstance(record, Record):
        return to_row(record)
    if record is None:
        return (None,) * len(FIELDS)
    found = {name.decode(errors="replace"): _to_text(value) for name, value in record.fields}
    row = (*(found.get(name) for name in FOREIGN), record.only_group, None)
    return row if _from_columns(row) == record else _packed(record)


def _from_columns(row: Sequence[str | bytes | int | None]) -> Record | Foreign:
    """What `select` will make of the values of FIELDS."""
    return _from_bytes([_bytes(value) for value in row])


PACKED = "forebay/fields"
"""The source, beside no type, of a row that stands for an entry whose fields fit no columns: `data` has them all."""


def _packed(foreign: Foreign) -> tuple[str | bytes | int | None, ...]:
    return (
        None,
        PACKED,
        msgspec.json.encode(foreign.fields).decode(),
        None,
        None,
        None,
        None,
        foreign.only_group,
        None,
    )


def _to_text(text: bytes) -> str | bytes:
    try:
        return text.decode()
    except UnicodeDecodeError:
        return text


def insert(connection: apsw.Connection, appended: float, rows: Sequence[tuple[Any, ...]]) -> int:
    """Append rows, each behind its stream's id, to `entries`; return the position of the last one."""
    start = 0
    while start < len(rows):
        end = start + _step(len(rows) - start)
        connection.execute(_insert_statement(end - start), [appended, *chain.from_iterable(rows[start:end])])
        start = end
    return connection.last_insert_rowid()


def _step(rows: int) -> int:
    """How many of so many rows the next statement takes: a number whose first three binary digits say it all.

    To prepare a statement takes longer than to run it, and there are few enough of these for SQLite to keep them.
    """
    if rows >= _AT_ONCE:
        return _AT_ONCE
    tail = max(rows.bit_length() - 3, 0)
    return rows >> tail << tail


def select(
    connection: apsw.Connection, lead: Sequence[str], source: str, bindings: Sequence[Any]
) -> list[tuple[Any, ...]]:
    """The rows of `SELECT lead, FIELDS source`, with the fields of the table `e` made into one record, the last value.

    What foreign programs wrote, bytes that are not UTF-8 included, comes back byte for byte.
    """
    names = [f"lead_{place}" for place in range(len(lead))]
    fields = ", ".join(f"e.{name}" for name in FIELDS)
    query = (
        f"SELECT CAST(json_group_array(json_array({', '.join(names)}, {COLUMNS})) AS BLOB)"
        f" FROM (SELECT {', '.join(f'{value} AS {name}' for value, name in zip(lead, names, strict=True))}, {fields}"
        f" {source})"
    )
    try:
        text = connection.execute(query, bindings).get
        try:
            rows, make = _decoder(len(lead)).decode(text), _from_texts
        except msgspec.ValidationError:
            rows, make = msgspec.json.decode(text), _from_values
    except (apsw.SQLError, apsw.TooBigError, UnicodeDecodeError, msgspec.DecodeError):
        # JSON holds neither BLOBs nor text that is not UTF-8.
        raw = ", ".join(f"CAST(e.{name} AS BLOB)" for name in FIELDS)
        query = f"SELECT {', '.join(lead)}, {raw} {source}"
        rows, make = connection.execute(query, bindings).fetchall(), _from_bytes
    return [(*row[: len(lead)], make(row[len(lead) :])) for row in rows]


@cache
def _decoder(lead: int) -> msgspec.json.Decoder[list[tuple[Any, ...]]]:
    """Of rows as they should be. The decoder looks at the types faster than anybody could behind it."""
    texts = (str | None,) * (len(FIELDS) - 1)
    row: Any = tuple[*(Any,) * lead, *texts, Any]  # type: ignore[misc]  # made from a number
    return msgspec.json.Decoder(list[row])


def _from_values(values: Sequence[Any]) -> Record | Foreign:
    # One bit in the head of a row moves all columns, and a NULL in the checksum's place would not tell.
    is_text = all(value is None or value.__class__ is str for value in values[:-1])
    return _from_texts(values) if is_text or None in values[:4] else _damaged(values)


def _from_texts(values: Sequence[Any]) -> Record | Foreign:
    type, source, data, timestamp, id, key, headers, only_group, check = values
    if type is None or source is None or data is None or timestamp is None:
        return _foreign([_bytes(value) for value in values])
    record = Record(
        type, source, data.encode(), timestamp, id or "", key, None if headers is None else headers.encode(), only_group
    )
    return record if check is None or check == checksum(record) else _damaged(values)


def _from_bytes(values: Sequence[bytes | None]) -> Record | Foreign:
    type, source, data, timestamp, id, key, headers, only_group, check = values
    if type is None or source is None or data is None or timestamp is None:
        return _foreign(values)
    try:
        record = Record(
            type.decode(),
            source.decode(),
            data,
            timestamp.decode(),
            (id or b"").decode(),
            None if key is None else key.decode(),
            headers,
            None if only_group is None else only_group.decode(),
        )
    except UnicodeDecodeError:
        return _foreign(values)
    return record if check is None or check == str(checksum(record)).encode() else _damaged(values)


def _foreign(values: Sequence[bytes | None]) -> Foreign:
    *columns, only_group, _ = values
    group = None if only_group is None else only_group.decode(errors="replace")
    type, source, data, *_ = columns
    if type is None and source == PACKED.encode() and data is not None:
        with contextlib.suppress(msgspec.DecodeError):
            return Foreign(msgspec.json.decode(data, type=tuple[tuple[bytes, bytes], ...]), group)
    named = zip(FOREIGN, columns, strict=True)
    return Foreign(tuple((name.encode(), value) for name, value in named if value is not None), group)


def _damaged(values: Sequence[Any]) -> Foreign:
    """Not what was published: to be kept as it is, and handled by nobody."""
    why = (b"damaged", b"the checksum says that this is not what was published")
    found = _foreign([_bytes(value) for value in values])
    return Foreign((why, *found.fields), found.only_group)


def _bytes(value: str | bytes | int | None) -> bytes | None:
    return value if value is None or isinstance(value, bytes) else str(value).encode()


NAME: Final = "CASE typeof(name) WHEN 'text' THEN CAST(name AS BLOB) ELSE X'FF' END AS raw"
"""The column `name` of any origin, for `as_text`: other programs may write what is no text, or no UTF-8."""


def as_text(raw: bytes) -> str | None:
    """The text in the bytes of a name; None where it is none."""
    with contextlib.suppress(UnicodeDecodeError):
        return raw.decode()
    return None
