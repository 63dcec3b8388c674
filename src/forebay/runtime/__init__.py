"""The engine between a store and a handler."""

from forebay.runtime.consumer import Consumer
from forebay.runtime.handler import Handler, handler_name
from forebay.runtime.lease import LeaseKeeper
from forebay.runtime.options import Options
from forebay.runtime.together import run_together, stopped_by_signals

__all__ = ["Consumer", "Handler", "LeaseKeeper", "Options", "handler_name", "run_together", "stopped_by_signals"]
