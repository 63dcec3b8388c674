"""The data of an event, between Python and its JSON text: limits, and classes as payloads."""

from __future__ import annotations

import dataclasses
import math
import re
from enum import Enum
from typing import Any

import msgspec

from forebay.errors import ConfigurationError, InvalidEvent, MalformedEvent, PayloadTooLarge

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


class Limits(msgspec.Struct, frozen=True):
    """What a payload may be. Checked at publish and again when an entry is read."""

    max_bytes: int = 1024 * 1024
    """Length of the JSON text in bytes; headers count for themselves under the same limit."""
    max_depth: int = 32
    """How deeply arrays and objects may be nested; `[]` has depth 1."""


LIMITS = Limits()


def check_name(what: str, name: object) -> str:
    """`name`, if it can name a type, group, consumer or namespace; else a ConfigurationError."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"{what} {name!r} is not a name: use 1 to 128 of A-Z a-z 0-9 . _ - and begin with a letter or digit"
        )
    return name


def type_name(kind: object) -> str:
    """The event type that a string, an `Enum` member or a payload class stands for.

    A class may name its type in `event_type`; else its own name is put in snake case:

    >>> class OrderPlaced(msgspec.Struct): order_id: int
    >>> type_name(OrderPlaced)
    'order_placed'
    """
    if type(kind) is str and kind in _known:
        return kind
    if isinstance(kind, Enum):
        kind = kind.value
    elif isinstance(kind, type):
        kind = getattr(kind, "event_type", None) or _CAMEL.sub("_", kind.__name__).lower()
    if not isinstance(kind, str):
        raise ConfigurationError(f"an event type is a string, an Enum with a string value or a class, not {kind!r}")
    check_name("event type", kind)
    if len(_known) < _MOST_KNOWN:
        _known.add(kind)
    return kind


_known: set[str] = set()
"""Names that were checked before."""
_MOST_KNOWN = 1000


def is_payload_class(kind: object) -> bool:
    """Whether `kind` is a class whose objects are published as themselves."""
    return isinstance(kind, type) and (
        issubclass(kind, msgspec.Struct) or dataclasses.is_dataclass(kind) or hasattr(kind, "model_validate_json")
    )


def encode(data: Any, limits: Limits = LIMITS) -> bytes:
    """The JSON text of a payload, in UTF-8.

    Takes what msgspec takes (dicts, lists, strings, numbers, booleans, None, datetimes, UUIDs,
    dataclasses, Structs, ...) and pydantic models. Integers keep every digit. Refused with
    `InvalidEvent`: NaN and infinities, lone surrogates, anything that is not JSON, more than
    `limits.max_depth` levels, more than `limits.max_bytes` bytes.
    """
    try:
        if type(data) is not dict and hasattr(data, "model_dump_json"):
            data = data.model_dump(mode="json")
        text = _encode(data)
    except UnicodeEncodeError as error:
        raise InvalidEvent("the data holds a lone surrogate, which no UTF-8 text can carry") from error
    except RecursionError as error:
        raise InvalidEvent(f"the data is nested deeper than {limits.max_depth} levels, or holds itself") from error
    except Exception as error:  # a payload's own class may raise anything while it is encoded
        raise InvalidEvent(f"the data is not JSON: {error}") from error
    if fault := _fault(text, limits):
        raise PayloadTooLarge(fault) if len(text) > limits.max_bytes else InvalidEvent(fault)
    # msgspec writes NaN and infinities as null, so only a text with null can hide one. One letter is found faster.
    if _N in text and text.find(b"null") >= 0 and _holds_non_finite(msgspec.to_builtins(data)):
        raise InvalidEvent("the data holds NaN or an infinity, which JSON has no word for")
    return text


def decode(text: bytes | str, kind: Any = Any, limits: Limits = LIMITS) -> Any:
    """The payload in a JSON text, as `kind`; `MalformedEvent` says what is wrong with it."""
    if isinstance(text, str):
        text = _to_bytes(text)
    if fault := _fault(text, limits):
        raise MalformedEvent(fault)
    try:
        if kind is Any:  # asked first: to look for an attribute of Any takes longer than to decode a small payload
            return _decode_any(text)
        if hasattr(kind, "model_validate_json"):
            return kind.model_validate_json(text)
        return msgspec.json.decode(text, type=kind)
    except (ValueError, RecursionError) as error:
        fault = "is not JSON" if kind is Any else f"does not fit {kind.__name__}"
        raise MalformedEvent(f"the data {fault}: {error}") from error


def _to_bytes(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise MalformedEvent("the data is not UTF-8") from error


_N = ord("n")
_encode = msgspec.json.Encoder().encode
_decode_any = msgspec.json.Decoder().decode


def _fault(text: bytes, limits: Limits) -> str | None:
    # A level takes two brackets, so a short text need not be looked into.
    if len(text) <= 2 * limits.max_depth and len(text) <= limits.max_bytes:
        return None
    if len(text) > limits.max_bytes:
        return f"the data is {len(text):,} bytes of JSON; the limit is {limits.max_bytes:,}"
    # Brackets inside strings count too, so the cheap count can only be too high.
    if text.count(b"[") + text.count(b"{") > limits.max_depth and (depth := _depth(text)) > limits.max_depth:
        return f"the data is nested {depth} levels deep; the limit is {limits.max_depth}"
    return None


# A string that does not end reaches to the end of the text: else each quote in it would be tried as a beginning.
_TOKENS = re.compile(rb'"(?:[^"\\]|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)


def _depth(text: bytes) -> int:
    deepest = level = 0
    for token in _TOKENS.findall(text):
        if token in b"[{":
            level += 1
            deepest = max(deepest, level)
        elif token in b"]}":
            level -= 1
    return deepest


def _holds_non_finite(data: Any) -> bool:
    stack = [data]
    while stack:
        value = stack.pop()
        if isinstance(value, float):
            if not math.isfinite(value):
                return True
        elif isinstance(value, dict):
            stack.extend(value.values())
            stack.extend(value)
        elif isinstance(value, (list, tuple, set, frozenset)):
            stack.extend(value)
    return False
