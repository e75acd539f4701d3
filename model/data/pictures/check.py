"""Open every file of a folder of pictures and recordings, and count kinds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from model.data.pictures.frames import read_cutout, read_frame, read_picture
from model.data.pictures.index import Cutout, Picture, PicturesError, PicturesIndex, Recording, read_index
from model.data.pictures.recordings import read_recording

Progress = Callable[[int, int], None]


@dataclass
class PicturesReport:
    """What a folder holds.

    Attributes:
        pictures: number of readable pictures by split and kind, as `train/dog`.
        recordings: number of readable recordings, likewise; `train/ambience` and the like make nothing sound.
        num_cutouts: readable cut-outs.
        num_backgrounds: readable backgrounds.
        faults: files that cannot be used, with the reason.
        gaps: kinds that cannot be learned, with the reason.
    """

    pictures: Counter[str] = field(default_factory=Counter)
    recordings: Counter[str] = field(default_factory=Counter)
    num_cutouts: int = 0
    num_backgrounds: int = 0
    faults: list[str] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def verify(root: Path, *, progress: Progress | None = None) -> PicturesReport:
    """Open every file.

    Args:
        root: folder as `model.data.pictures.index` describes it.
        progress: called with the numbers of files done and of all files.

    Returns:
        The report; `faults` is empty for a complete folder.

    Raises:
        PicturesError: a table is absent or damaged.
    """
    index, report = read_index(root), PicturesReport()
    # The files themselves are checked, not what an earlier read of them returned.
    read_frame.cache_clear()
    checks: list[Callable[[], None]] = [
        *(partial(_picture, entry, index, report) for entry in index.pictures),
        *(partial(_recording, entry, report) for entry in index.recordings),
        *(partial(_cutout, entry, report) for entry in index.cutouts),
        *(partial(_background, path, report) for path in index.backgrounds),
    ]
    for done, check in enumerate(checks, start=1):
        try:
            check()
        except PicturesError as error:
            report.faults.append(str(error))
        if progress is not None:
            progress(done, len(checks))
    report.gaps = _gaps(index, report)
    return report


def _gaps(index: PicturesIndex, report: PicturesReport) -> list[str]:
    pasted = {entry.kind for entry in index.cutouts if entry.split == "train"}
    gaps = []
    for number, kind in enumerate(index.kinds):
        if not report.pictures[f"train/{kind}"] and number not in pasted:
            gaps.append(f"{kind}: no picture or cut-out for training")
        if not report.recordings[f"train/{kind}"]:
            gaps.append(f"{kind}: no recording for training")
    return gaps


def _picture(entry: Picture, index: PicturesIndex, report: PicturesReport) -> None:
    read_picture(entry)
    report.pictures.update(f"{entry.split}/{index.kinds[kind]}" for kind in entry.kinds)


def _recording(entry: Recording, report: PicturesReport) -> None:
    if not len(read_recording(entry.path)):
        raise PicturesError(f"{entry.path.name} has no samples")
    report.recordings[f"{entry.split}/{entry.name}"] += 1


def _cutout(entry: Cutout, report: PicturesReport) -> None:
    read_cutout(entry)
    report.num_cutouts += 1


def _background(path: Path, report: PicturesReport) -> None:
    read_frame(path)
    report.num_backgrounds += 1
