"""One server: how its wires are made, one for commands and as many as needed for blocking reads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

import hiredis
from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import AuthenticationError, AuthorizationError, BusyLoadingError, RedisError, ResponseError

from forebay.errors import StoreDenied, StoreUnavailable
from forebay.stores.redis.address import Access, Address
from forebay.stores.redis.errors import translate
from forebay.stores.redis.wire import Wire

T = TypeVar("T")
Part = str | bytes | int


def pack(*parts: Part) -> bytes:
    """A command as it goes on the wire."""
    packed: bytes = hiredis.pack_command(parts)  # type: ignore[arg-type]  # its stub takes only one part
    return packed


_ASKING = pack("ASKING")


class Shared(Generic[T]):
    """An attempt that all who ask at the same time wait for together."""

    def __init__(self, attempt: Callable[[], Awaitable[T]]) -> None:
        self._attempt = attempt
        self._task: asyncio.Task[T] | None = None

    async def get(self) -> T:
        """The result of the attempt under way, or of a new one."""
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        # A caller that is cancelled must not take the attempt away from the others.
        return await asyncio.shield(self._task)

    async def _run(self) -> T:
        try:
            return await self._attempt()
        finally:
            self._task = None


class Node:
    """One server. Its wires are opened when they are needed, and again after they broke.

    `wire` is the one for commands, open or not. `clock` plus the monotonic time is the server's
    time in seconds, as it was when the wire was opened.
    """

    def __init__(self, address: Address, access: Access, timeout: float) -> None:
        self.address = address
        self.name = str(address)
        self.wire: Wire | None = None
        self.clock = time.time() - time.monotonic()
        self._access = access
        self._timeout = timeout
        self._opening = Shared(self._open)
        self._spare: list[Wire] = []
        self._blocking: set[Wire] = set()

    async def open(self) -> Wire:
        """The open wire for commands."""
        if self.wire is not None and self.wire.is_open:
            return self.wire
        return await self._opening.get()

    async def send(self, command: bytes, *, asking: bool = False) -> Any:
        """The reply to a packed command; `asking` lets it into a slot that is being moved here."""
        wire = await self.open()
        if not asking:
            return await wire.send(command)
        _, reply = await asyncio.gather(wire.send(_ASKING), wire.send(command))
        return reply

    async def block(self, command: bytes, wait: float, *, asking: bool = False) -> Any:
        """The reply to a packed command that may block for `wait` seconds, on a wire of its own."""
        wire = self._spare.pop() if self._spare else await self._connect()
        if not wire.is_open:
            return await self.block(command, wait, asking=asking)
        self._blocking.add(wire)
        wire.patience = wait
        answered = False
        try:
            replies = [wire.send(part) for part in ((_ASKING, command) if asking else (command,))]
            # What this turn of the loop has still to do may take long, and nothing else goes this way.
            wire.flush()
            *_, reply = [await each for each in replies]
            answered = True
            return reply
        except hiredis.ReplyError:
            answered = True
            raise
        finally:
            self._blocking.discard(wire)
            if answered and wire.is_open:
                self._spare.append(wire)
            else:
                wire.close()

    async def close(self) -> None:
        """Close all wires; what is outstanding fails."""
        wires = [*self._spare, *self._blocking, *([self.wire] if self.wire else [])]
        self._spare.clear()
        for wire in wires:
            wire.close()
        for wire in wires:
            await wire.wait_closed()

    async def _open(self) -> Wire:
        wire = await self._connect()
        self.wire = wire
        return wire

    async def _connect(self) -> Wire:
        connection = self._new_connection()
        try:
            await connection.connect()  # type: ignore[no-untyped-call]  # redis-py leaves it without types
        except BusyLoadingError as error:
            raise StoreUnavailable(f"{self.name} is reading its data from disk; try again") from error
        except (AuthenticationError, AuthorizationError, ResponseError) as error:
            raise StoreDenied(
                f"{self.name} refuses the connection: {error} (check the user, password and database in the URL)"
            ) from error
        except (RedisError, OSError) as error:
            raise StoreUnavailable(
                f"cannot reach a Redis or Valkey server at {self.name}: {error} "
                "(start one with `redis-server`, or use sqlite:///events.db)"
            ) from error
        wire = _take_over(connection, self.name, self._timeout)
        await self._greet(wire)
        return wire

    def _new_connection(self) -> AbstractConnection:
        options: dict[str, Any] = {
            "db": self._access.database,
            "username": self._access.username,
            "password": self._access.password and self._access.password.reveal(),
            "socket_timeout": self._timeout,
            "socket_connect_timeout": self._timeout,
            "protocol": 2,
            "driver_info": None,
        }
        if not self.address.port:
            return UnixDomainSocketConnection(path=self.address.host, **options)
        options |= {"host": self.address.host, "port": self.address.port}
        if self._access.tls is not None:
            return SSLConnection(**options, **self._access.tls)
        return Connection(**options)

    async def _greet(self, wire: Wire) -> None:
        """Name the connection, and learn the server's time: both only where the user may."""
        greeting = wire.send(pack("CLIENT", "SETNAME", "forebay")), wire.send(pack("TIME"))
        named: object
        told: object
        named, told = await asyncio.gather(*greeting, return_exceptions=True)
        for reply in (named, told):
            if isinstance(reply, hiredis.ReplyError):
                error = translate(reply, self.name)
                passable = str(reply).startswith("NOPERM") or not isinstance(error, (StoreDenied, StoreUnavailable))
                if not passable:
                    wire.close()
                    raise error from reply
            elif isinstance(reply, BaseException):
                raise StoreUnavailable(f"{self.name} did not answer: {reply}") from reply
        if isinstance(told, list):
            self.clock = int(told[0]) + int(told[1]) / 1e6 - time.monotonic()


def _take_over(connection: AbstractConnection, name: str, timeout: float) -> Wire:
    """A wire on the socket that redis-py opened, encrypted and authenticated."""
    writer = connection._writer  # noqa: SLF001  # the socket is taken over
    assert writer is not None
    # Else redis-py would close the socket together with its own connection object.
    connection._reader = connection._writer = None  # noqa: SLF001  # the socket is taken over
    return Wire(writer.transport, name, timeout, owner=writer)
