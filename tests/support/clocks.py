"""Wall clocks that a test sets, for processes of their own; monotonic clocks stay true."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

import pytest

_SHIFT = """
#define _GNU_SOURCE
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile double *shift;
static double none = 0;

static void find(void) {
  const char *path = getenv("SHIFT_FILE");
  int file = path ? open(path, O_RDONLY) : -1;
  void *found = file >= 0 ? mmap(0, 8, PROT_READ, MAP_SHARED, file, 0) : MAP_FAILED;
  if (file >= 0) close(file);
  shift = found == MAP_FAILED ? &none : found;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
  int failed = syscall(SYS_clock_gettime, clock, time);
  if (failed || (clock != CLOCK_REALTIME && clock != CLOCK_REALTIME_COARSE)) return failed;
  if (!shift) find();
  double moment = *shift;
  time->tv_sec += (long)floor(moment);
  time->tv_nsec += (long)((moment - floor(moment)) * 1e9);
  if (time->tv_nsec >= 1000000000) { time->tv_nsec -= 1000000000; time->tv_sec++; }
  return 0;
}

int gettimeofday(struct timeval *now, void *zone) {
  struct timespec time;
  clock_gettime(CLOCK_REALTIME, &time);
  if (now) { now->tv_sec = time.tv_sec; now->tv_usec = time.tv_nsec / 1000; }
  return 0;
}

time_t time(time_t *out) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (out) *out = now.tv_sec;
  return now.tv_sec;
}
"""


class WallClock:
    """The wall clock of those processes that are started with its `environment`."""

    def __init__(self, folder: Path, shift: float = 0.0) -> None:
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None or os.uname().sysname != "Linux":
            pytest.skip("a shifted wall clock needs Linux and a C compiler")
        library = folder / "shift.so"
        if not library.exists():
            (folder / "shift.c").write_text(_SHIFT)
            subprocess.run([compiler, "-shared", "-fPIC", "-o", library, folder / "shift.c", "-lm"], check=True)
        self._file = Path(tempfile.mkstemp(dir=folder)[1])
        self._file.write_bytes(struct.pack("d", shift))
        self.environment = {**os.environ, "LD_PRELOAD": str(library), "SHIFT_FILE": str(self._file)}

    def shift(self, seconds: float) -> None:
        """Let the clock be so many seconds ahead of the true time from now on."""
        with self._file.open("r+b") as file:
            file.write(struct.pack("d", seconds))


class SetClock:
    """A clock that tests set."""

    def __init__(self, now: float = 1000.0, wall: float = 1_800_000_000.0, boot_id: str = "first") -> None:
        self.boot_id = boot_id
        self._now = now
        self._wall = wall

    def now(self) -> float:
        return self._now

    def wall(self) -> float:
        return self._wall

    def advance(self, seconds: float) -> None:
        self._now += seconds
        self._wall += seconds

    def restarted(self, after: float) -> SetClock:
        """The clock of the same machine, started again `after` seconds later, and just up."""
        return SetClock(3.0, self._wall + after, "second")


HOUR = 3600.0


class Jumping(SetClock):
    """A clock whose wall time the test sets."""

    def jump(self, seconds: float) -> None:
        self._wall += seconds
