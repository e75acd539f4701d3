"""Onsets and offsets in an answer against the true ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.data.synthetic import MIN_VISIBLE_SHARE
from model.data.world.mix import BLOCK_SAMPLES
from model.network.preprocess import SAMPLE_RATE_HZ
from service.bench.hearing.score import BoolMask, predicted_mask
from service.domain.result import FrameMasks

BLOCK_S = BLOCK_SAMPLES / SAMPLE_RATE_HZ
# Seconds within which a predicted edge matches a true one.
MATCH_S = 0.75
# A true edge counts if the object keeps its state for this many seconds before and after it.
STEADY_S = 0.3


@dataclass(frozen=True)
class Edge:
    """The moment at which an object starts (is_on) or stops."""

    time_s: float
    is_on: bool


@dataclass(frozen=True)
class EdgeOutcome:
    """A true edge of a clip and how much later the answer has it, in seconds; None if it does not."""

    clip: int
    is_on: bool
    lag_s: float | None


@dataclass(frozen=True)
class ClipEdges:
    """All edges of a clip.

    Attributes:
        outcomes: one for each true edge.
        is_predicted_false: for each predicted edge, whether no true one is within MATCH_S.
    """

    outcomes: tuple[EdgeOutcome, ...]
    is_predicted_false: tuple[bool, ...]


def state_edges(states: BoolMask) -> list[Edge]:
    """Return every change in (num_blocks,) states, at the end of the 20 ms block before it."""
    changes = np.flatnonzero(states[1:] != states[:-1]) + 1
    return [Edge(float(i) * BLOCK_S, bool(states[i])) for i in changes]


def steady_edges(states: BoolMask) -> list[Edge]:
    """Return the changes whose state lasts STEADY_S on both sides within the clip."""
    edges = state_edges(states)
    bounds = [0.0, *(e.time_s for e in edges), len(states) * BLOCK_S]
    lengths = np.diff(bounds)
    return [e for i, e in enumerate(edges) if min(lengths[i], lengths[i + 1]) >= STEADY_S - 1e-9]


def predicted_edges(times_s: NDArray[np.float64], shares: NDArray[np.float64]) -> list[Edge]:
    """Return the predicted edges: the times at which the covered share of an object's silhouette crosses one half.

    Times between samples are interpolated linearly. No edge is returned next to a NaN share.

    Args:
        times_s: (N,) sample times in seconds.
        shares: (N,) covered share of the silhouette; NaN where the object is not visible.
    """
    edges = []
    for i in range(len(shares) - 1):
        before, after = shares[i], shares[i + 1]
        if np.isnan(before) or np.isnan(after) or (before >= 0.5) == (after >= 0.5):
            continue
        part = (0.5 - before) / (after - before)
        edges.append(Edge(float(times_s[i] + part * (times_s[i + 1] - times_s[i])), bool(after >= 0.5)))
    return edges


def match(true: Sequence[Edge], predicted: Sequence[Edge]) -> list[float | None]:
    """Return the lag of each true edge to the nearest predicted one of its kind within MATCH_S, each used once."""
    pairs = sorted(
        (abs(s.time_s - t.time_s), i, j)
        for i, t in enumerate(true)
        for j, s in enumerate(predicted)
        if s.is_on == t.is_on and abs(s.time_s - t.time_s) <= MATCH_S
    )
    lags: list[float | None] = [None] * len(true)
    used: set[int] = set()
    for _, i, j in pairs:
        if lags[i] is None and j not in used:
            lags[i] = predicted[j].time_s - true[i].time_s
            used.add(j)
    return lags


def clip_edges(
    number: int,
    truth: dict[str, Any],
    ids: NDArray[np.uint8],
    states: dict[int, BoolMask],
    answered: Sequence[FrameMasks],
) -> ClipEdges:
    """Compare one densely sampled answer.

    Args:
        number: of the clip.
        truth: of the clip, for its size.
        ids: (T, H, W) object ids of every frame.
        states: (num_blocks,) when each visible object sounds, by its id.
        answered: the answer's frames.
    """
    times_s = np.array([frame.sample_time_s for frame in answered])
    size = (truth["clip"]["height"], truth["clip"]["width"])
    masks = [predicted_mask(frame, size) for frame in answered]
    silhouettes = [ids[frame.index] for frame in answered]
    outcomes: list[EdgeOutcome] = []
    is_false: list[bool] = []
    for slot, sounds in states.items():
        shares = _shares(masks, silhouettes, slot=slot)
        predicted = predicted_edges(times_s, shares)
        true = [e for e in steady_edges(sounds) if _is_observed(e, times_s, shares)]
        lags = match(true, predicted)
        outcomes += [EdgeOutcome(number, e.is_on, lag) for e, lag in zip(true, lags, strict=True)]
        moments = [e.time_s for e in state_edges(sounds)]
        is_false += [all(abs(s.time_s - moment) > MATCH_S for moment in moments) for s in predicted]
    return ClipEdges(tuple(outcomes), tuple(is_false))


def _shares(masks: Sequence[BoolMask], silhouettes: Sequence[NDArray[np.uint8]], *, slot: int) -> NDArray[np.float64]:
    """Return how much of the object each mask covers, (N,); NaN where hardly anything of it is visible."""
    shares = np.full(len(masks), np.nan)
    for i, (mask, ids) in enumerate(zip(masks, silhouettes, strict=True)):
        shape = ids == slot
        if shape.mean() >= MIN_VISIBLE_SHARE:
            shares[i] = mask[shape].mean()
    return shares


def _is_observed(edge: Edge, times_s: NDArray[np.float64], shares: NDArray[np.float64]) -> bool:
    """Whether there are samples from before the edge until MATCH_S after it, and the object is visible in them."""
    near = np.abs(times_s - edge.time_s) <= MATCH_S
    is_inside = bool(times_s[0] <= edge.time_s <= times_s[-1] - MATCH_S)
    return is_inside and not np.isnan(shares[near]).any()
