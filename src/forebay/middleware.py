"""Middleware: code around each call of a handler and around each publish of a bus.

    class Tracing(Middleware):
        @contextmanager
        def handling(self, call: HandlerCall) -> Iterator[None]:
            with tracer.start_span(call.handler):
                yield

    bus.use(Tracing())

Causation (`forebay.cause`) is the outermost: it is always on, and the runtime enters it without a context manager.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack, nullcontext
from typing import Any, Generic, Literal, TypeVar

import msgspec

from forebay.event import Event

Context = AbstractContextManager[Any, bool | None] | AbstractAsyncContextManager[Any, bool | None]
"""A context manager, plain or async: `@contextmanager` and `@asynccontextmanager` make one."""

T = TypeVar("T")


class HandlerCall(msgspec.Struct, frozen=True):
    """A call of a handler: its name, its group, and the event, or the events of a batch."""

    handler: str
    group: str
    events: tuple[Event, ...]


class PublishCall(msgspec.Struct):
    """A call of `publish` or `publish_many`.

    `data` has the payload of each event, as the caller gave it. `headers` may be changed: the events are stored with
    them; a change of another field means nothing. `ids` is empty until the events are made, which is after the
    middleware has been entered.
    """

    event_type: str
    source: str
    data: tuple[Any, ...]
    headers: dict[str, str] = {}
    ids: tuple[str, ...] = ()


class Middleware:
    """Code around the handlers and publishes of a bus. Override either method, or both, with a context manager.

    A context is entered before the call, and left after it with the error that the call raised, if any. Register an
    object with `bus.use`. Of several, the first is the outermost.
    """

    def handling(self, call: HandlerCall) -> Context:
        """A context for one attempt of a handler, in the task that runs it.

        An error that it raises is the attempt's error: the event is retried, or becomes a dead letter. If it
        suppresses the handler's error, the event counts as handled. A cancellation cannot be suppressed. The handler's
        `timeout` does not cover the context; a plain handler's thread sees the context variables that it set.
        """
        return nullcontext()

    def publishing(self, call: PublishCall) -> Context:
        """A context for one publish: from before the events are made until the store has acknowledged them.

        An error that it raises on entry leaves the events unpublished. It cannot suppress an error of the publish. If
        it raises an error on exit, the events may be stored: the error has a note if they are.
        """
        return nullcontext()


def is_overridden(middleware: Middleware, method: Literal["handling", "publishing"]) -> bool:
    """Whether the middleware has this method of its own; the one of `Middleware` does nothing."""
    return getattr(type(middleware), method) is not getattr(Middleware, method)


def makes_context(method: Callable[..., object]) -> bool:
    """False if a call of the method surely makes no context: the decorator `contextmanager` was forgotten."""
    return not any(
        is_undecorated(method)
        for is_undecorated in (inspect.isgeneratorfunction, inspect.isasyncgenfunction, inspect.iscoroutinefunction)
    )


class Layers(Generic[T]):
    """The middleware around one call, outermost first. `enter` makes the context of each."""

    def __init__(self, contexts: Iterable[Callable[[T], Context]]) -> None:
        self._contexts = tuple(contexts)

    def __bool__(self) -> bool:
        return bool(self._contexts)

    async def run(
        self, call: T, work: Callable[[], Awaitable[object]], *, may_suppress: type[Exception] | None
    ) -> None:
        """Do the work in the contexts. An error can be suppressed by them only if it is of the class `may_suppress`."""
        failed: BaseException | None = None
        async with AsyncExitStack() as stack:
            try:
                for context in self._contexts:
                    made = context(call)
                    if isinstance(made, AbstractAsyncContextManager):
                        await stack.enter_async_context(made)
                    else:
                        stack.enter_context(made)
                await work()
            except BaseException as error:
                failed = error
                raise
        if failed is not None and (may_suppress is None or not isinstance(failed, may_suppress)):
            raise failed
