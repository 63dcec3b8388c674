"""Records to rows, and rows to records.

    direction   function     path             when
    ---------   ----------   --------------   -------------------------------------------------------------------
    to a row    to_row       Record           each publish and each scheduled record: the hot path
                to_fields    to_row           a dead letter, a restored entry: a record that forebay wrote
                             columns          the same of a foreign row whose fields fit the columns
                             _packed          the same of a foreign row whose fields fit no columns
    from rows   select       _from_texts      all columns are text or NULL, in one JSON text: the hot path
                             _from_values     JSON, but a column of some row is not text: that row is damaged
                             _from_bytes      a column of some row is a BLOB or not UTF-8, so JSON cannot hold it

    Each path ends in a Record; in a Foreign without a required field (`_foreign`); or, if the checksum differs, in a
    Foreign that says so (`_damaged`).

Many rows cross between SQLite and Python at a time: inserts have many rows, and selects return one JSON text. apsw
releases the interpreter lock at each step of a statement, and beside a busy event loop it waits up to 5 ms to get it
back.
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
"""The columns of a record, in the order of every wire format, and their checksum."""
ID: Final = 4
"""The index of `id` in FIELDS: a literal, so that the type checker knows the type of the value."""
FOREIGN = FIELDS[:-2]
"""The columns that other programs may write. forebay alone writes `only_group` and `checksum`."""

COLUMNS = ", ".join(FIELDS)
PLACEHOLDERS = ", ".join("?" for _ in FIELDS)


# Nothing but constants goes into the texts of statements.
# ruff: noqa: S608
_ROWS_PER_STATEMENT = 256
"""Each statement is one step of apsw; SQLite takes at most 32,766 values in one."""


@cache
def _insert_statement(rows: int) -> str:
    row = f"(?1, ?, {PLACEHOLDERS})"
    return f"INSERT INTO entries (appended, stream_id, {COLUMNS}) VALUES {', '.join([row] * rows)}"


Row = tuple[str, str, str | bytes, str, str, str | None, str | bytes | None, str | None, int]
"""The values of FIELDS. `data` and `headers` are `bytes` if they are not UTF-8."""


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
    """CRC-32 of the published fields; not of `only_group`, which a redrive sets."""
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
    """The record that `select` will return for the values of FIELDS."""
    return _from_bytes([_bytes(value) for value in row])


PACKED = "forebay/fields"
"""The `source` of a row without `type` whose `data` holds all fields of a foreign entry, as JSON."""


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
    """Append rows, each preceded by its stream's id, to `entries`; return the position of the last one."""
    start = 0
    while start < len(rows):
        end = start + _step(len(rows) - start)
        connection.execute(_insert_statement(end - start), [appended, *chain.from_iterable(rows[start:end])])
        start = end
    return connection.last_insert_rowid()


def _step(rows: int) -> int:
    """The rows of the next statement: a size with only three significant bits.

    That leaves about 30 distinct statements, few enough for SQLite's statement cache.
    """
    if rows >= _ROWS_PER_STATEMENT:
        return _ROWS_PER_STATEMENT
    tail = max(rows.bit_length() - 3, 0)
    return rows >> tail << tail


def select(
    connection: apsw.Connection, lead: Sequence[str], source: str, bindings: Sequence[Any]
) -> list[tuple[Any, ...]]:
    """The rows of `SELECT lead, FIELDS source`; the last value of each is the record made of the FIELDS of table `e`.

    Rows of other programs come back byte for byte, bytes that are not UTF-8 included.
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
    """A decoder that also checks that all columns of the record are text or NULL, faster than Python code could."""
    texts = (str | None,) * (len(FIELDS) - 1)
    row: Any = tuple[*(Any,) * lead, *texts, Any]  # type: ignore[misc]  # made from a number
    return msgspec.json.Decoder(list[row])


def _from_values(values: Sequence[Any]) -> Record | Foreign:
    # One flipped bit in the header of a row shifts all columns; if the checksum becomes NULL, only the types show it.
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
    """A row that is not as it was published: it keeps its bytes, and no handler gets it."""
    why = (b"damaged", b"the checksum says that this is not what was published")
    found = _foreign([_bytes(value) for value in values])
    return Foreign((why, *found.fields), found.only_group)


def _bytes(value: str | bytes | int | None) -> bytes | None:
    return value if value is None or isinstance(value, bytes) else str(value).encode()


NAME: Final = "CASE typeof(name) WHEN 'text' THEN CAST(name AS BLOB) ELSE X'FF' END AS raw"
"""The column `name`, for `as_text`: other programs may write values that are not text, or not UTF-8."""


def as_text(raw: bytes) -> str | None:
    """The text in the bytes of a name; None if they are not UTF-8."""
    with contextlib.suppress(UnicodeDecodeError):
        return raw.decode()
    return None
