"""Watchers that fail, pause or give way to others: no change is published twice, and none is lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import EllipsisType
from typing import Any

import pytest

from forebay import EventBus, ForebayError, InMemoryEventBus, OutcomeUnknown
from forebay.agents import runner
from forebay.agents.file_watch.journal import FileJournal
from forebay.agents.file_watch.mounts import Mounts
from forebay.agents.file_watch.publisher import FileChangePublisher
from forebay.leadership import LeadershipLost
from forebay.store import Store
from forebay.testing import FaultyStore, eventually
from tests.support.watching import (
    WITHIN,
    events,
    final,
    healthy,
    is_told,
    on_disk,
    running,
    told,
    watcher,
)


async def test_one_of_several_watches_and_another_takes_over(durable_url: str, namespace: str, inbox: Path) -> None:
    async with (
        EventBus(durable_url, namespace=namespace) as bus,
        EventBus(durable_url, namespace=namespace) as other,
    ):
        first, second = watcher(inbox), watcher(inbox)
        async with running(other, second):
            await eventually(lambda: healthy(second, 0), within=WITHIN)
            async with running(bus, first):
                (inbox / "a").write_text("")
                await eventually(lambda: is_told(bus, ("created", "a")), within=WITHIN)
                assert {"watching": False} == await first.health()
                other.stop()
                await eventually(lambda: healthy(first, 1), within=WITHIN)
                (inbox / "b").write_text("")
                await eventually(lambda: is_told(bus, ("created", "b")), within=WITHIN)

        assert [("created", "a"), ("created", "b")] == await told(bus)


async def test_who_has_lost_the_watch_without_knowing_writes_nothing(bus: EventBus, inbox: Path) -> None:
    (inbox / "file").write_text("")
    paused, successor = await _publisher(bus), await _publisher(bus)
    await successor.publish_changes([str(inbox / "file")])

    with pytest.raises(LeadershipLost):
        await paused.publish_changes([str(inbox / "file")])

    assert [("created", "file")] == await told(bus)


async def _publisher(bus: EventBus) -> FileChangePublisher:
    publisher = FileChangePublisher(
        bus, "teller", FileJournal(bus.store, "agent.teller.files"), Mounts(bus.store, "agent.teller", ()), ()
    )
    await publisher.begin()
    return publisher


class Breaking(FaultyStore):
    """Fails once, before or after the step that is the `breaks_at`th of those that publish a change."""

    def __init__(self, store: Store, breaks_at: int, *, after: bool) -> None:
        super().__init__(store)
        self._left = breaks_at
        self._after = after
        self.broke = False

    def _step(self, move: Any) -> None:
        self._left -= 1
        if not self._left:
            self.broke = True
            if self._after:
                self.fail_after(move, OutcomeUnknown("ordered"))
            else:
                self.fail_before(move)

    async def set_note(
        self, stream: str, name: str, value: bytes | None, *, expected: bytes | EllipsisType | None = ...
    ) -> bool:
        self._step("set_note")
        return await super().set_note(stream, name, value, expected=expected)

    async def append(self, stream: str, records: Any, **options: Any) -> list[str]:
        self._step("append")
        return await super().append(stream, records, **options)


def _remove(path: Path) -> None:
    path.unlink()


def _rewrite(path: Path) -> None:
    path.write_text("something else")


def _leave(path: Path) -> None:
    pass


@pytest.mark.parametrize("window", [86_400.0, 0.0], ids=["known-id", "forgotten-id"])
@pytest.mark.parametrize("then", [_leave, _rewrite, _remove])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", [1, 2, 3, 4, 5, 6, 7, 8, 9])
async def test_a_crash_between_any_two_lines_is_made_good(
    step: int, after: bool, then: Callable[[Path], None], window: float, inbox: Path
) -> None:
    """A file is created, modified and deleted, each in three steps; one step fails, and the file changes then."""
    store = Breaking(InMemoryEventBus().store, step, after=after)
    path = inbox / "file"
    async with EventBus(store, idempotency_window=window) as bus:
        publisher = await _publisher(bus)
        for life in (lambda: path.write_text("1"), lambda: path.write_text("22"), path.unlink):
            life()
            try:
                await publisher.publish_changes([str(path)])
            except ForebayError:
                if path.exists():
                    then(path)
                publisher = await _publisher(bus)
                await publisher.publish_changes([str(path)])
            assert on_disk(inbox) == final(await events(bus))
            if not path.exists():
                break
        assert store.broke or then is _remove or step > 3
        await publisher.publish_changes([str(path)])
        assert {} == publisher.journal.unfinished()
        assert on_disk(inbox) == final(await events(bus))


async def test_an_outage_of_the_store_loses_and_repeats_nothing(
    sqlite_url: str, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It begins anew after half a second each time, and not later and later.
    monkeypatch.setattr(runner, "RESTART_WINDOW_SECONDS", 0.0)
    store = FaultyStore(EventBus(sqlite_url).store)
    async with EventBus(store) as bus, running(bus, watcher(inbox)):
        for number in range(2):
            (inbox / f"{number}").write_text(f"{number}")
            store.fail_after("append", times=2)
            store.fail_before("set_note", times=2)
            (inbox / "same").write_text(f"{number}")
            await eventually(lambda number=number: is_told(bus, ("created", f"{number}")), within=WITHIN)
        store.mend()

        async def agrees() -> bool:
            return final(await events(bus)) == on_disk(inbox)

        await eventually(agrees, within=WITHIN)
