"""Writes a clip again with its masks drawn on it, sound kept. For a user's own file, in the user's own process."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias

import av
import numpy as np
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from service.client.video.paint import OverlayPainter, PaintPolicy, Picture
from service.domain.errors import ServiceError
from service.domain.result import FrameMasks
from service.media.policy import MediaPolicy
from service.media.sandbox.aperture import Aperture
from service.media.sandbox.orientation import orientation_of
from service.media.sandbox.picture import presumed_colorspace
from service.media.sandbox.prescan import Scanner
from service.media.sandbox.source import UploadSource

_COPIED_SOUND = ("aac", "mp3", "ac3", "eac3", "alac", "flac", "opus")
"""Codecs that an mp4 file takes as they are; other sound is encoded as AAC."""
_ENVELOPE_RATE_HZ = 8_000
_ENVELOPE_BIN = 80
"""10 ms at 8 kHz: finer than the strip can show."""
_QUIET_PEAK = 0.05
"""The strip is scaled to the clip's loudest moment, but not so far that noise in a silent clip fills it."""

_BT709 = 1
_LIMITED_RANGE = 1
"""FFmpeg's AVCOL_SPC_BT709 (primaries and transfer have the same number) and AVCOL_RANGE_MPEG."""
AnyPacket: TypeAlias = "av.Packet[Any]"
OnProgress = Callable[[float], None]
"""Is told the share that is done, 0 to 1."""


@dataclass(frozen=True, slots=True)
class OverlayPolicy:
    """Encoder choices and looks. `crf` is x264's constant rate factor: 18 is visually near lossless."""

    crf: int = 18
    preset: str = "veryfast"
    paint: PaintPolicy = field(default_factory=PaintPolicy)


def write_overlay(
    source: Path,
    destination: Path,
    *,
    frames: Sequence[FrameMasks],
    on_progress: OnProgress | None = None,
    policy: OverlayPolicy | None = None,
) -> None:
    """Write `source` with the masks of its answer as mp4 (H.264), upright, at its own frame rate, with its sound.

    A frame shows the masks of the last sample that is not later than it.

    Args:
        source: the clip that was segmented.
        destination: the file to write; replaced only when the new one is complete.
        frames: the answer's frames, in order of time.
        on_progress: is told how far it is.
        policy: encoder choices and looks.

    Raises:
        ServiceError: `broken`, `no_video`, `no_frames`.
    """
    partial = destination.with_name(f".{destination.name}.part")
    try:
        with ExitStack() as stack:
            envelope = _sound_envelope(source)
            clip = stack.enter_context(av.open(str(source)))
            target = stack.enter_context(av.open(str(partial), "w", format="mp4", options={"movflags": "+faststart"}))
            overlay = _Overlay(clip, target, frames, envelope, policy or OverlayPolicy(), aperture=_aperture(source))
            overlay.write(on_progress or (lambda _: None))
        partial.replace(destination)
    except av.FFmpegError as error:
        raise ServiceError("broken", f"The overlay could not be written: {error.strerror}.") from error
    finally:
        partial.unlink(missing_ok=True)


def _aperture(path: Path) -> Aperture | None:
    """Return the part of the picture that the answer is about; None for all of it."""
    with path.open("rb") as file:
        size = path.stat().st_size
        source = UploadSource(file.fileno(), size_bytes=size, is_complete=True, need=lambda _: (size, True))
        try:
            return Scanner(source, MediaPolicy()).head().picture.aperture
        except ServiceError:
            return None  # not a file that the service would answer for


class _Overlay:
    """One overlay on its way from the clip to the new file."""

    def __init__(
        self,
        clip: InputContainer,
        target: OutputContainer,
        frames: Sequence[FrameMasks],
        envelope: NDArray[np.float32],
        policy: OverlayPolicy,
        *,
        aperture: Aperture | None,
    ) -> None:
        self._aperture = aperture
        if not clip.streams.video:
            raise ServiceError("no_video", "The clip has no picture track.")
        self._clip, self._target, self._policy = clip, target, policy
        self._frames, self._envelope = frames, envelope
        self._times_s = [frame.timestamp_s for frame in frames]
        self._source = clip.streams.video[0]
        self._source.thread_type = "AUTO"
        self._base = Fraction(self._source.time_base or Fraction(1, 90_000))
        self._duration_s = _duration_s(clip, self._source)
        self._video: VideoStream | None = None
        self._painter: OverlayPainter | None = None
        self._last_pts: int | None = None
        self._to_rgb, self._to_yuv = VideoReformatter(), VideoReformatter()

    def write(self, on_progress: OnProgress) -> None:
        sounds = self._clip.streams.audio
        sound = sounds[0] if sounds else None
        track: _SoundTrack | None = None
        waiting: list[AnyPacket] = []  # sound from before the first picture: the picture track comes first
        for packet in self._clip.demux([self._source] if sound is None else [self._source, sound]):
            if packet.stream is self._source:
                for frame in self._source.decode(packet):
                    self._take(frame)
                    on_progress(min(1.0, (frame.time or 0.0) / self._duration_s))
            else:
                waiting.append(packet)
            if self._video is not None and sound is not None:
                track = track or _SoundTrack(self._target, sound)
                self._mux([new for old in waiting for new in track.take(old)])
                waiting.clear()
        if self._video is None:
            raise ServiceError("no_frames", "No frame of the picture track could be decoded.")
        if track is not None:
            self._mux(track.finish())
        self._mux(self._video.encode(None))
        on_progress(1.0)

    def _take(self, frame: VideoFrame) -> None:
        if frame.pts is None or (self._last_pts is not None and frame.pts <= self._last_pts):
            return
        self._last_pts = frame.pts
        rgb = self._rgb(frame)
        upright = orientation_of(frame).apply(rgb if self._aperture is None else self._aperture.crop(rgb))
        painted = self._even(self._paint(upright, time_s=float(frame.pts * self._base)))
        if self._video is None:
            self._video = self._add_video(painted, frame)
        shown = self._to_yuv.reformat(
            VideoFrame.from_ndarray(painted, format="rgb24"), format="yuv420p", dst_colorspace=Colorspace.ITU709
        )
        shown.pts, shown.time_base = frame.pts, self._base
        self._mux(self._video.encode(shown))

    def _rgb(self, frame: VideoFrame) -> Picture:
        """The frame as RGB, with the colours that a player would show."""
        shown = self._to_rgb.reformat(frame, format="rgb24", src_colorspace=presumed_colorspace(frame))
        return shown.to_ndarray().astype(np.uint8, copy=False)

    def _paint(self, picture: Picture, *, time_s: float) -> Picture:
        if self._painter is None:
            self._painter = OverlayPainter(
                *picture.shape[:2],
                labels=sorted({mask.label for frame in self._frames for mask in frame.masks}),
                envelope=self._envelope,
                duration_s=self._duration_s,
                policy=self._policy.paint,
            )
        at = bisect_right(self._times_s, time_s + float(self._base) / 2) - 1  # half a tick of tolerance
        return self._painter.paint(picture, self._frames[at].masks if at >= 0 else (), time_s=time_s)

    def _add_video(self, picture: Picture, frame: VideoFrame) -> VideoStream:
        height, width = picture.shape[:2]
        rate = self._source.average_rate or Fraction(25)
        stream = self._target.add_stream("libx264", rate=Fraction(rate).limit_denominator(60_000))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = self._base
        stream.codec_context.colorspace, stream.codec_context.color_range = _BT709, _LIMITED_RANGE
        stream.codec_context.color_primaries, stream.codec_context.color_trc = _BT709, _BT709
        stream.options = {"crf": str(self._policy.crf), "preset": self._policy.preset}
        ratio = self._source.sample_aspect_ratio
        if ratio:
            stream.codec_context.sample_aspect_ratio = 1 / ratio if orientation_of(frame).is_transposed else ratio
        return stream

    def _even(self, picture: Picture) -> Picture:
        """The picture with even sides (4:2:0 needs them): the last row or column is repeated."""
        height, width = picture.shape[:2]
        padded = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        return np.ascontiguousarray(padded)

    def _mux(self, packets: Sequence[AnyPacket]) -> None:
        for packet in packets:
            self._target.mux(packet)


class _SoundTrack:
    """The clip's sound in the new file: copied where mp4 takes it, else encoded as AAC."""

    def __init__(self, target: OutputContainer, source: AudioStream) -> None:
        self._is_copy = source.codec_context.name in _COPIED_SOUND
        self._source = source
        self._stream: AudioStream
        if self._is_copy:
            self._stream = target.add_stream_from_template(source)
        else:
            self._stream = target.add_stream("aac", rate=source.codec_context.sample_rate or 48_000)

    def take(self, packet: AnyPacket) -> list[AnyPacket]:
        """The packets of the new track that come of one of the old."""
        if not self._is_copy:
            return [new for frame in self._source.decode(packet) for new in self._stream.encode(frame)]
        if packet.dts is None:
            return []
        packet.stream = self._stream
        return [packet]

    def finish(self) -> list[AnyPacket]:
        """What the encoder still holds."""
        return [] if self._is_copy else list(self._stream.encode(None))


def _sound_envelope(source: Path) -> NDArray[np.float32]:
    """Peaks of the sound in [0, 1], one for 10 ms, scaled to the loudest; empty where there is no sound."""
    with av.open(str(source)) as clip:
        if not clip.streams.audio:
            return np.zeros(0, np.float32)
        resampler = AudioResampler(format="s16", layout="mono", rate=_ENVELOPE_RATE_HZ)
        peaks = list(_peaks(clip, resampler))
    if not peaks:
        return np.zeros(0, np.float32)
    envelope = np.concatenate(peaks)
    scaled: NDArray[np.float32] = envelope / max(float(envelope.max()), _QUIET_PEAK)
    return scaled


def _peaks(clip: InputContainer, resampler: AudioResampler) -> Iterator[NDArray[np.float32]]:
    rest = np.zeros(0, np.int16)
    for frame in clip.decode(clip.streams.audio[0]):
        for part in resampler.resample(frame):
            rest = np.concatenate([rest, part.to_ndarray().reshape(-1)])
        whole = len(rest) // _ENVELOPE_BIN * _ENVELOPE_BIN
        bins = np.abs(rest[:whole].astype(np.float32)).reshape(-1, _ENVELOPE_BIN)
        yield bins.max(axis=1) / np.float32(32768.0)
        rest = rest[whole:]


def _duration_s(clip: InputContainer, stream: VideoStream) -> float:
    if stream.duration and stream.time_base:
        return max(float(stream.duration * stream.time_base), 1e-3)
    return max((clip.duration or 0) / av.time_base, 1e-3)
