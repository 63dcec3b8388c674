"""The route of each agent, and the stamp that says which bus handles an event.

The route is a note per agent beside a stream of the new store. The stamp is in the event's headers: at its publish it
is settled, once, for which agents the old bus handles it. So one bus handles each event, even if two processes know
different routes at the moment.
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
"""The bus on which an agent handles events; with "shadow" the old one, and the new one too, to compare."""

STREAM = "forebay.migration"
"""The stream whose notes hold the routes and the counts; it has no entries."""
_ROUTE = "route:"
_NAME = "name"

BY = "forebay-by"
OLD = "forebay-old"
SHADOW = "forebay-shadow"


class Stamp(msgspec.Struct, frozen=True):
    """The routes of an event, settled when it was published.

    `migration` names the pair of buses, `by` the DualBus that published it, and `number` counts the publishes of that
    one; all are empty for an event that was published without a DualBus. `old` are the agents for which the old bus
    handles it, `shadow` those of them that handle it on the new one too.
    """

    migration: str = ""
    by: str = ""
    number: str = ""
    old: frozenset[str] = frozenset()
    shadow: frozenset[str] = frozenset()

    @property
    def key(self) -> str:
        """A key that no other event of a DualBus has; known before the event has its id."""
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
        """The stamp for an event that these agents handle."""
        there = {agent: table.get(agent, "old") for agent in agents}
        old = frozenset(agent for agent, route in there.items() if route != "new")
        shadow = frozenset(agent for agent in old if there[agent] == "shadow")
        return msgspec.structs.replace(self, old=old, shadow=shadow)


def _names(event: Event, header: str) -> frozenset[str]:
    text = event.headers.get(header)
    return frozenset(text.split(",")) if text else frozenset()


async def routes(store: Notes) -> dict[str, Route]:
    """The route of each known agent."""
    return routes_in(await store.notes(STREAM))


def routes_in(notes: Mapping[str, bytes]) -> dict[str, Route]:
    """The route of each agent, by these notes; an invalid one counts as the old bus."""
    found: dict[str, Route] = {}
    for name, value in sorted(notes.items()):
        if name.startswith(_ROUTE):
            found[name.removeprefix(_ROUTE)] = "new" if value == b"new" else "shadow" if value == b"shadow" else "old"
    return found


async def name_of(store: Notes) -> str:
    """The name of the migration to this store, which is the same for all its processes.

    An event keeps its stamp in a copy: when the new bus is the old one of another migration, the stamps of this one
    must mean nothing.
    """
    while True:
        found = (await store.notes(STREAM)).get(_NAME)
        if found is not None:
            return found.decode()
        await store.set_note(STREAM, _NAME, secrets.token_hex(4).encode(), expected=None)


async def introduce(store: Notes, agent: str) -> None:
    """Make an agent known; the route of a new one is the old bus."""
    await store.set_note(STREAM, _ROUTE + agent, b"old", expected=None)


async def switch(store: Notes, agent: str, to: Route) -> Route:
    """Put an agent on a route; return the one it was on. `NotFound` for an agent that no DualBus knows."""
    if to not in get_args(Route):
        raise ConfigurationError(f"{to!r} is not a route; use {', '.join(get_args(Route))}")
    while True:
        notes = await store.notes(STREAM)
        known = routes_in(notes)
        if agent not in known:
            there = ", ".join(known) or "none yet; a DualBus makes them known when it is opened"
            raise NotFound(f"no agent {agent!r} in this migration; {nearest(agent, known) or f'there are {there}'}")
        name = _ROUTE + agent
        if await store.set_note(STREAM, name, to.encode(), expected=notes[name]):
            return known[agent]
