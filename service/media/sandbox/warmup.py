"""The small clip and picture that a zygote works on before its first child: H.264 and AAC, generated on the spot."""

from __future__ import annotations

import contextlib
import io
import logging
from fractions import Fraction
from functools import cache

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

from service.domain.chunk import SampleBlock
from service.domain.clip import ClipInfo
from service.media.policy import DecodeJob, MediaPolicy
from service.media.sandbox.child import scan
from service.media.sandbox.decoding.clip_decode import decode_clip
from service.media.sandbox.decoding.stills import decode_jpeg
from service.media.sandbox.source import UploadSource

_SIDE_PX = 32
_RATE_HZ = 44_100
_NUM_FRAMES = 6


def warm_up() -> None:
    """Decode a small clip and a JPEG, because av imports lazily and the jail allows no opening of files."""
    quiet_libav()
    rehearse()
    decode_jpeg(make_warmup_jpeg(), max_pixels=4096)
    with contextlib.suppress(av.FFmpegError):
        av.open(io.BytesIO(b"\0" * 64), format="mov")


def rehearse() -> None:
    """Check and decode the small clip. A child that waits for its job then finds its own copies of the pages.

    A forked process copies each page when it first writes to it, and Python writes to all that it touches. That takes a
    third of the time of a clip of one second.
    """
    source = warmup_source()
    job = _job(source.size_bytes)
    _, tracks = scan(job, source)
    decode_clip(job, source, NoOutbox(), tracks=tracks)


def quiet_libav() -> None:
    """Let libav's messages go to nobody but the exceptions that carry them."""
    logger = logging.getLogger("libav")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    av.logging.set_level(av.logging.ERROR)  # so that exceptions carry FFmpeg's own message for our own tests of it


def warmup_source() -> UploadSource:
    """Return the small clip as an upload."""
    return _MemorySource(make_warmup_clip())


def _job(size_bytes: int) -> DecodeJob:
    policy = MediaPolicy()
    return DecodeJob(
        fps=10.0,
        start_s=0.0,
        end_s=None,
        frame_height=_SIDE_PX,
        frame_width=_SIDE_PX,
        policy=policy,
        size_bytes=size_bytes,
    )


class _MemorySource(UploadSource):
    """A clip in memory, because a child has no descriptor of its own."""

    def __init__(self, data: bytes) -> None:
        super().__init__(-1, size_bytes=len(data), is_complete=True, need=lambda _: (len(data), True))
        self._data = data

    def pread(self, num_bytes: int, position: int) -> bytes:
        """Return bytes of the clip; fewer at the end."""
        return self._data[position : position + num_bytes]


class NoOutbox:
    """Drops the warm-up's samples."""

    def clip(self, clip: ClipInfo) -> None:
        """Do nothing."""

    def block(self, block: SampleBlock) -> None:
        """Do nothing."""

    def piece(self, data: bytes) -> None:
        """Do nothing."""

    def progress(self) -> None:
        """Do nothing."""


@cache
def make_warmup_clip() -> bytes:
    """Return six frames of 32x32 and their sound as an MP4."""
    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as container:
        video = container.add_stream("libx264", rate=10, options={"preset": "ultrafast", "threads": "1"})
        video.width = video.height = _SIDE_PX
        video.pix_fmt = "yuv420p"
        sound = container.add_stream("aac", rate=_RATE_HZ, layout="stereo")
        for number in range(_NUM_FRAMES):
            container.mux(video.encode(_picture(number)))
        num_pieces = _NUM_FRAMES * _RATE_HZ // 10 // 1024
        for number in range(num_pieces):
            piece = AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp", layout="stereo")
            piece.sample_rate, piece.pts, piece.time_base = _RATE_HZ, 1024 * number, Fraction(1, _RATE_HZ)
            container.mux(sound.encode(piece))
        container.mux(video.encode(None))
        container.mux(sound.encode(None))
    return target.getvalue()


def make_warmup_jpeg() -> bytes:
    """Return a grey JPEG of 32x32."""
    context = av.CodecContext.create("mjpeg", "w")
    assert isinstance(context, VideoCodecContext)
    context.width = context.height = _SIDE_PX
    context.pix_fmt = "yuvj420p"
    context.time_base = Fraction(1, 10)
    packets = [*context.encode(_picture(0).reformat(format="yuvj420p")), *context.encode(None)]
    return bytes(packets[0])


def _picture(number: int) -> VideoFrame:
    frame = VideoFrame.from_ndarray(np.full((_SIDE_PX, _SIDE_PX, 3), 40 * number, np.uint8), format="rgb24")
    frame.pts, frame.time_base = number, Fraction(1, 10)
    return frame.reformat(format="yuv420p")
