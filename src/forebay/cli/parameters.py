"""What options may be given: lengths of time, times, places in a stream, rates."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from forebay.positions import StreamPosition, is_position

__all__ = ["Duration", "Moment", "ParamType", "PositionType", "Rate"]

if TYPE_CHECKING:
    from click import ParamType
else:

    class ParamType(click.ParamType):
        """click's own, which may be given its type only from 8.4 on."""

        def __class_getitem__(cls, kind: object) -> type:
            return cls


_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_PART = r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)"


class Duration(ParamType[float]):
    """A length of time, as seconds: 30s, 10m, 1h30m, 2d; a bare number is in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The seconds in `value`."""
        if isinstance(value, float):
            return value
        if re.fullmatch(r"\d+(\.\d+)?", value):
            return float(value)
        if not re.fullmatch(f"({_PART})+", value):
            self.fail(f"{value!r} is not a length of time; write e.g. 30s, 10m, 1h30m or 2d", param, ctx)
        return sum(float(number) * _UNITS[unit] for number, unit in re.findall(_PART, value))


class Moment(ParamType[datetime]):
    """A time: ISO 8601, or how long ago. Without a zone it is in that of this machine."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """The time in `value`, aware."""
        if isinstance(value, datetime):
            return value
        try:
            if re.fullmatch(f"({_PART})+", value):
                return datetime.now(UTC) - timedelta(seconds=Duration().convert(value, param, ctx))
            return datetime.fromisoformat(value).astimezone()
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is not a time; write e.g. 2026-01-31T12:00:00Z, or 1h for an hour ago", param, ctx)


class PositionType(ParamType[StreamPosition]):
    """A position in a stream: earliest, latest, a position, or a time."""

    name = "position"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> StreamPosition:
        """The position that `value` names."""
        if isinstance(value, datetime) or value in ("earliest", "latest") or is_position(value):
            position: StreamPosition = value
            return position
        try:
            return Moment().convert(value, param, ctx)
        except click.BadParameter:
            self.fail(
                f"{value!r} is not a position in a stream; write that of an event, earliest, latest, or a time",
                param,
                ctx,
            )


class Rate(ParamType[float]):
    """Events a second: 100 or 100/s."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number in `value`."""
        if isinstance(value, float):
            return value
        if not re.fullmatch(r"\d+(\.\d+)?(/s)?", value) or not (rate := float(value.removesuffix("/s"))):
            self.fail(f"{value!r} is not a rate; write events a second, e.g. 100 or 0.5/s", param, ctx)
        return rate
