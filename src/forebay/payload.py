"""The data of an event, between Python and its JSON text: limits, and classes as payloads."""

from __future__ import annotations

import math
import re
from enum import Enum
from typing import Any, TypeGuard

import msgspec

from forebay.codec import codec, encode_hook, encode_json, is_payload_class, type_text
from forebay.errors import ConfigurationError, ForebayError, InvalidEvent, MalformedEvent, PayloadTooLarge
from forebay.reason import misfit, one_line

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")

EventTypeLike = str | Enum | type
"""An event type: its name, an `Enum` member with the name as its value, or the class of its payloads."""


class Limits(msgspec.Struct, frozen=True):
    """The limits of a payload, checked at publish and again when an entry is read."""

    max_bytes: int = 1024 * 1024
    """Length of the JSON text in bytes; headers count for themselves under the same limit."""
    max_depth: int = 32
    """How deeply arrays and objects may be nested; `[]` has depth 1."""


LIMITS = Limits()


def plain(what: str, text: object) -> str:
    """`text` as a `str` itself, if it is a string; else a ConfigurationError.

    A subclass, such as a member of `class X(str, Enum)`, may be formatted as another text than it holds.
    """
    if not isinstance(text, str):
        raise ConfigurationError(f"{what} is a string, not {text!r}")
    return str.__str__(text)


def check_name(what: str, name: object) -> str:
    """`name` as a plain string, if it can name a type, group, consumer or namespace; else a ConfigurationError."""
    text = str.__str__(name) if isinstance(name, str) else ""
    if not _NAME.fullmatch(text):
        raise ConfigurationError(
            f"{what} {name!r} is not a name: use 1 to 128 of A-Z a-z 0-9 . _ - and begin with a letter or digit"
        )
    return text


def is_name(name: str | None) -> TypeGuard[str]:
    """True if it can name a type or a group. Other programs may use other names."""
    return name is not None and _NAME.fullmatch(name) is not None


def type_name(kind: object) -> str:
    """The event type that a string, an `Enum` member or a payload class stands for.

    A class may name its type in `event_type`; else its own name is put in snake case. It is a class whose
    objects can be written and read back, or else a `ConfigurationError`:

    >>> class OrderPlaced(msgspec.Struct): order_id: int
    >>> type_name(OrderPlaced)
    'order_placed'
    """
    if type(kind) is str and kind in _known:
        return kind
    if isinstance(kind, Enum):
        kind = kind.value
    elif isinstance(kind, type):
        return _name_of_class(kind)
    if not isinstance(kind, str):
        hint = '; a decorator is given the type first, as in @bus.on("order_placed")' if callable(kind) else ""
        raise ConfigurationError(
            f"an event type is a string, an Enum with a string value or a class, not {kind!r}{hint}"
        )
    kind = check_name("event type", kind)
    if len(_known) < _MOST_KNOWN:
        _known.add(kind)
    return kind


def _name_of_class(kind: type) -> str:
    if not is_payload_class(kind):
        raise ConfigurationError(
            f"{kind.__name__} is not a class of payloads: give the name of an event type, or a msgspec.Struct, "
            "dataclass, attrs class, pydantic model or pydantic dataclass"
        )
    codec(kind)
    named = getattr(kind, "event_type", None)
    # An attribute of the objects is not the name of their type.
    if isinstance(named, Enum):
        named = named.value
    if isinstance(named, str):
        return check_name("event type", named)
    name = _CAMEL.sub("_", kind.__name__).lower()
    if not is_name(name):
        raise ConfigurationError(
            f"the class {kind.__name__} gives no name for an event type, as {name!r} is not one: name it in the class,"
            ' as in `event_type: ClassVar[str] = "order_placed"`'
        )
    return name


def kind_of(event_type: object) -> Any:
    """The class that the data of events of this type is decoded as; `Any` if it is named by a string."""
    return event_type if is_payload_class(event_type) else Any


_known: set[str] = set()
"""Names that were checked before."""
_MOST_KNOWN = 1000


def encode(data: Any, limits: Limits = LIMITS) -> bytes:
    """The JSON text of a payload, in UTF-8.

    Takes what msgspec takes (dicts, lists, strings, numbers, booleans, None, datetimes, UUIDs,
    dataclasses, attrs classes, Structs, ...) and pydantic models and dataclasses. Integers keep every
    digit. Refused with `InvalidEvent`: NaN and infinities, lone surrogates, anything that is not JSON,
    an object that its own class could not read back, more than `limits.max_depth` levels, more than
    `limits.max_bytes` bytes. A class that can never be read back is a `ConfigurationError`.
    """
    try:
        kind: Any = type(data)
        text = codec(kind).write(data) if kind is not dict and is_payload_class(kind) else encode_json(data)
    except ForebayError:
        raise
    except UnicodeEncodeError as error:
        raise InvalidEvent("the data holds a lone surrogate, which no UTF-8 text can carry") from error
    except RecursionError as error:
        raise InvalidEvent(f"the data is nested deeper than {limits.max_depth} levels, or holds itself") from error
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a payload's own class may raise anything while it is encoded
        raise InvalidEvent(one_line(f"the data is not JSON: {error}")) from error
    # A level takes two brackets, so a short text cannot break a limit.
    if not len(text) <= 2 * limits.max_depth <= limits.max_bytes and (fault := _fault(text, limits)):
        raise PayloadTooLarge(fault) if len(text) > limits.max_bytes else InvalidEvent(fault)
    # msgspec writes NaN and infinities as null, so only a text with null can hide one. One letter is found faster.
    if _N in text and text.find(b"null") >= 0 and _holds_non_finite(msgspec.to_builtins(data, enc_hook=encode_hook)):
        raise InvalidEvent("the data holds NaN or an infinity, which JSON has no word for")
    return text


def decode(text: bytes | str, kind: Any = Any, limits: Limits = LIMITS) -> Any:
    """The payload in a JSON text, as `kind`; `MalformedEvent` names the fault.

    Any error that the class raises means that the data does not fit. Raises `ConfigurationError` if no
    data ever could.
    """
    if isinstance(text, str):
        text = _to_bytes(text)
    # A level takes two brackets, so a short text cannot break a limit.
    if not len(text) <= 2 * limits.max_depth <= limits.max_bytes and (fault := _fault(text, limits)):
        raise MalformedEvent(fault)
    if kind is not Any:
        return _decode_as(kind, text)
    try:
        return _decode_any(text)
    except (ValueError, RecursionError) as error:
        raise MalformedEvent(f"the data is not JSON: {error}") from error


def _decode_as(kind: Any, text: bytes) -> Any:
    read = codec(kind).read
    try:
        return read(text)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the class's own code may raise anything
        raise MalformedEvent(one_line(f"the data does not fit {type_text(kind)}: {_why(error, text)}")) from error


def _why(error: BaseException, text: bytes) -> str:
    try:
        payload = _decode_any(text)
    except (ValueError, RecursionError):
        payload = None
    return misfit(error, payload)


def _to_bytes(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise MalformedEvent("the data is not UTF-8") from error


_N = ord("n")
_decode_any = msgspec.json.Decoder().decode


def _fault(text: bytes, limits: Limits) -> str | None:
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
