"""The connections of an open store, each with its thread."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Self, TypeVar

import apsw

from forebay.home import Home
from forebay.stores.sqlite.arrivals import Arrivals
from forebay.stores.sqlite.database import Database
from forebay.stores.sqlite.errors import SUSPICIOUS, to_store_error
from forebay.stores.sqlite.guard import Line
from forebay.stores.sqlite.transaction import Transaction
from forebay.stores.sqlite.writer import Writer
from forebay.threads import Threads

Result = TypeVar("Result")


class Connections:
    """Three connections: one writes, one reads, one watches for commits.

    Queries have their own connection, so that a count over a million entries does not delay publishers.
    """

    def __init__(self, home: Home, database: Database, line: Line, namespace: str, inspector: Threads) -> None:
        self.home = home
        self.arrivals = Arrivals(database, namespace)
        self.writer = Writer(database, line, namespace, self.arrivals.report)
        self._database = database
        self._namespace = namespace
        self._inspector = inspector
        self._line = database.line(query_only=True)

    @classmethod
    async def open(cls, database: Database, namespace: str) -> Self:
        """Open the file, in a thread: it may wait for the locks of other processes."""
        home = Home(f"the store on {database.path}")
        inspector = Threads(1, name="forebay-sqlite-inspector")
        try:
            line = await inspector.call(database.create)
        except BaseException:
            inspector.close()
            raise
        return cls(home, database, line, namespace, inspector)

    async def query(self, query: Callable[[Transaction], Result]) -> Result:
        """Run a query in one read transaction; return its result."""
        return await self._inspector.call(partial(self._inspect, query))

    def _inspect(self, query: Callable[[Transaction], Result]) -> Result:
        try:
            return self._database.guard.run(partial(self._query, query))
        except apsw.Error as error:
            raise to_store_error(error, str(self._database.path)) from error

    def _query(self, query: Callable[[Transaction], Result]) -> Result:
        clock = self._database.clock
        with self._line as connection:
            self._line.check()
            connection.execute("BEGIN")
            try:
                return query(Transaction(connection, self._namespace, clock.now(), clock.wall(), self._database.epoch))
            except SUSPICIOUS:
                self._line.check()
                raise
            finally:
                connection.execute("ROLLBACK")

    async def close(self) -> None:
        """Carry out the submitted moves, then end the threads and close the file."""
        self.writer.finish()
        self.arrivals.finish()
        try:
            await self._inspector.call(self._end)
            self._inspector.end()
        finally:
            self._inspector.close()

    def forget(self) -> None:
        """Let the threads end, without waiting for them. From any thread: the event loop may be closed."""
        if not self.home.forked():
            self.writer.finish()
            self.arrivals.stop()

    __del__ = forget

    def _end(self) -> None:
        self.arrivals.join()
        self._database.guard.end(self._line)
        self.writer.join()
