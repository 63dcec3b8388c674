"""Looking at groups, putting dead letters right, replaying, running."""

from __future__ import annotations

import json
import os
import pty
import signal
from pathlib import Path

import pytest

from forebay import EventBus
from forebay.event import Record
from forebay.store import Reader
from tests.support.command import PATIENCE, Forebay


def states(forebay: Forebay, id: str) -> list[tuple[str, str]]:
    groups = json.loads(forebay("get", "order_placed", id, "--json").out)["groups"]
    return [(row["group"], row["state"]) for row in groups]


async def lease_one(bus: EventBus) -> None:
    reader = Reader("order_placed", "billing", "consumer-1")
    await bus.store.join("order_placed", "billing")
    await bus.store.read(reader, limit=1)


async def let_one_wait(bus: EventBus) -> None:
    reader = Reader("order_placed", "billing", "consumer-1")
    await bus.store.join("order_placed", "billing")
    (delivery,) = await bus.store.read(reader, limit=1)
    await bus.store.retry(delivery, delay=600.0)


def test_run_handles_everything_and_reports_failures(forebay: Forebay) -> None:
    forebay.publish(1, 2, 3, 4)

    ended = forebay.piped("run", "app:bus", "--until-idle", "--concurrency", "2")

    assert 0 == ended.code
    assert "no price for order 3" in ended.err
    assert [
        ["order_placed", "billing", "0", "0", "0", "", "2"],
        ["order_placed", "mail", "0", "0", "0", "", "0"],
    ] == [line[:7] for line in forebay("groups").rows]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("app", "write MODULE:BUS"),
        ("nothing:bus", "no module 'nothing'"),
        ("app:nothing", "there is app:bus"),
        ("app:bill", "not an EventBus"),
    ],
)
def test_run_explains_a_wrong_name_of_a_bus(forebay: Forebay, name: str, message: str) -> None:
    ended = forebay.piped("run", name)

    assert 1 == ended.code
    assert message in ended.err
    assert "Traceback" not in ended.err


def test_an_error_of_the_module_itself_keeps_its_traceback(forebay: Forebay, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import a_library_that_is_missing\n")

    ended = forebay.piped("run", "broken:bus")

    assert 1 == ended.code
    assert "Traceback" in ended.err
    assert "a_library_that_is_missing" in ended.err


def test_get_shows_how_far_each_group_is(forebay: Forebay) -> None:
    odd, even = forebay.handle(1, 2)
    (new,) = forebay.publish(3)

    assert [("billing", "dead"), ("mail", "done")] == states(forebay, odd)
    assert [("billing", "done"), ("mail", "done")] == states(forebay, even)
    assert [("billing", "unread"), ("mail", "unread")] == states(forebay, new)


def test_get_shows_who_holds_an_event(forebay: Forebay) -> None:
    (id,) = forebay.publish(1)
    forebay.do(lease_one)

    assert [("billing", "pending")] == states(forebay, id)
    assert "consumer-1" in forebay.on_terminal("get", "order_placed", id).out
    assert [["pending", "consumer-1", "1", "0"]] == [
        line[1:5] for line in forebay("pending", "order_placed", "billing").rows
    ]


def test_get_and_pending_show_events_that_wait_for_a_retry(forebay: Forebay) -> None:
    (id,) = forebay.publish(1)
    forebay.do(let_one_wait)

    assert [("billing", "waiting")] == states(forebay, id)
    ((_, state, consumer, _, failures, _, due),) = forebay("pending", "order_placed", "billing").rows
    assert ("waiting", "", "1") == (state, consumer, failures)
    assert 590 < float(due) <= 600


def test_get_shows_a_redriven_event_again(forebay: Forebay) -> None:
    (id,) = forebay.handle(1)

    forebay("dead", "redrive", "order_placed", id)

    assert [("billing", "done"), ("billing", "unread"), ("mail", "done")] == states(forebay, id)


def test_dead_letters_are_chosen_by_group_error_time_and_data(forebay: Forebay) -> None:
    forebay.handle(1, 3, 5)

    def listed(*choice: str) -> int:
        return len(forebay("dead", "ls", "order_placed", *choice).rows)

    assert 3 == listed() == listed("--group", "billing") == listed("--since", "1h")
    assert 1 == listed("--error", "PRICE for order 3") == listed("--where", "data.order_id=5")
    assert 0 == listed("--group", "mail") == listed("--error", "KeyError") == listed("--since", "2999-01-01")


def test_a_dead_letter_is_shown_by_its_own_id_or_its_events(forebay: Forebay) -> None:
    (event,) = forebay.handle(1)
    (letter,) = (line[0] for line in forebay("dead", "ls").rows)

    shown = forebay("dead", "show", "order_placed", event)
    assert ["data", '{"order_id":1}'] in shown.lines
    assert shown == forebay("dead", "show", "order_placed", letter)


def test_redriving_one_asks_nothing_and_several_need_a_yes(forebay: Forebay) -> None:
    forebay.handle(1, 3, 5)
    first = forebay("dead", "ls").rows[0][0]

    assert "1 dead letter of order_placed redriven\n" == forebay("dead", "redrive", "order_placed", first).err
    refused = forebay("dead", "redrive", "order_placed")
    assert 2 == refused.code
    assert "redrive 2 dead letters of order_placed" in refused.err
    assert 2 == len(forebay("dead", "ls").rows)
    assert '{"found":2,"redriven":2}\n' == forebay("dead", "redrive", "order_placed", "--yes", "--json").out


def test_purging_asks_a_person_with_the_count(forebay: Forebay) -> None:
    forebay.handle(1, 3)

    asked = forebay.on_terminal("dead", "discard", "order_placed", typed="n\n")
    assert 1 == asked.code
    assert "Discard 2 dead letters of order_placed? [y/N]" in asked.out
    assert "nothing was changed" in asked.out
    assert 2 == len(forebay("dead", "ls").rows)

    assert 0 == forebay.on_terminal("dead", "discard", "order_placed", typed="y\n").code
    assert 0 == len(forebay("dead", "ls").rows)


def test_an_unknown_id_stops_the_whole_deed(forebay: Forebay) -> None:
    forebay.handle(1)
    known = forebay("dead", "ls").rows[0][0]

    ended = forebay("dead", "discard", "order_placed", known, "no-such-id", "--yes")

    assert 1 == ended.code
    assert "'no-such-id'" in ended.err
    assert 1 == len(forebay("dead", "ls").rows)


def test_a_dry_run_shows_the_plan_and_does_nothing(forebay: Forebay) -> None:
    forebay.handle(1, 3)

    for action in ("redrive", "discard"):
        ended = forebay("dead", action, "order_placed", "--error", "order 3", "--dry-run")
        assert 1 == len(ended.rows)
        assert f"would {action} 1 dead letter of order_placed\n" == ended.err
    assert 2 == len(forebay("dead", "ls").rows)


def test_an_export_holds_each_dead_letter_whole(forebay: Forebay) -> None:
    (id,) = forebay.handle(1)

    (line,) = forebay("dead", "export").out.splitlines()

    letter = json.loads(line)
    assert ("billing", 2, "ValueError: no price for order 1") == (letter["group"], letter["attempts"], letter["error"])
    assert (id, {"order_id": 1}) == (letter["event"]["id"], letter["event"]["data"])


def test_a_dead_letter_that_is_not_an_event_is_shown_as_it_is_stored(forebay: Forebay) -> None:
    async def die(bus: EventBus) -> None:
        record = Record(type="order_placed", source="x", data=b"{not json", timestamp="2026-01-31T00:00:00Z", id="m")
        await bus.store.append("order_placed", [record])
        await bus.store.join("order_placed", "billing")
        (delivery,) = await bus.store.read(Reader("order_placed", "billing", "consumer-1"), limit=1)
        await bus.store.dead_letter(delivery, reason="no event")

    forebay.do(die)

    assert ["data", "{not json"] in json.loads(forebay("dead", "export").out)["fields"]
    assert "{not json" in forebay.on_terminal("dead", "show", "order_placed", "m").out
    assert [] == forebay("dead", "ls", "--where", "data.x=1").rows


def test_replay_delivers_a_range_again_to_one_group(forebay: Forebay) -> None:
    forebay.handle(2, 4, 6)
    first = json.loads(forebay("tail", "order_placed", "--json", "--no-follow").out.splitlines()[0])["position"]
    range_ = ["replay", "order_placed", "--group", "mail", "--from", first]

    assert "would replay 2 events of order_placed to mail\n" == forebay(*range_, "--dry-run").err
    assert 2 == forebay(*range_).code
    assert '{"found":2,"replayed":2}\n' == forebay(*range_, "--yes", "--rate", "1000/s", "--json").out
    assert {"billing": "0", "mail": "2"} == {line[1]: line[2] for line in forebay("groups").rows}


def test_a_replay_asks_a_person_with_the_count(forebay: Forebay) -> None:
    forebay.handle(2, 4)

    asked = forebay.on_terminal("replay", "order_placed", "--group", "mail", typed="y\n")

    assert 0 == asked.code
    assert "Replay 2 events of order_placed to mail? [y/N]" in asked.out
    assert "replayed 2 events" in asked.out


def test_watching_looks_again_until_ctrl_c(forebay: Forebay) -> None:
    forebay.publish(1)
    with forebay.process("streams", "--watch", "--every", "0.1s") as process:
        assert process.stdout is not None
        assert "events" == process.stdout.readline().split("\t")[1]
        assert "1" == process.stdout.readline().split("\t")[1]
        forebay.publish(2)
        while "2" != process.stdout.readline().split("\t")[1]:
            pass
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE)

    assert (130, "") == (process.returncode, err)


def test_watching_on_a_terminal_draws_in_place(forebay: Forebay) -> None:
    forebay.publish(1)
    ours, theirs = pty.openpty()
    with forebay.process("groups", "--watch", "--every", "0.1s", stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        while b"consumers" not in shown:
            shown += os.read(ours, 65536)
        process.send_signal(signal.SIGINT)
        assert 130 == process.wait(PATIENCE)
        os.close(ours)
