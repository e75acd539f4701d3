"""States of a tracker of instances along an answer, so that a job can continue behind any of them."""

from __future__ import annotations

# Most states that are kept at once; beyond it every second one is dropped.
_MAX_STATES = 64


class TrackStates:
    """States that the work on an answer leaves behind, until its reader has stored the answer up to them.

    The work runs ahead of the reader. Only states up to what is stored are useful, so the reader takes the newest of
    those. Where there are too many, every second one is dropped: the next run then computes a little more again.

    Attributes:
        start: state that the work continues from; None for an answer of its own.
    """

    def __init__(self, start: bytes | None = None) -> None:
        self.start = start
        self._kept: list[tuple[float, bytes]] = []

    def keep(self, time_s: float, state: bytes) -> None:
        """Keep the state after the sample at `time_s`; times rise strictly."""
        if len(self._kept) >= _MAX_STATES:
            del self._kept[::2]
        self._kept.append((time_s, state))

    def take_until(self, time_s: float) -> bytes | None:
        """Return the newest state up to a time, None if there is none; older ones are dropped, too."""
        newest: bytes | None = None
        while self._kept and self._kept[0][0] <= time_s:
            newest = self._kept.pop(0)[1]
        return newest
