"""Watched folders: each change is published once, whatever happens to the watcher."""

# The files of these tests are small and near.

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from forebay import ConfigurationError, EventBus, InMemoryEventBus
from forebay.agents import ChangeDetectionAgent
from forebay.agents.file_watch.files import Unsettled, held_open, read
from forebay.agents.state import notes_of
from forebay.signals import LoopFailed
from forebay.testing import eventually
from tests.support.watching import (
    WITHIN,
    ails,
    change,
    digest,
    events,
    final,
    healthy,
    is_told,
    on_disk,
    running,
    told,
    watcher,
)


async def test_each_change_of_a_file_is_published_once_with_its_content(bus: EventBus, inbox: Path) -> None:
    file = inbox / "a.txt"
    async with running(bus, watcher(inbox)):
        file.write_text("one")
        await eventually(lambda: is_told(bus, ("created", "a.txt")), within=WITHIN)
        file.write_text("two and more")
        await eventually(lambda: is_told(bus, ("modified", "a.txt")), within=WITHIN)
        modified = digest(file)
        file.touch()
        (inbox.parent / "same").write_text("two and more")
        (inbox.parent / "same").rename(file)
        (inbox / "b.txt").write_text("")
        await eventually(lambda: is_told(bus, ("created", "b.txt")), within=WITHIN)
        file.unlink()
        await eventually(lambda: is_told(bus, ("deleted", "a.txt")), within=WITHIN)

    assert [("created", "a.txt"), ("modified", "a.txt"), ("created", "b.txt"), ("deleted", "a.txt")] == await told(bus)
    [_, second, _, last] = await events(bus)
    assert ("change_detection", str(file)) == (second.source, second.key)
    assert (str(file), 12, modified, None) == (change(second).path, change(second).size, change(second).sha256, None)
    assert (change(second).size, change(second).sha256) == (change(last).size, change(last).sha256)


async def test_a_change_while_the_agent_was_down_is_published_once(bus: EventBus, inbox: Path) -> None:
    for name in ("same", "changed", "deleted", "touched"):
        (inbox / name).write_text(name)
    async with running(bus, watcher(inbox)):
        await eventually(lambda: is_told(bus, *(("created", path.name) for path in inbox.iterdir())), within=WITHIN)

    (inbox / "changed").write_text("CHANGED")
    (inbox / "deleted").unlink()
    (inbox / "touched").touch()
    (inbox / "new").write_text("new")
    for _ in range(2):
        agent = watcher(inbox)
        async with running(bus, agent):
            await eventually(lambda agent=agent: healthy(agent, 4), within=WITHIN)
            await eventually(lambda: is_told(bus, ("created", "new")), within=WITHIN)

    assert [("created", "new"), ("deleted", "deleted"), ("modified", "changed")] == sorted((await told(bus))[4:])
    assert on_disk(inbox) == final(await events(bus))


async def test_a_file_that_exists_only_between_two_scans_is_not_published(inbox: Path) -> None:
    async with InMemoryEventBus() as bus, running(bus, watcher(inbox)):
        (inbox / "first").write_text("")
        await eventually(lambda: is_told(bus, ("created", "first")), within=WITHIN)
        (inbox / "passing").write_text("")
        (inbox / "passing").unlink()
        (inbox / "last").write_text("")
        await eventually(lambda: is_told(bus, ("created", "last")), within=WITHIN)

        assert [("created", "first"), ("created", "last")] == await told(bus)


async def test_where_the_system_gives_no_notice_it_can_look_by_itself(
    inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHFILES_FORCE_POLLING", "true")
    async with InMemoryEventBus() as bus:
        agent = watcher(inbox, rescan=1000)
        async with running(bus, agent):
            await eventually(lambda: healthy(agent, 0), within=WITHIN)
            (inbox / "a").write_text("")
            await eventually(lambda: is_told(bus, ("created", "a")), within=WITHIN)


@pytest.mark.parametrize("count", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
async def test_thousands_of_files_at_once_are_published_once_each(sqlite_url: str, inbox: Path, count: int) -> None:
    async with EventBus(sqlite_url) as bus:
        agent = watcher(inbox)
        async with running(bus, agent):
            await eventually(lambda: healthy(agent, 0), within=WITHIN)
            for number in range(count):
                folder = inbox / str(number % 100)
                folder.mkdir(exist_ok=True)
                (folder / f"{number}").write_text(f"{number}")
            await eventually(lambda: healthy(agent, count), within=90)
        notes = await bus.store.notes(f"{notes_of('change_detection')}.files")
        history = await events(bus)

    assert on_disk(inbox) == final(history)
    assert count == len(history)
    assert 100_000 > max(map(len, notes.values()))


async def test_new_and_deleted_folders_are_published_with_all_their_files(inbox: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    for number in range(3):
        (elsewhere / f"{number}").mkdir(parents=True)
        (elsewhere / f"{number}" / "file").write_text(f"{number}")
    async with InMemoryEventBus() as bus:
        agent = watcher(inbox)
        async with running(bus, agent):
            await eventually(lambda: healthy(agent, 0), within=WITHIN)
            elsewhere.rename(inbox / "moved")
            await eventually(lambda: healthy(agent, 3), within=WITHIN)
            (inbox / "moved").rename(elsewhere)
            await eventually(lambda: healthy(agent, 0), within=WITHIN)

        assert ["created"] * 3 + ["deleted"] * 3 == [kind for kind, _ in await told(bus)]


async def test_a_folder_that_vanishes_counts_as_empty_and_ails_until_it_is_back(bus: EventBus, inbox: Path) -> None:
    (inbox / "file").write_text("1")
    signals: list[LoopFailed] = []
    bus.signals.listen(signals.append, LoopFailed)
    agent = watcher(inbox)
    async with running(bus, agent):
        await eventually(lambda: healthy(agent, 1), within=WITHIN)
        shutil.rmtree(inbox)
        await eventually(lambda: is_told(bus, ("deleted", "file")), within=WITHIN)
        await eventually(lambda: ails(agent, f"the folder {inbox} is gone"), within=WITHIN)
        inbox.mkdir()
        (inbox / "file").write_text("2")
        await eventually(lambda: healthy(agent, 1), within=WITHIN)
        (inbox / "more").write_text("3")
        await eventually(lambda: is_told(bus, ("created", "more")), within=WITHIN)

    history = [("created", "file"), ("deleted", "file"), ("created", "file"), ("created", "more")]
    assert history == await told(bus)
    assert [f"the folder {inbox} is gone; its files count as deleted"] == [
        str(signal.error) for signal in signals if signal.loop == "watch" and "is gone" in str(signal.error)
    ]


async def test_a_missing_folder_is_refused_unless_its_files_were_published(bus: EventBus, inbox: Path) -> None:
    (inbox / "file").write_text("1")
    with pytest.raises(ConfigurationError, match=f"there is no folder {inbox}/file; make it"):
        await bus.run(watcher(inbox / "file"))
    async with running(bus, watcher(inbox)):
        await eventually(lambda: is_told(bus, ("created", "file")), within=WITHIN)

    shutil.rmtree(inbox)
    with pytest.raises(ConfigurationError, match="there is no folder"):
        await bus.run(watcher(inbox, name="another"))
    agent = watcher(inbox)
    async with running(bus, agent):
        await eventually(lambda: is_told(bus, ("deleted", "file")), within=WITHIN)
        await eventually(lambda: ails(agent, "is gone"), within=WITHIN)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (ChangeDetectionAgent, "name the folders"),
        (lambda: ChangeDetectionAgent(""), "a folder is named by its path"),
        (lambda: ChangeDetectionAgent(7), r"\(7\): a folder is named by its path"),  # type: ignore[arg-type]  # wrong
        (lambda: ChangeDetectionAgent(".", ignore="*.tmp"), "give a tuple of patterns"),
        (lambda: ChangeDetectionAgent(".", debounce=-1), "debounce=-1: give a number of seconds"),
        (lambda: ChangeDetectionAgent(".", rescan=0), "rescan=0: give a number of seconds"),
        (lambda: ChangeDetectionAgent(".", lease=float("nan")), "lease=nan: give a number of seconds"),
    ],
)
def test_a_watch_that_cannot_be_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make()


def test_folders_within_folders_are_watched_once(tmp_path: Path) -> None:
    (tmp_path / "ab").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "ab")

    agent = ChangeDetectionAgent(tmp_path / "ab", tmp_path / "a", tmp_path / "a" / "b", tmp_path / "link")

    assert (tmp_path / "a", tmp_path / "ab") == agent.folders


async def test_an_ignored_file_is_not_published(inbox: Path) -> None:
    (inbox / ".git").mkdir()
    (inbox / ".git" / "config").write_text("")
    async with InMemoryEventBus() as bus, running(bus, watcher(inbox, ignore=("*.part", ".git"))):
        (inbox / "a.part").write_text("")
        (inbox / ".git" / "head").write_text("")
        (inbox / "a").write_text("")
        await eventually(lambda: is_told(bus, ("created", "a")), within=WITHIN)
        (inbox / "b").write_text("")
        await eventually(lambda: is_told(bus, ("created", "b")), within=WITHIN)

        assert [("created", "a"), ("created", "b")] == await told(bus)


async def test_links_are_not_followed_and_loops_do_no_harm(inbox: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("")
    (inbox / "sub").mkdir()
    (inbox / "sub" / "loop").symlink_to(inbox)
    (inbox / "sub" / "up").symlink_to(tmp_path)
    (inbox / "out").symlink_to(outside)
    (inbox / "file").symlink_to(outside / "secret")
    async with InMemoryEventBus() as bus:
        agent = watcher(inbox, rescan=0.3)
        async with running(bus, agent):
            await eventually(lambda: healthy(agent, 0), within=WITHIN)
            (outside / "other").write_text("")
            (inbox / "sub" / "real").write_text("1")
            await eventually(lambda: is_told(bus, ("created", "real")), within=WITHIN)
            (inbox / "sub" / "real").unlink()
            (inbox / "sub" / "real").symlink_to(outside / "secret")
            await eventually(lambda: is_told(bus, ("deleted", "real")), within=WITHIN)

        assert [("created", "real"), ("deleted", "real")] == await told(bus)


class Rescanning(ChangeDetectionAgent):
    """Looks at everything all the time, until it is to do so `rarely`; `settled` once it heard that."""

    rarely = False
    settled = False

    @property
    def _rescan(self) -> float:
        self.settled = self.rarely
        return 1000.0 if self.rarely else 0.3

    @_rescan.setter
    def _rescan(self, seconds: float) -> None: ...


async def test_notices_that_fail_to_come_are_made_good_and_come_again(inbox: Path) -> None:
    (inbox / "sub").mkdir()
    (inbox / "sub" / "loop").symlink_to(inbox.parent)
    async with InMemoryEventBus() as bus:
        agent = Rescanning(inbox, debounce=0.05)
        async with running(bus, agent):
            (inbox / "sub" / "file").write_text("1")
            await eventually(lambda: is_told(bus, ("created", "file")), within=WITHIN)
            # The notices come by way of the link, and once it is gone, of places that are not there.
            (inbox / "sub" / "loop").unlink()
            (inbox / "sub" / "file").write_text("2")
            await eventually(lambda: is_told(bus, ("modified", "file")), within=WITHIN)
            agent.rarely = True
            await eventually(lambda: agent.settled, within=WITHIN)
            (inbox / "sub" / "file").unlink()
            await eventually(lambda: is_told(bus, ("deleted", "file")), within=WITHIN)


async def test_files_with_names_of_any_bytes_and_lengths_are_published(bus: EventBus, inbox: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(inbox) + b"/odd \xff\n.txt"))
    deep = inbox.joinpath(*["d" * 200] * 5, "é")
    deep.parent.mkdir(parents=True)
    agent = watcher(inbox)
    async with running(bus, agent):
        await eventually(lambda: healthy(agent, 0), within=WITHIN)
        odd.write_text("1")
        deep.write_text("2")
        await eventually(lambda: is_told(bus, ("created", odd.name), ("created", "é")), within=WITHIN)
        odd.unlink()
        await eventually(lambda: is_told(bus, ("deleted", odd.name)), within=WITHIN)
        deep.write_text("3")
        await eventually(lambda: is_told(bus, ("modified", "é")), within=WITHIN)

    history = await events(bus)
    assert on_disk(inbox) == final(history)
    said = {change(event).file: (event.key, change(event).path, change(event).raw) for event in history}
    assert (f"{inbox}/odd \\xff\n.txt", f"{inbox}/odd \\xff\n.txt", os.fsencode(odd)) == said[odd]
    assert (str(deep), None) == said[deep][1:]
    assert str(said[deep][0]).startswith("sha256:")


async def test_the_database_of_the_bus_is_left_alone_in_a_watched_folder(inbox: Path) -> None:
    async with EventBus(f"sqlite:///{inbox}/events.db") as bus:
        agent = watcher(inbox, rescan=0.2)
        async with running(bus, agent):
            (inbox / "a").write_text("")
            await eventually(lambda: is_told(bus, ("created", "a")), within=WITHIN)
            (inbox / "b").write_text("")
            await eventually(lambda: is_told(bus, ("created", "b")), within=WITHIN)
        assert [("created", "a"), ("created", "b")] == await told(bus)


async def test_a_file_that_is_still_open_is_published_when_it_is_closed(inbox: Path) -> None:
    async with InMemoryEventBus() as bus, running(bus, watcher(inbox)):
        with (inbox / "log").open("w") as log:
            log.write("a line")
            log.flush()
            (inbox / "other").write_text("")
            await eventually(lambda: is_told(bus, ("created", "other")), within=WITHIN)
            assert [("created", "other")] == await told(bus)

        await eventually(lambda: is_told(bus, ("created", "log")), within=WITHIN)


def test_a_file_that_is_being_written_is_not_settled(tmp_path: Path) -> None:
    path = tmp_path / "growing"
    done = threading.Event()

    def grow() -> None:
        with path.open("ab", buffering=0) as file:
            os.truncate(path, 256 * 1024 * 1024)
            while not done.is_set():
                file.write(b"x")

    writer = threading.Thread(target=grow)
    path.touch()
    writer.start()
    try:
        while path.stat().st_size < 256 * 1024 * 1024:
            pass
        outcome = read(str(path), None, frozenset(), (), threading.Event())
    finally:
        done.set()
        writer.join()

    assert isinstance(outcome, Unsettled)
    assert f"{path} is being written" == str(outcome)


async def test_a_huge_file_does_not_hold_up_the_end(inbox: Path) -> None:
    (inbox / "huge").touch()
    os.truncate(inbox / "huge", 1 << 42)
    async with InMemoryEventBus() as bus:
        agent = watcher(inbox)
        run = asyncio.create_task(bus.run(agent))
        await eventually(lambda: _place(inbox / "huge") in held_open(), within=WITHIN)
        bus.stop()
        await asyncio.wait_for(run, 10)

        await eventually(lambda: _place(inbox / "huge") not in held_open())
        assert [] == await told(bus)


def _place(path: Path) -> tuple[int, int]:
    return path.stat().st_dev, path.stat().st_ino


@contextmanager
def powerless(folder: Path, file: Path) -> Iterator[None]:
    """Have no right to read these for a while; as root, who may read everything, use another user."""
    root = os.geteuid() == 0
    folder.chmod(0)
    file.chmod(0)
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o755)
        file.chmod(0o644)


async def test_an_unreadable_file_is_reported_and_not_published_as_deleted() -> None:
    with tempfile.TemporaryDirectory() as name:
        inbox = Path(name).resolve()
        inbox.chmod(0o755)
        (inbox / "closed").mkdir()
        (inbox / "closed" / "known").write_text("1")
        (inbox / "secret").write_text("2")
        async with InMemoryEventBus() as bus:
            agent = watcher(inbox, rescan=0.2)
            async with running(bus, agent):
                await eventually(lambda: healthy(agent, 2), within=WITHIN)
                with powerless(inbox / "closed", inbox / "secret"):
                    await eventually(lambda: ails(agent, "3 paths cannot be read"), within=WITHIN)
                    await eventually(lambda: ails(agent, "PermissionError"), within=WITHIN)
                await eventually(lambda: healthy(agent, 2), within=WITHIN)

            assert [("created", "known"), ("created", "secret")] == sorted(await told(bus))


def test_importing_the_agents_loads_no_watchfiles() -> None:
    code = "import sys, forebay.agents as a; print(*sys.modules); a.ChangeDetectionAgent; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    before, after = map(set, map(str.split, done.stdout.splitlines()))
    assert {"forebay.agents.file_watch.change_detection"} == after & {
        "watchfiles",
        "forebay.agents.file_watch.change_detection",
    }
    assert "forebay.agents.file_watch.change_detection" not in before


def test_without_its_extra_the_error_names_the_package(tmp_path: Path) -> None:
    code = f"""
import asyncio, sys
sys.modules["watchfiles"] = None
from forebay import InMemoryEventBus
from forebay.agents import ChangeDetectionAgent

async def main():
    async with InMemoryEventBus() as bus:
        await bus.run(ChangeDetectionAgent({str(tmp_path)!r}))

asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert 1 == done.returncode
    assert "ChangeDetectionAgent needs watchfiles: install the extra, pip install 'forebay[agents]'" in done.stderr
