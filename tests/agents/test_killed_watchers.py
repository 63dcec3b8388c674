"""kill -9 for watchers of folders: their successors publish each change of the meantime once."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from forebay import EventBus
from forebay.testing import eventually
from tests.support.processes import Process
from tests.support.watching import events, final, is_told, on_disk, told, watch

LEASE = 0.5
WITHIN = 60.0


async def test_a_file_changed_while_its_watcher_was_killed_is_published_once_after_the_restart(
    durable_url: str, namespace: str, tmp_path: Path
) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    for name in ("changed", "deleted", "same"):
        (inbox / name).write_text("before")
    async with EventBus(durable_url, namespace=namespace) as bus:
        watcher = Process(watch, durable_url, namespace, inbox, LEASE)
        await eventually(lambda: is_told(bus, *(("created", path.name) for path in inbox.iterdir())), within=WITHIN)
        watcher.kill()

        (inbox / "changed").write_text("after")
        (inbox / "deleted").unlink()
        (inbox / "new").write_text("after")
        for name in ("second life", "third life"):
            watcher = Process(watch, durable_url, namespace, inbox, LEASE)
            try:
                (inbox / name).write_text(name)
                await eventually(lambda name=name: is_told(bus, ("created", name)), within=WITHIN)
                await eventually(lambda: is_told(bus, ("modified", "changed"), ("deleted", "deleted")), within=WITHIN)
                await eventually(lambda: is_told(bus, ("created", "new")), within=WITHIN)
            finally:
                watcher.kill()

        history = await told(bus)
        assert sorted(set(history)) == sorted(history)
        assert {("created", path.name) for path in inbox.iterdir()} | {
            ("created", "deleted"), ("modified", "changed"), ("deleted", "deleted"),
        } == set(history)  # fmt: skip


@pytest.mark.parametrize("kills", [4, pytest.param(10, marks=pytest.mark.slow)])
async def test_whenever_a_watcher_is_killed_the_published_state_converges_to_the_files(
    durable_url: str, namespace: str, tmp_path: Path, kills: int
) -> None:
    inbox, number = tmp_path / "inbox", 0
    inbox.mkdir()
    chance = random.Random(7)

    def change() -> None:
        nonlocal number
        number += 1
        path = inbox / f"{chance.randrange(60)}"
        if path.exists() and chance.random() < 0.3:
            path.unlink()
        else:
            # In one go, as the content between two writes is not published.
            (tmp_path / "new").write_text(f"{number}")
            (tmp_path / "new").rename(path)

    def start() -> Process:
        return Process(watch, durable_url, namespace, inbox, LEASE)

    async with EventBus(durable_url, namespace=namespace) as bus:

        async def grown(length: int) -> bool:
            for _ in range(5):
                change()
            return sum(stats.length for stats in await bus.stats() if stats.stream.startswith("file_")) > length

        async def agrees() -> bool:
            return final(await events(bus)) == on_disk(inbox)

        watchers = [start(), start()]
        try:
            for _ in range(kills):
                length = len(await events(bus))
                await eventually(lambda length=length: grown(length + chance.randrange(40)), within=WITHIN)
                victim = chance.randrange(2)
                watchers[victim].kill()
                watchers[victim] = start()
            await eventually(agrees, within=WITHIN)
        finally:
            for watcher in watchers:
                watcher.kill()
