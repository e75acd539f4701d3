"""Place pieces of sound on the 16 kHz time line: the one rule for uploads and live streams.

Timestamps of sound jitter by some milliseconds (phones, RTSP recorders) and may drift against the sound's own rate. A
run of pieces is therefore joined without seams and follows the timestamps slowly:

- A piece whose timestamp is within `MAX_JITTER_S` of the end of the piece before continues the run.
- Anything else (a gap, an overlap, another rate) starts a new run at its own timestamp.
- When the mean deviation exceeds `_DEAD_ZONE_S`, the sound is stretched by up to `_MAX_STRETCH` until it is back.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from numpy.typing import NDArray

from service.domain.chunk import SAMPLE_RATE_HZ

# Largest deviation that continues a run, seconds. Recorders jitter by 10 to 20 ms; viewers notice sound that is off by
# about 45 ms (ITU-R BT.1359).
MAX_JITTER_S = 0.05
# Mean deviation that is left alone, seconds: the first timestamp of a run is off by its own jitter.
_DEAD_ZONE_S = 0.015
# Time constant of the mean deviation and of its correction, seconds.
_SETTLE_S = 1.0
# Largest change of speed: 2 % is a third of a semitone.
_MAX_STRETCH = 0.02
_LAYOUTS = {1: "mono", 2: "stereo"}

Rows = NDArray[np.float32]
# Position of the first sample on the 16 kHz time line, and int16 (R, S).
Placed = tuple[int, NDArray[np.int16]]


class SoundRun:
    """Sound without a break: one resampler, positions counted from the start of the run.

    Args:
        start_s: timestamp of the first piece, seconds.
        rate_hz: rate of the pieces.
        num_rows: 1 or 2 signals that are placed side by side.
        batch_s: pieces are resampled in batches of this length, because a call costs more than its work; 0 resamples
            each piece at once.
    """

    def __init__(self, start_s: float, rate_hz: int, *, num_rows: int, batch_s: float) -> None:
        self._start_s = start_s
        self._rate_hz = rate_hz
        self._num_rows = num_rows
        self._batch_samples = batch_s * rate_hz
        self._num_in = 0
        self._waiting: list[Rows] = []
        self._num_waiting = 0
        self._position = round(start_s * SAMPLE_RATE_HZ)
        self._deviation_s = 0.0  # exponential mean
        self._stretched = 0  # samples at 16 kHz added so far
        self._resampler: AudioResampler | None = None
        if rate_hz != SAMPLE_RATE_HZ:
            self._resampler = AudioResampler("fltp", _LAYOUTS[num_rows], SAMPLE_RATE_HZ)

    @property
    def end_s(self) -> float:
        """Where the next piece is due, seconds."""
        return self._start_s + self._num_in / self._rate_hz + self._stretched / SAMPLE_RATE_HZ

    def continues(self, time_s: float | None, rate_hz: int, *, num_rows: int) -> bool:
        """Whether a piece belongs to this run; a piece without a timestamp goes on where the last one ended."""
        is_alike = rate_hz == self._rate_hz and num_rows == self._num_rows
        return is_alike and (time_s is None or abs(time_s - self.end_s) <= MAX_JITTER_S)

    def push(self, samples: Rows, *, time_s: float | None) -> Iterator[Placed]:
        """Add a piece, float32 (R, S) in [-1, 1], and yield what is ready.

        Raises:
            av.FFmpegError: the rate cannot be resampled.
        """
        length_s = samples.shape[1] / self._rate_hz
        if time_s is not None:
            share = min(1.0, length_s / _SETTLE_S)
            self._deviation_s += share * (time_s - self.end_s - self._deviation_s)
        self._num_in += samples.shape[1]
        self._waiting.append(samples)
        self._num_waiting += samples.shape[1]
        if self._num_waiting >= self._batch_samples:
            yield from self._convert()

    def flush(self) -> Iterator[Placed]:
        """Yield all that is held back, here and in the resampler."""
        yield from self._convert()
        if self._resampler is not None:
            for out in self._resampler.resample(None):
                yield self._place(out.to_ndarray().astype(np.float32, copy=False))

    def _convert(self) -> Iterator[Placed]:
        if not self._waiting:
            return
        samples = self._waiting[0] if len(self._waiting) == 1 else np.concatenate(self._waiting, axis=1)
        self._waiting, self._num_waiting = [], 0
        if self._resampler is None:
            yield self._place(samples)
            return
        frame = AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout=_LAYOUTS[len(samples)])
        frame.sample_rate = self._rate_hz
        for out in self._resampler.resample(frame):
            yield self._place(out.to_ndarray().astype(np.float32, copy=False))

    def _place(self, samples: Rows) -> Placed:
        samples = self._follow(samples)
        start = self._position
        self._position += samples.shape[1]
        return start, np.clip(np.rint(samples * 32768.0), -32768, 32767).astype(np.int16)

    def _follow(self, samples: Rows) -> Rows:
        """Stretch samples at 16 kHz towards the timestamps; without a deviation they are returned as they are."""
        excess_s = self._deviation_s - min(max(self._deviation_s, -_DEAD_ZONE_S), _DEAD_ZONE_S)
        num = samples.shape[1]
        most = _MAX_STRETCH * num
        change = round(min(max(excess_s * num / _SETTLE_S, -most), most))
        if change == 0:
            return samples
        self._stretched += change
        self._deviation_s -= change / SAMPLE_RATE_HZ
        at = np.arange(num + change) * (num / (num + change))
        return np.stack([np.interp(at, np.arange(num), row) for row in samples]).astype(np.float32)
