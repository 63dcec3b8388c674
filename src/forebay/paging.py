"""Paging: read a list of a store that comes in pages, item by item."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol, TypeVar

PAGE_ITEMS = 500
"""Items in a page."""

Item = TypeVar("Item")


class Fetch(Protocol[Item]):
    """A question of a store, with all arguments but the page fixed."""

    def __call__(self, *, after: str, limit: int) -> Awaitable[list[Item]]:
        """At most `limit` items after `after`."""
        ...


async def paged(
    fetch: Fetch[Item], *, after: str, key: Callable[[Item], str], limit: int | None = None
) -> AsyncIterator[Item]:
    """All items after `after`, at most `limit`. The `key` of a page's last item is the `after` of the next page."""
    left = limit
    while left is None or left > 0:
        size = PAGE_ITEMS if left is None else min(PAGE_ITEMS, left)
        if not (page := await fetch(after=after, limit=size)):
            return
        for item in page:
            yield item
        after = key(page[-1])
        left = None if left is None else left - len(page)
