"""What options take, what conditions mean, and how figures read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import click
import msgspec
import pytest

from forebay import Event
from forebay.cli.parameters import Duration, Moment, PositionType, Rate
from forebay.cli.text import as_indented_json, as_json, span
from forebay.cli.where import Where
from forebay.printable import printable

EVENT = Event(
    id="e1",
    type="order_placed",
    source="shop",
    data={"order": {"id": 7, "paid": True, "tags": ["new", "x"]}, "note": "7"},
    timestamp=datetime(2026, 1, 31, tzinfo=UTC),
    key="customer-7",
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("10m", 600), ("1h30m", 5400), ("2d", 172_800), ("1w", 604_800), ("250ms", 0.25), ("1.5", 1.5)],
)
def test_a_length_of_time_is_a_number_with_a_unit_or_of_seconds(text: str, seconds: float) -> None:
    assert seconds == Duration().convert(text, None, None)


@pytest.mark.parametrize("text", ["", "h", "-1h", "1 h", "1y", "1h x", "nan"])
def test_a_wrong_duration_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        Duration().convert(text, None, None)


def test_a_time_is_iso_8601_or_so_long_ago() -> None:
    hour_ago = Moment().convert("1h", None, None)

    assert abs(datetime.now(UTC) - timedelta(hours=1) - hour_ago) < timedelta(seconds=5)
    assert datetime(2026, 1, 31, 11, tzinfo=UTC) == Moment().convert("2026-01-31T12:00:00+01:00", None, None)


def test_a_time_without_a_zone_is_in_that_of_the_machine() -> None:
    assert datetime(2026, 1, 31, 12).astimezone() == Moment().convert("2026-01-31T12:00", None, None)


@pytest.mark.parametrize("text", ["yesterday", "99999999999d", "2026-13-01", ""])
def test_a_wrong_time_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        Moment().convert(text, None, None)


@pytest.mark.parametrize("text", ["earliest", "latest", "17", "1795484086818-1"])
def test_a_place_is_a_word_or_a_position(text: str) -> None:
    assert text == PositionType().convert(text, None, None)


def test_a_position_may_be_a_time_and_digits_alone_are_not_one() -> None:
    assert datetime(2026, 1, 31, tzinfo=UTC) == PositionType().convert("2026-01-31T00:00Z", None, None)
    assert "20260131" == PositionType().convert("20260131", None, None)


@pytest.mark.parametrize(("text", "rate"), [("100", 100), ("0.5/s", 0.5)])
def test_a_rate_is_events_a_second(text: str, rate: float) -> None:
    assert rate == Rate().convert(text, None, None)


@pytest.mark.parametrize("text", ["0", "0/s", "-1", "100/m"])
def test_a_wrong_rate_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        Rate().convert(text, None, None)


@pytest.mark.parametrize(
    "text",
    [
        "data.order.id=7",
        "data.order.paid=true",
        "data.order.tags.0=new",
        'data.order.tags=["new","x"]',
        "data.note=7",
        "key=customer-7",
        "source=shop",
    ],
)
def test_a_condition_compares_as_json_or_as_a_string(text: str) -> None:
    assert Where().convert(text, None, None).holds(EVENT)


@pytest.mark.parametrize(
    "text",
    ["data.order.id=8", "data.order.paid=1", "data.order.tags.2=x", "data.order.id.deeper=7", "data.nothing=7", "key="],
)
def test_a_condition_does_not_hold_where_the_value_differs_or_the_path_leads_nowhere(text: str) -> None:
    assert not Where().convert(text, None, None).holds(EVENT)


@pytest.mark.parametrize("text", ["order.id=7", "data.order.id", "=7"])
def test_a_wrong_condition_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match=r"data\.order_id=1"):
        Where().convert(text, None, None)


HOSTILE = "a\x1b]52;c;aGk=\x07\x9b31m\u202e\n\U000e0001"


def test_text_from_outside_cannot_steer_a_terminal_nor_leave_its_line() -> None:
    assert printable(HOSTILE).isprintable()
    assert "plain ü" == printable("plain ü")


def test_json_says_the_same_when_it_is_made_harmless() -> None:
    value = {"text": HOSTILE, HOSTILE: [1, 2.5, None, 2**70, "ü"]}

    assert as_json(value).isprintable()
    assert value == msgspec.json.decode(as_json(value))
    assert value == msgspec.json.decode(as_indented_json(value))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.004, "4 ms"), (3.24, "3.2 s"), (119, "119 s"), (121, "2 min"), (7199, "119 min"), (7200, "2 h"), (-5, "-5 s")],
)
def test_a_length_of_time_reads_in_its_largest_unit(seconds: float, text: str) -> None:
    assert text == span(seconds)
