"""What is fuzzed: each target takes bytes and raises only for a finding. Documented refusals are no finding."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress

import numpy as np

from service.codec.live_json import decode_live_input, decode_live_start
from service.codec.run_lengths import run_lengths
from service.domain.errors import ServiceError
from service.domain.options import parse_options
from service.formats.pixels import decode
from service.media import framing
from service.media.framing import FrameSize, ProtocolError
from service.media.masks import encode_pixels
from service.media.policy import MediaPolicy
from service.media.sandbox.container.prescan import Scanner
from service.media.sandbox.source import UploadSource
from service.rest.requests.form import FormParser
from service.rest.requests.request_head import merge_options, parse_query

_BOUNDARY = b"b"
_SIZE = FrameSize(4, 6)
# Pixels of a fuzzed mask: the first byte is its width.
_MAX_PIXELS = 4096


def prescan(data: bytes) -> None:
    """The look at a whole file before FFmpeg sees it; its estimates are finite and not negative."""
    fd = os.memfd_create("fuzz")
    try:
        os.write(fd, data)
        source = UploadSource(fd, size_bytes=len(data), is_complete=True, need=lambda _: (len(data), True))
        scanner = Scanner(source, MediaPolicy())
        with suppress(ServiceError):
            scanner.head()
            scanner.rest()
            assert 0 <= scanner.decoder_memory_bytes() < 1 << 50
            assert 0 <= scanner.cpu_budget_s() <= MediaPolicy().max_cpu_s
    finally:
        os.close(fd)


def form(data: bytes) -> None:
    """A multipart form: the same fields and file whether it comes whole or in two pieces cut at the first byte."""
    if not data:
        return
    cut, body = data[0], data[1:]
    assert _parsed_form([body]) == _parsed_form([body[:cut], body[cut:]])


def _parsed_form(pieces: list[bytes]) -> tuple[bytes, list[tuple[str, str]]] | str:
    parser = FormParser(_BOUNDARY)
    try:
        file_data = b"".join(part for piece in pieces for part in parser.feed(piece))
        parser.finish()
    except ServiceError as error:
        return error.code
    return file_data, parser.fields


def rle(data: bytes) -> None:
    """Pixels of any shape come back from their run lengths, through pycocotools and through our own reading."""
    if len(data) < 2:
        return
    bits = np.unpackbits(np.frombuffer(data[1:], np.uint8))[:_MAX_PIXELS]
    width = 1 + data[0] % len(bits)
    inside = bits[: len(bits) // width * width].reshape(-1, width).astype(bool)
    mask = encode_pixels(np.ascontiguousarray(inside.T), label="sounding", min_area=0)  # which takes them transposed
    if mask is None:
        assert not inside.any()
        return
    assert mask.area == inside.sum()
    assert (decode(mask.segmentation) == inside).all()
    runs = run_lengths(mask.segmentation.counts)
    again = np.repeat(np.arange(len(runs)) % 2, runs).reshape(inside.shape, order="F")
    assert (again == inside).all()


def options(data: bytes) -> None:
    """A query string, and the options that it holds."""
    with suppress(ServiceError):
        parse_options(merge_options(parse_query(data)))


def child(data: bytes) -> None:
    """Whatever a child that was taken over may send to its parent."""
    if not data:
        return
    kind, body = data[0] % 12, data[1:]
    with suppress(ProtocolError):
        if len(body) > framing.max_body_bytes(kind, _SIZE):
            return
        if kind == framing.BLOCK:
            framing.unpack_block(body, _SIZE).windows()
        elif kind in (framing.CLIP, framing.END):
            framing.unpack_clip(body)
        elif kind == framing.ERROR:
            framing.unpack_error(body)
        elif kind in (framing.NEED, framing.MEMORY):
            framing.unpack_need(body)


def live(data: bytes) -> None:
    """Messages of a live stream over WebSocket."""
    with suppress(ServiceError):
        decode_live_input(data)
    with suppress(ServiceError, UnicodeDecodeError):
        decode_live_start(data.decode())


TARGETS: dict[str, Callable[[bytes], None]] = {
    "prescan": prescan,
    "form": form,
    "rle": rle,
    "options": options,
    "child": child,
    "live": live,
}
