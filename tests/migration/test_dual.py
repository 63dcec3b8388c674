"""Both buses side by side: whose an event is, what either one's failures do, and what the report tells."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Self

import pytest

from forebay import ConfigurationError, Event, EventBus, InvalidEvent, NotFound, OutcomeUnknown, StoreUnavailable
from forebay.migration import DualBus, Route, parity, routes, switch
from forebay.migration.counts import Counts
from forebay.migration.parity import Member, Parity, fold, members, tell
from forebay.migration.routes import STREAM, name_of
from forebay.stores.memory import MemoryStore
from forebay.testing import FaultyStore, eventually
from tests.migration.old_bus import PlainBus


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is looked at now and then is looked at more often."""
    monkeypatch.setattr("forebay.migration.dual.LOOK", 0.03)
    monkeypatch.setattr("forebay.migration.observer.PATIENCE", 1.0)


class Agent:
    """An agent of the old world, that notes what it is told, and in which order."""

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
    return any(member.alive and member.seen.get(agent.name) == to for member in await members(dual.new.store))


async def report(dual: DualBus) -> Parity:
    """The report, as it is now."""
    await tell(dual.new.store, dual._member())
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
    # What a shadow saw was handled on both, and is the only thing that was.
    shadowed = one.same + one.unlike
    assert published == len(set(billing.seen)) == len(billing.seen) - shadowed
    assert list(range(published)) == sorted(mail.seen)
    assert (published, 0) == (one.old_handled + one.new_handled, one.unlike)
    assert one.new_handled > 0
    assert (published, 0, "old") == (other.old_handled, other.new_handled, other.route)
    assert found.agrees
    [type] = found.types
    assert (published, published) == (type.old, type.new)


async def test_what_is_cut_over_goes_on_behind_what_the_old_bus_still_does() -> None:
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
    assert (1, 3, 3, 1, 0) == (agent.same, agent.unlike, agent.old_handled, agent.old_failed, agent.new_handled)
    assert not found.agrees


async def _compared(dual: DualBus, count: int) -> bool:
    return [agent.same + agent.unlike for agent in (await report(dual)).agents] == [count]


def bus_of(bus: EventBus) -> EventBus:
    """Another bus on the same store, not opened yet."""
    return EventBus(bus.store.twin())


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


async def test_what_is_deleted_on_the_new_bus_is_missed() -> None:
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


async def test_what_came_past_the_dual_bus_is_handled_on_the_old_one_and_counted(bus: EventBus) -> None:
    old = PlainBus()
    billing = Agent("billing")
    async with both(bus_of(bus), billing, old=old) as dual:
        await put(dual, billing, "new")
        await old.publish("order", "shop", {"n": 1})
        await eventually(lambda: billing.seen == [1])
        [type] = (await report(dual)).types

    assert (0, 0, 1) == (type.old, type.new, type.past)


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


async def test_what_a_process_took_with_it_counts_as_lost(bus: EventBus) -> None:
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


async def test_counts_of_processes_that_ended_are_kept_in_one_place(bus: EventBus) -> None:
    async def run_once(n: int) -> Counts:
        billing = Agent("billing")
        async with both(bus_of(bus), billing) as dual:
            await dual.publish("order", "shop", {"n": n})
            await eventually(lambda: billing.seen)
        return dual.counts

    for n in range(2):
        await run_once(n)
    await tell(bus.store, Member("killed", 0.0, {}, await run_once(2)))
    await fold(bus.store)
    await fold(bus.store)

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
        DualBus(PlainBus(), bus, primary="both")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="the same bus"):
        DualBus(bus, bus)
    with pytest.raises(NotFound, match="no agent 'nobody' in this migration"):
        await switch(bus.store, "nobody", "new")
    with pytest.raises(ConfigurationError, match="no route"):
        await switch(bus.store, "billing", "both")  # type: ignore[arg-type]
    async with dual:
        with pytest.raises(InvalidEvent, match="publishes dicts"):
            await dual.publish("order", "shop", [1])  # type: ignore[arg-type]
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
