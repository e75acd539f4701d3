"""One batch on the device: padding, too little memory, guilty requests, dead devices."""

from __future__ import annotations

import asyncio
import logging
import math

import numpy as np
import pytest
from support.components.chunks import FakeClock, make_chunk

from service.batching.arrays import assemble
from service.batching.device import BatchRunner
from service.batching.sample_queue import PendingChunk, SampleSlice
from service.domain.errors import ServiceError
from service.predictors.fake import FakePredictor

SIZES = (1, 2, 4, 8, 16)
POISON = (251, 3, 7)


class TroubledPredictor(FakePredictor):
    """Fails on a marked frame, over a batch size, or altogether; remembers the shapes it was given."""

    def __init__(self, *, fits: int = 1000) -> None:
        super().__init__()
        self.fits = fits
        self.shapes: list[int] = []
        self.is_dead = False
        self.gives_nan = False

    def predict(self, frames, windows):
        self.shapes.append(len(frames))
        if self.is_dead:
            raise RuntimeError("device lost")
        if len(frames) > self.fits:
            raise MemoryError(f"{len(frames)} samples")
        is_poison = (frames[:, 0, 0] == POISON).all(axis=1)
        if is_poison.any() and not self.gives_nan:
            raise RuntimeError("bad frame")
        logits = super().predict(frames, windows)
        logits[is_poison] = np.nan
        return logits

    def is_healthy(self):
        return not self.is_dead


@pytest.fixture(name="piece")
def _piece():
    loop = asyncio.new_event_loop()

    def make(request_id: str, num: int = 2, *, is_poison: bool = False) -> SampleSlice:
        chunk = make_chunk(request_id, num)
        if is_poison:
            chunk.samples.frames[0, 0, 0] = POISON
        return SampleSlice(PendingChunk(chunk, 0.0, loop.create_future()), 0, num)

    yield make
    loop.close()


def make_runner(predictor: FakePredictor, *, sizes=SIZES) -> BatchRunner:
    runner = BatchRunner(lambda: predictor, sizes=sizes, clock=FakeClock())
    runner.load()
    return runner


def expected(piece: SampleSlice) -> bytes:
    samples = piece.pending.chunk.samples
    return FakePredictor().predict(samples.frames, samples.windows()).tobytes()


def test_assembled_arrays_are_those_of_the_blocks(piece):
    first, second = piece("a", 5), piece("b", 3)
    frames, windows = assemble([SampleSlice(first.pending, 1, 4), second])
    np.testing.assert_array_equal(frames[:3], first.pending.chunk.samples.frames[1:4])
    np.testing.assert_array_equal(windows[:3], first.pending.chunk.samples.windows()[1:4])
    np.testing.assert_array_equal(windows[3:], second.pending.chunk.samples.windows())


def test_every_shape_is_warmed_up_and_only_warm_shapes_run(piece):
    predictor = TroubledPredictor()
    runner = make_runner(predictor)
    assert set(predictor.shapes) == set(SIZES)
    predictor.shapes.clear()
    outcome = runner.run([piece("a", 3), piece("b", 2)])
    assert predictor.shapes == [8]
    for part, logits in outcome.results:
        assert logits.tobytes() == expected(part)


def test_dropped_slices_never_reach_the_device(piece):
    predictor = TroubledPredictor()
    runner = make_runner(predictor)
    predictor.shapes.clear()
    gone, here = piece("gone"), piece("here", 1)
    gone.pending.is_dropped = True
    assert [part.pending.request_id for part, _ in runner.run([gone, here]).results] == ["here"]
    assert predictor.shapes == [1]
    assert runner.run([gone]).results == []
    assert predictor.shapes == [1]


def test_only_the_guilty_request_fails(piece, caplog):
    runner = make_runner(TroubledPredictor())
    good = [piece(name) for name in "abc"]
    outcome = runner.run([good[0], piece("guilty", is_poison=True), *good[1:]])
    results = {part.pending.request_id: logits for part, logits in outcome.results}
    assert isinstance(results["guilty"], ServiceError)
    assert results["guilty"].code == "internal"
    for part in good:
        assert results[part.pending.request_id].tobytes() == expected(part)
    assert any(record.levelno == logging.ERROR and record.exc_info for record in caplog.records)


def test_nonfinite_logits_fail_their_slice_alone(piece):
    predictor = TroubledPredictor()
    predictor.gives_nan = True
    outcome = make_runner(predictor).run([piece("a"), piece("guilty", is_poison=True)])
    results = {part.pending.request_id: logits for part, logits in outcome.results}
    assert isinstance(results["guilty"], ServiceError)
    assert isinstance(results["a"], np.ndarray)


def test_out_of_memory_halves_the_batch_and_remembers(piece):
    predictor = TroubledPredictor()
    runner = make_runner(predictor)
    predictor.fits = 5
    predictor.shapes.clear()
    parts = [piece(name, 4) for name in "abcd"]
    outcome = runner.run(parts)
    assert predictor.shapes == [16, 8, 4, 4, 4, 4]
    assert all(logits.tobytes() == expected(part) for part, logits in outcome.results)
    assert runner.plan.max_batch == 4
    predictor.shapes.clear()
    runner.run(parts)
    assert predictor.shapes == [4, 4, 4, 4]


def test_shapes_that_do_not_fit_at_warm_up_are_not_used():
    predictor = TroubledPredictor(fits=7)
    assert make_runner(predictor).plan.sizes == (1, 2, 4)
    assert 16 not in predictor.shapes
    with pytest.raises(ValueError, match="no batch shape fits"):
        make_runner(TroubledPredictor(fits=0))


def test_a_single_sample_that_does_not_fit_fails_and_the_runner_lives_on(piece):
    predictor = TroubledPredictor()
    runner = make_runner(predictor, sizes=(1, 2))
    predictor.fits = 0
    outcome = runner.run([piece("a", 1), piece("b", 1)])
    assert [logits.code for _, logits in outcome.results] == ["internal", "internal"]
    predictor.fits = 10
    part = piece("c", 1)
    assert runner.run([part]).results[0][1].tobytes() == expected(part)


def test_a_dead_device_fails_all_at_once_and_stays_dead(piece):
    predictor = TroubledPredictor()
    runner = make_runner(predictor)
    predictor.is_dead = True
    predictor.shapes.clear()
    outcome = runner.run([piece(name) for name in "abc"])
    assert [error.code for _, error in outcome.results] == ["backend_down"] * 3
    assert len(predictor.shapes) == 1
    predictor.is_dead = False
    assert not runner.check_health()


def test_neighbours_do_not_change_a_row_in_the_same_shape(piece):
    runner = make_runner(FakePredictor(), sizes=(8,))
    part = piece("a", 3)
    alone = runner.run([part]).results[0][1].tobytes()
    among = {p.pending.request_id: rows for p, rows in runner.run([piece("x", 4), part, piece("y", 1)]).results}
    assert among["a"].tobytes() == alone


class TimedPredictor(TroubledPredictor):
    """Each call takes `call_s` of the test's clock."""

    def __init__(self, clock: FakeClock, *, call_s: float, fits: int = 1000) -> None:
        super().__init__(fits=fits)
        self.clock = clock
        self.call_s = call_s

    def predict(self, frames, windows):
        self.clock.advance(self.call_s)
        return super().predict(frames, windows)


@pytest.mark.parametrize(("call_s", "limit_s"), [(0.01, 20.0), (0.9, 20.0), (1.5, 30.0), (60.0, 1200.0)])
def test_a_slow_device_is_given_twenty_times_its_measured_time(call_s: float, limit_s: float) -> None:
    clock = FakeClock()
    predictor = TimedPredictor(clock, call_s=call_s)
    runner = BatchRunner(lambda: predictor, sizes=SIZES, device_timeout_s=20.0, clock=clock)
    assert runner.call_limit_s() == math.inf, "loading and warming up may take any time"
    runner.load()
    assert runner.call_limit_s() == pytest.approx(limit_s)


def test_a_batch_of_many_calls_is_judged_call_by_call(piece) -> None:
    clock, starts = FakeClock(), []
    predictor = TimedPredictor(clock, call_s=15.0, fits=4)
    runner = BatchRunner(lambda: predictor, sizes=SIZES, clock=clock, on_call=lambda: starts.append(clock()))
    runner.load()
    starts.clear()
    outcome = runner.run([piece("a", 8), piece("b", 7)])
    assert outcome.predict_s == 4 * 15.0 < runner.call_limit_s()
    assert np.diff(starts).tolist() == [15.0] * 3
