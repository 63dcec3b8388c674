"""What becomes of an event whose handler failed: a pure decision, without loop, clock or store."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping

import msgspec

from forebay.errors import MOST_SECONDS, ConfigurationError, MalformedEvent, Reject, RetryAfter
from forebay.reason import describe, leaves

Errors = type[BaseException] | tuple[type[BaseException], ...]


class Retry(msgspec.Struct, frozen=True):
    """How often, and how far apart, an event is tried before it becomes a dead letter.

    `attempts` counts every try, the first included; at least 1. After the n-th failure the
    event waits a random time between 0 and `min(cap, base * 2 ** (n - 1))` seconds: exponential
    back-off with full jitter (Brooker, "Exponential Backoff And Jitter", AWS, 2015).

    `on` says which errors are worth another try. An exception class or a tuple of classes: those,
    and every other error is a dead letter at once. A mapping from class to `Retry` or None gives
    rules per error, the nearest base class first: None means never, and what the mapping does not
    name follows this object. In an `ExceptionGroup`, each member is looked at.

    >>> Retry(attempts=3, on={TimeoutError: Retry(attempts=10, base=1), ValueError: None})
    Retry(attempts=3, base=0.2, cap=60.0)
    """

    attempts: int = 5
    base: float = 0.2
    cap: float = 60.0
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
        """The rule for this error, or None where it is not worth another try.

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

    def _names_group(self, error: BaseExceptionGroup[BaseException]) -> bool:
        kinds: Iterable[type[BaseException]] = self.on if isinstance(self.on, (tuple, Mapping)) else (self.on,)
        return any(issubclass(kind, BaseExceptionGroup) and isinstance(error, kind) for kind in kinds)

    def ceiling(self, failures: int) -> float:
        """The longest wait in seconds after this many failures."""
        return float(min(self.cap, self.base * 2.0 ** min(failures - 1, 60)))


class Again(msgspec.Struct, frozen=True):
    """Try the event again after `delay` seconds."""

    delay: float


class Dead(msgspec.Struct, frozen=True):
    """Move the event to the dead letters, with the reason."""

    reason: str


def decide(
    error: BaseException,
    *,
    failures: int,
    retry: Retry,
    jitter: Callable[[float, float], float] = random.uniform,
) -> Again | Dead:
    """What becomes of an event after its `failures`-th failure (from 1), of which `error` was the last."""
    members = list(leaves(error))
    for member in members:
        if isinstance(member, (Reject, MalformedEvent)):
            return Dead(describe(member))
    pauses = [member.seconds for member in members if isinstance(member, RetryAfter)]
    rule = retry.rule(error)
    if rule is None and len(pauses) == len(members):
        rule = retry
    if rule is None or failures >= rule.attempts:
        return Dead(describe(error))
    if pauses:
        return Again(max(0.0, *pauses))
    return Again(jitter(0.0, rule.ceiling(failures)))


def crashes_allowed(retry: Retry) -> int:
    """How many deliveries may end with the death of their process before the event is a dead letter.

    At least 2: a consumer that dies leaves events behind that it had only fetched, and nobody knows
    which. Each of them is tried once more, on its own, before it is judged.
    """
    return max(retry.attempts, 2)


def _is_rule(on: object) -> bool:
    kinds = on if isinstance(on, (tuple, Mapping)) else (on,)
    verdicts = on.values() if isinstance(on, Mapping) else ()
    return all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds) and all(
        verdict is None or isinstance(verdict, Retry) for verdict in verdicts
    )
