"""`avesformer train`: run a recipe. With several GPUs: `torchrun --nproc-per-node N -m model train RECIPE …`."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from model.cli.parts import console, one_line_failures, progress_bar

if TYPE_CHECKING:
    from model.training.config import TrainingConfig
    from model.training.distributed import ProcessGroup
    from model.training.trainer import Trainer


def train(
    recipe_name: Annotated[str | None, typer.Argument(metavar="RECIPE", help="Name of a recipe (see --list).")] = None,
    root: Annotated[Path | None, typer.Option(help="Folder of AVSBench, for the recipes on it.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of checkpoint and log; default runs/RECIPE.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting that --dry-run shows.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan, train nothing.")] = False,
    show_list: Annotated[bool, typer.Option("--list", help="List the recipes.")] = False,
) -> None:
    """Train a recipe; the checkpoint is OUT/model.safetensors, the curve OUT/log.jsonl."""
    from model.training.recipes import RECIPES

    if show_list:
        for name, build in RECIPES.items():
            typer.echo(f"{name:<{max(map(len, RECIPES))}}  {(build.__doc__ or '').splitlines()[0]}")
        return
    if recipe_name is None:
        raise typer.BadParameter("name a recipe; --list shows them", param_hint="RECIPE")
    config = _config(recipe_name, overrides or [], root)
    with one_line_failures():
        group = _join()
        try:
            _train(config, group, out=out or Path("runs") / recipe_name, is_resumed=resume, is_dry=dry_run)
        finally:
            group.close()


def _config(name: str, overrides: list[str], root: Path | None) -> TrainingConfig:
    from model.training.recipes import recipe

    try:
        config = recipe(name, overrides=overrides)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    return replace(config, root=str(root)) if root is not None else config


def _join() -> ProcessGroup:
    import torch

    from model.training.distributed import join_process_group

    return join_process_group(os.environ, has_cuda=torch.cuda.is_available())


def _train(config: TrainingConfig, group: ProcessGroup, *, out: Path, is_resumed: bool, is_dry: bool) -> None:
    from model.training.plan import plan
    from model.training.trainer import Trainer

    trainer = Trainer(config, out=out, group=group)
    if is_dry:
        described = plan(trainer)
        if group.is_first:
            typer.echo(json.dumps(described, indent=2))
        return
    if is_resumed:
        trainer.resume()
    elif trainer.has_run():
        raise ValueError(f"{trainer.out} already holds a run; add --resume, or choose another --out")
    group.wait()
    with stopped_by_signals(trainer):
        is_done = _run_with_bar(trainer, config)
    if not is_done:
        raise ValueError(f"stopped at step {trainer.position.step} and saved in {trainer.out}; --resume goes on")
    if group.is_first:
        typer.echo(f"wrote {trainer.out / 'model.safetensors'}")


@contextmanager
def stopped_by_signals(trainer: Trainer) -> Iterator[None]:
    """While it lasts, an interrupt ends the run after its step, saved; a second one acts at once, as ever."""

    def stop(number: int, _: object) -> None:
        trainer.stop()
        signal.signal(number, before[signal.Signals(number)])

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run_with_bar(trainer: Trainer, config: TrainingConfig) -> bool:
    with progress_bar(f"training {config.name}", unit="‰", is_shown=trainer.group.is_first) as show_progress:

        def report(values: dict[str, Any]) -> None:
            if "loss" in values:
                note = f"loss {values['loss']:.3f}, {values['samples_per_s']:.0f} samples/s, {values['size_px']} px"
                show_progress(int(1000 * trainer.progress), 1000, note=note)
            else:
                console.print(_figures_line(values))

        return trainer.run(report)


def _figures_line(values: dict[str, Any]) -> str:
    """An evaluation in one line: the figures that matter for the data."""
    names = {
        "iou_sounding": "IoU",
        "iou_kinds": "IoU, mean over kinds",
        "other_sound_iou": "wrong sound",
        "miou_present_kinds": "mIoU of present kinds",
        "label_accuracy": "right labels",
        "field_j_2_clips": "J",
        "field_miou": "mIoU",
        "wrong_sound_iou": "wrong sound",
        "empty_ok": "empty",
        "field_f_2_clips": "F",
    }
    shown = [f"{text} {_figure(values[name])}" for name, text in names.items() if name in values]
    return f"step {values['step']}: {', '.join(shown)}"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
