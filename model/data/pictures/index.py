"""Index of a folder of pictures and recordings: which files there are, what they show, and who may use them.

    ROOT/annotations.json            COCO: images (file_name, split, group), annotations (RLE or polygons, `ignore`)
    ROOT/pictures/                   the images
    ROOT/recordings/recordings.csv   file, kind, split, source, licence, seconds, group
    ROOT/cutouts.json, cutouts/      optional: [{file, kind, split}], RGBA pictures of single objects
    ROOT/backgrounds/                optional: pictures that show none of the kinds

A kind is the name of a category. A recording whose kind is no category (ambience) makes nothing sound.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

ANNOTATIONS = "annotations.json"
PICTURES = "pictures"
RECORDINGS = "recordings"
RECORDINGS_TABLE = "recordings.csv"
CUTOUTS, CUTOUTS_TABLE = "cutouts", "cutouts.json"
BACKGROUNDS = "backgrounds"
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
# COCO's exports have no split: everything is for training then.
DEFAULT_SPLIT = "train"
# Kinds whose engines cannot be told apart by ear: hearing one makes the pixels of all of them sound.
ALIKE_SOUNDING = (frozenset({"car", "bus", "motorcycle"}),)


class PicturesError(ValueError):
    """The folder is absent, incomplete or damaged; the message names the file."""


@dataclass(frozen=True)
class Region:
    """One annotated object.

    Attributes:
        kind: index into the index's kinds.
        segmentation: COCO's: compressed or uncompressed RLE, or polygons.
        is_ignored: these pixels count nowhere.
    """

    kind: int
    segmentation: Any
    is_ignored: bool


@dataclass(frozen=True, eq=False)
class Picture:
    """One annotated picture.

    Attributes:
        path: the file.
        height: pixels of the file, as are the masks'.
        width: likewise.
        split: `train` or `val`.
        group: pictures of one origin, such as frames of one film; never split.
        source: data set that the picture comes from, or empty.
        regions: its objects.
    """

    path: Path
    height: int
    width: int
    split: str
    group: str
    source: str
    regions: tuple[Region, ...]

    @cached_property
    def kinds(self) -> frozenset[int]:
        """Kinds with an object that counts."""
        return frozenset(region.kind for region in self.regions if not region.is_ignored)


@dataclass(frozen=True, eq=False)
class Recording:
    """One recording.

    Attributes:
        path: the file.
        kind: index into the index's kinds; None where nothing that is annotated sounds.
        name: its kind's name in the table.
        split: `train` or `val`.
        group: recordings of one origin; never split.
    """

    path: Path
    kind: int | None
    name: str
    split: str
    group: str


@dataclass(frozen=True, eq=False)
class Cutout:
    """A picture of one object with transparency; `kind` is None for an object that makes no sound."""

    path: Path
    kind: int | None
    split: str


@dataclass(frozen=True)
class PicturesIndex:
    """Everything in a folder.

    Attributes:
        kinds: names; the label of class 1 + i is kinds[i].
        pictures: of all splits, as are the others.
    """

    kinds: tuple[str, ...]
    pictures: tuple[Picture, ...]
    recordings: tuple[Recording, ...]
    cutouts: tuple[Cutout, ...]
    backgrounds: tuple[Path, ...]

    def heard(self, kind: int | None) -> frozenset[int]:
        """Kinds whose pixels sound while a recording of `kind` plays: itself and those that sound alike."""
        if kind is None:
            return frozenset()
        for names in ALIKE_SOUNDING:
            if self.kinds[kind] in names:
                return frozenset(number for number, name in enumerate(self.kinds) if name in names)
        return frozenset({kind})


def read_index(root: Path) -> PicturesIndex:
    """Read the tables; no picture or recording is opened.

    Raises:
        PicturesError: a table is absent or damaged, or names a category that does not exist.
    """
    annotations = _json(root / ANNOTATIONS)
    try:
        categories = sorted(annotations["categories"], key=lambda entry: int(entry["id"]))
        kinds = tuple(str(entry["name"]) for entry in categories)
        numbers = {int(entry["id"]): number for number, entry in enumerate(categories)}
        pictures = _pictures(root / PICTURES, annotations, numbers)
    except (KeyError, TypeError) as error:
        raise PicturesError(f"{ANNOTATIONS}: an entry lacks or misnames {error}") from error
    by_name = {name: number for number, name in enumerate(kinds)}
    backgrounds = root / BACKGROUNDS
    files = sorted(backgrounds.iterdir()) if backgrounds.is_dir() else []
    return PicturesIndex(
        kinds=kinds,
        pictures=pictures,
        recordings=_recordings(root / RECORDINGS, by_name),
        cutouts=_cutouts(root, by_name),
        backgrounds=tuple(path for path in files if path.suffix.lower() in PICTURE_SUFFIXES),
    )


def _pictures(folder: Path, annotations: Mapping[str, Any], numbers: Mapping[int, int]) -> tuple[Picture, ...]:
    regions: dict[int, list[Region]] = {}
    for entry in annotations["annotations"]:
        is_ignored = bool(entry.get("ignore", 0) or entry.get("iscrowd", 0))
        region = Region(numbers[entry["category_id"]], entry["segmentation"], is_ignored)
        regions.setdefault(entry["image_id"], []).append(region)
    return tuple(
        Picture(
            path=folder / entry["file_name"],
            height=entry["height"],
            width=entry["width"],
            split=entry.get("split", DEFAULT_SPLIT),
            group=entry.get("group", entry["file_name"]),
            source=entry.get("source", ""),
            regions=tuple(regions.get(entry["id"], ())),
        )
        for entry in annotations["images"]
    )


def _recordings(folder: Path, by_name: Mapping[str, int]) -> tuple[Recording, ...]:
    table = folder / RECORDINGS_TABLE
    try:
        with table.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return tuple(
            Recording(
                path=folder / row["file"],
                kind=by_name.get(row["kind"]),
                name=row["kind"],
                split=row.get("split") or DEFAULT_SPLIT,
                group=row.get("group") or row["file"],
            )
            for row in rows
        )
    except OSError as error:
        raise PicturesError(f"cannot read {RECORDINGS}/{RECORDINGS_TABLE}: {error.strerror}") from error
    except KeyError as error:
        raise PicturesError(f"{RECORDINGS}/{RECORDINGS_TABLE} has no column {error}") from error


def _cutouts(root: Path, by_name: Mapping[str, int]) -> tuple[Cutout, ...]:
    if not (root / CUTOUTS_TABLE).exists():
        return ()
    entries: Sequence[Mapping[str, Any]] = _json(root / CUTOUTS_TABLE)
    return tuple(
        Cutout(root / CUTOUTS / entry["file"], by_name.get(entry["kind"]), entry.get("split", DEFAULT_SPLIT))
        for entry in entries
    )


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PicturesError(f"cannot read {path.name}: {error.strerror}") from error
    except ValueError as error:
        raise PicturesError(f"{path.name} is not JSON: {error}") from error
