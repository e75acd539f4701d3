"""Which frame answers for which instant: the contract's rules, on tables and on streams."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.components.decoding import expected_rows, make_job

from service.domain.errors import ServiceError
from service.media.policy import DecodeJob, MediaPolicy
from service.media.sandbox.decoding.sampling import (
    FrameTable,
    MissingFrameError,
    Shown,
    StreamChooser,
    TableChooser,
    assign,
    first_index,
)
from service.media.sandbox.decoding.timeline import clamp_last_s

BASE = Fraction(1, 1000)


def table(ticks: list[int], *, last: int = 40) -> FrameTable:
    return FrameTable(np.array(ticks, np.int64), BASE, (ticks[-1] + last) / 1000)


def shown(ticks: list[int]) -> list[Shown[int]]:
    return [Shown(row, tick, tick / 1000, row) for row, tick in enumerate(ticks)]


def stream(ticks: list[int], job: DecodeJob, *, last: int = 40) -> list[tuple[float, int]]:
    chooser: StreamChooser[int] = StreamChooser(job, BASE)
    out = []
    for frame in shown(ticks):
        out += [(time_s, chosen.index) for time_s, chosen in chooser.feed(frame)]
        if chooser.is_done:
            break
    out += [(time_s, chosen.index) for time_s, chosen in chooser.finish((ticks[-1] + last) / 1000)]
    return out


def test_one_sample_a_second_is_the_picture_at_15_16() -> None:
    samples = assign(table(list(range(0, 3000, 40))), make_job())
    assert samples.times_s.tolist() == [0.9375, 1.9375, 2.9375]
    assert samples.rows.tolist() == [23, 48, 73]


def test_samples_stop_before_the_clip_ends() -> None:
    ticks = list(range(0, 1000, 40))
    assert assign(table(ticks), make_job(fps=0.9375)).times_s.tolist() == [0.96]  # 1.0 is the end: the lone sample
    assert assign(table(ticks, last=41), make_job(fps=0.9375)).times_s.tolist() == [1.0]


def test_a_range_starts_at_and_ends_before() -> None:
    samples = assign(table(list(range(0, 5000, 40))), make_job(start_s=0.9375, end_s=2.9375))
    assert samples.times_s.tolist() == [0.9375, 1.9375]


def test_native_ranges_that_meet_share_no_frame() -> None:
    ticks = list(range(0, 2000, 40))
    first = assign(table(ticks), make_job(fps=None, end_s=0.8))
    second = assign(table(ticks), make_job(fps=None, start_s=0.8))
    assert first.rows.tolist() + second.rows.tolist() == list(range(50))
    assert first.times_s.tolist() == [tick / 1000 for tick in ticks[:20]]


def test_half_a_tick_of_tolerance() -> None:
    assert assign(table([0, 938]), make_job(end_s=0.97)).rows.tolist() == [1]  # 0.938 - 0.9375 is half a tick
    assert assign(table([0, 939]), make_job(end_s=0.97)).rows.tolist() == [0]


def test_before_the_first_frame_the_first() -> None:
    assert assign(table([2000, 2040]), make_job()).rows.tolist() == [0, 0]


def test_a_clip_without_an_instant_has_one_sample_at_its_last_frame() -> None:
    samples = assign(table([0, 40, 80]), make_job())
    assert (samples.rows.tolist(), samples.times_s.tolist()) == ([2], [0.08])


def test_a_range_between_two_frames_shows_the_one_on_screen() -> None:
    samples = assign(table([0, 1000, 2000]), make_job(fps=None, start_s=1.2, end_s=1.4))
    assert (samples.rows.tolist(), samples.times_s.tolist()) == ([1], [1.0])


@pytest.mark.parametrize("fps", [1.0, None])
def test_a_range_behind_the_end_is_a_bad_option(fps: float | None) -> None:
    job = make_job(fps=fps, start_s=5.0)
    with pytest.raises(ServiceError, match=r"ends at 0\.12 s") as caught:
        assign(table([0, 40, 80]), job)
    assert caught.value.code == "bad_option"
    with pytest.raises(ServiceError, match=r"ends at 0\.12 s"):
        stream([0, 40, 80], job)


def test_limits_name_themselves() -> None:
    policy = MediaPolicy(max_samples=10, max_clip_s=4.0)
    with pytest.raises(ServiceError, match="limit of 10") as caught:
        assign(table(list(range(0, 3000, 40))), make_job(fps=4, policy=policy))
    assert caught.value.code == "too_many_frames"
    with pytest.raises(ServiceError, match="limit of 10"):
        assign(table(list(range(0, 3000, 40))), make_job(fps=None, policy=policy))
    with pytest.raises(ServiceError, match="limit of 10"):
        stream(list(range(0, 3000, 40)), make_job(fps=None, policy=policy))
    with pytest.raises(ServiceError, match="limit of 4 s") as caught:
        assign(table([0, 6000]), make_job(policy=policy))
    assert caught.value.code == "too_long"
    with pytest.raises(ServiceError, match="limit of 4 s"):
        stream([0, 6000], make_job(policy=policy))


@pytest.mark.parametrize(
    ("last_s", "spacing_s", "wanted_s"),
    [(0.04, 0.04, 0.04), (0.0, 0.5, 0.5), (-1.0, 0.5, 0.5), (19_307.0, 0.04, 10.0), (0.0, 0.0, 0.04), (math.inf, 1, 1)],
)
def test_the_last_frame_lasts_a_sane_time(last_s: float, spacing_s: float, wanted_s: float) -> None:
    assert clamp_last_s(last_s, spacing_s=spacing_s) == wanted_s


@settings(max_examples=200)
@given(start_s=st.floats(0, 600), fps=st.floats(0.01, 60))
def test_first_index_is_the_least_that_fits(start_s: float, fps: float) -> None:
    first = first_index(start_s, fps)
    assert (first + 15 / 16) / fps >= start_s
    assert first == 0 or (first - 1 + 15 / 16) / fps < start_s


TICKS = st.lists(st.integers(1, 400), min_size=1, max_size=60).map(lambda steps: np.cumsum(steps).tolist())


@settings(max_examples=300)
@example(ticks=[1, 2, 3, 118], fps=25.0, start_s=0.0, length_s=None)  # 0.1175 s is half a tick before the last frame
@given(
    ticks=TICKS,
    fps=st.one_of(st.none(), st.sampled_from([0.5, 1.0, 3.7, 25.0, 60.0])),
    start_s=st.sampled_from([0.0, 0.5, 1.003]),
    length_s=st.one_of(st.none(), st.sampled_from([0.01, 0.5, 3.0])),
)
def test_streams_choose_what_tables_choose_and_both_the_rule(
    ticks: list[int], fps: float | None, start_s: float, length_s: float | None
) -> None:
    job = make_job(fps=fps, start_s=start_s, end_s=None if length_s is None else start_s + length_s)
    frames = table(ticks)
    if start_s >= frames.end_s:
        return
    samples = assign(frames, job)
    chooser: TableChooser[int] = TableChooser(frames, samples, is_strict=True)
    by_table = [pair for frame in shown(ticks) for pair in chooser.feed(frame)] + list(chooser.finish())
    pairs = [(time_s, chosen.index) for time_s, chosen in by_table]
    assert pairs == stream(ticks, job)
    if fps is not None and len(pairs) > 1:
        rule = expected_rows(frames.times_s, samples.times_s, tick_s=0.001)
        assert [index for _, index in pairs] == rule
    assert [time_s for time_s, _ in pairs] == sorted({time_s for time_s, _ in pairs})


def test_a_missing_frame_is_noticed_or_replaced_by_the_one_before() -> None:
    frames = table([0, 40, 80, 120])
    samples = assign(frames, make_job(fps=None))
    left = [frame for frame in shown([0, 40, 80, 120]) if frame.index != 2]
    strict: TableChooser[int] = TableChooser(frames, samples, is_strict=True)
    with pytest.raises(MissingFrameError):
        [pair for frame in left for pair in strict.feed(frame)]
    assert strict.num_done == 2
    loose: TableChooser[int] = TableChooser(frames, samples, is_strict=False, num_done=strict.num_done)
    pairs = [(time_s, chosen.index) for frame in left for time_s, chosen in loose.feed(frame)]
    assert pairs == [(0.08, 1), (0.12, 3)]
