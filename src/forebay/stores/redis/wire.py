"""One connection to a server, with many commands on their way at once.

    send() ... send()  --few writes a turn of the loop-->  server
       futures  <------- replies, in the order sent -----

Every command waits for its reply in a first-in-first-out queue. A caller that is cancelled leaves
its place in the queue: the reply is read and dropped, and no other caller gets it.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import hiredis

from forebay.errors import OutcomeUnknown, StoreUnavailable

WRITE_BUFFER = 1024 * 1024
"""Bytes that may wait in the transport; commands beyond them count as not sent."""

EARLY = 50
"""Commands of one turn of the loop that go out before its end, so that the server begins with them."""

LARGE = 4096
"""Bytes of a command that goes out at once: sending it with others saves little, and the server may begin."""
TOGETHER = 100
"""Commands of a transaction that go out in one write."""


class Wire(asyncio.Protocol):
    """A pipelined connection, made by taking over an open transport.

    A reply that is outstanding for `timeout` seconds (plus the `extra_timeout` granted to a blocking
    command) closes the wire. Whatever closes it, commands that were never sent fail with
    `StoreUnavailable`, the others with `OutcomeUnknown`. A closed wire stays closed.
    """

    def __init__(self, transport: asyncio.WriteTransport, name: str, timeout: float, *, owner: object = None) -> None:
        self.name = name
        # Kept only because the transport is closed when its first owner is collected.
        self._owner = owner
        self.extra_timeout = 0.0
        self.on_push: Callable[[hiredis.PushNotification], bool] | None = None
        """Receives pushes of the server (RESP3) and returns whether it took them: the others are replies."""
        self.may_transact: bool | None = None
        self.is_retired = False
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.WriteTransport | None = transport
        self._reader = hiredis.Reader()
        self._unsent: list[bytes] = []
        # None for a reply that is dropped.
        self._waiting: deque[asyncio.Future[Any] | None] = deque()
        self._sent = 0
        self._paused = False
        self._early = EARLY
        # Times, with the number of commands sent by then: they reveal a late reply without a timer for each.
        self._marks: deque[tuple[float, int]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._closed: asyncio.Future[None] = self._loop.create_future()
        transport.set_write_buffer_limits(high=WRITE_BUFFER)
        transport.set_protocol(self)

    @property
    def is_open(self) -> bool:
        """Whether commands can be sent."""
        return self._transport is not None and not self.is_retired

    @property
    def is_connected(self) -> bool:
        """Whether replies may still come."""
        return self._transport is not None

    def send(self, command: bytes) -> asyncio.Future[Any]:
        """The future reply to a packed command, which goes out at the end of this turn of the loop, if not before.

        An error reply is raised by the future as a `hiredis.ReplyError`.
        """
        if not self._unsent:
            self._begin()
        self._unsent.append(command)
        future: asyncio.Future[Any] = self._loop.create_future()
        self._waiting.append(future)
        if len(self._unsent) == self._early:
            self._early = 0
            self.flush()
        elif len(command) > LARGE:
            self.flush()
        return future

    def send_together(self, commands: Iterable[bytes]) -> asyncio.Future[Any]:
        """The future reply to the last of several packed commands; the other replies are dropped.

        The first ones go out while the others are being packed.
        """
        if not self._unsent:
            self._begin()
        try:
            for command in commands:
                self._unsent.append(command)
                self._waiting.append(None)
                if len(self._unsent) >= TOGETHER:
                    self.flush()
        except BaseException:
            # The next command must not become part of an unfinished transaction.
            self.close("a command could not be packed")
            raise
        self._waiting[-1] = last = self._loop.create_future()
        return last

    @property
    def _outstanding(self) -> int:
        """The number of commands that were sent and not answered."""
        return len(self._waiting) - len(self._unsent)

    def _begin(self) -> None:
        if self._transport is None or self.is_retired:
            raise StoreUnavailable(f"the connection to {self.name} is closed")
        if not self._paused:
            self._loop.call_soon(self._end_turn)

    def flush(self) -> None:
        """Send the waiting commands now, instead of at the end of this turn of the loop."""
        if self._paused or not self._unsent or self._transport is None:
            return
        if self._transport.is_closing():
            return  # it would drop all of them: the commands are known not to be sent
        unsent, self._unsent = self._unsent, []
        self._sent += len(unsent)
        self._transport.write(b"".join(unsent))
        if self._timer is None:
            self._watch()

    def close(self, why: str = "it was closed") -> None:
        """Close at once; outstanding commands fail."""
        if self._transport is not None:
            if self._waiting:
                # Bytes in the kernel must not reach the server after the caller has tried again.
                reset = struct.pack("ii", 1, 0)
                self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
            self._transport.abort()
            self._fail(why)

    def retire(self) -> None:
        """Take no more commands, and close once the sent ones are answered."""
        self.is_retired = True
        if not self._waiting:
            self.close()

    async def wait_closed(self) -> None:
        """Wait until the transport has let go of its socket."""
        await asyncio.shield(self._closed)

    def _end_turn(self) -> None:
        self._early = EARLY
        self.flush()

    def _watch(self) -> None:
        self._timer = None
        marks = self._marks
        answered = self._sent - self._outstanding
        while marks and marks[0][1] <= answered:
            marks.popleft()
        if not self._waiting:
            return
        now = self._loop.time()
        limit = self._timeout + self.extra_timeout
        if marks and now - marks[0][0] >= limit:
            self.close(f"no reply within {limit:g} s")
            return
        marks.append((now, self._sent))
        self._timer = self._loop.call_later(self._timeout / 8, self._watch)

    def _fail(self, why: str, cause: BaseException | None = None) -> None:
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()
        outstanding = self._outstanding
        self._unsent.clear()
        for place, future in enumerate(self._waiting):
            if future is None or future.done():
                continue
            error: Exception
            if place < outstanding:
                error = OutcomeUnknown(f"lost the connection to {self.name} before the reply came: {why}")
            else:
                error = StoreUnavailable(f"lost the connection to {self.name}: {why}")
            error.__cause__ = cause
            future.set_exception(error)
        self._waiting.clear()

    # Called by the transport.

    def data_received(self, data: bytes) -> None:
        reader, waiting, on_push = self._reader, self._waiting, self.on_push
        reader.feed(data)
        try:
            while (reply := reader.gets()) is not False:
                if on_push is not None and isinstance(reply, hiredis.PushNotification) and on_push(reply):
                    continue
                future = waiting.popleft()
                if future is None or future.done():
                    continue
                if isinstance(reply, hiredis.ReplyError):
                    future.set_exception(reply)
                else:
                    future.set_result(reply)
        except (hiredis.ProtocolError, IndexError):
            # Not a reply, or one without a command: from here on replies could reach the wrong callers.
            self.close("it does not speak the Redis protocol")
        if self.is_retired and not waiting:
            self.close()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self.flush()

    def eof_received(self) -> None:
        self._fail("the server closed it")

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(str(error) if error else "the server closed it", error)
        if not self._closed.done():
            self._closed.set_result(None)
