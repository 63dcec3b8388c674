"""The retry policy is a pure decision."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from forebay import ConfigurationError, EventBus, HandlerTimeout, MalformedEvent, Reject, Retry, RetryAfter
from forebay.policy import GiveUp, RetryIn, crashes_allowed, decide
from forebay.reason import describe
from forebay.runtime.options import Options


def longest(_: float, high: float) -> float:
    return high


def shortest(low: float, _: float) -> float:
    return low


def test_the_wait_doubles_with_each_failure_up_to_the_cap() -> None:
    retry = Retry(attempts=10, base=0.5, cap=3)

    waits = [decide(OSError(), failures=n, retry=retry, jitter=longest) for n in (1, 2, 3, 4, 5)]

    assert [RetryIn(0.5), RetryIn(1.0), RetryIn(2.0), RetryIn(3.0), RetryIn(3.0)] == waits


def test_an_event_waits_at_least_half_of_the_longest_wait() -> None:
    assert RetryIn(1.0) == decide(OSError(), failures=3, retry=Retry(base=0.5), jitter=shortest)
    for failures in range(1, 12):
        again = decide(OSError(), failures=failures, retry=Retry())
        assert isinstance(again, RetryIn)
        assert Retry().ceiling(failures) / 2 <= again.delay <= Retry().ceiling(failures)


@pytest.mark.parametrize("error", [ConnectionRefusedError(), TimeoutError(), KeyError("x"), HandlerTimeout("slow")])
def test_by_default_an_outage_of_five_minutes_makes_no_dead_letter(error: Exception) -> None:
    outage, now, failures = 300.0, 0.0, 0
    while now < outage:
        failures += 1
        verdict = decide(error, failures=failures, retry=Retry(), jitter=shortest)
        assert isinstance(verdict, RetryIn)
        now += verdict.delay


@pytest.mark.parametrize(
    "retry",
    [Retry(), Retry(attempts=1), Retry(attempts=2, base=3), Retry(attempts=70, base=1e-9, cap=1e8), Retry(base=0)],
)
def test_the_span_is_the_sum_of_all_waits(retry: Retry) -> None:
    def waited(jitter: Callable[[float, float], float]) -> float:
        verdicts = (decide(OSError(), failures=n, retry=retry, jitter=jitter) for n in range(1, retry.attempts + 1))
        return sum(verdict.delay for verdict in verdicts if isinstance(verdict, RetryIn))

    assert pytest.approx(retry.span()) == (waited(shortest), waited(longest))


def test_the_documented_default_span_is_the_computed_one() -> None:
    text = f"{Retry().span()[0] / 60:.1f} to {Retry().span()[1] / 60:.1f} minutes"
    for place in (Retry, Options, EventBus.on):
        assert text in " ".join(str(place.__doc__).split())


def test_the_span_of_a_million_tries_is_found_at_once() -> None:
    assert 999_999 * 300.0 > Retry(attempts=10**6).span()[1] > 999_900 * 300.0


def test_the_last_attempt_ends_among_the_dead_letters_with_its_reason() -> None:
    assert GiveUp("ValueError: no such order") == decide(
        ValueError("no such order"), failures=3, retry=Retry(attempts=3)
    )


def test_an_enormous_number_of_failures_still_waits_no_longer_than_the_cap() -> None:
    assert RetryIn(300.0) == decide(OSError(), failures=100_000, retry=Retry(attempts=10**6), jitter=longest)


@pytest.mark.parametrize("error", [Reject("never"), MalformedEvent("cut")])
def test_an_event_that_can_never_succeed_is_a_dead_letter_at_once(error: Exception) -> None:
    assert isinstance(decide(error, failures=1, retry=Retry()), GiveUp)


def test_a_handler_may_say_when_to_try_again_but_not_for_ever() -> None:
    assert RetryIn(7.0) == decide(RetryAfter(7), failures=1, retry=Retry(attempts=2))
    assert isinstance(decide(RetryAfter(7), failures=2, retry=Retry(attempts=2)), GiveUp)


def test_only_the_named_errors_are_tried_again() -> None:
    retry = Retry(on=(ConnectionError, TimeoutError))

    assert isinstance(decide(ConnectionResetError(), failures=1, retry=retry), RetryIn)
    assert isinstance(decide(ValueError(), failures=1, retry=retry), GiveUp)


def test_rules_per_error_take_the_nearest_base_class() -> None:
    retry = Retry(attempts=2, on={OSError: Retry(attempts=9), FileNotFoundError: None})

    assert isinstance(decide(PermissionError(), failures=8, retry=retry), RetryIn)
    assert isinstance(decide(FileNotFoundError(), failures=1, retry=retry), GiveUp)
    assert isinstance(decide(ValueError(), failures=1, retry=retry), RetryIn)
    assert isinstance(decide(ValueError(), failures=2, retry=retry), GiveUp)


@pytest.mark.parametrize("options", [{"attempts": 0}, {"attempts": 2.5}, {"base": -1}, {"base": 5, "cap": 1}])
def test_an_impossible_policy_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError):
        Retry(**options)  # type: ignore[arg-type]  # the mistake that is tested


def test_an_error_is_described_in_one_bounded_line() -> None:
    assert "ValueError: two lines" == describe(ValueError("two\n  lines"))
    assert 500 == len(describe(ValueError("x" * 10_000)))
    assert "KeyboardInterrupt" == describe(KeyboardInterrupt())


def test_a_crash_is_not_charged_to_an_event_that_may_not_have_started() -> None:
    assert 2 == crashes_allowed(Retry(attempts=1))
    assert 4 == crashes_allowed(Retry(attempts=4))


def test_few_crashes_are_enough_however_many_failures_are_allowed() -> None:
    assert 5 == crashes_allowed(Retry(attempts=12)) == crashes_allowed(Retry(attempts=1000))
