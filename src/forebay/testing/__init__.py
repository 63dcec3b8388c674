"""For tests: waiting for a condition, the contract suite for any store, a proxy, and a store that fails on demand."""

from forebay.testing.faulty import FaultyStore
from forebay.testing.proxy import StoreProxy
from forebay.testing.waiting import eventually

__all__ = ["FaultyStore", "StoreProxy", "eventually"]
