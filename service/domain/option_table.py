"""Declaration of options: one dataclass field each, from which every transport derives its own form.

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
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from service.domain.errors import ServiceError
from service.domain.option_types import Number, OptionType, Rate

_T = TypeVar("_T")
_METADATA_KEY = "option"
# Characters of a bad value that an error repeats.
_SHOWN_CHARS = 64
# The options of each dataclass, read from its fields once.
_declared: dict[type, tuple[Option, ...]] = {}


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
