"""A reason is one line of at most 500 characters, without payload or password, and names what went wrong."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable

import msgspec
import pydantic
import pytest

from forebay import Event, EventBus, HandlerTimeout, Reject, Retry, RetryAfter, connect
from forebay.agents import BaseAgent
from forebay.agents.heartbeat import Heartbeat
from forebay.agents.roster import HealthReport
from forebay.errors import MalformedEvent, StoreUnavailable
from forebay.event import Foreign, to_event
from forebay.event_types import EventType
from forebay.policy import GiveUp, RetryIn, decide
from forebay.reason import describe, redacted


@pytest.fixture
async def memory() -> AsyncIterator[EventBus]:
    async with connect("memory://") as bus:
        yield bus


def group(*errors: Exception) -> ExceptionGroup[Exception]:
    return ExceptionGroup("unhandled errors in a TaskGroup", errors)


def caused(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


# Groups.


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (group(ValueError("bad amount 17")), "ValueError: bad amount 17"),
        (group(group(KeyError("a")), OSError("b")), "KeyError: 'a' (the first of 2 errors)"),
        (caused(RuntimeError("no bill"), OSError("refused")), "RuntimeError: no bill; caused by OSError: refused"),
        (
            caused(RuntimeError("no bill"), group(OSError("refused"))),
            "RuntimeError: no bill; caused by OSError: refused",
        ),
        (group(caused(ValueError("x"), KeyError("y"))), "ValueError: x; caused by KeyError: 'y'"),
        (caused(group(ValueError("x")), KeyError("y")), "ValueError: x; caused by KeyError: 'y'"),
        (caused(StoreUnavailable("cannot reach it: gone"), OSError("gone")), "StoreUnavailable: cannot reach it: gone"),
    ],
)
def test_a_group_is_described_by_its_first_member_and_an_error_by_its_cause_too(error: Exception, told: str) -> None:
    assert told == describe(error)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x" * 10_000),
        group(*[ValueError("x" * 10_000)] * 3),
        caused(ValueError("x" * 10_000), KeyError("y" * 10_000)),
        caused(group(*[ValueError("x\n" * 10_000)] * 3), KeyError("y\n" * 10_000)),
    ],
    ids=["plain", "group", "cause", "both"],
)
def test_a_description_is_one_line_of_at_most_500_characters(error: Exception) -> None:
    told = describe(error)

    assert len(told) <= 500
    assert told.isprintable()


def test_a_cause_is_kept_after_a_long_message() -> None:
    assert "caused by OSError: refused" in describe(caused(ValueError("x" * 10_000), OSError("refused")))


@pytest.mark.parametrize(
    ("error", "retry", "decision"),
    [
        (group(OSError(), Reject("no such order")), Retry(), GiveUp("Reject: no such order")),
        (group(OSError(), group(MalformedEvent("cut"))), Retry(), GiveUp("MalformedEvent: cut")),
        (group(OSError(), ValueError("v")), Retry(on={ValueError: None}), GiveUp("OSError (the first of 2 errors)")),
        (group(group(ValueError("v"))), Retry(on=OSError), GiveUp("ValueError: v")),
        (group(OSError(), ValueError("v")), Retry(on=OSError), GiveUp("OSError (the first of 2 errors)")),
        (group(OSError(), TimeoutError()), Retry(on=OSError, base=1), RetryIn(2.0)),
        (group(OSError(), RetryAfter(7), RetryAfter(9)), Retry(), RetryIn(9.0)),
        (group(RetryAfter(7)), Retry(on=OSError), RetryIn(7.0)),
        (group(RetryAfter(7, "x"), ValueError()), Retry(on=OSError), GiveUp("RetryAfter: x (the first of 2 errors)")),
        (group(OSError(), ValueError()), Retry(9, on={OSError: Retry(2)}), GiveUp("OSError (the first of 2 errors)")),
        (group(ValueError("v")), Retry(on={ExceptionGroup: Retry(base=3), ValueError: None}), RetryIn(6.0)),
        (group(ValueError("v")), Retry(on=(ExceptionGroup, OSError), base=4), RetryIn(8.0)),
    ],
)  # fmt: skip
def test_rules_look_at_all_members_of_a_group(error: Exception, retry: Retry, decision: RetryIn | GiveUp) -> None:
    assert decision == decide(error, failures=2, retry=retry, jitter=lambda _, high: high)


async def test_a_reject_from_a_task_group_of_a_handler_ends_its_event_at_once(bus: EventBus) -> None:
    async def fail() -> None:
        raise Reject("no such order")

    @bus.on("t", group="g")
    async def handle(event: Event) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(asyncio.sleep(10))
            tasks.create_task(fail())

    await bus.publish("t", "s", 1)
    await bus.run(until_idle=True)

    (letter,) = await bus.dead_letters("t")
    assert (1, "Reject: no such order") == (letter.attempts, letter.error)


# Passwords and payloads.


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("no route to redis://user:hunter2@host:6379/0", "no route to redis://***@host:6379/0"),
        ("rediss://:hunt/er#2@host", "rediss://***@host"),
        (
            "https://hunter2@example.com/x and postgres://a:hunter2@db",
            "https://***@example.com/x and postgres://***@db",
        ),
        ("amqp://a:hunter@2@db", "amqp://***@db"),
        ("see https://example.com/page", "see https://example.com/page"),
    ],
)
def test_passwords_in_urls_are_hidden(text: str, told: str) -> None:
    assert f"OSError: {told}" == describe(OSError(text))


class Order(pydantic.BaseModel):
    amount: int
    kind: str = pydantic.Field(pattern="^[a-z]+$", default="a")


class Paid(msgspec.Struct, tag="paid"):
    pass


class Refunded(msgspec.Struct, tag="refunded"):
    pass


@pytest.mark.parametrize(
    "fail",
    [
        lambda: Order.model_validate({"amount": "secret-value"}),
        lambda: Order.model_validate({"amount": 1, "kind": "secret-value"}),
        lambda: msgspec.convert({"type": "secret-value"}, Paid | Refunded),
        lambda: msgspec.convert("secret-value", EventType),
    ],
    ids=["pydantic type", "pydantic pattern", "msgspec tag", "msgspec enum"],
)
def test_values_that_a_validation_error_quotes_are_left_out_when_a_handler_raises_it(
    fail: Callable[[], object],
) -> None:
    with pytest.raises(ValueError, match=r"(?s).") as raised:
        fail()

    told = describe(raised.value)
    assert told.startswith("ValidationError: ")
    assert "secret-value" not in told
    assert "secret-value" not in describe(caused(RuntimeError("x"), raised.value))


def test_a_payload_quoted_in_a_message_is_left_out_and_the_rest_stays() -> None:
    payload = {"name": "Ada", "ids": [123456, 1.25], "text": "a\nb\nc", "long": "x" * 300, "is": True}
    message = f"{'Ada'!r} of 123456 at 1.25 has {payload['text']!r} in Adam and {'x' * 200!r}... True"

    assert "'…' of … at … has '…' in Adam and '…'... True" == redacted(message, payload)


def test_a_payload_of_many_values_is_searched_in_one_pass() -> None:
    payload = {str(n): f"value-{n}" for n in range(50_000)}

    assert "no … here" == redacted("no value-49999 here", payload)


def test_an_entry_of_another_writer_with_long_names_has_a_short_reason() -> None:
    with pytest.raises(MalformedEvent) as refused:
        to_event(Foreign(tuple((b"\xff" * 100_000, b"") for _ in range(100))))

    assert len(str(refused.value)) <= 500


async def test_a_time_limit_is_the_whole_reason(memory: EventBus) -> None:
    @memory.on("t", group="g", timeout=0.01, retry=Retry(attempts=1))
    async def handle(event: Event) -> None:
        await asyncio.sleep(10)

    await memory.publish("t", "s", 1)
    await memory.run(until_idle=True)

    (letter,) = await memory.dead_letters("t")
    assert f"{HandlerTimeout.__name__}: the handler ran longer than 0.01 s" == letter.error


async def test_signs_of_life_and_health_reports_hold_no_payload_either(memory: EventBus) -> None:
    class Odd(BaseAgent):
        name = "odd"
        event_types = ("t",)

        async def health(self) -> object:
            Order.model_validate({"amount": "secret-value"})
            return None

        async def process_event(self, event_type: str, data: object) -> None:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self.health())

    reports: list[HealthReport] = []

    @memory.on(EventType.HEALTH_REPORT, group="g")
    async def report(event: Event) -> None:
        reports.append(msgspec.convert(event.data, HealthReport))
        memory.stop()

    @memory.on("t_failed", group="g")
    async def ask(event: Event) -> None: ...

    await memory.publish("t", "s", 1)
    running = asyncio.create_task(memory.run(Odd()))
    while not reports:
        await memory.publish(EventType.HEALTH_CHECK, "s")
        await asyncio.sleep(0.05)
    await running

    beats = [event async for event in memory.events(Heartbeat) if isinstance(event, Event)] + [
        event async for event in memory.events(EventType.AGENT_HEARTBEAT) if isinstance(event, Event)
    ]
    texts = [str(report.detail) for report in reports] + [json.dumps(beat.data) for beat in beats]
    assert "ValidationError: amount: Input should be a valid integer" in texts[0]
    assert any("ValidationError: amount" in text for text in texts[1:])
    assert not any("secret-value" in text for text in texts)


class Broken(Exception):
    @property
    def __cause__(self) -> BaseException | None:  # type: ignore[override]  # this is broken
        raise RuntimeError("no cause can be read")


async def test_an_error_that_cannot_be_read_is_the_fate_of_its_event_only() -> None:
    async with connect("memory://") as bus:

        @bus.on("t", group="g", retry=Retry(attempts=2, base=0))
        async def handle(event: Event) -> None:
            if event.data == "odd":
                raise Broken("odd")

        await bus.publish_many("t", "s", ["odd", "even"])
        await bus.run(until_idle=True)

        assert ["Broken: (it cannot be read)"] == [letter.error for letter in await bus.dead_letters("t")]
