"""The stages between masks and reader: events between frames, and what is left out."""

from __future__ import annotations

from dataclasses import replace

from service.domain.clip import ClipInfo
from service.domain.options import SegmentOptions
from service.domain.request import AnswerEvent, ClipStarted
from service.domain.result import FrameMasks, Mask, ModelInfo, Rle, SoundEvent, Summary
from service.postprocess.stages import AnswerStages, mask_options

MODEL = ModelInfo("tiny", "sha256:ab", ("dog",), None, 9, 9)
MASK = Mask("dog", 0.9, 9, (0, 0, 3, 3), Rle((9, 9), "0"))
FRAMES = [FrameMasks(i + 0.9375, i + 0.9, i, (MASK,) if i in (1, 4) else ()) for i in range(5)]
SUMMARY = Summary(5)


def staged(options: SegmentOptions) -> list[AnswerEvent]:
    """What a reader with these options gets for the same masks."""
    masks = mask_options(options).resolve(MODEL)
    stages = AnswerStages(options)
    answer = [ClipStarted("id", MODEL, ClipInfo(9, 9, "1:1", 5.0, 25.0, 5), masks), *FRAMES, SUMMARY]
    return [made for event in answer for made in stages.add(event)]


def test_events_follow_the_frames_that_close_them() -> None:
    started, *rest = staged(SegmentOptions(event_gap_s=0.0, event_min_s=0.0))
    assert isinstance(started, ClipStarted)
    events = [event for event in rest if isinstance(event, SoundEvent)]
    assert [event.label for event in events] == ["dog", "dog"]
    assert rest == [*FRAMES[:3], events[0], *FRAMES[3:], events[1], SUMMARY]


def test_frames_are_dropped_where_only_events_are_wanted() -> None:
    options = SegmentOptions(only="events", event_gap_s=0.0, event_min_s=0.0)
    started, *events, summary = staged(options)
    assert isinstance(started, ClipStarted)
    assert started.options == options.resolve(MODEL), "the reader's options, not those of the masks"
    assert all(isinstance(event, SoundEvent) for event in events)
    assert (len(events), summary) == (2, SUMMARY)


def test_readers_with_other_event_options_share_masks() -> None:
    assert mask_options(SegmentOptions(only="events", event_onset=0.9, threshold=0.25)) == mask_options(
        SegmentOptions(threshold=0.25)
    )
    assert mask_options(SegmentOptions(threshold=0.25)) != mask_options(SegmentOptions())


def test_the_models_lag_reaches_the_events() -> None:
    options = SegmentOptions(event_gap_s=0.0, event_min_s=0.0)
    stages = AnswerStages(options)
    model = replace(MODEL, offset_lag_s=0.75)
    masks = mask_options(options).resolve(model)
    answer = [ClipStarted("id", model, ClipInfo(9, 9, "1:1", 5.0, 25.0, 5), masks), *FRAMES, SUMMARY]
    events = [made for event in answer for made in stages.add(event) if isinstance(made, SoundEvent)]
    # The masks of sample 1 reach from 1.4375 s to 2.4375 s; those of the last sample end with the clip.
    assert [(event.start_s, event.end_s) for event in events] == [(1.4375, 1.6875), (4.4375, 4.9375)]
