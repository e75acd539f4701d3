"""The table of docs/performance.md: figures of `avesformer bench` by machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

NOT_MEASURED = "not measured"


@dataclass(frozen=True, slots=True)
class Row:
    """One line: its text, the key of its figure, the factor from the figure to the shown unit, and decimals."""

    text: str
    key: str
    factor: float = 1.0
    decimals: int = 2


def _model_rows() -> list[Row]:
    return [
        Row(
            f"`{variant}`, {dtype}, batch {batch}: frames/s",
            f"model.{variant}.{dtype}.b{batch}.frames_per_s",
            decimals=1,
        )
        for variant in ("lite", "tiny", "r50")
        for dtype in ("float32", "bfloat16")
        for batch in (1, 4, 16)
    ]


def _decode_rows() -> list[Row]:
    clips = {"720p": "made_720p", "720p, groups of 30": "made_720p_gop30"}
    clips |= {"1080p": "made_1080p_gop250", "1080p, groups of 30": "made_1080p_gop30"}
    return [
        Row(f"decode 10 s of {text}: CPU time over `ffmpeg`'s", f"decode.{name}.ratio_to_ffmpeg_cpu")
        for text, name in clips.items()
    ]


def _service_rows() -> list[Row]:
    rows = []
    for clients in (1, 4, 16):
        rows += [
            Row(f"example clip, {clients} clients: clips/s", f"service.c{clients}.clips_per_s"),
            Row(f"example clip, {clients} clients: median ms", f"service.c{clients}.p50_s", 1000, 0),
            Row(f"example clip, {clients} clients: 99th percentile ms", f"service.c{clients}.p99_s", 1000, 0),
        ]
    return rows


def _live_rows() -> list[Row]:
    rows = []
    for text, name in {"1 at 10": "live.c1", "16 at 10": "live.c16_10fps", "16 at 25": "live.c16"}.items():
        rows += [
            Row(f"live streams, {text} frames/s: 95th percentile ms", f"{name}.p95_s", 1000, 0),
            Row(f"live streams, {text} frames/s: dropped frames", f"{name}.num_dropped_frames", decimals=0),
            Row(f"live streams, {text} frames/s: sent frames", f"{name}.num_frames", decimals=0),
        ]
    return rows


SECTIONS: Mapping[str, Sequence[Row]] = {
    "Model": _model_rows(),
    "Decoding and encoding": [
        *_decode_rows(),
        Row("run lengths of a 720p mask: time over pycocotools'", "rle.ratio_to_pycocotools"),
    ],
    "Service": [
        *_service_rows(),
        Row("example clip, first mask after the upload's end: median ms", "service.first_mask.p50_s", 1000, 0),
        Row("16 clients, 10 s of 720p: clips/s", "service.hd.clips_per_s"),
        Row("16 clients, 10 s of 720p: CPU seconds a clip", "service.hd.cpu_s_per_clip", decimals=3),
        Row("16 clients, 10 s of 720p: CPU time over the floor", "service.hd.cpu_ratio_to_floor"),
        Row("16 clients, 10 s of 720p: rate over the limit", "service.hd.ratio_to_limit"),
        Row("1 s of 224 px over one connection: median ms", "service.keep_alive.p50_s", 1000, 1),
        Row("1 s of 224 px over one connection: latency over its stages", "service.keep_alive.ratio_to_stages"),
        *(Row(f"batcher, {n} HTTP clients: items/s", f"batcher.http.c{n}.items_per_s", decimals=0) for n in (1, 8, 32)),
        *_live_rows(),
    ],
    "Start": [
        Row("`avesformer serve` until ready: s", "start.ready_s"),
        Row("idle memory (PSS): MiB", "start.idle_pss_bytes", 1 / 2**20, 0),
        Row("`avesformer --help`: s", "start.help_s"),
    ],
}


def markdown(columns: Mapping[str, Mapping[str, float]]) -> str:
    """Return the table with one column for each machine; a figure that a machine lacks is "not measured".

    Args:
        columns: figures by dotted name, by title of the column, in order.
    """
    lines: list[str] = []
    for section, rows in SECTIONS.items():
        lines += [f"| {section} | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
        lines += [f"| {row.text} | {' | '.join(_cell(row, figures) for figures in columns.values())} |" for row in rows]
        lines.append("")
    return "\n".join(lines)


def _cell(row: Row, figures: Mapping[str, float]) -> str:
    value = figures.get(row.key)
    return NOT_MEASURED if value is None else f"{value * row.factor:.{row.decimals}f}"
