"""Commands of the model: train, evaluate, synthesize. Mounted into `avesformer`; torch is imported when one runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from model.training import Trainer, TrainingConfig

app = typer.Typer(no_args_is_help=True, help="Train, evaluate and export AVESFormer; make synthetic clips.")
_errors = Console(stderr=True, soft_wrap=True, highlight=False)


class DataName(StrEnum):
    """Data sets that `evaluate` knows."""

    SYNTHETIC = "synthetic"


class Truth(StrEnum):
    """How much truth `synthesize` writes."""

    SAMPLED = "sampled"
    FULL = "full"


@app.command()
def train(
    recipe_name: Annotated[str | None, typer.Argument(metavar="RECIPE", help="Name of a recipe (see --list).")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of checkpoint and log; default runs/RECIPE.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    overrides: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan, train nothing.")] = False,
    show_list: Annotated[bool, typer.Option("--list", help="List the recipes.")] = False,
) -> None:
    """Train a recipe; the checkpoint is OUT/model.safetensors, the curve OUT/log.jsonl."""
    from model.recipes import RECIPES, recipe
    from model.training import Trainer

    if show_list:
        for name, build in RECIPES.items():
            typer.echo(f"{name}  {(build.__doc__ or '').splitlines()[0]}")
        return
    if recipe_name is None:
        raise typer.BadParameter("name a recipe; --list shows them", param_hint="RECIPE")
    try:
        config = recipe(recipe_name, overrides=overrides or [])
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    with one_line_failures():
        trainer = Trainer(config, out=out or Path("runs") / recipe_name)
        if dry_run:
            typer.echo(json.dumps(_plan(trainer), indent=2))
            return
        if resume:
            trainer.resume()
        elif (trainer.out / "resume.pt").exists():
            raise ValueError(f"{trainer.out} already holds a run; add --resume, or choose another --out")
        _run_with_bar(trainer, config)
    typer.echo(f"wrote {trainer.out / 'model.safetensors'}")


@app.command()
def evaluate(
    data: Annotated[DataName, typer.Option(help="Data set.")] = DataName.SYNTHETIC,
    checkpoint: Annotated[Path | None, typer.Option(help="Default: the shipped checkpoint.")] = None,
    num_clips: Annotated[int, typer.Option(min=2, help="Unseen synthetic clips.")] = 120,
    device: Annotated[str, typer.Option()] = "auto",
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the figures here.")] = None,
) -> None:
    """Measure a checkpoint. Plain figures and the field's own (field_*) are named apart and never mixed."""
    from model.checkpoint import SHIPPED_CHECKPOINT, load_checkpoint
    from model.evaluation import evaluate_synthetic
    from model.inference import choose_device
    from model.training import segmenter

    with one_line_failures():
        loaded = load_checkpoint(checkpoint or SHIPPED_CHECKPOINT)
        if loaded.config.is_semantic:
            raise ValueError("this evaluation is for binary checkpoints; this one is semantic")
        place = choose_device(device)
        with _bar("evaluating", unit="clips") as (bar, task):
            figures: dict[str, Any] = evaluate_synthetic(
                segmenter(loaded.build().to(place)),
                num_clips=num_clips,
                size_px=loaded.config.input_height,
                device=place,
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
        answer = {"data": data.value, "checkpoint": loaded.digest, "world_version": loaded.world_version, **figures}
        text = json.dumps(answer, indent=2)
        if json_file is not None:
            json_file.write_text(text + "\n")
    typer.echo(text)


@app.command()
def synthesize(
    out: Annotated[Path | None, typer.Option(help="Folder to write; needed unless --audit is given.")] = None,
    num: Annotated[int, typer.Option(help="Number of clips.")] = 8,
    seed: Annotated[int, typer.Option(help="Seed of the first clip.")] = 0,
    width: Annotated[int, typer.Option()] = 320,
    height: Annotated[int, typer.Option()] = 240,
    fps: Annotated[float, typer.Option(help="Frames per second.")] = 25.0,
    seconds: Annotated[float, typer.Option(help="Length of a clip.")] = 5.0,
    visible: Annotated[str, typer.Option(metavar="N|A..B", help="Visible objects.")] = "1..4",
    truth: Annotated[Truth, typer.Option(help="full adds objects, off-screen sources and stems.")] = Truth.SAMPLED,
    audit: Annotated[int | None, typer.Option(min=2, metavar="N", help="Print figures of N clips, write none.")] = None,
) -> None:
    """Write synthetic clips with their truth, or audit how far the truth can be guessed without sound."""
    from model.data.synthesize import SynthesizeOptions
    from model.data.synthesize import synthesize as write_clips
    from model.data.world_audit import audit as audit_clips

    with one_line_failures(), _bar("audit" if audit else "synthesize", unit="clips") as (bar, task):

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        if audit is not None:
            typer.echo(json.dumps(audit_clips(audit, seed=seed, progress=progress), indent=2))
            return
        if out is None:
            raise typer.BadParameter("name a folder with --out DIR")
        try:
            options = SynthesizeOptions(
                out_dir=out,
                num=num,
                seed=seed,
                width=width,
                height=height,
                fps=fps,
                seconds=seconds,
                visible=_parse_visible(visible),
                truth=truth.value,
            )
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None
        write_clips(options, progress=progress)
    typer.echo(f"wrote {num} clips to {out}")


def _parse_visible(text: str) -> tuple[int, int]:
    """`3` or `1..4` to (least, most)."""
    low, dots, high = text.partition("..")
    if not low.isdigit() or (dots and not high.isdigit()):
        raise ValueError(f"visible: got {text!r}, expected N or A..B such as 1..4")
    return int(low), int(high or low)


@contextmanager
def one_line_failures() -> Iterator[None]:
    """Turn a failure that a user can cause into one line on stderr and exit code 1."""
    try:
        yield
    except (ValueError, OSError, RuntimeError) as error:
        _errors.print(f"error: {str(error).splitlines()[0] if str(error) else type(error).__name__}", markup=False)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        _errors.print("stopped")
        raise typer.Exit(1) from None


@contextmanager
def _bar(title: str, *, unit: str) -> Iterator[tuple[Progress, Any]]:
    """A progress bar on stderr, silent where stderr is no terminal."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=_errors, disable=not _errors.is_terminal) as bar:
        yield bar, bar.add_task(title, total=None, note="")


def _run_with_bar(trainer: Trainer, config: TrainingConfig) -> None:
    with _bar(f"training {config.name}", unit="‰") as (bar, task):

        def report(values: dict[str, Any]) -> None:
            if "iou_sounding" in values:
                bar.console.print(
                    f"step {values['step']}: IoU {_figure(values['iou_sounding'])}, wrong sound "
                    f"{_figure(values['wrong_sound_iou'])}, empty {_figure(values['empty_ok'])}"
                )
            elif "loss" in values:
                note = f"loss {values['loss']:.3f}, {values['samples_per_s']:.0f} samples/s, {values['size_px']} px"
                bar.update(task, completed=int(1000 * trainer.progress), total=1000, note=note)

        trainer.run(report)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _plan(trainer: Trainer) -> dict[str, Any]:
    """What a run would do: measured on a few real steps."""
    from dataclasses import asdict

    from model.avesformer import parameter_report

    config = trainer.config
    speeds = [trainer.step()["samples_per_s"] for _ in range(3)]
    minutes = config.steps * config.batch_samples / speeds[-1] / 60
    return {
        "recipe": asdict(config),
        "device": str(trainer.device),
        "parameters": parameter_report(trainer.objective.model),
        "steps": config.steps,
        "samples_per_s_at_first_size": round(speeds[-1], 1),
        "estimated_minutes": round(min(minutes, config.max_minutes or minutes), 1),
    }
