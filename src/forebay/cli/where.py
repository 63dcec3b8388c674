"""Conditions on events, as `--where data.order.id=7` gives them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import click
import msgspec

from forebay import Event
from forebay.cli.parameters import ParamType

_INDEX = re.compile(r"[0-9]{1,18}")
FIELDS = ("id", "type", "source", "key", "data", "headers")

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Condition:
    """What stands at `path` is `text`, read as JSON or taken as it is. A number in a path counts in an array."""

    path: tuple[str, ...]
    text: str

    def holds(self, event: Event) -> bool:
        """Whether the event fulfils it. A path that leads nowhere does not."""
        found: Any = getattr(event, self.path[0])
        for step in self.path[1:]:
            if isinstance(found, list) and _INDEX.fullmatch(step) and int(step) < len(found):
                found = found[int(step)]
            elif isinstance(found, dict) and step in found:
                found = found[step]
            else:
                return False
        if found == self.text:
            return True
        try:
            wanted = msgspec.json.decode(self.text)
        except ValueError:
            return False
        # To Python True is 1; in JSON they differ.
        return bool(found == wanted) and isinstance(found, bool) == isinstance(wanted, bool)


class Where(ParamType[Condition]):
    """PATH=VALUE, the path beginning with a field of the event."""

    name = "path=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Condition:
        """The condition in `value`."""
        if isinstance(value, Condition):
            return value
        path, equals, text = value.partition("=")
        steps = tuple(path.split("."))
        if not equals or steps[0] not in FIELDS:
            self.fail(
                f"{value!r} is not a condition; write PATH=VALUE with a path that begins with {', '.join(FIELDS)}, "
                "e.g. data.order_id=1",
                param,
                ctx,
            )
        return Condition(steps, text)


def all_hold(conditions: Sequence[Condition], event: Event) -> bool:
    """Whether the event fulfils all conditions."""
    return all(condition.holds(event) for condition in conditions)


def where_option(command: Decorated) -> Decorated:
    """`--where`, any number of times."""
    return click.option(
        "--where",
        "conditions",
        type=Where(),
        multiple=True,
        metavar="PATH=VALUE",
        help="Only events with this value there, e.g. data.order_id=1. Repeatable: all must hold.",
    )(command)
