"""Streams whose pictures grow over the limit in the middle, where the container tells a size within it."""

from __future__ import annotations

import av
import pytest
from support.components.decoding import decode_here, make_job
from support.inputs.clips import ClipSpec, make_clip
from support.inputs.lying_stream import changing_clip, lying_clip

from service.domain.errors import ServiceError
from service.media.policy import MediaPolicy

SMALL = {"width": 160, "height": 120, "num_frames": 10, "b_frames": 0}
POLICY = MediaPolicy(max_pixels=320 * 240)
# One that FFmpeg is told to refuse, and one within the margin that it rounds up to, which only our own check refuses.
SIZES = ((1280, 720), (340, 240))
OPTIONS = {
    "libx264": {},
    "libx265": {"preset": "ultrafast", "x265-params": "log-level=none:pools=1"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"},
    "libsvtav1": {"preset": "12"},
}


@pytest.fixture(autouse=True)
def _messages() -> None:
    """As in a decoder child, which is told FFmpeg's errors."""
    av.logging.set_level(av.logging.ERROR)


def refusal(clip: bytes, *, fps: float | None = None, piece_bytes: int | None = None) -> str:
    """The code and detail of a clip that is refused."""
    with pytest.raises(ServiceError) as caught:
        decode_here(clip, make_job(policy=POLICY, fps=fps), piece_bytes=piece_bytes)
    return f"{caught.value.code}: {caught.value.detail}"


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
@pytest.mark.parametrize("piece_bytes", [None, 2000])
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_parameter_sets_in_the_stream_raise_the_picture(
    width: int, height: int, piece_bytes: int | None, codec: str
) -> None:
    spec = {**SMALL, "codec": codec, "codec_options": OPTIONS[codec]}
    clip = lying_clip(make_clip(**spec), make_clip(**(spec | {"width": width, "height": height})))
    told = refusal(clip, piece_bytes=piece_bytes)
    assert told.startswith("picture_too_large")
    assert f"{width}x{height}" in told


@pytest.mark.parametrize("codec", ["libvpx-vp9", "libsvtav1"])
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_key_frames_raise_the_picture(codec: str, width: int, height: int) -> None:
    spec = {**SMALL, "codec": codec, "codec_options": OPTIONS[codec]}
    clip = changing_clip(ClipSpec(**spec), ClipSpec(**(spec | {"width": width, "height": height})))
    told = refusal(clip)
    assert told.startswith("picture_too_large")
    assert f"{width}x{height}" in told


@pytest.mark.parametrize("codec", ["libvpx-vp9", "libsvtav1"])
def test_a_picture_that_stays_within_the_limit_may_change(codec: str) -> None:
    spec = {**SMALL, "codec": codec, "codec_options": OPTIONS[codec]}
    clip = changing_clip(ClipSpec(**spec), ClipSpec(**(spec | {"width": 200, "height": 160})))
    assert len(decode_here(clip, make_job(policy=POLICY, fps=None)).timestamps_s) == 20
