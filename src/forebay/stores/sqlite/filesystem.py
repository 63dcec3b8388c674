"""Finds the file systems on which SQLite is not safe: those that other machines share."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path, PurePath, PureWindowsPath

MOUNTS = Path("/proc/self/mountinfo")
"""Linux's table of mounts. Other systems have none, so no file system is refused there."""

_NETWORK = (
    "9p acfs afp afpfs afs auristorfs beegfs beegfs_nodev ceph cifs coda cvfs davfs fhgfs gfarm gfs gfs2 glusterfs gpfs"
    " ibrix kafs lustre lustre_lite mmfs ncp ncpfs nfs nfs3 nfs4 ocfs2 orangefs panfs pohmelfs pvfs2 quobyte scoutfs"
    " smb smb2 smb3 smbfs snfs sshfs wekafs"
)
_SHARED_WITH_A_VIRTUAL_MACHINE = (
    "drvfs fakeowner grpcfuse hgfs hostfs osxfs prl_fs prl_vtfs vboxfs vboxsf virtiofs virtio_fs vmhgfs"
)
NETWORK_TYPES = frozenset(f"{_NETWORK} {_SHARED_WITH_A_VIRTUAL_MACHINE}".split())
"""Types whose locks and shared memory other machines do not see, or see late. All of FUSE is refused as well."""

_DRIVE_REMOTE = 4


def network_filesystem(path: Path) -> str | None:
    """The type of the file system of `path` if SQLite is not safe there, otherwise None."""
    if path.drive:
        return _far_drive(path)
    found = ""
    longest = -1
    for mount, kind in _mounts():
        if len(mount.parts) >= longest and path.is_relative_to(mount):
            found, longest = kind, len(mount.parts)
    return found if found in NETWORK_TYPES or found.startswith("fuse") else None


def is_mount_point(path: Path) -> bool:
    """True if the file itself is mounted, without the folder that holds it."""
    return any(mount == path for mount, _ in _mounts())


def _mounts() -> list[tuple[Path, str]]:
    """The mount points in their order, each with the type of its file system."""
    try:
        table = MOUNTS.read_text("utf-8", "surrogateescape")
    except OSError:
        return []
    mounts = []
    for line in table.splitlines():
        place, _, device = line.partition(" - ")
        fields = place.split(" ")
        if len(fields) >= 5 and device:
            mount = re.sub(r"\\(\d{3})", lambda digits: chr(int(digits[1], 8)), fields[4])
            mounts.append((Path(mount), device.split(" ")[0].lower()))
    return mounts


def _far_drive(path: PurePath) -> str | None:
    """`network_filesystem` on Windows, whose paths have drives."""
    drive = PureWindowsPath(path).drive
    if drive.startswith("\\\\"):
        return "network share"
    system = getattr(ctypes, "windll", None)
    is_remote = system is not None and system.kernel32.GetDriveTypeW(f"{drive}\\") == _DRIVE_REMOTE
    return "network drive" if is_remote else None
