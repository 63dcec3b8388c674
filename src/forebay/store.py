"""The Store protocol: its values, its moves and its six rules, the same in every store.

    publish             read                ack
    -------> unread ---------> pending ------------> done
                                ^  |  \\
                       take_due |  |   \\ dead_letter        redrive
                                |  |    +-----------> dead ---------> unread, for this group
                                |  | retry, release
                                |  v
                              waiting

    schedule: in no group yet, then append_due ---> unread
    claim:    pending ---> pending, under another consumer, after the lease has expired
    seek:     pending, waiting ---> unread

A store makes each move that it is asked for, whole or not at all. It never retries, logs or decides.

1. **Nothing is lost.** An entry leaves a stream only through `trim`, or with its stream through `drop`. An `ack` leaves
   it there: it is done for one group, and other groups read it. `trim` spares the entries that a group has
   not finished; if it is forced, it counts those that it removed.
2. **One holder.** Within a group an entry is leased to one consumer at a time. A lease has no length of its own: it has
   expired when it was not renewed for the `idle` seconds that the claiming consumer gives.
3. **Moves are whole.** After a crash at any point an entry is in one state: added first, removed last.
4. **Time is the store's.** Callers pass seconds from now. A moment (`schedule`, `locate`) is compared with
   the store's wall clock, never with the caller's.
5. **Unknown names have one answer.** If the stream or the group does not exist:
   - moves that need the group raise `NotFound`: `read`, `take_due`, `claim`, `extend`, `retry`, `dead_letter`, `seek`;
   - moves that give something up find nothing and return 0, False or None: `ack`, `release`, `leave`, `redrive`,
     `discard`, `trim`, `append_due`; `drop` returns True;
   - questions return an empty answer: `scan`, `stats`, `groups`, `pending`, `handled`, `dead_letters`, `notes`,
     `scheduled`, `remembered`; `locate` returns START, `trimmed_unread` None, `outlook` None for that reader; `time`
     answers for any stream;
   - `append`, `schedule`, `join` and `restore` make the stream, and `set_note` keeps its note without one.

   A name that is not valid (`payload.check_name`: stream, group, consumer) raises `ConfigurationError` from every
   move, before anything is done.
6. **A lease has a token.** Each lease (`read`, `take_due`, `claim`) makes a new one: `Delivery.lease`. `extend`,
   `release`, `retry` and `dead_letter` compare it. With an older token they find the lease gone, even if the same
   consumer holds the entry again. `ack` does not compare it: work done is done.

A store turns its driver's errors into `StoreError`s and keeps the cause.

**Two tiers.** A bus with its handlers, dead letters and replay uses `Log`, `Leases`, `DeadLetters` and `Inspection`.
Agents, retention, leadership and migration need `Notes` as well; the copy of a store needs `Notes` and `Transfer`.

**Who may implement it.** Anyone: the contract suite (`forebay.testing.contract.StoreContract`) is the definition, and a
store that passes it is a store. A new move or a new argument is a minor version, with a note for store authors in the
changelog; a changed meaning is a major version. Before 1.0 both are minor versions.
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
    """A record at its position in a stream. `appended` is Unix time, by the store's clock."""

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
    """An entry that a group gave up on: its own copy, the reason, and the place it had.

    `error` is one line: the last error, after the counts of failures and of dead consumers if there were
    both. `attempts` counts the tries that were made. `traceback` has the last lines of the last error's
    traceback; it is empty if nothing was raised.
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
    """An entry that a group was handed and has not finished.

    `consumer` has held it for `idle` seconds; or it is None, and the entry waits for its next
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
    """A record to append in `delay` seconds (negative: overdue). `id` is for paging only.

    With `at` it is due at that moment, and `delay` is the time until then by the store's wall clock.
    """

    id: str
    record: Record
    delay: float
    at: datetime | None = None


class RememberedId(msgspec.Struct, frozen=True):
    """An event's id that a group or a stream remembers for `expires_in` more seconds.

    A `group` remembers ids that it acked with `remember`. A stream remembers ids that were appended with
    `dedup_window`; `position` is None while the record is only scheduled.
    """

    id: str
    expires_in: float
    position: str | None = None
    group: str | None = None


class GroupCursor(msgspec.Struct, frozen=True):
    """A group, and the last position that it was handed.

    `number` counts the stream's entries up to this position. A store that cannot count them needs it to know the lag.
    """

    group: str
    position: str
    number: int | None = None


class GroupPending(msgspec.Struct, frozen=True):
    """A pending or waiting entry of a group."""

    group: str
    pending: Pending


StreamItem = Entry | GroupCursor | GroupPending | DeadLetter | Scheduled | RememberedId
"""The parts of a stream."""


class Outlook(msgspec.Struct, frozen=True):
    """The work that a reader's group has besides reading on: a snapshot.

    `scheduled` and `waiting` are seconds from now until the stream's next scheduled record and the group's next
    waiting entry are due: negative if overdue, None if there are none. `leased` is True if a consumer other than the
    reader's holds an entry of the group. `unread` is False if the group was handed the last entry of its stream; it may
    be True although the entries after its cursor are for other groups.
    """

    scheduled: float | None
    waiting: float | None
    leased: bool
    unread: bool


class GroupStats(msgspec.Struct, frozen=True):
    """The progress of a group, in counts of entries. None means that the store does not know, never 0.

    `pending` includes the `waiting`. `oldest` is the age, in seconds since it was appended, of the
    oldest pending entry. `position` is the last entry handed out. `consumers` counts those that
    hold an entry now or, if the store keeps track, have read lately. `EventBus.stats` counts the running ones instead.
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
    """Counts of the entries that a trim removed, and of those among them that a group had not finished (`dropped`)."""

    removed: int
    dropped: int


class Durability(msgspec.Struct, frozen=True):
    """The losses that an acknowledged publish survives, as the store is configured now.

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

        With `dedup_window`, a record is not appended if its id was appended (or scheduled) with `dedup_window`
        within that many seconds before: the earlier position is returned in its place. The id is remembered for that
        long from now. `search_after` extends the search to all entries after that position.
        If the answer was lost, raises `OutcomeUnknown` with a `search_after` for this store.
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
        """Append the records in `delay` seconds, or at the moment `at`; until then they are as durable as entries.

        A delay is a duration: setting a clock does not change it. The store compares a moment with its own wall
        clock; if it is in the past, the records are appended at once. Otherwise `append_due` appends them: until it
        is called, a scheduled record waits past its time.
        """
        ...

    async def append_due(self, stream: str, *, limit: int = 500) -> int:
        """Append the stream's scheduled records that are due, in the order of their times; return how many.

        At most `limit`; 0 means that none is due. Needs neither a group nor a consumer.
        """
        ...

    def is_position(self, text: str) -> bool:
        """Whether the text has the form of this store's positions. Asks no server; the store need not be open.

        Positions are opaque to all other code. Every position that the store returns, and START, has the form.
        """
        ...

    def position_key(self, position: str) -> tuple[int, ...]:
        """A key of a position: the keys of a store's positions sort in the order of the stream. Asks no server."""
        ...

    async def scan(
        self, stream: str, *, after: str = START, until: str = END, limit: int = 100, newest: bool = False
    ) -> list[Entry]:
        """The entries after `after`, up to and including `until`, oldest first, at most `limit`.

        With `newest` the last `limit` of them instead of the first.
        """
        ...

    async def locate(self, stream: str, moment: datetime) -> str:
        """The position just before the first entry appended at or after `moment`: the last one if there is none."""
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
        unless `force`. The groups named in `ignore_groups` do not stop it. `Trimmed.dropped` and `trimmed_unread`
        count the entries that groups lose by either. A stream without groups is trimmed as asked.
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
    """The moves of groups and consumers: take entries, keep them, settle them."""

    async def join(self, stream: str, group: str, *, start: str = START) -> bool:
        """Make the group, which reads on after `start`; return False, and change nothing, if it exists.

        A position after the last one of the stream is the end of the stream.
        """
        ...

    async def seek(self, stream: str, group: str, to: str) -> None:
        """Let the group read on after `to`; a position after the last one of the stream is its end.

        Pending and waiting entries after `to` are unread again, and their holders lose them; those before it stay.
        A store may forget here the entries that `trimmed_unread` has not reported yet: ask first.
        """
        ...

    async def leave(self, stream: str, group: str) -> None:
        """Remove the group with its pending and waiting entries. Its dead letters stay."""
        ...

    async def trimmed_unread(self, stream: str, group: str) -> int | None:
        """The number of entries that left the stream, by any program, before the group read them.

        Each entry is counted once, for the first caller. None if the store does not know: see the store's own docs.
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
        """Lease waiting entries of the group that are due, at most `limit`.

        If there are more, an ordered reader gets the oldest entries, others those that have been due for longest.
        Appends no scheduled records: see `append_due`.
        """
        ...

    async def claim(self, reader: Reader, *, idle: float, limit: int = 1) -> list[Delivery]:
        """Take over entries whose leases were not renewed for `idle` seconds, oldest first.

        A store may go through the pending entries in parts: one call may find nothing and the next one something,
        but a bounded number of calls finds all of them.
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

        Any lease will do: work done is done. With `remember` the group also keeps the events' ids for that many
        seconds, for `handled`.
        """
        ...

    async def handled(self, stream: str, group: str, ids: Sequence[str]) -> set[str]:
        """Those of the event ids that the group acked with `remember`, until they expire."""
        ...

    async def retry(
        self, delivery: Delivery, *, delay: float, keep: bool = False, failure: Failure | None = None
    ) -> bool:
        """Count a failure, and let the entry wait `delay` seconds for the next consumer.

        The `failure` is kept with the entry until it is settled, in place of the one before.
        With `keep` the consumer keeps the lease and its token, and repeats the event itself (ordered groups). It goes
        on with the same Delivery, but for `attempt` and `failures`, which are one more, and `last_failure`.
        A failure is counted once: if the lease has counted more failures than the Delivery says, an answer was lost.
        Then the move counts nothing and keeps the `failure` that is stored; it does the rest and returns True.
        Returns False, and changes nothing, if the lease is no longer held.
        """
        ...

    async def release(self, deliveries: Sequence[Delivery]) -> int:
        """Let entries wait, due at once, and do not count their last delivery; return how many were still held."""
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
    """The entries that groups gave up on. A dead letter is a copy, so it does not stop a trim."""

    async def dead_letters(
        self, stream: str, *, group: str | None = None, after: str = "", limit: int = 100
    ) -> list[DeadLetter]:
        """Dead letters with an id after `after`, oldest first."""
        ...

    async def redrive(self, stream: str, ids: Sequence[str]) -> int:
        """Append each of these again, for its group only, and remove the dead letter; return how many.

        The event keeps its id, key, headers and time; its attempts start again at 1. A dead letter of no group stays.
        """
        ...

    async def discard(self, stream: str, ids: Sequence[str]) -> int:
        """Remove these dead letters for good; return how many there were.

        Their events' ids are forgotten, by the stream and for `handled` by the letter's group: an event published
        under such an id is a new one.
        """
        ...


class Inspection(Protocol):
    """The questions of operators."""

    async def stats(self, streams: Sequence[str] | None = None) -> list[StreamStats]:
        """All streams, or these, by name. An unknown stream is left out."""
        ...

    async def streams(self) -> list[str]:
        """The names of all streams, sorted. Counts nothing."""
        ...

    async def time(self, stream: str) -> float:
        """Unix time now, by the clock of `Entry.appended`."""
        ...

    async def groups(self, stream: str) -> list[str]:
        """The names of the stream's groups, sorted. The cost grows with the number of groups."""
        ...

    async def pending(self, stream: str, group: str, *, after: str = START, limit: int = 100) -> list[Pending]:
        """The pending and waiting entries of the group, by position."""
        ...

    async def strays(self) -> list[str]:
        """The streams, groups and notes of other programs whose names are not valid here: a sentence for each.

        All other moves leave them out.
        """
        ...

    async def durability(self) -> Durability:
        """The losses that an acknowledged publish survives, as the store is configured now."""
        ...


class Notes(Protocol):
    """Small named values beside a stream, changed by compare-and-set: shared state of programs.

    Second tier: agents, retention, leadership, migration and copies need it. A stream may have a few hundred notes of
    up to some 100 KiB each. Notes need no stream, and do not make one.
    """

    async def notes(self, stream: str, *, names: Collection[str] | None = None) -> dict[str, bytes]:
        """Return the notes of the stream, by name: all, or those of these `names` that exist."""
        ...

    async def streams_with_notes(self) -> list[str]:
        """The names of the streams that have notes, sorted."""
        ...

    async def set_note(
        self, stream: str, name: str, value: bytes | None, *, expected: bytes | EllipsisType | None = ...
    ) -> bool:
        """Keep the value under this name; None removes the note.

        With `expected`, only if the note has this value now (None: if there is no such note). Otherwise returns False
        and changes nothing: another program was faster.
        """
        ...


class Transfer(Protocol):
    """The moves that copy a stream to another store, together with `scan`, `pending` and `dead_letters`.

    Second tier: only `forebay.transfer` needs it.
    """

    async def scheduled(self, stream: str, *, after: str = "", limit: int = 100) -> list[Scheduled]:
        """Scheduled records after the one with the id `after`.

        Those with a delay come first, then those with a moment, each in the order of their times.
        """
        ...

    async def remembered(
        self, stream: str, *, group: str | None = None, after: str = "", limit: int = 100
    ) -> list[RememberedId]:
        """The ids that the stream, or with `group` that group, remembers now, after the id `after`.

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
        """Put parts of a stream back, as another store held them; return the positions of the entries.

        One move, for some 500 items. It also keeps the `notes`, or removes those that are None. If the notes of the
        stream are not as `expected` (None: no such note), it returns None and changes nothing.

        Positions in the items refer to this store, except an entry's own.

        - `Entry`: keeps its position if that has this store's form, comes after the last one and is free. Otherwise it
          gets the next one. A store whose positions contain the time gives it one of its time, if the order permits.
        - `GroupCursor`: makes the group, or sets the cursor of one that exists.
        - `GroupPending`: needs its group (`NotFound`) and its entry. A waiting entry waits on. A leased one stays with
          its consumer, which has no token for it: the lease expires, and another consumer claims the entry.
        - `DeadLetter`: keeps its id on the same terms as an entry its position.
        - `Scheduled`: is due after its `delay`, or at its moment. `id` is ignored.
        - `RememberedId`: is remembered for `expires_in` more seconds; with a `group`, it needs that group (`NotFound`).
        """
        ...

    async def drop(
        self, stream: str, *, keep_entries: bool = False, expected: Mapping[str, bytes | None] | None = None
    ) -> bool:
        """Remove the stream with all that belongs to it; with `keep_entries`, all but its entries and notes.

        If the notes are not as `expected`, returns False and changes nothing.
        """
        ...


class Store(Log, Leases, DeadLetters, Inspection, Notes, Transfer, Protocol):
    """A whole store, both tiers. Used by one event loop, inside `async with`.

    A call on another loop, in another thread or in a fork of the process raises `ConfigurationError` before anything is
    done. A store that was closed may be opened again, on any loop.
    """

    def clone(self) -> Store:
        """Another, unopened store on the same state, for use on another event loop."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
