"""The writer thread: it carries out all moves that wait for it in one transaction (group commit)."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import queue
import secrets
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import apsw
import msgspec

from forebay.errors import OutcomeUnknown
from forebay.stores.sqlite.database import Database
from forebay.stores.sqlite.errors import is_out_of_room, to_store_error
from forebay.stores.sqlite.guard import Changed, Line
from forebay.stores.sqlite.log import Append, append
from forebay.stores.sqlite.transaction import Transaction

Move = Callable[[Transaction], Any]
Precheck = Callable[[Transaction], bool]
"""True if a move has anything to do: a query without a transaction."""

MOVES_PER_TRANSACTION = 1_000
"""The writer takes no more moves at this number. The moves of one turn of the event loop stay together."""


class Job(msgspec.Struct, eq=False):
    """A move, the future of its result, and its outcome until the event loop sets the future."""

    future: asyncio.Future[Any]
    move: Move
    precheck: Precheck | None = None
    is_settled: bool = False
    result: Any = None
    error: Exception | None = None

    def settle(self, result: Any = None, error: Exception | None = None) -> None:
        """Keep the outcome, which the event loop reports."""
        self.is_settled = True
        self.result = result
        self.error = error


class Unsure(msgspec.Struct, frozen=True):
    """A committed transaction of which a check has not yet found the files unchanged after the commit."""

    number: int
    jobs: list[Job]
    results: list[Any]
    tx: Transaction


class Writer:
    """Carries out moves for one event loop, in its own thread, in the order in which they were submitted.

    The moves of one turn of the loop are handed over together. Moves that are submitted during a commit share the next
    transaction, with one flush of the disk. `on_change` is called on the loop with `Transaction.changed`.
    """

    def __init__(
        self,
        database: Database,
        line: Line,
        namespace: str,
        on_change: Callable[[dict[str, int]], None],
    ) -> None:
        self._database = database
        self._guard = database.guard
        self._line = line
        self._is_suspect = False
        self._unsure: Unsure | None = None
        # From a random number on, so that no other writer makes the same.
        self._leases = itertools.count(secrets.randbits(62))
        self._namespace = namespace
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._collected: list[Job] = []
        self._queue: queue.SimpleQueue[list[Job] | None] = queue.SimpleQueue()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="forebay-sqlite-writer", daemon=True)
        self._thread.start()

    def submit(self, move: Move, precheck: Precheck | None = None) -> asyncio.Future[Any]:
        """The future of a move; it gets the result after the commit.

        If `precheck` returns False, the move is left out, and its result is an empty list. A cancelled future does not
        stop its move.
        """
        future = self._loop.create_future()
        if not self._collected:
            self._loop.call_soon(self._hand_over)
        self._collected.append(Job(future, move, precheck))
        return future

    def finish(self) -> None:
        """Take no more moves. The submitted ones are carried out."""
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
            changed: dict[str, int] = {}
            try:
                self._guard.run(partial(self._carry_out, jobs, changed))
            except Exception as error:  # noqa: BLE001  # it is raised from the futures of the moves
                self._fail_all(jobs, error)
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._report, jobs, changed)
        self._guard.end(self._line)

    def _next(self) -> list[Job]:
        jobs: list[Job] = []
        while not self._closing and len(jobs) < MOVES_PER_TRANSACTION:
            try:
                more = self._queue.get(block=not jobs)
            except queue.Empty:
                break
            if more is None:
                self._closing = True
            else:
                jobs += more
        return jobs

    def _report(self, jobs: list[Job], changed: dict[str, int]) -> None:
        for job in jobs:
            if job.future.done():
                continue
            if job.error is None:
                job.future.set_result(job.result)
            else:
                job.future.set_exception(job.error)
        if changed:
            self._on_change(changed)

    def _carry_out(self, jobs: list[Job], changed: dict[str, int]) -> None:
        """Settle the jobs. Raises `Changed` if the files have to be healed first; then it is called again."""
        with self._line as connection:
            self._resolve(changed)
            if self._is_suspect:
                fresh = self._line.reopen()
                self._is_suspect = False
            else:
                fresh = connection
            self._settle(fresh, self._with_work(fresh, [job for job in jobs if not job.is_settled]), changed)

    def _with_work(self, connection: apsw.Connection, jobs: list[Job]) -> list[Job]:
        """The jobs that have something to do. The others are settled with an empty result, without a transaction."""
        if any(job.precheck is not None for job in jobs):
            self._line.check()
        return [job for job in jobs if job.precheck is None or self._passes(connection, job, job.precheck)]

    def _passes(self, connection: apsw.Connection, job: Job, precheck: Precheck) -> bool:
        try:
            if precheck(self._transaction(connection)):
                return True
            job.settle([])
        except Exception as error:  # noqa: BLE001  # it is raised where the move is awaited
            self._fail([job], error)
        return False

    def _settle(self, connection: apsw.Connection, jobs: list[Job], changed: dict[str, int]) -> None:
        """Give each job a result or an error, in as few transactions as possible.

        A move that fails must not fail the others: the jobs are halved until it is alone in its transaction.
        """
        if not jobs:
            return
        try:
            connection.execute("BEGIN IMMEDIATE")
        except apsw.Error as error:
            self._line.check_after(error)
            self._fail(jobs, error)
            return
        self._database.is_locked = True
        try:
            failed = self._transact(connection, jobs, changed)
        finally:
            self._database.is_locked = False
        if failed is not None:
            self._halve(connection, jobs, failed, changed)

    def _transact(self, connection: apsw.Connection, jobs: list[Job], changed: dict[str, int]) -> Exception | None:
        """Carry out the jobs and commit; return the error if the transaction was rolled back."""
        # The time after the wait for the lock: leases begin now, and later appends have later times.
        tx = self._transaction(connection)
        number = None
        changes = connection.total_changes()
        try:
            self._line.check()
            results = _perform(tx, jobs)
            if connection.total_changes() != changes:
                number = self._line.stamp()
        except Changed:
            self._roll_back(connection)
            raise
        except Exception as error:  # noqa: BLE001  # it is raised where the move is awaited
            self._roll_back(connection)
            self._line.check_after(error)
            return error
        try:
            connection.execute("COMMIT")
        except apsw.Error as error:
            if isinstance(error, apsw.IOError) and not is_out_of_room(error, connection.system_errno):
                self._outcome_unknown(jobs, error, tx)
                self._roll_back(connection)
                return None
            self._roll_back(connection)
            return error
        if number is not None:
            self._unsure = Unsure(number, jobs, results, tx)
            self._line.check()
            self._line.acknowledge(number)
            self._unsure = None
        _settle(jobs, results)
        changed |= tx.changed
        return None

    def _resolve(self, changed: dict[str, int]) -> None:
        """Settle the jobs of an unsure transaction that the healed files contain; others are carried out again."""
        unsure, self._unsure = self._unsure, None
        if unsure is not None and self._line.has(unsure.number):
            _settle(unsure.jobs, unsure.results)
            changed |= unsure.tx.changed

    def _halve(self, connection: apsw.Connection, jobs: list[Job], error: Exception, changed: dict[str, int]) -> None:
        if len(jobs) == 1:
            self._fail(jobs, error)
            return
        middle = len(jobs) // 2
        self._settle(connection, jobs[:middle], changed)
        self._settle(connection, jobs[middle:], changed)

    def _outcome_unknown(self, jobs: list[Job], error: Exception, tx: Transaction) -> None:
        for job in jobs:
            search_after = None if tx.last_before is None else str(tx.last_before)
            unknown = OutcomeUnknown(
                f"{self._database.path}: the disk failed while it was written ({error})", search_after
            )
            unknown.__cause__ = error
            job.settle(error=unknown)
        # The state of the disk is unknown, and this connection would go on with its own cache.
        self._is_suspect = True

    def _fail(self, jobs: Sequence[Job], error: Exception) -> None:
        connection = self._line.connection
        for job in jobs:
            meaning = error
            if isinstance(error, apsw.Error):
                system_error = 0 if connection is None else connection.system_errno
                meaning = to_store_error(error, str(self._database.path), system_error)
                meaning.__cause__ = error
            job.settle(error=meaning)

    def _fail_all(self, jobs: list[Job], error: Exception) -> None:
        """Give each job that is not settled an error, so that no caller waits for ever."""
        unsure, self._unsure = self._unsure, None
        if unsure is not None:
            self._outcome_unknown(unsure.jobs, error, unsure.tx)
        self._fail([job for job in jobs if not job.is_settled], error)

    def _transaction(self, connection: apsw.Connection) -> Transaction:
        clock = self._database.clock
        epoch = self._database.epoch
        return Transaction(connection, self._namespace, clock.now(), clock.wall(), epoch, self._leases)

    def _roll_back(self, connection: apsw.Connection) -> None:
        # SQLite itself has rolled back after some errors, such as a full disk.
        if connection.in_transaction:
            try:
                connection.execute("ROLLBACK")
            except apsw.Error:
                self._is_suspect = True


def _settle(jobs: list[Job], results: list[Any]) -> None:
    for job, result in zip(jobs, results, strict=True):
        job.settle(result)


def _perform(tx: Transaction, jobs: list[Job]) -> list[Any]:
    results: list[Any] = []
    appends: list[Append] = []
    for job in jobs:
        if isinstance(job.move, Append):
            appends.append(job.move)
            continue
        if appends:
            results += append(tx, appends)
            appends = []
        results.append(job.move(tx))
    if appends:
        results += append(tx, appends)
    return results
