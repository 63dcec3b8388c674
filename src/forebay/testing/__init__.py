"""For tests: waiting for what will happen, the contract suite for any store, and a store that fails on demand."""

from forebay.testing.faulty import FaultyStore
from forebay.testing.waiting import eventually

__all__ = ["FaultyStore", "eventually"]
