"""`avesformer evaluate`: measure a checkpoint on the synthetic world, on pictures with recordings, or on AVSBench."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from model.cli.parts import one_line_failures, print_table, progress_bar

if TYPE_CHECKING:
    import torch

    from model.network.checkpoint import Checkpoint

CLASSES_IN_TABLE = 12
ATTENTION_CLIPS = 8


class DataName(StrEnum):
    """Data sets that `evaluate` knows."""

    SYNTHETIC = "synthetic"
    PICTURES = "pictures"
    S4 = "avsbench-s4"
    MS3 = "avsbench-ms3"
    AVSS = "avsbench-avss"


class Split(StrEnum):
    """Splits of AVSBench."""

    TRAIN = "train"
    VAL = "val"
    TEST = "test"


def evaluate(
    data: Annotated[DataName, typer.Option(help="Data set.")] = DataName.SYNTHETIC,
    root: Annotated[Path | None, typer.Option(help="Folder of AVSBench, or of pictures.")] = None,
    split: Annotated[Split | None, typer.Option(help="Split (AVSBench: test, pictures: val).")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="File or shipped name; pictures: lite, else tiny.")] = None,
    num_clips: Annotated[int, typer.Option(min=2, help="Unseen synthetic clips.")] = 120,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the figures here.")] = None,
    attention: Annotated[bool, typer.Option("--attention", help="Also the entropy and spread of attention.")] = False,
    page: Annotated[Path | None, typer.Option(help="AVSBench: write a page of overlays (HTML) here.")] = None,
    robust: Annotated[
        bool,
        typer.Option(
            "--robust",
            help="False positives under silence, noise, off-screen sound; the drop. Pictures: also gain, 8 kHz, AAC.",
        ),
    ] = False,
    sheet: Annotated[Path | None, typer.Option(help="Pictures: write contact sheets (PNG) into this folder.")] = None,
    num_pictures: Annotated[int | None, typer.Option(min=1, help="At most so many pictures, evenly spread.")] = None,
    experts_only: Annotated[
        bool, typer.Option("--experts-only", help="Pictures: the product of kinds seen and kinds heard, a baseline.")
    ] = False,
) -> None:
    """Measure a checkpoint: JSON on stdout, a table on stderr. Figures of different protocols have different names."""
    from model.evaluation.picture_sheet import PicturesRun
    from model.inference import choose_device
    from model.network.checkpoint import SHIPPED_CHECKPOINT, load_checkpoint

    if data is not DataName.SYNTHETIC and root is None:
        raise typer.BadParameter("name the data folder with --root PATH", param_hint="--root")
    if attention and data is DataName.PICTURES:
        raise typer.BadParameter("is for the synthetic world and AVSBench", param_hint="--attention")
    if sheet is not None and data is not DataName.PICTURES:
        raise typer.BadParameter("choose --data pictures", param_hint="--sheet")
    if robust and data is DataName.SYNTHETIC:
        raise typer.BadParameter("choose --data pictures or avsbench-…", param_hint="--robust")
    with one_line_failures():
        default = SHIPPED_CHECKPOINT if data is DataName.PICTURES else Path("tiny")
        loaded = load_checkpoint(checkpoint or default)
        place = choose_device(device)
        part = split or (Split.VAL if data is DataName.PICTURES else Split.TEST)
        if root is None or data is DataName.SYNTHETIC:
            figures = _synthetic(loaded, num_clips, place)
        elif data is DataName.PICTURES:
            pictures = PicturesRun(root, part.value, num_pictures, robust, experts_only, sheet)
            with progress_bar("evaluating", unit="pictures") as show_progress:
                figures = pictures.measure(loaded, place, progress=show_progress)
        else:
            measure = _robust if robust else _avsbench
            figures = measure(loaded, data, root=root, split=part, device=place, page=page)
        if attention:
            figures["attention"] = _attention(loaded, data, root=root, split=part, device=place)
        answer = {"data": data.value, "checkpoint": loaded.digest, "world_version": loaded.world_version, **figures}
        text = json.dumps(answer, indent=2)
        if json_file is not None:
            json_file.write_text(text + "\n")
    print_table(_rows(figures))
    typer.echo(text)


def _synthetic(loaded: Checkpoint, num_clips: int, device: torch.device) -> dict[str, Any]:
    from model.data.synthetic import KINDS
    from model.evaluation.synthetic import evaluate_synthetic, segmenter

    if loaded.config.is_semantic and loaded.config.labels[1:] != KINDS:
        raise ValueError("this semantic checkpoint's labels are not the kinds of the synthetic world")
    with progress_bar("evaluating", unit="clips") as show_progress:
        return evaluate_synthetic(
            segmenter(loaded.build().to(device)),
            is_semantic=loaded.config.is_semantic,
            num_clips=num_clips,
            size_px=loaded.config.input_height,
            device=device,
            progress=show_progress,
        )


def _avsbench(
    loaded: Checkpoint, data: DataName, *, root: Path, split: Split, device: torch.device, page: Path | None
) -> dict[str, Any]:
    from model.data.avsbench.index import read_index, read_labels
    from model.data.avsbench.subsets import Subset
    from model.evaluation.avsbench import evaluate_avsbench
    from model.evaluation.overlay_page import OverlayPage

    subset = Subset(data.value.removeprefix("avsbench-"))
    clips = read_index(root, subset=subset, split=split.value)
    if subset.is_semantic and loaded.config.is_semantic and loaded.config.labels != read_labels(root, subset=subset):
        raise ValueError("the checkpoint's labels are not those of AVSS/label2idx.json")
    overlays = OverlayPage(loaded.config.labels, num_clips=len(clips)) if page is not None else None
    with progress_bar("evaluating", unit="clips") as show_progress:
        figures = evaluate_avsbench(
            loaded.build().to(device),
            clips,
            size_px=loaded.config.input_height,
            device=device,
            progress=show_progress,
            show=overlays.show if overlays is not None else None,
        )
    if overlays is not None and page is not None:
        overlays.write(page, title=f"{data.value} {split.value}, {loaded.digest[:19]}")
    return {"split": split.value, **figures}


def _robust(
    loaded: Checkpoint, data: DataName, *, root: Path, split: Split, device: torch.device, page: Path | None
) -> dict[str, Any]:
    from model.data.avsbench.index import read_index
    from model.data.avsbench.subsets import Subset
    from model.evaluation.robust import evaluate_robust

    if page is not None:
        raise ValueError("--robust draws no overlays; leave --page out")
    clips = read_index(root, subset=Subset(data.value.removeprefix("avsbench-")), split=split.value)
    with progress_bar("evaluating", unit="clips") as show_progress:
        figures = evaluate_robust(
            loaded.build().to(device),
            clips,
            size_px=loaded.config.input_height,
            device=device,
            progress=show_progress,
        )
    return {"split": split.value, "robust": figures}


def _attention(
    loaded: Checkpoint, data: DataName, *, root: Path | None, split: Split, device: torch.device
) -> dict[str, dict[str, float]]:
    """Of some clips of the data, by transformer block."""
    import torch

    from model.data.avsbench.clip import read_clip
    from model.data.avsbench.index import read_index
    from model.data.avsbench.subsets import Subset
    from model.evaluation.synthetic import FIRST_EVALUATION_SEED, attention_figures, evaluation_batches
    from model.network.preprocess import window_log_mel

    size_px = loaded.config.input_height
    if root is None or data is DataName.SYNTHETIC:
        batch = next(
            evaluation_batches(ATTENTION_CLIPS, samples_per_clip=1, size_px=size_px, first_seed=FIRST_EVALUATION_SEED)
        )
        frames, log_mel = batch.frames, window_log_mel(batch.windows)
    else:
        files = read_index(root, subset=Subset(data.value.removeprefix("avsbench-")), split=split.value)
        classes = max(2, len(loaded.config.labels))
        clips = [read_clip(entry, size_px=size_px, num_classes=classes) for entry in files[:ATTENTION_CLIPS]]
        frames, log_mel = (
            torch.cat([clip.frames[:1] for clip in clips]),
            torch.cat([clip.log_mel[:1] for clip in clips]),
        )
    blocks = attention_figures(loaded.build().to(device), frames.to(device), log_mel.to(device))
    return {f"block_{number}": values for number, values in enumerate(blocks)}


def _rows(figures: dict[str, Any], prefix: str = "") -> list[tuple[str, object]]:
    """Nested figures as lines; long tables of classes end with how many more the JSON holds."""
    rows: list[tuple[str, object]] = []
    for name, value in figures.items():
        if not isinstance(value, dict):
            rows.append((f"{prefix}{name}", value))
            continue
        below = _rows(value, f"{prefix}{name}.")
        if name == "per_class" and len(value) > CLASSES_IN_TABLE:
            num_columns = len(below) // len(value)
            rows += below[: CLASSES_IN_TABLE * num_columns]
            rows.append((f"{prefix}{name}", f"{len(value) - CLASSES_IN_TABLE} more classes in the JSON"))
        else:
            rows += below
    return rows
