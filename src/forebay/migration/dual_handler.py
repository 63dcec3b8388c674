"""One agent's share of one type, on both buses."""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Literal

from forebay.callables import completed
from forebay.errors import HandlerTimeout
from forebay.event import Event
from forebay.migration.context import MigrationContext
from forebay.migration.observer import digest
from forebay.migration.old import EventDict, OldHandler
from forebay.migration.routes import Stamp
from forebay.migration.signals import HandledDifferently, LostByOldBus, OldBusCopiesData
from forebay.reason import describe

Side = Literal["old", "new"]

OLD_BUS_SECONDS = 60.0
"""Seconds from its publish after which an event that the old bus has not finished counts as lost there."""
HANDOVER_SECONDS = 5.0
"""The longest that a cutover waits for handlers on the old bus."""
REMEMBERED_EVENTS = 10_000
"""Outcomes of shadow runs that are not compared yet, and lost events that are recognised when they come late."""


class DualHandler:
    """Calls the agent's handler on the bus to which an event belongs, and counts the outcomes.

    `consume` calls the function that it is given for each event of the agent's group on the new bus.
    `outstanding` are the events that the old bus has for this agent and has not finished.
    """

    def __init__(
        self,
        context: MigrationContext,
        stream: str,
        agent: str,
        handler: OldHandler,
        shadow: OldHandler,
        consume: Callable[[Callable[[Event], Awaitable[None]]], Awaitable[object]],
        timeout: float | None = None,
    ) -> None:
        self.stream = stream
        self.agent = agent
        self.outstanding: OrderedDict[str, asyncio.Future[None]] = OrderedDict()
        self._context = context
        self._handler = handler
        self._shadow = shadow
        self._consume = consume
        self._timeout = timeout
        self._handing_over = False
        self._given_up: OrderedDict[str, None] = OrderedDict()
        self._outcomes: OrderedDict[str, tuple[Side, str]] = OrderedDict()
        self._carries = False

    def expect(self, key: str) -> None:
        """The event is about to be published on the old bus."""
        if key not in self.outstanding:
            self.outstanding[key] = asyncio.get_running_loop().create_future()

    def forget(self, key: str) -> None:
        """The old bus is done with this event."""
        future = self.outstanding.pop(key, None)
        if future is not None and not future.done():
            future.set_result(None)

    def switched(self) -> None:
        """The route has changed: the next event on the new bus waits for the handlers that run on the old one."""
        self._handing_over = True

    @property
    def _counts(self) -> Any:
        return self._context.counts.agent(self.stream, self.agent)

    # On the old bus.

    async def on_old(self, event_type: str, source: str, data: Any) -> object:
        """Handle an event that the old bus delivers, if it belongs to the old bus.

        A method, like the agents' own: old buses ask whether a handler is a coroutine function, or for its name.
        """
        if not isinstance(data, EventDict):
            return await self._deliver_past(event_type, source, data)
        self._carries = data.is_delivered = True
        event = data.event
        stamp = self._context.stamp_of(event)
        if stamp.by and self.agent not in stamp.old:
            return None
        if not stamp.by:
            self._context.counts.type(self.stream).bypassed += 1
        elif digest(data) != data.digest:
            self._context.counts.type(self.stream).differing += 1
            # Once for all handlers that are given it.
            data.digest = digest(data)
        try:
            result = await _called(self._handler, event.type, event.source, dict(data))
        except Exception as error:
            self._counts.old_failed += 1
            self._compare(event, stamp, "old", f"raised {describe(error)}")
            raise
        finally:
            self.forget(stamp.key)
            if stamp.key in self._given_up:
                del self._given_up[stamp.key]
                self._counts.lost -= 1
        self._counts.old_handled += 1
        self._counts.old_latency.add(_age(event))
        self._compare(event, stamp, "old", _outcome(result))
        return result

    async def _deliver_past(self, event_type: str, source: str, data: Any) -> object:
        """Handle an event that did not come through a DualBus, or report that the old bus copies its data."""
        if self.outstanding and not self._carries:
            self._context.signals.emit(OldBusCopiesData(event_type))
            return None
        self._context.counts.type(self.stream).bypassed += 1
        try:
            result = await _called(self._handler, event_type, source, data)
        except Exception:
            self._counts.old_failed += 1
            raise
        self._counts.old_handled += 1
        return result

    # On the new bus.

    async def consume(self) -> None:
        """Handle the events of the group until the DualBus stops."""
        await self._consume(self.on_new)

    async def on_new(self, event: Event) -> None:
        """Handle an event of the group if it belongs to the new bus; else finish it once the old bus has."""
        stamp = self._context.stamp_of(event)
        if self.agent in stamp.shadow:
            await self._run_shadow(event, stamp)
        if self.agent in stamp.old:
            await self._wait_for_old(event, stamp)
            return
        if self._handing_over:
            await self._hand_over()
        try:
            await self._called_on_new(self._handler, event)
        except Exception:
            self._counts.new_failed += 1
            raise
        self._counts.new_handled += 1
        self._counts.new_latency.add(_age(event))

    async def _called_on_new(self, handler: OldHandler, event: Event) -> object:
        limit = asyncio.timeout(self._timeout)
        try:
            async with limit:
                return await _called(handler, event.type, event.source, event.data)
        except TimeoutError as error:
            if limit.expired():
                raise HandlerTimeout(f"the handler ran longer than {self._timeout:g} s") from error
            raise

    async def _wait_for_old(self, event: Event, stamp: Stamp) -> None:
        if stamp.by == self._context.id:
            future = self.outstanding.get(stamp.key)
            if future is not None:
                with contextlib.suppress(TimeoutError):
                    # From its publish on: an event after many lost ones must not wait as long again.
                    await asyncio.wait_for(asyncio.shield(future), max(0.0, OLD_BUS_SECONDS - _age(event)))
            if stamp.key in self.outstanding:
                self._give_up(stamp.key)
        elif await self._context.peers.state(stamp.by) == "died":
            # Its process died, and the old bus in it, before it was finished.
            self._counts.lost += 1
            self._context.signals.emit(LostByOldBus(self.stream, event.id, self.agent))

    def _give_up(self, key: str) -> None:
        self.forget(key)
        self._counts.lost += 1
        self._given_up[key] = None
        if len(self._given_up) > REMEMBERED_EVENTS:
            self._given_up.popitem(last=False)

    async def _hand_over(self) -> None:
        """Wait for the handlers that run on the old bus for this agent, so that its order holds."""
        running = list(self.outstanding.values())
        if running:
            await asyncio.wait(running, timeout=HANDOVER_SECONDS)
        self._handing_over = False

    # Comparing.

    async def _run_shadow(self, event: Event, stamp: Stamp) -> None:
        try:
            outcome = _outcome(await self._called_on_new(self._shadow, event))
        except Exception as error:  # noqa: BLE001  # the shadow's outcome, and nothing else
            outcome = f"raised {describe(error)}"
        self._counts.new_latency.add(_age(event))
        self._compare(event, stamp, "new", outcome)

    def _compare(self, event: Event, stamp: Stamp, side: Side, outcome: str) -> None:
        if self.agent not in stamp.shadow:
            return
        other, first = self._outcomes.pop(stamp.key, (side, ""))
        if other == side:
            # The other bus has not handled it yet. If a bus delivers twice, the last outcome is compared.
            self._outcomes[stamp.key] = (side, outcome)
            if len(self._outcomes) > REMEMBERED_EVENTS:
                self._outcomes.popitem(last=False)
        elif first == outcome:
            self._counts.same += 1
        else:
            self._counts.different += 1
            self._context.signals.emit(HandledDifferently(self.agent, self.stream, event.id, first, outcome))


async def _called(handler: OldHandler, event_type: str, source: str, data: Any) -> object:
    return await completed(handler(event_type, source, data))


def _age(event: Event) -> float:
    return max(0.0, (datetime.now(UTC) - event.timestamp).total_seconds())


def _outcome(result: object) -> str:
    """The result of a handler in a form that can be compared: a value that is not JSON counts by its type."""
    return f"returned {digest(result) or type(result).__name__}"
