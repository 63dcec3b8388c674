"""The consumer loop of the original design, as a model of its handling of events.

Publish is one XADD. A consumer reads only new entries (`>`), so it never reads again the pending entries of its own, or
of a consumer that died. The first failure of a handler sends an event to the dead letters, in two steps. Its calls
block the event loop. After any error it waits a while and goes on.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import signal
import time
import zlib
from datetime import UTC, datetime
from typing import Any

import redis

from chaos.dump import Dump
from chaos.history import Answered, Ended, GroupPending, Invoked, Pen, now
from chaos.workers import GROUPS, STREAM, Plan, body, failing_attempts, is_poison

KEY = f"events:{STREAM}"
DEAD = f"{KEY}:dead_letter"


def connect(plan: Plan) -> Any:
    """A client as the original design makes it, with the defaults of redis-py."""
    return redis.Redis.from_url(plan.url)


async def write(plan: Plan, process: str) -> None:
    """Publish on as many lanes as a writer of forebay, one after the other, since every call blocks."""
    logging.disable()
    pen = Pen(plan.folder, process)
    client = connect(plan)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    for number in itertools.count():
        for lane in range(plan.lanes):
            if stop.is_set():
                return
            key = f"{process}/{lane}"
            event = f"{key}/{number}"
            pen.write(Invoked(now(), event, key, number))
            text = body(event)
            data = json.dumps({"crc": zlib.crc32(text.encode()), "body": text})
            fields = {"type": STREAM, "source": event, "data": data, "timestamp": datetime.now(UTC).isoformat()}
            try:
                client.xadd(KEY, fields)
            except redis.RedisError as error:
                pen.write(Answered(now(), event, "unknown", type(error).__name__))
            else:
                pen.write(Answered(now(), event, "ok"))
        await asyncio.sleep(plan.pause)


async def consume(plan: Plan, process: str) -> None:
    """Handle the stream in every group; each has a thread of its own, as the calls block."""
    logging.disable()
    pen = Pen(plan.folder, process)
    calls = itertools.count()
    loops = [asyncio.to_thread(consume_events, plan, pen, group, f"{group}_consumer", calls) for group in GROUPS]
    await asyncio.gather(*loops)


def consume_events(plan: Plan, pen: Pen, group: str, consumer: str, calls: itertools.count[int]) -> None:
    """The loop itself."""
    client = connect(plan)
    while True:
        try:
            try:
                client.xgroup_create(KEY, group, id="0", mkstream=True)
            except redis.ResponseError as error:
                if "BUSYGROUP" not in str(error):
                    raise
            while True:
                reply = client.xreadgroup(group, consumer, {KEY: ">"}, count=10, block=1000)
                for _, messages in reply:
                    for id, fields in messages:
                        handle(client, pen, group, next(calls), id, fields)
        except redis.RedisError:
            time.sleep(5)


def handle(client: Any, pen: Pen, group: str, call: int, id: bytes, fields: dict[bytes, bytes]) -> None:
    """One event: handled and acked, or a dead letter at its first failure."""
    event = fields[b"source"].decode()
    pen.write(GroupPending(now(), group, event, call, 1, intact=True))
    try:
        work(event, group)
        pen.write(Ended(now(), call, "ok"))
        client.xack(KEY, group, id)
    except ValueError as error:
        pen.write(Ended(now(), call, "error"))
        letter = fields | {b"error": str(error).encode(), b"group": group.encode()}
        client.xadd(DEAD, letter)
        client.xack(KEY, group, id)


def work(event: str, group: str) -> None:
    """The work of the soak's handlers, without the waiting."""
    if group != "plain" and (is_poison(event) or failing_attempts(event)):
        raise ValueError(event)


def take(client: Any) -> Dump:
    """The content of the server at the end."""
    dump = Dump()
    names: dict[bytes, str] = {}
    for id, fields in client.xrange(KEY):
        names[id] = fields[b"source"].decode()
        dump.stored[names[id]] += 1
    for _, fields in client.xrange(DEAD):
        dump.dead[fields[b"group"].decode(), fields[b"source"].decode()] += 1
    for group in client.xinfo_groups(KEY):
        name = group["name"].decode()
        begun = {names[row["message_id"]] for row in client.xpending_range(KEY, name, "-", "+", 1_000_000)}
        unread = client.xrange(KEY, f"({group['last-delivered-id'].decode()}")
        dump.open[name] = begun | {names[id] for id, _ in unread}
    return dump
