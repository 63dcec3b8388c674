"""The promises of `DeadLetters`: paging, redriving, discarding."""

from __future__ import annotations

import asyncio

import msgspec

from forebay.event import Record
from forebay.store import DeadLetter, Reader, Store
from forebay.testing.contract.base import GROUP, MAIL, STREAM, A, Contract, Plant, begun, numbers, order, planted


class DeadLettersContract(Contract):
    """Dead letters."""

    async def test_dead_letters_come_in_pages_oldest_first(self, store: Store) -> None:
        await _dead(store, A, 5)

        first = await store.dead_letters(STREAM, limit=2)
        second = await store.dead_letters(STREAM, after=first[-1].id, limit=2)
        third = await store.dead_letters(STREAM, after=second[-1].id, limit=2)

        assert [[1, 2], [3, 4], [5]] == [_numbers(page) for page in (first, second, third)]
        assert [] == await store.dead_letters(STREAM, after=third[-1].id)

    async def test_dead_letters_of_one_group(self, store: Store) -> None:
        await _dead(store, A, 2)
        await _dead(store, MAIL, 1)

        assert 2 == len(await store.dead_letters(STREAM, group=GROUP))
        assert ["mail"] * 3 == [letter.group for letter in await store.dead_letters(STREAM, group="mail")]
        assert 5 == len(await store.dead_letters(STREAM))
        assert 1 == len(await store.dead_letters(STREAM, group="mail", limit=1))
        assert [] == await store.dead_letters(STREAM, group="nobody")

    async def test_a_stream_without_dead_letters_has_none(self, store: Store) -> None:
        assert [] == await store.dead_letters(STREAM)
        await begun(store, A, 1)
        assert [] == await store.dead_letters(STREAM)

    async def test_a_redriven_event_goes_to_its_group_only_with_fresh_attempts(self, store: Store) -> None:
        await store.join(STREAM, GROUP)
        await store.join(STREAM, "mail")
        await store.append(STREAM, [order(1, id="a", key="k")])
        await store.ack(await store.read(MAIL, limit=1))
        [held] = await store.read(A, limit=1)
        await store.retry(held, delay=0.0)
        [held] = await store.take_due(A, limit=1)
        await store.dead_letter(held, reason="no")

        assert 1 == await _redrive(store)

        [again] = await store.read(A, limit=10)
        before, after = held.record, again.record
        assert isinstance(before, Record)
        assert isinstance(after, Record)
        assert (1, 0, GROUP) == (again.attempt, again.failures, after.only_group)
        assert ("a", "k", before.data, before.timestamp, before.type, before.source) == (
            after.id, after.key, after.data, after.timestamp, after.type, after.source,
        )  # fmt: skip
        assert again.position != held.position
        assert [] == await store.read(MAIL, limit=10)
        assert [] == await store.dead_letters(STREAM)
        assert 2 == len(await store.scan(STREAM))

    async def test_a_foreign_dead_letter_is_redriven_to_its_group_only(self, store: Store, plant: Plant) -> None:
        foreign = await planted(plant)
        for reader in (A, MAIL):
            await store.join(STREAM, reader.group)
        await store.ack(await store.read(MAIL, limit=1))
        [held] = await store.read(A, limit=1)
        await store.dead_letter(held, reason="no")

        assert 1 == await _redrive(store)

        again = msgspec.structs.replace(foreign, only_group=GROUP)
        assert [again] == [delivery.record for delivery in await store.read(A, limit=10)]
        assert [] == await store.read(MAIL, limit=10)

    async def test_only_the_chosen_are_redriven_each_once(self, store: Store, other: Store) -> None:
        await _dead(store, A, 3)
        first, second, third = await store.dead_letters(STREAM)

        counts = await asyncio.gather(*(each.redrive(STREAM, [first.id, third.id]) for each in (store, other)))

        assert [0, 2] == sorted(counts)
        assert [second] == await store.dead_letters(STREAM)
        assert [1, 3] == numbers(await store.read(A, limit=10))
        assert 0 == await store.redrive(STREAM, [first.id])
        assert 0 == await store.redrive(STREAM, [])
        assert 0 == await store.redrive("order_paid", [second.id])

    async def test_an_event_may_die_redriven_once_more(self, store: Store) -> None:
        await _dead(store, A, 1)
        await _redrive(store)
        [held] = await store.read(A, limit=1)
        await store.dead_letter(held, reason="again")

        [letter] = await store.dead_letters(STREAM)
        assert ("again", 1, held.record) == (letter.error, letter.attempts, letter.record)
        assert 1 == await _redrive(store)
        assert [1] == numbers(await store.read(A, limit=10))

    async def test_discarded_dead_letters_are_gone_for_good(self, store: Store) -> None:
        await _dead(store, A, 3)
        first, second, third = await store.dead_letters(STREAM)

        assert 2 == await store.discard(STREAM, [first.id, second.id])
        assert 0 == await store.discard(STREAM, [first.id])
        assert 0 == await store.redrive(STREAM, [first.id])

        assert [third] == await store.dead_letters(STREAM)
        assert [] == await store.read(A, limit=10)

    async def test_dead_letters_do_not_hold_back_a_trim(self, store: Store) -> None:
        await _dead(store, A, 3)
        assert 3 == (await store.trim(STREAM, max_length=0)).removed
        assert 3 == len(await store.dead_letters(STREAM))

    async def test_an_id_is_published_and_handled_again_after_its_dead_letter_was_discarded(self, store: Store) -> None:
        await store.join(STREAM, GROUP)
        await store.append(STREAM, [order(1, id="a"), order(2, id="b")], dedup_window=60)
        for held in await store.read(A, limit=2):
            await store.ack(
                [msgspec.structs.replace(held, position="0-0" if "-" in held.position else "0")], remember=60
            )
            await store.dead_letter(held, reason="r")
        first, _ = await store.dead_letters(STREAM)

        assert 1 == await store.discard(STREAM, [first.id])

        assert {"b"} == await store.handled(STREAM, GROUP, ["a", "b"])
        await store.append(STREAM, [order(3, id="a"), order(4, id="b")], dedup_window=60)
        assert [3] == numbers(await store.read(A, limit=10))
        await store.append(STREAM, [order(5, id="a")], dedup_window=60)
        assert [] == await store.read(Reader(STREAM, GROUP, "other"), limit=10)

    async def test_discarding_keeps_the_id_of_a_scheduled_event(self, store: Store) -> None:
        await store.join(STREAM, GROUP)
        await store.append(STREAM, [order(1, id="a")])
        [held] = await store.read(A, limit=1)
        await store.dead_letter(held, reason="r")
        await store.schedule(STREAM, [order(2, id="a")], delay=3600, dedup_window=7200)

        await store.discard(STREAM, [letter.id for letter in await store.dead_letters(STREAM)])

        await store.append(STREAM, [order(3, id="a")], dedup_window=60)
        assert [] == await store.read(A, limit=10)


async def _dead(store: Store, reader: Reader, count: int) -> None:
    """Append so many orders; make dead letters of all entries that the group has not read."""
    await store.join(STREAM, reader.group)
    await store.append(STREAM, [order(number) for number in range(1, count + 1)])
    for delivery in await store.read(reader, limit=100):
        await store.dead_letter(delivery, reason="no")


async def _redrive(store: Store) -> int:
    return await store.redrive(STREAM, [letter.id for letter in await store.dead_letters(STREAM)])


def _numbers(letters: list[DeadLetter]) -> list[int]:
    return [int(letter.record.data) for letter in letters if isinstance(letter.record, Record)]
