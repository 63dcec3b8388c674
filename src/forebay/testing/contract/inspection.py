"""The promises of `Inspection`: counts are exact, or None."""

from __future__ import annotations

import msgspec

from forebay.store import Store
from forebay.testing.contract.base import GROUP, HOUR, STREAM, A, B, Contract, begun, order, orders


class InspectionContract(Contract):
    """Stats, pending, durability."""

    async def test_a_stream_at_a_glance(self, store: Store, other: Store) -> None:
        held = await begun(store, A, 5)
        await store.ack(held[:1])
        await store.retry(held[1], delay=HOUR)
        await store.dead_letter(held[2], reason="no")
        await store.append(STREAM, orders(6, 7))
        await store.schedule(STREAM, orders(8), delay=HOUR)
        entries = await store.scan(STREAM)

        [stats] = await other.stats()

        assert (STREAM, 7, 1, 1) == (stats.stream, stats.length, stats.scheduled, stats.dead)
        assert (entries[0].position, entries[-1].position) == (stats.first, stats.last)
        [group] = stats.groups
        assert (GROUP, held[4].position, 2, 3, 1, 1) == (
            group.group, group.position, group.lag, group.pending, group.waiting, group.dead,
        )  # fmt: skip
        assert group.consumers >= 1
        assert group.oldest is not None
        assert 0 <= group.oldest < 60

    async def test_streams_and_groups_come_by_name_and_unknown_ones_not_at_all(self, store: Store) -> None:
        for stream in ("b", "a", "c"):
            await store.append(stream, orders(1))
        for group in ("two", "one"):
            await store.join("a", group)
        [entry] = await store.scan("a")
        assert 0 <= await store.time("a") - entry.appended < 60
        assert abs(await store.time("a") - await store.time("unknown")) < 60
        assert [["one", "two"], [], []] == [await store.groups(stream) for stream in ("a", "b", "unknown")]

        assert ["a", "b", "c"] == [stats.stream for stats in await store.stats()]
        assert ["a", "c"] == sorted(stats.stream for stats in await store.stats(["c", "nothing_here", "a"]))
        assert [] == await store.stats([])
        assert ["one", "two"] == [group.group for group in (await store.stats(["a"]))[0].groups]

    async def test_an_idle_group_has_nothing_pending_and_no_lag(self, store: Store) -> None:
        await store.ack(await begun(store, A, 3))

        [group] = (await store.stats())[0].groups

        assert (0, 0, 0, 0, None) == (group.lag, group.pending, group.waiting, group.dead, group.oldest)

    async def test_lag_counts_the_entries_that_the_group_will_read(self, store: Store) -> None:
        await store.join(STREAM, GROUP)
        for_us = msgspec.structs.replace(order(3), only_group=GROUP)
        positions = await store.append(STREAM, [for_us, *orders(4, 5)])
        assert [3] == await _lags(store)

        await store.read(A, limit=1)
        assert [2] == await _lags(store)
        await store.seek(STREAM, GROUP, positions[1])
        assert [1] == await _lags(store)
        await store.read(A, limit=10)
        assert [0] == await _lags(store)
        await store.trim(STREAM, max_length=0, force=True)
        assert [0] == await _lags(store)

    async def test_entries_for_other_groups_are_not_lag_once_they_were_skipped(self, store: Store) -> None:
        await store.join(STREAM, GROUP)
        await store.append(STREAM, [msgspec.structs.replace(record, only_group="mail") for record in orders(1, 2)])
        assert [] == await store.read(A, limit=10)
        assert [0] == await _lags(store)

    async def test_lag_is_exact_for_a_group_that_started_in_the_middle(self, store: Store) -> None:
        positions = await store.append(STREAM, orders(1, 2, 3, 4))
        await store.join(STREAM, GROUP, start=positions[1])
        assert [2] == await _lags(store)

    async def test_a_stream_trimmed_to_nothing_has_no_first_and_no_last(self, store: Store) -> None:
        await store.append(STREAM, orders(1))
        await store.trim(STREAM, max_length=0)
        for stats in await store.stats():
            assert (0, None, None) == (stats.length, stats.first, stats.last)

    async def test_pending_lists_held_and_waiting_entries_with_their_consumers(self, store: Store) -> None:
        first, second, third = await begun(store, A, 3)
        await store.retry(second, delay=HOUR)
        await store.claim(B, idle=0.0, limit=1)

        found = await store.pending(STREAM, GROUP)

        assert [
            (first.position, "worker-b", 2, 0), (second.position, None, 1, 1), (third.position, "worker-a", 1, 0),
        ] == [(p.position, p.consumer, p.attempt, p.failures) for p in found]  # fmt: skip
        assert [True, False, True] == [p.idle is not None and 0 <= p.idle < 60 for p in found]
        assert [False, True, False] == [p.due is not None and HOUR - 60 < p.due <= HOUR for p in found]

    async def test_pending_comes_in_pages(self, store: Store) -> None:
        held = [delivery.position for delivery in await begun(store, A, 5)]

        first = await store.pending(STREAM, GROUP, limit=2)
        rest = await store.pending(STREAM, GROUP, after=first[-1].position)

        assert (held[:2], held[2:]) == ([p.position for p in first], [p.position for p in rest])

    async def test_durability_has_a_word_for_each_loss(self, store: Store, survives: tuple[str, str, str]) -> None:
        found = await store.durability()

        assert survives == (found.client_killed, found.store_killed, found.power_lost)
        assert found.notes


async def _lags(store: Store) -> list[int | None]:
    return [group.lag for stats in await store.stats() for group in stats.groups]
