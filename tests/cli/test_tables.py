"""How lists look: on terminals of any width, in pipes, and in any encoding."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys

import pytest
from rich.cells import cell_len

from forebay import EventBus
from forebay.cli import agents, copy, dead, get, groups, migrate, pending, streams
from forebay.cli.column import Column, counts, spans
from forebay.cli.table import table
from forebay.cli.text import as_json
from forebay.printable import is_printable, printable
from forebay.store import Reader
from tests.support.command import PATIENCE, Forebay

WIDTHS = (40, 60, 80, 100, 140)
NAME = "customer_subscription_renewed"
GROUP = "mail-notification-service"
ERROR = "ValueError: no price for the order of a customer whose name is longer than any terminal is wide, by far"
COLUMNS = (
    Column("stream", lambda row: row[0]),
    Column("id", lambda row: row[1], kind="exact"),
    counts("lag", lambda row: row[2]),
    counts("dead", lambda row: row[3], alarm=True),
    spans("oldest", lambda row: row[4]),
    Column("last error", lambda row: row[5], kind="text"),
)
ROWS = [(NAME, "1795484086818-1", 129_987, 264, 31.2065, ERROR), ("order", "17", 3, 0, None, None)]
HOSTILE = "\x1b]52;c;aGk=\x07\x1b[2J\r\nforged\t\x9b31m\u202e\u200b\ufeff\u3164\ufe0f\U000e0001[red]"
"""Steers a terminal, in every way."""
STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\u3164\ufe0f\U000e0001]"
)


@pytest.mark.parametrize("width", WIDTHS)
def test_a_table_shows_every_figure_and_id_whole_at_any_width(width: int) -> None:
    shown = table(COLUMNS, ROWS, width).plain

    assert all(value in shown for value in ("129,987", "264", "31 s", "1795484086818-1", "order", "17"))
    assert all(cell_len(line) <= width for line in shown.splitlines())


@pytest.mark.parametrize("width", WIDTHS)
def test_a_shortened_text_ends_with_an_ellipsis(width: int) -> None:
    shown = table(COLUMNS, ROWS, width).plain

    for text in (NAME, ERROR):
        begun = text[:10]
        assert text in shown or re.search(rf"{re.escape(begun)}[^\n]*…", shown)


def test_a_narrow_terminal_gets_the_text_on_a_line_of_its_own() -> None:
    assert [
        "stream                         id                   lag  dead  oldest",
        "customer_subscription_renewed  1795484086818-1  129,987   264    31 s",
        "  ValueError: no price for the order of a customer whose name is longer than an…",
        "order                          17                     3     0",
    ] == table(COLUMNS, ROWS, 80).plain.splitlines()


def test_a_very_narrow_terminal_gets_each_row_over_several_lines() -> None:
    assert [
        "customer_subscription_renewed",
        "  id 1795484086818-1  lag 129,987",
        "  dead 264  oldest 31 s",
        "  ValueError: no price for the order of…",
        "order",
        "  id 17  lag 3  dead 0",
    ] == table(COLUMNS, ROWS, 40).plain.splitlines()


def test_a_wide_character_counts_twice() -> None:
    shown = table(
        (Column("name", lambda row: row[0]), counts("n", lambda row: row[1])), [("注文" * 40, 1), ("x", 2)], 60
    )

    assert {60} == {cell_len(line) for line in shown.plain.splitlines()}


@pytest.mark.parametrize(
    "columns",
    [
        *(agents.COLUMNS, copy._columns(verify=True), dead.COLUMNS, get.COLUMNS, get.CHAIN, groups.COLUMNS),
        *((*migrate.WHO, *migrate.COUNTS), (*migrate.WHO, *migrate.LATENCIES), migrate.TYPES),
        *(pending.COLUMNS, streams.COLUMNS),
    ],
)
def test_each_table_has_a_name_of_its_own_for_every_column(columns: tuple[Column, ...]) -> None:
    names = [column.name for column in columns]

    assert len(names) == len(set(names))
    assert sum(column.kind == "text" for column in columns) <= 1


async def two_groups_with_a_long_name(bus: EventBus) -> None:
    await bus.publish_many(NAME, "shop", list(range(12_345)))
    for group in (GROUP, "billing"):
        await bus.store.join(NAME, group)
    (delivery,) = await bus.store.read(Reader(NAME, GROUP, "consumer-of-mail-1"), limit=1)
    await bus.store.dead_letter(delivery, reason=ERROR)


@pytest.mark.parametrize("width", [60, 80, 100, 140])
@pytest.mark.parametrize("command", [["groups"], ["streams"], ["dead", "ls"]], ids=" ".join)
def test_lists_fit_the_terminal_with_their_figures_whole(
    forebay: Forebay, command: list[str], width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    forebay.do(two_groups_with_a_long_name)
    monkeypatch.setattr(Forebay, "_environment", lambda _: {**os.environ, "TERM": "xterm", "COLUMNS": str(width)})

    ended = forebay.on_terminal(*command)

    lines = re.sub(r"\x1b\[[0-9;]*m", "", ended.out).splitlines()
    assert 0 == ended.code
    assert all(len(line) <= width for line in lines)
    assert any(figure in ended.out for figure in ("12,344", "12,345", "000000000001"))


def test_a_table_in_a_pipe_has_a_header_and_the_same_form_for_times_and_fractions(forebay: Forebay) -> None:
    forebay.do(two_groups_with_a_long_name)

    header, letter = forebay("dead", "ls").lines
    assert ["id", "type", "group", "failed", "attempts", "error"] == header
    assert letter[3].endswith("Z")
    assert letter[3] == json.loads(forebay("dead", "ls", "--json").out)[0]["failed_at"]
    assert ["stream", "group", "lag", "pending", "waiting", "oldest", "dead", "consumers"] == forebay("groups").lines[0]


def test_the_tables_of_one_command_are_separated_in_a_pipe(forebay: Forebay) -> None:
    forebay.do(two_groups_with_a_long_name)

    event, _, table_of_groups = forebay("get", NAME, "1").out.partition("\n\n")

    assert f"type\t{NAME}" in event
    assert "group\tstate\tattempt\tposition\tdetail" == table_of_groups.splitlines()[0]


@pytest.mark.parametrize("text", [HOSTILE, "\ud800", "\xa0", "a\u0000b", "\u2066x\u2069", "\u115f", "\u2800"])
def test_nothing_invisible_or_steering_is_printable(text: str) -> None:
    assert not is_printable(text)
    assert is_printable(printable(text))
    assert is_printable(as_json(text.encode(errors="replace").decode()))


@pytest.mark.parametrize("text", ["plain", "Zoë", "注文 12", "a[red]b", "naïve £5 → ok", "\\x1b"])
def test_visible_characters_stay_as_they_are(text: str) -> None:
    assert text == printable(text)


def test_foreign_names_in_the_store_reach_no_terminal_unescaped(forebay: Forebay) -> None:
    import apsw

    forebay.do(two_groups_with_a_long_name)
    file = apsw.Connection(str(forebay.folder / "events.db"))
    for change in (
        "UPDATE entries SET type = ?1, source = ?1, key = ?1 WHERE seq = 12345",
        "UPDATE groups SET name = ?1 WHERE name = 'billing'",
        "UPDATE dead SET error = ?1, group_name = ?1",
        "INSERT INTO streams (namespace, name) VALUES ('events', ?1)",
    ):
        file.execute(change, (HOSTILE,))
    file.close()

    for command in (
        ["groups"], ["streams"], ["dead", "ls"], ["dead", "export"], ["tail", NAME, "-n", "1", "--no-follow"],
        ["get", NAME, "12345"], ["groups", HOSTILE], ["pending", NAME, "x"], ["publish", HOSTILE], [HOSTILE],
        ["--" + HOSTILE], ["run", HOSTILE + ":bus"], ["agents", HOSTILE], ["migrate", "cutover", HOSTILE],
        ["streams", "--url", HOSTILE],
    ):  # fmt: skip
        for ended in (forebay.on_terminal(*command), forebay.piped(*command)):
            seen = re.sub(r"\x1b\[[0-9;]*m", "", ended.out + ended.err)
            assert not STEERING.search(seen), (command, seen)
            assert "Traceback" not in seen


def test_a_log_record_is_one_line_whatever_stands_in_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="forebay")

    logging.getLogger("forebay").warning("%s failed: %s", HOSTILE, ValueError(HOSTILE))

    (record,) = caplog.records
    assert is_printable(record.getMessage())


def test_every_line_in_the_log_of_a_run_is_escaped(forebay: Forebay) -> None:
    (forebay.folder / "loud.py").write_text(
        "import logging\nfrom forebay import connect\nbus = connect()\n"
        f"try:\n    raise ValueError({HOSTILE!r})\nexcept ValueError:\n"
        f"    logging.getLogger('somebody').exception({HOSTILE!r})\n"
        "bus.on('t', group='g')(print)\n"
    )

    ended = forebay.piped("run", "loud:bus", "--until-idle")

    assert 0 == ended.code, ended.err
    assert "Traceback" in ended.err
    assert not STEERING.search(ended.err)


ENCODINGS = [
    {"PYTHONIOENCODING": "latin-1"},
    {"PYTHONIOENCODING": "cp1252"},
    {"PYTHONIOENCODING": "ascii"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
]


@pytest.mark.parametrize("encoding", ENCODINGS, ids=lambda each: next(iter(each.values())))
def test_characters_that_the_encoding_lacks_are_escaped_and_json_stays_json(
    forebay: Forebay, encoding: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = {"name": "Zoë", "text": "注文 → 😀"}
    (id,) = forebay.do(lambda bus: bus.publish_many("uni", "laden-ö", [data], keys=["ключ"]))
    for name, value in encoding.items():
        monkeypatch.setenv(name, value)

    for command in (["tail", "uni", "--no-follow"], ["get", "uni", id], ["streams"], ["groups", "дела"]):
        ended = piped(forebay, *command)
        assert b"Traceback" not in ended.stderr, ended.stderr
        assert (ended.returncode == 0) == (command[0] != "groups")
    ended = piped(forebay, "tail", "uni", "--no-follow", "--json")
    text = ended.stdout.decode(encoding.get("PYTHONIOENCODING", "ascii"))
    assert (data, "ключ", "laden-ö") == tuple(json.loads(text)[name] for name in ("data", "key", "source"))
    assert data == json.loads(piped(forebay, "tail", "uni", "--no-follow").stdout.decode("latin-1").split("\t")[-1])


def test_arguments_and_stdin_are_utf_8_in_the_c_locale(forebay: Forebay, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENCODINGS[-1].items():
        monkeypatch.setenv(name, value)

    assert 0 == piped(forebay, "publish", "uni", '{"name":"Zoë"}', "--key", "ключ").returncode
    assert 0 == piped(forebay, "publish", "uni", "-", stdin='{"name":"Zoë"}\n'.encode()).returncode

    events = [json.loads(line) for line in piped(forebay, "tail", "uni", "--no-follow", "--json").stdout.splitlines()]
    assert [{"name": "Zoë"}] * 2 == [event["data"] for event in events]
    assert ["ключ", None] == [event["key"] for event in events]


def piped(forebay: Forebay, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "forebay", *map(os.fsencode, arguments)],
        cwd=forebay.folder,
        env={**os.environ, "FOREBAY_URL": forebay.url},
        input=stdin,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
