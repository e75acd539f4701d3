"""Many clips at once: folders and patterns, one result a clip, a record of what is done, a table at the end."""

from __future__ import annotations

import glob
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from service.cli.output_files import SUFFIXES
from service.client.answer import Answer
from service.domain.errors import ServiceError

CLIP_SUFFIXES = (".mp4", ".mov", ".m4v", ".3gp", ".3g2")
RECORD_NAME = "batch.jsonl"
_STDOUT = Path("-")


@dataclass(frozen=True, slots=True)
class Clip:
    """A clip to segment. `name` is its result's path below the output folder, without an end."""

    path: Path
    name: Path


@dataclass(frozen=True, slots=True)
class Targets:
    """Output files of one clip; None for a result that is not written."""

    answer: Path | None
    overlay: Path | None


def find_clips(arguments: Iterable[Path]) -> list[Clip]:
    """Return the clips that arguments name: files, folders (searched through, in order), patterns such as `a/*.mp4`.

    Raises:
        ServiceError: `bad_option`, an argument names nothing.
    """
    found: dict[Path, Clip] = {}
    for argument in arguments:
        for clip in _clips_of(argument):
            found.setdefault(clip.path, clip)
    return list(found.values())


def _clips_of(argument: Path) -> list[Clip]:
    if argument.is_dir():
        files = sorted(path for path in argument.rglob("*") if path.suffix.lower() in CLIP_SUFFIXES and path.is_file())
        if not files:
            raise ServiceError("bad_option", f"{argument} holds no clip ({', '.join(CLIP_SUFFIXES)}).")
        return [Clip(path, path.relative_to(argument).with_suffix("")) for path in files]
    if not argument.exists() and glob.has_magic(str(argument)):
        files = sorted(Path(path) for path in glob.glob(str(argument), recursive=True) if Path(path).is_file())
        if not files:
            raise ServiceError("bad_option", f"No file fits {argument}.")
        return [Clip(path, Path(path.stem)) for path in files]
    return [Clip(argument, Path(argument.stem))]


def plan_targets(
    clips: list[Clip], output: Path | None, overlay: Path | None, *, form: str, is_batch: bool
) -> dict[Path, Targets]:
    """Return the output files by clip; for one clip `output` and `overlay` are files, for a batch folders.

    Raises:
        ServiceError: `bad_option`, results would overwrite each other or their clip.
    """
    default = None if overlay else _STDOUT
    if not is_batch:
        targets = {clips[0].path: Targets(output or default, overlay)}
    else:
        if len({clip.name for clip in clips}) < len(clips):
            raise ServiceError("bad_option", "Two clips have the same name; their results would overwrite each other.")
        answers = [_inside(output, clip.name, SUFFIXES[form]) or default for clip in clips]
        overlays = [_inside(overlay, clip.name, ".mp4") for clip in clips]
        targets = {clip.path: Targets(*files) for clip, *files in zip(clips, answers, overlays, strict=True)}
    for clip, target in targets.items():
        if any(path is not None and path.resolve() == clip.resolve() for path in (target.answer, target.overlay)):
            raise ServiceError("bad_option", f"{clip} would be overwritten by its result; choose another name.")
    return targets


def _inside(folder: Path | None, name: Path, suffix: str) -> Path | None:
    if folder is None or folder == _STDOUT:
        return folder
    return folder / f"{name}{suffix}"


@dataclass(frozen=True, slots=True)
class Row:
    """What came of one clip; `status` is done, skipped or the reason of a failure."""

    clip: str
    status: str
    num_samples: int = 0
    num_events: int = 0
    seconds: float = 0.0


class BatchRecord:
    """The file `batch.jsonl` in the output folder: a line for each clip that is done, with its size, time and settings.

    Args:
        folder: output folder; None keeps no record.
        settings: what results depend on; a clip that was done with other settings is done again.
    """

    def __init__(self, folder: Path | None, settings: dict[str, Any]) -> None:
        self._path = None if folder is None or folder == _STDOUT else folder / RECORD_NAME
        self._settings = settings
        self._done = self._read()

    def has(self, clip: Path, target: Targets) -> bool:
        """Return whether the clip is done: same file, same settings, and its results are there."""
        if not clip.exists():
            return False
        results = [path for path in (target.answer, target.overlay) if path is not None]
        return self._key(clip) in self._done and all(path.exists() for path in results)

    def add(self, clip: Path) -> None:
        """Record a clip whose results are written."""
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(self._key(clip) + "\n")

    def _key(self, clip: Path) -> str:
        status = clip.stat()
        known = {"clip": str(clip.resolve()), "size": status.st_size, "mtime_ns": status.st_mtime_ns}
        return json.dumps({**known, "settings": self._settings}, sort_keys=True)

    def _read(self) -> frozenset[str]:
        if self._path is None or not self._path.exists():
            return frozenset()
        return frozenset(self._path.read_text(encoding="utf-8").splitlines())


class Summary:
    """Counts what came of each clip and prints a table on stderr."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self._since_s = time.monotonic()

    def start(self) -> None:
        """Note the time at which a clip begins."""
        self._since_s = time.monotonic()

    def done(self, clip: Path, answer: Answer) -> None:
        """Count a clip whose results are written."""
        seconds = time.monotonic() - self._since_s
        self.rows.append(Row(str(clip), "done", len(answer.frames), len(answer.events), round(seconds, 2)))

    def skipped(self, clip: Path) -> None:
        """Count a clip that was done before."""
        self.rows.append(Row(str(clip), "skipped"))

    def failed(self, clip: Path, reason: str) -> None:
        """Count a clip without a result."""
        self.rows.append(Row(str(clip), reason))

    @property
    def num_failed(self) -> int:
        """Clips without a result."""
        return sum(row.status not in ("done", "skipped") for row in self.rows)

    def show(self) -> None:
        """Print the table."""
        table = Table("clip", "status", "samples", "events", "seconds")
        for row in self.rows:
            numbers = (row.num_samples, row.num_events, row.seconds) if row.status == "done" else ("", "", "")
            table.add_row(row.clip, row.status, *map(str, numbers))
        console = Console(stderr=True)
        console.print(table)
        num_done = sum(row.status == "done" for row in self.rows)
        num_skipped = len(self.rows) - num_done - self.num_failed
        console.print(f"{num_done} done, {num_skipped} skipped, {self.num_failed} failed")
