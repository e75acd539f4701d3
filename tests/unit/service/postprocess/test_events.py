"""Events from frames: hysteresis, pauses, least duration, streaming."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.options import SegmentOptions
from service.domain.result import FrameMasks, Mask, Rle, SoundEvent
from service.postprocess.events import EventTracker

STEP_S = 0.1
PLAIN = {"event_onset": 0.6, "event_offset": 0.4, "event_gap_s": 0.0, "event_min_s": 0.0}


def frame(time_s: float, scores: dict[tuple[str, int | None], float]) -> FrameMasks:
    masks = [
        Mask(label, score, round(100 * score), (0, 0, 1, 1), Rle((9, 9), "0"), track)
        for (label, track), score in scores.items()
        if score
    ]
    return FrameMasks(time_s, time_s, 0, tuple(masks))


def events_of(scores: Sequence[float], *, offset_lag_s: float = 0.0, **rules: Any) -> list[tuple[float, float]]:
    """The events of one label whose score is given every 0.1 s from 0.05 s on."""
    tracker = EventTracker(SegmentOptions(**{**PLAIN, **rules}), step_s=STEP_S, offset_lag_s=offset_lag_s)
    found: list[SoundEvent] = []
    for number, score in enumerate(scores):
        found += tracker.add(frame((number + 0.5) * STEP_S, {("dog", None): score}))
    found += tracker.finish()
    return [(event.start_s, event.end_s) for event in found]


@pytest.mark.parametrize(
    ("scores", "rules", "expected"),
    [
        ([0, 0.7, 0.7, 0], {}, [(0.1, 0.3)]),
        ([0.7, 0.7, 0, 0], {}, [(0.0, 0.2)]),
        ([0, 0, 0.7, 0.7], {}, [(0.2, 0.35)]),
        ([0, 0, 0, 0], {}, []),
        # hysteresis: samples of 0.5 belong to an event whose best one reaches 0.6
        ([0.5, 0.7, 0.5, 0.3], {}, [(0.0, 0.3)]),
        ([0.5, 0.5, 0.5, 0.5], {}, []),
        # an offset over the onset counts as the onset
        ([0, 0.7, 0.7, 0], {"event_offset": 0.9}, [(0.1, 0.3)]),
        # pauses
        ([0.7, 0, 0.7, 0], {}, [(0.0, 0.1), (0.2, 0.3)]),
        ([0.7, 0, 0.7, 0], {"event_gap_s": 0.11}, [(0.0, 0.3)]),
        ([0.7, 0, 0, 0.7, 0], {"event_gap_s": 0.11}, [(0.0, 0.1), (0.3, 0.4)]),
        # least duration times mean score, after pauses were bridged
        ([0.7, 0, 0.7, 0.7, 0], {"event_min_s": 0.1}, [(0.2, 0.4)]),
        ([0.7, 0, 0.7, 0], {"event_gap_s": 0.11, "event_min_s": 0.2}, [(0.0, 0.3)]),
        ([0.6, 0.6, 0, 0], {"event_min_s": 0.15}, []),
        ([0.9, 0.9, 0, 0], {"event_min_s": 0.15}, [(0.0, 0.2)]),
    ],
)
def test_intervals(scores: list[float], rules: dict[str, float], expected: list[tuple[float, float]]) -> None:
    assert events_of(scores, **rules) == [pytest.approx(pair) for pair in expected]


def test_an_event_closes_as_soon_as_its_pause_is_over() -> None:
    tracker = EventTracker(SegmentOptions(**{**PLAIN, "event_gap_s": 0.2}), step_s=STEP_S)
    closed = [len(tracker.add(frame((i + 0.5) * STEP_S, {("dog", None): s}))) for i, s in enumerate([0.7, 0, 0, 0, 0])]
    assert closed == [0, 0, 0, 1, 0]
    assert tracker.finish() == []


def test_a_pause_that_no_sample_falls_into_is_measured_all_the_same() -> None:
    """Frames of a variable rate: the sound stops between 2.0 and 2.1 s and is heard again at 5.0 s."""
    tracker = EventTracker(SegmentOptions(**{**PLAIN, "event_gap_s": 0.5}))
    scores = {1.9: 0.7, 2.0: 0.7, 2.1: 0, 5.0: 0.7, 5.1: 0}
    found = [event for time_s, score in scores.items() for event in tracker.add(frame(time_s, {("dog", None): score}))]
    found += tracker.finish()
    assert [(event.start_s, event.end_s) for event in found] == [
        (pytest.approx(1.9), pytest.approx(2.05)),
        (pytest.approx(3.55), pytest.approx(5.05)),
    ]


def test_labels_and_tracks_have_events_of_their_own_with_area_and_score() -> None:
    tracker = EventTracker(SegmentOptions(**PLAIN), step_s=STEP_S)
    tracker.add(frame(0.05, {("dog", 1): 0.8, ("dog", 2): 0.9, ("car", None): 0.7}))
    tracker.add(frame(0.15, {("dog", 1): 0.6}))
    closed = tracker.finish()
    assert tracker.finish() == []
    assert [(event.label, event.track_id) for event in closed] == [("dog", 1)]
    [event] = closed
    assert (event.peak_area, event.mean_score) == (80, pytest.approx(0.7))


@given(
    st.lists(st.sampled_from([0.0, 0.3, 0.5, 0.7]), max_size=40),
    st.sampled_from([0.0, 0.11, 0.25]),
    st.sampled_from([0.0, 0.15]),
)
def test_events_cover_every_onset_and_are_apart(scores: list[float], gap_s: float, least_s: float) -> None:
    found = events_of(scores, event_gap_s=gap_s, event_min_s=least_s)
    assert all(start_s < end_s and end_s - start_s >= least_s - 1e-9 for start_s, end_s in found)
    assert all(later[0] - earlier[1] > gap_s - 1e-6 for earlier, later in itertools.pairwise(found))
    if not least_s:
        for number, score in enumerate(scores[:-1]):
            time_s = (number + 0.5) * STEP_S
            is_inside = any(start_s <= time_s <= end_s for start_s, end_s in found)
            assert is_inside or score < 0.6


@pytest.mark.parametrize(
    ("score", "area", "box", "is_heard"),
    [
        (0.6, 30, (2, 2, 5, 5), False),  # a doubtful part of the larger mask
        (0.7, 30, (2, 2, 5, 5), True),  # a sure one
        (0.6, 30, (8, 2, 5, 5), False),  # three fifths of its box lie within
        (0.6, 30, (9, 2, 5, 5), True),  # two fifths
        (0.6, 200, (2, 2, 5, 5), True),  # the one with more pixels has the object
    ],
)
def test_a_doubtful_part_of_another_labels_object_is_not_heard(
    score: float, area: int, box: tuple[int, int, int, int], is_heard: bool
) -> None:
    tracker = EventTracker(SegmentOptions(event_onset=0.4, event_offset=0.4, event_min_s=0.0), step_s=STEP_S)
    whole = Mask("drum", 0.9, 100, (1, 1, 10, 10), Rle((20, 20), "0"))
    part = Mask("dog", score, area, box, Rle((20, 20), "0"))
    found = tracker.add(FrameMasks(0.05, 0.05, 0, (part, whole))) + tracker.finish()
    assert {event.label for event in found} == ({"dog", "drum"} if is_heard else {"drum"})
    alone = EventTracker(SegmentOptions(event_onset=0.4, event_offset=0.4, event_min_s=0.0), step_s=STEP_S)
    assert len(alone.add(FrameMasks(0.05, 0.05, 0, (part,))) + alone.finish()) == 1


def events_of_areas(areas: Sequence[dict[str, int]]) -> list[tuple[str, float, float]]:
    """The events of doubtful masks in one place, whose areas are given by label every 0.1 s from 0.05 s on."""
    tracker = EventTracker(SegmentOptions(event_gap_s=0.0, event_min_s=0.0), step_s=STEP_S)
    found: list[SoundEvent] = []
    for number, labels in enumerate(areas):
        time_s = (number + 0.5) * STEP_S
        masks = [Mask(label, 0.5, area, (2, 2, 9, 9), Rle((20, 20), "0")) for label, area in labels.items() if area]
        found += tracker.add(FrameMasks(time_s, time_s, number, tuple(masks)))
    found += tracker.finish()
    return [(event.label, round(event.start_s, 3), round(event.end_s, 3)) for event in found]


@pytest.mark.parametrize("order", [("bird", "spray"), ("spray", "bird")])
def test_an_object_whose_larger_part_changes_its_label_has_one_event(order: tuple[str, str]) -> None:
    sizes = [(60, 40), (45, 55), (55, 45), (45, 55), (70, 30), (48, 52), (0, 0)]
    found = events_of_areas([dict(zip(order, pair, strict=True)) for pair in sizes])
    assert found == [(order[0], 0.0, 0.6)]


def test_an_object_gets_the_other_label_when_that_has_more_pixels_for_long() -> None:
    found = events_of_areas([{"bird": 60, "spray": 40}] * 3 + [{"bird": 30, "spray": 70}] * 6 + [{}])
    assert found == [("bird", 0.0, 0.4), ("spray", 0.4, 0.9)]
    # what was seen long ago counts little
    tracker = EventTracker(SegmentOptions(event_gap_s=0.0, event_min_s=0.0))
    for time_s, area in ((0.0, 100), (60.0, 10)):
        masks = (Mask("bird", 0.5, area, (2, 2, 9, 9), Rle((20, 20), "0")),)
        late = (Mask("spray", 0.5, 20, (2, 2, 9, 9), Rle((20, 20), "0")),) if time_s else ()
        tracker.add(FrameMasks(time_s, time_s, 0, masks + late))
    assert [event.label for event in tracker.finish()] == ["spray"]


@pytest.mark.parametrize(
    ("areas", "expected"),
    [
        # specks between two events, before one and after one
        ([1000, 1000, 10, 20, 1000, 0], [(0.0, 0.2), (0.4, 0.5)]),
        ([10, 20, 1000, 1000, 0], [(0.2, 0.4)]),
        ([1000, 1000, 29, 0], [(0.0, 0.2)]),
        # a small mask is none, and nor are small ones alone
        ([1000, 1000, 31, 0], [(0.0, 0.3)]),
        ([10, 12, 9, 0], [(0.0, 0.3)]),
        # the event after a long silence has its own scale
        ([1000, 0, 0, 10, 10, 0], [(0.0, 0.1), (0.3, 0.5)]),
    ],
)
def test_specks_are_not_heard(areas: list[int], expected: list[tuple[float, float]]) -> None:
    found = events_of_areas([{"bird": area} for area in areas])
    assert [(start_s, end_s) for _, start_s, end_s in found] == expected


@pytest.mark.parametrize(
    ("scores", "rules", "expected"),
    [
        ([0, 0.7, 0.7, 0.7, 0.7, 0], {}, [(0.1, 0.2)]),
        # the frames end first: nothing says that the sound is over
        ([0, 0.7, 0.7, 0.7, 0.7], {}, [(0.1, 0.45)]),
        # the sound may have ended before the last sample, but a pause ended the event
        ([0, 0.7, 0.7, 0.7, 0.7, 0], {"event_gap_s": 0.5}, [(0.1, 0.2)]),
        # an event keeps the least duration, and never lasts longer than its masks
        ([0, 0.7, 0.7, 0, 0], {"event_min_s": 0.1}, [(0.1, 0.2)]),
        ([0, 0.7, 0.7, 0, 0], {"event_min_s": 0.14}, [(0.1, 0.24)]),
        ([0, 0.7, 0.7, 0, 0], {}, [(0.1, 0.2)]),
        ([0.7, 0, 0], {}, [(0.0, 0.1)]),
        # the pause between two events, and the duration that counts, are those of the masks
        ([0.7, 0.7, 0.7, 0.7, 0, 0.7], {"event_gap_s": 0.11}, [(0.0, 0.55)]),
        ([0, 0.7, 0.7, 0.7, 0.7, 0], {"event_min_s": 0.25}, [(0.1, 0.35)]),
    ],
)
def test_events_end_earlier_by_the_lag_of_the_masks(
    scores: list[float], rules: dict[str, float], expected: list[tuple[float, float]]
) -> None:
    found = events_of(scores, offset_lag_s=0.3, **rules)
    assert np.allclose(found, expected)
