"""Which server serves which stream: one server, the master that Sentinel names, or a cluster."""

from __future__ import annotations

from typing import Any, Protocol

import hiredis
from redis.crc import key_slot

from forebay.errors import ConfigurationError, StoreDenied, StoreError, StoreUnavailable
from forebay.stores.redis.address import Access, Address, Place
from forebay.stores.redis.errors import translate
from forebay.stores.redis.node import Node, Shared, pack


class Topology(Protocol):
    """Knows the nodes, and which of them serves a key."""

    def find(self, key: str) -> Node | None:
        """The node that serves the key; None where that is not known, and `look` must be asked."""
        ...

    async def look(self) -> None:
        """Find out who serves what; `StoreUnavailable` where nobody can tell."""
        ...

    def doubt(self, node: Node) -> None:
        """The node was lost, or is a master no more."""
        ...

    def redirect(self, address: Address, slot: int | None) -> Node:
        """The node at an address that another node named; with `slot`, it serves that from now on."""
        ...

    def masters(self) -> list[Node]:
        """The nodes that together hold every stream."""
        ...

    async def close(self) -> None:
        """Close every node."""
        ...


def topology(place: Place, timeout: float) -> Topology:
    """The topology of a place."""
    match place.arrangement:
        case "sentinel":
            return Sentinel(place, timeout)
        case "cluster":
            return Cluster(place, timeout)
        case "standalone":
            return Standalone(place, timeout)


class Nodes:
    """The nodes met so far, by address."""

    def __init__(self, access: Access, timeout: float) -> None:
        self._access = access
        self._timeout = timeout
        self._nodes: dict[Address, Node] = {}

    def at(self, address: Address) -> Node:
        """The node at an address."""
        node = self._nodes.get(address)
        if node is None:
            node = self._nodes[address] = Node(address, self._access, self._timeout)
        return node

    async def close(self) -> None:
        """Close them all."""
        nodes, self._nodes = list(self._nodes.values()), {}
        for node in nodes:
            await node.close()


class Standalone:
    """One server has everything."""

    def __init__(self, place: Place, timeout: float) -> None:
        self._node = Node(place.addresses[0], place.access, timeout)

    def find(self, key: str) -> Node | None:
        return self._node

    async def look(self) -> None:
        await self._node.open()

    def doubt(self, node: Node) -> None:
        pass

    def redirect(self, address: Address, slot: int | None) -> Node:
        raise ConfigurationError(f"{self._node.name} is part of a cluster: use redis+cluster://{self._node.name}")

    def masters(self) -> list[Node]:
        return [self._node]

    async def close(self) -> None:
        await self._node.close()


class Sentinel:
    """One master has everything; the sentinels say which server that is."""

    def __init__(self, place: Place, timeout: float) -> None:
        self._service = place.service
        self._sentinels = Nodes(place.sentinel_access, timeout)
        self._addresses = list(place.addresses)
        self._nodes = Nodes(place.access, timeout)
        self._master: Node | None = None
        self._looking = Shared(self._look)

    def find(self, key: str) -> Node | None:
        return self._master

    async def look(self) -> None:
        await self._looking.get()

    async def _look(self) -> None:
        problems: list[StoreError] = []
        for address in list(self._addresses):
            sentinel = self._sentinels.at(address)
            try:
                found = await _ask(sentinel, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service)
                if found is None:
                    raise ConfigurationError(f"the sentinel at {address} watches no service {self._service!r}")
                self._master = await self._checked(Address(found[0].decode(), int(found[1])))
            except StoreError as error:
                problems.append(error)
                continue
            # The one that answered is asked first the next time.
            self._addresses.remove(address)
            self._addresses.insert(0, address)
            return
        raise _all_failed(f"no sentinel named a master for {self._service!r}", problems)

    async def _checked(self, address: Address) -> Node:
        # During a failover the sentinels still name the old master for a while.
        node = self._nodes.at(address)
        role = await _ask(node, "ROLE")
        if role[0] != b"master":
            raise StoreUnavailable(f"{node.name} is not a master yet")
        return node

    def doubt(self, node: Node) -> None:
        if self._master is node:
            self._master = None

    def redirect(self, address: Address, slot: int | None) -> Node:
        raise ConfigurationError(f"{self._service!r} is part of a cluster: use redis+cluster://host,host")

    def masters(self) -> list[Node]:
        return [self._master] if self._master else []

    async def close(self) -> None:
        await self._sentinels.close()
        await self._nodes.close()


class Cluster:
    """The streams are spread over masters by the slot of their key."""

    def __init__(self, place: Place, timeout: float) -> None:
        self._seeds = place.addresses
        self._nodes = Nodes(place.access, timeout)
        self._slots: dict[int, Node] = {}
        self._known: dict[str, int] = {}
        self._looking = Shared(self._look)

    def find(self, key: str) -> Node | None:
        slot = self._known.get(key)
        if slot is None:
            slot = self._known[key] = key_slot(key.encode())
        return self._slots.get(slot)

    async def look(self) -> None:
        await self._looking.get()

    async def _look(self) -> None:
        problems: list[StoreError] = []
        # Masters that answered last come before seeds, which may be gone for long.
        for node in dict.fromkeys((*self.masters(), *map(self._nodes.at, self._seeds))):
            try:
                ranges = await _ask(node, "CLUSTER", "SLOTS")
            except StoreError as error:
                problems.append(error)
                continue
            slots: dict[int, Node] = {}
            for first, last, master, *_ in ranges:
                # An empty host means: the one that you asked.
                host = (master[0] or b"").decode() or node.address.host
                slots |= dict.fromkeys(range(first, last + 1), self._nodes.at(Address(host, master[1])))
            if slots:
                self._slots = slots
                return
            problems.append(StoreUnavailable(f"{node.name} knows of no slots yet"))
        raise _all_failed("no node of the cluster says who serves what", problems)

    def doubt(self, node: Node) -> None:
        self._slots = {slot: known for slot, known in self._slots.items() if known is not node}

    def redirect(self, address: Address, slot: int | None) -> Node:
        node = self._nodes.at(address)
        if slot is not None:
            self._slots[slot] = node
        return node

    def masters(self) -> list[Node]:
        return list(dict.fromkeys(self._slots.values()))

    async def close(self) -> None:
        await self._nodes.close()


async def _ask(node: Node, *command: str) -> Any:
    try:
        return await node.send(pack(*command))
    except hiredis.ReplyError as reply:
        raise translate(reply, node.name) from reply


def _all_failed(what: str, problems: list[StoreError]) -> StoreError:
    # A refusal says more than those that did not answer, and does not pass.
    kind = next((StoreDenied for problem in problems if isinstance(problem, StoreDenied)), StoreUnavailable)
    return kind(f"{what}: {'; '.join(map(str, problems))}")
