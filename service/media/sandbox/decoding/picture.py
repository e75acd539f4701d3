"""The picture track of one upload: decoded, put upright, resized to the model's size."""

from __future__ import annotations

import heapq
import mmap
import re
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from typing import Any, Literal

import av
import numpy as np
from av.codec.context import ThreadType
from av.container.input import InputContainer
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from service.domain.errors import ServiceError
from service.media.policy import PICTURE_DECODERS, MediaPolicy
from service.media.sandbox.container.aperture import Aperture
from service.media.sandbox.decoding.colour import Colours
from service.media.sandbox.decoding.orientation import orientation_of
from service.media.sandbox.decoding.packets import Plan
from service.media.sandbox.decoding.sampling import Shown

# Messages of libavutil's av_image_check_size2 and of libdav1d for a picture over `max_pixels`.
_TOO_LARGE = re.compile(r"(\d+x\d+) exceeds (?:specified max pixel count|limit)")
_UNTAGGED_HD_HEIGHT = 720
# Of 4:4:4 with more than 8 bits. A clip that fits its estimate has 128 MiB left: two such pictures of the most pixels.
_MAX_BYTES_PER_PIXEL = 6
# AVCOL_SPC_UNSPECIFIED. FFmpeg reads untagged pictures as BT.601; from 720 lines on nearly all are BT.709.
_UNSPECIFIED_COLORSPACE = 2


def is_depth_known(container: InputContainer, *, track_id: int | None, is_fragmented: bool) -> bool:
    """Return whether the index tells how many pictures the decoder has to hold back to put them in order.

    For H.264, FFmpeg's MP4 reader counts them by the composition offsets of the index (mov_estimate_video_delay), but
    not by those of fragments. Where it could not, it has to decode the first pictures of the track when it opens the
    file: a decoder that starts with too small a number leaves out pictures.

    Args:
        container: the file, opened without the decoders of pictures.
        track_id: id of the picture track; None takes the first one.
        is_fragmented: whether fragments may follow the index.
    """
    stream = _track(container, track_id)
    context = None if stream is None or is_fragmented else stream.codec_context
    return context is not None and context.name == "h264" and context.has_b_frames


def open_picture(container: InputContainer, policy: MediaPolicy, *, track_id: int | None) -> VideoStream:
    """Return the picture track, checked and set up for decoding in one thread. The other tracks are not read.

    Raises:
        ServiceError: `no_video`, `unsupported_codec`, `picture_too_large`.
    """
    stream = _track(container, track_id)
    if stream is None:
        raise ServiceError("no_video", "The clip has no picture track; send a video with pictures and sound.")
    _keep_only(container, stream.index)
    context = stream.codec_context
    if context is None or context.name not in PICTURE_DECODERS:
        raise ServiceError(
            "unsupported_codec",
            "The picture track's codec is not supported; H.264, HEVC, AV1, VP8, VP9, MPEG-4 and H.263 are.",
        )
    check_pixels(context.width, context.height, policy)
    context.options = {"max_pixels": str(policy.max_coded_pixels)}
    context.thread_type = ThreadType.SLICE
    context.thread_count = 1
    return stream


def check_pixels(width: int, height: int, policy: MediaPolicy) -> None:
    """Raise `picture_too_large` if a picture of this size is over the limit."""
    if width * height > policy.max_pixels:
        raise ServiceError(
            "picture_too_large",
            f"The picture has {width}x{height} pixels, over the limit of {policy.max_pixels}; scale the clip down.",
        )


def check_log(log: Iterable[tuple[int, str, str]]) -> None:
    """Raise `picture_too_large` if FFmpeg refused a picture for its size, which its error codes do not tell.

    Args:
        log: level, decoder and text of each message; FFmpeg's last message is often about a consequence.
    """
    for _, _, text in log:
        if refused := _TOO_LARGE.search(text):
            raise ServiceError(
                "picture_too_large",
                f"The stream changes to pictures of {refused[1]} pixels, over the limit; scale the clip down.",
            )


def _check_memory(context: VideoCodecContext) -> None:
    """Raise MemoryError if there is no room for one more picture of the size that the stream has now.

    FFmpeg reports a picture that it cannot allocate as invalid data. A stream may change its size in the middle to one
    that the limit of this process was not made for.
    """
    num_bytes = context.width * context.height * _MAX_BYTES_PER_PIXEL
    try:
        mmap.mmap(-1, max(1, num_bytes)).close()
    except OSError as error:
        raise MemoryError from error


class PictureDecoder:
    """Decodes the track once, in presentation order.

    Args:
        container, stream: from `open_picture`, at the start of the track.
        policy: limits.
        plan: which packets to decode; None decodes all.
        index_of: index of a frame by its ticks, if all frames are known; else frames are counted.
        origin_ticks: the tick that becomes time 0.
        on_progress: called at every packet.
    """

    def __init__(
        self,
        container: InputContainer,
        stream: VideoStream,
        policy: MediaPolicy,
        *,
        plan: Plan | None,
        index_of: dict[int, int] | None,
        origin_ticks: int,
        on_progress: Callable[[], None],
    ) -> None:
        self._container = container
        self._stream = stream
        self._policy = policy
        self._plan = plan
        self._index_of = index_of
        self._origin_ticks = origin_ticks
        self._has_offsets = False  # a packet's presentation tick differs from its decoding tick
        self._undecoded: list[int] = []  # heap of the ticks of packets whose frames have not come out
        self._on_progress = on_progress
        assert stream.time_base is not None
        self._base = Fraction(stream.time_base)
        self._num_decoded = 0
        self._last_pts: int | None = None
        self._last_duration = 0

    @property
    def last_duration_s(self) -> float:
        """Return the duration that the last frame claims, in seconds."""
        return float(self._last_duration * self._base)

    @property
    def mean_spacing_s(self) -> float:
        """Return the mean seconds between the frames so far; 0 before the second."""
        if self._num_decoded < 2 or self._last_pts is None:
            return 0.0
        return float(self._last_pts * self._base) / (self._num_decoded - 1)

    def frames(self) -> Iterator[Shown[VideoFrame]]:
        """Yield the frames in rising time. Frames whose time does not rise are skipped."""
        context = self._stream.codec_context
        plan = self._plan
        last = plan.last if plan is not None else -1
        may_skip = context.name == "h264"  # in HEVC a higher temporal layer may depend on a skipped picture
        skipping: Literal["DEFAULT", "NONREF"] = "DEFAULT"
        for at, packet in enumerate(self._container.demux(self._stream)):
            self._on_progress()
            is_flush = packet.size == 0 and packet.dts is None
            if plan is not None and not is_flush:
                if at >= len(plan.needed):
                    break
                if not plan.needed[at]:
                    continue
                if may_skip and (skipping == "DEFAULT") != plan.wanted[at]:
                    skipping = "DEFAULT" if plan.wanted[at] else "NONREF"
                    context.skip_frame = skipping
            yield from self._decode(packet)
            if at == last:
                yield from self._decode(None)
                return

    def check_any(self) -> None:
        """Raise `no_frames` if no frame could be decoded."""
        if not self._num_decoded:
            raise ServiceError("no_frames", "No frame of the picture track could be decoded; the file may be damaged.")

    def _decode(self, packet: av.Packet[VideoStream] | None) -> Iterator[Shown[VideoFrame]]:
        tick = self._note(packet)
        try:
            with av.logging.Capture() as log:
                frames = self._stream.decode(packet)
        except MemoryError:  # HEVC: also for a picture over `max_pixels`
            check_log(log)
            raise
        except (av.FFmpegError, ValueError):  # one bad packet; the others may be good
            if tick is not None:
                self._undecoded.remove(tick)
                heapq.heapify(self._undecoded)
            check_log(log)
            _check_memory(self._stream.codec_context)
            return
        for frame in frames:
            shown = self._place(frame)
            if shown is not None:
                yield shown

    def _note(self, packet: av.Packet[VideoStream] | None) -> int | None:
        """Store the tick of a packet for `_tick` and return it; None if it has none or its frame will be dropped."""
        if packet is None or packet.pts is None or packet.is_discard:
            return None
        self._has_offsets |= packet.pts != packet.dts
        if self._has_offsets:
            self._undecoded.clear()
            return None
        heapq.heappush(self._undecoded, packet.pts)
        return packet.pts

    def _tick(self, frame: VideoFrame) -> int | None:
        """Return the frame's presentation tick; None if unknown.

        Reordered frames without offsets (B-frames without `ctts`) carry the decoding tick of their packet. As in
        players, the earliest tick then belongs to the first frame that leaves the decoder.
        """
        pts = frame.pts
        if self._stream.codec_context.has_b_frames and self._undecoded:
            pts = heapq.heappop(self._undecoded)
        while pts is not None and self._undecoded and self._undecoded[0] <= pts:
            heapq.heappop(self._undecoded)
        return None if pts is None else pts - self._origin_ticks

    def _place(self, frame: VideoFrame) -> Shown[VideoFrame] | None:
        check_pixels(frame.width, frame.height, self._policy)
        pts = self._tick(frame)
        if pts is None:
            pts = 0 if self._last_pts is None else self._last_pts + max(1, self._last_duration)
        if self._last_pts is not None and pts <= self._last_pts:
            return None
        index = self._num_decoded if self._index_of is None else self._index_of.get(pts, self._num_decoded)
        self._num_decoded += 1
        self._last_pts, self._last_duration = pts, frame.duration or 0
        base = self._base
        return Shown(index=index, pts=pts, timestamp_s=pts * base.numerator / base.denominator, frame=frame)


class FrameMaker:
    """Turns decoded frames into the model's frames with one persistent scaler.

    Args:
        height, width: of the model's frame, pixels.
        aperture: the part of the coded picture that is shown; None for all of it.
    """

    def __init__(self, *, height: int, width: int, aperture: Aperture | None = None) -> None:
        self._aperture = aperture
        self._height = height
        self._width = width
        self._reformatter = VideoReformatter()

    def make(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """Return the frame upright and resized, uint8 RGB (height, width, 3) in BT.709, by swscale's bilinear."""
        orientation = orientation_of(frame)
        colours = Colours.of(frame)
        format_name = "rgb24" if colours is None else "rgb48le"
        frame = self._cropped(frame, format_name)
        width, height = self._width, self._height
        if orientation.is_transposed:
            width, height = height, width
        small = self._reformatter.reformat(
            frame,
            width,
            height,
            format_name,
            interpolation="BILINEAR",
            threads=1,
            src_colorspace=presumed_colorspace(frame),
        ).to_ndarray()
        if colours is not None:
            return orientation.apply(colours.to_bt709(small.astype(np.uint16, copy=False)))
        return orientation.apply(small.astype(np.uint8, copy=False))

    def _cropped(self, frame: VideoFrame, format_name: str) -> VideoFrame:
        if self._aperture is None or not self._aperture.fits(frame.width, frame.height):
            return frame
        whole = self._reformatter.reformat(
            frame, frame.width, frame.height, format_name, threads=1, src_colorspace=presumed_colorspace(frame)
        )
        dtype = np.uint8 if format_name == "rgb24" else np.uint16
        part: NDArray[Any] = self._aperture.crop(whole.to_ndarray().astype(dtype, copy=False))
        return VideoFrame.from_ndarray(part, format=format_name)


def presumed_colorspace(frame: VideoFrame) -> Colorspace | None:
    """Return BT.709 for untagged HD, which FFmpeg would read as BT.601; None keeps the frame's own tag."""
    is_untagged = int(frame.colorspace) == _UNSPECIFIED_COLORSPACE and not frame.format.is_rgb
    return Colorspace.ITU709 if is_untagged and frame.height >= _UNTAGGED_HD_HEIGHT else None


def display_size(frame: VideoFrame, aperture: Aperture | None) -> tuple[int, int]:
    """Return width and height of the shown part of a frame when upright, in pixels."""
    width, height = frame.width, frame.height
    if aperture is not None and aperture.fits(width, height):
        width, height = aperture.width, aperture.height
    return (height, width) if orientation_of(frame).is_transposed else (width, height)


def sample_aspect_ratio(stream: VideoStream, frame: VideoFrame) -> str:
    """Return the pixels' aspect ratio as `w:h` for the upright frame, by the file, else the stream; 1:1 if unknown."""
    ratio = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio
    if not ratio or ratio <= 0:
        return "1:1"
    num, den = ratio.numerator, ratio.denominator
    return f"{den}:{num}" if orientation_of(frame).is_transposed else f"{num}:{den}"


def _track(container: InputContainer, track_id: int | None) -> VideoStream | None:
    """Return the picture track with this id, or the first one; None if there is none. Cover art is no track."""
    tracks = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    return next((s for s in tracks if track_id is None or s.id == track_id), None)


def _keep_only(container: InputContainer, index: int) -> None:
    for stream in container.streams:
        stream.discard = av.stream.Discard.default if stream.index == index else av.stream.Discard.all
