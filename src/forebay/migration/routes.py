"""Which bus each agent is on, and which one handles an event: the switch, and the stamp.

The switch is a note per agent beside a stream of the new store. The stamp travels with the event: at
its publish it is settled, once, for which agents the old bus handles it. So each event belongs to one
side, whatever each process has seen of the switch so far.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from typing import Literal, get_args

import msgspec

from forebay.errors import ConfigurationError, NotFound
from forebay.event import Event
from forebay.replay import nearest
from forebay.store import Notes

Route = Literal["old", "new", "shadow"]
"""Where an agent handles events; with "shadow" on the old bus, and once more on the new one, to compare."""

STREAM = "forebay.migration"
"""The stream whose notes hold the switch and the counts; it has no entries."""
_ROUTE = "route:"
_NAME = "name"

BY = "forebay-by"
OLD = "forebay-old"
SHADOW = "forebay-shadow"


class Stamp(msgspec.Struct, frozen=True):
    """What was settled about an event when it was published.

    `migration` names the pair of buses, `by` the DualBus that published it, and `number` counts what that one
    published; all are empty for an event that came past all of them. `old` are the agents for which the
    old bus handles it, `shadow` those of them that look at it on the new one too.
    """

    migration: str = ""
    by: str = ""
    number: str = ""
    old: frozenset[str] = frozenset()
    shadow: frozenset[str] = frozenset()

    @property
    def key(self) -> str:
        """What no other event of a DualBus has; known before the event has its id."""
        return f"{self.by}/{self.number}"

    def headers(self) -> dict[str, str]:
        """The stamp as headers of the event."""
        found = {BY: f"{self.migration}/{self.key}"}
        if self.old:
            found[OLD] = ",".join(sorted(self.old))
        if self.shadow:
            found[SHADOW] = ",".join(sorted(self.shadow))
        return found

    @classmethod
    def of(cls, event: Event) -> Stamp:
        """The stamp on an event."""
        migration, _, key = event.headers.get(BY, "").partition("/")
        by, _, number = key.rpartition("/")
        return cls(migration, by, number, _names(event, OLD), _names(event, SHADOW))

    def for_agents(self, table: Mapping[str, Route], agents: Iterable[str]) -> Stamp:
        """The stamp for an event of which these agents are to hear."""
        there = {agent: table.get(agent, "old") for agent in agents}
        old = frozenset(agent for agent, route in there.items() if route != "new")
        shadow = frozenset(agent for agent in old if there[agent] == "shadow")
        return msgspec.structs.replace(self, old=old, shadow=shadow)


def _names(event: Event, header: str) -> frozenset[str]:
    text = event.headers.get(header)
    return frozenset(text.split(",")) if text else frozenset()


async def routes(store: Notes) -> dict[str, Route]:
    """Where each known agent is."""
    return routes_in(await store.notes(STREAM))


def routes_in(notes: Mapping[str, bytes]) -> dict[str, Route]:
    """Where each agent is, by these notes; what is no route counts as the old bus."""
    found: dict[str, Route] = {}
    for name, value in sorted(notes.items()):
        if name.startswith(_ROUTE):
            found[name.removeprefix(_ROUTE)] = "new" if value == b"new" else "shadow" if value == b"shadow" else "old"
    return found


async def name_of(store: Notes) -> str:
    """The name of the migration to this store, which is the same for all its processes.

    An event keeps its stamp wherever it is taken: when the new bus is the old one of another migration, the stamps of
    this one must mean nothing.
    """
    while True:
        found = (await store.notes(STREAM)).get(_NAME)
        if found is not None:
            return found.decode()
        await store.set_note(STREAM, _NAME, secrets.token_hex(4).encode(), expected=None)


async def introduce(store: Notes, agent: str) -> None:
    """Make an agent known; a new one is on the old bus."""
    await store.set_note(STREAM, _ROUTE + agent, b"old", expected=None)


async def switch(store: Notes, agent: str, to: Route) -> Route:
    """Put an agent on a route; return the one it was on. `NotFound` for an agent that no DualBus knows."""
    if to not in get_args(Route):
        raise ConfigurationError(f"{to!r} is no route; use {', '.join(get_args(Route))}")
    while True:
        notes = await store.notes(STREAM)
        known = routes_in(notes)
        if agent not in known:
            there = ", ".join(known) or "none yet; a DualBus makes them known when it is opened"
            raise NotFound(f"no agent {agent!r} in this migration; {nearest(agent, known) or f'there are {there}'}")
        name = _ROUTE + agent
        if await store.set_note(STREAM, name, to.encode(), expected=notes[name]):
            return known[agent]
