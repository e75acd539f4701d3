"""Dolby Vision: base layers that any decoder can show are decoded like other HDR; the others are refused."""

from __future__ import annotations

import struct
from functools import cache

import numpy as np
import pytest
from support.components.decoding import decode_here, make_job
from support.inputs.clips import ClipSpec, make_clip
from support.inputs.hostile import box
from support.inputs.odd_clips import ODD_SPECS, with_entry_box

from service.domain.errors import ServiceError
from service.media.sandbox.container.dolby_vision import closed_profile

LEVEL = 3


def record(profile: int, compatibility: int) -> bytes:
    """A DOVIDecoderConfigurationRecord of 24 bytes, with base layer and metadata (Dolby's ISO BMFF specification)."""
    bits = profile << 9 | LEVEL << 3 | 0b101
    return struct.pack(">BBHB19x", 1, 0, bits, compatibility << 4)


@cache
def hdr(name: str) -> bytes:
    """A short HEVC clip of `pq` or `hlg`, index first."""
    options = ODD_SPECS[name].codec_options
    return make_clip(
        ClipSpec(
            codec="libx265",
            pixel_format="yuv420p10le",
            codec_options=options,
            num_frames=10,
            movflags="faststart",
        )
    )


@pytest.mark.parametrize(
    ("kind", "profile", "compatibility", "name"),
    [("dvvC", 8, 1, "pq"), ("dvvC", 8, 4, "hlg"), ("dvcC", 7, 6, "pq"), ("dvcC", 4, 2, "hlg")],
)
def test_a_base_layer_of_hdr10_or_hlg_is_decoded_like_one_alone(
    kind: str, profile: int, compatibility: int, name: str
) -> None:
    plain = decode_here(hdr(name), make_job())
    marked = decode_here(with_entry_box(hdr(name), box(kind, record(profile, compatibility))), make_job())
    assert len(plain.frames) == 1
    np.testing.assert_array_equal(marked.frames, plain.frames)


@pytest.mark.parametrize(("tag", "piece_bytes"), [(b"hvc1", None), (b"dvh1", 1000), (b"dvhe", None)])
def test_profile_5_is_refused_with_its_reason(tag: bytes, piece_bytes: int | None) -> None:
    data = with_entry_box(hdr("pq"), box("dvcC", record(5, 0)))
    assert data.count(b"hev1") == 1
    with pytest.raises(ServiceError, match="Dolby Vision profile 5") as caught:
        decode_here(data.replace(b"hev1", tag), make_job(), piece_bytes=piece_bytes)
    assert caught.value.code == "unsupported_codec"
    assert "HDR10" in caught.value.detail


@pytest.mark.parametrize(
    ("boxes", "profile"),
    [
        ([("hvcC", b"\0" * 40)], None),
        ([("dvcC", record(5, 0))], 5),
        ([("dvvC", record(10, 0))], 10),
        ([("dvvC", record(10, 1)), ("dvwC", record(20, 0))], 20),
        ([("dvvC", record(10, 4))], None),
        ([("dvvC", record(9, 2))], None),
        ([("dvcC", b"\x01\x00\x0a")], None),  # cut off
    ],
)
def test_profiles_without_a_base_layer_for_others(boxes: list[tuple[str, bytes]], profile: int | None) -> None:
    assert closed_profile(boxes) == profile
