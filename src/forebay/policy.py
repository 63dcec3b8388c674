"""Decides what happens to an event after its handler failed. Pure: without loop, clock or store."""

from __future__ import annotations

import asyncio
import random
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import FrameType

import msgspec

from forebay.errors import MOST_SECONDS, ConfigurationError, MalformedEvent, Reject, RetryAfter
from forebay.printable import printable
from forebay.reason import describe, leaves
from forebay.store import Delivery, Failure

Errors = type[BaseException] | tuple[type[BaseException], ...]


class Retry(msgspec.Struct, frozen=True):
    """How often, and how far apart, an event is tried before it becomes a dead letter.

    `attempts` counts every try, the first included; at least 1. After the n-th failure the event waits
    a random time between half and all of `min(cap, base * 2 ** (n - 1))` seconds: exponential back-off
    with equal jitter (Brooker, "Exponential Backoff And Jitter", AWS, 2015). By default an event that
    keeps failing becomes a dead letter after 6.8 to 13.5 minutes, so an outage of five minutes makes none;
    `span` computes this for other settings.

    `on` decides which errors are retried. With an exception class or a tuple of classes, every other
    error makes a dead letter at once. A mapping from class to `Retry` or None has a rule for each error,
    the nearest base class first: None means never, and errors that the mapping does not name follow
    this object. In an `ExceptionGroup`, each member is checked.

    >>> Retry(attempts=3, on={TimeoutError: Retry(attempts=10, base=1), ValueError: None})
    Retry(attempts=3, base=0.5, cap=300.0)
    """

    attempts: int = 12
    base: float = 0.5
    cap: float = 300.0
    on: Errors | Mapping[type[BaseException], Retry | None] = Exception

    def __post_init__(self) -> None:
        attempts: object = self.attempts
        if isinstance(attempts, bool) or not isinstance(attempts, int) or attempts < 1:
            raise ConfigurationError(f"Retry(attempts={self.attempts!r}): give a whole number from 1")
        times: tuple[object, ...] = (self.base, self.cap)
        if not all(type(time) in (int, float) for time in times) or not 0 <= self.base <= self.cap < MOST_SECONDS:
            raise ConfigurationError(f"Retry(base={self.base!r}, cap={self.cap!r}): give seconds, 0 <= base <= cap")
        if not _is_rule(self.on):
            raise ConfigurationError(
                f"Retry(on={self.on!r}): give an exception class, a tuple of them, or a dict of class to Retry or None"
            )

    def __repr__(self) -> str:
        return f"Retry(attempts={self.attempts!r}, base={self.base!r}, cap={self.cap!r})"

    def rule(self, error: BaseException) -> Retry | None:
        """Return the rule for this error, or None if it is not to be retried.

        An `ExceptionGroup` has the strictest rule of its members, unless `on` names its class.
        """
        if isinstance(error, BaseExceptionGroup) and not self._names_group(error):
            rules = [self.rule(member) for member in leaves(error)]
            return None if None in rules else min(filter(None, rules), key=lambda rule: rule.attempts)
        if not isinstance(self.on, Mapping):
            return self if isinstance(error, self.on) else None
        for kind in type(error).__mro__:
            if kind in self.on:
                return self.on[kind]
        return self

    def span(self) -> tuple[float, float]:
        """Return the least and the longest time in seconds from the first failure of an event to its last try.

        The time that handlers take, rules per error in `on`, and `RetryAfter` are not counted.

        >>> Retry().span()
        (405.75, 811.5)
        """
        longest = self._waits()
        return longest / 2, longest

    def _waits(self) -> float:
        """The sum of all longest waits in seconds. From the 61st on they are the same, see `ceiling`."""
        waits = self.attempts - 1
        first = sum(map(self.ceiling, range(1, min(waits, 60) + 1)))
        return first + max(waits - 60, 0) * self.ceiling(waits)

    def _names_group(self, error: BaseExceptionGroup[BaseException]) -> bool:
        kinds: Iterable[type[BaseException]] = self.on if isinstance(self.on, (tuple, Mapping)) else (self.on,)
        return any(issubclass(kind, BaseExceptionGroup) and isinstance(error, kind) for kind in kinds)

    def ceiling(self, failures: int) -> float:
        """The longest wait in seconds after this many failures."""
        return float(min(self.cap, self.base * 2.0 ** min(failures - 1, 60)))


class RetryIn(msgspec.Struct, frozen=True):
    """Try the event again after `delay` seconds."""

    delay: float


class GiveUp(msgspec.Struct, frozen=True):
    """Move the event to the dead letters, with the reason.

    `traceback` belongs to the last error, if there was one. `attempts` counts the tries that were made; None
    means as many as the store has counted.
    """

    reason: str
    traceback: str = ""
    attempts: int | None = None


def decide(
    error: BaseException,
    *,
    failures: int,
    retry: Retry,
    jitter: Callable[[float, float], float] = random.uniform,
) -> RetryIn | GiveUp:
    """Decide what happens to an event after `failures` failures (from 1), the last of which is `error`."""
    members = list(leaves(error))
    for member in members:
        if isinstance(member, (Reject, MalformedEvent)):
            return GiveUp(describe(member))
    pauses = [member.seconds for member in members if isinstance(member, RetryAfter)]
    rule = retry.rule(error)
    if rule is None and len(pauses) == len(members):
        # `RetryAfter` asks for a retry by itself, even if `Retry.on` does not name it.
        rule = retry
    if rule is None or failures >= rule.attempts:
        return GiveUp(describe(error))
    if pauses:
        return RetryIn(max(0.0, *pauses))
    ceiling = rule.ceiling(failures)
    return RetryIn(jitter(ceiling / 2, ceiling))


MAX_CRASHES = 5
"""Consumers that may die on one event, even if its `Retry` allows more failures."""


def crashes_allowed(retry: Retry) -> int:
    """Return how many deliveries may end with the death of their process before the event is a dead letter.

    At least 2: the events of a dead consumer may have been read only, and not started. Each of them is tried
    once more, on its own, before it is judged.
    """
    return min(max(retry.attempts, 2), MAX_CRASHES)


def judge_recovered(delivery: Delivery, retry: Retry) -> GiveUp | None:
    """Decide what happens to an event that was claimed from a dead consumer: a dead letter, or None to try it again.

    There are two limits: its deliveries so far, against the attempts of `retry`; and those of them that ended without
    a stored failure, because their consumer died, against `crashes_allowed`.
    """
    tries = delivery.attempt - 1
    if tries < max(retry.attempts, 2) and tries - delivery.failures < crashes_allowed(retry):
        return None
    last = delivery.last_failure or Failure("")
    return GiveUp(history(last.error, attempts=tries, failures=delivery.failures), last.traceback, tries)


def history(last_error: str, *, attempts: int, failures: int) -> str:
    """Return how an event failed, in one line of at most 500 characters.

    That is its last error. If consumers died on it, which no error shows, the counts come first.

    >>> history("KeyError: 'vat_rate'", attempts=3, failures=2)
    "tried 3 times: failed 2 times, last with KeyError: 'vat_rate'; 1 consumer died or fell silent"
    """
    deaths = attempts - failures
    if deaths <= 0:
        return last_error
    died = f"{_times(deaths, 'consumer', 'consumers')} died or fell silent"
    tried = f"tried {_times(attempts, 'time', 'times')}"
    if not failures:
        return f"{tried}: {died}"
    failed = f"{tried}: failed {_times(failures, 'time', 'times')}"
    if last_error:
        failed += f", last with {last_error}"
    room = 500 - len(died) - len("; ")
    return f"{failed if len(failed) <= room else failed[: room - 1] + '…'}; {died}"


def _times(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _is_rule(on: object) -> bool:
    kinds = on if isinstance(on, (tuple, Mapping)) else (on,)
    verdicts = on.values() if isinstance(on, Mapping) else ()
    return all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds) and all(
        verdict is None or isinstance(verdict, Retry) for verdict in verdicts
    )


def failure_of(error: BaseException) -> Failure:
    """Return the failure to store: the error in one line, and the last lines of its traceback."""
    return Failure(describe(error), last_frames(error))


TRACEBACK_LINES = 20
"""Lines of a traceback that are kept: the last ones, at which the error was raised."""
TRACEBACK_CHARACTERS = 3000
"""Characters of a traceback that are kept, the last ones."""
MAX_LINKS = 4
"""Errors of a chain whose frames are kept: the last one and its nearest causes."""

_MACHINERY = (
    str(Path(asyncio.__file__).parent),
    *(str(Path(__file__).parent / name) for name in ("runtime", "event.py", "payload.py")),
)
"""The code between the worker and the handler or its payload: its frames are left out."""


def last_frames(error: BaseException) -> str:
    """Return the frames nearest to where an error was raised, below those of its causes; no messages, no values.

    A group of errors has its first member for a cause.
    """
    try:
        chain = _chain(error)
    except Exception:  # noqa: BLE001  # an exception's own attributes may be broken
        return ""
    # Each error has its share, so that the frames of its causes leave room for the handler's.
    most = max(1, (TRACEBACK_LINES - len(chain)) // (2 * len(chain)))
    lines: list[str] = []
    for link in reversed(chain):
        frames = [(frame, line) for frame, line in traceback.walk_tb(link.__traceback__) if not _is_machinery(frame)]
        for frame in traceback.StackSummary.extract(frames[-most:]):
            lines.append(f'  File "{frame.filename}", line {frame.lineno}, in {frame.name}')
            if frame.line:
                lines.append(f"    {frame.line}")
        if frames:
            lines.append(type(link).__name__)
    lines = list(map(printable, lines))
    while lines and sum(map(len, lines)) + len(lines) > TRACEBACK_CHARACTERS:
        del lines[0]
    return "\n".join(lines)


def _is_machinery(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith(_MACHINERY)


def _chain(error: BaseException) -> list[BaseException]:
    """Return an error and its causes, as Python itself would show them."""
    chain = [error]
    while len(chain) < MAX_LINKS:
        last = chain[-1]
        if isinstance(last, BaseExceptionGroup):
            cause: BaseException | None = last.exceptions[0]
        else:
            cause = last.__cause__ or (None if last.__suppress_context__ else last.__context__)
        if cause is None:
            break
        chain.append(cause)
    return chain
