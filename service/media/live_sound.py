"""The sound of a live stream: pieces of PCM at any rate become one 16 kHz time line of the last seconds."""

from __future__ import annotations

import math

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from numpy.typing import NDArray

from service.domain.chunk import SAMPLE_RATE_HZ, WINDOW_SAMPLES
from service.domain.errors import ServiceError
from service.domain.live import SoundPiece

KEPT_SAMPLES = 30 * SAMPLE_RATE_HZ
"""Sound may lead the frames by this much (30 s, 960 kB a stream)."""
MAX_JITTER_S = 0.04
"""Pieces whose timestamp is nearer than this to the end of the one before are joined without a seam.

Capture clocks jitter by some milliseconds; a viewer notices sound that is off by about 45 ms (ITU-R BT.1359).
"""
MIN_RATE_HZ, MAX_RATE_HZ = 4_000, 384_000
MAX_PIECE_S = 10.0
MAX_TIMESTAMP_S = 1e11
"""Any Unix time fits; float64 then still tells 16 kHz samples apart."""


def sample_index(time_s: float) -> int:
    """The place of a time on the 16 kHz time line."""
    return math.floor(time_s * SAMPLE_RATE_HZ + 0.5)


class SoundTimeline:
    """The last `KEPT_SAMPLES` of int16 sound by absolute index; what was never written is silence."""

    def __init__(self) -> None:
        self._ring = np.zeros(KEPT_SAMPLES, dtype=np.int16)
        self._end: int | None = None

    def write(self, index: int, sound: NDArray[np.int16]) -> None:
        """Place int16 (S,) at `index`. Gaps become silence; of what overlaps, the first that was heard stays.

        A jump of more than `KEPT_SAMPLES`, forward or back, starts anew: the client set its clock.
        """
        if self._end is None or abs(index - self._end) > KEPT_SAMPLES:
            self._ring[:] = 0
            self._end = index
        if index > self._end:
            self._put(np.zeros(index - self._end, dtype=np.int16))
        self._put(sound[max(0, self._end - index) :])

    def read(self, start: int, end: int) -> NDArray[np.int16]:
        """int16 (end - start,); silence where nothing is kept."""
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
    """Sound of one live stream, resampled as it comes with the resampler that uploads go through."""

    def __init__(self) -> None:
        self._timeline = SoundTimeline()
        self._resampler: AudioResampler | None = None
        self._rate_hz = 0
        self._write_at = 0
        self._heard_until_s: float | None = None

    def has_heard(self, until_s: float) -> bool:
        """Whether sound up to this time has come (to a millisecond: less than an audio tick of any capture clock)."""
        return self._heard_until_s is not None and self._heard_until_s >= until_s - 0.001

    def add(self, piece: SoundPiece) -> None:
        """Place one piece of sound by its timestamp.

        Raises:
            ServiceError: `malformed_body` where the piece is not what a SoundPiece must be.
        """
        _check(piece)
        if not piece.pcm:
            return
        heard = self._heard_until_s
        is_joined = heard is not None and abs(piece.timestamp_s - heard) <= MAX_JITTER_S
        if not is_joined or piece.sample_rate_hz != self._rate_hz or heard is None:
            heard = self._begin(piece)
        sound = np.frombuffer(piece.pcm, dtype="<i2").astype(np.int16, copy=False)
        self._place(self._resampled(sound))
        self._heard_until_s = heard + len(sound) / self._rate_hz

    def window(self, until_s: float) -> NDArray[np.int16]:
        """int16 (15600,): the 0.975 s of 16 kHz sound that end at `until_s`; never later sound."""
        end = sample_index(until_s)
        return self._timeline.read(end - WINDOW_SAMPLES, end)

    def _begin(self, piece: SoundPiece) -> float:
        if self._resampler is not None:
            self._place(_joined(self._resampler.resample(None)))
        is_same_rate = piece.sample_rate_hz == SAMPLE_RATE_HZ
        self._resampler = None if is_same_rate else AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE_HZ)
        self._rate_hz = piece.sample_rate_hz
        self._write_at = sample_index(piece.timestamp_s)
        return piece.timestamp_s

    def _resampled(self, sound: NDArray[np.int16]) -> NDArray[np.int16]:
        if self._resampler is None:
            return sound
        frame = AudioFrame.from_ndarray(sound[None, :], format="s16", layout="mono")
        frame.sample_rate = self._rate_hz
        try:
            return _joined(self._resampler.resample(frame))
        except av.FFmpegError:
            self._resampler = None
            raise ServiceError("malformed_body", f"sample_rate_hz: {self._rate_hz} cannot be resampled.") from None

    def _place(self, sound: NDArray[np.int16]) -> None:
        self._timeline.write(self._write_at, sound)
        self._write_at += len(sound)


def _joined(frames: list[AudioFrame]) -> NDArray[np.int16]:
    parts = [frame.to_ndarray()[0] for frame in frames if frame.samples]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int16)


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
