"""Payloads are kept exactly or refused: row G3 of docs/faults.md."""

from __future__ import annotations

import dataclasses
import math
from datetime import UTC, datetime
from enum import Enum
from typing import Any

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay import ConfigurationError, InvalidEvent, Limits, MalformedEvent, PayloadTooLarge
from forebay.event import Foreign, Record, new_id, parse_time, to_event, to_record
from forebay.payload import check_name, decode, encode, type_name

texts = st.text(st.characters(exclude_categories=["Cs"]))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)


@given(json_values)
def test_accepted_data_comes_back_equal(value: Any) -> None:
    assert value == decode(encode(value))


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def test_the_depth_limit_is_exact_and_brackets_in_strings_do_not_count() -> None:
    assert deep(32) == decode(encode(deep(32)))
    with pytest.raises(InvalidEvent, match="33 levels"):
        encode(deep(33))
    assert {"text": '[{\\"' * 100} == decode(encode({"text": '[{\\"' * 100}))


def test_the_size_limit_is_exact() -> None:
    limits = Limits(max_bytes=10)

    assert b'"12345678"' == encode("12345678", limits)
    with pytest.raises(PayloadTooLarge, match="11 bytes of JSON; the limit is 10"):
        encode("123456789", limits)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(math.nan, id="nan"),
        pytest.param([1, math.inf], id="inf"),
        pytest.param({"a": {"b": -math.inf}}, id="minus inf"),
        pytest.param("\ud800", id="surrogate"),
        pytest.param({"\udfff": 1}, id="surrogate in a key"),
        pytest.param(object(), id="object"),
        pytest.param({(1, 2): 3}, id="tuple as a key"),
        pytest.param(10**5000, id="5000 digits"),
        pytest.param(deep(5000), id="bomb"),
    ],
)
def test_data_that_json_cannot_carry_is_refused(data: Any) -> None:
    with pytest.raises(InvalidEvent):
        encode(data)


def test_null_is_accepted() -> None:
    assert b'{"a":null,"b":1.5}' == encode({"a": None, "b": 1.5})


@pytest.mark.parametrize("number", [2**53 + 1, 2**64, -(2**70)])
def test_integers_keep_every_digit(number: int) -> None:
    assert number == decode(encode({"n": number}))["n"]


@pytest.mark.parametrize(
    "text",
    [b"", b'{"a"', b"NaN", b"1e999", b'"\xff"', b"\xff", b"[" * 100_000, b"[" * 33 + b"]" * 33, b'"\\ud800"'],
)
def test_foreign_text_is_malformed_and_raises_nothing_else(text: bytes) -> None:
    with pytest.raises(MalformedEvent):
        decode(text)


class Kind(Enum):
    PAID = "order_paid"


class OrderPlaced(msgspec.Struct):
    order_id: int


class HTTPServerError(msgspec.Struct):
    event_type = "http.error"


@dataclasses.dataclass
class Paid:
    order_id: int
    when: datetime


class Shipped(pydantic.BaseModel):
    order_id: int


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("a.b-c_9", "a.b-c_9"),
        (Kind.PAID, "order_paid"),
        (OrderPlaced, "order_placed"),
        (HTTPServerError, "http.error"),
        (Shipped, "shipped"),
    ],
)
def test_a_type_is_named_by_a_string_an_enum_or_a_class(kind: object, name: str) -> None:
    assert name == type_name(kind)


@pytest.mark.parametrize("name", ["", "x:dead_letter", "a b", "a\n", ".a", "é", "a" * 129, "{a}", "a*", 7, None])
def test_names_that_could_collide_or_mislead_are_refused(name: Any) -> None:
    with pytest.raises(ConfigurationError):
        check_name("event type", name)


@pytest.mark.parametrize("value", [OrderPlaced(1), Paid(1, datetime(2026, 1, 1, tzinfo=UTC)), Shipped(order_id=1)])
def test_objects_of_payload_classes_come_back_as_themselves(value: Any) -> None:
    assert value == decode(encode(value), type(value))


@pytest.mark.parametrize("kind", [OrderPlaced, Paid, Shipped])
def test_a_payload_that_does_not_fit_its_class_is_malformed(kind: type) -> None:
    with pytest.raises(MalformedEvent, match=f"does not fit {kind.__name__}"):
        decode(b'{"order_id":"x"}', kind)


def test_a_record_is_read_back_as_the_event_that_was_published() -> None:
    record = to_record("order_placed", source="shop", data={"n": 1}, key="customer-7", headers={"trace": "1"})

    event = to_event(record, position="5", attempt=2)

    assert (record.id, "order_placed", "shop", {"n": 1}) == (event.id, event.type, event.source, event.data)
    assert ("customer-7", {"trace": "1"}, 2, "5") == (event.key, event.headers, event.attempt, event.position)
    assert event.timestamp.utcoffset() is not None


def test_a_record_without_an_id_takes_its_position() -> None:
    event = to_event(Record(type="t", source="s", data=b"1", timestamp="2026-01-01T00:00:00+00:00"), position="7-0")

    assert "7-0" == event.id


def test_a_time_without_a_zone_is_taken_as_utc() -> None:
    assert datetime(2026, 3, 29, 2, 30, tzinfo=UTC) == parse_time("2026-03-29T02:30:00")
    assert datetime(2026, 3, 29, 0, 30, tzinfo=UTC) == parse_time("2026-03-29T02:30:00+02:00")


@pytest.mark.parametrize("text", ["", "noon", "0001-01-01T00:00:00+05:00", "9999-12-31T23:59:59-05:00"])
def test_a_time_that_is_none_in_utc_is_malformed_and_nothing_worse(text: str) -> None:
    with pytest.raises(MalformedEvent, match="not an RFC 3339 time"):
        parse_time(text)


def test_a_foreign_entry_says_which_fields_it_has() -> None:
    with pytest.raises(MalformedEvent, match=r"its fields: a, \\xff"):
        to_event(Foreign(((b"a", b"1"), (b"\xff", b"2"))))


@pytest.mark.parametrize(
    "options",
    [
        {"source": "\ud800"},
        {"source": "x" * 257},
        {"key": 7},
        {"headers": {"a": 1}},
        {"id": ""},
        {"id": "a\n"},
        {"id": "x" * 201},
    ],
)
def test_fields_beside_the_data_have_limits_too(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidEvent):
        to_record("t", **{"source": "s", "data": 1, **options})


def test_ids_are_uuid7_unique_and_sorted_by_time() -> None:
    ids = [new_id(now=1_700_000_000 + n) for n in range(100)]

    assert sorted(ids) == ids
    assert 36 == len(ids[0])
    assert "7" == ids[0][14]
    assert 1000 == len({new_id() for _ in range(1000)})
