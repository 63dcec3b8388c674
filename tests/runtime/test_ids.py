from __future__ import annotations

import subprocess
import sys
import uuid
from datetime import UTC, datetime

from forebay import EventBus
from forebay.event import id_timestamp, new_id, parse_time, to_record

FORK = """
import os
from forebay.event import new_id
new_id()
if os.fork() == 0:
    print(new_id(), flush=True)
    os._exit(0)
os.wait()
print(new_id())
"""


def test_an_id_is_a_uuid_of_version_7_with_its_moment() -> None:
    ids = [new_id(1_795_000_000.123) for _ in range(1000)]

    assert 1000 == len(set(ids))
    for id in ids:
        assert id == str(uuid.UUID(id))
        assert (7, uuid.RFC_4122) == (uuid.UUID(id).version, uuid.UUID(id).variant)
        assert datetime.fromtimestamp(1_795_000_000.123, UTC) == id_timestamp(id)


async def test_an_id_from_beyond_the_calendar_is_one_of_another_kind() -> None:
    far = "ffffffff-ffff-7fff-bfff-ffffffffffff"

    async with EventBus("memory://") as bus:
        await bus.publish("t", source="s", id=far)

        assert far == (await bus.get("t", far)).id
    assert id_timestamp(far) is None


def test_a_forked_process_makes_ids_of_its_own() -> None:
    ids = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, check=True).stdout.split()

    assert 2 == len({id[14:] for id in ids})


def test_the_time_in_words_is_now() -> None:
    before = datetime.now(UTC)
    told = parse_time(to_record("t", source="s", data=1).timestamp)
    after = datetime.now(UTC)

    assert before <= told <= after
