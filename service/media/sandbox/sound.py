"""The sound track of one upload as 16 kHz mono, placed by its timestamps, decoded only as far as asked."""

from __future__ import annotations

import math
from collections.abc import Iterator

import av
import numpy as np
from av.audio.codeccontext import AudioCodecContext
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container.input import InputContainer
from numpy.typing import NDArray

from service.domain.chunk import SAMPLE_RATE_HZ, WINDOW_SAMPLES
from service.domain.errors import ServiceError
from service.media.policy import SOUND_DECODERS

_MAX_DRIFT_S = 0.005
"""A frame that begins this far from where the last one ended is placed anew. Ticks of 1 ms stay under it; 5 ms is half
a log-mel hop, so no feature moves by more."""
_MIN_RATE_HZ, _MAX_RATE_HZ = 1000, 768_000
_PIECE_S = 0.1
_MAX_PLANES = 8
"""PyAV 18.1 finds a frame's planes by looking for a null pointer, and FFmpeg ends the list with one only up to 8
planes: frames with more must not be touched (found by fuzzing: it reads past the end)."""
_SCALE = {"u8": 128.0, "s16": 32768.0, "s32": 2147483648.0}


def open_sound(container: InputContainer, *, track_id: int | None) -> AudioStream:
    """The sound track, checked; the other tracks are not read.

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
    if stream.codec_context.format is not None and not _is_readable(stream.codec_context):
        raise ServiceError(
            "unsupported_codec", f"The sound track has more than {_MAX_PLANES} channels; mix it down to stereo."
        )
    stream.codec_context.thread_count = 1
    return stream


def _is_readable(sound: AudioCodecContext | AudioFrame) -> bool:
    """Whether the channels can be taken out safely."""
    return not sound.format.is_planar or sound.layout.nb_channels <= _MAX_PLANES


class SoundTrack:
    """Windows of 15 600 samples in rising order; what was not heard is silence."""

    def __init__(self, container: InputContainer, stream: AudioStream) -> None:
        self._runs = _place(_decode(container, stream))
        self._pending: tuple[int, NDArray[np.int16]] | None = None
        self._has_ended = False
        self._base = -WINDOW_SAMPLES  # position of the buffer's first sample; negative ones are before the clip
        self._buffer = np.zeros(4 * WINDOW_SAMPLES, np.int16)
        self._settled = 0  # positions before this one are final

    def window(self, end: int) -> NDArray[np.int16]:
        """The window that ends before position `end` (samples since time 0), int16 (15600,). Ends must not fall."""
        begin = end - WINDOW_SAMPLES
        self._forget_before(begin)
        while self._settled < end and not self._has_ended:
            self._advance(end)
        return self._view(begin, end).copy()

    def _advance(self, end: int) -> None:
        if self._pending is None:
            self._pending = next(self._runs, None)
        if self._pending is None:
            self._has_ended = True
            return
        start, samples = self._pending
        if start >= end:  # the sound goes on later: what lies between is silence
            self._settled = end
            return
        self._pending = None
        self._write(start, samples)
        self._settled = max(self._settled, start + len(samples))

    def _write(self, start: int, samples: NDArray[np.int16]) -> None:
        skip = max(0, self._base - start)
        if skip >= len(samples):
            return
        at = start + skip
        self._view(at, start + len(samples))[:] = samples[skip:]

    def _view(self, begin: int, end: int) -> NDArray[np.int16]:
        """The buffer from `begin` to `end`, grown where needed."""
        if end - self._base > len(self._buffer):
            grown = np.zeros(max(2 * len(self._buffer), end - self._base), np.int16)
            grown[: len(self._buffer)] = self._buffer
            self._buffer = grown
        return self._buffer[begin - self._base : end - self._base]

    def _forget_before(self, begin: int) -> None:
        """Drop what lies more than a window before `begin`; moved rarely, so that the copy is cheap."""
        past = begin - self._base
        if past <= 2 * WINDOW_SAMPLES:
            return
        kept = self._buffer[min(past, len(self._buffer)) :]
        fresh = np.zeros(max(4 * WINDOW_SAMPLES, len(kept)), np.int16)
        fresh[: len(kept)] = kept
        self._buffer, self._base = fresh, begin


def window_end(time_s: float) -> int:
    """The position that a window for this instant ends before: nothing after the instant is heard.

    The small addend makes up for the last bit of times such as 0.9375 * 16000.
    """
    return math.floor(time_s * SAMPLE_RATE_HZ + 1e-6)


def _decode(container: InputContainer, stream: AudioStream) -> Iterator[tuple[float | None, int, NDArray[np.float32]]]:
    """Decoded pieces: start in seconds (None: goes on), rate in Hz, mean of channels float32 (S,)."""
    for packet in container.demux(stream):
        try:
            frames = stream.decode(packet)
        except MemoryError:
            raise
        except (av.FFmpegError, ValueError):  # one bad packet is a gap of silence
            continue
        for frame in frames:
            if frame.samples > 0 and _MIN_RATE_HZ <= frame.sample_rate <= _MAX_RATE_HZ and _is_readable(frame):
                time_s = None if frame.pts is None or not frame.time_base else float(frame.pts * frame.time_base)
                yield time_s, frame.sample_rate, _mono(frame)


def _mono(frame: AudioFrame) -> NDArray[np.float32]:
    """The mean of the channels, float32 (S,) in [-1, 1]. Taken before resampling: no down-mix matrix has a say."""
    channels = frame.layout.nb_channels
    data = frame.to_ndarray()
    data = data if frame.format.is_planar else data.reshape(-1, channels).T
    kind = frame.format.name.removesuffix("p")
    if kind != "flt":
        data = data.astype(np.float64)
        data = (data - 128.0 if kind == "u8" else data) / _SCALE.get(kind, 1.0)
    mean = data[0] if channels == 1 else data.mean(axis=0)
    if not np.isfinite(mean).all():
        mean = np.nan_to_num(mean)
    mono: NDArray[np.float32] = np.clip(mean, -1.0, 1.0).astype(np.float32, copy=False)
    return mono


def _place(
    pieces: Iterator[tuple[float | None, int, NDArray[np.float32]]],
) -> Iterator[tuple[int, NDArray[np.int16]]]:
    """Pieces at 16 kHz with the position of their first sample; a gap, an overlap or a new rate starts a new run."""
    run: _Run | None = None
    for time_s, rate_hz, samples in pieces:
        if run is None or not run.continues(time_s, rate_hz):
            start_s = time_s if time_s is not None else (0.0 if run is None else run.end_s)
            if run is not None:
                yield from run.flush()
            run = _Run(start_s, rate_hz)
        yield from run.push(samples)
    if run is not None:
        yield from run.flush()


class _Run:
    """Sound without a break: one resampler, positions counted from the run's start."""

    def __init__(self, start_s: float, rate_hz: int) -> None:
        self._start_s = start_s
        self._rate_hz = rate_hz
        self._num_in = 0
        self._held: list[NDArray[np.float32]] = []
        self._num_held = 0
        self._position = round(start_s * SAMPLE_RATE_HZ)
        self._resampler = AudioResampler("flt", "mono", SAMPLE_RATE_HZ) if rate_hz != SAMPLE_RATE_HZ else None

    @property
    def end_s(self) -> float:
        """Where the next piece is due, seconds."""
        return self._start_s + self._num_in / self._rate_hz

    def continues(self, time_s: float | None, rate_hz: int) -> bool:
        """Whether a piece belongs to this run."""
        return rate_hz == self._rate_hz and (time_s is None or abs(time_s - self.end_s) <= _MAX_DRIFT_S)

    def push(self, samples: NDArray[np.float32]) -> Iterator[tuple[int, NDArray[np.int16]]]:
        """Add a piece; what is ready. Pieces are resampled some at a time: the call costs more than the work."""
        self._num_in += len(samples)
        self._held.append(samples)
        self._num_held += len(samples)
        if self._num_held >= _PIECE_S * self._rate_hz:
            yield from self._convert()

    def flush(self) -> Iterator[tuple[int, NDArray[np.int16]]]:
        """All that was held back, here and in the resampler."""
        yield from self._convert()
        if self._resampler is not None:
            for out in self._resampler.resample(None):
                yield self._take(out.to_ndarray()[0])

    def _convert(self) -> Iterator[tuple[int, NDArray[np.int16]]]:
        if not self._held:
            return
        samples = np.concatenate(self._held)
        self._held, self._num_held = [], 0
        if self._resampler is None:
            yield self._take(samples)
            return
        frame = AudioFrame.from_ndarray(samples[None, :], format="flt", layout="mono")
        frame.sample_rate = self._rate_hz
        for out in self._resampler.resample(frame):
            yield self._take(out.to_ndarray()[0])

    def _take(self, samples: NDArray[np.float32]) -> tuple[int, NDArray[np.int16]]:
        start = self._position
        self._position += len(samples)
        return start, np.clip(np.rint(samples * 32768.0), -32768, 32767).astype(np.int16)
