"""No step on an entry's way takes more than linear time in its size."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable
from typing import Any

import pytest

from forebay.cli.records import event_as_json, raw_fields
from forebay.cli.text import as_indented_json, as_json
from forebay.cli.where import Condition
from forebay.errors import ForebayError
from forebay.event import Event, Foreign, Record, parse_time, to_event, to_record
from forebay.logs import log
from forebay.payload import Limits, check_name, decode, encode, type_name
from forebay.policy import failure_of
from forebay.printable import printable
from forebay.reason import describe
from forebay.signals import DeadLettered, EntryMissing, Retried, Signals
from forebay.store import Delivery, Reader
from forebay.stores.redis.codec import decode as from_redis
from forebay.stores.redis.codec import encode as to_redis

SMALL = 32 * 1024
LARGER = 8
GENEROUS = 4
"""Eight times the size may take 32 times as long, for what caches and a busy machine cost; quadratic work takes 64."""

LIMITS = Limits(max_bytes=2**30)

Texts = dict[str, Callable[[int], bytes]]
TEXTS: Texts = {
    "escaped quotes that never end": lambda n: b"[" * 40 + b'"' + b'\\"' * (n // 2),
    "backslashes that never end": lambda n: b"{" * 40 + b'"' + b"\\" * n,
    "quotes": lambda n: b"[" * 40 + b'"' * n,
    "an odd number of quotes": lambda n: b"[" * 40 + b'"' * (n | 1),
    "brackets": lambda n: b"[" * n,
    "brackets closed and opened": lambda n: b"[" * 40 + b"][" * (n // 2),
    "brackets in a string": lambda n: b'["' + b"[" * n + b'"]',
    "braces in strings": lambda n: b'["' + b'{","' * (n // 4) + b'"]',
    "strings that end in a backslash": lambda n: b"[" * 40 + b'"\\\\",' * (n // 5),
    "a number": lambda n: b"1" * n,
    "a fraction": lambda n: b"0." + b"1" * n,
    "nulls": lambda n: b"[" + b"null," * (n // 5) + b"1]",
    "keys": lambda n: json.dumps({str(i): 0 for i in range(n // 10)}).encode(),
    "the same key": lambda n: b"{" + b'"a":1,' * (n // 6) + b'"b":2}',
    "spaces": lambda n: b" " * n + b"1",
    "no UTF-8": lambda n: b'"' + b"\xff" * n,
    "letters": lambda n: b'"' + b"a" * n + b'"',
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_an_entry_of_any_content_is_read_in_linear_time(text: Callable[[int], bytes]) -> None:
    def read(size: int) -> Callable[[], object]:
        data = text(size)
        record = Record("t", "s", data, "2026-01-01T00:00:00+00:00", "id", headers=data)
        return lambda: (decode(data, limits=LIMITS), to_event(record, limits=LIMITS))

    assert_linear(read)


@pytest.mark.parametrize("field", ["type", "source", "timestamp", "id", "key", "data", "headers", "other"])
@pytest.mark.parametrize("letter", ["a", "1", ":", "-", "\\", '"', "\n", "é", "[", "."])
def test_a_field_of_any_length_is_read_described_and_logged_in_linear_time(field: str, letter: str) -> None:
    def read(size: int) -> Callable[[], object]:
        fields = {"type": "t", "source": "s", "data": "1", "timestamp": "2026-01-01T00:00:00+00:00", "id": "1"}
        flat = [part.encode() for pair in {**fields, field: letter * size}.items() for part in pair]
        signals = Signals()
        log(signals)

        def walk() -> None:
            record = from_redis(flat)
            to_redis(record)
            raw_fields(record)
            delivery = Delivery(Reader("t", "g", "c"), "1-0", record)
            error: Exception = ValueError("nothing wrong")
            try:
                event = to_event(record, limits=LIMITS)
                as_indented_json(event_as_json(event))
            except ForebayError as fault:
                error = fault
            signals.emit(EntryMissing(delivery))
            signals.emit(Retried(delivery, error, 1.0))
            signals.emit(DeadLettered(delivery, describe(error)))

        return walk

    assert_linear(read)


@pytest.mark.parametrize(
    "letter", ["a", "A", "1", ":", "-", "\\", " ", "\n", "é", "[", ".", "redis://a", "@", "%", "a:/"]
)
def test_texts_of_any_length_are_checked_and_shown_in_linear_time(letter: str) -> None:
    def read(size: int) -> Callable[[], object]:
        text = letter * (size // len(letter))
        event = Event("1", "t", "s", {"a": [text]}, parse_time("2026-01-01"), None, {}, 1, "1")

        def walk() -> None:
            for step in (check_name_of, type_name, parse_time, printable, as_json):
                try:
                    step(text)
                except ForebayError:
                    continue
            describe(ValueError(text))
            failure_of(ValueError(text))
            Condition(("data", text), text).holds(event)
            Condition(("data", "a", text), text).holds(event)
            Condition(("data", "a", "0"), text).holds(event)

        return walk

    assert_linear(read)


def test_a_payload_of_any_shape_is_written_in_linear_time() -> None:
    shapes: list[Callable[[int], Any]] = [
        lambda n: "x" * n,
        lambda n: '\\"' * n,
        lambda n: [None] * n,
        lambda n: [[]] * n,
        lambda n: [{"a": None}] * n,
        lambda n: {str(i): None for i in range(n // 10)},
    ]
    for shape in shapes:
        assert_linear(lambda size, shape=shape: _writing(shape(size)))  # type: ignore[misc]  # of each shape


def _writing(data: Any) -> Callable[[], object]:
    return lambda: (
        encode(data, LIMITS),
        to_record("t", source="s", data=data, headers={"h": json.dumps(data)}, limits=LIMITS),
    )


def test_a_log_line_is_short_whatever_a_foreign_entry_is_called(caplog: pytest.LogCaptureFixture) -> None:
    signals = Signals()
    log(signals)
    huge = "x\x1b" * 500_000
    record = Record("t", "s", b"1", "2026-01-01T00:00:00+00:00", huge)
    foreign = Foreign(((huge.encode(), b"1"),) * 8)

    with caplog.at_level(logging.DEBUG, "forebay"):
        signals.emit(EntryMissing(Delivery(Reader("t", "g", "c"), "1-0", record)))
        with pytest.raises(ForebayError) as caught:
            to_event(foreign)

    assert len(caplog.text) < 2000
    assert len(str(caught.value)) < 2000


def check_name_of(text: str) -> str:
    return check_name("group", text)


def assert_linear(prepare: Callable[[int], Callable[[], object]]) -> None:
    """Run the work of one size and of eight times that size, by turns; compare the quickest runs."""
    sizes = (SMALL, LARGER * SMALL)
    calls = [prepare(size) for size in sizes]
    quickest = [float("inf"), float("inf")]
    for _ in range(9):
        for place, call in enumerate(calls):
            began = time.thread_time()
            with contextlib.suppress(ForebayError):
                call()
            quickest[place] = min(quickest[place], time.thread_time() - began)
        # Below a millisecond nothing was done that could grow.
        if quickest[1] < max(GENEROUS * LARGER * quickest[0], 0.001):
            return
    raise AssertionError(f"{LARGER} times the size took {quickest[1] / quickest[0]:.0f} times as long")
