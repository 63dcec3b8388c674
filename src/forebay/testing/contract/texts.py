"""A subclass of `str` means the text that it holds, wherever it is given."""

from __future__ import annotations

from forebay.event import Record, to_record
from forebay.store import START, Reader, Store
from forebay.testing.contract.base import Contract


class Shouted(str):
    """A string that is formatted as another text than it holds, as members of `class X(str, Enum)` are."""

    __slots__ = ()

    def __str__(self) -> str:
        return self.upper()

    def __format__(self, spec: str) -> str:
        return self.upper()

    def __repr__(self) -> str:
        return f"<{self.upper()}>"


class TextsContract(Contract):
    """Names, ids and positions that are subclasses of `str`."""

    async def test_a_subclass_of_str_is_the_text_that_it_holds(self, store: Store) -> None:
        stream, group, id = Shouted("loud_stream"), Shouted("loud_group"), Shouted("loud-id")
        reader = Reader(stream, group, Shouted("loud-consumer"))
        record = to_record(
            stream,
            source=Shouted("source"),
            data={Shouted("k"): Shouted("v")},
            id=id,
            key=Shouted("key"),
            headers={Shouted("h"): Shouted("w")},
        )
        plain = Record("loud_stream", "source", b'{"k":"v"}', record.timestamp, "loud-id", "key", b'{"h":"w"}')

        assert plain == record
        assert all(type(text) is str for text in (record.source, record.id, record.key))

        assert await store.set_note(stream, Shouted("note"), b"1")
        assert {"note": b"1"} == await store.notes("loud_stream")
        assert await store.join(stream, group, start=Shouted(START))
        (position,) = await store.append(stream, [record], dedup_window=60)
        assert [position] == await store.append(
            "loud_stream", [record], dedup_window=60, search_after=Shouted(position)
        )
        (entry,) = await store.scan("loud_stream", until=Shouted(position))
        assert plain == entry.record

        (delivery,) = await store.read(reader, limit=1)
        assert plain == delivery.record
        (pending,) = await store.pending("loud_stream", "loud_group")
        assert "loud-consumer" == pending.consumer
        assert await store.dead_letter(delivery, reason=Shouted("reason"))
        (letter,) = await store.dead_letters(stream, group=group)
        assert ("loud_group", "reason", plain) == (letter.group, letter.error, letter.record)
        assert 1 == await store.redrive(stream, [Shouted(letter.id)])
        (again,) = await store.read(reader, limit=1)
        assert 1 == await store.ack([again], remember=60)
        assert {"loud-id"} == await store.handled(stream, group, [id])

        await store.seek(stream, group, Shouted(START))
        (stats,) = await store.stats([stream])
        assert ["loud_group"] == [each.group for each in stats.groups]
        assert "loud_stream" == stats.stream
        await store.leave(stream, group)
        assert ["loud_stream"] == await store.streams_with_notes()
