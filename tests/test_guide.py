"""The migration guide runs: its commands, in order, as a reader would type them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.redis_servers import Server, binaries, version

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "docs" / "migration.md").read_text()


def blocks(language: str) -> list[str]:
    """The code blocks of this language."""
    return re.findall(rf"^```{language}\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("binary", binaries()[:1], ids=version)
def test_the_migration_guide_leads_to_redis_and_nothing_is_lost(
    tmp_path: Path, servers: dict[str, Server], binary: str
) -> None:
    shop = tmp_path / "shop"
    shutil.copytree(ROOT / "examples" / "migration", shop, ignore=shutil.ignore_patterns("__pycache__"))
    commands = "\n".join(blocks("bash")).replace("redis://localhost:6379", servers[binary].url)
    # Job control is what makes %% mean the last of the processes begun.
    # What still runs when a command fails would keep the pipes open, and so this test.
    # On a busy machine programs take longer to start than the guide's readers wait.
    patience = min(6.0, max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)))
    commands = re.sub(r"\bsleep (\d+)", lambda wait: f"sleep {int(wait[1]) * patience:.1f}", commands)
    script = (
        f"trap 'kill $(jobs -p) 2> /dev/null || true' EXIT\nset -e -m\n{commands}\npython check.py > checked || true\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FOREBAY")}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"

    ended = subprocess.run(
        ["bash", "-c", script], cwd=shop, env=environment, capture_output=True, text=True, timeout=280, check=False
    )

    assert 0 == ended.returncode, ended.stdout + ended.stderr
    lines = (shop / "checked").read_text().splitlines()
    # In the shadow, stock did everything twice, and no other group did.
    assert ["billing", "mail", "stock", "audit"] == [line.split()[0] for line in lines]
    assert all(": lost 0" in line for line in lines)
    assert all(line.endswith("twice 0") for line in lines if not line.startswith("stock"))
