"""Sends commands and scripts to the node that serves their key, and raises the errors that its refusals mean."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import time
from collections.abc import Awaitable, Iterable, Sequence
from functools import cached_property
from importlib import resources
from typing import Any

import hiredis

from forebay.clock import boottime
from forebay.errors import ForebayError, OutcomeUnknown, StoreUnavailable
from forebay.stores.redis.address import Address, Deployment
from forebay.stores.redis.errors import Fate, fate, translate
from forebay.stores.redis.node import Node, Part, pack
from forebay.stores.redis.pace import TOLERANCE, Pace, Step
from forebay.stores.redis.topology import NAME_THE_NODES, topology

HOPS = 5
"""Redirections that one command follows."""
FAULTS = (hiredis.ReplyError, StoreUnavailable, OutcomeUnknown)
"""The errors of a node: its refusals, and the loss of its connection."""


class Script:
    """A Lua script: one move, whole or not at all.

    A timed script begins with clock.lua after the prelude: it needs the stream's own time.
    """

    def __init__(self, name: str, *, timed: bool = False) -> None:
        self.name = name
        self._parts = ["prelude", "clock", name] if timed else ["prelude", name]

    @cached_property
    def source(self) -> str:
        """The whole text."""
        folder = resources.files(__package__) / "lua"
        return "".join((folder / f"{part}.lua").read_text() for part in self._parts)

    @cached_property
    def sha(self) -> str:
        """The name by which a server knows the script."""
        return hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()


class Client:
    """The connection of a store to its servers. It repeats a command only if a node refused it and named another.

    | method        | sends                                        | to                          |
    |---------------|----------------------------------------------|-----------------------------|
    | `call`        | a command                                    | the node of its key         |
    | `send`        | a command that is packed already             | the node of its key         |
    | `send_now`    | the same, without a coroutine of its own     | the node of its key         |
    | `block`       | a command that may block                     | the same, a wire of its own |
    | `transact`    | packed commands, carried out as one (MULTI)  | the node of their key       |
    | `run`         | a script                                     | the node of its first key   |
    | `run_timed`   | a script that needs the stream's time        | the same                    |
    | `run_watched` | the same, if its reply begins with that time | the same                    |
    | `ask`         | a command                                    | the node that is given      |

    `transact` returns None if the commands were surely not carried out. The faults of `send_now` go to `recover`. The
    others return the reply, or raise the error that it means. Scripts are sent by their typed functions in `scripts`.
    """

    def __init__(self, deployment: Deployment, timeout: float) -> None:
        self.name = f"{deployment.mode} {', '.join(map(str, deployment.addresses))}"
        self.topology = topology(deployment, timeout)
        self.allow_eviction = deployment.allow_eviction
        self._paces: dict[str, Pace] = {}

    def call(self, key: str, *command: Part) -> Awaitable[Any]:
        """The reply to a command on `key`."""
        return self.send(key, pack(*command))

    async def send(self, key: str, command: bytes) -> Any:
        """The reply to a packed command on `key`."""
        try:
            return await self.send_now(key, command)
        except FAULTS as error:
            return await self.recover(error, key, command)

    def send_now(self, key: str, command: bytes) -> Awaitable[Any]:
        """The reply to a packed command on `key`. Pass its FAULTS to `recover`."""
        node = self.topology.find(key)
        wire = None if node is None else node.wire
        # Usually the wire is open.
        return self._open_and_send(key, command) if wire is None or not wire.is_open else wire.send(command)

    async def recover(self, fault: Exception, key: str, command: bytes) -> Any:
        """The reply of the node that a redirection names; any other fault is raised as the error that it means."""
        node = self.topology.find(key)
        if isinstance(fault, hiredis.ReplyError):
            return await self._follow(fault, key, command, None, node or await self._find_again(key))
        # An open wire was made after the loss.
        if node is not None and not (node.wire is not None and node.wire.is_open):
            self.topology.invalidate(node)
        raise fault

    async def _open_and_send(self, key: str, command: bytes) -> Any:
        node = self.topology.find(key) or await self._find_again(key)
        return await node.send(command)

    async def block(self, key: str, wait: float, *command: Part) -> Any:
        """The reply to a command on `key` that may block for `wait` seconds."""
        node = self.topology.find(key) or await self._find_again(key)
        packed = pack(*command)
        try:
            return await self._put(node, packed, wait)
        except hiredis.ReplyError as reply:
            return await self._follow(reply, key, packed, wait, node)

    async def transact(self, key: str, commands: Iterable[bytes]) -> list[Any] | None:
        """The replies to packed commands on `key` that are carried out as one.

        None if they surely were not: refused, redirected, or not even sent. A script then finds the way, or the reason.
        """
        node = self.topology.find(key)
        if node is None or (wire := node.wire) is None or not wire.is_open:
            return None
        try:
            if wire.may_transact is None:
                # If MULTI were refused, the commands after it would be carried out all the same.
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

    async def run(self, script: Script, keys: Sequence[str], *arguments: Part) -> Any:
        """The reply of a script. Its keys are on one node."""
        try:
            return await self.send(keys[0], pack("EVALSHA", script.sha, len(keys), *keys, *arguments))
        except _UnknownScript:
            return await self.send(keys[0], pack("EVAL", script.source, len(keys), *keys, *arguments))

    async def run_timed(self, script: Script, clock: str, keys: Sequence[str], *arguments: Part) -> Any:
        """The reply of a timed script. `clock` is the key of the stream's offset."""
        return await self.run(script, (*keys, clock), *arguments, *self.pace(clock).bounds())

    async def run_watched(self, script: Script, clock: str, keys: Sequence[str], *arguments: Part) -> list[Any]:
        """The rest of the reply of a timed script that begins with the stream's time and offset."""
        sent = boottime()
        reply: list[Any] = await self.run_timed(script, clock, keys, *arguments)
        shown, offset, *rest = reply
        pace = self.pace(clock)
        if step := pace.look(shown, int(offset), sent, boottime()):
            await self.correct(pace, keys[0], step)
        return rest

    def pace(self, clock: str) -> Pace:
        """The time of a stream, as far as this client has watched it. `clock` is the key of its offset."""
        pace = self._paces.get(clock)
        if pace is None:
            pace = self._paces[clock] = Pace(clock)
        return pace

    async def correct(self, pace: Pace, stream: str, step: Step) -> None:
        """Change the offset of a stream by as much as the server's clock was set."""
        _, latest = pace.bounds()
        expected = int(latest) - step.offset + round(TOLERANCE * 1000)
        after = step.offset - round(step.seconds * 1000)
        # The move that showed the step is done, even if this fails; the next reply shows the step again.
        with contextlib.suppress(ForebayError):
            if await self.run_timed(_SET_OFFSET, pace.key, (stream,), step.offset, after, expected) == b"none":
                pace.forget()

    async def ask(self, node: Node, *command: Part) -> Any:
        """The reply of this node."""
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

        An estimate: the server's clock may have been set since the last answer.
        """
        node = self.topology.find(key)
        clock = node.clock if node else time.time() - boottime()
        return clock + (boottime() if moment is None else moment)

    async def ask_time(self, key: str) -> float:
        """Seconds to add to `boottime` for the time at the server of `key`, by its answer; never too many."""
        seconds, micros = await self.call(key, "TIME")
        return int(seconds) + int(micros) / 1e6 - boottime()

    async def close(self) -> None:
        """Close all connections."""
        await self.topology.close()

    async def _follow(self, reply: hiredis.ReplyError, key: str, command: bytes, wait: float | None, node: Node) -> Any:
        """Follow a redirection to the node that it names; raise the error that any other refusal means."""
        for _ in range(HOPS - 1):
            word, _, rest = str(reply).partition(" ")
            if word == "NOSCRIPT":
                raise _UnknownScript from reply
            if word not in ("MOVED", "ASK"):
                raise self._to_error(reply, node, key) from reply
            slot, _, target = rest.partition(" ")
            host, _, port = target.rpartition(":")
            address = Address(host, int(port))
            node = await self.topology.redirect(address, int(slot), asked=node, for_good=word == "MOVED")
            try:
                return await self._put(node, command, wait, asking=word == "ASK")
            except hiredis.ReplyError as another:
                reply = another
        raise StoreUnavailable(
            f"{node.name} was the end of {HOPS} redirections: the cluster is changing, try again; or {NAME_THE_NODES}"
        )

    async def _put(self, node: Node, command: bytes, wait: float | None, *, asking: bool = False) -> Any:
        try:
            if wait is not None:
                return await node.block(command, wait, asking=asking)
            return await node.send(command, asking=asking)
        except (StoreUnavailable, OutcomeUnknown):
            self.topology.invalidate(node)
            raise

    async def _find_again(self, key: str) -> Node:
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
_SET_OFFSET = Script("set_offset", timed=True)


async def _succeeds(answer: Awaitable[Any]) -> bool:
    try:
        await answer
    except hiredis.ReplyError:
        return False
    return True


class _UnknownScript(Exception):
    """The server has not seen the script yet, or has forgotten it."""
