"""Answers against the truth: one outcome per sample, and intervals over clips."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from model.evaluation.synthetic import MATCH_IOU
from service.domain.result import FrameMasks

NUM_RESAMPLES = 1000

BoolMask = NDArray[np.bool_]
# A clip and a value, or a tuple of values, of each sample that counts.
Values = Sequence[tuple[int, Any]]
Statistic = Callable[[NDArray[np.float64]], float]


@dataclass(frozen=True)
class Sample:
    """Outcome of one sample: clip and time, truth and answer."""

    condition: str
    clip: int
    time_s: float
    signal_to_ambience_db: float | None
    is_ambiguous: bool
    is_sounding: bool
    is_off_screen: bool
    iou: float
    share: float
    predicted: dict[str, Any]  # predicted mask, RLE


@dataclass(frozen=True)
class Labels:
    """One clear sample of a semantic answer: IoU of each kind that visibly sounds; whether matched labels are right."""

    clip: int
    iou_by_kind: tuple[tuple[str, float], ...]
    matches: tuple[bool, ...]


def union_of(entries: Sequence[dict[str, Any]], size: tuple[int, int]) -> BoolMask:
    """Return the pixels of any of the masks, (H, W); each mask is {"segmentation": RLE}."""
    union = np.zeros(size, bool)
    for entry in entries:
        union |= coco_mask.decode(entry["segmentation"]).astype(bool)
    return union


def predicted_mask(frame: FrameMasks, size: tuple[int, int]) -> BoolMask:
    """Return all pixels of an answer's frame, (H, W). Raises ValueError for masks of another size."""
    for mask in frame.masks:
        if mask.segmentation.size != size:
            raise ValueError(f"mask is {mask.segmentation.size}, the clip is {size}")
    return union_of([_entry(mask) for mask in frame.masks], size)


def iou_of(one: BoolMask, two: BoolMask) -> float:
    """Return intersection over union; two empty masks score 1."""
    union = (one | two).sum()
    return float((one & two).sum() / union) if union else 1.0


def compare(condition: str, number: int, truth: dict[str, Any], answered: Sequence[FrameMasks]) -> Iterator[Sample]:
    """Return the outcome of each sample of an answer."""
    size = _size(truth)
    for frame, true_frame in zip(answered, truth["frames"], strict=True):
        predicted, true = predicted_mask(frame, size), union_of(true_frame["masks"], size)
        yield Sample(
            condition=condition,
            clip=number,
            time_s=true_frame["sample_time_s"],
            signal_to_ambience_db=true_frame["signal_to_ambience_db"],
            is_ambiguous=true_frame["ambiguous"],
            is_sounding=bool(true.any()),
            is_off_screen=bool(true_frame["off_screen_sounding"]),
            iou=iou_of(predicted, true),
            share=float(predicted.mean()),
            predicted=coco_mask.encode(np.asfortranarray(predicted, np.uint8)),
        )


def compare_labels(number: int, truth: dict[str, Any], answered: Sequence[FrameMasks]) -> Iterator[Labels]:
    """Return the labels of each clear sample of a semantic answer."""
    size = _size(truth)
    for frame, true_frame in zip(answered, truth["frames"], strict=True):
        if true_frame["ambiguous"]:
            continue
        true = {o["kind"]: union_of([o], size) for o in true_frame["objects"] if o["is_sounding"]}
        predicted = {mask.label: union_of([_entry(mask)], size) for mask in frame.masks}
        nothing = np.zeros(size, bool)
        matches = []
        for label, mask in predicted.items():
            kinds = [kind for kind, true_mask in true.items() if iou_of(mask, true_mask) >= MATCH_IOU]
            matches += [label in kinds] if kinds else []
        yield Labels(
            clip=number,
            iou_by_kind=tuple((kind, iou_of(mask, predicted.get(kind, nothing))) for kind, mask in true.items()),
            matches=tuple(matches),
        )


def interval(values: Values, *, statistic: Statistic, seed: int = 0) -> dict[str, float]:
    """Return a statistic over all values with its 95 % bootstrap interval over clips; NaN without values."""
    by_clip: dict[int, list[Any]] = {}
    for clip, value in values:
        by_clip.setdefault(clip, []).append(value)
    groups = [np.asarray(group, np.float64) for group in by_clip.values()]
    if not groups:
        return {"value": float("nan"), "low": float("nan"), "high": float("nan"), "num": 0, "clips": 0}
    picks = np.random.default_rng(seed).integers(0, len(groups), (NUM_RESAMPLES, len(groups)))
    resampled = [statistic(np.concatenate([groups[i] for i in pick])) for pick in picks.tolist()]
    low, high = np.percentile(resampled, [2.5, 97.5])
    return {
        "value": statistic(np.concatenate(groups)),
        "low": float(low),
        "high": float(high),
        "num": len(values),
        "clips": len(groups),
    }


def mean(values: NDArray[np.float64]) -> float:
    """The mean of (N,) values."""
    return float(values.mean())


def median(values: NDArray[np.float64]) -> float:
    """The median of (N,) values."""
    return float(np.median(values))


def mean_over_kinds(values: NDArray[np.float64]) -> float:
    """(N, 2) kind and IoU: the mean of each kind, then of the kinds."""
    kinds = np.unique(values[:, 0])
    return float(np.mean([values[values[:, 0] == kind, 1].mean() for kind in kinds]))


def _entry(mask: Any) -> dict[str, Any]:
    return {"segmentation": {"size": list(mask.segmentation.size), "counts": mask.segmentation.counts.encode()}}


def _size(truth: dict[str, Any]) -> tuple[int, int]:
    return truth["clip"]["height"], truth["clip"]["width"]
