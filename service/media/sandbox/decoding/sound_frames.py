"""Decoded frames of a sound track as one or two signals: the mean of the channels, and the loudest channel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.plane import AudioPlane
from av.audio.stream import AudioStream
from av.container.input import InputContainer
from numpy.typing import NDArray

# 22.2 has 24 channels; PCM recorders write up to 64.
MAX_CHANNELS = 64
_MIN_RATE_HZ, _MAX_RATE_HZ = 1000, 768_000
_DTYPES: dict[str, np.dtype[Any]] = {
    "u8": np.dtype("u1"),
    "s16": np.dtype("i2"),
    "s32": np.dtype("i4"),
    "flt": np.dtype("f4"),
    "dbl": np.dtype("f8"),
}
_FULL_SCALE = {"u8": 128.0, "s16": 32768.0, "s32": 2147483648.0}
# A frame is clipped if this share of a channel's samples is at full scale. A sine of full scale spends 0.9 % of its
# time there, one that is driven 5 % too high 20 %.
_CLIPPED_LEVEL = 0.9999
_CLIPPED_SHARE = 0.02
# Another channel becomes the loudest one only with four times the energy (6 dB), so that the choice is steady.
_LOUDER = 4.0


@dataclass(frozen=True, slots=True)
class SoundPiece:
    """A decoded frame: `samples` are float32 (1, S) of a single channel, else (2, S): mean and loudest channel.

    `time_s` is None if the file has no time for it.
    """

    time_s: float | None
    rate_hz: int
    num_channels: int
    is_clipped: bool
    samples: NDArray[np.float32]


def sound_pieces(container: InputContainer, stream: AudioStream, *, origin_s: float) -> Iterator[SoundPiece]:
    """Decode the track and yield its frames. A packet that cannot be decoded is a gap.

    Args:
        container, stream: from `open_sound`.
        origin_s: timestamp that becomes time 0, seconds.
    """
    reader = _FrameReader(origin_s)
    for packet in container.demux(stream):
        try:
            frames = stream.decode(packet)
        except MemoryError:
            raise
        except (av.FFmpegError, ValueError):
            continue
        for frame in frames:
            if _is_readable(frame):
                yield reader.read(frame)


def _is_readable(frame: AudioFrame) -> bool:
    is_known = frame.format.name.removesuffix("p") in _DTYPES and 1 <= frame.layout.nb_channels <= MAX_CHANNELS
    return is_known and frame.samples > 0 and _MIN_RATE_HZ <= frame.sample_rate <= _MAX_RATE_HZ


class _FrameReader:
    def __init__(self, origin_s: float) -> None:
        self._origin_s = origin_s
        self._loudest = 0

    def read(self, frame: AudioFrame) -> SoundPiece:
        channels = _channels(frame)
        time_s = None if frame.pts is None or not frame.time_base else float(frame.pts * frame.time_base)
        return SoundPiece(
            time_s=None if time_s is None else time_s - self._origin_s,
            rate_hz=frame.sample_rate,
            num_channels=len(channels),
            is_clipped=_is_clipped(channels),
            samples=np.clip(self._signals(channels), -1.0, 1.0).astype(np.float32, copy=False),
        )

    def _signals(self, channels: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return the signals. The mean is taken before resampling, so that no down-mix matrix is involved."""
        if len(channels) == 1:
            return channels
        energies = np.einsum("cs,cs->c", channels, channels)
        best = int(energies.argmax())
        if self._loudest >= len(channels) or energies[best] > _LOUDER * energies[self._loudest]:
            self._loudest = best
        return np.stack([channels.mean(axis=0), channels[self._loudest]])


def _channels(frame: AudioFrame) -> NDArray[np.floating]:
    """Return the channels of a frame, (C, S) in [-1, 1] unless the coder overshoots; float32 or float64.

    Planes are opened one by one. `AudioFrame.planes` and `to_ndarray` of PyAV 18.1 look for a null pointer behind the
    last plane, but FFmpeg sets one only for fewer than 8 planes, so both read past the end of a frame with more.
    """
    num_channels, num_samples = frame.layout.nb_channels, frame.samples
    kind = frame.format.name.removesuffix("p")
    if frame.format.is_planar:
        data = np.stack([_plane(frame, index, num_samples, kind) for index in range(num_channels)])
    else:
        data = _plane(frame, 0, num_samples * num_channels, kind).reshape(num_samples, num_channels).T
    if kind in _FULL_SCALE:
        data = data.astype(np.float64)
        return (data - 128.0 if kind == "u8" else data) / _FULL_SCALE[kind]
    return data if np.isfinite(data).all() else np.nan_to_num(data)


def _plane(frame: AudioFrame, index: int, num: int, kind: str) -> NDArray[Any]:
    samples: NDArray[Any] = np.frombuffer(memoryview(AudioPlane(frame, index)), _DTYPES[kind], num)
    return samples


def _is_clipped(channels: NDArray[np.floating]) -> bool:
    if channels.max() < _CLIPPED_LEVEL and channels.min() > -_CLIPPED_LEVEL:
        return False
    return bool((np.abs(channels) >= _CLIPPED_LEVEL).mean(axis=1).max() >= _CLIPPED_SHARE)
