"""Holes of live streams: which steps are holes, and what they do to events."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.live import LiveOptions
from service.domain.result import FrameMasks, Mask, Rle, SoundEvent
from service.postprocess.events import EventTracker
from service.postprocess.stream_holes import StreamHoles

GAP_S = 0.25


def events_at(
    times_s: Sequence[float], *, silent_s: Sequence[float] = (), is_live: bool = True, offset_lag_s: float = 0.0
) -> list[tuple[float, float]]:
    """The events of a label that sounds at `times_s` and not at `silent_s`."""
    options = LiveOptions(event_gap_s=GAP_S, event_min_s=0.0)
    tracker = EventTracker(options, offset_lag_s=offset_lag_s, is_live=is_live)
    mask = Mask("dog", 0.9, 100, (0, 0, 9, 9), Rle((9, 9), "0"))
    found: list[SoundEvent] = []
    for time_s in sorted({*times_s, *silent_s}):
        found += tracker.add(FrameMasks(time_s, time_s, 0, (mask,) if time_s in times_s else ()))
    found += tracker.finish()
    return [(event.start_s, event.end_s) for event in found]


def steady(start_s: float, num: int, step_s: float = 0.1) -> list[float]:
    return [round(start_s + step_s * number, 6) for number in range(num)]


@pytest.mark.parametrize(
    ("steps_s", "expected"),
    [
        ([0.1, 0.1, 0.1, 5.0, 0.1], [3]),
        ([0.04, 0.04, 0.24, 0.04, 0.26], [4]),  # the rule's pause is the least hole
        ([0.3, 0.3, 0.6, 0.3, 0.9, 0.3, 1.0], [6]),  # a slow device drops frames; over three steps is a hole
        ([2.9, 2.9, 2.9], []),  # a slow camera
        ([3.1, 3.1, 3.1], [0]),  # before the first step nothing is known of the rate
        ([0.1] * 9 + [1.0] * 12, [9, 10, 11, 12, 13]),  # a rate that has changed for good is the usual one
    ],
)
def test_a_hole_is_longer_than_the_pause_and_than_three_usual_steps(
    steps_s: Sequence[float], expected: list[int]
) -> None:
    holes = StreamHoles(GAP_S)
    assert [number for number, step_s in enumerate(steps_s) if holes.is_hole(step_s)] == expected


def test_an_open_event_ends_at_the_last_sample_before_a_hole_and_the_next_starts_behind_it() -> None:
    before, behind = steady(1.0, 10), steady(6.0, 5)
    assert events_at(before + behind) == [(1.0, 1.9), (6.0, 6.4)]
    assert events_at(before + behind, offset_lag_s=0.5) == [(1.0, 1.9), (6.0, 6.4)], "masks that were cut did not lag"


def test_the_frames_of_a_clip_stand_until_the_next_and_have_no_holes() -> None:
    [event] = events_at(steady(1.0, 10) + steady(6.0, 5), is_live=False)
    assert event[1] == 6.4


def test_an_event_in_a_pause_before_a_hole_ended_when_its_pause_began() -> None:
    assert events_at([*steady(1.0, 10), 6.2], silent_s=[2.0, 6.0, 6.1, 6.3]) == [(1.0, 1.95), (6.15, 6.25)]


def test_the_event_is_told_with_the_first_frame_behind_the_hole() -> None:
    tracker = EventTracker(LiveOptions(event_min_s=0.0), is_live=True)
    mask = Mask("dog", 0.9, 100, (0, 0, 9, 9), Rle((9, 9), "0"))
    for time_s in steady(0.0, 5):
        assert tracker.add(FrameMasks(time_s, time_s, 0, (mask,))) == []
    [event] = tracker.add(FrameMasks(9.0, 9.0, 5, (mask,)))
    assert (event.start_s, event.end_s) == (0.0, 0.4)


@given(st.lists(st.sampled_from([0.1, 0.12, 0.2, 0.5, 4.0]), min_size=1, max_size=40))
def test_no_event_spans_a_hole_and_nothing_heard_is_lost(steps_s: list[float]) -> None:
    times_s = [round(time_s, 6) for time_s in itertools.accumulate(steps_s, initial=0.5)]
    holes, reference = [], StreamHoles(GAP_S)
    for earlier_s, later_s in itertools.pairwise(times_s):
        if reference.is_hole(later_s - earlier_s):
            holes.append((earlier_s, later_s))
    found = events_at(times_s)
    assert len(found) == len(holes) + 1
    assert [end_s for _, end_s in found] == [earlier_s for earlier_s, _ in holes] + [times_s[-1]]
    assert [start_s for start_s, _ in found][1:] == [later_s for _, later_s in holes]
