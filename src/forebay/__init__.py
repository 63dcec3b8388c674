"""forebay: durable events for Python, over SQLite, Redis / Valkey Streams or memory, with one API."""

from forebay.bus import (
    EventBus,
    InMemoryEventBus,
    MalformedEntry,
    PersistentEventBus,
    RedisEventBus,
    connect,
)
from forebay.chain import Chain
from forebay.dead_letters import DeadLetterFilter
from forebay.deliveries import EventDelivery
from forebay.errors import (
    AgentError,
    ConfigurationError,
    ForebayError,
    HandlerTimeout,
    InvalidEvent,
    MalformedEvent,
    NotFound,
    OutcomeUnknown,
    PayloadTooLarge,
    PublishUnknown,
    Reject,
    RetryAfter,
    StoreDamaged,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreUnavailable,
    TransferRefused,
)
from forebay.event import Event
from forebay.event_types import EventType
from forebay.middleware import HandlerCall, Middleware, PublishCall
from forebay.payload import EventTypeLike, Limits
from forebay.policy import Retry
from forebay.retention import Retention
from forebay.runtime import Options
from forebay.store import DeadLetter, Durability, GroupStats, Pending, StreamStats, Trimmed
from forebay.subscription import EventStreamConsumer

__version__ = "0.1.0"

__all__ = [
    "AgentError",
    "Chain",
    "ConfigurationError",
    "DeadLetter",
    "DeadLetterFilter",
    "Durability",
    "Event",
    "EventBus",
    "EventDelivery",
    "EventStreamConsumer",
    "EventType",
    "EventTypeLike",
    "ForebayError",
    "GroupStats",
    "HandlerCall",
    "HandlerTimeout",
    "InMemoryEventBus",
    "InvalidEvent",
    "Limits",
    "MalformedEntry",
    "MalformedEvent",
    "Middleware",
    "NotFound",
    "Options",
    "OutcomeUnknown",
    "PayloadTooLarge",
    "Pending",
    "PersistentEventBus",
    "PublishCall",
    "PublishUnknown",
    "RedisEventBus",
    "Reject",
    "Retention",
    "Retry",
    "RetryAfter",
    "StoreDamaged",
    "StoreDenied",
    "StoreError",
    "StoreFull",
    "StoreUnavailable",
    "StreamStats",
    "TransferRefused",
    "Trimmed",
    "connect",
]
