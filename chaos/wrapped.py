"""A store around a store: it passes on the moves that it does not change."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from forebay.store import Store


class Wrapped:
    """Passes every move on to `store`; a subclass does some of them in its own way."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    def around(self, store: Store) -> Self:
        """The same around another store."""
        copy = object.__new__(type(self))
        copy.__dict__.update(self.__dict__)
        copy.store = store
        return copy

    def clone(self) -> Self:
        return self.around(self.store.clone())

    async def __aenter__(self) -> Self:
        await self.store.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.store.__aexit__(kind, error, trace)
