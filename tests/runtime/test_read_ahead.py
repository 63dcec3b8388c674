"""The window of a consumer follows the speed of its handlers, within bounds of number and bytes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from forebay.event import Record
from forebay.runtime.options import READ_AHEAD
from forebay.runtime.read_ahead import FIRST_EVENTS, FULL_READ_SECONDS, READ_AHEAD_BYTES, READ_EVENTS, ReadAhead
from forebay.store import Delivery, Reader


def events(count: int, *, size: int = 10) -> Sequence[Delivery]:
    return [Delivery(Reader("t", "g", "c"), str(n), Record("t", "s", b"x" * size, "2026")) for n in range(count)]


def work(read_ahead: ReadAhead, *, seconds: float, times: int = 40) -> int:
    """Read full parts, each of which is handled in so many seconds; return the most that was in flight."""
    in_flight, now, most = 0, 0.0, 0
    for _ in range(times):
        while limit := read_ahead.limit(in_flight, now):
            read_ahead.record_read(events(limit), limit=limit, in_flight=in_flight, now=now)
            in_flight += limit
        most = max(most, in_flight)
        now += seconds
        in_flight -= min(in_flight, max(1, in_flight // 3))
    return most


def test_a_slow_handler_has_one_event_for_each_worker() -> None:
    assert 16 == work(ReadAhead(concurrency=16), seconds=1.0)


def test_a_fast_handler_has_as_many_as_a_consumer_may_read_ahead() -> None:
    assert READ_AHEAD == work(ReadAhead(concurrency=16), seconds=0.001, times=200)


def test_with_prefetch_the_window_stands_still() -> None:
    for seconds in (0.001, 1.0):
        assert 50 == work(ReadAhead(concurrency=4, prefetch=50), seconds=seconds)


def test_the_window_shrinks_when_the_handler_becomes_slow() -> None:
    read_ahead = ReadAhead(concurrency=16)
    work(read_ahead, seconds=0.001, times=200)

    work(read_ahead, seconds=2.0, times=60)

    assert read_ahead.room(0) < 100


def test_a_small_read_waits_for_room_for_a_part_but_not_for_long() -> None:
    read_ahead = ReadAhead(concurrency=1, prefetch=30)
    read_ahead.record_read(events(30), limit=30, in_flight=0, now=1.0)

    assert 0 == read_ahead.limit(25, 1.0 + FULL_READ_SECONDS / 2)
    assert 10 == read_ahead.limit(20, 1.0 + FULL_READ_SECONDS / 2)
    assert 5 == read_ahead.limit(25, 1.0 + 2 * FULL_READ_SECONDS)
    assert 0 == read_ahead.limit(30, 1.0 + 2 * FULL_READ_SECONDS)


@pytest.mark.parametrize("batch", [1, 10, 100, 600])
def test_a_read_is_of_whole_batches_and_not_above_its_bound(batch: int) -> None:
    read_ahead = ReadAhead(concurrency=1000 // batch or 1, batch=batch)
    read_ahead.measure(events(1))

    limit = read_ahead.limit(0, 100.0)

    assert limit % batch == 0
    assert 0 < limit <= max(READ_EVENTS, batch)


def test_room_is_bounded_in_bytes_and_never_negative() -> None:
    read_ahead = ReadAhead(concurrency=2, prefetch=1500)
    assert FIRST_EVENTS == read_ahead.room(0)

    read_ahead.measure(events(20, size=1_000_000))

    assert READ_AHEAD_BYTES // 1_000_200 == read_ahead.room(0)
    assert 0 == read_ahead.room(1500)
