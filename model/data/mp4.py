"""Writes our own mp4 files (H.264 + AAC) with PyAV. Nothing here ever opens a user's file."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.stream import VideoStream

WAVEFORM_RATE_HZ = 16_000
AUDIO_SLICE_SAMPLES = 1600  # 0.1 s of waveform is handed to the encoder at a time


@dataclass(frozen=True)
class Mp4Policy:
    """Encoder choices.

    Attributes:
        crf: x264's constant rate factor; lower is better and larger.
        preset: x264's speed preset.
        audio_rate_hz: sample rate of the AAC track.
        audio_bits_per_s: bit rate of the AAC track (mono).
    """

    crf: int = 20
    preset: str = "veryfast"
    audio_rate_hz: int = 48_000
    audio_bits_per_s: int = 96_000


def write_mp4(
    path: Path,
    *,
    frames: Iterable[npt.NDArray[np.uint8]],
    frame_rate: Fraction,
    waveform: npt.NDArray[np.float32] | None,
    policy: Mp4Policy | None = None,
) -> None:
    """Write frames and sound that both start at 0 of the presentation time line.

    Args:
        path: the file; replaced if there.
        frames: (H, W, 3) uint8 RGB each, H and W even, all alike, at least one.
        frame_rate: frames per second; frame i is shown from i / frame_rate on.
        waveform: (S,) float32 mono in [-1, 1] at 16 kHz; None writes no sound track.
        policy: encoder choices.

    Raises:
        ValueError: no frames, or a side that is odd (yuv420p needs even ones).
    """
    policy = policy or Mp4Policy()
    pictures = iter(frames)
    first = next(pictures, None)
    if first is None:
        raise ValueError("frames is empty, need at least one frame")
    height, width = first.shape[:2]
    if width % 2 or height % 2:
        raise ValueError(f"width and height must be even for yuv420p, got {width}x{height}")
    with ExitStack() as stack:
        container = stack.enter_context(av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}))
        video = _add_video(container, (width, height), frame_rate, policy)
        sound = None if waveform is None else _Sound(container, waveform, policy)
        for i, frame in enumerate(_chain(first, pictures)):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            picture.pts, picture.time_base = i, 1 / frame_rate
            container.mux(video.encode(picture))
            if sound is not None:
                sound.write_until(float((i + 1) / frame_rate))
        if sound is not None:
            sound.finish()
        container.mux(video.encode(None))


def _chain(first: npt.NDArray[np.uint8], rest: Iterator[npt.NDArray[np.uint8]]) -> Iterator[npt.NDArray[np.uint8]]:
    yield first
    yield from rest


def _add_video(
    container: OutputContainer, size: tuple[int, int], frame_rate: Fraction, policy: Mp4Policy
) -> VideoStream:
    options = {"preset": policy.preset, "crf": str(policy.crf), "x264-params": "sliced-threads=0"}
    video = container.add_stream("libx264", rate=frame_rate, options=options)
    video.width, video.height = size
    video.pix_fmt = "yuv420p"
    video.codec_context.time_base = 1 / frame_rate
    video.codec_context.thread_count = 1  # the same bytes on every machine
    return video


class _Sound:
    """The sound track: resampled from 16 kHz and encoded as the frames advance, so that the file interleaves."""

    def __init__(self, container: OutputContainer, waveform: npt.NDArray[np.float32], policy: Mp4Policy) -> None:
        self._container = container
        self._waveform = waveform
        self._done = 0
        self._stream: AudioStream = container.add_stream("aac", rate=policy.audio_rate_hz, layout="mono")
        self._stream.bit_rate = policy.audio_bits_per_s
        self._resampler = AudioResampler(format="fltp", layout="mono", rate=policy.audio_rate_hz)

    def write_until(self, time_s: float) -> None:
        """Encode the waveform up to time_s."""
        end = min(round(time_s * WAVEFORM_RATE_HZ), len(self._waveform))
        for start in range(self._done, end, AUDIO_SLICE_SAMPLES):
            piece = self._waveform[start : min(start + AUDIO_SLICE_SAMPLES, end)]
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(piece[None]), format="fltp", layout="mono")
            frame.sample_rate = WAVEFORM_RATE_HZ
            frame.pts, frame.time_base = start, Fraction(1, WAVEFORM_RATE_HZ)
            self._encode(self._resampler.resample(frame))
        self._done = max(self._done, end)

    def finish(self) -> None:
        """Encode what is left of the waveform and close the track."""
        self.write_until(len(self._waveform) / WAVEFORM_RATE_HZ)
        self._encode(self._resampler.resample(None))
        self._container.mux(self._stream.encode(None))

    def _encode(self, frames: list[av.AudioFrame]) -> None:
        for frame in frames:
            self._container.mux(self._stream.encode(frame))
