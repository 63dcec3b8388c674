"""Users' callables: await the result of a call, refuse generators, find names."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import AsyncGeneratorType, GeneratorType
from typing import Any

from forebay.errors import ConfigurationError

_LAZY = (map, filter, contextlib.ContextDecorator, contextlib.AsyncContextDecorator)
"""Results that do nothing until they are iterated or entered. `@contextmanager` makes the latter."""
_MAIN = ("__main__", "__mp_main__")
"""The module that a process was started with, in this process and in those that `multiprocessing` starts."""


async def completed(result: object) -> object:
    """The final value of a call that returned `result`.

    An awaitable is awaited, and so is an awaitable that it returns: a decorator may have hidden that the
    function is async. Raises `ConfigurationError` for a result that has run nothing yet: a generator, a `map`, a
    context manager made of a generator function.
    """
    while result is not None:
        if inspect.isawaitable(result):
            result = await result
        elif isinstance(result, concurrent.futures.Future):
            result = await asyncio.wrap_future(result)
        elif isinstance(result, (GeneratorType, AsyncGeneratorType)):
            raise ConfigurationError(
                f"{result.__qualname__} is a generator, so nothing of it has run; write a function without `yield`"
            )
        elif isinstance(result, _LAZY):
            raise ConfigurationError(
                f"the call returned a {type(result).__name__.lstrip('_')}, of which nothing has run; do the work itself"
            )
        else:
            break
    return result


def discard(result: object) -> None:
    """Drop the result of a call that its caller no longer waits for."""
    if inspect.iscoroutine(result):
        result.close()
    elif isinstance(result, (asyncio.Future, concurrent.futures.Future)):
        result.cancel()


def is_async(function: Callable[..., Any]) -> bool:
    """True if a call of `function` is declared to return a coroutine."""
    return any(map(inspect.iscoroutinefunction, _called(function)))


def refuse_generator(what: str, function: Callable[..., Any]) -> None:
    """Raise `ConfigurationError` if a call of `function` would only make a generator."""
    if any(
        (inspect.isgeneratorfunction(f) and not _is_coroutine(f)) or inspect.isasyncgenfunction(f)
        for f in _called(function)
    ):
        raise ConfigurationError(
            f"{what} {name_of(function)} is a generator function, a call of which runs nothing; "
            "write a function without `yield`"
        )


def name_of(function: Callable[..., Any]) -> str:
    """The qualified name of a callable, for messages."""
    function = unwrapped(function)
    return str(getattr(function, "__qualname__", None) or type(function).__qualname__)


def module_of(thing: Any) -> str | None:
    """The name by which the module of a function or class is imported, however the process was started.

    None if it has none: in an interactive session, a notebook, or the text of `python -c`.
    """
    module: str | None = getattr(thing, "__module__", None)
    if module not in _MAIN:
        return module
    names = _globals_of(thing)
    spec = names.get("__spec__")
    if spec is not None and spec.name not in _MAIN:
        return str(spec.name)
    file = names.get("__file__")
    return None if file is None or str(file).startswith("<") else _module_in(Path(file).absolute())


def _globals_of(thing: Any) -> dict[str, Any]:
    """The names of the main module that a function or class is from.

    A profiler or debugger runs a program as `__main__` while it is that module itself, so the function is asked.
    """
    functions = [*vars(thing).values()] if isinstance(thing, type) else [inspect.unwrap(thing)]
    for function in functions:
        names: dict[str, Any] = getattr(function, "__globals__", {})
        if names.get("__name__") in _MAIN:
            return names
    return vars(sys.modules.get(thing.__module__, sys.modules["__main__"]))


def _module_in(file: Path) -> str:
    parts = [file.stem]
    folder = file.parent
    while (folder / "__init__.py").exists() or parts == ["__main__"]:
        parts.insert(0, folder.name)
        folder = folder.parent
    return ".".join(parts)


def unwrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function inside of `functools.partial`."""
    while isinstance(function, functools.partial):
        function = function.func
    return function


def _called(function: Callable[..., Any]) -> tuple[Callable[..., Any], ...]:
    """The function that a call runs: itself, or the `__call__` of an object."""
    function = unwrapped(function)
    return function, type(function).__call__


def _is_coroutine(function: Callable[..., Any]) -> bool:
    """True if a generator function is a coroutine in the manner of `types.coroutine`."""
    code = getattr(function, "__code__", None)
    return code is not None and bool(code.co_flags & inspect.CO_ITERABLE_COROUTINE)
