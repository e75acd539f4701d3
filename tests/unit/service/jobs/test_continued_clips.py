"""The rest of a clip, decoded for an answer that is continued, beside the whole clip: samples, sound and its notes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from support.components.decoding import decode_here, make_job
from support.inputs.clips import make_clip

from service.domain.clip import ClipInfo
from service.domain.options import SegmentOptions
from service.domain.request import ClipStarted
from service.jobs.resume import StoredAnswer
from service.postprocess.stages import AnswerStages
from service.predictors.fake import FakePredictor

# Two seconds; sound at the start alone, so that the rest by itself is silent.
CLIP = make_clip(flash_frames=frozenset({3}), codec="mpeg4", b_frames=0)
FRAGMENTED = make_clip(flash_frames=frozenset({3}), movflags="frag_keyframe+empty_moov")
MODEL = FakePredictor().info


def stored_up_to(time_s: float, options: SegmentOptions) -> StoredAnswer:
    started = ClipStarted("r", MODEL, ClipInfo(64, 48, "1:1", 2.0, 25.0, None), options.resolve(MODEL))
    return StoredAnswer(started, AnswerStages(options), num_frames=1, last_time_s=time_s)


@pytest.mark.parametrize("data", [CLIP, make_clip(flash_frames=frozenset({3}), movflags="frag_keyframe+empty_moov")])
@pytest.mark.parametrize(
    "options", [SegmentOptions(fps=7), SegmentOptions(fps=3, end_s=1.05), SegmentOptions(start_s=1)]
)
def test_the_rest_has_the_samples_and_notes_of_the_whole(data: bytes, options: SegmentOptions) -> None:
    asked = {"fps": float(options.fps), "end_s": options.end_s}
    whole = decode_here(data, make_job(start_s=options.start_s, **asked))
    num_samples = len(whole.indexes)
    for place in sorted({0, num_samples // 2, num_samples - 1}):
        time_s = float(whole.sample_times_s[place])
        rest_options = stored_up_to(time_s, options).remaining(options)
        job = make_job(start_s=rest_options.start_s, **asked)
        rest = decode_here(data, replace(job, heard_from_s=options.start_s))
        new = rest.sample_times_s > time_s
        assert rest.sample_times_s[new].tolist() == whole.sample_times_s[place + 1 :].tolist()
        assert np.array_equal(rest.windows[new], whole.windows[place + 1 :])
        assert whole.clip.audio is not None
        assert rest.clip.audio == whole.clip.audio, place


def test_native_frames_are_continued() -> None:
    options = SegmentOptions(fps="native")
    whole = decode_here(CLIP, make_job(fps=None))
    for place in (0, 20, len(whole.indexes) - 1):
        rest_options = stored_up_to(float(whole.sample_times_s[place]), options).remaining(options)
        rest = decode_here(CLIP, replace(make_job(fps=None, start_s=rest_options.start_s), heard_from_s=0.0))
        assert rest.indexes.tolist() == whole.indexes[place:].tolist()
        assert rest.clip.audio == whole.clip.audio
