"""Agents on the command line: running them, in one process and several, and seeing how they are."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from forebay import EventBus
from forebay.agents import Heartbeat
from forebay.agents.heartbeat import Members
from tests.support.command import PATIENCE, Forebay

AGENTS = """
import os
from forebay import Event, Retry
from forebay.agents import BaseAgent, handles

class Team(BaseAgent):
    heartbeat = 0.2

class Billing(Team):
    name = "billing"

    @handles("order_placed", retry=Retry(attempts=1), concurrency=1)
    async def bill(self, event: Event) -> None:
        if event.data["order_id"] == 13:
            raise ValueError("no price for order 13")
        if event.data["order_id"] == 66 and event.attempt == 1:
            os._exit(66)
        await self.publish("order_billed", {"order_id": event.data["order_id"], "by": os.getpid()})

class Mail(Team):
    name = "mail"
    event_types = ("order_billed",)

    async def process_event(self, event_type, data) -> None:
        await self.publish("mail_sent", data)

class Watcher(BaseAgent):
    event_types = ("file_created",)

    def __init__(self, folder):
        self.name = f"watcher-{folder}"

watcher = Watcher("inbox")
"""

STUBBORN = """
import asyncio
from forebay.agents import BaseAgent

class Stubborn(BaseAgent):
    name = "stubborn"
    heartbeat = 0.2

    async def draining(self) -> None:
        await asyncio.Event().wait()
"""


@pytest.fixture(autouse=True)
def module(forebay: Forebay) -> None:
    (forebay.folder / "agents.py").write_text(AGENTS)
    forebay.make()


def eventually(condition: Callable[[], object], message: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, message
        time.sleep(0.05)


def status(forebay: Forebay) -> dict[str, dict[str, object]]:
    return {row["agent"]: row for row in json.loads(forebay("agents", "status", "--json").out)}


def members(forebay: Forebay) -> int:
    """How many processes have run the billing agent."""
    return sum(beat.heartbeat.agent == "billing" for beat in forebay.do(lambda bus: Members(bus).last_heartbeats()))


def count(forebay: Forebay, type: str) -> int:
    async def length(bus: EventBus) -> int:
        return sum(stats.length for stats in await bus.stats(type))

    return forebay.do(length)


def test_agents_of_a_module_run_until_all_is_handled(forebay: Forebay) -> None:
    forebay.publish(1, 2, 13)

    ended = forebay.piped("agents", "agents", "--until-idle")

    assert 0 == ended.code, ended.err
    assert "running watcher-inbox, billing, mail on sqlite:///" in ended.err
    assert "no price for order 13" in ended.err
    assert 2 == count(forebay, "mail_sent")
    found = status(forebay)
    assert ["billing", "mail", "watcher-inbox"] == sorted(found)
    assert ("stopped", 0, 1, "ValueError: no price for order 13") == tuple(
        found["billing"][name] for name in ("status", "members", "dead", "last_error")
    )


def test_get_shows_the_consequences_of_an_event_as_a_tree(forebay: Forebay) -> None:
    [first] = forebay.publish(1)
    assert 0 == forebay.piped("agents", "--until-idle", "agents:Billing", "agents:Mail").code

    shown = forebay.on_terminal("get", "order_placed", first).out
    [billed] = [line for line in shown.splitlines() if "order_billed" in line]
    [sent] = [line for line in shown.splitlines() if "mail_sent" in line]
    chain = json.loads(forebay("get", "order_placed", first, "--json").out)["chain"]
    from_below = json.loads(forebay("get", "mail_sent", chain[2]["id"], "--json").out)["chain"]

    assert f"order_placed  {first}  from shop  <- this one" in shown
    assert billed.startswith("└─ order_billed")
    assert billed.endswith("from billing")
    assert sent.startswith("   └─ mail_sent")
    assert [None, first, chain[1]["id"]] == [link["causation_id"] for link in chain]
    assert chain == from_below


def test_a_chain_of_thousands_of_events_is_drawn_within_the_screen(forebay: Forebay) -> None:
    async def answer_each_other(bus: EventBus) -> str:
        first = cause = await bus.publish("asked", "one")
        for _ in range(50):
            headers = {"correlation_id": first, "causation_id": cause}
            ids = [f"{cause}-{number}" for number in range(100)]
            for number in range(0, 100, 50):
                await bus.publish_many("answered", "two", [None] * 50, ids=ids[number : number + 50], headers=headers)
            cause = ids[-1]
            if len(cause) > 150:
                cause = await bus.publish("asked", "one", headers={**headers, "causation_id": cause})
        return first

    first = forebay.do(answer_each_other)
    shown = [line for line in forebay.on_terminal("get", "asked", first).out.splitlines() if "  from " in line]

    assert len(shown) > 5000
    assert max(line.index("─ ") for line in shown[1:]) < 60


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["nothing"], "no module 'nothing'"),
        (["nothing.at:All"], "no module 'nothing'"),
        (["agents:Nobody"], "has no 'Nobody'; there are agents:watcher-inbox, agents:Billing, agents:Mail"),
        (["agents:os"], "is not an agent"),
        (["agents:"], "write MODULE:CLASS"),
        (["app"], "defines no agents"),
        (["agents:Watcher"], "cannot be made without arguments"),
        (["agents:Team"], "agent name '' is not a name"),
        (["broken"], "no module 'broken'"),
        ([".agents"], "'.agents' is not the name of a module"),
        (["careless"], "unknown option 'concurency'; did you mean 'concurrency'?"),
    ],
)
def test_a_name_that_leads_to_no_agent_is_refused_in_one_line(forebay: Forebay, names: list[str], message: str) -> None:
    (forebay.folder / "careless.py").write_text("from forebay.agents import handles\nhandles('a', concurency=2)\n")

    ended = forebay.piped("agents", *names)

    assert 1 == ended.code
    assert message in ended.err
    assert 1 == len(ended.err.splitlines())
    assert ended.err.count("is not the name of a module") == message.count("is not the name of a module")


def test_an_error_in_the_users_module_is_shown_with_its_place(forebay: Forebay) -> None:
    (forebay.folder / "careless.py").write_text("int('one')\n")

    ended = forebay.piped("agents", "careless")

    assert 1 == ended.code
    assert 'careless.py", line 1' in ended.err
    assert "is not the name of a module" not in ended.err


def test_two_agents_of_one_name_and_different_code_are_refused(forebay: Forebay) -> None:
    (forebay.folder / "others.py").write_text(AGENTS)

    ended = forebay.piped("agents", "agents:Billing", "others:Billing")

    assert (1, "forebay: two agents are named 'billing': agents:Billing and others:Billing; rename one\n") == (
        ended.code, ended.err,
    )  # fmt: skip


def test_several_processes_share_the_events_and_one_that_dies_is_started_again(forebay: Forebay) -> None:
    with forebay.process("agents", "agents:Billing", "agents:Mail", "--processes", "2") as supervisor:
        eventually(lambda: status(forebay).get("billing", {}).get("members") == 2, "two processes do not come up")
        forebay.publish(*range(20), 66)
        eventually(lambda: members(forebay) == 3, "the one that died is not started again")
        supervisor.send_signal(signal.SIGTERM)
        _, err = supervisor.communicate(timeout=PATIENCE)

    assert 0 == supervisor.returncode, err
    assert "ended with code 66; started again in" in err
    assert "stopped" == status(forebay)["billing"]["status"]


def test_processes_end_with_their_supervisor_even_if_that_is_killed(forebay: Forebay) -> None:
    with forebay.process("agents", "agents:Billing", "--processes", "2") as supervisor:
        eventually(lambda: status(forebay).get("billing", {}).get("members") == 2, "two processes do not come up")
        supervisor.kill()

        eventually(lambda: status(forebay)["billing"]["status"] == "stopped", "the processes live on")


def test_a_second_signal_ends_all_processes_at_once(forebay: Forebay) -> None:
    (forebay.folder / "stubborn.py").write_text(STUBBORN)
    command = ("agents", "stubborn", "--processes", "2", "--grace", "1h")
    with forebay.process(*command) as supervisor:
        eventually(lambda: status(forebay).get("stubborn", {}).get("members") == 2, "two processes do not come up")
        processes = {beat.heartbeat.pid for beat in forebay.do(lambda bus: Members(bus).last_heartbeats())}
        supervisor.send_signal(signal.SIGTERM)
        eventually(lambda: status(forebay)["stubborn"]["status"] == "draining", "they do not drain")
        supervisor.send_signal(signal.SIGTERM)
        supervisor.communicate(timeout=PATIENCE)

    assert 130 == supervisor.returncode
    assert [] == [pid for pid in processes if Path(f"/proc/{pid}").exists()]


def test_the_number_of_processes_in_the_environment_is_that_of_one_supervisor(
    forebay: Forebay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOREBAY_AGENTS_RUN_PROCESSES", "2")
    monkeypatch.setenv("FOREBAY_AGENTS_RUN_GRACE", "5")

    with forebay.process("agents", "agents:Billing", "--grace", "0.00001") as supervisor:
        eventually(lambda: status(forebay).get("billing", {}).get("members") == 2, "two processes do not come up")
        supervisor.send_signal(signal.SIGTERM)
        _, err = supervisor.communicate(timeout=PATIENCE)

    assert 0 == supervisor.returncode
    assert 1 == err.count("in 2 processes")
    assert 2 == members(forebay)


def test_a_stream_that_cannot_close_is_not_used_as_a_parent(forebay: Forebay) -> None:
    with forebay.process("agents", "agents:Billing", "--attached", stdin=subprocess.DEVNULL) as process:
        _, err = process.communicate(timeout=PATIENCE)

    assert (1, "forebay: --attached needs a pipe or a socket for stdin, whose other end may close\n") == (
        process.returncode, err,
    )  # fmt: skip


def test_ctrl_c_drains(forebay: Forebay) -> None:
    with forebay.process("agents", "agents:Billing") as process:
        eventually(lambda: status(forebay).get("billing", {}).get("status") == "started", "it does not start")
        os.kill(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE)

    assert 0 == process.returncode, err
    assert "agent billing: draining" in err


def test_a_silent_agent_is_reported(forebay: Forebay) -> None:
    old = datetime.now(UTC) - timedelta(hours=1)
    beat = Heartbeat(
        agent="billing", member="billing-1", code="agents:Billing", status="started", since=old, every=0.05
    )
    forebay.do(lambda bus: Members(bus).put(beat))
    eventually(lambda: status(forebay)["billing"]["status"] == "silent", "it does not count as silent")

    ended = forebay("agents", "status", "--check")

    assert 1 == ended.code
    assert "billing is silent, its last heartbeat came" in ended.err
    assert 0 == forebay("agents", "status").code


def test_agents_without_a_name_show_how_they_are_called(forebay: Forebay) -> None:
    ended = forebay("agents")

    assert "forebay agents [run] MODULE[:NAME]... | status" in ended.out + ended.err
