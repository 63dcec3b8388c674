"""The promises of `Leases` about settling entries: extend, ack, retry, release, dead_letter."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from forebay.store import Delivery, Failure, Store, Trimmed
from forebay.testing.contract.base import (
    GROUP,
    HOUR,
    MAIL,
    STREAM,
    A,
    B,
    Contract,
    Plant,
    begun,
    numbers,
    order,
    planted,
)
from forebay.testing.waiting import eventually

FRAMES = '  File "shop.py", line 7, in price\n    return rates["nö"]\nKeyError'


class SettlingContract(Contract):
    """A lost lease changes nothing about its entry, except that an ack finishes it."""

    async def test_a_lease_is_renewed_by_its_holder_only(self, store: Store) -> None:
        held = await begun(store, A, 2)
        assert held == await store.extend(held)

        [taken] = await store.claim(B, idle=0.0, limit=1)

        assert held[1:] == await store.extend(held)
        assert [taken] == await store.extend([taken])

    async def test_an_extend_of_finished_entries_renews_nothing(self, store: Store) -> None:
        held = await begun(store, A, 1)
        await store.ack(held)
        assert [] == await store.extend(held)
        assert [] == await store.extend([])

    # Ack.

    async def test_an_ack_finishes_entries_and_counts_those_that_were_pending(self, store: Store, other: Store) -> None:
        held = await begun(store, A, 3)

        assert 2 == await store.ack(held[:2])
        assert 1 == await other.ack(held)
        assert 0 == await store.ack(held)
        assert 0 == await store.ack([])

        assert [] == await store.pending(STREAM, GROUP)
        assert [] == await store.read(B, limit=10)
        assert [1, 2, 3] == numbers(await store.scan(STREAM))

    async def test_an_ack_counts_whichever_consumer_holds_the_lease(self, store: Store) -> None:
        [held] = await begun(store, A, 1)
        [taken] = await store.claim(B, idle=0.0)

        assert 1 == await store.ack([held])
        assert 0 == await store.ack([taken])
        assert [] == await store.extend([taken])

    async def test_work_done_is_done_though_the_entry_waits_for_its_retry(self, store: Store) -> None:
        [held] = await begun(store, A, 1)
        await store.retry(held, delay=0.0)

        assert 1 == await store.ack([held])
        assert [] == await store.take_due(B, limit=10)
        assert [] == await store.pending(STREAM, GROUP)

    async def test_an_ack_is_of_one_group(self, store: Store) -> None:
        held = await begun(store, A, 1)
        await store.join(STREAM, "mail")
        await store.read(MAIL, limit=1)
        await store.ack(held)
        assert 1 == len(await store.pending(STREAM, "mail"))

    async def test_an_ack_of_several_groups_finishes_each(self, store: Store) -> None:
        held = await begun(store, A, 2)
        await store.join(STREAM, "mail")
        assert 4 == await store.ack([*held, *await store.read(MAIL, limit=2)])

    async def test_a_group_remembers_the_ids_of_acks_that_ask_for_it(self, store: Store, other: Store) -> None:
        await store.join(STREAM, GROUP)
        await store.append(STREAM, [order(1, id="a"), order(2, id="b"), order(3, id="c")])
        first, second, _ = await store.read(A, limit=3)

        await store.ack([first], remember=HOUR)
        await store.ack([second])

        assert {"a"} == await other.handled(STREAM, GROUP, ["a", "b", "c", "d"])
        assert set() == await store.handled(STREAM, "mail", ["a"])
        assert set() == await store.handled("order_paid", GROUP, ["a"])
        assert set() == await store.handled(STREAM, GROUP, [])

    async def test_a_group_forgets_ids_after_the_given_time(self, store: Store) -> None:
        await store.join(STREAM, GROUP)
        await store.append(STREAM, [order(1, id="a")])
        await store.ack(await store.read(A, limit=1), remember=0.05)

        async def forgotten() -> bool:
            return not await store.handled(STREAM, GROUP, ["a"])

        await eventually(forgotten)

    # Retry.

    async def test_the_first_consumer_that_asks_gets_a_failed_entry(self, store: Store, other: Store) -> None:
        [held] = await begun(store, A, 1)

        assert await store.retry(held, delay=0.0)

        [again] = await other.take_due(B, limit=10)
        assert Delivery(B, held.position, held.record, attempt=2, failures=1, lease=again.lease) == again
        assert [] == await store.take_due(A, limit=10)

    async def test_a_failed_entry_waits_for_its_time(self, store: Store) -> None:
        late, soon = await begun(store, A, 2)
        await store.retry(late, delay=HOUR)
        await store.retry(soon, delay=0.05)

        found: list[Delivery] = []

        async def due() -> bool:
            found.extend(await store.take_due(B, limit=10))
            return bool(found)

        await eventually(due)

        assert [2] == numbers(found)
        [waiting] = [pending for pending in await store.pending(STREAM, GROUP) if pending.consumer is None]
        assert late.position == waiting.position
        assert waiting.due is not None
        assert HOUR - 60 < waiting.due <= HOUR

    async def test_due_entries_come_up_to_the_limit(self, store: Store) -> None:
        for held in await begun(store, A, 3):
            await store.retry(held, delay=0.0)
        assert [2, 1, 0] == [len(await store.take_due(B, limit=2)) for _ in range(3)]

    async def test_the_waiting_entries_that_have_been_due_for_longest_are_taken_first(self, store: Store) -> None:
        for held, delay in zip(await begun(store, A, 3), (0.2, 0.1, 0.0), strict=True):
            await store.retry(held, delay=delay)

        async def all_due() -> bool:
            return all(p.due is not None and p.due <= 0 for p in await store.pending(STREAM, GROUP))

        await eventually(all_due)
        assert [[3], [2], [1]] == [numbers(await store.take_due(B, limit=1)) for _ in range(3)]

    async def test_each_failure_is_counted(self, store: Store) -> None:
        [held] = await begun(store, A, 1)
        for count in (1, 2, 3):
            await store.retry(held, delay=0.0)
            [held] = await store.take_due(A, limit=1)
            assert (count + 1, count) == (held.attempt, held.failures)

    async def test_a_failed_entry_that_is_kept_stays_with_its_consumer(self, store: Store) -> None:
        [held] = await begun(store, A, 1)

        assert await store.retry(held, delay=0.0, keep=True)

        assert [] == await store.take_due(B, limit=10)
        again = msgspec.structs.replace(held, attempt=2, failures=1)
        assert [again] == await store.extend([again])
        [pending] = await store.pending(STREAM, GROUP)
        assert ("worker-a", 2, 1) == (pending.consumer, pending.attempt, pending.failures)
        [taken] = await store.claim(B, idle=0.0)
        assert (3, 1) == (taken.attempt, taken.failures)

    async def test_the_last_failure_stays_with_the_entry_until_it_is_settled(self, store: Store, other: Store) -> None:
        first, second = Failure("KeyError: 'vat_rate'", FRAMES), Failure('OSError: nö \N{SNOWMAN} "quoted"\\')
        [held] = await begun(store, A, 1)
        assert held.last_failure is None

        await store.retry(held, delay=0.0, failure=first)
        [held] = await other.take_due(B, limit=1)
        assert first == held.last_failure
        await store.release([held])
        [pending] = await store.pending(STREAM, GROUP)
        assert first == pending.last_failure
        [held] = await store.take_due(A, limit=1)
        [held] = await other.claim(B, idle=0.0)
        assert (first, 3, 1) == (held.last_failure, held.attempt, held.failures)
        await store.retry(held, delay=0.0, keep=True, failure=second)
        [pending] = await store.pending(STREAM, GROUP)
        assert (second, "worker-b") == (pending.last_failure, pending.consumer)
        [held] = await store.claim(A, idle=0.0)
        assert second == held.last_failure

        await store.dead_letter(held, reason="no")
        await store.redrive(STREAM, [letter.id for letter in await store.dead_letters(STREAM)])
        [again] = await store.read(A, limit=1)
        assert (None, 0) == (again.last_failure, again.failures)

    async def test_a_failure_that_is_not_known_takes_the_place_of_one_that_was(self, store: Store) -> None:
        [held] = await begun(store, A, 1)
        await store.retry(held, delay=0.0, failure=Failure("KeyError"))
        [held] = await store.take_due(A, limit=1)
        await store.retry(held, delay=0.0)
        [held] = await store.take_due(A, limit=1)
        assert (None, 2) == (held.last_failure, held.failures)

    @pytest.mark.parametrize("keep", [False, True])
    async def test_a_lost_lease_counts_no_failure(self, store: Store, keep: bool) -> None:
        [held] = await begun(store, A, 1)
        [taken] = await store.claim(B, idle=0.0)

        assert not await store.retry(held, delay=0.0, keep=keep, failure=Failure("KeyError"))

        assert [("worker-b", 2, 0, None)] == [
            (p.consumer, p.attempt, p.failures, p.last_failure) for p in await store.pending(STREAM, GROUP)
        ]
        assert 1 == await store.ack([taken])
        assert not await store.retry(taken, delay=0.0, keep=keep)
        assert [] == await store.pending(STREAM, GROUP)

    # Release.

    async def test_a_released_entry_is_due_at_once_as_if_it_had_not_been_delivered(self, store: Store) -> None:
        held = await begun(store, A, 2)

        assert 2 == await store.release(held)

        again = await store.take_due(B, limit=10)
        assert [(1, 1, 0), (2, 1, 0)] == [(int(d.record.data), d.attempt, d.failures) for d in again]  # type: ignore[union-attr]  # events

    async def test_a_release_takes_back_the_last_delivery_only(self, store: Store) -> None:
        [held] = await begun(store, A, 1)
        await store.retry(held, delay=0.0)
        [held] = await store.take_due(A, limit=1)

        await store.release([held])

        [again] = await store.take_due(B, limit=1)
        assert (2, 1) == (again.attempt, again.failures)

    async def test_a_lost_lease_releases_nothing(self, store: Store) -> None:
        held = await begun(store, A, 2)
        await store.claim(B, idle=0.0, limit=1)
        assert 1 == await store.release(held)
        assert 0 == await store.release(held)
        assert 0 == await store.release([])

    # Dead letters are made.

    async def test_a_dead_letter_is_the_whole_entry_with_the_reason(self, store: Store, other: Store) -> None:
        [held] = await begun(store, A, 1)
        await store.retry(held, delay=0.0)
        [held] = await store.take_due(A, limit=1)

        assert await store.dead_letter(held, reason="ValueError: nö such order")

        [letter] = await other.dead_letters(STREAM)
        assert (STREAM, GROUP, held.position, held.record, "ValueError: nö such order", 2) == (
            letter.stream, letter.group, letter.position, letter.record, letter.error, letter.attempts,
        )  # fmt: skip
        assert abs(datetime.now(UTC) - letter.failed_at) < timedelta(minutes=1)
        assert [] == await store.pending(STREAM, GROUP)
        assert [1] == numbers(await store.scan(STREAM))

    async def test_a_dead_letter_has_the_traceback_and_the_tries_that_it_was_given(self, store: Store) -> None:
        first, second = await begun(store, A, 2)

        await store.dead_letter(first, reason="KeyError: 'vat_rate'", traceback=FRAMES)
        await store.dead_letter(second, reason="no", attempts=7)

        letters = await store.dead_letters(STREAM)
        assert [(FRAMES, 1), ("", 7)] == [(letter.traceback, letter.attempts) for letter in letters]
        assert [first.record, second.record] == [letter.record for letter in letters]

    async def test_a_lost_lease_makes_no_dead_letter(self, store: Store) -> None:
        [held] = await begun(store, A, 1)
        [taken] = await store.claim(B, idle=0.0)

        assert not await store.dead_letter(held, reason="no")
        assert [] == await store.dead_letters(STREAM)
        assert [taken] == await store.extend([taken])
        assert await store.dead_letter(taken, reason="no")
        assert not await store.dead_letter(taken, reason="no")
        assert 1 == len(await store.dead_letters(STREAM))

    async def test_a_dead_letter_outlives_its_entry(self, store: Store) -> None:
        first, second = await begun(store, A, 2)
        await store.dead_letter(first, reason="no")
        await store.ack([second])

        assert Trimmed(2, 0) == await store.trim(STREAM, max_length=0)

        assert [first.record] == [letter.record for letter in await store.dead_letters(STREAM)]

    async def test_an_entry_that_left_its_stream_dies_with_the_fields_that_were_delivered(self, store: Store) -> None:
        [held] = await begun(store, A, 1)
        await store.trim(STREAM, max_length=0, force=True)

        assert await store.dead_letter(held, reason="no")

        assert [held.record] == [letter.record for letter in await store.dead_letters(STREAM)]

    async def test_a_foreign_dead_letter_keeps_every_byte(self, store: Store, plant: Plant) -> None:
        foreign = await planted(plant)
        await store.join(STREAM, GROUP)
        [held] = await store.read(A, limit=1)

        await store.dead_letter(held, reason="no event")

        assert [foreign] == [letter.record for letter in await store.dead_letters(STREAM)]
