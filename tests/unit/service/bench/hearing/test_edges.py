"""Lag of edges on answers whose delay is known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from service.bench.hearing.edges import BLOCK_S, Edge, clip_edges, match, predicted_edges, state_edges, steady_edges
from service.domain.result import FrameMasks, Mask, Rle

SIZE = (40, 60)
TRUTH = {"clip": {"height": 40, "width": 60}}
NUM_BLOCKS = 250  # 5 s


def _states(*gates_s: tuple[float, float]) -> NDArray[np.bool_]:
    states = np.zeros(NUM_BLOCKS, bool)
    for start_s, stop_s in gates_s:
        states[round(start_s / BLOCK_S) : round(stop_s / BLOCK_S)] = True
    return states


def _ids() -> NDArray[np.uint8]:
    """Object 1 on the left, object 2 on the right, on each of 50 frames."""
    ids = np.zeros((50, *SIZE), np.uint8)
    ids[:, 10:30, 5:25] = 1
    ids[:, 10:30, 35:55] = 2
    return ids


def _answer(*gates_s: tuple[float, float], slot: int) -> list[FrameMasks]:
    """Ten samples per second; the object is said to sound at the samples inside the gates."""
    silhouette = _ids()[0] == slot
    rle = coco_mask.encode(np.asfortranarray(silhouette, np.uint8))
    mask = Mask("sounding", 0.9, int(silhouette.sum()), (0, 0, 1, 1), Rle(SIZE, rle["counts"].decode()))
    times = [(i + 15 / 16) / 10 for i in range(50)]
    inside = [any(start <= t < stop for start, stop in gates_s) for t in times]
    return [FrameMasks(t, t, i, (mask,) if inside[i] else ()) for i, t in enumerate(times)]


@pytest.mark.parametrize("delay_s", [0.0, 0.2, -0.2, 0.6])
def test_a_known_delay_is_the_lag(delay_s: float) -> None:
    answer = _answer((1.0 + delay_s, 2.5 + delay_s), slot=1)
    found = clip_edges(7, TRUTH, _ids(), {1: _states((1.0, 2.5)), 2: _states()}, answer)
    assert [(o.clip, o.is_on) for o in found.outcomes] == [(7, True), (7, False)]
    assert [o.lag_s for o in found.outcomes] == pytest.approx([delay_s, delay_s], abs=0.051)
    assert found.is_predicted_false == (False, False)


def test_what_is_never_said_has_no_lag_and_what_is_said_of_another_is_false() -> None:
    found = clip_edges(0, TRUTH, _ids(), {1: _states((1.0, 2.5)), 2: _states()}, _answer((1.0, 2.5), slot=2))
    assert [o.lag_s for o in found.outcomes] == [None, None]
    assert found.is_predicted_false == (True, True)


def test_an_edge_too_late_to_be_seen_in_full_does_not_count() -> None:
    found = clip_edges(0, TRUTH, _ids(), {1: _states((4.5, 5.0))}, _answer(slot=1))
    assert found.outcomes == ()


def test_an_object_out_of_sight_does_not_count() -> None:
    ids = _ids()
    ids[12:16][ids[12:16] == 1] = 0
    found = clip_edges(0, TRUTH, ids, {1: _states((1.0, 3.0))}, _answer((1.0, 3.0), slot=1))
    assert [o.is_on for o in found.outcomes] == [False]


def test_flicker_is_no_edge_to_be_measured_but_excuses_what_is_said() -> None:
    states = _states((1.0, 1.1), (3.0, 4.0))
    assert [e.time_s for e in state_edges(states)] == pytest.approx([1.0, 1.1, 3.0, 4.0])
    assert [e.time_s for e in steady_edges(states)] == pytest.approx([3.0, 4.0])
    found = clip_edges(0, TRUTH, _ids(), {1: states}, _answer((1.0, 1.3), (3.0, 4.0), slot=1))
    assert found.is_predicted_false == (False,) * 4


def test_crossings_lie_on_the_line_between_samples() -> None:
    edges = predicted_edges(np.array([0.0, 0.1, 0.2, 0.3, 0.4]), np.array([0.0, 1.0, np.nan, 0.8, 0.3]))
    assert [e.is_on for e in edges] == [True, False]
    assert [e.time_s for e in edges] == pytest.approx([0.05, 0.36])


def test_each_said_edge_is_used_once_and_kinds_do_not_mix() -> None:
    true = [Edge(1.0, True), Edge(1.4, True), Edge(2.0, False)]
    assert match(true, [Edge(1.3, True), Edge(2.0, True)]) == pytest.approx([None, -0.1, None])
    assert match(true, [Edge(1.1, True), Edge(1.2, True)]) == pytest.approx([0.1, -0.2, None])
