"""The Store protocol: its values, its moves and its six rules, the same in every store.

    publish             read                ack
    -------> unread ---------> pending ------------> done
                                ^  |  \\
             claim, take_due    |  |   \\ dead_letter        redrive
                                |  |    +-----------> dead ---------> unread, for this group
                                |  | retry, release
                                |  v
                              waiting

A store makes each move that it is asked for, whole or not at all. It never retries, logs or decides.

1. **Nothing is lost.** An entry leaves a stream only through `trim`. `trim` spares the entries that a group has
   not finished; if it is forced, it counts those that it removed.
2. **One holder.** Within a group an entry is leased to one consumer at a time.
3. **Moves are whole.** After a crash at any point an entry is in one state: added first, removed last.
4. **Time is the store's.** Callers pass seconds from now. A moment (`schedule`, `locate`) is compared with
   the store's wall clock, never with the caller's.
5. **Unknown names have one answer.** If the stream or the group does not exist:
   - moves that need the group raise `NotFound`: `read`, `take_due`, `claim`, `extend`, `retry`, `dead_letter`, `seek`;
   - moves that give something up find nothing and return 0, False or None: `ack`, `release`, `leave`, `redrive`,
     `discard`, `trim`, `append_due`; `drop` returns True;
   - questions return an empty answer: `scan`, `stats`, `groups`, `pending`, `handled`, `dead_letters`, `notes`,
     `scheduled`, `remembered`; `locate` returns START, `trimmed_unread` None, `outlook` None for that reader;
   - `append`, `schedule`, `join` and `restore` make the stream, and `set_note` keeps its note without one.

   A name that is not valid (`payload.check_name`: stream, group, consumer) raises `ConfigurationError` from every
   move, before anything is done.
6. **A lease has a token.** Each lease (`read`, `take_due`, `claim`) makes a new one: `Delivery.lease`. `extend`,
   `release`, `retry` and `dead_letter` compare it. With an older token they find the lease gone, even if the same
   consumer holds the entry again. `ack` does not compare it: work done is done.

The contract suite in `forebay.testing.contract` checks these rules for any store. A store turns its driver's errors
into `StoreError`s and keeps the cause.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from datetime import datetime
from types import EllipsisType, TracebackType
from typing import Literal, Protocol, Self

import msgspec

from forebay.errors import ConfigurationError
from forebay.event import Foreign, Record

START = "0"
"""The position before the first entry of any stream."""
END = "$"
"""The position of the last entry of a stream, at the moment of the call."""


class Reader(msgspec.Struct, frozen=True):
    """One consumer, in one group, of one stream.

    If `ordered`, one consumer at a time works on the group, from the oldest entry on:

    - `read`, `take_due` and `claim` return nothing while another consumer holds an entry of the group.
    - `read` returns nothing new while an entry of the group waits, for a retry or after a release.
    - `claim` succeeds once every lease of the other consumers has expired. It returns the oldest entries first,
      including waiting entries that are due, so that the order is kept.
    """

    stream: str
    group: str
    consumer: str
    ordered: bool = False


def check_readers(readers: Sequence[Reader]) -> Reader:
    """The first of the readers, if they are of one consumer and of different streams; else a `ConfigurationError`."""
    if not readers:
        raise ConfigurationError("read needs at least one reader")
    first = readers[0]
    if len(readers) > 1:
        streams = {reader.stream for reader in readers}
        if len(streams) < len(readers):
            raise ConfigurationError("the readers of one read must differ in their streams")
        if any(msgspec.structs.replace(reader, stream=first.stream) != first for reader in readers):
            raise ConfigurationError("the readers of one read must have one group, one consumer and one `ordered`")
    return first


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A place in a stream, what stands there, and when it was appended: Unix time, by the store's clock."""

    position: str
    record: Record | Foreign
    appended: float


class Failure(msgspec.Struct, frozen=True, gc=False):
    """A failed attempt: the error in one line, and the last lines of its traceback, without any values."""

    error: str
    traceback: str = ""


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """An entry leased to a consumer.

    `attempt` counts the group's deliveries of this entry, this one included; released deliveries do not count.
    `failures` counts the failed attempts so far (`retry`), and `last_failure` is the last one. `recovered` is True if
    `claim` took the entry over from a consumer whose lease had expired. `record` is None if the entry has left its
    stream: then only `ack` remains. `lease` is the token of this lease (rule 6): opaque, made by the store.
    """

    reader: Reader
    position: str
    record: Record | Foreign | None
    attempt: int = 1
    failures: int = 0
    recovered: bool = False
    last_failure: Failure | None = None
    lease: str = ""


class DeadLetter(msgspec.Struct, frozen=True):
    """An entry that a group gave up on: its own copy, the reason, and where it came from.

    `error` is one line: the last error, after the counts of failures and of dead consumers where there were
    both. `attempts` counts the tries that were made. `traceback` has the last lines of the last error's
    traceback; it is empty where nothing was raised.
    """

    id: str
    """Names the dead letter itself, within its stream; sorts by age."""
    stream: str
    group: str
    position: str
    record: Record | Foreign
    error: str
    failed_at: datetime
    attempts: int
    traceback: str = ""


class Pending(msgspec.Struct, frozen=True):
    """An entry that a group has begun and not finished.

    `consumer` holds it since `idle` seconds; or it is None, and the entry waits for its next
    attempt, `due` in that many seconds (negative: overdue). `last_failure` is its latest failure, if any.
    """

    position: str
    consumer: str | None
    attempt: int
    failures: int
    idle: float | None
    due: float | None
    last_failure: Failure | None = None


class Scheduled(msgspec.Struct, frozen=True):
    """A record that is to be appended in `delay` seconds (negative: overdue). `id` only pages.

    With `at` it is to be appended at that moment, and `delay` is the time until then by the store's wall clock.
    """

    id: str
    record: Record
    delay: float
    at: datetime | None = None


class RememberedId(msgspec.Struct, frozen=True):
    """An event's id, kept for `left` more seconds.

    By a `group`, which acked it with `remember`; or else by the stream, where it was appended with
    `dedup_window`: at `position`, which is None while it is only scheduled.
    """

    id: str
    expires_in: float
    position: str | None = None
    group: str | None = None


class GroupCursor(msgspec.Struct, frozen=True):
    """A group, and the last position that it was handed.

    `number` is how many of the stream's entries stand up to there. A store that cannot count them tells
    no lag without it.
    """

    group: str
    position: str
    number: int | None = None


class GroupPending(msgspec.Struct, frozen=True):
    """What a group has begun and not finished."""

    group: str
    pending: Pending


StreamItem = Entry | GroupCursor | GroupPending | DeadLetter | Scheduled | RememberedId
"""All that a stream consists of."""


class Outlook(msgspec.Struct, frozen=True):
    """The work that a reader's group has besides reading on: a snapshot.

    `scheduled` and `waiting` are seconds from now until the stream's next scheduled record and the group's next
    waiting entry are due: negative if overdue, None if there are none. `leased` is True if a consumer other than the
    reader's holds an entry of the group. `unread` is False only if the group has certainly read all entries.
    """

    scheduled: float | None
    waiting: float | None
    leased: bool
    unread: bool


class GroupStats(msgspec.Struct, frozen=True):
    """How far a group is. Counts of entries; None means that the store cannot tell, never 0.

    `pending` includes the `waiting`. `oldest` is the age, in seconds since it was appended, of the
    oldest pending entry. `position` is the last entry handed out. `consumers` counts those that
    hold something now or, if the store keeps track, have read lately. `EventBus.stats` counts the running ones instead.
    """

    group: str
    position: str
    lag: int | None
    pending: int
    waiting: int
    dead: int
    oldest: float | None
    consumers: int


class StreamStats(msgspec.Struct, frozen=True):
    """A stream at a glance. `length` counts its entries, `scheduled` those not yet due."""

    stream: str
    length: int
    scheduled: int
    dead: int
    first: str | None
    last: str | None
    groups: tuple[GroupStats, ...]


class Trimmed(msgspec.Struct, frozen=True):
    """What a trim removed, and how much of it some group had not finished (`dropped`)."""

    removed: int
    dropped: int


class Durability(msgspec.Struct, frozen=True):
    """Which losses an acknowledged publish survives, as the store is configured now.

    Each field says "kept", "lost", "at risk" or "unknown". `notes` are sentences for people: why,
    and what to change.
    """

    client_killed: Literal["kept", "lost", "at risk", "unknown"]
    store_killed: Literal["kept", "lost", "at risk", "unknown"]
    power_lost: Literal["kept", "lost", "at risk", "unknown"]
    notes: tuple[str, ...] = ()


class Log(Protocol):
    """The streams themselves."""

    async def append(
        self,
        stream: str,
        records: Sequence[Record],
        *,
        dedup_window: float | None = None,
        search_after: str | None = None,
    ) -> list[str]:
        """Append the records, all or none, in order; return their positions.

        With `dedup_window`, a record whose id was appended (or scheduled) with `dedup_window` within
        that many seconds before is not appended again: the earlier position is returned in its
        place. The id is remembered for that long from now. `search_after` widens the search to the entries
        behind that position, however they were appended.
        Raises `OutcomeUnknown`, with a `search_after` for this very store, where the answer was lost.
        """
        ...

    async def schedule(
        self,
        stream: str,
        records: Sequence[Record],
        *,
        delay: float | None = None,
        at: datetime | None = None,
        dedup_window: float | None = None,
    ) -> None:
        """Append the records in `delay` seconds, or at the moment `at`; they survive whatever the store survives.

        A delay is a duration: setting a clock does not change it. The store keeps a moment as it is, and compares it
        with its own wall clock; if that moment is in the past, it appends the records at once.
        `append_due` appends them: until it is called, a scheduled record waits past its time.
        """
        ...

    async def append_due(self, stream: str, *, limit: int = 500) -> int:
        """Append the stream's scheduled records that are due, in the order of their times; return how many.

        At most `limit`; 0 means that none is due. Needs neither a group nor a consumer.
        """
        ...

    async def scan(
        self, stream: str, *, after: str = START, until: str = END, limit: int = 100, newest: bool = False
    ) -> list[Entry]:
        """The entries behind `after`, up to and including `until`, oldest first, at most `limit`.

        With `newest` the last `limit` of them instead of the first. An unknown stream is empty.
        """
        ...

    async def locate(self, stream: str, moment: datetime) -> str:
        """The position just before the first entry appended at or after `moment`; may be END's place."""
        ...

    async def trim(
        self,
        stream: str,
        *,
        max_length: int | None = None,
        max_age: float | None = None,
        force: bool = False,
        ignore_groups: Collection[str] = (),
    ) -> Trimmed:
        """Remove the oldest entries beyond `max_length`, or older than `max_age` seconds.

        Stops before the first entry that a group has not finished (unread, pending or waiting),
        unless `force`. Groups named in `ignore_groups` hold nothing back. What either costs a group is counted.
        A stream without groups is trimmed as asked.
        """
        ...

    def arrivals(self) -> AsyncGenerator[str | None, None]:
        """Names of streams that have grown, by any process, as soon as the store knows; until it is closed.

        The first item is None: the watch is in place, and a read finds all entries that were appended before. A later
        None means that any stream may have grown (a connection was lost and made again). A name may come without
        cause, and entries that are appended together may come as one. Names that come together are yielded without a
        turn of the event loop between them.
        Use one iteration at a time for each store object: it holds one connection to each server. Closing or
        cancelling the iteration ends the watch. Raises `StoreError` if the store cannot watch, `StoreDenied` if the
        user has no right to: then `read` with `wait`.
        """
        ...


class Leases(Protocol):
    """What a consumer does: take entries, keep them, settle them."""

    async def join(self, stream: str, group: str, *, start: str = START) -> bool:
        """Make the group, reading from behind `start`; False, and nothing changed, where it exists.

        A position behind the last one of the stream is the end of the stream.
        """
        ...

    async def seek(self, stream: str, group: str, to: str) -> None:
        """Let the group read on from behind `to`; a position behind the last one of the stream is its end.

        What it has begun behind that place is unread again, and its holders lose it; what it has
        begun before that place stays as it is. Raises `NotFound` where the group does not exist.
        """
        ...

    async def leave(self, stream: str, group: str) -> None:
        """Remove the group with all it has pending and waiting. Its dead letters stay."""
        ...

    async def trimmed_unread(self, stream: str, group: str) -> int | None:
        """How many entries left the stream before the group could read them, removed by whomever.

        Each is reported once, to the first caller, whenever it was removed. None where the store cannot tell, or
        has no such group.
        """
        ...

    async def read(self, *readers: Reader, limit: int, wait: float = 0.0) -> list[Delivery]:
        """Lease unread entries of one stream or several, in the order of each; wait up to `wait` seconds for the first.

        The readers are one consumer in one group, all or none of them `ordered`, of different streams; else a
        `ConfigurationError`. Returns at most `limit` entries of each stream, and fewer if they are large: a read takes
        at most some tens of MiB of memory. Entries for another group are passed over. Raises `NotFound`, which names
        the stream, if the group of any reader does not exist; then nothing is leased.
        Never cancel it: a cancelled read may leave leases that no consumer knows of.
        """
        ...

    async def take_due(self, reader: Reader, *, limit: int) -> list[Delivery]:
        """Lease waiting entries of the group that are due, at most `limit`. Appends nothing: see `append_due`."""
        ...

    async def claim(self, reader: Reader, *, idle: float, limit: int = 1) -> list[Delivery]:
        """Take over entries whose consumer has been silent on them for `idle` seconds, oldest first.

        Goes through the pending entries with a cursor of its own, so one call may find nothing and
        the next one something; a bounded number of calls sees all of them.
        """
        ...

    async def extend(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Renew these leases; return those that are still held."""
        ...

    async def outlook(self, readers: Sequence[Reader]) -> list[Outlook | None]:
        """The outlook of each reader, in their order; None if its group does not exist.

        One cheap call for all groups of a process: it reads no entries, and costs a server about the same however
        many entries wait. The readers may be of any streams, groups and consumers.
        """
        ...

    async def ack(self, deliveries: Sequence[Delivery], *, remember: float | None = None) -> int:
        """Finish these entries; return how many were still pending.

        Work done is done, whoever holds the lease now. With `remember` the group also keeps the
        events' ids for that many seconds, for `handled`.
        """
        ...

    async def handled(self, stream: str, group: str, ids: Sequence[str]) -> set[str]:
        """Those of the event ids that the group acked with `remember`, not longer ago than that."""
        ...

    async def retry(
        self, delivery: Delivery, *, delay: float, keep: bool = False, failure: Failure | None = None
    ) -> bool:
        """Count a failure, and let the entry wait `delay` seconds for whoever asks first.

        The `failure` is kept with the entry until it is settled, in place of the one before.
        With `keep` the consumer keeps the lease and its token, and repeats the event itself (ordered groups). It goes
        on with the same Delivery, but for `attempt` and `failures`, which are one more, and `last_failure`.
        A failure is counted once: if the lease has counted more than the `failures` of the Delivery, an answer was
        lost, and the move counts nothing more and keeps the failure that is kept; all else it does, and returns True.
        Returns False, and changes nothing, if the lease is no longer held.
        """
        ...

    async def release(self, deliveries: Sequence[Delivery]) -> int:
        """Give entries back untried, due at once; their last delivery does not count. Returns how many
        were still held."""
        ...

    async def dead_letter(
        self, delivery: Delivery, *, reason: str, traceback: str = "", attempts: int | None = None
    ) -> bool:
        """Move the entry to the dead letters, its fields unchanged; one move.

        `attempts` are the tries that were made, if this delivery is not one of them.
        Returns False, and changes nothing, if the lease is no longer held.
        """
        ...


class DeadLetters(Protocol):
    """What groups gave up on. Dead letters hold their own copy, so they never hold back a trim."""

    async def dead_letters(
        self, stream: str, *, group: str | None = None, after: str = "", limit: int = 100
    ) -> list[DeadLetter]:
        """Dead letters with an id behind `after`, oldest first."""
        ...

    async def redrive(self, stream: str, ids: Sequence[str]) -> int:
        """Append each of these again, for its group only, and remove the dead letter; return how many.

        The event keeps its id, key, headers and time; its attempts begin anew.
        """
        ...

    async def discard(self, stream: str, ids: Sequence[str]) -> int:
        """Remove these dead letters for good; return how many there were.

        Their events' ids are forgotten, by the stream and for `handled` by the letter's group: an event published
        under such an id is a new one.
        """
        ...


class Inspection(Protocol):
    """What operators ask."""

    async def stats(self, streams: Sequence[str] | None = None) -> list[StreamStats]:
        """All streams, or these, by name. An unknown stream is left out."""
        ...

    async def streams(self) -> list[str]:
        """The names of all streams, sorted. Counts nothing."""
        ...

    async def time(self, stream: str) -> float:
        """Unix time now, by the clock that says when the stream's entries were appended."""
        ...

    async def groups(self, stream: str) -> list[str]:
        """The names of the stream's groups, by the alphabet. Costs as much as there are groups."""
        ...

    async def pending(self, stream: str, group: str, *, after: str = START, limit: int = 100) -> list[Pending]:
        """What the group has begun and not finished, by position."""
        ...

    async def strays(self) -> list[str]:
        """What is left out everywhere, because another program put it there under a name that forebay has not: a
        sentence for each."""
        ...

    async def durability(self) -> Durability:
        """Which losses an acknowledged publish survives, as the store is configured now."""
        ...


class Notes(Protocol):
    """Small values kept beside a stream, under names: what programs have to remember of it, or agree on.

    For a few hundred notes a stream, each of at most some 100 KiB. A note may be kept for a stream that
    has no entries; notes alone make no stream that `stats` would show.
    """

    async def notes(self, stream: str, *, names: Collection[str] | None = None) -> dict[str, bytes]:
        """Return the notes of the stream, by name: all, or those of these `names` that exist."""
        ...

    async def streams_with_notes(self) -> list[str]:
        """The names of the streams that have notes, by the alphabet."""
        ...

    async def set_note(
        self, stream: str, name: str, value: bytes | None, *, expected: bytes | EllipsisType | None = ...
    ) -> bool:
        """Keep the value under this name; None removes the note.

        With `expected`, only where the note has just that value now (None: where there is no such
        note); else False, and nothing changed: somebody else was faster.
        """
        ...


class Transfer(Protocol):
    """What moves a stream from one store to another, with `scan`, `pending` and `dead_letters`."""

    async def scheduled(self, stream: str, *, after: str = "", limit: int = 100) -> list[Scheduled]:
        """What is to be appended later, behind the one with the id `after`.

        What has a delay comes first, then what has a moment, each in the order of their times.
        """
        ...

    async def remembered(
        self, stream: str, *, group: str | None = None, after: str = "", limit: int = 100
    ) -> list[RememberedId]:
        """The ids that the stream, or with `group` that group, remembers now, behind the id `after`.

        Their order is the store's own.
        """
        ...

    async def restore(
        self,
        stream: str,
        items: Sequence[StreamItem],
        *,
        notes: Mapping[str, bytes | None] | None = None,
        expected: Mapping[str, bytes | None] | None = None,
    ) -> list[str] | None:
        """Put back what another store held, some 500 items a call; return the positions of the entries.

        One move, together with the `notes` to keep or (None) remove; and only where the notes are as
        `expected`: else None, and nothing changed. A group is made, or set to its place, and has to be there
        for what it has begun, whose entries have to be there too. Positions, but for an entry's own, are of
        this store. An entry and a dead letter keep theirs where it has this store's form, stands behind the
        last one and is free; else they get one behind it, which on stores whose positions tell the time
        tells theirs, where the order allows it.
        """
        ...

    async def drop(
        self, stream: str, *, keep_entries: bool = False, expected: Mapping[str, bytes | None] | None = None
    ) -> bool:
        """Remove the stream with all that belongs to it; with `keep_entries` all but its entries and notes.

        Only where the notes are as `expected`: else False, and nothing changed.
        """
        ...


class Store(Log, Leases, DeadLetters, Inspection, Notes, Transfer, Protocol):
    """All of it. Used by one event loop, inside `async with`.

    A call on another loop, in another thread or in a fork of the process raises `ConfigurationError` before anything is
    done. One that was closed may be opened again, on any loop.
    """

    def clone(self) -> Store:
        """Another, unopened store on the same state, for use on another event loop."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
