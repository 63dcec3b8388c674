"""The promise of `Delivery.lease`: each lease has a token of its own, and an older token changes nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
import pytest

from forebay.store import Delivery, Failure, Store
from forebay.testing.contract.base import GROUP, STREAM, A, B, Contract, begun


async def _claim(store: Store, held: Delivery) -> Delivery:
    [again] = await store.claim(held.reader, idle=0.0)
    return again


async def _release(store: Store, held: Delivery) -> Delivery:
    assert 1 == await store.release([held])
    [again] = await store.take_due(held.reader, limit=1)
    return again


async def _retry(store: Store, held: Delivery) -> Delivery:
    assert await store.retry(held, delay=0.0)
    [again] = await store.take_due(held.reader, limit=1)
    return again


async def _through_another(store: Store, held: Delivery) -> Delivery:
    [taken] = await store.claim(B, idle=0.0)
    assert 1 == await store.release([taken])
    [again] = await store.take_due(held.reader, limit=1)
    return again


LeaseAnew = Callable[[Store, Delivery], Awaitable[Delivery]]
WAYS: dict[str, LeaseAnew] = {
    "claimed by its own consumer": _claim,
    "released and taken again": _release,
    "retried and taken again": _retry,
    "given back by another consumer": _through_another,
}
"""The ways in which a consumer gets another lease on an entry that it held."""

in_each_way = pytest.mark.parametrize("lease_anew", WAYS.values(), ids=WAYS.keys())


class FencingContract(Contract):
    """Tokens of leases."""

    async def test_each_lease_of_an_entry_has_another_token(self, store: Store) -> None:
        [read] = await begun(store, A, 1)
        [claimed] = await store.claim(B, idle=0.0, limit=1)
        await store.retry(claimed, delay=0.0)
        [due] = await store.take_due(A, limit=1)
        await store.release([due])
        [again] = await store.take_due(A, limit=1)

        tokens = {each.lease for each in (read, claimed, due, again)}

        assert 4 == len(tokens)
        assert "" not in tokens

    @in_each_way
    async def test_an_older_delivery_renews_no_lease(self, store: Store, lease_anew: LeaseAnew) -> None:
        [held] = await begun(store, A, 1)
        again = await lease_anew(store, held)

        assert [] == await store.extend([held])
        assert [again] == await store.extend([held, again])

    @in_each_way
    async def test_an_older_delivery_releases_nothing(self, store: Store, lease_anew: LeaseAnew) -> None:
        [held] = await begun(store, A, 1)
        again = await lease_anew(store, held)

        assert 0 == await store.release([held])
        assert [again] == await store.extend([again])
        assert 1 == await store.release([again])

    @in_each_way
    @pytest.mark.parametrize("keep", [False, True])
    async def test_an_older_delivery_counts_no_failure(self, store: Store, lease_anew: LeaseAnew, keep: bool) -> None:
        [held] = await begun(store, A, 1)
        again = await lease_anew(store, held)

        assert not await store.retry(held, delay=0.0, keep=keep, failure=Failure("KeyError"))

        [pending] = await store.pending(STREAM, GROUP)
        assert ("worker-a", again.attempt, again.failures, None) == (
            pending.consumer, pending.attempt, pending.failures, pending.last_failure,
        )  # fmt: skip
        assert await store.retry(again, delay=0.0, keep=keep)

    @in_each_way
    async def test_an_older_delivery_makes_no_dead_letter(self, store: Store, lease_anew: LeaseAnew) -> None:
        [held] = await begun(store, A, 1)
        again = await lease_anew(store, held)

        assert not await store.dead_letter(held, reason="no")

        assert [] == await store.dead_letters(STREAM)
        assert await store.dead_letter(again, reason="no")

    @in_each_way
    async def test_an_older_delivery_finishes_its_entry(self, store: Store, lease_anew: LeaseAnew) -> None:
        [held] = await begun(store, A, 1)
        again = await lease_anew(store, held)

        assert 1 == await store.ack([held])

        assert 0 == await store.ack([again])
        assert [] == await store.extend([again])
        assert [] == await store.pending(STREAM, GROUP)

    async def test_a_kept_retry_keeps_its_token(self, store: Store) -> None:
        [held] = await begun(store, A, 1)
        assert await store.retry(held, delay=0.0, keep=True)
        again = _next(held)

        assert [again] == await store.extend([again])
        assert await store.retry(again, delay=0.0, keep=True)
        assert 1 == await store.release([_next(again)])

        [given_back] = await store.take_due(B, limit=1)
        assert (3, 2) == (given_back.attempt, given_back.failures)

    async def test_a_kept_retry_that_is_repeated_counts_one_failure(self, store: Store, other: Store) -> None:
        [held] = await begun(store, A, 1)
        failure = Failure("KeyError: 'vat_rate'")

        for each in (store, other, store):
            assert await each.retry(held, delay=0.0, keep=True, failure=failure)

        [pending] = await store.pending(STREAM, GROUP)
        assert ("worker-a", 2, 1, failure) == (
            pending.consumer, pending.attempt, pending.failures, pending.last_failure,
        )  # fmt: skip
        assert await store.retry(_next(held), delay=0.0, keep=True)
        [pending] = await store.pending(STREAM, GROUP)
        assert (3, 2) == (pending.attempt, pending.failures)

    @pytest.mark.parametrize("keep", [False, True])
    async def test_a_delivery_from_before_a_kept_retry_counts_nothing_more(self, store: Store, keep: bool) -> None:
        [held] = await begun(store, A, 1)
        failure = Failure("KeyError: 'vat_rate'")
        await store.retry(held, delay=0.0, keep=True, failure=Failure("OSError"))
        await store.retry(_next(held), delay=0.0, keep=True, failure=failure)

        assert await store.retry(held, delay=0.0, keep=keep, failure=Failure("OSError"))

        [pending] = await store.pending(STREAM, GROUP)
        assert (3, 2, failure) == (pending.attempt, pending.failures, pending.last_failure)
        assert keep == (pending.consumer is not None)

    async def test_a_retry_that_is_repeated_finds_the_lease_gone(self, store: Store) -> None:
        [held] = await begun(store, A, 1)
        assert [True, False] == [await store.retry(held, delay=0.0), await store.retry(held, delay=0.0)]
        [again] = await store.take_due(A, limit=1)
        assert (2, 1) == (again.attempt, again.failures)

    async def test_a_group_that_was_made_again_knows_no_older_lease(self, store: Store) -> None:
        [held] = await begun(store, A, 1)
        await store.leave(STREAM, GROUP)
        await store.join(STREAM, GROUP)
        [again] = await store.read(A, limit=1)

        assert [again] == await store.extend([held, again])
        assert not await store.retry(held, delay=0.0)

    async def test_an_entry_that_was_read_again_after_a_seek_has_a_new_lease(self, store: Store) -> None:
        [held] = await begun(store, A, 1)
        await store.seek(STREAM, GROUP, "0")
        [again] = await store.read(A, limit=1)

        assert [again] == await store.extend([held, again])
        assert not await store.dead_letter(held, reason="no")


def _next(held: Delivery) -> Delivery:
    """The delivery as its consumer goes on with it after a kept retry."""
    return msgspec.structs.replace(held, attempt=held.attempt + 1, failures=held.failures + 1)
