"""The `average` command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from model.cli.parts import one_line_failures


def average(
    checkpoints: Annotated[
        list[str], typer.Argument(metavar="CHECKPOINT[=SHARE]…", help="Two or more, with a share each (default: 1).")
    ],
    out: Annotated[Path, typer.Option(help="File to write.")],
) -> None:
    """Average the weights of checkpoints whose runs started from the same weights, which often beats each of them."""
    from model.training.averaging import average_checkpoints

    try:
        parts = [_parse_part(text) for text in checkpoints]
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    with one_line_failures():
        average_checkpoints(parts, out)
    typer.echo(f"wrote {out}")


def _parse_part(text: str) -> tuple[Path, float]:
    """`run/model.safetensors=0.25` to (file, share)."""
    name, equals, share = text.rpartition("=")
    if not equals or "/" in share:  # a folder may be called lr=4e-4
        return Path(text), 1.0
    try:
        return Path(name), float(share)
    except ValueError:
        raise ValueError(f"{text}: got the share {share!r}, expected a number") from None
