"""The tokens of leases: the consumer, the number of the entry's lease, and if need be a count of readings.

    worker-1:1      the first lease, from XREADGROUP
    worker-1:3      a later one, from take_due or claim
    worker-1:1:2    the first lease of an entry that was read again, for the second time

The number is the server's delivery count of the entry, which rises with each lease, and which the scripts compare. It
begins again at 1 if an entry is read again: after a `seek`, or after its group was made again. XREADGROUP does not
report that, but the positions do: a group reads each position once. So the reader itself counts how often it was set
back, and older tokens of the entries from there on are gone. A lease of another consumer differs by its name. A store
object that did not read accepts such an older token, of the same consumer: the lease keeper's does, and renews a lease.
"""

from __future__ import annotations

from forebay.store import Delivery
from forebay.stores.redis.keys import Group
from forebay.stores.redis.positions import as_numbers

READS_COMPARED = 8
"""The latest reads of a reader. Their replies may arrive in another order; an earlier position was read before."""

GONE = "0"
"""The number of a lease that no entry has."""

Place = tuple[int, int]


class Tokens:
    """The tokens that one store object makes, and the reads of its readers that they depend on."""

    def __init__(self) -> None:
        self._readers: dict[tuple[Group, str], _Readings] = {}

    def of_read(self, group: Group, consumer: str, first: str, last: str) -> str:
        """The token of the entries of a read, from the first position to the last one."""
        readings = self._readers.get((group, consumer))
        if readings is None:
            readings = self._readers[group, consumer] = _Readings()
        start = as_numbers(first)
        readings.add(start, start if last == first else as_numbers(last))
        return self._token(consumer, 1, len(readings.set_back_to))

    def of_lease(self, group: Group, consumer: str, number: int) -> str:
        """The token of a lease with this number, other than from a read."""
        readings = self._readers.get((group, consumer))
        return self._token(consumer, number, len(readings.set_back_to) if readings else 0)

    def number(self, group: Group, delivery: Delivery) -> str:
        """The number of the delivery's lease, for the scripts to compare; GONE if the entry was read again since."""
        consumer, _, rest = delivery.lease.partition(":")
        number, _, count = rest.partition(":")
        if consumer != delivery.reader.consumer or not number.isdecimal():
            return GONE  # the token of another store
        readings = self._readers.get((group, consumer))
        if readings and readings.set_back_to:
            place = as_numbers(delivery.position)
            if any(start <= place for start in readings.set_back_to[int(count or 0) :]):
                return GONE
        return number

    def _token(self, consumer: str, number: int, readings: int) -> str:
        return consumer + (f":{number}:{readings}" if readings else f":{number}")


class _Readings:
    """The reads of one consumer in one group. `set_back_to` has the first position of each time it read again."""

    def __init__(self) -> None:
        self.set_back_to: list[Place] = []
        self._highest: Place = (0, 0)
        self._latest: list[tuple[Place, Place]] = []

    def add(self, first: Place, last: Place) -> None:
        """Note a read. It begins another reading if some of its positions were read before."""
        if first > self._highest:
            self._highest = last
        elif first < self._latest[0][0] or any(first <= end and start <= last for start, end in self._latest):
            self.set_back_to.append(first)
            self._highest = last
            self._latest.clear()
        self._latest.append((first, last))
        if len(self._latest) > READS_COMPARED:
            del self._latest[0]
