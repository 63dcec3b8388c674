"""The benchmark compares forebay with an earlier revision, figure by figure."""

from __future__ import annotations

from bench.beside import TOLERANCE, rows_beside
from bench.harness import Findings
from bench.rows import Figure, Row, Subject, rows

RATE = Figure(Subject("forebay, handle", "bench.subjects.forebay_bus", "handle", "redis"))
LATENCY = Subject("forebay, latency", "bench.subjects.forebay_bus", "latency", "redis")


def test_every_figure_of_forebay_is_compared_once_and_no_other() -> None:
    found = rows_beside(rows(), "abc", "/source")

    figures = [row.figure for row in found]
    assert len(set(figures)) == len(figures)
    assert set(figures) == {row.figure for row in rows() if row.figure.subject.is_forebay}
    for row in found:
        assert row.yardstick is not None
        assert (row.yardstick.subject.source, row.figure.subject.source) == ("/source", "")


def test_a_subject_that_runs_first_is_of_the_same_revision() -> None:
    subject = Subject("memory", "bench.subjects.processes", "memory", "redis", first=Subject("fill", "m", "f", "redis"))

    [row] = rows_beside([Row("memory", Figure(subject, "peak", "MiB"), most=60)], "abc", "/source")

    assert row.yardstick is not None
    assert row.yardstick.subject.first is not None
    assert row.yardstick.subject.first.source == "/source"


def test_a_lower_rate_and_a_higher_latency_are_worse_and_a_high_percentile_is_only_shown() -> None:
    latencies = [Figure(LATENCY, percentile, "ms") for percentile in ("p50", "p99")]

    rate, p50, p99 = rows_beside([Row("", RATE), *(Row("", each) for each in latencies)], "abc", "/source")

    assert (rate.least, rate.most) == (1 - TOLERANCE, None)
    assert (p50.least, p50.most) == (None, 1 + TOLERANCE)
    assert (p99.least, p99.most) == (None, None)


def test_the_ratio_is_the_median_of_the_ratios_within_a_round() -> None:
    [row] = rows_beside([Row("", RATE)], "abc", "/source")
    assert row.yardstick is not None

    found = Findings({row.figure.subject: [90.0, 200.0, 98.0], row.yardstick.subject: [100.0, 100.0, 100.0]})

    assert found.measured(row) == 0.98
    assert not row.misses(found.measured(row))
