"""The server of each stream: one server, the master that Sentinel names, or a node of a cluster."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import hiredis
from redis.crc import key_slot

from forebay.errors import ConfigurationError, StoreDenied, StoreError, StoreUnavailable
from forebay.stores.redis.address import Address, Credentials, Deployment
from forebay.stores.redis.errors import translate
from forebay.stores.redis.node import START_ONE, Node, SingleFlight, pack

T = TypeVar("T")

SLOTS = 16384
STAGGER = 0.5
"""Seconds without an answer after which the next server is asked."""
UNKNOWN_HOSTS = ("", "?")
"""Hosts by which a cluster's node names itself if it does not know its own."""
NAME_THE_NODES = (
    "the cluster names its node so: check cluster-preferred-endpoint-type, cluster-announce-hostname and "
    "cluster-announce-ip on the nodes"
)
_NAME_THE_MASTER = "the sentinels name the master so: check replica-announce-ip, and announce-hostnames of Sentinel"

logger = logging.getLogger("forebay")


class Topology(Protocol):
    """Knows the nodes, and which of them serves a key."""

    def find(self, key: str) -> Node | None:
        """The node that serves the key; None if that is unknown, and `refresh` must be called."""
        ...

    def partition(self, key: str) -> int:
        """A number that keys share if one command or script may name them together."""
        ...

    async def refresh(self) -> None:
        """Find the server of each stream; `StoreUnavailable` if no server knows."""
        ...

    def invalidate(self, node: Node) -> None:
        """The node was lost, or is not a master any more: the next command finds its server again."""
        ...

    async def redirect(self, address: Address, slot: int, *, asked: Node, for_good: bool) -> Node:
        """The node at an address that the node `asked` named; if `for_good`, it serves the slot from now on."""
        ...

    def masters(self) -> list[Node]:
        """The nodes that together hold every stream."""
        ...

    async def close(self) -> None:
        """Close every node."""
        ...


def topology(deployment: Deployment, timeout: float) -> Topology:
    """The topology of a deployment."""
    match deployment.mode:
        case "sentinel":
            return Sentinel(deployment, timeout)
        case "cluster":
            return Cluster(deployment, timeout)
        case "standalone":
            return Standalone(deployment, timeout)


class Nodes:
    """The known nodes, by address."""

    def __init__(self, access: Credentials, timeout: float, named: Sequence[Address], advice: str) -> None:
        self._access = access
        # The addresses in the URL; the advice is for all others.
        self._named = named
        self._timeout = timeout
        self._advice = advice
        self._nodes: dict[Address, Node] = {}

    def at(self, address: Address) -> Node:
        """The node at an address."""
        node = self._nodes.get(address)
        if node is None:
            advice = START_ONE if address in self._named else self._advice
            node = self._nodes[address] = Node(address, self._access, self._timeout, advice)
        return node

    async def close(self) -> None:
        """Close them all."""
        nodes, self._nodes = list(self._nodes.values()), {}
        for node in nodes:
            await node.close()


class Standalone:
    """One server has all streams."""

    def __init__(self, deployment: Deployment, timeout: float) -> None:
        self._node = Node(deployment.addresses[0], deployment.access, timeout)

    def find(self, key: str) -> Node | None:
        return self._node

    def partition(self, key: str) -> int:
        return 0

    async def refresh(self) -> None:
        await self._node.open()

    def invalidate(self, node: Node) -> None:
        # The name may stand for another server now: a service, a proxy, a DNS record that follows the master.
        node.renew()

    async def redirect(self, address: Address, slot: int, *, asked: Node, for_good: bool) -> Node:
        raise ConfigurationError(f"{self._node.name} is part of a cluster: use redis+cluster://{self._node.name}")

    def masters(self) -> list[Node]:
        return [self._node]

    async def close(self) -> None:
        await self._node.close()


class Sentinel:
    """One master has all streams; the sentinels name it."""

    def __init__(self, deployment: Deployment, timeout: float) -> None:
        self._service = deployment.service
        self._sentinels = Nodes(deployment.sentinel_access, timeout, deployment.addresses, START_ONE)
        self._addresses = deployment.addresses
        self._nodes = Nodes(deployment.access, timeout, (), _NAME_THE_MASTER)
        self._master: Node | None = None
        self._refreshing = SingleFlight(self._refresh)
        self._odd = Odd("sentinel")
        self._was_found = False

    def find(self, key: str) -> Node | None:
        return self._master

    def partition(self, key: str) -> int:
        return 0

    async def refresh(self) -> None:
        await self._refreshing.get()

    async def _refresh(self) -> None:
        """Find the master that most of the sentinels name, so that a late sentinel does not mislead."""
        named: dict[Address, Address | StoreError | None] = {}
        votes: Counter[Address] = Counter()
        faults: list[StoreError] = []
        self._master = None
        async with contextlib.aclosing(_answers(self._addresses, self._named_by)) as answers:
            async for sentinel, answer in answers:
                named[sentinel] = answer
                if isinstance(answer, Address):
                    votes[answer] += 1
                    if votes[answer] * 2 > len(self._addresses):
                        break
        for address in _elected(votes, len(self._addresses)):
            if await self._is_taken(address, faults):
                break
        else:
            raise self._not_found(named, faults)
        self._odd.report(self._faults(named))

    async def _named_by(self, address: Address) -> Address | None:
        found = await _ask(self._sentinels.at(address), "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service)
        return None if found is None else Address(found[0].decode(), int(found[1]))

    async def _is_taken(self, address: Address, faults: list[StoreError]) -> bool:
        """Take the server at the address as the master, if it says that it is one."""
        node = self._nodes.at(address)
        try:
            # During a failover the sentinels still name the old master for a while.
            if not await _is_master(node):
                raise StoreUnavailable(f"{node.name} is not a master yet")
        except StoreError as error:
            node.renew()
            faults.append(error)
            return False
        self._master = node
        self._was_found = True
        return True

    def _faults(self, named: Mapping[Address, Address | StoreError | None]) -> dict[Address, StoreError]:
        """The sentinels that did not name the master, each with its answer as an error."""
        faults: dict[Address, StoreError] = {}
        for sentinel, answer in named.items():
            if isinstance(answer, StoreError):
                faults[sentinel] = answer
            elif answer is None:
                faults[sentinel] = StoreUnavailable(f"the sentinel at {sentinel} watches no service {self._service!r}")
            elif self._master is not None and answer != self._master.address:
                faults[sentinel] = StoreUnavailable(f"the sentinel at {sentinel} names {answer} as the master")
        return faults

    def _not_found(
        self, named: Mapping[Address, Address | StoreError | None], faults: Sequence[StoreError]
    ) -> Exception:
        if not self._was_found and all(answer is None for answer in named.values()):
            return ConfigurationError(
                f"no sentinel at {', '.join(map(str, named))} watches a service {self._service!r}: check its name in "
                "the URL, redis+sentinel://host/SERVICE"
            )
        return _all_failed(
            f"no sentinel named a master for {self._service!r}", [*self._faults(named).values(), *faults]
        )

    def invalidate(self, node: Node) -> None:
        node.renew()
        if self._master is node:
            self._master = None

    async def redirect(self, address: Address, slot: int, *, asked: Node, for_good: bool) -> Node:
        raise ConfigurationError(f"{self._service!r} is part of a cluster: use redis+cluster://host,host")

    def masters(self) -> list[Node]:
        return [self._master] if self._master else []

    async def close(self) -> None:
        await self._refreshing.cancel()
        await self._sentinels.close()
        await self._nodes.close()


class Cluster:
    """The streams are spread over masters by the slot of their key."""

    def __init__(self, deployment: Deployment, timeout: float) -> None:
        self._seeds = deployment.addresses
        self._nodes = Nodes(deployment.access, timeout, deployment.addresses, NAME_THE_NODES)
        self._slots: dict[int, Node] = {}
        self._masters: list[Node] | None = None
        self._known: dict[str, int] = {}
        self._refreshing = SingleFlight(self._refresh)
        self._odd = Odd("node of the cluster")

    def find(self, key: str) -> Node | None:
        return self._slots.get(self.partition(key))

    def partition(self, key: str) -> int:
        slot = self._known.get(key)
        if slot is None:
            slot = self._known[key] = key_slot(key.encode())
        return slot

    async def refresh(self) -> None:
        await self._refreshing.get()

    async def _refresh(self) -> None:
        """Take the view of the first node that knows the server of every slot, else the widest view."""
        problems: dict[Address, StoreError] = {}
        views: list[dict[int, Node]] = []
        # The latest masters come before the seeds, which may have left the cluster long ago.
        known = list(dict.fromkeys((*(node.address for node in self.masters()), *self._seeds)))
        async with contextlib.aclosing(_answers(known, self._seen_by)) as answers:
            async for address, answer in answers:
                if isinstance(answer, StoreError):
                    problems[address] = answer
                    continue
                views.append(answer)
                if len(answer) == SLOTS:
                    break
                if not answer:
                    problems[address] = StoreUnavailable(f"{address} knows of no slots yet")
        widest = max(views, key=len, default={})
        if not widest:
            raise _all_failed("no node of the cluster knows the servers of its slots", list(problems.values()))
        self._slots = widest
        self._masters = None
        self._odd.report(problems)

    async def _seen_by(self, address: Address) -> dict[int, Node]:
        asked = self._nodes.at(address)
        slots: dict[int, Node] = {}
        for first, last, master, *_ in await _ask(asked, "CLUSTER", "SLOTS"):
            node = self._nodes.at(Address(_host_of(master) or asked.address.host, master[1]))
            slots |= dict.fromkeys(range(first, last + 1), node)
        return slots

    def invalidate(self, node: Node) -> None:
        node.renew()
        self._slots = {slot: known for slot, known in self._slots.items() if known is not node}
        self._masters = None

    async def redirect(self, address: Address, slot: int, *, asked: Node, for_good: bool) -> Node:
        node = await self._named(address, slot, asked=asked, for_good=for_good)
        if for_good:
            self._slots[slot] = node
            self._masters = None
        return node

    async def _named(self, address: Address, slot: int, *, asked: Node, for_good: bool) -> Node:
        if address.host == "":
            return self._nodes.at(Address(asked.address.host, address.port))
        if address.host not in UNKNOWN_HOSTS:
            return self._nodes.at(address)
        # It does not know the other node's name; CLUSTER SLOTS has the addresses beside the names.
        await self.refresh()
        if for_good and (node := self._slots.get(slot)):
            return node
        there = [node for node in self.masters() if node.address.port == address.port]
        if len(there) != 1:
            raise StoreUnavailable(f"{asked.name} names another node {address}: {NAME_THE_NODES}")
        return there[0]

    def masters(self) -> list[Node]:
        if self._masters is None:
            self._masters = list(dict.fromkeys(self._slots.values()))
        return self._masters

    async def close(self) -> None:
        await self._refreshing.cancel()
        await self._nodes.close()


class Odd:
    """Reports servers whose answers were ignored: once, until something changes."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._reported: set[Address] = set()

    def report(self, problems: dict[Address, StoreError]) -> None:
        """Log the servers that failed in a refresh that succeeded."""
        for address, problem in problems.items():
            if address not in self._reported:
                logger.warning("a %s was put aside: %s", self._what, problem)
        self._reported = set(problems)


def _elected(votes: Counter[Address], voters: int) -> list[Address]:
    """The servers to try as the master: only that of a majority; without one all, the most named first."""
    ranked = votes.most_common()
    has_majority = bool(ranked) and ranked[0][1] * 2 > voters
    return [address for address, _ in (ranked[:1] if has_majority else ranked)]


def _host_of(master: Sequence[Any]) -> str:
    """The host in an entry of CLUSTER SLOTS; empty if only the node that was asked can be meant."""
    named = (master[0] or b"").decode()
    if named not in UNKNOWN_HOSTS:
        return named
    details = master[3] if len(master) > 3 and isinstance(master[3], list) else []
    others = dict(zip(details[::2], details[1::2], strict=False))
    return (others.get(b"ip") or others.get(b"hostname") or b"").decode()


async def _is_master(node: Node) -> bool:
    try:
        role = await _ask(node, "ROLE")
    except StoreUnavailable:
        raise
    except StoreError as error:
        # If ROLE is forbidden or renamed, the answer of the sentinels is enough.
        if str(error.__cause__).startswith(("NOPERM", "ERR unknown command")):
            return True
        raise
    return bool(role[0] == b"master")


async def _ask(node: Node, *command: str) -> Any:
    try:
        return await node.send(pack(*command))
    except hiredis.ReplyError as reply:
        raise translate(reply, node.name) from reply


async def _answers(
    addresses: Iterable[Address], ask: Callable[[Address], Coroutine[Any, Any, T]]
) -> AsyncGenerator[tuple[Address, T | StoreError]]:
    """The answers of servers, or their errors, as they come.

    The first is asked at once, each other one when those before it have answered, failed, or are silent for a
    moment. Those that are still silent a moment after the last answer of the others are left out.
    """
    asked: dict[asyncio.Task[T], Address] = {}
    waiting = list(addresses)
    has_answer = False
    try:
        while waiting or asked:
            if waiting:
                address = waiting.pop(0)
                asked[asyncio.create_task(ask(address))] = address
            limit = STAGGER if waiting or has_answer else None
            done, silent = await asyncio.wait(asked, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                address = asked.pop(task)
                answer = _result(task)
                has_answer = has_answer or not isinstance(answer, StoreError)
                yield address, answer
            if not done and not waiting and has_answer:
                for task in silent:
                    yield asked[task], StoreUnavailable(f"{asked[task]} does not answer")
                return
    finally:
        for task in asked:
            task.cancel()
        if asked:
            await asyncio.wait(asked)


def _result(task: asyncio.Task[T]) -> T | StoreError:
    try:
        return task.result()
    except StoreError as error:
        return error


def _all_failed(what: str, problems: Sequence[StoreError]) -> StoreError:
    # A refusal does not end the attempts while another server may come back.
    kind = StoreDenied if problems and all(isinstance(each, StoreDenied) for each in problems) else StoreUnavailable
    return kind(f"{what}: {'; '.join(map(str, problems))}")
