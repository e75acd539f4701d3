"""Types of option values: the text, JSON schema, range and documentation of each."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any


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
