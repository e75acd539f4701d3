"""HLG, PQ and BT.2020 clips: patches whose light the recommendations state, as the codes that BT.709 has for it."""

from __future__ import annotations

import io
from fractions import Fraction

import av
import numpy as np
import pytest
from support.components.decoding import make_job

from service.media.overlay.draw import write_overlay
from service.media.sandbox.decoding.colour import Colours
from service.media.sandbox.decoding.picture import FrameMaker

PQ, HLG, SDR = 16, 18, 14
TRANSFERS = {PQ: "smpte2084", HLG: "arib-std-b67", SDR: "bt2020-10"}
# Primary red of BT.709 as light in BT.2020 (ITU-R BT.2087, table 2).
RED = (0.6274, 0.0691, 0.0164)


def coded(rgb: tuple[float, float, float], transfer: int) -> bytes:
    """Three HEVC frames of one colour, given as R'G'B' in [0, 1], in BT.2020 of 10 bits, limited range."""
    red, green, blue = rgb
    luma = 0.2627 * red + 0.6780 * green + 0.0593 * blue
    values = (64 + 876 * luma, 512 + 896 * (blue - luma) / 1.8814, 512 + 896 * (red - luma) / 1.4746)
    target = io.BytesIO()
    parameters = f"log-level=none:pools=1:qp=4:colorprim=bt2020:transfer={TRANSFERS[transfer]}:colormatrix=bt2020nc"
    with av.open(target, "w", format="mp4") as container:
        stream = container.add_stream("libx265", rate=25, options={"preset": "ultrafast", "x265-params": parameters})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p10le"
        context = stream.codec_context
        context.color_primaries, context.color_trc, context.colorspace, context.color_range = 9, transfer, 9, 1
        for number in range(3):
            frame = av.VideoFrame(64, 48, "yuv420p10le")
            for plane, value in zip(frame.planes, values, strict=True):
                np.frombuffer(plane, np.uint16)[:] = round(value)
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return target.getvalue()


def first_frame(data: bytes) -> av.VideoFrame:
    with av.open(io.BytesIO(data)) as container:
        return next(container.decode(video=0))


def codes_of(data: bytes) -> np.ndarray:
    """The patch as the model sees it: the mean of all pixels."""
    job = make_job()
    made = FrameMaker(height=job.frame_height, width=job.frame_width).make(first_frame(data))
    assert made.dtype == np.uint8
    return made.reshape(-1, 3).mean(axis=0)


def pq(nits: float) -> float:
    """Signal of a light, by the inverse of the function that is tested (ITU-R BT.2100, table 4)."""
    power = (nits / 10_000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375


def bt709(nits: float) -> float:
    """Code of a light on a BT.709 display whose white is 203 nits."""
    return 255 * (nits / 203) ** (1 / 2.4)


@pytest.mark.parametrize(
    ("transfer", "signal", "nits"),
    [
        (HLG, 0.38, 26.0),  # 18 % grey (ITU-R BT.2408, table 1)
        (PQ, 0.38, 26.0),
        (PQ, pq(100.0), 100.0),
        (PQ, 0.0, 0.0),
        (HLG, 0.0, 0.0),
    ],
)
def test_greys_of_known_light_keep_it(transfer: int, signal: float, nits: float) -> None:
    found = codes_of(coded((signal,) * 3, transfer))
    assert found == pytest.approx([bt709(nits)] * 3, abs=3.0)


@pytest.mark.parametrize(("transfer", "signal"), [(HLG, 0.75), (PQ, 0.58)])
def test_reference_white_leaves_room_for_highlights(transfer: int, signal: float) -> None:
    """203 nits become 0.9 of white; the brightest light becomes white and nothing wraps around."""
    assert codes_of(coded((signal,) * 3, transfer)) == pytest.approx([255 * 0.9 ** (1 / 2.4)] * 3, abs=3.0)
    brightest = codes_of(coded((1.0,) * 3, transfer))
    assert (brightest >= 250).all()


def test_colours_move_to_the_primaries_of_bt709() -> None:
    """The red of BT.709 at 100 nits is pure red again; its code follows from its light alone."""
    found = codes_of(coded(tuple(pq(100 * share) for share in RED), PQ))
    assert found[0] == pytest.approx(bt709(100), abs=4.0)
    assert found[1:].max() < 25


def test_bt2020_of_standard_range_changes_primaries_only() -> None:
    grey = codes_of(coded((0.5,) * 3, SDR))
    assert grey == pytest.approx([127.5] * 3, abs=2.0)
    red = codes_of(coded(tuple((0.5 * share) ** (1 / 2.4) for share in RED), SDR))
    assert red[0] == pytest.approx(255 * 0.5 ** (1 / 2.4), abs=4.0)
    assert red[1:].max() < 25


def test_light_rises_with_the_signal_in_every_transfer() -> None:
    ramp = np.repeat(np.arange(0, 65536, 16, dtype=np.uint16)[None, :, None], 3, axis=2)
    for transfer in TRANSFERS:
        codes = Colours(is_bt2020=True, transfer=transfer).to_bt709(ramp)[0].astype(int)
        assert (np.diff(codes, axis=0) >= 0).all()
        assert (codes[0], codes[-1]) == (pytest.approx([0, 0, 0], abs=0), pytest.approx([255] * 3, abs=4))


def test_pictures_of_bt709_are_left_alone() -> None:
    assert Colours.of(av.VideoFrame(64, 48, "yuv420p")) is None


def test_overlays_have_the_colours_that_the_model_sees(tmp_path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(coded((0.38, 0.38, 0.38), HLG))
    write_overlay(path, tmp_path / "out.mp4", frames=[])
    shown = first_frame((tmp_path / "out.mp4").read_bytes()).to_ndarray(format="rgb24")
    assert shown.reshape(-1, 3).mean(axis=0) == pytest.approx([bt709(26)] * 3, abs=4.0)
