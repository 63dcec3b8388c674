"""Sentinels and clusters of Redis servers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from forebay.errors import OutcomeUnknown, StoreUnavailable
from tests.support.redis_servers import Server, eventually

T = TypeVar("T")


async def insist(attempt: Callable[[], Awaitable[T]], within: float = 20.0) -> T:
    """Repeat over transient errors, as the runtime does."""
    deadline = time.monotonic() + within
    while True:
        try:
            return await attempt()
        except (StoreUnavailable, OutcomeUnknown):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)


def watched(started: list[Server], binary: str, folder: Path) -> tuple[Server, Server, Server]:
    master = Server(binary, folder, "--repl-diskless-sync-delay", "0")
    started.append(master)
    replica = Server(binary, folder, "--replicaof", "127.0.0.1", str(master.port))
    started.append(replica)
    eventually(lambda: replica.redis.info("replication")["master_link_status"] == "up", "the replica has no link")
    sentinel = Server(
        binary,
        folder,
        config=f"sentinel monitor main 127.0.0.1 {master.port} 1\n"
        "sentinel down-after-milliseconds main 500\n"
        "sentinel failover-timeout main 5000\n",
    )
    started.append(sentinel)
    eventually(lambda: sentinel.redis.info("sentinel")["master0"]["slaves"] == 1, "the sentinel sees no replica")
    return master, replica, sentinel


LAST_OF_FIRST = 5460


def make_cluster(started: list[Server], binary: str, folder: Path, *options: str) -> list[Server]:
    """Three masters without replicas."""
    cluster = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1000", *options)
    # One by one, so that those before one that fails are stopped.
    started.extend(Server(binary, folder, *cluster) for _ in range(3))
    nodes = started
    for node, first, last in zip(nodes, (0, LAST_OF_FIRST + 1, 10923), (LAST_OF_FIRST, 10922, 16383), strict=True):
        node.redis.execute_command("CLUSTER", "ADDSLOTS", *range(first, last + 1))
    for epoch, node in enumerate(nodes, 1):
        node.redis.execute_command("CLUSTER", "SET-CONFIG-EPOCH", epoch)
    for node in nodes[1:]:
        nodes[0].redis.execute_command("CLUSTER", "MEET", "127.0.0.1", node.port)
    for node in nodes:
        eventually(lambda node=node: b"cluster_slots_ok:16384" in _info(node), "the cluster does not form")  # type: ignore[misc]  # bound in the loop
        eventually(lambda node=node: b"cluster_state:ok" in _info(node), "the cluster is not well")  # type: ignore[misc]  # bound in the loop
    return nodes


def _info(node: Server) -> bytes:
    reply = node.redis.execute_command("CLUSTER", "INFO", NEVER_DECODE=True)
    return reply if isinstance(reply, bytes) else "\n".join(f"{k}:{v}" for k, v in reply.items()).encode()


def replica_of(master: Server, binary: str, folder: Path, *options: str) -> Server:
    replica = Server(binary, folder, "--replicaof", "127.0.0.1", str(master.port), *options)
    eventually(lambda: replica.redis.info("replication")["master_link_status"] == "up", "the replica has no link")
    return replica
