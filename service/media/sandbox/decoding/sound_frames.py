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
# Frames that follow each other are worked on together up to this length, because a call of numpy costs more than its
# work on one frame; sound is resampled in pieces of this length anyway. A coarse time base rounds timestamps by 1 ms.
_GROUP_S = 0.1
_MAX_ROUNDING_S = 0.002
# Another channel becomes the loudest one only with four times the energy (6 dB), so that the choice is steady.
_LOUDER = 4.0


@dataclass(frozen=True, slots=True)
class SoundPiece:
    """Decoded sound: `samples` are float32 (1, S) of a single channel, else (2, S): mean and loudest channel.

    `time_s` is None if the file has no time for it.
    """

    time_s: float | None
    rate_hz: int
    num_channels: int
    is_clipped: bool
    samples: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Format:
    """What frames of a group have in common; `kind` is the name of the sample format, without its `p` for planar."""

    kind: str
    is_planar: bool
    num_channels: int
    num_samples: int
    rate_hz: int

    @classmethod
    def of(cls, frame: AudioFrame) -> _Format:
        name = frame.format.name
        kind = name.removesuffix("p")
        return cls(kind, kind != name, frame.layout.nb_channels, frame.samples, frame.sample_rate)

    @property
    def is_readable(self) -> bool:
        is_known = self.kind in _DTYPES and 1 <= self.num_channels <= MAX_CHANNELS
        return is_known and self.num_samples > 0 and _MIN_RATE_HZ <= self.rate_hz <= _MAX_RATE_HZ

    @property
    def length_s(self) -> float:
        return self.num_samples / self.rate_hz


@dataclass(slots=True)
class _Group:
    """Frames of one format that follow each other without a gap; `time_s` of the first one, None if unknown."""

    format: _Format
    time_s: float | None
    frames: list[AudioFrame]

    def continues(self, found: _Format, time_s: float | None) -> bool:
        """Whether a frame follows the last one."""
        if found != self.format or time_s is None or self.time_s is None:
            return False
        due_s = self.time_s + len(self.frames) * found.length_s
        return abs(time_s - due_s) <= _MAX_ROUNDING_S

    @property
    def is_full(self) -> bool:
        return len(self.frames) * self.format.length_s >= _GROUP_S


def sound_pieces(container: InputContainer, stream: AudioStream, *, origin_s: float) -> Iterator[SoundPiece]:
    """Decode the track and yield its sound. A packet that cannot be decoded is a gap.

    Args:
        container, stream: from `open_sound`.
        origin_s: timestamp that becomes time 0, seconds.
    """
    reader = _GroupReader()
    for group in _groups(_frames(container, stream), origin_s):
        yield from reader.read(group)


def _frames(container: InputContainer, stream: AudioStream) -> Iterator[AudioFrame]:
    for packet in container.demux(stream):
        try:
            yield from stream.decode(packet)
        except MemoryError:
            raise
        except (av.FFmpegError, ValueError):
            continue


def _groups(frames: Iterator[AudioFrame], origin_s: float) -> Iterator[_Group]:
    group: _Group | None = None
    for frame in frames:
        found = _Format.of(frame)
        if not found.is_readable:
            continue
        time_s = None if frame.time is None else frame.time - origin_s
        if group is not None and group.continues(found, time_s):
            group.frames.append(frame)
        else:
            if group is not None:
                yield group
            group = _Group(found, time_s, [frame])
        if group.is_full:
            yield group
            group = None
    if group is not None:
        yield group


class _GroupReader:
    """Turns groups into pieces; remembers which channel was the loudest."""

    def __init__(self) -> None:
        self._loudest = 0

    def read(self, group: _Group) -> Iterator[SoundPiece]:
        """Yield the group as one piece, or as a piece for each frame if some are clipped."""
        form = group.format
        channels = _channels(group)
        signals = np.clip(self._signals(channels), -1.0, 1.0).astype(np.float32, copy=False)
        clipped = _clipped(channels)
        if not clipped.any():
            yield SoundPiece(group.time_s, form.rate_hz, form.num_channels, False, _joined(signals))
            return
        for number, is_clipped in enumerate(clipped.tolist()):
            time_s = None if group.time_s is None else group.time_s + number * form.length_s
            yield SoundPiece(time_s, form.rate_hz, form.num_channels, is_clipped, signals[number])

    def _signals(self, channels: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return the signals (F, 1 or 2, S). The mean is taken before resampling: no down-mix matrix is involved."""
        if channels.shape[1] == 1:
            return channels
        means = channels.mean(axis=1)
        energies = np.einsum("fcs,fcs->fc", channels, channels)
        loudest = channels[np.arange(len(channels)), [self._loudest_of(each) for each in energies]]
        return np.stack([means, loudest], axis=1)

    def _loudest_of(self, energies: NDArray[np.floating]) -> int:
        best = int(energies.argmax())
        if self._loudest >= len(energies) or energies[best] > _LOUDER * energies[self._loudest]:
            self._loudest = best
        return self._loudest


def _joined(signals: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return signals (F, R, S) of F frames one behind the other, (R, F * S)."""
    return signals.transpose(1, 0, 2).reshape(signals.shape[1], -1)


def _channels(group: _Group) -> NDArray[np.floating]:
    """Return the channels of the frames, (F, C, S) in [-1, 1] unless the coder overshoots; float32 or float64.

    Planes are opened one by one. `AudioFrame.planes` and `to_ndarray` of PyAV 18.1 look for a null pointer behind the
    last plane, but FFmpeg sets one only for fewer than 8 planes, so both read past the end of a frame with more.
    """
    form, num_frames = group.format, len(group.frames)
    num_planes = form.num_channels if form.is_planar else 1
    per_plane = form.num_samples * form.num_channels // num_planes
    planes = [_plane(frame, index, per_plane, form.kind) for frame in group.frames for index in range(num_planes)]
    if form.is_planar:
        data = np.stack(planes).reshape(num_frames, form.num_channels, form.num_samples)
    else:
        data = np.stack(planes).reshape(num_frames, form.num_samples, form.num_channels).transpose(0, 2, 1)
    if form.kind in _FULL_SCALE:
        data = data.astype(np.float64)
        return (data - 128.0 if form.kind == "u8" else data) / _FULL_SCALE[form.kind]
    return data if np.isfinite(data).all() else np.nan_to_num(data)


def _plane(frame: AudioFrame, index: int, num: int, kind: str) -> NDArray[Any]:
    samples: NDArray[Any] = np.frombuffer(memoryview(AudioPlane(frame, index)), _DTYPES[kind], num)
    return samples


def _clipped(channels: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Return whether each frame is clipped, bool (F,)."""
    if channels.max() < _CLIPPED_LEVEL and channels.min() > -_CLIPPED_LEVEL:
        return np.zeros(len(channels), np.bool_)
    share = (np.abs(channels) >= _CLIPPED_LEVEL).mean(axis=2).max(axis=1)
    return np.asarray(share >= _CLIPPED_SHARE)
