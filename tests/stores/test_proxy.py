"""The proxy has every move of the protocol, and one hook sees each call."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Coroutine
from functools import partial
from typing import Any, TypeVar, get_args

from forebay.event import to_record
from forebay.store import Reader, Store
from forebay.stores.memory import MemoryStore
from forebay.testing import StoreProxy
from forebay.testing.contract.base import order
from forebay.testing.proxy import Move

T = TypeVar("T")
MOVES = [name for name, value in inspect.getmembers(Store) if inspect.isfunction(value) and not name.startswith("_")]


class Recorder(StoreProxy):
    """Keeps the names of the moves, each with the first argument."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.seen: list[tuple[str, object]] = []

    async def around(self, move: Move, call: partial[Coroutine[Any, Any, T]]) -> T:
        self.seen.append((move, call.args[0] if call.args else None))
        return await call()


def test_each_move_of_the_protocol_is_a_move_of_the_proxy() -> None:
    # These ask no server, so they are not moves.
    assert set(MOVES) - {"clone", "is_position", "position_key"} == set(get_args(Move))


def test_each_move_of_the_proxy_takes_the_arguments_of_the_protocol() -> None:
    for name in get_args(Move):
        assert inspect.signature(getattr(Store, name)) == inspect.signature(getattr(StoreProxy, name)), name


async def test_the_hook_sees_each_call_with_what_it_is_about() -> None:
    reader = Reader("order_placed", "billing", "worker")
    async with Recorder(MemoryStore()) as store:
        await store.join("order_placed", "billing")
        [position] = await store.append("order_placed", [order(1)])
        deliveries = await store.read(reader, limit=1)
        await store.ack(deliveries)
        assert ["order_placed"] == await store.streams()

    assert position == deliveries[0].position
    assert [
        ("join", "order_placed"),
        ("append", "order_placed"),
        ("read", reader),
        ("ack", deliveries),
        ("streams", None),
    ] == store.seen


async def test_each_arrival_is_a_call_and_a_clone_shares_what_the_proxy_has() -> None:
    async with Recorder(MemoryStore()) as store, store.clone() as other:
        async with contextlib.aclosing(store.arrivals()) as arrivals:
            assert None is await anext(arrivals)
            await other.append("order_placed", [to_record("order_placed", source="shop", data=1)])
            assert "order_placed" == await anext(arrivals)

        assert ["arrivals", "append", "arrivals"] == [move for move, _ in store.seen]
        assert isinstance(other, Recorder)
