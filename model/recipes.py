"""Named training runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, get_args

from model.training import AmpMode, TrainingConfig


def tiny_synthetic() -> TrainingConfig:
    """The shipped checkpoint's run: `tiny` on the synthetic world, on one CPU core in about 75 minutes.

    Small frames first (a step costs half), the size of use at the end.
    """
    return TrainingConfig(
        name="tiny-synthetic",
        variant="tiny",
        steps=20_000,
        sizes=((0.0, 96), (0.4, 128), (0.82, 160)),
        learning_rate=1.2e-3,
    )


RECIPES: Mapping[str, Callable[[], TrainingConfig]] = {"tiny-synthetic": tiny_synthetic}


def recipe(name: str, *, overrides: Sequence[str] = ()) -> TrainingConfig:
    """A recipe with `key=value` overrides.

    Raises:
        ValueError: no such recipe or key, or a value of the wrong kind.
    """
    if name not in RECIPES:
        raise ValueError(f"recipe: got {name!r}, expected one of {', '.join(RECIPES)}")
    config = RECIPES[name]()
    return replace(config, **dict(_parse(config, entry) for entry in overrides))


def _parse(config: TrainingConfig, entry: str) -> tuple[str, Any]:
    key, separator, text = entry.partition("=")
    known = {field.name for field in fields(config)} - {"name"}
    if not separator or key not in known:
        raise ValueError(f"override: got {entry!r}, expected key=value with key one of {', '.join(sorted(known))}")
    current = getattr(config, key)
    if key == "sizes":
        return key, _parse_sizes(text)
    if key == "amp":
        if text not in get_args(AmpMode):
            raise ValueError(f"amp: got {text!r}, expected {', '.join(get_args(AmpMode))}")
        return key, text
    if isinstance(current, bool):
        if text not in ("true", "false"):
            raise ValueError(f"{key}: got {text!r}, expected true or false")
        return key, text == "true"
    try:
        return key, type(current)(text)
    except ValueError:
        raise ValueError(f"{key}: got {text!r}, expected {type(current).__name__}") from None


def _parse_sizes(text: str) -> tuple[tuple[float, int], ...]:
    """`0:96,0.35:128` to ((0.0, 96), (0.35, 128))."""
    try:
        pairs = [entry.split(":") for entry in text.split(",")]
        sizes = tuple((float(start), int(size)) for start, size in pairs)
    except ValueError:
        raise ValueError(f"sizes: got {text!r}, expected start:pixels,… such as 0:96,0.35:128") from None
    if sizes[0][0] != 0.0 or any(size % 32 for _, size in sizes):
        raise ValueError(f"sizes: got {text!r}, expected the first start at 0 and multiples of 32 pixels")
    return sizes
