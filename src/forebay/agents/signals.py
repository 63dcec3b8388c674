"""The signals of agents, emitted on the bus that an agent runs on."""

from __future__ import annotations

import logging

from forebay.logs import again_in
from forebay.policy import last_frames
from forebay.reason import describe
from forebay.signals import LoggedSignal, LogLine


class AgentFailed(LoggedSignal, frozen=True):
    """An agent failed; it is started again in `delay` seconds, or, with None, no more."""

    agent: str
    error: BaseException
    delay: float | None

    def log_line(self) -> LogLine:
        """At ERROR, with the traceback."""
        then = "given up" if self.delay is None else f"started again {again_in(self.delay)}"
        return LogLine(
            logging.ERROR,
            f"agent {self.agent} failed: {describe(self.error)}; {then}",
            traceback=last_frames(self.error),
            error=self.error,
            retried=self.delay is not None,
        )


class AgentStatusChanged(LoggedSignal, frozen=True):
    """An agent entered a status: initializing, started, draining, stopped or failed."""

    agent: str
    status: str

    def log_line(self) -> LogLine:
        """At INFO."""
        return LogLine(logging.INFO, f"agent {self.agent}: {self.status}")
