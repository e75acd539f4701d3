"""Fragments of an MP4 file (moof): frames, durations and bytes, counted as they arrive, against an index's limits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from service.media.policy import MediaPolicy
from service.media.sandbox.container.boxes import Box, BoxBudget, broken, integer, reject, walk
from service.media.sandbox.container.tracks import Track, too_long

_HAS_BASE, _HAS_DESCRIPTION, _HAS_DURATION, _HAS_SIZE = 0x1, 0x2, 0x8, 0x10
# Flags of tfhd and trun (ISO/IEC 14496-12, 8.8.7 and 8.8.8).
_RUN_OFFSET, _RUN_FIRST_FLAGS, _RUN_DURATION, _RUN_SIZE, _RUN_FLAGS, _RUN_TIME = 0x1, 0x4, 0x100, 0x200, 0x400, 0x800
_MAX_SOUND_SAMPLES = 1_000_000
# Largest time in seconds: live streams count from 1904 or 1970, and none reaches three centuries.
_LATEST_S = 1e10


@dataclass(slots=True)
class _Count:
    track: Track
    num_frames: int = 0
    ticks: int = 0
    begin_ticks: int = 0  # of the first fragment; not 0 if it was cut from a longer stream

    @property
    def length_s(self) -> float:
        return (self.ticks - self.begin_ticks) / self.track.timescale if self.track.timescale else 0.0


@dataclass(slots=True)
class _Header:
    """tfhd of the current track fragment."""

    count: _Count | None = None
    duration: int = 0
    size: int = 0


class FragmentCounter:
    """Adds up the tables of all fragments."""

    def __init__(self, policy: MediaPolicy) -> None:
        self._policy = policy
        self._counts: dict[int, _Count] = {}
        self._num_fragments = 0
        self.num_bytes = 0

    def add_track(self, track: Track) -> None:
        """Add a track that fragments may continue."""
        self._counts[track.track_id] = _Count(track, ticks=track.total_ticks)

    def num_frames(self, track_id: int) -> int:
        """Return the frames of a track so far."""
        return self._counts[track_id].num_frames if track_id in self._counts else 0

    def length_s(self, track_id: int) -> float:
        """Return the seconds from the first to the last frame of a track so far, index and fragments together."""
        return self._counts[track_id].length_s if track_id in self._counts else 0.0

    def take(self, body: memoryview) -> None:
        """Count the body of one moof.

        Raises:
            ServiceError: `broken`, `too_long`, `too_many_frames`.
        """
        self._num_fragments += 1
        if self._num_fragments > self._policy.max_fragments:
            raise reject("too_many_frames", f"The file has more than {self._policy.max_fragments} fragments.")
        header = _Header()
        for box in walk(body, ("moof",), BoxBudget(self._policy)):
            if box.parent != "traf":
                continue
            if box.kind == "tfhd":
                header = self._read_header(box)
            elif box.kind == "tfdt" and header.count is not None:
                at = integer(box.body, 4, 8) if integer(box.body, 0, 1) == 1 else integer(box.body, 4)
                self._begin(header.count, at)
            elif box.kind == "trun" and header.count is not None:
                self._read_run(box, header)

    def _begin(self, count: _Count, ticks: int) -> None:
        """Read the decoding time of a fragment's first frame."""
        if count.track.timescale and ticks / count.track.timescale > _LATEST_S:
            raise too_long(ticks / count.track.timescale, self._policy)
        if not count.ticks and not count.num_frames:
            count.begin_ticks = ticks
        count.ticks = max(count.ticks, ticks)
        self._check(count)

    def _read_header(self, box: Box) -> _Header:
        flags = integer(box.body, 1, 3)
        header = _Header(count=self._counts.get(integer(box.body, 4)))
        at = 8 + (8 if flags & _HAS_BASE else 0) + (4 if flags & _HAS_DESCRIPTION else 0)
        if flags & _HAS_DURATION:
            header.duration = integer(box.body, at)
            at += 4
        if flags & _HAS_SIZE:
            header.size = integer(box.body, at)
        return header

    def _read_run(self, box: Box, header: _Header) -> None:
        assert header.count is not None
        flags, num = integer(box.body, 1, 3), integer(box.body, 4)
        at = 8 + (4 if flags & _RUN_OFFSET else 0) + (4 if flags & _RUN_FIRST_FLAGS else 0)
        fields = [flag for flag in (_RUN_DURATION, _RUN_SIZE, _RUN_FLAGS, _RUN_TIME) if flags & flag]
        if num * 4 * len(fields) > len(box.body) - at:
            raise broken("table trun claims more rows than it holds")
        header.count.num_frames += num
        self._check(header.count)
        rows = np.frombuffer(box.body, ">u4", num * len(fields), at).astype(np.int64).reshape(num, len(fields))
        total, size = num * header.duration, num * header.size
        if flags & _RUN_DURATION:
            total = int(rows[:, fields.index(_RUN_DURATION)].sum())
        if flags & _RUN_SIZE:
            size = int(rows[:, fields.index(_RUN_SIZE)].sum())
        header.count.ticks += total
        self.num_bytes += size
        self._check(header.count)

    def _check(self, count: _Count) -> None:
        most = self._policy.max_frames if count.track.is_picture else _MAX_SOUND_SAMPLES
        if count.num_frames > most:
            raise reject("too_many_frames", f"A track has over {count.num_frames} coded frames; the limit is {most}.")
        if count.length_s > self._policy.longest_s:
            raise too_long(count.length_s, self._policy)
