"""The moves of each role on Redis, with the rights that docs/redis.md gives it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

from forebay.event import Record, to_record
from forebay.store import Delivery, GroupCursor, Reader, RememberedId, Scheduled
from forebay.stores.redis import RedisStore
from tests.support.redis_servers import Server

STREAM = "order_placed"

READER = Reader(STREAM, "billing", "worker-1")

ORDERED = Reader(STREAM, "billing", "worker-1", ordered=True)

OTHER = Reader(STREAM, "billing", "worker-2", ordered=True)

PATTERNS = ("~events:*", "~{events:*}:*")

ROLES: dict[str, list[str]] = {
    role: rights.split()
    for role, rights in re.findall(
        r"^ACL SETUSER (\w+) on >secret ~events:\* ~\{events:\*\}:\*((?:.*\\\n)*.*)$",
        (Path(__file__).parents[2] / "docs/redis.md").read_text().replace("\\\n", " "),
        re.MULTILINE,
    )
}
"""What docs/redis.md gives to each role."""


def order(number: int = 1, id: str | None = None) -> Record:
    return to_record(STREAM, source="shop", data=number, id=id)


async def first_arrival(store: RedisStore) -> None:
    async with contextlib.aclosing(store.arrivals()) as arrivals:
        await anext(arrivals)


class State:
    """A stream with something in every place, which can be had again and again."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.dumps: dict[bytes, bytes] = {}
        self.leased: Delivery
        self.failed: Delivery
        self.letter = ""

    async def make(self) -> None:
        self.server.redis.flushall()
        async with RedisStore(self.server.url) as store:
            await store.join(STREAM, "billing")
            await store.append(STREAM, [order(number) for number in range(8)])
            self.leased, self.failed, waiting, dead = await store.read(READER, limit=4)
            assert await store.retry(self.failed, delay=0, keep=True)
            [self.failed] = await store.claim(READER, idle=0, limit=1)
            assert await store.retry(waiting, delay=0)
            assert await store.dead_letter(dead, reason="no")
            [letter] = await store.dead_letters(STREAM)
            self.letter = letter.id
            await store.append(STREAM, [order(id="known")], dedup_window=60)
            await store.schedule(STREAM, [order(id="later")], delay=0, dedup_window=60)
            await store.set_note(STREAM, "rule", b"value")
            [held] = await store.read(READER, limit=1)
            await store.ack([held], remember=60)
        self.server.redis.xdel("events:order_placed", self.server.redis.xrevrange("events:order_placed")[0][0])
        self.dumps = self.contents()

    def contents(self) -> dict[bytes, bytes]:
        return {key: self.server.redis.dump(key) for key in self.server.redis.scan_iter()}

    def reset(self) -> None:
        with self.server.redis.pipeline() as pipe:
            pipe.flushall()
            for key, dump in self.dumps.items():
                pipe.restore(key, 0, dump)
            pipe.execute()


Move = Callable[[RedisStore, State], Awaitable[object]]

PUBLISHING: dict[str, Move] = {
    "publish": lambda store, _: store.append(STREAM, [order()]),
    "publish many": lambda store, _: store.append(STREAM, [order(), order()]),
    "publish with an id": lambda store, _: store.append(STREAM, [order(id="known"), order(id="new")], dedup_window=60),
    "publish again": lambda store, _: store.append(STREAM, [order(id="new")], search_after="0-0"),
    "schedule": lambda store, _: store.schedule(STREAM, [order(id="new")], delay=60, dedup_window=60),
    "schedule at a moment": lambda store, _: store.schedule(STREAM, [order()], at=datetime(2100, 1, 1, tzinfo=UTC)),
    "schedule at a moment past": lambda store, _: store.schedule(
        STREAM, [order()], at=datetime(2000, 1, 1, tzinfo=UTC)
    ),
}

CONSUMING: dict[str, Move] = {
    "join": lambda store, _: store.join(STREAM, "mail"),
    "join again": lambda store, _: store.join(STREAM, "billing"),
    "trimmed_unread": lambda store, _: store.trimmed_unread(STREAM, "billing"),
    "read": lambda store, _: store.read(READER, limit=10),
    "wait for an event": lambda store, _: store.read(READER, limit=10, wait=0.01),
    "read in order": lambda store, _: store.read(OTHER, limit=10),
    "append_due": lambda store, _: store.append_due(STREAM),
    "arrivals": lambda store, _: first_arrival(store),
    "take_due": lambda store, _: store.take_due(READER, limit=10),
    "due in order": lambda store, _: store.take_due(ORDERED, limit=10),
    "claim": lambda store, _: store.claim(READER, idle=0, limit=10),
    "claim in order": lambda store, _: store.claim(ORDERED, idle=0, limit=10),
    "outlook": lambda store, _: store.outlook([READER]),
    "extend": lambda store, state: store.extend([state.leased]),
    "ack": lambda store, state: store.ack([state.leased]),
    "ack and remember": lambda store, state: store.ack([state.leased], remember=60),
    "handled": lambda store, _: store.handled(STREAM, "billing", ["known"]),
    "retry": lambda store, state: store.retry(state.leased, delay=1),
    "retry in order": lambda store, state: store.retry(state.leased, delay=1, keep=True),
    "release": lambda store, state: store.release([state.leased, state.failed]),
    "dead letter": lambda store, state: store.dead_letter(state.leased, reason="no"),
}

RETAINING: dict[str, Move] = {
    "notes": lambda store, _: store.notes(STREAM),
    "keep a note": lambda store, _: store.set_note(STREAM, "seen", b"1", expected=None),
    "stats of one": lambda store, _: store.stats([STREAM]),
    "trim": lambda store, _: store.trim(STREAM, max_length=0, force=True),
}

OPERATING: dict[str, Move] = {
    "scan": lambda store, _: store.scan(STREAM),
    "scan the newest": lambda store, _: store.scan(STREAM, newest=True),
    "locate": lambda store, _: store.locate(STREAM, datetime.now(UTC)),
    "stats": lambda store, _: store.stats(),
    "strays": lambda store, _: store.strays(),
    "pending": lambda store, _: store.pending(STREAM, "billing"),
    "dead letters": lambda store, _: store.dead_letters(STREAM),
    "redrive": lambda store, state: store.redrive(STREAM, [state.letter]),
    "discard": lambda store, state: store.discard(STREAM, [state.letter]),
    "seek": lambda store, _: store.seek(STREAM, "billing", "0-0"),
    "seek to the end": lambda store, _: store.seek(STREAM, "billing", "$"),
    "leave": lambda store, _: store.leave(STREAM, "billing"),
    "streams_with_notes": lambda store, _: store.streams_with_notes(),
    "remove a note": lambda store, _: store.set_note(STREAM, "rule", None),
    "scheduled": lambda store, _: store.scheduled(STREAM),
    "remembered": lambda store, _: store.remembered(STREAM),
    "restore": lambda store, _: store.restore(
        STREAM,
        [
            GroupCursor("mail", "0-0"),
            Scheduled("", order(), 9),
            RememberedId("x", 9),
            RememberedId("x", 9, group="mail"),
        ],
        notes={"rule": None, "other": b"1"},
    ),
    "drop": lambda store, _: store.drop(STREAM),
}

MOVES = {
    "publisher": PUBLISHING,
    "consumer": CONSUMING,
    "retention": RETAINING,
    "operator": OPERATING,
}

ALL = [(name, move) for moves in MOVES.values() for name, move in moves.items()]


def let(server: Server, *rights: str, keys: tuple[str, ...] = PATTERNS) -> str:
    """The URL of a user with just these rights."""
    server.redis.execute_command("ACL", "SETUSER", "few", "reset", "on", ">pw", *keys, *rights)
    return server.url.replace("redis://", "redis://few:pw@")
