"""A subclass of `str` means the text that it holds, on every store and wherever it enters the bus."""

from __future__ import annotations

from enum import Enum
from typing import Any

import pytest

from forebay import ConfigurationError, Event, EventBus, Retry
from forebay.agents import BaseAgent
from forebay.agents.roster import agent_statuses
from forebay.event import Record
from forebay.testing.contract.texts import Shouted


class Shop(str, Enum):  # noqa: UP042  # a StrEnum is formatted as the text that it holds
    WEB = "web"
    POS = "pos"


class Markup(str):
    """A string whose methods give strings of the class again, as those of markupsafe do."""

    __slots__ = ()

    def strip(self, chars: str | None = None, /) -> Markup:
        return Markup(super().strip(chars) + "!")

    def isprintable(self) -> bool:
        return False


ALL: list[type[str]] = [Shop, Markup, Shouted]


def text(kind: type[str], value: str) -> str:
    return Shop(value) if kind is Shop else kind(value)


def is_plain(event: Event) -> bool:
    texts = (event.id, event.type, event.source, event.key, event.position, *event.headers, *event.headers.values())
    return all(type(each) is str for each in texts)


@pytest.mark.parametrize("kind", ALL)
async def test_subclasses_of_str_are_published_as_plain_strings(bus: EventBus, kind: type[str]) -> None:
    seen: list[Event] = []
    web = text(kind, "web")

    @bus.on(web, group=web)
    async def handle(event: Event) -> None:
        seen.append(event)

    await bus.publish(web, web, {web: web}, key=web, id=web, headers={web: web})
    await bus.publish_many(web, web, [web], keys=[web], ids=[text(kind, "pos")], headers={web: web})
    assert "web" == await bus.publish(web, web, 1, key=web, id=web, delay=3600)
    await bus.run(until_idle=True)

    assert [("web", "web", "web", "web"), ("pos", "web", "web", "web")] == [
        (event.id, event.type, event.source, event.key) for event in seen
    ]
    assert [{"web": "web"}, "web"] == [event.data for event in seen]
    assert all({"web": "web"} == event.headers for event in seen)
    assert all(map(is_plain, seen))
    assert [] == await bus.dead_letters("web")


@pytest.mark.parametrize("kind", ALL)
async def test_a_subclass_of_str_finds_an_event(bus: EventBus, kind: type[str]) -> None:
    web = text(kind, "web")

    async def fail(event: Event) -> None:
        raise ValueError

    bus.on("web", group="web", retry=Retry(attempts=1))(fail)
    await bus.publish_many("web", "s", [1, 2], ids=["web", "pos"])
    await bus.run(until_idle=True)

    assert "web" == (await bus.get(web, web)).id
    assert ["web"] == [stream.stream for stream in await bus.stats(web)]
    assert 2 == await bus.replay(web, group=web, dry_run=True)
    first, second = await bus.dead_letters(web, group=web)
    assert 1 == await bus.redrive(web, [kind(first.id)] if kind is not Shop else [first.id], group=web)
    assert 1 == await bus.discard(web, [kind(second.id)] if kind is not Shop else [second.id], group=web)
    assert [] == await bus.pending(web, web)
    await bus.run(until_idle=True)
    (again,) = await bus.dead_letters("web", group="web")
    assert isinstance(again.record, Record)
    assert "web" == again.record.id


async def test_places_of_a_stream_may_be_subclasses_of_str(bus: EventBus) -> None:
    await bus.publish_many("t", "s", [1, 2, 3])
    found = [event async for event in bus.events("t")]
    first = found[0].position

    later = [event async for event in bus.events("t", start=Markup(first), end=Shouted("latest"))]

    assert [event.position for event in found[1:]] == [event.position for event in later]


@pytest.mark.parametrize("kind", ALL)
async def test_an_agent_whose_name_is_a_subclass_of_str_is_known_by_its_text(bus: EventBus, kind: type[str]) -> None:
    class Named(BaseAgent):
        name = text(kind, "web")
        event_types = ("t",)

        async def process_event(self, event_type: str, data: Any) -> None:
            await self.state.set(text(kind, "pos"), data)
            await self.publish("done", 1)

    await bus.publish("t", "s", 7)
    await bus.run(Named(), until_idle=True)

    assert {"state:pos": b"7"}.items() <= (await bus.store.notes("agent.web")).items()
    (done,) = [event async for event in bus.events("done")]
    assert "web" == done.source  # type: ignore[union-attr]  # an event, as the test knows
    assert ["web"] == [agent.agent for agent in await agent_statuses(bus)]


@pytest.mark.parametrize("wrong", [7, None, b"id"], ids=str)
async def test_a_value_that_is_not_a_string_is_refused_by_name(bus: EventBus, wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="id is a string"):
        await bus.get("t", wrong)
    with pytest.raises(ConfigurationError, match="id is a string"):
        await bus.redrive("t", [wrong])
    with pytest.raises(ConfigurationError, match="group is a string"):
        await bus.pending("t", wrong)


async def test_one_id_in_place_of_a_list_is_refused(bus: EventBus) -> None:
    with pytest.raises(ConfigurationError, match="give a list of ids"):
        await bus.discard("t", "12")
