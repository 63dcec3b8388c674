"""kill -9 while a store is copied: run again, the copy goes on, and nothing is there twice or missing."""

from __future__ import annotations

import asyncio
import itertools
import random
import subprocess
import sys
from pathlib import Path

import pytest

from forebay.store import Store
from forebay.urls import open_store
from tests.support.contents import STREAM, contents, fill, times
from tests.support.redis_servers import Server, binaries

KILLS = 10


async def test_a_copy_to_redis_and_back_is_equal_though_it_is_killed_again_and_again(
    servers: dict[str, Server], tmp_path: Path
) -> None:
    await _check(servers, tmp_path, events=6_000, pending=50, dead=20)


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_a_large_copy_to_redis_and_back_is_equal_though_it_is_killed_again_and_again(
    servers: dict[str, Server], tmp_path: Path
) -> None:
    await _check(servers, tmp_path, events=100_000, pending=500, dead=200)


async def _check(servers: dict[str, Server], folder: Path, *, events: int, pending: int, dead: int) -> None:
    first = url = f"sqlite:///{folder}/0.db"
    chance = random.Random(events)
    kills = 0
    async with open_store(first) as store:
        await fill(store, events=events, pending=pending, dead=dead)
    for leg in itertools.count(1):
        redis = f"{servers[binaries()[0]].url}/{leg}"
        target = redis if leg % 2 else f"sqlite:///{folder}/{leg}.db"
        kills += await _copy_under_fire(url, target, chance, most=KILLS // 2, length=events)
        url = target
        if leg % 2 == 0 and kills >= KILLS:
            break
        assert leg < 20, "the copies are over before they can be killed"

    async with open_store(first) as before, open_store(url) as after:
        wanted, found = await contents(before), await contents(after)
        for stream, parts in wanted.items():
            for part in parts:
                assert parts[part] == found[stream][part], f"{part} of {stream}"
        assert wanted.keys() == found.keys()
        assert (events + 2, dead) == (len(wanted[STREAM]["records"]), len(wanted[STREAM]["dead"]))
        assert pending == sum(len(group["pending"]) for group in wanted[STREAM]["groups"].values())
        assert max(abs(a - b) for a, b in zip(await times(before), await times(after), strict=True)) < 0.01


async def _copy_under_fire(source: str, target: str, chance: random.Random, *, most: int, length: int) -> int:
    """Copy with the command, killing it up to `most` times on the way; how often it was killed."""
    kills = 0
    async with open_store(target) as watched:
        while True:
            with _run(source, target) as process:
                begun = await _length(watched)
                wanted = begun + chance.randrange(1, length // 3)
                while kills < most and process.poll() is None:
                    # After the entries come the groups: the last kills are to hit those.
                    if (now := await _length(watched)) >= wanted or now > length:
                        await asyncio.sleep(chance.random() * 0.02)
                        process.kill()
                        break
                    await asyncio.sleep(0.002)
                _, talk = await asyncio.to_thread(process.communicate)
                if process.returncode != -9:
                    assert (0, True) == (process.returncode, "both sides are equal" in talk), talk
                    return kills
                kills += 1


def _run(source: str, target: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "forebay", "copy", source, target, "--verify"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


async def _length(store: Store) -> int:
    return sum(stats.length for stats in await store.stats([STREAM]))
