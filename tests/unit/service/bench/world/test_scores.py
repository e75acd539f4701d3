"""Figures of tracks and events on cases whose values are known, and the crossing world."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from model.data.world.crossing import draw_crossing
from model.data.world.render import Shot, render
from service.bench.world.event_score import EventTally, TrueEvent, _events
from service.bench.world.track_score import TrackedFrame, hota, idf1, mask_ious
from service.domain.result import SoundEvent

GOOD = np.eye(2)


def frames(ids: Sequence[tuple[int, int]], *, iou: float = 1.0) -> list[TrackedFrame]:
    """Two true objects, and the tracks that lie on them in each frame."""
    return [TrackedFrame((1, 2), each, GOOD * iou) for each in ids]


def test_the_right_tracks_have_all_points() -> None:
    assert idf1([frames([(7, 9)] * 10)]) == 1.0
    assert hota([frames([(7, 9)] * 10)]) == 1.0


def test_a_swap_in_the_middle_keeps_half_of_the_identities() -> None:
    swapped = frames([(7, 9)] * 5 + [(9, 7)] * 5)
    assert idf1([swapped]) == 0.5
    # every mask is found, and each pair of tracks agrees in 5 of 15 frames
    assert hota([swapped]) == pytest.approx(math.sqrt(1 / 3))


def test_one_track_over_both_objects_misses_one() -> None:
    merged = [TrackedFrame((1, 2), (7,), np.array([[1.0], [0.0]]))] * 10
    assert idf1([merged]) == pytest.approx(2 * 10 / 30)
    assert hota([merged]) == pytest.approx(math.sqrt(10 / 20))


def test_masks_that_fit_badly_do_not_count() -> None:
    assert idf1([frames([(7, 9)] * 10, iou=0.49)]) == 0.0
    assert hota([frames([(7, 9)] * 10, iou=0.5)]) == pytest.approx(10 / 19)  # right at 10 of 19 thresholds


def test_clips_count_by_their_masks_and_empty_frames_not_at_all() -> None:
    empty = [TrackedFrame((), (), np.zeros((0, 0)))] * 50
    good, bad = frames([(7, 9)] * 9), frames([(7, 9)], iou=0.0)
    assert idf1([[*good, *empty], bad]) == pytest.approx(0.9)


def test_ious_of_masks() -> None:
    left, right = np.zeros((4, 8), bool), np.zeros((4, 8), bool)
    left[:, :4] = True
    right[:, 2:6] = True
    np.testing.assert_allclose(mask_ious([left, right], [left]), [[1.0], [1 / 3]])
    assert mask_ious([], [left]).shape == (0, 1)


def event(start_s: float, end_s: float) -> SoundEvent:
    return SoundEvent("dog", None, start_s, end_s, 10, 0.9)


def test_events_are_right_within_the_tolerance_at_both_ends() -> None:
    tally = EventTally()
    true = [TrueEvent(1.0, 2.0, True), TrueEvent(3.0, 4.0, True), TrueEvent(5.0, 6.0, True)]
    tally.add(true, [event(1.3, 1.7), event(3.0, 4.31), event(5.1, 5.9), event(5.0, 6.0)])
    assert (tally.num_right, tally.num_wrong, tally.num_missed) == (2, 2, 1)
    assert tally.precision == 0.5
    assert tally.recall == pytest.approx(2 / 3)
    assert tally.lags_s == [pytest.approx((0.3, -0.3)), pytest.approx((0.0, 0.0))], "the nearer one is the pair"


def test_events_that_may_be_argued_are_left_out() -> None:
    tally = EventTally()
    tally.add([TrueEvent(1.0, 2.0, False)], [event(1.2, 1.6), event(1.5, 2.2), event(1.9, 4.0)])
    assert (tally.num_right, tally.num_wrong, tally.num_missed) == (0, 1, 0)


def test_true_events_are_gates_that_are_heard_and_seen() -> None:
    """In blocks of 20 ms: one heard throughout, one in its second half, one never."""
    gate, heard = np.zeros(400, bool), np.zeros(400, bool)
    for start, stop in ((10, 110), (150, 200), (300, 350)):
        gate[start:stop] = True
    heard[10:110] = heard[175:200] = True
    assert _events(gate, heard) == [
        TrueEvent(pytest.approx(0.2), pytest.approx(2.2), True),
        TrueEvent(pytest.approx(3.0), pytest.approx(4.0), False),
    ]


@pytest.mark.parametrize("seed", [3_000_000, 3_000_007])
def test_two_objects_of_one_kind_cross(seed: int) -> None:
    scene = draw_crossing(seed)
    visible = [source for source in scene.sources if source.slot]
    assert [source.slot for source in visible] == [1, 2]
    assert len({source.kind for source in visible}) == 1
    assert visible[0].kind not in {source.kind for source in scene.sources if not source.slot}
    shots = [Shot(scene, 0.25 * number, number) for number in range(20)]
    ids = render(shots, width=80, height=60, device=torch.device("cpu")).ids.numpy()
    columns = np.arange(80)
    middles = np.array(
        [
            [(each == slot).any(axis=0) @ columns / (each == slot).any(axis=0).sum() for slot in (1, 2)]
            for each in ids
            if {1, 2} <= set(each.flat)
        ]
    )
    assert len(set(np.sign(middles[:, 0] - middles[:, 1]))) > 1, "each is left of the other at some time"
    again = render(shots[:1], width=80, height=60, device=torch.device("cpu")).ids.numpy()
    np.testing.assert_array_equal(again[0], ids[0])
    with pytest.raises(ValueError, match="seconds"):
        draw_crossing(seed, seconds=3.0)


@pytest.mark.parametrize(
    ("pause_blocks", "expected"),
    [
        (1, [(0.2, 3.22, False)]),
        (19, [(0.2, 3.58, False)]),  # 0.38 s: each sample in it is within 0.2 s of an edge
        (20, [(0.2, 1.2, True), (1.6, 3.6, True)]),  # 0.4 s
    ],
)
def test_whether_a_short_pause_parts_two_events_is_ambiguous(
    pause_blocks: int, expected: list[tuple[float, float, bool]]
) -> None:
    gate = np.zeros(400, bool)
    gate[10:60] = gate[60 + pause_blocks : 160 + pause_blocks] = True
    found = [(round(each.start_s, 6), round(each.end_s, 6), each.is_clear) for each in _events(gate, gate)]
    assert found == expected
