"""Single pictures of live streams: JPEG is decoded and RGB resized to the model's size, in a lasting jailed child."""

from __future__ import annotations

from collections.abc import Callable

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from service.domain.errors import ServiceError
from service.media import framing
from service.media.framing import JPEG, STILL_REQUEST, STILL_SIZE
from service.media.sandbox.decoding.picture import FrameMaker

_SOI = b"\xff\xd8"
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SUPPORTED_FRAMES = frozenset({0xC0, 0xC1, 0xC2})
# JPEG markers: ITU-T T.81 table B.1. Baseline, extended and progressive Huffman coding are decoded.
_STANDALONE = frozenset(range(0xD0, 0xD8)) | {0x01, 0xD8}


def serve_stills(read_exactly: Callable[[int], bytes], write: Callable[[bytes], None], *, max_pixels: int) -> None:
    """Answer requests one by one until the parent closes the socket (raises EOFError)."""
    makers: dict[tuple[int, int], FrameMaker] = {}
    while True:
        kind, height, width, out_height, out_width, num_bytes = STILL_REQUEST.unpack(read_exactly(STILL_REQUEST.size))
        data = read_exactly(num_bytes)
        if (out_height, out_width) not in makers:
            makers = {(out_height, out_width): FrameMaker(height=out_height, width=out_width)}
        try:
            frame = (
                decode_jpeg(data, max_pixels=max_pixels)
                if kind == JPEG
                else VideoFrame.from_ndarray(np.frombuffer(data, np.uint8).reshape(height, width, 3), format="rgb24")
            )
            rgb: NDArray[np.uint8] = makers[out_height, out_width].make(frame)
            write(framing.pack(framing.FRAME, STILL_SIZE.pack(frame.height, frame.width) + rgb.tobytes()))
        except ServiceError as error:
            write(framing.pack_error(error))
        except (av.FFmpegError, ValueError, MemoryError):
            write(framing.pack_error(_bad_jpeg()))


def decode_jpeg(data: bytes, *, max_pixels: int) -> VideoFrame:
    """Return one JPEG as a frame.

    Raises:
        ServiceError: `broken`, `picture_too_large`.
    """
    height, width = jpeg_size(data)
    if height * width > max_pixels:
        raise ServiceError(
            "picture_too_large", f"The frame has {width}x{height} pixels, over the limit of {max_pixels}."
        )
    context = av.CodecContext.create("mjpeg", "r")
    assert isinstance(context, VideoCodecContext)
    context.options = {"max_pixels": str(max_pixels + max_pixels // 8 + 128 * 128)}  # rounded up to whole blocks
    context.thread_count = 1
    frames = [*context.decode(av.Packet(data)), *context.decode(None)]
    if not frames or frames[0].is_corrupt:
        raise _bad_jpeg()
    return frames[0]


def jpeg_size(data: bytes) -> tuple[int, int]:
    """Return height and width from a JPEG's frame header, without decoding.

    Raises:
        ServiceError: `broken` if it is no JPEG or has no frame header.
    """
    if data[:2] != _SOI:
        raise _bad_jpeg()
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            break
        marker = data[at + 1]
        if marker == 0xFF or marker in _STANDALONE:
            at += 1 if marker == 0xFF else 2
            continue
        if marker in _START_OF_FRAME:
            return _frame_size(data, at, marker)
        at += 2 + max(2, int.from_bytes(data[at + 2 : at + 4], "big"))
    raise _bad_jpeg()


def _frame_size(data: bytes, at: int, marker: int) -> tuple[int, int]:
    height, width = int.from_bytes(data[at + 5 : at + 7], "big"), int.from_bytes(data[at + 7 : at + 9], "big")
    if marker not in _SUPPORTED_FRAMES or not height or not width or at + 9 > len(data):
        raise _bad_jpeg()
    return height, width


def _bad_jpeg() -> ServiceError:
    return ServiceError("broken", "The frame is not a JPEG picture that can be decoded.")
