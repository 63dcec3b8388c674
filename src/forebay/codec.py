"""Payload classes: how their objects are written as JSON and read back, and which classes can be."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import msgspec

from forebay.errors import ConfigurationError, InvalidEvent
from forebay.reason import describe, misfit, one_line

_MASK = b"**********"
"""The text that pydantic writes in place of a secret."""


def is_payload_class(kind: object) -> bool:
    """True if `kind` is a class whose objects are published as themselves."""
    return isinstance(kind, type) and (
        issubclass(kind, msgspec.Struct)
        or dataclasses.is_dataclass(kind)
        or hasattr(kind, "__attrs_attrs__")
        or _is_pydantic(kind)
    )


@lru_cache(maxsize=1024)
def codec(kind: Any) -> Codec | PydanticCodec:
    """The codec of a class, or of any other type that msgspec or pydantic can read from JSON.

    Raises `ConfigurationError` if objects of the type could be written and never be read.
    """
    try:
        return PydanticCodec(kind) if _is_pydantic(kind) else Codec(kind)
    except ConfigurationError:
        raise
    except Exception as error:  # a class may raise anything while its annotations are looked at
        raise ConfigurationError(f"{type_text(kind)} cannot be read from JSON: {describe(error)}") from error


def type_text(kind: Any) -> str:
    """The name of a type, for messages."""
    return str(getattr(kind, "__name__", kind))


class Codec:
    """Structs, dataclasses, attrs classes and other types of msgspec's, with pydantic models in them."""

    def __init__(self, kind: Any) -> None:
        for problem in _problems(msgspec.inspect.type_info(kind)):
            raise ConfigurationError(f"{type_text(kind)} cannot be read from JSON: {problem}")
        self._kind = kind
        self.read = msgspec.json.Decoder(kind, dec_hook=_read_model).decode

    def write(self, value: Any) -> bytes:
        """The JSON text of an object; `InvalidEvent` if it could not be read back."""
        text = encode_json(value)
        again = _read_back(self, text)
        # Other words for the same value (a date given as a string) are the same from the second reading on.
        if (other := encode_json(again)) != text and _in_order(_read_back(self, other)) != _in_order(again):
            raise InvalidEvent(
                f"this {type_text(self._kind)} reads back as another value: look at its `__post_init__`, which each"
                " reading runs again"
            )
        return text


class PydanticCodec:
    """Pydantic models and dataclasses. They are written by alias, and read by alias or name."""

    def __init__(self, kind: Any) -> None:
        from pydantic import TypeAdapter

        self._kind = kind
        self._adapter = TypeAdapter[Any](kind)
        # An unresolved name in an annotation is reported by the first use of the validator.
        _ = self._adapter.validator.title
        # Older versions of pydantic read by alias only.
        by_name = "by_name" in inspect.signature(self._adapter.validate_json).parameters
        self._options: dict[str, Any] = {"by_alias": True, "by_name": True} if by_name else {}
        for problem in self._unwritten():
            raise ConfigurationError(f"{type_text(kind)} cannot be read from JSON: {problem}")

    def read(self, text: bytes) -> Any:
        """The object in a JSON text, checked by the class's validators."""
        return self._adapter.validate_json(text, **self._options)

    def write(self, value: Any) -> bytes:
        """The JSON text of an object; `InvalidEvent` if it could not be read back."""
        return encode_json(self.builtins(value))

    def builtins(self, value: Any) -> Any:
        """The object as `write` writes it, in dicts and lists."""
        written = self._dump(value, "json")
        text = encode_json(written)
        again = _read_back(self, text)
        if (_MASK in text or self._dump(again, "json") != written) and (
            # Sets are written in any order, so Python's values decide.
            self._dump(again, "python") != self._dump(value, "python")
        ):
            raise InvalidEvent(
                f"this {type_text(self._kind)} reads back as another value: look at its secrets, at fields with an"
                " alias for writing only, and at validators that change their own results"
            )
        return written

    def _dump(self, value: Any, mode: Any) -> Any:
        return self._adapter.dump_python(value, mode=mode, by_alias=True, round_trip=True, warnings=False)

    def _unwritten(self) -> Iterator[str]:
        for name, field in getattr(self._kind, "__pydantic_fields__", {}).items():
            if field.exclude and field.is_required():
                yield f"its field {name!r} is required and has exclude=True; give it a default"


def encode_hook(value: Any) -> Any:
    """The form of models and subclasses of `str` inside of other data, as msgspec's `enc_hook`."""
    kind: Any = type(value)
    if _is_pydantic(kind):
        found = codec(kind)
        assert isinstance(found, PydanticCodec)
        return found.builtins(value)
    if isinstance(value, str):
        return str.__str__(value)
    raise TypeError(f"objects of type {kind.__name__} have no form in JSON")


encode_json = msgspec.json.Encoder(enc_hook=encode_hook).encode
_in_order = msgspec.json.Encoder(enc_hook=encode_hook, order="deterministic").encode
"""As `encode_json`, with sets sorted: equal values have equal texts."""


def _read_back(reader: Codec | PydanticCodec, text: bytes) -> Any:
    try:
        return reader.read(text)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        why = misfit(error, msgspec.json.decode(text))
        raise InvalidEvent(one_line(f"this {type_text(reader._kind)} cannot be read back: {why}")) from error  # noqa: SLF001  # its other half


def _read_model(kind: Any, value: Any) -> Any:
    # Such as `Iterable` for `Iterable[int]`, of which the items are not looked at.
    if isinstance(value, typing.get_origin(kind) or kind):
        return value
    return codec(kind).read(msgspec.json.encode(value))


def _is_pydantic(kind: object) -> bool:
    return isinstance(kind, type) and hasattr(kind, "__pydantic_validator__")


def _problems(root: Any) -> Iterator[str]:
    """The parts of a type, as msgspec sees it, that are written and not read back."""
    seen: set[int] = set()
    stack = [("", root)]
    while stack:
        path, node = stack.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, msgspec.inspect.CustomType):
            if not _is_pydantic(node.cls) and not _is_builtin(node.cls):
                yield f"its {path or 'type'} is of the type {type_text(node.cls)}, which JSON has no form for"
        elif isinstance(node, msgspec.inspect.DataclassType) and _is_pydantic(node.cls):
            yield f"its {path} is a pydantic dataclass, which only a pydantic class can check; make it a BaseModel"
        elif isinstance(node, msgspec.inspect.DataclassType):
            for field in getattr(node.cls, "__attrs_attrs__", ()):
                if field.init and field.name.startswith("_"):
                    yield f"the field {field.name!r} of {type_text(node.cls)} is private, and msgspec does not write it"
        if isinstance(node, msgspec.inspect.Field):
            path = f"field {node.name!r}"
        if isinstance(node, tuple):
            stack.extend((path, each) for each in node)
        elif isinstance(node, (msgspec.inspect.Type, msgspec.inspect.Field)):
            stack.extend((path, getattr(node, name)) for name in node.__struct_fields__ if name != "cls")


def _is_builtin(kind: Any) -> bool:
    """True if a value that JSON has is an instance of the class as it is."""
    try:
        return any(issubclass(each, kind) for each in (dict, list, str, int, float, bool, type(None)))
    except TypeError:
        return False
