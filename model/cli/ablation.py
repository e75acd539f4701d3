"""`avesformer ablate`: what each part of the network contributes, on the synthetic world."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from model.cli.parts import console, one_line_failures, progress_bar


def ablate(
    arms: Annotated[list[str] | None, typer.Option("--arm", help="Row to run; repeatable. Default: all.")] = None,
    seeds: Annotated[str, typer.Option(metavar="N,N,…", help="Seeds; those done already are kept.")] = "0,1,2",
    samples: Annotated[int, typer.Option(min=1, help="Training samples of each row.")] = 16_000,
    size: Annotated[int, typer.Option(min=32, help="Frame height and width in pixels, a multiple of 16.")] = 112,
    clips: Annotated[int, typer.Option(min=8, help="Unseen clips of the evaluation.")] = 120,
    out: Annotated[Path, typer.Option(help="Folder of figures and logs.")] = Path("runs/ablation"),
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the summary here.")] = None,
) -> None:
    """Train `tiny` briefly with one part changed at a time: a table on stderr, JSON on stdout."""
    import torch

    from model.training.ablation import ARMS, AblationPlan
    from model.training.ablation import ablate as run

    torch.set_num_threads(1)  # a step is too small to share, and seeds run side by side as processes
    plan = AblationPlan(num_samples=samples, size_px=size, num_clips=clips)
    with one_line_failures(), progress_bar("ablation", unit="steps") as (bar, task):

        def progress(seed: int, done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, note=f"seed {seed}")

        chosen = [int(seed) for seed in seeds.split(",")]
        summary = run(plan, arms=arms or list(ARMS), seeds=chosen, out=out, progress=progress)
        text = json.dumps(summary, indent=2)
        if json_file is not None:
            json_file.write_text(text + "\n")
    for line in table(summary["arms"]):
        console.print(line, markup=False)
    typer.echo(text)


def table(arms: dict[str, dict[str, Any]]) -> list[str]:
    """One line per row of the ablation under a line of headings; mean and deviation over the seeds."""
    from model.training.ablation import FIGURES

    head = f"{'':<16}" + "".join(f"{name:>22}" for name in FIGURES)
    lines = [head]
    for name, figures in arms.items():
        cells = []
        for figure in FIGURES:
            value = figures.get(figure)
            cells.append(f"{value['mean']:.3f} ±{value['deviation']:.3f}" if value else "-")
        lines.append(f"{name:<16}" + "".join(f"{cell:>22}" for cell in cells))
    return lines
