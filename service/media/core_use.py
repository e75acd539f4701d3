"""The cores of this machine, and whether decoders keep them busy: decoders tell it, the batcher asks."""

from __future__ import annotations

import math
from collections.abc import Callable


class CoreUse:
    """Counts what is at work.

    Args:
        num_to_fill: pieces of work at once that keep all cores busy; by default none do.
        num_cores: cores of the machine; None: more than there could be work for.
    """

    def __init__(self, num_to_fill: float = math.inf, *, num_cores: int | None = None) -> None:
        self.num_cores = num_cores
        self._num_to_fill = num_to_fill
        self._num_working = 0
        self._on_room: list[Callable[[], object]] = []

    @property
    def is_full(self) -> bool:
        """Whether all cores are busy."""
        return self._num_working >= self._num_to_fill

    def on_room(self, call: Callable[[], object]) -> None:
        """Have `call` called each time that the cores are no longer all busy."""
        self._on_room.append(call)

    def begin(self) -> None:
        """Count a piece of work."""
        self._num_working += 1

    def end(self) -> None:
        """Count a piece of work out."""
        was_full = self.is_full
        self._num_working -= 1
        if was_full and not self.is_full:
            for call in self._on_room:
                call()
