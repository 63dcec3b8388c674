"""Migration from an old bus to this one: both run side by side, and a switch puts each agent on one of them.

docs/migration.md has the steps, with commands.
"""

from forebay.migration.dual import DualBus
from forebay.migration.old import EventDict, OldBus
from forebay.migration.parity import AgentParity, Parity, TypeParity, parity, wait_until_seen
from forebay.migration.routes import Route, routes, switch
from forebay.migration.signals import (
    HandledDifferently,
    LostByOldBus,
    MigrationTaskFailed,
    NewBusUnavailable,
    OldBusCopiesData,
    OldBusFailed,
    PublishedOnOldBusOnly,
)

__all__ = [
    "AgentParity",
    "DualBus",
    "EventDict",
    "HandledDifferently",
    "LostByOldBus",
    "MigrationTaskFailed",
    "NewBusUnavailable",
    "OldBus",
    "OldBusCopiesData",
    "OldBusFailed",
    "Parity",
    "PublishedOnOldBusOnly",
    "Route",
    "TypeParity",
    "parity",
    "routes",
    "switch",
    "wait_until_seen",
]
