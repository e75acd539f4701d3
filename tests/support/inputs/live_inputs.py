"""Pictures and sound for live streams."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np

from service.domain.live import LiveFrame, SoundPiece


def bright_picture(height: int = 96, width: int = 128) -> np.ndarray:
    """White in its left half, black in its right."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[:, : width // 2] = 255
    return picture


def dotted_picture(side_px: int = 512, dot_px: int = 32) -> np.ndarray:
    """White and black squares. With those of 32 px, the fake predictor's mask takes about 12 kB."""
    rows, columns = np.indices((side_px, side_px)) // dot_px
    dots = ((rows + columns) % 2 * 255).astype(np.uint8)
    return np.repeat(dots[..., None], 3, axis=2)


def jpeg_of(picture: np.ndarray) -> bytes:
    context = av.CodecContext.create("mjpeg", "w")
    context.height, context.width, context.pix_fmt = *picture.shape[:2], "yuvj420p"
    context.time_base = Fraction(1, 25)
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuvj420p")
    return b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)])


def raw_frame(at_s: float, picture: np.ndarray) -> LiveFrame:
    return LiveFrame(at_s, picture.tobytes(), "rgb24", picture.shape[1], picture.shape[0])


def noise(at_s: float, seconds: float, rate_hz: int = 48_000, level: int = 8000) -> SoundPiece:
    rng = np.random.default_rng(round(at_s * 1000))
    pcm = rng.integers(-level, level + 1, round(seconds * rate_hz)).astype("<i2").tobytes()
    return SoundPiece(at_s, pcm, rate_hz)
