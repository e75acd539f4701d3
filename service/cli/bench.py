"""`avesformer bench`: measure this machine and print the figures, ratios first."""

from __future__ import annotations

import json
import os
import platform
import tempfile
import time
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from service.bench.figures import BenchPlan, Figures, OnStep
from service.cli.settings import complain, load_settings
from service.settings import Settings

if TYPE_CHECKING:
    from model.evaluation.benchmark import Speed

# What is measured without --only: speed.
SPEED_PARTS = ("model", "decode", "rle", "batcher", "start", "service", "redis")
# Minutes of rendering and answering clips of the synthetic world each.
QUALITY_PARTS = ("tracks", "events")
PARTS = (*SPEED_PARTS, *QUALITY_PARTS)
_EXAMPLE = Path(__file__).parents[2] / "tests" / "assets" / "example.mp4"
_PEER_VARIANT = "r50"
# Checkpoints that are measured where none is chosen.
_SHIPPED = (Path("lite"), Path("tiny"))
_BATCHES = (1, 4, 16)
_CLIP_S = 10
# Length of the progress bar: about the number of steps of all parts of speed.
_SPEED_STEPS = 49
# Decimals of a ratio to an earlier run.
_RATIO_DECIMALS = 3


def bench(
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
    only: Annotated[str, typer.Option(help=f"Comma-separated parts: {', '.join(PARTS)}.")] = ",".join(SPEED_PARTS),
    clip: Annotated[list[Path] | None, typer.Option(help="Clips to measure instead of the built-in ones.")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="File or shipped name: lite, tiny, tiny-semantic (lite).")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
    seconds: Annotated[float, typer.Option(min=0.1, max=600, help="Approximate seconds per figure.")] = 5.0,
    clips: Annotated[int, typer.Option(min=1, help="Clips of tracks and of events.")] = 40,
    compare: Annotated[
        Path | None, typer.Option(help="JSON of an earlier run; show each figure over its earlier value.")
    ] = None,
) -> None:
    """Measure the model, decoding, mask encoding, batcher, service and workers on this machine.

    The parts tracks and events measure quality on clips of the synthetic world, with the checkpoints trained on it.
    """
    chosen = [part.strip() for part in only.split(",") if part.strip()]
    unknown = [part for part in chosen if part not in PARTS]
    if unknown or not chosen:
        complain(f"--only: {unknown[0] if unknown else only!r} is not one of {', '.join(PARTS)}")
        raise typer.Exit(2)
    earlier = _earlier_figures(compare)
    settings = load_settings(checkpoint=checkpoint, device=device)
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with (
        tempfile.TemporaryDirectory(prefix="avesformer-bench-") as folder,
        Progress(*columns, console=console, disable=not console.is_terminal) as progress,
    ):
        num_steps = clips * len(set(QUALITY_PARTS) & set(chosen)) or _SPEED_STEPS
        bar = progress.add_task("preparing", total=num_steps)

        def on_step(text: str) -> None:
            progress.update(bar, description=text, advance=1)

        try:
            plan = _make_plan(clip, Path(folder), chosen, settings=settings, seconds=seconds)
            figures = _measure(plan, chosen, on_step, num_clips=clips)
        except (
            ValueError,
            OSError,
            RuntimeError,
        ) as error:  # no such checkpoint, device or file; the message names it
            complain(str(error))
            raise typer.Exit(1) from None
        progress.update(bar, completed=num_steps)
    _show(figures, earlier)
    if json_path is not None:
        json_path.write_text(json.dumps(figures, indent=2) + "\n")


def _measure(plan: BenchPlan, chosen: Collection[str], on_step: OnStep, *, num_clips: int) -> Figures:
    from service.bench.batcher_speed import measure_batcher
    from service.bench.clip_speed import measure_decoding, measure_run_lengths
    from service.bench.processes import ServiceDidNotStartError
    from service.bench.redis_speed import measure_workers
    from service.bench.service_speed import measure_redis, measure_service
    from service.bench.start_speed import measure_start

    figures: Figures = {}
    if "model" in chosen:
        figures |= _measure_model(plan, on_step)
    if "decode" in chosen:
        figures |= measure_decoding(plan, on_step)
    if "rle" in chosen:
        figures |= measure_run_lengths(plan, on_step)
    if "batcher" in chosen:
        figures |= measure_batcher(plan, on_step)
    rates = [value for name, value in figures.items() if name.endswith(".frames_per_s")]
    try:
        if "start" in chosen:
            figures |= measure_start(plan, on_step)
        if "service" in chosen:
            figures |= measure_service(plan, on_step, frames_per_s=max(rates, default=None))
            figures |= measure_redis(plan, on_step, local_p50_s=figures["service.c1.p50_s"])
        figures |= _measure_quality(plan, chosen, on_step, num_clips=num_clips)
    except ServiceDidNotStartError as error:
        raise RuntimeError(f"the service did not start: {error}") from error
    if "redis" in chosen:
        figures |= measure_workers(plan, on_step)
    return figures


def _measure_quality(plan: BenchPlan, chosen: Collection[str], on_step: OnStep, *, num_clips: int) -> Figures:
    if not set(QUALITY_PARTS) & set(chosen):
        return {}
    from service.bench.world.events import measure_events
    from service.bench.world.tracks import measure_tracks

    figures: Figures = {}
    if "tracks" in chosen:
        figures |= measure_tracks(plan, on_step, num_clips=num_clips)
    if "events" in chosen:
        figures |= measure_events(plan, on_step, num_clips=num_clips)
    return figures


def _measure_model(plan: BenchPlan, on_step: OnStep) -> Figures:
    from model.evaluation.benchmark import measure_speed, measure_variant_speed
    from service.predictors.torch import default_threads

    settings, figures = plan.settings, Figures()
    threads = settings.torch_threads or default_threads()
    for path in _SHIPPED if settings.checkpoint is None else (settings.checkpoint,):
        on_step(f"model {path.stem} beside a bare ResNet-50")
        speeds = measure_speed(path, device=settings.device, batches=_BATCHES, threads=threads, seconds=plan.seconds)
        figures |= _model_figures(speeds, on_step)
    # Our reconstruction at the paper's frame size, measured like the peers: one thread, random weights.
    peer = measure_variant_speed(
        _PEER_VARIANT, device=settings.device, batches=_BATCHES, threads=1, seconds=plan.seconds
    )
    return _model_figures(peer, on_step) | figures


def _model_figures(speeds: Iterable[Speed], on_step: OnStep) -> Figures:
    figures: Figures = {}
    for speed in speeds:
        name = f"model.{speed.variant}.{speed.dtype}.b{speed.batch}"
        figures[f"{name}.ratio_to_resnet50"] = speed.ratio_to_resnet50
        figures[f"{name}.frames_per_s"] = speed.frames_per_s
        on_step(f"model {speed.variant}, after batch {speed.batch} of {speed.dtype}")
    return figures


def _make_plan(
    given: list[Path] | None, folder: Path, chosen: Collection[str], *, settings: Settings, seconds: float
) -> BenchPlan:
    """Measure on the given clips (the last one is the 720p clip), or on the example clip and on generated ones."""
    from service.bench.clips import DECODE_CLIPS, HD_CLIP, clip_path, make_clip

    if given:
        return BenchPlan({path.stem: path for path in given}, given[-1], settings, seconds)
    clips = {"example": _EXAMPLE} if _EXAMPLE.exists() else {}
    kinds = [HD_CLIP, *DECODE_CLIPS] if "decode" in chosen else [HD_CLIP] if "service" in chosen else []
    for kind in kinds:
        clips[kind[0]] = make_clip(folder, kind, seconds=_CLIP_S)
    return BenchPlan(clips, clip_path(folder, HD_CLIP), settings, seconds)


def _earlier_figures(path: Path | None) -> Figures | None:
    """Figures of an earlier run; exits with 2 where the file is not one of `--json`."""
    if path is None:
        return None
    try:
        figures = json.loads(path.read_bytes())
        return {str(name): float(value) for name, value in figures.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        complain(f"--compare: {path} is not a file that --json wrote")
        raise typer.Exit(2) from None


def _show(figures: Figures, earlier: Mapping[str, float] | None) -> None:
    cores = len(os.sched_getaffinity(0))
    columns = ["figure", "value", *([] if earlier is None else ["ratio to earlier"])]
    table = Table(*columns, title=f"{platform.machine()}, {cores} cores, {time.strftime('%Y-%m-%d')}")
    ratios = [name for name in figures if ".ratio_to" in name]
    for name in [*ratios, *(name for name in figures if name not in ratios)]:
        before = None if earlier is None else earlier.get(name)
        ratio = [f"{figures[name] / before:.{_RATIO_DECIMALS}f}"] if before else []
        table.add_row(name, f"{figures[name]:.4g}", *ratio)
    Console().print(table)
