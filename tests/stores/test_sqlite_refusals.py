"""Files that the SQLite store does not open: by their place, and by their content."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path, PureWindowsPath
from typing import Any

import apsw
import pytest

from forebay.errors import ConfigurationError, StoreDamaged
from forebay.event import to_record
from forebay.stores.sqlite import SQLiteStore, filesystem


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


def sql(path: Path, statements: str) -> None:
    connection = apsw.Connection(str(path))
    connection.execute(statements)
    connection.close()


async def fill(path: Path) -> None:
    async with SQLiteStore(path) as store:
        await store.join("t", "g")
        await store.append("t", [to_record("t", source="s", data=1)])


FOREIGN = {
    "CREATE TRIGGER spy AFTER INSERT ON entries BEGIN DELETE FROM entries; END": "the trigger 'spy'",
    "CREATE VIEW latest AS SELECT * FROM entries": "the view 'latest'",
    "CREATE TABLE customers (id)": "the table 'customers'",
    "CREATE VIRTUAL TABLE search USING fts5(data)": "the table 'search'",
    "CREATE UNIQUE INDEX one ON entries (id)": "the unique index 'one'",
    "CREATE TABLE a (x); CREATE VIEW b AS SELECT 1": "the table 'a', the view 'b'",
}


@pytest.mark.parametrize("statements", FOREIGN)
async def test_a_file_with_something_of_another_program_in_it_is_refused_by_name(path: Path, statements: str) -> None:
    await fill(path)
    sql(path, statements)

    for read_only in (False, True):
        with pytest.raises(ConfigurationError, match=f"holds objects of another program: {FOREIGN[statements]}"):
            async with SQLiteStore(path, read_only=read_only):
                pass


ALTERED = {
    "ALTER TABLE entries ADD COLUMN colour TEXT": "the table 'entries'",
    "ALTER TABLE dead DROP COLUMN key": "the table 'dead'",
    "ALTER TABLE groups RENAME COLUMN cursor TO place": "the table 'groups'",
    "DROP TABLE handled": "the index 'handled_by_expiry', the table 'handled'",
    "DROP INDEX entries_by_stream": "the index 'entries_by_stream'",
    "DROP TRIGGER entries_missed": "the trigger 'entries_missed'",
    "DROP INDEX dead_by_stream; CREATE INDEX dead_by_stream ON dead (group_name)": "the index 'dead_by_stream'",
}


@pytest.mark.parametrize("statements", ALTERED)
async def test_a_file_whose_tables_were_altered_is_refused_by_name(path: Path, statements: str) -> None:
    await fill(path)
    sql(path, statements)

    with pytest.raises(StoreDamaged, match=f"were altered: {ALTERED[statements]}"):
        async with SQLiteStore(path):
            pass


async def test_foreign_plain_indexes_and_statistics_are_accepted(path: Path) -> None:
    await fill(path)
    sql(
        path,
        "CREATE INDEX by_id ON entries (id); CREATE INDEX by_day ON entries (timestamp) WHERE key IS NULL; ANALYZE",
    )

    await fill(path)


async def test_a_database_that_holds_only_views_is_another_programs(path: Path) -> None:
    sql(path, "CREATE VIEW latest AS SELECT 1")

    with pytest.raises(ConfigurationError, match="another program's database"):
        async with SQLiteStore(path):
            pass


NETWORK_TYPES = (
    "9p afs ceph cifs coda davfs drvfs fakeowner fuse fuse.sshfs fuse.grpcfuse fuseblk gfs2 glusterfs gpfs lustre ncpfs"
    " nfs nfs4 ocfs2 osxfs panfs prl_fs pvfs2 smb3 smbfs vboxsf virtiofs vmhgfs"
)


@pytest.mark.parametrize("kind", NETWORK_TYPES.split())
async def test_folders_that_other_machines_or_a_host_share_are_far(
    path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = path.with_name("mountinfo")
    table.write_text(f"1 0 0:1 / / rw - ext4 /dev/vda rw\n2 1 0:2 / {path.parent} rw - {kind} share rw\n")
    monkeypatch.setattr(filesystem, "MOUNTS", table)

    with pytest.raises(ConfigurationError, match=f"type {kind},"):
        await fill(path)
    assert not path.exists()
    async with SQLiteStore(path, any_file_system=True):
        pass


@pytest.mark.parametrize("kind", "ext4 xfs btrfs zfs overlay tmpfs apfs f2fs bcachefs".split())  # noqa: SIM905  # shorter
async def test_file_systems_of_this_machine_are_near(path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    table = path.with_name("mountinfo")
    table.write_text(f"1 0 0:1 / / rw - nfs there rw\n2 1 0:2 / {path.parent} rw - {kind} /dev/vda rw\n")
    monkeypatch.setattr(filesystem, "MOUNTS", table)

    await fill(path)


async def test_a_file_that_is_mounted_without_its_folder_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.touch()
    table = path.with_name("mountinfo")
    table.write_text(f"1 0 0:1 / / rw - ext4 /dev/vda rw\n2 1 0:1 /e.db {path} rw - ext4 /dev/vda rw\n")
    monkeypatch.setattr(filesystem, "MOUNTS", table)

    for any_file_system in (False, True):
        with pytest.raises(ConfigurationError, match=r"is itself a mount point, .* mount the folder"):
            async with SQLiteStore(path, any_file_system=any_file_system):
                pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_a_file_that_was_really_bound_into_a_container_is_refused_before_an_event_is_stored(tmp_path: Path) -> None:
    host, layer = tmp_path / "host.db", tmp_path / "events.db"
    host.touch()
    layer.touch()
    publish = f"{sys.executable} -m forebay --url sqlite:///{layer} publish t 1 --source s"

    script = f"mount --bind {host} {layer} && {publish}"
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], check=False, capture_output=True, text=True)

    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip("no mounts here")
    assert done.returncode
    assert "mount the folder" in done.stderr
    assert not host.stat().st_size


def test_on_windows_network_shares_and_drives_are_far(monkeypatch: pytest.MonkeyPatch) -> None:
    class Kernel:
        def GetDriveTypeW(self, root: str) -> int:  # noqa: N802  # the system's name
            return {"Z:\\": 4, "C:\\": 3}[root]

    class System:
        kernel32 = Kernel()

    monkeypatch.setattr(ctypes, "windll", System(), raising=False)
    far: Any = filesystem.network_filesystem

    assert "network share" == far(PureWindowsPath(r"\\server\share\events.db"))
    assert "network drive" == far(PureWindowsPath(r"Z:\events.db"))
    assert far(PureWindowsPath(r"C:\events.db")) is None


async def test_flushes_reach_the_disk_itself_on_macos_too(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with SQLiteStore(path) as store:
        connection = store._connections().writer._line.connection
        assert connection is not None
        assert [1, 1] == [connection.pragma(name) for name in ("fullfsync", "checkpoint_fullfsync")]
        monkeypatch.setattr(sys, "platform", "darwin")
        assert "F_FULLFSYNC" in (await store.durability()).notes[0]


async def test_queries_are_planned_once_and_not_for_each_value(path: Path) -> None:
    async with SQLiteStore(path) as store:
        connection = store._connections().writer._line.connection
        assert connection is not None

        assert connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, -1)
