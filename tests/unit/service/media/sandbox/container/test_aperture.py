"""Clean apertures: frames, sizes and overlays of the part of the picture that players show."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import av
import numpy as np
import pytest
from support.components.decoding import SIDE_PX, decode_here, make_job
from support.inputs.clips import ClipSpec, make_clip
from support.inputs.hostile import box, find
from support.inputs.odd_clips import with_entry_box, with_matrix

from service.media.overlay.draw import write_overlay
from service.media.sandbox.container.aperture import read_aperture

SPEC = ClipSpec(movflags="faststart", width=64, height=48, codec_options={"crf": "10"})
# Width and height of the part, and the distance of its centre from the picture's to the right and down.
PARTS = {
    "centred": (40, 30, 0, 0),
    "left above": (32, 24, -16, -12),
    "right below": (32, 24, 16, 12),
    "a column less": (62, 48, -1, 0),
}


def with_clap(data: bytes, fields: tuple[int, ...]) -> bytes:
    """The clip with these eight fields of a clean aperture in the picture's sample entry."""
    return with_entry_box(data, box("clap", struct.pack(">8i", *fields)))


def part_fields(part: tuple[int, int, int, int]) -> tuple[int, ...]:
    """The part's four numbers as fractions."""
    return tuple(number for value in part for number in (value, 1))


def coded_picture(data: bytes) -> np.ndarray:
    """The first frame as coded, uint8 RGB."""
    with av.open(io.BytesIO(data)) as container:
        return next(container.decode(video=0)).to_ndarray(format="rgb24")


def squashed(picture: np.ndarray) -> np.ndarray:
    """A picture at the model's size, by the scaler of the service."""
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
    return frame.reformat(SIDE_PX, SIDE_PX, "rgb24", interpolation="BILINEAR").to_ndarray()


@pytest.mark.parametrize("piece_bytes", [None, 1000], ids=["complete", "growing"])
@pytest.mark.parametrize("name", PARTS)
def test_the_shown_part_is_decoded(name: str, piece_bytes: int | None) -> None:
    width, height, right, down = PARTS[name]
    data = make_clip(SPEC)
    decoded = decode_here(with_clap(data, part_fields(PARTS[name])), make_job(fps=None), piece_bytes=piece_bytes)
    assert (decoded.clip.width, decoded.clip.height) == (width, height)
    left, top = (64 - width) // 2 + right, (48 - height) // 2 + down
    part = coded_picture(data)[top : top + height, left : left + width]
    assert np.abs(decoded.frames[0].astype(int) - squashed(part)).mean() < 1.5
    whole = decode_here(data, make_job(fps=None))
    np.testing.assert_array_equal(decoded.timestamps_s, whole.timestamps_s)


def test_the_part_is_cut_before_the_picture_is_turned() -> None:
    data = with_matrix(with_clap(make_clip(SPEC), part_fields((32, 24, -16, -12))), (0, 1, -1, 0))
    decoded = decode_here(data, make_job(fps=None))
    assert (decoded.clip.width, decoded.clip.height) == (24, 32)
    part = np.rot90(coded_picture(data)[:24, :32], -1)
    assert np.abs(decoded.frames[0].astype(int) - squashed(part)).mean() < 1.5


@pytest.mark.parametrize(
    "fields",
    [
        part_fields((40, 30, 20, 0)),
        part_fields((40, 30, 0, -20)),
        part_fields((80, 48, 0, 0)),
        part_fields((0, 30, 0, 0)),
        part_fields((64, 48, 0, 0)),
        (40, 0, 30, 1, 0, 1, 0, 1),
        (40, 1, 30, -1, 0, 1, 0, 1),
    ],
)
def test_what_is_no_part_of_the_picture_is_ignored(fields: tuple[int, ...]) -> None:
    decoded = decode_here(with_clap(make_clip(SPEC), fields), make_job())
    np.testing.assert_array_equal(decoded.frames, decode_here(make_clip(SPEC), make_job()).frames)
    assert (decoded.clip.width, decoded.clip.height) == (64, 48)


def test_entries_that_end_early_have_no_aperture() -> None:
    data = with_clap(make_clip(SPEC), part_fields((40, 30, 0, 0)))
    entry = data.index(b"avc1", find(data, "stsd")) - 4
    whole = data[entry : entry + struct.unpack_from(">I", data, entry)[0]]
    assert read_aperture(whole) is not None
    for length in range(len(whole)):
        assert read_aperture(whole[:length]) is None


def test_overlays_show_the_same_part(tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(with_clap(make_clip(SPEC), part_fields((32, 24, 16, 12))))
    write_overlay(clip, tmp_path / "out.mp4", frames=[])
    shown = coded_picture((tmp_path / "out.mp4").read_bytes())
    assert shown.shape == (24, 32, 3)
    assert np.abs(shown.astype(int) - coded_picture(clip.read_bytes())[24:, 32:]).mean() < 6
