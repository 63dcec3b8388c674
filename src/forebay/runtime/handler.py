"""A user's function as the runtime calls it: async or plain, one event or a batch, with a time limit."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Any

from forebay.errors import ConfigurationError, HandlerTimeout
from forebay.event import Event
from forebay.threads import Threads

Around = Callable[[Any], AbstractContextManager[None]]
"""Given an event or a list of them, a context in which their handler is called."""


class Handler:
    """Calls a function with an event, a payload object, or a list of them.

    `kind` is the class that the payload is decoded as, or `Any` for plain events. With a class the
    function gets the object, and the event as well if it takes a second argument. A plain function
    runs in a thread, of which there are as many as the consumer's `concurrency`; when it exceeds its
    `timeout` it counts as failed, but nothing can stop the thread, and its place is taken until it ends.
    It does not keep the process from ending. `around` makes a context for each call.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        kind: Any,
        batch: bool,
        timeout: float | None,
        threads: int,
        around: Around | None = None,
    ) -> None:
        self.kind = kind
        self._function = function
        self._batch = batch
        self._timeout = timeout
        self._around = around
        self._with_event = _takes_event(function, kind, batch)
        self._threads = None if is_async(function) else Threads(threads)
        # The plainest case has no wrapper at all: this is the hot path.
        self.call: Callable[[Any], Awaitable[Any]] = (
            function if self._threads is None and timeout is None and kind is Any and around is None else self._call
        )

    async def _call(self, events: Event | list[Event]) -> None:
        if self._around is None:
            await self._call_function(events)
        else:
            with self._around(events):
                await self._call_function(events)

    async def _call_function(self, events: Event | list[Event]) -> None:
        arguments = self._arguments(events)
        if self._threads is not None:
            await self._call_in_thread(arguments, self._threads)
        elif self._timeout is None:
            await self._function(*arguments)
        else:
            await self._call_in_time(arguments, self._timeout)

    async def _call_in_time(self, arguments: tuple[Any, ...], timeout: float) -> None:
        limit = asyncio.timeout(timeout)
        try:
            async with limit:
                await self._function(*arguments)
        except TimeoutError as error:
            if limit.expired():
                raise HandlerTimeout(f"the handler ran longer than {timeout:g} s") from error
            raise

    async def _call_in_thread(self, arguments: tuple[Any, ...], threads: Threads) -> None:
        call = functools.partial(contextvars.copy_context().run, self._function, *arguments)
        running = threads.run(call)
        done, _ = await asyncio.wait([running], timeout=self._timeout)
        if not done:
            raise HandlerTimeout(f"the handler ran longer than {self._timeout:g} s", still_running=running)
        if (error := running.result()) is not None:
            raise error

    def _arguments(self, events: Event | list[Event]) -> tuple[Any, ...]:
        if self.kind is Any:
            return (events,)
        objects = [event.data for event in events] if isinstance(events, list) else events.data
        return (objects, events) if self._with_event else (objects,)

    def close(self) -> None:
        """Let idle threads go; running ones end by themselves."""
        if self._threads is not None:
            self._threads.close()


def is_async(function: Callable[..., Any]) -> bool:
    """Whether calling `function` gives a coroutine."""
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def handler_name(function: Callable[..., Any]) -> str:
    """The qualified name of a function, as a group name: what is no letter, digit, `_` or `-` becomes a dot."""
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__qualname__", type(function).__qualname__)
    module = getattr(function, "__module__", None) or "handler"
    plain = f"{module}.{name}".replace(".<locals>", "")
    text = "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "." for c in plain).strip("._-")
    return text[-128:].lstrip("._-") or "handler"


def _takes_event(function: Callable[..., Any], kind: Any, batch: bool) -> bool:
    """Whether the function wants the event beside the object; ConfigurationError if it cannot be called."""
    what = (
        ("a list of events" if batch else "the event")
        if kind is Any
        else ("a list of objects" if batch else "the object")
    )
    if not callable(function):
        raise ConfigurationError(f"a handler is a function that takes {what}, not {function!r}")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return False
    for arguments in ((None, None), (None,)) if kind is not Any else ((None,),):
        try:
            signature.bind(*arguments)
        except TypeError:
            continue
        return len(arguments) == 2
    name = getattr(function, "__qualname__", repr(function))
    raise ConfigurationError(f"handler {name}{signature} must be callable with one argument, {what}")
