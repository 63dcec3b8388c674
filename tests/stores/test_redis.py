"""Rules of the Redis store alone: its wire format, its connections, and its errors."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import hiredis
import pytest
from redis import Redis

from forebay.errors import (
    ConfigurationError,
    NotFound,
    OutcomeUnknown,
    StoreDamaged,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreUnavailable,
)
from forebay.event import Foreign, Record, to_event, to_record
from forebay.store import START, Reader
from forebay.stores.redis import RedisStore, upkeep
from forebay.stores.redis.address import Address, parse
from forebay.stores.redis.errors import TABLE, translate
from forebay.stores.url import Secret
from tests.support.redis_servers import Proxy, Server, eventually

READER = Reader("order_placed", "billing", "worker-1")
OTHER = Reader("order_placed", "billing", "worker-2")
KEY = "events:order_placed"


@pytest.fixture
async def store(server: Server) -> AsyncIterator[RedisStore]:
    async with RedisStore(server.url) as store:
        await store.join("order_placed", "billing")
        yield store


def order(number: int = 1, **options: str) -> Record:
    return to_record("order_placed", source="shop", data={"order_id": number}, **options)  # type: ignore[arg-type]  # passed on


# The wire format.


async def test_an_event_is_a_stream_entry_that_begins_with_the_four_fields(store: RedisStore, server: Server) -> None:
    record = order(id="order-1", key="customer-7")

    [position] = await store.append("order_placed", [record])

    [[id, fields]] = server.redis.execute_command("XRANGE", KEY, "-", "+", NEVER_DECODE=True)
    names = ["type", "source", "data", "timestamp", "id", "key"]
    assert list(fields) == [name.encode() for name in names]
    assert position == id.decode()
    assert b'{"order_id":1}' == fields[b"data"]


@pytest.mark.parametrize("count", [1, 3])
async def test_every_field_of_a_record_survives(store: RedisStore, count: int) -> None:
    record = to_record("order_placed", source="ë", data={"ü": 1}, key="k", headers={"a": "b"}, id="schlüssel")

    await store.append("order_placed", [record] * count)

    assert [record] * count == [delivery.record for delivery in await store.read(READER, limit=10)]


async def test_an_entry_with_only_the_four_fields_is_an_event_named_by_its_position(
    store: RedisStore, server: Server
) -> None:
    fields = {"type": "order_placed", "source": "legacy", "data": "[1]", "timestamp": "2026-01-01T00:00:00"}
    id = server.redis.xadd(KEY, fields)

    [delivery] = await store.read(READER, limit=1)

    assert isinstance(delivery.record, Record)
    assert delivery.record.id == ""
    assert to_event(delivery.record, position=delivery.position).id == id.decode()


async def test_fields_that_are_not_known_stay_with_an_event_for_good(store: RedisStore, server: Server) -> None:
    fields = {"type": "t", "source": "s", "data": "1", "timestamp": "2026-01-01T00:00:00Z", "version": "7"}
    server.redis.xadd(KEY, fields)
    [delivery] = await store.read(READER, limit=1)
    await store.dead_letter(delivery, reason="no")
    [letter] = await store.dead_letters("order_placed")

    await store.redrive("order_placed", [letter.id])

    assert isinstance(letter.record, Record)
    [_, [_, again]] = server.redis.xrange(KEY)
    assert {**{k.encode(): v.encode() for k, v in fields.items()}, b"only": b"billing"} == again


async def test_foreign_bytes_go_to_the_dead_letters_and_back_unchanged(store: RedisStore, server: Server) -> None:
    fields = ((b"\xff\x00", b"\xfe"), (b"type", b"\xc3\x28"), (b"\xff\x00", b"again"), (b"error", b""))
    server.redis.execute_command("XADD", KEY, "*", *(part for pair in fields for part in pair))
    [delivery] = await store.read(READER, limit=1)

    await store.dead_letter(delivery, reason="not an event")
    [letter] = await store.dead_letters("order_placed")
    await store.redrive("order_placed", [letter.id])
    [again] = await store.read(READER, limit=1)

    assert Foreign(fields) == delivery.record
    assert Foreign(fields) == letter.record
    assert Foreign(fields, only_group=READER.group) == again.record


async def test_a_dead_letter_is_the_entry_and_the_reason(store: RedisStore, server: Server) -> None:
    await store.append("order_placed", [order()])
    [delivery] = await store.read(READER, limit=1)

    await store.dead_letter(delivery, reason="ValueError: no")

    [[_, before]] = server.redis.xrange(KEY)
    [[_, after]] = server.redis.xrange(f"{{{KEY}}}:dead_letter")
    added = {name: after[name] for name in list(after)[len(before) :]}
    assert before == {name: after[name] for name in before}
    assert [b"traceback", b"error", b"failed_at", b"group", b"attempts", b"position"] == list(added)
    assert [b"ValueError: no", b"billing", b"1", delivery.position.encode()] == [
        added[name] for name in (b"error", b"group", b"attempts", b"position")
    ]


async def test_a_strangers_dead_letter_from_beyond_the_calendar_is_listed(store: RedisStore, server: Server) -> None:
    server.redis.xadd("{events:order_placed}:dead_letter", {"a": "1"}, id="999999999999999-0")

    [letter] = await store.dead_letters("order_placed")

    assert "999999999999999-0" == letter.id
    assert 9999 == letter.failed_at.year


async def test_a_group_skips_entries_for_another_group(store: RedisStore) -> None:
    await store.join("order_placed", "mail")
    await store.append("order_placed", [order(1), order(2)])
    [delivery, _] = await store.read(READER, limit=10)
    await store.dead_letter(delivery, reason="no")
    await store.redrive("order_placed", [letter.id for letter in await store.dead_letters("order_placed")])
    mail = Reader("order_placed", "mail", "worker")

    assert 2 == len(await store.read(mail, limit=10, wait=0.01))
    assert [] == await store.read(mail, limit=10, wait=0.01)
    assert 2 == len(await store.pending("order_placed", "mail"))


async def test_keys_of_strangers_in_the_namespace_do_no_harm(store: RedisStore, server: Server) -> None:
    server.redis.set("events:counter", 7)
    server.redis.set("{events:odd", 7)
    server.redis.xadd("other_events:order_placed", {"a": "b"})

    assert ["order_placed"] == [stats.stream for stats in await store.stats()]
    with pytest.raises(StoreDamaged, match="another namespace"):
        await store.append("counter", [order()])


async def test_dead_letters_that_others_removed_are_not_counted(store: RedisStore, server: Server) -> None:
    await store.append("order_placed", [order(1), order(2)])
    for delivery in await store.read(READER, limit=10):
        await store.dead_letter(delivery, reason="no")
    [letter, _] = await store.dead_letters("order_placed")

    server.redis.xdel(f"{{{KEY}}}:dead_letter", letter.id)

    [stats] = await store.stats()
    assert [1] == [group.dead for group in stats.groups]


async def test_consumers_that_hold_nothing_are_forgotten_in_time(
    store: RedisStore, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row A11 of docs/faults.md."""
    monkeypatch.setattr(upkeep, "FORGOTTEN_SECONDS", -1.0)
    await store.append("order_placed", [order(1), order(2)])
    [held] = await store.read(OTHER, limit=1)
    await store.ack(await store.read(READER, limit=1))

    await store.claim(READER, idle=100.0)

    assert [b"worker-2"] == [consumer["name"] for consumer in server.redis.xinfo_consumers(KEY, "billing")]
    assert [held] == await store.extend([held])


# Connections.


async def test_a_cut_reply_is_an_unknown_outcome_and_its_repetition_stores_nothing_twice(server: Server) -> None:
    proxy = Proxy(server.port)
    async with proxy.listen() as url, RedisStore(url) as store:
        await store.append("order_placed", [order(0)])
        record = order(1)
        proxy.swallow = True

        with pytest.raises(OutcomeUnknown) as unknown:
            await store.append("order_placed", [record])
        proxy.swallow = False
        [position] = await store.append("order_placed", [record], search_after=unknown.value.search_after)

        [_, entry] = await store.scan("order_placed")
        assert (position, record) == (entry.position, entry.record)


async def test_an_append_that_was_lost_before_the_server_saw_it_is_made_by_its_repetition(server: Server) -> None:
    async with RedisStore(server.url, timeout=0.2) as store:
        record = order(1)
        server.process.send_signal(signal.SIGSTOP)
        try:
            with pytest.raises(OutcomeUnknown, match="no reply within") as unknown:
                await store.append("order_placed", [record])
            with pytest.raises(StoreUnavailable):
                await store.append("order_placed", [order(2)])
        finally:
            server.process.send_signal(signal.SIGCONT)

        await store.append("order_placed", [record], search_after=unknown.value.search_after)

        assert [record] == [entry.record for entry in await store.scan("order_placed")]


async def test_an_event_that_was_never_sent_is_reported_as_not_stored(server: Server) -> None:
    async with RedisStore(server.url, timeout=0.3) as store:
        record = to_record("order_placed", source="shop", data="x" * 500_000)

        async def append() -> None:
            await asyncio.sleep(0)
            await store.append("order_placed", [record])

        server.process.send_signal(signal.SIGSTOP)
        try:
            first = asyncio.gather(*(append() for _ in range(40)), return_exceptions=True)
            await asyncio.sleep(0.05)
            then = asyncio.gather(*(append() for _ in range(40)), return_exceptions=True)
            outcomes = [type(outcome) for outcome in [*await first, *await then]]
        finally:
            server.process.send_signal(signal.SIGCONT)

        sent = outcomes.count(OutcomeUnknown)
        assert 0 < sent <= 40
        assert [OutcomeUnknown] * sent + [StoreUnavailable] * (80 - sent) == outcomes
        eventually(server.answers, "the server does not answer")
        assert server.redis.xlen(KEY) <= sent


async def test_a_cancelled_call_leaves_the_others_their_own_replies(store: RedisStore) -> None:
    calls = [asyncio.create_task(store.append("order_placed", [order(n)])) for n in range(5)]
    await asyncio.sleep(0)

    calls[1].cancel()
    positions = [(await calls[n])[0] for n in (0, 2, 3, 4)]

    entries = {entry.position: entry.record for entry in await store.scan("order_placed")}
    numbers = [to_event(entries[position]).data["order_id"] for position in positions]
    assert [0, 2, 3, 4] == numbers


async def test_a_store_finds_its_server_again_after_the_connections_were_killed(
    store: RedisStore, server: Server
) -> None:
    reading = asyncio.create_task(store.read(READER, limit=1, wait=10))
    await asyncio.to_thread(eventually, lambda: server.redis.info("clients")["blocked_clients"], "nobody reads")

    server.redis.client_kill_filter(_type="normal", skipme=True)

    with pytest.raises(OutcomeUnknown):
        await reading
    with contextlib.suppress(OutcomeUnknown):  # where the loss was not noticed yet
        await store.append("order_placed", [order(1)])
    await store.append("order_placed", [order(2)])
    assert await store.read(READER, limit=1, wait=1)


async def test_a_read_that_waits_longer_than_the_timeout_is_not_an_error(server: Server) -> None:
    """Row B5 of docs/faults.md."""
    async with RedisStore(server.url, timeout=0.2) as store:
        await store.join("order_placed", "billing")

        assert [] == await store.read(READER, limit=1, wait=0.5)


async def test_a_server_that_forgot_the_scripts_gets_them_again(store: RedisStore, server: Server) -> None:
    await store.append("order_placed", [order(1), order(2)])

    server.redis.script_flush()

    assert 2 == len(await store.append("order_placed", [order(3), order(4)]))


async def test_a_lost_group_is_not_found(store: RedisStore, server: Server) -> None:
    server.redis.flushall()

    with pytest.raises(NotFound):
        await store.read(READER, limit=1)
    with pytest.raises(NotFound):
        await store.read(READER, limit=1, wait=0.1)
    with pytest.raises(NotFound):
        await store.claim(READER, idle=0.0)
    with pytest.raises(NotFound):
        await store.seek("order_placed", "billing", START)


async def test_an_unreachable_server_is_named_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:1\b.*sqlite:///"):
        async with RedisStore("redis://user:secret@127.0.0.1:1"):
            pass
    with pytest.raises(StoreUnavailable, match=r"nothing\.sock"):
        async with RedisStore(f"unix://{tmp_path}/nothing.sock"):
            pass


async def test_another_service_at_the_port_is_unavailable_and_not_a_hang() -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ESMTP\r\n")
        await reader.read()
        writer.close()

    mail = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with mail:
        with pytest.raises(StoreUnavailable):
            async with RedisStore(f"redis://127.0.0.1:{mail.sockets[0].getsockname()[1]}", timeout=0.5):
                pass


@pytest.fixture
def guarded(server: Server) -> Iterator[Server]:
    """A server with a password for everyone, and a user who may only read."""
    server.redis.acl_setuser("auditor", enabled=True, passwords=["+audit"], keys=["*"], commands=["+@read", "+script"])
    server.redis.config_set("requirepass", "s3cret")
    server.redis.execute_command("AUTH", "s3cret")
    yield server
    server.redis.config_set("requirepass", "")
    server.redis.acl_deluser("auditor")


@pytest.mark.parametrize("credentials", ["", ":wr0ng@", "nobody:wr0ng@"])
async def test_a_missing_or_wrong_password_is_refused_and_never_shown(guarded: Server, credentials: str) -> None:
    url = f"redis://{credentials}127.0.0.1:{guarded.port}"

    with pytest.raises(StoreDenied) as denied:
        async with RedisStore(url):
            pass

    assert str(guarded.port) in str(denied.value)
    assert "wr0ng" not in str(denied.value) + repr(RedisStore(url))


async def test_a_right_that_is_missing_is_denied(guarded: Server) -> None:
    async with RedisStore(f"redis://auditor:audit@127.0.0.1:{guarded.port}") as store:
        assert [] == await store.scan("order_placed")
        with pytest.raises(StoreDenied, match="NOPERM"):
            await store.append("order_placed", [order()])
        assert "unknown" == (await store.durability()).power_lost


# What errors mean.


@pytest.mark.parametrize("start", TABLE)
def test_every_error_reply_has_one_meaning(start: str) -> None:
    kind, advice = TABLE[start]

    plain = translate(hiredis.ReplyError(f"{start} and so on"), "localhost:6379")
    nested = translate(
        hiredis.ReplyError(f"ERR Error running script (call to f_0): @user_script:1: {start} and"), "localhost:6379"
    )

    assert (kind, kind) == (type(plain), type(nested))
    assert "localhost:6379" in str(plain)
    assert advice in str(plain)


def test_an_unknown_error_reply_is_a_refusal_of_the_store() -> None:
    assert StoreError is type(translate(hiredis.ReplyError("ERR syntax error"), "localhost:6379"))
    assert StoreError is type(translate(hiredis.ReplyError("BUSYGROUP exists"), "localhost:6379"))


@pytest.mark.parametrize(
    ("setting", "value", "usual", "kind"),
    [("maxmemory", "1", "0", StoreFull), ("min-replicas-to-write", "1", "0", StoreUnavailable)],
)
async def test_a_full_or_lonely_server_stores_nothing_of_a_batch(
    store: RedisStore, server: Server, setting: str, value: str, usual: str, kind: type[StoreError]
) -> None:
    """Row D5 of docs/faults.md."""
    await store.append("order_placed", [order(1), order(2)])
    server.redis.config_set(setting, value)
    try:
        batches = [[order(3)], [order(4), order(5)]]
        if kind is StoreUnavailable and server.redis.info("server")["redis_version"] < "7":
            batches.pop()  # Redis before 7 does not hold scripts to min-replicas-to-write.
        for batch in batches:
            with pytest.raises(kind):
                await store.append("order_placed", batch)
    finally:
        server.redis.config_set(setting, usual)

    assert 2 == len(await store.scan("order_placed"))


async def test_a_full_server_still_takes_acks(store: RedisStore, server: Server) -> None:
    await store.append("order_placed", [order(1)])
    deliveries = await store.read(READER, limit=1)
    server.redis.config_set("maxmemory", "1")
    try:
        assert 1 == await store.ack(deliveries)
    finally:
        server.redis.config_set("maxmemory", "0")


async def test_a_replica_is_unavailable_for_writing(store: RedisStore, server: Server) -> None:
    server.redis.execute_command("REPLICAOF", "127.0.0.1", "1")
    try:
        with pytest.raises(StoreUnavailable, match="READONLY"):
            await store.append("order_placed", [order()])
    finally:
        server.redis.execute_command("REPLICAOF", "NO", "ONE")


async def test_a_server_busy_with_a_script_is_unavailable(store: RedisStore, server: Server) -> None:
    """Row C17 of docs/faults.md."""
    server.redis.config_set("lua-time-limit", 10)

    def spin() -> None:
        with Redis(port=server.port) as other, contextlib.suppress(Exception):
            other.eval("while true do end", 0)

    spinning = threading.Thread(target=spin)
    spinning.start()
    try:
        await asyncio.to_thread(eventually, lambda: not server.answers(), "the script does not run")
        with pytest.raises(StoreUnavailable, match="BUSY"):
            await store.append("order_placed", [order()])
    finally:
        server.redis.script_kill()
        spinning.join()


async def test_a_lost_group_begins_before_all_that_anybody_held(store: RedisStore, server: Server) -> None:
    placed = await store.append("order_placed", [order(1), order(2), order(3), order(4)])
    await store.ack(await store.read(READER, limit=1))
    await store.read(READER, limit=1)
    await store.claim(OTHER, idle=60)
    [waits] = await store.read(READER, limit=1)
    await store.retry(waits, delay=60)
    [last] = await store.read(OTHER, limit=1)
    await store.ack([last])

    server.redis.xgroup_destroy(KEY, "billing")
    assert await store.join("order_placed", "billing", start=last.position)

    assert placed[1:] == [delivery.position for delivery in await store.read(OTHER, limit=9)]
    assert {OTHER.consumer} == {pending.consumer for pending in await store.pending("order_placed", "billing")}
    await store.leave("order_placed", "billing")
    assert await store.join("order_placed", "billing", start=last.position)
    assert [] == await store.read(OTHER, limit=9)


async def test_a_group_that_was_sought_back_and_lost_begins_there(store: RedisStore, server: Server) -> None:
    placed = await store.append("order_placed", [order(1), order(2)])
    await store.ack(await store.read(READER, limit=2))
    await store.claim(READER, idle=60)
    await store.seek("order_placed", "billing", START)

    server.redis.xgroup_destroy(KEY, "billing")
    await store.join("order_placed", "billing", start="$")

    assert placed == [delivery.position for delivery in await store.read(READER, limit=9)]


async def test_a_stream_that_vanishes_under_a_blocked_read_is_met_again_as_a_lost_group(
    store: RedisStore, server: Server
) -> None:
    reading = asyncio.create_task(store.read(READER, limit=1, wait=1))
    await asyncio.to_thread(eventually, lambda: server.redis.info("clients")["blocked_clients"], "nobody reads")

    server.redis.delete(KEY)

    # Redis before 7 lets the read wait to its end.
    with contextlib.suppress(StoreUnavailable, NotFound):
        assert [] == await reading
    with pytest.raises(NotFound):
        await store.read(READER, limit=1, wait=0.05)


@pytest.mark.parametrize("position", ["", "abc", "1-", "-1", "1-0 x", "+"])
async def test_a_wrong_position_is_refused_before_it_is_sent(store: RedisStore, position: str) -> None:
    with pytest.raises(ConfigurationError, match="not a position"):
        await store.scan("order_placed", after=position)


@pytest.mark.parametrize("stream", ["", "a:b", "{a}", "a b", "ä"])
async def test_a_name_that_could_collide_is_refused(store: RedisStore, stream: str) -> None:
    with pytest.raises(ConfigurationError):
        await store.append(stream, [order()])


# Durability.


async def test_durability_explains_the_settings(store: RedisStore, server: Server) -> None:
    assert "lost" == (await store.durability()).store_killed

    server.redis.config_set("appendonly", "yes")
    server.redis.config_set("appendfsync", "everysec")
    everysec = await store.durability()
    server.redis.config_set("appendfsync", "always")
    always = await store.durability()
    server.redis.config_set("maxmemory", "1gb")
    server.redis.config_set("maxmemory-policy", "allkeys-lru")
    evicting = await store.durability()
    server.redis.config_set("maxmemory", "0")
    server.redis.config_set("maxmemory-policy", "noeviction")
    server.redis.config_set("appendonly", "no")

    assert ("kept", "at risk") == (everysec.store_killed, everysec.power_lost)
    assert ("kept", "kept", ()) == (always.client_killed, always.power_lost, always.notes)
    assert ("at risk", "at risk") == (evicting.client_killed, evicting.power_lost)
    assert "noeviction" in evicting.notes[0]


# URLs.


def test_a_url_says_where_the_servers_are() -> None:
    assert (Address("localhost", 6379),) == parse("redis://").addresses
    assert (Address("h", 7),) == parse("valkey://h:7/3").addresses
    assert 3 == parse("valkey://h:7/3").access.database
    assert (Address("::1", 6379),) == parse("redis://[::1]").addresses
    assert (Address("/run/redis.sock", 0),) == parse("unix:///run/redis.sock?db=2").addresses
    assert ("u", Secret("p@ss")) == (
        parse("redis://u:p%40ss@h").access.username,
        parse("redis://u:p%40ss@h").access.password,
    )
    assert {"ssl_ca_certs": "/ca.pem"} == parse("rediss://h?ssl_ca_certs=/ca.pem").access.tls
    assert (Address("a", 26379), Address("b", 1)) == parse("redis+sentinel://a,b:1/main/2").addresses
    assert ("main", 2) == (
        parse("redis+sentinel://a/main/2").service,
        parse("redis+sentinel://a/main/2").access.database,
    )
    assert "cluster" == parse("valkeys+cluster://a,b").mode


@pytest.mark.parametrize(
    "url",
    [
        "http://h",
        "redis://:secret@h:port",
        "redis://:secret@h:99999",
        "redis://:secret@h/x",
        "redis://:secret@h?socket_timeout=3",
        "redis://:secret@a,b",
        "redis+sentinel://:secret@h",
        "redis+cluster://:secret@h/1",
        "rediss://:secret@h?ssl_cert_reqs=maybe",
        "unix://",
    ],
)
def test_a_wrong_url_is_refused_without_showing_its_password(url: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        RedisStore(url)

    assert "secret" not in str(refused.value)


async def test_a_dropped_stream_leaves_no_keys(store: RedisStore, server: Server) -> None:
    await store.append("order_placed", [order(1), order(2)])
    await store.ack(await store.read(READER, limit=1))
    await store.claim(READER, idle=60.0)

    await store.drop("order_placed")

    assert [] == server.redis.keys("*")


# Appends of many, in one transaction.


async def test_many_are_appended_where_the_user_may_not_use_transactions(server: Server) -> None:
    server.redis.execute_command("ACL", "SETUSER", "modest", "on", ">secret", "~*", "+@all", "-multi")
    async with RedisStore(server.url.replace("://", "://modest:secret@")) as store:
        positions = await store.append("order_placed", [order(number) for number in range(3)])

        assert positions == [entry.position for entry in await store.scan("order_placed")]
        assert 3 == len(positions)


async def test_without_the_right_to_transactions_the_outcome_of_many_is_unknown(server: Server) -> None:
    server.redis.execute_command("ACL", "SETUSER", "modest", "on", ">secret", "~*", "+@all")
    async with RedisStore(server.url.replace("://", "://modest:secret@")) as store:
        await store.append("order_placed", [order(1), order(2)])
        server.redis.execute_command("ACL", "SETUSER", "modest", "-multi")

        with pytest.raises(OutcomeUnknown, match="takes no transactions any more"):
            await store.append("order_placed", [order(3), order(4)])

        assert 2 == len(await store.append("order_placed", [order(5), order(6)]))


async def test_many_are_appended_whole_or_not_at_all_when_memory_runs_out(store: RedisStore, server: Server) -> None:
    await store.append("order_placed", [order(1), order(2)])
    server.redis.config_set("maxmemory", 1)
    try:
        with pytest.raises(StoreFull):
            await store.append("order_placed", [order(3), order(4)])
    finally:
        server.redis.config_set("maxmemory", 0)

    assert 2 == len(await store.scan("order_placed"))


async def test_commands_beside_an_append_of_many_get_their_own_replies(store: RedisStore) -> None:
    many, one, more = await asyncio.gather(
        store.append("order_placed", [order(number) for number in range(50)]),
        store.append("order_placed", [order(50)]),
        store.append("order_placed", [order(number) for number in range(51, 60)]),
    )

    entries = await store.scan("order_placed", limit=1000)
    assert {entry.position for entry in entries} == {*many, *one, *more}
    assert 60 == len(entries)


async def test_many_that_were_cut_off_before_their_end_was_sent_are_surely_not_stored(
    store: RedisStore, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    await store.append("order_placed", [order(), order()])

    # The caller does not know of it before the first part is on its way.
    server.redis.client_kill_filter(_type="normal", skipme=True)
    with pytest.raises(StoreUnavailable):
        await store.append("order_placed", [order(number) for number in range(2998)])

    assert 2 == server.redis.xlen(KEY)
    assert [] == caplog.messages
