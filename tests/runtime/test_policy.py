"""The retry policy is a pure decision."""

from __future__ import annotations

import pytest

from forebay import ConfigurationError, MalformedEvent, Reject, Retry, RetryAfter
from forebay.policy import Again, Dead, crashes_allowed, decide
from forebay.reason import describe


def longest(_: float, high: float) -> float:
    return high


def test_the_wait_doubles_with_each_failure_up_to_the_cap() -> None:
    retry = Retry(attempts=10, base=0.5, cap=3)

    waits = [decide(OSError(), failures=n, retry=retry, jitter=longest) for n in (1, 2, 3, 4, 5)]

    assert [Again(0.5), Again(1.0), Again(2.0), Again(3.0), Again(3.0)] == waits


def test_the_jitter_is_full_from_zero() -> None:
    assert Again(0.0) == decide(OSError(), failures=3, retry=Retry(), jitter=lambda low, _: low)


def test_the_last_attempt_ends_among_the_dead_letters_with_its_reason() -> None:
    assert Dead("ValueError: no such order") == decide(ValueError("no such order"), failures=3, retry=Retry(attempts=3))


def test_an_enormous_number_of_failures_still_waits_no_longer_than_the_cap() -> None:
    assert Again(60.0) == decide(OSError(), failures=100_000, retry=Retry(attempts=10**6), jitter=longest)


@pytest.mark.parametrize("error", [Reject("never"), MalformedEvent("cut")])
def test_what_can_never_succeed_is_dead_at_once(error: Exception) -> None:
    assert isinstance(decide(error, failures=1, retry=Retry()), Dead)


def test_a_handler_may_say_when_to_try_again_but_not_for_ever() -> None:
    assert Again(7.0) == decide(RetryAfter(7), failures=1, retry=Retry(attempts=2))
    assert isinstance(decide(RetryAfter(7), failures=2, retry=Retry(attempts=2)), Dead)


def test_only_the_named_errors_are_tried_again() -> None:
    retry = Retry(on=(ConnectionError, TimeoutError))

    assert isinstance(decide(ConnectionResetError(), failures=1, retry=retry), Again)
    assert isinstance(decide(ValueError(), failures=1, retry=retry), Dead)


def test_rules_per_error_take_the_nearest_base_class() -> None:
    retry = Retry(attempts=2, on={OSError: Retry(attempts=9), FileNotFoundError: None})

    assert isinstance(decide(PermissionError(), failures=8, retry=retry), Again)
    assert isinstance(decide(FileNotFoundError(), failures=1, retry=retry), Dead)
    assert isinstance(decide(ValueError(), failures=1, retry=retry), Again)
    assert isinstance(decide(ValueError(), failures=2, retry=retry), Dead)


@pytest.mark.parametrize("options", [{"attempts": 0}, {"attempts": 2.5}, {"base": -1}, {"base": 5, "cap": 1}])
def test_an_impossible_policy_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError):
        Retry(**options)  # type: ignore[arg-type]  # the mistake that is tested


def test_an_error_is_described_in_one_bounded_line() -> None:
    assert "ValueError: two lines" == describe(ValueError("two\n  lines"))
    assert 500 == len(describe(ValueError("x" * 10_000)))
    assert "KeyboardInterrupt" == describe(KeyboardInterrupt())


def test_a_crash_never_judges_an_event_that_may_not_have_been_begun() -> None:
    assert 2 == crashes_allowed(Retry(attempts=1))
    assert 5 == crashes_allowed(Retry(attempts=5))
