"""`forebay copy`: its output, its refusals, and its switch."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from forebay import DeadLetter, EventBus
from tests.support.command import PATIENCE, Forebay
from tests.support.events_table import write


def files(folder: Path) -> set[str]:
    return {each.name for each in folder.iterdir() if ".db" in each.name}


async def streams(bus: EventBus) -> dict[str, int]:
    return {stats.stream: stats.length for stats in await bus.stats()}


async def dead(bus: EventBus) -> list[DeadLetter]:
    return await bus.dead_letters("order_placed")


def test_a_copy_lists_the_streams_and_verifies_both_sides(forebay: Forebay) -> None:
    forebay.handle(1, 2, 3)

    ended = forebay("copy", forebay.url, "sqlite:///new.db", "--verify")

    assert (0, [["order_placed", "3", "2", "0", "2", "0", "equal"]]) == (ended.code, ended.rows)
    assert "copied 3 events in 1 stream to sqlite:///new.db" in ended.err
    assert "both sides are equal" in ended.err
    assert (
        forebay("dead", "ls", "order_placed").out
        == forebay("--url", "sqlite:///new.db", "dead", "ls", "order_placed").out
    )


def test_a_second_copy_has_nothing_to_do(forebay: Forebay) -> None:
    forebay.publish(1)
    forebay("copy", forebay.url, "sqlite:///new.db")

    ended = forebay("copy", forebay.url, "sqlite:///new.db", "--json")

    assert 0 == ended.code
    assert "copied already, nothing to do" in ended.err
    assert [
        {"stream": "order_placed", "events": 1, "groups": 0, "pending": 0, "dead": 0, "scheduled": 0}
    ] == json.loads(ended.out)


def test_verify_fails_where_the_target_has_gone_on(forebay: Forebay) -> None:
    forebay.publish(1)
    forebay("copy", forebay.url, "sqlite:///new.db")
    forebay("--url", "sqlite:///new.db", "publish", "order_placed", "--source", "shop")

    ended = forebay("copy", forebay.url, "sqlite:///new.db", "--verify")

    assert (1, "differs in events") == (ended.code, ended.rows[0][-1])
    assert "the two sides differ: order_placed (events)" in ended.err


def test_a_dry_run_makes_no_file(forebay: Forebay, tmp_path: Path) -> None:
    forebay.publish(1, 2)

    ended = forebay("copy", forebay.url, "sqlite:///new.db", "--dry-run")

    assert (0, [["order_placed", "2", "0", "0", "0", "0"]]) == (ended.code, ended.rows)
    assert "would copy 2 events in 1 stream" in ended.err
    assert not {name for name in files(tmp_path) if name.startswith("new")}


@pytest.mark.parametrize(
    ("source", "target", "code", "message"),
    [
        ("sqlite:///events.db", "sqlite:///./events.db", 1, "are the same store"),
        ("redis://localhost", "valkey://LOCALHOST:6379/0", 1, "are the same store"),
        ("sqlite:///typo.db", "sqlite:///new.db", 1, "typo.db does not exist"),
        ("sqlite:///events.db", "memory://", 1, "name two stores that last"),
        ("sqlite:///events.db", "redis://localhost:1", 1, "cannot reach a Redis or Valkey server at localhost:1"),
        ("sqlite:///events.db", "redis://me:secret@localhost:1", 1, "cannot reach"),
        ("redis://localhost:1", "sqlite:///new.db", 1, "cannot reach a Redis or Valkey server at localhost:1"),
        ("sqlite:///events.db", "sqlite:///taken.db", 1, "the target is not empty, it has order_placed"),
        ("sqlite:///events.db", "nonsense", 1, "is not a store's URL"),
        ("sqlite:///empty.db", "sqlite:///new.db", 1, "nothing to copy"),
    ],
)
def test_a_copy_that_is_impossible_is_refused_in_one_line(
    forebay: Forebay, source: str, target: str, code: int, message: str
) -> None:
    forebay.publish(1)
    forebay("--url", "sqlite:///taken.db", "publish", "order_placed", "--source", "s")
    forebay("--url", "sqlite:///empty.db", "streams")

    ended = forebay("copy", source, target)

    assert code == ended.code
    assert message in ended.err
    assert "secret" not in ended.err
    assert "" == ended.out


def test_urls_may_come_from_the_environment(forebay: Forebay, monkeypatch: pytest.MonkeyPatch) -> None:
    forebay.publish(1)
    monkeypatch.setenv("FOREBAY_COPY_FROM", forebay.url)
    monkeypatch.setenv("FOREBAY_COPY_TO", "sqlite:///new.db")

    assert 0 == forebay("copy").code


def test_a_namespace_is_copied_into_the_same_namespace(forebay: Forebay) -> None:
    forebay.publish(1)
    forebay("--namespace", "other", "publish", "t", "--source", "s")

    assert [["t", "1", "0", "0", "0", "0"]] == forebay(
        "--namespace", "other", "copy", forebay.url, "sqlite:///new.db"
    ).rows
    assert "" == forebay("--url", "sqlite:///new.db", "streams").out


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_a_copy_follows_until_the_switch(forebay: Forebay, tmp_path: Path, ending: signal.Signals) -> None:
    forebay.publish(1)
    new = Forebay(f"sqlite:///{tmp_path}/new.db", tmp_path)

    with forebay.process("copy", forebay.url, new.url, "--follow", "--verify") as process:
        assert process.stderr is not None
        assert "following" in process.stderr.readline()
        forebay.publish(2, 3)
        forebay.publish(4, type="order_paid")
        deadline = time.monotonic() + PATIENCE
        while new.do(streams) != {"order_placed": 3, "order_paid": 1}:
            assert time.monotonic() < deadline, "what is published comes over"
        process.send_signal(ending)
        _, talk = process.communicate(timeout=PATIENCE)

    assert 0 == process.returncode, talk
    assert "switching" in talk
    assert "both sides are equal" in talk


def test_on_a_terminal_a_copy_shows_a_table(forebay: Forebay) -> None:
    forebay.publish(*range(1200))

    ended = forebay.on_terminal("copy", forebay.url, "sqlite:///new.db")

    assert 0 == ended.code
    assert "copy" in ended.out
    assert "1,200/1,200" in ended.out
    assert ["order_placed", "1,200", "0", "0", "0", "0"] in [line.split() for line in ended.out.splitlines()]


def test_a_file_of_one_events_table_is_copied_for_a_group(forebay: Forebay, tmp_path: Path) -> None:
    write(tmp_path / "old.db")

    ended = forebay("copy", "sqlite:///old.db", forebay.url, "--group", "billing", "--group", "mail", "--verify")

    assert 0 == ended.code, ended.err
    assert [["order_paid", "1", "2", "0", "0", "0", "equal"], ["order_placed", "5", "2", "2", "0", "0", "equal"]] == (
        ended.rows
    )
    assert 0 == forebay.piped("run", "app:bus", "--until-idle").code
    assert ["quickfix-2", "quickfix-5", "quickfix-6"] == sorted(
        getattr(each.record, "id", "") for each in forebay.do(dead)
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "name the group that handles its unprocessed rows"),
        (("--group", "billing", "--follow"), "cannot follow a file in the single-table format"),
    ],
)
def test_a_file_of_one_events_table_needs_a_group_and_cannot_be_followed(
    forebay: Forebay, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    write(tmp_path / "old.db")

    ended = forebay("copy", "sqlite:///old.db", forebay.url, *options)

    assert 2 == ended.code
    assert message in " ".join(ended.err.split())
    assert {"old.db"} == files(tmp_path)


def test_a_group_is_only_for_the_events_table(forebay: Forebay) -> None:
    forebay.publish(1)

    ended = forebay("copy", forebay.url, "sqlite:///new.db", "--group", "billing")

    assert 2 == ended.code
    assert "only for a file in the single-table format" in " ".join(ended.err.split())
