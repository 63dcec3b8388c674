"""Reads from a handler's annotations what it takes, and refuses a handler that cannot take its events."""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from forebay.callables import name_of, unwrapped
from forebay.codec import codec, is_payload_class, type_text
from forebay.errors import ConfigurationError
from forebay.event import Event

_MODULES = re.compile(r"(?:[\w<>]+\.)+")
_UNKNOWN: Any = object()
"""Stands for an annotation that is missing or cannot be resolved: it allows everything."""


class Taken(NamedTuple):
    """The arguments of a handler: `kind` is the class of the payload, or `Any` if it takes the event.

    `with_event`: it takes the event as a second argument.
    """

    kind: Any
    with_event: bool


def taken_by(function: Callable[..., Any], *, kind: Any, batch: bool, skip: int = 0) -> Taken:
    """Return what a function takes that is registered for `kind`: a payload class, or `Any` if the type is a name.

    If the type is a name, an annotation with a payload class decides how the data is decoded. `skip` leaves out the
    first parameters, such as the `self` of a function that becomes a method. Raises `ConfigurationError` if the
    function cannot be called with its arguments, or if its annotations contradict them.
    """
    what = f"{'a list of ' if batch else ''}{'events' if batch else 'the event'}"
    if not callable(function):
        raise ConfigurationError(f"a handler is a function that takes {what}, not {function!r}")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return Taken(kind, with_event=False)
    parameters = [each for each in signature.parameters.values() if each.kind in _POSITIONAL][skip:]
    first = _Asked(function, parameters[0] if parameters else None, batch)
    kind = first.payload(kind)
    if kind is not Any and _can_be_called(signature, skip + 2):
        second = _Asked(function, parameters[1] if len(parameters) > 1 else None, batch)
        # A second parameter of another type that has a default is not for the event.
        if second.fits(Event) or not second.has_default:
            second.require(Event)
            return Taken(kind, with_event=True)
    if not _can_be_called(signature, skip + 1):
        raise ConfigurationError(f"handler {name_of(function)}{signature} must be callable with one argument, {what}")
    return Taken(kind, with_event=False)


_POSITIONAL = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
    inspect.Parameter.VAR_POSITIONAL,
)


def _can_be_called(signature: inspect.Signature, arguments: int) -> bool:
    try:
        signature.bind(*[None] * arguments)
    except TypeError:
        return False
    return True


class _Asked:
    """One parameter of a handler."""

    def __init__(self, function: Callable[..., Any], parameter: inspect.Parameter | None, batch: bool) -> None:
        self._function = function
        self._parameter = parameter
        self._batch = batch
        self._annotation = _UNKNOWN if parameter is None else _resolved(function, parameter.annotation)
        self._items = _items(self._annotation) if batch else _arms(self._annotation)

    @property
    def has_default(self) -> bool:
        return self._parameter is not None and self._parameter.default is not inspect.Parameter.empty

    def payload(self, kind: Any) -> Any:
        """Return the class to decode the data as: the given one, or that of the annotation."""
        if kind is not Any:
            self.require(kind)
            return kind
        if self.fits(Event):
            return Any
        if not self._items or not all(is_payload_class(each) and not issubclass(each, Event) for each in self._items):
            self.require(Event)
        found = self._items[0] if len(self._items) == 1 else typing.Union[tuple(self._items)]  # noqa: UP007  # made of a list
        codec(found)
        return found

    def fits(self, kind: Any) -> bool:
        """True if the annotation allows objects of this class, or lists of them."""
        return any(_accepts(each, kind) for each in self._items)

    def require(self, kind: Any) -> None:
        """Raise `ConfigurationError` if the annotation does not allow them."""
        if self.fits(kind):
            return
        assert self._parameter is not None
        given = f"list[{type_text(kind)}]" if self._batch else type_text(kind)
        raise ConfigurationError(
            f"handler {name_of(self._function)} takes {_spelled(self._annotation)}, but is given {given}: write"
            f" `{self._parameter.name}: {given}`{self._hint(kind)}"
        )

    def _hint(self, kind: Any) -> str:
        if self._batch and any(_accepts(each, kind) for each in _arms(self._annotation)):
            return ", or leave out `batch`"
        if not self._batch and any(_accepts(each, kind) for each in _items(self._annotation)):
            return ", or give `batch=100` for lists of up to 100"
        if kind is Event:
            return ", or register it for a class of payloads"
        if any(_accepts(each, Event) for each in self._items):
            return "; the event itself comes as a second argument"
        return ", or register it for the class that it takes"


def _resolved(function: Callable[..., Any], annotation: Any) -> Any:
    """Return the annotation as an object, or `_UNKNOWN`."""
    if annotation is inspect.Parameter.empty:
        return _UNKNOWN
    inner = inspect.unwrap(unwrapped(function))
    names = getattr(inner, "__globals__", None) or getattr(type(inner).__call__, "__globals__", {})

    def holder() -> None: ...

    holder.__annotations__ = {"it": annotation}
    try:
        return typing.get_type_hints(holder, globalns=names, localns={})["it"]
    except Exception:  # noqa: BLE001  # an annotation may be anything, and does not make the handler wrong
        return _UNKNOWN


def _arms(annotation: Any) -> list[Any]:
    """Return the members of a union without None; else the annotation itself."""
    while hasattr(annotation, "__value__"):  # `type Name = ...`
        annotation = annotation.__value__
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [arm for each in typing.get_args(annotation) for arm in _arms(each) if arm is not type(None)]
    return [annotation]


def _items(annotation: Any) -> list[Any]:
    """Return the members of the lists that the annotation allows; none if it allows no lists."""
    found = []
    for arm in _arms(annotation):
        origin = typing.get_origin(arm) or arm
        if not _is_class(origin) or origin is object:
            found.append(_UNKNOWN)
        elif _is_subclass(list, origin):
            arguments = typing.get_args(arm)
            found.extend(_arms(arguments[0]) if arguments else [_UNKNOWN])
    return found


def _accepts(annotation: Any, kind: Any) -> bool:
    """True if the annotation allows an object of the class, or if that cannot be decided."""
    origin = typing.get_origin(annotation) or annotation
    if not _is_class(origin) or not _is_class(kind):
        return True
    # An event has the items of the dict that it was in the original design.
    return _is_subclass(kind, origin) or (kind is Event and _is_subclass(origin, Mapping))


def _is_class(thing: Any) -> bool:
    return isinstance(thing, type) and thing is not Any


def _is_subclass(kind: type, of: type) -> bool:
    try:
        return issubclass(kind, of)
    except TypeError:  # a Protocol or TypedDict cannot be checked at run time
        return True


def _spelled(annotation: Any) -> str:
    return _MODULES.sub("", inspect.formatannotation(annotation))
