"""One server and its wires: one for commands, and as many as needed for blocking reads and watches."""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar

import hiredis
from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterDownError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from forebay.clock import boottime
from forebay.errors import ConfigurationError, StoreDenied, StoreError, StoreUnavailable
from forebay.stores.redis import tls
from forebay.stores.redis.address import Address, Credentials
from forebay.stores.redis.errors import translate
from forebay.stores.redis.wire import Wire

T = TypeVar("T")
Part = str | bytes | int


def pack(*parts: Part) -> bytes:
    """A command as it goes on the wire."""
    packed: bytes = hiredis.pack_command(parts)  # type: ignore[arg-type]  # its stub takes only one part
    return packed


_ASKING = pack("ASKING")

START_ONE = "start one with `redis-server`, or use sqlite:///events.db"
"""The advice if a URL names a server that cannot be reached."""


LAST_SECONDS = 1.0
"""Seconds that a node which is closed waits for outstanding replies."""


class SingleFlight(Generic[T]):
    """An attempt that all concurrent callers share."""

    def __init__(self, attempt: Callable[[], Awaitable[T]]) -> None:
        self._attempt = attempt
        self._task: asyncio.Task[T] | None = None

    async def get(self) -> T:
        """The result of the running attempt, or of a new one."""
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        attempt = self._task
        try:
            # The cancellation of one caller must not cancel the attempt of the others.
            return await asyncio.shield(attempt)
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if attempt.cancelled() and not (caller and caller.cancelling()):
                raise StoreUnavailable("the store was closed while it connected") from None
            raise

    async def cancel(self) -> None:
        """Cancel the running attempt."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> T:
        try:
            return await self._attempt()
        finally:
            self._task = None


class Node:
    """One server. Its wires are opened when they are needed, and opened again after a loss.

    `wire` is the one for commands, open or not. `clock` plus the boottime is the server's
    time in seconds, as it was when the wire was opened.
    """

    def __init__(self, address: Address, access: Credentials, timeout: float, advice: str = START_ONE) -> None:
        self.address = address
        self.name = str(address)
        self.wire: Wire | None = None
        self.clock = time.time() - boottime()
        self._access = access
        self._timeout = timeout
        self._advice = advice
        self._opening = SingleFlight(self._open)
        self._spare: list[Wire] = []
        self._blocking: set[Wire] = set()
        self._dedicated: set[Wire] = set()
        self._retired: list[Wire] = []

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
        wire.extra_timeout = wait
        answered = False
        try:
            replies = [wire.send(part) for part in ((_ASKING, command) if asking else (command,))]
            # The rest of this turn of the loop may take long, and no other command uses this wire.
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

    async def dedicate(self) -> Wire:
        """A new wire for one use only. The caller closes it; it is retired and closed with the others before that."""
        wire = await self._connect()
        self._dedicated = {each for each in self._dedicated if each.is_connected} | {wire}
        return wire

    def renew(self) -> None:
        """Retire all wires: the next command resolves the name and connects again.

        Outstanding replies still arrive.
        """
        wires = [*self._spare, *self._blocking, *self._dedicated, *([self.wire] if self.wire else [])]
        self._spare.clear()
        for wire in wires:
            wire.retire()
        self._retired = [wire for wire in {*self._retired, *wires} if wire.is_connected]

    async def close(self) -> None:
        """Close all wires. Wait a moment for outstanding replies; after that their commands fail."""
        await self._opening.cancel()
        for wire in (*self._blocking, *self._dedicated):
            wire.close()
        own = [self.wire] if self.wire else []
        wires = [*self._spare, *self._blocking, *self._dedicated, *self._retired, *own]
        self._spare.clear()
        self._retired.clear()
        for wire in wires:
            wire.retire()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_SECONDS):
                await _all_closed(wires)
        for wire in wires:
            wire.close()
        await _all_closed(wires)

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
        except (ClusterDownError, ReadOnlyError, TryAgainError) as error:
            raise StoreUnavailable(f"{self.name} is not ready: {error}; try again") from error
        except (AuthenticationError, AuthorizationError, ResponseError) as error:
            raise StoreDenied(
                f"{self.name} refuses the connection: {error} (check the user, password and database in the URL)"
            ) from error
        except (RedisError, OSError) as error:
            what = f"cannot reach a Redis or Valkey server at {self.name}: {error} ({self._advice})"
            raise await self._refused(error, what) from error
        except BaseException:
            _abandon(connection)
            raise
        wire = _take_over(connection, self.name, self._timeout)
        try:
            await self._handshake(wire)
        except BaseException:
            wire.close()
            raise
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
        options |= {"socket_keepalive": True, "socket_keepalive_options": _keepalive(self._timeout)}
        if self._access.tls is None:
            return Connection(**options)
        connection = SSLConnection(**options)
        connection.ssl_context.context = self._context(self._access.tls)
        return connection

    def _context(self, options: Mapping[str, Any]) -> ssl.SSLContext:
        try:
            return tls.context_of(options)
        except ConfigurationError as error:
            if self.wire is None:
                raise
            # While a process runs, its files may be in the middle of a renewal.
            raise StoreUnavailable(f"cannot connect to {self.name}: {error}") from error

    async def _refused(self, error: BaseException, otherwise: str) -> StoreError:
        """The error to raise for a failed connection: TLS may be the reason."""
        reason = tls.refusal(error)
        if reason is None and self.wire is None and self.address.port and not isinstance(_root(error), _NOT_THERE):
            reason = await tls.diagnose(self.address, self._access.tls, self._timeout)
        if reason is None:
            return StoreUnavailable(otherwise)
        return StoreDenied(f"cannot talk to {self.name}: {reason}")

    async def _handshake(self, wire: Wire) -> None:
        """Name the connection, and ask for the server's time: both only if the user has the right."""
        greeting = wire.send(pack("CLIENT", "SETNAME", "forebay")), wire.send(pack("TIME"))
        named: object
        told: object
        named, told = await asyncio.gather(*greeting, return_exceptions=True)
        for reply in (named, told):
            if isinstance(reply, hiredis.ReplyError):
                error = translate(reply, self.name)
                passable = str(reply).startswith("NOPERM") or not isinstance(error, (StoreDenied, StoreUnavailable))
                if not passable:
                    raise error from reply
            elif isinstance(reply, BaseException):
                raise await self._refused(reply, f"{self.name} did not answer: {reply}") from reply
        if isinstance(told, list):
            self.clock = int(told[0]) + int(told[1]) / 1e6 - boottime()


async def _all_closed(wires: Iterable[Wire]) -> None:
    for wire in wires:
        await wire.wait_closed()


_NOT_THERE = (ConnectionRefusedError, socket.gaierror)
"""Errors that come before a connection is made."""


def _root(error: BaseException) -> BaseException:
    while cause := error.__cause__ or error.__context__:
        error = cause
    return error


def _keepalive(timeout: float) -> dict[int, int]:
    """The socket options that let the kernel give up a vanished peer after about `timeout` seconds.

    A blocking read may wait for longer than that, and an unused connection for ever.
    """
    half = max(1, math.ceil(timeout / 2))
    wanted = {"TCP_KEEPIDLE": half, "TCP_KEEPALIVE": half, "TCP_KEEPINTVL": 1, "TCP_KEEPCNT": half}
    # The options of this system; on macOS TCP_KEEPIDLE is called TCP_KEEPALIVE.
    return {getattr(socket, name): value for name, value in wanted.items() if hasattr(socket, name)}


def _abandon(connection: AbstractConnection) -> None:
    """Close the socket that redis-py leaves open when it is cancelled."""
    writer = connection._writer  # noqa: SLF001  # there is no other way that does not wait
    if writer is not None:
        connection._reader = connection._writer = None  # noqa: SLF001  # as above
        writer.transport.abort()


def _take_over(connection: AbstractConnection, name: str, timeout: float) -> Wire:
    """A wire on the socket that redis-py opened, encrypted and authenticated."""
    writer = connection._writer  # noqa: SLF001  # the socket is taken over
    assert writer is not None
    # Otherwise redis-py would close the socket together with its own connection object.
    connection._reader = connection._writer = None  # noqa: SLF001  # the socket is taken over
    return Wire(writer.transport, name, timeout, owner=writer)
