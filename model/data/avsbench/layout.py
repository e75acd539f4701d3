"""Finding AVSBench's folders on disk: the published layout and those that later code bases use.

| part | published | also accepted |
|---|---|---|
| S4 | `Single-source/` | the same below `AVSBench_object/` or `AVSBench/`, or as the root itself |
| MS3 | `Multi-sources/`, `ms3_meta_data.csv` | likewise; `ms3_time.csv` |
| AVSS | `AVSS/` | `AVSBench_semantic/`, `AVSBench/AVSS/`, or the root itself |

Frames may lie in `processed_frames` instead of `visual_frames` (S4, MS3) or `frames` (AVSS).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from model.data.avsbench.subsets import Subset

_FOLDERS: Mapping[Subset, tuple[str, ...]] = {
    Subset.S4: ("Single-source", "AVSBench_object/Single-source", "AVSBench/Single-source", "."),
    Subset.MS3: ("Multi-sources", "AVSBench_object/Multi-sources", "AVSBench/Multi-sources", "."),
    Subset.AVSS: ("AVSS", "AVSBench_semantic", "AVSBench/AVSS", "."),
}
_METADATA: Mapping[Subset, tuple[str, ...]] = {
    Subset.S4: ("s4_meta_data.csv",),
    Subset.MS3: ("ms3_meta_data.csv", "ms3_time.csv"),
    Subset.AVSS: ("metadata.csv",),
}
_OTHER_FRAMES = "processed_frames"
# Bounds of the search for the nearest thing: names of clips would drown it, so it stays near the root.
_SEARCH_DEPTH = 3
_MAX_SEARCHED = 5_000
_LEAST_LIKENESS = 0.6


@dataclass(frozen=True)
class Layout:
    """Where one subset lies.

    Attributes:
        folder: the subset's folder, such as ROOT/Single-source.
        metadata: the CSV file that lists its clips.
    """

    folder: Path
    metadata: Path


def find_layout(root: Path, *, subset: Subset) -> Layout:
    """Return where a subset lies below `root`.

    Raises:
        ValueError: its list of clips was not found. The message names what was looked for and the nearest thing found.
    """
    for folder in _FOLDERS[subset]:
        for name in _METADATA[subset]:
            if (root / folder / name).is_file():
                return Layout(root / folder, root / folder / name)
    looked_for = [str(Path(folder, name)) for folder in _FOLDERS[subset] for name in _METADATA[subset]]
    raise ValueError(
        f"cannot find the list of clips of {subset.value} below {root}: looked for {', '.join(looked_for)}; "
        f"{_nearest(root, subset)}"
    )


def frames_folder(base: Path, *, name: str) -> Path:
    """Return `base/name`, or `base/processed_frames` where only that exists."""
    published, other = base / name, base / _OTHER_FRAMES
    return other if other.is_dir() and not published.is_dir() else published


def _nearest(root: Path, subset: Subset) -> str:
    """Describe what lies near the root: a file or folder of a like name, else the names of the first level."""
    if not root.is_dir():
        return "the root is not a folder"
    wanted = [*_METADATA[subset], *(Path(folder).name for folder in _FOLDERS[subset] if folder != ".")]
    best, likeness = None, _LEAST_LIKENESS
    for path in _below(root):
        ratio = max(difflib.SequenceMatcher(None, path.name.lower(), name.lower()).ratio() for name in wanted)
        if ratio > likeness:
            best, likeness = path, ratio
    if best is not None:
        return f"the nearest thing found is {best.relative_to(root)}"
    names = sorted(path.name for path in root.iterdir())[:8]
    return f"the root holds {', '.join(names)}" if names else "the root is empty"


def _below(root: Path) -> Iterator[Path]:
    """Yield files and folders below the root, level by level, up to the search's bounds."""
    level, num_searched = [root], 0
    for _ in range(_SEARCH_DEPTH):
        following: list[Path] = []
        for folder in level:
            for path in sorted(folder.iterdir()):
                num_searched += 1
                if num_searched > _MAX_SEARCHED:
                    return
                yield path
                if path.is_dir():
                    following.append(path)
        level = following
