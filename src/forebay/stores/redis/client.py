"""Puts commands and scripts through to the node that serves their key, and turns refusals into errors."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import time
from collections.abc import Awaitable, Iterable, Sequence
from functools import cache
from importlib import resources
from typing import Any

import hiredis

from forebay.clock import boottime
from forebay.errors import ForebayError, OutcomeUnknown, StoreUnavailable
from forebay.stores.redis.address import Address, Deployment
from forebay.stores.redis.errors import Fate, fate, translate
from forebay.stores.redis.node import Node, Part, pack
from forebay.stores.redis.pace import TOLERANCE, Pace
from forebay.stores.redis.topology import NAME_THE_NODES, topology

HOPS = 5
"""Redirections that one command follows."""
MARGIN = 2.0
"""Seconds by which a position is put before the moment it stands for, against drift between clocks."""


class Script:
    """A Lua script: one move, whole or not at all."""

    def __init__(self, name: str) -> None:
        folder = resources.files(__package__) / "scripts"
        body = (folder / f"{name}.lua").read_text()
        self.is_timed = "now()" in body or name == "step"
        """Whether it asks for the stream's own time."""
        parts = ["prelude", "clock"] if self.is_timed else ["prelude"]
        self.source = "".join((folder / f"{part}.lua").read_text() for part in parts) + body
        self.sha = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()


script = cache(Script)


class Client:
    """What the store talks through. It sends again only what a node refused and passed on to another."""

    def __init__(self, deployment: Deployment, timeout: float) -> None:
        self.name = f"{deployment.mode} {', '.join(map(str, deployment.addresses))}"
        self.topology = topology(deployment, timeout)
        self.allow_eviction = deployment.allow_eviction
        self._paces: dict[str, Pace] = {}

    def call(self, key: str, *command: Part) -> Awaitable[Any]:
        """The reply to a command on `key`."""
        return self.send(key, pack(*command))

    def block(self, key: str, wait: float, *command: Part) -> Awaitable[Any]:
        """The reply to a command on `key` that may block for `wait` seconds."""
        return self.send(key, pack(*command), wait)

    async def transact(self, key: str, commands: Iterable[bytes]) -> list[Any] | None:
        """The replies to packed commands on `key` that are carried out as one.

        None where they surely were not: refused, redirected, or not even sent. A script then finds the
        way, or the reason.
        """
        node = self.topology.find(key)
        if node is None or (wire := node.wire) is None or not wire.is_open:
            return None
        try:
            if wire.may_transact is None:
                # Where MULTI is refused, what stands behind it would be carried out all the same.
                wire.may_transact = await _succeeds(wire.send_together((_MULTI, _EXEC)))
            if not wire.may_transact:
                return None
            replies: list[Any] = await wire.send_together(itertools.chain((_MULTI,), commands, (_EXEC,)))
        except hiredis.ReplyError as refusal:
            if "without MULTI" in str(refusal):
                wire.may_transact = False
                raise OutcomeUnknown(f"{node.name} takes no transactions any more: {refusal}") from refusal
            return None
        except (StoreUnavailable, OutcomeUnknown):
            self.topology.invalidate(node)
            raise
        for reply in replies:
            if isinstance(reply, hiredis.ReplyError):
                raise self._to_error(reply, node, key) from reply
        return replies

    async def run(self, name: str, keys: Sequence[str], *arguments: Part) -> Any:
        """The reply of a script. Its keys live on one node."""
        move = script(name)
        if move.is_timed:
            pace = self.pace(keys[0])
            keys, arguments = (*keys, pace.key), (*arguments, *pace.bounds())
        try:
            return await self.send(keys[0], pack("EVALSHA", move.sha, len(keys), *keys, *arguments))
        except _UnknownScript:
            return await self.send(keys[0], pack("EVAL", move.source, len(keys), *keys, *arguments))

    async def watch(self, name: str, keys: Sequence[str], *arguments: Part) -> list[Any]:
        """The reply of a script that begins with the stream's time; what stands behind that.

        Where the server's clock was set since the last answer, the stream's offset is changed by as much.
        """
        pace = self.pace(keys[0])
        sent = boottime()
        reply: list[Any] = await self.run(name, keys, *arguments)
        told, offset, *rest = reply
        if step := pace.look(told, int(offset), sent, boottime()):
            _, latest = pace.bounds()
            expected = int(latest) - step.offset + round(TOLERANCE * 2000)
            after = step.offset - round(step.seconds * 1000)
            # The move is done, whatever comes of this; the next answer shows the step again.
            with contextlib.suppress(ForebayError):
                if await self.run("step", keys[:1], step.offset, after, expected) == b"none":
                    pace.forget()
        return rest

    def pace(self, key: str) -> Pace:
        """What is known of the time of the stream that the key belongs to."""
        pace = self._paces.get(key)
        if pace is None:
            tag = key.partition("}")[0].removeprefix("{")
            own = f"{{{tag}}}:clock"
            pace = self._paces[key] = self._paces.setdefault(own, Pace(own))
        return pace

    async def ask(self, node: Node, *command: Part) -> Any:
        """The reply of this very node."""
        try:
            return await node.send(pack(*command))
        except hiredis.ReplyError as reply:
            raise self._to_error(reply, node) from reply
        except (StoreUnavailable, OutcomeUnknown):
            self.topology.invalidate(node)
            raise

    async def masters(self) -> list[Node]:
        """The nodes that together hold every stream."""
        if not self.topology.masters():
            await self.topology.refresh()
        return self.topology.masters()

    def server_time(self, key: str, moment: float | None = None) -> float:
        """The time at the server of `key`, in seconds, now or at a moment of `boottime`.

        About right, if its clock was not set since it was last asked.
        """
        node = self.topology.find(key)
        clock = node.clock if node else time.time() - boottime()
        return clock + (boottime() if moment is None else moment)

    async def ask_time(self, key: str) -> float:
        """Seconds to add to `boottime` for the time at the server of `key`, as it tells it now; never too many."""
        seconds, micros = await self.call(key, "TIME")
        return int(seconds) + int(micros) / 1e6 - boottime()

    async def close(self) -> None:
        """Close all connections."""
        await self.topology.close()

    def begin(self, key: str, command: bytes) -> asyncio.Future[Any] | None:
        """The reply to a packed command on `key`, which is on its way; None where it is not, and `send` must be asked.

        The usual way, without the cost of one more coroutine. A refusal is raised as it is, for `follow`;
        where the connection is lost, `invalidate` is to be called.
        """
        node = self.topology.find(key)
        wire = None if node is None else node.wire
        return None if wire is None or not wire.is_open else wire.send(command)

    async def send(self, key: str, command: bytes, wait: float | None = None) -> Any:
        """The reply to a packed command on `key`, which may block for `wait` seconds."""
        node = self.topology.find(key) or await self._look(key)
        try:
            return await self._put(node, command, wait)
        except hiredis.ReplyError as reply:
            return await self.follow(reply, key, command, wait, node)

    async def follow(
        self, reply: hiredis.ReplyError, key: str, command: bytes, wait: float | None = None, node: Node | None = None
    ) -> Any:
        """What comes of a refusal by the node of `key`: the reply of the one it names, or the error that it means."""
        node = node or self.topology.find(key) or await self._look(key)
        for _ in range(HOPS - 1):
            word, _, rest = str(reply).partition(" ")
            if word == "NOSCRIPT":
                raise _UnknownScript from reply
            if word not in ("MOVED", "ASK"):
                raise self._to_error(reply, node, key) from reply
            slot, _, deployment = rest.partition(" ")
            host, _, port = deployment.rpartition(":")
            address = Address(host, int(port))
            node = await self.topology.redirect(address, int(slot), asked=node, for_good=word == "MOVED")
            try:
                return await self._put(node, command, wait, asking=word == "ASK")
            except hiredis.ReplyError as another:
                reply = another
        raise StoreUnavailable(
            f"{node.name} was the end of {HOPS} redirections: the cluster is changing, try again; or {NAME_THE_NODES}"
        )

    def invalidate(self, key: str) -> None:
        """The node of `key` was lost."""
        if (node := self.topology.find(key)) is not None:
            self.topology.invalidate(node)

    async def _put(self, node: Node, command: bytes, wait: float | None, *, asking: bool = False) -> Any:
        try:
            if wait is not None:
                return await node.block(command, wait, asking=asking)
            return await node.send(command, asking=asking)
        except (StoreUnavailable, OutcomeUnknown):
            self.topology.invalidate(node)
            raise

    async def _look(self, key: str) -> Node:
        await self.topology.refresh()
        node = self.topology.find(key)
        if node is None:
            raise StoreUnavailable(f"no node serves {key} now; try again")
        return node

    def _to_error(self, reply: hiredis.ReplyError, node: Node, key: str = "") -> Exception:
        if fate(reply) is Fate.HEALABLE:
            self.topology.invalidate(node)
        return translate(reply, node.name, key)


_MULTI, _EXEC = pack("MULTI"), pack("EXEC")


async def _succeeds(answer: Awaitable[Any]) -> bool:
    try:
        await answer
    except hiredis.ReplyError:
        return False
    return True


class _UnknownScript(Exception):
    """The server has not seen the script yet, or has forgotten it."""
