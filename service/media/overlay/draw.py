"""Write a clip again with its masks drawn on it and its sound kept."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace, VideoReformatter
from av.video.stream import VideoStream

from service.domain.errors import ServiceError
from service.domain.result import FrameMasks
from service.media.overlay.clip import OverlaySource
from service.media.overlay.paint import OverlayPainter, PaintPolicy, Picture
from service.media.sandbox.decoding.colour import Colours
from service.media.sandbox.decoding.orientation import orientation_of
from service.media.sandbox.decoding.picture import presumed_colorspace
from service.media.sandbox.decoding.sampling import Shown

# Codecs that an mp4 file takes as they are; other sound is encoded as AAC.
_COPIED_SOUND = ("aac", "mp3", "ac3", "eac3", "alac", "flac", "opus")
_BT709 = 1
# FFmpeg's AVCOL_SPC_BT709 (primaries and transfer have the same number) and AVCOL_RANGE_MPEG.
_LIMITED_RANGE = 1
AnyPacket: TypeAlias = "av.Packet[Any]"
# Called with the finished share, 0 to 1.
OnProgress = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class OverlayPolicy:
    """Encoder choices and looks.

    Attributes:
        crf: x264's constant rate factor; 18 is visually near lossless.
        preset: x264's preset.
        x264: further x264 parameters.
        paint: looks.
    """

    crf: int = 18
    preset: str = "veryfast"
    x264: str = ""
    paint: PaintPolicy = field(default_factory=PaintPolicy)


def write_overlay(
    source: Path,
    destination: Path,
    *,
    frames: Sequence[FrameMasks],
    audio_track: int | None = None,
    on_progress: OnProgress | None = None,
    policy: OverlayPolicy | None = None,
) -> None:
    """Write `source` with the masks of its answer as mp4 (H.264), upright, at its own frame rate, with its sound.

    A frame shows the masks of the last sample that is not later than it. The new file begins at time 0 of the answer.

    Args:
        source: the clip that was segmented.
        destination: the file to write; replaced only when the new one is complete.
        frames: the answer's frames, in order of time.
        audio_track: index of the answer's sound track (`clip.audio.track`); None for the enabled default.
        on_progress: called with the finished share.
        policy: encoder choices and looks.

    Raises:
        ServiceError: `broken`, `no_video`, `no_frames`.
    """
    partial = destination.with_name(f".{destination.name}.part")
    try:
        with ExitStack() as stack:
            clip = OverlaySource.of_file(source, stack, audio_track=audio_track)
            target = stack.enter_context(av.open(str(partial), "w", format="mp4", options={"movflags": "+faststart"}))
            draw_overlay(clip, target, frames, policy=policy, on_progress=on_progress)
        partial.replace(destination)
    except av.FFmpegError as error:
        raise ServiceError("broken", f"The overlay could not be written: {error.strerror}.") from error
    finally:
        partial.unlink(missing_ok=True)


def draw_overlay(
    clip: OverlaySource,
    target: OutputContainer,
    frames: Sequence[FrameMasks],
    *,
    policy: OverlayPolicy | None = None,
    on_progress: OnProgress | None = None,
) -> None:
    """Write an opened clip with its masks into `target`; raises `no_frames`, av.FFmpegError. See `write_overlay`."""
    _Overlay(clip, target, frames, policy or OverlayPolicy()).write(on_progress or (lambda _: None))


class _Overlay:
    """One overlay in progress."""

    def __init__(
        self, clip: OverlaySource, target: OutputContainer, frames: Sequence[FrameMasks], policy: OverlayPolicy
    ) -> None:
        self._clip, self._target, self._policy = clip, target, policy
        self._frames = frames
        self._times_s = [frame.timestamp_s for frame in frames]
        self._video: VideoStream | None = None
        self._sound: _SoundTrack | None = None
        self._painter: OverlayPainter | None = None
        self._to_rgb, self._to_yuv = VideoReformatter(), VideoReformatter()

    def write(self, on_progress: OnProgress) -> None:
        sound_packets = self._clip.sound_packets()
        for shown in self._clip.frames():
            self._take(shown)
            for packet in sound_packets:
                self._take_sound(packet)
                if packet.dts is not None and packet.dts * packet.time_base >= shown.timestamp_s:
                    break
            on_progress(min(1.0, max(0.0, shown.timestamp_s / self._clip.duration_s)))
        if self._video is None:
            raise ServiceError("no_frames", "No frame of the picture track could be decoded.")
        for packet in sound_packets:
            self._take_sound(packet)
        if self._sound is not None:
            self._mux(self._sound.finish())
        self._mux(self._video.encode(None))
        on_progress(1.0)

    def _take(self, shown: Shown[VideoFrame]) -> None:
        rgb = self._rgb(shown.frame)
        aperture = self._clip.aperture
        upright = orientation_of(shown.frame).apply(rgb if aperture is None else aperture.crop(rgb))
        painted = self._even(self._paint(upright, time_s=shown.timestamp_s))
        if self._video is None:
            self._video = self._add_video(painted, shown.frame)
            if self._clip.sound is not None:
                self._sound = _SoundTrack(self._target, self._clip.sound)
        coded = self._to_yuv.reformat(
            VideoFrame.from_ndarray(painted, format="rgb24"), format="yuv420p", dst_colorspace=Colorspace.ITU709
        )
        coded.pts, coded.time_base = shown.pts, self._clip.tick
        self._mux(self._video.encode(coded))

    def _take_sound(self, packet: AnyPacket) -> None:
        if self._sound is not None:
            self._mux(self._sound.take(packet))

    def _rgb(self, frame: VideoFrame) -> Picture:
        """Return the frame as RGB, with the colours that a player would show."""
        colours = Colours.of(frame)
        shown = self._to_rgb.reformat(
            frame, format="rgb24" if colours is None else "rgb48le", src_colorspace=presumed_colorspace(frame)
        ).to_ndarray()
        if colours is not None:
            return colours.to_bt709(shown.astype(np.uint16, copy=False))
        return shown.astype(np.uint8, copy=False)

    def _paint(self, picture: Picture, *, time_s: float) -> Picture:
        if self._painter is None:
            self._painter = OverlayPainter(
                *picture.shape[:2],
                labels=sorted({mask.label for frame in self._frames for mask in frame.masks}),
                envelope=self._clip.sound_envelope(),
                duration_s=self._clip.duration_s,
                policy=self._policy.paint,
            )
        at = bisect_right(self._times_s, time_s + float(self._clip.tick) / 2) - 1  # half a tick of tolerance
        return self._painter.paint(picture, self._frames[at].masks if at >= 0 else (), time_s=time_s)

    def _add_video(self, picture: Picture, frame: VideoFrame) -> VideoStream:
        height, width = picture.shape[:2]
        rate = self._clip.picture.average_rate or Fraction(25)
        stream = self._target.add_stream("libx264", rate=Fraction(rate).limit_denominator(60_000))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = self._clip.tick
        stream.codec_context.colorspace, stream.codec_context.color_range = _BT709, _LIMITED_RANGE
        stream.codec_context.color_primaries, stream.codec_context.color_trc = _BT709, _BT709
        stream.options = {"crf": str(self._policy.crf), "preset": self._policy.preset}
        if self._policy.x264:
            stream.options = {**stream.options, "x264-params": self._policy.x264}
        ratio = self._clip.picture.sample_aspect_ratio
        if ratio:
            stream.codec_context.sample_aspect_ratio = 1 / ratio if orientation_of(frame).is_transposed else ratio
        return stream

    def _even(self, picture: Picture) -> Picture:
        """Return the picture with even sides, as 4:2:0 requires: the last row or column is repeated."""
        height, width = picture.shape[:2]
        padded = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        return np.ascontiguousarray(padded)

    def _mux(self, packets: Sequence[AnyPacket]) -> None:
        for packet in packets:
            self._target.mux(packet)


class _SoundTrack:
    """The clip's sound in the new file: copied if mp4 supports its codec, else encoded as AAC."""

    def __init__(self, target: OutputContainer, source: AudioStream) -> None:
        self._is_copy = source.codec_context.name in _COPIED_SOUND
        self._source = source
        self._stream: AudioStream
        if self._is_copy:
            self._stream = target.add_stream_from_template(source)
        else:
            self._stream = target.add_stream("aac", rate=source.codec_context.sample_rate or 48_000)

    def take(self, packet: AnyPacket) -> list[AnyPacket]:
        """Return the packets of the new track that result from a packet of the old one."""
        if not self._is_copy:
            return [new for frame in self._source.decode(packet) for new in self._stream.encode(frame)]
        if packet.dts is None:
            return []
        packet.stream = self._stream
        return [packet]

    def finish(self) -> list[AnyPacket]:
        """Return the packets that the encoder still holds."""
        return [] if self._is_copy else list(self._stream.encode(None))
