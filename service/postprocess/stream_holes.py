"""Holes in a live stream: times without frames, as after a reconnect, that are much longer than its usual step."""

from __future__ import annotations

import statistics
from collections import deque
from typing import Final

# A step is a hole if it is longer than this many usual ones. Queues and slow devices let single steps grow to twice
# the usual one.
HOLE_STEPS: Final = 3.0
# Steps whose median is the usual one. A stream whose rate changes for good has a new usual step after half of them.
_REMEMBERED_STEPS: Final = 9
# Taken for the usual step until the first one has passed, in seconds: few streams are slower.
_FIRST_STEP_S: Final = 1.0


class StreamHoles:
    """Recognises holes by the timestamps of a stream's samples.

    Args:
        gap_s: a time without samples of up to this many seconds is no hole.
    """

    def __init__(self, gap_s: float) -> None:
        self._gap_s = gap_s
        self._steps_s: deque[float] = deque(maxlen=_REMEMBERED_STEPS)

    def is_hole(self, step_s: float) -> bool:
        """Take the next step, the seconds between two samples that follow each other."""
        usual_s = statistics.median(self._steps_s) if self._steps_s else _FIRST_STEP_S
        self._steps_s.append(step_s)
        return step_s > max(self._gap_s, HOLE_STEPS * usual_s) + 1e-9
