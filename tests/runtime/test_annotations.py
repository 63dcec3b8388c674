"""A handler's annotations name its argument: a contradiction is refused, a class is decoded."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Protocol, TypedDict, TypeVar

import msgspec
import pydantic
import pytest

from forebay import ConfigurationError, Event, EventBus, connect
from forebay.agents import BaseAgent, handles


@pytest.fixture
async def memory() -> AsyncIterator[EventBus]:
    async with connect("memory://") as bus:
        yield bus


class Order(msgspec.Struct):
    n: int


class Other(msgspec.Struct):
    n: int


class Special(Order):
    pass


class Refund(msgspec.Struct, tag="refund"):
    n: int


class Sale(msgspec.Struct, tag="sale"):
    n: int


@dataclasses.dataclass
class Bought:
    n: int


class Sold(pydantic.BaseModel):
    n: int


class MyEvent(Event, frozen=True):
    pass


class Numbered(Protocol):
    n: int


class Data(TypedDict):
    n: int


class Unreadable(msgspec.Struct):
    call: Callable[[], None]


AnyOrder = TypeVar("AnyOrder", bound=Order)


def handler(*annotations: Any) -> Callable[..., Any]:
    """A handler with parameters of these types."""

    async def handle(first: Any, second: Any = None) -> None: ...

    async def handle_one(first: Any) -> None: ...

    async def handle_both(first: Any, second: Any) -> None: ...

    made = handle_one if len(annotations) < 2 else handle_both
    made.__annotations__ = dict(zip(("first", "second"), annotations, strict=False))
    return made


RIGHT: list[tuple[Any, int | None, tuple[Any, ...]]] = [
    *[("t", None, (each,)) for each in (
        Event, Any, object, "Event", Event | None, "Event | None", dict, dict[str, Any], Mapping[str, object], Data,
        Order, Bought, Sold, Order | None, Sale | Refund, Annotated[Order, "of a shop"], "OnlyForTypeCheckers",
        Numbered, AnyOrder, Event | Order, msgspec.Struct,
    )],
    ("t", None, ()),
    ("t", None, (Order, Event)),
    ("t", None, (Sold, dict[str, Any])),
    *[("t", 10, (each,)) for each in (
        list[Event], list, Sequence[Event], Iterable[Event], "list[Event]", list[dict[str, Any]], list[Any], Any,
        object, list[Order], Sequence[Sold], list[Bought] | None, list["Order"],
    )],
    ("t", 10, (list[Order], list[Event])),
    *[(Order, None, (each,)) for each in (
        Order, msgspec.Struct, Any, object, Order | Other, Numbered, AnyOrder, "Order",
    )],
    (Order, None, (Order, Event)),
    (Order, None, (Order, Any)),
    (Special, None, (Order,)),
    (Order, 10, (list[Order],)),
    (Order, 10, (Sequence[msgspec.Struct], Sequence[Event])),
]  # fmt: skip


@pytest.mark.parametrize(("event", "batch", "annotations"), RIGHT, ids=lambda value: str(value)[:60])
def test_annotations_that_fit_the_registration_are_taken(
    event: Any, batch: int | None, annotations: tuple[Any, ...]
) -> None:
    connect("memory://").on(event, group="g", batch=batch)(handler(*annotations))


WRONG: list[tuple[Any, int | None, tuple[Any, ...], str]] = [
    ("t", None, (int,), "takes int, but is given Event: write `first: Event`"),
    ("t", None, (str,), "write `first: Event`, or register it for a class of payloads"),
    ("t", None, (list[Event],), "takes list[Event], but is given Event: write `first: Event`, or give `batch=100`"),
    ("t", None, (Sequence[Event],), "or give `batch=100`"),
    ("t", None, (list[Order],), "takes list[Order], but is given Event"),
    ("t", None, (MyEvent,), "takes MyEvent, but is given Event"),
    ("t", None, (int | None,), "is given Event"),
    ("t", None, (Unreadable,), "Unreadable cannot be read from JSON"),
    ("t", None, (Order, int), "takes int, but is given Event: write `second: Event`"),
    ("t", 10, (Event,), "takes Event, but is given list[Event]: write `first: list[Event]`, or leave out `batch`"),
    ("t", 10, (Order,), "takes Order, but is given list[Event]"),
    ("t", 10, (list[int],), "takes list[int], but is given list[Event]"),
    ("t", 10, (tuple[Event, ...],), "is given list[Event]"),
    ("t", 10, (list[Order], Event), "takes Event, but is given list[Event]: write `second: list[Event]`"),
    (Order, None, (Other,), "takes Other, but is given Order: write `first: Order`, or register it for the class"),
    (Order, None, (Special,), "takes Special, but is given Order"),
    (Order, None, (Event,), "write `first: Order`; the event itself comes as a second argument"),
    (Order, None, (dict,), "takes dict, but is given Order"),
    (Order, None, (list[Order],), "takes list[Order], but is given Order: write `first: Order`, or give `batch=100`"),
    (Order, None, (Order, Order), "takes Order, but is given Event: write `second: Event`"),
    (Order, 10, (Order,), "takes Order, but is given list[Order]: write `first: list[Order]`, or leave out `batch`"),
    (Order, 10, (list[Event],), "takes list[Event], but is given list[Order]"),
    ("t", None, ("Event", "Event"), "must be callable with one argument, the event"),
]


@pytest.mark.parametrize(("event", "batch", "annotations", "told"), WRONG, ids=lambda value: str(value)[:60])
def test_annotations_that_contradict_the_registration_are_refused_with_the_right_spelling(
    event: Any, batch: int | None, annotations: tuple[Any, ...], told: str
) -> None:
    bus = connect("memory://")
    function = handler(*annotations)

    with pytest.raises(ConfigurationError) as refused:
        bus.on(event, group="g", batch=batch)(function)
    assert told in str(refused.value)
    with pytest.raises(ConfigurationError, match=r"handler .*handle|cannot be read"):
        _ = bus.subscribe_to_stream(event, "g", batch=batch).consume_events(function)
    with pytest.raises(ConfigurationError, match=r"handle|cannot be read"):
        handles(event, batch=batch)(staticmethod(function))


async def test_a_method_that_contradicts_its_registration_is_refused_by_its_decorator() -> None:
    with pytest.raises(ConfigurationError, match="takes int, but is given Event: write `event: Event`"):

        class Wrong(BaseAgent):
            name = "wrong"

            @handles("t")  # type: ignore[type-var]  # the mistake that is tested
            async def handle(self, event: int) -> None: ...


async def test_the_data_of_a_named_type_is_decoded_as_the_class_in_the_annotation(bus: EventBus) -> None:
    seen: list[Any] = []

    @bus.on("t", group="struct")
    async def struct(order: Order, event: Event) -> None:
        seen.append((order, event.data))

    @bus.on("t", group="model")
    def model(sold: Sold) -> None:
        seen.append(sold)

    @bus.on("t", group="batch", batch=5)
    async def batch(orders: Sequence[Bought]) -> None:
        seen.extend(orders)

    class Agent(BaseAgent):
        name = "agent"

        @handles("t")
        async def handle(self, order: Other) -> None:
            seen.append(order)

    await bus.publish("t", "s", {"n": 1})
    await bus.run(Agent(), until_idle=True)

    assert 4 == len(seen)
    assert all(each in seen for each in ((Order(1), Order(1)), Sold(n=1), Bought(1), Other(1)))


async def test_data_that_does_not_fit_the_annotated_class_is_a_dead_letter(memory: EventBus) -> None:
    @memory.on("t", group="g")
    async def handle(order: Order) -> None: ...

    await memory.publish("t", "s", {"n": "x"})
    await memory.run(until_idle=True)

    (letter,) = await memory.dead_letters("t")
    assert letter.error.startswith("the data does not fit Order: Expected `int`, got `str`")


async def test_a_union_of_tagged_structs_is_decoded_as_the_right_one(memory: EventBus) -> None:
    seen: list[object] = []

    @memory.on("t", group="g")
    async def handle(deal: Sale | Refund) -> None:
        seen.append(deal)

    await memory.publish_many("t", "s", [Sale(1), Refund(2)])
    await memory.run(until_idle=True)

    assert [Sale(1), Refund(2)] == seen


async def test_a_second_parameter_of_its_own_keeps_its_default(memory: EventBus) -> None:
    seen: list[object] = []

    @memory.on(Order, group="own")
    async def own(order: Order, tries: int = 3) -> None:
        seen.append(tries)

    @memory.on(Order, group="event")
    async def with_event(order: Order, event: Event | None = None) -> None:
        seen.append(type(event).__name__)

    await memory.publish(Order(1), "s")
    await memory.run(until_idle=True)

    assert {3, "Event"} == set(seen)


@pytest.mark.parametrize("register", [lambda bus: bus.on, lambda bus: handles], ids=["on", "handles"])
def test_a_decorator_without_a_type_is_refused_with_words(register: Callable[[EventBus], Any]) -> None:
    with pytest.raises(
        ConfigurationError, match=r'a decorator is given the type first, as in @bus.on\("order_placed"\)'
    ):
        register(connect("memory://"))(handler())


def test_wrong_options_are_refused_where_they_are_given() -> None:
    with pytest.raises(ConfigurationError, match="batch=0"):
        connect("memory://").on("t", batch=0)
