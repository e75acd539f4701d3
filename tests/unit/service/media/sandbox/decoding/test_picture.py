"""What is known of a picture track before its first picture is decoded, and what only the pictures tell."""

from __future__ import annotations

import io

import av
import pytest
from support.components.decoding import decode_here, make_job
from support.inputs.clips import ClipSpec, make_clip

from service.media.sandbox.decoding.picture import is_depth_known


@pytest.mark.parametrize(
    ("spec", "is_known"),
    [
        (ClipSpec(b_frames=2), True),
        (ClipSpec(b_frames=0), False),
        (ClipSpec(b_frames=2, movflags="frag_keyframe+empty_moov"), False),
        (ClipSpec(codec="mpeg4", codec_options={"bf": "2"}), False),
    ],
    ids=["offsets", "no_offsets", "offsets_in_fragments", "other_codec"],
)
def test_the_depth_is_known_by_the_composition_offsets_of_h264(spec: ClipSpec, is_known: bool) -> None:
    with av.open(io.BytesIO(make_clip(spec)), options={"codec_whitelist": "aac"}) as container:
        is_fragmented = "frag" in spec.movflags
        assert is_depth_known(container, track_id=None, is_fragmented=is_fragmented) is is_known
        assert is_depth_known(container, track_id=7, is_fragmented=False) is False


@pytest.mark.parametrize("b_frames", [0, 2])
def test_the_pixel_shape_may_be_told_by_the_pictures_alone(b_frames: int) -> None:
    data = make_clip(b_frames=b_frames, codec_options={"x264-params": "sar=4/3"})
    assert b"pasp" not in data
    assert decode_here(data, make_job()).clip.sample_aspect_ratio == "4:3"
