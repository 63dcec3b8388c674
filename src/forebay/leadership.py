"""Which one of several processes does a piece of work: a note that the leader renews."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from forebay.cleanup import done, finish
from forebay.errors import ForebayError
from forebay.event import check_seconds, new_id
from forebay.presence import Observer, OwnNote
from forebay.store import Notes

RENEWALS_PER_LEASE = 4
"""How often the leader renews its lease, and other processes look at it, before it runs out."""


class LeadershipLost(Exception):
    """Another process has written the note that this one was about to write: this one is no longer the leader."""


class Leadership:
    """A lease on being the leader, kept in a note beside a stream.

    No clock is compared with another: a process takes over when it has seen the note unchanged for the lease's
    `seconds` (see `forebay.presence`). A leader that was stopped for longer may believe for a moment that it still
    leads. So write by compare-and-set while leading, and raise `LeadershipLost` if that fails.
    """

    def __init__(self, store: Notes, stream: str, *, seconds: float, name: str = "leader") -> None:
        self._store = store
        self._stream = stream
        self._name = name
        self._seconds = check_seconds("lease", seconds, least=0.1)
        self._interval = self._seconds / RENEWALS_PER_LEASE
        self._note = OwnNote(store, stream, name)
        self.held = False
        """Whether this process leads, as far as it knows."""

    @contextlib.asynccontextmanager
    async def lead(self) -> AsyncIterator[None]:
        """Wait until this process leads. The block ends when it no longer does: quietly, by a cancellation or by
        `LeadershipLost`."""
        await self._take()
        limit = asyncio.timeout(self._seconds)
        try:
            async with limit:
                renewing = asyncio.create_task(self._renew(limit), name="forebay-leadership")
                try:
                    yield
                finally:
                    renewing.cancel()
                    await done([renewing])
        except LeadershipLost:
            pass
        except TimeoutError:
            if not limit.expired():
                raise
        finally:
            await finish(self._give_back())

    async def _take(self) -> None:
        # A process that was stopped has not seen that the leader is silent.
        observer = Observer[str](longest_gap=2 * self._interval)
        while True:
            note = (await self._store.notes(self._stream, names=[self._name])).get(self._name)
            seen = observer.look({} if note is None else {self._name: note})
            is_free = note is None or seen[self._name].state(self._seconds) == "gone"
            if is_free and await self._note.take(new_id().encode(), expected=note):
                self.held = True
                return
            await asyncio.sleep(self._interval)

    async def _renew(self, limit: asyncio.Timeout) -> None:
        """Move the limit on with each renewal; a store that does not answer lets it run out."""
        while True:
            await asyncio.sleep(self._interval)
            began = asyncio.get_running_loop().time()
            try:
                is_renewed = await self._note.renew(new_id().encode())
            except ForebayError:
                continue
            if not is_renewed:
                limit.reschedule(began)
                return
            limit.reschedule(began + self._seconds)

    async def _give_back(self) -> None:
        self.held = False
        with contextlib.suppress(ForebayError):
            await self._note.give_back()
