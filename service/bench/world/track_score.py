"""Identity figures of tracks of masks: IDF1 and HOTA."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from service.postprocess.assignment import assign

# IoU from which a mask is that of a true object (IDF1).
MATCH_IOU = 0.5
# IoUs that HOTA is averaged over.
HOTA_IOUS = tuple(round(0.05 * step, 2) for step in range(1, 20))
_Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class TrackedFrame:
    """The objects of one frame: true ids (N,), answered ids (M,) and their IoUs (N, M)."""

    true_ids: tuple[int, ...]
    track_ids: tuple[int, ...]
    ious: _Floats


@dataclass(slots=True)
class _Counts:
    """Numbers of frames in which a true object, a track or both are there, by their numbers in the clip."""

    frames: Sequence[TrackedFrame]
    true_ids: list[int] = field(init=False)
    track_ids: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.true_ids = sorted({each for frame in self.frames for each in frame.true_ids})
        self.track_ids = sorted({each for frame in self.frames for each in frame.track_ids})

    def true_frames(self) -> _Floats:
        return np.array([sum(each in frame.true_ids for frame in self.frames) for each in self.true_ids], float)

    def track_frames(self) -> _Floats:
        return np.array([sum(each in frame.track_ids for frame in self.frames) for each in self.track_ids], float)

    def places(self, frame: TrackedFrame) -> tuple[list[int], list[int]]:
        """Return the places of a frame's objects in the lists of ids."""
        return [self.true_ids.index(each) for each in frame.true_ids], [
            self.track_ids.index(each) for each in frame.track_ids
        ]


def mask_ious(true: Sequence[NDArray[np.bool_]], answered: Sequence[NDArray[np.bool_]]) -> _Floats:
    """Return the IoUs (N, M) of masks of one size; two empty ones have 0."""
    if not true or not answered:
        return np.zeros((len(true), len(answered)))
    ours, theirs = (np.stack(masks).reshape(len(masks), -1).astype(np.float32) for masks in (true, answered))
    both = ours @ theirs.T
    either = ours.sum(axis=1)[:, None] + theirs.sum(axis=1)[None] - both
    return np.asarray(both / np.maximum(either, 1.0), np.float64)


def idf1(clips: Sequence[Sequence[TrackedFrame]]) -> float:
    """Return the identity F1 of Ristani et al., "Performance Measures and a Data Set for Multi-Target …" (2016).

    In each clip true objects and tracks are paired one to one so that most frames agree (IoU of at least 0.5). IDF1
    is twice the number of those frames over the number of all true and all answered masks.
    """
    agreed, total = 0.0, 0.0
    for frames in clips:
        counts = _Counts(frames)
        both = np.zeros((len(counts.true_ids), len(counts.track_ids)))
        for frame in frames:
            rows, columns = counts.places(frame)
            both[np.ix_(rows, columns)] += frame.ious >= MATCH_IOU
        agreed += sum(both[pair] for pair in assign(-both))
        total += counts.true_frames().sum() + counts.track_frames().sum()
    return 2 * agreed / total if total else 0.0


def hota(clips: Sequence[Sequence[TrackedFrame]]) -> float:
    """Return HOTA (Luiten et al., "HOTA: A Higher Order Metric …", IJCV 2021), the mean over IoUs from 0.05 to 0.95.

    The geometric mean of how well objects are detected and how well tracks agree with them over the clip. Per clip
    and IoU the frames' pairs are chosen as in the reference implementation: by IoU weighted with how much the two
    tracks overlap over the whole clip. Counts are summed over clips.
    """
    return float(np.mean([_hota_at(clips, iou) for iou in HOTA_IOUS]))


def _hota_at(clips: Sequence[Sequence[TrackedFrame]], least_iou: float) -> float:
    hits, misses_and_false, association = 0.0, 0.0, 0.0
    for frames in clips:
        counts = _Counts(frames)
        matched = _matches(frames, counts, least_iou)
        union = counts.true_frames()[:, None] + counts.track_frames()[None] - matched
        hits += matched.sum()
        misses_and_false += counts.true_frames().sum() + counts.track_frames().sum() - 2 * matched.sum()
        association += float((matched * matched / np.maximum(union, 1.0)).sum())
    return float(np.sqrt(association / max(hits + misses_and_false, 1.0)))


def _matches(frames: Sequence[TrackedFrame], counts: _Counts, least_iou: float) -> _Floats:
    """Return the number of frames (N, M) in which an object and a track are a pair."""
    potential = np.zeros((len(counts.true_ids), len(counts.track_ids)))
    for frame in frames:
        sums = frame.ious.sum(axis=0)[None] + frame.ious.sum(axis=1)[:, None] - frame.ious
        potential[np.ix_(*counts.places(frame))] += frame.ious / np.maximum(sums, 1e-9)
    alignment = potential / np.maximum(counts.true_frames()[:, None] + counts.track_frames()[None] - potential, 1e-9)
    matched = np.zeros_like(potential)
    for frame in frames:
        rows, columns = counts.places(frame)
        for row, column in assign(-alignment[np.ix_(rows, columns)] * frame.ious):
            matched[rows[row], columns[column]] += frame.ious[row, column] >= least_iou
    return matched
