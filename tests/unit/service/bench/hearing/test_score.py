"""Outcomes of samples, intervals, bars and the rows that they make."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from model.data.synthesize import encode_mask
from service.bench.hearing.edges import ClipEdges, EdgeOutcome
from service.bench.hearing.failures import outline, worst
from service.bench.hearing.score import Sample, compare, compare_labels, interval, mean, mean_over_kinds, median
from service.bench.hearing.table import BARS, Outcomes, figures, rows, table
from service.domain.result import FrameMasks, Mask, Rle

SIZE = (20, 30)
SAMPLE = Sample("own", 0, 0.9375, 12.0, False, True, False, 0.8, 0.1, {})


def _box(left: int, right: int) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[5:15, left:right] = True
    return mask


def _frame(*masks: tuple[str, np.ndarray]) -> FrameMasks:
    made = []
    for label, mask in masks:
        entry = encode_mask(mask)
        rle = Rle(tuple(entry["segmentation"]["size"]), entry["segmentation"]["counts"])
        made.append(Mask(label, 0.9, entry["area"], tuple(entry["bbox"]), rle))
    return FrameMasks(0.9375, 0.92, 0, tuple(made))


def _truth(*objects: tuple[str, np.ndarray, bool], ambiguous: bool = False) -> dict[str, Any]:
    sounding = [encode_mask(mask) for _, mask, is_on in objects if is_on]
    frame = {
        "sample_time_s": 0.9375,
        "ambiguous": ambiguous,
        "off_screen_sounding": [],
        "signal_to_ambience_db": 9.0,
        "masks": sounding,
        "objects": [{"kind": kind, "is_sounding": is_on, **encode_mask(mask)} for kind, mask, is_on in objects],
    }
    return {"clip": {"height": 20, "width": 30}, "frames": [frame]}


def test_a_sample_is_compared_with_all_that_sounds() -> None:
    truth = _truth(("gong", _box(0, 10), True), ("drum", _box(10, 20), True), ("horn", _box(20, 30), False))
    (sample,) = compare("own", 3, truth, [_frame(("sounding", _box(0, 15)))])
    assert (sample.clip, sample.is_sounding, sample.is_off_screen) == (3, True, False)
    assert sample.iou == pytest.approx(0.75)
    assert sample.share == pytest.approx(0.25)
    (empty,) = compare("own", 3, _truth(("gong", _box(0, 10), False)), [_frame()])
    assert (empty.is_sounding, empty.iou, empty.share) == (False, 1.0, 0.0)


def test_an_answer_of_another_size_or_length_is_refused() -> None:
    small = FrameMasks(0.9, 0.9, 0, (Mask("sounding", 0.5, 1, (0, 0, 1, 1), Rle((10, 15), "0")),))
    with pytest.raises(ValueError, match="the clip is"):
        list(compare("own", 0, _truth(), [small]))
    with pytest.raises(ValueError, match="zip"):
        list(compare("own", 0, _truth(), []))


def test_labels_count_where_a_mask_matches_an_object() -> None:
    truth = _truth(("gong", _box(0, 10), True), ("drum", _box(10, 20), True), ("horn", _box(20, 30), False))
    answer = _frame(("gong", _box(0, 10)), ("siren", _box(10, 18)), ("horn", _box(20, 30)))
    (labels,) = compare_labels(5, truth, [answer])
    assert dict(labels.iou_by_kind) == pytest.approx({"gong": 1.0, "drum": 0.0})
    assert labels.matches == (True, False)  # the siren lies on the drum; the horn on nothing that sounds
    assert list(compare_labels(5, _truth(ambiguous=True), [answer])) == []


def test_intervals_resample_clips_not_samples() -> None:
    alike = [(clip, 0.5) for clip in range(20)]
    assert interval(alike, statistic=mean) == {"value": 0.5, "low": 0.5, "high": 0.5, "num": 20, "clips": 20}
    one_clip = [(0, value) for value in (0.0, 1.0, 1.0, 1.0)]
    found = interval(one_clip, statistic=mean)
    assert (found["value"], found["low"], found["high"]) == (0.75, 0.75, 0.75)
    mixed = interval([(clip, float(clip % 2)) for clip in range(100)], statistic=mean)
    assert 0.37 < mixed["low"] < 0.45 < mixed["value"] == 0.5 < 0.55 < mixed["high"] < 0.63
    assert np.isnan(interval([], statistic=median)["value"])
    assert interval([(0, 1.0), (1, 9.0), (2, 2.0)], statistic=median)["value"] == 2.0


def test_kinds_weigh_alike_however_often_they_occur() -> None:
    assert mean_over_kinds(np.array([[0, 1.0], [0, 1.0], [0, 1.0], [4, 0.0]])) == 0.5


def test_losses_are_paired_with_the_same_samples_of_the_plain_clip() -> None:
    own = [SAMPLE, replace(SAMPLE, clip=1, iou=0.2)]
    other = [replace(SAMPLE, condition="mp3", iou=0.7), replace(SAMPLE, condition="mp3", clip=2, iou=0.0)]
    found = figures(Outcomes({"own": own, "mp3": other}), "cpu")
    assert found["MP3: loss of IoU"]["num"] == 1
    assert found["MP3: loss of IoU"]["value"] == pytest.approx(0.1)
    assert found["MP3: loss of IoU"]["bar"] == "<= 0.1"


def test_ambiguous_samples_are_left_out_and_quiet_ones_told_apart() -> None:
    quiet = replace(SAMPLE, is_sounding=False, iou=0.0, share=0.2)
    samples = {
        "own": [SAMPLE, replace(SAMPLE, clip=1, iou=0.0, is_ambiguous=True), quiet],
        "off_screen": [replace(quiet, condition="off_screen", is_off_screen=True, share=0.0, clip=1)],
    }
    found = figures(Outcomes(samples), "cpu")
    assert found["IoU, sounding samples"]["value"] == 0.8
    assert found["ambience only: samples under 0.5 %"]["value"] == 0.0
    assert found["ambience only: samples under 0.5 %"]["passed"] is False
    assert found["off-screen sound only: samples under 0.5 %"]["value"] == 1.0
    assert found["off-screen sound only: samples under 0.5 %"]["num"] == 1


def test_edges_of_a_shifted_track_are_paired_with_the_plain_ones() -> None:
    lags = {"timing": (0.1, -0.2, None), "timing_edit": (0.4, -0.2, 0.3)}
    edges = {
        name: [ClipEdges(tuple(EdgeOutcome(4, True, lag) for lag in some), (False, True)), ClipEdges((), ())]
        for name, some in lags.items()
    }
    found = figures(Outcomes({"own": [SAMPLE]}, edges), "cpu")
    assert found["edges at 10 fps: median lag, s"]["value"] == pytest.approx(0.15)
    assert found["edges at 10 fps, edit list: median lag, s"]["value"] == pytest.approx(0.3)
    assert found["edges at 10 fps, edit list: median lag, s"]["passed"] is False
    assert found["edges at 10 fps: true edges not predicted"]["value"] == pytest.approx(1 / 3)
    assert found["edges at 10 fps: predicted edges without a true one"]["value"] == 0.5
    assert found["edges at 10 fps, edit list: moved by, s (mean)"]["value"] == pytest.approx(0.15)
    assert found["edges at 10 fps, edit list: moved by, s (mean)"]["num"] == 2


def test_bars_by_column_and_nothing_measured_is_a_miss() -> None:
    own = BARS["own"]
    assert own.passes(0.75, "cpu")
    assert not own.passes(0.75, "gpu")
    assert not own.passes(float("nan"), "cpu")
    assert BARS["lag"].passes(0.2, "gpu")
    assert not BARS["lag"].passes(0.2, "aim")


def test_rows_with_bars_come_first_and_the_table_names_misses() -> None:
    outcomes = Outcomes({"own": [replace(SAMPLE, iou=0.1)]})
    made = list(rows(outcomes))
    with_bar = [row.bar is not None for row in made]
    assert with_bar == sorted(with_bar, reverse=True)
    assert len({row.name for row in made}) == len(made)
    console = Console(width=140, record=True, file=open("/dev/null", "w"))  # noqa: SIM115  # closed with the test
    console.print(table(figures(outcomes, "cpu"), title="one clip"))
    line = next(line for line in console.export_text().splitlines() if "IoU, sounding samples" in line)
    assert "0.100" in line
    assert "MISS" in line
    console.file.close()


def test_the_worst_of_each_clip_come_first() -> None:
    samples = [SAMPLE, replace(SAMPLE, iou=0.3), replace(SAMPLE, clip=1, iou=0.5), replace(SAMPLE, clip=2, iou=0.9)]
    assert [(s.clip, s.iou) for s in worst(samples, kind="sounding", num=2)] == [(0, 0.3), (1, 0.5)]
    quiet = [replace(SAMPLE, is_sounding=False, share=share, clip=i) for i, share in enumerate((0.001, 0.3, 0.6))]
    assert [s.share for s in worst(quiet, kind="quiet", num=5)] == [0.6, 0.3]


def test_an_outline_is_the_edge_of_a_mask() -> None:
    edge = outline(_box(5, 20), width=2)
    assert edge[5, 5]
    assert edge[10, 6]
    assert not edge[10, 12]
    assert not edge[2, 12]
