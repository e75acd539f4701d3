"""AVSBench on disk: which files belong to which clip, for S4, MS3 and AVSS.

The layout is the one that AVSBench's own loaders read (OpenNLPLab/AVSBench). Nothing here opens a picture or a sound.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from model.network.config import BACKGROUND, SOUNDING

SPLITS = ("train", "val", "test")


class Subset(StrEnum):
    """The three parts of AVSBench."""

    S4 = "s4"
    MS3 = "ms3"
    AVSS = "avss"

    @property
    def is_semantic(self) -> bool:
        """AVSS names its masks; S4 and MS3 do not."""
        return self is Subset.AVSS


# Clips per split as usually stated; not checked on the files by us, so a difference is a note and no fault.
UNVERIFIED_COUNTS: Mapping[Subset, Mapping[str, int]] = {
    Subset.S4: {"train": 3452, "val": 740, "test": 740},
    Subset.MS3: {"train": 296, "val": 64, "test": 64},
    Subset.AVSS: {"train": 8498, "val": 1304, "test": 1554},
}
# Frames of each kind of AVSS clip: v1s and v1m come from S4 and MS3 (5 s), v2 is new (10 s).
AVSS_FRAMES: Mapping[str, int] = {"v1s": 5, "v1m": 5, "v2": 10}
NUM_SHORT_FRAMES = 5
# The length to which AVSBench's loaders pad AVSS clips.
AVSS_PADDED_FRAMES = 10


@dataclass(frozen=True)
class ClipFiles:
    """The files of one clip; none is known to exist.

    Attributes:
        uid: the clip's name.
        subset: the part of AVSBench.
        split: train, val or test.
        category: S4's category, AVSS's v1s, v1m or v2, or empty.
        frames: T pictures, one per second.
        labels: T label pictures, None where the field has no label.
        log_mel: converted log-mel examples (`avesformer data convert`).
        pickled: the log-mel file as published, or None for AVSS, which has none.
        wav: the sound.
    """

    uid: str
    subset: Subset
    split: str
    category: str
    frames: tuple[Path, ...]
    labels: tuple[Path | None, ...]
    log_mel: Path
    pickled: Path | None
    wav: Path


def read_index(root: Path, *, subset: Subset, split: str) -> list[ClipFiles]:
    """The clips of a split, in the order of the metadata file.

    Args:
        root: the folder that holds Single-source, Multi-sources or AVSS.
        subset: the part of AVSBench.
        split: train, val or test.

    Raises:
        ValueError: no metadata file, a column missing in it, or a name in it that is no plain file name.
    """
    if split not in SPLITS:
        raise ValueError(f"split: got {split!r}, expected one of {', '.join(SPLITS)}")
    make = {Subset.S4: _s4_clip, Subset.MS3: _ms3_clip, Subset.AVSS: _avss_clip}[subset]
    return [make(root, row, split) for row in _rows(metadata_path(root, subset=subset)) if row.get("split") == split]


def metadata_path(root: Path, *, subset: Subset) -> Path:
    """The file that lists a subset's clips."""
    return (
        root
        / {
            Subset.S4: Path("Single-source/s4_meta_data.csv"),
            Subset.MS3: Path("Multi-sources/ms3_meta_data.csv"),
            Subset.AVSS: Path("AVSS/metadata.csv"),
        }[subset]
    )


def read_labels(root: Path, *, subset: Subset) -> tuple[str, ...]:
    """Labels of the model, the background first where there are several.

    AVSS's come from AVSS/label2idx.json; published copies count from 0 or from 1, and both are read.

    Raises:
        ValueError: the file is missing, or its numbers are not consecutive with the background first.
    """
    if not subset.is_semantic:
        return SOUNDING
    path = root / "AVSS" / "label2idx.json"
    try:
        numbers = {str(name): int(number) for name, number in json.loads(path.read_text()).items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"cannot read the class names in {path}: {error}") from error
    names = sorted(numbers, key=numbers.__getitem__)
    first = min(numbers.values(), default=0)
    if [numbers[name] for name in names] != list(range(first, first + len(names))) or first not in (0, 1):
        raise ValueError(f"{path}: expected consecutive numbers from 0 or 1")
    if len(names) < 2 or names[0].lower() != BACKGROUND:
        raise ValueError(f"{path}: expected {BACKGROUND!r} first and at least one class after it")
    return (BACKGROUND, *names[1:])


def _rows(path: Path) -> list[dict[str, str]]:
    """Rows of a metadata file, with `#0`, `#1`, ... beside the column names: S4 and MS3 are read by position."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *lines = list(csv.reader(file)) or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"cannot read the list of clips {path}: {error}") from error
    if "split" not in header:
        raise ValueError(f"{path}: got columns {', '.join(header) or 'none'}, expected one named split")
    by_name = [dict(zip(header, line, strict=False)) for line in lines if line]
    by_place = [{f"#{place}": value for place, value in enumerate(line)} for line in lines if line]
    return [{**place, **name} for place, name in zip(by_place, by_name, strict=True)]


def _name(row: Mapping[str, str], column: str) -> str:
    """A field that becomes part of a path: a plain name and nothing that leads elsewhere."""
    value = row.get(column, "")
    if not value or value in (".", "..") or any(character in value for character in "/\\\0"):
        raise ValueError(f"metadata: got {value!r} in column {column}, expected a plain file name")
    return value


def _s4_clip(root: Path, row: Mapping[str, str], split: str) -> ClipFiles:
    base = root / "Single-source" / "s4_data"
    uid, category = _name(row, "#0"), _name(row, "#2")
    below = Path(split, category)
    # Training labels exist for the first frame only.
    num_labels = 1 if split == "train" else NUM_SHORT_FRAMES
    numbers = range(1, NUM_SHORT_FRAMES + 1)
    return ClipFiles(
        uid=uid,
        subset=Subset.S4,
        split=split,
        category=category,
        frames=tuple(base / "visual_frames" / below / uid / f"{uid}_{n}.png" for n in numbers),
        labels=tuple(base / "gt_masks" / below / uid / f"{uid}_{n}.png" if n <= num_labels else None for n in numbers),
        log_mel=base / "audio_log_mel" / below / f"{uid}.npy",
        pickled=base / "audio_log_mel" / below / f"{uid}.pkl",
        wav=base / "audio_wav" / below / f"{uid}.wav",
    )


def _ms3_clip(root: Path, row: Mapping[str, str], split: str) -> ClipFiles:
    base = root / "Multi-sources" / "ms3_data"
    uid = _name(row, "#0")
    numbers = range(1, NUM_SHORT_FRAMES + 1)
    return ClipFiles(
        uid=uid,
        subset=Subset.MS3,
        split=split,
        category="",
        frames=tuple(base / "visual_frames" / uid / f"{uid}.mp4_{n}.png" for n in numbers),
        labels=tuple(base / "gt_masks" / split / uid / f"{uid}_{n}.png" for n in numbers),
        log_mel=base / "audio_log_mel" / split / f"{uid}.npy",
        pickled=base / "audio_log_mel" / split / f"{uid}.pkl",
        wav=base / "audio_wav" / split / f"{uid}.wav",
    )


def _avss_clip(root: Path, row: Mapping[str, str], split: str) -> ClipFiles:
    uid, origin = _name(row, "uid"), _name(row, "label")
    if origin not in AVSS_FRAMES:
        raise ValueError(f"metadata: got label {origin!r} for {uid}, expected one of {', '.join(AVSS_FRAMES)}")
    base = root / "AVSS" / origin / uid
    num_frames = AVSS_FRAMES[origin]
    # v1s are S4's clips: in training only the first frame is labelled, elsewhere all five.
    num_labels = 1 if origin == "v1s" and split == "train" else num_frames
    return ClipFiles(
        uid=uid,
        subset=Subset.AVSS,
        split=split,
        category=origin,
        frames=tuple(base / "frames" / f"{n}.jpg" for n in range(num_frames)),
        labels=tuple(base / "labels_semantic" / f"{n}.png" if n < num_labels else None for n in range(num_frames)),
        log_mel=base / "log_mel.npy",
        pickled=None,
        wav=base / "audio.wav",
    )
