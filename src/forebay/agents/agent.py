"""The base class of agents: a name, the events that it handles, and hooks for its start and its end."""

from __future__ import annotations

import contextlib
from abc import ABC
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from enum import Enum
from typing import Any, ClassVar, cast

from forebay.agents.definition import Handles, handles, marks_of
from forebay.agents.runner import AgentRunner
from forebay.agents.state import AgentState, NotesOf
from forebay.bus import EventBus
from forebay.callables import completed, is_async, refuse_generator
from forebay.errors import ConfigurationError, Reject
from forebay.event import Event, TypeName, check_seconds
from forebay.payload import check_name, type_name
from forebay.runtime import Options, Runnable
from forebay.subscription import EventStreamConsumer

__all__ = ["BaseAgent", "handles"]

LONGEST_NAME = 100
"""Characters of an agent's name: other names are made of it."""
_HOOKS = ("initialize", "started", "work", "draining", "stopped", "health", "process_event")


class BaseAgent(ABC):
    """A program with a name that handles events and publishes its own.

    A subclass has a `name`, which is also its consumer group: several processes that run the agent share its events. It
    handles events by the methods marked with `@handles`; the types in `event_types` go to `process_event`.
    `bus.run(agent)` or `forebay agents` runs it: `initialize`, `started`, `draining` and `stopped` are called in this
    order, and `work` runs between the second and the third. If a hook or a consumer fails, the agent ends, and is
    started again after a while.

    An event that it publishes while it handles another one has the id of that event, and of the first one of the chain,
    in its headers (`causation_id`, `correlation_id`). An event that it publishes for a batch has no single cause and no
    such headers. The agent answers `EventType.HEALTH_CHECK`, and publishes a heartbeat each `heartbeat` seconds.
    """

    name: str = ""
    """The group of its consumers, and the source of its events."""
    event_types: Sequence[object] = ()
    """Types that go to `process_event`: strings, enum members, payload classes. At most 16 events run at a time."""
    heartbeat: float = 5.0
    """Seconds between two heartbeats; after three times that without one, it counts as silent."""
    restarts: ClassVar[int] = 10
    """How often in a row it is started again. A failure after a minute of running begins a new row."""

    consumer: EventStreamConsumer[Any] | None = None
    """Free for a subclass that subscribes by itself in `initialize`, as the original design does."""

    _bus: EventBus | None = None
    _own_bus: EventBus | None = None

    # Hooks for subclasses.

    async def initialize(self) -> None:
        """Get ready: called before any event is handled, and again at each restart."""

    async def started(self) -> None:
        """Called when its consumers begin to run."""

    async def work(self) -> None:
        """Work beside handling events: cancelled when the agent drains."""

    async def draining(self) -> None:
        """Called when it is about to end: no more events are read, and running handlers may finish."""

    async def stopped(self) -> None:
        """Release the resources of `initialize`: called at the end, also after a failure."""

    async def health(self) -> object:
        """The answer to a health check, as JSON; raise to be reported as unhealthy, with the error's text."""
        return None

    async def process_event(self, event_type: str, data: Any) -> None:
        """Handle an event of one of the `event_types`.

        `event_type` is a `TypeName`: it equals the type's text, and the enum members with that value.
        """
        raise Reject(f"agent {self.name!r} has no process_event() to handle {event_type!r} with")

    # Tools for subclasses.

    @property
    def bus(self) -> EventBus:
        """The bus that it runs on, or else the one that was assigned to `event_bus`."""
        bus = self._bus or self._own_bus
        if bus is None:
            raise ConfigurationError(f"agent {self.name!r} does not run; use bus.run(agent) or `forebay agents`")
        return bus

    @property
    def event_bus(self) -> EventBus:
        """The same as `bus`. A subclass may assign a bus of its own, and publish and subscribe without being run.

        An agent with a bus of its own runs on no other one.
        """
        return self.bus

    @event_bus.setter
    def event_bus(self, bus: EventBus) -> None:
        self._own_bus = bus

    async def publish(
        self,
        event: object,
        data: Any = None,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        id: str | None = None,
        delay: float | None = None,
        at: datetime | None = None,
    ) -> str:
        """Publish an event as this agent; the rest is as for `EventBus.publish`."""
        return await self.bus.publish(event, self.name, data, key=key, headers=headers, id=id, delay=delay, at=at)

    @property
    def state(self) -> AgentState:
        """Its values in the store, kept across restarts and shared by all processes that run it."""
        return AgentState(NotesOf(self.bus), self.name)

    def on_bus(self, bus: EventBus, *, wait: float | None = None) -> Runnable:
        """The runner of the agent on this bus. An agent runs once at a time."""
        if self._own_bus is not None and self._own_bus is not bus:
            raise ConfigurationError(
                f"agent {self.name!r} has an event_bus of its own, {self._own_bus!r}, and cannot run on {bus!r}:"
                " run it there, or do not assign event_bus"
            )
        return AgentRunner(self, bus, wait=wait)

    # For its runner.

    @contextlib.contextmanager
    def bound_to(self, bus: EventBus) -> Iterator[None]:
        """Run on this bus meanwhile; `ConfigurationError` if the agent runs already."""
        if self._bus is not None:
            raise ConfigurationError(f"agent {self.name!r} runs already; make another object for another run")
        self._bus = bus
        try:
            yield
        finally:
            self._bus = None

    def declared(self) -> list[Handles]:
        """All handlers that it declares; `ConfigurationError` if they or its name are not valid."""
        name = check_name(f"{type(self).__qualname__}: agent name", self.name)
        if type(self.name) is not str:
            self.name = name
        if len(self.name) > LONGEST_NAME:
            raise ConfigurationError(f"the agent name {self.name!r} is too long: use at most {LONGEST_NAME} characters")
        check_seconds("heartbeat", self.heartbeat, least=0.05)
        if type(self.restarts) is not int or self.restarts < 0:
            raise ConfigurationError(f"restarts={self.restarts!r} of {self.name!r}: give a whole number from 0")
        for hook in _HOOKS:
            refuse_generator(f"agent {self.name!r}:", getattr(self, hook))
            if not is_async(getattr(self, hook)):
                raise ConfigurationError(f"{hook}() of agent {self.name!r} is awaited: write `async def {hook}`")
        found = [*self._marked(), *self._processed()]
        by_type: dict[str, Handles] = {}
        for each in found:
            stream = type_name(each.event_type)
            if stream in by_type:
                raise ConfigurationError(
                    f"agent {self.name!r} handles {stream!r} twice, in {_called(by_type[stream])} and {_called(each)}: "
                    "as one group it gets each event once"
                )
            by_type[stream] = each
        return found

    def _marked(self) -> Iterator[Handles]:
        for name in dir(type(self)):
            for event, options in marks_of(type(self), name):
                yield Handles(event, options, getattr(self, name))

    def _processed(self) -> Iterator[Handles]:
        types = cast("object", self.event_types)
        if isinstance(types, (str, Enum)) or not isinstance(types, Iterable):
            raise ConfigurationError(f"event_types={self.event_types!r} of {self.name!r}: give a tuple of types")
        for event in self.event_types:
            yield Handles(type_name(event), Options(), self._handle_event)

    async def _handle_event(self, event: Event) -> None:
        await completed(self.process_event(TypeName(event.type), event.data))


def _called(declared: Handles) -> str:
    name = getattr(declared.function, "__name__", repr(declared.function))
    return "event_types" if name == "_handle_event" else f"{name}()"
