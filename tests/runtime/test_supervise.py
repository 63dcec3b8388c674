"""A loop of a consumer begins once, heals what was lost, and ends at the next step after it was stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from forebay.errors import NotFound, StoreUnavailable
from forebay.runtime.supervise import repeat


class Loop:
    """The calls of a loop. Each takes the next error of its kind, if there is one; `stop_in` stops the loop."""

    def __init__(self, *, stop_in: str, **errors: Sequence[Exception]) -> None:
        self.calls: list[str] = []
        self._stop = asyncio.Event()
        self._stop_in = stop_in
        self._errors = {name: list(of_kind) for name, of_kind in errors.items()}

    async def run(self) -> list[str]:
        await repeat(
            lambda: self._call("turn"),
            stop=self._stop,
            before=lambda: self._call("before"),
            heal=lambda: self._call("heal"),
            on_error=lambda error, delay: None,
            on_recovery=lambda: self.calls.append("recovered"),
        )
        return self.calls

    async def _call(self, name: str) -> None:
        self.calls.append(name)
        if errors := self._errors.get(name):
            raise errors.pop(0)
        if name == self._stop_in:
            self._stop.set()


async def test_a_loop_that_was_stopped_while_it_began_takes_no_turn() -> None:
    assert await Loop(stop_in="before").run() == ["before"]


async def test_a_loop_that_was_stopped_while_it_healed_takes_no_further_turn() -> None:
    assert await Loop(stop_in="heal", turn=[NotFound("lost")]).run() == ["before", "turn", "heal"]


@pytest.mark.parametrize("error", [NotFound("lost"), StoreUnavailable("away")])
async def test_a_loop_begins_again_if_its_beginning_failed(error: Exception) -> None:
    assert await Loop(stop_in="turn", before=[error]).run() == ["before", "before", "turn", "recovered"]


async def test_a_loop_heals_until_that_succeeds() -> None:
    loop = Loop(stop_in="turn", turn=[NotFound("lost")], heal=[StoreUnavailable("away")])

    assert await loop.run() == ["before", "turn", "heal", "heal", "turn", "recovered"]
