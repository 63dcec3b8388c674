"""The profiles of the benchmark say where the time goes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

from bench.harness import Findings
from bench.profiles import ELSE, LOOP, PARTS, WAITING, WRITER, Call, Part, Profile, part_of, proof, section, stacks
from bench.rows import Figure, Row, Subject
from bench.samples import FOLDER

from forebay import event

EVENT, ASYNCIO = (next(part for part in PARTS if part.name.startswith(name)) for name in ("the event", "asyncio"))
OURS = Figure(Subject("ours", "bench.subjects.forebay_bus", "publish", "redis"))
BARE = Figure(Subject("bare", "bench.subjects.bare_redis", "coalesced", "redis"))
ROW = Row("publish", OURS, BARE, least=0.5)
FOUND = Findings({OURS.subject: [100_000.0], BARE.subject: [250_000.0]})


def profile(loop: dict[Part, int], writer: dict[Part, int] | None = None) -> Profile:
    return Profile({LOOP: loop} if writer is None else {LOOP: loop, WRITER: writer})


def test_a_sample_is_its_calls_innermost_first() -> None:
    samples = (
        "Current thread 0x00007f (most recent call first):\n"
        '  File "/a.py", line 3 in inner\n  File "/b.py", line 9 in outer\n'
        "Thread 0x00007f (most recent call first):\n  <no Python frame>\n"
        'Current thread 0x00007f (most recent call first):\n  File "/c.py", line 1 in <genexpr>\n  File "/b.p'
    )

    assert [[Call("/a.py", 3, "inner"), Call("/b.py", 9, "outer")], [Call("/c.py", 1, "<genexpr>")]] == stacks(samples)


def test_a_sample_counts_for_the_innermost_call_that_is_in_a_part() -> None:
    library = Call("/lib/json/encoder.py", 1, "encode")
    ours = Call(event.__file__, 1, "to_record")
    loop = Call(asyncio.events.__file__, 1, "_run")

    assert EVENT == part_of([library, ours, loop])
    assert ASYNCIO == part_of([library, loop, ours])
    assert ELSE == part_of([library])


def test_the_time_of_an_event_is_spread_like_the_samples() -> None:
    profiles = {OURS: profile({EVENT: 300, ELSE: 100}), BARE: profile({WAITING: 50, ASYNCIO: 150})}

    lines = section(ROW, FOUND, profiles).splitlines()

    assert "| µs | forebay | bare |" in lines
    assert f"| *{EVENT.name}* | 7.50 |  |" in lines
    assert f"| *{ASYNCIO.name}* |  | 3.00 |" in lines
    assert f"| {ELSE.name} | 2.50 |  |" in lines
    assert "| all | 10.00 | 4.00 |" in lines


def test_a_target_below_what_is_needed_is_out_of_reach() -> None:
    assert "take 9.00 µs: more than that" in proof(ROW, FOUND, {OURS: profile({EVENT: 9, ELSE: 1})})


def test_two_threads_that_wait_for_each_other_need_the_sum() -> None:
    said = proof(ROW, FOUND, {OURS: profile({EVENT: 5, WAITING: 5}, {EVENT: 4, WAITING: 6})})

    assert "take 9.00 µs on both threads" in said
    assert "more than that" in said


def test_a_target_above_what_is_needed_says_what_the_others_may_take() -> None:
    said = proof(ROW, FOUND, {OURS: profile({EVENT: 6, ELSE: 3, WAITING: 1})})

    assert "take 6.00 µs. The others take 3.00 µs, and 1.00 µs pass in waiting" in said
    assert said.endswith("would have to make do with 2.00 µs.")


def test_handling_is_bound_by_the_busier_thread() -> None:
    row = Row("handle", Figure(Subject("ours", OURS.subject.module, "handle", "sqlite")), BARE, least=0.5)
    found = Findings({row.figure.subject: [100_000.0], BARE.subject: [250_000.0]})

    said = proof(row, found, {row.figure: profile({EVENT: 5, WAITING: 5}, {EVENT: 4, ELSE: 3, WAITING: 3})})

    assert "take 4.00 µs on the writer" in said
    assert "The others take 3.00 µs, and 3.00 µs pass in waiting" in said


def test_only_the_measured_code_is_sampled(tmp_path: Path) -> None:
    program = (
        "import time\n"
        "from bench.samples import sampled\n"
        "def before(): time.sleep(0.1)\n"
        "def within(): time.sleep(0.1)\n"
        "before()\n"
        "with sampled(): within()\n"
        "before()\n"
    )
    root = Path(__file__).parents[1]

    subprocess.run([sys.executable, "-c", program], cwd=root, env={FOLDER: str(tmp_path)}, check=True, timeout=60)

    found = stacks((tmp_path / f"{LOOP}.txt").read_text())
    functions = {call.function for calls in found for call in calls}
    assert "within" in functions
    assert "before" not in functions
