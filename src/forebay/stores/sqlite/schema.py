"""The tables of a forebay file, made by the `schema-N.sql` of each version, and the check that it has no others."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

import apsw

from forebay.errors import ConfigurationError, StoreDamaged

VERSION = 6
"""The version of the file format. `schema-N.sql` upgrades a file of version N - 1 to version N."""

Schema = dict[tuple[str, str], object]
"""The definition of each table, index and trigger, by type and name."""


def script(version: int) -> str:
    """The statements that upgrade a file of the version before to this one."""
    return files(__package__).joinpath(f"schema-{version}.sql").read_text("utf-8")


def check_schema(connection: apsw.Connection, version: int, path: str) -> None:
    """Raise if a file holds more than forebay's tables, or altered ones. Plain indexes of other programs may stay."""
    found, expected = _read(connection), _expected(version)
    # A plain index only makes queries of its owner faster; a unique index would refuse events.
    foreign = [key for key in found.keys() - expected.keys() if key[0] != "index"]
    if foreign:
        raise ConfigurationError(
            f"{path} is forebay's, and holds objects of another program: {_names(foreign)}. Triggers change the"
            " events that are stored, and an upgrade may need the names: drop them, or keep them in another file"
        )
    altered = [key for key in expected if found.get(key) != expected[key]]
    if altered:
        raise StoreDamaged(
            f"{path}: its tables are not those that forebay made, but were altered: {_names(altered)}. Undo the"
            " changes, or restore a backup"
        )


def _names(keys: list[tuple[str, str]]) -> str:
    named = [f"the {type} {name!r}" for type, name in sorted(keys)]
    return ", ".join(named[:5]) + (f" and {len(named) - 5} more" if len(named) > 5 else "")


@cache
def _expected(version: int) -> Schema:
    connection = apsw.Connection(":memory:")
    try:
        for number in range(1, version + 1):
            connection.execute(script(number))
        return _read(connection)
    finally:
        connection.close()


def _read(connection: apsw.Connection) -> Schema:
    rows: list[tuple[Any, ...]] = connection.execute(
        "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite^_%' ESCAPE '^'"
    ).fetchall()
    schema: Schema = {}
    for type, name, table, sql in rows:
        match type:
            case "table":
                columns: list[Any] = connection.execute(
                    'SELECT name, type, "notnull", dflt_value, pk, hidden FROM pragma_table_xinfo(?)', (name,)
                ).fetchall()
                schema[type, name] = columns
            case "index":
                of: list[Any] = connection.execute("SELECT name FROM pragma_index_info(?)", (name,)).fetchall()
                is_unique = connection.execute(
                    'SELECT "unique" FROM pragma_index_list(?) WHERE name = ?', (table, name)
                ).get
                schema["unique index" if is_unique else type, name] = (table, of)
            case _:
                schema[type, name] = " ".join(sql.split())
    return schema
