"""`avesformer bench`: measure this machine and print the figures, ratios first."""

from __future__ import annotations

import json
import os
import platform
import tempfile
import time
from collections.abc import Iterable
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from service.bench.figures import BenchPlan, Figures, OnStep
from service.cli.settings import complain, load_settings

PARTS = ("model", "decode", "rle", "batcher", "service", "redis")
_EXAMPLE = Path(__file__).parents[2] / "tests" / "assets" / "example.mp4"
_PEER_VARIANT = "r50"
# Length of the progress bar: about the number of steps of a complete run.
_STEPS = 21


def bench(
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
    only: Annotated[str, typer.Option(help=f"Comma-separated parts: {', '.join(PARTS)}.")] = ",".join(PARTS),
    clip: Annotated[list[Path] | None, typer.Option(help="Clips to measure instead of the built-in ones.")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="File or shipped name: lite, tiny, tiny-semantic (lite).")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
    seconds: Annotated[float, typer.Option(min=0.1, max=600, help="Approximate seconds per figure.")] = 5.0,
) -> None:
    """Measure the model, decoding, mask encoding, batcher, service and workers on this machine."""
    chosen = [part.strip() for part in only.split(",") if part.strip()]
    unknown = [part for part in chosen if part not in PARTS]
    if unknown or not chosen:
        complain(f"--only: {unknown[0] if unknown else only!r} is not one of {', '.join(PARTS)}")
        raise typer.Exit(2)
    settings = load_settings(checkpoint=checkpoint, device=device)
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with (
        tempfile.TemporaryDirectory(prefix="avesformer-bench-") as folder,
        Progress(*columns, console=console, disable=not console.is_terminal) as progress,
    ):
        bar = progress.add_task("preparing", total=_STEPS)

        def on_step(text: str) -> None:
            progress.update(bar, description=text, advance=1)

        try:
            plan = BenchPlan(_clips(clip, Path(folder)), settings, seconds)
            figures = _measure(plan, chosen, on_step)
        except (
            ValueError,
            OSError,
            RuntimeError,
        ) as error:  # no such checkpoint, device or file; the message names it
            complain(str(error))
            raise typer.Exit(1) from None
        progress.update(bar, completed=_STEPS)
    _show(figures)
    if json_path is not None:
        json_path.write_text(json.dumps(figures, indent=2) + "\n")


def _measure(plan: BenchPlan, chosen: Iterable[str], on_step: OnStep) -> Figures:
    from service.bench.batcher_speed import measure_batcher
    from service.bench.clip_speed import measure_decoding, measure_run_lengths
    from service.bench.processes import ServiceDidNotStartError
    from service.bench.redis_speed import measure_workers
    from service.bench.service_speed import measure_redis, measure_service

    figures: Figures = {}
    if "model" in chosen:
        figures |= _measure_model(plan, on_step)
    if "decode" in chosen:
        figures |= measure_decoding(plan, on_step)
    if "rle" in chosen:
        figures |= measure_run_lengths(plan, on_step)
    if "batcher" in chosen:
        figures |= measure_batcher(plan, on_step)
    if "service" in chosen:
        rates = [value for name, value in figures.items() if name.endswith(".frames_per_s")]
        try:
            figures |= measure_service(plan, on_step, frames_per_s=max(rates, default=None))
            figures |= measure_redis(plan, on_step, local_p50_s=figures["service.c1.p50_s"])
        except ServiceDidNotStartError as error:
            raise RuntimeError(f"the service did not start: {error}") from error
    if "redis" in chosen:
        figures |= measure_workers(plan, on_step)
    return figures


def _measure_model(plan: BenchPlan, on_step: OnStep) -> Figures:
    from model.evaluation.benchmark import measure_speed, measure_variant_speed
    from service.predictors.torch import default_threads

    on_step("model beside a bare ResNet-50")
    figures: Figures = {}
    speeds = measure_speed(
        plan.settings.checkpoint,
        device=plan.settings.device,
        batches=(1, 4, 16),
        threads=plan.settings.torch_threads or default_threads(),
        seconds=plan.seconds,
    )
    # Our reconstruction at the paper's frame size, measured like the peers: one frame, one thread, random weights.
    peer = measure_variant_speed(
        _PEER_VARIANT, device=plan.settings.device, batches=(1,), threads=1, seconds=plan.seconds
    )
    for speed in chain(speeds, peer):
        name = f"model.{speed.variant}.{speed.dtype}.b{speed.batch}"
        figures.setdefault(f"{name}.ratio_to_resnet50", speed.ratio_to_resnet50)
        figures.setdefault(f"{name}.frames_per_s", speed.frames_per_s)
        on_step(f"model {speed.variant}, after batch {speed.batch}")
    return figures


def _clips(given: list[Path] | None, folder: Path) -> dict[str, Path]:
    """Return clips by name: the given ones, or the example clip and a generated 720p clip."""
    if given:
        return {path.stem: path for path in given}
    own = {"example": _EXAMPLE} if _EXAMPLE.exists() else {}
    return own | {"made_720p": _make_clip(folder / "made_720p.mp4", width=1280, height=720, seconds=10)}


def _make_clip(path: Path, *, width: int, height: int, seconds: int) -> Path:
    """Write a clip with a rising tone and a drifting texture, which costs as much to decode as camera pictures."""
    import numpy as np

    from model.data.mp4 import WAVEFORM_RATE_HZ, write_mp4

    rng = np.random.default_rng(0)
    texture = rng.integers(0, 256, (height // 8 + 1, width // 8 * 2, 3)).astype(np.uint8)
    wide = texture.repeat(8, axis=0)[:height].repeat(8, axis=1)
    frames = (np.ascontiguousarray(wide[:, 3 * number % width :][:, :width]) for number in range(25 * seconds))
    at_s = np.arange(WAVEFORM_RATE_HZ * seconds) / WAVEFORM_RATE_HZ
    tone = (0.3 * np.sin(2 * np.pi * (200 + 20 * at_s) * at_s)).astype(np.float32)
    write_mp4(path, frames=frames, frame_rate=Fraction(25), waveform=tone)
    return path


def _show(figures: Figures) -> None:
    cores = len(os.sched_getaffinity(0))
    table = Table("figure", "value", title=f"{platform.machine()}, {cores} cores, {time.strftime('%Y-%m-%d')}")
    ratios = [name for name in figures if ".ratio_to" in name]
    for name in [*ratios, *(name for name in figures if name not in ratios)]:
        table.add_row(name, f"{figures[name]:.4g}")
    Console().print(table)
