"""Sound events against the world's truth: which are clear, which are ambiguous, and which were found.

A true event is a time in which the gate of a label's visible source is open, pauses under 0.4 s included. It is clear
if it has no such pause and the source can be heard and seen from its first to its last tenth of a second and for nine
tenths of its time; otherwise its ends are ambiguous, so it is left out, and so are the answered events that lie half or
more within it. Of a gate in which the source is never both heard and seen there is no event. An answered event is right
if it and a clear one of its label differ by at most 0.3 s at both ends.

Why 0.4 s: the world calls a sample ambiguous within 0.2 s of an edge, so in a shorter pause it calls every sample
ambiguous, and whether the pause parts two events is ambiguous too. A single source never pauses for less; such pauses
are between the sounds of two sources of one label, which only binary checkpoints have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.data.synthetic import MIN_VISIBLE_SHARE
from model.data.world.mix import BLOCK_SAMPLES, EDGE_S
from model.data.world.scene import KINDS, Scene
from model.network.preprocess import SAMPLE_RATE_HZ
from service.domain.result import SOUNDING, SoundEvent
from service.postprocess.assignment import assign

TOLERANCE_S = 0.3
_BLOCK_S = BLOCK_SAMPLES / SAMPLE_RATE_HZ
# In a shorter pause every sample is ambiguous.
_CLEAR_PAUSE_S = 2 * EDGE_S
# A clear event is heard and seen for this share of its time, and within this long of both ends.
_CLEAR_SHARE, _CLEAR_EDGE_S = 0.9, 0.1
# A pair that is no match costs more than any that is.
_NO_MATCH = 100.0

_Bools = NDArray[np.bool_]
_Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class TrueEvent:
    """A true event of a label; `is_clear` if neither its ends nor a pause in it are ambiguous."""

    start_s: float
    end_s: float
    is_clear: bool


@dataclass(slots=True)
class EventTally:
    """Counts of events; `lags_s` are how much later right ones start and end than the true ones."""

    num_right: int = 0
    num_wrong: int = 0
    num_missed: int = 0
    lags_s: list[tuple[float, float]] | None = None

    @property
    def precision(self) -> float:
        """Share of answered events that are right."""
        return self.num_right / max(1, self.num_right + self.num_wrong)

    @property
    def recall(self) -> float:
        """Share of clear true events that are found."""
        return self.num_right / max(1, self.num_right + self.num_missed)

    def add(self, true: Sequence[TrueEvent], answered: Sequence[SoundEvent]) -> None:
        """Compare the events of one label in one clip."""
        clear = [event for event in true if event.is_clear]
        pairs = _pairs(clear, answered)
        used = {column for _, column in pairs}
        self.num_right += len(pairs)
        self.num_missed += len(clear) - len(pairs)
        unclear = [event for event in true if not event.is_clear]
        self.num_wrong += sum(
            number not in used and not _is_ambiguous(event, unclear) for number, event in enumerate(answered)
        )
        self.lags_s = (self.lags_s or []) + [
            (answered[b].start_s - clear[a].start_s, answered[b].end_s - clear[a].end_s) for a, b in pairs
        ]


def true_events(
    scene: Scene, states: _Bools, ids: NDArray[np.uint8], *, frame_rate_hz: float, is_semantic: bool
) -> dict[str, list[TrueEvent]]:
    """Return the events of each label in order.

    Args:
        scene: with its sources.
        states: (num_sources, num_blocks) when each is heard, in blocks of 20 ms.
        ids: (T, H, W) object ids of all frames.
        frame_rate_hz: of the frames.
        is_semantic: whether the kinds are labels, or one label is what sounds.
    """
    middles_s = (np.arange(states.shape[1]) + 0.5) * _BLOCK_S
    frame_of = np.minimum((middles_s * frame_rate_hz).astype(int), len(ids) - 1)
    is_open: dict[str, _Bools] = {}
    is_sounding: dict[str, _Bools] = {}
    for source, heard in zip(scene.sources, states, strict=True):
        if not source.slot:
            continue
        label = KINDS[source.kind] if is_semantic else SOUNDING
        seen = ((ids == source.slot).mean(axis=(1, 2)) >= MIN_VISIBLE_SHARE)[frame_of]
        gate = ((source.gates[:, :1] <= middles_s) & (middles_s < source.gates[:, 1:])).any(axis=0)
        is_open[label] = is_open.get(label, np.zeros_like(gate)) | gate
        is_sounding[label] = is_sounding.get(label, np.zeros_like(gate)) | (gate & heard & seen)
    return {label: _events(is_open[label], is_sounding[label]) for label in is_open}


def _events(is_open: _Bools, is_sounding: _Bools) -> list[TrueEvent]:
    edge, clear_pause = round(_CLEAR_EDGE_S / _BLOCK_S), round(_CLEAR_PAUSE_S / _BLOCK_S)
    steps = np.diff(np.concatenate([[0], is_open.astype(int), [0]]))
    runs: list[list[int]] = []
    for start, stop in zip(np.flatnonzero(steps == 1).tolist(), np.flatnonzero(steps == -1).tolist(), strict=True):
        if runs and start - runs[-1][1] < clear_pause:
            runs[-1][1] = stop
        else:
            runs.append([start, stop])
    found = []
    for start, stop in runs:
        sounds = is_sounding[start:stop]
        is_whole = bool(is_open[start:stop].all())
        is_clear = bool(is_whole and sounds.mean() >= _CLEAR_SHARE and sounds[:edge].any() and sounds[-edge:].any())
        if sounds.any():
            found.append(TrueEvent(start * _BLOCK_S, stop * _BLOCK_S, is_clear))
    return found


def _pairs(true: Sequence[TrueEvent], answered: Sequence[SoundEvent]) -> list[tuple[int, int]]:
    """Return the pairs of places of right events, as many as can be."""
    if not true or not answered:
        return []
    off = np.array([[(a.start_s - t.start_s, a.end_s - t.end_s) for a in answered] for t in true])  # (N, M, 2)
    is_right = (np.abs(off) <= TOLERANCE_S + 1e-9).all(axis=2)
    cost = np.where(is_right, np.abs(off).sum(axis=2), _NO_MATCH)
    return [pair for pair in assign(cost) if is_right[pair]]


def _is_ambiguous(event: SoundEvent, unclear: Sequence[TrueEvent]) -> bool:
    covered_s = sum(
        max(0.0, min(event.end_s, true.end_s + TOLERANCE_S) - max(event.start_s, true.start_s - TOLERANCE_S))
        for true in unclear
    )
    return covered_s >= (event.end_s - event.start_s) / 2
