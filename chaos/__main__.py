"""Soak every store of this machine, and the consumer loop of the original design; print the verdict.

    python -m chaos [--long] [--seed N] [--results FOLDER] [STORE ...]

STORE is sqlite, redis, valkey or original; all of them unless named. Exits with 1 where a promise was broken, or a
run did not get into the states that it is there for.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
from pathlib import Path

import msgspec
from tests.support.redis_servers import binaries, version

from chaos.soak import Run, Size, soak_original, soak_server, soak_sqlite
from chaos.table import table

CHAOS = Size(events=50_000, faults=40, seconds=100)
LONG = Size(events=2_000_000, faults=2_000, seconds=3_000, patience=300.0)
ORIGINAL = Size(events=5_000, faults=32, seconds=60)
"""Enough to show what becomes of events; its calls block, and after an error it waits for five seconds."""
STORES = ("sqlite", "redis", "valkey", "original")


async def soak(store: str, folder: Path, size: Size, seed: int) -> Run:
    """A soak of the store with this name."""
    if store == "sqlite":
        return await soak_sqlite(folder, size, seed=seed)
    if store == "original":
        return await soak_original(binaries()[-1], folder, ORIGINAL, seed=seed)
    return await soak_server(_binary(store), folder, size, seed=seed)


def _binary(name: str) -> str:
    return next(binary for binary in binaries() if version(binary).startswith(name))


def _is_here(store: str) -> bool:
    return store in ("sqlite", "original") or any(version(binary).startswith(store) for binary in binaries())


def main() -> int:
    """Run the soaks of the command line."""
    parser = argparse.ArgumentParser(prog="python -m chaos")
    parser.add_argument("stores", nargs="*", metavar="STORE", help=f"one of {', '.join(STORES)}; all unless named")
    parser.add_argument("--long", action="store_true", help="two million events instead of fifty thousand")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000), help="draws the faults")
    parser.add_argument("--results", type=Path, default=Path("build/chaos"), help="where to put the JSON of each run")
    options = parser.parse_args()
    if unknown := set(options.stores) - set(STORES):
        parser.error(f"no store {', '.join(sorted(unknown))}; there are {', '.join(STORES)}")
    wanted = options.stores or STORES
    for store in wanted:
        if not _is_here(store):
            print(f"no {store}-server on this machine: left out", file=sys.stderr)
    options.results.mkdir(parents=True, exist_ok=True)
    print(f"seed {options.seed}", flush=True)

    runs: dict[str, Run] = {}
    for store in filter(_is_here, wanted):
        # Histories outlive every kill, and cost little, in memory.
        memory = Path("/dev/shm")
        folder = Path(tempfile.mkdtemp(prefix="forebay-chaos-", dir=memory if memory.is_dir() else None))
        run = runs[store] = asyncio.run(soak(store, folder, LONG if options.long else CHAOS, options.seed))
        file = options.results / f"{store}-{options.seed}.json"
        file.write_bytes(msgspec.json.format(msgspec.json.encode(run)))
        if run.holds or store == "original":
            shutil.rmtree(folder)
        else:
            print(f"the histories are kept in {folder}")
        print(f"{run.store}: {'every promise kept' if run.holds else 'PROMISES BROKEN'}; {file}", flush=True)

    print("\n" + table(list(runs.values())))
    ours = [run for store, run in runs.items() if store != "original"]
    for run in ours:
        for kind, examples in run.report.breaches.items():
            print(f"{run.store}: {kind}: {'; '.join(examples)}", file=sys.stderr)
        for name, code in run.failed.items():
            print(f"{run.store}: {name} ended with {code}", file=sys.stderr)
        for kind, seconds in _late(run).items():
            print(f"{run.store}: after '{kind}' it took {seconds:.1f} s until all went on", file=sys.stderr)
        if run.void:
            print(f"{run.store}: void, as it was never reached: {', '.join(run.void)}", file=sys.stderr)
    return int(any(not run.holds or run.void or _late(run) for run in ours))


def _late(run: Run) -> dict[str, float]:
    """The recoveries that took longer than promised: the lease, and two seconds more."""
    return {kind: seconds for kind, seconds in run.report.recovery.items() if seconds > CHAOS.lease + 2.0}


if __name__ == "__main__":
    sys.exit(main())
