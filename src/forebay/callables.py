"""Callables that users hand over: what a call returned is awaited, and generators are refused."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import inspect
from collections.abc import Callable
from types import AsyncGeneratorType, GeneratorType
from typing import Any

from forebay.errors import ConfigurationError


async def completed(result: object) -> object:
    """The final value of a call that returned `result`.

    An awaitable is awaited, and so is an awaitable that it returns: a decorator may have hidden that the
    function is async. Raises `ConfigurationError` for a generator, because nothing of its body has run.
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
        else:
            break
    return result


def discard(result: object) -> None:
    """Drop what a call returned that is not waited for any more."""
    if inspect.iscoroutine(result):
        result.close()
    elif isinstance(result, (asyncio.Future, concurrent.futures.Future)):
        result.cancel()


def is_async(function: Callable[..., Any]) -> bool:
    """Whether a call of `function` is declared to return a coroutine."""
    return any(map(inspect.iscoroutinefunction, _called(function)))


def refuse_generator(what: str, function: Callable[..., Any]) -> None:
    """Raise `ConfigurationError` where a call of `function` would only make a generator."""
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
    """Whether a generator function is a coroutine in the manner of `types.coroutine`."""
    code = getattr(function, "__code__", None)
    return code is not None and bool(code.co_flags & inspect.CO_ITERABLE_COROUTINE)
