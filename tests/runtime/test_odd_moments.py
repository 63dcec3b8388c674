"""A wrong moment or URL is refused with a typed error before anything is done."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import pytest

from forebay import ConfigurationError, connect


class Zoneless(tzinfo):
    """A zone without an offset for any time."""

    def utcoffset(self, _: datetime | None) -> timedelta | None:
        return None

    dst = utcoffset

    def tzname(self, _: datetime | None) -> str | None:
        return None


@pytest.mark.parametrize(
    "at",
    [
        5,
        1.5,
        "2026-01-01",
        date(2026, 1, 1),
        datetime.now(UTC).replace(tzinfo=None),
        datetime(2026, 1, 1, tzinfo=Zoneless()),
    ],
)
async def test_at_takes_nothing_but_an_aware_datetime(at: Any) -> None:
    async with connect("memory://") as bus:
        with pytest.raises(ConfigurationError, match=r"aware datetime"):
            await bus.publish("t", source="s", at=at)
        with pytest.raises(ConfigurationError, match=r"aware datetime"):
            await bus.publish_many("t", source="s", data=[1], at=at)
        with pytest.raises(ConfigurationError, match=r"datetime"):
            await anext(bus.events("t", start=at), None)
        assert [] == await bus.stats()


@pytest.mark.parametrize("at", [datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)])
async def test_the_first_and_the_last_moment_are_moments(at: datetime) -> None:
    async with connect("memory://") as bus:
        await bus.publish("t", source="s", at=at)


@pytest.mark.parametrize("url", ["", Path("events.db"), b"memory://", 5])
def test_connect_refuses_a_wrong_url(url: Any) -> None:
    with pytest.raises(ConfigurationError, match="URL"):
        connect(url)
