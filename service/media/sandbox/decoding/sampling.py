"""Assignment of frames to sample times (docs/contract.md, "Time"): pure functions of times."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from service.domain.errors import ServiceError
from service.media.policy import DecodeJob

_F = TypeVar("_F")

# The sample of second k is the picture at k + 15/16 s, as in AVSBench's own frame extraction.
PHASE = 15 / 16
# Half a tick of tolerance, in ticks, and a millionth more, so that an exact half tick does not depend on rounding.
_HALF_TICK = 0.5 + 1e-6


@dataclass(frozen=True, slots=True)
class FrameTable:
    """The frames of a picture track in presentation order: int64 (T,) rising ticks; a tick is `time_base` seconds."""

    pts: NDArray[np.int64]
    time_base: Fraction
    end_s: float

    @property
    def times_s(self) -> NDArray[np.float64]:
        """Return the frames' timestamps, float64 (T,) seconds."""
        times: NDArray[np.float64] = self.pts * self.time_base.numerator / self.time_base.denominator
        return times


@dataclass(frozen=True, slots=True)
class Assignments:
    """Sample times, float64 (N,) seconds, strictly rising; for each the row of its frame in the table, int64 (N,)."""

    times_s: NDArray[np.float64]
    rows: NDArray[np.int64]


def first_index(start_s: float, fps: float) -> int:
    """Return the smallest i >= 0 with (i + 15/16) / fps >= start_s."""
    at = max(0, math.ceil(start_s * fps - PHASE) - 1)
    while (at + PHASE) / fps < start_s:
        at += 1
    return at


def assign(table: FrameTable, job: DecodeJob) -> Assignments:
    """Return the samples of a clip whose frames are all known.

    Raises:
        ServiceError: `bad_option` (the range starts after the clip's end), `too_long`, `too_many_frames`.
    """
    end_s = table.end_s if job.end_s is None else min(job.end_s, table.end_s)
    check_length(table.end_s, job)
    check_range(job, clip_end_s=table.end_s)
    if job.fps is None:
        rows = np.flatnonzero(_in_range(table, job.start_s, end_s))
        times = table.times_s[rows]
        check_count(len(rows), job)
    else:
        times = _times_between(job, end_s)
        ticks = times / float(table.time_base) + _HALF_TICK
        rows = np.maximum(np.searchsorted(table.pts, ticks, side="right") - 1, 0)
    if not len(rows):
        rows, times = _lone_sample(table, job, end_s)
    return Assignments(times_s=times, rows=rows.astype(np.int64))


def times_before(table: FrameTable, job: DecodeJob) -> NDArray[np.float64]:
    """Return the times of the samples from `heard_from_s` on that are before the range, float64 (N,) seconds."""
    if job.heard_from_s is None:
        return np.empty(0)
    times_s = assign(table, replace(job, start_s=job.heard_from_s)).times_s
    return times_s[times_s < job.start_s]


def check_range(job: DecodeJob, *, clip_end_s: float) -> None:
    """Raise `bad_option` if the requested range starts after the clip's end."""
    if job.start_s >= clip_end_s:
        raise ServiceError(
            "bad_option", f"start_s: the clip ends at {clip_end_s:.6g} s, before start_s = {job.start_s:.6g} s."
        )


def check_length(end_s: float, job: DecodeJob) -> None:
    """Raise `too_long` if the picture track ends (or a frame of it is shown) after the limit."""
    if end_s > job.policy.longest_s:
        raise ServiceError(
            "too_long",
            f"The clip goes on to {end_s:.6g} s, over the limit of {job.policy.max_clip_s:g} s; send a shorter one.",
        )


def check_count(num: int, job: DecodeJob) -> None:
    """Raise `too_many_frames` if the answer would have more samples than allowed."""
    if num > job.policy.max_samples:
        raise ServiceError(
            "too_many_frames",
            f"The answer would hold {num} frames, over the limit of {job.policy.max_samples}; "
            "lower fps or narrow start_s and end_s.",
        )


def _times_between(job: DecodeJob, end_s: float) -> NDArray[np.float64]:
    assert job.fps is not None
    first = first_index(job.start_s, job.fps)
    check_count(max(0, math.floor(end_s * job.fps - PHASE) - first), job)
    stop = first_index(end_s, job.fps)
    check_count(stop - first, job)
    return (np.arange(first, stop, dtype=np.float64) + PHASE) / job.fps


def _in_range(table: FrameTable, start_s: float, end_s: float) -> NDArray[np.bool_]:
    """Return the frames of [start_s, end_s) with half a tick of tolerance, so that adjacent ranges share no frame."""
    base = float(table.time_base)
    inside: NDArray[np.bool_] = (table.pts >= start_s / base - 0.5) & (table.pts < end_s / base - 0.5)
    return inside


def _lone_sample(table: FrameTable, job: DecodeJob, end_s: float) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    inside = np.flatnonzero(_in_range(table, job.start_s, end_s))
    if len(inside):
        row = int(inside[-1])
    else:  # no frame starts inside the range: take the one on screen
        row = max(0, int(np.searchsorted(table.pts, job.start_s / float(table.time_base) + 0.5, side="right")) - 1)
    return np.array([row]), table.times_s[[row]]


@dataclass(frozen=True, slots=True)
class Shown(Generic[_F]):
    """A decoded frame with its index in presentation order, ticks and seconds."""

    index: int
    pts: int
    timestamp_s: float
    frame: _F


class MissingFrameError(Exception):
    """A frame of the plan did not come out of the decoder."""


class TableChooser(Generic[_F]):
    """Turns decoded frames into samples if all frames are known beforehand: each sample leaves with its own frame.

    Args:
        table: the frames of the clip.
        assignments: the wanted samples.
        is_strict: raise MissingFrameError instead of using the frame before a missing one.
        num_done: samples that have already left (of an earlier attempt).
    """

    def __init__(self, table: FrameTable, assignments: Assignments, *, is_strict: bool, num_done: int = 0) -> None:
        self._times = assignments.times_s
        self._pts = table.pts[assignments.rows]
        self._is_strict = is_strict
        self._next = num_done
        self._before: Shown[_F] | None = None

    @property
    def num_done(self) -> int:
        """Return the number of samples that have left."""
        return self._next

    @property
    def is_done(self) -> bool:
        """Return whether every sample has left."""
        return self._next >= len(self._times)

    def feed(self, shown: Shown[_F]) -> Iterator[tuple[float, Shown[_F]]]:
        """Yield the samples that this frame settles, each with its time in seconds."""
        while not self.is_done and self._pts[self._next] <= shown.pts:
            chosen = shown
            if self._pts[self._next] < shown.pts:
                if self._is_strict:
                    raise MissingFrameError
                chosen = self._before or shown
            self._next += 1
            yield float(self._times[self._next - 1]), chosen
        self._before = shown

    def finish(self) -> Iterator[tuple[float, Shown[_F]]]:
        """Yield the remaining samples when the decoder has ended; they get the last frame."""
        if self._is_strict and not self.is_done:
            raise MissingFrameError
        while not self.is_done and self._before is not None:
            self._next += 1
            yield float(self._times[self._next - 1]), self._before


class StreamChooser(Generic[_F]):
    """Turns decoded frames into samples of a clip whose rest is unknown: a frame is chosen when the next arrives."""

    def __init__(self, job: DecodeJob, time_base: Fraction) -> None:
        self._job = job
        self._base = float(time_base)
        self._end_s = math.inf if job.end_s is None else job.end_s
        self._next = 0 if job.fps is None else first_index(job.start_s, job.fps)
        self._before: Shown[_F] | None = None
        self._in_range: Shown[_F] | None = None
        self._on_screen: Shown[_F] | None = None  # when the range begins
        self._num = 0
        self.is_done = False

    def feed(self, shown: Shown[_F]) -> Iterator[tuple[float, Shown[_F]]]:
        """Yield the samples that are settled now that this frame is known."""
        check_length(shown.timestamp_s, self._job)
        half = self._base / 2
        if self._on_screen is None or shown.timestamp_s <= self._job.start_s + half:
            self._on_screen = shown
        if shown.timestamp_s >= self._end_s - half:
            self.is_done = True
        elif shown.timestamp_s >= self._job.start_s - half:
            self._in_range = shown
        if self._job.fps is None:
            if self._in_range is shown:
                yield self._emit(shown.timestamp_s, shown)
        else:
            # the table's own expression, so that both choosers round an exact half tick alike
            yield from self._emit_while(
                lambda time_s: time_s / self._base + _HALF_TICK < shown.pts, self._before or shown
            )
        self._before = shown

    def finish(self, end_s: float) -> Iterator[tuple[float, Shown[_F]]]:
        """Yield the remaining samples once the clip's end is known.

        Raises:
            ServiceError: `bad_option` if the range starts after the end; `too_long`.
        """
        if self._before is None:
            return
        check_length(end_s, self._job)
        check_range(self._job, clip_end_s=end_s)
        if self._job.fps is not None:
            yield from self._emit_while(lambda time_s: time_s < end_s, self._before)
        if self._num == 0:
            chosen = self._in_range or self._on_screen or self._before
            yield self._emit(chosen.timestamp_s, chosen)

    def _emit_while(self, is_settled: Callable[[float], bool], shown: Shown[_F]) -> Iterator[tuple[float, Shown[_F]]]:
        assert self._job.fps is not None
        while (time_s := (self._next + PHASE) / self._job.fps) < self._end_s and is_settled(time_s):
            self._next += 1
            yield self._emit(time_s, shown)

    def _emit(self, time_s: float, shown: Shown[_F]) -> tuple[float, Shown[_F]]:
        self._num += 1
        check_count(self._num, self._job)
        return time_s, shown
