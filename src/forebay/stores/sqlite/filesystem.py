"""Which file systems keep SQLite's promises: those of this machine alone."""

from __future__ import annotations

import re
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
"""What is mounted where, by Linux. Elsewhere nothing is known, and nothing refused."""

FAR = frozenset(
    "9p afs beegfs ceph cifs coda glusterfs gpfs lustre ncpfs nfs nfs4 ocfs2 gfs2 smb2 smb3 smbfs".split()  # noqa: SIM905  # shorter
)
"""Types whose locks and shared memory other machines do not see, or see late. All of FUSE counts as well."""


def far_type(path: Path) -> str | None:
    """The type of the file system that holds `path`, where SQLite cannot trust it; else None."""
    try:
        table = MOUNTS.read_text("utf-8", "surrogateescape")
    except OSError:
        return None
    found = _type_at(path, table)
    return found if found in FAR or found.startswith("fuse") else None


def _type_at(path: Path, table: str) -> str:
    """The type of the last mount on the longest part of `path`."""
    kind, longest = "", -1
    for line in table.splitlines():
        place, _, device = line.partition(" - ")
        fields = place.split(" ")
        if len(fields) < 5 or not device:
            continue
        mount = Path(re.sub(r"\\(\d{3})", lambda digits: chr(int(digits[1], 8)), fields[4]))
        if len(mount.parts) >= longest and path.is_relative_to(mount):
            kind, longest = device.split(" ")[0], len(mount.parts)
    return kind
