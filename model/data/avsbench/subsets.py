"""The three subsets of AVSBench and their published sizes."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

SPLITS = ("train", "val", "test")


class Subset(StrEnum):
    """A subset of AVSBench: single source (S4), multiple sources (MS3), semantic (AVSS)."""

    S4 = "s4"
    MS3 = "ms3"
    AVSS = "avss"

    @property
    def is_semantic(self) -> bool:
        """Whether masks have a class. Only AVSS's do."""
        return self is Subset.AVSS


# Clips per split as usually stated. We could not check them on the files, so a difference is reported and no fault.
UNVERIFIED_COUNTS: Mapping[Subset, Mapping[str, int]] = {
    Subset.S4: {"train": 3452, "val": 740, "test": 740},
    Subset.MS3: {"train": 296, "val": 64, "test": 64},
    Subset.AVSS: {"train": 8498, "val": 1304, "test": 1554},
}
# Frames of each kind of AVSS clip: v1s and v1m come from S4 and MS3 (5 s), v2 is new (10 s).
AVSS_FRAMES: Mapping[str, int] = {"v1s": 5, "v1m": 5, "v2": 10}
NUM_SHORT_FRAMES = 5
# Length to which AVSBench's loaders pad AVSS clips.
AVSS_PADDED_FRAMES = 10
