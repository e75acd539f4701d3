"""Good clips that are odd in one way each: planned, plain and growing decoding agree to the byte, and with the rule."""

from __future__ import annotations

import numpy as np
import pytest
from support.components.decoding import Decoded, decode_here, expected_rows, make_job, shown_times
from support.inputs.clips import make_clip
from support.inputs.odd_clips import odd_clip, odd_clip_names

from service.media.sandbox.decoding import clip_decode, picture
from service.media.sandbox.decoding.packets import Plan


def assert_equal(one: Decoded, other: Decoded) -> None:
    for name in ("sample_times_s", "timestamps_s", "indexes", "frames", "windows"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    assert one.clip == other.clip


class PlainDecoder(picture.PictureDecoder):
    """Decodes every packet, whatever the plan says."""

    def __init__(self, *parts: object, plan: Plan | None, **more: object) -> None:
        super().__init__(*parts, plan=None, **more)


@pytest.mark.parametrize("name", odd_clip_names())
def test_all_ways_agree(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = odd_clip(name)
    times = shown_times(data)
    for fps in (1.3, None):
        planned = decode_here(data, make_job(fps=fps))
        growing = decode_here(data, make_job(fps=fps), piece_bytes=1000)
        with monkeypatch.context() as patched:
            patched.setattr(clip_decode.picture, "PictureDecoder", PlainDecoder)
            plain = decode_here(data, make_job(fps=fps))
        assert_equal(planned, plain)
        assert_equal(planned, growing)
        if fps is None:
            np.testing.assert_allclose(planned.timestamps_s, times[times >= 0], atol=1e-6)
        elif len(planned.indexes) > 1:
            assert planned.indexes.tolist() == expected_rows(times, planned.sample_times_s, tick_s=1e-5)
        np.testing.assert_allclose(planned.timestamps_s, times[planned.indexes], atol=1e-6)


def test_sparse_sampling_decodes_less_than_all(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []

    class CountingDecoder(picture.PictureDecoder):
        def _decode(self, packet):
            decoded.append(packet)
            yield from super()._decode(packet)

    monkeypatch.setattr(clip_decode.picture, "PictureDecoder", CountingDecoder)
    decode_here(make_clip(num_frames=100, gop=10), make_job(fps=0.5))
    assert 0 < len(decoded) < 30


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_turned_clips_are_upright(degrees: int) -> None:
    decoded = decode_here(odd_clip(f"turned_{degrees}"), make_job())
    plain = decode_here(odd_clip("plain"), make_job())
    turned = np.rot90(plain.frames[0], -degrees // 90)
    close = np.abs(decoded.frames[0].astype(int) - turned.astype(int))
    assert close.mean() < 4.0
    size = (48, 64) if degrees % 180 else (64, 48)
    assert (decoded.clip.width, decoded.clip.height) == size
