"""The engine between a store and a handler. `consumer` and what only it needs wait until something is consumed."""

from forebay.runtime.handler import Around, Handler, handler_name
from forebay.runtime.lease import LeaseKeeper
from forebay.runtime.options import Options
from forebay.runtime.together import Run, Runnable

__all__ = [
    "Around",
    "Handler",
    "LeaseKeeper",
    "Options",
    "Run",
    "Runnable",
    "handler_name",
]
