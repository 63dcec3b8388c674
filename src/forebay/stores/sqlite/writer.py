"""The thread that writes: all moves that wait for it go into one transaction."""

from __future__ import annotations

import asyncio
import itertools
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any, cast

import apsw

from forebay.errors import OutcomeUnknown, StoreError
from forebay.stores.sqlite.database import Database
from forebay.stores.sqlite.errors import is_out_of_room, to_store_error
from forebay.stores.sqlite.log import Append, append
from forebay.stores.sqlite.turn import Turn

Move = Callable[[Turn], Any]
Look = Callable[[Turn], bool]

MOST = 1_000
"""Moves in one transaction; those of one turn of the event loop stay together all the same."""


class Job:
    """A move, and who waits for its result."""

    __slots__ = ("error", "future", "look", "move", "result")

    def __init__(self, future: asyncio.Future[Any], move: Move, look: Look | None) -> None:
        self.future = future
        self.move = move
        self.look = look
        self.result: Any = None
        self.error: Exception | None = None


class Writer:
    """Carries out moves for one event loop, in its own thread, in the order they were submitted.

    The moves of one turn of the loop are handed over together, and whatever has come in while the
    last transaction was committed goes into the next: one flush of the disk for all of them.
    `on_news` is called on the loop, with the streams whose readers may find something now, and their last positions.
    """

    def __init__(
        self,
        database: Database,
        connection: apsw.Connection,
        namespace: str,
        on_news: Callable[[dict[str, int]], None],
    ) -> None:
        self._database = database
        self._connection: apsw.Connection | None = connection
        self._namespace = namespace
        self._on_news = on_news
        self._loop = asyncio.get_running_loop()
        self._collected: list[Job] = []
        self._queue: queue.SimpleQueue[list[Job] | None] = queue.SimpleQueue()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="forebay-sqlite-writer", daemon=True)
        self._thread.start()

    def submit(self, move: Move, look: Look | None = None) -> asyncio.Future[Any]:
        """The result of a move, once it is committed.

        With `look`, the move is left out, and its result is an empty list, where the look says no.
        Whoever stops waiting does not stop the move.
        """
        future = self._loop.create_future()
        if not self._collected:
            self._loop.call_soon(self._hand_over)
        self._collected.append(Job(future, move, look))
        return future

    def finish(self) -> None:
        """Take no more moves; those submitted are still carried out."""
        self._hand_over()
        self._queue.put(None)

    def join(self) -> None:
        """Wait until the last move is carried out and the connection is closed."""
        self._thread.join()

    def _hand_over(self) -> None:
        if self._collected:
            self._queue.put(self._collected)
            self._collected = []

    def _run(self) -> None:
        while jobs := self._next():
            news: dict[str, int] = {}
            self._settle(self._worth_it(jobs), news)
            self._loop.call_soon_threadsafe(self._report, jobs, news)
        if self._connection is not None:
            self._connection.close()

    def _next(self) -> list[Job]:
        jobs: list[Job] = []
        while not self._closing and len(jobs) < MOST:
            try:
                more = self._queue.get(block=not jobs)
            except queue.Empty:
                break
            if more is None:
                self._closing = True
            else:
                jobs += more
        return jobs

    def _report(self, jobs: list[Job], news: dict[str, int]) -> None:
        for job in jobs:
            if job.future.done():
                continue
            if job.error is None:
                job.future.set_result(job.result)
            else:
                job.future.set_exception(job.error)
        if news:
            self._on_news(news)

    def _worth_it(self, jobs: list[Job]) -> list[Job]:
        """The jobs that have something to do. The others get their empty result without a transaction."""
        worth_it = []
        for job in jobs:
            try:
                if job.look is None or job.look(self._turn()):
                    worth_it.append(job)
                else:
                    job.result = []
            except Exception as error:  # noqa: BLE001  # it is raised where the move is awaited
                self._fail([job], error)
        return worth_it

    def _settle(self, jobs: list[Job], news: dict[str, int]) -> None:
        """Give each job a result or an error, in as few transactions as possible.

        A move that fails must not take its neighbours with it: then the jobs are halved, until it
        stands alone.
        """
        if not jobs:
            return
        try:
            self._database.check_unmoved()
            turn = self._turn()
            turn.connection.execute("BEGIN IMMEDIATE")
        except (apsw.Error, StoreError) as error:
            self._fail(jobs, error)
            return
        try:
            results = _perform(turn, jobs)
        except Exception as error:  # noqa: BLE001  # it is raised where the move is awaited
            self._roll_back(turn.connection)
            self._halve(jobs, error, news)
            return
        try:
            turn.connection.execute("COMMIT")
        except apsw.Error as error:
            if isinstance(error, apsw.IOError) and not is_out_of_room(error, turn.connection.system_errno):
                self._doubt(jobs, error, turn)
            else:
                self._roll_back(turn.connection)
                self._halve(jobs, error, news)
            return
        for job, result in zip(jobs, results, strict=True):
            job.result = result
        news |= turn.news

    def _halve(self, jobs: list[Job], error: Exception, news: dict[str, int]) -> None:
        if len(jobs) == 1:
            self._fail(jobs, error)
            return
        middle = len(jobs) // 2
        self._settle(jobs[:middle], news)
        self._settle(jobs[middle:], news)

    def _doubt(self, jobs: list[Job], error: apsw.IOError, turn: Turn) -> None:
        # After a failed flush nobody knows what is on the disk, and this connection would not look again.
        for job in jobs:
            since = None if turn.before is None else str(turn.before)
            job.error = OutcomeUnknown(f"{self._database.path}: the disk failed while it was written ({error})", since)
            job.error.__cause__ = error
        if self._connection is not None:
            self._connection.close(True)
        self._connection = None

    def _fail(self, jobs: Sequence[Job], error: Exception) -> None:
        for job in jobs:
            if isinstance(error, apsw.Error):
                system_error = 0 if self._connection is None else self._connection.system_errno
                job.error = to_store_error(error, str(self._database.path), system_error)
                job.error.__cause__ = error
            else:
                job.error = error

    def _turn(self) -> Turn:
        if self._connection is None:
            self._connection = self._database.connect()
        clock = self._database.clock
        return Turn(self._connection, self._namespace, clock.now(), clock.wall())

    @staticmethod
    def _roll_back(connection: apsw.Connection) -> None:
        # SQLite itself has rolled back after some errors, such as a full disk.
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _perform(turn: Turn, jobs: list[Job]) -> list[Any]:
    results: list[Any] = []
    for is_append, group in itertools.groupby(jobs, key=lambda job: isinstance(job.move, Append)):
        if is_append:
            results += append(turn, [cast(Append, job.move) for job in group])
        else:
            results += [job.move(turn) for job in group]
    return results
