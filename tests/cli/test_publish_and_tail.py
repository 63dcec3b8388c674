"""Events in and out by hand."""

from __future__ import annotations

import json
import signal
import subprocess

import pytest

from forebay import EventBus
from forebay.event import Record
from tests.support.command import PATIENCE, Forebay


def test_a_published_event_is_shown_by_tail_and_get(forebay: Forebay) -> None:
    published = forebay("publish", "order_placed", '{"order_id": 1}', "--source", "shop", "--key", "customer-7")
    (id,) = published.out.split()

    assert [["order_placed", id, "shop", "customer-7", '{"order_id":1}']] == [
        line[1:] for line in forebay("tail", "order_placed", "--no-follow").lines
    ]
    event = json.loads(forebay("get", "order_placed", id, "--json").out)
    assert ({"order_id": 1}, "customer-7", []) == (event["data"], event["key"], event["groups"])


def test_an_id_makes_a_publish_idempotent(forebay: Forebay) -> None:
    for _ in range(2):
        assert "order-1\n" == forebay("publish", "order_placed", "1", "--id", "order-1").out

    assert 1 == len(forebay("tail", "order_placed", "--no-follow").lines)


def test_a_delayed_event_is_scheduled(forebay: Forebay) -> None:
    forebay("publish", "order_placed", "1", "--delay", "1h")

    assert [["order_placed", "0", "1"]] == [line[:3] for line in forebay("streams").rows]


def test_data_that_is_not_json_is_refused_with_an_example(forebay: Forebay) -> None:
    ended = forebay("publish", "order_placed", "{order_id: 1}")

    assert 1 == ended.code
    assert """'{"order_id": 1}'""" in ended.err


def test_each_line_of_stdin_is_an_event(forebay: Forebay) -> None:
    ended = forebay.piped("publish", "order_placed", "-", stdin="".join(f"{n}\n" for n in range(1500)) + "\n1500")

    assert (0, "published 1,501 events to order_placed\n") == (ended.code, ended.err)
    shown = forebay("tail", "order_placed", "--from", "earliest", "--no-follow").lines
    assert [str(n) for n in range(1501)] == [line[-1] for line in shown]


def test_a_bad_line_is_named_and_the_lines_before_it_are_published(forebay: Forebay) -> None:
    ended = forebay.piped("publish", "order_placed", "-", stdin='1\n\n2\n{"bad\n3\n')

    assert 1 == ended.code
    assert ended.err.startswith("forebay: line 4: ")
    assert ended.err.endswith("; 2 events were published before\n")
    assert 2 == len(forebay("tail", "order_placed", "--no-follow").lines)


def test_a_line_that_outgrows_every_event_is_refused_before_it_ends(forebay: Forebay) -> None:
    ended = forebay.piped("publish", "order_placed", "-", stdin="1" * 8 * 1024 * 1024)

    assert 1 == ended.code
    assert "line 1: the data is 1," in ended.err


def test_lines_are_published_as_they_come(forebay: Forebay) -> None:
    forebay.make()
    with (
        forebay.process("publish", "order_placed", "-") as publisher,
        forebay.process("tail", "order_placed", "--wait") as tail,
    ):
        assert publisher.stdin is not None
        assert tail.stdout is not None
        for number in range(3):
            publisher.stdin.write(f"{number}\n")
            publisher.stdin.flush()
            assert str(number) == tail.stdout.readline().rstrip("\n").split("\t")[-1]


def test_ctrl_c_ends_a_publish_that_waits_for_stdin(forebay: Forebay) -> None:
    forebay.publish(0)
    with (
        forebay.process("tail", "order_placed") as tail,
        forebay.process("publish", "order_placed", "-") as publisher,
    ):
        assert publisher.stdin is not None
        assert tail.stdout is not None
        publisher.stdin.write("1\n")
        publisher.stdin.flush()
        assert tail.stdout.readline()
        assert tail.stdout.readline()
        publisher.send_signal(signal.SIGINT)

        assert 130 == publisher.wait(PATIENCE)


def test_a_dry_run_checks_and_makes_nothing(forebay: Forebay) -> None:
    assert 0 == forebay("publish", "order_placed", "1", "--dry-run").code
    assert 1 == forebay("publish", "order_placed", "NaN", "--dry-run").code
    assert "would publish 2 events" in forebay.piped("publish", "order_placed", "-", "--dry-run", stdin="1\n2\n").err
    assert not (forebay.folder / "events.db").exists()


def test_tail_shows_the_last_events_of_several_streams_by_time(forebay: Forebay) -> None:
    for number in range(4):
        forebay.publish(number, type="order_placed" if number % 2 else "order_paid")

    shown = forebay("tail", "order_placed", "order_paid", "-n", "2", "--no-follow").lines
    assert [f'{{"order_id":{number}}}' for number in range(4)] == [line[-1] for line in shown]
    assert 2 == len(forebay("tail", "order_placed", "order_paid", "-n", "1", "--no-follow").lines)


def test_tail_counts_the_events_that_fulfil_the_conditions(forebay: Forebay) -> None:
    forebay.publish(1, 2, 1, 2, 1, 2, 2, 2)

    shown = forebay("tail", "order_placed", "--where", "data.order_id=1", "-n", "2", "--no-follow").lines
    assert ['{"order_id":1}'] * 2 == [line[-1] for line in shown]


def test_tail_begins_at_a_time_or_after_a_position(forebay: Forebay) -> None:
    forebay.publish(1, 2, 3)
    first = json.loads(forebay("tail", "order_placed", "--json", "--no-follow").out.splitlines()[0])

    assert 3 == len(forebay("tail", "order_placed", "--since", "1h", "--no-follow").lines)
    assert 2 == len(forebay("tail", "order_placed", "--from", first["position"], "--no-follow").lines)
    assert 0 == len(forebay("tail", "order_placed", "--from", "latest", "--no-follow").lines)


def test_tail_follows_after_the_last_past_event_until_ctrl_c(forebay: Forebay) -> None:
    forebay.publish(1, 2, 3)

    with forebay.process("tail", "order_placed", "-n", "1", "--json") as tail:
        assert tail.stdout is not None
        assert {"order_id": 3} == json.loads(tail.stdout.readline())["data"]
        forebay.publish(4)
        assert {"order_id": 4} == json.loads(tail.stdout.readline())["data"]
        tail.send_signal(signal.SIGINT)
        _, err = tail.communicate(timeout=PATIENCE)

    assert (130, "") == (tail.returncode, err)


def test_a_pipe_without_a_reader_ends_tail_quietly(forebay: Forebay) -> None:
    forebay.publish(*range(5000))

    with forebay.process("tail", "order_placed", "--from", "earliest", "--no-follow") as tail:
        assert tail.stdout is not None
        assert tail.stderr is not None
        tail.stdout.readline()
        tail.stdout.close()
        assert "" == tail.stderr.read()
        tail.wait(PATIENCE)


def test_an_entry_that_is_not_an_event_is_reported_and_skipped(forebay: Forebay) -> None:
    forebay.do(append_malformed)
    forebay.publish(1)

    plain = forebay("tail", "order_placed", "--no-follow")
    assert ['{"order_id":1}'] == [line[-1] for line in plain.lines]
    assert "order_placed at " in plain.err
    malformed = json.loads(forebay("tail", "order_placed", "--no-follow", "--json").out.splitlines()[0])
    assert ["data", "{not json"] in malformed["fields"]


async def append_malformed(bus: EventBus) -> None:
    record = Record(type="order_placed", source="x", data=b"{not json", timestamp="2026-01-31T00:00:00Z", id="m")
    await bus.store.append("order_placed", [record])


@pytest.mark.parametrize("arguments", [["tail", "order_placed", "--no-follow"], ["get", "order_placed", "hostile"]])
def test_nothing_in_an_event_steers_the_terminal(forebay: Forebay, arguments: list[str]) -> None:
    hostile = "\x1b]52;c;aGk=\x07\x1b[2J\x9b31m\u202e"
    forebay.do(lambda bus: bus.publish("order_placed", hostile, {hostile: hostile}, key=hostile, id="hostile"))

    shown = forebay.on_terminal(*arguments).out

    assert "hostile" in shown
    for steering in ("\x1b]", "\x07", "\x1b[2J", "\x9b", "\u202e"):
        assert steering not in shown


def test_a_terminal_without_colour_shows_none(forebay: Forebay, monkeypatch: pytest.MonkeyPatch) -> None:
    forebay.publish(1)
    assert "\x1b[36m" in forebay.on_terminal("tail", "order_placed", "--no-follow").out

    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[36m" not in forebay.on_terminal("tail", "order_placed", "--no-follow").out


def test_the_command_is_the_module_too(forebay: Forebay) -> None:
    with forebay.process("--version", stderr=subprocess.DEVNULL) as process:
        out, _ = process.communicate(timeout=PATIENCE)

    assert out.startswith("forebay ")


@pytest.mark.parametrize(
    "text", ['\ufeff{"a": 1}\r\n{"a": 2}\r\n', '{"a": 1}\n\ufeff{"a": 2}\n', '\ufeff\n{"a":1}\n{"a":2}']
)
def test_a_byte_order_mark_is_skipped(forebay: Forebay, text: str) -> None:
    ended = forebay.piped("publish", "order_placed", "-", stdin=text)

    assert (0, "published 2 events to order_placed\n") == (ended.code, ended.err)
    assert 0 == forebay("publish", "order_placed", '\ufeff{"a": 3}').code
    assert [1, 2, 3] == [json.loads(line[-1])["a"] for line in forebay("tail", "order_placed", "--no-follow").lines]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_lines_in_another_encoding_than_utf_8_are_named(forebay: Forebay, encoding: str) -> None:
    file = forebay.folder / "orders.ndjson"
    file.write_bytes('{"a": 1}\r\n'.encode(encoding))

    with file.open("rb") as stdin, forebay.process("publish", "order_placed", "-", stdin=stdin) as process:
        _, err = process.communicate(timeout=PATIENCE)

    assert 1 == process.returncode
    assert "line 1: this is UTF-16 or UTF-32" in err
    assert "write it as UTF-8" in err
