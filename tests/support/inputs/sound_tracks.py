"""Clips with several sound tracks, told apart by the frequency of their tone."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
from support.inputs.hostile import find, patch

_NUM_FRAMES = 50
_FPS = 25


@dataclass(frozen=True)
class SoundSpec:
    """A sound track: its tone (0: silence), whether its header enables it, codec, layout, rate and language."""

    frequency_hz: int
    is_enabled: bool = True
    codec: str = "aac"
    layout: str = "stereo"
    rate_hz: int = 48_000
    language: str | None = None


def clip_with_sounds(*sounds: SoundSpec) -> bytes:
    """Two seconds of a grey picture with these sound tracks, in this order."""
    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as container:
        video = container.add_stream("libx264", rate=_FPS, options={"preset": "ultrafast"})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        streams = [container.add_stream(sound.codec, rate=sound.rate_hz, layout=sound.layout) for sound in sounds]
        for stream, sound in zip(streams, sounds, strict=True):
            if sound.language:
                stream.metadata["language"] = sound.language
        for number in range(_NUM_FRAMES):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 100, np.uint8), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, _FPS)
            container.mux(video.encode(frame.reformat(format="yuv420p")))
        container.mux(video.encode(None))
        for stream, sound in zip(streams, sounds, strict=True):
            _write_tone(container, stream, sound)
    return _with_flags(target.getvalue(), [sound.is_enabled for sound in sounds])


def tone_hz(window: np.ndarray) -> int:
    """The loudest frequency of a window at 16 kHz, to 10 Hz; 0 for silence."""
    spectrum = np.abs(np.fft.rfft(window * np.hanning(len(window))))
    return 0 if np.abs(window).max() < 0.01 else round(np.argmax(spectrum) * 16_000 / len(window) / 10) * 10


def _write_tone(container: av.container.OutputContainer, stream: av.AudioStream, sound: SoundSpec) -> None:
    stream.codec_context.open(strict=False)
    num = _NUM_FRAMES * sound.rate_hz // _FPS
    wave = 0.3 * np.sin(2 * np.pi * sound.frequency_hz * np.arange(num) / sound.rate_hz)
    channels = av.AudioLayout(sound.layout).nb_channels
    packed = np.repeat(wave.astype(np.float32)[:, None], channels, axis=1)
    resampler = av.AudioResampler(
        stream.codec_context.format.name, sound.layout, sound.rate_hz, stream.codec_context.frame_size or 1024
    )
    frame = av.AudioFrame.from_ndarray(packed.reshape(1, -1), format="flt", layout=sound.layout)
    frame.sample_rate, frame.pts, frame.time_base = sound.rate_hz, 0, Fraction(1, sound.rate_hz)
    for piece in [*resampler.resample(frame), *resampler.resample(None)]:
        container.mux(stream.encode(piece))
    container.mux(stream.encode(None))


def _with_flags(data: bytes, is_enabled: Sequence[bool]) -> bytes:
    for number, flag in enumerate(is_enabled):
        at = find(data, "tkhd", number + 1) + 3  # the picture's header comes first
        data = patch(data, at, bytes([data[at] & ~1 | flag]))
    return data
