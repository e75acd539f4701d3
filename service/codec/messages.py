"""Conversion between dataclasses and protobuf messages by the names of their fields.

A field of a dataclass is converted to the message field of the same name, so a new field needs only its line in the
.proto file. Fields that cannot be derived (a tuple that is a message, a word with a field of its own) get a codec.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.message import Message

_V = TypeVar("_V")
# A FieldDescriptor; the implementation in use has a class of its own.
_Descriptor: TypeAlias = Any
_M = TypeVar("_M", bound=Message)
_Convert = Callable[[Any], Any]


class Codec(Protocol):
    """Converts one value both ways."""

    def encode(self, value: Any, /) -> Any:
        """Return the protobuf form of a value."""
        ...

    def decode(self, message: Any, /) -> Any:
        """Return the value of its protobuf form."""
        ...


class TupleCodec:
    """A tuple as a message with one field per element."""

    def __init__(self, message: type[Message], names: Sequence[str]) -> None:
        self._message = message
        self._names = tuple(names)

    def encode(self, value: tuple[Any, ...]) -> Message:
        """Return the message."""
        return self._message(**dict(zip(self._names, value, strict=True)))

    def decode(self, message: Message) -> tuple[Any, ...]:
        """Return the tuple."""
        return tuple(getattr(message, name) for name in self._names)


class EnumCodec:
    """A word as the enum value whose name ends with the word in capitals: "source" and MASK_SIZE_SOURCE."""

    def __init__(self, enum: EnumDescriptor) -> None:
        prefix = enum.values_by_number[0].name.removesuffix("UNSPECIFIED")
        self._numbers = {value.name.removeprefix(prefix).lower(): value.number for value in enum.values if value.number}
        self._words = {number: word for word, number in self._numbers.items()}

    def encode(self, word: str) -> int:
        """Return the number; 0 (unspecified) for a word that is not in the enum."""
        return self._numbers.get(word, 0)

    def decode(self, number: int) -> str:
        """Return the word; `unknown` for a number that is not in the enum."""
        return self._words.get(number, "unknown")


@dataclasses.dataclass(frozen=True, slots=True)
class _Field:
    """How one field is converted; None converts nothing."""

    attribute: str
    name: str
    encode: _Convert | None
    decode: _Convert | None
    has_presence: bool
    skips_empty: bool


class MessageCodec(Generic[_V, _M]):
    """A dataclass as a message.

    None and the empty value of a field whose default is None are the absence of the field. An enum's 0 is the
    dataclass's default.

    Args:
        value: the dataclass.
        message: the message type.
        codecs: of fields whose form cannot be derived, by attribute.
        names: the message's name of a field, where it differs from the attribute's.
        omitted: attributes that the message does not carry.
    """

    def __init__(
        self,
        value: type[_V],
        message: type[_M],
        *,
        codecs: Mapping[str, Codec] | None = None,
        names: Mapping[str, str] | None = None,
        omitted: frozenset[str] = frozenset(),
    ) -> None:
        self._value = value
        self._message = message
        self._fields: list[_Field] = []
        for declared in dataclasses.fields(value):  # type: ignore[arg-type]  # a dataclass, which no type says
            if declared.name not in omitted:
                name = (names or {}).get(declared.name, declared.name)
                descriptor = message.DESCRIPTOR.fields_by_name[name]
                self._fields.append(_plan(declared, descriptor, (codecs or {}).get(declared.name)))
        self._encoders = [(field.attribute, field.name, field.encode) for field in self._fields]

    def encode(self, value: _V) -> _M:
        """Return the message of a value."""
        known: dict[str, Any] = {}
        for attribute, name, encode in self._encoders:
            given = getattr(value, attribute)
            if given is not None:
                known[name] = given if encode is None else encode(given)
        return self._message(**known)

    def decode(self, message: _M) -> _V:
        """Return the value of a message; absent fields take the dataclass's defaults, or None."""
        return self._value(**self.decode_fields(message))

    def decode_fields(self, message: _M) -> dict[str, Any]:
        """Return the values of the fields that a message carries, by attribute."""
        known: dict[str, Any] = {}
        for field in self._fields:
            if field.has_presence and not message.HasField(field.name):
                if not field.skips_empty:
                    known[field.attribute] = None
                continue
            given = getattr(message, field.name)
            if not given and field.skips_empty and not field.has_presence:
                continue
            known[field.attribute] = given if field.decode is None else field.decode(given)
        return known


def _plan(declared: dataclasses.Field[Any], descriptor: _Descriptor, codec: Codec | None) -> _Field:
    has_default = declared.default is not dataclasses.MISSING
    is_plain_scalar = not descriptor.is_repeated and descriptor.enum_type is None
    encode, decode = (codec.encode, codec.decode) if codec is not None else (None, None)
    if codec is None and descriptor.enum_type is not None:
        enum = EnumCodec(descriptor.enum_type)
        encode, decode = enum.encode, enum.decode
    elif descriptor.is_repeated:
        encode, decode = _of_repeated(descriptor, codec)
    elif codec is None and descriptor.type == descriptor.TYPE_FLOAT:
        decode = _shortest
    return _Field(
        attribute=declared.name,
        name=descriptor.name,
        encode=encode,
        decode=decode,
        has_presence=descriptor.has_presence,
        skips_empty=has_default and (descriptor.has_presence or not is_plain_scalar),
    )


def _shortest(value: float) -> float:
    """Return the decimal number that a `float` field stands for: 0.999618, not 0.9996179938316345.

    Six significant digits (C's FLT_DIG) are what a 32-bit float gives back as it got them; scores have no more.
    """
    return float(f"{value:.6g}")


def _of_repeated(descriptor: _Descriptor, codec: Codec | None) -> tuple[_Convert | None, _Convert]:
    """Return the conversions of a list (to and from a tuple) or of a map (to and from a dict)."""
    if descriptor.message_type is not None and descriptor.message_type.GetOptions().map_entry:
        return None, dict
    if codec is None:
        return None, tuple
    encode, decode = codec.encode, codec.decode
    return (lambda values: [encode(value) for value in values]), (
        lambda messages: tuple(decode(message) for message in messages)
    )
