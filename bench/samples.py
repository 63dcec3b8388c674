"""Samples the calls of each thread of a subject, some hundred times a second, during the measured code.

A timer of the kernel interrupts the thread itself, and a handler in C writes down its calls. So a sample shows
the thread as it is, working or waiting, with or without the interpreter's lock. A profiler that stops the process from
outside, such as py-spy, gives wrong figures here: it finds a thread at its system calls up to ten times too often, and
the server and the disk catch up while the process is stopped.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

FOLDER = "FOREBAY_BENCH_SAMPLES"
"""The variable of the environment that names the folder for samples; without it none are taken."""
INTERVAL = 0.004
"""Seconds between two samples of a thread."""
THREADS = "MainThread", "forebay-sqlite-writer"
"""Those that work. One that only waits would be woken for each sample, and want the interpreter's lock."""

_TO_THREAD = 4  # SIGEV_THREAD_ID, which Python has no name for


class _Event(ctypes.Structure):
    _fields_ = (
        ("value", ctypes.c_void_p),
        ("signal", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("thread", ctypes.c_int),
        ("rest", ctypes.c_byte * 44),
    )


class _Interval(ctypes.Structure):
    _fields_ = (
        ("seconds", ctypes.c_long),
        ("nanoseconds", ctypes.c_long),
        ("first_seconds", ctypes.c_long),
        ("first_nanoseconds", ctypes.c_long),
    )


@contextlib.contextmanager
def sampled() -> Iterator[None]:
    """Take samples during the measured code, if the environment asks for it.

    They go to a file for each thread, as `faulthandler` writes them: at once, so that they are there even if the
    process crashes. Python 3.11 and 3.12 crash at one of some thousand samples, if it falls between two
    instructions that make the interpreter's list of calls.
    """
    folder = os.environ.get(FOLDER)
    if not folder:
        yield
        return
    threads = [thread for thread in threading.enumerate() if thread.name in THREADS]
    with contextlib.ExitStack() as stack:
        for number, thread in enumerate(threads):
            file = stack.enter_context(Path(folder, f"{thread.name}.txt").open("a"))
            # Not all at once: while one thread is written down, the handler leaves out another one.
            stack.enter_context(_watching(thread, signal.SIGRTMIN + 1 + number, file.fileno(), number / len(threads)))
        yield


@contextlib.contextmanager
def _watching(thread: threading.Thread, number: int, file: int, phase: float) -> Iterator[None]:
    # The handler restores `errno` only if it passes the signal on.
    signal.signal(number, signal.SIG_IGN)
    faulthandler.register(number, file, all_threads=False, chain=True)
    libc = ctypes.CDLL(None, use_errno=True)
    event = _Event(signal=number, notify=_TO_THREAD, thread=thread.native_id)
    timer = ctypes.c_void_p()
    if libc.timer_create(time.CLOCK_MONOTONIC, ctypes.byref(event), ctypes.byref(timer)):
        raise OSError(ctypes.get_errno(), "no timer for samples")
    pause = round(INTERVAL * 1e9)
    libc.timer_settime(timer, 0, ctypes.byref(_Interval(0, pause, 0, round(pause * (1 + phase)))), None)
    try:
        yield
    finally:
        libc.timer_delete(timer)
        faulthandler.unregister(number)
