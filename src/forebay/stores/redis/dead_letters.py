"""The moves of dead letters: list, redrive, discard."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from forebay.store import DeadLetter
from forebay.stores.redis import positions, scripts
from forebay.stores.redis.client import Client
from forebay.stores.redis.codec import decode_dead_letter
from forebay.stores.redis.keys import Keys

BATCH = 500
"""Dead letters that one script call handles at most; the server does nothing else meanwhile."""


async def dead_letters(client: Client, keys: Keys, *, group: str | None, after: str, limit: int) -> list[DeadLetter]:
    """Dead letters with an id after `after`, oldest first."""
    if group is not None:
        keys.group(group)
    found: list[DeadLetter] = []
    first = f"({positions.check(after)}" if after else "-"
    while len(found) < limit:
        rows = await client.call(keys.dead_letter, "XRANGE", keys.dead_letter, first, "+", "COUNT", limit)
        letters = (decode_dead_letter(keys.name, id, fields) for id, fields in rows)
        found += (letter for letter in letters if group is None or letter.group == group)
        if len(rows) < limit:
            break
        first = f"({rows[-1][0].decode()}"
    return found[:limit]


async def redrive(client: Client, keys: Keys, ids: Sequence[str]) -> int:
    """Append these dead letters again, each for its group; return how many."""
    count = 0
    for some in _batches(ids):
        count += await scripts.redrive(client, keys, some)
    return count


async def discard(client: Client, keys: Keys, ids: Sequence[str]) -> int:
    """Remove these dead letters; return how many there were."""
    count = 0
    for some in _batches(ids):
        count += await scripts.discard(client, keys, some)
    return count


def _batches(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), BATCH):
        yield [positions.check(id) for id in ids[start : start + BATCH]]
