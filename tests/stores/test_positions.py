"""Positions are opaque outside the stores: only a store knows the form of its own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import forebay
from forebay import ConfigurationError, Event, EventBus, connect

SOURCE = Path(forebay.__file__).parent


@pytest.mark.parametrize(
    ("url", "own", "other"),
    [
        ("memory://", ["0", "17"], ["1-0", "x", "", "$", "١"]),
        ("sqlite:///x.db", ["0", "17"], ["1-0", "x", "", "$", "١"]),
        ("redis://localhost", ["0", "17", "1795484086818-1"], ["1-0-0", "x", "", "$", "١-١", "-1"]),
    ],
)
def test_a_store_knows_the_form_of_its_positions_before_it_is_open(url: str, own: list[str], other: list[str]) -> None:
    store = connect(url).store

    assert [] == [text for text in own if not store.is_position(text)]
    assert [] == [text for text in other if store.is_position(text)]


async def test_every_position_that_a_store_returns_has_its_form(bus: EventBus) -> None:
    await bus.store.join("t", "g")
    await bus.publish_many("t", "s", [1, 2])
    stats = await bus.stream("t")
    positions = [stats.first, stats.last, stats.groups[0].position, await bus.position("t", "earliest")]
    positions += [event.position async for event in bus.events("t") if isinstance(event, Event)]

    assert all(position is not None and bus.store.is_position(position) for position in positions)


async def test_the_keys_of_positions_sort_in_the_order_of_the_stream(bus: EventBus) -> None:
    await bus.publish_many("t", "s", range(12))
    positions = [event.position async for event in bus.events("t")]

    keys = [bus.store.position_key(position) for position in [await bus.position("t", "earliest"), *positions]]

    assert sorted(set(keys)) == keys


async def test_a_position_of_another_kind_of_store_is_refused_when_the_handler_is_registered(bus: EventBus) -> None:
    with pytest.raises(ConfigurationError, match="'1-2-3' is not a position in a stream of this store"):
        bus.on("t", group="g", start="1-2-3")(print)


async def test_an_event_is_found_by_an_id_that_looks_like_a_position(bus: EventBus) -> None:
    await bus.publish("t", "s", "first")
    await bus.publish("t", "s", "second", id="17")

    assert "second" == (await bus.get("t", "17")).data


def test_no_module_outside_the_stores_has_a_pattern_of_positions() -> None:
    pattern = re.compile(r"\\d\{1,20\}\(?-")

    assert [] == [
        str(path.relative_to(SOURCE))
        for path in SOURCE.rglob("*.py")
        if "stores" not in path.parts and pattern.search(path.read_text())
    ]
