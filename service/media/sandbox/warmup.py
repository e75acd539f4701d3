"""The small clip and picture that a zygote decodes before its first child: MPEG-4 and AAC, made on the spot."""

from __future__ import annotations

import io
from fractions import Fraction

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

_SIDE_PX = 32
_RATE_HZ = 44_100
_NUM_FRAMES = 6


def make_warmup_clip() -> bytes:
    """Six frames of 32x32 and their sound as an MP4."""
    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as container:
        video = container.add_stream("mpeg4", rate=10)
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
    """One grey JPEG of 32x32."""
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
