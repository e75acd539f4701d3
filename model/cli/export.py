"""The `export` command."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from model.cli.parts import one_line_failures, progress_bar


class FormatName(StrEnum):
    """Forms that `export` writes."""

    ONNX = "onnx"
    TORCH = "torch"


def export(
    checkpoint: Annotated[Path, typer.Option(help="Checkpoint to read.")],
    form: Annotated[FormatName, typer.Option("--format", help="onnx, or torch for torch.export's archive (.pt2).")],
    out: Annotated[Path, typer.Option(help="File to write.")],
) -> None:
    """Write a checkpoint for other programs, checked against the network itself.

    Inputs: frames (B, H, W, 3) uint8 RGB at the checkpoint's size, windows (B, 15600) float32 in [-1, 1] at 16 kHz.
    Output: logits (B, K, h, w) float32. B is free.
    """
    from model.export import export_checkpoint

    with one_line_failures(), progress_bar("exporting", unit="steps") as show_progress:
        report = export_checkpoint(
            checkpoint,
            out,
            form=form.value,
            progress=show_progress,
        )
    typer.echo(
        f"wrote {report.path} ({report.num_bytes / 1e6:.1f} MB); largest difference from the network "
        f"{report.max_difference:.2g} (largest logit {report.max_logit:.3g})"
    )
