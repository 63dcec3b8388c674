"""Which one of several processes that run an agent does its work: a note that the leader renews."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from forebay.cleanup import done, finish
from forebay.errors import ForebayError
from forebay.event import check_seconds, new_id
from forebay.store import Notes

LOOKS = 4
"""How often a lease is renewed, and looked at by those who wait, before it runs out."""


class LeadershipLost(Exception):
    """Somebody else has written what this process was about to write: it is not the leader any more."""


class Leadership:
    """A lease on being the one, kept as a note of the agent's.

    No clock is compared with another: who waits takes over when the note has stayed the same for the lease's
    `seconds` on his own clock, as DynamoDB's lock client does. A leader that was stopped for longer may for a
    moment believe that it still is the one, so what it writes has to be written by compare-and-set, and
    `LeadershipLost` be raised where that fails.
    """

    def __init__(self, store: Notes, stream: str, *, seconds: float, name: str = "leader") -> None:
        self._store = store
        self._stream = stream
        self._name = name
        self._seconds = check_seconds("lease", seconds, least=0.1)
        self._own: bytes | None = None

    @property
    def held(self) -> bool:
        """Whether this process is the one, as far as it knows."""
        return self._own is not None

    @contextlib.asynccontextmanager
    async def lead(self) -> AsyncIterator[None]:
        """Wait until this process is the one. What runs in here ends when it no longer is: quietly, by being cancelled
        or by `LeadershipLost`."""
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
        seen: bytes | None = None
        since = time.monotonic()
        while True:
            value = (await self._store.notes(self._stream)).get(self._name)
            if value != seen:
                seen, since = value, time.monotonic()
            if value is None or time.monotonic() - since >= self._seconds:
                own = new_id().encode()
                if await self._store.set_note(self._stream, self._name, own, expected=value):
                    self._own = own
                    return
            await asyncio.sleep(self._seconds / LOOKS)

    async def _renew(self, limit: asyncio.Timeout) -> None:
        """Move the limit on with each renewal; a store that does not answer lets it run out."""
        while True:
            await asyncio.sleep(self._seconds / LOOKS)
            began = asyncio.get_running_loop().time()
            own = new_id().encode()
            try:
                renewed = await self._store.set_note(self._stream, self._name, own, expected=self._own)
            except ForebayError:
                # Perhaps it was renewed all the same: then nobody knows by which value, and the lease is let go.
                continue
            if not renewed:
                limit.reschedule(began)
                return
            self._own = own
            limit.reschedule(began + self._seconds)

    async def _give_back(self) -> None:
        own, self._own = self._own, None
        with contextlib.suppress(ForebayError):
            await self._store.set_note(self._stream, self._name, None, expected=own)
