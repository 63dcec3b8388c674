"""What an open store has: connections to its file, and threads to use them."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Self, TypeVar

import apsw

from forebay.stores.sqlite.database import Database
from forebay.stores.sqlite.errors import to_store_error
from forebay.stores.sqlite.turn import Turn
from forebay.stores.sqlite.wakeup import Wakeup
from forebay.stores.sqlite.writer import Writer

Result = TypeVar("Result")


class Opened:
    """Three connections, each with its thread: one writes, one looks, one notices what others commit.

    Looks have their own, so that a count over a million entries holds up no publisher.
    """

    def __init__(
        self, database: Database, connection: apsw.Connection, namespace: str, inspector: ThreadPoolExecutor
    ) -> None:
        self.process = os.getpid()
        self.wakeup = Wakeup(database, namespace)
        self.writer = Writer(database, connection, namespace, self.wakeup.tell)
        self._database = database
        self._namespace = namespace
        self._inspector = inspector
        self._connection: apsw.Connection | None = None

    @classmethod
    async def open(cls, database: Database, namespace: str) -> Self:
        """Open the file, in a thread: it may have to wait for other processes."""
        inspector = ThreadPoolExecutor(1, "forebay-sqlite-inspector")
        try:
            connection = await asyncio.get_running_loop().run_in_executor(inspector, database.create)
        except BaseException:
            inspector.shutdown(wait=False)
            raise
        return cls(database, connection, namespace, inspector)

    async def look(self, look: Callable[[Turn], Result]) -> Result:
        """What a look finds, in one state of the file that no writer changes meanwhile."""
        return await asyncio.get_running_loop().run_in_executor(self._inspector, self._inspect, look)

    def _inspect(self, look: Callable[[Turn], Result]) -> Result:
        self._database.check_unmoved()
        try:
            if self._connection is None:
                self._connection = self._database.connect(query_only=True)
            clock = self._database.clock
            self._connection.execute("BEGIN")
            try:
                return look(Turn(self._connection, self._namespace, clock.now(), clock.wall()))
            finally:
                self._connection.execute("ROLLBACK")
        except apsw.Error as error:
            raise to_store_error(error, str(self._database.path)) from error

    async def close(self) -> None:
        """Carry out what was submitted, then end the threads and close the file."""
        self.writer.finish()
        self.wakeup.finish()
        try:
            await asyncio.get_running_loop().run_in_executor(self._inspector, self._end)
        finally:
            self._inspector.shutdown()

    def _end(self) -> None:
        self.wakeup.join()
        if self._connection is not None:
            with contextlib.suppress(apsw.Error):
                self._connection.close(True)
        self.writer.join()
