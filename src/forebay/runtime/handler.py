"""Calls a user's function: async or plain, with one event or a batch, within a time limit."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

from forebay.callables import completed, discard, is_async, module_of, name_of, refuse_generator, unwrapped
from forebay.errors import ConfigurationError, HandlerTimeout
from forebay.event import Event
from forebay.middleware import HandlerCall, Layers, Middleware, is_overridden
from forebay.runtime.annotations import taken_by
from forebay.threads import Outcome, Threads


class Handler:
    """Calls a function with an event, a payload object, or a list of them.

    `kind` is the class that the payload is decoded as, or `Any` for plain events; then the function's
    annotation may name a class. With a class the function gets the object, and the event as well if it
    takes a second argument. A plain function runs in one of `concurrency` threads. If it exceeds its `timeout`, the
    call has failed, but the thread cannot be stopped: it occupies its place until it ends. It does not keep the process
    from ending. An awaitable that a call returns is awaited on the event loop, as a part of the call. Each call runs in
    the contexts of the `middlewares`.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        kind: Any,
        batch: bool,
        timeout: float | None,
        threads: int,
        group: str,
        middlewares: Iterable[Middleware] = (),
    ) -> None:
        taken = taken_by(function, kind=kind, batch=batch)
        refuse_generator("handler", function)
        self.kind = kind = taken.kind
        self._with_event = taken.with_event
        self._function = function
        self.name = name_of(function)
        self._batch = batch
        self._timeout = timeout
        self._group = group
        self._layers = Layers(each.handling for each in middlewares if is_overridden(each, "handling"))
        self._threads = None if is_async(function) else Threads(threads)
        # The simplest case needs no coroutine of its own: this is the hot path. The caller awaits its result.
        is_plain = self._threads is None and timeout is None and kind is Any and not self._layers
        self.call: Callable[[Any], Awaitable[Any]] = function if is_plain else self._call

    async def _call(self, events: Event | list[Event]) -> None:
        if not self._layers:
            await self._call_function(events)
            return
        call = HandlerCall(self.name, self._group, tuple(events) if isinstance(events, list) else (events,))
        await self._layers.run(call, functools.partial(self._call_function, events), may_suppress=Exception)

    async def _call_function(self, events: Event | list[Event]) -> None:
        arguments = self._arguments(events)
        if self._threads is not None:
            await self._call_in_thread(arguments, self._threads)
        else:
            async with self._in_time():
                await completed(self._function(*arguments))

    async def _call_in_thread(self, arguments: tuple[Any, ...], threads: Threads) -> None:
        running = threads.run(functools.partial(contextvars.copy_context().run, self._function, *arguments))
        try:
            async with self._in_time(running):
                await asyncio.wait([running])
                await completed(running.result().value())
        finally:
            if not running.done():
                running.add_done_callback(_discard)

    @contextlib.asynccontextmanager
    async def _in_time(self, running: asyncio.Future[Outcome] | None = None) -> AsyncIterator[None]:
        """Raise `HandlerTimeout` after `timeout` seconds, with the future that still runs then."""
        if self._timeout is None:
            yield
            return
        limit = asyncio.timeout(self._timeout)
        try:
            async with limit:
                yield
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise HandlerTimeout(
                f"the handler ran longer than {self._timeout:g} s",
                still_running=None if running is None or running.done() else running,
            ) from self._place(running, error)

    def _place(self, running: asyncio.Future[Outcome] | None, error: TimeoutError) -> TimeoutError:
        """The error with the frames of the handler at the end of its time."""
        stack = self._threads.stack(running) if self._threads is not None and running is not None else None
        return error if stack is None else TimeoutError().with_traceback(stack)

    def _arguments(self, events: Event | list[Event]) -> tuple[Any, ...]:
        if self.kind is Any:
            return (events,)
        objects = [event.data for event in events] if isinstance(events, list) else events.data
        return (objects, events) if self._with_event else (objects,)

    def close(self) -> None:
        """End idle threads; running ones end after their call."""
        if self._threads is not None:
            self._threads.close()


def handler_name(function: Callable[..., Any]) -> str:
    """Return the module and qualified name of a function, as the name of a group; the same in every process.

    Other characters than letters, digits, `_` and `-` become dots. In an interactive session or a notebook, which are
    not modules, it is the qualified name alone. A lambda has no name and raises `ConfigurationError`.
    """
    function = unwrapped(function)
    name = name_of(function)
    if name.endswith("<lambda>"):
        raise ConfigurationError("a lambda has no name for its group; give one, with group=... or agent=...")
    # The name of a callable object is that of its class.
    module = module_of(function if hasattr(function, "__qualname__") else type(function))
    plain = (f"{module}.{name}" if module else name).replace(".<locals>", "")
    text = "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "." for c in plain).strip("._-")
    return text[-128:].lstrip("._-") or "handler"


def _discard(running: asyncio.Future[Outcome]) -> None:
    if not running.cancelled():
        discard(running.result().returned)
