"""`avesformer data verify` and `avesformer data convert`: check an AVSBench tree, convert its sound."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from model.data.avsbench.clip import examples_of_wav, label_path, read_clip
from model.data.avsbench.index import ClipFiles, read_index, read_labels
from model.data.avsbench.pickles import PickleError, read_pickled_log_mel
from model.data.avsbench.subsets import SPLITS, UNVERIFIED_COUNTS, Subset

# Clips of each split that are read in full, so that wrong picture modes and class numbers are found before training.
NUM_TRIED_CLIPS = 2
TRIED_SIZE_PX = 224

Progress = Callable[[int, int], None]


@dataclass
class SplitReport:
    """Counts and faults of one split.

    Attributes:
        num_listed: clips in the metadata.
        num_complete: clips with every file in place.
        num_converted: clips whose log-mel examples are converted.
        usual_count: the number usually stated for AVSBench, not verified by us.
        missing: files that are not there, relative to the root.
        faults: files that exist and cannot be used, with the reason.
    """

    num_listed: int = 0
    num_complete: int = 0
    num_converted: int = 0
    usual_count: int = 0
    missing: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-serialisable values."""
        return dict(vars(self))


def verify(root: Path, *, subset: Subset, progress: Progress | None = None) -> dict[str, SplitReport]:
    """Count the clips of each split and list missing and unusable files.

    Args:
        root: the folder that holds Single-source, Multi-sources or AVSS.
        subset: the part of AVSBench.
        progress: called with clips done and in all.

    Returns:
        A report per split. A split with no clips is reported as empty.

    Raises:
        ValueError: the metadata or the class names cannot be read.
    """
    indexes = {split: read_index(root, subset=subset, split=split) for split in SPLITS}
    num_classes = max(2, len(read_labels(root, subset=subset)))
    total, done = sum(map(len, indexes.values())), 0
    reports = {}
    for split, clips in indexes.items():
        report = SplitReport(num_listed=len(clips), usual_count=UNVERIFIED_COUNTS[subset][split])
        for files in clips:
            absent = [str(path.relative_to(root)) for path in missing_files(files)]
            report.missing += absent
            report.num_complete += not absent
            report.num_converted += files.log_mel.exists()
            done += 1
            if progress is not None:
                progress(done, total)
            if not absent and report.num_complete <= NUM_TRIED_CLIPS:
                report.faults += _try(files, num_classes=num_classes)
        reports[split] = report
    return reports


def missing_files(files: ClipFiles) -> list[Path]:
    """Return the missing files of a clip. Its sound may be a wav file, a published log-mel or a converted one."""
    pictures = [*files.frames, *(label_path(path) for path in files.labels if path is not None)]
    missing = [path for path in pictures if not path.is_file()]
    sounds = [path for path in (files.log_mel, files.pickled, files.wav) if path is not None]
    if not any(path.is_file() for path in sounds):
        missing.append(files.pickled or files.wav)
    return missing


def convert(root: Path, *, subset: Subset, progress: Progress | None = None) -> dict[str, Any]:
    """Write the log-mel examples of every clip as an .npy file beside their source.

    Published pickles are read without executing them; without one, the examples are computed from the wav file.
    Existing .npy files are kept.

    Returns:
        `num_from_pickle`, `num_from_wav`, `num_kept`, and `faults`: what could not be converted, and why.

    Raises:
        ValueError: the metadata cannot be read.
    """
    clips = [files for split in SPLITS for files in read_index(root, subset=subset, split=split)]
    counts = {"pickle": 0, "wav": 0, "kept": 0}
    faults: list[str] = []
    for done, files in enumerate(clips, start=1):
        try:
            counts[_convert_one(files)] += 1
        except (ValueError, OSError) as error:
            faults.append(str(error).replace(f"{root}/", ""))
        if progress is not None:
            progress(done, len(clips))
    return {
        "num_from_pickle": counts["pickle"],
        "num_from_wav": counts["wav"],
        "num_kept": counts["kept"],
        "faults": faults,
    }


def _convert_one(files: ClipFiles) -> str:
    if files.log_mel.is_file():
        return "kept"
    has_pickle = files.pickled is not None and files.pickled.is_file()
    if has_pickle and files.pickled is not None:
        examples = read_pickled_log_mel(files.pickled)
    else:
        examples = examples_of_wav(files)
    partial = files.log_mel.with_suffix(".partial.npy")
    partial.parent.mkdir(parents=True, exist_ok=True)
    np.save(partial, examples.numpy(), allow_pickle=False)
    partial.replace(files.log_mel)
    return "pickle" if has_pickle else "wav"


def _try(files: ClipFiles, *, num_classes: int) -> list[str]:
    """Read a complete clip with its sound, or its pickle if there is neither a converted log-mel nor a wav file."""
    try:
        if files.log_mel.is_file() or files.wav.is_file():
            read_clip(files, size_px=TRIED_SIZE_PX, num_classes=num_classes)
        elif files.pickled is not None:
            read_pickled_log_mel(files.pickled)
    except (ValueError, PickleError) as error:
        return [str(error)]
    return []
