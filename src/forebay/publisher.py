"""Stores new events: in the contexts of the bus's middleware, with ids that are remembered, and over lost answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from forebay.context import BusContext
from forebay.errors import OutcomeUnknown, PublishUnknown
from forebay.event import Record, check_headers
from forebay.middleware import Layers, PublishCall, is_overridden
from forebay.signals import Published

UNKNOWN_PUBLISHES = 10_000
"""Unanswered publishes that a bus remembers, the latest ones."""

Headers = Mapping[str, str] | None
Make = Callable[[Headers], Sequence[Record]]


class Publisher:
    """Publishes of one bus, but for the shortest way, which is in `EventBus.publish`.

    `window` is for how many seconds an explicit id is remembered.
    """

    def __init__(self, context: BusContext, *, window: float) -> None:
        self._context = context
        self._window = window
        self._layers = Layers[PublishCall](())
        self._unknown: dict[str, str | None] = {}
        self.has_middleware = False

    def use(self) -> None:
        """Publish in the contexts of the middlewares that the bus has now."""
        self._layers = Layers(
            each.publishing for each in self._context.middlewares if is_overridden(each, "publishing")
        )
        self.has_middleware = bool(self._layers)

    async def publish(
        self,
        call: PublishCall,
        make: Make,
        *,
        headers: Headers,
        known: bool,
        delay: float | None,
        at: datetime | None,
    ) -> list[str]:
        """Make the events with these headers and those that middleware adds, store them, and return their ids.

        `known` says that the caller gave the ids.
        """
        stream = call.event_type  # a middleware may change the field
        if not self._layers or not call.data:
            made = make(headers)
            await self._store(stream, made, known=known, delay=delay, at=at)
            return [record.id for record in made]
        call.headers = {} if headers is None else check_headers(headers, self._context.limits)
        records: Sequence[Record] = ()
        stored = False

        async def store() -> None:
            nonlocal records, stored
            records = make(call.headers)
            call.ids = tuple(record.id for record in records)
            await self._store(stream, records, known=known, delay=delay, at=at)
            stored = True

        try:
            await self._layers.run(call, store, may_suppress=None)
        except BaseException as error:
            if stored:
                ids = ", ".join(record.id for record in records[:10])
                error.add_note(f"the store had acknowledged the publish: {len(records)} events, ids {ids}")
            raise
        return [record.id for record in records]

    def unknown(self, records: Sequence[Record], error: OutcomeUnknown) -> PublishUnknown:
        """Remember that these events may be stored; return the error that says so."""
        for record in records:
            self._unknown.setdefault(record.id, error.search_after)
        while len(self._unknown) > UNKNOWN_PUBLISHES:
            del self._unknown[next(iter(self._unknown))]
        ids = [record.id for record in records]
        return PublishUnknown(f"{error}; to be sure, publish again with the same id", ids)

    async def _store(
        self, stream: str, records: Sequence[Record], *, known: bool, delay: float | None, at: datetime | None
    ) -> None:
        if not records:
            return
        context = self._context
        await context.ready()
        context.pruner.published.add(stream)
        is_wanted = bool(context.signals.listeners[Published])
        started = time.perf_counter() if is_wanted else 0.0
        try:
            if delay is not None or at is not None:
                # A scheduled id is always remembered: the stream has no entry yet that could be searched for.
                await context.store.schedule(stream, records, delay=delay, at=at, dedup_window=self._window)
            elif known:
                search_after = self._search_after(records)
                await context.store.append(stream, records, dedup_window=self._window, search_after=search_after)
                for record in records:
                    self._unknown.pop(record.id, None)
            else:
                await context.store.append(stream, records)
        except OutcomeUnknown as error:
            raise self.unknown(records, error) from error
        if is_wanted:
            ids = tuple(record.id for record in records)
            context.signals.emit(Published(stream, ids, time.perf_counter() - started))

    def _search_after(self, records: Sequence[Record]) -> str | None:
        """The position after which events are searched for whose first publish was not answered."""
        if not self._unknown:
            return None
        ids = {record.id for record in records}
        # They are in the order in which they became unknown, so the first position is the earliest.
        return next((after for id, after in self._unknown.items() if id in ids and after is not None), None)
