"""The story of `forebay demo`, on a real store, with real files and real processes."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from forebay import EventBus, ForebayError
from forebay.cli.demo_worker import EVENT, LEASE
from forebay.urls import file_of

GROUPS = ("checksums", "line-counts", "catalog")
WATCH = 0.25
"""Seconds between looks for new files."""
PATIENCE = 60.0
"""Seconds that any one step may take before the demo gives up."""
SKIPPED = {"__pycache__", "node_modules", "venv", "site-packages"}


class Teller(Protocol):
    """Shows the story while it happens."""

    def step(self, text: str) -> None:
        """Something happened."""

    def progress(self, handled: dict[str, int], published: int) -> None:
        """How far each group is."""


class DemoFailed(ForebayError):
    """The story took another course than planned."""


@dataclass
class Tally:
    """What happened, counted by event ids from the notes of the workers."""

    published: list[str] = field(default_factory=list)
    handled: dict[str, Counter[str]] = field(default_factory=lambda: {group: Counter() for group in GROUPS})
    retried: int = 0
    taken_over: int = 0
    dead: int = 0
    redriven: int = 0
    replayed: int = 0
    seconds: float = 0.0

    @property
    def lost(self) -> dict[str, list[str]]:
        """For each group, the published ids that it never handled."""
        return {group: [id for id in self.published if id not in self.handled[group]] for group in GROUPS}


def real_files(folder: Path, *, store: Path | None = None) -> Iterator[tuple[str, int]]:
    """Path and size of each file in a folder and its subfolders, but for hidden and installed ones.

    The files of the `store` are left out: who opens and closes one drops the locks that SQLite has on it.
    """
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in SKIPPED)
        for name in sorted(files):
            path = Path(parent, name)
            # A file may vanish during the scan; a name that is not text does not fit into an event.
            with contextlib.suppress(OSError, UnicodeEncodeError):
                str(path).encode()
                if store is not None and str(path.resolve()).startswith(str(store)):
                    continue
                if not name.startswith(".") and path.is_file():
                    yield str(path), path.stat().st_size


class Story:
    """Publishes the files, runs and kills workers, puts right what went wrong, and counts."""

    def __init__(
        self, url: str, folder: Path, room: Path, teller: Teller, *, namespace: str, keep: bool = False, most: int = 400
    ) -> None:
        self._url = url
        self._store = file_of(url)
        self._namespace = namespace
        self._keep = keep
        self._folder = folder
        self._room = room
        self._teller = teller
        self._most = most
        self._fixed = room / "fixed"
        self._known: set[str] = set()
        self._workers: dict[str, asyncio.subprocess.Process] = {}
        self._tally = Tally()

    async def tell(self) -> Tally:
        """Run the whole story; `DemoFailed` where a step does not come to its end."""
        started = time.monotonic()
        async with EventBus(self._url, namespace=self._namespace) as bus:
            try:
                await self._publish_new(bus)
                if not self._tally.published:
                    raise DemoFailed(f"no files in {self._folder}; name a folder that has some: forebay demo FOLDER")
                count = len(self._tally.published)
                self._teller.step(f"published {count} events, one for each file found in {self._folder}")
                async with self._watching(bus):
                    await self._kill_a_worker()
                    await self._handle_all()
                await self._fix_and_redrive(bus)
                await self._replay(bus)
            finally:
                await self._stop_workers()
                if not self._keep:
                    await self._clean(bus)
        self._tally.seconds = time.monotonic() - started
        return self._tally

    async def _publish_new(self, bus: EventBus) -> None:
        """Publish an event for each file not seen before."""
        there = real_files(self._folder, store=self._store)
        files = await asyncio.to_thread(lambda: list(itertools.islice(there, self._most)))
        new = [(path, size) for path, size in files if path not in self._known][: self._most - len(self._known)]
        self._known.update(path for path, _ in new)
        self._tally.published += await bus.publish_many(
            EVENT,
            "demo",
            [
                {"number": number, "path": path, "size": size}
                for number, (path, size) in enumerate(new, start=len(self._tally.published))
            ],
            keys=[Path(path).suffix[:64] or None for path, _ in new],
        )

    @contextlib.asynccontextmanager
    async def _watching(self, bus: EventBus) -> AsyncIterator[None]:
        """Meanwhile, publish whatever file appears in the folder."""
        done = asyncio.Event()

        async def watch() -> None:
            while not done.is_set():
                before = len(self._tally.published)
                await self._publish_new(bus)
                if (found := len(self._tally.published) - before) > 0:
                    self._teller.step(f"{found} more appeared in the folder, and were published")
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(done.wait(), WATCH)

        watcher = asyncio.create_task(watch())
        try:
            yield
        finally:
            done.set()
            await watcher

    async def _kill_a_worker(self) -> None:
        await self._start("victim", "checksums", slow=0.4)
        await self._until("the first worker to begin", lambda: bool(self._facts("victim", "begun")))
        for name, group in (("checksums", "checksums"), ("line-counts", "line-counts"), ("catalog", "catalog")):
            await self._start(name, group)
        victim = self._workers.pop("victim")
        victim.kill()
        await victim.wait()
        held = len(set(self._facts("victim", "begun")) - set(self._facts("victim", "handled")))
        self._teller.step(f"killed a worker of 'checksums' (kill -9) in the middle of {held} events")

    async def _handle_all(self) -> None:
        spoilt = self._tally.published[0]
        told: set[str] = set()

        def handled() -> bool:
            tally = self._count()
            if tally.retried and "retried" not in told:
                told.add("retried")
                self._teller.step("a handler of 'line-counts' failed and is tried again, with back-off")
            if tally.dead and "dead" not in told:
                told.add("dead")
                self._teller.step("an event that 'catalog' cannot handle is a dead letter after 3 attempts")
            if tally.taken_over and "taken over" not in told:
                told.add("taken over")
                self._teller.step(
                    f"the lease of {LEASE:g} s ran out: another worker takes over the killed one's events"
                )
            published = set(tally.published)
            wanted = {"checksums": published, "line-counts": published, "catalog": published - {spoilt}}
            return bool(tally.dead) and all(wanted[group] <= tally.handled[group].keys() for group in GROUPS)

        await self._until("all events to be handled", handled)

    async def _fix_and_redrive(self, bus: EventBus) -> None:
        self._fixed.touch()
        # The last files that the watcher found are handled beside it.
        self._tally.redriven = await bus.redrive(EVENT, group="catalog")
        self._teller.step(f"fixed the bug in 'catalog', and redrove {self._tally.redriven} dead letter")
        await self._until("the redriven event to be handled", lambda: not any(self._count().lost.values()))

    async def _replay(self, bus: EventBus) -> None:
        before = self._count().handled["line-counts"].total()
        self._tally.replayed = await bus.replay(EVENT, group="line-counts")
        self._teller.step(f"replayed the whole history to 'line-counts': {self._tally.replayed} events")
        wanted = before + self._tally.replayed
        await self._until("the replay to be handled", lambda: self._count().handled["line-counts"].total() >= wanted)

    async def _until(self, what: str, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            for name, worker in self._workers.items():
                if worker.returncode is not None:
                    raise DemoFailed(f"worker {name!r} ended with code {worker.returncode}: {self._last_words(name)}")
            if time.monotonic() > deadline:
                raise DemoFailed(f"waited {PATIENCE:g} s in vain for {what}")
            tally = self._count()
            self._teller.progress({group: len(tally.handled[group]) for group in GROUPS}, len(tally.published))
            await asyncio.sleep(0.05)
        tally = self._count()
        self._teller.progress({group: len(tally.handled[group]) for group in GROUPS}, len(tally.published))

    def _count(self) -> Tally:
        tally = self._tally
        tally.handled = {group: Counter() for group in GROUPS}
        for group in GROUPS:
            for name in (group, "victim") if group == "checksums" else (group,):
                tally.handled[group].update(self._facts(name, "handled"))
        names = (*GROUPS, "victim")
        tally.retried = sum(len(self._facts(name, "retried")) for name in names)
        tally.taken_over = sum(len(self._facts(name, "taken over")) for name in names)
        tally.dead = sum(len(self._facts(name, "dead")) for name in names)
        return tally

    def _facts(self, worker: str, fact: str) -> list[str]:
        path = self._room / f"{worker}.notes"
        if not path.exists():
            return []
        # The last line may be half-written when a worker is killed.
        lines = path.read_text().split("\n")[:-1]
        return [id for found, id in map(json.loads, lines) if found == fact]

    async def _start(self, name: str, group: str, *, slow: float = 0.0) -> None:
        with (self._room / f"{name}.stderr").open("wb") as stderr:
            self._workers[name] = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "forebay.cli.demo_worker", "--namespace", self._namespace),
                *("--group", group, "--slow", str(slow), "--fixed", str(self._fixed)),
                *("--notes", str(self._room / f"{name}.notes")),
                stderr=stderr,
                env={**os.environ, "FOREBAY_URL": self._url},
            )

    async def _stop_workers(self) -> None:
        for worker in self._workers.values():
            if worker.returncode is None:
                worker.terminate()
        for worker in self._workers.values():
            try:
                async with asyncio.timeout(15):
                    await worker.wait()
            except TimeoutError:
                worker.kill()
                await worker.wait()

    async def _clean(self, bus: EventBus) -> None:
        """Remove the demo's events from a store that is not its own."""
        await bus.discard(EVENT)
        store = await bus.ready()
        for group in GROUPS:
            await store.leave(EVENT, group)
        await store.trim(EVENT, max_length=0, force=True)

    def _last_words(self, name: str) -> str:
        lines = (self._room / f"{name}.stderr").read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"
