"""Masks of two labels on one object: which label the object has."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Final

from service.domain.result import FrameMasks, Mask

# The constants were chosen together with the defaults of the event options, see `service/domain/options.py`.
# A mask from this score on is never taken for a part of another label's object.
SURE_SCORE: Final = 0.7
# Two masks are parts of one object if this share of the smaller one's box lies in the other's box.
SPLIT_SHARE: Final = 0.6
# Time constant in seconds with which earlier frames count less.
MEMORY_S: Final = 5.0


class SplitObjects:
    """Chooses one label for an object whose pixels a model splits between two.

    A model that wavers between two kinds gives some pixels of an object to one and the rest to the other, and which
    part is larger changes from frame to frame. An object does not change its kind, so the label that has had more
    pixels so far, weighted by score and recency, keeps its mask, and the mask of the other one is not heard unless the
    model is sure of it. Holds one number per label.
    """

    def __init__(self) -> None:
        self._evidence: defaultdict[str, float] = defaultdict(float)
        self._last_s: float | None = None

    def heard(self, frame: FrameMasks) -> list[Mask]:
        """Return the masks of the next frame without those that lose their object to another label."""
        self._remember(frame)
        return [mask for mask in frame.masks if not any(self._loses(mask, other) for other in frame.masks)]

    def _remember(self, frame: FrameMasks) -> None:
        if self._last_s is not None:
            kept = math.exp((self._last_s - frame.sample_time_s) / MEMORY_S)
            for label in self._evidence:
                self._evidence[label] *= kept
        self._last_s = frame.sample_time_s
        for mask in frame.masks:
            self._evidence[mask.label] += mask.area * mask.score

    def _loses(self, mask: Mask, other: Mask) -> bool:
        if mask.label == other.label or mask.score >= SURE_SCORE:
            return False
        smaller, larger = sorted((mask, other), key=lambda each: each.area)
        is_weaker = (self._evidence[mask.label], other.label) < (self._evidence[other.label], mask.label)
        return is_weaker and _share_within(smaller, larger) >= SPLIT_SHARE


def _share_within(mask: Mask, other: Mask) -> float:
    """Return the share of a mask's box that lies in the box of another."""
    (x, y, width, height), (left, top, across, down) = mask.bbox, other.bbox
    shared_x = max(0, min(x + width, left + across) - max(x, left))
    shared_y = max(0, min(y + height, top + down) - max(y, top))
    return shared_x * shared_y / (width * height)
