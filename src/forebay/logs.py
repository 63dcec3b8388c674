"""Signals as log records, under the logger `forebay`. Every bus has this listener.

Names and reasons come from outside, so every text in a record of this logger is escaped (`printable`): one record is
one line, and below it the traceback where there is one.
"""

from __future__ import annotations

import logging

from forebay.event import Foreign
from forebay.policy import last_frames
from forebay.printable import printable
from forebay.reason import describe
from forebay.signals import (
    AgentChanged,
    AgentFailed,
    DeadLettered,
    GroupGone,
    Joined,
    LateAck,
    LeaseLost,
    LoopFailed,
    Missed,
    Recovered,
    Retried,
    Signals,
    StreamTrimmed,
    Vanished,
)
from forebay.store import Delivery

logger = logging.getLogger("forebay")

MOST_OF_AN_ID = 200
"""Characters of an event's id in a line of the log: as many as an id of forebay's may have."""


class _Below(str):
    """Lines that stand below those of a record, as a traceback does."""

    __slots__ = ()

    def escaped(self) -> str:
        """Each of the lines escaped, behind a line break."""
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


def log(signals: Signals) -> None:
    """Write the rarer signals to the log; nothing per event that goes well."""
    signals.listen(_retried, Retried)
    signals.listen(_dead_lettered, DeadLettered)
    signals.listen(_recovered, Recovered)
    signals.listen(_vanished, Vanished)
    signals.listen(_missed, Missed)
    signals.listen(_lease_lost, LeaseLost)
    signals.listen(_late_ack, LateAck)
    signals.listen(_joined, Joined)
    signals.listen(_loop_failed, LoopFailed)
    signals.listen(_stream_trimmed, StreamTrimmed)
    signals.listen(_group_gone, GroupGone)
    signals.listen(_agent_failed, AgentFailed)
    signals.listen(_agent_changed, AgentChanged)


def _retried(signal: Retried) -> None:
    logger.warning("%s failed: %s; again in %.1f s", _name(signal.delivery), describe(signal.error), signal.delay)
    if logger.isEnabledFor(logging.DEBUG) and (traceback := last_frames(signal.error)):
        logger.debug("%s failed at%s", _name(signal.delivery), _Below(traceback))


def _dead_lettered(signal: DeadLettered) -> None:
    logger.error("%s is a dead letter: %s%s", _name(signal.delivery), signal.reason, _Below(signal.traceback))


def _recovered(signal: Recovered) -> None:
    logger.info("%s was taken over, its lease had run out", _name(signal.delivery))


def _vanished(signal: Vanished) -> None:
    logger.warning("%s is no longer in its stream: trimmed or deleted before it was handled", _name(signal.delivery))


def _missed(signal: Missed) -> None:
    logger.error(
        "%s has lost %d events that its group %s had not read: somebody trimmed it",
        signal.stream,
        signal.count,
        signal.group,
    )


def _lease_lost(signal: LeaseLost) -> None:
    logger.warning("%s is no longer ours: its lease ran out", _name(signal.delivery))


def _late_ack(signal: LateAck) -> None:
    acks = "1 ack" if signal.count == 1 else f"{signal.count} acks"
    logger.info("%s for %s: %s came after the lease had run out", signal.stream, signal.group, acks)


def _joined(signal: Joined) -> None:
    if signal.healed:
        logger.warning("%s lost its group %s; made it again", signal.stream, signal.group)
    elif signal.history:
        logger.warning(
            "%s has a new group %s, named after its function: it begins with the %s events that are there; "
            "to keep the group when the function is renamed or moved, give group=...",
            signal.stream, signal.group, f"{signal.history:,}",
        )  # fmt: skip
    else:
        logger.info("%s has a new group %s", signal.stream, signal.group)


def _loop_failed(signal: LoopFailed) -> None:
    logger.warning(
        "%s loop of %s%s: %s; again in %.1f s",
        signal.loop, signal.stream, "" if signal.group == "*" else f" for {signal.group}", describe(signal.error), signal.delay,
    )  # fmt: skip


def _stream_trimmed(signal: StreamTrimmed) -> None:
    if signal.dropped:
        logger.warning(
            "%s dropped %d events, %d of them unfinished, by its rule for keeping them",
            signal.stream, signal.removed, signal.dropped,
        )  # fmt: skip


def _group_gone(signal: GroupGone) -> None:
    logger.warning(
        "%s waits no longer for its group %s, which has had no consumer for %.0f s",
        signal.stream, signal.group, signal.silent,
    )  # fmt: skip


def _agent_failed(signal: AgentFailed) -> None:
    again = "given up" if signal.delay is None else f"started again in {signal.delay:.1f} s"
    logger.error("agent %s failed: %s; %s", signal.agent, describe(signal.error), again)


def _agent_changed(signal: AgentChanged) -> None:
    logger.info("agent %s: %s", signal.agent, signal.status)


def _name(delivery: Delivery) -> str:
    record = delivery.record
    id = delivery.position if record is None or isinstance(record, Foreign) else record.id or delivery.position
    # A foreign entry may carry an id of any length.
    short = id if len(id) <= MOST_OF_AN_ID else f"{id[:MOST_OF_AN_ID]}…"
    return f"{delivery.reader.stream} for {delivery.reader.group}: event {short}, attempt {delivery.attempt},"
