"""A store that fails on demand, around any store that works."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict, deque
from collections.abc import Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, get_args

from forebay.errors import ConfigurationError, ForebayError, OutcomeUnknown, StoreUnavailable
from forebay.store import START, Store
from forebay.testing.proxy import Move, StoreProxy

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Fault:
    """The fault of one call."""

    happens: bool = True
    error: ForebayError | None = None
    delay: float = 0.0


class FaultyStore(StoreProxy):
    """Passes every move on to `store`, except for the faults that a test has ordered.

        store = FaultyStore(MemoryStore())
        store.fail_before("append")            # the next append is refused: nothing happened
        store.fail_after("ack", times=2)       # two acks happen, and their answers are lost
        store.delay("read", 0.5)               # one read takes half a second longer

    Faults of one move are for its calls in the order in which they were ordered, one each; calls
    without a fault go through. `calls` counts all calls of each move. A clone has the same faults and
    the same counts.
    """

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.calls: Counter[str] = Counter()
        self._faults: defaultdict[str, deque[_Fault]] = defaultdict(deque)

    def fail_before(self, move: Move, error: ForebayError | None = None, *, times: int = 1) -> None:
        """Let the next calls raise `error` (a `StoreUnavailable` unless given), and do nothing."""
        self._order(move, _Fault(happens=False, error=error or StoreUnavailable(f"ordered: {move} fails")), times)

    def fail_after(self, move: Move, error: ForebayError | None = None, *, times: int = 1) -> None:
        """Let the next calls happen, and raise `error` (an `OutcomeUnknown` unless given) in place of their answer."""
        self._order(move, _Fault(error=error or OutcomeUnknown(f"ordered: the answer to {move} is lost")), times)

    def delay(self, move: Move, seconds: float, *, times: int = 1) -> None:
        """Let the next calls begin `seconds` later."""
        self._order(move, _Fault(delay=seconds), times)

    def mend(self) -> None:
        """Forget all faults that no call has met yet."""
        self._faults.clear()

    def _order(self, move: Move, fault: _Fault, times: int) -> None:
        if move not in get_args(Move):
            raise ConfigurationError(f"a store has no move {move!r}; there are {', '.join(get_args(Move))}")
        self._faults[move].extend([fault] * times)

    async def around(self, move: Move, call: partial[Coroutine[Any, Any, T]]) -> T:
        self.calls[move] += 1
        waiting = self._faults[move]
        fault = waiting.popleft() if waiting else _Fault()
        if fault.delay:
            await asyncio.sleep(fault.delay)
        if fault.error is None:
            return await call()
        error = fault.error
        if move == "append" and isinstance(error, OutcomeUnknown):
            # As real stores do, so that a repetition can search for the records.
            last = await self.store.scan(call.args[0], newest=True, limit=1)
            error = OutcomeUnknown(str(error), search_after=error.search_after or (last[0].position if last else START))
        if fault.happens:
            await call()
        raise error
