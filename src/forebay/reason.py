"""Errors as one line for people: no payload, no password, at most 500 characters."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

LONGEST = 500
"""Characters of a reason."""
_LONGEST_PART = LONGEST // 2
"""Characters of an error that is reported together with its cause."""
_SHORTEST_VALUE = 3
"""Characters from which on a value of a payload is hidden: shorter ones are as likely words of the message."""
_PREFIX = 40
"""Characters by which a long value is found in a message that cuts it."""
_FIRST_FAULTS = 3

_QUOTED_BY_MSGSPEC = re.compile(r"^(Invalid (?:enum )?value) .+?(?= - at |$)", re.DOTALL)


def one_line(text: str, longest: int = LONGEST) -> str:
    """The text on one line, without passwords in URLs, cut to `longest` characters."""
    line = " ".join(map(_masked, text.split())).encode(errors="replace").decode()
    return line if len(line) <= longest else line[: longest - 1] + "…"


def _masked(word: str) -> str:
    """The word without the user and password of a URL in it. No regular expression does this in linear time."""
    scheme, ends, rest = word.partition("://")
    return f"{scheme}{ends}***@{rest.rpartition('@')[2]}" if "@" in rest else word


def describe(error: BaseException) -> str:
    """An error as one line of at most 500 characters: its class, its message, and its cause.

    Of an `ExceptionGroup` the first member stands for all. Values that a pydantic error quotes are left out.
    """
    try:
        return _described(error)
    except Exception:  # noqa: BLE001  # an exception's own attributes may be broken
        return one_line(f"{type(error).__name__}: (it cannot be read)")


def _described(error: BaseException) -> str:
    members = list(leaves(error))
    first = members[0]
    cause = first.__cause__ or error.__cause__
    others = f" (the first of {len(members)} errors)" if len(members) > 1 else ""
    if cause is None or type(first).__module__ == "forebay.errors":
        # forebay's own messages are whole sentences, which name the cause if it matters.
        return one_line(_named(first), LONGEST - len(others)) + others
    own = one_line(_named(first), _LONGEST_PART)
    return one_line(f"{own}; caused by {_named(next(leaves(cause)))}", LONGEST - len(others)) + others


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors in an `ExceptionGroup` and in the groups in it, in order; else the error itself."""
    left = [error]
    while left:
        error = left.pop()
        if isinstance(error, BaseExceptionGroup):
            left.extend(reversed(error.exceptions))
        else:
            yield error


def misfit(error: BaseException, payload: object) -> str:
    """The reason for which a payload class refused a payload, without the values in it."""
    error = next(leaves(error))
    text = _message(error) if _is_validation(error) else _named(error)
    return redacted(text, payload)


def redacted(text: str, payload: object) -> str:
    """The text without the strings and numbers of the payload that it quotes."""
    text = text[: 4 * LONGEST]
    for value in sorted(_values_in(text, payload), key=len, reverse=True):
        text = _without(text, value)
    return text


def _named(error: BaseException) -> str:
    name, text = type(error).__name__, _message(error)
    return f"{name}: {text}" if text else name


def _message(error: BaseException) -> str:
    try:
        if _is_pydantic(error):
            return _pydantic_message(error)
        text = str(error)
        return _QUOTED_BY_MSGSPEC.sub(r"\1", text) if isinstance(error, msgspec.ValidationError) else text
    except Exception:  # noqa: BLE001  # an exception's own __str__ may be broken
        return "(its message cannot be read)"


def _is_validation(error: BaseException) -> bool:
    return isinstance(error, msgspec.MsgspecError) or _is_pydantic(error)


def _is_pydantic(error: BaseException) -> bool:
    return type(error).__module__.partition(".")[0] == "pydantic_core" and hasattr(error, "errors")


def _pydantic_message(error: Any) -> str:
    faults = error.errors(include_url=False, include_context=False)
    parts = [_pydantic_fault(each) for each in faults[:_FIRST_FAULTS]]
    if len(faults) > _FIRST_FAULTS:
        parts.append(f"and {len(faults) - _FIRST_FAULTS} more")
    return "; ".join(parts)


def _pydantic_fault(found: Mapping[str, Any]) -> str:
    place = ".".join(map(str, found["loc"]))
    text = redacted(found["msg"], found["input"])
    return f"{place}: {text}" if place else text


def _values_in(text: str, payload: object) -> set[str]:
    found = set()
    for value in _forms(payload):
        if len(value) >= _SHORTEST_VALUE and value[:_PREFIX] in text:
            found.add(value)
    return found


def _forms(payload: object) -> Iterator[str]:
    """The values in a payload, as messages quote them."""
    stack = [payload]
    while stack:
        value = stack.pop()
        if isinstance(value, Mapping):
            stack.extend(value.values())
        elif isinstance(value, str):
            yield value
            if (quoted := repr(str(value))[1:-1]) != value:
                yield quoted
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield str(value)
        elif isinstance(value, Iterable) and not isinstance(value, bytes):
            stack.extend(value)


def _without(text: str, value: str) -> str:
    start = value[:_PREFIX]
    at = text.find(start)
    while at >= 0:
        end = at + len(start)
        while end < len(text) and end - at < len(value) and text[end] == value[end - at]:
            end += 1
        if len(start) == _PREFIX or not _is_inside_word(text, at, end):
            text = f"{text[:at]}…{text[end:]}"
        at = text.find(start, at + 1)
    return text


def _is_inside_word(text: str, start: int, end: int) -> bool:
    before, after = text[start - 1 : start], text[end : end + 1]
    return (before.isalnum() and text[start].isalnum()) or (after.isalnum() and text[end - 1].isalnum())
