"""Restarts with a limit, and waiting for the first of several tasks."""

from __future__ import annotations

import asyncio

import pytest

from forebay.cleanup import until_first_ends
from forebay.restarts import Backoff, Restarts


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_loop_is_given_up_after_its_limit_of_failures_in_a_row() -> None:
    restarts = Restarts(limit=2)

    given_up = []
    for _ in range(3):
        restarts.failed()
        given_up.append(restarts.is_exhausted)

    assert [False, False, True] == given_up


def test_a_loop_without_a_limit_is_never_given_up() -> None:
    restarts = Restarts()

    for _ in range(1000):
        restarts.failed()

    assert not restarts.is_exhausted


def test_each_wait_doubles_up_to_the_cap() -> None:
    restarts = Restarts(backoff=Backoff(base=1.0, cap=4.0))

    for ceiling in (1.0, 2.0, 4.0, 4.0):
        assert ceiling / 2 <= restarts.failed() <= ceiling


def test_a_run_longer_than_the_window_begins_a_new_row() -> None:
    clock = Clock()
    restarts = Restarts(limit=1, window=60.0, backoff=Backoff(base=1.0), clock=clock)
    restarts.failed()

    restarts.started()
    clock.now += 61.0

    assert restarts.failed() <= 1.0
    assert (1, False) == (restarts.in_a_row, restarts.is_exhausted)


def test_a_failure_that_does_not_count_only_prolongs_the_wait() -> None:
    restarts = Restarts(limit=0, backoff=Backoff(base=1.0))

    restarts.failed(counts=False)

    assert not restarts.is_exhausted
    assert restarts.failed() >= 1.0
    assert restarts.is_exhausted


def test_a_success_ends_the_row_and_says_whether_there_was_one() -> None:
    restarts = Restarts()
    assert not restarts.worked()
    restarts.failed(counts=False)
    assert restarts.worked()
    assert not restarts.worked()


async def test_the_first_to_end_cancels_the_coroutines_and_leaves_the_tasks() -> None:
    ended = list[str]()

    async def wait(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(name)

    task = asyncio.create_task(wait("task"))
    await until_first_ends(task, wait("coroutine"), asyncio.sleep(0))

    assert ["coroutine"] == ended
    assert not task.done()
    task.cancel()


async def test_waiting_for_the_first_to_end_is_limited_by_its_timeout() -> None:
    task = asyncio.create_task(asyncio.Event().wait())

    await until_first_ends(task, timeout=0.01)

    assert not task.done()
    task.cancel()


async def test_the_error_of_a_coroutine_that_ends_first_is_raised() -> None:
    async def fail() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        await until_first_ends(fail(), asyncio.Event().wait())


async def test_a_cancelled_wait_ends_its_coroutines_before_it_raises() -> None:
    ended = asyncio.Event()

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.set()

    waiting = asyncio.create_task(until_first_ends(wait()))
    await asyncio.sleep(0.01)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting

    assert ended.is_set()
