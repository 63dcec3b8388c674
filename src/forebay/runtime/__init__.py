"""The engine between a store and a handler. `consumer`, and the modules that it needs, are imported at first use."""

from forebay.runtime.groups import GroupMaker
from forebay.runtime.handler import Handler, handler_name
from forebay.runtime.lease_keeper import LeaseKeeper
from forebay.runtime.options import Options
from forebay.runtime.run import Run, Runnable
from forebay.runtime.services import Services

__all__ = [
    "GroupMaker",
    "Handler",
    "LeaseKeeper",
    "Options",
    "Run",
    "Runnable",
    "Services",
    "handler_name",
]
