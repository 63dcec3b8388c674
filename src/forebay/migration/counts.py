"""The counts of a DualBus, for both buses: small, bounded, and mergeable."""

from __future__ import annotations

import itertools

import msgspec

BUCKETS = 24
"""Buckets of a histogram: from 0.1 ms, each twice the one before; the last one has no upper end."""
FIRST_SECONDS = 0.0001
"""The upper end of the first bucket."""


class Histogram(msgspec.Struct, omit_defaults=True):
    """Durations, in buckets that double. A quantile is exact to a factor of two."""

    buckets: list[int] = []
    """As many buckets as were needed so far."""

    def add(self, seconds: float) -> None:
        """Count one."""
        place, limit = 0, FIRST_SECONDS
        while seconds > limit and place < BUCKETS - 1:
            place, limit = place + 1, limit * 2
        self.buckets += [0] * (place + 1 - len(self.buckets))
        self.buckets[place] += 1

    def merge(self, other: Histogram) -> None:
        """Add up with another one."""
        self.buckets = [a + b for a, b in itertools.zip_longest(self.buckets, other.buckets, fillvalue=0)]

    def quantile(self, part: float) -> float | None:
        """The upper end, in seconds, of the bucket with this quantile; None if nothing was counted."""
        total = sum(self.buckets)
        seen = 0
        for place, number in enumerate(self.buckets):
            seen += number
            if number and seen >= part * total:
                return FIRST_SECONDS * 2.0**place
        return None


class TypeCounts(msgspec.Struct, omit_defaults=True):
    """Events of one type.

    `old`, `new`: published on each. `missing`: on the old bus, and not found on the new one. `extra`: on the
    new one, and refused by the old one. `differing`: with other data on the one than on the other. `bypassed`: on the
    old bus, published without the DualBus.
    """

    old: int = 0
    new: int = 0
    missing: int = 0
    extra: int = 0
    differing: int = 0
    bypassed: int = msgspec.field(default=0, name="past")


class AgentCounts(msgspec.Struct, omit_defaults=True):
    """The events of one type that an agent handled.

    `handled` and `failed` on each bus; a failure that is followed by another attempt counts each time.
    `lost`: for the old bus to handle, and not handled there, as far as is known. `same` and `different`: the
    results of shadow runs. Latencies are from publish to handled, in seconds.
    """

    old_handled: int = 0
    old_failed: int = 0
    new_handled: int = 0
    new_failed: int = 0
    lost: int = 0
    same: int = 0
    different: int = msgspec.field(default=0, name="unlike")
    old_latency: Histogram = msgspec.field(default_factory=Histogram)
    new_latency: Histogram = msgspec.field(default_factory=Histogram)


class Counts(msgspec.Struct, omit_defaults=True):
    """All counts: by type, and by type and agent."""

    types: dict[str, TypeCounts] = {}
    agents: dict[str, dict[str, AgentCounts]] = {}

    def type(self, name: str) -> TypeCounts:
        """The counts of a type."""
        return self.types.setdefault(name, TypeCounts())

    def agent(self, type: str, agent: str) -> AgentCounts:
        """The counts of an agent for a type."""
        return self.agents.setdefault(type, {}).setdefault(agent, AgentCounts())

    def merge(self, other: Counts) -> None:
        """Add up with others."""
        for name, counts in other.types.items():
            _add(self.type(name), counts)
        for name, agents in other.agents.items():
            for agent, counted in agents.items():
                _add(self.agent(name, agent), counted)


def _add(to: msgspec.Struct, more: msgspec.Struct) -> None:
    for name in to.__struct_fields__:
        value = getattr(to, name)
        if isinstance(value, Histogram):
            value.merge(getattr(more, name))
        else:
            setattr(to, name, value + getattr(more, name))
