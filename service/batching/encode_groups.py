"""Grouping of predicted slices for the encoder threads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from service.batching.arrays import SliceResult
from service.batching.sample_queue import SampleSlice
from service.domain.errors import ServiceError

# Samples that one encoder thread takes at once: enough to outweigh the hand-over, few enough to use all threads.
ENCODE_GROUP_SAMPLES = 8
EncodeInput = Sequence[tuple[SampleSlice, NDArray[np.float32]]]


def encode_groups(results: Sequence[SliceResult]) -> Iterator[EncodeInput]:
    """Yield groups of at most `ENCODE_GROUP_SAMPLES` samples; slices that failed or whose caller left are skipped."""
    group: list[tuple[SampleSlice, NDArray[np.float32]]] = []
    room = ENCODE_GROUP_SAMPLES
    for piece, logits in results:
        if isinstance(logits, ServiceError) or piece.pending.is_dropped:
            continue
        at = 0
        while at < len(piece):
            num = min(room, len(piece) - at)
            part = SampleSlice(piece.pending, piece.start + at, piece.start + at + num)
            group.append((part, logits[at : at + num]))
            at += num
            room -= num
            if not room:
                yield group
                group, room = [], ENCODE_GROUP_SAMPLES
    if group:
        yield group


def num_samples(group: EncodeInput) -> int:
    """Return the number of samples of a group."""
    return sum(len(piece) for piece, _ in group)
