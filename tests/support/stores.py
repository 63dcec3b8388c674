"""The stores that this machine has, as parameters of tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tests.support.redis_servers import binaries, version

SERVERS: list[Any] = [
    pytest.param(binary, marks=[pytest.mark.slow] if number else []) for number, binary in enumerate(binaries())
]
"""The servers present: on the others than the first the contract suite runs, and `make slow`."""


def store_name(param: str) -> str:
    return param if "/" not in param else version(param)


def dealt(name: str, *values: Any, ids: Sequence[str] | None = None) -> pytest.MarkDecorator:
    """Parametrize `bus` and `name` together: each store and each value is met, in as few tests as that takes."""
    stores = ["memory", "sqlite", binaries()[0]]
    count = max(len(stores), len(values))
    names = ids or [str(value) for value in values]
    hands = [(stores[each % len(stores)], values[each % len(values)]) for each in range(count)]
    return pytest.mark.parametrize(
        ("bus", name),
        hands,
        indirect=["bus"],
        ids=[f"{store_name(store)}-{names[each % len(values)]}" for each, (store, _) in enumerate(hands)],
    )


def url_of(request: pytest.FixtureRequest) -> str:
    """The URL of the store that a parameter names: "sqlite", or a server's binary."""
    if request.param == "sqlite":
        return str(request.getfixturevalue("sqlite_url"))
    return str(request.getfixturevalue("servers")[request.param].url)
