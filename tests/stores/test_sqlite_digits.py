"""A time keeps all its digits on its way out of a SQLite file: scheduled events are found by it."""

from __future__ import annotations

import apsw
import msgspec

TIMES = [24266.178980000003, 1 / 3, 1_800_000_000.0000002, 86_399.99999999999]


def test_a_number_keeps_all_its_digits_in_the_json_of_a_query() -> None:
    connection = apsw.Connection(":memory:")

    texts = [connection.execute("SELECT json_array(?)", (time,)).get for time in TIMES]

    assert TIMES == [msgspec.json.decode(text)[0] for text in texts]
