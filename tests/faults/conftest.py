"""The stores of these tests: SQLite and one server; with `-m ''` all servers."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conftest import _durable, _name
from tests.stores.redis_servers import binaries

SERVERS: list[Any] = [
    pytest.param(binary, marks=[pytest.mark.slow] if number else []) for number, binary in enumerate(binaries())
]


@pytest.fixture(params=["sqlite", *SERVERS], ids=_name)
def durable_url(request: pytest.FixtureRequest) -> str:
    """A store that several processes share."""
    return _durable(request)
