"""The ledger of in-flight deliveries: which may start, in which order, and where a lost group restarts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from forebay import Retry
from forebay.event import Record
from forebay.runtime.in_flight import Flight, InFlight
from forebay.runtime.options import Options
from forebay.store import START, Delivery, Reader

SAFE = 100.0
"""The time until which leases hold, unless a test says otherwise; most tests stand at the time 0."""


def delivery(number: int, *, stream: str = "t", key: str | None = None, **fields: Any) -> Delivery:
    record = Record("t", "s", b"1", "2026-01-01T00:00:00+00:00", fields.pop("id", f"{stream}-{number}"), key)
    return Delivery(Reader(stream, "g", "c"), str(number), fields.pop("record", record), **fields)


def deliveries(*numbers: int, stream: str = "t", **fields: Any) -> list[Delivery]:
    return [delivery(number, stream=stream, **fields) for number in numbers]


def ledger(**options: Any) -> InFlight:
    return InFlight(Options(**options))


def start_all(in_flight: InFlight, now: float = 0.0) -> list[Flight]:
    found = []
    while (flight := in_flight.next(now)) is not None:
        found.append(flight)
    return found


def positions(flights: Sequence[Flight]) -> list[str]:
    return [flight.delivery.position for flight in flights]


# Order.


def test_deliveries_start_in_the_order_in_which_they_were_read_claimed_ones_first() -> None:
    in_flight = ledger()
    in_flight.add_read(deliveries(1, 2), safe_until=SAFE)
    in_flight.add_taken(deliveries(9), safe_until=SAFE)
    in_flight.add_claimed(deliveries(5, recovered=True, attempt=2), safe_until=SAFE)

    assert ["5", "1", "2", "9"] == positions(start_all(in_flight))
    assert in_flight.next(0.0) is None


def test_of_one_key_one_delivery_runs_at_a_time_in_an_ordered_group() -> None:
    in_flight = ledger(ordered=True)
    in_flight.add_read([delivery(1, key="a"), delivery(2, key="a"), delivery(3, key="b")], safe_until=SAFE)

    [first, other] = start_all(in_flight)
    assert ["1", "3"] == positions([first, other])
    in_flight.handled(first)

    assert ["2"] == positions(start_all(in_flight))


def test_events_without_a_key_count_as_one_key_and_streams_are_apart() -> None:
    in_flight = ledger(ordered=True)
    in_flight.add_read([*deliveries(1, 2), *deliveries(1, stream="u")], safe_until=SAFE)

    assert [("t", "1"), ("u", "1")] == [flight.key for flight in start_all(in_flight)]


def test_a_kept_retry_holds_back_its_key_until_it_is_resumed() -> None:
    in_flight = ledger(ordered=True)
    in_flight.add_read([delivery(1, key="a"), delivery(2, key="a")], safe_until=SAFE)
    [first] = start_all(in_flight)

    again = msgspec.structs.replace(first.delivery, attempt=2, failures=1)
    in_flight.keep(first, again)
    assert [] == start_all(in_flight)
    assert [again] == [each for each in in_flight.leased.values() if each.position == "1"]
    in_flight.resume(first)

    assert [first] == start_all(in_flight)
    assert first.delivery is again


def test_with_dedup_of_one_id_one_delivery_runs_at_a_time_and_the_next_is_a_repeat() -> None:
    in_flight = ledger(dedup=True)
    in_flight.add_read([delivery(1, id="x"), delivery(2, id="x"), delivery(3, id="y")], safe_until=SAFE)

    [first, other] = start_all(in_flight)
    assert not in_flight.is_repeat(first)
    assert ["1", "3"] == positions([first, other])
    in_flight.handled(first)

    [second] = start_all(in_flight)
    assert in_flight.is_repeat(second)


def test_an_id_that_failed_is_not_a_repeat_the_next_time() -> None:
    in_flight = ledger(dedup=True)
    in_flight.add_read([delivery(1, id="x"), delivery(2, id="x")], safe_until=SAFE)
    [first] = start_all(in_flight)
    in_flight.finish(first)

    [second] = start_all(in_flight)
    assert not in_flight.is_repeat(second)


def test_an_id_that_the_store_remembers_is_a_repeat() -> None:
    in_flight = ledger(dedup=True)
    in_flight.add_read([delivery(1, id="x"), delivery(2, id="y")], safe_until=SAFE, handled_ids={"x"})

    assert [True, False] == [in_flight.is_repeat(flight) for flight in start_all(in_flight)]


def test_a_batch_is_of_one_stream_and_failed_or_claimed_deliveries_start_alone() -> None:
    in_flight = ledger(batch=3)
    in_flight.add_read([*deliveries(1, 2, 3, 4), *deliveries(1, stream="u")], safe_until=SAFE)
    in_flight.add_taken(deliveries(8, failures=1), safe_until=SAFE)
    in_flight.add_read(deliveries(5, 6), safe_until=SAFE)

    batches = []
    while batch := in_flight.next_batch(0.0, 3):
        batches.append([flight.key for flight in batch])

    assert [
        [("t", "1"), ("t", "2"), ("t", "3")],
        [("t", "4")],
        [("u", "1")],
        [("t", "8")],
        [("t", "5"), ("t", "6")],
    ] == batches


# Leases.


def test_nothing_starts_after_its_lease_may_have_run_out_and_everything_unstarted_is_released() -> None:
    in_flight = ledger()
    in_flight.add_read(deliveries(1), safe_until=10)
    in_flight.add_read(deliveries(2), safe_until=SAFE)

    assert in_flight.next(10) is None
    assert in_flight.may_have_lost_leases
    assert in_flight.must_release(10)
    assert ["1", "2"] == positions(in_flight.begin_release())

    assert 0 == len(in_flight)
    assert not in_flight.may_have_lost_leases


def test_a_renewal_that_comes_in_time_ends_the_doubt() -> None:
    in_flight = ledger()
    in_flight.add_read(late := deliveries(1), safe_until=10)
    assert in_flight.next(10) is None
    assert 0 == in_flight.startable

    in_flight.renew(late, safe_until=SAFE)

    assert not in_flight.must_release(10)
    assert 1 == in_flight.startable
    assert ["1"] == positions(start_all(in_flight, 10))


def test_deliveries_requested_before_a_release_was_complete_are_refused() -> None:
    in_flight = ledger()
    assert in_flight.accepts(0.0)

    in_flight.begin_release()
    assert not in_flight.accepts(5.0)
    in_flight.end_release(6.0)

    assert not in_flight.accepts(5.0)
    assert in_flight.accepts(6.0)


def test_an_ordered_group_that_lost_a_lease_starts_nothing_until_the_rest_is_released() -> None:
    in_flight = ledger(ordered=True)
    in_flight.add_read([delivery(1, key="a"), delivery(2, key="a"), delivery(3, key="b")], safe_until=SAFE)
    first = in_flight.next(0.0)
    assert first is not None

    assert [first] == in_flight.lose([first.delivery])

    assert in_flight.is_order_broken
    assert in_flight.next(0.0) is None
    assert in_flight.must_release(0.0)
    assert ["2", "3"] == positions(in_flight.begin_release())
    assert not in_flight.is_order_broken


def test_a_lost_lease_drops_an_unstarted_delivery_and_lets_a_running_handler_finish() -> None:
    in_flight = ledger()
    in_flight.add_read(both := deliveries(1, 2), safe_until=SAFE)
    running = in_flight.next(0.0)
    assert running is not None

    assert ["1", "2"] == positions(in_flight.lose(both))
    assert [] == in_flight.lose(both)

    assert [running] == in_flight.unsettled()
    assert {} == in_flight.leased
    assert not in_flight.is_safe(running, 0.0)


def test_a_lost_lease_in_the_middle_of_a_lane_does_not_stop_the_lane() -> None:
    in_flight = ledger(dedup=True)
    in_flight.add_read(all := [delivery(n, id="x") for n in (1, 2, 3)], safe_until=SAFE)
    [first] = start_all(in_flight)

    in_flight.lose([all[1]])
    in_flight.handled(first)

    assert ["3"] == positions(start_all(in_flight))


def test_a_lost_head_of_a_lane_makes_way_for_the_next_one() -> None:
    in_flight = ledger(dedup=True)
    in_flight.add_read(both := [delivery(n, id="x") for n in (1, 2)], safe_until=SAFE)

    in_flight.lose(both[:1])

    assert ["2"] == positions(start_all(in_flight))


def test_a_handled_delivery_keeps_its_lease_until_the_store_has_its_ack() -> None:
    in_flight = ledger()
    in_flight.add_read(deliveries(1), safe_until=SAFE)
    [flight] = start_all(in_flight)

    in_flight.handled(flight)
    assert {("t", "1"): flight.delivery} == in_flight.leased
    assert [] == in_flight.unsettled()
    in_flight.finish(flight)

    assert 0 == len(in_flight)


def test_a_delivery_that_runs_and_comes_again_gets_the_new_lease_and_no_second_handler() -> None:
    in_flight = ledger()
    in_flight.add_read(deliveries(1), safe_until=10)
    [flight] = start_all(in_flight)
    in_flight.lose([flight.delivery])

    newer = delivery(1, attempt=2, lease="newer")
    in_flight.add_read([newer], safe_until=SAFE)

    assert [] == start_all(in_flight)
    assert flight.delivery is newer
    assert in_flight.is_safe(flight, 50.0)
    assert {("t", "1"): newer} == in_flight.leased


def test_a_handled_delivery_that_comes_again_is_handled_again() -> None:
    in_flight = ledger()
    in_flight.add_read(deliveries(1), safe_until=SAFE)
    [flight] = start_all(in_flight)
    in_flight.handled(flight)

    in_flight.add_read([newer := delivery(1, lease="newer")], safe_until=SAFE)
    in_flight.finish(flight)

    [again] = start_all(in_flight)
    assert again.delivery is newer


def test_an_event_that_was_settled_and_came_back_meanwhile_starts_again() -> None:
    in_flight = ledger()
    in_flight.add_read(deliveries(1), safe_until=SAFE)
    [flight] = start_all(in_flight)
    in_flight.add_taken([newer := delivery(1, attempt=2, lease="newer")], safe_until=SAFE)

    in_flight.resume(flight)

    assert [flight] == start_all(in_flight)
    assert flight.delivery is newer


def test_after_it_was_closed_nothing_starts_and_nothing_is_accepted() -> None:
    in_flight = ledger(ordered=True)
    in_flight.add_read([delivery(n, key="a") for n in (1, 2)], safe_until=SAFE)
    [first] = start_all(in_flight)

    assert ["2"] == positions(in_flight.close())
    in_flight.keep(first, first.delivery)
    in_flight.resume(first)

    assert not in_flight.accepts(1.0)
    assert in_flight.next(0.0) is None
    assert [first] == in_flight.unsettled()


def test_an_abandoned_delivery_is_renewed_no_more_and_keeps_its_key_closed() -> None:
    in_flight = ledger(ordered=True)
    in_flight.add_read([delivery(n, key="a") for n in (1, 2)], safe_until=SAFE)
    [first] = start_all(in_flight)

    in_flight.abandon(first)
    in_flight.finish(first)

    assert ["2"] == [each.position for each in in_flight.leased.values()]
    assert [] == start_all(in_flight)


# Events of dead consumers.


def test_the_next_event_is_taken_over_when_the_one_before_has_started() -> None:
    in_flight = ledger()
    in_flight.add_read(deliveries(1), safe_until=SAFE)
    in_flight.add_claimed(deliveries(5, recovered=True, attempt=2), safe_until=SAFE)
    assert not in_flight.may_claim()

    assert in_flight.next(0.0) is not None

    assert in_flight.may_claim()


def test_from_its_third_delivery_on_an_event_runs_to_its_end_before_the_next_one_is_taken_over() -> None:
    in_flight = ledger()
    in_flight.add_claimed(deliveries(5, recovered=True, attempt=3), safe_until=SAFE)
    [suspect] = start_all(in_flight)
    assert not in_flight.may_claim()

    in_flight.handled(suspect)

    assert in_flight.may_claim()


@pytest.mark.parametrize("end", ["finish", "keep", "lose", "release", "close"])
def test_however_a_suspect_ends_the_next_one_may_come(end: str) -> None:
    in_flight = ledger(ordered=True, retry=Retry(attempts=3))
    [suspect] = deliveries(5, recovered=True, attempt=3)
    in_flight.add_claimed([suspect], safe_until=SAFE)
    flight = in_flight.next(0.0) if end in {"finish", "keep"} else None
    assert not in_flight.may_claim()

    match end, flight:
        case "finish", Flight():
            in_flight.finish(flight)
        case "keep", Flight():
            in_flight.keep(flight, msgspec.structs.replace(suspect, attempt=4))
        case "lose", _:
            in_flight.lose([suspect])
        case "release", _:
            in_flight.begin_release()
        case _:
            in_flight.close()

    assert in_flight.may_claim()


def test_an_own_delivery_that_was_claimed_while_it_runs_holds_up_no_claim() -> None:
    in_flight = ledger()
    in_flight.add_read(deliveries(1), safe_until=SAFE)
    [flight] = start_all(in_flight)

    in_flight.add_claimed(deliveries(1, recovered=True, attempt=2), safe_until=SAFE)

    assert in_flight.may_claim()
    assert [] == start_all(in_flight)
    assert flight.delivery.attempt == 2


# Where a lost group restarts.


def test_a_lost_group_restarts_after_the_last_event_before_the_first_unfinished_one() -> None:
    in_flight = ledger()
    assert START == in_flight.restart_after("t")
    in_flight.restarted("t", "4")
    assert "4" == in_flight.restart_after("t")
    in_flight.add_read(deliveries(5, 7, 9), safe_until=SAFE)
    in_flight.add_read(deliveries(11), safe_until=SAFE)
    [five, seven, nine, eleven] = start_all(in_flight)
    assert "4" == in_flight.restart_after("t")

    in_flight.handled(nine)
    in_flight.finish(five)
    assert "5" == in_flight.restart_after("t")
    in_flight.handled(seven)
    assert "9" == in_flight.restart_after("t")
    in_flight.finish(eleven)

    assert "11" == in_flight.restart_after("t")


def test_each_stream_restarts_by_itself() -> None:
    in_flight = ledger()
    in_flight.add_read([*deliveries(1, 2), *deliveries(3, 4, stream="u")], safe_until=SAFE)
    for flight in start_all(in_flight):
        if flight.key != ("u", "4"):
            in_flight.finish(flight)

    assert "2" == in_flight.restart_after("t")
    assert "3" == in_flight.restart_after("u")


def test_after_a_restart_events_in_flight_count_when_they_are_read_again() -> None:
    in_flight = ledger()
    in_flight.add_read(deliveries(5, 6, 7), safe_until=SAFE)
    [five, six, seven] = start_all(in_flight)
    in_flight.finish(six)

    in_flight.restarted("t", "0")
    assert "0" == in_flight.restart_after("t")
    in_flight.add_read(deliveries(5, 6, lease="newer"), safe_until=SAFE)
    in_flight.finish(five)
    assert "5" == in_flight.restart_after("t")
    [six] = start_all(in_flight)
    in_flight.finish(six)
    assert "6" == in_flight.restart_after("t")
    in_flight.finish(seven)

    assert "6" == in_flight.restart_after("t")


def test_due_and_claimed_entries_do_not_move_the_restart() -> None:
    in_flight = ledger()
    in_flight.add_read(deliveries(5), safe_until=SAFE)
    in_flight.add_taken(deliveries(2), safe_until=SAFE)
    [five, two] = start_all(in_flight)
    in_flight.finish(five)

    assert "5" == in_flight.restart_after("t")
    in_flight.finish(two)
    assert "5" == in_flight.restart_after("t")


def test_an_entry_that_left_its_stream_is_handed_out_as_any_other() -> None:
    in_flight = ledger(ordered=True)
    in_flight.add_read(deliveries(1, record=None), safe_until=SAFE)

    [flight] = start_all(in_flight)
    assert flight.delivery.record is None
