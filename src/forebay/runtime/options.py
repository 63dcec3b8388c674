"""How a group's events are handled: the options of `on` and `subscribe_to_stream`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Self

import msgspec

from forebay.errors import ConfigurationError
from forebay.event import check_seconds
from forebay.policy import Retry

READ_AHEAD = 1500
"""The most events that a consumer reads ahead unless `prefetch` says otherwise."""

MAX_NUMBER = 10_000
"""The largest `concurrency`, `prefetch` and `batch`: a worker is a task, and what is held is in memory."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """Options of a handler, as `on`, `subscribe_to_stream` and `forebay.agents.handles` take them. Times are seconds.

    `start`: where a new group begins: "earliest", "latest", a position, or an aware datetime.
    `retry`: how often, and how far apart, a failing event is tried: by default 12 times over 6.8 to 13.5 minutes.
    `concurrency`: handlers that run at the same time.
    `prefetch`: the most events read ahead, and the most retries beside them; by default it follows the speed of the
    handler, up to 1,500. Events in flight take at most 16 MiB, or `concurrency` events if these are larger.
    `batch`: call the handler with lists of at most so many events.
    `timeout`: the longest run of a handler.
    `lease`: how long a consumer that stopped renewing keeps its events. A handler that blocks the event loop keeps
    them for two leases, and for a minute at least.
    `ordered`: events of one key one after the other, in the order of the stream, a failing one first to its end.
    Events without a key count as one key; one consumer of the group works at a time.
    `dedup`: skip an event whose id this group handled within the last `dedup` seconds (True: a day). A copy that
    another process handles at the same moment is not skipped.

    A value out of its range raises `ConfigurationError`.
    """

    start: str | datetime = "earliest"
    retry: Retry = Retry()
    concurrency: int = 16
    prefetch: int | None = None
    batch: int | None = None
    timeout: float | None = None
    lease: float = 30.0
    ordered: bool = False
    dedup: bool | float = False

    def __post_init__(self) -> None:
        for name in ("concurrency", "prefetch", "batch"):
            number = getattr(self, name)
            is_number = isinstance(number, int) and not isinstance(number, bool)
            if number is not None and not (is_number and 1 <= number <= MAX_NUMBER):
                raise ConfigurationError(f"{name}={number!r}: give a whole number from 1 to {MAX_NUMBER:,}")
        if not isinstance(self.ordered, bool):
            raise ConfigurationError(f"ordered={self.ordered!r}: give True or False")
        if not isinstance(self.retry, Retry):
            raise ConfigurationError(f"retry={self.retry!r}: give a Retry(...), e.g. Retry(attempts=3)")
        check_seconds("lease", self.lease, least=0.05)
        if self.timeout is not None:
            check_seconds("timeout", self.timeout, least=0.001)
        if not isinstance(self.dedup, bool):
            check_seconds("dedup", self.dedup)

    @classmethod
    def parse(cls, options: Mapping[str, Any]) -> Self:
        """The options under these names; `ConfigurationError` says which name there is not."""
        unknown = sorted(set(options) - set(cls.__struct_fields__))
        if unknown:
            import difflib

            near = difflib.get_close_matches(unknown[0], cls.__struct_fields__, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(cls.__struct_fields__)}"
            raise ConfigurationError(f"unknown option {unknown[0]!r}; {hint}")
        return cls(**{name: value for name, value in options.items() if name != "retry" or value is not None})

    def given(self) -> dict[str, Any]:
        """The options by their names, as `parse` takes them."""
        return {name: getattr(self, name) for name in self.__struct_fields__}

    @property
    def remember(self) -> float | None:
        """For how long handled ids are kept, in seconds; None without `dedup`."""
        if not self.dedup:
            return None
        return 86_400.0 if self.dedup is True else float(self.dedup)
