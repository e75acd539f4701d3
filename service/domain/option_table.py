"""How options are declared: one dataclass field each, from which every transport derives its own form.

    @dataclass(frozen=True, slots=True)
    class SegmentOptions:
        min_area: int = option(WholeNumber(), default=0, help="Leave out masks under this many pixels.")

        def __post_init__(self) -> None:
            check_values(self)

Query and form fields (`parse_fields`, `to_fields`), OpenAPI parameters (`json_schema`), flags of the command line,
fields of the protobuf message, the `options` of an answer and the table in the documentation all read these
declarations.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from service.domain.errors import ServiceError

_T = TypeVar("_T")
_METADATA_KEY = "option"
# Characters of a bad value that an error repeats.
_SHOWN_CHARS = 64
# The options of each dataclass, read from its fields once.
_declared: dict[type, tuple[Option, ...]] = {}


class OptionType(ABC):
    """What values an option takes."""

    @property
    @abstractmethod
    def wanted(self) -> str:
        """What to give, for errors and documentation: "a number from 0 to 1"."""

    @abstractmethod
    def parse(self, text: str) -> object:
        """Return the value that a text stands for; raises ValueError for other text."""

    @abstractmethod
    def accepts(self, value: object) -> bool:
        """Return whether a value of the right Python type is in range."""

    @abstractmethod
    def json_schema(self) -> dict[str, Any]:
        """Return the JSON schema of the value as a query parameter."""

    def to_text(self, value: Any) -> str:
        """Return the text that `parse` reads back as the value."""
        return str(value)


@dataclass(frozen=True, slots=True)
class Number(OptionType):
    """A finite number from `least` to `most` (infinite: no upper bound); `unit` is part of the documentation."""

    least: float = 0.0
    most: float = math.inf
    unit: str = ""

    @property
    def wanted(self) -> str:
        """What to give."""
        noun = f"a number of {self.unit}" if self.unit else "a number"
        if math.isinf(self.most):
            return f"{noun}, {self.least:g} or more"
        return f"{noun} from {self.least:g} to {self.most:g}"

    def parse(self, text: str) -> float:
        """Read a decimal number."""
        return float(text)

    def accepts(self, value: object) -> bool:
        """Check finiteness and range."""
        return isinstance(value, int | float) and math.isfinite(value) and self.least <= value <= self.most

    def json_schema(self) -> dict[str, Any]:
        """Return a number with its bounds."""
        bounds = {} if math.isinf(self.most) else {"maximum": self.most}
        return {"type": "number", "minimum": self.least, **bounds}


@dataclass(frozen=True, slots=True)
class Rate(OptionType):
    """A number of samples per second over 0 and up to `most`, or the word `native`."""

    most: float

    @property
    def wanted(self) -> str:
        """What to give."""
        return f"a number over 0 and at most {self.most:g}, or native"

    def parse(self, text: str) -> object:
        """Read a decimal number or `native`."""
        return text if text == "native" else float(text)

    def accepts(self, value: object) -> bool:
        """Check the range; `native` is always accepted."""
        return value == "native" or (isinstance(value, int | float) and 0 < value <= self.most)

    def json_schema(self) -> dict[str, Any]:
        """Return a bounded number or the word."""
        return {"anyOf": [{"type": "number", "exclusiveMinimum": 0, "maximum": self.most}, {"const": "native"}]}


@dataclass(frozen=True, slots=True)
class WholeNumber(OptionType):
    """A whole number from `least` to `most`; the default bound fits an int32 of any client."""

    least: int = 0
    most: int = 2**31 - 1
    unit: str = ""

    @property
    def wanted(self) -> str:
        """What to give."""
        noun = f"a whole number of {self.unit}" if self.unit else "a whole number"
        return f"{noun} from {self.least} to {self.most}"

    def parse(self, text: str) -> int:
        """Read ASCII digits."""
        if not (text.isascii() and text.isdigit()) or len(text) > len(str(self.most)):
            raise ValueError(text)
        return int(text)

    def accepts(self, value: object) -> bool:
        """Check the range."""
        return isinstance(value, int) and self.least <= value <= self.most

    def json_schema(self) -> dict[str, Any]:
        """Return an integer with its bounds."""
        return {"type": "integer", "minimum": self.least, "maximum": self.most}


@dataclass(frozen=True, slots=True)
class Choice(OptionType):
    """One of a few words."""

    words: tuple[str, ...]

    @property
    def wanted(self) -> str:
        """What to give."""
        return " or ".join([", ".join(self.words[:-1]), self.words[-1]] if len(self.words) > 1 else self.words)

    def parse(self, text: str) -> str:
        """Read one of the words."""
        if text not in self.words:
            raise ValueError(text)
        return text

    def accepts(self, value: object) -> bool:
        """Check that the value is one of the words."""
        return value in self.words

    def json_schema(self) -> dict[str, Any]:
        """Return an enumeration."""
        return {"type": "string", "enum": list(self.words)}


@dataclass(frozen=True, slots=True)
class Flag(OptionType):
    """True or false."""

    @property
    def wanted(self) -> str:
        """What to give."""
        return "true or false"

    def parse(self, text: str) -> bool:
        """Read true or false, also as 1 or 0."""
        if text.lower() not in ("true", "false", "1", "0"):
            raise ValueError(text)
        return text.lower() in ("true", "1")

    def accepts(self, value: object) -> bool:
        """Check the type."""
        return isinstance(value, bool)

    def json_schema(self) -> dict[str, Any]:
        """Return a boolean."""
        return {"type": "boolean"}

    def to_text(self, value: Any) -> str:
        """Return `true` or `false`."""
        return str(value).lower()


@dataclass(frozen=True, slots=True)
class Names(OptionType):
    """A list of names, as text separated by commas; `all` and an empty list mean every name (None)."""

    @property
    def wanted(self) -> str:
        """What to give."""
        return "names separated by commas, or all"

    def parse(self, text: str) -> tuple[str, ...] | None:
        """Split at commas."""
        return self.clean(tuple(text.split(",")))

    def clean(self, names: tuple[str, ...]) -> tuple[str, ...] | None:
        """Strip blanks and drop empty names; None for `all` or no name at all."""
        kept = tuple(name.strip() for name in names if name.strip())
        return None if not kept or kept == ("all",) else kept

    def accepts(self, value: object) -> bool:
        """Check the type."""
        return isinstance(value, tuple) and all(isinstance(name, str) for name in value)

    def json_schema(self) -> dict[str, Any]:
        """Return a string."""
        return {"type": "string"}

    def to_text(self, value: Any) -> str:
        """Join with commas."""
        return ",".join(value)


@dataclass(frozen=True, slots=True)
class Url(OptionType):
    """An address; whoever connects to it checks it."""

    @property
    def wanted(self) -> str:
        """What to give."""
        return "a URL"

    def parse(self, text: str) -> str:
        """Return the text."""
        return text

    def accepts(self, value: object) -> bool:
        """Check the type."""
        return isinstance(value, str)

    def json_schema(self) -> dict[str, Any]:
        """Return a string."""
        return {"type": "string", "format": "uri"}


@dataclass(frozen=True, slots=True)
class Option:
    """One declared option.

    Attributes:
        name: of the query and form field, the protobuf field and the entry of an answer's `options`.
        type: what values it takes; None is accepted where it is the default.
        default: what applies where the option is not given.
        help: what it does, one sentence.
        default_help: what the default means, where the value alone does not say.
    """

    name: str
    type: OptionType
    default: object
    help: str
    default_help: str = ""

    def parse(self, text: str) -> object:
        """Return the value of a text field; raises `bad_option` naming the option, the text and what to give."""
        try:
            return self.type.parse(text.strip())
        except ValueError:
            shown = text[:_SHOWN_CHARS]
            raise ServiceError("bad_option", f"{self.name}: {shown!r} is not {self.type.wanted}.") from None

    def check(self, value: object) -> None:
        """Raise `bad_option` for a value that is out of range."""
        is_default = value is None and self.default is None
        if not is_default and not self.type.accepts(value):
            raise ServiceError("bad_option", f"{self.name}: give {self.type.wanted}.")

    def json_schema(self) -> dict[str, Any]:
        """Return the JSON schema of the option as a query parameter, with its default and description."""
        default = {} if self.default is None else {"default": self.default}
        return {**self.type.json_schema(), **default, "description": self.description}

    @property
    def description(self) -> str:
        """Return help and default as one text."""
        return f"{self.help} Default: {self.default_text}."

    @property
    def default_text(self) -> str:
        """Return the default as documented."""
        if self.default_help:
            return self.default_help
        return f"{self.default:g}" if isinstance(self.default, float) else self.type.to_text(self.default)


def option(kind: OptionType, *, default: Any, help: str, default_help: str = "") -> Any:
    """Declare an option as a field of an options dataclass; see the module's example."""
    declared = Option("", kind, default, help, default_help)
    return field(default=default, metadata={_METADATA_KEY: declared, "description": declared.description})


def same_option(owner: type, name: str, *, default: Any) -> Any:
    """Declare the option `name` of another dataclass again, for a field with a narrower type or another default."""
    return field(default=default, metadata=next(f.metadata for f in dataclasses.fields(owner) if f.name == name))


def options_of(owner: type) -> tuple[Option, ...]:
    """Return the options that a dataclass declares, in order."""
    if owner not in _declared:
        _declared[owner] = tuple(
            dataclasses.replace(declared.metadata[_METADATA_KEY], name=declared.name)
            for declared in dataclasses.fields(owner)
        )
    return _declared[owner]


def check_values(values: Any) -> None:
    """Check every option of a new dataclass instance, and store whole numbers of float options as floats.

    Equal options thus have the same JSON and the same cache key. Raises `bad_option` for a value that is out of range.
    """
    for declared in options_of(type(values)):
        value = getattr(values, declared.name)
        declared.check(value)
        if type(value) is int and isinstance(declared.type, Number | Rate):
            object.__setattr__(values, declared.name, float(value))  # the instance is frozen, and not yet in use


def parse_fields(owner: type[_T], fields: Mapping[str, str]) -> _T:
    """Return the options that text fields (of a query or a form) stand for. A blank field counts as not given.

    Raises:
        ServiceError: `bad_option` naming the field, what it held and what to give.
    """
    known = {declared.name: declared for declared in options_of(owner)}
    for name in fields:
        if name not in known:
            raise ServiceError("bad_option", f"{name[:_SHOWN_CHARS]!r} is not an option; there are {', '.join(known)}.")
    return owner(**{name: known[name].parse(text) for name, text in fields.items() if text.strip()})


def to_fields(values: Any) -> dict[str, str]:
    """Return the text fields of all options that differ from their default; the inverse of `parse_fields`."""
    return {
        declared.name: declared.type.to_text(value)
        for declared in options_of(type(values))
        if (value := getattr(values, declared.name)) != declared.default
    }


def to_markdown(owner: type) -> str:
    """Return the documentation's table of a dataclass's options."""
    lines = ["| option | values | default | meaning |", "|---|---|---|---|"]
    lines += [
        f"| `{declared.name}` | {declared.type.wanted} | {declared.default_text} | {declared.help} |"
        for declared in options_of(owner)
    ]
    return "\n".join(lines) + "\n"
