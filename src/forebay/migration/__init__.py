"""From an old bus to this one: both side by side, and each agent on one of them, as a switch says.

The way, with commands, is in docs/migration.md.
"""

from forebay.migration.dual import DualBus
from forebay.migration.old import EventDict, OldBus
from forebay.migration.parity import AgentParity, Parity, TypeParity, parity
from forebay.migration.routes import Route, routes, switch

__all__ = [
    "AgentParity",
    "DualBus",
    "EventDict",
    "OldBus",
    "Parity",
    "Route",
    "TypeParity",
    "parity",
    "routes",
    "switch",
]
