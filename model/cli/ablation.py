"""`avesformer ablate`: what each part of the network contributes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from model.cli.parts import console, one_line_failures, progress_bar

if TYPE_CHECKING:
    from model.training.ablation.run import Plan


def ablate(
    data: Annotated[
        Literal["synthetic", "pictures", "backbones"],
        typer.Option(help="`tiny` on the synthetic world, `lite` on pictures, or the backbones that `lite` may have."),
    ] = "synthetic",
    root: Annotated[Path | None, typer.Option(help="Folder of pictures and recordings.")] = None,
    init: Annotated[
        Path | None, typer.Option(help="pictures: checkpoint whose encoders all rows share. Default: the shipped one.")
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(metavar="TYPE=FILE", help="backbones: public weights of a model type; repeatable."),
    ] = None,
    arms: Annotated[list[str] | None, typer.Option("--arm", help="Row to run; repeatable. Default: all.")] = None,
    seeds: Annotated[str, typer.Option(metavar="N,N,…", help="Seeds; those done already are kept.")] = "0,1,2",
    samples: Annotated[
        int | None, typer.Option(min=1, help="Training samples of each row [16000; pictures: 7200; backbones: 2400].")
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=32, help="Frame height and width, a multiple of 16 [112; else 256].")
    ] = None,
    clips: Annotated[int | None, typer.Option(min=2, help="Unseen clips or pictures of the evaluation [120].")] = None,
    out: Annotated[Path, typer.Option(help="Folder of figures and logs.")] = Path("runs/ablation"),
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the summary here.")] = None,
) -> None:
    """Train briefly with one part changed at a time: a table on stderr, JSON on stdout."""
    import torch

    from model.training.ablation.run import ablate as run

    torch.set_num_threads(1)  # a step is too small to share, and seeds run side by side as processes
    with one_line_failures(), progress_bar("ablation", unit="steps") as show_progress:
        sizes = {"num_samples": samples, "size_px": size, CLIPS_FIELD[data]: clips}
        plan = _plan(data, root, init, weights or [], sizes)

        def progress(seed: int, done: int, total: int) -> None:
            show_progress(done, total, note=f"seed {seed}")

        chosen = [int(seed) for seed in seeds.split(",")]
        summary = run(plan, arms=arms or [], seeds=chosen, out=out, progress=progress)
        text = json.dumps(summary, indent=2)
        if json_file is not None:
            json_file.write_text(text + "\n")
    for line in table(summary["arms"], plan.figures):
        console.print(line, markup=False)
    typer.echo(text)


CLIPS_FIELD = {"synthetic": "num_clips", "pictures": "num_pictures", "backbones": "num_pictures"}


def _plan(data: str, root: Path | None, init: Path | None, weights: list[str], given: dict[str, int | None]) -> Plan:
    values = {name: value for name, value in given.items() if value is not None}
    if data == "synthetic":
        from model.training.ablation.synthetic import SyntheticPlan

        return SyntheticPlan(**values)
    if root is None:
        raise ValueError(f"{data}: name the data folder with --root PATH")
    if data == "backbones":
        from model.training.ablation.backbones import BackbonesPlan

        return BackbonesPlan(str(root), weights=_named(weights), **values)
    from model.network.checkpoint import SHIPPED_CHECKPOINT
    from model.training.ablation.pictures import PicturesPlan

    return PicturesPlan(str(root), str(init or SHIPPED_CHECKPOINT), **values)


def _named(weights: list[str]) -> dict[str, str]:
    named = dict(entry.split("=", 1) for entry in weights if "=" in entry)
    if len(named) != len(weights):
        raise ValueError("weights: expected TYPE=FILE, each type once")
    return named


def table(arms: dict[str, dict[str, Any]], names: tuple[str, ...]) -> list[str]:
    """One line per row of the ablation under a line of headings; mean and deviation over the seeds."""
    lines = [f"{'':<22}" + "".join(f"{name:>22}" for name in names)]
    for row, figures in arms.items():
        cells = []
        for name in names:
            value = figures.get(name)
            cells.append(f"{value['mean']:.3f} ±{value['deviation']:.3f}" if value else "-")
        lines.append(f"{row:<22}" + "".join(f"{cell:>22}" for cell in cells))
    return lines
