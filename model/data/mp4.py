"""Writes and reads our own mp4 files (H.264 + AAC or MP3) with PyAV. Nothing here ever opens a user's file."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import numpy as np
import numpy.typing as npt
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.stream import VideoStream

WAVEFORM_RATE_HZ = 16_000
AudioCodec = Literal["aac", "libmp3lame"]
AUDIO_SLICE_SAMPLES = 1600  # 0.1 s of waveform is handed to the encoder at a time


@dataclass(frozen=True)
class Mp4Policy:
    """Encoder choices.

    Attributes:
        crf: x264's constant rate factor; lower is better and larger.
        preset: x264's speed preset.
        audio_codec: of the sound track.
        audio_rate_hz: sample rate of the sound track.
        audio_bits_per_s: bit rate of the sound track (mono).
        sound_start_s: where the waveform's first sample lies on the presentation time line. Sound from before 0 is in
            the file, but an edit list leaves it out; for a start after 0 an empty edit holds the track back.
        max_group_frames: most frames of a group of pictures; None is x264's own choice, 250.
    """

    crf: int = 20
    preset: str = "veryfast"
    audio_codec: AudioCodec = "aac"
    audio_rate_hz: int = 48_000
    audio_bits_per_s: int = 96_000
    sound_start_s: float = 0.0
    max_group_frames: int | None = None


def write_mp4(
    path: Path,
    *,
    frames: Iterable[npt.NDArray[np.uint8]],
    frame_rate: Fraction,
    waveform: npt.NDArray[np.float32] | None,
    policy: Mp4Policy | None = None,
) -> None:
    """Write frames that start at 0 of the presentation time line, and their sound.

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
        container = stack.enter_context(_open_to_write(path))
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


def copy_with_sound(
    path: Path, *, pictures: Path, waveform: npt.NDArray[np.float32] | None, policy: Mp4Policy | None = None
) -> None:
    """Write the picture track of another file of ours, packet by packet, with other sound: no frame is encoded again.

    Args:
        path: the file; replaced if there, and not the same as pictures.
        pictures: a file that write_mp4 wrote.
        waveform: as for write_mp4.
        policy: encoder choices; those of the picture have no effect.
    """
    with ExitStack() as stack:
        source = stack.enter_context(av.open(str(pictures)))
        container = stack.enter_context(_open_to_write(path))
        theirs = source.streams.video[0]
        video = container.add_stream_from_template(theirs)
        sound = None if waveform is None else _Sound(container, waveform, policy or Mp4Policy())
        for packet in source.demux(theirs):
            if packet.dts is None or packet.time_base is None:  # the demuxer's end mark
                continue
            until_s = float((packet.dts + (packet.duration or 0)) * packet.time_base)
            packet.stream = video
            container.mux(packet)
            if sound is not None:
                sound.write_until(until_s)
        if sound is not None:
            sound.finish()


def read_mp4(path: Path, *, width: int, height: int) -> tuple[list[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]:
    """Read a file of ours whole.

    Args:
        path: a file that write_mp4 wrote, with sound.
        width: of the frames wanted, in pixels; they are squashed to it.
        height: likewise.

    Returns:
        Frames (H, W, 3) uint8 RGB in order, and the sound (S,) float32 mono at 16 kHz from time 0 on.
    """
    with av.open(str(path)) as container:
        frames = [
            frame.reformat(width=width, height=height, format="rgb24", interpolation="AREA")
            .to_ndarray()
            .astype(np.uint8, copy=False)
            for frame in container.decode(video=0)
        ]
    resampler = AudioResampler(format="flt", layout="mono", rate=WAVEFORM_RATE_HZ)
    start_s: float | None = None
    pieces: list[npt.NDArray[np.float32]] = []
    with av.open(str(path)) as container:
        for sound in container.decode(audio=0):
            start_s = sound.time if start_s is None else start_s
            pieces += [piece.to_ndarray()[0] for piece in resampler.resample(sound)]
        pieces += [piece.to_ndarray()[0] for piece in resampler.resample(None)]
    waveform = np.concatenate(pieces) if pieces else np.zeros(0, np.float32)
    first = round((start_s or 0.0) * WAVEFORM_RATE_HZ)
    placed = np.concatenate([np.zeros(max(first, 0), np.float32), waveform[max(-first, 0) :]])
    return frames, np.clip(placed, -1.0, 1.0)


def _open_to_write(path: Path) -> OutputContainer:
    return av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"})


def _chain(first: npt.NDArray[np.uint8], rest: Iterator[npt.NDArray[np.uint8]]) -> Iterator[npt.NDArray[np.uint8]]:
    yield first
    yield from rest


def _add_video(
    container: OutputContainer, size: tuple[int, int], frame_rate: Fraction, policy: Mp4Policy
) -> VideoStream:
    # x264's macroblock tree reads memory that it has not written (PyAV 18.1, where x264 uses vector instructions), so
    # the bytes of equal pictures would differ between runs.
    options = {"preset": policy.preset, "crf": str(policy.crf), "x264-params": "sliced-threads=0:mbtree=0"}
    if policy.max_group_frames is not None:
        options["g"] = str(policy.max_group_frames)
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
        self._first = round(policy.sound_start_s * WAVEFORM_RATE_HZ)  # sample number on the presentation time line
        self._stream: AudioStream = container.add_stream(policy.audio_codec, rate=policy.audio_rate_hz, layout="mono")
        self._stream.bit_rate = policy.audio_bits_per_s
        self._resampler = AudioResampler(format="fltp", layout="mono", rate=policy.audio_rate_hz)

    def write_until(self, time_s: float) -> None:
        """Encode the waveform up to time_s of the presentation time line."""
        end = min(round(time_s * WAVEFORM_RATE_HZ) - self._first, len(self._waveform))
        for start in range(self._done, end, AUDIO_SLICE_SAMPLES):
            piece = self._waveform[start : min(start + AUDIO_SLICE_SAMPLES, end)]
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(piece[None]), format="fltp", layout="mono")
            frame.sample_rate = WAVEFORM_RATE_HZ
            frame.pts, frame.time_base = start + self._first, Fraction(1, WAVEFORM_RATE_HZ)
            self._encode(self._resampler.resample(frame))
        self._done = max(self._done, end)

    def finish(self) -> None:
        """Encode what is left of the waveform and close the track."""
        self.write_until((self._first + len(self._waveform)) / WAVEFORM_RATE_HZ)
        self._encode(self._resampler.resample(None))
        self._container.mux(self._stream.encode(None))

    def _encode(self, frames: list[av.AudioFrame]) -> None:
        for frame in frames:
            self._container.mux(self._stream.encode(frame))
