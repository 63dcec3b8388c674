"""Types of options: lengths of time, times, positions in a stream, rates."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from forebay.errors import ConfigurationError
from forebay.positions import StreamPosition, check_position
from forebay.store import Log

__all__ = ["Duration", "Moment", "ParamType", "PositionType", "Rate", "check_positions"]

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
    """A position in a stream: earliest, latest, a position, or a time.

    Only a store knows its positions: `check_positions` refuses other texts.
    """

    name = "position"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> StreamPosition:
        """The position that `value` names."""
        # ISO 8601 has times of digits alone, such as 20260131: here they are a position.
        if isinstance(value, datetime) or value in ("earliest", "latest") or value.isdecimal():
            position: StreamPosition = value
            return position
        try:
            return Moment().convert(value, param, ctx)
        except click.BadParameter:
            return str(value)


def check_positions(context: click.Context, store: Log) -> None:
    """Refuse arguments and options of a command that are not positions of this store."""
    for parameter in context.command.params:
        if isinstance(parameter.type, PositionType) and (value := context.params[parameter.name]) is not None:
            try:
                check_position(value, store)
            except ConfigurationError as error:
                raise click.BadParameter(str(error), context, parameter) from error


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
