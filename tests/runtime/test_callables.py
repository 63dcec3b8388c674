"""The result of a user's callable is looked at, however the callable is declared."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from types import coroutine
from typing import Any

import pytest

from forebay import ConfigurationError, Event, EventBus, Retry, connect
from forebay.agents import BaseAgent, handles
from forebay.migration import DualBus
from forebay.signals import DeadLettered, Finished
from forebay.testing import eventually
from forebay.transfer import copy

ONCE = Retry(attempts=1)
Seen = list[Any]


@pytest.fixture
async def memory() -> AsyncIterator[EventBus]:
    async with connect("memory://") as bus:
        yield bus


class Later:
    """An awaitable that is not a coroutine."""

    def __init__(self, made: Awaitable[object]) -> None:
        self._made = made

    def __await__(self) -> Generator[Any, Any, object]:
        return self._made.__await__()


class CallableObject:
    def __init__(self, call: Callable[..., object]) -> None:
        self._call = call

    def __call__(self, event: Any) -> object:
        return self._call(event)


def plain_decorator(function: Callable[..., object]) -> Callable[..., object]:
    @functools.wraps(function)
    def wrapper(*arguments: object) -> object:
        return function(*arguments)

    return wrapper


def forgetful_decorator(function: Callable[..., object]) -> Callable[..., object]:
    async def wrapper(*arguments: object) -> object:
        return function(*arguments)  # without `await`

    return wrapper


WRAPPINGS: dict[str, Callable[[Callable[[Event], Awaitable[object]]], Callable[..., object]]] = {
    "lambda": lambda real: lambda event: real(event),  # noqa: PLW0108  # a lambda is the point
    "partial of a plain function": lambda real: functools.partial(lambda _, event: real(event), 1),
    "plain decorator": plain_decorator,
    "async decorator without await": forgetful_decorator,
    "two decorators": lambda real: forgetful_decorator(plain_decorator(forgetful_decorator(real))),
    "object": CallableObject,
    "awaitable object": lambda real: lambda event: Later(real(event)),
    "task": lambda real: forgetful_decorator(lambda event: asyncio.ensure_future(real(event))),
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("options", [{}, {"timeout": 5}, {"batch": 3}], ids=str)
async def test_an_awaitable_that_a_handler_returns_is_awaited_on_the_loop(
    memory: EventBus, wrapping: str, options: dict[str, Any]
) -> None:
    loops: Seen = []

    async def real(event: object) -> str:
        await asyncio.sleep(0)
        loops.append(asyncio.get_running_loop())
        return "done"

    memory.on("t", group="g", **options)(WRAPPINGS[wrapping](real))
    await memory.publish("t", "s", 1)
    await memory.run(until_idle=True)

    assert [asyncio.get_running_loop()] == loops
    assert [] == await memory.dead_letters("t")


async def test_a_thread_pools_future_that_a_handler_returns_is_waited_for(memory: EventBus) -> None:
    seen: Seen = []
    with concurrent.futures.ThreadPoolExecutor(1) as pool:

        @memory.on("t", group="g", retry=ONCE)
        def handle(event: Event) -> object:
            return pool.submit(fail)

        def fail() -> None:
            seen.append(threading.current_thread())
            raise ValueError("too late to be heard")

        await memory.publish("t", "s", 1)
        await memory.run(until_idle=True)

    assert 1 == len(seen)
    assert ["ValueError: too late to be heard"] == [letter.error for letter in await memory.dead_letters("t")]


async def test_an_error_in_an_awaitable_that_a_handler_returned_is_the_events_fate(bus: EventBus) -> None:
    async def real(event: Event) -> None:
        raise ValueError("no such order")

    bus.on("t", group="g", retry=ONCE)(plain_decorator(real))
    await bus.publish("t", "s", 1)
    await bus.run(until_idle=True)

    assert ["ValueError: no such order"] == [letter.error for letter in await bus.dead_letters("t")]


@pytest.mark.parametrize("wrapping", ["lambda", "async decorator without await", "awaitable object"])
async def test_the_time_limit_covers_an_awaitable_that_a_handler_returned(memory: EventBus, wrapping: str) -> None:
    async def real(event: Event) -> None:
        await asyncio.sleep(60)

    memory.on("t", group="g", retry=ONCE, timeout=0.05)(WRAPPINGS[wrapping](real))
    await memory.publish("t", "s", 1)
    await asyncio.wait_for(memory.run(until_idle=True), 10)

    (letter,) = await memory.dead_letters("t")
    assert "HandlerTimeout: the handler ran longer than 0.05 s" == letter.error


async def test_a_coroutine_that_a_thread_returns_after_its_time_is_closed_unawaited(memory: EventBus) -> None:
    released, returned = threading.Event(), Seen()

    async def real(event: Event) -> None: ...

    @memory.on("t", group="g", retry=ONCE, timeout=0.05)
    def handle(event: Event) -> object:
        released.wait(10)
        made = real(event)
        returned.append(made)
        return made

    await memory.publish("t", "s", 1)
    running = asyncio.create_task(memory.run(until_idle=True))
    await eventually(lambda: memory.dead_letters("t"))
    released.set()
    await running

    await eventually(lambda: returned and returned[0].cr_frame is None)


async def test_finished_is_reported_when_the_returned_awaitable_is_done(memory: EventBus) -> None:
    steps: Seen = []
    memory.signals.listen(lambda signal: steps.append(type(signal).__name__), Finished)

    async def real(event: Event) -> None:
        await asyncio.sleep(0.01)
        steps.append("handled")

    memory.on("t", group="g")(forgetful_decorator(real))
    await memory.publish("t", "s", 1)
    await memory.run(until_idle=True)

    assert ["handled", "Finished"] == steps


def generator(event: object = None) -> Iterator[object]:
    yield event


async def async_generator(event: object = None) -> AsyncIterator[object]:
    yield event


class GeneratorObject:
    def __call__(self, event: object = None) -> Iterator[object]:
        yield event

    async def method(self, event: object = None) -> AsyncIterator[object]:
        yield event


GENERATORS: dict[str, Callable[..., Any]] = {
    "generator": generator,
    "async generator": async_generator,
    "partial": functools.partial(generator),
    "partial of a partial": functools.partial(functools.partial(async_generator)),
    "object": GeneratorObject(),
    "method": GeneratorObject().method,
}


@pytest.mark.parametrize("kind", GENERATORS)
async def test_a_generator_function_is_refused_wherever_a_callable_is_registered(memory: EventBus, kind: str) -> None:
    function = GENERATORS[kind]
    async with connect("memory://") as other:
        dual = DualBus(other, memory)
        registrations: list[Callable[[], object]] = [
            lambda: memory.on("t", group="g")(function),
            lambda: memory.subscribe_to_stream("t", "g").consume_events(function),
            lambda: handles("t")(function),
            lambda: memory.signals.listen(function, DeadLettered),
            lambda: dual.subscribe("t", function, agent="a"),
            lambda: dual.subscribe("t", print, shadow=function, agent="a"),
        ]
        for register in registrations:
            with pytest.raises(ConfigurationError, match="generator"):
                register()
        with pytest.raises(ConfigurationError, match="generator"):
            await memory.replay("t", group="g", progress=function)
        with pytest.raises(ConfigurationError, match="generator"):
            await copy(other.store, memory.store, origin="o", progress=function)


async def test_a_hook_of_an_agent_that_is_a_generator_is_refused_before_it_runs(memory: EventBus) -> None:
    class Odd(BaseAgent):
        name = "odd"

        async def work(self) -> AsyncIterator[None]:  # type: ignore[override]  # the mistake that is tested
            yield

    with pytest.raises(ConfigurationError, match=r"work.* is a generator function"):
        await memory.run(Odd())


@pytest.mark.parametrize(
    "function",
    [plain_decorator(generator), plain_decorator(async_generator), forgetful_decorator(generator)],
    ids=["generator", "async generator", "async function"],
)
@pytest.mark.parametrize("options", [{}, {"timeout": 5}], ids=str)
async def test_an_event_for_which_only_a_generator_was_made_is_not_acknowledged(
    memory: EventBus, function: Callable[..., Any], options: dict[str, Any]
) -> None:
    memory.on("t", group="g", retry=ONCE, **options)(function)
    await memory.publish("t", "s", 1)
    await memory.run(until_idle=True)

    (letter,) = await memory.dead_letters("t")
    assert "is a generator, so nothing of it has run" in letter.error


async def test_a_generator_that_is_a_coroutine_of_old_is_a_handler(memory: EventBus) -> None:
    seen: Seen = []

    @coroutine
    def handle(event: Event) -> Generator[Any, Any, None]:
        yield from asyncio.sleep(0).__await__()
        seen.append(event.data)

    memory.on("t", group="g")(handle)
    await memory.publish("t", "s", 1)
    await memory.run(until_idle=True)

    assert [1] == seen


async def test_methods_of_agents_that_hide_a_coroutine_run_to_their_end(memory: EventBus) -> None:
    seen: Seen = []

    async def note(what: str) -> None:
        await asyncio.sleep(0)
        seen.append(what)

    class Odd(BaseAgent):
        name = "odd"
        event_types = ("processed",)

        async def initialize(self) -> Any:
            return note("initialize")

        async def started(self) -> Any:
            return note("started")

        async def work(self) -> Any:
            return note("work")

        async def stopped(self) -> Any:
            return note("stopped")

        async def process_event(self, event_type: str, data: Any) -> Any:
            return note("process_event")

        @handles("marked")
        @plain_decorator
        async def mark(self, event: Event) -> Any:
            return note("marked")

    await memory.publish("processed", "s", 1)
    await memory.publish("marked", "s", 1)
    await memory.run(Odd(), until_idle=True)

    assert "initialize" == seen[0]
    assert "stopped" == seen[-1]
    assert {"initialize", "started", "work", "process_event", "marked", "stopped"} == set(seen)


async def test_an_async_listener_is_awaited_and_finished_before_the_bus_is_closed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen: Seen = []

    async def listen(signal: DeadLettered) -> None:
        await asyncio.sleep(0.05)
        seen.append(signal.reason)
        raise LookupError("the pager is away")

    async with connect("memory://") as bus:
        bus.signals.listen(listen, DeadLettered)

        @bus.on("t", group="g", retry=ONCE)
        async def handle(event: Event) -> None:
            raise ValueError("broken")

        await bus.publish("t", "s", 1)
        await bus.run(until_idle=True)

    assert ["ValueError: broken"] == seen
    assert "the pager is away" in caplog.text


async def test_async_progress_is_awaited(memory: EventBus) -> None:
    seen: Seen = []

    async def report(*counts: int) -> None:
        await asyncio.sleep(0)
        seen.append(counts)

    @memory.on("t", group="g")
    async def handle(event: Event) -> None: ...

    await memory.publish("t", "s", 1)
    await memory.run(until_idle=True)
    async with connect("memory://") as other:
        await copy(memory.store, other.store, origin="o", progress=report)
    await memory.replay("t", group="g", progress=report)

    assert [(1, 1), (1,)] == seen


@contextlib.contextmanager
def entered(event: Event) -> Iterator[None]:
    yield


@contextlib.asynccontextmanager
async def entered_async(event: Event) -> AsyncIterator[None]:
    yield


async def mapped(event: Event) -> object:
    return map(print, [event])


def filtered(event: Event) -> object:
    return filter(print, [event])


@pytest.mark.parametrize("function", [entered, entered_async, mapped, filtered])
async def test_an_awaitable_that_was_never_started_is_not_a_success(memory: EventBus, function: Any) -> None:
    memory.on("t", group="g", retry=ONCE)(function)
    await memory.publish("t", "s", 1)

    await memory.run(until_idle=True)

    [letter] = await memory.dead_letters("t")
    assert "nothing has run" in letter.error
