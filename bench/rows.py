"""The figures, their yardsticks and their targets, as data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

Place = Literal["redis", "redis-128mb", "sqlite", "nats", "nowhere"]

OFTEN = 5
SOME = 3


@dataclass(frozen=True)
class Subject:
    """A program that is run with one measure, `rounds` times, on an empty store of the kind `place`.

    `first` is a subject that is run before it, on the same store. `source` is a folder with another revision of
    forebay, in place of the installed one.
    """

    name: str
    module: str
    measure: str
    place: Place
    events: int = 0
    arguments: tuple[str, ...] = ()
    rounds: int = OFTEN
    first: Subject | None = None
    source: str = ""

    @property
    def is_forebay(self) -> bool:
        """Whether it measures forebay itself."""
        return self.module in _FOREBAY

    @property
    def is_peer(self) -> bool:
        """Whether it lives in the peers' environment."""
        return self.module.startswith("bench.peers.")


@dataclass(frozen=True)
class Figure:
    """One number of a subject: all that it prints, or what `pick` names."""

    subject: Subject
    pick: str = ""
    unit: str = "events/s"

    @property
    def name(self) -> str:
        """Such as "Huey, handle"."""
        return f"{self.subject.name}, {self.pick}" if self.pick else self.subject.name

    @property
    def is_sampled(self) -> bool:
        """Whether it is a rate of a program that can be asked where its time goes."""
        return self.unit == "events/s" and not self.pick and self.subject.module in _SAMPLED


@dataclass(frozen=True)
class Row:
    """A line of the table: a figure, perhaps beside a yardstick, perhaps with a bound.

    The bound is for the ratio of the two if there is a yardstick, else for the figure itself.
    Without one the line is for information.
    """

    what: str
    figure: Figure
    yardstick: Figure | None = None
    least: float | None = None
    most: float | None = None

    @property
    def is_profiled(self) -> bool:
        """Whether results/profiles.md shows where the time goes, should this miss its bound."""
        if self.least is None or self.yardstick is None or self.yardstick.subject.source:
            return False
        return self.figure.is_sampled

    def misses(self, measured: float, *, margin: float = 0.0) -> bool:
        """Whether this breaks the bound by more than `margin`, a part of it."""
        if self.least is not None:
            return measured < self.least * (1 - margin)
        return self.most is not None and measured > self.most * (1 + margin)


def rows() -> list[Row]:
    """The table."""
    return [
        *_redis(),
        *_sqlite(),
        *_peers(),
        *_latency(),
        *_idle(),
        *_many(),
        *_start(),
        *_size(),
        *_together(),
        *_uvloop(),
    ]


_OURS = "bench.subjects.forebay_bus"
_PROCESSES = "bench.subjects.processes"
_MANY = "bench.subjects.many"
_START = "bench.subjects.start"
_FOREBAY = _OURS, _PROCESSES, _MANY, _START
_BARE_REDIS = "bench.subjects.bare_redis"
_BARE_SQLITE = "bench.subjects.bare_sqlite"
_SAMPLED = _OURS, _BARE_REDIS, _BARE_SQLITE


def _publish(place: Place, tasks: int, events: int) -> Figure:
    how = f"{tasks:,} tasks" if tasks > 1 else "one at a time"
    name = f"forebay on {_STORES[place]}, publish, {how}"
    return Figure(Subject(name, _OURS, "publish", place, events, ("--tasks", str(tasks))))


def _bare(module: str, name: str, measure: str, place: Place, events: int, tasks: int = 1) -> Figure:
    return Figure(Subject(name, module, measure, place, events, ("--tasks", str(tasks))))


_STORES: dict[Place, str] = {"redis": "Redis", "sqlite": "SQLite"}

_REDIS_100 = _publish("redis", 100, 50_000)
_REDIS_1 = _publish("redis", 1, 10_000)
_REDIS_HANDLE = Figure(Subject("forebay on Redis, handle", _OURS, "handle", "redis", 100_000))
_SQLITE_100 = _publish("sqlite", 100, 50_000)
_SQLITE_HANDLE = Figure(Subject("forebay on SQLite, handle", _OURS, "handle", "sqlite", 100_000))


def _redis() -> Iterator[Row]:
    benchmark = _bare("redis-benchmark", "redis-benchmark, XADD, pipeline 100", "XADD", "redis", 300_000)
    many = Figure(Subject("forebay on Redis, publish_many 1,000", _OURS, "publish_many", "redis", 100_000))
    coalesced = _bare(_BARE_REDIS, "bare Redis, coalesced, 100 tasks", "coalesced", "redis", 100_000, 100)
    made = _bare(_BARE_REDIS, "bare Redis, each event made, 100 tasks", "made", "redis", 50_000, 100)
    awaited = _bare(_BARE_REDIS, "bare Redis, one at a time", "coalesced", "redis", 10_000)
    blocking = _bare(_BARE_REDIS, "bare Redis, one at a time, blocking", "blocking", "redis", 10_000)
    handle = _bare(_BARE_REDIS, "bare Redis, XREADGROUP 500 + XACK", "handle", "redis", 100_000)
    handed = _bare(_BARE_REDIS, "bare Redis, the same, decoded and handed to 8 workers", "handed", "redis", 100_000)
    yield Row("publish, 100 tasks, Redis", _REDIS_100, coalesced, least=0.9)
    yield Row("… beside a bare loop that makes each event (id, time, JSON)", _REDIS_100, made)
    yield Row("publish, 1,000 tasks, Redis", _publish("redis", 1000, 50_000), benchmark, least=0.3)
    yield Row("publish_many 1,000, Redis", many, benchmark, least=0.5)
    yield Row("publish one at a time, Redis", _REDIS_1, awaited, least=0.7)
    yield Row("… beside a blocking socket", _REDIS_1, blocking)
    yield Row("handle, Redis", _REDIS_HANDLE, handle, least=0.5)
    yield Row("… beside a bare loop that decodes, and calls an async handler", _REDIS_HANDLE, handed)


def _sqlite() -> Iterator[Row]:
    by_100 = _bare(_BARE_SQLITE, "bare SQLite, transactions of 100", "publish", "sqlite", 200_000, 100)
    by_1000 = _bare(_BARE_SQLITE, "bare SQLite, transactions of 1,000", "publish", "sqlite", 400_000, 1000)
    many = Figure(Subject("forebay on SQLite, publish_many 1,000", _OURS, "publish_many", "sqlite", 100_000))
    handle = _bare(_BARE_SQLITE, "bare SQLite, claim 500 + ack", "handle", "sqlite", 200_000)
    yield Row("publish, 100 tasks, SQLite FULL", _SQLITE_100, by_100, least=0.18)
    yield Row("publish, 1,000 tasks, SQLite FULL", _publish("sqlite", 1000, 50_000), by_1000, least=0.18)
    yield Row("publish_many 1,000, SQLite FULL", many, by_1000, least=0.4)
    yield Row("publish one at a time, SQLite FULL", _publish("sqlite", 1, 2_000))
    yield Row("handle, SQLite FULL", _SQLITE_HANDLE, handle, least=0.3)


_PEERS: list[tuple[str, str, Place, int, int, float | None, float | None]] = [
    ("FastStream", "faststream", "redis", 10_000, 8_000, 7.0, 25.0),
    ("Taskiq", "taskiq", "redis", 6_000, 4_000, None, None),
    ("streaq", "streaq", "redis", 8_000, 3_000, None, None),
    ("arq", "arq", "redis", 6_000, 3_000, None, None),
    ("dramatiq", "dramatiq", "redis", 6_000, 4_000, None, None),
    ("NATS JetStream", "nats", "nats", 20_000, 20_000, None, None),
    ("Huey", "huey", "sqlite", 30_000, 20_000, 2.0, 5.0),
]
"""Name, end of the module's name, place, events to publish and to handle, targets for the two."""


def _peers() -> Iterator[Row]:
    for name, module, place, published, handled, least_published, least_handled in _PEERS:
        path = f"bench.peers.on_{module}"
        publish = Subject(f"{name}, publish, 100 tasks", path, "publish", place, published, ("--tasks", "100"), SOME)
        handle = Subject(f"{name}, handle", path, "handle", place, handled, (), SOME)
        ours = (_SQLITE_100, _SQLITE_HANDLE) if place == "sqlite" else (_REDIS_100, _REDIS_HANDLE)
        store = "SQLite FULL" if place == "sqlite" else "Redis"
        yield Row(f"publish, 100 tasks, {store}, beside {name}", ours[0], Figure(publish), least_published)
        yield Row(f"handle, {store}, beside {name}", ours[1], Figure(handle), least_handled)


def _latency() -> Iterator[Row]:
    bare = Subject("bare Redis, XADD to blocked XREADGROUP", _BARE_REDIS, "latency", "redis", 400, (), SOME)
    near = Subject("forebay on Redis, publish to handler", _OURS, "latency", "redis", 400, (), SOME)
    far = Subject("forebay on SQLite, publish to handler elsewhere", _PROCESSES, "latency", "sqlite", 400, (), SOME)
    p50, p99 = (Figure(near, percentile, "ms") for percentile in ("p50", "p99"))
    yield Row("publish to handler, idle bus, Redis: p50", p50, Figure(bare, "p50", "ms"), most=1.5)
    yield Row("… p99", p99, Figure(bare, "p99", "ms"))
    yield Row("publish to handler in another process, SQLite: p50", Figure(far, "p50", "ms"), most=2)
    yield Row("… p99", Figure(far, "p99", "ms"), most=10)


def _idle() -> Iterator[Row]:
    bounds: list[tuple[Place, float]] = [("redis", 0.5), ("sqlite", 1.5)]
    for place, most in bounds:
        idle = Subject(f"forebay on {_STORES[place]}, idle consumer", _OURS, "idle", place, rounds=1)
        yield Row(f"an idle consumer, {_STORES[place]}", Figure(idle, unit="% of a core"), most=most)


def _many() -> Iterator[Row]:
    shares: dict[Place, float] = {"redis": 2, "sqlite": 3}
    latencies: dict[Place, tuple[float, float]] = {"redis": (0.6, 5), "sqlite": (2.5, 10)}
    for place, store in _STORES.items():
        name = f"forebay on {store}, 100 types with 3 groups"
        idle = Subject(f"{name}, idle", _MANY, "idle", place, rounds=1)
        yield Row(f"300 idle subscriptions, {store}", Figure(idle, "process", "% of a core"), most=shares[place])
        if place == "redis":
            yield Row("… the server's processor", Figure(idle, "server", "% of a core"), most=2)
            yield Row("… connections", Figure(idle, "connections", "connections"), most=8)
        for measure, where in (("near", "the same process"), ("far", "another process")):
            subject = Subject(f"{name}, publish in {where} to handler", _MANY, measure, place, 400, rounds=SOME)
            p50, p99 = latencies[place]
            what = f"sparse publish in {where} to one of 300 subscriptions, {store}"
            yield Row(f"{what}: p50", Figure(subject, "p50", "ms"), most=p50)
            yield Row("… p99", Figure(subject, "p99", "ms"), most=p99)
        thousand = Subject(f"forebay on {store}, 1,000 subscriptions", _MANY, "thousand", place, rounds=SOME)
        yield Row(f"1,000 subscriptions start, {store}", Figure(thousand, "start", "s"), most=1)
        yield Row("… stop", Figure(thousand, "stop", "s"), most=1)
        yield Row("… memory of their process", Figure(thousand, "memory", "MiB"), most=80)


def _start() -> Iterator[Row]:
    for what, measure, most in (("import forebay", "import", 80), ("forebay --help", "help", 200)):
        subject = Subject(what, _START, measure, "nowhere")
        yield Row(what, Figure(subject, unit="ms"), most=most)


def _size() -> Iterator[Row]:
    for place, store in _STORES.items():
        fill = Subject("fill", _PROCESSES, "fill", place, 1_000_000)
        memory = Subject(f"forebay on {store}, memory", _PROCESSES, "memory", place, fill.events, (), 1, fill)
        peak, early = Figure(memory, "peak", "MiB"), Figure(memory, "early", "MiB")
        yield Row(f"memory of a consumer with 1,000,000 events behind it, {store}", peak, most=60)
        yield Row("… beside that after the first 100,000", peak, early, most=1.2)
    full = Subject("forebay, events in 128 MB", _OURS, "fit", "redis-128mb", rounds=1)
    bare = Subject("bare Redis, events in 128 MB", _BARE_REDIS, "fit", "redis-128mb", rounds=1)
    yield Row("events that fit in a 128 MB server", Figure(full, unit="events"), least=900_000)
    yield Row("… beside bare entries", Figure(full, unit="events"), Figure(bare, unit="events"))
    for place, store in _STORES.items():
        cost = Subject(f"forebay on {store}, cost of an event", _PROCESSES, "cost", place, 1_000_000, rounds=1)
        for pick in ("publish, backlog", "handle, backlog", "publish, pending", "handle, pending"):
            how = "10,000 to 1,000,000 events behind" if pick.endswith("backlog") else "with 100,000 pending"
            yield Row(f"{pick.partition(',')[0]}, {how}, {store}", Figure(cost, pick, "times"), most=1.2)


def _together() -> Iterator[Row]:
    consumers = {
        count: Subject(
            f"forebay on Redis, {count} consumers",
            _PROCESSES,
            "together",
            "redis",
            300_000,
            ("--tasks", str(count)),
            SOME,
        )
        for count in (1, 2, 4)
    }
    one = Figure(consumers[1], "rate")
    for count, subject in consumers.items():
        yield Row(f"handle, {count} processes of one group, Redis", Figure(subject, "rate"), one if count > 1 else None)
        yield Row("… the server's processor", Figure(subject, "server", "% of a core"))


def _uvloop() -> Iterator[Row]:
    for figure in (_REDIS_100, _REDIS_1, _REDIS_HANDLE):
        subject = figure.subject
        name, arguments = f"{subject.name}, uvloop", (*subject.arguments, "--uvloop")
        yield Row(f"{name}, beside asyncio", Figure(replace(subject, name=name, arguments=arguments)), figure)
