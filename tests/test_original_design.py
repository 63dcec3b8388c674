"""Code in the style of the original design runs as it stands: its names, its calls, its arguments."""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from forebay import ConfigurationError, Event, EventBus, InMemoryEventBus, PersistentEventBus, RedisEventBus
from forebay.agents import BaseAgent
from forebay.event import TypeName
from forebay.testing import eventually
from tests.support.redis_servers import Server, binaries, version


class Kind(Enum):
    TESTS_RUN = "tests_run"
    HEALTH_CHECK = "health_check"


@pytest.fixture(params=["sqlite", *binaries()], ids=lambda param: param if param == "sqlite" else version(param))
async def bus(request: pytest.FixtureRequest, tmp_path: Path, servers: dict[str, Server]) -> AsyncIterator[EventBus]:
    """A bus that is not opened."""
    if request.param == "sqlite":
        bus: EventBus = PersistentEventBus(str(tmp_path / "events.db"))
    else:
        server = servers[request.param]
        server.redis.flushall()
        bus = RedisEventBus(redis_url=server.url)
    yield bus
    await bus.close()


class OwnBase(ABC):
    """An application's own base class, written beside the bus."""

    name = "own"

    def __init__(self, event_bus: EventBus) -> None:
        self.event_bus = event_bus
        self.consumer: Any = None
        self.background: set[asyncio.Task[None]] = set()

    async def initialize(self) -> None:
        self.consumer = self.event_bus.subscribe_to_stream(
            Kind.HEALTH_CHECK, f"{self.name}_group", f"{self.name}_consumer"
        )
        self.background.add(asyncio.create_task(self.consumer.consume_events(self._handle_event)))

    async def _handle_event(self, event_data: Any) -> None:
        event_type = event_data.get("type")
        data = json.loads(event_data.get("data", "{}"))
        await self.process_event(event_type, {**data, "from": event_data.get("source")})

    @abstractmethod
    async def process_event(self, event_type: Any, data: dict[str, Any]) -> None: ...


class OwnAgent(OwnBase):
    def __init__(self, event_bus: EventBus) -> None:
        super().__init__(event_bus)
        self.seen: list[dict[str, Any]] = []

    async def process_event(self, event_type: Any, data: dict[str, Any]) -> None:
        if event_type == Kind.TESTS_RUN:
            raise AssertionError("that is another type")
        if event_type == Kind.HEALTH_CHECK:
            self.seen.append(data)


class Reviewer(BaseAgent):
    """The same on the base class of this library, with the same members."""

    name = "reviewer"

    def __init__(self, bus: EventBus) -> None:
        super().__init__()
        self.event_bus = bus
        self.consumer = None
        self.seen: list[tuple[object, Any]] = []
        self.background: set[asyncio.Task[None]] = set()

    async def initialize(self) -> None:
        self.consumer = self.event_bus.subscribe_to_stream(Kind.HEALTH_CHECK, "reviewer_group", "reviewer_consumer")
        self.background.add(asyncio.create_task(self.consumer.consume_events(self._handle_event)))

    async def _handle_event(self, event_data: Any) -> None:
        await self.process_event(event_data.get("type"), json.loads(event_data.get("data", "{}")))

    async def process_event(self, event_type: object, data: Any) -> None:
        match event_type:
            case Kind.HEALTH_CHECK:
                self.seen.append((event_type, data))
                await self.event_bus.publish(Kind.TESTS_RUN, self.name, {"after": data["n"]})


async def test_an_application_with_its_own_base_class_works_on_a_bus_that_opens_itself(
    bus: EventBus,
) -> None:
    agent = OwnAgent(bus)

    await agent.initialize()
    await agent.event_bus.publish(Kind.HEALTH_CHECK, "monitor", {"n": 1})
    await eventually(lambda: agent.seen)

    assert [{"n": 1, "from": "monitor"}] == agent.seen


async def test_an_agent_with_a_bus_of_its_own_needs_nothing_that_runs_it(bus: EventBus) -> None:
    agent = Reviewer(bus)

    await agent.initialize()
    await bus.publish(Kind.HEALTH_CHECK, "monitor", {"n": 2})
    await eventually(lambda: agent.seen)
    # The answer is published by the same handler; closing lets it end.
    await bus.close()

    assert [(Kind.HEALTH_CHECK.value, {"n": 2})] == agent.seen
    assert [{"after": 2}] == [event.data async for event in bus.events(Kind.TESTS_RUN) if isinstance(event, Event)]


async def test_the_publisher_may_come_before_the_consumer(bus: EventBus) -> None:
    agent = OwnAgent(bus)

    await bus.publish(Kind.HEALTH_CHECK, "monitor", {"n": 3})
    await agent.initialize()
    await eventually(lambda: agent.seen)

    assert [3] == [data["n"] for data in agent.seen]


class Runner(BaseAgent):
    name = "runner"
    event_types = (Kind.TESTS_RUN,)

    def __init__(self) -> None:
        self.types: list[object] = []

    async def process_event(self, event_type: str, data: Any) -> None:
        self.types.append(event_type)
        await self.event_bus.publish(Kind.HEALTH_CHECK, self.name, {"seen": event_type})


async def test_an_agent_that_is_run_publishes_on_its_event_bus_and_compares_types_with_its_own_enum(
    bus: EventBus,
) -> None:
    agent = Runner()
    await bus.publish(Kind.TESTS_RUN, "ci", {})

    await bus.run(agent, until_idle=True)

    assert [Kind.TESTS_RUN] == agent.types
    assert ["tests_run"] == agent.types
    assert [{"seen": "tests_run"}] == [
        event.data async for event in bus.events(Kind.HEALTH_CHECK) if isinstance(event, Event)
    ]


async def test_an_agent_with_a_bus_of_its_own_does_not_run_on_another_one() -> None:
    own = InMemoryEventBus()
    agent = Reviewer(own)

    with pytest.raises(ConfigurationError, match="has an event_bus of its own"):
        await InMemoryEventBus().run(agent)


def test_an_agent_without_a_bus_says_how_to_run_it() -> None:
    with pytest.raises(ConfigurationError, match="use bus\\.run"):
        _ = Runner().event_bus


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("localhost:6379", "redis://localhost:6379"),
        ("localhost", "redis://localhost"),
        ("10.0.0.1:6379/2", "redis://10.0.0.1:6379/2"),
        ("sqlite:///events.db", "PersistentEventBus"),
        ("memory://", "InMemoryEventBus"),
        ("http://localhost:6379", "redis://"),
    ],
)
def test_a_redis_bus_takes_redis_urls_only_and_its_error_shows_one(url: str, advice: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        RedisEventBus(url)

    assert advice in str(refused.value)


def test_an_address_without_a_scheme_never_shows_its_password() -> None:
    with pytest.raises(ConfigurationError) as refused:
        RedisEventBus(":hunter2@localhost:6379")

    assert "hunter2" not in str(refused.value)


# An event read as the mapping of its texts.

EVENT = Event("7", "tests_run", "ci", {"failed": 0, "name": "Zoë"}, datetime(2026, 1, 1, tzinfo=UTC))
FULL = Event("7", "tests_run", "ci", [1], datetime(2026, 1, 1, tzinfo=UTC), key="k", headers={"trace": "t"})


def test_an_event_answers_with_the_texts_of_the_wire() -> None:
    assert {
        "type": "tests_run",
        "source": "ci",
        "data": '{"failed":0,"name":"Zoë"}',
        "timestamp": "2026-01-01T00:00:00+00:00",
        "id": "7",
    } == dict(EVENT)
    assert ("k", '{"trace":"t"}') == (FULL["key"], FULL.get("headers"))


def test_an_event_without_a_field_answers_with_the_default_and_a_key_error() -> None:
    assert None is EVENT.get("key")
    assert "{}" == EVENT.get("payload", "{}")
    assert ("type" in EVENT, "key" in EVENT, "key" in FULL, "attempt" in FULL) == (True, False, True, False)
    with pytest.raises(KeyError):
        EVENT["attempt"]


def test_a_type_name_equals_the_members_with_its_text_and_nothing_else() -> None:
    name = TypeName("tests_run")

    assert name == Kind.TESTS_RUN
    assert Kind.TESTS_RUN == name
    assert name in (Kind.HEALTH_CHECK, Kind.TESTS_RUN)
    assert name == "tests_run"
    assert not name != Kind.TESTS_RUN  # noqa: SIM202  # the operator is the subject of the test
    assert name != Kind.HEALTH_CHECK
    assert name != "health_check"
    assert name != 7
    assert 1 == {"tests_run": 1}[name]
    assert ("tests_run", "tests_run", str) == (name.value, f"{name}", type(str(name)))
