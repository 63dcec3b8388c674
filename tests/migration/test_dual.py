"""Both buses side by side: the owner of an event, the failures of each, and the report."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Self

import msgspec
import pytest

from forebay import ConfigurationError, Event, EventBus, InvalidEvent, NotFound, OutcomeUnknown, Retry, StoreUnavailable
from forebay.event import Record
from forebay.migration import DualBus, Route, parity, routes, switch
from forebay.migration.counts import Counts, TypeCounts
from forebay.migration.parity import Parity, ProcessReport, compact, process_reports, write_report
from forebay.migration.routes import STREAM, name_of
from forebay.runtime.consumer import Consumer
from forebay.stores.memory import MemoryStore
from forebay.testing import FaultyStore, eventually
from tests.support.old_bus import PlainBus


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Poll more often."""
    monkeypatch.setattr("forebay.migration.dual.SWITCH_SECONDS", 0.03)
    monkeypatch.setattr("forebay.migration.dual.REPORT_SECONDS", 0.1)
    monkeypatch.setattr("forebay.migration.observer.CHECK_SECONDS", 0.05)
    # A stop waits for the read that is under way.
    defaults = Consumer.__init__.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "wait", 0.05)
    monkeypatch.setattr("forebay.migration.observer.MISSING_SECONDS", 1.0)


class Agent:
    """An agent of the old bus that records its events in order."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.seen: list[int] = []

    async def handle(self, event_type: str, source: str, data: dict[str, Any]) -> object:
        self.seen.append(data["n"])
        return {"n": data["n"]}


@asynccontextmanager
async def both(new: EventBus, *agents: Agent, old: Any = None, primary: Any = "old") -> AsyncIterator[DualBus]:
    """A DualBus with these agents, all of which handle orders."""
    dual = DualBus(old or PlainBus(), new, primary=primary)
    for agent in agents:
        dual.subscribe("order", agent.handle)
    async with dual:
        await eventually(lambda: _known(new, *agents))
        yield dual


async def _known(new: EventBus, *agents: Agent) -> bool:
    return (await routes(new.store)).keys() >= {agent.name for agent in agents}


async def put(dual: DualBus, agent: Agent, to: Route) -> None:
    """Throw the switch, and wait until it is seen."""
    await switch(dual.new.store, agent.name, to)
    await eventually(lambda: _seen(dual, agent, to))


async def _seen(dual: DualBus, agent: Agent, to: Route) -> bool:
    return any(member.alive and member.seen.get(agent.name) == to for member in await process_reports(dual.new.store))


async def report(dual: DualBus) -> Parity:
    """The report, as it is now."""
    await dual._report()
    return await parity(dual.new.store)


async def quiet(new: EventBus) -> bool:
    groups = [group for stream in await new.stats("order") for group in stream.groups]
    return bool(groups) and all(not group.lag and not group.pending for group in groups)


async def test_an_event_is_on_both_buses_and_handled_once(bus: EventBus) -> None:
    billing, past = Agent("billing"), Agent("past")
    old = PlainBus()
    old.subscribe("order", past.handle)
    async with both(bus_of(bus), billing, old=old) as dual:
        id = await dual.publish("order", "shop", {"n": 1}, key="k")
        await eventually(lambda: billing.seen and past.seen)
        await eventually(lambda: quiet(bus))
        event = await bus.get("order", id)

    assert ([1], [1]) == (billing.seen, past.seen)
    assert ("shop", {"n": 1}, "k") == (event.source, event.data, event.key)


async def test_a_switch_loses_nothing_and_lets_nothing_be_handled_twice(bus: EventBus) -> None:
    billing, mail = Agent("billing"), Agent("mail")
    async with both(bus_of(bus), billing, mail) as dual:
        published = 0

        async def write() -> None:
            nonlocal published
            while not done.is_set():
                await dual.publish("order", "shop", {"n": published})
                published += 1
                await asyncio.sleep(0)

        done = asyncio.Event()
        writer = asyncio.create_task(write())
        for to in ("new", "old", "shadow", "new", "old", "new"):
            await put(dual, billing, to)
        done.set()
        await writer
        await eventually(lambda: len(billing.seen) >= published and len(mail.seen) >= published, within=60)
        await eventually(lambda: quiet(bus), within=60)
        found = await report(dual)

    [one, other] = found.agents
    # The shadow's event was handled on both, and no other one was.
    shadowed = one.same + one.different
    assert published == len(set(billing.seen)) == len(billing.seen) - shadowed
    assert list(range(published)) == sorted(mail.seen)
    assert (published, 0) == (one.old_handled + one.new_handled, one.different)
    assert one.new_handled > 0
    assert (published, 0, "old") == (other.old_handled, other.new_handled, other.route)
    assert found.agrees
    [type] = found.types
    assert (published, published) == (type.old, type.new)


async def test_a_cutover_starts_after_the_last_event_of_the_old_bus() -> None:
    order: list[str] = []
    may_end = asyncio.Event()

    async def slow(event_type: str, source: str, data: dict[str, Any]) -> None:
        order.append(f"begin {data['n']}")
        if data["n"] == 1:
            await may_end.wait()
        order.append(f"end {data['n']}")

    async with EventBus("memory://") as new:
        pass
    dual = DualBus(PlainBus(), new)
    dual.subscribe("order", slow, agent="billing")
    async with dual:
        await eventually(lambda: _known(new, Agent("billing")))
        await dual.publish("order", "shop", {"n": 1})
        await eventually(lambda: order)
        await put(dual, Agent("billing"), "new")
        await dual.publish("order", "shop", {"n": 2})
        await eventually(lambda: _lag_is(new, 0))
        assert ["begin 1"] == order
        may_end.set()
        await eventually(lambda: len(order) == 4)

    assert ["begin 1", "end 1", "begin 2", "end 2"] == order


async def _lag_is(new: EventBus, lag: int) -> bool:
    return all(group.lag == lag for stream in await new.stats("order") for group in stream.groups)


async def test_the_new_buss_failures_do_not_hurt_the_old_one() -> None:
    store = FaultyStore(MemoryStore())
    billing = Agent("billing")
    async with both(EventBus(store), billing) as dual:
        await put(dual, billing, "new")
        await dual.publish("order", "shop", {"n": 1})
        store.fail_before("append", StoreUnavailable("down"))
        await dual.publish("order", "shop", {"n": 2})
        await dual.publish("order", "shop", {"n": 3, "no JSON": object()})

        await eventually(lambda: sorted(billing.seen) == [1, 2, 3])
        found = await report(dual)

    [type] = found.types
    assert (3, 1, 2) == (type.old, type.new, type.missing)
    assert not found.agrees
    [agent] = found.agents
    assert (2, 1) == (agent.old_handled, agent.new_handled)


async def test_an_unknown_outcome_is_made_certain_and_handled_once() -> None:
    store = FaultyStore(MemoryStore())
    billing, mail = Agent("billing"), Agent("mail")
    async with both(EventBus(store), billing, mail) as dual:
        await put(dual, billing, "new")
        store.fail_after("append", OutcomeUnknown("the answer is lost"), times=2)
        await dual.publish("order", "shop", {"n": 1})
        await eventually(lambda: _published(dual, 1))
        await dual.publish("order", "shop", {"n": 2})

        await eventually(lambda: sorted(billing.seen) == [1, 2])
        await eventually(lambda: quiet(dual.new))
        await eventually(lambda: _published(dual, 2))

    assert [1, 2] == sorted(mail.seen)


async def _published(dual: DualBus, count: int) -> bool:
    return [(type.new, type.missing) for type in (await report(dual)).types] == [(count, 0)]


async def test_a_new_bus_that_cannot_be_opened_yet_is_opened_later() -> None:
    class Late(MemoryStore):
        fails = 2

        async def __aenter__(self) -> Self:
            if self.fails:
                self.fails -= 1
                raise StoreUnavailable("not up yet")
            return self

    billing = Agent("billing")
    new = EventBus(Late())
    dual = DualBus(PlainBus(), new)
    dual.subscribe("order", billing.handle)
    async with dual:
        await dual.publish("order", "shop", {"n": 1})
        await eventually(lambda: billing.seen == [1])
        await eventually(lambda: _known(new, billing), within=30)
        await dual.publish("order", "shop", {"n": 2})
        await eventually(lambda: billing.seen == [1, 2])
        [type] = (await report(dual)).types

    assert (2, 1, 1) == (type.old, type.new, type.missing)


async def test_a_new_bus_that_is_never_opened_holds_up_nothing() -> None:
    class Down(MemoryStore):
        async def __aenter__(self) -> Self:
            raise StoreUnavailable("down")

    billing = Agent("billing")
    dual = DualBus(PlainBus(), EventBus(Down()))
    dual.subscribe("order", billing.handle)
    async with dual:
        await dual.publish("order", "shop", {"n": 1})
        await eventually(lambda: billing.seen == [1])

    with pytest.raises(StoreUnavailable):
        async with DualBus(PlainBus(), EventBus(Down()), primary="new"):
            pass


async def test_with_the_new_bus_primary_its_errors_are_the_publishers_and_the_old_ones_are_not() -> None:
    store = FaultyStore(MemoryStore())
    old = PlainBus()
    billing = Agent("billing")
    async with both(EventBus(store), billing, old=old, primary="new") as dual:
        await put(dual, billing, "new")
        store.fail_before("append", StoreUnavailable("down"))
        with pytest.raises(StoreUnavailable):
            await dual.publish("order", "shop", {"n": 1})
        old.broken = RuntimeError("the old bus is broken")
        await dual.publish("order", "shop", {"n": 2})
        await eventually(lambda: billing.seen == [2])
        [type] = (await report(dual)).types

    assert (0, 1, 1) == (type.old, type.new, type.extra)


async def test_an_error_of_the_old_bus_reaches_the_publisher_and_counts_as_extra(bus: EventBus) -> None:
    old = PlainBus()
    async with both(bus_of(bus), Agent("billing"), old=old) as dual:
        old.broken = RuntimeError("the old bus is broken")
        with pytest.raises(RuntimeError, match="the old bus is broken"):
            await dual.publish("order", "shop", {"n": 1})
        await eventually(lambda: quiet(bus))
        [type] = (await report(dual)).types

    assert (0, 1, 1, 0) == (type.old, type.new, type.extra, type.missing)


async def test_a_shadow_run_that_ends_differently_is_reported(bus: EventBus) -> None:
    async def real(event_type: str, source: str, data: dict[str, Any]) -> int:
        if data["n"] == 3:
            raise ValueError("no")
        return int(data["n"])

    async def shadow(event_type: str, source: str, data: dict[str, Any]) -> int:
        if data["n"] == 4:
            raise ValueError("no")
        return 1

    dual = DualBus(PlainBus(), bus_of(bus))
    dual.subscribe("order", real, agent="billing", shadow=shadow)
    async with dual:
        await eventually(lambda: _known(dual.new, Agent("billing")))
        await put(dual, Agent("billing"), "shadow")
        for n in (1, 2, 3, 4):
            await dual.publish("order", "shop", {"n": n})
        await eventually(lambda: _compared(dual, 4))
        found = await report(dual)

    [agent] = found.agents
    assert (1, 3, 3, 1, 0) == (agent.same, agent.different, agent.old_handled, agent.old_failed, agent.new_handled)
    assert not found.agrees


async def _compared(dual: DualBus, count: int) -> bool:
    return [agent.same + agent.different for agent in (await report(dual)).agents] == [count]


def bus_of(bus: EventBus) -> EventBus:
    """Another bus on the same store, not opened yet."""
    return EventBus(bus.store.clone())


async def test_data_that_a_handler_changed_under_the_others_counts_as_differing(bus: EventBus) -> None:
    old = PlainBus()

    async def spoil(event_type: str, source: str, data: dict[str, Any]) -> None:
        data["n"] = 0

    old.subscribe("order", spoil)
    billing = Agent("billing")
    async with both(bus_of(bus), billing, old=old) as dual:
        await dual.publish("order", "shop", {"n": 1})
        await eventually(lambda: billing.seen)
        [type] = (await report(dual)).types

    assert 1 == type.differing


async def test_an_event_that_is_deleted_on_the_new_bus_counts_as_missing() -> None:
    class Forgetful(MemoryStore):
        async def append(self, stream: str, records: Any, **options: Any) -> list[str]:
            if stream == "order":
                return ["1"]
            return await super().append(stream, records, **options)

    async with both(EventBus(Forgetful()), Agent("billing")) as dual:
        await dual.publish("order", "shop", {"n": 1})
        await eventually(lambda: _missing(dual, 1), within=30)


async def _missing(dual: DualBus, count: int) -> bool:
    return [type.missing for type in (await report(dual)).types] == [count]


async def test_events_that_bypass_the_dual_bus_are_handled_on_the_old_one_and_counted(bus: EventBus) -> None:
    old = PlainBus()
    billing = Agent("billing")
    async with both(bus_of(bus), billing, old=old) as dual:
        await put(dual, billing, "new")
        await old.publish("order", "shop", {"n": 1})
        await eventually(lambda: billing.seen == [1])
        [type] = (await report(dual)).types

    assert (0, 0, 1) == (type.old, type.new, type.bypassed)


async def test_an_old_bus_that_copies_the_data_is_found_out(bus: EventBus, caplog: pytest.LogCaptureFixture) -> None:
    class Copying(PlainBus):
        async def publish(self, event_type: str, source: str, data: dict[str, Any]) -> None:
            await super().publish(event_type, source, dict(data))

    async with both(bus_of(bus), Agent("billing"), old=Copying()) as dual:
        await dual.publish("order", "shop", {"n": 1})
        await eventually(lambda: "let its adapter pass on the very object" in caplog.text)
        for subscription in dual._subscriptions.values():
            for key in list(subscription.outstanding):
                subscription.forget(key)


async def test_a_durable_bus_may_be_the_old_one(bus: EventBus, tmp_path: Any) -> None:
    billing = Agent("billing")
    old = EventBus(f"sqlite:///{tmp_path}/old.db")
    async with both(bus_of(bus), billing, old=old) as dual:
        await dual.publish("order", "shop", {"n": 1})
        await put(dual, billing, "new")
        await dual.publish("order", "shop", {"n": 2})
        await put(dual, billing, "old")
        await dual.publish("order", "shop", {"n": 3})
        await eventually(lambda: sorted(billing.seen) == [1, 2, 3])
        await eventually(lambda: quiet(dual.new))
        [agent] = (await report(dual)).agents

    assert (2, 1) == (agent.old_handled, agent.new_handled)


async def test_the_stamps_of_an_earlier_migration_mean_nothing_in_a_later_one(bus: EventBus, tmp_path: Any) -> None:
    between = f"sqlite:///{tmp_path}/between.db"
    billing = Agent("billing")
    async with EventBus(between) as first:
        # The first migration is over; some of its events are still unread.
        await first.store.join("order", "billing")
        for n, old in ((1, {}), (2, {"forebay-old": "billing"})):
            await first.publish("order", "shop", {"n": n}, headers={"forebay-by": f"first/host-1-a/{n}", **old})

    async with both(bus_of(bus), billing, old=EventBus(between)) as dual:
        await eventually(lambda: sorted(billing.seen) == [1, 2])
        await put(dual, billing, "new")
        await dual.publish("order", "shop", {"n": 3}, headers={"forebay-by": "first/host-1-a/3"})
        await eventually(lambda: sorted(billing.seen) == [1, 2, 3])


async def test_events_of_a_dead_process_count_as_lost(bus: EventBus) -> None:
    billing = Agent("billing")
    name = await name_of(bus.store)
    dead = {"forebay-by": f"{name}/host-1-dead/7", "forebay-old": "billing"}
    await bus.publish("order", "shop", {"n": 1}, headers=dead)
    await bus.publish("order", "shop", {"n": 2}, headers={"forebay-by": f"{name}/host-1-dead/8"})
    async with both(bus_of(bus), billing) as dual:
        await eventually(lambda: billing.seen == [2])
        await eventually(lambda: quiet(bus))
        found = await report(dual)

    assert 1 == found.agents[0].lost
    assert not found.agrees


async def test_events_of_a_process_that_has_just_died_count_as_lost(bus: EventBus) -> None:
    billing = Agent("billing")
    name = await name_of(bus.store)
    # It spoke so lately that it seems to be alive yet.
    await write_report(bus.store, ProcessReport("host-1-dead", time.time() - 9, {}, Counts()))
    dead = {"forebay-by": f"{name}/host-1-dead/7", "forebay-old": "billing"}
    await bus.publish("order", "shop", {"n": 1}, headers=dead)
    async with both(bus_of(bus), billing) as dual:
        await eventually(lambda: quiet(bus))
        found = await report(dual)

    assert 1 == found.agents[0].lost


async def test_events_in_flight_in_a_live_process_do_not_count_as_lost(bus: EventBus) -> None:
    billing, other = Agent("billing"), ProcessReport("host-1-alive", time.time(), {}, Counts())
    name = await name_of(bus.store)
    await write_report(bus.store, other)
    alive = {"forebay-by": f"{name}/host-1-alive/7", "forebay-old": "billing"}
    await bus.publish("order", "shop", {"n": 1}, headers=alive)
    async with both(bus_of(bus), billing) as dual:
        await write_report(bus.store, ProcessReport("host-1-alive", time.time(), {}, Counts()))
        await eventually(lambda: quiet(bus))
        found = await report(dual)

    assert 0 == sum(agent.lost for agent in found.agents)


async def test_events_of_a_dead_process_with_a_fast_clock_count_as_lost(
    bus: EventBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forebay.migration.peers.FRESH", 0.5)
    billing = Agent("billing")
    name = await name_of(bus.store)
    await write_report(bus.store, ProcessReport("host-1-dead", time.time() + 3600, {}, Counts()))
    for n in range(2):
        dead = {"forebay-by": f"{name}/host-1-dead/{n}", "forebay-old": "billing"}
        await bus.publish("order", "shop", {"n": n}, headers=dead)
    async with both(bus_of(bus), billing) as dual:
        await eventually(lambda: quiet(bus))
        found = await report(dual)

    assert 2 == found.agents[0].lost


async def test_events_in_flight_in_a_process_that_just_started_are_not_lost(bus: EventBus) -> None:
    billing = Agent("billing")
    name = await name_of(bus.store)

    async def publish_by(id: str) -> None:
        stamp = {"forebay-by": f"{name}/{id}/7", "forebay-old": "billing"}
        await bus.publish("order", "shop", {"n": 1}, headers=stamp)

    async with both(bus_of(bus), billing) as dual:
        await publish_by("host-1-dead")
        await eventually(lambda: quiet(bus))
        await write_report(bus.store, ProcessReport("host-1-new", time.time(), {}, Counts()))
        await publish_by("host-1-new")
        await eventually(lambda: quiet(bus))
        found = await report(dual)

    assert 1 == found.agents[0].lost


async def test_counts_of_processes_that_ended_are_kept_in_one_place(bus: EventBus) -> None:
    async def run_once(n: int) -> Counts:
        billing = Agent("billing")
        async with both(bus_of(bus), billing) as dual:
            await dual.publish("order", "shop", {"n": n})
            await eventually(lambda: billing.seen)
        return dual.counts

    for n in range(2):
        await run_once(n)
    await write_report(bus.store, ProcessReport("killed", 0.0, {}, await run_once(2)))
    await compact(bus.store)
    await compact(bus.store)

    [agent] = (await parity(bus.store)).agents
    notes = await bus.store.notes(STREAM)
    assert 4 == agent.old_handled
    assert {"ended", "name", "route:billing"} == set(notes)


async def test_wrong_uses_are_refused_in_words(bus: EventBus) -> None:
    dual = DualBus(PlainBus(), bus_of(bus))
    with pytest.raises(ConfigurationError, match="not open"):
        await dual.publish("order", "shop", {"n": 1})
    dual.subscribe("order", Agent("billing").handle)
    with pytest.raises(ConfigurationError, match="'billing' handles 'order' already"):
        dual.subscribe("order", Agent("billing").handle)
    with pytest.raises(ConfigurationError, match="give 'old' or 'new'"):
        DualBus(PlainBus(), bus, primary="both")  # type: ignore[arg-type]  # the mistake that is tested
    with pytest.raises(ConfigurationError, match="the same bus"):
        DualBus(bus, bus)
    with pytest.raises(NotFound, match="no agent 'nobody' in this migration"):
        await switch(bus.store, "nobody", "new")
    with pytest.raises(ConfigurationError, match="not a route"):
        await switch(bus.store, "billing", "both")  # type: ignore[arg-type]  # the mistake that is tested
    async with dual:
        with pytest.raises(InvalidEvent, match="publishes dicts"):
            await dual.publish("order", "shop", [1])  # type: ignore[arg-type]  # the mistake that is tested
        with pytest.raises(ConfigurationError, match="opened once"):
            await dual.__aenter__()


async def test_subscriptions_may_come_while_it_is_open(bus: EventBus) -> None:
    late = Agent("late")
    async with both(bus_of(bus), Agent("billing")) as dual:
        dual.subscribe("order", late.handle)
        await eventually(lambda: _known(bus, late))
        await put(dual, late, "new")
        await dual.publish("order", "shop", {"n": 1})
        await eventually(lambda: late.seen == [1])


async def test_run_lasts_until_stop(bus: EventBus) -> None:
    async with both(bus_of(bus)) as dual:
        running = asyncio.create_task(dual.run())
        dual.stop()
        await asyncio.wait_for(running, 10)


async def test_plain_functions_and_methods_are_handlers(bus: EventBus) -> None:
    seen: list[object] = []

    def plain(event_type: str, source: str, data: dict[str, Any]) -> None:
        seen.append((event_type, source, data))

    dual = DualBus(PlainBus(), bus_of(bus))
    dual.subscribe("order", plain, agent="plain")
    async with dual:
        await dual.publish("order", "shop", {"n": 1})
        await eventually(lambda: seen)
        events = [event async for event in bus.events("order")]

    assert [("order", "shop", {"n": 1})] == seen
    assert isinstance(events[0], Event)


async def test_an_old_bus_may_ask_whether_a_handler_is_a_coroutine_function() -> None:
    class Asking(PlainBus):
        async def _call(self, handler: Any, event_type: str, source: str, data: Any) -> object:
            result = handler(event_type, source, data)
            return await result if asyncio.iscoroutinefunction(handler) else result

    billing = Agent("billing")
    async with both(EventBus("memory://"), billing, old=Asking()) as dual:
        await dual.publish("order", "shop", {"n": 1})
        await eventually(lambda: billing.seen == [1])


async def test_a_new_bus_that_fails_while_it_is_opened_is_opened_again(bus: EventBus) -> None:
    store = FaultyStore(bus.store.clone())
    store.fail_before("notes", StoreUnavailable("down"))
    billing = Agent("billing")
    dual = DualBus(PlainBus(), EventBus(store))
    dual.subscribe("order", billing.handle)
    async with dual:
        await eventually(lambda: _known(bus, billing), within=30)


async def test_a_new_bus_that_does_not_answer_holds_the_old_one_up_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("forebay.migration.publishing.SLOW_PUBLISH_SECONDS", 0.1)

    class Hanging(MemoryStore):
        hangs = False
        asked = 0

        async def append(self, stream: str, records: Any, **options: Any) -> list[str]:
            self.asked += 1
            await self._hang()
            return await super().append(stream, records, **options)

        async def set_note(self, *arguments: Any, **options: Any) -> bool:
            await self._hang()
            return await super().set_note(*arguments, **options)

        async def _hang(self) -> None:
            if self.hangs:
                await asyncio.sleep(0.3)
                raise StoreUnavailable("no reply in time")

    store = Hanging()
    billing = Agent("billing")
    async with both(EventBus(store), billing) as dual:
        await put(dual, billing, "new")
        store.hangs = True
        for n in range(50):
            await dual.publish("order", "shop", {"n": n})
        assert 1 == store.asked
        await eventually(lambda: len(billing.seen) == 50)
        store.hangs = False
        await eventually(lambda: not dual._publisher.is_paused, within=30)
        await dual.publish("order", "shop", {"n": 50})
        await eventually(lambda: len(billing.seen) == 51)
        found = await report(dual)

    assert list(range(51)) == billing.seen
    assert 1 == caplog.text.count("is published on the old bus alone")
    assert [(51, 1, 50)] == [(type.old, type.new, type.missing) for type in found.types]
    assert [(50, 1)] == [(agent.old_handled, agent.new_handled) for agent in found.agents]


async def test_a_process_that_was_held_up_is_in_the_report_when_it_goes_on(bus: EventBus) -> None:
    billing = Agent("billing")
    async with both(bus_of(bus), billing) as dual:
        await dual.publish("order", "shop", {"n": 1})
        await eventually(lambda: billing.seen == [1])
        held_up = dual._process_report(at=time.time() - 60)
        await write_report(bus.store, held_up)
        await compact(bus.store)
        await dual.publish("order", "shop", {"n": 2})
        await eventually(lambda: billing.seen == [1, 2])
        found = await report(dual)

    assert (1, [2]) == (found.processes, [type.old for type in found.types])


async def test_of_many_killed_processes_only_the_last_few_have_notes_of_their_own(bus: EventBus) -> None:
    for n in range(30):
        await write_report(
            bus.store, ProcessReport(f"killed-{n}", time.time() - 1000 + n, {}, Counts({"order": TypeCounts(old=1)}))
        )
    await compact(bus.store)

    left = [member.id for member in await process_reports(bus.store)]
    assert {f"killed-{n}" for n in range(20, 30)} == set(left)
    assert [30] == [type.old for type in (await parity(bus.store)).types]


async def test_an_event_that_the_old_bus_drops_does_not_delay_later_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forebay.migration.dual_handler.OLD_BUS_SECONDS", 1.0)

    class Dropping(PlainBus):
        async def publish(self, event_type: str, source: str, data: dict[str, Any]) -> None:
            pass

    billing = Agent("billing")
    async with both(EventBus("memory://"), billing, old=Dropping()) as dual:
        # Fifteen times as many as are waited for at once: one after the other they would take as many seconds.
        for n in range(960):
            await dual.publish("order", "shop", {"n": n})
        await eventually(lambda: dual.counts.agent("order", "billing").lost == 960, within=8)


async def test_an_event_that_the_old_bus_handles_late_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forebay.migration.dual_handler.OLD_BUS_SECONDS", 0.1)
    may_go = asyncio.Event()

    class Late(PlainBus):
        async def _call(self, *arguments: Any) -> object:
            await may_go.wait()
            return await super()._call(*arguments)

    billing = Agent("billing")
    async with both(EventBus("memory://"), billing, old=Late()) as dual:
        await dual.publish("order", "shop", {"n": 1})
        counts = dual.counts.agent("order", "billing")
        await eventually(lambda: counts.lost == 1)
        may_go.set()
        await eventually(lambda: billing.seen == [1])
        assert (1, 0) == (counts.old_handled, counts.lost)


async def test_an_event_that_is_read_late_on_the_new_bus_is_not_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forebay.migration.observer.MISSING_SECONDS", 0.1)
    store = FaultyStore(MemoryStore())
    async with both(EventBus(store), Agent("billing")) as dual:
        await dual.publish("order", "shop", {"n": 1})
        await eventually(lambda: not dual._publisher._observer._expected["order"])
        store.delay("scan", 1.0)
        await dual.publish("order", "shop", {"n": 2})
        await eventually(lambda: _missing(dual, 1))
        await eventually(lambda: _missing(dual, 0))


async def test_an_event_that_the_new_bus_refuses_after_a_while_is_missing_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forebay.migration.observer.MISSING_SECONDS", 0.1)

    class Slow(MemoryStore):
        async def append(self, stream: str, records: Any, **options: Any) -> list[str]:
            await asyncio.sleep(0.5)
            raise StoreUnavailable("down")

    async with both(EventBus(Slow()), Agent("billing")) as dual:
        await dual.publish("order", "shop", {"n": 1})
        assert await _missing(dual, 1)


async def test_a_repeated_publish_keeps_the_first_contents() -> None:
    store = FaultyStore(MemoryStore())
    new = EventBus(store)

    async def spoil(event_type: str, source: str, data: dict[str, Any]) -> None:
        data["items"].append("spoilt")

    dual = DualBus(PlainBus(), new)
    dual.subscribe("order", spoil, agent="billing")
    async with dual:
        await eventually(lambda: _known(new, Agent("billing")))
        # Nothing is stored, and the publisher does not know.
        store.fail_before("append", OutcomeUnknown("the answer is lost"), times=2)
        id = await dual.publish("order", "shop", {"items": ["apple"]})
        await eventually(lambda: _published(dual, 1))
        event = await new.get("order", id)

    assert {"items": ["apple"]} == event.data


async def test_a_type_whose_name_the_new_bus_refuses_stays_on_the_old_one(bus: EventBus) -> None:
    seen: list[str] = []

    async def note(event_type: str, source: str, data: dict[str, Any]) -> None:
        seen.append(event_type)

    old = PlainBus()
    old.subscribe("order:placed", note)
    async with both(bus_of(bus), old=old) as dual:
        await dual.publish("order:placed", "shop", {"n": 1})
        await eventually(lambda: seen == ["order:placed"])
        [type] = (await report(dual)).types

    assert (1, 0, 1) == (type.old, type.new, type.missing)


async def test_a_timeout_is_for_the_handler_and_not_for_the_old_bus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forebay.migration.dual_handler.HANDOVER_SECONDS", 0.1)
    may_end = asyncio.Event()

    async def slow(event_type: str, source: str, data: dict[str, Any]) -> None:
        await may_end.wait()

    new = EventBus("memory://")
    dual = DualBus(PlainBus(), new, timeout=0.05, retry=Retry(attempts=1))
    dual.subscribe("order", slow, agent="billing")
    async with dual:
        await eventually(lambda: _known(new, Agent("billing")))
        await dual.publish("order", "shop", {"n": 1})
        await put(dual, Agent("billing"), "new")
        await dual.publish("order", "shop", {"n": 2})
        await eventually(lambda: new.dead_letters("order"))
        [letter] = await new.dead_letters("order")
        may_end.set()

    assert isinstance(letter.record, Record)
    assert b'{"n":2}' == letter.record.data
    assert "ran longer than 0.05 s" in letter.error


async def test_a_batch_is_refused() -> None:
    dual = DualBus(PlainBus(), EventBus("memory://"), batch=10)  # type: ignore[call-arg]  # the mistake that is tested
    with pytest.raises(ConfigurationError, match="one by one"):
        dual.subscribe("order", Agent("billing").handle)


async def test_an_old_bus_that_delivers_twice_is_compared_with_the_shadow_once() -> None:
    outcomes = iter([1, 1])

    async def real(event_type: str, source: str, data: dict[str, Any]) -> int:
        return next(outcomes)

    async def shadow(event_type: str, source: str, data: dict[str, Any]) -> int:
        await eventually(lambda: dual.counts.agent("order", "billing").old_handled == 2)
        return 2

    class Twice(PlainBus):
        async def publish(self, event_type: str, source: str, data: dict[str, Any]) -> None:
            await super().publish(event_type, source, data)
            await super().publish(event_type, source, data)

    dual = DualBus(Twice(), EventBus("memory://"))
    dual.subscribe("order", real, agent="billing", shadow=shadow)
    async with dual:
        await eventually(lambda: _known(dual.new, Agent("billing")))
        await put(dual, Agent("billing"), "shadow")
        await dual.publish("order", "shop", {"n": 1})
        await eventually(lambda: _compared(dual, 1))
        [agent] = (await report(dual)).agents

    assert (0, 1) == (agent.same, agent.different)


@pytest.mark.parametrize("data", [{"pair": (1, 2)}, {"at": datetime(2026, 1, 1, tzinfo=UTC)}, {"lines": {1: "apple"}}])
async def test_data_that_is_other_data_after_json_counts_as_differing(data: dict[str, Any]) -> None:
    async with both(EventBus("memory://")) as dual:
        await dual.publish("order", "shop", data)
        await dual.publish("order", "shop", {"n": 1, "lines": [{"price": 0.5, "gift": None}]})
        await eventually(lambda: not dual._publisher._observer._expected["order"])
        [type] = (await report(dual)).types

    assert (2, 2, 1) == (type.old, type.new, type.differing)


def test_the_counts_of_hundreds_of_agents_fit_into_a_note() -> None:
    counts = Counts()
    for type in range(10):
        for agent in range(50):
            counts.agent(f"type_{type}", f"agent_{agent}").old_handled = 1_000_000
            for milliseconds in range(50):
                counts.agent(f"type_{type}", f"agent_{agent}").old_latency.add(milliseconds / 1000)

    text = msgspec.json.encode(counts)
    assert len(text) < 100 * 1024
    assert counts == msgspec.json.decode(text, type=Counts)


async def test_a_handlers_error_that_the_old_bus_hands_on_is_not_the_old_buss_refusal() -> None:
    class Direct(PlainBus):
        async def publish(self, event_type: str, source: str, data: dict[str, Any]) -> None:
            for handler in self.handlers[event_type]:
                await handler(event_type, source, data)

    async def fail(event_type: str, source: str, data: dict[str, Any]) -> None:
        raise ValueError("no price")

    dual = DualBus(Direct(), EventBus("memory://"))
    dual.subscribe("order", fail, agent="billing")
    async with dual:
        with pytest.raises(ValueError, match="no price"):
            await dual.publish("order", "shop", {"n": 1})
        await eventually(lambda: quiet(dual.new))
        found = await report(dual)

    assert [(1, 1, 0)] == [(type.old, type.new, type.extra) for type in found.types]
    assert [1] == [agent.old_failed for agent in found.agents]


async def test_a_cancelled_publish_leaves_no_task() -> None:
    class Hanging(MemoryStore):
        async def append(self, stream: str, records: Any, **options: Any) -> list[str]:
            await asyncio.Event().wait()
            raise AssertionError("it hangs")

    async with both(EventBus(Hanging()), Agent("billing")) as dual:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(dual.publish("order", "shop", {"n": 1}), 0.1)
        [subscription] = dual._subscriptions.values()
        assert not subscription.outstanding
        assert not dual._publisher._observer._expected["order"]


async def test_the_old_buss_publish_may_be_plain_and_its_subscribe_must_be() -> None:
    class Plain(PlainBus):
        def publish(self, event_type: str, source: str, data: dict[str, Any]) -> Any:
            self.tasks.add(asyncio.ensure_future(super().publish(event_type, source, data)))

    billing = Agent("billing")
    async with both(EventBus("memory://"), billing, old=Plain()) as dual:
        await dual.publish("order", "shop", {"n": 1})
        await eventually(lambda: billing.seen == [1])
        assert [1] == [type.old for type in (await report(dual)).types]

    class Async(PlainBus):
        async def subscribe(self, event_type: str, handler: Any) -> None:  # type: ignore[override]  # the mistake that is tested
            super().subscribe(event_type, handler)

    with pytest.raises(ConfigurationError, match="subscribe is async"):
        DualBus(Async(), EventBus("memory://")).subscribe("order", billing.handle)
