"""A payload class is written and read by one rule, or refused before anything is stored."""

from __future__ import annotations

import dataclasses
import decimal
import enum
import math
import typing
from collections.abc import AsyncIterator, Callable, Sized
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import attrs
import msgspec
import pydantic
import pydantic.dataclasses
import pytest
from pydantic.alias_generators import to_camel

from forebay import ConfigurationError, Event, EventBus, InvalidEvent, MalformedEntry, MalformedEvent, connect
from forebay.agents import BaseAgent, handles
from forebay.agents.state import AgentState
from forebay.payload import decode, encode


@pytest.fixture
async def memory() -> AsyncIterator[EventBus]:
    async with connect("memory://") as bus:
        yield bus


# Classes that come back.


@attrs.define
class Weighed:
    grams: int = attrs.field(validator=attrs.validators.gt(0))
    doubled: int = attrs.field(init=False, default=0)


class Line(pydantic.BaseModel):
    sku: str = pydantic.Field(alias="SKU")


@pydantic.dataclasses.dataclass
class Amount:
    cents: pydantic.PositiveInt
    currency: str = pydantic.Field(alias="cur", default="EUR")


@dataclasses.dataclass
class Basket:
    first: Line
    lines: list[Line] = dataclasses.field(default_factory=list)
    by_name: dict[str, Line | None] = dataclasses.field(default_factory=dict)


class Shelf(msgspec.Struct):
    line: Line
    size: Sized
    anything: object = None
    tree: list[Shelf] = []


class Aliased(pydantic.BaseModel):
    order_id: int = pydantic.Field(alias="orderId")


class ReadByAnotherName(pydantic.BaseModel):
    a: int = pydantic.Field(validation_alias="aa", default=0)


class ReadByAChoice(pydantic.BaseModel):
    a: int = pydantic.Field(validation_alias=pydantic.AliasChoices("x", pydantic.AliasPath("y", 0)))


class Computed(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    a: int

    @pydantic.computed_field  # type: ignore[prop-decorator]  # as pydantic documents it
    @property
    def double(self) -> int:
        return 2 * self.a


class WithCache(pydantic.BaseModel):
    a: int
    seen: int = pydantic.Field(default=0, exclude=True)
    _private: int = pydantic.PrivateAttr(default=1)


class WithSets(pydantic.BaseModel):
    tags: set[str]
    meta: dict[str, Any] = {}
    amount: Amount = Amount(cents=1)


class Animal(pydantic.RootModel[list[int]]): ...


class CamelCase(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(alias_generator=to_camel)
    first_name: str


VALUES: dict[str, Any] = {
    "attrs": Weighed(5),
    "dataclass with models": Basket(Line(SKU="1"), [Line(SKU="2")], {"a": Line(SKU="3"), "b": None}),
    "struct with a model": Shelf(Line(SKU="1"), {"a": 1}, [1, 2], [Shelf(Line(SKU="2"), [])]),
    "pydantic dataclass": Amount(cents=1, cur="USD"),
    "alias": Aliased(orderId=1),
    "validation alias": ReadByAnotherName.model_validate({"aa": 7}),
    "alias choices": ReadByAChoice.model_validate({"x": 7}),
    "computed field": Computed(a=1),
    "sets": WithSets(tags={"a", "b", "c", "d", "e"}, meta={"at": datetime(2026, 1, 1, tzinfo=UTC), "pair": (1, 2)}),
    "root model": Animal([1, 2]),
    "alias generator": CamelCase.model_validate({"firstName": "Ada"}),
}


@pytest.mark.parametrize("name", sorted(set(VALUES) - {"sets"}))
async def test_an_object_of_a_payload_class_reaches_its_handler_as_it_was(memory: EventBus, name: str) -> None:
    value, seen = VALUES[name], list[Any]()

    @memory.on(type(value), group="g")
    async def handle(payload: Any) -> None:
        seen.append(payload)

    await memory.publish(value, "s")
    await memory.publish_many(type(value), "s", [value])
    await memory.run(until_idle=True)

    assert [value, value] == seen


def test_sets_come_back_and_free_values_take_the_form_that_json_has() -> None:
    value = VALUES["sets"]

    again = decode(encode(value), WithSets)

    assert value.tags == again.tags
    assert {"at": "2026-01-01T00:00:00Z", "pair": [1, 2]} == again.meta


def test_excluded_fields_are_left_out_and_come_back_as_their_default() -> None:
    assert b'{"a":1}' == encode(WithCache(a=1, seen=5))
    assert WithCache(a=1) == decode(encode(WithCache(a=1, seen=5)), WithCache)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({"line": Line(SKU="1")}, b'{"line":{"SKU":"1"}}'),
        ([Line(SKU="1"), {"deep": (Line(SKU="2"),)}], b'[{"SKU":"1"},{"deep":[{"SKU":"2"}]}]'),
        (Basket(Line(SKU="1")), b'{"first":{"SKU":"1"},"lines":[],"by_name":{}}'),
    ],
    ids=["dict", "list", "dataclass"],
)
def test_models_inside_of_other_data_are_written_by_their_aliases(data: Any, text: bytes) -> None:
    assert text == encode(data)


def test_data_written_by_field_name_is_still_read_by_a_class_with_aliases() -> None:
    assert Aliased(orderId=1) == decode(b'{"order_id":1}', Aliased)


# Classes that do not.


@dataclasses.dataclass
class Card:
    number: str


@dataclasses.dataclass
class Cash:
    amount: int


@dataclasses.dataclass
class Paid:
    by: Card | Cash


@dataclasses.dataclass
class Unresolved:
    what: OnlyForTypeCheckers  # type: ignore[name-defined]  # noqa: F821  # the mistake that is tested


class UnresolvedModel(pydantic.BaseModel):
    what: OnlyForTypeCheckers  # type: ignore[name-defined]  # noqa: F821  # the mistake that is tested


@pydantic.dataclasses.dataclass
class UnresolvedAmount:
    what: OnlyForTypeCheckers  # type: ignore[name-defined]  # noqa: F821  # the mistake that is tested


@dataclasses.dataclass
class WithInit:
    a: int
    b: dataclasses.InitVar[int] = 1


@attrs.define
class Hidden:
    _note: str = ""


class Opaque:
    pass


class OrderId(str):
    __slots__ = ()


class WithOpaque(msgspec.Struct):
    a: int
    b: list[Opaque | None] = []


class WithSubclass(msgspec.Struct):
    id: OrderId


class WithCallable(msgspec.Struct):
    call: Callable[[], None] | None = None


class WithUncheckedAmount(msgspec.Struct):
    amounts: dict[str, Amount] = {}


class Nested(msgspec.Struct):
    inner: Paid | None = None


class MustBeExcluded(pydantic.BaseModel):
    a: int = pydantic.Field(exclude=True)


class Typed(typing.TypedDict):
    n: int


class Named(typing.NamedTuple):
    n: int


class Plain:
    n: int


class Colour(enum.Enum):
    RED = "red"


UNREADABLE = [
    Hidden, Paid, Unresolved, UnresolvedModel, UnresolvedAmount, WithInit, WithOpaque, WithSubclass, WithCallable,
    WithUncheckedAmount, Nested, MustBeExcluded,
]  # fmt: skip
NO_CLASSES = [Typed, Named, Plain, Colour, dict, int, list, Event.__class__]


@pytest.mark.parametrize("kind", [*UNREADABLE, *NO_CLASSES], ids=lambda kind: kind.__name__)
async def test_a_class_that_cannot_be_read_back_is_refused_wherever_it_is_named(memory: EventBus, kind: type) -> None:
    async def handle(payload: Any) -> None: ...

    with pytest.raises(ConfigurationError, match=kind.__name__):
        memory.on(kind, group="g")(handle)
    with pytest.raises(ConfigurationError, match=kind.__name__):
        memory.subscribe_to_stream(kind, "g")
    with pytest.raises(ConfigurationError, match=kind.__name__):
        handles(kind)(handle)
    with pytest.raises(ConfigurationError, match=kind.__name__):
        await memory.publish_many(kind, "s", [])
    with pytest.raises(ConfigurationError, match=kind.__name__):
        _ = [entry async for entry in memory.events(kind)]
    with pytest.raises(ConfigurationError, match=kind.__name__):
        await memory.get(kind, "1")


class WrittenOnly(pydantic.BaseModel):
    a: int = pydantic.Field(default=0, serialization_alias="b")


class Login(pydantic.BaseModel):
    password: pydantic.SecretStr


class Growing(pydantic.BaseModel):
    name: str

    @pydantic.field_validator("name")
    @classmethod
    def grow(cls, value: str) -> str:
        return value + "!"


class Measured(pydantic.BaseModel):
    value: float | None


class MeasuredStruct(msgspec.Struct):
    value: float | None


@pytest.mark.parametrize(
    "value",
    [
        Paid(Card("1")),
        Unresolved("tea"),
        WithOpaque(1),
        Named(1),
        Plain(),
        WrittenOnly(a=7),
        {"inside": [WrittenOnly(a=7)]},
        Login(password=pydantic.SecretStr("hunter2")),
        Growing(name="a"),
        Measured(value=math.nan),
        MeasuredStruct(math.nan),
        {"inside": Measured(value=math.inf)},
        Card(number=5),  # type: ignore[arg-type]  # dataclasses do not check
        Weighed.__new__(Weighed),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, dict) else str(list(value.values()))[:20],
)
async def test_an_object_that_would_not_come_back_is_refused_and_nothing_is_stored(
    memory: EventBus, value: Any
) -> None:
    arguments = ("t", "s", value) if isinstance(value, dict) else (value, "s")

    with pytest.raises((ConfigurationError, InvalidEvent)) as refused:
        await memory.publish(*arguments)

    assert "hunter2" not in str(refused.value)
    assert [] == await memory.stats()


async def test_payloads_of_another_class_than_the_named_one_are_refused(memory: EventBus) -> None:
    with pytest.raises(InvalidEvent, match="payload 2 is a Cash, not a Card"):
        await memory.publish_many(Card, "s", [Card("1"), Cash(1)])


def test_an_attribute_called_event_type_names_the_type_only_as_a_string_of_the_class() -> None:
    class Report(msgspec.Struct):
        event_type: str

    assert Report("x") == decode(encode(Report("x")), Report)


# Whatever a class raises.


class Odd(BaseException):
    pass


def raising(error: BaseException) -> Callable[[Any], Any]:
    def validate(value: Any) -> Any:
        if value == "secret-value":
            raise error
        return value

    return validate


class Holder(msgspec.Struct):
    price: str

    def __post_init__(self) -> None:
        raising(KeyError(self.price))(self.price)


class Price(pydantic.BaseModel):
    price: decimal.Decimal

    @pydantic.field_validator("price", mode="before")
    @classmethod
    def parse(cls, value: Any) -> decimal.Decimal:
        return decimal.Decimal(value)


def model(error: BaseException) -> type[pydantic.BaseModel]:
    return pydantic.create_model("Price", price=Annotated[str, pydantic.BeforeValidator(raising(error))])


@dataclasses.dataclass
class Divided:
    price: str

    def __post_init__(self) -> None:
        raising(ZeroDivisionError("by nothing"))(self.price)


@attrs.define
class Checked:
    price: str = attrs.field(validator=lambda _, __, value: raising(LookupError(value))(value))


CLASSES: dict[str, type] = {
    "struct, KeyError": Holder,
    "dataclass, ZeroDivisionError": Divided,
    "attrs, LookupError": Checked,
    "pydantic, InvalidOperation": Price,
    "pydantic, ValueError": model(ValueError("secret-value is not a price")),
    "pydantic, a group": model(ExceptionGroup("many", [OSError("one"), OSError("two")])),
    "pydantic, BaseException": model(Odd("secret-value")),
    "pydantic, StopIteration": model(StopIteration()),
    "pydantic, MemoryError": model(MemoryError()),
}

for each in CLASSES.values():
    each.__name__ = "Price"


@pytest.mark.parametrize("name", CLASSES)
async def test_whatever_a_payload_class_raises_is_a_dead_letter_at_once_and_the_next_event_goes_on(
    memory: EventBus, name: str
) -> None:
    kind, seen = CLASSES[name], list[Any]()
    await memory.publish_many("price", "s", [{"price": "secret-value"}, {"price": "1"}])

    class Agent(BaseAgent):
        name = "agent"
        event_types = ()

        @handles(kind)
        async def handle(self, payload: Any) -> None:
            seen.append(payload)

    await memory.run(Agent(), until_idle=True)

    (letter,) = await memory.dead_letters("price")
    assert 1 == letter.attempts
    assert 1 == len(seen)
    assert "does not fit Price" in letter.error
    assert "secret-value" not in letter.error
    assert len(letter.error) <= 500


@pytest.mark.parametrize("name", CLASSES)
async def test_reading_back_with_a_class_that_raises_ends_in_forebays_error(memory: EventBus, name: str) -> None:
    kind = CLASSES[name]
    id = await memory.publish("price", "s", {"price": "secret-value"})
    await AgentState(memory.store, "a").set("price", {"price": "secret-value"})

    (entry,) = [entry async for entry in memory.events(kind)]
    assert isinstance(entry, MalformedEntry)
    assert "secret-value" not in entry.fault
    with pytest.raises(MalformedEvent):
        await memory.get(kind, id)
    with pytest.raises(MalformedEvent):
        await AgentState(memory.store, "a").get("price", kind=kind)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit()])
def test_the_end_of_the_process_is_not_the_fault_of_an_event(error: BaseException) -> None:
    with pytest.raises(type(error)):
        decode(b'{"price":"secret-value"}', model(error))


async def test_an_agents_state_is_read_as_any_type_that_json_has(memory: EventBus) -> None:
    state = AgentState(memory.store, "a")
    await state.set("prices", {"a": Line(SKU="1")})

    assert {"a": Line(SKU="1")} == await state.get("prices", kind=dict[str, Line])
    with pytest.raises(MalformedEvent, match="does not fit"):
        await state.get("prices", kind=list[int])
    with pytest.raises(ConfigurationError, match="Opaque"):
        await state.get("prices", kind=dict[str, Opaque])


class Tagged(msgspec.Struct):
    state: Literal["open", "closed"]
    colour: Colour = Colour.RED


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (Tagged, b'{"state":"secret-value"}'),
        (Tagged, b'{"state":"open","colour":"secret-value"}'),
        (Aliased, b'{"orderId":"secret-value"}'),
        (Aliased, b'"secret-value"'),
        (Aliased, b'{"orderId":{"a":"secret-value"}}'),
        (Amount, b'{"cents":-1234567}'),
    ],
    ids=str,
)
def test_the_fault_names_the_field_and_not_the_value(kind: type, text: bytes) -> None:
    with pytest.raises(MalformedEvent) as refused:
        decode(text, kind)

    assert "secret-value" not in str(refused.value)
    assert "1234567" not in str(refused.value)
    assert f"does not fit {kind.__name__}" in str(refused.value)


# Classes whose reading changes them, or raises what no data can raise.


class Stop(BaseException):
    pass


@dataclasses.dataclass
class Grows:
    count: int

    def __post_init__(self) -> None:
        self.count += 1


class GrowsToo(msgspec.Struct):
    count: int

    def __post_init__(self) -> None:
        self.count += 1


@dataclasses.dataclass
class Bursts:
    count: int
    is_read: bool = False

    def __post_init__(self) -> None:
        if self.is_read:
            raise Stop


@pytest.mark.parametrize("payload", [Grows(1), GrowsToo(1)])
def test_an_object_that_each_reading_changes_is_refused(payload: object) -> None:
    with pytest.raises(InvalidEvent, match="another value"):
        encode(payload)


def test_whatever_a_class_raises_while_it_is_read_back_is_an_invalid_event() -> None:
    payload = Bursts(1)
    payload.is_read = True

    with pytest.raises(InvalidEvent, match="Stop"):
        encode(payload)


@dataclasses.dataclass
class Loose:
    price: decimal.Decimal
    since: datetime
    tags: set[str]
    weights: list[float]
    items: typing.Iterable[int]


def test_other_words_for_the_same_value_are_accepted() -> None:
    since = "2026-01-01T00:00:00+00:00"
    payload = Loose(5, since, set(map(str, range(99))), [1], (1, 2))  # type: ignore[arg-type]  # wrong on purpose

    again = decode(encode(payload), Loose)

    assert (5, datetime(2026, 1, 1, tzinfo=UTC), payload.tags) == (again.price, again.since, again.tags)
    assert ([1.0], [1, 2]) == (again.weights, again.items)


class _Hidden(msgspec.Struct):
    number: int


Item = typing.TypeVar("Item")


class Page(pydantic.BaseModel, typing.Generic[Item]):
    items: list[Item]


@pytest.mark.parametrize("kind", [_Hidden, Page[int], msgspec.defstruct("Größe", ["number"])])
async def test_the_error_for_a_class_without_a_valid_type_name_explains_how_to_name_it(
    memory: EventBus, kind: Any
) -> None:
    with pytest.raises(ConfigurationError, match="event_type: ClassVar"):
        memory.on(kind, group="g")
