"""Single JPEG pictures: decoded, or refused by their header before a pixel is touched."""

from __future__ import annotations

import struct

import pytest

from service.domain.errors import ServiceError
from service.media.sandbox.decoding.stills import decode_jpeg, jpeg_size
from service.media.sandbox.warmup import make_warmup_jpeg


def test_a_jpeg_decodes() -> None:
    data = make_warmup_jpeg()
    assert jpeg_size(data) == (32, 32)
    frame = decode_jpeg(data, max_pixels=1024)
    assert (frame.width, frame.height) == (32, 32)


def test_a_large_jpeg_is_refused_by_its_header() -> None:
    data = bytearray(make_warmup_jpeg())
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", 60_000, 60_000)
    with pytest.raises(ServiceError, match="60000x60000") as caught:
        decode_jpeg(bytes(data), max_pixels=1 << 22)
    assert caught.value.code == "picture_too_large"


@pytest.mark.parametrize("keep", [0, 1, 2, 3, 20, 100, 150])
def test_a_cut_jpeg_is_broken_or_decodes_what_is_there(keep: int) -> None:
    data = make_warmup_jpeg()[:keep]
    with pytest.raises(ServiceError) as caught:
        decode_jpeg(data, max_pixels=1 << 22)
    assert caught.value.code == "broken"


@pytest.mark.parametrize("data", [b"\xff\xd8" + b"\xff" * 1000, b"\xff\xd8\xff\xe0\0\0" * 100, b"GIF89a" + bytes(50)])
def test_no_jpeg_is_broken(data: bytes) -> None:
    with pytest.raises(ServiceError) as caught:
        jpeg_size(data)
    assert caught.value.code == "broken"
