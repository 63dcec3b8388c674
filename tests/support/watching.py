"""Run an agent in a test, and read the published changes of files."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec

from forebay import Event, EventBus, EventType, ForebayError
from forebay.agents import BaseAgent, ChangeDetectionAgent, FileChange

WITHIN = 30.0
"""Seconds within which a change is published, also on a busy machine."""
KINDS = (EventType.FILE_CREATED, EventType.FILE_MODIFIED, EventType.FILE_DELETED)


@contextlib.asynccontextmanager
async def running(bus: EventBus, *agents: BaseAgent) -> AsyncIterator[None]:
    """Run the agents meanwhile; what ended the run before its time is raised."""
    run = asyncio.create_task(bus.run(*agents))
    try:
        yield
    finally:
        bus.stop()
        await run


async def events(bus: EventBus) -> list[Event]:
    """All published changes of files, in order."""
    found: list[Event] = []
    for kind in KINDS:
        found.extend([event async for event in bus.events(kind) if isinstance(event, Event)])
    return sorted(found, key=lambda event: event.timestamp)


async def told(bus: EventBus) -> list[tuple[str, str]]:
    """A change: "created", "modified" or "deleted", and the file's name."""
    return [(event.type.removeprefix("file_"), change(event).file.name) for event in await events(bus)]


async def is_told(bus: EventBus, *expected: tuple[str, str]) -> bool:
    """True if all of these were published, among others."""
    return set(expected) <= set(await told(bus))


def change(event: Event) -> FileChange:
    """The change in an event."""
    return msgspec.convert(event.data, FileChange)


def digest(path: Path) -> str:
    """The SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def final(history: list[Event]) -> dict[Path, str]:
    """Which files there are, with their hash, to those who heard all; each event has to fit the one before."""
    files: dict[Path, str] = {}
    for event in history:
        said = change(event)
        known = files.get(said.file)
        if event.type == EventType.FILE_CREATED.value:
            assert known is None, f"{said.file} was told to be created twice"
            files[said.file] = said.sha256
        elif event.type == EventType.FILE_MODIFIED.value:
            assert known is not None, f"{said.file} was modified before it was created"
            assert said.sha256 != known, f"{said.file} was told twice to be modified so"
            files[said.file] = said.sha256
        else:
            assert said.sha256 == files.pop(said.file, None), f"{said.file} was told to be deleted, and was not there"
    return files


def on_disk(folder: Path) -> dict[Path, str]:
    """Which files there are, with their hash."""
    return {path: digest(path) for path in folder.rglob("*") if path.is_file() and not path.is_symlink()}


def watcher(*folders: Path, **options: Any) -> ChangeDetectionAgent:
    """An agent that looks quickly."""
    return ChangeDetectionAgent(*folders, **{"debounce": 0.05, "lease": 1.0, **options})


async def healthy(agent: ChangeDetectionAgent, files: int) -> bool:
    """Whether it watches, and knows this many files."""
    try:
        return await agent.health() == {"watching": True, "files": files}
    except ForebayError:
        return False


async def ails(agent: ChangeDetectionAgent, with_what: str) -> bool:
    """Whether it says that it is unhealthy, and why."""
    try:
        await agent.health()
    except ForebayError as error:
        return with_what in str(error)
    return False


async def watch(url: str, namespace: str, folder: Path, lease: float) -> None:
    """Watch a folder until SIGTERM, in a process that may be killed."""
    async with EventBus(url, namespace=namespace) as bus:
        await bus.run(ChangeDetectionAgent(folder, debounce=0.05, lease=lease))
