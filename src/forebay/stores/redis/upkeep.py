"""The upkeep of a group on the server, each chore at its own pace: checkpoints, and the removal of idle consumers."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Hashable, Iterable

from forebay.errors import NotFound, StoreError
from forebay.stores.redis import scripts
from forebay.stores.redis.client import Client
from forebay.stores.redis.keys import Group

CHECKPOINT_SECONDS = 1.0
"""Seconds between checkpoints of a group that makes progress."""
REMOVAL_SECONDS = 60.0
"""Seconds between searches of a group for idle consumers."""
FORGOTTEN_SECONDS = 3600.0
"""Seconds after which a consumer that holds nothing is removed."""


class Upkeep:
    """The chores of one store object. It runs with the moves of the groups and has no task of its own.

    A failed chore fails no move: it is due again after its pause.
    """

    def __init__(self) -> None:
        self._checkpoint_at: dict[Group, float] = {}
        self._removal_at: dict[Group, float] = {}
        self._progress: dict[Group, Hashable] = {}

    async def run(self, client: Client, progress: Iterable[tuple[Group, Hashable]]) -> None:
        """Run the chores that are due. A group is checked again only after its `progress` has changed."""
        now = time.monotonic()
        chores = []
        for group, made in progress:
            if now >= self._checkpoint_at.get(group, 0.0) and (made is None or self._progress.get(group) != made):
                chores.append(self._checkpoint(client, group, made))
            if now >= self._removal_at.get(group, 0.0):
                chores.append(self._remove_idle_consumers(client, group))
        if chores:
            await asyncio.gather(*chores)

    def forget(self, group: Group) -> None:
        """Forget a group that was removed."""
        for known in (self._checkpoint_at, self._removal_at, self._progress):
            known.pop(group, None)

    async def _checkpoint(self, client: Client, group: Group, made: Hashable) -> None:
        self._checkpoint_at[group] = time.monotonic() + CHECKPOINT_SECONDS
        with contextlib.suppress(StoreError, NotFound):
            await scripts.checkpoint(client, group)
            self._progress[group] = made

    async def _remove_idle_consumers(self, client: Client, group: Group) -> None:
        self._removal_at[group] = time.monotonic() + REMOVAL_SECONDS
        with contextlib.suppress(StoreError, NotFound):
            await scripts.remove_idle_consumers(client, group, idle=FORGOTTEN_SECONDS)
