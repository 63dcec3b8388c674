"""The signals of a migration, emitted on the new bus of a DualBus."""

from __future__ import annotations

import logging

from forebay.reason import describe
from forebay.signals import LoggedSignal, LogLine


def _warning(text: str) -> LogLine:
    return LogLine(logging.WARNING, f"migration: {text}")


class MigrationTaskFailed(LoggedSignal, frozen=True):
    """A background task of a DualBus failed; it starts again in `delay` seconds."""

    task: str
    error: BaseException
    delay: float

    def log_line(self) -> LogLine:
        """At WARNING."""
        return _warning(f"{self.task}: {describe(self.error)}; again in {self.delay:.1f} s")


class NewBusUnavailable(LoggedSignal, frozen=True):
    """The new bus could not be opened. The old one handles all events until it can."""

    error: BaseException

    def log_line(self) -> LogLine:
        """At WARNING."""
        return _warning(f"the new bus cannot be opened, the old one goes on alone: {describe(self.error)}")


class PublishedOnOldBusOnly(LoggedSignal, frozen=True):
    """The new bus did not take an event of this type, the first one since it last took one."""

    type: str
    error: BaseException

    def log_line(self) -> LogLine:
        """At WARNING."""
        return _warning(f"{self.type} is published on the old bus alone: {describe(self.error)}")


class OldBusFailed(LoggedSignal, frozen=True):
    """The old bus refused an event, or a handler on it failed, while the new bus is primary."""

    type: str
    event_id: str
    error: BaseException

    def log_line(self) -> LogLine:
        """At WARNING."""
        return _warning(f"{self.type} {self.event_id} failed on the old bus: {describe(self.error)}")


class OldBusCopiesData(LoggedSignal, frozen=True):
    """The old bus passes a copy of the data to its handlers, so that a DualBus cannot recognise its events."""

    type: str

    def log_line(self) -> LogLine:
        """At ERROR."""
        return LogLine(
            logging.ERROR,
            f"migration: the old bus hands on a copy of the data of {self.type}, so that its events cannot be "
            "recognised; let its adapter pass on the very object that it is given",
        )


class LostByOldBus(LoggedSignal, frozen=True):
    """The old bus lost an event of an agent: the process that had it in memory died."""

    type: str
    event_id: str
    agent: str

    def log_line(self) -> LogLine:
        """At WARNING."""
        return _warning(f"{self.type} {self.event_id} was lost by the old bus, for {self.agent}")


class HandledDifferently(LoggedSignal, frozen=True):
    """The shadow run of an event had another outcome than its run on the old bus. The outcomes are one line each."""

    agent: str
    type: str
    event_id: str
    first: str
    second: str

    def log_line(self) -> LogLine:
        """At WARNING."""
        return _warning(
            f"{self.agent} handled {self.type} {self.event_id} differently: {self.first}, and {self.second}"
        )
