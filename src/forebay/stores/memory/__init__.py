"""The memory store: the Store protocol in plain dictionaries and lists, as a reference for the others."""

from forebay.stores.memory.store import MemoryStore

__all__ = ["MemoryStore"]
