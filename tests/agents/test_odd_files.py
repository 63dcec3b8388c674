"""An odd file, link, note or disk is reported, and changes of all other files are still published."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from forebay import EventBus, InMemoryEventBus
from forebay.agents import AgentFailed
from forebay.agents.state import notes_of
from forebay.signals import LoopFailed
from forebay.testing import eventually
from tests.support.watching import WITHIN, change, events, healthy, is_told, running, told, watcher


@pytest.fixture
def any_time() -> Iterator[Path]:
    """A folder on a file system that keeps any time; many others clip it."""
    folder = Path("/dev/shm") / f"forebay-times-{os.getpid()}"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("seconds", "year"),
    [(-11_644_473_600, 1677), (-124_271_193_600, 1677), (910_692_648_000, 2262), (0, 1970), (-1, 1969)],
    ids=["1601", "before-the-calendar", "30828", "1970", "1969"],
)
async def test_a_file_of_any_year_is_published_once_and_stops_no_other(any_time: Path, seconds: int, year: int) -> None:
    (any_time / "odd").write_text("x")
    os.utime(any_time / "odd", (seconds, seconds))
    async with InMemoryEventBus() as bus:
        failures: list[object] = []
        bus.signals.listen(failures.append, AgentFailed)
        agent = watcher(any_time, rescan=0.3)
        async with running(bus, agent):
            await eventually(lambda: is_told(bus, ("created", "odd")), within=WITHIN)
            (any_time / "good").write_text("y")
            await eventually(lambda: is_told(bus, ("created", "good")), within=WITHIN)

        assert [("created", "odd"), ("created", "good")] == await told(bus)
        assert year == change((await events(bus))[0]).modified.year
        assert [] == failures


async def test_a_config_map_is_published_under_the_names_that_programs_read(bus: EventBus, inbox: Path) -> None:
    def update(version: str) -> None:
        (inbox / version).mkdir()
        (inbox / version / "app.conf").write_text(version)
        (inbox / "..tmp").symlink_to(version)
        (inbox / "..tmp").rename(inbox / "..data")

    update("..v1")
    (inbox / "app.conf").symlink_to("..data/app.conf")
    agent = watcher(inbox)
    async with running(bus, agent):
        await eventually(lambda: healthy(agent, 2), within=WITHIN)
        update("..v2")
        shutil.rmtree(inbox / "..v1")
        await eventually(lambda: is_told(bus, ("modified", "app.conf")), within=WITHIN)

    said = [(event.type, change(event).path.removeprefix(f"{inbox}/")) for event in await events(bus)]
    assert ("file_created", "app.conf") in said
    assert ("file_modified", "app.conf") in said
    assert ("file_deleted", "app.conf") not in said


async def test_a_new_link_and_a_broken_link_are_published(bus: EventBus, inbox: Path) -> None:
    (inbox / "real").write_text("1")
    agent = watcher(inbox)
    async with running(bus, agent):
        await eventually(lambda: healthy(agent, 1), within=WITHIN)
        (inbox / "link").symlink_to("real")
        (inbox / "loop").symlink_to("loop")
        await eventually(lambda: is_told(bus, ("created", "link")), within=WITHIN)
        (inbox / "real").write_text("2")
        await eventually(lambda: is_told(bus, ("modified", "link"), ("modified", "real")), within=WITHIN)
        (inbox / "real").unlink()
        await eventually(lambda: is_told(bus, ("deleted", "link"), ("deleted", "real")), within=WITHIN)

    assert "loop" not in {name for _, name in await told(bus)}


async def test_a_note_that_cannot_be_read_is_reported_and_stops_nothing(bus: EventBus, inbox: Path) -> None:
    stream = f"{notes_of('change_detection')}.files"
    await bus.store.set_note(stream, "00", b"not what was written")
    await bus.store.set_note(stream, "of somebody else", b"\xff")
    await bus.store.set_note(notes_of("change_detection"), "mounts", b"\xff")
    said: list[str] = []
    bus.signals.listen(lambda signal: said.append(str(signal.error)), LoopFailed)
    agent = watcher(inbox)

    async with running(bus, agent):
        for number in range(20):
            (inbox / str(number)).write_text("")
        await eventually(lambda: healthy(agent, 20), within=WITHIN)

    assert [True] == ["notes 00 of" in text for text in said]
    assert b"\xff" == (await bus.store.notes(stream))["of somebody else"]


PROGRAM = """
import asyncio, subprocess, sys
from pathlib import Path
from forebay import AgentError, EventBus, Event
from forebay.agents import ChangeDetectionAgent
from tests.support.watching import WITHIN, healthy, is_told, running, told, watcher
from forebay.testing import eventually

url, top, layout = sys.argv[1:]
top = Path(top)
disk = {"folder": top, "within": top / "sub", "above": top.parent}[layout]

def mount():
    disk.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "t", disk], check=True)
    (top / "sub").mkdir(parents=True, exist_ok=True)
    for name in ("sub/1", "sub/2", "sub/3"):
        (top / name).write_text(name)

async def ails(agent):
    try:
        await agent.health()
    except AgentError as error:
        return "is not mounted" in str(error)
    return False

async def life(bus, *steps):
    agent = watcher(top, rescan=0.3)
    async with running(bus, agent):
        for step in steps:
            await step(agent)

async def seen(agent):
    await eventually(lambda: healthy(agent, 3), within=WITHIN)

async def unmounted(agent):
    subprocess.run(["umount", disk], check=True)
    await eventually(lambda: ails(agent), within=WITHIN)
    # A file below the empty mount point does not belong to the disk.
    if top.is_dir():
        (top / "stray").write_text("")

async def still_away(agent):
    await eventually(lambda: ails(agent), within=WITHIN)

async def mounted_again(agent):
    if (top / "stray").exists():
        (top / "stray").unlink()
    mount()
    await eventually(lambda: healthy(agent, 3), within=WITHIN)
    (top / "sub" / "1").unlink()
    await eventually(lambda: is_told(agent.bus, ("deleted", "1")), within=WITHIN)

async def main():
    mount()
    async with EventBus(url) as bus:
        await life(bus, seen, unmounted)
        # A process that starts while the disk is missing knows as much.
        await life(bus, still_away, mounted_again)
        print([kind for kind, name in await told(bus) if name != "stray"])
asyncio.run(main())
"""


@pytest.mark.parametrize("layout", ["folder", "within", "above"])
def test_files_on_an_unmounted_disk_are_not_published_as_deleted(layout: str, tmp_path: Path) -> None:
    """The watched folder is the mount point, holds it, or lies below it. Mounts are made in a name space of its own."""
    top = tmp_path / "disk" / "top"
    top.mkdir(parents=True)
    arguments = [sys.executable, "-c", PROGRAM, f"sqlite:///{tmp_path}/events.db", str(top), layout]
    command = ["unshare", "--mount", "--map-root-user", *arguments]

    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])

    assert (0, str(["created"] * 3 + ["deleted"])) == (ended.returncode, ended.stdout.strip()), ended.stderr[-3000:]
