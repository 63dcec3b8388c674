"""Work that is broken off says how far it came."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess

import pytest

from forebay import EventBus
from forebay.store import Reader
from tests.support.command import PATIENCE, Forebay

SIGNALS = [signal.SIGINT, signal.SIGTERM]


def ended(process: subprocess.Popen[str], number: signal.Signals) -> tuple[int, str]:
    """The exit code and the rest of stderr after this signal."""
    process.send_signal(number)
    _, err = process.communicate(timeout=PATIENCE)
    return process.returncode, err


async def many_dead(bus: EventBus) -> None:
    await bus.publish_many("order_placed", "shop", list(range(3000)))
    await bus.store.join("order_placed", "billing")
    deliveries = await bus.store.read(Reader("order_placed", "billing", "consumer-1"), limit=3000)
    await asyncio.gather(*(bus.store.dead_letter(each, reason="ValueError: no price") for each in deliveries))


def number_in(text: str, pattern: str) -> int:
    found = re.search(pattern, text)
    assert found, text
    return int(found[1].replace(",", ""))


@pytest.mark.parametrize("number", SIGNALS)
def test_publish_says_how_many_lines_it_has_published(forebay: Forebay, number: signal.Signals) -> None:
    with forebay.process("publish", "order_placed", "-") as process:
        assert process.stdin is not None
        process.stdin.write("1\n" * 700)
        process.stdin.flush()
        while sum(each.length for each in forebay.do(lambda bus: bus.stats())) < 700:
            pass
        code, err = ended(process, number)

    assert (130, "stopped after 700 events\n") == (code, err)


@pytest.mark.parametrize("number", SIGNALS)
def test_replay_says_how_many_events_it_has_replayed(forebay: Forebay, number: signal.Signals) -> None:
    forebay.publish(*range(5000))
    forebay.do(lambda bus: bus.store.join("order_placed", "billing"))

    with forebay.process("replay", "order_placed", "--group", "billing", "--yes", "--rate", "100/s") as process:
        while sum(each.length for each in forebay.do(lambda bus: bus.stats())) == 5000:
            assert process.poll() is None
        code, err = ended(process, number)

    replayed = number_in(err, r"stopped after ([\d,]+) events of 5,000\n")
    assert 130 == code
    assert 0 < replayed < 5000
    assert 5000 + replayed == sum(each.length for each in forebay.do(lambda bus: bus.stats()))


@pytest.mark.parametrize("number", SIGNALS)
def test_an_export_says_how_many_letters_it_has_printed(forebay: Forebay, number: signal.Signals) -> None:
    forebay.do(many_dead)

    with forebay.process("dead", "export") as process:
        assert process.stdout is not None
        assert os.read(process.stdout.fileno(), 1)  # and then reads no more, so that the pipe is full soon
        process.send_signal(number)
        out, err = process.communicate(timeout=PATIENCE)

    printed = number_in(err, r"stopped after ([\d,]+) of 3,000 dead letters\n")
    assert 130 == process.returncode
    assert printed == len(out.splitlines())


@pytest.mark.parametrize("number", SIGNALS)
def test_bench_prints_each_line_when_it_is_measured_and_says_how_many(forebay: Forebay, number: signal.Signals) -> None:
    with forebay.process("bench", "--seconds", "20", "--events", "200") as process:
        assert process.stdout is not None
        assert ["measurement", "figure", "unit"] == process.stdout.readline().rstrip("\n").split("\t")
        assert "publish, one at a time" == process.stdout.readline().split("\t")[0]
        code, err = ended(process, number)

    assert (130, True) == (code, bool(re.search(r"stopped after \d of 6 lines\n", err))), err


@pytest.mark.parametrize("number", SIGNALS)
def test_a_copy_says_how_far_it_came_and_goes_on_from_there(forebay: Forebay, number: signal.Signals) -> None:
    forebay.publish(*range(20_000))

    with forebay.process("copy", forebay.url, "sqlite:///new.db") as process:
        while not (forebay.folder / "new.db-wal").exists():
            assert process.poll() is None
        code, err = ended(process, number)

    if code:  # it may have been faster
        assert 130 == code
        assert re.search(r"stopped after [\d,]+ events; the same command goes on from there\n", err)
    assert 0 == forebay("copy", forebay.url, "sqlite:///new.db", "--verify").code


@pytest.mark.parametrize("number", SIGNALS)
def test_a_flow_ends_quietly(forebay: Forebay, number: signal.Signals) -> None:
    forebay.publish(1)

    for command in (["tail", "order_placed"], ["streams", "--watch"]):
        with forebay.process(*command) as process:
            assert process.stdout is not None
            assert process.stdout.readline()
            assert (130, "") == ended(process, number)


@pytest.mark.parametrize("action", ["redrive", "discard"])
def test_a_move_of_many_dead_letters_is_made_in_parts(forebay: Forebay, action: str) -> None:
    forebay.do(many_dead)

    shown = forebay.on_terminal("dead", action, "order_placed", "--yes")

    assert 0 == shown.code
    assert "3,000/3,000" in shown.out
    assert f"3,000 dead letters of order_placed {'redriven' if action == 'redrive' else 'discarded'}" in shown.out
