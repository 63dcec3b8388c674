"""Middleware: contexts around each call of a handler and each publish, with a stated meaning of their errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from typing import Any

import pytest

from forebay import (
    ConfigurationError,
    Event,
    EventBus,
    HandlerCall,
    InvalidEvent,
    Middleware,
    PublishCall,
    Retry,
    connect,
)
from forebay.agents import BaseAgent, handles
from forebay.cause import CAUSATION
from forebay.errors import HandlerTimeout, PublishUnknown, StoreUnavailable
from forebay.stores.memory import MemoryStore
from forebay.testing import FaultyStore

ONCE = Retry(attempts=1)
place: ContextVar[str] = ContextVar("place", default="outside")


@pytest.fixture
def bus() -> EventBus:
    return connect("memory://")


class Steps(Middleware):
    """Notes when it is entered, and how it is left."""

    def __init__(self, name: str, steps: list[str]) -> None:
        self.name = name
        self.steps = steps

    @contextmanager
    def _note(self) -> Iterator[None]:
        self.steps.append(f"{self.name} in")
        try:
            yield
        except BaseException as error:
            self.steps.append(f"{self.name} out by {type(error).__name__}")
            raise
        self.steps.append(f"{self.name} out")

    def handling(self, call: HandlerCall) -> Any:
        return self._note()

    def publishing(self, call: PublishCall) -> Any:
        return self._note()


class Handling(Middleware):
    """A context around handlers only."""

    def __init__(self, context: Callable[[HandlerCall], Any]) -> None:
        self.context = context

    def handling(self, call: HandlerCall) -> Any:
        return self.context(call)


class Publishing(Middleware):
    """A context around publishes only."""

    def __init__(self, context: Callable[[PublishCall], Any]) -> None:
        self.context = context

    def publishing(self, call: PublishCall) -> Any:
        return self.context(call)


class Note(nullcontext[None]):
    """A context that is noted when it is made."""

    def __init__(self, notes: list[Any], note: object) -> None:
        super().__init__()
        notes.append(note)


async def test_of_several_the_first_is_the_outermost(bus: EventBus) -> None:
    steps: list[str] = []
    bus.use(Steps("a", steps))
    bus.use(Steps("b", steps))

    @bus.on("t", group="g")
    async def handle(event: Event) -> None:
        steps.append("handled")

    async with bus:
        await bus.publish("t", "s")
        published = steps.copy()
        await bus.run(until_idle=True)

    assert ["a in", "b in", "b out", "a out"] == published
    assert ["a in", "b in", "handled", "b out", "a out"] == steps[4:]


async def test_a_handler_call_names_the_handler_its_group_and_the_events(bus: EventBus) -> None:
    calls: list[HandlerCall] = []

    @contextmanager
    def context(call: HandlerCall) -> Iterator[None]:
        calls.append(call)
        yield

    bus.use(Handling(context))

    @bus.on("one", group="single")
    async def handle(event: Event) -> None: ...

    @bus.on("many", group="several", batch=10)
    async def handle_batch(events: list[Event]) -> None: ...

    async with bus:
        await bus.publish("one", "s", 1)
        await bus.publish_many("many", "s", [2, 3])
        await bus.run(until_idle=True)

    found = {call.group: (call.handler.rpartition(".")[2], [event.data for event in call.events]) for call in calls}
    assert {"single": ("handle", [1]), "several": ("handle_batch", [2, 3])} == found


async def test_a_publish_call_shows_the_payloads_and_takes_headers(bus: EventBus) -> None:
    calls: list[PublishCall] = []

    @contextmanager
    def context(call: PublishCall) -> Iterator[None]:
        assert () == call.ids
        call.headers["trace"] = "x"
        yield
        calls.append(call)

    bus.use(Publishing(context))

    async with bus:
        one = await bus.publish("t", "shop", {"n": 1}, headers={"own": "y"})
        many = await bus.publish_many("t", "shop", [2, 3], delay=0.01)
        (first,) = [event async for event in bus.events("t")]

    assert [("t", "shop", ({"n": 1},), (one,)), ("t", "shop", (2, 3), tuple(many))] == [
        (call.event_type, call.source, call.data, call.ids) for call in calls
    ]
    assert isinstance(first, Event)
    assert {"own": "y", "trace": "x"} == first.headers


async def test_the_cause_is_known_before_any_middleware_is_entered(bus: EventBus) -> None:
    seen: list[str] = []

    @asynccontextmanager
    async def audit(call: HandlerCall) -> AsyncIterator[None]:
        if call.group == "g":
            await bus.publish("audit", "s")
        yield

    bus.use(Handling(audit))
    bus.use(Publishing(lambda call: Note(seen, call.headers.get(CAUSATION, ""))))

    @bus.on("t", group="g")
    async def handle(event: Event) -> None: ...

    async with bus:
        id = await bus.publish("t", "s")
        await bus.run(until_idle=True)

    assert ["", id] == seen


@pytest.mark.parametrize("is_async", [True, False])
async def test_context_variables_reach_async_handlers_and_threads(bus: EventBus, is_async: bool) -> None:
    seen: list[str] = []

    @contextmanager
    def plain(call: HandlerCall) -> Iterator[None]:
        before = place.set("inside")
        yield
        place.reset(before)

    @asynccontextmanager
    async def waiting(call: HandlerCall) -> AsyncIterator[None]:
        await asyncio.sleep(0)
        with plain(call):
            yield

    bus.use(Handling(waiting if is_async else plain))

    @bus.on("t", group="async")
    async def handle(event: Event) -> None:
        seen.append(place.get())

    @bus.on("t", group="thread")
    def handle_in_thread(event: Event) -> None:
        seen.append(place.get())

    async with bus:
        await bus.publish("t", "s")
        await bus.run(until_idle=True)

    assert ["inside", "inside"] == seen


# Errors of handlers.


async def test_an_error_on_entry_is_an_error_of_the_attempt(bus: EventBus) -> None:
    handled: list[object] = []

    @contextmanager
    def refuse(call: HandlerCall) -> Iterator[None]:
        if call.events[0].attempt == 1:
            raise LookupError("no connection")
        yield

    bus.use(Handling(refuse))

    @bus.on("t", group="g", retry=Retry(attempts=2, base=0))
    async def handle(event: Event) -> None:
        handled.append(event.attempt)

    async with bus:
        await bus.publish("t", "s")
        await bus.run(until_idle=True)

    assert [2] == handled


async def test_an_error_on_exit_is_an_error_of_the_attempt(bus: EventBus) -> None:
    @contextmanager
    def fail(call: HandlerCall) -> Iterator[None]:
        yield
        raise LookupError("cannot commit")

    bus.use(Handling(fail))

    @bus.on("t", group="g", retry=ONCE)
    async def handle(event: Event) -> None: ...

    async with bus:
        await bus.publish("t", "s")
        await bus.run(until_idle=True)
        (letter,) = await bus.dead_letters("t")

    assert "LookupError: cannot commit" == letter.error


async def test_the_error_of_a_handler_and_its_timeout_pass_through_all_layers(bus: EventBus) -> None:
    steps: list[str] = []
    bus.use(Steps("a", steps))

    @bus.on("t", group="g", retry=ONCE)
    async def fail(event: Event) -> None:
        raise ValueError

    @bus.on("t", group="slow", retry=ONCE, timeout=0.01)
    async def hang(event: Event) -> None:
        await asyncio.Event().wait()

    async with bus:
        await bus.publish("t", "s")
        await bus.run(until_idle=True)

    assert {"a out by ValueError", f"a out by {HandlerTimeout.__name__}"} <= set(steps)


async def test_an_event_whose_error_is_suppressed_counts_as_handled(bus: EventBus) -> None:
    bus.use(Handling(lambda call: suppress(ValueError)))
    attempts: list[int] = []

    @bus.on("t", group="g", retry=ONCE)
    async def handle(event: Event) -> None:
        attempts.append(event.attempt)
        raise ValueError

    async with bus:
        await bus.publish("t", "s")
        await bus.run(until_idle=True)

        assert [] == await bus.dead_letters("t")
        assert [] == await bus.pending("t", "g")
    assert [1] == attempts


async def test_a_cancellation_cannot_be_suppressed_so_the_event_is_handled_again(bus: EventBus) -> None:
    bus.use(Handling(lambda call: suppress(asyncio.CancelledError)))
    started, attempts = asyncio.Event(), list[int]()

    @bus.on("t", group="g", lease=0.2)
    async def handle(event: Event) -> None:
        attempts.append(event.attempt)
        started.set()
        if len(attempts) == 1:
            await asyncio.Event().wait()

    async with bus:
        await bus.publish("t", "s")
        run = asyncio.create_task(bus.run(grace=0))
        await started.wait()
        bus.stop()
        await run
        await bus.run(until_idle=True)

    assert 2 == len(attempts)


async def test_a_middleware_that_hangs_is_cancelled_with_its_handler_when_the_grace_is_over(bus: EventBus) -> None:
    entered, left = asyncio.Event(), asyncio.Event()

    @asynccontextmanager
    async def hang(call: HandlerCall) -> AsyncIterator[None]:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            left.set()
        yield

    bus.use(Handling(hang))

    @bus.on("t", group="g")
    async def handle(event: Event) -> None: ...

    async with bus:
        await bus.publish("t", "s")
        run = asyncio.create_task(bus.run(grace=0))
        await entered.wait()
        bus.stop()
        await asyncio.wait_for(run, 10)

    assert left.is_set()


# Errors of publishes.


async def test_an_error_on_entry_publishes_nothing(bus: EventBus) -> None:
    @contextmanager
    def refuse(call: PublishCall) -> Iterator[None]:
        raise LookupError("no")
        yield

    bus.use(Publishing(refuse))

    async with bus:
        with pytest.raises(LookupError) as raised:
            await bus.publish("t", "s")
        assert [] == [event async for event in bus.events("t")]

    assert not hasattr(raised.value, "__notes__")


async def test_an_error_on_exit_says_that_the_event_is_stored(bus: EventBus) -> None:
    @contextmanager
    def fail(call: PublishCall) -> Iterator[None]:
        yield
        raise LookupError("cannot count")

    bus.use(Publishing(fail))

    async with bus:
        with pytest.raises(LookupError) as raised:
            await bus.publish("t", "s")
        (event,) = [event async for event in bus.events("t")]

    assert isinstance(event, Event)
    assert [f"the store had acknowledged the publish: 1 events, ids {event.id}"] == raised.value.__notes__


async def test_a_failed_publish_cannot_be_suppressed() -> None:
    store = FaultyStore(MemoryStore())
    bus = EventBus(store)
    bus.use(Publishing(lambda call: suppress(Exception)))

    async with bus:
        store.fail_before("append")
        with pytest.raises(StoreUnavailable):
            await bus.publish("t", "s")
        store.fail_after("append")
        with pytest.raises(PublishUnknown) as unknown:
            await bus.publish("t", "s", 1)
        with pytest.raises(InvalidEvent):
            await bus.publish("t", "s", object())
        await bus.publish("t", "s", 1, id=unknown.value.ids[0])

        assert 1 == len([event async for event in bus.events("t")])


@pytest.mark.parametrize("headers", [5, "x", {"a": 1}, [("a", "b")]])
async def test_wrong_headers_are_refused_before_a_middleware_sees_them(bus: EventBus, headers: Any) -> None:
    calls: list[object] = []
    bus.use(Publishing(lambda call: Note(calls, call)))

    async with bus:
        with pytest.raises(InvalidEvent, match="header"):
            await bus.publish("t", "s", headers=headers)

    assert [] == calls


# Registration.


@pytest.mark.parametrize("given", [Middleware, print, None, nullcontext()])
def test_a_middleware_is_an_object_of_a_class_derived_from_middleware(bus: EventBus, given: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"derived from forebay\.Middleware"):
        bus.use(given)


async def test_a_middleware_is_refused_while_handlers_run(bus: EventBus) -> None:
    refused: list[ConfigurationError] = []

    @bus.on("t", group="g")
    async def handle(event: Event) -> None:
        try:
            bus.use(Middleware())
        except ConfigurationError as error:
            refused.append(error)

    async with bus:
        await bus.publish("t", "s")
        await bus.run(until_idle=True)

    assert 1 == len(refused)


async def test_the_handlers_of_agents_run_in_the_middleware_of_their_bus(bus: EventBus) -> None:
    groups: list[str] = []

    @contextmanager
    def note(call: HandlerCall) -> Iterator[None]:
        groups.append(call.group)
        yield

    bus.use(Handling(note))

    class Billing(BaseAgent):
        name = "billing"

        @handles("order")
        async def bill(self, event: Event) -> None: ...

    async with bus:
        await bus.publish("order", "s")
        await bus.run(Billing(), until_idle=True)

    assert ["billing"] == groups


# Mistakes.


class NotDecorated(Middleware):
    def handling(self, call: HandlerCall) -> Any:
        yield


class NotDecoratedAsync(Middleware):
    async def publishing(self, call: PublishCall) -> Any:
        yield


class Coroutine(Middleware):
    async def handling(self, call: HandlerCall) -> Any:  # type: ignore[override]  # the mistake
        return nullcontext()


@pytest.mark.parametrize("kind", [NotDecorated, NotDecoratedAsync, Coroutine])
def test_a_middleware_without_its_decorator_is_refused_before_any_event_fails(
    bus: EventBus, kind: type[Middleware]
) -> None:
    with pytest.raises(ConfigurationError, match=rf"{kind.__name__}.* does not return a context manager: decorate it"):
        bus.use(kind())


async def test_a_middleware_cannot_send_events_to_the_stream_of_another_type(bus: EventBus) -> None:
    class Renaming(Middleware):
        @contextmanager
        def publishing(self, call: PublishCall) -> Iterator[None]:
            call.event_type = "other"
            yield

    bus.use(Renaming())
    async with bus:
        await bus.publish("t", "s", 1)

        assert ["t"] == await bus.streams()
