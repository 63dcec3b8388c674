"""Reports streams that grow, by client tracking: a connection to each master, to which the server pushes names of keys.

    XADD, by any client --> server --push: invalidate [events:order_placed]--> Watch --> order_placed

In broadcast mode the server pushes each key of the namespace that was changed. The prefix is that of the streams' own
keys, so that changes of their companions, of groups and of leases are not pushed.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Iterable
from functools import lru_cache

import hiredis

from forebay.errors import OutcomeUnknown, StoreDenied, StoreError, StoreUnavailable
from forebay.payload import is_name
from forebay.stores.redis.client import Client
from forebay.stores.redis.errors import translate
from forebay.stores.redis.node import Node, pack
from forebay.stores.redis.wire import Wire

CHECK_SECONDS = 1.0
"""Seconds between checks that each master is watched."""
PING_SECONDS = 2.0
"""Seconds of silence after which a server is asked whether it is there."""
FIRST_PAUSE_SECONDS = 0.05
"""Seconds before the first attempt to watch a lost server again; each further pause is twice as long."""
LONGEST_PAUSE_SECONDS = 2.0
"""The longest pause between attempts."""
CACHED_KEYS = 10_000
"""Keys of which the name of the stream is remembered."""


class Watch:
    """The streams of a namespace that have grown since `next` was called last.

    `open` raises if the watch cannot begin. Lost connections are made again, and `None` is reported for the time
    between. Masters that join the cluster, or follow another one, are watched too.
    """

    def __init__(self, client: Client, namespace: str) -> None:
        self._client = client
        self._prefix = f"{namespace}:"
        self._name_of = lru_cache(CACHED_KEYS)(self._parse)
        # In the order of their arrival.
        self._grown: dict[str | None, None] = {}
        self._news = asyncio.Event()
        self._change = asyncio.Event()
        self._watched: dict[Node, asyncio.Task[None]] = {}
        self._maintaining: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Watch all masters."""
        await self._cover()
        self._maintaining = asyncio.create_task(self._maintain())

    async def next(self) -> list[str | None]:
        """Names of streams that have grown, once there are any; `[None]` if any stream may have."""
        await self._news.wait()
        self._news.clear()
        if (task := self._maintaining) is not None and task.done() and not task.cancelled():
            task.result()
        grown, self._grown = self._grown, {}
        return [None] if None in grown else list(grown)

    async def close(self) -> None:
        """End the watch, and wake the caller of `next`."""
        if self._maintaining is not None:
            await _end([self._maintaining])
        await _end(self._watched.values())
        self.report(None)

    async def _maintain(self) -> None:
        """Keep each master watched, with growing pauses while that fails."""
        failures = 0
        try:
            while True:
                is_doubtful = failures > 0 or await self._lost_one()
                if is_doubtful:
                    await asyncio.sleep(_pause(failures))
                self._change.clear()
                try:
                    if is_doubtful:
                        await self._client.topology.refresh()
                    await self._cover()
                    failures = 0
                except (StoreUnavailable, OutcomeUnknown):
                    failures += 1
        finally:
            self._news.set()

    async def _lost_one(self) -> bool:
        """Wait until it is time for a check; whether the watch of a server was lost meanwhile."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CHECK_SECONDS):
                await self._change.wait()
        return self._change.is_set()

    async def _cover(self) -> None:
        """Watch each master that is not watched yet, and no other server."""
        masters = await self._client.masters()
        for node in self._watched.keys() - set(masters):
            self._watched.pop(node).cancel()
        begun = [self._begin(node) for node in masters if node not in self._watched]
        if begun:
            results = await asyncio.gather(*begun, return_exceptions=True)
            for result in results:
                if isinstance(result, BaseException):
                    raise result

    async def _begin(self, node: Node) -> None:
        wire = await node.dedicate()
        try:
            await self._track(node, wire)
        except BaseException:
            wire.close()
            raise
        self._watched[node] = asyncio.create_task(self._stay(node, wire))
        self.report(None)

    async def _track(self, node: Node, wire: Wire) -> None:
        """Let the server push the names of changed keys over this wire."""
        wire.on_push = self._take
        try:
            await wire.send(pack("HELLO", "3"))
            await wire.send(pack("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", self._prefix))
        except hiredis.ReplyError as reply:
            error = translate(reply, node.name, self._prefix)
            if isinstance(error, StoreDenied):
                raise StoreDenied(
                    f"{node.name} answered: {reply} (give the user the right +client|tracking; docs/redis.md)"
                ) from reply
            if isinstance(error, StoreUnavailable):
                raise error from reply
            raise StoreError(
                f"{node.name} answered: {reply} (the server, or a proxy before it, does not know client tracking)"
            ) from reply
        # A server limits its buffer for a subscriber that does not read: a stopped process must not fill its memory.
        with contextlib.suppress(hiredis.ReplyError):
            await wire.send(pack("SUBSCRIBE", f"{self._prefix}doorbell"))

    async def _stay(self, node: Node, wire: Wire) -> None:
        """Wait until the connection is lost. A silent server is asked now and then."""
        try:
            while wire.is_open:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(PING_SECONDS):
                        await wire.wait_closed()
                        break
                # A refusal is an answer as well.
                with contextlib.suppress(hiredis.ReplyError):
                    await wire.send(_PING)
        except (StoreUnavailable, OutcomeUnknown):
            pass
        finally:
            wire.close()
            if self._watched.get(node) is asyncio.current_task():
                del self._watched[node]
        if not wire.is_retired:
            self._client.topology.invalidate(node)
        self._change.set()

    def _take(self, push: hiredis.PushNotification) -> bool:
        """Take in a push; False if it is the reply to a command."""
        if push[0] == b"subscribe":
            return False
        if push[0] == b"invalidate":
            # Without keys if the database was emptied.
            for name in [None] if push[1] is None else map(self._name_of, push[1]):
                if name != "":
                    self.report(name)
        return True

    def report(self, name: str | None) -> None:
        """Report a stream, or any of them."""
        self._grown[name] = None
        self._news.set()

    def _parse(self, key: bytes) -> str:
        """The name of the stream with this key; empty for other keys."""
        name = key.decode(errors="replace").removeprefix(self._prefix)
        return name if is_name(name) else ""


_PING = pack("PING")


async def _end(tasks: Iterable[asyncio.Task[None]]) -> None:
    ended = list(tasks)
    for task in ended:
        task.cancel()
    if ended:
        await asyncio.wait(ended)


def _pause(failures: int) -> float:
    longest = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2**failures)
    return random.uniform(longest / 2, longest)
