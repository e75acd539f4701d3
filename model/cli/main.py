"""The model's commands, mounted into `avesformer`; torch is imported when one of them runs."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from model.cli.ablation import ablate
from model.cli.averaging import average
from model.cli.data import app as data_app
from model.cli.evaluation import evaluate
from model.cli.export import export
from model.cli.parts import one_line_failures, progress_bar
from model.cli.training import train

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"max_content_width": 120},
    help="Train, evaluate and export AVESFormer; make synthetic clips.",
)
app.command()(train)
app.command()(evaluate)
app.command()(average)
app.command()(export)
app.command()(ablate)
app.add_typer(data_app, name="data")


class Truth(StrEnum):
    """How much truth `synthesize` writes."""

    SAMPLED = "sampled"
    FULL = "full"


@app.command()
def synthesize(
    out: Annotated[Path | None, typer.Option(help="Folder to write; needed unless --audit is given.")] = None,
    num: Annotated[int, typer.Option(help="Number of clips.")] = 8,
    seed: Annotated[int, typer.Option(help="Seed of the first clip.")] = 0,
    width: Annotated[int, typer.Option(help="Of the picture, pixels.")] = 320,
    height: Annotated[int, typer.Option(help="Of the picture, pixels.")] = 240,
    fps: Annotated[float, typer.Option(help="Frames per second.")] = 25.0,
    seconds: Annotated[float, typer.Option(help="Length of a clip.")] = 5.0,
    visible: Annotated[str, typer.Option(metavar="N|A..B", help="Visible objects.")] = "1..4",
    truth: Annotated[Truth, typer.Option(help="full adds objects, off-screen sources and stems.")] = Truth.SAMPLED,
    audit: Annotated[int | None, typer.Option(min=2, metavar="N", help="Print figures of N clips, write none.")] = None,
) -> None:
    """Write synthetic clips with their truth, or audit how far the truth can be guessed without sound."""
    from model.data.synthesize import SynthesizeOptions
    from model.data.synthesize import synthesize as write_clips
    from model.data.world.audit import audit as audit_clips

    with one_line_failures(), progress_bar("audit" if audit else "synthesize", unit="clips") as show_progress:
        if audit is not None:
            typer.echo(json.dumps(audit_clips(audit, seed=seed, progress=show_progress), indent=2))
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
        write_clips(options, progress=show_progress)
    typer.echo(f"wrote {num} clips to {out}")


def _parse_visible(text: str) -> tuple[int, int]:
    """`3` or `1..4` to (least, most)."""
    low, dots, high = text.partition("..")
    if not low.isdigit() or (dots and not high.isdigit()):
        raise ValueError(f"visible: got {text!r}, expected N or A..B such as 1..4")
    return int(low), int(high or low)
