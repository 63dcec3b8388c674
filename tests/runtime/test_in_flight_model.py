"""The ledger of in-flight deliveries, driven at random beside a plain list of what each delivery may do."""

from __future__ import annotations

import itertools
from typing import Any, Literal

import hypothesis.strategies as st
import msgspec
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from forebay.event import Record
from forebay.runtime.in_flight import Flight, InFlight
from forebay.runtime.options import Options
from forebay.store import Delivery, Reader

LEASE = 10.0
READER = Reader("t", "g", "c")
KEYS = st.sampled_from(["a", "b", None])
State = Literal["queued", "running", "waiting", "handled"]


class Expected:
    """What is known of one entry that the consumer holds."""

    def __init__(self, delivery: Delivery, lane: object, safe_until: float, *, is_read: bool) -> None:
        self.delivery = delivery
        self.lane = lane
        self.safe_until = safe_until
        self.is_read = is_read
        self.state: State = "queued"
        self.flight: Flight | None = None
        self.is_lost = False


class Machine(RuleBasedStateMachine):
    """Every rule is one step of a consumer; `held` has what it holds, by position."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.held: dict[int, Expected] = {}
        self.keys: list[str | None] = []
        self.handled_ids: set[str] = set()
        self.read_to = 0
        self.is_broken = False
        self.leases = itertools.count()

    @initialize(options=st.sampled_from([{}, {"ordered": True}, {"dedup": True}, {"concurrency": 2, "prefetch": 4}]))
    def begin(self, options: dict[str, Any]) -> None:
        self.options = Options(**options)
        self.in_flight = InFlight(self.options)

    # Deliveries come in.

    @rule(keys=st.lists(KEYS, min_size=1, max_size=4), take=st.integers(1, 4))
    def read(self, keys: list[str | None], take: int) -> None:
        self.keys += keys
        found = range(self.read_to + 1, min(self.read_to + take, len(self.keys)) + 1)
        self.read_to = found[-1] if found else self.read_to
        self._add("read", [self._leased(number) for number in found])

    @rule(number=st.integers(0, 60), how=st.sampled_from(["due", "claim"]), attempt=st.integers(2, 4))
    def take_one(self, number: int, how: str, attempt: int) -> None:
        if not self.keys:
            return
        number = number % len(self.keys) + 1
        if how == "claim" and not self.in_flight.may_claim():
            return
        self._add(how, [self._leased(number, attempt=attempt, recovered=how == "claim")])

    def _leased(self, number: int, **fields: Any) -> Delivery:
        record = Record("t", "s", b"1", "2026", f"id-{number % 5}", self.keys[number - 1])
        return Delivery(READER, str(number), record, lease=str(next(self.leases)), **fields)

    def _add(self, how: str, deliveries: list[Delivery]) -> None:
        safe_until = self.now + LEASE
        add = {"read": self.in_flight.add_read, "due": self.in_flight.add_taken, "claim": self.in_flight.add_claimed}
        assert self.in_flight.accepts(self.now)
        add[how](deliveries, safe_until=safe_until)
        for delivery in deliveries:
            known = self.held.get(int(delivery.position))
            if known is not None and known.state != "handled":
                known.delivery, known.safe_until, known.is_lost = delivery, safe_until, False
                known.is_read = known.is_read or how == "read"
            else:
                is_read = how == "read" or (known is not None and known.is_read)
                expected = Expected(delivery, self._lane(delivery), safe_until, is_read=is_read)
                self.held[int(delivery.position)] = expected

    def _lane(self, delivery: Delivery) -> object:
        assert isinstance(delivery.record, Record)
        if self.options.ordered:
            return delivery.record.key
        return delivery.record.id if self.options.dedup else delivery.position

    # Deliveries start and end.

    @rule()
    def start(self) -> None:
        flight = self.in_flight.next(self.now)
        if flight is None:
            return
        expected = self.held[int(flight.delivery.position)]
        busy = {each.lane for each in self.held.values() if each.state in ("running", "waiting")}
        assert expected.state == "queued"
        assert expected.lane not in busy
        assert flight.delivery is expected.delivery
        assert self.now < expected.safe_until
        assert not self.is_broken
        assert isinstance(flight.delivery.record, Record)
        assert self.in_flight.is_repeat(flight) == (
            bool(self.options.dedup) and flight.delivery.record.id in self.handled_ids
        )
        expected.state, expected.flight = "running", flight

    @precondition(lambda self: self.any_in("running"))
    @rule(data=st.data(), outcome=st.sampled_from(["handled", "settled", "kept", "came back"]))
    def end(self, data: st.DataObject, outcome: str) -> None:
        expected, flight = self._pick(data, "running")
        assert isinstance(expected.delivery.record, Record)
        if outcome == "handled":
            self.in_flight.handled(flight)
            expected.state = "handled"
            if expected.delivery.record.id is not None:
                self.handled_ids.add(expected.delivery.record.id)
        elif outcome == "settled" or expected.is_lost:
            self.in_flight.finish(flight)
            del self.held[int(expected.delivery.position)]
        elif outcome == "kept":
            expected.delivery = msgspec.structs.replace(expected.delivery, failures=expected.delivery.failures + 1)
            self.in_flight.keep(flight, expected.delivery)
            expected.state = "waiting"
        else:
            self.in_flight.resume(flight)
            expected.state = "queued"

    @precondition(lambda self: self.any_in("handled"))
    @rule(data=st.data())
    def ack_arrives(self, data: st.DataObject) -> None:
        expected, flight = self._pick(data, "handled")
        self.in_flight.finish(flight)
        del self.held[int(expected.delivery.position)]

    @precondition(lambda self: self.any_in("waiting"))
    @rule(data=st.data())
    def wait_is_over(self, data: st.DataObject) -> None:
        expected, flight = self._pick(data, "waiting")
        self.in_flight.resume(flight)
        expected.state = "queued"

    def any_in(self, state: State) -> bool:
        return any(each.state == state for each in self.held.values())

    def _pick(self, data: st.DataObject, state: State) -> tuple[Expected, Flight]:
        expected = data.draw(st.sampled_from([each for each in self.held.values() if each.state == state]))
        assert expected.flight is not None
        return expected, expected.flight

    # Leases.

    @rule(seconds=st.sampled_from([1.0, LEASE / 2, LEASE]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def keeper_renews(self, data: st.DataObject) -> None:
        renewed = data.draw(st.lists(st.sampled_from(list(self.held.values())), unique=True))
        self.in_flight.renew([each.delivery for each in renewed], safe_until=self.now + LEASE)
        for each in renewed:
            each.safe_until = self.now + LEASE

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def keeper_finds_leases_gone(self, data: st.DataObject) -> None:
        gone = data.draw(st.lists(st.sampled_from(list(self.held.values())), unique=True))
        lost = self.in_flight.lose([each.delivery for each in gone])
        expected = [each for each in gone if each.state != "handled" and not each.is_lost]
        assert {each.delivery.position for each in expected} == {flight.delivery.position for flight in lost}
        for each in expected:
            each.is_lost = True
            if each.state != "running":
                del self.held[int(each.delivery.position)]
        self.is_broken = self.is_broken or bool(expected and self.options.ordered)
        assert self.is_broken == self.in_flight.is_order_broken

    @rule()
    def release_if_needed(self) -> None:
        queued = [each for each in self.held.values() if each.state == "queued"]
        is_late = any(self.now >= each.safe_until for each in queued)
        assert self.in_flight.must_release(self.now) == (is_late or self.is_broken)
        if not self.in_flight.may_have_lost_leases:
            return
        released = self.in_flight.begin_release()
        assert not self.in_flight.accepts(self.now)
        assert {each.delivery.position for each in queued} == {flight.delivery.position for flight in released}
        for each in queued:
            del self.held[int(each.delivery.position)]
        self.in_flight.end_release(self.now)
        self.is_broken = False

    # The group is lost.

    @rule()
    def group_is_made_again(self) -> None:
        restart = self.in_flight.restart_after("t")
        self.in_flight.restarted("t", restart)
        self.read_to = int(restart)
        for each in self.held.values():
            each.is_read = False

    # Always.

    @invariant()
    def holds_what_is_expected(self) -> None:
        if not hasattr(self, "in_flight"):
            return
        assert len(self.held) == len(self.in_flight)
        leased = {int(position): each for (_, position), each in self.in_flight.leased.items()}
        assert {number: each.delivery for number, each in self.held.items() if not each.is_lost} == leased
        assert self.in_flight.room() >= 0

    @invariant()
    def restarts_before_what_is_unfinished(self) -> None:
        if hasattr(self, "in_flight"):
            restart = int(self.in_flight.restart_after("t"))
            assert restart <= self.read_to
            assert all(
                restart < number for number, each in self.held.items() if each.is_read and each.state != "handled"
            )

    def teardown(self) -> None:
        """Nothing is stuck: with enough time, all that is held comes to a handler and to its end."""
        if not hasattr(self, "in_flight"):
            return
        self.release_if_needed()
        for _ in range(2 * len(self.held) + 1):
            self.in_flight.renew([each.delivery for each in self.held.values()], safe_until=self.now + LEASE)
            for each in self.held.values():
                each.safe_until = self.now + LEASE
            self.start()
            for each in list(self.held.values()):
                if each.flight is not None and each.state == "waiting":
                    self.in_flight.resume(each.flight)
                    each.state = "queued"
                elif each.flight is not None and each.state in ("running", "handled"):
                    self.in_flight.finish(each.flight)
                    del self.held[int(each.delivery.position)]
        assert 0 == len(self.in_flight)
        assert self.in_flight.may_claim()


TestInFlight = Machine.TestCase
TestInFlight.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
