"""The output of `forebay migrate status` for a small migration, or none."""

from __future__ import annotations

import time

from forebay.migration.counts import Counts, TypeCounts
from forebay.migration.parity import ProcessReport, write_report
from tests.support.command import Forebay


def test_a_store_without_a_migration_does_not_pass_the_check(forebay: Forebay) -> None:
    forebay.make()
    ended = forebay("migrate", "status")
    checked = forebay("migrate", "status", "--check")

    assert (0, True) == (ended.code, "nothing to compare yet" in ended.err)
    assert (1, True) == (checked.code, "is this the new bus's store?" in checked.err)


def test_a_killed_process_is_reported(forebay: Forebay) -> None:
    counts = Counts({"order": TypeCounts(old=1, new=1)})
    forebay.do(lambda bus: write_report(bus.store, ProcessReport("host-1-killed", time.time() - 60, {}, counts)))

    ended = forebay("migrate", "status")

    assert "1 process died with unfinished events on the old bus" in ended.err
    assert "the buses agree" in ended.err
