"""The SQLite store: one file, shared by the processes of one machine, without a server."""

from forebay.stores.sqlite.store import SQLiteStore

__all__ = ["SQLiteStore"]
