"""How a DualBus publishes an event: stamped, on the new bus and then on the old one."""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from forebay.bus import EventBus
from forebay.callables import completed
from forebay.errors import ForebayError, PublishUnknown, StoreError
from forebay.event import Event, new_id
from forebay.migration.context import MigrationContext
from forebay.migration.dual_handler import DualHandler
from forebay.migration.observer import Observer
from forebay.migration.old import EventDict, OldBus
from forebay.migration.routes import Route, Stamp
from forebay.migration.signals import OldBusFailed, PublishedOnOldBusOnly
from forebay.migration.upkeep import keep_running
from forebay.payload import type_name

SLOW_PUBLISH_SECONDS = 1.0
"""Duration of a failed publish after which the new bus is not used until it answers again."""


class DualPublisher:
    """Publishes on both buses, and counts the differences. `handlers` are those of the DualBus, by type and agent.

    The errors of the `primary` bus are raised. `is_ready` is set while the new bus is open, `is_closing` when the
    DualBus is closed. While `is_paused`, the new bus is not asked, because it did not answer in time.
    """

    def __init__(
        self,
        old: OldBus,
        new: EventBus,
        context: MigrationContext,
        handlers: Mapping[tuple[str, str], DualHandler],
        *,
        primary: Literal["old", "new"],
        is_ready: asyncio.Event,
        is_closing: asyncio.Event,
    ) -> None:
        self.is_paused = False
        self._old = old
        self._new = new
        self._context = context
        self._handlers = handlers
        self._primary = primary
        self._is_ready = is_ready
        self._is_closing = is_closing
        self._observer = Observer(new, context.id, context.counts)
        self._published = 0
        self._on_old_only: set[str] = set()
        self._repeats: set[asyncio.Task[None]] = set()

    async def publish(
        self,
        stream: str,
        source: str,
        data: dict[str, Any],
        *,
        key: str | None,
        headers: Mapping[str, str] | None,
        table: Mapping[str, Route],
    ) -> str:
        """Publish an event on both buses, by the routes in the `table`; return its id, the same on both."""
        agents = [agent for type, agent in self._handlers if type == stream]
        self._published += 1
        stamp = Stamp(self._context.migration, self._context.id, str(self._published)).for_agents(table, agents)
        id, stamp = await self._publish_new(stream, source, data, key, headers, stamp, agents)
        event = Event(id, stream, source, data, datetime.now(UTC), key, {**(headers or {}), **stamp.headers()})
        await self._publish_old(event, stamp)
        return id

    async def close(self) -> None:
        """Stop comparing, and wait for the end of the publishes that are repeated: `is_closing` ends them."""
        await self._observer.close()
        await asyncio.gather(*self._repeats, return_exceptions=True)

    async def _publish_new(
        self,
        stream: str,
        source: str,
        data: dict[str, Any],
        key: str | None,
        headers: Mapping[str, str] | None,
        stamp: Stamp,
        agents: list[str],
    ) -> tuple[str, Stamp]:
        """The event's id, and the stamp for the old bus."""
        # Before a consumer can read the event: it then finds that the old bus has it.
        self._expect(stream, stamp)
        arguments: dict[str, Any] = {"key": key, "headers": {**(headers or {}), **stamp.headers()}}
        began = time.monotonic()
        try:
            self._check_new(stream)
            await self._observer.watch(stream)
            self._observer.expect(stream, stamp.key, data)
            id = await self._new.publish(stream, source, data, **arguments)
        except asyncio.CancelledError:
            # The publisher has given the event up, so the old bus does not get it.
            self._observer.forget(stream, stamp.key)
            self._forget(stream, stamp)
            raise
        except ForebayError as error:
            self._observer.forget(stream, stamp.key)
            if self._primary == "new":
                self._forget(stream, stamp)
                raise
            if time.monotonic() - began > SLOW_PUBLISH_SECONDS:
                self.is_paused = True
            if isinstance(error, PublishUnknown):
                # The event may be stored with this stamp: an agent whose route is new handles it there.
                self._repeat(stream, source, data, error.id, arguments)
                return error.id, stamp
            if stream not in self._on_old_only:
                self._context.signals.emit(PublishedOnOldBusOnly(stream, error))
            self._on_old_only.add(stream)
            self._context.counts.type(stream).missing += 1
            everyone = stamp.for_agents({}, agents)
            self._expect(stream, everyone)
            return new_id(), everyone
        self._on_old_only.discard(stream)
        self._observer.published(stream, stamp.key)
        self._context.counts.type(stream).new += 1
        return id, stamp

    def _check_new(self, stream: str) -> None:
        """Raise the error of the new bus, if to ask it would take long, or it cannot be asked."""
        type_name(stream)
        if not self._is_ready.is_set():
            raise StoreError("the new bus is not open yet")
        if self.is_paused and self._primary == "old":
            raise StoreError("the new bus did not answer in time; it is let alone until it does")

    def _expect(self, stream: str, stamp: Stamp) -> None:
        for agent in stamp.old:
            self._handlers[stream, agent].expect(stamp.key)

    def _forget(self, stream: str, stamp: Stamp) -> None:
        for agent in stamp.old:
            self._handlers[stream, agent].forget(stamp.key)

    def _repeat(self, stream: str, source: str, data: dict[str, Any], id: str, arguments: dict[str, Any]) -> None:
        """Publish again under its id, until it is known to be stored. It counts as missing until then."""
        # A copy, because handlers on the old bus may change the data.
        data = copy.deepcopy(data)
        counts = self._context.counts.type(stream)

        async def repeat() -> None:
            await self._new.publish(stream, source, data, id=id, **arguments)
            counts.missing -= 1
            counts.new += 1

        counts.missing += 1
        name = f"{stream} {id} on the new bus"
        task = keep_running(name, repeat, signals=self._context.signals, until=self._is_closing)
        self._repeats.add(task)
        task.add_done_callback(self._repeats.discard)

    async def _publish_old(self, event: Event, stamp: Stamp) -> None:
        carried = EventDict(event)
        try:
            await completed(self._old.publish(event.type, event.source, carried))
        except Exception as error:
            self._forget(event.type, stamp)
            if carried.is_delivered:
                # A handler's error, which this bus raises to the publisher.
                self._context.counts.type(event.type).old += 1
            else:
                self._context.counts.type(event.type).extra += 1
            if self._primary == "old":
                raise
            self._context.signals.emit(OldBusFailed(event.type, event.id, error))
        else:
            self._context.counts.type(event.type).old += 1
