"""The sound track of one upload as 16 kHz mono, placed by its timestamps, decoded only as far as needed."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container.input import InputContainer
from numpy.typing import NDArray

from service.domain.chunk import SAMPLE_RATE_HZ, WINDOW_SAMPLES
from service.domain.clip import AudioInfo
from service.domain.errors import ServiceError
from service.media.policy import SOUND_DECODERS
from service.media.sandbox.decoding.sound_frames import MAX_CHANNELS, SoundPiece, sound_pieces
from service.media.sound_run import Placed, SoundRun

_BATCH_S = 0.1
# Windows whose peak stays below this int16 value (-60 dBFS) are silent: it lies under the floor of the log-mel.
_SILENT_PEAK = 33
# Channels cancel out if their mean has less than this share of the energy that the loudest channel alone would leave in
# it (1 / channels squared): 9 dB less than a voice that is on one channel only.
_CANCELLED_SHARE = 1 / 8
# Energy of a window at an RMS of -60 dBFS; quieter windows are not checked for cancelled channels.
_LEAST_ENERGY = WINDOW_SAMPLES * 33.0**2


def open_sound(container: InputContainer, *, track_id: int | None) -> AudioStream:
    """Return the sound track, checked. The other tracks are not read.

    Raises:
        ServiceError: `no_audio`, `unsupported_codec`.
    """
    chosen = [s for s in container.streams.audio if track_id is None or s.id == track_id]
    if not chosen:
        raise ServiceError("no_audio", "The clip has no sound track; the service answers for what sounds.")
    stream = chosen[0]
    for other in container.streams:
        other.discard = av.stream.Discard.default if other.index == stream.index else av.stream.Discard.all
    if stream.codec_context is None or stream.codec_context.name not in SOUND_DECODERS:
        raise ServiceError(
            "unsupported_codec",
            "The sound track's codec is not supported; AAC, MP3, Opus, FLAC, ALAC, AC-3, AMR and PCM are.",
        )
    if stream.codec_context.layout.nb_channels > MAX_CHANNELS:
        raise ServiceError(
            "unsupported_codec", f"The sound track has more than {MAX_CHANNELS} channels; mix it down to stereo."
        )
    stream.codec_context.thread_count = 1
    return stream


def describe(stream: AudioStream, *, track: int, language: str | None) -> AudioInfo:
    """Return the description of the track for callers; its notes are not known yet."""
    context = stream.codec_context
    return AudioInfo(
        track=track,
        codec=context.codec.canonical_name,
        channels=context.layout.nb_channels,
        sample_rate_hz=context.sample_rate,
        language=language,
    )


class SoundTrack:
    """Windows of 15 600 samples in rising order; missing sound is silence.

    Args:
        container, stream: from `open_sound`.
        origin_s: timestamp that becomes time 0, seconds.
    """

    def __init__(self, container: InputContainer, stream: AudioStream, *, origin_s: float = 0.0) -> None:
        self._clipped: deque[tuple[int, int]] = deque()  # ranges of positions, rising
        self._num_channels = max(1, stream.codec_context.layout.nb_channels)
        self._runs = self._place(sound_pieces(container, stream, origin_s=origin_s))
        self._pending: Placed | None = None
        self._has_ended = False
        self._base = -WINDOW_SAMPLES  # position of the buffer's first sample; negative ones are before the clip
        self._buffer = np.zeros((2, 4 * WINDOW_SAMPLES), np.int16)  # the mean of the channels, the loudest channel
        self._settled = 0  # positions before this one are final
        self._found: set[str] = set()
        self._is_silent = True
        self.on_progress: Callable[[], None] = lambda: None

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what is unusual about the windows so far: `antiphase`, `clipped`, `silent` (all), in this order."""
        found = self._found | ({"silent"} if self._is_silent else set())
        return tuple(sorted(found))

    def window(self, end: int) -> NDArray[np.int16]:
        """Return the window before position `end` (samples since time 0), int16 (15600,). Ends must not decrease."""
        begin = end - WINDOW_SAMPLES
        self._forget_before(begin)
        while self._settled < end and not self._has_ended:
            self._advance(end)
            self.on_progress()  # the first window of a late part comes behind all sound before it
        mean, loudest = self._view(begin, end)
        is_antiphase = self._is_cancelled(mean, loudest)
        chosen: NDArray[np.int16] = (loudest if is_antiphase else mean).copy()
        self._note(chosen, begin, end, is_antiphase=is_antiphase)
        return chosen

    def _is_cancelled(self, mean: NDArray[np.int16], loudest: NDArray[np.int16]) -> bool:
        """Return whether the channels of a window cancel out in their mean, as in stereo with one channel inverted."""
        if self._num_channels == 1:
            return False
        energy = np.square(loudest, dtype=np.float64).sum()
        least = _CANCELLED_SHARE * energy / self._num_channels**2
        return bool(energy > _LEAST_ENERGY and np.square(mean, dtype=np.float64).sum() < least)

    def _note(self, window: NDArray[np.int16], begin: int, end: int, *, is_antiphase: bool) -> None:
        if is_antiphase:
            self._found.add("antiphase")
        if self._is_silent and (window.max() >= _SILENT_PEAK or window.min() <= -_SILENT_PEAK):
            self._is_silent = False
        while self._clipped and self._clipped[0][1] <= begin:
            self._clipped.popleft()
        if self._clipped and self._clipped[0][0] < end:
            self._found.add("clipped")

    def _place(self, pieces: Iterator[SoundPiece]) -> Iterator[Placed]:
        """Yield pieces at 16 kHz with the position of their first sample."""
        run: SoundRun | None = None
        for piece in pieces:
            time_s, rate_hz, num_rows = piece.time_s, piece.rate_hz, len(piece.samples)
            if run is None or not run.continues(time_s, rate_hz, num_rows=num_rows):
                start_s = time_s if time_s is not None else (0.0 if run is None else run.end_s)
                if run is not None:
                    yield from run.flush()
                run = SoundRun(start_s, rate_hz, num_rows=num_rows, batch_s=_BATCH_S)
            self._num_channels = piece.num_channels
            if piece.is_clipped:
                self._note_clipped(run.end_s, piece.samples.shape[1] / rate_hz)
            yield from run.push(piece.samples, time_s=time_s)
        if run is not None:
            yield from run.flush()

    def _note_clipped(self, start_s: float, length_s: float) -> None:
        begin, end = window_end(start_s), window_end(start_s + length_s) + 1
        if self._clipped and begin <= self._clipped[-1][1]:
            begin = min(begin, self._clipped.pop()[0])
        self._clipped.append((begin, end))

    def _advance(self, end: int) -> None:
        if self._pending is None:
            self._pending = next(self._runs, None)
        if self._pending is None:
            self._has_ended = True
            return
        start, samples = self._pending
        if start >= end:  # the sound continues later; the gap is silence
            self._settled = end
            return
        self._pending = None
        self._write(start, samples)
        self._settled = max(self._settled, start + samples.shape[1])

    def _write(self, start: int, samples: NDArray[np.int16]) -> None:
        num = samples.shape[1]
        skip = max(0, self._base - start)
        if skip >= num:
            return
        self._view(start + skip, start + num)[:] = samples[:, skip:]

    def _view(self, begin: int, end: int) -> NDArray[np.int16]:
        """Return the buffer from `begin` to `end`, int16 (2, end - begin), grown as needed."""
        length = self._buffer.shape[1]
        if end - self._base > length:
            grown = np.zeros((2, max(2 * length, end - self._base)), np.int16)
            grown[:, :length] = self._buffer
            self._buffer = grown
        return self._buffer[:, begin - self._base : end - self._base]

    def _forget_before(self, begin: int) -> None:
        """Drop sound more than a window before `begin`. Done rarely, so that the copy is cheap."""
        past = begin - self._base
        if past <= 2 * WINDOW_SAMPLES:
            return
        kept = self._buffer[:, min(past, self._buffer.shape[1]) :]
        fresh = np.zeros((2, max(4 * WINDOW_SAMPLES, kept.shape[1])), np.int16)
        fresh[:, : kept.shape[1]] = kept
        self._buffer, self._base = fresh, begin


def window_end(time_s: float) -> int:
    """Return the position before which a window for this instant ends: no later sound is heard.

    The small addend corrects the last bit of times such as 0.9375 * 16000.
    """
    return math.floor(time_s * SAMPLE_RATE_HZ + 1e-6)
