"""The files of each AVSBench clip, for S4, MS3 and AVSS. Opens no picture and no sound.

File names are those that AVSBench's own loaders read (OpenNLPLab/AVSBench); `layout.py` finds the folders.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from model.data.avsbench.layout import find_layout, frames_folder
from model.data.avsbench.subsets import AVSS_FRAMES, NUM_SHORT_FRAMES, SPLITS, Subset
from model.network.config import BACKGROUND, SOUNDING


@dataclass(frozen=True)
class ClipFiles:
    """Paths of one clip's files. They need not exist.

    Attributes:
        uid: name of the clip.
        subset: subset of AVSBench.
        split: train, val or test.
        category: S4's category, AVSS's v1s, v1m or v2, or empty.
        frames: T pictures, one per second.
        labels: T label pictures, None for frames that AVSBench does not label.
        log_mel: converted log-mel examples (`avesformer data convert`).
        pickled: the published log-mel file, or None for AVSS, which has none.
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
    """Return the clips of a split, in the order of the metadata file.

    Args:
        root: folder that holds the subset, in a layout of `layout.py`.
        subset: subset of AVSBench.
        split: train, val or test.

    Raises:
        ValueError: there is no metadata file, a column is missing in it, or a name in it is not a plain file name.
    """
    if split not in SPLITS:
        raise ValueError(f"split: got {split!r}, expected one of {', '.join(SPLITS)}")
    layout = find_layout(root, subset=subset)
    make = {Subset.S4: _s4_clip, Subset.MS3: _ms3_clip, Subset.AVSS: _avss_clip}[subset]
    return [make(layout.folder, row, split) for row in _rows(layout.metadata) if row.get("split") == split]


def read_labels(root: Path, *, subset: Subset) -> tuple[str, ...]:
    """Return the model's labels; of several the background is the first.

    AVSS's labels come from label2idx.json. Published copies count from 0 or from 1; both are read.

    Raises:
        ValueError: the file is missing, or its numbers are not consecutive with the background first.
    """
    if not subset.is_semantic:
        return SOUNDING
    path = find_layout(root, subset=subset).folder / "label2idx.json"
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
    """Return the rows of a metadata file by column name and, for S4 and MS3, by position (`#0`, `#1`, ...)."""
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
    """Return a field that becomes part of a path; raises ValueError for anything but a plain file name."""
    value = row.get(column, "")
    if not value or value in (".", "..") or any(character in value for character in "/\\\0"):
        raise ValueError(f"metadata: got {value!r} in column {column}, expected a plain file name")
    return value


def _s4_clip(folder: Path, row: Mapping[str, str], split: str) -> ClipFiles:
    base = folder / "s4_data"
    pictures = frames_folder(base, name="visual_frames")
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
        frames=tuple(pictures / below / uid / f"{uid}_{n}.png" for n in numbers),
        labels=tuple(base / "gt_masks" / below / uid / f"{uid}_{n}.png" if n <= num_labels else None for n in numbers),
        log_mel=base / "audio_log_mel" / below / f"{uid}.npy",
        pickled=base / "audio_log_mel" / below / f"{uid}.pkl",
        wav=base / "audio_wav" / below / f"{uid}.wav",
    )


def _ms3_clip(folder: Path, row: Mapping[str, str], split: str) -> ClipFiles:
    base = folder / "ms3_data"
    pictures = frames_folder(base, name="visual_frames")
    uid = _name(row, "#0")
    numbers = range(1, NUM_SHORT_FRAMES + 1)
    return ClipFiles(
        uid=uid,
        subset=Subset.MS3,
        split=split,
        category="",
        frames=tuple(pictures / uid / f"{uid}.mp4_{n}.png" for n in numbers),
        labels=tuple(base / "gt_masks" / split / uid / f"{uid}_{n}.png" for n in numbers),
        log_mel=base / "audio_log_mel" / split / f"{uid}.npy",
        pickled=base / "audio_log_mel" / split / f"{uid}.pkl",
        wav=base / "audio_wav" / split / f"{uid}.wav",
    )


def _avss_clip(folder: Path, row: Mapping[str, str], split: str) -> ClipFiles:
    uid, origin = _name(row, "uid"), _name(row, "label")
    if origin not in AVSS_FRAMES:
        raise ValueError(f"metadata: got label {origin!r} for {uid}, expected one of {', '.join(AVSS_FRAMES)}")
    base = folder / origin / uid
    pictures = frames_folder(base, name="frames")
    num_frames = AVSS_FRAMES[origin]
    # v1s are S4's clips: in training only the first frame is labelled, elsewhere all five.
    num_labels = 1 if origin == "v1s" and split == "train" else num_frames
    return ClipFiles(
        uid=uid,
        subset=Subset.AVSS,
        split=split,
        category=origin,
        frames=tuple(pictures / f"{n}.jpg" for n in range(num_frames)),
        labels=tuple(base / "labels_semantic" / f"{n}.png" if n < num_labels else None for n in range(num_frames)),
        log_mel=base / "log_mel.npy",
        pickled=None,
        wav=base / "audio.wav",
    )
