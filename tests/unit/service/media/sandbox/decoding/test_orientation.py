"""The eight orientations of a display matrix: what players show, in frames, sizes and pixel shapes."""

from __future__ import annotations

import gc
import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from support.components.decoding import SIDE_PX, decode_here, make_job
from support.inputs.clips import make_clip
from support.inputs.odd_clips import with_matrix

from service.media.overlay.draw import OverlayPolicy, write_overlay
from service.media.overlay.paint import PaintPolicy
from service.media.sandbox.decoding.orientation import UPRIGHT, Orientation, orientation_from, orientation_of

# Matrix (a, b, c, d) by what it does. A player shows the coded point (x, y) at (a x + c y, b x + d y).
EIGHT = {
    "upright": (1, 0, 0, 1),
    "mirrored": (-1, 0, 0, 1),
    "flipped": (1, 0, 0, -1),
    "turned_180": (-1, 0, 0, -1),
    "turned_90": (0, 1, -1, 0),
    "turned_270": (0, -1, 1, 0),
    "transposed": (0, 1, 1, 0),
    "transposed_the_other_way": (0, -1, -1, 0),
}


def shown_by_matrix(picture: np.ndarray, matrix: tuple[int, int, int, int]) -> np.ndarray:
    """Each coded pixel at the place where the matrix puts it, moved into view."""
    a, b, c, d = matrix
    rows, columns = np.indices(picture.shape[:2])
    x, y = a * columns + c * rows, b * columns + d * rows
    x, y = x - x.min(), y - y.min()
    shown = np.zeros((y.max() + 1, x.max() + 1, *picture.shape[2:]), picture.dtype)
    shown[y, x] = picture
    return shown


@pytest.mark.parametrize("scale", [65536, 32768], ids=["unscaled", "halved"])
@pytest.mark.parametrize("name", EIGHT)
def test_frames_are_shown_as_players_show_them(name: str, scale: int) -> None:
    coded = make_clip(width=64, height=48)
    plain = decode_here(coded, make_job())
    shown = decode_here(with_matrix(coded, EIGHT[name], scale=scale), make_job())
    wanted = shown_by_matrix(plain.frames[0], EIGHT[name])
    assert wanted.shape == (SIDE_PX, SIDE_PX, 3)
    assert np.abs(shown.frames[0].astype(int) - wanted).mean() < 2
    for other in EIGHT.values():
        if other != EIGHT[name]:
            distance = np.abs(shown.frames[0].astype(int) - shown_by_matrix(plain.frames[0], other)).mean()
            assert distance > 4, "the picture looks different in each orientation"
    is_transposed = EIGHT[name][0] == 0
    assert (shown.clip.width, shown.clip.height) == ((48, 64) if is_transposed else (64, 48))


@pytest.mark.parametrize("name", EIGHT)
def test_the_upright_picture_is_that_of_the_matrix(name: str) -> None:
    picture = np.arange(2 * 3).reshape(2, 3).astype(np.uint8)
    shown = orientation_from(*EIGHT[name]).apply(picture)
    np.testing.assert_array_equal(shown, shown_by_matrix(picture, EIGHT[name]))
    assert shown.flags.c_contiguous


@pytest.mark.parametrize("name", ["mirrored", "flipped", "turned_270", "transposed"])
def test_overlays_are_shown_as_players_show_the_clip(name: str, tmp_path: Path) -> None:
    coded, clip, target = make_clip(width=64, height=48, num_frames=24), tmp_path / "clip.mp4", tmp_path / "out.mp4"
    clip.write_bytes(with_matrix(coded, EIGHT[name]))
    write_overlay(clip, target, frames=[], policy=OverlayPolicy(crf=8, paint=PaintPolicy(strip_height=0.0)))
    with av.open(io.BytesIO(coded)) as plain, av.open(str(target)) as drawn:
        *_, last = (frame.to_ndarray(format="rgb24") for frame in plain.decode(video=0))
        *_, shown = drawn.decode(video=0)
        assert orientation_of(shown) == UPRIGHT, "the picture itself is turned"
        pixels = shown.to_ndarray(format="rgb24").astype(int)
    distances = {
        other: np.abs(pixels - wanted).mean()
        for other, matrix in EIGHT.items()
        if (wanted := shown_by_matrix(last, matrix)).shape == pixels.shape
    }
    assert len(distances) == 4
    assert distances.pop(name) < 3
    assert min(distances.values()) > 4


@pytest.mark.parametrize("matrix", [(0.7, 0.7, -0.7, 0.7), (0, 0, 0, 0), (1, 0, 0, 0), (1, 0.2, 0, 1), (1, 1, 1, 1)])
def test_other_matrices_are_ignored(matrix: tuple[float, float, float, float]) -> None:
    assert orientation_from(*matrix) == UPRIGHT


def test_a_matrix_may_be_slightly_off_and_unevenly_scaled() -> None:
    assert orientation_from(0.01, 2.0, -1.0, 0.01) == Orientation(is_transposed=True, flips_columns=True)


def test_pixel_shapes_follow_transposed_pictures() -> None:
    stretched = io.BytesIO()
    with av.open(io.BytesIO(make_clip())) as source, av.open(stretched, "w", format="mp4") as target:
        streams = {stream.index: target.add_stream_from_template(stream) for stream in source.streams}
        streams[0].codec_context.sample_aspect_ratio = Fraction(4, 3)
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                target.mux(packet)
    data = stretched.getvalue()
    ratios = {
        name: decode_here(with_matrix(data, matrix), make_job()).clip.sample_aspect_ratio
        for name, matrix in EIGHT.items()
    }
    assert ratios["mirrored"] == ratios["turned_180"] == ratios["upright"] == "4:3"
    assert ratios["transposed"] == ratios["turned_90"] == "3:4"


def num_frames_alive() -> int:
    return sum(type(one) is av.VideoFrame for one in gc.get_objects())


def test_a_frame_is_freed_without_the_garbage_collector() -> None:
    gc.collect()
    gc.disable()
    num_before = num_frames_alive()
    try:
        with av.open(io.BytesIO(with_matrix(make_clip(width=64, height=48), EIGHT["turned_90"]))) as container:
            for frame in container.decode(video=0):
                assert orientation_of(frame).is_transposed
        del frame
        assert num_frames_alive() <= num_before
    finally:
        gc.enable()
