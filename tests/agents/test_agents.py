"""Agents on every store: their events, their state, their answers, their life and their failures."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any

import msgspec
import pytest

from forebay import AgentError, ConfigurationError, Event, EventBus, EventType, InMemoryEventBus, Retry, StoreDenied
from forebay.agents import (
    AgentFailed,
    AgentState,
    AgentStatusChanged,
    BaseAgent,
    HealthReport,
    Heartbeat,
    agent_statuses,
    handles,
    runner,
)
from forebay.agents.definition import Status
from forebay.agents.heartbeat import PREFIX, STREAM, Members
from forebay.event import to_record
from forebay.stores.memory import MemoryStore
from forebay.testing import FaultyStore, eventually


class OrderPlaced(msgspec.Struct):
    order_id: int


class Kind(Enum):
    MAIL_SENT = "mail_sent"


class Billing(BaseAgent):
    """The agent of most tests."""

    name = "billing"
    event_types = ("order_cancelled", Kind.MAIL_SENT)
    heartbeat = 0.1

    def __init__(self) -> None:
        self.seen: list[object] = []
        self.life: list[str] = []

    async def initialize(self) -> None:
        self.life.append("initialize")

    async def started(self) -> None:
        self.life.append("started")

    async def draining(self) -> None:
        self.life.append("draining")

    async def stopped(self) -> None:
        self.life.append("stopped")

    async def process_event(self, event_type: str, data: Any) -> None:
        self.seen.append((event_type, data))

    @handles(OrderPlaced, retry=Retry(attempts=2, base=0.001))
    async def bill(self, order: OrderPlaced, event: Event) -> None:
        self.seen.append(order)
        await self.publish("order_billed", {"order_id": order.order_id}, key=event.key)

    @handles("refund_asked")
    @handles("complaint_filed")
    def plain(self, event: Event) -> None:
        self.seen.append((event.type, event.data))


async def test_an_agent_handles_the_types_of_its_methods_and_its_list(bus: EventBus) -> None:
    agent = Billing()
    await bus.publish(OrderPlaced(order_id=1), source="shop")
    await bus.publish("order_cancelled", source="shop", data=2)
    await bus.publish(Kind.MAIL_SENT, source="shop", data=3)
    await bus.publish("refund_asked", source="shop", data=4)
    await bus.publish("complaint_filed", source="shop", data=5)

    await bus.run(agent, until_idle=True)

    expected = [OrderPlaced(1), ("order_cancelled", 2), ("mail_sent", 3), ("refund_asked", 4), ("complaint_filed", 5)]
    assert sorted(map(str, expected)) == sorted(map(str, agent.seen))
    assert ["initialize", "started", "draining", "stopped"] == agent.life
    assert {"billing"} == {group.group for stream in await bus.stats() for group in stream.groups}


async def test_an_event_published_by_an_agent_names_its_cause(bus: EventBus) -> None:
    class Mail(BaseAgent):
        name = "mail"

        @handles("order_billed")
        async def send(self, event: Event) -> None:
            await self.bus.publish_many("mail_sent", source="mail", data=[1], headers={"lang": "en"})

    first = await bus.publish(OrderPlaced(order_id=1), source="shop")

    await bus.run(Billing(), Mail(), until_idle=True)

    [billed] = [event async for event in bus.events("order_billed")]
    [sent] = [event async for event in bus.events("mail_sent")]
    assert isinstance(billed, Event)
    assert isinstance(sent, Event)
    assert {"correlation_id": first, "causation_id": first} == dict(billed.headers)
    assert {"correlation_id": first, "causation_id": billed.id, "lang": "en"} == dict(sent.headers)
    assert "billing" == billed.source


async def test_an_event_published_outside_of_a_handler_has_no_cause(bus: EventBus) -> None:
    class Clock(BaseAgent):
        name = "clock"
        event_types = ("nothing",)

        async def work(self) -> None:
            await self.publish("tick")

    async def ticked() -> bool:
        return [stream.length for stream in await bus.stats("tick")] == [1]

    running = asyncio.create_task(bus.run(Clock()))
    await eventually(ticked)
    bus.stop()
    await running

    [tick] = [event async for event in bus.events("tick")]
    assert isinstance(tick, Event)
    assert {} == dict(tick.headers)


async def test_an_agents_state_outlives_it(bus: EventBus) -> None:
    class Counter(BaseAgent):
        name = "counter"

        @handles("tick", concurrency=1)
        async def count(self, event: Event) -> None:
            await self.state.set("ticks", await self.state.get("ticks", 0) + 1)

    for _ in range(2):
        await bus.publish_many("tick", source="clock", data=[None] * 3)
        agent = Counter()
        await bus.run(agent, until_idle=True)

    state = AgentState(bus.store, "counter")
    assert {"ticks": 6} == await state.all()
    await state.remove("ticks")
    assert 0 == await state.get("ticks", 0)


async def test_an_agent_answers_a_health_check_with_its_problem(bus: EventBus) -> None:
    class Ill(Billing):
        name = "ill"

        async def health(self) -> object:
            raise RuntimeError("no connection to the bank")

    await bus.publish(EventType.HEALTH_CHECK, source="old")
    running = asyncio.create_task(bus.run(Billing(), Ill()))
    await eventually(lambda: _started(bus, "billing", "ill"))
    asked = await bus.publish(EventType.HEALTH_CHECK, source="test")
    await eventually(lambda: _length(bus, "health_report", 2))
    bus.stop()
    await running

    reports = [event async for event in bus.events(EventType.HEALTH_REPORT)]
    answers = {}
    for event in reports:
        assert isinstance(event, Event)
        assert asked == event.headers["causation_id"]
        report = msgspec.convert(event.data, HealthReport)
        answers[report.agent] = (report.healthy, report.detail)
    assert {"billing": (True, None), "ill": (False, "RuntimeError: no connection to the bank")} == answers


@pytest.mark.parametrize("shift", [7200.0, -7200.0], ids=["ahead", "behind"])
async def test_a_health_check_of_a_publisher_with_a_wrong_clock_is_answered(shift: float) -> None:
    async with InMemoryEventBus() as bus:
        running = asyncio.create_task(bus.run(Billing()))
        await eventually(lambda: _started(bus, "billing"))
        timestamp = (datetime.now(UTC) + timedelta(seconds=shift)).isoformat()
        check = msgspec.structs.replace(to_record("health_check", source="test", data=None), timestamp=timestamp)
        await bus.store.append("health_check", [check])

        await eventually(lambda: _length(bus, "health_report", 1))
        bus.stop()
        await running


async def test_a_health_check_that_is_old_by_the_stores_clock_is_not_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    async with InMemoryEventBus() as bus:
        agent = Billing()
        running = asyncio.create_task(bus.run(agent))
        await eventually(lambda: _started(bus, "billing"))
        now = bus.store.time

        async def later(stream: str) -> float:
            return await now(stream) + runner.CHECK_EXPIRY_SECONDS + 1

        monkeypatch.setattr(bus.store, "time", later)
        await bus.publish(EventType.HEALTH_CHECK, source="test")
        await bus.publish("order_cancelled", source="shop", data=1)

        async def is_handled() -> bool:
            [stats] = await bus.stats(EventType.HEALTH_CHECK)
            return all(not group.lag and not group.pending for group in stats.groups)

        await eventually(is_handled)
        bus.stop()
        await running
        assert [] == await bus.stats(EventType.HEALTH_REPORT)


async def test_heartbeats_carry_the_status_of_an_agent(bus: EventBus) -> None:
    class Failing(Billing):
        name = "failing"

        @handles("bad", retry=Retry(attempts=1))
        async def fail(self, event: Event) -> None:
            raise ValueError("no price")

    await bus.publish_many("bad", source="shop", data=[1, 2])
    agent = Failing()
    running = asyncio.create_task(bus.run(agent))
    await eventually(lambda: _dead(bus, "bad", 2))

    async def told() -> bool:
        [status] = await agent_statuses(bus)
        return status.failed == 2

    await eventually(told)
    [status] = await agent_statuses(bus)
    assert ("failing", "started", 1, 2, 0, "ValueError: no price") == (
        status.agent, status.status, status.members, status.dead, status.restarts, status.last_error,
    )  # fmt: skip
    assert status.alive
    assert status.since is not None
    assert datetime.now(UTC) - status.since < timedelta(minutes=1)

    bus.stop()
    await running
    [status] = await agent_statuses(bus)
    assert ("stopped", 0) == (status.status, status.members)


async def test_an_agent_that_gives_no_sign_of_life_is_silent(bus: EventBus) -> None:
    await bus.store.join("health_check", "forgotten")
    old = datetime.now(UTC) - timedelta(minutes=1)
    beat = Heartbeat(agent="billing", member="billing-1", code="app:Billing", status="started", since=old, every=0.01)
    await Members(bus).put(beat)

    async def silent() -> bool:
        return "silent" == (await agent_statuses(bus))[0].status

    await eventually(silent)
    assert [("billing", "silent"), ("forgotten", "unknown")] == [
        (status.agent, status.status) for status in await agent_statuses(bus)
    ]


async def test_an_agent_that_fails_is_started_again_and_the_others_go_on(bus: EventBus) -> None:
    class Fragile(Billing):
        name = "fragile"

        async def initialize(self) -> None:
            await super().initialize()
            if self.life.count("initialize") < 3:
                raise OSError("no disk")

    fragile, steady = Fragile(), Billing()
    failures: list[AgentFailed] = []
    bus.signals.listen(failures.append, AgentFailed)
    running = asyncio.create_task(bus.run(fragile, steady))
    await bus.publish("order_cancelled", source="shop", data=1)
    await eventually(lambda: steady.seen and fragile.seen)
    bus.stop()
    await running

    assert ["fragile", "fragile"] == [failure.agent for failure in failures]
    assert 1 == steady.life.count("initialize")
    life = ["initialize", "stopped", "initialize", "stopped", "initialize", "started", "draining", "stopped"]
    assert life == fragile.life
    assert 2 == next(status.restarts for status in await agent_statuses(bus) if status.agent == "fragile")


async def test_an_agent_that_is_stopped_before_its_restart_is_stopped_and_not_failed() -> None:
    class Fragile(Billing):
        async def initialize(self) -> None:
            raise OSError("no disk")

    async with InMemoryEventBus() as bus:
        failures: list[AgentFailed] = []
        bus.signals.listen(failures.append, AgentFailed)
        running = asyncio.create_task(bus.run(Fragile()))
        await eventually(lambda: failures)
        bus.stop()
        await running
        [status] = await agent_statuses(bus)

    assert ("stopped", "OSError: no disk") == (status.status, status.last_error)


async def test_an_event_published_by_a_plain_method_in_a_thread_names_its_cause() -> None:
    class Plain(BaseAgent):
        name = "plain"

        async def started(self) -> None:
            self.loop = asyncio.get_running_loop()

        @handles("asked")
        def answer(self, event: Event) -> None:
            asyncio.run_coroutine_threadsafe(self.publish("answered", event.id), self.loop).result(10)

    async with InMemoryEventBus() as bus:
        await bus.publish_many("asked", "test", [1, 2, 3])
        await bus.run(Plain(), until_idle=True)
        answers = [event async for event in bus.events("answered")]

    assert 3 == len(answers)
    for event in answers:
        assert isinstance(event, Event)
        assert event.data == event.headers["causation_id"]


async def test_work_that_fails_ends_the_agent_and_starts_it_again(bus: EventBus) -> None:
    class Worker(Billing):
        async def work(self) -> None:
            if self.life.count("started") == 1:
                raise RuntimeError("lost the watch")
            self.seen.append("works")

    agent = Worker()
    running = asyncio.create_task(bus.run(agent))
    await eventually(lambda: "works" in agent.seen)
    await bus.publish("order_cancelled", source="shop", data=1)
    await eventually(lambda: ("order_cancelled", 1) in agent.seen)
    bus.stop()
    await running

    life = ["initialize", "started", "stopped", "initialize", "started", "draining", "stopped"]
    assert life == agent.life


async def test_an_agent_that_fails_too_often_in_a_row_ends_the_run() -> None:
    class Hopeless(Billing):
        restarts = 1

        async def initialize(self) -> None:
            raise OSError("no disk")

    async with InMemoryEventBus() as bus:
        changes: list[str] = []
        bus.signals.listen(lambda signal: changes.append(signal.status), AgentStatusChanged)

        with pytest.raises(AgentError, match="'billing' failed 2 times in a row, last with OSError: no disk"):
            await bus.run(Hopeless())

    assert ["initializing", "failed"] * 2 == changes


async def test_an_agent_whose_store_denies_it_is_started_again() -> None:
    store = FaultyStore(InMemoryEventBus().store)
    async with EventBus(store) as bus:
        agent = Billing()
        running = asyncio.create_task(bus.run(agent))
        await eventually(lambda: "started" in agent.life)
        store.fail_before("read", StoreDenied("no right to read"))

        await eventually(lambda: agent.life.count("started") == 2)
        bus.stop()
        await running


async def test_a_stop_before_a_run_ends_it(bus: EventBus) -> None:
    agent = Billing()
    running = asyncio.create_task(bus.run(agent))
    bus.stop()
    await asyncio.wait_for(running, 10)

    bus.on("order_placed", group="mail")(lambda event: None)
    running = asyncio.create_task(bus.run())
    bus.stop()
    await asyncio.wait_for(running, 10)

    running = asyncio.create_task(bus.subscribe_to_stream("a", "b").consume_events(lambda event: None))
    bus.stop()
    await asyncio.wait_for(running, 10)


async def test_stop_is_heard_while_an_agent_gets_ready(bus: EventBus) -> None:
    class Slow(Billing):
        async def initialize(self) -> None:
            await super().initialize()
            await asyncio.Event().wait()

    agent = Slow()
    running = asyncio.create_task(bus.run(agent))
    await eventually(lambda: agent.life)
    bus.stop()
    await asyncio.wait_for(running, 10)

    assert ["initialize", "stopped"] == agent.life


async def _cancelled() -> None:
    raise asyncio.CancelledError


async def _hanging() -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize("hook", ["initialize", "started", "work"])
async def test_an_agent_that_cancels_itself_has_failed_and_is_started_again(hook: str) -> None:
    async with InMemoryEventBus() as bus:
        agent, failures = Billing(), list[str]()

        def failed(signal: AgentFailed) -> None:
            failures.append(str(signal.error))
            delattr(agent, hook)

        bus.signals.listen(failed, AgentFailed)
        setattr(agent, hook, _cancelled)
        running = asyncio.create_task(bus.run(agent))
        await bus.publish("order_cancelled", source="shop", data=1)
        await eventually(lambda: failures and agent.life.count("started") and agent.seen)
        await eventually(lambda: _started(bus, "billing"))
        bus.stop()
        await running

    assert ["_cancelled() was cancelled from within"] == failures
    assert "draining" in agent.life


@pytest.mark.parametrize("hook", ["initialize", "started", "work", "draining", "stopped"])
async def test_a_hook_that_hangs_does_not_keep_an_agent_from_ending(hook: str) -> None:
    async with InMemoryEventBus() as bus:
        agent, hung = Billing(), asyncio.Event()

        async def hang() -> None:
            hung.set()
            await _hanging()

        setattr(agent, hook, hang)
        running = asyncio.create_task(bus.run(agent, grace=0.05))
        if hook in ("draining", "stopped"):
            await eventually(lambda: _started(bus, "billing"))
            bus.stop()
        await asyncio.wait_for(hung.wait(), 10)
        bus.stop()

        done, _ = await asyncio.wait([running], timeout=10)

    assert {running} == done
    assert running.exception() is None


async def test_the_first_failure_is_reported_and_not_its_consequences() -> None:
    class Unready(Billing):
        restarts = 0

        async def initialize(self) -> None:
            raise OSError("no disk")

        async def stopped(self) -> None:
            raise AttributeError("no connection")

    async with InMemoryEventBus() as bus:
        with pytest.raises(AgentError, match="OSError: no disk"):
            await bus.run(Unready())
        [status] = await agent_statuses(bus)

    assert ("failed", "OSError: no disk") == (status.status, status.last_error)


async def test_a_wrong_name_in_an_agents_own_code_does_not_end_the_others() -> None:
    class Careless(Billing):
        name = "careless"

        async def work(self) -> None:
            await self.publish("not a name!")

    async with InMemoryEventBus() as bus:
        steady, failures = Billing(), list[AgentFailed]()
        bus.signals.listen(failures.append, AgentFailed)
        running = asyncio.create_task(bus.run(Careless(), steady))
        await eventually(lambda: failures)
        await bus.publish("order_cancelled", source="shop", data=1)
        await eventually(lambda: steady.seen)
        bus.stop()
        await running

    assert 1 == steady.life.count("initialize")


async def test_health_that_json_cannot_carry_is_reported_as_an_error() -> None:
    class Strange(Billing):
        async def health(self) -> object:
            return object()

    async with InMemoryEventBus() as bus:
        running = asyncio.create_task(bus.run(Strange()))
        await eventually(lambda: _started(bus, "billing"))
        await bus.publish(EventType.HEALTH_CHECK, source="test")
        await eventually(lambda: _length(bus, "health_report", 1))
        bus.stop()
        await running
        [event] = [event async for event in bus.events(EventType.HEALTH_REPORT)]

    assert isinstance(event, Event)
    report = msgspec.convert(event.data, HealthReport)
    assert not report.healthy
    assert "not JSON" in str(report.detail)


async def test_a_failed_agent_stays_failed_and_does_not_become_silent(bus: EventBus) -> None:
    old = datetime.now(UTC) - timedelta(minutes=1)
    beat = Heartbeat(agent="billing", member="billing-1", code="app:Billing", status="failed", since=old, every=0.0)
    await Members(bus).put(beat)

    assert ["failed"] == [status.status for status in await agent_statuses(bus)]


class Template(BaseAgent):
    """It declares the events; its subclasses handle them."""

    name = "template"

    @handles("order_placed", ordered=True)
    async def bill(self, event: Event) -> None:
        raise NotImplementedError

    @handles("order_cancelled")
    @staticmethod
    async def outside(event: Event) -> None: ...

    @staticmethod
    @handles("refund_asked")
    async def inside(event: Event) -> None: ...

    @classmethod
    @handles("mail_sent")
    async def of_class(cls, event: Event) -> None: ...


def test_a_method_handles_the_types_of_the_method_that_it_overrides() -> None:
    class Filled(Template):
        async def bill(self, event: Event) -> None: ...

        @handles("refund_paid")
        async def inside(self, event: Event) -> None: ...  # type: ignore[override]  # the mistake

        of_class = None  # type: ignore[assignment]  # the mistake

    agent = Filled()
    declared = {str(each.event_type): each for each in agent.declared()}

    assert {"order_placed", "order_cancelled", "refund_paid"} == set(declared)
    assert agent.bill == declared["order_placed"].function
    assert declared["order_placed"].options.ordered
    assert 4 == len(Template().declared())


def _without_name() -> BaseAgent:
    class Nameless(BaseAgent):
        event_types = ("a",)

    return Nameless()


def _with_two_handlers_of_one_type() -> BaseAgent:
    class Twice(Billing):
        @handles("order_cancelled")
        async def again(self, event: Event) -> None: ...

    return Twice()


def _with_a_text_for_types() -> BaseAgent:
    class Text(BaseAgent):
        name = "text"
        event_types = "order_placed"

    return Text()


def _with_one_member_for_types() -> BaseAgent:
    class Member(BaseAgent):
        name = "member"
        event_types = Kind.MAIL_SENT  # type: ignore[assignment]  # the mistake

    return Member()


def _with_a_plain_hook() -> BaseAgent:
    class Plain(BaseAgent):
        name = "plain"

        def initialize(self) -> None:  # type: ignore[override]  # the mistake
            raise AssertionError("called before it was refused")

    return Plain()


def _with_restarts_that_are_no_number() -> BaseAgent:
    class Endless(Billing):
        restarts = None  # type: ignore[assignment]  # the mistake

    return Endless()


def _that_is_a_class() -> BaseAgent:
    return Billing  # type: ignore[return-value]  # the mistake


def _with_its_own_health_check() -> BaseAgent:
    class Own(BaseAgent):
        name = "own"
        event_types = (EventType.HEALTH_CHECK,)

    return Own()


def _with_an_unknown_type() -> BaseAgent:
    class Unknown(BaseAgent):
        name = "unknown"
        event_types = (42,)

    return Unknown()


def _with_a_method_that_takes_nothing() -> BaseAgent:
    class Deaf(BaseAgent):
        name = "deaf"

        @handles("a")  # type: ignore[type-var]  # the mistake that is tested
        async def hear(self) -> None: ...

    return Deaf()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_without_name, "agent name '' is not a name"),
        (_with_two_handlers_of_one_type, r"handles 'order_cancelled' twice, in again\(\) and event_types"),
        (_with_a_text_for_types, "give a tuple of types"),
        (_with_one_member_for_types, "give a tuple of types"),
        (_with_a_plain_hook, r"initialize\(\) of agent 'plain' is awaited: write `async def initialize`"),
        (_with_restarts_that_are_no_number, "restarts=None of 'billing': give a whole number from 0"),
        (_that_is_a_class, r"is not an agent: give objects, as in bus.run\(Billing\(\)\)"),
        (_with_its_own_health_check, r"override health\(\)"),
        (_with_an_unknown_type, "an event type is a string, an Enum with a string value or a class, not 42"),
        (_with_a_method_that_takes_nothing, "must be callable with one argument, the event"),
    ],
)
async def test_an_agent_that_cannot_be_is_refused(make: Callable[[], BaseAgent], message: str) -> None:
    async with InMemoryEventBus() as bus:
        with pytest.raises(ConfigurationError, match=message):
            await bus.run(make())


def test_options_of_a_method_are_checked_where_they_stand() -> None:
    with pytest.raises(ConfigurationError, match="unknown option 'concurency'; did you mean 'concurrency'"):
        handles("a", concurency=2)  # type: ignore[call-overload]  # the mistake that is tested
    with pytest.raises(ConfigurationError, match="an event type is"):
        handles(3.0)  # type: ignore[call-overload]  # the mistake that is tested


async def test_two_agents_of_one_name_do_not_run_together(bus: EventBus) -> None:
    with pytest.raises(ConfigurationError, match="group 'billing' would handle 'order_placed' twice"):
        await bus.run(Billing(), Billing())


async def test_other_code_under_the_name_of_an_agent_that_is_alive_is_refused(bus: EventBus) -> None:
    class Usurper(BaseAgent):
        name = "billing"
        event_types = ("other",)

    agent = Billing()
    running = asyncio.create_task(bus.run(agent))
    await eventually(lambda: _started(bus, "billing"))

    with pytest.raises(ConfigurationError, match=r"with other code is running: .*Billing, as process"):
        await bus.run(Usurper())
    assert "stopped" not in agent.life

    bus.stop()
    await running
    await bus.run(Usurper(), until_idle=True)


async def test_of_two_agents_of_one_name_that_begin_at_once_only_one_runs(bus: EventBus) -> None:
    class Usurper(BaseAgent):
        name = "billing"
        event_types = ("other",)

    for _ in range(3):
        runs = [asyncio.create_task(bus.run(agent)) for agent in (Billing(), Usurper())]
        await asyncio.wait(runs, timeout=10, return_when=asyncio.FIRST_COMPLETED)
        refused = [run.exception() for run in runs if run.done()]
        await eventually(lambda: _started(bus, "billing"))
        bus.stop()
        await asyncio.wait(runs)

        assert [ConfigurationError] == [type(error).__mro__[1] for error in refused]


async def test_one_object_runs_once_at_a_time(bus: EventBus) -> None:
    agent = Billing()
    running = asyncio.create_task(bus.run(agent))
    await eventually(lambda: "started" in agent.life)

    with pytest.raises(ConfigurationError, match="'billing' runs already"):
        await bus.run(agent)

    bus.stop()
    await running
    running = asyncio.create_task(bus.run(agent))
    with pytest.raises(ConfigurationError, match="'billing' runs already"):
        await asyncio.gather(bus.run(agent), bus.run(agent))
    bus.stop()
    await running
    with pytest.raises(ConfigurationError, match="does not run"):
        _ = agent.bus


@pytest.mark.parametrize("note", [b"", b"\xff", b"{}", b'{"renewed": 1, "heartbeat": {"agent": 1}}'])
async def test_a_note_that_is_not_a_heartbeat_is_left_out(bus: EventBus, note: bytes) -> None:
    await bus.store.set_note(STREAM, f"{PREFIX}stranger", note)

    assert [] == await agent_statuses(bus)


async def test_the_last_heartbeats_of_former_members_are_removed_and_the_agents_own_is_kept(bus: EventBus) -> None:
    def member(name: str, status: Status, agent: str = "billing") -> Heartbeat:
        return Heartbeat(agent, name, "app:Billing", status, datetime.now(UTC), every=0.01)

    members = Members(bus)
    for former in (member("stopped", "stopped"), member("failed", "failed"), member("other", "stopped", "other")):
        await members.put(former)
    await members.put(member("silent", "started"))

    await members.sweep("billing", "own", is_first=True)
    assert {"silent", "other"} == {last.heartbeat.member for last in await members.last_heartbeats()}
    await asyncio.sleep(0.05)
    await members.sweep("billing", "own", is_first=False)
    assert {"other"} == {last.heartbeat.member for last in await members.last_heartbeats()}


async def test_the_statuses_of_agents_cost_one_read_of_their_last_heartbeats() -> None:
    store = FaultyStore(MemoryStore())
    async with EventBus(store) as bus:
        for number in range(20):
            beat = Heartbeat(f"a{number}", f"m{number}", "app:A", "started", datetime.now(UTC), every=5)
            await Members(bus).put(beat)
        store.calls.clear()

        assert 20 == len(await agent_statuses(bus))

    assert {"stats": 1, "notes": 1, "time": 1} == dict(store.calls)


async def _started(bus: EventBus, *names: str) -> bool:
    return {status.agent for status in await agent_statuses(bus) if status.status == "started"} >= set(names)


async def _length(bus: EventBus, stream: str, length: int) -> bool:
    return any(stats.length >= length for stats in await bus.stats(stream))


async def _dead(bus: EventBus, stream: str, count: int) -> bool:
    return any(stats.dead >= count for stats in await bus.stats(stream))
