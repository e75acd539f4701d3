"""What a caller may ask of a clip, validated once for every transport."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

from service.domain.errors import ServiceError
from service.domain.result import ModelInfo

MaskSize = Literal["source", "model"]
_T = TypeVar("_T")

MAX_FPS = 60.0
"""Highest sampling rate in samples per second; `native` is bounded by the clip's own limits instead."""

OPTION_NAMES = ("fps", "start_s", "end_s", "threshold", "size", "labels", "min_area")


@dataclass(frozen=True, slots=True)
class SegmentOptions:
    """Options as asked for: None means the default, which may depend on the model or the clip.

    `fps` None with `native_fps` False is 1 sample per second. Times are seconds on the clip's presentation time line.
    Construction validates and raises ServiceError `bad_option`.
    """

    fps: float = 1.0
    native_fps: bool = False
    start_s: float = 0.0
    end_s: float | None = None
    threshold: float | None = None
    size: MaskSize = "source"
    labels: tuple[str, ...] | None = None
    min_area: int = 0

    def __post_init__(self) -> None:
        _require(
            math.isfinite(self.fps) and 0 < self.fps <= MAX_FPS,
            "fps",
            f"over 0 and at most {MAX_FPS:g}, or native",
        )
        _require(math.isfinite(self.start_s) and self.start_s >= 0, "start_s", "a number of seconds, 0 or more")
        if self.end_s is not None:
            _require(
                math.isfinite(self.end_s) and self.end_s > self.start_s,
                "end_s",
                "a number of seconds over start_s",
            )
        if self.threshold is not None:
            _require(0 <= self.threshold <= 1, "threshold", "a number from 0 to 1")
        _require(self.size in ("source", "model"), "size", "source or model")
        _require(0 <= self.min_area < 2**31, "min_area", "a number of pixels, 0 or more")

    def resolve(self, model: ModelInfo) -> AppliedOptions:
        """Fill in what depends on the model; raises `bad_option` for labels it does not know."""
        unknown = [label for label in self.labels or () if label not in model.labels]
        if unknown:
            known = ", ".join(model.labels)
            raise ServiceError("bad_option", f"labels: this checkpoint does not know {unknown[0]!r}; it knows {known}.")
        threshold = self.threshold
        if threshold is None:
            threshold = 0.0 if model.is_semantic else 0.5
        labels = tuple(label for label in model.labels if self.labels is None or label in self.labels)
        return AppliedOptions(
            fps=None if self.native_fps else self.fps,
            start_s=self.start_s,
            end_s=self.end_s,
            threshold=threshold,
            size=self.size,
            labels=labels,
            min_area=self.min_area,
        )


@dataclass(frozen=True, slots=True)
class AppliedOptions:
    """Options as applied: `fps` None means native (every frame), `end_s` None the end of the clip."""

    fps: float | None
    start_s: float
    end_s: float | None
    threshold: float
    size: MaskSize
    labels: tuple[str, ...]
    min_area: int


def parse_options(fields: Mapping[str, str]) -> SegmentOptions:
    """Options from text fields (query or form).

    Raises:
        ServiceError: `bad_option` naming the field, what it held and what it takes.
    """
    for name in fields:
        if name not in OPTION_NAMES:
            raise ServiceError("bad_option", f"{name[:64]!r} is not an option; there are {', '.join(OPTION_NAMES)}.")
    native = fields.get("fps") == "native"
    size = fields.get("size", "source")
    _require(size in ("source", "model"), "size", "source or model")
    return SegmentOptions(
        fps=1.0 if native else _number(fields, "fps", default=1.0),
        native_fps=native,
        start_s=_number(fields, "start_s", default=0.0),
        end_s=_number(fields, "end_s", default=None),
        threshold=_number(fields, "threshold", default=None),
        size="model" if size == "model" else "source",
        labels=split_labels(fields["labels"].split(",")) if "labels" in fields else None,
        min_area=_integer(fields, "min_area", default=0),
    )


def split_labels(labels: Iterable[str]) -> tuple[str, ...] | None:
    """Labels without blanks; none at all, or `all`, means every label (None)."""
    kept = tuple(label.strip() for label in labels if label.strip())
    return None if not kept or kept == ("all",) else kept


def _number(fields: Mapping[str, str], name: str, *, default: _T) -> float | _T:
    if name not in fields:
        return default
    try:
        return float(fields[name])
    except ValueError:
        raise ServiceError("bad_option", f"{name}: {fields[name][:64]!r} is not a number.") from None


def _integer(fields: Mapping[str, str], name: str, *, default: int) -> int:
    if name not in fields:
        return default
    text = fields[name].strip()
    if not text.isascii() or not text.isdigit() or len(text) > 12:
        raise ServiceError("bad_option", f"{name}: {text[:64]!r} is not a whole number, 0 or more.")
    return int(text)


def _require(is_right: bool, name: str, wanted: str) -> None:
    if not is_right:
        raise ServiceError("bad_option", f"{name}: give {wanted}.")
