"""Signals as log records, under the logger `forebay`. Every bus has this listener.

Names and reasons come from outside, so every text in a record of this logger is escaped (`printable`): one record is
one line, and below it the traceback, if there is one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from forebay.errors import NotFound, OutcomeUnknown, StoreFull, StoreUnavailable
from forebay.event import Foreign
from forebay.policy import last_frames
from forebay.printable import printable
from forebay.reason import describe
from forebay.signals import (
    DeadLettered,
    EntryMissing,
    GroupAbandoned,
    GroupCreated,
    LateAck,
    LeaseLost,
    LoggedSignal,
    LoopBlocked,
    LoopFailed,
    LoopRecovered,
    Recovered,
    Retried,
    Signals,
    StreamTrimmed,
    TrimmedUnread,
)
from forebay.store import Delivery
from forebay.storms import INTERVAL, Outage, Storm

logger = logging.getLogger("forebay")

MOST_OF_AN_ID = 200
"""Characters of an event's id in a line of the log: as many as an id of forebay's may have."""


class _Below(str):
    """Lines that stand below those of a record, as a traceback does."""

    __slots__ = ()

    def escaped(self) -> str:
        """Each of the lines escaped, after a line break."""
        return "".join(f"\n{printable(line)}" for line in self.split("\n")) if self else ""


def _escape(record: logging.LogRecord) -> bool:
    """Escape what stands in a record; a record is never dropped."""
    if isinstance(record.args, tuple):
        record.args = tuple(map(_escaped, record.args))
    return True


def _escaped(value: object) -> object:
    match value:
        case _Below():
            return value.escaped()
        case str() | BaseException():
            return printable(str(value))
        case _:
            return value


logger.addFilter(_escape)


def log(signals: Signals) -> Callable[[], None]:
    """Write the rarer signals to the log; nothing per event that goes well.

    The first loop of a bus that meets a store which does not work is logged at WARNING, and so is the end of
    the outage; all other failures between them are logged at DEBUG. Lines about single events of a group are
    written in full ten times in ten seconds, then counted. Returns what writes the counts that are still open, for
    the close of a bus.
    """
    lines = _Lines()
    signals.listen(lines.retried, Retried)
    signals.listen(lines.dead_lettered, DeadLettered)
    signals.listen(lines.recovered, Recovered)
    signals.listen(lines.entry_missing, EntryMissing)
    signals.listen(lines.lease_lost, LeaseLost)
    signals.listen(lines.loop_failed, LoopFailed)
    signals.listen(lines.loop_recovered, LoopRecovered)
    signals.listen(lines.logged, LoggedSignal)
    signals.listen(_trimmed_unread, TrimmedUnread)
    signals.listen(_late_ack, LateAck)
    signals.listen(lines.group_created, GroupCreated)
    signals.listen(_loop_blocked, LoopBlocked)
    signals.listen(_stream_trimmed, StreamTrimmed)
    signals.listen(_group_abandoned, GroupAbandoned)
    return lines.flush


class _Lines:
    """The lines that one bus may write very often."""

    def __init__(self) -> None:
        self._outage = Outage()
        self._storms: dict[tuple[str, ...], Storm] = {}

    def flush(self) -> None:
        """Write the counts of the lines that were left out so far."""
        for storm in self._storms.values():
            storm.report()

    def retried(self, signal: Retried) -> None:
        what = describe(signal.error)
        level = self._level(logging.WARNING, "failed tries", signal.delivery, what)
        logger.log(level, "%s failed: %s; again %s", _name(signal.delivery), what, again_in(signal.delay))
        if logger.isEnabledFor(logging.DEBUG) and (traceback := last_frames(signal.error)):
            logger.debug("%s failed at%s", _name(signal.delivery), _Below(traceback))

    def dead_lettered(self, signal: DeadLettered) -> None:
        level = self._level(logging.ERROR, "dead letters", signal.delivery, signal.reason)
        below = _Below(signal.traceback)
        # The reason says how often it was tried; the delivery that found it dead was not a try.
        logger.log(level, "%s is a dead letter: %s%s", _event(signal.delivery), signal.reason, below)

    def recovered(self, signal: Recovered) -> None:
        level = self._level(logging.INFO, "events taken over", signal.delivery, "")
        logger.log(level, "%s was taken over, its lease had run out", _name(signal.delivery))

    def entry_missing(self, signal: EntryMissing) -> None:
        level = self._level(logging.WARNING, "events gone from the stream", signal.delivery, "")
        name = _name(signal.delivery)
        logger.log(level, "%s is no longer in its stream: trimmed or deleted before it was handled", name)

    def lease_lost(self, signal: LeaseLost) -> None:
        level = self._level(logging.WARNING, "leases lost", signal.delivery, "")
        logger.log(level, "%s is no longer ours: its lease ran out", _name(signal.delivery))

    def loop_failed(self, signal: LoopFailed) -> None:
        where = "the" if signal.stream == "*" else f"{signal.stream} for {signal.group}: the"
        again = f"; again {again_in(signal.delay)}" if signal.delay else ""
        arguments = (where, signal.loop, describe(signal.error), again)
        if isinstance(signal.error, NotFound) and signal.loop in _HEALING:
            logger.debug("%s %s loop failed: %s%s", *arguments)
        elif not isinstance(signal.error, _OUTAGE):
            key = (signal.loop, signal.stream, signal.group)
            level = self._storm(logging.WARNING, key, f"{signal.stream} for {signal.group}", "failures of this loop",
                                describe(signal.error))  # fmt: skip
            logger.log(level, "%s %s loop failed: %s%s", *arguments)
        elif self._outage.failed(
            (signal.loop, signal.stream, signal.group), signal.delay, reports=signal.loop in _TELLING
        ):
            logger.warning("%s %s loop failed: %s%s; until it works all loops retry, logged at DEBUG", *arguments)
        else:
            logger.debug("%s %s loop failed: %s%s", *arguments)

    def loop_recovered(self, signal: LoopRecovered) -> None:
        if (over := self._outage.worked((signal.loop, signal.stream, signal.group))) is not None:
            logger.warning("the store works again, after %.1f s and %d failed tries", *over)

    def group_created(self, signal: GroupCreated) -> None:
        if signal.recreated:
            level = self._storm(logging.WARNING, ("healed",), "this bus", "lost groups made again", signal.stream)
            logger.log(level, "%s lost its group %s; made it again", signal.stream, signal.group)
        else:
            _group_created(signal)

    def logged(self, signal: LoggedSignal) -> None:
        line = signal.log_line()
        of_outage = line.retried and isinstance(line.error, _OUTAGE) and self._outage.is_on
        logger.log(logging.DEBUG if of_outage else line.level, "%s%s", line.text, _Below(line.traceback))

    def _level(self, level: int, kind: str, delivery: Delivery, what: str) -> int:
        """The level, or DEBUG where so many of this kind were written that they are only counted."""
        reader = delivery.reader
        return self._storm(
            level, (kind, reader.stream, reader.group), f"{reader.stream} for {reader.group}", kind, what
        )

    def _storm(self, level: int, key: tuple[str, ...], where: str, kind: str, what: str) -> int:
        def summary(count: int, last: str) -> None:
            of = f", the last one: {last}" if last else ""
            logger.log(level, "%s: %d more %s within %g s%s", where, count, kind, INTERVAL, of)

        storm = self._storms.get(key) or self._storms.setdefault(key, Storm(summary))
        return level if storm.passes(what) else logging.DEBUG


_OUTAGE = (StoreUnavailable, OutcomeUnknown, StoreFull)
"""Errors that say the store does not work, to all loops alike."""


_HEALING = ("read", "claim")
"""Loops that create a lost group again, and report it (`GroupCreated`)."""
_TELLING = (*_HEALING, "follow", "doorbell", "lookout")
"""Loops that report when they work again (`LoopRecovered`)."""


def again_in(delay: float) -> str:
    """The time of the next attempt, to be read after "again"."""
    if delay < 0.001:
        return "at once"
    return f"in {delay * 1000:.0f} ms" if delay < 1 else f"in {delay:.1f} s"


def _trimmed_unread(signal: TrimmedUnread) -> None:
    logger.error(
        "%s has lost %d events that its group %s had not read: another program trimmed it",
        signal.stream,
        signal.count,
        signal.group,
    )


def _late_ack(signal: LateAck) -> None:
    acks = "1 ack" if signal.count == 1 else f"{signal.count} acks"
    logger.info("%s for %s: %s came after the lease had run out", signal.stream, signal.group, acks)


def _group_created(signal: GroupCreated) -> None:
    if signal.history:
        logger.warning(
            "%s has a new group %s, named after its function: it begins with the %s events that are there; "
            "to keep the group when the function is renamed or moved, give group=...",
            signal.stream, signal.group, f"{signal.history:,}",
        )  # fmt: skip
    else:
        logger.info("%s has a new group %s", signal.stream, signal.group)


def _loop_blocked(signal: LoopBlocked) -> None:
    then = "its leases are renewed no more, so that others take its events over" if signal.yielding else "it still does"
    if signal.handler:
        who = f"{signal.stream} for {signal.group}: {signal.handler}, with event {_short(signal.event_id)},"
    else:
        who = "code outside of any handler"
    logger.warning(
        "%s has blocked the event loop for %.1f s; %s%s", who, signal.seconds, then, _Below(signal.traceback)
    )


def _stream_trimmed(signal: StreamTrimmed) -> None:
    if signal.dropped:
        logger.warning(
            "%s dropped %d events, %d of them unfinished, by its rule for keeping them",
            signal.stream, signal.removed, signal.dropped,
        )  # fmt: skip


def _group_abandoned(signal: GroupAbandoned) -> None:
    logger.warning(
        "%s waits no longer for its group %s, which has had no consumer for %.0f s",
        signal.stream, signal.group, signal.silent,
    )  # fmt: skip


def _name(delivery: Delivery) -> str:
    return f"{_event(delivery)}, attempt {delivery.attempt},"


def _event(delivery: Delivery) -> str:
    record = delivery.record
    id = delivery.position if record is None or isinstance(record, Foreign) else record.id or delivery.position
    return f"{delivery.reader.stream} for {delivery.reader.group}: event {_short(id)}"


def _short(id: str) -> str:
    # A foreign entry may carry an id of any length.
    return id if len(id) <= MOST_OF_AN_ID else f"{id[:MOST_OF_AN_ID]}…"
