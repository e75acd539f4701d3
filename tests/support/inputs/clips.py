"""Small real MP4 files made with PyAV: the picture tells the frame's number, the sound its time."""

from __future__ import annotations

import io
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray
from support.servers.poison import POISON_COLOUR

SAMPLE_RATE_HZ = 48_000
# Clips that were made last, by their spec. Encoding them anew took a third of the tests' time.
_MAX_MADE = 200
_made: dict[str, bytes] = {}


@dataclass(frozen=True)
class ClipSpec:
    """A clip to make.

    Attributes:
        width, height, fps, num_frames: the picture track.
        codec, pixel_format, codec_options, gop, b_frames: how the picture is coded.
        sound: codec name, or None for no sound track; `sound_rate_hz`, `sound_layout`, `sound_options` of the codec.
        sound_gains: of each channel (None: 1 for every channel).
        sound_ticks: presentation tick of a sound packet, from its number and its even tick, at `1 / sound_rate_hz`.
        sound_start_s, sound_end_s: where the sound begins and ends (None: with the picture).
        frame_ticks: presentation ticks of the frames at `1 / tick_rate` (None: evenly spaced).
        flash_frames: frames that are white; at each flash's time a click sounds.
        dot_px: size of the black and white squares of a flash; 0 is all white.
        poison_frames: frames of the one colour that ends a `support.servers.fake_worker`.
        movflags: for the muxer: `faststart`, `frag_keyframe+empty_moov`, ...
        container: mp4 or mov.
    """

    width: int = 64
    height: int = 48
    fps: Fraction | int = 25
    num_frames: int = 50
    codec: str = "libx264"
    pixel_format: str = "yuv420p"
    codec_options: dict[str, str] = field(default_factory=dict)
    gop: int = 25
    b_frames: int = 2
    sound: str | None = "aac"
    sound_rate_hz: int = SAMPLE_RATE_HZ
    sound_layout: str = "stereo"
    sound_options: dict[str, str] = field(default_factory=dict)
    sound_gains: Sequence[float] | None = None
    sound_ticks: Callable[[int, int], int] | None = None
    sound_start_s: float = 0.0
    sound_end_s: float | None = None
    frame_ticks: Sequence[int] | None = None
    tick_rate: int = 12_800
    flash_frames: frozenset[int] = frozenset()
    dot_px: int = 0
    poison_frames: frozenset[int] = frozenset()
    movflags: str = ""
    container: str = "mp4"

    @property
    def duration_s(self) -> float:
        """End of the last frame, seconds, for evenly spaced frames."""
        return float(self.num_frames / Fraction(self.fps))

    def frame_time_s(self, number: int) -> float:
        """When a frame is shown, seconds."""
        if self.frame_ticks is not None:
            return self.frame_ticks[number] / self.tick_rate
        return float(number / Fraction(self.fps))


def make_clip(spec: ClipSpec | None = None, **changes: Any) -> bytes:
    """The bytes of a clip; `changes` are fields of ClipSpec. Clips of equal specs are made once."""
    spec = replace(spec or ClipSpec(), **changes)
    if spec.sound_ticks is not None:  # functions cannot be compared
        return _encode(spec)
    key = repr(spec)
    if key not in _made:
        if len(_made) >= _MAX_MADE:
            del _made[next(iter(_made))]
        _made[key] = _encode(spec)
    return _made[key]


def _encode(spec: ClipSpec) -> bytes:
    if "faststart" not in spec.movflags:
        target = io.BytesIO()
        _write_clip(target, spec)
        return target.getvalue()
    with tempfile.NamedTemporaryFile(suffix=".mp4") as file:  # the muxer opens it a second time to move the index
        _write_clip(file.name, spec)
        return Path(file.name).read_bytes()


def _write_clip(target: io.BytesIO | str, spec: ClipSpec) -> None:
    options = {"movflags": spec.movflags} if spec.movflags else {}
    with av.open(target, "w", format=spec.container, options=options) as container:
        video = _add_picture(container, spec)
        audio = _add_sound(container, spec) if spec.sound else None
        _mux(container, video, audio, spec)


def frame_picture(spec: ClipSpec, number: int) -> NDArray[np.uint8]:
    """Frame `number`, uint8 (H, W, 3): white for a flash, else a ramp that moves and a level that rises."""
    if number in spec.poison_frames:
        return np.full((spec.height, spec.width, 3), POISON_COLOUR, np.uint8)
    column = np.arange(spec.width)[None, :, None]
    row = np.arange(spec.height)[:, None, None]
    if number in spec.flash_frames:
        is_white = (column // spec.dot_px + row // spec.dot_px) % 2 == 0 if spec.dot_px else np.True_
        return np.where(is_white, np.full((spec.height, spec.width, 3), 255, np.uint8), np.uint8(0))
    level = 20 + 5 * (number % 16)
    base = level + 30 * (((column + 2 * number) // 8 + row // 8) % 2)
    tint = np.array([0, 10, 20])[None, None, :]
    return np.clip(base + tint, 0, 200).astype(np.uint8)


def wave(spec: ClipSpec) -> NDArray[np.float32]:
    """The sound, float32 (S,) in [-1, 1]: clicks at the flashes, or a 440 Hz tone where there is none."""
    end_s = spec.duration_s if spec.sound_end_s is None else spec.sound_end_s
    num = int(end_s * spec.sound_rate_hz)
    if not spec.flash_frames:
        return (0.3 * np.sin(2 * np.pi * 440 * np.arange(num) / spec.sound_rate_hz)).astype(np.float32)
    signal = np.zeros(num, np.float32)
    for number in spec.flash_frames:
        at = round(spec.frame_time_s(number) * spec.sound_rate_hz)
        signal[at : at + spec.sound_rate_hz // 100] = 0.9
    return signal


def _add_picture(container: av.container.OutputContainer, spec: ClipSpec) -> av.VideoStream:
    options = dict(spec.codec_options)
    if spec.codec == "libx264":
        options = {"preset": "ultrafast", "bf": str(spec.b_frames), "sliced-threads": "0", **options}
    stream = container.add_stream(spec.codec, rate=Fraction(spec.fps), options=options)
    stream.width, stream.height, stream.pix_fmt = spec.width, spec.height, spec.pixel_format
    stream.codec_context.gop_size = spec.gop
    stream.codec_context.thread_count = 1
    if spec.frame_ticks is not None:
        stream.codec_context.time_base = Fraction(1, spec.tick_rate)
    return stream


def _add_sound(container: av.container.OutputContainer, spec: ClipSpec) -> av.AudioStream:
    assert spec.sound is not None
    # FFmpeg's default coder of AAC takes four times as long for fewer bits.
    options = {**({"aac_coder": "fast"} if spec.sound == "aac" else {}), **spec.sound_options}
    return container.add_stream(spec.sound, rate=spec.sound_rate_hz, layout=spec.sound_layout, options=options)


def _mux(
    container: av.container.OutputContainer, video: av.VideoStream, audio: av.AudioStream | None, spec: ClipSpec
) -> None:
    sound = _sound_packets(audio, spec) if audio is not None else iter(())
    ahead = next(sound, None)
    converter = VideoReformatter()
    for number in range(spec.num_frames):
        while ahead is not None and ahead[0] <= spec.frame_time_s(number):
            container.mux(ahead[1])
            ahead = next(sound, None)
        frame = av.VideoFrame.from_ndarray(frame_picture(spec, number), format="rgb24")
        frame = converter.reformat(frame, format=spec.pixel_format)
        if spec.frame_ticks is not None:
            frame.pts, frame.time_base = spec.frame_ticks[number], Fraction(1, spec.tick_rate)
        else:
            frame.pts, frame.time_base = number, 1 / Fraction(spec.fps)
        container.mux(video.encode(frame))
    while ahead is not None:
        container.mux(ahead[1])
        ahead = next(sound, None)
    container.mux(video.encode(None))


def _sound_packets(audio: av.AudioStream, spec: ClipSpec) -> Iterator[tuple[float, av.Packet]]:
    """Coded sound, each packet with the time of the frame that it came out for."""
    number = 0
    for time_s, frame in (*_sound_frames(audio, spec), (math.inf, None)):
        for packet in audio.encode(frame):
            if spec.sound_ticks is not None:
                packet.pts = packet.dts = spec.sound_ticks(number, packet.pts)
            number += 1
            yield time_s, packet


def _sound_frames(audio: av.AudioStream, spec: ClipSpec) -> Iterator[tuple[float, av.AudioFrame]]:
    context = audio.codec_context
    context.open(strict=False)
    size = context.frame_size or 1024
    layout = av.AudioLayout(spec.sound_layout)
    gains = np.array(spec.sound_gains or [1.0] * layout.nb_channels, np.float32)
    signal = wave(spec)
    converter = av.AudioResampler(context.format.name, layout.name, spec.sound_rate_hz)
    for at in range(int(spec.sound_start_s * spec.sound_rate_hz), len(signal), size):
        packed = signal[at : at + size, None] * gains  # (S, C)
        frame = av.AudioFrame.from_ndarray(packed.reshape(1, -1), format="flt", layout=layout.name)
        frame.sample_rate, frame.pts, frame.time_base = spec.sound_rate_hz, at, Fraction(1, spec.sound_rate_hz)
        for out in converter.resample(frame):
            out.pts, out.time_base = at, Fraction(1, spec.sound_rate_hz)
            yield at / spec.sound_rate_hz, out
