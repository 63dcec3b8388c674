"""The promises of `Log`: streams are appended to, searched and trimmed."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import msgspec

from forebay.event import Record
from forebay.store import END, START, Reader, Store, Trimmed
from forebay.testing.contract.base import GROUP, HOUR, MAIL, STREAM, A, Contract, Plant, numbers, order, orders, planted
from forebay.testing.waiting import eventually


class LogContract(Contract):
    """Append, schedule, scan, locate, trim."""

    # Append.

    async def test_records_are_appended_in_order_and_their_positions_name_them(self, store: Store) -> None:
        positions = await store.append(STREAM, orders(1, 2, 3))
        positions += await store.append(STREAM, orders(4))

        entries = await store.scan(STREAM)
        assert [1, 2, 3, 4] == numbers(entries)
        assert positions == [entry.position for entry in entries]
        assert 4 == len(set(positions))

    async def test_positions_have_the_stores_form_and_their_keys_sort_in_the_order_of_the_stream(
        self, store: Store
    ) -> None:
        positions = [START, *await store.append(STREAM, orders(*range(12)))]

        keys = [store.position_key(position) for position in positions]

        assert all(map(store.is_position, positions))
        assert sorted(set(keys)) == keys
        assert not any(map(store.is_position, ("", "$", "not a position", "2026-01-31T12:00:00Z")))

    async def test_every_field_of_a_record_comes_back_as_it_was(self, store: Store) -> None:
        full = Record(
            STREAM, "schëma", '{"a":"ü\\u0000 \U0001f600"}'.encode(), "2026-01-02T03:04:05.678901+00:00", "id 1", "k",
            b'{"a":"b"}',
        )  # fmt: skip
        records = [full, msgspec.structs.replace(full, id="2", key=None, headers=None), order(1, key="")]

        await store.append(STREAM, records)

        assert records == [entry.record for entry in await store.scan(STREAM)]

    async def test_an_entry_for_one_group_keeps_its_mark(self, store: Store) -> None:
        record = msgspec.structs.replace(order(), only_group=GROUP)
        await store.append(STREAM, [record])
        assert [record] == [entry.record for entry in await store.scan(STREAM)]

    async def test_appending_nothing_does_nothing(self, store: Store) -> None:
        assert [] == await store.append(STREAM, [])
        assert [] == await store.scan(STREAM)

    async def test_a_payload_of_a_megabyte_comes_back(self, store: Store) -> None:
        record = msgspec.structs.replace(order(), data=b'"' + b"x" * 1_000_000 + b'"')
        await store.append(STREAM, [record])
        assert [record] == [entry.record for entry in await store.scan(STREAM)]

    async def test_two_appends_at_once_do_not_mix(self, store: Store, other: Store) -> None:
        first, second = list(range(200)), list(range(1000, 1200))

        await asyncio.gather(store.append(STREAM, orders(*first)), other.append(STREAM, orders(*second)))

        assert numbers(await store.scan(STREAM, limit=400)) in (first + second, second + first)

    async def test_streams_do_not_see_each_other(self, store: Store) -> None:
        await store.append(STREAM, orders(1))
        await store.append("order_paid", orders(2))
        assert [2] == numbers(await store.scan("order_paid"))

    # Ids.

    async def test_an_id_seen_before_is_not_appended_again(self, store: Store, other: Store) -> None:
        [first] = await store.append(STREAM, [order(1, id="a")], dedup_window=HOUR)

        again = await other.append(STREAM, [order(2, id="a"), order(3, id="b")], dedup_window=HOUR)

        assert [1, 3] == numbers(await store.scan(STREAM))
        assert first == again[0] != again[1]

    async def test_an_id_twice_in_one_append_is_appended_once(self, store: Store) -> None:
        first, second = await store.append(STREAM, [order(1, id="a"), order(2, id="a")], dedup_window=HOUR)
        assert first == second
        assert [1] == numbers(await store.scan(STREAM))

    async def test_an_id_is_seen_in_its_own_stream_only(self, store: Store) -> None:
        await store.append(STREAM, [order(1, id="a")], dedup_window=HOUR)
        await store.append("order_paid", [order(2, id="a")], dedup_window=HOUR)
        assert [2] == numbers(await store.scan("order_paid"))

    async def test_an_id_is_forgotten_after_its_window(self, store: Store) -> None:
        clock = asyncio.get_running_loop().time
        await store.append(STREAM, [order(1, id="a")], dedup_window=0.05)
        over = clock() + 0.1
        # A repetition may begin the window anew, so it is not a way to ask.
        await eventually(lambda: clock() > over)

        await store.append(STREAM, [order(2, id="a")], dedup_window=0.05)

        assert [1, 2] == numbers(await store.scan(STREAM))

    async def test_without_a_window_an_id_may_come_twice(self, store: Store) -> None:
        await store.append(STREAM, [order(1, id="a")])
        await store.append(STREAM, [order(2, id="a")])
        assert [1, 2] == numbers(await store.scan(STREAM))

    async def test_an_id_is_found_after_a_position_however_it_was_appended(self, store: Store) -> None:
        [before] = await store.append(STREAM, orders(0))
        [first] = await store.append(STREAM, [order(1, id="a")])

        again = await store.append(STREAM, [order(2, id="a"), order(3, id="b")], dedup_window=HOUR, search_after=before)

        assert first == again[0]
        assert [0, 1, 3] == numbers(await store.scan(STREAM))

    async def test_an_id_that_was_found_so_is_remembered_from_then_on(self, store: Store) -> None:
        await store.append(STREAM, [order(1, id="a")])
        await store.append(STREAM, [order(2, id="a")], dedup_window=HOUR, search_after=START)
        await store.append(STREAM, [order(3, id="a")], dedup_window=HOUR)
        assert [1] == numbers(await store.scan(STREAM))

    async def test_an_id_before_that_position_is_not_looked_for(self, store: Store) -> None:
        [first] = await store.append(STREAM, [order(1, id="a")])
        await store.append(STREAM, [order(2, id="a")], dedup_window=HOUR, search_after=first)
        assert [1, 2] == numbers(await store.scan(STREAM))

    async def test_of_two_racing_appends_of_one_id_one_wins(self, store: Store, other: Store) -> None:
        stores = [store, other] * 5
        positions = await asyncio.gather(
            *(each.append(STREAM, [order(number, id="a")], dedup_window=HOUR) for number, each in enumerate(stores))
        )
        assert 1 == len({position for [position] in positions})
        assert 1 == len(await store.scan(STREAM))

    # Schedule.

    async def test_a_scheduled_event_is_appended_when_its_time_has_come(self, store: Store) -> None:
        await store.join(STREAM, GROUP)
        await store.schedule(STREAM, [order(1)], delay=HOUR)
        await store.schedule(STREAM, orders(2, 3), delay=0.05)
        assert [] == await store.scan(STREAM)
        assert [3] == [stats.scheduled for stats in await store.stats()]

        async def appended() -> bool:
            await store.append_due(STREAM)
            return bool(await store.scan(STREAM))

        await eventually(appended)

        assert [2, 3] == numbers(await store.scan(STREAM))
        assert [2, 3] == numbers(await store.read(A, limit=10))
        assert [1] == [stats.scheduled for stats in await store.stats()]

    async def test_scheduled_events_are_appended_by_their_time(self, store: Store) -> None:
        await store.join(STREAM, GROUP)
        await store.schedule(STREAM, [order(1)], delay=0.2)
        await store.schedule(STREAM, [order(2)], delay=0.0)

        async def both() -> bool:
            await store.append_due(STREAM)
            return 2 == len(await store.scan(STREAM))

        await eventually(both)

        assert [2, 1] == numbers(await store.scan(STREAM))

    async def test_a_scheduled_event_keeps_every_field(self, store: Store) -> None:
        await store.join(STREAM, GROUP)
        record = msgspec.structs.replace(order(7, key="k"), headers=b'{"a":"b"}')
        await store.schedule(STREAM, [record], delay=0.0)
        await eventually(lambda: _read_after_due(store))
        assert [record] == [entry.record for entry in await store.scan(STREAM)]

    async def test_an_event_scheduled_twice_under_one_id_is_appended_once(self, store: Store) -> None:
        await store.join(STREAM, GROUP)
        for number in (1, 2):
            await store.schedule(STREAM, [order(number, id="a")], delay=0.0, dedup_window=HOUR)
        await store.append(STREAM, [order(3, id="a")], dedup_window=HOUR)

        await eventually(lambda: _read_after_due(store))

        assert [1] == numbers(await store.scan(STREAM))

    async def test_an_event_appended_before_is_not_scheduled(self, store: Store) -> None:
        await store.append(STREAM, [order(1, id="a")], dedup_window=HOUR)
        await store.schedule(STREAM, [order(2, id="a")], delay=HOUR, dedup_window=HOUR)
        assert [0] == [stats.scheduled for stats in await store.stats()]

    async def test_an_event_for_a_moment_is_appended_when_that_moment_has_come(self, store: Store) -> None:
        await store.join(STREAM, GROUP)
        now = datetime.now(UTC)
        await store.schedule(STREAM, [order(1)], at=now + timedelta(hours=1))
        await store.schedule(STREAM, orders(2, 3), at=now + timedelta(seconds=0.3))
        await store.schedule(STREAM, [order(4)], delay=0.1)
        assert [] == await store.scan(STREAM)
        assert [4] == [stats.scheduled for stats in await store.stats()]

        async def appended() -> bool:
            await store.append_due(STREAM)
            return 3 == len(await store.scan(STREAM))

        await eventually(appended)

        assert [4, 2, 3] == numbers(await store.scan(STREAM))
        assert datetime.now(UTC) >= now + timedelta(seconds=0.3)
        assert [1] == [stats.scheduled for stats in await store.stats()]

    async def test_an_event_for_a_moment_in_the_past_is_appended_at_once_without_a_consumer(self, store: Store) -> None:
        past = datetime.now(UTC) - timedelta(hours=1)

        await store.schedule(STREAM, orders(1, 2), at=past)
        await store.schedule(STREAM, [order(3, id="a")], at=past, dedup_window=HOUR)
        await store.schedule(STREAM, [order(4, id="a")], at=past, dedup_window=HOUR)
        await store.schedule(STREAM, [order(5, id="a")], delay=0.0, dedup_window=HOUR)
        await store.append(STREAM, [order(6, id="a")], dedup_window=HOUR)

        assert [1, 2, 3] == numbers(await store.scan(STREAM))
        assert [0] == [stats.scheduled for stats in await store.stats()]

    async def test_an_event_for_a_moment_is_kept_once_under_its_id(self, store: Store) -> None:
        await store.join(STREAM, GROUP)
        later = datetime.now(UTC) + timedelta(seconds=0.1)
        for number in (1, 2):
            await store.schedule(STREAM, [order(number, id="a")], at=later, dedup_window=HOUR)

        await eventually(lambda: _read_after_due(store))
        await store.append(STREAM, [order(3, id="a")], dedup_window=HOUR)

        assert [1] == numbers(await store.scan(STREAM))

    # Scan and locate.

    async def test_a_scan_returns_the_entries_after_one_position_up_to_another(self, store: Store) -> None:
        positions = await store.append(STREAM, orders(1, 2, 3, 4, 5))

        assert [2, 3, 4] == numbers(await store.scan(STREAM, after=positions[0], until=positions[3]))
        assert [2, 3] == numbers(await store.scan(STREAM, after=positions[0], until=positions[3], limit=2))
        assert [3, 4] == numbers(await store.scan(STREAM, after=positions[0], until=positions[3], limit=2, newest=True))
        assert [4, 5] == numbers(await store.scan(STREAM, limit=2, newest=True))
        assert [1, 2] == numbers(await store.scan(STREAM, limit=2))
        assert [] == await store.scan(STREAM, after=END)
        assert [] == await store.scan(STREAM, after=positions[4])
        assert [] == await store.scan(STREAM, after=positions[3], until=positions[1])

    async def test_an_unknown_stream_is_empty_and_stays_unknown(self, store: Store) -> None:
        assert [] == await store.scan("nothing_here")
        assert [] == await store.stats()

    async def test_a_foreign_entry_is_shown_byte_for_byte(self, store: Store, plant: Plant) -> None:
        await store.append(STREAM, orders(1))
        foreign = await planted(plant)
        await store.append(STREAM, orders(2))

        entries = await store.scan(STREAM)

        assert foreign == entries[1].record
        assert [1, 2] == numbers(entries)

    async def test_a_moment_is_located_just_before_the_first_entry_from_then_on(self, store: Store) -> None:
        await store.append(STREAM, orders(1))
        between = datetime.now(UTC) + timedelta(milliseconds=10)
        await eventually(lambda: datetime.now(UTC) > between + timedelta(milliseconds=10))
        await store.append(STREAM, orders(2, 3))
        hour = timedelta(hours=1)

        found = [await store.locate(STREAM, moment) for moment in (between - hour, between, between + hour)]

        assert [[1, 2, 3], [2, 3], []] == [numbers(await store.scan(STREAM, after=place)) for place in found]

    async def test_a_located_position_is_one_to_start_from(self, store: Store) -> None:
        await store.append(STREAM, orders(1))
        await store.join(STREAM, GROUP, start=await store.locate(STREAM, datetime.now(UTC) + timedelta(hours=1)))
        await store.join(STREAM, "mail", start=await store.locate(STREAM, datetime.now(UTC) - timedelta(hours=1)))
        await store.append(STREAM, orders(2))

        assert [2] == numbers(await store.read(A, limit=10))
        assert [1, 2] == numbers(await store.read(MAIL, limit=10))

    # Trim.

    async def test_a_stream_without_groups_is_trimmed_as_asked(self, store: Store) -> None:
        await store.append(STREAM, orders(1, 2, 3, 4))

        assert Trimmed(0, 0) == await store.trim(STREAM, max_length=4)
        assert Trimmed(2, 0) == await store.trim(STREAM, max_length=2)
        assert [3, 4] == numbers(await store.scan(STREAM))

    async def test_entries_older_than_an_age_are_trimmed(self, store: Store) -> None:
        await store.append(STREAM, orders(1, 2))
        assert Trimmed(0, 0) == await store.trim(STREAM, max_age=HOUR)

        async def trimmed() -> bool:
            return bool((await store.trim(STREAM, max_age=0.05)).removed)

        await eventually(trimmed)

        assert [] == await store.scan(STREAM)

    async def test_an_unknown_stream_is_trimmed_to_nothing(self, store: Store) -> None:
        assert Trimmed(0, 0) == await store.trim("nothing_here", max_length=0)

    async def test_a_trim_spares_the_entries_that_a_group_has_not_read(self, store: Store) -> None:
        await store.join(STREAM, GROUP)
        await store.append(STREAM, orders(1, 2, 3))
        await store.ack(await store.read(A, limit=1))

        assert Trimmed(1, 0) == await store.trim(STREAM, max_length=0)
        assert [2, 3] == numbers(await store.scan(STREAM))

    async def test_a_trim_spares_pending_and_waiting_entries_and_all_later_ones(self, store: Store) -> None:
        await store.join(STREAM, GROUP)
        await store.append(STREAM, orders(1, 2, 3, 4))
        first, second, third, fourth = await store.read(A, limit=4)
        await store.ack([first, third])
        await store.retry(second, delay=HOUR)

        assert Trimmed(1, 0) == await store.trim(STREAM, max_length=0)
        await store.ack([second])
        assert Trimmed(2, 0) == await store.trim(STREAM, max_length=0)
        await store.ack([fourth])
        assert Trimmed(1, 0) == await store.trim(STREAM, max_length=0)

    async def test_a_trim_spares_the_entries_that_the_slowest_group_needs(self, store: Store) -> None:
        await store.join(STREAM, GROUP)
        await store.join(STREAM, "mail")
        await store.append(STREAM, orders(1, 2))
        await store.ack(await store.read(A, limit=2))

        assert Trimmed(0, 0) == await store.trim(STREAM, max_length=0)
        await store.leave(STREAM, "mail")
        assert Trimmed(2, 0) == await store.trim(STREAM, max_length=0)

    async def test_a_forced_trim_counts_the_entries_that_it_dropped(self, store: Store) -> None:
        await store.join(STREAM, GROUP)
        await store.append(STREAM, orders(1, 2, 3, 4))
        done, _ = await store.read(A, limit=2)
        await store.ack([done])

        assert Trimmed(3, 2) == await store.trim(STREAM, max_length=1, force=True)
        assert [4] == numbers(await store.read(A, limit=10))

    async def test_a_trim_that_ignores_a_group_waits_for_the_others_and_counts_its_losses(self, store: Store) -> None:
        await store.join(STREAM, GROUP)
        await store.join(STREAM, "mail")
        await store.append(STREAM, orders(1, 2, 3, 4))
        await store.ack(await store.read(Reader(STREAM, "mail", "worker"), limit=3))
        done, _ = await store.read(A, limit=2)
        await store.ack([done])

        assert Trimmed(1, 0) == await store.trim(STREAM, max_length=0)
        assert Trimmed(2, 2) == await store.trim(STREAM, max_length=0, ignore_groups=[GROUP])
        assert [4] == numbers(await store.read(A, limit=10))

    async def test_entries_that_were_trimmed_unread_are_counted_if_the_store_counts_them(
        self, store: Store, counts_trimmed_unread: bool
    ) -> None:
        async def count() -> int:
            found = await store.trimmed_unread(STREAM, GROUP)
            assert counts_trimmed_unread == (found is not None)
            return found or 0

        await store.append(STREAM, orders(1, 2))
        await store.trim(STREAM, max_length=0)
        await store.join(STREAM, GROUP)
        await store.append(STREAM, orders(3, 4, 5, 6, 7))
        counts = [await count()]
        await store.read(A, limit=1)

        await store.trim(STREAM, max_length=1, force=True)

        counts += [await count(), await count()]
        assert [7] == numbers(await store.read(A, limit=10))
        counts.append(await count())
        await store.append(STREAM, orders(8, 9))
        await store.trim(STREAM, max_length=0, force=True)
        counts.append(await count())
        assert counts == ([0, 3, 0, 0, 2] if counts_trimmed_unread else [0] * 5)

    async def test_a_group_reads_on_after_its_stream_was_trimmed_to_nothing(self, store: Store) -> None:
        await store.join(STREAM, GROUP)
        await store.append(STREAM, orders(1, 2))
        await store.ack(await store.read(A, limit=2))
        await store.trim(STREAM, max_length=0)

        await store.append(STREAM, orders(3))

        assert [3] == numbers(await store.read(A, limit=10))


async def _read_after_due(store: Store) -> bool:
    await store.append_due(STREAM)
    return bool(await store.scan(STREAM))
