"""A short soak on each store, with the checker and the faults of the long ones."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from chaos import nemesis
from chaos.soak import Run, Size, soak_server, soak_sqlite

from tests.support.redis_servers import version
from tests.support.stores import SERVERS

SHORT = Size(events=2000, faults=6, seconds=6, lease=1.0)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in memory, if there is such a place: histories are to cost little and outlive every kill."""
    place = Path("/dev/shm")
    made = Path(tempfile.mkdtemp(prefix="forebay-soak-", dir=place if place.is_dir() else None))
    yield made
    shutil.rmtree(made)


def told(run: Run) -> str:
    """The report of a failed soak; its seed draws the same faults again."""
    return f"seed {run.seed}: {run.report.counts} {run.report.breaches} {run.failed}"


async def test_a_soak_on_a_file_keeps_every_promise(folder: Path) -> None:
    run = await soak_sqlite(folder, SHORT, seed=random.randrange(10_000))

    assert run.holds, told(run)
    assert run.report.acknowledged >= SHORT.events
    assert SHORT.faults == sum(run.report.faults.values())


@pytest.mark.parametrize("binary", SERVERS, ids=version)
async def test_a_soak_on_a_server_keeps_every_promise(binary: str, folder: Path) -> None:
    run = await soak_server(binary, folder, SHORT, seed=random.randrange(10_000))

    assert run.holds, told(run)
    assert run.report.acknowledged >= SHORT.events
    assert SHORT.faults == sum(run.report.faults.values())


def test_the_same_seed_draws_the_same_faults() -> None:
    kinds = nemesis.PROCESSES | nemesis.SERVER

    first = nemesis.draw(7, kinds, faults=40, seconds=100)

    assert first == nemesis.draw(7, kinds, faults=40, seconds=100)
    assert first != nemesis.draw(8, kinds, faults=40, seconds=100)
    assert set(kinds) == {strike.kind for strike in first}
