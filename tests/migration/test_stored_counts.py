"""The counts of a migration are read by every version of forebay that takes part in it."""

import msgspec

from forebay.migration.counts import Counts


def test_the_stored_counts_keep_their_keys() -> None:
    counts = Counts()
    counts.type("order").bypassed = 2
    counts.agent("order", "billing").different = 3

    stored = msgspec.json.encode(counts)

    kept = {"types": {"order": {"past": 2}}, "agents": {"order": {"billing": {"unlike": 3}}}}
    assert kept == _without_latencies(stored)
    assert counts == msgspec.json.decode(stored, type=Counts)


def _without_latencies(stored: bytes) -> object:
    found = msgspec.json.decode(stored)
    for agents in found["agents"].values():
        for counted in agents.values():
            for side in ("old_latency", "new_latency"):
                counted.pop(side, None)
    return found
