"""Picture formats read from sample entries of real encoders, and from damaged ones."""

from __future__ import annotations

import os
import random

import pytest
from support.inputs.clips import make_clip
from support.inputs.hostile import find

from service.media.policy import MediaPolicy
from service.media.sandbox.container.parameter_sets import PictureFormat, read_format
from service.media.sandbox.container.prescan import Scanner
from service.media.sandbox.source import UploadSource

X265 = "log-level=none:pools=1:"


def scanner_of(data: bytes) -> Scanner:
    """A scanner of a complete upload, with its index read."""
    fd = os.memfd_create("upload")
    os.write(fd, data)
    source = UploadSource(fd, size_bytes=len(data), is_complete=True, need=lambda _: (len(data), True))
    scanner = Scanner(source, MediaPolicy())
    scanner.head()
    return scanner


def entry_of(data: bytes) -> bytes:
    """The only picture sample entry of a clip."""
    (entry,) = scanner_of(data).head().picture.entries
    return entry


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"codec_options": {"refs": "7"}}, PictureFormat(320, 192, 1.5, 7)),
        ({"codec_options": {"x264-params": "interlaced=1:ref=3"}}, PictureFormat(320, 192, 1.5, 4)),
        ({"codec_options": {"refs": "16"}, "pixel_format": "yuv444p10le"}, PictureFormat(320, 192, 6.0, 16)),
        ({"codec_options": {"refs": "1", "x264-params": "cqm=jvt"}, "b_frames": 0}, PictureFormat(320, 192, 1.5, 1)),
        ({"pixel_format": "yuv422p"}, PictureFormat(320, 192, 2.0, 4)),
        (
            {
                "codec": "libx265",
                "codec_options": {"x265-params": X265 + "ref=6:bframes=4"},
                "pixel_format": "yuv420p10le",
            },
            PictureFormat(320, 184, 3.0, 7),
        ),
        (
            {"codec": "libx265", "codec_options": {"x265-params": X265 + "temporal-layers=3:ref=1:bframes=0"}},
            PictureFormat(320, 184, 1.5, 3),
        ),
        ({"codec": "libvpx-vp9", "pixel_format": "yuv444p"}, PictureFormat(320, 180, 3.0, 8)),
        ({"codec": "libvpx-vp9"}, PictureFormat(320, 180, 1.5, 8)),
        ({"codec": "libsvtav1", "pixel_format": "yuv420p10le"}, PictureFormat(320, 180, 3.0, 8)),
        ({"codec": "libsvtav1"}, PictureFormat(320, 180, 1.5, 8)),
        ({"codec": "mpeg4"}, PictureFormat(320, 180, 1.5, 3)),
    ],
)
def test_what_encoders_write_is_read(changes: dict[str, object], wanted: PictureFormat) -> None:
    assert read_format(entry_of(make_clip(width=320, height=180, num_frames=5, **changes))) == wanted


def test_the_larger_of_entry_and_parameter_set_counts() -> None:
    data = bytearray(make_clip(width=320, height=180, num_frames=5))
    at = find(data, "avc1", 1) + 24  # the first is a brand
    assert int.from_bytes(data[at : at + 2], "big") == 320
    data[at : at + 4] = b"\0\x10\0\x10"
    assert read_format(entry_of(bytes(data))).picture_bytes == 320 * 192 * 1.5
    data[at : at + 4] = b"\x04\0\x04\0"
    assert read_format(entry_of(bytes(data))).picture_bytes == 1024 * 1024 * 1.5


def test_without_a_parameter_set_the_worst_case_counts() -> None:
    entry = bytearray(entry_of(make_clip(width=320, height=180, num_frames=5)))
    at = entry.index(b"avcC") + 4
    entry[at + 5] &= 0xE0  # none
    assert read_format(bytes(entry)) == PictureFormat(320, 180, 3.0, 16)
    assert read_format(bytes(entry[:86])) == PictureFormat(320, 180, 3.0, 16)


@pytest.mark.parametrize("codec", ["libx264", "libx265", "libvpx-vp9", "libsvtav1"])
def test_damaged_parameter_sets_never_fail(codec: str) -> None:
    entry = entry_of(make_clip(codec=codec, num_frames=5))
    rng = random.Random(7)
    for _ in range(500):
        copy = bytearray(entry[: rng.randrange(40, len(entry) + 1)])
        for _ in range(rng.randrange(1, 30)):
            copy[rng.randrange(36, len(copy))] = rng.randrange(256)
        found = read_format(bytes(copy))
        assert 1.5 <= found.bytes_per_pixel <= 6.0
        assert 0 <= found.num_references <= 16


def test_the_estimate_grows_with_pictures_and_references() -> None:
    small = scanner_of(make_clip(num_frames=5)).decoder_memory_bytes()
    large = scanner_of(
        make_clip(width=1920, height=1080, num_frames=5, codec_options={"refs": "4"})
    ).decoder_memory_bytes()
    many = scanner_of(
        make_clip(width=1920, height=1080, num_frames=5, codec_options={"refs": "16"})
    ).decoder_memory_bytes()
    assert small < MediaPolicy().granted_bytes
    assert small < large <= MediaPolicy().granted_bytes  # common clips wait for nothing
    assert MediaPolicy().granted_bytes < many <= MediaPolicy().max_growing_bytes
