"""The sound of a live stream: PCM of any rate on a 16 kHz time line of the last 30 seconds."""

from __future__ import annotations

import math
from collections.abc import Iterator

import av
import numpy as np
from numpy.typing import NDArray

from service.domain.chunk import SAMPLE_RATE_HZ, WINDOW_SAMPLES
from service.domain.errors import ServiceError
from service.domain.live import SoundPiece
from service.media.sound_run import Placed, SoundRun

# Sound may be this far ahead of the frames: 30 s, 960 kB per stream.
KEPT_SAMPLES = 30 * SAMPLE_RATE_HZ
MIN_RATE_HZ, MAX_RATE_HZ = 4_000, 384_000
MAX_PIECE_S = 10.0
# Largest absolute timestamp in seconds: any Unix time fits, and float64 still distinguishes samples at 16 kHz.
MAX_TIMESTAMP_S = 1e11


def sample_index(time_s: float) -> int:
    """Return the nearest sample of the 16 kHz time line."""
    return math.floor(time_s * SAMPLE_RATE_HZ + 0.5)


class SoundTimeline:
    """Ring buffer of the last `KEPT_SAMPLES` of int16 sound by absolute index; silence where nothing was written."""

    def __init__(self) -> None:
        self._ring = np.zeros(KEPT_SAMPLES, dtype=np.int16)
        self._end: int | None = None

    def write(self, index: int, sound: NDArray[np.int16]) -> None:
        """Write int16 (S,) at `index`. Gaps become silence; samples that are there already are not overwritten.

        A jump of more than `KEPT_SAMPLES`, forward or back, clears the buffer: the client has set its clock.
        """
        if self._end is None or abs(index - self._end) > KEPT_SAMPLES:
            self._ring[:] = 0
            self._end = index
        if index > self._end:
            self._put(np.zeros(index - self._end, dtype=np.int16))
        self._put(sound[max(0, self._end - index) :])

    def read(self, start: int, end: int) -> NDArray[np.int16]:
        """Return int16 (end - start,), silence outside of the buffer."""
        sound = np.zeros(end - start, dtype=np.int16)
        if self._end is not None:
            first, last = max(start, self._end - KEPT_SAMPLES), min(end, self._end)
            if first < last:
                sound[first - start : last - start] = self._ring[np.arange(first, last) % KEPT_SAMPLES]
        return sound

    def _put(self, sound: NDArray[np.int16]) -> None:
        assert self._end is not None
        kept = sound[-KEPT_SAMPLES:]
        at = self._end + len(sound) - len(kept)
        self._ring[np.arange(at, at + len(kept)) % KEPT_SAMPLES] = kept
        self._end += len(sound)


class LiveSound:
    """Sound of one live stream, resampled as it arrives and placed by the same rule as the sound of uploads."""

    def __init__(self) -> None:
        self._timeline = SoundTimeline()
        self._run: SoundRun | None = None

    def has_heard(self, until_s: float) -> bool:
        """Return whether sound up to this time has arrived, within a millisecond."""
        return self._run is not None and self._run.end_s >= until_s - 0.001

    def add(self, piece: SoundPiece) -> None:
        """Place one piece of sound by its timestamp.

        Raises:
            ServiceError: `malformed_body` if the piece violates the rules of SoundPiece.
        """
        _check(piece)
        if not piece.pcm:
            return
        if self._run is None or not self._run.continues(piece.timestamp_s, piece.sample_rate_hz, num_rows=1):
            if self._run is not None:
                self._write(self._run.flush())
            self._run = SoundRun(piece.timestamp_s, piece.sample_rate_hz, num_rows=1, batch_s=0.0)
        samples = np.frombuffer(piece.pcm, dtype="<i2").astype(np.float32)[None, :] / 32768.0
        try:
            self._write(self._run.push(samples, time_s=piece.timestamp_s))
        except av.FFmpegError:
            self._run = None
            detail = f"sample_rate_hz: {piece.sample_rate_hz} cannot be resampled."
            raise ServiceError("malformed_body", detail) from None

    def window(self, until_s: float) -> NDArray[np.int16]:
        """Return int16 (15600,): the 0.975 s of 16 kHz sound that end at `until_s`, without later sound."""
        end = sample_index(until_s)
        return self._timeline.read(end - WINDOW_SAMPLES, end)

    def _write(self, placed: Iterator[Placed]) -> None:
        for index, samples in placed:
            self._timeline.write(index, samples[0])


def _check(piece: SoundPiece) -> None:
    if not (math.isfinite(piece.timestamp_s) and abs(piece.timestamp_s) <= MAX_TIMESTAMP_S):
        raise ServiceError("malformed_body", "AudioChunk.timestamp_s: give a finite number of seconds.")
    if not MIN_RATE_HZ <= piece.sample_rate_hz <= MAX_RATE_HZ:
        raise ServiceError("malformed_body", f"AudioChunk.sample_rate_hz: give {MIN_RATE_HZ} to {MAX_RATE_HZ}.")
    if len(piece.pcm) % 2:
        raise ServiceError("malformed_body", "AudioChunk.pcm_s16le: give whole 16-bit values, an even number of bytes.")
    if len(piece.pcm) > 2 * MAX_PIECE_S * piece.sample_rate_hz:
        raise ServiceError(
            "malformed_body", f"AudioChunk.pcm_s16le: give at most {MAX_PIECE_S:g} s of sound a message."
        )
