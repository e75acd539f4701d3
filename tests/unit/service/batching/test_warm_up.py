"""Warm-up: which batch shapes are kept, by what they cost on a clock that the predictor moves."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from service.batching.warm_up import WarmUp
from service.predictors.fake import FakePredictor


class TimedPredictor(FakePredictor):
    """Costs `costs_s[num_samples]` of its own clock."""

    def __init__(
        self, costs_s: dict[int, float], *, disturbed: tuple[int, ...] = (), gain: float = 1.0, is_broken: bool = False
    ) -> None:
        """Compiled, calls cost `gain` times as much; `is_broken` lets the compilation fail."""
        super().__init__(input_height=16, input_width=16)
        self.gain = gain
        self.is_broken = is_broken
        self.factor = 1.0
        self.num_compilations = 0
        self.costs_s = costs_s
        self.disturbed = disturbed
        self.now_s = 0.0
        self.sizes: list[int] = []

    def predict(self, frames: NDArray[np.uint8], windows: NDArray[np.float32]) -> NDArray[np.float32]:
        self.sizes.append(len(frames))
        is_disturbed = len(self.sizes) in self.disturbed
        self.now_s += 10.0 if is_disturbed else self.factor * self.costs_s[len(frames)]
        return super().predict(frames, windows)

    def compile(self) -> bool:
        self.num_compilations += 1
        if self.is_broken:
            raise RuntimeError("no graph")
        self.factor = self.gain
        return True


def warm_up(predictor: TimedPredictor, sizes: list[int], *, is_cpu: bool = False) -> dict[int, float]:
    steps = WarmUp(predictor, sizes, height=16, width=16, clock=lambda: predictor.now_s, is_cpu=is_cpu)
    steps.finish()
    return steps.costs_s


@pytest.mark.parametrize(
    ("costs_s", "kept", "run"),
    [
        ({1: 0.02, 2: 0.03, 4: 0.05, 8: 0.09}, {1, 2, 4, 8}, {1, 2, 4, 8}),  # each shape saves time
        ({1: 0.08, 2: 0.16, 4: 0.34, 8: 0.8}, {1}, {1, 2}),  # none does: later ones are not even run
        ({1: 0.06, 2: 0.10, 4: 0.19, 8: 0.4}, {1, 2, 4}, {1, 2, 4, 8}),  # the last one saves less than the least share
        ({1: 0.01, 2: 0.02, 4: 0.04, 8: 0.08}, {1, 2, 4, 8}, {1, 2, 4, 8}),  # short calls delay nobody
        ({1: 0.5, 2: 0.9, 4: 1.2, 8: 2.0}, {1, 2, 4, 8}, {1, 2, 4, 8}),  # long calls that save time
    ],
)
def test_shapes_are_kept_as_long_as_they_save_time(costs_s: dict[int, float], kept: set[int], run: set[int]) -> None:
    predictor = TimedPredictor(costs_s)
    measured = warm_up(predictor, sorted(costs_s), is_cpu=True)
    assert set(measured) == kept
    assert set(predictor.sizes) == run
    assert measured == pytest.approx({size: costs_s[size] for size in kept})


def test_the_first_shape_is_kept_whatever_it_costs() -> None:
    predictor = TimedPredictor({1: 30.0})
    assert warm_up(predictor, [1]) == {1: 30.0}


def test_a_gpu_keeps_every_shape() -> None:
    predictor = TimedPredictor({1: 0.08, 2: 0.16, 4: 0.34})
    assert set(warm_up(predictor, [1, 2, 4])) == {1, 2, 4}


def test_one_disturbed_call_leaves_no_shape_out() -> None:
    predictor = TimedPredictor({1: 0.2, 2: 0.3, 4: 0.4}, disturbed=(4, 6))  # the first call of 2, then of 4
    measured = warm_up(predictor, [1, 2, 4], is_cpu=True)
    assert measured == pytest.approx({1: 0.2, 2: 0.3, 4: 0.4})


@pytest.mark.parametrize(("first_s", "num_calls"), [(0.02, 4), (0.4, 1)])  # repeated, and once compiled
def test_the_first_shape_is_there_after_one_call_and_the_rest_comes_call_by_call(
    first_s: float, num_calls: int
) -> None:
    predictor = TimedPredictor({1: first_s, 2: 1.5 * first_s})
    steps = WarmUp(predictor, [1, 2], height=16, width=16, clock=lambda: predictor.now_s, is_cpu=True)
    steps.start()
    assert predictor.sizes == [1]
    assert set(steps.costs_s) == {1}
    assert not steps.is_done
    while not steps.is_done:
        before = len(predictor.sizes) + predictor.num_compilations
        steps.step()
        assert len(predictor.sizes) + predictor.num_compilations == before + 1
    assert predictor.sizes.count(1) == num_calls
    assert steps.costs_s == pytest.approx({1: first_s, 2: 1.5 * first_s})


def test_shapes_that_are_left_when_it_is_stopped_are_not_run() -> None:
    predictor = TimedPredictor({1: 0.5, 2: 0.6})
    steps = WarmUp(predictor, [1, 2, 4], height=16, width=16, clock=lambda: predictor.now_s, is_cpu=True)
    steps.start()
    steps.stop()
    steps.finish()
    assert predictor.sizes == [1]
    assert set(steps.costs_s) == {1}


@pytest.mark.parametrize(("first_s", "num_compilations"), [(0.08, 1), (0.12, 0)])
def test_a_model_of_short_calls_is_compiled_on_a_cpu(first_s: float, num_compilations: int) -> None:
    costs_s = {1: first_s, 2: 1.5 * first_s}
    predictor = TimedPredictor(costs_s, gain=0.75)
    steps = WarmUp(predictor, [1, 2], height=16, width=16, clock=lambda: predictor.now_s, is_cpu=True)
    steps.finish()
    measured = steps.costs_s
    assert predictor.num_compilations == num_compilations
    assert steps.has_long_calls is not bool(num_compilations)
    assert measured == pytest.approx({size: predictor.factor * cost_s for size, cost_s in costs_s.items()})


def test_a_model_on_a_gpu_is_not_compiled() -> None:
    predictor = TimedPredictor({1: 0.01, 2: 0.02})
    warm_up(predictor, [1, 2])
    assert not predictor.num_compilations


def test_a_failed_compilation_leaves_no_shape_out() -> None:
    predictor = TimedPredictor({1: 0.01, 2: 0.02, 4: 0.03}, is_broken=True)
    assert warm_up(predictor, [1, 2, 4], is_cpu=True) == pytest.approx({1: 0.01, 2: 0.02, 4: 0.03})
    assert predictor.num_compilations == 1
