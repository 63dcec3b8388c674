"""Types by which a type checker compares a handler with its registration.

They are annotations only; at run time `runtime/annotations.py` makes the same checks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Protocol, TypedDict, TypeVar, overload

from forebay.event import Event
from forebay.policy import Retry
from forebay.positions import StreamPosition


class Struct(Protocol):
    """An object of a class of msgspec's."""

    __struct_fields__: ClassVar[tuple[str, ...]]


class Dataclass(Protocol):
    """An object of a dataclass, a pydantic one too."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


class AttrsClass(Protocol):
    """An object of an attrs class."""

    __attrs_attrs__: ClassVar[Any]


class Model(Protocol):
    """An object of a class of pydantic's."""

    def model_dump_json(self) -> str: ...


Payload = Struct | Dataclass | AttrsClass | Model

P = TypeVar("P", bound=Payload)
T = TypeVar("T")
Item = TypeVar("Item")
R = TypeVar("R")
OfEvent = TypeVar("OfEvent", bound=Callable[[Event], object])
OfEvents = TypeVar("OfEvents", bound=Callable[[list[Event]], object])
OfDict = TypeVar("OfDict", bound=Callable[[dict[str, Any]], object])
MethodOfEvent = TypeVar("MethodOfEvent", bound=Callable[[Any, Event], object])
MethodOfEvents = TypeVar("MethodOfEvents", bound=Callable[[Any, list[Event]], object])


class Settings(TypedDict, total=False):
    """The options of `EventBus.on` beside `group` and `batch`; `Options` says what each means."""

    start: StreamPosition
    retry: Retry | None
    concurrency: int
    prefetch: int | None
    timeout: float | None
    lease: float
    ordered: bool
    dedup: bool | float


class HandlesEvents(Protocol):
    """Registers a handler for events of a named type: of the event, or of the class that its data is decoded as."""

    @overload
    def __call__(self, function: OfEvent, /) -> OfEvent: ...
    @overload
    def __call__(self, function: OfDict, /) -> OfDict: ...
    @overload
    def __call__(self, function: Callable[[P], R], /) -> Callable[[P], R]: ...
    @overload
    def __call__(self, function: Callable[[P, Event], R], /) -> Callable[[P, Event], R]: ...


class HandlesEventBatches(Protocol):
    """Registers a handler for lists of events of a named type, or of the class that their data is decoded as."""

    @overload
    def __call__(self, function: OfEvents, /) -> OfEvents: ...
    @overload
    def __call__(self, function: Callable[[list[P]], R], /) -> Callable[[list[P]], R]: ...
    @overload
    def __call__(self, function: Callable[[list[P], list[Event]], R], /) -> Callable[[list[P], list[Event]], R]: ...


class HandlesObjects(Protocol[T]):
    """Registers a handler for objects of a class."""

    @overload
    def __call__(self, function: Callable[[T], R], /) -> Callable[[T], R]: ...
    @overload
    def __call__(self, function: Callable[[T, Event], R], /) -> Callable[[T, Event], R]: ...


class HandlesObjectBatches(Protocol[T]):
    """Registers a handler for lists of objects of a class."""

    @overload
    def __call__(self, function: Callable[[list[T]], R], /) -> Callable[[list[T]], R]: ...
    @overload
    def __call__(self, function: Callable[[list[T], list[Event]], R], /) -> Callable[[list[T], list[Event]], R]: ...


class MethodHandlesEvents(Protocol):
    """`HandlesEvents` for a method; one without `self` becomes a static method."""

    @overload
    def __call__(self, method: MethodOfEvent, /) -> MethodOfEvent: ...
    @overload
    def __call__(self, method: OfEvent, /) -> OfEvent: ...
    @overload
    def __call__(self, method: Callable[[Any, P], R], /) -> Callable[[Any, P], R]: ...
    @overload
    def __call__(self, method: Callable[[Any, P, Event], R], /) -> Callable[[Any, P, Event], R]: ...


class MethodHandlesEventBatches(Protocol):
    """`HandlesEventBatches` for a method."""

    @overload
    def __call__(self, method: MethodOfEvents, /) -> MethodOfEvents: ...
    @overload
    def __call__(self, method: OfEvents, /) -> OfEvents: ...
    @overload
    def __call__(self, method: Callable[[Any, list[P]], R], /) -> Callable[[Any, list[P]], R]: ...
    @overload
    def __call__(
        self, method: Callable[[Any, list[P], list[Event]], R], /
    ) -> Callable[[Any, list[P], list[Event]], R]: ...


class MethodHandlesObjects(Protocol[T]):
    """`HandlesObjects` for a method."""

    @overload
    def __call__(self, method: Callable[[Any, T], R], /) -> Callable[[Any, T], R]: ...
    @overload
    def __call__(self, method: Callable[[Any, T, Event], R], /) -> Callable[[Any, T, Event], R]: ...
    @overload
    def __call__(self, method: Callable[[T], R], /) -> Callable[[T], R]: ...


class MethodHandlesObjectBatches(Protocol[T]):
    """`HandlesObjectBatches` for a method."""

    @overload
    def __call__(self, method: Callable[[Any, list[T]], R], /) -> Callable[[Any, list[T]], R]: ...
    @overload
    def __call__(
        self, method: Callable[[Any, list[T], list[Event]], R], /
    ) -> Callable[[Any, list[T], list[Event]], R]: ...
    @overload
    def __call__(self, method: Callable[[list[T]], R], /) -> Callable[[list[T]], R]: ...
