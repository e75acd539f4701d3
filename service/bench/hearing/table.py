"""Figures of the outcomes, their bars, and the table."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rich.table import Table

from model.data.world.scene import KINDS
from model.evaluation.synthetic import EMPTY_SHARE
from service.bench.hearing.edges import ClipEdges
from service.bench.hearing.score import (
    Labels,
    Sample,
    Statistic,
    Values,
    interval,
    mean,
    mean_over_kinds,
    median,
)

Column = Literal["cpu", "gpu", "aim"]


@dataclass(frozen=True)
class Bar:
    """The limit that a figure must reach (at least or at most), by how the checkpoint was trained."""

    is_least: bool
    cpu: float
    gpu: float
    aim: float

    def passes(self, value: float, column: Column) -> bool:
        """Return whether the value reaches the limit; NaN (nothing measured) does not."""
        limit: float = getattr(self, column)
        return value >= limit if self.is_least else value <= limit

    def text(self, column: Column) -> str:
        """As printed."""
        return f"{'>=' if self.is_least else '<='} {getattr(self, column):g}"


BARS = {
    "own": Bar(True, cpu=0.70, gpu=0.80, aim=0.90),
    "remix": Bar(True, cpu=0.65, gpu=0.75, aim=0.88),
    "other": Bar(False, cpu=0.30, gpu=0.25, aim=0.20),
    "off_screen": Bar(True, cpu=0.80, gpu=0.85, aim=0.97),
    "ambience": Bar(True, cpu=0.85, gpu=0.90, aim=0.98),
    "silence": Bar(True, cpu=0.95, gpu=0.95, aim=0.99),
    "lag": Bar(False, cpu=0.25, gpu=0.20, aim=0.10),
    "gain": Bar(False, cpu=0.05, gpu=0.05, aim=0.02),
    "carrier": Bar(False, cpu=0.10, gpu=0.10, aim=0.03),
    "miou": Bar(True, cpu=0.55, gpu=0.65, aim=0.85),
    "label": Bar(True, cpu=0.85, gpu=0.90, aim=0.97),
}
LOSSES = {
    "quieter": ("12 dB quieter", BARS["gain"]),
    "louder": ("12 dB louder", BARS["gain"]),
    "8khz": ("8 kHz mono", BARS["carrier"]),
    "mp3": ("MP3", BARS["carrier"]),
    "portrait": ("portrait", BARS["carrier"]),
    "rotated": ("rotated", BARS["carrier"]),
    "1080p": ("1080p", BARS["carrier"]),
    "unseen": ("unseen backgrounds", None),
}
AMBIENCE_EDGES_DB = (-math.inf, 0.0, 5.0, 10.0, 15.0, 20.0, math.inf)


@dataclass(frozen=True)
class Row:
    """One figure: its name, what it is computed from, and the bar if there is one."""

    name: str
    values: Values
    bar: Bar | None = None
    statistic: Statistic = mean


@dataclass(frozen=True)
class Outcomes:
    """All outcomes: samples and edges by condition, labels of the semantic checkpoint."""

    samples: dict[str, list[Sample]] = field(default_factory=dict)
    edges: dict[str, list[ClipEdges]] = field(default_factory=dict)
    labels: list[Labels] = field(default_factory=list)


def rows(outcomes: Outcomes) -> Iterator[Row]:
    """All rows for which there are outcomes: those with a bar first."""
    made = [*_hearing_rows(outcomes.samples), *_lag_rows(outcomes.edges), *_loss_rows(outcomes.samples)]
    made += [*_label_rows(outcomes), *_detail_rows(outcomes.samples)]
    yield from sorted(made, key=lambda row: row.bar is None)


def _hearing_rows(samples: dict[str, list[Sample]]) -> Iterator[Row]:
    yield Row("IoU, sounding samples", iou_values(samples["own"]), BARS["own"])
    if "remix" in samples:
        yield Row("IoU, another choice of sounding objects", iou_values(samples["remix"]), BARS["remix"])
    if "other" in samples:
        yield Row("IoU, another clip's sound", iou_values(samples["other"]), BARS["other"])
    quiet = [s for name in ("own", "remix", "off_screen", "ambience") for s in samples.get(name, [])]
    quiet = [s for s in quiet if not s.is_sounding and not s.is_ambiguous]
    for name, is_off, text in (("off_screen", True, "off-screen sound only"), ("ambience", False, "ambience only")):
        kept = [s for s in quiet if s.is_off_screen == is_off]
        yield Row(f"{text}: samples under 0.5 %", empty_values(kept), BARS[name])
        passing = [s for s in kept if s.condition in ("own", "remix")]
        yield Row(f"  {text}, between gates: the same", empty_values(passing))
    if "silence" in samples:
        yield Row("silence: samples under 0.5 %", empty_values(samples["silence"]), BARS["silence"])


def iou_values(samples: Sequence[Sample]) -> Values:
    """IoU of the sounding samples that are not ambiguous."""
    return [(s.clip, s.iou) for s in samples if s.is_sounding and not s.is_ambiguous]


def empty_values(samples: Sequence[Sample]) -> Values:
    """Return 1 where an answer covers under 0.5 % of the frame, else 0."""
    return [(s.clip, float(s.share < EMPTY_SHARE)) for s in samples]


def _lag_rows(edges: dict[str, list[ClipEdges]]) -> Iterator[Row]:
    for name, clips in edges.items():
        text = "edges at 10 fps, edit list" if name == "timing_edit" else "edges at 10 fps"
        outcomes = [outcome for clip in clips for outcome in clip.outcomes]
        lags = [(o.clip, o.is_on, o.lag_s) for o in outcomes if o.lag_s is not None]
        yield Row(f"{text}: median lag, s", [(c, abs(lag)) for c, _, lag in lags], BARS["lag"], median)
        for is_on, kind in ((True, "on"), (False, "off")):
            some = [(c, lag) for c, is_lag_on, lag in lags if is_lag_on == is_on]
            yield Row(f"  {text}: median lag of {kind}, s", [(c, abs(lag)) for c, lag in some], None, median)
            yield Row(f"  {text}: median signed lag of {kind}, s", some, None, median)
        yield Row(f"  {text}: true edges not predicted", [(o.clip, float(o.lag_s is None)) for o in outcomes])
        numbered = [(i, float(is_false)) for i, clip in enumerate(clips) for is_false in clip.is_predicted_false]
        yield Row(f"  {text}: predicted edges without a true one", numbered)
    if "timing" in edges and "timing_edit" in edges:
        plain = {clip.outcomes[0].clip: clip.outcomes for clip in edges["timing"] if clip.outcomes}
        edited = [(o, plain[o.clip][i]) for clip in edges["timing_edit"] for i, o in enumerate(clip.outcomes)]
        moved = [(a.clip, abs(a.lag_s - b.lag_s)) for a, b in edited if a.lag_s is not None and b.lag_s is not None]
        yield Row("  edges at 10 fps, edit list: moved by, s (mean)", moved)


def _loss_rows(samples: dict[str, list[Sample]]) -> Iterator[Row]:
    plain = {(s.clip, s.time_s): s for s in samples["own"] if s.is_sounding and not s.is_ambiguous}
    for name, (text, bar) in LOSSES.items():
        if name not in samples:
            continue
        clear = [s for s in samples[name] if s.is_sounding and not s.is_ambiguous and (s.clip, s.time_s) in plain]
        yield Row(f"{text}: loss of IoU", [(s.clip, plain[s.clip, s.time_s].iou - s.iou) for s in clear], bar)
        yield Row(f"  {text}: IoU", [(s.clip, s.iou) for s in clear])


def _label_rows(outcomes: Outcomes) -> Iterator[Row]:
    if not outcomes.labels:
        return
    kinds = [(one.clip, (KINDS.index(kind), iou)) for one in outcomes.labels for kind, iou in one.iou_by_kind]
    yield Row("semantic: mIoU over present kinds", kinds, BARS["miou"], mean_over_kinds)
    matches = [(one.clip, float(is_right)) for one in outcomes.labels for is_right in one.matches]
    yield Row("semantic: label right on masks matched at 0.5", matches, BARS["label"])
    yield Row("  semantic: IoU of all labels together", iou_values(outcomes.samples["semantic"]))


def _detail_rows(samples: dict[str, list[Sample]]) -> Iterator[Row]:
    for num in range(1, 7):
        if f"visible{num}" in samples:
            yield Row(f"  IoU with {num} visible objects", iou_values(samples[f"visible{num}"]))
    known = [s for name in ("own", "remix") for s in samples.get(name, []) if s.signal_to_ambience_db is not None]
    for low, high in itertools.pairwise(AMBIENCE_EDGES_DB):
        inside = [s for s in known if s.signal_to_ambience_db is not None and low <= s.signal_to_ambience_db < high]
        below, over = f"under {high:g} dB", f"{low:g} dB and more"
        text = below if low == -math.inf else over if high == math.inf else f"{low:g} to {high:g} dB"
        yield Row(f"  IoU, sources over ambience {text}", iou_values(inside))


def figures(outcomes: Outcomes, column: Column) -> dict[str, dict[str, Any]]:
    """Return every row with its interval and, if there is a bar, whether it is reached."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows(outcomes):
        figure: dict[str, Any] = interval(row.values, statistic=row.statistic)
        if row.bar is not None:
            figure |= {"bar": row.bar.text(column), "passed": row.bar.passes(figure["value"], column)}
        found[row.name.strip()] = figure
    return found


def table(found: dict[str, dict[str, Any]], *, title: str) -> Table:
    """Return the figures as a table to print."""
    made = Table(title=title, title_justify="left")
    for heading in ("figure", "value", "95 % interval", "samples", "clips", "bar", ""):
        is_text = heading in ("figure", "bar", "")
        made.add_column(heading, justify="left" if is_text else "right", no_wrap=heading != "figure")
    for name, figure in found.items():
        verdict = {True: "[green]pass", False: "[red]MISS", None: ""}[figure.get("passed")]
        value, span = f"{figure['value']:.3f}", f"{figure['low']:.3f} to {figure['high']:.3f}"
        if not figure["num"]:
            value, span = "-", ""
        made.add_row(name, value, span, str(figure["num"]), str(figure["clips"]), figure.get("bar", ""), verdict)
    return made
