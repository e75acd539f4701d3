"""`avesformer data`: check data sets, convert AVSBench's sound so that no pickle is read again, write shards."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from model.cli.parts import console, one_line_failures, progress_bar

if TYPE_CHECKING:
    from model.data.avsbench.check import SplitReport

NAMED = 10  # of missing files and faults, per split, in the table; the JSON has all

app = typer.Typer(no_args_is_help=True, help="Verify or convert data sets; write clips that went through codecs.")


class DataName(StrEnum):
    """Parts of AVSBench."""

    S4 = "avsbench-s4"
    MS3 = "avsbench-ms3"
    AVSS = "avsbench-avss"


class CheckedName(StrEnum):
    """Data sets that can be checked."""

    PICTURES = "pictures"
    S4 = "avsbench-s4"
    MS3 = "avsbench-ms3"
    AVSS = "avsbench-avss"


Data = Annotated[DataName, typer.Option(help="Part of AVSBench.")]
Root = Annotated[Path, typer.Option(help="Folder that holds Single-source, Multi-sources or AVSS.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Also write the report here.")]


@app.command()
def verify(
    data: Annotated[CheckedName, typer.Option(help="Data set.")],
    root: Annotated[Path, typer.Option(help="Folder of AVSBench (Single-source, …), or of annotations.json.")],
    json_file: JsonFile = None,
) -> None:
    """Count clips per split, or pictures and recordings per kind; exit code 1 where something is missing."""
    if data is CheckedName.PICTURES:
        _verify_pictures(root, json_file)
        return
    from model.data.avsbench.check import verify as check
    from model.data.avsbench.subsets import Subset

    with one_line_failures():
        with progress_bar("verifying", unit="clips") as show_progress:
            reports = check(
                root,
                subset=Subset(data.value.removeprefix("avsbench-")),
                progress=show_progress,
            )
        if json_file is not None:
            plain = {split: report.to_dict() for split, report in reports.items()}
            json_file.write_text(json.dumps(plain, indent=2) + "\n")
    for split, report in reports.items():
        _describe(split, report)
    if any(report.missing or report.faults for report in reports.values()):
        raise typer.Exit(1)
    if not any(report.num_listed for report in reports.values()):
        console.print("error: no clips are listed")
        raise typer.Exit(1)


def _verify_pictures(root: Path, json_file: Path | None) -> None:
    from model.data.pictures.check import verify as check

    with one_line_failures():
        with progress_bar("verifying", unit="files") as show_progress:
            report = check(root, progress=show_progress)
        if json_file is not None:
            json_file.write_text(json.dumps(report.to_dict(), indent=2) + "\n")
    for name, counts in (("pictures", report.pictures), ("recordings", report.recordings)):
        typer.echo(f"{name}: " + ", ".join(f"{key} {count}" for key, count in sorted(counts.items())))
    typer.echo(f"cut-outs: {report.num_cutouts}, backgrounds: {report.num_backgrounds}")
    _name("unusable", report.faults)
    _name("gap", report.gaps)
    if report.faults:
        raise typer.Exit(1)


@app.command()
def convert(data: Data, root: Root, json_file: JsonFile = None) -> None:
    """Write each clip's log-mel as .npy: from the published pickle, read without running it, or from the wav."""
    from model.data.avsbench.check import convert as write
    from model.data.avsbench.subsets import Subset

    with one_line_failures():
        with progress_bar("converting", unit="clips") as show_progress:
            report: dict[str, Any] = write(
                root,
                subset=Subset(data.value.removeprefix("avsbench-")),
                progress=show_progress,
            )
        if json_file is not None:
            json_file.write_text(json.dumps(report, indent=2) + "\n")
    typer.echo(
        f"converted {report['num_from_pickle']} from pickles and {report['num_from_wav']} from wav files, "
        f"left {report['num_kept']} as they were, {len(report['faults'])} failed"
    )
    _name("failed", report["faults"])
    if report["faults"]:
        raise typer.Exit(1)


@app.command()
def shards(
    out: Annotated[Path, typer.Option(help="Folder to write; shards that are there are kept.")],
    num: Annotated[int, typer.Option(min=1, help="Shards of 16 clips, 96 samples: 13 MB each at 160 px.")] = 32,
    size: Annotated[int, typer.Option(min=32, help="Frame height and width in pixels, a multiple of 16.")] = 160,
    first: Annotated[int, typer.Option(min=0, help="Number of the first shard; it decides the clips.")] = 0,
) -> None:
    """Write clips as H.264 with AAC or MP3, read back: `train tiny-synthetic --set shards=OUT` mixes them in."""
    from model.data.shards import write_shards

    with one_line_failures(), progress_bar("shards", unit="clips") as show_progress:
        paths = write_shards(
            out,
            num=num,
            size_px=size,
            first=first,
            progress=show_progress,
        )
    typer.echo(f"{len(paths)} shards in {out}")


def _describe(split: str, report: SplitReport) -> None:
    line = (
        f"{split}: {report.num_listed} clips listed, {report.num_complete} complete, {report.num_converted} converted"
    )
    if report.num_listed != report.usual_count:
        line += f" (AVSBench is said to have {report.usual_count}; unverified)"
    typer.echo(line)
    _name("missing", report.missing)
    _name("unusable", report.faults)


def _name(what: str, entries: list[str]) -> None:
    for entry in entries[:NAMED]:
        typer.echo(f"  {what}: {entry}")
    if len(entries) > NAMED:
        typer.echo(f"  {what}: {len(entries) - NAMED} more; --json FILE has them all")
