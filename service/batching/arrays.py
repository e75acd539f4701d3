"""The arrays of one device call: samples of many chunks joined, padded, and their results shared out again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.batching.sample_queue import SampleSlice
from service.domain.chunk import WINDOW_SAMPLES
from service.domain.errors import ServiceError

Frames = NDArray[np.uint8]
Floats = NDArray[np.float32]
SliceResult = tuple[SampleSlice, Floats | ServiceError]


def assemble(slices: Sequence[SampleSlice]) -> tuple[Frames, Floats]:
    """Return frames uint8 (n, h, w, 3) and audio windows float32 (n, 15600) of the slices, in order."""
    num = sum(map(len, slices))
    shape = slices[0].pending.chunk.samples.frames.shape[1:]
    frames = np.empty((num, *shape), np.uint8)
    windows = np.empty((num, WINDOW_SAMPLES), np.float32)
    at = 0
    for piece in slices:
        samples = piece.pending.chunk.samples
        frames[at : at + len(piece)] = samples.frames[piece.start : piece.stop]
        for offset in samples.offsets[piece.start : piece.stop]:
            windows[at] = samples.audio[offset : offset + WINDOW_SAMPLES]
            at += 1
    windows /= np.float32(32768.0)  # int16 full scale, as SampleBlock.windows
    return frames, windows


def pad(frames: Frames, windows: Floats, size: int) -> tuple[Frames, Floats]:
    """Return n samples padded to `size` with zeros."""
    missing = size - len(frames)
    if not missing:
        return frames, windows
    return (
        np.concatenate([frames, np.zeros((missing, *frames.shape[1:]), np.uint8)]),
        np.concatenate([windows, np.zeros((missing, WINDOW_SAMPLES), np.float32)]),
    )


def share_out(logits: Floats, slices: Sequence[SampleSlice]) -> list[SliceResult]:
    """Return each slice with its rows of the logits; rows that are not finite are an error."""
    results: list[SliceResult] = []
    start = 0
    for piece in slices:
        rows = logits[start : start + len(piece)]
        start += len(piece)
        results.append((piece, rows if np.isfinite(rows).all() else internal_error("The model gave no finite answer")))
    return results


def internal_error(text: str) -> ServiceError:
    """Return an `internal` error whose cause was logged."""
    return ServiceError("internal", f"{text}; the failure was logged under the request's id.")


def device_lost() -> ServiceError:
    """Return the error of everything that a dead or hung device was to answer."""
    return ServiceError("backend_down", "The compute device stopped answering; the service is restarting it.")
