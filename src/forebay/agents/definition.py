"""The declarations of an agent: its name, its handlers, and the hooks that its runner calls."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from enum import Enum
from typing import Any, Literal, NamedTuple, Protocol, TypeVar, Unpack, overload

from forebay.bus import EventBus
from forebay.callables import module_of, refuse_generator
from forebay.payload import EventTypeLike, kind_of, type_name
from forebay.runtime import Options
from forebay.runtime.annotations import taken_by
from forebay.typed import (
    MethodHandlesEventBatches,
    MethodHandlesEvents,
    MethodHandlesObjectBatches,
    MethodHandlesObjects,
    Settings,
    T,
)

Method = TypeVar("Method", bound=Callable[..., Any])
Status = Literal["initializing", "started", "draining", "stopped", "failed"]

_MARKS = "__forebay_handles__"


class RunnableAgent(Protocol):
    """The parts of an agent that its runner uses; `BaseAgent` documents them."""

    name: str
    heartbeat: float

    @property
    def restarts(self) -> int: ...

    def declared(self) -> list[Handles]: ...

    def bound_to(self, bus: EventBus) -> AbstractContextManager[None]: ...

    async def initialize(self) -> None: ...

    async def started(self) -> None: ...

    async def work(self) -> None: ...

    async def draining(self) -> None: ...

    async def stopped(self) -> None: ...

    async def health(self) -> object: ...


class Handles(NamedTuple):
    """A function, the event type that it handles, and the options."""

    event_type: EventTypeLike
    options: Options
    function: Callable[..., Any]


@overload
def handles(event_type: str | Enum, *, batch: None = None, **options: Unpack[Settings]) -> MethodHandlesEvents: ...
@overload
def handles(event_type: str | Enum, *, batch: int, **options: Unpack[Settings]) -> MethodHandlesEventBatches: ...
@overload
def handles(event_type: type[T], *, batch: None = None, **options: Unpack[Settings]) -> MethodHandlesObjects[T]: ...
@overload
def handles(event_type: type[T], *, batch: int, **options: Unpack[Settings]) -> MethodHandlesObjectBatches[T]: ...
@overload
def handles(event_type: EventTypeLike, *, batch: int | None, **options: Unpack[Settings]) -> Any: ...
def handles(event_type: EventTypeLike, *, batch: int | None = None, **options: Unpack[Settings]) -> Any:
    """Let the decorated method of an agent handle events of this type.

    `event_type` and the options (`retry`, `concurrency`, `ordered`, `timeout`, `batch`, `start`, ...) are
    those of `EventBus.on`, but for the group: that is the agent's name. One method may handle several
    types, by several decorators. A subclass that overrides the method keeps its types, unless it
    is decorated again; with `method = None` it handles nothing.

        class Billing(BaseAgent):
            name = "billing"

            @handles("order_placed", retry=Retry(attempts=3), ordered=True)
            async def bill(self, event: Event) -> None: ...
    """
    type_name(event_type)
    parsed = Options.parse({**options, "batch": batch})

    def mark(method: Method) -> Method:
        function = getattr(method, "__func__", method)
        refuse_generator("handler", function)
        taken_by(function, kind=kind_of(event_type), batch=parsed.batch is not None, skip=_own_parameters(method))
        marks = getattr(method, _MARKS, ())
        setattr(method, _MARKS, (*marks, (event_type, parsed)))
        return method

    return mark


def _own_parameters(method: Any) -> int:
    """The number of parameters before the event: one for the object or class, none for a static method."""
    parameters = list(inspect.signature(getattr(method, "__func__", method)).parameters.values())
    # A function that is to become a static method has a type for its first parameter, or no other one.
    is_static = len(parameters) < 2 or parameters[0].annotation is not inspect.Parameter.empty
    return 0 if isinstance(method, staticmethod) or is_static else 1


def marks_of(agent: type, name: str) -> Iterable[tuple[EventTypeLike, Options]]:
    """The types that an attribute handles, by its own marks or those of the attribute that it overrides."""
    if inspect.getattr_static(agent, name) is None:
        return ()
    for kind in agent.__mro__:
        attribute = vars(kind).get(name)
        # A static or class method is marked from outside, or is made of a marked function.
        for function in (attribute, getattr(attribute, "__func__", None)):
            if marks := getattr(function, _MARKS, ()):
                found: Iterable[tuple[EventTypeLike, Options]] = marks
                return found
    return ()


def code_of(agent: object) -> str:
    """The place of its class, as module:class, by which two agents of one name differ."""
    kind = type(agent)
    return f"{module_of(kind) or 'main'}:{kind.__qualname__}"
